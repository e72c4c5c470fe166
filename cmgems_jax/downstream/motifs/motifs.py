"""Motifs of a labelled set: enriched k-mers of high-scoring regions, aligned and counted.

Pure functions on numpy arrays. Axes: N sequences, M bases, S k-mer starts, K candidate
k-mers, W columns of a motif.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cmgems_jax.downstream.motifs import enrichment
from cmgems_jax.downstream.motifs.enrichment import Enrichment, MotifSettings
from cmgems_jax.genome import vocabulary
from cmgems_jax.known_motifs import Match

_MAX_SHIFT = 2  # bases between two k-mers of one motif
_MAX_MERGED = 500  # enriched k-mers, the most significant ones
_MIN_INFORMATION = 0.25  # bits; columns at the ends with less are cut off
_PSEUDOCOUNT = 1.0  # sequences of the background's composition, added to every column
_PAIRS = {"AC": "M", "AG": "R", "AT": "W", "CG": "S", "CT": "Y", "GT": "K"}


@dataclasses.dataclass
class Motif:
    """Enriched k-mers that align, and what they look like together."""

    seed: str  # the most significant k-mer; the test below is its own
    seed_positives: int
    seed_negatives: int
    odds_ratio: float
    p: float
    q: float
    members: list[tuple[str, int]]  # k-mers and their starts relative to the seed's
    positives: int  # positive sequences with any member
    negatives: int
    num_sites: int  # that the frequencies are of
    frequencies_W4: np.ndarray  # float64, bases A, T, C, G; with a pseudocount; rows sum to 1
    consensus: str  # IUPAC letters
    match: Match | None = None  # the nearest known motif, where it was compared

    def __str__(self) -> str:
        """Returns a line of what was found."""
        return (
            f"{self.consensus:<14} in {self.positives:,} positives, {self.negatives:,} negatives; "
            f"{self.seed}: odds ratio {self.odds_ratio:.2f}, q = {self.q:.1e}"
            + (f"; {self.match}" if self.match else "")
        )


def shift_of(kmer: str, other: str) -> int | None:
    """Returns how many bases after `kmer` the other k-mer starts, aligned without gaps.

    They align unshifted with one mismatch at most, or shifted by at most two bases
    without a mismatch; None otherwise.
    """
    if sum(a != b for a, b in zip(kmer, other, strict=True)) <= 1:
        return 0
    for shift in range(1, _MAX_SHIFT + 1):
        if kmer[shift:] == other[:-shift]:
            return shift
        if other[shift:] == kmer[:-shift]:
            return -shift
    return None


def merge(kmers: Sequence[str]) -> list[list[tuple[int, int]]]:
    """Returns groups of k-mers that align: (index, start relative to the group's first).

    The k-mers are of one width, most significant first. Each joins the first group with
    a member that it aligns with, or begins a new one.
    """
    groups: list[list[tuple[int, int]]] = []
    for index, kmer in enumerate(kmers):
        for group in groups:
            offset = _offset_in(group, kmers, kmer)
            if offset is not None:
                group.append((index, offset))
                break
        else:
            groups.append([(index, 0)])
    return groups


def _offset_in(group: list[tuple[int, int]], kmers: Sequence[str], kmer: str) -> int | None:
    """Returns the start of a k-mer in a group; None where it does not align or lies too far off."""
    for member, offset in group:
        shift = shift_of(kmers[member], kmer)
        if shift is not None and abs(offset + shift) <= len(kmer):
            return offset + shift
    return None


def find_motifs(
    bases_NM: np.ndarray, is_positive_N: np.ndarray, scores_NM: np.ndarray, settings: MotifSettings
) -> tuple[list[Motif], np.ndarray, Enrichment]:
    """Returns the motifs, the regions int64 (R, 3) (row, start, end), and all candidates' tests.

    The most significant motif comes first.

    Args:
      bases_NM: uint8, `vocabulary.PADDING` behind.
      is_positive_N: bool.
      scores_NM: float, how much each base speaks for the positive class.
    """
    lengths_N = (bases_NM != vocabulary.PADDING).sum(axis=1)
    regions_R3 = enrichment.high_regions(scores_NM, lengths_N, settings)
    codes_NS = enrichment.kmer_codes(bases_NM, settings.width)
    inside_NS = enrichment.starts_in_regions(
        regions_R3, lengths_N, codes_NS.shape[1], settings.width
    )
    tests = enrichment.enrich(codes_NS, inside_NS, is_positive_N, settings)
    num_enriched = min(int((tests.q_K <= settings.alpha).sum()), _MAX_MERGED)
    places = 4 ** np.arange(settings.width)[::-1]
    letters_KP = (tests.codes_K[:num_enriched, None] // places % 4).astype(np.uint8)
    kmers = [vocabulary.decode(letters_P) for letters_P in letters_KP]
    background_4 = np.bincount(bases_NM[bases_NM < vocabulary.AMBIGUOUS], minlength=4) + 1.0
    background_4 /= background_4.sum()
    motifs = []
    for group in merge(kmers)[: settings.max_motifs]:
        sites = _sites(codes_NS, inside_NS & is_positive_N[:, None], tests, group)
        motifs.append(
            _motif(group, kmers, tests, sites, bases_NM, codes_NS, is_positive_N, background_4)
        )
    return motifs, regions_R3, tests


def _sites(
    codes_NS: np.ndarray, chosen_NS: np.ndarray, tests: Enrichment, group: list[tuple[int, int]]
) -> np.ndarray:
    """Returns int64 (sites, 2): row and start of the seed at every member's positions, once."""
    sites = [
        np.argwhere(chosen_NS & (codes_NS == tests.codes_K[index])) - [0, offset]
        for index, offset in group
    ]
    return np.unique(np.concatenate(sites), axis=0)


def _motif(
    group: list[tuple[int, int]],
    kmers: Sequence[str],
    tests: Enrichment,
    sites: np.ndarray,
    bases_NM: np.ndarray,
    codes_NS: np.ndarray,
    is_positive_N: np.ndarray,
    background_4: np.ndarray,
) -> Motif:
    """Returns a group's motif, without the columns at its ends that tell nothing."""
    seed, width = group[0][0], len(kmers[0])
    offsets = [offset for _, offset in group]
    first, last = min(offsets) - _MAX_SHIFT, max(offsets) + width + _MAX_SHIFT
    frequencies_W4 = frequencies(count_bases(bases_NM, sites, first, last), background_4)
    core = slice(-first, -first + width)  # the seed itself stays
    frequencies_W4 = frequencies_W4[_informative(frequencies_W4, background_4, core)]
    holds_N = np.isin(codes_NS, tests.codes_K[[index for index, _ in group]]).any(axis=1)
    return Motif(
        seed=kmers[seed],
        seed_positives=int(tests.positives_K[seed]),
        seed_negatives=int(tests.negatives_K[seed]),
        odds_ratio=float(tests.odds_ratio_K[seed]),
        p=float(tests.p_K[seed]),
        q=float(tests.q_K[seed]),
        members=[(kmers[index], offset) for index, offset in group],
        positives=int((holds_N & is_positive_N).sum()),
        negatives=int((holds_N & ~is_positive_N).sum()),
        num_sites=len(sites),
        frequencies_W4=frequencies_W4,
        consensus=consensus(frequencies_W4),
    )


def count_bases(bases_NM: np.ndarray, sites: np.ndarray, first: int, last: int) -> np.ndarray:
    """Returns int64 (last - first, 4), the bases around the sites, columns A, T, C, G.

    Sites are int64 (sites, 2), row and start; columns go from `first` to `last` (excluded)
    relative to the start. What lies outside a sequence is not counted.
    """
    counts_W4 = np.zeros((last - first, 4), np.int64)
    for column, offset in enumerate(range(first, last)):
        position = sites[:, 1] + offset
        within = (position >= 0) & (position < bases_NM.shape[1])
        bases = bases_NM[sites[within, 0], position[within]]
        counts_W4[column] = np.bincount(bases[bases < vocabulary.AMBIGUOUS], minlength=4)
    return counts_W4


def frequencies(counts_W4: np.ndarray, background_4: np.ndarray) -> np.ndarray:
    """Returns float64 (W, 4), shares of the bases with a pseudocount; rows sum to 1."""
    filled_W4 = counts_W4 + _PSEUDOCOUNT * background_4
    return filled_W4 / filled_W4.sum(axis=1, keepdims=True)


def information(frequencies_W4: np.ndarray, background_4: np.ndarray) -> np.ndarray:
    """Returns float64 (W,), bits: the relative entropy of each column to the background."""
    return (frequencies_W4 * np.log2(frequencies_W4 / background_4)).sum(axis=1)


def _informative(frequencies_W4: np.ndarray, background_4: np.ndarray, core: slice) -> slice:
    """Returns the columns without uninformative ends; those of `core` stay."""
    columns = np.flatnonzero(information(frequencies_W4, background_4) >= _MIN_INFORMATION)
    return slice(min([core.start, *columns.tolist()]), max([core.stop, *(columns + 1).tolist()]))


def consensus(frequencies_W4: np.ndarray) -> str:
    """Returns IUPAC letters: a base with half of a column and twice the second; two with 3/4; N.

    (The rule of Cavener 1987.)
    """
    letters = []
    for row in frequencies_W4:
        second, first = np.argsort(row, kind="stable")[-2:]
        names = [vocabulary.ALPHABETS["dna"][index] for index in (first, second)]
        if row[first] > 0.5 and row[first] > 2 * row[second]:
            letters.append(names[0])
        elif row[first] + row[second] > 0.75:
            letters.append(_PAIRS["".join(sorted(names))])
        else:
            letters.append("N")
    return "".join(letters)
