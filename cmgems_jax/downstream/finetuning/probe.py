"""Frozen features and logistic regression: what a pretrained encoder knows as it is.

Axes: N sequences, B sequences of a batch, L token positions, D hidden, F features,
n rows of a draw, C classes.
"""

import functools

import jax
import numpy as np
from scipy import special
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from cmgems_jax import terminal
from cmgems_jax.downstream.finetuning import position_limit
from cmgems_jax.genome import vocabulary
from cmgems_jax.model import bert, heads
from cmgems_jax.pretraining.pretrained import Pretrained
from cmgems_jax.runtime import parallel

INVERSE_PENALTY = 0.01  # scikit-learn's C; see `probe`
_MAX_ITERATIONS = 1_000
_PREDICTED_ROWS = 8_192  # at a time: they are copied in float64
_NO_CLASS = -1e4  # the logit of a class that was not drawn; exp of it is 0


def features(
    pretrained: Pretrained,
    bases_NM: np.ndarray,
    *,
    batch_size: int = 64,
    long_sequences: str = "error",
    source: str = "sequences",
) -> np.ndarray:
    """Returns what the encoder makes of each sequence, without training it.

    See `heads.pooled_features`.

    Args:
      pretrained: the encoder.
      bases_NM: uint8, base codes, `vocabulary.PADDING` behind.
      batch_size: sequences at a time, rounded up to a multiple of the local devices.
      long_sequences: what is done with those beyond the position table; see
        `position_limit.cut`. Of windows, the mean of their features.
      source: how to call the sequences in messages.

    Returns:
      float32 (N, F).
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


def pooled_states(params: dict, bases_BM: jax.Array, *, model: bert.Encoder) -> jax.Array:
    """Returns the features of a batch: float32 (B, F)."""
    ids_BL = vocabulary.model_ids(bases_BM, model.tokens.k, model.tokens.stride)
    states = model.apply({"params": params}, ids_BL, method=model.all_states)
    return heads.pooled_features(states, ids_BL)


def probe(
    train_features_NF: np.ndarray,
    labels_N: np.ndarray,
    draws_DN: np.ndarray,
    test_features_NF: np.ndarray,
    num_classes: int,
) -> np.ndarray:
    """Fits logistic regression on the features, once per draw; see `linear_layers`.

    Args:
      train_features_NF: float32, of the rows that are drawn from.
      labels_N: int (N,), their classes.
      draws_DN: int (D, n), rows that a draw trains on.
      test_features_NF: float32, of what is predicted.
      num_classes: C.

    Returns:
      float32 (D, rows of test, C), probabilities.
    """
    kernel_DFC, bias_DC = linear_layers(train_features_NF, labels_N, draws_DN, num_classes)
    shape = len(draws_DN), len(test_features_NF), num_classes
    probabilities_DNC = np.empty(shape, np.float32)
    for start in range(0, shape[1], _PREDICTED_ROWS):
        some_NF = test_features_NF[start : start + _PREDICTED_ROWS].astype(np.float64)
        logits_DNC = some_NF @ kernel_DFC + bias_DC[:, None]
        probabilities_DNC[:, start : start + _PREDICTED_ROWS] = special.softmax(logits_DNC, axis=2)
    return probabilities_DNC


def linear_layers(
    features_NF: np.ndarray, labels_N: np.ndarray, draws_DN: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the logistic regression of every draw as one linear layer over the features.

    Features are standardised by the drawn rows, and the scaler is folded into the layer.
    The penalty is fixed and strong (`INVERSE_PENALTY`): there are more features than rows,
    and ten shots are too few to choose it.

    Returns:
      kernel_DFC and bias_DC, float64; the softmax of what they give is the regression's.
      A class that was not drawn has no probability.
    """
    # Draws of all rows are the same rows, and are fitted once.
    unique_DN, index_D = np.unique(np.sort(draws_DN), axis=0, return_inverse=True)
    kernel_DFC = np.zeros((len(unique_DN), features_NF.shape[1], num_classes))
    bias_DC = np.full((len(unique_DN), num_classes), _NO_CLASS)
    bar = terminal.bar(unique_DN, desc="probing", unit="draws")
    with threadpool_limits(1):  # the products are small: threads cost more than they save
        for kernel_FC, bias_C, rows in zip(kernel_DFC, bias_DC, bar, strict=True):
            model = make_pipeline(
                StandardScaler(copy=False),  # the drawn rows are a copy
                LogisticRegression(C=INVERSE_PENALTY, max_iter=_MAX_ITERATIONS),
            ).fit(features_NF[rows], labels_N[rows])
            scaler, regression = (step for _, step in model.steps)
            weight_CF = regression.coef_.astype(np.float64)
            intercept_C = regression.intercept_.astype(np.float64)
            if len(weight_CF) == 1:  # of two classes only the second one's log-odds is kept
                weight_CF = np.concatenate([-weight_CF, weight_CF]) / 2
                intercept_C = np.concatenate([-intercept_C, intercept_C]) / 2
            kernel_FC[:, model.classes_] = (weight_CF / scaler.scale_).T
            bias_C[model.classes_] = intercept_C - weight_CF @ (scaler.mean_ / scaler.scale_)
    return kernel_DFC[index_D], bias_DC[index_D]
