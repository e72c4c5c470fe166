"""Genome files as contigs of base codes: FASTA (plain, gzip, bgzip) and .2bit.

A contig is a stretch of A, C, G, T (or U) without another letter: records are
split at ambiguous letters and never joined across them, which would invent
k-mers. Memory is bounded by the longest record.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import math
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import numpy as np
import pysam
import twobitreader
from tqdm import tqdm

from cmgems_jax import vocabulary
from cmgems_jax.errors import InputError

# IUPAC nucleotide letters beyond A C G T U, and the gaps of alignments.
AMBIGUOUS_LETTERS = np.zeros(256, bool)
AMBIGUOUS_LETTERS[np.frombuffer(b"NRYSWKMBDHVXnryswkmbdhvx-.", np.uint8)] = True
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
_GZIP_MAGIC = b"\x1f\x8b"
# The empty block that ends every bgzip file (SAM specification, section 4.1.2).
_BGZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_BASES_PER_GZIP_BYTE = 3.4  # of DNA as text; for the estimate of the time left
_PROGRESS_DELAY_S = 3.0


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


def check_files(paths: Sequence[str]) -> None:
    """Looks at the head of every file, before any work starts.

    Raises:
      InputError: a file is missing, unreadable, empty, named twice, or does not
        begin like FASTA or .2bit.
    """
    for path in paths:
        if not os.path.exists(path):
            raise InputError(f"{path}: no such file")
        if os.path.isdir(path):
            raise InputError(f"{path}: is a folder; expected a FASTA or .2bit file")
        try:
            head = _head(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
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


def _head(path: str) -> bytes:
    """Returns the first bytes of a file, unpacked; InputError for a broken gzip."""
    with open(path, "rb") as file:
        head = file.read(4096)
        if head.startswith(_GZIP_MAGIC) and head[12:14] == b"BC":
            _check_bgzip_end(path, file)
    if not head.startswith(_GZIP_MAGIC):
        return head
    try:
        with gzip.open(path) as file:
            return file.read(4096)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path}: broken gzip ({error}); the download may be incomplete, fetch it again"
        ) from None


def _check_bgzip_end(path: str, file: BinaryIO) -> None:
    """A bgzip file cut between two blocks unpacks without an error: only its end tells."""
    file.seek(-min(len(_BGZIP_END), os.path.getsize(path)), os.SEEK_END)
    if file.read() != _BGZIP_END:
        raise InputError(
            f"{path}: bgzip file without its end block: truncated; fetch it again, or if it is "
            "whole, pack it anew (gzip -dc FILE | bgzip)"
        )


def _check_fasta_head(path: str, head: bytes) -> None:
    """Raises `InputError` unless the first letter is that of a FASTA record."""
    text = head.lstrip()
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
        found = f"{text[:20].decode()!r} before the first record"
    raise InputError(
        f"{path}: line 1: expected '>' and a record name (FASTA) or a .2bit file, found {found}"
    )


def read_contigs(
    paths: Sequence[str],
    *,
    min_length: int = 1,
    tally: Tally | None = None,
    progress: bool = False,
    unique_names: bool = True,
    digests: list[bytes] | None = None,
) -> Iterator[Contig]:
    """Yields the contigs of several files, in their order.

    Args:
      paths: FASTA (plain, gzip, bgzip) or .2bit files, upper or lower case, any
        line ends.
      min_length: bases; shorter pieces are dropped and counted.
      tally: counts what was read.
      progress: shows a bar with the time left, when it takes over a few seconds.
      unique_names: refuse a name that stands twice in a file: as a rule a record that
        would count double.
      digests: gets the SHA-256 of every stretch of bases, the dropped ones too, for `content`.

    Yields:
      Contigs; their bases are views that stay valid.

    Raises:
      InputError: naming file and record: broken gzip, no record, duplicate names,
        letters that are not nucleotides, or no usable base in a file.
    """
    check_files(paths)
    tally = Tally() if tally is None else tally
    total = sum(_estimate_bases(path) for path in paths)
    with tqdm(
        total=total,
        unit="b",
        unit_scale=True,
        desc="reading bases",
        delay=_PROGRESS_DELAY_S,
        disable=not progress,
        leave=False,
    ) as bar:
        for path in paths:
            bases_before = tally.bases + tally.dropped_bases
            names: set[str] = set()
            for name, codes in _records(path):
                if name in names and unique_names:
                    raise InputError(
                        f"{path}: record '{name}': a second record of this name; "
                        "names must be unique in a file (launch.count_pmi takes "
                        "--duplicate_names=keep)"
                    )
                names.add(name)
                yield from _split(path, name, codes, min_length, tally, digests)
                bar.update(len(codes))
            if tally.bases + tally.dropped_bases == bases_before:
                what = "no base but ambiguous letters (N)" if names else "no record"
                raise InputError(f"{path}: {what}; expected FASTA records with A, C, G, T")


def read_records(paths: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the records of several files, whole: ambiguous letters keep their places.

    Args:
      paths: FASTA (plain, gzip, bgzip) or .2bit files, as for `read_contigs`.

    Yields:
      The name, up to the first blank, and uint8 (n,) base codes, `AMBIGUOUS`
      where the letter is no single base.

    Raises:
      InputError: naming file and record: broken gzip, no record, letters that are
        not nucleotides, or a name that stands twice in these files.
    """
    check_files(paths)
    path_of: dict[str, str] = {}
    for path in paths:
        num_before = len(path_of)
        for name, codes in _records(path):
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
    if head.startswith(_GZIP_MAGIC):
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


def _records(path: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, base codes) of each record."""
    with open(path, "rb") as file:
        is_twobit = file.read(4) in _TWOBIT_MAGICS
    yield from _twobit_records(path) if is_twobit else _fasta_records(path)


def _fasta_records(path: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, base codes) by htslib."""
    _refuse_zero_bytes(path)
    pysam.set_verbosity(0)  # its messages on stderr repeat our errors
    num_read, last = 0, None
    with contextlib.closing(pysam.FastxFile(path)) as file:
        records = iter(file)
        while True:
            try:
                record = next(records, None)
            except (ValueError, OSError, UnicodeDecodeError) as error:
                where = f"after record '{last}'" if last else "at the first record"
                raise InputError(
                    f"{path}: reading stopped {where}, {num_read} records in: the file is "
                    f"truncated or damaged ({error}); fetch it again (gzip -t checks it)"
                ) from None
            if record is None:
                return
            if record.quality is not None:
                raise InputError(f"{path}: record '{record.name}': FASTQ; expected FASTA")
            last = record.name or f"number {num_read + 1}"
            num_read += 1
            yield last, _encode(path, last, record.sequence or "")


def _refuse_zero_bytes(path: str) -> None:
    """htslib's records end at a zero byte: a half-filled download would lose bases unseen."""
    with open(path, "rb") as file:
        if file.read(2) == _GZIP_MAGIC:
            return  # its checksum guards it
        file.seek(0)
        for number, part in enumerate(iter(lambda: file.read(_CHUNK), b"")):
            if (place := part.find(b"\0")) >= 0:
                raise InputError(
                    f"{path}: byte {number * _CHUNK + place + 1:,} is zero: the file is damaged "
                    "(an interrupted download?); fetch it again"
                )


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


def _encode(path: str, name: str, sequence: str) -> np.ndarray:
    """Returns base codes; InputError at a letter that no nucleotide sequence has."""
    codes = np.empty(len(sequence), np.uint8)
    for start in range(0, len(sequence), _CHUNK):
        letters = sequence[start : start + _CHUNK].encode("latin-1", "replace")
        part = vocabulary.encode(letters)
        codes[start : start + len(part)] = part
        if part.max() < vocabulary.AMBIGUOUS:
            continue
        unknown = np.flatnonzero(part == vocabulary.AMBIGUOUS)
        illegal = ~AMBIGUOUS_LETTERS[np.frombuffer(letters, np.uint8)[unknown]]
        if illegal.any():
            place = int(unknown[illegal.argmax()])
            raise InputError(
                f"{path}: record '{name}': letter {chr(letters[place])!r} at position "
                f"{start + place + 1:,}: expected nucleotides (A C G T U N and IUPAC codes); "
                "is this protein, or not a sequence file?"
            )
    return codes


def sha256(path: str) -> str:
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
    for _ in read_contigs(paths, progress=True, unique_names=False, digests=digests):
        pass
    return content(digests)
