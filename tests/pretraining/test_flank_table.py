"""Where bases are hidden, and what tables of 6-mers know of them, against loops over strings."""

import errno
import itertools
import math
import random
import shutil
import tempfile

import numpy as np
import pytest

from cmgems_jax.genome import vocabulary
from cmgems_jax.pretraining import base_evaluation, flank_table
from cmgems_jax.windows import dataset
from tests.masking.slow_masking import LETTERS
from tests.model import slow_bases


def test_marks_of_a_run_are_sums_over_all_hidden_letters():
    """A run of three: every way to fill it by a chain of 6-mers from either side."""
    rng = random.Random(0)
    genome = "".join(rng.choices(LETTERS, weights=(4, 3, 2, 1), k=3_000))
    counts = {"".join(word): 1 for word in itertools.product(LETTERS, repeat=6)}  # add-one
    for start in range(len(genome) - 5):
        counts[genome[start : start + 6]] += 1
    sixmers_V = np.array([counts[word] - 1 for word in vocabulary.kmers(6)])
    window, start, run = genome[100:140], 17, 3

    def after(context: str, letter: str) -> float:
        return counts[context + letter] / sum(counts[context + other] for other in LETTERS)

    def before(letter: str, context: str) -> float:
        return counts[letter + context] / sum(counts[other + context] for other in LETTERS)

    def chain(place: int, letter: str) -> tuple[float, float]:
        """Sums over the run with a letter at a place: from the left, and from the right."""
        left = right = 0.0
        for filling in itertools.product(LETTERS, repeat=run):
            if filling[place] != letter:
                continue
            text = window[start - 5 : start] + "".join(filling) + window[start + run :]
            left += math.prod(after(text[i : i + 5], text[i + 5]) for i in range(run))
            right += math.prod(before(text[5 + i], text[6 + i : 11 + i]) for i in range(run))
        return left, right

    total = sum(counts.values())
    share = {
        letter: sum(count for word, count in counts.items() if word[0] == letter) / total
        for letter in LETTERS
    }
    expected = dict.fromkeys(flank_table.MARKS, 0.0)
    for place in range(run):
        both = {letter: chain(place, letter) for letter in LETTERS}
        flanks = {letter: both[letter][0] * both[letter][1] / share[letter] for letter in LETTERS}
        true = window[start + place]
        expected["composition"] -= math.log(share[true]) / run
        expected["order_5"] -= math.log(both[true][0]) / run
        expected["flanks"] -= math.log(flanks[true] / sum(flanks.values())) / run
    found = flank_table.marks(
        vocabulary.encode(window)[None], np.array([[start, -1]]), run, sixmers_V
    )
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("k", [3, 6, 8])
def test_no_token_touches_two_hidden_runs_and_every_other_base_is_shown(k):
    length_W = np.array([75, 75, 60, 22, 9])
    bases_WN = np.full((5, 75), vocabulary.PADDING, np.uint8)
    for row_N, length in zip(bases_WN, length_W, strict=True):
        row_N[:length] = 0
    hidden = base_evaluation.hide(bases_WN, k, k)
    for way_WH, run in zip(hidden.positions(), (1, k), strict=True):
        assert (way_WH[0] >= 0).sum() >= 2 * run
        assert (way_WH[4] == -1).all(), "9 bases are too few for five on either side"
        for position_H, length in zip(way_WH, length_W, strict=True):
            bases = set(position_H[position_H >= 0].tolist())
            touched = [slow_bases.covering(base, length, k, 1) for base in bases]
            assert all(len(tokens) == k for tokens in touched), "a base near an end"
            masked = set().union(*touched)
            shown = {b for t in range(length - k + 1) if t not in masked for b in range(t, t + k)}
            assert shown == set(range(length)) - bases
            room = hidden.room(k, 1)
            assert len(masked) <= room
    for (start_WS, run), way_WH in zip(hidden.ways, hidden.positions(), strict=True):
        for start_S, position_H in zip(start_WS, way_WH, strict=True):
            starts, bases = start_S[start_S >= 0], set(position_H.tolist())
            beside = [{*range(s - 5, s), *range(s + run, s + run + 5)} for s in starts.tolist()]
            assert not any(context & bases for context in beside), "a mark reads a hidden base"
    again = base_evaluation.hide(bases_WN, k, k)
    np.testing.assert_array_equal(again.positions(), hidden.positions())


def test_sixmers_of_a_data_set_that_cannot_be_written_are_counted(unbroken, tmp_path, monkeypatch):
    folder = shutil.copytree(unbroken[0] / "data", tmp_path / "data")
    (folder / dataset.SIXMERS_NAME).unlink(missing_ok=True)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    kept = dataset.train_sixmers(folder)
    monkeypatch.undo()
    np.testing.assert_array_equal(dataset.train_sixmers(unbroken[0] / "data"), kept)
    assert not (folder / dataset.SIXMERS_NAME).exists()


def test_sixmers_of_the_training_windows_are_counted_once_and_kept(unbroken):
    workdir, _ = unbroken
    windows = dataset.open_split(workdir / "data", "train")
    rows = windows.read(np.arange(len(windows)))
    np.testing.assert_array_equal(np.concatenate(list(windows.read_all(100))), rows)
    counts = dict.fromkeys(vocabulary.kmers(6), 0)
    for row_N in rows:
        text = vocabulary.decode(row_N)
        for start in range(len(text) - 5):
            counts[text[start : start + 6]] += 1
    kept = np.load(workdir / "data" / dataset.SIXMERS_NAME)  # the run's own evaluations
    np.testing.assert_array_equal(kept, list(counts.values()))
    np.testing.assert_array_equal(dataset.train_sixmers(workdir / "data"), kept)
