"""Who stands in a stack: routers by name, the blocks of features they look at, and whether tags clear the noise of their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge

from defer.estimators.outcomes_input import Outcomes
from defer.estimators.quality import QualityRouter
from defer.estimators.routers.neighbors import KNNRouter
from defer.estimators.wide_ridge import WideRidge
from defer.exceptions import RouterInputError

__all__ = ["StackMember", "members_for", "numeric_members", "tag_labels", "text_members", "with_tag_labels"]

Floats = NDArray[np.float64]

# Pseudo-outcomes of the arm's mean in every tag: a tag of few queries says little.
_PRIOR = 5.0


@dataclass(frozen=True)
class StackMember:
    """A router in a stack.

    Parameters
    ----------
    name : str
    router : router
        Fitted on numbers; cloned.
    blocks : tuple of str, default=()
        Names of the feature blocks that it sees; () = all.
    labels : {"outcomes", "tags"}, default="outcomes"
        "tags" fits it on the mean outcome of every arm over the queries that share a tag, as `RewardDistilledRouter` with
        ``beta=0`` does: predicting a tag is easier than predicting one noisy outcome.  Left out where no tags are given.

    Examples
    --------
    >>> StackMember("ridge", QualityRouter()).labels
    'outcomes'
    """

    name: str
    router: Any
    blocks: tuple[str, ...] = ()
    labels: str = "outcomes"


def text_members(blocks: Sequence[str], *, alpha: float = 30.0) -> list[StackMember]:
    """Members for the blocks ``words``, ``characters``, ``shape`` and, where it is there, ``meaning``."""
    near = "meaning" if "meaning" in blocks else "words"
    return [
        StackMember("ridge", QualityRouter(WideRidge(alpha=alpha), WideRidge(alpha=3.0))),
        StackMember("words", QualityRouter(WideRidge(alpha=1.0)), ("words",)),
        StackMember("neighbors", KNNRouter(80, cost="neighbors"), (near,)),
        StackMember("tags, ridge", QualityRouter(WideRidge(alpha=3.0), WideRidge(alpha=3.0)), labels="tags"),
        StackMember("tags, neighbors", KNNRouter(20), (near,), "tags"),
    ]


def numeric_members(*, has_two_grades: bool = False) -> list[StackMember]:
    """Members for a table of numbers, each in units of its standard deviation.

    Parameters
    ----------
    has_two_grades : bool, default=False
        Whether outcomes are of two values, such as 0 and 1: then there is a logistic regression too, which bends where answers are nearly always
        right or nearly always wrong.
    """

    def ridge(alpha: float) -> Ridge:
        return Ridge(alpha=alpha, tol=1e-8)

    logistic = LogisticRegression(tol=1e-6, max_iter=1000)
    return [
        StackMember("ridge", QualityRouter(ridge(10.0), ridge(10.0))),
        StackMember("strong ridge", QualityRouter(ridge(300.0))),
        *([StackMember("logistic", QualityRouter(logistic))] if has_two_grades else []),
        StackMember("neighbors", KNNRouter(40, metric="euclidean", cost="neighbors")),
        StackMember("tags, ridge", QualityRouter(ridge(10.0), ridge(10.0)), labels="tags"),
    ]


def members_for(given: Any, blocks: tuple[str, ...], *, is_numeric: bool, quality: Floats) -> list[StackMember]:
    """Checked members of a stack; the default ones where none are given.

    Parameters
    ----------
    given : None, or list of StackMember or (name, router)
    blocks : tuple of str
    is_numeric : bool
        Whether queries are a table of numbers.
    quality : array of shape (n, m), NaN = not observed

    Raises
    ------
    RouterInputError
        If a member is none, a name stands twice, or a block is not there.
    """
    if given is None:
        if not is_numeric:
            return text_members(blocks)
        return numeric_members(has_two_grades=len(np.unique(quality[np.isfinite(quality)])) == 2)
    if not isinstance(given, (list, tuple)):
        raise RouterInputError(f"StackedRouter: members must be None or a list of (name, router), got {given!r}")
    members = [member if isinstance(member, StackMember) else _member(member) for member in given]
    if not members:
        raise RouterInputError("StackedRouter: members is empty; give at least one (name, router)")
    names = [member.name for member in members]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RouterInputError(f"StackedRouter: {len(twice)} names of members stand twice, the first is {twice[0]!r}")
    for member in members:
        if not hasattr(member.router, "predict_quality") or isinstance(member.router, type):
            raise RouterInputError(f"StackedRouter: member {member.name!r} must be a router, got {member.router!r}")
        if member.labels not in ("outcomes", "tags"):
            raise RouterInputError(
                f"StackedRouter: labels of member {member.name!r} must be 'outcomes' or 'tags', got {member.labels!r}"
            )
        unknown = [name for name in member.blocks if name not in blocks]
        if unknown:
            raise RouterInputError(
                f"StackedRouter: member {member.name!r} looks at block {unknown[0]!r}; the blocks are {', '.join(blocks)}"
            )
    return members


def _member(given: Any) -> StackMember:
    if not isinstance(given, (tuple, list)) or len(given) != 2 or not isinstance(given[0], str):
        raise RouterInputError(f"StackedRouter: a member is a StackMember or (name, router), got {given!r}")
    return StackMember(given[0], clone(given[1]) if hasattr(given[1], "get_params") else given[1])


def tag_labels(table: Floats, incidence: Any, weight: Floats | None) -> Floats:
    """Mean of every arm over the queries that share a tag, averaged over the tags of a query, shape (n, m).

    Queries without a tag keep their outcomes.

    Parameters
    ----------
    table : array of shape (n, m), NaN = not observed
    incidence : sparse array of shape (n, T)
        Of 0 and 1.
    weight : array of shape (n,) or None

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> tag_labels(np.array([[1.0], [0.0], [0.5]]), csr_array([[1.0], [1.0], [0.0]]), None).round(2).tolist()
    [[0.5], [0.5], [0.5]]
    """
    seen = np.isfinite(table)
    mass = seen * (1.0 if weight is None else weight[:, None])
    values = np.where(seen, table, 0.0)
    overall = (mass * values).sum(axis=0) / np.maximum(mass.sum(axis=0), np.finfo(np.float64).tiny)
    of_tag = (incidence.T @ (mass * values) + _PRIOR * overall) / (incidence.T @ mass + _PRIOR)
    count = np.asarray(incidence.sum(axis=1)).ravel()
    tagged = count > 0
    labels = np.array(table)
    labels[tagged] = (incidence @ of_tag)[tagged] / count[tagged, None]
    return labels


def with_tag_labels(outcomes: Outcomes, incidence: Any) -> Outcomes:
    """Outcomes in which quality and cost are those of the tags."""
    cost = None if outcomes.cost is None else tag_labels(outcomes.cost, incidence, outcomes.weight)
    return replace(outcomes, quality=tag_labels(outcomes.quality, incidence, outcomes.weight), cost=cost)
