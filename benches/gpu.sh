#!/usr/bin/env bash
# Everything that is checked and timed on an NVIDIA GPU, in one go.
#
# usage: benches/gpu.sh FOLDER BIN [TEXTS]
#
# FOLDER is for models and corpora that are made (about 4 GB). BIN has what was built, here or on a machine without a GPU, with
#   cargo build --release --features cuda --bin gristmill
#   cargo build --release -p gristmill-kernels --features cuda --example doctor --example bench
#   cargo build --release -p gristmill-operators --features cuda --example model_device
# Pipelines run on the GPU, or on $DEVICE (cpu, to try the script). Where python3 has torch and transformers, they are timed on the same shapes.
# TEXTS of 1,024 tokens each are ranked by their gradients, 4,096 of them if nothing is said, and as many or more are embedded and scored.
set -euo pipefail
folder=$1 bin=$2 texts=${3:-4096} device=${DEVICE:-cuda}
fixtures=$(cd "$(dirname "$0")/../tests/fixtures/models" && pwd)
mkdir -p "$folder"

part() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }

part "device"
nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit --format=csv,noheader || true

part "every case of every kernel"
"$bin/doctor" || echo "SOME KERNELS ARE WRONG"

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

run() { # NAME SHAPE TEXTS LENGTH STEP SINK: a pipeline over texts that are made, from Parquet to the sink
  local here="$folder/$2-$4"
  part "pipeline: $1, $2, $3 texts of $4 tokens"
  [ -e "$here/queries.jsonl" ] || "$bin/model_device" corpus "$here" "$2" "$3" "$4"
  rm -rf "$here/out"
  cat > "$here/$1.yaml" <<PIPELINE
source: {path: $here/texts-*.parquet}
steps:
  - $5
sink:
  $6
PIPELINE
  sed -i "s|HERE|$here|g" "$here/$1.yaml"
  time "$bin/gristmill" run "$here/$1.yaml"
}
run embed bert $((texts * 8)) 512 "embed: {model: HERE/model, precision: bf16, device: $device}" 'parquet: {path: HERE/out}'
run embed modernbert $((texts * 2)) 1024 "embed: {model: HERE/model, precision: bf16, device: $device}" 'parquet: {path: HERE/out}'
run perplexity 1b "$texts" 2048 "perplexity: {model: HERE/model, precision: bf16, device: $device}" 'parquet: {path: HERE/out}'
for shape in 160m 1b; do
  run rank "$shape" "$texts" 1024 \
    "influence: {model: HERE/model, method: dot, dimension: 16, precision: bf16, device: $device, queries: {path: HERE/queries.jsonl, prompt: prompt, completion: completion}}" \
    'rank: {path: HERE/out, by: influence, k: 100, columns: [id]}'
done
