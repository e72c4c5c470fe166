"""High-scoring regions of a labelled set, and which of their k-mers the positives have more often.

Pure functions on numpy arrays. Axes: N sequences, M bases, S k-mer starts, K candidate k-mers.
"""

import dataclasses

import numpy as np
from scipy import stats

from cmgems_jax.genome import vocabulary

MIN_WIDTH, MAX_WIDTH = 4, 12


@dataclasses.dataclass(frozen=True)
class MotifSettings:
    """How motifs are searched for."""

    width: int = 6  # bases of the k-mers that are counted and tested
    num_sd: float = 1.0  # by which a high score exceeds its sequence's mean
    min_region: int = 4  # bases; shorter regions are left out
    max_region: int = 30  # bases; of longer ones the best part is kept
    min_share: float = 0.01  # of all sequences must have a k-mer in a region for it to be tested
    alpha: float = 0.05  # largest q value
    max_motifs: int = 20


@dataclasses.dataclass
class Enrichment:
    """One-sided Fisher tests of k-mers, each counted once per sequence."""

    codes_K: np.ndarray  # int64, k-mer codes, most significant first
    positives_K: np.ndarray  # int64, positive sequences that hold it
    negatives_K: np.ndarray
    odds_ratio_K: np.ndarray  # float64, with 0.5 added to every cell
    p_K: np.ndarray
    q_K: np.ndarray  # Benjamini-Hochberg over the K tests


def high_regions(
    scores_NM: np.ndarray, lengths_N: np.ndarray, settings: MotifSettings
) -> np.ndarray:
    """Returns the stretches of high scores: int64 (R, 3), row, start, end (excluded).

    A base is high where its score, averaged with its two neighbours', exceeds the mean
    of its sequence by `num_sd` of that sequence's standard deviations. What stands behind the
    `lengths_N` bases of a sequence does not count.
    """
    regions = []
    for row, (scores_M, length) in enumerate(zip(scores_NM, lengths_N, strict=True)):
        padded = np.pad(scores_M[:length].astype(np.float64), 1, mode="edge")
        smooth_M = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
        high_M = smooth_M > smooth_M.mean() + settings.num_sd * smooth_M.std()
        edges = np.flatnonzero(np.diff(high_M.astype(np.int8), prepend=0, append=0))
        for start, end in edges.reshape(-1, 2).tolist():
            if end - start < settings.min_region:
                continue
            if end - start > settings.max_region:
                sums = np.convolve(smooth_M[start:end], np.ones(settings.max_region), "valid")
                start += int(sums.argmax())
                end = start + settings.max_region
            regions.append((row, start, end))
    return np.array(regions, np.int64).reshape(-1, 3)


def kmer_codes(bases_NM: np.ndarray, width: int) -> np.ndarray:
    """Returns int64 (N, S), the code of the k-mer at every start; -1 where a letter is unknown."""
    ids_NS = vocabulary.tokenize(bases_NM, width).astype(np.int64)
    return np.where(ids_NS >= vocabulary.NUM_SPECIAL, ids_NS - vocabulary.NUM_SPECIAL, -1)


def starts_in_regions(
    regions_R3: np.ndarray, lengths_N: np.ndarray, num_starts: int, width: int
) -> np.ndarray:
    """Returns bool (N, S), the starts of k-mers within a region; short regions are widened."""
    inside_NS = np.zeros((len(lengths_N), num_starts), bool)
    for row, start, end in regions_R3.tolist():
        start -= max(0, width - (end - start)) // 2
        start = max(0, min(start, int(lengths_N[row]) - width))
        inside_NS[row, start : max(end, start + width) - width + 1] = True
    return inside_NS


def enrich(
    codes_NS: np.ndarray, inside_NS: np.ndarray, is_positive_N: np.ndarray, settings: MotifSettings
) -> Enrichment:
    """Returns the tests of all k-mers that regions of enough sequences hold.

    Regions of positives and negatives alike name the candidates: the choice does not
    look at the labels, so the tests stay valid. A k-mer then counts wherever it is in a
    sequence. For `codes_NS` see `kmer_codes`, for `inside_NS` `starts_in_regions`.
    """
    num_codes = 4**settings.width
    usable_NS = inside_NS & (codes_NS >= 0)
    in_regions, num_rows = np.unique(
        _distinct(codes_NS, usable_NS, num_codes) % num_codes, return_counts=True
    )
    at_least = max(2, settings.min_share * len(codes_NS))
    candidates = in_regions[num_rows >= at_least]
    pairs = _distinct(codes_NS, (codes_NS >= 0) & np.isin(codes_NS, candidates), num_codes)
    candidate = np.searchsorted(candidates, pairs % num_codes)
    is_positive = is_positive_N[pairs // num_codes]
    positives_K = np.bincount(candidate[is_positive], minlength=len(candidates))
    negatives_K = np.bincount(candidate[~is_positive], minlength=len(candidates))
    num_positives, num_all = int(is_positive_N.sum()), len(is_positive_N)
    # The hypergeometric tail is Fisher's exact test for "more than by chance".
    p_K = stats.hypergeom.sf(positives_K - 1, num_all, num_positives, positives_K + negatives_K)
    q_K = stats.false_discovery_control(p_K) if len(p_K) else p_K
    order = np.lexsort((candidates, -positives_K, p_K))
    odds = (positives_K + 0.5) / (num_positives - positives_K + 0.5)
    other_odds = (negatives_K + 0.5) / (num_all - num_positives - negatives_K + 0.5)
    return Enrichment(
        candidates[order],
        positives_K[order],
        negatives_K[order],
        (odds / other_odds)[order],
        p_K[order],
        q_K[order],
    )


def _distinct(codes_NS: np.ndarray, chosen_NS: np.ndarray, num_codes: int) -> np.ndarray:
    """Returns row * num_codes + code of the chosen k-mers, once per sequence."""
    rows, starts = np.nonzero(chosen_NS)
    return np.unique(rows * num_codes + codes_NS[rows, starts])
