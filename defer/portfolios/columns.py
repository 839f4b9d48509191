"""Columns with one value a query, from any library, as NumPy arrays; what is missing in them, and what is equal.

Text becomes an object array of str with None where it is missing, times become naive UTC, and integers with gaps become
floats, so that the same table gives the same column whichever library holds it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

__all__ = ["as_column", "in_words", "is_missing", "number_groups"]


def as_column(values: Any) -> NDArray[Any]:
    """One-dimensional data of any kind as an array.

    Examples
    --------
    >>> import pyarrow as pa
    >>> as_column(pa.chunked_array([["a", None]])), as_column(pa.chunked_array([[1, None]]))
    (array(['a', None], dtype=object), array([ 1., nan]))
    """
    series = nw.from_native(values, series_only=True, pass_through=True)
    if not isinstance(series, nw.Series):
        column = np.asarray(values)
        return column.astype(object) if column.dtype.kind == "T" else column
    dtype, gaps = series.dtype, bool(series.null_count())
    if dtype.is_float() or dtype.is_decimal() or (dtype.is_integer() and gaps):
        return np.asarray(series.cast(nw.Float64).fill_null(float("nan")).to_numpy())
    if dtype.is_integer() or (dtype == nw.Boolean and not gaps):
        return np.asarray(series.to_numpy())
    if dtype == nw.Datetime and getattr(dtype, "time_zone", None) is not None:
        series = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    if dtype.is_temporal() and dtype != nw.Time:
        return np.asarray(series.to_numpy())
    column = np.empty(len(series), dtype=object)
    column[:] = series.to_list()
    column[is_missing(column)] = None
    return column


def is_missing(column: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a column holds None, NaN or NaT."""
    if column.dtype.kind == "O":
        return np.fromiter((value is None or _unlike_itself(value) for value in column), np.bool_)
    if column.dtype.kind in "mM":
        return np.isnat(column)
    return np.isnan(column) if column.dtype.kind in "fc" else np.zeros(len(column), dtype=bool)


def number_groups(values: Iterable[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Number of the group of equal values that each belongs to, in order of appearance, and the first row of each group.

    Examples
    --------
    >>> group, first = number_groups(["b", "a", "b"])
    >>> group.tolist(), first.tolist()
    ([0, 1, 0], [0, 1])
    """
    number: dict[Any, int] = {}
    items = values.tolist() if isinstance(values, np.ndarray) else values
    group = np.fromiter((number.setdefault(value, len(number)) for value in items), np.intp)
    first = np.full(len(number), len(group), dtype=np.intp)
    np.minimum.at(first, group, np.arange(len(group)))
    return group, first


def in_words(value: Any) -> str:
    """A value as it is shown in a message: numbers of NumPy as plain ones, text in quotes.

    Examples
    --------
    >>> in_words(np.int64(3)), in_words("a")
    ('3', "'a'")
    """
    return repr(value.item() if isinstance(value, np.generic) else value)


def _unlike_itself(value: Any) -> bool:
    different = value != value
    return bool(different) if isinstance(different, (bool, np.bool_)) else True
