"""Hidden states of documents by transformers on torch and by gristmill, one thread each, on the same core.

usage: model_peer.py MODEL_SPEED MODEL_FOLDER IDS.parquet [--documents N] [--dtypes f32 bf16] [--batches N...] [--budgets N...] [--longest N] [--passes N] [--core C] [--attention sdpa|eager]

MODEL_SPEED is `cargo build --release -p gristmill-operators --example model_speed`. IDS.parquet has a column input_ids, or a column text that is
encoded with the tokenizer.json given as --tokenizer. transformers sorts the documents by length, pads each batch, and is tried with every size of batch
given; gristmill packs them, and is tried with every budget of tokens. Each side's best counts, in processor time of its thread. The mean of each document's
hidden states is compared: the smallest cosine of either side with transformers in f32 is printed.

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
    parser.add_argument("ids")
    parser.add_argument("--tokenizer")
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--dtypes", choices=["f32", "bf16"], nargs="+", default=["f32"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--budgets", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--longest", type=int, default=512)
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa", help="of transformers; some architectures have eager alone")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.core})
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import numpy
    import pyarrow.parquet
    import torch
    import transformers

    torch.set_num_threads(1)
    rows = pyarrow.parquet.read_table(arguments.ids).slice(0, arguments.documents).to_pydict()
    if "input_ids" in rows:
        documents = [list(ids)[: arguments.longest] for ids in rows["input_ids"]]
    else:
        import tokenizers

        tokenizer = tokenizers.Tokenizer.from_file(arguments.tokenizer)
        documents = [encoding.ids[: arguments.longest] for encoding in tokenizer.encode_batch(rows["text"])]
    tokens = sum(map(len, documents))
    lengths = sorted(map(len, documents))
    print(f"{len(documents)} documents, {tokens} tokens, {lengths[0]} to {lengths[-1]}, median {lengths[len(lengths) // 2]}")

    def means(model, batch_size):
        order = sorted(range(len(documents)), key=lambda index: -len(documents[index]))
        found = [None] * len(documents)
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                batch = order[start : start + batch_size]
                longest = max(len(documents[index]) for index in batch)
                ids = torch.zeros(len(batch), longest, dtype=torch.long)
                mask = torch.zeros_like(ids)
                for row, index in enumerate(batch):
                    ids[row, : len(documents[index])] = torch.tensor(documents[index])
                    mask[row, : len(documents[index])] = 1
                states = model(input_ids=ids, attention_mask=mask).last_hidden_state
                pooled = (states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
                for row, index in enumerate(batch):
                    found[index] = pooled[row].float().numpy()
        return numpy.array(found)

    def cosine(got, expected):
        return ((got * expected).sum(1) / numpy.linalg.norm(got, axis=1) / numpy.linalg.norm(expected, axis=1)).min()

    load = lambda dtype: transformers.AutoModel.from_pretrained(arguments.model, dtype=dtype, attn_implementation=arguments.attention).eval()
    exact = None
    for dtype in arguments.dtypes:
        model = load(torch.float32 if dtype == "f32" else torch.bfloat16)
        if exact is None:
            exact = means(model if dtype == "f32" else load(torch.float32), arguments.batches[0])
        theirs = float("inf")
        for batch_size in arguments.batches:
            found = means(model, batch_size)
            best = float("inf")
            for _ in range(arguments.passes):
                begun = time.thread_time()
                means(model, batch_size)
                best = min(best, time.thread_time() - begun)
            print(f"transformers {dtype}, {batch_size} a batch: {best:.3f} s, {tokens / best:.0f} tokens/s, smallest cosine {cosine(found, exact):.7f}", flush=True)
            theirs = min(theirs, best)
        del model
        command = [arguments.program, arguments.model, dtype]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as program:
            ours = float("inf")
            for budget in arguments.budgets:
                # As many passes as the other side had: one that is not counted, and those that are.
                best = float("inf")
                for _ in range(arguments.passes + 1):
                    program.stdin.write(json.dumps(dict(documents=documents, budget=budget, seconds=0, pool="mean")) + "\n")
                    program.stdin.flush()
                    answer = json.loads(program.stdout.readline())
                    best = min(best, answer["seconds"])
                got = numpy.array(answer["rows"], dtype=numpy.float32)
                print(f"gristmill {dtype}, {budget} tokens a batch: {best:.3f} s, {tokens / best:.0f} tokens/s, smallest cosine {cosine(got, exact):.7f}", flush=True)
                ours = min(ours, best)
            program.stdin.close()
        print(f"{dtype}: ratio {theirs / ours:.2f}")


main()
