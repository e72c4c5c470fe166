"""Tables and the picture of a suite: means, 95 % intervals, paired differences."""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cmgems_jax.downstream.evaluation import resampled, statistics
from cmgems_jax.downstream.evaluation.methods import BASELINE, FEATURES_HEAD, MAJORITY
from cmgems_jax.downstream.evaluation.statistics import UNIT
from cmgems_jax.pretraining.pretrained import UNTRAINED
from cmgems_jax.runtime import outputs, pictures

# Name of the line, whether it stands beside the models (gray), row of `statistics.summary`.
NamedRows = list[tuple[str, bool, dict[str, Any]]]
NOTES = "notes.json"
LINE = ["model", "mode"]  # what makes a line of the tables
RENAMED = {"hidden_bases_a_token": "hidden_bases_per_token"}  # columns of earlier studies
TEXTS = [*LINE, "task", "metric", "other_mode", "arm", "reference"]  # columns of names
EARLIER = (
    f"'{statistics.DRAWS_ONLY}': scores of an earlier version, which kept neither those on "
    "resampled test rows nor what the draws share; such intervals are too narrow and show nothing. "
    "A new --output has all of it."
)
MODES = (
    "`finetune`: the published classifier over [CLS] and its recipe. `finetune, features head`: "
    "starts at the probe's solution, then trains all. `probe`: logistic regression on frozen "
    "features."
)
# Mean MCC x 100 of the literature (DNABERT-2's Figure; SPEC section 6); never from this code.
PUBLISHED_GUE = {
    "DNABERT 3-mer": 61.6,
    "DNABERT 6-mer": 60.5,
    "NT-500M-human": 55.4,
    "NT-2.5B-multi": 66.9,
    "DNABERT-2": 66.8,
}


def differences(results: pd.DataFrame, first: str) -> pd.DataFrame:
    """Returns the first model's main metric minus that of comparable lines, paired by draw.

    Of rows of results.csv, with the resampled scores where they were kept. Comparable are other
    models in the same mode, the baselines, and beside a features head the model's other modes.

    Returns:
      Columns task, shots, mode (of the first model), model, other_mode, difference, low, high,
      covers, shown, draws.
    """
    rows = []
    for (task, shots), unit in results.groupby(UNIT, sort=False):
        lines = dict(list(unit.groupby(LINE, sort=False)))
        for ((model, mode), own), ((other, other_mode), group) in itertools.product(
            lines.items(), repeat=2
        ):
            is_comparable = _is_comparable(first, mode, other, other_mode)
            if model != first or len(group) != len(own) or not is_comparable:
                continue
            estimate = statistics.paired([(own, group)])
            row = {"task": task, "shots": shots, "mode": mode, "model": other}
            row |= {"other_mode": other_mode, "difference": estimate.mean}
            row |= {"low": estimate.low, "high": estimate.high, "covers": estimate.covers}
            rows.append(row | {"shown": estimate.shown(len(own)), "draws": len(own)})
    return pd.DataFrame(rows)


def _is_comparable(first: str, mode: str, other: str, other_mode: str) -> bool:
    """Returns whether a difference between two lines says something: one thing differs."""
    if other == first:
        return FEATURES_HEAD in mode and FEATURES_HEAD not in other_mode
    return other_mode in (mode, BASELINE)


def sentences(compared: pd.DataFrame, first: str) -> list[str]:
    """Returns what `differences` show, in words: a sentence per mode and line it is compared with.

    The majority class, which says little, is left out.
    """
    lines = []
    if compared.empty:
        return lines
    spoken = compared[compared.model != MAJORITY]
    for (mode, model, other_mode), rows in spoken.groupby(
        ["mode", "model", "other_mode"], sort=False
    ):
        parts = []
        for shown in (statistics.ABOVE, statistics.BELOW):
            chosen = rows[rows.shown == shown]
            named = [f"{_unit_text(row)} by {_bounded(row)}" for row in chosen.itertuples()]
            parts += [f"{shown} on {', '.join(named)}"] if named else []
        unclear = [_unit_text(row) for row in rows[rows.shown == statistics.UNCLEAR].itertuples()]
        if unclear:
            parts.append(
                f"not shown on {', '.join(unclear)}" if parts else "no difference is shown"
            )
        other = f"its own {other_mode}" if model == first else model
        lines.append(f"{first} ({mode}) against {other}: {'; '.join(parts)}.")
    if (compared.covers == statistics.TESTS).any():
        lines.append("Intervals of draws of the same rows are of this training set.")
    if compared.draws.max() < statistics.MIN_DRAWS:
        lines.append(too_few_draws(int(compared.draws.max())))
    return lines


def too_few_draws(num_draws: int) -> str:
    """Returns why nothing is claimed of few draws."""
    return (
        f"Nothing is claimed of {counted(num_draws, 'draw')}: how much draws differ is hardly "
        f"known; --draws={statistics.MIN_DRAWS} or more, under a new --output, would tell."
    )


def _unit_text(row: Any) -> str:
    """Returns `prom_core at 10 shots`."""
    return f"{row.task} at {counted(row.shots, 'shot')}" if row.shots else row.task


def _bounded(row: Any) -> str:
    """Returns the size of a difference that is shown, with its interval: `0.031 [0.012, 0.050]`."""
    sign = 1 if row.difference > 0 else -1
    low, high = sorted((sign * row.low, sign * row.high))
    return interval_text(sign * row.difference, low, high)


def write(
    results: pd.DataFrame,
    notes: dict[str, list[str]],
    output: Path,
    *,
    first: str,
    strand: str = "forward",
) -> list[str]:
    """Writes summary.csv, notes.json (by `unit_name`), report.md and results.png.

    The model called `first` is compared with the others; returns that in words. `strand` is
    what models have read.
    """
    results = resampled.attach(results, output)
    means = statistics.summary(results, "model")
    means.to_csv(output / "summary.csv", index=False)
    outputs.write_json(output / NOTES, notes)
    how = f"{method(means)} {MODES} Strand that models read: {strand}. Bold: shown."
    parts = ["# Evaluation", how, _means_text(means, notes)]
    compared = differences(results, first)
    if not compared.empty:
        parts.append(_differences_text(compared, first))
    if (results.shots == 0).any():
        listed = ", ".join(f"{name} {value}" for name, value in PUBLISHED_GUE.items())
        parts.append(
            "## Published\n\nMean MCC x 100 over all 28 GUE sets, from the literature, by other "
            f"code: {listed}."
        )
    in_words = sentences(compared, first)
    if in_words:
        parts.append("## In words\n\n" + "\n".join(f"- {sentence}" for sentence in in_words))
    named = unit_names(means)
    left_out = {name: texts for name, texts in notes.items() if name not in named}
    if left_out:
        parts.append("## Without results\n\n" + "\n".join(note_lines(left_out)))
    (output / "report.md").write_text("\n\n".join(parts) + "\n")
    with matplotlib.rc_context(pictures.STYLE):
        means_figure(named_rows(means)).savefig(output / "results.png", dpi=160)
    return in_words


def method(means: pd.DataFrame) -> str:
    """Returns how the intervals of a summary were made."""
    is_old = "covers" not in means or (means.covers == statistics.DRAWS_ONLY).any()
    return f"{statistics.METHOD} {EARLIER}" if is_old else statistics.METHOD


def read_notes(output: Path) -> dict[str, list[str]]:
    """Returns the notes that `write` has written, none where there are none."""
    path = output / NOTES
    return json.loads(path.read_text()) if path.exists() else {}


def read_table(path: Path) -> pd.DataFrame:
    """Returns a table of results; names stay text, also `1` and `NA`, which are folders' names."""
    names = pd.read_csv(path, nrows=0).columns
    table = pd.read_csv(
        path,
        dtype={name: str for name in names if name in TEXTS},
        keep_default_na=False,
        na_values={name: [""] for name in names if name not in TEXTS},
    )
    return table.rename(columns=RENAMED)


def note_lines(notes: dict[str, list[str]]) -> list[str]:
    """Returns the notes as items of a list in Markdown."""
    return [f"- {name}: {note}" for name, texts in notes.items() for note in texts]


def unit_name(task: str, shots: int) -> str:
    """Returns how a unit is called: `prom_core, 10 shots`."""
    return f"{task}, {counted(shots, 'shot')}" if shots else task


def counted(number: int, noun: str) -> str:
    """Returns `1 seed`, or `2 seeds`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def unit_names(means: pd.DataFrame) -> set[str]:
    """Returns the names of the units that a summary has."""
    return {unit_name(*unit) for unit in means[UNIT].itertuples(index=False)}


def _means_text(means: pd.DataFrame, notes: dict[str, list[str]]) -> str:
    """One table per task, lines by shots, and what is to be known of its data."""
    parts = []
    for task, rows in means.groupby("task", sort=False):
        all_shots = list(dict.fromkeys(rows.shots))
        heads = [counted(shots, "shot") if shots else "all rows" for shots in all_shots]
        lines = []
        for line, group in rows.groupby(LINE, sort=False):
            cells = {row["shots"]: cell(row) for row in group.to_dict("records")}
            lines.append([*line, *(cells.get(shots, "") for shots in all_shots)])
        parts.append(f"## {task}: {rows.metric.iloc[0]}, mean [95 % interval]")
        parts.append(markdown_table([*LINE, *heads], lines))
        names = [unit_name(task, shots) for shots in all_shots]
        if own := note_lines({name: notes[name] for name in names if name in notes}):
            parts.append("\n".join(own))
    return "\n\n".join(parts)


def _differences_text(compared: pd.DataFrame, first: str) -> str:
    """The paired differences; those that are shown in bold."""
    lines = []
    for row in compared.to_dict("records"):
        text = interval_text(row["difference"], row["low"], row["high"], row["covers"], sign="+")
        if row["shown"] != statistics.UNCLEAR:
            text = f"**{text}**"
        other = f"{row['model']} ({row['other_mode']})"
        lines.append([row["task"], row["shots"] or "all", row["mode"], other, text])
    title = f"## {first} minus the others, paired by draw and test row [95 % interval]"
    return f"{title}\n\n{markdown_table(['task', 'shots', 'mode', 'minus', 'difference'], lines)}"


def markdown_table(head: Sequence, rows: Iterable[Sequence]) -> str:
    """Returns a table as Markdown."""
    lines = (head, ["---"] * len(head), *rows)
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def cell(row: Mapping[str, Any]) -> str:
    """Returns the main metric of a row of `statistics.summary`, with its interval."""
    return interval_text(*_bounds(row), row.get("covers", ""))


def _bounds(row: Mapping[str, Any]) -> list[float]:
    """Returns the main metric of a row of `statistics.summary`, and its interval's ends."""
    return [row[f"{row['metric']}{end}"] for end in ("", "_low", "_high")]


def interval_text(mean: float, low: float, high: float, covers: str = "", sign: str = "") -> str:
    """Returns `0.712 [0.700, 0.724]`, or the mean alone where there is no interval.

    What covers the draws, or the test rows, alone is marked so.
    """
    if not np.isfinite(low):
        return f"{mean:{sign}.3f}"
    mark = f" ({covers})" if covers in (statistics.TESTS, statistics.DRAWS_ONLY) else ""
    return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]{mark}"


def named_rows(*summaries: pd.DataFrame) -> NamedRows:
    """Returns the rows of summaries, models before what stands beside them.

    Args:
      summaries: of `statistics.summary`, by model, or by arm of a study.
    """
    named = []
    for row in (row for summary in summaries for row in summary.to_dict("records")):
        line, mode = row.get("arm") or row["model"], row["mode"]
        is_beside = mode == BASELINE or row.get("model") == UNTRAINED
        named.append((line if mode == BASELINE else f"{line} ({mode})", is_beside, row))
    return sorted(named, key=lambda one: one[1])


def panels(rows: NamedRows) -> dict[tuple[str, int], NamedRows]:
    """Returns the rows of every task and number of shots."""
    by_unit: dict[tuple[str, int], NamedRows] = {}
    for one in rows:
        by_unit.setdefault((one[2]["task"], one[2]["shots"]), []).append(one)
    return by_unit


def means_figure(rows: NamedRows) -> Figure:
    """Returns the main metric of every line with its interval, a panel per task and shots.

    To be called and saved in a context of `pictures.STYLE`.
    """
    lines = list(dict.fromkeys(name for name, _, _ in rows))
    units = panels(rows)
    num_columns = min(3, len(units))
    num_rows = -(-len(units) // num_columns)
    num_text_lines = "\n".join(map(pictures.wrapped, lines)).count("\n") + 1
    figure = Figure((2.4 + 1.9 * num_columns, num_rows * (0.8 + 0.21 * num_text_lines)))
    grid = figure.subplots(num_rows, num_columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(units) :]:
        axes.set_axis_off()
    for axes, ((task, shots), part) in zip(grid.flat, units.items(), strict=False):
        for name, is_beside, row in part:
            height, color = lines.index(name), pictures.FAINT if is_beside else pictures.MAIN
            mean, low, high = _bounds(row)
            if np.isfinite(low):
                axes.plot([low, high], [height] * 2, color=color, linewidth=2.2, alpha=0.5)
            axes.plot(mean, height, "o", color=color, markersize=4.5)
        pictures.name_lines(axes, lines)
        axes.locator_params(axis="x", nbins=4)
        axes.set(title=pictures.wrapped(unit_name(task, shots), 22), xlabel=part[0][2]["metric"])
    return figure
