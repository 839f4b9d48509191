"""Off-policy evaluation: the numbers and properties that follow from their definitions."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from defer import OutcomeLog, evaluate
from defer.evaluation import (
    DM,
    DR,
    DR_OS,
    DR_PS,
    IPS,
    SNDR,
    SNIPS,
    ClippedIPS,
    Switch,
    estimate_value,
    uniform_policy,
)
from defer.evaluation.estimators import Rounds
from defer.evaluation.intervals import bernstein_radius, hoeffding_radius, interval_of
from defer.evaluation.moments import Moments
from defer.exceptions import SupportWarning
from defer.report import render_report

# --- six rounds ------------------------------------------------------------------------------------------------------

ACTION = np.array([0, 1, 1, 2, 0, 2])
REWARD = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
PROPENSITY = np.array([0.5, 0.25, 0.25, 0.25, 0.5, 0.25])
TARGET = np.array([[0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.2, 0.2, 0.6], [0, 0, 1.0]])
MODEL = np.array([[6, 4, 5], [5, 3, 5], [4, 7, 6], [3, 5, 9], [4, 4, 6], [2, 3, 8]]) / 10


def six_rounds() -> OutcomeLog:
    quality = np.full((6, 3), np.nan)
    quality[np.arange(6), ACTION] = REWARD
    return OutcomeLog.from_arrays(None, quality, action=ACTION, propensity=PROPENSITY)


SIX_ROUND_VALUES = [
    (IPS(), 1.366667),
    (SNIPS(), 0.694915),
    (DM(), 0.561667),
    (DR(), 0.615),
    (SNDR(), 0.588785),
    (ClippedIPS(2.0), 0.833333),
    (DR_PS(2.0), 0.588333),
    (Switch(0.0), 0.561667),
    (Switch(1.0), 0.588333),
    (Switch(2.0), 0.588333),
    (Switch(3.2), 0.481667),
    (Switch(np.inf), 0.615),
    (DR_OS(1.0), 0.574242),
    (DR_OS(10.0), 0.584875),
    (DR_OS(1e9), 0.615),
]


@pytest.mark.parametrize(("estimator", "value"), SIX_ROUND_VALUES, ids=lambda item: repr(item))
def test_six_round_log_gives_the_values_of_the_card(estimator, value):
    with pytest.warns(SupportWarning, match="support is poor"):
        estimate = estimate_value(TARGET, six_rounds(), estimator=estimator, quality_model=MODEL)
    assert estimate.value == pytest.approx(value, abs=5e-7)
    assert estimate.ess == pytest.approx(3.730975, abs=5e-7)
    assert estimate.max_weight == pytest.approx(4.0)
    assert estimate.n == 6


@pytest.mark.parametrize(("interval", "low"), [("empirical_bernstein", -7.485026), ("hoeffding", -0.631910)])
def test_six_round_log_gives_the_lower_bounds_of_the_card(interval, low):
    # Each side of a 90% interval has delta .05, and the weights reach b = 4.
    with pytest.warns(SupportWarning, match="support is poor"):
        estimate = estimate_value(TARGET, six_rounds(), estimator="ips", interval=interval, level=0.9)
    assert estimate.low == pytest.approx(low, abs=5e-7)
    assert estimate.high == pytest.approx(2 * estimate.value - low, abs=1e-6)


def test_six_rounds_are_too_few_for_a_normal_interval():
    with pytest.warns(SupportWarning, match="no interval: effective sample size 3.73 is below 30"):
        estimate = estimate_value(TARGET, six_rounds(), estimator="ips")
    assert estimate.is_refused


# --- exact moments of one round by enumeration ------------------------------------------------------------------------

LOGGING = np.array([[0.8, 0.2], [0.5, 0.5]])
POLICY = np.array([[0.1, 0.9], [0.6, 0.4]])
CHANCE = np.array([[0.2, 0.7], [0.5, 0.4]])
GUESS = np.array([[0.3, 0.5], [0.5, 0.6]])
TRUE_VALUE = 0.555


def every_round(model, assumed=LOGGING, logging=LOGGING, policy=POLICY, chance=CHANCE):
    """All (query, arm, outcome) of a world with two equally likely queries, and their probabilities."""
    x, a, r = (np.array(column) for column in zip(*itertools.product(range(2), repeat=3), strict=True))
    probability = 0.5 * logging[x, a] * np.where(r == 1, chance[x, a], 1 - chance[x, a])
    expected = (policy * model).sum(axis=1)[x]
    return Rounds(policy[x, a] / assumed[x, a], r.astype(float), model[x, a], expected), probability


def mean_and_variance(estimator, rounds, probability):
    terms = estimator.terms(rounds)[:, 0]
    mean = probability @ terms
    return mean, probability @ (terms - mean) ** 2


ONE_ROUND_MOMENTS = [
    (IPS(), GUESS, 0.555, 1.354725),
    (DM(), GUESS, 0.51, 0.0009),
    (DR(), GUESS, 0.555, 0.633488),
    (DR(), CHANCE, 0.555, 0.563675),
    (Switch(1.0), GUESS, 0.465, 0.042638),
    (Switch(2.0), GUESS, 0.465, 0.132638),
    (Switch(5.0), GUESS, 0.555, 0.633488),
    (DR_OS(1.0), GUESS, 0.484922, 0.032774),
    (DR_OS(5.0), GUESS, 0.487376, 0.107858),
    (ClippedIPS(2.0), GUESS, 0.38, 0.38085),
]


@pytest.mark.parametrize(("estimator", "model", "mean", "variance"), ONE_ROUND_MOMENTS)
def test_one_round_has_the_exact_moments_of_the_card(estimator, model, mean, variance):
    rounds, probability = every_round(model)
    assert probability.sum() == pytest.approx(1.0)
    found = mean_and_variance(estimator, rounds, probability)
    assert found == pytest.approx((mean, variance), abs=5.1e-7)


def test_self_normalised_estimators_tend_to_the_true_value():
    # Ratios have no exact moments; at the mean of their terms they are exact.
    rounds, probability = every_round(GUESS)
    for estimator in (SNIPS(), SNDR()):
        assert estimator.value(probability @ estimator.terms(rounds)) == pytest.approx(TRUE_VALUE)


def test_doubly_robust_survives_wrong_propensities_with_a_right_model():
    half = np.full((2, 2), 0.5)
    rounds, probability = every_round(CHANCE, assumed=half)
    assert mean_and_variance(IPS(), rounds, probability)[0] == pytest.approx(0.372)
    assert mean_and_variance(DR(), rounds, probability)[0] == pytest.approx(TRUE_VALUE)


chances = st.lists(st.floats(0.05, 0.95), min_size=4, max_size=4).map(lambda values: np.reshape(values, (2, 2)))
policies = st.lists(st.floats(0.05, 0.95), min_size=2, max_size=2).map(lambda p: np.column_stack([p, 1 - np.array(p)]))


@given(logging=policies, policy=policies, chance=chances, model=chances)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_ips_and_dr_are_unbiased_and_a_true_model_never_adds_variance(logging, policy, chance, model):
    value = (policy * chance).sum() / 2
    rounds, probability = every_round(model, logging, logging, policy, chance)
    assert mean_and_variance(DR(), rounds, probability)[0] == pytest.approx(value)
    mean, ips = mean_and_variance(IPS(), rounds, probability)
    assert mean == pytest.approx(value)
    rounds, probability = every_round(chance, logging, logging, policy, chance)
    _, dr = mean_and_variance(DR(), rounds, probability)
    scaled = policy / logging * chance
    within = (logging * scaled**2).sum(axis=1) - (logging * scaled).sum(axis=1) ** 2
    assert ips - dr == pytest.approx(within.mean(), abs=1e-9)


# --- limits and equivariance ------------------------------------------------------------------------------------------

rounds_drawn = st.integers(0, 2**32 - 1).map(
    lambda seed: Rounds(*np.random.default_rng(seed).uniform(0.01, [[5.0], [1.0], [1.0], [1.0]], size=(4, 12)))
)


def value(estimator, rounds):
    return float(estimator.value(estimator.terms(rounds).mean(axis=0)))


@given(rounds=rounds_drawn)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_estimators_meet_at_the_ends_of_their_parameters(rounds):
    for shrunk in (Switch(0.0), DR_OS(0.0), DR_PS(0.0)):
        assert value(shrunk, rounds) == pytest.approx(value(DM(), rounds))
    for free in (Switch(np.inf), DR_OS(np.inf), DR_OS(1e300), DR_PS(np.inf)):
        assert value(free, rounds) == pytest.approx(value(DR(), rounds))
    assert value(ClippedIPS(np.inf), rounds) == pytest.approx(value(IPS(), rounds))
    no_model = Rounds(rounds.weight, rounds.outcome, 0 * rounds.weight, 0 * rounds.weight)
    assert value(DR(), no_model) == pytest.approx(value(IPS(), rounds))
    assert value(SNDR(), no_model) == pytest.approx(value(SNIPS(), rounds))
    on_policy = Rounds(np.ones(12), rounds.outcome, rounds.predicted, rounds.expected)
    for plain in (IPS(), SNIPS()):
        assert value(plain, on_policy) == pytest.approx(rounds.outcome.mean())


@given(rounds=rounds_drawn, shift=st.floats(-5, 5))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_shift_of_all_outcomes_shifts_the_value(rounds, shift):
    moved = Rounds(rounds.weight, rounds.outcome + shift, rounds.predicted + shift, rounds.expected + shift)
    for estimator in (SNIPS(), DM(), DR(), SNDR(), Switch(1.0), DR_OS(2.0)):
        assert value(estimator, moved) == pytest.approx(value(estimator, rounds) + shift)
    assert value(IPS(), moved) == pytest.approx(value(IPS(), rounds) + shift * rounds.weight.mean())
    least, largest = rounds.outcome.min(), rounds.outcome.max()
    assert least - 1e-12 <= value(SNIPS(), rounds) <= largest + 1e-12


@pytest.mark.parametrize("estimator", ["dm", "dr", "snips", "sndr"])
@pytest.mark.parametrize("features", [False, True])
def test_a_shift_of_the_log_shifts_the_value_when_the_model_is_fitted_again(bandit_log, estimator, features):
    policy = np.tile([0.2, 0.3, 0.5], (len(bandit_log), 1))
    shifted = OutcomeLog.from_arrays(
        bandit_log.X if features else None,
        np.asarray(bandit_log.quality) + 3.0,
        action=bandit_log.action,
        propensity=bandit_log.propensity,
    )
    plain = OutcomeLog.from_arrays(
        shifted.X, np.asarray(bandit_log.quality), action=bandit_log.action, propensity=bandit_log.propensity
    )
    before, after = (estimate_value(policy, log, estimator=estimator) for log in (plain, shifted))
    assert after.value == pytest.approx(before.value + 3.0)
    assert after.high - after.low == pytest.approx(before.high - before.low)


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_bernstein_and_hoeffding_on_two_hundred_outcomes():
    bernstein = bernstein_radius(0.25 * 0.75 * 200 / 199, 200, span=1.0, delta=0.05)
    assert 0.25 - bernstein == pytest.approx(0.123372, abs=5e-7)
    assert 0.25 - hoeffding_radius(200, span=1.0, delta=0.05) == pytest.approx(0.163459, abs=5e-7)
    constant = bernstein_radius(0.0, 200, span=1.0, delta=0.05)
    assert constant == pytest.approx(7 * np.log(40) / (3 * 199))
    assert constant < hoeffding_radius(200, span=1.0, delta=0.05)


def bounds_over_logs(estimator, interval, *, model=GUESS, n, repeats, level, span, seed=0):
    """Lower and upper bounds on `repeats` logs of `n` rounds of the two-query world."""
    rng = np.random.default_rng(seed)
    rounds, probability = every_round(model)
    terms = estimator.terms(rounds)
    found = []
    for _ in range(repeats):
        moments = Moments(estimator.k)
        moments.update(terms[rng.choice(len(terms), size=n, p=probability)])
        found.append(interval_of(estimator, moments, interval=interval, level=level, span=span))
    return np.array(found).T


def most_misses(repeats, delta):
    """Count of misses that a procedure of error `delta` exceeds with probability 1e-4 at most."""
    return stats.binom.ppf(1 - 1e-4, repeats, delta)


@pytest.mark.parametrize("interval", ["empirical_bernstein", "hoeffding"])
@pytest.mark.parametrize("estimator", [IPS(), DR()], ids=["ips", "dr"])
def test_finite_sample_bounds_miss_at_most_as_often_as_they_promise(estimator, interval):
    # Largest weight 4.5, outcomes 0 or 1, a model in [0, 1].
    span = estimator.span(4.5, 0.0, 1.0)
    for n in (5, 60):
        low, high = bounds_over_logs(estimator, interval, n=n, repeats=600, level=0.8, span=span)
        assert (low > TRUE_VALUE).sum() <= most_misses(600, 0.1)
        assert (high < TRUE_VALUE).sum() <= most_misses(600, 0.1)


@pytest.mark.parametrize("estimator", [DR(), SNIPS(), SNDR()], ids=["dr", "snips", "sndr"])
@pytest.mark.parametrize("interval", ["normal", "student"])
def test_large_sample_intervals_cover_about_as_often_as_they_say(estimator, interval):
    repeats = 1500
    low, high = bounds_over_logs(estimator, interval, n=600, repeats=repeats, level=0.9, span=None)
    covered = int(((low <= TRUE_VALUE) & (high >= TRUE_VALUE)).sum())
    # One point of coverage is left to the normal approximation.
    assert stats.binom.ppf(5e-5, repeats, 0.89) <= covered <= stats.binom.ppf(1 - 5e-5, repeats, 0.91)


def test_dr_interval_with_a_cross_fitted_model_covers_about_as_often_as_it_says():
    repeats, covered = 150, 0
    rng = np.random.default_rng(5)
    for seed in range(repeats):
        x = rng.integers(2, size=300)
        quality = (rng.random((300, 2)) < CHANCE[x]).astype(float)
        log = OutcomeLog.from_arrays(x[:, None].astype(float), quality).with_action(LOGGING[x], seed=seed)
        estimate = estimate_value(POLICY[x], log, level=0.9)
        covered += estimate.low <= TRUE_VALUE <= estimate.high
    assert stats.binom.ppf(5e-5, repeats, 0.88) <= covered <= stats.binom.ppf(1 - 5e-5, repeats, 0.92)


def test_percentile_bootstrap_of_ips_covers_too_seldom_under_heavy_weights_and_the_bound_does_not():
    # The log takes the target's arm in one round of 200: a third of the logs of 200 rounds have never seen it.
    chance, repeats, n = 0.005, 300, 200
    rng = np.random.default_rng(0)
    estimator, missed_bootstrap, missed_bound = IPS(), 0, 0
    for seed in range(repeats):
        weight = (rng.random(n) < chance) / chance
        rounds = Rounds(weight, np.ones(n), np.zeros(n), np.zeros(n))
        moments = Moments(1, 200, seed)
        moments.update(estimator.terms(rounds))
        low, high = interval_of(estimator, moments, interval="bootstrap", level=0.95)
        missed_bootstrap += not low <= 1.0 <= high
        span = estimator.span(1 / chance, 0.0, 1.0)
        low, high = interval_of(estimator, moments, interval="empirical_bernstein", level=0.95, span=span)
        missed_bound += not low <= 1.0 <= high
    assert missed_bootstrap > 3 * most_misses(repeats, 0.05)
    assert missed_bound <= most_misses(repeats, 0.05)


# --- real logs --------------------------------------------------------------------------------------------------------

OPEN_BANDIT = {"query_id": None, "arm": "item_id", "quality": "click", "propensity": "propensity_score"}


@pytest.mark.parametrize(
    ("campaign", "n_arms", "ips", "snips", "ess", "largest"),
    [("all", 80, 0.002360, 0.002334, 340, 277.8), ("men", 34, 0.003009, 0.003189, 656, 178.3)],
)
def test_open_bandit_value_of_the_uniform_policy_from_the_thompson_log(
    shared_data, campaign, n_arms, ips, snips, ess, largest
):
    log = OutcomeLog.read_parquet(shared_data / "open_bandit" / f"{campaign}_bts.parquet", columns=OPEN_BANDIT)
    assert len(log) == 10_000
    assert len(log.arms) == n_arms
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SupportWarning)
        by_name = {name: estimate_value(uniform_policy(log), log, estimator=name) for name in ("ips", "snips")}
    assert by_name["ips"].value == pytest.approx(ips, abs=5.1e-7)
    assert by_name["snips"].value == pytest.approx(snips, abs=5.1e-7)
    assert by_name["ips"].ess == pytest.approx(ess, abs=0.5)
    assert by_name["ips"].max_weight == pytest.approx(largest, abs=0.05)
    assert by_name["ips"].low < ips < by_name["ips"].high


def test_open_bandit_support_is_called_poor(shared_data):
    log = OutcomeLog.read_parquet(shared_data / "open_bandit" / "all_bts.parquet", columns=OPEN_BANDIT)
    with pytest.warns(
        SupportWarning,
        match=r"support is poor: the log's 10000 rows weigh as much as 340 .* \(largest weight 277\.8\)",
    ):
        estimate = estimate_value(uniform_policy(log), log, estimator="ips")
    assert any("support is poor" in note for note in estimate.warnings)
    with pytest.warns(SupportWarning, match="support is poor"):
        page = render_report(evaluate(uniform_policy(log), log, estimator="ips"))
    assert "Caution: support is poor: the log&#39;s 10000 rows weigh as much as 340" in page
    assert "<strong>caution</strong>: support is poor" in page


def test_open_bandit_intervals_hold_the_rate_that_the_other_log_realised(shared_data):
    # The uniform log's own click rate, .0038, is the answer up to its own error; honest intervals are wide enough for it.
    log = OutcomeLog.read_parquet(shared_data / "open_bandit" / "all_bts.parquet", columns=OPEN_BANDIT)
    with pytest.warns(SupportWarning, match="support is poor"):
        estimate = estimate_value(uniform_policy(log), log, estimator="snips", level=0.99)
    assert estimate.low < 0.0038 < estimate.high
