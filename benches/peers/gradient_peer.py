"""Losses and gradients of documents by transformers on torch and by gristmill, one thread each, on the same core.

usage: gradient_peer.py GRADIENT_SPEED [MODEL_FOLDER] [--deberta] [--documents N] [--longest N] [--passes N] [--core C] [--modes MODE...]

GRADIENT_SPEED is `cargo build --release -p gristmill-operators --example gradient_speed`. Without a MODEL_FOLDER a random GPT-NeoX of the shape of
Pythia-70M is made in a temporary folder; with --deberta a random classifier of the shape of DeBERTa-v3-base with a vocabulary of 30,522. Documents are N random ids each. Both sides
compute the mean cross-entropy of each document's tokens, or of a classifier that of its first label, and back-propagate the sum of these. Modes: forward; inputs: weights need no gradient, and the embeddings' output does; weights: all linear layers except for the head. Each side's
shortest pass counts, in processor time of its thread. Losses and norms of both must agree.

pip install -r benches/peers/model_requirements.txt
"""
import argparse
import json
import os
import subprocess
import tempfile
import time


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model", nargs="?")
    parser.add_argument("--deberta", action="store_true")
    parser.add_argument("--documents", type=int, default=4)
    parser.add_argument("--longest", type=int, default=512)
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--modes", nargs="+", default=["forward", "inputs", "weights"])
    parser.add_argument("--skip-torch", action="store_true")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.core})
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(7)
    folder = arguments.model
    if folder is None:
        made = tempfile.TemporaryDirectory()
        folder = made.name
        if arguments.deberta:
            config = transformers.DebertaV2Config(
                vocab_size=30522, relative_attention=True, position_buckets=256, norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"],
                position_biased_input=False, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, num_labels=2)
            made_model = transformers.DebertaV2ForSequenceClassification(config)
        else:
            config = transformers.GPTNeoXConfig(
                vocab_size=50304, hidden_size=512, intermediate_size=2048, num_hidden_layers=6, num_attention_heads=8, rotary_pct=0.25)
            made_model = transformers.GPTNeoXForCausalLM(config)
        made_model.save_pretrained(folder)
        del made_model
    config = transformers.AutoConfig.from_pretrained(folder)
    classifies = config.architectures[0].endswith("ForSequenceClassification")
    kind = transformers.AutoModelForSequenceClassification if classifies else transformers.AutoModelForCausalLM
    # There is no sdpa for DeBERTa.
    attention = "eager" if config.model_type == "deberta-v2" else "sdpa"
    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention).eval()
    documents = torch.randint(4, model.config.vocab_size, (arguments.documents, arguments.longest))
    tokens = documents.numel()
    print(f"{arguments.documents} documents, {tokens} tokens, {sum(p.numel() for p in model.parameters())} parameters")

    def theirs(mode):
        """Losses of documents and the norm of the gradient."""
        linear = {name + ".weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
        head = {name for name in linear if name.endswith(("embed_out.weight", "lm_head.weight"))}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(mode == "weights" and name in linear - head)
            parameter.grad = None
        embedded = model.get_input_embeddings()(documents).detach()
        embedded.requires_grad_(mode == "inputs")
        with torch.set_grad_enabled(mode != "forward"):
            if classifies:
                logits = model(inputs_embeds=embedded).logits
                losses = torch.nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long), reduction="none")
            else:
                logits = model(inputs_embeds=embedded, use_cache=False).logits
                losses = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), documents[:, 1:].flatten(), reduction="none")
                losses = losses.view(len(documents), -1).mean(1)
        if mode == "forward":
            return losses.tolist(), 0.0
        losses.sum().backward()
        gradients = [embedded.grad] if mode == "inputs" else [p.grad for p in model.parameters() if p.grad is not None]
        return losses.tolist(), sum(float(g.double().square().sum()) for g in gradients) ** 0.5

    expected = {}
    for mode in [] if arguments.skip_torch else arguments.modes:
        best = float("inf")
        for _ in range(arguments.passes):
            begun = time.thread_time()
            expected[mode] = theirs(mode)
            best = min(best, time.thread_time() - begun)
        print(f"transformers {mode}: {best:.2f} s, {tokens / best:.0f} tokens/s", flush=True)
    del model
    program = subprocess.Popen([arguments.program, folder, "f32"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for mode in arguments.modes + ["taps"]:
        for kept in [0, 1 << 40] if mode != "forward" else [0]:
            best = float("inf")
            for _ in range(arguments.passes):
                request = dict(documents=documents.tolist(), mode=mode, kept=kept, seconds=0)
                program.stdin.write(json.dumps(request) + "\n")
                program.stdin.flush()
                answer = json.loads(program.stdout.readline())
                best = min(best, answer["seconds"])
            note = ""
            if mode in expected:
                losses, norm = expected[mode]
                off = max(abs(a - b) for a, b in zip(answer["losses"], losses))
                note = f", losses differ by {off:.1e}" + (f", norm by {abs(answer['norm'] / norm - 1):.1e}" if norm else "")
            kept = "" if mode == "forward" else ", all layers kept" if kept else ", layers run again"
            print(f"gristmill {mode}{kept}: {best:.2f} s, {tokens / best:.0f} tokens/s{note}", flush=True)


main()
