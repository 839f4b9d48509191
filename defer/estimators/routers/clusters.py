"""Cluster routing: an arm's quality on a query is its mean quality on the logged queries of the same cluster.

Clusters are learned from the queries alone, so an arm is described by one row of means, and adding it takes nothing but that
row.  Source: the cluster version of UniRoute (Jitkrittum et al. 2025, arXiv 2502.08773).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.cluster import KMeans
from sklearn.model_selection import KFold
from sklearn.utils.extmath import row_norms, safe_sparse_dot

from defer.estimators.arm_addition import ArmAddition, ArmTrial
from defer.estimators.deferral.parameter_checks import check_choices, check_counts, seed_of
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.routers.cluster_means import ClusterMeans, members
from defer.estimators.routers.query_rows import (
    as_floats,
    as_squarable,
    check_costs_given,
    check_numbers,
    equal_rows,
    weighted_rows,
)
from defer.exceptions import RouterInputError

__all__ = ["ClusterRouter", "QueryClusters"]

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

_FOLDS = 5
# Bytes of distances that one block of queries may take.
_BLOCK_BYTES = 128 * 2**20


class ClusterRouter(ArmAddition):
    """Mean quality of every arm in the cluster of the query.

    Parameters
    ----------
    n_clusters : int or sequence of int, default=32
        Number of K-means clusters, fewer where there are fewer different queries.  Of a sequence the number is taken whose
        means have the least squared error on held-out queries, in five folds that keep equal queries together.
    prior : float, default=20.0
        Number of queries that the starting point of a mean counts for.  0 is the paper's plain mean.
    back_off : {"difficulty", "arm"}, default="difficulty"
        Where the mean of an arm in a cluster starts, and what it is where the arm has no outcome: "arm" is the arm's mean over
        all queries, as in the paper; "difficulty" adds what the cluster differs from it over the arms of `fit`, so that a few
        outcomes on easy queries do not make an arm good, and `add_arm` draws the mean of an arm of few outcomes towards that of
        the others.
    cost : {"mean", "cluster"}, default="mean"
        What costs are predicted by, as in `KNNRouter`; the costs themselves are given to `fit`.  "mean" is each arm's mean over all
        training queries, "cluster" that over those of the cluster, shrunk to it; for the latter `fit` needs costs.
    cost_weight : float, default=0.0
        Quality given up per US dollar.
    random_state : int, Generator, RandomState instance or None
        Of K-means and the folds.

    Attributes
    ----------
    arms_ : array of shape (m,)
    n_clusters_ : int
        Number of clusters, M.
    clusters_ : QueryClusters
        Centres, and the cluster of any query.
    psi_ : array of shape (m, M)
        Quality of every arm in every cluster: one row describes an arm.
    counts_ : array of shape (m, M)
        Number of outcomes behind it, by weight; of outcomes that count by inverse propensity, the effective number.
    means_, cost_means_ : ClusterMeans
        What `psi_` is read from, with what `add_arm` needs, and the same of cost; None without ``cost="cluster"``.
    squared_errors_ : array
        Held-out squared error of each number of clusters; empty where one number was given.

    Notes
    -----
    The paper learns clusters on unlabelled prompts and means on a validation set; here both come from the training queries,
    and a sample weight of k is k equal queries for both.  Quality takes the place of one minus the error, and is not bound to
    [0, 1].  Shrinkage, "difficulty", the cost per cluster and the choice of the number of clusters are ours; the paper is
    ``prior=0, back_off="arm"``.  Of what was tried, the defaults predicted best where each of 19 models was added in turn,
    from 10 to 300 outcomes, on the BBH tasks of the Open LLM Leaderboard with sentence embeddings.  With one
    cluster the router is the best static arm at every price; with a cluster for every query and ``prior=0`` it looks up the
    nearest one.  The quality lost to the best possible rule is at most twice the largest distance, over arms, of the expected
    quality from the mean of its cluster, averaged over queries.

    References
    ----------
    Jitkrittum et al. 2025, Universal model routing, arXiv 2502.08773.

    Examples
    --------
    >>> X = np.array([[0.0], [1.0], [9.0], [10.0]])
    >>> quality = [[1, 0], [1, 0], [0, 1], [0, 1]]
    >>> router = ClusterRouter(2, prior=0.0, random_state=0).fit(X, quality)
    >>> router.predict([[0.4], [9.6]]).tolist()
    [0, 1]
    >>> router.psi_.shape, router.counts_.sum(axis=1).tolist()
    ((2, 2), [4.0, 4.0])
    """

    n_clusters_: int
    clusters_: QueryClusters
    means_: ClusterMeans
    cost_means_: ClusterMeans | None
    squared_errors_: Floats

    def __init__(
        self,
        n_clusters: int | Sequence[int] = 32,
        *,
        prior: float = 20.0,
        back_off: Literal["difficulty", "arm"] = "difficulty",
        cost: Literal["mean", "cluster"] = "mean",
        cost_weight: float = 0.0,
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.prior = prior
        self.back_off = back_off
        self.cost = cost
        self.cost_weight = cost_weight
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    @property
    def psi_(self) -> Floats:
        """Quality of every arm in every cluster, shape (m, M)."""
        return self.means_.value

    @property
    def counts_(self) -> Floats:
        """Number of outcomes behind every mean, shape (m, M)."""
        return self.means_.count

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        candidates = self._check_parameters()
        check_numbers(self, X)
        check_costs_given(self, outcomes, cost="cluster")
        X = as_squarable(X, owner=type(self).__name__)
        seed = seed_of(self.random_state)
        X, outcomes = weighted_rows(X, outcomes)
        first, group = equal_rows(X)
        sample = np.ones(len(group)) if outcomes.sample_weight is None else outcomes.sample_weight
        weight: Any = np.bincount(group, weights=sample)
        distinct = X[first]
        self.squared_errors_ = np.zeros(0)
        n_clusters = candidates[0]
        if len(candidates) > 1:
            self.squared_errors_ = np.array([
                self._held_out_error(distinct, group, weight, outcomes, number, seed) for number in candidates
            ])  # fmt: skip
            n_clusters = candidates[int(self.squared_errors_.argmin())]
        self.clusters_ = QueryClusters.fit(distinct, n_clusters, weight=weight, seed=seed)
        self.n_clusters_ = len(self.clusters_.centres)
        label = self.clusters_.assign(distinct)[group]
        by_difficulty = self.back_off == "difficulty"
        self.means_ = self._means(outcomes.quality, label, outcomes, self.n_clusters_, by_difficulty)
        self.cost_means_ = None
        if outcomes.cost is not None and self.cost == "cluster":
            # What a cluster costs more is no one sum for a dear and a cheap arm.
            self.cost_means_ = self._means(outcomes.cost, label, outcomes, self.n_clusters_, False)

    def _check_parameters(self) -> list[int]:
        """Candidates for the number of clusters, in rising order."""
        owner = type(self).__name__
        given: Any = [self.n_clusters] if isinstance(self.n_clusters, Integral) else self.n_clusters
        if isinstance(given, str) or not hasattr(given, "__iter__") or not len(list(given)):
            raise RouterInputError(
                f"{owner}: n_clusters must be an integer >= 1 or a sequence of them, got {self.n_clusters!r}"
            )
        for number in given:
            check_counts(owner, n_clusters=number)
        prior: Any = self.prior
        if not isinstance(prior, Real) or isinstance(prior, bool) or not 0.0 <= float(prior) < np.inf:
            raise RouterInputError(f"{owner}: prior must be a finite number >= 0, got {prior!r}")
        check_choices(self, back_off=("difficulty", "arm"), cost=("mean", "cluster"))
        return sorted({int(number) for number in given})

    def _means(
        self, table: Floats, label: Ints, outcomes: Outcomes, n_clusters: int, by_difficulty: bool
    ) -> ClusterMeans:
        return ClusterMeans.fit(
            table,
            label,
            n_clusters=n_clusters,
            prior=float(self.prior),
            by_difficulty=by_difficulty,
            sample_weight=outcomes.sample_weight,
            propensity=outcomes.propensity,
        )

    def _held_out_error(
        self, distinct: Any, group: Ints, weight: Floats, outcomes: Outcomes, n_clusters: int, seed: int
    ) -> float:
        size = distinct.shape[0]
        if size < 2:
            return 0.0
        total, mass = 0.0, 0.0
        for train, test in KFold(min(_FOLDS, size), shuffle=True, random_state=seed).split(np.zeros(size)):
            if not weight[train].any():
                continue
            clusters = QueryClusters.fit(distinct[train], n_clusters, weight=weight[train], seed=seed)
            label = clusters.assign(distinct)[group]
            held_out = np.isin(group, test)
            seen = np.where(held_out[:, None], np.nan, outcomes.quality)
            means = self._means(seen, label, outcomes, len(clusters.centres), self.back_off == "difficulty")
            error = (outcomes.quality - means.value[:, label].T)[held_out]
            known = np.isfinite(error)
            row_weight = (np.ones(len(group)) if outcomes.weight is None else outcomes.weight)[held_out]
            total += float(row_weight @ (np.where(known, error, 0.0) ** 2).sum(axis=1))
            mass += float(row_weight @ known.sum(axis=1))
        return total / mass if mass > 0 else 0.0

    def _predict_quality(self, X: Any) -> Floats:
        return self._of_clusters(self.means_, X)

    def _predict_cost(self, X: Any) -> Floats:
        if self.cost_means_ is None:
            return super()._predict_cost(X)
        return self._of_clusters(self.cost_means_, X)

    def _of_clusters(self, means: ClusterMeans, X: Any) -> Floats:
        check_numbers(self, X)
        X = as_squarable(X, owner=type(self).__name__)
        return np.ascontiguousarray(means.value[:, self.clusters_.assign(X)].T)

    def _add_arm(self, trial: ArmTrial) -> None:
        check_numbers(self, trial.X)
        label = self.clusters_.assign(as_squarable(trial.X, owner=type(self).__name__))
        self.means_ = self.means_.with_arm(trial.quality, label, trial.propensity)
        if self.cost_means_ is not None:
            cost = np.asarray(trial.cost)
            known = np.isfinite(cost)
            self.cost_means_ = self.cost_means_.with_arm(cost[known], label[known], trial.propensity[known])


@dataclass(frozen=True, eq=False)
class QueryClusters:
    """Centres of clusters of queries; a query belongs to the nearest one, the first of equals.

    Attributes
    ----------
    centres : array of shape (M, d)
    origin : array of shape (d,) or None
        Subtracted from dense queries, so that small differences of large coordinates are not lost to rounding.

    Examples
    --------
    >>> clusters = QueryClusters(np.array([[0.0], [10.0]]), None)
    >>> clusters.assign(np.array([[4.0], [6.0], [5.0]])).tolist()
    [0, 1, 0]
    """

    centres: NDArray[Any]
    origin: NDArray[Any] | None

    @classmethod
    def fit(cls, X: Any, n_clusters: int, *, weight: Floats, seed: int) -> QueryClusters:
        """K-means by Euclidean distance.

        Parameters
        ----------
        X : array or csr matrix of shape (n, d)
            Different queries.  Where there are no more of them than clusters, each is a centre.
        n_clusters : int
        weight : array of shape (n,)
            Not all 0; queries of weight 0 are left out.
        seed : int
        """
        kept = np.flatnonzero(weight > 0)
        X, weight = as_floats(X[kept]), weight[kept]
        origin = None
        if not issparse(X):
            origin = np.average(X, axis=0, weights=weight).astype(X.dtype)
            X = X - origin
        if len(kept) <= n_clusters:
            return cls(X.toarray() if issparse(X) else X, origin)
        label = KMeans(n_clusters, n_init=1, random_state=seed).fit(X, sample_weight=weight).labels_
        # The centres that threads sum up differ in the last digits from run to run.
        label = np.unique(label, return_inverse=True)[1]
        belonging = members(label, int(label.max()) + 1, weight)
        total = belonging @ X
        centres = (total.toarray() if issparse(total) else total) / belonging.sum(axis=1)[:, None]
        return cls(centres.astype(X.dtype), origin)

    def assign(self, X: Any) -> Ints:
        """Cluster of every query, shape (n,)."""
        X = as_floats(X)
        X = X.astype(np.promote_types(X.dtype, self.centres.dtype), copy=False)
        n, norms = X.shape[0], row_norms(self.centres, squared=True)
        label = np.empty(n, dtype=np.intp)
        block = max(1, _BLOCK_BYTES // (8 * len(self.centres) + 8 * X.shape[1]))
        for low in range(0, n, block):
            rows = X[low : low + block]
            rows = rows if self.origin is None or issparse(rows) else rows - self.origin
            label[low : low + block] = self._distance(rows, norms).argmin(axis=1)
        return label

    def _distance(self, X: Any, norms: NDArray[Any]) -> NDArray[Any]:
        """Squared distance less the query's own square, shape (n, M)."""
        return np.asarray(norms - 2.0 * safe_sparse_dot(X, self.centres.T, dense_output=True))
