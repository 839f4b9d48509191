"""`evaluate` on full-information and bandit logs: values, differences, frontiers, domains, and its messages."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

import defer
from defer import Budget, OutcomeLog
from defer.estimators import QualityRouter, RandomMixture, SingleArm, TunedRouter
from defer.evaluation import estimate_value, evaluate, outcome_table
from defer.evaluation.evaluation import OBSERVERS
from defer.evaluation.realised import policy_terms
from defer.exceptions import EvaluationError, LeakageWarning, SupportWarning

# 200 logged rounds carry every estimate below, but support is poor by the library's own measure.
pytestmark = pytest.mark.filterwarnings("ignore:support is poor:defer.exceptions.SupportWarning")


@pytest.fixture
def router(full_log):
    return QualityRouter().fit(full_log.X, full_log.quality, cost=full_log.cost)


def rows_of(evaluation):
    return {row["policy"]: row for row in evaluation.frame.iter_rows(named=True)}


def test_value_is_the_mean_outcome_of_the_arms_taken_with_a_normal_interval(full_log, router):
    evaluation = evaluate(router, full_log)
    arm = router.route(full_log.X).arm
    taken = np.asarray(full_log.quality)[np.arange(200), arm]
    radius = norm.ppf(0.975) * taken.std(ddof=1) / math.sqrt(200)
    assert evaluation.estimate.value == pytest.approx(taken.mean())
    assert (evaluation.estimate.low, evaluation.estimate.high) == pytest.approx(
        (taken.mean() - radius, taken.mean() + radius)
    )
    cost = np.asarray(full_log.cost)[np.arange(200), arm]
    latency = np.asarray(full_log.latency)[np.arange(200), arm]
    assert evaluation.estimate.cost.value == pytest.approx(cost.mean())
    assert evaluation.estimate.latency.value == pytest.approx(latency.mean())


def test_difference_is_paired_with_the_best_single_arm(full_log, router):
    evaluation = evaluate(router, full_log)
    quality = np.asarray(full_log.quality)
    gap = quality[np.arange(200), router.route(full_log.X).arm] - quality[:, 2]
    radius = norm.ppf(0.975) * gap.std(ddof=1) / math.sqrt(200)
    assert evaluation.baseline == "always large"
    assert evaluation.difference.value == pytest.approx(gap.mean())
    assert evaluation.difference.high - evaluation.difference.value == pytest.approx(radius)


def test_a_policy_does_not_differ_from_itself(full_log, bandit_log, router):
    for log in (full_log, bandit_log):
        difference = evaluate(router, log, baseline=router.route(log.X)).difference
        assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0)


def test_baseline_can_be_an_arm_a_router_or_probabilities(full_log, router):
    always = np.tile([1.0, 0.0, 0.0], (200, 1))
    by_name, by_router, by_table = (
        evaluate(router, full_log, baseline=baseline).difference
        for baseline in ("small", SingleArm("small").fit(full_log.X, full_log.quality), always)
    )
    assert by_name == by_router == by_table
    with pytest.raises(
        EvaluationError, match=r"baseline: the log has no arm 'huge'; it has \['small', 'medium', 'large'\]"
    ):
        evaluate(router, full_log, baseline="huge")


def test_on_a_bandit_log_the_baseline_is_what_was_logged(bandit_log, router):
    evaluation = evaluate(router, bandit_log)
    observed = np.asarray(bandit_log.quality)[np.arange(200), bandit_log.action]
    table = outcome_table(bandit_log, "quality")
    gap = policy_terms(evaluation.policy, table) - observed
    assert evaluation.baseline == "the logging policy"
    assert evaluation.difference.value == pytest.approx(gap.mean())
    assert rows_of(evaluation)["logging policy"]["quality"] == pytest.approx(observed.mean())
    assert "oracle" not in rows_of(evaluation)


def test_pseudo_outcomes_average_to_the_doubly_robust_estimate_of_any_policy(bandit_log):
    rng = np.random.default_rng(3)
    table = outcome_table(bandit_log, "quality")
    for _ in range(5):
        policy = rng.dirichlet(np.ones(3), size=200)
        assert policy_terms(policy, table).mean() == pytest.approx(
            estimate_value(policy, bandit_log, estimator="dr").value, rel=1e-12
        )


def test_the_frontier_of_a_bandit_log_estimates_that_of_the_full_log():
    rng = np.random.default_rng(5)
    x = rng.uniform(size=(6000, 1))
    chance = np.column_stack([0.9 - 0.7 * x[:, 0], np.full(6000, 0.85)])
    log = OutcomeLog.from_arrays(
        x, (rng.random((6000, 2)) < chance).astype(float), arms=["small", "large"], cost=np.tile([1.0, 5.0], (6000, 1))
    )
    router = QualityRouter().fit(x[:2000], log.quality[:2000], cost=log.cost[:2000])
    full = evaluate(router, log)
    partial = evaluate(router, log.with_action(np.full((6000, 2), 0.5), seed=2))
    assert partial.has_frontier
    at = np.linspace(1.2, 4.8, 9)
    truth, estimated = (np.interp(at, each.frontier.cost, each.frontier.quality) for each in (full, partial))
    error = np.interp(at, partial.frontier.cost, partial.frontier.quality_se)
    assert (np.abs(estimated - truth) < 5 * error).all()
    assert (error > np.interp(at, full.frontier.cost, full.frontier.quality_se)).all()


def test_frontier_runs_from_the_cheapest_arms_to_the_best_predicted_ones(full_log, router):
    evaluation = evaluate(router, full_log)
    curve = evaluation.frontier
    assert np.isinf(curve.price[0])
    assert curve.load[0].tolist() == [1.0, 0.0, 0.0]
    assert curve.quality[-1] == pytest.approx(evaluation.estimate.value)
    assert curve.cost[-1] == pytest.approx(evaluation.estimate.cost.value)
    table = evaluation.operating_points
    assert table.columns == [
        "price",
        "cost_usd",
        "quality",
        "quality_low",
        "quality_high",
        "share:small",
        "share:medium",
        "share:large",
    ]


def test_area_over_zero_of_a_random_mixture_is_zero(full_log):
    mixture = RandomMixture().fit(full_log.X, full_log.quality, cost=full_log.cost)
    area = evaluate(mixture, full_log).area_over_zero(n_bootstrap=50)
    assert area.value <= 1e-9
    assert area.low <= area.value + 0.02


def test_intervals_of_aiq_and_apgr_hold_the_value(full_log):
    pair = full_log.select(arms=["small", "large"])
    router = QualityRouter().fit(pair.X, pair.quality, cost=pair.cost)
    evaluation = evaluate(router, pair)
    assert evaluation.is_two_arm
    for interval in (evaluation.aiq_interval(n_bootstrap=100), evaluation.apgr_interval(n_bootstrap=100)):
        assert interval.low < interval.value < interval.high
    share, quality = evaluation.strong_share_curve()
    assert (share[0], share[-1]) == (0.0, 1.0)
    assert quality[-1] == pytest.approx(np.asarray(pair.quality)[:, 1].mean())
    assert 0.0 <= evaluation.cpt(0.5) <= evaluation.cpt(0.8) <= 1.0


def test_two_arm_metrics_are_refused_for_three_arms(full_log, router):
    with pytest.raises(EvaluationError, match=r"needs a router over two arms .*; the log has 3 arms"):
        evaluate(router, full_log).apgr()


def test_probabilities_and_arm_names_are_evaluated_without_a_router(full_log):
    names = np.where(np.asarray(full_log.domain) == "code", "medium", "large")
    table = np.zeros((200, 3))
    table[np.arange(200), np.where(names == "medium", 1, 2)] = 1.0
    by_name, by_table = evaluate(names, full_log), evaluate(table, full_log)
    assert by_name.estimate == by_table.estimate
    assert not by_name.has_frontier
    with pytest.raises(EvaluationError, match="a policy without predictions has no calibration"):
        _ = by_name.calibration
    with pytest.raises(EvaluationError, match="limit= needs a router"):
        evaluate(names, full_log, limit=Budget(mean_cost=1.0))


def test_limit_is_handed_to_route_and_the_routing_is_evaluated(full_log, router):
    budget = Budget(mean_cost=0.005)
    routing = router.route(full_log.X, limit=budget, random_state=0)
    through_router, directly = evaluate(router, full_log, limit=budget), evaluate(routing, full_log)
    assert through_router.estimate == directly.estimate
    assert through_router.limit == directly.limit == budget
    with pytest.raises(EvaluationError, match="limit= needs a router"):
        evaluate(routing, full_log, limit=budget)


def test_domains_have_the_means_of_their_queries_and_an_interval_that_is_never_empty(full_log):
    quality = np.asarray(full_log.quality).copy()
    quality[np.asarray(full_log.domain) == "code"] = 1.0
    log = replace(full_log, quality=quality)
    frame = evaluate(np.full(200, "small"), log).domains
    rows = {row["domain"]: row for row in frame.iter_rows(named=True)}
    n, z = rows["code"]["n"], norm.ppf(0.975)
    assert rows["code"]["quality"] == 1.0
    assert rows["code"]["quality_low"] == pytest.approx(1 / (1 + z * z / n))
    assert rows["code"]["quality_high"] == 1.0
    mask = np.asarray(full_log.domain) == "prose"
    assert rows["prose"]["quality"] == pytest.approx(quality[mask, 0].mean())
    assert rows["prose"]["cost"] == pytest.approx(np.asarray(full_log.cost)[mask, 0].mean())
    assert sum(row["n"] for row in rows.values()) == 200


def test_a_log_without_domains_says_so(full_log, router):
    with pytest.raises(EvaluationError, match="the log has no domain column"):
        _ = evaluate(router, replace(full_log, domain=None)).domains


def test_clusters_widen_intervals(full_log, router):
    copies = OutcomeLog.from_arrays(
        np.repeat(full_log.X, 4, axis=0), np.repeat(full_log.quality, 4, axis=0), arms=full_log.arms,
        cluster=np.repeat(np.arange(200), 4),
    )  # fmt: skip
    once = evaluate(router, full_log).estimate
    clustered = evaluate(router, copies).estimate
    naive = evaluate(router, replace(copies, cluster=None)).estimate
    assert clustered.high - clustered.low == pytest.approx(once.high - once.low, rel=1e-9)
    assert naive.high - naive.low < 0.6 * (clustered.high - clustered.low)


def test_load_and_its_entropy(full_log):
    even = evaluate(np.tile([0.5, 0.5, 0.0], (200, 1)), full_log)
    assert even.load == {"small": 0.5, "medium": 0.5, "large": 0.0}
    assert even.load_entropy == pytest.approx(math.log(2) / math.log(3))
    assert evaluate(np.full(200, "small"), full_log).load_entropy == 0.0


def test_oracle_takes_the_cheapest_of_the_best(full_log, router):
    row = rows_of(evaluate(router, full_log))["oracle"]
    quality, cost = np.asarray(full_log.quality), np.asarray(full_log.cost)
    best = quality == quality.max(axis=1, keepdims=True)
    assert row["quality"] == pytest.approx(quality.max(axis=1).mean())
    assert row["cost"] == pytest.approx(np.where(best, cost, np.inf).min(axis=1).mean())


def test_texts_that_were_in_training_are_counted(full_log):
    texts = [f"query {index}" for index in range(200)]
    log = replace(full_log, X=texts)
    train, test = log.select(rows=slice(0, 150)), log.select(rows=slice(140, 200))
    router = SingleArm().fit(train.X, train.quality)
    with pytest.warns(
        LeakageWarning,
        match="10 of 60 queries of the log are also in the training log, the first is row 0",
    ):
        evaluation = evaluate(router, test, train=train)
    assert evaluation.n_leaked == 10
    assert evaluate(router, log.select(rows=slice(150, 200)), train=train).n_leaked == 0


def test_observers_see_every_evaluation(full_log, router):
    seen = []
    OBSERVERS.append(seen.append)
    try:
        evaluation = defer.evaluate(router, full_log)
    finally:
        OBSERVERS.remove(seen.append)
    assert seen == [evaluation]


def test_configuration_names_parameters_and_operating_point(full_log):
    tuned = TunedRouter(QualityRouter(), limit=Budget(mean_cost=0.008)).fit(
        full_log.X, full_log.quality, cost=full_log.cost
    )
    facts = evaluate(tuned, full_log).configuration
    assert "Budget(mean_cost=0.008)" in facts["router"]
    assert facts["operating point"].startswith("OperatingPoint(price=")


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (SingleArm, "got the class SingleArm"),
        (np.full((3, 3), 1 / 3), r"the policy must have shape \(200, 3\) like the log, got \(3, 3\)"),
        (np.full((200, 3), 0.5), "200 rows of the policy are no distribution, the first is row 0"),
        (np.full(200, "huge"), "200 rows take an arm that is not in the log, the first is row 0"),
    ],
)
def test_what_is_no_policy_for_this_log_is_refused(full_log, policy, message):
    with pytest.raises(EvaluationError, match=message):
        evaluate(policy, full_log)


def test_arms_that_the_router_does_not_know_are_named(full_log):
    pair = full_log.select(arms=["small", "large"])
    router = QualityRouter().fit(pair.X, pair.quality)
    with pytest.raises(
        EvaluationError, match="the log has 1 arms that the router does not know, the first is 'medium'"
    ):
        evaluate(router, full_log)
    other = replace(pair, arms=("small", "huge"))
    with pytest.raises(EvaluationError, match="1 of the router's arms are not in the log, the first is 'large'"):
        evaluate(router, other)


def test_a_log_without_queries_needs_a_routing(full_log, router):
    bare = replace(full_log, X=None)
    with pytest.raises(EvaluationError, match=r"the log has no queries \(X is None\)"):
        evaluate(router, bare)
    assert evaluate(router.route(full_log.X), bare).estimate == evaluate(router, full_log).estimate


def test_poor_support_warns_and_a_hopeless_one_gives_no_interval(full_log):
    policy = np.tile([0.98, 0.01, 0.01], (200, 1))
    bandit = full_log.with_action(policy, seed=4)
    with pytest.warns(SupportWarning, match="support is poor: the log's 200 rows weigh as much as"):
        evaluation = evaluate(np.full(200, "large"), bandit)
    assert evaluation.estimate.is_refused
    assert np.isnan(evaluation.difference.low)
    assert "effective sample size" in evaluation.estimate.warnings[-1]


def test_without_costs_there_is_no_frontier(full_log):
    router = QualityRouter().fit(full_log.X, full_log.quality)
    evaluation = evaluate(router, full_log)
    assert not evaluation.has_frontier
    with pytest.raises(EvaluationError, match="a frontier needs a router with predicted costs"):
        _ = evaluation.frontier


def test_one_query_gives_a_value_and_no_interval(full_log, router):
    evaluation = evaluate(router, full_log.select(rows=[0]))
    assert evaluation.estimate.is_refused
    assert evaluation.estimate.warnings == ("one independent query gives no interval",)


def test_plots_draw_on_the_axes_that_they_are_given(full_log, router):
    from matplotlib.figure import Figure

    evaluation = evaluate(router, full_log)
    for draw in (evaluation.plot_frontier, evaluation.plot_calibration, evaluation.plot_load, evaluation.plot_domains):
        ax = Figure().subplots()
        assert draw(ax) is ax
        assert ax.get_xlabel()
        assert draw().figure is not ax.figure
