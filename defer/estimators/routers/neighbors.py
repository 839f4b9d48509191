"""Nearest-neighbour routing: an arm's quality on a query is its mean quality on the most similar logged queries.

Exact search by one matrix product and a partial sort per block of queries, in bounded memory.
Source: the kNN router of RouterBench (Hu et al. 2024, arXiv 2403.12031), cosine similarity, 40 to 50 neighbours.
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from sklearn.utils.extmath import row_norms, safe_sparse_dot

from defer.estimators.base import BaseRouter
from defer.estimators.outcomes_input import Outcomes
from defer.exceptions import RouterInputError

__all__ = ["KNNRouter"]

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

    Notes
    -----
    Time is that of one (n, N) matrix product and `argpartition`; memory is bounded by blocks whatever n and N.
    float32 input is searched in float32.  Which of several logged queries at the same distance complete a neighbourhood
    is arbitrary.  Rows that were observed in part count by their inverse propensity.

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
        if isinstance(self.n_neighbors, bool) or not isinstance(self.n_neighbors, Integral) or self.n_neighbors < 1:
            raise RouterInputError(f"KNNRouter: n_neighbors must be an integer >= 1, got {self.n_neighbors!r}")
        for name, allowed in (("metric", ("cosine", "euclidean")), ("cost", ("mean", "neighbors"))):
            if getattr(self, name) not in allowed:
                raise RouterInputError(f"KNNRouter: {name} must be one of {allowed}, got {getattr(self, name)!r}")
        _check_numbers(X)
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
        self.sample_weight_ = sample
        self.reach_ = min(self.n_neighbors, len(quality))
        if sample is not None:
            # So many of the lightest queries make up the neighbourhood's weight; of any others it takes fewer.
            lightest = np.cumsum(np.sort(sample))
            self.reach_ = min(int(np.searchsorted(lightest, self.n_neighbors)) + 1, len(sample))
        queries = _floats(X)
        self.centre_ = None
        if self.metric == "cosine":
            queries = _unit_rows(queries)
        elif not issparse(queries):
            # Distances do not change, and small differences of large coordinates are not lost to rounding.
            self.centre_ = queries.mean(axis=0, dtype=np.float64).astype(queries.dtype)
            queries = queries - self.centre_
        self.queries_ = queries
        self.norms_ = row_norms(queries, squared=True).astype(queries.dtype)

    def _predict_quality(self, X: Any) -> Floats:
        return self._predict_both(X)[0]

    def _predict_cost(self, X: Any) -> Floats:
        return super()._predict_cost(X) if self.cost_ is None else self._predict_both(X)[1]

    def _predict(self, X: Any) -> tuple[Floats, Floats]:
        X = self._check_fitted_queries(X)
        quality, cost = self._predict_both(X)
        return quality, super()._predict_cost(X) if self.cost_ is None else cost

    def _predict_both(self, X: Any) -> tuple[Floats, Floats]:
        _check_numbers(X)
        m, n = len(self.arms_), X.shape[0]
        quality, cost = np.empty((n, m)), np.empty((n, m if self.cost_ is not None else 0))
        X = _floats(X, dtype=self.queries_.dtype)
        # What neighbours differ from the mean, so that a constant price is pooled without any rounding.
        cost_ = None if self.cost_ is None else (self.cost_[0] - self.mean_cost_ * self.cost_[1], self.cost_[1])
        # Per query live one row of distances, one of indices, and what is known of the neighbours.
        size = self.queries_.shape[0]
        per_query = size * (self.queries_.dtype.itemsize + 8) + 8 * (4 * self.reach_ + 4 * m)
        block = max(1, _BLOCK_BYTES // per_query)
        for low in range(0, n, block):
            rows = slice(low, min(low + block, n))
            near = self._neighborhood(X[rows])
            quality[rows] = _pooled(self.quality_, self.observed_, near, self.mean_quality_)
            if cost_ is not None:
                cost[rows] = np.maximum(self.mean_cost_ + _pooled(*cost_, near, np.zeros(m)), 0.0)
        if self.metric == "cosine":
            # A zero vector is as near to every query as to any other.
            blank = np.flatnonzero(row_norms(X, squared=True) == 0)
            quality[blank] = self.mean_quality_
            if self.cost_ is not None:
                cost[blank] = self.mean_cost_
        return quality, cost

    def _neighborhood(self, X: Any) -> csr_array:
        """Weight that each logged query has in each query's neighbourhood, shape (block, N)."""
        # Ranking needs no square root, no norm of the query, and no norm of unit vectors.
        if self.metric == "cosine":
            distance = safe_sparse_dot(-X, self.queries_.T, dense_output=True)
        else:
            X = X if self.centre_ is None else X - self.centre_
            distance = safe_sparse_dot(-2.0 * X, self.queries_.T, dense_output=True)
            distance += self.norms_
        k = self.reach_
        near = np.argpartition(distance, k - 1, axis=1)[:, :k]
        if self.sample_weight_ is None:
            mass = np.ones(near.size)
        else:
            order = np.argsort(np.take_along_axis(distance, near, axis=1), axis=1, kind="stable")
            near = np.take_along_axis(near, order, axis=1)
            weight = self.sample_weight_[near]
            before = np.cumsum(weight, axis=1) - weight
            mass = np.clip(self.n_neighbors - before, 0.0, weight).ravel()
        ends = np.arange(0, near.size + 1, k)
        return csr_array((mass, near.ravel(), ends), shape=distance.shape)


def _check_numbers(X: Any) -> None:
    if not (issparse(X) or (isinstance(X, np.ndarray) and X.dtype.kind in "biuf")):
        raise RouterInputError(
            "KNNRouter needs numbers: put a vectoriser before it, as in make_pipeline(TfidfVectorizer(), KNNRouter())"
        )


def _floats(X: Any, dtype: Any = None) -> Any:
    wanted = dtype or (np.float32 if X.dtype == np.float32 else np.float64)
    return X.astype(wanted, copy=False)


def _unit_rows(X: Any) -> Any:
    norms = row_norms(X)
    scale = (1.0 / np.where(norms > 0, norms, 1.0)).astype(X.dtype)
    return X.multiply(scale[:, None]).tocsr() if issparse(X) else X * scale[:, None]


def _masked(table: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Weighted values with 0 where not observed, and the weights with 0 there."""
    observed = np.isfinite(table) * weight[:, None]
    return np.where(np.isfinite(table), table, 0.0) * observed, observed


def _pooled(values: Floats, observed: Floats, near: csr_array, default: Floats) -> Floats:
    """Weighted mean of what the neighbours observed; `default` where none observed the arm."""
    total, count = near @ values, near @ observed
    return np.where(count > 0, total / np.where(count > 0, count, math.inf), default)
