"""Windows over records: every k-mer once, few shapes, bad input before the long work."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from cmgems_jax.config import TokensConfig
from cmgems_jax.downstream.inference import sliding
from cmgems_jax.downstream.inference.sliding import Tiling
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.genome.files import Records
from cmgems_jax.runtime import parallel


def random_bases(num: int, seed: int = 0) -> np.ndarray:
    """Returns uint8 (num,)."""
    return np.random.default_rng(seed).integers(0, 4, num).astype(np.uint8)


@pytest.mark.parametrize("token_stride", [1, 2, 3])
@pytest.mark.parametrize("step", [1, 2, 5, 8])
def test_every_kmer_of_a_record_belongs_to_one_window_and_stands_as_in_the_record(
    token_stride, step
):
    tiling = Tiling(k=3, token_stride=token_stride, window_tokens=8, step_tokens=step)
    for num_bases in (3, 4, 10, 11, 12, 26, 27, 28, 29, 30, 31, 97):
        bases = random_bases(num_bases)
        whole = vocabulary.tokenize(bases, 3, token_stride)
        found, windows = [], list(sliding.windows_of("x", bases, tiling))
        for window in windows:
            ids = vocabulary.tokenize(window.bases, 3, token_stride)
            assert len(ids) <= 8
            found.append(ids[window.first_owned : window.end_owned])
            np.testing.assert_array_equal(
                bases[window.start : window.start + len(window.bases)], window.bases
            )
        np.testing.assert_array_equal(np.concatenate(found), whole)
        assert [window.is_last for window in windows] == [False] * (len(windows) - 1) + [True]
        if len(whole) > 8:
            assert {len(window.bases) for window in windows} == {tiling.window_bases}


def test_a_kmer_that_two_windows_see_belongs_to_the_one_with_more_context():
    tiling = Tiling(k=3, token_stride=1, window_tokens=8, step_tokens=4)
    first, second = sliding.windows_of("x", random_bases(14), tiling)  # 12 k-mers: 0..7 and 4..11
    assert (first.first_owned, first.end_owned) == (0, 6)
    assert (second.first_owned, second.end_owned) == (2, 8)


def test_windows_go_by_half_their_length_where_no_stride_is_given():
    tiling = sliding.make_tiling(TokensConfig(k=3), 18, None, None)
    assert (tiling.window_tokens, tiling.step_tokens, tiling.window_bases) == (16, 8, 18)
    for num_tokens, starts in (
        (40, [0, 8, 16, 24]),
        (41, [0, 8, 16, 24, 25]),
        (17, [0, 1]),
        (16, [0]),
        (1, [0]),
    ):
        windows = sliding.windows_of("x", random_bases(num_tokens + 2), tiling)
        assert [window.start for window in windows] == starts
        assert sliding.window_starts(num_tokens, tiling) == starts


@pytest.mark.parametrize("step", range(1, 8))
def test_windows_from_both_ends_are_those_of_the_reverse_complement(step):
    tiling = Tiling(3, 1, window_tokens=8, step_tokens=step, strand="both")
    for num_tokens in range(1, 60):
        starts = sliding.window_starts(num_tokens, tiling)
        last = max(0, num_tokens - 8)
        assert starts == sorted({last - start for start in starts})
        assert (starts[0], starts[-1]) == (0, last) and max(np.diff(starts), default=0) <= step
        assert len(starts) <= 2 + -(-last // step)


@pytest.mark.parametrize(
    ("window", "stride", "message"),
    [
        (2, None, "--window=2: expected 3 to 18 bases"),
        (19, None, "--window=19: expected 3 to 18 bases"),
        (None, 0, "--stride=0: expected 1 to 16 bases"),
        (None, 17, "--stride=17: expected 1 to 16 bases"),
        (10, 9, "--stride=9: expected 1 to 8 bases"),
    ],
)
def test_windows_that_cannot_be_are_refused(window, stride, message):
    with pytest.raises(InputError, match=message):
        sliding.make_tiling(TokensConfig(k=3), 18, window, stride)


def test_a_stride_that_would_shift_the_tokens_is_refused():
    with pytest.raises(InputError, match="expected a multiple of 3"):
        sliding.make_tiling(TokensConfig(k=3, stride=3), 18, None, 4)


def write(path: Path, text: str) -> list[str]:
    """Writes a FASTA file and returns its path in a list."""
    path.write_text(text)
    return [str(path)]


def test_the_survey_counts_records_windows_and_ambiguous_letters(tmp_path):
    tiling = Tiling(k=3, token_stride=1, window_tokens=4, step_tokens=2)
    fasta = write(tmp_path / "a.fa", ">x\nACGTNNACG\n>y\nACG\n")
    found = sliding.survey(Records(fasta), tiling)
    assert found == sliding.Survey(2, 4, 12, 2)
    assert found.num_windows == len(list(sliding.read_windows(Records(fasta), tiling)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (">x\nACGT\n>y\nAC\n", "record 'y': 2 bases; expected at least 3"),
        (">x\nACGT\n>y\n", "record 'y': 0 bases; expected at least 3"),
        (">x\nACGT\n>x\nACGT\n", "record 'x': a second record of this name"),
        ("", "empty; expected FASTA records"),
        (">x\nACGTACGE\n", "letter 'E' at position 8"),
        (">x\nACGT\n>y\nACNGTNA\n", "record 'y': no 3-mer without ambiguous letters"),
    ],
)
def test_bad_records_are_named_before_the_long_work(tmp_path, text, message):
    tiling = Tiling(k=3, token_stride=1, window_tokens=4, step_tokens=2)
    with pytest.raises(InputError, match=message):
        sliding.survey(Records(write(tmp_path / "a.fa", text)), tiling, needs_known=True)


@pytest.mark.parametrize("token_stride", [1, 3])
def test_a_known_kmer_is_found_wherever_it_stands(token_stride):
    """Also where it straddles the windows in which a long record is looked through."""
    tiling = Tiling(k=3, token_stride=token_stride, window_tokens=4, step_tokens=2)
    for start in range(0, 97, token_stride):
        bases = np.full(100, vocabulary.AMBIGUOUS, np.uint8)
        with pytest.raises(InputError, match="no 3-mer without ambiguous letters"):
            sliding.survey([("x", bases)], tiling, needs_known=True)
        bases[start : start + 3] = 1
        assert sliding.survey([("x", bases)], tiling, needs_known=True).num_ambiguous == 97


def base_sum(params: dict, bases_BN: jnp.ndarray, owned_B2: jnp.ndarray) -> tuple[jnp.ndarray, ...]:
    """A model that tells what it was given."""
    known_BN = bases_BN < vocabulary.PADDING
    total_B = jnp.where(known_BN, bases_BN, 0).sum(axis=1, dtype=jnp.int32)
    width_B = jnp.full(len(bases_BN), bases_BN.shape[1], jnp.int32)
    return total_B + params["shift"], owned_B2[:, 1] - owned_B2[:, 0], width_B


def run(windows, tiling: Tiling, batch_size: int = 6) -> list:
    """Returns all windows with their outputs."""
    return list(
        sliding.run_windows(
            iter(windows), parallel.rows_program(base_sum, {"shift": np.int32(7)}), tiling,
            batch_size=batch_size, num_windows=len(windows), description="test",
        )
    )  # fmt: skip


def test_outputs_come_in_order_whatever_the_lengths_and_the_batch():
    tiling = Tiling(k=3, token_stride=1, window_tokens=200, step_tokens=100)
    rng = np.random.default_rng(0)
    windows = [
        window
        for index, length in enumerate(rng.integers(3, 500, 300).tolist())
        for window in sliding.windows_of(f"r{index}", random_bases(length, index), tiling)
    ]
    assert len(windows) > sliding.CHUNK_BATCHES * 8  # 4 devices: batches of 8, several chunks
    found = run(windows, tiling)
    assert [window for window, _ in found] == windows
    widths = set()
    for window, (total, owned, width) in found:
        assert total == window.bases.sum(dtype=int) + 7
        assert owned == window.end_owned - window.first_owned
        widths.add(int(width))
    assert {34, 202} < widths <= {34, 52, 102, 202}  # 32, 50, 100 and 200 k-mers


def test_windows_are_read_as_they_are_needed_not_all_at_once():
    tiling = Tiling(k=3, token_stride=1, window_tokens=40, step_tokens=20)
    num_read = 0

    def endless():
        nonlocal num_read
        while True:
            num_read += 1
            yield next(sliding.windows_of("x", random_bases(20), tiling))

    found = sliding.run_windows(
        endless(), parallel.rows_program(base_sum, {"shift": np.int32(0)}), tiling,
        batch_size=4, num_windows=1, description="test",
    )  # fmt: skip
    next(found)
    assert num_read == 4 * sliding.CHUNK_BATCHES


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("least", [11, 24])
def test_the_window_that_a_message_asks_for_is_long_enough_and_none_shorter_is(stride, least):
    tokens = TokensConfig(k=6, stride=stride)
    windows = [sliding.make_tiling(tokens, 512, window, None) for window in range(6, 60)]
    short = [one for one in windows if one.window_bases < least]
    with pytest.raises(InputError, match="--window=6: expected .* bases or more, why") as error:
        sliding.check_window(short[0], 6, least, "why")
    asked = int(re.search(r"expected (\d+)", str(error.value))[1])
    assert asked == 6 + len(short)
    sliding.check_window(windows[len(short)], asked, least, "why")
    with pytest.raises(InputError, match="the model takes 6 bases at a time: expected"):
        sliding.check_window(short[0], None, least, "why")
