"""Does a router beat the mixing of single arms?  Its area over the zero router out of fold, and the error of that area."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defer.portfolios.assignment import hull_increments
from defer.portfolios.zero_router import area_over_zero, upper_hull

__all__ = ["Advantage"]

Floats = NDArray[np.float64]

_POINTS, _DRAWS, _MOST_GROUPS, _GRID = 40, 200, 20_000, 100


@dataclass(frozen=True)
class Advantage:
    """Mean height of a router's curve over the zero router, over the arms' range of costs.

    Attributes
    ----------
    value : float
    error : float
        Standard error, from a bootstrap over groups of queries in which the zero router is made anew; inf where there is one
        group alone.

    Examples
    --------
    >>> quality = np.tile([[0.0, 1.0], [1.0, 0.0]], (50, 1))
    >>> cost = np.tile([1.0, 2.0], (100, 1))
    >>> bool(Advantage.of(quality, cost, quality, cost, np.ones(100), np.arange(100)).is_shown)
    True
    """

    value: float
    error: float

    @property
    def is_shown(self) -> bool:
        """Whether the value exceeds its standard error: by chance in one log of six, where there is nothing to show."""
        return bool(self.value > self.error)

    @classmethod
    def of(
        cls,
        utility: Floats,
        predicted_cost: Floats,
        quality: Floats,
        cost: Floats,
        weight: Floats,
        groups: NDArray[np.intp],
    ) -> Advantage:
        """Measure predictions on realised outcomes.

        Parameters
        ----------
        utility, predicted_cost : arrays of shape (n, m)
            What the router goes by: of queries whose outcomes had no part in it.
        quality, cost : arrays of shape (n, m)
            Realised, without NaN.
        weight : array of shape (n,)
        groups : int array of shape (n,)
            Queries of one group are drawn together.
        """
        arms = _operating_points(utility, predicted_cost)
        rows = np.arange(len(quality))
        curve_quality = np.stack([quality[rows, arm] for arm in arms], axis=1)
        curve_cost = np.stack([cost[rows, arm] for arm in arms], axis=1)
        table = np.column_stack([curve_quality, curve_cost, quality, cost, np.ones(len(rows))]) * weight[:, None]
        _, place = np.unique(groups, return_inverse=True)
        totals = np.zeros((int(place.max()) + 1, table.shape[1]))
        np.add.at(totals, place.ravel(), table)
        value = _area(totals.sum(axis=0), len(arms), quality.shape[1])
        rng = np.random.default_rng(0)
        if len(totals) > _MOST_GROUPS:
            kept = rng.permutation(len(totals))[:_MOST_GROUPS]
            shrink = float(np.sqrt(_MOST_GROUPS / len(totals)))
            totals = totals[kept]
        else:
            shrink = 1.0
        draws = rng.multinomial(len(totals), np.full(len(totals), 1.0 / len(totals)), size=_DRAWS) @ totals
        areas = [_rough_area(draw, len(arms), quality.shape[1]) for draw in draws if draw[-1] > 0]
        # A single group says nothing of how the value would vary.
        if len(totals) < 2 or len(areas) < 2:
            return cls(value, float("inf"))
        # Draws from G groups vary around these groups, not around the law that they came from: by (G - 1) / G too little.
        few = float(np.sqrt(len(totals) / (len(totals) - 1)))
        return cls(value, float(np.std(areas, ddof=1)) * shrink * few)


def _operating_points(utility: Floats, cost: Floats) -> list[NDArray[np.intp]]:
    """Arms of every query at about `_POINTS` prices, from the cheapest arms to the best."""
    steps = hull_increments(np.ascontiguousarray(utility), np.ascontiguousarray(cost))
    ends = (
        np.flatnonzero(np.diff(steps.group, append=len(steps.group) + 1)) + 1 if len(steps.group) else np.array([], int)
    )
    if len(ends) > _POINTS:
        ends = ends[np.linspace(0, len(ends) - 1, _POINTS).round().astype(int)]
    arms, arm, done = [steps.start.copy()], steps.start.copy(), 0
    for end in ends:
        # Of several steps of one query the last counts, and steps of a query keep their order.
        arm[steps.query[done:end]] = steps.to_arm[done:end]
        done = int(end)
        arms.append(arm.copy())
    return arms


def _means(total: Floats, n_points: int, m: int) -> tuple[Floats, Floats, Floats, Floats]:
    mean = total[:-1] / total[-1]
    return (
        mean[n_points : 2 * n_points],
        mean[:n_points],
        mean[2 * n_points + m :],
        mean[2 * n_points : 2 * n_points + m],
    )


def _area(total: Floats, n_points: int, m: int) -> float:
    return area_over_zero(*_means(total, n_points, m))


def _rough_area(total: Floats, n_points: int, m: int) -> float:
    """The area on a grid of costs: the spread of many draws needs no more."""
    cost, quality, arm_cost, arm_quality = _means(total, n_points, m)
    order = np.argsort(cost, kind="stable")
    hull_cost, hull_quality = upper_hull(arm_cost, arm_quality)
    at = np.linspace(hull_cost[0], arm_cost.max(), _GRID)
    height = np.interp(at, cost[order], quality[order]) - np.interp(at, hull_cost, hull_quality)
    return float(height[at >= min(cost[order[0]], at[-1])].sum() / _GRID)
