"""Columns of every library become the same arrays."""

from __future__ import annotations

from datetime import date, datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from defer.portfolios.columns import as_column, is_missing, number_groups

LIBRARIES = {
    "pandas": pd.Series,
    "polars": lambda values: pl.Series("x", values),
    "pyarrow": lambda values: pa.chunked_array([values]),
}
NOON, LATER = datetime(2024, 1, 1, 12), datetime(2024, 1, 2)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a", None, "b"], np.array(["a", None, "b"], dtype=object)),
        ([1, 2, 3], np.array([1, 2, 3])),
        ([1, None, 3], np.array([1.0, np.nan, 3.0])),
        ([0.5, None], np.array([0.5, np.nan])),
        ([True, False], np.array([True, False])),
        ([True, None], np.array([True, None], dtype=object)),
        ([NOON, LATER], np.array([NOON, LATER], dtype="M8[us]")),
        ([NOON, None], np.array([NOON, None], dtype="M8[us]")),
    ],
)
def test_every_library_gives_the_same_column(library, values, expected):
    column = as_column(LIBRARIES[library](values))
    assert type(column) is np.ndarray
    assert column.dtype == expected.dtype
    if column.dtype.kind == "O":
        assert column.tolist() == expected.tolist()
    else:
        assert np.array_equal(column, expected, equal_nan=column.dtype.kind in "fM")


@pytest.mark.parametrize("library", LIBRARIES)
def test_times_with_a_zone_become_naive_utc(library):
    zone = pd.Timestamp("2024-01-01T12:00", tz="Europe/Berlin").to_pydatetime()
    column = as_column(LIBRARIES[library]([zone, zone]))
    assert column.dtype.kind == "M"
    assert column.astype("M8[us]").tolist() == [datetime(2024, 1, 1, 11)] * 2


def test_categories_are_text_and_dates_are_days():
    for series in (
        pd.Series(["b", None, "a"], dtype="category"),
        pl.Series(["b", None, "a"], dtype=pl.Categorical),
        pa.chunked_array([pa.array(["b", None, "a"]).dictionary_encode()]),
    ):
        assert as_column(series).tolist() == ["b", None, "a"]
    for series in (pl.Series([date(2024, 1, 2)]), pa.chunked_array([[date(2024, 1, 2)]])):
        assert as_column(series).astype("M8[D]").tolist() == [date(2024, 1, 2)]


def test_arrays_and_lists_are_taken_as_they_are():
    assert as_column(["a", "b"]).dtype.kind == "U"
    assert as_column(np.array([1, 2], dtype=np.int16)).dtype == np.int16
    if hasattr(np.dtypes, "StringDType"):  # of NumPy 2
        assert as_column(np.array(["a", "b"], dtype=np.dtypes.StringDType())).dtype == object


@pytest.mark.parametrize(
    ("column", "missing"),
    [
        (np.array(["a", None, float("nan"), pd.NA, pd.NaT, ""], dtype=object), [False, True, True, True, True, False]),
        (np.array([1.0, np.nan]), [False, True]),
        (np.array(["2024-01-01", "NaT"], dtype="M8[s]"), [False, True]),
        (np.array([0, 1]), [False, False]),
        (np.array(["", "nan"]), [False, False]),
        (np.array([np.float64(1), np.float32("nan")], dtype=object), [False, True]),
    ],
)
def test_missing_values_are_found_in_columns_of_every_kind(column, missing):
    assert is_missing(column).tolist() == missing


def test_groups_are_numbered_in_order_of_appearance():
    group, first = number_groups(np.array([30, 10, 30, 20, 10]))
    assert group.tolist() == [0, 1, 0, 2, 1]
    assert first.tolist() == [0, 1, 3]
    group, first = number_groups(np.array(["b", 1, "b"], dtype=object))
    assert (group.tolist(), first.tolist()) == ([0, 1, 0], [0, 1])
