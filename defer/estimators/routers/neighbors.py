"""Nearest-neighbour routing: an arm's quality on a query is its mean quality on the most similar logged queries.

Exact search by one matrix product and a partial sort per block of queries, in bounded memory.
Source: the kNN router of RouterBench (Hu et al. 2024, arXiv 2403.12031), cosine similarity, 40 to 50 neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from sklearn.utils.extmath import row_norms, safe_sparse_dot

from defer.estimators.base import BaseRouter
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.routers.exemplar_search import unit_rows
from defer.estimators.routers.leading_columns import LeadingColumns
from defer.estimators.routers.query_rows import as_floats, check_numbers
from defer.exceptions import RouterInputError

__all__ = ["KNNRouter", "NeighborSearch", "check_neighbors"]

Floats = NDArray[np.float64]

# Bytes for what one block of queries needs beside the logged queries; large enough for the matrix product to run at speed.
_BLOCK_BYTES = 128 * 2**20


class KNNRouter(BaseRouter):
    """Mean quality of the nearest logged queries, exact.

    Parameters
    ----------
    n_neighbors : int, default=40
        Size of the neighbourhood, which all logged queries form where there are fewer; with sample weights, its total
        weight.
    metric : {"cosine", "euclidean"}, default="cosine"
    cost : {"mean", "neighbors"}, default="mean"
        Predict each arm's cost by its mean over all training queries or over the neighbours.
    cost_weight : float, default=0.0
        Quality given up per US dollar.

    Attributes
    ----------
    arms_ : array of shape (m,)
    mean_quality_ : array of shape (m,)
        Used where no neighbour observed an arm, and under the cosine for a query of zeros, such as a text without a known
        word.
    queries_, norms_, centre_, sample_weight_, reach_
        The logged queries as the search takes them; see `NeighborSearch`.
    lead_ : LeadingColumns or None
        Their leading columns, by which one query alone is searched; None for a table that is sparse, weighted or below 16 MiB.
    quality_, observed_ : arrays of shape (N, m)
        Qualities times inverse propensities, and inverse propensities; 0 where an arm was not observed.
    cost_ : (array of shape (N, m), array of shape (N, m)) or None
        The same of costs; None where the mean cost is predicted.

    Notes
    -----
    Time is that of one (n, N) matrix product and `argpartition`; memory is bounded by blocks whatever n and N.  One query alone
    among many is compared with part of the columns first (`LeadingColumns`), which rules most logged queries out and finds the
    same neighbours; that takes half as much memory again as the logged queries, also in a saved policy.
    float32 input is searched in float32.  Which of several logged queries at the same distance, up to rounding, complete a
    neighbourhood is arbitrary, and may differ between a query alone and in a batch.  Rows that were observed in part
    count by their inverse propensity.

    References
    ----------
    Hu et al. 2024, RouterBench, arXiv 2403.12031.

    Examples
    --------
    >>> X = np.array([[0.0], [1.0], [9.0], [10.0]])
    >>> quality = [[1, 0], [1, 0], [0, 1], [0, 1]]
    >>> KNNRouter(n_neighbors=2, metric="euclidean").fit(X, quality).predict([[0.4], [9.6]]).tolist()
    [0, 1]
    """

    mean_quality_: Floats
    queries_: Any
    norms_: Any
    centre_: NDArray[Any] | None
    quality_: Floats
    observed_: Floats
    cost_: tuple[Floats, Floats] | None
    sample_weight_: Floats | None
    reach_: int
    lead_: LeadingColumns | None

    def __init__(
        self,
        n_neighbors: int = 40,
        *,
        metric: Literal["cosine", "euclidean"] = "cosine",
        cost: Literal["mean", "neighbors"] = "mean",
        cost_weight: float = 0.0,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.cost = cost
        self.cost_weight = cost_weight

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        check_neighbors("KNNRouter", self.n_neighbors, self.metric)
        if self.cost not in ("mean", "neighbors"):
            raise RouterInputError(f"KNNRouter: cost must be one of ('mean', 'neighbors'), got {self.cost!r}")
        check_numbers(self, X)
        sample, quality, costs = outcomes.sample_weight, outcomes.quality, outcomes.cost
        chance = np.ones(len(quality)) if outcomes.propensity is None else outcomes.propensity
        if sample is not None and not sample.all():
            kept = sample > 0
            X, quality, sample, chance = X[kept], quality[kept], sample[kept], chance[kept]
            costs = None if costs is None else costs[kept]
        self.quality_, self.observed_ = _masked(quality, 1.0 / chance)
        mass = 1.0 if sample is None else sample[:, None]
        self.mean_quality_ = (mass * self.quality_).sum(axis=0) / (mass * self.observed_).sum(axis=0)
        self.cost_ = _masked(costs, 1.0 / chance) if costs is not None and self.cost == "neighbors" else None
        search = NeighborSearch.fit(X, n_neighbors=self.n_neighbors, metric=self.metric, weight=sample)
        self.sample_weight_, self.reach_ = sample, search.reach
        self.queries_, self.norms_, self.centre_ = search.queries, search.norms, search.centre
        self.lead_ = None if sample is not None or issparse(search.queries) else LeadingColumns.fit(search.queries)

    def _predict_quality(self, X: Any) -> Floats:
        return self._predict_both(X)[0]

    def _predict_cost(self, X: Any) -> Floats:
        return super()._predict_cost(X) if self.cost_ is None else self._predict_both(X)[1]

    def _predict(self, X: Any) -> tuple[Floats, Floats]:
        X = self._check_fitted_queries(X)
        quality, cost = self._predict_both(X)
        return quality, super()._predict_cost(X) if self.cost_ is None else cost

    def _predict_both(self, X: Any) -> tuple[Floats, Floats]:
        check_numbers(self, X)
        m, n = len(self.arms_), X.shape[0]
        quality, cost = np.empty((n, m)), np.empty((n, m if self.cost_ is not None else 0))
        # What neighbours differ from the mean, so that a constant price is pooled without any rounding.
        cost_ = None if self.cost_ is None else (self.cost_[0] - self.mean_cost_ * self.cost_[1], self.cost_[1])
        search = NeighborSearch(
            self.queries_, self.norms_, self.centre_, self.sample_weight_, self.reach_, self.n_neighbors, self.metric,
            getattr(self, "lead_", None),
        )  # fmt: skip
        for rows, near in search.neighborhoods(X, n_columns=m):
            quality[rows] = _pooled(self.quality_, self.observed_, near, self.mean_quality_)
            if cost_ is not None:
                cost[rows] = np.maximum(self.mean_cost_ + _pooled(*cost_, near, np.zeros(m)), 0.0)
        blank = search.blank(X)
        quality[blank] = self.mean_quality_
        if self.cost_ is not None:
            cost[blank] = self.mean_cost_
        return quality, cost


@dataclass(frozen=True, eq=False)
class NeighborSearch:
    """Exact search among logged queries, and the weight that each has in the neighbourhood of another.

    Attributes
    ----------
    queries : array or csr matrix of shape (N, d)
        Logged queries: unit rows under the cosine, dense ones centred under the Euclidean distance.
    norms : array of shape (N,)
        Their squared norms.
    centre : array of shape (d,) or None
    weight : array of shape (N,) or None
        Weights > 0 of the logged queries.
    reach : int
        Number of logged queries among which the neighbourhood certainly is.
    n_neighbors : int
    metric : {"cosine", "euclidean"}
    lead : LeadingColumns or None, default=None
        Of the same logged queries, to search for one query alone.

    Examples
    --------
    >>> search = NeighborSearch.fit(np.array([[0.0], [1.0], [9.0]]), n_neighbors=2, metric="euclidean", weight=None)
    >>> [near.toarray().tolist() for _, near in search.neighborhoods(np.array([[0.2]]))]
    [[[1.0, 1.0, 0.0]]]
    """

    queries: Any
    norms: Any
    centre: NDArray[Any] | None
    weight: Floats | None
    reach: int
    n_neighbors: int
    metric: str
    lead: LeadingColumns | None = None

    @classmethod
    def fit(cls, X: Any, *, n_neighbors: int, metric: str, weight: Floats | None) -> NeighborSearch:
        """Prepare logged queries of positive weight.

        Parameters
        ----------
        X : array or sparse matrix of shape (N, d)
        n_neighbors : int
            With weights, the total weight of a neighbourhood.
        metric : {"cosine", "euclidean"}
        weight : array of shape (N,) or None
        """
        reach = min(n_neighbors, X.shape[0])
        if weight is not None:
            # So many of the lightest queries make up the neighbourhood's weight; of any others it takes fewer.
            lightest = np.cumsum(np.sort(weight))
            reach = min(int(np.searchsorted(lightest, n_neighbors)) + 1, len(weight))
        queries, centre = as_floats(X), None
        if metric == "cosine":
            queries = unit_rows(queries)
        elif not issparse(queries):
            # Distances do not change, and small differences of large coordinates are not lost to rounding.
            centre = queries.mean(axis=0, dtype=np.float64).astype(queries.dtype)
            queries = queries - centre
        norms = row_norms(queries, squared=True).astype(queries.dtype)
        return cls(queries, norms, centre, weight, reach, n_neighbors, metric)

    def neighborhoods(
        self, X: Any, *, n_columns: int = 1, own: NDArray[np.intp] | None = None
    ) -> Iterator[tuple[slice, csr_array]]:
        """Blocks of queries, with the weight of every logged query in each query's neighbourhood, shape (block, N).

        Parameters
        ----------
        X : array or sparse matrix of shape (n, d)
        n_columns : int, default=1
            Columns of the table that is pooled, to size the blocks by.
        own : int array of shape (n,), optional
            Which logged query each of `X` is; one row's weight of it is left out of its own neighbourhood.
        """
        n = X.shape[0]
        X = as_floats(X, dtype=self.queries.dtype)
        reach = min(self.reach + (own is not None), self.queries.shape[0])
        # Per query live one row of distances, one of indices, and what is known of the neighbours.
        size = self.queries.shape[0]
        per_query = size * (self.queries.dtype.itemsize + 8) + 8 * (4 * reach + 4 * n_columns)
        block = max(1, _BLOCK_BYTES // per_query)
        for low in range(0, n, block):
            rows = slice(low, min(low + block, n))
            yield rows, self._neighborhood(X[rows], reach, None if own is None else own[rows])

    def blank(self, X: Any) -> NDArray[np.intp]:
        """Queries that are as near to every query as to any other: zero vectors under the cosine."""
        if self.metric != "cosine":
            return np.empty(0, dtype=np.intp)
        return np.flatnonzero(row_norms(as_floats(X, dtype=self.queries.dtype), squared=True) == 0)

    def _neighborhood(self, X: Any, k: int, own: NDArray[np.intp] | None) -> csr_array:
        if self.lead is not None and X.shape[0] == 1 and self.weight is None and own is None and not issparse(X):
            row = X[0] if self.centre is None else X[0] - self.centre
            found = self.lead.nearest(row, self.queries, k, None if self.metric == "cosine" else self.norms)
            if found is not None:
                return csr_array((np.ones(k), found, np.array([0, k])), shape=(1, self.queries.shape[0]))
        # Ranking needs no square root, no norm of the query, and no norm of unit vectors.
        if self.metric == "cosine":
            distance = safe_sparse_dot(-X, self.queries.T, dense_output=True)
        else:
            X = X if self.centre is None else X - self.centre
            distance = safe_sparse_dot(-2.0 * X, self.queries.T, dense_output=True)
            distance += self.norms
        near = np.argpartition(distance, k - 1, axis=1)[:, :k]
        if self.weight is None and own is None:
            mass = np.ones(near.size)
        else:
            order = np.argsort(np.take_along_axis(distance, near, axis=1), axis=1, kind="stable")
            near = np.take_along_axis(near, order, axis=1)
            weight = np.ones(near.shape) if self.weight is None else self.weight[near]
            if own is not None:
                weight = np.where(near == own[:, None], np.maximum(weight - 1.0, 0.0), weight)
            before = np.cumsum(weight, axis=1) - weight
            mass = np.clip(self.n_neighbors - before, 0.0, weight).ravel()
        ends = np.arange(0, near.size + 1, k)
        return csr_array((mass, near.ravel(), ends), shape=distance.shape)


def check_neighbors(owner: str, n_neighbors: Any, metric: Any) -> None:
    """Refuse a size of neighbourhoods that is no integer >= 1, and a metric that is not known.

    Raises
    ------
    RouterInputError
    """
    if isinstance(n_neighbors, bool) or not isinstance(n_neighbors, Integral) or n_neighbors < 1:
        raise RouterInputError(f"{owner}: n_neighbors must be an integer >= 1, got {n_neighbors!r}")
    if metric not in ("cosine", "euclidean"):
        raise RouterInputError(f"{owner}: metric must be one of ('cosine', 'euclidean'), got {metric!r}")


def _masked(table: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Weighted values with 0 where not observed, and the weights with 0 there."""
    observed = np.isfinite(table) * weight[:, None]
    return np.where(np.isfinite(table), table, 0.0) * observed, observed


def _pooled(values: Floats, observed: Floats, near: csr_array, default: Floats) -> Floats:
    """Weighted mean of what the neighbours observed; `default` where none observed the arm."""
    total, count = near @ values, near @ observed
    return np.where(count > 0, total / np.where(count > 0, count, math.inf), default)
