"""The comparison with the zero router: its value is the area of the frontier, its error that of a plain bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from defer.estimators.routers.advantage import Advantage
from defer.evaluation.frontier import sweep
from defer.portfolios.zero_router import area_over_zero

RNG = np.random.default_rng(5)
N = 300
CHANCE = RNG.random((N, 3)) * 0.3 + np.array([0.2, 0.4, 0.6])
QUALITY = (RNG.random((N, 3)) < CHANCE).astype(float)
COST = np.array([1.0, 3.0, 10.0]) * RNG.uniform(0.5, 1.5, size=(N, 3))
ONES, EACH = np.ones(N), np.arange(N)


def test_the_value_is_the_area_of_the_frontier() -> None:
    curve = sweep(CHANCE, COST, QUALITY, COST, n_points=10_000)
    exact = area_over_zero(curve.cost, curve.quality, COST.mean(axis=0), QUALITY.mean(axis=0))
    assert Advantage.of(CHANCE, COST, QUALITY, COST, ONES, EACH).value == pytest.approx(exact, abs=0.01)


def test_few_points_are_all_taken() -> None:
    few = slice(0, 12)
    curve = sweep(CHANCE[few], COST[few], QUALITY[few], COST[few], n_points=10_000)
    exact = area_over_zero(curve.cost, curve.quality, COST[few].mean(axis=0), QUALITY[few].mean(axis=0))
    found = Advantage.of(CHANCE[few], COST[few], QUALITY[few], COST[few], ONES[few], EACH[few])
    assert found.value == pytest.approx(exact, abs=1e-12)


def test_the_error_is_that_of_fresh_logs() -> None:
    # Standard deviation of the value over 150 logs of the same law, whose relative error is about 6 %.
    values, errors = [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        chance = rng.random((N, 2)) * 0.5 + np.array([0.2, 0.4])
        quality = (rng.random((N, 2)) < chance).astype(float)
        cost = np.tile([1.0, 2.0], (N, 1))
        found = Advantage.of(chance, cost, quality, cost, ONES, EACH)
        values.append(found.value)
        errors.append(found.error)
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.25)


@pytest.mark.parametrize("n_groups", [2, 3, 10])
def test_the_error_of_few_groups_is_that_of_their_mean(n_groups: int) -> None:
    # The first arm is always taken and the second, of the same cost, always right: the value is a plain mean.
    means = np.random.default_rng(n_groups).random(n_groups)
    quality = np.column_stack([np.repeat(means, 5), np.ones(5 * n_groups)])
    utility, same = np.tile([1.0, 0.0], (5 * n_groups, 1)), np.ones((5 * n_groups, 2))
    found = Advantage.of(utility, same, quality, same, np.ones(5 * n_groups), np.repeat(np.arange(n_groups), 5))
    assert found.value == pytest.approx(means.mean() - 1.0)
    # The deviation of 200 draws is known to about 5 %.
    assert found.error == pytest.approx(means.std(ddof=1) / np.sqrt(n_groups), rel=0.15)


def test_queries_of_one_group_are_one_observation() -> None:
    twice = np.tile(np.arange(N), 2)
    tables = [np.tile(table, (2, 1)) for table in (CHANCE, COST, QUALITY, COST)]
    apart = Advantage.of(*tables, np.ones(2 * N), np.arange(2 * N))
    together = Advantage.of(*tables, np.ones(2 * N), twice)
    once = Advantage.of(CHANCE, COST, QUALITY, COST, ONES, EACH)
    assert together.error == pytest.approx(once.error, rel=1e-9)
    assert apart.error < 0.85 * together.error


def test_a_weight_of_two_is_two_rows_of_a_group() -> None:
    twice = np.tile(np.arange(N), 2)
    tables = [np.tile(table, (2, 1)) for table in (CHANCE, COST, QUALITY, COST)]
    repeated = Advantage.of(*tables, np.ones(2 * N), twice)
    weighed = Advantage.of(CHANCE, COST, QUALITY, COST, 2 * ONES, EACH)
    assert_allclose([weighed.value, weighed.error], [repeated.value, repeated.error])


def test_noise_is_shown_to_beat_nothing_more_often_than_one_error_allows() -> None:
    shown = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        quality = (rng.random((100, 2)) < [0.4, 0.6]).astype(float)
        noise = rng.normal(size=(100, 2)) * 0.1 + [0.4, 0.6]
        cost = np.tile([1.0, 2.0], (100, 1))
        shown.append(Advantage.of(noise, cost, quality, cost, np.ones(100), np.arange(100)).is_shown)
    # One standard error is exceeded by chance in 16 %; 200 draws stay below 30 % but for 1e-6.
    assert np.mean(shown) < 0.30


def test_a_single_group_shows_nothing_however_good_it_looks() -> None:
    found = Advantage.of(QUALITY, COST, QUALITY, COST, ONES, np.zeros(N, dtype=int))
    assert found.value > 0.1
    assert np.isinf(found.error)
    assert not found.is_shown


def test_arms_of_one_cost_and_one_arm() -> None:
    same = np.ones((N, 3))
    assert np.isfinite(Advantage.of(CHANCE, same, QUALITY, same, ONES, EACH).value)
    assert Advantage.of(CHANCE[:, :1], COST[:, :1], QUALITY[:, :1], COST[:, :1], ONES, EACH).value == pytest.approx(0.0)
