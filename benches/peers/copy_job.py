"""Parquet to Parquet with nothing in between, on one core: what reading and writing alone cost.

    python copy_job.py PEER --corpus DIR --out DIR [--level 3]

PEER is duckdb, polars, pyarrow or datafusion. Each file becomes one file, zstd at the same level. Prints one JSON object;
counting the rows afterwards is not part of the measured time.
"""

import argparse
import json
import pathlib
import shutil
import time

import common


def run_duckdb(files, out, level):
    import duckdb

    connection = duckdb.connect(config={"threads": 1})
    for number, file in enumerate(files):
        connection.execute(
            f"COPY (SELECT * FROM read_parquet('{file}')) TO '{out}/{number:05}.parquet' "
            f"(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL {level})"
        )


def run_polars(files, out, level):
    import polars as pl

    for number, file in enumerate(files):
        target = f"{out}/{number:05}.parquet"
        pl.scan_parquet(file).sink_parquet(target, compression="zstd", compression_level=level)


def run_pyarrow(files, out, level):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_cpu_count(1)
    for number, file in enumerate(files):
        source = pq.ParquetFile(file)
        target = f"{out}/{number:05}.parquet"
        with pq.ParquetWriter(target, source.schema_arrow, compression="zstd", compression_level=level) as writer:
            for batch in source.iter_batches(batch_size=8192, use_threads=False):
                writer.write_batch(batch)


def run_datafusion(files, out, level):
    import datafusion

    context = datafusion.SessionContext(datafusion.SessionConfig().with_target_partitions(1))
    for number, file in enumerate(files):
        frame = context.read_parquet(file)
        frame.write_parquet(f"{out}/{number:05}.parquet", compression="zstd", compression_level=level)


PEERS = {"duckdb": run_duckdb, "polars": run_polars, "pyarrow": run_pyarrow, "datafusion": run_datafusion}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--out", required=True, help="is emptied first")
    parser.add_argument("--level", type=int, default=3, help="level of zstd")
    arguments = parser.parse_args()

    files = common.corpus_files(arguments.corpus)
    shutil.rmtree(arguments.out, ignore_errors=True)
    pathlib.Path(arguments.out).mkdir(parents=True)

    begin = time.perf_counter()
    PEERS[arguments.peer](files, arguments.out, arguments.level)
    seconds = time.perf_counter() - begin

    import pyarrow.parquet as pq

    written = sorted(pathlib.Path(arguments.out).rglob("*.parquet"))
    size = common.text_bytes(files)
    report = {
        "peer": arguments.peer,
        "versions": common.versions(arguments.peer),
        "seconds": round(seconds, 3),
        "megabytes_per_second": round(size / 1e6 / seconds, 2),
        "bytes": size,
        "bytes_written": sum(file.stat().st_size for file in written),
        "documents": sum(pq.ParquetFile(file).metadata.num_rows for file in written),
    }
    expected = sum(pq.ParquetFile(file).metadata.num_rows for file in files)
    print(json.dumps(report))
    if report["documents"] != expected:
        raise SystemExit(f"{report['documents']} of {expected} documents were written")


if __name__ == "__main__":
    main()
