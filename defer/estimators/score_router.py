"""Routers whose source gives scores of arms, not qualities: the source's choice is kept, and scores get the unit of quality.

A price, a budget and a report need qualities that can be weighed against US dollars.  One increasing map does it for all
arms of a query: least squares of the quality an arm has beyond the mean arm on the score it has beyond the mean score.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.metaestimators import available_if

from defer.estimators.base import BaseRouter
from defer.estimators.outcomes_input import Outcomes

__all__ = ["QualityScale", "ScoreRouter"]

Floats = NDArray[np.float64]

# Where scores say nothing of quality, or the reverse of it, they still decide between arms, at next to no price.
_LEAST_SLOPE = 1e-9


@dataclass(frozen=True)
class QualityScale:
    """quality = level + slope * (score - mean score of the query).

    Attributes
    ----------
    level : float
        Mean observed quality.
    slope : float
        > 0.

    Examples
    --------
    >>> scale = QualityScale.fit(np.array([[0.2, 0.8], [0.6, 0.4]]), np.array([[0.0, 1.0], [1.0, 0.0]]), None)
    >>> scale.quality(np.array([[0.5, 0.5], [0.3, 0.7]])).round(6).tolist()
    [[0.5, 0.5], [0.1, 0.9]]
    """

    level: float
    slope: float

    @classmethod
    def fit(cls, scores: Floats, quality: Floats, weight: Floats | None) -> QualityScale:
        """Least squares over the observed outcomes, with an intercept of every query, or one where each shows a single arm.

        Parameters
        ----------
        scores : array of shape (n, m)
            Best of queries that they were not fitted on; scores that remember their query make the slope too steep.
        quality : array of shape (n, m), NaN = not observed
        weight : array of shape (n,) or None
        """
        seen = np.isfinite(quality)
        mass = np.ones(len(quality)) if weight is None else weight
        values = np.where(seen, quality, 0.0)
        count = np.maximum(seen.sum(axis=1), 1)
        level = float(mass @ values.sum(axis=1) / (mass @ seen.sum(axis=1)))
        beyond = np.where(seen, values - (values.sum(axis=1) / count)[:, None], 0.0)
        spread = np.where(seen, scores - (np.where(seen, scores, 0.0).sum(axis=1) / count)[:, None], 0.0)
        if not (count > 1).any():
            # Of a bandit log every query shows one arm: what lies beyond the mean arm is compared between queries.
            beyond = np.where(seen, values - level, 0.0)
            spread = np.where(seen, scores - scores.mean(axis=1, keepdims=True), 0.0)
        total = float(mass @ (spread**2).sum(axis=1))
        slope = float(mass @ (spread * beyond).sum(axis=1)) / total if total > 0 else 0.0
        return cls(level, max(slope, _LEAST_SLOPE))

    def quality(self, scores: Floats) -> Floats:
        """Quality of every arm, shape (n, m); the order of the arms, ties included, is that of their scores."""
        return self.level + self.slope * (scores - scores.mean(axis=1, keepdims=True))


def _is_simplex(router: ScoreRouter) -> bool:
    return router._simplex


class ScoreRouter(BaseRouter):
    """Base of routers that learn scores of arms.

    Attributes
    ----------
    quality_scale_ : QualityScale
        Puts scores on the scale of quality without changing which arm is best.

    Notes
    -----
    A subclass writes `_fit_scores` and `_predict_scores`.
    """

    # True where the scores of a query are a distribution over arms.
    _simplex = False

    quality_scale_: QualityScale

    @abstractmethod
    def _fit_scores(self, X: Any, outcomes: Outcomes) -> Floats:
        """Learn from checked input, and give the scores of the training queries, shape (n, m).

        Out of sample where scores remember their query, as a neighbour's vote does.
        """

    @abstractmethod
    def _predict_scores(self, X: Any) -> Floats:
        """Score of every arm, shape (n, m)."""

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        scores = self._fit_scores(X, outcomes)
        self.quality_scale_ = QualityScale.fit(scores, outcomes.quality, outcomes.weight)

    def _predict_quality(self, X: Any) -> Floats:
        return self.quality_scale_.quality(self._predict_scores(X))

    def predict_scores(self, X: Any) -> Floats:
        """Score of every arm as the source defines it, shape (n, m)."""
        return self._predict_scores(self._check_fitted_queries(X))

    @available_if(_is_simplex)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Floats:
        """The router's distribution over arms, shape (n, m)."""
        return self.predict_scores(X)
