"""Classifiers trained from a pretrained encoder: all draws of the shots side by side.

Every draw has its own parameters, optimizer state, rows, order and dropout; one
compiled program (`draw_programs`) trains them all, split over the devices. What is
random follows from the seed and the draw's number, so a draw does not depend on the
others. Axes: D draws, N sequences, n rows of a draw, M bases, W windows, S steps,
B sequences of a step, C classes, E epochs.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import numpy as np
from tqdm import tqdm

from cmgems_jax import terminal
from cmgems_jax.config import Config
from cmgems_jax.downstream.finetuning import (
    position_limit,
    probe,
    side_by_side,
    steps,
    subspace,
)
from cmgems_jax.downstream.finetuning.position_limit import SequenceWindows
from cmgems_jax.downstream.finetuning.recipes import Recipe
from cmgems_jax.downstream.finetuning.steps import DrawState, Programs
from cmgems_jax.downstream.finetuning.subspace import Subspace
from cmgems_jax.downstream.finetuning.targets import Targets
from cmgems_jax.downstream.tasks import metrics
from cmgems_jax.downstream.tasks.files import Examples
from cmgems_jax.downstream.tasks.table import Task
from cmgems_jax.downstream.tasks.tasks import TaskData
from cmgems_jax.model import heads
from cmgems_jax.pretraining.pretrained import Pretrained
from cmgems_jax.runtime import parallel
from cmgems_jax.runtime.signals import StopRequest

_CHUNK_STEPS = 32  # per call of the program; progress is shown between calls
_BATCH_TOKENS = 32_768  # that a device sees at a time when it predicts; bounds memory


@dataclasses.dataclass
class TrainedDraws:
    """The classifiers of D draws, on the devices, and how their training went."""

    config: Config  # of the pretraining run
    task: Task
    recipe: Recipe
    targets: Targets
    long_sequences: str  # see `position_limit.cut`
    programs: Programs
    params: dict | Subspace  # of heads.Classifier, stacked (devices, draws each, ...)
    losses_DE: np.ndarray  # float64, mean over the rows of an epoch, nats
    dev_losses_DE: np.ndarray  # float64, nats, by which the epoch is chosen; (D, 0) without dev
    dev_scores_DE: np.ndarray  # float64, the task's metric of the same epochs

    @property
    def first_epoch(self) -> int:
        """The epoch of the first losses on dev: 0 where the start is a candidate, too."""
        return 0 if self.recipe.head == heads.FEATURES else 1

    @property
    def best_D(self) -> np.ndarray:
        """Which of the epochs on dev each draw keeps: the last of its least loss."""
        return self.dev_losses_DE.shape[1] - 1 - self.dev_losses_DE[:, ::-1].argmin(axis=1)

    def patient_D(self) -> np.ndarray:
        """Returns which draws may continue: their least loss on dev is of a late epoch."""
        num_draws, num_epochs = self.dev_losses_DE.shape
        if not self.recipe.patience or not num_epochs:
            return np.ones(num_draws, bool)
        return self.best_D >= num_epochs - self.recipe.patience

    def last_epoch(self) -> str:
        """Returns a line about the last epoch of the first draw."""
        epoch = self.first_epoch + self.dev_losses_DE.shape[1] - 1
        loss = f"train loss {self.losses_DE[0, -1]:.4f}" if epoch else "the probe"
        return (
            f"epoch {epoch} of {self.recipe.num_epochs}: {loss}, "
            f"dev loss {self.dev_losses_DE[0, -1]:.4f}, "
            f"dev {self.task.metric} {self.dev_scores_DE[0, -1]:.3f}"
        )

    def of_draw(self, draw: int) -> dict:
        """Returns the parameters of one draw as host arrays; outputs are in the labels' units."""
        each = jax.tree.leaves(self.params)[0].shape[1]
        own = jax.tree.map(lambda leaf: leaf[draw // each, draw % each], self.params)
        return self.targets.in_units(jax.tree.map(np.asarray, subspace.expand(own)))

    def offer(
        self, params: dict | Subspace, predicted_DNC: np.ndarray, labels_N: np.ndarray
    ) -> None:
        """Takes the parameters of the draws whose loss on dev was never less.

        A draw whose patience has ended goes on beside others, and takes nothing more.
        """
        kind = self.task.labels
        scores = [metrics.score(labels_N, own_NC, kind) for own_NC in predicted_DNC]
        scores_D = [own[self.task.metric] for own in scores]
        losses_D = self.targets.losses(predicted_DNC, labels_N)
        losses_D = np.where(self.patient_D(), losses_D, np.inf)
        is_best_D = (losses_D[:, None] <= self.dev_losses_DE).all(axis=1)
        best = self.params if self.dev_losses_DE.size else params  # copied: the next step takes it
        devices = jax.tree.leaves(params)[0].shape[0]
        self.params = self.programs.keep_better(
            best, params, side_by_side.split(is_best_D, devices)
        )
        self.dev_losses_DE = np.column_stack([self.dev_losses_DE, losses_D])
        self.dev_scores_DE = np.column_stack([self.dev_scores_DE, scores_D])


def train_draws(
    pretrained: Pretrained,
    data: TaskData,
    draws_DN: np.ndarray,
    recipe: Recipe,
    *,
    seed: int,
    first_draw: int = 0,
    long_sequences: str = "error",
    stop: StopRequest | None = None,
    report_epochs: bool = False,
) -> TrainedDraws:
    """Trains a classifier for every draw, all side by side, from the encoder and a new head.

    A head over [CLS] is a random one; a features head starts at the probe's solution (Kumar et
    al. 2022). With dev each draw keeps the epoch of the least mean loss on it, the later on a tie;
    a features head's start is a candidate, too. The loss tells epochs apart where a metric of few
    rows, or of a rare class, is the same for all; GUE's script chooses by it too.

    Args:
      data: of the task; test is not used.
      draws_DN: int (D, n), rows of `data.train` that a draw trains on.
      seed: with the draw's number, from `first_draw` on, of the rows' order, head and dropout.
      long_sequences: see `position_limit.cut`. Each epoch trains on a sequence's next window.
      stop: once it has a signal, the training ends, and the whole epochs count.
      report_epochs: prints a line per epoch, of the first draw.

    Raises:
      InputError: sequences are too long.
    """
    config, train, dev = pretrained.config, data.train, data.dev
    num_draws, num_rows = draws_DN.shape
    numbers_D = np.arange(first_draw, first_draw + num_draws)
    windows = position_limit.cut(train, config, long_sequences)
    position_limit.warn_of_new_positions(windows, config, source=train.path)
    if dev is not None:
        position_limit.refuse_long((dev,), config, long_sequences)
    keys_D = _draw_keys(seed, numbers_D)
    states, trained = _begin(pretrained, data, draws_DN, recipe, keys_D, long_sequences)
    labels_N = trained.targets.standardised(train.labels_N)
    labels_W = np.repeat(labels_N, windows.count_N, axis=0)
    devices = side_by_side.num_devices(num_draws)
    shared = side_by_side.share((windows.bases_WM, labels_W), devices)
    stop, title = stop or StopRequest(), f"fine-tuning {num_draws} x {num_rows:,} rows"
    with terminal.bar(total=recipe.num_steps(num_rows), desc=title, unit="steps") as bar:
        told = bar if report_epochs else None
        if trained.first_epoch == 0:
            _end_epoch(trained, states.params, dev, told)
        for rows_DSB in _epochs(draws_DN, windows, recipe, seed, numbers_D):
            states, losses_D = _train_epoch(trained.programs, states, rows_DSB, shared, bar, stop)
            if losses_D is None:
                break
            trained.losses_DE = np.column_stack([trained.losses_DE, losses_D])
            _end_epoch(trained, states.params, dev, told)
            if not trained.patient_D().any():
                break
    return trained


def _begin(
    pretrained: Pretrained,
    data: TaskData,
    draws_DN: np.ndarray,
    recipe: Recipe,
    keys_D: np.ndarray,
    long_sequences: str,
) -> tuple[DrawState, TrainedDraws]:
    """Returns the states of the draws before the first step, and their record, still empty."""
    config, task = pretrained.config, data.task
    num_draws, num_rows = draws_DN.shape
    devices = side_by_side.num_devices(num_draws)
    split = functools.partial(side_by_side.split, num_devices=devices)
    programs = steps.make(config, task, recipe, recipe.num_steps(num_rows), devices)
    targets = Targets.of(task.labels, task.num_classes, data.train.labels_N)
    head_params = {}
    if recipe.head == heads.FEATURES:
        head_params = _probes(pretrained, data, draws_DN, targets, recipe.strand, long_sequences)
    states = programs.init(
        side_by_side.share(pretrained.params, devices),
        split(keys_D),
        jax.tree.map(split, head_params),
    )
    empty = np.zeros((3, num_draws, 0))
    return states, TrainedDraws(
        config, task, recipe, targets, long_sequences, programs, states.params, *empty
    )


def _end_epoch(
    trained: TrainedDraws, params: dict | Subspace, dev: Examples | None, bar: tqdm | None
) -> None:
    """Takes the parameters where dev, if there is one, finds them better; prints a line."""
    if dev is None:
        trained.params = params
        return
    trained.offer(params, probabilities(trained, dev, params), dev.labels_N)
    if bar is not None:
        terminal.say(bar, trained.last_epoch())


def _probes(
    pretrained: Pretrained,
    data: TaskData,
    draws_DN: np.ndarray,
    targets: Targets,
    strand: str,
    long_sequences: str,
) -> dict:
    """Returns the parameters of every draw's features head: the probe's solution."""
    used_U = np.unique(draws_DN)
    train = data.train.take(used_U)
    layers = probe.linear_layers(
        probe.features(pretrained, train, long_sequences=long_sequences, strand=strand),
        train.labels_N,
        np.searchsorted(used_U, draws_DN),
        targets,
        heads.feature_weights(pretrained.config.model),
    )
    kernel_DFC, bias_DC = (layer.astype(np.float32) for layer in layers)
    return {"classifier": {"kernel": kernel_DFC, "bias": bias_DC}}


def probabilities(
    trained: TrainedDraws, examples: Examples, params: dict | Subspace | None = None
) -> np.ndarray:
    """Returns every draw's probabilities, or numbers, float32 (D, N, C).

    Those of a sequence in windows are means over them. Of a features head they are of the mean
    outputs, which are its outputs of the mean features: so it starts where the probe is.
    `params` are in place of those that were kept.
    """
    params = trained.params if params is None else params
    windows = position_limit.cut(examples, trained.config, trained.long_sequences)
    num_windows, num_draws = len(windows.bases_WM), len(trained.losses_DE)
    devices, each = jax.tree.leaves(params)[0].shape[:2]
    num_tokens = position_limit.num_tokens(windows.bases_WM, trained.config)
    batch_size = min(max(1, _BATCH_TOKENS // (each * num_tokens)), num_windows)

    def predict(bases_BM: np.ndarray) -> np.ndarray:
        shared_BM = side_by_side.share(bases_BM, devices)
        logits = trained.programs.predict(params, shared_BM)
        return side_by_side.join(logits, num_draws).swapaxes(0, 1)

    logits_WDC = parallel.map_rows(
        predict, windows.bases_WM, batch_size=batch_size, description="predicting"
    )
    logits_DWC, read = logits_WDC.swapaxes(0, 1), trained.targets.predictions
    if trained.recipe.head == heads.FEATURES:
        return np.stack([read(position_limit.mean(one_WC, windows)) for one_WC in logits_DWC])
    return np.stack([position_limit.mean(read(one_WC), windows) for one_WC in logits_DWC])


def _draw_keys(seed: int, numbers_D: np.ndarray) -> np.ndarray:
    """Returns uint32 (D, 2), the key of every draw."""
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    return np.asarray(jax.random.key_data(fold(jax.random.key(seed), numbers_D.astype(np.int32))))


def _epochs(
    draws_DN: np.ndarray, windows: SequenceWindows, recipe: Recipe, seed: int, numbers_D: np.ndarray
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
    shared: tuple,
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
            states, side_by_side.split(filled, devices), np.int32(length), *shared
        )
        losses_D += side_by_side.join(sums, num_draws)
        bar.update(length)
    return states, losses_D / (rows_DSB != steps.NO_ROW).sum(axis=(1, 2))
