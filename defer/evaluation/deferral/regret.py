"""Regret to the Bayes rule, where the probabilities are known: synthetic problems, or a judge's estimate of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.datasets.problem import DeferralProblem
from defer.evaluation.deferral.arrays import arm_index, arm_names, check_level, finite_table
from defer.evaluation.intervals import Interval, mean_interval
from defer.exceptions import EvaluationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BayesRegret", "regret_to_bayes"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BayesRegret:
    """What a routing loses to the best one, query by query.

    Parameters
    ----------
    regret : array of shape (n,)
        Conditional risk of what was done less the least one, at least 0.
    arm : int array of shape (n,)
        Where each query went.
    bayes_risk : float
        Mean of the least conditional risk.
    mean : Interval
        Mean regret; the interval is for other queries of the same law.
    names : tuple of m names
        Of the arms.

    Examples
    --------
    >>> found = regret_to_bayes([0, 0, 1], [[0.1, 0.3], [0.5, 0.2], [0.2, 0.1]])
    >>> isinstance(found, BayesRegret), round(found.risk, 3), round(found.bayes_risk, 3)
    (True, 0.233, 0.133)
    """

    regret: Floats = field(repr=False)
    arm: NDArray[np.intp] = field(repr=False)
    bayes_risk: float
    mean: Interval
    names: tuple[str, ...]

    @property
    def risk(self) -> float:
        """Mean conditional risk of the routing."""
        return self.bayes_risk + self.mean.value

    @property
    def agreement(self) -> float:
        """Share of the queries on which nothing is lost, up to rounding."""
        return float((self.regret <= 1e-12).mean())

    @property
    def frame(self) -> nw.DataFrame[Any]:
        """Row per arm: share of the queries it took, regret per query taken (NaN for none), and part of the mean regret."""
        count = np.bincount(self.arm, minlength=len(self.names))
        total = np.bincount(self.arm, weights=self.regret, minlength=len(self.names))
        with np.errstate(invalid="ignore"):
            table = {"arm": self.names, "share": count / len(self.arm), "regret": total / count}
        return nw.from_dict({**table, "part": total / len(self.arm)}, backend="pyarrow")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the part of the mean regret that comes from each arm."""
        from defer.evaluation.deferral.plots import plot_regret

        return plot_regret(self, ax)


def regret_to_bayes(
    arm: ArrayLike,
    expected_cost: DeferralProblem | ArrayLike,
    *,
    own_label: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    level: float = 0.95,
) -> BayesRegret:
    """Conditional risk of a routing in excess of the Bayes rule's.

    Parameters
    ----------
    arm : int array of shape (n,)
        Index of the arm that takes each query.
    expected_cost : DeferralProblem, or array of shape (n, m)
        The problem, whose arms are the own prediction and the experts; or the expected cost of every arm given the query.
    own_label : int array of shape (n,), optional
        Labels that the system itself predicts, where the problem is given and they are not its Bayes labels.
    names : sequence of m names, optional
    level : float in (0, 1), default=0.95

    Raises
    ------
    EvaluationError
        If the arrays do not fit together, or `own_label` is given for a matrix, which knows no labels.

    Examples
    --------
    >>> found = regret_to_bayes([0, 0, 1], [[0.1, 0.3], [0.5, 0.2], [0.2, 0.1]])
    >>> found.regret.round(3).tolist(), round(found.mean.value, 3), round(found.agreement, 3)
    ([0.0, 0.3, 0.0], 0.1, 0.667)
    """
    if isinstance(expected_cost, DeferralProblem):
        problem, risk = expected_cost, expected_cost.expected_cost
        names = ("own", *problem.expert_names) if names is None else names
    else:
        if own_label is not None:
            raise EvaluationError("own_label needs the DeferralProblem: a matrix of expected costs knows no labels")
        problem, risk = None, finite_table("expected_cost", expected_cost)
    arms = arm_index("arm", arm, *risk.shape)
    if problem is not None and own_label is not None:
        regret = problem.regret(arms, arm_index("own_label", own_label, len(risk), problem.class_probability.shape[1]))
    else:
        regret = risk[np.arange(len(risk)), arms] - risk.min(axis=1)
    mean = mean_interval(regret, None, check_level(level))
    return BayesRegret(regret, arms, float(risk.min(axis=1).mean()), mean, arm_names(names, risk.shape[1] - 1))
