"""Blending: the best weights that are not negative, and what they make of predictions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.optimize import lsq_linear

from defer.estimators.routers.blend import Blend

RNG = np.random.default_rng(3)
TRUTH = RNG.normal(size=(200, 3)) + np.array([0.0, 1.0, 2.0])
MEMBERS = [TRUTH + RNG.normal(scale=s, size=TRUTH.shape) for s in (0.5, 1.0, 3.0)]


def apart(table: np.ndarray) -> np.ndarray:
    return table - table.mean(axis=1, keepdims=True)


def test_weights_are_those_of_bounded_least_squares() -> None:
    blend = Blend.fit([*MEMBERS, -TRUTH], TRUTH, None)
    mean = TRUTH.mean(axis=0)
    design = np.column_stack([apart(table - mean).ravel() for table in [*MEMBERS, -TRUTH]])
    exact = lsq_linear(design, apart(TRUTH - mean).ravel(), bounds=(0, np.inf)).x
    assert_allclose(blend.between, exact, atol=0.01)  # the penalty is a thousandth
    assert blend.between[-1] == 0.0
    level = lsq_linear(
        np.column_stack([(table - mean).mean(axis=1) for table in [*MEMBERS, -TRUTH]]),
        (TRUTH - mean).mean(axis=1),
        bounds=(0, np.inf),
    ).x
    assert_allclose(blend.level, level, atol=0.01)


def test_a_member_that_is_half_the_truth_is_doubled() -> None:
    mean = TRUTH.mean(axis=0)
    half = mean + 0.5 * (TRUTH - mean)
    assert_allclose(Blend.fit([half], TRUTH, None).apply([half]), TRUTH, atol=0.01)


@pytest.mark.parametrize("scale", [1e-60, 1e-15, 1e15, 1e60])
def test_weights_do_not_depend_on_the_unit_of_the_outcomes(scale: float) -> None:
    one, other = Blend.fit(MEMBERS, TRUTH, None), Blend.fit([scale * table for table in MEMBERS], scale * TRUTH, None)
    assert_allclose(other.between, one.between, rtol=1e-9)
    assert_allclose(other.level, one.level, rtol=1e-9)
    means = np.tile(scale * TRUTH.mean(axis=0), (200, 1))
    assert not Blend.fit([means * (1 + 1e-15)], scale * TRUTH, None).used.any()


def test_members_that_say_the_arm_means_get_no_weight() -> None:
    means = np.tile(TRUTH.mean(axis=0), (200, 1))
    blend = Blend.fit([means * (1 + 1e-15)], TRUTH, None)
    assert not blend.used.any()
    assert_allclose(blend.apply([means]), means)


def test_blending_beats_every_member_on_fresh_outcomes() -> None:
    fresh = RNG.normal(size=(2000, 3)) + np.array([0.0, 1.0, 2.0])
    predicted = [fresh + RNG.normal(scale=s, size=fresh.shape) for s in (0.5, 1.0, 3.0)]
    error = ((Blend.fit(MEMBERS, TRUTH, None).apply(predicted) - fresh) ** 2).mean()
    assert error < min(((table - fresh) ** 2).mean() for table in predicted)


@pytest.mark.parametrize("gaps", [False, True])
def test_cross_fitted_predictions_are_those_of_the_other_folds_weights(gaps: bool) -> None:
    observed, mass = TRUTH.copy(), RNG.uniform(0.5, 2.0, size=200)
    if gaps:
        observed[RNG.random(TRUTH.shape) < 0.6] = np.nan
    folds = np.arange(200) % 4
    parts = [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in range(4)]
    blend = Blend.fit(MEMBERS, observed, mass)
    found = blend.cross_fitted(MEMBERS, observed, mass, parts)
    for train, test in parts:
        other = Blend.fit([table[train] for table in MEMBERS], observed[train], mass[train])
        by_hand = Blend(blend.arm_mean, other.between, other.level).apply([table[test] for table in MEMBERS])
        assert_allclose(found[test], by_hand, rtol=1e-12)
    # Outcomes of a fold that change hands within it leave its predictions as they are, and move the weights of all.
    test = parts[1][1]
    turned = observed.copy()
    turned[test] = observed[test[::-1]]
    even = Blend.fit(MEMBERS, turned, None)
    again = even.cross_fitted(MEMBERS, turned, None, parts)
    plain = Blend.fit(MEMBERS, observed, None).cross_fitted(MEMBERS, observed, None, parts)
    assert_allclose(again[test], plain[test], rtol=1e-12)
    assert not np.allclose(even.between, Blend.fit(MEMBERS, observed, None).between)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 3), min_size=20, max_size=20))
def test_a_weight_of_k_is_worth_k_rows(times: list[int]) -> None:
    if sum(times) < 3:
        return
    weight = np.array(times, dtype=float)
    rows = np.repeat(np.arange(20), times)
    weighed = Blend.fit([table[:20] for table in MEMBERS], TRUTH[:20], weight)
    repeated = Blend.fit([table[rows] for table in MEMBERS], TRUTH[rows], None)
    assert_allclose(weighed.between, repeated.between, atol=1e-9)
    assert_allclose(weighed.level, repeated.level, atol=1e-9)
    assert_allclose(weighed.arm_mean, repeated.arm_mean)


@pytest.mark.parametrize("shift", [-5.0, 100.0])
def test_a_constant_added_to_quality_moves_nothing_else(shift: float) -> None:
    moved = Blend.fit([table + shift for table in MEMBERS], TRUTH + shift, None)
    assert_allclose(moved.between, Blend.fit(MEMBERS, TRUTH, None).between, atol=1e-9)


def test_bandit_logs_weigh_what_was_seen() -> None:
    seen = np.full(TRUTH.shape, np.nan)
    rows = np.arange(200)
    seen[rows, rows % 3] = TRUTH[rows, rows % 3]
    blend = Blend.fit(MEMBERS, seen, None)
    assert_allclose(blend.between, blend.level)
    assert blend.between[0] > blend.between[1] > blend.between[2] >= 0


def test_members_without_weight_need_not_predict() -> None:
    blend = Blend.fit([TRUTH, -TRUTH], TRUTH, None)
    assert_allclose(blend.apply([TRUTH, None]), blend.apply([TRUTH, -TRUTH]))


def test_a_dear_arm_does_not_move_what_is_said_of_a_cheap_one() -> None:
    rng = np.random.default_rng(3)
    unit = np.array([1e-4, 1.0])
    rise = rng.normal(size=(500, 2))
    rise -= rise.mean(axis=0)
    cost = unit * (5.0 + rise)
    # One member sees the cheap arm well, the other the dear one: what they say of the mean over arms is about the dear one.
    members = [unit * (5.0 + rise * [0.9, 0.0]), unit * (5.0 + rise * [0.0, 0.9])]
    blend = Blend.fit(members, cost, None, unit=unit)
    error = (blend.apply(members) - cost) / unit
    assert_allclose(np.sqrt((error**2).mean(axis=0)), 0.0, atol=0.05)


def test_errors_count_in_the_unit_of_their_arm() -> None:
    # The first member knows the dear arm alone, the second the cheap ones.
    cost = np.abs(TRUTH) * np.array([1e-3, 1e-3, 1.0])
    mean = np.tile(cost.mean(axis=0), (200, 1))
    dear, cheap = mean.copy(), mean.copy()
    dear[:, 2], cheap[:, :2] = cost[:, 2], cost[:, :2]
    plain = Blend.fit([dear, cheap], cost, None)
    scaled = Blend.fit([dear, cheap], cost, None, unit=cost.mean(axis=0))
    assert plain.between[1] < 0.5 < scaled.between[1]


def test_what_is_most_rows_goes_by_weight() -> None:
    rng = np.random.default_rng(4)
    observed = rng.normal(size=(9, 2))
    observed[6:, 1] = np.nan
    members = [rng.normal(size=(9, 2)) for _ in range(2)]
    times = np.array([1, 1, 1, 1, 1, 1, 4, 4, 0])
    weighted = Blend.fit(members, observed, times.astype(float))
    repeated = Blend.fit(
        [np.repeat(table, times, axis=0) for table in members], np.repeat(observed, times, axis=0), None
    )
    assert_allclose(weighted.between, repeated.between, atol=1e-12)
    assert_allclose(weighted.level, repeated.level, atol=1e-12)
