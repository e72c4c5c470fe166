"""Which of the k-mers that PMI ranks first and last match a known motif, beside chance."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from cmgems_jax import known_motifs, terminal
from cmgems_jax.genome import vocabulary
from cmgems_jax.known_motifs import Comparison, Match
from cmgems_jax.pmi.table import PmiTable

NUM_COMPARED = 50  # k-mers of either end
_NUM_SHUFFLES = 20  # of each k-mer's letters
_NORMAL = 1.96  # 95 % of a normal distribution


@dataclasses.dataclass(frozen=True)
class End:
    """The k-mers of one end of the ranking."""

    name: str  # "first" or "last"
    kmers: list[str]  # by rank
    matches: list[Match]  # of each, the nearest known motif
    chance: float  # the share of random k-mers of the same composition that match one
    chance_low: float  # 95 % interval of that share among as many k-mers
    chance_high: float

    @property
    def share(self) -> float:
        """The share of the k-mers that match a known motif."""
        return float(np.mean([match.is_significant for match in self.matches]))

    def sentence(self, taxon: str) -> str:
        """Returns what was found, in words."""
        named = collections.Counter(
            f"{kmer} {match.motif.name}"
            for kmer, match in zip(self.kmers, self.matches, strict=True)
            if match.is_significant
        )
        return (
            f"{self.name} {len(self.kmers)}: {self.share:.0%} match a motif of {taxon} "
            f"({known_motifs.RELEASE}, TOMTOM q <= {known_motifs.ALPHA:g}); of random k-mers of "
            f"the same letters {self.chance:.0%} [{self.chance_low:.0%}, {self.chance_high:.0%}]"
            + (f"; {', '.join(list(named)[:5])}" if named else "")
        )


def compare(
    table: PmiTable,
    comparison: Comparison,
    *,
    number: int = NUM_COMPARED,
    num_shuffles: int = _NUM_SHUFFLES,
) -> list[End]:
    """Returns the ends of a ranking: `number` k-mers that occur, first and last; [] of one.

    A k-mer matches where TOMTOM's q value of the nearest motif, over all motifs of the
    comparison, is `known_motifs.ALPHA` or less. What chance gives is the share among random
    orders of the same letters. A k-mer and its reverse complement match alike, so they are
    shuffled as one.
    """
    kmers, order = vocabulary.kmers(table.k), np.argsort(table.rank)
    present = [kmers[code] for code in order[table.count[order] > 0]]
    number = min(number, len(present) // 2)
    if not number:
        return []
    best = functools.cache(lambda kmer: comparison.best(known_motifs.kmer_frequencies(kmer)))
    ends = (("first", present[:number]), ("last", present[len(present) - number :]))
    num_classes = sum(len(set(map(canonical, chosen))) for _, chosen in ends)
    with terminal.bar(total=num_classes, unit="k-mers", desc="known motifs") as bar:
        return [_end(name, chosen, best, num_shuffles, bar.update) for name, chosen in ends]


@functools.cache
def canonical(kmer: str) -> str:
    """Returns the k-mer or its reverse complement, whichever comes first in the alphabet."""
    other = vocabulary.decode(vocabulary.reverse_complement(vocabulary.encode(kmer)))
    return min(kmer, other)


def _end(
    name: str,
    kmers: list[str],
    best: Callable[[str], Match],
    num_shuffles: int,
    advance: Callable[[], object],
) -> End:
    """Returns one end: its matches, and those of its k-mers' letters in random order."""
    rng = np.random.default_rng(0)

    def chance(kmer: str) -> float:
        shuffled = ("".join(rng.permutation(list(kmer))) for _ in range(num_shuffles))
        advance()
        return float(np.mean([best(canonical(other)).is_significant for other in shuffled]))

    matches = [best(canonical(kmer)) for kmer in kmers]
    return End(name, kmers, matches, *mean_chance(kmers, chance))


def mean_chance(kmers: Sequence[str], chance: Callable[[str], float]) -> tuple[float, float, float]:
    """Returns the mean of the k-mers' chances, and the 95 % interval of a share among as many.

    A k-mer and its reverse complement are alike, so that they count as one draw.
    """
    classes = collections.Counter(map(canonical, kmers))
    chance_K = np.array([chance(kmer) for kmer in classes])
    weight_K = np.array(list(classes.values())) / len(kmers)
    mean = float(weight_K @ chance_K)
    reach = _NORMAL * float(np.sqrt(weight_K**2 @ (chance_K * (1 - chance_K))))
    return mean, max(0.0, mean - reach), min(1.0, mean + reach)
