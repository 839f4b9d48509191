"""Choosing the operating point of a router for a limit by cross-validation, then fitting the router on everything."""

from __future__ import annotations

import warnings
from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, KFold, check_cv
from sklearn.utils import _safe_indexing, get_tags

from defer.estimators.base import BaseRouter, at_cost_weight, check_cost_weight
from defer.estimators.deferral.answers import ExpertAnswers, read_answers
from defer.estimators.deferral.expert_outcomes import expert_outcomes
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.quality import QualityRouter
from defer.estimators.queries import n_queries, text_groups
from defer.estimators.tuning.operating_point import (
    HeldOut,
    OperatingPoint,
    doubly_robust,
    favour,
    find_operating_point,
)
from defer.exceptions import DegenerateExpertWarning, MissingPropensityWarning, RouterInputError
from defer.portfolios.arm_matrix import ArmMatrix
from defer.portfolios.assignment import Choice, choose, choose_at_price
from defer.portfolios.limits import Budget, Capacity, Limit, QualityTarget, RiskLevel, Share

__all__ = ["TunedRouter"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


class TunedRouter(BaseRouter):
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
        Every query must be in exactly one test part.  Where it is a number and no ``groups`` are given, equal texts are
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

    Notes
    -----
    `predict` takes the less costly side of a tie at the price (under a `Share`, the other arms); `route` takes the named
    or dearer arm with the fitted probability.  A limit handed to `route` replaces the fitted operating point, and so does
    its utility.  `score` is the realised utility at the inner router's own cost weight, so that fitted prices do not make
    scores incomparable.

    For partly observed outcomes realised means are doubly robust.  The confidence of a `RiskLevel` is exact for a router
    fitted elsewhere; the refit on all folds is assumed to be no worse than the fits on parts.  Qualities within [0, 1]
    are taken to range over all of it, others over what was observed.  Groups count as one observation each.

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

    __metadata_request__fit = {"experts": True, "groups": True}  # noqa: RUF012

    _hands_queries_on = True

    router_: Any
    operating_point_: OperatingPoint
    limit_: Limit | None
    arm_bonus_: Floats
    _answers: ExpertAnswers | None

    def __init__(self, router: Any = None, limit: Limit | None = None, *, cv: Any = 5) -> None:
        self.router = router
        self.limit = limit
        self.cv = cv

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inputs = get_tags(self._base()).input_tags
        tags.input_tags.sparse, tags.input_tags.allow_nan = inputs.sparse, inputs.allow_nan
        return tags

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
    ) -> Self:
        """Fit; `groups` (n,) keeps rows of one group in one fold.  Otherwise as `BaseRouter.fit`.

        A router that defers may be given the true labels `y` and the answers of `experts`, as `BaseDeferral.fit` takes
        them; how often its own answer is right is then measured out of fold.

        Raises
        ------
        RouterInputError
            Also if the limit cannot be tuned for, the router has a rule of its own for limits (as `SingleArm` has), or an
            arm is never observed in the training part of a fold.
        InfeasibleLimitError
            If the limit cannot be met out of fold; says what the nearest feasible one is.
        """
        if not hasattr(self._base(), "predict_quality") or not hasattr(self._base(), "cost_weight"):
            raise RouterInputError(
                f"TunedRouter: router must be a router, or a pipeline of defer.make_pipeline, got {self._base()!r}"
            )
        check_cost_weight(self._base())
        self._check_rule()
        if hasattr(self, "operating_point_"):
            del self.operating_point_
        self._groups = None if groups is None else np.asarray(groups)
        self._answers = None
        try:
            if experts is None:
                return super().fit(X, y, cost=cost, propensity=propensity, sample_weight=sample_weight)
            if not hasattr(self._base(), "predict_own"):
                raise RouterInputError(
                    f"TunedRouter: experts= needs a router that defers, such as PostHocDeferral, got {self._base()!r}"
                )
            X = self._check_queries(X, reset=True)
            self._answers = read_answers(y, experts, n=n_queries(X))
            outcomes = expert_outcomes(self._answers, cost=cost, propensity=propensity, sample_weight=sample_weight)
            return self._fit_outcomes(X, outcomes)
        finally:
            del self._groups, self._answers

    def predict(self, X: Any) -> NDArray[np.generic]:
        """Name of the arm of highest utility at the fitted price, shape (n,)."""
        quality, cost = self._predict(X)
        return self.arms_[self._choose(self._utility(quality, cost), quality, cost, None).low]

    def _base(self) -> Any:
        return QualityRouter() if self.router is None else self.router

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        limit, names = self.limit, self.arms_.tolist()
        self._check_limit(outcomes)
        self.arm_bonus_ = np.zeros(len(names))
        point = OperatingPoint(0.0, 0.0, float("nan"), float("nan"))
        if limit is None:
            self.router_ = self._fit_part(X, outcomes, None)
        else:
            held_out = self._held_out(X, outcomes)
            point, self.arm_bonus_ = find_operating_point(held_out, limit, names)
        self.operating_point_, self.limit_ = point, limit

    def _check_rule(self) -> None:
        """Refuse a router whose own way of choosing the operating point would replace."""
        last = self._base()
        while hasattr(last, "steps"):
            last = last.steps[-1][1]
        if isinstance(last, BaseRouter) and type(last)._choose is not BaseRouter._choose:
            name = type(last).__name__
            raise RouterInputError(
                f"TunedRouter: {name} chooses arms by a rule of its own, which an operating point would replace: fit the "
                f"{name} itself, and give the limit to route(X, limit=...)"
            )

    def _check_limit(self, outcomes: Outcomes) -> None:
        limit = self.limit
        if isinstance(limit, Capacity):
            raise RouterInputError(
                "a Capacity belongs to one batch: give it to route(X, limit=...), not to TunedRouter"
            )
        if limit is not None and not isinstance(limit, (Budget, QualityTarget, Share, RiskLevel)):
            raise RouterInputError(f"TunedRouter: limit must be a limit object or None, got {type(limit).__name__}")
        if isinstance(limit, (Budget, QualityTarget, RiskLevel)) and outcomes.cost is None:
            raise RouterInputError(f"{type(limit).__name__} needs costs: pass cost= to fit")
        if isinstance(limit, RiskLevel) and np.isnan(outcomes.quality).any():
            raise RouterInputError(
                f"a RiskLevel needs outcomes that were observed in full; {int(np.isnan(outcomes.quality).sum())} are not"
            )

    def _predict_quality(self, X: Any) -> Floats:
        return self.router_.predict_quality(X)

    def _predict_cost(self, X: Any) -> Floats:
        return self.router_.predict_cost(X)

    def _utility(self, quality: Floats, cost: Floats) -> Floats:
        utility = super()._utility(quality, cost)
        return utility + self.arm_bonus_ if self.arm_bonus_.any() else utility

    def _choose(self, utility: Floats, quality: Floats, cost: Floats, limit: Limit | None) -> Choice:
        if limit is not None:
            return choose(utility, quality, cost, limit, arms=self.arms_.tolist())
        # A policy file of an earlier version may not say what it was fitted for.
        point, fitted_for = self.operating_point_, getattr(self, "limit_", self.limit)
        if isinstance(fitted_for, Share):
            return favour(utility, cost, self.arms_.tolist().index(fitted_for.arm), point.fraction)
        own = at_cost_weight(quality, cost, self._own_cost_weight)
        return choose_at_price(own, cost, price=point.price, fraction=point.fraction)

    def _fit_part(self, X: Any, outcomes: Outcomes, rows: Rows | None) -> Any:
        def part(table: Any) -> Any:
            return table if table is None or rows is None else table[rows]

        names = self.arms_.tolist()
        options = {"propensity": part(outcomes.propensity), "sample_weight": part(outcomes.sample_weight)}
        if self._answers is None:
            target: Any = ArmMatrix(part(outcomes.quality), arms=names)
        else:
            answers = self._answers if rows is None else self._answers.take(rows)
            target, options["experts"] = answers.classes[answers.label], answers
            if outcomes.cell_propensity is not None:
                options["propensity"] = part(outcomes.cell_propensity)[:, 1:]
        if outcomes.cost is not None:
            options["cost"] = ArmMatrix(part(outcomes.cost), arms=names)
        queries = X if rows is None else _safe_indexing(X, rows)
        with warnings.catch_warnings():
            # The caller was told once.
            warnings.simplefilter("ignore", MissingPropensityWarning)
            warnings.simplefilter("ignore", DegenerateExpertWarning)
            return clone(self._base()).fit(
                queries,
                target,
                **{name: value for name, value in options.items() if value is not None},
            )

    def _held_out(self, X: Any, outcomes: Outcomes) -> HeldOut:
        """Out-of-fold predictions beside realised outcomes; fits the router on everything too."""
        n, m = outcomes.quality.shape
        groups = self._groups
        if groups is None and isinstance(self.cv, Integral):
            groups = text_groups(X)
        tables = np.empty((n, m)), np.empty((n, m))
        steady = np.ones(m, dtype=bool), np.ones(m, dtype=bool)
        for train, test in self._folds(n, groups):
            self._check_part(outcomes, train)
            fitted, queries = self._fit_part(X, outcomes, train), _safe_indexing(X, test)
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
        propensity = outcomes.propensity if outcomes.cell_propensity is None else outcomes.cell_propensity
        return HeldOut(
            utility=at_cost_weight(quality, cost, self._own_cost_weight)[kept],
            predicted_cost=cost[kept],
            quality=doubly_robust(outcomes.quality, quality, propensity, weight)[kept],
            cost=doubly_robust(costs, cost, propensity, weight)[kept],
            weight=weight[kept] / weight.sum(),
            group=None if groups is None else groups[kept],
        )

    def _folds(self, n: int, groups: NDArray[Any] | None) -> list[tuple[Rows, Rows]]:
        if groups is not None and groups.shape != (n,):
            raise RouterInputError(f"TunedRouter: groups must have shape ({n},), got {groups.shape}")
        if not isinstance(self.cv, Integral):
            splits = list(check_cv(self.cv).split(np.zeros((n, 1)), np.zeros(n), groups))
            times = np.bincount(np.concatenate([test for _, test in splits]), minlength=n)
            wrong = np.flatnonzero(times != 1)
            if len(wrong):
                raise RouterInputError(
                    f"TunedRouter: cv must put every query into exactly one test part; {len(wrong)} are in none or in "
                    f"several, the first is row {wrong[0]}"
                )
            return splits
        if isinstance(self.cv, bool) or self.cv < 2:
            raise RouterInputError(f"TunedRouter: cv must be at least 2 folds, got {self.cv!r}")
        distinct = n if groups is None else len(np.unique(groups))
        if distinct < 2:
            what = "query" if groups is None else "group of queries"
            raise RouterInputError(f"TunedRouter: cross-validation needs at least 2, and there is only 1 {what}")
        folds = min(int(self.cv), distinct)
        splitter = KFold(folds, shuffle=True, random_state=0)
        if groups is not None:
            splitter = GroupKFold(folds, shuffle=True, random_state=0)
        return list(splitter.split(np.zeros((n, 1)), None, groups))

    def _check_part(self, outcomes: Outcomes, train: Rows) -> None:
        seen = np.isfinite(outcomes.quality[train])
        if outcomes.sample_weight is not None:
            seen &= (outcomes.sample_weight[train] > 0)[:, None]
        unseen = np.flatnonzero(~seen.any(axis=0))
        if len(unseen):
            raise RouterInputError(
                f"TunedRouter: arm {self.arms_[unseen[0]].item()!r} was observed so rarely that the training part of a fold "
                "has no outcome of it; leave it out, or use more folds"
            )
