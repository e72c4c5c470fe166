"""Killed at any moment, a run that is started again ends where the unbroken one ends."""

import json
import re
import signal

import jax
import numpy as np
import pytest

from cmgems_jax.pretraining import loop as pretraining_loop
from cmgems_jax.runtime import parallel
from tests.helpers import lines, records, run_python
from tests.pretraining.kill_repeatedly import EVAL_EVERY, config


@pytest.fixture(scope="module")
def saved_often(genome, unbroken, num_kills, tmp_path_factory):
    """The folder and last state of a run that nobody stopped, a warm start."""
    folder = tmp_path_factory.mktemp("saved_often") / "run"
    state = pretraining_loop.pretrain(config(genome, unbroken[0], num_kills), folder)
    (switch,) = records(folder, "switch")
    assert switch["step"] == 2 * EVAL_EVERY
    return folder, parallel.to_host(state)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_run_killed_again_and_again_ends_in_the_same_state_and_metrics(
    saved_often, genome, unbroken, num_kills, tmp_path, name
):
    """Bit for bit, the curriculum's switch included; no line missing and none twice."""
    folder, state = saved_often
    workdir = tmp_path / "run"
    result = run_python(
        *("-m", "tests.pretraining.kill_repeatedly", workdir, genome, unbroken[0], name, num_kills),
        timeout_s=400,
        JAX_COMPILATION_CACHE_DIR=str(tmp_path / "compiled"),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    )
    log = (tmp_path / "log.txt").read_text()
    assert result.returncode == 0, result.stderr[-3_000:] + log[-3_000:]
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["last"] == 0, log[-3_000:]
    statuses = {kill["status"] for kill in report["kills"]}
    if name == "SIGKILL":
        assert len(report["kills"]) == num_kills and statuses == {int(signal.SIGKILL)}
        resumed = [int(step) for step in re.findall(r"resumed from step (\d+)", log)]
        assert len(resumed) >= num_kills // 2
        assert resumed[0] < 2 * EVAL_EVERY < resumed[-1]  # killed on both sides of the switch
        assert any(kill["saving"] for kill in report["kills"])
    else:
        assert statuses <= {pretraining_loop.EXIT_STOPPED << 8, int(signal.SIGTERM)}
        assert f"after {name}" in log
    whole = config(genome, unbroken[0], num_kills)
    again = pretraining_loop.pretrain(whole, workdir, resume="must")
    jax.tree.map(np.testing.assert_array_equal, parallel.to_host(again), state)
    assert lines(workdir) == lines(folder)
