"""Frozen features and logistic regression: what a pretrained encoder knows as it is.

Axes: N sequences, B sequences of a batch, L token positions, D hidden, F features,
n rows of a draw, C classes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from cmgems_jax import terminal
from cmgems_jax.config import Config
from cmgems_jax.downstream.finetuning import position_limit
from cmgems_jax.genome import vocabulary
from cmgems_jax.model import bert
from cmgems_jax.pretraining.pretrained import Pretrained
from cmgems_jax.runtime import parallel

INVERSE_PENALTY = 0.01  # scikit-learn's C; see `probe`
_MAX_ITERATIONS = 1_000
_PREDICTED_ROWS = 8_192  # at a time: they are copied to be scaled


def features(
    pretrained: Pretrained,
    bases_NM: np.ndarray,
    *,
    batch_size: int = 64,
    long_sequences: str = "error",
    source: str = "sequences",
) -> np.ndarray:
    """Returns what the encoder makes of each sequence, without training it.

    The means over the k-mers of the embeddings and of every layer's states, the
    maximum over them of the last layer's, and the last state at [CLS], which keeps what
    stands where (means do not: splice sites need it). [SEP], [PAD] and [UNK] do not count.

    Args:
      pretrained: the encoder.
      bases_NM: uint8, base codes, `vocabulary.PADDING` behind.
      batch_size: sequences at a time, rounded up to a multiple of the local devices.
      long_sequences: what is done with those beyond the position table; see
        `position_limit.cut`. Of windows, the mean of their features.
      source: how to call the sequences in messages.

    Returns:
      float32 (N, F), F = (layers + 3) * hidden size, in the order of `part_names`. A
      sequence without a k-mer of the vocabulary has zeros.
    """
    config = pretrained.config
    windows = position_limit.cut(bases_NM, config, long_sequences, source=source)
    position_limit.warn_of_new_positions(windows, config, source=source)
    model = bert.Encoder(config.model, config.tokens)
    features_WF = parallel.map_rows(
        parallel.rows_program(functools.partial(pooled_states, model=model), pretrained.params),
        windows.bases_WM,
        batch_size=parallel.whole_batch(min(batch_size, len(windows.bases_WM))),
        description="features",
    )
    return position_limit.mean(features_WF, windows)


def num_features(config: Config) -> int:
    """Returns F, how many features a sequence has."""
    return len(part_names(config.model.num_layers)) * config.model.hidden_size


def part_names(num_layers: int) -> list[str]:
    """Returns what the features of `features` are made of, in their order: hidden size each."""
    layers = [f"mean of layer {number}" for number in range(1, num_layers + 1)]
    return ["mean of the embeddings", *layers, "maximum of the last layer", "[CLS]"]


def pooled_states(params: dict, bases_BM: jax.Array, *, model: bert.Encoder) -> jax.Array:
    """Returns the features of a batch: float32 (B, F)."""
    ids_BL = vocabulary.model_ids(bases_BM, model.tokens.k, model.tokens.stride)
    states = model.apply({"params": params}, ids_BL, method=model.all_states)
    states = [states_BLD.astype(jnp.float32) for states_BLD in states]
    is_kmer_BL1 = (ids_BL >= vocabulary.NUM_SPECIAL)[:, :, None]
    count_B1 = is_kmer_BL1.sum(axis=1, dtype=jnp.int32)
    pooled = [
        jnp.where(is_kmer_BL1, states_BLD, 0).sum(axis=1)
        / jnp.maximum(count_B1, 1).astype(jnp.float32)
        for states_BLD in states
    ]
    largest_BD = jnp.where(is_kmer_BL1, states[-1], -jnp.inf).max(axis=1)
    last_BF = jnp.concatenate([largest_BD, states[-1][:, 0]], axis=1)
    return jnp.concatenate([*pooled, jnp.where(count_B1 > 0, last_BF, 0)], axis=1)


def probe(
    train_features_NF: np.ndarray,
    labels_N: np.ndarray,
    draws_DN: np.ndarray,
    test_features_NF: np.ndarray,
    num_classes: int,
) -> np.ndarray:
    """Fits logistic regression on the features, once per draw.

    Features are standardised by the drawn rows. The penalty is fixed and strong
    (`INVERSE_PENALTY`): there are more features than rows, and ten shots are too few to
    choose it.

    Args:
      train_features_NF: float32, of the rows that are drawn from.
      labels_N: int (N,), their classes.
      draws_DN: int (D, n), rows that a draw trains on.
      test_features_NF: float32, of what is predicted.
      num_classes: C.

    Returns:
      float32 (D, rows of test, C), probabilities.
    """
    # Draws of all rows are the same rows, and are fitted once.
    unique_DN, index_D = np.unique(np.sort(draws_DN), axis=0, return_inverse=True)
    shape = len(unique_DN), len(test_features_NF), num_classes
    probabilities_DNC = np.zeros(shape, np.float32)
    bar = terminal.bar(unique_DN, desc="probing", unit="draws")
    with threadpool_limits(1):  # the products are small: threads cost more than they save
        for probabilities_NC, rows in zip(probabilities_DNC, bar, strict=True):
            model = make_pipeline(
                StandardScaler(copy=False),  # the drawn rows are a copy
                LogisticRegression(C=INVERSE_PENALTY, max_iter=_MAX_ITERATIONS),
            ).fit(train_features_NF[rows], labels_N[rows])
            for start in range(0, shape[1], _PREDICTED_ROWS):
                some = slice(start, start + _PREDICTED_ROWS)
                probabilities_NC[some, model.classes_] = model.predict_proba(
                    test_features_NF[some].copy()
                )
    return probabilities_DNC[index_D]
