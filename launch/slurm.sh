#!/usr/bin/env bash
# Pretrains on several GPU hosts under SLURM, one process a GPU; docs/several_hosts.md explains it.
#
#   bash launch/test.sh                # once, on the login node: makes .venv on the shared disk
#   sbatch launch/slurm.sh             # from the repository's root, after editing the marked lines
#
# Ten minutes before its time is over, or when it is preempted, the job saves its step and queues
# itself again; the same command then resumes from there.
#SBATCH --nodes=2                      # EDIT: hosts
#SBATCH --ntasks-per-node=8            # EDIT: GPUs of a host, here and in the next line
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --job-name=cmgems
#SBATCH --output=cmgems-%j.log
set -euo pipefail

# EDIT: the run; flags after the script's name on sbatch's line take its place. The work folder
# must lie on a disk that process 0 reaches after a restart too.
# Its 192 rows a step are split over all GPUs, here into 16 x 2 x 6.
RUN=(--config=configs/dnabert6.py --config.accumulation_steps=2 --workdir=runs/dnabert6
  --config.data.fasta=genome.fa.gz)

if [[ $# -gt 0 ]]; then
  RUN=("$@")
fi
cd -- "${SLURM_SUBMIT_DIR:-$PWD}"
if [[ ! -x .venv/bin/python ]]; then
  echo "error: no .venv in $PWD; run 'bash launch/test.sh' there first, then install jax[cuda13]" >&2
  exit 2
fi

status=0
srun --kill-on-bad-exit=1 .venv/bin/python -m launch.pretrain "${RUN[@]}" || status=$?
if [[ $status -eq 75 ]]; then # stopped by a signal, its step saved
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
