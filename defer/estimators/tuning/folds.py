"""Folds in which an operating point is found: every query in one test part, queries of one group in one fold."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, KFold, check_cv
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import has_fit_parameter

from defer.estimators.deferral.answers import ExpertAnswers
from defer.estimators.inner_model import check_keywords, last_step
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.queries import n_queries
from defer.estimators.routers.sampled_answers import SampledAnswers
from defer.exceptions import (
    DegenerateExpertWarning,
    MissingPropensityWarning,
    RouterInputError,
    SupportWarning,
)
from defer.portfolios.arm_matrix import ArmMatrix

__all__ = ["Rows", "check_part", "fit_part", "handed_on", "held_out_folds"]

Rows = NDArray[np.intp]
"""Indices of queries."""


def held_out_folds(cv: Any, n: int, groups: NDArray[Any] | None) -> list[tuple[Rows, Rows]]:
    """Training and test part of every fold.

    Parameters
    ----------
    cv : int, splitter or iterable of splits
    n : int
        Number of queries.
    groups : array of shape (n,) or None

    Raises
    ------
    RouterInputError
        If a query is in no test part or in several, or there are fewer than two folds or groups.

    Examples
    --------
    >>> sorted(test.tolist() for _, test in held_out_folds(5, 2, None))
    [[0], [1]]
    """
    if not isinstance(cv, Integral):
        splits = list(check_cv(cv).split(np.zeros((n, 1)), np.zeros(n), groups))
        times = np.bincount(np.concatenate([test for _, test in splits]), minlength=n)
        wrong = np.flatnonzero(times != 1)
        if len(wrong):
            raise RouterInputError(
                f"TunedRouter: cv must put every query into exactly one test part; {len(wrong)} are in none or in "
                f"several, the first is row {wrong[0]}"
            )
        return splits
    if isinstance(cv, bool) or cv < 2:
        raise RouterInputError(f"TunedRouter: cv must be at least 2 folds, got {cv!r}")
    distinct = n if groups is None else len(np.unique(groups))
    if distinct < 2:
        what = "query" if groups is None else "group of queries"
        raise RouterInputError(f"TunedRouter: cross-validation needs at least 2, and there is only 1 {what}")
    folds = min(int(cv), distinct)
    splitter = KFold(folds, shuffle=True, random_state=0)
    if groups is not None:
        splitter = GroupKFold(folds, shuffle=True, random_state=0)
    return list(splitter.split(np.zeros((n, 1)), None, groups))


def handed_on(router: Any, X: Any, *, owner: str, **given: Any) -> dict[str, Any]:
    """What a wrapper is given for the fit of its router beside outcomes, one entry per query, as `fit_part` takes it.

    Parameters
    ----------
    router : router or pipeline
    X : n queries
    owner : str
        The wrapper, for messages.
    **given
        ``tags``, ``latency`` and the like, by the router's own names; None = not given.

    Raises
    ------
    RouterInputError
        If the router's ``fit`` does not take one, or there are not n entries.

    Examples
    --------
    >>> from defer.estimators import SoftLabelRouter
    >>> handed_on(SoftLabelRouter(), [[0.0]], owner="TunedRouter", tags=None, latency=[[0.5, 2.0]])
    {'latency': [[0.5, 2.0]]}
    """
    kept = {name: value for name, value in given.items() if value is not None}
    check_keywords(last_step(router).fit, kept, owner=owner)
    for name, value in kept.items():
        single = isinstance(value, str) or not (hasattr(value, "__len__") or issparse(value))
        if single or n_queries(value) != n_queries(X):
            got = f"one {type(value).__name__}" if single else n_queries(value)
            raise RouterInputError(f"{owner}: {name} must have one entry for each of {n_queries(X)} queries, got {got}")
        kept[name] = value.tocsr() if issparse(value) else value
    return kept


def fit_part(
    router: Any,
    X: Any,
    outcomes: Outcomes,
    answers: ExpertAnswers | None,
    groups: NDArray[np.intp] | None,
    rows: Rows | None,
    more: Mapping[str, Any] | None = None,
    samples: SampledAnswers | None = None,
) -> Any:
    """A clone of a router, fitted on some of the queries.

    Parameters
    ----------
    router : router or pipeline
    X : n queries
    outcomes : Outcomes
        Of all queries.
    answers : ExpertAnswers or None
        Given where the router is fitted on them.
    groups : array of shape (n,) or None
        Handed on where the router takes them.
    rows : int array or None
        Queries to fit on; None = all.
    more : mapping, optional
        What `handed_on` gives, of all queries.
    samples : SampledAnswers, optional
        Of all queries, where the router is fitted on several answers per query and arm.

    Examples
    --------
    >>> from defer.estimators import QualityRouter
    >>> from defer.estimators.outcomes_input import read_outcomes
    >>> outcomes = read_outcomes([[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]], n=3)
    >>> fit_part(QualityRouter(), np.zeros((3, 1)), outcomes, None, None, np.arange(2)).predict_quality([[0.0]]).tolist()
    [[0.5, 0.5]]
    """

    def part(table: Any) -> Any:
        return table if table is None or rows is None else table[rows]

    names = outcomes.arms.tolist()
    options = {"propensity": part(outcomes.propensity), "sample_weight": part(outcomes.sample_weight)}
    target: Any
    if samples is not None:
        target = {name: part(table) for name, table in zip(names, samples.samples, strict=True)}
    elif answers is None:
        target = ArmMatrix(part(outcomes.quality), arms=names)
    else:
        answers = answers if rows is None else answers.take(rows)
        target, options["experts"] = answers.classes[answers.label], answers
        if outcomes.cell_propensity is not None:
            options["propensity"] = part(outcomes.cell_propensity)[:, 1:]
    if outcomes.cost is not None:
        options["cost"] = ArmMatrix(part(outcomes.cost), arms=names)
    if groups is not None and has_fit_parameter(last_step(router), "groups"):
        options["groups"] = part(groups)
    for name, value in (more or {}).items():
        options[name] = value if rows is None else _safe_indexing(value, rows)
    queries = X if rows is None else _safe_indexing(X, rows)
    with warnings.catch_warnings():
        # The caller was told once.
        for told in (MissingPropensityWarning, DegenerateExpertWarning, SupportWarning):
            warnings.simplefilter("ignore", told)
        return clone(router).fit(queries, target, **{key: value for key, value in options.items() if value is not None})


def check_part(outcomes: Outcomes, answers: ExpertAnswers | None, train: Rows, fold: str) -> None:
    """Refuse the training part of a fold on which a router cannot be fitted.

    Parameters
    ----------
    outcomes : Outcomes
    answers : ExpertAnswers or None
    train : int array
        Queries of the part.
    fold : str
        Its name, for messages.

    Raises
    ------
    RouterInputError
        If there is no outcome of an arm, or one class of labels alone, in rows of positive weight.

    Examples
    --------
    >>> from defer.estimators.outcomes_input import read_outcomes
    >>> check_part(read_outcomes([[1.0, 0.0], [0.0, 1.0]], n=2), None, np.array([0]), "fold 1 of 2")
    """
    counted = np.ones(len(train), dtype=bool)
    if outcomes.sample_weight is not None:
        counted = outcomes.sample_weight[train] > 0
    unseen = np.flatnonzero(~(np.isfinite(outcomes.quality[train]) & counted[:, None]).any(axis=0))
    if len(unseen):
        raise RouterInputError(
            f"TunedRouter: arm {outcomes.arms[unseen[0]].item()!r} was observed so rarely that the training part of {fold} "
            "has no outcome of it; leave it out, or use more folds"
        )
    if answers is not None and len(np.unique(answers.label[train][counted])) < 2:
        label = answers.classes.tolist()[answers.label[train][counted][0]]
        raise RouterInputError(
            f"TunedRouter: the training part of {fold} holds one class of y, {label!r}; give cv= a splitter that mixes the "
            "queries, such as KFold(5, shuffle=True), or use more folds"
        )
