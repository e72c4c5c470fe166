"""One classifier on the whole train split of a task, as a folder that other commands read."""

import dataclasses
import math
import time
from pathlib import Path

import numpy as np

from cmgems_jax import checkpoints, run_log
from cmgems_jax.data import tasks
from cmgems_jax.data.tasks import Examples, TaskData
from cmgems_jax.downstream import finetune, metrics, position_limit, pretrained
from cmgems_jax.downstream.classifier import TrainedClassifier, save_classifier
from cmgems_jax.downstream.finetune import Trained
from cmgems_jax.downstream.recipes import Recipe, fewshot_recipe, gue_recipe, own_recipe
from cmgems_jax.errors import InputError

DEV_SHARE = 0.1  # of the train rows, held out where there is no dev split
_DEV_STREAM = 1  # of the seed, for the rows that are held out


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the command line may change; None = as the recipe of the task has it."""

    seed: int = 0
    peak_lr: float | None = None
    num_epochs: int | None = None
    batch_size: int | None = None
    dedupe: bool = False  # drop repeated rows, and train rows that stand in test
    long_sequences: str = "error"  # of position_limit.LONG_SEQUENCES


def train_classifier(
    checkpoint: Path | str, task: str, data_dir: Path | str, output: Path | str, settings: Settings
) -> dict[str, float]:
    """Trains, keeps the epoch that is best on dev, and writes the classifier and metrics.json.

    Args:
      checkpoint: of a pretraining run.
      task: a published task's name, or the folder of an own one.
      data_dir: holds fewshot/ and gue/, or the folders of the tasks.
      output: folder to make; a classifier in it is replaced.
      settings: seed, changes of the recipe, treatment of the data.

    Returns:
      The test scores by `metrics.NAMES`.

    Raises:
      InputError: a path, a flag or a file cannot work; nothing is written then.
    """
    checkpoint, data_dir, output = Path(checkpoint), Path(data_dir), Path(output)
    if output.exists() and (not output.is_dir() or (output / checkpoints.FOLDER).exists()):
        raise InputError(
            f"--output={output}: a file, or the folder of a pretraining run; give a folder to make"
        )
    model = pretrained.load(checkpoint)
    data = tasks.load(task, data_dir, k=model.config.tokens.k, dedupe=settings.dedupe)
    train, dev, note = _splits(data, settings.seed)
    notes = [*data.notes, *note]
    for note in notes:
        print(f"{data.task.name}: {note}", flush=True)
    recipe = choose_recipe(data, settings)
    start_s = time.perf_counter()
    trained = finetune.train_draws(
        model,
        train,
        np.arange(len(train.labels_N))[None],
        data.task.num_classes,
        recipe,
        seed=settings.seed,
        dev=dev,
        metric=data.task.metric,
        long_sequences=settings.long_sequences,
    )
    seconds = time.perf_counter() - start_s
    (said_NC,) = finetune.probabilities(trained, data.test, long_sequences=settings.long_sequences)
    scores = metrics.score(data.test.labels_N, said_NC)
    longest = position_limit.num_tokens(train.bases_NM, model.config)
    made = TrainedClassifier(
        config=model.config,
        params=trained.of_draw(0),
        label_names=data.label_names,
        max_tokens=min(longest, position_limit.max_tokens(model.config, settings.long_sequences)),
    )
    source = str(checkpoint)
    save_classifier(
        output, made, task=data.task.name, recipe=dataclasses.asdict(recipe), source=source
    )
    rows = {"train": len(train.labels_N), "dev": len(dev.labels_N), "test": len(data.test.labels_N)}
    record = {"task": data.task.name, "checkpoint": source, "rows": rows, "notes": notes}
    record |= _history(trained, data.task.metric) | {"seconds": round(seconds, 2)}
    record["test"] = {name: None if math.isnan(score) else score for name, score in scores.items()}
    run_log.write_json(output / "metrics.json", record | {"environment": run_log.environment()})
    described = ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
    print(f"{data.task.name}: test {described} ({seconds:.1f} s of training)\n{output}", flush=True)
    return scores


def choose_recipe(data: TaskData, settings: Settings) -> Recipe:
    """Returns the published recipe of the task, or a start for an own one, with the changes."""
    if data.task.suite == "gue":
        recipe = gue_recipe(data.task.name)
    elif data.task.suite == "fewshot":
        recipe = fewshot_recipe(int(np.bincount(data.train.labels_N).min()))
    else:
        recipe = own_recipe()
    wanted = {name: getattr(settings, name) for name in ("peak_lr", "num_epochs", "batch_size")}
    return dataclasses.replace(recipe, **{n: v for n, v in wanted.items() if v is not None})


def _splits(data: TaskData, seed: int) -> tuple[Examples, Examples, list[str]]:
    """Returns train and dev; where there is no dev, a tenth of train, and a note of it."""
    if data.dev is not None:
        return data.train, data.dev, []
    num_rows = len(data.train.labels_N)
    num_dev = max(1, round(DEV_SHARE * num_rows))
    if num_rows < 2:
        raise InputError(f"{data.train.path}: {num_rows} rows; expected at least 2")
    order = np.random.default_rng((seed, _DEV_STREAM)).permutation(num_rows)
    held_out, kept = np.sort(order[:num_dev]), np.sort(order[num_dev:])
    note = f"no dev split: {num_dev:,} of {num_rows:,} train rows held out to choose the epoch"
    return data.train.take(kept), data.train.take(held_out), [note]


def _history(trained: Trained, metric: str) -> dict[str, object]:
    """Returns what happened in every epoch, and which one was kept, from 1."""
    scores_E = trained.dev_scores_DE[0]
    return {
        "losses": trained.losses_DE[0].tolist(),
        f"dev_{metric}": [score if math.isfinite(score) else None for score in scores_E.tolist()],
        "epoch_kept": int(scores_E.argmax()) + 1,
    }
