"""The router that learns soft labels, and its score of quality, cost and latency."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn import config_context
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KNeighborsRegressor

from defer import Budget
from defer.estimators import make_pipeline
from defer.estimators.routers.soft_label import SoftLabelRouter
from defer.estimators.routers.three_way_score import ThreeWayScore, read_latency
from defer.exceptions import MissingPropensityWarning, RouterInputError
from defer.losses.distillation import soft_labels
from defer.model_file import model_bytes, model_from_bytes


def draw(seed: int = 0, n: int = 80) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Queries, qualities, costs and latencies of three arms."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    quality = np.clip(0.5 + 0.25 * np.column_stack([X[:, 0], -X[:, 0], X[:, 1]]) + 0.05 * rng.normal(size=(n, 3)), 0, 1)
    cost = np.array([0.001, 0.002, 0.01]) * rng.uniform(0.5, 1.5, size=(n, 3))
    return X, quality, cost, np.array([3.0, 1.0, 2.0]) * rng.uniform(0.5, 1.5, size=(n, 3))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array], ids=["dense", "csr"])
@pytest.mark.parametrize("k", [1, 5, 200])
def test_neighbours_give_their_mean_label(metric: str, layout: Any, k: int) -> None:
    X, quality, _, _ = draw()
    fresh = np.random.default_rng(9).normal(size=(20, 3))
    peer = KNeighborsRegressor(min(k, 80), metric=metric, algorithm="brute").fit(X, soft_labels(quality))
    router = SoftLabelRouter(n_neighbors=k, metric=metric).fit(layout(X), quality)
    np.testing.assert_allclose(router.predict_proba(layout(fresh)), peer.predict(fresh), atol=1e-11)
    np.testing.assert_allclose(router.predict_proba(fresh).sum(axis=1), 1.0, atol=1e-11)


def test_the_scale_of_quality_is_fitted_on_neighbourhoods_without_the_query() -> None:
    X, quality, _, _ = draw()
    router = SoftLabelRouter(n_neighbors=1, metric="euclidean").fit(X, quality)
    distance = ((X[:, None] - X[None]) ** 2).sum(axis=2) + np.diag(np.full(80, np.inf))
    scores = soft_labels(quality)[distance.argmin(axis=1)]
    spread = scores - scores.mean(axis=1, keepdims=True)
    beyond = quality - quality.mean(axis=1, keepdims=True)
    assert router.quality_scale_.slope == pytest.approx((spread * beyond).sum() / (spread**2).sum())
    assert router.quality_scale_.level == pytest.approx(quality.mean())


def test_a_query_of_zeros_has_the_mean_label_under_the_cosine() -> None:
    X, quality, _, _ = draw()
    router = SoftLabelRouter(n_neighbors=3).fit(X, quality)
    np.testing.assert_allclose(router.predict_proba(np.zeros((1, 3)))[0], soft_labels(quality).mean(axis=0), atol=1e-11)


@pytest.mark.parametrize("head", ["linear", "mlp", LogisticRegression(), "module"], ids=str)
def test_other_heads_learn_the_labels(head: Any) -> None:
    if isinstance(head, str) and head in ("mlp", "module"):
        torch = pytest.importorskip("torch")
        head = torch.nn.Linear if head == "module" else head
    X, quality, cost, _ = draw(n=300)
    router = SoftLabelRouter(head, max_epochs=30, learning_rate=0.02, random_state=0).fit(X, quality, cost=cost)
    assert router.score(X, quality) > quality.mean(axis=0).max() + 0.1
    np.testing.assert_allclose(router.predict_proba(X).sum(axis=1), 1.0)
    assert router.route(X, limit=Budget(mean_cost=0.003)).expected_cost <= 0.003


def test_the_hard_label_shares_ties() -> None:
    router = SoftLabelRouter(kappa=np.inf, n_neighbors=1).fit(np.eye(2), [[0.7, 0.7, 0.1], [0.1, 0.2, 0.3]])
    assert router.predict_proba(np.eye(2)).tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]


def test_weights_of_one_nought_nought_are_quality_alone() -> None:
    X, quality, cost, latency = draw()
    plain = SoftLabelRouter(n_neighbors=1).fit(X, quality)
    priced = SoftLabelRouter(n_neighbors=1).fit(X, quality, cost=cost, latency=latency)
    np.testing.assert_array_equal(plain.predict_proba(X), priced.predict_proba(X))
    np.testing.assert_allclose(plain.predict_proba(X), soft_labels(quality), atol=1e-12)
    assert plain.mean_latency_ is None
    np.testing.assert_allclose(priced.mean_latency_, latency.mean(axis=0))


def test_the_three_way_score_counts_cost_and_latency_in_steps_between_the_arms() -> None:
    X, quality, cost, latency = draw()
    router = SoftLabelRouter(n_neighbors=1, weights=(2.0, 0.3, 0.1)).fit(X, quality, cost=cost, latency=latency)
    steps = [np.ptp(table.mean(axis=0)) for table in (cost, latency)]
    assert (router.score_.cost_unit, router.score_.latency_unit) == pytest.approx(steps)
    score = 2 * quality - 0.3 * cost / steps[0] - 0.1 * latency / steps[1]
    np.testing.assert_allclose(router.predict_proba(X), soft_labels(score), atol=1e-11)


@settings(max_examples=25)
@given(factors=st.tuples(st.floats(1e-6, 1e6), st.floats(1e-3, 1e3)), offset=st.floats(0, 10), seed=st.integers(0, 5))
def test_the_unit_of_cost_and_what_all_arms_pay_do_not_matter(
    factors: tuple[float, float], offset: float, seed: int
) -> None:
    X, quality, cost, latency = draw(seed, n=20)
    weights = (1.0, 0.4, 0.2)
    plain = SoftLabelRouter(n_neighbors=3, weights=weights).fit(X, quality, cost=cost, latency=latency)
    other = SoftLabelRouter(n_neighbors=3, weights=weights).fit(
        X, quality, cost=factors[0] * (cost + offset * cost.max()), latency=factors[1] * latency
    )
    np.testing.assert_allclose(other.predict_proba(X), plain.predict_proba(X), atol=1e-8)


def test_a_heavier_weight_on_cost_moves_queries_to_cheaper_arms() -> None:
    X, quality, cost, latency = draw(n=300)
    spent = [
        SoftLabelRouter(n_neighbors=5, weights=(1.0, weight, 0.0)).fit(X, quality, cost=cost).route(X).expected_cost
        for weight in (0.0, 0.1, 0.3, 3.0)
    ]
    assert spent == sorted(spent, reverse=True)
    assert spent[-1] < 0.5 * spent[0]
    fast = SoftLabelRouter(n_neighbors=5, weights=(1.0, 0.0, 30.0)).fit(X, quality, latency=latency)
    assert (fast.predict(X) == 1).mean() > 0.95


def test_units_where_arms_cost_the_same() -> None:
    table = np.array([[1.0, 3.0], [3.0, 1.0]])
    assert ThreeWayScore.fit((1.0, 1.0, 0.0), cost=table, latency=None, weight=None).cost_unit == 2.0
    assert ThreeWayScore.fit((1.0, 1.0, 0.0), cost=np.ones((2, 2)), latency=None, weight=None).cost_unit == 1.0
    assert ThreeWayScore.fit((1.0, 1.0, 0.0), cost=np.zeros((2, 2)), latency=None, weight=None).cost_unit == 1.0


def test_a_missing_latency_masks_its_arm_if_latency_is_weighed() -> None:
    X, quality, _, latency = draw(n=20)
    latency[0, 1] = np.nan
    latency[1] = np.nan
    router = SoftLabelRouter(n_neighbors=1, weights=(1.0, 0.0, 0.5), missing="mask").fit(X, quality, latency=latency)
    assert router.predict_proba(X[:1])[0, 1] == 0.0
    assert router.n_dropped_ == 1
    free = SoftLabelRouter(n_neighbors=1).fit(X, quality, latency=latency)
    assert free.n_dropped_ == 0


def test_latency_follows_the_names_of_the_arms() -> None:
    X, quality, _, latency = draw(n=20)
    frame, names = pd.DataFrame(quality, columns=["a", "b", "c"]), ["c", "a", "b"]
    router = SoftLabelRouter(n_neighbors=1, weights=(1.0, 0.0, 0.5))
    plain = router.fit(X, quality, latency=latency).predict_proba(X)
    named = router.fit(X, frame, latency=pd.DataFrame(latency[:, [2, 0, 1]], columns=names)).predict_proba(X)
    np.testing.assert_array_equal(named, plain)


def test_latency_goes_through_a_search_and_a_plain_parameter_of_a_pipeline() -> None:
    X, quality, _, latency = draw()
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(
            SoftLabelRouter(weights=(1.0, 0.0, 0.2), n_neighbors=5), {"kappa": [1.0, 10.0]}, cv=KFold(3)
        )
        search.fit(X, quality, latency=latency)
    assert search.best_estimator_.mean_latency_.shape == (3,)
    texts = ["add one", "add two", "write a poem", "a poem of rain"]
    pipe = make_pipeline(TfidfVectorizer(), SoftLabelRouter(n_neighbors=2, weights=(1.0, 0.0, 0.1)))
    pipe.fit(texts, [[1.0, 0.0]] * 2 + [[0.0, 1.0]] * 2, softlabelrouter__latency=np.ones((4, 2)))
    assert pipe.predict(["add three", "poem"]).tolist() == [0, 1]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_weight_of_k_is_worth_k_equal_rows(metric: str) -> None:
    X, quality, cost, latency = draw()
    weight = np.random.default_rng(1).integers(4, size=80)
    rows = np.repeat(np.arange(80), weight)
    options: dict[str, Any] = {"n_neighbors": 7, "metric": metric, "weights": (1.0, 0.3, 0.1)}
    weighted = SoftLabelRouter(**options).fit(X, quality, cost=cost, latency=latency, sample_weight=weight)
    repeated = SoftLabelRouter(**options).fit(X[rows], quality[rows], cost=cost[rows], latency=latency[rows])
    np.testing.assert_allclose(weighted.predict_quality(X), repeated.predict_quality(X), atol=1e-9)


def test_a_bandit_log_is_learned_from() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1500, 2))
    quality = np.column_stack([X[:, 0] > 0, X[:, 0] <= 0]).astype(float)
    first = rng.random(1500) < 0.8
    seen = np.where(np.column_stack([first, ~first]), quality, np.nan)
    for head in ("neighbors", "linear"):
        router = SoftLabelRouter(head).fit(X, seen, propensity=np.where(first, 0.8, 0.2))
        assert router.score(X, quality) > 0.93


def test_partly_observed_rows_count_by_inverse_propensity() -> None:
    quality = np.array([[0.8, 0.2, np.nan], [0.1, 0.4, 0.3]])
    router = SoftLabelRouter(n_neighbors=2, missing="mask").fit(np.ones((2, 1)), quality, propensity=[0.25, 1.0])
    label = soft_labels(quality)
    np.testing.assert_allclose(router.predict_proba([[1.0]])[0], (4 * label[0] + label[1]) / 5, atol=1e-12)


def test_fewer_queries_than_neighbours_one_arm_and_one_query() -> None:
    router = SoftLabelRouter().fit([[1.0]], [[0.2, 0.8]])
    np.testing.assert_allclose(router.predict_proba([[2.0]]), soft_labels([[0.2, 0.8]]), atol=1e-12)
    only = SoftLabelRouter().fit([[1.0], [2.0]], pd.DataFrame({"only": [0.1, 0.5]}))
    assert only.predict_proba([[0.5]]).tolist() == [[1.0]]


@pytest.mark.parametrize("head", ["neighbors", "linear", LogisticRegression()], ids=str)
@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array], ids=["dense", "csr"])
def test_a_saved_router_predicts_alike(head: Any, layout: Any) -> None:
    X, quality, cost, latency = draw()
    router = SoftLabelRouter(head, weights=(1.0, 0.1, 0.1)).fit(layout(X), quality, cost=cost, latency=latency)
    twin = model_from_bytes(model_bytes(router))
    np.testing.assert_array_equal(twin.predict_quality(X), router.predict_quality(X))
    assert twin.score_ == router.score_


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "forest"}, "head must be one of 'neighbors', 'linear', 'mlp', got 'forest'"),
        (
            {"head": 3},
            "head must be 'neighbors', 'linear', 'mlp', a torch module or a classifier with predict_proba, got int",
        ),
        ({"kappa": -1.0}, r"kappa must be a number >= 0, or np\.inf, got -1\.0"),
        ({"kappa": None}, r"kappa must be a number >= 0, or np\.inf, got None"),
        ({"n_neighbors": 0}, "n_neighbors must be an integer >= 1, got 0"),
        ({"metric": "manhattan"}, r"metric must be one of \('cosine', 'euclidean'\), got 'manhattan'"),
        ({"missing": "drop"}, "missing must be one of 'impute', 'mask', got 'drop'"),
        ({"weights": (1.0, 0.0)}, r"weights must be three finite numbers, .* got \(1\.0, 0\.0\)"),
        ({"weights": (0.0, 1.0, 1.0)}, "weights must be three finite numbers"),
        ({"weights": (1.0, -1.0, 0.0)}, "weights must be three finite numbers"),
        ({"weights": "abc"}, "weights must be three finite numbers"),
        ({"weights": (1.0, 0.5, 0.0)}, "weights give cost a weight of 0.5, and fit was given no cost="),
        ({"weights": (1.0, 0.0, 2.0)}, "weights give latency a weight of 2, and fit was given no latency="),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RouterInputError, match=f"SoftLabelRouter: {message}"):
        SoftLabelRouter(**options).fit([[0.0], [1.0]], [[1.0, 0.0], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("latency", "message"),
    [
        (np.ones((3, 2)), r"latency must have the shape of y, \(2, 2\), got \(3, 2\)"),
        ([[1.0, -1.0], [1.0, 1.0]], r"latency: 1 values are below 0, the first in row 0, arm 1 \(-1\)"),
        ([[1.0, np.nan], [1.0, np.nan]], "latency: 1 of 2 arms were never measured, the first is 1"),
        ([[1.0, np.inf], [1.0, 1.0]], "latency: 1 values are infinite, the first in row 0, arm 1"),
        (pd.DataFrame({"a": [1.0, 1.0], "b": [1.0, 1.0]}), r"latency has \['a', 'b'\], y has \[0, 1\]"),
    ],
)
def test_wrong_latencies_are_named(latency: Any, message: str) -> None:
    with pytest.raises(RouterInputError, match=message):
        read_latency(latency, arms=np.arange(2), n=2)


def test_no_measurement_at_all_and_an_arm_that_cannot_be_filled() -> None:
    latency = np.array([[np.nan, 1.0], [1.0, np.nan]])
    quality = np.array([[1.0, np.nan], [np.nan, 1.0]])
    with (
        pytest.warns(MissingPropensityWarning),
        pytest.raises(RouterInputError, match="none of the 2 queries has a measurement that a label is made of"),
    ):
        SoftLabelRouter(weights=(1.0, 0.0, 1.0)).fit([[0.0], [1.0]], quality, latency=latency)
    latency = np.array([[1.0, np.nan], [1.0, 1.0], [1.0, np.nan]])
    quality = np.array([[1.0, 1.0], [1.0, np.nan], [1.0, 0.0]])
    with pytest.raises(RouterInputError, match="arm 1 has no query on which all that its score needs was measured"):
        SoftLabelRouter(weights=(1.0, 0.0, 1.0)).fit([[0.0], [1.0], [2.0]], quality, latency=latency)
