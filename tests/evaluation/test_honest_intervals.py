"""Where an evaluation could flatter: support of every point, selection, repeats, small samples, hindsight."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t as student
from sklearn.exceptions import NotFittedError

from defer import Budget, OutcomeLog, evaluate
from defer.estimators import QualityRouter, RandomMixture, SingleArm, TunedRouter
from defer.evaluation import DM, calibration, estimate_value
from defer.evaluation.resampling import bootstrap_interval
from defer.exceptions import EvaluationError, LeakageWarning

ignore_support = pytest.mark.filterwarnings("ignore:support is poor:defer.exceptions.SupportWarning")


def two_arms(n: int, seed: int, **columns) -> OutcomeLog:
    rng = np.random.default_rng(seed)
    quality = np.column_stack([rng.random(n) < 0.5, rng.random(n) < 0.9]).astype(float)
    return OutcomeLog.from_arrays(
        rng.normal(size=(n, 2)), quality, arms=["small", "large"], cost=np.tile([0.001, 0.01], (n, 1)), **columns
    )


def test_a_fitted_price_or_cost_weight_does_not_cut_the_frontier(full_log):
    options = {"cost": full_log.cost}
    plain = evaluate(QualityRouter().fit(full_log.X, full_log.quality, **options), full_log)
    weighted = evaluate(QualityRouter(cost_weight=30.0).fit(full_log.X, full_log.quality, **options), full_log)
    tuned = TunedRouter(QualityRouter(), Budget(mean_cost=0.006)).fit(full_log.X, full_log.quality, **options)
    priced = evaluate(tuned, full_log)
    assert priced.estimate.cost.value < 0.8 * plain.estimate.cost.value
    for other in (weighted, priced):
        assert other.frontier.cost == pytest.approx(plain.frontier.cost)
        assert other.area_over_zero(n_bootstrap=5).value == pytest.approx(plain.area_over_zero(n_bootstrap=5).value)


@ignore_support
def test_points_domains_and_areas_without_support_have_no_interval():
    domain = np.array(["common"] * 1996 + ["rare"] * 4, dtype=object)
    full = two_arms(2000, 0, domain=domain)
    router = RandomMixture().fit(full.X, full.quality, cost=full.cost)
    log = full.with_action(np.tile([0.999, 0.001], (2000, 1)), seed=0)
    evaluation = evaluate(router, log, limit=Budget(mean_cost=0.001))
    assert not evaluation.estimate.is_refused
    assert evaluation.singles["large"].is_refused
    points = list(evaluation.operating_points.iter_rows(named=True))
    assert np.isfinite(points[0]["quality_low"])
    assert np.isnan(points[-1]["quality_low"])
    area = evaluation.area_over_zero(n_bootstrap=20)
    assert np.isnan([area.low, area.high]).all()
    rows = {row["domain"]: row for row in evaluation.domains.iter_rows(named=True)}
    assert np.isfinite(rows["common"]["quality_low"])
    assert np.isnan(rows["rare"]["quality_low"])
    assert rows["common"]["best_single"] == pytest.approx(evaluation.outcomes("quality")[:1996, 0].mean())


def test_the_difference_to_a_baseline_without_support_has_no_interval():
    log = two_arms(2000, 1).with_action(np.tile([0.999, 0.001], (2000, 1)), seed=0)
    evaluation = evaluate(np.full(2000, "small"), log, baseline="large")
    assert not evaluation.estimate.is_refused
    assert np.isnan([evaluation.difference.low, evaluation.difference.high]).all()


def test_calibration_of_a_bandit_log_undoes_the_selection():
    rng = np.random.default_rng(0)
    x = rng.integers(2, size=20_000)
    chance = np.column_stack([np.where(x, 0.9, 0.1), np.full(20_000, 0.5)])
    full = OutcomeLog.from_arrays(
        x[:, None].astype(float), (rng.random((20_000, 2)) < chance).astype(float), arms=["a", "b"]
    )
    # Predicts the means of both arms, and the log shows arm a where it is good.
    router = RandomMixture().fit(full.X, full.quality)
    logging = np.where(x[:, None], [[0.9, 0.1]], [[0.1, 0.9]])
    bandit = full.with_action(logging, seed=1)
    selected = calibration(np.full((20_000, 2), 0.5), np.asarray(bandit.quality)).ece
    assert selected > 0.1
    assert evaluate(router, bandit).calibration.ece < 0.02


def test_weights_in_calibration_are_repeats():
    rng = np.random.default_rng(0)
    predicted, quality, times = rng.random((30, 2)), rng.random((30, 2)), rng.integers(1, 4, size=30)
    weighted = calibration(predicted, quality, arms=("a", "b"), n_bins=1, weight=times)
    repeated = calibration(
        np.repeat(predicted, times, axis=0), np.repeat(quality, times, axis=0), arms=("a", "b"), n_bins=1
    )
    for name in ("ece", "brier", "base_brier"):
        assert getattr(weighted, name) == pytest.approx(getattr(repeated, name))
    assert weighted.per_arm["b"] == pytest.approx(repeated.per_arm["b"])
    with pytest.raises(EvaluationError, match="weight must be 30 finite numbers >= 0 that are not all 0"):
        calibration(predicted, quality, weight=np.zeros(30))


def test_a_bandit_log_without_propensities_has_no_calibration(bandit_log):
    router = QualityRouter().fit(bandit_log.X, bandit_log.quality, propensity=bandit_log.propensity)
    blind = replace(bandit_log, propensity=None, policy=None)
    with pytest.warns(UserWarning, match="the log has no propensities"):
        evaluation = evaluate(router, blind, estimator="dm")
    assert not evaluation.has_calibration
    with pytest.raises(
        EvaluationError, match=r"the log has no propensities \(200 rows\): what was observed was selected"
    ):
        _ = evaluation.calibration


def test_intervals_of_hulls_are_basic_bootstraps(full_log):
    pair = full_log.select(arms=["small", "large"])
    evaluation = evaluate(QualityRouter().fit(pair.X, pair.quality, cost=pair.cost), pair)
    from defer.evaluation.two_arm import apgr, strong_share_curve

    scores = evaluation._two_arm_scores()
    low, high = bootstrap_interval(
        lambda rows: apgr(*strong_share_curve(*(values[rows] for values in scores))), np.arange(200), n_bootstrap=50
    )
    found = evaluation.apgr_interval(n_bootstrap=50)
    assert (found.low, found.high) == pytest.approx((2 * found.value - high, 2 * found.value - low))


def test_repeated_texts_count_as_one_query_in_intervals(full_log):
    texts = [f"query {index % 50}" for index in range(200)]
    repeated = replace(full_log, X=texts)
    named = replace(full_log, X=None, cluster=np.array(texts))
    policy = np.full(200, "large")
    assert evaluate(policy, repeated).estimate.low == pytest.approx(evaluate(policy, named).estimate.low)
    assert (
        evaluate(policy, repeated, baseline="small").difference == evaluate(policy, named, baseline="small").difference
    )
    distinct = replace(full_log, X=[f"query {index}" for index in range(200)])
    assert evaluate(policy, distinct).estimate.low != evaluate(policy, repeated).estimate.low


def test_few_clusters_have_students_quantile_and_a_caution():
    rng = np.random.default_rng(0)
    values = rng.random((20, 1))
    log = OutcomeLog.from_arrays(None, values)
    estimate = estimate_value(np.ones((20, 1)), log)
    radius = student.ppf(0.975, 19) * values.std(ddof=1) / math.sqrt(20)
    assert estimate.high - estimate.value == pytest.approx(radius)
    assert estimate.interval == "student"
    assert estimate.warnings == ("20 independent queries are too few for an interval to be relied on",)
    assert estimate_value(np.ones((20, 1)), log, interval="hoeffding").warnings == ()


@ignore_support
def test_single_arms_and_differences_are_estimated_as_asked(bandit_log):
    evaluation = evaluate(np.full(200, "small"), bandit_log, estimator="snips", interval="bootstrap")
    assert {(single.estimator, single.interval) for single in evaluation.singles.values() if not single.is_refused} == {
        ("snips", "bootstrap")
    }
    bound = evaluate(np.full(200, "small"), bandit_log, interval="hoeffding")
    normal = evaluate(np.full(200, "small"), bandit_log, interval="normal")
    assert bound.difference.value == normal.difference.value
    assert bound.difference.high - bound.difference.low > 3 * (normal.difference.high - normal.difference.low)


def test_a_bound_on_a_full_log_holds_the_difference(full_log):
    evaluation = evaluate(np.full(200, "small"), full_log, interval="hoeffding", baseline="large")
    radius = 2 * math.sqrt(math.log(2 / 0.05) / 400)
    assert evaluation.difference.high - evaluation.difference.value == pytest.approx(radius)


def test_a_baseline_chosen_in_hindsight_is_called_so(full_log):
    train, test = full_log.select(rows=slice(0, 100)), full_log.select(rows=slice(100, 200))
    router = QualityRouter().fit(train.X, train.quality, cost=train.cost)
    assert evaluate(router, test).is_hindsight
    informed = evaluate(router, test, train=train)
    assert not informed.is_hindsight
    assert informed.baseline == f"always {train.summary().best_arm}"
    assert informed.n_leaked is None  # numbers cannot be told apart from other queries


def test_the_training_log_itself_is_recognised_where_queries_are_numbers(full_log):
    router = QualityRouter().fit(full_log.X, full_log.quality, cost=full_log.cost)
    with pytest.warns(LeakageWarning, match="200 of 200 queries of the log are also in the training log"):
        assert evaluate(router, full_log, train=full_log).n_leaked == 200


def test_the_default_baseline_is_the_cheaper_of_equally_good_arms():
    log = OutcomeLog.from_arrays(
        None, np.tile([1.0, 1.0, 0.0], (40, 1)), arms=["dear", "cheap", "bad"], cost=np.tile([5.0, 1.0, 0.0], (40, 1))
    )
    assert evaluate(np.full(40, "bad"), log).baseline == "always cheap"


def test_a_router_as_baseline_has_the_same_limit(full_log):
    router = QualityRouter().fit(full_log.X, full_log.quality, cost=full_log.cost)
    limit = Budget(mean_cost=0.004)
    evaluation = evaluate(router, full_log, limit=limit, baseline=router)
    assert evaluation.difference.value == 0.0


def test_an_unfitted_router_says_so(full_log):
    with pytest.raises(NotFittedError, match="This QualityRouter instance is not fitted yet"):
        evaluate(QualityRouter(), full_log)


def test_a_log_that_knows_all_outcomes_is_averaged_whatever_was_taken(full_log):
    taken = replace(full_log, action=np.zeros(200, dtype=int), propensity=np.full(200, 0.5))
    policy = np.full(200, "large")
    assert evaluate(policy, taken).estimate == evaluate(policy, full_log).estimate
    assert evaluate(policy, taken).baseline == "always large"
    assert estimate_value(np.full(200, "small"), taken, estimator="ips").estimator == "ips"


@pytest.mark.parametrize("name", ["clipped", "dm", "drps", "dros", "switch"])
@ignore_support
def test_biased_estimators_say_that_their_interval_does_not_hold_the_bias(bandit_log, name):
    estimate = estimate_value(np.full(200, "small"), bandit_log, estimator=name)
    assert f"the interval does not hold the bias of {name!r}" in estimate.warnings
    assert DM.is_biased
    unbiased = estimate_value(np.full(200, "small"), bandit_log, estimator="dr")
    assert not any("bias" in note for note in unbiased.warnings)


def test_the_call_names_what_was_asked(full_log):
    router = SingleArm().fit(full_log.X, full_log.quality, cost=full_log.cost)
    assert evaluate(router, full_log).call == "evaluate(router, log)"
    call = evaluate(
        router,
        full_log,
        limit=Budget(mean_cost=0.03),
        baseline="small",
        interval="student",
        train=full_log.select(rows=slice(0, 100)),
    ).call
    assert (
        call == "evaluate(router, log, limit=Budget(mean_cost=0.03), baseline='small', interval='student', train=train)"
    )
