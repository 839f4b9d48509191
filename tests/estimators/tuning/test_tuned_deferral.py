"""The operating point of a router that defers, fitted on the answers of experts."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import config_context
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

import defer
from defer.datasets import make_specialist_experts
from defer.estimators import (
    PostHocDeferral,
    QualityRouter,
    SingleStageDeferral,
    TunedRouter,
    TwoStageDeferral,
    make_pipeline,
)
from defer.exceptions import DeferWarning, RouterInputError, SupportWarning
from defer.portfolios.limits import Budget, QualityTarget, RiskLevel, Share


@pytest.fixture(scope="module")
def problem():
    return make_specialist_experts(n_samples=3000, random_state=0)


@pytest.fixture(scope="module")
def fresh():
    return make_specialist_experts(n_samples=3000, random_state=1)


@pytest.mark.parametrize(
    "router", [PostHocDeferral("regression"), SingleStageDeferral("ova")], ids=["post hoc", "joint"]
)
def test_a_share_for_experts_holds_on_fresh_queries(router, problem, fresh):
    tuned = TunedRouter(router, limit=Share("own", at_least=0.8)).fit(problem.X, problem.y, experts=problem.experts)
    assert tuned.arms_.tolist() == ["own", "expert 1", "expert 2"]
    deferred = (tuned.route(fresh.X, random_state=0).arm != 0).mean()
    # Six standard deviations of two samples of 3,000 and the noise of a fitted point.
    assert deferred == pytest.approx(0.2, abs=6 * np.sqrt(2 * 0.2 * 0.8 / 3000))


def test_own_quality_is_measured_out_of_fold(problem):
    cost = np.tile([0.0, 1.0, 1.0], (3000, 1))
    tuned = TunedRouter(
        PostHocDeferral("regression"), limit=Budget(mean_cost=0.0), cv=KFold(5, shuffle=True, random_state=0)
    )
    tuned.fit(problem.X, problem.y, experts=problem.experts, cost=cost)
    right = []
    for train, test in KFold(5, shuffle=True, random_state=0).split(problem.X):
        own = LogisticRegression().fit(problem.X[train], problem.y[train])
        right.append(own.predict(problem.X[test]) == problem.y[test])
    assert tuned.operating_point_.mean_quality == pytest.approx(np.concatenate(right).mean(), abs=0.01)
    assert tuned.operating_point_.mean_cost == 0.0


def test_own_quality_is_not_that_of_a_model_that_has_seen_the_query():
    # The nearest neighbour is always right about itself, and labels are coins.
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(600, 2)), rng.integers(2, size=600)
    router = PostHocDeferral("regression", KNeighborsClassifier(1), random_state=0)
    tuned = TunedRouter(router, limit=Share("own", at_least=1.0)).fit(X, y, experts=rng.integers(2, size=600))
    assert (tuned.predict_own(X) == y).all()
    # Five standard errors.
    assert tuned.operating_point_.mean_quality == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("known", [False, True], ids=["estimated", "known"])
def test_an_expert_who_was_asked_by_the_query_is_measured_on_all_queries(known):
    # The router knows nothing of the kind that decides who was asked: its prediction is the mean of what was seen, .86.
    rng = np.random.default_rng(0)
    kind, y = rng.integers(2, size=20_000), rng.integers(2, size=20_000)
    chance = np.array([0.9, 0.1])[kind]
    answers = np.where(rng.random(20_000) < np.array([0.9, 0.5])[kind], y, 1 - y)
    experts = np.where(rng.random(20_000) < chance, answers, np.nan)
    router = PostHocDeferral("regression", DummyClassifier(), random_state=0)
    tuned = TunedRouter(router, limit=Share("own", at_most=0.0))
    tuned.fit(np.eye(2)[kind], y, experts=experts, **({"propensity": chance} if known else {}))
    # Half of the mean is that of 1,000 answers: five standard errors are .04.
    assert tuned.operating_point_.mean_quality == pytest.approx(0.7, abs=0.045)


@pytest.mark.parametrize(
    ("router", "option"),
    [
        (SingleStageDeferral("realizable"), "SingleStageDeferral with surrogate='realizable'"),
        (make_pipeline(StandardScaler(), SingleStageDeferral("rl2d")), "SingleStageDeferral with surrogate='rl2d'"),
        (PostHocDeferral("partial", margin="hinge"), "PostHocDeferral with margin='hinge'"),
        (TwoStageDeferral(comp_sum="mean_absolute_error"), "TwoStageDeferral with comp_sum='mean_absolute_error'"),
    ],
)
@pytest.mark.parametrize("limit", [Budget(mean_cost=1.0), QualityTarget(0.5), RiskLevel(0.1, level=0.9)])
def test_an_order_of_queries_is_not_weighed_against_costs(router, option, limit):
    rng = np.random.default_rng(0)
    X, quality = rng.normal(size=(100, 2)), rng.integers(2, size=(100, 2)).astype(float)
    with pytest.raises(
        RouterInputError,
        match=f"TunedRouter: a {type(limit).__name__} weighs quality against cost, and {option} gives an order of queries and no "
        "quality; use a Share, or ",
    ):
        TunedRouter(router, limit=limit).fit(X, quality, cost=np.tile([0.0, 1.0], (100, 1)))


def test_no_batch_limit_weighs_an_order_of_queries_against_costs_either(problem):
    X, y, experts = problem.X[:300], problem.y[:300], problem.experts[:300, 0]
    tuned = TunedRouter(SingleStageDeferral("realizable"), limit=Share("own", at_least=0.5))
    tuned.fit(X, y, experts=experts, cost=np.ones(300))
    assert tuned.route(X, limit=Share("own", at_least=0.9), random_state=0).load[0] == pytest.approx(0.9)
    with pytest.raises(
        RouterInputError, match="TunedRouter: a Budget weighs quality against cost, and SingleStageDeferral with"
    ):
        tuned.route(X, limit=Budget(mean_cost=0.5))


def test_a_propensity_that_is_worth_little_is_told_of_once(problem):
    X, y, experts = problem.X[:400], problem.y[:400], problem.experts[:400].astype(float)
    experts[::2, 0] = np.nan
    chance = np.where(np.arange(400) == 1, 1e-4, 0.5)
    with pytest.warns(SupportWarning, match="the 200 answers of expert 'expert 1' are worth 1") as told:
        TunedRouter(SingleStageDeferral("ova"), limit=Share("own", at_least=0.5), cv=3).fit(
            X, y, experts=experts, propensity=np.column_stack([chance, np.ones(400)])
        )
    assert len(told) == 1


def test_answers_that_are_missing_are_weighted_by_their_propensity(problem):
    rng = np.random.default_rng(0)
    chance = np.where(problem.right, 0.9, 0.3)
    experts = np.where(rng.random(problem.experts.shape) < chance, problem.experts, np.nan)
    limit = Share("own", at_least=0.5, at_most=0.5)
    known = TunedRouter(PostHocDeferral("regression"), limit=limit)
    known.fit(problem.X, problem.y, experts=experts, propensity=chance)
    full = TunedRouter(PostHocDeferral("regression"), limit=limit).fit(problem.X, problem.y, experts=problem.experts)
    naive = TunedRouter(PostHocDeferral("regression"), limit=limit).fit(problem.X, problem.y, experts=experts)
    truth = full.operating_point_.mean_quality
    assert known.operating_point_.mean_quality == pytest.approx(truth, abs=0.03)
    assert naive.operating_point_.mean_quality > truth + 0.04


def test_a_router_without_answers_of_its_own_is_refused(problem):
    with pytest.raises(
        RouterInputError, match=r"experts= needs a router that defers, such as PostHocDeferral, got QualityRouter"
    ):
        TunedRouter(QualityRouter()).fit(problem.X, problem.y, experts=problem.experts)


def test_answers_can_neither_be_predicted_nor_scored_by_a_router_without(problem):
    tuned = TunedRouter(QualityRouter()).fit(problem.X, np.eye(6)[problem.y])
    message = r"TunedRouter: experts= needs a router that defers, such as PostHocDeferral, got QualityRouter"
    with pytest.raises(RouterInputError, match=message):
        tuned.predict(problem.X, problem.experts)
    with pytest.raises(RouterInputError, match=message):
        tuned.score(problem.X, problem.y, experts=problem.experts)
    for name in ("predict_own", "defer_mask", "outcome_log", "expert_", "label_classes_"):
        assert not hasattr(tuned, name)


@pytest.mark.parametrize("wrapped", [False, True], ids=["router", "pipeline inside"])
def test_a_tuned_system_has_the_face_of_the_one_inside(problem, fresh, wrapped):
    inner = PostHocDeferral("regression")
    cost = np.tile([0.2, 0.1], (3000, 1))
    limit = Share("own", at_least=0.9)
    tuned = TunedRouter(make_pipeline(StandardScaler(), inner) if wrapped else inner, limit=limit)
    assert hasattr(tuned, "predict_own")
    tuned.fit(problem.X, problem.y, experts=problem.experts, cost=cost)
    X, y, experts = fresh.X, fresh.y, fresh.experts
    assert tuned.expert_.tolist() == ["expert 1", "expert 2"]
    assert tuned.label_classes_.tolist() == list(range(6))
    arms, own = tuned.predict(X), tuned.predict_own(X)
    # The operating point decides, not the router inside.
    assert not np.array_equal(arms, tuned.router_.predict(X))
    index = np.searchsorted(tuned.arms_[1:], arms)
    said = np.where(arms == "own", own, experts[np.arange(3000), np.minimum(index, 1)])
    np.testing.assert_array_equal(tuned.predict(X, experts), said)
    np.testing.assert_array_equal(tuned.defer_mask(X), arms != "own")
    assert tuned.defer_mask(X, limit=Share("own", at_least=1.0)).sum() == 0
    assert tuned.score(X, y, experts=experts) == pytest.approx((said == y).mean())
    log = tuned.outcome_log(X, y, experts, cost=cost)
    assert defer.evaluate(tuned, log).estimate.value == pytest.approx(
        (said == y).mean(), abs=0.01
    )  # it draws lots at ties
    routing = tuned.route(X, random_state=0)
    table = np.column_stack([own, experts])
    np.testing.assert_array_equal(tuned.predict(X, experts, routing=routing), table[np.arange(3000), routing.arm])
    gaps = np.where(np.random.default_rng(0).random(experts.shape) < 0.5, experts, np.nan)
    assert np.isfinite(tuned.outcome_log(X, y, gaps, propensity=np.full(3000, 0.5)).quality).all()
    with pytest.raises(RouterInputError, match="score: y holds labels, and this router defers: pass experts="):
        tuned.score(X, y)


@pytest.mark.parametrize(
    "call",
    [
        lambda tuned, X: tuned.predict_own(X), lambda tuned, X: tuned.predict(X, [0] * len(X)),
        lambda tuned, X: tuned.defer_mask(X), lambda tuned, X: tuned.outcome_log(X, [0] * len(X), [0] * len(X)),
        lambda tuned, X: tuned.score(X, [0] * len(X), experts=[0] * len(X)),
    ],
)  # fmt: skip
def test_a_tuned_system_that_is_not_fitted_says_so(problem, call):
    with pytest.raises(NotFittedError):
        call(TunedRouter(SingleStageDeferral("ova")), problem.X)


def test_a_tuned_system_is_searched_and_stands_in_pipelines(problem):
    X, y, experts = problem.X[:400], problem.y[:400], problem.experts[:400]
    tuned = TunedRouter(SingleStageDeferral("ova"), limit=Share("own", at_least=0.5), cv=2)
    with config_context(enable_metadata_routing=True):
        scores = cross_val_score(tuned, X, y, cv=3, params={"experts": experts}, error_score="raise")
        search = GridSearchCV(tuned, {"router__C": [1e-6, 1.0]}, cv=3, error_score="raise").fit(X, y, experts=experts)
    assert scores.min() > 0.5
    assert search.best_params_ == {"router__C": 1.0}
    pipeline = make_pipeline(StandardScaler(), tuned).fit(X, y, experts=experts)
    assert pipeline.expert_.tolist() == ["expert 1", "expert 2"]
    said = pipeline.predict(X, experts)
    assert pipeline.score(X, y, experts=experts) == (said == y).mean()
    np.testing.assert_array_equal(pipeline.defer_mask(X), pipeline.predict(X) != "own")
    assert pipeline.outcome_log(X, y, experts).arms == ("own", "expert 1", "expert 2")


def test_a_fold_with_one_class_is_named():
    X, y = np.arange(20.0)[:, None], np.repeat([0, 1], [10, 10])
    experts = np.tile([0, 1], 10)
    with pytest.raises(
        RouterInputError,
        match=r"TunedRouter: the training part of fold 1 of 2 holds one class of y, 1; give cv= a splitter that mixes the queries",
    ):
        TunedRouter(PostHocDeferral("regression"), limit=Share("own", at_least=0.5), cv=KFold(2)).fit(
            X, y, experts=experts
        )
    weight = np.where(np.arange(20) < 2, 1.0, np.where(np.arange(20) < 10, 0.0, 1.0))
    with pytest.raises(RouterInputError, match=r"training part of fold 1 of 10 holds one class of y, 1;"):
        TunedRouter(PostHocDeferral("regression"), limit=Share("own", at_least=0.5), cv=KFold(10)).fit(
            X, y, experts=experts, sample_weight=weight
        )


def test_answers_that_are_no_class_are_told_of_once(problem):
    X, y, experts = problem.X[:300], problem.y[:300], problem.experts[:300].copy()
    experts[:5, 0] = -1
    with pytest.warns(DeferWarning) as told:
        TunedRouter(SingleStageDeferral("ova"), limit=Share("own", at_least=0.5), cv=3).fit(X, y, experts=experts)
    assert len(told) == 1
    assert "5 of 300 answers of 'expert 1' are no class of y, the first is -1 in row 0" in str(told[0].message)


def animals(seed):
    """Texts of three kinds, labels, and an expert who is right about the third kind alone, where labels are a coin."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(3, size=400)
    texts = [
        f"{['cat', 'dog', 'bird'][k]} {number}" for k, number in zip(kind, rng.integers(50, size=400), strict=True)
    ]
    y = np.where(kind < 2, "tame", rng.choice(["tame", "wild"], 400))
    return texts, y, np.where(kind == 2, y, "wild")[:, None], kind


def test_a_pipeline_defers():
    texts, y, experts, kind = animals(0)
    pipeline = make_pipeline(TfidfVectorizer(), PostHocDeferral()).fit(texts, y, experts=experts)
    assert pipeline.expert_.tolist() == ["expert"]
    assert pipeline.label_classes_.tolist() == ["tame", "wild"]
    assert (pipeline.defer_mask(texts) == (kind == 2)).mean() > 0.95
    assert (pipeline.predict(texts, experts) == y).mean() > 0.95
    assert set(pipeline.predict_own(texts[:5])) <= {"tame", "wild"}
    log = pipeline.outcome_log(texts, y, experts)
    assert log.X[0] == texts[0]
    taken = pipeline.route(texts).arm
    assert pipeline.score(texts, y, experts=experts) == log.quality[np.arange(400), taken].mean()
    assert not hasattr(make_pipeline(TfidfVectorizer(), QualityRouter()), "predict_own")
    with config_context(enable_metadata_routing=True):
        scores = cross_val_score(
            make_pipeline(TfidfVectorizer(), PostHocDeferral()), texts, y, cv=3, params={"experts": experts},
            error_score="raise",
        )  # fmt: skip
    assert scores.min() > 0.85


def test_a_pipeline_that_defers_is_tuned():
    texts, y, experts, _ = animals(0)
    fresh = animals(1)[0]
    pipeline = make_pipeline(TfidfVectorizer(), PostHocDeferral())
    tuned = TunedRouter(pipeline, limit=Share("own", at_least=0.9)).fit(texts, y, experts=experts)
    # A third of the queries all but tie, and the folds put them in another order: the share is met roughly.
    deferred = (tuned.route(fresh, random_state=0).arm != 0).mean()
    assert 0.0 < deferred < pipeline.fit(texts, y, experts=experts).defer_mask(fresh).mean() - 0.05
