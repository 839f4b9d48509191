"""Cost weights after `fit`: which fits serve every one, which hold for one alone, and which know no price at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from defer import Budget, QualityTarget, Share
from defer.estimators import (
    ConfidenceDeferral,
    LearnedTriage,
    MultiExpertDeferral,
    PostHocDeferral,
    SingleStageDeferral,
    TwoStageDeferral,
)
from defer.exceptions import RouterInputError


@pytest.fixture(scope="module")
def problem() -> Any:
    """Queries, labels, a fair expert, and what asking costs."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2))
    y = (X[:, 0] + rng.normal(size=200) > 0).astype(int)
    return X, y, np.where(rng.random(200) < 0.8, y, 1 - y), np.full(200, 0.1)[:, None]


def two_stage(problem: Any, **options: Any) -> TwoStageDeferral:
    X, y, _, _ = problem
    return TwoStageDeferral(FrozenEstimator(LogisticRegression().fit(X, y)), rescale=True, **options)


FIXED = {
    "two stages": two_stage,
    "training": lambda _, **o: SingleStageDeferral(costs="training", rescale=True, **o),
    "training, several": lambda _, **o: MultiExpertDeferral(costs="training", rescale=True, **o),
    "partial": lambda _, **o: PostHocDeferral("partial", **o),
    "triage": lambda _, **o: LearnedTriage(n_rounds=1, **o),
}
FREE = {
    "softmax": SingleStageDeferral(),
    "ova": SingleStageDeferral("ova"),
    "asymmetric": SingleStageDeferral("asymmetric_softmax"),
    "several": MultiExpertDeferral("softmax"),
    "plug-in": PostHocDeferral(),
    "regression": PostHocDeferral("regression"),
    "confidence": ConfidenceDeferral(),
}


@pytest.mark.parametrize("name", FIXED)
def test_a_fit_that_holds_for_one_cost_weight_decides_at_no_other(name: str, problem: Any) -> None:
    X, y, expert, cost = problem
    router = FIXED[name](problem, cost_weight=0.5).fit(X, y, experts=expert, cost=cost)
    assert router.fixed_cost_weight_ == 0.5
    before = router.predict(X)
    router.set_params(cost_weight=2.0)
    limit = Share("own", at_least=0.9)
    decisions = (
        lambda: router.predict(X), lambda: router.predict_utility(X), lambda: router.route(X),
        lambda: router.route(X, limit=limit, random_state=0), lambda: router.score(X, y, experts=expert, cost=cost),
    )  # fmt: skip
    for decide in decisions:
        with pytest.raises(
            RouterInputError,
            match=rf"{type(router).__name__}: cost_weight was 0\.5 in fit and is 2; what was learned holds at the first alone, and "
            "another cost_weight needs another fit",
        ):
            decide()
    assert router.predict_quality(X).shape == (200, 2)  # which is no decision
    np.testing.assert_array_equal(router.set_params(cost_weight=0.5).predict(X), before)


@pytest.mark.parametrize("name", FIXED)
def test_without_costs_a_cost_weight_has_no_meaning(name: str, problem: Any) -> None:
    X, y, expert, _ = problem
    router = FIXED[name](problem).fit(X, y, experts=expert)
    assert router.fixed_cost_weight_ is None
    before = router.predict(X)
    np.testing.assert_array_equal(router.set_params(cost_weight=2.0).predict(X), before)


@pytest.mark.parametrize("surrogate", ["realizable", "rl2d", "cost_sensitive", "softmax_alpha"])
def test_a_surrogate_without_read_out_is_not_priced_after_fit_either(surrogate: str, problem: Any) -> None:
    X, y, expert, cost = problem
    router = SingleStageDeferral(surrogate).fit(X, y, experts=expert, cost=cost)
    with pytest.raises(
        RouterInputError, match="cost_weight was 0 in fit and is 5; what was learned holds at the first"
    ):
        router.set_params(cost_weight=5.0).predict(X)


@pytest.mark.parametrize("name", FREE)
def test_a_fit_that_serves_every_cost_weight_refuses_one_that_is_none(name: str, problem: Any) -> None:
    X, y, expert, cost = problem
    router = FREE[name].fit(X, y, experts=expert, cost=cost)
    assert router.fixed_cost_weight_ is None
    assert router.set_params(cost_weight=50.0).predict(X).tolist() == ["own"] * 200
    for wrong in (-5, "1", np.nan):
        router.set_params(cost_weight=wrong)
        with pytest.raises(RouterInputError, match="cost_weight must be a finite number >= 0, got"):
            router.predict(X)
    router.set_params(cost_weight=0.0)


@pytest.mark.parametrize("surrogate", ["realizable", "rl2d"])
def test_an_order_of_queries_knows_no_budget_and_no_quality(surrogate: str, problem: Any) -> None:
    X, y, expert, cost = problem
    router = SingleStageDeferral(surrogate).fit(X, y, experts=expert, cost=cost)
    for limit in (Budget(mean_cost=0.05), QualityTarget(0.7)):
        with pytest.raises(
            RouterInputError,
            match=rf"a {type(limit).__name__} weighs quality against cost, and surrogate='{surrogate}' gives an order of queries and no "
            "quality; use a Share, or a surrogate with a read-out: 'softmax', 'ova', 'asymmetric_softmax'",
        ):
            router.route(X, limit=limit, random_state=0)
    few = router.route(X, limit=Share("expert", at_most=0.1), random_state=0)
    assert few.load[1] == pytest.approx(min(0.1, router.defer_mask(X).mean()))


@pytest.mark.parametrize("surrogate", ["softmax", "ova", "cost_sensitive"])
def test_costs_of_a_table_can_be_part_of_training(surrogate: str) -> None:
    quality, cost = np.array([[0.9, 0.5, 0.2], [0.3, 0.4, 0.8]]), np.array([[0.1, 0.2, 0.0], [0.1, 0.2, 2.0]])
    options: dict[str, Any] = {"C": 1e9, "tol": 1e-9, "max_iter": 5000}
    fitted = SingleStageDeferral(surrogate, costs="training", cost_weight=0.5, rescale=True, **options)
    fitted.fit(np.eye(2), quality, cost=cost)
    # Costs are given back at their mean: what is learned is quality less the price of this query.
    utility = fitted.predict_utility(np.eye(2))
    np.testing.assert_allclose(utility, quality - 0.5 * cost, atol=1e-4)
    assert fitted.predict(np.eye(2)).tolist() == [0, 1]


DEAR = np.array([0.0, 0.4, 0.1, 0.3])  # price of asking, by kind of query
OWN, ASKED = np.array([0.9, 0.6, 0.75, 0.55]), np.array([0.8, 0.7, 0.6, 0.9])  # P(right), by kind


def kinds() -> dict[str, Any]:
    """Every outcome of four kinds of queries with its probability as a weight; label 0 is the more likely one."""
    cells = [(kind, label, right) for kind in range(4) for label in (0, 1) for right in (0, 1)]
    kind, label, right = np.array(cells).T
    chance = np.where(label, 1 - OWN[kind], OWN[kind]) * np.where(right, ASKED[kind], 1 - ASKED[kind])
    return {
        "X": np.eye(4)[kind], "y": label, "experts": np.where(right, label, 1 - label),
        "cost": np.column_stack([np.zeros(16), DEAR[kind]]), "sample_weight": 1e4 * chance,
    }  # fmt: skip


EXACT: dict[str, Any] = {"C": 1e9, "tol": 1e-9, "max_iter": 5000, "cost_weight": 1.0}
BASE = FrozenEstimator(LogisticRegression(C=1e9, tol=1e-10, max_iter=5000).fit(
    kinds()["X"], kinds()["y"], sample_weight=kinds()["sample_weight"]
))  # fmt: skip
BY_KIND = {
    "ova": SingleStageDeferral("ova", costs="training", rescale=True, **EXACT),
    "softmax": SingleStageDeferral("softmax", costs="training", rescale=True, **EXACT),
    "cost-sensitive": SingleStageDeferral("cost_sensitive", costs="training", **EXACT),
    "several": MultiExpertDeferral("softmax", costs="training", rescale=True, **EXACT),
    "two stages": TwoStageDeferral(BASE, rescale=True, **EXACT),
    "cost of others": TwoStageDeferral(BASE, rescale=True, weighting="cost_of_others", **EXACT),
    "partial": PostHocDeferral("partial", BASE, features="queries", **EXACT),
    "at decision": SingleStageDeferral("softmax", **EXACT),
    "regression": PostHocDeferral("regression", BASE, features="queries", C=1e9, cost_weight=1.0),
}


@pytest.mark.parametrize("name", BY_KIND)
def test_costs_that_differ_by_query_are_told_from_quality(name: str) -> None:
    router = clone(BY_KIND[name]).fit(**kinds())
    np.testing.assert_allclose(router.predict_quality(np.eye(4)), np.column_stack([OWN, ASKED]), atol=1e-3)
    np.testing.assert_allclose(router.predict_cost(np.eye(4)), np.column_stack([np.zeros(4), DEAR]), atol=1e-6)
    assert router.defer_mask(np.eye(4)).tolist() == (ASKED - DEAR > OWN).tolist()
    assert router.predict_cost(np.array([[0.0, 9.0, 0.0, 0.0]])).max() <= 0.4  # no dearer than anything that was seen


@pytest.mark.parametrize("name", BY_KIND)
def test_one_cost_of_an_arm_is_its_mean(name: str) -> None:
    data = kinds()
    data["cost"] = np.tile([0.0, 0.1 + 0.2], (16, 1))
    data["cost"][0, 1] = 0.3  # but for the last bit
    router = clone(BY_KIND[name]).fit(**data)
    assert router.cost_model_ is None
    np.testing.assert_allclose(router.predict_quality(np.eye(4)), np.column_stack([OWN, ASKED]), atol=1e-3)


def test_a_cost_of_a_row_without_weight_is_none() -> None:
    data = kinds()
    data["cost"][0, 1] = 50.0
    data["sample_weight"][0] = 0.0
    told, left = (
        clone(BY_KIND["softmax"]).fit(**{name: values[rows] for name, values in data.items()})
        for rows in (slice(None), slice(1, None))
    )
    assert told.scale_ == left.scale_
    np.testing.assert_allclose(told.predict_cost(np.eye(4)), left.predict_cost(np.eye(4)), atol=1e-9)


ALONE = {
    "two stages": TwoStageDeferral(BASE, rescale=True, cost_weight=1.0),
    "single stage": SingleStageDeferral("softmax", costs="training", rescale=True, cost_weight=1.0),
    "cost-sensitive": SingleStageDeferral("cost_sensitive", costs="training", cost_weight=1.0),
    "partial": PostHocDeferral("partial", BASE, features="queries", cost_weight=1.0),
    "strict": SingleStageDeferral("softmax"),
    "strict two stages": TwoStageDeferral(),
}


@pytest.mark.parametrize("name", ALONE)
def test_rows_without_weight_decide_no_scale(name: str) -> None:
    rng = np.random.default_rng(0)
    X, quality, cost = rng.normal(size=(60, 2)), rng.random((60, 2)), rng.random((60, 2))
    weight = np.ones(60)
    quality[:5], cost[:5], weight[:5] = [9.0, -9.0] if "strict" in name else [0.2, 0.9], 30.0, 0.0
    router = clone(ALONE[name])
    data: dict[str, Any] = {} if "strict" in name else {"cost": cost}
    whole = clone(router).fit(X, quality, sample_weight=weight, **data)
    left = clone(router).fit(X[5:], quality[5:], **{key: table[5:] for key, table in data.items()})
    np.testing.assert_allclose(whole.predict_quality(X), left.predict_quality(X), atol=1e-3)
    np.testing.assert_array_equal(whole.predict(X), left.predict(X))


@pytest.mark.parametrize("limit", [Budget(0.1), QualityTarget(0.6)])
@pytest.mark.parametrize(
    ("router", "message"),
    [
        (TwoStageDeferral(BASE, comp_sum="mean_absolute_error"), "comp_sum='mean_absolute_error' gives an order"),
        (
            TwoStageDeferral(BASE, comp_sum="generalized_cross_entropy", q=1.0),
            "comp_sum='generalized_cross_entropy' with q=1 gives an order",
        ),
        (PostHocDeferral("partial", BASE, margin="hinge"), "margin='hinge' gives an order"),
        (PostHocDeferral("partial", BASE, margin="sigmoid"), "margin='sigmoid' gives an order"),
    ],
)
def test_scores_that_are_an_order_serve_no_limit_on_quality(router: Any, message: str, limit: Any) -> None:
    fitted = clone(router).fit(**kinds())
    with pytest.raises(
        RouterInputError,
        match=rf"a {type(limit).__name__} weighs quality against cost, and {message}.*; use a Share, or another",
    ):
        fitted.route(np.eye(4), limit=limit)
    assert fitted.route(np.eye(4), limit=Share("own", at_least=0.9), random_state=0).load[0] >= 0.9 - 1e-9


@pytest.mark.parametrize("comp_sum", ["cross_entropy", "generalized_cross_entropy", "sum_exponential"])
def test_scores_that_tell_quality_serve_one(comp_sum: str) -> None:
    fitted = TwoStageDeferral(BASE, comp_sum=comp_sum).fit(**kinds())
    assert fitted.route(np.eye(4), limit=QualityTarget(0.5), random_state=0).load.sum() == pytest.approx(1.0)
