"""The best rule at a given rate: whom to defer, where ties are, and which queries are atoms of what will be asked.

Source: the Neyman-Pearson argument for two agents, as in Okati, De, Gomez-Rodriguez 2021.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse

from defer.estimators.deferral.own_model import Fold
from defer.exceptions import RouterInputError

__all__ = ["ROUNDING", "TIE", "deferred_share", "folds_of_copies", "is_atom", "triage_threshold"]

Floats = NDArray[np.float64]

# Share of the weight from which on copies of a query are an atom.  A prediction for one is a mean over many outcomes, so that
# none of them is seen in it; and if the threshold missed it, the rate would be missed by as much.
_ATOM = 0.02

# Advantages closer than this to the largest of them are ties: they are differences of rounded predictions.
TIE = 1e-9
# What one prediction differs from itself by, in another batch.
ROUNDING = 1e-13


def triage_threshold(
    advantage: ArrayLike, rate: float, *, weight: ArrayLike | None = None, extra: ArrayLike | None = None
) -> tuple[float, float]:
    """Threshold of the best rule that defers at most a given share of the queries.

    Defer above the threshold, and at it with the probability that is returned.  That defers exactly
    min(rate, P(advantage > 0)): the queries of largest positive advantage.

    Parameters
    ----------
    advantage : array of shape (n,)
        Quality of the expert less the own quality.
    rate : float
        In (0, 1]: share of the weight that may be deferred; with `extra`, what may be spent per query.
    weight : array of shape (n,), optional
        Of the queries, >= 0.
    extra : array of shape (n,), optional
        Extra cost of deferring each query, > 0.  Then queries are taken in order of advantage / extra, to which the
        threshold refers, until they have spent `rate` per query.

    Returns
    -------
    threshold, probability : float
        Advantages that are less than 1e-9 below the largest of them are tied, and the largest is the threshold.  0, 0 where the
        limit does not bind; halfway between two neighbours where the limit falls between them.

    Raises
    ------
    RouterInputError
        If shapes do not match, a weight is negative, or an extra cost or the rate is not positive.

    Examples
    --------
    >>> triage_threshold([0.3, 0.3, 0.1, -0.2], 0.25)
    (0.3, 0.5)
    """
    advantage = np.asarray(advantage, dtype=np.float64)
    mass = np.ones(len(advantage)) if weight is None else np.asarray(weight, dtype=np.float64)
    price = np.ones(len(advantage)) if extra is None else np.asarray(extra, dtype=np.float64)
    if not advantage.shape == mass.shape == price.shape or advantage.ndim != 1 or not np.isfinite(advantage).all():
        raise RouterInputError(
            f"triage: advantage, weight and extra must be finite and of one shape (n,), got {advantage.shape}, {mass.shape} "
            f"and {price.shape}"
        )
    if not (mass >= 0).all() or not mass.any() or not (price > 0).all() or not rate > 0:
        raise RouterInputError(f"triage: weight must be >= 0 and not all 0, extra > 0 and rate > 0, got rate {rate!r}")
    allowed = rate * mass.sum()
    falling = np.argsort(-advantage / price, kind="stable")
    value = (advantage / price)[falling]
    first = _tie_starts(value)
    spent = np.add.reduceat((mass * price)[falling], first)
    value, total = value[first], np.cumsum(spent)
    # Equality is what is wanted of a rate such as 0.2 of 10 queries, whatever its last bit.
    slack = 1e-12 * max(allowed, total[-1])
    positive = int(np.count_nonzero(value > 0))
    if positive == 0 or total[positive - 1] <= allowed + slack:
        return 0.0, 0.0
    last = int(np.flatnonzero(total > allowed + slack)[0])
    left = allowed - (total[last - 1] if last else 0.0)
    if left <= slack and last:
        return float((value[last - 1] + value[last]) / 2.0), 0.0
    return float(value[last]), float(left / spent[last])


def deferred_share(advantage: Floats, threshold: float, probability: float) -> Floats:
    """Probability with which each query is deferred under a rule of `triage_threshold`, shape (n,).

    Examples
    --------
    >>> deferred_share(np.array([0.5, 0.3, 0.1]), 0.3, 0.5).tolist()
    [1.0, 0.5, 0.0]
    """
    return np.where(advantage > threshold, 1.0, np.where(advantage >= threshold - TIE, probability, 0.0))


def is_atom(X: Any, weight: Floats) -> NDArray[np.bool_]:
    """Whether each query and its copies make up two in a hundred of the weight, shape (n,).

    Parameters
    ----------
    X : array, csr matrix or list of n queries
        Among other kinds of queries none is found.
    weight : array of shape (n,)

    Examples
    --------
    >>> is_atom(["add", "add", "rhyme"], np.array([1.0, 1.0, 0.0])).tolist()
    [True, True, False]
    """
    copy = _copy_of(X, len(weight))
    return (np.bincount(copy, weights=weight) >= _ATOM * weight.sum())[copy]


def folds_of_copies(
    X: Any, weight: Floats, n_folds: int, *, group: NDArray[np.intp] | None = None, seed: int
) -> list[Fold]:
    """Folds for a table of outcomes, which keep copies of a query together: one of weight k is then worth k of them.

    Parameters
    ----------
    X : as for `is_atom`
    weight : array of shape (n,)
        A query without weight is held out, and moves no other one.
    n_folds : int
        At most; none are made of a single query.
    group : int array of shape (n,), optional
        What is kept together in place of copies.
    seed : int

    Examples
    --------
    >>> [test.tolist() for _, test in folds_of_copies(["add", "add", "rhyme"], np.ones(3), 5, seed=0)]
    [[0, 1], [2]]
    """
    copy = _copy_of(X, len(weight)) if group is None else np.unique(group, return_inverse=True)[1]
    counted = np.flatnonzero(np.bincount(copy, weights=weight) > 0)
    n_folds = min(n_folds, len(counted))
    if n_folds < 2:
        return []
    fold = np.zeros(copy.max() + 1, dtype=np.intp)
    fold[counted] = np.random.default_rng(seed).permutation(len(counted)) % n_folds
    return [(np.flatnonzero(fold[copy] != part), np.flatnonzero(fold[copy] == part)) for part in range(n_folds)]


def _copy_of(X: Any, n: int) -> NDArray[np.intp]:
    """Number of the query that each row is a copy of, in the order in which they first appear."""
    index: dict[Any, int] = {}
    return np.array([index.setdefault(key, len(index)) for key in _keys(X, n)], dtype=np.intp)


def _keys(X: Any, n: int) -> Any:
    if isinstance(X, np.ndarray) and X.dtype != object:
        return (row.tobytes() for row in X)
    if issparse(X):
        X = X.tocsr()
        ends = zip(X.indptr[:-1], X.indptr[1:], strict=True)
        return ((X.indices[i:j].tobytes(), X.data[i:j].tobytes()) for i, j in ends)
    if isinstance(X, list) and all(isinstance(query, str) for query in X):
        return X
    return range(n)


def _tie_starts(value: Floats) -> NDArray[np.intp]:
    """Where groups of ties begin in falling values: each reaches down from its first value, and not from neighbour to neighbour."""
    starts: list[int] = []
    runs = np.flatnonzero(np.diff(value, prepend=np.inf) < -TIE)
    for begin, end in zip(runs, np.append(runs[1:], len(value)), strict=True):
        while begin < end:
            starts.append(int(begin))
            if value[begin] - value[end - 1] <= TIE:
                break
            begin += int(np.searchsorted(-value[begin:end], TIE - value[begin], side="right"))
    return np.array(starts, dtype=np.intp)
