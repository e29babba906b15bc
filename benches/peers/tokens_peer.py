"""Tokenizing speed of Python peers on the benchmark corpus, on one thread, and a check of gristmill's ids.

usage: tokens_peer.py DATA [--tokenizer NAME] [--shards N] [--ours FOLDER]

DATA is the folder with corpus/ and tokenizers/. Prints MB/s of gigatoken (first pass, later passes) and of the package
tokenizers, by wall clock and by CPU time. With --ours, a folder of <tokenizer>.parquet files as written by
`cargo run --release -p gristmill-operators --example corpus_tokens -- DATA FOLDER`, compares every list of ids with the
package tokenizers instead, and fails if one differs.

pip install gigatoken tokenizers pyarrow
"""
import argparse
import os
import pathlib
import sys
import time

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pyarrow.parquet as pq
import tokenizers


def corpus(data, shards):
    files = sorted((data / "corpus").glob("docs-*.parquet"))[:shards]
    return [text for file in files for text in pq.read_table(file, columns=["text"])["text"].to_pylist()]


def plain(path):
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def timed(label, size, encode):
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = encode()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{label:28} {tokens:>10} tokens {size / 1e6 / wall:8.1f} MB/s {size / 1e6 / cpu:8.1f} MB/s of CPU time")


def measure(path, texts):
    size = sum(len(text.encode()) for text in texts)
    print(f"{path.stem}: {len(texts)} texts, {size / 1e6:.1f} MB")
    try:
        import gigatoken

        tokenizer = gigatoken.Tokenizer(str(path))
    except Exception as error:
        print(f"gigatoken cannot be used with this tokenizer: {error}")
    else:
        import awkward

        for label in ("first pass", "second pass", "third pass"):
            encode = lambda: int(awkward.sum(awkward.num(tokenizer.encode_batch(texts, parallel=False))))
            timed(f"gigatoken, {label}", size, encode)
    tokenizer = plain(path)
    encode = lambda: sum(len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts)
    timed("tokenizers (Python)", size, encode)


def compare(folder, data):
    failed = False
    for file in sorted(folder.glob("*.parquet")):
        tokenizer = plain(data / "tokenizers" / f"{file.stem}.json")
        texts = iter(corpus(data, None))
        rows = differing = tokens = 0
        for batch in pq.ParquetFile(file).iter_batches(batch_size=256, columns=["ids"]):
            lists = batch["ids"].to_pylist()
            for ids, text in zip(lists, texts):
                differing += ids != tokenizer.encode(text, add_special_tokens=False).ids
                rows += 1
                tokens += len(ids)
        missing = sum(1 for _ in texts)
        print(f"{file.stem:28} {rows} texts, {tokens} tokens: {differing} differ, {missing} missing", flush=True)
        failed |= differing > 0 or missing > 0 or rows == 0
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--tokenizer", default="gpt-neox-olmo-dolma-v1_5")
    parser.add_argument("--shards", type=int)
    parser.add_argument("--ours", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.ours:
        sys.exit(compare(arguments.ours, arguments.data))
    measure(arguments.data / "tokenizers" / f"{arguments.tokenizer}.json", corpus(arguments.data, arguments.shards))


main()
