"""Several routers as one: blended by what they predict out of fold, and given up where no blend beats mixing single arms.

Source: stacked regressions (Breiman 1996; weights that are not negative), super learning by grouped cross-validation (van der Laan
et al. 2007); the bar is RouterBench's zero router (Hu et al. 2024, arXiv 2403.12031).
"""

from __future__ import annotations

import warnings
from dataclasses import fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.estimators.base import BaseRouter, at_cost_weight
from defer.estimators.deferral.panel_tables import group_codes
from defer.estimators.deferral.parameter_checks import check_flags
from defer.estimators.feature_blocks import FeatureBlocks, check_transformers
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.queries import check_texts, is_numeric_input, n_queries, text_groups
from defer.estimators.routers.advantage import Advantage
from defer.estimators.routers.blend import Blend
from defer.estimators.routers.query_folds import held_out_parts, joined_groups, query_codes
from defer.estimators.routers.stack_members import StackMember, members_for, with_tag_labels
from defer.estimators.tuning.folds import fit_part
from defer.estimators.tuning.operating_point import doubly_robust
from defer.exceptions import FallbackWarning, RouterInputError
from defer.losses.tag_incidence import tag_incidence

__all__ = ["StackedRouter"]

Floats = NDArray[np.float64]


class StackedRouter(BaseRouter):
    """Blend of several routers, learned by grouped cross-validation; the zero router where no blend is shown to beat it.

    Every member predicts the quality and the cost of queries that it was not fitted on; weights that are not negative are
    fitted to these by least squares, which also calibrates the blend.  If the area of the blend's curve over the zero router
    does not exceed its own standard error, out of fold and by weights of the other folds, predictions are the arms' means: then
    every limit is met by mixing single arms at random, as the zero router does, and a `FallbackWarning` says so.

    Parameters
    ----------
    members : list of StackMember or (name, router), optional
        Default for text: ridge on all blocks, ridge on words, nearest neighbours.  For numbers: two ridges, nearest
        neighbours, and logistic regression where outcomes have two values.  Where tags are given: also a ridge, and for text
        nearest neighbours, on the means of tags.
    features : list of (name, transformer), optional
        Makes named blocks of numbers from queries, once for all members.  Transformers see all training queries, and no
        outcomes.  None: queries are numbers, which are divided by their standard deviations.
    cv : int, splitter or list of splits, default=5
        A number holds equal queries out together.  A splitter is given `groups`, joined where they share a query, and a list is
        taken as it is: both answer for equal queries themselves.
    fallback : bool, default=True
        Whether the zero router is fallen back to.
    cost_weight : float, default=0.0
        Quality given up per US dollar.

    Attributes
    ----------
    arms_ : array of shape (m,)
    member_weights_ : dict of str to float
        Weight of every member in the differences between arms.
    cost_weights_ : dict of str to float
        Weight in the cost, of every member that predicts one; without any, cost is each arm's mean.
    advantage_ : Advantage
        Area over the zero router out of fold, and its standard error; infinite where nothing can be held out.  Without costs
        an arm's mean quality stands in for its cost: what is measured then is the order in which queries are given to the better
        arms.
    is_zero_router_ : bool
        Whether it fell back.
    features_ : FeatureBlocks
        Fitted transformers that make the blocks of numbers.
    members_ : dict of str to fitted router
        Those with weight, fitted on all queries.

    Notes
    -----
    Partly observed outcomes enter the weights as inverse propensities, and the comparison with the zero router doubly
    robustly.  The blend of one fit costs ``cv + 1`` fits of every member.

    Each fold is compared with the zero router by weights fitted to the other folds, while the weights that are kept see all of
    them.  One standard error is passed by chance in one log of six where queries tell nothing.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 2))
    >>> quality = np.column_stack([X[:, 0] < 0, X[:, 0] >= 0]).astype(float)
    >>> router = StackedRouter().fit(X, quality)
    >>> router.predict([[-1.0, 0.0], [1.0, 0.0]]).tolist(), router.is_zero_router_
    ([0, 1], False)
    """

    __metadata_request__fit = {"groups": True, "tags": True}  # noqa: RUF012

    features_: FeatureBlocks
    members_: dict[str, Any]
    member_weights_: dict[str, float]
    cost_weights_: dict[str, float]
    advantage_: Advantage
    is_zero_router_: bool

    def __init__(
        self,
        members: Any = None,
        *,
        features: Any = None,
        cv: Any = 5,
        fallback: bool = True,
        cost_weight: float = 0.0,
    ) -> None:
        self.members = members
        self.features = features
        self.cv = cv
        self.fallback = fallback
        self.cost_weight = cost_weight

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def fit(
        self,
        X: Any,
        y: ArrayLike,
        *,
        cost: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        tags: Any = None,
    ) -> Self:
        """Fit members, weights and the comparison with the zero router.

        Parameters
        ----------
        X, y, cost, propensity, sample_weight
            As for `BaseRouter.fit`.
        groups : array of shape (n,), optional
            Queries of one group are held out together, and so are groups that share a query.
        tags : sequence of n sets of str, or array of shape (n,), optional
            What kind of query each is, such as its domain.  Known in training alone: nothing asks for them later.

        Returns
        -------
        self

        Raises
        ------
        RouterInputError
            As for `BaseRouter.fit`; also for members, features, tags or groups that do not fit, queries that are no texts where
            features are made of texts, or an arm that is never observed in the
            training part of a fold.

        Warns
        -----
        FallbackWarning
            If it falls back to the zero router.
        """
        check_transformers(self.features, owner="StackedRouter")
        check_flags("StackedRouter", fallback=self.fallback)
        self._groups = None if groups is None else group_codes(groups, n=n_queries(X))
        self._tags = None
        if tags is not None:
            self._tags = tag_incidence(tags, n=n_queries(X), owner="StackedRouter", error=RouterInputError)
        try:
            return super().fit(X, y, cost=cost, propensity=propensity, sample_weight=sample_weight)
        finally:
            del self._groups, self._tags

    def _check_queries(self, X: Any, *, reset: bool) -> Any:
        # Before the base class, which would read a None among texts as a number.
        for _, step in self.features or ():
            check_texts(step, X, owner="StackedRouter")
        return super()._check_queries(X, reset=reset)

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        if self.features is None and not is_numeric_input(X):
            raise RouterInputError(
                "StackedRouter needs numbers, or features= that make them: take defer.router('auto') for text"
            )
        blocks = FeatureBlocks(self.features)
        counted = None if outcomes.sample_weight is None else outcomes.sample_weight > 0
        observed = outcomes.quality if counted is None else outcomes.quality[counted]
        members = members_for(self.members, blocks.names, is_numeric=self.features is None, quality=observed)
        if self._tags is None:
            members = [member for member in members if member.labels == "outcomes"]
            if not members:
                raise RouterInputError("StackedRouter: all members are fitted on tags, and no tags= are given")
        tables = blocks.fit(X, outcomes.sample_weight)
        codes = self._codes(X, counted)
        parts = held_out_parts(
            self.cv, codes, owner="StackedRouter", counted=counted, groups=None if self._groups is None else codes
        )
        quality, cost = self._out_of_fold(members, tables, outcomes, parts)
        blend = Blend.fit(quality, outcomes.quality, outcomes.weight)
        priced = [index for index, table in enumerate(cost) if table is not None]
        costs = [table for table in cost if table is not None]
        cost_blend, held_cost = None, None
        if costs and outcomes.cost is not None:
            unit = np.where(self.mean_cost_ > 0, self.mean_cost_, 1.0)
            cost_blend = Blend.fit(costs, outcomes.cost, outcomes.weight, unit=unit)
            held_cost = cost_blend.cross_fitted(costs, outcomes.cost, outcomes.weight, parts, unit=unit)
        held_quality = blend.cross_fitted(quality, outcomes.quality, outcomes.weight, parts)
        self.advantage_ = self._advantage(held_quality, held_cost, outcomes, codes)
        if len(parts) == 1:
            self.advantage_ = replace(self.advantage_, error=float("inf"))
        self.is_zero_router_ = bool(self.fallback and len(self.arms_) > 1 and not self.advantage_.is_shown)
        self.features_, self._blend, self._cost_blend = blocks, blend, cost_blend
        self.member_weights_ = {member.name: float(w) for member, w in zip(members, blend.between, strict=True)}
        self._priced = [members[index].name for index in priced] if cost_blend is not None else []
        self.cost_weights_ = (
            {} if cost_blend is None else dict(zip(self._priced, cost_blend.between.tolist(), strict=True))
        )
        self._blocks = {member.name: member.blocks or blocks.names for member in members}
        self._quality_names = [member.name for member in members]
        self.members_ = self._fit_members(members, tables, outcomes, blend, cost_blend)
        if self.is_zero_router_:
            found = self.advantage_
            why = (
                f"its area over the zero router out of fold is {found.value:.4f}, its standard error {found.error:.4f}"
                if np.isfinite(found.error)
                else "no query is held out, as all are equal or of one group"
            )
            warnings.warn(
                f"no blend of {len(members)} members is shown to beat mixing single arms: {why}; the arms' means are predicted instead",
                FallbackWarning,
                stacklevel=4,
            )

    def _codes(self, X: Any, counted: NDArray[np.bool_] | None) -> NDArray[np.intp]:
        """A number of every query, equal where queries are held out together."""
        codes = text_groups(X)
        if codes is None:
            codes = query_codes(X) if is_numeric_input(X) else np.arange(n_queries(X))
        return codes if self._groups is None else joined_groups(codes, self._groups, counted=counted)

    def _out_of_fold(
        self, members: list[StackMember], tables: dict[str, Any], outcomes: Outcomes, parts: Any
    ) -> tuple[list[Floats], list[Floats | None]]:
        n, m = outcomes.quality.shape
        quality = [np.empty((n, m)) for _ in members]
        cost: list[Floats | None] = [None] * len(members)
        names = FeatureBlocks(self.features).names
        seen = np.isfinite(outcomes.quality)
        if outcomes.sample_weight is not None:
            seen &= outcomes.sample_weight[:, None] > 0
        for train, test in parts:
            unseen = np.flatnonzero(~seen[train].any(axis=0))
            if len(unseen):
                raise RouterInputError(
                    f"StackedRouter: arm {self.arms_[unseen[0]].item()!r} was observed so rarely that a training part of the "
                    "cross-validation has no outcome of it; leave it out, or use more folds"
                )
            joined: dict[tuple[str, ...], Any] = {}
            for index, member in enumerate(members):
                blocks = member.blocks or names
                if blocks not in joined:
                    joined[blocks] = FeatureBlocks.joined(tables, blocks)
                fitted = self._fit_member(member, joined[blocks], outcomes, train)
                held = joined[blocks][test]
                quality[index][test] = fitted.predict_quality(held)
                if outcomes.cost is not None and _prices_queries(fitted):
                    table = cost[index]
                    if table is None:
                        table = cost[index] = np.empty((n, m))
                    table[test] = fitted.predict_cost(held)
        return quality, cost

    def _fit_member(self, member: StackMember, table: Any, outcomes: Outcomes, rows: NDArray[np.intp] | None) -> Any:
        if member.labels == "tags":
            assert self._tags is not None
            # The means of tags are those of the training part: a held-out outcome must not be in its own label.
            kept = np.arange(len(outcomes.quality)) if rows is None else rows
            part = with_tag_labels(_taken(outcomes, kept), self._tags[kept])
            return fit_part(member.router, table[kept], part, None, None, None)
        return fit_part(member.router, table, outcomes, None, None, rows)

    def _fit_members(
        self,
        members: list[StackMember],
        tables: dict[str, Any],
        outcomes: Outcomes,
        blend: Blend,
        cost_blend: Blend | None,
    ) -> dict[str, Any]:
        used = {member.name for member, use in zip(members, blend.used, strict=True) if use}
        if self.is_zero_router_:
            used = set()
        if cost_blend is not None:
            used |= {name for name, use in zip(self._priced, cost_blend.used, strict=True) if use}
        return {
            member.name: self._fit_member(
                member, FeatureBlocks.joined(tables, self._blocks[member.name]), outcomes, None
            )
            for member in members
            if member.name in used
        }

    def _advantage(
        self, quality: Floats, cost: Floats | None, outcomes: Outcomes, codes: NDArray[np.intp]
    ) -> Advantage:
        weight = np.ones(len(quality)) if outcomes.sample_weight is None else outcomes.sample_weight
        kept = weight > 0
        realised = doubly_robust(outcomes.quality, quality, outcomes.propensity, weight)
        if outcomes.cost is None:
            mean = (weight @ realised) / weight.sum()
            predicted = real = np.broadcast_to(mean - mean.min(), quality.shape)
        else:
            predicted = np.broadcast_to(self.mean_cost_, quality.shape) if cost is None else np.maximum(cost, 0.0)
            real = doubly_robust(outcomes.cost, predicted, outcomes.propensity, weight)
        utility = at_cost_weight(quality, predicted, 0.0)
        return Advantage.of(utility[kept], predicted[kept], realised[kept], real[kept], weight[kept], codes[kept])

    def _predict_quality(self, X: Any) -> Floats:
        return self._predict_both(X)[0]

    def _predict_cost(self, X: Any) -> Floats:
        return self._predict_both(X)[1]

    def _predict(self, X: Any) -> tuple[Floats, Floats]:
        return self._predict_both(self._check_fitted_queries(X))

    def _predict_both(self, X: Any) -> tuple[Floats, Floats]:
        n, m = n_queries(X), len(self.arms_)
        quality = np.broadcast_to(self._blend.arm_mean, (n, m))
        cost = np.broadcast_to(self.mean_cost_, (n, m))
        if not self.members_:
            return quality, cost
        tables = self.features_.tables(X)
        inputs = {name: FeatureBlocks.joined(tables, self._blocks[name]) for name in self.members_}
        if not self.is_zero_router_ and self._blend.used.any():
            predicted = [
                self.members_[name].predict_quality(inputs[name]) if use else None
                for name, use in zip(self._quality_names, self._blend.used, strict=True)
            ]
            quality = self._blend.apply(predicted)
        if self._cost_blend is not None and self._cost_blend.used.any():
            predicted = [
                self.members_[name].predict_cost(inputs[name]) if use else None
                for name, use in zip(self._priced, self._cost_blend.used, strict=True)
            ]
            cost = np.maximum(self._cost_blend.apply(predicted), 0.0)
        return quality, cost


def _prices_queries(router: Any) -> bool:
    """Whether a fitted router predicts a cost of every query, and not the means of the arms."""
    return bool(getattr(router, "cost_regressors_", None)) or getattr(router, "cost_", None) is not None


def _taken(outcomes: Outcomes, rows: NDArray[np.intp]) -> Outcomes:
    parts: dict[str, Any] = {
        item.name: value[rows]
        for item in fields(outcomes)
        if isinstance(value := getattr(outcomes, item.name), np.ndarray) and item.name != "arms"
    }
    return replace(outcomes, **parts)
