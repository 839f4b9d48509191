"""Linear scores, one per action, fitted by L-BFGS on the exact gradient of a surrogate.

The objective is scaled as `LogisticRegression` scales its own: mean surrogate plus |coef|^2 / (2 C W), W the total weight,
intercepts free.  With cross-entropy and one-hot credit it is the same problem, and has the same solution.  Where a finer
gradient is asked for than differences of objectives can show, Newton steps on the gradient itself finish the work.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, cg
from sklearn.exceptions import ConvergenceWarning

from defer.estimators.deferral.score_problem import ScoreProblem
from defer.exceptions import LossInputError

__all__ = ["LinearScores", "fit_linear_scores"]

Floats = NDArray[np.float64]

# Where L-BFGS gave up with derivatives below this, rounding of the objective stopped it, and it is close to the optimum.
_NEARLY_FLAT = 1e-5
_MOST_NEWTON_STEPS = 5


@dataclass(frozen=True, eq=False)
class LinearScores:
    """Scores that are linear in the features.

    Attributes
    ----------
    coef : array of shape (m, d)
    intercept : array of shape (m,)
    objective : float
        Value of what was minimised; NaN if it was not fitted.
    n_iter : int
        Iterations of the solver.

    Examples
    --------
    >>> LinearScores(np.array([[1.0], [-1.0]]), np.array([0.0, 0.5])).scores(np.array([[2.0]])).tolist()
    [[2.0, -1.5]]
    """

    coef: Floats
    intercept: Floats
    objective: float = float("nan")
    n_iter: int = 0

    def scores(self, X: Any) -> Floats:
        """Score of every action, shape (n, m), of dense or sparse features (n, d)."""
        return _product(X, self.coef) + self.intercept


def fit_linear_scores(
    X: Any, problem: ScoreProblem, *, C: float, max_iter: int, tol: float, start: LinearScores | None = None
) -> LinearScores:
    """Minimise mean surrogate + |coef|^2 / (2 C W) over coefficients and intercepts.

    Parameters
    ----------
    X : array or csr matrix of shape (n, d)
        float32 is not copied: products with it are taken in float32, everything else in float64.
    problem : ScoreProblem
        W is its `total_weight`.
    C : float
        Inverse strength of the penalty, as in `LogisticRegression`.
    max_iter : int
        Most iterations.
    tol : float
        Stop where no partial derivative of the objective exceeds it.
    start : LinearScores, optional
        Where to start; by default at zero.

    Returns
    -------
    LinearScores
        For a convex surrogate the optimum, up to `tol`; else a stationary point that depends on `start`.

    Warns
    -----
    ConvergenceWarning
        If `max_iter` was reached.

    Examples
    --------
    >>> from defer.losses import cross_entropy
    >>> def loss(scores, cost, weight):
    ...     return cross_entropy(scores, 1.0 - cost, weight=weight)
    >>> problem = ScoreProblem(np.array([[0.0, 1.0], [1.0, 0.0]]), np.ones(2), loss)
    >>> fitted = fit_linear_scores(np.array([[-1.0], [1.0]]), problem, C=1.0, max_iter=100, tol=1e-8)
    >>> fitted.coef[0] < 0 < fitted.coef[1]
    array([ True])
    """
    objective = _Objective(X, problem, C)
    begin = np.zeros(objective.shape) if start is None else np.column_stack([start.coef, start.intercept])
    # The gradient alone decides when to stop: a small decrease may be a slow stretch of the way.
    options = {"maxiter": max_iter, "gtol": tol, "ftol": 0.0, "maxls": 50, "maxfun": 50 * max_iter}
    found = minimize(objective, begin.ravel(), jac=True, method="L-BFGS-B", options=options)
    theta, value, slope = found.x, float(found.fun), np.abs(found.jac).max()
    if found.status == 1:
        warnings.warn(
            f"L-BFGS stopped after {found.nit} iterations with a derivative of {slope:.2g}, above tol={tol:g}: raise max_iter, "
            "scale the features, or lower C",
            ConvergenceWarning,
            stacklevel=2,
        )
    elif tol < slope < _NEARLY_FLAT:
        theta, value = _newton(objective, theta, value, tol)
    theta = theta.reshape(objective.shape)
    return LinearScores(theta[:, :-1].copy(), theta[:, -1].copy(), value, int(found.nit))


class _Objective:
    """Value and gradient of the objective, and products with its Hessian, at flat parameters."""

    def __init__(self, X: Any, problem: ScoreProblem, C: float) -> None:
        self.X, self.problem, self.mass = X, problem, problem.total_weight
        self.penalty = 1.0 / (C * self.mass)
        self.shape = problem.n_scores, X.shape[1] + 1

    def __call__(self, flat: Floats) -> tuple[float, Floats]:
        coef = flat.reshape(self.shape)[:, :-1]
        loss = self._loss(flat)
        slope = self._pulled_back(loss.gradient, coef)
        return float(loss.value.sum()) / self.mass + 0.5 * self.penalty * float(np.vdot(coef, coef)), slope

    def hessian(self, flat: Floats) -> LinearOperator:
        loss, size = self._loss(flat), flat.size

        def product(vector: Floats) -> Floats:
            direction = vector.reshape(self.shape)
            along = _product(self.X, direction[:, :-1]) + direction[:, -1]
            return self._pulled_back(loss.hessian_product(along), direction[:, :-1])

        return LinearOperator((size, size), matvec=product, dtype=np.float64)

    def _loss(self, flat: Floats) -> Any:
        theta = flat.reshape(self.shape)
        return self.problem.loss(_product(self.X, theta[:, :-1]) + theta[:, -1], self.problem.cost, self.problem.weight)

    def _pulled_back(self, table: Floats, coef: Floats) -> Floats:
        """A table of derivatives by the scores as derivatives by the parameters, with those of the penalty."""
        slope = np.empty(self.shape)
        slope[:, :-1], slope[:, -1] = _adjoint(self.X, table), table.sum(axis=0)
        slope /= self.mass
        slope[:, :-1] += self.penalty * coef
        return slope.ravel()


def _newton(objective: _Objective, theta: Floats, value: float, tol: float) -> tuple[Floats, float]:
    """Newton steps while they shrink the gradient; none for a loss without a Hessian."""
    slope = objective(theta)[1]
    for _ in range(_MOST_NEWTON_STEPS):
        try:
            step, _ = cg(objective.hessian(theta), -slope, rtol=1e-4, maxiter=200)
        except LossInputError:
            break
        after, turned = objective(theta + step)
        if not np.abs(turned).max() < np.abs(slope).max():
            break
        theta, value, slope = theta + step, after, turned
        if np.abs(slope).max() <= tol:
            break
    return theta, value


def _product(X: Any, coef: Floats) -> Floats:
    """X @ coef.T in float64, without a float64 copy of X."""
    return np.asarray(X @ coef.T.astype(_working_type(X)), dtype=np.float64)


def _adjoint(X: Any, table: Floats) -> Floats:
    """table.T @ X, shape (m, d)."""
    table = table.astype(_working_type(X), copy=False)
    return np.asarray(table.T @ X if isinstance(X, np.ndarray) else (X.T @ table).T, dtype=np.float64)


def _working_type(X: Any) -> Any:
    return np.float32 if X.dtype == np.float32 else np.float64
