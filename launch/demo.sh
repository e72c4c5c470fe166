#!/usr/bin/env bash
# Pretrains a small model with CM-GEMS on a synthetic genome and fine-tunes it on a small labelled
# task: no download, a few minutes on 2 cores.
#
#   bash launch/demo.sh [folder, runs/demo by default]
set -euo pipefail
if [[ $# -gt 1 || "${1:-}" == -* ]]; then
  echo "usage: bash launch/demo.sh [folder, runs/demo by default]" >&2
  exit 2
fi
workdir="${1:-runs/demo}"
if [[ $# -eq 1 && "$workdir" != /* ]]; then
  workdir="$PWD/$workdir" # the caller's folder, not the repository's
fi
# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

"$VENV_PYTHON" -m launch.pretrain --config=configs/demo.py --workdir="$workdir"

echo
echo "A labelled task with a planted promoter-like signal, and what the model makes of it:"
"$VENV_PYTHON" -m launch.make_task --output="$workdir/task"
"$VENV_PYTHON" -m launch.evaluate --checkpoint="$workdir" --tasks="$workdir/task" \
  --shots=200 --draws=2 --output="$workdir/evaluation"

"$VENV_PYTHON" -m launch.report --input="$workdir" --output="$workdir/report.html"

cat <<END

Made in $workdir:
  report.html       all of it on one page, for a browser
  curves.png        loss, perplexity and the switch from GeneMask to GLOBAL
  metrics.jsonl     every number behind it; the same for TensorBoard beside it
  checkpoints/      the trained model; config.json and environment.json say how it was made
  task/             the labelled task, train.tsv and test.tsv
  evaluation/       report.md, results.csv and results.png: the model beside the baselines

Next, from $PWD:
  the k-mers that PMI ranks first    .venv/bin/python -m launch.count_pmi --fasta=YOURS.fa.gz --output=runs/pmi
  your own genome                    .venv/bin/python -m launch.pretrain --config=configs/logo6.py \\
                                       --config.data.fasta=YOURS.fa.gz --workdir=runs/mine
  one setting changed                add --config.curriculum.threshold=0.5 and another --workdir
  your own labelled sequences        .venv/bin/python -m launch.evaluate --checkpoint=runs/mine \\
                                       --tasks=FOLDER --output=runs/evaluation
  the same command again             resumes where the run stopped
END
