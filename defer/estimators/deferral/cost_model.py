"""What an arm costs on a query, where logged costs differ from query to query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defer.estimators.deferral.credit import fit_ridge
from defer.estimators.deferral.linear import LinearScores
from defer.estimators.outcomes_input import Outcomes

__all__ = ["CostModel", "fit_cost_model"]

Floats = NDArray[np.float64]

# Costs of an arm that differ by less than this share of the largest differ by rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class CostModel:
    """Expected cost of every arm, clipped to the range that was observed.

    Attributes
    ----------
    model : LinearScores
    low, high : arrays of shape (m,)

    Examples
    --------
    >>> model = LinearScores(np.array([[0.0], [1.0]]), np.array([0.5, 1.0]))
    >>> CostModel(model, np.array([0.5, 0.0]), np.array([0.5, 2.0])).predict(np.array([[0.5], [3.0], [-9.0]])).tolist()
    [[0.5, 1.5], [0.5, 2.0], [0.5, 0.0]]
    """

    model: LinearScores
    low: Floats
    high: Floats

    def predict(self, X: Any) -> Floats:
        """Cost of every arm in US dollars, shape (n, m)."""
        return np.clip(self.model.scores(X), self.low, self.high)


def fit_cost_model(X: Any, outcomes: Outcomes, *, C: float) -> CostModel | None:
    """Regress the cost of every arm on features of the query, by ridge regression with penalty 1 / C.

    Parameters
    ----------
    X : array or csr matrix of shape (n, d)
    outcomes : Outcomes
        A cost that is NaN, or in a row of weight 0, is left out.
    C : float

    Returns
    -------
    CostModel or None
        None where there are no costs, or each arm has one cost: its mean says all.

    Examples
    --------
    >>> from defer.estimators.outcomes_input import read_outcomes
    >>> X = np.array([[0.0], [1.0], [2.0]])
    >>> told = read_outcomes([[1.0, 0.0]] * 3, n=3, cost=[[0.5, 0.0], [0.5, 1.0], [0.5, 2.0]])
    >>> fit_cost_model(X, told, C=1e9).predict(X).round(6).tolist()
    [[0.5, 0.0], [0.5, 1.0], [0.5, 2.0]]
    """
    if outcomes.cost is None:
        return None
    row = np.ones(len(outcomes.cost)) if outcomes.sample_weight is None else outcomes.sample_weight
    seen = np.isfinite(outcomes.cost) & (row > 0)[:, None]
    low, high = (np.where(seen, outcomes.cost, empty) for empty in (np.inf, -np.inf))
    low, high = low.min(axis=0), high.max(axis=0)
    if (high - low <= _ROUNDING * high).all():
        return None
    costs = np.where(seen, outcomes.cost, 0.0)
    parts = [fit_ridge(X, costs[:, [arm]], np.where(seen[:, arm], row, 0.0), C) for arm in range(costs.shape[1])]
    model = LinearScores(np.vstack([part.coef for part in parts]), np.concatenate([part.intercept for part in parts]))
    return CostModel(model, low, high)
