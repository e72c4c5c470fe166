"""Starts one run again and again and kills it each time; the last start is left to finish.

    python -m tests.pretraining.kill_repeatedly WORKDIR FASTA SIGNAL KILLS

The runs are forked children of one process, which saves the imports. Prints
{"kills": [{"status", "saving"}, ...], "last": status} as JSON.
"""

import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

from cmgems_jax.pretraining import loop as pretraining_loop
from tests.pretraining import test_resume

EARLY_SHARE = 0.15  # of the kills come while the process starts and compiles


def start(workdir: Path, fasta: Path) -> int:
    """Forks a run whose output goes to a log beside its folder; returns its process."""
    child = os.fork()
    if child:
        return child
    log = os.open(workdir.parent / "log.txt", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = 0
    try:
        pretraining_loop.pretrain(test_resume.config(fasta), workdir)
    except SystemExit as stop:
        status = stop.code
    os._exit(status)


def kill_once(workdir: Path, fasta: Path, name: str, chance: random.Random) -> dict | int:
    """Returns how the killed run ended, or the status of one that ended by itself."""
    metrics = workdir / "metrics.jsonl"
    lines_before = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
    early = chance.random() < EARLY_SHARE
    child = start(workdir, fasta)
    while not early:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        if metrics.exists() and metrics.read_bytes().count(b"\n") > lines_before + 1:
            break
        time.sleep(0.005)
    time.sleep(chance.uniform(0.0, 4.0 if early else 0.4))
    saving = any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp"))
    for _ in range(3):  # after the first, a signal changes nothing
        os.kill(child, getattr(signal, name))
        time.sleep(0.01)
    status = os.waitpid(child, 0)[1]
    return {"status": status, "saving": saving} if status else status


def main(workdir: Path, fasta: Path, name: str, num_kills: int) -> None:
    """Kills and at last lets live."""
    chance, kills = random.Random(7), []
    while len(kills) < num_kills:
        outcome = kill_once(workdir, fasta, name, chance)
        if not isinstance(outcome, dict):
            break
        kills.append(outcome)
    last = os.waitpid(start(workdir, fasta), 0)[1]
    print(json.dumps({"kills": kills, "last": last}))


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # jax warns of forks; no device is in use before them
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
