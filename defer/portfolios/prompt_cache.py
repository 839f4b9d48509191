"""Prompt caches: what of a conversation the arms hold, what its turns cost then, and the best arms for all its turns.

A provider charges less for the beginning of a prompt that it has seen a moment ago.  Turns of a conversation begin with
all that was said before, so an arm that was asked holds what it was sent, until it forgets it; the others hold nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.exceptions import PortfolioError
from defer.portfolios.arms import Portfolio

__all__ = ["CacheTerms", "SessionState", "plan_turns", "session_cost", "turns_of"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

_MOST_STATES = 100_000


@dataclass(frozen=True)
class CacheTerms:
    """What prompt caches keep.

    Parameters
    ----------
    lifetime_s : float, optional
        Seconds after its last use for which a prefix is kept; None = for the whole conversation.
    least : int, default=0
        Tokens that a prefix must have to be kept.
    block : int, default=1
        Prefixes are kept in whole blocks of so many tokens.

    Raises
    ------
    PortfolioError
        If a value is none of these.

    Examples
    --------
    >>> CacheTerms(lifetime_s=300, least=1024, block=128)
    CacheTerms(lifetime_s=300, least=1024, block=128)
    """

    lifetime_s: float | None = None
    least: int = 0
    block: int = 1

    def __post_init__(self) -> None:
        for name, lowest, value in (
            ("lifetime_s", 0, self.lifetime_s),
            ("least", 0, self.least),
            ("block", 1, self.block),
        ):
            if value is None and name == "lifetime_s":
                continue
            whole = name != "lifetime_s"
            kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
            if isinstance(value, bool) or not isinstance(value, kinds) or not lowest <= value < np.inf:
                what = "an integer" if whole else "None or a finite number"
                raise PortfolioError(f"prompt cache: {name} must be {what} >= {lowest}, got {value!r}")


@dataclass(frozen=True, eq=False)
class SessionState:
    """Where s conversations stand.  Nothing in it changes: `after` gives another one.

    Attributes
    ----------
    session : tuple of s names
    last_arm : int array of shape (s,)
        Index of the arm of the last turn, -1 = none yet.
    tokens : array of shape (s, m)
        Of the conversation, that each arm was sent.
    time : array of shape (s, m)
        When, in seconds; -inf = never.

    Examples
    --------
    >>> state = SessionState.start(["a"], 2).after(np.array([0]), [1], input_tokens=[2000.0], time=[0.0])
    >>> state.cached(np.array([0]), input_tokens=[2500.0], time=[60.0], terms=CacheTerms(block=128)).tolist()
    [[0.0, 1920.0]]
    """

    session: tuple[Any, ...]
    last_arm: Rows
    tokens: Floats
    time: Floats

    @classmethod
    def start(cls, session: Sequence[Any], m: int) -> SessionState:
        """Conversations without a turn yet.

        Parameters
        ----------
        session : sequence of s distinct names
        m : int
            Number of arms.
        """
        s = len(session)
        return cls(tuple(session), np.full(s, -1), np.zeros((s, m)), np.full((s, m), -np.inf))

    def joined_by(self, session: Sequence[Any]) -> SessionState:
        """These conversations, and those named that are not among them yet.

        Parameters
        ----------
        session : sequence of names
        """
        fresh = [name for name in dict.fromkeys(session) if name not in set(self.session)]
        other = SessionState.start(fresh, self.tokens.shape[1])
        return SessionState(
            self.session + other.session,
            np.concatenate([self.last_arm, other.last_arm]),
            np.vstack([self.tokens, other.tokens]),
            np.vstack([self.time, other.time]),
        )

    def cached(self, row: Rows, *, input_tokens: ArrayLike, time: ArrayLike, terms: CacheTerms) -> Floats:
        """How many of the next turn's input tokens the cache of every arm holds, shape (n, m).

        Parameters
        ----------
        row : int array of shape (n,)
            Conversations that have a next turn.
        input_tokens, time : arrays of shape (n,)
            Tokens of the whole prompt, and seconds.
        terms : CacheTerms
        """
        held = np.minimum(self.tokens[row], np.asarray(input_tokens, dtype=np.float64)[:, None])
        held = np.floor(held / terms.block) * terms.block
        held = np.where(held >= terms.least, held, 0.0)
        if terms.lifetime_s is None:
            return held
        age = np.asarray(time, dtype=np.float64)[:, None] - self.time[row]
        return np.where(age <= terms.lifetime_s, held, 0.0)

    def after(
        self, row: Rows, arm: ArrayLike, *, input_tokens: ArrayLike, time: ArrayLike, answer_tokens: ArrayLike = 0
    ) -> SessionState:
        """The state after one turn of some conversations.

        Parameters
        ----------
        row : int array of shape (n,)
            Distinct.
        arm : int array of shape (n,)
        input_tokens, time : arrays of shape (n,)
        answer_tokens : array of shape (n,) or number
            Tokens of the answer, if the cache holds them too.
        """
        arm = np.asarray(arm, dtype=np.intp)
        last_arm, tokens, stamp = self.last_arm.copy(), self.tokens.copy(), self.time.copy()
        last_arm[row] = arm
        tokens[row, arm] = np.asarray(input_tokens, dtype=np.float64) + np.asarray(answer_tokens, dtype=np.float64)
        stamp[row, arm] = time
        return replace(self, last_arm=last_arm, tokens=tokens, time=stamp)


def turns_of(session: Sequence[Any], time: ArrayLike | None = None) -> list[Rows]:
    """Rows of the first turn of every conversation, of the second, and so on.

    Parameters
    ----------
    session : sequence of n names
        Turns of a conversation in their order.
    time : array of shape (n,), optional
        Checked to rise.

    Raises
    ------
    PortfolioError
        If a turn comes before the one above it.

    Examples
    --------
    >>> [rows.tolist() for rows in turns_of(["a", "b", "a"])]
    [[0, 1], [2]]
    """
    count: dict[Any, int] = {}
    turn = np.empty(len(session), dtype=np.intp)
    latest: dict[Any, float] = {}
    stamps = None if time is None else np.asarray(time, dtype=np.float64)
    for row, name in enumerate(session):
        turn[row] = count.get(name, 0)
        count[name] = turn[row] + 1
        if stamps is not None:
            if stamps[row] < latest.get(name, -np.inf):
                raise PortfolioError(f"session {name!r}: the turn in row {row} is earlier than the one before it")
            latest[name] = float(stamps[row])
    return [np.flatnonzero(turn == number) for number in range(max(count.values(), default=0))]


def session_cost(
    portfolio: Portfolio,
    arm: Sequence[str],
    *,
    session: Sequence[Any],
    input_tokens: ArrayLike,
    output_tokens: ArrayLike,
    time: ArrayLike | None = None,
    terms: CacheTerms | None = None,
) -> Floats:
    """What every turn of logged conversations costs, with prompt caches, shape (n,).

    Parameters
    ----------
    portfolio : Portfolio
    arm : sequence of n names
        The arm of every turn.
    session : sequence of n names
        Turns of a conversation in their order.
    input_tokens, output_tokens : arrays of shape (n,)
        Tokens of the whole prompt and of the answer.
    time : array of shape (n,), optional
        Seconds; needed where the terms have a lifetime.
    terms : CacheTerms, optional

    Raises
    ------
    PortfolioError
        If an arm is not there, there are not as many of something as turns, or times are missing or fall.

    Examples
    --------
    >>> from defer.portfolios.arms import Arm, Price
    >>> price = Price.per_million(3.0, 15.0, cached_input_tokens=0.3)
    >>> portfolio = Portfolio([Arm("a", price=price), Arm("b", price=price)])
    >>> turns = {"session": [1, 1], "input_tokens": [10_000, 12_000], "output_tokens": [0, 0]}
    >>> session_cost(portfolio, ["a", "a"], **turns).round(6).tolist(), session_cost(portfolio, ["a", "b"], **turns).round(6).tolist()
    ([0.03, 0.009], [0.03, 0.036])
    """
    terms = terms or CacheTerms()
    if terms.lifetime_s is not None and time is None:
        raise PortfolioError("prompt cache: a lifetime needs the time= of every turn")
    _check_turns(arm, {"session": session, "input_tokens": input_tokens, "time": time})
    index = np.array([list(portfolio.names).index(portfolio[name].name) for name in arm], dtype=np.intp)
    tokens = np.asarray(input_tokens, dtype=np.float64)
    stamps = np.zeros(len(index)) if time is None else np.asarray(time, dtype=np.float64)
    names = list(dict.fromkeys(session))
    place = {name: row for row, name in enumerate(names)}
    state, held = SessionState.start(names, len(portfolio)), np.zeros((len(index), len(portfolio)))
    for rows in turns_of(session, time):
        own = np.array([place[session[row]] for row in rows])
        held[rows] = state.cached(own, input_tokens=tokens[rows], time=stamps[rows], terms=terms)
        state = state.after(own, index[rows], input_tokens=tokens[rows], time=stamps[rows])
    cost = portfolio.cost(input_tokens=tokens, output_tokens=output_tokens, cached_tokens=held)
    return np.asarray(cost[np.arange(len(index)), index])


def _check_turns(arm: Sequence[str], given: Mapping[str, Any]) -> None:
    if isinstance(arm, str):
        raise PortfolioError(f"prompt cache: arm must be one name for every turn, got one str, {arm!r}")
    for name, values in given.items():
        single = isinstance(values, str) or not hasattr(values, "__len__")
        if values is not None and (single or len(values) != len(arm)):
            got = f"one {type(values).__name__}" if single else len(values)
            raise PortfolioError(f"prompt cache: {name} must have one entry for each of {len(arm)} turns, got {got}")


def plan_turns(utility: ArrayLike, *, switch_cost: float = 0.0, gain: ArrayLike | None = None) -> Rows:
    """The arms of highest total utility for all turns of one conversation, shape (t,).

    By dynamic programming over the arm of the last turn and, for arms whose cache is worth something, the turn at which
    each was asked last: exact, and for logged conversations only, since it knows the turns to come.

    Parameters
    ----------
    utility : array of shape (t, m)
        Without caches.
    switch_cost : float, default=0.0
        Utility that every change of arm costs.
    gain : array of shape (t, t, m), optional
        ``gain[now, then, arm]``: utility that the cache adds at turn `now`, if the arm was asked last at turn `then`.

    Raises
    ------
    PortfolioError
        If there are more ways in which arms may have been asked than can be kept, a table has another shape, or a
        number is NaN.

    Examples
    --------
    >>> plan_turns([[1.0, 0.0], [0.0, 0.5], [1.0, 0.0]], switch_cost=0.2).tolist()
    [0, 1, 0]
    >>> plan_turns([[1.0, 0.0], [0.0, 0.5], [1.0, 0.0]], switch_cost=0.3).tolist()
    [0, 0, 0]
    """
    value = np.asarray(utility, dtype=np.float64)
    extra = None if gain is None else np.asarray(gain, dtype=np.float64)
    if value.ndim != 2:
        raise PortfolioError(f"plan_turns: utility must have shape (t, m), got {value.shape}")
    t, m = value.shape
    if extra is not None and extra.shape != (t, t, m):
        raise PortfolioError(f"plan_turns: gain must have shape {(t, t, m)}, got {extra.shape}")
    for name, table in (("utility", value), ("gain", extra)):
        if table is not None and np.isnan(table).any():
            row = int(np.argwhere(np.isnan(table))[0][0])
            raise PortfolioError(
                f"plan_turns: {name} has {np.isnan(table).sum()} values that are NaN, the first in turn {row}"
            )
    matters = [] if extra is None else np.flatnonzero(extra.any(axis=(0, 1))).tolist()
    # Of a state: the last arm, and for every arm that matters the turn at which it was asked last.
    best: dict[tuple[int, ...], float] = {(-1, *(-1 for _ in matters)): 0.0}
    trace: list[dict[tuple[int, ...], tuple[int, ...]]] = []
    for now in range(t):
        ahead: dict[tuple[int, ...], float] = {}
        came: dict[tuple[int, ...], tuple[int, ...]] = {}
        for state, total in best.items():
            for arm in range(m):
                reached = total + value[now, arm] - (switch_cost if state[0] not in (-1, arm) else 0.0)
                used = list(state[1:])
                if extra is not None and arm in matters:
                    place = matters.index(arm)
                    reached += extra[now, used[place], arm] if used[place] >= 0 else 0.0
                    used[place] = now
                following = (arm, *used)
                if following not in ahead or reached > ahead[following]:
                    ahead[following], came[following] = reached, state
        if len(ahead) > _MOST_STATES:
            raise PortfolioError(
                f"a plan for {t} turns on {m} arms needs more than {_MOST_STATES} states; plan fewer turns at once, or "
                "without the gain of caches"
            )
        best = ahead
        trace.append(came)
    path, state = [], max(best, key=lambda key: best[key])
    for came in reversed(trace):
        path.append(state[0])
        state = came[state]
    return np.array(path[::-1], dtype=np.intp)
