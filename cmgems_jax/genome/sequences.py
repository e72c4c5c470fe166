"""Sequences as a Python user has them: strings of DNA, or files."""

import os
from collections.abc import Sequence

import numpy as np

from cmgems_jax.errors import InputError
from cmgems_jax.genome import fasta, vocabulary
from cmgems_jax.genome import files as genome_files

Sequences = str | os.PathLike | Sequence[str]  # DNA, several of it, or a FASTA or .2bit file
_LETTERS_SHOWN = 40


def bases(sequences: Sequences, k: int = 1) -> list[np.ndarray]:
    """Returns the base codes uint8 (M,) of sequences of at least k bases each."""
    return [bases_M for _, bases_M in records(sequences, k)]


def records(sequences: Sequences, k: int) -> list[tuple[str, np.ndarray]]:
    """Returns (name, base codes) of sequences of at least k bases each; numbers are names too."""
    if isinstance(sequences, os.PathLike) or _is_file(sequences):
        named = list(genome_files.read_records(sequences))
    else:
        listed = [sequences] if isinstance(sequences, str) else list(sequences)
        if not listed:
            raise InputError("no sequence: expected one or more, or the path of a FASTA file")
        named = [(str(number), _encode(one, number)) for number, one in enumerate(listed)]
    for name, bases_M in named:
        if len(bases_M) < k:
            raise InputError(
                f"sequence '{name}': {len(bases_M)} bases; expected at least {k}, one k-mer"
            )
    return named


def _is_file(sequences: Sequences) -> bool:
    """Returns whether a string is the path of a file."""
    return isinstance(sequences, str) and os.path.exists(sequences)  # False of one that is too long


def _encode(sequence: str, number: int) -> np.ndarray:
    """Returns the base codes of a string of nucleotide letters."""
    if not isinstance(sequence, str):
        raise InputError(f"sequence {number}: {type(sequence).__name__}; expected a string of DNA")
    letters = np.frombuffer(sequence.encode("latin-1", "replace"), np.uint8)
    bases_M = vocabulary.encode(sequence)
    wrong = (bases_M == vocabulary.AMBIGUOUS) & ~fasta.AMBIGUOUS_LETTERS[letters]
    if wrong.any():
        at = int(wrong.argmax())
        raise InputError(
            f"sequence {number}: {sequence[:_LETTERS_SHOWN]!r} is no file, and no DNA: letter "
            f"{sequence[at]!r} at {at}; expected A, C, G, T (U) and ambiguity codes"
        )
    return bases_M
