"""Projected gradients of bergson and of gristmill, module by module, of tiny random models on the processor.

usage: bergson_values.py GRADIENT_SPEED [--projection P]

GRADIENT_SPEED is `cargo build --release -p gristmill-operators --example gradient_speed`. For a GPT-NeoX, a Llama and a GPT-2 with random weights bergson collects the
gradients of documents of several lengths as its command `build` does, padded together, and gristmill makes the sketch with the signs of `bergson-2`. Prints for each model
the largest difference of a module of a document relative to the module's norm (or a thousandth of the document's, where that is more), and fails above 1e-5.

pip install -r benches/peers/model_requirements.txt bergson==2.5.1
"""
import argparse
import json
import os
import subprocess
import tempfile

LIMIT = 1e-5


def models(transformers):
    """Tiny models of three architectures."""
    neox = transformers.GPTNeoXConfig(vocab_size=211, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
    llama = transformers.LlamaConfig(
        vocab_size=211, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    gpt2 = transformers.GPT2Config(vocab_size=211, n_embd=48, n_layer=2, n_head=4, n_positions=128)
    yield "gpt_neox", transformers.GPTNeoXForCausalLM(neox)
    yield "llama", transformers.LlamaForCausalLM(llama)
    yield "gpt2", transformers.GPT2LMHeadModel(gpt2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--projection", type=int, default=8)
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    import numpy
    import torch
    import transformers
    from bergson.collection import collect_gradients
    from bergson.config.config import IndexConfig
    from bergson.data import load_gradients, load_module_gradients
    from bergson.utils.worker_utils import create_processor
    from datasets import Dataset

    torch.manual_seed(3)
    documents = [torch.randint(4, 211, (length,)).tolist() for length in [40, 7, 2, 23, 64, 5]]
    wrong = False
    for name, model in models(transformers):
        model = model.float().eval()
        # Biases and norms of a random model are zeros and ones, which would hide mistakes.
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(os.path.join(folder, "model"))
            for parameter in model.parameters():
                parameter.requires_grad_(False)
            model.get_input_embeddings().requires_grad_(True)
            config = IndexConfig(os.path.join(folder, "index"), projection_dim=arguments.projection)
            config.partial_run_path.mkdir(parents=True)
            data = Dataset.from_dict({"input_ids": documents, "length": [len(ids) for ids in documents]})
            batches = [[4, 0, 3], [1, 5, 2]]
            collect_gradients(model, data, create_processor(model, config), config, batches=batches)
            theirs = load_module_gradients(config.partial_run_path)
            modules = list(theirs)
            theirs = {module: numpy.array(theirs[module], dtype=numpy.float64) for module in modules}
            width = load_gradients(config.partial_run_path).shape[1] if not modules else sum(part.shape[1] for part in theirs.values())

            rows = os.path.join(folder, "rows")
            request = dict(documents=documents, mode="sketch", kept=0, seconds=0, p=arguments.projection, signs="bergson-2", sum=True, write=rows)
            program = [arguments.program, os.path.join(folder, "model"), "f32"]
            subprocess.run(program, input=json.dumps(request) + "\n", text=True, check=True, capture_output=True)
            ours = numpy.fromfile(rows, dtype=numpy.float32).astype(numpy.float64).reshape(len(documents), width)
        size = arguments.projection ** 2
        # What predicts the second token attends to the first alone, so that its queries and keys have gradients of 0: rounding, here and there.
        least = [1e-3 * numpy.sqrt(sum(numpy.square(theirs[module][document]).sum() for module in modules)) for document in range(len(documents))]
        worst = 0.0
        for number, module in enumerate(modules):
            for document in range(len(documents)):
                a, b = theirs[module][document], ours[document, number * size:(number + 1) * size]
                off = numpy.linalg.norm(a - b) / max(numpy.linalg.norm(a), least[document])
                worst = max(worst, off)
                if not off <= LIMIT:
                    wrong = True
                    print(f"{name} {module} document {document}: off by {off:.1e}")
        print(f"{name}: {len(modules)} modules from {modules[0]} to {modules[-1]}, {len(documents)} documents, off by {worst:.1e} at most", flush=True)
    raise SystemExit(1 if wrong else 0)


main()
