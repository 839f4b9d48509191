"""What an operating point can be tuned for: which routers, and which limits on which outcomes."""

from __future__ import annotations

from typing import Any

import numpy as np

from defer.estimators.base import BaseRouter
from defer.estimators.inner_model import describe, last_step
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.routers.sampled_answers import SampledAnswers, holds_samples, read_samples
from defer.exceptions import RouterInputError
from defer.portfolios.limits import Budget, Capacity, Limit, QualityTarget, RiskLevel, Share

__all__ = ["check_limit", "check_order", "check_router", "check_rule", "split_samples", "takes_samples"]


def check_router(router: Any, *, owner: str) -> None:
    """Refuse what is no router.

    Parameters
    ----------
    router : object
    owner : str
        The wrapper whose ``router`` it is, for messages.

    Raises
    ------
    RouterInputError
        Says what it is.

    Examples
    --------
    >>> from defer.estimators import QualityRouter
    >>> check_router(QualityRouter(), owner="TunedRouter")
    """
    if isinstance(router, type):
        raise RouterInputError(
            f"{owner}: router must be a router, got the class {router.__name__}; write {router.__name__}()"
        )
    if not hasattr(router, "predict_quality") or not hasattr(router, "cost_weight"):
        raise RouterInputError(
            f"{owner}: router must be a router, or a pipeline of defer.make_pipeline, got {router!r}"
        )


def check_rule(router: Any) -> None:
    """Refuse a router whose own way of choosing an operating point would replace.

    Raises
    ------
    RouterInputError
        Names the router.

    Examples
    --------
    >>> from defer.estimators import QualityRouter
    >>> check_rule(QualityRouter())
    """
    last = last_step(router)
    if isinstance(last, BaseRouter) and type(last)._choose is not BaseRouter._choose:
        name = type(last).__name__
        raise RouterInputError(
            f"TunedRouter: {name} chooses arms by a rule of its own, which an operating point would replace: fit the "
            f"{name} itself, and give the limit to route(X, limit=...)"
        )


def check_order(router: Any, limit: Limit | None) -> None:
    """Refuse a limit that weighs quality against cost, where the predictions of a router put queries in order and no more.

    Raises
    ------
    RouterInputError
        Names the option of the router, and what else to take.

    Examples
    --------
    >>> from defer.estimators import SingleStageDeferral
    >>> check_order(SingleStageDeferral("realizable"), Share("own", at_least=0.5))
    """
    last = last_step(router)
    order = getattr(last, "_order_only", None)
    if order is not None and isinstance(limit, (Budget, QualityTarget, RiskLevel)):
        raise RouterInputError(
            f"TunedRouter: a {type(limit).__name__} weighs quality against cost, and {type(last).__name__} with {order[0]} gives an "
            f"order of queries and no quality; use a Share, or {order[1]}"
        )


def check_limit(limit: Limit | None, outcomes: Outcomes) -> None:
    """Refuse what is no limit that can be tuned for on given outcomes.

    Raises
    ------
    RouterInputError
        Names the limit and what it lacks.

    Examples
    --------
    >>> from defer.estimators.outcomes_input import read_outcomes
    >>> check_limit(Share(0, at_most=0.5), read_outcomes([[1.0, 0.0]], n=1))
    """
    if isinstance(limit, Capacity):
        raise RouterInputError("a Capacity belongs to one batch: give it to route(X, limit=...), not to TunedRouter")
    if limit is not None and not isinstance(limit, (Budget, QualityTarget, Share, RiskLevel)):
        raise RouterInputError(f"TunedRouter: limit must be a limit object or None, got {type(limit).__name__}")
    if isinstance(limit, (Budget, QualityTarget, RiskLevel)) and outcomes.cost is None:
        raise RouterInputError(f"{type(limit).__name__} needs costs: pass cost= to fit")
    if isinstance(limit, RiskLevel) and np.isnan(outcomes.quality).any():
        raise RouterInputError(
            f"a RiskLevel needs outcomes that were observed in full; {int(np.isnan(outcomes.quality).sum())} are not"
        )


def takes_samples(router: Any) -> bool:
    """Whether a router, or the one that it is wrapped around, is fitted on several answers per query and arm.

    Examples
    --------
    >>> from defer.estimators import HybridRouter, QualityRouter
    >>> takes_samples(HybridRouter()), takes_samples(QualityRouter())
    (True, False)
    """
    last = last_step(router)
    while not getattr(last, "_takes_samples", False) and getattr(last, "router", None) is not None:
        last = last_step(last.router)
    return bool(getattr(last, "_takes_samples", False))


def split_samples(router: Any, y: Any, *, owner: str) -> tuple[SampledAnswers | None, Any]:
    """Answers of which `y` has several per query and arm, and the table of their means; none, and `y`, where it has one.

    Parameters
    ----------
    router : router or pipeline
        That is to be fitted on them.
    y : array or frame of shape (n, m), array of shape (n, m, s), or mapping of arm name to array
    owner : str
        The wrapper, for messages.

    Raises
    ------
    RouterInputError
        If the router reads one answer per query and arm.

    Examples
    --------
    >>> from defer.estimators import HybridRouter
    >>> split_samples(HybridRouter(), [[[0.5, 1.0], [1.0, 1.0]]], owner="TunedRouter")[1].tolist()
    [[0.75, 1.0]]
    """
    if not holds_samples(y):
        return None, y
    if not takes_samples(router):
        form = "a mapping of arms" if hasattr(y, "keys") else f"shape {np.shape(y)}"
        raise RouterInputError(
            f"{owner}: y has several answers per query and arm ({form}), and {describe(router)} reads one: give their mean, a "
            "table of shape (n, m), or put a HybridRouter inside"
        )
    answers = read_samples(y)
    return answers, answers.mean
