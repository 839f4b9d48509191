"""Nearest-neighbour routing: an arm's quality on a query is its mean quality on the most similar logged queries.

Exact search by one matrix product and a partial sort per block of queries, in bounded memory.
Source: the kNN router of RouterBench (Hu et al. 2024, arXiv 2403.12031), cosine similarity, 40 to 50 neighbours.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.utils.extmath import row_norms, safe_sparse_dot

from defer.estimators.base import BaseRouter
from defer.estimators.outcomes_input import Outcomes
from defer.exceptions import RouterInputError

__all__ = ["KNNRouter"]

Floats = NDArray[np.float64]

# Bytes for one block of distances; a few arrays of this size live at once, so the whole stays well under 1 GB.
_BLOCK_BYTES = 64 * 2**20


class KNNRouter(BaseRouter):
    """Mean quality of the nearest logged queries, exact.

    Parameters
    ----------
    n_neighbors : int, default=40
        Size of the neighbourhood; with sample weights, its total weight.
    metric : {"cosine", "euclidean"}, default="cosine"
    cost : {"mean", "neighbors"}, default="mean"
        Predict each arm's cost by its mean over all training queries or over the neighbours.
    cost_weight : float, default=0.0
        Quality given up per US dollar.

    Attributes
    ----------
    arms_ : array of shape (m,)
    mean_quality_ : array of shape (m,)
        Used where no neighbour observed an arm.

    Notes
    -----
    Time is that of one (n, N) matrix product and `argpartition`; memory is bounded by blocks whatever n and N.
    float32 input is searched in float32.

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
        if isinstance(self.n_neighbors, bool) or int(self.n_neighbors) != self.n_neighbors or self.n_neighbors < 1:
            raise RouterInputError(f"KNNRouter: n_neighbors must be an integer >= 1, got {self.n_neighbors!r}")
        for name, allowed in (("metric", ("cosine", "euclidean")), ("cost", ("mean", "neighbors"))):
            if getattr(self, name) not in allowed:
                raise RouterInputError(f"KNNRouter: {name} must be one of {allowed}, got {getattr(self, name)!r}")
        if not (issparse(X) or isinstance(X, np.ndarray)):
            raise RouterInputError(
                "KNNRouter needs numbers: put a vectoriser before it, as in make_pipeline(TfidfVectorizer(), KNNRouter())"
            )
        sample, quality, costs, weight = outcomes.sample_weight, outcomes.quality, outcomes.cost, outcomes.weight
        if sample is not None:
            kept = sample > 0
            X, quality, weight, sample = X[kept], quality[kept], weight[kept], sample[kept]  # type: ignore[index]
            costs = None if costs is None else costs[kept]
        self.queries_ = _floats(X)
        if self.metric == "cosine":
            self.queries_ = _unit_rows(self.queries_)
        self.norms_ = row_norms(self.queries_, squared=True).astype(self.queries_.dtype)
        self.sample_weight_ = sample
        inverse = np.ones(len(quality)) if weight is None else weight / (1.0 if sample is None else sample)
        self.quality_, self.observed_ = _masked(quality, inverse)
        mass = 1.0 if sample is None else sample[:, None]
        self.mean_quality_ = (mass * self.quality_).sum(axis=0) / (mass * self.observed_).sum(axis=0)
        self.cost_ = _masked(costs, inverse) if costs is not None and self.cost == "neighbors" else None

    def _predict_quality(self, X: Any) -> Floats:
        return self._predict_both(X)[0]

    def _predict_cost(self, X: Any) -> Floats:
        return super()._predict_cost(X) if self.cost_ is None else self._predict_both(X)[1]

    def _predict(self, X: Any) -> tuple[Floats, Floats]:
        X = self._check_fitted_queries(X)
        quality, cost = self._predict_both(X)
        return quality, super()._predict_cost(X) if self.cost_ is None else cost

    def _predict_both(self, X: Any) -> tuple[Floats, Floats]:
        m, n = len(self.arms_), X.shape[0]
        quality, cost = np.empty((n, m)), np.empty((n, m if self.cost_ is not None else 0))
        X = _floats(X, dtype=self.queries_.dtype)
        block = max(1, int(_BLOCK_BYTES / (self.queries_.dtype.itemsize * self.queries_.shape[0])))
        for low in range(0, n, block):
            rows = slice(low, min(low + block, n))
            near, mass = self._neighborhood(X[rows])
            quality[rows] = _pooled(self.quality_, self.observed_, near, mass, self.mean_quality_)
            if self.cost_ is not None:
                cost[rows] = _pooled(*self.cost_, near, mass, self.mean_cost_)
        return quality, cost

    def _neighborhood(self, X: Any) -> tuple[NDArray[np.intp], Floats | None]:
        """Indices of the neighbours, shape (block, k), and the weight that each brings, or None where all bring 1."""
        size = self.queries_.shape[0]
        # Ranking needs no square root, no norm of the query, and no norm of unit vectors.
        distance = safe_sparse_dot(X, self.queries_.T, dense_output=True)
        distance *= -1.0 if self.metric == "cosine" else -2.0
        if self.metric == "euclidean":
            distance += self.norms_
        if self.sample_weight_ is None:
            k = min(self.n_neighbors, size)
            return np.argpartition(distance, k - 1, axis=1)[:, :k], None
        reach = np.cumsum(np.sort(self.sample_weight_))
        k = min(int(np.searchsorted(reach, self.n_neighbors)) + 1, size)
        near = np.argpartition(distance, k - 1, axis=1)[:, :k]
        near = np.take_along_axis(
            near, np.argsort(np.take_along_axis(distance, near, axis=1), axis=1, kind="stable"), axis=1
        )
        weight = self.sample_weight_[near]
        before = np.cumsum(weight, axis=1) - weight
        return near, np.clip(self.n_neighbors - before, 0.0, weight)


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


def _pooled(values: Floats, observed: Floats, near: NDArray[np.intp], mass: Floats | None, default: Floats) -> Floats:
    if mass is None:
        total, count = values[near].sum(axis=1), observed[near].sum(axis=1)
    else:
        total = np.einsum("nk,nkm->nm", mass, values[near])
        count = np.einsum("nk,nkm->nm", mass, observed[near])
    return np.where(count > 0, total / np.where(count > 0, count, math.inf), default)
