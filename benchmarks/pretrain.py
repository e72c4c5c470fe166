"""Pretraining end to end against PyTorch: real bases per second on the same windows.

    python -m benchmarks.pretrain --config=configs/logo6.py --config.data.fasta=genome.fa.gz \\
        --config.batch_size=8 --torch_python=ENVIRONMENT/bin/python

Ours reads, packs, masks by PMI and trains as launch.pretrain does; PyTorch trains HuggingFace's
BertForMaskedLM (sdpa, fused AdamW) from a DataLoader whose collator tokenises, masks as
DNABERT does and pads to the longest window of the batch. As many rows per step;
padding is not counted as bases on either side. They take turns.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from absl import flags

from benchmarks import peer, result, rows
from cmgems_jax.config import Config
from cmgems_jax.pmi import table as pmi_table
from cmgems_jax.pretraining import steps
from cmgems_jax.runtime import command
from cmgems_jax.windows import batches, dataset, packing
from cmgems_jax.windows.files import StoredWindows

_CONFIG = command.define_config("logo6")
_WORKDIR = flags.DEFINE_string("workdir", "runs/benchmark", "Where the windows are prepared.")
_STEPS = flags.DEFINE_integer("steps", 4, "Steps of one timed repeat.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 7, "Timed repeats of each.", lower_bound=1)
_PYTHON = flags.DEFINE_string("torch_python", sys.executable, "Python that has torch.")
_WORKERS = flags.DEFINE_integer("torch_workers", 0, "Processes of its DataLoader.", lower_bound=0)
_NUM_WINDOWS = 20_000  # of the training split, that the PyTorch side draws from


def main() -> None:
    """Runs the benchmark."""
    config = _CONFIG.value
    config.accumulation_steps = 1
    folder = config.data_dir(_WORKDIR.value)
    dataset.prepare(config, folder)
    training = dataset.open_split(folder, "train")
    chosen = np.random.default_rng(0).permutation(len(training))[:_NUM_WINDOWS]
    with (
        peer.torch_peer(
            config,
            training.read(np.sort(chosen)),
            python=_PYTHON.value,
            pad_to=0,
            num_workers=_WORKERS.value,
        ) as (said, ask),
        _ours(config, training) as (run, stream),
    ):

        def torch_rate() -> float:
            took = ask(_STEPS.value)
            return took["bases"] / took["seconds"]

        calls = {"torch": torch_rate, "cmgems_jax": lambda: run(_STEPS.value)}
        result.in_turn(calls, 1)  # compiles
        samples = result.in_turn(calls, _REPEATS.value)
        waited_s = stream.waited_s
    notes = peer.notes(config, said)
    notes |= {"input_wait_s": round(waited_s, 3), "torch_workers": _WORKERS.value}
    name = f"pretrain_{config.model.num_layers}x{config.model.hidden_size}"
    result.report(name, samples, unit="bases/s", notes=notes)


@contextlib.contextmanager
def _ours(
    config: Config, training: StoredWindows
) -> Iterator[tuple[Callable[[int], float], batches.prefetch]]:
    """Yields a function of a number of steps, to real bases per second, and its input."""
    state, train, _ = steps.make(config, pmi_table.ranks_for(config, config.fasta_paths))
    read = rows.reader(config, training, packing.pack(training.lengths, config))
    with batches.prefetch(read, range((_REPEATS.value + 1) * _STEPS.value)) as stream:

        def run(count: int) -> float:
            nonlocal state
            start, bases = time.perf_counter(), []
            for _ in range(count):
                state, metrics = train(state, next(stream))
                bases.append(metrics["bases"])
            return float(sum(jax.device_get(bases))) / (time.perf_counter() - start)

        yield run, stream


if __name__ == "__main__":
    command.run(main)
