"""The consistency bound of the log-type surrogates, evaluated on the scores of a fitted model.

With weights w_j(x) = 1 - E[cost_j | x] and W = sum_j w_j, the surrogate risk at x is - sum_j w_j log softmax(scores)_j.  Its least
value has softmax(scores) = w / W, so that its excess is W KL(w / W || softmax), and by Pinsker's inequality

    excess cost at x = max_j w_j - w_argmax(scores) <= sqrt(2 W excess surrogate).

Averaged: excess <= sqrt(2 E[W] E[excess surrogate]).  This is the two-stage surrogate with weights 1 - cost over own and experts
("Two-stage learning to defer with multiple experts", 2023), and the single-stage softmax over classes and experts, where the
class columns cost 1 - eta and W = 1 + sum_j (1 - E[cost_j | x]).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax

from defer.evaluation.deferral.arrays import finite_table
from defer.exceptions import EvaluationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ExcessBound", "excess_bound"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ExcessBound:
    """Excess cost of a fitted model beside what its surrogate excess allows; the bound can be loose, never violated.

    Parameters
    ----------
    excess : array of shape (n,)
        Expected cost of the arm of highest score less the least one.
    surrogate_excess : array of shape (n,)
        Surrogate risk less the least one over all scores.
    total_weight : array of shape (n,)
        W of each query.

    Examples
    --------
    >>> found = ExcessBound(np.array([0.0, 0.1]), np.array([0.02, 0.08]), np.array([1.0, 1.0]))
    >>> round(found.mean_excess, 3), round(found.mean_bound, 3), found.bound.round(3).tolist()
    (0.05, 0.316, [0.2, 0.4])
    """

    excess: Floats = field(repr=False)
    surrogate_excess: Floats = field(repr=False)
    total_weight: Floats = field(repr=False)

    def __repr__(self) -> str:
        return (
            f"ExcessBound(excess {self.mean_excess:.4g} <= {self.mean_bound:.4g}; "
            f"surrogate excess {self.mean_surrogate_excess:.4g}, {len(self.excess)} queries)"
        )

    @property
    def bound(self) -> Floats:
        """Bound on the excess cost of every query, shape (n,)."""
        return np.sqrt(2.0 * self.total_weight * self.surrogate_excess)

    @property
    def mean_excess(self) -> float:
        """Mean excess cost."""
        return float(self.excess.mean())

    @property
    def mean_surrogate_excess(self) -> float:
        """Mean excess of the surrogate."""
        return float(self.surrogate_excess.mean())

    @property
    def mean_bound(self) -> float:
        """Bound on the mean excess cost, from the means of weight and surrogate excess alone."""
        return float(np.sqrt(2.0 * self.total_weight.mean() * self.surrogate_excess.mean()))

    @property
    def frame(self) -> nw.DataFrame[Any]:
        """Row per query."""
        return nw.from_dict(
            {
                "excess": self.excess,
                "bound": self.bound,
                "surrogate_excess": self.surrogate_excess,
                "total_weight": self.total_weight,
            },
            backend="pyarrow",
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the excess cost of every query against its bound."""
        from defer.evaluation.deferral.plots import plot_excess_bound

        return plot_excess_bound(self, ax)


def excess_bound(scores: ArrayLike, expected_cost: ArrayLike) -> ExcessBound:
    """Excess cost and its bound, per query and on average.  O(n m) time and memory.

    Parameters
    ----------
    scores : array of shape (n, m)
        Of a fitted model, finite; the highest is chosen, of equal ones the first.
    expected_cost : array of shape (n, m), in [0, 1]
        Of every arm, such as `DeferralProblem.expected_cost`, for two-stage scores; of every class and expert, such as
        `DeferralProblem.action_cost`, for single-stage scores.

    Raises
    ------
    EvaluationError
        If shapes differ, a score is not finite, or a cost is outside [0, 1], where the surrogate has negative weights.

    Examples
    --------
    >>> cost = [[0.4, 0.2, 0.7]]
    >>> found = excess_bound([[1.0, 0.0, -1.0]], cost)
    >>> found.excess.round(3).tolist(), found.bound.round(3).tolist()
    ([0.2], [1.083])
    >>> excess_bound(np.log1p(np.negative(cost)), cost).mean_bound < 1e-7    # the optimum of the surrogate
    True
    """
    table = finite_table("scores", scores, least_columns=2)
    cost = finite_table("expected_cost", expected_cost, table.shape)
    outside = np.argwhere((cost < 0.0) | (cost > 1.0))
    if len(outside):
        row, column = outside[0]
        raise EvaluationError(
            f"expected_cost has {len(outside)} of {cost.size} values outside [0, 1], the first in row {row}, column {column} "
            f"({cost[row, column]:g}): a weight 1 - cost below 0 leaves the surrogate unbounded; divide all costs by their largest"
        )
    weight = 1.0 - cost
    total = weight.sum(axis=1)
    share = np.divide(weight, total[:, None], out=np.zeros_like(weight), where=total[:, None] > 0)
    log_share = np.log(share, out=np.zeros_like(share), where=share > 0)
    surplus = (weight * (log_share - log_softmax(table, axis=1))).sum(axis=1)
    excess = weight.max(axis=1) - weight[np.arange(len(weight)), table.argmax(axis=1)]
    # A divergence is not negative, but its sum may round to that.
    return ExcessBound(excess, np.maximum(surplus, 0.0), total)
