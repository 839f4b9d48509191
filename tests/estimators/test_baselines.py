from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from defer.estimators import RandomMixture, SingleArm
from defer.exceptions import InfeasibleLimitError, RouterInputError
from defer.portfolios.arm_matrix import ArmMatrix
from defer.portfolios.limits import Budget, Capacity, QualityTarget, Share

ARMS = ["cheap", "fair", "dear"]
X = np.zeros((4, 1))
QUALITY = ArmMatrix([[0.2, 0.6, 1.0], [0.4, 0.6, 0.8]] * 2, ARMS)  # means .3, .6, .9
COST = ArmMatrix([[1.0, 2.0, 5.0], [1.0, 2.0, 3.0]] * 2, ARMS)  # means 1, 2, 4

unit = st.floats(0.0, 1.0).map(lambda value: round(value, 3))


@given(quality=arrays(float, 4, elements=unit), cost=arrays(float, 4, elements=unit), part=unit)
def test_a_mixture_is_on_the_concave_hull_of_single_arms(quality: np.ndarray, cost: np.ndarray, part: float) -> None:
    budget = float(cost.min() + part * (cost.max() - cost.min()))
    router = RandomMixture().fit([[0]], quality[None], cost=cost[None])
    routing = router.route([[0]] * 3, limit=Budget(mean_cost=budget), random_state=0)
    # Brute force: the best point within the budget on a chord between two arms.
    best = max(quality[cost <= budget])
    for low in np.flatnonzero(cost <= budget):
        for high in np.flatnonzero(cost > budget):
            share = (budget - cost[low]) / (cost[high] - cost[low])
            best = max(best, (1 - share) * quality[low] + share * quality[high])
    assert routing.expected_quality == pytest.approx(best, abs=1e-9)
    assert routing.expected_cost <= budget
    assert (routing.policy == routing.policy[0]).all()


def test_a_mixture_without_a_limit_takes_the_best_arm() -> None:
    router = RandomMixture().fit(X, QUALITY, cost=COST)
    assert router.predict(X).tolist() == ["dear"] * 4
    assert RandomMixture(cost_weight=0.2).fit(X, QUALITY, cost=COST).predict(X).tolist() == ["fair"] * 4
    np.testing.assert_allclose(router.mean_quality_, [0.3, 0.6, 0.9])
    np.testing.assert_allclose(router.mean_cost_, [1.0, 2.0, 4.0])


def test_means_are_weighted_and_skip_what_was_not_observed() -> None:
    quality = np.array([[1.0, np.nan], [0.0, np.nan], [np.nan, 0.5], [0.4, 0.6]])
    cost = np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, 2.0], [5.0, 6.0]])
    router = RandomMixture().fit(
        np.zeros((4, 1)), quality, cost=cost, propensity=[0.5, 0.25, 0.2, np.nan], sample_weight=[1.0, 1.0, 2.0, 3.0]
    )
    np.testing.assert_allclose(router.mean_quality_, [(2 * 1 + 4 * 0 + 3 * 0.4) / 9, (10 * 0.5 + 3 * 0.6) / 13])
    np.testing.assert_allclose(router.mean_cost_, [(2 * 1 + 4 * 3 + 3 * 5) / 9, (10 * 2 + 3 * 6) / 13])


@pytest.mark.parametrize(
    ("limit", "arm"),
    [
        (None, "dear"),
        (Budget(mean_cost=4.0), "dear"),
        (Budget(mean_cost=3.9), "fair"),
        (Budget(mean_cost=1.0), "cheap"),
        (QualityTarget(0.1), "cheap"),
        (QualityTarget(0.35), "fair"),
        (QualityTarget(0.8), "dear"),
        (Share("dear", at_most=0.5), "fair"),
        (Share("cheap", at_least=0.5), "cheap"),
        (Capacity({"dear": 3, "fair": 9}), "fair"),
        (Capacity({"dear": 4}), "dear"),
    ],
    ids=str,
)
def test_the_best_single_arm_under_each_limit(limit: Any, arm: str) -> None:
    routing = SingleArm().fit(X, QUALITY, cost=COST).route(X, limit=limit)
    assert routing.label.tolist() == [arm] * 4
    assert (routing.propensity == 1.0).all()
    assert routing.limit == limit


def test_a_named_arm_is_taken_whatever_it_costs() -> None:
    router = SingleArm("cheap").fit(X, QUALITY, cost=COST)
    assert router.arm_ == "cheap"
    assert router.predict(X).tolist() == router.route(X).label.tolist() == ["cheap"] * 4
    assert router.predict_utility(X).argmax(axis=1).tolist() == [0] * 4
    assert router.route(X).fallbacks[0].tolist() == [2, 1]
    np.testing.assert_allclose(router.predict_quality(X), np.tile([0.3, 0.6, 0.9], (4, 1)))


def test_the_best_arm_counts_its_cost_and_ties_go_to_the_cheaper() -> None:
    assert SingleArm(cost_weight=0.25).fit(X, QUALITY, cost=COST).arm_ == "fair"
    tie = SingleArm().fit(X[:1], ArmMatrix([[0.5, 0.5, 0.5]], ARMS), cost=ArmMatrix([[3.0, 1.0, 1.0]], ARMS))
    assert tie.arm_ == "fair"


@pytest.mark.parametrize(
    ("arm", "limit", "message", "nearest"),
    [
        (
            "dear",
            Budget(mean_cost=2.0),
            r"no single arm of \['dear'\] satisfies Budget\(.*: the least mean cost is 4",
            4.0,
        ),
        (
            "cheap",
            QualityTarget(0.5),
            r"no single arm of \['cheap'\].*: the largest mean predicted quality is 0\.3",
            0.3,
        ),
        ("dear", Capacity({"dear": 3}), r"no single arm of \['dear'\].*: the batch has 4 queries", 3.0),
        (
            None,
            Share("dear", at_most=0.6, at_least=0.4),
            r"no single arm .*: a single arm takes a share of 0 or 1",
            np.nan,
        ),
        (None, Budget(mean_cost=0.5), "below the least possible mean cost", 1.0),
        (None, QualityTarget(0.95), "above the largest possible mean predicted quality", 0.9),
    ],
)
def test_limits_that_no_single_arm_satisfies(arm: Any, limit: Any, message: str, nearest: float) -> None:
    router = SingleArm(arm).fit(X, QUALITY, cost=COST)
    with pytest.raises(InfeasibleLimitError, match=message) as error:
        router.route(X, limit=limit)
    assert error.value.nearest == pytest.approx(nearest, nan_ok=True)


def test_an_arm_that_is_not_there() -> None:
    with pytest.raises(
        RouterInputError, match=r"SingleArm: arm must be one of \['cheap', 'fair', 'dear'\], got 'huge'"
    ):
        SingleArm("huge").fit(X, QUALITY)


@pytest.mark.parametrize("router", [SingleArm(), RandomMixture()])
def test_the_query_is_ignored_whatever_it_is(router: Any) -> None:
    for queries in (["a", "b", "c", "d"], [{"a": 1}] * 4, np.full((4, 2), np.nan)):
        assert router.fit(queries, QUALITY).predict(queries).tolist() == ["dear"] * 4


@pytest.mark.parametrize("seed", range(20))
def test_an_arm_is_admitted_at_its_own_mean_and_at_what_the_message_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    quality, cost = rng.random((7, 2)), rng.random((7, 2))
    router = SingleArm(1).fit(np.zeros((7, 1)), quality, cost=cost)
    for n in (3, 7, 11):
        batch = np.zeros((n, 1))
        for limit in (Budget(float(router.mean_cost_[1])), QualityTarget(float(router.mean_quality_[1]))):
            if isinstance(limit, Budget) or router.mean_quality_[1] == router.mean_quality_.max():
                assert (router.route(batch, limit=limit).arm == 1).all()
    for limit, kind, marker in (
        (Budget(float(np.nextafter(router.mean_cost_[1], 0))), Budget, "least mean cost is "),
        (QualityTarget(float(np.nextafter(router.mean_quality_[1], 1))), QualityTarget, "mean predicted quality is "),
    ):
        try:
            router.route(np.zeros((7, 1)), limit=limit)
            continue
        except InfeasibleLimitError as error:
            if marker not in str(error):
                continue  # no arm at all reaches it
            told, nearest = float(str(error).split(marker)[1]), error.nearest
        for value in (told, nearest):
            assert (router.route(np.zeros((7, 1)), limit=kind(value)).arm == 1).all()
