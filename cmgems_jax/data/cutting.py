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
      contig_bases_C: int64 (C,), length of every contig.
      windows_CS: int64 (C, 2), windows of every contig in train and validation.
      bases: real bases of every split.
      short_pieces: pieces too short for one k-mer, and their bases.
      tally: of the input.
    """

    paths: list[str]
    config: Config
    held_out_C: np.ndarray | None
    names: list[str]
    contig_bases_C: np.ndarray
    windows_CS: np.ndarray
    bases: dict[str, int]
    short_pieces: tuple[int, int]
    tally: genome.Tally

    @property
    def windows(self) -> dict[str, int]:
        """Number of windows of every split."""
        return dict(zip(SPLITS, self.windows_CS.sum(axis=0).tolist(), strict=True))

    def rows(self, split: str) -> Iterator[np.ndarray]:
        """Yields the windows of a split, uint8 (up to 4096, window_bases), in genome order."""
        contigs = genome.read_contigs(self.paths, min_length=self.config.tokens.k)
        for index, contig in enumerate(contigs):
            yield from self.contig_rows(contig.bases, index, split)

    def contig_rows(self, bases_N: np.ndarray, index: int, split: str) -> Iterator[np.ndarray]:
        """Yields the windows of one contig in a split, as `rows`.

        Args:
          bases_N: uint8 (N,) of the contig.
          index: its number in the input.
          split: "train" or "validation".
        """
        size = self.config.window_bases
        start_W, length_W = self._pieces(index, split)
        for first in range(0, len(start_W), _CHUNK_WINDOWS):
            chunk = slice(first, first + _CHUNK_WINDOWS)
            place_WN = start_W[chunk, None] + np.arange(size)
            rows_WN = bases_N[np.minimum(place_WN, len(bases_N) - 1)]
            rows_WN[np.arange(size) >= length_W[chunk, None]] = vocabulary.PADDING
            yield rows_WN

    def lengths(self, split: str) -> np.ndarray:
        """Returns the bases of every window of a split, unsigned (W,), in the order of `rows`."""
        dtype = np.min_scalar_type(self.config.window_bases)
        numbers = range(len(self.contig_bases_C))
        return np.concatenate([self._pieces(i, split)[1].astype(dtype) for i in numbers])

    def _pieces(self, index: int, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns first base and length of the windows of one contig in a split: both (W,)."""
        pieces = cut(int(self.contig_bases_C[index]), index, self.config)
        if self.held_out_C is None:
            held_W = pieces.draw_W < self.config.data.validation_fraction
        else:
            held_W = np.full(len(pieces.start_W), self.held_out_C[index])
        taken_W = (held_W == (split == "validation")) & (pieces.length_W >= self.config.tokens.k)
        return pieces.start_W[taken_W], pieces.length_W[taken_W]


def plan(paths: list[str], config: Config) -> Plan:
    """Returns which windows the input gives; raises `InputError` where a split would be empty."""
    tally, names, lengths = genome.Tally(), [], []
    contigs = genome.read_contigs(paths, min_length=config.tokens.k, tally=tally, progress=True)
    for contig in contigs:
        names.append(contig_name(contig))
        lengths.append(len(contig.bases))
    return plan_of(paths, config, names, lengths, tally)


def contig_name(contig: genome.Contig) -> str:
    """Returns `record:first-last`, from 1."""
    return f"{contig.record}:{contig.start + 1}-{contig.start + len(contig.bases)}"


def plan_of(
    paths: list[str], config: Config, names: list[str], lengths: list[int], tally: genome.Tally
) -> Plan:
    """Returns the plan of contigs of which only names and lengths are known, in their order."""
    k, counts = config.tokens.k, []
    for index, length in enumerate(lengths):
        pieces = cut(length, index, config)
        kept_W = pieces.length_W >= k
        drawn_W = kept_W & (pieces.draw_W < config.data.validation_fraction)
        masks = (kept_W, drawn_W, ~kept_W)
        counts.append([(m.sum(), pieces.length_W[m].sum()) for m in masks])
    kept_C2, drawn_C2, short_C2 = np.array(counts, np.int64).reshape(-1, 3, 2).swapaxes(0, 1)
    held_out_C = None
    if _splits_by_contig(kept_C2[:, 1], config):
        held_out_C = hold_out(kept_C2[:, 1], config.data.validation_fraction, config.seed)
        drawn_C2 = kept_C2 * held_out_C[:, None]
    train_C2 = kept_C2 - drawn_C2
    bases = zip(SPLITS, (train_C2[:, 1], drawn_C2[:, 1]), strict=True)
    result = Plan(
        paths=paths,
        config=config,
        held_out_C=held_out_C,
        names=[] if held_out_C is None else [names[i] for i in np.flatnonzero(held_out_C)],
        contig_bases_C=np.array(lengths, np.int64),
        windows_CS=np.stack([train_C2[:, 0], drawn_C2[:, 0]], axis=1),
        bases={split: int(bases_C.sum()) for split, bases_C in bases},
        short_pieces=(int(short_C2[:, 0].sum()), int(short_C2[:, 1].sum())),
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
