"""Batches are pure functions of (seed, step, process); the thread only moves the work."""

import dataclasses
import threading
import time
import traceback

import numpy as np
import pytest

from cmgems_jax.config import Config, DataConfig, ModelConfig, TokensConfig
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.windows import batches, packing
from cmgems_jax.windows.packing import EMPTY, Batch, Packing

CONFIG = Config(
    batch_size=4, data=DataConfig(num_tokens=10), tokens=TokensConfig(k=3),
    model=ModelConfig(num_positions=10),
)  # fmt: skip


class FakeWindows:
    """Window i is filled with i, as far as it goes, so that a row tells where it was read."""

    def __init__(self, num_windows: int) -> None:
        self.num_bases = CONFIG.window_bases
        self.lengths = np.random.default_rng(0).integers(3, self.num_bases + 1, num_windows)
        self.lengths[::2] = self.num_bases

    def __len__(self) -> int:
        return len(self.lengths)

    def read(self, indices: np.ndarray) -> np.ndarray:
        assert np.all((indices >= 0) & (indices < len(self)))
        bases = np.repeat(np.asarray(indices, np.uint8)[:, None], self.num_bases, axis=1)
        bases[np.arange(self.num_bases) >= self.lengths[indices][:, None]] = vocabulary.PADDING
        return bases


def pack(num_windows: int) -> Packing:
    return packing.pack(FakeWindows(num_windows).lengths, CONFIG)


def test_an_epoch_has_every_window_once_and_differs_from_the_next():
    packed = pack(100)
    rows = [batches.epoch_rows(packed, 3, epoch) for epoch in range(3)]
    for epoch in rows:
        assert np.array_equal(np.sort(epoch[epoch != EMPTY]), np.arange(100))
    assert not np.array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[0], batches.epoch_rows(packed, 4, 0))


@pytest.mark.parametrize("batch_size", [1, 7, 10, 33])
def test_batches_are_the_epochs_one_after_another(batch_size):
    """Also when a batch is longer than an epoch."""
    packed, num_steps = pack(10), 20
    found = [
        batches.batch_rows(packed, seed=1, step=step, batch_size=batch_size)
        for step in range(num_steps)
    ]
    num_epochs = -(-num_steps * batch_size // len(packed.slot_RM))
    stream = np.concatenate([batches.epoch_rows(packed, 1, epoch) for epoch in range(num_epochs)])
    assert np.array_equal(np.concatenate(found), stream[: num_steps * batch_size])
    assert all(rows.dtype == np.int32 for rows in found)


def test_a_late_step_does_not_overflow():
    rows = batches.batch_rows(pack(1_000), seed=0, step=2**31, batch_size=4_096)
    assert len(rows) == 4_096 and EMPTY <= rows.min() and rows.max() < 1_000


def read(num_windows: int, **arguments) -> Batch:
    """Returns what `read_batch` does, checked against the windows that it says it read."""
    windows = FakeWindows(num_windows)
    batch = batches.read_batch(windows, pack(num_windows), **arguments)
    for bases, number in zip(
        batch.bases.reshape(-1, windows.num_bases), batch.index.ravel(), strict=True
    ):
        length = 0 if number == EMPTY else windows.lengths[number]
        assert np.all(bases[:length] == number) and np.all(bases[length:] == vocabulary.PADDING)
    return batch


def assert_equal(one: Batch, other: Batch) -> None:
    for x, y in zip(one, other, strict=True):
        np.testing.assert_array_equal(x, y)


def joined(parts: list[Batch]) -> Batch:
    """Returns rows behind each other."""
    return Batch(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def test_a_batch_does_not_depend_on_what_was_read_before():
    in_order = [read(23, seed=5, step=step, batch_size=6) for step in range(12)]
    for step in (11, 0, 7, 3):
        batches.epoch_rows.cache_clear()
        assert_equal(read(23, seed=5, step=step, batch_size=6), in_order[step])


@pytest.mark.parametrize("process_count", [1, 2, 3, 6])
def test_the_rows_of_the_processes_are_the_global_batch(process_count):
    arguments = {"seed": 0, "step": 4, "batch_size": 6}
    parts = [
        read(20, **arguments, process_index=index, process_count=process_count)
        for index in range(process_count)
    ]
    assert_equal(joined(parts), read(20, **arguments))


def test_a_batch_that_the_processes_cannot_share_is_refused():
    with pytest.raises(InputError, match="batch_size=5.*multiple of the 2"):
        batches.read_batch(FakeWindows(9), pack(9), seed=0, step=0, batch_size=5, process_count=2)


def evaluate(num_windows: int, windows_per_row: int = 2, **process) -> list[Batch]:
    config = dataclasses.replace(CONFIG, eval_windows=num_windows)
    config.data = dataclasses.replace(config.data, windows_per_row=windows_per_row)
    return list(batches.eval_batches(FakeWindows(11), config, **process))


@pytest.mark.parametrize("num_windows, expected", [(0, 11), (5, 5), (100, 11)])
def test_evaluation_reads_each_chosen_window_once_and_fills_the_last_batch(num_windows, expected):
    whole = joined(evaluate(num_windows))
    assert len(whole.index) % 4 == 0
    chosen = whole.index[whole.index != EMPTY].tolist()
    assert len(chosen) == len(set(chosen)) == expected
    assert np.all(whole.bases[whole.index == EMPTY] == vocabulary.PADDING)
    assert np.all(whole.bases[whole.index != EMPTY][:, 0] == chosen)
    assert_equal(whole, joined(evaluate(num_windows)))


def test_evaluation_windows_are_not_simply_the_first_ones():
    index = joined(evaluate(5)).index
    assert sorted(index[index != EMPTY].tolist()) != [0, 1, 2, 3, 4]


def test_evaluation_reads_the_same_windows_however_they_are_packed():
    packed, alone = (joined(evaluate(5, number)).index for number in (2, 1))
    assert np.array_equal(np.sort(packed[packed != EMPTY]), np.sort(alone[alone != EMPTY]))


@pytest.mark.parametrize("num_windows", [0, 4, 5, 6])
def test_evaluation_rows_of_the_processes_are_the_global_batches(num_windows):
    parts = [evaluate(num_windows, process_index=i, process_count=2) for i in range(2)]
    for whole, *share in zip(evaluate(num_windows), *parts, strict=True):
        assert_equal(joined(share), whole)


def prefetch_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("prefetch")]


def test_prefetch_yields_in_order_and_leaves_no_thread():
    with batches.prefetch(lambda step: step * step, range(50)) as stream:
        assert list(stream) == [step * step for step in range(50)]
    assert not prefetch_threads()


def test_prefetch_works_in_one_other_thread_at_most_depth_ahead():
    made = []

    def make(step):
        made.append((step, threading.get_ident()))
        return step

    with batches.prefetch(make, range(20), depth=3) as stream:
        for step, _ in zip(range(5), stream, strict=False):
            time.sleep(0.01)
            assert len(made) <= step + 1 + 3
    assert len({thread for _, thread in made}) == 1
    assert made[0][1] != threading.get_ident()


def test_an_exception_reaches_the_consumer_with_its_traceback():
    def make(step):
        return 1 // (3 - step)

    seen = []
    with (
        pytest.raises(ZeroDivisionError) as raised,
        batches.prefetch(make, range(10)) as stream,
    ):
        for result in stream:
            seen.append(result)
    assert seen == [0, 0, 1]
    assert "1 // (3 - step)" in "".join(traceback.format_exception(raised.value))
    assert not prefetch_threads()


def test_closing_early_stops_and_joins_the_thread():
    made = []
    with batches.prefetch(lambda step: made.append(step), iter(range(10**9))) as stream:
        next(stream)
    assert not prefetch_threads()
    num_made = len(made)
    time.sleep(0.02)
    assert len(made) == num_made <= 4
    assert list(stream) == []


def test_the_consumer_s_waiting_is_recorded():
    with batches.prefetch(lambda step: time.sleep(0.05), range(5)) as stream:
        list(stream)
        slow = stream.waited_s
    with batches.prefetch(lambda step: step, range(5)) as stream:
        for _ in stream:
            time.sleep(0.01)
    assert slow > 0.1 and stream.waited_s < slow
