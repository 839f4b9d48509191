"""Exact search for the nearest exemplars by cosine, in which equal distances keep the order of the exemplars."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.utils.extmath import row_norms, safe_sparse_dot

from defer.estimators.routers.query_rows import as_floats

__all__ = ["cosine_distances", "nearest_exemplars", "row_blocks", "same_direction", "unit_rows"]

# Numbers of a block of distances: a few temporaries of this size are alive at a time.
_BLOCK = 2**22


def unit_rows(X: Any) -> Any:
    """Rows of length 1, float32 or float64; rows of zeros stay zeros, sparse tables stay sparse.

    Examples
    --------
    >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    X = as_floats(X)
    norms = row_norms(X)
    scale = (1.0 / np.where(norms > 0, norms, 1.0)).astype(X.dtype)
    return X.multiply(scale[:, None]).tocsr() if issparse(X) else X * scale[:, None]


def same_direction(dtype: Any) -> float:
    """Cosine distance below which rows count as equal: what rounding leaves of 0."""
    return 1e-6 if dtype == np.float32 else 1e-12


def cosine_distances(units: Any, exemplars: Any) -> NDArray[Any]:
    """1 - cosine of every pair of unit rows, shape (n, N), rounded so that equal distances are equal numbers.

    Examples
    --------
    >>> cosine_distances(np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])).tolist()
    [[0.0, 1.0, 2.0]]
    """
    distance = safe_sparse_dot(units, exemplars.T, dense_output=True)
    np.subtract(1.0, distance, out=distance)
    # A matrix product sums equal rows in different orders, depending on where in the matrix they stand.
    step = distance.dtype.type(same_direction(distance.dtype))
    np.round(distance / step, out=distance)
    distance *= step
    return np.maximum(distance, 0.0, out=distance)


def nearest_exemplars(distance: NDArray[Any], k: int) -> NDArray[np.intp]:
    """Indices of the k nearest of every row, nearest first, shape (n, k); equal distances by index.

    Parameters
    ----------
    distance : array of shape (n, N)
    k : int
        From 1 to N.

    Examples
    --------
    >>> nearest_exemplars(np.array([[0.5, 0.1, 0.5, 0.5]]), 3).tolist()
    [[1, 0, 2]]
    """
    n, size = distance.shape
    if k < size:
        edge = np.partition(distance, k - 1, axis=1)[:, k - 1 : k]
        chosen = distance <= edge
        crowded = np.flatnonzero(chosen.sum(axis=1) > k)
        if len(crowded):
            part, inside = distance[crowded], distance[crowded] < edge[crowded]
            at_edge = part == edge[crowded]
            places = k - inside.sum(axis=1, keepdims=True)
            chosen[crowded] = inside | (at_edge & (np.cumsum(at_edge, axis=1) <= places))
        near = np.nonzero(chosen)[1].reshape(n, k)
    else:
        near = np.broadcast_to(np.arange(size), (n, size))
    order = np.argsort(np.take_along_axis(distance, near, axis=1), axis=1, kind="stable")
    return np.take_along_axis(near, order, axis=1)


def row_blocks(n: int, per_row: int) -> Iterator[slice]:
    """Slices of n rows such that a block of them has a bounded number of distances.

    Examples
    --------
    >>> list(row_blocks(3, 2**21))
    [slice(0, 2, None), slice(2, 3, None)]
    """
    step = max(1, _BLOCK // max(1, per_row))
    for low in range(0, n, step):
        yield slice(low, min(low + step, n))
