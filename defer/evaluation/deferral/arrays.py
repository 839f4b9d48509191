"""Arrays that the diagnostics of deferral take, checked once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.exceptions import EvaluationError

__all__ = ["arm_index", "arm_names", "finite_column", "finite_table", "unit_column"]

Floats = NDArray[np.float64]


def finite_column(name: str, values: ArrayLike, n: int | None = None) -> Floats:
    """Finite numbers of shape (n,), at least one."""
    array = np.asarray(values, dtype=np.float64)
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
    array = np.asarray(values, dtype=np.float64)
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
    """The names given, or own, expert_1, expert_2, and so on."""
    usual = (*(("own",) if own else ()), *(f"expert_{index + 1}" for index in range(n_experts)))
    given = usual if names is None else tuple(str(name) for name in names)
    if len(given) != len(usual):
        raise EvaluationError(f"{len(given)} names for {len(usual)} {'arms' if own else 'experts'}: {', '.join(given)}")
    if len(set(given)) < len(given):
        raise EvaluationError(f"names must differ, got {', '.join(given)}")
    return given


def _refuse(name: str, values: NDArray[np.generic], wrong: NDArray[np.bool_], allowed: str) -> None:
    places = np.argwhere(wrong)
    if len(places):
        first = tuple(places[0])
        where = f"row {first[0]}" + "".join(f", column {place}" for place in first[1:])
        raise EvaluationError(
            f"{name} has {len(places)} of {values.size} values that are not allowed, the first in {where} ({values[first]}); "
            f"each must be {allowed}"
        )
