"""What a router around one that defers answers in its place: own answers, which queries go to experts, logs of the system."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.metaestimators import available_if

from defer.estimators.deferral.system_answers import system_log
from defer.estimators.tuning.wrapping_router import WrappingRouter
from defer.exceptions import RouterInputError
from defer.portfolios.limits import Limit
from defer.portfolios.outcomes import OutcomeLog

__all__ = ["DeferralHandedOn"]


def _defers(wrapper: Any) -> bool:
    return hasattr(wrapper._base(), "predict_own")


class DeferralHandedOn(WrappingRouter):
    """A router around another, with the methods of a deferral estimator where that is one.

    Attributes
    ----------
    expert_, label_classes_
        As for `BaseDeferral`.
    """

    @available_if(_defers)  # type: ignore[untyped-decorator]
    def predict_own(self, X: Any) -> NDArray[np.generic]:
        """The own answer to every query, shape (n,); see `BaseDeferral.predict_own`."""
        X = self._check_fitted_queries(X)
        return self.router_.predict_own(X)

    @available_if(_defers)  # type: ignore[untyped-decorator]
    def defer_mask(self, X: Any, *, limit: Limit | None = None, random_state: Any = None) -> NDArray[np.bool_]:
        """Which queries go to an expert, shape (n,), at the fitted point or under a limit; see `BaseDeferral.defer_mask`."""
        if limit is None:
            return self.predict(X) != self.arms_[0]
        return self.route(X, limit=limit, random_state=random_state).arm != 0

    @available_if(_defers)  # type: ignore[untyped-decorator]
    def outcome_log(
        self,
        X: Any,
        y: ArrayLike,
        experts: Any,
        *,
        cost: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        **columns: Any,
    ) -> OutcomeLog:
        """What own and the experts did on labelled queries, as a log; see `BaseDeferral.outcome_log`."""
        return system_log(self, X, y, experts, cost=cost, propensity=propensity, **columns)

    @property
    def expert_(self) -> NDArray[np.generic]:
        """Names of the experts, shape (J,), if the router defers."""
        return self.router_.expert_

    @property
    def label_classes_(self) -> NDArray[np.generic]:
        """Labels of the own answers, if the router was fitted with the answers of experts."""
        return self.router_.label_classes_

    def _check_defers(self) -> None:
        if not _defers(self):
            raise RouterInputError(
                f"TunedRouter: experts= needs a router that defers, such as PostHocDeferral, got {self._base()!r}"
            )
