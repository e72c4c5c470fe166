"""The shell scripts: clean by shellcheck, and honest about wrong arguments."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT

SCRIPTS = [*sorted((ROOT / "launch").glob("*.sh")), ROOT / ".ci" / "run"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    shellcheck = Path(sys.executable).with_name("shellcheck")
    result = subprocess.run(
        [shellcheck, "--external-sources", script], cwd=ROOT, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize("arguments", [["demo.sh", "--fast"], ["tpu_pod.sh", "begin"]])
def test_an_unknown_argument_is_answered_with_the_usage(arguments):
    name, argument = arguments
    result = subprocess.run(
        ["bash", ROOT / "launch" / name, argument], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert result.stderr.startswith(f"usage: bash launch/{name}")
