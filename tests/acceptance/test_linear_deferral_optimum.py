"""Linear deferral against independent solutions of the same convex problems, and the linear witnesses of cards x1 and 12.

The problems are written out again here: as sums of exponentials in cvxpy, which Clarabel solves as a cone program, and as
plain NumPy with a gradient of its own, which scipy.optimize minimises by BFGS.
"""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax

from defer.estimators import MultiExpertDeferral, SingleStageDeferral, TwoStageDeferral

N, D, K, J, C = 60, 3, 3, 2, 0.7


@pytest.fixture(scope="module")
def data() -> Any:
    rng = np.random.default_rng(4)
    X = rng.normal(size=(N, D))
    y = (X @ rng.normal(size=(D, K)) + rng.gumbel(size=(N, K))).argmax(axis=1)
    right = rng.random((N, J)) < np.column_stack([0.4 + 0.4 * (X[:, 0] > 0), 0.4 + 0.4 * (X[:, 1] > 0)])
    answers = np.where(right, y[:, None], (y[:, None] + 1) % K)
    return X, y, answers, right.astype(float), rng.integers(1, 4, size=N).astype(float)


def credit_of(y: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.column_stack([np.eye(K)[y], right])


def by_cvxpy(X: np.ndarray, weight: np.ndarray, credit: np.ndarray, *, ova: bool) -> float:
    coef, intercept = cp.Variable((credit.shape[1], X.shape[1])), cp.Variable(credit.shape[1])
    scores = X @ coef.T + np.ones((len(X), 1)) @ cp.reshape(intercept, (1, credit.shape[1]), order="C")
    if ova:
        rows = cp.sum(cp.multiply(credit, cp.logistic(-scores)) + cp.multiply(1 - credit, cp.logistic(scores)), axis=1)
    else:
        rows = cp.multiply(credit.sum(axis=1), cp.log_sum_exp(scores, axis=1)) - cp.sum(
            cp.multiply(credit, scores), axis=1
        )
    total = weight.sum()
    problem = cp.Problem(cp.Minimize(weight @ rows / total + cp.sum_squares(coef) / (2 * C * total)))
    problem.solve(solver=cp.CLARABEL)
    return float(problem.value)


def by_scipy(X: np.ndarray, weight: np.ndarray, credit: np.ndarray, *, ova: bool) -> float:
    m, total = credit.shape[1], weight.sum()

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        coef, intercept = flat[: m * D].reshape(m, D), flat[m * D :]
        scores = X @ coef.T + intercept
        if ova:
            rows = (credit * np.logaddexp(0, -scores) + (1 - credit) * np.logaddexp(0, scores)).sum(axis=1)
            slope = expit(scores) - credit
        else:
            rows = -(credit * log_softmax(scores, axis=1)).sum(axis=1)
            slope = credit.sum(axis=1, keepdims=True) * softmax(scores, axis=1) - credit
        slope = slope * weight[:, None] / total
        value = weight @ rows / total + (coef**2).sum() / (2 * C * total)
        return value, np.concatenate([(slope.T @ X + coef / (C * total)).ravel(), slope.sum(axis=0)])

    return float(minimize(objective, np.zeros(m * (D + 1)), jac=True, method="BFGS", options={"gtol": 1e-10}).fun)


@pytest.mark.parametrize("surrogate", ["softmax", "ova"])
@pytest.mark.parametrize("solve", [by_cvxpy, by_scipy])
def test_single_stage_reaches_the_optimum(data: Any, surrogate: str, solve: Any) -> None:
    X, y, answers, right, weight = data
    fitted = MultiExpertDeferral(surrogate, C=C, tol=1e-9).fit(X, y, experts=answers, sample_weight=weight)
    independent = solve(X, weight, credit_of(y, right), ova=surrogate == "ova")
    assert fitted.model_.objective == pytest.approx(independent, abs=1e-7)
    alone = SingleStageDeferral(surrogate, C=C, tol=1e-9).fit(X, y, experts=answers[:, 0])
    independent = solve(X, np.ones(N), credit_of(y, right)[:, : K + 1], ova=surrogate == "ova")
    assert alone.model_.objective == pytest.approx(independent, abs=1e-7)


@pytest.mark.parametrize("solve", [by_cvxpy, by_scipy])
@pytest.mark.parametrize("weighting", ["one_minus_cost", "cost_of_others"])
def test_two_stage_reaches_the_optimum(data: Any, weighting: str, solve: Any) -> None:
    X, _, _, right, weight = data
    rng = np.random.default_rng(1)
    cost = np.column_stack([rng.random(N), 1 - right])
    credit = 1 - cost if weighting == "one_minus_cost" else cost.sum(axis=1, keepdims=True) - cost
    fitted = TwoStageDeferral(C=C, tol=1e-9, weighting=weighting).fit(X, 1 - cost, sample_weight=weight)
    assert fitted.model_.objective == pytest.approx(solve(X, weight, credit, ova=False), abs=1e-7)


@pytest.fixture
def five_points() -> Any:
    x, y = np.array([[2.0], [0.0], [4.0], [3.0], [-3.0]]), np.array([0, 1, 0, 0, 0])
    right = np.array([0, 0, 1, 0, 1])
    return x, y, np.where(right == 1, y, 1 - y)


@pytest.mark.parametrize(
    ("surrogate", "optimum", "error"), [("softmax", 1.306731, 0.2), ("ova", 1.591188, 0.2), ("realizable", 0.0, 0.0)]
)
def test_x1_item_4_only_the_realizable_surrogate_finds_the_rule(
    five_points: Any, surrogate: str, optimum: float, error: float
) -> None:
    x, y, expert = five_points
    fitted = SingleStageDeferral(surrogate, C=1e8, tol=1e-8, max_iter=5000).fit(x, y, experts=expert)
    assert fitted.model_.objective == pytest.approx(optimum, abs=1e-6)
    assert 1 - fitted.score(x, y, experts=expert) == pytest.approx(error)
    if surrogate == "realizable":
        assert fitted.predict_own(x)[:4].tolist() == [0, 1, 0, 0]
        assert fitted.defer_mask(x).tolist() == [False, False, False, False, True]
    else:
        assert (fitted.predict_own(x) == 0).all()
        assert not fitted.defer_mask(x).any()


def test_card_12_item_4_agents_that_are_right_together_compete() -> None:
    x, cost = np.array([[3.0], [-3.0], [0.0], [-4.0]]), np.array([[1.0, 0, 0], [1, 0, 0], [0, 1, 1], [1, 0, 1]])
    fitted = TwoStageDeferral(C=1e9, tol=1e-8).fit(x, 1 - cost)
    assert fitted.model_.objective == pytest.approx(1.476061, abs=1e-6)
    assert fitted.predict(x).tolist() == [2, 1, 1, 1]
    assert 1 - fitted.score(x, 1 - cost) == pytest.approx(0.25)
    # Zero cost is within reach of linear scores: the mean absolute error, which is not convex, finds such a rule here.
    other = TwoStageDeferral(C=1e6, comp_sum="mean_absolute_error").fit(x, 1 - cost)
    assert other.predict(x).tolist() == [2, 1, 0, 1]


@pytest.mark.parametrize(
    ("weighting", "targets"),
    [
        ("one_minus_cost", [[0.352941, 0.470588, 0.176471], [0.4, 0.288889, 0.311111], [0.105263, 0.421053, 0.473684]]),
        ("cost_of_others", [[0.346154, 0.423077, 0.230769], [0.433333, 0.266667, 0.3], [0.280488, 0.353659, 0.365854]]),
    ],
)
def test_card_12_item_1_shares_and_the_rule_of_least_expected_cost(weighting: str, targets: Any) -> None:
    # Three kinds of queries with scores of their own: the population minimiser itself.
    cost, share = np.array([[0.4, 0.2, 0.7], [0.1, 0.35, 0.3], [0.9, 0.6, 0.55]]), np.array([0.5, 0.3, 0.2])
    fitted = TwoStageDeferral(C=1e10, tol=1e-10, weighting=weighting).fit(np.eye(3), 1 - cost, sample_weight=share)
    np.testing.assert_allclose(softmax(fitted.scores(np.eye(3)), axis=1), targets, atol=1e-6)
    assert fitted.predict(np.eye(3)).tolist() == [1, 0, 2]
    assert 1 - fitted.score(np.eye(3), 1 - cost, sample_weight=share) == pytest.approx(0.24)
    # Total credit is the same function of the query as the shares, so quality comes back whole.
    np.testing.assert_allclose(fitted.predict_quality(np.eye(3)), 1 - cost, atol=1e-5)
