"""Genome files as contigs of base codes: FASTA (plain, gzip, bgzip) and .2bit.

A contig is a stretch of A, C, G, T (or U) without another letter: records are
split at ambiguous letters and never joined across them, which would invent
k-mers. Memory is bounded by the longest record.
"""

import codecs
import collections
import dataclasses
import hashlib
import itertools
import math
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import twobitreader

from cmgems_jax import terminal
from cmgems_jax.errors import InputError, note
from cmgems_jax.genome import fasta, input_files, vocabulary

_CHUNK = 1 << 24  # letters coded at a time
_TWOBIT_MAGICS = (b"\x1a\x41\x27\x43", b"\x43\x27\x41\x1a")
# What the reader raises on damaged files.
_TWOBIT_ERRORS = (
    twobitreader.TwoBitFileError,
    struct.error,
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    TypeError,
    ValueError,
)
_EXPECTED = "a FASTA or .2bit file"
Paths = str | os.PathLike | Sequence[str | os.PathLike]  # one path, or several
_BASES_PER_GZIP_BYTE = 3.4  # of DNA as text; for the estimate of the time left


@dataclasses.dataclass
class Contig:
    """A stretch of unambiguous bases."""

    path: str
    record: str
    start: int  # 0-based offset in the record
    bases: np.ndarray  # uint8 (n,), codes 0..3


@dataclasses.dataclass
class Tally:
    """What was read; filled while contigs are drawn from `read_contigs`."""

    records: int = 0
    contigs: int = 0
    bases: int = 0  # in the contigs
    ambiguous: int = 0  # letters that records were split at
    dropped_pieces: int = 0  # pieces shorter than min_length
    dropped_bases: int = 0  # in those

    @property
    def ambiguous_share(self) -> float:
        """Share of all letters that are ambiguous."""
        return self.ambiguous / max(1, self.bases + self.dropped_bases + self.ambiguous)


def add_tallies(tallies: Iterable[Tally]) -> Tally:
    """Returns the sum of what was read of several files."""
    rows = [dataclasses.astuple(tally) for tally in tallies]
    return Tally(*(sum(column) for column in zip(*rows, strict=True)))


def check_files(paths: Paths) -> None:
    """Looks at the head of every file, before any work starts.

    Raises:
      InputError: a file is missing, no regular file, unreadable, empty, packed in a way
        that is not read, named twice, or does not begin like FASTA or .2bit.
    """
    paths = input_files.listed(paths)
    for path in paths:
        head = input_files.read_head(path, _EXPECTED)
        if not head.startswith(_TWOBIT_MAGICS):
            _check_fasta_head(path, head)
    seen: dict[str, str] = {}
    for path in paths:
        real_path = os.path.realpath(path)
        if real_path in seen:
            raise InputError(
                f"{path}: named twice (before as {seen[real_path]}); every base would count double"
            )
        seen[real_path] = path


def _check_fasta_head(path: str, head: bytes) -> None:
    """Raises `InputError` unless the first letter is that of a FASTA record."""
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if not text:
        raise InputError(f"{path}: empty; expected FASTA records, each with a '>name' line")
    if text.startswith(b">"):
        return
    lower = text[:200].lower()
    if lower.startswith((b"<!doctype", b"<html", b"<?xml")):
        found = "a web page (was an error page saved in place of the file?)"
    elif text.startswith(b"@"):
        found = "FASTQ reads; convert them (seqtk seq -A) or give an assembly"
    elif any(byte < 9 or byte > 126 for byte in text[:200]):
        found = "binary data"
    else:
        found = f"{text[:20].decode('latin-1')!r} before the first record"
    raise InputError(
        f"{path}: line 1: expected '>' and a record name (FASTA) or a .2bit file, found {found}"
    )


def read_contigs(
    paths: Paths,
    *,
    min_length: int = 1,
    tally: Tally | None = None,
    progress: bool = False,
    digests: list[bytes] | None = None,
) -> Iterator[Contig]:
    """Yields the contigs of several files, in their order.

    A name that stands twice in a file is noted, for as a rule its bases count double.

    Args:
      paths: FASTA (plain, gzip, bgzip) or .2bit files, upper or lower case, any
        line ends.
      min_length: bases; shorter pieces are dropped and counted.
      tally: counts what was read.
      progress: shows a bar with the time left, when it takes over a few seconds.
      digests: gets the SHA-256 of every stretch of bases, the dropped ones too, for `content`.

    Yields:
      Contigs; their bases are views that stay valid.

    Raises:
      InputError: naming file and record: broken gzip, no record, letters that are not
        nucleotides, or no usable base in a file.
    """
    paths = input_files.listed(paths)
    check_files(paths)
    tally = Tally() if tally is None else tally
    numbers = itertools.count(1)
    with terminal.bar(
        total=sum(map(_estimate_bases, paths)),
        unit="b",
        unit_scale=True,
        desc="reading bases",
        disable=not progress,
    ) as bar:
        for path in paths:
            bases_before = tally.bases + tally.dropped_bases
            counts: collections.Counter[str] = collections.Counter()
            for name, codes in _named_records(path, numbers):
                counts[name] += 1
                yield from _split(path, name, codes, min_length, tally, digests)
                bar.update(len(codes))
            if repeated := [name for name, count in counts.items() if count > 1]:
                note(
                    f"{path}: names that stand more than once: {len(repeated):,} ({repeated[0]}, "
                    "...); all their records are taken, and bases that stand twice count double"
                )
            if tally.bases + tally.dropped_bases == bases_before:
                what = "no base but ambiguous letters (N)" if counts else "no record"
                raise InputError(f"{path}: {what}; expected FASTA records with A, C, G, T")


def read_records(paths: Paths) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the records of several files, whole: ambiguous letters keep their places.

    Args:
      paths: FASTA (plain, gzip, bgzip) or .2bit files, as for `read_contigs`.

    Yields:
      The name, up to the first blank (`unnamed_1`, ... where there is none), and
      uint8 (n,) base codes, `AMBIGUOUS` where the letter is no single base.

    Raises:
      InputError: naming file and record: broken gzip, no record, letters that are
        not nucleotides, or a name that stands twice in these files.
    """
    paths = input_files.listed(paths)
    check_files(paths)
    path_of: dict[str, str] = {}
    numbers = itertools.count(1)
    for path in paths:
        num_before = len(path_of)
        for name, codes in _named_records(path, numbers):
            if name in path_of:
                raise InputError(
                    f"{path}: record '{name}': a second record of this name (the first is in "
                    f"{path_of[name]}); results are told apart by their names"
                )
            path_of[name] = path
            yield name, codes
        if len(path_of) == num_before:
            raise InputError(f"{path}: no record; expected FASTA records, each with a '>name' line")


def _estimate_bases(path: str) -> int:
    """Returns about how many letters a file holds."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(4)
    if head.startswith(input_files.GZIP_MAGIC):
        return int(size * _BASES_PER_GZIP_BYTE)
    return size * 4 if head in _TWOBIT_MAGICS else size


def _split(
    path: str,
    name: str,
    codes: np.ndarray,
    min_length: int,
    tally: Tally,
    digests: list[bytes] | None,
) -> Iterator[Contig]:
    """Yields the unambiguous stretches of one record."""
    edges = _edges(codes)
    tally.records += 1
    tally.ambiguous += len(codes) - int((edges[1::2] - edges[::2]).sum())
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if digests is not None:
            digests.append(hashlib.sha256(codes[start:end]).digest())
        if end - start < min_length:
            tally.dropped_pieces += 1
            tally.dropped_bases += end - start
            continue
        tally.contigs += 1
        tally.bases += end - start
        yield Contig(path, name, start, codes[start:end])


def _edges(codes: np.ndarray) -> np.ndarray:
    """Returns starts and ends, in turn, of the stretches of known bases; in chunks, for memory."""
    if len(codes) and codes.max() < vocabulary.AMBIGUOUS:
        return np.array([0, len(codes)])
    edges, inside = [], False
    for start in range(0, len(codes), _CHUNK):
        known = codes[start : start + _CHUNK] < vocabulary.AMBIGUOUS
        if known[0] != inside:
            edges.append([start])
        edges.append(np.flatnonzero(known[1:] != known[:-1]) + start + 1)
        inside = bool(known[-1])
    if inside:
        edges.append([len(codes)])
    return np.concatenate(edges) if edges else np.zeros(0, np.int64)


def _named_records(path: str, numbers: Iterator[int]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, base codes) of each record; those without a name get one, and it is told."""
    made_up = []
    with open(path, "rb") as file:
        is_twobit = file.read(4) in _TWOBIT_MAGICS
    for name, codes in _twobit_records(path) if is_twobit else _fasta_records(path):
        if not name:
            name = f"unnamed_{next(numbers)}"
            made_up.append(name)
        yield name, codes
    if made_up:
        note(
            f"{path}: records without a name: {len(made_up):,}, called {made_up[0]} to "
            f"{made_up[-1]}"
        )


def _fasta_records(path: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, base codes); says how far reading came where the file is damaged."""
    num_read, last = 0, None
    try:
        with input_files.open_unpacked(path) as file:
            for last, codes in fasta.records(path, file):
                num_read += 1
                yield last, codes
    except (EOFError, OSError, zlib.error) as error:
        where = f"after record '{last}'" if num_read else "at the first record"
        raise InputError(
            f"{path}: reading stopped {where}, {num_read} records in: the file is "
            f"truncated or damaged ({error}); fetch it again (gzip -t checks it)"
        ) from None


def _twobit_records(path: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, base codes) of a .2bit file, read in blocks."""
    try:
        file = twobitreader.TwoBitFile(path)
        lengths = file.sequence_sizes()
        least_size = sum(math.ceil(length / 4) for length in lengths.values())
        if os.path.getsize(path) < least_size:
            raise ValueError(f"{os.path.getsize(path):,} bytes, the index needs {least_size:,}")
        for name, length in lengths.items():
            codes = np.empty(length, np.uint8)
            for start in range(0, length, _CHUNK):
                end = min(start + _CHUNK, length)
                codes[start:end] = vocabulary.encode(str(file[name][start:end]))
            yield name, codes
    except _TWOBIT_ERRORS as error:
        raise InputError(
            f"{path}: not a whole .2bit file ({error or type(error).__name__}); fetch it again"
        ) from None


def sha256(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content(digests: Iterable[bytes]) -> str:
    """Returns what identifies bases wherever they lie, in hexadecimal.

    It is that of the stretches of bases in their order: file names, packing, lines,
    case, record names and the letters between them leave it as it is.

    Args:
      digests: SHA-256 of every stretch, as `read_contigs` collects them.
    """
    return hashlib.sha256(b"".join(digests)).hexdigest()


def content_of(paths: Sequence[str]) -> str:
    """Returns the `content` of files, which are read whole."""
    digests: list[bytes] = []
    for _ in read_contigs(paths, progress=True, digests=digests):
        pass
    return content(digests)
