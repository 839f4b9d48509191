"""Costs on the scale of the surrogates, [0, 1], and utilities back on the scale of the outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defer.exceptions import CostRangeError

__all__ = ["CostScale", "cost_scale", "counted_cost"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CostScale:
    """An affine map of costs to [0, 1], one for all queries and actions: it changes no decision.

    Attributes
    ----------
    low, high : float
        Costs that become 0 and 1.

    Examples
    --------
    >>> scale = CostScale(1.0, 3.0)
    >>> scale.scaled(np.array([1.0, 2.0])).tolist(), scale.utility(np.array([1.0, 0.5])).tolist()
    ([0.0, 0.5], [0.0, -1.0])
    """

    low: float = 0.0
    high: float = 1.0

    def scaled(self, cost: Floats) -> Floats:
        """Costs in [0, 1]; NaN stays."""
        if self == CostScale():
            return cost
        return np.clip((cost - self.low) / (self.high - self.low), 0.0, 1.0)

    def utility(self, scaled: Floats) -> Floats:
        """1 - cost, from 1 - scaled cost."""
        return (1.0 - self.high) + (self.high - self.low) * scaled


def cost_scale(cost: Floats, *, owner: str, names: Sequence[object], rescale: bool, what: str) -> CostScale:
    """The scale of a table of costs.

    Parameters
    ----------
    cost : array of shape (n, m)
        NaN = not observed, or of no weight.
    owner : str
        Class that asks, for messages.
    names : sequence of m
        Of the actions.
    rescale : bool
        Map the least and the largest of all costs to 0 and 1; else they must lie there.
    what : str
        What a cost is made of, for messages.

    Raises
    ------
    CostRangeError
        If a cost lies outside [0, 1] and `rescale` is False.

    Examples
    --------
    >>> cost_scale(np.array([[0.5, 4.5]]), owner="Router", names=["a", "b"], rescale=True, what="cost")
    CostScale(low=0.5, high=4.5)
    """
    if rescale:
        low, high = float(np.nanmin(cost)), float(np.nanmax(cost))
        return CostScale(low, high if high > low else low + 1.0)
    wrong = np.argwhere((cost < 0.0) | (cost > 1.0))
    if len(wrong):
        row, column = wrong[0]
        raise CostRangeError(
            f"{owner}: {what} lies outside [0, 1] in {len(wrong)} of {np.isfinite(cost).sum()} outcomes, the first in row {row}, "
            f"arm {names[column]!r} ({cost[row, column]:g}), where a weight 1 - cost would be negative and the surrogate unbounded "
            "below; pass rescale=True, which maps the least and the largest of them to 0 and 1 and changes no decision"
        )
    return CostScale()


def counted_cost(cost: Floats, weight: Floats) -> Floats:
    """Costs of what has a weight; NaN elsewhere, so that what counts for nothing decides no scale.

    Parameters
    ----------
    cost : array of shape (n, m)
    weight : array of shape (n,) or (n, m)

    Examples
    --------
    >>> counted_cost(np.array([[0.5, 4.5], [9.0, 9.0]]), np.array([1.0, 0.0])).tolist()
    [[0.5, 4.5], [nan, nan]]
    """
    return np.where((weight[:, None] if weight.ndim == 1 else weight) > 0, cost, np.nan)
