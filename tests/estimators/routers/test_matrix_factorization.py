"""Matrix factorisation of preferences: the formula, the optimum, the rank, and what is at the edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import check_grad, minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from defer.estimators.routers.bradley_terry import BradleyTerryRouter
from defer.estimators.routers.matrix_factorization import MatrixFactorizationRouter, _Objective, factor_scores
from defer.exceptions import RouterInputError
from defer.model_file import model_bytes, model_from_bytes
from defer.portfolios.preferences import battles


def table(n: int = 120, m: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X, B = rng.normal(size=(n, 3)), rng.normal(size=(3, m))
    return X, np.round(X @ B + rng.normal(size=(n, m)))


def parts(router: MatrixFactorizationRouter) -> dict[str, np.ndarray]:
    return {
        "projection": router.projection_, "bias": router.bias_, "head": router.head_, "arm_vectors": router.arm_vectors_,
    }  # fmt: skip


def test_scores_are_the_formula_of_the_source() -> None:
    rng = np.random.default_rng(0)
    e, W, b, head, v = (
        rng.normal(size=(5, 3)),
        rng.normal(size=(2, 3)),
        rng.normal(size=2),
        rng.normal(size=2),
        rng.normal(size=(4, 2)),
    )
    found = factor_scores(e, projection=W, bias=b, head=head, arm_vectors=v)
    for row in range(5):
        for arm in range(4):
            unit = v[arm] / np.linalg.norm(v[arm])
            assert found[row, arm] == pytest.approx(head @ (unit * (W @ e[row] + b)))


def test_two_arms_are_a_logistic_regression_of_the_wins() -> None:
    X, quality = table(m=2)
    quality = quality + np.array([0.0, 0.25])  # whole numbers: no ties are left
    router = MatrixFactorizationRouter(C=0.7, tol=1e-9).fit(X, quality)
    extended = np.column_stack([X, np.ones(len(X))])
    peer = LogisticRegression(C=4 * 0.7, fit_intercept=False, tol=1e-10, max_iter=1000)
    peer.fit(extended, quality[:, 0] > quality[:, 1])
    np.testing.assert_allclose(router.predict_win(X, 0, 1), peer.predict_proba(extended)[:, 1], atol=1e-6)
    np.testing.assert_allclose(router.arm_vectors_[0], -router.arm_vectors_[1], atol=1e-4)


def test_more_dimensions_than_arms_change_nothing() -> None:
    X, quality = table()
    wide, exact = (MatrixFactorizationRouter(dim, tol=1e-9).fit(X, quality) for dim in (128, 4))
    np.testing.assert_array_equal(wide.predict_scores(X), exact.predict_scores(X))
    assert wide.projection_.shape == (4, 3)
    assert wide.arm_vectors_.shape == (4, 4)


def test_without_a_limit_on_the_rank_every_start_ends_at_one_optimum() -> None:
    X, quality = table()
    found = battles(quality)
    objective = _Objective(X, found, np.ones(len(found)), 4, C=0.5, intercept=True)
    factors, _, _ = objective.minimised(4, 2000, 1e-9)
    best = objective(np.concatenate([factors.rows.ravel(), factors.vectors.ravel()]))[0]
    for seed in range(3):
        begin = np.random.default_rng(seed).normal(size=4 * 4 + 4 * 4)
        other = minimize(
            objective, begin, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "ftol": 0, "gtol": 1e-9}
        )
        assert other.fun == pytest.approx(best, abs=1e-9)


def test_the_gradient_is_that_of_the_objective() -> None:
    X, quality = table(40)
    found = battles(quality)
    objective = _Objective(X, found, np.random.default_rng(1).random(len(found)), 4, C=0.5, intercept=True)
    objective.k = 2
    at = np.random.default_rng(2).normal(size=2 * 4 + 4 * 2)
    assert check_grad(lambda x: objective(x)[0], lambda x: objective(x)[1], at) < 1e-6


@pytest.mark.parametrize("dim", [1, 2])
def test_the_rank_is_limited_at_a_price_in_the_objective(dim: int) -> None:
    X, quality = table(m=5)
    found = battles(quality)
    objective = _Objective(X, found, np.ones(len(found)), 5, C=1.0, intercept=True)
    values = []
    for k in (5, dim):
        factors, _, _ = objective.minimised(k, 2000, 1e-7)
        values.append(objective(np.concatenate([factors.rows.ravel(), factors.vectors.ravel()]))[0])
    assert values[0] < values[1] < np.log(2.0)
    router = MatrixFactorizationRouter(dim).fit(X, quality)
    assert np.linalg.matrix_rank(router.predict_scores(X), tol=1e-8) <= dim


def test_swapped_sides_equal_arms_signs_and_lengths() -> None:
    X, quality = table()
    router = MatrixFactorizationRouter().fit(X, quality)
    np.testing.assert_allclose(router.predict_win(X, 0, 2), 1.0 - router.predict_win(X, 2, 0), atol=1e-15)
    np.testing.assert_array_equal(router.predict_win(X, 1, 1), 0.5)
    scores, given = router.predict_scores(X), parts(router)
    np.testing.assert_allclose(factor_scores(X, **(given | {"head": -router.head_})), -scores, atol=1e-12)
    longer = router.arm_vectors_ * np.array([[0.1], [3.0], [7.0], [100.0]])
    np.testing.assert_allclose(factor_scores(X, **(given | {"arm_vectors": longer})), scores, atol=1e-12)


def test_without_a_bias_embeddings_of_zero_are_ties() -> None:
    X, quality = table()
    router = MatrixFactorizationRouter(fit_intercept=False).fit(X, quality + np.arange(4.0))
    assert (router.bias_ == 0).all()
    assert (router.predict_scores(np.zeros((1, 3))) == 0).all()
    assert np.ptp(MatrixFactorizationRouter().fit(X, quality + np.arange(4.0)).predict_scores(np.zeros((1, 3)))) > 0.1


def test_sparse_float32_and_saved_routers_agree() -> None:
    X, quality = table()
    router = MatrixFactorizationRouter(tol=1e-9).fit(X, quality)
    thin = MatrixFactorizationRouter(tol=1e-9).fit(sparse.csr_array(X), quality)
    np.testing.assert_allclose(thin.predict_scores(sparse.csr_array(X)), router.predict_scores(X), atol=1e-4)
    short = MatrixFactorizationRouter().fit(X.astype(np.float32), quality)
    np.testing.assert_allclose(short.predict_scores(X.astype(np.float32)), router.predict_scores(X), atol=1e-3)
    loaded = model_from_bytes(model_bytes(router))
    np.testing.assert_array_equal(loaded.predict_scores(X), router.predict_scores(X))


@pytest.mark.filterwarnings("ignore::defer.exceptions.MissingPropensityWarning")
@pytest.mark.parametrize("router", [MatrixFactorizationRouter(C=1.0), BradleyTerryRouter()], ids=["factors", "ranking"])
@pytest.mark.parametrize("weighted", [False, True])
def test_one_row_observed_in_full_does_not_decide_for_a_bandit_log(router: Any, weighted: bool) -> None:
    rng = np.random.default_rng(0)
    X, fresh = rng.normal(size=(1000, 3)), rng.normal(size=(1000, 3))
    chance = 1 / (1 + np.exp(-3 * X[:, 0]))
    outcome = (rng.random((1000, 2)) < np.column_stack([chance, 1 - chance])).astype(float)
    bandit = np.where(np.arange(2) == rng.integers(2, size=1000)[:, None], outcome, np.nan)
    options, scores = {"propensity": np.full(1000, 0.5)} if weighted else {}, []
    for n_full in (0, 1, 300):
        router.fit(X, np.vstack([outcome[:n_full], bandit[n_full:]]), **options)
        scores.append(router.predict_scores(fresh))
        assert np.mean(router.predict(fresh) == (fresh[:, 0] < 0)) > 0.85
    assert np.abs(scores[1] - scores[0]).max() < 0.05 * np.ptp(scores[0])


def test_edges() -> None:
    X = np.eye(3)
    quality = np.full((3, 2), np.nan)
    quality[0], quality[1, 0] = [1.0, 0.0], 0.5
    router = MatrixFactorizationRouter().fit(X, quality)
    assert router.predict([X[0]]).tolist() == [0]
    assert np.isfinite(router.predict_quality(X)).all()
    assert (MatrixFactorizationRouter().fit(X, np.full((3, 2), 0.7)).predict_scores(X) == 0).all()
    with pytest.raises(
        RouterInputError, match="MatrixFactorizationRouter needs queries as a table of numbers, got list"
    ):
        MatrixFactorizationRouter().fit(["a", "b", "c"], quality)
    with pytest.warns(ConvergenceWarning, match="stopped after 1 iterations with a derivative above tol=1e-05"):
        MatrixFactorizationRouter(max_iter=1).fit(*table())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "dim must be an integer >= 1"),
        ({"max_iter": 0}, "max_iter must be an integer >= 1"),
        ({"C": -1.0}, "C must be a finite number > 0"),
        ({"tol": 0.0}, "tol must be a finite number > 0"),
        ({"fit_intercept": "yes"}, "fit_intercept must be True or False"),
    ],
)
def test_wrong_parameters_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RouterInputError, match=f"MatrixFactorizationRouter: {message}"):
        MatrixFactorizationRouter(**options).fit(np.eye(2), np.eye(2))
