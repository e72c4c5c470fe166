"""Batches are pure functions of (seed, step, process); the thread only moves the work."""

import threading
import time
import traceback

import numpy as np
import pytest

from cmgems_jax import vocabulary
from cmgems_jax.data import batches
from cmgems_jax.errors import InputError

NUM_BASES = 7


class FakeWindows:
    """Window i is filled with i, so that a row tells where it was read."""

    def __init__(self, num_windows: int) -> None:
        self.num_windows = num_windows

    def __len__(self) -> int:
        return self.num_windows

    def read(self, indices: np.ndarray) -> np.ndarray:
        assert np.all((indices >= 0) & (indices < self.num_windows))
        return np.repeat(np.asarray(indices, np.uint8)[:, None], NUM_BASES, axis=1)


def test_an_epoch_has_every_window_once_and_differs_from_the_next():
    orders = [batches.epoch_order(100, 3, epoch) for epoch in range(3)]
    assert all(np.array_equal(np.sort(order), np.arange(100)) for order in orders)
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], batches.epoch_order(100, 4, 0))


@pytest.mark.parametrize("batch_size", [1, 7, 10, 33])
def test_batches_are_the_epochs_one_after_another(batch_size):
    """Also when a batch is longer than an epoch."""
    num_windows, num_steps = 10, 20
    found = [
        batches.batch_indices(num_windows, seed=1, step=step, batch_size=batch_size)
        for step in range(num_steps)
    ]
    num_epochs = -(-num_steps * batch_size // num_windows)
    stream = [i for epoch in range(num_epochs) for i in batches.epoch_order(10, 1, epoch)]
    assert np.concatenate(found).tolist() == stream[: num_steps * batch_size]
    assert all(indices.dtype == np.int64 for indices in found)


def test_a_late_step_does_not_overflow():
    indices = batches.batch_indices(1_000, seed=0, step=2**31, batch_size=4_096)
    assert len(indices) == 4_096 and 0 <= indices.min() and indices.max() < 1_000


def test_a_batch_does_not_depend_on_what_was_read_before():
    def read(step):
        return batches.read_batch(FakeWindows(23), seed=5, step=step, batch_size=6)

    in_order = [read(step) for step in range(12)]
    for step in (11, 0, 7, 3):
        batches.epoch_order.cache_clear()
        assert np.array_equal(read(step), in_order[step])


@pytest.mark.parametrize("process_count", [1, 2, 3, 6])
def test_the_rows_of_the_processes_are_the_global_batch(process_count):
    arguments = {"seed": 0, "step": 4, "batch_size": 6}
    rows = [
        batches.read_batch(
            FakeWindows(20), **arguments, process_index=index, process_count=process_count
        )
        for index in range(process_count)
    ]
    assert np.array_equal(np.concatenate(rows), batches.read_batch(FakeWindows(20), **arguments))


def test_a_batch_that_the_processes_cannot_share_is_refused():
    with pytest.raises(InputError, match="batch_size=5.*multiple of the 2"):
        batches.read_batch(FakeWindows(9), seed=0, step=0, batch_size=5, process_count=2)


def evaluate(num_windows: int, batch_size: int = 4, **process) -> list[np.ndarray]:
    return list(
        batches.eval_batches(
            FakeWindows(11), num_windows=num_windows, batch_size=batch_size, **process
        )
    )


@pytest.mark.parametrize("num_windows, expected", [(0, 11), (5, 5), (100, 11)])
def test_evaluation_reads_each_chosen_window_once_and_pads_the_last_batch(num_windows, expected):
    rows = np.concatenate(evaluate(num_windows))
    assert len(rows) % 4 == 0
    first = rows[:expected, 0]
    assert len(set(first.tolist())) == expected
    assert np.all(rows[expected:] == vocabulary.PADDING)
    assert np.array_equal(rows, np.concatenate(evaluate(num_windows)))


def test_evaluation_rows_are_not_simply_the_first_ones():
    assert np.concatenate(evaluate(5))[:5, 0].tolist() != [0, 1, 2, 3, 4]


@pytest.mark.parametrize("num_windows", [0, 4, 5, 6])
def test_evaluation_rows_of_the_processes_are_the_global_batches(num_windows):
    parts = [evaluate(num_windows, process_index=i, process_count=2) for i in range(2)]
    for whole, first, second in zip(evaluate(num_windows), *parts, strict=True):
        assert np.array_equal(np.concatenate([first, second]), whole)


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
