"""Choosing arms for a batch under one limit: at most one group of equal queries is randomised.

A `Choice` is a policy of a special form: every query has a low and a high arm, and takes the high one with one common
probability; away from the marginal group both are the same arm.  Whether a limit is kept is decided on exact sums, so
that rounding never spends more than was allowed.
Source: linear programming duality for one constraint (a basic solution has at most one fractional type).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from defer.exceptions import InfeasibleLimitError, RouterInputError
from defer.portfolios.assignment.capacity import fill_arms
from defer.portfolios.assignment.hull import Increments, hull_increments
from defer.portfolios.limits import Budget, Capacity, Limit, QualityTarget, RiskLevel, Share

__all__ = ["Choice", "best_arm", "choose", "choose_at_price", "six_digits"]

# Probability below which a lottery would only spend what rounding left over.
_NEGLIGIBLE = 1e-12

Floats = NDArray[np.float64]
Arms = NDArray[np.intp]

# Queries compared at a time.
_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Choice:
    """A policy with at most one randomised group.

    Attributes
    ----------
    low, high : int arrays of shape (n,)
        Arms of each query; equal outside the randomised group.
    fraction : float
        Probability of `high`, in [0, 1].
    price : float
        Utility given up per unit of the limited resource; 0 where the limit does not bind.  Under a share that must be
        taken it is negative: what one more query loses.

    Examples
    --------
    >>> choice = Choice(np.array([0, 0]), np.array([0, 1]), fraction=0.25)
    >>> choice.policy(2).tolist(), choice.mean(np.array([[1.0, 5.0], [1.0, 5.0]]))
    ([[1.0, 0.0], [0.75, 0.25]], 1.5)
    """

    low: Arms
    high: Arms
    fraction: float = 0.0
    price: float = 0.0

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high) or not 0.0 <= self.fraction <= 1.0:
            raise ValueError(
                f"a Choice has a low and a high arm per query and a fraction in [0, 1], got {len(self.low)} and "
                f"{len(self.high)} arms and {self.fraction!r}"
            )

    def draw(self, rng: np.random.Generator) -> tuple[Arms, Floats]:
        """Draw one arm per query, and the probability with which it was drawn.

        The draw is systematic: each query of the group takes its high arm with probability `fraction`, and the number
        that do so differs from its expectation by less than one.
        """
        if self.fraction == 1.0:
            return self.high.copy(), np.ones(len(self.high))
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
        probability[rows, self.low] = np.where(self.low == self.high, 1.0, 1.0 - self.fraction)
        mixed = rows[self.low != self.high]
        probability[mixed, self.high[mixed]] = self.fraction
        return probability

    def mean(self, table: Floats) -> float:
        """Expected mean of an (n, m) table under the policy, correctly rounded."""
        rows = np.arange(len(self.low))
        total = _exact_sum(table[rows, self.low])
        if self.fraction > 0.0:
            mixed = rows[self.low != self.high]
            step = _exact_sum(table[mixed, self.high[mixed]]) - _exact_sum(table[mixed, self.low[mixed]])
            total += Fraction(float(self.fraction)) * step
        return float(total / len(rows))


def best_arm(utility: Floats, cost: Floats) -> Arms:
    """Arm of highest utility; ties go to the cheaper arm, then to the lower index.

    Examples
    --------
    >>> best_arm(np.array([[1.0, 1.0], [0.0, 2.0]]), np.array([[3.0, 2.0], [1.0, 1.0]])).tolist()
    [1, 1]
    """
    arm = np.zeros(len(utility), dtype=np.intp)
    # Arm by arm over blocks that stay in the cache: passes along the short rows would cost more than a prediction does.
    for low in range(0, len(utility), _BLOCK):
        part = slice(low, low + _BLOCK)
        by_arm = np.ascontiguousarray(utility[part].T)
        best = by_arm == by_arm.max(axis=0)
        for index in range(1, len(by_arm)):
            arm[part] += index * best[index]
        if np.count_nonzero(best) > best.shape[1]:
            rows = np.flatnonzero(np.count_nonzero(best, axis=0) > 1)
            arm[low + rows] = np.where(best[:, rows].T, cost[part][rows], np.inf).argmin(axis=1)
    return arm


def choose_at_price(utility: Floats, cost: Floats, *, price: float, fraction: float) -> Choice:
    """Best arms when cost is bought at `price`; among equally good arms the dearest with probability `fraction`.

    This is the rule for queries that come one by one, with a price fitted beforehand; what it does with a query does
    not depend on the others of the batch.

    Examples
    --------
    >>> choice = choose_at_price(np.array([[0.5, 0.9]]), np.array([[1.0, 2.0]]), price=0.4, fraction=0.25)
    >>> choice.low.tolist(), choice.high.tolist(), choice.fraction
    ([0], [1], 0.25)
    """
    net = utility - price * cost
    low = best_arm(net, cost)
    if fraction == 0.0:
        return Choice(low, low, 0.0, price)
    rows = np.arange(len(net))
    # Both terms of the net utility are rounded, so equality at the fitted price holds up to their size.
    tolerance = 1e-9 * (np.abs(utility).max(axis=1) + price * np.abs(cost).max(axis=1))
    tied = net >= (net[rows, low] - tolerance)[:, None]
    high = np.where(tied, cost, -np.inf).argmax(axis=1)
    low = np.where(tied, cost, np.inf).argmin(axis=1)
    return Choice(low, high, fraction, price)


def choose(utility: Floats, quality: Floats, cost: Floats, limit: Limit | None, *, arms: Sequence[object]) -> Choice:
    """Policy of highest expected utility within `limit`.

    Parameters
    ----------
    utility, quality, cost : arrays of shape (n, m)
    limit : Limit or None
        Under a `QualityTarget` the policy of least expected cost that reaches it, whatever the utility.
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
        return _within_capacity(utility, cost, limit, arms)
    if isinstance(limit, RiskLevel):
        raise RouterInputError(
            "a RiskLevel needs outcomes: fit TunedRouter(router, limit=RiskLevel(...)) instead of routing with it"
        )
    raise RouterInputError(
        f"limit must be a Budget, QualityTarget, Share, Capacity or RiskLevel, or None, got {type(limit).__name__}"
    )


def _within_budget(utility: Floats, cost: Floats, limit: Budget) -> Choice:
    steps = hull_increments(utility, cost)
    least = Choice(steps.start, steps.start).mean(cost)
    if least > limit.mean_cost:
        raise InfeasibleLimitError(
            f"Budget(mean_cost={limit.mean_cost:g}) is below the least possible mean cost: taking the cheapest arm of "
            f"every query costs {six_digits(least, ROUND_CEILING)} per query",
            least,
        )
    return _fill(steps, steps.cost, cost, limit.mean_cost, reach=False)


def _reach_quality(quality: Floats, cost: Floats, limit: QualityTarget) -> Choice:
    steps = hull_increments(quality, cost)
    best = float(_exact_sum(quality.max(axis=1)) / len(quality))
    if best < limit.mean_quality:
        raise InfeasibleLimitError(
            f"QualityTarget({limit.mean_quality:g}) is above the largest possible mean predicted quality, "
            f"{six_digits(best, ROUND_FLOOR)}",
            best,
        )
    start = Choice(steps.start, steps.start)
    if start.mean(quality) >= limit.mean_quality:
        return start
    return _fill(steps, steps.utility, quality, limit.mean_quality, reach=True)


def _fill(steps: Increments, resource: Floats, table: Floats, target: float, *, reach: bool) -> Choice:
    """Take whole groups of steps below the mean `target` of `table`, and the fraction of the next one that leads to it.

    Where `reach` is set the mean ends at or above the target, else at or below it.
    """
    ends = np.flatnonzero(np.diff(steps.group, append=steps.group[-1] + 1 if len(steps.group) else 0))

    def taken(groups: int) -> Arms:
        arm = steps.start.copy()
        upto = ends[groups - 1] + 1 if groups else 0
        arm[steps.query[:upto]] = steps.to_arm[:upto]
        return arm

    def fits(groups: int) -> bool:
        arm = taken(groups)
        mean = Choice(arm, arm).mean(table)
        return mean < target if reach else mean <= target

    n, rows = len(table), np.arange(len(table))
    amount = n * target - math.fsum(table[rows, steps.start])
    # A rounded running sum finds the place, exact sums decide about its neighbours.
    place = int(np.searchsorted(np.cumsum(resource)[ends], amount, side="left" if reach else "right"))
    whole = _last_that_fits(fits, place, len(ends))
    low = taken(whole)
    if whole == len(ends):
        return Choice(low, low)
    high = taken(whole + 1)
    mixed = np.flatnonzero(low != high)
    before = _exact_sum(table[rows, low])
    step = _exact_sum(table[mixed, high[mixed]]) - _exact_sum(table[mixed, low[mixed]])

    def kept(fraction: float) -> bool:
        mean = float((before + Fraction(fraction) * step) / n)
        return mean >= target if reach else mean <= target

    fraction = _nearest_fraction((n * Fraction(target) - before) / step, kept, towards=1.0 if reach else 0.0)
    return _mixture(low, high, fraction, float(steps.slope[ends[whole]]))


def _last_that_fits(fits: Callable[[int], bool], guess: int, most: int) -> int:
    """Largest count up to `most` that fits, by doubling steps from a guess and then bisection.

    0 fits, and no count does that is larger than one that does not.
    """
    low, high, probe, step = 0, most + 1, max(guess, 1), 1
    while high - low > 1:
        if not low < probe < high:
            probe = (low + high) // 2
        if fits(probe):
            low, probe = probe, probe + step
        else:
            high, probe = probe, probe - step
        step *= 2
    return low


def _nearest_fraction(wanted: Fraction, kept: Callable[[float], bool], *, towards: float) -> float:
    """The float nearest to `wanted` at which the limit is kept; `towards`, where it is certain, lies on the safe side."""
    fraction = min(max(0.0, float(wanted)), 1.0)
    if abs(fraction - towards) < _NEGLIGIBLE:
        return towards
    while fraction != towards and not kept(fraction):
        fraction = math.nextafter(fraction, towards)
    return fraction


def _mixture(low: Arms, high: Arms, fraction: float, price: float) -> Choice:
    if fraction in (0.0, 1.0):
        arm = high if fraction else low
        return Choice(arm, arm, 0.0, price)
    return Choice(low, high, fraction, price)


def _within_share(utility: Floats, cost: Floats, limit: Share, arms: Sequence[object]) -> Choice:
    index, (n, m) = _arm_index(limit.arm, arms, "Share"), utility.shape
    if m == 1:
        if limit.at_most < 1.0:
            raise InfeasibleLimitError(
                f"Share({limit.arm!r}, at_most={limit.at_most:g}) cannot be kept: it is the only arm, so its share is 1",
                1.0,
            )
        only = np.zeros(n, dtype=np.intp)
        return Choice(only, only)
    others = utility.copy()
    others[:, index] = -np.inf
    other = best_arm(others, cost)
    rows, own = np.arange(n), np.full(n, index)
    gain = utility[:, index] - utility[rows, other]
    dearer = cost[:, index] - cost[rows, other]
    preferred = (gain > 0) | ((gain == 0) & ((dearer < 0) | ((dearer == 0) & (index < other))))
    wanted = int(preferred.sum())
    least, most = _count(limit.at_least, n), _count(limit.at_most, n)
    amount = min(max(Fraction(wanted), least), most)
    if amount == wanted:
        arm = np.where(preferred, own, other)
        return Choice(arm, arm)
    # Of equal gains those queries come first that would take the arm of their own accord.
    order = np.lexsort((~preferred, -gain))
    new_group = (np.diff(gain[order]) != 0) | (np.diff(preferred[order].astype(int)) != 0)
    ends = np.append(np.flatnonzero(new_group) + 1, n)
    above = int(ends[ends <= amount].max(initial=0))
    low = other.copy()
    low[order[:above]] = index
    if above == amount:
        return Choice(low, low, 0.0, float(gain[order[max(above, 1) - 1]]))
    tied = int(ends[ends > above].min()) - above
    high = low.copy()
    high[order[above : above + tied]] = index

    capped = wanted > amount

    def kept(fraction: float) -> bool:
        share = float((above + Fraction(fraction) * tied) / n)
        return share <= limit.at_most if capped else share >= limit.at_least

    fraction = _nearest_fraction((amount - above) / tied, kept, towards=0.0 if capped else 1.0)
    return _mixture(low, high, fraction, float(gain[order[above]]))


def _count(share: float, n: int) -> Fraction:
    """Number of queries that is this share of n: a whole one where the share is the float next to it."""
    whole = round(share * n)
    return Fraction(whole) if whole / n == share else n * Fraction(share)


def _within_capacity(utility: Floats, cost: Floats, limit: Capacity, arms: Sequence[object]) -> Choice:
    n, m = utility.shape
    capacity = np.full(m, n, dtype=float)
    for name, count in limit.count.items():
        capacity[_arm_index(name, arms, "Capacity")] = min(count, n)
    if capacity.sum() < n:
        raise InfeasibleLimitError(
            f"Capacity holds {int(capacity.sum())} queries in all, and the batch has {n}", float(capacity.sum())
        )
    free = best_arm(utility, cost)
    if (np.bincount(free, minlength=m) <= capacity).all():
        return Choice(free, free)
    arm, price = fill_arms(utility, cost, capacity)
    return Choice(arm, arm, 0.0, price)


def _arm_index(arm: object, arms: Sequence[object], owner: str) -> int:
    names = list(arms)
    if arm not in names:
        raise RouterInputError(f"{owner} names the arm {arm!r}, which the router does not have; it has {names}")
    return names.index(arm)


def _exact_sum(values: Floats) -> Fraction:
    """Sum without rounding: each pass of fsum finds the next part of what the parts before it left over."""
    numbers = values.tolist()
    total = Fraction(0)
    while (part := math.fsum(numbers)) != 0.0:
        total += Fraction(part)
        numbers.append(-part)
    return total


def six_digits(value: float, rounding: str) -> str:
    """Six significant digits on the feasible side, so that a limit copied from the message is feasible.

    Parameters
    ----------
    value : float
    rounding : {decimal.ROUND_CEILING, decimal.ROUND_FLOOR}

    Examples
    --------
    >>> six_digits(1 / 3, ROUND_CEILING), six_digits(1 / 3, ROUND_FLOOR)
    ('0.333334', '0.333333')
    """
    return f"{float(Context(prec=6, rounding=rounding).create_decimal(value)):g}"
