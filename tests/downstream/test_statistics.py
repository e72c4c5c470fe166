"""Intervals by simulation and by hand, and what may be claimed of them."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cmgems_jax.downstream.evaluation import report as evaluation_report
from cmgems_jax.downstream.evaluation import resampled, statistics
from cmgems_jax.downstream.tasks import metrics, tasks


def line(model: str, values: list[float], overlap: float = 0.1, sd: float = 0.01) -> pd.DataFrame:
    """Returns the rows of one line on one unit; all metrics are `values`."""
    noise = np.random.default_rng(len(model)).normal(0, sd, (metrics.NUM_RESAMPLES, 1))
    scores = [np.tile(value + noise, (1, len(metrics.NAMES))) for value in values]
    rows = pd.DataFrame({"draw": range(len(values)), statistics.RESAMPLED: pd.Series(scores)})
    unit = {"model": model, "mode": "probe", "task": "t", "shots": 10, "metric": "accuracy"}
    return rows.assign(**unit, overlap=overlap, **dict.fromkeys(metrics.NAMES, values))


@pytest.mark.parametrize(("shots", "pool", "at_most"), [(10, 100, 0.88), (100, 500, 0.8)])
def test_draws_from_a_small_pool_cover_the_truth_once_shared_rows_are_counted(shots, pool, at_most):
    """A score is the mean of what the drawn rows are worth; the truth is the population's 0.

    Of 1,000 pools the share has a standard error of 0.7 %.
    """
    rng = np.random.default_rng(0)
    hits = np.zeros(2)
    for _ in range(1000):
        worth_N = rng.normal(size=pool)
        order_RN = np.argsort(rng.random((10, pool)), axis=1)[:, :shots]
        values = worth_N[order_RN].mean(axis=1)[None]
        for number, overlap in enumerate((shots / pool, 0.0)):
            found = statistics.crossed(values, overlap=overlap, of_tests=0.0)
            hits[number] += found.low <= 0 <= found.high
    corrected, uncorrected = hits / 1000
    assert 0.93 < corrected < 0.97 and uncorrected < at_most


def test_a_small_test_set_widens_the_interval_until_it_covers_the_truth():
    """Rows are easy or hard for every draw alike, so 60 of them miss the accuracy of all, .7."""
    rng = np.random.default_rng(0)
    labels_N, hits = np.repeat([0, 1], 30), np.zeros(2)
    for _ in range(150):
        is_easy_N = rng.random(60) < 0.5
        chance_DN = np.where(is_easy_N, 0.9, 0.5) + rng.normal(0, 0.01, (5, 1))
        predicted_DN = np.where(rng.random((5, 60)) < chance_DN, labels_N, 1 - labels_N)
        rows = line("mine", (predicted_DN == labels_N).mean(axis=1).tolist(), overlap=0.0)
        scores = [metrics.resampled(labels_N, np.eye(2)[one_N]) for one_N in predicted_DN]
        for number, column in enumerate((pd.Series(scores), np.nan)):
            kept = rows.assign(**{statistics.RESAMPLED: column})
            kept = kept if number == 0 else kept.drop(columns=statistics.RESAMPLED)
            (found,) = statistics.summary(kept, "model").to_dict("records")
            hits[number] += found["accuracy_low"] <= 0.7 <= found["accuracy_high"]
    whole, over_draws_alone = hits / 150
    assert whole > 0.92 and over_draws_alone < 0.9


def test_the_variances_of_draws_and_test_rows_add_up_by_hand():
    """Values 1 to 5: variance of the mean 2.5 / 5; shared by 1/6, times 1 + 5 / 5 = 2; tests 3."""
    values = np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])
    found = statistics.crossed(values, overlap=1 / 6, of_tests=3.0)
    half = stats.t.ppf(0.975, 4 * (4 / 1) ** 2) * 2  # Satterthwaite: all the freedom is of draws
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half))


def test_what_two_draws_share_is_the_part_of_the_pool_that_is_drawn():
    assert tasks.shared_by_draws(np.repeat([0, 1], 100), 10) == pytest.approx(0.1)
    assert tasks.shared_by_draws(np.repeat([0, 1], [100, 20]), 10) == pytest.approx(0.3)
    assert tasks.shared_by_draws(np.repeat([0, 1], 50), 50) == 1
    assert tasks.shared_by_draws(np.repeat([0, 1], 50), 0) == 1
    labels_N = np.repeat([0, 1], [40, 20])
    draws_DN = tasks.draw_shots(labels_N, 10, 200, seed=0)
    shared = [len(np.intersect1d(*draws_DN[[2 * i, 2 * i + 1]])) / 20 for i in range(100)]
    assert tasks.shared_by_draws(labels_N, 10) == pytest.approx(np.mean(shared), abs=0.03)


def test_draws_of_the_same_rows_have_intervals_of_seeds_and_test_rows_by_hand():
    """A whole training set: values 1 to 5 of five seeds, 2.5 / 5, and of the test rows 0.25."""
    values = np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])
    found = statistics.crossed(values, overlap=1.0, of_tests=0.25)
    half = stats.t.ppf(0.975, 4 * (0.75 / 0.5) ** 2) * 0.75**0.5
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half))
    assert found.covers == statistics.TESTS and found.shown(5) == statistics.ABOVE
    one = statistics.crossed(np.array([[0.8]]), overlap=1.0, of_tests=0.01)
    assert (one.low, one.high) == pytest.approx((0.8 - 1.96 * 0.1, 0.8 + 1.96 * 0.1), abs=1e-3)
    assert one.shown(1) == statistics.UNCLEAR  # how much the training's seed matters is not known
    assert statistics.crossed(values, overlap=1.0).covers == statistics.NONE


def test_a_line_that_differs_alike_on_the_same_rows_is_shown_by_the_test_rows():
    mine, other = line("mine", [0.6] * 6, overlap=1.0), line("theirs", [0.5] * 6, overlap=1.0)
    both = pd.concat([mine, other])
    (found,) = evaluation_report.differences(both, "mine").to_dict("records")
    assert found["difference"] == pytest.approx(0.1)
    assert 0 < found["low"] < 0.1 < found["high"] and found["covers"] == statistics.TESTS
    (said, why) = evaluation_report.sentences(pd.DataFrame([found]), "mine")
    assert "above" in said and "are of this training set" in why


def test_values_that_differ_by_rounding_alone_show_nothing():
    found = statistics.crossed(np.array([[0.3, 0.1 + 0.2] * 3]), overlap=0.1, of_tests=1e-16)
    assert np.isnan([found.low, found.high, found.p]).all()
    assert found.shown(6) == statistics.UNCLEAR


@pytest.mark.parametrize(("num_draws", "shown"), [(4, "unclear"), (5, "above")])
def test_fewer_than_five_draws_show_nothing(num_draws, shown):
    values = [0.8, 0.81, 0.8, 0.79, 0.8][:num_draws]
    both = pd.concat([line("mine", values), line("theirs", [0.5] * num_draws)])
    (found,) = evaluation_report.differences(both, "mine").to_dict("records")
    assert found["low"] > 0 and found["shown"] == shown


@pytest.mark.parametrize(("num_seeds", "shown"), [(5, "unclear"), (6, "above")])
def test_fewer_than_six_seeds_show_nothing(num_seeds, shown):
    estimate = statistics.Estimate(0.1, 0.05, 0.15, 0.001)
    assert estimate.shown(10, num_seeds) == shown


def test_intervals_without_the_test_rows_are_marked_and_show_nothing():
    both = pd.concat([line("mine", [0.8, 0.82] * 3), line("theirs", [0.5] * 6)])
    old = both.drop(columns=["overlap", statistics.RESAMPLED])
    (found,) = evaluation_report.differences(old, "mine").to_dict("records")
    assert found["low"] > 0 and found["shown"] == statistics.UNCLEAR
    assert found["covers"] == statistics.DRAWS_ONLY


def test_intervals_end_at_the_metrics_range():
    """Few seeds that differ much gave 1.171 as an accuracy."""
    seeds = [line("mine", values).assign(seed=n) for n, values in enumerate(([0.9] * 5, [0.5] * 5))]
    (found,) = statistics.summary(pd.concat(seeds), "model").to_dict("records")
    assert (found["accuracy_low"], found["accuracy_high"]) == (0, 1)
    assert (found["mcc_low"], found["mcc_high"]) == (-1, 1)
    others = pd.concat([line("them", [0.1] * 5).assign(seed=n) for n in range(2)])
    estimate = statistics.paired([(pd.concat(seeds), others)])
    assert estimate.low >= -1 and estimate.high == 1


def test_test_rows_are_resampled_together_within_a_task_and_apart_between_tasks():
    """Two units of one task move alike: the variance is theirs; of two tasks, half of it."""
    mine, other = line("mine", [0.7] * 6, sd=0.02), line("other", [0.5] * 6, sd=0.0)
    same = statistics.paired([(mine, other), (mine.assign(shots=100), other)])
    apart = statistics.paired([(mine, other), (mine.assign(task="u"), other.assign(task="u"))])
    assert (same.high - same.low) / (apart.high - apart.low) == pytest.approx(np.sqrt(2))


def test_scores_on_resampled_rows_are_kept_by_draw_and_those_that_lack_are_nan(tmp_path):
    key = ("k=3, a/b", "baseline", "t", 10)
    shape = (metrics.NUM_RESAMPLES, len(metrics.NAMES))
    resampled.add(tmp_path, key, 1, [np.full(shape, 1.0), np.full(shape, 2.0)])
    resampled.add(tmp_path, key, 2, [np.full(shape, 3.0)])  # the last one was not finished
    rows = pd.DataFrame([dict(zip(resampled.KEY, key, strict=True))] * 4).assign(draw=range(4))
    column = resampled.attach(rows, tmp_path)[statistics.RESAMPLED]
    np.testing.assert_array_equal([one[0, 0] for one in column], [np.nan, 1, 3, np.nan])
