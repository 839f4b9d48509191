"""A routing set as numbers, and the routers of this library that stand against a peer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from cached_features import TextSet
from sklearn.linear_model import Ridge

from defer import OutcomeLog
from defer.estimators import KNNRouter, MatrixFactorizationRouter, QualityRouter, SoftLabelRouter, StackedRouter
from defer.portfolios.splitting import query_groups

__all__ = ["COUNTERPART", "OURS", "Problem"]

Floats = np.ndarray

OURS: dict[str, Callable[[], Any]] = {
    "KNNRouter": KNNRouter,
    "StackedRouter": StackedRouter,
    "SoftLabelRouter": lambda: SoftLabelRouter("mlp", random_state=0),
    "MatrixFactorizationRouter": MatrixFactorizationRouter,
    "QualityRouter(Ridge)": lambda: QualityRouter(Ridge(alpha=3.0)),
}
COUNTERPART = {"kNN": "KNNRouter", "SVM": "StackedRouter", "MLP": "SoftLabelRouter", "MF": "MatrixFactorizationRouter"}


@dataclass(frozen=True)
class Problem:
    """A routing set as numbers.

    Attributes
    ----------
    X : array of shape (n, d)
        Sentence embeddings.
    quality, cost : arrays of shape (n, m)
    groups : int array of shape (n,)
        Equal texts.
    """

    X: Floats
    quality: Floats
    cost: Floats
    groups: Floats

    @classmethod
    def of(cls, log: OutcomeLog) -> Problem:
        """Embed a log."""
        texts = TextSet(list(log.X))
        X = texts.embeddings()[texts.rows(list(log.X))]
        return cls(X, np.asarray(log.quality), np.asarray(log.cost), query_groups(log))

    def rows(self, picked: Floats) -> Problem:
        """Some of the queries."""
        return Problem(self.X[picked], self.quality[picked], self.cost[picked], self.groups[picked])

    def pair(self) -> Problem:
        """Two arms as RouteLLM has them: the best one, and the best of those at a tenth of its cost, else the cheapest."""
        quality, cost = self.quality.mean(axis=0), self.cost.mean(axis=0)
        strong = int(quality.argmax())
        cheap = np.flatnonzero(cost <= cost[strong] / 10.0)
        weak = int(cheap[quality[cheap].argmax()]) if len(cheap) else int(cost.argmin())
        arms = [weak, strong]
        return Problem(self.X, self.quality[:, arms], np.tile([0.0, 1.0], (len(self.X), 1)), self.groups)

    def order(self, rule: str) -> Floats:
        """Arms in the order in which a tie goes to them."""
        return np.argsort(self.cost.mean(axis=0) if rule == "cost" else -self.quality.mean(axis=0), kind="stable")
