"""The picture of a run: perplexity, loss, masks by step, with the switch marked."""

import math
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmgems_jax.runtime import pictures, run_log

GUESS_NATS = math.log(4)  # copies the visible bases and guesses the hidden ones
COMPOSITION_NATS = 1.368  # GRCh38: what base frequencies alone leave


def write_png(metrics: Path, output: Path, k: int) -> None:
    """Writes the picture of a run's metrics.jsonl; `k` = bases per token."""
    with matplotlib.rc_context(pictures.STYLE):
        run_figure(run_log.read(metrics), k, (11, 7)).savefig(output, dpi=120)


def run_figure(records: list[dict[str, Any]], k: int, inches: tuple[float, float]) -> Figure:
    """Returns perplexity, loss, nats per base and masked share by step.

    To be called and saved in a context of `pictures.STYLE`; the records are of metrics.jsonl.
    """
    train = [record for record in records if record["kind"] == "train"]
    evals = [record for record in records if record["kind"] == "eval"]
    figure = Figure(figsize=inches)
    (top_left, top_right), (bottom_left, bottom_right) = figure.subplots(2, 2)
    _perplexity(top_left, evals)
    _line(top_right, train, "loss", "training loss (nats per masked token)")
    if by_base := [record for record in evals if record.get("nats_per_base")]:
        _nats_per_base(bottom_left, by_base, k)
    else:  # an earlier run, or a short one
        _line(bottom_left, train, "nats_per_hidden_base", "nats per hidden base")
        nats_marks(bottom_left, train, k)
    _line(bottom_right, train, "masked_fraction", "masked share of the tokens")
    _line(bottom_right, train, "mask_budget", None, color=pictures.FAINT, linestyle=":")
    bottom_right.set_ylim(bottom=0)
    switches = [record for record in records if record["kind"] == "switch"]
    for axes in figure.axes:
        axes.set_xlabel("step")
        for switch in switches:
            axes.axvline(switch["step"], color=pictures.FAINT, linestyle="--", linewidth=1)
    for switch in switches:
        top_left.annotate(
            f"{switch['from']} → {switch['to']}", (switch["step"], 0.97),
            xycoords=("data", "axes fraction"), rotation=90, ha="right", va="top", fontsize=8,
        )  # fmt: skip
    return figure


def _perplexity(axes: Axes, evals: list[dict[str, Any]]) -> None:
    """Plots the validation perplexity under the current strategy, stage by stage, and random."""
    stages = dict.fromkeys(record["stage"] for record in evals)
    for number, stage in enumerate(stages):
        part = [record for record in evals if record["stage"] == stage]
        if all(record["perplexity"] == record["perplexity_random"] for record in part):
            continue  # the same curve as below
        style = {"color": pictures.MAIN, "alpha": 1 - 0.4 * number}
        _line(axes, part, "perplexity", None, label=f"under {stage}", marker="o", **style)
    _line(
        axes, evals, "perplexity_random", "validation perplexity",
        label="under random", color=pictures.OTHER, marker="s",
    )  # fmt: skip
    if evals:
        axes.set_yscale("log")
        axes.legend(fontsize=8)


def _nats_per_base(axes: Axes, evals: list[dict[str, Any]], k: int) -> None:
    """Plots the nats of one and of k hidden bases, and what tables of 6-mers reach."""
    ways = (("nats_per_base", "1 base", pictures.MAIN), ("nats_per_base_k", f"{k}", pictures.OTHER))
    for name, label, color in ways:
        _line(axes, evals, name, None, color=color, label=f"{label} hidden", marker="o")
        for mark, style in (("composition", ":"), ("order_5", "-."), ("flanks", "--")):
            if value := ((evals[-1].get("marks") or {}).get(name) or {}).get(mark):
                axes.axhline(value, color=color, linestyle=style, linewidth=1, alpha=0.6)
                axes.annotate(
                    mark.replace("_", " "), (1, value), xycoords=("axes fraction", "data"),
                    ha="right", va="bottom", fontsize=7, color=color,
                )  # fmt: skip
    axes.axhline(GUESS_NATS, color=pictures.FAINT, linestyle=":", linewidth=1)
    axes.set_title("validation nats per base")
    axes.legend(fontsize=8)


def nats_marks(axes: Axes, train: list[dict[str, Any]], k: int) -> None:
    """Marks what nats per hidden base mean: untrained, copies and guesses, base composition.

    A model that knows nothing pays log 4**k for a token, so its line moves with the
    number of hidden bases per masked token: loss / nats_per_hidden_base.
    """
    style = {"color": pictures.FAINT, "linestyle": ":", "linewidth": 1}
    known = [record for record in train if record["loss"] and record["nats_per_hidden_base"]]
    step = [record["step"] for record in known]
    nats = [k * math.log(4) * record["nats_per_hidden_base"] / record["loss"] for record in known]
    axes.plot(step, nats, **style)
    marks = [
        ("copies and guesses", GUESS_NATS, "bottom"),
        ("base composition", COMPOSITION_NATS, "top"),
    ]
    for _, value, _ in marks:
        axes.axhline(value, **style)
    for text, value, side in [*marks, *(("untrained", value, "bottom") for value in nats[-1:])]:
        axes.annotate(
            text, (1, value), xycoords=("axes fraction", "data"),
            ha="right", va=side, fontsize=8, color=pictures.FAINT,
        )  # fmt: skip


def _line(
    axes: Axes,
    records: list[dict[str, Any]],
    name: str,
    title: str | None,
    *,
    color: str = pictures.MAIN,
    **style: Any,
) -> None:
    """Plots one metric by step; values that are not finite leave a gap."""
    values = [math.nan if record[name] is None else record[name] for record in records]
    step = [record["step"] for record in records]
    axes.plot(step, values, color=color, markersize=3, linewidth=1.3, **style)
    if title:
        axes.set_title(title)
