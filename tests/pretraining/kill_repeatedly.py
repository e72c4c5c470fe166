"""Starts one run again and again and kills it each time; the last start is left to finish.

    python -m tests.pretraining.kill_repeatedly WORKDIR FASTA SOURCE SIGNAL KILLS

It begins with the parameters of the run in SOURCE. The runs are forked children of one
process, which saves the imports. Prints {"kills": [{"status", "saving"}, ...], "last":
status} as JSON.
"""

import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

from cmgems_jax.config import Config, InitFromConfig
from cmgems_jax.pretraining import loop as pretraining_loop
from tests.helpers import small_config

EVAL_EVERY = 10
STEPS_PER_KILL = 5  # a kill comes within a few steps behind the one where it is due
EARLY_EVERY = 6  # the second of so many kills comes while the process starts and compiles


def config(fasta: Path, source: Path, num_kills: int) -> Config:
    """Returns a warm start whose curriculum switches at step 20, saved after every step."""
    return small_config(
        fasta,
        num_steps=STEPS_PER_KILL * num_kills + 2 * EVAL_EVERY,
        eval_every=EVAL_EVERY,
        checkpoint_every=1,
        log_every=1,
        keep_checkpoints=2,
        init_from=InitFromConfig(str(source)),
    )


def start(workdir: Path, config: Config) -> int:
    """Forks a run whose output goes to a log beside its folder; returns its process."""
    child = os.fork()
    if child:
        return child
    log = os.open(workdir.parent / "log.txt", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = 0
    try:
        pretraining_loop.pretrain(config, workdir)
    except SystemExit as stop:
        status = stop.code
    os._exit(status)


def saved_step(workdir: Path) -> int:
    """Returns the step of the newest checkpoint, or 0."""
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def is_saving(workdir: Path) -> bool:
    """Returns whether a checkpoint is half written."""
    return any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp"))


def kill_once(
    workdir: Path, config: Config, name: str, number: int, chance: random.Random
) -> dict | int:
    """Returns how the killed run ended, or the status of one that ended by itself.

    Every other kill waits for a checkpoint to be half written.
    """
    is_early = number % EARLY_EVERY == 1
    due = max(STEPS_PER_KILL * number + 1, saved_step(workdir) + 2)
    child = start(workdir, config)
    while not is_early and saved_step(workdir) < due:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.005)
    time.sleep(chance.uniform(0.0, 2.0 if is_early else 0.2))
    deadline = time.monotonic() + 5
    while number % 2 == 0 and not is_saving(workdir) and time.monotonic() < deadline:
        time.sleep(0.0005)
    saving = is_saving(workdir)
    for _ in range(3):  # after the first, a signal changes nothing
        os.kill(child, getattr(signal, name))
        time.sleep(0.01)
    status = os.waitpid(child, 0)[1]
    return {"status": status, "saving": saving} if status else status


def main(workdir: Path, fasta: Path, source: Path, name: str, num_kills: int) -> None:
    """Kills and at last lets live."""
    run, chance, kills = config(fasta, source, num_kills), random.Random(7), []
    while len(kills) < num_kills:
        outcome = kill_once(workdir, run, name, len(kills), chance)
        if not isinstance(outcome, dict):
            break
        kills.append(outcome)
    last = os.waitpid(start(workdir, run), 0)[1]
    print(json.dumps({"kills": kills, "last": last}))


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # jax warns of forks; no device is in use before them
    main(*map(Path, sys.argv[1:4]), sys.argv[4], int(sys.argv[5]))
