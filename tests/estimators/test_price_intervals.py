"""The arm at every price: closed form, brute force, ties, offsets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from defer.estimators.price_intervals import price_intervals
from defer.portfolios.assignment import best_arm

dyadic = st.integers(0, 16).map(lambda k: k / 16)


def test_flips_stand_where_two_lines_cross() -> None:
    found = price_intervals(np.array([0.5, 0.75, 1.0]), np.array([1.0, 2.0, 4.0]))
    assert [(part.low, part.high, part.arm) for part in found] == [(0.0, 0.125, 2), (0.125, 0.25, 1), (0.25, np.inf, 0)]


def test_an_arm_below_the_envelope_is_never_taken() -> None:
    found = price_intervals(np.array([0.5, 0.6, 1.0]), np.array([1.0, 3.0, 4.0]))
    assert [part.arm for part in found] == [2, 0]


@given(table=st.lists(st.tuples(dyadic, dyadic), min_size=1, max_size=5), price=st.integers(0, 64).map(lambda k: k / 8))
def test_every_price_takes_the_arm_of_highest_utility(table: list[tuple[float, float]], price: float) -> None:
    """Sixteenths and eighths are exact in floats, so that ties are ties."""
    quality, cost = np.array(table).T
    found = price_intervals(quality, cost)
    (arm,) = [part.arm for part in found if part.low <= price < part.high]
    assert arm == best_arm((quality - price * cost)[None], cost[None])[0]
    assert [part.high for part in found[:-1]] == [part.low for part in found[1:]]
    assert found[0].low == 0.0
    assert found[-1].high == np.inf


def test_offsets_move_the_flips_and_infinite_ones_decide() -> None:
    quality, cost = np.array([0.5, 1.0]), np.array([1.0, 2.0])
    assert price_intervals(quality, cost, np.array([0.25, 0.0]))[0].high == 0.25
    assert [part.arm for part in price_intervals(quality, cost, np.array([0.0, np.inf]))] == [1]
    assert [part.arm for part in price_intervals(quality, cost, np.array([0.0, -np.inf]))] == [0]


def test_equal_arms_and_free_arms() -> None:
    assert [part.arm for part in price_intervals(np.ones(3), np.array([2.0, 1.0, 1.0]))] == [1]
    (only,) = price_intervals(np.array([0.2, 0.4]), np.zeros(2))
    assert (only.arm, only.high) == (1, np.inf)
    assert pytest.approx(0.0) == only.low
