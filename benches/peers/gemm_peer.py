"""y = x·Wᵀ by torch and by gristmill, one thread each, taking turns on the same core.

usage: gemm_peer.py GEMM_SPEED [--precision f32|bf16|both] [--turns N] [--seconds S] [--core C] [--only SUBSTRING] [--tokens N...] [--json FILE]

GEMM_SPEED is `cargo build --release -p gristmill-kernels --example gemm_speed`. For every shape the two take turns of S
seconds each; the shortest call of all turns counts, in processor time of its thread. torch is called as models call it, torch.nn.functional.linear, with f32 or
bf16 throughout; gristmill takes x and gives y in f32, and in bf16 has packed the weights in bf16. Weights and activations are
the same sizes, and both see warm memory.

pip install -r benches/peers/gemm_requirements.txt
"""
import argparse
import json
import os
import subprocess
import sys
import time

SHAPES = [(768, 768), (768, 3072), (3072, 768), (2048, 8192), (4096, 4096), (2048, 50304)]
TOKENS = [1, 8, 64, 512, 2048]


class Gristmill:
    def __init__(self, program):
        self.program = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def time(self, **request):
        self.program.stdin.write(json.dumps(request) + "\n")
        self.program.stdin.flush()
        return json.loads(self.program.stdout.readline())


def torch_time(torch, x, weights, seconds):
    shortest, turns, begun = float("inf"), 0, time.perf_counter()
    with torch.inference_mode():
        while turns < 1 or time.perf_counter() - begun < seconds:
            turn = time.thread_time()
            torch.nn.functional.linear(x, weights)
            shortest = min(shortest, time.thread_time() - turn)
            turns += 1
    return shortest


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--precision", choices=["f32", "bf16", "both"], default="f32")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--only", default="", help="only shapes whose name contains this, like '768x3072'")
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    parser.add_argument("--json", help="write the rows to this file as well")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.core})
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    gristmill = Gristmill(arguments.program)
    rows = []
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread; GFLOP/s and their ratio")
    print("| precision | in x out | tokens | torch | gristmill | ratio | engine |\n|---|---|---|---|---|---|---|", flush=True)
    for precision in ["f32", "bf16"] if arguments.precision == "both" else [arguments.precision]:
        dtype = torch.float32 if precision == "f32" else torch.bfloat16
        for inputs, outputs in SHAPES:
            weights = None
            for tokens in arguments.tokens:
                if arguments.only not in f"{inputs}x{outputs}":
                    continue
                if weights is None:
                    weights = torch.randn(outputs, inputs).to(dtype)
                x = torch.randn(tokens, inputs).to(dtype)
                request = dict(precision=precision, tokens=tokens, inputs=inputs, outputs=outputs, seconds=arguments.seconds)
                # A first turn each, which does not count: memory is taken and packed there.
                torch_time(torch, x, weights, 0)
                answer = gristmill.time(**{**request, "seconds": 0})
                theirs = ours = float("inf")
                for _ in range(arguments.turns):
                    theirs = min(theirs, torch_time(torch, x, weights, arguments.seconds))
                    ours = min(ours, gristmill.time(**request)["seconds"])
                work = 2 * tokens * inputs * outputs / 1e9
                row = dict(precision=precision, inputs=inputs, outputs=outputs, tokens=tokens, torch=work / theirs,
                           gristmill=work / ours, ratio=theirs / ours, engine=answer["engine"])
                rows.append(row)
                print(f"| {precision} | {inputs}x{outputs} | {tokens} | {row['torch']:.1f} | {row['gristmill']:.1f} "
                      f"| {row['ratio']:.2f} | {row['engine']} |", flush=True)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(dict(torch=torch.__version__, rows=rows), file, indent=1)


main()
