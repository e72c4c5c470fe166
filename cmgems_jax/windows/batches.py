"""Batches as pure functions of (seed, step, process), and a thread that reads ahead.

There is no iterator state: the windows are packed into rows by a key of (seed,
epoch), every epoch has the same number of rows, the epochs follow each other without
a gap, and step s takes rows s*B to (s+1)*B of that stream. A resumed run therefore
sees exactly the batches it would have.
"""

import collections
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np

from cmgems_jax.config import Config
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.windows import packing
from cmgems_jax.windows.files import StoredWindows
from cmgems_jax.windows.packing import EMPTY, Batch, Packing

T = TypeVar("T")
_EVAL_KEY = 0  # the same windows in every run, whatever its seed


@functools.lru_cache(maxsize=2)
def epoch_rows(packed: Packing, seed: int, epoch: int) -> np.ndarray:
    """Returns the windows of every row of one epoch, int32 (R, M), read-only."""
    rows_RM = packed.rows(np.random.default_rng((seed, epoch)))
    rows_RM.flags.writeable = False
    return rows_RM


def batch_rows(packed: Packing, *, seed: int, step: int, batch_size: int) -> np.ndarray:
    """Returns the windows of the global batch of one step, from 0: int32 (B, M), or EMPTY.

    B is `batch_size`, which may exceed an epoch.
    """
    num_rows = len(packed.slot_RM)
    epoch_B, row_B = np.divmod(step * batch_size + np.arange(batch_size), num_rows)
    parts = [
        epoch_rows(packed, seed, epoch)[row_B[epoch_B == epoch]]
        for epoch in range(epoch_B[0], epoch_B[-1] + 1)
    ]
    return np.concatenate(parts)


def read_batch(
    windows: StoredWindows,
    packed: Packing,
    *,
    seed: int,
    step: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Batch:
    """Returns this process's rows of the global batch of one step, from 0.

    `batch_size` is of the global batch, a multiple of `process_count`; the rows of the
    processes follow each other. Shapes: bases (batch_size / process_count, M, n), index
    (batch_size / process_count, M).
    """
    share = process_rows(batch_size, process_index, process_count)
    return _read(windows, batch_rows(packed, seed=seed, step=step, batch_size=batch_size)[share])


def eval_windows(
    windows: StoredWindows, config: Config, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Returns the numbers of the windows that every evaluation of every run uses, int (W,)."""
    rng = rng or np.random.default_rng(_EVAL_KEY)
    return rng.permutation(len(windows))[: config.eval_windows or None]


def eval_batches(
    windows: StoredWindows,
    config: Config,
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Yields this process's rows of every evaluation batch, the same at every evaluation.

    The windows are the same in every run, and since masks follow from a window's
    number, how they are packed changes nothing. The last batch is filled with empty
    rows: no token, hence no loss. There are `config.eval_windows` of them, in batches of
    one accumulation part; shapes as of `read_batch`.
    """
    batch_size = config.batch_size // config.accumulation_steps
    share = process_rows(batch_size, process_index, process_count)
    rng = np.random.default_rng(_EVAL_KEY)
    chosen = eval_windows(windows, config, rng)
    rows_RM = packing.pack(windows.lengths[chosen], config).rows(rng)
    rows_RM = np.where(rows_RM == EMPTY, EMPTY, chosen.astype(np.int32)[rows_RM])
    missing = -len(rows_RM) % batch_size
    rows_RM = np.pad(rows_RM, ((0, missing), (0, 0)), constant_values=EMPTY)
    for first in range(0, len(rows_RM), batch_size):
        yield _read(windows, rows_RM[first : first + batch_size][share])


def _read(windows: StoredWindows, rows_RM: np.ndarray) -> Batch:
    """Returns the bases of rows of windows; padding where a slot is empty."""
    bases_RMN = np.full((*rows_RM.shape, windows.num_bases), vocabulary.PADDING, np.uint8)
    is_taken_RM = rows_RM != EMPTY
    bases_RMN[is_taken_RM] = windows.read(rows_RM[is_taken_RM])
    return Batch(bases_RMN, rows_RM)


def process_rows(batch_size: int, process_index: int, process_count: int) -> slice:
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
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._to_come = (self._thread.submit(make, step) for step in steps)  # begun when taken
        self._ahead = collections.deque(itertools.islice(self._to_come, depth))

    def __iter__(self) -> "prefetch[T]":
        """Returns itself."""
        return self

    def __next__(self) -> T:
        """Returns the next result, waiting for it where needed."""
        if not self._ahead:
            raise StopIteration
        started = time.perf_counter()
        result = self._ahead.popleft().result()
        self.waited_s += time.perf_counter() - started
        self._ahead.extend(itertools.islice(self._to_come, 1))
        return result

    def __enter__(self) -> "prefetch[T]":
        """Returns itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Drops what is not begun, waits for what is, and ends the thread."""
        self._ahead.clear()
        self._thread.shutdown(cancel_futures=True)
