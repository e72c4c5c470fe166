"""Posteriors of hidden bases in plain Python, one k-mer and one letter at a time.

Slow on purpose and independent of `cmgems_jax`: a window is a string, a k-mer is a string, and
only the logits come from the model.
"""

import functools
import math
from collections.abc import Callable

import numpy as np

from tests.masking.slow_masking import CLS, LETTERS, MASK, NUM_SPECIAL, PAD, SEP, spell, tokenize


def covering(base: int, num_bases: int, k: int, stride: int) -> list[int]:
    """Returns the numbers of the window's k-mers that cover a base."""
    starts = range(0, num_bases - k + 1, stride)
    return [number for number, start in enumerate(starts) if start <= base < start + k]


def shown(window: str, hidden: list[int], k: int, stride: int, length: int) -> list[int]:
    """Returns the `length` ids that the model sees: [MASK] wherever a hidden base is touched."""
    ids = tokenize(window, k, stride)
    for base in hidden:
        for number in covering(base, len(window), k, stride):
            ids[number] = MASK
    return [CLS, *ids, SEP, *[PAD] * (length - 2 - len(ids))]


@functools.cache
def kmers(k: int) -> list[str]:
    """Returns every k-mer as a string, in the order of the ids."""
    return [spell(NUM_SPECIAL + code, k) for code in range(4**k)]


def letter_probabilities(logits: list[float], offset: int, k: int) -> dict[str, float]:
    """Returns the probability of each letter at an offset, from the logits of all ids."""
    largest = max(logits[NUM_SPECIAL:])
    table = dict.fromkeys(LETTERS, 0.0)
    for kmer, logit in zip(kmers(k), logits[NUM_SPECIAL:], strict=True):
        table[kmer[offset]] += math.exp(logit - largest)
    total = sum(table.values())
    return {letter: weight / total for letter, weight in table.items()}


def posteriors(
    window: str,
    hidden: list[int],
    k: int,
    stride: int,
    length: int,
    logits_of: Callable[[list[int]], np.ndarray],
) -> list[dict[str, float] | None]:
    """Returns the letters' probabilities at each hidden base, None where no k-mer covers it.

    `logits_of` takes `length` ids and gives the logits at every position, (length, V).
    """
    logits = logits_of(shown(window, hidden, k, stride, length))
    answers = []
    for base in hidden:
        tokens = covering(base, len(window), k, stride)
        parts = [
            letter_probabilities(logits[1 + number].tolist(), base - number * stride, k)
            for number in tokens
        ]
        answers.append(
            {letter: sum(p[letter] for p in parts) / len(parts) for letter in LETTERS}
            if parts
            else None
        )
    return answers
