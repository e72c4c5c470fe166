"""n-gram counts of genome files and what was read for them; parts add up exactly."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cmgems_jax.genome import files as genome_files
from cmgems_jax.pmi import counts as pmi_counts


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What was counted in some files."""

    counts: tuple[np.ndarray, ...] = ()  # [n-1] int64 (4**n,), n = 1..k; none where none was read
    tally: genome_files.Tally = dataclasses.field(default_factory=genome_files.Tally)
    num_short: int = 0  # contigs too short for a k-mer; their shorter n-grams count
    sha256: dict[str, str] = dataclasses.field(default_factory=dict)  # of files, by path

    def __add__(self, other: "Corpus") -> "Corpus":
        """Returns the sum of parts with different files."""
        counts = self.counts or other.counts
        if self.counts and other.counts:
            counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return Corpus(
            counts,
            self.tally + other.tally,
            self.num_short + other.num_short,
            self.sha256 | other.sha256,
        )

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


def count(paths: Sequence[str], k: int, *, progress: bool = False) -> Corpus:
    """Returns the counts of files; arguments as in `genome.files.read_contigs`."""
    tally, num_short = genome_files.Tally(), 0

    def contig_bases() -> Iterator[np.ndarray]:
        nonlocal num_short
        for contig in genome_files.read_contigs(paths, tally=tally, progress=progress):
            num_short += len(contig.bases) < k
            yield contig.bases

    counts = tuple(pmi_counts.count_ngrams(contig_bases(), k))
    return Corpus(counts, tally, num_short, {path: genome_files.sha256(path) for path in paths})
