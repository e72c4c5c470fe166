"""n-gram counts of contigs. Codes: base order A T C G, first base most significant."""

import math
from collections.abc import Iterable, Iterator

import numpy as np

from cmgems_jax.genome import vocabulary

_WORD = 8  # bases of a code in 16 bits
_BATCH = 1 << 18  # bases counted at a time: few enough to stay in the cache


def count_ngrams(contigs: Iterable[np.ndarray], max_n: int) -> list[np.ndarray]:
    """Returns exact counts of all n-grams for n = 1..max_n, within contigs, never across.

    Octamers are counted, at every position that is a multiple of 9 - max_n: each
    holds as many of the longest n-grams, which follow by summing over the bases
    beside them. What the sum finds across the ends of contigs is counted once
    more and taken off. Of the shorter n-grams, each but the last of a contig
    begins a longer one.

    Args:
      contigs: uint8 (n,) base codes 0..3 each.
      max_n: 1..8.

    Returns:
      counts[n-1]: int64 (4**n,).
    """
    words, across = np.zeros(4**_WORD, np.int64), np.zeros(4**max_n, np.int64)
    last = [np.zeros(4**n, np.int64) for n in range(1, max_n)]
    step = _WORD - max_n + 1
    for pieces, is_last_P in _batches(contigs, overlap=max_n - 1):
        length_P = np.array([len(piece) for piece in pieces])
        end_P = np.cumsum(length_P)
        num_words = -(-int(end_P[-1]) // step)
        padding = np.zeros(num_words * step - end_P[-1] + _WORD, np.uint8)
        bases = np.concatenate([*pieces, padding])
        words += np.bincount(_words(bases, num_words, step), minlength=4**_WORD)
        across += _count(bases, _crossing(length_P, end_P, num_words * step, max_n), max_n)
        for n, ends in enumerate(last, 1):
            ends += _count(bases, end_P[is_last_P & (length_P >= n)] - n, n)
    counts = [sum(_inner_sum(words, before, max_n) for before in range(step)) - across]
    for ends in reversed(last):
        counts.insert(0, counts[0].reshape(-1, 4).sum(axis=1) + ends)
    return counts


def _batches(
    contigs: Iterable[np.ndarray], overlap: int
) -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
    """Yields pieces of contigs, many short or one long at a time, and which end a contig."""
    pieces, is_last, size = [], [], 0
    for contig in contigs:
        for start in range(0, max(1, len(contig) - overlap), _BATCH):
            pieces.append(contig[start : start + _BATCH + overlap])
            is_last.append(start + _BATCH + overlap >= len(contig))
            size += len(pieces[-1])
            if size >= _BATCH:
                yield pieces, np.array(is_last)
                pieces, is_last, size = [], [], 0
    if size:
        yield pieces, np.array(is_last)


def _words(bases: np.ndarray, num_words: int, step: int) -> np.ndarray:
    """Returns the codes of the octamers at every `step`-th position: uint16 (num_words,)."""
    two = bases[:-1] << 2 | bases[1:]  # in eight bits, as far as they reach
    four = two[:-2] << 4 | two[2:]
    end = num_words * step
    words = four[:end:step].astype(np.uint16)
    words <<= 8
    words |= four[4 : end + 4 : step]
    return words


def _crossing(length_P: np.ndarray, end_P: np.ndarray, covered: int, n: int) -> np.ndarray:
    """Returns the positions below `covered` whose n-grams reach beyond their piece: int64."""
    position_PN = end_P[:, None] - np.arange(1, n)
    inside = position_PN[position_PN >= (end_P - length_P)[:, None]]
    return np.append(inside, np.arange(end_P[-1], covered))


def _count(bases: np.ndarray, positions: np.ndarray, n: int) -> np.ndarray:
    """Returns how often each n-gram stands at some positions: int64 (4**n,)."""
    letters = bases[positions[:, None] + np.arange(n)].astype(np.int64)
    return np.bincount(letters @ 4 ** np.arange(n)[::-1], minlength=4**n)


def of_both_strands(counts: np.ndarray) -> np.ndarray:
    """Returns counts of n-grams read from either strand: each has its reverse complement's too.

    Args:
      counts: int64 (4**n,), by code.
    """
    n = round(math.log(len(counts), 4))
    places = 4 ** np.arange(n)[::-1]
    letters = (np.arange(len(counts))[:, None] // places % 4).astype(np.uint8)
    return counts + counts[vocabulary.reverse_complement(letters) @ places]


def counts_from_kmers(kmer_counts: np.ndarray) -> list[np.ndarray]:
    """Returns counts for n = 1..k from k-mer counts alone: sums over the other bases.

    Each offset of an n-gram within the k-mers gives a sum that misses a few at
    contig ends; the largest is the nearest. So no piece of a k-mer that occurs
    counts 0, which would make its PMI infinite and rank it first.
    """
    kmer_counts = np.asarray(kmer_counts, np.int64)
    k = round(math.log(len(kmer_counts), 4))
    return [
        np.max([_inner_sum(kmer_counts, before, n) for before in range(k - n + 1)], axis=0)
        for n in range(1, k + 1)
    ]


def _inner_sum(counts: np.ndarray, before: int, n: int) -> np.ndarray:
    """Returns the sum over all bases but the n behind the first `before`: int64 (4**n,)."""
    return counts.reshape(4**before, 4**n, -1).sum(axis=(0, 2))
