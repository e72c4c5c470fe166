"""One train step against HuggingFace's BertForMaskedLM in PyTorch, on full windows.

    python -m benchmarks.train_step --config=configs/logo6.py --batch_size=8
    python -m benchmarks.train_step --config=configs/dnabert6.py --batch_size=2 \\
        --torch_python=/path/to/an/environment/with/torch/bin/python

Both train the same sizes on as many full windows (no padding), with the same budget of
masked tokens and AdamW with clipping: ours the whole step of a pretraining run, that
is, with tokenising, PMI masks and logits at the masked positions; PyTorch its
collator, sdpa attention and logits everywhere (on a GPU bfloat16 autocast and
torch.compile). They take turns; the one does not run while the other does.
"""

import sys
import time
from collections.abc import Callable

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from benchmarks import result
from benchmarks.peer import torch_peer
from cmgems_jax import bert, command, packing, parallel, pmi_table, steps
from cmgems_jax.config import Config

_CONFIG = config_flags.DEFINE_config_file("config", "configs/logo6.py", "Config file.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Rows a step, in one part.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 2, "Steps of one timed repeat.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 7, "Timed repeats of each.", lower_bound=1)
_PYTHON = flags.DEFINE_string("torch_python", sys.executable, "Python that has torch.")
_NUM_WINDOWS = 64  # that the PyTorch side draws from


def main() -> None:
    """Runs the benchmark."""
    config = command.config_of(_CONFIG)
    config.batch_size, config.accumulation_steps = _BATCH_SIZE.value, 1
    ours = _ours(config)
    rng = np.random.default_rng(0)
    windows_WM = rng.integers(0, 4, (_NUM_WINDOWS, config.window_bases), np.uint8)
    peer = torch_peer(config, windows_WM, python=_PYTHON.value, pad_to=config.data.num_tokens)
    with peer as (peer_device, ask):
        seconds: dict[str, list[float]] = {"cmgems_jax": [], "torch": []}
        for repeat in range(_REPEATS.value + 1):  # the first one compiles
            took = {"cmgems_jax": ours(_STEPS.value), "torch": ask(_STEPS.value)["seconds"]}
            for name, value in took.items() if repeat else ():
                seconds[name].append(value / _STEPS.value)
    tokens = config.batch_size * config.data.num_tokens
    notes = {
        "config": _CONFIG.value_name if hasattr(_CONFIG, "value_name") else "",
        "rows": config.batch_size,
        "positions": config.data.num_tokens,
        "dtype": str(bert.compute_dtype(config.model)),
        "torch": peer_device,
    }
    result.report("train_step", seconds, per_second={"positions": tokens}, notes=notes)


def _ours(config: Config) -> Callable[[int], float]:
    """Returns a function that runs so many of our steps and returns the seconds."""
    state, train, _ = steps.make(config, pmi_table.ranks_for(config, config.fasta_paths))
    batch = jax.tree.map(parallel.shard, packing.full_rows(config, config.batch_size))
    held = [state]

    def run(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            held[0], metrics = train(held[0], batch)
        jax.block_until_ready(metrics)
        return time.perf_counter() - start

    return run


if __name__ == "__main__":
    command.run(main)
