"""A study's tables: results, means, paired differences, masks, steps to a perplexity, costs."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cmgems_jax.downstream.evaluation import resampled, statistics
from cmgems_jax.downstream.evaluation.report import RENAMED, read_table
from cmgems_jax.pretraining import base_evaluation
from cmgems_jax.runtime import run_log
from cmgems_jax.studies import runs
from cmgems_jax.studies.arms import Arm
from cmgems_jax.studies.runs import Unit

LEVELS = (3_000, 1_000, 300, 100, 30, 10)  # of the perplexity under `random`
EXTRAPOLATED_STEPS = (1_000, 10_000, 120_000)
_LAST = ("perplexity_random", *base_evaluation.NAMES)  # evaluation, of a run
ALL_TASKS = "mean over tasks"
PARTS = ("setup", "data", "pmi", "compile", "train", "eval", "checkpoint")  # of the seconds
BASELINE_SUMMARY = "baseline_summary"  # name of its file
_UNIT = ["model", "mode", "task", "shots", "draw"]  # of a score, a baseline's
NUM_SEEDS = (6, 8, 12, 24)  # of the studies whose power is told


def collect(units: Sequence[Unit]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns the scores of the arms (with columns arm, seed) and those of the baselines.

    Both with the resampled scores, where they were kept. Baselines may be of a run that is done
    and of no unit here, where other arms were asked for before; of two runs the first unit's.
    """
    parts, baselines = [], []
    folders = {one.folder: one for one in units}
    others = {done.parent for done in units[0].folder.parent.glob(f"*/{runs.DONE_NAME}")}
    for run in (*folders, *sorted(others - {*folders})):
        folder = run / runs.EVALUATION
        table = resampled.attach(read_table(folder / "results.csv"), folder)
        baselines.append(table[table.model != run.name])
        if one := folders.get(run):
            own = table[table.model == run.name].assign(arm=one.arm.name, seed=one.seed)
            parts.append(own.drop(columns="model"))
    beside = pd.concat(baselines, ignore_index=True).drop_duplicates(_UNIT)
    return pd.concat(parts, ignore_index=True), beside


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


def power(results: pd.DataFrame, arms: Sequence[Arm]) -> pd.DataFrame:
    """Returns what studies of so many seeds can show, from the spread over those that are done.

    Columns: arm, reference, mode, seeds; spread, the standard deviation over seeds of the arm's
    mean score over tasks, shots and draws less its reference's; and for each of `NUM_SEEDS` the
    true difference that is shown (`statistics.detectable`). No row of an arm with one seed.
    """
    scores = [row[row["metric"]] for _, row in results.iterrows()]
    means = results.assign(score=scores).groupby(["mode", "seed", "arm"]).score.mean().unstack()
    lines = []
    for mode, arm in itertools.product(results["mode"].unique(), arms):
        pair = means.loc[mode].reindex(columns=[arm.name, arm.reference])  # either may be missing
        less = (pair.iloc[:, 0] - pair.iloc[:, 1]).dropna()
        if arm.name != arm.reference and len(less) > 1:
            spread = float(less.std())
            line = {"arm": arm.name, "reference": arm.reference, "mode": mode, "seeds": len(less)}
            of_seeds = {f"{n} seeds": statistics.detectable(spread, n) for n in NUM_SEEDS}
            lines.append(line | {"spread": spread} | of_seeds)
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


def hidden_bases(reached: pd.DataFrame, arms: Sequence[Arm]) -> pd.DataFrame:
    """Returns the nats of hidden bases at the end of the runs, from the table `reached`.

    Columns: arm, reference, metric (of `base_evaluation.NAMES`), seeds, nats (their mean);
    difference, low, high: less the reference's, paired by seed, with 95 % by Student's t over
    seeds; shown (`statistics.Estimate.shown`, by Holm's p over an arm's two). No row of an arm
    whose runs, or whose reference's, logged nothing.
    """
    lines = []
    logged = [name for name in base_evaluation.NAMES if name in reached]  # not by earlier versions
    tables = [(name, reached.pivot(index="seed", columns="arm", values=name)) for name in logged]
    for arm in arms:
        pairs = {name: table.reindex(columns=[arm.name, arm.reference]) for name, table in tables}
        known = {name: pair.dropna().to_numpy(np.float64) for name, pair in pairs.items()}
        known = {name: pair_S2 for name, pair_S2 in known.items() if len(pair_S2)}
        # Neither draws nor test rows: a seed has its own held-out windows, which it stands for.
        estimates = [
            statistics.crossed(pair_S2[:, :1] - pair_S2[:, 1:], overlap=0.0, of_tests=0.0)
            for pair_S2 in known.values()
        ]
        corrected = statistics.holm([estimate.p for estimate in estimates])
        for (name, pair_S2), estimate, p in zip(known.items(), estimates, corrected, strict=True):
            lines.append(
                {"arm": arm.name, "reference": arm.reference, "metric": name}
                | {"seeds": len(pair_S2), "nats": pair_S2[:, 0].mean()}
                | {"difference": estimate.mean, "low": estimate.low, "high": estimate.high}
                | {"shown": estimate.shown(statistics.MIN_DRAWS, len(pair_S2), p)}
            )
    return pd.DataFrame(lines)


def costs(units: Sequence[Unit]) -> pd.DataFrame:
    """Returns seconds by part, a row per run, and what more steps of it would take, in hours.

    The parts add up to `seconds`; `input_wait` is a share of "train". A step costs what
    the steps cost that the seconds are of; data is made once, and every start of a run
    compiles once, the first step within it. No row of a run that was ended before it told.
    """
    lines = []
    for one in units:
        records = run_log.read(one.folder / "metrics.jsonl")
        last = next((r for r in reversed(records) if r["kind"] == "summary"), None)
        if last is None:  # killed behind its last checkpoint
            continue
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
        "power": power(results, arms),
        "masks": masks(units),
        "reached": (ends := reached(units)),
        "hidden_bases": hidden_bases(ends, arms),
        "costs": costs(units),
    }
