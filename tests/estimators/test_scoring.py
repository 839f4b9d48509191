from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import config_context
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV

from defer.datasets import make_noisy_experts
from defer.estimators import ConfidenceDeferral, QualityRouter, RealisedUtility, realised_utility
from defer.exceptions import RouterInputError

QUALITY = np.array([[0.2, 1.0], [0.6, 0.0], [0.5, 0.5]])
COST = np.array([[1.0, 2.0], [1.0, 3.0], [0.0, 1.0]])


def test_the_mean_of_what_was_taken() -> None:
    assert realised_utility(QUALITY, [1, 0, 1]) == pytest.approx((1.0 + 0.6 + 0.5) / 3)
    assert realised_utility(QUALITY, [1, 0, 1], cost=COST, cost_weight=0.1) == pytest.approx((0.8 + 0.5 + 0.4) / 3)
    assert realised_utility(QUALITY, [1, 0, 1], sample_weight=[1, 3, 0]) == pytest.approx((1.0 + 1.8) / 4)


def test_arms_are_matched_by_name() -> None:
    frame = pd.DataFrame(QUALITY, columns=["b", "a"])
    assert realised_utility(frame, ["a", "b", "a"]) == pytest.approx(0.7)
    assert realised_utility(QUALITY, ["a", "b", "a"], arms=["b", "a"]) == pytest.approx(0.7)
    cost = pd.DataFrame(COST[:, ::-1], columns=["a", "b"])
    assert realised_utility(frame, ["a", "b", "a"], cost=cost, cost_weight=0.1) == pytest.approx(1.7 / 3)


def test_labels_give_the_accuracy_and_costs_are_counted_against_it() -> None:
    y, taken, weight = np.array(["u", "v", "u"]), np.array(["u", "u", "w"]), np.array([1.0, 2.0, 3.0])
    assert realised_utility(y, taken) == accuracy_score(y, taken)
    assert realised_utility(y, taken, sample_weight=weight) == accuracy_score(y, taken, sample_weight=weight)
    cost = np.array([[1.0, 5.0, 9.0], [2.0, 5.0, 9.0], [3.0, 5.0, 9.0]])
    # "w" is an arm that no label of this part names.
    assert realised_utility(y, taken, arms=["u", "v", "w"], cost=cost, cost_weight=0.1) == pytest.approx(
        (1 - 0.1 + 0 - 0.2 + 0 - 0.9) / 3
    )


def test_true_labels_in_the_place_of_arms_are_refused() -> None:
    message = r"y: none of the 2 labels is an arm, the first is 'yes'; the arms are \['own', 'ann'\].  Where .* takes experts="
    with pytest.raises(RouterInputError, match=message):
        realised_utility(["yes", "no"], ["own", "own"], arms=["own", "ann"])
    with pytest.raises(RouterInputError, match=message):
        realised_utility(["yes", "no"], ["own", "ann"])
    with pytest.raises(RouterInputError, match=message):
        realised_utility(["yes", "no"], ["own", "ann"], arms=["own", "ann"], cost=np.ones((2, 2)))
    assert realised_utility(["yes", "no"], ["maybe", "maybe"]) == 0.0  # without names, any label may be that of an arm
    assert realised_utility(["yes", "own"], ["own", "own"]) == 0.5


def test_a_router_fitted_on_labels_scores_on_a_part_without_some_label() -> None:
    router = QualityRouter(cost_weight=0.5).fit([[0.0], [1.0], [2.0]], ["a", "b", "c"], cost=np.ones((3, 3)))
    assert router.score([[0.0]], ["a"], cost=[[1.0, 1.0, 1.0]]) == pytest.approx(0.5)


def test_a_bandit_log_gives_the_self_normalised_estimate() -> None:
    seen = np.array([[1.0, np.nan], [np.nan, 0.5], [0.25, np.nan], [0.5, 0.125]])
    value = realised_utility(seen, [0, 0, 0, 1], propensity=[0.5, 0.5, 0.25, np.nan])
    assert value == pytest.approx((2 * 1.0 + 4 * 0.25 + 1 * 0.125) / 7)
    assert np.isnan(realised_utility(seen[:2], [1, 0], propensity=[0.5, 0.5]))
    assert np.isnan(realised_utility(seen[:2], [0, 0], propensity=[0.5, 0.5], sample_weight=[0.0, 1.0]))
    # Not every arm need be observed in a part that is scored.
    assert realised_utility(seen[[0, 2]], [0, 0], propensity=[0.5, 0.25]) == pytest.approx((2 * 1.0 + 4 * 0.25) / 6)


def test_the_estimate_is_unbiased_up_to_its_order() -> None:
    rng, n, runs = np.random.default_rng(0), 2000, 200
    quality, taken = rng.random((n, 2)), rng.integers(2, size=n)
    chance = np.where(quality[:, 0] > 0.5, 0.8, 0.3)
    values = []
    for _ in range(runs):
        first = rng.random(n) < chance
        seen = np.where(np.column_stack([first, ~first]), quality, np.nan)
        values.append(realised_utility(seen, taken, propensity=np.where(first, chance, 1 - chance)))
    error = (np.mean(values) - realised_utility(quality, taken)) / (np.std(values, ddof=1) / np.sqrt(runs))
    assert abs(error) < stats.t.ppf(1 - 1e-4 / 2, runs - 1)


def test_gaps_without_propensities_are_refused_where_they_matter() -> None:
    seen = np.array([[1.0, np.nan], [np.nan, 0.5]])
    assert realised_utility(seen, [0, 1]) == 0.75
    with pytest.raises(
        RouterInputError,
        match="the quality of the arm taken was not observed in 1 of 2 rows, the first is row 1: pass propensity=",
    ):
        realised_utility(seen, [0, 0])


def test_a_missing_cost_is_not_dropped_in_silence() -> None:
    cost = COST.copy()
    cost[1:, 0] = np.nan
    assert realised_utility(QUALITY, [1, 1, 1], cost=cost, cost_weight=0.1) == pytest.approx((0.8 - 0.3 + 0.4) / 3)
    assert realised_utility(QUALITY, [1, 0, 0], cost=cost) == pytest.approx(2.1 / 3)  # costs do not count here
    with pytest.raises(
        RouterInputError,
        match="the cost of the arm taken was not observed in 2 of 3 rows, the first is row 1: leave such rows out",
    ):
        realised_utility(QUALITY, [1, 0, 0], cost=cost, cost_weight=0.1)
    seen = np.array([[1.0, np.nan], [0.5, 0.25]])
    with pytest.raises(
        RouterInputError, match=r"the cost of the arm taken .* 1 of 2 rows, the first is row 0: pass prop"
    ):
        realised_utility(seen, [0, 0], cost=[[np.nan, np.nan], [1.0, 1.0]], cost_weight=0.1)


@pytest.mark.parametrize("taken", [[0, 5], ["a", "b"]])
def test_arms_that_are_not_there_are_named(taken: list[object]) -> None:
    row = 1 if taken[0] == 0 else 0
    with pytest.raises(
        RouterInputError, match=rf"rows take an arm that y does not have, the first is {taken[row]!r} in row {row}"
    ):
        realised_utility(QUALITY[:2], taken)


def test_the_number_of_columns_is_checked() -> None:
    with pytest.raises(RouterInputError, match="y has 2 columns for 3 arms"):
        realised_utility(QUALITY, [0, 1, 2], arms=[0, 1, 2])


def test_the_scorer_keeps_its_own_cost_weight() -> None:
    X = np.arange(3.0)[:, None]
    router = QualityRouter(cost_weight=9.0).fit(X, QUALITY, cost=COST)
    scorer = RealisedUtility(cost_weight=0.1)
    expected = realised_utility(QUALITY, router.predict(X), cost=COST, cost_weight=0.1)
    assert scorer(router, X, QUALITY, cost=COST) == scorer.score(router, X, QUALITY, cost=COST) == expected
    assert scorer(router, X, QUALITY) == realised_utility(QUALITY, router.predict(X))


def test_the_scorer_reads_answers_of_experts() -> None:
    problem = make_noisy_experts(n_samples=200, random_state=0)
    cost = np.full((200, 1), 0.5)
    fitted = ConfidenceDeferral(cost_weight=0.1).fit(problem.X, problem.y, experts=problem.experts, cost=cost)
    plain, dear = RealisedUtility(), RealisedUtility(cost_weight=1.0)
    accuracy = fitted.score(problem.X, problem.y, experts=problem.experts)
    assert plain(fitted, problem.X, problem.y, experts=problem.experts) == accuracy
    deferred = fitted.defer_mask(problem.X).mean()
    assert 0 < deferred < 1
    value = dear.score(fitted, problem.X, problem.y, experts=problem.experts, cost=cost)
    assert value == pytest.approx(accuracy - 0.5 * deferred)
    with pytest.raises(RouterInputError, match="y: none of the 200 labels is an arm"):
        plain(fitted, problem.X, problem.y)
    router = QualityRouter().fit(problem.X, np.eye(3)[problem.y])
    with pytest.raises(
        RouterInputError,
        match="RealisedUtility: experts= needs a router that defers, such as PostHocDeferral, got Quality",
    ):
        plain(router, problem.X, problem.y, experts=problem.experts)
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(ConfidenceDeferral(), {"cost_weight": [0.0, 100.0]}, scoring=plain, cv=3)
        search.fit(problem.X, problem.y, experts=problem.experts, cost=cost)
    assert search.best_params_ == {"cost_weight": 0.0}
    assert search.best_score_ > 0.6
