"""Killed at any moment, a run that is started again ends where the unbroken one ends."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from cmgems_jax.pretraining import loop as pretraining_loop
from cmgems_jax.runtime import parallel, run_log
from cmgems_jax.windows import synthetic_genome
from tests.helpers import ROOT
from tests.pretraining.test_pretrain import lines, small_config

NUM_KILLS = 20
NUM_STEPS = 150
EVAL_EVERY = 10


def config(fasta: Path):
    """Returns a run whose curriculum switches at step 20, saved after every step."""
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
    synthetic_genome.write_genome(folder / "small.fa", 40_000, seed=1)
    state = pretraining_loop.pretrain(config(folder / "small.fa"), folder / "run")
    (switch,) = (r for r in run_log.read(folder / "run" / "metrics.jsonl") if r["kind"] == "switch")
    assert switch["step"] == 2 * EVAL_EVERY
    return folder / "small.fa", folder / "run", parallel.to_host(state)


@pytest.mark.parametrize(("name", "kills"), [("SIGKILL", NUM_KILLS), ("SIGTERM", 4)])
def test_a_run_killed_again_and_again_ends_in_the_same_state_and_metrics(
    unbroken, tmp_path, name, kills
):
    """Bit for bit, the curriculum's switch included; no line missing and none twice."""
    fasta, folder, state = unbroken
    workdir = tmp_path / "run"
    module = "tests.pretraining.kill_repeatedly"
    program = [sys.executable, "-m", module, workdir, fasta, name, str(kills)]
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
        resumed = [int(step) for step in re.findall(r"resumed from step (\d+)", log)]
        assert len(resumed) >= kills // 2
        assert resumed[0] < 2 * EVAL_EVERY < resumed[-1]  # killed on both sides of the switch
        assert any(kill["saving"] for kill in report["kills"])
    else:
        assert statuses <= {pretraining_loop.EXIT_STOPPED << 8, int(signal.SIGTERM)}
        assert f"after {name}" in log
    again = pretraining_loop.pretrain(config(fasta), workdir, resume="must")
    jax.tree.map(np.testing.assert_array_equal, parallel.to_host(again), state)
    assert lines(workdir) == lines(folder)
