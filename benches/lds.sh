#!/usr/bin/env bash
# The linear datamodeling score of every method, on what benches/peers/lds_train.py has made.
#
# usage: benches/lds.sh FOLDER [GRISTMILL]
#
# FOLDER is the OUT of lds_train.py. Scores go to FOLDER/scores, and the table to FOLDER/lds. GRISTMILL is the program, by default a release build of this checkout.
set -euo pipefail
folder=$(cd "$1" && pwd)
program=${2:-cargo run --release --quiet --}
pipeline=$(mktemp --suffix .yaml)
trap 'rm -f "$pipeline"' EXIT

step() { # NAME KEYS…
  echo "  - influence: {name: $1, model: $folder/model, queries: {path: $folder/queries.jsonl, text: text}, $2}"
}
{
  echo "source: {path: $folder/rows.jsonl}"
  echo "steps:"
  echo "  - bm25: {queries: {path: $folder/queries.jsonl, text: text}}"
  echo "  - term_cosine: {weighting: tfidf, queries: {path: $folder/queries.jsonl, text: text}}"
  step representation "method: representation"
  step dot "method: dot"
  step cosine "method: cosine"
  step cosine_adafactor "method: cosine, normalizer: adafactor"
  step identity "method: identity"
  step datainf "method: datainf"
  while read -r name factor; do
    step "trackstar_$name" "method: trackstar, mixing: {share: 0}, damping: {factor: $factor}"
    step "trackstar_dot_$name" "method: trackstar, mixing: {share: 0}, normalize: false, damping: {factor: $factor}"
    step "kfac_folded_$name" "method: kfac, damping: {inversion: factored_tikhonov, factor: $factor}"
    step "kfac_$name" "method: kfac_exact, damping: {factor: $factor}"
    step "ekfac_$name" "method: ekfac, damping: {factor: $factor}"
    step "diagonal_$name" "method: diagonal, damping: {factor: $factor}"
  done <<< $'tenth 0.1\none 1'
  step trackstar_mixed "method: trackstar"
  step trackstar_adafactor "method: trackstar, mixing: {share: 0}, normalizer: adafactor"
  step ekfac_true_labels "method: ekfac, labels: 'true'"
  step two_stage "method: ekfac, candidates: {method: trackstar, mixing: {share: 0}, keep: 40, margin: 0.1, sample: 40}"
  echo "sink: {parquet: {path: $folder/scores}}"
} > "$pipeline"
rm -rf "$folder/scores"
$program run "$pipeline"
$program analyze lds "$folder/scores" --subsets "$folder/subsets.jsonl" --outputs "$folder/outputs.jsonl" --queries "$folder/queries.jsonl" --output-dir "$folder/lds"
