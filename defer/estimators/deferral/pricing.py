"""What another cost weight than that of `fit` means to a deferral estimator: other decisions, or another fit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from defer.estimators.base import check_cost_weight
from defer.estimators.deferral.face import BaseDeferral
from defer.estimators.outcomes_input import Outcomes
from defer.exceptions import RouterInputError

__all__ = ["PricedDeferral"]

Floats = NDArray[np.float64]


class PricedDeferral(BaseDeferral):
    """Base of the deferral estimators; refuses to decide at a cost weight that the fit does not hold for.

    Attributes
    ----------
    fixed_cost_weight_ : float or None
        Cost weight that is part of what was learned; None where one fit serves every cost weight.
    """

    fixed_cost_weight_: float | None

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
