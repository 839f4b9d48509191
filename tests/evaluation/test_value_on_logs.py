"""`estimate_value` against plain NumPy formulas, and against the truth that a full-information log knows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from defer import OutcomeLog
from defer.evaluation import DR_OS, Switch, estimate_value, uniform_policy

# Small logs carry every estimate below, though not all have good support by the library's own measure.
pytestmark = pytest.mark.filterwarnings("ignore:support is poor:defer.exceptions.SupportWarning")

# Two-sided quantile of a normal law at a false alarm of 1e-4.
Z = float(stats.norm.ppf(1 - 0.5e-4))


def policy_of(log, seed=9):
    return np.random.default_rng(seed).dirichlet(np.ones(len(log.arms)), size=len(log))


@pytest.fixture
def formula(bandit_log):
    """Pieces of the formulas: weights, outcomes, and a model given as an array."""
    rows, policy = np.arange(len(bandit_log)), policy_of(bandit_log)
    model = np.random.default_rng(4).random(policy.shape)
    action = np.asarray(bandit_log.action)
    weight = policy[rows, action] / bandit_log.propensity
    outcome = np.asarray(bandit_log.quality)[rows, action]
    return {
        "policy": policy, "model": model, "w": weight, "r": outcome,
        "q": model[rows, action], "q_pi": (policy * model).sum(axis=1),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("estimator", "terms"),
    [
        ("ips", lambda w, r, q, q_pi: w * r),
        ("clipped", lambda w, r, q, q_pi: np.minimum(w, 10.0) * r),
        ("dm", lambda w, r, q, q_pi: q_pi),
        ("dr", lambda w, r, q, q_pi: q_pi + w * (r - q)),
        ("drps", lambda w, r, q, q_pi: q_pi + np.minimum(w, 10.0) * (r - q)),
        (Switch(1.2), lambda w, r, q, q_pi: q_pi + w * (w <= 1.2) * (r - q)),
        (DR_OS(2.0), lambda w, r, q, q_pi: q_pi + 2 * w / (w**2 + 2) * (r - q)),
    ],
    ids=lambda value: "formula" if callable(value) else str(value),
)
def test_estimators_are_plain_means_of_their_terms(bandit_log, formula, estimator, terms):
    pieces = {name: formula[name] for name in ("w", "r", "q", "q_pi")}
    expected = terms(**pieces)
    estimate = estimate_value(formula["policy"], bandit_log, estimator=estimator, quality_model=formula["model"])
    assert estimate.value == pytest.approx(expected.mean())
    radius = 1.959964 * expected.std(ddof=1) / math.sqrt(len(expected))
    assert (estimate.low, estimate.high) == pytest.approx(
        (expected.mean() - radius, expected.mean() + radius), rel=1e-6
    )
    assert estimate.ess == pytest.approx(pieces["w"].sum() ** 2 / (pieces["w"] ** 2).sum())
    assert estimate.max_weight == pieces["w"].max()


def test_self_normalised_estimators_are_their_ratios(bandit_log, formula):
    w, r, q, q_pi = (formula[name] for name in ("w", "r", "q", "q_pi"))
    snips = estimate_value(formula["policy"], bandit_log, estimator="snips")
    assert snips.value == pytest.approx((w * r).sum() / w.sum())
    error = math.sqrt((w**2 * (r - snips.value) ** 2).sum()) / w.sum()
    assert snips.high - snips.value == pytest.approx(1.959964 * error, rel=1e-6)
    sndr = estimate_value(formula["policy"], bandit_log, estimator="sndr", quality_model=formula["model"])
    assert sndr.value == pytest.approx(q_pi.mean() + (w * (r - q)).sum() / w.sum())


def test_cost_and_latency_ride_along(bandit_log):
    policy, rows = policy_of(bandit_log), np.arange(len(bandit_log))
    weight = policy[rows, bandit_log.action] / bandit_log.propensity
    estimate = estimate_value(policy, bandit_log, estimator="snips")
    for name in ("cost", "latency"):
        outcome = np.asarray(getattr(bandit_log, name))[rows, bandit_log.action]
        assert getattr(estimate, name).value == pytest.approx((weight * outcome).sum() / weight.sum())


def test_replay_of_a_deterministic_policy_on_a_uniform_log_is_the_mean_of_the_rounds_that_agree(full_log):
    log = full_log.with_action(uniform_policy(full_log), seed=3)
    arm = np.arange(200) % 3
    agrees = log.action == arm
    estimate = estimate_value(arm, log, estimator="rm")
    assert estimate.value == pytest.approx(np.asarray(log.quality)[agrees, arm[agrees]].mean())
    assert estimate.ess == pytest.approx(agrees.sum())


def full_information(n, seed=0):
    """Queries of two kinds, three arms, costs; the arms differ and none is best everywhere."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(2, size=n)
    chance = np.array([[0.3, 0.8, 0.6], [0.7, 0.4, 0.8]])[kind]
    return OutcomeLog.from_arrays(
        np.column_stack([kind, rng.normal(size=n)]).astype(float),
        (rng.random((n, 3)) < chance).astype(float),
        cost=rng.uniform(0.5, 1.5, size=(n, 3)),
    )


@pytest.mark.parametrize("estimator", ["ips", "snips", "dr", "sndr"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_off_policy_values_are_near_what_the_full_log_realised(estimator, seed):
    log = full_information(3000, seed)
    policy, logging = policy_of(log, seed + 10), np.tile([0.5, 0.3, 0.2], (3000, 1))
    truth = estimate_value(policy, log)
    assert truth.value == pytest.approx((policy * np.asarray(log.quality)).sum(axis=1).mean())
    estimate = estimate_value(policy, log.with_action(logging, seed=seed), estimator=estimator, level=1 - 1e-4)
    # The interval is for the mean over queries too, so that around the realised mean it is wide enough.
    assert estimate.low < truth.value < estimate.high
    assert estimate.high - estimate.low < 0.2
    cost = estimate_value(policy, log.with_action(logging, seed=seed), estimator=estimator, level=1 - 1e-4).cost
    assert cost.low < truth.cost.value < cost.high


def test_the_mean_over_many_bandit_logs_is_the_realised_value():
    log = full_information(150)
    policy, logging, repeats = policy_of(log), np.tile([0.5, 0.3, 0.2], (150, 1)), 300
    truth = estimate_value(policy, log).value
    model = np.tile([0.5, 0.6, 0.7], (150, 1))
    for estimator in ("ips", "dr"):
        values = [
            estimate_value(policy, log.with_action(logging, seed=seed), estimator=estimator, quality_model=model).value
            for seed in range(repeats)
        ]
        assert np.mean(values) == pytest.approx(truth, abs=Z * np.std(values) / math.sqrt(repeats))


@pytest.mark.parametrize("kind", ["full", "dr"])
def test_clustered_values_cover_where_the_rows_of_a_cluster_are_copies(kind):
    repeats, copies, n = 120, 6, 50
    true_value = np.mean([[0.3, 0.8, 0.6], [0.7, 0.4, 0.8]])
    cluster, covered, covered_without = np.repeat(np.arange(n), copies), 0, 0
    model = np.full((n * copies, 3), 0.6)
    for seed in range(repeats):
        single = full_information(n, seed)
        if kind == "dr":
            single = single.with_action(np.tile([0.4, 0.3, 0.3], (n, 1)), seed=seed)
        copied = single.select(np.repeat(np.arange(n), copies))
        columns = {"action": copied.action, "propensity": copied.propensity}
        policy = uniform_policy(copied)
        for names in (cluster, None):
            log = OutcomeLog.from_arrays(None, np.asarray(copied.quality), cluster=names, **columns)
            estimate = estimate_value(policy, log, level=0.9, quality_model=model if kind == "dr" else None)
            holds = estimate.low <= true_value <= estimate.high
            if names is None:
                covered_without += holds
            else:
                covered += holds
    # Copies taken for independent rows make intervals sqrt(6) times too short, which cover half the time.
    assert covered >= stats.binom.ppf(1e-4, repeats, 0.87)
    assert covered_without <= stats.binom.ppf(1e-4, repeats, 0.87) - 10
