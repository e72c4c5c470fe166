"""All three substitutions of every base of regions: their alleles, a table, and maps."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import logomaker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from cmgems_jax.downstream.inference import variants
from cmgems_jax.downstream.inference.variants import Allele
from cmgems_jax.errors import InputError
from cmgems_jax.genome import input_files, vocabulary
from cmgems_jax.genome.reference import Reference
from cmgems_jax.runtime import outputs, pictures

MAP_BASES = 120  # regions no longer than this have a map
MAX_MAPS = 20
_PIECE = 1 << 16  # bases that are read at a time
_LETTERS = "ACGT"  # order of a map's rows
_ORDER = [vocabulary.ALPHABETS["dna"].index(letter) for letter in _LETTERS]


@dataclasses.dataclass(frozen=True)
class Region:
    """A line of a BED file."""

    written: str  # the contig as the file names it
    contig: str  # as the genome does
    start: int  # 0-based
    end: int  # excluded
    name: str


@dataclasses.dataclass
class Regions:
    """The regions of a BED file, in its order."""

    path: str
    reference: Reference
    regions: list[Region]
    num_alleles: int = 0

    def positions(self) -> Iterator[tuple[Region, Allele]]:
        """Yields the alleles of every base: three, or one unscored for an ambiguous letter."""
        for region in self.regions:
            for start in range(region.start, region.end, _PIECE):
                end = min(start + _PIECE, region.end)
                codes = self.reference.fetch(region.contig, start, end)
                for position, ref in enumerate(codes.tolist(), start):
                    if ref >= vocabulary.AMBIGUOUS:
                        yield region, Allele(region.contig, position, ref, ref, variants.AMBIGUOUS)
                        continue
                    for alt in _ORDER:
                        if alt != ref:
                            yield region, Allele(region.contig, position, ref, alt)

    def alleles(self) -> Iterator[Allele]:
        """Yields the alleles alone."""
        return (allele for _, allele in self.positions())

    def sites(self) -> Iterator[list]:
        """Yields the `vcf.SITE_COLUMNS` of every allele; for an ID, the region's name."""
        letters = vocabulary.ALPHABETS["dna"] + "N"
        for region, allele in self.positions():
            position = [region.written, allele.position + 1, region.name]
            yield [*position, letters[allele.ref], letters[allele.alt]]


def read(path: str, reference: Reference) -> Regions:
    """Reads a BED file, plain or gzip.

    Raises:
      InputError: no region, or a line that is none or does not fit the genome.
    """
    text = input_files.read_unpacked(path, "a BED file").decode("utf-8", "replace")
    regions = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith(("#", "track", "browser")):
            regions.append(_region(line, f"{path}: line {number:,}", reference))
    if not regions:
        raise InputError(f"{path}: no region; expected lines of contig, start (from 0), end")
    sites = Regions(path, reference, regions)
    sites.num_alleles = sum(1 for _ in sites.positions())
    return sites


def _region(line: str, where: str, reference: Reference) -> Region:
    """Returns the region of a line."""
    cells = line.split("\t") if "\t" in line else line.split()
    if len(cells) < 3 or not (cells[1].strip().isdecimal() and cells[2].strip().isdecimal()):
        raise InputError(f"{where}: {line[:60]!r}: expected contig, start (from 0) and end")
    contig = reference.find(cells[0])
    if contig is None:
        raise InputError(f"{where}: {reference.describe_missing(cells[0])}")
    start, end = int(cells[1]), int(cells[2])
    if not start < end <= reference.lengths[contig]:
        raise InputError(
            f"{where}: {start:,} to {end:,}: expected start < end <= "
            f"{reference.lengths[contig]:,}, the length of {contig}"
        )
    return Region(cells[0], contig, start, end, cells[3] if len(cells) > 3 else ".")


def write_maps(sites: Regions, rows: Iterator[np.void], output: Path) -> list[Path]:
    """Writes a PNG beside the output for each of the first `MAX_MAPS` short regions with scores."""
    score_of: dict[Region, np.ndarray] = {}
    for (region, allele), row in zip(sites.positions(), rows, strict=True):
        length = region.end - region.start
        if row["reason"] != variants.SCORED or length > MAP_BASES:
            continue
        if region in score_of or len(score_of) < MAX_MAPS:
            score_M4 = score_of.setdefault(region, np.full((length, 4), np.nan))
            score_M4[allele.position - region.start, [allele.ref, allele.alt]] = 0, row["score"]
    paths = []
    for region, score_M4 in score_of.items():
        name = re.sub(r"[^\w.-]", "_", f"{region.contig}_{region.start}_{region.end}")
        paths.append(output.with_name(f"{output.stem}.{name}.png"))
        with outputs.replaced_file(paths[-1]) as partial:
            plot_map(score_M4, region, partial)
    return paths


def plot_map(score_M4: np.ndarray, region: Region, path: Path) -> None:
    """Writes a PNG: the letters that the model expects, and the score of each substitution.

    Args:
      score_M4: nats, columns A, T, C, G; 0 at the genome's base, NaN where there is no score.
      region: that it shows.
      path: the file.
    """
    score_MA = score_M4[:, _ORDER]
    share_MA = np.exp(score_MA) / np.exp(score_MA).sum(axis=1, keepdims=True)
    bits_M = 2 + (share_MA * np.log2(share_MA)).sum(axis=1)
    heights = pd.DataFrame(np.nan_to_num(share_MA * bits_M[:, None]), columns=list(_LETTERS))
    figure = Figure(figsize=(max(5.0, 1.6 + 0.16 * len(heights)), 3.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, height_ratios=[1.2, 1])
    logomaker.Logo(heights, ax=top, color_scheme=pictures.BASES, vpad=0.02, width=0.92)
    top.set(ylabel="bits", xticks=[], xlim=(-0.5, len(heights) - 0.5))
    top.set_title(
        f"{region.written}:{region.start + 1:,}-{region.end:,}: expected letters, and scores",
        loc="left", fontsize=9,
    )  # fmt: skip
    top.spines[["top", "right", "bottom"]].set_visible(False)
    image = _plot_scores(bottom, score_MA)
    step = 10 if len(heights) > 30 else 5
    ticks = range(-(region.start + 1) % step, len(heights), step)
    bottom.set_xticks(ticks, [f"{region.start + 1 + tick:,}" for tick in ticks], fontsize=7)
    bottom.set_xlabel("position (from 1); dots: the genome's base")
    figure.colorbar(image, ax=bottom, pad=0.01, label="log p(alt)/p(ref)")
    figure.savefig(path, dpi=130)


def _plot_scores(axes: Axes, score_MA: np.ndarray) -> object:
    """Cells: one per substitution, a dot at the genome's base."""
    reach = max(float(np.nan_to_num(np.abs(score_MA)).max()), 1e-6)
    image = axes.imshow(
        score_MA.T, cmap="RdBu", norm=TwoSlopeNorm(0, -reach, reach), aspect="auto",
        interpolation="nearest",
    )  # fmt: skip
    axes.plot(*np.nonzero(score_MA == 0), ".", color="#3c3c3c", markersize=2.5)
    axes.set_yticks(range(4), list(_LETTERS), fontsize=7, family="monospace")
    axes.spines[:].set_visible(False)
    return image
