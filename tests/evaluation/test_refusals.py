"""What `estimate_value` and `outcome_table` refuse, and in which words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from defer import OutcomeLog
from defer.evaluation import IPS, Switch, estimate_value, evaluate, outcome_table
from defer.evaluation.realised import policy_terms
from defer.exceptions import EvaluationError, MissingPropensityWarning, SupportWarning


@pytest.fixture
def even():
    """Policy that takes each of the three arms with the same probability."""
    return np.full((200, 3), 1 / 3)


@pytest.fixture
def blind_log(bandit_log):
    """A bandit log whose propensities are lost."""
    with pytest.warns(MissingPropensityWarning):
        return OutcomeLog.from_arrays(bandit_log.X, bandit_log.quality, arms=bandit_log.arms, action=bandit_log.action)


@pytest.fixture
def rigid_log(full_log):
    """Logged by a policy that always takes the small arm."""
    return full_log.with_action(np.tile([1.0, 0.0, 0.0], (200, 1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 1.0}, r"level must be in \(0, 1\), got 1.0"),
        ({"interval": "wide"}, r"interval must be 'auto' or one of \('normal', .*\), got 'wide'"),
        ({"estimator": "magic"}, r"estimator must be 'auto', one of \[.*\] or an estimator object, got 'magic'"),
    ],
)
def test_unknown_options(full_log, even, options, message):
    with pytest.raises(EvaluationError, match=message):
        estimate_value(even, full_log, **options)


def test_a_full_log_needs_no_estimator(full_log, even):
    with pytest.raises(EvaluationError, match="this log has full information: the value is a plain mean"):
        estimate_value(even, full_log, estimator="ips")


def test_a_full_log_with_gaps_names_the_first_row(full_log, even):
    quality = np.array(full_log.quality)
    quality[[7, 9], 1] = np.nan
    gappy = replace(full_log, quality=quality)
    with pytest.raises(
        EvaluationError,
        match="quality of an arm that the policy takes was not observed in 2 of 200 rows, the first is row 7",
    ):
        estimate_value(even, gappy)
    assert estimate_value(np.full(200, "large"), gappy).value == pytest.approx(quality[:, 2].mean())


def test_costs_with_gaps_are_refused_and_quality_is_not(full_log, even):
    cost = np.array(full_log.cost)
    cost[5, 0] = np.nan
    estimate = estimate_value(even, replace(full_log, cost=cost))
    assert np.isfinite(estimate.value)
    assert estimate.cost.is_refused
    assert estimate.cost.warnings == (
        "cost of an arm that the policy takes was not observed in 1 of 200 rows, the first is row 5",
    )
    assert np.isfinite(estimate.latency.value)
    evaluation = evaluate(even, replace(full_log, cost=cost))
    assert evaluation.cost_difference is None
    assert np.isnan(evaluation.domains["cost"].to_numpy()).all()


def test_rows_without_a_decision_are_named(full_log, even):
    quality = np.array(full_log.quality)
    quality[3:, 1] = np.nan
    mixed = replace(
        full_log,
        quality=quality,
        action=np.where(np.arange(200) < 3, -1, 0),
        propensity=np.where(np.arange(200) < 3, np.nan, 0.5),
    )
    for refused in (lambda: estimate_value(even, mixed), lambda: outcome_table(mixed, "quality")):
        with pytest.raises(
            EvaluationError, match="3 of 200 rows have no logged arm, the first is row 0; select the others"
        ):
            refused()


def test_a_log_without_propensities_has_the_direct_method_only(blind_log, even):
    with pytest.raises(EvaluationError, match=r"the log has no propensities \(200 rows\); only 'dm' can do without"):
        estimate_value(even, blind_log)
    with pytest.warns(SupportWarning, match="the log has no propensities"):
        estimate = estimate_value(even, blind_log, estimator="dm")
    assert estimate.estimator == "dm"
    with pytest.raises(EvaluationError, match="the log has no propensities"):
        outcome_table(blind_log, "quality")


def test_a_deterministic_log_can_only_speak_of_itself(rigid_log, even):
    with pytest.raises(
        EvaluationError,
        match="the log is deterministic and disagrees with the policy in 200 of 200 rows: only 'dm' can be had",
    ):
        estimate_value(even, rigid_log, estimator="ips")
    with pytest.warns(SupportWarning, match="no interval: the log is deterministic"):
        assert estimate_value(even, rigid_log).is_refused
    itself = estimate_value(np.full(200, "small"), rigid_log, estimator="ips")
    assert itself.value == pytest.approx(np.asarray(rigid_log.quality)[:, 0].mean())


def test_mass_on_arms_that_the_log_never_takes_gives_no_interval(full_log, even):
    log = full_log.with_action(np.tile([0.5, 0.5, 0.0], (200, 1)), seed=0)
    with pytest.warns(
        SupportWarning, match=r"33.33% of the policy's mass is on arms that the log never takes, in 200 rows"
    ):
        assert estimate_value(even, log).is_refused


def test_the_direct_method_says_when_it_rests_on_the_model_alone(full_log):
    log = full_log.with_action(np.tile([0.97, 0.02, 0.01], (200, 1)), seed=0)
    with pytest.warns(SupportWarning, match="support is poor"):
        estimate_value(np.full(200, "large"), log, estimator="dm")


def test_a_missing_cost_of_a_logged_arm_is_refused_and_quality_is_not(bandit_log, even):
    cost = np.array(bandit_log.cost)
    cost[4, bandit_log.action[4]] = np.nan
    log = replace(bandit_log, cost=cost)
    estimate = estimate_value(even, log)
    assert np.isfinite(estimate.low)
    assert estimate.cost.warnings == ("cost of the logged arm is missing in 1 of 200 rows, the first is row 4",)
    with pytest.raises(EvaluationError, match="cost of the logged arm is missing in 1 of 200 rows, the first is row 4"):
        outcome_table(log, "cost")


def test_outcomes_that_the_log_lacks(full_log):
    log = replace(full_log, cost=None, latency=None)
    with pytest.raises(EvaluationError, match="the log has no cost"):
        outcome_table(log, "cost")
    with pytest.raises(EvaluationError, match="the log has no latency"):
        _ = estimate_value(np.full(200, "small"), log).latency


def test_terms_of_an_unobserved_arm_are_refused():
    table = np.array([[1.0, np.nan], [1.0, 0.0]])
    with pytest.raises(EvaluationError, match="not observed in 1 of 2 rows, the first is row 0"):
        policy_terms(np.array([[0.5, 0.5], [0.5, 0.5]]), table)
    assert policy_terms(np.array([[1.0, 0.0], [0.5, 0.5]]), table).tolist() == [1.0, 0.5]


def test_by_name_the_parameter_is_tuned_and_an_object_keeps_its_own(bandit_log, even):
    tuned = estimate_value(even, bandit_log, estimator="switch")
    lowest = estimate_value(even, bandit_log, estimator=Switch(0.0))
    assert lowest.value == pytest.approx(estimate_value(even, bandit_log, estimator="dm").value)
    assert tuned.value != lowest.value
    assert (
        estimate_value(even, bandit_log, estimator=IPS()).value
        == estimate_value(even, bandit_log, estimator="ips").value
    )


def test_an_estimate_prints_and_tabulates_all_outcomes(full_log):
    estimate = estimate_value(np.full((200, 3), 1 / 3), full_log)
    assert estimate.frame["outcome"].to_list() == ["quality", "cost", "latency"]
    assert str(estimate).startswith("quality 0.")
    refused = replace(estimate, low=float("nan"))
    assert "no interval" in str(refused)
