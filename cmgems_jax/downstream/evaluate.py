"""Suites: every model and baseline on every task, under the same draws of the training rows.

A unit is one (model, mode, task, shots): all its draws. Units that OUTPUT/results.csv
holds already are not run again, so a suite that was stopped goes on where it was.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cmgems_jax import outputs, run_lock, run_log
from cmgems_jax.data import tasks
from cmgems_jax.data.tasks import Task, TaskData
from cmgems_jax.downstream import evaluation_report, methods, metrics, pretrained
from cmgems_jax.downstream.methods import Method
from cmgems_jax.downstream.pretrained import Pretrained
from cmgems_jax.errors import InputError, did_you_mean

# More of these may be added to a folder of results.
ADDABLE = frozenset(
    {"tasks", "shots", "modes", "peak_lr", "cache_dir", "baselines", "draws_at_once"}
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is evaluated, and how; a folder of results has one of it."""

    suite: str  # "fewshot" or "gue"
    modes: tuple[str, ...] = methods.MODES
    tasks: tuple[str, ...] = ()  # names; empty = all of the suite that data_dir holds
    shots: tuple[int, ...] = (10, 100)  # rows a class; of the few-shot suite
    num_draws: int = 10  # of the shots; for GUE: seeds, from 42 on
    seed: int = 0  # of the draws, and of training
    dedupe: bool = False  # drop duplicates, and train rows that stand in test
    long_sequences: str = "error"  # "error", "truncate", "window"
    peak_lr: float | None = None  # of fine-tuning, in place of the published recipes'
    draws_at_once: int | None = None  # fine-tuned side by side; None = all
    baselines: bool = True  # beside the models: one untrained, k-mer regression, majority
    test_rows: int = 0  # at most so many rows of test are predicted; 0 = all
    cache_dir: Path | None = None  # keeps the tasks as TFDS data sets


def evaluate(
    checkpoints: Sequence[Path], data_dir: Path, output: Path, settings: Settings
) -> pd.DataFrame:
    """Runs a suite and writes results.csv, summary.csv, report.md and results.png.

    Args:
      checkpoints: pretraining checkpoints, one a model; the first is compared with the others
        and with the baselines: the same model untrained, k-mer logistic regression, majority.
      data_dir: holds fewshot/ and gue/, or the folders of the tasks themselves.
      output: made where it is missing; goes on where it holds results of the same settings.
      settings: what to run.

    Returns:
      One row a model, mode, task, shots and draw.

    Raises:
      InputError: a setting, a checkpoint or a task cannot work; nothing is lost.
    """
    chosen = _choose(data_dir, settings)
    models = _load(checkpoints)
    with run_lock.held(output):
        _check_same(output, settings, checkpoints)
        results = _read(output)
        notes: dict[str, list[str]] = {}
        lines = methods.compared(
            models,
            settings.modes,
            seed=settings.seed,
            long_sequences=settings.long_sequences,
            peak_lr=settings.peak_lr,
            draws_at_once=settings.draws_at_once,
            baselines=settings.baselines,
        )
        units = [(task, shots) for task in chosen for shots in _shots(settings)]
        for number, (task, shots) in enumerate(units, 1):
            data = _load_task(task, data_dir, shots, models[0], output, settings, notes)
            if data is None:
                continue
            draws_DN = _draw(data, shots, output, settings)
            print(f"{number}/{len(units)} {_name(task, shots)}", flush=True)
            for method in lines:
                if _is_done(results, method, task, shots, len(draws_DN)):
                    continue
                rows = _run(method, data, draws_DN, shots)
                results = pd.concat([results, rows], ignore_index=True)
                with outputs.replaced_file(output / "results.csv") as part:
                    results.to_csv(part, index=False)
            evaluation_report.write(results, notes, output, first=models[0].name)
    print(f"{output}: results.csv, summary.csv, report.md, results.png", flush=True)
    return results


def _choose(data_dir: Path, settings: Settings) -> list[Task]:
    """Returns the tasks of the suite, each looked for before any work."""
    suite = tasks.FEWSHOT if settings.suite == "fewshot" else tasks.GUE
    known = {task.name: task for task in suite}
    if settings.tasks:
        chosen = [tasks.find(name, data_dir) for name in settings.tasks]
        for task in chosen:
            if task.name not in known and task.suite != "own":
                raise InputError(
                    f"--tasks={task.name}: not in the suite {settings.suite}."
                    f"{did_you_mean(task.name, known)}"
                )
        return chosen
    present = [task for task in known.values() if tasks.is_present(task, data_dir)]
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


def _shots(settings: Settings) -> tuple[int, ...]:
    """Returns the numbers of rows a class to train on."""
    return settings.shots if settings.suite == "fewshot" else (methods.ALL_ROWS,)


def _load_task(
    task: Task,
    data_dir: Path,
    shots: int,
    model: Pretrained,
    output: Path,
    settings: Settings,
    notes: dict[str, list[str]],
) -> TaskData | None:
    """Returns the rows, and notes what is to be known of them; None without so many shots."""
    name = _name(task, shots)
    try:
        data = tasks.load(
            task,
            data_dir,
            shots=shots or None,
            dedupe=settings.dedupe,
            k=model.config.tokens.k,
            cache_dir=settings.cache_dir,
        )
    except tasks.TooFewRows as error:
        notes[name] = [f"left out: {error}"]
        print(f"{name}: left out: {error}", flush=True)
        return None
    tasks.keep_some_tests(data, settings.test_rows, settings.seed)
    notes[name] = data.notes
    for note in data.notes:
        print(f"{name}: {note}", flush=True)
    return data


def _draw(data: TaskData, shots: int, output: Path, settings: Settings) -> np.ndarray:
    """Returns the training rows of every draw, and writes which they are."""
    if shots == methods.ALL_ROWS:
        return np.tile(np.arange(len(data.train.labels_N), dtype=np.int32), (settings.num_draws, 1))
    draws_DN = tasks.draw_shots(data.train.labels_N, shots, settings.num_draws, settings.seed)
    folder = output / "draws"
    folder.mkdir(exist_ok=True)
    tasks.write_manifest(
        folder / f"{data.task.name.replace('/', '_')}_{shots}.json", data, draws_DN
    )
    return draws_DN


def _run(method: Method, data: TaskData, draws_DN: np.ndarray, shots: int) -> pd.DataFrame:
    """Returns one row of scores a draw, and prints the mean."""
    start = time.perf_counter()
    probabilities = method.run(data, draws_DN, shots)
    seconds = time.perf_counter() - start
    scores = [metrics.score(data.test.labels_N, one_NC) for one_NC in probabilities]
    mean, low, high = metrics.interval([score[data.task.metric] for score in scores])
    spread = f" [{low:.3f}, {high:.3f}]" if np.isfinite(low) else ""
    print(
        f"  {method.model} ({method.mode}): {data.task.metric} {mean:.3f}{spread}, {seconds:.1f} s",
        flush=True,
    )
    unit = {"model": method.model, "mode": method.mode, "task": data.task.name, "shots": shots}
    shared = {"metric": data.task.metric, "seconds": round(seconds / len(scores), 3)}
    return pd.DataFrame(
        [{**unit, "draw": draw, **score, **shared} for draw, score in enumerate(scores)]
    )


def _is_done(results: pd.DataFrame, method: Method, task: Task, shots: int, num_draws: int) -> bool:
    """True where the results hold every draw of the unit."""
    if results.empty:
        return False
    same = (
        (results.model == method.model)
        & (results["mode"] == method.mode)
        & (results.task == task.name)
        & (results.shots == shots)
    )
    return int(same.sum()) == num_draws


def _check_same(output: Path, settings: Settings, checkpoints: Sequence[Path]) -> None:
    """Writes suite.json, or refuses a folder whose results came from other settings."""
    path = output / "suite.json"
    now = {n: v for n, v in dataclasses.asdict(settings).items() if n not in ADDABLE}
    now["checkpoints"] = [str(checkpoint.resolve()) for checkpoint in checkpoints]
    if path.exists():
        before = json.loads(path.read_text())
        rows = [
            f"{n}: {before.get(n)!r} before, {now[n]!r} now" for n in now if before.get(n) != now[n]
        ]
        if rows:
            raise InputError(
                f"--output={output}: holds results of other settings ({'; '.join(rows)}); "
                "give another --output"
            )
    run_log.write_json(path, now)
    run_log.write_json(output / "environment.json", run_log.environment())


def _read(output: Path) -> pd.DataFrame:
    """Returns the results so far."""
    path = output / "results.csv"
    return pd.read_csv(path) if path.exists() else pd.DataFrame()


def _name(task: Task, shots: int) -> str:
    """Returns how a unit is called: `prom_core, 10 shots`."""
    return f"{task.name}, {shots} shots" if shots else task.name
