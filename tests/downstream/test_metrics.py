"""Scores against counting by hand, intervals against tables."""

import math
import warnings

import numpy as np
import pytest

from cmgems_jax.downstream.tasks import metrics
from cmgems_jax.errors import TrainingError


def slow_scores(labels: list[int], probabilities: list[list[float]]) -> dict[str, float]:
    """Counting pairs and cells, one at a time, from the definitions."""
    num_classes = len(probabilities[0])
    predicted = [row.index(max(row)) for row in probabilities]
    pairs = list(zip(labels, predicted, strict=True))
    f1s = []
    for label in sorted({*labels, *predicted}):
        hit = sum(true == guess == label for true, guess in pairs)
        f1s.append(2 * hit / (labels.count(label) + predicted.count(label)))
    num_rows, num_right = len(labels), sum(true == guess for true, guess in pairs)
    # Gorodkin's R_K from the marginal counts.
    truths = [labels.count(label) for label in range(num_classes)]
    guesses = [predicted.count(label) for label in range(num_classes)]
    covariance = num_right * num_rows - sum(t * g for t, g in zip(truths, guesses, strict=True))
    spread = math.sqrt(num_rows**2 - sum(g * g for g in guesses)) * math.sqrt(
        num_rows**2 - sum(t * t for t in truths)
    )
    areas = []
    for label in range(num_classes):
        inside = [row[label] for row, true in zip(probabilities, labels, strict=True)
                  if true == label]  # fmt: skip
        outside = [row[label] for row, true in zip(probabilities, labels, strict=True)
                   if true != label]  # fmt: skip
        wins = sum((a > b) + 0.5 * (a == b) for a in inside for b in outside)
        areas.append(wins / (len(inside) * len(outside)))
    return {
        "accuracy": num_right / num_rows,
        "macro_f1": sum(f1s) / len(f1s),
        "mcc": covariance / spread,
        "auroc": sum(areas) / num_classes,
    }


@pytest.mark.parametrize("num_classes", [2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_counting_from_the_definitions(num_classes, seed):
    rng = np.random.default_rng((seed, num_classes))
    labels_N = np.concatenate([np.arange(num_classes), rng.integers(0, num_classes, 60)])
    # One decimal: ties occur, in rows and between them.
    probabilities_NC = rng.integers(0, 9, (len(labels_N), num_classes)) / 10
    if num_classes == 2:
        probabilities_NC[:, 0] = 1 - probabilities_NC[:, 1]
    found = metrics.score(labels_N, probabilities_NC)
    wanted = slow_scores(labels_N.tolist(), probabilities_NC.tolist())
    assert tuple(found) == metrics.OF_KIND["classes"]
    for name in found:
        assert found[name] == pytest.approx(wanted[name], abs=1e-12), name


def test_a_perfect_prediction_scores_one_and_its_opposite_minus_one():
    labels_N = np.array([0, 0, 1, 1])
    right_NC = np.eye(2)[labels_N]
    assert metrics.score(labels_N, right_NC) == dict.fromkeys(metrics.OF_KIND["classes"], 1.0)
    assert metrics.score(labels_N, 1 - right_NC) == {
        "accuracy": 0, "macro_f1": 0, "mcc": -1, "auroc": 0
    }  # fmt: skip


def test_one_class_for_all_has_no_correlation_and_half_the_area():
    found = metrics.score(np.array([0, 1, 1, 1]), np.tile([0.2, 0.8], (4, 1)))
    assert found["mcc"] == 0 and found["auroc"] == 0.5 and found["accuracy"] == 0.75


def test_auroc_is_nan_where_a_class_has_no_row_and_nothing_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = metrics.score(np.array([1, 1]), np.array([[0.1, 0.9], [0.2, 0.8]]))
    assert math.isnan(found["auroc"]) and found["mcc"] == 0 and found["accuracy"] == 1


def test_probabilities_that_are_not_finite_are_a_training_error():
    with pytest.raises(TrainingError, match="1 of 2 predicted rows are not finite"):
        metrics.score(np.array([0, 1]), np.array([[0.5, 0.5], [np.nan, 0.5]]))


@pytest.mark.parametrize(
    "labels, shape", [([0, 1], (3, 2)), ([0, 2], (2, 2)), ([], (0, 2)), ([0, 0], (2, 1))]
)
def test_shapes_and_labels_that_do_not_fit_are_refused(labels, shape):
    with pytest.raises(ValueError):
        metrics.score(np.array(labels, np.int32), np.ones(shape))


def test_resampled_scores_are_those_of_the_rows_drawn_again():
    """The samples depend on the number of rows alone: two models on the same rows are paired."""
    labels_N = np.repeat([0, 1, 2], 20)
    rng = np.random.default_rng(0)
    probabilities_NC = rng.integers(0, 9, (60, 3)) / 10
    found = metrics.resampled(labels_N, probabilities_NC)
    drawn = np.random.default_rng((42, 60))
    for scores_M in found[:3]:
        rows = drawn.integers(0, 60, 60)
        wanted = slow_scores(labels_N[rows].tolist(), probabilities_NC[rows].tolist())
        np.testing.assert_allclose(scores_M[:4], list(wanted.values()), rtol=1e-6)  # float32
        assert np.isnan(scores_M[4:]).all()  # metrics of other kinds of labels


def test_resampled_accuracies_spread_as_a_share_of_so_many_rows_does():
    """A share p of N rows has the variance p (1 - p) / N; of 200 samples the sd is known to 5 %."""
    labels_N = np.repeat([0, 1], 200)
    probabilities_NC = np.eye(2)[np.where(np.arange(400) % 10 < 3, 1 - labels_N, labels_N)]
    accuracy_B = metrics.resampled(labels_N, probabilities_NC)[:, 0]
    assert accuracy_B.std() == pytest.approx(np.sqrt(0.3 * 0.7 / 400), rel=0.15)
