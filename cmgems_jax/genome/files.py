"""Genome files as contigs of base codes: FASTA (plain, gzip, bgzip) and .2bit.

A contig is a stretch of A, C, G, T (or U) without another letter: records are
split at ambiguous letters and never joined across them, which would invent
k-mers. Memory is bounded by the longest record.
"""

import collections
import dataclasses
import hashlib
import itertools
import math
import operator
import os
from collections.abc import Iterator, Sequence

import numpy as np
import twobitreader

from cmgems_jax import terminal
from cmgems_jax.errors import InputError, note
from cmgems_jax.genome import fasta, input_files, vocabulary

Paths = str | os.PathLike | Sequence[str | os.PathLike]  # one path, or several
_CHUNK = 1 << 24  # letters coded at a time
_TWOBIT_MAGICS = (b"\x1a\x41\x27\x43", b"\x43\x27\x41\x1a")
_BASES_PER_GZIP_BYTE = 3.4  # of DNA as text; for the estimate of the time left


@dataclasses.dataclass
class Contig:
    """A stretch of unambiguous bases."""

    record: str
    start: int  # 0-based offset in the record
    bases: np.ndarray  # uint8 (n,), codes 0..3; a view that stays valid

    @property
    def name(self) -> str:
        """`record:first-last`, from 1."""
        return f"{self.record}:{self.start + 1}-{self.start + len(self.bases)}"


@dataclasses.dataclass
class Tally:
    """What was read; filled while contigs are taken from `read_contigs`."""

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

    def __add__(self, other: "Tally") -> "Tally":
        """Returns what was read for both."""
        return Tally(*map(operator.add, vars(self).values(), vars(other).values()))


@dataclasses.dataclass
class Survey:
    """What one pass over files finds, in their order; the bases themselves are not kept."""

    tally: Tally = dataclasses.field(default_factory=Tally)
    names: list[str] = dataclasses.field(default_factory=list)  # of contigs
    lengths: list[int] = dataclasses.field(default_factory=list)  # bases of contigs
    digests: list[bytes] = dataclasses.field(default_factory=list)  # as in `read_contigs`

    def __add__(self, other: "Survey") -> "Survey":
        """Returns the survey of the files of both."""
        return Survey(*map(operator.add, vars(self).values(), vars(other).values()))

    @property
    def content(self) -> str:
        """Identifies the stretches of bases in their order, in hexadecimal.

        File names, packing, lines, case, record names and the letters between them
        leave it as it is.
        """
        return hashlib.sha256(b"".join(self.digests)).hexdigest()


def survey(paths: Paths, *, min_length: int = 1, progress: bool = False) -> Survey:
    """Returns the survey of files; arguments as in `read_contigs`."""
    whole = Survey()
    contigs = read_contigs(
        paths, min_length=min_length, tally=whole.tally, progress=progress, digests=whole.digests
    )
    for contig in contigs:
        whole.names.append(contig.name)
        whole.lengths.append(len(contig.bases))
    return whole


def sha256(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_files(paths: Paths) -> list[str]:
    """Returns the paths as a list, after a look at the head of every file before any work.

    Raises:
      InputError: a file is missing, no regular file, unreadable, empty, packed in a way
        that is not read, named twice, or does not begin like FASTA or .2bit.
    """
    paths = input_files.listed(paths)
    for path in paths:
        head = input_files.read_head(path, "a FASTA or .2bit file")
        if not head.startswith(_TWOBIT_MAGICS):
            fasta.check_head(path, head)
    seen: dict[str, str] = {}
    for path in paths:
        real_path = os.path.realpath(path)
        if real_path in seen:
            raise InputError(f"{path}: named twice (before as {seen[real_path]}); give it once")
        seen[real_path] = path
    return paths


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
      digests: gets the SHA-256 of every stretch of bases, the dropped ones too.

    Raises:
      InputError: naming file and record: broken gzip, no record, letters that are not
        nucleotides, or no usable base in a file.
    """
    paths = check_files(paths)
    tally = Tally() if tally is None else tally
    total = sum(map(_estimate_bases, paths))
    with terminal.bar(
        total=total, unit="b", unit_scale=True, desc="reading bases", disable=not progress
    ) as bar:
        for path, records in itertools.groupby(_records(paths), key=lambda record: record[0]):
            bases_before = tally.bases + tally.dropped_bases
            counts: collections.Counter[str] = collections.Counter()
            for _, name, codes in records:
                counts[name] += 1
                yield from _split(name, codes, min_length, tally, digests)
                bar.update(len(codes))
            if repeated := [name for name, count in counts.items() if count > 1]:
                note(
                    f"{path}: names that stand more than once: {len(repeated):,} ({repeated[0]}, "
                    "...); all their records are taken, and bases that stand twice count double"
                )
            if tally.bases + tally.dropped_bases == bases_before:
                raise InputError(
                    f"{path}: no base but ambiguous letters (N); expected FASTA records with "
                    "A, C, G, T"
                )


def read_records(paths: Paths) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the records of several files, whole: ambiguous letters keep their places.

    Yields:
      The name, up to the first blank (`unnamed_1`, ... where there is none), and
      uint8 (n,) base codes, `AMBIGUOUS` where the letter is no single base.

    Raises:
      InputError: as `read_contigs`, or for a name that stands twice in these files.
    """
    path_of: dict[str, str] = {}
    for path, name, codes in _records(check_files(paths)):
        if name in path_of:
            raise InputError(
                f"{path}: record '{name}': a second record of this name (the first is in "
                f"{path_of[name]}); results are told apart by their names"
            )
        path_of[name] = path
        yield name, codes


@dataclasses.dataclass(frozen=True)
class Records:
    """The records of files, read again whenever they are gone through; see `read_records`."""

    paths: Paths

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (name, base codes)."""
        return read_records(self.paths)

    def __str__(self) -> str:
        """Returns the paths, for messages."""
        return ",".join(input_files.listed(self.paths))


def _estimate_bases(path: str) -> int:
    """Returns about how many letters a file holds."""
    size, magic = os.path.getsize(path), _magic(path)
    if magic.startswith(input_files.GZIP_MAGIC):
        return int(size * _BASES_PER_GZIP_BYTE)
    return size * 4 if magic in _TWOBIT_MAGICS else size


def _magic(path: str) -> bytes:
    """Returns the first four bytes of a file."""
    with open(path, "rb") as file:
        return file.read(4)


def _split(
    name: str, codes: np.ndarray, min_length: int, tally: Tally, digests: list[bytes] | None
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
        yield Contig(name, start, codes[start:end])


def _edges(codes: np.ndarray) -> np.ndarray:
    """Returns starts and ends, in turn, of the stretches of known bases; in chunks, for memory."""
    if len(codes) and codes.max() < vocabulary.AMBIGUOUS:
        return np.array([0, len(codes)])
    edges, inside = [np.zeros(0, np.int64)], False
    for start in range(0, len(codes), _CHUNK):
        known = codes[start : start + _CHUNK] < vocabulary.AMBIGUOUS
        edges.append(np.flatnonzero(np.diff(known, prepend=inside)) + start)
        inside = known[-1]
    return np.concatenate([*edges, [len(codes)] if inside else edges[0]])


def _records(paths: list[str]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yields (path, name, base codes) of all records; one without a name gets one, with a note."""
    numbers = itertools.count(1)
    for path in paths:
        read = _twobit_records if _magic(path) in _TWOBIT_MAGICS else fasta.records
        num_records, made_up = 0, []
        for name, codes in read(path):
            num_records += 1
            if not name:
                name = f"unnamed_{next(numbers)}"
                made_up.append(name)
            yield path, name, codes
        if made_up:
            note(
                f"{path}: records without a name: {len(made_up):,}, called {made_up[0]} to "
                f"{made_up[-1]}"
            )
        if not num_records:
            raise InputError(f"{path}: no record; expected FASTA records, each with a '>name' line")


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
    except Exception as error:  # the reader raises anything, MemoryError too, on damaged files
        raise InputError(
            f"{path}: not a whole .2bit file ({error or type(error).__name__}); fetch it again"
        ) from None
