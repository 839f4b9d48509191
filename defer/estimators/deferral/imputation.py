"""Answers that were not given, filled in by a model of each expert.

An expert who was asked on few queries is imitated: a classifier learns from the query and its true label whether the
expert is right, and stands in where the expert was not asked.  Source: learning to defer with limited expert predictions
(semi-supervised; Hemmer et al. 2023).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import clone

from defer.estimators.deferral.answers import ExpertAnswers
from defer.estimators.deferral.observed import as_sure_outcomes
from defer.estimators.deferral.own_model import check_model
from defer.estimators.deferral.parameter_checks import seed_of
from defer.estimators.deferral.right_model import fit_right, logistic
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.queries import is_numeric_input
from defer.exceptions import RouterInputError

__all__ = ["MISSING", "impute_right", "imputed_outcomes"]

Floats = NDArray[np.float64]

MISSING = ("at_random", "impute")
"""What may be assumed of answers that were not given."""

# Fewer answers than this say how often an expert is right, and hardly when.
_FEW = 20


def imputed_outcomes(
    X: Any,
    answers: ExpertAnswers,
    outcomes: Outcomes,
    *,
    owner: str,
    missing: str,
    model: Any,
    role: str,
    random_state: Any,
) -> Outcomes:
    """Outcomes as they were observed, or with every gap filled by `impute_right`.

    Parameters
    ----------
    X : n queries
    answers : ExpertAnswers
    outcomes : Outcomes
        Of own and the experts.
    owner, role : str
        Class that asks, and its parameter that `model` is, for messages.
    missing : {"at_random", "impute"}
        "at_random" leaves the gaps, for which the estimator makes up.
    model : classifier or None
        For `impute_right`; checked whether it is used or not.
    random_state : int, Generator, RandomState instance or None

    Returns
    -------
    Outcomes
        Where gaps were filled propensities are not used: no outcome is missing.

    Raises
    ------
    TypeError, RouterInputError
        If the model cannot tell probabilities.

    Examples
    --------
    >>> from defer.estimators.deferral.answers import read_answers
    >>> from defer.estimators.deferral.expert_outcomes import expert_outcomes
    >>> answers = read_answers([0, 1, 1, 0], [[0], [1], [None], [1]], n=4)
    >>> outcomes = expert_outcomes(answers, cost=None, propensity=None, sample_weight=None)
    >>> options = {"owner": "Router", "missing": "impute", "model": None, "role": "model", "random_state": 0}
    >>> imputed_outcomes(np.zeros((4, 1)), answers, outcomes, **options).quality[:, 1].tolist()
    [1.0, 1.0, 0.6, 0.0]
    """
    if model is not None:
        check_model(owner, role, model)
    if missing == "at_random" or np.isfinite(answers.right).all():
        return outcomes
    right = impute_right(
        X, answers, expert_model=model, sample_weight=outcomes.sample_weight, random_state=random_state
    )
    return as_sure_outcomes(outcomes, right)


def impute_right(
    X: Any,
    answers: ExpertAnswers,
    *,
    expert_model: Any = None,
    sample_weight: Floats | None = None,
    random_state: Any = None,
) -> Floats:
    """Whether each expert is right, with probabilities where an expert was not asked.

    Assumes that answers are missing at random given query and label: among queries of one (x, y), those on which the expert
    was asked are like the others.  That is weaker than missing at random without condition, since who is asked may depend
    on x and y; it fails if experts were asked because they were thought to know the answer for reasons that neither shows.
    The probabilities are estimates: an outcome learned from them is no better than the model.

    Parameters
    ----------
    X : n queries
        A table of numbers, dense or sparse; of text only the label is looked at.
    answers : ExpertAnswers
    expert_model : classifier, optional
        P(expert right | x, y), cloned for each expert and fitted on [x, one-hot y]; default `LogisticRegression`.
    sample_weight : array of shape (n,), optional
        Of the queries.
    random_state : int, Generator, RandomState instance or None
        Given to an `expert_model` that has such a parameter and leaves it None.

    Returns
    -------
    array of shape (n, J)
        0 or 1 where the expert was asked, as in `answers`; else in [0, 1].  For an expert with less than twenty answers, or
        with one outcome in all of them, (r + 1) / (k + 2) for r right ones among k that have a
        weight; r by weight.

    Raises
    ------
    RouterInputError
        If `expert_model` has no ``predict_proba``.

    Examples
    --------
    >>> from defer.estimators.deferral.answers import read_answers
    >>> answers = read_answers([0, 1, 1, 0], [[0], [1], [None], [1]], n=4)
    >>> impute_right(np.zeros((4, 1)), answers).ravel().tolist()
    [1.0, 1.0, 0.6, 0.0]
    """
    model = logistic() if expert_model is None else expert_model
    check_model("impute_right", "expert_model", model)
    if random_state is not None and model.get_params().get("random_state", 0) is None:
        model = clone(model).set_params(random_state=seed_of(random_state))
    table = _query_and_label(X, answers)
    right = answers.right.copy()
    weight = np.ones(len(right)) if sample_weight is None else sample_weight
    for column in range(right.shape[1]):
        given = answers.right[:, column]
        gaps = np.flatnonzero(np.isnan(given))
        if len(gaps):
            right[gaps, column] = _expected(model, table, given, weight, gaps)
    return right


def _expected(model: Any, table: Any, given: Floats, weight: Floats, gaps: NDArray[np.intp]) -> Floats:
    rows = np.flatnonzero(np.isfinite(given) & (weight > 0))
    known, count = given[rows], len(rows)
    if count < _FEW or known.min() == known.max():
        share = np.average(known, weights=weight[rows]) if count else 0.5
        return np.full(len(gaps), (count * share + 1.0) / (count + 2.0))
    return fit_right(model, table, given, weight).predict(table[gaps])


def _query_and_label(X: Any, answers: ExpertAnswers) -> Any:
    label = np.eye(len(answers.classes))[answers.label]
    if sparse.issparse(X):
        return sparse.hstack([X, sparse.csr_array(label)], format="csr")
    if not is_numeric_input(X):
        return label
    X = np.asarray(X, dtype=np.float64)
    if X.ndim != 2 or len(X) != len(label):
        raise RouterInputError(f"impute_right: X must have shape ({len(label)}, d), got {X.shape}")
    return np.hstack([X, label])
