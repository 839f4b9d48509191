"""Routers around a router: what is asked of them is asked of the one inside, which they fit."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from defer.estimators.base import BaseRouter, check_cost_weight
from defer.estimators.inner_model import last_step
from defer.estimators.quality import QualityRouter
from defer.estimators.routers.sampled_answers import mean_quality
from defer.estimators.tuning.tunable import check_router, takes_samples
from defer.portfolios.outcomes import OutcomeLog

__all__ = ["WrappingRouter"]

Floats = NDArray[np.float64]


def _grows(wrapper: WrappingRouter) -> bool:
    return hasattr(wrapper._base(), "add_arm")


class WrappingRouter(BaseRouter):
    """Base of routers with a ``router`` inside.

    Parameters
    ----------
    router : router or pipeline, default=QualityRouter()

    Attributes
    ----------
    router_ : fitted router
    """

    _hands_queries_on = True

    router: Any
    router_: Any

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inner = get_tags(self._base())
        tags.input_tags.sparse, tags.input_tags.allow_nan = inner.input_tags.sparse, inner.input_tags.allow_nan
        tags.classifier_tags.poor_score = inner.classifier_tags.poor_score
        return tags

    def score(
        self,
        X: Any,
        y: ArrayLike,
        *,
        cost: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Mean realised utility of the arms that `predict` takes; see `BaseRouter.score`.

        Parameters
        ----------
        X : n queries
        y : array or frame of shape (n, m), or array of shape (n,)
            Of several answers per query and arm the mean counts, where the router inside is fitted on them.
        cost, propensity, sample_weight : optional

        Returns
        -------
        float

        Raises
        ------
        RouterInputError
            As there.
        """
        table = mean_quality(y) if takes_samples(self._base()) else y
        return super().score(X, table, cost=cost, propensity=propensity, sample_weight=sample_weight)

    @available_if(_grows)  # type: ignore[untyped-decorator]
    def add_arm(self, name: Any, log: OutcomeLog) -> Self:
        """Add an arm to the router inside, if it takes one; see `ArmAddition.add_arm`.

        What was chosen around it stays as it is, and knows nothing of the added arm.

        Parameters
        ----------
        name : str
        log : OutcomeLog
            Of queries as for `fit`.

        Returns
        -------
        self

        Raises
        ------
        RouterInputError
            As there.
        """
        check_is_fitted(self, "arms_")
        self.router_.add_arm(name, log)
        last = last_step(self.router_)
        self.arms_, self.mean_cost_ = last.arms_, last.mean_cost_
        self._arm_added(name)
        return self

    def _arm_added(self, name: Any) -> None:
        """Extend by one arm, in the last place, what the wrapper itself keeps by arm."""

    def _base(self) -> Any:
        router = QualityRouter() if self.router is None else self.router
        check_router(router, owner=type(self).__name__)
        return router

    def _check_own_cost_weight(self) -> None:
        check_cost_weight(self._base())

    def _predict_quality(self, X: Any) -> Floats:
        return np.asarray(self.router_.predict_quality(X))

    def _predict_cost(self, X: Any) -> Floats:
        return np.asarray(self.router_.predict_cost(X))
