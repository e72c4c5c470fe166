"""n-gram counts, pointwise mutual information and ranks of k-mers.

PMI of more than two pieces after Levine et al. 2021, normalised for rare k-mers
as in GeneMask (Roy et al. 2023). Codes: base order A T C G, first base most
significant. Natural logarithms throughout.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np

_CHUNK = 1 << 22  # bases counted at a time
MIN_COUNT = 101  # the constant c of NPMI
SEGMENTATIONS = ("published", "full")


def count_ngrams(contigs: Iterable[np.ndarray], max_n: int) -> list[np.ndarray]:
    """Returns exact counts of all n-grams for n = 1..max_n, within contigs, never across.

    Only the longest n-grams are counted base by base. Of the shorter ones, each
    but the last of a contig begins a longer one.

    Args:
      contigs: uint8 (n,) base codes 0..3 each.
      max_n: 1..8.

    Returns:
      counts[n-1]: int64 (4**n,).
    """
    longest = np.zeros(4**max_n, np.int64)
    last = [np.zeros(4**n, np.int64) for n in range(1, max_n)]
    for bases in contigs:
        for codes in _codes(bases, max_n):
            longest += np.bincount(codes, minlength=4**max_n)
        for n in range(1, min(max_n, len(bases) + 1)):
            last[n - 1][_code(bases[-n:])] += 1
    counts = [longest]
    for ends in reversed(last):
        counts.insert(0, counts[0].reshape(-1, 4).sum(axis=1) + ends)
    return counts


def _codes(bases: np.ndarray, n: int) -> Iterator[np.ndarray]:
    """Yields the codes of a contig's n-grams in chunks, uint16 (n up to 8)."""
    for start in range(0, len(bases) - n + 1, _CHUNK):
        part = bases[start : start + _CHUNK + n - 1].astype(np.uint16)
        codes, width = part, 1
        while width < n:  # two overlapping codes make one of up to twice the length
            step = min(width, n - width)
            left, right = codes[:-step], codes[step:]
            tail = right & (4**step - 1)
            codes, width = (left << 2 * step) | tail, width + step
        yield codes


def _code(bases: np.ndarray) -> int:
    """Returns the code of one n-gram."""
    return int(sum(int(base) << 2 * i for i, base in enumerate(bases[::-1])))


def counts_from_kmers(kmer_counts: np.ndarray) -> list[np.ndarray]:
    """Returns counts for n = 1..k from k-mer counts alone: sums over the other bases.

    Each offset of an n-gram within the k-mers gives a sum that misses a few at
    contig ends; the largest is the nearest. So no piece of a k-mer that occurs
    counts 0, which would make its PMI infinite and rank it first.

    Args:
      kmer_counts: int64 (4**k,).
    """
    kmer_counts = np.asarray(kmer_counts, np.int64)
    k = round(math.log(len(kmer_counts), 4))
    return [
        np.max(
            [
                kmer_counts.reshape(4**before, 4**n, -1).sum(axis=(0, 2))
                for before in range(k - n + 1)
            ],
            axis=0,
        )
        for n in range(1, k + 1)
    ]


def pmi(counts: list[np.ndarray], k: int, *, segmentation: str = "published") -> np.ndarray:
    """Returns the PMI of every k-mer: the least over its segmentations.

        min over segmentations s into >= 2 pieces of log(p(w) / prod_i p(s_i))

    "full": all segmentations, p(w) = f(w) / total (the paper's formula).
    "published": pieces of one or two bases only, p(w) = f(w) / (2 * total), which
    is what the published GRCh38 ranking contains.

    Args:
      counts: counts[n-1] int64 (4**n,) for n = 1..k.
      k: 3..8.
      segmentation: "published" or "full".

    Returns:
      float64 (4**k,), nats; NaN for k-mers that do not occur.
    """
    longest_piece, factor = {"published": (2, 2), "full": (k - 1, 1)}[segmentation]
    with np.errstate(divide="ignore"):
        log_p = [np.log(f) - np.log(factor * f.sum()) for f in counts[:k]]
    code = np.arange(4**k)
    # Best segmentation of the first m bases: the largest sum of log p over its pieces.
    best = [np.zeros(4**k)]
    for end in range(1, k + 1):
        sums = []
        for width in range(1, min(longest_piece, end) + 1):
            piece = code >> 2 * (k - end) & (4**width - 1)
            sums.append(best[end - width] + log_p[width - 1][piece])
        best.append(np.max(sums, axis=0))
    with np.errstate(invalid="ignore"):  # absent k-mers: -inf less -inf
        return np.where(counts[k - 1] > 0, log_p[k - 1] - best[k], np.nan)


def npmi(
    counts: list[np.ndarray],
    k: int,
    *,
    segmentation: str = "published",
    min_count: int = MIN_COUNT,
) -> np.ndarray:
    """Returns PMI * log f / (log f + log c) of every k-mer: rare ones count less.

    Args:
      counts: counts[n-1] int64 (4**n,) for n = 1..k.
      k: 3..8.
      segmentation: as in `pmi`.
      min_count: the constant c, 2 or more.

    Returns:
      float64 (4**k,), nats; NaN for k-mers that do not occur.
    """
    frequency = np.maximum(counts[k - 1], 1)
    weight = np.log(frequency) / (np.log(frequency) + np.log(min_count))
    return pmi(counts, k, segmentation=segmentation) * weight


def rank(scores: np.ndarray) -> np.ndarray:
    """Returns int32 ranks, 1 = highest; ties by code; NaN (absent k-mers) last."""
    order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")
    ranks = np.empty(len(scores), np.int32)
    ranks[order] = np.arange(1, len(scores) + 1, dtype=np.int32)
    return ranks
