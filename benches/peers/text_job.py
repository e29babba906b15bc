"""One job, several peers, one core: for each document of a Parquet corpus, whether it contains at least two distinct
terms of a list (substrings, ASCII letters compared in lower case), how many tokens it has, and all of it as Parquet.

    python text_job.py PEER --corpus DIR --terms FILE --tokenizer tokenizer.json --out DIR [--verify DIR]

PEER is one of
  polars     polars for the terms (Aho-Corasick), gigatoken for the tokens
  naive      a Python loop over pyarrow columns, `in` for the terms, tokenizers for the tokens
  datatrove  datatrove's reader, a LambdaFilter, its TokensCounter and its writer

Prints one JSON object. Reading the output back, for counts and for --verify (which compares verdict and token count
of every document with another output folder, such as that of a gristmill run), is not part of the measured time.
"""

import argparse
import csv
import json
import pathlib
import shutil
import time

import common


def load_terms(path):
    """Lower-cased distinct terms of a text file (one a line) or a CSV file with a column `keyword`."""
    with open(path, encoding="utf-8", newline="") as file:
        terms = [row["keyword"] for row in csv.DictReader(file)] if path.endswith(".csv") else file.read().splitlines()
    return sorted({term.strip().encode().lower().decode() for term in terms if term.strip()})


def run_polars(files, terms, tokenizer, out):
    import gigatoken
    import polars as pl

    tokens = gigatoken.Tokenizer(tokenizer)
    found = pl.col("text").str.extract_many(terms, ascii_case_insensitive=True, overlapping=True)
    distinct = found.list.eval(pl.element().str.to_lowercase()).list.n_unique()
    for number, file in enumerate(files):
        table = pl.read_parquet(file).with_columns((distinct >= 2).alias("word_filter"))
        counts = [len(ids) for ids in tokens.encode_batch(table["text"].to_list())]
        table = table.with_columns(pl.Series("tokens", counts))
        table.write_parquet(f"{out}/{number:05}.parquet", compression="zstd", compression_level=3)


def contains_two(text, terms):
    found = 0
    for term in terms:
        if term in text:
            found += 1
            if found == 2:
                return True
    return False


def run_naive(files, terms, tokenizer, out):
    import pyarrow as pa
    import pyarrow.parquet as pq
    import tokenizers

    pa.set_cpu_count(1)
    tokens = tokenizers.Tokenizer.from_file(tokenizer)
    # bytes.lower changes ASCII letters only.
    terms = [term.encode() for term in terms]
    for number, file in enumerate(files):
        table = pq.read_table(file, use_threads=False)
        verdicts, counts = [], []
        for text in table["text"].to_pylist():
            verdicts.append(contains_two(text.encode().lower(), terms))
            counts.append(len(tokens.encode(text, add_special_tokens=False).ids))
        table = table.append_column("word_filter", pa.array(verdicts)).append_column("tokens", pa.array(counts))
        pq.write_table(table, f"{out}/{number:05}.parquet", compression="zstd", compression_level=3)


def run_datatrove(files, terms, tokenizer, out):
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.filters import LambdaFilter
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.tokens import TokensCounter
    from datatrove.pipeline.writers import ParquetWriter

    terms = [term.encode() for term in terms]

    def mark(document):
        document.metadata["word_filter"] = contains_two(document.text.encode().lower(), terms)
        return True

    folder = pathlib.Path(files[0]).parent
    steps = [
        ParquetReader(str(folder), glob_pattern="*.parquet"),
        LambdaFilter(mark),
        TokensCounter(tokenizer),
        ParquetWriter(out, compression="zstd"),
    ]
    LocalPipelineExecutor(steps, tasks=1, workers=1, logging_dir=f"{out}/logs").run()


PEERS = {
    "polars": (run_polars, ("polars", "gigatoken")),
    "naive": (run_naive, ("pyarrow", "tokenizers")),
    "datatrove": (run_datatrove, ("datatrove", "tokenizers")),
}


def results(folder):
    """(verdict, tokens) by document id."""
    rows = {}
    for file in common.output_files(folder):
        ids = common.read_column(file, "id")
        verdicts = common.read_column(file, "word_filter")
        counts = common.read_column(file, "tokens", "token_count")
        rows.update(zip(ids, zip(verdicts, counts)))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--terms", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--out", required=True, help="is emptied first")
    parser.add_argument("--verify", help="an output folder whose verdicts and counts must be the same")
    arguments = parser.parse_args()

    run, packages = PEERS[arguments.peer]
    files = common.corpus_files(arguments.corpus)
    terms = load_terms(arguments.terms)
    shutil.rmtree(arguments.out, ignore_errors=True)
    pathlib.Path(arguments.out).mkdir(parents=True)

    begin = time.perf_counter()
    run(files, terms, arguments.tokenizer, arguments.out)
    seconds = time.perf_counter() - begin

    size = common.text_bytes(files)
    rows = results(arguments.out)
    report = {
        "peer": arguments.peer,
        "versions": common.versions(*packages),
        "seconds": round(seconds, 3),
        "megabytes_per_second": round(size / 1e6 / seconds, 2),
        "bytes": size,
        "documents": len(rows),
        "flagged": sum(verdict for verdict, _ in rows.values()),
        "tokens": sum(count for _, count in rows.values()),
    }
    if arguments.verify:
        other = results(arguments.verify)
        differing = sorted(id for id in rows.keys() | other.keys() if rows.get(id) != other.get(id))
        report["differing"] = len(differing)
        report["examples"] = {id: [rows.get(id), other.get(id)] for id in differing[:5]}
    print(json.dumps(report))
    if report.get("differing"):
        raise SystemExit(f"{report['differing']} documents differ from {arguments.verify}")


if __name__ == "__main__":
    main()
