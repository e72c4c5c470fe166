"""A file of labelled sequences: TSV or CSV, raw bases or k-mers with blanks between.

Published sets come in both forms, quoted or not, packed or not; every form gives
the same base codes.
"""

import csv
import dataclasses
import io
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cmgems_jax.downstream.tasks.settings import USUAL, TaskSettings
from cmgems_jax.errors import InputError
from cmgems_jax.genome import fasta, input_files, vocabulary

SEQUENCE_COLUMNS = ("sequence", "seq", "dna", "text")
LABEL_COLUMNS = ("label", "labels", "class", "target", "y")
_DELIMITERS = "\t,;"
# IUPAC nucleotide letters, and the gaps of alignments.
_LETTERS = bytes(
    np.flatnonzero(fasta.AMBIGUOUS_LETTERS | (vocabulary.CODE_OF_LETTER != vocabulary.AMBIGUOUS))
)
_INTEGER = re.compile(r"([+-]?[0-9]{1,1000})(?:\.0*)?")  # int() refuses some thousand digits
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+[.,]?[0-9]*|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?")


@dataclasses.dataclass
class TextRows:
    """The rows of a file, before their labels are numbered."""

    path: str
    bases_NM: np.ndarray  # uint8 (N, longest), base codes, `vocabulary.PADDING` behind
    label_texts: list[str]  # one per row; of several columns with ; between
    rows_N: np.ndarray  # int32 (N,), lines of the file; 1 is the first
    label_columns: list[str]  # their headers, where there are any

    def labels(self) -> Iterator[tuple[str, str]]:
        """Yields the label of every row behind its place, as messages name it."""
        for line, text in zip(self.rows_N, self.label_texts, strict=True):
            yield f"{self.path}: row {line}", text


@dataclasses.dataclass
class Examples:
    """The labelled sequences of one split."""

    bases_NM: np.ndarray  # uint8 (N, M), base codes, `vocabulary.PADDING` behind
    labels_N: np.ndarray  # int32 (N,), classes in [0, C); numbers or marks: float32 (N, C)
    rows_N: np.ndarray  # int32 (N,), lines of the file; 1 is the header
    path: str

    def take(self, chosen: np.ndarray) -> "Examples":
        """Returns the rows that an index or mask chooses."""
        return Examples(
            self.bases_NM[chosen], self.labels_N[chosen], self.rows_N[chosen], self.path
        )


def read_examples(
    path: Path | str, settings: TaskSettings = USUAL, *, min_bases: int = 1
) -> TextRows:
    """Returns the rows of a labelled file, TSV or CSV, plain or gzip: at least one.

    Columns are found by their names (`SEQUENCE_COLUMNS`, `LABEL_COLUMNS`, or those of the
    settings), others are ignored; a file without header has two columns, sequence and label.
    Lower case counts as upper case, U as T; a letter that is no single base becomes
    `vocabulary.AMBIGUOUS`. What the labels stand for: `labels`. Where each row has several, by
    the settings, it may have none.

    Raises:
      InputError: naming file and row: no such file, damaged gzip, not text, no row,
        wrong columns, no label, a sequence that is empty, shorter than `min_bases` (one k-mer) or
        no nucleotides, or k-mers that do not overlap.
    """
    path = str(path)
    rows = _rows(path, _text(path))
    line, first = next(rows)
    sequence_column, label_columns, is_header = _columns(path, first, settings)
    if not is_header:
        rows = itertools.chain([(line, first)], rows)
    sequences: list[bytes] = []
    label_texts: list[str] = []
    lines: list[int] = []
    for line, fields in rows:
        where = f"{path}: row {line}"
        label = ";".join(fields[column] for column in label_columns)
        sequences.append(_letters(where, fields[sequence_column].encode(), min_bases))
        if not label and settings.labels != "multilabel":
            raise InputError(f"{where}: no label; expected one behind every sequence")
        label_texts.append(label)
        lines.append(line)
    if not lines:
        raise InputError(f"{path}: no row; expected columns sequence and label, and rows")
    headers = [first[column] for column in label_columns] if is_header else []
    return TextRows(path, _encode(sequences), label_texts, np.array(lines, np.int32), headers)


def class_name(label: str, where: str) -> str:
    """Returns the name of the class that a label stands for.

    Programs write one whole number in several ways (`1`, `01`, `+1`, `1.0`), and the files of a
    task come from several programs: each is the class `1`. Any other text is its own name.

    Raises:
      InputError: a decimal. That is a measurement, and every value would be a class.
    """
    whole = _INTEGER.fullmatch(label)
    if whole:
        return str(int(whole[1]))
    if _DECIMAL.fullmatch(label):
        raise InputError(
            f"{where}: label {label!r} is a decimal number; expected classes: give "
            "--labels=numbers to regress (decimals as 2.4), cut the values into classes (low, "
            "high), or write them with a letter (c0.5) if they are names"
        )
    return label


def _text(path: str) -> str:
    """Returns the file's content, unpacked."""
    content = input_files.read_unpacked(path, "TSV or CSV")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: byte {error.start + 1:,} is no UTF-8 text; expected TSV or CSV "
            "(a spreadsheet? export it as CSV UTF-8)"
        ) from None
    if not text.strip():
        raise InputError(f"{path}: empty; expected columns sequence and label, and rows")
    if "\0" in text:
        raise InputError(f"{path}: holds zero bytes; expected TSV or CSV text in UTF-8")
    return text


def _rows(path: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yields (line, fields) of every row, stripped; blank lines are passed over."""
    head = text.lstrip().partition("\n")[0]
    # A tab stands in no sequence and in no label; several labels have semicolons between.
    delimiter = "\t" if "\t" in head else max(_DELIMITERS, key=head.count)
    if delimiter not in head:
        raise InputError(
            f"{path}: row 1: one column ({head.strip()[:30]!r}); expected sequence and label "
            "with a tab or a comma between"
        )
    csv.field_size_limit(sys.maxsize)  # its 131,072 letters are fewer than a long locus has
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = num_columns = 0
    try:
        for row in filter(None, reader):
            line, num_columns = reader.line_num, num_columns or len(row)
            if len(row) != num_columns:
                raise InputError(
                    f"{path}: row {line}: {len(row)} columns, expected {num_columns} as in row 1"
                )
            yield line, [field.strip() for field in row]
    except csv.Error as error:
        raise InputError(
            f"{path}: behind row {line or 1}: {error}; is a quotation mark left open?"
        ) from None


def _columns(
    path: str, first: Sequence[str], settings: TaskSettings
) -> tuple[int, list[int], bool]:
    """Returns the indices of the sequence and the labels, and whether the first row is a header."""
    wanted = [(settings.sequence_column, SEQUENCE_COLUMNS)]
    wanted += [(name, LABEL_COLUMNS) for name in settings.label_columns]
    matches = [
        [n for n, name in enumerate(first) if (name == own if own else name.lower() in usual)]
        for own, usual in wanted
    ]
    if all(len(indices) == 1 for indices in matches):
        return matches[0][0], [indices[0] for indices in matches[1:]], True
    is_usual = not (settings.sequence_column or settings.label_column)
    letters = first[0].replace(" ", "").encode()
    is_sequence = bool(letters) and not letters.translate(None, _LETTERS)
    if is_usual and len(first) == 2 and not any(matches) and is_sequence:
        return 0, [1], False
    raise InputError(
        f"{path}: row 1: columns {', '.join(map(repr, first))[:80]}; expected a header with one "
        f"column {settings.sequence_column or 'sequence'!r} and one "
        f"{settings.label_column or 'label'!r}"
        f"{', or a sequence and a label' if is_usual else ''}; --sequence_column and "
        "--label_column name others"
    )


def _letters(where: str, text: bytes, min_bases: int) -> bytes:
    """Returns the bases of a sequence, or of k-mers with blanks between."""
    letters = _join_kmers(where, text) if b" " in text else text
    if len(letters) < min_bases:
        what = f"{len(letters)} bases" if letters else "no sequence"
        raise InputError(f"{where}: {what}, expected at least {min_bases} (one k-mer)")
    if others := letters.translate(None, _LETTERS):
        raise InputError(
            f"{where}: letter {others.decode('utf-8', 'replace')[0]!r}: expected nucleotides (A C "
            "G T U N and IUPAC codes); is this protein, or another column?"
        )
    return letters


def _join_kmers(where: str, text: bytes) -> bytes:
    """Returns the bases of overlapping k-mers (stride 1) with blanks between."""
    words = text.split()
    k = len(words[0])
    odd = next((index for index, word in enumerate(words) if len(word) != k), None)
    if odd is not None:
        raise InputError(
            f"{where}: k-mer {odd + 1} has {len(words[odd])} letters, the first has {k}; "
            "expected k-mers of one length, or bases without blanks"
        )
    words_WK = np.frombuffer(b"".join(words).upper(), np.uint8).reshape(-1, k)
    differs = (words_WK[1:, :-1] != words_WK[:-1, 1:]).any(axis=1)
    if differs.any():
        second = int(differs.argmax()) + 1
        raise InputError(
            f"{where}: k-mers {second} and {second + 1} ({words[second - 1].decode()[:12]} "
            f"{words[second].decode()[:12]}) do not overlap by k-1 bases; expected k-mers of "
            "stride 1, or bases without blanks"
        )
    return words[0] + words_WK[1:, -1].tobytes()


def _encode(sequences: list[bytes]) -> np.ndarray:
    """Returns uint8 (N, longest), `vocabulary.PADDING` behind."""
    lengths_N = np.array([len(letters) for letters in sequences])
    bases_NM = np.full((len(sequences), lengths_N.max()), vocabulary.PADDING, np.uint8)
    is_base_NM = np.arange(bases_NM.shape[1]) < lengths_N[:, None]
    bases_NM[is_base_NM] = vocabulary.encode(b"".join(sequences))
    return bases_NM
