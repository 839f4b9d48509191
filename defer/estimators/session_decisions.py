"""The rule by which turns of conversations are decided: utility less what a change costs, with what caches save."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.estimators.base import as_generator
from defer.estimators.session_turns import SessionRouting, Turns
from defer.exceptions import RouterInputError
from defer.portfolios.assignment import Choice, best_arm, choose
from defer.portfolios.limits import Limit
from defer.portfolios.prompt_cache import CacheTerms, SessionState, turns_of

__all__ = ["TurnRule"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class _Decided:
    """Some turns, decided: what `SessionRouting` is made of."""

    choice: Choice
    arm: Rows
    propensity: Floats
    utility: Floats
    cost: Floats
    last: Rows
    held: Floats

    def then(self, others: list[_Decided], order: Rows) -> _Decided:
        parts = [self, *others]
        arm, *rest = (
            np.concatenate([getattr(part, name) for part in parts])[order]
            for name in ("arm", "propensity", "utility", "cost", "last", "held")
        )
        return _Decided(Choice(arm, arm), arm, *rest)


@dataclass(frozen=True, eq=False)
class TurnRule:
    """How turns are decided.

    Attributes
    ----------
    arms : array of shape (m,)
    discount : array of shape (m,)
        US dollars that an input token costs less if the cache of the arm holds it.
    switch_cost : float
        Quality that a change of arm must gain.
    price : float
        Quality given up per US dollar.
    terms : CacheTerms
    limit : Limit or None
        Of a batch with one turn of every conversation.
    """

    arms: NDArray[np.generic]
    discount: Floats
    switch_cost: float
    price: float
    terms: CacheTerms
    limit: Limit | None = None

    def one_turn(self, turns: Turns, last: Rows, *, draws: Any) -> SessionRouting:
        """Turns of n conversations.

        Parameters
        ----------
        turns : Turns
        last : int array of shape (n,)
            Index of the arm of the turn before, -1 = none.
        draws : int, Generator, RandomState instance or None
        """
        return self._routing(
            turns, self._decide(turns, np.arange(len(last)), last, turns.told.cached, draws=draws), None
        )

    def walk(
        self,
        turns: Turns,
        names: list[Any],
        time: ArrayLike | None,
        state: SessionState,
        *,
        forced: Rows | None = None,
        draws: Any = 0,
    ) -> SessionRouting:
        """Turn after turn, all conversations at once.

        Parameters
        ----------
        turns : Turns
        names : list of n names
            The conversation of every turn.
        time : array of shape (n,) or None
        state : SessionState
            Before these turns.
        forced : int array of shape (n,), optional
            Arms to take.
        draws : int, Generator, RandomState instance or None

        Raises
        ------
        RouterInputError
            If `state` is of other arms, times fall, or there is a limit and a conversation has several turns.
        """
        m = len(self.arms)
        state = state.joined_by(names)
        if state.tokens.shape[1] != m:
            raise RouterInputError(f"SessionRouter: state= is of {state.tokens.shape[1]} arms, and the router has {m}")
        place = {name: row for row, name in enumerate(state.session)}
        parts, told = self._parts(names, time), turns.told
        decided: list[_Decided] = []
        for rows in parts:
            row = np.array([place[names[index]] for index in rows])
            cached = None if told.cached is None else told.cached[rows]
            if cached is None and told.input_tokens is not None:
                cached = state.cached(row, input_tokens=told.input_tokens[rows], time=told.time[rows], terms=self.terms)
            own = None if forced is None else forced[rows]
            decided.append(self._decide(turns, rows, state.last_arm[row], cached, own, draws=draws))
            tokens = np.zeros(len(rows)) if told.input_tokens is None else told.input_tokens[rows]
            state = state.after(
                row, decided[-1].arm, input_tokens=tokens, time=told.time[rows],
                answer_tokens=told.answer_tokens[rows],
            )  # fmt: skip
        first, *others = decided
        if others:
            first = first.then(others, np.argsort(np.concatenate(parts)))
        return self._routing(turns, first, state)

    def _parts(self, names: list[Any], time: ArrayLike | None) -> list[Rows]:
        try:
            parts = turns_of(names, time)
        except ValueError as error:
            raise RouterInputError(f"SessionRouter: {error}") from None
        if self.limit is not None and len(parts) > 1:
            raise RouterInputError(
                "SessionRouter: a limit holds for a batch with one turn of every conversation, and session "
                f"{names[parts[1][0]]!r} has several; route turn by turn with state="
            )
        return parts

    def _decide(
        self, turns: Turns, rows: Rows, last: Rows, cached: Floats | None, forced: Rows | None = None, *, draws: Any
    ) -> _Decided:
        """One turn of several conversations."""
        m = len(self.arms)
        held = np.zeros((len(rows), m)) if cached is None else cached
        saving = held * self.discount
        stays = last[:, None] == np.arange(m)
        change = self.price * saving - self.switch_cost * (~stays & (last >= 0)[:, None])
        utility, cost = turns.utility[rows] + change, turns.cost[rows] - saving
        if forced is not None:
            choice = Choice(forced, forced)
        elif self.limit is not None:
            choice = choose(utility, turns.quality[rows], cost, self.limit, arms=self.arms.tolist())
        else:
            arm = best_arm(utility, cost)
            before, index = np.maximum(last, 0), np.arange(len(rows))
            arm = np.where((last >= 0) & (utility[index, before] >= utility[index, arm]), before, arm)
            arm = np.where(change.any(axis=1) | turns.is_repriced[rows], arm, turns.own[rows])
            choice = Choice(arm, arm)
        taken, propensity = choice.draw(as_generator(draws))
        return _Decided(choice, taken, propensity, utility, cost, last, held)

    def _routing(self, turns: Turns, done: _Decided, state: SessionState | None) -> SessionRouting:
        hop = (done.last >= 0) & (done.arm != done.last)
        return SessionRouting(
            self.arms, done.arm, done.propensity, turns.quality, done.cost, done.utility, done.choice, self.limit,
            hop=hop, cached_tokens=done.held, state=state,
        )  # fmt: skip
