"""k-mer ids and bases, for numpy and jax alike.

Bases are uint8 codes in DNABERT's order, A T C G = 0..3; any other letter is
`AMBIGUOUS`, and the filling behind a short sequence is `PADDING`. Token ids are
DNABERT's (Ji et al. 2021): five special tokens, then the 4**k k-mers with the
first base most significant, so that weights interchange with published models.
"""

import itertools
from typing import TYPE_CHECKING, Union

import numpy as np

if TYPE_CHECKING:
    import jax

PAD, UNK, CLS, SEP, MASK = range(5)
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
NUM_SPECIAL = len(SPECIAL_TOKENS)
ALPHABETS = {"dna": "ATCG", "rna": "AUCG"}
AMBIGUOUS = 4
PADDING = 5
MIN_K, MAX_K = 3, 8
STRANDS = ("forward", "reverse", "both")  # from which a sequence is read

# jax is not imported: half a second, which commands that only read genomes save.
Array = Union[np.ndarray, "jax.Array"]  # noqa: UP007

CODE_OF_LETTER = np.full(256, AMBIGUOUS, np.uint8)  # the base code of every byte
CODE_OF_LETTER[list(b"AaTtUuCcGg")] = [0, 0, 1, 1, 1, 1, 2, 2, 3, 3]
_CODE_BYTES = CODE_OF_LETTER.tobytes()  # bytes.translate is ten times as fast as indexing


def size(k: int) -> int:
    """Returns the number of ids: 5 special tokens and 4**k k-mers."""
    return NUM_SPECIAL + 4**k


def num_tokens(num_bases: int, k: int, stride: int = 1) -> int:
    """Returns how many k-mers `num_bases` bases give."""
    return max(0, (num_bases - k) // stride + 1)


def num_bases(num_tokens: int, k: int, stride: int = 1) -> int:
    """Returns how many bases `num_tokens` (>= 1) k-mers cover."""
    return (num_tokens - 1) * stride + k


def encode(sequence: str | bytes) -> np.ndarray:
    """Returns the base codes of a sequence, uint8 (n,).

    Lower case counts as upper case (soft-masked repeats are DNA), U as T; every
    other letter is `AMBIGUOUS`.
    """
    letters = sequence.encode("latin-1", "replace") if isinstance(sequence, str) else sequence
    return np.frombuffer(bytearray(letters).translate(_CODE_BYTES), np.uint8)


def decode(bases: np.ndarray, alphabet: str = "dna") -> str:
    """Returns the letters of base codes; ambiguous ones are N, padding is left out."""
    letters = np.frombuffer((ALPHABETS[alphabet] + "N").encode(), np.uint8)
    bases = np.asarray(bases)
    return letters[bases[bases != PADDING]].tobytes().decode()


def reverse_complement(bases: Array) -> Array:
    """Returns what the other strand reads: the complements (A-T, C-G) in reverse order.

    Ambiguous letters stay ambiguous; `PADDING` stays behind the sequence. Argument and
    result are uint8 (..., n), numpy or jax.
    """
    xp = bases.__array_namespace__()
    length = (bases != PADDING).sum(axis=-1, keepdims=True, dtype=np.int32)
    position = xp.broadcast_to(xp.arange(bases.shape[-1], dtype=np.int32), bases.shape)
    source = xp.where(position < length, length - 1 - position, position)
    other = xp.where(bases < AMBIGUOUS, bases ^ np.uint8(1), bases)  # A-T is 0-1, C-G is 2-3
    return xp.take_along_axis(other, source, axis=-1)


def tokenize(bases: Array, k: int, stride: int = 1) -> Array:
    """Returns the k-mer ids of base codes, without [CLS] and [SEP].

    One function for both libraries: numpy in, numpy out; jax in, jax out.

    Args:
      bases: uint8 (..., n); ends in `PADDING` where shorter.
      k: bases per token.
      stride: bases between the starts of neighbouring tokens.

    Returns:
      int32 (..., (n - k) // stride + 1): [UNK] where a k-mer holds an ambiguous
      base, [PAD] where it reaches into the padding.
    """
    xp = bases.__array_namespace__()
    length = num_tokens(bases.shape[-1], k, stride)
    code = xp.zeros((*bases.shape[:-1], length), np.int32)
    largest = xp.zeros_like(code)
    if length:
        for offset in range(k):
            base = bases[..., offset : offset + (length - 1) * stride + 1 : stride].astype(np.int32)
            code = code * 4 + base
            largest = xp.maximum(largest, base)
    special = xp.where(largest == PADDING, np.int32(PAD), np.int32(UNK))
    return xp.where(largest < AMBIGUOUS, code + np.int32(NUM_SPECIAL), special)


def model_ids(bases: Array, k: int, stride: int = 1) -> Array:
    """Returns what a model sees of sequences: [CLS], the k-mers, [SEP], [PAD]...

    Arguments as of `tokenize`; int32 (..., num_tokens(n) + 2).
    """
    xp = bases.__array_namespace__()
    tokens = tokenize(bases, k, stride)
    last = (tokens != PAD).sum(axis=-1, keepdims=True, dtype=np.int32) + np.int32(1)
    edge = xp.full((*tokens.shape[:-1], 1), PAD, np.int32)
    ids = xp.concatenate([edge, tokens, edge], axis=-1)
    position = xp.broadcast_to(xp.arange(ids.shape[-1], dtype=np.int32), ids.shape)
    return xp.where(position == 0, np.int32(CLS), xp.where(position == last, np.int32(SEP), ids))


def kmers(k: int, alphabet: str = "dna") -> list[str]:
    """Returns the 4**k k-mers in the order of their codes (AAA, AAT, AAC, AAG, ATA, ...)."""
    return list(map("".join, itertools.product(ALPHABETS[alphabet], repeat=k)))


def kmer_code(kmer: str) -> int:
    """Returns the code of a k-mer, 0 for AAA...; ValueError for other letters."""
    code = 0
    for base in encode(kmer):
        if base >= AMBIGUOUS:
            raise ValueError(f"k-mer {kmer!r}: expected only the letters A, T (U), C, G")
        code = code * 4 + int(base)
    return code


def tokens(k: int, alphabet: str = "dna") -> list[str]:
    """Returns every token in the order of its id, as in DNABERT's vocab.txt."""
    return [*SPECIAL_TOKENS, *kmers(k, alphabet)]
