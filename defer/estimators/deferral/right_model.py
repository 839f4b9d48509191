"""How likely an arm is to be right, from features of the query: a classifier of right and wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.linear_model import LogisticRegression
from sklearn.utils import _safe_indexing

from defer.estimators.deferral.own_model import Fold, fit_model
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.quality import ExpectedGrade
from defer.exceptions import CostRangeError

__all__ = ["check_unit_quality", "cross_fitted_right", "fit_right", "logistic"]

Floats = NDArray[np.float64]


def logistic(C: float = 1.0) -> Any:
    """The default classifier, solved closely enough that a weight of k is worth k rows."""
    return LogisticRegression(C=C, tol=1e-8, max_iter=2000)


def check_unit_quality(owner: str, outcomes: Outcomes) -> None:
    """Refuse quality that is no probability of being right.

    Raises
    ------
    CostRangeError
        Names the arm, the row and the value.
    """
    wrong = np.argwhere((outcomes.quality < 0) | (outcomes.quality > 1))
    if len(wrong):
        row, arm = wrong[0]
        raise CostRangeError(
            f"{owner}: y has {len(wrong)} values outside [0, 1], the first in row {row}, arm {outcomes.arms[arm].item()!r} "
            f"({outcomes.quality[row, arm]:g}); quality is read as a probability of being right: rescale it, or use a regression"
        )


def fit_right(model: Any, X: Any, right: Floats, weight: Floats) -> ExpectedGrade:
    """Fit the probability of being right.

    Parameters
    ----------
    model : classifier
    X : array or sparse matrix of shape (n, d)
    right : array of shape (n,), in [0, 1]
        1 = right; a value between counts as right with this weight and as wrong with the rest.  NaN = not observed.
    weight : array of shape (n,)
        0 leaves a row out.

    Returns
    -------
    ExpectedGrade
        ``predict(X)`` gives probabilities, shape (n,); constant where only one outcome was observed.

    Examples
    --------
    >>> model = fit_right(logistic(), np.array([[-1.0], [1.0], [1.0]]), np.array([0.0, 1.0, np.nan]), np.ones(3))
    >>> model.predict(np.array([[0.0]])).round(6).tolist()
    [0.5]
    """
    rows = np.flatnonzero(np.isfinite(right) & (weight > 0))
    right, weight = right[rows], weight[rows]
    if right.min() == right.max():
        return ExpectedGrade(None, right[:1])
    between = np.flatnonzero((right > 0) & (right < 1))
    # A fraction of right is two rows, one right and one wrong, that share its weight.
    index = np.concatenate([rows, rows[between]])
    target = np.concatenate([right > 0, np.zeros(len(between), dtype=bool)]).astype(np.intp)
    shared = np.concatenate([np.where(right > 0, weight * right, weight), weight[between] * (1.0 - right[between])])
    if len(index) != X.shape[0] or len(between):
        X = _safe_indexing(X.tocsr() if issparse(X) else X, index)
    return ExpectedGrade(fit_model(model, X, target, shared), np.array([0.0, 1.0]))


def cross_fitted_right(model: Any, X: Any, right: Floats, weight: Floats, folds: Sequence[Fold]) -> Floats:
    """Probability of being right, by models that did not see the query, shape (n,).

    Parameters
    ----------
    model, X, right, weight
        As for `fit_right`.
    folds : list of (train, test)
        Each query is held out once; without folds the model sees all.  Where no outcome is left to learn from, the mean of all
        stands.

    Examples
    --------
    >>> X, folds = np.zeros((4, 1)), [(np.array([2, 3]), np.array([0, 1])), (np.array([0, 1]), np.array([2, 3]))]
    >>> cross_fitted_right(logistic(), X, np.array([1.0, 1.0, 0.0, 0.0]), np.ones(4), folds).tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    if not folds:
        return np.asarray(fit_right(model, X, right, weight).predict(X), dtype=np.float64)
    X = X.tocsr() if issparse(X) else X
    seen = np.isfinite(right) & (weight > 0)
    expected = np.full(len(right), np.average(right[seen], weights=weight[seen]))
    for train, test in folds:
        told = np.zeros(len(right))
        told[train] = weight[train]
        if (seen & (told > 0)).any():
            expected[test] = fit_right(model, X, right, told).predict(_safe_indexing(X, test))
    return expected
