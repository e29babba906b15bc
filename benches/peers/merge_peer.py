"""Folders that `gristmill merge` writes, opened by transformers, against what peft computes with the unmerged adapter.

usage: merge_peer.py GRISTMILL [FIXTURES]

GRISTMILL is the binary. FIXTURES is tests/fixtures/models, with the models in small/ and the adapters in adapters/; the logits to be compared with are those of
adapters/references.safetensors, which peft computed in float64. Each adapter is merged twice, into one file of weights and into several. transformers must find each weight that it
looks for and none that it does not know. Prints the largest difference for each.

pip install -r benches/peers/model_requirements.txt
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
import transformers
from safetensors.torch import load_file


def main():
    program = sys.argv[1]
    fixtures = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else "tests/fixtures/models")
    references = load_file(fixtures / "adapters" / "references.safetensors")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    worst = 0.0
    for config in sorted((fixtures / "adapters").glob("*.json")):
        name = config.stem
        base = fixtures / "adapters" / json.loads(config.read_text())["base_model_name_or_path"]
        for size in (5_000_000_000, 3_000):
            with tempfile.TemporaryDirectory() as folder:
                adapter, out = pathlib.Path(folder, "adapter"), pathlib.Path(folder, "out")
                adapter.mkdir()
                shutil.copy(config, adapter / "adapter_config.json")
                shutil.copy(config.with_suffix(".safetensors"), adapter / "adapter_model.safetensors")
                command = [program, "merge", str(base), str(adapter), str(out), "--shard-bytes", str(size)]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                files = len(list(out.glob("*.safetensors")))
                classifies = transformers.AutoConfig.from_pretrained(out).architectures[0].endswith("ForSequenceClassification")
                kind = transformers.AutoModelForSequenceClassification if classifies else transformers.AutoModelForCausalLM
                model, loading = kind.from_pretrained(out, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
                problems = {key: value for key, value in loading.items() if value}
                assert not problems, (name, problems)
                if model.config.pad_token_id is None:
                    model.config.pad_token_id = 0
                ids = references[f"{name}.input_ids"]
                with torch.inference_mode():
                    logits = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
                off = float((logits - references[f"{name}.logits"]).abs().max())
                worst = max(worst, off)
                print(f"{name}, {files} files: logits differ by {off:.1e} at most", flush=True)
    assert worst <= 2e-5, worst


main()
