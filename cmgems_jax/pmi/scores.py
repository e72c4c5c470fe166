"""Pointwise mutual information and ranks of k-mers, from n-gram counts.

PMI of more than two pieces after Levine et al. 2021, normalised for rare k-mers
as in GeneMask (Roy et al. 2023). Codes: base order A T C G, first base most
significant. Natural logarithms throughout.
"""

import numpy as np

MIN_COUNT = 101  # the constant c of NPMI
SEGMENTATIONS = ("published", "full")


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

    Arguments and result as of `pmi`; `min_count` is the constant c, 2 or more.
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
