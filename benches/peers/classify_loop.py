"""What the dataflow around a classifier costs: `classify` in a pipeline file against the model alone, called in a loop on the same texts.

usage: classify_loop.py GRISTMILL MODEL_SPEED CLASSIFIER CORPUS.parquet [--rows N] [--context N] [--turns N] [--core C]

GRISTMILL is the program, MODEL_SPEED `cargo build --release -p gristmill-operators --example model_speed`, CLASSIFIER a folder of a classifier with its
tokenizer.json. The pipeline reads the first rows of CORPUS, tokenises, cuts windows, scores them, and writes Parquet: its processor time is that of the whole
process, start and loading of the model included. The loop has the windows as token ids already, sorted by length, in batches of 2,048 tokens; only its passes are timed.
Both on one core, in turns. Scores are compared: the largest difference is printed.

pip install -r benches/peers/model_requirements.txt
"""
import argparse
import json
import os
import resource
import subprocess
import tempfile


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gristmill")
    parser.add_argument("loop")
    parser.add_argument("classifier")
    parser.add_argument("corpus")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--core", type=int, default=0)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.core})
    import numpy
    import pyarrow.parquet
    import tokenizers

    texts = pyarrow.parquet.read_table(arguments.corpus, columns=["text"]).slice(0, arguments.rows)["text"].to_pylist()
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(arguments.classifier, "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    around = tokenizer.encode("").ids
    first, last = around[:1], around[1:]
    windows, owners = [], []
    for row, text in enumerate(texts):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        content = arguments.context - len(around)
        for start in range(0, max(len(ids), 1), content):
            windows.append(first + ids[start : start + content] + last)
            owners.append(row)
    tokens = sum(map(len, windows))
    print(f"{len(texts)} documents, {len(windows)} windows, {tokens} tokens")

    folder = tempfile.mkdtemp()
    pipeline = os.path.join(folder, "classify.yaml")
    with open(pipeline, "w") as file:
        file.write(
            f"source: {{path: {os.path.abspath(arguments.corpus)}, limit: {arguments.rows}}}\n"
            f"steps:\n  - classify: {{model: {os.path.abspath(arguments.classifier)}, context_length: {arguments.context}}}\n"
            f"sink: {{parquet: {{path: {folder}/out}}}}\n"
        )
    loop = subprocess.Popen([arguments.loop, arguments.classifier, "f32"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    request = json.dumps(dict(documents=windows, budget=2048, seconds=0, pool="classify")) + "\n"
    ratios = []
    for turn in range(arguments.turns):
        loop.stdin.write(request)
        loop.stdin.flush()
        answer = json.loads(loop.stdout.readline())
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        out = subprocess.run([arguments.gristmill, "run", pipeline, "--workers", "1", "--quiet", "--fresh"])
        assert out.returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        whole = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        ratios.append(answer["seconds"] / whole)
        print(f"loop {answer['seconds']:.2f} s, {tokens / answer['seconds']:.0f} tokens/s; pipeline {whole:.2f} s, {tokens / whole:.0f} tokens/s; ratio {ratios[-1]:.3f}", flush=True)
    print(f"median ratio {sorted(ratios)[len(ratios) // 2]:.3f}; largest resident set {after.ru_maxrss / 1024:.0f} MiB")

    logits = numpy.array(answer["rows"], dtype=numpy.float64)
    scores = numpy.exp(logits - logits.max(1, keepdims=True))
    scores = (scores / scores.sum(1, keepdims=True))[:, -1]
    highest = [max(score for score, owner in zip(scores, owners) if owner == row) for row in range(len(texts))]
    manifest = pyarrow.parquet.read_table(os.path.join(folder, "out", "_run", "manifest.parquet")).sort_by("split").to_pylist()
    got = []
    for row in manifest:
        if row["part"]:
            metadata = pyarrow.parquet.read_table(os.path.join(folder, "out", row["part"]))["classify_metadata"].to_pylist()
            got += [value["highest_score"] for value in metadata]
    assert len(got) == len(highest)
    print(f"largest difference of a score {max(abs(a - b) for a, b in zip(got, highest)):.2e}")


main()
