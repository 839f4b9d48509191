"""Routers that are fitted to labels on the simplex: which queries have a label, what fills their gaps, and the fit itself.

A label compares arms.  A query on which no arm was measured has none and is left out.  A share that is 0 because its arm was
not measured says how often arms were measured, not how good they are: of a query on which a single arm was measured, as in a
bandit log, the masked label is always the arm that was logged.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from defer.estimators.deferral.query_features import as_features
from defer.estimators.deferral.score_learner import ClassifierForm, ScoreLearner, Scores
from defer.estimators.deferral.score_problem import ScoreProblem
from defer.estimators.inner_model import fit_clone
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.score_router import QualityScale, ScoreRouter
from defer.exceptions import RouterInputError
from defer.losses.distillation import DIVERGENCES, LEAST_SHARE
from defer.losses.multiclass import softmax

__all__ = ["MISSING_LABELS", "LabelRouter", "LabelRows", "fit_shares", "label_rows", "shares_of"]

Floats = NDArray[np.float64]

MISSING_LABELS = ("impute", "mask")


@dataclass(frozen=True, eq=False)
class LabelRows:
    """The queries that have a label.

    Attributes
    ----------
    X : array or csr matrix of k rows
    outcomes : Outcomes
        Of these queries, gaps filled where they are.
    score : array of shape (k, m)
        What labels are made of; NaN = not measured, at least two of a row are.
    predicted : array of shape (k, m) or None
        Scores that fill the gaps of `score`; NaN in rows that have none, or whose gaps stay.
    kept : int array of shape (k,)
        Which of the training queries they are.
    n_dropped : int
        Queries of positive weight on which nothing was measured.
    """

    X: Any
    outcomes: Outcomes
    score: Floats
    predicted: Floats | None
    kept: NDArray[np.intp]
    n_dropped: int

    @property
    def weight(self) -> Floats:
        """Weight of every query, shape (k,)."""
        return np.ones(len(self.kept)) if self.outcomes.weight is None else self.outcomes.weight

    def of_rows(self, rows: NDArray[np.intp]) -> LabelRows:
        """These queries alone."""
        predicted = None if self.predicted is None else self.predicted[rows]
        return replace(
            self, X=self.X[rows], outcomes=self.outcomes.of_rows(rows), score=self.score[rows], predicted=predicted,
            kept=self.kept[rows],
        )  # fmt: skip

    def labels(self, shares: Callable[[Floats], Floats]) -> Floats:
        """Labels of the queries, shape (k, m).

        An arm that was not measured gets the share that the predicted scores of all arms give it, and the measured ones divide
        the rest as they would without it.  A gap is thus never compared with single outcomes, whose noise it has not.

        Parameters
        ----------
        shares : callable
            Makes labels of scores, over the arms that are not NaN.
        """
        own = shares(self.score)
        if self.predicted is None:
            return own
        gap = np.isnan(self.score) & np.isfinite(self.predicted)
        rows = np.flatnonzero(gap.any(axis=1))
        given = np.where(gap[rows], shares(self.predicted[rows]), 0.0)
        own[rows] = own[rows] * (1.0 - given.sum(axis=1, keepdims=True)) + given
        return own


class LabelRouter(ScoreRouter):
    """Base of routers whose scores are the shares of a label.

    Attributes
    ----------
    n_dropped_ : int
        Training queries without any measurement, which were left out.

    Notes
    -----
    A subclass writes `_fit_labels` and, where labels are not made of qualities, `_label_score`.
    """

    _simplex = True

    missing: str
    n_dropped_: int

    @abstractmethod
    def _fit_labels(self, rows: LabelRows, sample: NDArray[np.intp]) -> Floats:
        """Learn from queries that have a label, and give the shares of some of them, as `ScoreRouter._fit_scores` does.

        Parameters
        ----------
        rows : LabelRows
        sample : int array of shape (s,)
            As `_scale_sample` chose them.
        """

    def _scale_sample(self, n: int) -> NDArray[np.intp]:
        """Which of n queries the slope of `quality_scale_` is fitted on."""
        return np.arange(n)

    @abstractmethod
    def _check_parameters(self) -> None:
        """Refuse parameters that are out of range, before anything is learned."""

    def _label_score(self, outcomes: Outcomes) -> Floats:
        """What labels are made of, shape (n, m), NaN = not measured."""
        return outcomes.quality

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        owner = type(self).__name__
        self._check_parameters()
        X = as_features(X, owner=owner)
        rows = label_rows(X, outcomes, self._label_score(outcomes), missing=self.missing, owner=owner)
        self.n_dropped_ = rows.n_dropped
        sample = self._scale_sample(len(rows.kept))
        self._learned_from = rows, sample
        try:
            super()._fit(rows.X[sample], rows.outcomes.of_rows(sample))
        finally:
            del self._learned_from
        if len(sample) < len(rows.kept):
            quality = rows.outcomes.quality
            level = QualityScale.fit(np.zeros(quality.shape), quality, rows.outcomes.weight).level
            self.quality_scale_ = replace(self.quality_scale_, level=level)

    def _fit_scores(self, X: Any, outcomes: Outcomes) -> Floats:
        return self._fit_labels(*self._learned_from)

    def _fit_part(self, X: Any, outcomes: Outcomes, rows: NDArray[np.intp]) -> None:
        learned, sample = self._learned_from
        self._fit_labels(learned.of_rows(sample[rows]), np.arange(len(rows)))


def label_rows(X: Any, outcomes: Outcomes, score: Floats, *, missing: str, owner: str) -> LabelRows:
    """Leave out queries without a label, and fill the gaps that masking cannot bear.

    Parameters
    ----------
    X : array or csr matrix of shape (n, d)
    outcomes : Outcomes
    score : array of shape (n, m)
        NaN = not measured.
    missing : {"impute", "mask"}
        Which queries have their gaps filled by ridge regressions of every arm's score and quality: all, or those on which one arm
        alone was measured.  Of the latter, and where propensities are given, all scores are predicted ones; a query that is filled
        then counts once.
    owner : str
        Class that asks, for messages.

    Raises
    ------
    RouterInputError
        If no query has a label, or an arm was never measured where gaps must be filled.

    Examples
    --------
    >>> from defer.estimators.outcomes_input import read_outcomes
    >>> outcomes = read_outcomes([[1.0, 0.0], [np.nan, np.nan], [1.0, np.nan]], n=3)
    >>> rows = label_rows(np.zeros((3, 1)), outcomes, outcomes.quality, missing="mask", owner="Router")
    >>> rows.kept.tolist(), rows.n_dropped, rows.score.tolist()
    ([0, 2], 1, [[1.0, 0.0], [1.0, 0.0]])
    """
    is_quality = score is outcomes.quality
    counted = np.ones(len(score), dtype=bool) if outcomes.sample_weight is None else outcomes.sample_weight > 0
    n_seen = np.isfinite(score).sum(axis=1)
    kept = np.flatnonzero(counted & (n_seen > 0))
    if not len(kept):
        raise RouterInputError(f"{owner}: none of the {len(score)} queries has a measurement that a label is made of")
    part = outcomes.of_rows(kept)
    X, score, m = X[kept], score[kept], score.shape[1]
    single = (n_seen[kept] == 1) & (m > 1)
    filled = single | ((n_seen[kept] < m) & (missing == "impute"))
    quality, weight, predicted = part.quality, part.weight, None
    if filled.any():
        predicted = _predicted(X, score, part, filled, owner=owner)
        whole = filled if part.propensity is not None else single
        score = np.where(whole[:, None], predicted, score)
        likely = predicted if is_quality else _predicted(X, quality, part, filled, owner=owner)
        gap = np.isnan(quality) if part.propensity is None else filled[:, None]
        quality = np.where(gap, likely, quality)
        if part.propensity is not None and part.weight is not None:
            once = np.ones(len(kept)) if part.sample_weight is None else part.sample_weight
            weight = np.where(filled, once, part.weight)
    return LabelRows(
        X, replace(part, quality=quality, weight=weight), score, predicted, kept,
        int(np.count_nonzero(counted & (n_seen == 0))),
    )  # fmt: skip


def fit_shares(learner: ScoreLearner, rows: LabelRows, labels: Floats, *, divergence: str, X: Any = None) -> Scores:
    """Fit the softmax of a model's scores to labels.

    A network keeps the epoch at which the mean logarithm of the label of the arm taken is best: for labels that are the softmax
    of rewards that is the mean reward, up to its scale.

    Parameters
    ----------
    learner : ScoreLearner
    rows : LabelRows
    labels : array of shape (k, m)
        Rows on the simplex.
    divergence : {"forward", "reverse"}
    X : array or csr matrix, optional
        In place of the queries of `rows`.

    Raises
    ------
    RouterInputError
        If a classifier is asked to minimise the reverse divergence.
    """
    given = np.isfinite(rows.score) | (labels > 0)
    far = np.where(given, -np.log(np.maximum(labels, LEAST_SHARE)), np.nan)

    def problem(name: str) -> ScoreProblem:
        return ScoreProblem(far, rows.weight, partial(_divergence_loss, name))

    # The reverse divergence is not convex: the forward one shows the way.
    forward = divergence == "forward"
    form = ClassifierForm(rows.weight[:, None] * labels) if forward else None
    paths = [] if forward else [[problem("forward")]]
    return learner.fit(rows.X if X is None else X, problem(divergence), form=form, paths=paths)


def shares_of(model: Scores, X: Any) -> Floats:
    """Softmax of a model's scores, shape (n, m)."""
    return np.asarray(softmax(np, model.scores(X)))


def _divergence_loss(name: str, scores: Any, far: Any, weight: Any) -> Any:
    """A divergence from labels that are given by -log, which keeps the digits of small shares; NaN = a share of 0."""
    xp = array_namespace(scores)
    return DIVERGENCES[name](scores, xp.where(xp.isnan(far), 0.0, xp.exp(-far)), weight=weight)


def _predicted(X: Any, table: Floats, part: Outcomes, rows: NDArray[np.bool_], *, owner: str) -> Floats:
    """What ridge regressions of every arm say of some rows; NaN in the others."""
    seen, found = np.isfinite(table), np.full(table.shape, np.nan)
    for arm in range(table.shape[1]):
        known = np.flatnonzero(seen[:, arm])
        if not len(known):
            raise RouterInputError(
                f"{owner}: arm {part.arms[arm].item()!r} has no query on which all that its score needs was measured; leave it out"
            )
        weight = None if part.weight is None else part.weight[known]
        found[rows, arm] = fit_clone(Ridge(), X[known], table[known, arm], weight).predict(X[rows])
    return found
