"""What a caller tells of turns of conversations, checked: names, arms, tokens and times."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.exceptions import RouterInputError
from defer.portfolios.prompt_cache import SessionState

__all__ = [
    "Told",
    "arm_indices",
    "follows_sessions",
    "read_mean_tokens",
    "read_names",
    "read_numbers",
    "read_told",
]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Told:
    """What is known of n prompts.

    Attributes
    ----------
    input_tokens : array of shape (n,) or None
        Of the whole prompt; None = not known.
    answer_tokens, time : arrays of shape (n,)
        0 where they were not told.
    cached : array of shape (n, m) or None
        What caches hold, where that was told.
    """

    input_tokens: Floats | None
    answer_tokens: Floats
    time: Floats
    cached: Floats | None

    @property
    def length(self) -> Floats | None:
        """Tokens of the prompts; at least what a cache holds of them."""
        return self.input_tokens if self.input_tokens is not None or self.cached is None else self.cached.max(axis=1)


def read_told(shape: tuple[int, int], *, cached: Any, input_tokens: Any, answer_tokens: Any, time: Any) -> Told:
    """Check what is told of prompts.

    Parameters
    ----------
    shape : (n, m)
    cached, input_tokens, answer_tokens, time
        As for `SessionRouter.route`.

    Raises
    ------
    RouterInputError
        Names the argument, the count and the first offender; also where more is cached than the prompt has.

    Examples
    --------
    >>> read_told((1, 2), cached=[[0, 90]], input_tokens=None, answer_tokens=None, time=None).length
    array([90.])
    """
    given = {"input_tokens": input_tokens, "answer_tokens": answer_tokens, "time": time}
    read = {name: None if value is None else read_numbers(name, value, shape[:1]) for name, value in given.items()}
    tokens, held = read["input_tokens"], None if cached is None else read_numbers("cached_tokens", cached, shape)
    if tokens is not None and held is not None:
        over = np.argwhere(held > tokens[:, None])
        if len(over):
            row, arm = over[0]
            raise RouterInputError(
                f"SessionRouter: cached_tokens has {len(over)} of {held.size} values above input_tokens, the tokens of the whole "
                f"prompt, the first in row {row} ({held[row, arm]:g} of {tokens[row]:g})"
            )
    answers, times = (np.zeros(shape[0]) if read[name] is None else read[name] for name in ("answer_tokens", "time"))
    return Told(tokens, answers, times, held)  # type: ignore[arg-type]


def follows_sessions(
    *, session: Any, last_arm: Any, cached_tokens: Any, input_tokens: Any, answer_tokens: Any, time: Any, state: Any
) -> bool:
    """Whether anything is told of conversations; what cannot be used is refused, not passed over.

    Parameters
    ----------
    session, last_arm, cached_tokens, input_tokens, answer_tokens, time, state
        As for `SessionRouter.route`; None = not given.

    Raises
    ------
    RouterInputError
        Names the argument that is alone, or of which there are two, and what it needs.

    Examples
    --------
    >>> nothing = dict.fromkeys(["last_arm", "cached_tokens", "input_tokens", "answer_tokens", "time", "state"])
    >>> follows_sessions(session=None, **nothing), follows_sessions(session=["a"], **nothing)
    (False, True)
    """
    if session is not None:
        if last_arm is not None:
            raise RouterInputError(
                "SessionRouter: give session= or last_arm=, not both: the last arm follows from session"
            )
        if state is not None and not isinstance(state, SessionState):
            raise RouterInputError(
                f"SessionRouter: state= must be the state of an earlier routing, got {type(state).__name__}"
            )
        return True
    for name, value in (("answer_tokens", answer_tokens), ("time", time), ("state", state)):
        if value is not None:
            raise RouterInputError(f"SessionRouter: {name}= needs session=, the conversation of every query")
    if last_arm is not None or cached_tokens is not None:
        return True
    if input_tokens is not None:
        raise RouterInputError(
            "SessionRouter: input_tokens= needs session=, the conversation of every query, or last_arm= or cached_tokens=, "
            "which say where it stands; last_arm=[None, ...] at first turns"
        )
    return False


def read_mean_tokens(given: Any, m: int) -> Floats:
    """Mean tokens of logged prompts by arm, shape (m,); NaN where they are not known.

    Raises
    ------
    RouterInputError
        If they are no number, or m numbers, finite and >= 0.

    Examples
    --------
    >>> read_mean_tokens(900, 2)
    array([900., 900.])
    """
    if given is None:
        return np.full(m, np.nan)
    if np.ndim(given) == 0 and not isinstance(given, str):
        given = [given] * m
    return read_numbers("mean_input_tokens", given, (m,), rows="arm")


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
    single = isinstance(given, (str, bytes)) or not hasattr(given, "__len__")
    if single or len(given) != n:
        got = f"one {type(given).__name__}" if single else f"{len(given)}"
        raise RouterInputError(f"SessionRouter: {what} must have one name for each of {n} queries, got {got}")
    names = [name.item() if isinstance(name, np.generic) else name for name in given]
    wrong = [row for row, name in enumerate(names) if not isinstance(name, Hashable)]
    if wrong:
        raise RouterInputError(
            f"SessionRouter: {what} must be names, such as texts or numbers, {len(wrong)} of {n} are none, the first is "
            f"{_short(names[wrong[0]])} in row {wrong[0]}"
        )
    return names


def read_numbers(name: str, given: ArrayLike, shape: tuple[int, ...], *, rows: str = "row") -> Floats:
    """A table of finite numbers >= 0, or of any finite ones for times; `rows` is what its rows are called.

    Raises
    ------
    RouterInputError
        Names the argument, the count and the first offender.

    Examples
    --------
    >>> read_numbers("input_tokens", [5], (1,))
    array([5.])
    """
    try:
        table = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise RouterInputError(f"SessionRouter: {name} must be numbers of shape {shape}, got {_short(given)}") from None
    if table.shape != shape:
        raise RouterInputError(f"SessionRouter: {name} must have shape {shape}, got {table.shape}")
    wrong = np.argwhere(~np.isfinite(table) | (table < (-np.inf if name == "time" else 0)))
    if len(wrong):
        raise RouterInputError(
            f"SessionRouter: {name} has {len(wrong)} of {table.size} values that are not finite or below 0, the first in "
            f"{rows} {wrong[0][0]} ({table[tuple(wrong[0])]:g})"
        )
    return table


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
