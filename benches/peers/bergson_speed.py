"""Tokens a second of bergson's `build` and of gristmill's sketch, one thread each, on the same core, model and documents.

usage: bergson_speed.py GRADIENT_SPEED MODEL_FOLDER [--documents N] [--longest N] [--projection P] [--token-batches N...] [--core C]

GRADIENT_SPEED is `cargo build --release -p gristmill-operators --example gradient_speed`. Documents are random ids. Of bergson two times are taken: that of its loop over
batches (gradients collected and written to its index) for each size of a batch, of which the best counts, and that of the whole: the same with loading the model and
imports, in a process of its own. Of gristmill the same two: a pass with rows written to a file, and its process from its start to the answer. Both sides project each
layer to P times P numbers and back-propagate the sum of each document's token losses. Processor time for loops, wall time for processes.

pip install -r benches/peers/model_requirements.txt bergson==2.5.1
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time


def collect(arguments, token_batch, folder):
    """Seconds of bergson's loop, in a process of its own."""
    import torch
    import transformers

    torch.set_num_threads(1)
    from bergson.collection import collect_gradients
    from bergson.config.config import IndexConfig
    from bergson.data import allocate_batches
    from bergson.utils.worker_utils import create_processor
    from datasets import Dataset

    with open(os.path.join(folder, "documents.json")) as file:
        documents = json.load(file)
    model = transformers.AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32, attn_implementation="sdpa").eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.get_input_embeddings().requires_grad_(True)
    config = IndexConfig(os.path.join(folder, f"index{token_batch}"), projection_dim=arguments.projection, token_batch_size=token_batch)
    config.partial_run_path.mkdir(parents=True)
    lengths = [len(ids) for ids in documents]
    data = Dataset.from_dict({"input_ids": documents, "length": lengths})
    begun = time.thread_time()
    collect_gradients(model, data, create_processor(model, config), config, batches=allocate_batches(lengths, token_batch))
    return time.thread_time() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--documents", type=int, default=4)
    parser.add_argument("--longest", type=int, default=512)
    parser.add_argument("--projection", type=int, default=16)
    parser.add_argument("--token-batches", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--collect", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.core})
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    if arguments.collect:
        token_batch, folder = arguments.collect
        print(json.dumps(collect(arguments, int(token_batch), folder)))
        return
    import random

    with open(os.path.join(arguments.model, "config.json")) as file:
        vocabulary = json.load(file)["vocab_size"]
    draw = random.Random(7)
    documents = [[draw.randrange(4, vocabulary) for _ in range(arguments.longest)] for _ in range(arguments.documents)]
    tokens = sum(map(len, documents))
    print(f"{len(documents)} documents, {tokens} tokens, p = {arguments.projection}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "documents.json"), "w") as file:
            json.dump(documents, file)
        for token_batch in arguments.token_batches:
            command = [sys.executable, __file__, arguments.program, arguments.model, "--projection", str(arguments.projection)]
            command += ["--core", str(arguments.core), "--collect", str(token_batch), folder]
            begun = time.time()
            loop = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.splitlines()[-1])
            whole = time.time() - begun
            print(f"bergson, batches of {token_batch} tokens: loop {loop:.2f} s, {tokens / loop:.0f} tokens/s; whole {whole:.2f} s, {tokens / whole:.0f} tokens/s", flush=True)
        for kept in [0, 1 << 28]:
            request = dict(documents=documents, mode="sketch", kept=kept, seconds=0, p=arguments.projection, sum=True, write=os.path.join(folder, "rows"))
            begun = time.time()
            answer = subprocess.run(
                [arguments.program, arguments.model, "f32"], input=json.dumps(request) + "\n", text=True, check=True, stdout=subprocess.PIPE)
            whole = time.time() - begun
            loop = json.loads(answer.stdout)["seconds"]
            print(f"gristmill, {kept >> 20} MiB kept: pass {loop:.2f} s, {tokens / loop:.0f} tokens/s; whole {whole:.2f} s, {tokens / whole:.0f} tokens/s", flush=True)


main()
