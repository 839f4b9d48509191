"""Turns of conversations as a router sees them, what caches add to their utility, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defer.estimators.routing import Routing
from defer.estimators.session_input import Told
from defer.portfolios.prompt_cache import CacheTerms, SessionState

__all__ = ["SessionRouting", "Turns", "cache_gain"]

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
        Of the prompts, where no cache holds anything of them.
    own : int array of shape (n,)
        Arm that the router takes without anything known of conversations.
    is_repriced : bool array of shape (n,)
        Whether the tokens of the prompt change the utility from what the router has.
    told : Told
    """

    utility: Floats
    quality: Floats
    cost: Floats
    own: Rows
    is_repriced: NDArray[np.bool_]
    told: Told


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
    told = turns.told
    if told.input_tokens is None or not discount.any() or cost_weight == 0.0:
        return None
    t, m = len(rows), len(discount)
    gain = np.zeros((t, t, m))
    tokens, time = told.input_tokens[rows], told.time[rows]
    for then in range(t):
        state = SessionState.start((0,), m)
        for arm in range(m):
            state = state.after(
                np.array([0]), [arm], input_tokens=tokens[then], time=time[then],
                answer_tokens=told.answer_tokens[rows[then]],
            )  # fmt: skip
        row = np.zeros(t - then - 1, dtype=np.intp)
        held = state.cached(row, input_tokens=tokens[then + 1 :], time=time[then + 1 :], terms=terms)
        gain[then + 1 :, then] = cost_weight * held * discount
    return gain
