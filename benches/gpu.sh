#!/usr/bin/env bash
# Everything that is checked and timed on an NVIDIA GPU, in one go.
#
# usage: benches/gpu.sh FOLDER BIN [TEXTS]
#
# FOLDER is for models and corpora that are made (about 4 GB). BIN has what was built, here or on a machine without a GPU, with
#   cargo build --release --features cuda --bin gristmill
#   cargo build --release -p gristmill-kernels --features cuda --example doctor --example bench
#   cargo build --release -p gristmill-operators --features cuda --example model_device
# Where python3 has torch and transformers, they are timed on the same shapes. TEXTS of 1,024 tokens each are ranked by their gradients, 4,096 of them if nothing is said.
set -euo pipefail
folder=$1 bin=$2 texts=${3:-4096}
fixtures=$(cd "$(dirname "$0")/../tests/fixtures/models" && pwd)
mkdir -p "$folder"

part() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }

part "device"
nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit --format=csv,noheader || true

part "every case of every kernel"
"$bin/doctor"

part "models against the CPU"
for model in small/gpt2 small/qwen3 small/neox-sequential small/mistral-window llama bert-classifier modernbert-classifier; do
  for precision in f32 bf16; do
    echo "-- $model $precision"
    "$bin/model_device" check "$fixtures/$model" "$precision"
  done
done

part "batches forward"
"$bin/model_device" time 2

part "gradients of batches"
"$bin/model_device" gradients 3

if python3 -c 'import torch, transformers' 2> /dev/null; then
  part "the same by PyTorch"
  python3 "$(dirname "$0")/peers/gpu_peer.py"
fi

for shape in 160m 1b; do
  part "from Parquet to the best rows of 100 queries: $shape, $texts texts"
  "$bin/model_device" corpus "$folder/$shape" "$shape" "$texts"
  cat > "$folder/$shape/rank.yaml" <<PIPELINE
source: {path: $folder/$shape/texts-*.parquet}
steps:
  - influence: {model: $folder/$shape/model, method: dot, dimension: 16, precision: bf16, device: cuda,
                queries: {path: $folder/$shape/queries.jsonl, prompt: prompt, completion: completion}}
sink:
  rank: {path: $folder/$shape/ranked, by: influence, k: 100, columns: [id]}
PIPELINE
  rm -rf "$folder/$shape/ranked"
  time "$bin/gristmill" run "$folder/$shape/rank.yaml"
done
