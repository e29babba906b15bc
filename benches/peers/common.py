"""What the peer scripts share: limits to one core, and reading back what a job wrote."""

import glob
import importlib.metadata
import json
import os
import pathlib

# Libraries read these when they are imported, so this module comes first in every script.
for name in ("RAYON_NUM_THREADS", "POLARS_MAX_THREADS", "OMP_NUM_THREADS", "ARROW_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"


def corpus_files(folder):
    files = sorted(glob.glob(f"{folder}/*.parquet"))
    if not files:
        raise SystemExit(f"no .parquet files in {folder}")
    return files


def text_bytes(files):
    """Bytes of all texts as UTF-8, the size that speeds are given in."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    return sum(pc.sum(pc.binary_length(pq.read_table(file, columns=["text"])["text"])).as_py() for file in files)


def output_files(folder):
    """Data files of an output folder in order: by the manifest where a gristmill run left one."""
    import pyarrow.parquet as pq

    manifest = pathlib.Path(folder) / "_run" / "manifest.parquet"
    if manifest.exists():
        rows = sorted(pq.read_table(manifest, columns=["split", "part"]).to_pylist(), key=lambda row: row["split"])
        return [str(pathlib.Path(folder) / row["part"]) for row in rows if row["part"] is not None]
    return sorted(glob.glob(f"{folder}/*.parquet"))


def read_column(file, *names):
    """The first of the named columns that a file has, also within a `metadata` structure, as a list."""
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    for name in names:
        if name in table.column_names:
            return table[name].to_pylist()
    if "metadata" in table.column_names:
        rows = table["metadata"].to_pylist()
        rows = [json.loads(row) if isinstance(row, str) else row for row in rows]
        for name in names:
            if rows and name in rows[0]:
                return [row[name] for row in rows]
    raise SystemExit(f"{file} has none of the columns {', '.join(names)}: {', '.join(table.column_names)}")


def versions(*packages):
    return {package: importlib.metadata.version(package) for package in packages}
