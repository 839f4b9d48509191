"""Folds that depend on what queries are and not on where they stand: equal queries are held out together.

A query that is logged k times then has the folds of one of weight k, and none is judged by a fit on its twin.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.model_selection import check_cv

from defer.exceptions import RouterInputError

__all__ = ["held_out_parts", "query_codes", "query_folds"]

Index = NDArray[np.intp]

# Rows whose bits are looked at together.
_BLOCK = 4096


def query_codes(X: Any) -> NDArray[np.uint64]:
    """A number of every query, shape (n,), equal for equal queries, whether dense or sparse, in single or double precision.

    Parameters
    ----------
    X : array or csr matrix of shape (n, d)

    Examples
    --------
    >>> codes = query_codes(np.array([[0.5, 0.0], [0.1, 2.0], [0.5, 0.0]]))
    >>> codes[0] == codes[2], codes[0] == codes[1]
    (np.True_, np.False_)
    """
    factor = np.random.default_rng(0).integers(1, 2**63, size=X.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    codes = np.zeros(X.shape[0], dtype=np.uint64)
    if issparse(X):
        table = X.tocoo()
        np.add.at(codes, table.row, _bits(table.data) * factor[table.col])
        return codes
    for low in range(0, len(codes), _BLOCK):
        part = slice(low, low + _BLOCK)
        codes[part] = (_bits(np.asarray(X[part])) * factor).sum(axis=1, dtype=np.uint64)
    return codes


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
        If a number is below 2, or a query is in no test part or in several.

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
    parts = [
        (np.asarray(train), np.asarray(test)) for train, test in check_cv(cv).split(np.zeros((n, 1)), None, groups)
    ]
    held = np.concatenate([test for _, test in parts]) if parts else np.zeros(0, dtype=np.intp)
    if len(held) and max(int(rows.max(initial=0)) for part in parts for rows in part) >= n:
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
    return parts


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


def _bits(values: NDArray[Any]) -> NDArray[np.uint64]:
    # Adding 0 turns -0.0 into 0.0, whose bits are 0: a cell that a sparse table leaves out.
    single = np.ascontiguousarray(values, dtype=np.float32) + np.float32(0.0)
    return single.view(np.uint32).astype(np.uint64)
