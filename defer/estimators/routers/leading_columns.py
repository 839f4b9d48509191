"""Exact nearest logged queries of one query from part of the columns: most rows are ruled out before they are read whole.

Rows are rotated to their principal axes.  By the Cauchy-Schwarz inequality the columns that are not read add at most the product
of two lengths to an inner product, so that a row whose best possible value is below what enough others have is none of the nearest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LeadingColumns"]

Ints = NDArray[np.intp]

# The columns that are read one after the other: so many parts, each of this share; of 384 columns 96 each time.
_PARTS, _SHARE = 2, 1 / 4
# A smaller table stays in the processor's cache, where one product with all of it takes no longer than the steps here.
_SMALLEST, _NARROWEST = 2**24, 96
# Share of the squared lengths that must lie in the parts; with less hardly a row is ruled out.
_ENERGY = 0.8
# Rows that the axes are learned from; any axes give the same neighbours.
_LEARNED_FROM = 4096


@dataclass(frozen=True, eq=False)
class LeadingColumns:
    """Logged queries on their leading principal axes.

    Attributes
    ----------
    axes : array of shape (d, p)
        Orthonormal columns, in decreasing order of what they hold.
    parts : list of arrays of shape (N, p / 2)
        The rotated rows, a few columns each.
    rests : list of arrays of shape (N,)
        Upper bounds of the length that lies behind each part.
    longest : float
        Length of the longest row.

    Notes
    -----
    Takes half as much memory as the logged queries.

    Examples
    --------
    >>> LeadingColumns.fit(np.ones((3, 2))) is None  # small tables are searched faster whole
    True
    """

    axes: NDArray[Any]
    parts: list[NDArray[Any]]
    rests: list[NDArray[Any]]
    longest: float

    @classmethod
    def fit(cls, queries: NDArray[Any]) -> LeadingColumns | None:
        """Rotate the logged queries; None where that would not pay: a small table, narrow, or alike in all directions.

        Parameters
        ----------
        queries : array of shape (N, d)
        """
        size, d = queries.shape
        if queries.nbytes < _SMALLEST or d < _NARROWEST:
            return None
        squares = np.einsum("ij,ij->i", queries, queries, dtype=np.float64)
        longest = float(np.sqrt(squares.max()))
        if not 0 < longest < float(np.finfo(queries.dtype).max) ** 0.4:
            return None  # squares that are not finite bound nothing
        some = queries[:: -(-size // _LEARNED_FROM)].astype(np.float64)
        held, axes = np.linalg.eigh(some.T @ some)
        width = int(d * _SHARE)
        if not held[-width * _PARTS :].sum() >= _ENERGY * held.sum():
            return None
        axes = np.ascontiguousarray(axes[:, ::-1][:, : width * _PARTS].astype(queries.dtype))
        parts, rests = [], []
        # What rounding may hide from a length is in the bound.
        rest = squares * (1.0 + _rounding(d, queries.dtype))
        for low in range(0, width * _PARTS, width):
            part = queries @ axes[:, low : low + width]
            rest = rest - np.einsum("ij,ij->i", part, part, dtype=np.float64)
            hidden = squares * _rounding(d, queries.dtype)
            parts.append(part)
            rests.append(np.sqrt(np.maximum(rest, 0.0) + hidden).astype(queries.dtype))
        return cls(axes, parts, rests, longest)

    def nearest(self, query: NDArray[Any], queries: NDArray[Any], k: int, norms: NDArray[Any] | None) -> Ints | None:
        """The k rows of the largest inner product, less half their squared norm where norms are given.

        Parameters
        ----------
        query : array of shape (d,)
        queries : array of shape (N, d)
            What was fitted.
        k : int
        norms : array of shape (N,) or None
            Squared norms: the nearest rows by the Euclidean distance.

        Returns
        -------
        array of shape (k,) or None
            None where too many rows are left, or rounding decides between the last of the k and the next row.
        """
        size, d = queries.shape
        length = float(np.linalg.norm(query))
        unit = self.longest * (length + (0.0 if norms is None else self.longest))
        bias = None if norms is None else 0.5 * norms
        rows = self._left_over(query, queries, k, bias, _rounding(d, queries.dtype) * unit)
        if rows is None or not k < len(rows) <= size // 4:
            return None
        found = _values(query, queries, bias, rows)
        order = np.argpartition(found, (len(found) - k - 1, len(found) - k))
        gap = found[order[-k]] - found[order[-k - 1]]
        # The likely size of what rounding adds up to, as in the product with all rows.
        tied = _rounding(d, queries.dtype) / np.sqrt(d) * unit
        return rows[order[-k:]] if gap > tied else None

    def _left_over(
        self, query: NDArray[Any], queries: NDArray[Any], k: int, bias: NDArray[Any] | None, slack: float
    ) -> Ints | None:
        """Rows that may be among the k nearest, after as many parts as it takes; None for all of them."""
        size, width = len(queries), self.parts[0].shape[1]
        probed = 3 * k
        if probed > size // 16:
            return None
        rotated, ahead = query @ self.axes, float(query.astype(np.float64) @ query)
        ahead *= 1.0 + _rounding(len(query), queries.dtype)
        hidden, rows, bound = ahead * _rounding(len(query), queries.dtype), None, -np.inf
        value = np.zeros(size, dtype=queries.dtype) if bias is None else -bias
        for index, (part, rest) in enumerate(zip(self.parts, self.rests, strict=True)):
            some = rotated[index * width : (index + 1) * width]
            ahead -= float(some.astype(np.float64) @ some)
            value += (part if rows is None else part[rows]) @ some
            probes = _highest(value, probed)
            found = _values(query, queries, bias, probes if rows is None else rows[probes])
            bound = max(bound, float(np.partition(found, len(found) - k)[-k]))
            best = value + (rest if rows is None else rest[rows]) * float(np.sqrt(max(ahead, 0.0) + hidden))
            kept = np.flatnonzero(best >= bound - slack)
            # Above a third, reading on in all rows is faster than picking some.
            if rows is not None or len(kept) < size // 3:
                rows, value = kept if rows is None else rows[kept], value[kept]
                if len(rows) <= 2 * probed:
                    break
        return rows


def _rounding(d: int, dtype: Any) -> float:
    """Relative error beyond what products of d columns and their rotation can have."""
    return 4.0 * d * float(np.finfo(dtype).eps)


def _values(query: NDArray[Any], queries: NDArray[Any], bias: NDArray[Any] | None, rows: Ints) -> NDArray[Any]:
    found = queries[rows] @ query
    return found if bias is None else found - bias[rows]


def _highest(value: NDArray[Any], count: int) -> Ints:
    """Different places of high values, at most `count`: the best of each of as many groups, which is found fast."""
    groups = len(value) // 8
    if groups <= count:
        count = min(count, len(value))
        return np.argpartition(value, len(value) - count)[len(value) - count :]
    table = value[: groups * 8].reshape(8, groups)
    columns = np.argpartition(table.max(axis=0), groups - count)[groups - count :]
    return table[:, columns].argmax(axis=0) * groups + columns
