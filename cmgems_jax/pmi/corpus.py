"""n-gram counts of genome files and what was read for them; parts add up exactly."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from cmgems_jax.genome import files as genome_files
from cmgems_jax.genome import input_files
from cmgems_jax.pmi import counts as pmi_counts


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What was counted in some files.

    Attributes:
      counts: counts[n-1] int64 (4**n,) for n = 1..k; empty where nothing was read.
      tally: of the input.
      num_short: contigs too short for a k-mer; their shorter n-grams count.
      sha256: of every file, by its path.
    """

    counts: tuple[np.ndarray, ...] = ()
    tally: genome_files.Tally = dataclasses.field(default_factory=genome_files.Tally)
    num_short: int = 0
    sha256: dict[str, str] = dataclasses.field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Returns what was read, for summary.json."""
        return {
            "bases": self.tally.bases,
            "contigs": self.tally.contigs,
            "records": self.tally.records,
            "ambiguous": self.tally.ambiguous,
            "ambiguous_share": self.tally.ambiguous_share,
            "dropped_pieces": self.num_short,
            "sha256": self.sha256,
        }


def count(paths: genome_files.Paths, k: int, *, progress: bool = False) -> Corpus:
    """Returns the counts of files; arguments as in `genome.read_contigs`."""
    paths = input_files.listed(paths)
    tally, num_short = genome_files.Tally(), 0

    def contig_bases() -> Iterator[np.ndarray]:
        nonlocal num_short
        for contig in genome_files.read_contigs(paths, tally=tally, progress=progress):
            num_short += len(contig.bases) < k
            yield contig.bases

    counts = tuple(pmi_counts.count_ngrams(contig_bases(), k))
    return Corpus(counts, tally, num_short, {path: genome_files.sha256(path) for path in paths})


def add(parts: Iterable[Corpus]) -> Corpus:
    """Returns the sum of parts with different files; of none, an empty corpus."""
    total = Corpus()
    for part in parts:
        counts = part.counts
        if total.counts and counts:
            counts = tuple(a + b for a, b in zip(total.counts, counts, strict=True))
        total = Corpus(
            counts or total.counts,
            genome_files.add_tallies([total.tally, part.tally]),
            total.num_short + part.num_short,
            total.sha256 | part.sha256,
        )
    return total
