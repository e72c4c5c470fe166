"""Scores of predictions, of the test rows as they are and as others might have been.

Axes: N rows, C classes, numbers or labels of a row, B samples of the rows, G groups of rows with
equal predictions.
"""

import numpy as np

from cmgems_jax.downstream.tasks.labels import CLASSES, MULTILABEL, NUMBERS
from cmgems_jax.errors import TrainingError

OF_KIND = {
    CLASSES: ("accuracy", "macro_f1", "mcc", "auroc"),
    MULTILABEL: ("auroc", "average_precision"),
    NUMBERS: ("pearson", "spearman", "r2"),
}
NAMES = tuple(dict.fromkeys(name for names in OF_KIND.values() for name in names))
MAIN = {CLASSES: "mcc", MULTILABEL: "auroc", NUMBERS: "pearson"}  # of own tasks
RANGES = {name: (0.0, 1.0) for name in NAMES} | {
    "mcc": (-1.0, 1.0), "pearson": (-1.0, 1.0), "spearman": (-1.0, 1.0), "r2": (-np.inf, 1.0)
}  # fmt: skip
NUM_RESAMPLES = 200  # the standard deviation over them is known to 5 %
_RESAMPLING_SEED = 42
_MOST_WEIGHTS = 2**22  # in memory at a time


def score(labels_N: np.ndarray, predicted_NC: np.ndarray, kind: str = CLASSES) -> dict[str, float]:
    """Returns the scores of a kind of labels: accuracy, macro F1, MCC and AUROC of classes.

    The predicted class is the most probable one, the first of them on a tie. Of several labels
    per row: AUROC and average precision, means over the labels that some rows have and some have
    not. Of numbers: Pearson's and Spearman's correlation and R2 (the share of the variance that
    is explained), means over the numbers of a row.

    Args:
      labels_N: int (N,), N >= 1, classes in [0, C); of other kinds float (N, C).
      predicted_NC: float (N, C), probabilities, of C >= 2 classes; or numbers.
      kind: of `labels.KINDS`.

    Returns:
      Floats by `OF_KIND[kind]`. macro_f1 is the mean over the classes that occur in the
      labels or the predictions, mcc is 0 where it is undefined, auroc is the mean
      over classes of one against the rest, nan where a class has no row; a correlation with
      what does not vary is nan.

    Raises:
      ValueError: shapes or labels do not fit.
      TrainingError: a probability is not finite.
    """
    _check(labels_N, predicted_NC, kind)
    (scores_M,) = _SCORES[kind](np.ones((1, len(labels_N))), labels_N, predicted_NC)
    return dict(zip(OF_KIND[kind], scores_M.tolist(), strict=True))


def resampled(labels_N: np.ndarray, predicted_NC: np.ndarray, kind: str = CLASSES) -> np.ndarray:
    """Returns the scores of bootstrap samples of the test rows, drawn with replacement.

    The samples depend on N alone, so those of two models on the same rows are paired.

    Returns float32 (NUM_RESAMPLES, metrics), metrics as in `NAMES`, nan in those of other kinds;
    for the arguments see `score`.
    """
    _check(labels_N, predicted_NC, kind)
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
        parts.append(_SCORES[kind](weights_BN, labels_N, predicted_NC))
    scores_BM = np.full((NUM_RESAMPLES, len(NAMES)), np.nan, np.float32)
    scores_BM[:, [NAMES.index(name) for name in OF_KIND[kind]]] = np.concatenate(parts)
    return scores_BM


def _check(labels_N: np.ndarray, predicted_NC: np.ndarray, kind: str) -> None:
    """Raises as `score` says."""
    expected = predicted_NC.shape[: 1 if kind == CLASSES else 2]
    if predicted_NC.ndim != 2 or labels_N.shape != expected:
        raise ValueError(
            f"labels {labels_N.shape} and predictions {predicted_NC.shape}: expected "
            f"{'(N,)' if kind == CLASSES else '(N, C)'} and (N, C)"
        )
    num_rows, num_classes = predicted_NC.shape
    if not num_rows or (kind == CLASSES and num_classes < 2):
        raise ValueError(f"{num_rows} rows of {num_classes} classes: expected >= 1 row, >= 2")
    if kind == CLASSES and (labels_N.min() < 0 or labels_N.max() >= num_classes):
        raise ValueError(f"labels {labels_N.min()} to {labels_N.max()}: expected 0 <= label < C")
    not_finite = int((~np.isfinite(predicted_NC)).any(axis=1).sum())
    if not_finite:
        raise TrainingError(
            f"{not_finite:,} of {num_rows:,} predicted rows are not finite: the training "
            "diverged; lower the peak learning rate"
        )


def _of_classes(
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


def _of_several(
    weights_BN: np.ndarray, marks_NC: np.ndarray, probabilities_NC: np.ndarray
) -> np.ndarray:
    """Returns float (B, metrics) of several labels per row; see `_of_classes`."""
    scores = []
    for measure in (_area, _average_precision):
        each_CB = np.array(
            [
                measure(weights_BN, probability_N, is_label_N)
                for probability_N, is_label_N in zip(
                    probabilities_NC.T, marks_NC.T == 1, strict=True
                )
            ]
        )
        known_CB = np.isfinite(each_CB)  # of the other labels some rows have and some have not
        scores.append(_ratio(np.where(known_CB, each_CB, 0).sum(axis=0), known_CB.sum(axis=0)))
    return np.stack(scores, axis=1)


def _of_numbers(
    weights_BN: np.ndarray, numbers_NC: np.ndarray, predicted_NC: np.ndarray
) -> np.ndarray:
    """Returns float (B, metrics) of numbers; see `_of_classes`."""
    scores = []
    for true_N, predicted_N in zip(
        numbers_NC.T.astype(np.float64), predicted_NC.T.astype(np.float64), strict=True
    ):
        ranks = _ranks(weights_BN, true_N), _ranks(weights_BN, predicted_N)
        mean_B = weights_BN @ true_N / weights_BN.sum(axis=1)
        spread_B = (weights_BN * (true_N - mean_B[:, None]) ** 2).sum(axis=1)
        error_B = weights_BN @ (true_N - predicted_N) ** 2
        scores.append(
            [
                _correlation(weights_BN, true_N[None], predicted_N[None]),
                _correlation(weights_BN, *ranks),
                1 - _ratio(error_B, spread_B),
            ]
        )
    return np.mean(scores, axis=0).T


def _ratio(above_B: np.ndarray, below_B: np.ndarray) -> np.ndarray:
    """Returns one divided by the other, float (B,); nan where that is 0."""
    return np.divide(above_B, below_B, np.full(below_B.shape, np.nan), where=below_B > 0)


def _correlation(weights_BN: np.ndarray, one_BN: np.ndarray, other_BN: np.ndarray) -> np.ndarray:
    """Returns Pearson's correlation of weighted rows, float (B,); nan where one does not vary."""
    rows_B1 = weights_BN.sum(axis=1, keepdims=True)
    one_BN, other_BN = (
        value_BN - (weights_BN * value_BN).sum(axis=1, keepdims=True) / rows_B1
        for value_BN in (one_BN, other_BN)
    )
    covariance_B = (weights_BN * one_BN * other_BN).sum(axis=1)
    squares = [(weights_BN * value_BN**2).sum(axis=1) for value_BN in (one_BN, other_BN)]
    return _ratio(covariance_B, np.sqrt(squares[0] * squares[1]))


def _ranks(weights_BN: np.ndarray, value_N: np.ndarray) -> np.ndarray:
    """Returns the ranks of the rows of every sample, float (B, N), their mean on a tie."""
    order_N = np.argsort(value_N, kind="stable")
    starts = _starts(value_N[order_N])
    count_BG = np.add.reduceat(weights_BN[:, order_N], starts, axis=1)
    rank_BG = np.cumsum(count_BG, axis=1) - count_BG / 2
    sizes_G = np.diff(np.append(starts, len(value_N)))
    ranks_BN = np.empty(weights_BN.shape)
    ranks_BN[:, order_N] = np.repeat(rank_BG, sizes_G, axis=1)
    return ranks_BN


def _starts(sorted_N: np.ndarray) -> np.ndarray:
    """Returns where groups of equal values begin."""
    return np.flatnonzero(np.r_[True, sorted_N[1:] != sorted_N[:-1]])


def _groups(
    weights_BN: np.ndarray, probability_N: np.ndarray, is_label_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows with and without a label, (B, G), by their probability, increasing."""
    order_N = np.argsort(probability_N, kind="stable")
    starts = _starts(probability_N[order_N])
    sorted_BN, is_label_N = weights_BN[:, order_N], is_label_N[order_N]
    inside_BG = np.add.reduceat(sorted_BN * is_label_N, starts, axis=1)
    return inside_BG, np.add.reduceat(sorted_BN * ~is_label_N, starts, axis=1)


def _area(weights_BN: np.ndarray, probability_N: np.ndarray, is_label_N: np.ndarray) -> np.ndarray:
    """Returns the area under the curve of one label against the rest, float (B,), or nan."""
    inside_BG, outside_BG = _groups(weights_BN, probability_N, is_label_N)
    below_BG = np.cumsum(outside_BG, axis=1) - outside_BG / 2
    pairs_B = inside_BG.sum(axis=1) * outside_BG.sum(axis=1)
    return _ratio((inside_BG * below_BG).sum(axis=1), pairs_B)


def _average_precision(
    weights_BN: np.ndarray, probability_N: np.ndarray, is_label_N: np.ndarray
) -> np.ndarray:
    """Returns the precision at every row with the label, its mean: float (B,), or nan."""
    inside_BG, outside_BG = (
        rows_BG[:, ::-1] for rows_BG in _groups(weights_BN, probability_N, is_label_N)
    )
    hits_BG, all_BG = inside_BG.cumsum(axis=1), (inside_BG + outside_BG).cumsum(axis=1)
    sum_B = (inside_BG * hits_BG / np.maximum(all_BG, 1)).sum(axis=1)
    return _ratio(sum_B, np.where(outside_BG.any(axis=1), inside_BG.sum(axis=1), 0))


def _auroc(
    weights_BN: np.ndarray, labels_N: np.ndarray, probabilities_NC: np.ndarray
) -> np.ndarray:
    """Returns float (B,), the mean over classes of the area; nan where one has no row."""
    num_classes = probabilities_NC.shape[1]
    # Of two classes the first one's area is the second one's.
    classes = range(num_classes) if num_classes > 2 else (1,)
    areas = [_area(weights_BN, probabilities_NC[:, label], labels_N == label) for label in classes]
    return np.mean(areas, axis=0)


_SCORES = {CLASSES: _of_classes, MULTILABEL: _of_several, NUMBERS: _of_numbers}
