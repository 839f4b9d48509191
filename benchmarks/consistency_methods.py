"""What the consistency study compares: every method as a function of a sample, with what is proved about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from consistency_laws import N_TYPES, Counts, Law
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from defer.estimators import (
    ConfidenceDeferral,
    MultiExpertDeferral,
    PostHocDeferral,
    SingleStageDeferral,
    TwoStageDeferral,
)
from defer.losses import SURROGATES

__all__ = [
    "ONE_EXPERT",
    "SEVERAL_EXPERTS",
    "C",
    "Method",
    "excess",
    "fit_predictor",
    "fitted",
    "regret_of",
]

# The penalty on the mean surrogate is |coef|^2 / (2 C n): it vanishes as the sample grows.
C = 1.0
_SOLVER: dict[str, Any] = {"C": C, "tol": 1e-6, "max_iter": 1000}
_TYPES = np.eye(N_TYPES)


@dataclass(frozen=True)
class Method:
    """`build(predictor)` is an unfitted router; `proved` is whether its decisions converge to the Bayes rule.

    None: nothing is claimed.  `joint` methods learn the labels and the deferral from one sample.  `exact` ones have one solution,
    the others a path of the solver that rounding can turn.
    """

    name: str
    build: Callable[[Any], Any]
    proved: bool | None
    joint: bool = True
    exact: bool = True


def fit_predictor(sample: Counts) -> Any:
    """The own classifier of two-stage and post-hoc methods, from a sample of its own."""
    model = LogisticRegression(C=C, tol=1e-8, max_iter=2000)
    return FrozenEstimator(model.fit(_TYPES[sample.type], sample.y, sample_weight=sample.count))


def excess(law: Law, method: Method, sample: Counts, predictor: Any) -> float:
    """Risk of the fitted system above that of the Bayes rule, exactly: the mean over the types."""
    router = fitted(law, method, sample, predictor)
    return float(regret_of(law, router).mean())


def regret_of(law: Law, router: Any) -> np.ndarray:
    """Conditional risk in excess of the Bayes rule's, type by type."""
    names = router.arms_.tolist()
    arm = np.array([names.index(name) for name in router.predict(_TYPES).tolist()])
    return law.types.regret(arm, router.predict_own(_TYPES))


def fitted(law: Law, method: Method, sample: Counts, predictor: Any) -> Any:
    """The method, fitted to the rows of a sample with their counts as weights."""
    price = law.types.cost
    cost = np.tile(price, (len(sample.y), 1)) if price.any() else None
    return method.build(predictor).fit(
        _TYPES[sample.type], sample.y, experts=sample.answers, cost=cost, sample_weight=sample.count
    )


def _single(name: str, proved: bool | None, surrogate: str, **options: Any) -> Method:
    exact = SURROGATES[surrogate].convex
    return Method(name, lambda _: SingleStageDeferral(surrogate, **options, **_SOLVER), proved, exact=exact)


def _multi(name: str, surrogate: str, **options: Any) -> Method:
    return Method(
        name, lambda _: MultiExpertDeferral(surrogate, cost_weight=1.0, rescale=True, **options, **_SOLVER), True
    )


def _two_stage(name: str, weighting: str) -> Method:
    return Method(
        name,
        lambda predictor: TwoStageDeferral(predictor, weighting=weighting, cost_weight=1.0, rescale=True, **_SOLVER),
        True,
        joint=False,
    )


def _post_hoc(name: str, method: str, features: str, proved: bool | None) -> Method:
    return Method(
        name,
        lambda predictor: PostHocDeferral(method, predictor, features=features, cost_weight=1.0, C=C, max_iter=2000),
        proved,
        joint=False,
    )


_TWO_STEPS = [
    _two_stage("two-stage S1", "one_minus_cost"),
    _two_stage("two-stage S2", "cost_of_others"),
    _post_hoc("post-hoc plug-in", "plug_in", "queries", True),
    _post_hoc("post-hoc regression", "regression", "queries", True),
    _post_hoc("post-hoc partial", "partial", "queries", True),
    _post_hoc("post-hoc plug-in, scores only", "plug_in", "scores", None),
    Method("Chow", lambda predictor: ConfidenceDeferral(predictor, cost_weight=1.0), False, joint=False),
]

ONE_EXPERT = [
    _single("softmax", True, "softmax"),
    _single("one-vs-all", True, "ova"),
    _single("asymmetric softmax", True, "asymmetric_softmax"),
    _single("RL2D, q = 1", True, "rl2d", q=1.0),
    _single("RL2D, q = 0.7", False, "rl2d", q=0.7),
    _single("realizable (RS)", False, "realizable"),
    _single("softmax, alpha = 0.5", False, "softmax_alpha", alpha=0.5),
    *_TWO_STEPS,
]

SEVERAL_EXPERTS = [
    _multi("softmax", "softmax"),
    _multi("one-vs-all", "ova"),
    _multi("softmax, priced in training", "softmax", costs="training"),
    _multi("cost-sensitive, priced in training", "cost_sensitive", costs="training"),
    *_TWO_STEPS,
]
