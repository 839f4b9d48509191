"""The partial surrogate of a fixed predictor, fitted by linear scores and read out on the scale of quality.

Two actions are told apart by one score and a margin loss, more by a softmax over actions.  Costs lie in [0, B] with B their
largest, at least 1: adding a constant to all costs of a query changes no decision, and B - cost is a weight >= 0.
Source: Narasimhan et al. 2022 (two actions), Mao et al. 2023 (several).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from defer.estimators.deferral.cost_scale import CostScale, counted_cost
from defer.estimators.deferral.credit import CreditTotals, at_least_some, credit_shares, fit_credit_totals
from defer.estimators.deferral.linear import LinearScores, fit_linear_scores
from defer.estimators.deferral.score_problem import ScoreProblem
from defer.losses import LossValue, cross_entropy, post_hoc_partial

__all__ = ["ORDER_MARGINS", "PartialScores", "fit_partial_scores"]

Floats = NDArray[np.float64]

ORDER_MARGINS = ("hinge", "sigmoid")
"""Margin losses whose minimum tells a sign alone: the logistic curve of their scores is an order of queries."""

# Slope at zero of the probability that a margin loss reads out of its score.
_SHARPNESS = {"exponential": 2.0}


@dataclass(frozen=True, eq=False)
class PartialScores:
    """Fitted scores of the actions, and the totals that put them on the scale of quality.

    Attributes
    ----------
    model : LinearScores
    totals : CreditTotals
        Expected sum over actions of 1 - cost / B.
    scale : CostScale
        From 0 to B.
    margin : str or None
        None = softmax.
    """

    model: LinearScores
    totals: CreditTotals
    scale: CostScale
    margin: str | None

    def scores(self, X: Any) -> Floats:
        """Score of every action, shape (n, m); the highest is taken."""
        return self.model.scores(X)

    def utility(self, X: Any) -> Floats:
        """1 - expected cost of every action, shape (n, m), in the order of the scores."""
        scores = self.model.scores(X)
        if self.margin is None:
            return self.scale.utility(self.totals.utility(credit_shares(scores), X))
        credit, _ = self.totals.total_and_bound(X)
        total = at_least_some(2.0 - credit)
        share = _share(scores[:, 1] - scores[:, 0], self.margin)
        return self.scale.utility((1.0 - total) + total * np.column_stack([1.0 - share, share]))


def fit_partial_scores(
    X: Any, cost: Floats, weight: Floats, *, margin: str, C: float, max_iter: int, tol: float
) -> PartialScores:
    """Fit linear scores to costs of fixed actions.

    Parameters
    ----------
    X : array or csr matrix of shape (n, d)
    cost : array of shape (n, m), >= 0
        NaN = not observed.
    weight : array of shape (n, m)
        0 where `cost` is NaN.
    margin : str
        Margin loss for two actions, a key of `MARGINS`.  "sigmoid" is not convex: it is minimised from zero and from the minimum
        of "logistic", and the lower is kept.  "hinge" has no slope at its minimum to stop at: the search can end above it.
    C : float
        Inverse strength of the penalty on the coefficients: of the one score of two actions, or of each of more.
    max_iter, tol
        Of the solver.

    Examples
    --------
    >>> X, cost = np.array([[0.0], [1.0]] * 50), np.array([[0.4, 0.3], [0.1, 0.3]] * 50)
    >>> options = {"margin": "logistic", "C": 1e6, "max_iter": 1000, "tol": 1e-10}
    >>> partial = fit_partial_scores(X, cost, np.ones((100, 2)), **options)
    >>> scores = partial.scores(X[:2])
    >>> expit(scores[:, 1] - scores[:, 0]).round(4).tolist()
    [0.5714, 0.25]
    """
    scale = CostScale(0.0, max(1.0, float(np.nanmax(counted_cost(cost, weight)))))
    # An outcome that was not observed has no weight; its cost is never read.
    scaled = np.where(weight > 0, scale.scaled(cost), 0.0)
    two = cost.shape[1] == 2
    margin = margin if two else ""
    # The sigmoid loss is flat far from zero: the convex logistic loss leads to where it is not.
    paths = [[ScoreProblem(scaled, weight, _two_sided("logistic"))]] if margin == "sigmoid" else []
    # Two opposite scores share one coefficient: half the strength on each is the whole on their difference.
    model = fit_linear_scores(
        X, ScoreProblem(scaled, weight, _two_sided(margin) if two else _softmax), C=C / 2.0 if two else C,
        max_iter=max_iter, tol=tol, paths=paths, smooth=margin != "hinge",
    )  # fmt: skip
    totals = fit_credit_totals(X, scaled, weight, bound="one", C=C)
    return PartialScores(model, totals, scale, margin or None)


def _softmax(scores: Floats, cost: Floats, weight: Floats) -> Any:
    return cross_entropy(scores, weight * (1.0 - cost))


class _TwoSided:
    """A loss of the difference of two scores, as a loss of both."""

    def __init__(self, found: LossValue) -> None:
        self.found, self.value = found, found.value

    @property
    def gradient(self) -> Floats:
        return np.column_stack([-self.found.gradient, self.found.gradient])

    def hessian_product(self, vector: Floats) -> Floats:
        along = self.found.hessian_product(vector[:, 1] - vector[:, 0])
        return np.column_stack([-along, along])


def _two_sided(margin: str) -> Any:
    def loss(scores: Floats, cost: Floats, weight: Floats) -> _TwoSided:
        # The loss is linear in the costs, so that a weight of each action is a factor of its cost.
        return _TwoSided(post_hoc_partial(scores[:, 1] - scores[:, 0], weight * cost, margin=margin))

    return loss


def _share(score: Floats, margin: str) -> Floats:
    """Share of the first action in the expected cost of both; above one half where the score is positive."""
    if margin == "squared_hinge":
        return np.clip((1.0 + score) / 2.0, 0.0, 1.0)
    return np.asarray(expit(_SHARPNESS.get(margin, 1.0) * score))
