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

from cmgems_jax.downstream.tasks.settings import USUAL_COLUMNS, Columns
from cmgems_jax.errors import InputError
from cmgems_jax.genome import fasta, input_files, vocabulary

SEQUENCE_COLUMNS = ("sequence", "seq", "dna", "text")
LABEL_COLUMNS = ("label", "labels", "class", "target", "y")
_DELIMITERS = "\t,;"
# IUPAC nucleotide letters, and the gaps of alignments; in blank-separated text also blanks.
_LETTERS = fasta.AMBIGUOUS_LETTERS | (vocabulary.CODE_OF_LETTER != vocabulary.AMBIGUOUS)
_INTEGER = re.compile(r"([+-]?[0-9]{1,1000})(?:\.0*)?")  # int() refuses some thousand digits
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+[.,]?[0-9]*|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?")


@dataclasses.dataclass
class TextRows:
    """The rows of a file, before their labels are numbered."""

    path: str
    bases_NM: np.ndarray  # uint8 (N, longest), base codes, `vocabulary.PADDING` behind
    label_texts: list[str]  # one per row; of several columns with ; between
    rows_N: np.ndarray  # int32 (N,), lines of the file; 1 is the first
    label_columns: list[str] = dataclasses.field(default_factory=list)  # where a header names them


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
    path: Path | str,
    *,
    min_bases: int = 1,
    columns: Columns = USUAL_COLUMNS,
    may_lack_labels: bool = False,
) -> TextRows:
    """Returns the rows of a labelled file, TSV or CSV, plain or gzip: at least one.

    Columns are found by their names (`SEQUENCE_COLUMNS`, `LABEL_COLUMNS`), others
    are ignored; a file without header has two columns, sequence and label. Lower
    case counts as upper case, U as T; a letter that is no single base becomes
    `vocabulary.AMBIGUOUS`. What the labels stand for: `labels`.

    Args:
      path: of the file.
      min_bases: the fewest bases of a sequence (one k-mer).
      columns: their names, where they are not the usual ones.
      may_lack_labels: a row may have none, as where each has several.

    Raises:
      InputError: naming file and row: no such file, damaged gzip, not text, no row,
        wrong columns, no label, a sequence that is empty, too short or no
        nucleotides, or k-mers that do not overlap.
    """
    path = str(path)
    header: list[str] = []
    sequences: list[bytes] = []
    label_texts: list[str] = []
    lines: list[int] = []
    for line, sequence, label in _fields(path, _text(path), columns, header):
        where = f"{path}: row {line}"
        letters = sequence.encode()
        if b" " in letters:
            letters = _join_kmers(where, letters)
        if len(letters) < min_bases:
            what = f"{len(letters)} bases" if letters else "no sequence"
            raise InputError(f"{where}: {what}, expected at least {min_bases} (one k-mer)")
        if not label and not may_lack_labels:
            raise InputError(f"{where}: no label; expected one behind every sequence")
        sequences.append(letters)
        label_texts.append(label)
        lines.append(line)
    if not lines:
        raise InputError(f"{path}: no row; expected columns sequence and label, and rows")
    bases_NM = _encode(path, sequences, lines)
    return TextRows(path, bases_NM, label_texts, np.array(lines, np.int32), header)


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


def _fields(
    path: str, text: str, columns: Columns, header: list[str]
) -> Iterator[tuple[int, str, str]]:
    """Yields (line, sequence, label) of every row, stripped; blank lines are passed over.

    Several labels have ; between; `header` gets the names of their columns, if there are any.
    """
    head = text.lstrip().partition("\n")[0]
    delimiter = max(_DELIMITERS, key=head.count)
    if delimiter not in head:
        raise InputError(
            f"{path}: row 1: one column ({head.strip()[:30]!r}); expected sequence and label "
            "with a tab or a comma between"
        )
    csv.field_size_limit(sys.maxsize)  # its 131,072 letters are fewer than a long locus has
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 0
    try:
        rows = (row for row in reader if row)
        first = [field.strip() for field in next(rows)]
        sequence, labels, is_header = _columns(path, first, columns)
        if is_header:
            header += [first[column] for column in labels]
        else:
            rows = itertools.chain([first], rows)
        for row in rows:
            line = reader.line_num
            if len(row) != len(first):
                raise InputError(
                    f"{path}: row {line}: {len(row)} columns, expected {len(first)} as in row 1"
                )
            yield line, row[sequence].strip(), ";".join(row[column].strip() for column in labels)
    except csv.Error as error:
        raise InputError(
            f"{path}: behind row {line or 1}: {error}; is a quotation mark left open?"
        ) from None


def _columns(path: str, first: Sequence[str], columns: Columns) -> tuple[int, list[int], bool]:
    """Returns the indices of the sequence and the labels, and whether the first row is a header."""
    names = [columns.sequence, *columns.labels]
    usual = [SEQUENCE_COLUMNS, *[LABEL_COLUMNS] * len(columns.labels)]
    matches = [
        [n for n, name in enumerate(first) if (name == own if own else name.lower() in usual_names)]
        for own, usual_names in zip(names, usual, strict=True)
    ]
    if all(len(indices) == 1 for indices in matches):
        return matches[0][0], [indices[0] for indices in matches[1:]], True
    letters = np.frombuffer(first[0].replace(" ", "").encode(), np.uint8)
    is_usual = columns == USUAL_COLUMNS
    is_sequence = bool(len(letters)) and _LETTERS[letters].all()
    if is_usual and len(first) == 2 and not any(matches) and is_sequence:
        return 0, [1], False
    raise InputError(
        f"{path}: row 1: columns {', '.join(map(repr, first))[:80]}; expected a header with one "
        f"column {columns.sequence or 'sequence'!r} and one {columns.label or 'label'!r}"
        f"{', or a sequence and a label' if is_usual else ''}; --sequence_column and "
        "--label_column name others"
    )


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


def _encode(path: str, sequences: list[bytes], lines: list[int]) -> np.ndarray:
    """Returns uint8 (N, longest); InputError at a letter that no nucleotide sequence has."""
    letters = np.frombuffer(b"".join(sequences), np.uint8)
    lengths_N = np.array([len(sequence) for sequence in sequences])
    if not _LETTERS[letters].all():
        position = int((~_LETTERS[letters]).argmax())
        row = int(np.searchsorted(lengths_N.cumsum(), position, side="right"))
        letter = sequences[row][position - int(lengths_N[:row].sum()) :].decode("utf-8", "replace")[
            0
        ]
        raise InputError(
            f"{path}: row {lines[row]}: letter {letter!r}: expected nucleotides (A C G T U N and "
            "IUPAC codes); is this protein, or another column?"
        )
    bases_NM = np.full((len(sequences), int(lengths_N.max())), vocabulary.PADDING, np.uint8)
    bases_NM[np.arange(bases_NM.shape[1]) < lengths_N[:, None]] = vocabulary.encode(
        letters.tobytes()
    )
    return bases_NM
