"""The operating point of a router that defers, fitted on the answers of experts."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import config_context
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, cross_val_score

from defer.datasets import make_specialist_experts
from defer.estimators import PostHocDeferral, QualityRouter, SingleStageDeferral, TunedRouter, make_pipeline
from defer.exceptions import RouterInputError
from defer.portfolios.limits import Budget, Share


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
    assert tuned.arms_.tolist() == ["own", "expert 0", "expert 1"]
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
