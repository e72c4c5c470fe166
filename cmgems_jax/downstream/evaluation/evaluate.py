"""Suites: every model and baseline on every task, under the same draws of the training rows.

A unit is one (model, mode, task, shots): all its draws. Draws that OUTPUT/results.csv
holds already are not run again, so a suite that was stopped is resumed.
"""

import dataclasses
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cmgems_jax.downstream.evaluation import (
    given_features,
    methods,
    report,
    resampled,
    statistics,
    suite,
)
from cmgems_jax.downstream.evaluation.given_features import GivenFeatures
from cmgems_jax.downstream.evaluation.methods import Method
from cmgems_jax.downstream.evaluation.settings import EvaluationSettings
from cmgems_jax.downstream.finetuning import position_limit
from cmgems_jax.downstream.tasks import table, tasks
from cmgems_jax.downstream.tasks.table import Task
from cmgems_jax.downstream.tasks.tasks import TaskData
from cmgems_jax.errors import InputError, did_you_mean
from cmgems_jax.pretraining import pretrained
from cmgems_jax.pretraining.pretrained import Pretrained
from cmgems_jax.runtime import outputs, run_lock


def evaluate(
    checkpoints: Sequence[Path | str],
    data_dir: Path | str,
    output: Path | str,
    settings: EvaluationSettings,
) -> pd.DataFrame:
    """Runs a suite and writes results.csv, summary.csv, notes.json, report.md and results.png.

    The scores on resampled test rows, for the intervals, are in resampled.npz.

    Args:
      checkpoints: of pretraining, one per model; the first is compared with the others
        and with the baselines: the same model untrained, k-mer logistic regression, majority.
      data_dir: holds fewshot/ and gue/, or the folders of the tasks themselves.
      output: made where it is missing; resumed where it holds results of the same settings.

    Returns:
      One row per model, mode, task, shots and draw.

    Raises:
      InputError: a setting, a checkpoint or a task cannot work; nothing is lost.
    """
    data_dir, output = Path(data_dir), Path(output)
    checkpoints = [Path(checkpoint) for checkpoint in checkpoints]
    chosen = _choose(data_dir, settings)
    models = _load(checkpoints)
    given = [given_features.read(argument) for argument in settings.features]
    _check_names([*(model.name for model in models), *(one.name for one in given)])
    units, new_notes = _load_tasks(chosen, data_dir, models, given, settings)
    if not units:
        (first, *_), *_ = new_notes.values()
        raise InputError(f"nothing to evaluate: {first}")
    with run_lock.held(output):
        suite.check_same(output, settings, checkpoints, models, given, units)
        path = output / "results.csv"
        results = report.read_table(path) if path.exists() else pd.DataFrame()
        notes = report.read_notes(output) | new_notes
        lines, sentences = methods.compared(models, given, settings), []
        for number, (name, data) in enumerate(units.items(), 1):
            draws_DN = _draws(data, settings)
            if data.shots:
                manifest = f"{data.task.name.replace('/', '_')}_{data.shots}.json"
                tasks.write_manifest(output / "draws" / manifest, data, draws_DN)
            print(f"{number}/{len(units)} {name}", flush=True)
            for method in methods.of_task(lines, data.task, settings):
                results = _complete(results, method, data, draws_DN, output)
            sentences = report.write(
                results, notes, output, first=models[0].name, strand=settings.read_strand
            )
    print("\n" + "\n".join(sentences))
    print(f"{output}: results.csv, summary.csv, report.md, results.png", flush=True)
    return results


def _choose(data_dir: Path, settings: EvaluationSettings) -> list[Task]:
    """Returns the tasks of the suite, each looked for before any work."""
    published = table.FEWSHOT if settings.suite == "fewshot" else table.GUE
    known = {task.name: task for task in published}
    if settings.tasks:
        chosen = table.find_all(settings.tasks, data_dir)
        for task in chosen:
            if task.name not in known and task.suite != "own":
                raise InputError(
                    f"--tasks={task.name}: not in the suite {settings.suite}."
                    f"{did_you_mean(task.name, known)}"
                )
        return chosen
    present = [task for task in known.values() if table.is_present(task, data_dir)]
    missing = [name for name in known if name not in {task.name for task in present}]
    if not present:
        raise InputError(
            f"--data_dir={data_dir}: holds no task of the suite {settings.suite} "
            f"(looked for {', '.join(list(known)[:3])}, ...)"
        )
    if missing:
        print(f"not in {data_dir}, left out: {', '.join(missing)}", flush=True)
    return present


def _load(checkpoints: Sequence[Path]) -> list[Pretrained]:
    """Returns the models, under different names."""
    models = [pretrained.load(path) for path in checkpoints]
    names = [model.name for model in models]
    for number, model in enumerate(models):
        if names.count(model.name) > 1:
            models[number] = dataclasses.replace(model, name=f"{model.name}_{number + 1}")
    return models


def _check_names(names: Sequence[str]) -> None:
    """Raises `InputError` where two lines of the tables would have the same name."""
    names = [pretrained.UNTRAINED, *names]
    clash = next((name for name in names if names.count(name) > 1), None)
    if clash:
        raise InputError(
            f"--checkpoint, --features: two lines of the tables would be called {clash!r}; rename "
            "one of the runs' folders, or of the features"
        )


def _load_tasks(
    chosen: Sequence[Task],
    data_dir: Path,
    models: Sequence[Pretrained],
    given: Sequence[GivenFeatures],
    settings: EvaluationSettings,
) -> tuple[dict[str, TaskData], dict[str, list[str]]]:
    """Returns rows by unit, and notes; without so many shots the notes alone.

    All are read before any training, so that a bad file costs nothing.
    """
    units, notes = {}, {}
    k = max(model.config.tokens.k for model in models)
    all_shots = settings.shots if settings.suite == "fewshot" else (methods.ALL_ROWS,)
    for task, shots in itertools.product(chosen, all_shots):
        name = report.unit_name(task.name, shots)
        try:
            data = tasks.load(task, data_dir, settings, k=k, shots=shots)
        except tasks.TooFewRows as error:
            notes[name] = [f"left out: {error}"]
        else:
            tasks.keep_some_tests(data, settings.test_rows, settings.seed)
            _check(data, models, given, settings)
            units[name], notes[name] = data, data.notes
        for note in notes[name]:
            print(f"{name}: {note}", flush=True)
    return units, notes


def _check(
    data: TaskData,
    models: Sequence[Pretrained],
    given: Sequence[GivenFeatures],
    settings: EvaluationSettings,
) -> None:
    """Raises `InputError` where a model, or this machine, cannot take all rows."""
    for model in models:
        splits = (data.train, data.test)
        position_limit.refuse_long(splits, model.config, settings.long_sequences)
    methods.check_memory(data, models, settings)
    for one in given:  # a row that lacks costs nothing now, and hours later
        one.of(data.train.take(np.unique(_draws(data, settings))))
        one.of(data.test)


def _draws(data: TaskData, settings: EvaluationSettings) -> np.ndarray:
    """Returns the training rows of every draw, int32 (D, n)."""
    if data.shots == methods.ALL_ROWS:
        return np.tile(np.arange(len(data.train.labels_N), dtype=np.int32), (settings.num_draws, 1))
    return tasks.draw_shots(data.train.labels_N, data.shots, settings.num_draws, settings.seed)


def _complete(
    results: pd.DataFrame,
    method: Method,
    data: TaskData,
    draws_DN: np.ndarray,
    output: Path,
) -> pd.DataFrame:
    """Returns the results with every draw of a unit, written as they come, and prints the mean."""
    unit = {"model": method.model, "mode": method.mode, "task": data.task.name}
    unit["shots"] = data.shots
    num_done = len(_of_unit(results, unit))
    if num_done == len(draws_DN):
        return results
    for first in range(num_done, len(draws_DN), method.draws_at_once or len(draws_DN)):
        rows = _run(method, data, draws_DN, first)
        # Before the rows, which say what is done: a kill between the two loses nothing.
        resamples = [row.pop(statistics.RESAMPLED) for row in rows]
        resampled.add(output, tuple(unit.values()), first, resamples)
        new = pd.DataFrame(unit | row for row in rows)
        results = pd.concat([results, new], ignore_index=True)
        with outputs.replaced_file(output / "results.csv") as part:
            results.to_csv(part, index=False)
    done = _of_unit(results, unit)
    (row,) = statistics.summary(resampled.attach(done, output), "model").to_dict("records")
    print(
        f"  {method.model} ({method.mode}): {data.task.metric} {report.cell(row)}, "
        f"{done.seconds.sum():.1f} s",
        flush=True,
    )
    return results


def _of_unit(results: pd.DataFrame, unit: dict[str, Any]) -> pd.DataFrame:
    """Returns the rows of one unit, which are its first draws."""
    if results.empty:
        return results
    return results[(results[list(unit)] == pd.Series(unit)).all(axis=1)]


def _run(method: Method, data: TaskData, draws_DN: np.ndarray, first: int) -> list[dict[str, Any]]:
    """Returns the scores of the draws from `first` on that are run together, a row each."""
    start_s = time.perf_counter()
    some_DN = draws_DN[first:][: method.draws_at_once]
    predictions = method.run(data, some_DN, first)
    seconds = round((time.perf_counter() - start_s) / len(some_DN), 3)
    return [row | {"seconds": seconds} for row in statistics.of_draws(data, predictions, first)]
