"""The deferral methods that are compared on logged sets, each with the few settings that its training rows choose among."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from deferral_problem import DeferralSet
from sklearn.linear_model import LogisticRegression

from defer.estimators import (
    ConfidenceDeferral,
    LearnedTriage,
    MultiExpertDeferral,
    PostHocDeferral,
    QualityRouter,
    SingleStageDeferral,
    TwoStageDeferral,
)

__all__ = ["ALPHAS", "CHOW", "STRENGTHS", "Candidate", "OwnSide", "candidates"]

CHOW = "ConfidenceDeferral (Chow)"
STRENGTHS = (0.1, 1.0, 10.0)
"""Values of C, inverse strength of the penalty."""

ALPHAS = (0.25, 0.5, 0.75, 1.0)

Source = Literal["answers", "outcomes"]


@dataclass(frozen=True)
class OwnSide:
    """What methods are given of the own side on some training rows.

    Attributes
    ----------
    base : classifier
        Unfitted, or frozen where the own answers are logged.
    predictor : CrossFitted or None
        The base, fitted.
    folds : list of (train, test)
        In which the rows of a group stay together.
    """

    base: Any
    predictor: Any
    folds: list[tuple[np.ndarray, np.ndarray]]


Make = Callable[[OwnSide], Any]


@dataclass(frozen=True)
class Candidate:
    """A method by name.

    Attributes
    ----------
    name : str
    variants : tuple of functions
        Each makes an unfitted router.
    learns_from : {"answers", "outcomes"}
        Labels and the experts' answers, or a table of who was right.
    is_weighted : bool
        Whether it is told how probable it was that an expert was asked.
    """

    name: str
    variants: tuple[Make, ...]
    learns_from: Source = "answers"
    is_weighted: bool = False


def candidates(part: DeferralSet) -> list[Candidate]:
    """What can be fitted on a set, Chow first."""
    if part.kind == "quality":
        gaps = bool(part.quality.isna().to_numpy().any())
        return [_by_strength(name, make, "outcomes") for name, make in _table_methods(gaps)]
    gaps = bool(part.experts.isna().to_numpy().any())
    found = [_chow(), *_joint(part.experts.shape[1], gaps), *_second_stage()]
    if gaps:
        told = [each for each in found if each.name in _COUPLED]
        found += [replace(each, name=f"{each.name} with propensities", is_weighted=True) for each in told]
    return [*found, _by_strength("QualityRouter", _quality, "outcomes")]


# One softmax over all arms: an expert who was asked more often on queries of a kind looks better there.
_COUPLED = ("MultiExpertDeferral('softmax')", "TwoStageDeferral", "PostHocDeferral('partial')")


def _chow() -> Candidate:
    return Candidate(CHOW, tuple(partial(_confidence, calibrated) for calibrated in (True, False)))


def _joint(n_experts: int, gaps: bool) -> list[Candidate]:
    priced: dict[str, Any] = {"costs": "training", "cost_weight": 1.0}
    if n_experts == 1:
        found = [
            _by_strength(f"SingleStageDeferral({name!r})", partial(SingleStageDeferral, name, cost_weight=1.0))
            for name in ("softmax", "ova", "asymmetric_softmax")
        ]
        alphas = tuple(partial(_at_alpha, alpha, priced) for alpha in ALPHAS)
        found.append(Candidate("SingleStageDeferral('softmax_alpha')", alphas))
        for name, more in (("realizable", {"rescale": True}), ("rl2d", {"rescale": True}), ("cost_sensitive", {})):
            make = partial(SingleStageDeferral, name, **priced, **more)
            found.append(_by_strength(f"SingleStageDeferral({name!r})", make))
        return found
    found = [
        _by_strength(f"MultiExpertDeferral({name!r})", partial(MultiExpertDeferral, name, cost_weight=1.0))
        for name in ("ova", "softmax")
    ]
    if gaps:
        make = partial(MultiExpertDeferral, "ova", missing="impute", cost_weight=1.0, random_state=0)
        return [*found, _by_strength("MultiExpertDeferral('ova', missing='impute')", make)]
    make = partial(MultiExpertDeferral, "cost_sensitive", **priced)
    return [*found, _by_strength("MultiExpertDeferral('cost_sensitive')", make)]


def _second_stage() -> list[Candidate]:
    post_hoc = [
        Candidate(
            f"PostHocDeferral({method!r})",
            tuple(partial(_post_hoc, method, features) for features in ("scores", "both")),
        )
        for method in ("plug_in", "partial", "regression")
    ]
    two_stage = Candidate("TwoStageDeferral", tuple(partial(_two_stage_on_answers, C) for C in STRENGTHS))
    return [two_stage, *post_hoc, Candidate("LearnedTriage(rate=1)", (_triage,))]


def _table_methods(gaps: bool) -> list[tuple[str, Callable[..., Any]]]:
    joint = [
        (f"MultiExpertDeferral({name!r})", partial(MultiExpertDeferral, name, cost_weight=1.0))
        for name in ("ova", "softmax")
    ]
    if not gaps:
        make = partial(MultiExpertDeferral, "cost_sensitive", costs="training", cost_weight=1.0)
        joint.append(("MultiExpertDeferral('cost_sensitive')", make))
    post_hoc = [
        (f"PostHocDeferral({method!r})", partial(PostHocDeferral, method, cost_weight=1.0))
        for method in ("plug_in", "partial", "regression")
    ]
    return [
        (CHOW, lambda C: ConfidenceDeferral(_logistic(C), cost_weight=1.0)), *joint, ("TwoStageDeferral", _two_stage), *post_hoc,
        ("LearnedTriage(rate=1)", lambda C: LearnedTriage(1.0, triage_model=_logistic(C), cost_weight=1.0)),
        ("QualityRouter", _quality),
    ]  # fmt: skip


def _by_strength(name: str, make: Callable[..., Any], learns_from: Source = "answers") -> Candidate:
    return Candidate(name, tuple(partial(_at_strength, make, C) for C in STRENGTHS), learns_from)


def _at_strength(make: Callable[..., Any], C: float, own: OwnSide) -> Any:
    return make(C=C)


def _at_alpha(alpha: float, priced: dict[str, Any], own: OwnSide) -> SingleStageDeferral:
    return SingleStageDeferral("softmax_alpha", alpha=alpha, C=10.0, rescale=True, **priced)


def _two_stage_on_answers(C: float, own: OwnSide) -> TwoStageDeferral:
    return TwoStageDeferral(own.predictor, rescale=True, C=C, cost_weight=1.0)


def _two_stage(C: float) -> TwoStageDeferral:
    return TwoStageDeferral(rescale=True, C=C, cost_weight=1.0)


def _quality(C: float) -> QualityRouter:
    return QualityRouter(_logistic(C), cost_weight=1.0)


def _logistic(C: float) -> LogisticRegression:
    return LogisticRegression(C=C, max_iter=1000)


def _confidence(calibrated: bool, own: OwnSide) -> ConfidenceDeferral:
    return ConfidenceDeferral(own.base, calibrated=calibrated, cv=own.folds, cost_weight=1.0)


def _post_hoc(method: Any, features: Any, own: OwnSide) -> PostHocDeferral:
    return PostHocDeferral(method, own.base, features=features, cv=own.folds, cost_weight=1.0)


def _triage(own: OwnSide) -> LearnedTriage:
    return LearnedTriage(1.0, own.base, cv=own.folds, cost_weight=1.0, random_state=0)
