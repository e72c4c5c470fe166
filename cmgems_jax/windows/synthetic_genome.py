"""A genome without a download: a 5th-order Markov chain by 6-mer counts.

Its law is known, so the least reachable loss of a model trained on it is known
too; its k-mer ranks are those of the genome that was counted. Copies of a repeat may be planted
in it (then the law is another), as a tenth of the human genome are copies of Alu; the labelled
task of launch.make_task asks where such copies are.
"""

import functools
from pathlib import Path

import numpy as np

from cmgems_jax.genome import vocabulary
from cmgems_jax.pmi import table as pmi_table
from cmgems_jax.runtime import outputs

ORDER = 5  # bases that the next one depends on: what 6-mer counts can tell
NUM_STATES = 4**ORDER
MAX_CONTIGS = 256  # sampled side by side
CONTIG_BASES = 10_000  # a small genome has fewer contigs rather than shorter ones
REPEAT_BASES = 600  # of the repeat
COPY_BASES = (100, 300)  # of a copy, which is of a piece of the repeat
DIVERGED = 0.15  # of a copy's bases are any base, whatever the repeat's
FASTA_COLUMNS = 80
_BASES_AT_ONCE = 1_024


def transition(counts: np.ndarray) -> np.ndarray:
    """Returns the probability of every base after every 5-mer, from 6-mer counts (4096,) by code.

    float64 (1024, 4); a 5-mer that never occurs is followed by any base with equal probability.
    """
    count_SB = np.asarray(counts, np.float64).reshape(NUM_STATES, 4)
    total_S = count_SB.sum(axis=1, keepdims=True)
    return np.where(total_S > 0, count_SB / np.maximum(total_S, 1), 0.25)


def stationary(probability_SB: np.ndarray) -> np.ndarray:
    """Returns float64 (1024,), the share of every 5-mer in an endless chain."""
    share_S = np.full(NUM_STATES, 1 / NUM_STATES)
    for _ in range(1_000):
        # The 5-mer after `s` and base `b` is 4 * (s mod 256) + b.
        next_S = (share_S[:, None] * probability_SB).reshape(4, NUM_STATES).sum(axis=0)
        if np.abs(next_S - share_S).sum() < 1e-14:
            break
        share_S = next_S
    return share_S


def sample_contigs(
    counts: np.ndarray, num_contigs: int, num_bases: int, rng: np.random.Generator
) -> np.ndarray:
    """Returns contigs of the chain of 6-mer counts, each from its stationary law on.

    They are sampled side by side, so many short ones take less time than one long one:
    uint8 (num_contigs, num_bases), codes 0..3.
    """
    probability_SB = transition(counts)
    bound_SB = np.cumsum(probability_SB, axis=1)[:, :3]
    share_S = stationary(probability_SB)
    state_C = rng.choice(NUM_STATES, size=num_contigs, p=share_S / share_S.sum())
    base_NC = np.empty((max(num_bases, ORDER), num_contigs), np.uint8)
    for offset in range(ORDER):
        base_NC[offset] = state_C >> 2 * (ORDER - 1 - offset) & 3
    for first in range(ORDER, num_bases, _BASES_AT_ONCE):
        uniform_NC = rng.random((min(_BASES_AT_ONCE, num_bases - first), num_contigs))
        for step, uniform_C in enumerate(uniform_NC, first):
            base_C = (uniform_C[:, None] >= bound_SB[state_C]).sum(axis=1)
            state_C = state_C * 4 % NUM_STATES + base_C
            base_NC[step] = base_C
    return np.ascontiguousarray(base_NC[:num_bases].T)


@functools.cache
def repeat() -> np.ndarray:
    """Returns the repeat, uint8 (REPEAT_BASES,): one of the chain, the same in all genomes."""
    counts, rng = pmi_table.grch38_counts(), np.random.default_rng(0)
    return sample_contigs(counts, 1, REPEAT_BASES, rng)[0]


def repeat_copy(num_bases: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a diverged copy of a piece of the repeat, uint8 (num_bases,)."""
    start = int(rng.integers(0, REPEAT_BASES - num_bases + 1))
    drawn_M = rng.integers(0, 4, num_bases).astype(np.uint8)
    is_drawn_M = rng.random(num_bases) < DIVERGED
    return np.where(is_drawn_M, drawn_M, repeat()[start : start + num_bases])


def plant(bases_M: np.ndarray, share: float, rng: np.random.Generator) -> None:
    """Writes copies of the repeat over a share of uint8 (M,) bases, one per equal stretch."""
    shortest, longest = COPY_BASES
    stretch = max(longest, round((shortest + longest) / 2 / share))
    for start in range(0, len(bases_M) - stretch + 1, stretch):
        num_bases = int(rng.integers(shortest, longest + 1))
        first = start + int(rng.integers(0, stretch - num_bases + 1))
        bases_M[first : first + num_bases] = repeat_copy(num_bases, rng)


def write_genome(path: Path | str, num_bases: int, seed: int, *, repeats: float = 0.0) -> None:
    """Writes a FASTA file by GRCh38's 6-mer counts; a file of that genome is left alone.

    The first header names seed, size and repeats, by which the file is recognised. The
    contigs have equal length, to one base; the same seed gives the same file. `repeats` is
    the share of the bases that are copies of `repeat()`.
    """
    path = Path(path)
    num_contigs = min(MAX_CONTIGS, max(2, num_bases // CONTIG_BASES))
    planted = f", {repeats:g} of it copies of a repeat" if repeats else ""
    chain = f"5th-order chain of GRCh38's 6-mers{planted}"
    headers = [
        f">synthetic_{index + 1} seed={seed} bases={num_bases} {chain}\n"
        for index in range(num_contigs)
    ]
    if path.is_file() and _first_line(path) == headers[0]:
        return
    shortest, num_longer = divmod(num_bases, num_contigs)
    rng = np.random.default_rng((seed, num_bases))
    contigs = sample_contigs(pmi_table.grch38_counts(), num_contigs, shortest + 1, rng)
    if repeats:
        for bases_N in contigs:
            plant(bases_N, repeats, rng)
    path.parent.mkdir(parents=True, exist_ok=True)
    with outputs.replaced_file(path) as partial, partial.open("w") as file:
        for index, (header, bases) in enumerate(zip(headers, contigs, strict=True)):
            letters = vocabulary.decode(bases[: shortest + (index < num_longer)])
            file.write(header)
            for start in range(0, len(letters), FASTA_COLUMNS):
                file.write(letters[start : start + FASTA_COLUMNS] + "\n")


def _first_line(path: Path) -> str:
    """Returns the first line of a text file, shortened to 200 characters."""
    with path.open(encoding="ascii", errors="replace") as file:
        return file.readline(200)
