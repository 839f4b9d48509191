"""Confidence intervals from sufficient statistics: normal, Student, empirical Bernstein, Hoeffding, bootstrap.

Sources: Maurer and Pontil 2009 (empirical Bernstein); Thomas et al. 2015 (high-confidence off-policy evaluation).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from defer.evaluation.estimators import DM, ValueEstimator
from defer.evaluation.moments import Moments
from defer.exceptions import EvaluationError

__all__ = [
    "FINITE_SAMPLE", "INTERVALS", "Interval", "bernstein_radius", "default_interval", "hoeffding_radius", "independent_rows", "interval_of",
    "mean_interval", "percentile_interval", "wilson_interval",
]  # fmt: skip

INTERVALS = ("normal", "student", "empirical_bernstein", "hoeffding", "bootstrap")
FINITE_SAMPLE = ("empirical_bernstein", "hoeffding")
"""Kinds that hold at every sample size."""

# Independent rows from which the normal quantile stands in for Student's.
_MANY = 100


def bernstein_radius(variance: float, n: int, *, span: float, delta: float) -> float:
    """One-sided radius of the empirical Bernstein bound; infinite for fewer than two rows.

    Parameters
    ----------
    variance : float
        Of the terms, with n - 1 in the denominator.
    n : int
    span : float
        Length of an interval that holds every term, fixed before the data are seen.
    delta : float
        Probability of a miss.

    Examples
    --------
    >>> round(0.25 - bernstein_radius(0.25 * 0.75 * 200 / 199, 200, span=1.0, delta=0.05), 6)
    0.123372
    """
    if n < 2:
        return math.inf
    log_term = math.log(2.0 / delta)
    return math.sqrt(2.0 * variance * log_term / n) + 7.0 * span * log_term / (3.0 * (n - 1))


def hoeffding_radius(n: int, *, span: float, delta: float) -> float:
    """One-sided radius of Hoeffding's bound; parameters as for `bernstein_radius`.

    Examples
    --------
    >>> round(0.25 - hoeffding_radius(200, span=1.0, delta=0.05), 6)
    0.163459
    """
    return span * math.sqrt(math.log(1.0 / delta) / (2.0 * n))


def default_interval(moments: Moments) -> str:
    """The kind that "auto" stands for: normal, or Student where few rows or clusters are independent.

    Examples
    --------
    >>> moments = Moments(1)
    >>> moments.update(np.arange(20.0)[:, None])
    >>> default_interval(moments)
    'student'
    """
    return "normal" if independent_rows(moments) >= _MANY else "student"


def independent_rows(moments: Moments) -> int:
    """Number of clusters, or of rows where no clusters were given."""
    grouped = moments.clusters()
    return moments.n if grouped is None else len(grouped[1])


def interval_of(
    estimator: ValueEstimator, moments: Moments, *, interval: str, level: float, span: float | None = None
) -> tuple[float, float]:
    """Two-sided interval, each side at (1 - level) / 2; NaN where the moments cannot carry one.

    The normal interval of a ratio is that of the delta method, and its bootstrap resamples the ratio, not the terms.

    Parameters
    ----------
    estimator : ValueEstimator
    moments : Moments
        Of its terms; clusters in it make normal and Student intervals clustered.
    interval : one of `INTERVALS`
    level : float
    span : float, optional
        Length of an interval that holds every term; needed for the two bounds.

    Raises
    ------
    EvaluationError
        If the interval is unknown, or needs what is not there: replicates, a span, independent rows.
    """
    value, delta = float(estimator.value(moments.mean)), (1.0 - level) / 2.0
    if interval == "bootstrap":
        return _percentiles(estimator, moments, delta)
    groups = independent_rows(moments)
    if interval in ("normal", "student"):
        variance = moments.variance_of_mean(estimator.gradient(moments.mean), corrected=not estimator.is_ratio)
        quantile = stats.norm.ppf(1 - delta) if interval == "normal" else stats.t.ppf(1 - delta, max(groups - 1, 1))
        radius = float(quantile) * math.sqrt(variance)
    elif interval in FINITE_SAMPLE:
        if estimator.is_ratio:
            raise EvaluationError(
                f"interval {interval!r} needs bounded independent terms, and {estimator.name} is a ratio; use 'normal' or 'bootstrap'"
            )
        if span is None:
            raise EvaluationError(f"interval {interval!r} needs span=, the length of an interval that holds every term")
        if groups < moments.n:
            raise EvaluationError(
                f"interval {interval!r} needs independent rows, and this log's {moments.n} rows are in {groups} clusters; "
                "use 'normal' or 'bootstrap'"
            )
        if moments.n < 2:
            return float("nan"), float("nan")
        spread = float(moments.scatter[0, 0]) / (moments.n - 1)
        radius = (
            bernstein_radius(spread, moments.n, span=span, delta=delta)
            if interval == "empirical_bernstein"
            else hoeffding_radius(moments.n, span=span, delta=delta)
        )
    else:
        raise EvaluationError(f"interval must be 'auto' or one of {INTERVALS}, got {interval!r}")
    return value - radius, value + radius


def _percentiles(estimator: ValueEstimator, moments: Moments, delta: float) -> tuple[float, float]:
    if not moments.n_bootstrap:
        raise EvaluationError("interval 'bootstrap' needs replicates, and these moments have n_bootstrap=0")
    return percentile_interval(estimator.value(moments.replicate_means()), delta)


def percentile_interval(values: NDArray[np.float64], delta: float) -> tuple[float, float]:
    """Quantiles `delta` and ``1 - delta`` of bootstrap replicates; NaN where undefined ones could reach them.

    Examples
    --------
    >>> percentile_interval(np.arange(101.0), 0.05)
    (5.0, 95.0)
    """
    defined = values[np.isfinite(values)]
    # Replicates without rows, or without weight, may lie anywhere: they are left out while they cannot reach the bounds.
    if not len(defined) or len(values) - len(defined) > delta * len(values):
        return math.nan, math.nan
    low, high = np.quantile(defined, [delta, 1.0 - delta])
    return float(low), float(high)


@dataclass(frozen=True)
class Interval:
    """A number with its interval.

    Parameters
    ----------
    value : float
    low, high : float
        NaN where no interval can be given.

    Examples
    --------
    >>> print(Interval(0.5, 0.4, 0.6))
    0.5 (0.4 … 0.6)
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.low:.4g} … {self.high:.4g})"


def mean_interval(
    terms: NDArray[np.float64],
    cluster: NDArray[Any] | None,
    level: float,
    *,
    interval: str = "auto",
    span: float | None = None,
    random_state: int = 0,
) -> Interval:
    """Mean of per-query terms with an interval, clustered where clusters are given; `span` as for `interval_of`."""
    moments = Moments(1, 1000 if interval == "bootstrap" else 0, random_state)
    moments.update(terms[:, None], cluster)
    kind = default_interval(moments) if interval == "auto" else interval
    low, high = interval_of(DM(), moments, interval=kind, level=level, span=span)
    return Interval(float(moments.mean[0]), low, high)


def wilson_interval(mean: float, n: int, *, z: float) -> tuple[float, float]:
    """Wilson's score interval for the mean of n values in [0, 1], none of which has a variance above mean (1 - mean).

    Examples
    --------
    >>> low, high = wilson_interval(1.0, 100, z=1.96)
    >>> round(low, 3), high
    (0.963, 1.0)
    """
    centre, spread = mean + z * z / (2 * n), z * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    return max(0.0, (centre - spread) / (1 + z * z / n)), min(1.0, (centre + spread) / (1 + z * z / n))
