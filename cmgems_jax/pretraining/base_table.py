"""One yardstick for any models: nats per base of the same hidden bases of the same windows.

Axes: W windows, N bases, S hidden runs of a window, H hidden bases, A the four letters.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.model import base_probabilities, heads
from cmgems_jax.pretraining import base_evaluation, flank_table, pretrained
from cmgems_jax.pretraining.base_evaluation import Hidden
from cmgems_jax.pretraining.pretrained import Pretrained
from cmgems_jax.runtime import outputs, parallel
from cmgems_jax.windows import dataset

_KEY = 0  # of the choice of windows
_BATCH = 32
_WAYS = ("one", "run")
_SCHEMA = pa.schema([
    ("model", pa.string()), ("step", pa.int64()), ("k", pa.int64()), ("stride", pa.int64()),
    *((f"{what}_{way}", pa.float64()) for what in ("nats", "se") for way in _WAYS),
])  # fmt: skip


def evaluate(
    checkpoints: Sequence[Path],
    data_dir: Path,
    output: Path,
    *,
    run: int = 6,
    num_windows: int = 0,
) -> list[list[Any]]:
    """Writes and prints the nats per base of every model, and of the tables of 6-mers.

    All see the same windows, cut to what the shortest model takes, with the same hidden
    bases, chosen for the largest k: one at a time, and runs.

    Args:
      checkpoints: WORKDIR or WORKDIR/checkpoints/STEP of runs and imports.
      data_dir: a prepared data set: its validation windows, and the marks' counts from the others.
      output: .tsv or .parquet: model, step, k, stride; nats per base with one base and with
        `run` hidden; their standard errors over windows.
      run: bases hidden at a time.
      num_windows: at most; 0 = all that are long enough.

    Raises:
      InputError: a checkpoint or data set that cannot be read, or no window that is long enough.
    """
    outputs.check_file(output, outputs.TABLE_SUFFIXES)
    models = [pretrained.load_masked_lm(path) for path in checkpoints]
    hidden = _hidden(models, data_dir, run, num_windows)
    marks = hidden.marks(dataset.train_sixmers(data_dir))
    counts = [int((start_WS >= 0).sum()) * length for start_WS, length in hidden.ways]
    print(
        f"{len(hidden.bases):,} validation windows of {hidden.bases.shape[1]} bases in {data_dir}: "
        f"{counts[0]:,} bases hidden one at a time, {counts[1]:,} hidden {run} at a time"
    )
    print(
        f"{'nats per base':<40} {'1 hidden':>9} {f'{run} hidden':>9}  standard errors", flush=True
    )
    rows: list[list[Any]] = []
    for mark in flank_table.MARKS:
        nats = [marks[name][mark] for name in base_evaluation.NAMES]
        rows.append([mark, 0, flank_table.ORDER + 1, 1, *nats, math.nan, math.nan])
        _print(rows[-1])
    for model in models:
        tokens = model.config.tokens
        pairs = [_nats(model, hidden, way) for way in range(2)]
        nats, errors = zip(*pairs, strict=True)
        rows.append([model.name, model.step, tokens.k, tokens.stride, *nats, *errors])
        _print(rows[-1])
    with outputs.table(output, _SCHEMA) as add:
        for row in rows:
            add(row)
    print(f"wrote {output}", flush=True)
    return rows


def _print(row: list[Any]) -> None:
    """Prints a row of the table."""
    name, _, k, stride, one, run, *errors = row
    kind = f"{name} (k={k}" + (f", stride={stride})" if stride > 1 else ")")
    shown = "  ".join(f"{error:.4f}" for error in errors if np.isfinite(error))
    print(f"{kind:<40} {one:>9.4f} {run:>9.4f}  {shown}", flush=True)


def _hidden(models: list[Pretrained], data_dir: Path, run: int, num_windows: int) -> Hidden:
    """Returns windows that every model takes, with the same hidden bases."""
    windows, k = dataset.open_split(data_dir, "validation"), 0
    num_bases = windows.num_bases
    for model in models:
        tokens, positions = model.config.tokens, model.config.data.num_tokens
        k = max(k, tokens.k)
        num_bases = min(num_bases, vocabulary.num_bases(positions - 2, tokens.k, tokens.stride))
    order = np.random.default_rng(_KEY).permutation(len(windows))
    order = order[windows.lengths[order] >= num_bases][: num_windows or None]
    least = base_evaluation.least_bases(k, run)
    if num_bases < least or not len(order):
        raise InputError(
            f"{data_dir}: {len(order):,} validation windows of {num_bases} bases, which is what "
            f"the shortest model takes; expected one or more, of {least} bases at least, to hide "
            f"{run} of them"
        )
    return base_evaluation.hide(windows.read(order)[:, :num_bases], k, run)


def _nats(model: Pretrained, hidden: Hidden, way: int) -> tuple[float, float]:
    """Returns the mean nats per base of a model, and its standard error over windows."""
    tokens = model.config.tokens
    room = hidden.room(tokens.k, tokens.stride)
    program = base_probabilities.program(
        heads.MaskedLM(model.config.model, tokens), model.params, room=room
    )
    hidden_WH = hidden.positions()[way]
    log_posterior_WHA = parallel.map_rows(
        program,
        hidden.bases,
        hidden_WH,
        batch_size=parallel.whole_batch(_BATCH),
        description=f"{model.name}, {_WAYS[way]}",
    )
    nats_WH = -np.asarray(base_evaluation.true_letters(log_posterior_WHA, hidden.bases, hidden_WH))
    count_W = (hidden_WH >= 0).sum(axis=1)
    sum_W = np.where(hidden_WH >= 0, nats_WH, 0).sum(axis=1, dtype=np.float64)
    mean = sum_W.sum() / count_W.sum()
    error = np.sqrt(((sum_W - mean * count_W) ** 2).sum()) / count_W.sum()
    return float(mean), float(error)
