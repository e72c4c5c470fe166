"""Records of any length as windows of a model's length, and windows as batches of few shapes.

Units: a window starts at a token of its record, so that the windows' tokens are the
record's; starts are then given in bases. Axes: B windows of a batch, N bases, D hidden.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from cmgems_jax import terminal
from cmgems_jax.config import TokensConfig
from cmgems_jax.errors import InputError
from cmgems_jax.genome import files as genome_files
from cmgems_jax.genome import vocabulary
from cmgems_jax.genome.reference import Contig, Reference
from cmgems_jax.runtime import parallel

_MIN_BUCKET = 32  # k-mers; shorter windows are padded to it
CHUNK_BATCHES = 16  # batches whose windows are sorted by length together


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How records are cut into windows."""

    k: int
    token_stride: int  # bases
    window_tokens: int  # k-mers per window
    step_tokens: int  # k-mers between the starts of neighbouring windows
    strand: str = "forward"  # that is read; of "both", the reverse complement has the same windows

    @property
    def window_bases(self) -> int:
        """Bases of a full window."""
        return vocabulary.num_bases(self.window_tokens, self.k, self.token_stride)

    def buckets(self) -> list[int]:
        """Returns the window lengths (bases) that programs are compiled for, smallest first."""
        lengths = [self.window_tokens]
        while lengths[-1] > _MIN_BUCKET:
            lengths.append(max(_MIN_BUCKET, -(-lengths[-1] // 2)))
        return [vocabulary.num_bases(n, self.k, self.token_stride) for n in lengths[::-1]]


@dataclasses.dataclass
class Window:
    """A stretch of a record that the model sees at a time."""

    record: str
    start: int  # 0-based, bases
    bases: np.ndarray  # uint8 (n,), codes 0..4
    first_owned: int  # k-mers of the window: those before belong to the window before,
    end_owned: int  # and those from here on to the next one
    is_last: bool  # of its record


# Name and base codes of each; of an indexed file, a window's bases are read when it comes.
Records = genome_files.Records | Reference | Sequence[tuple[str, np.ndarray]]
WindowOutputs = Iterator[tuple[Window, list[np.ndarray]]]


@dataclasses.dataclass
class Survey:
    """What is in the files, counted before the long work."""

    num_records: int = 0
    num_windows: int = 0
    num_bases: int = 0
    num_ambiguous: int = 0


def check_window(tiling: Tiling, window: int | None, least: int, why: str) -> None:
    """Raises `InputError`, which `why` ends, where windows hold fewer than `least` bases.

    Windows are of whole k-mers, so that those of some more bases may be as short. `window` is
    the flag's value, or None.
    """
    if tiling.window_bases >= least:
        return
    num_tokens = -(-(least - tiling.k) // tiling.token_stride) + 1
    fits = vocabulary.num_bases(num_tokens, tiling.k, tiling.token_stride)
    given = f"the model takes {tiling.window_bases} bases at a time"
    if window is not None:
        given = f"--window={window}"
    raise InputError(f"{given}: expected {fits} bases or more, {why}")


def make_tiling(
    tokens: TokensConfig,
    max_tokens: int,
    window: int | None,
    stride: int | None,
    strand: str = "forward",
) -> Tiling:
    """Returns the windows for a model; raises `InputError` where a flag is out of its range.

    Args:
      tokens: of the model.
      max_tokens: positions that the model takes, [CLS] and [SEP] included.
      window: bases; None = as many as the model takes.
      stride: bases between window starts; None = half a window.
    """
    k, token_stride = tokens.k, tokens.stride
    longest = vocabulary.num_bases(max_tokens - 2, k, token_stride)
    if window is not None and not k <= window <= longest:
        raise InputError(
            f"--window={window}: expected {k} to {longest} bases, what the model takes at a time"
        )
    window_tokens = vocabulary.num_tokens(window or longest, k, token_stride)
    half = max(1, window_tokens // 2)
    tiling = Tiling(k, token_stride, window_tokens, half, strand)
    if stride is None:
        return tiling
    highest = window_tokens * token_stride
    if not 1 <= stride <= highest:
        raise InputError(
            f"--stride={stride}: expected 1 to {highest} bases; a larger step would leave out "
            f"k-mers between windows of {tiling.window_bases} bases"
        )
    if stride % token_stride:
        raise InputError(
            f"--stride={stride}: expected a multiple of {token_stride}, the model's tokens.stride"
        )
    return dataclasses.replace(tiling, step_tokens=stride // token_stride)


def window_starts(num_tokens: int, tiling: Tiling) -> list[int]:
    """Returns where the windows of a record of `num_tokens` k-mers start, in k-mers.

    Every k-mer is in a window. The last window ends with the record, so that no window of a
    long record is short.
    """
    last, step = max(0, num_tokens - tiling.window_tokens), tiling.step_tokens
    if tiling.strand != "both":
        return [*range(0, last, step), last]
    # As many from either end that those in the middle are no more than a step apart.
    half = range(0, (max(0, last - step) + 1) // 2 + step, step)
    return sorted({*half, *(last - start for start in half)})


def windows_of(name: str, bases: np.ndarray | Contig, tiling: Tiling) -> Iterator[Window]:
    """Yields the windows of one record, uint8 (n,) of at least k bases.

    A k-mer that two windows see belongs to the one where it has more context.
    """
    num_tokens = vocabulary.num_tokens(len(bases), tiling.k, tiling.token_stride)
    starts = window_starts(num_tokens, tiling)
    first = 0
    for start, following in itertools.zip_longest(starts, starts[1:]):
        end = min(start + tiling.window_tokens, num_tokens)
        # Two windows share the k-mers from the next one's start on; each takes a half.
        end_owned = end if following is None else (following + end) // 2
        first_base = start * tiling.token_stride
        num_bases = vocabulary.num_bases(end - start, tiling.k, tiling.token_stride)
        yield Window(
            record=name,
            start=first_base,
            bases=bases[first_base : first_base + num_bases],
            first_owned=first - start,
            end_owned=end_owned - start,
            is_last=following is None,
        )
        first = end_owned


def survey(records: Records, tiling: Tiling, *, needs_known: bool = False) -> Survey:
    """Reads the records once, to refuse bad input before the long work and to know its size.

    Raises:
      InputError: a damaged file, a record shorter than k, or, where `needs_known`, one
        without a k-mer of known bases.
    """
    total = Survey()
    kind = "contig" if isinstance(records, Reference) else "record"
    source = kind if isinstance(records, Sequence) else f"{records}: {kind}"
    for name, bases in records:
        num_tokens = vocabulary.num_tokens(len(bases), tiling.k, tiling.token_stride)
        if not num_tokens:
            raise InputError(
                f"{source} '{name}': {len(bases)} bases; expected at least {tiling.k}, "
                "one k-mer of the model; leave it out"
            )
        windows = windows_of(name, bases, tiling)
        if needs_known and not any(_has_known_token(window, tiling) for window in windows):
            raise InputError(
                f"{source} '{name}': no {tiling.k}-mer without ambiguous letters (N), so "
                "there is nothing to average; leave it out, or give --pooling=cls"
            )
        total.num_records += 1
        total.num_windows += len(window_starts(num_tokens, tiling))
        total.num_bases += len(bases)
        if isinstance(bases, np.ndarray):  # a contig's bases are not read for this
            total.num_ambiguous += int((bases >= vocabulary.AMBIGUOUS).sum())
    return total


def _has_known_token(window: Window, tiling: Tiling) -> bool:
    """True where a k-mer of the window has no ambiguous letter."""
    ids = vocabulary.tokenize(window.bases, tiling.k, tiling.token_stride)
    return bool((ids >= vocabulary.NUM_SPECIAL).any())


def read_windows(records: Records, tiling: Tiling) -> Iterator[Window]:
    """Yields the windows of every record, in their order."""
    for name, bases in records:
        yield from windows_of(name, bases, tiling)


def run_windows(
    windows: Iterator[Window],
    program: Callable[..., tuple[np.ndarray, ...]],
    tiling: Tiling,
    *,
    batch_size: int,
    num_windows: int,
    description: str,
    chunk_batches: int = CHUNK_BATCHES,
) -> WindowOutputs:
    """Yields every window with the model's outputs for it, in order.

    Windows of similar length run together, padded to one of a few lengths, so that
    few programs are compiled and short records cost little.

    Args:
      program: `(bases_BN, owned_B2) -> outputs`, each (B, ...), of `parallel.rows_program`;
        bases are uint8 with `vocabulary.PADDING` behind, owned is int32, the range of
        k-mers that belong to the window.
      batch_size: windows per batch, rounded up to a multiple of the local devices.
      num_windows: for the progress bar, as `description` is.
      chunk_batches: batches whose windows are sorted together, and whose outputs are
        in memory at a time.
    """
    batch_size = parallel.whole_batch(batch_size)
    with terminal.bar(total=num_windows, unit="windows", desc=description) as bar:
        while chunk := list(itertools.islice(windows, chunk_batches * batch_size)):
            order = sorted(range(len(chunk)), key=lambda index: len(chunk[index].bases))
            outputs: list[list[np.ndarray]] = [[] for _ in chunk]
            for first in range(0, len(order), batch_size):
                batch = order[first : first + batch_size]
                arrays = program(*_pad([chunk[index] for index in batch], batch_size, tiling))
                for row, index in enumerate(batch):
                    outputs[index] = [array_B[row] for array_B in arrays]
                bar.update(len(batch))
            yield from zip(chunk, outputs, strict=True)


def _pad(windows: list[Window], batch_size: int, tiling: Tiling) -> tuple[np.ndarray, np.ndarray]:
    """Returns bases uint8 (B, N), N one of few lengths, and owned ranges int32 (B, 2)."""
    longest = max(len(window.bases) for window in windows)
    num_bases = next(length for length in tiling.buckets() if length >= longest)
    bases_BN = np.full((batch_size, num_bases), vocabulary.PADDING, np.uint8)
    owned_B2 = np.zeros((batch_size, 2), np.int32)
    for row, window in enumerate(windows):
        bases_BN[row, : len(window.bases)] = window.bases
        owned_B2[row] = window.first_owned, window.end_owned
    return bases_BN, owned_B2


def print_summary(survey: Survey, tiling: Tiling, output: object, seconds: float) -> None:
    """Prints what was read, from which strand, how it was cut, and how fast it went."""
    ambiguous = (
        f", {survey.num_ambiguous:,} ambiguous letters ([UNK] tokens)"
        if survey.num_ambiguous
        else ""
    )
    print(
        f"{survey.num_records:,} records, {survey.num_bases:,} bases{ambiguous}; "
        f"{survey.num_windows:,} windows of at most {tiling.window_bases} bases, "
        f"{tiling.step_tokens * tiling.token_stride} from start to start; "
        f"strand: {tiling.strand}"
    )
    print(
        f"{seconds:,.1f} s, {survey.num_bases / seconds / 1e3:,.1f} kb/s; wrote {output}",
        flush=True,
    )
