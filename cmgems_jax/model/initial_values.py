"""Initial values of BERT's tables: BERT's own, and some that know what a k-mer is.

Axes: V vocabulary, D hidden, F places in a k-mer, S special tokens.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cmgems_jax.config import ModelConfig
from cmgems_jax.genome import vocabulary

WAVELENGTH_BASE = 1_000.0
normal = nn.initializers.normal(0.02)  # of BERT's matrices


def words(config: ModelConfig, k: int) -> nn.initializers.Initializer:
    """Returns the initializer of the (V, D) word table.

    "bert" is normal(0.02). "bases" starts every k-mer as a sum of one vector for
    each of its bases and places, so that k-mers that share bases start alike and
    the tied decoder starts as a sum of per-base scores (SPEC: initial values).
    """
    if config.embedding_init == "bert":
        return normal

    def init(key: jax.Array, shape: tuple[int, int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        base_key, special_key = jax.random.split(key)
        base_F4D = jax.random.normal(base_key, (k, 4, shape[1]), dtype)
        base_F4D -= base_F4D.mean(axis=1, keepdims=True)
        code_V = jnp.arange(4**k)
        kmer_VD = sum(base_F4D[i, code_V >> 2 * (k - 1 - i) & 3] for i in range(k))
        kmer_VD *= config.embedding_scale / kmer_VD.std()
        special_SD = normal(special_key, (vocabulary.NUM_SPECIAL, shape[1]), dtype)
        return jnp.concatenate([special_SD, kmer_VD])

    return init


def positions(config: ModelConfig) -> nn.initializers.Initializer:
    """Returns the initializer of the (positions, D) table: normal(0.02) or sines and cosines."""
    if config.position_init == "bert":
        return normal

    def init(key: jax.Array, shape: tuple[int, int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        del key  # not random
        num_sines = -(-shape[1] // 2)
        wavelength = WAVELENGTH_BASE ** (np.arange(num_sines) / num_sines)
        angle = np.arange(shape[0])[:, None] / wavelength[None, :]
        table = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)[:, : shape[1]]
        return jnp.asarray(config.position_scale * table, dtype)

    return init
