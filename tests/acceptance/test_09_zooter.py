"""Card 09: rewards distilled into a router (ZOOTER), with the numbers computed there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import softmax
from scipy.stats import chi2

from defer.estimators.routers.reward_distilled import RewardDistilledRouter
from defer.evaluation.task_rank import task_ranks
from defer.losses.distillation import enhance_labels, forward_kl, reverse_kl, silver_labels

REWARD = np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
TAGS = [{"a"}, {"a", "b"}, {"b"}]


def test_the_worked_example_to_six_digits() -> None:
    silver = silver_labels(REWARD)
    np.testing.assert_allclose(
        silver, [[0.665241, 0.244728, 0.090031], [0.090031, 0.244728, 0.665241], [0.333333] * 3], atol=5e-7
    )
    only_tags = enhance_labels(silver, TAGS, beta=0.0)
    np.testing.assert_allclose(only_tags[0], [0.377636, 0.244728, 0.377636], atol=5e-7)
    np.testing.assert_allclose(only_tags[2], [0.211682, 0.289031, 0.499287], atol=5e-7)
    np.testing.assert_allclose(only_tags[1], (only_tags[0] + only_tags[2]) / 2, atol=1e-15)
    np.testing.assert_allclose(
        enhance_labels(silver, TAGS),
        [[0.463917, 0.244728, 0.291354], [0.233270, 0.260234, 0.506495], [0.248177, 0.302322, 0.449501]],
        atol=5e-7,
    )


@given(beta=st.floats(0, 1), seed=st.integers(0, 99))
def test_one_tag_a_query_keeps_the_mean_label_and_several_do_not(beta: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    silver = silver_labels(rng.normal(size=(12, 3)))
    single = enhance_labels(silver, rng.choice(["a", "b", "c"], size=12), beta=beta)
    np.testing.assert_allclose(single.mean(axis=0), silver.mean(axis=0), atol=1e-14)
    several = enhance_labels(silver_labels(REWARD), TAGS, beta=beta)
    moved = np.abs(several.mean(axis=0) - silver_labels(REWARD).mean(axis=0)).max()
    # At beta = 0 the mean is that of s_a and s_b, (.294659, .266880, .438461); at beta = 1 (.362868, .274263, .362868).
    assert moved == pytest.approx((1 - beta) * 0.075593, abs=1e-6)


@given(beta=st.floats(0, 1))
def test_the_ends_of_beta_and_all_between(beta: float) -> None:
    silver = silver_labels(REWARD)
    own, tags = enhance_labels(silver, TAGS, beta=1.0), enhance_labels(silver, TAGS, beta=0.0)
    np.testing.assert_allclose(own, silver, atol=1e-15)
    np.testing.assert_allclose(enhance_labels(silver, TAGS, beta=beta), beta * own + (1 - beta) * tags, atol=1e-15)


def test_no_tags_or_a_tag_of_its_own_change_nothing_and_repeats_count_once() -> None:
    silver = silver_labels(REWARD)
    np.testing.assert_allclose(enhance_labels(silver, [set(), {"x"}, {"y"}]), silver, atol=1e-15)
    np.testing.assert_allclose(
        enhance_labels(silver, [["a", "a"], ["b", "a", "b"], ["b"]]), enhance_labels(silver, TAGS), atol=1e-15
    )


def test_the_forward_gradient_is_the_router_less_the_label_and_both_divergences_end_at_the_label() -> None:
    rng = np.random.default_rng(0)
    scores, label = rng.normal(size=(5, 4)), rng.dirichlet(np.ones(4), size=5)
    np.testing.assert_allclose(forward_kl(scores, label).gradient, softmax(scores, axis=1) - label, atol=1e-15)
    for loss in (forward_kl, reverse_kl):
        at_label = loss(np.log(label) + 3.0, label)
        np.testing.assert_allclose(at_label.gradient, 0.0, atol=1e-14)
        np.testing.assert_allclose(at_label.value, 0.0, atol=1e-14)

        def objective(flat: np.ndarray, loss: object = loss) -> tuple[float, np.ndarray]:
            found = loss(flat.reshape(5, 4), label)  # type: ignore[operator]
            return float(found.value.sum()), found.gradient.ravel()

        end = minimize(objective, scores.ravel(), jac=True, method="L-BFGS-B", options={"ftol": 0.0, "gtol": 1e-10}).x
        np.testing.assert_allclose(softmax(end.reshape(5, 4), axis=1), label, atol=1e-7)


def test_the_mean_over_a_tag_divides_the_variance_of_noise_by_its_size() -> None:
    # Labels of a tag are its own plus noise of mean zero; 4000 tags of 8 queries, whose noise has variance v in column 0.
    rng, n_tags, size = np.random.default_rng(1), 4000, 8
    noise = rng.normal(scale=0.05, size=n_tags * size)
    true = np.repeat(rng.uniform(0.3, 0.7, size=n_tags), size)
    silver = np.column_stack([true + noise, 1 - true - noise])
    label = enhance_labels(silver, np.repeat(np.arange(n_tags), size), beta=0.0)
    error = (label[::size, 0] - true[::size]) / (0.05 / np.sqrt(size))
    # The sum of squares is chi-squared: each bound is passed by chance with probability below 1e-5.
    assert chi2.ppf(1e-5, n_tags) < error @ error < chi2.ppf(1 - 1e-5, n_tags)


def test_a_router_that_sees_only_the_tag_has_the_same_minimiser_for_every_beta() -> None:
    rng = np.random.default_rng(2)
    tag = np.repeat(np.arange(3), 40)
    reward, X = rng.normal(size=(120, 3)) + np.eye(3)[tag], np.eye(3)[tag]
    options = {"C": 1e8, "tol": 1e-9}
    found = [
        RewardDistilledRouter(beta=beta, **options).fit(X, reward, tags=tag).predict_proba(np.eye(3))
        for beta in (0.0, 0.3, 1.0)
    ]
    expected = np.array([silver_labels(reward)[tag == number].mean(axis=0) for number in range(3)])
    for shares in found:
        np.testing.assert_allclose(shares, expected, atol=1e-5)


@settings(max_examples=15)
@given(seed=st.integers(0, 20), constant=st.floats(-1e3, 1e3))
def test_a_constant_for_all_rewards_of_a_query_changes_nothing_and_a_factor_does(seed: int, constant: float) -> None:
    rng = np.random.default_rng(seed)
    X, reward = rng.normal(size=(30, 2)), rng.normal(size=(30, 3))
    shift = constant * rng.normal(size=(30, 1))
    plain = RewardDistilledRouter(tol=1e-9).fit(X, reward).predict_proba(X)
    np.testing.assert_allclose(
        RewardDistilledRouter(tol=1e-9).fit(X, reward + shift).predict_proba(X), plain, atol=1e-7
    )
    scaled = RewardDistilledRouter(tol=1e-9).fit(X, 3 * reward).predict_proba(X)
    assert np.abs(scaled - plain).max() > 0.01
    cooled = RewardDistilledRouter(temperature=3.0, tol=1e-9).fit(X, 3 * reward).predict_proba(X)
    np.testing.assert_allclose(cooled, plain, atol=1e-7)


def test_tags_help_a_small_noisy_sample_as_in_the_ablation() -> None:
    # Queries of ten kinds, of which each has one good arm; rewards are so noisy that a query's own label says little, and
    # features that are not the kind give room to overfit it.
    own, tagged = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        kind = np.repeat(np.arange(10), 8)
        good = rng.integers(3, size=10)
        X = np.hstack([np.eye(10)[kind], rng.normal(size=(80, 60))])
        reward = np.eye(3)[good[kind]] + 1.5 * rng.normal(size=(80, 3))
        fresh = np.hstack([np.eye(10)[kind], rng.normal(size=(80, 60))])
        for beta, right in ((1.0, own), (0.0, tagged)):
            router = RewardDistilledRouter(beta=beta, C=100.0).fit(X, reward, tags=kind)
            right.append(np.mean(router.predict(fresh) == good[kind]))
    gain = np.array(tagged) - np.array(own)
    # A paired t of 5.9 with 11 degrees of freedom has a one-sided p below 1e-4.
    assert gain.mean() > 5.9 * gain.std(ddof=1) / np.sqrt(len(gain))


def test_the_task_rank_counts_the_models_that_are_strictly_better() -> None:
    quality = np.array([[0.9, 0.5, 0.9], [0.2, 0.8, 0.4], [0.6, 0.6, 0.6]])
    ranks = task_ranks(quality, ["x", "y", "z"], arms=["a", "b", "c"], routed=["a", "b", "c"])
    assert ranks.rank.tolist() == [[1, 3, 1, 1], [3, 1, 2, 1], [1, 1, 1, 1]]
    np.testing.assert_allclose(ranks.mean_rank, [5 / 3, 5 / 3, 4 / 3, 1.0])
    np.testing.assert_allclose(ranks.uplift, [2 / 3, 2 / 3, 2 / 3, 1.0])


def test_a_router_lies_between_the_worst_choice_and_the_oracle() -> None:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(300, 2))
    quality = np.column_stack([X[:, 0] > 0, X[:, 0] < 0, np.full(300, 0.6)]).astype(float)
    router = RewardDistilledRouter(temperature=0.1).fit(X[:150], quality[:150])
    routed = router.score(X[150:], quality[150:])
    assert quality[150:].mean(axis=0).max() < routed <= quality[150:].max(axis=1).mean()
