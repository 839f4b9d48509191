"""Checks of the parameters of deferral estimators, each with one message, whether a parameter is used or not."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from defer.exceptions import RouterInputError

__all__ = [
    "check_choice",
    "check_choices",
    "check_counts",
    "check_flags",
    "check_positive",
    "check_shares",
    "check_widths",
    "seed_of",
]


def check_choice(owner: str, name: str, value: Any, allowed: Iterable[str]) -> None:
    """Raise RouterInputError unless a value is one of the names that are allowed."""
    if not isinstance(value, str) or value not in allowed:
        raise RouterInputError(f"{owner}: {name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def check_choices(router: Any, **allowed: Iterable[str]) -> None:
    """Raise RouterInputError where a parameter of a router is none of the names that are allowed."""
    for name, choices in allowed.items():
        check_choice(type(router).__name__, name, getattr(router, name), choices)


def check_positive(owner: str, **values: Any) -> None:
    """Raise RouterInputError where a value is no finite number > 0."""
    for name, value in values.items():
        if not _is_number(value) or not 0.0 < float(value) < np.inf:
            raise RouterInputError(f"{owner}: {name} must be a finite number > 0, got {value!r}")


def check_counts(owner: str, *, least: int = 1, **values: Any) -> None:
    """Raise RouterInputError where a value is no integer, or below the least one."""
    for name, value in values.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < least:
            raise RouterInputError(f"{owner}: {name} must be an integer >= {least}, got {value!r}")


def check_shares(owner: str, **values: Any) -> None:
    """Raise RouterInputError where a value is no number in [0, 1]."""
    for name, value in values.items():
        if not _is_number(value) or not 0.0 <= float(value) <= 1.0:
            raise RouterInputError(f"{owner}: {name} must lie in [0, 1], got {value!r}")


def check_flags(owner: str, **values: Any) -> None:
    """Raise RouterInputError where a value is not True or False."""
    for name, value in values.items():
        if not isinstance(value, (bool, np.bool_)):
            raise RouterInputError(f"{owner}: {name} must be True or False, got {value!r}")


def check_widths(owner: str, hidden: Any) -> list[int]:
    """Widths of the hidden layers of a network; a number is one layer.

    Raises
    ------
    RouterInputError
        If they are no integers >= 1.

    Examples
    --------
    >>> check_widths("Router", 64), check_widths("Router", (32, 16))
    ([64], [32, 16])
    """
    widths: Any = [hidden] if isinstance(hidden, Integral) else hidden
    if isinstance(widths, str) or not hasattr(widths, "__iter__"):
        raise RouterInputError(f"{owner}: hidden must be an integer >= 1 or a sequence of them, got {hidden!r}")
    widths = list(widths)
    if not all(isinstance(width, Integral) and not isinstance(width, bool) and int(width) >= 1 for width in widths):
        raise RouterInputError(f"{owner}: hidden must hold integers >= 1, got {hidden!r}")
    return [int(width) for width in widths]


def seed_of(random_state: Any) -> int:
    """An integer seed, which every part of scikit-learn takes; a Generator or RandomState moves on by one draw.

    Parameters
    ----------
    random_state : int, Generator, RandomState instance or None

    Examples
    --------
    >>> seed_of(3), seed_of(np.random.default_rng(0)) == seed_of(np.random.default_rng(0))
    (3, True)
    """
    if isinstance(random_state, Integral):
        return int(random_state)
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31 - 1))
    return int(check_random_state(random_state).randint(2**31 - 1))


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
