"""The figures of the page, each a function from tables to its <svg> elements.

To be called in the context of `svg.style`.
"""

import itertools
from typing import Any

import logomaker
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cmgems_jax.downstream.evaluation import report as evaluation_report
from cmgems_jax.genome import vocabulary
from cmgems_jax.pmi.table import PmiTable
from cmgems_jax.pretraining import curves
from cmgems_jax.report import svg
from cmgems_jax.runtime import pictures
from cmgems_jax.studies import study_report, study_tables

_NUM_LOGO, _NUM_LISTED = 50, 12


def pmi(table: PmiTable) -> list[str]:
    """Returns the distribution of NPMI, the best k-mers, and their logo."""
    kmers, order = vocabulary.kmers(table.k), np.argsort(table.rank)
    order = order[table.count[order] > 0]
    best = order[:_NUM_LISTED]
    figure = Figure(figsize=(7.2, 4.6))
    grid = figure.subplot_mosaic([["all", "best"], ["logo", "best"]], width_ratios=(1.5, 1))
    grid["all"].hist(table.npmi[order], bins=60, color=pictures.MAIN)
    grid["all"].set(title=f"NPMI of all {table.k}-mers", xlabel="nats", ylabel="k-mers")
    bars = grid["best"]
    bars.barh(range(len(best)), table.npmi[best], color=pictures.MAIN, height=0.7)
    pictures.name_lines(bars, [kmers[code] for code in best])
    bars.tick_params(axis="y", labelfontfamily="monospace")
    bars.set(title="the best", xlabel="NPMI (nats)")
    letters = [kmers[code] for code in order[:_NUM_LOGO]]
    counts = logomaker.alignment_to_matrix(letters, to_type="information")
    logomaker.Logo(counts, ax=grid["logo"], color_scheme=pictures.BASES, vpad=0.02)
    grid["logo"].set(title=f"the best {len(letters)} together", ylabel="bits", xlabel="base")
    grid["logo"].grid(visible=False)
    return svg.panels(figure, f"NPMI of {table.k}-mers: {', '.join(letters[:5])} first")


def run_curves(records: list[dict[str, Any]], k: int) -> list[str]:
    """Returns the picture of a run (`curves.run_figure`), from the records of its log."""
    figure = curves.run_figure(records, k, (7.2, 4.8))
    switches = [record["step"] for record in records if record["kind"] == "switch"]
    at = f"; the strategy switches at step {switches[0]:,}" if switches else ""
    return svg.panels(figure, f"Perplexity, loss and masks by step{at}")


def study_curves(logs: dict[str, list[list[dict[str, Any]]]]) -> list[str]:
    """Returns the perplexity under `random` and the nats of a hidden base by step.

    The logs are the records of metrics.jsonl of every seed, by arm: a line per arm and seed,
    with a dot at a switch.
    """
    made = [_by_step(logs, "perplexity_random", "perplexity under random masks", "log")]
    records = itertools.chain.from_iterable(itertools.chain.from_iterable(logs.values()))
    if any(record.get("nats_per_base") for record in records):  # an earlier run logs none
        made.append(_by_step(logs, "nats_per_base", "nats per base, one base hidden", "linear"))
    return made


def _by_step(
    logs: dict[str, list[list[dict[str, Any]]]], metric: str, title: str, scale: str
) -> str:
    """Returns the picture of a metric of evaluations."""
    figure = Figure(figsize=(7.2, 4.2))
    axes = figure.subplots()
    for number, (arm, seeds) in enumerate(logs.items()):
        color = pictures.PALETTE[number % len(pictures.PALETTE)]
        line = "-" if number < len(pictures.PALETTE) else "--"
        for seed, records in enumerate(seeds):
            evals = [r for r in records if r["kind"] == "eval" and r.get(metric)]
            steps = [r["step"] for r in evals]
            values = [r[metric] for r in evals]
            label = None if seed else arm
            axes.plot(steps, values, line, color=color, linewidth=1.2, label=label, alpha=0.85)
            for record in records:
                if record["kind"] == "switch" and record["step"] in steps:
                    at = values[steps.index(record["step"])]
                    axes.plot(record["step"], at, "o", color=color, markersize=6)
    axes.set(xlabel="step", yscale=scale, title=title)
    figure.legend(loc="outside right upper", fontsize=8)
    return svg.markup(figure, f"{title} by step: {', '.join(logs)}")


def means(rows: evaluation_report.NamedRows) -> list[str]:
    """Returns each line's mean and interval, a panel per task and shots with its own lines."""
    parts = []
    for (task, shots), own in evaluation_report.panels(rows).items():
        text = f"{evaluation_report.unit_name(task, shots)}: means and 95 % intervals"
        parts.append(svg.markup(evaluation_report.means_figure(own), text))
    return parts


def differences(compared: pd.DataFrame) -> list[str]:
    """Returns each arm's mean difference from its reference (`study_report.differences_figure`)."""
    text = "Paired differences from the reference, with intervals"
    return [svg.markup(study_report.differences_figure(compared), text)]


def mask_bars(masks: pd.DataFrame) -> list[str]:
    """Returns masked share, hidden bases and mean rank of every arm's strategies."""
    lines = [
        row.arm if row.arm == row.strategy else f"{row.arm}: {row.strategy}"
        for row in masks.itertuples()
    ]
    panels = (
        ("share", "masked share"),
        ("hidden_bases_per_token", "hidden bases per masked token"),
        ("mean_rank", "mean PMI rank (0 best; line: all)"),
        ("often_masked_positions", "positions masked over twice chance"),
    )
    figure = Figure(figsize=(9.2, 2 * (0.9 + 0.2 * len(lines))))
    for axes, (column, title) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        axes.barh(range(len(lines)), masks[column], color=pictures.MAIN, height=0.7)
        if column == "mean_rank":
            axes.axvline(masks.mean_rank_of_all.mean(), color=pictures.FAINT, linewidth=1)
        axes.set_xlim(left=0, right=None if masks[column].any() else 1)
        pictures.name_lines(axes, lines)
        axes.set_title(title, fontsize=9)
    return svg.panels(figure, "What the masks of each arm are like")


def cost_bars(costs: pd.DataFrame) -> list[str]:
    """Returns where the seconds of every run went, stacked by part."""
    parts = [part for part in study_tables.PARTS if part in costs]  # older tables have fewer
    names = [f"{row.arm}, seed {row.seed}" for row in costs.itertuples()]
    figure = Figure(figsize=(7.2, 1.0 + 0.22 * len(names)))
    axes = figure.subplots()
    left = np.zeros(len(names))
    for number, part in enumerate(parts):
        values = costs[part].to_numpy()
        axes.barh(range(len(names)), values, left=left, label=part, height=0.7,
                  color=pictures.PALETTE[number])  # fmt: skip
        left += values
    pictures.name_lines(axes, names)
    axes.set(xlabel="seconds")
    figure.legend(loc="outside upper center", ncols=len(parts), fontsize=8)
    return [svg.markup(figure, "Seconds by part of every run")]
