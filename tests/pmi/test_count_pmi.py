"""The count_pmi command: its folder is whole or not there, and nothing is lost."""

import dataclasses
import gzip
import html
import json
from pathlib import Path

import numpy as np
import pytest

from cmgems_jax import known_motifs
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.pmi import command as pmi_command
from cmgems_jax.pmi import known
from cmgems_jax.pmi import scores as pmi_scores
from cmgems_jax.pmi import table as pmi_table
from cmgems_jax.report import page
from cmgems_jax.windows import synthetic_genome
from tests.helpers import run_python


@pytest.fixture(scope="module")
def fasta(tmp_path_factory) -> str:
    """A small genome."""
    path = tmp_path_factory.mktemp("genome") / "small.fa"
    synthetic_genome.write_genome(path, 50_000, seed=3)
    return str(path)


def make(output: Path, **changes: object) -> pmi_table.PmiTable:
    """Runs the command's function with its defaults."""
    arguments = {"fasta": [], "counts": "", "k": 4, "segmentation": "published", "min_count": 101}
    return pmi_command.make(output=output, **{**arguments, **changes})


def test_the_folder_holds_table_summary_and_picture(fasta, tmp_path):
    table = make(tmp_path / "out", fasta=[fasta])
    again = pmi_table.read(tmp_path / "out" / "pmi.csv", 4)
    np.testing.assert_array_equal(again.rank, table.rank)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["bases"] == 50_000 and summary["k"] == 4 and summary["kmers_absent"] == 0
    assert list(summary["sha256"]) == [fasta] and summary["bases_per_second"] > 0
    assert {"contigs", "ambiguous", "seconds", "segmentation", "min_count"} <= summary.keys()
    assert (tmp_path / "out" / "pmi.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_kmers_ranked_first_and_last_are_compared_with_known_motifs(fasta, tmp_path, capsys):
    """From the shell's flags to the page: both strands, so a k-mer and its other strand tie."""
    table = make(tmp_path / "out", fasta=[fasta], k=4, strands="both", taxon="vertebrates")
    printed = capsys.readouterr().out
    assert "strands: both" in printed
    codes = [vocabulary.kmer_code(kmer) for kmer in ("CCTC", "GAGG")]
    assert table.count[codes[0]] == table.count[codes[1]]
    lines = (tmp_path / "out" / "known_motifs.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["end", "kmer", "motif", "id", "p", "q"]
    assert [line.split("\t")[0] for line in lines[1:]] == ["first"] * 50 + ["last"] * 50
    kmers, order = vocabulary.kmers(4), np.argsort(table.rank)
    assert [line.split("\t")[1] for line in lines[1:51]] == [kmers[code] for code in order[:50]]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    page.write(tmp_path / "out", tmp_path / "page.html")
    text = html.unescape((tmp_path / "page.html").read_text())
    for sentence in summary["known_motifs"].values():
        assert "match a motif of vertebrates" in sentence
        assert sentence in printed and sentence in text


def test_shares_are_of_the_kmers_and_of_their_letters_in_random_order():
    """E-boxes and SP boxes rank first here; so does AAAA..., whose letters have one order."""
    first = ("CACGTG", "CCTCCC", "GGGAGG", "AAAAAA")
    scores = np.zeros(4**6)
    scores[[vocabulary.kmer_code(kmer) for kmer in first]] = 4, 3, 2, 1
    count = np.ones(4**6, np.int64)
    table = pmi_table.PmiTable(6, count, scores, scores, pmi_scores.rank(scores))
    comparison = known_motifs.comparison("vertebrates")
    ends = known.compare(table, comparison, number=4, num_shuffles=10)
    assert ends[0].kmers == list(first) and ends[0].share == 1
    assert ends[0].matches[1] == ends[0].matches[2]  # one k-mer and its other strand
    assert 0.25 <= ends[0].chance < 1 and ends[0].chance_low < ends[0].chance < ends[0].chance_high
    assert ends[1].kmers == vocabulary.kmers(6)[-4:]  # ties by code: GGGG.. is the last
    alone = dataclasses.replace(table, count=(count.cumsum() == 1).astype(np.int64))
    assert known.compare(alone, comparison) == []  # poly-A: one k-mer is at neither end


def test_a_former_output_is_replaced_and_another_folder_is_not(fasta, tmp_path):
    make(tmp_path / "out", fasta=[fasta])
    make(tmp_path / "out", fasta=[fasta], k=3)
    assert len((tmp_path / "out" / "pmi.csv").read_text().splitlines()) == 65
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"holds other files \(thesis.tex\)"):
        make(tmp_path / "out", fasta=[fasta])
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("name", ["pmi.csv", "summary.json", "pmi.png"])
def test_a_folder_with_a_file_of_the_same_name_is_not_taken_for_a_former_output(
    fasta, tmp_path, name
):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"holds other files \\({name}\\)"):
        make(tmp_path, fasta=[fasta])
    assert (tmp_path / name).read_text() == "mine"


def test_an_output_that_is_a_link_stays_one_and_its_folder_is_filled(fasta, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    make(tmp_path / "link", fasta=[fasta])
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "pmi.csv").exists()
    with pytest.raises(InputError, match="holds other files"):
        make(tmp_path / "none" / "..", fasta=[fasta])


def test_a_former_output_is_put_back_when_the_new_one_cannot_take_its_place(
    fasta, tmp_path, monkeypatch
):
    make(tmp_path / "out", fasta=[fasta])
    before = (tmp_path / "out" / "pmi.csv").read_bytes()
    rename = Path.rename

    def fail_for_the_new(path: Path, target: Path) -> Path:
        if path.name == "made":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "out", fasta=[fasta], k=3)
    assert (tmp_path / "out" / "pmi.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_pieces_too_short_for_a_kmer_are_reported(tmp_path):
    path = tmp_path / "a.fa"
    path.write_text(">x\nACGNACGTACGTNAC\n")
    make(tmp_path / "out", fasta=[str(path)])
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["contigs"], summary["dropped_pieces"], summary["ambiguous"]) == (3, 2, 2)
    assert summary["bases"] == 13 and summary["kmers_counted"] == 5


def test_records_of_one_name_are_all_counted_and_noted_once(tmp_path, capsys):
    path = tmp_path / "a.fa"
    path.write_text(">x\nACGTA\n>x\nCCCC\n")
    assert make(tmp_path / "out", fasta=[str(path)]).count.sum() == 2 + 1
    assert capsys.readouterr().err.count("names that stand more than once: 1 (x, ...)") == 1


def test_counts_of_a_file_give_the_table_of_the_genome_but_for_contig_ends(fasta, tmp_path):
    whole = make(tmp_path / "one", fasta=[fasta])
    rows = (tmp_path / "one" / "pmi.csv").read_text().splitlines()
    counts = tmp_path / "counts.csv"
    counts.write_text("\n".join(",".join(row.split(",")[:2]) for row in rows) + "\n")
    again = make(tmp_path / "two", counts=str(counts))
    np.testing.assert_array_equal(again.count, whole.count)
    np.testing.assert_allclose(again.npmi, whole.npmi, atol=0.01)  # 5 contigs' ends of 50,000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "give either --fasta"),
        ({"fasta": ["a.fa"], "counts": "b.csv"}, "give either --fasta"),
        ({"fasta": ["missing.fa"]}, "missing.fa: no such file"),
        ({"fasta": ["missing.fa"], "k": 9}, "--k=9: expected 3 to 8"),
        ({"fasta": ["missing.fa"], "min_count": 1}, "--min_count=1: expected 2 or more"),
        ({"counts": "missing.csv"}, "missing.csv: no such file"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(InputError) as error:
        make(tmp_path / "out", **changes)
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_genome_that_breaks_off_leaves_the_former_output_as_it_was(fasta, tmp_path):
    make(tmp_path / "out", fasta=[fasta])
    before = (tmp_path / "out" / "pmi.csv").read_bytes()
    broken = tmp_path / "broken.fa.gz"
    broken.write_bytes(gzip.compress(Path(fasta).read_bytes())[:9_000])
    with pytest.raises(InputError, match="broken.fa.gz"):
        make(tmp_path / "out", fasta=[str(broken)])
    assert (tmp_path / "out" / "pmi.csv").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"out", "broken.fa.gz"}


def test_a_folder_that_cannot_be_made_is_refused_before_counting(fasta, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be made"):
        make(tmp_path / "file" / "out", fasta=[fasta])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is the current folder"):
        make(Path("."), fasta=[fasta])


def test_a_parent_folder_that_the_system_refuses_is_bad_input_not_a_traceback(
    fasta, tmp_path, monkeypatch
):
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match=r"cannot be made \(Read-only file system\)"):
        make(tmp_path / "new" / "out", fasta=[fasta])
    assert not list(tmp_path.iterdir())


def test_counts_of_another_k_are_refused(fasta, tmp_path):
    counts = tmp_path / "counts.csv"
    make(tmp_path / "one", fasta=[fasta], k=3)
    rows = (tmp_path / "one" / "pmi.csv").read_text().splitlines()
    counts.write_text("\n".join(",".join(row.split(",")[:2]) for row in rows) + "\n")
    with pytest.raises(InputError, match="holds 3-mers, --k=4"):
        make(tmp_path / "two", counts=str(counts))


def test_the_command_prints_one_line_and_exits_with_2_on_bad_input(tmp_path):
    result = run_python("-m", "launch.count_pmi", "--fasta=none.fa", f"--output={tmp_path}/out")
    assert result.returncode == 2
    assert result.stderr == "error: none.fa: no such file\n"
    assert not list(tmp_path.iterdir())
