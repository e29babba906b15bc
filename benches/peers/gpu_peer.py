"""Times PyTorch on an NVIDIA GPU on the shapes of `model_device time` and `model_device gradients`, beside the rate of a matrix product.

usage: gpu_peer.py [--seconds 3]

Needs torch and transformers. Weights are random, bf16; texts are of random ids, 16,384 tokens in a batch forward and 8,192 back, all of one length, so that
nothing is padded. Attention is PyTorch's own (sdpa). Losses of a language model are computed as transformers does, with logits of all tokens; backward passes
are those to the embeddings, without weights' gradients. A line of JSON for each measurement.
"""

import argparse
import json
import time

import torch
import transformers


def timed(run, seconds):
    """Mean seconds of a run, after two that do not count."""
    run()
    run()
    torch.cuda.synchronize()
    begun, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - begun < seconds:
        run()
        torch.cuda.synchronize()
        count += 1
    return (time.perf_counter() - begun) / count


def report(**fields):
    print(json.dumps(fields), flush=True)


def product(seconds, outputs, inputs, rows=16384):
    x = torch.randn(rows, inputs, device="cuda", dtype=torch.bfloat16)
    weights = torch.randn(outputs, inputs, device="cuda", dtype=torch.bfloat16)
    took = timed(lambda: torch.nn.functional.linear(x, weights), seconds)
    report(what="product", rows=rows, outputs=outputs, inputs=inputs, tflops=2e-12 * rows * outputs * inputs / took)


def model_of(config, kind):
    torch.manual_seed(0)
    config._attn_implementation = "sdpa"
    with torch.device("cuda"):
        model = kind.from_config(config, dtype=torch.bfloat16)
    return model.eval().requires_grad_(False)


def forward(name, config, kind, length, seconds, losses):
    model = model_of(config, kind)
    ids = torch.randint(5, 30000, (16384 // length, length), device="cuda")

    @torch.no_grad()
    def run():
        if losses:
            model(ids, labels=ids).loss
        else:
            model(ids).last_hidden_state.mean(1)

    took = timed(run, seconds)
    report(what="forward", model=name, length=length, tokens_per_second=ids.numel() / took)


def backward(name, config, seconds, length=1024):
    model = model_of(config, transformers.AutoModelForCausalLM)
    ids = torch.randint(5, 30000, (8192 // length, length), device="cuda")
    embed = model.get_input_embeddings()

    def run():
        inputs = embed(ids).detach().requires_grad_(True)
        loss = model(inputs_embeds=inputs, labels=ids).loss
        torch.autograd.grad(loss, inputs)

    took = timed(run, seconds)
    report(what="forward and back to embeddings", model=name, length=length, tokens_per_second=ids.numel() / took)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    seconds = parser.parse_args().seconds
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU")
    report(device=torch.cuda.get_device_name(), torch=torch.__version__, transformers=transformers.__version__)
    product(seconds, 8192, 2048)
    product(seconds, 3072, 768)
    product(seconds, 8192, 8192, rows=8192)
    bert = transformers.BertConfig()
    forward("BERT-base", bert, transformers.AutoModel, 512, seconds, losses=False)
    modernbert = transformers.ModernBertConfig(
        hidden_size=1024, intermediate_size=2624, num_hidden_layers=28, num_attention_heads=16
    )
    forward("ModernBERT-large", modernbert, transformers.AutoModel, 1024, seconds, losses=False)
    llama = transformers.LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
        head_dim=64, vocab_size=128256, max_position_embeddings=8192, tie_word_embeddings=True, rms_norm_eps=1e-5,
    )
    forward("Llama, 1.2 billion", llama, transformers.AutoModelForCausalLM, 2048, seconds, losses=True)
    backward("Llama, 1.2 billion", llama, seconds)
    neox = transformers.GPTNeoXConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, vocab_size=50304
    )
    backward("GPT-NeoX, 160 million", neox, seconds)


if __name__ == "__main__":
    main()
