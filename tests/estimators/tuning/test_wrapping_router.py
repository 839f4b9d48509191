"""What a router around a router hands on: added arms, and several answers per query and arm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import StandardScaler

from defer import OutcomeLog
from defer.estimators import ClusterRouter, HybridRouter, QualityRouter, TunedRouter, make_pipeline
from defer.exceptions import RouterInputError
from defer.model_file import model_bytes, model_from_bytes
from defer.portfolios.arm_matrix import ArmMatrix
from defer.portfolios.limits import Budget, Share

NAMES = ["small", "large", "other"]


def draw(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, chances of three arms and their costs; the dear one is better where the first feature is large."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    chance = np.column_stack([np.full(n, 0.5), 1 / (1 + np.exp(-2.0 * X[:, 0])), 1 / (1 + np.exp(2.0 * X[:, 0]))])
    return X, chance, np.tile([1.0, 2.0, 1.5], (n, 1))


@pytest.mark.parametrize("limit", [Budget(mean_cost=1.4), Share("large", at_most=0.3), None], ids=str)
@pytest.mark.parametrize("piped", [False, True])
def test_an_arm_is_added_to_the_router_inside_and_the_operating_point_stays(limit: Any, piped: bool) -> None:
    X, quality, cost = draw(200, 0)
    inside: Any = ClusterRouter(3, random_state=0)
    inside = make_pipeline(StandardScaler(), inside) if piped else inside
    router = TunedRouter(inside, limit)
    assert hasattr(router, "add_arm")
    router.fit(X, ArmMatrix(quality[:, :2], NAMES[:2]), cost=cost[:, :2])
    point = router.operating_point_
    log = OutcomeLog.from_arrays(X, ArmMatrix(quality, NAMES), arms=NAMES, cost=cost)
    assert router.add_arm("other", log) is router
    assert router.operating_point_ == point
    assert router.arms_.tolist() == router.classes_.tolist() == NAMES
    assert router.arm_bonus_[2] == 0.0
    assert router.mean_cost_.tolist() == pytest.approx([1.0, 2.0, 1.5])
    alone = clone(inside).fit(X, ArmMatrix(quality[:, :2], NAMES[:2]), cost=cost[:, :2]).add_arm("other", log)
    np.testing.assert_array_equal(router.predict_quality(X), alone.predict_quality(X))
    expected = alone.predict_quality(X) - router.cost_weight * alone.predict_cost(X) + router.arm_bonus_
    np.testing.assert_allclose(router.predict_utility(X), expected)
    assert "other" in router.predict(X)
    assert router.route(X, random_state=0).utility.shape == (200, 3)
    twin = model_from_bytes(model_bytes(router))
    np.testing.assert_array_equal(twin.predict(X), router.predict(X))


def test_an_arm_is_added_through_a_pipeline_of_texts() -> None:
    texts = ["add 1 2", "write a poem", "add 3 4", "a song"] * 10
    quality = np.column_stack([np.eye(2)[[0, 1, 0, 1] * 10], np.full(40, 0.9)])
    router = make_pipeline(TfidfVectorizer(), TunedRouter(ClusterRouter(2, random_state=0), Budget(mean_cost=1.4)))
    router.fit(texts, ArmMatrix(quality[:, :2], NAMES[:2]), cost=np.tile([1.0, 2.0], (40, 1)))
    router.add_arm(
        "other", OutcomeLog.from_arrays(texts, ArmMatrix(quality, NAMES), cost=np.tile([1.0, 2.0, 0.5], (40, 1)))
    )
    assert router.predict(texts[:2]).tolist() == ["other", "other"]


def test_only_a_router_that_grows_lets_its_wrapper_grow() -> None:
    assert not hasattr(TunedRouter(QualityRouter()), "add_arm")
    X, quality, cost = draw(40, 1)
    router = TunedRouter(ClusterRouter(2, random_state=0)).fit(X, ArmMatrix(quality, NAMES), cost=cost)
    log = OutcomeLog.from_arrays(X, ArmMatrix(quality, NAMES), cost=cost)
    with pytest.raises(RouterInputError, match="the router has an arm 'large' already"):
        router.add_arm("large", log)
    assert router.arms_.tolist() == NAMES
    assert router.route(X).utility.shape == (40, 3)


def sampled(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    X, chance, cost = draw(n, seed)
    answers = (np.random.default_rng(seed + 100).random((n, 2, 4)) < chance[:, :2, None]).astype(float)
    return X, answers, cost[:, :2]


@pytest.mark.parametrize("limit", [None, Budget(mean_cost=1.5)], ids=str)
@pytest.mark.parametrize("kind", ["cube", "mapping", "in a pipeline"])
def test_several_answers_reach_the_router_that_takes_them(kind: str, limit: Any) -> None:
    X, answers, cost = sampled(150, 2)
    y: Any = answers
    if kind == "mapping":
        y = {"small": answers[:, 0, :1], "large": answers[:, 1]}
    hybrid: Any = HybridRouter("probabilistic", strong="large" if kind == "mapping" else 1)
    hybrid = make_pipeline(StandardScaler(), hybrid) if kind == "in a pipeline" else hybrid
    router = TunedRouter(hybrid, limit, cv=3).fit(X, y, cost=cost)
    inside = clone(hybrid).fit(X, y, cost=cost)
    assert router.arms_.tolist() == inside.arms_.tolist()
    np.testing.assert_array_equal(router.predict_quality(X), inside.predict_quality(X))
    means = clone(hybrid).fit(X, ArmMatrix(answers.mean(axis=2), inside.arms_.tolist()), cost=cost)
    assert not np.allclose(router.predict_quality(X), means.predict_quality(X))
    assert np.isfinite(router.score(X, y, cost=cost))
    if limit is not None:
        assert router.operating_point_.mean_cost <= 1.5 + 1e-9


@pytest.mark.parametrize("form", ["array", "mapping"])
def test_several_answers_are_refused_where_one_is_read(form: str) -> None:
    X, answers, cost = sampled(30, 3)
    y: Any = answers if form == "array" else {"small": answers[:, 0], "large": answers[:, 1]}
    got = r"shape \(30, 2, 4\)" if form == "array" else "a mapping of arms"
    with pytest.raises(
        RouterInputError,
        match=rf"TunedRouter: y has several answers per query and arm \({got}\), and StandardScaler → QualityRouter reads one: "
        r"give their mean, a table of shape \(n, m\), or put a HybridRouter inside",
    ):
        TunedRouter(make_pipeline(StandardScaler(), QualityRouter()), Budget(mean_cost=1.5)).fit(X, y, cost=cost)
