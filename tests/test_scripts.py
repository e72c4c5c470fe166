"""The shell scripts: clean by shellcheck, honest about arguments, and run where they can be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT, xla_flags

SCRIPTS = [*sorted((ROOT / "launch").glob("*.sh")), ROOT / ".ci" / "run"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    shellcheck = Path(sys.executable).with_name("shellcheck")
    result = subprocess.run(
        [shellcheck, "--external-sources", script], cwd=ROOT, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize(
    "arguments", [("demo.sh", "--fast"), ("reproduce.sh", "--fast"), ("tpu_pod.sh", "begin")]
)
def test_an_unknown_argument_is_answered_with_the_usage(arguments):
    name, argument = arguments
    result = subprocess.run(
        ["bash", ROOT / "launch" / name, argument], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert result.stderr.startswith(f"usage: bash launch/{name}")


def test_the_published_comparison_runs_from_its_plan_to_its_page(tmp_path):
    command = ["bash", ROOT / "launch" / "reproduce.sh", "--smoke", tmp_path]
    settings = {"PYTHON": sys.executable, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags(1)}
    result = subprocess.run(
        command, env=os.environ | settings, capture_output=True, text=True, timeout=900
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.count("memory       fits") == 2
    report = (tmp_path / "own" / "report.md").read_text()
    for name in ("logo6_random", "dnabert6_cm_gems", "untrained", "k-mer logistic regression"):
        assert name in report
    assert (tmp_path / "report.html").stat().st_size > 10_000
