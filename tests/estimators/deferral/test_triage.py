"""Triage under a rate: the rule is optimal, the rate is exact, and the classifier is trained for what it keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.sparse import csr_array
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Perceptron
from sklearn.neighbors import KNeighborsClassifier

from defer import Budget, evaluate
from defer.estimators import LearnedTriage
from defer.estimators.deferral.score_features import score_features
from defer.estimators.deferral.triage import _best, _Round, triage_threshold
from defer.estimators.deferral.triage_rule import deferred_share, folds_of_copies, is_atom
from defer.exceptions import CostRangeError, RouterInputError
from defer.model_file import model_bytes, model_from_bytes
from defer.portfolios.arm_matrix import ArmMatrix

tenths = st.integers(-10, 10).map(lambda value: value / 10.0)


def deferred(advantage: np.ndarray, threshold: float, fraction: float) -> np.ndarray:
    """Probability of deferral under a threshold rule."""
    return np.where(advantage > threshold, 1.0, np.where(advantage == threshold, fraction, 0.0))


@settings(deadline=None, max_examples=150)
@given(
    rows=st.lists(st.tuples(tenths, st.integers(0, 3), st.integers(1, 4)), min_size=1, max_size=9),
    rate=st.sampled_from([0.05, 0.2, 0.25, 0.5, 0.75, 1.0]),
    priced=st.booleans(),
)
def test_no_policy_within_the_rate_gains_more(rows: Any, rate: float, priced: bool) -> None:
    advantage, weight, extra = np.array(rows, dtype=float).T
    if not weight.any():
        weight = np.ones_like(weight)
    extra = extra if priced else np.ones_like(extra)
    threshold, fraction = triage_threshold(advantage, rate, weight=weight, extra=extra if priced else None)
    policy, order = np.zeros(len(rows)), advantage / extra
    policy[order > threshold + 1e-9] = 1.0
    policy[np.abs(order - threshold) <= 1e-9] = fraction
    spent, gain = weight * extra / weight.sum(), weight * advantage / weight.sum()
    best = linprog(-gain, A_ub=[spent], b_ub=[rate], bounds=(0.0, 1.0))
    assert spent @ policy <= rate + 1e-9
    assert gain @ policy == pytest.approx(-best.fun, abs=1e-9)
    # Nobody is deferred who gains nothing, and all that may be spent is spent where somebody would still gain.
    assert spent @ policy == pytest.approx(min(rate, spent @ (advantage > 0)), abs=1e-9)


def test_the_threshold_lies_between_neighbours_where_the_rate_does() -> None:
    assert triage_threshold([0.4, 0.2, 0.1, -0.1], 0.5) == (pytest.approx(0.15), 0.0)
    assert triage_threshold([0.4, 0.2, 0.1, -0.1], 0.75) == (0.0, 0.0)
    assert triage_threshold([-0.4, 0.0], 0.5) == (0.0, 0.0)
    assert triage_threshold([0.3], 0.5) == (0.3, 0.5)
    rounded = [0.1 + 0.2, 0.3, 0.1]  # the first two differ in their last bit, and are tied
    assert triage_threshold(rounded, 1 / 3) == (0.1 + 0.2, pytest.approx(0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"advantage": [0.1, np.nan], "rate": 0.5}, r"must be finite and of one shape \(n,\)"),
        ({"advantage": [0.1], "rate": 0.5, "weight": [1.0, 1.0]}, r"got \(1,\), \(2,\) and \(1,\)"),
        ({"advantage": [0.1], "rate": 0.5, "weight": [-1.0]}, "weight must be >= 0"),
        ({"advantage": [0.1], "rate": 0.5, "weight": [0.0]}, "not all 0"),
        ({"advantage": [0.1], "rate": 0.5, "extra": [0.0]}, "extra > 0"),
        ({"advantage": [0.1], "rate": 0.0}, "rate > 0, got rate 0.0"),
    ],
)
def test_wrong_advantages_are_refused(options: Any, message: str) -> None:
    with pytest.raises(RouterInputError, match=message):
        triage_threshold(**options)


def two_regions(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels turn at 0, in the smaller region at 2; there the expert is perfect, elsewhere he guesses."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    region = X[:, 1] > 0.5
    y = (X[:, 0] > np.where(region, 2.0, 0.0)).astype(int)
    X = np.column_stack([X, region])
    expert = np.where(region | (rng.random(n) < 0.5), y, 1 - y)
    return X, y, expert


class FirstFeature(LogisticRegression):
    """A classifier that sees the first feature alone, and can turn at one place only."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        return super().fit(X[:, :1], y, sample_weight)

    def predict_proba(self, X: Any) -> Any:
        return super().predict_proba(X[:, :1])

    @property
    def turn(self) -> float:
        return float(-self.intercept_[0] / self.coef_[0, 0])


def test_the_base_is_trained_on_the_queries_it_keeps() -> None:
    X, y, expert = two_regions(1500, seed=0)
    options: dict[str, Any] = {"features": "queries", "random_state": 0}
    plain = LearnedTriage(0.35, FirstFeature(), n_rounds=1, **options).fit(X, y, experts=expert)
    router = LearnedTriage(0.35, FirstFeature(), **options).fit(X, y, experts=expert)
    assert (plain.n_rounds_, plain.round_) == (1, 0)
    assert 1 <= router.round_ < router.n_rounds_ <= 5
    # The classifier turns where the labels of what it keeps do, once it need not serve the other region.
    assert plain.base_.classifier.turn > 0.2
    assert abs(router.base_.classifier.turn) < 0.1
    assert np.mean(router.predict(X, experts=expert) == y) > np.mean(plain.predict(X, experts=expert) == y) + 0.03
    assert np.mean(router.predict(X, experts=expert) == y) > 0.95


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.25, 0.9])
def test_the_rate_is_kept_exactly(rate: float) -> None:
    X, y, expert = two_regions(400, seed=1)
    router = LearnedTriage(rate, random_state=0).fit(X, y, experts=expert)
    gains = np.mean(router.advantage(X) > 0)
    assert router.route(X, limit=router.limit_, random_state=0).load[1] == pytest.approx(min(rate, gains), abs=1e-9)
    fresh, _, _ = two_regions(333, seed=2)
    batch = router.route(fresh, limit=router.limit_, random_state=0)
    assert batch.load[1] == pytest.approx(min(rate, np.mean(router.advantage(fresh) > 0)), abs=1e-9)
    assert abs((batch.arm == 1).sum() - 333 * batch.load[1]) < 1.0
    # Without a limit the fitted threshold decides about each query by itself.
    np.testing.assert_array_equal(router.defer_mask(fresh), router.advantage(fresh) > router.threshold_)
    if rate >= gains:
        assert router.threshold_ == 0.0


def test_ties_at_the_threshold_are_randomised_and_predict_keeps_them() -> None:
    X, q = np.eye(3)[[0, 0, 0, 0, 1, 1, 2, 2]], np.array([0.2, 0.2, 0.2, 0.2, 0.5, 0.5, 0.9, 0.9])
    router = LearnedTriage(0.25, LogisticRegression(), triage_model=LogisticRegression(C=1e6, tol=1e-10))
    router.fit(X, np.column_stack([q, np.full(8, 0.7)]))
    assert router.fraction_ == pytest.approx(0.5)
    assert not (router.predict(X) == 1).any()
    routing = router.route(X, random_state=0)
    np.testing.assert_allclose(routing.policy[:, 1], [0.5] * 4 + [0.0] * 4)
    assert (routing.arm == 1).sum() == 2
    assert routing.price == router.threshold_ == pytest.approx(0.5, abs=1e-3)
    assert {float(router.route(X[:1], random_state=seed).arm[0]) for seed in range(20)} == {0.0, 1.0}


def test_several_experts_share_one_rate() -> None:
    X, y, expert = two_regions(800, seed=3)
    second = np.where(X[:, 0] < 0.0, y, 1 - y)
    router = LearnedTriage(0.3, FirstFeature(), features="queries", random_state=0)
    router.fit(X, y, experts=np.column_stack([expert, second]))
    routing = router.route(X, limit=router.limit_, random_state=0)
    assert routing.load[1:].sum() == pytest.approx(0.3, abs=1e-9)
    assert routing.load[1:].min() > 0.05


def test_the_price_of_asking_counts_in_the_advantage() -> None:
    X, y, expert = two_regions(400, seed=4)
    cost = np.full((400, 1), 0.1)
    free = LearnedTriage(0.5, random_state=0).fit(X, y, experts=expert, cost=cost)
    priced = LearnedTriage(0.5, cost_weight=1.0, n_rounds=1, random_state=0).fit(X, y, experts=expert, cost=cost)
    assert priced.defer_mask(X).mean() < free.defer_mask(X).mean()
    quality = priced.predict_quality(X)
    np.testing.assert_allclose(priced.advantage(X), quality[:, 1] - quality[:, 0] - 0.1)
    dear = LearnedTriage(0.5, cost_weight=10.0, random_state=0).fit(X, y, experts=expert, cost=cost)
    assert not dear.defer_mask(X).any()


def test_a_budget_takes_the_place_of_the_rate_and_orders_by_advantage_per_dollar() -> None:
    X, y, expert = two_regions(400, seed=5)
    cost = np.full((400, 1), 2.0)
    router = LearnedTriage(0.5, random_state=0).fit(X, y, experts=expert, cost=cost)
    routing = router.route(X, limit=Budget(mean_cost=0.1), random_state=0)
    assert routing.load[1] == pytest.approx(0.05)
    threshold, _ = triage_threshold(router.advantage(X), 0.1, extra=np.full(400, 2.0))
    taken = routing.policy[:, 1] > 0
    assert (router.advantage(X)[taken] / 2.0 >= threshold - 1e-9).all()


def test_a_frozen_base_has_one_round_and_stays() -> None:
    X, y, expert = two_regions(400, seed=6)
    base = LogisticRegression().fit(X[:200], y[:200])
    router = LearnedTriage(0.2, FrozenEstimator(base)).fit(X[200:], y[200:], experts=expert[200:])
    assert (router.n_rounds_, router.round_) == (1, 0)
    np.testing.assert_array_equal(router.predict_own(X), base.predict(X))


def test_a_chain_of_close_advantages_is_no_tie_of_all() -> None:
    advantage = 0.3 - 5e-10 * np.arange(1000)
    threshold, fraction = triage_threshold(advantage, 0.25)
    policy = deferred_share(advantage, threshold, fraction)
    assert policy.mean() == pytest.approx(0.25, abs=1e-12)
    assert ((policy > 0) & (policy < 1)).sum() <= 3
    assert (np.diff(policy) <= 0).all()


def pure_noise(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Own answers and the expert are right by chance alone."""
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(n, 5)), rng.integers(2, size=n)
    return X, y, rng.integers(2, size=n)


def test_the_rate_holds_on_fresh_queries_for_a_model_that_knows_those_of_fit_by_heart() -> None:
    X, y, expert = pure_noise(1500, seed=0)
    fresh, _, _ = pure_noise(4000, seed=1)
    forest = RandomForestClassifier(40, random_state=0)
    router = LearnedTriage(0.2, triage_model=forest, random_state=0, n_rounds=1).fit(X, y, experts=expert)
    # Judged on the queries of fit the threshold would be near 0.5, and hardly a fresh query be above it.
    assert 0.12 < router.defer_mask(fresh).mean() < 0.28
    quality = np.column_stack([pure_noise(1500, seed=2)[1:]]).T.astype(float)
    table = LearnedTriage(0.2, triage_model=forest, random_state=0).fit(X, quality)
    assert 0.12 < table.defer_mask(fresh).mean() < 0.28


def test_a_later_round_is_kept_only_if_it_earns_more_by_over_a_standard_error() -> None:
    def earning(more: float) -> Any:
        # Twenty queries gain and twenty lose: the difference has a standard error of 0.05.
        reward = more + 0.1 * np.sqrt(10) * np.tile([1.0, -1.0], 20)
        return _Round(np.ones(40, bool), None, None, reward, 0.0, reward)  # type: ignore[arg-type]

    first, weight = earning(0.0), np.ones(40)
    first.reward[:] = 0.0
    assert _best([first], weight) == 0
    assert _best([first, earning(0.04)], weight) == 0
    assert _best([first, earning(0.06), earning(0.08), earning(0.07)], weight) == 2
    assert _best([first, earning(-0.2)], weight) == 0
    idle = np.tile([1.0, 0.0], 20)  # of the queries that count all gain
    assert _best([first, earning(0.04)], idle) == 1


def test_own_answers_are_those_to_queries_that_the_base_has_not_seen() -> None:
    X, y, expert = pure_noise(300, seed=3)
    router = LearnedTriage(0.5, KNeighborsClassifier(1), n_rounds=1, random_state=0).fit(X, y, experts=expert)
    # In sample the nearest neighbour of a query is itself, and every answer right.
    assert router.models_[0].predict(np.hstack([X, score_features(router.base_.probability(X))])).mean() < 0.65


def test_queries_that_were_asked_less_often_do_not_count_for_more_in_the_rate() -> None:
    # A mixed log: kind 1 gains, and on half of its queries one arm was logged, with probability 0.1.
    X = np.eye(2)[np.repeat([0, 1], 200)]
    quality = np.column_stack([np.full(400, 0.5), np.repeat([0.4, 0.9], 200)])
    quality[300:, 0] = np.nan
    router = LearnedTriage(0.25).fit(X, quality, propensity=np.full(400, 0.1))
    assert router.route(X, random_state=0).load[1] == pytest.approx(0.25, abs=1e-9)


@pytest.mark.parametrize("layout", [np.asarray, csr_array])
def test_a_rate_within_copies_of_one_query_is_kept_by_chance(layout: Any) -> None:
    rng = np.random.default_rng(0)
    kind = rng.integers(4, size=600)
    X, y = layout(np.eye(4)[kind]), rng.integers(2, size=600)
    expert = np.where(rng.random(600) < np.array([0.95, 0.8, 0.6, 0.2])[kind], y, 1 - y)
    router = LearnedTriage(0.35, random_state=0).fit(X, y, experts=expert)
    assert 0.0 < router.fraction_ < 1.0
    assert router.route(X, random_state=0).load[1] == pytest.approx(0.35, abs=1e-9)
    few = router.predict(X[:40])
    np.testing.assert_array_equal(few, router.predict(X)[:40])


def test_weights_repeat_rows_in_the_rate() -> None:
    advantage, weight = np.array([0.5, 0.4, 0.3, -0.1]), np.array([1.0, 3.0, 2.0, 2.0])
    repeated = np.repeat(advantage, weight.astype(int))
    for rate in (0.1, 0.25, 0.5, 0.6):
        assert triage_threshold(advantage, rate, weight=weight) == pytest.approx(triage_threshold(repeated, rate))


def test_the_same_seed_gives_the_same_bits_and_gaps_are_weighted() -> None:
    X, y, expert = two_regions(400, seed=7)
    answer = np.where(np.random.default_rng(0).random(400) < 0.7, expert, np.nan)
    first, again = (
        LearnedTriage(random_state=0).fit(X, y, experts=answer).predict_quality(X).tobytes() for _ in range(2)
    )
    assert first == again
    router = LearnedTriage(random_state=0).fit(X, y, experts=answer)
    assert router.weighting_ == "missing at random"
    loaded = model_from_bytes(model_bytes(router))
    assert loaded.route(X, random_state=0).arm.tolist() == router.route(X, random_state=0).arm.tolist()
    log = router.outcome_log(X, y, expert)
    assert evaluate(router, log).router == "LearnedTriage"


@pytest.mark.parametrize(
    ("router", "message"),
    [
        (LearnedTriage(0.0), r"rate must be a number in \(0, 1\], got 0.0"),
        (LearnedTriage(1.5), r"rate must be a number in \(0, 1\], got 1.5"),
        (LearnedTriage("half"), r"rate must be a number in \(0, 1\], got 'half'"),
        (LearnedTriage(n_rounds=0), "n_rounds must be an integer >= 1, got 0"),
        (LearnedTriage(features="text"), "features must be one of 'scores', .* got 'text'"),
        (LearnedTriage(base=Perceptron()), "base Perceptron has no predict_proba"),
        (LearnedTriage(triage_model=Perceptron()), "triage_model Perceptron has no predict_proba"),
        (LearnedTriage(cost_weight=-1.0), "cost_weight must be a finite number >= 0"),
    ],
)
def test_wrong_parameters_are_refused(router: Any, message: str) -> None:
    with pytest.raises(RouterInputError, match=f"LearnedTriage: {message}"):
        router.fit(np.zeros((4, 1)), [0, 1, 0, 1], experts=[0, 1, 1, 0])


def test_quality_outside_the_unit_interval_is_refused() -> None:
    with pytest.raises(
        CostRangeError, match=r"LearnedTriage: y has 1 values outside \[0, 1\], the first in row 1, arm 1 \(3\)"
    ):
        LearnedTriage().fit([[0.0], [1.0]], [[0.0, 1.0], [0.5, 3.0]])


def test_a_single_arm_is_always_kept() -> None:
    X, quality = np.arange(20.0)[:, None], ArmMatrix((np.arange(20) % 2).astype(float)[:, None], ["alone"])
    router = LearnedTriage().fit(X, quality)
    assert (router.threshold_, router.fraction_) == (0.0, 0.0)
    assert set(router.predict(X).tolist()) == {"alone"}
    assert (router.advantage(X) == -np.inf).all()
    assert router.route(X, limit=router.limit_, random_state=0).load.tolist() == [1.0]


def test_copies_of_a_query_are_found_in_every_layout() -> None:
    X, weight = np.array([[0.0, 1.0], [2.0, 0.0], [0.0, 1.0]] + [[float(i), 3.0] for i in range(200)]), np.ones(203)
    weight[:3] = [2.0, 1.0, 3.0]
    expected = np.arange(203) % 203 == 0
    expected[2] = True
    for queries in (X, csr_array(X), [str(row) for row in X.tolist()]):
        np.testing.assert_array_equal(is_atom(queries, weight), expected)
    assert not is_atom([[0.0]] * 203, weight).any()  # of these nothing is known


def test_folds_of_a_table_keep_copies_or_groups_together_and_count_no_row_without_weight() -> None:
    X, weight = np.repeat(np.arange(20.0), 2)[:, None], np.ones(40)
    weight[:6] = 0.0
    folds = folds_of_copies(X, weight, 4, seed=0)
    left = folds_of_copies(X[6:], weight[6:], 4, seed=0)
    for (train, test), (_, other) in zip(folds, left, strict=True):
        assert set(X[train, 0]).isdisjoint(X[test, 0])
        assert test[test >= 6].tolist() == (other + 6).tolist()
    assert sorted(row for _, test in folds for row in test) == list(range(40))
    group = np.arange(40) % 3
    for train, test in folds_of_copies(X, np.ones(40), 5, group=group, seed=0):
        assert set(group[train]).isdisjoint(group[test])
    assert folds_of_copies(X[:2], np.ones(2), 5, seed=0) == []
