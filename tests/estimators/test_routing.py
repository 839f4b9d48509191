from __future__ import annotations

import numpy as np
import pytest

from defer.estimators import QualityRouter, RandomMixture, Routing
from defer.portfolios.assignment import Choice
from defer.portfolios.limits import Budget


def build(low: list[int], high: list[int], fraction: float) -> Routing:
    choice = Choice(np.array(low), np.array(high), fraction, 0.5)
    quality = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    cost = np.array([[1.0, 2.0, 4.0], [1.0, 3.0, 3.0]])
    arm, propensity = choice.draw(np.random.default_rng(0))
    return Routing(np.array(["a", "b", "c"]), arm, propensity, quality, cost, quality, choice, Budget(mean_cost=2.0))


def test_expectations_and_load_in_closed_form() -> None:
    routing = build([0, 1], [2, 1], 0.25)
    np.testing.assert_allclose(routing.policy, [[0.75, 0.0, 0.25], [0.0, 1.0, 0.0]])
    np.testing.assert_allclose(routing.load, [0.375, 0.5, 0.125])
    assert routing.expected_quality == pytest.approx((0.75 * 0.1 + 0.25 * 0.3 + 0.5) / 2)
    assert routing.expected_cost == pytest.approx((0.75 * 1 + 0.25 * 4 + 3) / 2)
    assert routing.price == 0.5
    assert len(routing) == 2
    assert routing.limit == Budget(mean_cost=2.0)


def test_what_was_drawn_is_described_with_its_probability() -> None:
    routing = build([0, 1], [2, 1], 0.25)
    rows = np.arange(2)
    assert routing.label.tolist() == routing.arms[routing.arm].tolist()
    np.testing.assert_array_equal(routing.propensity, routing.policy[rows, routing.arm])
    np.testing.assert_array_equal(routing.quality, routing.predicted_quality[rows, routing.arm])
    np.testing.assert_array_equal(routing.cost, routing.predicted_cost[rows, routing.arm])


def test_fallbacks_are_the_other_arms_by_utility_then_cost_then_index() -> None:
    choice = Choice(np.array([1, 1, 0]), np.array([1, 1, 0]))
    utility = np.array([[0.1, 0.9, 0.5, 0.3], [0.5, 0.9, 0.5, 0.5], [0.0, 1.0, 2.0, 0.5]])
    cost = np.array([[1.0, 1.0, 1.0, 1.0], [2.0, 1.0, 1.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    arm, propensity = choice.draw(np.random.default_rng(0))
    routing = Routing(np.arange(4), arm, propensity, utility, cost, utility, choice)
    assert routing.fallbacks.tolist() == [[2, 3, 0], [2, 0, 3], [2, 1, 3]]


def test_draws_follow_the_policy() -> None:
    router = RandomMixture().fit([[0]], [[0.5, 0.9]], cost=[[1.0, 2.0]])
    arms = [router.route([[0]], limit=Budget(mean_cost=1.3), random_state=seed).arm[0] for seed in range(600)]
    assert abs(np.mean(arms) - 0.3) < 4.5 * np.sqrt(0.3 * 0.7 / 600)


def test_global_state_is_used_only_without_a_seed() -> None:
    router = QualityRouter().fit([[0.0], [1.0]], [[0.5, 0.9], [0.5, 0.9]], cost=[[1.0, 2.0]] * 2)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    router.route([[0.0]] * 9, limit=Budget(mean_cost=1.5), random_state=1)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
