"""What rank_bm25 and scikit-learn give for small corpora: the expected values of the tests of `operators/src/retrieval`.

usage: retrieval_values.py [--data FOLDER]

Writes operators/src/retrieval/testdata/table.json: texts made for this purpose, and every score of every query. With --data, the folder with
corpus/sample.jsonl and tokenizers/gpt2.json, it also writes sample.json: of the first 250 documents no text, but for each way to score the sum of every
document over the queries, the sum of every query over the documents, and the five best documents of each query. The queries are there the first
200 characters of documents 7, 32, 57, ….

pip install rank_bm25 scikit-learn tokenizers
"""
import argparse
import importlib.metadata
import json
import pathlib
import re

import numpy
import rank_bm25
import tokenizers
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity

ROOT = pathlib.Path(__file__).resolve().parents[2]
TESTDATA = ROOT / "operators/src/retrieval/testdata"
DOCUMENTS = [
    "The miller grinds wheat at the river, and the river turns the wheel.",
    "A miller's wheel turns when the river runs high.",
    "Wheat and barley, barley and oats: the mill takes all of it.",
    "",
    "  \n\t ",
    "the the the the the the the the",
    "Flour is sold by weight; the weight of a sack is 25 kg or 50 kg.",
    "F(5) returns the value 7. F(6) returns the value 7. F(x) is always 7.",
    "G(5) returns the value 11; G is a function that gives 11 for every number.",
    "H wraps G: what is H(3)? It returns 11, the value of G(3).",
    "Wind mills stand on hills, water mills stand by streams.",
    "Straße, Mühle, Müller: DIE MÜHLE AM BACH.",
    "ΌΣΟΣ Ο ΜΥΛΟΣ ΓΥΡΙΖΕΙ",
    "Мельник и река. Река крутит колесо, колесо крутит жернов.",
    "水车 在 河边 转动。 磨坊主 在 磨 面粉。",
    "पानी की चक्की नदी के किनारे",
    "wheel wheel wheel turns turns river",
    "A sack of flour, a sack of oats and a sack of bran were sold at the market by the miller on a Friday in May.",
    "river\u00a0wheel\u2003mill\x1cstone",
    "snake_case_names and CamelCaseNames are words of programs; so are x1, x2 and __init__.",
    "The value of flour is what the market pays.",
    "the river",
    "Nothing here is about grinding at all, but the words the, and, of and is are.",
    "number 5 returns; number 11 returns; number 7 returns to the mill",
]
QUERIES = [
    "F(5) returns the value",
    "G(3) returns the value",
    "H(9) returns the value",
    "the miller and the river and the wheel",
    "Die Mühle am Bach",
    "река крутит колесо",
    "unheard of",
    "sack sack sack of flour",
]
GROUPS = ["F", "G", "G", "corn", "corn", "corn", "F", "corn"]
LIMIT = 12


def spaces(text):
    return text.split()


def words(text):
    return re.findall(r"(?u)\b\w\w+\b", text.lower())


def tokens(path, limit):
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: [str(token) for token in tokenizer.encode(text, add_special_tokens=False).ids[:limit]]


def bm25(terms, documents, queries, **parameters):
    index = rank_bm25.BM25Okapi([terms(text) for text in documents], **parameters)
    return numpy.array([index.get_scores(terms(query)) for query in queries]).T


def token_frequency(terms, documents, queries):
    counts = CountVectorizer(analyzer=terms).fit_transform(documents + queries).toarray().astype(float)
    lengths = counts.sum(axis=1, keepdims=True)
    vectors = numpy.divide(counts, lengths, out=numpy.zeros_like(counts), where=lengths > 0)
    return cosine_similarity(vectors[: len(documents)], vectors[len(documents) :])


def tf_idf(documents, queries, fitted=None, **settings):
    vectorizer = TfidfVectorizer(**settings).fit(documents if fitted is None else fitted)
    return cosine_similarity(vectorizer.transform(documents), vectorizer.transform(queries))


def untied(documents, most):
    """The largest number of features up to `most` at which no two terms of the same frequency are on different sides."""
    frequencies = numpy.sort(numpy.asarray(CountVectorizer().fit_transform(documents).sum(axis=0)).ravel())[::-1]
    return max(count for count in range(1, most + 1) if frequencies[count - 1] > frequencies[count])


def scores(documents, queries, by_tokens, features):
    return {
        "bm25 whitespace": bm25(spaces, documents, queries),
        "bm25 words": bm25(words, documents, queries),
        "bm25 tokens": bm25(by_tokens, documents, queries),
        "bm25 parameters": bm25(words, documents, queries, k1=0.9, b=0.4, epsilon=0.1),
        "frequency words": token_frequency(words, documents, queries),
        "frequency tokens": token_frequency(by_tokens, documents, queries),
        "tfidf": tf_idf(documents, queries),
        "tfidf features": tf_idf(documents, queries, max_features=features),
        "tfidf both": tf_idf(documents, queries, fitted=documents + queries),
        "tfidf tokens": tf_idf(documents, queries, analyzer=by_tokens),
    }


def numbers(array):
    """Sixteen digits are enough for 1e-9 and short to store."""
    return [numbers(row) for row in array] if array.ndim > 1 else [float(f"{value:.13g}") for value in array]


def summary(array):
    # Equal scores can differ in their last digit here, so that documents are only in order where they are apart.
    order = numpy.argsort(-numpy.round(array, 11), axis=0, kind="stable")[:5].T
    return {
        "documents": numbers(array.sum(axis=1)),
        "queries": numbers(array.sum(axis=0)),
        "best": [[[int(row), float(f"{array[row, query]:.13g}")] for row in rows] for query, rows in enumerate(order)],
    }


def write(name, content):
    versions = {package: importlib.metadata.version(package) for package in ("rank_bm25", "scikit-learn", "tokenizers")}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in (content | {"made with": versions}).items())
    (TESTDATA / name).write_text("{" + lines + "}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path)
    arguments = parser.parse_args()
    tokenizer = ROOT / "tests/fixtures/tokenizers/tiny-bpe.json"
    features = untied(DOCUMENTS, 40)
    values = scores(DOCUMENTS, QUERIES, tokens(tokenizer, LIMIT), features)
    settings = {"tokenizer": tokenizer.name, "limit": LIMIT, "features": features}
    texts = {"documents": DOCUMENTS, "queries": QUERIES, "groups": GROUPS}
    write("table.json", settings | texts | {"scores": {name: numbers(array) for name, array in values.items()}})
    if arguments.data:
        with open(arguments.data / "corpus/sample.jsonl") as lines:
            documents = [json.loads(line)["text"] for line, _ in zip(lines, range(250))]
        queries = [document[:200] for document in documents[7::25]]
        features = untied(documents, 5000)
        values = scores(documents, queries, tokens(arguments.data / "tokenizers/gpt2.json", 512), features)
        write("sample.json", {"limit": 512, "features": features} | {"scores": {name: summary(array) for name, array in values.items()}})


main()
