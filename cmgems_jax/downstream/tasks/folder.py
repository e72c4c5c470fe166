"""The folder of a task: its files, the train file that serves the shots, numbered classes.

The published few-shot sets have a train file for every number of shots
(train_10.tsv.gz, ...), some of them ten draws pooled; GUE and own tasks have
train, dev and test.
"""

import collections
import functools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cmgems_jax.downstream.tasks import files as task_files
from cmgems_jax.downstream.tasks import labels
from cmgems_jax.downstream.tasks.files import Examples, TextRows
from cmgems_jax.downstream.tasks.settings import TaskSettings
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary

SPLITS = ("train", "dev", "test")
# A pool of ten times the shots is what the published files hold where they are pooled;
# from a smaller one the draws are nearly the same rows.
_POOLED_DRAWS = 10
_FILE_NAME = re.compile(
    r"(train|dev|val|valid|validation|test)(?:_(\d+))?\.(?:tsv|csv)(?:\.gz)?", re.IGNORECASE
)


def read(
    folder: Path, settings: TaskSettings, *, k: int, shots: int
) -> tuple[dict[str, Examples], str, list[str], list[str]]:
    """Returns the splits of a folder; without a train file, train is what dev holds.

    Args:
      folder: with train (or train_10, train_50, ...) or dev (or val, valid, validation), and
        test.
      settings: of the files' columns and labels.
      k: the fewest bases of a sequence.
      shots: chooses the smallest train file with ten times as many rows of every
        class, else the largest. 0: train, or the largest.

    Returns:
      Splits "train", "test" and perhaps "dev", of one padded length; the kind of the labels;
      their names (`labels.names_of`); and the names of the folder's other files.

    Raises:
      InputError: a missing file, a bad row, or labels that do not fit.
    """
    files, others = split_files(folder)
    read_file = functools.partial(task_files.read_examples, settings=settings, min_bases=k)
    rows = {"train": _read_train(files["train"] or files["dev"], shots, read_file)}
    if files["train"] and files["dev"]:
        rows["dev"] = read_file(files["dev"][0])
    rows["test"] = read_file(files["test"][0])
    kind = labels.kind_of(rows["train"], settings.labels)
    label_names = labels.names_of(rows["train"], kind)
    longest = max(one.bases_NM.shape[1] for one in rows.values())
    splits = {split: _examples(one, kind, label_names, longest) for split, one in rows.items()}
    return splits, kind, label_names, others


def split_files(folder: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """Returns the files of every split, train_10 before train_100 before train, and the others."""
    by_size: dict[str, dict[float, Path]] = {split: {} for split in SPLITS}
    others = []
    for path in sorted(folder.iterdir()):
        match = _FILE_NAME.fullmatch(path.name)
        name = match[1].lower() if match else ""
        split = "dev" if name.startswith("val") else name
        if not split or (match[2] and split != "train"):
            if not path.name.startswith("."):
                others.append(path.name)
            continue
        size = float(match[2] or math.inf)
        if size in by_size[split]:
            raise InputError(
                f"{folder}: both {by_size[split][size].name} and {path.name}; keep one of them"
            )
        by_size[split][size] = path
    if not by_size["test"] or not (by_size["train"] or by_size["dev"]):
        missing = "test" if not by_size["test"] else "train (or dev)"
        passed = f"; there are {named(others)}" if others else ""
        raise InputError(
            f"{folder}: no file for {missing}; expected {missing.split()[0]}.tsv or .csv, plain "
            f"or .gz, with columns sequence and label{passed}"
        )
    files = {split: [paths[size] for size in sorted(paths)] for split, paths in by_size.items()}
    return files, others


def named(names: Sequence[str], num_named: int = 5) -> str:
    """Returns the first of the names, and how many more there are."""
    more = f" and {len(names) - num_named:,} more" if len(names) > num_named else ""
    return ", ".join(names[:num_named]) + more


def _read_train(paths: list[Path], shots: int, read_file: Callable[[Path], TextRows]) -> TextRows:
    """Returns the rows of the train file that serves so many shots; `paths` by size."""
    if not shots:
        return read_file(paths[-1])
    for path in paths:
        rows = read_file(path)
        if min(collections.Counter(rows.label_texts).values()) >= _POOLED_DRAWS * shots:
            break
    return rows


def _examples(rows: TextRows, kind: str, label_names: Sequence[str], longest: int) -> Examples:
    """Returns the rows with numbered labels, padded to the longest sequence of the task."""
    labels_N = labels.values(rows, kind, label_names)
    missing = longest - rows.bases_NM.shape[1]
    bases_NM = np.pad(rows.bases_NM, ((0, 0), (0, missing)), constant_values=vocabulary.PADDING)
    return Examples(bases_NM, labels_N, rows.rows_N, rows.path)
