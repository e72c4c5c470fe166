"""Means and intervals over seeds and draws together, and correction for many comparisons."""

import dataclasses

import numpy as np
from scipy import stats


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval; the bounds and p are nan where one value is all there is."""

    mean: float
    low: float
    high: float
    p: float  # two-sided, of the mean being 0

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def crossed(value_SR: np.ndarray, level: float = 0.95) -> Estimate:
    """Returns the mean over seeds x draws, as two crossed random factors.

    Every seed meets the same draws, so neither the S * R values nor the S means are
    independent. The variance of the mean is that of a two-way layout
    without replication, (MS_seeds + MS_draws - MS_rest) / (S * R), with Satterthwaite's
    degrees of freedom (Searle, Casella, McCulloch 1992, chapter 4). Seeds that differ
    much therefore give a wide interval, as they should. With one seed, or one draw, it
    is Student's interval over the other. In simulations of 10 draws it covers the truth
    in 94 to 98 % of the cases with three seeds or more, in 89 to 98 % with two.

    Args:
      value_SR: float (seeds, draws).
      level: of the interval.
    """
    num_seeds, num_draws = value_SR.shape
    mean = float(value_SR.mean())
    if value_SR.size == 1:
        return Estimate(mean, float("nan"), float("nan"), float("nan"))
    if num_seeds == 1 or num_draws == 1:
        variance, freedom = float(value_SR.var(ddof=1)) / value_SR.size, value_SR.size - 1
    else:
        variance, freedom = _variance(value_SR)
    error = float(np.sqrt(variance))
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    if error:
        p = float(2 * stats.t.sf(abs(mean) / error, freedom))
    else:
        p = float(mean == 0)
    return Estimate(mean, mean - half, mean + half, p)


def _variance(value_SR: np.ndarray) -> tuple[float, float]:
    """Returns the variance of the mean and its degrees of freedom."""
    num_seeds, num_draws = value_SR.shape
    mean = value_SR.mean()
    seed_S1, draw_R = value_SR.mean(axis=1, keepdims=True), value_SR.mean(axis=0)
    of_seeds = num_draws * float(((seed_S1 - mean) ** 2).sum()) / (num_seeds - 1)
    of_draws = num_seeds * float(((draw_R - mean) ** 2).sum()) / (num_draws - 1)
    rest_freedom = (num_seeds - 1) * (num_draws - 1)
    of_rest = float(((value_SR - seed_S1 - draw_R + mean) ** 2).sum()) / rest_freedom
    total = of_seeds + of_draws - of_rest
    if total <= of_rest:  # neither factor shows: the values are as good as independent
        return of_rest / value_SR.size, rest_freedom
    freedom = total**2 / (
        of_seeds**2 / (num_seeds - 1) + of_draws**2 / (num_draws - 1) + of_rest**2 / rest_freedom
    )
    return total / value_SR.size, max(freedom, 1.0)


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
