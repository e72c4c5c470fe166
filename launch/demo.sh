#!/usr/bin/env bash
# Pretrains a small model with CM-GEMS on a synthetic genome, of which a quarter is copies of a
# repeat, and asks with twenty labelled rows per class which sequences hold a piece of it: no
# download, a few minutes on 2 cores.
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
echo "A labelled task: which sequences hold a piece of the repeat, which its letters shuffled?"
"$VENV_PYTHON" -m launch.make_task --output="$workdir/task"
"$VENV_PYTHON" -m launch.evaluate --checkpoint="$workdir" --tasks="$workdir/task" --mode=probe \
  --metric=mcc --shots=20 --draws=5 --output="$workdir/evaluation"

"$VENV_PYTHON" -m launch.report --input="$workdir" --output="$workdir/report.html"

"$VENV_PYTHON" - "$workdir" "$(((SECONDS + 30) / 60))" <<'PYTHON'
import sys
from pathlib import Path

import pandas as pd

workdir, minutes = Path(sys.argv[1]), sys.argv[2]
table = pd.read_csv(workdir / "evaluation" / "summary.csv").sort_values("mcc", ascending=False)
lines = {
    "pretrained": table.model == workdir.resolve().name,
    "untrained": table.model == "untrained",
    "k-mers": table.model.str.startswith("k-mer "),
}
best = {name: table[rows].iloc[0] for name, rows in lines.items()}
scores = [f"{name} {r.mcc:.2f} [{r.mcc_low:.2f}, {r.mcc_high:.2f}]" for name, r in best.items()]
print(f"\nafter {minutes} minutes: {', '.join(scores)} (MCC, five draws, 95 % intervals)")
PYTHON

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
