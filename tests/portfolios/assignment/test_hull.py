"""Hull steps against brute force over lines, and the order that the greedy solution rests on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defer.portfolios.assignment import hull_increments


def walk(steps, query: int) -> list[int]:
    """Arms that a query visits along its hull."""
    mine = np.flatnonzero(steps.query == query)
    return [int(steps.start[query]), *steps.to_arm[mine].tolist()]


def hull_by_brute_force(utility: np.ndarray, cost: np.ndarray) -> list[int]:
    """Arms that are the one best choice at some price >= 0, from the cheapest to the dearest."""
    vertices = []
    for arm in range(len(utility)):
        low, high, beaten = 0.0, np.inf, False  # prices at which the arm is the best
        for other in range(len(utility)):
            gain, extra = utility[arm] - utility[other], cost[arm] - cost[other]
            if extra == 0:
                beaten |= gain < 0 or (gain == 0 and other < arm)
            elif extra > 0:
                high = min(high, gain / extra)
            else:
                low = max(low, gain / extra)
        if not beaten and (low < high or (low == high == np.inf)):
            vertices.append(arm)
    return sorted(vertices, key=lambda arm: cost[arm])


small_table = st.lists(st.lists(st.integers(0, 8), min_size=4, max_size=4), min_size=3, max_size=3).map(
    lambda rows: np.array(rows, dtype=float)
)


@given(utility=small_table, cost=small_table)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_each_query_walks_along_the_upper_hull_of_its_arms(utility, cost):
    steps = hull_increments(utility, cost)
    for query in range(len(utility)):
        assert walk(steps, query) == hull_by_brute_force(utility[query], cost[query])


@given(seed=st.integers(0, 10_000), m=st.integers(2, 6), grid=st.sampled_from([0.1, 1e-3, 1.0 / 3.0]))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_slopes_never_rise_and_every_step_starts_where_the_one_before_ended(seed, m, grid):
    rng = np.random.default_rng(seed)
    # Multiples of a number without an exact float: many arms lie on one line up to rounding.
    cost = rng.integers(0, 12, size=(30, m)) * grid
    utility = cost * 0.7 + rng.integers(0, 2, size=(30, m)) * grid
    steps = hull_increments(utility, cost)
    assert (np.diff(steps.slope) <= 0).all()
    assert (np.diff(steps.group) >= 0).all()
    assert (steps.utility > 0).all()
    assert (steps.cost > 0).all()
    at = steps.start.copy()
    for query, source, target in zip(steps.query, steps.from_arm, steps.to_arm, strict=True):
        assert at[query] == source
        at[query] = target


def test_a_later_step_that_rounding_makes_steeper_is_not_taken_first():
    # Three arms on one line; by rounding the quotient of the second step is the larger one.
    cost = np.array([[0.8, 2.3000000000000003, 2.5]])
    utility = np.array([[0.5599999999999999, 1.61, 1.75]])
    first, second = np.diff(utility[0]) / np.diff(cost[0])
    assert first < second
    steps = hull_increments(utility, cost)
    assert steps.to_arm.tolist() == [1, 2]
    assert steps.slope.tolist() == [first, first]
    assert steps.group.tolist() == [0, 0]


def test_equal_slopes_are_one_group_and_different_ones_are_not():
    utility = np.array([[0.0, 0.3], [0.0, 0.1 + 0.2], [0.0, 0.2]])
    steps = hull_increments(utility, np.tile([0.0, 1.0], (3, 1)))
    assert steps.query.tolist() == [1, 0, 2]
    assert steps.group.tolist() == [0, 0, 1]


def test_the_start_is_the_best_of_the_cheapest_and_dominated_arms_are_never_visited():
    utility, cost = np.array([[0.2, 0.5, 0.4, 0.45]]), np.array([[1.0, 1.0, 3.0, 2.0]])
    steps = hull_increments(utility, cost)
    assert steps.start.tolist() == [1]
    assert len(steps.query) == 0
    assert len(steps.group) == 0


def test_a_step_of_vanishing_cost_has_a_large_finite_slope():
    steps = hull_increments(np.array([[0.0, 1.0, 1.5]]), np.array([[0.0, 5e-324, 1.0]]))
    assert steps.to_arm.tolist() == [1, 2]
    assert np.isfinite(steps.slope).all()
    assert steps.group.tolist() == [0, 1]


@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (1, 3)])
def test_single_arms_and_single_queries(shape):
    rng = np.random.default_rng(0)
    steps = hull_increments(rng.random(shape), rng.random(shape))
    assert steps.start.shape == (shape[0],)
    assert len(steps.query) == len(steps.slope)
    assert shape[1] > 1 or len(steps.query) == 0
