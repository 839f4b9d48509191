from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, KFold, ShuffleSplit
from sklearn.pipeline import make_pipeline as sklearn_pipeline
from sklearn.preprocessing import FunctionTransformer

from defer.estimators import (
    BaseRouter,
    KNNRouter,
    QualityRouter,
    RandomMixture,
    SingleArm,
    TunedRouter,
    make_pipeline,
    realised_utility,
)
from defer.estimators.outcomes_input import Outcomes
from defer.exceptions import InfeasibleLimitError, MissingPropensityWarning, RouterInputError
from defer.portfolios.arm_matrix import ArmMatrix
from defer.portfolios.limits import Budget, Capacity, QualityTarget, RiskLevel, Share

SEEN: list[tuple[str, list[Any]]] = []


class Witness(BaseRouter):
    """Writes down the queries that it was fitted on and asked about."""

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        SEEN.append(("fit", list(X)))

    def _predict_quality(self, X: Any) -> Any:
        SEEN.append(("predict", list(X)))
        return np.zeros((len(X), len(self.arms_)))


class Prophet(BaseRouter):
    """Predicts the first columns of X: a router that was fitted elsewhere."""

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        pass

    def _predict_quality(self, X: Any) -> Any:
        return np.asarray(X)[:, : len(self.arms_)].copy()


def draw(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, quality and cost of two arms; the dear one is better where the first feature is large."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    chance = np.column_stack([np.full(n, 0.5), 1 / (1 + np.exp(-2.0 * X[:, 0]))])
    return X, (rng.random((n, 2)) < chance).astype(float), np.array([1.0, 4.0]) * rng.uniform(0.7, 1.3, size=(n, 2))


def out_of_fold(router: Any, X: Any, quality: Any, cost: Any) -> tuple[np.ndarray, np.ndarray]:
    predicted = np.empty_like(quality), np.empty_like(cost)
    for train, test in KFold(5, shuffle=True, random_state=0).split(X):
        fitted = clone(router).fit(X[train], quality[train], cost=cost[train])
        predicted[0][test], predicted[1][test] = fitted.predict_quality(X[test]), fitted.predict_cost(X[test])
    return predicted


@pytest.mark.parametrize("weight", [0.0, 0.02])
def test_the_budget_is_met_by_realised_cost_out_of_fold(weight: float) -> None:
    X, quality, cost = draw(300, 0)
    inner = QualityRouter(Ridge(), Ridge(), cost_weight=weight)
    router = TunedRouter(inner, Budget(mean_cost=2.0)).fit(X, quality, cost=cost)
    point = router.operating_point_
    assert point.mean_cost == pytest.approx(2.0)
    assert router.cost_weight == weight + point.price
    predicted, charge = out_of_fold(inner, X, quality, cost)
    net = predicted - router.cost_weight * charge
    sure = np.abs(net[:, 1] - net[:, 0]) > 1e-9
    assert sure.sum() == len(X) - 1  # one query is left to chance
    spend = cost[np.arange(300), net.argmax(axis=1)]
    low = (spend[sure].sum() + cost[~sure, 0].sum()) / 300
    high = (spend[sure].sum() + cost[~sure, 1].sum()) / 300
    assert low <= 2.0 <= high
    assert low + point.fraction * (high - low) == pytest.approx(2.0)


def test_streaming_and_batch_take_the_same_arms_at_the_same_price() -> None:
    X, quality, cost = draw(300, 1)
    router = TunedRouter(limit=Budget(mean_cost=2.0)).fit(X, quality, cost=cost)
    fresh = draw(100, 2)[0]
    batch = router.route(fresh, random_state=0)
    single = [router.route(fresh[[row]], random_state=0) for row in range(100)]
    assert batch.price == router.operating_point_.price > 0
    assert [routing.arm[0] for routing in single] == batch.arm.tolist()
    assert {routing.price for routing in single} == {batch.price}
    assert batch.label.tolist() == router.predict(fresh).tolist()
    np.testing.assert_allclose(
        router.predict_utility(fresh), router.predict_quality(fresh) - router.cost_weight * router.predict_cost(fresh)
    )


def test_a_budget_is_met_on_fresh_queries() -> None:
    X, quality, cost = draw(4000, 3)
    router = TunedRouter(limit=Budget(mean_cost=2.0)).fit(X, quality, cost=cost)
    fresh, _, fresh_cost = draw(4000, 4)
    spend = fresh_cost[np.arange(4000), router.route(fresh, random_state=0).arm]
    # The threshold and the test mean are both means over 4,000 queries.
    assert abs(spend.mean() - 2.0) < 4.5 * spend.std() * np.sqrt(2 / 4000)


@pytest.mark.parametrize("inner", [RandomMixture(), KNNRouter(1000, metric="euclidean")], ids=["mixture", "neighbours"])
@pytest.mark.parametrize("limit", [Budget(mean_cost=1.9), Share("b", at_most=0.3)], ids=["budget", "share"])
def test_queries_that_tie_are_mixed_at_random(inner: Any, limit: Any) -> None:
    # Without features all queries tie, and a price alone would send all of them to one side.
    rng = np.random.default_rng(0)
    X, quality = np.zeros((200, 1)), np.column_stack([np.full(200, 0.5), (rng.random(200) < 0.8)]).astype(float)
    cost = np.tile([1.0, 4.0], (200, 1))
    router = TunedRouter(inner, limit).fit(X, ArmMatrix(quality, ["a", "b"]), cost=cost)
    assert router.operating_point_.fraction == pytest.approx(0.3)
    routing = router.route(np.zeros((50, 1)), random_state=0)
    assert routing.expected_cost == pytest.approx(1.9)
    np.testing.assert_allclose(routing.load, [0.7, 0.3])
    assert router.predict(np.zeros((3, 1))).tolist() == ["a"] * 3
    drawn = [router.route([[0.0]], random_state=seed).arm[0] for seed in range(400)]
    assert abs(np.mean(drawn) - 0.3) < 4.5 * np.sqrt(0.3 * 0.7 / 400)


@pytest.mark.parametrize("depth", [0, 1, 2], ids=["texts", "in a pipeline", "in two pipelines"])
def test_equal_texts_never_stand_on_both_sides_of_a_fold(depth: int) -> None:
    rng = np.random.default_rng(0)
    texts = [f"text {number}" for number in rng.integers(30, size=120)]
    quality = rng.random((120, 2))
    SEEN.clear()
    router: Any = TunedRouter(Witness(), Share(1, at_most=0.5))
    for _ in range(depth):
        router = make_pipeline(FunctionTransformer(), router)
    router.fit(texts, quality)
    pairs = [
        (left[1], right[1]) for left, right in itertools.pairwise(SEEN) if (left[0], right[0]) == ("fit", "predict")
    ]
    assert len(pairs) >= 5
    for train, test in pairs[:5]:
        assert train
        assert not set(train) & set(test)
    assert sorted(text for _, test in pairs[:5] for text in test) == sorted(texts)


def test_groups_stay_together_and_are_given_through_a_pipeline() -> None:
    X, quality, _ = draw(60, 0)
    X = np.column_stack([np.arange(60), X])
    groups = np.arange(60) // 6
    for router, options in (
        (TunedRouter(Witness(), Share(1, at_most=0.5)), {"groups": groups}),
        (TunedRouter(Witness(), Share(1, at_most=0.5), cv=GroupKFold(3)), {"groups": groups}),
        (make_pipeline(FunctionTransformer(), TunedRouter(Witness(), Share(1, at_most=0.5))), {"groups": groups}),
    ):
        SEEN.clear()
        router.fit(X, quality, **options)
        trains = [rows for what, rows in SEEN if what == "fit"][:-1]
        assert len(trains) >= 3
        for rows in trains:
            inside = {int(row[0]) // 6 for row in rows}
            assert len(rows) == 6 * len(inside) < 60


def test_the_same_inside_and_outside_a_pipeline() -> None:
    rng = np.random.default_rng(0)
    texts = [
        ("sum " if kind else "poem ") + str(number)
        for kind, number in zip(rng.integers(2, size=90), range(90), strict=True)
    ]
    kind = np.array([text.startswith("sum") for text in texts])
    quality = np.column_stack([kind * 0.6 + 0.2, np.full(90, 0.7)]) + rng.normal(scale=0.05, size=(90, 2))
    cost = np.tile([1.0, 2.0], (90, 1))
    vectoriser = TfidfVectorizer(vocabulary=["sum", "poem"], use_idf=False)
    limit = Budget(mean_cost=1.3)
    outside = TunedRouter(make_pipeline(vectoriser, QualityRouter()), limit).fit(texts, quality, cost=cost)
    inside = make_pipeline(vectoriser, TunedRouter(QualityRouter(), limit)).fit(texts, quality, cost=cost)
    left, right = outside.route(["sum 1", "poem 2"], random_state=0), inside.route(["sum 1", "poem 2"], random_state=0)
    np.testing.assert_allclose(left.policy, right.policy)
    assert left.price == pytest.approx(right.price)
    assert inside.cost_weight == pytest.approx(outside.cost_weight)


def test_parameters_clone_and_nest() -> None:
    router = TunedRouter(QualityRouter(Ridge(alpha=2.0)), Budget(mean_cost=1.0), cv=3)
    assert router.get_params()["router__regressor__alpha"] == 2.0
    twin = clone(router).set_params(router__regressor__alpha=3.0, limit=Share("a", at_most=0.1))
    assert (router.router.regressor.alpha, twin.router.regressor.alpha) == (2.0, 3.0)
    assert clone(twin).limit == Share("a", at_most=0.1)
    X, quality, cost = draw(50, 0)
    router.set_params(limit=Budget(mean_cost=2.5)).fit(X, quality, cost=cost)
    assert not hasattr(router.router, "arms_")
    assert router.router_.regressors_[0].alpha == 2.0
    assert clone(router).cost_weight == 0.0 < router.cost_weight


def test_a_limit_given_to_route_replaces_the_fitted_point() -> None:
    X, quality, cost = draw(300, 5)
    inner = QualityRouter(cost_weight=0.01)
    router = TunedRouter(inner, Budget(mean_cost=1.5)).fit(X, quality, cost=cost)
    plain = clone(inner).fit(X, quality, cost=cost)
    for limit in (Budget(mean_cost=3.0), Share(1, at_most=0.1), Capacity({1: 5})):
        left, right = router.route(X, limit=limit, random_state=0), plain.route(X, limit=limit, random_state=0)
        np.testing.assert_array_equal(left.policy, right.policy)
        np.testing.assert_array_equal(left.utility, right.utility)
        np.testing.assert_array_equal(left.fallbacks, right.fallbacks)


def test_score_is_the_realised_utility_at_the_users_cost_weight() -> None:
    X, quality, cost = draw(300, 6)
    router = TunedRouter(QualityRouter(cost_weight=0.03), Budget(mean_cost=1.5)).fit(X, quality, cost=cost)
    assert router.cost_weight > 0.03
    assert router.score(X, quality, cost=cost) == pytest.approx(
        realised_utility(quality, router.predict(X), cost=cost, cost_weight=0.03)
    )


def test_a_share_and_a_target_are_met_on_fresh_queries() -> None:
    X, quality, cost = draw(3000, 7)
    fresh, fresh_quality, _ = draw(3000, 8)
    few = TunedRouter(limit=Share(1, at_most=0.2)).fit(X, quality)
    load = few.route(fresh, random_state=0).load[1]
    assert abs(load - 0.2) < 4.5 * np.sqrt(2 * 0.2 * 0.8 / 3000)
    assert few.arm_bonus_[1] < 0 == few.arm_bonus_[0]
    assert (few.predict_utility(fresh)[:, 1] - few.predict_quality(fresh)[:, 1]).max() < 0
    many = TunedRouter(limit=Share(1, at_least=0.9)).fit(X, quality)
    assert abs(many.route(fresh, random_state=0).load[1] - 0.9) < 4.5 * np.sqrt(2 * 0.9 * 0.1 / 3000)
    target = TunedRouter(limit=QualityTarget(0.62)).fit(X, quality, cost=cost)
    reached = fresh_quality[np.arange(3000), target.route(fresh, random_state=0).arm].mean()
    assert abs(reached - 0.62) < 4.5 * np.sqrt(2 * 0.25 / 3000)
    assert target.operating_point_.mean_quality == pytest.approx(0.62)


@pytest.mark.parametrize(
    "limit", [Budget(mean_cost=2.0), QualityTarget(0.6), Share(1, at_most=0.2)], ids=lambda limit: type(limit).__name__
)
def test_a_weight_of_k_is_worth_k_equal_rows_of_one_group(limit: Any) -> None:
    X, quality, cost = draw(120, 9)
    weight = np.random.default_rng(0).integers(4, size=120)
    rows = np.repeat(np.arange(120), weight)
    kept = np.flatnonzero(weight)
    weighted = TunedRouter(limit=limit).fit(
        X[kept], quality[kept], cost=cost[kept], sample_weight=weight[kept], groups=kept
    )
    repeated = TunedRouter(limit=limit).fit(X[rows], quality[rows], cost=cost[rows], groups=rows)
    for name in ("price", "fraction", "mean_quality", "mean_cost"):
        assert getattr(weighted.operating_point_, name) == pytest.approx(
            getattr(repeated.operating_point_, name), rel=1e-5, abs=1e-6
        )
    np.testing.assert_allclose(weighted.arm_bonus_, repeated.arm_bonus_, atol=1e-8)


def test_the_operating_point_of_a_bandit_log_is_unbiased() -> None:
    X, quality, cost = draw(400, 10)
    limit = Share(1, at_most=0.3)
    inner = Prophet()
    X = np.column_stack([np.full(400, 0.5), 1 / (1 + np.exp(-2.0 * X[:, 0])), X])
    truth = TunedRouter(inner, limit).fit(X, quality, cost=cost).operating_point_
    rng, found = np.random.default_rng(0), []
    chance = np.where(quality[:, 1] > 0, 0.75, 0.25)  # the better the dear arm would do, the oftener it was logged
    for _ in range(60):
        dear = rng.random(400) < chance
        mask = np.column_stack([~dear, dear])
        router = TunedRouter(inner, limit).fit(
            X, np.where(mask, quality, np.nan), cost=np.where(mask, cost, np.nan),
            propensity=np.where(dear, chance, 1 - chance),
        )  # fmt: skip
        found.append([router.operating_point_.mean_quality, router.operating_point_.mean_cost])
    error = np.mean(found, axis=0) - [truth.mean_quality, truth.mean_cost]
    error /= np.std(found, axis=0, ddof=1) / np.sqrt(60)
    assert np.abs(error).max() < stats.t.ppf(1 - 1e-4 / 4, 59)


def test_an_unweighted_bandit_log_warns_once() -> None:
    X, quality, _ = draw(80, 0)
    first = np.arange(80) % 2 == 0
    seen = np.where(np.column_stack([first, ~first]), quality, np.nan)
    with pytest.warns(MissingPropensityWarning) as caught:
        TunedRouter(limit=Share(1, at_most=0.4)).fit(X, seen)
    assert len(caught) == 1


def misses(runs: int, level: float, risk: float, router: Any, n: int) -> tuple[int, float]:
    """How often the true loss exceeds the risk, and the mean share of the cheap arm."""
    rng = np.random.default_rng(12)
    missed, cheap = 0, []
    for _ in range(runs):
        skill = rng.random(n)
        chance = np.column_stack([np.full(n, 0.55), 0.55 + 0.35 * skill])
        X = np.column_stack([chance, skill])
        quality = (rng.random((n, 2)) < chance).astype(float)
        cost = np.tile([1.0, 2.0], (n, 1))
        tuned = TunedRouter(router, RiskLevel(risk=risk, level=level), cv=2)
        try:
            tuned.fit(X, quality, cost=cost)
        except InfeasibleLimitError:
            continue
        skill = np.linspace(0, 1, 400)
        fresh = np.column_stack([np.full(400, 0.55), 0.55 + 0.35 * skill])
        arm = tuned.route(np.column_stack([fresh, skill])).arm
        loss = fresh.mean(axis=0).max() - fresh[np.arange(400), arm].mean()
        missed += loss > risk
        cheap.append(float(np.mean(arm == 0)))
    return missed, float(np.mean(cheap)) if cheap else 0.0


@pytest.mark.parametrize("router", [Prophet(), QualityRouter()], ids=["fitted elsewhere", "refitted"])
def test_a_risk_level_is_kept_with_its_confidence(router: Any) -> None:
    runs, level, risk = 120, 0.8, 0.06
    missed, cheap = misses(runs, level, risk, router, 400)
    assert missed <= stats.binom.ppf(1 - 1e-4, runs, 1 - level)
    # Without the bound, choosing where the mean loss reaches the risk would miss in about half of the runs.
    assert cheap > 0.05  # the promise is not kept by never taking the cheap arm


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (Capacity({"a": 1}), "a Capacity belongs to one batch"),
        (0.3, "limit must be a limit object or None, got float"),
        (Budget(mean_cost=1.0), r"Budget needs costs: pass cost= to fit"),
        (QualityTarget(0.5), r"QualityTarget needs costs: pass cost= to fit"),
        (RiskLevel(0.5), r"RiskLevel needs costs: pass cost= to fit"),
        (Share("z", at_most=0.5), "Share names the arm 'z', which the router does not have"),
    ],
)
def test_limits_that_cannot_be_tuned_for(limit: Any, message: str) -> None:
    X, quality, _ = draw(20, 0)
    with pytest.raises(RouterInputError, match=message):
        TunedRouter(limit=limit).fit(X, quality)


def test_a_risk_level_needs_outcomes_in_full() -> None:
    X, quality, cost = draw(20, 0)
    quality[3, 1] = np.nan
    with pytest.raises(RouterInputError, match=r"a RiskLevel needs outcomes that were observed in full; 1 are not"):
        TunedRouter(limit=RiskLevel(0.5)).fit(X, quality, cost=cost)


@pytest.mark.parametrize(
    ("cv", "options", "message"),
    [
        (1, {}, "cv must be at least 2 folds, got 1"),
        (True, {}, "cv must be at least 2 folds, got True"),
        (ShuffleSplit(3, random_state=0), {}, r"cv must put every query into exactly one test part; \d+ are in none"),
        (5, {"groups": np.zeros(3)}, r"groups must hold one group for each of the 20 rows, got shape \(3,\)"),
        (5, {"groups": np.zeros(20)}, "cross-validation needs at least 2, and there is only 1 group of queries"),
    ],
)
def test_folds_that_cannot_be_used(cv: Any, options: dict[str, Any], message: str) -> None:
    X, quality, _ = draw(20, 0)
    with pytest.raises(RouterInputError, match=message):
        TunedRouter(limit=Share(1, at_most=0.5), cv=cv).fit(X, quality, **options)


def test_splits_may_be_given_as_a_list() -> None:
    X, quality, cost = draw(60, 0)
    splits = list(KFold(5, shuffle=True, random_state=0).split(X))
    left, right = (
        TunedRouter(limit=Budget(mean_cost=2.0), cv=cv).fit(X, quality, cost=cost).operating_point_
        for cv in (splits, 5)
    )
    assert left == right


def test_one_query_an_arm_seen_once_and_a_foreign_estimator() -> None:
    with pytest.raises(RouterInputError, match="needs at least 2, and there is only 1 query"):
        TunedRouter(limit=Share(1, at_most=0.5)).fit([[0.0]], [[0.1, 0.2]])
    X, quality, _ = draw(20, 0)
    quality[1:, 1] = np.nan
    with pytest.raises(RouterInputError, match="arm 1 was observed so rarely that the training part of fold 5 of 5"):
        TunedRouter(limit=Share(1, at_most=0.5)).fit(X, quality, propensity=np.full(20, 0.5))
    with pytest.raises(
        RouterInputError, match=r"router must be a router, or a pipeline of defer.make_pipeline, got Pipeline"
    ):
        TunedRouter(sklearn_pipeline(QualityRouter())).fit(X, quality)


def test_an_infeasible_limit_leaves_an_unfitted_router() -> None:
    X, quality, cost = draw(50, 0)
    router = TunedRouter().fit(X, quality, cost=cost)
    with pytest.raises(InfeasibleLimitError, match="below the least possible mean cost"):
        router.set_params(limit=Budget(mean_cost=0.01)).fit(X, quality, cost=cost)
    assert not hasattr(router, "arms_")
    assert router.cost_weight == 0.0


@pytest.mark.parametrize(
    ("fitted", "later"),
    [(Share(1, at_most=0.2), Budget(mean_cost=2.0)), (Budget(mean_cost=2.0), Share(1, at_most=0.2)), (Share(1, at_least=0.9), None)],
    ids=["share to budget", "budget to share", "share to none"],
)  # fmt: skip
def test_a_limit_that_is_set_after_the_fit_waits_for_the_next_one(fitted: Any, later: Any) -> None:
    X, quality, cost = draw(200, 5)
    router = TunedRouter(limit=fitted).fit(X, quality, cost=cost)
    before = router.route(X, random_state=0)
    router.set_params(limit=later)
    after = router.route(X, random_state=0)
    np.testing.assert_array_equal(after.policy, before.policy)
    assert (after.price, router.limit_) == (before.price, fitted)
    router.fit(X, quality, cost=cost)
    reference = TunedRouter(limit=later).fit(X, quality, cost=cost)
    np.testing.assert_array_equal(router.route(X).choice.low, reference.route(X).choice.low)
    assert router.limit_ == later


@pytest.mark.parametrize(
    ("router", "name"),
    [
        (SingleArm(), "SingleArm"),
        (SingleArm(1), "SingleArm"),
        (make_pipeline(FunctionTransformer(), SingleArm(1)), "SingleArm"),
        (make_pipeline(FunctionTransformer(), make_pipeline(SingleArm(1))), "SingleArm"),
        (TunedRouter(), "TunedRouter"),
    ],
    ids=["best arm", "named arm", "in a pipeline", "in two pipelines", "tuned"],
)
def test_a_router_with_a_rule_of_its_own_is_not_tuned(router: Any, name: str) -> None:
    X, quality, cost = draw(50, 5)
    with pytest.raises(
        RouterInputError,
        match=rf"TunedRouter: {name} chooses arms by a rule of its own, which an operating point would replace: .*"
        r"give the limit to route\(X, limit=...\)",
    ):
        TunedRouter(router, Budget(mean_cost=2.0)).fit(X, quality, cost=cost)


@pytest.mark.parametrize("limit", [Budget(mean_cost=0.1), QualityTarget(0.99)], ids=str)
def test_a_limit_copied_from_the_message_is_feasible(limit: Any) -> None:
    X, quality, cost = draw(70, 11)
    with pytest.raises(InfeasibleLimitError) as caught:
        TunedRouter(limit=limit).fit(X, quality, cost=cost)
    told = re.search(r"(?:arms cost|out of fold,) ([\d.e-]+)", str(caught.value))
    assert told is not None
    for value in (float(told[1]), caught.value.nearest):
        assert TunedRouter(limit=type(limit)(value)).fit(X, quality, cost=cost).limit_ == type(limit)(value)
