"""The PMI command: counts, table, summary and picture in one folder, whole or not at all."""

import functools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from cmgems_jax import __version__, known_motifs
from cmgems_jax.errors import InputError
from cmgems_jax.genome import files as genome_files
from cmgems_jax.genome import vocabulary
from cmgems_jax.pmi import corpus, known, scores
from cmgems_jax.pmi import counts as pmi_counts
from cmgems_jax.pmi import table as pmi_table
from cmgems_jax.pmi.corpus import Corpus
from cmgems_jax.pmi.known import End
from cmgems_jax.pmi.table import PmiTable
from cmgems_jax.runtime import outputs

OUTPUTS = ("known_motifs.tsv", "pmi.csv", "pmi.png", "summary.json")
MARKS = ("pmi.csv", "summary.json")  # a folder with both was made by this command
_NUM_PRINTED = 5
_NUM_PLOTTED = 15


def make(
    *,
    fasta: list[str],
    counts: str,
    k: int,
    segmentation: str,
    min_count: int,
    output: Path,
    strands: str = "forward",
    taxon: str = known_motifs.NONE,
    count: Callable[[Sequence[str], int], Corpus] | None = None,
) -> PmiTable:
    """Writes OUTPUT/pmi.csv, summary.json, pmi.png and known_motifs.tsv; prints a summary.

    Args:
      counts: a CSV of counts of k-mers of length k in place of `fasta`, or "".
      segmentation: "published" or "full", see `scores.pmi`.
      output: a new or empty folder, or one that this command made before.
      strands: "forward", or "both": a k-mer and its reverse complement get their sum.
      taxon: of `known_motifs.TAXA`, with whose motifs the k-mers ranked first and last
        are compared; "none" leaves that out.
      count: returns the n-gram counts of files, for k; None = in this process.

    Raises:
      InputError: bad settings or input; nothing is written, nothing lost.
    """
    _check_settings(fasta, counts, k, min_count)
    if count is None:
        genome_files.check_files(fasta)
        count = functools.partial(corpus.count, progress=True)
    output = output.resolve()  # of a link, the folder is replaced and the link stays
    outputs.check_folder(output, OUTPUTS, MARKS)
    comparison = known_motifs.comparison(taxon)
    start = time.perf_counter()
    ngrams, source = _from_files(fasta, k, count) if fasta else _from_counts(counts, k)
    if strands == "both":
        ngrams = [pmi_counts.of_both_strands(one) for one in ngrams]
    table = pmi_table.make(ngrams, k, segmentation=segmentation, min_count=min_count)
    settings = {"k": k, "strands": strands, "segmentation": segmentation, "min_count": min_count}
    summary = _summary(table, settings, source, time.perf_counter() - start)
    if comparison:
        ends = known.compare(table, comparison)
        summary["known_motifs"] = {end.name: end.sentence(taxon) for end in ends}
    with outputs.replaced_folder(output) as folder:
        if comparison:
            _write_known(ends, folder / "known_motifs.tsv")
        pmi_table.write(table, folder / "pmi.csv")
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        plot(table, folder / "pmi.png", segmentation)
    _print_summary(table, summary, output)
    return table


def _summary(table: PmiTable, settings: dict, source: dict, seconds: float) -> dict:
    """Returns what summary.json says."""
    speed = {"bases_per_second": round(source["bases"] / seconds)} if "bases" in source else {}
    return {
        **settings,
        "kmers_counted": int(table.count.sum()),
        "kmers_absent": int((table.count == 0).sum()),
        **source,
        **speed,
        "seconds": round(seconds, 3),
        "version": __version__,
    }


def _from_files(
    fasta: list[str], k: int, count: Callable[[Sequence[str], int], Corpus]
) -> tuple[list[np.ndarray], dict]:
    """Returns n-gram counts of genome files, and what was read."""
    counted = count(fasta, k)
    if not counted.counts[k - 1].sum():
        raise InputError(f"{','.join(fasta)}: no contig of {k} bases or more")
    return list(counted.counts), counted.summary()


def _from_counts(path: str, k: int) -> tuple[list[np.ndarray], dict]:
    """Returns n-gram counts from a CSV of k-mer counts, and what was read."""
    kmer_counts = pmi_table.read_counts(Path(path))
    if len(kmer_counts) != 4**k:
        length = round(np.log(len(kmer_counts)) / np.log(4))
        raise InputError(f"{path}: holds {length}-mers, --k={k}; give --k={length}")
    return pmi_counts.counts_from_kmers(kmer_counts), {"sha256": {path: genome_files.sha256(path)}}


def _check_settings(fasta: Sequence[str], counts: str, k: int, min_count: int) -> None:
    """Raises `InputError` before any work."""
    if bool(fasta) == bool(counts):
        raise InputError("give either --fasta=FILE[,FILE...] or --counts=FILE.csv")
    if not vocabulary.MIN_K <= k <= vocabulary.MAX_K:
        raise InputError(f"--k={k}: expected {vocabulary.MIN_K} to {vocabulary.MAX_K}")
    if min_count < 2:
        raise InputError(f"--min_count={min_count}: expected 2 or more (paper: {scores.MIN_COUNT})")


def _print_summary(table: PmiTable, summary: dict, output: Path) -> None:
    """Prints what was counted, the best and the worst k-mers."""
    kmers, order = vocabulary.kmers(table.k), np.argsort(table.rank)
    order = order[table.count[order] > 0]
    if "bases" in summary:
        print(
            f"{summary['bases']:,} bases in {summary['contigs']:,} contigs, "
            f"{summary['ambiguous_share']:.2%} ambiguous, "
            f"{summary['dropped_pieces']:,} too short; "
            f"{summary['seconds']:.2f} s, {summary['bases_per_second'] / 1e6:,.0f} Mbases/s"
        )
    print(
        f"{summary['kmers_counted']:,} {table.k}-mers, {summary['kmers_absent']:,} of "
        f"{4**table.k:,} absent; strands: {summary['strands']}; "
        f"NPMI ({summary['segmentation']} segmentations):"
    )
    for name, codes in (("best", order[:_NUM_PRINTED]), ("worst", order[-_NUM_PRINTED:])):
        rows = (f"{kmers[code]} {table.npmi[code]:.3f}" for code in codes)
        print(f"  {name:<6}" + "  ".join(rows))
    for sentence in summary.get("known_motifs", {}).values():
        print(f"  {sentence}")
    written = (output / name for name in OUTPUTS if (output / name).exists())
    print(f"wrote {', '.join(map(str, written))}")


def _write_known(ends: Sequence[End], path: Path) -> None:
    """Writes known_motifs.tsv: the nearest known motif of each k-mer."""
    columns = ("end", "kmer", "motif", "id", "p", "q")
    schema = pa.schema([(name, pa.float64() if name in "pq" else pa.string()) for name in columns])
    with outputs.table(path, schema) as add:
        for end in ends:
            for kmer, match in zip(end.kmers, end.matches, strict=True):
                add((end.name, kmer, match.motif.name, match.motif.id, match.p, match.q))


def plot(table: PmiTable, path: Path, segmentation: str) -> None:
    """Writes a PNG: the distribution of NPMI, the top and the bottom k-mers."""
    from matplotlib.figure import Figure  # its import is slow

    from cmgems_jax.runtime import pictures

    kmers, order = vocabulary.kmers(table.k), np.argsort(table.rank)
    order = order[table.count[order] > 0]
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(2, 1, 1))
    left.hist(table.npmi[order], bins=min(80, 4 + len(order) // 8), color=pictures.MAIN)
    left.set(xlabel="NPMI (nats)", ylabel=f"{table.k}-mers")
    left.set_title(
        f"{len(order):,} {table.k}-mers, {table.count.sum():,} occurrences ({segmentation})",
        loc="left", fontsize=10,
    )  # fmt: skip
    number = min(_NUM_PLOTTED, len(order))
    for axes, codes, title, color in (
        (middle, order[:number], f"{number} highest", pictures.PALETTE[2]),
        (right, order[-number:], f"{number} lowest", pictures.OTHER),
    ):
        heights = np.arange(number)
        axes.barh(heights, table.npmi[codes], color=color)
        axes.set_yticks(heights, [kmers[code] for code in codes], family="monospace", fontsize=9)
        axes.invert_yaxis()
        axes.set_xlabel("NPMI (nats)")
        axes.locator_params(axis="x", nbins=4)  # labels that do not touch
        axes.set_title(title, loc="left", fontsize=10)
        axes.axvline(0, color=pictures.FAINT, linewidth=0.8)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
