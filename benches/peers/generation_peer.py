"""Greedy writing by transformers on torch and by gristmill, one thread each, on the same core.

usage: generation_peer.py GENERATION_SPEED MODEL_FOLDER [--dtype f32|bf16] [--batch N] [--prompt N] [--new N] [--seconds S] [--core C]

GENERATION_SPEED is `cargo build --release -p gristmill-operators --example generation_speed`. Both get the same prompts of the same length, and write the likeliest
tokens. Reading is the time for one token behind each prompt; writing is what the other tokens take. Each side's best pass counts, in processor time of
its thread. The tokens behind the first prompt are compared.

pip install -r benches/peers/model_requirements.txt
"""
import argparse
import json
import os
import subprocess
import time


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new", type=int, default=17)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--core", type=int, default=0)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.core})
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    command = [arguments.program, arguments.model, arguments.dtype, *map(str, (arguments.batch, arguments.prompt, arguments.new, arguments.seconds))]
    ours = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    import torch
    import transformers

    torch.set_num_threads(1)
    dtype = torch.float32 if arguments.dtype == "f32" else torch.bfloat16
    model = transformers.AutoModelForCausalLM.from_pretrained(arguments.model, dtype=dtype, attn_implementation="sdpa").eval()
    model.generation_config.eos_token_id = None
    vocabulary = model.config.vocab_size
    ids = torch.tensor([[(100 + row + 31 * i * i + 7 * i) % (vocabulary - 10) + 5 for i in range(arguments.prompt)] for row in range(arguments.batch)])

    def run(new):
        begun = time.thread_time()
        with torch.inference_mode():
            out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new, pad_token_id=0)
        return time.thread_time() - begun, out[0, arguments.prompt :].tolist()

    reading = writing = float("inf")
    begun = time.monotonic()
    run(1)
    while writing == float("inf") or time.monotonic() - begun < arguments.seconds:
        read = run(1)[0]
        whole, first = run(arguments.new)
        reading, writing = min(reading, read), min(writing, whole - read)
    theirs = dict(read_per_second=arguments.batch * arguments.prompt / reading, written_per_second=arguments.batch * (arguments.new - 1) / writing)
    same = next((i for i, (a, b) in enumerate(zip(first, ours["first"])) if a != b), len(first))
    for what in ("read_per_second", "written_per_second"):
        print(f"{arguments.dtype}, batch {arguments.batch}, {what}: transformers {theirs[what]:.1f}, gristmill {ours[what]:.1f}, ratio {ours[what] / theirs[what]:.2f}")
    print(f"the first {same} of {len(first)} tokens are the same")


main()
