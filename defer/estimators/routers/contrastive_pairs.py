"""Pairs of logged queries that belong together or apart, from which an embedding learns.

Source: OrchestraLLM (Lee, Cheng, Ostendorf, NAACL 2024, arXiv 2311.09758); how many pairs are taken of a query is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from sklearn.utils import check_random_state

from defer.estimators.deferral.parameter_checks import check_counts, seed_of
from defer.estimators.routers.exemplar_search import cosine_distances, nearest_exemplars, row_blocks, unit_rows
from defer.exceptions import RouterInputError

__all__ = ["QueryPairs", "expert_pairs", "task_pairs", "task_similarity"]

Floats = NDArray[np.float64]
Annotation = tuple[Mapping[str, Any], Mapping[str, Any]]

# Less than any two different sums of F1 scores of a few dozen slots lie apart.
_TIE = 1e-9


@dataclass(frozen=True, eq=False)
class QueryPairs:
    """Pairs of rows of a log.

    Attributes
    ----------
    first, second : int arrays of shape (p,)
        Rows; ``first < second``, and no pair comes twice.
    same : array of shape (p,)
        1 where the pair belongs together, 0 where it does not; what lies between is the mean of sources that disagree.

    Examples
    --------
    >>> pairs = QueryPairs.of([1, 0], [0, 2], [1.0, 0.0])
    >>> pairs.first.tolist(), pairs.second.tolist(), pairs.same.tolist()
    ([0, 0], [1, 2], [1.0, 0.0])
    """

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    same: Floats

    @classmethod
    def of(cls, first: ArrayLike, second: ArrayLike, same: ArrayLike) -> QueryPairs:
        """Pairs in a standard form; of a pair that comes several times the mean of `same` is taken.

        Parameters
        ----------
        first, second : int arrays of shape (p,)
        same : array of shape (p,)
        """
        rows = np.column_stack([first, second]).reshape(-1, 2).astype(np.intp)
        rows.sort(axis=1)
        pairs, number = np.unique(rows, axis=0, return_inverse=True)
        number = number.ravel()
        count = np.bincount(number, minlength=len(pairs))
        total = np.bincount(number, weights=np.asarray(same, dtype=np.float64), minlength=len(pairs))
        return cls(pairs[:, 0].copy(), pairs[:, 1].copy(), total / np.maximum(count, 1))

    def __len__(self) -> int:
        return len(self.same)

    def __add__(self, other: QueryPairs) -> QueryPairs:
        return QueryPairs.of(
            np.concatenate([self.first, other.first]),
            np.concatenate([self.second, other.second]),
            np.concatenate([self.same, other.same]),
        )


def expert_pairs(X: Any, winner: ArrayLike, *, n_pairs: int = 10) -> QueryPairs:
    """Near neighbours by the embedding as it is: together where the same arm won, apart where another did.

    Parameters
    ----------
    X : array or sparse matrix of shape (n, d)
        Embeddings.
    winner : int array of shape (n,)
        Arm whose pool each query is in; -1 = in none, which makes no pairs.
    n_pairs : int, default=10
        Neighbours of every query.

    Returns
    -------
    QueryPairs

    Raises
    ------
    RouterInputError
        If `winner` has another shape than (n,), or `n_pairs` is no integer >= 1.

    Examples
    --------
    >>> pairs = expert_pairs(np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), [0, 1, -1])
    >>> pairs.first.tolist(), pairs.second.tolist(), pairs.same.tolist()
    ([0], [1], [0.0])
    """
    check_counts("expert_pairs", n_pairs=n_pairs)
    labels = np.asarray(winner)
    if labels.shape != (X.shape[0],):
        raise RouterInputError(f"expert_pairs: winner must have shape ({X.shape[0]},), got {labels.shape}")
    rows = np.flatnonzero(labels >= 0)
    units, labels = unit_rows(X)[rows], labels[rows]
    k = min(n_pairs, len(rows) - 1)
    if k < 1:
        return QueryPairs.of([], [], [])
    near = np.empty((len(rows), k), dtype=np.intp)
    for block in row_blocks(len(rows), len(rows)):
        distance = cosine_distances(units[block], units)
        inside = np.arange(len(distance))
        distance[inside, inside + block.start] = np.inf
        near[block] = nearest_exemplars(distance, k)
    first = np.repeat(np.arange(len(rows)), k)
    return QueryPairs.of(rows[first], rows[near.ravel()], labels[first] == labels[near.ravel()])


def task_pairs(annotations: Sequence[Annotation], *, n_pairs: int = 10, random_state: Any = None) -> QueryPairs:
    """The turns most alike in their gold annotations belong together, the least alike apart, whichever arm was right.

    Parameters
    ----------
    annotations : sequence of n pairs of mappings
        State before the turn, and what the turn says: values by slot.
    n_pairs : int, default=10
        Positives and negatives of every turn, each.
    random_state : int, Generator, RandomState instance or None
        Chooses among equally similar turns: most have nothing in common.

    Returns
    -------
    QueryPairs
        A turn that is as similar to its most as to its least similar turns makes no pairs.

    Raises
    ------
    RouterInputError
        If an annotation is no pair of mappings, or `n_pairs` is no integer >= 1.

    Examples
    --------
    >>> turns = [({}, {"area": "north"}), ({}, {"area": "north"}), ({}, {"food": "thai"})]
    >>> pairs = task_pairs(turns, n_pairs=1, random_state=0)
    >>> pairs.first.tolist(), pairs.second.tolist(), pairs.same.tolist()
    ([0, 0, 1], [1, 2, 2], [1.0, 0.0, 0.0])
    """
    check_counts("task_pairs", n_pairs=n_pairs)
    n, similarity = len(annotations), _TaskSimilarity(annotations)
    rng = check_random_state(seed_of(random_state))
    k = min(n_pairs, (n - 1) // 2)
    if k < 1:
        return QueryPairs.of([], [], [])
    first, second, same = [], [], []
    for block in row_blocks(n, n):
        alike = similarity(block)
        rows = np.arange(len(alike))
        ranked = alike + _TIE * rng.random_sample(alike.shape)
        ranked[rows, rows + block.start] = np.nan  # sorted to the end
        order = np.argsort(ranked, axis=1)[:, : n - 1]
        for chosen, label in ((order[:, -k:], 1.0), (order[:, :k], 0.0)):
            # Where even these are as alike as those at the other end there is nothing to learn from.
            other = order[:, :1] if label else order[:, -1:]
            values, least = np.take_along_axis(alike, chosen, axis=1), np.take_along_axis(alike, other, axis=1)
            row, place = np.nonzero(values > least if label else values < least)
            first.append(row + block.start)
            second.append(chosen[row, place])
            same.append(np.full(len(row), label))
    return QueryPairs.of(np.concatenate(first), np.concatenate(second), np.concatenate(same))


def task_similarity(annotations: Sequence[Annotation]) -> Floats:
    """F1 of the states before two turns plus F1 of what the turns say, over pairs of slot and value.

    Parameters
    ----------
    annotations : sequence of n pairs of mappings

    Returns
    -------
    array of shape (n, n)
        In [0, 2]; the F1 of two empty mappings is 1.

    Raises
    ------
    RouterInputError
        If an annotation is no pair of mappings.

    Examples
    --------
    >>> task_similarity([({}, {"area": "north", "food": "thai"}), ({}, {"area": "north"})]).round(4).tolist()
    [[2.0, 1.6667], [1.6667, 2.0]]
    """
    return _TaskSimilarity(annotations)(slice(0, len(annotations)))


class _TaskSimilarity:
    """Similarities of a block of turns to all, by products of sparse tables."""

    def __init__(self, annotations: Sequence[Annotation]) -> None:
        for row, given in enumerate(annotations):
            pair = isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 2
            if not pair or not all(isinstance(part, Mapping) for part in given):
                raise RouterInputError(
                    f"annotations: each must be a pair (state before the turn, what the turn says) of mappings from slot to "
                    f"value, and row {row} is {given!r}"
                )
        self.tables = [_incidence([given[part] for given in annotations]) for part in (0, 1)]

    def __call__(self, block: slice) -> Floats:
        return np.asarray(sum(_f1_rows(table, block) for table in self.tables))


def _incidence(mappings: Sequence[Mapping[str, Any]]) -> csr_array:
    """1 where a mapping has a slot with a value, shape (n, number of slots and values)."""
    column: dict[tuple[str, str], int] = {}
    indices = [
        column.setdefault((str(slot), str(value)), len(column)) for one in mappings for slot, value in one.items()
    ]
    ends = np.concatenate([[0], np.cumsum([len(one) for one in mappings], dtype=np.intp)])
    return csr_array((np.ones(len(indices)), indices, ends), shape=(len(mappings), max(1, len(column))))


def _f1_rows(table: csr_array, block: slice) -> Floats:
    size = np.diff(table.indptr).astype(np.float64)
    common = (table[block] @ table.T).toarray()
    total = size[block, None] + size[None, :]
    return np.where(total > 0, 2.0 * common / np.where(total > 0, total, 1.0), 1.0)
