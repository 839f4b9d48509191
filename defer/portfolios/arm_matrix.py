"""A table with one column per arm that remembers the names of the arms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["ArmMatrix"]


class ArmMatrix(np.ndarray):
    """(n, m) float64 array whose columns are named, so that a router that is fitted on it learns the names.

    Selecting rows keeps the names; whatever else is done to it (other columns, arithmetic, reductions) gives an array
    without them.

    Parameters
    ----------
    values : array of shape (n, m)
    arms : sequence of m names

    Examples
    --------
    >>> quality = ArmMatrix([[1.0, 0.0], [0.0, 1.0]], arms=["small", "large"])
    >>> quality[:1].arms, quality[:, ::-1].arms, type(quality + 1).__name__
    (('small', 'large'), None, 'ndarray')
    """

    arms: tuple[Any, ...] | None

    def __new__(cls, values: ArrayLike, arms: Sequence[Any]) -> ArmMatrix:
        table = np.asarray(values, dtype=np.float64)
        if table.ndim != 2 or table.shape[1] != len(arms):
            raise ValueError(f"an ArmMatrix of {len(arms)} arms must have shape (n, {len(arms)}), got {table.shape}")
        matrix = table.view(cls)
        matrix.arms = tuple(arms)
        return matrix

    def __array_finalize__(self, source: Any) -> None:
        self.arms = None

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        plain = np.asarray(array)
        return plain[()] if return_scalar or plain.ndim == 0 else plain

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        rows_only = not isinstance(key, tuple) or (len(key) == 2 and key[1] is Ellipsis)
        if rows_only and isinstance(part, ArmMatrix) and part.ndim == 2 and part.shape[1:] == self.shape[1:]:
            part.arms = self.arms
        return part

    def copy(self, order: Any = "C") -> ArmMatrix:
        """Writable copy with the same names."""
        twin = super().copy(order)
        twin.arms = self.arms
        return twin

    def __copy__(self) -> ArmMatrix:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> ArmMatrix:
        return self.copy()

    def __reduce__(self) -> Any:
        return (np.asarray, (np.array(self),)) if self.arms is None else (ArmMatrix, (np.array(self), self.arms))
