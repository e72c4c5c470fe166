"""FASTA as records of base codes: every byte of every FASTA file is read here.

White space and byte order marks are no letters, wherever they stand; lines end as on
any system; a description may be in any encoding.
"""

import zlib
from collections.abc import Iterator
from io import BufferedReader

import numpy as np

from cmgems_jax.errors import InputError
from cmgems_jax.genome import input_files, vocabulary

# IUPAC nucleotide letters beyond A C G T U, and the gaps of alignments.
AMBIGUOUS_LETTERS = np.zeros(256, bool)
AMBIGUOUS_LETTERS[np.frombuffer(b"NRYSWKMBDHVXnryswkmbdhvx-.", np.uint8)] = True
_ILLEGAL = 255
_NOTHING = np.zeros(0, np.uint8)
_CODES = np.where(
    (vocabulary.CODE_OF_LETTER == vocabulary.AMBIGUOUS) & ~AMBIGUOUS_LETTERS,
    np.uint8(_ILLEGAL),
    vocabulary.CODE_OF_LETTER,
).tobytes()
_MARK = "\ufeff".encode()  # byte order mark, of which a file made by `cat` has several
_CHUNK = 1 << 20  # bytes read at a time; of gzip as many as one piece gives


def check_head(path: str, head: bytes) -> None:
    """Raises `InputError` unless the first letter of a file is that of a FASTA record."""
    text = head.removeprefix(_MARK).lstrip()
    if not text:
        raise InputError(f"{path}: empty; expected FASTA records, each with a '>name' line")
    if text.startswith(b">"):
        return
    if text[:200].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        kind = "a web page (was an error page saved in place of the file?)"
    elif text.startswith(b"@"):
        kind = "FASTQ reads; convert them (seqtk seq -A) or give an assembly"
    elif any(byte < 9 or byte > 126 for byte in text[:200]):
        kind = "binary data"
    else:
        kind = f"{text[:20].decode('latin-1')!r} before the first record"
    raise InputError(
        f"{path}: line 1: expected '>' and a record name (FASTA) or a .2bit file, found {kind}"
    )


def records(path: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the records of a FASTA file, plain, gzip or bgzip.

    Yields:
      The name, up to the first blank, or "" where there is none, and uint8 (n,) base
      codes, `AMBIGUOUS` where the letter is no single base.

    Raises:
      InputError: naming file and record: a letter that no nucleotide sequence has, or
        how far reading came where the file is damaged.
    """
    num_read, last = 0, None
    try:
        with input_files.open_unpacked(path) as file:
            for last, codes in _parse(path, file):
                num_read += 1
                yield last, codes
    except (EOFError, OSError, zlib.error) as error:
        where = f"after record '{last}'" if num_read else "at the first record"
        raise InputError(
            f"{path}: reading stopped {where}, {num_read} records in: the file is "
            f"truncated or damaged ({error}); fetch it again (gzip -t checks it)"
        ) from None


def _parse(path: str, file: BufferedReader) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, base codes) of unpacked bytes, read from their beginning."""
    name, parts = None, [_NOTHING]
    for lines in _chunks(path, file):
        start = 0
        while start < len(lines):
            end = _next_record(lines, start)
            if end > start:
                parts.append(_encode(path, name, lines[start:end], parts))
            if end == len(lines):
                break
            if name is not None:
                yield name, np.concatenate(parts)
            start = lines.find(b"\n", end) + 1 or len(lines)
            words = _text(lines[end + 1 : start]).split(maxsplit=1)
            name, parts = words[0] if words else "", [_NOTHING]
    if name is not None:
        yield name, np.concatenate(parts)


def _chunks(path: str, file: BufferedReader) -> Iterator[bytes]:
    r"""Yields whole lines, many at a time, that end in \n and hold no byte order mark."""
    offset = 0
    while chunk := file.read1(_CHUNK):
        chunk += file.readline()  # no line is cut, and so no letter of several bytes
        if (zero := chunk.find(b"\0")) >= 0:
            raise InputError(
                f"{path}: byte {offset + zero + 1:,} is zero: the file is damaged (an "
                "interrupted download?) or no FASTA; fetch it again"
            )
        offset += len(chunk)
        yield chunk.replace(_MARK, b"").replace(b"\r", b"\n")


def _next_record(lines: bytes, start: int) -> int:
    """Returns where the first > that begins a line stands, from `start` on; else the end."""
    position = lines.find(b">", start)
    if position < 0 or lines[lines.rfind(b"\n", 0, position) + 1 : position].strip():
        return len(lines)  # a > within a line is refused with the letters
    return position


def _encode(path: str, name: str | None, lines: bytes, before: list[np.ndarray]) -> np.ndarray:
    """Returns the base codes of a record's lines; InputError at a letter of no nucleotide."""
    letters = lines.replace(b"\n", b"")
    codes = np.frombuffer(bytearray(letters).translate(_CODES), np.uint8)
    if not len(codes) or codes.max() <= vocabulary.AMBIGUOUS:
        return codes
    text = "".join(_text(letters).split())  # white space of any kind
    codes = np.frombuffer(bytearray(text.encode("latin-1", "replace")).translate(_CODES), np.uint8)
    if (illegal := codes == _ILLEGAL).any():
        position = int(illegal.argmax())
        what = f"record '{name}'" if name else "a record without a name"
        raise InputError(
            f"{path}: {what}: letter {text[position]!r} at position "
            f"{sum(map(len, before)) + position + 1:,}: expected nucleotides "
            "(A C G T U N and IUPAC codes); is this protein, or not a sequence file?"
        )
    return codes


def _text(content: bytes) -> str:
    """Returns text of any encoding: UTF-8, or else one letter per byte."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")
