"""Matrix factorisation of preferences: an arm and a query meet in a space of few dimensions, and the higher score wins.

Source: RouteLLM (Ong et al., ICLR 2025, arXiv 2406.18665).  The score is linear in the query's embedding, so the fit is that
of a linear model, by L-BFGS on all battles at once; no network library is needed.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, cg
from sklearn.exceptions import ConvergenceWarning

from defer.estimators.deferral.parameter_checks import check_counts, check_flags, check_positive
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.routers.preference_router import PreferenceRouter
from defer.estimators.routers.query_rows import as_floats, check_numbers
from defer.losses.preference import preference_loss
from defer.portfolios.preferences import Battles, battles

__all__ = ["MatrixFactorizationRouter", "factor_scores"]

Floats = NDArray[np.float64]

# Iterations of the search without a limit on the rank, from which one with a limit starts.
_FIRST_STEPS = 60
_MOST_NEWTON_STEPS = 5


class MatrixFactorizationRouter(PreferenceRouter):
    """Scores head · (v_arm * (W e + b)) of an embedding e, fitted to battles: P(a beats b) = sigmoid(score_a - score_b).

    Preference data come as `defer.portfolios.preferences.preference_table`; of ordinary outcomes every two observed arms of
    a row are a battle, won by the higher quality; single ones fight the outcomes of other rows.

    Parameters
    ----------
    dim : int, default=128
        Dimensions in which arms and queries meet, and the most that the rank of the scores can be.
    C : float, default=0.1
        Inverse strength of the penalty, as in `LogisticRegression`: the sum of the battles' losses + ``|head * W|^2 / (2 C)``,
        b counting as a column of W.
    fit_intercept : bool, default=True
        Whether the projection has a bias b; without it, as in the source's code, embeddings of 0 are ties.
    max_iter : int, default=500
    tol : float, default=1e-5
        The search stops where no derivative of the mean loss exceeds it.
    cost_weight : float, default=0.0
        Quality given up per US dollar.

    Attributes
    ----------
    arms_ : array of shape (m,)
    projection_ : array of shape (k, d), k = min(dim, m)
        W.  With b, its rows have length 1, and `head_` holds what they had.
    bias_ : array of shape (k,)
    head_ : array of shape (k,)
    arm_vectors_ : array of shape (m, k)
        Of length 1, which they are brought to wherever they are used.
    n_iter_ : int
    quality_scale_ : QualityScale

    Notes
    -----
    *What is found.*  Arms of number m span m dimensions at most, so more of them change nothing: k = min(dim, m).  For
    dim >= m every linear map from embeddings to scores can be written in this form, and the fit is a linear model with one
    column of coefficients per arm, B = W' diag(head) V'.  The penalty is then the least trace(B K^-1 B') over all
    correlation matrices K of the arms: a convex problem, whose solution depends on no start.  Two arms get the coefficients
    of a logistic regression of the wins with 4 C.  For dim < m, the rank is limited, the problem is not convex, and the
    search starts at the best approximation, of that rank, of the solution without the limit.

    *Ours.*  The source trains by Adam with weight decay on every factor; a penalty on the product alone makes the optimum
    unique.  Reading of single outcomes: see `defer.portfolios.preferences.battles`.  Scores of the training queries set the
    scale of quality.

    Time per iteration is that of two products of the embeddings with m columns; float32 input stays float32.

    References
    ----------
    Ong et al. 2025, RouteLLM, arXiv 2406.18665 (matrix factorisation).

    Examples
    --------
    >>> from defer.portfolios.preferences import preference_table
    >>> X = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> table = preference_table(["gpt"] * 4, ["mix"] * 4, ["gpt", "gpt", "mix", "tie"])
    >>> router = MatrixFactorizationRouter().fit(X, table)
    >>> router.predict([[1.0, 0.0], [0.0, 1.0]]).tolist()
    ['gpt', 'mix']
    >>> router.predict_win(X, "gpt", "mix") + router.predict_win(X, "mix", "gpt")
    array([1., 1., 1., 1.])
    """

    projection_: Floats
    bias_: Floats
    head_: Floats
    arm_vectors_: Floats
    n_iter_: int

    def __init__(
        self,
        dim: int = 128,
        *,
        C: float = 0.1,
        fit_intercept: bool = True,
        max_iter: int = 500,
        tol: float = 1e-5,
        cost_weight: float = 0.0,
    ) -> None:
        self.dim = dim
        self.C = C
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol
        self.cost_weight = cost_weight

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _fit_scores(self, X: Any, outcomes: Outcomes) -> Floats:
        check_counts("MatrixFactorizationRouter", dim=self.dim, max_iter=self.max_iter)
        check_positive("MatrixFactorizationRouter", C=self.C, tol=self.tol)
        check_flags("MatrixFactorizationRouter", fit_intercept=self.fit_intercept)
        check_numbers(self, X)
        found, m = battles(outcomes.quality, outcomes.weight), len(self.arms_)
        weight = np.ones(len(found)) if outcomes.weight is None else outcomes.weight[found.row]
        factors, self.n_iter_ = _Factors(np.zeros((1, X.shape[1] + 1)), np.ones((m, 1))), 0
        if weight.sum() > 0:
            objective = _Objective(as_floats(X), found, weight, m, C=self.C, intercept=bool(self.fit_intercept))
            factors, self.n_iter_, cut = objective.minimised(int(self.dim), int(self.max_iter), float(self.tol))
            if cut:
                warnings.warn(
                    f"MatrixFactorizationRouter: L-BFGS stopped after {self.n_iter_} iterations with a derivative above "
                    f"tol={self.tol:g}: raise max_iter, scale the features (StandardScaler), lower C, or raise tol",
                    ConvergenceWarning,
                    stacklevel=4,
                )
        length = np.sqrt((factors.rows**2).sum(axis=1))
        unit = factors.rows / np.where(length > 0, length, 1.0)[:, None]
        self.projection_, self.bias_, self.head_ = unit[:, :-1].copy(), unit[:, -1].copy(), length
        self.arm_vectors_ = _normalized(factors.vectors)
        return self._predict_scores(X)

    def _predict_scores(self, X: Any) -> Floats:
        check_numbers(self, X)
        return factor_scores(
            X, projection=self.projection_, bias=self.bias_, head=self.head_, arm_vectors=self.arm_vectors_
        )


def factor_scores(X: Any, *, projection: ArrayLike, bias: ArrayLike, head: ArrayLike, arm_vectors: ArrayLike) -> Floats:
    """Score head · (v * (W e + b)) of every arm on every query, with every arm's v brought to length 1.

    Parameters
    ----------
    X : array or sparse matrix of shape (n, d)
        Embeddings e.
    projection : array of shape (k, d)
        W.
    bias, head : arrays of shape (k,)
    arm_vectors : array of shape (m, k)

    Returns
    -------
    array of shape (n, m)

    Examples
    --------
    >>> factors = {"projection": [[1.0, 0.0], [0.0, 1.0]], "bias": [0.0, 0.5], "head": [2.0, 1.0]}
    >>> factor_scores(np.array([[1.0, 1.0]]), **factors, arm_vectors=[[3.0, 4.0], [0.0, 1.0]]).tolist()
    [[2.4, 1.5]]
    """
    columns = np.asarray(head)[:, None] * _normalized(np.asarray(arm_vectors, dtype=np.float64)).T
    X = as_floats(X)
    coef = (np.asarray(projection).T @ columns).astype(X.dtype)
    return np.asarray(X @ coef, dtype=np.float64) + np.asarray(bias) @ columns


@dataclass(frozen=True, eq=False)
class _Factors:
    """Rows of head * [W, b], shape (k, d + 1), and vectors of the arms, shape (m, k)."""

    rows: Floats
    vectors: Floats


class _Objective:
    """Mean loss of the battles + |rows|^2 / (2 C W), W their total weight, at flat parameters."""

    def __init__(self, X: Any, found: Battles, weight: Floats, m: int, *, C: float, intercept: bool) -> None:
        fought, place = np.unique(found.row, return_inverse=True)
        self.X, self.found, self.place = X[fought], found, place
        self.weight, self.mass = weight / weight.sum(), weight.sum()
        self.m, self.d, self.k, self.intercept = m, X.shape[1], m, intercept
        self.penalty = 1.0 / (C * self.mass)

    def minimised(self, dim: int, max_iter: int, tol: float) -> tuple[_Factors, int, bool]:
        """Factors, iterations, and whether these ran out."""
        self.k = self.m
        start, steps = _Factors(np.zeros((self.k, self.d + 1)), np.eye(self.m)), 0
        if dim < self.m:
            free, steps, _ = self._search(start, min(_FIRST_STEPS, max_iter), tol)
            start, self.k = _of_rank(free, dim), dim
        found, more, cut = self._search(start, max_iter, tol)
        return found, steps + more, cut

    def _search(self, start: _Factors, max_iter: int, tol: float) -> tuple[_Factors, int, bool]:
        begin = np.concatenate([start.rows.ravel(), start.vectors.ravel()])
        options = {"maxiter": max_iter, "gtol": tol, "ftol": 0.0, "maxls": 50, "maxfun": 50 * max_iter}
        found = minimize(self, begin, jac=True, method="L-BFGS-B", options=options)
        end = found.x
        # Differences of single-precision gradients would be noise.
        if found.status != 1 and np.abs(found.jac).max() > tol and self.X.dtype == np.float64:
            end = self._polished(end, found.jac, tol)
        return self._factors(end), int(found.nit), found.status == 1

    def _polished(self, flat: Floats, slope: Floats, tol: float) -> Floats:
        """Newton steps on the gradient, which shows what differences of the objective cannot, while they shrink it."""
        for _ in range(_MOST_NEWTON_STEPS):
            here = flat

            def bent(vector: Floats, here: Floats = here) -> Floats:
                away = 1e-5 * vector / (np.abs(vector).max() or 1.0)
                return (self(here + away)[1] - self(here - away)[1]) * (0.5e5 * np.abs(vector).max())

            step, _ = cg(LinearOperator((flat.size, flat.size), matvec=bent, dtype=np.float64), -slope, maxiter=100)
            turned = self(flat + step)[1]
            if not np.abs(turned).max() < np.abs(slope).max():
                break
            flat, slope = flat + step, turned
            if np.abs(slope).max() <= tol:
                break
        return flat

    def _factors(self, flat: Floats) -> _Factors:
        size = self.k * (self.d + 1)
        return _Factors(flat[:size].reshape(self.k, -1), flat[size:].reshape(self.m, self.k))

    def __call__(self, flat: Floats) -> tuple[float, Floats]:
        factors = self._factors(flat)
        rows = factors.rows
        length = np.sqrt((factors.vectors**2).sum(axis=1, keepdims=True))
        unit = factors.vectors / length
        coef = unit @ rows
        scores = np.asarray(self.X @ coef[:, :-1].T.astype(self.X.dtype), dtype=np.float64) + coef[:, -1]
        found, place = self.found, self.place
        difference = scores[place, found.first] - scores[place, found.second]
        loss = preference_loss(difference, found.win, weight=self.weight)
        pull = np.bincount(place * self.m + found.first, loss.gradient, scores.size)
        pull -= np.bincount(place * self.m + found.second, loss.gradient, scores.size)
        by_coef = self._adjoint(pull.reshape(scores.shape))
        by_rows = unit.T @ by_coef + self.penalty * rows
        by_unit = by_coef @ rows.T
        by_vectors = (by_unit - unit * (by_unit * unit).sum(axis=1, keepdims=True)) / length
        value = float(loss.value.sum()) + 0.5 * self.penalty * float(np.vdot(rows, rows))
        return value, np.concatenate([by_rows.ravel(), by_vectors.ravel()])

    def _adjoint(self, pull: Floats) -> Floats:
        """Derivatives by the coefficients of every arm, shape (m, d + 1), from those by the scores."""
        slope = np.zeros((self.m, self.d + 1))
        slope[:, :-1] = np.asarray(self.X.T @ pull.astype(self.X.dtype)).T
        if self.intercept:
            slope[:, -1] = pull.sum(axis=0)
        return slope


def _of_rank(factors: _Factors, k: int) -> _Factors:
    """The best approximation of rank k of the scores up to what all arms share, as a start."""
    coef = _normalized(factors.vectors) @ factors.rows
    left, size, _ = np.linalg.svd(coef - coef.mean(axis=0), full_matrices=False)
    vectors = left[:, :k] * np.sqrt(size[:k])
    lost = np.flatnonzero(np.abs(vectors).max(axis=1) < 1e-12)
    vectors[lost] = 1.0
    vectors = _normalized(vectors)
    return _Factors(np.linalg.lstsq(vectors, coef - coef.mean(axis=0), rcond=None)[0], vectors)


def _normalized(vectors: Floats) -> Floats:
    length = np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    return vectors / np.where(length > 0, length, 1.0)
