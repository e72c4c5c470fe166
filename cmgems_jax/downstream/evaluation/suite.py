"""What all results of a folder have in common, kept in suite.json: settings, models, rows."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cmgems_jax.downstream.evaluation.given_features import GivenFeatures
from cmgems_jax.downstream.evaluation.settings import EvaluationSettings
from cmgems_jax.downstream.tasks import tasks
from cmgems_jax.downstream.tasks.tasks import TaskData
from cmgems_jax.errors import InputError
from cmgems_jax.pretraining import pretrained
from cmgems_jax.pretraining.pretrained import Pretrained
from cmgems_jax.runtime import outputs, run_log


def check_same(
    output: Path,
    settings: EvaluationSettings,
    checkpoints: Sequence[Path],
    models: Sequence[Pretrained],
    given: Sequence[GivenFeatures],
    units: dict[str, TaskData],
) -> None:
    """Writes suite.json, or refuses results of other settings, models or rows.

    Where models and rows lie is recorded, and may change: what they hold may not.
    """
    path = output / "suite.json"
    now = settings.fixed()
    now["checkpoints"] = [str(checkpoint.resolve()) for checkpoint in checkpoints]
    now["models"] = [
        {"name": model.name, "step": model.step, "sha256": pretrained.digest(model)}
        for model in models
    ]
    now["features"] = {one.name: {"path": str(one.path), "sha256": one.sha256} for one in given}
    now["tasks"] = {
        name: {"folder": str(Path(data.train.path).resolve().parent), "sha256": tasks.digest(data)}
        for name, data in units.items()
    }
    if path.exists() and (output / "results.csv").exists():
        before = EvaluationSettings().fixed() | json.loads(path.read_text())
        _refuse_others(output, before, now)
        for kept in ("features", "tasks"):
            now[kept] = before.get(kept, {}) | now[kept]
    outputs.write_json(path, now)
    outputs.write_json(output / "environment.json", run_log.environment())


def _refuse_others(output: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises `InputError` with a table of what differs."""
    locations = {"features", "tasks", "checkpoints" if "models" in before else "models"}
    pairs = {name: (before[name], now[name]) for name in now.keys() - locations}
    for kept, what in (("tasks", "rows"), ("features", "features")):
        known = before.get(kept, {})
        for name in now[kept].keys() & known.keys():
            if known[name]["sha256"] != now[kept][name]["sha256"]:
                pairs[f"{what} of {name}"] = (known[name], now[kept][name])
    rows = [
        f"  {name}: {old!r} before, {new!r} now"
        for name, (old, new) in sorted(pairs.items())
        if old != new
    ]
    if rows:
        raise InputError(
            f"--output={output}: holds results of other settings; give another --output, or undo\n"
            + "\n".join(rows)
        )
    if "models" not in before:
        print(
            f"{output}: an earlier version recorded neither the step of its checkpoints nor the "
            "rows; its results are taken to be of these",
            flush=True,
        )
