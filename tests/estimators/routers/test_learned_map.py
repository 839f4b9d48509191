from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import approx_fprime
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer

from defer import OutcomeLog
from defer.datasets import load_tiny
from defer.estimators.routers.clusters import ClusterRouter
from defer.estimators.routers.learned_map import LearnedMapRouter, mixture_log_loss, unit_range
from defer.exceptions import LossInputError, RouterInputError
from defer.model_file import model_bytes, model_from_bytes


def draw(seed: int = 0, n: int = 200, m: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    chance = 1 / (1 + np.exp(-2 * X @ rng.normal(size=(2, m))))
    quality = (rng.random((n, m)) < chance).astype(float)
    quality[rng.random((n, m)) < 0.1] = np.nan
    return X, quality


@given(seed=st.integers(0, 10**6))
@settings(max_examples=25)
def test_the_gradient_is_that_of_the_loss(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, psi, weight = rng.normal(size=(4, 5)), rng.random((3, 5)), rng.random(4)
    psi[0, :2] = 0.0, 1.0
    target = rng.random((4, 3))
    target[0], target[1, 2] = np.nan, np.nan
    numeric = approx_fprime(
        scores.ravel(), lambda at: mixture_log_loss(at.reshape(4, 5), target, psi, weight=weight).value.sum(), 1e-7
    )
    loss = mixture_log_loss(scores, target, psi, weight=weight)
    np.testing.assert_allclose(loss.gradient.ravel(), numeric, atol=2e-5)
    assert loss.value[0] == 0.0
    assert (loss.gradient[0] == 0.0).all()


def test_the_loss_is_the_cross_entropy_of_the_mixture() -> None:
    share = np.array([0.25, 0.75])
    psi, target = np.array([[0.2, 0.8], [0.5, 0.5]]), np.array([[1.0, 0.3]])
    loss = mixture_log_loss(np.log(share)[None], target, psi)
    p = 0.001 + 0.998 * psi @ share
    np.testing.assert_allclose(loss.value, -(np.log(p[0]) + 0.3 * np.log(p[1]) + 0.7 * np.log(1 - p[1])))
    with pytest.raises(LossInputError, match="mixture_log_loss: has no cheap Hessian product"):
        loss.hessian_product(np.ones((1, 2)))


def test_a_held_gate_is_one_of_the_clusters_up_to_what_each_gains_everywhere() -> None:
    X, quality = draw()
    router = LearnedMapRouter(5, C=1e-9, random_state=0).fit(X, quality)
    centres, origin = router.clusters_.centres, router.clusters_.origin
    distance = ((X[:, None] - origin - centres[None]) ** 2).sum(axis=2)
    share = router.gate(X)
    # The odds between clusters fall with the squared distance at one rate, from intercepts that are free.
    odds, gap = np.log(share[:, 1:] / share[:, :1]), distance[:, 1:] - distance[:, :1]
    odds, gap = odds - odds.mean(axis=0), gap - gap.mean(axis=0)
    rate = -(odds * gap).sum() / (gap**2).sum()
    assert rate > 0
    np.testing.assert_allclose(odds, -rate * gap, atol=1e-6)


def test_the_fit_is_a_stationary_point_of_the_penalised_loss_below_its_start() -> None:
    X, quality = draw()
    held = LearnedMapRouter(5, C=1e-9, random_state=0).fit(X, quality)
    free = LearnedMapRouter(5, C=1.0, tol=1e-8, max_iter=2000, random_state=0).fit(X, quality)

    def objective(coef: np.ndarray) -> float:
        scores = X @ coef[:, :-1].T + coef[:, -1]
        value = mixture_log_loss(scores, quality, free.psi_).value.sum()
        return float(value + 0.5 * ((coef[:, :-1] - held.gate_.coef) ** 2).sum()) / len(X)

    ended, began = (np.column_stack([one.gate_.coef, one.gate_.intercept]) for one in (free, held))
    assert objective(ended) < objective(began) - 1e-3
    slope = approx_fprime(ended.ravel(), lambda at: objective(at.reshape(ended.shape)), 1e-6)
    assert np.abs(slope).max() < 1e-5
    assert free.n_iter_ > 1


def test_it_predicts_better_than_hard_clusters_where_chances_change_smoothly() -> None:
    rng = np.random.default_rng(4)
    X = rng.uniform(-3, 3, size=(4000, 1))
    chance = np.column_stack([1 / (1 + np.exp(-2 * X[:, 0])), 1 / (1 + np.exp(2 * X[:, 0]))])
    quality = (rng.random((4000, 2)) < chance).astype(float)
    train, test = np.arange(2000), np.arange(2000, 4000)
    errors = [
        np.mean((router.fit(X[train], quality[train]).predict_quality(X[test]) - chance[test]) ** 2)
        for router in (ClusterRouter(4, random_state=0), LearnedMapRouter(4, random_state=0))
    ]
    assert errors[1] < 0.6 * errors[0]


def test_one_cluster_is_the_mean_and_a_constant_arm_keeps_its_value() -> None:
    X, quality = draw()
    router = LearnedMapRouter(1, random_state=0).fit(X, quality)
    np.testing.assert_allclose(router.predict_quality(X), np.tile(np.nanmean(quality, axis=0), (200, 1)))
    quality[:, 1] = 0.3
    router = LearnedMapRouter(4, back_off="arm", random_state=0).fit(X, quality)
    np.testing.assert_allclose(router.predict_quality(X)[:, 1], 0.3, rtol=1e-15)


@given(order=st.permutations(range(3)), seed=st.integers(0, 100))
@settings(max_examples=8)
def test_permuting_the_arms_permutes_the_predictions(order: list[int], seed: int) -> None:
    X, quality = draw(seed)
    straight, permuted = (
        LearnedMapRouter(4, tol=1e-7, max_iter=1000, random_state=0).fit(X, table).predict_quality(X)
        for table in (quality, quality[:, order])
    )
    np.testing.assert_allclose(permuted, straight[:, order], atol=1e-5)


def test_a_weight_is_a_repetition() -> None:
    X, quality = draw()
    weight = np.random.default_rng(1).integers(0, 3, size=200)
    options: dict[str, Any] = {"tol": 1e-7, "max_iter": 1000, "random_state": 0}
    weighted = LearnedMapRouter(4, **options).fit(X, quality, sample_weight=weight.astype(float))
    rows = np.repeat(np.arange(200), weight)
    repeated = LearnedMapRouter(4, **options).fit(X[rows], quality[rows])
    np.testing.assert_allclose(weighted.predict_quality(X), repeated.predict_quality(X), atol=1e-5)


def test_sparse_queries_and_outcomes_beyond_the_unit_interval() -> None:
    X, quality = draw()
    X[np.abs(X) < 0.3] = 0.0
    options: dict[str, Any] = {"tol": 1e-7, "max_iter": 1000, "random_state": 0}
    dense = LearnedMapRouter(4, **options).fit(X, quality).predict_quality(X)
    thin = LearnedMapRouter(4, **options).fit(sparse.csr_array(X), quality)
    np.testing.assert_allclose(thin.predict_quality(sparse.csr_array(X)), dense, atol=1e-4)
    scaled = LearnedMapRouter(4, **options).fit(X, 10.0 * quality - 3.0)
    np.testing.assert_allclose(scaled.predict_quality(X), 10.0 * dense - 3.0, atol=1e-3)
    assert unit_range(np.array([7.0, 7.0])) == (7.0, 1.0)


def test_an_added_arm_comes_back_from_a_file() -> None:
    X, quality = draw()
    router = LearnedMapRouter(4, random_state=0).fit(X, quality)
    router.add_arm(3, OutcomeLog.from_arrays(X[:9], quality[:9, :1], arms=["3"]))
    twin = model_from_bytes(model_bytes(router))
    np.testing.assert_array_equal(twin.predict_quality(X), router.predict_quality(X))
    assert router.predict_quality(X).shape == (200, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"C": 0.0}, "LearnedMapRouter: C must be a finite number > 0, got 0.0"),
        ({"tol": -1.0}, "LearnedMapRouter: tol must be a finite number > 0, got -1.0"),
        ({"max_iter": 0}, "LearnedMapRouter: max_iter must be an integer >= 1, got 0"),
        ({"n_clusters": 0}, "LearnedMapRouter: n_clusters must be an integer >= 1, got 0"),
    ],
)
def test_wrong_parameters_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RouterInputError, match=message):
        LearnedMapRouter(**options).fit(*draw())


@pytest.mark.parametrize("kind", ["words", "normal", "unequal scales"])
@pytest.mark.parametrize("n", [80, 300])
def test_the_default_ends_before_its_iterations_do(kind: str, n: int) -> None:
    rng = np.random.default_rng(n)
    X: Any = rng.normal(size=(n, 20)) * (rng.choice([0.1, 1.0, 10.0], 20) if kind == "unequal scales" else 1.0)
    quality = (rng.random((n, 3)) < 1 / (1 + np.exp(-X @ rng.normal(size=(20, 3))))).astype(float)
    if kind == "words":
        log = load_tiny().select(rows=slice(0, n))
        X, quality = TfidfVectorizer().fit_transform(log.X), np.asarray(log.quality)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        LearnedMapRouter(random_state=0).fit(X, quality)


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_matrix], ids=["dense", "sparse"])
@pytest.mark.parametrize("router", [ClusterRouter(4, random_state=0), LearnedMapRouter(4, random_state=0)])
def test_large_numbers_in_single_precision_are_squared_in_double(layout: Any, router: Any) -> None:
    X, quality = draw()
    large = (1e30 * X).astype(np.float32)
    router.fit(layout(large), quality)
    predicted = router.predict_quality(layout(large))
    assert np.isfinite(predicted).all()
    assert predicted.std(axis=0).min() > 0.01
    np.testing.assert_allclose(
        predicted, router.fit(large.astype(np.float64), quality).predict_quality(large), atol=1e-6
    )
    message = r"Router: the largest number of the queries is .*e\+150, whose distances are infinite: scale the features"
    with pytest.raises(RouterInputError, match=message):
        router.fit(layout(1e150 * X), quality)
    with pytest.raises(RouterInputError, match=message):
        router.fit(X, quality).predict(1e150 * X)
