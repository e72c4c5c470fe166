"""Scores of class probabilities, of the test rows as they are and as others might have been."""

import numpy as np

from cmgems_jax.errors import TrainingError

NAMES = ("accuracy", "macro_f1", "mcc", "auroc")
RANGES = {"accuracy": (0.0, 1.0), "macro_f1": (0.0, 1.0), "mcc": (-1.0, 1.0), "auroc": (0.0, 1.0)}
NUM_RESAMPLES = 200  # the standard deviation over them is known to 5 %
_RESAMPLING_SEED = 42
_MOST_WEIGHTS = 2**22  # in memory at a time


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
    labels_N, probabilities_NC = _checked(labels_N, probabilities_NC)
    (scores_M,) = _weighted(np.ones((1, len(labels_N))), labels_N, probabilities_NC)
    return dict(zip(NAMES, scores_M.tolist(), strict=True))


def resampled(labels_N: np.ndarray, probabilities_NC: np.ndarray) -> np.ndarray:
    """Returns the scores of bootstrap samples of the test rows, drawn with replacement.

    The samples depend on N alone, so those of two models on the same rows are paired.

    Returns float32 (NUM_RESAMPLES, metrics), metrics as in `NAMES`; for the arguments see `score`.
    """
    labels_N, probabilities_NC = _checked(labels_N, probabilities_NC)
    num_rows = len(labels_N)
    rng = np.random.default_rng((_RESAMPLING_SEED, num_rows))
    at_once = max(1, min(NUM_RESAMPLES, _MOST_WEIGHTS // num_rows))
    parts = []
    for first in range(0, NUM_RESAMPLES, at_once):
        weights_BN = np.array(
            [
                np.bincount(rng.integers(0, num_rows, num_rows), minlength=num_rows)
                for _ in range(min(at_once, NUM_RESAMPLES - first))
            ],
            np.float64,
        )
        parts.append(_weighted(weights_BN, labels_N, probabilities_NC))
    return np.concatenate(parts).astype(np.float32)


def _checked(labels_N: np.ndarray, probabilities_NC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns them as arrays, or raises as `score` says."""
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
    return labels_N, probabilities_NC


def _weighted(
    weights_BN: np.ndarray, labels_N: np.ndarray, probabilities_NC: np.ndarray
) -> np.ndarray:
    """Returns float (B, metrics), every row counted as often as its weight says."""
    num_classes = probabilities_NC.shape[1]
    cells_N = labels_N.astype(np.int64) * num_classes + probabilities_NC.argmax(axis=1)
    counts_BCC = np.array(
        [np.bincount(cells_N, weights_N, num_classes**2) for weights_N in weights_BN]
    ).reshape(-1, num_classes, num_classes)
    hits_BC = np.diagonal(counts_BCC, axis1=1, axis2=2)
    true_BC, predicted_BC = counts_BCC.sum(axis=2), counts_BCC.sum(axis=1)
    rows_B, right_B = true_BC.sum(axis=1), hits_BC.sum(axis=1)
    either_BC = true_BC + predicted_BC
    f1_BC = 2 * hits_BC / np.where(either_BC, either_BC, 1)
    # Gorodkin's R_K (2004), which is Matthews' correlation for two classes.
    covariance_B = right_B * rows_B - (true_BC * predicted_BC).sum(axis=1)
    spread_B = np.sqrt(
        (rows_B**2 - (true_BC**2).sum(axis=1)) * (rows_B**2 - (predicted_BC**2).sum(axis=1))
    )
    return np.stack(
        [
            right_B / rows_B,
            f1_BC.sum(axis=1) / (either_BC > 0).sum(axis=1),
            covariance_B / np.where(spread_B, spread_B, 1),
            _auroc(weights_BN, labels_N, probabilities_NC),
        ],
        axis=1,
    )


def _auroc(
    weights_BN: np.ndarray, labels_N: np.ndarray, probabilities_NC: np.ndarray
) -> np.ndarray:
    """Returns float (B,), the mean over classes of the area; nan where one has no row."""
    num_classes = probabilities_NC.shape[1]
    # Of two classes the first one's area is the second one's.
    classes = range(num_classes) if num_classes > 2 else (1,)
    areas = []
    for label in classes:
        order_N = np.argsort(probabilities_NC[:, label], kind="stable")
        sorted_N = probabilities_NC[order_N, label]
        starts = np.flatnonzero(np.r_[True, sorted_N[1:] != sorted_N[:-1]])  # of equal ones
        sorted_BN, is_label_N = weights_BN[:, order_N], labels_N[order_N] == label
        inside_BG = np.add.reduceat(sorted_BN * is_label_N, starts, axis=1)
        outside_BG = np.add.reduceat(sorted_BN * ~is_label_N, starts, axis=1)
        below_BG = np.cumsum(outside_BG, axis=1) - outside_BG / 2
        pairs_B = inside_BG.sum(axis=1) * outside_BG.sum(axis=1)
        won_B = (inside_BG * below_BG).sum(axis=1)
        areas.append(np.divide(won_B, pairs_B, np.full_like(won_B, np.nan), where=pairs_B > 0))
    return np.mean(areas, axis=0)
