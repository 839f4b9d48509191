"""Confidence intervals from sufficient statistics: normal, Student, empirical Bernstein, Hoeffding, bootstrap.

Sources: Maurer and Pontil 2009 (empirical Bernstein); Thomas et al. 2015 (high-confidence off-policy evaluation).
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from defer.evaluation.estimators import ValueEstimator
from defer.evaluation.moments import Moments
from defer.exceptions import EvaluationError

__all__ = ["INTERVALS", "bernstein_radius", "hoeffding_radius", "interval_of"]

INTERVALS = ("normal", "student", "empirical_bernstein", "hoeffding", "bootstrap")


def bernstein_radius(variance: float, n: int, *, span: float, delta: float) -> float:
    """One-sided radius of the empirical Bernstein bound; `variance` has n - 1 in the denominator.

    Examples
    --------
    >>> round(0.25 - bernstein_radius(0.25 * 0.75 * 200 / 199, 200, span=1.0, delta=0.05), 6)
    0.123372
    """
    log_term = math.log(2.0 / delta)
    return math.sqrt(2.0 * variance * log_term / n) + 7.0 * span * log_term / (3.0 * (n - 1))


def hoeffding_radius(n: int, *, span: float, delta: float) -> float:
    """One-sided radius of Hoeffding's bound.

    Examples
    --------
    >>> round(0.25 - hoeffding_radius(200, span=1.0, delta=0.05), 6)
    0.163459
    """
    return span * math.sqrt(math.log(1.0 / delta) / (2.0 * n))


def interval_of(
    estimator: ValueEstimator, moments: Moments, *, interval: str, level: float, span: float | None = None
) -> tuple[float, float]:
    """Two-sided interval, each side at (1 - level) / 2.

    Parameters
    ----------
    estimator : ValueEstimator
    moments : Moments
        Of its terms; clusters in it make normal and Student intervals clustered.
    interval : one of `INTERVALS`
    level : float
    span : float, optional
        Length of an interval that holds every term; needed for the two bounds.
    """
    value, delta = float(estimator.value(moments.mean)), (1.0 - level) / 2.0
    if interval == "bootstrap":
        counts = moments.replicates[:, -1:]
        values = estimator.value(
            np.divide(
                moments.replicates[:, :-1], counts, out=np.full((len(counts), moments.k), np.nan), where=counts > 0
            )
        )
        low, high = np.nanquantile(values, [delta, 1.0 - delta])
        return float(low), float(high)
    if interval in ("normal", "student"):
        variance = moments.variance_of_mean(estimator.gradient(moments.mean), corrected=not estimator.is_ratio)
        grouped = moments.clusters()
        groups = moments.n if grouped is None else len(grouped[1])
        quantile = stats.norm.ppf(1 - delta) if interval == "normal" else stats.t.ppf(1 - delta, max(groups - 1, 1))
        radius = float(quantile) * math.sqrt(variance)
    elif interval in ("empirical_bernstein", "hoeffding"):
        if estimator.is_ratio or span is None:
            raise EvaluationError(
                f"interval {interval!r} needs bounded independent terms, and {estimator.name} is a ratio"
            )
        if moments.clusters() is not None and len(moments.clusters()[1]) < moments.n:  # type: ignore[index]
            raise EvaluationError(
                f"interval {interval!r} needs independent rows, and this log has clusters; use 'normal' or 'bootstrap'"
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
