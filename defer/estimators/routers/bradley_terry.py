"""Similarity-weighted ranking: for every query a Bradley-Terry model of its own, in which similar battles count more.

Nothing is trained; all the work is done per query, by Newton's method on blocks of queries at once.
Source: RouteLLM (Ong et al., ICLR 2025, arXiv 2406.18665), gamma = 10, ten tiers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import expit
from sklearn.preprocessing import normalize
from sklearn.utils.extmath import safe_sparse_dot

from defer.estimators.deferral.parameter_checks import check_counts, check_positive
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.routers.preference_router import PreferenceRouter
from defer.estimators.routers.query_rows import as_floats, check_numbers, equal_rows
from defer.estimators.score_router import QualityScale
from defer.losses.preference import similarity_weights
from defer.portfolios.preferences import Battles, battles

__all__ = ["BradleyTerryRouter", "bradley_terry", "variance_tiers"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

_BLOCK_BYTES = 64 * 2**20
# The scale of quality is one number; so many rows settle it.
_MOST_SCALE_ROWS = 2000
_MOST_NEWTON_STEPS, _MOST_HALVINGS = 100, 40
_ELO = 400.0 / np.log(10.0)


class BradleyTerryRouter(PreferenceRouter):
    """Strengths of the arms, fitted for every query to logged battles that are weighted by similarity.

    A battle whose prompt has the cosine c to the query weighs gamma ** (1 + c / largest cosine).  Preference data come as
    `defer.portfolios.preferences.preference_table`; of ordinary outcomes every two observed arms of a row are a battle,
    won by the higher quality; single ones fight the outcomes of other rows.

    Parameters
    ----------
    gamma : float, default=10.0
        How much similarity counts, > 0; 1 is the ordinary Bradley-Terry model, the same for all queries.
    n_tiers : int or None, default=10
        Arms are grouped into so many tiers of similar overall strength, whose arms share a strength: fewer battles decide
        between more models.  None, or as many tiers as arms, keeps every arm by itself.
    prior : float, default=1.0
        Tied battles added between every two tiers, each of the weight of the most similar logged one, > 0: with it arms
        that never lose have finite strengths.
    cost_weight : float, default=0.0
        Quality given up per US dollar.

    Attributes
    ----------
    arms_ : array of shape (m,)
    ratings_ : array of shape (m,)
        Elo ratings of the arms over the whole log, of mean 1000: P(a beats b) = 1 / (1 + 10 ** ((R_b - R_a) / 400)).
    tier_ : int array of shape (m,)
        Tier of every arm, 0 the weakest.
    quality_scale_ : QualityScale
    queries_ : array or csr matrix of shape (N, d)
        Logged queries with battles, of length 1.
    wins_ : array or csr matrix of shape (N, T ** 2), T the number of tiers
        Weight of the battles of every such query that a tier won against another.
    twin_ : int array of shape (N,)
        Equal for equal logged queries.
    n_tiers_ : int
        Number of tiers.

    Notes
    -----
    Scores are strengths of sum zero over tiers, in units of the logistic curve (Elo points times ln 10 / 400).
    A query without a positive cosine gets the ordinary model, the one that ``gamma=1`` gives to all.  The tiers minimise the variance of the ratings within them,
    exactly; the ratings are Bradley-Terry's on the unweighted log.  That, `prior` and the reading of single outcomes
    (see `defer.portfolios.preferences.battles`) are our choices.  Training scores, which set the scale of quality, leave
    out the query itself and its duplicates, on at most 2,000 evenly spaced rows.

    A query costs one product with all logged prompts, O(N d), and Newton steps of O(tiers ** 3); memory is bounded by
    blocks.  float32 input is compared in float32.

    References
    ----------
    Ong et al. 2025, RouteLLM, arXiv 2406.18665 (similarity-weighted ranking).

    Examples
    --------
    >>> from defer.portfolios.preferences import preference_table
    >>> X = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> table = preference_table(["gpt", "gpt", "gpt", "mix"], ["mix"] * 3 + ["gpt"], ["gpt", "gpt", "mix", "mix"])
    >>> router = BradleyTerryRouter().fit(X, table)
    >>> router.predict([[1.0, 0.0], [0.0, 1.0]]).tolist()
    ['gpt', 'mix']
    >>> router.predict_win([[1.0, 0.0]], "gpt", "mix").round(2).tolist()
    [0.77]
    """

    ratings_: Floats
    tier_: NDArray[np.intp]
    queries_: Any
    twin_: Rows
    wins_: Any
    n_tiers_: int

    def __init__(
        self, gamma: float = 10.0, *, n_tiers: int | None = 10, prior: float = 1.0, cost_weight: float = 0.0
    ) -> None:
        self.gamma = gamma
        self.n_tiers = n_tiers
        self.prior = prior
        self.cost_weight = cost_weight

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        n = len(outcomes.quality)
        rows = np.unique(np.linspace(0, n - 1, min(n, _MOST_SCALE_ROWS)).astype(np.intp))
        scores = self._fit_scores(X, outcomes, rows)
        weight = None if outcomes.weight is None else outcomes.weight[rows]
        seen = np.isfinite(outcomes.quality[rows]).any(axis=1)
        if not seen.any() or (weight is not None and not weight[seen].any()):
            rows, scores, weight = np.arange(n), np.zeros((n, len(self.arms_))), outcomes.weight
        self.quality_scale_ = QualityScale.fit(scores, outcomes.quality[rows], weight)

    def _fit_scores(self, X: Any, outcomes: Outcomes, rows: Rows | None = None) -> Floats:
        check_positive("BradleyTerryRouter", gamma=self.gamma, prior=self.prior)
        if self.n_tiers is not None:
            check_counts("BradleyTerryRouter", n_tiers=self.n_tiers)
        check_numbers(self, X)
        found, m = battles(outcomes.quality, outcomes.weight), len(self.arms_)
        weight = np.ones(len(found)) if outcomes.weight is None else outcomes.weight[found.row]
        total = _win_table(found, weight, np.arange(m), m, np.zeros(len(found), dtype=np.intp), 1)
        strength = bradley_terry(np.asarray(total.todense()).reshape(1, m, m), prior=self.prior)[0]
        self.ratings_ = 1000.0 + _ELO * strength
        self.tier_ = variance_tiers(strength, m if self.n_tiers is None else self.n_tiers)
        self.n_tiers_ = int(self.tier_.max()) + 1
        logged, place = np.unique(found.row, return_inverse=True)
        table = _win_table(found, weight, self.tier_, self.n_tiers_, place, len(logged))
        dense = table.nnz > 0.25 * table.shape[0] * table.shape[1]
        self.wins_ = table.toarray() if dense else table
        unit = normalize(as_floats(X), copy=True)
        self.queries_ = unit[logged]
        twin = equal_rows(X)[1]
        self.twin_ = twin[logged]
        rows = np.arange(len(twin)) if rows is None else rows
        return self._strengths(unit[rows], twin[rows])

    def _predict_scores(self, X: Any) -> Floats:
        check_numbers(self, X)
        return self._strengths(normalize(as_floats(X, self.queries_.dtype), copy=True), None)

    def _strengths(self, unit: Any, twin: Rows | None) -> Floats:
        """Strength of every arm on unit queries, shape (n, m); battles of the same twin number are left out."""
        n, k = unit.shape[0], self.n_tiers_
        scores = np.zeros((n, len(self.arms_)))
        if k == 1 or not self.queries_.shape[0]:
            return scores
        block = max(1, _BLOCK_BYTES // (8 * (3 * self.queries_.shape[0] + 12 * k * k)))
        for low in range(0, n, block):
            rows = slice(low, min(low + block, n))
            cosine = safe_sparse_dot(unit[rows], self.queries_.T, dense_output=True)
            if twin is not None:
                cosine[twin[rows, None] == self.twin_] = -np.inf
            weight = similarity_weights(cosine, gamma=self.gamma)
            # Divided by that of the most similar battle, in whose unit the prior is; 0 where all battles are left out.
            nearest = np.take_along_axis(weight, cosine.argmax(axis=1)[:, None], axis=1)
            weight /= np.where(nearest > 0, nearest, 1.0)
            wins = np.asarray(weight @ self.wins_, dtype=np.float64).reshape(-1, k, k)
            scores[rows] = bradley_terry(wins, prior=self.prior)[:, self.tier_]
        return scores


def bradley_terry(wins: Floats, *, prior: float) -> Floats:
    """Strengths of most likelihood, of sum zero, for many tables of wins at once.

    Parameters
    ----------
    wins : array of shape (n, k, k)
        Weight of the battles that the arm of the row won against that of the column; ties half each way.
    prior : float > 0
        Tied battles added between every two arms.

    Returns
    -------
    array of shape (n, k)
        Up to 1e-10 of the optimum.

    Examples
    --------
    >>> wins = np.array([[[0.0, 8.0], [2.0, 0.0]]])
    >>> bool(np.allclose(np.diff(bradley_terry(wins, prior=1e-9)), -np.log(4.0)))
    True
    """
    n, k = wins.shape[:2]
    strength = np.zeros((n, k))
    if k == 1:
        return strength
    table = np.where(np.eye(k, dtype=bool), 0.0, wins + 0.5 * prior)
    fought, active = table + table.transpose(0, 2, 1), np.arange(n)
    gauge = np.ones((k, k)) / k
    for _ in range(_MOST_NEWTON_STEPS):
        s, won, met = strength[active], table[active], fought[active]
        chance = expit(s[:, :, None] - s[:, None, :])
        slope = (met * chance - won).sum(axis=2)
        bend = met * chance * chance.transpose(0, 2, 1)
        diagonal = bend.sum(axis=2)
        hessian = -bend
        hessian[:, np.arange(k), np.arange(k)] += diagonal
        # The likelihood does not change along the vector of ones; bending it there keeps the sum at zero.
        hessian += diagonal.max(axis=1)[:, None, None] * gauge
        step = -np.linalg.solve(hessian, slope[:, :, None])[:, :, 0]
        step -= step.mean(axis=1, keepdims=True)
        strength[active] = s + _shortened(s, step, won, slope)
        active = active[np.abs(step).max(axis=1) > 1e-10 * (1.0 + np.abs(s).max(axis=1))]
        if not len(active):
            break
    return strength


def variance_tiers(ratings: Floats, n_tiers: int) -> NDArray[np.intp]:
    """Group numbers of arms on one axis into tiers of least total variance, exactly, by dynamic programming.

    Parameters
    ----------
    ratings : array of shape (m,)
    n_tiers : int
        From m on every arm is by itself.  Below, equal ratings are never parted, whatever number of tiers that leaves.

    Returns
    -------
    int array of shape (m,)
        Tier of every arm, 0 the lowest.

    Examples
    --------
    >>> variance_tiers(np.array([1.0, 9.0, 1.2, 5.0, 9.1]), 3).tolist()
    [0, 2, 0, 1, 2]
    """
    if n_tiers >= len(ratings):
        return np.asarray(np.argsort(np.argsort(ratings, kind="stable")), dtype=np.intp)
    # Ratings that differ by rounding alone are equal.
    values, place, count = np.unique(np.round(ratings, 9), return_inverse=True, return_counts=True)
    m, k = len(values), min(n_tiers, len(values))
    if k == m:
        return np.asarray(place, dtype=np.intp)
    away = values - values.mean()
    mass, first, second = (np.concatenate(([0.0], np.cumsum(count * away**power))) for power in (0, 1, 2))
    low, high = np.triu_indices(m + 1, 1)
    spread = np.full((m + 1, m + 1), np.inf)  # [low, high): squared distances to the mean of the segment
    spread[low, high] = second[high] - second[low] - (first[high] - first[low]) ** 2 / (mass[high] - mass[low])
    best, cut = spread[0].copy(), np.zeros((k, m + 1), dtype=np.intp)
    best[0] = 0.0
    for tier in range(1, k):
        total = best[:, None] + spread
        cut[tier] = total.argmin(axis=0)
        best = total.min(axis=0)
    bounds, end = [], m
    for tier in range(k - 1, 0, -1):
        end = int(cut[tier, end])
        bounds.append(end)
    return np.asarray(np.searchsorted(np.sort(bounds), place, side="right"), dtype=np.intp)


def _shortened(s: Floats, step: Floats, won: Floats, slope: Floats) -> Floats:
    """Newton steps, halved until each lowers its loss enough."""
    before, promised = _loss(s, won), np.einsum("ij,ij->i", slope, step)
    length = np.ones(len(s))
    for _ in range(_MOST_HALVINGS):
        # Near the optimum the decrease drowns in rounding.
        slack = 1e-12 * (1.0 + np.abs(before))
        long = _loss(s + length[:, None] * step, won) > before + 1e-4 * length * promised + slack
        if not long.any():
            break
        length[long] *= 0.5
    return length[:, None] * step


def _loss(s: Floats, won: Floats) -> Floats:
    return (won * np.logaddexp(0.0, s[:, None, :] - s[:, :, None])).sum(axis=(1, 2))


def _win_table(
    found: Battles, weight: Floats, tier: NDArray[np.intp], k: int, place: NDArray[np.intp], n: int
) -> csr_array:
    """Weighted wins of every tier against every other by logged query, shape (n, k * k)."""
    first, second = tier[found.first], tier[found.second]
    apart = first != second
    first, second, place = first[apart], second[apart], place[apart]
    won, lost = (weight * found.win)[apart], (weight * (1.0 - found.win))[apart]
    columns = np.concatenate([first * k + second, second * k + first])
    values, lines = np.concatenate([won, lost]), np.concatenate([place, place])
    table = csr_array((values, (lines, columns)), shape=(n, k * k))
    table.eliminate_zeros()
    return table
