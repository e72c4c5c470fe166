"""Known motifs (JASPAR, from pyjaspar's tables) and which of them a motif looks like (TOMTOM).

Offline, in numpy. Axes: T known motifs, S = 2T motifs and their reverse complements, W
columns of a motif (bases A, T, C, G as in `vocabulary`), C columns of all S, I columns of
a query, O offsets between a query and a motif.
"""

import collections
import dataclasses
import functools
import importlib.util
import itertools
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary

RELEASE = "JASPAR2026"
TAXA = ("vertebrates", "plants", "fungi", "insects", "nematodes", "urochordates")
NONE = "none"  # in place of a taxon: nothing is compared
ALPHA = 0.05  # largest q value of a match
_BINS = 100  # of a column's scores, as TOMTOM has them
_PSEUDOCOUNT = 0.25  # per base, added to JASPAR's counts
# The counts of the latest versions of a taxon's motifs, in the order A, C, G, T of each column.
# Of a group, SQLite takes the other values from the row with the maximum.
_CELLS = """
    WITH latest AS (
        SELECT ID, BASE_ID, MAX(VERSION) AS VERSION, NAME FROM MATRIX
        WHERE COLLECTION = 'CORE' AND ID IN
            (SELECT ID FROM MATRIX_ANNOTATION WHERE TAG = 'tax_group' AND VAL = ?)
        GROUP BY BASE_ID
    )
    SELECT ID, BASE_ID || '.' || VERSION, NAME, val FROM latest JOIN MATRIX_DATA USING (ID)
    ORDER BY ID, col, row
"""


@dataclasses.dataclass(frozen=True)
class KnownMotif:
    """A motif of JASPAR's CORE collection, in its latest version."""

    id: str  # MA0108.3
    name: str  # TBP
    frequencies_W4: np.ndarray  # float64, rows sum to 1


@dataclasses.dataclass(frozen=True)
class Match:
    """The known motif that is most like a query."""

    motif: KnownMotif
    p: float  # of the best alignment on either strand, to this motif
    q: float  # Benjamini-Hochberg over all known motifs

    @property
    def is_significant(self) -> bool:
        """Whether the motif can be called by this name."""
        return self.q <= ALPHA

    def __str__(self) -> str:
        """Returns `like TBP (MA0108.3, q = 2e-03)`, or that it is like none."""
        named = f"{self.motif.name} ({self.motif.id}, q = {self.q:.1g})"
        return f"like {named}" if self.is_significant else f"like no known motif; nearest {named}"


@functools.cache
def read(taxon: str) -> tuple[KnownMotif, ...]:
    """Returns the latest versions of JASPAR's CORE motifs of one of `TAXA`.

    Raises:
      InputError: pyjaspar, which holds the tables, is not installed, or is of another release.
    """
    package = importlib.util.find_spec("pyjaspar")  # not imported: only its file is needed
    folder = Path(package.submodule_search_locations[0]) if package else Path()
    path = folder / "data" / f"{RELEASE}.sqlite"
    if not path.is_file():
        raise InputError(
            f"no {RELEASE}.sqlite: known motifs are read from the package pyjaspar; "
            "pip install pyjaspar==4.0.0"
        )
    order = [sorted("ACGT").index(base) for base in vocabulary.ALPHABETS["dna"]]
    motifs = []
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as tables:
        cells = tables.execute(_CELLS, (taxon,))
        for (_, identifier, name), own in itertools.groupby(cells, key=lambda cell: cell[:3]):
            counts_W4 = np.reshape([count for *_, count in own], (-1, 4)).take(order, axis=1)
            counts_W4 += _PSEUDOCOUNT
            frequencies_W4 = counts_W4 / counts_W4.sum(axis=1, keepdims=True)
            motifs.append(KnownMotif(identifier, name, frequencies_W4))
    return tuple(motifs)


@functools.cache
def comparison(taxon: str) -> "Comparison | None":
    """Returns what compares with the motifs of a taxon; None for `NONE`."""
    return None if taxon == NONE else Comparison(read(taxon))


def kmer_frequencies(kmer: str) -> np.ndarray:
    """Returns float64 (k, 4), a k-mer as a motif of certain bases."""
    return np.eye(4)[vocabulary.encode(kmer)]


class Comparison:
    """TOMTOM (Gupta et al. 2007) of queries with a set of known motifs.

    The score of an alignment is the sum over its columns of minus the Euclidean distance,
    less the median of the query's column over all known columns, so that columns which hang
    over count as a median match ("complete scores": Tanaka et al. 2011). Its distribution
    under chance follows from that of each query column over all known columns, and a
    motif's p value from the largest score over all offsets and both strands.
    """

    def __init__(self, motifs: Sequence[KnownMotif]) -> None:
        """Lays the columns of all motifs and of their reverse complements in one table."""
        self.motifs = list(motifs)
        each = [motif.frequencies_W4 for motif in motifs]
        complement = [vocabulary.ALPHABETS["dna"].index(base) for base in "TAGC"]
        each += [frequencies_W4[::-1, complement] for frequencies_W4 in each]
        self._columns_C4 = np.concatenate(each)
        self._width_S = np.array([len(frequencies_W4) for frequencies_W4 in each])
        self._is_column_SW = np.arange(self._width_S.max()) < self._width_S[:, None]
        self._column_scores = functools.cache(self._scores_of_column)

    def p_values(self, query_I4: np.ndarray) -> np.ndarray:
        """Returns float64 (T,), the p value of a query's best alignment to each known motif.

        Args:
          query_I4: float64, frequencies, bases A, T, C, G.
        """
        columns = [self._column_scores(column_4.tobytes()) for column_4 in query_I4]
        low, high = min(score_C.min() for score_C in columns), max(s.max() for s in columns)
        scale = _BINS / max(high - low, 1e-9)
        scores_IC = [np.rint(score_C * scale).astype(np.int32) for score_C in columns]
        best_S = self._best_scores(scores_IC)
        p_S = np.ones(len(best_S))
        log_less = _log_chance_of_less(scores_IC)
        for width in np.unique(self._width_S):
            is_wide = self._width_S == width
            p_S[is_wide] = _p_of_best(log_less, len(query_I4), int(width), best_S[is_wide])
        p_T = p_S.reshape(2, -1).min(axis=0)
        return -np.expm1(2 * np.log1p(-np.minimum(p_T, 1 - 1e-15)))  # the better of two strands

    def best(self, query_I4: np.ndarray) -> Match:
        """Returns the known motif of the least p value."""
        p_T = self.p_values(query_I4)
        nearest = int(p_T.argmin())
        by_rank_T = np.sort(p_T) * len(p_T) / np.arange(1, len(p_T) + 1)
        return Match(self.motifs[nearest], float(p_T[nearest]), float(by_rank_T.min()))

    def _scores_of_column(self, column: bytes) -> np.ndarray:
        """Returns float64 (C,), minus the distances of a query's column, less their median."""
        score_C = -np.linalg.norm(self._columns_C4 - np.frombuffer(column), axis=1)
        return score_C - np.median(score_C)

    def _best_scores(self, scores_IC: Sequence[np.ndarray]) -> np.ndarray:
        """Returns int32 (S,), the largest score of each motif over the offsets of the query."""
        length, widest = len(scores_IC), self._is_column_SW.shape[1]
        score_SW = np.zeros(self._is_column_SW.shape, np.int32)
        total_SO = np.zeros((len(score_SW), length + widest - 1), np.int32)
        for number, score_C in enumerate(scores_IC):
            score_SW[self._is_column_SW] = score_C
            # At offset o the query's first column lies o - (length - 1) behind the motif's.
            first = length - 1 - number
            total_SO[:, first : first + widest] += score_SW
        touches_SO = np.arange(total_SO.shape[1]) < (self._width_S + length - 1)[:, None]
        return np.where(touches_SO, total_SO, np.iinfo(np.int32).min).max(axis=1)


_Chances = dict[tuple[int, int], tuple[int, np.ndarray]]


def _log_chance_of_less(scores_IC: Sequence[np.ndarray]) -> _Chances:
    """Returns how likely chance gives less, for the query's columns from a to b (excluded).

    By (a, b): the least score, and float64 (n + 1,), log P(sum < least + index).
    """
    result = {}
    lows = [int(score_C.min()) for score_C in scores_IC]
    shares = [
        np.bincount(score_C - low) / len(score_C)
        for score_C, low in zip(scores_IC, lows, strict=True)
    ]
    for a in range(len(shares)):
        low, chance = 0, np.ones(1)
        for b in range(a + 1, len(shares) + 1):
            low, chance = low + lows[b - 1], np.convolve(chance, shares[b - 1])
            survival = np.minimum(np.append(chance[::-1].cumsum()[::-1], 0), 1)
            with np.errstate(divide="ignore"):  # no sum is less than the least one
                result[a, b] = low, np.log1p(-survival)
    return result


def _p_of_best(log_less: _Chances, length: int, width: int, best_N: np.ndarray) -> np.ndarray:
    """Returns float64 (N,), the chance of such a best score over all offsets to `width` columns."""
    total_N = np.zeros(len(best_N))
    shifts = range(1 - length, width)  # of the query's first column behind the motif's
    parts = collections.Counter((max(0, -s), min(length, width - s)) for s in shifts)
    for part, num_offsets in parts.items():
        low, log_less_n = log_less[part]
        total_N += num_offsets * log_less_n[np.minimum(best_N - low, len(log_less_n) - 1)]
    return -np.expm1(total_N)
