"""Card 11: soft labels over several experts (TensorOpera Router), with the numbers computed there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from defer.estimators.routers.soft_label import SoftLabelRouter
from defer.evaluation.throughput import mixture_cost, mixture_throughput
from defer.losses.comp_sum import cross_entropy
from defer.losses.distillation import soft_labels
from defer.portfolios.arms import Price


def test_labels_of_the_card() -> None:
    np.testing.assert_allclose(soft_labels([[0.8, 0.6, 0.5]]), [[0.843795, 0.114195, 0.042010]], atol=5e-7)
    np.testing.assert_allclose(soft_labels([[0.8, 0.6, 0.5]], kappa=0.1), [[0.338909, 0.332198, 0.328893]], atol=5e-7)


def test_kappa_zero_is_uniform_with_the_floor_log_m_and_infinity_is_hard() -> None:
    uniform = soft_labels([[0.8, 0.6, 0.5, 0.5]], kappa=0.0)
    assert uniform.tolist() == [[0.25] * 4]
    assert cross_entropy(np.zeros((1, 4)), uniform).value[0] == pytest.approx(np.log(4))
    assert soft_labels([[0.5, 0.5, 0.1]], kappa=np.inf).tolist() == [[0.5, 0.5, 0.0]]


@pytest.mark.parametrize("head", ["linear", "neighbors"])
def test_asymmetric_noise_where_the_mean_label_and_the_mean_score_disagree(head: str) -> None:
    # Arm A scores .9 or .1 at even odds, B always .55: by mean score B is ahead by .05.
    score = np.tile([[0.9, 0.55], [0.1, 0.55]], (20, 1))
    label = soft_labels(score)
    np.testing.assert_allclose(label[:2, 0], [0.970688, 0.010987], atol=5e-7)
    # The card adds the rounded labels; the exact mean is .4908374.
    assert label[:, 0].mean() == pytest.approx(0.490838, abs=1e-6)
    X = np.ones((40, 1))
    router = SoftLabelRouter(head, C=1e6, tol=1e-10).fit(X, score)
    np.testing.assert_allclose(router.predict_proba(X[:1]), [[0.490838, 0.509162]], atol=2e-6)
    assert router.predict(X[:1]).tolist() == [1]
    # At kappa = 100 the labels tie to 1e-15, although B has the larger mean score; the tie goes to the cheaper arm.
    assert soft_labels(score, kappa=100.0)[:, 0].mean() == pytest.approx(0.5, abs=1e-12)
    if head == "neighbors":
        sharp = SoftLabelRouter(kappa=100.0).fit(X, score, cost=np.tile([2.0, 1.0], (40, 1)))
        np.testing.assert_array_equal(sharp.predict_proba(X[:1]), [[0.5, 0.5]])
        assert sharp.predict(X[:1]).tolist() == [1]


def test_the_population_minimiser_of_the_soft_cross_entropy_is_the_mean_label() -> None:
    rng = np.random.default_rng(0)
    kind = np.repeat(np.arange(2), 30)
    score, X = rng.random((60, 3)), np.eye(2)[kind]
    router = SoftLabelRouter("linear", C=1e8, tol=1e-9).fit(X, score)
    label = soft_labels(score)
    expected = np.array([label[kind == number].mean(axis=0) for number in range(2)])
    np.testing.assert_allclose(router.predict_proba(np.eye(2)), expected, atol=1e-5)
    near = SoftLabelRouter(n_neighbors=30).fit(X, score)
    np.testing.assert_allclose(near.predict_proba(np.eye(2)), expected, atol=1e-11)


@given(seed=st.integers(0, 30), metric=st.sampled_from(["cosine", "euclidean"]))
def test_one_neighbour_reproduces_its_label(seed: int, metric: str) -> None:
    rng = np.random.default_rng(seed)
    X, score = rng.normal(size=(25, 3)), rng.random((25, 4))
    router = SoftLabelRouter(n_neighbors=1, metric=metric).fit(X, score)
    np.testing.assert_allclose(router.predict_proba(X), soft_labels(score), atol=1e-12)


def test_missing_measurements_are_masked_and_empty_rows_dropped_and_counted() -> None:
    X = np.eye(4)
    score = np.array([[0.8, np.nan, 0.5], [np.nan] * 3, [0.1, 0.2, 0.3], [np.nan, 0.4, 0.6]])
    router = SoftLabelRouter(n_neighbors=1, missing="mask").fit(X, score)
    assert router.n_dropped_ == 1
    expected = soft_labels(score[[0, 2, 3]])
    assert expected[0, 1] == expected[2, 0] == 0.0
    np.testing.assert_allclose(router.predict_proba(X[[0, 2, 3]]), expected, atol=1e-12)


def test_the_zero_router_is_the_mean_over_experts_as_is_the_random_one_and_the_oracle_is_above() -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(200, 2))
    quality = np.clip(0.5 + 0.3 * np.column_stack([X[:, 0], -X[:, 0], 0 * X[:, 0]]), 0, 1)
    tokens, seconds = np.full((200, 3), 100.0), np.tile([1.0, 2.0, 4.0], (200, 1))
    everyone = np.full((200, 3), 1 / 3)
    assert (everyone * quality).sum(axis=1).mean() == pytest.approx(quality.mean(), rel=1e-14)
    assert mixture_throughput(tokens, seconds, everyone).tokens_per_second == pytest.approx(300 / 7)
    drawn = np.array([quality[np.arange(200), rng.integers(3, size=200)].mean() for _ in range(400)])
    spread = drawn.std(ddof=1) / np.sqrt(400)
    assert abs(drawn.mean() - quality.mean()) < 4.5 * spread  # passed by chance with probability below 1e-5
    routed = SoftLabelRouter(n_neighbors=10).fit(X[:100], quality[:100]).score(X[100:], quality[100:])
    assert quality[100:].mean(axis=0).min() <= quality[100:].mean() < routed <= quality[100:].max(axis=1).mean()


def test_throughput_of_a_mixture_is_harmonic() -> None:
    found = mixture_throughput([[100.0, 100.0]] * 2, [[10.0, 2.5]] * 2, [0, 1])
    assert found.tokens_per_second == 16.0
    assert found.by_arm.mean() == 25.0


def test_cost_of_a_mixture_is_that_of_the_chosen_expert_and_the_routers_is_beside_it() -> None:
    prices = [Price(0.0, 1.0, 2.0), Price(0.0, 10.0, 20.0)]
    cost = mixture_cost([3.0, 5.0], [[7.0, 8.0], [9.0, 11.0]], prices, [1, 0], router_cost=[0.25, 0.5])
    assert cost.arm.tolist() == [3 * 10 + 8 * 20, 5 * 1 + 9 * 2]
    assert cost.router.tolist() == [0.25, 0.5]
    assert cost.total.tolist() == [190.25, 23.5]


def test_one_expert_is_a_constant() -> None:
    from defer.portfolios.arm_matrix import ArmMatrix

    router = SoftLabelRouter().fit(np.eye(3), ArmMatrix([[0.1], [0.5], [0.9]], ["only"]))
    assert router.predict_proba(np.eye(3)).tolist() == [[1.0]] * 3
    assert router.predict(np.eye(3)).tolist() == ["only"] * 3
