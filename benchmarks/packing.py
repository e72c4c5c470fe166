"""Real bases per second with packed rows against one padded row per window, end to end.

    python -m benchmarks.packing --config=configs/logo6.py --config.data.fasta=genome.fa.gz \\
        --config.batch_size=8 --config.accumulation_steps=1 --workdir=runs/packing

Prepares the windows in the work folder, then takes steps of either kind in turn, reading
included; both compute as many positions per step. Reports bases per second, and the share of
real positions over an epoch and in the timed steps; on a CPU that others use too, the
ratio of bases per second of its own CPU time says more.
"""

import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from absl import flags

from benchmarks import result, rows
from cmgems_jax import config as config_lib
from cmgems_jax.config import Config
from cmgems_jax.pmi import table as pmi_table
from cmgems_jax.pretraining import steps
from cmgems_jax.runtime import command
from cmgems_jax.windows import dataset, packing

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


def main() -> None:
    """Runs the benchmark."""
    config = _CONFIG.value
    folder = config.data_dir(_WORKDIR.value)
    dataset.prepare(config, folder)
    training = dataset.open_split(folder, "train")
    calls: dict[str, Callable[[], Timed]] = {}
    epoch: dict[str, float] = {}
    for kind in _WINDOWS.value:
        own = config_lib.replace(config, {"data.windows_per_row": int(kind)})
        packed = packing.pack(training.lengths, own)
        epoch[kind] = 1 - packed.padding
        calls[kind] = stepper(own, rows.reader(own, training, packed))
    result.in_turn(calls, 1)  # compiles
    _report(config, result.in_turn(calls, _REPEATS.value), epoch)


def stepper(config: Config, read: Callable[[int], packing.Batch]) -> Callable[[], Timed]:
    """Returns a function that reads and trains on the batch of the next step."""
    state, train, _ = steps.make(config, pmi_table.ranks_for(config, config.fasta_paths))
    numbers = itertools.count()

    def run() -> Timed:
        nonlocal state
        wall, cpu = time.perf_counter(), time.process_time()
        state, metrics = train(state, read(next(numbers)))
        metrics = jax.device_get(metrics)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        padding = float(metrics["padding"]) / (config.batch_size * config.data.num_tokens)
        return Timed(wall, cpu, float(metrics["bases"]), 1 - padding)

    return run


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
