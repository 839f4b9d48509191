"""Finding the operating point for a limit, on predictions for queries that the router was not fitted on.

Predictions order the steps from the cheapest arms to the best; realised outcomes say what is spent and gained on the way.
A step that meets the limit in the middle of a group of equal queries is taken with a probability.
Source: linear programming duality (plug-in with the price found on held-out queries); learn-then-test by a fixed sequence (Angelopoulos et
al. 2021) with the empirical Bernstein bound of Maurer and Pontil 2009 for a `RiskLevel`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from defer.exceptions import InfeasibleLimitError, RouterInputError
from defer.portfolios.assignment import Choice, best_arm, hull_increments
from defer.portfolios.assignment.choice import six_digits
from defer.portfolios.assignment.hull import Increments
from defer.portfolios.limits import Budget, Limit, QualityTarget, RiskLevel, Share

__all__ = ["HeldOut", "OperatingPoint", "bernstein_upper", "doubly_robust", "favour", "find_operating_point"]

Floats = NDArray[np.float64]

# Sums of weights and means are exact to about this much; what is closer to a limit has reached it.
_ROUNDING = 1e-12

# Relative difference of utilities up to which arms tie.
_TIE = 1e-9

# A `RiskLevel` is tested at so many points of the frontier.
_TESTS = 100


@dataclass(frozen=True)
class OperatingPoint:
    """Where on its frontier a router works.

    Attributes
    ----------
    price : float
        Utility given up per US dollar, on top of the router's `cost_weight`.
    fraction : float
        Probability of the dearest among equally good arms; under a `Share`, of its arm where that ties with the best.
    mean_quality, mean_cost : float
        Realised out of fold at this point; `mean_cost` is 0 where no cost was given.  NaN where no limit was asked for.
    """

    price: float
    fraction: float
    mean_quality: float
    mean_cost: float


@dataclass(frozen=True)
class HeldOut:
    """Predictions for queries that the router was not fitted on, and what was realised on them.

    Attributes
    ----------
    utility, predicted_cost : arrays of shape (n, m)
    quality, cost : arrays of shape (n, m)
        Realised; where outcomes were observed in part, see `doubly_robust`.
    weight : array of shape (n,)
        > 0, with sum 1.
    group : int array of shape (n,) or None
        Queries of one group are not independent; None = all are.
    """

    utility: Floats
    predicted_cost: Floats
    quality: Floats
    cost: Floats
    weight: Floats
    group: NDArray[np.intp] | None = None

    def mean(self, table: Floats, choice: Choice) -> float:
        """Weighted mean of a table under a policy."""
        rows = np.arange(len(table))
        value = (1.0 - choice.fraction) * table[rows, choice.low] + choice.fraction * table[rows, choice.high]
        return float(self.weight @ value)


def doubly_robust(observed: Floats, predicted: Floats, propensity: Floats | None, weight: Floats) -> Floats:
    """Outcomes of all arms: the prediction, corrected where an outcome was observed by its weighted error.

    Parameters
    ----------
    observed : array of shape (n, m), NaN = not observed
    predicted : array of shape (n, m)
    propensity : array of shape (n,) or (n, m), or None
        Of what was observed in a row, or of every outcome by itself.  None reads gaps as missing at random: each arm's
        propensity is its observed share.
    weight : array of shape (n,)

    Examples
    --------
    >>> doubly_robust(np.array([[1.0, np.nan]]), np.array([[0.5, 0.5]]), np.array([0.5]), np.ones(1)).tolist()
    [[1.5, 0.5]]
    """
    seen = np.isfinite(observed)
    if seen.all():
        return observed
    if propensity is None:
        chance = weight @ seen / weight.sum()
    else:
        chance = propensity if propensity.ndim == 2 else propensity[:, None]
    return predicted + np.where(seen, observed - predicted, 0.0) / chance


def find_operating_point(held_out: HeldOut, limit: Limit, arms: Sequence[object]) -> tuple[OperatingPoint, Floats]:
    """The operating point for a limit, and what to add to the utility of every arm, shape (m,).

    Raises
    ------
    InfeasibleLimitError
        If no point satisfies the limit on the held-out queries; says what the nearest feasible limit is.
    RouterInputError
        If a `Share` names an arm that is not there.

    Examples
    --------
    >>> quality, cost = np.array([[0.5, 0.9], [0.5, 0.7]]), np.array([[1.0, 2.0], [1.0, 2.0]])
    >>> held_out = HeldOut(quality, cost, quality, cost, np.array([0.5, 0.5]))
    >>> point, bonus = find_operating_point(held_out, Budget(mean_cost=1.25), ["small", "large"])
    >>> round(point.price, 3), point.fraction, round(point.mean_quality, 3), bonus.tolist()
    (0.4, 0.5, 0.7, [0.0, 0.0])
    """
    if isinstance(limit, Share):
        return _share_point(held_out, limit, list(arms))
    frontier = _Frontier(held_out)
    if isinstance(limit, RiskLevel):
        point = _risk_point(frontier, limit)
    elif isinstance(limit, Budget):
        point = _budget_point(frontier, limit)
    else:
        assert isinstance(limit, QualityTarget)
        point = _quality_point(frontier, limit)
    return point, np.zeros(len(arms))


class _Frontier:
    """Points along falling prices: point 0 takes the cheapest arms, point k has taken the first k groups of steps."""

    def __init__(self, held_out: HeldOut) -> None:
        self.held_out = held_out
        self.steps = steps = hull_increments(held_out.utility, held_out.predicted_cost)
        self.ends = _last_of_groups(steps)
        self.slopes = steps.slope[self.ends]
        self.quality, self.cost = self._path(held_out.quality), self._path(held_out.cost)

    def _path(self, table: Floats) -> Floats:
        steps, weight = self.steps, self.held_out.weight
        gain = weight[steps.query] * (table[steps.query, steps.to_arm] - table[steps.query, steps.from_arm])
        start = math.fsum(weight * table[np.arange(len(table)), steps.start])
        return np.concatenate(([start], start + np.cumsum(gain)[self.ends]))

    def arms(self, index: int) -> NDArray[np.intp]:
        """Arm of every query at a point."""
        taken = self.ends[index - 1] + 1 if index else 0
        arm = self.steps.start.copy()
        arm[self.steps.query[:taken]] = self.steps.to_arm[:taken]
        return arm

    def at(self, index: int) -> OperatingPoint:
        """A point without randomisation, at a price half-way between the steps taken and those not taken."""
        if index == len(self.slopes):
            price = 0.0
        else:
            above = self.slopes[index - 1] if index else 3.0 * self.slopes[0]
            price = float((above + self.slopes[index]) / 2)
        return OperatingPoint(price, 0.0, float(self.quality[index]), float(self.cost[index]))

    def between(self, index: int, fraction: float) -> OperatingPoint:
        """The point that takes the group after point `index` with a probability."""
        if fraction <= _ROUNDING:
            return self.at(index)
        if fraction >= 1.0 - _ROUNDING:
            return self.at(index + 1)
        quality, cost = (
            float(line[index] + fraction * (line[index + 1] - line[index])) for line in (self.quality, self.cost)
        )
        return OperatingPoint(float(self.slopes[index]), float(fraction), quality, cost)


def _last_of_groups(steps: Increments) -> NDArray[np.intp]:
    return np.flatnonzero(np.diff(steps.group, append=steps.group[-1] + 1 if len(steps.group) else 0))


def _budget_point(frontier: _Frontier, limit: Budget) -> OperatingPoint:
    spend, most = frontier.cost, limit.mean_cost
    if spend[0] > most * (1 + _ROUNDING):
        raise InfeasibleLimitError(
            f"Budget(mean_cost={most:g}) is below the least possible mean cost: the cheapest arms cost "
            f"{six_digits(spend[0], ROUND_CEILING)} per query out of fold",
            float(spend[0]),
        )
    over = np.flatnonzero(spend > most * (1 + _ROUNDING))
    if not len(over):
        return frontier.at(len(frontier.slopes))
    index = int(over[0]) - 1
    return frontier.between(index, (most - spend[index]) / (spend[index + 1] - spend[index]))


def _quality_point(frontier: _Frontier, limit: QualityTarget) -> OperatingPoint:
    reached, least = frontier.quality, limit.mean_quality
    enough = np.flatnonzero(reached >= least - _ROUNDING * max(1.0, abs(least)))
    if not len(enough):
        best = float(reached.max())
        raise InfeasibleLimitError(
            f"QualityTarget({least:g}) is above the largest mean quality realised out of fold, "
            f"{six_digits(best, ROUND_FLOOR)}",
            best,
        )
    index = int(enough[0]) - 1
    if index < 0:
        return frontier.at(0)
    return frontier.between(index, (least - reached[index]) / (reached[index + 1] - reached[index]))


def _risk_point(frontier: _Frontier, limit: RiskLevel) -> OperatingPoint:
    """Fixed-sequence test from the best end of the frontier towards the cheap end; stops at the first failure.

    The loss is tested against every arm, so it need not be known which single arm is the best.
    """
    held_out = frontier.held_out
    n, weight, quality = len(held_out.weight), held_out.weight, held_out.quality
    group = np.arange(n) if held_out.group is None else np.unique(held_out.group, return_inverse=True)[1].ravel()
    pool = csr_array((weight, (group, np.arange(n))), shape=(int(group.max()) + 1, n))
    count, largest = pool.shape[0], float(pool.sum(axis=1).max())
    low, high = float(quality.min()), float(quality.max())
    span = 1.0 if low >= 0.0 and high <= 1.0 else high - low
    single, rows = count * (pool @ quality), np.arange(n)
    tests = np.unique(np.linspace(0, len(frontier.ends), min(len(frontier.ends), _TESTS) + 1).round().astype(int))[::-1]
    best: int | None = None
    bound = math.inf
    for index in tests.tolist():
        routed = count * (pool @ quality[rows, frontier.arms(index)])
        bound = float(bernstein_upper(single - routed[:, None], 2.0 * span * count * largest, 1.0 - limit.level).max())
        if bound > limit.risk:
            break
        best = index
    if best is None:
        raise InfeasibleLimitError(
            f"RiskLevel(risk={limit.risk:g}, level={limit.level:g}): even at price 0 the loss is only shown to be at most "
            f"{six_digits(bound, ROUND_CEILING)}; allow more risk or bring more queries",
            bound,
        )
    return frontier.at(best)


def bernstein_upper(values: Floats, span: float, delta: float) -> Floats:
    """Upper confidence bound of each column's mean by the empirical Bernstein inequality.

    Parameters
    ----------
    values : array of shape (n, k)
        Independent rows, each column within an interval of length `span`.
    span : float
    delta : float
        Probability, in (0, 1), with which the bound of one column may be below its mean.

    Returns
    -------
    array of shape (k,)
        inf where n is 1.

    References
    ----------
    Maurer and Pontil 2009, Empirical Bernstein bounds and sample-variance penalization, theorem 4.

    Examples
    --------
    >>> bernstein_upper(np.zeros((101, 1)), 1.0, 2 * np.exp(-3.0)).round(6).tolist()
    [0.07]
    """
    n, log_term = len(values), math.log(2.0 / delta)
    if n == 1:
        return np.full(values.shape[1], np.inf)
    spread = np.sqrt(2.0 * values.var(axis=0, ddof=1) * log_term / n)
    return values.mean(axis=0) + spread + 7.0 * span * log_term / (3.0 * (n - 1))


def _share_point(held_out: HeldOut, limit: Share, arms: list[object]) -> tuple[OperatingPoint, Floats]:
    if limit.arm not in arms:
        raise RouterInputError(f"Share names the arm {limit.arm!r}, which the router does not have; it has {arms}")
    index, bonus = arms.index(limit.arm), np.zeros(len(arms))
    if len(arms) == 1 and limit.at_most < 1.0:
        raise InfeasibleLimitError(f"Share({limit.arm!r}, at_most={limit.at_most:g}): it is the only arm", 1.0)
    free = best_arm(held_out.utility, held_out.predicted_cost)
    wanted = float(held_out.weight[free == index].sum())
    amount = min(max(wanted, limit.at_least), limit.at_most)
    fraction = 0.0
    if abs(amount - wanted) > _ROUNDING:
        gain = held_out.utility[:, index] - np.delete(held_out.utility, index, axis=1).max(axis=1)
        bonus[index], fraction = _bonus_for(amount, gain, held_out.weight)
    choice = favour(held_out.utility + bonus, held_out.predicted_cost, index, fraction)
    realised = (held_out.mean(table, choice) for table in (held_out.quality, held_out.cost))
    return OperatingPoint(0.0, fraction, *realised), bonus


def _bonus_for(amount: float, gain: Floats, weight: Floats) -> tuple[float, float]:
    """What to add to the gain of an arm so that it takes `amount`, and the share of ties that it takes then."""
    if amount <= 0.0 or amount >= 1.0:
        return (-math.inf if amount <= 0.0 else math.inf), 0.0
    order = np.argsort(-gain, kind="stable")
    # Differences of rounded numbers: gains this close are ties, as they are for `favour`.
    first = np.diff(-gain[order], prepend=-np.inf) > _TIE * np.abs(gain).max()
    levels = -gain[order][first]
    mass = np.bincount(np.cumsum(first) - 1, weights=weight[order])
    reached = np.cumsum(mass)
    whole = int(np.searchsorted(reached, amount + _ROUNDING, side="right"))
    missing = amount - (reached[whole - 1] if whole else 0.0)
    if missing > _ROUNDING:
        return float(levels[whole]), float(missing / mass[whole])
    # Half-way between the last query that takes the arm and the first that does not.
    return float((levels[whole - 1] + levels[whole]) / 2), 0.0


def favour(utility: Floats, cost: Floats, index: int, fraction: float) -> Choice:
    """Best arms, where arm `index` takes a query for which it ties with the best with probability `fraction`.

    A probability of 0 leaves ties to the cheaper arm, as everywhere.

    Examples
    --------
    >>> choice = favour(np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[1.0, 2.0], [1.0, 2.0]]), 1, 0.25)
    >>> choice.low.tolist(), choice.high.tolist(), choice.fraction
    ([0, 1], [1, 1], 0.25)
    """
    free = best_arm(utility, cost)
    if fraction == 0.0:
        return Choice(free, free)
    others = utility.copy()
    others[:, index] = -np.inf
    other = best_arm(others, cost)
    rows = np.arange(len(utility))
    rival = others[rows, other]
    # The bonus that makes the tie was rounded, and so is its sum with the utility.
    tied = np.abs(utility[:, index] - rival) <= _TIE * (np.abs(utility[:, index]) + np.abs(rival))
    low = np.where(tied, other, free)
    return Choice(low, np.where(tied, index, low), fraction)
