"""The contract of every router, over the registry in conftest.py."""

from __future__ import annotations

import io
from typing import Any

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.pipeline import make_pipeline as sklearn_pipeline
from sklearn.preprocessing import StandardScaler

from defer import OutcomeLog
from defer.estimators import BaseRouter, QualityRouter, RealisedUtility, Routing, make_pipeline, realised_utility
from defer.estimators.base import column_means
from defer.exceptions import CostRangeError, InfeasibleLimitError, MissingPropensityWarning, RouterInputError
from defer.portfolios.arm_matrix import ArmMatrix
from defer.portfolios.limits import Budget, Capacity, QualityTarget, RiskLevel, Share

ARMS = ["small", "medium", "large"]


def fitted(case: Any, table: Any, **options: Any) -> Any:
    return case.make().fit(table.X, table.quality, cost=table.cost, **options)


def same_bits(left: Routing, right: Routing) -> bool:
    names = ("arm", "propensity", "predicted_quality", "predicted_cost", "utility", "policy", "fallbacks")
    return all(getattr(left, name).tobytes() == getattr(right, name).tobytes() for name in names)


def test_every_router_of_the_package_is_in_the_registry(request: pytest.FixtureRequest) -> None:
    import defer.estimators as package

    conftest = next(
        plugin
        for plugin in request.config.pluginmanager.get_plugins()
        if str(getattr(plugin, "__file__", "")).endswith("estimators/conftest.py")
    )
    registered = {type(case.router).__name__ for case in conftest.ROUTERS.values()}
    routers = {
        name
        for name in package.__all__
        if isinstance(getattr(package, name), type) and issubclass(getattr(package, name), BaseRouter)
    }
    takes_text = {"CausalLMRouter", "EncoderRouter"}
    assert routers - {"BaseDeferral", "BaseRouter"} - takes_text == registered


def test_passes_every_check_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def test_a_clone_keeps_parameters_and_forgets_the_fit(case: Any, table: Any) -> None:
    router = fitted(case, table)
    twin = clone(router)
    assert repr(twin) == repr(case.router)
    assert not hasattr(twin, "arms_")
    assert same_bits(
        twin.fit(table.X, table.quality, cost=table.cost).route(table.fresh, random_state=0),
        router.route(table.fresh, random_state=0),
    )


def test_a_pickled_router_routes_alike(case: Any, table: Any) -> None:
    router, buffer = fitted(case, table), io.BytesIO()
    joblib.dump(router, buffer)
    buffer.seek(0)
    limit = None if not case.follows_limits else Budget(mean_cost=0.01)
    assert same_bits(
        joblib.load(buffer).route(table.fresh, limit=limit, random_state=3),
        router.route(table.fresh, limit=limit, random_state=3),
    )


@pytest.mark.parametrize(
    "seeded",
    [lambda: 5, lambda: np.random.RandomState(5), lambda: np.random.default_rng(5)],
    ids=["int", "state", "generator"],
)
def test_the_same_seed_gives_the_same_bits(case: Any, table: Any, seeded: Any) -> None:
    router = fitted(case, table)
    limit = Budget(mean_cost=0.0101) if case.follows_limits else None
    first = router.route(table.fresh, limit=limit, random_state=seeded())
    assert same_bits(first, router.route(table.fresh, limit=limit, random_state=seeded()))


def test_a_single_query_is_routed_as_in_the_batch(case: Any, table: Any) -> None:
    router = fitted(case, table)
    batch = router.route(table.fresh, random_state=0).label.tolist()
    single = [router.route(table.fresh[[row]], random_state=0).label[0] for row in range(len(table.fresh))]
    assert single == batch == router.predict(table.fresh).tolist()


def test_shapes_dtypes_and_their_relations(case: Any, table: Any) -> None:
    router, n = fitted(case, table), len(table.fresh)
    quality, cost = router.predict_quality(table.fresh), router.predict_cost(table.fresh)
    utility, decision = router.predict_utility(table.fresh), router.decision_function(table.fresh)
    for predicted in (quality, cost, utility, decision):
        assert predicted.shape == (n, 3)
        assert predicted.dtype == np.float64
        assert np.isfinite(predicted).all()
    assert (cost >= 0).all()
    np.testing.assert_array_equal(decision, utility)
    np.testing.assert_array_equal(router.arms_[utility.argmax(axis=1)], router.predict(table.fresh))
    routing = router.route(table.fresh, random_state=0)
    assert routing.arm.dtype.kind == "i"
    assert routing.fallbacks.shape == (n, 2)
    np.testing.assert_array_equal(routing.policy.sum(axis=1), np.ones(n))
    np.testing.assert_array_equal(routing.propensity, routing.policy[np.arange(n), routing.arm])
    np.testing.assert_array_equal(routing.quality, quality[np.arange(n), routing.arm])
    np.testing.assert_array_equal(routing.cost, cost[np.arange(n), routing.arm])
    np.testing.assert_allclose(routing.load, routing.policy.mean(axis=0), atol=1e-12)
    assert routing.expected_cost == pytest.approx((routing.policy * cost).sum(axis=1).mean())
    assert routing.expected_quality == pytest.approx((routing.policy * quality).sum(axis=1).mean())


def test_what_it_returns_may_be_written_to(case: Any, table: Any) -> None:
    router = fitted(case, table)
    before = router.predict_quality(table.fresh).copy()
    for predict in (router.predict_quality, router.predict_cost, router.predict_utility):
        predict(table.fresh)[:] = -7.0
    np.testing.assert_array_equal(router.predict_quality(table.fresh), before)


def test_two_arms_decide_by_their_difference(case: Any, table: Any) -> None:
    router = case.make().fit(table.X, np.asarray(table.quality)[:, :2], cost=np.asarray(table.cost)[:, :2])
    utility = router.predict_utility(table.fresh)
    np.testing.assert_array_equal(router.decision_function(table.fresh), utility[:, 1] - utility[:, 0])


def test_labels_are_read_as_one_hot_quality(case: Any, table: Any) -> None:
    labels = np.array(ARMS)[np.asarray(table.quality).argmax(axis=1)]
    arms = np.unique(labels)
    one_hot = ArmMatrix(labels[:, None] == arms, arms=arms.tolist())
    cost = np.asarray(table.cost)[:, [ARMS.index(arm) for arm in arms]]
    by_label = case.make().fit(table.X, labels, cost=cost)
    by_quality = case.make().fit(table.X, one_hot, cost=cost)
    assert by_label.classes_.tolist() == by_label.arms_.tolist() == arms.tolist()
    np.testing.assert_array_equal(by_label.predict_quality(table.fresh), by_quality.predict_quality(table.fresh))
    assert case.make().fit(table.X, labels).score(table.X, labels) == pytest.approx(
        np.mean(case.make().fit(table.X, labels).predict(table.X) == labels)
    )


@pytest.mark.parametrize(
    "frame", [pd.DataFrame, pl.from_numpy, pa.Table.from_pandas], ids=["pandas", "polars", "pyarrow"]
)
def test_frames_name_the_arms_and_costs_follow_by_name(case: Any, table: Any, frame: Any) -> None:
    def build(values: np.ndarray, names: list[str]) -> Any:
        if frame is pl.from_numpy:
            return pl.from_numpy(values, schema=names)
        return frame(pd.DataFrame(values, columns=names))

    quality, cost = np.asarray(table.quality), np.asarray(table.cost)
    router = case.make().fit(
        build(table.X, ["kind", "u", "v"]), build(quality, ARMS), cost=build(cost[:, ::-1].copy(), ARMS[::-1])
    )
    assert router.arms_.tolist() == ARMS
    assert router.feature_names_in_.tolist() == ["kind", "u", "v"]
    routing, plain = router.route(build(table.fresh, ["kind", "u", "v"])), fitted(case, table).route(table.fresh)
    # Rounding follows the memory layout, which frames choose for themselves.
    np.testing.assert_allclose(routing.predicted_quality, plain.predicted_quality, atol=1e-9)
    np.testing.assert_allclose(routing.predicted_cost, plain.predicted_cost, atol=1e-9)
    assert routing.label.tolist() == plain.label.tolist()
    with pytest.raises(ValueError, match="feature names should match"):
        router.predict(build(table.fresh, ["kind", "u", "w"]))


def test_text_goes_through_make_pipeline(case: Any) -> None:
    texts = [f"add {number} and {number}" for number in range(20)] + [f"write poem {number}" for number in range(20)]
    quality = np.repeat([[1.0, 0.0], [0.0, 1.0]], 20, axis=0)
    quality[[0, 25]] = 1.0
    router = make_pipeline(TfidfVectorizer(), case.make()).fit(texts, quality, cost=np.tile([1.0, 2.0], (40, 1)))
    routing = router.route(["add 3 and 4", "write poem 99"])
    assert routing.predicted_quality.shape == router.predict_cost(["add 3 and 4", "write poem 99"]).shape == (2, 2)
    if len(np.unique(router.predict(texts))) > 1:
        assert routing.arm.tolist() == [0, 1]
    assert router.has_cost_
    assert router.weighting_ == "none"


@pytest.mark.parametrize("layout", ["csr_matrix", "csr_array", "csc_matrix", "coo_array"])
def test_sparse_queries_are_routed_as_dense_ones(case: Any, table: Any, layout: str) -> None:
    X = np.where(np.abs(table.X) > 0.3, table.X, 0.0)
    dense = case.make().fit(X, table.quality, cost=table.cost)
    thin = case.make().fit(getattr(sparse, layout)(X), table.quality, cost=table.cost)
    np.testing.assert_allclose(
        thin.predict_quality(getattr(sparse, layout)(X)), dense.predict_quality(X), rtol=2e-3, atol=2e-4
    )


def test_float32_queries_are_accepted(case: Any, table: Any) -> None:
    router = case.make().fit(table.X.astype(np.float32), table.quality, cost=table.cost)
    predicted = router.predict_quality(table.fresh.astype(np.float32))
    assert predicted.dtype == np.float64
    np.testing.assert_allclose(predicted, fitted(case, table).predict_quality(table.fresh), atol=1e-3)


def test_a_weight_of_k_is_worth_k_equal_rows(case: Any, table: Any) -> None:
    weight = np.random.default_rng(0).integers(4, size=len(table.X))
    rows = np.repeat(np.arange(len(table.X)), weight)
    weighted = fitted(case, table, sample_weight=weight.astype(float))
    repeated = case.make().fit(table.X[rows], table.quality[rows], cost=table.cost[rows])
    for method in ("predict_quality", "predict_cost", "predict_utility"):
        np.testing.assert_allclose(
            getattr(weighted, method)(table.fresh), getattr(repeated, method)(table.fresh), rtol=1e-4, atol=1e-5
        )
    assert weighted.score(table.X, table.quality, cost=table.cost, sample_weight=weight) == pytest.approx(
        repeated.score(table.X[rows], table.quality[rows], cost=table.cost[rows])
    )


def test_propensities_undo_what_the_logging_policy_preferred(case: Any) -> None:
    # A trait that no query shows drives both the outcome and which arm was logged; only the propensity knows it.
    rng, n, runs = np.random.default_rng(11), 400, 40
    X = rng.normal(size=(n, 2))
    hidden = rng.integers(2, size=n)
    quality = (rng.random((n, 2)) < np.where(hidden, 0.8, 0.2)[:, None]).astype(float)
    probe = rng.normal(size=(50, 2))
    reference = case.make()
    for target in (reference, getattr(reference, "router", None)):
        if hasattr(target, "n_neighbors"):
            target.set_params(n_neighbors=150)
    truth = clone(reference).fit(X, quality).predict_quality(probe).mean(axis=0)
    weighted, naive = [], []
    for _ in range(runs):
        takes_first = rng.random(n) < np.where(hidden, 0.8, 0.2)
        seen = np.where(np.column_stack([takes_first, ~takes_first]), quality, np.nan)
        propensity = np.where(takes_first == hidden, 0.8, 0.2)
        router = clone(reference).fit(X, seen, propensity=propensity)
        assert router.weighting_ == "inverse propensity"
        weighted.append(router.predict_quality(probe).mean(axis=0))
        if len(naive) < 5:
            with pytest.warns(MissingPropensityWarning, match="bandit log"):
                naive.append(clone(reference).fit(X, seen).predict_quality(probe).mean(axis=0))
    error = (np.mean(weighted, axis=0) - truth) / (np.std(weighted, axis=0, ddof=1) / np.sqrt(runs))
    # 18 comparisons at this level raise a false alarm with probability below 1e-4.
    assert np.abs(error).max() < stats.t.ppf(1 - 1e-4 / 40, runs - 1)
    if case.naive_bias is None:
        return
    assert (np.mean(naive, axis=0) - truth)[0] > case.naive_bias
    assert (np.mean(naive, axis=0) - truth)[1] < -case.naive_bias


def test_rows_observed_in_full_ignore_their_propensity(case: Any, table: Any) -> None:
    router = fitted(case, table, propensity=np.full(len(table.X), np.nan))
    assert router.weighting_ == "none"
    assert same_bits(router.route(table.fresh, random_state=0), fitted(case, table).route(table.fresh, random_state=0))


@pytest.mark.parametrize("scoring", [None, RealisedUtility(cost_weight=5.0)], ids=["own score", "fixed yardstick"])
def test_grid_search_finds_what_a_loop_finds(case: Any, table: Any, scoring: Any) -> None:
    folds = list(KFold(3, shuffle=True, random_state=0).split(table.X))
    search = GridSearchCV(case.make(), case.grid, scoring=scoring, cv=folds)
    with config_context(enable_metadata_routing=True):
        search.fit(table.X, table.quality, cost=table.cost)
    (name, values), scores = next(iter(case.grid.items())), []
    for value in values:
        parts = []
        for train, test in folds:
            router = case.make().set_params(**{name: value})
            router.fit(table.X[train], table.quality[train], cost=table.cost[train])
            weight = 5.0 if scoring is not None else router.cost_weight
            parts.append(
                realised_utility(
                    table.quality[test], router.predict(table.X[test]), cost=table.cost[test], cost_weight=weight
                )
            )
        scores.append(np.mean(parts))
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], scores)
    assert search.best_params_ == {name: values[int(np.argmax(scores))]}
    assert search.predict(table.fresh).shape == (len(table.fresh),)


def test_cross_validation_predicts_and_scores_with_costs(case: Any, table: Any) -> None:
    folds = list(KFold(3).split(table.X))
    labels = cross_val_predict(case.make(), table.X, table.quality, cv=3)
    with config_context(enable_metadata_routing=True):
        scores = cross_val_score(case.make(), table.X, table.quality, cv=folds, params={"cost": table.cost})
    for (train, test), score in zip(folds, scores, strict=True):
        plain = case.make().fit(table.X[train], table.quality[train])
        np.testing.assert_array_equal(labels[test], plain.predict(table.X[test]))
        priced = case.make().fit(table.X[train], table.quality[train], cost=table.cost[train])
        assert score == priced.score(table.X[test], table.quality[test], cost=table.cost[test])


def test_cross_validation_on_a_bandit_log(case: Any, table: Any) -> None:
    rng, n = np.random.default_rng(0), len(table.X)
    action = rng.integers(3, size=n)
    seen = np.full((n, 3), np.nan)
    seen[np.arange(n), action] = np.asarray(table.quality)[np.arange(n), action]
    with config_context(enable_metadata_routing=True):
        scores = cross_val_score(
            case.make(), table.X, seen, cv=KFold(3), params={"propensity": np.full(n, 1 / 3)}, error_score="raise"
        )
    assert ((scores >= 0) & (scores <= 1)).all()


def test_is_the_last_step_of_a_plain_pipeline(case: Any, table: Any) -> None:
    plain = sklearn_pipeline(StandardScaler(), case.make())
    plain.fit(table.X, table.quality, **{f"{plain.steps[-1][0]}__cost": table.cost})
    ours = make_pipeline(StandardScaler(), case.make()).fit(table.X, table.quality, cost=table.cost)
    assert type(plain) is Pipeline
    np.testing.assert_array_equal(plain.predict(table.fresh), ours.predict(table.fresh))
    np.testing.assert_array_equal(plain.predict(table.fresh), ours.route(table.fresh).label)


@pytest.mark.parametrize("mean_cost", [0.002, 0.007, 0.0123, 1.0])
def test_a_budget_is_kept_in_expectation_and_in_the_mean_of_draws(case: Any, table: Any, mean_cost: float) -> None:
    router = fitted(case, table)
    routing = router.route(table.fresh, limit=Budget(mean_cost=mean_cost), random_state=0)
    assert routing.expected_cost <= mean_cost
    assert routing.price >= 0.0
    if case.follows_limits and routing.price > 0:
        assert routing.expected_cost == pytest.approx(mean_cost, rel=1e-9)
    draws = [
        router.route(table.fresh, limit=Budget(mean_cost=mean_cost), random_state=seed).cost.mean()
        for seed in range(20)
    ]
    # A draw takes within one query of the expected number of upgrades, and an upgrade costs at most 0.04.
    assert max(draws) <= mean_cost + 0.04 / len(table.fresh)


def test_shares_targets_and_capacities_are_kept(case: Any, table: Any) -> None:
    router = fitted(case, table)
    if not case.follows_limits:
        with pytest.raises(InfeasibleLimitError, match=r"a single arm takes a share of 0 or 1"):
            router.route(table.fresh, limit=Share("large", at_most=0.2, at_least=0.1))
        return
    assert router.route(table.fresh, limit=Share("large", at_most=0.2)).load[2] <= 0.2 + 1e-12
    assert router.route(table.fresh, limit=Share("small", at_least=0.35)).load[0] >= 0.35 - 1e-12
    best = router.predict_quality(table.fresh).max(axis=1).mean()
    assert router.route(table.fresh, limit=QualityTarget(best - 0.05)).expected_quality >= best - 0.05 - 1e-9
    counted = router.route(table.fresh, limit=Capacity({"large": 3, "medium": 40}))
    assert np.bincount(counted.arm, minlength=3)[2] <= 3
    assert np.bincount(counted.arm, minlength=3)[1] <= 40


@settings(max_examples=6, deadline=None)
@given(order=st.permutations(range(3)), weight=st.sampled_from([0.0, 3.0]))
def test_renaming_the_columns_renames_the_routing(case: Any, table: Any, order: list[int], weight: float) -> None:
    case_router = case.make()
    if "cost_weight" in case_router.get_params():
        case_router.set_params(cost_weight=weight)
    if case.own_first:
        order = [0, *(index for index in order if index)]
    names = [ARMS[index] for index in order]
    permuted = clone(case_router).fit(
        table.X,
        ArmMatrix(np.asarray(table.quality)[:, order], names),
        cost=ArmMatrix(np.asarray(table.cost)[:, order], names),
    )
    straight = clone(case_router).fit(table.X, table.quality, cost=table.cost)
    np.testing.assert_allclose(
        permuted.predict_quality(table.fresh), straight.predict_quality(table.fresh)[:, order], atol=case.rounding
    )
    assert permuted.predict(table.fresh).tolist() == straight.predict(table.fresh).tolist()
    for limit in (None, Budget(mean_cost=0.0083)):
        np.testing.assert_allclose(
            permuted.route(table.fresh, limit=limit, random_state=0).policy,
            straight.route(table.fresh, limit=limit, random_state=0).policy[:, order],
            atol=max(1e-7, 100 * case.rounding),
        )


def test_what_is_added_to_all_qualities_changes_no_routing(case: Any, table: Any) -> None:
    if case.unit_quality:
        with pytest.raises(CostRangeError, match=r"outside \[0, 1\]"):
            case.make().fit(table.X, ArmMatrix(np.asarray(table.quality) + 1.0, ARMS), cost=table.cost)
        return
    straight = fitted(case, table)
    shifted = case.make().fit(table.X, ArmMatrix(np.asarray(table.quality) + 1.0, ARMS), cost=table.cost)
    np.testing.assert_allclose(
        shifted.predict_quality(table.fresh), straight.predict_quality(table.fresh) + 1.0, atol=1e-6
    )
    for limit in (None, Budget(mean_cost=0.0083)):
        left, right = (router.route(table.fresh, limit=limit, random_state=0) for router in (straight, shifted))
        np.testing.assert_allclose(left.policy, right.policy, atol=1e-5)


@pytest.mark.parametrize(
    "method", ["predict", "predict_quality", "predict_cost", "predict_utility", "decision_function", "route"]
)
def test_an_unfitted_router_says_so(case: Any, method: str) -> None:
    with pytest.raises(NotFittedError, match=rf"This {type(case.router).__name__} instance is not fitted yet"):
        getattr(case.make(), method)([[0.0]])


@pytest.mark.parametrize("limit", [Budget(mean_cost=1.0), QualityTarget(0.1)])
def test_limits_in_money_need_a_fit_with_costs(case: Any, table: Any, limit: Any) -> None:
    router = case.make().fit(table.X, table.quality)
    assert not router.has_cost_
    assert (router.predict_cost(table.fresh) == 0).all()
    with pytest.raises(
        RouterInputError, match=f"{type(limit).__name__} needs costs, and this .* was fitted without cost="
    ):
        router.route(table.fresh, limit=limit)


def test_a_budget_below_the_cheapest_arms_names_the_least(case: Any, table: Any) -> None:
    router = fitted(case, table)
    least = router.predict_cost(table.fresh).min(axis=1).mean()
    with pytest.raises(InfeasibleLimitError, match=r"Budget\(mean_cost=1e-06\) is below the least possible") as error:
        router.route(table.fresh, limit=Budget(mean_cost=1e-6))
    assert error.value.nearest == pytest.approx(least)


def test_limits_that_do_not_fit_are_named(case: Any, table: Any) -> None:
    router = fitted(case, table)
    with pytest.raises(RouterInputError, match="Share names the arm 'huge', which the router does not have"):
        router.route(table.fresh, limit=Share("huge", at_most=0.5))
    with pytest.raises(RouterInputError, match="a RiskLevel needs outcomes"):
        router.route(table.fresh, limit=RiskLevel(risk=0.1))
    with pytest.raises(RouterInputError, match="limit must be a Budget"):
        router.route(table.fresh, limit=0.1)


def test_other_queries_and_other_arms_than_at_fit(case: Any, table: Any) -> None:
    router = fitted(case, table)
    with pytest.raises(ValueError, match=r"X has 2 features, but .* is expecting 3 features"):
        router.predict(table.fresh[:, :2])
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        router.predict(table.fresh[:0])
    with pytest.raises(RouterInputError, match="y has 2 columns for 3 arms"):
        router.score(table.X, np.asarray(table.quality)[:, :2])
    taken = router.predict(table.X)[0]
    left = [arm for arm in ARMS if arm != taken]
    with pytest.raises(RouterInputError, match=rf"rows take an arm that y does not have, the first is '{taken}'"):
        router.score(table.X, ArmMatrix(np.asarray(table.quality)[:, [ARMS.index(arm) for arm in left]], left))


def test_one_arm_and_one_query(case: Any) -> None:
    router = case.make().fit([[1.0, 2.0]], pd.DataFrame({"only": [0.5]}), cost=pd.DataFrame({"only": [0.1]}))
    routing = router.route([[3.0, 4.0]], limit=Budget(mean_cost=0.1))
    assert routing.label.tolist() == ["only"]
    assert routing.fallbacks.shape == (1, 0)
    assert routing.expected_cost == pytest.approx(0.1)
    assert router.decision_function([[3.0, 4.0]]).shape == (1,)


def test_a_failed_fit_leaves_no_half_fitted_router(case: Any, table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    router = fitted(case, table)

    def fail(*_: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(type(router), "_fit", fail)
    with pytest.raises(RuntimeError, match="no"):
        router.fit(table.X, table.quality)
    with pytest.raises(NotFittedError):
        router.predict(table.X)


@pytest.mark.parametrize("value", [-1.0, np.inf, np.nan, "much", None])
def test_a_wrong_cost_weight_is_refused_when_it_is_set_after_the_fit(case: Any, table: Any, value: Any) -> None:
    router, name = fitted(case, table), "cost_weight"
    if "router" in router.get_params():
        name = "router__cost_weight"
    router.set_params(**{name: value})
    calls = [lambda: router.predict_utility(table.fresh), lambda: router.route(table.fresh, random_state=0)]
    if case.follows_limits:
        calls += [lambda: router.predict(table.fresh), lambda: router.route(table.fresh, limit=Budget(mean_cost=0.01))]
    for call in calls:
        with pytest.raises(RouterInputError, match=r"cost_weight must be a finite number >= 0, got"):
            call()


@pytest.mark.parametrize("value", [-1.0, np.inf, np.nan, "much", None])
def test_a_wrong_cost_weight_is_refused_at_fit(case: Any, table: Any, value: Any) -> None:
    router = case.make()
    if "cost_weight" not in router.get_params():
        router.set_params(router=QualityRouter())
        router.router.set_params(cost_weight=value)
    else:
        router.set_params(cost_weight=value)
    with pytest.raises(RouterInputError, match=r"cost_weight must be a finite number >= 0, got"):
        router.fit(table.X, table.quality)


def test_ties_go_to_the_cheaper_arm_then_to_the_lower_index(case: Any, table: Any) -> None:
    quality = np.tile([0.5, 0.5, 0.5], (len(table.X), 1))
    router = case.make().fit(table.X, quality, cost=np.tile([2.0, 1.0, 1.0], (len(table.X), 1)))
    routing = router.route(table.fresh)
    assert set(routing.arm.tolist()) == {1}
    assert routing.fallbacks[0].tolist() == [2, 0]


def test_metadata_routing_hands_outcomes_to_the_router_in_a_pipeline(case: Any, table: Any) -> None:
    weight = np.arange(1.0, len(table.X) + 1)
    scaler = StandardScaler()
    reference = make_pipeline(scaler, case.make()).fit(table.X, table.quality, cost=table.cost, sample_weight=weight)
    with config_context(enable_metadata_routing=True):
        router = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), case.make())
        router.fit(table.X, table.quality, cost=table.cost, sample_weight=weight)
        scores = cross_val_score(
            make_pipeline(StandardScaler(), case.make()), table.X, table.quality, cv=3, params={"cost": table.cost},
            error_score="raise",
        )  # fmt: skip
    assert np.isfinite(scores).all()
    assert same_bits(router.route(table.fresh, random_state=0), reference.route(table.fresh, random_state=0))


def test_outcome_logs_are_fitted_as_they_are(case: Any, full_log: OutcomeLog, bandit_log: OutcomeLog) -> None:
    router = case.make().fit(full_log.X, full_log.quality, cost=full_log.cost)
    assert router.arms_.tolist() == list(full_log.arms)
    assert router.route(full_log.X, limit=Budget(mean_cost=0.03), random_state=0).arm.shape == (len(full_log),)
    partial = case.make().fit(bandit_log.X, bandit_log.quality, cost=bandit_log.cost, propensity=bandit_log.propensity)
    assert partial.weighting_ == "inverse propensity"
    assert np.isfinite(partial.predict_utility(full_log.X)).all()
    value = partial.score(bandit_log.X, bandit_log.quality, cost=bandit_log.cost, propensity=bandit_log.propensity)
    assert 0.0 <= value <= 1.0


@pytest.mark.parametrize("price", [0.1, 0.3, 0.001, 0.0004])
def test_a_budget_of_a_constant_price_admits_its_arm(case: Any, price: float) -> None:
    rng = np.random.default_rng(0)
    X, quality = rng.normal(size=(1000, 2)), rng.integers(2, size=(1000, 2))
    cost = np.tile([price, 2.0 * price], (1000, 1))
    # A regression of costs rounds by itself.
    slack = 0.0 if getattr(case.router, "cost_regressor", None) is None else 1e-12
    for options in ({}, {"sample_weight": rng.random(1000)}):
        limit = Budget(price * (1.0 + slack))
        routing = case.make().fit(X, quality, cost=cost, **options).route(X, limit=limit, random_state=0)
        assert (routing.arm == 0).all()
        assert routing.expected_cost == pytest.approx(price, rel=2.0 * slack, abs=0.0)


def test_a_mean_lies_within_what_was_observed() -> None:
    rng = np.random.default_rng(1)
    for constant in rng.random(50):
        table = np.full((333, 2), constant)
        table[rng.random((333, 2)) < 0.5] = np.nan
        for weight in (None, rng.random(333)):
            assert column_means(table, weight, 2).tolist() == [constant] * 2
    # A row without weight does not widen the range.
    assert column_means(np.array([[0.1], [0.1], [0.1], [9.0]]), np.array([1.0, 1.0, 1.0, 0.0]), 1).tolist() == [0.1]
