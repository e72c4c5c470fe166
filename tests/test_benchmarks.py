"""Benchmarks whose numbers are quoted: what they compute, and that they run in a small form."""

import subprocess

import numpy as np
import pytest
from scipy import stats

from benchmarks import power
from tests.helpers import ROOT, run_python, xla_flags


def run(name: str, *arguments: str) -> subprocess.CompletedProcess:
    """Runs a benchmark in a process of its own, on one device."""
    return run_python("-m", f"benchmarks.{name}", *arguments, XLA_FLAGS=xla_flags(1))


def test_the_program_for_accelerators_runs_on_a_cpu_in_its_small_form(tmp_path):
    before = sorted((ROOT / "benchmarks" / "results").iterdir())
    done = run("accelerator", "--smoke", f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr
    for word in ("DNABERT-6", "LOGO", "MFU", "seconds of 10,000 steps", "TFLOP/s", "GB, planned"):
        assert word in done.stdout
    assert list(tmp_path.rglob("*.xplane.pb")), "no trace"
    assert sorted((ROOT / "benchmarks" / "results").iterdir()) == before


@pytest.mark.parametrize("num_seeds", [6, 12])
def test_the_difference_that_a_study_can_show_is_shown_by_four_of_five(num_seeds):
    true, spread = power.detectable(0.02, num_seeds, 0.05), 0.02
    seeds_SN = np.random.default_rng(0).normal(true, spread, (20_000, num_seeds))
    shown = stats.ttest_1samp(seeds_SN, 0, axis=1).pvalue < 0.05
    assert np.mean(shown) == pytest.approx(power.POWER, abs=0.01)
