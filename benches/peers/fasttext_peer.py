"""Best labels of documents by fastText's own program and by gristmill, one thread each, on the same core, with the same model.

usage: fasttext_peer.py FASTTEXT_SPEED MODEL TEXTS.parquet [--documents N] [--passes N] [--core C]

FASTTEXT_SPEED is `cargo build --release -p gristmill-operators --example fasttext_speed`. TEXTS.parquet has a column text; line breaks are given to fastText as
spaces, beforehand. With --make KIND the model is made first, of random buckets: `quality` has 2 labels, runs of two words and vectors of 100; `language` has 176 labels,
hierarchical softmax, character n-grams of 2 to 4 and vectors of 16; both have 2,000,000 buckets and are trained for one pass, so that all of the program's tables are
there. Both sides are asked for the best label, fastText text by text and all at once; the better of the two counts. Processor time of the thread; loading is left out.

pip install fasttext-wheel pyarrow
"""
import argparse
import json
import os
import random
import subprocess
import tempfile
import time

KINDS = {
    "quality": (dict(loss="softmax", dim=100, wordNgrams=2), 2),
    "language": (dict(loss="hs", dim=16, minn=2, maxn=4), 176),
}


def make(kind, path, texts):
    import fasttext

    settings, labels = KINDS[kind]
    chance = random.Random(1)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as corpus:
        for text in texts:
            corpus.write(f"__label__{chance.randrange(labels)} {text}\n")
        corpus.flush()
        fasttext.train_supervised(input=corpus.name, bucket=2_000_000, epoch=1, thread=1, verbose=0, **settings).save_model(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("texts")
    parser.add_argument("--make", choices=list(KINDS))
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--core", type=int, default=0)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.core})
    import fasttext
    import pyarrow.parquet

    texts = pyarrow.parquet.read_table(arguments.texts, columns=["text"])["text"].to_pylist()[: arguments.documents]
    texts = [text.replace("\n", " ") for text in texts]
    if arguments.make:
        make(arguments.make, arguments.model, texts)
    model = fasttext.load_model(arguments.model)
    size = sum(len(text.encode()) for text in texts) / 1e6
    lines = [text + "\n" for text in texts]
    each = lambda: [model.f.predict(line, 1, 0.0, "strict") for line in lines]
    together = lambda: list(zip(*model.f.multilinePredict(lines, 1, 0.0, "strict")))
    theirs = float("inf")
    for call in (each, together):
        for _ in range(arguments.passes):
            begun = time.thread_time()
            call()
            theirs = min(theirs, time.thread_time() - begun)
    expected = [(answer[0][1].removeprefix("__label__"), answer[0][0]) if answer else (None, None) for answer in each()]
    del model
    request = json.dumps({"texts": texts, "passes": arguments.passes})
    answer = json.loads(subprocess.run([arguments.program, arguments.model], input=request, capture_output=True, text=True, check=True).stdout)
    ours = answer["seconds"]
    apart = max(abs(a - b[1]) for a, b in zip(answer["probabilities"], expected) if a is not None)
    different = sum(a != b[0] for a, b in zip(answer["labels"], expected))
    print(f"{len(texts)} documents, {size:.1f} MB; labels that differ: {different}; probabilities at most {apart:.1e} apart")
    print(f"fastText {theirs:.3f} s, {len(texts) / theirs:.0f} documents/s; gristmill {ours:.3f} s, {len(texts) / ours:.0f} documents/s; ratio {theirs / ours:.2f}")


main()
