"""Who is asked may depend on the query: the estimated probability, the weights by it, and what estimators make of both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from defer.estimators import (
    ConfidenceDeferral,
    MultiExpertDeferral,
    PostHocDeferral,
    SingleStageDeferral,
    TwoStageDeferral,
)
from defer.estimators.deferral.asked_model import LEAST_CHANCE, asked_probability, population_weights
from defer.estimators.deferral.score_learner import ScoreLearner
from defer.estimators.outcomes_input import read_outcomes

EXACT: dict[str, Any] = {"C": 1e6}


@pytest.fixture(scope="module")
def log() -> Any:
    """Queries with features of three scales, and which of two arms was observed on them, by the first feature."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 3)) * [1e-3, 1.0, 1e3] + [0.0, 0.0, 2e4]
    seen = np.column_stack([np.ones(600), rng.random(600) < 1 / (1 + np.exp(-2e3 * X[:, 0]))]).astype(bool)
    return X, seen, rng.integers(1, 4, size=600).astype(float)


def test_it_is_a_logistic_regression_on_standardised_features(log: Any) -> None:
    X, seen, weight = log
    chance = asked_probability(X, seen, weight=weight)
    table = StandardScaler().fit_transform(X, sample_weight=weight)
    peer = LogisticRegression(tol=1e-8, max_iter=2000).fit(table, seen[:, 1], sample_weight=weight)
    assert (chance[:, 0] == 1.0).all()
    np.testing.assert_allclose(chance[:, 1], np.maximum(peer.predict_proba(table)[:, 1], LEAST_CHANCE), atol=1e-7)
    assert chance[:, 1].min() == LEAST_CHANCE  # some are below it
    np.testing.assert_allclose(asked_probability(pd.DataFrame(X), seen, weight=weight), chance, atol=1e-12)
    np.testing.assert_allclose(asked_probability(X * [1e6, 1.0, 1e-6], seen, weight=weight), chance, atol=1e-6)


def test_a_weight_of_k_is_worth_k_rows(log: Any) -> None:
    X, seen, weight = log
    rows = np.repeat(np.arange(600), weight.astype(int))
    repeated = asked_probability(X[rows], seen[rows], weight=np.ones(len(rows)))
    np.testing.assert_allclose(asked_probability(X, seen, weight=weight)[rows], repeated, atol=1e-6)


def test_sparse_queries_gaps_in_queries_and_queries_that_are_no_numbers(log: Any) -> None:
    X, seen, _ = log
    ones = np.ones(600)
    thin = np.where(np.abs(X) > 0.5e-3, X, 0.0)[:, :2]
    np.testing.assert_allclose(
        asked_probability(csr_array(thin), seen, weight=ones), asked_probability(thin, seen, weight=ones), atol=0.02
    )
    holes = X.copy()
    holes[:5, 1] = np.nan
    assert np.isfinite(asked_probability(holes, seen, weight=ones)).all()
    for queries in ([f"text {row}" for row in range(600)], pd.DataFrame({"a": X[:, 0], "b": "text"})):
        np.testing.assert_allclose(asked_probability(queries, seen, weight=ones)[:, 1], seen[:, 1].mean())


def test_weights_of_every_arm_sum_to_those_of_all_queries(log: Any) -> None:
    X, seen, weight = log
    quality = np.where(seen, 1.0, np.nan)
    for given in ({}, {"propensity": np.where(seen[:, 1], 0.25, 0.01)}):
        table = population_weights(X, read_outcomes(quality, n=600, sample_weight=weight, **given))
        np.testing.assert_allclose(table.sum(axis=0), weight.sum())
        assert (table[~seen] == 0.0).all()
    by_chance = population_weights(X, read_outcomes(quality, n=600, sample_weight=weight))
    ratio = by_chance[seen[:, 1], 1] * asked_probability(X, seen, weight=weight)[seen[:, 1], 1] / weight[seen[:, 1]]
    np.testing.assert_allclose(ratio, ratio[0])


@pytest.fixture(scope="module")
def asked_by_kind() -> Any:
    """Queries of two kinds; own is right at .6, and the expert, asked at .9 and at .1, at .7 whatever the kind."""
    rng = np.random.default_rng(0)
    kind = rng.integers(2, size=40_000)
    y = (rng.random(40_000) < 0.6).astype(int)
    answers = np.where(rng.random(40_000) < 0.7, y, 1 - y)
    asked = rng.random(40_000) < np.array([0.9, 0.1])[kind]
    return np.eye(2)[kind], y, np.where(asked, answers, np.nan)


COUPLED = {
    "softmax": MultiExpertDeferral("softmax", **EXACT),
    "softmax, trees": MultiExpertDeferral("softmax", LogisticRegression(C=1e6)),
    "two stages": TwoStageDeferral(LogisticRegression().fit(np.eye(2), [0, 1]), **EXACT),
    "two stages, sums": TwoStageDeferral(
        LogisticRegression().fit(np.eye(2), [0, 1]), comp_sum="sum_exponential", **EXACT
    ),
    "two stages, constrained": TwoStageDeferral(
        LogisticRegression().fit(np.eye(2), [0, 1]), comp_sum="constrained", **EXACT
    ),
    "partial": PostHocDeferral("partial", features="queries", random_state=0, **EXACT),
}


@pytest.mark.parametrize("name", COUPLED)
def test_who_is_asked_by_the_query_does_not_change_what_an_expert_is_worth(name: str, asked_by_kind: Any) -> None:
    X, y, answers = asked_by_kind
    router = COUPLED[name].fit(X, y, experts=answers)
    assert router.weighting_ == "missing at random"
    # 2,000 answers where it is seldom asked: five standard errors are .051.
    np.testing.assert_allclose(router.predict_quality(np.eye(2))[:, 1], 0.7, atol=0.051)


@pytest.mark.parametrize(
    "router", [SingleStageDeferral(**EXACT), TwoStageDeferral(**EXACT), PostHocDeferral("partial", **EXACT)]
)
def test_the_same_of_gaps_in_a_table_of_outcomes(router: Any) -> None:
    rng = np.random.default_rng(1)
    kind = rng.integers(2, size=40_000)
    quality = (rng.random((40_000, 3)) < [0.7, 0.6, 0.5]).astype(float)
    arm = np.where(
        rng.random(40_000) < 0.1, rng.integers(3, size=40_000), kind
    )  # logged by kind, and now and then at random
    seen = np.where(np.arange(3) == arm[:, None], quality, np.nan)
    with pytest.warns(UserWarning, match="y is a bandit log"):
        router.fit(np.eye(2)[kind], seen)
    # A thirtieth of 20,000 where an arm is seldom logged, so that five standard errors are .098.
    np.testing.assert_allclose(router.predict_quality(np.eye(2)), np.tile([0.7, 0.6, 0.5], (2, 1)), atol=0.098)


@pytest.mark.parametrize("surrogate", ["ova", "softmax"])
def test_a_network_is_stopped_by_the_deferral_loss_on_all_queries(surrogate: str, monkeypatch: Any) -> None:
    rng = np.random.default_rng(2)
    kind, y = rng.integers(2, size=6000), rng.integers(2, size=6000)
    answers = np.where(rng.random(6000) < np.array([0.9, 0.6])[kind], y, 1 - y)
    asked = rng.random(6000) < np.array([0.1, 0.9])[kind]
    problems = []
    monkeypatch.setattr(ScoreLearner, "fit", lambda self, X, problem, **options: problems.append(problem))
    router = MultiExpertDeferral(surrogate, "mlp").fit(np.eye(2)[kind], y, experts=np.where(asked, answers, np.nan))
    assert router.model_ is None
    always = np.tile([0.0, 0.0, 1.0], (6000, 1))
    # What was seen averages .37; half of the truth rests on 300 answers, and six standard errors are .055.
    assert problems[0].deferral_loss(always) == pytest.approx(0.25, abs=0.055)


def test_one_quality_for_all_queries_is_that_of_all_queries() -> None:
    rng = np.random.default_rng(3)
    kind, y = rng.integers(2, size=20_000), rng.integers(2, size=20_000)
    answers = np.where(rng.random(20_000) < np.array([0.9, 0.5])[kind], y, 1 - y)
    asked = rng.random(20_000) < np.array([0.9, 0.1])[kind]
    right = np.where(asked, answers == y, np.nan)
    by_answers = ConfidenceDeferral().fit(np.eye(2)[kind], y, experts=np.where(asked, answers, np.nan))
    by_table = ConfidenceDeferral().fit(np.eye(2)[kind], np.column_stack([np.tile([0.0, 1.0], 10_000), right]))
    assert np.nanmean(right) > 0.83
    # Half of it is the mean of 1,000 answers: five standard errors are .04.
    for router in (by_answers, by_table):
        assert router.mean_quality_[1] == pytest.approx(0.7, abs=0.045)


@pytest.fixture(scope="module")
def seldom() -> Any:
    """3,000 queries, and an expert who was asked on 60 of them."""
    rng = np.random.default_rng(4)
    X, y = rng.normal(size=(3000, 4)), rng.integers(2, size=3000)
    right = rng.random(3000) < 1 / (1 + np.exp(-2.0 * X[:, 0]))
    asked = np.zeros(3000, dtype=bool)
    asked[rng.choice(3000, 60, replace=False)] = True
    return X, y, np.where(asked, np.where(right, y, 1 - y), np.nan), right[asked], asked


@pytest.mark.parametrize("given", [{}, {"propensity": np.full(3000, 0.02)}], ids=["at random", "known share"])
def test_the_penalty_of_an_expert_who_is_seldom_asked_is_that_of_its_answers(seldom: Any, given: Any) -> None:
    X, y, answers, right, asked = seldom
    peer = LogisticRegression(C=0.1, tol=1e-10).fit(X[asked], right)
    alone = MultiExpertDeferral("ova", C=0.1, tol=1e-9).fit(X, y, experts=answers, **given)
    np.testing.assert_allclose(alone.scores(X)[:, 2], peer.decision_function(X), atol=1e-4)
    classifiers = MultiExpertDeferral("ova", LogisticRegression(C=0.1, tol=1e-10)).fit(X, y, experts=answers, **given)
    np.testing.assert_allclose(classifiers.predict_quality(X)[:, 1], peer.predict_proba(X)[:, 1], atol=1e-6)
    plug_in = PostHocDeferral(C=0.1, features="queries", random_state=0).fit(X, y, experts=answers, **given)
    np.testing.assert_allclose(plug_in.predict_quality(X)[:, 1], peer.predict_proba(X)[:, 1], atol=1e-6)
    ridge = PostHocDeferral("regression", C=0.1, features="queries", random_state=0).fit(X, y, experts=answers, **given)
    np.testing.assert_allclose(
        ridge.predict_quality(X)[:, 1], Ridge(alpha=10.0).fit(X[asked], right).predict(X), atol=1e-6
    )


def test_the_solver_stops_as_close_for_an_expert_who_is_seldom_asked() -> None:
    rng = np.random.default_rng(5)
    X, y = rng.normal(size=(20_000, 3)), rng.integers(2, size=20_000)
    right = rng.random(20_000) < 0.9
    answers = np.where(right, y, 1 - y).astype(float)
    answers[20:] = np.nan
    peer = LogisticRegression(tol=1e-10).fit(X[:20], right[:20])
    # Its twenty answers are a thousandth of the objective, so that at `tol` itself next to nothing would be learned.
    fitted = MultiExpertDeferral("ova").fit(X, y, experts=answers)
    np.testing.assert_allclose(fitted.scores(X[:100])[:, 2], peer.decision_function(X[:100]), atol=0.02)


@pytest.mark.parametrize("name", COUPLED)
def test_propensities_count_up_to_a_factor(name: str, asked_by_kind: Any) -> None:
    X, y, answers = (part[:4000] for part in asked_by_kind)
    chance = np.where(X[:, 0] > 0, 0.9, 0.1)
    one, other = (
        COUPLED[name].fit(X, y, experts=answers, propensity=factor * chance).predict_quality(np.eye(2))
        for factor in (1.0, 0.3)
    )
    np.testing.assert_allclose(one, other, atol=2e-3)
