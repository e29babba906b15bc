"""Errors of logits in half precision and in four bits, of transformers and of gristmill, against transformers in float64.

usage: half_peer.py MODEL_SPEED FOLDER... [--nf4]

MODEL_SPEED is `cargo build --release -p gristmill-operators --example model_speed`. Each FOLDER has a model and reference.safetensors with input_ids and
attention_mask: the folders of tests/fixtures/models and of the reference data. Texts are run one by one. For each model the largest error of a logit is printed: in f32 and
bf16 of either side and the ratio of the two in bf16, and with --nf4 (which needs bitsandbytes) in NF4 with products in f32, double quantised, with the largest difference between
the two sides. The last columns are what share of positions has the same largest logit as float64, transformers' bf16 first.

pip install -r benches/peers/model_requirements.txt
"""
import argparse
import json
import logging
import os
import pathlib
import subprocess
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import numpy
import torch
import transformers
from safetensors.torch import load_file


def texts(folder):
    tensors = load_file(folder / "reference.safetensors")
    return [ids[mask == 1].tolist() for ids, mask in zip(tensors["input_ids"], tensors["attention_mask"])]


def theirs(folder, dtype, documents, **others):
    config = transformers.AutoConfig.from_pretrained(folder)
    classifies = config.architectures[0].endswith("ForSequenceClassification")
    kind = transformers.AutoModelForSequenceClassification if classifies else transformers.AutoModelForCausalLM
    model = kind.from_pretrained(folder, dtype=dtype, attn_implementation="eager", **others).eval()
    if classifies and model.config.pad_token_id is None:
        model.config.pad_token_id = 0
    with torch.inference_mode():
        rows = [model(input_ids=torch.tensor([ids])).logits.double().reshape(-1).numpy() for ids in documents]
    return numpy.concatenate(rows), model.config.num_labels if classifies else model.config.vocab_size, classifies


def ours(program, folder, precision, documents, classifies):
    request = dict(documents=documents, budget=1, seconds=0, pool="classify" if classifies else "logits")
    command = [program, str(folder), precision]
    done = subprocess.run(command, input=json.dumps(request) + "\n", stdout=subprocess.PIPE, text=True, check=True)
    return numpy.concatenate([numpy.array(row, dtype=numpy.float32).astype(numpy.float64) for row in json.loads(done.stdout)["rows"]])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    parser.add_argument("--nf4", action="store_true")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    print("| model | f32: transformers | gristmill | bf16: transformers | gristmill | ratio | same argmax |" + (" nf4: transformers | gristmill | between them |" if arguments.nf4 else ""))
    print("|---|---|---|---|---|---|---|" + ("---|---|---|" if arguments.nf4 else ""))
    for folder in arguments.folders:
        documents = texts(folder)
        exact, width, classifies = theirs(folder, torch.float64, documents)
        error = lambda values: numpy.abs(values - exact).max()
        agreement = lambda values: (values.reshape(-1, width).argmax(1) == exact.reshape(-1, width).argmax(1)).mean()
        half, own_half = theirs(folder, torch.bfloat16, documents)[0], ours(arguments.program, folder, "bf16", documents, classifies)
        single, own = theirs(folder, torch.float32, documents)[0], ours(arguments.program, folder, "f32", documents, classifies)
        row = f"| {folder.name} | {error(single):.1e} | {error(own):.1e} | {error(half):.4f} | {error(own_half):.4f} | {error(own_half) / error(half):.2f} | {agreement(half):.1%}, {agreement(own_half):.1%} |"
        if arguments.nf4:
            settings = transformers.BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32)
            four = theirs(folder, torch.float32, documents, quantization_config=settings, device_map="cpu")[0]
            own_four = ours(arguments.program, folder, "nf4", documents, classifies)
            row += f" {error(four):.4f} | {error(own_four):.4f} | {numpy.abs(four - own_four).max():.1e} |"
        print(row, flush=True)


main()
