"""Choosing the operating point of a router for a limit by cross-validation, then fitting the router on everything."""

from __future__ import annotations

from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import _safe_indexing

from defer.estimators.base import at_cost_weight, check_cost_weight
from defer.estimators.deferral.answers import ExpertAnswers, read_answers
from defer.estimators.deferral.asked_model import asked_probability
from defer.estimators.deferral.expert_outcomes import expert_outcomes
from defer.estimators.deferral.panel_tables import group_codes
from defer.estimators.deferral.system_answers import refuse_labels, system_answer, system_utility
from defer.estimators.outcomes_input import Outcomes, read_weight
from defer.estimators.queries import n_queries, text_groups
from defer.estimators.routing import Routing
from defer.estimators.tuning.deferral_handed_on import DeferralHandedOn
from defer.estimators.tuning.folds import Rows, check_part, fit_part, handed_on, held_out_folds
from defer.estimators.tuning.operating_point import (
    HeldOut,
    OperatingPoint,
    doubly_robust,
    favour,
    find_operating_point,
)
from defer.estimators.tuning.tunable import check_limit, check_order, check_rule, split_samples
from defer.portfolios.assignment import Choice, choose, choose_at_price
from defer.portfolios.limits import Limit, Share

__all__ = ["TunedRouter"]

Floats = NDArray[np.float64]


class TunedRouter(DeferralHandedOn):
    """Choose the operating point for a limit by cross-validation, then fit the router on all queries.

    The point is a price (and, where many queries tie, a probability) found on out-of-fold predictions and realised
    outcomes; it serves batches and queries that come one by one alike.

    Parameters
    ----------
    router : router, default=QualityRouter()
        Or a pipeline made by `make_pipeline`.
    limit : Budget, QualityTarget, Share, RiskLevel or None
        `Budget`, `QualityTarget`: the price at which the *realised* out-of-fold cost or quality meets the limit.
        `Share`: an addition to the named arm's utility that gives it its out-of-fold share.
        `RiskLevel`: the highest price whose out-of-fold loss of quality against every single arm is shown, at the stated
        confidence, to be at most `risk`.
    cv : int, splitter or iterable of splits, default=5
        Every query must be in exactly one test part.  A router that cross-fits within the parts needs a number or a splitter
        as its own ``cv``, since the indices of a list would be those of all queries.  Where it is a number and no ``groups`` are given, equal texts are
        kept in one fold.

    Attributes
    ----------
    arms_ : array of shape (m,)
    router_ : fitted router
    operating_point_ : OperatingPoint
    limit_ : limit or None
        What the operating point was fitted for; a limit set after `fit` acts at the next one.
    arm_bonus_ : array of shape (m,)
        Added to the utility of every arm; not 0 only under a `Share`.
    cost_weight : float
        The inner router's cost weight plus the fitted price: utility = quality - cost_weight * cost + arm_bonus_.
    expert_, label_classes_
        As for `BaseDeferral`, if the router defers and was fitted with the answers of experts.

    Notes
    -----
    `predict` takes the less costly side of a tie at the price (under a `Share`, the other arms); `route` takes the named
    or dearer arm with the fitted probability.  A limit handed to `route` replaces the fitted operating point, and so does
    its utility.  `score` is the realised utility at the inner router's own cost weight, so that fitted prices do not make
    scores incomparable.

    For partly observed outcomes realised means are doubly robust.  Without propensities answers of experts are taken to be
    missing at random given the query: P(asked | x) is estimated by a logistic regression for every expert on `X`, where that
    is a table of numbers (in a pipeline, before its transformers), and by the share of the queries on which it was asked where
    it is not.  Gaps of a table of outcomes count by that share: they are taken to have nothing to do with the query either,
    unless the predictions are right.  The confidence of a `RiskLevel` is exact for a router
    fitted elsewhere; the refit on all folds is assumed to be no worse than the fits on parts.  Qualities within [0, 1]
    are taken to range over all of it, others over what was observed.  Groups count as one observation each.

    `add_arm` keeps the operating point: what it was shown to meet, it met without the added arm.  Fit again where the limit
    must hold with it.

    Examples
    --------
    >>> from defer.portfolios.limits import Budget
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(400, 1))
    >>> quality = np.column_stack([X[:, 0] < 0, np.ones(400)]).astype(float)
    >>> router = TunedRouter(limit=Budget(mean_cost=1.5)).fit(X, quality, cost=np.tile([1.0, 2.0], (400, 1)))
    >>> router.predict([[-1.0], [1.0]]).tolist(), round(router.operating_point_.mean_cost, 2)
    ([0, 1], 1.5)
    """

    __metadata_request__fit = {"experts": True, "groups": True, "tags": True, "latency": True}  # noqa: RUF012
    __metadata_request__score = {"experts": True}  # noqa: RUF012
    __metadata_request__predict = {"experts": True, "routing": True}  # noqa: RUF012

    operating_point_: OperatingPoint
    limit_: Limit | None
    arm_bonus_: Floats
    _answers: ExpertAnswers | None

    def __init__(self, router: Any = None, limit: Limit | None = None, *, cv: Any = 5) -> None:
        self.router = router
        self.limit = limit
        self.cv = cv

    @property
    def cost_weight(self) -> float:  # type: ignore[override]
        """The inner router's cost weight plus the fitted price."""
        price = self.operating_point_.price if hasattr(self, "operating_point_") else 0.0
        return self._own_cost_weight + price

    @property
    def _own_cost_weight(self) -> float:
        return float(self._base().cost_weight)

    def fit(
        self,
        X: Any,
        y: ArrayLike,
        *,
        experts: Any = None,
        cost: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        tags: Any = None,
        latency: ArrayLike | None = None,
    ) -> Self:
        """Find the operating point out of fold, and fit the router on everything.

        Parameters
        ----------
        X : n queries
        y : array or frame of shape (n, m), or array of shape (n,)
            As for `BaseRouter.fit`; the true labels, if `experts` is given.  Or several answers per query and arm, as
            `HybridRouter.fit` takes them, around such a router: operating points are found on their means.
        experts : array of shape (n,) or (n, J), or frame, optional
            Answers of the experts, for a router that defers, as `BaseDeferral.fit` takes them; how often its own answer is
            right is then measured out of fold.
        cost, propensity, sample_weight : optional
            As for `BaseRouter.fit`, or for `BaseDeferral.fit` with `experts`.
        groups : array of shape (n,), optional
            Keeps rows of one group in one fold, here and, where the router cross-fits too, in its own folds.
        tags, latency : optional
            Of n queries, for a router whose ``fit`` takes them, such as `RewardDistilledRouter` and `SoftLabelRouter`.

        Returns
        -------
        self

        Raises
        ------
        RouterInputError
            Also if the router does not take `tags` or `latency`, has a rule of its own for limits (as `SingleArm` has) or
            predicts an order of queries alone, the limit cannot be tuned for, or an arm is never observed, or one class of `y`
            is all there is, in the training part of a fold.
        InfeasibleLimitError
            If the limit cannot be met out of fold; says what the nearest feasible one is.
        """
        check_cost_weight(self._base())
        check_rule(self._base())
        check_order(self._base(), self.limit)
        if hasattr(self, "operating_point_"):
            del self.operating_point_
        self._more = handed_on(self._base(), X, owner="TunedRouter", tags=tags, latency=latency)
        self._groups = None if groups is None else group_codes(groups, n=n_queries(X))
        self._answers = self._samples = None
        try:
            if experts is None:
                self._samples, table = split_samples(self._base(), y, owner="TunedRouter")
                return super().fit(X, table, cost=cost, propensity=propensity, sample_weight=sample_weight)
            self._check_defers()
            X = self._check_queries(X, reset=True)
            weight = read_weight(sample_weight, n=n_queries(X))
            self._answers = read_answers(y, experts, n=n_queries(X), weight=weight)
            outcomes = expert_outcomes(self._answers, cost=cost, propensity=propensity, sample_weight=sample_weight)
            return self._fit_outcomes(X, outcomes)
        finally:
            del self._groups, self._answers, self._more, self._samples

    def predict(self, X: Any, experts: Any = None, *, routing: Routing | None = None) -> NDArray[np.generic]:
        """Name of the arm of highest utility at the fitted price, or the system's answer; see `BaseDeferral.predict`.

        Parameters
        ----------
        X : n queries
        experts : array of shape (n,) or (n, J), or frame, optional
            Answers of the experts, for a router that defers.
        routing : Routing, optional
            Of these queries, read with `experts`.

        Returns
        -------
        array of shape (n,)

        Raises
        ------
        RouterInputError
            As for `BaseDeferral.predict`; also if `experts` is given and the router does not defer.
        """
        if experts is not None:
            self._check_defers()
            return system_answer(self, X, experts, routing)
        quality, cost = self._predict(X)
        return self.arms_[self._choose(self._utility(quality, cost), quality, cost, None).low]

    def score(
        self,
        X: Any,
        y: ArrayLike,
        *,
        experts: Any = None,
        cost: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Mean realised utility of the arms that `predict` takes, at the inner router's cost weight.

        Parameters
        ----------
        X, y, experts, cost, propensity, sample_weight
            As for `BaseRouter.score`, or for `BaseDeferral.score` where the router was fitted with the answers of experts.

        Returns
        -------
        float

        Raises
        ------
        RouterInputError
            As there.
        """
        if experts is None:
            refuse_labels(self, y)
            return super().score(X, y, cost=cost, propensity=propensity, sample_weight=sample_weight)
        self._check_defers()
        return system_utility(
            self, X, y, experts, cost=cost, propensity=propensity, sample_weight=sample_weight,
            cost_weight=self._own_cost_weight,
        )  # fmt: skip

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        limit, names = self.limit, self.arms_.tolist()
        check_limit(limit, outcomes)
        self.arm_bonus_ = np.zeros(len(names))
        point = OperatingPoint(0.0, 0.0, float("nan"), float("nan"))
        if limit is None:
            self.router_ = self._fit_part(X, outcomes, None)
        else:
            held_out = self._held_out(X, outcomes)
            point, self.arm_bonus_ = find_operating_point(held_out, limit, names)
        self.operating_point_, self.limit_ = point, limit

    def _arm_added(self, name: Any) -> None:
        self.arm_bonus_ = np.append(self.arm_bonus_, 0.0)

    def _utility(self, quality: Floats, cost: Floats) -> Floats:
        utility = super()._utility(quality, cost)
        return utility + self.arm_bonus_ if self.arm_bonus_.any() else utility

    def _choose(self, utility: Floats, quality: Floats, cost: Floats, limit: Limit | None) -> Choice:
        if limit is not None:
            check_order(self.router_, limit)
            return choose(utility, quality, cost, limit, arms=self.arms_.tolist())
        # A policy file of an earlier version may not say what it was fitted for.
        point, fitted_for = self.operating_point_, getattr(self, "limit_", self.limit)
        if isinstance(fitted_for, Share):
            return favour(utility, cost, self.arms_.tolist().index(fitted_for.arm), point.fraction)
        own = at_cost_weight(quality, cost, self._own_cost_weight)
        return choose_at_price(own, cost, price=point.price, fraction=point.fraction)

    def _fit_part(self, X: Any, outcomes: Outcomes, rows: Rows | None) -> Any:
        return fit_part(self._base(), X, outcomes, self._answers, self._groups, rows, self._more, self._samples)

    def _observed_chance(self, X: Any, outcomes: Outcomes, weight: Floats) -> Floats | None:
        """Probability with which outcomes were observed, as `doubly_robust` takes it."""
        if outcomes.cell_propensity is not None:
            return outcomes.cell_propensity
        if self._answers is not None and outcomes.weighting == "missing at random":
            return asked_probability(X, np.isfinite(outcomes.quality), weight=weight)
        return outcomes.propensity

    def _held_out(self, X: Any, outcomes: Outcomes) -> HeldOut:
        """Out-of-fold predictions beside realised outcomes; fits the router on everything too."""
        n, m = outcomes.quality.shape
        groups = self._groups
        if groups is None and isinstance(self.cv, Integral):
            groups = text_groups(X)
        tables = np.empty((n, m)), np.empty((n, m))
        steady = np.ones(m, dtype=bool), np.ones(m, dtype=bool)
        folds = held_out_folds(self.cv, n, groups)
        for number, (train, test) in enumerate(folds, start=1):
            check_part(outcomes, self._answers, train, f"fold {number} of {len(folds)}")
            fitted, queries = self._fit_part(X, outcomes, train), _safe_indexing(X, test)
            check_order(fitted, self.limit)  # which may hang on how many arms there are
            for table, same, predict in zip(tables, steady, (fitted.predict_quality, fitted.predict_cost), strict=True):
                table[test] = predict(queries)
                same &= (table[test] == table[test[0]]).all(axis=0)
            if self._answers is not None:
                label = self._answers.classes[self._answers.label[test]]
                outcomes.quality[test, 0] = fitted.predict_own(queries) == label
        self.router_ = self._fit_part(X, outcomes, None)
        # What is predicted alike for all queries, such as a mean, is taken from the final fit: otherwise queries that
        # will tie when they are routed would differ here by the fold they fell into.
        first = _safe_indexing(X, np.zeros(1, dtype=np.intp))
        finals = self.router_.predict_quality(first), self.router_.predict_cost(first)
        for table, same, final in zip(tables, steady, finals, strict=True):
            table[:, same] = final[0, same]
        weight = np.ones(n) if outcomes.sample_weight is None else outcomes.sample_weight
        quality, cost = tables
        costs = np.zeros((n, m)) if outcomes.cost is None else outcomes.cost
        kept = np.flatnonzero(weight > 0)
        propensity = self._observed_chance(X, outcomes, weight)
        return HeldOut(
            utility=at_cost_weight(quality, cost, self._own_cost_weight)[kept],
            predicted_cost=cost[kept],
            quality=doubly_robust(outcomes.quality, quality, propensity, weight)[kept],
            cost=doubly_robust(costs, cost, propensity, weight)[kept],
            weight=weight[kept] / weight.sum(),
            group=None if groups is None else groups[kept],
        )
