from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.neighbors import KNeighborsRegressor

from defer.estimators import KNNRouter, QualityRouter
from defer.estimators.routers import carrot
from defer.estimators.routers.carrot import CarrotRouter
from defer.estimators.routers.query_rows import equal_rows
from defer.exceptions import RouterInputError
from defer.model_file import model_bytes, model_from_bytes


def draw(seed: int = 0, n: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    quality = np.clip(0.5 + 0.3 * X @ rng.normal(size=(3, 2)) + 0.1 * rng.normal(size=(n, 2)), 0, 1)
    cost = np.exp(X @ rng.normal(size=(3, 2)) + 0.5 * rng.normal(size=(n, 2)))
    return X, quality, cost


def test_neighbours_are_those_of_the_two_routers_it_is_made_of() -> None:
    X, quality, cost = draw()
    quality[:30, 0] = np.nan
    router = CarrotRouter(n_neighbors=7, cost_weight=0.1).fit(X, quality, cost=cost)
    peer = KNNRouter(7, cost="neighbors", cost_weight=0.1).fit(X, quality, cost=cost)
    np.testing.assert_allclose(router.predict_quality(X), peer.predict_quality(X))
    np.testing.assert_allclose(router.predict_cost(X), peer.predict_cost(X))
    np.testing.assert_array_equal(router.predict(X), peer.predict(X))
    assert router.n_neighbors_ == (7, 7)


def test_the_linear_head_is_ridge_regression_of_quality_and_cost() -> None:
    X, quality, cost = draw()
    router = CarrotRouter("linear", alpha=3.0).fit(X, quality, cost=cost)
    peer = QualityRouter(Ridge(alpha=3.0), Ridge(alpha=3.0)).fit(X, quality, cost=cost)
    np.testing.assert_allclose(router.predict_quality(X), peer.predict_quality(X))
    np.testing.assert_allclose(router.predict_cost(X), peer.predict_cost(X), atol=1e-12)


def test_the_neighbourhoods_of_largest_held_out_r2_are_taken() -> None:
    X, quality, cost = draw()
    candidates, chosen = [1, 4, 16, 64], []
    group = equal_rows(X)[1]
    for table in (quality, cost):
        scores = []
        for k in candidates:
            error = np.zeros(2)
            for train, test in KFold(5, shuffle=True, random_state=3).split(np.zeros(120)):
                logged, held_out = np.isin(group, train), np.isin(group, test)
                peer = KNeighborsRegressor(k, metric="cosine", algorithm="brute").fit(X[logged], table[logged])
                error += ((table[held_out] - peer.predict(X[held_out])) ** 2).sum(axis=0)
            scores.append(np.mean(1 - error / ((table - table.mean(axis=0)) ** 2).sum(axis=0)))
        chosen.append(candidates[int(np.argmax(scores))])
    router = CarrotRouter(n_neighbors=candidates, random_state=3).fit(X, quality, cost=cost)
    assert router.n_neighbors_ == tuple(chosen)
    assert router.n_neighbors_ != (1, 1)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    X, quality, cost = draw()
    whole = CarrotRouter(random_state=0).fit(X, quality, cost=cost).n_neighbors_
    monkeypatch.setattr(carrot, "_BLOCK_BYTES", 1)
    assert CarrotRouter(random_state=0).fit(X, quality, cost=cost).n_neighbors_ == whole


@given(seed=st.integers(0, 1000))
@settings(max_examples=10)
def test_a_weight_is_a_repetition(seed: int) -> None:
    X, quality, cost = draw(seed, n=40)
    weight = np.random.default_rng(seed).integers(0, 3, size=40)
    rows = np.repeat(np.arange(40), weight)
    options: dict[str, Any] = {"n_neighbors": (2, 5, 9), "random_state": 0}
    weighted = CarrotRouter(**options).fit(X, quality, cost=cost, sample_weight=weight.astype(float))
    repeated = CarrotRouter(**options).fit(X[rows], quality[rows], cost=cost[rows])
    assert weighted.n_neighbors_ == repeated.n_neighbors_
    np.testing.assert_allclose(weighted.predict_quality(X), repeated.predict_quality(X), atol=1e-9)
    np.testing.assert_allclose(weighted.predict_cost(X), repeated.predict_cost(X), atol=1e-9)


def test_equal_queries_do_not_stand_on_both_sides_of_a_fold() -> None:
    rng = np.random.default_rng(1)
    X, quality = np.repeat(rng.normal(size=(60, 3)), 5, axis=0), np.repeat(rng.integers(2, size=(60, 2)), 5, axis=0)
    assert CarrotRouter(n_neighbors=(1, 300), random_state=0).fit(X, quality.astype(float)).n_neighbors_ == (300, 300)


@pytest.mark.parametrize("head", ["neighbors", "linear"])
def test_logarithms_of_costs_come_back_with_the_mean_that_was_logged(head: Any) -> None:
    X, quality, cost = draw(n=2000)
    cost[:100, 0] = np.nan
    weight = np.random.default_rng(0).uniform(0.5, 2.0, size=2000)
    router = CarrotRouter(head, n_neighbors=20, log_cost=True).fit(X, quality, cost=cost, sample_weight=weight)
    predicted = np.where(np.isfinite(cost), router.predict_cost(X), np.nan)
    logged = np.nansum(weight[:, None] * cost, axis=0)
    np.testing.assert_allclose(np.nansum(weight[:, None] * predicted, axis=0), logged)
    # Costs are log-linear with factor noise: the exponential alone would be too low by exp(0.5^2 / 2).
    if head == "linear":
        np.testing.assert_allclose(router.smearing_, np.exp(0.125), atol=0.1)
        plain = CarrotRouter(head).fit(X, quality, cost=cost, sample_weight=weight)
        error = [np.nanmean((one.predict_cost(X) - cost) ** 2) for one in (router, plain)]
        assert error[0] < error[1]


def test_without_costs_there_is_no_model_of_them() -> None:
    X, quality, _ = draw()
    router = CarrotRouter(random_state=0).fit(X, quality)
    assert router.cost_model_ is None
    assert (router.predict_cost(X) == 0.0).all()


@pytest.mark.parametrize("head", ["neighbors", "linear"])
def test_it_comes_back_from_a_file(head: Any) -> None:
    X, quality, cost = draw()
    router = CarrotRouter(head, log_cost=True, random_state=0).fit(X, quality, cost=cost)
    twin = model_from_bytes(model_bytes(router))
    np.testing.assert_array_equal(twin.predict_quality(X), router.predict_quality(X))
    np.testing.assert_array_equal(twin.predict_cost(X), router.predict_cost(X))


def test_two_equal_queries_and_more_neighbours_than_queries() -> None:
    X, quality = np.ones((2, 3)), np.array([[1.0, 0.0], [0.0, 1.0]])
    assert CarrotRouter().fit(X, quality).predict_quality(X).tolist() == [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "tree"}, "CarrotRouter: head must be one of 'neighbors', 'linear', got 'tree'"),
        ({"n_neighbors": 0}, "CarrotRouter: n_neighbors must be an integer >= 1, got 0"),
        ({"n_neighbors": "all"}, "n_neighbors must be an integer >= 1 or a sequence of them, got 'all'"),
        ({"n_neighbors": [4, -2]}, "CarrotRouter: n_neighbors must be an integer >= 1, got -2"),
        ({"alpha": -1.0}, "CarrotRouter: alpha must be a finite number > 0, got -1.0"),
        ({"log_cost": "yes"}, "CarrotRouter: log_cost must be True or False, got 'yes'"),
    ],
)
def test_wrong_parameters_are_named(options: dict[str, Any], message: str) -> None:
    X, quality, cost = draw()
    with pytest.raises(RouterInputError, match=message):
        CarrotRouter(**options).fit(X, quality, cost=cost)


def test_a_cost_of_zero_has_no_logarithm() -> None:
    X, quality, cost = draw()
    cost[[4, 7], 1] = 0.0
    with pytest.raises(
        RouterInputError, match=r"log_cost=True needs costs above 0; 2 are not, the first in row 4, arm 1"
    ):
        CarrotRouter(log_cost=True).fit(X, quality, cost=cost)


def test_logarithms_need_costs() -> None:
    X, quality, _ = draw()
    with pytest.raises(RouterInputError, match=r"CarrotRouter: log_cost=True predicts the cost .*: pass cost= to fit"):
        CarrotRouter(log_cost=True).fit(X, quality)
