"""The zero router: the best that can be had without looking at queries, by mixing single arms at random.

Source: RouterBench (Hu et al. 2024, arXiv 2403.12031).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import trapezoid

from defer.exceptions import EvaluationError

__all__ = ["area_over_zero", "upper_hull"]

Floats = NDArray[np.float64]


def upper_hull(cost: ArrayLike, quality: ArrayLike) -> tuple[Floats, Floats]:
    """Vertices of the non-decreasing concave hull, in order of cost.

    O(n log n) time, O(n) memory: a sort, a running maximum, and a monotone chain over what is left.  Of points of equal cost
    the best counts; points on a line between two others are no vertices.

    Parameters
    ----------
    cost, quality : arrays of shape (n,)

    Returns
    -------
    cost, quality : arrays of shape (h,)

    Raises
    ------
    EvaluationError
        If there is no point, shapes differ, or a value is not finite.

    Examples
    --------
    >>> cost, quality = upper_hull([1, 2, 3, 5, 10], [0.4, 0.7, 0.6, 0.8, 0.9])
    >>> cost.tolist()
    [1.0, 2.0, 5.0, 10.0]
    """
    c, q = _best_per_cost(cost, quality)
    rising = np.concatenate(([True], q[1:] > np.maximum.accumulate(q)[:-1]))
    c, q = c[rising], q[rising]
    while len(c) > 2:
        # Sweeps by arrays while they pay: a point on or under the line of its neighbours is never a vertex.
        left, right = (q[1:-1] - q[:-2]) * (c[2:] - c[1:-1]), (q[2:] - q[1:-1]) * (c[1:-1] - c[:-2])
        kept = np.concatenate(([True], left > right, [True]))
        n_kept = int(kept.sum())
        if n_kept == len(c):
            break
        if n_kept > 0.95 * len(c):
            return _chain(c, q)
        c, q = c[kept], q[kept]
    return c, q


def area_over_zero(cost: ArrayLike, quality: ArrayLike, arm_cost: ArrayLike, arm_quality: ArrayLike) -> float:
    """Mean height of a router's curve over the hull of the single arms ("zero router"), over the arms' range of costs.

    The router's points are joined as they are, without a hull, which would be biased upward on noisy points (of equal costs
    the best point counts); left of its first point the router is taken to follow the zero router, right of its last to stay.

    Parameters
    ----------
    cost, quality : arrays of shape (p,)
        Points of the router.
    arm_cost, arm_quality : arrays of shape (m,)
        Points of the single arms.

    Raises
    ------
    EvaluationError
        If there is no point, shapes differ, or a value is not finite.

    Examples
    --------
    >>> round(area_over_zero([1, 2, 3], [0.4, 0.8, 0.8], [1, 3], [0.4, 0.8]), 3)
    0.1
    """
    c, q = _best_per_cost(cost, quality)
    zero_c, zero_q = upper_hull(arm_cost, arm_quality)
    low, high = float(zero_c[0]), float(np.max(np.asarray(arm_cost, dtype=np.float64)))
    if high <= low:
        return float(np.interp(low, c, q) - zero_q[0])
    start = max(low, float(c[0]))
    at = np.unique(np.clip(np.concatenate((c, zero_c, [start, high])), start, high))
    height = np.interp(at, c, q) - np.interp(at, zero_c, zero_q)
    return float(trapezoid(height, at) / (high - low))


def _best_per_cost(cost: ArrayLike, quality: ArrayLike) -> tuple[Floats, Floats]:
    """Points by rising cost, of each cost the one of highest quality."""
    c, q = np.asarray(cost, dtype=np.float64), np.asarray(quality, dtype=np.float64)
    if c.ndim != 1 or c.shape != q.shape or not len(c):
        raise EvaluationError(
            f"cost and quality must be equally long and not empty, got shapes {c.shape} and {q.shape}"
        )
    wrong = np.flatnonzero(~(np.isfinite(c) & np.isfinite(q)))
    if len(wrong):
        raise EvaluationError(
            f"{len(wrong)} points are not finite, the first is point {wrong[0]} ({c[wrong[0]]}, {q[wrong[0]]})"
        )
    order = np.lexsort((-q, c))
    c, q = c[order], q[order]
    first = np.concatenate(([True], c[1:] > c[:-1]))
    return c[first], q[first]


def _chain(c: Floats, q: Floats) -> tuple[Floats, Floats]:
    kept: list[int] = []
    cs, qs = c.tolist(), q.tolist()
    for index in range(len(cs)):
        while len(kept) > 1:
            a, b = kept[-2], kept[-1]
            if (qs[b] - qs[a]) * (cs[index] - cs[b]) <= (qs[index] - qs[b]) * (cs[b] - cs[a]):
                kept.pop()
            else:
                break
        kept.append(index)
    return c[kept], q[kept]
