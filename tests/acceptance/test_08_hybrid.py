"""Hybrid LLM: labels from sampled quality gaps, the margin at which they tell most, and what a threshold is optimal for.

The example has four queries with two answers of each model, log-likelihoods as qualities.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import norm

from defer.estimators.routers.drop_threshold import threshold_for_drop, threshold_table
from defer.estimators.routers.hybrid import HybridRouter
from defer.losses.quality_gap import best_margin, gap_probability, label_spread

SMALL = np.array([[-3.0, -3.2], [-2.0, -2.4], [-4.0, -4.4], [-2.6, -2.8]])
LARGE = np.array([[-2.5, -2.7], [-2.1, -2.3], [-2.2, -2.4], [-2.0, -2.1]])

TABLE = [
    (0.0, [0.0, 0.5, 0.0, 0.0], 0.1875),
    (0.3, [0.25, 1.0, 0.0, 0.0], 0.40625),
    (0.5, [0.75, 1.0, 0.0, 0.25], 0.4375),
    (0.7, [1.0, 1.0, 0.0, 0.75], 0.40625),
    (0.8, [1.0, 1.0, 0.0, 1.0], 0.375),
    (1.5, [1.0, 1.0, 0.0, 1.0], 0.375),
    (2.2, [1.0, 1.0, 1.0, 1.0], 0.0),
]


@pytest.mark.parametrize(("margin", "labels", "spread"), TABLE)
def test_labels_and_their_spread_at_every_margin(margin, labels, spread):
    found = gap_probability(SMALL, LARGE, margin=margin)
    assert found.tolist() == labels
    assert label_spread(found) == pytest.approx(spread, abs=1e-15)
    assert np.abs(np.subtract.outer(found, found)).mean() == pytest.approx(spread, abs=1e-15)


def test_the_best_margin_is_one_half_and_the_only_one():
    choice = best_margin(SMALL, LARGE)
    assert choice.margin == pytest.approx(0.5, abs=1e-12)
    assert choice.spread == pytest.approx(0.4375, abs=1e-15)
    assert choice.labels.tolist() == [0.75, 1.0, 0.0, 0.25]
    assert not choice.is_flat
    assert (choice.spreads >= 0.4375 - 1e-9).sum() == 1
    gaps = (LARGE[:, None, :] - SMALL[:, :, None]).ravel()
    np.testing.assert_allclose(choice.candidates, [0.0, *np.unique(gaps[gaps > 0].round(9))], atol=1e-9)
    by_candidate = dict(zip(choice.candidates.round(6).tolist(), choice.spreads.tolist(), strict=True))
    for margin, _, spread in TABLE:
        if round(margin, 6) in by_candidate:
            assert by_candidate[round(margin, 6)] == pytest.approx(spread, abs=1e-15)


def test_pairing_the_kth_answer_with_the_kth_is_another_estimator_and_would_be_noticed():
    paired = (SMALL >= LARGE - 0.5 - 1e-9).mean(axis=1)
    assert paired.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert label_spread(paired) == 0.5
    ours = gap_probability(SMALL, LARGE, margin=0.5)
    assert ours.tolist() != paired.tolist()
    assert label_spread(ours) != 0.5


def test_neither_published_short_cut_gives_these_labels():
    mean_gap = SMALL.mean(axis=1) - LARGE.mean(axis=1)
    labels = gap_probability(SMALL, LARGE, margin=0.5)
    for temperature in (0.01, 0.1, 0.5, 1.0, 2.0, 10.0):
        # The first query's mean gap is -.5: a sigmoid says 1/2 at any temperature, and three of its four pairs suffice.
        assert 1 / (1 + np.exp(-(mean_gap[0] + 0.5) / temperature)) == pytest.approx(0.5, abs=1e-9)
        assert labels[0] == 0.75
    assert 2 * labels.mean() * (1 - labels.mean()) == 0.5
    assert label_spread(labels) == 0.4375
    # Hard labels with the criterion of a coin have their best margin elsewhere, and other labels.
    margins = best_margin(SMALL, LARGE).candidates
    hard = [(mean_gap >= -margin - 1e-9).mean() for margin in margins]
    chosen = margins[int(np.argmax([2 * p * (1 - p) for p in hard]))]
    assert (mean_gap >= -chosen - 1e-9).astype(float).tolist() != labels.tolist()


def test_minus_two_four_is_as_good_as_minus_two_three_less_a_tenth():
    assert gap_probability([-2.4], [-2.3], margin=0.1).tolist() == [1.0]
    for step in range(1, 40):
        assert gap_probability([-2.4], [-2.4 + step / 10], margin=step / 10).tolist() == [1.0]
        assert gap_probability([-2.4], [-2.4 + step / 10], margin=step / 10 - 1e-6).tolist() == [0.0]


def test_a_margin_of_zero_is_probabilistic_and_one_answer_is_deterministic():
    X = np.arange(4.0)[:, None]
    answers = {"small": SMALL, "large": LARGE}
    transformed, probabilistic = HybridRouter(margin=0.0).fit(X, answers), HybridRouter("probabilistic").fit(X, answers)
    np.testing.assert_array_equal(transformed.predict_sufficient(X), probabilistic.predict_sufficient(X))
    single = {name: table[:, :1] for name, table in answers.items()}
    one, first = HybridRouter("probabilistic").fit(X, single), HybridRouter("deterministic").fit(X, answers)
    np.testing.assert_array_equal(one.predict_sufficient(X), first.predict_sufficient(X))
    assert gap_probability(SMALL[:, 0], LARGE[:, 0]).tolist() == (SMALL[:, 0] >= LARGE[:, 0]).astype(float).tolist()


def test_the_router_learns_with_the_margin_of_the_example():
    router = HybridRouter().fit(np.arange(4.0)[:, None], {"small": SMALL, "large": LARGE})
    assert router.margin_.tolist() == pytest.approx([0.5, 0.0], abs=1e-12)
    assert router.spread_.tolist() == pytest.approx([0.4375, 0.0], abs=1e-15)


def test_identical_gaps_give_no_spread_and_the_margin_zero():
    choice = best_margin(LARGE - 0.25, LARGE)
    assert choice.spread > 0  # answers of one query differ among themselves
    flat = best_margin(LARGE[:, :1] - 0.25, LARGE[:, :1])
    assert (flat.margin, flat.spread, flat.is_flat) == (0.0, 0.0, True)
    assert (flat.spreads == 0.0).all()


def test_a_small_model_that_is_always_better_takes_every_query():
    router = HybridRouter(strong="large").fit(np.arange(4.0)[:, None], {"small": LARGE + 1, "large": LARGE})
    assert (router.predict_sufficient([[9.0], [-9.0]]) == 1.0).all()
    assert router.predict([[9.0], [-9.0]]).tolist() == ["small", "small"]


def test_the_minimiser_is_the_probability_of_a_gap_above_minus_the_margin():
    # Three kinds of queries with normal qualities; a saturated model has to find the probability of each.
    rng, n, margin, centre = np.random.default_rng(0), 3000, 0.4, np.array([-1.0, -0.5, 0.2])
    kind = np.repeat(np.arange(3), n)
    small = rng.normal(centre[kind, None], 1.0, size=(3 * n, 3))
    large = rng.normal(0.0, 0.5, size=(3 * n, 2))
    router = HybridRouter(margin=margin, C=1e6, tol=1e-9).fit(np.eye(3)[kind], {"small": small, "large": large})
    found = router.predict_sufficient(np.eye(3))[:, 0]
    labels = gap_probability(small, large, margin=margin)
    np.testing.assert_allclose(found, [labels[kind == k].mean() for k in range(3)], atol=1e-4)
    # By Hoeffding a mean of n labels is off by more than .05 with probability below 7e-7.
    np.testing.assert_allclose(found, norm.cdf((centre + margin) / np.hypot(1.0, 0.5)), atol=0.05)


def test_both_ends_of_the_threshold():
    score, small, large = [0.9, 0.6, 0.01], np.array([-2.0, -3.0, -4.0]), np.array([-2.0, -2.0, -2.0])
    table = threshold_table(score, small, large)
    assert (table.at(0.0).cost_advantage, table.at(0.0).drop) == (1.0, pytest.approx(50.0))
    assert (table.at(1.0001).cost_advantage, table.at(1.0001).drop) == (0.0, 0.0)
    assert threshold_for_drop(score, small, large, drop=1.0) == 0.9
    assert threshold_for_drop(score, small, large, drop=50.0) == -np.inf


@pytest.mark.parametrize("names", [["small", "large"], ["large", "small"]])
def test_the_router_sends_all_to_the_small_model_at_zero_and_all_to_the_large_one_above_one(names):
    # The small model never suffices: its probability is 0, which reaches a threshold of 0 and no other.
    X, answers = np.arange(4.0)[:, None], {"small": LARGE - 9.0, "large": LARGE}
    answers = {name: answers[name] for name in names}
    for threshold, arm in ((0.0, "small"), (1e-12, "large"), (1.0001, "large")):
        router = HybridRouter("probabilistic", threshold=threshold).fit(X, answers)
        assert router.predict(X).tolist() == [arm] * 4
    # And always: a probability of 1 reaches 1.
    answers["small"] = LARGE + 1.0
    for threshold, arm in ((0.0, "small"), (1.0, "small"), (1.0001, "large")):
        router = HybridRouter("probabilistic", strong="large", threshold=threshold).fit(X, answers)
        assert router.predict(X).tolist() == [arm] * 4


def test_thresholds_are_optimal_for_a_bound_on_the_risk_of_what_is_routed():
    # Six kinds of queries: mass, and probability that the small model suffices.  Of all sets of kinds, those of highest
    # probability route the most at their own risk P(gap < -t | routed to the small model).
    mass = np.array([0.3, 0.15, 0.2, 0.1, 0.05, 0.2])
    sufficient = np.array([0.5, 0.95, 0.7, 0.85, 0.2, 0.35])
    sets = np.array([chosen for chosen in product([0, 1], repeat=6) if any(chosen)], dtype=float)
    routed = sets @ mass
    risk = sets @ (mass * (1 - sufficient)) / routed
    for threshold in sufficient:
        ours = (sufficient >= threshold).astype(float)
        most, at_risk = ours @ mass, ours @ (mass * (1 - sufficient)) / (ours @ mass)
        assert routed[risk <= at_risk + 1e-12].max() <= most + 1e-12
