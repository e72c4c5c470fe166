"""Means and paired differences with intervals over seeds, draws and test rows; what they show."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, stats

from cmgems_jax.downstream.tasks import metrics, tasks
from cmgems_jax.downstream.tasks.tasks import TaskData

UNIT = ["task", "shots"]
RESAMPLED = "resampled"  # column of arrays of `metrics.resampled`, where they were kept
ABOVE, BELOW, UNCLEAR = "above", "below", "unclear"  # what a difference shows
MIN_DRAWS = 5  # fewer show nothing: a t value of few degrees of freedom, scores far from normal
MIN_SEEDS = 6  # of the pretraining, in studies
# What an interval covers.
WHOLE, TESTS, DRAWS_ONLY, NONE = "draws and test rows", "test rows", "draws only", "none"
_LEVEL = 0.95  # of the intervals
POWER = 0.8  # the part of studies that show what `detectable` says
_ROUNDING = 1e-12  # variance: scores on resampled test rows are kept in float32
METHOD = (
    "Intervals: of the draws by Student's t, their variance times 1 + D r / (1 - r) for D draws "
    "of which two share the part r of their rows (a finite pool); of the test rows by "
    f"{metrics.NUM_RESAMPLES} bootstrap samples, the same for every line; the variances are added, "
    "and the bounds cut at the metric's range. Intervals of draws of the same rows are of this "
    "training set: of the training's seeds and the test rows. "
    f"Fewer than {MIN_DRAWS} draws, or trainings on a whole set, show nothing."
)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval; the bounds and p are nan where nothing is known of them."""

    mean: float
    low: float
    high: float
    p: float  # two-sided, of the mean being 0
    covers: str = WHOLE  # or TESTS, DRAWS_ONLY, NONE

    def shown(self, num_draws: int, num_seeds: int = MIN_SEEDS, p: float = 0.0) -> str:
        """Returns ABOVE or BELOW where a difference is shown, else UNCLEAR.

        `num_seeds` are those of pretraining, where several are compared; `p` is corrected for the
        number of comparisons, where it was.
        """
        is_enough = num_draws >= MIN_DRAWS and num_seeds >= MIN_SEEDS
        is_enough &= self.covers in (WHOLE, TESTS)
        excludes_zero = self.low > 0 or self.high < 0
        if not (is_enough and excludes_zero and p < 0.05):
            return UNCLEAR
        return ABOVE if self.mean > 0 else BELOW


def of_draws(
    data: TaskData, predictions: Iterable[np.ndarray], first: int = 0
) -> list[dict[str, Any]]:
    """Returns the scores of draws, from number `first` on, and those on resampled test rows."""
    labels_N, kind = data.test.labels_N, data.task.labels
    overlap = tasks.shared_by_draws(data.train.labels_N, data.shots)
    return [
        {
            "draw": draw,
            **metrics.score(labels_N, predicted_NC, kind),
            "overlap": overlap,
            "metric": data.task.metric,
            RESAMPLED: metrics.resampled(labels_N, predicted_NC, kind),
        }
        for draw, predicted_NC in enumerate(predictions, first)
    ]


def crossed(
    value_SR: np.ndarray,
    *,
    overlap: float = np.nan,
    of_tests: float = np.nan,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Estimate:
    """Returns the mean over seeds x draws, as two crossed random factors.

    Every seed meets the same draws, so neither the S * R values nor the S means are
    independent. The variance of the mean is that of a two-way layout
    without replication, (MS_seeds + MS_draws - MS_rest) / (S * R), with Satterthwaite's
    degrees of freedom (Searle, Casella, McCulloch 1992, chapter 4). Seeds that differ
    much therefore give a wide interval, as they should. With one seed, or one draw, it
    is Student's interval over the other. In simulations of 10 draws it covers the truth
    in 94 to 98 % of the cases with three seeds or more, in 89 to 98 % with two.

    Draws from a finite pool share rows and are correlated by r, the part that they share:
    they show (1 - r) of their variance, and their mean keeps r of it however many there
    are. So their part of the variance is multiplied by 1 + R r / (1 - r) (compare Nadeau
    and Bengio, Machine Learning 52, 2003). Draws of the same rows show none of it: the
    interval is then of these rows, over the training's seeds and the test rows.

    Args:
      value_SR: float (seeds, draws).
      overlap: r, the part of a draw's rows that another draw is expected to have, too;
        nan = not known, and left out.
      of_tests: variance of the mean over samples of test rows; nan = not known, and left out.
      bounds: of the mean; the interval is cut there.
    """
    num_seeds, num_draws = value_SR.shape
    mean = float(value_SR.mean())
    is_one_set = value_SR.size == 1 or overlap >= 1
    if is_one_set and not np.isfinite(of_tests):
        return Estimate(mean, np.nan, np.nan, np.nan, NONE)
    covers = WHOLE if np.isfinite(overlap + of_tests) else DRAWS_ONLY
    covers, overlap = (TESTS, 0.0) if is_one_set else (covers, overlap)
    overlap, of_tests = np.nan_to_num((overlap, of_tests)).tolist()
    growth = 1 + num_draws * overlap / (1 - overlap) if num_draws > 1 else 1.0
    if value_SR.size == 1:
        variance, freedom = 0.0, np.inf
    elif num_seeds == 1 or num_draws == 1:
        variance = growth * float(value_SR.var(ddof=1)) / value_SR.size
        freedom = value_SR.size - 1.0
    else:
        variance, freedom = _variance(value_SR, growth)
    total = variance + of_tests
    if not total > _ROUNDING:  # values that are all the same, or nan
        return Estimate(mean, np.nan, np.nan, np.nan, NONE)
    freedom = freedom * (total / variance) ** 2 if variance else np.inf
    error = float(np.sqrt(total))
    half = float(stats.t.ppf((1 + _LEVEL) / 2, freedom)) * error
    low, high = np.clip([mean - half, mean + half], *bounds).tolist()
    p = float(2 * stats.t.sf(abs(mean) / error, freedom))
    return Estimate(mean, low, high, p, covers)


def _variance(value_SR: np.ndarray, growth: float) -> tuple[float, float]:
    """Returns the variance of the mean and its degrees of freedom."""
    num_seeds, num_draws = value_SR.shape
    mean = value_SR.mean()
    seed_S1, draw_R = value_SR.mean(axis=1, keepdims=True), value_SR.mean(axis=0)
    of_seeds = num_draws * float(((seed_S1 - mean) ** 2).sum()) / (num_seeds - 1)
    of_draws = num_seeds * float(((draw_R - mean) ** 2).sum()) / (num_draws - 1)
    rest_freedom = (num_seeds - 1) * (num_draws - 1)
    of_rest = float(((value_SR - seed_S1 - draw_R + mean) ** 2).sum()) / rest_freedom
    if of_draws <= of_rest:  # no draw shows, so nothing that they share
        growth = 1.0
    total = of_seeds + growth * (of_draws - of_rest)
    if total <= of_rest:  # neither factor shows: the values are as good as independent
        return of_rest / value_SR.size, rest_freedom
    freedom = total**2 / (
        of_seeds**2 / (num_seeds - 1)
        + (growth * of_draws) ** 2 / (num_draws - 1)
        + (growth * of_rest) ** 2 / rest_freedom
    )
    return total / value_SR.size, max(freedom, 1.0)


def summary(results: pd.DataFrame, line: str) -> pd.DataFrame:
    """Returns mean and interval of every metric, one row per line, mode, task and shots.

    Args:
      results: a row per draw, and seed where there are several; columns of results.csv.
      line: column that names the lines.

    Returns:
      Columns LINE, mode, task, shots, seeds (where there are several), draws, metric (the
      task's main one), for each of `metrics.NAMES` there NAME, NAME_low, NAME_high, and covers.
    """
    rows = []
    names = [line, "mode", *UNIT]
    for keys, group in results.groupby(names, sort=False):
        row: dict[str, Any] = dict(zip(names, keys, strict=True))
        if "seed" in group:
            row["seeds"] = group.seed.nunique()
        row |= {"draws": group.draw.nunique(), "metric": group.metric.iloc[0]}
        for number, name in enumerate(metrics.NAMES):
            if name not in group:  # where no task has labels of its kind
                continue
            estimate = crossed(
                _values(group, name),
                overlap=_overlap(group),
                of_tests=_variance_of_tests([_replicates(group, number)]),
                bounds=metrics.RANGES[name],
            )
            row |= {name: estimate.mean, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
            if name == row["metric"]:
                row["covers"] = estimate.covers
        rows.append(row)
    return pd.DataFrame(rows)


def paired(pairs: Sequence[tuple[pd.DataFrame, pd.DataFrame]]) -> Estimate:
    """Returns the mean of one line minus another in the main metric, paired by seed and draw.

    Args:
      pairs: of one unit, the rows of the one line and of the other; of several, the mean over
        the units, for which the same test rows are resampled within a task.
    """
    values, by_task, low, high = [], {}, np.inf, -np.inf
    for own, other in pairs:
        metric = own.metric.iloc[0]
        number = metrics.NAMES.index(metric)
        values.append(_values(own, metric) - _values(other, metric))
        replicates = _replicates(own, number) - _replicates(other, number)
        by_task.setdefault(own.task.iloc[0], []).append(replicates)
        span = np.ptp(metrics.RANGES[metric])
        low, high = min(low, -span), max(high, span)
    of_tests = _variance_of_tests(
        [np.sum(units, axis=0) / len(pairs) for units in by_task.values()]
    )
    overlap = float(np.max([_overlap(own) for own, _ in pairs]))
    return crossed(np.mean(values, axis=0), overlap=overlap, of_tests=of_tests, bounds=(low, high))


def _values(rows: pd.DataFrame, name: str) -> np.ndarray:
    """Returns the values of one line and unit as float (seeds, draws)."""
    if "seed" not in rows:
        rows = rows.assign(seed=0)
    return rows.pivot(index="seed", columns="draw", values=name).to_numpy(np.float64)


def _overlap(rows: pd.DataFrame) -> float:
    """Returns the part of the rows that two draws share; nan where it was not kept."""
    return float(rows.overlap.iloc[0]) if "overlap" in rows else float("nan")


def _replicates(rows: pd.DataFrame, number: int) -> np.ndarray:
    """Returns one metric's mean over seeds and draws in every resample; nan without them."""
    if RESAMPLED not in rows:
        return np.full(metrics.NUM_RESAMPLES, np.nan)
    return np.mean([scores_BM[:, number] for scores_BM in rows[RESAMPLED]], axis=0)


def _variance_of_tests(replicates: Sequence[np.ndarray]) -> float:
    """Returns the summed variance of independent parts over their resamples; nan without them.

    A resample without a row of some class has no AUROC, and is passed over.
    """
    known = [part_B[np.isfinite(part_B)] for part_B in replicates]
    if min(map(len, known)) < 2:
        return float("nan")
    return float(sum(part_B.var(ddof=1) for part_B in known))


def holm(p_values: list[float]) -> list[float]:
    """Returns the p-values after Holm's correction, in the given order; nan stays nan.

    Source: S. Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    p_N = np.asarray(p_values, np.float64)
    known = np.flatnonzero(np.isfinite(p_N))
    order = known[np.argsort(p_N[known], kind="stable")]
    corrected_N = np.full(len(p_N), np.nan)
    factors = np.arange(len(order), 0, -1)
    corrected_N[order] = np.minimum(np.maximum.accumulate(p_N[order] * factors), 1)
    return corrected_N.tolist()


def detectable(spread: float, num_seeds: int) -> float:
    """Returns the true difference that a paired t-test over seeds shows with probability `POWER`.

    `spread` is the standard deviation of the differences over seeds; the test is two-sided.
    """
    freedom = num_seeds - 1
    least = stats.t.ppf((1 + _LEVEL) / 2, freedom)

    def missing(shift: float) -> float:
        return float(stats.nct.sf(least, freedom, shift)) - POWER

    return float(spread / np.sqrt(num_seeds) * optimize.brentq(missing, 0, 100))
