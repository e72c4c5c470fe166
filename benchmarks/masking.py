"""Share of a train step that tokenising, masking and corruption take.

    python -m benchmarks.masking --config=configs/logo6.py --batch_size=8

Times the whole train program and, in turn with it, a program that only makes
the masked batch from the same bases; prints medians and their ratio to the step.
"""

import functools
import time
from collections.abc import Callable

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from benchmarks import result
from cmgems_jax import command, curriculum, parallel, pmi_table, steps, vocabulary

_CONFIG = config_flags.DEFINE_config_file("config", "configs/logo6.py", "Config file.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Sequences a step, in one part.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Timed repeats of each, taken in turn.")


def timed(function: Callable[[], object]) -> float:
    """Returns the seconds of one call, until its result is on the device."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def main() -> None:
    """Runs the benchmark."""
    config = command.config_of(_CONFIG)
    config.batch_size, config.accumulation_steps = _BATCH_SIZE.value, 1
    ranks_V = pmi_table.ranks_for(config, config.fasta_paths)
    state, train, _ = steps.make(config, ranks_V)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 4, (config.batch_size, config.window_bases)).astype(np.uint8)
    for row in rows[::2]:  # half of the windows are short, as in training
        row[rng.integers(6, rows.shape[1]) :] = vocabulary.PADDING
    index = np.arange(len(rows), dtype=np.int32)
    batch = steps.Batch(*(parallel.shard(x) for x in (rows, index)))
    flat = steps.Batch(rows, index)

    seconds: dict[str, list[float]] = {}
    programs = {}
    for which, strategy in enumerate(curriculum.strategies(config.curriculum)):
        programs[strategy] = (
            jax.jit(
                functools.partial(
                    steps.mask_batch,
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
                seconds.setdefault(name, []).append(value)
    result.report(
        "masking",
        seconds,
        case=f"{config.model.num_layers} layers, batch {config.batch_size}",
        notes={"layers": config.model.num_layers, "sequences": config.batch_size},
    )


if __name__ == "__main__":
    command.run(main)
