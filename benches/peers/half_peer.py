"""Errors of logits in half precision and in four bits, of transformers and of gristmill, against transformers in float64.

usage: half_peer.py MODEL_SPEED [FOLDER...] [--random NAME...] [--seed N] [--f16] [--nf4]

MODEL_SPEED is `cargo build --release -p gristmill-operators --example model_speed`. Each FOLDER has a model and reference.safetensors with input_ids and
attention_mask: the folders of tests/fixtures/models and of the reference data. With --random, small random classifiers are made of the architectures that are
not among these (all of them without a NAME), and random texts for them. Texts are run one by one. For each model the largest error of a logit is printed: in f32 and
bf16 of either side and the ratio of the two in bf16; with --f16 the same of a model whose weights are stored in f16, which transformers computes in f16 and gristmill, on
the CPU, in f32; and with --nf4 (which needs bitsandbytes) in NF4 with products in f32, double quantised, with the largest difference between
the two sides: once as it is, once with the codes of scales replaced by the nearest ones, as bitsandbytes' reference operators have them (its CPU library finds them through a table that
can miss by one). What share of positions has the same largest logit as float64 is given for transformers' bf16 first.

pip install -r benches/peers/model_requirements.txt
"""
import argparse
import json
import logging
import os
import pathlib
import shutil
import subprocess
import tempfile
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import numpy
import torch
import transformers
from safetensors.torch import load_file, save_file

SMALL = dict(vocab_size=512, hidden_size=64, intermediate_size=172, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=130, num_labels=3)
RELATIVE = dict(relative_attention=True, pos_att_type=["p2c", "c2p"])
V3 = dict(**RELATIVE, position_biased_input=False, norm_rel_ebd="layer_norm", share_att_key=True, position_buckets=32, max_relative_positions=128)
RANDOM = {
    "xlm-roberta": transformers.XLMRobertaConfig(**SMALL, pad_token_id=1),
    "deberta-v3": transformers.DebertaV2Config(**SMALL, **V3),
    "deberta-v2-xlarge": transformers.DebertaV2Config(**SMALL, **V3, conv_kernel_size=3, conv_act="gelu"),
    "deberta-v2-own-projections": transformers.DebertaV2Config(
        **SMALL, **RELATIVE, position_biased_input=True, share_att_key=False, max_relative_positions=24, type_vocab_size=2, embedding_size=48),
}


def make_random(name, folder, seed):
    """A classifier and 24 texts of up to 96 tokens. Weights are larger than those that models begin with, so that logits are far from equal."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForSequenceClassification.from_config(RANDOM[name])
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            scale = 0.5 if "embeddings.weight" in key else 0.12
            parameter.copy_(torch.randn_like(parameter) * scale + (1.0 if key.endswith("LayerNorm.weight") else 0.0))
    model.save_pretrained(folder)
    lengths = torch.randint(1, 97, (24, 1))
    ids = torch.randint(4, SMALL["vocab_size"], (24, 96))
    save_file({"input_ids": ids, "attention_mask": (torch.arange(96) < lengths).long()}, folder / "reference.safetensors")


def texts(folder):
    tensors = load_file(folder / "reference.safetensors")
    return [ids[mask == 1].tolist() for ids, mask in zip(tensors["input_ids"], tensors["attention_mask"])]


def nearest_scales(model, plain):
    """Gives each scale of quantised weights the code that is nearest to it; says how many that changes."""
    changed = total = 0
    for name, module in model.named_modules():
        if type(module).__name__ != "Linear4bit":
            continue
        state, source = module.weight.quant_state, plain.get_submodule(name)
        weight = source.weight.detach().float()
        weight = weight.T.contiguous() if type(source).__name__ == "Conv1D" else weight
        values = torch.nn.functional.pad(weight.reshape(-1), (0, -weight.numel() % 64)).reshape(-1, 64)
        scales = values.abs().amax(1) - state.offset
        groups = state.state2.absmax.repeat_interleave(256)[: len(scales)]
        codes = (scales / groups).unsqueeze(1).sub(state.state2.code.unsqueeze(0)).abs().argmin(1).to(torch.uint8)
        changed, total = changed + int((codes != state.absmax).sum()), total + len(codes)
        state.absmax.copy_(codes)
    return f"{changed} of {total}"


def store_f16(folder, to):
    to.mkdir(parents=True)
    shutil.copy(folder / "config.json", to)
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}, to / "model.safetensors")


def theirs(folder, dtype, documents, nearest=False, **others):
    config = transformers.AutoConfig.from_pretrained(folder)
    classifies = config.architectures[0].endswith("ForSequenceClassification")
    kind = transformers.AutoModelForSequenceClassification if classifies else transformers.AutoModelForCausalLM
    model = kind.from_pretrained(folder, dtype=dtype, attn_implementation="eager", **others).eval()
    changed = nearest_scales(model, kind.from_pretrained(folder, dtype=dtype)) if nearest else None
    if classifies and model.config.pad_token_id is None:
        model.config.pad_token_id = 0
    with torch.inference_mode():
        rows = [model(input_ids=torch.tensor([ids])).logits.double().reshape(-1).numpy() for ids in documents]
    return numpy.concatenate(rows), model.config.num_labels if classifies else model.config.vocab_size, classifies, changed


def ours(program, folder, precision, documents, classifies):
    request = dict(documents=documents, budget=1, seconds=0, pool="classify" if classifies else "logits")
    command = [program, str(folder), precision]
    done = subprocess.run(command, input=json.dumps(request) + "\n", stdout=subprocess.PIPE, text=True, check=True)
    return numpy.concatenate([numpy.array(row, dtype=numpy.float32).astype(numpy.float64) for row in json.loads(done.stdout)["rows"]])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("folders", nargs="*", type=pathlib.Path)
    parser.add_argument("--random", nargs="*", choices=list(RANDOM), metavar="NAME")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--f16", action="store_true")
    parser.add_argument("--nf4", action="store_true")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    print("| model | f32: transformers | gristmill | bf16: transformers | gristmill | ratio | same argmax |" + (" f16: transformers | gristmill | ratio |" if arguments.f16 else "") + (" nf4: transformers | gristmill | between them | nearest scales | scales changed |" if arguments.nf4 else ""))
    print("|---|---|---|---|---|---|---|" + ("---|---|---|" if arguments.f16 else "") + ("---|---|---|---|---|" if arguments.nf4 else ""))
    made = tempfile.TemporaryDirectory()
    folders = list(arguments.folders)
    for name in [] if arguments.random is None else arguments.random or RANDOM:
        folders.append(pathlib.Path(made.name) / name)
        make_random(name, folders[-1], arguments.seed)
    for folder in folders:
        documents = texts(folder)
        exact, width, classifies, _ = theirs(folder, torch.float64, documents)
        error = lambda values: numpy.abs(values - exact).max()
        agreement = lambda values: (values.reshape(-1, width).argmax(1) == exact.reshape(-1, width).argmax(1)).mean()
        half, own_half = theirs(folder, torch.bfloat16, documents)[0], ours(arguments.program, folder, "bf16", documents, classifies)
        single, own = theirs(folder, torch.float32, documents)[0], ours(arguments.program, folder, "f32", documents, classifies)
        row = f"| {folder.name} | {error(single):.1e} | {error(own):.1e} | {error(half):.4f} | {error(own_half):.4f} | {error(own_half) / error(half):.2f} | {agreement(half):.1%}, {agreement(own_half):.1%} |"
        if arguments.f16:
            stored = pathlib.Path(made.name) / "f16" / folder.name
            store_f16(folder, stored)
            half, own_half = theirs(folder, torch.float16, documents)[0], ours(arguments.program, stored, "f32", documents, classifies)
            row += f" {error(half):.5f} | {error(own_half):.5f} | {error(own_half) / error(half):.2f} |"
        if arguments.nf4:
            settings = transformers.BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32)
            four = theirs(folder, torch.float32, documents, quantization_config=settings, device_map="cpu")[0]
            own_four = ours(arguments.program, folder, "nf4", documents, classifies)
            nearest, _, _, changed = theirs(folder, torch.float32, documents, nearest=True, quantization_config=settings, device_map="cpu")
            row += f" {error(four):.4f} | {error(own_four):.4f} | {numpy.abs(four - own_four).max():.1e} | {numpy.abs(nearest - own_four).max():.1e} | {changed} |"
        print(row, flush=True)


main()
