"""The own answer: a classifier that is fitted, or taken as it is, and the probabilities of queries that it has not seen."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.utils import _safe_indexing

from defer.estimators.deferral.answers import ExpertAnswers
from defer.estimators.queries import n_queries
from defer.exceptions import FallbackWarning, RouterInputError

__all__ = ["OwnModel", "check_model", "cross_fitted_probability", "fit_model", "fit_own"]

Floats = NDArray[np.float64]
Index = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class OwnModel:
    """A fitted classifier whose probabilities are in the order of the labels.

    Attributes
    ----------
    classifier : fitted classifier or None
        None where all training queries had one label.
    column : int array of shape (K,)
        Column of every label in ``predict_proba``; -1 where the classifier does not know it.

    Examples
    --------
    >>> OwnModel(None, np.array([-1, 0])).probability(np.zeros((1, 3))).tolist()
    [[0.0, 1.0]]
    """

    classifier: Any
    column: Index

    def probability(self, X: Any) -> Floats:
        """Probability of every label, shape (n, K)."""
        known = self.column >= 0
        probability = np.zeros((n_queries(X), len(self.column)))
        if self.classifier is None:
            probability[:, known] = 1.0
        else:
            probability[:, known] = np.asarray(self.classifier.predict_proba(X))[:, self.column[known]]
        return probability


def check_model(owner: str, role: str, model: Any) -> None:
    """Refuse a model that is a class, or a classifier that gives no probabilities.

    Raises
    ------
    TypeError
        If it is a class.
    RouterInputError
        If it has no ``predict_proba``.
    """
    if isinstance(model, type):
        raise TypeError(
            f"{owner}: {role} must be an estimator, got the class {model.__name__}; write {model.__name__}()"
        )
    if not hasattr(model, "predict_proba"):
        raise RouterInputError(
            f"{owner}: {role} {type(model).__name__} has no predict_proba; CalibratedClassifierCV gives it one"
        )


def fit_model(model: Any, X: Any, y: NDArray[Any], weight: Floats | None) -> Any:
    """A clone of a model, fitted with weights where there are any; in a pipeline they go to its last step.

    Raises
    ------
    RouterInputError
        If there are weights and the model takes none.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> fit_model(LinearRegression(), [[0.0], [1.0], [2.0]], np.array([0.0, 1.0, 5.0]), np.array([1.0, 1.0, 0.0])).coef_
    array([1.])
    """
    X = np.ascontiguousarray(X) if isinstance(X, np.ndarray) else X
    if weight is None or (weight == 1.0).all():
        return clone(model).fit(X, y)
    steps = getattr(model, "steps", None)
    last = steps[-1][1] if steps else model
    parameters = inspect.signature(last.fit).parameters.values()
    if not any(given.name == "sample_weight" or given.kind is given.VAR_KEYWORD for given in parameters):
        raise RouterInputError(
            f"the model {type(last).__name__} takes no sample_weight, which weighted or partly observed outcomes need"
        )
    # The weights are for the last step; under metadata routing a pipeline would refuse the prefix.
    with config_context(enable_metadata_routing=False):
        return clone(model).fit(X, y, **{f"{steps[-1][0]}__sample_weight" if steps else "sample_weight": weight})


def fit_own(
    base: Any, X: Any, answers: ExpertAnswers, *, weight: Floats | None = None, rows: Index | None = None
) -> OwnModel:
    """The base fitted on true labels; a `FrozenEstimator` is taken as it is.

    Parameters
    ----------
    base : classifier
    X : n queries
    answers : ExpertAnswers
    weight : array of shape (n,), optional
    rows : int array, optional
        Queries to fit on.

    Warns
    -----
    FallbackWarning
        If a frozen base knows labels that `answers` do not hold: it never gives them as an answer.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from defer.estimators.deferral.answers import read_answers
    >>> X, answers = np.array([[-1.0], [1.0]]), read_answers(["no", "yes"], ["no", "no"], n=2)
    >>> fit_own(LogisticRegression(), X, answers).probability(X).argmax(axis=1).tolist()
    [0, 1]
    """
    n_classes, label = len(answers.classes), answers.label
    if isinstance(base, FrozenEstimator):
        known = base.classes_.tolist()
        lost = [name for name in known if name not in answers.classes.tolist()]
        if len(lost) == len(known):
            raise RouterInputError(f"base: none of its {len(known)} labels is in y, the first is {known[0]!r}")
        if lost:
            warnings.warn(
                f"base knows {len(lost)} labels that y does not hold, the first is {lost[0]!r}; they are never answered",
                FallbackWarning,
                stacklevel=5,
            )
        places = [known.index(name) if name in known else -1 for name in answers.classes.tolist()]
        return OwnModel(base, np.array(places, dtype=np.intp))
    if rows is not None:
        X, label = _safe_indexing(_rows(X), rows), label[rows]
        weight = None if weight is None else weight[rows]
    column = np.full(n_classes, -1, dtype=np.intp)
    present = np.unique(label)
    column[present] = np.arange(len(present))
    return OwnModel(None if len(present) == 1 else fit_model(base, X, label, weight), column)


def cross_fitted_probability(
    base: Any,
    X: Any,
    answers: ExpertAnswers,
    *,
    cv: Any,
    weight: Floats | None = None,
    fit_on: NDArray[np.bool_] | None = None,
    random_state: Any = None,
) -> Floats:
    """Probability of every label from models that did not see the query, shape (n, K).

    Parameters
    ----------
    base : classifier
        A `FrozenEstimator` is asked for all queries: its training data must be others.
    X : n queries
    answers : ExpertAnswers
    cv : int, splitter or iterable of (train, test)
        Splits that hold every query out once; splits by group are handed over as a list.
    weight : array of shape (n,), optional
    fit_on : bool array of shape (n,), optional
        Queries that models are fitted on; all are predicted.
    random_state : int, RandomState instance or None
        Shuffles the queries where `cv` is a number.

    Raises
    ------
    RouterInputError
        If `cv` does not hold every query out once.
    """
    if isinstance(base, FrozenEstimator):
        return fit_own(base, X, answers).probability(X)
    n, X = len(answers.label), _rows(X)
    probability, times = np.zeros((n, len(answers.classes))), np.zeros(n, dtype=int)
    for train, test in _splits(cv, X, answers.label, random_state):
        rows = np.arange(n)[train]
        if fit_on is not None:
            rows = rows[fit_on[rows]] if fit_on[rows].any() else rows
        model = fit_own(base, X, answers, weight=weight, rows=rows)
        probability[test] = model.probability(_safe_indexing(X, np.arange(n)[test]))
        times[test] += 1
    wrong = np.flatnonzero(times != 1)
    if len(wrong):
        raise RouterInputError(
            f"cv must hold every query out once: {len(wrong)} of {n} are held out otherwise, the first is row {wrong[0]} "
            f"({times[wrong[0]]} times)"
        )
    return probability


def _rows(X: Any) -> Any:
    return X.tocsr() if issparse(X) else X


def _splits(cv: Any, X: Any, label: Index, random_state: Any) -> Any:
    n = len(label)
    if isinstance(cv, Integral) and not isinstance(cv, bool) and int(cv) >= 2:
        counts = np.bincount(label)
        if counts[counts > 0].min() >= cv:
            return StratifiedKFold(cv, shuffle=True, random_state=random_state).split(np.zeros(n), label)
        return KFold(min(int(cv), n), shuffle=True, random_state=random_state).split(np.zeros(n))
    if hasattr(cv, "split") and not isinstance(cv, str):
        return cv.split(X, label)
    if isinstance(cv, (str, Real)) or not hasattr(cv, "__iter__"):
        raise RouterInputError(f"cv must be an integer >= 2, a splitter or a list of splits, got {cv!r}")
    return list(cv)
