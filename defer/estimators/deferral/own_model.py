"""The own answer: a classifier that is fitted, or taken as it is, and the probabilities of queries that it has not seen."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn import config_context
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold
from sklearn.utils import _safe_indexing, get_tags
from sklearn.utils.validation import check_is_fitted

from defer.estimators.deferral.answers import ExpertAnswers
from defer.estimators.deferral.parameter_checks import seed_of
from defer.estimators.deferral.query_features import is_number_table
from defer.estimators.inner_model import fit_clone, last_step, takes_weight
from defer.estimators.queries import n_queries, text_groups
from defer.exceptions import DeferError, FallbackWarning, RouterInputError

__all__ = [
    "Fold",
    "OwnModel",
    "check_cv",
    "check_model",
    "cross_fitted_probability",
    "fit_model",
    "fit_own",
    "splits",
    "take_sparse",
]

Floats = NDArray[np.float64]
Index = NDArray[np.intp]
Fold = tuple[Index, Index]
"""Rows to fit on, and rows that are held out."""


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
            with _explained(self.classifier, X):
                probability[:, known] = np.asarray(self.classifier.predict_proba(X))[:, self.column[known]]
        return probability


def check_model(owner: str, role: str, model: Any, *, needs: str = "predict_proba") -> None:
    """Refuse a model that is a class or no estimator, or a classifier that gives no probabilities.

    Parameters
    ----------
    owner, role : str
        Class that asks, and its parameter, for messages.
    model : estimator
    needs : {"predict_proba", "predict"}
        Method that will be called.

    Raises
    ------
    TypeError
        If it is a class.
    RouterInputError
        If it is no estimator, or lacks the method.
    """
    if isinstance(model, type):
        raise TypeError(
            f"{owner}: {role} must be an estimator, got the class {model.__name__}; write {model.__name__}()"
        )
    if not (hasattr(model, "fit") and hasattr(model, "get_params")):
        kind = "classifier such as LogisticRegression()" if needs == "predict_proba" else "regressor such as Ridge()"
        raise RouterInputError(f"{owner}: {role} must be a {kind}, got {model!r}")
    if not hasattr(model, needs):
        hint = "; CalibratedClassifierCV gives it one" if needs == "predict_proba" else ""
        raise RouterInputError(f"{owner}: {role} {type(model).__name__} has no {needs}{hint}")


def take_sparse(*models: Any) -> bool:
    """Whether all models take sparse queries; None, and what is no estimator, do not count.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> take_sparse(None, LogisticRegression())
    True
    """
    estimators = [model for model in models if hasattr(model, "__sklearn_tags__") and not isinstance(model, type)]
    return all(get_tags(model).input_tags.sparse for model in estimators)


def check_cv(owner: str, cv: Any) -> None:
    """Refuse folds that are neither a number, a splitter nor a list of splits.

    Raises
    ------
    RouterInputError
        Also for an iterator: a second fit would find it empty.
    """
    if isinstance(cv, Iterator):
        raise RouterInputError(
            f"{owner}: cv is a {type(cv).__name__}, which can be read once, and every fit reads it: pass list(...) of it"
        )
    if isinstance(cv, Integral) and not isinstance(cv, bool) and int(cv) >= 2:
        return
    if isinstance(cv, (str, Real)) or not (hasattr(cv, "split") or hasattr(cv, "__iter__")):
        raise RouterInputError(f"{owner}: cv must be an integer >= 2, a splitter or a list of splits, got {cv!r}")


def fit_model(model: Any, X: Any, y: NDArray[Any], weight: Floats | None) -> Any:
    """A clone of a model, fitted with weights where there are any; in a pipeline they go to its last step.

    Raises
    ------
    RouterInputError
        If weights differ and the model takes none, or queries that are no table of numbers are more than it can read.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> fit_model(LinearRegression(), [[0.0], [1.0], [2.0]], np.array([0.0, 1.0, 5.0]), np.array([1.0, 1.0, 0.0])).coef_
    array([1.])
    """
    X = np.ascontiguousarray(X) if isinstance(X, np.ndarray) else X
    weighted = weight is not None and not (weight == 1.0).all()
    if weight is not None and weighted and not takes_weight(model):
        if weight.min() < weight.max():
            raise RouterInputError(
                f"the model {type(last_step(model)).__name__} takes no sample_weight, which weighted or partly observed outcomes need"
            )
        weighted = False  # one weight for all rows is none
    with _explained(model, X):
        if not weighted:
            return fit_clone(model, X, y, None)
        # Under metadata routing an estimator around another, such as a search, would want to be asked for weights.
        with config_context(enable_metadata_routing=False):
            return fit_clone(model, X, y, weight)


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

    Raises
    ------
    RouterInputError
        If a frozen base was not fitted, or knows none of the labels.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from defer.estimators.deferral.answers import read_answers
    >>> X, answers = np.array([[-1.0], [1.0]]), read_answers(["no", "yes"], ["no", "no"], n=2)
    >>> fit_own(LogisticRegression(), X, answers).probability(X).argmax(axis=1).tolist()
    [0, 1]
    """
    label = answers.label
    if isinstance(base, FrozenEstimator):
        own, lost = _frozen_own(base, answers)
        if lost:
            warnings.warn(
                f"base knows {len(lost)} labels that y does not hold, the first is {lost[0]!r}; they are never answered",
                FallbackWarning,
                stacklevel=4,
            )
        return own
    if rows is not None:
        X, label = _safe_indexing(_rows(X), rows), label[rows]
        weight = None if weight is None else weight[rows]
    present = np.unique(label)
    if len(present) == 1:
        return OwnModel(None, np.where(np.arange(len(answers.classes)) == present[0], 0, -1))
    fitted = fit_model(base, X, answers.classes[label], weight)
    known = getattr(fitted, "classes_", answers.classes[present])
    return OwnModel(fitted, _places(known.tolist(), answers))


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
    cv : int, splitter or list of (train, test)
        Splits that hold every query out once.  Where `answers` have groups a number keeps each of them in one fold, a splitter
        is given them, and a list is taken as it is; without groups a number keeps equal texts together.
    weight : array of shape (n,), optional
    fit_on : bool array of shape (n,), optional
        Queries that models are fitted on; all are predicted.
    random_state : int, Generator, RandomState instance or None
        Shuffles the queries where `cv` is a number.

    Raises
    ------
    RouterInputError
        If `cv` does not hold every query out once, is a list of splits of more queries than these, or is a number and there is
        one group.
    """
    if isinstance(base, FrozenEstimator):
        return _frozen_own(base, answers)[0].probability(X)
    n, X = len(answers.label), _rows(X)
    probability, times = np.zeros((n, len(answers.classes))), np.zeros(n, dtype=int)
    for rows, test in splits(cv, X, answers.label, group=answers.group, random_state=random_state):
        if fit_on is not None:
            rows = rows[fit_on[rows]] if fit_on[rows].any() else rows
        model = fit_own(base, X, answers, weight=weight, rows=rows)
        probability[test] = model.probability(_safe_indexing(X, test))
        times[test] += 1
    wrong = np.flatnonzero(times != 1)
    if len(wrong):
        raise RouterInputError(
            f"cv must hold every query out once: {len(wrong)} of {n} are held out otherwise, the first is row {wrong[0]} "
            f"({times[wrong[0]]} times)"
        )
    return probability


def _frozen_own(base: Any, answers: ExpertAnswers) -> tuple[OwnModel, list[Any]]:
    """A frozen base in the order of the labels, and the labels of its own that `answers` do not hold."""
    try:
        check_is_fitted(base)
    except NotFittedError:
        raise RouterInputError(
            f"base: the frozen {type(base.estimator).__name__} is not fitted, and is not fitted here; fit it before, or give it "
            "without FrozenEstimator"
        ) from None
    known = base.classes_.tolist()
    lost = [name for name in known if name not in answers.classes.tolist()]
    if len(lost) == len(known):
        raise RouterInputError(f"base: none of its {len(known)} labels is in y, the first is {known[0]!r}")
    return OwnModel(base, _places(known, answers)), lost


def _places(known: list[Any], answers: ExpertAnswers) -> Index:
    """Column of every label of `answers` among those that a classifier knows; -1 where it does not."""
    places = [known.index(name) if name in known else -1 for name in answers.classes.tolist()]
    return np.array(places, dtype=np.intp)


@contextmanager
def _explained(model: Any, X: Any) -> Iterator[None]:
    """Say what to do where a model fails on queries that are no table of numbers."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if is_number_table(X) or isinstance(error, DeferError):
            raise
        name = type(last_step(model.estimator if isinstance(model, FrozenEstimator) else model)).__name__
        reason = str(error).partition("\n")[0]
        raise RouterInputError(
            f"the model {name} cannot read these queries, which are no table of numbers ({reason}); make it a pipeline that begins "
            f"with a transformer, as in make_pipeline(TfidfVectorizer(), {name}())"
        ) from error


def _rows(X: Any) -> Any:
    return X.tocsr() if issparse(X) else X


def splits(
    cv: Any, X: Any, label: Index, random_state: Any, *, group: Index | None = None
) -> Iterator[tuple[Index, Index]]:
    """Splits (train, test) of the queries; shuffled where `cv` is a number, and with every label in every part if they can be.

    Parameters
    ----------
    cv : int, splitter or list of (train, test)
    X : n queries
        A number keeps equal texts in one fold, where there is no `group`.
    label : int array of shape (n,)
    random_state : int, Generator, RandomState instance or None
    group : int array of shape (n,), optional
        A number keeps queries of one group in one fold, a splitter is given them, and a list is taken as it is.

    Raises
    ------
    RouterInputError
        If a list has splits of more queries than these, or `cv` is a number and there is one group.

    Examples
    --------
    >>> [test.tolist() for _, test in splits(2, np.zeros((4, 1)), np.array([0, 0, 1, 1]), 0)]
    [[1, 2], [0, 3]]
    """
    n = len(label)
    if isinstance(cv, Integral):
        parts = _parts(int(cv), label, text_groups(X) if group is None else group, seed_of(random_state))
    else:
        parts = cv.split(X, label, group) if hasattr(cv, "split") else cv
    for part in parts:
        try:
            train, test = (np.arange(n)[rows] for rows in part)
        except IndexError:
            raise RouterInputError(
                f"cv is a list of splits of other queries than the {n} of this fit, as within TunedRouter or a search, where every fit "
                "sees a part of them; give cv= a number or a splitter, and groups= to fit where some belong together"
            ) from None
        yield train, test


def _parts(folds: int, label: Index, group: Index | None, seed: int | None) -> Any:
    n = len(label)
    distinct = n if group is None else len(np.unique(group))
    if distinct < 2 <= n:
        raise RouterInputError(f"cross-fitting in cv={folds} folds needs 2 groups of queries, and all {n} are in one")
    if distinct < n:
        return GroupKFold(min(folds, distinct), shuffle=True, random_state=seed).split(np.zeros(n), label, group)
    counts = np.bincount(label)
    if counts[counts > 0].min() >= folds:
        return StratifiedKFold(folds, shuffle=True, random_state=seed).split(np.zeros(n), label)
    return KFold(min(folds, n), shuffle=True, random_state=seed).split(np.zeros(n))
