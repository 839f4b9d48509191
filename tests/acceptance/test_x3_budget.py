"""Deferral under a budget: the worked example, duality, rates and invariances of the batch solver.

The example has four kinds of queries of mass .4, .3, .2 and .1, three arms of cost 0, 1 and 4, and is held as ten
queries.  Its values come from a linear program; they are checked against one here.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from defer import Budget, Share
from defer.exceptions import InfeasibleLimitError
from defer.portfolios.assignment import Choice, choose, choose_at_price, hull_increments

QUALITY = np.repeat([[0.5, 0.6, 0.9], [0.7, 0.75, 0.8], [0.2, 0.7, 0.75], [0.9, 0.85, 0.95]], [4, 3, 2, 1], axis=0)
COST = np.tile([0.0, 1.0, 4.0], (10, 1))
ARMS = ["cheap", "middle", "dear"]


def solve(budget: float, quality=QUALITY, cost=COST) -> Choice:
    return choose(quality, quality, cost, Budget(budget), arms=ARMS)


def optimum(budget: float, quality=QUALITY, cost=COST) -> float:
    n, m = quality.shape
    solution = linprog(
        -quality.ravel() / n,
        A_ub=cost.reshape(1, -1) / n,
        b_ub=[budget],
        A_eq=np.kron(np.eye(n), np.ones((1, m))),
        b_eq=np.ones(n),
        bounds=(0, 1),
        method="highs-ds",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    assert solution.status == 0, solution.message
    return -solution.fun


@pytest.mark.parametrize(
    ("budget", "value", "slope"),
    [(0, 0.54, 0.5), (0.3, 0.65, 0.1), (0.5, 0.67, 0.1), (1, 0.72, 0.1), (2, 0.81, 0.05), (4, 0.845, 0.0)],
)
def test_values_and_slopes_of_the_example(budget, value, slope):
    choice = solve(budget)
    assert choice.mean(QUALITY) == pytest.approx(value, abs=1e-12)
    assert choice.mean(QUALITY) == pytest.approx(optimum(budget), rel=1e-9)
    assert choice.price == pytest.approx(slope, abs=1e-12)
    assert choice.mean(COST) <= budget


@pytest.mark.parametrize(
    ("budget", "slope"), [(0.1, 0.5), (0.25, 0.1), (1.0, 0.1), (1.79, 0.1), (1.81, 0.05), (2.0, 0.05)]
)
def test_slope_is_that_of_the_value_curve(budget, slope):
    step = 1e-3
    rise = (solve(budget + step).mean(QUALITY) - solve(budget - step).mean(QUALITY)) / (2 * step)
    assert rise == pytest.approx(slope, abs=1e-9)
    assert solve(budget).price == pytest.approx(slope, abs=1e-12)


def test_the_first_money_buys_the_middle_arm_for_the_third_kind():
    choice = solve(0.2)
    assert choice.mean(QUALITY) == pytest.approx(0.64, abs=1e-12)
    assert choice.low.tolist() == [0] * 7 + [1] * 2 + [0]
    assert choice.fraction == 0.0


def test_one_arm_for_all_within_the_budget_is_worse():
    affordable = QUALITY[:, 1].mean()
    assert affordable == pytest.approx(0.4 * 0.6 + 0.3 * 0.75 + 0.2 * 0.7 + 0.1 * 0.85, abs=1e-12)
    per_kind = 0.4 * 0.6 + 0.3 * 0.75 + 0.2 * 0.7 + 0.1 * 0.9  # the best arm of cost at most 1, kind by kind
    assert per_kind == pytest.approx(0.695, abs=1e-12)
    assert solve(1).mean(QUALITY) == pytest.approx(0.72, abs=1e-12)


def test_value_curve_is_concave_non_decreasing_piecewise_linear_and_the_greedy_one():
    budgets = np.linspace(0, 4.5, 181)
    value = np.array([solve(budget).mean(QUALITY) for budget in budgets])
    assert (np.diff(value) >= -1e-12).all()
    assert (np.diff(value, 2) <= 1e-12).all()
    steps = hull_increments(QUALITY, COST)
    spend = np.concatenate(([0.0], np.cumsum(steps.cost))) / 10
    reached = QUALITY[np.arange(10), steps.start].mean() + np.concatenate(([0.0], np.cumsum(steps.utility))) / 10
    assert value == pytest.approx(np.interp(budgets, spend, reached), abs=1e-12)


def test_a_budget_below_the_cheapest_arms_is_infeasible_and_an_endless_one_is_slack():
    with pytest.raises(
        InfeasibleLimitError, match="taking the cheapest arm of every query costs 1 per query"
    ) as caught:
        solve(0.5, cost=COST + 1)
    assert caught.value.nearest == 1.0
    choice = solve(1e300)
    assert (choice.price, choice.fraction) == (0.0, 0.0)
    assert choice.low.tolist() == QUALITY.argmax(axis=1).tolist()


def test_at_equal_costs_the_price_does_not_matter_and_dominated_arms_are_never_used():
    equal = np.ones_like(COST)
    assert solve(1, cost=equal).low.tolist() == QUALITY.argmax(axis=1).tolist()
    assert solve(1, cost=equal).price == 0.0
    dominated = QUALITY.copy()
    dominated[:, 1] = QUALITY[:, 0] - 0.01
    for budget in np.linspace(0, 4, 17):
        assert solve(budget, quality=dominated).policy(3)[:, 1].max() == 0.0


problem = st.tuples(st.integers(1, 8), st.integers(2, 4), st.booleans(), st.integers(0, 2**32 - 1), st.floats(0, 1))


def drawn(instance):
    n, m, coarse, seed, position = instance
    rng = np.random.default_rng(seed)
    if coarse:
        quality, cost = rng.integers(0, 6, size=(n, m)) / 5, rng.integers(0, 5, size=(n, m)) * 0.1
    else:
        quality, cost = rng.random((n, m)), rng.exponential(size=(n, m))
    start = cost.argmin(axis=1)
    least = Choice(start, start).mean(cost)
    return quality, cost, least + position * float(cost.max(axis=1).mean() - least) + 1e-6


@given(problem)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_duality_complementary_slackness_and_one_randomised_slope(instance):
    quality, cost, budget = drawn(instance)
    n = len(quality)
    choice = choose(quality, quality, cost, Budget(budget), arms=range(quality.shape[1]))
    value = choice.mean(quality)
    assert value == pytest.approx(optimum(budget, quality, cost), rel=1e-9, abs=1e-9)
    dual = choice.price * budget + math.fsum((quality - choice.price * cost).max(axis=1)) / n
    assert dual - value == pytest.approx(0.0, abs=1e-9)
    assert choice.price * (budget - choice.mean(cost)) == pytest.approx(0.0, abs=1e-9)
    # The spend, with no rounding at all.
    rows, fraction = np.arange(n), Fraction(choice.fraction)
    low, high = (sum(map(Fraction, cost[rows, arm].tolist()), Fraction(0)) for arm in (choice.low, choice.high))
    assert float(((1 - fraction) * low + fraction * high) / n) <= budget
    mixed = np.flatnonzero(choice.low != choice.high)
    if len(mixed):
        assert 0.0 < choice.fraction < 1.0
        slope = (quality[mixed, choice.high[mixed]] - quality[mixed, choice.low[mixed]]) / (
            cost[mixed, choice.high[mixed]] - cost[mixed, choice.low[mixed]]
        )
        assert slope == pytest.approx(np.full(len(mixed), choice.price), rel=1e-9)


@given(problem)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_only_one_query_is_randomised_where_no_two_slopes_are_equal(instance):
    n, m, _, seed, position = instance
    quality, cost, budget = drawn((n, m, False, seed, position))
    choice = choose(quality, quality, cost, Budget(budget), arms=range(m))
    assert (choice.low != choice.high).sum() <= 1


def test_rate_rule_of_the_example_randomises_the_tie():
    advantage = np.array([0.3, 0.3, 0.1, -0.2])
    utility, free = np.column_stack([np.zeros(4), advantage]), np.zeros((4, 2))
    choice = choose(utility, utility, free, Share("expert", at_most=0.25), arms=["own", "expert"])
    assert choice.price == 0.3
    assert choice.policy(2)[:, 1].tolist() == [0.5, 0.5, 0.0, 0.0]
    deferred = [(choice.draw(np.random.default_rng(seed))[0] == 1).sum() for seed in range(50)]
    assert set(deferred) == {1}


@given(
    advantage=st.lists(st.sampled_from([-0.5, -0.1, 0.0, 0.1, 0.3, 0.3, 0.7]), min_size=1, max_size=12),
    rate=st.floats(0, 1),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_deferral_rate_is_the_smaller_of_the_limit_and_the_share_that_gains(advantage, rate):
    utility = np.column_stack([np.zeros(len(advantage)), advantage])
    choice = choose(utility, utility, np.zeros_like(utility), Share(1, at_most=rate), arms=[0, 1])
    share = choice.policy(2)[:, 1].mean()
    assert share == pytest.approx(min(rate, np.mean(np.array(advantage) > 0)), abs=1e-12)
    taken = choice.policy(2)[:, 1]
    threshold = choice.price if choice.price > 0 else 0.0
    assert (taken[np.array(advantage) > threshold + 1e-12] == 1.0).all()
    assert (taken[np.array(advantage) < threshold - 1e-12] == 0.0).all()


@given(problem, st.floats(0.05, 20))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_constant_per_query_changes_nothing_and_the_unit_of_cost_only_the_price(instance, scale):
    n, m, _, seed, position = instance
    quality, cost, budget = drawn((n, m, False, seed, position))
    plain = choose(quality, quality, cost, Budget(budget), arms=range(m))
    shift = np.random.default_rng(seed).normal(size=(n, 1))
    shifted = choose(quality + shift, quality + shift, cost, Budget(budget), arms=range(m))
    scaled = choose(quality, quality, cost * scale, Budget(budget * scale), arms=range(m))
    assert shifted.policy(m) == pytest.approx(plain.policy(m), abs=1e-6)
    assert scaled.policy(m) == pytest.approx(plain.policy(m), abs=1e-6)
    assert shifted.price == pytest.approx(plain.price, rel=1e-9)
    assert scaled.price * scale == pytest.approx(plain.price, rel=1e-9)


def test_ends_of_the_price_select_the_cheapest_and_the_best():
    assert choose_at_price(QUALITY, COST, price=1e6, fraction=0.0).low.tolist() == COST.argmin(axis=1).tolist()
    assert choose_at_price(QUALITY, COST, price=0.0, fraction=0.0).low.tolist() == QUALITY.argmax(axis=1).tolist()


@pytest.mark.parametrize("budget", [0.1, 0.3, 1.0, 1.79, 2.5])
def test_streaming_at_the_price_of_a_budget_spends_it(budget):
    choice = solve(budget)
    streamed = choose_at_price(QUALITY, COST, price=choice.price, fraction=choice.fraction)
    assert streamed.mean(COST) == pytest.approx(budget, abs=1e-12)
    assert streamed.mean(QUALITY) == pytest.approx(choice.mean(QUALITY), abs=1e-12)
