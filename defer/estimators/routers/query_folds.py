"""Folds that depend on what queries are and not on where they stand: equal queries are held out together.

A query that is logged k times then has the folds of one of weight k, and none is judged by a fit on its twin.
"""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import check_cv

from defer.exceptions import RouterInputError

__all__ = ["held_out_parts", "joined_groups", "query_codes", "query_folds"]

Index = NDArray[np.intp]

# Rows whose bits are looked at together.
_BLOCK = 4096


def query_codes(X: Any) -> Index:
    """A number of every query, shape (n,), equal for equal queries and for no others, whether dense or sparse.

    Queries are told apart by 64 bits of hash.

    Parameters
    ----------
    X : array or csr matrix of shape (n, d)

    Returns
    -------
    int array of shape (n,)
        From 0.  Where no two queries are the same in single precision alone, it is the same for `X` in single precision.

    Examples
    --------
    >>> query_codes(np.array([[0.5, 0.0], [0.1, 2.0], [0.5, 0.0]])).tolist() in ([0, 1, 0], [1, 0, 1])
    True
    >>> len(set(query_codes(np.array([[1e9], [1e9 + 1.0]])).tolist()))  # one number in single precision
    2
    """
    # Ordered by what is left of a query in single precision first: its rounding then changes no number.
    hashes = [_hashes(X, np.float32)]
    if np.dtype(X.dtype) != np.float32:
        hashes.insert(0, _hashes(X, np.float64))
    order = np.lexsort(hashes)
    starts = np.zeros(len(order), dtype=bool)
    for values in hashes:
        ranked = values[order]
        starts[1:] |= ranked[1:] != ranked[:-1]
    codes = np.empty(len(order), dtype=np.intp)
    codes[order] = np.cumsum(starts)
    return codes


def joined_groups(codes: NDArray[Any], groups: Index, *, counted: NDArray[np.bool_] | None = None) -> Index:
    """Groups joined by equal queries: the number of the first group of all that must be held out together, shape (n,).

    Parameters
    ----------
    codes : array of shape (n,)
        Equal for equal queries.
    groups : int array of shape (n,), >= 0
    counted : bool array of shape (n,), optional
        Queries that join groups; the others keep theirs.

    Examples
    --------
    >>> joined_groups(np.array([5, 5, 8, 9]), np.array([0, 1, 1, 2])).tolist()
    [0, 0, 0, 2]
    """
    rows = np.arange(len(codes)) if counted is None else np.flatnonzero(counted)
    place = np.unique(codes[rows], return_inverse=True)[1].ravel()
    n_groups = int(groups.max(initial=-1)) + 1
    size = n_groups + int(place.max(initial=-1)) + 1
    links = csr_array((np.ones(len(rows)), (groups[rows], n_groups + place)), shape=(size, size))
    part = connected_components(links, directed=False)[1][:n_groups]
    first = np.full(int(part.max(initial=-1)) + 1, n_groups)
    np.minimum.at(first, part, np.arange(n_groups))
    return np.asarray(first[part[groups]], dtype=np.intp)


def held_out_parts(
    cv: Any,
    codes: NDArray[Any],
    *,
    owner: str,
    counted: NDArray[np.bool_] | None = None,
    groups: NDArray[Any] | None = None,
) -> list[tuple[Index, Index]]:
    """Splits (train, test) in which every query is held out once.

    Parameters
    ----------
    cv : int, splitter or list of (train, test)
        A number deals out codes by `query_folds`; a splitter is given the groups; a list is taken as it is.
    codes : array of shape (n,)
        Equal where queries belong together.
    owner : str
        Class that asks, for messages.
    counted : bool array of shape (n,), optional
        As for `query_folds`.
    groups : array of shape (n,), optional

    Returns
    -------
    list of (train, test)
        All queries as both where there is one code alone.

    Raises
    ------
    RouterInputError
        If a number is below 2, a splitter cannot split these queries, or a query is in no test part, in several, or in the
        training part beside it.

    Examples
    --------
    >>> [test.tolist() for _, test in held_out_parts(2, np.array([5, 5, 9]), owner="Router")]
    [[0, 1], [2]]
    """
    n = len(codes)
    if isinstance(cv, Integral) and not isinstance(cv, bool) and int(cv) >= 2:
        folds = query_folds(codes, int(cv), counted=counted)
        numbers = np.unique(folds)
        if len(numbers) < 2:
            return [(np.arange(n), np.arange(n))]
        return [(np.flatnonzero(folds != number), np.flatnonzero(folds == number)) for number in numbers]
    if isinstance(cv, (Integral, str)) or not (hasattr(cv, "split") or hasattr(cv, "__iter__")):
        raise RouterInputError(f"{owner}: cv must be an integer >= 2, a splitter or a list of splits, got {cv!r}")
    try:
        parts = [(_places(train), _places(test)) for train, test in check_cv(cv).split(np.zeros((n, 1)), None, groups)]
    except (TypeError, ValueError) as error:
        raise RouterInputError(
            f"{owner}: cv={cv!r} gives no splits of {n} queries without labels"
            + ("" if groups is not None else " and groups")
            + f": {error}"
        ) from error
    held = np.concatenate([test for _, test in parts]) if parts else np.zeros(0, dtype=np.intp)
    if len(held) and any(rows.min(initial=0) < 0 or rows.max(initial=0) >= n for part in parts for rows in part):
        raise RouterInputError(
            f"{owner}: cv is a list of splits of other queries than the {n} of this fit, as within a search, where every fit sees a "
            "part of them; give a number or a splitter"
        )
    wrong = np.flatnonzero(np.bincount(held, minlength=n) != 1)
    if len(wrong):
        raise RouterInputError(
            f"{owner}: cv must hold every query out exactly once; {len(wrong)} are in no test part or in several, the first is row "
            f"{wrong[0]}"
        )
    for number, (train, test) in enumerate(parts):
        both = np.intersect1d(train, test)
        if len(both):
            raise RouterInputError(
                f"{owner}: cv holds queries out that it trains on: {len(both)} in part {number}, the first is row {both[0]}"
            )
    return parts


def _places(rows: Any) -> Index:
    """Row numbers of a part of a split, which may be given as a mask."""
    found = np.asarray(rows)
    return np.flatnonzero(found) if found.dtype == bool else found.astype(np.intp)


def query_folds(codes: NDArray[Any], n_folds: int, *, counted: NDArray[np.bool_] | None = None) -> Index:
    """Fold of every query, shape (n,): equal codes fall into one, and the folds hold as many codes each as they can.

    Parameters
    ----------
    codes : array of shape (n,)
    n_folds : int
        Fewer are made where there are fewer codes.
    counted : bool array of shape (n,), optional
        Queries whose codes are dealt out; the others, such as those without weight, change no fold and get 0.

    Examples
    --------
    >>> folds = query_folds(np.array([7, 3, 7, 5]), 3)
    >>> folds[0] == folds[2], sorted(set(folds.tolist()))
    (np.True_, [0, 1, 2])
    """
    folds = np.zeros(len(codes), dtype=np.intp)
    rows = np.arange(len(codes)) if counted is None else np.flatnonzero(counted)
    distinct, place = np.unique(codes[rows], return_inverse=True)
    deal = np.random.default_rng(0).permutation(np.arange(len(distinct)) % max(1, min(n_folds, len(distinct))))
    folds[rows] = deal[place.ravel()]
    return folds


def _hashes(X: Any, precision: type[np.floating[Any]]) -> NDArray[np.uint64]:
    """A hash of every query as it is in a precision, shape (n,)."""
    factors = np.random.default_rng(0).integers(1, 2**63, size=(2, X.shape[1]), dtype=np.uint64)
    factors = factors * np.uint64(2) + np.uint64(1)
    hashes = np.zeros(X.shape[0], dtype=np.uint64)
    if issparse(X):
        table = X.tocoo()
        for factor, words in zip(factors, _words(table.data, precision), strict=False):
            np.add.at(hashes, table.row, words * factor[table.col])
        return hashes
    for low in range(0, len(hashes), _BLOCK):
        part = slice(low, low + _BLOCK)
        for factor, words in zip(factors, _words(np.asarray(X[part]), precision), strict=False):
            hashes[part] += (words * factor).sum(axis=1, dtype=np.uint64)
    return hashes


def _words(values: NDArray[Any], precision: type[np.floating[Any]]) -> Iterator[NDArray[np.uint64]]:
    """The bits of every value, in words of 32."""
    with np.errstate(over="ignore"):
        # Adding 0 turns -0.0 into 0.0, whose bits are 0: a cell that a sparse table leaves out.
        table = np.ascontiguousarray(values, dtype=precision) + precision(0.0)
    if precision is np.float32:
        yield table.view(np.uint32).astype(np.uint64)
        return
    bits = table.view(np.uint64)
    yield bits & np.uint64(2**32 - 1)
    yield bits >> np.uint64(32)
