"""Benchmarks whose numbers are quoted: what they compute, and that they run in a small form."""

import subprocess

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
