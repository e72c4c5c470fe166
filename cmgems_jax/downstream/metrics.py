"""Scores of class probabilities, and intervals over draws."""

import warnings
from collections.abc import Sequence

import numpy as np
import sklearn.metrics
from scipy import stats

from cmgems_jax.errors import TrainingError

NAMES = ("accuracy", "macro_f1", "mcc", "auroc")


def score(labels_N: np.ndarray, probabilities_NC: np.ndarray) -> dict[str, float]:
    """Returns accuracy, macro F1, Matthews' correlation and AUROC.

    The predicted class is the most probable one, the first of them on a tie.

    Args:
      labels_N: int (N,), N >= 1, classes in [0, C).
      probabilities_NC: float (N, C), C >= 2; only their order matters.

    Returns:
      Floats by `NAMES`. macro_f1 is the mean over the classes that occur in the
      labels or the predictions, mcc is 0 where it is undefined, auroc is the mean
      over classes of one against the rest, nan where a class has no row.

    Raises:
      ValueError: shapes or labels do not fit.
      TrainingError: a probability is not finite.
    """
    labels_N, probabilities_NC = np.asarray(labels_N), np.asarray(probabilities_NC)
    if probabilities_NC.ndim != 2 or labels_N.shape != probabilities_NC.shape[:1]:
        raise ValueError(
            f"labels {labels_N.shape} and probabilities {probabilities_NC.shape}: "
            "expected (N,) and (N, C)"
        )
    num_rows, num_classes = probabilities_NC.shape
    if not num_rows or num_classes < 2:
        raise ValueError(f"{num_rows} rows of {num_classes} classes: expected >= 1 row, >= 2")
    if labels_N.min() < 0 or labels_N.max() >= num_classes:
        raise ValueError(f"labels {labels_N.min()} to {labels_N.max()}: expected 0 <= label < C")
    not_finite = int((~np.isfinite(probabilities_NC)).any(axis=1).sum())
    if not_finite:
        raise TrainingError(
            f"{not_finite:,} of {num_rows:,} predicted rows are not finite: the training "
            "diverged; lower the peak learning rate"
        )
    predicted_N = probabilities_NC.argmax(axis=1)
    with warnings.catch_warnings():
        # One class only, in labels and predictions: mcc is 0, as documented above.
        warnings.filterwarnings("ignore", message="A single label was found")
        mcc = sklearn.metrics.matthews_corrcoef(labels_N, predicted_N)
    return {
        "accuracy": float((labels_N == predicted_N).mean()),
        "macro_f1": float(sklearn.metrics.f1_score(labels_N, predicted_N, average="macro")),
        "mcc": float(mcc),
        "auroc": _auroc(labels_N, probabilities_NC),
    }


def _auroc(labels_N: np.ndarray, probabilities_NC: np.ndarray) -> float:
    """Returns the mean over classes of the area under the curve; nan where one has no row."""
    num_classes = probabilities_NC.shape[1]
    if len(np.unique(labels_N)) < num_classes:
        return float("nan")
    # Of two classes the first one's area is the second one's.
    classes = range(num_classes) if num_classes > 2 else (1,)
    areas = [
        sklearn.metrics.roc_auc_score(labels_N == label, probabilities_NC[:, label])
        for label in classes
    ]
    return float(np.mean(areas))


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Returns the mean of independent values and its interval by Student's t.

    Args:
      values: one a draw.
      level: probability that the interval covers the true mean.

    Returns:
      Mean, low, high; the bounds are nan for fewer than two values, all three are
      nan for none.
    """
    values_D = np.asarray(values, np.float64)
    if len(values_D) < 2:
        mean = float(values_D[0]) if len(values_D) else float("nan")
        return mean, float("nan"), float("nan")
    mean = float(values_D.mean())
    error = float(values_D.std(ddof=1)) / np.sqrt(len(values_D))
    half = float(stats.t.ppf((1 + level) / 2, len(values_D) - 1) * error)
    return mean, mean - half, mean + half


def paired_interval(
    values: Sequence[float], others: Sequence[float], level: float = 0.95
) -> tuple[float, float, float]:
    """Returns the mean of `values - others` and its interval; both have one value a draw.

    The same draws differ less between models than the draws do among themselves,
    so the interval is narrower than those of the two means suggest.

    Args:
      values: one a draw.
      others: of the same draws, in the same order.
      level: probability that the interval covers the true mean difference.

    Returns:
      Mean, low, high, as `interval`.

    Raises:
      ValueError: unequal numbers of values.
    """
    if len(values) != len(others):
        raise ValueError(f"{len(values)} and {len(others)} values: expected the same draws")
    return interval(np.subtract(values, others), level)
