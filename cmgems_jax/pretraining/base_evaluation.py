"""Nats per base: -log posterior of hidden bases of held-out windows, one unit for all models.

Runs of bases on a fixed grid are hidden, once of one base and once of k bases, each base
scored by its own marginal. The positions depend on the windows alone, so a change is a change of
the model. Axes: W windows, B rows of a batch, N bases, S runs of a window, H hidden bases.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmgems_jax.config import Config
from cmgems_jax.genome import vocabulary
from cmgems_jax.model import base_probabilities, heads
from cmgems_jax.pretraining import flank_table, progress
from cmgems_jax.runtime import parallel, run_log
from cmgems_jax.windows import batches, dataset
from cmgems_jax.windows.files import StoredWindows

NAMES = ("nats_per_base", "nats_per_base_k")  # one base hidden, and k
_KEY = 0  # of the grids' phases
_SHARE = 0.02  # of a run's rows of training, that evaluations may cost at most, by ...
_STEP_COST = 2  # ... rows of an evaluation for one of training, which has a backward pass too
_MOST_PREDICTED = 4_096  # masked tokens of a device at a time


class Hidden(NamedTuple):
    """Windows, and the bases that are hidden in each way."""

    bases: np.ndarray  # uint8 (W, N)
    # Of each way: int32 (W, S), first bases of the runs, -1 = none; bases of a run.
    ways: tuple[tuple[np.ndarray, int], tuple[np.ndarray, int]]

    def positions(self) -> np.ndarray:
        """Returns int32 (2, W, H), the hidden bases in each way; -1 = none."""
        ways = []
        for start_WS, run in self.ways:
            hidden_WSI = start_WS[..., None] + np.arange(run, dtype=np.int32)
            hidden_WSI = np.where(start_WS[..., None] < 0, -1, hidden_WSI)
            ways.append(hidden_WSI.reshape(len(start_WS), -1))
        most = max(way.shape[1] for way in ways)
        return np.stack(
            [np.pad(way, ((0, 0), (0, most - way.shape[1])), constant_values=-1) for way in ways]
        )

    def room(self, k: int, stride: int) -> int:
        """Returns the masked tokens of a window at most."""
        return max(
            start_WS.shape[1] * base_probabilities.most_touching(run, k, stride)
            for start_WS, run in self.ways
        )

    def marks(self, sixmers_V: np.ndarray) -> dict[str, dict[str, float]]:
        """Returns what tables of 6-mers (`flank_table`) reach, by `NAMES`."""
        return {
            name: flank_table.marks(self.bases, start_WS, run, sixmers_V)
            for name, (start_WS, run) in zip(NAMES, self.ways, strict=True)
        }


def hide(bases_WN: np.ndarray, k: int, run: int) -> Hidden:
    """Returns the windows with hidden bases: single ones, and runs of `run`.

    Runs are 2k - 2 bases apart, five at least, and as far from the ends as a token, so that no
    token touches two, every token that can cover a base is there, all other bases are shown, and
    five stand at either side for the marks. The grid begins at a place of each window's own, by a
    fixed key.
    """
    length_W = (bases_WN != vocabulary.PADDING).sum(axis=1)
    return Hidden(bases_WN, tuple((_grid(length_W, k, length), length) for length in (1, run)))


def _grid(length_W: np.ndarray, k: int, run: int) -> np.ndarray:
    """Returns int32 (W, S), where the hidden runs of windows of these lengths begin, or -1."""
    margin, step = _margin(k), run + max(2 * k - 2, flank_table.ORDER)
    last_W = length_W - margin - run
    phase_W = np.random.default_rng(_KEY).random(len(length_W))
    first_W = margin + (phase_W * np.clip(last_W - margin + 1, 1, step)).astype(int)
    num_starts = max(1, -(-int(last_W.max() - margin + 1) // step))
    start_WS = first_W[:, None] + step * np.arange(num_starts)
    return np.where(start_WS <= last_W[:, None], start_WS, -1).astype(np.int32)


def least_bases(k: int, run: int) -> int:
    """Returns the bases of a window in which a run of them can be hidden."""
    return 2 * _margin(k) + run


def _margin(k: int) -> int:
    """Returns the bases at either end of a window that are not hidden."""
    return max(k, flank_table.ORDER)


def of_run(config: Config, validation: StoredWindows) -> Hidden:
    """Returns what the evaluations of a run hide: the longest of its evaluation windows.

    As many as cost `_SHARE` of the run at most, in whole batches.
    """
    chosen = batches.eval_windows(validation, config)
    chosen = chosen[np.argsort(-validation.lengths[chosen].astype(int), kind="stable")]
    rows_of_training = (config.eval_every or config.num_steps) * config.batch_size
    most = _SHARE * rows_of_training * _STEP_COST / len(NAMES)
    num_windows = max(1, int(most))
    return hide(validation.read(chosen[:num_windows]), config.tokens.k, config.tokens.k)


class _Batch(NamedTuple):
    """Rows of one window each."""

    bases: jax.Array  # uint8 (B, N)
    hidden: jax.Array  # int32 (B, 2, H)


def _sums(
    params: dict, batch: _Batch, which: jax.Array, *, model: heads.MaskedLM, room: int
) -> dict[str, jax.Array]:
    """Returns the nats of the hidden bases in one of the two ways, and their number."""
    hidden_BH = batch.hidden[:, which]
    log_posterior_BHA = base_probabilities.log_posterior(
        params, batch.bases, hidden_BH, model=model, room=room
    )
    nats_BH = -true_letters(log_posterior_BHA, batch.bases, hidden_BH)
    sums = {"nats": jnp.where(hidden_BH >= 0, nats_BH, 0).sum(), "bases": (hidden_BH >= 0).sum()}
    return jax.lax.psum(sums, parallel.AXIS)


def true_letters(
    value_BHA: vocabulary.Array, bases_BN: vocabulary.Array, hidden_BH: vocabulary.Array
) -> jax.Array:
    """Returns the values at the bases' own letters, (B, H); of no use at -1."""
    letter_BH = jnp.take_along_axis(bases_BN, jnp.maximum(hidden_BH, 0), axis=1)
    letter_BH = jnp.minimum(letter_BH, 3).astype(jnp.int32)
    return jnp.take_along_axis(value_BHA, letter_BH[..., None], axis=2)[..., 0]


def of_windows(
    config: Config, folder: Path, validation: StoredWindows, clock: run_log.Clock
) -> tuple[Callable[[dict], dict[str, float]] | None, dict | None]:
    """Returns parameters -> nats per base, and in process 0 its marks; None without evaluations.

    `folder` is the data set's, whose 6-mers the marks are made of.
    """
    if not config.eval_every:
        return None, None
    with clock("data"):
        hidden = of_run(config, validation)
        marks = parallel.in_first(lambda: hidden.marks(dataset.train_sixmers(folder)))
    return evaluator(config, hidden, clock), marks


def evaluator(
    config: Config, hidden: Hidden, clock: run_log.Clock
) -> Callable[[dict], dict[str, float]]:
    """Returns a function from replicated parameters to nats per base by `NAMES`, on all devices."""
    model = heads.MaskedLM(config.model, config.tokens)
    room = hidden.room(config.tokens.k, config.tokens.stride)
    program = parallel.eval_program(functools.partial(_sums, model=model, room=room))
    num_devices, position_2WH = jax.device_count(), hidden.positions()
    per_device = -(-len(hidden.bases) // num_devices)
    size = num_devices * min(per_device, max(1, _MOST_PREDICTED // room))
    missing = -len(hidden.bases) % size
    rows = _Batch(
        np.pad(hidden.bases, ((0, missing), (0, 0)), constant_values=vocabulary.PADDING),
        np.pad(np.moveaxis(position_2WH, 0, 1), ((0, missing), (0, 0), (0, 0)), constant_values=-1),
    )
    share = batches.process_rows(size, jax.process_index(), jax.process_count())
    fixed = [
        _Batch(*(parallel.shard(x[first : first + size][share])[:, 0] for x in rows))
        for first in range(0, len(rows.bases), size)
    ]
    sums = progress.sums_over(fixed, program, clock)

    def nats(params: dict) -> dict[str, float]:
        ways = {name: sums(params, which) for which, name in enumerate(NAMES)}
        return {name: progress.ratio(way["nats"], way["bases"]) for name, way in ways.items()}

    return nats
