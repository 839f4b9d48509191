"""Which arm one query takes at every price: the upper envelope of the lines quality - price * cost.

Computed in exact arithmetic from the predictions as they are; as everywhere, ties go to the cheaper arm, then to the lower
index, so an interval holds the price at which it begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

__all__ = ["PriceInterval", "price_intervals"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PriceInterval:
    """Prices from `low` to below `high` at which a query takes one arm.

    Attributes
    ----------
    low, high : float
        Quality given up per US dollar; `high` is inf for the last interval.
    arm : int
        Index of the arm.
    """

    low: float
    high: float
    arm: int


def price_intervals(quality: Floats, cost: Floats, offset: Floats | None = None) -> tuple[PriceInterval, ...]:
    """All prices >= 0, cut where the arm changes.

    Parameters
    ----------
    quality, cost : arrays of shape (m,)
        Cost in US dollars.
    offset : array of shape (m,), optional
        Added to the utility of every arm whatever the price, such as the bonus of a `Share`; may be infinite.

    Returns
    -------
    tuple of PriceInterval
        By rising price, and so by falling cost of their arms.  O(m k) exact operations for k intervals.

    Examples
    --------
    >>> for part in price_intervals(np.array([0.5, 0.75, 1.0]), np.array([1.0, 2.0, 4.0])):
    ...     print(part.low, part.high, part.arm)
    0.0 0.125 2
    0.125 0.25 1
    0.25 inf 0
    """
    bonus = np.zeros(len(quality)) if offset is None else offset
    arms = np.flatnonzero(bonus == bonus.max()) if np.isposinf(bonus).any() else np.flatnonzero(~np.isneginf(bonus))
    arms = arms if len(arms) else np.arange(len(quality))
    fixed = [Fraction(float(bonus[arm])) if np.isfinite(bonus[arm]) else Fraction(0) for arm in arms]
    value = {int(arm): Fraction(float(quality[arm])) + extra for arm, extra in zip(arms, fixed, strict=True)}
    price = {arm: Fraction(float(cost[arm])) for arm in value}
    taken = min(value, key=lambda arm: (-value[arm], price[arm], arm))
    found: list[PriceInterval] = []
    low = Fraction(0)
    while True:
        cheaper = [arm for arm in value if price[arm] < price[taken]]
        if not cheaper:
            return (*found, PriceInterval(float(low), float("inf"), taken))
        at = {arm: (value[taken] - value[arm]) / (price[taken] - price[arm]) for arm in cheaper}
        # Where several lines cross in one point the cheapest arm is the best from there on.
        following = min(cheaper, key=lambda arm: (at[arm], price[arm], arm))
        found.append(PriceInterval(float(low), float(at[following]), taken))
        low, taken = at[following], following
