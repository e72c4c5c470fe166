"""One classifier on the whole train split of a task, as a folder that other commands read."""

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from cmgems_jax.downstream.finetuning import loop, position_limit, recipes
from cmgems_jax.downstream.finetuning.classifier import (
    RECORD,
    TENSORS,
    TrainedClassifier,
    save_classifier,
)
from cmgems_jax.downstream.finetuning.loop import TrainedDraws
from cmgems_jax.downstream.finetuning.settings import FinetuneSettings
from cmgems_jax.downstream.tasks import labels as task_labels
from cmgems_jax.downstream.tasks import metrics, tasks
from cmgems_jax.downstream.tasks.tasks import TaskData
from cmgems_jax.errors import InputError
from cmgems_jax.pretraining import pretrained
from cmgems_jax.runtime import outputs, run_log, signals

DEV_SHARE = 0.1  # of the train rows, held out where there is no dev split
_DEV_STREAM = 1  # of the seed, for the rows that are held out


def train_classifier(
    checkpoint: Path | str, task: str, data_dir: Path, output: Path, settings: FinetuneSettings
) -> dict[str, float]:
    """Trains, keeps the epoch of the least loss on dev, and writes classifier and metrics.json.

    SIGINT and SIGTERM end the training: the best of the whole epochs is kept. Returns the test
    scores by their names in `metrics.OF_KIND`.

    Args:
      task: a published task's name, or the folder of an own one.
      data_dir: holds fewshot/ and gue/, or the folders of the tasks.
      output: folder to make; a classifier in it is replaced.

    Raises:
      InputError: a path, a flag or a file cannot work; nothing is written then.
      KeyboardInterrupt: behind a signal, once what there is has been kept.
    """
    outputs.check_folder(output, (RECORD, TENSORS, "metrics.json"), ())
    model, how = pretrained.load(Path(checkpoint)), settings.long_sequences
    data = tasks.load(task, data_dir, settings, k=model.config.tokens.k)
    position_limit.refuse_long((data.train, data.test), model.config, how)
    data = _with_dev(data, settings.seed)
    recipe = _recipe(data, settings, model.config.model.hidden_size)
    for note in data.notes:
        print(f"{data.task.name}: {note}", flush=True)
    start_s = time.perf_counter()
    with signals.stop_requests() as stop:
        every_row_1N = np.arange(len(data.train.labels_N))[None]
        trained = loop.train_draws(
            model, data, every_row_1N, recipe, seed=settings.seed, long_sequences=how, stop=stop,
            report_epochs=True,
        )  # fmt: skip
    seconds = time.perf_counter() - start_s
    if not trained.dev_losses_DE.size:
        print(f"{stop.signal} in the first epoch: nothing was kept", flush=True)
        raise KeyboardInterrupt
    print(_kept(trained, stop.signal), flush=True)
    (output / "metrics.json").unlink(missing_ok=True)  # no scores of another classifier
    about = {"recipe": dataclasses.asdict(recipe), "source": str(checkpoint)}
    save_classifier(output, _classifier(trained, data), task=data.task.name, **about)
    (predicted_NC,) = loop.probabilities(trained, data.test)
    scores = metrics.score(data.test.labels_N, predicted_NC, data.task.labels)
    record = _record(str(checkpoint), data, trained, seconds, scores)
    outputs.write_json(output / "metrics.json", record)
    described = ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
    text = f"test {described} (strand: {recipe.strand}; {seconds:.1f} s of training)"
    print(f"{data.task.name}: {text}\n{output}", flush=True)
    if stop.signal:
        raise KeyboardInterrupt
    return scores


def _classifier(trained: TrainedDraws, data: TaskData) -> TrainedClassifier:
    """Returns what predicts, of the first draw."""
    config, recipe = trained.config, trained.recipe
    longest = position_limit.num_tokens(data.train.bases_NM, config)
    return TrainedClassifier(
        config,
        trained.of_draw(0),
        data.label_names,
        min(longest, position_limit.max_tokens(config, trained.long_sequences)),
        recipe.strand,
        recipe.head,
        data.task.labels,
    )


def _recipe(data: TaskData, settings: FinetuneSettings, width: int) -> recipes.Recipe:
    """Returns the recipe of the task with the user's changes."""
    is_fewshot = data.task.suite == "fewshot"
    return recipes.choose(
        data.task,
        int(np.bincount(data.train.labels_N).min()) if is_fewshot else 0,
        head=settings.head,
        width=width,
        num_rows=len(data.train.labels_N),
        peak_lr=settings.peak_lr,
        num_epochs=settings.num_epochs,
        batch_size=settings.batch_size,
        reverse_complement=settings.reverse_complement,
        strand=settings.read_strand,
    )


def _with_dev(data: TaskData, seed: int) -> TaskData:
    """Returns the data with a dev split: where there is none, a tenth of every class of train.

    Of numbers and several labels per row: a tenth of all rows.
    """
    if data.dev is not None:
        return data
    labels_N = task_labels.strata(data.train.labels_N)
    rng = np.random.default_rng((seed, _DEV_STREAM))
    is_dev_N = np.zeros(len(labels_N), bool)
    for label in np.unique(labels_N):
        rows = rng.permutation(np.flatnonzero(labels_N == label))
        num_dev = max(1, round(DEV_SHARE * len(rows)))
        is_dev_N[rows[: min(num_dev, len(rows) - 1)]] = True  # an only row is trained on
    if not is_dev_N.any():
        raise InputError(
            f"{data.train.path}: one row per class, so none can be held out to choose the epoch; "
            "give more rows, or a dev file"
        )
    share = "a tenth of every class" if data.task.labels == task_labels.CLASSES else "a tenth"
    data.notes.append(
        f"no dev split: {is_dev_N.sum():,} of {len(labels_N):,} train rows, {share}, held out to "
        "choose the epoch"
    )
    dev = data.train.take(is_dev_N)
    tasks.note_absent(data, dev, "the held-out tenth", tasks.UNSEEN)
    return dataclasses.replace(data, train=data.train.take(~is_dev_N), dev=dev)


def _record(
    checkpoint: str,
    data: TaskData,
    trained: TrainedDraws,
    seconds: float,
    scores: dict[str, float],
) -> dict[str, Any]:
    """Returns metrics.json: what happened in every epoch, and which one was kept.

    Epochs are from 1; the first loss and score on dev are of `first_dev_epoch`, which is 0 where
    the start of a features head, the probe, is a candidate.
    """
    return {
        "task": data.task.name,
        "checkpoint": checkpoint,
        "rows": {name: len(examples.labels_N) for name, examples in data.splits.items()},
        "notes": data.notes,
        "losses": trained.losses_DE[0].tolist(),
        "first_dev_epoch": trained.first_epoch,
        "dev_losses": trained.dev_losses_DE[0].tolist(),
        f"dev_{data.task.metric}": list(map(_or_none, trained.dev_scores_DE[0].tolist())),
        "epoch_kept": trained.first_epoch + int(trained.best_D[0]),
        "strand": trained.recipe.strand,
        "seconds": round(seconds, 2),
        "test": {name: _or_none(score) for name, score in scores.items()},
        "environment": run_log.environment(),
    }


def _or_none(score: float) -> float | None:
    """Returns a score as JSON can hold it."""
    return score if math.isfinite(score) else None


def _kept(trained: TrainedDraws, signal: str) -> str:
    """Returns a sentence: which epoch was kept, its loss and metric on dev, and why."""
    best, num_epochs = int(trained.best_D[0]), trained.losses_DE.shape[1]
    epoch, score = trained.first_epoch + best, trained.dev_scores_DE[0, best]
    shown = f"{trained.task.metric} {f'{score:.3f}' if math.isfinite(score) else 'not defined'}"
    kept = f"epoch {epoch} of {num_epochs}" if epoch else "the probe, before any epoch"
    text = f"kept {kept}: dev loss {trained.dev_losses_DE[0, best]:.4f}, {shown}"
    if signal:
        return f"{text}; {signal} ended the training"
    if epoch == num_epochs > 1:
        more = 2 * trained.recipe.num_epochs
        return f"{text}; the last is the best, still improving: --epochs={more} may do better"
    if num_epochs < trained.recipe.num_epochs and not trained.patient_D().any():
        return f"{text}; none of the {trained.recipe.patience} after it was better"
    return text
