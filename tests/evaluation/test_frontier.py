"""The cost-quality plane beyond the published numbers: sweeps against brute force over prices, areas, oracle, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defer.evaluation import aiq, area_over_zero, hull_quality, oracle, sweep, upper_hull
from defer.evaluation.frontier import Resweep
from defer.exceptions import EvaluationError

# --- sweep ------------------------------------------------------------------------------------------------------------


def at_price(price, utility, cost):
    """Best arm of every query at one price, ties to the cheaper arm, then to the better, then to the lower index."""
    net = utility - price * cost
    return np.lexsort((np.broadcast_to(np.arange(net.shape[1]), net.shape), -utility, cost, -net), axis=1)[:, 0]


def by_brute_force(utility, cost, quality, realised_cost):
    """Operating points between all prices at which any query could change its arm."""
    rows = np.arange(len(utility))
    gain = (utility[:, :, None] - utility[:, None, :]).ravel()
    price = (cost[:, :, None] - cost[:, None, :]).ravel()
    events = np.unique((gain[price > 0] / price[price > 0]).round(12))
    events = events[events > 0]
    between = np.sort(np.concatenate(([1e6], (events[1:] + events[:-1]) / 2, events[:1] / 2)))[::-1]
    points = []
    for at in between:
        arm = at_price(at, utility, cost)
        if not points or (arm != points[-1]).any():
            points.append(arm)
    return [
        (
            quality[rows, arm].mean(),
            realised_cost[rows, arm].mean(),
            np.bincount(arm, minlength=utility.shape[1]).tolist(),
        )
        for arm in points
    ]


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 6), m=st.integers(1, 4))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_sweep_visits_the_operating_points_of_all_prices(seed, n, m):
    rng = np.random.default_rng(seed)
    # Small whole numbers make equal slopes, equal costs and dominated arms common.
    utility, cost = rng.integers(6, size=(n, m)).astype(float), rng.integers(4, size=(n, m)).astype(float)
    quality, realised = rng.random((n, m)), rng.random((n, m))
    curve = sweep(utility, cost, quality, realised, n_points=1000)
    expected = by_brute_force(utility, cost, quality, realised)
    assert len(curve.price) == len(expected)
    assert curve.price[0] == np.inf
    assert (np.diff(curve.price) < 0).all()
    for index, (mean_quality, mean_cost, load) in enumerate(expected):
        assert curve.quality[index] == pytest.approx(mean_quality)
        assert curve.cost[index] == pytest.approx(mean_cost)
        assert (curve.load[index] * n).round(9).tolist() == load
    # Between its price and the next a point is what every query takes.
    bounds = np.concatenate((curve.price[1:], [0.0]))
    for index, low in enumerate(bounds):
        high = min(curve.price[index], 2 * low + 1.0)
        arm = at_price((low + high) / 2, utility, cost)
        assert quality[np.arange(n), arm].mean() == pytest.approx(curve.quality[index])


def test_sweep_takes_equal_slopes_together():
    gain, cost = np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 0.5]]), np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 1.0]])
    curve = sweep(gain, cost, gain, cost)
    assert curve.price.tolist() == [np.inf, 1.0, 0.5]
    assert curve.load[:, 1].tolist() == pytest.approx([0.0, 2 / 3, 1.0])


def test_sweep_of_one_arm_or_of_useless_arms_is_one_point():
    one = np.full((4, 1), 0.5)
    assert sweep(one, one, one, one).quality.tolist() == [0.5]
    gain, cost = np.array([[0.5, 0.5], [0.4, 0.1]]), np.array([[1.0, 2.0], [1.0, 1.0]])
    curve = sweep(gain, cost, gain, cost)
    assert curve.load.tolist() == [[1.0, 0.0]]


def test_thinned_sweep_keeps_both_ends_and_leaves_no_gap_in_cost():
    rng = np.random.default_rng(0)
    utility, cost = rng.random((3000, 3)), rng.random((3000, 3))
    whole = sweep(utility, cost, utility, cost, n_points=10_000)
    thin = sweep(utility, cost, utility, cost, n_points=20)
    assert 20 <= len(thin.price) <= 22
    assert (thin.cost[0], thin.cost[-1]) == (whole.cost[0], whole.cost[-1])
    assert np.diff(thin.cost).max() < 2 * np.ptp(thin.cost) / 19
    kept = np.searchsorted(-whole.price, -thin.price)
    np.testing.assert_array_equal(whole.price[kept], thin.price)
    np.testing.assert_allclose(whole.quality[kept], thin.quality)
    np.testing.assert_allclose(whole.load[kept], thin.load)
    few = sweep(utility[:5], cost[:5], utility[:5], cost[:5], n_points=20)
    assert len(few.price) == len(sweep(utility[:5], cost[:5], utility[:5], cost[:5], n_points=10_000).price)


def test_standard_errors_are_those_of_means_and_count_clusters():
    rng = np.random.default_rng(1)
    quality, cost = rng.random((60, 2)), np.tile([0.0, 1.0], (60, 1))
    cluster = np.repeat(["a", "b", "c", "d", "e", "f"], 10)
    plain = sweep(quality, cost, quality, cost)
    clustered = sweep(quality, cost, quality, cost, cluster=cluster)
    first = quality[:, 0]
    assert plain.quality_se[0] == pytest.approx(first.std(ddof=1) / np.sqrt(60))
    sums = (first - first.mean()).reshape(6, 10).sum(axis=1)
    assert clustered.quality_se[0] == pytest.approx(np.sqrt(sums @ sums * 6 / 5) / 60)
    assert plain.cost_se[0] == 0.0
    alone = sweep(quality[:1], cost[:1], quality[:1], cost[:1])
    assert np.isnan(alone.quality_se).all()


def test_frame_has_intervals_and_shares():
    gain, cost = np.array([[0.0, 0.9], [0.0, 0.1]]), np.tile([0.0, 1.0], (2, 1))
    curve = sweep(gain, cost, gain, cost)
    frame = curve.frame(("small", "large"), z=2.0)
    assert frame.columns[-2:] == ["share:small", "share:large"]
    np.testing.assert_allclose(frame["quality_high"].to_numpy(), curve.quality + 2 * curve.quality_se)
    np.testing.assert_allclose(frame["quality_low"].to_numpy(), curve.quality - 2 * curve.quality_se)
    assert frame["share:large"].to_list() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, np.zeros((2, 3)), r"predicted_utility must have shape \(2, 2\) like quality, got \(2, 3\)"),
        (
            1,
            np.array([[0.0, 1.0], [np.nan, np.inf]]),
            "predicted_cost is not finite in 1 of 2 rows, the first is row 1",
        ),
        (2, np.array([[0.0, np.nan], [0.0, 1.0]]), "quality is not finite in 1 of 2 rows, the first is row 0"),
        (3, np.zeros((3, 2)), r"cost must have shape \(2, 2\) like quality, got \(3, 2\)"),
    ],
)
def test_sweep_refuses_what_does_not_fit(place, value, message):
    tables = [np.tile([0.0, 1.0], (2, 1)) for _ in range(4)]
    tables[place] = value
    with pytest.raises(EvaluationError, match=message):
        sweep(*tables)


# --- areas ------------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_area_over_zero_is_the_integral_of_the_height(seed):
    rng = np.random.default_rng(seed)
    arm_cost, arm_quality = rng.random(4), rng.random(4)
    cost, quality = rng.random(6), rng.random(6)
    value = area_over_zero(cost, quality, arm_cost, arm_quality)
    at = np.linspace(arm_cost.min(), arm_cost.max(), 40_001)
    order = np.argsort(cost)
    height = np.interp(at, cost[order], quality[order]) - hull_quality(at, arm_cost, arm_quality)
    height[at < cost.min()] = 0.0
    assert value == pytest.approx(height.mean(), abs=2e-4)


def test_area_over_zero_is_zero_left_of_the_first_point():
    # The router starts at cost 3 of the range 1 to 5, .2 above the zero router's flat .5, and stays there.
    assert area_over_zero([3, 4], [0.7, 0.7], [1, 5], [0.5, 0.5]) == pytest.approx(0.1)
    assert area_over_zero([9], [0.9], [1, 5], [0.5, 0.5]) == 0.0


def test_area_over_zero_of_the_single_arms_themselves_is_zero():
    assert area_over_zero([1, 2, 5], [0.4, 0.7, 0.8], [1, 2, 5], [0.4, 0.7, 0.8]) == pytest.approx(0.0, abs=1e-12)


def test_area_over_zero_counts_the_best_of_points_of_equal_cost():
    twice = area_over_zero([1, 2, 2, 3], [0.4, 0.5, 0.8, 0.8], [1, 3], [0.4, 0.4])
    assert twice == pytest.approx(area_over_zero([1, 2, 3], [0.4, 0.8, 0.8], [1, 3], [0.4, 0.4]))


def test_area_over_zero_of_arms_of_equal_cost_is_the_gap_to_the_best():
    assert area_over_zero([2], [0.7], [2, 2], [0.3, 0.5]) == pytest.approx(0.2)


def test_aiq_of_one_point_and_of_one_cost_is_the_best_quality():
    assert aiq([2.0], [0.7]) == 0.7
    assert aiq([2.0, 2.0, 2.0], [0.3, 0.7, 0.5]) == 0.7
    assert aiq([1.0, 3.0], [0.4, 0.8], low=2.0, high=2.0) == pytest.approx(0.6)


def test_aiq_over_a_common_range_cuts_and_extends():
    assert aiq([1, 3], [0.4, 0.8], low=2) == pytest.approx(0.7)
    assert aiq([1, 3], [0.4, 0.8], high=5) == pytest.approx((0.6 * 2 + 0.8 * 2) / 4)
    assert aiq([1, 3], [0.4, 0.8], low=4, high=5) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "min"}, "norm must be 'range' or 'max', got 'min'"),
        ({"low": 0.5}, "the range starts at 0.5, left of the first point at 1, where quality is not defined"),
        ({"low": 2.0, "high": 1.5}, "the range ends at 1.5, left of its start 2"),
        ({"high": np.nan}, "the range ends at nan, left of its start 1"),
    ],
)
def test_aiq_refuses_ranges_without_quality(options, message):
    with pytest.raises(EvaluationError, match=message):
        aiq([1, 3], [0.4, 0.8], **options)


def test_aiq_by_the_largest_cost_needs_one_above_zero():
    with pytest.raises(EvaluationError, match="which must be above 0, got -1"):
        aiq([-3, -1], [0.4, 0.8], norm="max")


@pytest.mark.parametrize("call", [upper_hull, lambda c, q: area_over_zero(c, q, [1], [1])], ids=["hull", "area"])
@pytest.mark.parametrize(
    ("cost", "quality", "message"),
    [
        ([], [], r"equally long and not empty, got shapes \(0,\) and \(0,\)"),
        ([1, 2], [1], r"got shapes \(2,\) and \(1,\)"),
        ([1, np.inf], [1, np.nan], r"1 points are not finite, the first is point 1 \(inf, nan\)"),
    ],
)
def test_points_that_are_none_are_refused(call, cost, quality, message):
    with pytest.raises(EvaluationError, match=message):
        call(cost, quality)


def test_hull_quality_is_not_defined_left_of_the_first_point():
    assert np.isnan(hull_quality([0.5], [1, 2], [0.4, 0.7])).all()


# --- oracle -----------------------------------------------------------------------------------------------------------


def test_oracle_breaks_ties_by_cost_then_index_and_never_takes_what_was_not_seen():
    quality = [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [np.nan, 0.0, 0.5], [0.2, 0.9, 0.9]]
    cost = [[2.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, np.nan], [0.0, np.nan, 3.0]]
    assert oracle(quality, cost).tolist() == [1, 0, 2, 2]
    assert oracle(quality).tolist() == [0, 0, 2, 1]


def test_oracle_refuses_queries_without_quality_and_costs_of_another_shape():
    with pytest.raises(EvaluationError, match="1 queries have no observed quality, the first is row 1"):
        oracle([[1.0, 0.0], [np.nan, np.nan]])
    with pytest.raises(EvaluationError, match=r"cost must have shape \(1, 2\) like quality, got \(2,\)"):
        oracle([[1.0, 0.0]], [1.0, 2.0])


@pytest.mark.parametrize("seed", range(5))
def test_weighting_the_steps_is_sweeping_the_resampled_queries(seed):
    rng = np.random.default_rng(seed)
    utility, price = rng.normal(size=(80, 4)), rng.integers(1, 4, size=(80, 4)).astype(float)
    quality, cost = rng.random((80, 4)), rng.random((80, 4))
    rows = rng.integers(80, size=80)
    # Within a group of equal slopes the curve has one point for all, so that repeats of a query make no points of their own.
    whole = sweep(utility[rows], price[rows], quality[rows], cost[rows], n_points=10**6)
    at, found = Resweep(utility, price, quality, cost).points(
        np.bincount(rows, minlength=80).astype(float), n_points=10**6
    )
    kept = np.concatenate(([True], (np.abs(np.diff(at)) + np.abs(np.diff(found))) > 1e-12))
    assert at[kept] == pytest.approx(whole.cost, abs=1e-12)
    assert found[kept] == pytest.approx(whole.quality, abs=1e-12)
