"""Two sets of sequences to tell apart: positives and negatives."""

import dataclasses
from pathlib import Path

import numpy as np

from cmgems_jax.downstream.finetuning.classifier import TrainedClassifier
from cmgems_jax.downstream.inference import predict
from cmgems_jax.downstream.tasks import files as task_files
from cmgems_jax.downstream.tasks import labels, tasks
from cmgems_jax.downstream.tasks.settings import USUAL, TaskSettings
from cmgems_jax.errors import InputError
from cmgems_jax.genome import files as genome_files
from cmgems_jax.genome import input_files, vocabulary

_MIN_SIDE = 5  # sequences; Fisher's test of fewer can show nothing


@dataclasses.dataclass
class Contrast:
    """Sequences, each positive or negative."""

    bases_NM: np.ndarray  # uint8 (N, M), `vocabulary.PADDING` behind
    is_positive_N: np.ndarray  # bool (N,)
    names: list[str]  # (N,), unique

    @property
    def sizes(self) -> dict[str, int]:
        """How many sequences there are of either side."""
        num_positives = int(self.is_positive_N.sum())
        return {"positives": num_positives, "negatives": len(self.names) - num_positives}


def find_label(classifier: TrainedClassifier, name: str) -> int:
    """Returns the index of a class by its name, the last one for ""; else raises `InputError`."""
    if classifier.labels != labels.CLASSES:
        raise InputError(
            f"a classifier of {classifier.labels}; expected one of classes to contrast"
        )
    return predict.class_number(classifier, name, "label")


def check_sources(task: str, positives: genome_files.Paths, negatives: genome_files.Paths) -> None:
    """Raises `InputError` unless there is a task, or files of both sides, and not both."""
    sides = [bool(input_files.listed(paths)) for paths in (positives, negatives)]
    if any(sides) if task else not all(sides):
        raise InputError(
            "give either --positives=FASTA and --negatives=FASTA, or --task=NAME and --data_dir=DIR"
        )


def from_fasta(positives: genome_files.Paths, negatives: genome_files.Paths) -> Contrast:
    """Returns the records of two lists of files.

    Raises:
      InputError: a bad file, a record's name twice, or too few.
    """
    positives, negatives = input_files.listed(positives), input_files.listed(negatives)
    records = list(genome_files.read_records([*positives, *negatives]))
    num_positives = sum(1 for _ in genome_files.read_records(positives))
    longest = max(len(bases) for _, bases in records)
    bases_NM = np.full((len(records), longest), vocabulary.PADDING, np.uint8)
    for row, (_, bases) in enumerate(records):
        bases_NM[row, : len(bases)] = bases
    names = [name for name, _ in records]
    return _checked(Contrast(bases_NM, np.arange(len(names)) < num_positives, names))


def from_task(
    name: str,
    data_dir: Path,
    classifier: TrainedClassifier,
    label: int,
    settings: TaskSettings = USUAL,
) -> Contrast:
    """Returns one class of a task's test rows against all others; rows are `row_LINE`.

    Args:
      name: of the task, or the path of its folder.
      data_dir: holds fewshot/ and gue/.
      label: index of the class.

    Raises:
      InputError: no such task, a bad row, other classes, or too few rows.
    """
    data = tasks.load(name, data_dir, settings, k=classifier.config.tokens.k)
    label_names = classifier.label_names
    if data.label_names != [task_files.class_name(own, "classifier") for own in label_names]:
        raise InputError(
            f"--task={name}: its classes are {', '.join(data.label_names)}, the classifier's "
            f"{', '.join(label_names)}; give the task that it was trained on"
        )
    rows = [f"row_{row}" for row in data.test.rows_N.tolist()]
    return _checked(Contrast(data.test.bases_NM, data.test.labels_N == label, rows))


def limit(contrast: Contrast, num_each: int) -> Contrast:
    """Returns a random sample of at most `num_each` sequences per side, in their order."""
    rng = np.random.default_rng(0)
    sides = [np.flatnonzero(contrast.is_positive_N == side) for side in (True, False)]
    kept = np.sort(np.concatenate([rng.permutation(rows)[:num_each] for rows in sides]))
    return Contrast(
        contrast.bases_NM[kept],
        contrast.is_positive_N[kept],
        [contrast.names[row] for row in kept.tolist()],
    )


def _checked(contrast: Contrast) -> Contrast:
    """Raises `InputError` where one side is too small."""
    for side, count in contrast.sizes.items():
        if count < _MIN_SIDE:
            raise InputError(
                f"{count} {side}; expected at least {_MIN_SIDE} positives and {_MIN_SIDE} "
                "negatives, and some hundreds to find anything"
            )
    return contrast
