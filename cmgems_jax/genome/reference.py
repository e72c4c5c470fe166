"""Stretches of an indexed FASTA file as base codes, without reading the rest."""

import collections
import contextlib
import dataclasses
import functools
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pysam

from cmgems_jax.errors import InputError, did_you_mean, note
from cmgems_jax.genome import fasta, input_files, vocabulary
from cmgems_jax.genome import files as genome_files


@dataclasses.dataclass(frozen=True)
class Contig:
    """A contig as a sequence of base codes, of which a slice is read when it is asked for."""

    reference: "Reference"
    name: str  # as the file has it

    def __len__(self) -> int:
        """Returns its bases."""
        return self.reference.lengths[self.name]

    def __getitem__(self, part: slice) -> np.ndarray:
        """Returns uint8 base codes."""
        start, end, _ = part.indices(len(self))
        return self.reference.fetch(self.name, start, end)


class Reference:
    """An open FASTA file; see `opened`."""

    def __init__(self, path: str, file: pysam.FastaFile, *, ignore_chr_prefix: bool) -> None:
        """Wraps the file."""
        self.path = path
        self.lengths: dict[str, int] = dict(zip(file.references, file.lengths, strict=True))
        self._file = file
        self._ignores_prefix = ignore_chr_prefix

    def fetch(self, contig: str, start: int, end: int) -> np.ndarray:
        """Returns uint8 base codes of [start, end), 0-based; what lies outside is left out."""
        try:
            letters = self._file.fetch(contig, max(0, start), max(0, start, end))
        except (OSError, ValueError) as error:  # behind the end of a file that was cut off
            raise _bad_index(self.path, error) from None
        return vocabulary.encode(letters)

    def __iter__(self) -> Iterator[tuple[str, Contig]]:
        """Yields (name, contig); no base is read."""
        return ((name, Contig(self, name)) for name in self.lengths)

    @functools.cached_property
    def sha256(self) -> str:
        """The SHA-256 of the file's bytes, in hexadecimal; reads all of it."""
        return genome_files.sha256(self.path)

    def __str__(self) -> str:
        """Returns the path, for messages."""
        return self.path

    def find(self, name: str) -> str | None:
        """Returns how the file calls a contig, None where it has none of that name.

        Where the prefix is ignored, `1` and `chr1` are one contig, and so are `MT` and `chrM`.
        """
        if name in self.lengths:
            return name
        return self._other_name(name) if self._ignores_prefix else None

    def describe_missing(self, name: str) -> str:
        """Returns why a contig was not found and what to try, for messages."""
        if other := self._other_name(name):
            remedy = f"is it {other}? then give --ignore_chr_prefix"
        else:
            remedy = f"is it of another assembly?{did_you_mean(name, self.lengths)}"
        names = ", ".join([*self.lengths][:3]) + (", ..." if len(self.lengths) > 3 else "")
        return f"contig '{name}' is not in {self.path} ({names}); {remedy}"

    def _other_name(self, name: str) -> str | None:
        """Returns the contig that has the name with or without `chr` before it."""
        bare = name.removeprefix("chr")
        mitochondrial = ("M", "MT", "chrM", "chrMT") if bare in ("M", "MT") else ()
        candidates = (bare, f"chr{bare}", *mitochondrial)
        return next((other for other in candidates if other in self.lengths), None)


@contextlib.contextmanager
def opened(path: str | os.PathLike, *, ignore_chr_prefix: bool = False) -> Iterator[Reference]:
    """Yields a FASTA file, plain or bgzip, for reading anywhere in it.

    Its index is PATH.fai (and PATH.gzi), as samtools makes them; where there is none, or one that
    is older than the file, one is made in a temporary folder, for nothing is ever written beside
    an input.

    Raises:
      InputError: no FASTA file, one packed by gzip, one that cannot be indexed, or two records
        of one name.
    """
    path = os.fspath(path)
    fasta.check_head(path, input_files.read_head(path, "a FASTA file"))
    is_bgzip = input_files.check_seekable(path)
    with tempfile.TemporaryDirectory() as folder:
        names = {"filepath_index": f"{path}.fai"} | (
            {"filepath_index_compressed": f"{path}.gzi"} if is_bgzip else {}
        )
        if why := _why_no_index(path, names.values()):
            note(f"{path}: {why}; one is made for this run (samtools faidx keeps one)")
            names = {key: str(Path(folder) / Path(name).name) for key, name in names.items()}
            _make_index(path, *names.values())
        try:
            file = pysam.FastaFile(path, **names)
        except (OSError, ValueError) as error:
            raise _bad_index(path, error) from None
        with file:
            if not file.nreferences:
                raise _bad_index(path, "it names no record")
            yield Reference(path, file, ignore_chr_prefix=ignore_chr_prefix)


def _why_no_index(path: str, names: Iterable[str]) -> str:
    """Returns why what stands beside a file is no index of it; "" where it is one."""
    if not all(map(os.path.exists, names)):
        return "no index beside it"
    is_older = min(map(os.path.getmtime, names)) < os.path.getmtime(path)
    return "the index beside it is older than the file" if is_older else ""


def _make_index(path: str, fai: str, gzi: str | None = None) -> None:
    """Writes the index of a FASTA file."""
    before = pysam.set_verbosity(0)
    try:
        pysam.faidx(path, "--fai-idx", fai, *(("--gzi-idx", gzi) if gzi else ()))
    except pysam.SamtoolsError:
        raise InputError(
            f"{path}: cannot be indexed; the lines of a record must have one length, with no "
            "empty line or byte order mark among them; write it anew: seqtk seq -l 60 OLD > NEW"
        ) from None
    finally:
        pysam.set_verbosity(before)
    with input_files.open_unpacked(path) as file:
        heads = (line[1:].split(maxsplit=1) for line in file if line.startswith(b">"))
        records = collections.Counter(head[0] for head in heads if head)
    (name, times), *_ = records.most_common(1) or [(b"", 0)]
    if times > 1:
        raise InputError(
            f"{path}: {times} records are called '{name.decode('utf-8', 'replace')}', and places "
            "are looked up by name; give each its own"
        )


def _bad_index(path: str, reason: object) -> InputError:
    """Returns the error of an index that cannot be used."""
    return InputError(f"{path}: its index cannot be read ({reason}); make it anew: samtools faidx")
