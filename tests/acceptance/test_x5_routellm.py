"""RouteLLM's two-arm metrics: the numbers and properties that follow from their definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defer import OutcomeLog
from defer.evaluation import apgr, apgr_ten_points, cpt, pgr, strong_share_curve, threshold_for_share

SHARE, QUALITY = [0, 0.25, 0.5, 0.75, 1], [0.6, 0.66, 0.75, 0.78, 0.8]

seeds = st.integers(0, 2**32 - 1)


def outcomes(seed, n=12):
    """Scores with ties, and qualities of two arms of which the second is better on average."""
    rng = np.random.default_rng(seed)
    weak, strong = rng.random(n), rng.random(n)
    return rng.integers(5, size=n) / 4, weak, strong + max(0.0, (weak - strong).mean()) + 0.1


def test_worked_example():
    assert pgr(QUALITY, 0.6, 0.8).tolist() == pytest.approx([0, 0.3, 0.75, 0.9, 1])
    assert apgr(SHARE, QUALITY) == pytest.approx(0.6125)
    assert cpt(0.5, SHARE, QUALITY) == pytest.approx(0.361111, abs=5e-7)
    assert cpt(0.8, SHARE, QUALITY) == pytest.approx(0.583333, abs=5e-7)


@given(seed=seeds, scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_metrics_do_not_change_under_affine_maps_of_quality(seed, scale, shift):
    share, quality = strong_share_curve(*outcomes(seed))
    moved = scale * quality + shift
    np.testing.assert_allclose(pgr(moved, moved[0], moved[-1]), pgr(quality, quality[0], quality[-1]), atol=1e-9)
    assert apgr(share, moved) == pytest.approx(apgr(share, quality))
    assert apgr_ten_points(share, moved) == pytest.approx(apgr_ten_points(share, quality))
    assert cpt(0.5, share, moved) == pytest.approx(cpt(0.5, share, quality), abs=1e-6)


def test_mean_pgr_over_a_fine_grid_tends_to_the_area():
    fine = np.interp(np.linspace(0, 1, 10_001), SHARE, pgr(QUALITY, 0.6, 0.8)).mean()
    assert fine == pytest.approx(apgr(SHARE, QUALITY), abs=1e-4)
    assert apgr_ten_points(SHARE, QUALITY) == pytest.approx(
        np.mean([0.12, 0.24, 0.39, 0.57, 0.75, 0.81, 0.87, 0.92, 0.96, 1.0])
    )


def test_random_router_recovers_the_share_of_calls_that_it_spends():
    # The mean over all orders of five queries, exactly.
    rng = np.random.default_rng(0)
    weak, strong = rng.random(5), rng.random(5) + 0.5
    curves = [strong_share_curve(order, weak, strong)[1] for order in itertools.permutations(range(5))]
    recovered = pgr(np.mean(curves, axis=0), weak.mean(), strong.mean())
    np.testing.assert_allclose(recovered, np.arange(6) / 5, atol=1e-12)
    share = np.arange(6) / 5
    assert apgr(share, np.mean(curves, axis=0)) == pytest.approx(0.5)
    assert cpt(0.8, share, np.mean(curves, axis=0)) == pytest.approx(0.8)


@given(seed=seeds)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_oracle_curve_dominates_every_router_and_is_concave(seed):
    score, weak, strong = outcomes(seed)
    gain = strong - weak
    share, quality = strong_share_curve(score, weak, strong)
    best_share, best = strong_share_curve(gain, weak, strong)
    assert (np.interp(share, best_share, best) >= quality - 1e-12).all()
    assert apgr(best_share, best) >= apgr(share, quality) - 1e-12
    slope = np.diff(pgr(best, best[0], best[-1])) / np.diff(best_share)
    assert (np.diff(slope) <= 1e-9).all()
    assert slope[0] == pytest.approx(gain.max() / gain.mean())


@given(seed=seeds)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_share_of_strong_calls_falls_with_the_threshold(seed):
    score = outcomes(seed, n=20)[0]
    thresholds, shares = zip(*(threshold_for_share(score, share) for share in np.linspace(0, 1, 31)), strict=True)
    assert list(thresholds) == sorted(thresholds, reverse=True)
    assert list(shares) == sorted(shares)
    for threshold, share in zip(thresholds, shares, strict=True):
        assert (score >= threshold).mean() == pytest.approx(share)


@pytest.mark.parametrize(("drop", "strong", "weak"), [(False, 0.8567, 0.6384), (True, 0.8577, 0.6373)])
def test_gsm8k_curve_runs_between_the_arms_of_the_card(shared_data, drop, strong, weak):
    log = OutcomeLog.read_parquet(
        shared_data / "routellm" / "gsm8k.parquet", text="prompt", columns={"domain": "contaminated"}
    )
    log = log.select(~log.domain.astype(bool)) if drop else log
    quality = np.asarray(log.select(arms=["mixtral-8x7b-instruct-v0.1", "gpt-4-1106-preview"]).quality)
    share, curve = strong_share_curve(np.zeros(len(log)), quality[:, 0], quality[:, 1])
    assert share.tolist() == [0, 1]
    assert curve.tolist() == pytest.approx([weak, strong], abs=5e-5)
    assert apgr(share, curve) == pytest.approx(0.5)
    assert apgr(*strong_share_curve(quality[:, 1] - quality[:, 0], quality[:, 0], quality[:, 1])) > 0.8
