"""The batch solver: budgets, quality targets, shares and capacities against linear programs and brute force."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from defer import Budget, Capacity, QualityTarget, RiskLevel, Share
from defer.exceptions import InfeasibleLimitError, RouterInputError
from defer.portfolios.assignment import Choice, best_arm, choose, choose_at_price, hull_increments

ARMS = ["a", "b", "c", "d"]


def expected_spend(choice: Choice, cost: np.ndarray) -> Fraction:
    """Expected total without any rounding."""
    fraction = Fraction(choice.fraction)
    pairs = zip(cost[np.arange(len(cost)), choice.low], cost[np.arange(len(cost)), choice.high], strict=True)
    return sum(((1 - fraction) * Fraction(low) + fraction * Fraction(high) for low, high in pairs), Fraction(0))


def linear_program(objective, resource, bound, *, maximise=True):
    """Optimal mean objective over all policies whose mean resource is at most the bound, by HiGHS."""
    n, m = objective.shape
    sign = -1.0 if maximise else 1.0
    one_each = np.kron(np.eye(n), np.ones((1, m)))
    solution = linprog(
        sign * objective.ravel() / n,
        A_ub=resource.reshape(1, -1) / n,
        b_ub=[bound],
        A_eq=one_each,
        b_eq=np.ones(n),
        bounds=(0, 1),
        method="highs-ds",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    assert solution.status == 0, solution.message
    return sign * solution.fun


@st.composite
def tables(draw, *, ties=None):
    """Utility and cost of a few queries; on a coarse grid, so that ties and collinear arms are common, or continuous."""
    n, m = draw(st.integers(1, 7)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()) if ties is None else ties:
        return rng.integers(-2, 5, size=(n, m)) / 4, rng.integers(0, 5, size=(n, m)) * 0.1
    return rng.normal(size=(n, m)), rng.exponential(size=(n, m))


@given(table=tables(), position=st.floats(0, 1.2))
@settings(max_examples=120, deadline=None, derandomize=True)
def test_budget_reaches_the_optimum_of_the_linear_program(table, position):
    utility, cost = table
    least, most = cost.min(axis=1).mean(), cost.max(axis=1).mean()
    budget = float(np.nextafter(least, np.inf) + position * (most - least)) + 1e-12
    choice = choose(utility, utility, cost, Budget(budget), arms=ARMS[: utility.shape[1]])
    optimum = linear_program(utility, cost, budget)
    assert choice.mean(utility) == pytest.approx(optimum, rel=1e-9, abs=1e-9)
    # Strong duality at the price that is reported, and complementary slackness.
    dual = choice.price * budget + (utility - choice.price * cost).max(axis=1).mean()
    assert dual == pytest.approx(optimum, rel=1e-9, abs=1e-9)
    assert choice.price * (budget - choice.mean(cost)) == pytest.approx(0.0, abs=1e-9)


@given(table=tables(), position=st.floats(0, 1.2))
@settings(max_examples=120, deadline=None, derandomize=True)
def test_budget_is_never_exceeded_in_expectation(table, position):
    utility, cost = table
    least = Choice(cost.argmin(axis=1), cost.argmin(axis=1)).mean(cost)
    budget = max(least, least + position * float(cost.max(axis=1).mean() - least))
    choice = choose(utility, utility, cost, Budget(budget), arms=ARMS[: utility.shape[1]])
    assert choice.mean(cost) <= budget
    n = len(cost)
    assert float(expected_spend(choice, cost) / n) <= budget
    spend = math.fsum((choice.policy(utility.shape[1]) * cost).ravel())
    assert spend <= n * budget * (1 + 4 * np.finfo(float).eps)


@given(table=tables(ties=True), position=st.floats(0.01, 0.99))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_only_queries_of_one_slope_are_randomised(table, position):
    utility, cost = table
    least, most = cost.min(axis=1).mean(), cost.max(axis=1).mean()
    choice = choose(utility, utility, cost, Budget(float(least + position * (most - least)) + 1e-9), arms=ARMS)
    rows = np.flatnonzero(choice.low != choice.high)
    gain = utility[rows, choice.high[rows]] - utility[rows, choice.low[rows]]
    extra = cost[rows, choice.high[rows]] - cost[rows, choice.low[rows]]
    assert gain / extra == pytest.approx(np.full(len(rows), choice.price), rel=1e-9)
    assert (len(rows) > 0) == (0.0 < choice.fraction < 1.0)


def test_every_budget_up_to_the_dearest_gives_a_concave_non_decreasing_value():
    rng = np.random.default_rng(3)
    utility, cost = rng.normal(size=(40, 4)), rng.exponential(size=(40, 4))
    budgets = np.linspace(cost.min(axis=1).mean() + 1e-9, cost.max(axis=1).mean(), 60)
    choices = [choose(utility, utility, cost, Budget(b), arms=ARMS) for b in budgets]
    value = np.array([choice.mean(utility) for choice in choices])
    assert (np.diff(value) >= -1e-12).all()
    assert (np.diff(value, 2) <= 1e-12).all()
    price = np.array([choice.price for choice in choices])
    assert (np.diff(price) <= 0).all()
    assert price[-1] == 0.0
    # The price is the slope to the right, so the value lies below every tangent.
    assert (value[None, :] <= value[:, None] + price[:, None] * (budgets[None, :] - budgets[:, None]) + 1e-12).all()


def test_a_budget_beyond_need_is_left_over_and_costs_nothing():
    utility, cost = np.array([[0.5, 0.5, 0.4], [0.1, 0.9, 0.9]]), np.array([[2.0, 1.0, 5.0], [0.0, 3.0, 2.0]])
    choice = choose(utility, utility, cost, Budget(100.0), arms=ARMS[:3])
    assert choice.low.tolist() == [1, 2]
    assert choice.fraction == choice.price == 0.0


def test_what_rounding_leaves_over_is_not_given_to_a_lottery():
    # The float next to 0.6 lies above 3/5, and three costs of 0.1 sum to more than the float next to 0.3.
    utility, cost = np.array([[0.0, 2.0]] * 3 + [[0.0, 1.0]] * 2), np.tile([0.0, 1.0], (5, 1))
    choice = choose(utility, utility, cost, Budget(0.6), arms=ARMS[:2])
    assert (choice.fraction, choice.low.tolist()) == (0.0, [1, 1, 1, 0, 0])
    reached = choose(utility, cost, utility, QualityTarget(0.6), arms=ARMS[:2])
    assert reached.fraction == pytest.approx(1 / 3)
    assert reached.low.tolist() == [0, 0, 0, 1, 1]
    assert reached.mean(cost) >= 0.6


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_budget_below_the_cheapest_arms_names_the_least_that_is_feasible(scale):
    cost = np.array([[1.0, 2.0], [1.0 / 3.0, 2.0], [1.0, 2.0]]) * scale
    utility = np.zeros((3, 2))
    with pytest.raises(InfeasibleLimitError, match="is below the least possible mean cost") as caught:
        choose(utility, utility, cost, Budget(0.7 * scale), arms=ARMS[:2])
    assert caught.value.nearest == pytest.approx(7 / 9 * scale)
    assert "taking the cheapest arm of every query costs" in str(caught.value)
    # Both the attribute and the number in the text are feasible.
    told = float(str(caught.value).split("costs ")[1].split(" per")[0])
    for budget in (caught.value.nearest, told):
        assert choose(utility, utility, cost, Budget(budget), arms=ARMS[:2]).mean(cost) <= budget


@given(table=tables(), position=st.floats(0, 1))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_quality_target_is_reached_at_least_cost(table, position):
    quality, cost = table
    cheapest = np.lexsort((-quality, cost), axis=1)[:, 0]
    low = Choice(cheapest, cheapest).mean(quality)
    best = quality.argmax(axis=1)
    high = Choice(best, best).mean(quality)
    target = min(low + position * (high - low), high)
    choice = choose(np.zeros_like(quality), quality, cost, QualityTarget(target), arms=ARMS[: quality.shape[1]])
    assert choice.mean(quality) >= target
    assert choice.mean(cost) == pytest.approx(
        linear_program(cost, -quality, -target + 1e-11, maximise=False), rel=1e-8, abs=1e-8
    )


def test_quality_target_that_the_cheapest_arms_reach_spends_no_more():
    quality, cost = np.array([[0.5, 0.9], [0.6, 0.7]]), np.array([[1.0, 2.0], [1.0, 2.0]])
    choice = choose(quality, quality, cost, QualityTarget(0.55), arms=ARMS[:2])
    assert choice.low.tolist() == choice.high.tolist() == [0, 0]


def test_quality_target_out_of_reach_names_the_largest_that_is_feasible():
    quality, cost = np.array([[0.5, 0.9], [2 / 3, 0.6], [0.1, 0.1]]), np.ones((3, 2))
    with pytest.raises(
        InfeasibleLimitError, match=r"QualityTarget\(0.7\) is above the largest possible mean"
    ) as caught:
        choose(quality, quality, cost, QualityTarget(0.7), arms=ARMS[:2])
    assert caught.value.nearest == pytest.approx((0.9 + 2 / 3 + 0.1) / 3)
    told = float(str(caught.value).rsplit(" ", 1)[1])
    for target in (caught.value.nearest, told):
        assert choose(quality, quality, cost, QualityTarget(target), arms=ARMS[:2]).mean(quality) >= target


def share_program(utility, arm, at_most, at_least):
    taken = np.zeros_like(utility)
    taken[:, arm] = 1.0
    n, m = utility.shape
    solution = linprog(
        -utility.ravel() / n,
        A_ub=np.stack([taken.ravel(), -taken.ravel()]) / n,
        b_ub=[at_most, -at_least],
        A_eq=np.kron(np.eye(n), np.ones((1, m))),
        b_eq=np.ones(n),
        bounds=(0, 1),
    )
    assert solution.status == 0, solution.message
    return -solution.fun


@given(table=tables(), ends=st.lists(st.floats(0, 1), min_size=2, max_size=2), pick=st.integers(0, 3))
@settings(max_examples=120, deadline=None, derandomize=True)
def test_share_is_kept_at_the_least_loss(table, ends, pick):
    utility, cost = table
    m = utility.shape[1]
    arm, (low, high) = pick % m, sorted(ends)
    if m == 1:
        high = 1.0
    choice = choose(utility, utility, cost, Share(ARMS[arm], at_most=high, at_least=low), arms=ARMS[:m])
    taken = np.zeros_like(utility)
    taken[:, arm] = 1.0
    # Where the share is fixed from both sides, no float may lie between them.
    slack = 1e-15 if low == high else 0.0
    assert low - slack <= choice.mean(taken) <= high + slack
    assert choice.mean(utility) == pytest.approx(share_program(utility, arm, high, low), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize(
    ("at_most", "rate", "price", "fraction"),
    [(0.25, 0.25, 0.3, 0.5), (0.5, 0.5, 0.3, 0.0), (0.6, 0.6, 0.1, 0.4), (0.9, 0.75, 0.0, 0.0), (0.0, 0.0, 0.3, 0.0)],
)
def test_rate_rule_takes_the_largest_advantages_up_to_those_that_gain(at_most, rate, price, fraction):
    utility = np.column_stack([np.zeros(4), [0.3, 0.3, 0.1, -0.2]])
    choice = choose(utility, utility, np.zeros((4, 2)), Share("b", at_most=at_most), arms=["a", "b"])
    assert choice.policy(2)[:, 1].mean() == pytest.approx(rate, abs=1e-15)
    assert choice.price == pytest.approx(price)
    assert choice.fraction == pytest.approx(fraction)


def test_share_without_advantage_takes_nobody_and_a_forced_one_takes_the_least_harm():
    utility = np.column_stack([np.zeros(4), [-0.4, -0.1, -0.3, -0.2]])
    free = choose(utility, utility, np.zeros((4, 2)), Share("b", at_most=1.0), arms=["a", "b"])
    assert free.low.tolist() == [0, 0, 0, 0]
    forced = choose(utility, utility, np.zeros((4, 2)), Share("b", at_least=0.5), arms=["a", "b"])
    assert forced.low.tolist() == [0, 1, 0, 1]
    assert forced.price == pytest.approx(-0.2)


@pytest.mark.parametrize(("share", "n"), [(0.07, 100), (0.29, 100), (0.1, 30), (1 / 3, 9)])
def test_a_share_that_is_a_whole_number_of_queries_randomises_nobody(share, n):
    utility = np.column_stack([np.zeros(n), np.linspace(1, 2, n)])
    choice = choose(utility, utility, np.zeros((n, 2)), Share("b", at_most=share), arms=["a", "b"])
    assert choice.fraction == 0.0
    assert (choice.low == 1).sum() == round(share * n)


def test_among_equal_gains_the_share_goes_to_the_queries_for_which_the_arm_is_cheaper():
    utility, cost = np.zeros((4, 2)), np.array([[2.0, 1.0], [1.0, 2.0], [2.0, 1.0], [1.0, 2.0]])
    for limit, expected in [
        (Share("b", at_most=0.5), [0, 1, 0, 1]),
        (Share("b", at_most=0.25), [0, 0.5, 0, 0.5]),
        (Share("b", at_least=0.75), [1, 0.5, 1, 0.5]),
    ]:
        probability = choose(utility, utility, cost, limit, arms=["a", "b"]).policy(2)[:, 1]
        wanted = {0.5: [1, 0, 1, 0], 0.25: [0.5, 0, 0.5, 0]}.get(limit.at_most, expected)
        assert probability.tolist() == wanted


def test_share_of_the_only_arm_cannot_be_lowered():
    utility = np.zeros((3, 1))
    assert choose(utility, utility, utility, Share("a", at_least=1.0), arms=["a"]).low.tolist() == [0, 0, 0]
    with pytest.raises(InfeasibleLimitError, match=r"'a'.*it is the only arm, so its share is 1") as caught:
        choose(utility, utility, utility, Share("a", at_most=0.5), arms=["a"])
    assert caught.value.nearest == 1.0


def best_within_capacity(utility, cost, capacity):
    """Lexicographically best assignment over all of them: utility, then cost, then sum of indexes."""
    n, m = utility.shape
    feasible = [arms for arms in product(range(m), repeat=n) if (np.bincount(arms, minlength=m) <= capacity).all()]
    rows = np.arange(n)
    return max(
        (round(utility[rows, arms].sum(), 9), -round(cost[rows, arms].sum(), 9), -sum(arms)) for arms in feasible
    )


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 5),
    m=st.integers(1, 3),
    counts=st.lists(st.integers(0, 4), max_size=3),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_capacity_is_filled_as_brute_force_would(seed, n, m, counts):
    rng = np.random.default_rng(seed)
    utility, cost = rng.integers(0, 4, size=(n, m)) / 3, rng.integers(0, 4, size=(n, m)) * 0.1
    count = dict(zip(ARMS[:m], counts, strict=False))
    capacity = np.array([min(count.get(arm, n), n) for arm in ARMS[:m]])
    if capacity.sum() < n:
        with pytest.raises(InfeasibleLimitError, match=f"holds {capacity.sum()} queries in all, and the batch has {n}"):
            choose(utility, utility, cost, Capacity(count), arms=ARMS[:m])
        return
    choice = choose(utility, utility, cost, Capacity(count), arms=ARMS[:m])
    rows = np.arange(n)
    assert choice.fraction == 0.0
    assert (np.bincount(choice.low, minlength=m) <= capacity).all()
    found = (utility[rows, choice.low].sum(), -cost[rows, choice.low].sum(), -choice.low.sum())
    assert found == pytest.approx(best_within_capacity(utility, cost, capacity), abs=1e-8)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_capacity_does_not_depend_on_the_unit_of_utility(scale):
    rng = np.random.default_rng(5)
    utility, cost = rng.random((60, 3)), rng.random((60, 3))
    limit = Capacity({"a": 10, "b": 20})
    reference = choose(utility, utility, cost, limit, arms=ARMS[:3])
    shifted = choose(utility * scale + 3 * scale, utility, cost, limit, arms=ARMS[:3])
    assert shifted.low.tolist() == reference.low.tolist()
    assert shifted.price == pytest.approx(reference.price * scale)


def test_capacity_multiplier_is_what_one_more_place_brings():
    rng = np.random.default_rng(6)
    utility, cost = rng.random((30, 2)), np.zeros((30, 2))
    utility[:, 1] += 0.5
    tight = choose(utility, utility, cost, Capacity({"b": 10}), arms=["a", "b"])
    wider = choose(utility, utility, cost, Capacity({"b": 11}), arms=["a", "b"])
    gain = 30 * (wider.mean(utility) - tight.mean(utility))
    assert tight.price >= gain - 1e-12
    looser = choose(utility, utility, cost, Capacity({"b": 9}), arms=["a", "b"])
    assert tight.price <= 30 * (tight.mean(utility) - looser.mean(utility)) + 1e-12
    assert choose(utility, utility, cost, Capacity({"b": 30}), arms=["a", "b"]).price == 0.0


def test_capacity_that_does_not_bind_breaks_ties_as_without_a_limit():
    utility, cost = np.zeros((2, 3)), np.array([[3.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
    choice = choose(utility, utility, cost, Capacity({"a": 2}), arms=ARMS[:3])
    assert choice.low.tolist() == best_arm(utility, cost).tolist() == [1, 0]


@pytest.mark.parametrize("limit", [Share("x"), Capacity({"x": 1})])
def test_limit_on_an_arm_that_is_not_there_names_it_and_those_that_are(limit):
    zeros = np.zeros((2, 2))
    with pytest.raises(
        RouterInputError, match=r"names the arm 'x', which the router does not have; it has \['a', 'b'\]"
    ):
        choose(zeros, zeros, zeros, limit, arms=["a", "b"])


def test_a_risk_level_and_other_objects_are_refused():
    zeros = np.zeros((2, 2))
    with pytest.raises(RouterInputError, match="a RiskLevel needs outcomes: fit TunedRouter"):
        choose(zeros, zeros, zeros, RiskLevel(0.1), arms=["a", "b"])
    with pytest.raises(RouterInputError, match=r"limit must be a Budget.*got float"):
        choose(zeros, zeros, zeros, 0.3, arms=["a", "b"])


@pytest.mark.parametrize(
    ("utility", "cost", "arm"),
    [
        ([[1.0, 1.0, 0.0]], [[2.0, 1.0, 0.0]], 1),
        ([[1.0, 1.0, 1.0]], [[2.0, 1.0, 1.0]], 1),
        ([[1.0, 2.0, 2.0]], [[0.0, 5.0, 5.0]], 1),
        ([[-1.0, -2.0, -3.0]], [[9.0, 0.0, 0.0]], 0),
    ],
)
def test_ties_go_to_the_cheaper_arm_then_to_the_lower_index(utility, cost, arm):
    assert best_arm(np.array(utility), np.array(cost)).tolist() == [arm]


@given(table=tables())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_price_rule_of_a_fitted_budget_gives_the_same_policy(table):
    utility, cost = table
    budget = float(cost.mean(axis=1).mean()) + 1e-12
    choice = choose(utility, utility, cost, Budget(budget), arms=ARMS)
    priced = choose_at_price(utility, cost, price=choice.price, fraction=choice.fraction)
    assert priced.mean(utility - choice.price * cost) == pytest.approx(choice.mean(utility - choice.price * cost))
    rows = np.flatnonzero(choice.low != choice.high)
    assert (priced.low[rows] == choice.low[rows]).all() or choice.fraction == 0.0
    assert (cost[rows, priced.high[rows]] == cost[rows, choice.high[rows]]).all()


def test_price_rule_treats_a_query_alike_whatever_else_is_in_the_batch():
    utility, cost = np.array([[0.5, 0.9 + 1e-8], [1e6, 0.0]]), np.array([[1.0, 2.0], [0.0, 1.0]])
    alone = choose_at_price(utility[:1], cost[:1], price=0.4, fraction=0.5)
    together = choose_at_price(utility, cost, price=0.4, fraction=0.5)
    assert (alone.low[0], alone.high[0]) == (together.low[0], together.high[0]) == (1, 1)


def test_price_zero_takes_the_best_arm_and_a_huge_price_the_cheapest():
    rng = np.random.default_rng(0)
    utility, cost = rng.random((50, 4)), rng.random((50, 4))
    assert (choose_at_price(utility, cost, price=0.0, fraction=0.0).low == utility.argmax(axis=1)).all()
    assert (choose_at_price(utility, cost, price=1e9, fraction=0.0).low == cost.argmin(axis=1)).all()


@pytest.mark.parametrize("fraction", [0.1, 1 / 3, 0.5, 0.9])
def test_draw_takes_the_high_arm_with_the_stated_probability_and_its_count_is_within_one(fraction):
    n, draws = 23, 4000
    low = np.zeros(n, dtype=np.intp)
    high = low.copy()
    high[:17] = 1
    choice, rng = Choice(low, high, fraction), np.random.default_rng(11)
    taken = np.zeros(n)
    for _ in range(draws):
        arm, propensity = choice.draw(rng)
        assert abs((arm == 1).sum() - 17 * fraction) < 1
        assert propensity[:17] == pytest.approx(np.where(arm[:17] == 1, fraction, 1 - fraction))
        assert (propensity[17:] == 1).all()
        taken += arm
    assert (taken[17:] == 0).all()
    # Binomial standard deviation, five of them: below 1e-6 for each of the 17 queries.
    assert np.abs(taken[:17] / draws - fraction).max() < 5 * np.sqrt(fraction * (1 - fraction) / draws)


def test_draw_repeats_for_a_seed_and_certain_choices_need_no_luck():
    low, high = np.zeros(5, dtype=np.intp), np.ones(5, dtype=np.intp)
    first, again = (Choice(low, high, 0.5).draw(np.random.default_rng(2))[0] for _ in range(2))
    assert first.tolist() == again.tolist()
    for fraction, arm in [(0.0, 0), (1.0, 1)]:
        taken, propensity = Choice(low, high, fraction).draw(np.random.default_rng(0))
        assert taken.tolist() == [arm] * 5
        assert propensity.tolist() == [1.0] * 5


def test_policy_rows_are_distributions_and_sure_where_nothing_is_mixed():
    choice = Choice(np.array([0, 2]), np.array([1, 2]), fraction=0.1)
    assert choice.policy(3).tolist() == [[0.9, 0.1, 0.0], [0.0, 0.0, 1.0]]


def test_mean_is_the_correctly_rounded_expectation():
    rng = np.random.default_rng(4)
    table = rng.normal(size=(200, 3)) * 10.0 ** rng.integers(-12, 12, size=(200, 3))
    choice = Choice(rng.integers(3, size=200), rng.integers(3, size=200), 0.37)
    assert choice.mean(table) == float(expected_spend(choice, table) / 200)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, math.nan])
def test_choice_refuses_a_fraction_that_is_no_probability(fraction):
    arm = np.zeros(2, dtype=np.intp)
    with pytest.raises(ValueError, match=r"a fraction in \[0, 1\]"):
        Choice(arm, arm, fraction)


@given(table=tables(ties=False), scale=st.floats(0.1, 10), position=st.floats(0.05, 0.95))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_policy_does_not_change_with_a_constant_per_query_or_the_unit_of_cost(table, scale, position):
    utility, cost = table
    least, most = cost.min(axis=1).mean(), cost.max(axis=1).mean()
    budget = float(least + position * (most - least)) + 1e-9
    plain = choose(utility, utility, cost, Budget(budget), arms=ARMS)
    shift = np.arange(len(utility))[:, None] * 0.5
    shifted = choose(utility + shift, utility, cost, Budget(budget), arms=ARMS)
    scaled = choose(utility, utility, cost * scale, Budget(budget * scale), arms=ARMS)
    for other in (shifted, scaled):
        assert other.policy(4) == pytest.approx(plain.policy(4), abs=1e-6)
    assert scaled.price == pytest.approx(plain.price / scale, rel=1e-9)
    assert shifted.price == pytest.approx(plain.price, rel=1e-9)


def test_groups_of_a_large_batch_cover_all_steps():
    rng = np.random.default_rng(8)
    utility, cost = rng.random((2000, 5)), rng.random((2000, 5))
    steps = hull_increments(utility, cost)
    assert steps.group[0] == 0
    assert set(np.diff(steps.group)) <= {0, 1}
    end = steps.start.copy()
    end[steps.query] = steps.to_arm
    assert utility[np.arange(2000), end].tolist() == utility.max(axis=1).tolist()


def test_without_a_limit_every_query_takes_its_best_arm():
    utility, cost = np.array([[1.0, 1.0], [0.2, 0.3]]), np.array([[2.0, 1.0], [0.0, 9.0]])
    choice = choose(utility, utility, cost, None, arms=["a", "b"])
    assert choice.low.tolist() == choice.high.tolist() == [1, 1]
    assert choice.price == 0.0


@given(seed=st.integers(0, 2**32 - 1), group=st.integers(1, 29))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_budget_that_is_met_exactly_by_whole_steps_is_used_up_without_a_lottery(seed, group):
    # Costs of very different size: a running sum rounds differently from the exact one.
    rng = np.random.default_rng(seed)
    cost = np.column_stack([np.zeros(30), rng.random(30) * 10.0 ** rng.integers(-9, 9, size=30)])
    utility = cost * np.column_stack([np.zeros(30), rng.permutation(30) + 1.0])
    dearest = np.argsort(-utility[:, 1] / cost[:, 1])[:group]
    bought = np.zeros(30, dtype=np.intp)
    bought[dearest] = 1
    budget = Choice(bought, bought).mean(cost)
    choice = choose(utility, utility, cost, Budget(budget), arms=["a", "b"])
    assert choice.mean(cost) <= budget
    assert (choice.low >= bought).all()  # a cost that is lost in the rounding of the mean may be bought on top
    target = Choice(bought, bought).mean(utility)
    reached = choose(utility, utility, cost, QualityTarget(target), arms=["a", "b"])
    assert reached.mean(utility) >= target
    assert reached.mean(cost) <= budget * (1 + 1e-9)


@pytest.mark.parametrize("n", [1, 4095, 4096, 4097, 9000])
def test_best_arm_agrees_with_a_sort_across_block_borders(n):
    rng = np.random.default_rng(n)
    utility, cost = rng.integers(3, size=(n, 4)).astype(float), rng.integers(2, size=(n, 4)).astype(float)
    expected = [np.lexsort((np.arange(4), cost[row], -utility[row]))[0] for row in range(n)]
    assert best_arm(utility, cost).tolist() == expected


@pytest.mark.parametrize("limit", [Budget(1.0), Budget(1.0 + 2.2e-16), QualityTarget(1.0 + 4.4e-16)], ids=repr)
def test_steps_below_the_rounding_of_the_mean_are_not_tried_one_by_one(limit, monkeypatch):
    rng = np.random.default_rng(0)
    utility = rng.random((1000, 3))
    cost = 1.0 + rng.integers(0, 3, size=(1000, 3)) * 2.2e-16
    tried, mean = [], Choice.mean
    monkeypatch.setattr(Choice, "mean", lambda self, table: tried.append(self) or mean(self, table))
    if isinstance(limit, Budget):
        choice = choose(utility, utility, cost, limit, arms=ARMS[:3])
        assert mean(choice, cost) <= limit.mean_cost
    else:
        choice = choose(utility, cost, utility, limit, arms=ARMS[:3])
        assert mean(choice, cost) >= limit.mean_quality
    assert len(tried) < 40
