"""Killed at any moment, a run that is started again ends where the unbroken one ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from cmgems_jax import parallel, pretrain, run_log, synthetic
from tests.test_pretrain import TIMES, small_config

ROOT = Path(__file__).parents[1]
NUM_KILLS = 20
NUM_STEPS = 300
EVAL_EVERY = 75

# Starts the same run again and again in forked children (which saves the imports), and kills each
# at a random moment after it has begun to train; the last one is left to finish.
_KILLER = """
import json, os, random, signal, sys, time, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from tests import test_resume
from cmgems_jax import command, pretrain, run_log
workdir, fasta, name, kills = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
chance = random.Random(int(sys.argv[5]))
report = []
def life(limit):
    child = os.fork()
    if not child:
        out = os.open(workdir.parent / "log.txt", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.dup2(out, 1); os.dup2(out, 2)
        try:
            pretrain.pretrain(test_resume.config(fasta), workdir)
        except SystemExit as stop:
            os._exit(stop.code)
        os._exit(0)
    started = (workdir / "environment.json")
    before = started.stat().st_mtime_ns if started.exists() else 0
    while limit is not None and os.waitpid(child, os.WNOHANG) == (0, 0):
        if started.exists() and started.stat().st_mtime_ns != before:
            time.sleep(limit)
            saving = bool(list((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp")))
            os.kill(child, getattr(signal, name))
            _, status = os.waitpid(child, 0)
            report.append({"status": status, "saving": saving})
            return None
        time.sleep(0.01)
    return os.waitpid(child, 0)[1] if limit is None else 0
while len(report) < kills:
    if life(chance.uniform(0.0, 2.5)) is not None:
        break
print(json.dumps({"kills": report, "last": life(None)}))
"""


def config(fasta: Path):
    """Returns a run with a switch of the curriculum half-way, saved after every step."""
    return small_config(
        fasta,
        num_steps=NUM_STEPS,
        eval_every=EVAL_EVERY,
        checkpoint_every=1,
        log_every=1,
        keep_checkpoints=2,
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The genome and the folder and last state of a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("unbroken")
    synthetic.write_genome(folder / "small.fa", 40_000, seed=1)
    state = pretrain.pretrain(config(folder / "small.fa"), folder / "run")
    (switch,) = (r for r in run_log.read(folder / "run" / "metrics.jsonl") if r["kind"] == "switch")
    assert switch["step"] == 2 * EVAL_EVERY  # so the kills lie on both sides of it
    return folder / "small.fa", folder / "run", parallel.to_host(state)


def lines(workdir: Path) -> list[dict]:
    """Returns the metrics without times, and without the summary's."""
    records = run_log.read(workdir / "metrics.jsonl")
    return [{n: v for n, v in record.items() if n not in TIMES} for record in records]


@pytest.mark.parametrize(("name", "kills"), [("SIGKILL", NUM_KILLS), ("SIGTERM", 4)])
def test_a_run_killed_again_and_again_ends_in_the_same_state_and_metrics(
    unbroken, tmp_path, name, kills
):
    """Bit for bit, the curriculum's switch included; no line missing and none twice."""
    fasta, folder, state = unbroken
    workdir = tmp_path / "run"
    program = [sys.executable, "-c", _KILLER, workdir, fasta, name, str(kills), "7"]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    result = subprocess.run(
        program, env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    log = (tmp_path / "log.txt").read_text()
    assert result.returncode == 0, result.stderr[-3_000:] + log[-3_000:]
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["last"] == 0, log[-3_000:]
    statuses = {kill["status"] for kill in report["kills"]}
    if name == "SIGKILL":
        assert len(report["kills"]) == kills and statuses == {int(signal.SIGKILL)}
        assert log.count("resumed from step") >= kills // 2
    else:
        assert statuses <= {pretrain.EXIT_STOPPED << 8, int(signal.SIGTERM)}
        assert f"after {name}" in log
    again = pretrain.pretrain(config(fasta), workdir, resume="must")
    jax.tree.map(np.testing.assert_array_equal, parallel.to_host(again), state)
    assert lines(workdir) == lines(folder)
