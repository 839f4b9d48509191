"""Linear scores, one per action, fitted by L-BFGS on the exact gradient of a surrogate.

The objective is scaled as `LogisticRegression` scales its own: mean surrogate plus |coef|^2 / (2 C W), W the total weight,
intercepts free.  With cross-entropy and one-hot credit it is the same problem, and has the same solution.  The search goes over
coefficients of features that are centred and brought to one scale, which is another way to write the same problem; features
are never copied for it.  Where a finer gradient is asked for than differences of objectives can show, Newton steps on the
gradient itself finish the work.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
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

_MOST_NEWTON_STEPS = 5
_ROUNDING = 1e-10
# The logistic loss bends by at most this much, which makes a penalty and the spread of a feature comparable.
_BEND = 0.25
# Rows that are looked at together; a few MB of float64 at a time.
_BLOCK = 4096


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
    X: Any,
    problem: ScoreProblem,
    *,
    C: float,
    max_iter: int,
    tol: float,
    start: LinearScores | None = None,
    paths: Sequence[Sequence[ScoreProblem]] = (),
    smooth: bool = True,
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
        Stop where no derivative of the objective exceeds it, by an intercept, or by a coefficient that is measured in units
        of the spread of its feature.
    start : LinearScores, optional
        Where to start; by default at zero.
    paths : sequence of sequences of ScoreProblem, optional
        For a surrogate that is not convex: the problems of a path are solved one after the other, each from the solution of the
        one before, and the solution of the last is one more start.  The fit of lowest objective is kept, the first of equals.
    smooth : bool, default=True
        Whether the derivatives of the loss vanish at its minimum; where they jump, as those of the hinge loss, their size tells
        nothing, and only of too few iterations is warned.

    Returns
    -------
    LinearScores
        For a convex surrogate the optimum, up to `tol`; else a stationary point that depends on where it was started.

    Warns
    -----
    ConvergenceWarning
        If a derivative exceeds `tol` where the search ended, of the fit that is kept.

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
    frame = _Frame.of(X, problem, C)
    begin = None if start is None else np.column_stack([start.coef, start.intercept])
    options: dict[str, Any] = {"C": C, "max_iter": max_iter, "tol": tol, "smooth": smooth}
    found = _search(X, problem, frame, begin, **options)
    for path in paths:
        theta = begin
        for step in path:
            theta = _search(X, step, frame, theta, **options).theta
        other = _search(X, problem, frame, theta, **options)
        found = other if other.value < found.value else found
    if found.slope > tol and (smooth or found.cut):
        ended = (
            f"after {found.n_iter} iterations"
            if found.cut
            else f"in a search without progress ({found.n_iter} iterations)"
        )
        warnings.warn(
            f"L-BFGS stopped {ended} with a derivative of {found.slope:.2g}, above tol={tol:g}: "
            f"{'raise max_iter, ' if found.cut else ''}scale the features (StandardScaler), lower C, or raise tol",
            ConvergenceWarning,
            stacklevel=2,
        )
    return LinearScores(found.theta[:, :-1].copy(), found.theta[:, -1].copy(), found.value, found.n_iter)


@dataclass(frozen=True, eq=False)
class _Found:
    """Where a search ended: parameters (m, d + 1), objective, largest derivative, and whether iterations ran out."""

    theta: Floats
    value: float
    slope: float
    n_iter: int
    cut: bool


def _search(
    X: Any,
    problem: ScoreProblem,
    frame: _Frame,
    begin: Floats | None,
    *,
    C: float,
    max_iter: int,
    tol: float,
    smooth: bool,
) -> _Found:
    objective = _Framed(_Objective(X, problem, C), frame)
    begin = np.zeros(objective.shape) if begin is None else frame.inside(begin)
    # The gradient alone decides when to stop: a small decrease may be a slow stretch of the way.
    options = {"maxiter": max_iter, "gtol": tol, "ftol": 0.0, "maxls": 50, "maxfun": 50 * max_iter}
    found = minimize(objective, begin.ravel(), jac=True, method="L-BFGS-B", options=options)
    inside, value, slope = found.x, float(found.fun), float(np.abs(found.jac).max())
    cut = found.status == 1
    if slope > tol and smooth and not cut:
        inside, value, slope = _newton(objective, inside, value, tol)
    return _Found(frame.outside(inside.reshape(objective.shape)), value, slope, int(found.nit), cut)


@dataclass(frozen=True, eq=False)
class _Frame:
    """Centred and scaled features, as a change of parameters: coefficients in units of 1 / scale, intercepts at the centre.

    Attributes
    ----------
    centre, scale : arrays of shape (d,)
    """

    centre: Floats
    scale: Floats

    @classmethod
    def of(cls, X: Any, problem: ScoreProblem, C: float) -> _Frame:
        weight = problem.weight if problem.weight.ndim == 1 else problem.weight.mean(axis=1)
        centre, variance = _moments(X, weight)
        return cls(centre, np.sqrt(variance + 1.0 / (_BEND * C * problem.total_weight)))

    def outside(self, inside: Floats) -> Floats:
        """Coefficients and intercepts of the features as they are, from those of the search; both (m, d + 1)."""
        coef = inside[:, :-1] / self.scale
        return np.column_stack([coef, inside[:, -1] - coef @ self.centre])

    def inside(self, theta: Floats) -> Floats:
        """The inverse of `outside`."""
        return np.column_stack([theta[:, :-1] * self.scale, theta[:, -1] + theta[:, :-1] @ self.centre])

    def pulled_in(self, slope: Floats) -> Floats:
        """Derivatives by the parameters of the search, from those by `outside`."""
        return np.column_stack([(slope[:, :-1] - slope[:, -1:] * self.centre) / self.scale, slope[:, -1]])


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


class _Framed:
    """The objective as a function of the parameters of the search."""

    def __init__(self, objective: _Objective, frame: _Frame) -> None:
        self.objective, self.frame, self.shape = objective, frame, objective.shape

    def __call__(self, flat: Floats) -> tuple[float, Floats]:
        value, slope = self.objective(self._outside(flat))
        return value, self._pulled_in(slope)

    def hessian(self, flat: Floats) -> LinearOperator:
        inner = self.objective.hessian(self._outside(flat))
        return LinearOperator(
            inner.shape, matvec=lambda v: self._pulled_in(inner @ self._outside(np.ravel(v))), dtype=np.float64
        )

    def _outside(self, flat: Floats) -> Floats:
        return self.frame.outside(flat.reshape(self.shape)).ravel()

    def _pulled_in(self, slope: Floats) -> Floats:
        return self.frame.pulled_in(slope.reshape(self.shape)).ravel()


def _newton(objective: _Framed, theta: Floats, value: float, tol: float) -> tuple[Floats, float, float]:
    """Newton steps while they shrink the gradient and lift nothing; none for a loss without a Hessian."""
    slope = objective(theta)[1]
    for _ in range(_MOST_NEWTON_STEPS):
        try:
            step, _ = cg(objective.hessian(theta), -slope, rtol=1e-4, maxiter=200)
        except LossInputError:
            break
        after, turned = objective(theta + step)
        # Rounding may lift the objective a little at its minimum; a step to a saddle point would lift it more.
        if not np.abs(turned).max() < np.abs(slope).max() or after > value + _ROUNDING * abs(value):
            break
        theta, value, slope = theta + step, after, turned
        if np.abs(slope).max() <= tol:
            break
    return theta, value, float(np.abs(slope).max())


def _moments(X: Any, weight: Floats) -> tuple[Floats, Floats]:
    """Mean and variance of every feature, each (d,), over the rows by their weight."""
    mass = weight.sum()
    if not isinstance(X, np.ndarray):
        mean = np.asarray(weight @ X, dtype=np.float64) / mass
        return mean, np.maximum(np.asarray(weight @ X.multiply(X)).ravel() / mass - mean**2, 0.0)
    # The distance to some row is what is squared: squares of a large offset would swallow the spread.
    origin = X[int(weight.argmax())].astype(np.float64)
    first, second = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    for begin in range(0, len(X), _BLOCK):
        rows = slice(begin, begin + _BLOCK)
        away = X[rows] - origin
        first += weight[rows] @ away
        second += np.einsum("i,ij,ij->j", weight[rows], away, away)
    return origin + first / mass, np.maximum(second / mass - (first / mass) ** 2, 0.0)


def _product(X: Any, coef: Floats) -> Floats:
    """X @ coef.T in float64, without a float64 copy of X."""
    return np.asarray(X @ coef.T.astype(_working_type(X)), dtype=np.float64)


def _adjoint(X: Any, table: Floats) -> Floats:
    """table.T @ X, shape (m, d)."""
    table = table.astype(_working_type(X), copy=False)
    return np.asarray(table.T @ X if isinstance(X, np.ndarray) else (X.T @ table).T, dtype=np.float64)


def _working_type(X: Any) -> Any:
    return np.float32 if X.dtype == np.float32 else np.float64
