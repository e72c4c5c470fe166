"""A classifier that was not trained, and its logits computed the slow way."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cmgems_jax.config import Config, ModelConfig, TokensConfig
from cmgems_jax.downstream.finetuning.classifier import TrainedClassifier
from cmgems_jax.genome import vocabulary
from cmgems_jax.model import heads

MODEL = ModelConfig(
    num_layers=1, hidden_size=16, num_heads=2, feedforward_size=32, num_positions=32,
    dropout=0.1, attention_dropout=0.1,
)  # fmt: skip


def make_classifier(
    num_classes: int = 2, max_tokens: int = 22, k: int = 3, stride: int = 1, head: str = "cls"
) -> TrainedClassifier:
    """Returns random parameters of ten times BERT's deviation, so that inputs matter."""
    config = Config(model=MODEL, tokens=TokensConfig(k=k, stride=stride))
    model = heads.Classifier(config.model, config.tokens, num_classes, head)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8), jnp.int32))["params"]
    params = jax.tree.map(lambda leaf: leaf * 10 if leaf.ndim > 1 else leaf, params)
    names = [f"class{number}" for number in range(num_classes)]
    return TrainedClassifier(config, params, names, max_tokens, head=head)


def slow_ids(bases_M: np.ndarray, k: int = 3, stride: int = 1) -> jax.Array:
    """Returns [CLS], the k-mers and [SEP] of one sequence, without padding: int32 (1, L)."""
    ids = [vocabulary.CLS, *vocabulary.tokenize(bases_M, k, stride).tolist(), vocabulary.SEP]
    return jnp.array([ids], jnp.int32)


def slow_logits(
    classifier: TrainedClassifier, bases_M: np.ndarray, params: dict | None = None
) -> jax.Array:
    """Returns float32 logits (C,) of one sequence alone."""
    tokens = classifier.config.tokens
    ids_BL = slow_ids(bases_M, tokens.k, tokens.stride)
    settings = tokens.k, tokens.stride, len(classifier.label_names), classifier.head
    return _apply(params or classifier.params, ids_BL, *settings)


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _apply(
    params: dict, ids_BL: jax.Array, k: int, stride: int, num_classes: int, head: str
) -> jax.Array:
    """Returns the logits (C,) of one row of ids; compiled once a length."""
    model = heads.Classifier(MODEL, TokensConfig(k=k, stride=stride), num_classes, head)
    return model.apply({"params": params}, ids_BL)[0]
