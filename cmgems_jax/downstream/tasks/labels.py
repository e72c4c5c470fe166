"""What the labels of a task are: classes, numbers to regress, or several labels per row.

Axes: N rows, C classes, numbers or labels.
"""

import re
from collections.abc import Sequence

import numpy as np

from cmgems_jax.downstream.tasks.files import TextRows, class_name
from cmgems_jax.errors import InputError

CLASSES, NUMBERS, MULTILABEL = KINDS = ("classes", "numbers", "multilabel")
_FEW_CLASSES = 20  # that many are never taken for numbers to regress
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"[+-]?[0-9]+(?:\.0*)?")  # as programs write a whole number
_SEPARATORS = re.compile(r"[;|\s]+")  # between the numbers or labels of a row


def kind_of(train: TextRows, asked: str = "") -> str:
    """Returns the kind of the labels: what is asked for, or what the train file plainly has.

    A decimal among them makes them numbers. Several columns of 0 and 1 are labels of their own,
    several of other numbers are numbers. All else is classes.

    Raises:
      InputError: several columns of text, or whole numbers too many to be classes.
    """
    if asked:
        return asked
    rows = [_SEPARATORS.split(text) for text in train.label_texts]
    if len(train.label_columns) > 1:
        return MULTILABEL if {item for items in rows for item in items} <= {"0", "1"} else NUMBERS
    numeric = [items for items in rows if all(map(_NUMBER.fullmatch, items))]
    if not all(_WHOLE.fullmatch(item) for items in numeric for item in items):
        _numbers(train)  # names the row that has none
        return NUMBERS
    num_names, num_rows = len(set(train.label_texts)), len(rows)
    if num_names > max(_FEW_CLASSES, num_rows // 2):
        raise InputError(
            f"{train.path}: {num_names:,} labels in {num_rows:,} rows; expected classes, or "
            "--labels=numbers (to regress) or multilabel (several per row)"
        )
    return CLASSES


def names_of(train: TextRows, kind: str) -> list[str]:
    """Returns what the classes, numbers or labels 0, 1, ... are called.

    Classes and labels: integers by value, others by letter. Columns of their own: their names.
    """
    if kind == CLASSES:
        names = {class_name(text, where) for where, text in train.labels()}
        if len(names) == 1:
            raise InputError(f"{train.path}: only the label {names.pop()!r}; expected two or more")
        return _ordered(names)
    if len(train.label_columns) > 1:
        return train.label_columns
    if kind == NUMBERS:
        num_numbers = _numbers(train).shape[1]
        name = (train.label_columns or ["value"])[0]
        return [f"{name}_{n}" for n in range(1, num_numbers + 1)] if num_numbers > 1 else [name]
    names = {item for text in train.label_texts for item in _items(text)}
    if not names:
        raise InputError(f"{train.path}: no row has a label; expected names with ; between")
    return _ordered(names)


def values(rows: TextRows, kind: str, names: Sequence[str]) -> np.ndarray:
    """Returns the labels of a file: int32 (N,) classes, else float32 (N, C).

    Raises:
      InputError: naming the row: a label that train does not have, text among numbers, or
        another number of them than in train.
    """
    if kind == NUMBERS:
        return _numbers(rows, len(names)).astype(np.float32)
    if kind == MULTILABEL and len(rows.label_columns) > 1:
        numbers_NC = _numbers(rows, len(names))
        for (where, text), is_mark_C in zip(
            rows.labels(), np.isin(numbers_NC, (0, 1)), strict=True
        ):
            if not is_mark_C.all():
                raise InputError(f"{where}: labels {text!r}; expected 0 or 1 in every column")
        return numbers_NC.astype(np.float32)
    index = {name: number for number, name in enumerate(names)}
    marks_NC = np.zeros((len(rows.label_texts), len(names)), np.float32)
    for number, (where, text) in enumerate(rows.labels()):
        for item in [class_name(text, where)] if kind == CLASSES else _items(text):
            if item not in index:
                raise InputError(
                    f"{where}: label {item!r} is not in train; expected one of "
                    f"{', '.join(names)[:80]}"
                )
            marks_NC[number, index[item]] = 1
    return marks_NC.argmax(axis=1).astype(np.int32) if kind == CLASSES else marks_NC


def strata(labels_N: np.ndarray) -> np.ndarray:
    """Returns what draws and held-out rows keep the shares of: the classes, else nothing."""
    return labels_N if labels_N.ndim == 1 else np.zeros(len(labels_N), np.int32)


def _ordered(names: set[str]) -> list[str]:
    """Returns integers by value, others by letter."""
    if all(re.fullmatch(r"[+-]?[0-9]+", name) for name in names):
        return sorted(names, key=int)
    return sorted(names)


def _items(text: str) -> list[str]:
    """Returns the names of a row's labels, of which there may be none."""
    return [item for item in _SEPARATORS.split(text) if item]


def _numbers(rows: TextRows, count: int | None = None) -> np.ndarray:
    """Returns the numbers of every row, float64 (N, count); None: as many as in the first row."""
    numbers = []
    for where, text in rows.labels():
        items = _SEPARATORS.split(text)
        count = count or len(items)
        wrong = next((item for item in items if not _NUMBER.fullmatch(item)), None)
        if wrong is not None:
            raise InputError(
                f"{where}: {wrong!r} is no number, others are; expected numbers "
                "as 2.4 or 1e-3, with ; between several, or --labels=classes"
            )
        if len(items) != count:
            raise InputError(f"{where}: {len(items)} numbers, expected {count}")
        numbers.append([float(item) for item in items])
    return np.array(numbers)
