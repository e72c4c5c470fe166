"""One classifier on the whole train split of a task, as a folder that other commands read."""

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from cmgems_jax.downstream.finetuning import loop, position_limit
from cmgems_jax.downstream.finetuning.classifier import TrainedClassifier, save_classifier
from cmgems_jax.downstream.finetuning.loop import Trained
from cmgems_jax.downstream.finetuning.recipes import Recipe, fewshot_recipe, gue_recipe, own_recipe
from cmgems_jax.downstream.tasks import metrics, tasks
from cmgems_jax.downstream.tasks.tasks import Examples, TaskData
from cmgems_jax.errors import InputError
from cmgems_jax.pretraining import checkpoints, pretrained
from cmgems_jax.pretraining.pretrained import Pretrained
from cmgems_jax.runtime import outputs, run_log, signals

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
    metric: str = ""  # shown beside the loss on dev; "" = the task's
    sequence_column: str = ""  # of the task's files; "" = a usual name
    label_column: str = ""


def train_classifier(
    checkpoint: Path | str, task: str, data_dir: Path | str, output: Path | str, settings: Settings
) -> dict[str, float]:
    """Trains, keeps the epoch of the least loss on dev, and writes classifier and metrics.json.

    SIGINT and SIGTERM end the training: the best of the whole epochs is kept.

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
      KeyboardInterrupt: behind a signal, once what there is has been kept.
    """
    checkpoint, data_dir, output = Path(checkpoint), Path(data_dir), Path(output)
    if output.exists() and (not output.is_dir() or (output / checkpoints.FOLDER).exists()):
        raise InputError(
            f"--output={output}: a file, or the folder of a pretraining run; give a folder to make"
        )
    model = pretrained.load(checkpoint)
    data = _load(model, task, data_dir, settings)
    train, dev = _splits(data, settings.seed)
    for note in data.notes:
        print(f"{data.task.name}: {note}", flush=True)
    recipe = choose_recipe(data, settings)
    start_s = time.perf_counter()
    with signals.stop_requests() as stop:
        trained = loop.train_draws(
            model,
            train,
            np.arange(len(train.labels_N))[None],
            data.task.num_classes,
            recipe,
            seed=settings.seed,
            dev=dev,
            metric=data.task.metric,
            long_sequences=settings.long_sequences,
            stop=stop,
        )
    seconds = time.perf_counter() - start_s
    if trained.dev_losses_DE is None:
        print(f"{stop.signal} in the first epoch: nothing was kept", flush=True)
        raise KeyboardInterrupt
    history = _history(trained, data.task.metric)
    print(_kept(history, data.task.metric, stop.signal), flush=True)
    longest = position_limit.num_tokens(train.bases_NM, model.config)
    made = TrainedClassifier(
        config=model.config,
        params=trained.of_draw(0),
        label_names=data.label_names,
        max_tokens=min(longest, position_limit.max_tokens(model.config, settings.long_sequences)),
    )
    (output / "metrics.json").unlink(missing_ok=True)  # no scores of another classifier
    save_classifier(
        output,
        made,
        task=data.task.name,
        recipe=dataclasses.asdict(recipe),
        source=str(checkpoint),
    )
    (said_NC,) = loop.probabilities(trained, data.test, long_sequences=settings.long_sequences)
    scores = metrics.score(data.test.labels_N, said_NC)
    rows = {"train": len(train.labels_N), "dev": len(dev.labels_N), "test": len(data.test.labels_N)}
    record = {
        "task": data.task.name,
        "checkpoint": str(checkpoint),
        "rows": rows,
        "notes": data.notes,
        **history,
        "seconds": round(seconds, 2),
        "test": {name: None if math.isnan(score) else score for name, score in scores.items()},
        "environment": run_log.environment(),
    }
    outputs.write_json(output / "metrics.json", record)
    described = ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
    print(f"{data.task.name}: test {described} ({seconds:.1f} s of training)\n{output}", flush=True)
    if stop.signal:
        raise KeyboardInterrupt
    return scores


def _load(model: Pretrained, task: str, data_dir: Path, settings: Settings) -> TaskData:
    """Returns the task's rows, which the model can take."""
    data = tasks.load(
        task,
        data_dir,
        k=model.config.tokens.k,
        dedupe=settings.dedupe,
        columns=tasks.Columns(settings.sequence_column, settings.label_column),
        metric=settings.metric,
    )
    position_limit.refuse_long((data.train, data.test), model.config, settings.long_sequences)
    return data


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


def _splits(data: TaskData, seed: int) -> tuple[Examples, Examples]:
    """Returns train and dev; where there is no dev, a tenth of every class of train, and notes."""
    if data.dev is not None:
        return data.train, data.dev
    labels_N = data.train.labels_N
    rng = np.random.default_rng((seed, _DEV_STREAM))
    is_dev_N = np.zeros(len(labels_N), bool)
    for label in range(data.task.num_classes):
        rows = rng.permutation(np.flatnonzero(labels_N == label))
        num_dev = max(1, round(DEV_SHARE * len(rows)))
        is_dev_N[rows[: min(num_dev, len(rows) - 1)]] = True  # an only row is trained on
    if not is_dev_N.any():
        raise InputError(
            f"{data.train.path}: one row a class, so none can be held out to choose the epoch; "
            "give more rows, or a dev file"
        )
    data.notes.append(
        f"no dev split: {is_dev_N.sum():,} of {len(labels_N):,} train rows, a tenth of every "
        "class, held out to choose the epoch"
    )
    dev = data.train.take(is_dev_N)
    tasks.note_absent(data, dev, "the held-out tenth", tasks.UNSEEN)
    return data.train.take(~is_dev_N), dev


def _history(trained: Trained, metric: str) -> dict[str, Any]:
    """Returns what happened in every epoch, and which one was kept, from 1."""
    losses_E, scores_E = trained.dev_losses_DE[0], trained.dev_scores_DE[0]
    return {
        "losses": trained.losses_DE[0].tolist(),
        "dev_losses": losses_E.tolist(),
        f"dev_{metric}": [score if math.isfinite(score) else None for score in scores_E.tolist()],
        "epoch_kept": int(np.flatnonzero(losses_E == losses_E.min())[-1]) + 1,
    }


def _kept(history: dict[str, Any], metric: str, signal: str) -> str:
    """Returns a sentence: which epoch was kept, its loss and metric on dev, and why."""
    epoch, losses = history["epoch_kept"], history["dev_losses"]
    score = history[f"dev_{metric}"][epoch - 1]
    shown = f"{metric} {'not defined' if score is None else f'{score:.3f}'}"
    text = f"kept epoch {epoch} of {len(losses)}: dev loss {losses[epoch - 1]:.4f}, {shown}"
    if signal:
        return f"{text}; {signal} ended the training"
    if epoch == len(losses) > 1:
        return f"{text}; the last is the best, still improving: more --epochs may do better"
    return text
