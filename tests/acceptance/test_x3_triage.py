"""Deferral at a rate: the worked example of four advantages, exact rates at ties, and the regret of a plug-in rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from defer import Share
from defer.estimators import LearnedTriage
from defer.estimators.deferral.triage import triage_threshold

ADVANTAGE = np.array([0.3, 0.3, 0.1, -0.2])
QUERIES = np.eye(3)[[0, 0, 1, 2]]  # the first two are equal to every model
QUALITY = np.column_stack([0.5 - ADVANTAGE / 2, 0.5 + ADVANTAGE / 2])


def fitted(rate: float) -> Any:
    exact = LogisticRegression(C=1e9, tol=1e-12, max_iter=10_000)
    return LearnedTriage(rate, triage_model=exact).fit(QUERIES, QUALITY)


def test_a_quarter_of_four_queries_is_each_of_two_with_probability_one_half() -> None:
    assert triage_threshold(ADVANTAGE, 0.25) == (0.3, 0.5)
    router = fitted(0.25)
    np.testing.assert_allclose(router.advantage(QUERIES), ADVANTAGE, atol=1e-5)
    assert router.threshold_ == pytest.approx(0.3, abs=1e-5)
    assert router.fraction_ == pytest.approx(0.5)
    for options in ({}, {"limit": router.limit_}):
        policy = router.route(QUERIES, random_state=0, **options).policy
        np.testing.assert_allclose(policy[:, 1], [0.5, 0.5, 0.0, 0.0], atol=1e-9)


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0])
def test_the_rate_is_the_smaller_of_the_limit_and_of_what_gains(rate: float) -> None:
    router = fitted(rate)
    for options in ({}, {"limit": router.limit_}):
        load = router.route(QUERIES, random_state=0, **options).load
        assert load[1] == pytest.approx(min(rate, 0.75), abs=1e-9)
    # Without randomisation it is off by what is tied: none or both of the two.
    assert (router.predict(QUERIES) == 1).mean() in (0.0, 0.5, 0.75)
    assert abs((router.predict(QUERIES) == 1).mean() - min(rate, 0.75)) <= 0.5


def test_nobody_is_deferred_who_does_not_gain() -> None:
    router = LearnedTriage(1.0).fit(QUERIES, QUALITY[:, ::-1] * [1.0, 0.0])
    assert router.threshold_ == 0.0
    assert not router.predict(QUERIES).any()


table = st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=1, max_size=8)


@settings(deadline=None, max_examples=150)
@given(rows=table, rate=st.sampled_from([0.1, 0.25, 0.5, 1.0]))
def test_the_regret_of_a_plug_in_rule_is_at_most_twice_the_error_of_its_predictions(rows: Any, rate: float) -> None:
    given_rows = np.array(rows)
    truth, predicted = given_rows[:, :2], given_rows[:, 2:]

    def value(believed: np.ndarray) -> float:
        advantage = believed[:, 1] - believed[:, 0]
        threshold, fraction = triage_threshold(advantage, rate)
        tied = np.abs(advantage - threshold) <= 1e-9
        policy = np.where(tied, fraction, advantage > threshold)
        return float(np.mean(truth[:, 0] + policy * (truth[:, 1] - truth[:, 0])))

    assert value(truth) - value(predicted) <= 2.0 * np.abs(predicted - truth).max(axis=1).mean() + 1e-7


@pytest.mark.parametrize("rate", [0.1, 0.3, 1.0])
def test_the_regret_of_a_fitted_router_stays_within_the_bound_and_falls(rate: float) -> None:
    rng = np.random.default_rng(0)
    fresh = rng.normal(size=(2000, 2))

    def chances(X: np.ndarray) -> np.ndarray:
        return 1.0 / (1.0 + np.exp(-np.column_stack([X[:, 0], 0.5 - X[:, 1]])))

    truth = chances(fresh)
    gain = truth[:, 1] - truth[:, 0]
    threshold, fraction = triage_threshold(gain, rate)
    assert fraction == pytest.approx(0.0)
    best = np.mean(truth[:, 0] + np.where(gain > threshold, gain, 0.0))
    regret = []
    for n in (100, 10_000):
        X = rng.normal(size=(n, 2))
        router = LearnedTriage(rate).fit(X, (rng.random((n, 2)) < chances(X)).astype(float))
        policy = router.route(fresh, limit=Share(0, at_least=1.0 - rate), random_state=0).policy
        error = np.abs(router.predict_quality(fresh) - truth).max(axis=1).mean()
        regret.append(best - (policy * truth).sum(axis=1).mean())
        assert -1e-9 <= regret[-1] <= 2.0 * error
    assert regret[1] < 1e-3
    assert regret[1] < regret[0]
