"""A batch of full windows of random bases, for the benchmarks of the compiled step."""

from cmgems_jax import packing, parallel
from cmgems_jax.config import Config


def full_batch(config: Config) -> packing.Batch:
    """Returns a step's batch on this process's devices, one full window a row."""
    rows = packing.full_rows(config, config.batch_size)
    return packing.Batch(*(parallel.shard(x, config.accumulation_steps) for x in rows))
