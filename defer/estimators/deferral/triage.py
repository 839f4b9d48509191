"""Learning under triage: a classifier that is trained on the queries it will keep, under a limit on how many it hands over.

Source: Okati, De, Gomez-Rodriguez 2021, "Differentiable learning under triage"; the rule at a given rate is the
Neyman-Pearson argument for two agents.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.frozen import FrozenEstimator

from defer.estimators.base import check_cost_weight, column_means
from defer.estimators.deferral.answers import ExpertAnswers
from defer.estimators.deferral.expert_outcomes import outcome_weights
from defer.estimators.deferral.own_model import (
    OwnModel,
    check_cv,
    check_model,
    cross_fitted_probability,
    fit_own,
    take_sparse,
)
from defer.estimators.deferral.parameter_checks import check_counts, seed_of
from defer.estimators.deferral.pricing import PricedDeferral
from defer.estimators.deferral.query_features import as_features
from defer.estimators.deferral.right_model import check_unit_quality, fit_right, logistic
from defer.estimators.deferral.score_features import Features, check_features, deferral_features
from defer.estimators.outcomes_input import Outcomes
from defer.exceptions import RouterInputError
from defer.portfolios.assignment import Choice, best_arm
from defer.portfolios.limits import Limit, Share

__all__ = ["LearnedTriage", "triage_threshold"]

Floats = NDArray[np.float64]

# Advantages closer than this to each other are ties: they are differences of rounded predictions.
_TIE = 1e-9


def triage_threshold(
    advantage: ArrayLike, rate: float, *, weight: ArrayLike | None = None, extra: ArrayLike | None = None
) -> tuple[float, float]:
    """Threshold of the best rule that defers at most a given share of the queries.

    Defer above the threshold, and at it with the probability that is returned.  That defers exactly
    min(rate, P(advantage > 0)): the queries of largest positive advantage.

    Parameters
    ----------
    advantage : array of shape (n,)
        Quality of the expert less the own quality.
    rate : float
        In (0, 1]: share of the weight that may be deferred; with `extra`, what may be spent per query.
    weight : array of shape (n,), optional
        Of the queries, >= 0.
    extra : array of shape (n,), optional
        Extra cost of deferring each query, > 0.  Then queries are taken in order of advantage / extra, to which the
        threshold refers, until they have spent `rate` per query.

    Returns
    -------
    threshold, probability : float
        0, 0 where the limit does not bind; halfway between two neighbours where the limit falls between them.

    Raises
    ------
    RouterInputError
        If shapes do not match, a weight is negative, or an extra cost or the rate is not positive.

    Examples
    --------
    >>> triage_threshold([0.3, 0.3, 0.1, -0.2], 0.25)
    (0.3, 0.5)
    """
    advantage = np.asarray(advantage, dtype=np.float64)
    mass = np.ones(len(advantage)) if weight is None else np.asarray(weight, dtype=np.float64)
    price = np.ones(len(advantage)) if extra is None else np.asarray(extra, dtype=np.float64)
    if not advantage.shape == mass.shape == price.shape or advantage.ndim != 1 or not np.isfinite(advantage).all():
        raise RouterInputError(
            f"triage: advantage, weight and extra must be finite and of one shape (n,), got {advantage.shape}, {mass.shape} "
            f"and {price.shape}"
        )
    if not (mass >= 0).all() or not mass.any() or not (price > 0).all() or not rate > 0:
        raise RouterInputError(f"triage: weight must be >= 0 and not all 0, extra > 0 and rate > 0, got rate {rate!r}")
    allowed = rate * mass.sum()
    falling = np.argsort(-advantage / price, kind="stable")
    value = (advantage / price)[falling]
    first = np.flatnonzero(np.diff(value, prepend=np.inf) < -_TIE)
    spent = np.add.reduceat((mass * price)[falling], first)
    value, total = value[first], np.cumsum(spent)
    # Equality is what is wanted of a rate such as 0.2 of 10 queries, whatever its last bit.
    slack = 1e-12 * max(allowed, total[-1])
    positive = int(np.count_nonzero(value > 0))
    if positive == 0 or total[positive - 1] <= allowed + slack:
        return 0.0, 0.0
    last = int(np.flatnonzero(total > allowed + slack)[0])
    left = allowed - (total[last - 1] if last else 0.0)
    if left <= slack and last:
        return float((value[last - 1] + value[last]) / 2.0), 0.0
    return float(value[last]), float(left / spent[last])


@dataclass(frozen=True, eq=False)
class _Round:
    """One step of the alternation."""

    kept: NDArray[np.bool_]
    outcomes: Outcomes
    models: list[Any]
    advantage: Floats
    threshold: float
    fraction: float
    value: float


class LearnedTriage(PricedDeferral):
    """Train the classifier on the queries that it will keep, and defer those that gain most, up to a rate.

    Alternates between two steps, as often as `n_rounds` says or until nothing changes: fit the base on the queries that are
    kept; then defer the queries whose advantage, P(expert right | x) - P(own right | x) less the price of asking, is
    largest and positive, up to the rate.  The round whose system does best on the folds that its base did not see is kept;
    the first of them is the ordinary classifier, so that giving queries up is chosen only where it helps.

    Parameters
    ----------
    rate : float, default=0.2
        Largest share of queries that is deferred, in (0, 1].  The share is min(rate, P(advantage > 0)).
    base : classifier, optional
        Gives the own answer; default `LogisticRegression`.  A `FrozenEstimator` is used as it is, and there is one round.
    triage_model : classifier, optional
        P(right | features), cloned for the own answer and for each expert; default `LogisticRegression`.
    features : {"both", "queries", "scores", "confidence"}, default="both"
        What the triage model sees, as for `PostHocDeferral`.  Unlike there the query is part of it by default: under a rate
        queries compete with each other, and the policy of the source is a function of the query.
    n_rounds : int, default=5
    cv : int, splitter or list of (train, test), default=5
        Folds in which the own answers are judged.
    cost_weight : float, default=0.0
        Quality given up per US dollar.
    random_state : int, Generator, RandomState instance or None
        Shuffles the folds.

    Attributes
    ----------
    arms_, expert_, label_classes_
        As for `BaseDeferral`.
    base_ : OwnModel or None
        None if it was fitted without `experts`: then only the rule is learned, and the first arm counts as own.
    models_ : list of m fitted models
        P(right | features) of own and of each expert.
    threshold_ : float
        Advantage above which a query is deferred, max(0, (1 - rate)-quantile on the training queries).
    fraction_ : float
        Probability with which a query is deferred whose advantage is the threshold.
    n_rounds_ : int
        Rounds that were made.
    round_ : int
        The one that was kept, from 0.
    limit_ : Share
        Keeps the rate exactly on a batch: ``route(X, limit=router.limit_)``.

    Notes
    -----
    `predict`, and `route` without a limit, use the fitted threshold: what happens to a query does not depend on the others,
    and the rate holds on average over queries like those of `fit`.  `route` randomises at the threshold, `predict` keeps
    what is tied.  ``route(X, limit=router.limit_)`` keeps the rate on the batch itself, randomised at ties; any other limit
    takes the place of the rate.  Under a `Budget` queries are taken by advantage per US dollar.  Another ``cost_weight``
    needs another fit: the rate binds elsewhere, and other queries are kept.

    References
    ----------
    Okati, De, Gomez-Rodriguez 2021, NeurIPS.

    Examples
    --------
    >>> X = np.array([[-2.0], [-1.0], [1.0], [2.0]] * 20)
    >>> y = np.array([0, 0, 1, 1, 0, 0, 1, 0] * 10)  # at 2 the query does not tell the label
    >>> expert = np.where(X[:, 0] == 2.0, y, 0)
    >>> router = LearnedTriage(0.25, random_state=0).fit(X, y, experts=expert)
    >>> router.route(X, limit=router.limit_, random_state=0).load.tolist()
    [0.75, 0.25]
    """

    base_: Any

    def __init__(
        self,
        rate: float = 0.2,
        base: Any = None,
        *,
        triage_model: Any = None,
        features: Features = "both",
        n_rounds: int = 5,
        cv: Any = 5,
        cost_weight: float = 0.0,
        random_state: Any = None,
    ) -> None:
        self.rate = rate
        self.base = base
        self.triage_model = triage_model
        self.features = features
        self.n_rounds = n_rounds
        self.cv = cv
        self.cost_weight = cost_weight
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = take_sparse(self.base, self.triage_model)
        tags.classifier_tags.poor_score = True  # it may not defer as often as would be right
        return tags

    @property
    def limit_(self) -> Share:
        """Limit that keeps the rate on a batch."""
        return Share(self.arms_[0].item(), at_least=1.0 - self.rate)

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        model = self._checked_model(outcomes)
        check_unit_quality("LearnedTriage", outcomes)
        found = self._round(model, as_features(X, owner="LearnedTriage"), outcomes)
        self._keep(None, [found], 0)

    def _fit_answers(self, X: Any, answers: ExpertAnswers, outcomes: Outcomes) -> None:
        check_cost_weight(self)
        model, base = self._checked_model(outcomes), logistic() if self.base is None else self.base
        weight, seed = outcomes.sample_weight, seed_of(self.random_state)
        kept, rounds = np.ones(len(answers.label), dtype=bool), list[_Round]()
        while len(rounds) < self.n_rounds:
            seen = cross_fitted_probability(base, X, answers, cv=self.cv, weight=weight, fit_on=kept, random_state=seed)
            right = (seen.argmax(axis=1) == answers.label).astype(float)
            told = replace(outcomes, quality=np.column_stack([right, answers.right]))
            features = deferral_features(X, seen, features=self.features, owner="LearnedTriage")
            rounds.append(self._round(model, features, told, kept))
            kept = rounds[-1].advantage <= rounds[-1].threshold
            if isinstance(base, FrozenEstimator) or any((kept == done.kept).all() for done in rounds):
                break
        best = max(range(len(rounds)), key=lambda index: (rounds[index].value, -index))
        own = fit_own(base, X, answers, weight=weight, rows=np.flatnonzero(rounds[best].kept))
        self._fit_outcomes(X, rounds[best].outcomes, learn=lambda *_: self._keep(own, rounds, best))

    def _round(self, model: Any, features: Any, outcomes: Outcomes, kept: NDArray[np.bool_] | None = None) -> _Round:
        """Fit the triage model and the threshold to given own answers, and value the system that they make."""
        weight, quality = outcome_weights(outcomes), outcomes.quality
        n, m = quality.shape
        models = [fit_right(model, features, quality[:, arm], weight[:, arm]) for arm in range(m)]
        predicted = np.column_stack([fitted.predict(features) for fitted in models])
        price = self._own_cost_weight * column_means(outcomes.cost, outcomes.weight, m)
        row = np.ones(n) if outcomes.weight is None else outcomes.weight
        kept = np.ones(n, dtype=bool) if kept is None else kept
        if m == 1:
            return _Round(kept, outcomes, models, np.full(n, -np.inf), 0.0, 0.0, 0.0)
        gain = _gain(predicted - price)
        best, index = gain.argmax(axis=1) + 1, np.arange(n)
        advantage = gain[index, best - 1]
        threshold, fraction = triage_threshold(advantage, self.rate, weight=row)
        # Where the outcome that would be taken was not observed, its prediction stands in.
        realised = np.where(np.isfinite(quality), quality, predicted) - price
        defers = np.where(advantage > threshold, 1.0, np.where(advantage >= threshold - _TIE, fraction, 0.0))
        value = float(row @ (realised[:, 0] + defers * (realised[index, best] - realised[:, 0])) / row.sum())
        return _Round(kept, outcomes, models, advantage, threshold, fraction, value)

    def _keep(self, own: OwnModel | None, rounds: list[_Round], best: int) -> None:
        self.base_, self.models_ = own, rounds[best].models
        self.threshold_, self.fraction_ = rounds[best].threshold, rounds[best].fraction
        self.n_rounds_, self.round_ = len(rounds), best

    def advantage(self, X: Any) -> Floats:
        """Utility of the best expert less the own one, by prediction and before the threshold, shape (n,).

        Parameters
        ----------
        X : n queries
        """
        quality, cost = self._predict(X)
        utility = super()._utility(quality, cost)
        return _gain(utility).max(axis=1) if utility.shape[1] > 1 else np.full(len(utility), -np.inf)

    def _predict_quality(self, X: Any) -> Floats:
        if self.base_ is None:
            features = as_features(X, owner="LearnedTriage")
        else:
            features = deferral_features(X, self.base_.probability(X), features=self.features, owner="LearnedTriage")
        return np.column_stack([model.predict(features) for model in self.models_])

    def _predict_own(self, X: Any) -> NDArray[np.intp]:
        return self.base_.probability(X).argmax(axis=1)

    def _utility(self, quality: Floats, cost: Floats) -> Floats:
        """Utility with the threshold as a price of deferring: what is not above it keeps its own answer."""
        utility = super()._utility(quality, cost)
        if self.threshold_ == 0.0 or utility.shape[1] == 1:
            return utility
        return np.column_stack([utility[:, 0], utility[:, :1] + (_gain(utility) - self.threshold_)])

    def _choose(self, utility: Floats, quality: Floats, cost: Floats, limit: Limit | None) -> Choice:
        if limit is not None or self.fraction_ == 0.0:
            return super()._choose(utility, quality, cost, limit)
        free, gain = best_arm(utility, cost), _gain(utility)
        tied = np.abs(gain.max(axis=1)) <= _TIE
        return Choice(
            np.where(tied, 0, free), np.where(tied, gain.argmax(axis=1) + 1, free), self.fraction_, self.threshold_
        )

    def _checked_model(self, outcomes: Outcomes) -> Any:
        """The triage model, if all parameters are allowed."""
        if not isinstance(self.rate, Real) or isinstance(self.rate, bool) or not 0.0 < self.rate <= 1.0:
            raise RouterInputError(f"LearnedTriage: rate must be a number in (0, 1], got {self.rate!r}")
        check_counts("LearnedTriage", n_rounds=self.n_rounds)
        check_cv("LearnedTriage", self.cv)
        check_features("LearnedTriage", self.features)
        model = logistic() if self.triage_model is None else self.triage_model
        check_model("LearnedTriage", "base", logistic() if self.base is None else self.base)
        check_model("LearnedTriage", "triage_model", model)
        self._fix_cost_weight(outcomes, learned=True)
        return model


def _gain(utility: Floats) -> Floats:
    """Utility of every expert less the own one, shape (n, m - 1)."""
    return utility[:, 1:] - utility[:, :1]
