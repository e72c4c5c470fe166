"""How much a model is surprised by every base of a genome: -log posterior, as a track.

Each base is hidden once, in the window where it has more context. A pass over a window hides
several bases, `spacing` apart, and passes are repeated with the grid shifted by one base until
every base has had its turn. Axes: W windows, R rows (windows, strands and passes), N bases,
H hidden bases of a row, A the four letters.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cmgems_jax import terminal
from cmgems_jax.downstream.inference import sliding, tracks
from cmgems_jax.downstream.inference.settings import IS_REVERSED, BaseTrackSettings
from cmgems_jax.downstream.inference.sliding import Tiling, Window
from cmgems_jax.errors import InputError
from cmgems_jax.genome import reference as reference_lib
from cmgems_jax.genome import vocabulary
from cmgems_jax.genome.reference import Reference
from cmgems_jax.model import base_probabilities, heads
from cmgems_jax.pretraining import pretrained
from cmgems_jax.runtime import kept_rows, outputs, parallel

_VALUE = np.dtype("<f4")  # of a kept row: one base
_WINDOWS_AT_ONCE = 16  # between two writings
_AT_ONCE = 1 << 16  # bases of the track that are in memory


def base_track(
    checkpoint: Path | str,
    fasta: Path | str,
    output: Path | str,
    settings: BaseTrackSettings | None = None,
) -> float:
    """Writes -log posterior (nats) of every base; prints and returns the mean over the bases.

    A base has no value where a token that covers it is cut off by the contig's end or holds
    an ambiguous letter. Memory does not grow with the length of a contig; values are kept as
    they come, and the same command resumes where it was cut off.

    Args:
      checkpoint: a pretraining run's folder, or WORKDIR/checkpoints/STEP.
      fasta: the genome, plain or bgzip.
      output: .bw or .bedgraph.

    Raises:
      InputError: a bad flag or file; a former output stays as it was.
    """
    settings, output = settings or BaseTrackSettings(), Path(output)
    outputs.check_file(output, tracks.SUFFIXES)
    model = pretrained.load_masked_lm(Path(checkpoint))
    config = model.config
    tiling = sliding.make_tiling(
        config.tokens, config.data.num_tokens, settings.window, None, settings.strand
    )
    spacing = settings.spacing or 4 * tiling.k
    _check(settings, tiling)
    score = _scorer(model, tiling, spacing, settings)
    with reference_lib.opened(fasta) as reference:
        survey = sliding.survey(reference, tiling)
        inputs = {
            "checkpoint": pretrained.digest(model),
            "fasta": reference.sha256,
            "flags": {**dataclasses.asdict(settings), "spacing": spacing, "batch_size": None},
        }
        with kept_rows.opened(output, _VALUE, inputs) as rows:
            start_s = time.perf_counter()
            _score(score, reference, tiling, rows, survey.num_windows)
            mean = _write(rows, reference, tiling, output)
    seconds = time.perf_counter() - start_s
    sliding.print_summary(survey, tiling, output, seconds)
    print(f"mean {mean:.4f} nats per base; bases hidden at a time: {spacing} apart")
    return mean


def _check(settings: BaseTrackSettings, tiling: Tiling) -> None:
    """Raises `InputError` where a flag is out of its range."""
    why = "so that every base stands in a window with all the tokens that cover it"
    sliding.check_window(tiling, settings.window, 4 * tiling.k, why)
    if settings.spacing is not None and settings.spacing <= tiling.k:
        raise InputError(
            f"--spacing={settings.spacing}: expected more than k={tiling.k} bases; else bases "
            "between the hidden ones are hidden too"
        )


def _scorer(
    model: pretrained.Pretrained, tiling: Tiling, spacing: int, settings: BaseTrackSettings
) -> Callable[[list[Window]], list[np.ndarray]]:
    """Returns a function of windows: -log posterior of the bases that each of them owns."""
    network = heads.MaskedLM(model.config.model, model.config.tokens)
    program = base_probabilities.program(network, model.params)
    batch_size = parallel.whole_batch(settings.batch_size)

    def surprises(windows: list[Window]) -> list[np.ndarray]:
        has_value_W = [_has_value(window, tiling) for window in windows]
        total_W = [np.zeros(len(has_value)) for has_value in has_value_W]
        for is_reverse in IS_REVERSED[settings.strand]:
            rows = [_passes(window, tiling, spacing, is_reverse) for window in windows]
            bases_RN, hidden_RH = (np.concatenate(part) for part in zip(*rows, strict=True))
            log_RHA = parallel.map_rows(
                program, bases_RN, hidden_RH, batch_size=batch_size, description=""
            )
            true_RH = np.take_along_axis(bases_RN, np.maximum(hidden_RH, 0), axis=1)
            known_RH = np.minimum(true_RH, 3)[:, :, None].astype(np.int64)  # N: left out below
            own_RH = np.take_along_axis(log_RHA, known_RH, axis=2)[:, :, 0]
            for total, own_PH in zip(total_W, np.split(own_RH, len(windows)), strict=True):
                total -= own_PH.T.ravel()[: len(total)]  # in the order of the grid, see `_passes`
        num_strands = len(IS_REVERSED[settings.strand])
        return [
            np.where(has_value, total / num_strands, np.nan)
            for has_value, total in zip(has_value_W, total_W, strict=True)
        ]

    return surprises


def owned(window: Window, tiling: Tiling) -> tuple[int, int]:
    """Returns the bases of a window, [first, end), that are scored in it and in no other."""
    shift = tiling.k // 2  # the middle of the first token that it owns
    first = window.first_owned * tiling.token_stride + shift if window.start else 0
    if window.is_last:
        return first, len(window.bases)
    return first, window.end_owned * tiling.token_stride + shift


def _passes(
    window: Window, tiling: Tiling, spacing: int, is_reverse: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a row for each pass over a window: bases uint8 (R, N), hidden int32 (R, H).

    Column by column, the hidden ones are the bases that the window owns in order, then -1.
    """
    first, end = owned(window, tiling)
    num_hidden = -(-tiling.window_bases // spacing)
    position_RH = np.arange(first, first + num_hidden * spacing).reshape(num_hidden, spacing).T
    hidden_RH = np.where(position_RH < end, position_RH, -1)
    bases_N = np.full(tiling.window_bases, vocabulary.PADDING, np.uint8)
    bases_N[: len(window.bases)] = window.bases
    if is_reverse:
        bases_N = vocabulary.reverse_complement(bases_N)
        hidden_RH = np.where(hidden_RH < 0, -1, len(window.bases) - 1 - hidden_RH)
    return np.repeat(bases_N[None], spacing, axis=0), hidden_RH.astype(np.int32)


def _has_value(window: Window, tiling: Tiling) -> np.ndarray:
    """Returns bool (owned bases,): every token that covers the base is whole and known."""
    k, (first, end) = tiling.k, owned(window, tiling)
    unknown = np.pad(window.bases >= vocabulary.AMBIGUOUS, k - 1, constant_values=True)
    seen = np.lib.stride_tricks.sliding_window_view(unknown, 2 * k - 1)
    return ~seen.any(axis=1)[first:end]


def _score(
    score: Callable[[list[Window]], list[np.ndarray]],
    reference: Reference,
    tiling: Tiling,
    rows: kept_rows.KeptRows,
    num_windows: int,
) -> None:
    """Keeps the values of the windows that have none yet."""
    windows = sliding.read_windows(reference, tiling)
    num_kept, num_done = 0, 0
    for window in windows:
        first, end = owned(window, tiling)
        if num_kept + end - first > len(rows):
            windows = itertools.chain([window], windows)
            break
        num_kept += end - first
        num_done += 1
    rows.cut(num_kept)
    if num_done:
        print(f"resumed: {num_done:,} of {num_windows:,} windows were scored before")
    with terminal.bar(total=num_windows, initial=num_done, unit="windows", desc="scoring") as bar:
        while part := list(itertools.islice(windows, _WINDOWS_AT_ONCE)):
            rows.add(np.concatenate(score(part)))
            bar.update(len(part))


def _write(rows: kept_rows.KeptRows, reference: Reference, tiling: Tiling, output: Path) -> float:
    """Writes the track; returns the mean of its values."""
    first, total, count = 0, 0.0, 0
    with tracks.opened(output, reference.lengths) as track:
        for contig, length in reference.lengths.items():
            num_tokens = vocabulary.num_tokens(length, tiling.k, tiling.token_stride)
            covered = vocabulary.num_bases(num_tokens, tiling.k, tiling.token_stride)
            for start in range(0, covered, _AT_ONCE):
                values = rows.read(first + start, min(_AT_ONCE, covered - start))
                track.add_bases(contig, start, values)
                total += float(np.nansum(values, dtype=np.float64))
                count += int((~np.isnan(values)).sum())
            first += covered
    return total / max(1, count)
