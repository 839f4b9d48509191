"""Deferral curve: area, rates in between, and what is refused; its numbers are in tests/acceptance/test_x4_deferral.py."""

from __future__ import annotations

import math

import numpy as np
import pytest

from defer.evaluation import DeferralCurve, deferral_curve, oracle_deferral_curve, strong_share_curve
from defer.exceptions import EvaluationError


def test_it_is_the_curve_of_two_arms():
    rng = np.random.default_rng(0)
    score, own, expert = rng.integers(5, size=40), rng.random(40), rng.random(40)
    curve = deferral_curve(score, own, expert)
    rate, quality = strong_share_curve(score, own, expert)
    assert curve.rate.tolist() == rate.tolist()
    assert curve.quality.tolist() == quality.tolist()
    assert curve.frame.to_native().to_pydict() == {"rate": rate.tolist(), "quality": quality.tolist()}


def test_area_is_the_mean_quality_over_random_rates():
    rng = np.random.default_rng(1)
    curve = deferral_curve(rng.random(7), rng.random(7), rng.random(7))
    grid = np.linspace(0, 1, 100_001)
    assert curve.area == pytest.approx(np.mean([curve.quality_at(rate) for rate in grid[::20]]), abs=1e-3)
    assert curve.area == pytest.approx(np.interp(grid, curve.rate, curve.quality).mean(), abs=1e-5)


def test_a_worthless_pair_has_no_gain():
    curve = deferral_curve([1, 2], [0, 0], [0, 0])
    assert curve.area == 0.0
    assert math.isnan(curve.gain_over_random)


def test_it_describes_itself():
    curve = DeferralCurve(np.array([0.0, 0.5, 1.0]), np.array([0.6, 0.9, 0.8]))
    assert repr(curve) == "DeferralCurve(3 points, quality 0.6 to 0.8; area 0.8, +14.29% on random)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: deferral_curve([], [], []), r"score must have shape \(n,\) and not be empty, got \(0,\)"),
        (lambda: deferral_curve([0.1], [0, 1], [1]), r"own must have shape \(1,\), got \(2,\)"),
        (lambda: deferral_curve([0.1], [0], [[1]]), r"expert must have shape \(1,\), got \(1, 1\)"),
        (
            lambda: deferral_curve([0.1, np.nan], [0, 1], [1, 1]),
            r"score has 1 of 2 values that are not allowed, the first in row 1 \(nan\); each must be finite",
        ),
        (lambda: oracle_deferral_curve([0, 1], [1]), r"expert must have shape \(2,\), got \(1,\)"),
        (lambda: deferral_curve([0.1], [0], [1]).quality_at(1.2), r"rate must be in \[0, 1\], got 1\.2"),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises(EvaluationError, match=message):
        call()
