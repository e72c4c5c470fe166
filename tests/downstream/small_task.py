"""An untrained encoder, a task whose two classes are easy to tell apart, and draws of its rows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from cmgems_jax.config import Config, DataConfig, ModelConfig, TokensConfig
from cmgems_jax.downstream.finetuning.recipes import Recipe
from cmgems_jax.downstream.tasks.files import Examples
from cmgems_jax.downstream.tasks.tasks import Task, TaskData
from cmgems_jax.model import bert
from cmgems_jax.pretraining.pretrained import Pretrained

NUM_BASES = 16
TINY = Recipe(peak_lr=3e-3, num_epochs=2, batch_size=4, warmup_share=0.1)


def small_encoder(num_positions: int = 24) -> Pretrained:
    """Returns an untrained encoder of k=3."""
    config = Config(
        tokens=TokensConfig(k=3),
        data=DataConfig(num_tokens=num_positions),
        model=ModelConfig(
            num_layers=1, hidden_size=16, num_heads=2, feedforward_size=32,
            num_positions=num_positions, dropout=0.0, attention_dropout=0.0,
        ),
    )  # fmt: skip
    ids = jnp.zeros((1, 8), jnp.int32)
    params = bert.Encoder(config.model, config.tokens).init(jax.random.key(0), ids)["params"]
    return Pretrained(config, params, "small")


def examples(num_rows: int, seed: int = 0, num_bases: int = NUM_BASES) -> Examples:
    """Returns sequences of class 0, which hold more A, and class 1, more G."""
    rng = np.random.default_rng(seed)
    labels_N = np.arange(num_rows, dtype=np.int32) % 2
    shares = np.array([[0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7]])
    bases_NM = np.array([rng.choice(4, num_bases, p=shares[label]) for label in labels_N], np.uint8)
    return Examples(bases_NM, labels_N, np.arange(num_rows, dtype=np.int32) + 2, "small.tsv")


ENCODER = small_encoder()
# Ten times BERT's deviation: its features differ between sequences as those of a trained one do.
LOUD = dataclasses.replace(
    ENCODER, params=jax.tree.map(lambda x: x * 10 if x.ndim > 1 else x, ENCODER.params)
)
TRAIN, TEST = examples(60), examples(30, seed=1)
DATA = TaskData(Task("small", "own", 2, "accuracy"), TRAIN, None, TEST, ["0", "1"], [])
DRAWS = np.array([np.random.default_rng(draw).permutation(60)[:10] for draw in range(5)])
