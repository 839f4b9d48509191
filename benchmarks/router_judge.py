"""Measures of out-of-fold predictions with bootstrap intervals, and comparisons adjusted by Holm's method."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from routing_sets import RoutingSet
from scipy.special import ndtr

from defer.evaluation.frontier import aiq, oracle, sweep
from defer.portfolios.assignment.choice import choose_at_price
from defer.portfolios.splitting import query_groups
from defer.portfolios.zero_router import area_over_zero, upper_hull

__all__ = ["Judge", "Measures", "holm", "p_value"]

_POINTS, _GRID = 100, 257

Floats = np.ndarray


@dataclass
class Measures:
    """What a router reaches on a set, by repeat.

    Attributes
    ----------
    values : dict of str to array of shape (repeats, 1 + draws)
        Every measure; the first column is of the data themselves.
    curve : (cost, quality), arrays of shape (points,)
        Operating points of the first repeat.
    """

    values: dict[str, Floats] = field(default_factory=dict)
    curve: tuple[Floats, Floats] = (np.empty(0), np.empty(0))

    def mean(self, name: str) -> Floats:
        """Mean over the repeats, shape (1 + draws,)."""
        return self.values[name].mean(axis=0)

    def value(self, name: str) -> float:
        """Mean over the repeats on the data themselves."""
        return float(self.mean(name)[0])

    def interval(self, name: str) -> tuple[float, float]:
        """95% percentile interval of the mean over the repeats; a measure that a resample does not reach is infinite."""
        draws = self.mean(name)[1:]
        draws = np.where(np.isnan(draws), np.inf, draws)
        low, high = np.quantile(draws, [0.025, 0.975], method="closest_observation") if len(draws) else (np.nan, np.nan)
        return float(low), float(high)

    def spread(self, name: str) -> float:
        """Standard deviation over the repeats; NaN of one."""
        found = self.values[name][:, 0]
        return float(found.std(ddof=1)) if len(found) > 1 else float("nan")


class Judge:
    """Measures of predictions on one set, each on all queries and on resamples of its groups of equal texts."""

    def __init__(self, part: RoutingSet, draws: int) -> None:
        self.part, self.quality, self.cost = part, np.asarray(part.log.quality), np.asarray(part.log.cost)
        groups = query_groups(part.log)
        rng = np.random.default_rng(0)
        count = groups.max() + 1
        resamples = rng.multinomial(count, np.full(count, 1.0 / count), size=draws)[:, groups]
        # The first row is the data themselves.
        weights = np.concatenate([np.ones((1, len(groups)), dtype=np.int64), resamples])
        self.share = weights / weights.sum(axis=1, keepdims=True)
        self.arm_quality, self.arm_cost = self.share @ self.quality, self.share @ self.cost
        self.best = int(np.lexsort((self.arm_cost[0], -self.arm_quality[0]))[0])
        self.strong = int(self.arm_cost[0].argmax())
        hulls = [upper_hull(*point) for point in zip(self.arm_cost, self.arm_quality, strict=True)]
        low = np.array([hull[0][0] for hull in hulls])
        self.grid = low[:, None] + np.linspace(0.0, 1.0, _GRID) * (self.arm_cost.max(axis=1) - low)[:, None]
        self.zero = _on_grid(self.grid, hulls)
        self.best_cost, self.best_quality = self.arm_cost[:, self.best], self.arm_quality[:, self.best]

    def measure(self, predictions: list[tuple[Floats, Floats]], *, one_point: bool = False) -> Measures:
        """Every measure of the predictions of each repeat.

        Parameters
        ----------
        predictions : list of (quality, cost), arrays of shape (n, m)
        one_point : bool, default=False
            For a router with one operating point: it knows no price.
        """
        found = [self._measure(pair, one_point) for pair in predictions]
        values = {name: np.stack([one[0][name] for one in found]) for name in found[0][0]}
        return Measures(values, found[0][1])

    def _measure(self, predicted: tuple[Floats, Floats], one_point: bool) -> tuple[dict[str, Floats], Any]:
        rows = np.arange(len(self.quality))
        free = choose_at_price(*predicted, price=0.0, fraction=0.0).low
        arms = [free] if one_point else [_arms_at(*predicted, price) for price in self._prices(predicted)]
        quality = self.share @ np.stack([self.quality[rows, arm] for arm in arms], axis=1)
        cost = self.share @ np.stack([self.cost[rows, arm] for arm in arms], axis=1)
        found = {"quality": self.share @ self.quality[rows, free], "cost": self.share @ self.cost[rows, free]}
        found |= self._curve_measures(cost, quality)
        if self.part.is_share:
            found |= self._two_arm_measures(predicted[0][:, self.strong] - predicted[0][:, 1 - self.strong])
        return found, (cost[0], quality[0])

    def _prices(self, predicted: tuple[Floats, Floats]) -> list[float]:
        return [float(price) for price in sweep(*predicted, self.quality, self.cost, n_points=_POINTS).price]

    def _curve_measures(self, cost: Floats, quality: Floats) -> dict[str, Floats]:
        points = list(zip(cost, quality, strict=True))
        order = np.lexsort((quality, cost), axis=1)
        cost, quality = np.take_along_axis(cost, order, axis=1), np.take_along_axis(quality, order, axis=1)
        height = _on_grid(self.grid, list(zip(cost, quality, strict=True)))
        # Left of its first point a router follows the zero router.
        height = np.where(self.grid < cost[:, :1], self.zero, height)
        area = (height - self.zero)[:, 1:-1].sum(axis=1) + (height - self.zero)[:, [0, -1]].sum(axis=1) / 2
        area = area / (_GRID - 1)
        area[0] = area_over_zero(*points[0], self.arm_cost[0], self.arm_quality[0])
        at_best = np.array(
            [_at(*each) for each in zip(self.best_cost, cost, quality, self.zero, self.grid, strict=True)]
        )
        return {
            "area": area,
            "aiq": np.array([_aiq(*each) for each in zip(points, self.arm_cost, strict=True)]),
            "gain": at_best - self.best_quality,
            "reach": _first_cost(cost, quality, self.best_quality) / self.best_cost,
            "near": _first_cost(cost, quality, self.best_quality - 0.005) / self.best_cost,
        }

    def _two_arm_measures(self, score: Floats) -> dict[str, Floats]:
        """APGR and CPT at 50% and 80%, exact: equal scores move together, no point of the curve is left out."""
        order = np.argsort(-score, kind="stable")
        last = np.append(np.diff(score[order]) != 0, True)
        gain = (self.quality[:, self.strong] - self.quality[:, 1 - self.strong])[order]
        weight = self.share[:, order]
        start = np.zeros((len(weight), 1))
        share = np.hstack([start, np.cumsum(weight, axis=1)[:, last]])
        gap = np.hstack([start, np.cumsum(weight * gain, axis=1)[:, last]])
        with np.errstate(divide="ignore", invalid="ignore"):
            recovered = np.where(gap[:, -1:] > 0, gap / gap[:, -1:], np.nan)
        found = {"apgr": ((recovered[:, 1:] + recovered[:, :-1]) / 2 * np.diff(share, axis=1)).sum(axis=1)}
        for level in (50, 80):
            found[f"cpt{level}"] = _crossing(share, recovered, np.full(len(share), level / 100))
        return found

    def references(self) -> dict[str, Measures]:
        """Oracle in hindsight: the best arm of every query, and at a price the best trade."""
        arm, rows = oracle(self.quality, self.cost), np.arange(len(self.quality))
        found = self.measure([(self.quality, self.cost)])
        found.values["quality"] = (self.share @ self.quality[rows, arm])[None]
        found.values["cost"] = (self.share @ self.cost[rows, arm])[None]
        return {"oracle, in hindsight": found}

    def chosen(self, arm: Any) -> dict[str, Floats]:
        """Quality and cost of given choices, and their height over random choices at the same rate and over the zero router."""
        rows = np.arange(len(self.quality))
        quality, cost = self.share @ self.quality[rows, arm], self.share @ self.cost[rows, arm]
        rate = np.stack([self.share @ (arm == index) for index in range(self.quality.shape[1])], axis=1)
        zero = np.array([np.interp(*each) for each in zip(cost, self.grid, self.zero, strict=True)])
        return {
            "quality": quality,
            "cost": cost,
            "over_random": quality - (rate * self.arm_quality).sum(axis=1),
            "over_zero": quality - zero,
        }


def p_value(one: Floats, other: Floats | float) -> float:
    """Two-sided p-value of a difference of means over repeats, shape (repeats, 1 + draws), from the same resamples.

    The difference over its standard error is taken as normal: the error is that of the bootstrap and that of the mean over
    the repeats that both have, added in squares.
    """
    if not isinstance(other, float):
        one, other = one[: len(other)], other[: len(one)]
    difference = one - other
    mean = difference.mean(axis=0)
    variance = mean[1:].var(ddof=1) if mean.size > 2 else np.nan
    if len(difference) > 1:
        variance += difference[:, 0].var(ddof=1) / len(difference)
    if variance <= 1e-18:
        return 1.0 if abs(mean[0]) <= 1e-9 else 0.0
    return float(2.0 * ndtr(-abs(mean[0]) / np.sqrt(variance)))


def holm(p: list[float]) -> list[float]:
    """p-values adjusted for their number by Holm's step-down method."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(np.asarray(p)[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted.tolist()


def _arms_at(quality: Floats, cost: Floats, price: float) -> Floats:
    if np.isinf(price):
        cheapest = cost == cost.min(axis=1, keepdims=True)
        return np.where(cheapest, quality, -np.inf).argmax(axis=1)
    return choose_at_price(quality, cost, price=price, fraction=1.0).high


def _aiq(point: tuple[Floats, Floats], arm_cost: Floats) -> float:
    start = max(float(upper_hull(*point)[0][0]), float(arm_cost.min()))
    return aiq(*point, low=start, high=max(float(arm_cost.max()), start))


def _on_grid(grid: Floats, curves: list[tuple[Floats, Floats]]) -> Floats:
    return np.stack([np.interp(at, *curve) for at, curve in zip(grid, curves, strict=True)])


def _at(at: float, cost: Floats, quality: Floats, zero: Floats, grid: Floats) -> float:
    """Height of a curve at a cost; left of its first point that of the zero router."""
    return float(np.interp(at, grid, zero) if at < cost[0] else np.interp(at, cost, quality))


def _first_cost(cost: Floats, quality: Floats, level: Floats) -> Floats:
    """Least cost at which each curve reaches a level; NaN where it does not."""
    return _crossing(cost, quality, level)


def _crossing(x: Floats, y: Floats, level: Floats) -> Floats:
    """First crossing of piecewise linear curves, row by row; NaN where there is none."""
    reached = y >= level[:, None] - 1e-12
    index, rows = reached.argmax(axis=1), np.arange(len(y))
    before = np.maximum(index - 1, 0)
    rise = y[rows, index] - y[rows, before]
    part = np.where(rise > 0, np.clip((level - y[rows, before]) / np.where(rise > 0, rise, 1.0), 0.0, 1.0), 1.0)
    found = x[rows, before] + (x[rows, index] - x[rows, before]) * np.where(index == 0, 0.0, part)
    return np.where(reached.any(axis=1), found, np.nan)
