"""How contigs are cut into pretraining windows, and which are held out.

Every contig is cut without overlap (SPEC: pretraining windows; as DNABERT, Ji
et al. 2021, and GeneMask): half of the pieces have the full length, the others
a random shorter one. How a contig is cut follows from (seed, its number, its
length) alone, so the genome is streamed once for each purpose and never held.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from cmgems_jax import genome, vocabulary
from cmgems_jax.config import Config
from cmgems_jax.errors import InputError

SPLITS = ("train", "validation")
SHORTEST_PIECE = 5  # bases (Ji et al. 2021)
_CUT_STREAM, _HOLD_OUT_STREAM = range(2)
_CHUNK_WINDOWS = 4_096


@dataclasses.dataclass(frozen=True)
class Cut:
    """How one contig is cut into W pieces that cover it without overlap.

    Attributes:
      start_W: int64 (W,), first base of every piece.
      length_W: int64 (W,), bases of every piece.
      draw_W: float64 (W,) in [0, 1); below `data.validation_fraction` a piece
        is a validation window where the split is by window.
    """

    start_W: np.ndarray
    length_W: np.ndarray
    draw_W: np.ndarray


def cut(num_bases: int, contig_index: int, config: Config) -> Cut:
    """Returns the pieces of a contig, the last one being what is left.

    Three uniform draws a piece: full or shorter, how short, which split.

    Args:
      num_bases: length of the contig, 1 or more.
      contig_index: its number in the input; keys the draws, with the seed.
      config: seed, full length, share of full length.
    """
    rng = np.random.default_rng((config.seed, _CUT_STREAM, contig_index))
    full, share = config.window_bases, config.data.full_length_share
    mean = share * full + (1 - share) * (SHORTEST_PIECE + full) / 2
    lengths, draws, covered = [], [], 0
    while covered < num_bases:
        uniform_W3 = rng.random((int((num_bases - covered) / mean) + 16, 3))
        shorter_W = SHORTEST_PIECE + uniform_W3[:, 1] * (full - SHORTEST_PIECE)
        lengths.append(np.where(uniform_W3[:, 0] < share, full, shorter_W.astype(np.int64)))
        draws.append(uniform_W3[:, 2])
        covered += int(lengths[-1].sum())
    end_W = np.cumsum(np.concatenate(lengths))
    end_W = np.minimum(end_W[: np.searchsorted(end_W, num_bases) + 1], num_bases)
    start_W = np.concatenate([[0], end_W[:-1]])
    return Cut(start_W, end_W - start_W, np.concatenate(draws)[: len(end_W)])


def hold_out(bases_C: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Returns which contigs are held out for validation, so that neither split is empty.

    Contigs are visited in random order and one is held out if that brings the
    held-out bases nearer to the fraction; if none does, the shortest is.

    Args:
      bases_C: int64 (C,), bases in the windows of every contig; two or more
        are above 0.
      fraction: of all bases that should be held out.
      seed: of the visiting order.

    Returns:
      bool (C,).
    """
    usable = np.flatnonzero(bases_C)
    order = usable[np.random.default_rng((seed, _HOLD_OUT_STREAM)).permutation(len(usable))]
    target, held = fraction * bases_C.sum(), 0
    held_C = np.zeros(len(bases_C), bool)
    for index in order:
        nearer = abs(held + bases_C[index] - target) < abs(held - target)
        if nearer and held + bases_C[index] < bases_C.sum():
            held_C[index] = True
            held += bases_C[index]
    if not held:
        held_C[order[np.argmin(bases_C[order])]] = True
    return held_C


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a pass over the genome found, and which windows go where.

    Attributes:
      paths: the input files.
      config: of the run.
      held_out_C: bool (C,), contigs held out; None where the split is by window.
      names: of the held-out contigs, `record:first-last`, from 1.
      lengths: bases of every window of every split, in the order of `rows`.
      short_pieces: pieces too short for one k-mer, and their bases.
      tally: of the input.
    """

    paths: list[str]
    config: Config
    held_out_C: np.ndarray | None
    names: list[str]
    lengths: dict[str, np.ndarray]
    short_pieces: tuple[int, int]
    tally: genome.Tally

    @property
    def windows(self) -> dict[str, int]:
        """Number of windows of every split."""
        return {split: len(length_W) for split, length_W in self.lengths.items()}

    @property
    def bases(self) -> dict[str, int]:
        """Real bases in the windows of every split."""
        return {split: int(length_W.sum()) for split, length_W in self.lengths.items()}

    def rows(self, split: str) -> Iterator[np.ndarray]:
        """Yields the windows of a split, uint8 (up to 4096, window_bases), in genome order."""
        k, size = self.config.tokens.k, self.config.window_bases
        for index, contig in enumerate(genome.read_contigs(self.paths, min_length=k)):
            pieces = cut(len(contig.bases), index, self.config)
            if self.held_out_C is None:
                held_W = pieces.draw_W < self.config.data.validation_fraction
            else:
                held_W = np.full(len(pieces.start_W), self.held_out_C[index])
            taken = np.flatnonzero((held_W == (split == "validation")) & (pieces.length_W >= k))
            for first in range(0, len(taken), _CHUNK_WINDOWS):
                chunk = taken[first : first + _CHUNK_WINDOWS]
                place_WN = pieces.start_W[chunk, None] + np.arange(size)
                rows_WN = contig.bases[np.minimum(place_WN, len(contig.bases) - 1)]
                rows_WN[np.arange(size) >= pieces.length_W[chunk, None]] = vocabulary.PADDING
                yield rows_WN


def plan(paths: list[str], config: Config) -> Plan:
    """Returns which windows the input gives; raises `InputError` where a split would be empty."""
    k, tally = config.tokens.k, genome.Tally()
    dtype = np.min_scalar_type(config.window_bases)
    names, lengths, drawn, short = [], [np.zeros(0, dtype)], [np.zeros(0, bool)], []
    contigs = genome.read_contigs(paths, min_length=k, tally=tally, progress=True)
    for index, contig in enumerate(contigs):
        pieces = cut(len(contig.bases), index, config)
        kept_W = pieces.length_W >= k
        lengths.append(pieces.length_W[kept_W].astype(dtype))
        drawn.append(pieces.draw_W[kept_W] < config.data.validation_fraction)
        short.extend(pieces.length_W[~kept_W].tolist())
        last = contig.start + len(contig.bases)
        names.append(f"{contig.record}:{contig.start + 1}-{last}")
    bases_C = np.array([length_W.sum() for length_W in lengths[1:]], np.int64)
    held_out_C = None
    if _splits_by_contig(bases_C, config):
        held_out_C = hold_out(bases_C, config.data.validation_fraction, config.seed)
        drawn[1:] = map(np.full_like, drawn[1:], held_out_C)
    length_W, held_W = np.concatenate(lengths), np.concatenate(drawn)
    result = Plan(
        paths=paths,
        config=config,
        held_out_C=held_out_C,
        names=[] if held_out_C is None else [names[i] for i in np.flatnonzero(held_out_C)],
        lengths={"train": length_W[~held_W], "validation": length_W[held_W]},
        short_pieces=(len(short), sum(short)),
        tally=tally,
    )
    _check_enough(result)
    return result


def _splits_by_contig(bases_C: np.ndarray, config: Config) -> bool:
    """Whether whole contigs are held out; "auto": where two or more have windows."""
    usable = np.count_nonzero(bases_C)
    if config.data.split == "contig" and usable < 2:
        raise InputError(
            f"data.split='contig': {config.data.fasta or 'the input'} has {usable} contig with "
            "windows, expected two or more; set data.split=window"
        )
    return usable >= 2 and config.data.split != "window"


def _check_enough(plan: Plan) -> None:
    """Both splits have a window."""
    for split in SPLITS:
        if not plan.windows[split]:
            raise InputError(
                f"{', '.join(plan.paths)}: too little data: {plan.tally.bases:,} bases in "
                f"{plan.tally.contigs:,} contigs give {plan.windows['train']} train and "
                f"{plan.windows['validation']} validation windows, expected one or more of each "
                f"(a window has {plan.config.tokens.k} to {plan.config.window_bases} bases)"
            )
