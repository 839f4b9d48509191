"""Routing turns of conversations: an arm that was asked before is cheaper to ask again, and changing it may cost something.

The utility of a turn becomes quality - cost_weight * cost - switch_cost * (arm differs from the last one), where the cost
counts tokens that the prompt cache of an arm holds at their own price.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from defer.estimators.base import column_means
from defer.estimators.deferral.panel_tables import group_codes
from defer.estimators.deferral.parameter_checks import check_counts
from defer.estimators.inner_model import last_step
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.queries import n_queries
from defer.estimators.routing import Routing
from defer.estimators.session_decisions import TurnRule
from defer.estimators.session_input import (
    arm_indices,
    follows_sessions,
    read_mean_tokens,
    read_names,
    read_numbers,
    read_told,
)
from defer.estimators.session_prices import TokenPrices
from defer.estimators.session_turns import SessionRouting, Turns, cache_gain
from defer.estimators.tuning.folds import fit_part, handed_on
from defer.estimators.tuning.tunable import split_samples
from defer.estimators.tuning.wrapping_router import WrappingRouter
from defer.exceptions import RouterInputError
from defer.portfolios.limits import Budget, Limit, QualityTarget
from defer.portfolios.prompt_cache import CacheTerms, SessionState, plan_turns

__all__ = ["SessionRouter"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


class SessionRouter(WrappingRouter):
    """Route the turns of conversations by the predictions of any router, with switching costs and prompt caches.

    Without anything that is known of conversations it is the router inside.

    Parameters
    ----------
    router : router, default=QualityRouter()
        Or a pipeline made by `make_pipeline`.  One that is fitted already goes to `SessionRouter.around`.
    switch_cost : float, default=0.0
        Quality that a change of arm within a conversation must gain, beyond what it costs.
    token_discount : array of shape (m,) or mapping from arm to number, optional
        US dollars that an input token costs less if the prompt cache of the arm holds it, as
        `Portfolio.cache_discount` has it; arms that are not named get none.
    token_price : array of shape (m,) or mapping from arm to number, optional
        US dollars of an input token that no cache holds, as ``price.per_input_token`` of an `Arm` has it.  Where it is not
        known it is taken to be at least the discount.
    lifetime_s, least_prefix, block
        What prompt caches keep: see `CacheTerms` (`least_prefix` is its ``least``).

    Attributes
    ----------
    arms_ : array of shape (m,)
    router_ : fitted router
    discount_, token_price_ : arrays of shape (m,)
    mean_input_tokens_ : array of shape (m,)
        Tokens that the mean cost of every arm counts; NaN where that was not told.
    has_cost_, weighting_, mean_cost_
        As of the router inside.

    Raises
    ------
    RouterInputError, PortfolioError
        If a parameter is none of these.

    Notes
    -----
    The tokens of a prompt give its price, and a predicted cost may be that of other prompts.  A router that predicts the mean
    of the log counts prompts of their mean length; where `fit` was told the `input_tokens` of the log, that part is taken out
    of the mean, and this prompt's put in its place.  Any other prediction is taken to be the cost of this prompt, with
    nothing cached.  No prediction counts for less than the input tokens cost by themselves.  What caches hold then costs the
    discount less.

    A turn whose utility none of this touches is routed as the router inside does it.  Where the last arm is as good as the
    best, it stays.

    Every turn is decided by itself.  `plan` gives the best arms in hindsight; what lies between is the value of knowing
    the turns to come.  Turns are read as if what was said did not hang on who answered.  With a higher `switch_cost`
    there are no more changes of arm in a plan, and turn by turn with two arms, both without caches; with three arms a
    choice turn by turn can have one more.

    Examples
    --------
    >>> X, quality = [[0.0], [1.0], [0.0], [1.0]], [[0.9, 0.8], [0.6, 0.9], [0.9, 0.8], [0.6, 0.9]]
    >>> router = SessionRouter(switch_cost=0.15).fit(X, quality)
    >>> talk = [[1.0], [0.0], [1.0]]
    >>> router.predict(talk).tolist(), router.route(talk, session=["a"] * 3).arm.tolist()
    ([1, 0, 1], [1, 1, 1])
    """

    __metadata_request__fit = {"input_tokens": True, "groups": True, "tags": True, "latency": True}  # noqa: RUF012

    discount_: Floats
    token_price_: Floats
    mean_input_tokens_: Floats

    def __init__(
        self,
        router: Any = None,
        *,
        switch_cost: float = 0.0,
        token_discount: ArrayLike | Mapping[Any, float] | None = None,
        token_price: ArrayLike | Mapping[Any, float] | None = None,
        lifetime_s: float | None = None,
        least_prefix: int = 0,
        block: int = 1,
    ) -> None:
        self.router = router
        self.switch_cost = switch_cost
        self.token_discount = token_discount
        self.token_price = token_price
        self.lifetime_s = lifetime_s
        self.least_prefix = least_prefix
        self.block = block

    @classmethod
    def around(cls, router: Any, *, mean_input_tokens: ArrayLike | None = None, **options: Any) -> Self:
        """A fitted `SessionRouter` around a router that is fitted already.

        Parameters
        ----------
        router : fitted router or pipeline
        mean_input_tokens : number or array of shape (m,), optional
            Mean tokens of the prompts that `router` was fitted on.
        **options
            As for the class.

        Raises
        ------
        RouterInputError
            If `router` is no router, or an option is wrong.
        NotFittedError
            If it is not fitted.
        """
        made = cls(router, **options)
        made._base()
        check_is_fitted(router)
        made._adopt(router, read_mean_tokens(mean_input_tokens, len(router.arms_)))
        return made

    @property
    def cost_weight(self) -> float:  # type: ignore[override]
        """The cost weight of the router inside, with what it was tuned to."""
        return getattr(self, "router_", self._base()).cost_weight

    @property
    def _own_cost_weight(self) -> float:
        return float(last_step(getattr(self, "router_", self._base()))._own_cost_weight)

    def fit(
        self,
        X: Any,
        y: ArrayLike,
        *,
        cost: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        input_tokens: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        tags: Any = None,
        latency: ArrayLike | None = None,
    ) -> Self:
        """Fit the router inside on logged outcomes of single turns.

        Parameters
        ----------
        X, y, cost, propensity, sample_weight
            As for `BaseRouter.fit`; `y` of several answers per query and arm where the router inside takes it.
        input_tokens : array of shape (n,), optional
            Tokens of the logged prompts, which their costs count.
        groups : array of shape (n,), optional
            Keeps rows of one group in one fold, where the router inside cross-fits.
        tags, latency : optional
            Of n queries, for a router inside whose ``fit`` takes them.

        Returns
        -------
        self

        Raises
        ------
        RouterInputError
            As for `BaseRouter.fit`; also if the router inside takes no `tags` or `latency`.
        """
        more = handed_on(self._base(), X, owner="SessionRouter", tags=tags, latency=latency)
        codes = None if groups is None else group_codes(groups, n=n_queries(X))
        tokens = None if input_tokens is None else read_numbers("input_tokens", input_tokens, (n_queries(X),))
        samples, table = split_samples(self._base(), y, owner="SessionRouter")
        self._given = more, codes, tokens, samples
        try:
            return super().fit(X, table, cost=cost, propensity=propensity, sample_weight=sample_weight)
        finally:
            del self._given

    def predict_utility(self, X: Any) -> Floats:
        """Utility of every arm without anything known of conversations, shape (n, m)."""
        X = self._check_fitted_queries(X)
        self._check_own_cost_weight()
        return np.asarray(self.router_.predict_utility(X))

    def predict(self, X: Any) -> NDArray[np.generic]:
        """Name of the arm that the router inside takes, shape (n,)."""
        X = self._check_fitted_queries(X)
        self._check_own_cost_weight()
        return np.asarray(self.router_.predict(X))

    def route(
        self,
        X: Any,
        *,
        limit: Limit | None = None,
        random_state: Any = None,
        session: Sequence[Any] | None = None,
        last_arm: Sequence[Any] | None = None,
        cached_tokens: ArrayLike | None = None,
        input_tokens: ArrayLike | None = None,
        answer_tokens: ArrayLike | None = None,
        time: ArrayLike | None = None,
        state: SessionState | None = None,
    ) -> Routing:
        """Route turns of conversations.

        Parameters
        ----------
        X : n queries
        limit : Limit, optional
            For a batch with one turn of every conversation.
        random_state : int, Generator, RandomState instance or None
            Draws the randomised group, if the limit needs one.
        session : sequence of n names, optional
            The conversation of every query, turns in their order.  The arm of the turn before and what caches hold follow
            from the turns above and from `state`.
        last_arm : sequence of n names, optional
            In place of `session`: the arm of the turn before, None at the first.
        cached_tokens : array of shape (n, m), optional
            Input tokens that the cache of every arm holds, where that is known.
        input_tokens : array of shape (n,), optional
            Tokens of the whole prompt; from them follows what it costs, and with `session` what caches hold.  Where only
            `cached_tokens` are told, the prompt is taken to be as long as the most of them.
        answer_tokens : array of shape (n,), optional
            Tokens of the answers, if caches hold these too; needs `session`.
        time : array of shape (n,), optional
            Seconds; needed where `lifetime_s` is set; needs `session`.
        state : SessionState, optional
            Of an earlier `SessionRouting`; needs `session`.

        Returns
        -------
        SessionRouting
            Or what the router inside returns, if nothing is told of conversations.

        Raises
        ------
        RouterInputError
            If the arguments do not fit each other.
        """
        check_is_fitted(self, "arms_")
        self._check_own_cost_weight()
        told: dict[str, Any] = {"input_tokens": input_tokens, "answer_tokens": answer_tokens, "time": time}
        if not follows_sessions(session=session, last_arm=last_arm, cached_tokens=cached_tokens, state=state, **told):
            X = self._check_fitted_queries(X)
            return self.router_.route(X, limit=limit, random_state=random_state)
        turns = self._turns(X, limit, cached=cached_tokens, **told)
        n, rule = len(turns.own), self._rule(limit)
        if session is None:
            last = np.full(n, -1) if last_arm is None else arm_indices(last_arm, self.arms_.tolist(), n)
            return rule.one_turn(turns, last, draws=random_state)
        self._check_times(time, input_tokens)
        state = state or SessionState.start((), len(self.arms_))
        return rule.walk(turns, read_names("session", session, n), time, state, draws=random_state)

    def plan(
        self,
        X: Any,
        *,
        session: Sequence[Any],
        input_tokens: ArrayLike | None = None,
        answer_tokens: ArrayLike | None = None,
        time: ArrayLike | None = None,
    ) -> SessionRouting:
        """The arms of highest total predicted utility for whole conversations, from their first turn on.

        It knows the turns to come, so it is a reference for logged conversations and no rule to serve by.

        Parameters
        ----------
        X : n queries
        session, input_tokens, answer_tokens, time
            As for `route`.

        Returns
        -------
        SessionRouting

        Raises
        ------
        PortfolioError
            If a conversation is too long to be planned exactly.
        """
        turns = self._turns(X, None, cached=None, input_tokens=input_tokens, answer_tokens=answer_tokens, time=time)
        self._check_times(time, input_tokens)
        names = read_names("session", session, len(turns.own))
        forced = np.empty(len(turns.own), dtype=np.intp)
        for name in dict.fromkeys(names):
            rows = np.array([row for row, own in enumerate(names) if own == name])
            gain = cache_gain(turns, rows, discount=self.discount_, cost_weight=self.cost_weight, terms=self._terms())
            forced[rows] = plan_turns(turns.utility[rows], switch_cost=self.switch_cost, gain=gain)
        state = SessionState.start((), len(self.arms_))
        return self._rule(None).walk(turns, names, time, state, forced=forced)

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        more, groups, tokens, samples = self._given
        m = len(outcomes.arms)
        mean = np.full(m, np.nan)
        if tokens is not None:
            seen = np.isfinite(outcomes.quality if outcomes.cost is None else outcomes.cost)
            mean = column_means(np.where(seen, tokens[:, None], np.nan), outcomes.weight, m)
        self._adopt(fit_part(self._base(), X, outcomes, None, groups, None, more, samples), mean)

    def _adopt(self, fitted: Any, mean_tokens: Floats) -> None:
        value = self.switch_cost
        if isinstance(value, bool) or not isinstance(value, Real) or not 0.0 <= float(value) < np.inf:
            raise RouterInputError(f"SessionRouter: switch_cost must be a finite number >= 0, got {value!r}")
        self._terms()
        last = last_step(fitted)
        prices = TokenPrices.read(
            fitted.arms_.tolist(), price=self.token_price, discount=self.token_discount, mean_cost=last.mean_cost_,
            mean_tokens=mean_tokens,
        )  # fmt: skip
        self.router_ = fitted
        self._set_prices(prices)
        for name in ("arms_", "has_cost_", "weighting_", "mean_cost_"):
            setattr(self, name, getattr(last, name))

    def _arm_added(self, name: Any) -> None:
        rates = [
            float(given.get(name, 0.0)) if isinstance(given, Mapping) else 0.0
            for given in (self.token_price, self.token_discount)
        ]
        cost = float(self.mean_cost_[-1])
        self._set_prices(self._prices().with_arm(price=rates[0], discount=rates[1], mean_cost=cost))

    def _prices(self) -> TokenPrices:
        known = len(self.discount_)
        return TokenPrices(self.token_price_, self.discount_, self.mean_cost_[:known], self.mean_input_tokens_)

    def _set_prices(self, prices: TokenPrices) -> None:
        self.token_price_, self.discount_ = prices.price, prices.discount
        self.mean_input_tokens_ = prices.mean_tokens

    def _terms(self) -> CacheTerms:
        check_counts("SessionRouter", least=0, least_prefix=self.least_prefix)
        return CacheTerms(self.lifetime_s, self.least_prefix, self.block)

    def _rule(self, limit: Limit | None) -> TurnRule:
        price = self.cost_weight if limit is None else self._own_cost_weight
        return TurnRule(self.arms_, self.discount_, float(self.switch_cost), price, self._terms(), limit)

    def _check_times(self, time: Any, input_tokens: Any) -> None:
        if self.lifetime_s is not None and time is None and input_tokens is not None:
            raise RouterInputError(
                "SessionRouter: lifetime_s is set, so time= must say when every turn comes, in seconds"
            )

    def _turns(self, X: Any, limit: Limit | None, **told: Any) -> Turns:
        X = self._check_fitted_queries(X)
        if isinstance(limit, (Budget, QualityTarget)) and not self.has_cost_:
            raise RouterInputError(
                f"{type(limit).__name__} needs costs, and this {type(self).__name__} was fitted without cost="
            )
        known = read_told((n_queries(X), len(self.arms_)), **told)
        quality, predicted = self._predict_quality(X), np.array(self._predict_cost(X))
        own = (self.router_.predict(X)[:, None] == self.arms_).argmax(axis=1)
        if limit is None:
            weight, utility = self.cost_weight, np.asarray(self.router_.predict_utility(X))
        else:
            weight = self._own_cost_weight
            utility = quality - weight * predicted
        cost = predicted if known.length is None else self._prices().fresh_cost(predicted, known.length)
        change = weight * (predicted - cost)
        return Turns(utility + change, quality, cost, own, (change != 0.0).any(axis=1), known)
