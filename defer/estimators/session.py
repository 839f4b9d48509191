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
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from defer.estimators.base import BaseRouter, as_generator, check_cost_weight
from defer.estimators.inner_model import last_step
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.quality import QualityRouter
from defer.estimators.queries import n_queries
from defer.estimators.routing import Routing
from defer.estimators.session_turns import SessionRouting, Turns, arm_indices, cache_gain, read_names, read_numbers
from defer.estimators.tuning.folds import fit_part
from defer.exceptions import RouterInputError
from defer.portfolios.assignment import Choice, best_arm, choose
from defer.portfolios.limits import Budget, Limit, QualityTarget
from defer.portfolios.prompt_cache import CacheTerms, SessionState, plan_turns, turns_of

__all__ = ["SessionRouter"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


class SessionRouter(BaseRouter):
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
    lifetime_s, least_prefix, block
        What prompt caches keep: see `CacheTerms` (`least_prefix` is its ``least``).

    Attributes
    ----------
    arms_ : array of shape (m,)
    router_ : fitted router
    discount_ : array of shape (m,)

    Raises
    ------
    RouterInputError, PortfolioError
        If a parameter is none of these.

    Notes
    -----
    The saving by a cache is taken from the predicted cost of the call, and leaves at least 0 of it.  A turn whose
    utility neither touches is routed as the router inside does it.  Where the last arm is as good as the best, it stays.

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

    _hands_queries_on = True

    router_: Any
    discount_: Floats

    def __init__(
        self,
        router: Any = None,
        *,
        switch_cost: float = 0.0,
        token_discount: ArrayLike | Mapping[Any, float] | None = None,
        lifetime_s: float | None = None,
        least_prefix: int = 0,
        block: int = 1,
    ) -> None:
        self.router = router
        self.switch_cost = switch_cost
        self.token_discount = token_discount
        self.lifetime_s = lifetime_s
        self.least_prefix = least_prefix
        self.block = block

    @classmethod
    def around(cls, router: Any, **options: Any) -> Self:
        """A fitted `SessionRouter` around a router that is fitted already.

        Parameters
        ----------
        router : fitted router or pipeline
        **options
            As for the class.
        """
        check_is_fitted(router)
        made = cls(router, **options)
        made._adopt(router)
        return made

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inputs = get_tags(self._base()).input_tags
        tags.input_tags.sparse, tags.input_tags.allow_nan = inputs.sparse, inputs.allow_nan
        return tags

    @property
    def cost_weight(self) -> float:  # type: ignore[override]
        """The cost weight of the router inside, with what it was tuned to."""
        return getattr(self, "router_", self._base()).cost_weight

    @property
    def _own_cost_weight(self) -> float:
        return float(last_step(getattr(self, "router_", self._base()))._own_cost_weight)

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
            Tokens of the whole prompt; from them follows what caches hold.
        answer_tokens : array of shape (n,), optional
            Tokens of the answers, if caches hold these too.
        time : array of shape (n,), optional
            Seconds; needed where `lifetime_s` is set.
        state : SessionState, optional
            Of an earlier `SessionRouting`.

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
        if session is None and last_arm is None and cached_tokens is None:
            if state is not None:
                raise RouterInputError("SessionRouter: state= needs session=, the conversation of every query")
            X = self._check_fitted_queries(X)
            return self.router_.route(X, limit=limit, random_state=random_state)
        turns = self._read(X, cached_tokens, input_tokens, answer_tokens, time, limit)
        n = len(turns.own)
        if session is None:
            last = np.full(n, -1) if last_arm is None else arm_indices(last_arm, self.arms_.tolist(), n)
            return self._taken(
                turns, self._decide(turns, np.arange(n), last, turns.cached, limit, draws=random_state), None, limit
            )
        if last_arm is not None:
            raise RouterInputError(
                "SessionRouter: give session= or last_arm=, not both: the last arm follows from session"
            )
        return self._walk(turns, read_names("session", session, n), time, state, limit=limit, draws=random_state)

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
        turns = self._read(X, None, input_tokens, answer_tokens, time, None)
        names = read_names("session", session, len(turns.own))
        forced = np.empty(len(turns.own), dtype=np.intp)
        for name in dict.fromkeys(names):
            rows = np.array([row for row, own in enumerate(names) if own == name])
            gain = cache_gain(turns, rows, discount=self.discount_, cost_weight=self.cost_weight, terms=self._terms())
            forced[rows] = plan_turns(turns.utility[rows], switch_cost=self.switch_cost, gain=gain)
        return self._walk(turns, names, time, None, forced=forced)

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        self._adopt(fit_part(self._base(), X, outcomes, None, None, None))

    def _adopt(self, fitted: Any) -> None:
        value = self.switch_cost
        if isinstance(value, bool) or not isinstance(value, Real) or not 0.0 <= float(value) < np.inf:
            raise RouterInputError(f"SessionRouter: switch_cost must be a finite number >= 0, got {value!r}")
        self._terms()
        self.router_ = fitted
        self.discount_ = self._discounts(fitted.arms_.tolist())
        last = last_step(fitted)
        for name in ("arms_", "has_cost_", "weighting_", "mean_cost_"):
            setattr(self, name, getattr(last, name))

    def _base(self) -> Any:
        return QualityRouter() if self.router is None else self.router

    def _terms(self) -> CacheTerms:
        return CacheTerms(self.lifetime_s, self.least_prefix, self.block)

    def _discounts(self, arms: list[Any]) -> Floats:
        given = self.token_discount
        if given is None:
            return np.zeros(len(arms))
        if isinstance(given, Mapping):
            strange = [name for name in given if name not in arms]
            if strange:
                raise RouterInputError(f"SessionRouter: token_discount names {strange[0]!r}, which is no arm of {arms}")
            given = [given.get(name, 0.0) for name in arms]
        discount = np.asarray(given, dtype=np.float64)
        if discount.shape != (len(arms),) or not np.isfinite(discount).all():
            raise RouterInputError(
                f"SessionRouter: token_discount must be {len(arms)} finite numbers, one an arm, got {self.token_discount!r}"
            )
        return discount

    def _check_own_cost_weight(self) -> None:
        check_cost_weight(self._base())

    def _predict_quality(self, X: Any) -> Floats:
        return np.asarray(self.router_.predict_quality(X))

    def _predict_cost(self, X: Any) -> Floats:
        return np.asarray(self.router_.predict_cost(X))

    def _read(
        self, X: Any, cached: Any, input_tokens: Any, answer_tokens: Any, time: Any, limit: Limit | None
    ) -> Turns:
        X = self._check_fitted_queries(X)
        if isinstance(limit, (Budget, QualityTarget)) and not self.has_cost_:
            raise RouterInputError(
                f"{type(limit).__name__} needs costs, and this {type(self).__name__} was fitted without cost="
            )
        n, m = n_queries(X), len(self.arms_)
        quality, cost = self._predict_quality(X), np.array(self._predict_cost(X))
        own = (self.router_.predict(X)[:, None] == self.arms_).argmax(axis=1)
        utility = np.asarray(self.router_.predict_utility(X))
        if limit is not None:
            utility = quality - self._own_cost_weight * cost
        counts = {"input_tokens": input_tokens, "answer_tokens": answer_tokens, "time": time}
        read = {name: None if given is None else read_numbers(name, given, (n,)) for name, given in counts.items()}
        if self.lifetime_s is not None and time is None and input_tokens is not None:
            raise RouterInputError(
                "SessionRouter: lifetime_s is set, so time= must say when every turn comes, in seconds"
            )
        zeros = np.zeros(n)
        return Turns(
            utility, quality, cost, own, read["input_tokens"],
            zeros if read["answer_tokens"] is None else read["answer_tokens"],
            zeros if read["time"] is None else read["time"],
            None if cached is None else read_numbers("cached_tokens", cached, (n, m)),
        )  # fmt: skip

    def _walk(
        self, turns: Turns, names: list[Any], time: Any, state: SessionState | None, *,
        limit: Limit | None = None, forced: Rows | None = None, draws: Any = 0,
    ) -> SessionRouting:  # fmt: skip
        """Turn after turn, all conversations at once."""
        m = len(self.arms_)
        state = (state or SessionState.start((), m)).joined_by(names)
        if state.tokens.shape[1] != m:
            raise RouterInputError(f"SessionRouter: state= is of {state.tokens.shape[1]} arms, and the router has {m}")
        place = {name: row for row, name in enumerate(state.session)}
        try:
            parts = turns_of(names, time)
        except ValueError as error:
            raise RouterInputError(f"SessionRouter: {error}") from None
        if limit is not None and len(parts) > 1:
            raise RouterInputError(
                "SessionRouter: a limit holds for a batch with one turn of every conversation, and session "
                f"{names[parts[1][0]]!r} has several; route turn by turn with state="
            )
        tables: list[tuple[Any, ...]] = []
        for rows in parts:
            row = np.array([place[names[index]] for index in rows])
            cached = None if turns.cached is None else turns.cached[rows]
            if cached is None and turns.input_tokens is not None:
                cached = state.cached(
                    row, input_tokens=turns.input_tokens[rows], time=turns.time[rows], terms=self._terms()
                )
            decided = self._decide(
                turns,
                rows,
                state.last_arm[row],
                cached,
                limit,
                None if forced is None else forced[rows],
                draws,
            )
            tables.append((rows, *decided))
            tokens = np.zeros(len(rows)) if turns.input_tokens is None else turns.input_tokens[rows]
            state = state.after(
                row, decided[1], input_tokens=tokens, time=turns.time[rows], answer_tokens=turns.answer_tokens[rows]
            )
        if len(parts) == 1:
            return self._taken(turns, tables[0][1:], state, limit)
        order = np.argsort(np.concatenate([table[0] for table in tables]))
        arm, *rest = [np.concatenate([table[column] for table in tables])[order] for column in range(2, 8)]
        return self._taken(turns, (Choice(arm, arm), arm, *rest), state, None)

    def _decide(
        self, turns: Turns, rows: Rows, last: Rows, cached: Floats | None, limit: Limit | None,
        forced: Rows | None = None, draws: Any = 0,
    ) -> tuple[Any, ...]:  # fmt: skip
        """Choice, arm, propensity, utility, cost, last arm and cached tokens of one turn of several conversations."""
        m = len(self.arms_)
        held = np.zeros((len(rows), m)) if cached is None else cached
        saving = np.minimum(held * self.discount_, turns.cost[rows])
        weight = self.cost_weight if limit is None else self._own_cost_weight
        stays = last[:, None] == np.arange(m)
        change = weight * saving - float(self.switch_cost) * (~stays & (last >= 0)[:, None])
        utility, cost = turns.utility[rows] + change, turns.cost[rows] - saving
        if forced is not None:
            choice = Choice(forced, forced)
        elif limit is not None:
            choice = choose(utility, turns.quality[rows], cost, limit, arms=self.arms_.tolist())
        else:
            arm = best_arm(utility, cost)
            before = np.maximum(last, 0)
            index = np.arange(len(rows))
            arm = np.where((last >= 0) & (utility[index, before] >= utility[index, arm]), before, arm)
            arm = np.where(change.any(axis=1), arm, turns.own[rows])
            choice = Choice(arm, arm)
        taken, propensity = choice.draw(as_generator(draws))
        return choice, taken, propensity, utility, cost, last, held

    def _taken(
        self, turns: Turns, decided: tuple[Any, ...], state: SessionState | None, limit: Limit | None
    ) -> SessionRouting:
        choice, arm, propensity, utility, cost, last, held = decided
        return SessionRouting(
            self.arms_, arm, propensity, turns.quality, cost, utility, choice, limit,
            hop=(last >= 0) & (arm != last), cached_tokens=held, state=state,
        )  # fmt: skip
