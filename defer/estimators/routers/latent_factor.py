"""Routing by item-response theory: arms have abilities, queries have demands that are read from their features.

P(arm h is right | x) = sigmoid(a(x) . theta_h + bias_h - b(x)), with discrimination a and difficulty b linear in the features
of the query.  A query needs no outcomes to be placed, and an arm needs few, because the abilities of the other arms say what
to expect of it.  Source: the multidimensional two-parameter logistic model (Reckase 2009), with a linear model of the items.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import issparse
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning

from defer.estimators.arm_addition import ArmAddition, ArmTrial
from defer.estimators.deferral.parameter_checks import check_counts, check_positive
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.routers.learned_map import unit_range
from defer.estimators.routers.query_rows import check_numbers

__all__ = ["AbilityPrior", "LatentFactorRouter"]

Floats = NDArray[np.float64]

# Variance of a bias before any arm is known, in squared logits: wide, but an arm that is always right keeps a finite one.
_BIAS_VARIANCE = 25.0
_STEPS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
_MEMORY = 30
_WIDEST_TURNED = 1024
_NEWTON_STEPS = 50
_NEWTON_TOL = 1e-10


class LatentFactorRouter(ArmAddition):
    """Abilities of arms, and discrimination and difficulty of queries from their features.

    Parameters
    ----------
    n_factors : int, default=2
        Kinds of ability; at most one less than there are arms are used, with which every arm has a logistic model of its own.
        0 leaves the difficulty that is common to all arms, and with it the best static arm.
    C : float, default=0.1
        Variance of a coefficient of discrimination or difficulty: the inverse strength of the penalty, on the scale of
        `LogisticRegression`.
    max_iter : int, default=1000
        Most iterations of L-BFGS.
    tol : float, default=1e-4
        Stop where no derivative of the mean penalised log likelihood exceeds it.
    cost_weight : float, default=0.0
        Quality given up per US dollar.

    Attributes
    ----------
    arms_ : array of shape (m,)
    ability_ : array of shape (m, r)
        theta of every arm.
    bias_ : array of shape (m,)
        Log-odds of every arm on the mean query.
    ability_covariance_ : array of shape (m, r + 1, r + 1)
        Uncertainty of (theta, bias), given the queries' parameters: the inverse curvature of the log posterior.
    ability_prior_ : AbilityPrior
        What is expected of an arm of which nothing is known.
    discrimination_coef_ : array of shape (d, r)
    difficulty_coef_ : array of shape (d,)
    centre_ : array of shape (d,)
        Mean of the features.
    unit_range_ : tuple of (float, float)
        Offset and span that bring outcomes to [0, 1].
    n_iter_ : int

    Notes
    -----
    Conventions that identify the model: over the arms of `fit`, abilities have mean 0 and covariance 1 before the last step
    below; the columns of `discrimination_coef_` are orthogonal, in order of falling length, and the largest entry of each is
    positive; features count from their mean.  A rotation of abilities has no meaning beyond that.

    Fit: the penalised log likelihood of all observed outcomes is maximised over all parameters together (normal priors: variance
    `C` for coefficients, 1 for abilities, 25 for biases).  Mean and covariance of the fitted abilities become the prior of an
    arm, and every arm's ability is estimated once more under it; `add_arm` does the same, so that an arm of few outcomes is near
    the mean arm.  The predicted quality is averaged over the uncertainty of the ability (probit approximation of the logistic
    integral).

    Graded outcomes are soft targets of the cross-entropy; outcomes that leave [0, 1] are brought to it by their range, and an
    arm that is added is held to that range.  Few dense features are turned to their principal axes for the search, which changes
    no solution.  The likelihood is not concave in discrimination and ability together: the fit starts
    from the leading singular vectors of its slope, nothing is drawn at random.  Linear item parameters, the empirical prior, the
    start and the defaults are ours.

    References
    ----------
    Reckase 2009, Multidimensional Item Response Theory.

    Examples
    --------
    >>> X = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    >>> quality = [[1, 0], [1, 0], [0, 1], [0, 1]]
    >>> router = LatentFactorRouter(1).fit(X, quality)
    >>> router.predict([[-3.0], [3.0]]).tolist()
    [0, 1]
    """

    ability_: Floats
    bias_: Floats
    ability_covariance_: Floats
    ability_prior_: AbilityPrior
    discrimination_coef_: Floats
    difficulty_coef_: Floats
    centre_: Floats
    unit_range_: tuple[float, float]
    n_iter_: int

    def __init__(
        self,
        n_factors: int = 2,
        *,
        C: float = 0.1,
        max_iter: int = 1000,
        tol: float = 1e-4,
        cost_weight: float = 0.0,
    ) -> None:
        self.n_factors = n_factors
        self.C = C
        self.max_iter = max_iter
        self.tol = tol
        self.cost_weight = cost_weight

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def discrimination(self, X: Any) -> Floats:
        """What every kind of ability is worth on every query, a(x), shape (n, r)."""
        return self._demands(self._check_fitted_queries(X))[0]

    def difficulty(self, X: Any) -> Floats:
        """Log-odds that the mean arm lacks on every query against the mean query, b(x), shape (n,)."""
        return self._demands(self._check_fitted_queries(X))[1]

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        owner = type(self).__name__
        check_counts(owner, least=0, n_factors=self.n_factors)
        check_counts(owner, max_iter=self.max_iter)
        check_positive(owner, C=self.C, tol=self.tol)
        check_numbers(self, X)
        weight = np.ones(X.shape[0]) if outcomes.weight is None else outcomes.weight
        low, span = self.unit_range_ = unit_range(outcomes.quality[weight > 0])
        target = (outcomes.quality - low) / span
        problem = _Likelihood(X, target, weight, float(self.C), int(self.n_factors))
        found = problem.maximise(self.max_iter, self.tol)
        self.n_iter_ = max(1, found.n_iter)
        self.centre_, self.discrimination_coef_, ability = problem.centre, *_canonical(found.slope, found.ability)
        self.difficulty_coef_ = -found.common - found.slope @ found.ability.mean(axis=0)
        self.ability_prior_ = AbilityPrior.fit(np.column_stack([ability, found.bias]))
        demand, difficulty = self._demands(X)
        m, r = ability.shape
        self.ability_, self.bias_ = np.empty((m, r)), np.empty(m)
        self.ability_covariance_ = np.empty((m, r + 1, r + 1))
        for arm in range(m):
            seen = np.isfinite(target[:, arm]) & (weight > 0)
            estimate, covariance = self.ability_prior_.posterior(
                demand[seen], difficulty[seen], target[seen, arm], weight[seen]
            )
            self.ability_[arm], self.bias_[arm] = estimate[:-1], estimate[-1]
            self.ability_covariance_[arm] = covariance

    def _demands(self, X: Any) -> tuple[Floats, Floats]:
        check_numbers(self, X)
        coef = np.column_stack([self.discrimination_coef_, self.difficulty_coef_])
        scores = _product(X, coef) - self.centre_ @ coef
        return scores[:, :-1], scores[:, -1]

    def _predict_quality(self, X: Any) -> Floats:
        demand, difficulty = self._demands(X)
        design = np.column_stack([demand, np.ones(len(demand))])
        odds = design @ np.column_stack([self.ability_, self.bias_]).T - difficulty[:, None]
        spread = np.einsum("ij,mjk,ik->im", design, self.ability_covariance_, design, optimize=True)
        low, span = self.unit_range_
        return np.asarray(low + span * expit(odds / np.sqrt(1.0 + np.pi * np.maximum(spread, 0.0) / 8.0)))

    def _add_arm(self, trial: ArmTrial) -> None:
        demand, difficulty = self._demands(trial.X)
        low, span = self.unit_range_
        target = np.clip((trial.quality - low) / span, 0.0, 1.0)
        estimate, covariance = self.ability_prior_.posterior(demand, difficulty, target, 1.0 / trial.propensity)
        self.ability_ = np.vstack([self.ability_, estimate[:-1]])
        self.bias_ = np.append(self.bias_, estimate[-1])
        self.ability_covariance_ = np.concatenate([self.ability_covariance_, covariance[None]])


@dataclass(frozen=True, eq=False)
class AbilityPrior:
    """Normal distribution of the abilities and bias of an arm.

    Attributes
    ----------
    mean : array of shape (r + 1,)
    covariance : array of shape (r + 1, r + 1)

    Examples
    --------
    >>> prior = AbilityPrior.fit(np.array([[-1.0, 0.0], [1.0, 1.0]]))
    >>> prior.mean.tolist()
    [0.0, 0.5]
    >>> estimate, covariance = prior.posterior(np.zeros((0, 1)), np.zeros(0), np.zeros(0), np.zeros(0))
    >>> bool(np.allclose(estimate, prior.mean) and np.allclose(covariance, prior.covariance))
    True
    """

    mean: Floats
    covariance: Floats

    @classmethod
    def fit(cls, abilities: Floats) -> AbilityPrior:
        """Mean and covariance of (theta, bias) of fitted arms, shape (m, r + 1).

        The covariance is shrunk to the identity, which counts for as many arms as there are parameters and one: few arms do not
        tell how much arms differ.
        """
        m, size = abilities.shape
        mean = abilities.mean(axis=0)
        beyond = abilities - mean
        return cls(mean, (beyond.T @ beyond + (size + 1) * np.eye(size)) / (m + size + 1))

    def posterior(self, demand: Floats, difficulty: Floats, target: Floats, weight: Floats) -> tuple[Floats, Floats]:
        """Most probable (theta, bias) of an arm, shape (r + 1,), and its covariance.

        Parameters
        ----------
        demand : array of shape (k, r)
        difficulty : array of shape (k,)
        target : array of shape (k,), in [0, 1]
        weight : array of shape (k,)
        """
        design = np.column_stack([demand, np.ones(len(demand))])
        precision: Any = np.linalg.inv(self.covariance)
        estimate = self.mean.copy()

        def loss(at: Floats) -> float:
            odds = design @ at - difficulty
            off = at - self.mean
            return float(weight @ (np.logaddexp(0.0, odds) - target * odds) + 0.5 * off @ precision @ off)

        value = loss(estimate)
        for _ in range(_NEWTON_STEPS):
            p = expit(design @ estimate - difficulty)
            slope = design.T @ (weight * (p - target)) + precision @ (estimate - self.mean)
            if np.abs(slope).max() <= _NEWTON_TOL * (1.0 + weight.sum()):
                break
            step = np.linalg.solve(_curvature(design, weight * p * (1.0 - p), precision), slope)
            size, after = 1.0, loss(estimate - step)
            while after > value and size > 1e-6:
                size /= 2.0
                after = loss(estimate - size * step)
            if after > value:
                break
            estimate, value = estimate - size * step, after
        p = expit(design @ estimate - difficulty)
        return estimate, np.linalg.inv(_curvature(design, weight * p * (1.0 - p), precision))


@dataclass(frozen=True, eq=False)
class _Found:
    """Where the search ended: logits = (x - centre) @ (slope @ ability.T + common) + bias."""

    slope: Floats
    common: Floats
    ability: Floats
    bias: Floats
    n_iter: int


class _Likelihood:
    """Mean penalised cross-entropy of all observed outcomes, over the parameters of the search."""

    def __init__(self, X: Any, target: Floats, weight: Floats, C: float, n_factors: int) -> None:
        self.X, self.C = X, C
        known = np.isfinite(target)
        self.target, self.mass = np.where(known, target, 0.0), known * weight[:, None]
        self.total = float(weight.sum())
        d, m = X.shape[1], target.shape[1]
        self.shape = d, m, min(n_factors, m - 1, d)
        self.centre = np.asarray(weight @ X, dtype=np.float64).ravel() / self.total
        self.unit = _units(X, weight, self.centre, 4.0 / (C * self.total))

    def maximise(self, max_iter: int, tol: float) -> _Found:
        options = {"maxiter": max_iter, "gtol": tol, "ftol": 0.0, "maxls": 50, "maxcor": _MEMORY}
        found = minimize(self, self._start(), jac=True, method="L-BFGS-B", options=options)
        slope = float(np.abs(found.jac).max())
        if slope > tol and found.status == 1:
            warnings.warn(
                f"LatentFactorRouter: L-BFGS stopped after {found.nit} iterations with a derivative of {slope:.2g}, above "
                f"tol={tol:g}: raise max_iter, lower C, or raise tol",
                ConvergenceWarning,
                stacklevel=2,
            )
        coef, ability, bias = self._split(found.x)
        coef = self._raw(coef)
        return _Found(coef[:, :-1], coef[:, -1], ability, bias, int(found.nit))

    def __call__(self, flat: Floats) -> tuple[float, Floats]:
        coef, ability, bias = self._split(flat)
        raw = self._raw(coef)
        scores = self._scores(raw)
        odds = scores[:, :-1] @ ability.T + scores[:, -1:] + bias
        value = float((self.mass * (np.logaddexp(0.0, odds) - self.target * odds)).sum())
        value += 0.5 * float(np.vdot(raw, raw) / self.C + np.vdot(ability, ability) + bias @ bias / _BIAS_VARIANCE)
        pull = self.mass * (expit(odds) - self.target)
        back = np.column_stack([pull @ ability, pull.sum(axis=1)])
        slope = self._turned(self._adjoint(back) + raw / self.C)
        parts = slope, pull.T @ scores[:, :-1] + ability, pull.sum(axis=0) + bias / _BIAS_VARIANCE
        return value / self.total, np.concatenate([part.ravel() for part in parts]) / self.total

    def _start(self) -> Floats:
        """Biases of the means, and one step along the slope there, cut to the leading factors."""
        _, _, r = self.shape
        seen = self.mass.sum(axis=0)
        p = ((self.mass * self.target).sum(axis=0) + 0.5) / (seen + 1.0)
        pull = self.mass * (self.target - p)
        step = self._turned(self._adjoint(pull)) / np.maximum(seen * p * (1.0 - p), 1e-12)
        common = step.mean(axis=1)
        left, size, right = np.linalg.svd(step - common[:, None], full_matrices=False)
        spread = np.sqrt(step.shape[1])
        slope, ability = left[:, :r] * (size[:r] / spread), right[:r].T * spread
        # Along features that say the same, the step of each by itself goes too far.
        starts = [
            np.concatenate([
                (share * np.column_stack([slope, common])).ravel(), ability.ravel(), np.log(p / (1.0 - p))
            ])
            for share in _STEPS
        ]  # fmt: skip
        return starts[int(np.argmin([self(start)[0] for start in starts]))]

    def _split(self, flat: Floats) -> tuple[Floats, Floats, Floats]:
        d, m, r = self.shape
        coef, ability, bias = np.split(flat, [d * (r + 1), d * (r + 1) + m * r])
        return coef.reshape(d, r + 1), ability.reshape(m, r), bias

    def _raw(self, coef: Floats) -> Floats:
        """Coefficients of the features as they are, from those of the search."""
        return np.asarray(self.unit @ coef if self.unit.ndim == 2 else self.unit[:, None] * coef)

    def _turned(self, slope: Floats) -> Floats:
        """Derivatives by the coefficients of the search, from those by the ones of the features."""
        return np.asarray(self.unit.T @ slope if self.unit.ndim == 2 else self.unit[:, None] * slope)

    def _scores(self, coef: Floats) -> Floats:
        return _product(self.X, coef) - self.centre @ coef

    def _adjoint(self, table: Floats) -> Floats:
        """Centred features, transposed, times a table (n, j); shape (d, j)."""
        table_ = table.astype(np.float32) if self.X.dtype == np.float32 else table
        return np.asarray(self.X.T @ table_, dtype=np.float64) - np.outer(self.centre, table.sum(axis=0))


def _canonical(slope: Floats, ability: Floats) -> tuple[Floats, Floats]:
    """The same slope @ (ability - mean ability).T with abilities of covariance 1 and orthogonal slopes of falling length."""
    m, r = ability.shape
    basis, upper = np.linalg.qr(slope)
    left, size, right = np.linalg.svd(upper @ (ability - ability.mean(axis=0)).T, full_matrices=False)
    slope, ability = basis @ left[:, :r] * (size[:r] / np.sqrt(m)), right[:r].T * np.sqrt(m)
    sign = np.ones(r)
    if r:
        sign = np.where(slope[np.abs(slope).argmax(axis=0), np.arange(r)] < 0, -1.0, 1.0)
    return slope * sign, ability * sign


def _curvature(design: Floats, bend: Any, precision: Any) -> Any:
    return np.asarray((design.T * bend) @ design + precision)


def _units(X: Any, weight: Floats, mean: Floats, penalty: float) -> Floats:
    """Units of the search in which the objective bends alike in all directions: a matrix (d, d), or one number a feature.

    Few dense features are turned to their principal axes; others are brought to one spread.
    """
    d = X.shape[1]
    total = float(weight.sum())
    if issparse(X) or d > _WIDEST_TURNED:
        square = X.multiply(X) if issparse(X) else np.square(X, dtype=np.float64)
        variance = np.asarray(weight @ square, dtype=np.float64).ravel() / total - mean**2
        return np.asarray(1.0 / np.sqrt(np.maximum(variance, 0.0) + penalty))
    away = X.astype(np.float64) - mean
    variance, axes = np.linalg.eigh((away.T * weight) @ away / total)
    return np.asarray(axes / np.sqrt(np.maximum(variance, 0.0) + penalty))


def _product(X: Any, coef: Floats) -> Floats:
    return np.asarray(X @ coef.astype(np.float32 if X.dtype == np.float32 else np.float64), dtype=np.float64)
