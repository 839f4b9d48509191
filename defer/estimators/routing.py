"""The result of routing a batch: which arm each query takes, with what probability, and what is expected of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from defer.portfolios.assignment import Choice
from defer.portfolios.limits import Limit

__all__ = ["Routing"]


@dataclass(frozen=True, eq=False)
class Routing:
    """One arm per query, and the policy it was drawn from.

    Attributes
    ----------
    arms : array of shape (m,)
        Names of the arms, in the order of all columns.
    arm : int array of shape (n,)
        Index of the arm that each query takes.
    propensity : array of shape (n,)
        Probability with which the policy takes that arm; log it, and the log can be evaluated later.
    predicted_quality, predicted_cost : arrays of shape (n, m)
        What the router predicts of every arm; cost in US dollars per query.
    utility : array of shape (n, m)
        What was maximised.
    choice : Choice
        The policy before drawing; randomises at most one group of queries.
    limit : Limit or None

    Examples
    --------
    >>> from defer.estimators import RandomMixture
    >>> from defer.portfolios.limits import Budget
    >>> router = RandomMixture().fit([[0.0]] * 2, [[0.5, 0.9], [0.5, 0.7]], cost=[[1.0, 2.0], [1.0, 2.0]])
    >>> routing = router.route([[0.0]] * 4, limit=Budget(mean_cost=1.5), random_state=0)
    >>> routing.policy[0].tolist(), routing.expected_cost
    ([0.5, 0.5], 1.5)
    """

    arms: NDArray[np.generic]
    arm: NDArray[np.intp]
    propensity: NDArray[np.float64]
    predicted_quality: NDArray[np.float64] = field(repr=False)
    predicted_cost: NDArray[np.float64] = field(repr=False)
    utility: NDArray[np.float64] = field(repr=False)
    choice: Choice = field(repr=False)
    limit: Limit | None = None

    def __len__(self) -> int:
        return len(self.arm)

    @cached_property
    def label(self) -> NDArray[np.generic]:
        """Names of the arms taken, shape (n,)."""
        return self.arms[self.arm]

    @cached_property
    def policy(self) -> NDArray[np.float64]:
        """Probability of every arm, shape (n, m)."""
        return self.choice.policy(len(self.arms))

    @cached_property
    def fallbacks(self) -> NDArray[np.intp]:
        """The other arms by falling utility, shape (n, m - 1): what to try when the arm taken fails.

        Ties go to the cheaper arm, then to the lower index.
        """
        utility = self.utility.copy()
        utility[np.arange(len(self)), self.arm] = np.inf
        return np.lexsort((self.predicted_cost, -utility), axis=1)[:, 1:]

    @cached_property
    def quality(self) -> NDArray[np.float64]:
        """Predicted quality of the arm taken, shape (n,)."""
        return self.predicted_quality[np.arange(len(self)), self.arm]

    @cached_property
    def cost(self) -> NDArray[np.float64]:
        """Predicted cost of the arm taken, US dollars, shape (n,)."""
        return self.predicted_cost[np.arange(len(self)), self.arm]

    @property
    def price(self) -> float:
        """Utility given up per unit of the limited resource; 0 where no limit binds."""
        return self.choice.price

    @cached_property
    def expected_quality(self) -> float:
        """Mean predicted quality under the policy."""
        return self.choice.mean(self.predicted_quality)

    @cached_property
    def expected_cost(self) -> float:
        """Mean predicted cost under the policy, US dollars per query."""
        return self.choice.mean(self.predicted_cost)

    @cached_property
    def load(self) -> NDArray[np.float64]:
        """Share of the queries that each arm takes in expectation, shape (m,)."""
        m, n = len(self.arms), len(self)
        low, high = (np.bincount(arm, minlength=m) for arm in (self.choice.low, self.choice.high))
        return ((1.0 - self.choice.fraction) * low + self.choice.fraction * high) / n
