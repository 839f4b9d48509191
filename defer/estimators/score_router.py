"""Routers whose source gives scores of arms, not qualities: the source's choice is kept, and scores get the unit of quality.

A price, a budget and a report need qualities that can be weighed against US dollars.  One increasing map does it for all
arms of a query: least squares of the quality an arm has beyond the mean arm on the score it has beyond the mean score.
Scores of queries that were learned from are too far apart for it, so that it is fitted on scores of queries held out.
"""

from __future__ import annotations

import copy
import warnings
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import _safe_indexing
from sklearn.utils.metaestimators import available_if

from defer.estimators.base import BaseRouter
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.queries import is_numeric_input, text_groups
from defer.estimators.routers.query_folds import query_codes, query_folds

__all__ = ["QualityScale", "ScoreRouter"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

# Where scores say nothing of quality, or the reverse of it, they still decide between arms, at next to no price.
_LEAST_SLOPE = 1e-9
_FOLDS, _MOST_HELD_OUT = 3, 2
# Different queries that settle a slope, and so few that a third of them says nothing of it.
_ENOUGH_QUERIES, _FEW_QUERIES = 1000, 20


@dataclass(frozen=True)
class QualityScale:
    """quality = level + slope * (score - mean score of the query).

    Attributes
    ----------
    level : float
        Mean of the mean observed qualities of the arms.
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
        """Least squares over the observed outcomes.

        Rows that show several arms have an intercept each.  Rows that show one are compared with each other, every arm counting
        alike however often it was logged: they are read as missing at random up to `weight`, and then say the same as rows
        observed in full.  The two kinds are added up, so that a row of one kind more or less changes little.

        Parameters
        ----------
        scores : array of shape (n, m)
            Of queries that they were not fitted on; scores that remember their query make the slope too steep.
        quality : array of shape (n, m), NaN = not observed
        weight : array of shape (n,) or None
        """
        seen = np.isfinite(quality)
        mass = np.ones(len(quality)) if weight is None else weight
        values = np.where(seen, quality, 0.0)
        count = seen.sum(axis=1)
        above, total = _among_arms(scores[count > 1], values[count > 1], seen[count > 1], mass[count > 1])
        more = _among_queries(scores[count == 1], values[count == 1], seen[count == 1], mass[count == 1])
        above, total = above + more[0], total + more[1]
        slope = above / total if total > 0 else 0.0
        return cls(float(_arm_means(values, seen, mass).mean()), max(slope, _LEAST_SLOPE))

    def quality(self, scores: Floats) -> Floats:
        """Quality of every arm, shape (n, m); the order of the arms, ties included, is that of their scores."""
        return self.level + self.slope * (scores - scores.mean(axis=1, keepdims=True))


def _arm_means(values: Floats, seen: NDArray[np.bool_], mass: Floats) -> Floats:
    """Weighted mean of every arm that a row of positive weight shows."""
    weight = mass @ seen
    return np.asarray((mass @ values)[weight > 0] / weight[weight > 0])


def _among_arms(scores: Floats, values: Floats, seen: NDArray[np.bool_], mass: Floats) -> tuple[float, float]:
    """Weighted products of what outcomes and scores have beyond their query's mean, and squares of the latter."""
    count = seen.sum(axis=1)
    beyond = np.where(seen, values - (values.sum(axis=1) / count)[:, None], 0.0)
    spread = np.where(seen, scores - (np.where(seen, scores, 0.0).sum(axis=1) / count)[:, None], 0.0)
    return float(mass @ (spread * beyond).sum(axis=1)), float(mass @ (spread**2).sum(axis=1))


def _among_queries(scores: Floats, values: Floats, seen: NDArray[np.bool_], mass: Floats) -> tuple[float, float]:
    """The same of rows that show one arm each, as sums over all arms would have them but for their number."""
    weight = mass @ seen
    arms = np.flatnonzero(weight > 0)
    if len(arms) < 2:
        return 0.0, 0.0
    # With arms of one weight, what all arms of a query share cancels, as an intercept of every query would make it.
    even = seen[:, arms] * (weight.sum() / len(arms) / weight[arms])
    spread = scores[:, arms] - scores[:, arms].mean(axis=1, keepdims=True)
    beyond = values[:, arms] - _arm_means(values, seen, mass).mean()
    return float(mass @ (even * spread * beyond).sum(axis=1)), float(mass @ (even * spread**2).sum(axis=1))


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

    Scores are those of the fit to all queries.  The slope of `quality_scale_` alone comes from fits to two thirds of the
    different queries, which score the third that they have not seen: one such fit on a log of 3,000 different queries or more,
    two below.  It is that of a router with less data, and uncertain on a small log.  Below 20 different queries it is fitted
    to the training scores, and too steep.
    """

    # True where the scores of a query are a distribution over arms.
    _simplex = False
    quality_scale_: QualityScale

    @property
    def _leaves_out_own(self) -> bool:
        """Whether `_fit_scores` leaves a query out of its own scores, as a neighbours' vote can; nothing is fitted twice then."""
        return False

    @abstractmethod
    def _fit_scores(self, X: Any, outcomes: Outcomes) -> Floats:
        """Learn from checked input, and give the scores of the training queries, shape (n, m).

        Out of sample where scores remember their query, as a neighbour's vote does; `_leaves_out_own` is then true.
        """

    @abstractmethod
    def _predict_scores(self, X: Any) -> Floats:
        """Score of every arm, shape (n, m)."""

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        scores = self._fit_scores(X, outcomes)
        self.quality_scale_ = QualityScale.fit(scores, outcomes.quality, outcomes.weight)
        held_out = [] if self._leaves_out_own else self._held_out_scores(X, outcomes)
        if held_out:
            rows = np.concatenate([part for part, _ in held_out])
            part = outcomes.of_rows(rows)
            slope = QualityScale.fit(np.vstack([found for _, found in held_out]), part.quality, part.weight).slope
            self.quality_scale_ = replace(self.quality_scale_, slope=slope)

    def _held_out_scores(self, X: Any, outcomes: Outcomes) -> list[tuple[Rows, Floats]]:
        """Rows, and their scores by a fit to others; no rows where there are too few different queries, or arms in them."""
        seen = np.isfinite(outcomes.quality)
        counted: NDArray[np.bool_] = np.any(seen, axis=1)
        if outcomes.weight is not None:
            counted &= outcomes.weight > 0
        codes = query_codes(X) if is_numeric_input(X) else text_groups(X)
        if codes is None:
            return []
        folds = query_folds(codes, _FOLDS, counted=counted)
        held_out: list[tuple[Rows, Floats]] = []
        n_queries = 0
        if len(np.unique(codes[counted])) < _FEW_QUERIES:
            return held_out
        for fold in range(_MOST_HELD_OUT):
            train, test = (np.flatnonzero(counted & ((folds == fold) == held)) for held in (False, True))
            if not seen[train].any(axis=0).all():
                continue
            router = copy.copy(self)
            with warnings.catch_warnings():
                # The fit to all queries has warned of what holds for those to fewer.
                warnings.simplefilter("ignore", ConvergenceWarning)
                router._fit_part(X, outcomes, train)
            held_out.append((test, router._predict_scores(_safe_indexing(X, test))))
            n_queries += len(np.unique(codes[test]))
            if n_queries >= _ENOUGH_QUERIES:
                break
        return held_out

    def _fit_part(self, X: Any, outcomes: Outcomes, rows: Rows) -> None:
        """Learn from some of the training queries alone; called on a shallow copy of the router, whose scores it replaces."""
        self._fit_scores(_safe_indexing(X, rows), outcomes.of_rows(rows))

    def _predict_quality(self, X: Any) -> Floats:
        return self.quality_scale_.quality(self._predict_scores(X))

    def predict_scores(self, X: Any) -> Floats:
        """Score of every arm as the source defines it, shape (n, m)."""
        return self._predict_scores(self._check_fitted_queries(X))

    @available_if(_is_simplex)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Floats:
        """The router's distribution over arms, shape (n, m)."""
        return self.predict_scores(X)
