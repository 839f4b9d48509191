"""What costs mean to a deferral estimator: which it expects, which cost weights and limits its fit holds for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from defer.estimators.base import check_cost_weight
from defer.estimators.deferral.cost_model import CostModel, fit_cost_model
from defer.estimators.deferral.face import BaseDeferral
from defer.estimators.deferral.query_features import as_features
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.routing import Routing
from defer.exceptions import RouterInputError
from defer.portfolios.limits import Budget, Limit, QualityTarget

__all__ = ["PricedDeferral"]

Floats = NDArray[np.float64]


class PricedDeferral(BaseDeferral):
    """Base of the deferral estimators; refuses cost weights and limits that the fit does not hold for.

    Attributes
    ----------
    cost_model_ : CostModel or None
        Expected costs of a query, where logged costs differ from query to query; only there if they were modelled.
    fixed_cost_weight_ : float or None
        Cost weight that is part of what was learned; None where one fit serves every cost weight.
    """

    C: float
    cost_model_: CostModel | None
    fixed_cost_weight_: float | None

    def route(self, X: Any, *, limit: Limit | None = None, random_state: Any = None) -> Routing:
        """Route a batch of queries, as `BaseRouter.route` does.

        Parameters
        ----------
        X : n queries, as for `fit`
        limit : Limit, optional
            Holds for this batch.
        random_state : int, Generator, RandomState instance or None
            Draws the randomised group, if the limit needs one.

        Returns
        -------
        Routing

        Raises
        ------
        RouterInputError
            Also for a `Budget` or `QualityTarget` where the scores are an order of queries and no quality.
        """
        order = self._order_only if isinstance(limit, (Budget, QualityTarget)) else None
        if order is not None:
            raise RouterInputError(
                f"{type(self).__name__}: a {type(limit).__name__} weighs quality against cost, and {order[0]} gives an order of "
                f"queries and no quality; use a Share, or {order[1]}"
            )
        return super().route(X, limit=limit, random_state=random_state)

    @property
    def _order_only(self) -> tuple[str, str] | None:
        """The option that makes scores an order without a quality, and what else to take; None where there is a quality."""
        return None

    def _learn_cost(self, features: Any, outcomes: Outcomes) -> None:
        """Model the costs of queries by their features, where they differ."""
        self.cost_model_ = fit_cost_model(features, outcomes, C=self.C)

    def _cost_at(self, features: Any) -> Floats:
        """Expected cost of every arm, shape (n, m)."""
        model = getattr(self, "cost_model_", None)
        if model is None:
            return np.broadcast_to(self.mean_cost_, (features.shape[0], len(self.mean_cost_)))
        return np.asarray(model.predict(features))

    def _predict_cost(self, X: Any) -> Floats:
        if getattr(self, "cost_model_", None) is None:
            return super()._predict_cost(X)
        return self._cost_at(self._cost_features(X))

    def _cost_features(self, X: Any) -> Any:
        """What the cost model sees of queries."""
        return as_features(X, owner=type(self).__name__)

    def _fix_cost_weight(self, outcomes: Outcomes, *, learned: bool) -> None:
        """Note whether `cost_weight` is part of what is being learned; without costs it has no meaning."""
        self.fixed_cost_weight_ = float(self.cost_weight) if learned and outcomes.cost is not None else None

    def _utility(self, quality: Floats, cost: Floats) -> Floats:
        self._check_decision_weight()
        return super()._utility(quality, cost)

    def _utility_under_limit(self, quality: Floats, cost: Floats) -> Floats:
        self._check_decision_weight()
        return super()._utility_under_limit(quality, cost)

    def _check_decision_weight(self) -> None:
        check_cost_weight(self)
        fixed = self.fixed_cost_weight_
        if fixed is not None and float(self.cost_weight) != fixed:
            raise RouterInputError(
                f"{type(self).__name__}: cost_weight was {fixed:g} in fit and is {float(self.cost_weight):g}; what was learned "
                "holds at the first alone, and another cost_weight needs another fit"
            )
