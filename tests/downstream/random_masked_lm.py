"""A masked LM that was not trained, and the posteriors of its bases computed the slow way."""

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cmgems_jax.config import Config, DataConfig, TokensConfig
from cmgems_jax.model import heads
from cmgems_jax.pretraining import checkpoints, pretrained
from cmgems_jax.pretraining.pretrained import Pretrained
from cmgems_jax.runtime import parallel
from tests.downstream.random_classifier import MODEL
from tests.masking.slow_masking import LETTERS
from tests.model import slow_bases

OTHER = dict(zip("ATCGN", "TAGCN", strict=True))


def save(workdir: Path, k: int = 3, stride: int = 1, num_tokens: int = 22) -> Pretrained:
    """Writes a run's checkpoint of a random model, which is returned too."""
    tokens = TokensConfig(k=k, stride=stride)
    config = Config(model=MODEL, tokens=tokens, data=DataConfig(num_tokens=num_tokens))
    model = heads.MaskedLM(config.model, tokens)
    ids = jnp.zeros((1, 8), jnp.int32)
    params = jax.jit(model.init)(jax.random.key(k), ids, ids[0])["params"]
    # Thirty times BERT's deviation, so that surroundings matter.
    params = jax.tree.map(lambda leaf: leaf * 30 if leaf.ndim > 1 else leaf, params)
    checkpoints.save_params(workdir, parallel.to_host(params), config)
    return pretrained.load_masked_lm(workdir)


def other_strand(text: str) -> str:
    """Returns the reverse complement."""
    return "".join(OTHER[letter] for letter in reversed(text))


def slow_log_posterior(model: Pretrained, window: str, place: int) -> dict[str, float]:
    """Returns log p of each letter at one place of a window, which is hidden alone."""
    tokens = model.config.tokens
    found = slow_bases.posteriors(
        window, [place], tokens.k, tokens.stride, model.config.data.num_tokens,
        functools.partial(_logits, model),
    )  # fmt: skip
    return {letter: math.log(found[0][letter]) for letter in LETTERS}


def _logits(model: Pretrained, ids: list[int]) -> np.ndarray:
    """Returns the logits at every position."""
    tokens = model.config.tokens
    return np.asarray(_apply(model.params, jnp.array([ids], jnp.int32), tokens.k, tokens.stride))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _apply(params: dict, ids_BL: jax.Array, k: int, stride: int) -> jax.Array:
    """Returns logits (L, V) of one row; compiled once a length."""
    model = heads.MaskedLM(MODEL, TokensConfig(k=k, stride=stride))
    return model.apply({"params": params}, ids_BL, jnp.arange(ids_BL.shape[1], dtype=jnp.int32))
