"""Real bases per second with packed rows against one padded row a window, end to end.

    python -m benchmarks.packing --config=configs/logo6.py --config.data.fasta=genome.fa.gz \\
        --config.batch_size=8 --config.accumulation_steps=1 --workdir=runs/packing

Prepares the windows in the work folder, then takes steps of either kind in turn, reading
included; both compute as many positions a step. Prints the share of real positions over
an epoch and in the timed steps, medians with quartiles, and the ratio; on a CPU that
others use too, the ratio of bases a second of its own CPU time says more.
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from cmgems_jax import command, packing, parallel, pmi_table, steps
from cmgems_jax.config import Config
from cmgems_jax.data import batches, windows

_CONFIG = config_flags.DEFINE_config_file("config", "configs/logo6.py", "Config file; fields too.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/packing", "Where the windows are prepared.")
_REPEATS = flags.DEFINE_integer("repeats", 9, "Timed steps of each, taken in turn.")
_WINDOWS = flags.DEFINE_list("windows_a_row", ["1", "2"], "Kinds; the first one is the measure.")


class Timed(NamedTuple):
    """One step."""

    wall: float  # seconds
    cpu: float  # seconds of this process, all threads
    bases: float  # real ones
    real: float  # share of the positions


def stepper(
    config: Config, training: windows.Windows, packed: packing.Packing
) -> Callable[[int], dict[str, np.ndarray]]:
    """Returns a function that reads and trains on the batch of a step and returns its metrics."""
    ranks_V = pmi_table.ranks_for(config, config.fasta_paths)
    state, train, _ = steps.make(config, ranks_V)

    def run(step: int) -> dict[str, np.ndarray]:
        nonlocal state
        rows = batches.read_batch(
            training, packed, seed=config.seed, step=step, batch_size=config.batch_size
        )
        batch = packing.Batch(*(parallel.shard(x, config.accumulation_steps) for x in rows))
        state, metrics = train(state, batch)
        return jax.device_get(metrics)

    return run


def main() -> None:
    """Runs the benchmark."""
    config = command.config_of(_CONFIG)
    folder = Path(config.data.dir or Path(_WORKDIR.value) / "data")
    windows.prepare(config, folder)
    training = windows.open(folder, "train")
    runs: dict[str, Callable[[int], dict[str, np.ndarray]]] = {}
    timed: dict[str, list[Timed]] = {}
    for kind in _WINDOWS.value:
        own = dataclasses.replace(config.data, windows_a_row=int(kind))
        own = dataclasses.replace(config, data=own)
        packed = packing.pack(training.lengths, own)
        print(
            f"windows a row {kind}: {len(training):,} windows in {len(packed.slot_RM):,} rows, "
            f"{1 - packed.padding:.2%} of the positions real",
            flush=True,
        )
        runs[kind] = stepper(own, training, packed)
        timed[kind] = []
    positions = config.batch_size * config.data.num_tokens
    for step in range(_REPEATS.value + 1):  # the first one compiles
        for kind, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            metrics = run(step)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            real = 1 - float(metrics["padding"]) / positions
            if step:
                timed[kind].append(Timed(wall, cpu, float(metrics["bases"]), real))
    _print_table(config, timed)


def _print_table(config: Config, timed: dict[str, list[Timed]]) -> None:
    """Prints medians and ratios to the first kind."""
    device = jax.devices()[0].device_kind
    print(
        f"{jax.device_count()} x {device}; {config.batch_size} rows of {config.data.num_tokens}; "
        f"medians of {_REPEATS.value} steps in turn\n"
        f"{'windows a row':<15}{'real':>8}{'s/step':>9}{'kbases/s':>10}"
        f"{'quartiles':>16}{'ratio':>8}{'CPU s':>9}{'ratio':>8}"
    )
    first: list[float] = []
    for kind, steps_taken in timed.items():
        wall, cpu, bases, real = (np.array(values) for values in zip(*steps_taken, strict=True))
        rates = [float(np.median(bases / wall)), float(bases.sum() / cpu.sum())]
        first = first or rates
        low, high = np.percentile(bases / wall, [25, 75])
        spread = f"{low / 1e3:.2f}..{high / 1e3:.2f}"
        print(
            f"{kind:<15}{real.mean():>8.1%}{np.median(wall):>9.3f}{rates[0] / 1e3:>10.2f}"
            f"{spread:>16}{rates[0] / first[0]:>8.3f}{np.median(cpu):>9.3f}"
            f"{rates[1] / first[1]:>8.3f}"
        )


if __name__ == "__main__":
    command.run(main)
