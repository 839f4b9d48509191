"""Losses of preferences: values by brute force, derivatives by differences, and weights by similarity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import check_grad

from defer.exceptions import LossInputError
from defer.losses import logistic_margin
from defer.losses.preference import bradley_terry_loss, preference_loss, similarity_weights


@pytest.fixture
def instance() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(7, 4)), rng.random((7, 4, 4)), rng.random(7)


def test_bradley_terry_is_the_log_likelihood_of_its_battles(instance: Any) -> None:
    strength, wins, weight = instance
    loss = bradley_terry_loss(strength, wins, weight=weight)
    for row in range(7):
        p = np.exp(strength[row])
        chance = p[:, None] / (p[:, None] + p[None, :])
        logs = np.where(np.eye(4, dtype=bool), 0.0, np.log(chance))
        assert loss.value[row] == pytest.approx(-weight[row] * (wins[row] * logs).sum())


def test_derivatives_are_those_of_the_value(instance: Any) -> None:
    strength, wins, weight = instance
    shape, rng = strength.shape, np.random.default_rng(1)

    def value(flat: np.ndarray) -> float:
        return float(bradley_terry_loss(flat.reshape(shape), wins, weight=weight).value.sum())

    def slope(flat: np.ndarray) -> np.ndarray:
        return bradley_terry_loss(flat.reshape(shape), wins, weight=weight).gradient.ravel()

    assert check_grad(value, slope, strength.ravel()) < 1e-5
    v = rng.normal(size=shape)
    near = (slope((strength + 1e-5 * v).ravel()) - slope((strength - 1e-5 * v).ravel())).reshape(shape) / 2e-5
    np.testing.assert_allclose(bradley_terry_loss(strength, wins, weight=weight).hessian_product(v), near, atol=1e-8)
    difference, win = strength[:, 0], np.array([0, 1, 0.5, 0.2, 1, 0, 0.5])
    moved = [preference_loss(difference + step, win).value for step in (1e-5, -1e-5)]
    loss = preference_loss(difference, win)
    np.testing.assert_allclose(loss.gradient, (moved[0] - moved[1]) / 2e-5, atol=1e-8)
    turned = [preference_loss(difference + step, win).gradient for step in (1e-5, -1e-5)]
    np.testing.assert_allclose(loss.hessian_product(np.ones(7)), (turned[0] - turned[1]) / 2e-5, atol=1e-8)


def test_torch_gives_the_same(instance: Any) -> None:
    torch = pytest.importorskip("torch")
    strength, wins, weight = instance
    scores = torch.tensor(strength, requires_grad=True)
    loss, plain = bradley_terry_loss(scores, wins, weight=weight), bradley_terry_loss(strength, wins, weight=weight)
    loss.value.sum().backward()
    np.testing.assert_allclose(scores.grad.numpy(), plain.gradient, atol=1e-12)
    np.testing.assert_allclose(loss.gradient.numpy(), plain.gradient, atol=1e-12)
    difference = torch.tensor(strength[:, 0], requires_grad=True)
    win = np.array([0, 1, 0.5, 0.2, 1, 0, 0.5])
    preference_loss(difference, win).value.sum().backward()
    np.testing.assert_allclose(difference.grad.numpy(), preference_loss(strength[:, 0], win).gradient, atol=1e-12)


def test_a_battle_won_or_lost_is_the_logistic_margin_and_a_tie_is_half_of_both() -> None:
    x = np.array([-800.0, -2.0, 0.0, 3.0, 800.0])
    won, lost = preference_loss(x, np.ones(5)).value, preference_loss(x, np.zeros(5)).value
    np.testing.assert_allclose(won, logistic_margin(x, np.ones(5)).value)
    np.testing.assert_allclose(lost, logistic_margin(x, -np.ones(5)).value)
    np.testing.assert_allclose(preference_loss(x, np.full(5, 0.5)).value, 0.5 * (won + lost))
    assert preference_loss(x.astype(np.float32), np.ones(5)).value.dtype == np.float32


def test_similarity_weights_fall_with_the_cosine_and_know_their_limits() -> None:
    rng = np.random.default_rng(2)
    cosine = rng.uniform(-1, 1, size=(20, 30))
    weight = similarity_weights(cosine, gamma=10.0)
    np.testing.assert_allclose(weight, 10.0 ** (1.0 + cosine / cosine.max(axis=1, keepdims=True)))
    np.testing.assert_array_equal(similarity_weights(cosine[0]), weight[0])
    assert similarity_weights(cosine.astype(np.float32)).dtype == np.float32
    # Similar to nothing: all alike.
    np.testing.assert_allclose(similarity_weights([[-0.2, 0.0, -1.0], [0.0, 0.0, 1e-9]]), 10.0)
    assert similarity_weights([0.5, -np.inf]).tolist() == pytest.approx([100.0, 0.0])
    assert similarity_weights([-np.inf, -np.inf]).tolist() == [0.0, 0.0]
    assert np.isfinite(similarity_weights([2e-6, -1.0])).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bradley_terry_loss(np.zeros((2, 3)), np.zeros((2, 3))), r"wins has shape \(2, 3\); it needs \(2, 3, 3\)"),
        (lambda: bradley_terry_loss(np.zeros((1, 2)), -np.ones((1, 2, 2))), "wins has 4 of 4 values that are negative"),
        (lambda: preference_loss(np.zeros(2), np.zeros(3)), r"win has shape \(3,\) and difference \(2,\)"),
        (lambda: preference_loss(np.zeros(2), np.array([0.5, 1.5])), r"win has 1 of 2 values outside \[0, 1\], the first in row 1"),
        (lambda: preference_loss(np.zeros(2), np.array([0.5, np.nan])), r"win has 1 of 2 values outside \[0, 1\]"),
        (lambda: similarity_weights([0.1], gamma=0.0), "gamma must be a finite number > 0, got 0.0"),
        (lambda: similarity_weights([0.1, 1.5]), r"cosine has 1 of 2 values above 1 or NaN, the first in row 1 \(1.5\)"),
        (lambda: similarity_weights([[0.1, np.nan]]), "above 1 or NaN"),
        (lambda: similarity_weights(0.5), r"cosine must have shape \(N,\) or \(n, N\), got \(\)"),
    ],
)  # fmt: skip
def test_wrong_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(LossInputError, match=message):
        call()
