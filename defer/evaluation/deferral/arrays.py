"""Arrays that the diagnostics of deferral take, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.array_checks import refuse_values
from defer.exceptions import EvaluationError
from defer.portfolios.expert_names import expert_names

__all__ = ["arm_index", "arm_names", "check_level", "finite_column", "finite_table", "numbers_of", "unit_column"]

Floats = NDArray[np.float64]

_refuse = partial(refuse_values, error=EvaluationError)


def numbers_of(name: str, values: ArrayLike) -> Floats:
    """Numbers, of any shape; text is none, whatever it says."""
    try:
        array = np.asarray(values)
        if array.dtype.kind in "USTO" and any(isinstance(value, str) for value in array.flat):
            first = next(value for value in array.flat if isinstance(value, str))
            raise EvaluationError(f"{name} must be numbers, and it holds text, first {str(first)!r}")
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        if isinstance(error, EvaluationError):
            raise
        raise EvaluationError(f"{name} must be numbers: {error}") from None


def check_level(level: float) -> float:
    """A confidence level, in (0, 1)."""
    if isinstance(level, bool) or not isinstance(level, Real) or not 0.0 < float(level) < 1.0:
        raise EvaluationError(f"level must be a number in (0, 1), got {level!r}")
    return float(level)


def finite_column(name: str, values: ArrayLike, n: int | None = None) -> Floats:
    """Finite numbers of shape (n,), at least one."""
    array = numbers_of(name, values)
    if array.ndim != 1 or not len(array) or (n is not None and len(array) != n):
        wanted = "(n,) and not be empty" if n is None else f"({n},)"
        raise EvaluationError(f"{name} must have shape {wanted}, got {array.shape}")
    _refuse(name, array, ~np.isfinite(array), "finite")
    return array


def unit_column(name: str, values: ArrayLike, n: int | None = None) -> Floats:
    """Numbers in [0, 1] of shape (n,), such as right or wrong."""
    array = finite_column(name, values, n)
    _refuse(name, array, (array < 0) | (array > 1), "in [0, 1]")
    return array


def finite_table(
    name: str, values: ArrayLike, shape: tuple[int, ...] | None = None, *, least_columns: int = 1
) -> Floats:
    """Finite numbers of shape (n, m), at least one row and `least_columns` columns."""
    array = numbers_of(name, values)
    if shape is not None and array.shape != shape:
        raise EvaluationError(f"{name} must have shape {shape}, got {array.shape}")
    if array.ndim != 2 or not len(array) or array.shape[1] < least_columns:
        raise EvaluationError(f"{name} must have shape (n, m) with n >= 1 and m >= {least_columns}, got {array.shape}")
    _refuse(name, array, ~np.isfinite(array), "finite")
    return array


def arm_index(name: str, values: ArrayLike, n: int, n_arms: int) -> NDArray[np.intp]:
    """Whole numbers from 0 to ``n_arms - 1``, shape (n,)."""
    array = np.asarray(values)
    if array.shape != (n,) or array.dtype.kind not in "iu":
        raise EvaluationError(
            f"{name} must be {n} whole numbers, one per query, got {array.dtype} of shape {array.shape}"
        )
    _refuse(name, array, (array < 0) | (array >= n_arms), f"an index from 0 to {n_arms - 1}")
    return array.astype(np.intp)


def arm_names(names: Sequence[str] | None, n_experts: int, *, own: bool = True) -> tuple[str, ...]:
    """The names given, or own and those of `expert_names`."""
    usual = (*(("own",) if own else ()), *expert_names(n_experts))
    given = usual if names is None else tuple(str(name) for name in names)
    if len(given) != len(usual):
        raise EvaluationError(f"{len(given)} names for {len(usual)} {'arms' if own else 'experts'}: {', '.join(given)}")
    if len(set(given)) < len(given):
        raise EvaluationError(f"names must differ, got {', '.join(given)}")
    return given
