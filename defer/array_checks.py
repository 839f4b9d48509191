"""Refusing an array for some of its values, with the first of them in the message."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["refuse_values"]


def refuse_values(
    name: str, values: NDArray[np.generic], wrong: NDArray[np.bool_], allowed: str, *, error: type[Exception]
) -> None:
    """Raise an error if any value is wrong.

    Parameters
    ----------
    name : str
        What the array is called.
    values : array
    wrong : bool array of the shape of `values`
    allowed : str
        What each value must be.
    error : type

    Examples
    --------
    >>> refuse_values("cost", np.array([0.0, 1.0]), np.array([False, False]), "finite", error=ValueError)
    """
    places = np.argwhere(wrong)
    if len(places):
        first = tuple(places[0])
        where = f"row {first[0]}" + "".join(f", column {place}" for place in first[1:])
        raise error(
            f"{name} has {len(places)} of {values.size} values that are not allowed, the first in {where} ({values[first]}); "
            f"each must be {allowed}"
        )
