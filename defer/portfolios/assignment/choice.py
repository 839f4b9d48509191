"""Choosing arms for a batch under one limit: at most one group of equal queries is randomised.

A `Choice` is a policy of a special form: every query has a low and a high arm, and takes the high one with one common
probability; away from the marginal group both are the same arm.
Source: linear programming duality for one constraint (a basic solution has at most one fractional type).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defer.exceptions import InfeasibleLimitError, RouterInputError
from defer.portfolios.assignment.hull import Increments, hull_increments
from defer.portfolios.limits import Budget, Capacity, Limit, QualityTarget, RiskLevel, Share

__all__ = ["Choice", "best_arm", "choose", "choose_at_price"]

Floats = NDArray[np.float64]
Arms = NDArray[np.intp]


@dataclass(frozen=True)
class Choice:
    """A policy with at most one randomised group.

    Attributes
    ----------
    low, high : int arrays of shape (n,)
        Arms of each query; equal outside the randomised group.
    fraction : float
        Probability of `high`, in [0, 1].
    price : float
        Utility given up per unit of the limited resource; 0 where the limit does not bind.
    """

    low: Arms
    high: Arms
    fraction: float = 0.0
    price: float = 0.0

    def draw(self, rng: np.random.Generator) -> tuple[Arms, Floats]:
        """Draw one arm per query, and the probability with which it was drawn.

        The draw is systematic: each query of the group takes its high arm with probability `fraction`, and the number
        that do so differs from its expectation by less than one.
        """
        arm, propensity = self.low.copy(), np.ones(len(self.low))
        group = np.flatnonzero(self.low != self.high)
        if len(group) and self.fraction > 0.0:
            group = rng.permutation(group)
            count = np.floor(rng.random() + self.fraction * np.arange(len(group) + 1))
            up = np.diff(count) > 0
            arm[group[up]] = self.high[group[up]]
            propensity[group] = np.where(up, self.fraction, 1.0 - self.fraction)
        return arm, propensity

    def policy(self, n_arms: int) -> Floats:
        """Distribution over arms, shape (n, m)."""
        rows = np.arange(len(self.low))
        probability = np.zeros((len(self.low), n_arms))
        probability[rows, self.low] = 1.0 - self.fraction
        probability[rows, self.high] += self.fraction
        return np.minimum(probability, 1.0)

    def mean(self, table: Floats) -> float:
        """Expected mean of an (n, m) table under the policy."""
        rows = np.arange(len(self.low))
        low = math.fsum(table[rows, self.low])
        if self.fraction == 0.0:
            return low / len(rows)
        return ((1.0 - self.fraction) * low + self.fraction * math.fsum(table[rows, self.high])) / len(rows)


def best_arm(utility: Floats, cost: Floats) -> Arms:
    """Arm of highest utility; ties go to the cheaper arm, then to the lower index.

    Examples
    --------
    >>> best_arm(np.array([[1.0, 1.0], [0.0, 2.0]]), np.array([[3.0, 2.0], [1.0, 1.0]])).tolist()
    [1, 1]
    """
    arm = utility.argmax(axis=1)
    tied = utility == utility[np.arange(len(arm)), arm][:, None]
    rows = np.flatnonzero(tied.sum(axis=1) > 1)
    if len(rows):
        arm[rows] = np.where(tied[rows], cost[rows], np.inf).argmin(axis=1)
    return arm


def choose_at_price(utility: Floats, cost: Floats, *, price: float, fraction: float) -> Choice:
    """Best arms when cost is bought at `price`; among equally good arms the dearest with probability `fraction`.

    This is the rule for queries that come one by one, with a price fitted beforehand.
    """
    net = utility - price * cost
    low = best_arm(net, cost)
    if fraction == 0.0:
        return Choice(low, low, 0.0, price)
    rows = np.arange(len(net))
    tolerance = 1e-9 * (np.abs(utility).max(initial=0.0) + price * np.abs(cost).max(initial=0.0))
    tied = net >= net[rows, low][:, None] - tolerance
    high = np.where(tied, cost, -np.inf).argmax(axis=1)
    low = np.where(tied, cost, np.inf).argmin(axis=1)
    return Choice(low, high, fraction, price)


def choose(utility: Floats, quality: Floats, cost: Floats, limit: Limit | None, *, arms: Sequence[object]) -> Choice:
    """Policy of highest expected utility within `limit`.

    Parameters
    ----------
    utility, quality, cost : arrays of shape (n, m)
    limit : Limit or None
    arms : sequence of m names

    Raises
    ------
    InfeasibleLimitError
        If no policy satisfies the limit; says what the nearest feasible limit would be.
    RouterInputError
        If the limit names an arm that is not there, or is of a kind that a batch alone cannot satisfy.

    Examples
    --------
    >>> quality, cost = np.array([[0.5, 0.9], [0.5, 0.7]]), np.array([[1.0, 2.0], [1.0, 2.0]])
    >>> choice = choose(quality, quality, cost, Budget(mean_cost=1.5), arms=["small", "large"])
    >>> choice.low.tolist(), choice.fraction, round(choice.mean(quality), 3)
    ([1, 0], 0.0, 0.7)
    """
    if limit is None:
        arm = best_arm(utility, cost)
        return Choice(arm, arm)
    if isinstance(limit, Budget):
        return _within_budget(utility, cost, limit)
    if isinstance(limit, QualityTarget):
        return _reach_quality(quality, cost, limit)
    if isinstance(limit, Share):
        return _within_share(utility, cost, limit, arms)
    if isinstance(limit, Capacity):
        return _within_capacity(utility, limit, arms)
    if isinstance(limit, RiskLevel):
        raise RouterInputError(
            "a RiskLevel needs outcomes: fit TunedRouter(router, limit=RiskLevel(...)) instead of routing with it"
        )
    raise RouterInputError(
        f"limit must be a Budget, QualityTarget, Share, Capacity or RiskLevel, or None, got {type(limit).__name__}"
    )


def _within_budget(utility: Floats, cost: Floats, limit: Budget) -> Choice:
    n = len(cost)
    least = math.fsum(cost.min(axis=1)) / n
    if least > limit.mean_cost:
        raise InfeasibleLimitError(
            f"Budget(mean_cost={limit.mean_cost:g}) is below the least possible mean cost: taking the cheapest arm of "
            f"every query costs {least:.6g} per query",
            least,
        )
    steps = hull_increments(utility, cost)
    start = Choice(steps.start, steps.start)
    room = n * limit.mean_cost - math.fsum(cost[np.arange(n), steps.start])
    choice = _fill(start, steps, steps.cost, room, stop_above=True)
    # Rounding of long sums must not break the promise, so the fraction gives way in its last digits.
    while choice.fraction > 0.0 and choice.mean(cost) > limit.mean_cost:
        choice = Choice(choice.low, choice.high, max(0.0, choice.fraction * (1 - 1e-12) - 1e-15), choice.price)
    return choice


def _reach_quality(quality: Floats, cost: Floats, limit: QualityTarget) -> Choice:
    n = len(cost)
    best = math.fsum(quality.max(axis=1)) / n
    if best < limit.mean_quality:
        raise InfeasibleLimitError(
            f"QualityTarget({limit.mean_quality:g}) is above the largest possible mean predicted quality, {best:.6g}",
            best,
        )
    steps = hull_increments(quality, cost)
    start = Choice(steps.start, steps.start)
    missing = n * limit.mean_quality - math.fsum(quality[np.arange(n), steps.start])
    return start if missing <= 0 else _fill(start, steps, steps.utility, missing, stop_above=False)


def _fill(start: Choice, steps: Increments, resource: Floats, amount: float, *, stop_above: bool) -> Choice:
    """Take whole groups of steps while `resource` allows, then the fraction of the next that uses up `amount`."""
    total = np.cumsum(resource)
    query, to_arm, group, slope = steps.query, steps.to_arm, steps.group, steps.slope
    last = np.flatnonzero(np.diff(group, append=group[-1] + 1 if len(group) else 0))
    group_total = total[last]
    whole = int(np.searchsorted(group_total, amount, side="right" if stop_above else "left"))
    low = start.low.copy()
    taken = last[whole - 1] + 1 if whole else 0
    low[query[:taken]] = to_arm[:taken]
    if whole == len(last):
        return Choice(low, low)
    high = low.copy()
    marginal = slice(taken, last[whole] + 1)
    high[query[marginal]] = to_arm[marginal]
    before = group_total[whole - 1] if whole else 0.0
    fraction = (amount - before) / (group_total[whole] - before)
    price = float(slope[last[whole]])
    if fraction <= 0.0:
        return Choice(low, low, 0.0, price)
    if fraction >= 1.0:
        return Choice(high, high, 0.0, price)
    return Choice(low, high, float(fraction), price)


def _arm_index(arm: object, arms: Sequence[object], owner: str) -> int:
    names = list(arms)
    if arm not in names:
        raise RouterInputError(f"{owner} names the arm {arm!r}, which the router does not have; it has {names}")
    return names.index(arm)


def _within_share(utility: Floats, cost: Floats, limit: Share, arms: Sequence[object]) -> Choice:
    index, (n, m) = _arm_index(limit.arm, arms, "Share"), utility.shape
    if m == 1:
        if limit.at_most < 1.0:
            raise InfeasibleLimitError(f"Share({limit.arm!r}, at_most={limit.at_most:g}): it is the only arm", 1.0)
        only = np.zeros(n, dtype=np.intp)
        return Choice(only, only)
    others = utility.copy()
    others[:, index] = -np.inf
    other = best_arm(others, cost)
    rows = np.arange(n)
    gain = utility[:, index] - others[rows, other]
    own = np.full(n, index)
    cheaper = (gain == 0) & (
        (cost[:, index] < cost[rows, other]) | ((cost[:, index] == cost[rows, other]) & (index < other))
    )
    wanted = float(((gain > 0) | cheaper).sum())
    amount = min(max(wanted, limit.at_least * n), limit.at_most * n)
    if amount == wanted:
        arm = np.where((gain > 0) | cheaper, own, other)
        return Choice(arm, arm)
    ranked = np.sort(gain)[::-1]
    threshold = float(ranked[min(math.ceil(amount), n) - 1]) if amount > 0 else math.inf
    above, tied = gain > threshold, gain == threshold
    fraction = (amount - above.sum()) / tied.sum() if tied.any() else 0.0
    low = np.where(above, own, other)
    if fraction >= 1.0:
        low, fraction = np.where(tied, own, low), 0.0
    high = np.where(tied, own, low) if fraction > 0.0 else low
    return Choice(low, high, float(fraction), threshold if math.isfinite(threshold) else float(ranked[0]))


def _within_capacity(utility: Floats, limit: Capacity, arms: Sequence[object]) -> Choice:
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    n, m = utility.shape
    capacity = np.full(m, n, dtype=float)
    for name, count in limit.count.items():
        capacity[_arm_index(name, arms, "Capacity")] = min(count, n)
    if capacity.sum() < n:
        raise InfeasibleLimitError(
            f"Capacity holds {int(capacity.sum())} queries in all, and the batch has {n}", float(capacity.sum())
        )
    free = utility.argmax(axis=1)
    if (np.bincount(free, minlength=m) <= capacity).all():
        return Choice(free, free)
    cell = np.arange(n * m)
    one_each = csr_array((np.ones(n * m), (cell // m, cell)), shape=(n, n * m))
    load = csr_array((np.ones(n * m), (cell % m, cell)), shape=(m, n * m))
    # The constraint matrix is totally unimodular: the simplex method ends in a vertex, and every vertex is integral.
    solution = linprog(
        -utility.ravel(), A_ub=load, b_ub=capacity, A_eq=one_each, b_eq=np.ones(n), bounds=(0, 1), method="highs-ds"
    )
    arm = solution.x.reshape(n, m).argmax(axis=1)
    return Choice(arm, arm, 0.0, float(max(0.0, -solution.ineqlin.marginals.min())))
