"""Runs gristmill and its peers in turns and prints a table of medians.

    python compare.py text --gristmill target/release/gristmill --corpus DIR --terms FILE --tokenizer tokenizer.json
    python compare.py copy --gristmill target/release/gristmill --corpus DIR

All programs are pinned to one core (Linux) and run one after another, --runs times, in an order that turns, so that a
slow minute of the machine meets each of them. Seconds are of the whole process, start included; processor seconds and
peak memory are what the kernel says of the process and its children.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import common

HERE = pathlib.Path(__file__).parent

PIPELINES = {
    "text": """\
name: compare-text
source: {{path: {corpus}}}
steps:
  - blocklist: {{name: word_filter, terms: {terms}, min_distinct: 2}}
  - count_tokens: {{name: tokens, tokenizer: {tokenizer}}}
sink:
  parquet: {{path: {out}, level: 3}}
""",
    "copy": """\
name: compare-copy
source: {{path: {corpus}}}
sink:
  parquet: {{path: {out}, level: 3}}
""",
}

PEERS = {"text": ["polars", "naive", "datatrove"], "copy": ["duckdb", "polars", "pyarrow", "datafusion"]}


def gristmill_command(arguments, folder):
    out = folder / "gristmill"
    pipeline = folder / "pipeline.yaml"
    values = {name: json.dumps(str(value)) for name, value in vars(arguments).items()}
    values["corpus"] = json.dumps(str(pathlib.Path(arguments.corpus).resolve() / "*.parquet"))
    pipeline.write_text(PIPELINES[arguments.job].format(**{**values, "out": json.dumps(str(out))}))
    # Each run begins anew: a finished run would otherwise have nothing left to do.
    return ["sh", "-c", 'rm -rf "$1"; exec "$2" run "$3"', "sh", str(out), arguments.gristmill, str(pipeline)]


def peer_command(arguments, peer, folder):
    command = [sys.executable, str(HERE / f"{arguments.job}_job.py"), peer]
    command += ["--corpus", arguments.corpus, "--out", str(folder / peer)]
    if arguments.job == "text":
        command += ["--terms", arguments.terms, "--tokenizer", arguments.tokenizer]
        if arguments.gristmill:
            command += ["--verify", str(folder / "gristmill")]
    return command


def measure(command, core):
    """Seconds, processor seconds and peak memory in MiB of a command, and what it printed last."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=lambda: os.sched_setaffinity(0, {core})
    )
    with tempfile.TemporaryFile() as errors:
        output = process.stdout.read()
        errors.write(process.stderr.read())
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{errors.read().decode()}")
    lines = output.decode().strip().splitlines()
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, lines[-1] if lines else ""


def job_seconds(name, last_line, process_seconds):
    """Peers say how long the job itself took, without loading libraries or checking results."""
    return process_seconds if name == "gristmill" else json.loads(last_line)["seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=PIPELINES)
    parser.add_argument("--gristmill", help="the program; without it only the peers run")
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--terms", default="")
    parser.add_argument("--tokenizer", default="")
    parser.add_argument("--peers", nargs="*", help="some of them only")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--scratch", help="folder for outputs, by default a temporary one")
    arguments = parser.parse_args()

    peers = arguments.peers if arguments.peers is not None else PEERS[arguments.job]
    size = common.text_bytes(common.corpus_files(arguments.corpus))
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        folder = pathlib.Path(folder)
        commands = {}
        if arguments.gristmill:
            commands["gristmill"] = gristmill_command(arguments, folder)
        commands.update({peer: peer_command(arguments, peer, folder) for peer in peers})
        samples = {name: [] for name in commands}
        for turn in range(arguments.runs):
            # The first turn is in order, because peers are verified against gristmill's output.
            names = list(commands)
            names = names[turn % len(names) :] + names[: turn % len(names)]
            for name in names:
                seconds, processor, memory, last_line = measure(commands[name], arguments.core)
                samples[name].append((job_seconds(name, last_line, seconds), processor, memory))
                print(f"{turn + 1}/{arguments.runs} {name}: {samples[name][-1][0]:.2f} s", file=sys.stderr)

    medians = {name: [statistics.median(column) for column in zip(*rows)] for name, rows in samples.items()}
    base = medians["gristmill" if arguments.gristmill else peers[0]][0]
    print(f"{size / 1e6:.1f} MB of text, {arguments.runs} runs each, medians, one core\n")
    print("| program | seconds (least to most) | MB/s | processor seconds | peak MiB | times as long |")
    print("|---|---|---|---|---|---|")
    for name, (seconds, processor, memory) in sorted(medians.items(), key=lambda item: item[1][0]):
        times = [row[0] for row in samples[name]]
        spread = f"{seconds:.2f} ({min(times):.2f} to {max(times):.2f})"
        print(f"| {name} | {spread} | {size / 1e6 / seconds:.1f} | {processor:.2f} | {memory:.0f} | {seconds / base:.2f} |")


if __name__ == "__main__":
    main()
