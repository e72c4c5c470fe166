"""A study's tables: results, means, paired differences, masks, steps to a perplexity, costs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cmgems_jax.downstream.evaluation import resampled, statistics
from cmgems_jax.downstream.evaluation.report import (
    RENAMED,
    NamedRows,
    cell,
    counted,
    interval_text,
    markdown_table,
    method,
    named_rows,
    read_table,
    too_few_draws,
)
from cmgems_jax.downstream.evaluation.statistics import ABOVE, BELOW, MIN_DRAWS, MIN_SEEDS, UNCLEAR
from cmgems_jax.pretraining import base_evaluation
from cmgems_jax.runtime import outputs, run_log
from cmgems_jax.studies import runs
from cmgems_jax.studies.arms import Arm
from cmgems_jax.studies.runs import Unit

LEVELS = (3_000, 1_000, 300, 100, 30, 10)  # of the perplexity under `random`
EXTRAPOLATED_STEPS = (1_000, 10_000, 120_000)
_LAST = ("perplexity_random", *base_evaluation.NAMES)  # evaluation, of a run
ALL_TASKS = "mean over tasks"
PARTS = ("setup", "data", "pmi", "compile", "train", "eval", "checkpoint")  # of the seconds
BASELINE_SUMMARY = "baseline_summary"  # name of its file


def collect(units: Sequence[Unit]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns the scores of the arms (with columns arm, seed) and those of the baselines.

    Both with the resampled scores, where they were kept.
    """
    parts, baselines = [], []
    for one in units:
        folder = one.folder / runs.EVALUATION
        table = resampled.attach(read_table(folder / "results.csv"), folder)
        own = table[table.model == one.name].assign(arm=one.arm.name, seed=one.seed)
        parts.append(own.drop(columns="model"))
        baselines.append(table[table.model != one.name])
    return pd.concat(parts, ignore_index=True), pd.concat(baselines, ignore_index=True)


def differences(results: pd.DataFrame, arms: Sequence[Arm]) -> pd.DataFrame:
    """Returns every arm minus its reference, paired by seed and draw, with Holm's correction.

    The correction is over the tasks and shots of an arm; the mean over them, which is
    one more row (`ALL_TASKS`), is outside of it.

    Columns: arm, reference, mode, task, shots, difference, low, high, covers, p, p_holm, shown
    (`statistics.Estimate.shown`, of the corrected p).
    """
    lines = []
    for arm in arms:
        if arm.reference == arm.name:
            continue
        own, other = (results[results.arm == name] for name in (arm.name, arm.reference))
        shared = {*own.seed} & {*other.seed}  # all of a study that is done
        own, other = (rows[rows.seed.isin(shared)] for rows in (own, other))
        for mode in own["mode"].unique():
            estimates: list[tuple[dict[str, Any], statistics.Estimate]] = []
            pairs = []
            for (task, shots), rows in own[own["mode"] == mode].groupby(
                ["task", "shots"], sort=False
            ):
                same = (other["mode"] == mode) & (other.task == task) & (other.shots == shots)
                if not same.any():
                    continue
                pairs.append((rows, other[same]))
                unit = {"task": task, "shots": shots}
                estimates.append((unit, statistics.paired(pairs[-1:])))
            corrected = statistics.holm([estimate.p for _, estimate in estimates])
            if len(pairs) > 1:
                whole = statistics.paired(pairs)
                estimates.append(({"task": ALL_TASKS, "shots": 0}, whole))
                corrected.append(whole.p)
            for (unit, estimate), p_holm in zip(estimates, corrected, strict=True):
                shown = estimate.shown(own.draw.nunique(), own.seed.nunique(), p_holm)
                lines.append(
                    {"arm": arm.name, "reference": arm.reference, "mode": mode, **unit}
                    | {"difference": estimate.mean, "low": estimate.low, "high": estimate.high}
                    | {"covers": estimate.covers, "p": estimate.p, "p_holm": p_holm, "shown": shown}
                )
    return pd.DataFrame(lines)


def masks(units: Sequence[Unit]) -> pd.DataFrame:
    """Returns what the masks of every arm and strategy are like, means over seeds."""
    lines = [
        {"arm": one.arm.name, **{RENAMED.get(name, name): value for name, value in row.items()}}
        for one in units
        for row in json.loads((one.folder / runs.DONE_NAME).read_text())["masks"]
    ]
    return pd.DataFrame(lines).groupby(["arm", "strategy"], sort=False).mean().reset_index()


def reached(units: Sequence[Unit]) -> pd.DataFrame:
    """Returns the first evaluated step with a perplexity under `random` at or below each level.

    A row per arm and seed, with the last perplexity and nats per base; nan = not reached or logged.
    """
    lines = []
    for one in units:
        records = run_log.read(one.folder / "metrics.jsonl")
        logged = [r for r in records if r["kind"] == "eval" and r["perplexity_random"] is not None]
        line: dict[str, Any] = {"arm": one.arm.name, "seed": one.seed}
        line["switch_step"] = next((r["step"] for r in records if r["kind"] == "switch"), np.nan)
        line |= {name: (logged or [{}])[-1].get(name, np.nan) for name in _LAST}
        for level in LEVELS:
            below = (r["step"] for r in logged if r["perplexity_random"] <= level)
            line[f"steps_to_{level}"] = next(below, np.nan)
        lines.append(line)
    return pd.DataFrame(lines)


def costs(units: Sequence[Unit]) -> pd.DataFrame:
    """Returns seconds by part, a row per run, and what more steps of it would take, in hours.

    The parts add up to `seconds`; `input_wait` is a share of "train". A step costs what
    the steps cost that the seconds are of; data is made once, and every start of a run
    compiles once, the first step within it.
    """
    lines = []
    for one in units:
        records = run_log.read(one.folder / "metrics.jsonl")
        last = next(r for r in reversed(records) if r["kind"] == "summary")
        seconds, steps, starts = dict(last["seconds_by_part"]), last["step"], last.get("starts", 1)
        waited_s = last.get("input_wait_seconds", 0.0)
        if "input_wait" in seconds:  # an older run: the waiting is not yet in "train"
            waited_s = seconds.pop("input_wait")
            seconds["train"] = seconds.get("train", 0.0) + waited_s
        timed = last.get("timed_steps", steps)
        line: dict[str, Any] = {"arm": one.arm.name, "seed": one.seed, "steps": steps}
        line |= {part: seconds.get(part, 0.0) for part in PARTS}
        line |= {"input_wait": waited_s, "seconds": last["total_seconds"]}
        line["device_hours"] = last.get("device_hours", np.nan)
        fixed = line["data"] + (line["setup"] + line["pmi"] + line["compile"]) / starts
        seconds_per_step = line["train"] / max(1, timed - starts)
        seconds_per_step += (line["eval"] + line["checkpoint"]) / timed
        for number in EXTRAPOLATED_STEPS:
            line[f"hours_for_{number}"] = (fixed + seconds_per_step * number) / 3600
        lines.append(line)
    return pd.DataFrame(lines)


def tables(units: Sequence[Unit], arms: Sequence[Arm]) -> dict[str, pd.DataFrame]:
    """Returns the tables of units that are done, by the names of their files."""
    results, baselines = collect(units)
    return {
        "results": results.drop(columns=statistics.RESAMPLED),
        "baselines": baselines.drop(columns=statistics.RESAMPLED),
        "summary": statistics.summary(results, "arm"),
        BASELINE_SUMMARY: statistics.summary(baselines, "model"),
        "differences": differences(results, arms),
        "masks": masks(units),
        "reached": reached(units),
        "costs": costs(units),
    }


def write(plan: Any, units: Sequence[Unit], output: Path) -> None:
    """Writes study.md and a CSV per table into the study's folder; all units are done."""
    made = tables(units, plan.arms)
    for name, table in made.items():
        with outputs.replaced_file(output / f"{name}.csv") as part:
            table.to_csv(part, index=False)
    cautions = caution(len(plan.seeds), plan.evaluation.num_draws)
    statements = sentences(made["differences"]) + cautions
    with outputs.replaced_file(output / "study.md") as part:
        part.write_text(_text(plan, made, statements))
    print("\n" + "\n".join(statements), flush=True)
    print(f"{output}: study.md, {', '.join(f'{name}.csv' for name in made)}")
    print(f"a page of it: python -m launch.report --input={output} --output=report.html")


def sentences(compared: pd.DataFrame) -> list[str]:
    """Returns what the differences say, in words; no claim where an interval holds 0."""
    lines = []
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
        ("masks", "Masks"),
        ("reached", "Steps to a perplexity under `random`"),
        (
            "costs",
            "Seconds by part (`input_wait` is within `train`); device hours; "
            f"hours for {EXTRAPOLATED_STEPS} steps are extrapolated",
        ),
    )
    for name, title in titled:
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
        return read_table(path)
    return statistics.summary(read_table(folder / "baselines.csv"), "model")


def read_differences(path: Path) -> pd.DataFrame:
    """Returns differences.csv as `differences` made it; empty where there is one arm.

    An earlier version's table does not say what its intervals cover, and claims nothing.
    """
    try:
        compared = read_table(path)
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    return compared if "covers" in compared else compared.assign(shown=UNCLEAR)


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
