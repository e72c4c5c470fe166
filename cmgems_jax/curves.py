"""The picture of a run: perplexity, loss, masks by step, with the switch marked."""

import math
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmgems_jax import run_log

COMPOSITION_NATS = 1.368  # GRCh38: what base frequencies alone leave (SPEC: yardstick)
COLORS = {"current": "#1b6ca8", "random": "#d1495b", "mark": "#6b6b6b"}


def draw(metrics: Path, output: Path) -> None:
    """Writes a PNG of the metrics.jsonl of a run.

    Args:
      metrics: the run's metrics.jsonl.
      output: the picture to write.
    """
    records = run_log.read(metrics)
    train = [record for record in records if record["kind"] == "train"]
    evals = [record for record in records if record["kind"] == "eval"]
    switches = [record for record in records if record["kind"] == "switch"]
    with matplotlib.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(11, 7), layout="constrained")
        (top_left, top_right), (bottom_left, bottom_right) = figure.subplots(2, 2)
        _perplexity(top_left, evals)
        _line(top_right, train, "loss", "training loss (nats a masked token)")
        _line(bottom_left, train, "nats_per_hidden_base", "nats per hidden base")
        bottom_left.axhline(COMPOSITION_NATS, color=COLORS["mark"], linestyle=":", linewidth=1)
        bottom_left.annotate(
            "base composition", (1, COMPOSITION_NATS), xycoords=("axes fraction", "data"),
            ha="right", va="bottom", fontsize=8, color=COLORS["mark"],
        )  # fmt: skip
        _line(bottom_right, train, "masked_fraction", "masked share of the tokens")
        _line(bottom_right, train, "mask_budget", None, color=COLORS["mark"], linestyle=":")
        bottom_right.set_ylim(bottom=0)
        for axes in (top_left, top_right, bottom_left, bottom_right):
            axes.set_xlabel("step")
            axes.grid(alpha=0.25)
            for switch in switches:
                axes.axvline(switch["step"], color=COLORS["mark"], linestyle="--", linewidth=1)
        for switch in switches:
            top_left.annotate(
                f"{switch['from']} → {switch['to']}", (switch["step"], 0.97),
                xycoords=("data", "axes fraction"), rotation=90, ha="right", va="top", fontsize=8,
            )  # fmt: skip
        figure.savefig(output, dpi=120)


def _perplexity(axes: Axes, evals: list[dict[str, Any]]) -> None:
    """Draws the validation perplexity under the current strategy, stage by stage, and random."""
    stages = dict.fromkeys(record["stage"] for record in evals)
    for number, stage in enumerate(stages):
        part = [record for record in evals if record["stage"] == stage]
        if stage == "random":  # the same curve as below
            continue
        style = {"color": COLORS["current"], "alpha": 1 - 0.4 * number}
        _line(axes, part, "perplexity", None, label=f"under {stage}", marker="o", **style)
    _line(
        axes, evals, "perplexity_random", "validation perplexity",
        label="under random", color=COLORS["random"], marker="s",
    )  # fmt: skip
    if evals:
        axes.set_yscale("log")
        axes.legend(frameon=False, fontsize=8)


def _line(
    axes: Axes,
    records: list[dict[str, Any]],
    name: str,
    title: str | None,
    *,
    color: str = COLORS["current"],
    label: str | None = None,
    **style: Any,
) -> None:
    """Draws one metric by step; values that are not finite leave a gap."""
    values = [math.nan if record[name] is None else record[name] for record in records]
    step = [record["step"] for record in records]
    axes.plot(step, values, color=color, label=label, markersize=3, linewidth=1.3, **style)
    if title:
        axes.set_title(title, fontsize=10, loc="left")
