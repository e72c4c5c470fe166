"""What a suite compares: every line of its tables, as a function from data to probabilities."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence

import numpy as np

from cmgems_jax.downstream.evaluation import baselines as kmer_baselines
from cmgems_jax.downstream.evaluation import probe
from cmgems_jax.downstream.finetuning import loop as finetuning_loop
from cmgems_jax.downstream.tasks.tasks import Examples, TaskData
from cmgems_jax.errors import InputError
from cmgems_jax.pretraining import pretrained
from cmgems_jax.pretraining.pretrained import Pretrained

MODES = ("finetune", "probe")
BASELINE = "baseline"  # the mode of what is no transformer
ALL_ROWS = 0  # shots of a suite that trains on every row
SIMPLE_K = 3  # better than k chosen by cross-validation where there are few shots
GUE_SEED = 42  # as published (SPEC section 6)
_PROBE_BATCH = 64  # sequences
_TOLD_BYTES = 2**30

Run = Callable[[TaskData, np.ndarray, int, int], Sequence[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Method:
    """One line of the tables."""

    model: str
    mode: str
    run: Run  # (data, draws_DN, shots, number of the first draw) -> (N, C), one a draw
    draws_at_once: int | None = None  # None = all


def compared(
    models: Sequence[Pretrained],
    modes: Sequence[str],
    *,
    seed: int,
    long_sequences: str,
    peak_lr: float | None = None,
    draws_at_once: int | None = None,
    baselines: bool = True,
) -> list[Method]:
    """Returns the lines of the tables: the models, the first one untrained, the baselines.

    Args:
      models: at least one.
      modes: of MODES.
      seed: of training, and of the untrained model's initial values.
      long_sequences: what to do beyond the position table, see `finetune.finetune`.
      peak_lr: of fine-tuning, in place of the recipes'; then a mode of its own name.
      draws_at_once: how many are fine-tuned side by side, for memory; None = all.
      baselines: whether the untrained model and what is no transformer are among them.
    """
    lines = []
    names = {mode: mode for mode in MODES}
    if peak_lr:
        names["finetune"] = f"finetune, lr {peak_lr:g}"
    untrained = (pretrained.untrained(models[0], seed),) if baselines else ()
    for model in (*models, *untrained):
        tune = functools.partial(_tune, model, seed, long_sequences, peak_lr)
        look = functools.partial(_probe, model, long_sequences, {})
        ways = {"finetune": (tune, draws_at_once), "probe": (look, None)}
        lines += [Method(model.name, names[mode], *ways[mode]) for mode in modes]
    if not baselines:
        return lines
    for name, k in (("k chosen", None), (f"k={SIMPLE_K}", SIMPLE_K)):
        logistic = functools.partial(_logistic, seed, k)
        lines.append(Method(f"k-mer logistic regression, {name}", BASELINE, logistic))
    return [*lines, Method("majority class", BASELINE, _majority)]


def check_memory(
    data: TaskData,
    models: Sequence[Pretrained],
    modes: Sequence[str],
    *,
    shots: int,
    num_draws: int,
    baselines: bool,
) -> None:
    """Prints how much memory features or counts of many rows take, from 1 GiB on.

    Args:
      data: of the task.
      models: that are probed.
      modes: of MODES.
      shots: rows a class, or ALL_ROWS.
      num_draws: of them.
      baselines: whether k-mers are counted.

    Raises:
      InputError: it is more than the machine has.
    """
    num_train, num_bases = data.train.bases_NM.shape
    each = min(num_train, shots * data.task.num_classes) if shots else num_train
    needed = {}
    if "probe" in modes:
        num_rows = min(num_train, each * num_draws) + each + len(data.test.labels_N)
        size = max(probe.num_features(model.config) for model in models)
        needed["probe features"] = (num_rows, 4 * num_rows * size)
    if baselines:
        needed["k-mer logistic regression"] = (each, kmer_baselines.num_bytes(each, num_bases))
    held = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for what, (num_rows, num_bytes) in needed.items():
        text = f"{data.train.path}: {what} of {num_rows:,} rows: {num_bytes / 2**30:,.1f} GiB"
        if num_bytes > held:
            raise InputError(
                f"{text}, but this machine has {held / 2**30:,.1f}; give a smaller train file, "
                "fewer --shots or --test_rows"
            )
        if num_bytes >= _TOLD_BYTES:
            print(f"{text} of memory", flush=True)


def _tune(
    model: Pretrained,
    seed: int,
    long_sequences: str,
    peak_lr: float | None,
    data: TaskData,
    draws_DN: np.ndarray,
    shots: int,
    first_draw: int,
) -> Sequence[np.ndarray]:
    """Fine-tunes under the published recipe, but for the learning rate where one is given."""
    is_gue = shots == ALL_ROWS
    if not is_gue:
        recipe = finetuning_loop.fewshot_recipe(shots)
    elif data.task.suite == "gue":
        recipe = finetuning_loop.gue_recipe(data.task.name)
    else:
        recipe = finetuning_loop.own_recipe()
    recipe = dataclasses.replace(recipe, peak_lr=peak_lr or recipe.peak_lr)
    return finetuning_loop.finetune(
        model,
        data.train,
        draws_DN,
        data.test,
        data.task.num_classes,
        recipe,
        seed=GUE_SEED if is_gue else seed,
        dev=data.dev if is_gue else None,
        long_sequences=long_sequences,
        first_draw=first_draw,
    )


def _probe(
    model: Pretrained,
    long_sequences: str,
    tested: dict[str, np.ndarray],
    data: TaskData,
    draws_DN: np.ndarray,
    *_: int,
) -> Sequence[np.ndarray]:
    """Frozen features and logistic regression; `tested` keeps the last test file's features."""
    used_U = np.unique(draws_DN)
    train_UF = _features(model, long_sequences, data.train.take(used_U))
    if data.test.path not in tested:
        tested.clear()
        tested[data.test.path] = _features(model, long_sequences, data.test)
    places_DN = np.searchsorted(used_U, draws_DN)
    labels_U = data.train.labels_N[used_U]
    test_NF = tested[data.test.path]
    return probe.probe(train_UF, labels_U, places_DN, test_NF, data.task.num_classes)


def _features(model: Pretrained, long_sequences: str, examples: Examples) -> np.ndarray:
    """Returns the frozen features of every row."""
    return probe.features(
        model,
        examples.bases_NM,
        batch_size=_PROBE_BATCH,
        long_sequences=long_sequences,
        source=examples.path,
    )


def _logistic(
    seed: int, k: int | None, data: TaskData, draws_DN: np.ndarray, *_: int
) -> Sequence[np.ndarray]:
    """k-mer logistic regression; without k, it is chosen on the shots."""
    fitted = kmer_baselines.kmer_logistic(
        data.train, draws_DN, data.test, data.task.num_classes, seed=seed, k=k
    )
    return [probabilities_NC for probabilities_NC, _ in fitted]


def _majority(data: TaskData, draws_DN: np.ndarray, *_: int) -> Sequence[np.ndarray]:
    """Always the class that is the most frequent among the drawn rows."""
    return kmer_baselines.majority(data.train, draws_DN, data.test, data.task.num_classes)
