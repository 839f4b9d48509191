"""Linear scores: the gradient, the optimum, and the same problem as LogisticRegression where it is the same."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from scipy.optimize import check_grad, minimize
from scipy.sparse import csr_array, csr_matrix
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from defer.estimators.deferral.linear import LinearScores, _Objective, fit_linear_scores
from defer.estimators.deferral.score_problem import ScoreProblem
from defer.exceptions import LossInputError
from defer.losses import cross_entropy, mean_absolute_error, ova_deferral

OPTIONS: dict[str, Any] = {"C": 1.0, "max_iter": 1000, "tol": 1e-10}


def credit_loss(scores: Any, cost: Any, weight: Any) -> Any:
    return cross_entropy(scores, 1.0 - cost, weight=weight)


def ova_loss(scores: Any, cost: Any, weight: Any) -> Any:
    return ova_deferral(scores, cost, n_experts=0, weight=weight)


@pytest.fixture
def rows() -> Any:
    rng = np.random.default_rng(0)
    return rng.normal(size=(80, 4)), rng.random((80, 3)), rng.integers(1, 4, size=80).astype(float)


@pytest.mark.parametrize("layout", [np.asarray, csr_array, csr_matrix])
@pytest.mark.parametrize("loss", [credit_loss, ova_loss])
def test_gradient_and_hessian_are_those_of_the_objective(rows: Any, layout: Any, loss: Any) -> None:
    X, cost, weight = rows
    objective = _Objective(layout(X), ScoreProblem(cost, weight, loss), 0.5)
    rng = np.random.default_rng(1)
    theta, direction = rng.normal(size=15), rng.normal(size=15)
    assert check_grad(lambda t: objective(t)[0], lambda t: objective(t)[1], theta) < 1e-6
    numeric = (objective(theta + 1e-6 * direction)[1] - objective(theta - 1e-6 * direction)[1]) / 2e-6
    np.testing.assert_allclose(objective.hessian(theta) @ direction, numeric, atol=1e-7)


def test_with_labels_it_is_logistic_regression(rows: Any) -> None:
    X, cost, weight = rows
    label = cost.argmin(axis=1)
    problem = ScoreProblem(1.0 - np.eye(3)[label], weight, credit_loss)
    fitted = fit_linear_scores(X, problem, **{**OPTIONS, "C": 0.3})
    peer = LogisticRegression(C=0.3, tol=1e-10, max_iter=1000).fit(X, label, sample_weight=weight)
    np.testing.assert_allclose(fitted.coef, peer.coef_, atol=1e-6)
    np.testing.assert_allclose(fitted.intercept, peer.intercept_, atol=1e-6)


def test_newton_steps_go_beyond_the_rounding_of_the_objective(rows: Any) -> None:
    X, cost, weight = rows
    problem = ScoreProblem(cost, weight, credit_loss)
    fitted = fit_linear_scores(X, problem, C=1.0, max_iter=1000, tol=1e-12)
    theta = np.column_stack([fitted.coef, fitted.intercept]).ravel()
    assert np.abs(_Objective(X, problem, 1.0)(theta)[1]).max() <= 1e-12


def test_a_loss_without_a_hessian_is_left_where_the_search_ended(rows: Any) -> None:
    X, cost, weight = rows
    problem = ScoreProblem(
        cost, weight, lambda scores, cost, weight: mean_absolute_error(scores, 1 - cost, weight=weight)
    )
    with pytest.warns(ConvergenceWarning, match="above tol=1e-15"):
        fitted = fit_linear_scores(X, problem, C=0.01, max_iter=1000, tol=1e-15)
    theta = np.column_stack([fitted.coef, fitted.intercept]).ravel()
    assert np.abs(_Objective(X, problem, 0.01)(theta)[1]).max() < 1e-6


def test_sparse_and_single_precision_give_the_same_scores(rows: Any) -> None:
    X, cost, weight = rows
    problem = ScoreProblem(cost, weight, credit_loss)
    dense = fit_linear_scores(X, problem, **OPTIONS)
    thin = fit_linear_scores(csr_array(X), problem, **OPTIONS)
    np.testing.assert_allclose(thin.scores(csr_array(X)), dense.scores(X), atol=1e-8)
    single = fit_linear_scores(X.astype(np.float32), problem, C=1.0, max_iter=1000, tol=1e-5)
    assert single.scores(X.astype(np.float32)).dtype == np.float64
    np.testing.assert_allclose(single.scores(X), dense.scores(X), atol=1e-3)


def test_a_weight_of_a_row_is_the_same_weight_of_its_cells(rows: Any) -> None:
    X, cost, weight = rows

    def by_cell(scores: Any, cost: Any, weight: Any) -> Any:
        return cross_entropy(scores, weight * (1.0 - cost))

    one = fit_linear_scores(X, ScoreProblem(cost, weight, credit_loss), **OPTIONS)
    other = fit_linear_scores(X, ScoreProblem(cost, np.tile(weight[:, None], 3), by_cell), **OPTIONS)
    np.testing.assert_allclose(one.coef, other.coef, atol=1e-8)
    assert one.objective == pytest.approx(other.objective, abs=1e-12)


def test_queries_without_credit_keep_their_place_in_the_mean_and_change_nothing(rows: Any) -> None:
    X, cost, weight = rows
    one = fit_linear_scores(X, ScoreProblem(cost, weight, credit_loss), **OPTIONS)
    more, dear = np.vstack([X, 3.0 * X[:20]]), np.vstack([cost, np.ones((20, 3))])
    problem = ScoreProblem(dear, np.concatenate([weight, np.ones(20)]), credit_loss)
    assert problem.total_weight == weight.sum() + 20
    np.testing.assert_allclose(fit_linear_scores(more, problem, **OPTIONS).coef, one.coef, atol=1e-7)


def test_too_few_iterations_are_warned_of(rows: Any) -> None:
    X, cost, weight = rows
    with pytest.warns(
        ConvergenceWarning, match=r"L-BFGS stopped after 2 iterations with a derivative of .*above tol=1e-10"
    ):
        fit_linear_scores(X, ScoreProblem(cost, weight, credit_loss), C=1.0, max_iter=2, tol=1e-10)


def test_a_start_at_the_optimum_stays_there(rows: Any) -> None:
    X, cost, weight = rows
    problem = ScoreProblem(cost, weight, credit_loss)
    found = fit_linear_scores(X, problem, **OPTIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = fit_linear_scores(X, problem, C=1.0, max_iter=1000, tol=1e-6, start=found)
    assert again.n_iter == 0
    np.testing.assert_array_equal(again.coef, found.coef)


def test_scores_of_no_action_but_one() -> None:
    only = LinearScores(np.ones((1, 2)), np.array([0.5])).scores(csr_matrix(np.eye(2)))
    assert only.tolist() == [[1.5], [1.5]]


@pytest.mark.parametrize("layout", [np.asarray, csr_array])
@pytest.mark.parametrize(("shift", "stretch"), [(1.7e9, 1e7), (0.0, 1e8), (0.0, 1e-6), (-1e4, 1e2), (1e5, 1.0)])
def test_features_of_any_scale_lead_to_the_optimum(rows: Any, layout: Any, shift: float, stretch: float) -> None:
    X, cost, weight = rows
    problem = ScoreProblem(cost, weight, credit_loss)
    raw = X * [1.0, 1.0, 1.0, stretch] + [0.0, 0.0, 0.0, shift]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = fit_linear_scores(layout(raw), problem, C=1.0, max_iter=1000, tol=1e-7)
    # The optimum of the same problem on the plain feature, whose penalty is that of the raw coefficient.
    plain = np.column_stack([X[:, :3], X[:, 3]])

    def penalised(theta: Any) -> Any:
        table = theta.reshape(3, 5)
        loss = credit_loss(plain @ table[:, :4].T + table[:, 4], cost, weight)
        coef = table[:, :4] / [1.0, 1.0, 1.0, stretch]
        slope = np.column_stack([loss.gradient.T @ plain + coef / [1.0, 1.0, 1.0, stretch], loss.gradient.sum(axis=0)])
        return (loss.value.sum() + 0.5 * (coef**2).sum()) / weight.sum(), slope.ravel() / weight.sum()

    found = minimize(penalised, np.zeros(15), jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 5000})
    assert fitted.objective == pytest.approx(found.fun, abs=1e-8)


def test_a_search_that_gets_nowhere_is_warned_of() -> None:
    # In single precision a feature of a large offset has no digits left to tell queries apart by.
    X = (1e9 + np.arange(40.0)[:, None] * 100).astype(np.float32)
    right = (np.arange(40) > 20).astype(float)
    problem = ScoreProblem(np.column_stack([right, 1.0 - right]), np.ones(40), credit_loss)
    with pytest.warns(ConvergenceWarning, match=r"with a derivative of .*above tol=1e-08: .*StandardScaler"):
        fit_linear_scores(X, problem, C=1.0, max_iter=1000, tol=1e-8)


def test_derivatives_that_jump_are_not_warned_of(rows: Any) -> None:
    X, cost, weight = rows

    def kinked(scores: Any, cost: Any, weight: Any) -> Any:
        return _Kinked(scores, cost)

    problem = ScoreProblem(cost, weight, kinked)
    options: dict[str, Any] = {"C": 1e3, "max_iter": 1000, "tol": 1e-9}
    with pytest.warns(ConvergenceWarning):
        fit_linear_scores(X, problem, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_linear_scores(X, problem, smooth=False, **options)


class _Kinked:
    """Absolute distance of scores and costs."""

    def __init__(self, scores: Any, cost: Any) -> None:
        self.value = np.abs(scores - cost).sum(axis=1)
        self.gradient = np.sign(scores - cost)

    def hessian_product(self, vector: Any) -> Any:
        raise LossInputError("none")


def test_the_lowest_of_all_starts_is_kept(rows: Any) -> None:
    X, cost, weight = rows

    def mean_absolute(scores: Any, cost: Any, weight: Any) -> Any:
        return mean_absolute_error(scores, 1.0 - cost, weight=weight)

    def upside_down(scores: Any, cost: Any, weight: Any) -> Any:
        return credit_loss(scores, 1.0 - cost, weight)

    def problem(loss: Any) -> ScoreProblem:
        return ScoreProblem(cost, weight, loss)

    options: dict[str, Any] = {"C": 1e4, "max_iter": 2000, "tol": 1e-6}
    starts = [fit_linear_scores(X, problem(loss), **options) for loss in (credit_loss, upside_down)]
    alone = [fit_linear_scores(X, problem(mean_absolute), start=start, **options) for start in (None, *starts)]
    lowest = min(fit.objective for fit in alone)
    assert max(fit.objective for fit in alone) > lowest + 1e-3  # otherwise it would not matter which is kept
    for paths in ([credit_loss], [upside_down]), ([upside_down], [credit_loss]):
        found = fit_linear_scores(
            X, problem(mean_absolute), paths=[[problem(loss) for loss in path] for path in paths], **options
        )
        assert found.objective == pytest.approx(lowest, abs=1e-6)
