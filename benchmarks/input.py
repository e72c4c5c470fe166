"""Windows a second into the device, and the share of a run that waits for its input.

    python -m benchmarks.input --config=configs/logo6.py --batch_size=8 --steps=20

Prepares a synthetic genome (or --config.data.fasta) in a temporary folder, reads random
batches of its windows, with and without moving them to the device, and then pretrains
for some steps: what the loop waited for its reading thread stands in the run's summary.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import flags

from benchmarks import result
from cmgems_jax.config import Config
from cmgems_jax.pretraining import loop as pretraining_loop
from cmgems_jax.runtime import command, run_log
from cmgems_jax.windows import dataset
from cmgems_jax.windows.files import StoredWindows

_CONFIG = command.define_config("logo6")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Rows a step, in one part.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 20, "Steps of each run.", lower_bound=4)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed repeats of each.", lower_bound=1)
_READ_WINDOWS = flags.DEFINE_integer("read_windows", 4_096, "Read in one repeat.", lower_bound=1)
_RUNS = flags.DEFINE_integer("runs", 3, "Pretraining runs.", lower_bound=1)
_SYNTHETIC_BASES = 4_000_000


def main() -> None:
    """Runs the benchmark."""
    config = _CONFIG.value
    config.batch_size, config.accumulation_steps = _BATCH_SIZE.value, 1
    if not config.data.fasta:
        config.data.synthetic_bases = config.data.synthetic_bases or _SYNTHETIC_BASES
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config.data.dir = str(dataset.prepare(config, folder / "data"))
        training = dataset.open_split(folder / "data", "train")
        rates = result.in_turn(_readers(training, config), _REPEATS.value)
        shares = [_waited(config, folder / f"run{number}") for number in range(_RUNS.value)]
    notes = {
        "layers": config.model.num_layers,
        "hidden": config.model.hidden_size,
        "rows": config.batch_size,
        "window bases": config.window_bases,
        "steps of a run": _STEPS.value,
        "share of the loop that waits for input": float(np.median(shares)),
        "shares": [round(share, 5) for share in shares],
    }
    name = f"input_{config.model.num_layers}x{config.model.hidden_size}"
    result.report(name, rates, unit="windows/s", notes=notes)


def _readers(training: StoredWindows, config: Config) -> dict[str, Callable[[], float]]:
    """Returns functions that read random batches and return the windows per second."""
    rng = np.random.default_rng(config.seed)

    def read(place: Callable[[np.ndarray], object]) -> float:
        start = time.perf_counter()
        for first in range(0, _READ_WINDOWS.value, config.batch_size):
            number = min(config.batch_size, _READ_WINDOWS.value - first)
            place(training.read(rng.integers(0, len(training), number)))
        return _READ_WINDOWS.value / (time.perf_counter() - start)

    return {
        "read": lambda: read(lambda rows: rows),
        "read, to the device": lambda: read(lambda rows: jax.device_put(rows).block_until_ready()),
    }


def _waited(config: Config, workdir: Path) -> float:
    """Returns the share of a run's steps that it waited for input, compilation left out."""
    config.num_steps = config.log_every = config.checkpoint_every = _STEPS.value
    config.eval_every, config.optimizer.warmup_steps = 0, 1
    config.curriculum.name, config.curriculum.strategy = "fixed", "genemask"
    pretraining_loop.pretrain(config, workdir)
    (summary,) = (
        record for record in run_log.read(workdir / "metrics.jsonl") if record["kind"] == "summary"
    )
    return summary["input_wait_seconds"] / summary["seconds_by_part"]["train"]


if __name__ == "__main__":
    command.run(main)
