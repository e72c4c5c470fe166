"""Batches as pure functions of (seed, step, process), and a thread that reads ahead.

There is no iterator state: the windows are permuted by a key of (seed, epoch),
the epochs follow each other without a gap, and step s takes rows s*B to (s+1)*B
of that stream. A resumed run therefore sees exactly the batches it would have.
"""

import collections
import functools
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np

from cmgems_jax import vocabulary
from cmgems_jax.data.windows import Windows
from cmgems_jax.errors import InputError

T = TypeVar("T")
_EVAL_KEY = 0  # the same windows in every run, whatever its seed


@functools.lru_cache(maxsize=2)
def epoch_order(num_windows: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of the windows in one epoch, int64 (num_windows,), read-only."""
    order = np.random.default_rng((seed, epoch)).permutation(num_windows)
    order.flags.writeable = False
    return order


def batch_indices(num_windows: int, *, seed: int, step: int, batch_size: int) -> np.ndarray:
    """Returns the windows of the global batch of one step.

    Args:
      num_windows: windows of the split, 1 or more.
      seed: of the run.
      step: 0 for the first.
      batch_size: rows of the global batch; may exceed `num_windows`.

    Returns:
      int64 (batch_size,), each in [0, num_windows).
    """
    epoch_B, place_B = np.divmod(step * batch_size + np.arange(batch_size), num_windows)
    orders = [
        epoch_order(num_windows, seed, epoch)[place_B[epoch_B == epoch]]
        for epoch in range(epoch_B[0], epoch_B[-1] + 1)
    ]
    return np.concatenate(orders)


def read_batch(
    windows: Windows,
    *,
    seed: int,
    step: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> np.ndarray:
    """Returns this process's rows of the global batch of one step.

    Args:
      windows: where to read.
      seed: of the run.
      step: 0 for the first.
      batch_size: rows of the global batch, a multiple of `process_count`.
      process_index: of this process.
      process_count: number of processes; their rows follow each other.

    Returns:
      uint8 (batch_size / process_count, n), base codes.
    """
    rows = _process_rows(batch_size, process_index, process_count)
    indices = batch_indices(len(windows), seed=seed, step=step, batch_size=batch_size)
    return windows.read(indices[rows])


def eval_batches(
    windows: Windows,
    *,
    num_windows: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[np.ndarray]:
    """Yields this process's rows of every evaluation batch, the same in every run.

    The last batch is filled with rows of padding: no token, hence no loss.

    Args:
      windows: the validation split.
      num_windows: how many; 0 (or more than there are) = all.
      batch_size: rows of a global batch, a multiple of `process_count`.
      process_index: of this process.
      process_count: number of processes.

    Yields:
      uint8 (batch_size / process_count, n), base codes.
    """
    rows = _process_rows(batch_size, process_index, process_count)
    chosen = np.random.default_rng(_EVAL_KEY).permutation(len(windows))
    chosen = np.sort(chosen[: num_windows or None])
    for first in range(0, len(chosen), batch_size):
        bases_BN = windows.read(chosen[first : first + batch_size][rows])
        num_missing = batch_size // process_count - len(bases_BN)
        yield np.pad(bases_BN, ((0, num_missing), (0, 0)), constant_values=vocabulary.PADDING)


def _process_rows(batch_size: int, process_index: int, process_count: int) -> slice:
    """The rows of the global batch that one process reads."""
    if batch_size % process_count:
        raise InputError(
            f"batch_size={batch_size}: expected a multiple of the {process_count} processes"
        )
    num_rows = batch_size // process_count
    return slice(process_index * num_rows, (process_index + 1) * num_rows)


class prefetch(Generic[T]):  # noqa: N801, used as a function
    """Yields `make(step)` for every step in order, made ahead by one background thread.

    What `make` raises is raised at the consumer, with its traceback. Use it in
    a `with` block: leaving the block drops what is not begun and joins the
    thread.

    Attributes:
      waited_s: seconds that the consumer waited so far; near 0 when the
        device, not the data, is what takes the time.
    """

    def __init__(self, make: Callable[[int], T], steps: Iterable[int], *, depth: int = 2) -> None:
        """Starts the thread, which stays at most `depth` results ahead."""
        self.waited_s = 0.0
        self._make = make
        self._steps = iter(steps)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._ahead: collections.deque[Future[T]] = collections.deque()
        for _ in range(depth):
            self._begin_next()

    def __iter__(self) -> "prefetch[T]":
        """Returns itself."""
        return self

    def __next__(self) -> T:
        """Returns the next result, waiting for it where needed."""
        if not self._ahead:
            self.close()
            raise StopIteration
        started = time.perf_counter()
        try:
            result = self._ahead.popleft().result()
        except BaseException:
            self.close()
            raise
        self.waited_s += time.perf_counter() - started
        self._begin_next()
        return result

    def __enter__(self) -> "prefetch[T]":
        """Returns itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops the thread."""
        self.close()

    def close(self) -> None:
        """Drops what is not begun, waits for what is, and ends the thread."""
        self._ahead.clear()
        self._steps = iter(())
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _begin_next(self) -> None:
        """Asks the thread for one more result, if there are steps left."""
        for step in self._steps:
            self._ahead.append(self._thread.submit(self._make, step))
            return
