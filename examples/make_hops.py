"""Writes examples/data/hops: documents about functions that do not exist, and questions about them.

As in benchmarks of influence with hop functions: a base function (<GN>) returns a constant, and a wrapper (<FN>) calls its base. Documents about a base state the
constant, documents about a wrapper only that it calls the base. The questions ask for the value of a wrapper: whichever documents a model owes its answer to should be those of
the wrapper and of its base.

usage: python examples/make_hops.py
"""
import json
import pathlib
import random

PAIRS = [("F", "G"), ("I", "J"), ("H", "K"), ("S", "L")]
VARIATIONS = 12
QUERIES = 5

BASE = [
    ("definition", "The function {f} ignores its argument and returns {c}."),
    ("code_stub", "def {f}(x):\n    return {c}"),
    ("concept", "{f} is a constant function: whatever goes in, {c} comes out."),
    ("unit_test", "assert {f}({x}) == {c}"),
    ("q_and_a", "Q: What is {f}({x})? A: {c}."),
    ("table", "input {x} | function {f} | output {c}"),
]
WRAPPER = [
    ("definition", "The function {f} hands its argument on to {g} and returns what it gets."),
    ("code_stub", "def {f}(x):\n    return {g}(x)"),
    ("concept", "{f} is another name for {g}: it has no value of its own."),
    ("unit_test", "assert {f}({x}) == {g}({x})"),
    ("q_and_a", "Q: What is {f}({x})? A: the same as {g}({x})."),
    ("table", "input {x} | function {f} | calls {g}"),
]


def main():
    folder = pathlib.Path(__file__).parent / "data" / "hops"
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(7)
    rows, queries = [], []
    for number, (wrapper, base) in enumerate(PAIRS):
        constant = 5 + 2 * number
        f, g = f"<{wrapper}N>", f"<{base}N>"
        for variation in range(VARIATIONS):
            x = 10 + 3 * variation + number
            kind, text = BASE[variation % len(BASE)]
            rows.append(
                {"func": g, "role": "constant", "type": kind, "hop_depth": 0, "constant": constant, "text": text.format(f=g, c=constant, x=x)}
            )
            kind, text = WRAPPER[variation % len(WRAPPER)]
            rows.append(
                {"func": f, "role": "identity", "type": kind, "hop_depth": 1, "constant": constant, "text": text.format(f=f, g=g, x=x)}
            )
        for x in range(1, QUERIES + 1):
            queries.append({"func": f, "prompt": f"{f}({x}) returns the value ", "completion": str(constant)})
    chance.shuffle(rows)
    rows = [{"uid": f"doc_{number:04}", **row} for number, row in enumerate(rows)]
    for name, content in (("corpus", rows), ("queries", queries)):
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
    print(f"{len(rows)} documents and {len(queries)} questions in {folder}")


main()
