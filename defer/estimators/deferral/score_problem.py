"""Learning one score per action on a surrogate: what linear models and networks are given alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ScoreProblem"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ScoreProblem:
    """Costs of every action on every training query, and the surrogate to fit scores by.

    Attributes
    ----------
    cost : array of shape (n, m)
        Cost of every action, such as each class and each expert; NaN = not observed.
    weight : array of shape (n,) or (n, m)
        Of every query, or of every action on it; 0 where `cost` is NaN.
    loss : callable (scores, cost, weight) -> LossValue
        On NumPy arrays and torch tensors of any number of rows.

    Examples
    --------
    >>> from defer.losses import softmax_deferral
    >>> def loss(scores, cost, weight):
    ...     return softmax_deferral(scores, cost, n_experts=1, weight=weight)
    >>> problem = ScoreProblem(np.array([[0.0, 1.0, 0.5]]), np.ones(1), loss)
    >>> problem.deferral_loss(np.array([[0.0, 1.0, 2.0]]))
    0.5
    """

    cost: Floats
    weight: Floats
    loss: Callable[[Any, Any, Any], Any]

    @property
    def n_scores(self) -> int:
        """Number of actions, m."""
        return self.cost.shape[1]

    @property
    def total_weight(self) -> float:
        """Weight of all queries, in rows; of a table, the mean over its columns."""
        return float(self.weight.sum()) / (self.n_scores if self.weight.ndim == 2 else 1)

    def deferral_loss(self, scores: Floats, rows: NDArray[np.intp] | None = None) -> float:
        """Mean cost of the actions of highest score; ties go to the first.

        Parameters
        ----------
        scores : array of shape (n, m), or of as many rows as `rows` has
        rows : int array, optional
            Queries that the scores are of.

        Returns
        -------
        float
            Over the queries whose action was observed, by its weight; NaN if there is none.
        """
        cost = self.cost if rows is None else self.cost[rows]
        weight = self.weight if rows is None else self.weight[rows]
        taken = scores.argmax(axis=1)
        index = np.arange(len(taken)), taken
        mass = np.where(np.isfinite(cost[index]), weight if weight.ndim == 1 else weight[index], 0.0)
        if not mass.any():
            return float("nan")
        return float(mass @ np.where(mass > 0, cost[index], 0.0) / mass.sum())
