"""Taking a weak arm from a threshold on: the rule, and the one that is found for a wanted drop of quality, out of fold.

What is judged out of fold is what decides later, costs included.
Source: Hybrid LLM (Ding et al., ICLR 2024, arXiv 2404.14618); with a `RiskLevel` learn-then-test (Angelopoulos et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from defer.estimators.base import at_cost_weight
from defer.estimators.routers.drop_threshold import ThresholdTable, threshold_table
from defer.estimators.routers.gap_scale import GapScale
from defer.estimators.tuning.operating_point import HeldOut, find_operating_point
from defer.portfolios.assignment import best_arm
from defer.portfolios.limits import RiskLevel

__all__ = ["ThresholdRule", "ThresholdSearch"]

Floats = NDArray[np.float64]

# Thresholds that every probability reaches, and none.
_ALWAYS, _NEVER = -1.0, 2.0


@dataclass(frozen=True, eq=False)
class ThresholdRule:
    """An arm goes before the strong one where its probability reaches its threshold, exactly there too.

    Attributes
    ----------
    strong : int
    threshold : array of shape (m,)
        Probability; NaN for the strong arm.
    bar : array of shape (m,)
        Quality of every arm at its threshold.
    holds_cost : bool
        Whether what arms cost is part of the thresholds; else cost counts on top.

    Examples
    --------
    >>> scale = GapScale(1, np.array([0.5, 0.9]), np.array([0.5, 1.0]), np.array([0.4, 0.0]))
    >>> rule = ThresholdRule.at(scale, 0.75)
    >>> probability = np.array([[0.75, 1.0], [np.nextafter(0.75, 0.0), 1.0]])
    >>> quality = rule.quality(scale.quality(probability), probability)
    >>> rule.utility(quality, np.zeros((2, 2)), 0.0).argmax(axis=1).tolist()
    [0, 1]
    """

    strong: int
    threshold: Floats
    bar: Floats
    holds_cost: bool

    @classmethod
    def at(cls, scale: GapScale, threshold: Floats | float, *, holds_cost: bool = False) -> ThresholdRule:
        """The rule for thresholds on the probabilities of a scale, one for all arms or one each."""
        weak = np.arange(len(scale.slope)) != scale.strong
        each = np.where(weak, threshold, np.nan)
        return cls(scale.strong, each, np.where(weak, scale.quality(each), scale.mean_quality), holds_cost)

    def bonus(self, cost: Floats, cost_weight: float) -> Floats:
        """What `utility` adds to quality - cost_weight * cost at the mean costs of the arms, shape (m,)."""
        plain = self.bar[self.strong] - self.bar
        return plain + cost_weight * (cost - cost[self.strong]) if self.holds_cost else plain

    def quality(self, quality: Floats, probability: Floats) -> Floats:
        """Quality as given, but below the bar where the probability is, even if rounding made them one; shape (n, m)."""
        below = np.minimum(quality, np.nextafter(self.bar, -np.inf))
        return np.where(probability < self.threshold, below, np.maximum(quality, self.bar))

    def utility(self, quality: Floats, cost: Floats, cost_weight: float) -> Floats:
        """Utility by which an arm is above the strong one from its threshold on, and below it before; shape (n, m)."""
        least = at_cost_weight(quality, cost, cost_weight)[:, [self.strong]]
        lead = quality - self.bar
        if cost_weight and not self.holds_cost:
            lead = lead - cost_weight * (cost - cost[:, [self.strong]])
        above, below = np.nextafter(least, np.inf), np.nextafter(least, -np.inf)
        utility = np.where(lead >= 0.0, np.maximum(least + lead, above), np.minimum(least + lead, below))
        utility[:, [self.strong]] = least
        return utility


@dataclass(frozen=True, eq=False)
class ThresholdSearch:
    """Probabilities out of fold with what was realised, of at least two arms.

    Attributes
    ----------
    scale : GapScale
    probability, realised : arrays of shape (n, m)
        `realised` is quality, without NaN.
    sample : array of shape (n,)
        Weight of every query.
    cost : array of shape (m,)
        Mean of every arm.
    cost_weight : float
    groups : int array of shape (n,) or None
        Queries of one group are one observation of a `RiskLevel`.

    Examples
    --------
    >>> probability = np.array([[0.9, 1.0], [0.6, 1.0], [0.2, 1.0]])
    >>> realised = np.array([[1.0, 1.0], [0.9, 1.0], [0.0, 1.0]])
    >>> scale = GapScale(1, np.array([0.6, 1.0]), np.array([0.6, 1.0]), np.array([1.0, 0.0]))
    >>> search = ThresholdSearch(scale, probability, realised, np.ones(3), np.array([1.0, 9.0]), 0.0, None)
    >>> search.for_drop(5.0).threshold.tolist()
    [0.4, nan]
    """

    scale: GapScale
    probability: Floats
    realised: Floats
    sample: Floats
    cost: Floats
    cost_weight: float
    groups: NDArray[np.intp] | None

    @cached_property
    def utility(self) -> Floats:
        """Predicted, shape (n, m)."""
        return self.scale.quality(self.probability) - self.cost_weight * self.cost

    @property
    def _weak(self) -> NDArray[np.intp]:
        return np.delete(np.arange(len(self.cost)), self.scale.strong)

    @cached_property
    def _best(self) -> NDArray[np.intp]:
        """The weak arm of highest utility of every query."""
        weak = self._weak
        return weak[best_arm(self.utility[:, weak], np.broadcast_to(self.cost[weak], (len(self.utility), len(weak))))]

    @cached_property
    def score(self) -> Floats:
        """By which queries go to a weak arm: its probability where there is one, else its lead in utility; shape (n,)."""
        weak, rows = self._weak, np.arange(len(self.utility))
        if len(weak) == 1:
            return self.probability[:, weak[0]]
        return np.asarray(self.utility[rows, self._best] - self.utility[:, self.scale.strong])

    @cached_property
    def table(self) -> ThresholdTable:
        """Every threshold on the score."""
        small = self.realised[np.arange(len(self.realised)), self._best]
        return threshold_table(self.score, small, self.realised[:, self.scale.strong], weight=self.sample)

    def at(self, threshold: float) -> ThresholdRule:
        """The rule of a threshold that is given."""
        return ThresholdRule.at(self.scale, float(np.clip(threshold, _ALWAYS, _NEVER)))

    def for_drop(self, drop: float) -> ThresholdRule:
        """The largest cost advantage whose drop is at most so many per cent."""
        point = self.table.for_drop(drop).threshold
        if math.isfinite(point):
            # Half-way to the next score below, as good on these queries and less of an accident.
            point = float(point + self.score[(self.score < point) & (self.sample > 0)].max()) / 2.0
        if len(self._weak) == 1:
            return ThresholdRule.at(self.scale, float(np.clip(point, _ALWAYS, _NEVER)), holds_cost=True)
        return self._from_lead(point)

    def for_risk(self, limit: RiskLevel, arms: Sequence[object]) -> ThresholdRule:
        """The highest price of a call of the strong arm at which the loss is shown to be small enough.

        Raises
        ------
        InfeasibleLimitError
            If it is not shown at price 0.
        """
        kept, strong = self.sample > 0, self.scale.strong
        calls = np.tile((np.arange(len(arms)) == strong).astype(np.float64), (int(kept.sum()), 1))
        groups = None if self.groups is None else self.groups[kept]
        share = self.sample[kept] / self.sample.sum()
        # The sequence of tests starts where no weak arm is taken for its price alone: such a start might be lost already.
        head_start = self.cost_weight * max(0.0, float(self.cost[strong] - self.cost[self._weak].min()))
        utility = self.utility[kept]
        utility[:, strong] += head_start
        held_out = HeldOut(utility, calls, self.realised[kept], calls, share, groups)
        return self._from_lead(head_start - find_operating_point(held_out, limit, arms)[0].price)

    def _from_lead(self, lead: float) -> ThresholdRule:
        """A weak arm is taken where its utility less that of the strong one reaches `lead`."""
        scale, price = self.scale, self.cost_weight * self.cost
        ends = scale.quality(np.array([[0.0], [1.0]])) - price
        reach = 1.0 + 2.0 * float(np.abs(ends - ends[:, [scale.strong]]).max())
        lead = float(np.clip(lead, -reach, reach))
        return ThresholdRule.at(scale, scale.crossing(price[scale.strong] - price - lead), holds_cost=True)
