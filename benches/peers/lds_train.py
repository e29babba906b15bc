"""A tiny language model of real text, and what it becomes when it is trained on random halves of its training rows: the truth that influence scores
are measured against (linear datamodeling score, LDS: Park et al. 2023, https://arxiv.org/abs/2303.14186).

usage: lds_train.py CORPUS TOKENIZER OUT [--shape gpt-neox|llama] [--subsets N] [--checked N] ...

CORPUS is a folder of Parquet files with columns id, text, source, lang; TOKENIZER a tokenizer.json. Works are long English documents of several sources.
Each gives the same number of training rows, passages of at most 128 tokens, and some give one more passage as a query. A model is trained on passages of
other works (`base/`), and from there on all training rows (`model/`) and on random halves of them.

A seed is an order of all rows in each epoch, which a subset follows without the rows it lacks, so that two models differ by their rows only. The first
subsets, as many as --checked says, are trained with a second seed too: what two seeds agree on is the effect of the rows, and what they do not is noise, which bounds
the score that any method can get. The model on all rows has a second seed, too (`model-seed1/`).

OUT gets rows.jsonl and queries.jsonl (id, text, work, source), subsets.jsonl (subset, rows: positions in rows.jsonl from 0), outputs.jsonl (subset, query: the
query's id, output: the mean log-likelihood of its tokens), other_seed.jsonl (the same with the second seed), whole.jsonl (the same of base and of the models trained on all rows)
and report.json (settings, losses, noise). `gristmill analyze lds SCORES --subsets OUT/subsets.jsonl --outputs OUT/outputs.jsonl` reads them.

What was trained is kept in OUT/trained and not trained again, so that the program can be stopped. One thread; the same figures on each run on a machine.

pip install -r benches/peers/model_requirements.txt
"""
import argparse
import glob
import json
import os
import pathlib
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy
import pyarrow.parquet
import torch
import transformers
from tokenizers import Tokenizer

SOURCES = [
    "peps", "ethereum-eips", "swift-evolution", "kubernetes-keps", "rust-rfcs", "standardebooks", "state_union", "opentelemetry", "rustc-dev-guide",
    "rust-reference", "rust-book", "nodejs-org"]
LONGEST = 128
SHORTEST = 96


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("tokenizer")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--shape", choices=["gpt-neox", "llama"], default="gpt-neox")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--works", type=int, default=80)
    parser.add_argument("--passages", type=int, default=10, help="training rows of a work")
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--base-rows", type=int, default=5000)
    parser.add_argument("--base-epochs", type=int, default=2)
    parser.add_argument("--base-rate", type=float, default=3e-3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--subsets", type=int, default=50)
    parser.add_argument("--checked", type=int, default=6, help="subsets that a second seed is tried with")
    return parser.parse_args()


def passages(text, tokenizer):
    """Passages of at most LONGEST tokens each, cut at white space, that give the same tokens on their own."""
    # Starts of books and proposals are boilerplate.
    text = text[2000:]
    found = []
    position = 0
    while position < len(text) and len(found) < 64:
        window = text[position:position + 8 * LONGEST]
        encoded = tokenizer.encode(window, add_special_tokens=False)
        if len(encoded.ids) < SHORTEST:
            break
        end = encoded.offsets[min(LONGEST, len(encoded.ids)) - 1][1]
        end = max(window.rfind(" ", 0, end), window.rfind("\n", 0, end), 1)
        passage = window[:end].strip()
        position += end
        count = len(tokenizer.encode(passage, add_special_tokens=False).ids)
        letters = sum(character.isalpha() or character == " " for character in passage)
        if SHORTEST <= count <= LONGEST and letters > 0.8 * len(passage):
            found.append(passage)
    return found


def choose(options, tokenizer):
    """Training rows, queries, and rows for the base, none of them of the same passage, the base of other works."""
    documents = []
    for file in sorted(glob.glob(f"{options.corpus}/*.parquet")):
        documents += pyarrow.parquet.read_table(file, columns=["id", "text", "source", "lang"]).to_pylist()
    random = numpy.random.default_rng(20240229)
    by_source = {source: [] for source in SOURCES}
    for document in documents:
        if document["lang"] == "en" and document["source"] in by_source and len(document["text"]) > 8000:
            by_source[document["source"]].append(document)
    works = []
    # In turns, so that no source has all.
    for source in SOURCES:
        random.shuffle(by_source[source])
    for turn in range(max(map(len, by_source.values()))):
        works += [by_source[source][turn] for source in SOURCES if turn < len(by_source[source])]
    rows, queries, base, taken = [], [], [], 0
    for work in works:
        if taken >= options.works and len(base) >= options.base_rows:
            break
        found = passages(work["text"], tokenizer)
        make = lambda number: dict(id=f"{work['id']}#{number}", text=found[number], work=work["id"], source=work["source"])
        if taken < options.works and len(found) > options.passages:
            numbers = sorted(random.choice(len(found), options.passages + 1, replace=False).tolist())
            query = numbers.pop(int(random.integers(len(numbers))))
            rows += [make(number) for number in numbers]
            if taken < options.queries:
                queries.append(make(query))
            taken += 1
        elif taken >= options.works:
            base += [make(number) for number in range(len(found))]
    base = [base[number] for number in random.permutation(len(base))[:options.base_rows]]
    rows = [rows[number] for number in random.permutation(len(rows))]
    return rows, queries, base


def new_model(options, vocabulary):
    torch.manual_seed(1)
    common = dict(
        vocab_size=vocabulary, hidden_size=options.hidden, num_hidden_layers=options.layers, num_attention_heads=options.heads, max_position_embeddings=LONGEST,
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=0, initializer_range=0.02)
    if options.shape == "gpt-neox":
        config = transformers.GPTNeoXConfig(
            intermediate_size=4 * options.hidden, rotary_pct=0.25, attention_dropout=0.0, hidden_dropout=0.0, use_parallel_residual=True, **common)
        return transformers.GPTNeoXForCausalLM._from_config(config, attn_implementation="sdpa")
    config = transformers.LlamaConfig(intermediate_size=8 * options.hidden // 3 // 8 * 8, num_key_value_heads=options.heads, **common)
    return transformers.LlamaForCausalLM._from_config(config, attn_implementation="sdpa")


def losses(model, batch):
    """Mean cross-entropy of each document's tokens, which are padded with -1 on the right."""
    # What stands to the right of a token cannot change it, so that padding needs no mask.
    logits = model(input_ids=batch.clamp(min=0), use_cache=False).logits[:, :-1]
    wanted = batch[:, 1:]
    each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none", ignore_index=-1)
    return each.view(len(batch), -1).sum(1) / (wanted >= 0).sum(1)


def padded(rows):
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=-1)


def train(model, documents, chosen, seed, epochs, rate, batch):
    """AdamW on the mean of the documents' mean losses, the rate falling along a cosine after a warm-up of a twentieth of the steps."""
    chosen = set(chosen)
    random = numpy.random.default_rng(1000 + seed)
    order = [row for _ in range(epochs) for row in random.permutation(len(documents)).tolist() if row in chosen]
    steps = [order[start:start + batch] for start in range(0, len(order), batch)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    warm = max(1, len(steps) // 20)
    model.train()
    for number, step in enumerate(steps):
        share = min((number + 1) / warm, 0.5 * (1 + numpy.cos(numpy.pi * max(0, number - warm) / max(1, len(steps) - warm))))
        for group in optimizer.param_groups:
            group["lr"] = rate * float(share)
        losses(model, padded([documents[row] for row in step])).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def evaluate(model, documents):
    return [value for start in range(0, len(documents), 64) for value in losses(model, padded(documents[start:start + 64])).double().tolist()]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def save(model, folder, options):
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(pathlib.Path(options.tokenizer).read_bytes())


def noise(outputs):
    """Of outputs[seed, subset, query] of two seeds: the correlation of both over subsets for each query, and how far subsets and seeds move outputs."""
    each = [float(numpy.corrcoef(outputs[0, :, query], outputs[1, :, query])[0, 1]) for query in range(outputs.shape[2])]
    both = outputs - outputs.mean(axis=1, keepdims=True)
    pooled = float(numpy.corrcoef(both[0].ravel(), both[1].ravel())[0, 1])
    return dict(
        subsets=outputs.shape[1], mean_correlation=float(numpy.mean(each)), median_correlation=float(numpy.median(each)), lowest=min(each), highest=max(each),
        pooled_correlation=pooled, standard_deviation_over_subsets=float(outputs.std(axis=1, ddof=1).mean()),
        standard_deviation_over_seeds=float(numpy.sqrt(((both[0] - both[1]) ** 2).mean() / 2)))


def main():
    options = arguments()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    begun = time.process_time()
    tokenizer = Tokenizer.from_file(options.tokenizer)
    out, trained = options.out, options.out / "trained"
    trained.mkdir(parents=True, exist_ok=True)
    rows, queries, base_rows = choose(options, tokenizer)
    encode = lambda rows: [tokenizer.encode(row["text"], add_special_tokens=False).ids for row in rows]
    documents, asked, base_documents = encode(rows), encode(queries), encode(base_rows)
    tokens = sum(map(len, documents))
    print(f"{len(rows)} rows of {tokens} tokens, {len(queries)} queries, {len(base_rows)} rows for the base", flush=True)
    write_lines(out / "rows.jsonl", rows)
    write_lines(out / "queries.jsonl", queries)
    random = numpy.random.default_rng(2)
    subsets = [sorted(random.choice(len(rows), len(rows) // 2, replace=False).tolist()) for _ in range(options.subsets)]
    write_lines(out / "subsets.jsonl", [dict(subset=number, rows=subset) for number, subset in enumerate(subsets)])

    def say(name, outputs, since):
        print(f"{name}: loss of the queries {-numpy.mean(outputs):.4f}, {time.process_time() - since:.1f} s of the processor", flush=True)

    def outputs_of(model):
        return [-loss for loss in evaluate(model, asked)]

    base_folder = out / "base"
    if not (base_folder / "config.json").exists():
        since = time.process_time()
        model = new_model(options, tokenizer.get_vocab_size())
        train(model, base_documents, range(len(base_documents)), 0, options.base_epochs, options.base_rate, 2 * options.batch)
        say(f"base, {sum(p.numel() for p in model.parameters())} parameters", outputs_of(model), since)
        save(model, base_folder, options)

    def from_base():
        return transformers.AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32, attn_implementation="sdpa")

    def outputs_after(name, chosen, seed, folder=None):
        kept = trained / f"{name}-seed{seed}.json"
        if not kept.exists():
            since = time.process_time()
            model = train(from_base(), documents, chosen, seed, options.epochs, options.rate, options.batch)
            if folder is not None:
                save(model, folder, options)
            outputs = outputs_of(model)
            say(f"{name}, seed {seed}", outputs, since)
            part = kept.with_suffix(".part")
            part.write_text(json.dumps(outputs))
            part.rename(kept)
        return json.loads(kept.read_text())

    before = outputs_of(from_base())
    whole = [outputs_after("all", range(len(rows)), seed, out / ("model-seed1" if seed else "model")) for seed in (0, 1)]
    of = lambda outputs, **what: [dict(**what, query=query["id"], output=output) for query, output in zip(queries, outputs)]
    write_lines(out / "whole.jsonl", of(before, model="base") + of(whole[0], model="model") + of(whole[1], model="model-seed1"))
    again = [outputs_after(f"subset{number}", subset, 1) for number, subset in enumerate(subsets[:options.checked])]
    write_lines(out / "other_seed.jsonl", [line for number, outputs in enumerate(again) for line in of(outputs, subset=number)])
    table = [outputs_after(f"subset{number}", subset, 0) for number, subset in enumerate(subsets)]
    write_lines(out / "outputs.jsonl", [line for number, outputs in enumerate(table) for line in of(outputs, subset=number)])
    settings = {name: value for name, value in vars(options).items() if not isinstance(value, pathlib.Path) and name not in ("corpus", "tokenizer")}
    report = dict(
        settings=settings, rows=len(rows), tokens=tokens, queries=len(queries), loss_of_base=-float(numpy.mean(before)),
        loss_after_all_rows=-float(numpy.mean(whole)), loss_after_subsets=-float(numpy.mean(table)),
        noise=noise(numpy.array([table[:len(again)], again])) if len(again) > 1 else None, torch=torch.__version__, transformers=transformers.__version__)
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report), flush=True)
    print(f"{time.process_time() - begun:.0f} s of the processor in all", flush=True)


if __name__ == "__main__":
    main()
