"""Tables about a panel of experts, read once: how confident one is in each, and whether each was right."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.estimators.deferral.answers import is_missing
from defer.estimators.outcomes_input import read_table
from defer.exceptions import RouterInputError

__all__ = ["expert_label", "group_codes", "read_confidence", "read_groups", "read_panel", "read_right"]

Floats = NDArray[np.float64]


def read_confidence(
    confidence: ArrayLike,
    *,
    experts: NDArray[np.str_] | None = None,
    n_experts: int | None = None,
    upper: float | None = None,
) -> tuple[NDArray[np.str_] | None, Floats]:
    """Names of the experts, where there are any, and a table of confidence, finite and not negative.

    Parameters
    ----------
    confidence : array or frame of shape (n, J)
    experts : str array of shape (J,), optional
        Names that are expected; the columns of a frame are put into this order.
    n_experts : int, optional
        Number of columns that is expected.
    upper : float, optional
        Largest value that is allowed.

    Raises
    ------
    RouterInputError
        Names the row, the expert and what is allowed.

    Examples
    --------
    >>> read_confidence([[0.9, 0.5]])[1].tolist()
    [[0.9, 0.5]]
    """
    names, table = _read_named(confidence, name="confidence", experts=experts, n_experts=n_experts)
    wrong = np.argwhere(~((table >= 0) & (table <= (np.inf if upper is None else upper))))
    if len(wrong):
        row, column = wrong[0]
        allowed = "a finite number >= 0" if upper is None else f"a probability, in [0, {upper:g}]"
        raise RouterInputError(
            f"confidence: {len(wrong)} of {table.size} values are not allowed, the first in row {row}, "
            f"{expert_label(names, column)} ({table[row, column]:g}); it must be {allowed}, for every expert, asked or not"
        )
    return names, table


def read_right(
    right: ArrayLike, *, experts: NDArray[np.str_] | None, shape: tuple[int, int]
) -> tuple[NDArray[np.str_] | None, Floats]:
    """Names of the experts, where there are any, and a table of 1 = right, 0 = wrong, NaN = not asked.

    Parameters
    ----------
    right : array or frame of shape (n, J)
        Numbers or truth values.
    experts : str array of shape (J,) or None
        Names that are expected.
    shape : tuple of int
        The (n, J) of the confidence.

    Raises
    ------
    RouterInputError
        On another shape, other experts or other values.

    Examples
    --------
    >>> read_right([[True, False]], experts=None, shape=(1, 2))[1].tolist()
    [[1.0, 0.0]]
    """
    names, table = _read_named(right, name="right", experts=experts, n_experts=shape[1])
    if len(table) != shape[0]:
        raise RouterInputError(f"right must have the {shape[0]} rows of confidence, got {len(table)}")
    wrong = np.argwhere(~(np.isnan(table) | (table == 0) | (table == 1)))
    if len(wrong):
        row, column = wrong[0]
        raise RouterInputError(
            f"right: {len(wrong)} of {table.size} values are neither 0, 1 nor NaN, the first in row {row}, "
            f"{expert_label(names, column)} ({table[row, column]:g}); say from which grade on an answer counts as right, "
            "as in right = grade >= 0.5"
        )
    return names, table


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
    missing = [row for row, value in enumerate(values) if is_missing(value)]
    if missing:
        raise RouterInputError(
            f"groups: {len(missing)} of {n} rows have no group, the first is row {missing[0]}; give them one of their own, "
            "such as 'unknown'"
        )
    return values


def group_codes(groups: Any, *, n: int) -> NDArray[np.intp]:
    """Number of the group of every row, shape (n,), equal for equal groups, in the order of the groups where they have one.

    Raises
    ------
    RouterInputError
        As `read_groups`.

    Examples
    --------
    >>> group_codes(["ward", "clinic", "ward"], n=3).tolist()
    [1, 0, 1]
    """
    values = read_groups(groups, n=n)
    distinct = list(dict.fromkeys(values))
    with suppress(TypeError):  # of several kinds
        distinct.sort()  # so that folds do not depend on the order of the rows
    codes = {value: code for code, value in enumerate(distinct)}
    return np.array([codes[value] for value in values], dtype=np.intp)


def expert_label(experts: NDArray[np.str_] | None, column: int) -> str:
    """How a message calls the expert of a column.

    Examples
    --------
    >>> expert_label(None, 2), expert_label(np.array(["ann"]), 0)
    ('expert 3', "expert 'ann'")
    """
    return f"expert {column + 1}" if experts is None else f"expert {str(experts[column])!r}"


def _read_named(
    values: ArrayLike, *, name: str, experts: NDArray[np.str_] | None, n_experts: int | None
) -> tuple[NDArray[np.str_] | None, Floats]:
    found, table = read_table(values, name=name)
    if not table.size:
        raise RouterInputError(f"{name} must hold at least one row and one expert, got shape {table.shape}")
    names = None if found is None else [str(column) for column in found.tolist()]
    if names is not None and experts is not None:
        wanted = experts.tolist()
        lacking = [expert for expert in wanted if expert not in names]
        extra = [expert for expert in names if expert not in wanted]
        if lacking or extra:
            raise RouterInputError(f"{name} must name the experts {wanted}: lacking {lacking}, not known {extra}")
        table = table[:, [names.index(expert) for expert in wanted]]
    elif n_experts is not None and table.shape[1] != n_experts:
        raise RouterInputError(f"{name} must have one column for each of the {n_experts} experts, got {table.shape[1]}")
    return (np.asarray(names) if experts is None and names is not None else experts), table
