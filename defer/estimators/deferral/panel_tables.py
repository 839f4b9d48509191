"""Tables about a panel of experts, read once: how confident one is in each, and whether each was right."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.estimators.outcomes_input import read_table
from defer.exceptions import RouterInputError

__all__ = ["read_confidence", "read_groups", "read_panel", "read_right"]

Floats = NDArray[np.float64]


def read_confidence(
    confidence: ArrayLike, *, experts: NDArray[np.str_] | None = None, upper: float | None = None
) -> tuple[NDArray[np.str_], Floats]:
    """Names of the experts and a table of confidence, finite and not negative.

    Parameters
    ----------
    confidence : array or frame of shape (n, J)
    experts : str array of shape (J,), optional
        Experts that are expected; the columns of a frame are put into this order.
    upper : float, optional
        Largest value that is allowed.

    Raises
    ------
    RouterInputError
        Names the row, the expert and what is allowed.

    Examples
    --------
    >>> names, table = read_confidence([[0.9, 0.5]])
    >>> names.tolist(), table.tolist()
    (['expert 0', 'expert 1'], [[0.9, 0.5]])
    """
    experts, table = _read_named(confidence, name="confidence", experts=experts)
    top = np.inf if upper is None else upper
    wrong = np.argwhere(~((table >= 0) & (table <= top)))
    if len(wrong):
        row, column = wrong[0]
        allowed = "a finite number >= 0" if upper is None else f"a probability, in [0, {upper:g}]"
        raise RouterInputError(
            f"confidence: {len(wrong)} of {table.size} values are not allowed, the first in row {row}, expert "
            f"{str(experts[column])!r} ({table[row, column]:g}); it must be {allowed}, for every expert, asked or not"
        )
    return experts, table


def read_right(right: ArrayLike, *, experts: NDArray[np.str_], n: int) -> tuple[NDArray[np.str_], Floats]:
    """Names of the experts and a table of 1 = right, 0 = wrong, NaN = not asked.

    Parameters
    ----------
    right : array or frame of shape (n, J)
        Numbers or truth values.
    experts : str array of shape (J,)
        Experts that are expected.
    n : int
        Number of rows that are expected.

    Raises
    ------
    RouterInputError
        On another shape, other experts or other values.

    Examples
    --------
    >>> read_right([[True, False]], experts=np.array(["ann", "bob"]), n=1)[1].tolist()
    [[1.0, 0.0]]
    """
    experts, table = _read_named(right, name="right", experts=experts)
    if len(table) != n:
        raise RouterInputError(f"right must have the {n} rows of confidence, got {len(table)}")
    wrong = np.argwhere(~(np.isnan(table) | (table == 0) | (table == 1)))
    if len(wrong):
        row, column = wrong[0]
        raise RouterInputError(
            f"right: {len(wrong)} of {table.size} values are neither 0, 1 nor NaN, the first in row {row}, expert "
            f"{str(experts[column])!r} ({table[row, column]:g}); say from which grade on an answer counts as right, as in "
            "right = grade >= 0.5"
        )
    return experts, table


def read_panel(panel: ArrayLike, *, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which experts are asked, a table of truth values of a given shape.

    Raises
    ------
    RouterInputError
        If it has another shape, or holds anything but truth values.

    Examples
    --------
    >>> read_panel([[True, False]], shape=(1, 2)).tolist()
    [[True, False]]
    """
    table = np.asarray(panel)
    if table.shape != shape or table.dtype != np.bool_:
        raise RouterInputError(
            f"panel must hold truth values, one row per query and one column per expert, shape {shape}; got shape "
            f"{table.shape} of type {table.dtype}"
        )
    return table


def read_groups(groups: Any, *, n: int) -> list[Any]:
    """Group of every row, as Python values.

    Raises
    ------
    RouterInputError
        On another shape, or where a group is missing.

    Examples
    --------
    >>> read_groups(np.array(["ward", "clinic"]), n=2)
    ['ward', 'clinic']
    """
    given = np.asarray(groups, dtype=object)
    if given.shape != (n,):
        raise RouterInputError(f"groups must hold one group for each of the {n} rows, got shape {given.shape}")
    values = [value.item() if isinstance(value, np.generic) else value for value in given.tolist()]
    missing = [row for row, value in enumerate(values) if _is_missing(value)]
    if missing:
        raise RouterInputError(
            f"groups: {len(missing)} of {n} rows have no group, the first is row {missing[0]}; give them one of their own, "
            "such as 'unknown'"
        )
    return values


def _read_named(
    values: ArrayLike, *, name: str, experts: NDArray[np.str_] | None
) -> tuple[NDArray[np.str_], NDArray[np.float64]]:
    found, table = read_table(values, name=name)
    if not table.size:
        raise RouterInputError(f"{name} must hold at least one row and one expert, got shape {table.shape}")
    if found is None:
        found = np.asarray([f"expert {column}" for column in range(table.shape[1])] if experts is None else experts)
        if len(found) != table.shape[1]:
            raise RouterInputError(
                f"{name} must have one column for each of the {len(found)} experts, got shape {table.shape}"
            )
        return found, table
    names = [str(column) for column in found.tolist()]
    if experts is None:
        return np.asarray(names), table
    wanted = experts.tolist()
    lacking = [expert for expert in wanted if expert not in names]
    extra = [expert for expert in names if expert not in wanted]
    if lacking or extra:
        raise RouterInputError(f"{name} must name the experts {wanted}: lacking {lacking}, not known {extra}")
    return experts, table[:, [names.index(expert) for expert in wanted]]


def _is_missing(value: Any) -> bool:
    if isinstance(value, float):
        return value != value
    return value is None or type(value).__name__ in ("NAType", "NaTType")
