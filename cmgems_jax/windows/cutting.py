"""How contigs are cut into pretraining windows, and which are held out.

Every contig is cut without overlap (SPEC: pretraining windows; as DNABERT, Ji
et al. 2021, and GeneMask): half of the pieces have the full length, the others
a random shorter one, and every piece begins at a multiple of the stride, so that
codons stay in frame. How a contig is cut follows from (seed, its number, its
length) alone, so the genome is streamed once for each purpose and never held.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from cmgems_jax.config import Config
from cmgems_jax.errors import InputError
from cmgems_jax.genome import files as genome_files
from cmgems_jax.genome import vocabulary

SPLITS = ("train", "validation")
SHORTEST_PIECE = 5  # bases (Ji et al. 2021)
_CUT_STREAM, _HOLD_OUT_STREAM = range(2)
_CHUNK_WINDOWS = 4_096
_BLOCK_WINDOWS = 16  # about 6,000 bases at 512 positions: longer than most genes of microbes
_LEAST_BLOCKS = 32  # held out, so that their share is near the one in the config


class Cut(NamedTuple):
    """W pieces that cover one contig, each beginning where the one before ends."""

    length_W: np.ndarray  # int64 (W,), bases
    uniform_W: np.ndarray  # float64 (W,) in [0, 1), decides the split where that is by window


def cut(num_bases: int, contig_index: int, config: Config) -> Cut:
    """Returns the pieces of a contig of 1 base or more, the last one being what is left.

    Three uniform numbers per piece: full or shorter, how short, which split; their key is
    (seed, number of the contig in the input). Lengths are multiples of the stride.
    """
    rng = np.random.default_rng((config.seed, _CUT_STREAM, contig_index))
    full, share = config.window_bases, config.data.full_length_share
    stride, mean = config.tokens.stride, _mean_length(config)
    lengths, uniforms, covered = [], [], 0
    while covered < num_bases:
        uniform_W3 = rng.random((int((num_bases - covered) / mean) + 16, 3))
        shorter_W = SHORTEST_PIECE + uniform_W3[:, 1] * (full - SHORTEST_PIECE)
        length_W = np.where(uniform_W3[:, 0] < share, full, shorter_W.astype(np.int64))
        lengths.append(np.maximum(length_W - length_W % stride, stride))
        uniforms.append(uniform_W3[:, 2])
        covered += int(lengths[-1].sum())
    end_W = np.cumsum(np.concatenate(lengths))
    end_W = np.minimum(end_W[: np.searchsorted(end_W, num_bases) + 1], num_bases)
    return Cut(np.diff(end_W, prepend=0), np.concatenate(uniforms)[: len(end_W)])


def _mean_length(config: Config) -> float:
    """Returns the expected bases of a piece."""
    full, share = config.window_bases, config.data.full_length_share
    return share * full + (1 - share) * (SHORTEST_PIECE + full) / 2


def hold_out(bases_C: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Returns which contigs are held out for validation, so that neither split is empty.

    Contigs are visited in random order and one is held out if that brings the
    held-out bases nearer to the fraction; if none does, the shortest is.

    Args:
      bases_C: int64 (C,), bases in the windows of every contig; two or more
        are above 0.
      fraction: of all bases that should be held out.
      seed: of the visiting order.
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
class Pieces:
    """The P pieces of all C contigs, one behind the other, so that no contig is cut twice."""

    first_C: np.ndarray  # int64 (C + 1,), number of every contig's first piece
    length_P: np.ndarray  # unsigned (P,), bases
    held_P: np.ndarray  # bool (P,), for validation, where windows and not contigs are held out

    def count(self, chosen_P: np.ndarray) -> np.ndarray:
        """Returns number and bases of every contig's chosen pieces, int64 (C, 2)."""
        values = (chosen_P, self.length_P * chosen_P)
        sums = [np.add.reduceat(value_P, self.first_C[:-1], dtype=np.int64) for value_P in values]
        return np.stack(sums, axis=1)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a pass over the genome found, and which windows go where."""

    paths: list[str]
    config: Config
    content: str  # of the input, see `genome.files.Survey`
    held_out_C: np.ndarray | None  # bool (C,), contigs held out; None where windows are
    block: int  # neighbouring windows that are held out together; 1 is each for itself
    note: str  # why no contigs are held out, where "auto" could have
    names: list[str]  # of the held-out contigs, `record:first-last`, from 1
    contig_bases_C: np.ndarray  # int64 (C,), length of every contig
    windows_CS: np.ndarray  # int64 (C, 2), windows of every contig in train and validation
    bases: dict[str, int]  # real bases of every split
    short_pieces: tuple[int, int]  # pieces too short for one k-mer, and their bases
    tally: genome_files.Tally
    pieces: Pieces | None  # None where contigs shall be cut again, to save memory

    @property
    def windows(self) -> dict[str, int]:
        """Number of windows of every split."""
        return dict(zip(SPLITS, self.windows_CS.sum(axis=0).tolist(), strict=True))

    def rows(self, split: str) -> Iterator[np.ndarray]:
        """Yields the windows of a split, uint8 (up to 4096, window_bases), in genome order."""
        contigs = genome_files.read_contigs(self.paths, min_length=self.config.tokens.k)
        for index, contig in enumerate(contigs):
            if self.windows_CS[index, SPLITS.index(split)]:
                yield from self.contig_rows(contig.bases, self.contig_windows(index), split)

    def contig_windows(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns first base, length and "is for validation" of a contig's windows, each (W,)."""
        if self.pieces is None:
            length_W, held_W = _cut_and_choose(
                int(self.contig_bases_C[index]), index, self.block, self.config
            )
        else:
            mine = slice(*self.pieces.first_C[index : index + 2])
            length_W, held_W = self.pieces.length_P[mine], self.pieces.held_P[mine]
        if self.held_out_C is not None:
            held_W = np.full(len(length_W), self.held_out_C[index])
        start_W = np.cumsum(length_W, dtype=np.int64) - length_W
        kept_W = length_W >= self.config.tokens.k
        return start_W[kept_W], length_W[kept_W], held_W[kept_W]

    def contig_rows(
        self, bases_N: np.ndarray, windows: tuple[np.ndarray, np.ndarray, np.ndarray], split: str
    ) -> Iterator[np.ndarray]:
        """Yields a contig's windows in a split, as `rows`; `windows` are its `contig_windows`."""
        size = self.config.window_bases
        start_W, length_W, held_W = windows
        taken_W = held_W == (split == "validation")
        start_W, length_W = start_W[taken_W], length_W[taken_W]
        for first in range(0, len(start_W), _CHUNK_WINDOWS):
            chunk = slice(first, first + _CHUNK_WINDOWS)
            position_WN = start_W[chunk, None] + np.arange(size)
            rows_WN = bases_N[np.minimum(position_WN, len(bases_N) - 1)]
            rows_WN[np.arange(size) >= length_W[chunk, None]] = vocabulary.PADDING
            yield rows_WN

    def lengths(self) -> dict[str, np.ndarray]:
        """Returns the bases of every split's windows, unsigned (W,), in the order of `rows`."""
        dtype = np.min_scalar_type(self.config.window_bases)
        lengths = {split: [np.zeros(0, dtype)] for split in SPLITS}
        for index in range(len(self.contig_bases_C)):
            _, length_W, held_W = self.contig_windows(index)
            for split in SPLITS:
                lengths[split].append(length_W[held_W == (split == "validation")].astype(dtype))
        return {split: np.concatenate(parts) for split, parts in lengths.items()}


def _cut_and_choose(
    num_bases: int, index: int, block: int, config: Config
) -> tuple[np.ndarray, np.ndarray]:
    """Returns lengths of a contig's pieces, and which are chosen for validation, both (W,)."""
    length_W, uniform_W = cut(num_bases, index, config)
    uniform_W = uniform_W[np.arange(len(uniform_W)) // block * block]
    return length_W, uniform_W < config.data.validation_fraction


def plan(paths: list[str], config: Config) -> Plan:
    """Returns which windows the input gives; raises `InputError` where a split would be empty."""
    survey = genome_files.survey(paths, min_length=config.tokens.k, progress=True)
    return plan_of(paths, config, survey)


def plan_of(paths: list[str], config: Config, survey: genome_files.Survey) -> Plan:
    """Returns the plan of files that have been surveyed; raises as `plan`."""
    block = _block(survey.lengths, config)
    pieces = _all_pieces(survey.lengths, block, config)
    kept_P = pieces.length_P >= config.tokens.k
    kept_C2 = pieces.count(kept_P)
    held_out_C, note = _contigs_to_hold_out(kept_C2, config)
    if held_out_C is None:
        held_C2, names = pieces.count(kept_P & pieces.held_P), []
    else:
        held_C2 = kept_C2 * held_out_C[:, None]
        names = [survey.names[index] for index in np.flatnonzero(held_out_C)]
    both_CS2 = np.stack([kept_C2 - held_C2, held_C2], axis=1)  # windows and bases by split
    result = Plan(
        paths=paths,
        config=config,
        content=survey.content,
        held_out_C=held_out_C,
        block=block,
        note=note,
        names=names,
        contig_bases_C=np.array(survey.lengths, np.int64),
        windows_CS=both_CS2[:, :, 0],
        bases=dict(zip(SPLITS, both_CS2[:, :, 1].sum(axis=0).tolist(), strict=True)),
        short_pieces=(int((~kept_P).sum()), int(pieces.length_P[~kept_P].sum())),
        tally=survey.tally,
        pieces=pieces,
    )
    _check_enough(result)
    return result


def _all_pieces(lengths: list[int], block: int, config: Config) -> Pieces:
    """Returns the pieces of contigs of these lengths."""
    dtype = np.min_scalar_type(config.window_bases)
    length_parts, held_parts = [np.zeros(0, dtype)], [np.zeros(0, bool)]
    for index, length in enumerate(lengths):
        length_W, held_W = _cut_and_choose(length, index, block, config)
        length_parts.append(length_W.astype(dtype))
        held_parts.append(held_W)
    first_C = np.cumsum([len(held_W) for held_W in held_parts])
    return Pieces(first_C, np.concatenate(length_parts), np.concatenate(held_parts))


def _block(lengths: list[int], config: Config) -> int:
    """Returns how many windows are held out together where contigs cannot be."""
    if config.data.split == "window" or len(lengths) < 2:
        return 1
    held_windows = config.data.validation_fraction * sum(lengths) / _mean_length(config)
    return int(np.clip(held_windows // _LEAST_BLOCKS, 1, _BLOCK_WINDOWS))


def _contigs_to_hold_out(kept_C2: np.ndarray, config: Config) -> tuple[np.ndarray | None, str]:
    """Returns the contigs to hold out, or None and why "auto" takes windows.

    "auto" holds out contigs where they come near to what the config asks for: between half
    and twice the share of the bases, and at least a quarter of the windows that an
    evaluation wants, unless there are too few in any case. `kept_C2` holds windows and
    bases of every contig.
    """
    windows_C, bases_C = kept_C2.T
    split, fraction = config.data.split, config.data.validation_fraction
    usable = np.count_nonzero(bases_C)
    if split == "contig" and usable < 2:
        raise InputError(
            f"data.split='contig': {config.data.fasta or 'the input'} has {usable} contig with "
            "windows, expected two or more; set data.split=window"
        )
    if usable < 2 or split == "window":
        return None, ""
    held_C = hold_out(bases_C, fraction, config.seed)
    share, num_windows = bases_C[held_C].sum() / bases_C.sum(), windows_C[held_C].sum()
    is_near = fraction / 2 <= share <= 2 * fraction
    is_few = num_windows < config.eval_windows / 4 <= fraction * windows_C.sum()
    if split == "contig" or (is_near and not is_few):
        return held_C, ""
    return None, (
        f"held-out contigs would be {share:.1%} of the bases ({num_windows:,} windows), where "
        f"data.validation_fraction={fraction:g}"
    )


def _check_enough(plan: Plan) -> None:
    """Raises `InputError` unless both splits have a window."""
    source = ", ".join(plan.paths)
    if not plan.config.data.fasta:
        source = f"data.synthetic_bases={plan.config.data.synthetic_bases}"
    for split in SPLITS:
        if not plan.windows[split]:
            raise InputError(
                f"{source}: too little data: {plan.tally.bases:,} bases in "
                f"{plan.tally.contigs:,} contigs give {plan.windows['train']} train and "
                f"{plan.windows['validation']} validation windows, expected one or more of each "
                f"(a window has {plan.config.tokens.k} to {plan.config.window_bases} bases)"
            )
