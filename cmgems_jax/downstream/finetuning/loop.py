"""Classifiers trained from a pretrained encoder: all draws of the shots side by side.

Every draw has its own parameters, optimizer state, rows, order and dropout; one
compiled program (`draw_programs`) trains them all, split over the devices. What is
random follows from the seed and the draw's number, so a draw does not depend on the
others. Axes: D draws, N sequences, n rows of a draw, M bases, W windows, S steps,
B sequences of a step, C classes, E epochs.
"""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np
from tqdm import tqdm

from cmgems_jax import terminal
from cmgems_jax.config import Config
from cmgems_jax.downstream.finetuning import position_limit, side_by_side, steps, subspace
from cmgems_jax.downstream.finetuning.classifier import (
    TrainedClassifier,
    load_classifier,
    save_classifier,
)
from cmgems_jax.downstream.finetuning.position_limit import Windows
from cmgems_jax.downstream.finetuning.recipes import Recipe, fewshot_recipe, gue_recipe, own_recipe
from cmgems_jax.downstream.finetuning.steps import DrawState, Programs
from cmgems_jax.downstream.finetuning.subspace import Subspace
from cmgems_jax.downstream.tasks import metrics
from cmgems_jax.downstream.tasks.files import Examples
from cmgems_jax.pretraining.pretrained import Pretrained
from cmgems_jax.runtime.signals import StopRequest

__all__ = [
    "Recipe",
    "Trained",
    "TrainedClassifier",
    "fewshot_recipe",
    "finetune",
    "gue_recipe",
    "load_classifier",
    "own_recipe",
    "probabilities",
    "save_classifier",
    "train_draws",
]

_CHUNK_STEPS = 32  # a call of the program; progress is told between calls
_BATCH_TOKENS = 32_768  # that a device sees at a time when it predicts; bounds memory
_LEAST_PROBABILITY = np.finfo(np.float32).tiny  # so that one row's loss is finite


@dataclasses.dataclass
class Trained:
    """The classifiers of D draws, on the devices, and how their training went."""

    config: Config  # of the pretraining run
    programs: Programs
    params: dict | Subspace  # of bert.Classifier, stacked (devices, draws each, ...)
    losses_DE: np.ndarray  # float64, mean over the rows of an epoch, nats
    dev_losses_DE: np.ndarray | None = None  # float64, nats, by which the epoch was chosen
    dev_scores_DE: np.ndarray | None = None  # float64, the metric of the same epochs

    def of_draw(self, draw: int) -> dict:
        """Returns the parameters of one draw as host arrays."""
        each = jax.tree.leaves(self.params)[0].shape[1]
        own = jax.tree.map(lambda leaf: leaf[draw // each, draw % each], self.params)
        return jax.tree.map(np.asarray, subspace.expand(own))


def finetune(
    pretrained: Pretrained,
    train: Examples,
    draws_DN: np.ndarray,
    test: Examples,
    num_classes: int,
    recipe: Recipe,
    *,
    seed: int,
    dev: Examples | None = None,
    long_sequences: str = "error",
    first_draw: int = 0,
) -> np.ndarray:
    """Trains a classifier for every draw and returns what they say of the test rows.

    Args:
      pretrained: where the encoder starts.
      train: what is drawn from.
      draws_DN: int (D, n), rows of `train` that a draw trains on.
      test: what is predicted.
      num_classes: C.
      recipe: how to train.
      seed: see `train_draws`, as for the next two.
      dev: where given, each draw keeps the parameters of the epoch of the least loss on it.
      long_sequences: what is done with those beyond the position table.
      first_draw: number of the first draw, where they are some of more.

    Returns:
      float32 (D, rows of test, C), probabilities.

    Raises:
      InputError: sequences are too long.
    """
    trained = train_draws(
        pretrained,
        train,
        draws_DN,
        num_classes,
        recipe,
        seed=seed,
        numbers_D=np.arange(len(draws_DN)) + first_draw,
        dev=dev,
        long_sequences=long_sequences,
    )
    return probabilities(trained, test, long_sequences=long_sequences)


def train_draws(
    pretrained: Pretrained,
    train: Examples,
    draws_DN: np.ndarray,
    num_classes: int,
    recipe: Recipe,
    *,
    seed: int,
    numbers_D: np.ndarray | None = None,
    dev: Examples | None = None,
    metric: str = "mcc",
    long_sequences: str = "error",
    stop: StopRequest | None = None,
) -> Trained:
    """Trains a classifier for every draw, all side by side.

    The epoch is chosen by the loss on dev, which tells epochs apart where a metric of few rows, or
    of a rare class, is the same for all; GUE's published script chooses by it too (the default of
    HuggingFace's load_best_model_at_end).

    Args:
      pretrained: where the encoder starts; the head starts at random.
      train: what is drawn from.
      draws_DN: int (D, n), rows of `train` that a draw trains on.
      num_classes: C.
      recipe: how to train.
      seed: with the draw's number, of the order of the rows, the head and dropout.
      numbers_D: int (D,), numbers of the draws; None = 0, 1, ...
      dev: where given, each draw keeps the parameters of the epoch of the least mean loss on
        it, the later on a tie.
      metric: one of `metrics.NAMES`, recorded beside that loss.
      long_sequences: see `position_limit.cut`. Of the windows of a sequence, each
        epoch trains on the next one.
      stop: once it has a signal, no further step is begun, and what is returned is that of the
        whole epochs.

    Raises:
      InputError: sequences are too long.
    """
    config, num_draws = pretrained.config, len(draws_DN)
    numbers_D = np.arange(num_draws) if numbers_D is None else numbers_D
    windows = position_limit.cut(train.bases_NM, config, long_sequences, source=train.path)
    position_limit.warn_of_new_positions(windows, config, source=train.path)
    num_steps = recipe.num_steps(draws_DN.shape[1])
    devices = side_by_side.num_devices(num_draws)
    programs = steps.make(config, num_classes, recipe, num_steps, devices)
    states = programs.init(
        side_by_side.share(pretrained.params, devices),
        side_by_side.split(_draw_keys(seed, numbers_D), devices),
    )
    labels_W = np.repeat(train.labels_N, windows.count_N).astype(np.int32)
    data = side_by_side.share((windows.bases_WM, labels_W), devices)
    if dev is not None:
        dev_windows = position_limit.cut(dev.bases_NM, config, long_sequences, source=dev.path)
    trained = Trained(config, programs, states.params, np.zeros((num_draws, 0)))
    best, stop = _Best(num_draws), stop or StopRequest()
    with _progress(num_steps, f"fine-tuning {num_draws} x {draws_DN.shape[1]:,} rows") as bar:
        for rows_DSB in _epochs(draws_DN, windows, recipe, seed, numbers_D):
            states, losses_D = _train_epoch(programs, states, rows_DSB, data, bar, stop)
            if losses_D is None:
                break
            trained.losses_DE = np.column_stack([trained.losses_DE, losses_D])
            trained.params = states.params
            if dev is not None:
                best.offer(trained, _ask(trained, dev_windows), dev.labels_N, metric)
    if best.losses:
        trained.params = best.params
        trained.dev_losses_DE = np.column_stack(best.losses)
        trained.dev_scores_DE = np.column_stack(best.scores)
    return trained


def probabilities(
    trained: Trained, examples: Examples, *, long_sequences: str = "error"
) -> np.ndarray:
    """Returns what every draw's classifier says: float32 (D, N, C).

    Args:
      trained: from `train_draws`.
      examples: what is predicted.
      long_sequences: see `position_limit.cut`; the mean over the windows of a sequence.
    """
    windows = position_limit.cut(
        examples.bases_NM, trained.config, long_sequences, source=examples.path
    )
    return _ask(trained, windows)


def _ask(trained: Trained, windows: Windows) -> np.ndarray:
    """Returns probabilities (D, N, C), the mean over the windows of a sequence."""
    num_windows, num_draws = len(windows.bases_WM), len(trained.losses_DE)
    devices, each = jax.tree.leaves(trained.params)[0].shape[:2]
    num_tokens = position_limit.num_tokens(windows.bases_WM, trained.config)
    batch = min(max(1, _BATCH_TOKENS // (each * num_tokens)), num_windows)
    found = []
    with _progress(num_windows, "predicting", "sequences") as bar:
        for start in range(0, num_windows, batch):
            rows = np.minimum(np.arange(start, start + batch), num_windows - 1)
            bases_BM = side_by_side.share(windows.bases_WM[rows], devices)
            said = trained.programs.predict(trained.params, bases_BM)
            found.append(side_by_side.join(said, num_draws))
            bar.update(min(batch, num_windows - start))
    said_DWC = np.concatenate(found, axis=1)[:, :num_windows]
    return np.stack([position_limit.mean(said_WC, windows) for said_WC in said_DWC])


@dataclasses.dataclass
class _Best:
    """The parameters of each draw's best epoch so far."""

    num_draws: int
    params: dict | None = None
    losses: list[np.ndarray] = dataclasses.field(default_factory=list)  # (D,) an epoch
    scores: list[np.ndarray] = dataclasses.field(default_factory=list)  # the same

    def offer(
        self, trained: Trained, said_DNC: np.ndarray, labels_N: np.ndarray, metric: str
    ) -> None:
        """Takes the parameters of the draws whose loss on dev was never less."""
        scored = [metrics.score(labels_N, said_NC)[metric] for said_NC in said_DNC]
        said_DN = said_DNC[:, np.arange(len(labels_N)), labels_N].astype(np.float64)
        losses_D = -np.log(np.maximum(said_DN, _LEAST_PROBABILITY)).mean(axis=1)
        is_better_D = losses_D <= np.min([*self.losses, losses_D], axis=0)
        self.losses.append(losses_D)
        self.scores.append(np.array(scored))
        devices = jax.tree.leaves(trained.params)[0].shape[0]
        self.params = trained.programs.keep_better(
            self.params or trained.params,
            trained.params,
            side_by_side.split(is_better_D, devices),
        )


def _draw_keys(seed: int, numbers_D: np.ndarray) -> np.ndarray:
    """Returns uint32 (D, 2), the key of every draw."""
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    return np.asarray(jax.random.key_data(fold(jax.random.key(seed), numbers_D.astype(np.int32))))


def _epochs(
    draws_DN: np.ndarray, windows: Windows, recipe: Recipe, seed: int, numbers_D: np.ndarray
) -> Iterator[np.ndarray]:
    """Yields the windows of every epoch's steps: int32 (D, S, B), `NO_ROW` behind the last."""
    num_rows, batch_size = draws_DN.shape[1], recipe.batch_size
    steps_left, each = recipe.num_steps(num_rows), recipe.steps_per_epoch(num_rows)
    for epoch in range(recipe.num_epochs):
        if not steps_left:
            return
        order_DN = np.array(
            [np.random.default_rng((seed, n, epoch)).permutation(num_rows) for n in numbers_D]
        )
        rows_DN = np.take_along_axis(draws_DN, order_DN, axis=1)
        windows_DN = windows.first_N[rows_DN] + epoch % windows.count_N[rows_DN]
        filling = ((0, 0), (0, each * batch_size - num_rows))
        filled = np.pad(windows_DN, filling, constant_values=steps.NO_ROW)
        num_steps = min(each, steps_left)
        steps_left -= num_steps
        yield filled.reshape(-1, each, batch_size)[:, :num_steps].astype(np.int32)


def _train_epoch(
    programs: Programs,
    states: DrawState,
    rows_DSB: np.ndarray,
    data: tuple,
    bar: tqdm,
    stop: StopRequest,
) -> tuple[DrawState, np.ndarray | None]:
    """Returns the states after one epoch, and each draw's mean loss (D,); None where it stopped."""
    num_draws, num_steps, _ = rows_DSB.shape
    devices = states.key.shape[0]
    losses_D = np.zeros(num_draws)
    for start in range(0, num_steps, _CHUNK_STEPS):
        if stop.signal:
            return states, None
        chunk = rows_DSB[:, start : start + _CHUNK_STEPS]
        length = chunk.shape[1]
        filling = ((0, 0), (0, _CHUNK_STEPS - length), (0, 0))
        filled = np.pad(chunk, filling, constant_values=steps.NO_ROW)
        states, sums = programs.train(
            states, side_by_side.split(filled, devices), np.int32(length), *data
        )
        losses_D += side_by_side.join(sums, num_draws)
        bar.update(length)
    return states, losses_D / (rows_DSB != steps.NO_ROW).sum(axis=(1, 2))


def _progress(total: int, description: str, unit: str = "steps") -> tqdm:
    """Returns a bar with the time left, shown once the work takes seconds."""
    return terminal.bar(total=total, desc=description, unit=unit)
