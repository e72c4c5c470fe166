"""Paths as they are typed: on the command line, in configs and in code."""

import os
from pathlib import Path

import pytest

from cmgems_jax.config import Config, DataConfig, PmiConfig
from cmgems_jax.genome import input_files
from cmgems_jax.runtime import command
from tests.helpers import run_python


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder and the home folder, with some files."""
    for name in ("a.fa", "b.fa", "E.coli, complete genome.fa", "[x].fa"):
        (tmp_path / name).write_text(">x\nACGTACGT\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        ("a.fa", ["a.fa"]),
        ("a.fa,b.fa", ["a.fa", "b.fa"]),
        (" a.fa , b.fa ,", ["a.fa", "b.fa"]),
        ("a.fa,\n    b.fa", ["a.fa", "b.fa"]),
        ('"E.coli, complete genome.fa"', ["E.coli, complete genome.fa"]),
        (
            'a.fa, "E.coli, complete genome.fa" ,b.fa',
            ["a.fa", "E.coli, complete genome.fa", "b.fa"],
        ),
        ("E.coli, complete genome.fa", ["E.coli, complete genome.fa"]),
        ("?.fa", ["a.fa", "b.fa"]),
        ("b.fa,[ab].fa", ["b.fa", "a.fa", "b.fa"]),
        ("[x].fa", ["[x].fa"]),
        ("none*.fa", ["none*.fa"]),
        ("gs://bucket/*.fa,a.fa", ["gs://bucket/*.fa", "a.fa"]),
    ],
)
def test_a_list_of_files_takes_blanks_quotes_and_patterns(folder, text, names):
    assert Config(data=DataConfig(fasta=text)).fasta_paths == names
    assert input_files.expand_list(text) == names


def test_a_leading_tilde_is_the_home_folder_in_every_path_field(folder):
    config = Config(
        data=DataConfig(fasta='~/a.fa, "~/E.coli, complete genome.fa"', dir="~/windows"),
        pmi=PmiConfig(table="~/pmi.csv"),
    )
    assert config.fasta_paths == [f"{folder}/a.fa", f"{folder}/E.coli, complete genome.fa"]
    assert config.data_dir("runs/a") == folder / "windows"
    assert config.pmi_source == f"{folder}/pmi.csv"
    assert Config().data_dir("runs/a") == Path("runs/a/data")


@pytest.mark.parametrize(
    ("typed", "expanded"),
    [
        ("--output=~/x", "--output=HOME/x"),
        ("--config=~/mine.py", "--config=HOME/mine.py"),
        ("--config.data.dir=~", "--config.data.dir=HOME"),
        ('--checkpoint=runs/a, ~/b,~/c,"~/d, e"', '--checkpoint=runs/a, HOME/b,HOME/c,"HOME/d, e"'),
        ("--output=a~b/~/c", "--output=a~b/~/c"),
        ("--label=~no_such_user", "--label=~no_such_user"),
    ],
)
def test_a_leading_tilde_is_the_home_folder_in_every_flag(folder, typed, expanded):
    assert command._expand_home(typed) == expanded.replace("HOME", str(folder))


def test_a_command_reads_and_writes_below_the_home_folder(folder):
    flags = ['--fasta=~/a.fa, "~/E.coli, complete genome.fa"', "--k=3", "--output=~/counts"]
    done = run_python("-m", "launch.count_pmi", *flags, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "counts" / "pmi.csv").is_file() and not (folder / "~").exists()
    assert done.stdout.startswith("16 bases in 2 contigs")


def test_no_command_waits_for_a_pipe(folder):
    """Whoever opens one that nobody writes to is blocked."""
    os.mkfifo("pipe")
    for module, flags in (
        ("count_pmi", ["--counts=pipe", "--output=out"]),
        ("doctor", ["--config=pipe"]),
    ):
        done = run_python("-m", f"launch.{module}", *flags, cwd=folder)
        assert done.returncode == 2
        assert done.stderr.startswith("error: pipe: is a pipe, not a regular file; expected ")
        assert done.stderr.count("\n") == 1
