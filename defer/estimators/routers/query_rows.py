"""Logged queries as rows of numbers: which are equal, and which count at all."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from defer.estimators.deferral.query_features import check_number_table
from defer.estimators.outcomes_input import Outcomes
from defer.exceptions import RouterInputError

__all__ = ["as_floats", "as_squarable", "check_costs_given", "check_numbers", "equal_rows", "weighted_rows"]

Ints = NDArray[np.intp]

# Sums of many squares up to them are finite in double and in single precision.
_LARGEST, _LARGEST_SINGLE = 1e145, 1e15


def check_numbers(router: Any, X: Any) -> None:
    """Raise RouterInputError for queries that are no table of numbers; the message names the router's class."""
    check_number_table(X, owner=type(router).__name__)


def check_costs_given(router: Any, outcomes: Outcomes, **needs: Any) -> None:
    """Raise RouterInputError where a router is fitted without costs and a parameter has the value that needs them."""
    for name, value in needs.items():
        if outcomes.cost is None and getattr(router, name) == value:
            raise RouterInputError(
                f"{type(router).__name__}: {name}={value!r} predicts the cost of every query, and fit was given no costs: pass "
                f"cost= to fit, or leave {name} at its default"
            )


def as_floats(X: Any, dtype: Any = None) -> Any:
    """A table in float32 if it is, else in float64; or in the type that is given.

    Examples
    --------
    >>> as_floats(np.array([[1]])).dtype, as_floats(np.ones((1, 1), dtype=np.float32)).dtype
    (dtype('float64'), dtype('float32'))
    """
    return X.astype(dtype or (np.float32 if X.dtype == np.float32 else np.float64), copy=False)


def as_squarable(X: Any, *, owner: str) -> Any:
    """A table as `as_floats` gives it, in float64 where squares of single-precision numbers would be infinite.

    Raises
    ------
    RouterInputError
        If a number is too large for float64, too.

    Examples
    --------
    >>> as_squarable(np.full((1, 1), 1e30, dtype=np.float32), owner="Router").dtype
    dtype('float64')
    """
    X = as_floats(X)
    values = X.data if issparse(X) else X
    size = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))
    if size > _LARGEST:
        raise RouterInputError(
            f"{owner}: the largest number of the queries is {size:.3g}, whose distances are infinite: scale the features (StandardScaler) "
            f"so that none is beyond {_LARGEST:g}"
        )
    return X.astype(np.float64) if X.dtype == np.float32 and size > _LARGEST_SINGLE else X


def weighted_rows(X: Any, outcomes: Outcomes) -> tuple[Any, Outcomes]:
    """Queries and outcomes without the rows of sample weight 0."""
    if outcomes.sample_weight is None or outcomes.sample_weight.all():
        return X, outcomes
    kept = np.flatnonzero(outcomes.sample_weight > 0)
    return X[kept], outcomes.of_rows(kept)


def equal_rows(X: Any) -> tuple[Ints, Ints]:
    """Row where each different query stands first, and each row's place among them.

    The order of the different queries does not depend on that of the rows, nor on whether they are sparse: they are sorted by
    a fixed random projection.

    Parameters
    ----------
    X : array or csr matrix of shape (n, d)

    Examples
    --------
    >>> first, group = equal_rows(np.array([[2.0], [1.0], [2.0]]))
    >>> len(first), bool(group[0] == group[2] != group[1])
    (2, True)
    """
    if issparse(X):
        X = csr_array(X, copy=True)
        X.sum_duplicates()
        X.eliminate_zeros()
        ends = X.indptr
        keys = [X.indices[low:high].tobytes() + X.data[low:high].tobytes() for low, high in pairwise(ends)]
    else:
        keys = [row.tobytes() for row in X + np.zeros(1, dtype=X.dtype)]  # -0.0 is 0.0
    found: dict[bytes, int] = {}
    group = np.array([found.setdefault(key, len(found)) for key in keys], dtype=np.intp)
    first = np.unique(group, return_index=True)[1]
    height = X[first] @ np.random.default_rng(0).standard_normal(X.shape[1])
    place = np.argsort(height, kind="stable")
    rank = np.empty(len(place), dtype=np.intp)
    rank[place] = np.arange(len(place))
    return first[place], rank[group]
