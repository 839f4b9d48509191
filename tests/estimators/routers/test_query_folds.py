"""Numbers of queries: equal for equal ones and no others; groups that share a query are one."""

from __future__ import annotations

import warnings
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.model_selection import GroupKFold, StratifiedKFold

from defer.estimators.routers.query_folds import held_out_parts, joined_groups, query_codes
from defer.exceptions import RouterInputError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "X",
    [
        1e9 + RNG.uniform(0.0, 20.0, size=(200, 1)),
        np.arange(3000.0)[:, None],
        2.0 ** np.arange(-500, 500)[:, None],
        np.nextafter(1.0, [[0.0], [1.0], [2.0]]),
        np.arange(1000).reshape(500, 2),
        np.array([[1e-60], [0.0], [1e60], [1e300], [-1e300]]),
    ],
    ids=["offset", "whole numbers", "powers", "neighbours", "integers", "beyond single precision"],
)
def test_queries_that_differ_in_double_precision_are_told_apart(X: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        codes = query_codes(np.vstack([X, X]))
        assert len(set(codes.tolist())) == len(X)
        np.testing.assert_array_equal(codes[: len(X)], codes[len(X) :])
        np.testing.assert_array_equal(query_codes(sparse.csr_array(np.vstack([X, X]))), codes)


def test_rounding_to_single_precision_changes_no_number_unless_it_makes_queries_equal() -> None:
    X = RNG.normal(size=(5000, 3))
    np.testing.assert_array_equal(query_codes(X), query_codes(X.astype(np.float32)))
    close = 1e9 + np.arange(300.0)[:, None]
    single = query_codes(close.astype(np.float32))
    assert len(set(single.tolist())) == len(np.unique(close.astype(np.float32)))
    # What single precision tells apart keeps its order.
    double = query_codes(close)
    assert all(
        (single[a] < single[b]) == (double[a] < double[b])
        for a in range(0, 300, 7)
        for b in range(300)
        if single[a] != single[b]
    )


def test_numbers_do_not_depend_on_the_order_of_the_rows() -> None:
    X = RNG.integers(5, size=(60, 2)) / 10.0
    order = RNG.permutation(60)
    np.testing.assert_array_equal(query_codes(X[order]), query_codes(X)[order])


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans()), min_size=1, max_size=14))
def test_groups_are_joined_by_what_they_share_and_by_nothing_else(rows: list[tuple[int, int, bool]]) -> None:
    codes, groups, counted = (np.array(column) for column in zip(*rows, strict=True))
    found = joined_groups(codes, groups, counted=counted)
    # By hand: the least group that can be reached.
    least = {group: group for group in groups.tolist()}
    for _ in rows:
        for one, other in permutations(np.flatnonzero(counted).tolist(), 2):
            if codes[one] == codes[other] or groups[one] == groups[other]:
                low = min(least[groups[one]], least[groups[other]])
                least[groups[one]] = least[groups[other]] = low
    assert found.tolist() == [least[group] for group in groups.tolist()]


def test_groups_without_common_queries_stay_as_they_are() -> None:
    groups = RNG.integers(9, size=50)
    np.testing.assert_array_equal(joined_groups(np.arange(50), groups), groups)
    assert joined_groups(np.zeros(50), groups).tolist() == [groups.min()] * 50


@pytest.mark.parametrize(
    ("cv", "message"),
    [
        (StratifiedKFold(2), r"Router: cv=StratifiedKFold\(.*gives no splits of 6 queries without labels and groups: "),
        (GroupKFold(2), r"Router: cv=GroupKFold\(.*gives no splits of 6 queries without labels and groups: "),
        ([(np.arange(6), np.arange(3)), (np.arange(3), np.arange(3, 6))], "trains on: 3 in part 0, the first is row 0"),
        (
            [(np.arange(3), np.arange(-3, 0)), (np.arange(3, 6), np.arange(3))],
            "list of splits of other queries than the 6",
        ),
    ],
)
def test_splits_that_hold_nothing_out_are_refused(cv: Any, message: str) -> None:
    with pytest.raises(RouterInputError, match=message):
        held_out_parts(cv, np.arange(6), owner="Router")


def test_splits_may_be_masks() -> None:
    first = np.arange(6) < 3
    parts = held_out_parts([(first, ~first), (~first, first)], np.arange(6), owner="Router")
    assert [(train.tolist(), test.tolist()) for train, test in parts] == [
        ([0, 1, 2], [3, 4, 5]),
        ([3, 4, 5], [0, 1, 2]),
    ]
