"""One split of a logged set: methods fitted on the training rows, and what each is worth on the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from deferral_methods import Candidate, OwnSide
from deferral_problem import LEAST_ANSWERS, DeferralSet, Rows, outcomes, rows_of, split
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, KFold

from defer.evaluation.deferral import deferral_curve
from defer.portfolios.assignment import best_arm

__all__ = ["LEAST_PROPENSITY", "CrossFitted", "Taken", "Trial"]

FOLDS, HELD_OUT = 5, 0.25
LEAST_PROPENSITY = 0.02
"""Estimated propensities are raised to this, so that no answer weighs more than 50."""

Floats = NDArray[np.float64]
Arms = NDArray[np.intp]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Taken:
    """What one way of deferring does on the test rows.

    Attributes
    ----------
    utility : array of shape (n,)
        1 where the system is right, less the price of who was asked.
    deferred : array of shape (n,)
        1 where an expert was asked.
    random : array of shape (n,)
        Expected utility of deferring random rows as often, with the same own answers, to the expert of highest training
        utility that is there.
    area : float
        AUC-DF; NaN unless there is one expert who answered every row.
    """

    utility: Floats
    deferred: Floats
    random: Floats
    area: float = float("nan")


class CrossFitted(ClassifierMixin, BaseEstimator):
    """A fitted classifier that gives its training rows the answers of models that have not seen them.

    Which of the two is meant is said by `in_training`, since equal rows stand on both sides.
    """

    in_training = False

    def __init__(self, base: Any) -> None:
        self.base = base

    def fit(self, X: Any, y: Any, folds: Any) -> Self:
        """Fit on all rows, and once without each fold."""
        self.unseen_ = np.empty(len(y), dtype=np.asarray(y).dtype)
        for train, test in folds:
            self.unseen_[test] = clone(self.base).fit(rows_of(X, train), y[train]).predict(rows_of(X, test))
        self.model_ = clone(self.base).fit(X, y)
        self.classes_ = self.model_.classes_
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Labels, shape (n,)."""
        return self.unseen_ if self.in_training else self.model_.predict(X)


class Training:
    """Training rows of a set with their features, ready for any method."""

    def __init__(self, part: DeferralSet, X: Any) -> None:
        self.part, self.X = part, X
        folds, base, predictor, own = folds_of(part), None, None, None
        if part.kind == "answers":
            predictor = CrossFitted(part.base).fit(X, part.y, folds)
            own = predictor.unseen_
            # Logged answers are labels of the source, which a base that is fitted to codes of labels would not know.
            base = part.base if part.own is None else FrozenEstimator(predictor.model_)
        self.own_side = OwnSide(base, predictor, folds)
        self.right = outcomes(part, own).to_numpy(dtype=float)

    def fitted(self, candidate: Candidate, variant: int) -> Any:
        """A router fitted on answers, or on a table of who was right; a price per answer is the cost of every row."""
        router, part, n = candidate.variants[variant](self.own_side), self.part, len(self.part)
        if candidate.learns_from == "outcomes":
            cost = np.tile([0.0, *part.cost], (n, 1))
            table, price = (pd.DataFrame(values, columns=part.arms) for values in (self.right, cost))
            return router.fit(self.X, table, cost=price)
        given = {"propensity": self.propensity()} if candidate.is_weighted else {}
        CrossFitted.in_training = True
        try:
            return router.fit(self.X, part.y, experts=part.experts, cost=np.tile(part.cost, (n, 1)), **given)
        finally:
            CrossFitted.in_training = False

    def propensity(self) -> Floats:
        """Estimated probability that each expert was asked, given the features, shape (n, J)."""
        asked = np.isfinite(self.right[:, 1:])
        chance = np.ones(asked.shape)
        for expert in np.flatnonzero(~asked.all(axis=0)):
            model = LogisticRegression(max_iter=1000).fit(self.X, asked[:, expert])
            chance[:, expert] = model.predict_proba(self.X)[:, 1]
        return np.maximum(chance, LEAST_PROPENSITY)


class Trial:
    """A split by `seed`; whoever answered a row can be asked for it, and nobody else."""

    def __init__(self, part: DeferralSet, seed: int) -> None:
        train, self.test = split(part, seed)
        features, learning = clone(part.features), part.select(train)
        self.held, self.price = part.select(self.test), np.array([0.0, *part.cost])
        self.training = Training(learning, features.fit_transform(learning.X))
        self.X = features.transform(self.held.X)
        predictor = self.training.own_side.predictor
        own = None if predictor is None else predictor.predict(self.X)
        self.right = outcomes(self.held, own).to_numpy(dtype=float)
        self.order = ranking(self.training.right, self.price)
        inner, self._outer = split(learning, 0, test_size=HELD_OUT)
        self._inner = Training(learning.select(inner), rows_of(self.training.X, inner))

    def run(self, candidate: Candidate) -> Taken:
        """Choose among the variants of a method on a quarter of the training rows, fit it on all, and use it."""
        router = self.training.fitted(candidate, self._chosen(candidate))
        right = who_is_right(router, candidate, self.X, self.held, self.right)
        arm = taken(router, self.X, np.isfinite(right))
        area = float("nan")
        if right.shape[1] == 2 and np.isfinite(right).all():
            quality = router.predict_quality(self.X)
            area = deferral_curve(quality[:, 1] - quality[:, 0], right[:, 0], right[:, 1]).area
        return self._worth(arm, right, area)

    def references(self) -> dict[str, Taken]:
        """Own answers, the arm of highest training utility, and the oracle; each among the arms that are there."""
        there = np.isfinite(self.right)
        own_first = np.array([0, *self.order[self.order != 0]])
        utility = np.where(there, self.right - self.price, -np.inf)
        found = {
            "own": first_there(own_first, there), "single": first_there(self.order, there),
            "oracle": best_arm(utility, np.broadcast_to(self.price, utility.shape)),
        }  # fmt: skip
        return {name: self._worth(arm, self.right) for name, arm in found.items()}

    def _chosen(self, candidate: Candidate) -> int:
        if len(candidate.variants) == 1:
            return 0
        rows, value = self._outer, []
        X, judged, own_right = (
            rows_of(self.training.X, rows),
            self.training.part.select(rows),
            self.training.right[rows],
        )
        for variant in range(len(candidate.variants)):
            router = self._inner.fitted(candidate, variant)
            right = who_is_right(router, candidate, X, judged, own_right)
            arm = taken(router, X, np.isfinite(right))
            value.append((right - self.price)[np.arange(len(arm)), arm].mean())
        return int(np.argmax(value))

    def _worth(self, arm: Arms, right: Floats, area: float = float("nan")) -> Taken:
        rows, there = np.arange(len(arm)), np.isfinite(right)
        utility, deferred = right - self.price, (arm != 0).astype(float)
        has_own, has_expert = there[:, 0], there[:, 1:].any(axis=1)
        expert = first_there(self.order[self.order != 0], there)
        free = has_own & has_expert
        chance = np.where(free, deferred[free].mean() if free.any() else 0.0, (~has_own).astype(float))
        own = np.where(has_own, utility[:, 0], 0.0)
        asked = np.where(has_expert, utility[rows, expert], 0.0)
        return Taken(utility[rows, arm], deferred, (1.0 - chance) * own + chance * asked, area)


def folds_of(part: DeferralSet) -> list[tuple[Rows, Rows]]:
    """Folds in which the rows of a group stay together."""
    if part.groups is None:
        return list(KFold(FOLDS, shuffle=True, random_state=0).split(np.zeros(len(part))))
    return list(GroupKFold(FOLDS, shuffle=True, random_state=0).split(np.zeros(len(part)), groups=part.groups))


def who_is_right(router: Any, candidate: Candidate, X: Any, part: DeferralSet, right: Floats) -> Floats:
    """`right` on the rows of `part`, with the own answers of a router that has its own."""
    if candidate.learns_from == "outcomes":
        return right
    return outcomes(part, router.predict_own(X)).to_numpy(dtype=float)


def taken(router: Any, X: Any, there: Mask) -> Arms:
    """Arm of highest predicted utility among those that are there."""
    return best_arm(np.where(there, router.predict_utility(X), -np.inf), router.predict_cost(X))


def ranking(right: Floats, price: Floats) -> Arms:
    """Arms by falling mean utility on the training rows that they answered; those with few answers last."""
    answers = np.isfinite(right).sum(axis=0)
    mean = np.nansum(right, axis=0) / np.maximum(answers, 1) - price
    return np.argsort(-np.where(answers >= min(LEAST_ANSWERS, len(right)), mean, -np.inf), kind="stable")


def first_there(order: Arms, there: Mask) -> Arms:
    """The first arm of an order that is there, for every row."""
    return order[there[:, order].argmax(axis=1)]
