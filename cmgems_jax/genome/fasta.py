"""FASTA as records of base codes: every byte of every FASTA file goes through `records`.

White space and byte order marks are no letters, wherever they stand; lines end as on
any system; a description may be in any encoding.
"""

from collections.abc import Iterator
from io import BufferedReader

import numpy as np

from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary

# IUPAC nucleotide letters beyond A C G T U, and the gaps of alignments.
AMBIGUOUS_LETTERS = np.zeros(256, bool)
AMBIGUOUS_LETTERS[np.frombuffer(b"NRYSWKMBDHVXnryswkmbdhvx-.", np.uint8)] = True
_ILLEGAL = 255
_CODES = np.where(
    (vocabulary.CODE_OF_LETTER == vocabulary.AMBIGUOUS) & ~AMBIGUOUS_LETTERS,
    np.uint8(_ILLEGAL),
    vocabulary.CODE_OF_LETTER,
).tobytes()
_MARK = "\ufeff".encode()  # byte order mark, of which a file made by `cat` has several
_CHUNK = 1 << 20  # bytes read at a time; of gzip as many as one piece gives


def records(path: str, file: BufferedReader) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the records of a FASTA file.

    Args:
      path: for messages.
      file: unpacked bytes, from their beginning.

    Yields:
      The name, up to the first blank, or "" where there is none, and uint8 (n,) base
      codes, `AMBIGUOUS` where the letter is no single base.

    Raises:
      InputError: naming file and record: a letter that no nucleotide sequence has.
    """
    name, parts = None, []
    for lines in _chunks(path, file):
        place = 0
        while place < len(lines):
            end = _next_record(lines, place)
            if end > place:
                parts.append(_encode(path, name, lines[place:end], parts))
            if end == len(lines):
                break
            if name is not None:
                yield name, np.concatenate(parts or [np.zeros(0, np.uint8)])
            line_end = lines.find(b"\n", end)
            place = len(lines) if line_end < 0 else line_end + 1
            words = _text(lines[end + 1 : place]).split(maxsplit=1)
            name, parts = words[0] if words else "", []
    if name is not None:
        yield name, np.concatenate(parts or [np.zeros(0, np.uint8)])


def _chunks(path: str, file: BufferedReader) -> Iterator[bytes]:
    r"""Yields whole lines, many at a time, that end in \n and hold no byte order mark."""
    offset = 0
    while chunk := file.read1(_CHUNK):
        chunk += file.readline()  # no line is cut, and so no letter of several bytes
        if (place := chunk.find(b"\0")) >= 0:
            raise InputError(
                f"{path}: byte {offset + place + 1:,} is zero: the file is damaged (an "
                "interrupted download?) or no FASTA; fetch it again"
            )
        offset += len(chunk)
        yield chunk.replace(_MARK, b"").replace(b"\r", b"\n")


def _next_record(lines: bytes, place: int) -> int:
    """Returns where the first > that begins a line stands, from `place` on; else the end."""
    found = lines.find(b">", place)
    if found < 0 or lines[lines.rfind(b"\n", 0, found) + 1 : found].strip():
        return len(lines)  # a > within a line is refused with the letters
    return found


def _encode(path: str, name: str | None, lines: bytes, before: list[np.ndarray]) -> np.ndarray:
    """Returns the base codes of a record's lines; InputError at a letter of no nucleotide."""
    letters = lines.replace(b"\n", b"")
    codes = np.frombuffer(bytearray(letters).translate(_CODES), np.uint8)
    if not len(codes) or codes.max() <= vocabulary.AMBIGUOUS:
        return codes
    text = "".join(_text(letters).split())  # white space of any kind
    codes = np.frombuffer(bytearray(text.encode("latin-1", "replace")).translate(_CODES), np.uint8)
    if (illegal := codes == _ILLEGAL).any():
        place = int(illegal.argmax())
        start = sum(map(len, before))
        what = f"record '{name}'" if name else "a record without a name"
        raise InputError(
            f"{path}: {what}: letter {text[place]!r} at position "
            f"{start + place + 1:,}: expected nucleotides (A C G T U N and IUPAC codes); "
            "is this protein, or not a sequence file?"
        )
    return codes


def _text(content: bytes) -> str:
    """Returns text of any encoding: UTF-8, or else a letter a byte."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")
