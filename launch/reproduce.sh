#!/usr/bin/env bash
# The published comparison with its controls, on one GPU, in order: LOGO under five strategies and
# DNABERT-6 under two, 10,000 steps each; then the few-shot tasks and GUE, by the published recipe,
# the features head and the probe. The same command resumes where it was stopped.
#
#   bash launch/reproduce.sh GENOME.fa.gz DATA [folder, runs/reproduce by default]
#   bash launch/reproduce.sh --smoke [folder]   # the same path, tiny, on a CPU: a synthetic genome
#
# DATA holds fewshot/ and gue/ (docs/tasks.md). PYTHON is the interpreter, with jax for the GPU.
# Before any training it prints the hours of both models on the devices at hand.
set -euo pipefail
usage="usage: bash launch/reproduce.sh GENOME.fa.gz DATA [folder], or --smoke [folder]"
if [[ $# -lt 1 || $# -gt 3 || ("$1" != --smoke && ($# -lt 2 || "$1" == -*)) ]]; then
  echo "$usage" >&2
  exit 2
fi
python="${PYTHON:-python}"
if [[ "$1" == --smoke ]]; then
  folder="$(realpath -m -- "${2:-runs/smoke}")"
  arms=(random) of_dnabert=(cm_gems)
  settings=(--config.num_steps=24 --config.accumulation_steps=1 --config.eval_every=8 --config.optimizer.warmup_steps=4
    --config.batch_size=8 --config.eval_windows=32 --config.model.num_layers=1
    --config.model.hidden_size=32 --config.model.num_heads=2 --config.model.feedforward_size=64
    --config.model.num_positions=64 --config.data.num_tokens=64
    --config.data.synthetic_bases=200000)
  suites=(own)
  evaluation=(--shots=10 --draws=2 --test_rows=100)
else
  genome="$(realpath -- "$1")" data="$(realpath -- "$2")"
  folder="$(realpath -m -- "${3:-runs/reproduce}")"
  arms=(random genemask global cm_gems random_spans) of_dnabert=(cm_gems random_spans)
  settings=(--config.data.fasta="$genome" --config.accumulation_steps=6) # 32 rows at a time
  suites=(fewshot gue)
  evaluation=(--data_dir="$data")
fi
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

for config in logo6 dnabert6; do
  echo "== $config, 10,000 steps, as its program is compiled here"
  "$python" -m launch.plan --config="configs/$config.py" --target=here --searches=0 "${settings[@]}"
done

checkpoints=()
train() { # config, arm
  local workdir="$folder/$1_$2" strategy=()
  if [[ "$2" != cm_gems ]]; then
    strategy=(--config.curriculum.name=fixed --config.curriculum.strategy="$2")
  fi
  echo "== $1, $2"
  "$python" -m launch.pretrain --config="configs/$1.py" --workdir="$workdir" \
    --config.data.dir="$folder/windows" "${settings[@]}" "${strategy[@]}"
  checkpoints+=("$workdir")
}
for arm in "${arms[@]}"; do train logo6 "$arm"; done
for arm in "${of_dnabert[@]}"; do train dnabert6 "$arm"; done

if [[ "${suites[0]}" == own ]]; then
  "$python" -m launch.make_task --output="$folder/task" --num_train=100 --num_test=100
  evaluation+=(--tasks="$folder/task" --long_sequences=truncate)
fi
for suite in "${suites[@]}"; do
  which=()
  if [[ "$suite" != own ]]; then which=(--suite="$suite"); fi
  echo "== $suite"
  "$python" -m launch.evaluate --checkpoint="$(IFS=,; echo "${checkpoints[*]}")" \
    --mode=finetune,probe --head=cls,features "${which[@]}" "${evaluation[@]}" \
    --output="$folder/$suite"
done
"$python" -m launch.report --input="$folder/${suites[0]}" --output="$folder/report.html"
