"""Scores by any scikit-learn classifier, on queries repeated once per action.

Two surrogates are what classifiers minimise by themselves.  The softmax form sum_j w_j (-log p_j) is the cross-entropy of one
multiclass problem in which every query stands once per action j, with class j and sample weight w_j.  The one-vs-all form
sum_j (1 - c_j) phi(u_j) + c_j phi(-u_j) is one binary problem per action, in which a query stands as positive with
weight 1 - c_j and as negative with weight c_j.  Any classifier that estimates probabilities consistently under sample
weights then estimates what the surrogate's minimiser reads out, whatever loss it uses inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from scipy.sparse import vstack as sparse_vstack

from defer.estimators.deferral.own_model import fit_model
from defer.estimators.inner_model import last_step, takes_weight
from defer.exceptions import RouterInputError

__all__ = [
    "ActionClassifier",
    "BinaryClassifiers",
    "check_classifier",
    "fit_action_classifier",
    "fit_binary_classifiers",
]

Floats = NDArray[np.float64]

_LEAST = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class ActionClassifier:
    """A fitted classifier whose classes are the actions.

    Attributes
    ----------
    classifier : fitted classifier or None
        None where one action alone has credit.
    actions : int array
        Actions that have credit, in the order of its classes.
    n_actions : int
    """

    classifier: Any
    actions: NDArray[np.intp]
    n_actions: int

    def scores(self, X: Any) -> Floats:
        """Logarithm of the probability of every action, shape (n, m)."""
        probability = np.zeros((X.shape[0], self.n_actions))
        probability[:, self.actions] = 1.0 if self.classifier is None else self.classifier.predict_proba(X)
        return np.log(np.maximum(probability, _LEAST))


@dataclass(frozen=True, eq=False)
class BinaryClassifiers:
    """One fitted binary classifier per action.

    Attributes
    ----------
    classifiers : tuple of m
        Fitted classifiers; None where an action was always good or never.
    constant : array of shape (m,)
        Probability of the actions without a classifier.
    """

    classifiers: tuple[Any, ...]
    constant: Floats

    def scores(self, X: Any) -> Floats:
        """Log-odds of every action, shape (n, m)."""
        columns = [
            np.full(X.shape[0], constant) if classifier is None else classifier.predict_proba(X)[:, 1]
            for classifier, constant in zip(self.classifiers, self.constant, strict=True)
        ]
        probability = np.clip(np.column_stack(columns).astype(np.float64), _LEAST, 1.0 - _LEAST)
        return np.log(probability) - np.log1p(-probability)


def check_classifier(classifier: Any, *, owner: str) -> None:
    """Refuse a classifier without probabilities, or one that cannot weigh samples.

    Raises
    ------
    RouterInputError
    """
    name = type(classifier).__name__
    if not hasattr(classifier, "predict_proba"):
        raise RouterInputError(f"{owner}: the classifier {name} has no predict_proba, which scores are made from")
    if not takes_weight(classifier):
        raise RouterInputError(
            f"{owner}: the classifier {type(last_step(classifier)).__name__} takes no sample_weight, which is how it is told of costs"
        )


def fit_action_classifier(classifier: Any, X: Any, credit: Floats) -> ActionClassifier:
    """Fit a clone with the action as class and its credit as weight.

    Parameters
    ----------
    classifier : classifier with `predict_proba`
    X : array or sparse matrix of shape (n, d)
    credit : array of shape (n, m), >= 0

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, credit = np.array([[-1.0], [1.0]]), np.array([[1.0, 0.2], [0.2, 1.0]])
    >>> fit_action_classifier(LogisticRegression(), X, credit).scores(X).argmax(axis=1).tolist()
    [0, 1]
    """
    actions = np.flatnonzero(credit.any(axis=0))
    if len(actions) < 2:
        return ActionClassifier(None, actions if len(actions) else np.arange(credit.shape[1]), credit.shape[1])
    label, row = np.nonzero(credit.T > 0)
    fitted = fit_model(classifier, X[row], np.searchsorted(actions, label), credit[row, label])
    return ActionClassifier(fitted, actions, credit.shape[1])


def fit_binary_classifiers(classifier: Any, X: Any, credit: Floats, against: Floats) -> BinaryClassifiers:
    """Fit a clone per action, positive with weight `credit` and negative with weight `against`.

    Parameters
    ----------
    classifier : classifier with `predict_proba`
    X : array or sparse matrix of shape (n, d)
    credit, against : arrays of shape (n, m), >= 0

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, credit = np.array([[-1.0], [1.0]]), np.array([[1.0, 0.2], [0.2, 1.0]])
    >>> fit_binary_classifiers(LogisticRegression(), X, credit, 1.0 - credit).scores(X).argmax(axis=1).tolist()
    [0, 1]
    """
    fitted: list[Any] = []
    constant = np.full(credit.shape[1], 0.5)
    for action in range(credit.shape[1]):
        good, bad = np.flatnonzero(credit[:, action] > 0), np.flatnonzero(against[:, action] > 0)
        if not len(good) or not len(bad):
            fitted.append(None)
            constant[action] = 0.5 if len(good) == len(bad) else float(len(good) > 0)
            continue
        rows = sparse_vstack([X[good], X[bad]], format="csr") if issparse(X) else np.vstack([X[good], X[bad]])
        label = np.repeat([1, 0], [len(good), len(bad)])
        weight = np.concatenate([credit[good, action], against[bad, action]])
        fitted.append(fit_model(classifier, rows, label, weight))
    return BinaryClassifiers(tuple(fitted), constant)
