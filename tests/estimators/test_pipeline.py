from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError, UnsetMetadataPassedError
from sklearn.feature_extraction import DictVectorizer, FeatureHasher
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.preprocessing import StandardScaler

from defer.estimators import QualityRouter, RealisedUtility, RouterPipeline, TunedRouter, make_pipeline
from defer.exceptions import RouterInputError
from defer.portfolios.limits import Budget, Share


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 3)), rng.random((60, 3)), rng.uniform(0.5, 1.5, size=(60, 3)) * [1.0, 2.0, 3.0]


def test_every_method_goes_through_the_transformers(data: Any) -> None:
    X, quality, cost = data
    scaler = StandardScaler().fit(X)
    pipeline = make_pipeline(StandardScaler(), QualityRouter(cost_weight=0.2)).fit(X, quality, cost=cost)
    router = QualityRouter(cost_weight=0.2).fit(scaler.transform(X), quality, cost=cost)
    for method in ("predict", "predict_quality", "predict_cost", "predict_utility", "decision_function"):
        np.testing.assert_array_equal(getattr(pipeline, method)(X), getattr(router, method)(scaler.transform(X)))
    left = pipeline.route(X, limit=Budget(mean_cost=1.4), random_state=0)
    right = router.route(scaler.transform(X), limit=Budget(mean_cost=1.4), random_state=0)
    np.testing.assert_array_equal(left.policy, right.policy)
    np.testing.assert_array_equal(left.arm, right.arm)
    assert pipeline.score(X, quality, cost=cost) == router.score(scaler.transform(X), quality, cost=cost)
    for name in ("arms_", "classes_", "has_cost_", "weighting_", "cost_weight"):
        assert np.all(getattr(pipeline, name) == getattr(router, name))
    assert pipeline.n_features_in_ == 3


def test_outcomes_reach_the_router(data: Any) -> None:
    X, quality, cost = data
    quality[::2, 0] = np.nan
    weight, propensity = np.arange(60) + 1.0, np.full(60, 0.5)
    options = {"cost": cost, "propensity": propensity, "sample_weight": weight}
    pipeline = make_pipeline(QualityRouter()).fit(X, quality, **options)
    np.testing.assert_array_equal(
        pipeline.predict_quality(X), QualityRouter().fit(X, quality, **options).predict_quality(X)
    )
    assert pipeline.weighting_ == "inverse propensity"
    assert pipeline.score(X, quality, **options) == QualityRouter().fit(X, quality, **options).score(
        X, quality, **options
    )


def test_pipelines_nest(data: Any) -> None:
    X, quality, cost = data
    inner = make_pipeline(StandardScaler(), QualityRouter())
    outer = make_pipeline(StandardScaler(), inner).fit(X, quality, cost=cost)
    assert outer.has_cost_
    assert outer.route(X, random_state=0).arm.shape == (60,)
    with config_context(enable_metadata_routing=True):
        routed = make_pipeline(StandardScaler(), clone(inner)).fit(X, quality, cost=cost)
    np.testing.assert_array_equal(routed.predict_cost(X), outer.predict_cost(X))


def test_the_rest_of_fit_is_that_of_scikit_learn(data: Any) -> None:
    X, quality, _ = data
    weight = np.repeat([0.0, 1.0], 30)
    pipeline = make_pipeline(StandardScaler(), QualityRouter())
    pipeline.fit(X, quality, standardscaler__sample_weight=weight)
    np.testing.assert_allclose(pipeline[0].mean_, X[30:].mean(axis=0))
    cached = make_pipeline(StandardScaler(), QualityRouter(), verbose=False, memory=None)
    assert isinstance(cached, RouterPipeline)


def test_metadata_routing_follows_the_requests_of_transformers(data: Any) -> None:
    X, quality, _ = data
    weight = np.repeat([0.0, 1.0], 30)
    with config_context(enable_metadata_routing=True):
        with pytest.raises(UnsetMetadataPassedError, match="StandardScaler"):
            make_pipeline(StandardScaler(), QualityRouter()).fit(X, quality, sample_weight=weight)
        asked = make_pipeline(StandardScaler().set_fit_request(sample_weight=True), QualityRouter())
        asked.fit(X, quality, sample_weight=weight)
    np.testing.assert_allclose(asked[0].mean_, X[30:].mean(axis=0))


@pytest.mark.parametrize("router", [QualityRouter(Ridge()), TunedRouter(QualityRouter(Ridge()), Budget(mean_cost=1.4))])
def test_grid_search_over_a_pipeline_with_costs(data: Any, router: Any) -> None:
    X, quality, cost = data
    name = (
        "tunedrouter__router__regressor__alpha"
        if isinstance(router, TunedRouter)
        else "qualityrouter__regressor__alpha"
    )
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(
            make_pipeline(StandardScaler(), router), {name: [0.1, 100.0]}, scoring=RealisedUtility(0.3), cv=KFold(3),
            error_score="raise",
        )  # fmt: skip
        search.fit(X, quality, cost=cost)
    assert search.best_estimator_.has_cost_
    assert search.best_estimator_.route(X, random_state=0).arm.shape == (60,)


def test_tuning_on_weights_and_groups_under_metadata_routing(data: Any) -> None:
    _, quality, cost = data
    texts = [f"word{row % 7} other{row % 3}" for row in range(60)]
    options = {"cost": cost, "sample_weight": np.arange(60) + 1.0, "groups": np.arange(60) // 5}
    plain = make_pipeline(TfidfVectorizer(), TunedRouter(limit=Budget(mean_cost=1.3))).fit(texts, quality, **options)
    with config_context(enable_metadata_routing=True):
        routed = make_pipeline(TfidfVectorizer(), TunedRouter(limit=Budget(mean_cost=1.3))).fit(
            texts, quality, **options
        )
        nested = TunedRouter(make_pipeline(TfidfVectorizer(), QualityRouter()), Budget(mean_cost=1.3))
        nested.fit(texts, quality, **options)
    assert routed[-1].operating_point_ == plain[-1].operating_point_
    assert nested.operating_point_.mean_cost == pytest.approx(1.3)


def test_equal_texts_are_groups_only_for_routers_that_ask() -> None:
    texts, quality = ["aa bb", "aa bb", "cc dd", "ee ff"], np.random.default_rng(0).random((4, 2))
    assert make_pipeline(TfidfVectorizer(), QualityRouter()).fit(texts, quality).arms_.tolist() == [0, 1]
    tuned = make_pipeline(TfidfVectorizer(), TunedRouter(limit=Share(0, at_most=0.5), cv=3)).fit(texts, quality)
    assert tuned[-1].operating_point_.price == 0.0


def test_a_pipeline_ends_in_a_router() -> None:
    with pytest.raises(TypeError, match=r"the last step must be a router \(a BaseRouter\), got Ridge"):
        make_pipeline(StandardScaler(), Ridge())
    with pytest.raises(TypeError, match="got nothing"):
        make_pipeline()


@pytest.mark.parametrize("method", ["predict", "predict_quality", "predict_cost", "predict_utility", "route"])
def test_an_unfitted_pipeline_says_so(method: str) -> None:
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(make_pipeline(StandardScaler(), QualityRouter()), method)([[0.0]])


def test_wrong_outcomes_are_named_through_a_pipeline(data: Any) -> None:
    X, quality, _ = data
    with pytest.raises(RouterInputError, match="cost: 1 values are below 0, the first in row 0, arm 1"):
        make_pipeline(StandardScaler(), QualityRouter()).fit(X, quality, cost=[[0, -1, 0]] + [[0, 0, 0]] * 59)


@pytest.mark.parametrize(
    "method", ["predict", "route", "predict_quality", "predict_cost", "predict_utility", "decision_function"]
)
def test_a_frame_is_not_routed_by_its_column_names(method):
    frame = pd.DataFrame({"prompt": ["add two", "write a poem", "add one"], "domain": ["maths", "prose", "maths"]})
    router = make_pipeline(TfidfVectorizer(), QualityRouter()).fit(
        frame["prompt"], [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    )
    for wrong in (frame, frame[["prompt"]], frame[["prompt"]].iloc[:1]):  # one row: as many as column names
        with pytest.raises(
            RouterInputError, match=r"X must be a list of texts, got a frame with the columns .*; pass the one column"
        ):
            getattr(router, method)(wrong)
    assert len(getattr(router, method)(frame["prompt"])) == 3


@pytest.mark.parametrize("queries", [np.zeros((3, 2)), [[1.0, 2.0]] * 3, ["add", None, "two"], [1.0, 2.0, 3.0]])
def test_numbers_are_no_texts(queries: Any) -> None:
    """A vectoriser itself would say that an array has no attribute 'lower'."""
    texts, quality = ["add two", "write a poem", "add one"], [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    router = make_pipeline(TfidfVectorizer(), QualityRouter())
    with pytest.raises(RouterInputError, match="RouterPipeline: X must be a list of texts"):
        router.fit(queries, quality)
    with pytest.raises(RouterInputError, match="RouterPipeline: X must be a list of texts"):
        router.fit(texts, quality).route(queries)


@pytest.mark.parametrize(
    "step", [FeatureHasher(16, input_type="string"), TfidfVectorizer(analyzer=list), DictVectorizer()]
)
def test_steps_for_tokens_and_counts_get_them(step: Any) -> None:
    queries: list[Any] = [["add", "two"], ["write", "poem"], ["add", "one"]]
    if isinstance(step, DictVectorizer):
        queries = [dict.fromkeys(tokens, 1.0) for tokens in queries]
    router = make_pipeline(step, QualityRouter()).fit(queries, [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert router.predict(queries).tolist() == [0, 1, 0]


def test_steps_that_make_other_rows_are_named() -> None:
    frame = pd.DataFrame({"prompt": ["add two", "write a poem", "add one"], "domain": ["maths", "prose", "maths"]})
    router = make_pipeline(TfidfVectorizer(preprocessor=str), QualityRouter())
    router.fit(frame["prompt"], [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    with pytest.raises(
        RouterInputError, match=r"made 2 rows of 3 queries: a step for texts takes a list or one column"
    ):
        router.route(frame)


@pytest.mark.parametrize(("queries", "message"), [("add two", "X is one str"), ([], "X has no queries")])
def test_what_is_no_batch_is_refused_before_the_transformers(queries, message):
    router = make_pipeline(TfidfVectorizer(), QualityRouter()).fit(["add two", "write"], [[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(RouterInputError, match=message):
        router.route(queries)


def test_answers_need_a_last_step_that_defers(data: Any) -> None:
    X, quality, _ = data
    message = (
        r"experts= needs a router that defers as the last step, such as PostHocDeferral, got StandardScaler → QualityR"
    )
    pipeline = make_pipeline(StandardScaler(), QualityRouter())
    with pytest.raises(RouterInputError, match=message):
        pipeline.fit(X, quality, experts=np.zeros(60))
    pipeline.fit(X, quality)
    with pytest.raises(RouterInputError, match=message):
        pipeline.predict(X, np.zeros(60))
    with pytest.raises(RouterInputError, match=message):
        pipeline.score(X, quality, experts=np.zeros(60))
