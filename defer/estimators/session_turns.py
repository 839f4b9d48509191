"""Turns of conversations as a router reads them, what caches add to their utility, and what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.estimators.routing import Routing
from defer.exceptions import RouterInputError
from defer.portfolios.prompt_cache import CacheTerms, SessionState

__all__ = ["SessionRouting", "Turns", "arm_indices", "cache_gain", "read_names", "read_numbers"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class SessionRouting(Routing):
    """A `Routing` of turns of conversations.

    Attributes
    ----------
    arms, arm, propensity, predicted_quality, predicted_cost, utility, choice, limit
        As for `Routing`; cost and utility count what caches hold, and utility the change of arm.
    hop : bool array of shape (n,)
        Whether the arm differs from that of the turn before.
    cached_tokens : array of shape (n, m)
        Input tokens that the prompt cache of every arm holds.
    state : SessionState or None
        Where the conversations stand after these turns; hand it to `route` with the turns to come.
    """

    hop: NDArray[np.bool_] | None = None
    cached_tokens: Floats | None = None
    state: SessionState | None = None


@dataclass(frozen=True)
class Turns:
    """Predictions of n queries, and what is known of their prompts.

    Attributes
    ----------
    utility, quality, cost : arrays of shape (n, m)
        Without anything known of conversations.
    own : int array of shape (n,)
        Arm that the router takes then.
    input_tokens, answer_tokens, time : arrays of shape (n,)
        Tokens of prompts None where they are not known.
    cached : array of shape (n, m) or None
        What caches hold, where that was told.
    """

    utility: Floats
    quality: Floats
    cost: Floats
    own: Rows
    input_tokens: Floats | None
    answer_tokens: Floats
    time: Floats
    cached: Floats | None


def cache_gain(turns: Turns, rows: Rows, *, discount: Floats, cost_weight: float, terms: CacheTerms) -> Floats | None:
    """Utility that caches add at every turn of one conversation, by the turn at which an arm was asked last.

    Parameters
    ----------
    turns : Turns
    rows : int array of shape (t,)
        The turns of the conversation.
    discount : array of shape (m,)
    cost_weight : float
    terms : CacheTerms

    Returns
    -------
    array of shape (t, t, m), or None if it is 0
        As `plan_turns` takes it.
    """
    if turns.input_tokens is None or not discount.any() or cost_weight == 0.0:
        return None
    t, m = len(rows), len(discount)
    gain = np.zeros((t, t, m))
    tokens, time = turns.input_tokens[rows], turns.time[rows]
    for then in range(t):
        state = SessionState.start((0,), m)
        for arm in range(m):
            state = state.after(
                np.array([0]), [arm], input_tokens=tokens[then], time=time[then],
                answer_tokens=turns.answer_tokens[rows[then]],
            )  # fmt: skip
        row = np.zeros(t - then - 1, dtype=np.intp)
        held = state.cached(row, input_tokens=tokens[then + 1 :], time=time[then + 1 :], terms=terms)
        gain[then + 1 :, then] = cost_weight * np.minimum(held * discount, turns.cost[rows[then + 1 :]])
    return gain


def arm_indices(last_arm: Sequence[Any], arms: list[Any], n: int) -> Rows:
    """Index of the arm of the turn before, -1 for None.

    Raises
    ------
    RouterInputError
        If a name is no arm.

    Examples
    --------
    >>> arm_indices(["b", None], ["a", "b"], 2).tolist()
    [1, -1]
    """
    names = read_names("last_arm", last_arm, n)
    strange = [row for row, name in enumerate(names) if name is not None and name not in arms]
    if strange:
        raise RouterInputError(
            f"SessionRouter: last_arm has {len(strange)} of {n} names that are no arm, the first is "
            f"{names[strange[0]]!r} in row {strange[0]}; the arms are {arms}, and None stands for no turn before"
        )
    return np.array([-1 if name is None else arms.index(name) for name in names], dtype=np.intp)


def read_names(what: str, given: Sequence[Any], n: int) -> list[Any]:
    """One name a query, as plain Python objects.

    Raises
    ------
    RouterInputError
        If there are not n.

    Examples
    --------
    >>> read_names("session", np.array([7, 8]), 2)
    [7, 8]
    """
    if isinstance(given, str) or len(given) != n:
        got = "one str" if isinstance(given, str) else f"{len(given)}"
        raise RouterInputError(f"SessionRouter: {what} must have one name for each of {n} queries, got {got}")
    return [name.item() if isinstance(name, np.generic) else name for name in given]


def read_numbers(name: str, given: ArrayLike, shape: tuple[int, ...]) -> Floats:
    """A table of finite numbers >= 0, or of any finite ones for times.

    Raises
    ------
    RouterInputError
        Names the argument, the count and the first offender.

    Examples
    --------
    >>> read_numbers("input_tokens", [5], (1,))
    array([5.])
    """
    table = np.asarray(given, dtype=np.float64)
    if table.shape != shape:
        raise RouterInputError(f"SessionRouter: {name} must have shape {shape}, got {table.shape}")
    wrong = np.argwhere(~np.isfinite(table) | (table < (-np.inf if name == "time" else 0)))
    if len(wrong):
        raise RouterInputError(
            f"SessionRouter: {name} has {len(wrong)} of {table.size} values that are not finite or below 0, the first in "
            f"row {wrong[0][0]} ({table[tuple(wrong[0])]:g})"
        )
    return table
