"""Deferral of a two-model cascade: the specialist example, marginal identity, and what the score can and cannot change.

The example has three kinds of queries of mass .3, .3 and .4 and is held as ten; its areas and points follow by hand.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defer.datasets import confidence_trap
from defer.evaluation import deferral_curve, oracle_deferral_curve

OWN = np.repeat([0.6, 0.55, 0.9], [3, 3, 4])
EXPERT = np.repeat([0.9, 0.5, 0.92], [3, 3, 4])


def points(curve) -> list[tuple[float, float]]:
    return [(round(rate, 12), round(quality, 12)) for rate, quality in zip(curve.rate, curve.quality, strict=True)]


def test_each_model_by_itself():
    assert OWN.mean() == pytest.approx(0.705, abs=1e-12)
    assert EXPERT.mean() == pytest.approx(0.788, abs=1e-12)


def test_deferring_by_confidence_is_worse_than_at_random():
    curve = deferral_curve(-OWN, OWN, EXPERT)
    assert points(curve) == [(0, 0.705), (0.3, 0.69), (0.6, 0.78), (1, 0.788)]
    assert curve.area == pytest.approx(0.743350, abs=1e-12)
    assert curve.random_area == pytest.approx(0.746500, abs=1e-12)
    assert curve.gain_over_random == pytest.approx(100 * (0.743350 / 0.746500 - 1), abs=1e-9)
    assert curve.gain_over_random < 0


def test_the_best_order_beats_both_models():
    curve = oracle_deferral_curve(OWN, EXPERT)
    assert points(curve) == [(0, 0.705), (0.3, 0.795), (0.7, 0.803), (1, 0.788)]
    assert curve.area == pytest.approx(0.783250, abs=1e-12)
    assert curve.quality.max() > max(OWN.mean(), EXPERT.mean())


def test_at_price_a_tenth_only_the_first_kind_is_deferred():
    trap = confidence_trap(10)
    assert trap.expected_cost[:, 0] == pytest.approx(1 - OWN, abs=1e-12)
    assert trap.expected_cost[:, 1] == pytest.approx(1 - EXPERT, abs=1e-12)
    assert replace(trap, cost=[0.1]).bayes_action.tolist() == [1] * 3 + [0] * 7
    assert trap.bayes_risk == pytest.approx(1 - 0.803, abs=1e-12)


answers = st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), min_size=1, max_size=12)


@given(answers)
def test_only_rescues_and_losses_count(rows):
    score, own, expert = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    curve = deferral_curve(score, own, expert)
    thresholds = [np.inf, *sorted(set(score.tolist()), reverse=True)]
    for threshold, quality in zip(thresholds, curve.quality, strict=True):
        deferred = score >= threshold
        rescued = (deferred & (expert == 1) & (own == 0)).mean()
        lost = (deferred & (expert == 0) & (own == 1)).mean()
        assert quality == pytest.approx(own.mean() + rescued - lost, abs=1e-12)


@given(answers)
def test_increasing_transforms_and_the_order_of_rows_change_nothing(rows):
    score, own, expert = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    curve = deferral_curve(score, own, expert)
    assert points(deferral_curve(np.exp(score) - 7, own, expert)) == points(curve)
    assert points(deferral_curve(score[::-1], own[::-1], expert[::-1])) == points(curve)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=10, unique=True), st.floats(0, 1))
def test_confidence_is_optimal_where_the_expert_is_equally_good_everywhere(eta, level):
    own, expert = np.round(eta, 6), np.full(len(eta), round(level, 6))
    by_confidence, best = deferral_curve(-own, own, expert), oracle_deferral_curve(own, expert)
    assert np.interp(best.rate, by_confidence.rate, by_confidence.quality) == pytest.approx(best.quality, abs=1e-9)
    assert by_confidence.area == pytest.approx(best.area, abs=1e-9)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_oracle_is_above_the_optimal_order_and_that_above_every_score(seed):
    rng = np.random.default_rng(seed)
    own, expert = rng.random(30), rng.random(30)
    optimal = oracle_deferral_curve(own, expert)
    score = rng.integers(0, 8, 30).astype(float)
    assert optimal.area >= deferral_curve(score, own, expert).area - 1e-12
    # A constant score defers all or nothing: what lies between is random deferral.
    constant = deferral_curve(np.zeros(30), own, expert)
    assert constant.area == pytest.approx(constant.random_area, abs=1e-12)
    own_right, expert_right = (rng.random(30) < p for p in (own, expert))
    oracle = oracle_deferral_curve(own_right, expert_right)
    assert oracle.area >= deferral_curve(expert - own, own_right, expert_right).area - 1e-12
