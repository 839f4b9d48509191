from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import approx_fprime
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from defer import OutcomeLog
from defer.estimators.routers.latent_factor import AbilityPrior, LatentFactorRouter, _Likelihood
from defer.exceptions import RouterInputError
from defer.model_file import model_bytes, model_from_bytes


def simulate(
    seed: int, n: int = 4000, m: int = 12, d: int = 4, r: int = 2
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, chances of every arm, and answers; abilities of mean 0 and covariance 1, discriminations that are orthogonal."""
    rng = np.random.default_rng(seed)
    ability = rng.normal(size=(m, r))
    ability -= ability.mean(axis=0)
    ability = np.linalg.svd(ability, full_matrices=False)[0] * np.sqrt(m)
    coef = np.linalg.qr(rng.normal(size=(d, r)))[0] * np.array([1.2, 0.8])[:r]
    X = rng.normal(size=(n, d))
    odds = X @ coef @ ability.T + (X @ rng.normal(scale=0.4, size=d))[:, None] + rng.normal(scale=0.5, size=m)
    chance = expit(odds)
    return X, chance, (rng.random((n, m)) < chance).astype(float)


def test_the_gradient_is_that_of_the_likelihood() -> None:
    rng = np.random.default_rng(0)
    X, target = rng.normal(size=(30, 3)) + 2.0, rng.random((30, 4))
    target[rng.random((30, 4)) < 0.3] = np.nan
    for queries in (X, sparse.csr_array(X)):
        problem = _Likelihood(queries, target, rng.random(30), 0.7, 2)
        at = rng.normal(size=problem._start().size)
        numeric = approx_fprime(at, lambda flat, problem=problem: problem(flat)[0], 1e-7)
        np.testing.assert_allclose(problem(at)[1], numeric, atol=1e-6)


def test_parameters_are_recovered_from_simulated_answers() -> None:
    rng = np.random.default_rng(8)
    X, chance, answers = simulate(8)
    answers[rng.random(answers.shape) < 0.3] = np.nan
    router = LatentFactorRouter(2, C=100.0).fit(X, answers, propensity=None)
    # About 2,800 answers an arm for 5 parameters each: the mean squared error of a chance is near 5 p(1-p) / 2,800 < 5e-4.
    error = (router.predict_quality(X) - chance) ** 2
    assert error.mean() < 1e-3
    # Abilities are known up to what identifies them, and so are compared by their distances along the strongest factor.
    spread = router.ability_ @ router.discrimination_coef_.T
    true_odds = np.log(chance / (1 - chance))
    slopes = np.linalg.lstsq(np.column_stack([X, np.ones(len(X))]), true_odds, rcond=None)[0][:-1].T
    np.testing.assert_allclose(spread - spread.mean(axis=0), slopes - slopes.mean(axis=0), atol=0.3)
    np.testing.assert_allclose(router.difficulty(X), -(X - X.mean(axis=0)) @ slopes.mean(axis=0), atol=0.3)


def test_uncertainty_of_the_abilities_covers_the_truth() -> None:
    # z-scores of added arms whose ability is drawn from the prior: their mean square is 1, up to a factor.
    rng = np.random.default_rng(2)
    X, _, answers = simulate(2, m=20)
    router = LatentFactorRouter(2, C=100.0).fit(X, answers)
    square = []
    for _ in range(200):
        truth = rng.multivariate_normal(router.ability_prior_.mean, router.ability_prior_.covariance)
        rows = rng.integers(len(X), size=40)
        design = np.column_stack([router.discrimination(X[rows]), np.ones(40)])
        target = (rng.random(40) < expit(design @ truth - router.difficulty(X[rows]))).astype(float)
        estimate, covariance = router.ability_prior_.posterior(
            design[:, :-1], router.difficulty(X[rows]), target, np.ones(40)
        )
        off = estimate - truth
        square.append(off @ np.linalg.solve(covariance, off))
    # chi-square of 3 degrees: the mean of 200 has deviation sqrt(6 / 200) = 0.17; 4.5 of them, and 0.15 for the approximation.
    assert abs(np.mean(square) - 3.0) < 0.95


def test_with_as_many_factors_as_arms_every_arm_has_its_own_logistic_regression() -> None:
    X, _, answers = simulate(3, n=2000, m=3, d=3, r=2)
    router = LatentFactorRouter(7, C=1e4).fit(X, answers)
    assert router.ability_.shape == (3, 2)
    for arm in range(3):
        peer = LogisticRegression(C=1e4).fit(X, answers[:, arm])
        np.testing.assert_allclose(router.predict_quality(X)[:, arm], peer.predict_proba(X)[:, 1], atol=0.01)


def test_conventions_that_identify_the_factors() -> None:
    X, _, answers = simulate(4)
    router = LatentFactorRouter(2).fit(X, answers)
    coef = router.discrimination_coef_
    gram = coef.T @ coef
    assert gram[0, 1] == pytest.approx(0.0, abs=1e-9)
    assert gram[0, 0] > gram[1, 1] > 0
    assert (coef[np.abs(coef).argmax(axis=0), [0, 1]] > 0).all()
    # Of mean 0 and covariance 1 before they are estimated once more under their prior, which moves them little.
    np.testing.assert_allclose(router.ability_.mean(axis=0), 0.0, atol=0.1)
    np.testing.assert_allclose(np.cov(router.ability_.T, bias=True), np.eye(2), atol=0.15)
    odds = router.discrimination(X) @ router.ability_.T + router.bias_ - router.difficulty(X)[:, None]
    np.testing.assert_allclose(expit(odds), router.predict_quality(X), atol=5e-3)
    assert abs(router.difficulty(X).mean()) < 1e-9


def test_an_added_arm_without_much_evidence_is_the_mean_arm() -> None:
    X, _, answers = simulate(5)
    router = LatentFactorRouter(2).fit(X, answers)
    before = router.predict_quality(X)
    router.add_arm(99, OutcomeLog.from_arrays(X[:1], [[1.0]], arms=["99"]))
    late = router.predict_quality(X)[:, -1]
    np.testing.assert_array_equal(router.predict_quality(X)[:, :-1], before)
    # One answer moves an arm a little from the mean one, and leaves nearly all of the doubt.
    mean_arm = expit(router.ability_prior_.mean[-1] - router.difficulty(X))
    assert np.abs(late - mean_arm).mean() < 0.15
    doubt = np.trace(router.ability_covariance_[-1]) / np.trace(router.ability_prior_.covariance)
    assert 0.7 < doubt < 1.0
    assert np.trace(router.ability_covariance_[0]) < 0.05


def test_an_arm_that_is_added_from_all_its_answers_is_the_one_that_is_fitted() -> None:
    X, _, answers = simulate(6, n=3000)
    router = LatentFactorRouter(2, C=100.0).fit(X, answers[:, :-1])
    router.add_arm(99, OutcomeLog.from_arrays(X, answers[:, -1:], arms=["99"]))
    again = LatentFactorRouter(2, C=100.0).fit(X, answers)
    np.testing.assert_allclose(router.predict_quality(X)[:, -1], again.predict_quality(X)[:, -1], atol=0.05)


def test_an_arm_of_a_few_answers_in_the_log_is_shrunk_like_an_added_one() -> None:
    X, _, answers = simulate(7)
    answers[3:, 0] = np.nan
    answers[:3, 0] = 1.0
    router = LatentFactorRouter(2).fit(X, answers)
    assert np.abs(router.bias_[0] - router.ability_prior_.mean[-1]) < 1.5
    assert np.trace(router.ability_covariance_[0]) > 5 * np.trace(router.ability_covariance_[1])


@given(order=st.permutations(range(4)), seed=st.integers(0, 50))
@settings(max_examples=6)
def test_permuting_the_arms_permutes_the_predictions(order: list[int], seed: int) -> None:
    X, _, answers = simulate(seed, n=200, m=4)
    straight, permuted = (
        LatentFactorRouter(2, tol=1e-8, max_iter=2000).fit(X, table).predict_quality(X)
        for table in (answers, answers[:, order])
    )
    np.testing.assert_allclose(permuted, straight[:, order], atol=1e-4)


def test_a_weight_is_a_repetition() -> None:
    X, _, answers = simulate(9, n=200, m=4)
    weight = np.random.default_rng(1).integers(0, 3, size=200)
    options: dict[str, Any] = {"tol": 1e-8, "max_iter": 2000}
    weighted = LatentFactorRouter(2, **options).fit(X, answers, sample_weight=weight.astype(float))
    rows = np.repeat(np.arange(200), weight)
    repeated = LatentFactorRouter(2, **options).fit(X[rows], answers[rows])
    np.testing.assert_allclose(weighted.predict_quality(X), repeated.predict_quality(X), atol=1e-5)


def test_sparse_queries_and_outcomes_beyond_the_unit_interval() -> None:
    X, _, answers = simulate(10, n=300, m=4)
    X[np.abs(X) < 0.3] = 0.0
    options: dict[str, Any] = {"tol": 1e-8, "max_iter": 2000}
    dense = LatentFactorRouter(2, **options).fit(X, answers).predict_quality(X)
    thin = LatentFactorRouter(2, **options).fit(sparse.csr_array(X), answers)
    np.testing.assert_allclose(thin.predict_quality(sparse.csr_array(X)), dense, atol=1e-5)
    scaled = LatentFactorRouter(2, **options).fit(X, 10.0 * answers - 3.0)
    np.testing.assert_allclose(scaled.predict_quality(X), 10.0 * dense - 3.0, atol=1e-4)
    # What lies beyond the range of the fit is held to it.
    scaled.add_arm(99, OutcomeLog.from_arrays(X, np.full((300, 1), 99.0), arms=["99"]))
    assert (scaled.predict_quality(X)[:, -1] <= 7.0).all()


def test_a_lone_arm_a_constant_arm_and_a_query_without_outcomes() -> None:
    X, _, answers = simulate(11, n=300, m=3)
    answers[:10], answers[10:, 0] = np.nan, 1.0
    predicted = LatentFactorRouter(2).fit(X, answers).predict_quality(X)
    assert np.isfinite(predicted).all()
    assert predicted[:, 0].min() > 0.9
    import pandas as pd

    lone = LatentFactorRouter(2, C=1e4).fit(X[10:], pd.DataFrame({"only": answers[10:, 1]}))
    peer = LogisticRegression(C=1e4).fit(X[10:], answers[10:, 1])
    assert lone.ability_.shape == (1, 0)
    np.testing.assert_allclose(lone.predict_quality(X)[:, 0], peer.predict_proba(X)[:, 1], atol=0.02)


def test_no_factor_is_a_common_difficulty() -> None:
    X, _, answers = simulate(12)
    router = LatentFactorRouter(0).fit(X, answers)
    odds = router.bias_ - router.difficulty(X)[:, None]
    np.testing.assert_allclose(router.predict_quality(X), expit(odds), atol=1e-3)
    assert len(np.unique(router.predict(X))) == 1


def test_too_few_iterations_are_told_of() -> None:
    X, _, answers = simulate(13, n=300)
    with pytest.warns(
        ConvergenceWarning, match=r"LatentFactorRouter: L-BFGS stopped after 1 iterations .* raise max_iter"
    ):
        LatentFactorRouter(2, max_iter=1).fit(X, answers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LatentFactorRouter(2).fit(X, answers)


def test_it_comes_back_from_a_file() -> None:
    X, _, answers = simulate(14, n=300)
    router = LatentFactorRouter(2).fit(X, answers)
    router.add_arm(99, OutcomeLog.from_arrays(X[:9], answers[:9, :1], arms=["99"]))
    np.testing.assert_array_equal(model_from_bytes(model_bytes(router)).predict_quality(X), router.predict_quality(X))


def test_the_prior_of_few_arms_is_near_the_identity() -> None:
    prior = AbilityPrior.fit(np.zeros((1, 3)))
    np.testing.assert_allclose(prior.covariance, 0.8 * np.eye(3))
    many = AbilityPrior.fit(np.random.default_rng(0).normal(scale=2.0, size=(5000, 2)))
    np.testing.assert_allclose(many.covariance, 4.0 * np.eye(2), atol=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_factors": -1}, "LatentFactorRouter: n_factors must be an integer >= 0, got -1"),
        ({"C": 0.0}, "LatentFactorRouter: C must be a finite number > 0, got 0.0"),
        ({"tol": 0.0}, "LatentFactorRouter: tol must be a finite number > 0, got 0.0"),
        ({"max_iter": 0}, "LatentFactorRouter: max_iter must be an integer >= 1, got 0"),
    ],
)
def test_wrong_parameters_are_named(options: dict[str, Any], message: str) -> None:
    X, _, answers = simulate(15, n=50)
    with pytest.raises(RouterInputError, match=message):
        LatentFactorRouter(**options).fit(X, answers)
