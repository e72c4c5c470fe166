"""What the k-mers that PMI ranks first and last are: known motifs, repeats, CpG (docs/results.md).

    python -m benchmarks.what_pmi_masks --output=docs/pmi_motifs.png

GRCh38's embedded 6-mer counts, with TOMTOM against JASPAR's motifs of vertebrates. Chance: all
orders of the same letters, each k-mer and its reverse complement as one.
"""

import argparse
import functools
import itertools
from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

from cmgems_jax import known_motifs
from cmgems_jax.genome import vocabulary
from cmgems_jax.pmi import counts as pmi_counts
from cmgems_jax.pmi import known
from cmgems_jax.pmi import table as pmi_table
from cmgems_jax.runtime import pictures

K, NUM_BINS = 6, 8
# AluY, the commonest repeat of the human genome: each of its 12-mers stands 70 to 1,158 times in
# 8.8 Mbp of human DNA, where chance gives 0.5.
ALU = (
    "GGCCGGGCGCGGTGGCTCACGCCTGTAATCCCAGCACTTTGGGAGGCCGAGGCGGGCGGATCACGAGGTCAGGAGATCGAGACCATCCTGGCTAACACGG"
    "TGAAACCCCGTCTCTACTAAAAATACAAAAAATTAGCCGGGCGTGGTGGCGGGCGCCTGTAGTCCCAGCTACTCGGGAGGCTGAGGCAGGAGAATGGCGT"
    "GAACCCGGGAGGCGGAGCTTGCAGTGAGCCGAGATCGCGCCACTGCACTCCAGCCTGGGCGACAGAGCGAGACTCCGTCTCAAAAAAA"
)
IN_ALU = {known.canonical(ALU[start : start + K]) for start in range(len(ALU) - K + 1)}
KINDS: dict[str, Callable[[str], bool]] = {
    "holds CpG": lambda kmer: "CG" in kmer,
    "in the Alu consensus": lambda kmer: known.canonical(kmer) in IN_ALU,
    "tandem repeat of 1 to 3 bases": lambda kmer: any(
        kmer[period:] == kmer[:-period] for period in (1, 2, 3)
    ),
    "one or two letters": lambda kmer: len(set(kmer)) <= 2,
}


@functools.cache
def share_of_letters(letters: str, is_kind: Callable[[str], bool]) -> float:
    """Returns the share among all orders of some letters."""
    orders = set(map("".join, itertools.permutations(letters)))
    return float(np.mean([is_kind(kmer) for kmer in orders]))


def chance(kmers: list[str], is_kind: Callable[[str], bool]) -> tuple[float, float, float]:
    """Returns the mean share among k-mers of the same letters, and its 95 % interval."""
    return known.mean_chance(kmers, lambda kmer: share_of_letters("".join(sorted(kmer)), is_kind))


def main() -> None:
    """Prints the table and writes the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="docs/pmi_motifs.png")
    output = parser.parse_args().output
    table = pmi_table.make(pmi_counts.counts_from_kmers(pmi_table.grch38_counts()), K)
    order, kmers = np.argsort(table.rank), vocabulary.kmers(K)
    ranked = [kmers[code] for code in order]
    comparison = known_motifs.comparison("vertebrates")
    matches = {
        kmer: comparison.best(known_motifs.kmer_frequencies(kmer)).is_significant
        for kmer in sorted(set(map(known.canonical, kmers)))
    }
    kinds = {"like a known motif": lambda kmer: matches[known.canonical(kmer)], **KINDS}
    sets = {"first 50": ranked[:50], "first 100": ranked[:100], "last 100": ranked[-100:],
            "last 50": ranked[-50:], "all 4,096": ranked}  # fmt: skip
    print("| | " + " | ".join(sets) + " |\n| --- |" + " --- |" * len(sets))
    for name, is_kind in kinds.items():
        cells = []
        for chosen in sets.values():
            share = f"{np.mean(list(map(is_kind, chosen))):.0%}"
            if len(chosen) < len(ranked):
                share += " ({:.0%} [{:.0%}, {:.0%}])".format(*chance(chosen, is_kind))
            cells.append(share)
        print(f"| {name} | " + " | ".join(cells) + " |")
    of_genome = {
        name: np.isin(ranked, chosen) @ table.count[order] for name, chosen in sets.items()
    }
    shares = (f"{of_set / table.count.sum():.2%}" for of_set in of_genome.values())
    print("| of the genome's 6-mers | " + " | ".join(shares) + " |")
    plot(ranked, kinds, output)


def plot(ranked: list[str], kinds: dict[str, Callable[[str], bool]], path: str) -> None:
    """Writes the share of each kind by rank; dotted, of the same letters in any order."""
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    all_axes = figure.subplots(1, len(kinds) - 1, sharey=True)
    bins = [list(part) for part in np.array_split(ranked, NUM_BINS)]
    x = np.arange(NUM_BINS) * (len(ranked) // NUM_BINS) + len(ranked) // NUM_BINS // 2
    for axes, (name, is_kind) in zip(all_axes, list(kinds.items())[:-1], strict=True):
        axes.bar(x, [np.mean(list(map(is_kind, part))) for part in bins], 440, color=pictures.MAIN)
        by_chance = [chance(part, is_kind)[0] for part in bins]
        axes.plot(x, by_chance, "o:", color="#d1495b", markersize=3, label="same letters")
        axes.set_title(name, loc="left", fontsize=9)
        axes.set(xlabel="rank by NPMI", xticks=(1, 2048, 4096), ylim=(0, 1))
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[0].set_ylabel("share of the 6-mers")
    all_axes[-1].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
