"""Bernstein and Hoeffding intervals through `estimate_value`: they hold at every sample size, or say what they rest on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from defer import OutcomeLog
from defer.evaluation import IPS, RunningValue, estimate_value
from defer.exceptions import EvaluationError, SupportWarning

BOUNDS = ("empirical_bernstein", "hoeffding")


def rare_log(seed: int) -> OutcomeLog:
    """200 rounds of a policy that takes the good arm once in 200 times."""
    quality = np.tile([0.0, 1.0], (200, 1))
    return OutcomeLog.from_arrays(None, quality, arms=["bad", "good"]).with_action(
        np.tile([0.995, 0.005], (200, 1)), seed=seed
    )


@pytest.mark.filterwarnings("ignore:support is poor:defer.exceptions.SupportWarning")
@pytest.mark.parametrize("interval", BOUNDS)
def test_bounds_cover_although_the_arm_was_hardly_ever_taken(interval):
    misses = 0
    for seed in range(100):
        estimate = estimate_value(np.full(200, "good"), rare_log(seed), estimator="ips", interval=interval)
        misses += not estimate.low <= 1.0 <= estimate.high
    assert misses <= binom.ppf(1 - 1e-4, 100, 0.05)


def test_without_the_whole_logging_policy_a_bound_says_what_it_rests_on():
    log = replace(rare_log(3), policy=None)
    with pytest.warns(
        SupportWarning, match="hoeffding bound rests on no weight being larger than the largest observed one"
    ):
        estimate_value(np.full(200, "good"), log, estimator="ips", interval="hoeffding")
    with pytest.warns(SupportWarning, match="support is poor") as caught:
        stated = estimate_value(np.full(200, "good"), log, estimator="ips", interval="hoeffding", max_weight=200.0)
    assert "rests on" not in str(caught[0].message)
    assert stated.high - stated.value == pytest.approx(200.0 * np.sqrt(np.log(1 / 0.025) / 400))


def test_the_range_of_the_model_widens_a_bound():
    def width(constant: float) -> float:
        value = RunningValue("dr")
        rng = np.random.default_rng(0)
        model = np.full(100, constant)
        value.update(rng.random(100), rng.random(100), predicted=model, expected=model)
        estimate = value.result(interval="hoeffding", max_weight=1.0)
        return estimate.high - estimate.low

    assert width(50.0) == pytest.approx(50.0 * width(1.0))


@pytest.mark.parametrize("interval", BOUNDS)
def test_outcomes_that_never_varied_do_not_give_an_interval_without_width(interval):
    log = OutcomeLog.from_arrays(None, np.zeros((50, 2)))
    estimate = estimate_value(np.full((50, 2), 0.5), log, interval=interval)
    assert estimate.high > 0.1
    wider = estimate_value(np.full((50, 2), 0.5), log, interval=interval, quality_range=(0.0, 10.0))
    assert wider.high == pytest.approx(10 * estimate.high)


def test_stated_range_and_largest_weight_give_the_bound_of_the_formula():
    value = RunningValue(IPS())
    value.update(np.array([0.2, 3.2, 0.8, 3.2, 0.4, 4.0]), np.array([1.0, 0, 1, 1, 0, 1]))
    assert value.result(interval="hoeffding", level=0.9, max_weight=4.0).low == pytest.approx(-0.631910, abs=5e-7)
    assert value.result(interval="empirical_bernstein", level=0.9, max_weight=4.0).low == pytest.approx(
        -7.485026, abs=5e-7
    )


def test_replay_is_refused_where_the_log_is_not_uniform():
    log = OutcomeLog.from_arrays(None, np.ones((300, 2))).with_action(np.tile([0.7, 0.3], (300, 1)), seed=0)
    with pytest.raises(
        EvaluationError, match=r"'rm' is the mean of the rows in which .* another weight than the first .*: use 'snips'"
    ):
        estimate_value(np.full((300, 2), 0.5), log, estimator="rm")
    uniform = OutcomeLog.from_arrays(None, np.ones((300, 2))).with_action(np.full((300, 2), 0.5), seed=0)
    assert estimate_value(np.zeros(300, dtype=int), uniform, estimator="rm").value == 1.0
