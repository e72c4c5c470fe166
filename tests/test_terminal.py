"""Progress is a bar on a terminal and lines elsewhere; a message cannot fail."""

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cmgems_jax import terminal

PACKAGE = Path(terminal.__file__).parent
SAY = "from cmgems_jax.runtime import command; command.run(lambda: print('0.1 \\u2192 0.2'))"


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        """Returns that it is one."""
        return True


def work() -> None:
    """Takes ten times the interval of two lines."""
    with terminal.bar(total=100, desc="windows", unit="windows") as bar:
        for _ in range(100):
            time.sleep(0.005)
            bar.update()


def test_elsewhere_than_on_a_terminal_progress_is_plain_lines_at_intervals(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "_LINE_EVERY_S", 0.05)
    began = time.perf_counter()
    work()
    most = (time.perf_counter() - began) / 0.05
    text = capsys.readouterr().err
    assert "\r" not in text and text.endswith("\n")
    lines = text.splitlines()
    assert 1 <= len(lines) <= most
    for line in lines:
        assert re.fullmatch(r"windows: \d+ of 100 windows in \d\d:\d\d, \d\d:\d\d left", line)


def test_short_work_says_nothing(capsys):
    work()
    assert capsys.readouterr().err == ""


def test_on_a_terminal_progress_is_a_bar_that_is_cleared(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(terminal, "_DELAY_S", 0.0)
    work()
    assert "\r" in screen.getvalue() and "\n" not in screen.getvalue()
    assert screen.getvalue().split("\r")[-2].strip() == ""


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=str)
def test_no_module_makes_a_bar_of_its_own(path):
    assert path.name == "terminal.py" or not re.search(r"\btqdm\(", path.read_text())


def said(stdout: int) -> subprocess.CompletedProcess:
    """Runs a command that prints a letter beyond ASCII on an ASCII terminal."""
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(PACKAGE.parent)}
    return subprocess.run(
        [sys.executable, "-c", SAY], env=environment, stdout=stdout, stderr=subprocess.PIPE
    )


def test_letters_that_a_terminal_lacks_are_escaped():
    result = said(subprocess.PIPE)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout == b"0.1 \\u2192 0.2\n"


def test_a_closed_pipe_and_a_full_disk_do_not_end_a_command():
    reading, writing = os.pipe()
    os.close(reading)
    full = os.open("/dev/full", os.O_WRONLY)
    for stdout in (writing, full):
        result = said(stdout)
        os.close(stdout)
        assert (result.returncode, result.stderr) == (0, b"")
