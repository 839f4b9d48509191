"""What a system that defers answers on given queries, and what its arms were worth there.

Everything is read off the public face of a fitted system (`predict`, `predict_own`, and the names of arms, experts and
labels), so that a router with an operating point of its own, or a pipeline, is served alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.estimators.deferral.answers import check_answers, is_asked, kind_of_labels, read_expert_table, read_labels
from defer.estimators.deferral.expert_outcomes import cost_table, propensity_table
from defer.estimators.outcomes_input import names_arms
from defer.estimators.routing import Routing
from defer.estimators.scoring import realised_utility
from defer.exceptions import RouterInputError
from defer.portfolios.arm_matrix import ArmMatrix
from defer.portfolios.outcomes import OutcomeLog

__all__ = ["answer_quality", "refuse_labels", "system_answer", "system_log", "system_utility"]

Floats = NDArray[np.float64]


def system_answer(system: Any, X: Any, experts: Any, routing: Routing | None) -> NDArray[np.generic]:
    """The answer of whoever takes each query; see `BaseDeferral.predict`.

    Parameters
    ----------
    system : fitted router that defers
    X : n queries
    experts : array of shape (n,) or (n, J), or frame
    routing : Routing of these queries, or None
        None: each query takes its arm of `predict`.

    Returns
    -------
    array of shape (n,)

    Raises
    ------
    RouterInputError
        If the answer of an expert who is taken is missing, answers are of another kind than the labels, or the routing is
        of other queries or arms.

    Examples
    --------
    >>> from defer.estimators import ConfidenceDeferral
    >>> system = ConfidenceDeferral().fit([[-1.0], [1.0]] * 20, [0, 1] * 20, experts=[0, 1] * 19 + [1, 0])
    >>> system_answer(system, [[-9.0], [9.0]], [1, None], None).tolist()
    [0, 1]
    """
    own = system.predict_own(X)
    labels = system.label_classes_
    taken = _index(system, system.predict(X)) if routing is None else _arms_of(system, routing, len(own))
    names, answer = read_expert_table(experts, n=len(own), names=system.expert_)
    check_answers(names, answer, labels, warn=False)  # one that is no label is handed on as it is
    given = np.column_stack([own.astype(object), answer])[np.arange(len(own)), taken]
    gaps = np.flatnonzero(~is_asked(given))
    if len(gaps):
        raise RouterInputError(
            f"experts: {len(gaps)} of {len(own)} queries go to an expert whose answer is missing, the first is row {gaps[0]} "
            f"(expert {str(names[taken[gaps[0]] - 1])!r}); ask it, or route with a limit that leaves it out"
        )
    # Answers that came beside gaps are floats or objects; those that are labels come back as labels.
    dtype = labels.dtype if set(labels.tolist()).issuperset(given.tolist()) else None
    return np.asarray(given.tolist(), dtype=dtype)


def answer_quality(system: Any, X: Any, y: ArrayLike, experts: Any) -> ArmMatrix:
    """1 where own or an expert gives the true label, 0 where it gives another, NaN where an expert was not asked.

    Parameters
    ----------
    system : fitted router that defers
    X : n queries
    y : array of shape (n,)
        True labels.
    experts : array of shape (n,) or (n, J), or frame

    Returns
    -------
    ArmMatrix of shape (n, 1 + J)

    Raises
    ------
    RouterInputError
        If a label is missing, labels or answers are of another kind than those of the system, or nobody gives any of them.

    Warns
    -----
    DeferWarning
        If an answer is no label: it counts as wrong.

    Examples
    --------
    >>> from defer.estimators import ConfidenceDeferral
    >>> system = ConfidenceDeferral().fit([[-1.0], [1.0]] * 20, [0, 1] * 20, experts=[0, 1] * 19 + [1, 0])
    >>> answer_quality(system, [[-9.0], [9.0]], [0, 0], [1, None]).tolist()
    [[1.0, 0.0], [0.0, nan]]
    """
    own = system.predict_own(X)
    names, answer = read_expert_table(experts, n=len(own), names=system.expert_)
    classes, code = read_labels(y, len(own))
    known = system.label_classes_
    if kind_of_labels(classes) != kind_of_labels(known):
        raise RouterInputError(
            f"y holds {kind_of_labels(classes)} such as {classes.tolist()[0]!r}, and this system was fitted on "
            f"{kind_of_labels(known)} such as {known.tolist()[0]!r}"
        )
    label = classes[code].astype(object)
    check_answers(names, answer, np.union1d(known, classes), stacklevel=5)
    right = np.where(is_asked(answer), (answer == label[:, None]).astype(float), np.nan)
    if not set(known.tolist()) & set(classes.tolist()) and not np.nansum(right):
        raise RouterInputError(
            f"y: none of the {len(label)} labels is one that this system was fitted on or an expert gives, the first is "
            f"{label[0]!r}; the system knows {known.tolist()}"
        )
    return ArmMatrix(np.column_stack([own.astype(object) == label, right]), system.arms_.tolist())


def system_log(
    system: Any,
    X: Any,
    y: ArrayLike,
    experts: Any,
    *,
    cost: ArrayLike | None,
    propensity: ArrayLike | None,
    **columns: Any,
) -> OutcomeLog:
    """What own and the experts did on labelled queries, as a log; see `BaseDeferral.outcome_log`.

    Examples
    --------
    >>> from defer.estimators import ConfidenceDeferral
    >>> system = ConfidenceDeferral().fit([[-1.0], [1.0]] * 20, [0, 1] * 20, experts=[0, 1] * 19 + [1, 0])
    >>> X = np.array([[-9.0], [9.0], [8.0]])
    >>> log = system_log(system, X, [0, 1, 1], [0, None, 0], cost=None, propensity=[0.5, 0.5, 1.0])
    >>> log.quality[:, 1].round(3).tolist()
    [1.333, 0.667, 0.0]
    """
    quality = answer_quality(system, X, y, experts)
    if propensity is not None:
        quality = _pseudo_outcomes(quality, propensity, system.expert_)
    price = None if cost is None else cost_table(cost, system.expert_, n=len(quality))
    return OutcomeLog.from_arrays(X, quality, arms=system.arms_.tolist(), cost=price, **columns)


def system_utility(
    system: Any,
    X: Any,
    y: ArrayLike,
    experts: Any,
    *,
    cost: ArrayLike | None,
    propensity: ArrayLike | None,
    sample_weight: ArrayLike | None,
    cost_weight: float,
) -> float:
    """Mean realised utility of the arms that `predict` takes; see `BaseDeferral.score`.

    Raises
    ------
    RouterInputError
        Also if the answer of an expert who is taken is missing, and there is no propensity.

    Examples
    --------
    >>> from defer.estimators import ConfidenceDeferral
    >>> system = ConfidenceDeferral().fit([[-1.0], [1.0]] * 20, [0, 1] * 20, experts=[0, 1] * 19 + [1, 0])
    >>> options = {"cost": None, "propensity": None, "sample_weight": None, "cost_weight": 0.0}
    >>> system_utility(system, [[-9.0], [9.0]], [0, 0], [1, None], **options)
    0.5
    """
    quality, taken = answer_quality(system, X, y, experts), system.predict(X)
    arms = system.arms_.tolist()
    price = None if cost is None else ArmMatrix(cost_table(cost, system.expert_, n=len(taken)), arms)
    chance, chosen = None, system.arms_ == taken[:, None]
    if propensity is not None:
        experts_chance = propensity_table(propensity, np.asarray(quality)[:, 1:], names=system.expert_)
        if not np.isfinite(quality).all():
            chance = np.column_stack([np.ones(len(taken)), experts_chance])[chosen]
            # Experts are asked one by one: the outcome that counts has its propensity even where all others were seen too.
            quality = ArmMatrix(np.where(chosen, quality, np.nan), arms)
    else:
        _refuse_gaps(np.asarray(quality)[chosen], taken)
    return realised_utility(
        quality, taken, cost=price, propensity=chance, sample_weight=sample_weight, cost_weight=cost_weight
    )


def refuse_labels(system: Any, y: ArrayLike) -> None:
    """Refuse labels as `y` of a score that is given no answers of experts, where the system was fitted with them.

    Raises
    ------
    RouterInputError
        Otherwise labels would be read as arms, none of which would ever be taken.
    """
    single = np.ndim(y) == 1 or (np.ndim(y) == 2 and np.shape(y)[1] == 1 and not names_arms(y))
    if hasattr(system, "label_classes_") and single:
        raise RouterInputError("score: y holds labels, and this router defers: pass experts= with their answers")


def _index(system: Any, taken: NDArray[np.generic]) -> NDArray[np.intp]:
    order = np.argsort(system.arms_)
    return order[np.searchsorted(system.arms_, taken, sorter=order)]


def _arms_of(system: Any, routing: Routing, n: int) -> NDArray[np.intp]:
    if len(routing.arm) != n:
        raise RouterInputError(f"routing has {len(routing.arm)} queries, and X {n}")
    if routing.arms.tolist() != system.arms_.tolist():
        raise RouterInputError(
            f"routing is over the arms {routing.arms.tolist()}, and this system has {system.arms_.tolist()}: route with the "
            "system that answers"
        )
    return routing.arm


def _pseudo_outcomes(quality: ArmMatrix, propensity: ArrayLike, names: NDArray[np.generic]) -> ArmMatrix:
    """Gaps filled so that means over queries are unbiased: a mean per expert, corrected by the weighted error where asked."""
    table = np.asarray(quality)
    chance, right = propensity_table(propensity, table[:, 1:], names=names), table[:, 1:]
    seen = np.isfinite(right)
    odds = np.where(seen, 1.0 / chance, 0.0)
    total = odds.sum(axis=0)
    never = np.flatnonzero(total == 0)
    if len(never):
        raise RouterInputError(
            f"experts: {len(never)} of {len(names)} experts have no answer, the first is {str(names[never[0]])!r}: there is "
            "nothing to weight by propensity="
        )
    value = np.where(seen, right, 0.0)
    mean = (odds * value).sum(axis=0) / total
    filled = mean + odds * (value - mean)
    return ArmMatrix(
        np.column_stack([table[:, :1], np.where(seen.all(axis=0), right, filled)]), list(quality.arms or ())
    )


def _refuse_gaps(realised: Floats, taken: NDArray[np.generic]) -> None:
    gaps = np.flatnonzero(np.isnan(realised))
    if len(gaps):
        raise RouterInputError(
            f"experts: {len(gaps)} of {len(taken)} queries go to an expert whose answer is missing, the first is row {gaps[0]} "
            f"(expert {str(taken[gaps[0]])!r}); pass propensity=, the probability with which each expert was asked: where "
            "nothing but chance decided, it is the share of its answers that are there"
        )
