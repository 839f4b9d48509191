"""Cost weights after `fit`: which fits serve every one, which hold for one alone, and which know no price at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
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
