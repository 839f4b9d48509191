"""Concave hulls in the plane of cost and utility: the exact linear program for one budget.

Each query keeps the upper concave hull of its arms; buying the increments of all queries in order of falling slope is
optimal for every budget at once, and the slope at which the money runs out is the price of the budget.
Source: the fractional multiple-choice knapsack (textbook); V*(B) is concave and piecewise linear in B.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Increments", "hull_increments"]

# Relative difference up to which neighbouring slopes count as equal: a few roundings of utility and cost.
_SAME_SLOPE = 1e-12


@dataclass(frozen=True, slots=True)
class Increments:
    """Steps along the hulls of all queries, in order of falling slope.

    Within one query the steps keep their order, so taking the first k steps leaves every query on its hull.

    Attributes
    ----------
    start : array of shape (n,)
        Cheapest arm of each query (of equally cheap ones the best, then the lowest index).
    query, from_arm, to_arm : int arrays of shape (k,)
    utility, cost : arrays of shape (k,)
        What the step adds; both are > 0.
    slope : array of shape (k,)
        Utility per unit of cost; never rises along the steps of one query.
    group : int array of shape (k,)
        Number of the group of equal slopes to which the step belongs, from 0.
    """

    start: NDArray[np.intp]
    query: NDArray[np.intp]
    from_arm: NDArray[np.intp]
    to_arm: NDArray[np.intp]
    utility: NDArray[np.float64]
    cost: NDArray[np.float64]
    slope: NDArray[np.float64]
    group: NDArray[np.intp]


def hull_increments(utility: NDArray[np.float64], cost: NDArray[np.float64]) -> Increments:
    """Hull steps of every query, sorted by falling utility per cost.

    O(n m h) time for hulls of h vertices and O(n m) memory; no loop over queries.

    Parameters
    ----------
    utility, cost : arrays of shape (n, m)
        Finite.

    Returns
    -------
    Increments

    Examples
    --------
    >>> steps = hull_increments(np.array([[0.5, 0.6, 0.9]]), np.array([[0.0, 1.0, 4.0]]))
    >>> steps.from_arm.tolist(), steps.to_arm.tolist(), steps.slope.round(3).tolist()
    ([0], [2], [0.1])
    """
    n = len(utility)
    start = _cheapest(utility, cost)
    rows, at = np.arange(n), start
    found: list[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]] = []
    slopes: list[NDArray[np.float64]] = []
    row_utility, row_cost = utility, cost
    ceiling = np.full(n, np.finfo(np.float64).max / 4)
    while len(rows):
        local = np.arange(len(rows))
        gain = row_utility - row_utility[local, at][:, None]
        price = row_cost - row_cost[local, at][:, None]
        worthwhile = (gain > 0) & (price > 0)
        slope = np.full(gain.shape, -np.inf)
        with np.errstate(over="ignore"):
            np.divide(gain, price, out=slope, where=worthwhile)
        steepest = slope.max(axis=1)
        onward = steepest > -np.inf
        if not onward.all():
            rows, at, local = rows[onward], at[onward], np.arange(int(onward.sum()))
            slope, steepest, price = slope[onward], steepest[onward], price[onward]
            row_utility, row_cost, ceiling = row_utility[onward], row_cost[onward], ceiling[onward]
        if not len(rows):
            break
        # Of points on one line the farthest is the next vertex: what lies between is never needed.
        target = np.where(slope == steepest[:, None], price, -np.inf).argmax(axis=1)
        found.append((rows, at, target))
        # On a hull slopes fall; rounding must not let a later step overtake the one that it builds on.
        ceiling = np.minimum(steepest, ceiling)
        slopes.append(ceiling)
        at = target
    if not found:
        none, nothing = np.zeros(0, dtype=np.intp), np.zeros(0)
        return Increments(start, none, none, none, nothing, nothing, nothing, none)
    query = np.concatenate([rows for rows, _, _ in found])
    source = np.concatenate([at for _, at, _ in found])
    target = np.concatenate([to for _, _, to in found])
    slope = np.concatenate(slopes)
    order = np.argsort(-slope, kind="stable")
    query, source, target, slope = query[order], source[order], target[order], slope[order]
    drop = -np.diff(slope)
    group = np.concatenate(([0], np.cumsum(drop > _SAME_SLOPE * slope[:-1])))
    return Increments(
        start,
        query,
        source,
        target,
        utility[query, target] - utility[query, source],
        cost[query, target] - cost[query, source],
        slope,
        group.astype(np.intp),
    )


def _cheapest(utility: NDArray[np.float64], cost: NDArray[np.float64]) -> NDArray[np.intp]:
    least = cost == cost.min(axis=1, keepdims=True)
    return np.where(least, utility, -np.inf).argmax(axis=1)
