"""Batches of packed rows of random windows, and the config that they fit."""

import jax.numpy as jnp
import numpy as np

from cmgems_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig
from cmgems_jax.genome import vocabulary
from cmgems_jax.runtime import parallel
from cmgems_jax.windows import packing
from cmgems_jax.windows.packing import Batch

RANKS = np.random.default_rng(0).permutation(4096).astype(np.int32) + 1


def small_config(**changes: object) -> Config:
    """Returns a config of a model that compiles in seconds."""
    model = ModelConfig(
        num_layers=1, hidden_size=32, num_heads=2, feedforward_size=64, num_positions=64,
        dropout=0.1, attention_dropout=0.0,
    )  # fmt: skip
    settings = {
        "num_steps": 20, "batch_size": 16, "accumulation_steps": 2, "eval_every": 5,
        "data": DataConfig(num_tokens=64), "model": model,
        "optimizer": OptimizerConfig(peak_lr=1e-2, warmup_steps=2),
    }  # fmt: skip
    return Config(**{**settings, **changes})


def random_batch(config: Config, seed: int = 0) -> Batch:
    """Returns packed rows of random windows, full or short by the config's share."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(6, config.window_bases, 4 * config.batch_size)
    lengths[rng.random(len(lengths)) < config.data.full_length_share] = config.window_bases
    bases = rng.integers(0, 4, (len(lengths), config.window_bases)).astype(np.uint8)
    bases[np.arange(config.window_bases) >= lengths[:, None]] = vocabulary.PADDING
    index = packing.pack(lengths, config).rows(rng)[: config.batch_size]
    assert len(index) == config.batch_size
    nothing = np.full((1, config.window_bases), vocabulary.PADDING, np.uint8)
    return Batch(np.concatenate([bases, nothing])[index], index)  # the last one is EMPTY's


def sharded(config: Config, seed: int = 0) -> Batch:
    """Returns the random batch as the train program takes it."""
    return shard(random_batch(config, seed), config.accumulation_steps)


def shard(batch: Batch, accumulation_steps: int = 1) -> Batch:
    """Returns rows split over the devices."""
    return Batch(*(parallel.shard(x, accumulation_steps) for x in batch))


def on_device(batch: Batch) -> Batch:
    """Returns the batch as jax's arrays."""
    return Batch(*(jnp.asarray(x) for x in batch))
