"""Routers that ignore the query: one arm, or the best random mixture of arms.

Their points in the cost-quality plane are the single models and the "zero router", the bar that a learned router
must exceed.  Source: RouterBench (Hu et al. 2024, arXiv 2403.12031).
"""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defer.estimators.base import BaseRouter, column_means
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.queries import n_queries
from defer.exceptions import InfeasibleLimitError, RouterInputError
from defer.portfolios.assignment import Choice, choose
from defer.portfolios.assignment.choice import six_digits
from defer.portfolios.limits import Budget, Capacity, Limit, QualityTarget, Share

__all__ = ["RandomMixture", "SingleArm"]

Floats = NDArray[np.float64]


class _ConstantRouter(BaseRouter):
    """Predicts every arm's mean quality for every query."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = True
        tags.classifier_tags.poor_score = True
        return tags

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        self.mean_quality_ = column_means(outcomes.quality, outcomes.weight, len(self.arms_))

    def _predict_quality(self, X: Any) -> Floats:
        return np.tile(self.mean_quality_, (n_queries(X), 1))


class RandomMixture(_ConstantRouter):
    """The concave hull of single arms: under a budget it mixes the two neighbouring arms at random ("zero router").

    Parameters
    ----------
    cost_weight : float, default=0.0
        Quality given up per US dollar.

    Attributes
    ----------
    arms_ : array of shape (m,)
    mean_quality_, mean_cost_ : arrays of shape (m,)

    References
    ----------
    Hu et al. 2024, RouterBench, arXiv 2403.12031.

    Examples
    --------
    >>> from defer.portfolios.limits import Budget
    >>> router = RandomMixture().fit([[0]] * 2, [[0.5, 0.9], [0.5, 0.7]], cost=[[1, 2], [1, 2]])
    >>> routing = router.route([[0]] * 10, limit=Budget(mean_cost=1.25), random_state=0)
    >>> routing.policy[0].tolist(), round(routing.expected_quality, 3)
    ([0.75, 0.25], 0.575)
    """

    def __init__(self, *, cost_weight: float = 0.0) -> None:
        self.cost_weight = cost_weight


class SingleArm(_ConstantRouter):
    """Always the same arm: a named one, or the best under the limit.

    Parameters
    ----------
    arm : object, optional
        Name of the arm.  None takes the arm of highest mean utility that the limit admits.
    cost_weight : float, default=0.0
        Quality given up per US dollar.

    Attributes
    ----------
    arms_ : array of shape (m,)
    arm_ : object
        The arm taken where there is no limit.
    mean_quality_, mean_cost_ : arrays of shape (m,)

    Examples
    --------
    >>> from defer.portfolios.limits import Budget
    >>> router = SingleArm().fit([[0]] * 2, [[0.5, 0.9], [0.5, 0.7]], cost=[[1, 2], [1, 2]])
    >>> router.predict([[0]]).tolist(), router.route([[0]], limit=Budget(mean_cost=1.9)).label.tolist()
    ([1], [0])
    """

    def __init__(self, arm: object = None, *, cost_weight: float = 0.0) -> None:
        self.arm = arm
        self.cost_weight = cost_weight

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        super()._fit(X, outcomes)
        names = self.arms_.tolist()
        if self.arm is not None and self.arm not in names:
            raise RouterInputError(f"SingleArm: arm must be one of {names}, got {self.arm!r}")
        utility = self._utility(self.mean_quality_, self.mean_cost_)
        best = np.lexsort((self.mean_cost_, -utility))[0]
        self.arm_ = self.arms_[best] if self.arm is None else self.arm

    def predict(self, X: Any) -> NDArray[np.generic]:
        """The arm, for every query."""
        queries = self._check_fitted_queries(X)
        return np.full(n_queries(queries), self.arm_, dtype=self.arms_.dtype)

    def predict_utility(self, X: Any) -> Floats:
        """Utility, shape (n, m); the arm that is always taken stands above all others."""
        utility = super().predict_utility(X)
        index = self.arms_.tolist().index(self.arm_)
        others = np.delete(utility, index, axis=1)
        if others.size:
            utility[:, index] = np.maximum(utility[:, index], np.nextafter(others.max(axis=1), np.inf))
        return utility

    def _choose(self, utility: Floats, quality: Floats, cost: Floats, limit: Limit | None) -> Choice:
        n, names = len(utility), self.arms_.tolist()
        candidates = range(len(names)) if self.arm is None else [names.index(self.arm)]
        if limit is not None:
            choose(utility, quality, cost, limit, arms=names)  # raises where nothing at all is feasible
        admitted = [index for index in candidates if limit is None or self._admits(limit, index, n, quality, cost)]
        if not admitted:
            raise _no_single_arm(
                limit, [names[index] for index in candidates], quality[:, candidates], cost[:, candidates]
            )
        key = cost if isinstance(limit, QualityTarget) else -utility
        best = min(admitted, key=lambda index: (key[:, index].mean(), cost[:, index].mean(), index))
        if limit is None:
            best = names.index(self.arm_)
        return _always(best, n)

    def _admits(self, limit: Limit, index: int, n: int, quality: Floats, cost: Floats) -> bool:
        name = self.arms_.tolist()[index]
        match limit:
            case Budget():
                return _always(index, n).mean(cost) <= limit.mean_cost
            case QualityTarget():
                return _always(index, n).mean(quality) >= limit.mean_quality
            case Share():
                share = 1.0 if name == limit.arm else 0.0
                return limit.at_least <= share <= limit.at_most
            case Capacity():
                return limit.count.get(name, n) >= n
            case _:
                return False


def _always(index: int, n: int) -> Choice:
    arm = np.full(n, index, dtype=np.intp)
    return Choice(arm, arm)


def _no_single_arm(limit: Limit | None, names: list[object], quality: Floats, cost: Floats) -> InfeasibleLimitError:
    message = f"no single arm of {names} satisfies {limit}"
    every = [_always(index, len(cost)) for index in range(len(names))]
    match limit:
        case Budget():
            nearest = min(arm.mean(cost) for arm in every)
            told = six_digits(nearest, ROUND_CEILING)
            return InfeasibleLimitError(f"{message}: the least mean cost is {told}", nearest)
        case QualityTarget():
            nearest = max(arm.mean(quality) for arm in every)
            told = six_digits(nearest, ROUND_FLOOR)
            return InfeasibleLimitError(f"{message}: the largest mean predicted quality is {told}", nearest)
        case Capacity():
            nearest = float(max(limit.count.get(name, len(cost)) for name in names))
            return InfeasibleLimitError(f"{message}: the batch has {len(cost)} queries", nearest)
        case _:
            return InfeasibleLimitError(f"{message}: a single arm takes a share of 0 or 1")
