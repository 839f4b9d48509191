"""Thresholds for a wanted drop of quality: every split counted by hand or by brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from defer.estimators.routers.drop_threshold import threshold_for_drop, threshold_table
from defer.exceptions import RouterInputError

outcomes = st.lists(
    st.tuples(st.integers(0, 3), st.integers(-4, 4), st.integers(-4, 4), st.integers(0, 2)), min_size=1, max_size=8
).filter(lambda rows: any(row[3] for row in rows))


def test_every_threshold_is_there_with_both_ends():
    table = threshold_table([0.9, 0.9, 0.6, 0.2], [1.0, 0.5, 1.0, 0.0], [1.0, 1.0, 0.5, 1.0])
    assert table.threshold.tolist() == [-np.inf, 0.2, 0.6, 0.9, np.inf]
    assert table.cost_advantage.tolist() == [1.0, 1.0, 0.75, 0.5, 0.0]
    assert table.quality.tolist() == [0.625, 0.625, 0.875, 0.75, 0.875]
    assert table.drop == pytest.approx([100 * 0.25 / 0.875, 100 * 0.25 / 0.875, 0.0, 100 * 0.125 / 0.875, 0.0])
    assert len(table) == len(list(table)) == 5


def test_zero_sends_all_to_the_small_arm_and_more_than_one_none():
    table = threshold_table([0.9, 0.4], [0.5, 0.3], [0.8, 0.8])
    for threshold in (0.0, 0.4, -np.inf):
        assert table.at(threshold).cost_advantage == 1.0
        assert table.at(threshold).drop == pytest.approx(50.0)
    assert table.at(0.6).cost_advantage == table.at(0.9).cost_advantage == 0.5
    for threshold in (1.001, np.inf):
        assert (table.at(threshold).cost_advantage, table.at(threshold).drop) == (0.0, 0.0)


@given(outcomes)
def test_each_row_is_what_routing_by_it_gives(rows):
    score, small, large, weight = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    table, total = threshold_table(score, small, large, weight=weight), weight.sum()
    assert set(table.threshold) == {-np.inf, *score[weight > 0], np.inf}
    at_large = weight @ large / total
    for point in table:
        taken = score >= point.threshold
        quality = weight @ np.where(taken, small, large) / total
        assert point.cost_advantage == pytest.approx(weight @ taken / total, abs=1e-12)
        assert point.quality == pytest.approx(quality, abs=1e-12)
        if abs(at_large) > 1e-9:
            assert point.drop == pytest.approx(100 * (at_large - quality) / abs(at_large), abs=1e-9)
    assert table.at(point.threshold).cost_advantage == 0.0


@given(outcomes, st.sampled_from([0.0, 1.0, 10.0, 60.0]))
def test_no_smaller_threshold_keeps_the_drop(rows, drop):
    score, small, large, weight = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    large = large + 10.0  # a mean that is not 0
    small = small + 10.0
    found = threshold_for_drop(score, small, large, drop=drop, weight=weight)
    at_large, total = weight @ large / weight.sum(), weight.sum()

    def lost(threshold):
        return 100 * (at_large - weight @ np.where(score >= threshold, small, large) / total) / at_large

    assert lost(found) <= drop + 1e-9
    smaller = [-np.inf, *[value for value in sorted(set(score[weight > 0]))[1:] if value < found]]
    assert all(lost(threshold) > drop for threshold in smaller if threshold < found)


def test_log_likelihoods_below_zero_drop_in_the_right_direction():
    table = threshold_table([0.7, 0.4], [-2.0, -4.0], [-2.0, -2.0])
    assert table.drop.tolist() == [50.0, 50.0, 0.0, 0.0]
    assert table.for_drop(1.0).threshold == 0.7


def test_where_the_large_arm_has_no_quality_any_loss_is_infinite():
    table = threshold_table([0.7, 0.4], [0.5, -1.0], [0.0, 0.0])
    assert table.drop.tolist() == [np.inf, np.inf, -np.inf, 0.0]
    assert table.for_drop(5.0).threshold == 0.7


def test_a_drop_that_is_met_exactly_counts():
    assert threshold_for_drop([0.9, 0.1], [0.8, 0.7], [0.8, 0.8], drop=6.25) == -np.inf
    assert threshold_for_drop([0.9, 0.1], [0.8, 0.7], [0.8, 0.8], drop=6.2) == 0.9


@pytest.mark.parametrize("drop", [-1.0, np.nan, np.inf, "1", True, None])
def test_a_wrong_drop_is_refused(drop):
    with pytest.raises(RouterInputError, match="a quality drop must be a finite number of per cent >= 0, got"):
        threshold_for_drop([0.5], [1.0], [1.0], drop=drop)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        (([0.5], [1.0, 0.0], [1.0]), r"need one shape \(n,\), got \(1,\), \(2,\), \(1,\) and \(1,\)"),
        (([], [], []), r"score must have shape \(n,\) with n >= 1, got \(0,\)"),
        ((["a"], [1.0], [1.0]), "score must be numbers"),
        (
            ([0.5, 0.6], [1.0, np.nan], [1.0, 1.0]),
            r"small has 1 values that are not finite, the first in row 1 \(nan\)",
        ),
    ],
)
def test_wrong_columns_are_named(given_, message):
    with pytest.raises(RouterInputError, match=message):
        threshold_table(*given_)


@pytest.mark.parametrize("weight", [[-1.0, 2.0], [0.0, 0.0]])
def test_wrong_weights_are_refused(weight):
    with pytest.raises(RouterInputError, match="weight must be >= 0, and above 0 somewhere"):
        threshold_table([0.5, 0.6], [1.0, 1.0], [1.0, 1.0], weight=weight)
