"""Sequences longer than the model's positions, or than pretraining's: refused, cut, or windows.

Axes: N sequences, W windows, M bases, X whatever a window gives.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from cmgems_jax.config import Config
from cmgems_jax.downstream.tasks.files import Examples
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary


@dataclasses.dataclass
class SequenceWindows:
    """What the model sees of each sequence; one window of most."""

    bases_WM: np.ndarray  # uint8, no longer than the longest window
    first_N: np.ndarray  # int32, the first window of each sequence; the others follow it
    count_N: np.ndarray  # int32, windows of each sequence, 1 or more


def num_tokens(bases_NM: np.ndarray, config: Config) -> int:
    """Returns the positions of the longest sequence, [CLS] and [SEP] included."""
    longest = int((bases_NM != vocabulary.PADDING).sum(axis=1).max(initial=0))
    return vocabulary.num_tokens(longest, config.tokens.k, config.tokens.stride) + 2


def max_tokens(config: Config, how: str) -> int:
    """Returns the positions of the longest sequence or window that `cut` gives for `how`."""
    num_positions = config.model.num_positions
    return min(num_positions, config.data.num_tokens) if how == "window" else num_positions


def cut(examples: Examples, config: Config, how: str) -> SequenceWindows:
    """Returns the windows that the model sees, padded to the longest of them.

    Args:
      config: of the pretraining run.
      how: what happens to sequences that have too many tokens. "error"; "truncate":
        their beginning is kept; "window": as few windows as cover them, spread
        evenly, the last of which ends with the sequence, of no more tokens than
        pretraining saw (data.num_tokens). How many is printed.

    Raises:
      InputError: there are some, and `how` is "error".
    """
    bases_NM, source = examples.bases_NM, examples.path
    length_N = (bases_NM != vocabulary.PADDING).sum(axis=1)
    tokens = config.tokens
    room = vocabulary.num_bases(max_tokens(config, how) - 2, tokens.k, tokens.stride)
    num_long = int((length_N > room).sum())
    if num_long and how == "error":
        row = int((length_N > room).argmax())
        raise InputError(
            f"{source}: {num_long:,} of {len(length_N):,} sequences are longer than {room} bases, "
            f"all that the model's {config.model.num_positions} positions take (sequence "
            f"{row + 1}: {length_N[row]}); give --long_sequences=truncate or window"
        )
    if num_long:
        done = {"truncate": "cut off there", "window": "seen in windows"}[how]
        _print_once(
            f"{source}: {num_long:,} of {len(length_N):,} sequences are longer than {room} bases: "
            f"{done}"
        )
    widest = min(room, int(length_N.max(initial=tokens.k)))
    count_N = np.ones(len(length_N), np.int32)
    if how == "window":
        count_N = np.maximum(1, -(-length_N // room)).astype(np.int32)
    first_N = np.concatenate([[0], np.cumsum(count_N)[:-1]]).astype(np.int32)
    if count_N.max(initial=1) == 1:
        return SequenceWindows(bases_NM[:, :widest], first_N, count_N)
    row_W = np.repeat(np.arange(len(length_N)), count_N)
    number_W = np.arange(len(row_W)) - first_N[row_W]
    spare_W = np.maximum(length_N[row_W] - room, 0)
    start_W = spare_W * number_W // np.maximum(count_N[row_W] - 1, 1)
    return SequenceWindows(
        bases_NM[row_W[:, None], start_W[:, None] + np.arange(widest)], first_N, count_N
    )


def refuse_long(splits: Sequence[Examples], config: Config, how: str) -> None:
    """Raises the InputError of `cut` at once, for what is cut or predicted after long work."""
    for examples in splits:
        if how == "error":
            cut(examples, config, how)


def warn_of_new_positions(windows: SequenceWindows, config: Config, *, source: str) -> None:
    """Prints, once per file, where sequences reach positions that pretraining has never seen."""
    longest, trained = num_tokens(windows.bases_WM, config), config.data.num_tokens
    if longest > trained:
        _print_once(
            f"warning: {source}: sequences of up to {longest} tokens, but the model was "
            f"pretrained on {trained} (data.num_tokens): the positions behind are new to it; "
            "--long_sequences=window cuts such sequences to what it knows"
        )


@functools.cache
def _print_once(text: str) -> None:
    """Prints what this process has not printed yet."""
    print(text, flush=True)


def mean(values_WX: np.ndarray, windows: SequenceWindows) -> np.ndarray:
    """Returns the mean over the windows of every sequence: (N, X), in the dtype of the values."""
    if len(values_WX) == len(windows.first_N):
        return values_WX
    sums_NX = np.add.reduceat(values_WX, windows.first_N, axis=0, dtype=np.float64)
    return (sums_NX / windows.count_N[:, None]).astype(values_WX.dtype)
