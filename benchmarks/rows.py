"""A batch of full windows of random bases for the benchmarks, and the work of a step on it."""

from cmgems_jax import packing, parallel, steps
from cmgems_jax.config import Config


def full_batch(config: Config) -> packing.Batch:
    """Returns a step's batch on this process's devices, one full window a row."""
    rows = packing.full_rows(config, config.batch_size)
    return packing.Batch(*(parallel.shard(x, config.accumulation_steps) for x in rows))


def flops_by_hand(config: Config) -> float:
    """Returns the operations of a step's matrix products: two a weight and token, times three.

    The last layer's feed-forward and the head run at the predicted positions alone where
    the model gathers them; counted here as if they ran everywhere but in the head.
    """
    model, tokens = config.model, config.data.num_tokens
    width = model.hidden_size
    layer = 2 * tokens * (4 * width**2 + 2 * width * model.feedforward_size)
    scores = 2 * 2 * tokens**2 * width
    predicted = steps.max_predictions(config, config.batch_size)
    head = 2 * predicted * (width**2 + width * (4**config.tokens.k + 5))
    return 3.0 * (config.batch_size * model.num_layers * (layer + scores) + head)
