"""Gradient boosting through `QualityRouter`: gaps, weights, costs, and the classifier of graded quality."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from defer import Budget
from defer.estimators import QualityRouter


def scikit_learn(kind: str) -> Any:
    make = HistGradientBoostingRegressor if kind == "regressor" else HistGradientBoostingClassifier
    return make(max_iter=20, random_state=0)


def lightgbm(kind: str) -> Any:
    module = pytest.importorskip("lightgbm")
    make = module.LGBMRegressor if kind == "regressor" else module.LGBMClassifier
    return make(n_estimators=20, n_jobs=1, random_state=0, deterministic=True, verbose=-1)


def draw(n: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(n, 3))
    # The sign of a product: no linear model sees it.
    chance = np.where((X[:, 0] * X[:, 1] > 0)[:, None], [0.9, 0.2], [0.2, 0.9])
    quality = (rng.random((n, 2)) < chance).astype(float)
    quality[rng.random((n, 2)) < 0.2] = np.nan
    return X, chance, quality, np.column_stack([1.0 + X[:, 2], 3.0 + X[:, 2]])


@pytest.mark.parametrize("make", [scikit_learn, lightgbm])
@pytest.mark.parametrize("kind", ["regressor", "classifier"])
def test_boosting_routes_by_what_no_linear_model_sees(make: Any, kind: str) -> None:
    X, chance, quality, cost = draw()
    router = QualityRouter(make(kind), make("regressor")).fit(X, quality, cost=cost)
    assert np.mean(router.predict(X) == chance.argmax(axis=1)) > 0.9
    assert np.mean((router.predict_quality(X) - chance) ** 2) < 0.5 * np.mean((chance - chance.mean(axis=0)) ** 2)
    assert np.abs(router.predict_cost(X) - cost).mean() < 0.2
    assert router.route(X, limit=Budget(2.0), random_state=0).expected_cost <= 2.0
    for arm in range(2):
        seen = np.isfinite(quality[:, arm])
        if kind == "regressor":
            peer = clone(make(kind)).fit(X[seen], quality[seen, arm])
            np.testing.assert_array_equal(router.predict_quality(X)[:, arm], peer.predict(X))


@pytest.mark.parametrize("make", [scikit_learn, lightgbm])
def test_weights_of_a_bandit_log_reach_the_trees(make: Any) -> None:
    X, _, quality, _ = draw()
    rng = np.random.default_rng(1)
    propensity = rng.uniform(0.2, 0.8, size=len(X))
    router = QualityRouter(make("regressor")).fit(X, quality, propensity=propensity)
    weight = np.where(np.isnan(quality).any(axis=1), 1.0 / propensity, 1.0)
    seen = np.isfinite(quality[:, 0])
    peer = make("regressor").fit(X[seen], quality[seen, 0], sample_weight=weight[seen])
    np.testing.assert_array_equal(router.predict_quality(X)[:, 0], peer.predict(X))


@pytest.mark.parametrize("make", [scikit_learn, lightgbm])
def test_a_constant_arm_and_missing_features_are_taken_as_they_come(make: Any) -> None:
    X, _, quality, _ = draw()
    X[::7, 0], quality[:, 1] = np.nan, 0.5
    for kind in ("regressor", "classifier"):
        router = QualityRouter(make(kind)).fit(X, quality)
        np.testing.assert_allclose(router.predict_quality(X)[:, 1], 0.5, atol=1e-6)
        assert np.isfinite(router.predict_quality(X)).all()
