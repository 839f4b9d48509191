"""How likely each weak arm suffices for a query, learned from labels that are probabilities themselves.

Binary cross-entropy with a soft label y has E[y | x] as its minimiser; a classifier gets every query twice, as a
positive of weight y and as a negative of weight 1 - y, which is the same loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.utils import _safe_indexing

from defer.estimators.deferral.score_learner import ClassifierForm, ScoreLearner
from defer.estimators.deferral.score_problem import ScoreProblem
from defer.losses import ova_deferral

__all__ = ["SufficiencyModel", "cross_fitted_sufficiency", "fit_sufficiency"]

Floats = NDArray[np.float64]
Index = NDArray[np.intp]

# What rounding leaves of a derivative.
_FINEST_TOL = 1e-10


@dataclass(frozen=True, eq=False)
class SufficiencyModel:
    """Probability that each of J arms suffices.

    Attributes
    ----------
    model : fitted model of log-odds, or None
        Of the arms in `learned`.
    learned : int array
        Arms whose labels differ between queries.
    constant : array of shape (J,)
        Probability of the other arms: the label that all queries have; 1/2 where none has any.
    """

    model: Any
    learned: Index
    constant: Floats

    def probability(self, X: Any) -> Floats:
        """Shape (n, J)."""
        table = np.tile(self.constant, (X.shape[0], 1))
        if self.model is not None:
            table[:, self.learned] = expit(self.model.scores(X))
        return table


class _LabelProblem(ScoreProblem):
    """Each column by itself: which of them is the largest says nothing, so the surrogate alone tells epochs of a network apart."""

    def deferral_loss(self, scores: Floats, rows: Index | None = None) -> float:
        return float("nan")


def fit_sufficiency(X: Any, labels: Floats, weight: Floats, learner: ScoreLearner) -> SufficiencyModel:
    """Fit to soft labels.

    Parameters
    ----------
    X : array or csr matrix of shape (n, d)
    labels : array of shape (n, J), in [0, 1]
        NaN where an arm has no label.
    weight : array of shape (n,)
    learner : ScoreLearner

    Examples
    --------
    >>> X, labels = np.array([[-1.0], [1.0]]), np.array([[0.25, 1.0], [0.75, 1.0]])
    >>> fitted = fit_sufficiency(X, labels, np.ones(2), ScoreLearner("Router", "linear", C=1e6, tol=1e-9))
    >>> fitted.probability(X).round(3).tolist()
    [[0.25, 1.0], [0.75, 1.0]]
    """
    cell = np.where(np.isfinite(labels), weight[:, None], 0.0)
    seen = cell > 0
    low, high = np.where(seen, labels, np.inf).min(axis=0), np.where(seen, labels, -np.inf).max(axis=0)
    learned = np.flatnonzero(low < high)
    constant = np.where(np.isfinite(low), low, 0.5)
    if not len(learned):
        return SufficiencyModel(None, learned, constant)
    rows = np.flatnonzero(seen[:, learned].any(axis=1))
    mass = cell[np.ix_(rows, learned)]
    target = np.where(mass > 0, labels[np.ix_(rows, learned)], 0.5)
    queries = X if len(rows) == X.shape[0] else _safe_indexing(X, rows)
    # The derivatives of an arm that was seldom observed are a small part of the whole, and as small must be what is left.
    share = float(mass.sum(axis=0).min() / mass.sum(axis=0).max())
    learner = replace(learner, tol=max(learner.tol * share, min(learner.tol, _FINEST_TOL)))
    problem = _LabelProblem(1.0 - target, mass, _binary_cross_entropy)
    model = learner.fit(queries, problem, form=ClassifierForm(mass * target, mass * (1.0 - target)))
    return SufficiencyModel(model, learned, constant)


def cross_fitted_sufficiency(
    X: Any, labels: Floats, weight: Floats, learner: ScoreLearner, parts: list[tuple[Index, Index]]
) -> Floats:
    """Probabilities of every query from a fit that did not see it, shape (n, J).

    Parameters
    ----------
    X, labels, weight, learner
        As for `fit_sufficiency`.
    parts : list of (train, test)
        Every query is in one test part.
    """
    table = np.empty(labels.shape)
    for train, test in parts:
        model = fit_sufficiency(_safe_indexing(X, train), labels[train], weight[train], learner)
        table[test] = model.probability(_safe_indexing(X, test))
    return table


def _binary_cross_entropy(scores: Any, cost: Any, weight: Any) -> Any:
    return ova_deferral(scores, cost, n_experts=0, weight=weight)
