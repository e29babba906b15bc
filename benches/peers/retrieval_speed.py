"""Scores of documents against queries by the terms that they share, by gristmill and by rank_bm25, bm25s and scikit-learn, on the same core.

usage: retrieval_speed.py RETRIEVAL_SPEED TEXTS.parquet [--queries N] [--documents N] [--passes N] [--core C] [--slow]

RETRIEVAL_SPEED is `cargo build --release -p gristmill-operators --example retrieval_speed`. TEXTS.parquet has a column text. The queries are the first 200
characters of documents spread over the file. Every program begins with texts in memory and ends with the score of every document for every query; the
times include splitting into terms, and are processor time of the process. Terms are words between white space; scikit-learn's are its own.
rank_bm25 looks at all documents for every term of every query, so it gets the first tenth of the queries and its time is given per query; --slow gives
it all. bm25s computes in f32 by another formula (`lucene`), so its scores are not compared.

pip install rank_bm25 bm25s scikit-learn pyarrow
"""
import argparse
import json
import os
import subprocess
import time

import common


def best(passes, call):
    shortest, value = float("inf"), None
    for _ in range(passes):
        begun = time.process_time()
        value = call()
        shortest = min(shortest, time.process_time() - begun)
    return shortest, value


def rank_bm25_scores(texts, queries):
    import rank_bm25

    index = rank_bm25.BM25Okapi([text.split() for text in texts])
    made = time.process_time()
    return [index.get_scores(query.split()) for query in queries], made


def bm25s_scores(texts, queries):
    import bm25s

    index = bm25s.BM25(method="lucene")
    index.index([text.split() for text in texts], show_progress=False)
    return [index.get_scores(query.split()) for query in queries]


def tfidf_scores(texts, queries):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics.pairwise import cosine_similarity

    vectorizer = TfidfVectorizer()
    documents = vectorizer.fit_transform(texts)
    return cosine_similarity(documents, vectorizer.transform(queries))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("texts")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--documents", type=int)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--slow", action="store_true")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.core})
    import numpy
    import pyarrow.parquet

    texts = pyarrow.parquet.read_table(arguments.texts, columns=["text"])["text"].to_pylist()[: arguments.documents]
    queries = [text[:200] for text in texts[:: len(texts) // arguments.queries]][: arguments.queries]
    print(f"{len(texts)} documents, {sum(len(text.encode()) for text in texts) / 1e6:.1f} MB, {len(queries)} queries; {common.versions('rank_bm25', 'bm25s', 'scikit-learn')}")

    def ours(method, terms):
        request = json.dumps({"texts": texts, "queries": queries, "method": method, "terms": terms, "passes": arguments.passes})
        answer = json.loads(subprocess.run([arguments.program], input=request, capture_output=True, text=True, check=True).stdout)
        parts = ", ".join(f"{part} {answer[part]:.3f}" for part in ("statistics", "index", "scores"))
        total = answer["statistics"] + answer["index"] + answer["scores"]
        print(f"gristmill {method}, {terms}: {total:.3f} s ({parts})")
        return total, numpy.array(answer["values"])

    def apart(found, expected):
        return float(numpy.max(numpy.abs(found - expected) / numpy.maximum(1, numpy.abs(expected))))

    bm25, values = ours("bm25", "whitespace")
    seconds, _ = best(arguments.passes, lambda: bm25s_scores(texts, queries))
    print(f"bm25s: {seconds:.3f} s, ratio {seconds / bm25:.2f}")
    some = queries if arguments.slow else queries[: max(1, len(queries) // 10)]
    begun = time.process_time()
    expected, made = rank_bm25_scores(texts, some)
    done = time.process_time()
    whole = (made - begun) + (done - made) * len(queries) / len(some)
    print(
        f"rank_bm25: index {made - begun:.3f} s, {(done - made) / len(some):.3f} s a query ({len(some)} of them), so {whole:.1f} s for all, ratio {whole / bm25:.0f}; "
        f"scores at most {apart(values[:, : len(some)], numpy.array(expected).T):.1e} apart"
    )
    tfidf, values = ours("tfidf", "words")
    seconds, expected = best(arguments.passes, lambda: tfidf_scores(texts, queries))
    print(f"scikit-learn tf-idf: {seconds:.3f} s, ratio {seconds / tfidf:.2f}; scores at most {apart(values, expected):.1e} apart")


main()
