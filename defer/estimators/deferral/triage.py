"""Learning under triage: a classifier that is trained on the queries it will keep, under a limit on how many it hands over.

Source: Okati, De, Gomez-Rodriguez 2021, "Differentiable learning under triage".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.frozen import FrozenEstimator
from sklearn.utils import _safe_indexing

from defer.estimators.base import check_cost_weight, column_means
from defer.estimators.deferral.answers import ExpertAnswers
from defer.estimators.deferral.expert_outcomes import outcome_weights
from defer.estimators.deferral.own_model import (
    Fold,
    OwnModel,
    check_cv,
    check_model,
    cross_fitted_probability,
    fit_own,
    splits,
    take_sparse,
)
from defer.estimators.deferral.parameter_checks import check_counts, seed_of
from defer.estimators.deferral.pricing import PricedDeferral
from defer.estimators.deferral.query_features import as_features
from defer.estimators.deferral.right_model import check_unit_quality, cross_fitted_right, fit_right, logistic
from defer.estimators.deferral.score_features import Features, check_features, deferral_features
from defer.estimators.deferral.triage_rule import (
    ROUNDING,
    TIE,
    deferred_share,
    folds_of_copies,
    is_atom,
    triage_threshold,
)
from defer.estimators.outcomes_input import Outcomes
from defer.exceptions import RouterInputError
from defer.portfolios.assignment import Choice, best_arm
from defer.portfolios.limits import Limit, Share

__all__ = ["LearnedTriage", "triage_threshold"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Round:
    """One step of the alternation; what was predicted was so for queries that the triage model had not seen.

    `reward` is what the system earned on every query.
    """

    kept: NDArray[np.bool_]
    outcomes: Outcomes
    features: Any
    advantage: Floats
    threshold: float
    reward: Floats


class LearnedTriage(PricedDeferral):
    """Train the classifier on the queries that it will keep, and defer those that gain most, up to a rate.

    Alternates between two steps, as often as `n_rounds` says or until nothing changes: fit the base on the queries that are
    kept; then defer the queries whose advantage, P(expert right | x) - P(own right | x) less the price of asking, is
    largest and positive, up to the rate.  The round whose system does best on folds that neither its base nor its triage
    model saw is kept; the first of them is the ordinary classifier, and a later one must do better by more than one standard
    error of the difference, so that giving queries up is chosen only where it helps.

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
        Folds in which the own answers are judged; as for `PostHocDeferral`, also for ``groups``.
    cost_weight : float, default=0.0
        Quality given up per US dollar.
    random_state : int, Generator, RandomState instance or None
        Shuffles the folds.  Of a table of outcomes they are shuffled alike in every fit where it is None.

    Attributes
    ----------
    arms_, expert_, label_classes_
        As for `BaseDeferral`.
    base_ : OwnModel or None
        None if it was fitted without `experts`: then only the rule is learned, and the first arm counts as own.
    models_ : list of m fitted models
        P(right | features) of own and of each expert.
    threshold_ : float
        Advantage above which a query is deferred, max(0, (1 - rate)-quantile on the training queries).  Of queries that make
        up two in a hundred of them or more it is the advantage as the router tells it, of others that on the folds.
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
        X = as_features(X, owner="LearnedTriage")
        self._keep(None, X, model, [self._round(model, X, outcomes, self._table_folds(X, outcomes))], 0)

    def _fit_answers(self, X: Any, answers: ExpertAnswers, outcomes: Outcomes) -> None:
        check_cost_weight(self)
        model, base = self._checked_model(outcomes), logistic() if self.base is None else self.base
        weight, n = outcomes.sample_weight, len(answers.label)
        kept, rounds = np.ones(n, dtype=bool), list[_Round]()
        folds = self._folds(X, answers.label, answers.group)
        while len(rounds) < self.n_rounds:
            seen = cross_fitted_probability(base, X, answers, cv=folds, weight=weight, fit_on=kept)
            right = (seen.argmax(axis=1) == answers.label).astype(float)
            told = replace(outcomes, quality=np.column_stack([right, answers.right]))
            features = deferral_features(X, seen, features=self.features, owner="LearnedTriage")
            rounds.append(self._round(model, features, told, folds, kept))
            kept = rounds[-1].advantage <= rounds[-1].threshold
            if isinstance(base, FrozenEstimator) or any((kept == done.kept).all() for done in rounds):
                break
        best = _best(rounds, np.ones(n) if weight is None else weight)
        own = fit_own(base, X, answers, weight=weight, rows=np.flatnonzero(rounds[best].kept))
        self._fit_outcomes(X, rounds[best].outcomes, learn=lambda X, _: self._keep(own, X, model, rounds, best))

    def _folds(self, X: Any, label: NDArray[np.intp], group: NDArray[np.intp] | None = None) -> list[Fold]:
        """The splits for own answers and triage model alike; none of a single query."""
        if len(label) < 2:
            return []
        return list(splits(self.cv, X, label, group=group, random_state=seed_of(self.random_state)))

    def _table_folds(self, X: Any, outcomes: Outcomes) -> list[Fold]:
        """Folds of the queries of a table of outcomes; they are shuffled alike in every fit unless there is a random state."""
        n = len(outcomes.quality)
        if not isinstance(self.cv, Integral):
            best = np.where(np.isfinite(outcomes.quality), outcomes.quality, -np.inf).argmax(axis=1)
            return self._folds(X, best, self._groups)
        weight = np.ones(n) if outcomes.sample_weight is None else outcomes.sample_weight
        seed = 0 if self.random_state is None else seed_of(self.random_state)
        return folds_of_copies(X, weight, int(self.cv), group=self._groups, seed=seed)

    def _round(
        self, model: Any, features: Any, outcomes: Outcomes, folds: list[Fold], kept: NDArray[np.bool_] | None = None
    ) -> _Round:
        """The threshold for given own answers, and what the system that they make earns, by cross-fitted predictions."""
        weight, quality = outcome_weights(outcomes), outcomes.quality
        n, m = quality.shape
        kept = np.ones(n, dtype=bool) if kept is None else kept
        if m == 1:
            return _Round(kept, outcomes, features, np.full(n, -np.inf), 0.0, np.zeros(n))
        predicted = np.column_stack(
            [cross_fitted_right(model, features, quality[:, arm], weight[:, arm], folds) for arm in range(m)]
        )
        price = self._own_cost_weight * column_means(outcomes.cost, outcomes.weight, m)
        gain = _gain(predicted - price)
        best, index = gain.argmax(axis=1) + 1, np.arange(n)
        advantage = gain[index, best - 1]
        threshold, fraction = triage_threshold(advantage, self.rate, weight=outcomes.sample_weight)
        # Where the outcome that would be taken was not observed, its prediction stands in.
        realised = np.where(np.isfinite(quality), quality, predicted) - price
        defers = deferred_share(advantage, threshold, fraction)
        reward = realised[:, 0] + defers * (realised[index, best] - realised[:, 0])
        return _Round(kept, outcomes, features, advantage, threshold, reward)

    def _keep(self, own: OwnModel | None, X: Any, model: Any, rounds: list[_Round], best: int) -> None:
        chosen = rounds[best]
        outcomes, weight = chosen.outcomes, outcome_weights(chosen.outcomes)
        self.base_, self.n_rounds_, self.round_ = own, len(rounds), best
        self.models_ = [
            fit_right(model, chosen.features, outcomes.quality[:, arm], weight[:, arm])
            for arm in range(weight.shape[1])
        ]
        self.threshold_, self.fraction_ = 0.0, 0.0
        if weight.shape[1] == 1:
            return
        row, advantage = (
            np.ones(len(weight)) if outcomes.sample_weight is None else outcomes.sample_weight,
            chosen.advantage,
        )
        # The threshold meets an atom exactly only on the scale of the models that will decide.
        atoms = np.flatnonzero(is_atom(X, row))
        if len(atoms):
            price = self._own_cost_weight * column_means(outcomes.cost, outcomes.weight, weight.shape[1])
            advantage = advantage.copy()
            advantage[atoms] = _gain(self._predict_quality(_safe_indexing(X, atoms)) - price).max(axis=1)
        self.threshold_, self.fraction_ = triage_threshold(advantage, self.rate, weight=row)

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
        above = _gain(utility) - self.threshold_
        return np.column_stack([utility[:, 0], utility[:, :1] + np.where(np.abs(above) <= ROUNDING, 0.0, above)])

    def _choose(self, utility: Floats, quality: Floats, cost: Floats, limit: Limit | None) -> Choice:
        if limit is not None or self.fraction_ == 0.0:
            return super()._choose(utility, quality, cost, limit)
        free, gain = best_arm(utility, cost), _gain(utility)
        above = gain.max(axis=1)
        tied = (above >= -TIE) & (above <= ROUNDING)
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


def _best(rounds: list[_Round], weight: Floats) -> int:
    """The round whose system earned most, if that is more than the first by over a standard error of the difference."""
    best, most = 0, 0.0
    for index, later in enumerate(rounds[1:], start=1):
        more = later.reward - rounds[0].reward
        mean = float(weight @ more / weight.sum())
        if mean > most and mean > np.sqrt(weight**2 @ (more - mean) ** 2) / weight.sum():
            best, most = index, mean
    return best


def _gain(utility: Floats) -> Floats:
    """Utility of every expert less the own one, shape (n, m - 1)."""
    return utility[:, 1:] - utility[:, :1]
