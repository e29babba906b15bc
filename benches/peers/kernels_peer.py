"""CPU twins of the kernels against torch, one thread each, taking turns on the same core.

usage: kernels_peer.py KERNEL_SPEED [--turns N] [--seconds S] [--core C] [--only SUBSTRING] [--bytes N] [--json FILE]

KERNEL_SPEED is `cargo build --release -p gristmill-kernels --example kernel_speed`. It names its problems, and for each that has
an entry in TORCH below, the two take turns of S seconds each; the shortest call of all turns counts, in processor time of its thread.
torch is called as models call it: eager, in f32, results in new memory; gradients by its own autograd, without the forward pass, whose
saved values (the statistics of norms) it has and gristmill computes again. Buffers are of 8 MiB, as activations are: of larger ones torch's
allocator gives the memory back to the system each time, and most of its time is the system's. Shapes are read from the names of the
problems, values are random on both sides.

pip install -r benches/peers/gemm_requirements.txt
"""
import argparse
import json
import os
import re
import subprocess
import time

# Problems without an entry are not compared: those of types that the twins do not know, and what torch has no function for.
TORCH = {}


def torch_form(family, pattern):
    """Registers what torch does for the problems of a family whose whole name the pattern matches; groups are sizes."""

    def register(function):
        TORCH.setdefault(family, []).append((re.compile(pattern), function))
        return function

    return register


def gradient(torch, output, inputs, upstream):
    """A call that computes the gradients of inputs, without the forward pass."""
    return lambda: torch.autograd.grad(output, inputs, upstream, retain_graph=True)


@torch_form("softmax", r"Softmax (forward|backward), (\d+) x (\d+) f32")
def softmax(torch, direction, rows, width):
    x = torch.randn(rows, width, requires_grad=direction == "backward")
    if direction == "backward":
        return gradient(torch, torch.softmax(x, -1), [x], torch.randn(rows, width))
    return lambda: torch.softmax(x, -1)


@torch_form("norms", r"(Rms|Layer) norm (forward|backward) with (?:weight|weight and bias), (\d+) x (\d+) f32")
def norms(torch, kind, direction, rows, width):
    functional = torch.nn.functional
    backward = direction == "backward"
    x = torch.randn(rows, width, requires_grad=backward)
    weight = torch.randn(width, requires_grad=backward)
    bias = torch.randn(width, requires_grad=backward)
    if kind == "Rms":
        call, inputs = lambda: functional.rms_norm(x, (width,), weight, 1e-6), [x, weight]
    else:
        call, inputs = lambda: functional.layer_norm(x, (width,), weight, bias, 1e-6), [x, weight, bias]
    return gradient(torch, call(), inputs, torch.randn(rows, width)) if backward else call


@torch_form("glu", r"(Silu|GeluErf|GeluTanh)( as a gate|) (forward|backward), (\d+) f32")
def glu(torch, activation, gate, direction, count):
    functional = torch.nn.functional
    backward = direction == "backward"
    x = torch.randn(count, requires_grad=backward)
    up = torch.randn(count, requires_grad=backward)
    activate = {
        "Silu": functional.silu,
        "GeluErf": functional.gelu,
        "GeluTanh": lambda values: functional.gelu(values, approximate="tanh"),
    }[activation]
    call = (lambda: activate(x) * up) if gate else (lambda: activate(x))
    return gradient(torch, call(), [x, up] if gate else [x], torch.randn(count)) if backward else call


@torch_form("pool", r"(Mean|Max) of (\d+) documents, (\d+) x (\d+) f32")
def pool(torch, kind, documents, rows, width):
    x = torch.randn(rows, width)
    lengths = torch.full((documents,), rows // documents)
    return lambda: torch.segment_reduce(x, kind.lower(), lengths=lengths)


@torch_form("pool", r"L2 normalise, (\d+) x (\d+) f32")
def normalise(torch, rows, width):
    x = torch.randn(rows, width)
    return lambda: torch.nn.functional.normalize(x, dim=-1)


@torch_form("rotary", r"Rotary (Halves|Neighbours) Forward, (\d+) x (\d+) x (\d+), \d+ turned, f32")
def rotary(torch, pairing, tokens, heads, width):
    x = torch.randn(tokens, heads, width)
    angles = torch.randn(tokens, 1, width)
    cos, sin = angles.cos(), angles.sin()
    if pairing == "Halves":
        return lambda: x * cos + torch.cat((-x[..., width // 2 :], x[..., : width // 2]), -1) * sin
    return lambda: x * cos + torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2) * sin


@torch_form("adamw", r"AdamW step \d+(, clipped|), (\d+) tensors of (\d+) elements, gradients f32")
def adamw(torch, clipped, tensors, elements):
    parameters = [torch.randn(elements // tensors, requires_grad=True) for _ in range(tensors)]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimiser = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1, fused=True)

    def step():
        if clipped:
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()

    return step


@torch_form(
    "attention",
    r"(forward|backward), (\d+) documents, (\d+) / (\d+) rows, (\d+) / (\d+) x (\d+) f32, (all|\d+) left, (all|\d+) right",
)
def attention(torch, direction, documents, rows, key_rows, heads, key_heads, width, left, right):
    backward = direction == "backward"
    queries, keys = rows // documents, key_rows // documents
    q = torch.randn(documents, heads, queries, width, requires_grad=backward)
    k = torch.randn(documents, key_heads, keys, width, requires_grad=backward)
    v = torch.randn(documents, key_heads, keys, width, requires_grad=backward)
    options = dict(enable_gqa=heads != key_heads)
    if left == "all" and right == 0 and queries == keys:
        options["is_causal"] = True
    elif left != "all":
        apart = torch.arange(keys)[None, :] - torch.arange(queries)[:, None] - (keys - queries)
        options["attn_mask"] = (apart >= -left) & (apart <= right)
    call = lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, **options)
    return gradient(torch, call(), [q, k, v], torch.randn(documents, heads, queries, width)) if backward else call


@torch_form("linear_ce", r"LinearCe (.*), (\d+) x (\d+) with (\d+) tokens f32")
def linear_ce(torch, what, rows, width, vocabulary):
    hidden = torch.randn(rows, width, requires_grad=what != "forward")
    head = (torch.randn(vocabulary, width) / width**0.5).requires_grad_(what == "backward")
    targets = torch.randint(vocabulary, (rows, 1))

    def forward():
        return -torch.log_softmax(hidden @ head.T, -1).gather(1, targets)

    if what == "forward":
        return forward
    if what == "forward and backward to hidden states":
        return lambda: torch.autograd.grad(forward().sum(), [hidden])
    return gradient(torch, forward(), [hidden] if "hidden" in what else [hidden, head], torch.ones(rows, 1))


@torch_form("topk", r"best (\d+) of (\d+) x (\d+) (f32|bf16|f16) for (\d+) queries f32")
def topk(torch, best, rows, width, dtype, queries):
    # Queries in the type of the rows, which torch needs.
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[dtype]
    index, queries = torch.randn(rows, width).to(dtype), torch.randn(queries, width).to(dtype)
    return lambda: torch.topk(queries @ index.T, min(best, rows))


@torch_form("outer", r"(\d+) modules (side by side|apart), (\d+) segments, (\d+) tokens, (\d+) x (\d+) f32")
def outer(torch, modules, layout, segments, tokens, p, q):
    length = tokens // segments
    if layout == "apart":
        a, b = torch.randn(modules * segments, length, p), torch.randn(modules * segments, length, q)
        return lambda: torch.bmm(a.transpose(1, 2), b)
    a, b = torch.randn(segments, length, modules, p), torch.randn(segments, length, modules, q)
    return lambda: torch.matmul(a.permute(0, 2, 3, 1), b.permute(0, 2, 1, 3))


@torch_form("signs", r"signs times ([0-9.]+), (\d+) x (\d+) from \(0, 0\) (f32|bf16)")
def signs(torch, scale, rows, columns, dtype):
    dtype, scale = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype], float(scale)
    values = torch.empty(rows, columns, dtype=dtype)
    return lambda: values.bernoulli_().mul_(2 * scale).sub_(scale)


def entry(family, label):
    for pattern, function in TORCH.get(family, []):
        found = pattern.fullmatch(label)
        if found:
            return function, [int(group) if group.isdigit() else group for group in found.groups("")]
    return None


def shortest_call(call, seconds):
    shortest, turns, begun = float("inf"), 0, time.perf_counter()
    while turns < 1 or time.perf_counter() - begun < seconds:
        turn = time.thread_time()
        call()
        shortest = min(shortest, time.thread_time() - turn)
        turns += 1
    return shortest


class Gristmill:
    def __init__(self, program, bytes_of_buffers):
        command = [program, str(bytes_of_buffers)]
        self.program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.problems = json.loads(self.program.stdout.readline())

    def time(self, problem, seconds):
        request = dict(family=problem["family"], index=problem["index"], seconds=seconds)
        self.program.stdin.write(json.dumps(request) + "\n")
        self.program.stdin.flush()
        return json.loads(self.program.stdout.readline())["seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--only", default="", help="only problems whose family or name contains this")
    parser.add_argument("--bytes", type=int, default=8 << 20, help="size of the largest buffers")
    parser.add_argument("--json", help="write the rows to this file as well")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.core})
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    gristmill = Gristmill(arguments.program, arguments.bytes)
    rows = []
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread; milliseconds and their ratio")
    print("| problem | torch | gristmill | ratio |\n|---|---|---|---|", flush=True)
    for problem in gristmill.problems:
        label = problem["label"]
        found = entry(problem["family"], label)
        if arguments.only not in problem["family"] + " " + label:
            continue
        if found is None:
            continue
        function, sizes = found
        call = function(torch, *sizes)
        # A first turn each, which does not count: memory is taken there.
        if gristmill.time(problem, 0) is None:
            continue
        shortest_call(call, 0)
        theirs = ours = float("inf")
        for _ in range(arguments.turns):
            theirs = min(theirs, shortest_call(call, arguments.seconds))
            ours = min(ours, gristmill.time(problem, arguments.seconds))
        del call
        rows.append(dict(family=problem["family"], problem=label, torch=theirs, gristmill=ours, ratio=theirs / ours))
        print(f"| {label} | {theirs * 1e3:.2f} | {ours * 1e3:.2f} | {theirs / ours:.2f} |", flush=True)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(dict(torch=torch.__version__, rows=rows), file, indent=1)


main()
