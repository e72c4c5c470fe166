"""Real bases per second with packed rows against one padded row per window, end to end.

    python -m benchmarks.packing --config=configs/logo6.py --config.data.fasta=genome.fa.gz \\
        --config.batch_size=8 --config.accumulation_steps=1 --workdir=runs/packing

Prepares the windows in the work folder, then takes steps of either kind in turn, reading
included; both compute as many positions per step. Reports bases per second, and the share of
real positions over an epoch and in the timed steps; on a CPU that others use too, the
ratio of bases per second of its own CPU time says more.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from absl import flags

from benchmarks import result
from cmgems_jax.config import Config
from cmgems_jax.pmi import table as pmi_table
from cmgems_jax.pretraining import steps
from cmgems_jax.runtime import command, parallel
from cmgems_jax.windows import batches, dataset, packing
from cmgems_jax.windows.files import StoredWindows

_CONFIG = command.define_config("logo6")
_WORKDIR = flags.DEFINE_string("workdir", "runs/packing", "Where the windows are prepared.")
_REPEATS = flags.DEFINE_integer("repeats", 9, "Timed steps of each, taken in turn.")
_WINDOWS = flags.DEFINE_list("windows_per_row", ["1", "2"], "Kinds; the first one is the measure.")


class Timed(NamedTuple):
    """One step."""

    wall: float  # seconds
    cpu: float  # seconds of this process, all threads
    bases: float  # real ones
    real: float  # share of the positions


def stepper(
    config: Config, training: StoredWindows, packed: packing.Packing
) -> Callable[[int], dict[str, np.ndarray]]:
    """Returns a function that reads and trains on the batch of a step and returns its metrics."""
    ranks_V = pmi_table.ranks_for(config, config.fasta_paths)
    state, train, _ = steps.make(config, ranks_V)

    def run(step: int) -> dict[str, np.ndarray]:
        nonlocal state
        rows = batches.read_batch(
            training, packed, seed=config.seed, step=step, batch_size=config.batch_size
        )
        state, metrics = train(state, parallel.shard(rows, config.accumulation_steps))
        return jax.device_get(metrics)

    return run


def main() -> None:
    """Runs the benchmark."""
    config = _CONFIG.value
    folder = config.data_dir(_WORKDIR.value)
    dataset.prepare(config, folder)
    training = dataset.open_split(folder, "train")
    runs: dict[str, Callable[[int], dict[str, np.ndarray]]] = {}
    timed: dict[str, list[Timed]] = {}
    epoch: dict[str, float] = {}
    for kind in _WINDOWS.value:
        own = dataclasses.replace(config.data, windows_per_row=int(kind))
        own = dataclasses.replace(config, data=own)
        packed = packing.pack(training.lengths, own)
        epoch[kind] = 1 - packed.padding
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
    _report(config, timed, epoch)


def _report(config: Config, timed: dict[str, list[Timed]], epoch: dict[str, float]) -> None:
    """Prints and writes bases per second of wall time, and ratios by this process's CPU time."""
    samples = {f"{kind} a row": [t.bases / t.wall for t in taken] for kind, taken in timed.items()}
    by_cpu = {
        kind: sum(t.bases for t in taken) / sum(t.cpu for t in taken)
        for kind, taken in timed.items()
    }
    first = next(iter(by_cpu.values()))
    notes = {"rows": config.batch_size, "positions": config.data.num_tokens}
    for kind, taken in timed.items():
        notes |= {
            f"{kind} a row, of the first by CPU time": round(by_cpu[kind] / first, 3),
            f"{kind} a row, CPU s a step": round(float(np.median([t.cpu for t in taken])), 3),
            f"{kind} a row, real share of an epoch": round(epoch[kind], 4),
            f"{kind} a row, real share of the steps": round(np.mean([t.real for t in taken]), 4),
        }
    name = f"packing_{config.model.num_layers}x{config.model.hidden_size}"
    result.report(name, samples, unit="bases/s", notes=notes)


if __name__ == "__main__":
    command.run(main)
