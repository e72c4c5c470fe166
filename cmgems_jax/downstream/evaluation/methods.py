"""What a suite compares: every line of its tables, as a function from data to probabilities."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence

import numpy as np

from cmgems_jax.downstream.evaluation import baselines as kmer_baselines
from cmgems_jax.downstream.evaluation.given_features import GivenFeatures
from cmgems_jax.downstream.evaluation.settings import EvaluationSettings
from cmgems_jax.downstream.finetuning import loop as finetuning_loop
from cmgems_jax.downstream.finetuning import probe, recipes
from cmgems_jax.downstream.tasks import labels
from cmgems_jax.downstream.tasks.files import Examples
from cmgems_jax.downstream.tasks.table import Task
from cmgems_jax.downstream.tasks.tasks import TaskData
from cmgems_jax.errors import InputError
from cmgems_jax.model import heads
from cmgems_jax.pretraining import pretrained
from cmgems_jax.pretraining.pretrained import Pretrained

PROBE = "probe"
BASELINE = "baseline"  # the mode of what is no transformer
MAJORITY = "majority class"
ALL_ROWS = 0  # shots of a suite that trains on every row
FEATURES_HEAD = "features head"  # in the names of modes
SIMPLE_K = 3  # better than k chosen by cross-validation where there are few shots
GUE_SEED = 42  # of --seed=0, as published (SPEC section 6)
_NOTED_BYTES = 2**30

Run = Callable[[TaskData, np.ndarray, int], Sequence[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Method:
    """One line of the tables."""

    model: str
    mode: str
    run: Run  # (data, draws_DN, number of the first draw) -> (N, C), one per draw
    draws_at_once: int | None = None  # None = all
    head: str = ""  # of what is fine-tuned
    kinds: tuple[str, ...] = labels.KINDS  # of the labels that it can predict


def compared(
    models: Sequence[Pretrained], given: Sequence[GivenFeatures], settings: EvaluationSettings
) -> list[Method]:
    """Returns the lines of the tables: models, the first one untrained, others', baselines.

    Fine-tuning is a mode of its own name for each kind of head and each learning rate that is
    not the recipe's; "finetune" alone is the published recipe over [CLS].
    """
    lines = []
    untrained = (pretrained.untrained(models[0], settings.seed),) if settings.baselines else ()
    for model in (*models, *untrained):
        if "finetune" in settings.modes:
            for head in settings.heads or heads.KINDS:
                run = functools.partial(_finetune, model, settings, head)
                at_once = settings.draws_at_once
                lines.append(Method(model.name, _mode(head, settings), run, at_once, head))
        if PROBE in settings.modes:
            frozen = functools.partial(
                probe.features,
                model,
                long_sequences=settings.long_sequences,
                strand=settings.read_strand,
            )
            weight_F = heads.feature_weights(model.config.model)
            lines.append(Method(model.name, PROBE, _Probe(frozen, weight_F)))
    lines += [Method(one.name, PROBE, _Probe(one.of)) for one in given]
    if not settings.baselines:
        return lines
    for name, k in (("k chosen", None), (f"k={SIMPLE_K}", SIMPLE_K)):
        run = functools.partial(_kmers, settings.seed, k)
        for how, kinds in (
            ("logistic", (labels.CLASSES, labels.MULTILABEL)), ("ridge", (labels.NUMBERS,))
        ):  # fmt: skip
            lines.append(Method(f"k-mer {how} regression, {name}", BASELINE, run, kinds=kinds))
    return [*lines, Method(MAJORITY, BASELINE, _majority, kinds=(labels.CLASSES,))]


def of_task(lines: Sequence[Method], task: Task, settings: EvaluationSettings) -> list[Method]:
    """Returns the lines of a task: where no kind of head is asked for, those of the task's own."""
    asked = ("", *(settings.heads or (recipes.default_head(task),)))
    return [line for line in lines if line.head in asked and task.labels in line.kinds]


def _mode(head: str, settings: EvaluationSettings) -> str:
    """Returns how a way of fine-tuning is called."""
    kind = f", {FEATURES_HEAD}" if head == heads.FEATURES else ""
    return f"finetune{kind}" + (f", lr {settings.peak_lr:g}" if settings.peak_lr else "")


def check_memory(
    data: TaskData, models: Sequence[Pretrained], settings: EvaluationSettings
) -> None:
    """Prints how much memory features or counts of many rows take, from 1 GiB on.

    Raises:
      InputError: it is more than the machine has.
    """
    num_train, num_bases = data.train.bases_NM.shape
    num_strata = len(np.unique(labels.strata(data.train.labels_N)))
    each = min(num_train, data.shots * num_strata) if data.shots else num_train
    needed = {}
    if PROBE in settings.modes:
        num_rows = min(num_train, each * settings.num_draws) + each + len(data.test.labels_N)
        size = max(heads.num_features(model.config.model) for model in models)
        needed["probe features"] = (num_rows, 4 * num_rows * size)
    if settings.baselines:
        needed["k-mer regression"] = (each, kmer_baselines.num_bytes(each, num_bases))
    held = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for what, (num_rows, num_bytes) in needed.items():
        text = f"{data.train.path}: {what} of {num_rows:,} rows: {num_bytes / 2**30:,.1f} GiB"
        if num_bytes > held:
            raise InputError(
                f"{text}, but this machine has {held / 2**30:,.1f}; give a smaller train file, "
                "fewer --shots or --test_rows"
            )
        if num_bytes >= _NOTED_BYTES:
            print(f"{text} of memory", flush=True)


def _finetune(
    model: Pretrained,
    settings: EvaluationSettings,
    head: str,
    data: TaskData,
    draws_DN: np.ndarray,
    first_draw: int,
) -> Sequence[np.ndarray]:
    """Fine-tunes under the recipe of the head, but for the learning rate where one is given."""
    recipe = recipes.choose(
        data.task,
        data.shots,
        head=head,
        width=model.config.model.hidden_size,
        num_rows=draws_DN.shape[1],
        peak_lr=settings.peak_lr or None,
        reverse_complement=settings.reverse_complement,
        strand=settings.read_strand,
    )
    has_all_rows = data.shots == ALL_ROWS  # then dev chooses the epoch
    trained = finetuning_loop.train_draws(
        model,
        data if has_all_rows else dataclasses.replace(data, dev=None),
        draws_DN,
        recipe,
        seed=settings.seed + (GUE_SEED if has_all_rows else 0),
        first_draw=first_draw,
        long_sequences=settings.long_sequences,
    )
    return finetuning_loop.probabilities(trained, data.test)


@dataclasses.dataclass
class _Probe:
    """Frozen features and logistic regression; the last test file's features are kept."""

    features: Callable[[Examples], np.ndarray]  # float32 (N, F) of every row
    weight_F: np.ndarray | float = 1.0  # see `probe.linear_layers`
    test_path: str = ""
    test_NF: np.ndarray | None = None

    def __call__(self, data: TaskData, draws_DN: np.ndarray, *_: int) -> Sequence[np.ndarray]:
        """Returns the probabilities of every draw."""
        used_U = np.unique(draws_DN)
        train = data.train.take(used_U)
        train_UF = self.features(train)
        if data.test.path != self.test_path:
            self.test_NF, self.test_path = self.features(data.test), data.test.path
        rows_DN = np.searchsorted(used_U, draws_DN)
        kind = (data.task.num_classes, data.task.labels)
        return probe.probe(train_UF, train.labels_N, rows_DN, self.test_NF, *kind, self.weight_F)


def _kmers(
    seed: int, k: int | None, data: TaskData, draws_DN: np.ndarray, _: int
) -> Sequence[np.ndarray]:
    """k-mer logistic (or ridge) regression; without k, it is chosen on the shots."""
    fitted = kmer_baselines.kmer_regression(data, draws_DN, seed=seed, k=k)
    return [predicted_NC for predicted_NC, _ in fitted]


def _majority(data: TaskData, draws_DN: np.ndarray, _: int) -> Sequence[np.ndarray]:
    """Always the class that is the most frequent among the drawn rows."""
    return kmer_baselines.majority(data, draws_DN)
