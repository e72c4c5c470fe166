"""Share of a train step that tokenising, masking, corruption and packing take.

    python -m benchmarks.masking --config=configs/logo6.py --batch_size=8

Times the whole train program and, in turn with it, a program that only makes
the masked batch from the same bases; prints medians and their ratio to the step.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags

from benchmarks import result
from cmgems_jax import (
    command,
    curriculum,
    masked_rows,
    packing,
    parallel,
    pmi_table,
    steps,
    vocabulary,
)
from cmgems_jax.config import Config

_CONFIG = command.define_config("logo6")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Rows a step, in one part.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Timed repeats of each, taken in turn.")


def timed(function: Callable[[], object]) -> float:
    """Returns the seconds of one call, until its result is on the device."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def packed_rows(config: Config) -> packing.Batch:
    """Returns packed rows of random windows, half of them short, as in training."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(config.tokens.k, config.window_bases, 1_000 + 4 * config.batch_size)
    lengths[::2] = config.window_bases
    index = packing.pack(lengths, config).rows(rng)[: config.batch_size]
    bases = rng.integers(0, 4, (*index.shape, config.window_bases)).astype(np.uint8)
    length_RM = np.where(index == packing.EMPTY, 0, lengths[index])
    bases[np.arange(config.window_bases) >= length_RM[..., None]] = vocabulary.PADDING
    return packing.Batch(bases, index)


def seen_rows(*arguments: Any, **settings: Any) -> masked_rows.Rows:
    """Returns what the model sees of the rows; the arguments are those of `mask_batch`."""
    return masked_rows.lay_in_rows(masked_rows.mask_batch(*arguments, **settings))


def main() -> None:
    """Runs the benchmark."""
    config = _CONFIG.value
    config.batch_size, config.accumulation_steps = _BATCH_SIZE.value, 1
    ranks_V = pmi_table.ranks_for(config, config.fasta_paths)
    state, train, _ = steps.make(config, ranks_V)
    flat = packed_rows(config)
    batch = packing.Batch(*(parallel.shard(x) for x in flat))

    samples: dict[str, list[float]] = {}
    programs = {}
    for which, strategy in enumerate(curriculum.strategies(config.curriculum)):
        programs[strategy] = (
            jax.jit(
                functools.partial(
                    seen_rows,
                    strategies=curriculum.strategies(config.curriculum),
                    ranks_V=jax.numpy.asarray(ranks_V),
                    config=config,
                )
            ),
            np.int32(which),
        )
    for repeat in range(_REPEATS.value + 1):  # the first one compiles
        start = time.perf_counter()
        state, metrics = train(state, batch)
        jax.block_until_ready(metrics)
        took = {"train step": time.perf_counter() - start}
        for strategy, (program, which) in programs.items():
            call = functools.partial(
                program, jax.random.key(repeat), flat, which, np.float32(config.masking.budget)
            )
            took[strategy] = timed(call)
        if repeat:
            for name, value in took.items():
                samples.setdefault(name, []).append(1e3 * value)
    name = f"masking_{config.model.num_layers}x{config.model.hidden_size}"
    notes = {"rows": config.batch_size, "positions": config.data.num_tokens}
    result.report(name, samples, unit="ms", notes=notes)


if __name__ == "__main__":
    command.run(main)
