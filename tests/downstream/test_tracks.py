"""Tracks: bins by hand arithmetic, bases by a slow reader, coordinates as browsers have them."""

from pathlib import Path

import jax
import numpy as np
import pyBigWig
import pytest

from cmgems_jax.downstream.inference import base_track, predict_track, sliding, tracks
from cmgems_jax.downstream.inference.settings import BaseTrackSettings, WindowSettings
from cmgems_jax.errors import InputError
from cmgems_jax.genome import reference, vocabulary
from tests.downstream.random_classifier import make_classifier, slow_logits
from tests.downstream.random_masked_lm import other_strand, save, slow_log_posterior
from tests.downstream.test_variants import random_text, write_fasta

WINDOW, STEP = 22, 10  # bases: 20 3-mers, and half of them
TILING = sliding.Tiling(3, 1, window_tokens=20, step_tokens=10, strand="both")
GENOME = {
    "one": random_text(47, 1),
    "two": random_text(20, 2) + "N" + random_text(40, 3),
    "short": random_text(12, 4),
}


def intervals(path: Path) -> list[tuple[str, int, int, float]]:
    """Returns the bins of a track, read by pyBigWig where it is binary."""
    if path.suffix == ".bw":
        with pyBigWig.open(str(path)) as file:
            return [(name, *bin_) for name in file.chroms() for bin_ in file.intervals(name) or ()]
    lines = (line.split("\t") for line in path.read_text().splitlines())
    return [(name, int(start), int(end), float(value)) for name, start, end, value in lines]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random model and its run's folder."""
    folder = tmp_path_factory.mktemp("tracks") / "run"
    return save(folder), folder


@pytest.fixture
def fasta(tmp_path) -> Path:
    return write_fasta(tmp_path / "genome.fa", GENOME)


def slow_surprises(model, text: str, hidden: int) -> list[float]:
    """Returns the mean over the strands of -log p of a base in every window that has its k-mers.

    The window in which the base stands farthest from an end is the first.
    """
    values = []
    for start in sliding.window_starts(len(text) - 2, TILING):
        seen, place = text[start : start + WINDOW], hidden - start
        if 2 <= place < len(seen) - 2:
            back = len(seen) - 1 - place
            total = slow_log_posterior(model, seen, place)[text[hidden]]
            total += slow_log_posterior(model, other_strand(seen), back)[other_strand(text[hidden])]
            values.append((min(place, back), -total / 2))
    return [value for _, value in sorted(values, reverse=True)]


def test_every_base_is_scored_once_in_a_window_with_its_kmers(model, fasta, tmp_path):
    """One base hidden at a time: its value is that of the window where it has more context."""
    settings = BaseTrackSettings(spacing=WINDOW, batch_size=8)
    mean = base_track.base_track(model[1], fasta, tmp_path / "x.bedgraph", settings)
    found = intervals(tmp_path / "x.bedgraph")
    value_of = {(name, start): value for name, start, _, value in found}
    assert all(end == start + 1 for _, start, end, _ in found) and len(value_of) == len(found)
    scored = {
        (name, place)
        for name, text in GENOME.items()
        for place in range(2, len(text) - 2)
        if "N" not in text[place - 2 : place + 3]
    }
    assert {*value_of} == scored
    num_central = 0
    for (name, place), value in value_of.items():
        slow = slow_surprises(model[0], GENOME[name], place)
        assert min(abs(value - one) for one in slow) < 2e-4  # six digits, float32
        num_central += abs(value - slow[0]) < 2e-4
    assert num_central >= 0.95 * len(scored)  # the others stand in the middle of two windows
    assert mean == pytest.approx(np.mean([*value_of.values()]), abs=1e-5)


def test_a_bigwig_holds_the_bedgraph_and_a_cut_off_track_resumes(
    model, fasta, tmp_path, monkeypatch, capsys
):
    """Bases hidden together, 8 apart; the second write is cut off, and torn."""
    settings = BaseTrackSettings(spacing=8, batch_size=8)
    base_track.base_track(model[1], fasta, tmp_path / "x.bedgraph", settings)
    monkeypatch.setattr(base_track, "_WINDOWS_AT_ONCE", 2)
    monkeypatch.setattr(base_track, "_AT_ONCE", 7)
    opened = tracks.opened

    def breaking(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(tracks, "opened", breaking)
    with pytest.raises(KeyboardInterrupt):
        base_track.base_track(model[1], fasta, tmp_path / "x.bw", settings)
    (rows,) = tmp_path.glob(".x.bw.unfinished/rows")
    rows.write_bytes(rows.read_bytes()[: 4 * 30])  # within the third window
    monkeypatch.setattr(tracks, "opened", opened)
    base_track.base_track(model[1], fasta, tmp_path / "x.bw", settings)
    assert "resumed: 2 of 11 windows were scored before" in capsys.readouterr().out
    expected = intervals(tmp_path / "x.bedgraph")
    found = intervals(tmp_path / "x.bw")
    assert [one[:3] for one in found] == [one[:3] for one in expected]
    np.testing.assert_allclose([one[3] for one in found], [one[3] for one in expected], rtol=1e-5)
    with pyBigWig.open(str(tmp_path / "x.bw")) as file:
        assert file.chroms() == {name: len(text) for name, text in GENOME.items()}
    assert not list(tmp_path.glob(".*"))


def test_bases_hidden_in_one_pass_are_a_grid_and_all_have_their_turn():
    tiling = sliding.Tiling(k=3, token_stride=1, window_tokens=20, step_tokens=10)
    bases = vocabulary.encode(random_text(70, 1))
    for is_reverse in (False, True):
        seen = []
        for window in sliding.windows_of("x", bases, tiling):
            rows, hidden = base_track._passes(window, tiling, 5, is_reverse)
            assert rows.shape == (5, WINDOW) and hidden.dtype == np.int32
            for row, asked in zip(rows, hidden, strict=True):
                asked = np.sort(asked[asked >= 0])
                assert (np.diff(asked) == 5).all()
                place = WINDOW - 1 - asked if is_reverse else asked
                seen += (window.start + place).tolist()
                letters = row[asked] ^ 1 if is_reverse else row[asked]
                np.testing.assert_array_equal(letters, bases[window.start + place])
        assert sorted(seen) == list(range(70))


@pytest.mark.parametrize("stride", [None, 6])
def test_bins_are_the_means_of_the_windows_that_cover_them(fasta, tmp_path, stride):
    """A contig of 47 bases: windows from 0, 10, 20, 25, of 22 bases each."""
    classifier = make_classifier(num_classes=3)
    settings = WindowSettings(stride=stride, batch_size=4)
    for name in ("x.bedgraph", "x.bw", "x.bed"):
        output = tmp_path / name
        predict_track.predict_track(classifier, str(fasta), output, settings, label="class1")
    found = intervals(tmp_path / "x.bedgraph")
    sums, counts = ({name: np.zeros(len(text)) for name, text in GENOME.items()} for _ in "ab")
    shares = {name: np.zeros((len(text), 3)) for name, text in GENOME.items()}
    for name, text in GENOME.items():
        last = max(0, len(text) - WINDOW)
        for start in sorted({*range(0, last, stride or STEP), last}):
            part = text[start : start + WINDOW]
            share = np.asarray(jax.nn.softmax(slow_logits(classifier, vocabulary.encode(part))))
            sums[name][start : start + WINDOW] += share[1]
            shares[name][start : start + WINDOW] += share
            counts[name][start : start + WINDOW] += 1
    covered = {name: np.full(len(text), np.nan) for name, text in GENOME.items()}
    for name, start, end, value in found:
        assert start < end and np.isnan(covered[name][start:end]).all()  # none overlaps
        covered[name][start:end] = value
    for name in GENOME:
        np.testing.assert_allclose(covered[name], sums[name] / counts[name], atol=5e-6)
    if stride is None:
        assert [bin_[1:3] for bin_ in found[:7]] == [
            (0, 10), (10, 20), (20, 22), (22, 25), (25, 32), (32, 42), (42, 47),
        ]  # fmt: skip
    again = intervals(tmp_path / "x.bw")
    assert [one[:3] for one in again] == [one[:3] for one in found]
    np.testing.assert_allclose([one[3] for one in again], [one[3] for one in found], atol=1e-6)
    likeliest = {name: shares[name].argmax(axis=1) == 1 for name in GENOME}
    called = {name: np.zeros(len(text), bool) for name, text in GENOME.items()}
    for line in (tmp_path / "x.bed").read_text().splitlines():
        name, start, end, label, score = line.split("\t")
        called[name][int(start) : int(end)] = True
        mean = 1_000 * np.mean((sums[name] / counts[name])[int(start) : int(end)])
        assert label == "class1" and abs(int(score) - mean) <= 0.51
    for name in GENOME:
        np.testing.assert_array_equal(called[name], likeliest[name])


def test_windows_of_a_long_contig_are_read_one_by_one(tmp_path, monkeypatch):
    fasta = write_fasta(tmp_path / "long.fa", {"x": random_text(5_000, 1)})
    tiling = sliding.Tiling(k=3, token_stride=1, window_tokens=20, step_tokens=10)
    fetch, sizes = reference.Reference.fetch, []

    def counted(self, contig, start, end):
        sizes.append(end - start)
        return fetch(self, contig, start, end)

    monkeypatch.setattr(reference.Reference, "fetch", counted)
    with reference.opened(fasta) as genome:
        windows = sliding.read_windows(genome, tiling)
        starts = [next(windows).start for _ in range(3)]
    assert starts == [0, 10, 20] and sizes == [WINDOW] * 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"label": "enhancer"}, "--class=enhancer: no such class; .* class0, class1"),
        ({"fasta": ["genome.fa", "b.fa"]}, "expected one file for a track"),
        ({"output": "x.wig"}, "unknown kind of file '.wig'"),
        ({"fasta": "tiny.fa"}, "contig 'y': 2 bases; expected at least 3"),
    ],
)
def test_a_track_that_cannot_be_is_refused(fasta, tmp_path, monkeypatch, call, message):
    monkeypatch.chdir(tmp_path)
    Path("tiny.fa").write_text(">y\nAC\n")
    options = {"fasta": "genome.fa", "output": "x.bw", **call}
    with pytest.raises(InputError, match=message):
        predict_track.predict_track(make_classifier(), **options)
    assert {path.name for path in tmp_path.iterdir()} == {"genome.fa", "tiny.fa"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"spacing": 3}, "--spacing=3: expected more than k=3"),
        ({"window": 11}, "--window=11: expected 12 bases or more"),
        ({"window": 23}, "--window=23: expected 3 to 22"),
    ],
)
def test_a_track_of_bases_that_cannot_be_is_refused(model, fasta, tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        settings = BaseTrackSettings(**settings)
        base_track.base_track(model[1], fasta, tmp_path / "x.bw", settings)
