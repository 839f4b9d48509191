"""Two-arm metrics: ties, curves that fall, arms of equal quality, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defer.evaluation import apgr, apgr_ten_points, cpt, pgr, strong_share_curve, threshold_for_share
from defer.exceptions import EvaluationError


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_curve_has_a_point_for_every_threshold_and_no_other(seed):
    rng = np.random.default_rng(seed)
    score, weak, strong = rng.integers(4, size=9) / 3, rng.random(9), rng.random(9)
    share, quality = strong_share_curve(score, weak, strong)
    thresholds = [math.inf, *sorted(set(score.tolist()), reverse=True)]
    assert share.tolist() == pytest.approx([(score >= t).mean() for t in thresholds])
    assert quality.tolist() == pytest.approx([np.where(score >= t, strong, weak).mean() for t in thresholds])


def test_equal_scores_move_together():
    share, quality = strong_share_curve([0.5, 0.5, 0.5], [0.0, 0.0, 0.3], [1.0, 1.0, 1.0])
    assert share.tolist() == [0.0, 1.0]
    assert quality.tolist() == pytest.approx([0.1, 1.0])


def test_pgr_is_not_clipped():
    assert pgr([0.5, 0.9], 0.6, 0.8).tolist() == pytest.approx([-0.5, 1.5])


@pytest.mark.parametrize(
    ("weak", "strong"),
    [([0.0, 1.0], [1.0, 0.0]), ([0.1, 0.2, 0.9], [0.9, 0.1, 0.2]), ([0.1, 0.2, 0.9], [0.2, 0.9, 0.1]), ([0.0], [0.0])],
)
def test_arms_of_equal_quality_have_no_gap_to_recover(weak, strong):
    # The same outcomes summed in another order differ in the last bit, which is no gap either.
    curve = strong_share_curve(-np.arange(len(weak)), weak, strong)
    assert math.isnan(apgr(*curve))
    assert math.isnan(apgr_ten_points(*curve))
    assert math.isnan(cpt(0.5, *curve))
    assert np.isnan(pgr([0.2, 0.4], 0.3, 0.3)).all()


def test_a_strong_arm_that_is_worse_is_refused():
    with pytest.raises(EvaluationError, match=r"the strong arm \(0\.4\) is worse than the weak one \(0\.6\)"):
        apgr([0, 1], [0.6, 0.4])


def test_cpt_of_a_curve_that_falls_is_its_first_crossing():
    share, quality = [0, 0.25, 0.5, 0.75, 1], [0.0, 0.6, 0.2, 0.9, 1.0]
    assert cpt(0.5, share, quality) == pytest.approx(0.25 * 0.5 / 0.6)
    assert cpt(0.6, share, quality) == pytest.approx(0.25)
    assert cpt(0.7, share, quality) == pytest.approx(0.5 + 0.25 * 0.5 / 0.7)
    assert cpt(0.0, share, quality) == 0.0
    assert math.isnan(cpt(1.01, share, quality))


def test_cpt_of_a_curve_above_the_strong_arm_reaches_more_than_its_gap():
    assert cpt(1.0, [0, 0.5, 1], [0.0, 2.0, 1.0]) == pytest.approx(0.25)
    assert cpt(1.5, [0, 0.5, 1], [0.0, 2.0, 1.0]) == pytest.approx(0.375)


@given(seed=st.integers(0, 2**32 - 1), level=st.floats(0.01, 0.99))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_cpt_is_the_least_share_that_reaches_the_level(seed, level):
    rng = np.random.default_rng(seed)
    share = np.concatenate(([0.0], np.sort(rng.random(5)), [1.0]))
    quality = np.concatenate(([0.0], rng.normal(0.5, 0.5, size=5), [1.0]))
    found = cpt(level, share, quality)
    assert np.interp(found, share, quality) == pytest.approx(level)
    before = np.linspace(0, found, 500, endpoint=False)
    assert (np.interp(before, share, quality) < level + 1e-9).all()


def test_ten_points_are_the_shares_of_routellm():
    assert apgr_ten_points([0, 1], [0.0, 1.0]) == pytest.approx(0.55)
    assert apgr_ten_points([0, 0.05, 1], [0.0, 1.0, 1.0]) == pytest.approx(1.0)


def test_threshold_realises_the_largest_share_that_fits():
    score = [0.1, 0.5, 0.5, 0.9]
    assert threshold_for_share(score, 0.0) == (math.inf, 0.0)
    assert threshold_for_share(score, 0.2) == (math.inf, 0.0)
    assert threshold_for_share(score, 0.25) == (0.9, 0.25)
    assert threshold_for_share(score, 0.74) == (0.9, 0.25)
    assert threshold_for_share(score, 0.75) == (0.5, 0.75)
    assert threshold_for_share(score, 1.0) == (0.1, 1.0)
    assert threshold_for_share(np.arange(10), 0.3) == (7.0, 0.3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: strong_share_curve([0.1], [0.0, 1.0], [1.0, 1.0]), r"one shape \(n,\), got \(1,\), \(2,\), \(2,\)"),
        (lambda: strong_share_curve([], [], []), r"score must have shape \(n,\) and not be empty, got \(0,\)"),
        (
            lambda: strong_share_curve([0.1, 0.2], [0.0, np.nan], [1.0, 1.0]),
            r"weak has 1 of 2 values that are not finite, the first in row 1 \(nan\)",
        ),
        (lambda: strong_share_curve([[0.1]], [[0.0]], [[1.0]]), r"score must have shape \(n,\)"),
        (
            lambda: apgr([0.0, 0.9], [0.1, 0.2]),
            "from share 0 to share 1 in increasing order, got 2 points from 0 to 0.9",
        ),
        (lambda: apgr([0.0, 0.6, 0.5, 1.0], [0.1, 0.2, 0.3, 0.4]), "in increasing order, got 4 points"),
        (lambda: apgr([0.0, 1.0], [0.1, 0.2, 0.3]), "share and quality must be equally long, got 2 and 3"),
        (lambda: cpt(0.5, [0.0, np.nan, 1.0], [0.1, 0.2, 0.3]), "share has 1 of 3 values that are not finite"),
        (lambda: threshold_for_share([0.1, np.nan], 0.5), "score has 1 of 2 values that are not finite"),
        (lambda: threshold_for_share([], 0.5), r"score must have shape \(n,\) and not be empty"),
        (lambda: threshold_for_share([0.1], 1.5), r"share must be in \[0, 1\], got 1.5"),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises(EvaluationError, match=message):
        call()
