"""Faults of a run, found early and named clearly: numbers, memory, disk, readable masks."""

import contextlib
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from cmgems_jax.config import Config
from cmgems_jax.errors import InputError, TrainingError
from cmgems_jax.model import bert
from cmgems_jax.pretraining import checkpoints, optimizer, progress
from cmgems_jax.pretraining.steps import TrainState
from cmgems_jax.runtime import outputs
from cmgems_jax.windows import batches
from cmgems_jax.windows.packing import EMPTY, Packing

READABLE_PERPLEXITY = 1.1  # below it, masked tokens are read off, not predicted
_EARLY_STEPS = 1_000  # so soon that no model can have learned that much
_NUM_WINDOWS_NAMED = 8


def refuse_non_finite(
    metrics: Sequence[dict[str, Any]], first_step: int, config: Config, packed: Packing
) -> None:
    """Raises `TrainingError` at the first step whose loss or gradient is not finite.

    `metrics` are of `steps.train_step`, on the host, from step `first_step` (1: the run's first)
    on; `packed`, the rows of the training split, names the batch's windows.
    """
    for step, values in enumerate(metrics, first_step):
        loss, norm = float(values["loss_sum"]), float(values["grad_norm"])
        if math.isfinite(loss) and math.isfinite(norm):
            continue
        rate = float(optimizer.schedule(config.optimizer, config.num_steps)(step - 1))
        rows_BM = batches.batch_rows(
            packed, seed=config.seed, step=step - 1, batch_size=config.batch_size
        )
        windows = rows_BM[rows_BM != EMPTY].tolist()
        named = ", ".join(map(str, windows[:_NUM_WINDOWS_NAMED]))
        more = ", ..." if len(windows) > _NUM_WINDOWS_NAMED else ""
        raise TrainingError(
            f"step {step}: not finite: loss sum {loss}, gradient norm {norm}, learning rate "
            f"{rate:.3g}, training windows {named}{more}. No checkpoint was written after the "
            "last good one; lower optimizer.peak_lr, raise optimizer.warmup_steps, or set "
            "model.dtype=float32 (in another --workdir)"
        )


def warn_if_readable(perplexity: float, step: int, sums: dict[str, float]) -> None:
    """Prints a warning where a perplexity near 1 so early means that masks give the answer away.

    `sums` are those of the evaluation.
    """
    if perplexity < READABLE_PERPLEXITY and step <= _EARLY_STEPS:
        masked = progress.ratio(sums["predicted"], sums["eligible"])
        hidden = progress.ratio(sums["hidden_covered"], sums["predicted"])
        print(
            f"warning: step {step}: perplexity {perplexity:.3f}: masked tokens are readable from "
            f"their neighbours, or the corpus repeats itself. {masked:.1%} of the tokens are "
            f"masked and each covers {hidden:.2f} hidden bases (0 = all can be read off); check "
            "tokens.k, tokens.stride, masking.budget and data.fasta",
            flush=True,
        )


@contextlib.contextmanager
def memory_explained(config: Config) -> Iterator[None]:
    """Raises `InputError` with what to lower where a device's memory is used up in the block."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        if "RESOURCE_EXHAUSTED" not in text and "out of memory" not in text.lower():
            raise
        part = config.batch_size // config.accumulation_steps // jax.device_count()
        raise InputError(
            f"out of memory on {jax.devices()[0].device_kind}: {part} rows at a time on each "
            f"device, of {config.data.num_tokens} positions, in "
            f"{bert.compute_dtype(config.model)}. Raise accumulation_steps (now "
            f"{config.accumulation_steps}) or lower batch_size (now {config.batch_size}) or "
            "data.num_tokens"
        ) from None


def check_disk(workdir: Path, state: TrainState, config: Config) -> int:
    """Returns the bytes of a checkpoint; `InputError` where those to come do not fit."""
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    there = min(len(checkpoints.saved_steps(workdir)), config.keep_checkpoints)
    number = config.keep_checkpoints + 1 - there  # the next one is written before one goes
    needed = size * number
    free = shutil.disk_usage(outputs.nearest_folder(workdir)).free
    if free < needed:
        raise InputError(
            f"{workdir}: {free / 2**20:,.0f} MiB free, but {number} more checkpoints of "
            f"{size / 2**20:,.0f} MiB need {needed / 2**20:,.0f}; free some space, "
            "lower keep_checkpoints, or use another --workdir"
        )
    return size
