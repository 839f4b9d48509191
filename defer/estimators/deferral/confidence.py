"""Chow's rule: defer where the classifier is unsure of its own answer.  The baseline of learning to defer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.linear_model import LogisticRegression

from defer.estimators.deferral.answers import ExpertAnswers
from defer.estimators.deferral.asked_model import population_weights
from defer.estimators.deferral.expert_outcomes import outcome_weights
from defer.estimators.deferral.own_model import check_cv, check_model, cross_fitted_probability, fit_own, take_sparse
from defer.estimators.deferral.parameter_checks import check_flags
from defer.estimators.deferral.pricing import PricedDeferral
from defer.estimators.deferral.query_features import as_features
from defer.estimators.deferral.right_model import check_unit_quality, fit_right, logistic
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.queries import n_queries

__all__ = ["ConfidenceDeferral"]

Floats = NDArray[np.float64]


class ConfidenceDeferral(PricedDeferral):
    """Defer where the largest probability of the classifier is low.

    Own quality is the largest probability of the base, and each expert has one quality for all queries, the share of its
    answers that are right.  With a calibrated base and an expert who is always right at a constant cost c, it defers exactly
    where max_y p(y | x) < 1 - c.  The rule is optimal where the experts are equally good everywhere; a specialist needs a
    model of its own, as `PostHocDeferral` has.  One fit serves every ``cost_weight`` and every limit.

    Parameters
    ----------
    base : classifier, optional
        Gives the own answer; default `LogisticRegression`.  A `FrozenEstimator` is used as it is.
    calibrated : bool, default=False
        Pass the largest probability through a logistic curve in its log-odds (Platt scaling), fitted to whether the answer
        is right.  It changes no answer, only when one is trusted.
    cv : int, splitter or list of (train, test), default=5
        Folds in which the curve gets probabilities of queries that the base has not seen; as for `PostHocDeferral`, also for
        ``groups``.
    cost_weight : float, default=0.0
        Quality given up per US dollar.
    random_state : int, Generator, RandomState instance or None
        Shuffles the folds.

    Attributes
    ----------
    arms_, expert_, label_classes_
        As for `BaseDeferral`.
    base_ : OwnModel or None
        None if it was fitted without `experts`: then a model of the quality of the first arm takes its place.
    own_quality_ : ExpectedGrade or None
        That model.
    mean_quality_ : array of shape (m,)
        Used for all arms but the first.
    calibration_ : LogisticRegression or None

    Notes
    -----
    Where an expert was not asked on every query its quality is the mean weighted by inverse propensity.  Without propensities
    answers are taken to be missing at random given the query: P(asked | x) is estimated by a logistic regression, or, where the
    queries are no table of numbers, by the share of them on which the expert was asked.

    References
    ----------
    Chow 1970, "On optimum recognition error and reject tradeoff".

    Examples
    --------
    >>> X = np.array([[-2.0], [-1.0], [0.0], [0.0], [1.0], [2.0]])
    >>> y, expert = [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0]
    >>> router = ConfidenceDeferral().fit(X, y, experts=expert)
    >>> router.predict([[-9.0], [0.0]]).tolist()
    ['own', 'expert']
    """

    base_: Any
    own_quality_: Any
    calibration_: Any

    def __init__(
        self,
        base: Any = None,
        *,
        calibrated: bool = False,
        cv: Any = 5,
        cost_weight: float = 0.0,
        random_state: Any = None,
    ) -> None:
        self.base = base
        self.calibrated = calibrated
        self.cv = cv
        self.cost_weight = cost_weight
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = take_sparse(self.base)
        tags.classifier_tags.poor_score = True
        return tags

    def _base(self) -> Any:
        return logistic() if self.base is None else self.base

    def _check_parameters(self, outcomes: Outcomes) -> None:
        check_model("ConfidenceDeferral", "base", self._base())
        check_flags("ConfidenceDeferral", calibrated=self.calibrated)
        check_cv("ConfidenceDeferral", self.cv)
        self._fix_cost_weight(outcomes, learned=False)

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        self._check_parameters(outcomes)
        check_unit_quality("ConfidenceDeferral", outcomes)
        weight = outcome_weights(outcomes)
        X = as_features(X, owner="ConfidenceDeferral")
        self.base_, self.calibration_ = None, None
        self.own_quality_ = fit_right(self._base(), X, outcomes.quality[:, 0], weight[:, 0])
        self._fit_means(outcomes.quality, population_weights(X, outcomes))

    def _fit_answers(self, X: Any, answers: ExpertAnswers, outcomes: Outcomes) -> None:
        base, weight = self._base(), outcomes.sample_weight
        self._check_parameters(outcomes)
        own = fit_own(base, X, answers, weight=weight)
        if self.calibrated:
            seen = cross_fitted_probability(base, X, answers, cv=self.cv, weight=weight, random_state=self.random_state)
        else:
            seen = own.probability(X)
        right = (seen.argmax(axis=1) == answers.label).astype(float)
        outcomes = replace(outcomes, quality=np.column_stack([right, answers.right]))

        def learn(X: Any, outcomes: Outcomes) -> None:
            self.base_, self.own_quality_, self.calibration_ = own, None, None
            if self.calibrated and 0.0 < right.mean() < 1.0:
                curve = LogisticRegression(C=1e6, tol=1e-8)
                self.calibration_ = curve.fit(_log_odds(seen), right > 0, sample_weight=weight)
            self._fit_means(outcomes.quality, population_weights(X, outcomes))

        self._fit_outcomes(X, outcomes, learn=learn)

    def _fit_means(self, quality: Floats, weight: Floats) -> None:
        mean = (np.where(weight > 0, quality, 0.0) * weight).sum(axis=0) / weight.sum(axis=0)
        # Rounding must not put the mean of one constant above it.
        seen = weight > 0
        low, high = (np.where(seen, quality, empty) for empty in (np.inf, -np.inf))
        self.mean_quality_ = np.clip(mean, low.min(axis=0), high.max(axis=0))

    def _predict_quality(self, X: Any) -> Floats:
        quality = np.tile(self.mean_quality_, (n_queries(X), 1))
        if self.base_ is None:
            quality[:, 0] = self.own_quality_.predict(as_features(X, owner="ConfidenceDeferral"))
            return quality
        probability = self.base_.probability(X)
        quality[:, 0] = probability.max(axis=1)
        if self.calibration_ is not None:
            quality[:, 0] = self.calibration_.predict_proba(_log_odds(probability))[:, 1]
        return quality

    def _predict_own(self, X: Any) -> NDArray[np.intp]:
        return self.base_.probability(X).argmax(axis=1)


def _log_odds(probability: Floats) -> Floats:
    # A probability of 1 has infinite log-odds; beyond this the curve is flat anyway.
    return np.asarray(logit(np.clip(probability.max(axis=1, keepdims=True), 1e-12, 1.0 - 1e-12)))
