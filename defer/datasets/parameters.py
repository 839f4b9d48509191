"""Checks of the parameters of the generators."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.exceptions import ProblemError

__all__ = ["check_choice", "check_least", "check_number", "check_unit_interval"]


def check_least(name: str, value: int, least: int) -> None:
    """Raise ProblemError unless `value` is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ProblemError(f"{name} must be a whole number of at least {least}, got {value!r}")


def check_number(name: str, value: float, *, least: float = -math.inf) -> None:
    """Raise ProblemError unless `value` is a finite number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Real) or not (math.isfinite(value) and value >= least):
        raise ProblemError(
            f"{name} must be a finite number{'' if least == -math.inf else f' of at least {least:g}'}, got {value!r}"
        )


def check_choice(name: str, value: str, allowed: Any) -> None:
    """Raise ProblemError unless `value` is one of the strings of the Literal type `allowed`."""
    if value not in get_args(allowed):
        raise ProblemError(f"{name} must be one of {get_args(allowed)}, got {value!r}")


def check_unit_interval(name: str, values: ArrayLike, *, is_open: bool = False) -> NDArray[np.float64]:
    """A list of numbers as an array; raise ProblemError unless all lie in [0, 1], or in (0, 1)."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ProblemError(f"{name} must be numbers, got {values!r}") from None
    inside = (array > 0) & (array < 1) if is_open else (array >= 0) & (array <= 1)
    if array.ndim != 1 or not len(array) or not inside.all():
        raise ProblemError(f"{name} must lie in {'(0, 1)' if is_open else '[0, 1]'}, got {array.tolist()}")
    return array
