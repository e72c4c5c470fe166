"""Pictures of motifs: sequence logos and maps of every substitution."""

from pathlib import Path

import logomaker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from cmgems_jax.downstream.motifs.motifs import Motif
from cmgems_jax.genome import vocabulary
from cmgems_jax.runtime import pictures

LETTERS = "ACGT"  # order of rows and columns in figures and files
ORDER = [vocabulary.ALPHABETS["dna"].index(letter) for letter in LETTERS]
_DPI = 130
_ROW_BASES = 80  # of a map; longer sequences continue below
_MAX_ROWS = 40


def plot_logo(motif: Motif, path: Path) -> None:
    """Writes a PNG: letters as tall as their share of the column's information (bits)."""
    frequencies_W4 = motif.frequencies_W4[:, ORDER]
    bits_W = 2 + (frequencies_W4 * np.log2(frequencies_W4)).sum(axis=1)
    heights = pd.DataFrame(frequencies_W4 * bits_W[:, None], columns=list(LETTERS))
    figure = Figure(figsize=(max(4.6, 1.2 + 0.55 * len(heights)), 2.6), layout="constrained")
    axes = figure.subplots()
    logomaker.Logo(heights, ax=axes, color_scheme=pictures.BASES, vpad=0.02, width=0.92)
    axes.set(ylim=(0, 2), yticks=(0, 1, 2), ylabel="bits", xlabel="position (from 0)")
    axes.set_xticks(range(len(heights)))
    title = (
        f"{motif.consensus}: {motif.num_sites} sites; found in {motif.positives} positives and "
        f"{motif.negatives} negatives"
    )
    if motif.match:
        title += f"\n{motif.match}"
    axes.set_title(title, loc="left", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=_DPI)


def plot_mutagenesis(change_M4: np.ndarray, bases_M: np.ndarray, title: str, path: Path) -> None:
    """Writes a PNG: the effect of every substitution, and each base's mean effect above.

    Args:
      change_M4: float32 (M, 4), of `attribution.mutagenesis`, columns A, T, C, G.
      bases_M: uint8 (M,), the sequence.
    """
    num_rows = min(_MAX_ROWS, -(-len(bases_M) // _ROW_BASES))
    width = min(_ROW_BASES, len(bases_M))
    figure = Figure(figsize=(2.2 + 0.155 * width, 0.7 + 1.75 * num_rows), layout="constrained")
    grid = figure.subplots(2 * num_rows, 1, height_ratios=[1.0, 1.6] * num_rows)
    reach = max(float(np.abs(change_M4).max()), 1e-6)
    norm = TwoSlopeNorm(0, -reach, reach)
    mean_M = change_M4.sum(axis=1) / np.maximum(1, (bases_M[:, None] != np.arange(4)).sum(axis=1))
    for row in range(num_rows):
        part = slice(row * _ROW_BASES, min((row + 1) * _ROW_BASES, len(bases_M)))
        bars, cells = grid[2 * row], grid[2 * row + 1]
        _plot_means(bars, mean_M[part], part.start, width, mean_M)
        image = _plot_cells(cells, change_M4[part], bases_M[part], part.start, width, norm)
    grid[0].set_title(title, loc="left", fontsize=10)
    grid[-1].set_xlabel("position (bases, from 0); dots: the base that stands there")
    bar = figure.colorbar(image, ax=grid.tolist(), shrink=min(1, 3 / (1.75 * num_rows)), pad=0.01)
    bar.set_label("change of log-odds (nats)")
    figure.savefig(path, dpi=_DPI)


def _plot_means(
    axes: Axes, mean_P: np.ndarray, start: int, width: int, every_M: np.ndarray
) -> None:
    """Bars: the mean change at each position; below zero where the base supports the class."""
    positions = start + np.arange(len(mean_P))
    axes.bar(
        positions, mean_P, width=0.85, color=np.where(mean_P < 0, pictures.MAIN, pictures.OTHER)
    )
    axes.hlines(0, start - 0.5, start + len(mean_P) - 0.5, color=pictures.FAINT, linewidth=0.6)
    low, high = min(0, every_M.min()), max(0, every_M.max())
    margin = 0.05 * max(high - low, 1e-6)
    axes.set(xlim=(start - 0.5, start + width - 0.5), ylim=(low - margin, high + margin))
    axes.set_ylabel("mean", fontsize=8, labelpad=2)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _plot_cells(
    axes: Axes,
    change_P4: np.ndarray,
    bases_P: np.ndarray,
    start: int,
    width: int,
    norm: TwoSlopeNorm,
) -> object:
    """Cells: one per substitution; the letters of the sequence above them."""
    end = start + len(bases_P)
    image = axes.imshow(
        change_P4[:, ORDER].T, cmap="RdBu_r", norm=norm, aspect="auto", interpolation="nearest",
        extent=(start - 0.5, end - 0.5, 3.5, -0.5),
    )  # fmt: skip
    for position, base in enumerate(bases_P.tolist(), start):
        letter = (vocabulary.ALPHABETS["dna"] + "N")[base]
        axes.text(
            position, -0.62, letter, ha="center", va="bottom", fontsize=7, family="monospace",
            color=pictures.BASES.get(letter, pictures.FAINT), weight="bold",
        )  # fmt: skip
        if letter in LETTERS:
            axes.plot(position, LETTERS.index(letter), ".", color="#3c3c3c", markersize=2.5)
    axes.set(xlim=(start - 0.5, start + width - 0.5))
    axes.set_yticks(range(4), list(LETTERS), fontsize=7, family="monospace")
    step = 10 if width > 30 else 5
    axes.set_xticks(range(start, end, step))
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[:].set_visible(False)
    return image
