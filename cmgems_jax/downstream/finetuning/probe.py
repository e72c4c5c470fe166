"""Frozen features and logistic (or ridge) regression: what a pretrained encoder knows as it is.

Axes: N sequences, B sequences of a batch, L token positions, D hidden, F features,
n rows of a draw, C classes.
"""

import functools

import jax
import numpy as np
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from cmgems_jax import terminal
from cmgems_jax.downstream.finetuning import position_limit
from cmgems_jax.downstream.finetuning.targets import Targets
from cmgems_jax.downstream.tasks import labels
from cmgems_jax.downstream.tasks.files import Examples
from cmgems_jax.genome import vocabulary
from cmgems_jax.model import bert, heads, strands
from cmgems_jax.pretraining.pretrained import Pretrained
from cmgems_jax.runtime import parallel

_logistic = functools.partial(LogisticRegression, C=0.01, max_iter=1_000)  # see `linear_layers`
ridge = functools.partial(RidgeCV, np.logspace(0, 6, 13), alpha_per_target=True)
_PREDICTED_ROWS = 8_192  # at a time: they are copied in float64
_NO_CLASS = -1e4  # the logit of a class that was not drawn; exp of it is 0


def features(
    pretrained: Pretrained,
    examples: Examples,
    *,
    batch_size: int = 64,
    long_sequences: str = "error",
    strand: str = "forward",
) -> np.ndarray:
    """Returns what the encoder makes of each sequence, without training it: float32 (N, F).

    See `heads.pooled_features`. Of windows (`position_limit.cut`), and of both strands, it is the
    mean of their features.
    """
    config = pretrained.config
    windows = position_limit.cut(examples, config, long_sequences)
    position_limit.warn_of_new_positions(windows, config, source=examples.path)
    model, tokens = bert.Encoder(config.model, config.tokens), config.tokens

    def pooled(params: dict, bases_BM: jax.Array) -> jax.Array:
        ids_BL = vocabulary.model_ids(bases_BM, tokens.k, tokens.stride)
        states = model.apply({"params": params}, ids_BL, method=model.all_states)
        return heads.pooled_features(states, ids_BL)

    features_WF = parallel.map_rows(
        parallel.rows_program(strands.on_strand(pooled, strand), pretrained.params),
        windows.bases_WM,
        batch_size=parallel.whole_batch(min(batch_size, len(windows.bases_WM))),
        description="features",
    )
    return position_limit.mean(features_WF, windows)


def probe(
    train_features_NF: np.ndarray,
    labels_N: np.ndarray,
    draws_DN: np.ndarray,
    test_features_NF: np.ndarray,
    num_classes: int,
    kind: str = labels.CLASSES,
    weight_F: np.ndarray | float = 1.0,
) -> np.ndarray:
    """Fits logistic or ridge regression on the features, once per draw; see `linear_layers`.

    Args:
      train_features_NF: float32, of the rows that are drawn from.
      labels_N: int (N,), their classes; of other kinds float (N, C).
      draws_DN: int (D, n), rows that a draw trains on.
      test_features_NF: float32, of what is predicted.

    Returns:
      float32 (D, rows of test, C), probabilities, or numbers.
    """
    targets = Targets.of(kind, num_classes, labels_N)
    kernel_DFC, bias_DC = linear_layers(train_features_NF, labels_N, draws_DN, targets, weight_F)
    shape = len(draws_DN), len(test_features_NF), num_classes
    predicted_DNC = np.empty(shape, np.float32)
    for start in range(0, shape[1], _PREDICTED_ROWS):
        some_NF = test_features_NF[start : start + _PREDICTED_ROWS].astype(np.float64)
        outputs_DNC = some_NF @ kernel_DFC + bias_DC[:, None]
        predicted_DNC[:, start : start + _PREDICTED_ROWS] = targets.predictions(outputs_DNC)
    return predicted_DNC


def linear_layers(
    features_NF: np.ndarray,
    labels_N: np.ndarray,
    draws_DN: np.ndarray,
    targets: Targets,
    weight_F: np.ndarray | float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the regression of every draw as one linear layer over the features.

    Features are standardised by the drawn rows and weighted (by `weight_F`, such as
    `heads.feature_weights`), and both are folded into the layer.
    Logistic regression's penalty is fixed and strong (C = 0.01): there are more features than
    rows, and ten shots are too few to choose it. Of several labels per row each has its own;
    numbers, standardised ones, have ridge regression, each with the penalty of the least
    leave-one-out error.

    Returns:
      kernel_DFC and bias_DC, float64: logits of classes or labels, or numbers. A class that
      was not drawn has no probability; a label that all or no drawn rows have has its share,
      of one row more.
    """
    labels_N, num_outputs = targets.standardised(labels_N), len(targets.mean_C)
    # Draws of all rows are the same rows, and are fitted once.
    unique_DN, index_D = np.unique(np.sort(draws_DN), axis=0, return_inverse=True)
    kernel_DFC = np.zeros((len(unique_DN), features_NF.shape[1], num_outputs))
    bias_DC = np.zeros((len(unique_DN), num_outputs))
    bar = terminal.bar(unique_DN, desc="probing", unit="draws")
    with threadpool_limits(1):  # the products are small: threads cost more than they save
        for kernel_FC, bias_C, rows in zip(kernel_DFC, bias_DC, bar, strict=True):
            scaler = StandardScaler(copy=False)  # the drawn rows are a copy
            scaled_nF = (scaler.fit_transform(features_NF[rows]) * weight_F).astype(np.float32)
            fitted_FC, intercept_C = _FITS[targets.kind](scaled_nF, labels_N[rows], num_outputs)
            kernel_FC[:] = fitted_FC * (weight_F / scaler.scale_)[:, None]
            bias_C[:] = intercept_C - scaler.mean_ @ kernel_FC
    return kernel_DFC[index_D], bias_DC[index_D]


def _fit_classes(
    scaled_nF: np.ndarray, labels_n: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns weight (F, C) and intercept (C,), float64, of logistic regression."""
    model = _logistic().fit(scaled_nF, labels_n)
    weight_CF, intercept_C = (
        values.astype(np.float64) for values in (model.coef_, model.intercept_)
    )
    if len(weight_CF) == 1:  # of two classes only the second one's log-odds is kept
        weight_CF = np.concatenate([-weight_CF, weight_CF]) / 2
        intercept_C = np.concatenate([-intercept_C, intercept_C]) / 2
    weight_FC = np.zeros((scaled_nF.shape[1], num_classes))
    all_C = np.full(num_classes, _NO_CLASS)
    weight_FC[:, model.classes_], all_C[model.classes_] = weight_CF.T, intercept_C
    return weight_FC, all_C


def _fit_several(
    scaled_nF: np.ndarray, marks_nC: np.ndarray, num_labels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the same of a logistic regression per label."""
    weight_FC, intercept_C = np.zeros((scaled_nF.shape[1], num_labels)), np.zeros(num_labels)
    for label, marks_n in enumerate(marks_nC.T):
        num_rows, num_marked = len(marks_n), marks_n.sum()
        if num_marked in (0, num_rows):
            intercept_C[label] = np.log((num_marked + 0.5) / (num_rows - num_marked + 0.5))
            continue
        model = _logistic().fit(scaled_nF, marks_n)
        weight_FC[:, label], intercept_C[label] = model.coef_[0], model.intercept_[0]
    return weight_FC, intercept_C


def _fit_numbers(
    scaled_nF: np.ndarray, numbers_nC: np.ndarray, num_numbers: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the same of ridge regression."""
    model = ridge().fit(scaled_nF.astype(np.float64), numbers_nC)
    return model.coef_.reshape(num_numbers, -1).T, model.intercept_


_FITS = {
    labels.CLASSES: _fit_classes,
    labels.MULTILABEL: _fit_several,
    labels.NUMBERS: _fit_numbers,
}
