"""Batches for the benchmarks, of full windows of random bases or of a data set, and our steps."""

import time
from collections.abc import Callable

import jax

from cmgems_jax.config import Config
from cmgems_jax.pmi import table as pmi_table
from cmgems_jax.pretraining import steps
from cmgems_jax.runtime import parallel
from cmgems_jax.windows import batches, packing
from cmgems_jax.windows.files import StoredWindows
from configs import dnabert6, logo6


def large() -> Config:
    """Returns BERT-large's sizes."""
    config = dnabert6.get_config()
    config.model.num_layers, config.model.hidden_size = 24, 1_024
    config.model.num_heads, config.model.feedforward_size = 16, 4_096
    return config


PRESETS = {"LOGO": logo6.get_config, "DNABERT-6": dnabert6.get_config, "24 x 1024": large}


def full_batch(config: Config) -> packing.Batch:
    """Returns a step's batch on this process's devices, one full window per row."""
    rows = packing.full_rows(config, config.batch_size)
    return parallel.shard(rows, config.accumulation_steps)


def reader(
    config: Config, training: StoredWindows, packed: packing.Packing
) -> Callable[[int], packing.Batch]:
    """Returns a function that reads the batch of a step onto this process's devices."""

    def read(step: int) -> packing.Batch:
        rows = batches.read_batch(
            training, packed, seed=config.seed, step=step, batch_size=config.batch_size
        )
        return parallel.shard(rows, config.accumulation_steps)

    return read


def stepper(config: Config) -> Callable[[int], float]:
    """Returns a function that runs so many of our steps on full windows and returns the seconds."""
    state, train, _ = steps.make(config, pmi_table.ranks_for(config, config.fasta_paths))
    batch = full_batch(config)

    def run(count: int) -> float:
        nonlocal state
        start = time.perf_counter()
        for _ in range(count):
            state, metrics = train(state, batch)
        jax.block_until_ready(metrics)
        return time.perf_counter() - start

    return run
