from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from defer.estimators.tuning.operating_point import (
    HeldOut,
    bernstein_upper,
    doubly_robust,
    favour,
    find_operating_point,
)
from defer.exceptions import InfeasibleLimitError, RouterInputError
from defer.portfolios.assignment import choose_at_price
from defer.portfolios.limits import Budget, QualityTarget, RiskLevel, Share

ARMS = ["a", "b", "c"]

unit = st.integers(0, 8).map(lambda value: value / 8)


def held_out(seed: int, n: int = 40, **changes: object) -> HeldOut:
    rng = np.random.default_rng(seed)
    cost = np.sort(rng.uniform(0.1, 1.0, size=(n, 3)), axis=1)
    parts = {
        "utility": rng.random((n, 3)),
        "predicted_cost": cost,
        "quality": rng.integers(2, size=(n, 3)).astype(float),
        "cost": cost * rng.uniform(0.8, 1.2, size=(n, 3)),
        "weight": np.full(n, 1 / n),
    }
    return HeldOut(**{**parts, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_the_price_spends_the_budget_where_it_was_found(seed: int, part: float) -> None:
    data = held_out(seed)
    least, most = (
        data.cost[:, 0].mean(),
        data.mean(data.cost, choose_at_price(data.utility, data.predicted_cost, price=0.0, fraction=0.0)),
    )
    budget = least + part * (most - least)
    point, bonus = find_operating_point(data, Budget(mean_cost=budget), ARMS)
    choice = choose_at_price(data.utility, data.predicted_cost, price=point.price, fraction=point.fraction)
    assert not bonus.any()
    assert data.mean(data.cost, choice) == pytest.approx(point.mean_cost, abs=1e-12)
    assert data.mean(data.quality, choice) == pytest.approx(point.mean_quality, abs=1e-12)
    assert point.mean_cost == pytest.approx(budget, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_price_reaches_the_quality_at_the_first_crossing(seed: int) -> None:
    data = held_out(seed)
    with pytest.raises(InfeasibleLimitError) as error:
        find_operating_point(data, QualityTarget(2.0), ARMS)
    start, best = data.quality[:, 0].mean(), error.value.nearest
    assert start < best
    target = start + 0.6 * (best - start)
    point, _ = find_operating_point(data, QualityTarget(target), ARMS)
    choice = choose_at_price(data.utility, data.predicted_cost, price=point.price, fraction=point.fraction)
    assert data.mean(data.quality, choice) == pytest.approx(target, abs=1e-12)
    # Brute force over prices: no dearer price reaches the target.
    for price in np.linspace(point.price * 1.000001, point.price + 20, 400):
        dearer = choose_at_price(data.utility, data.predicted_cost, price=price, fraction=0.0)
        assert data.mean(data.quality, dearer) < target


def test_a_budget_that_ends_at_a_step_is_not_left_to_a_tie() -> None:
    utility, cost = np.array([[0.0, 1.0], [0.0, 0.5]]), np.tile([1.0, 2.0], (2, 1))
    data = HeldOut(utility, cost, utility, cost, np.array([0.5, 0.5]))
    point, _ = find_operating_point(data, Budget(mean_cost=1.5), ["a", "b"])
    assert (point.price, point.fraction) == (0.75, 0.0)
    point, _ = find_operating_point(data, Budget(mean_cost=1.0), ["a", "b"])
    assert (point.price, point.fraction) == (2.0, 0.0)
    assert choose_at_price(utility, cost, price=2.0, fraction=0.0).low.tolist() == [0, 0]


def test_a_budget_that_does_not_bind_has_no_price() -> None:
    point, _ = find_operating_point(held_out(0), Budget(mean_cost=9.0), ARMS)
    assert (point.price, point.fraction) == (0.0, 0.0)


def test_exactly_the_cheapest_budget_is_feasible_whatever_the_rounding() -> None:
    for n in range(1, 60):
        cost = np.tile([0.1, 0.2], (n, 1))
        data = HeldOut(cost, cost, cost, cost, np.full(n, 1 / n))
        point, _ = find_operating_point(data, Budget(mean_cost=0.1), ["a", "b"])
        assert point.mean_cost == pytest.approx(0.1)


def test_infeasible_limits_say_what_is_feasible() -> None:
    data = held_out(1)
    least, best = data.cost[:, 0].mean(), None
    with pytest.raises(
        InfeasibleLimitError, match=r"Budget\(mean_cost=0.01\) is below the least possible .* out of fold"
    ) as error:
        find_operating_point(data, Budget(mean_cost=0.01), ARMS)
    assert error.value.nearest == pytest.approx(least)
    with pytest.raises(
        InfeasibleLimitError, match=r"QualityTarget\(1.5\) is above the largest mean quality realised"
    ) as error:
        find_operating_point(data, QualityTarget(1.5), ARMS)
    best = error.value.nearest
    find_operating_point(data, QualityTarget(best), ARMS)
    with pytest.raises(InfeasibleLimitError, match=r"RiskLevel\(risk=0, level=0.95\): even at price 0") as error:
        find_operating_point(data, RiskLevel(risk=0.0), ARMS)
    find_operating_point(data, RiskLevel(risk=error.value.nearest + 1e-9), ARMS)
    with pytest.raises(RouterInputError, match="Share names the arm 'z'"):
        find_operating_point(data, Share("z", at_most=0.5), ARMS)
    one = HeldOut(
        *(table[:, :1] for table in (data.utility, data.predicted_cost, data.quality, data.cost)), data.weight
    )
    with pytest.raises(InfeasibleLimitError, match="it is the only arm"):
        find_operating_point(one, Share("a", at_most=0.5), ["a"])


@given(
    utility=arrays(float, (6, 3), elements=unit),
    weight=arrays(float, 6, elements=st.integers(1, 3).map(float)),
    index=st.integers(0, 2),
    bounds=st.tuples(unit, unit).map(sorted),
)
def test_a_share_is_met_exactly_and_left_alone_where_it_holds(
    utility: np.ndarray, weight: np.ndarray, index: int, bounds: list[float]
) -> None:
    cost = np.tile([1.0, 2.0, 3.0], (6, 1))
    data = HeldOut(utility, cost, utility, cost, weight / weight.sum())
    point, bonus = find_operating_point(data, Share(ARMS[index], at_most=bounds[1], at_least=bounds[0]), ARMS)
    choice = favour(utility + bonus, cost, index, point.fraction)
    rows = np.arange(6)
    taken = (1 - choice.fraction) * (choice.low == index) + choice.fraction * (choice.high == index)
    share = float(data.weight @ taken)
    assert bounds[0] - 1e-9 <= share <= bounds[1] + 1e-9
    free = favour(utility, cost, index, 0.0).low
    wanted = float(data.weight @ (free == index))
    assert share == pytest.approx(min(max(wanted, bounds[0]), bounds[1]), abs=1e-9)
    if bounds[0] <= wanted <= bounds[1]:
        assert not bonus.any()
        assert (choice.low == free).all()
    # No other set of queries of the same mass gives up less utility.
    value = sum(
        probability * float(data.weight @ utility[rows, arm])
        for arm, probability in ((choice.low, 1 - choice.fraction), (choice.high, choice.fraction))
    )
    own, other = utility[:, index], np.delete(utility, index, axis=1).max(axis=1)
    best = (
        max(
            float(data.weight @ np.where(mask, own, other))
            for mask in map(np.array, itertools.product([False, True], repeat=6))
            if abs(float(data.weight @ mask) - share) < 1e-9
        )
        if point.fraction == 0.0
        else -math.inf
    )
    assert value >= best - 1e-9


def test_a_forbidden_arm_is_never_taken_and_a_forced_one_always() -> None:
    data = held_out(2)
    _, never = find_operating_point(data, Share("b", at_most=0.0), ARMS)
    _, always = find_operating_point(data, Share("b", at_least=1.0), ARMS)
    far = np.array([[0.0, 1e9, 0.0], [0.0, -1e9, 0.0]])
    cost = np.ones((2, 3))
    assert favour(far + never, cost, 1, 0.0).low.tolist() == [0, 0]
    assert favour(far + always, cost, 1, 0.0).low.tolist() == [1, 1]


def test_gains_that_differ_by_rounding_tie() -> None:
    utility = np.array([[0.3, 0.1], [0.5, 0.3]])  # the gains of the first arm are 0.2 and 0.2 - 3e-17
    assert utility[0, 0] - utility[0, 1] != utility[1, 0] - utility[1, 1]
    data = HeldOut(utility, np.ones((2, 2)), utility, np.ones((2, 2)), np.array([0.5, 0.5]))
    point, bonus = find_operating_point(data, Share("a", at_most=0.25), ["a", "b"])
    assert point.fraction == pytest.approx(0.25)
    assert favour(utility + bonus, np.ones((2, 2)), 0, point.fraction).high.tolist() == [0, 0]


@pytest.mark.parametrize("span", [1.0, 2.0])
def test_bernstein_bound_is_its_formula(span: float) -> None:
    values = np.array([[0.0], [1.0], [1.0], [0.0]])
    log_term = math.log(2 / 0.1)
    expected = 0.5 + math.sqrt(2 * (1 / 3) * log_term / 4) + 7 * span * log_term / 9
    assert bernstein_upper(values, span, 0.1)[0] == pytest.approx(expected)
    assert math.isinf(bernstein_upper(values[:1], span, 0.1)[0])


def test_bernstein_bound_covers_the_mean() -> None:
    rng, runs, delta = np.random.default_rng(0), 2000, 0.2
    values = (rng.random((60, runs)) < 0.5).astype(float)
    misses = int((bernstein_upper(values, 1.0, delta) < 0.5).sum())
    assert misses <= stats.binom.ppf(1 - 1e-4, runs, delta)


def test_risk_is_tested_against_every_arm_and_stops_at_the_first_failure() -> None:
    # At price 0 both good arms are mixed; going to the cheap end loses quality against the better one.
    rng = np.random.default_rng(0)
    n = 4000
    skill = rng.random(n)
    quality = np.column_stack([rng.random(n) < 0.4, rng.random(n) < 0.4 + 0.5 * skill]).astype(float)
    utility, cost = np.column_stack([np.full(n, 0.4), 0.4 + 0.5 * skill]), np.tile([1.0, 2.0], (n, 1))
    data = HeldOut(utility, cost, quality, cost, np.full(n, 1 / n))
    points = [find_operating_point(data, RiskLevel(risk), ["a", "b"])[0] for risk in (0.03, 0.06, 0.12, 1.0)]
    prices = [point.price for point in points]
    assert prices == sorted(prices)
    assert prices[0] < prices[-1]
    for risk, point in zip((0.03, 0.06, 0.12), points, strict=False):
        routed = choose_at_price(utility, cost, price=point.price, fraction=0.0).low
        loss = quality[np.arange(n), :].T - quality[np.arange(n), routed]
        assert bernstein_upper(loss.T, 2.0, 0.05).max() <= risk
        assert point.mean_quality == pytest.approx(quality[np.arange(n), routed].mean())
    assert choose_at_price(utility, cost, price=points[-1].price, fraction=0.0).low.max() == 0


def test_repeated_rows_of_one_group_prove_no_more_than_one_weighted_row() -> None:
    data = held_out(3, n=400)
    weight = np.random.default_rng(0).integers(1, 4, size=400)
    rows = np.repeat(np.arange(400), weight)
    weighted = HeldOut(
        data.utility, data.predicted_cost, data.quality, data.cost, weight / weight.sum(), np.arange(400)
    )
    tables = (data.utility, data.predicted_cost, data.quality, data.cost)
    repeated = HeldOut(*(table[rows] for table in tables), np.full(len(rows), 1 / len(rows)), rows)
    alone = HeldOut(*(table[rows] for table in tables), np.full(len(rows), 1 / len(rows)))
    nearest = []
    for case in (weighted, repeated, alone):
        with pytest.raises(InfeasibleLimitError) as error:
            find_operating_point(case, RiskLevel(0.0), ARMS)
        nearest.append(error.value.nearest)
    assert nearest[0] == pytest.approx(nearest[1])
    assert nearest[2] < nearest[1]
    for limit in (Budget(mean_cost=0.45), QualityTarget(0.51), Share("b", at_most=0.2)):
        left, right = (find_operating_point(case, limit, ARMS) for case in (weighted, repeated))
        for name in ("price", "fraction", "mean_quality", "mean_cost"):
            assert getattr(left[0], name) == pytest.approx(getattr(right[0], name), rel=1e-6, abs=1e-9)
        np.testing.assert_allclose(left[1], right[1])


def test_doubly_robust_outcomes_in_closed_form() -> None:
    observed, predicted = np.array([[1.0, np.nan], [np.nan, 0.0]]), np.array([[0.5, 0.25], [0.5, 0.25]])
    np.testing.assert_allclose(
        doubly_robust(observed, predicted, np.array([0.5, 0.25]), np.ones(2)), [[1.5, 0.25], [0.5, -0.75]]
    )
    # Without propensities each arm's is its observed share, by weight: 3/4 and 1/4.
    np.testing.assert_allclose(
        doubly_robust(observed, predicted, None, np.array([3.0, 1.0])), [[0.5 + 0.5 / 0.75, 0.25], [0.5, -0.75]]
    )
    full = np.array([[1.0, 0.0]])
    assert doubly_robust(full, predicted[:1], np.array([0.1]), np.ones(1)) is full


def test_doubly_robust_means_are_unbiased_whatever_is_predicted() -> None:
    rng, n, runs = np.random.default_rng(0), 200, 400
    truth, predicted = rng.random((n, 2)), rng.random((n, 2))
    chance = rng.uniform(0.2, 0.8, size=n)
    means = []
    for _ in range(runs):
        first = rng.random(n) < chance
        seen = np.where(np.column_stack([first, ~first]), truth, np.nan)
        means.append(doubly_robust(seen, predicted, np.where(first, chance, 1 - chance), np.ones(n)).mean(axis=0))
    error = (np.mean(means, axis=0) - truth.mean(axis=0)) / (np.std(means, axis=0, ddof=1) / np.sqrt(runs))
    assert np.abs(error).max() < stats.t.ppf(1 - 1e-4 / 4, runs - 1)
