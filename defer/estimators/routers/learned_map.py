"""Routing by a learned map: an arm's quality on a query is a mixture of its means in the clusters.

The mixture depends on the query alone, gamma_h(x) = sum_k Phi_k(x) psi_k(h), and is learned from the outcomes of all arms at
once, so that an added arm needs no more than its means.  Source: the learned-map version of UniRoute (Jitkrittum et al. 2025,
arXiv 2502.08773).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.utils.extmath import row_norms

from defer.estimators.deferral.linear import LinearScores, fit_linear_scores
from defer.estimators.deferral.parameter_checks import check_counts, check_positive
from defer.estimators.deferral.score_problem import ScoreProblem
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.routers.clusters import ClusterRouter, QueryClusters
from defer.estimators.routers.query_rows import as_squarable, check_numbers
from defer.losses.value import Formula, LossValue

__all__ = ["LearnedMapRouter", "mixture_log_loss", "unit_range"]

Floats = NDArray[np.float64]

# A cluster in which an arm was always right would make a wrong answer infinitely unlikely.
_FLOOR = 1e-3
# Sharpness of the gate that learning starts from, in units of one over the mean squared distance within clusters.  A sharp
# gate fits the training queries best, whose means it knows, and leaves the softmax no slope to learn by.
_SHARPNESS = 2.0


class LearnedMapRouter(ClusterRouter):
    """Mixture of each arm's means in the clusters, by a gate that is learned from all arms.

    Parameters
    ----------
    n_clusters : int or sequence of int, default=32
        Of a sequence, the number that `ClusterRouter` takes.
    prior, back_off, cost
        Of the means, as in `ClusterRouter`.
    C : float, default=1.0
        Inverse strength of the penalty on what the gate differs from that of the clusters, on the scale of
        `LogisticRegression`; its intercepts are free.
    max_iter : int, default=1000
        Most iterations of the solver.
    tol : float, default=1e-4
        Where the solver stops, see `fit_linear_scores`.
    cost_weight : float, default=0.0
        Quality given up per US dollar.
    random_state : int, Generator, RandomState instance or None
        Of K-means.

    Attributes
    ----------
    arms_, n_clusters_, clusters_, psi_, counts_
        As in `ClusterRouter`.
    gate_ : LinearScores
        Phi = softmax of its scores; the same for all arms, and for all that are added.
    n_iter_ : int
        Iterations of the solver.

    Notes
    -----
    The gate minimises the log loss of the outcomes of the arms of `fit`; a graded outcome is a soft target, and outcomes that
    leave [0, 1] are brought to it by their range.  The paper's gate is a softmax too; that it is linear in the features, that it
    starts from the distances to the centres and is held near them, and that means and gate come from the same queries, is ours.
    The log loss is not convex in the gate: the fit is the stationary point that is reached from the clusters.

    References
    ----------
    Jitkrittum et al. 2025, Universal model routing, arXiv 2502.08773.

    Examples
    --------
    >>> X = np.array([[0.0], [1.0], [9.0], [10.0]])
    >>> quality = [[1, 0], [1, 0], [0, 1], [0, 1]]
    >>> router = LearnedMapRouter(2, random_state=0).fit(X, quality)
    >>> router.predict([[0.4], [9.6]]).tolist()
    [0, 1]
    >>> router.gate([[0.0]]).sum().item()
    1.0
    """

    gate_: LinearScores
    n_iter_: int

    def __init__(
        self,
        n_clusters: int | Sequence[int] = 32,
        *,
        prior: float = 20.0,
        back_off: Literal["difficulty", "arm"] = "difficulty",
        cost: Literal["mean", "cluster"] = "mean",
        C: float = 1.0,
        max_iter: int = 1000,
        tol: float = 1e-4,
        cost_weight: float = 0.0,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            n_clusters, prior=prior, back_off=back_off, cost=cost, cost_weight=cost_weight, random_state=random_state
        )
        self.C = C
        self.max_iter = max_iter
        self.tol = tol

    def gate(self, X: Any) -> Floats:
        """Share of every cluster in every query, Phi, shape (n, M)."""
        return self._gate(self._check_fitted_queries(X))

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        owner = type(self).__name__
        check_positive(owner, C=self.C, tol=self.tol)
        check_counts(owner, max_iter=self.max_iter)
        check_numbers(self, X)
        X = as_squarable(X, owner=owner)
        super()._fit(X, outcomes)
        weight = np.ones(X.shape[0]) if outcomes.weight is None else outcomes.weight
        low, span = unit_range(outcomes.quality[weight > 0])
        target, psi = (outcomes.quality - low) / span, (self.psi_ - low) / span
        start = _cluster_gate(X, weight, self.clusters_)

        def loss(scores: Floats, base: Floats, rows: Floats) -> LossValue:
            return mixture_log_loss(scores + base, target, psi, weight=rows)

        # The penalty is on what is learned beyond the gate of the clusters.
        problem = ScoreProblem(start.scores(X), weight, loss)
        learned = fit_linear_scores(X, problem, C=self.C, max_iter=self.max_iter, tol=self.tol)
        self.gate_ = LinearScores(
            start.coef + learned.coef, start.intercept + learned.intercept, learned.objective, learned.n_iter
        )
        self.n_iter_ = max(1, learned.n_iter)

    def _predict_quality(self, X: Any) -> Floats:
        # Differences from one cluster, so that an arm with the same mean in all of them keeps it to the last digit.
        first = self.psi_[:, 0]
        return first + self._gate(X) @ (self.psi_ - first[:, None]).T

    def _gate(self, X: Any) -> Floats:
        check_numbers(self, X)
        return np.asarray(softmax(self.gate_.scores(as_squarable(X, owner=type(self).__name__)), axis=1))


def mixture_log_loss(scores: Floats, target: Floats, psi: Floats, *, weight: Floats | None = None) -> LossValue:
    """Log loss of the outcomes of all arms of a query under a mixture of their means, one value per query.

    Parameters
    ----------
    scores : array of shape (n, M)
        The softmax of a query's scores is its share of every cluster.
    target : array of shape (n, m)
        Outcomes in [0, 1]; NaN = not observed.
    psi : array of shape (m, M)
        Mean of every arm in every cluster, in [0, 1].
    weight : array of shape (n,), optional

    Returns
    -------
    LossValue
        With p_h = sum_k softmax(scores)_k psi_hk, brought into [0.001, 0.999]: the sum over the observed arms of
        -t_h log p_h - (1 - t_h) log(1 - p_h), and its gradient by the scores.

    Examples
    --------
    >>> loss = mixture_log_loss(np.zeros((1, 2)), np.array([[1.0]]), np.array([[0.0, 1.0]]))
    >>> loss.value.round(6).tolist(), loss.gradient.round(3).tolist()
    ([0.693147], [[0.499, -0.499]])
    """
    means = _FLOOR + (1.0 - 2.0 * _FLOOR) * psi

    def value(xp: Any, scores: Floats, target: Floats, seen: Floats) -> Floats:
        p = softmax(scores, axis=1) @ means.T
        return np.asarray((-seen * (target * np.log(p) + (1.0 - target) * np.log1p(-p))).sum(axis=1))

    def gradient(xp: Any, scores: Floats, target: Floats, seen: Floats) -> Floats:
        share = softmax(scores, axis=1)
        p = share @ means.T
        pull = (seen * (p - target) / (p * (1.0 - p))) @ means
        return np.asarray(share * (pull - (share * pull).sum(axis=1, keepdims=True)))

    known = np.isfinite(target)
    tables = np.where(known, target, 0.0), known.astype(np.float64)
    return LossValue(Formula("mixture_log_loss", value, gradient), scores, tables, weight)


def unit_range(outcomes: Floats) -> tuple[float, float]:
    """Offset and span that bring outcomes to [0, 1]: (0, 1) where they lie in it, else those of their range.

    Examples
    --------
    >>> unit_range(np.array([0.2, 0.9])), unit_range(np.array([1.0, np.nan, 5.0]))
    ((0.0, 1.0), (1.0, 4.0))
    """
    low, high = float(np.nanmin(outcomes)), float(np.nanmax(outcomes))
    if low >= 0.0 and high <= 1.0:
        return 0.0, 1.0
    return low, high - low if high > low else 1.0


def _cluster_gate(X: Any, weight: Floats, clusters: QueryClusters) -> LinearScores:
    """Gate by the squared distance to the centres, which is linear in the query up to what all clusters share."""
    centres = clusters.centres.astype(np.float64)
    origin = np.zeros(centres.shape[1]) if clusters.origin is None else clusters.origin.astype(np.float64)
    # Of |x - o - c|^2 the part that differs between clusters is -2 x.c + 2 o.c + |c|^2.
    plain = LinearScores(centres, -(centres @ origin) - 0.5 * (centres**2).sum(axis=1))
    away = plain.scores(X)
    within = float(weight @ (_squares(X, origin) - 2.0 * away.max(axis=1)) / weight.sum())
    sharpness = 2.0 * _SHARPNESS / within if within > 1e-12 else 1.0
    return LinearScores(sharpness * plain.coef, sharpness * plain.intercept)


def _squares(X: Any, point: Floats) -> Floats:
    """Squared distance of every query from a point, shape (n,)."""
    return np.asarray(row_norms(X, squared=True) - 2.0 * (X @ point) + point @ point, dtype=np.float64)
