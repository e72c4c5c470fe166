#!/usr/bin/env bash
# Pretrains on every host of a TPU pod slice; docs/several_hosts.md explains it.
#
#   bash launch/tpu_pod.sh install     # once: the code and its packages onto every host
#   bash launch/tpu_pod.sh             # starts the run, and resumes where a former one stopped
#   bash launch/tpu_pod.sh stop        # SIGTERM: the hosts save their step and end
#
# Runs on your own machine, where gcloud is set up, from the repository's root.
set -euo pipefail

# EDIT: the slice, its zone, and the run. The genome must lie at this place on every host, the
# work folder on host 0 (better on a disk that outlives the slice).
TPU_NAME="${TPU_NAME:-cmgems}"
ZONE="${ZONE:-europe-west4-b}"
# The 192 rows of a step must divide by chips x accumulation_steps.
RUN="${RUN:---config=configs/dnabert6.py --config.accumulation_steps=2 \
--workdir=runs/dnabert6 --config.data.fasta=genome.fa.gz}"

readonly FOLDER=cmgems_jax # under the home folder of every host

on_every_host() {
  gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --worker=all --command="$1"
}

case "${1:-start}" in
  install)
    archive="$(mktemp --suffix=.tar.gz)"
    trap 'rm -f -- "$archive"' EXIT
    git archive --format=tar.gz --output="$archive" HEAD
    gcloud compute tpus tpu-vm scp "$archive" "$TPU_NAME:cmgems.tar.gz" --zone="$ZONE" --worker=all
    jax="$(grep '^jax==' requirements.txt)"
    on_every_host "mkdir -p $FOLDER && cd $FOLDER && tar -xzf ../cmgems.tar.gz \
      && source launch/environment.sh && \$VENV_PYTHON -m pip install -qq '${jax/jax/jax[tpu]}'"
    ;;
  start)
    # Survives a lost connection; host 0 prints, the others only their errors.
    on_every_host "{ cd $FOLDER && exec nohup .venv/bin/python -m launch.pretrain $RUN; } \
      >>$FOLDER.log 2>&1 & tail --pid=\$! -n 0 -F $FOLDER.log"
    ;;
  stop)
    on_every_host "pkill -TERM -f 'launch[.]pretrain' || true"
    ;;
  *)
    echo "usage: bash launch/tpu_pod.sh [install | start | stop]" >&2
    exit 2
    ;;
esac
