"""Labelled tasks: what their files hold, what is to be known of it, and the draws of shots."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np

from cmgems_jax.downstream.tasks import folder as task_folder
from cmgems_jax.downstream.tasks import labels as task_labels
from cmgems_jax.downstream.tasks import metrics, table
from cmgems_jax.downstream.tasks.files import Examples
from cmgems_jax.downstream.tasks.folder import SPLITS
from cmgems_jax.downstream.tasks.settings import USUAL, TaskSettings
from cmgems_jax.downstream.tasks.table import Task
from cmgems_jax.errors import InputError
from cmgems_jax.genome import files as genome_files
from cmgems_jax.runtime import outputs

_NUM_CLASSES_NAMED = 20
UNSEEN = "the choice of the epoch does not see it"  # what a class that dev lacks means


class TooFewRows(InputError):
    """A class has fewer training rows than the shots that were asked for."""


@dataclasses.dataclass
class TaskData:
    """What a task's files hold; all splits are padded to one length."""

    task: Task
    train: Examples
    dev: Examples | None
    test: Examples
    label_names: list[str]  # of the classes 0, 1, ...
    notes: list[str]  # what is to be known of the data, one sentence each
    shots: int = 0  # rows per class of a draw; 0 = all rows

    @property
    def splits(self) -> dict[str, Examples]:
        """The splits that are there, by name."""
        return {name: rows for name in SPLITS if (rows := getattr(self, name)) is not None}


def load(
    task: Task | str | Path,
    data_dir: Path,
    settings: TaskSettings = USUAL,
    *,
    k: int,
    shots: int = 0,
) -> TaskData:
    """Returns the rows of a task; without a train file dev is trained on, and a note says so.

    Args:
      task: of the table, or a name or path for `table.find`.
      data_dir: holds fewshot/ and gue/, or the folders of the tasks.
      settings: of its columns, labels and metric, and what is dropped.
      k: bases per token; a shorter sequence is an error.
      shots: rows per class that will be drawn: chooses the smallest train file that
        has ten times as many of every class, else the largest. 0: all rows.

    Raises:
      InputError: no such folder or file, a bad row, labels or a metric that do not fit.
      TooFewRows: fewer than `shots` rows in some class.
    """
    if not isinstance(task, Task):
        task = table.find(str(task), data_dir)
    folder = table.folder_of(task, data_dir)
    if settings.labels not in ("", task_labels.CLASSES) and task.suite != "own":
        raise InputError(f"--labels={settings.labels}: the labels of task {task.name} are classes")
    splits, kind, label_names, others = task_folder.read(folder, settings, k=k, shots=shots)
    if task.num_classes not in (0, len(label_names)):
        raise InputError(
            f"{splits['train'].path}: {len(label_names)} classes ({', '.join(label_names)[:60]}); "
            f"expected {task.num_classes} in task {task.name}"
        )
    metric = settings.metric or task.metric or metrics.MAIN[kind]
    if metric not in metrics.OF_KIND[kind]:
        raise InputError(
            f"--metric={metric}: the labels of task {task.name} are {kind}; expected one of "
            f"{', '.join(metrics.OF_KIND[kind])}"
        )
    task = dataclasses.replace(task, num_classes=len(label_names), metric=metric, labels=kind)
    train, dev, test = map(splits.get, SPLITS)
    data = TaskData(task, train, dev, test, label_names, [], shots)
    if others:
        data.notes.append(f"files passed over: {task_folder.named(others)}")
    _note_labels(data)
    _note_duplicates(data, settings.dedupe)
    _check_shots(data)
    return data


def _note_labels(data: TaskData) -> None:
    """Notes the classes and their rows, and which splits or classes are not there."""
    if not Path(data.train.path).name.lower().startswith("train"):
        data.notes.append("no train split: trained on dev; not to be set beside published numbers")
    splits = data.splits
    if data.task.labels != task_labels.CLASSES:
        listed = task_folder.named(data.label_names, _NUM_CLASSES_NAMED)
        sizes = "/".join(f"{len(examples.labels_N):,}" for examples in splits.values())
        data.notes.append(f"{data.task.labels} ({listed}), rows of {'/'.join(splits)}: {sizes}")
        return
    counts = [_rows_per_class(examples, data) for examples in splits.values()]
    classes = [
        f"{name}: {'/'.join(f'{count:,}' for count in row)}"
        for name, *row in zip(data.label_names, *counts, strict=True)
    ]
    listed = task_folder.named(classes, _NUM_CLASSES_NAMED)
    data.notes.append(f"{len(data.label_names):,} classes, rows of {'/'.join(splits)}: {listed}")
    note_absent(data, data.test, "test", "AUROC is not defined")
    if data.dev is not None:
        note_absent(data, data.dev, "dev", UNSEEN)


def note_absent(data: TaskData, examples: Examples, split: str, what_follows: str) -> None:
    """Notes which classes have no row in a split, and what follows from it."""
    if data.task.labels != task_labels.CLASSES:
        return
    counts = _rows_per_class(examples, data)
    absent = [name for name, count in zip(data.label_names, counts, strict=True) if not count]
    if absent:
        names = task_folder.named(absent, _NUM_CLASSES_NAMED)
        data.notes.append(f"{split} has no row of class {names}: {what_follows}")


def _rows_per_class(examples: Examples, data: TaskData) -> list[int]:
    """Returns the number of rows of every class."""
    return np.bincount(examples.labels_N, minlength=data.task.num_classes).tolist()


def _note_duplicates(data: TaskData, dedupe: bool) -> None:
    """Counts repeated train rows and those that stand in test; drops them on demand."""
    labels_N = data.train.labels_N
    sequences, tested = (
        [row_M.tobytes() for row_M in rows.bases_NM] for rows in (data.train, data.test)
    )
    first_of: dict[bytes, int] = {}
    first_N = np.array([first_of.setdefault(one, row) for row, one in enumerate(sequences)])
    repeats_N = first_N != np.arange(len(sequences))
    known_tests = set(tested)
    in_test_N = np.array([sequence in known_tests for sequence in sequences])
    name = Path(data.train.path).name
    if repeats_N.any():
        is_other = (labels_N != labels_N[first_N]).reshape(len(labels_N), -1).any(axis=1)
        num_other = is_other.sum()
        under = f", {num_other:,} of them under another label" if num_other else ""
        data.notes.append(
            f"{repeats_N.sum():,} of {len(sequences):,} rows of {name} repeat an earlier one{under}"
        )
    if in_test_N.any():
        num_seen = sum(sequence in first_of for sequence in tested)
        remedy = "" if dedupe else "; --dedupe leaves them out there"
        data.notes.append(f"{num_seen:,} of {len(tested):,} test rows are in {name}{remedy}")
    dropped_N = repeats_N | in_test_N
    if dedupe and dropped_N.any():
        data.notes.append(f"dropped {dropped_N.sum():,} rows of {name} for that")
        data.train = data.train.take(~dropped_N)


def _check_shots(data: TaskData) -> None:
    """Refuses too few rows, and notes a pool so small that the draws share their rows."""
    are_classes = data.task.labels == task_labels.CLASSES
    strata_N = task_labels.strata(data.train.labels_N)
    counts_C = np.bincount(strata_N, minlength=data.task.num_classes if are_classes else 1)
    least, shots = int(counts_C.argmin()), data.shots
    if counts_C[least] < max(shots, 1):
        which = f" of class {data.label_names[least]}" if are_classes else ""
        raise TooFewRows(
            f"{data.train.path}: {counts_C[least]:,} rows{which}, "
            f"expected at least {max(shots, 1):,}; give fewer shots, or more rows"
        )
    if counts_C[least] < 2 * shots:
        rows = f"{shots:,} rows{' per class' if are_classes else ''}"
        data.notes.append(
            f"draws of {rows} from {counts_C[least]:,} are nearly the same rows: their spread says "
            "little"
        )


def draw_shots(labels_N: np.ndarray, shots: int, num_draws: int, seed: int) -> np.ndarray:
    """Returns which rows each draw trains on: as many of every class, none twice.

    Of numbers and several labels per row, which have no classes: so many in all. A draw depends
    on the seed and its number only, not on how many are drawn; the rows of fewer shots are among
    those of more. Returns int32 (D, shots * C), row numbers, increasing along a draw.

    Raises:
      ValueError: a class has fewer than `shots` rows.
    """
    labels_N = task_labels.strata(labels_N)
    members = [np.flatnonzero(labels_N == label) for label in range(int(labels_N.max()) + 1)]
    if not shots or min(map(len, members)) < shots:
        raise ValueError(f"{shots} shots of {min(map(len, members))} rows: expected 1 to all rows")
    draws = []
    for draw in range(num_draws):
        rng = np.random.default_rng((seed, draw))
        chosen = [rng.permutation(rows)[:shots] for rows in members]
        draws.append(np.sort(np.concatenate(chosen)))
    return np.array(draws, np.int32)


def shared_by_draws(labels_N: np.ndarray, shots: int) -> float:
    """Returns the part of a draw's rows that another draw is expected to have, too.

    Of 0 shots, which stand for every row in every draw, that is all.
    """
    counts_C = np.bincount(task_labels.strata(labels_N))
    return float((shots / counts_C[counts_C > 0]).mean()) if shots else 1.0


def keep_some_tests(data: TaskData, num_rows: int, seed: int) -> None:
    """Keeps at most `num_rows` rows of test, drawn by the seed alone, and notes it; 0 = all."""
    num_all = len(data.test.labels_N)
    if not num_rows or num_all <= num_rows:
        return
    chosen = np.sort(np.random.default_rng(seed).permutation(num_all)[:num_rows])
    data.test = data.test.take(chosen)
    data.notes.append(f"scored on {num_rows:,} of {num_all:,} test rows, the same for every line")


def digest(data: TaskData) -> str:
    """Returns the SHA-256 of the rows and their labels, wherever their files lie."""
    digested = hashlib.sha256(repr(data.label_names).encode())
    for examples in data.splits.values():
        digested.update(repr(examples.bases_NM.shape).encode())
        for column in (examples.bases_NM, examples.labels_N):
            digested.update(np.ascontiguousarray(column))
    return digested.hexdigest()


def write_manifest(path: Path, data: TaskData, draws_DN: np.ndarray) -> None:
    """Writes which rows (D, n) of `data.train` were drawn, as JSON, with the file's digest."""
    content = {
        "task": data.task.name,
        "file": data.train.path,
        "sha256": genome_files.sha256(data.train.path),
        "label_names": data.label_names,
        "rows": data.train.rows_N[draws_DN].tolist(),  # lines of the file; 1 is the header
    }
    path.parent.mkdir(exist_ok=True)
    with outputs.replaced_file(path) as part:
        part.write_text(json.dumps(content) + "\n")
