#!/usr/bin/env bash
# Makes human6-nano again, the model that comes with the package: 10,000 steps of windows of 128
# positions, 1,000 of 512 on both strands, then 3,000 of these by the loss of hidden bases. Under two
# hours on two CPU cores; the same command resumes.
#
#   bash launch/make_human6_nano.sh GENOME.fa.gz [folder, runs/human6-nano by default]
set -euo pipefail
if [[ $# -lt 1 || $# -gt 2 || "$1" == -* ]]; then
  echo "usage: bash launch/make_human6_nano.sh GENOME.fa.gz [folder, runs/human6-nano by default]" >&2
  exit 2
fi
genome="$(realpath -- "$1")"
folder="$(realpath -m -- "${2:-runs/human6-nano}")"
# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

common=(--config=configs/nano6.py --config.data.fasta="$genome" --config.model.num_positions=512
  --config.curriculum.name=fixed --config.optimizer.decay=cosine --config.eval_every=500
  --config.checkpoint_every=250)
tokens=(--config.curriculum.strategy=random_spans)
bases=(--config.curriculum.strategy=random --config.masking.objective=base
  --config.masking.budget=0.3)
long=(--config.data.num_tokens=512 --config.batch_size=8 --config.data.reverse_complement=True)
"$VENV_PYTHON" -m launch.pretrain --workdir="$folder/short" "${common[@]}" "${tokens[@]}" \
  --config.data.num_tokens=128 --config.num_steps=10000 --config.keep_every=250
"$VENV_PYTHON" -m launch.pretrain --workdir="$folder/long" "${common[@]}" "${tokens[@]}" "${long[@]}" \
  --init_from="$folder/short" --config.num_steps=1000 --config.optimizer.peak_lr=1e-3
"$VENV_PYTHON" -m launch.pretrain --workdir="$folder/human6-nano" "${common[@]}" "${bases[@]}" \
  "${long[@]}" --init_from="$folder/long" --config.num_steps=3000 --config.keep_every=1000 \
  --config.optimizer.peak_lr=3e-4

"$VENV_PYTHON" - "$folder/human6-nano" <<'PYTHON'
import sys
from pathlib import Path

from cmgems_jax.genome import files
from cmgems_jax.pretraining import packaged, pretrained

model = pretrained.load_masked_lm(Path(sys.argv[1]))
made = Path(sys.argv[1]) / "weights"
packaged.write(made, model.config, model.params, model.step)
print(f"{made}: sha256 {files.sha256(str(made / 'model.safetensors'))}")
PYTHON
