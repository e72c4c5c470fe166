"""Which windows share a row of the model, and how they lie in it.

Half of the windows are short, so that with one window per row a quarter of all
computed positions is padding. Here a row holds several windows, each with its own
[CLS] and [SEP]; positions, masks and attention are those of the window alone.

Lengths fall into `NUM_CLASSES` classes, and a row is a pattern of classes that fit
together (first fit, decreasing). The patterns follow from the lengths alone: every
epoch has the same number of rows, so the row at any position of the stream is found
by a division, without a state. Which windows meet in a row is sampled anew each epoch,
among those of a class. Fewer classes mix more and waste more: 64 waste half a percent. A batch
is a number of rows, not of windows: so many windows fill a varying number of rows, and
room for the most that they need would be padding again.

Axes: W windows of a split, R rows, M windows per row, N bases, L positions, C classes.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmgems_jax.config import Config
from cmgems_jax.genome import vocabulary

EMPTY = -1  # the number of no window: a slot of a row that is not taken
NUM_CLASSES = 64


class Batch(NamedTuple):
    """Rows of windows; an empty slot holds nothing but padding."""

    bases: jax.Array  # uint8 (..., R, M, N), filled with vocabulary.PADDING
    index: jax.Array  # int32 (..., R, M), number of the window in its split, or EMPTY


class Layout(NamedTuple):
    """What each position of a row belongs to."""

    window: jax.Array  # int32 (..., L), the window's slot in the row; M at padding
    position: jax.Array  # int32 (..., L), position within the window, 0 = [CLS]


@dataclasses.dataclass(frozen=True, eq=False)
class Packing:
    """The rows of an epoch, up to the choice among windows of a class."""

    class_W: np.ndarray  # uint8 (W,), class of every window
    slot_RM: np.ndarray  # int32 (R, M), numbers among the windows sorted by class, or EMPTY
    padding: float  # share of the rows' positions that no window takes

    def rows(self, rng: np.random.Generator) -> np.ndarray:
        """Returns the windows of every row of one epoch, int32 (R, M), in random order."""
        order_W = rng.permutation(len(self.class_W)).astype(np.int32)
        by_class_W = order_W[np.argsort(self.class_W[order_W], kind="stable")]
        rows_RM = np.where(self.slot_RM == EMPTY, EMPTY, by_class_W[self.slot_RM])
        return rows_RM[rng.permutation(len(rows_RM))]


def pack(bases_W: np.ndarray, config: Config) -> Packing:
    """Returns the packing of windows of `bases_W` bases each into the config's rows."""
    tokens, num_positions = config.tokens, config.data.num_tokens
    length_W = (bases_W.astype(np.int64) - tokens.k) // tokens.stride + 3  # with [CLS] and [SEP]
    assert length_W.min() > 2 and length_W.max() <= num_positions, (length_W.min(), length_W.max())
    class_W = -(-length_W * NUM_CLASSES // num_positions)
    count_C = np.bincount(class_W, minlength=NUM_CLASSES + 1)
    first_C = np.concatenate([[0], count_C.cumsum()])  # of a class, among the sorted windows
    slots = []
    for pattern, num_rows in patterns(count_C, config.data.windows_per_row):
        slot_RM = np.full((num_rows, config.data.windows_per_row), EMPTY, np.int32)
        for slot, number in enumerate(pattern):
            slot_RM[:, slot] = first_C[number] + np.arange(num_rows)
            first_C[number] += num_rows
        slots.append(slot_RM)
    slot_RM = np.concatenate(slots)
    padding = 1 - float(length_W.sum()) / (len(slot_RM) * num_positions)
    return Packing(class_W.astype(np.uint8), slot_RM, padding)


def patterns(count_C: np.ndarray, windows_per_row: int) -> Iterator[tuple[list[int], int]]:
    """Yields (classes of a row, number of such rows), until no window is left.

    A row takes the largest class that is left, then again and again the largest
    that fits beside it; at most `windows_per_row` share it. `count_C` holds the windows
    of every class; class c takes c / NUM_CLASSES of a row, so that class 0 has none.
    """
    left_C = count_C.copy()
    while left_C.any():
        pattern: list[int] = []
        room = NUM_CLASSES
        for number in range(NUM_CLASSES, 0, -1):
            taken = min(room // number, int(left_C[number]), windows_per_row - len(pattern))
            pattern += [number] * taken
            room -= taken * number
        num_rows = min(int(left_C[number]) // pattern.count(number) for number in pattern)
        np.subtract.at(left_C, pattern, num_rows)
        yield pattern, num_rows


def full_rows(config: Config, num_rows: int) -> Batch:
    """Returns rows of one full window of random bases each: (num_rows, M, N), (num_rows, M)."""
    index_RM = np.full((num_rows, config.data.windows_per_row), EMPTY, np.int32)
    index_RM[:, 0] = np.arange(num_rows)
    bases_RMN = np.full((*index_RM.shape, config.window_bases), vocabulary.PADDING, np.uint8)
    rng = np.random.default_rng(config.seed)
    bases_RMN[:, 0] = rng.integers(0, 4, (num_rows, config.window_bases))
    return Batch(bases_RMN, index_RM)


def lay_out(length_RM: jax.Array, num_positions: int) -> Layout:
    """Returns the layout of rows of L = `num_positions`, their windows one behind the other.

    `length_RM` holds the positions of every window, 0 where there is none.
    """
    end_RM = jnp.cumsum(length_RM, axis=1)
    position_L = jnp.arange(num_positions, dtype=jnp.int32)
    window_RL = (position_L[None, :, None] >= end_RM[:, None, :]).sum(axis=2, dtype=jnp.int32)
    start_RM = jnp.pad(end_RM, ((0, 0), (1, 0)))
    return Layout(window_RL, position_L[None] - jnp.take_along_axis(start_RM, window_RL, axis=1))


def to_rows(value_RML: jax.Array, layout: Layout, fill: int | bool) -> jax.Array:
    """Returns (R, L): every window's values where it lies in the row, `fill` at padding."""

    def one(value_ML: jax.Array, layout_L: Layout) -> jax.Array:
        return value_ML.at[layout_L.window, layout_L.position].get(mode="fill", fill_value=fill)

    return jax.vmap(one)(value_RML, layout)
