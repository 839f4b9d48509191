"""Shares of credit: what a softmax over actions says about quality.

A surrogate sum_j (b - c_j) ell(scores, j) gives action j the credit b - c_j, with b = 1, the sum of all costs, or the largest.
At its minimum the scores tell the share of every action in the expected credit, not the credit itself; the total, and b
where it is not 1, are regressed on the same features, so that predictions come out on the scale of quality:
1 - E[c_j | x] = 1 - E[b | x] + share_j * E[total | x].  The total is positive, so the order is that of the scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.linear_model import Ridge

from defer.estimators.deferral.linear import LinearScores

__all__ = [
    "Bound",
    "CreditTotals",
    "at_least_some",
    "credit_bound",
    "credit_shares",
    "fit_credit_totals",
    "fit_ridge",
]

Floats = NDArray[np.float64]
Bound = Literal["one", "sum", "largest"]
"""What b is."""

# A total below this would turn the order of the scores around by rounding.
_LEAST_TOTAL = 1e-12


@dataclass(frozen=True, eq=False)
class CreditTotals:
    """Expected total credit and expected bound of a query, clipped to the range that was observed.

    Attributes
    ----------
    model : LinearScores
        Total and bound.
    low, high : arrays of shape (2,)

    Examples
    --------
    >>> model = LinearScores(np.zeros((2, 1)), np.array([1.5, 1.0]))
    >>> totals = CreditTotals(model, np.array([0.0, 1.0]), np.array([2.0, 1.0]))
    >>> totals.utility(np.array([[0.25, 0.75]]), np.zeros((1, 1))).tolist()
    [[0.375, 1.125]]
    """

    model: LinearScores
    low: Floats
    high: Floats

    def total_and_bound(self, X: Any) -> tuple[Floats, Floats]:
        """Expected total credit and expected bound of every query, each of shape (n, 1)."""
        total, bound = np.clip(self.model.scores(X), self.low, self.high).T[..., None]
        return total, bound

    def utility(self, share: Floats, X: Any) -> Floats:
        """1 - E[c_j | x] of every action, shape (n, m)."""
        total, bound = self.total_and_bound(X)
        return (1.0 - bound) + share * at_least_some(total)


def at_least_some(total: Floats) -> Floats:
    """A total that shares are multiplied by, kept positive: it must not turn their order around.

    Examples
    --------
    >>> at_least_some(np.array([-0.5, 2.0])).tolist()
    [1e-12, 2.0]
    """
    return np.maximum(total, _LEAST_TOTAL)


def credit_bound(cost: Floats, bound: Bound) -> Floats:
    """b of every query, shape (n, 1).

    Examples
    --------
    >>> [credit_bound(np.array([[0.25, 0.5]]), bound).tolist() for bound in ("one", "sum", "largest")]
    [[[1.0]], [[0.75]], [[0.5]]]
    """
    if bound == "one":
        return np.ones((len(cost), 1))
    return cost.sum(axis=1, keepdims=True) if bound == "sum" else cost.max(axis=1, keepdims=True)


def fit_credit_totals(
    X: Any, cost: Floats, weight: Floats, *, bound: Bound, C: float, n_summed: int | None = None
) -> CreditTotals:
    """Regress total credit and bound on the features, by ridge regression with penalty 1 / C.

    Parameters
    ----------
    X : array or csr matrix of shape (n, d)
    cost : array of shape (n, m), in [0, 1]
    weight : array of shape (n,), or (n, m) with 0 where a cost was not observed
        With a table every action has its own regression, which needs the bound 1.
    bound : {"one", "sum", "largest"}
    C : float
    n_summed : int, optional
        The total is that of the first so many actions; by default of all.
    """
    m = cost.shape[1]
    if weight.ndim == 2:
        parts = [fit_ridge(X, 1.0 - cost[:, [arm]], weight[:, arm], C) for arm in range(m)]
        coef = np.vstack([np.sum([part.coef[0] for part in parts], axis=0), np.zeros(X.shape[1])])
        seen = weight > 0
        low, high = (np.where(seen, 1.0 - cost, empty) for empty in (np.inf, -np.inf))
        model = LinearScores(coef, np.array([np.sum([part.intercept[0] for part in parts]), 1.0]))
        return CreditTotals(model, np.array([low.min(axis=0).sum(), 1.0]), np.array([high.max(axis=0).sum(), 1.0]))
    b = credit_bound(cost, bound)
    table = np.hstack([(b - cost)[:, :n_summed].sum(axis=1, keepdims=True), b])
    seen = table[weight > 0]
    return CreditTotals(fit_ridge(X, table, weight, C), seen.min(axis=0), seen.max(axis=0))


def credit_shares(scores: Floats, *, comp_sum: str = "cross_entropy", q: float = 0.7) -> Floats:
    """Share of every action in the expected credit, at the population minimiser of a comp-sum loss.

    The cross-entropy gives softmax(scores); the sum-exponential loss softmax(2 scores), since its minimum has shares that go as
    the root of the credit; the generalised cross-entropy softmax((1 - q) scores); the constrained loss
    1 - (m - 1) softmax(-scores).  The mean absolute error tells the best action alone: its softmax is an order.

    Parameters
    ----------
    scores : array of shape (n, m)
    comp_sum : str, default="cross_entropy"
    q : float, default=0.7
        Of the generalised cross-entropy.

    Examples
    --------
    >>> credit_shares(np.log([[0.25, 0.75]])).tolist()
    [[0.25, 0.75]]
    """
    if comp_sum == "constrained":
        m = scores.shape[1]
        return 1.0 - (m - 1) * softmax(-scores, axis=1) if m > 1 else np.ones_like(scores)
    sharpness = {"sum_exponential": 2.0, "generalized_cross_entropy": 1.0 - q if q < 1.0 else 1.0}
    return np.asarray(softmax(sharpness.get(comp_sum, 1.0) * scores, axis=1))


def fit_ridge(X: Any, table: Floats, weight: Floats, C: float) -> LinearScores:
    """Ridge regression of every column with penalty 1 / C; a column that is constant needs none.

    Parameters
    ----------
    X : array or csr matrix of shape (n, d)
    table : array of shape (n, m)
    weight : array of shape (n,)
        0 leaves a row out.
    C : float

    Examples
    --------
    >>> fit_ridge(np.zeros((2, 1)), np.array([[0.0, 3.0], [1.0, 3.0]]), np.ones(2), 1.0).scores(np.zeros((1, 1))).tolist()
    [[0.5, 3.0]]
    """
    rows = np.flatnonzero(weight > 0)
    coef, intercept = np.zeros((table.shape[1], X.shape[1])), table[rows[0]].astype(np.float64)
    moves = np.flatnonzero(np.ptp(table[rows], axis=0) > 0)
    if len(moves):
        if len(rows) < len(weight):
            X, table, weight = X[rows], table[rows], weight[rows]
        ridge = Ridge(alpha=1.0 / C, tol=1e-10).fit(X, table[:, moves], sample_weight=weight)
        coef[moves], intercept[moves] = ridge.coef_, ridge.intercept_
    return LinearScores(coef, intercept)
