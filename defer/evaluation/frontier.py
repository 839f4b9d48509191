"""The cost-quality plane: hull, zero router, AIQ, oracle, and the exact sweep of a router's operating points.

Source: RouterBench (Hu et al. 2024, arXiv 2403.12031); ``norm="max"`` is what its repository computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import narwhals as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import trapezoid

from defer.evaluation.moments import effective_sample_size
from defer.exceptions import EvaluationError
from defer.portfolios.assignment import hull_increments
from defer.portfolios.zero_router import upper_hull

__all__ = ["Frontier", "Resweep", "aiq", "hull_quality", "oracle", "sweep"]

Floats = NDArray[np.float64]


def hull_quality(at: ArrayLike, cost: ArrayLike, quality: ArrayLike) -> Floats:
    """Quality of the hull of the points at costs `at`: linear between vertices, flat to the right, NaN to the left.

    Parameters
    ----------
    at : array of shape (k,)
        Costs.
    cost, quality : arrays of shape (n,)
        Points.

    Examples
    --------
    >>> hull_quality([1.5, 10.0], [1, 2], [0.4, 0.7]).round(3).tolist()
    [0.55, 0.7]
    """
    return np.interp(np.asarray(at, dtype=np.float64), *upper_hull(cost, quality), left=np.nan)


def aiq(
    cost: ArrayLike,
    quality: ArrayLike,
    *,
    norm: Literal["range", "max"] = "range",
    low: float | None = None,
    high: float | None = None,
) -> float:
    """Average quality of the non-decreasing concave hull over a range of costs.

    Parameters
    ----------
    cost, quality : arrays of shape (n,)
    norm : {"range", "max"}, default="range"
        Divide the area by ``high - low`` as the paper defines it, or by ``high`` as the paper's repository does.
    low, high : float, optional
        Range common to all compared routers; default that of the points.  Left of its first point a router has no
        quality: `low` must not lie below it.

    Raises
    ------
    EvaluationError
        If the range ends left of its start, starts left of the first point, or with ``norm="max"`` ends at or below 0.

    Examples
    --------
    >>> round(aiq([1, 2, 3, 5, 10], [0.4, 0.7, 0.6, 0.8, 0.9]), 6)
    0.783333
    >>> round(aiq([1, 2, 3, 5, 10], [0.4, 0.7, 0.6, 0.8, 0.9], norm="max"), 6)
    0.705
    """
    if norm not in ("range", "max"):
        raise EvaluationError(f"norm must be 'range' or 'max', got {norm!r}")
    c, q = upper_hull(cost, quality)
    start = float(c[0]) if low is None else float(low)
    end = float(np.max(np.asarray(cost, dtype=np.float64))) if high is None else float(high)
    if start < c[0] - 1e-12 * max(1.0, abs(c[0])):
        raise EvaluationError(
            f"the range starts at {start:g}, left of the first point at {c[0]:g}, where quality is not defined"
        )
    if not start <= end:
        raise EvaluationError(f"the range ends at {end:g}, left of its start {start:g}")
    if norm == "max" and end <= 0.0:
        raise EvaluationError(f"norm='max' divides by the end of the range, which must be above 0, got {end:g}")
    if end == start:
        return float(np.interp(end, c, q))
    inner = c[(c > start) & (c < end)]
    at = np.concatenate(([start], inner, [end]))
    area = float(trapezoid(np.interp(at, c, q), at))
    return area / (end - start) if norm == "range" else area / end


def oracle(quality: ArrayLike, cost: ArrayLike | None = None) -> NDArray[np.intp]:
    """Best arm of every query, ties to the cheapest, then to the lowest index; NaN is never taken.  Shape (n,).

    Parameters
    ----------
    quality, cost : arrays of shape (n, m)
        NaN = not observed; an arm of unknown cost loses every tie.

    Raises
    ------
    EvaluationError
        If shapes differ, or nothing was observed on a query.

    Examples
    --------
    >>> oracle([[1.0, 1.0], [0.0, 1.0]], [[2.0, 1.0], [2.0, 1.0]]).tolist()
    [1, 1]
    """
    values = np.asarray(quality, dtype=np.float64)
    blank = np.flatnonzero(np.isnan(values).all(axis=1))
    if len(blank):
        raise EvaluationError(f"{len(blank)} queries have no observed quality, the first is row {blank[0]}")
    values = np.where(np.isnan(values), -np.inf, values)
    if cost is None:
        return values.argmax(axis=1)
    price = np.asarray(cost, dtype=np.float64)
    if price.shape != values.shape:
        raise EvaluationError(f"cost must have shape {values.shape} like quality, got {price.shape}")
    best = values == values.max(axis=1, keepdims=True)
    dearest = np.finfo(np.float64).max
    return np.where(best, np.nan_to_num(price, nan=dearest), np.inf).argmin(axis=1)


@dataclass(frozen=True)
class Frontier:
    """Operating points of a router as the price of cost falls from infinity to 0.

    Attributes
    ----------
    price : array of shape (p,)
        Utility per US dollar; the router is at a point while the price of cost is below that of the point and above that
        of the next.  Infinite at the first point.
    quality, cost : arrays of shape (p,)
        Realised means.
    quality_se, cost_se : arrays of shape (p,)
        Standard errors, clustered where clusters were given; NaN for a single query or cluster.
    load : array of shape (p, m)
        Share of every arm.
    ess : array of shape (p,)
        Effective sample size behind the point: the number of queries where all outcomes were observed.
    """

    price: Floats
    quality: Floats
    cost: Floats
    quality_se: Floats
    cost_se: Floats
    load: Floats
    ess: Floats

    def frame(self, arms: tuple[str, ...], *, z: float = 1.959963984540054) -> nw.DataFrame[Any]:
        """Row per operating point, with an interval of `z` standard errors and the share of every arm."""
        columns: dict[str, Any] = {
            "price": self.price,
            "cost_usd": self.cost,
            "quality": self.quality,
            "quality_low": self.quality - z * self.quality_se,
            "quality_high": self.quality + z * self.quality_se,
        }
        columns |= {f"share:{arm}": self.load[:, index] for index, arm in enumerate(arms)}
        return nw.from_dict(columns, backend="pyarrow")


def sweep(
    predicted_utility: Floats,
    predicted_cost: Floats,
    quality: Floats,
    cost: Floats,
    *,
    n_points: int = 100,
    cluster: NDArray[Any] | None = None,
    importance: Floats | None = None,
) -> Frontier:
    """All operating points of a router, thinned to about `n_points` where there are more.

    At every price each query takes its best arm; the points are the exact events at which some query changes, with equal
    slopes taken together and both ends included.

    Parameters
    ----------
    predicted_utility, predicted_cost : arrays of shape (n, m)
        What the router goes by.
    quality, cost : arrays of shape (n, m)
        What is realised; no NaN.
    n_points : int, default=100
    cluster : array of shape (n,), optional
    importance : array of shape (n, m), optional
        On bandit logs, one over the propensity for the logged arm and 0 for the others: what the effective sample size
        of a point follows from.

    Raises
    ------
    EvaluationError
        If shapes differ or a value is not finite.

    Examples
    --------
    >>> gain = np.array([[0.0, 0.9], [0.0, 0.1]])
    >>> curve = sweep(gain, np.tile([0.0, 1.0], (2, 1)), gain, np.tile([0.0, 1.0], (2, 1)))
    >>> curve.cost.tolist(), curve.quality.tolist()
    ([0.0, 0.5, 1.0], [0.0, 0.45, 0.5])
    """
    n, m = np.shape(quality)
    tables = {
        "predicted_utility": predicted_utility,
        "predicted_cost": predicted_cost,
        "quality": quality,
        "cost": cost,
    }
    for name, table in tables.items():
        if np.shape(table) != (n, m):
            raise EvaluationError(f"{name} must have shape ({n}, {m}) like quality, got {np.shape(table)}")
        wrong = np.flatnonzero(~np.isfinite(table).all(axis=1))
        if len(wrong):
            raise EvaluationError(f"{name} is not finite in {len(wrong)} of {n} rows, the first is row {wrong[0]}")
    steps = hull_increments(np.ascontiguousarray(predicted_utility), np.ascontiguousarray(predicted_cost))
    ends = np.flatnonzero(np.diff(steps.group, append=len(steps.group) + 1))
    gained = np.cumsum(cost[steps.query, steps.to_arm] - cost[steps.query, steps.from_arm])[ends]
    picked = _evenly(np.concatenate(([0.0], gained)), max(n_points, 2))
    groups = None if cluster is None else np.unique(cluster, return_inverse=True)[1].ravel()
    arm, rows, done = steps.start.copy(), np.arange(n), 0
    points = np.empty((len(picked), 5))
    load = np.empty((len(picked), m))
    for place, index in enumerate(picked):
        upto = ends[index - 1] + 1 if index else 0
        arm[steps.query[done:upto]] = steps.to_arm[done:upto]
        done = upto
        q, c = quality[rows, arm], cost[rows, arm]
        ess = float(n) if importance is None else effective_sample_size(importance[rows, arm])
        points[place] = q.mean(), c.mean(), _standard_error(q, groups), _standard_error(c, groups), ess
        load[place] = np.bincount(arm, minlength=m) / n
    price = np.concatenate(([np.inf], steps.slope[ends]))[picked]
    return Frontier(price, points[:, 0], points[:, 1], points[:, 2], points[:, 3], load, points[:, 4])


class Resweep:
    """The curve of a router on resampled queries.

    Which arm a query has at which price does not depend on the other queries, so the steps are found once and a resample
    only weights them: O(n m) a resample instead of a sweep.

    Parameters
    ----------
    predicted_utility, predicted_cost, quality, cost : arrays of shape (n, m)
        As for `sweep`.

    Examples
    --------
    >>> gain = np.array([[0.0, 0.9], [0.0, 0.1]])
    >>> curve = Resweep(gain, np.tile([0.0, 1.0], (2, 1)), gain, np.tile([0.0, 1.0], (2, 1)))
    >>> cost, quality = curve.points(np.array([2.0, 0.0]), n_points=10)
    >>> cost.tolist(), quality.tolist()
    ([0.0, 1.0, 1.0], [0.0, 0.9, 0.9])
    """

    def __init__(self, predicted_utility: Floats, predicted_cost: Floats, quality: Floats, cost: Floats) -> None:
        steps = hull_increments(np.ascontiguousarray(predicted_utility), np.ascontiguousarray(predicted_cost))
        rows, tables = np.arange(len(quality)), (cost, quality)
        self._query = steps.query
        self._ends = np.flatnonzero(np.diff(steps.group, append=len(steps.group) + 1))
        self._start = np.stack([table[rows, steps.start] for table in tables])
        self._gain = np.stack(
            [table[steps.query, steps.to_arm] - table[steps.query, steps.from_arm] for table in tables]
        )

    def points(self, weight: Floats, *, n_points: int) -> tuple[Floats, Floats]:
        """Mean cost and quality of about `n_points` operating points where query i counts `weight[i]` times."""
        share = weight / weight.sum()
        start = (self._start @ share)[:, None]
        curve = np.hstack([start, start + np.cumsum(self._gain * share[self._query], axis=1)[:, self._ends]])
        cost, quality = curve[:, _evenly(curve[0], max(n_points, 2))]
        return cost, quality


def _evenly(cost: Floats, n_points: int) -> NDArray[np.intp]:
    """Both ends and about `n_points` between, evenly in cost, so that no part of the curve is left without points."""
    last = len(cost) - 1
    if len(cost) <= n_points:
        return np.arange(len(cost))
    wanted = np.linspace(cost.min(), cost.max(), n_points)
    return np.unique(np.concatenate(([0, last], np.searchsorted(np.maximum.accumulate(cost), wanted).clip(0, last))))


def _standard_error(values: Floats, groups: NDArray[np.intp] | None) -> float:
    n = len(values)
    residual = values - values.mean()
    if groups is not None:
        residual = np.bincount(groups, weights=residual)
    k = len(residual)
    return float(np.sqrt(residual @ residual * k / (k - 1)) / n) if k > 1 else float("nan")
