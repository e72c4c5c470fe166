"""What a study says: study.md, its tables as CSV, its sentences."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cmgems_jax.downstream.evaluation import statistics
from cmgems_jax.downstream.evaluation.report import (
    NamedRows,
    cell,
    counted,
    interval_text,
    markdown_table,
    method,
    named_rows,
    read_table,
    too_few_draws,
    unit_name,
)
from cmgems_jax.downstream.evaluation.statistics import ABOVE, BELOW, MIN_DRAWS, MIN_SEEDS, UNCLEAR
from cmgems_jax.pretraining import base_evaluation
from cmgems_jax.runtime import outputs, pictures
from cmgems_jax.studies import study_tables
from cmgems_jax.studies.runs import Unit
from cmgems_jax.studies.study_tables import ALL_TASKS, BASELINE_SUMMARY, EXTRAPOLATED_STEPS

FIGURE = "differences.png"
_HIDDEN = dict(zip(base_evaluation.NAMES, ("one hidden", "k hidden"), strict=True))
BASES_TITLE = "Nats of hidden bases at the end; intervals over seeds, lower is better"
POWER_TITLE = (
    "Power: the true difference of the mean over tasks that so many seeds show in "
    f"{100 * statistics.POWER:.0f} of 100 studies, by its spread over seeds"
)


def write(plan: Any, units: Sequence[Unit], output: Path) -> None:
    """Writes study.md, its figure and a CSV per table into the study's folder; all is done."""
    made = study_tables.tables(units, plan.arms)
    for name, table in made.items():
        with outputs.replaced_file(output / f"{name}.csv") as part:
            table.to_csv(part, index=False)
    cautions = caution(len(plan.seeds), plan.evaluation.num_draws)
    statements = sentences(made["differences"], len(plan.arms))
    statements += base_sentences(made["hidden_bases"]) + cautions
    with outputs.replaced_file(output / "study.md") as part:
        part.write_text(_text(plan, made, statements))
    files = ["study.md", *(f"{name}.csv" for name in made)]
    if len(made["differences"]):
        files.append(FIGURE)
        with matplotlib.rc_context(pictures.STYLE), outputs.replaced_file(output / FIGURE) as part:
            differences_figure(made["differences"]).savefig(part, dpi=160)
    print("\n" + "\n".join(statements), flush=True)
    print(f"{output}: {', '.join(files)}")
    print(f"a page of it: python -m launch.report --input={output} --output=report.html")


def sentences(compared: pd.DataFrame, num_arms: int) -> list[str]:
    """Returns what the differences say, in words; no claim where an interval holds 0."""
    lines = []
    if compared.empty and num_arms > 1:
        return [
            "No run of the arms' reference: nothing is compared; --reference=ARM compares with one "
            "of these, without new runs."
        ]
    if compared.empty:
        return ["One arm: nothing to compare."]
    for (arm, reference, mode), rows in compared.groupby(["arm", "reference", "mode"], sort=False):
        single = rows[rows.task != ALL_TASKS]
        parts = []
        for shown in (ABOVE, BELOW):
            claimed = single[single.shown == shown].itertuples()
            named = [f"{row.task} at {counted(row.shots, 'shot')}" for row in claimed]
            if named:
                parts.append(f"{shown} {reference} on {', '.join(named)}")
        if not parts:
            parts.append(f"no difference from {reference} is shown on any task")
        whole = rows[rows.task == ALL_TASKS]
        if len(whole):
            row = whole.iloc[0]
            parts.append(
                f"mean over tasks {interval_text(row.difference, row.low, row.high, sign='+')}, "
                + (f"{row.shown} {reference}" if row.shown != UNCLEAR else "not shown to differ")
            )
        lines.append(f"{arm} ({mode}): {'; '.join(parts)}.")
    return lines


def base_sentences(bases: pd.DataFrame) -> list[str]:
    """Returns what the nats of hidden bases say (`study_tables.hidden_bases`), a line per arm."""
    lines = []
    if bases.empty:
        return lines
    compared = bases[bases.arm != bases.reference]
    for (arm, reference), rows in compared.groupby(["arm", "reference"], sort=False):
        parts = []
        for row in rows.itertuples():
            amount = interval_text(row.difference, row.low, row.high, sign="+")
            said = "not shown to differ"
            if row.shown != UNCLEAR:
                said = "it knows less" if row.shown == ABOVE else "it knows more"
            parts.append(f"{_HIDDEN[row.metric]} {amount} nats, {said}")
        lines.append(f"{arm}, hidden bases, less {reference}: {'; '.join(parts)}.")
    return lines


def caution(num_seeds: int, num_draws: int) -> list[str]:
    """Returns why nothing is claimed of few seeds or draws."""
    few_seeds = (
        f"Nothing is claimed of {counted(num_seeds, 'seed')}: how much runs differ by chance is "
        f"hardly known; --seeds={MIN_SEEDS} or more adds to the runs that are done."
    )
    lines = ((few_seeds, num_seeds < MIN_SEEDS), (too_few_draws(num_draws), num_draws < MIN_DRAWS))
    return [line for line, is_so in lines if is_so]


def rule() -> str:
    """Returns when a difference is claimed."""
    return (
        f"A difference is claimed of {MIN_SEEDS} seeds and {MIN_DRAWS} draws or more, where its "
        "95 % interval over seeds, draws and test rows excludes 0 and p, after Holm's correction "
        "over the tasks of an arm, is below 0.05"
    )


def _text(plan: Any, made: dict[str, pd.DataFrame], statements: Sequence[str]) -> str:
    """Returns study.md."""
    means, baselines = made["summary"], made[BASELINE_SUMMARY]
    parts = [
        f"# Study `{plan.study}`, preset {plan.preset}",
        f"{counted(len(plan.arms), 'arm')}, {counted(len(plan.seeds), 'seed')}, "
        f"{plan.config.num_steps:,} steps each; arms share data, order and, by seed, "
        f"initial values. Differences are paired by seed, draw and test row. {rule()} (`*`).",
        f"{method(means)} Seeds and draws are crossed factors.",
        "## In words",
        "\n".join(f"- {line}" for line in statements),
        "## Labelled tasks",
        markdown(means_table(named_rows(means, baselines))),
    ]
    if len(made["differences"]):
        parts += [
            "## Differences from the reference",
            markdown(differences_table(made["differences"])),
        ]
    titled = (
        ("power", POWER_TITLE),
        ("hidden_bases", BASES_TITLE),
        ("masks", "Masks"),
        ("reached", "Steps to a perplexity under `random`"),
        (
            "costs",
            "Seconds by part (`input_wait` is within `train`); device hours; "
            f"hours for {EXTRAPOLATED_STEPS} steps are extrapolated",
        ),
    )
    for name, title in titled:
        if len(made[name]):
            parts += [f"## {title}", markdown(made[name])]
    return "\n\n".join(parts) + "\n"


def means_table(rows: NamedRows) -> pd.DataFrame:
    """Returns the cells of the rows, a line per name, by task and shots."""
    lines: dict[str, dict[str, str]] = {}
    for name, _, row in rows:
        lines.setdefault(name, {})[f"{row['task']}, {row['shots']}"] = cell(row)
    return _by_arm(lines)


def read_baselines(folder: Path) -> pd.DataFrame:
    """Returns the summary of what is no arm; of an earlier version's study, over draws alone."""
    path = folder / f"{BASELINE_SUMMARY}.csv"
    if path.exists():
        return _read_or_empty(path)
    return statistics.summary(read_table(folder / "baselines.csv"), "model")


def read_differences(path: Path) -> pd.DataFrame:
    """Returns differences.csv as `differences` made it; empty where there is one arm.

    An earlier version's table does not say what its intervals cover, and claims nothing.
    """
    compared = _read_or_empty(path)
    return compared if "covers" in compared else compared.assign(shown=UNCLEAR)


def _read_or_empty(path: Path) -> pd.DataFrame:
    """Returns a table that may have had no rows, and then has no columns."""
    try:
        return read_table(path)
    except pd.errors.EmptyDataError:
        return pd.DataFrame()


def differences_figure(compared: pd.DataFrame) -> Figure:
    """Returns each arm's mean difference from its reference over tasks, and by task.

    Those that are shown (interval without 0, Holm) are filled. To be called and saved in a
    context of `pictures.STYLE`.
    """
    with_modes = compared["mode"].nunique() > 1
    lines = compared.arm + (" (" + compared["mode"] + ")" if with_modes else "")
    names = list(dict.fromkeys(lines))
    units = list(dict.fromkeys(zip(compared.task, compared.shots, strict=True)))
    figure = Figure(figsize=(7.2, 1.1 + 0.12 * len(names) * (len(units) + 1)))
    axes = figure.subplots()
    for number, (task, shots) in enumerate(units):
        is_whole = task == ALL_TASKS
        color = pictures.FAINT if is_whole else pictures.PALETTE[number % len(pictures.PALETTE)]
        marker = "D" if is_whole else "os"[number >= len(pictures.PALETTE)]
        label = unit_name(task, shots)
        shift = (number - (len(units) - 1) / 2) * 0.8 / len(units)
        rows = compared[(compared.task == task) & (compared.shots == shots)]
        for row, line in zip(rows.itertuples(), lines[rows.index], strict=True):
            height = names.index(line) + shift
            axes.plot([row.low, row.high], [height, height], color=color, linewidth=1.4)
            face = "none" if row.shown == UNCLEAR else color
            axes.plot(
                row.difference, height, marker, color=color,
                markerfacecolor=face, markersize=4.5, label=label,
            )  # fmt: skip
            label = None
    axes.axvline(0, color=pictures.FAINT, linewidth=1)
    pictures.name_lines(axes, names)
    axes.set(xlabel="difference from the reference", title="paired differences; filled: shown")
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def differences_table(compared: pd.DataFrame) -> pd.DataFrame:
    """Returns the differences, a column per task and shots, `*` where one is shown."""
    lines: dict[str, dict[str, str]] = {}
    for row in compared.itertuples():
        covers = getattr(row, "covers", "")  # not in an earlier version's tables
        text = interval_text(row.difference, row.low, row.high, covers, "+")
        text += " *" if row.shown != UNCLEAR else ""
        unit = row.task if row.task == ALL_TASKS else f"{row.task}, {row.shots}"
        lines.setdefault(f"{row.arm} - {row.reference} ({row.mode})", {})[unit] = text
    return _by_arm(lines)


def _by_arm(lines: dict[str, dict[str, str]]) -> pd.DataFrame:
    """Returns lines of cells as a table whose first column names the line."""
    table = pd.DataFrame.from_dict(lines, orient="index").fillna("")
    return table.rename_axis("arm").reset_index()


def markdown(table: pd.DataFrame) -> str:
    """Returns a table as Markdown; numbers with four digits."""
    rows = ([number_text(value) for value in row] for row in table.itertuples(index=False))
    return markdown_table(table.columns, rows)


def number_text(value: Any) -> str:
    """Returns a cell: four significant digits, nothing where there is no number."""
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
