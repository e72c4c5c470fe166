"""A batch of full windows of random bases, for the benchmarks of the compiled step."""

import jax
import numpy as np

from cmgems_jax import parallel
from cmgems_jax.config import Config
from cmgems_jax.steps import Batch


def full_batch(config: Config) -> Batch:
    """Returns a step's batch on this process's devices, every window of full length."""
    shape = (config.batch_size, config.window_bases)
    bases_BN = np.random.default_rng(config.seed).integers(0, 4, shape).astype(np.uint8)
    rows = Batch(bases_BN, np.arange(config.batch_size, dtype=np.int32))
    return jax.tree.map(lambda x: parallel.shard(x, config.accumulation_steps), rows)
