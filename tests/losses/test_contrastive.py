"""Contrastive losses: closed forms, brute force, differences, NumPy and torch alike."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defer.exceptions import LossInputError
from defer.losses.contrastive import contrast_weights, dual_contrastive, margin_contrastive

STEP = 1e-6


def drawn(seed, n=5, m=6):
    rng = np.random.default_rng(seed)
    role = rng.integers(-1, 2, size=(n, m))
    weights = rng.choice([0.5, 1.0, 2.0], size=(n, m))
    return 3 * rng.normal(size=(n, m)), weights * (role > 0), weights * (role < 0)


def by_loops(scores, positive, negative, n_arms, balance):
    total = []
    for s, p, k in zip(scores, positive, negative, strict=True):
        terms = 0.0
        for low, high, factor in ((0, n_arms, 1.0), (n_arms, len(s), balance)):
            for j in range(low, high):
                against = sum(k[i] * math.exp(s[i] - s[j]) for i in range(low, high))
                terms += factor * p[j] * math.log1p(against)
        total.append(terms)
    return np.array(total)


def test_margin_loss_of_the_card():
    loss = margin_contrastive(np.array([0.3, 0.3, 0.9, 0.5]), np.array([1, 0, 0, 0.25]), margin=0.7)
    expected = [0.09, 0.16, 0.0, 0.25 * 0.25 + 0.75 * 0.04]
    np.testing.assert_allclose(loss.value, expected)
    np.testing.assert_allclose(loss.gradient, [0.6, -0.8, 0.0, 0.25 - 0.3], atol=1e-15)


@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_margin_loss_is_least_where_the_docstring_says(chance):
    grid = np.linspace(0, 1.5, 3001)
    values = margin_contrastive(grid, np.full(3001, chance), margin=0.8).value
    assert grid[values.argmin()] == pytest.approx(0.8 * (1 - chance), abs=1e-3)


@given(seed=st.integers(0, 10**6), margin=st.floats(0.1, 2.0))
@settings(max_examples=30)
def test_margin_loss_has_the_gradient_and_hessian_of_its_value(seed, margin):
    rng = np.random.default_rng(seed)
    d, same, weight = 2 * rng.random(20), rng.random(20), rng.random(20)
    d = np.where(abs(d - margin) < 1e-3, d + 0.01, d)

    def at(x):
        return margin_contrastive(x, same, margin=margin, weight=weight)

    np.testing.assert_allclose(at(d).gradient, (at(d + STEP).value - at(d - STEP).value) / (2 * STEP), atol=1e-7)
    change = (at(d + STEP).gradient - at(d - STEP).gradient) / (2 * STEP)
    np.testing.assert_allclose(at(d).hessian_product(np.ones(20)), change, atol=1e-7)


@given(seed=st.integers(0, 10**6), n_arms=st.integers(1, 6), balance=st.sampled_from([0.0, 0.7, 1.0]))
@settings(max_examples=40)
def test_dual_loss_is_that_of_loops_and_has_its_gradient(seed, n_arms, balance):
    scores, positive, negative = drawn(seed)

    def at(x):
        return dual_contrastive(x, positive, negative, n_arms=n_arms, balance=balance)

    np.testing.assert_allclose(at(scores).value, by_loops(scores, positive, negative, n_arms, balance), atol=1e-12)
    steps = STEP * np.eye(scores.shape[1])
    change = [(at(scores + step).value - at(scores - step).value) / (2 * STEP) for step in steps]
    np.testing.assert_allclose(at(scores).gradient, np.stack(change, axis=1), atol=1e-6)


@pytest.mark.parametrize("kind", ["margin", "dual"])
def test_numpy_and_torch_agree_and_autograd_finds_the_gradient(kind):
    torch = pytest.importorskip("torch")
    scores, positive, negative = drawn(3, n=12)
    weight = np.linspace(0.5, 2.0, 12)
    if kind == "margin":
        scores = abs(scores[:, 0])
        tables, options = ((positive[:, 0] > 0).astype(float),), {"margin": 1.3}
        loss = margin_contrastive
    else:
        tables, options, loss = (positive, negative), {"n_arms": 4, "balance": 0.5}, dual_contrastive
    ours = loss(scores, *tables, weight=weight, **options)
    tensor = torch.tensor(scores, requires_grad=True)
    theirs = loss(tensor, *(torch.tensor(table) for table in tables), weight=torch.tensor(weight), **options)
    np.testing.assert_allclose(theirs.value.detach().numpy(), ours.value, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(theirs.gradient.numpy(), ours.gradient, rtol=1e-12, atol=1e-14)
    (automatic,) = torch.autograd.grad(theirs.value.sum(), tensor)
    np.testing.assert_allclose(automatic.numpy(), ours.gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dual_loss_is_finite_at_wild_scores(dtype):
    scores = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], dtype=dtype)
    with np.errstate(all="raise", under="ignore"):
        loss = dual_contrastive(scores, np.array([[1, 0, 0]] * 2), np.array([[0, 1, 1]] * 2))
        assert np.isfinite(loss.gradient).all()
    np.testing.assert_allclose(loss.value, [0.0, 2e4 + math.log(2)], rtol=1e-6)
    assert loss.value.dtype == dtype


def test_a_query_without_positives_or_without_negatives_costs_nothing():
    scores, nothing, all_of_them = np.ones((1, 3)), np.zeros((1, 3)), np.ones((1, 3))
    for positive, negative in ((nothing, all_of_them), (all_of_them, nothing)):
        loss = dual_contrastive(scores, positive, negative)
        assert loss.value.tolist() == [0.0]
        assert loss.gradient.tolist() == [[0.0, 0.0, 0.0]]


def test_positives_and_negatives_of_the_source():
    quality = np.array([[0.9, 0.8, 0.7, 0.6, 0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    positive, negative = contrast_weights(quality)
    assert positive.tolist() == [[1, 1, 1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0]]
    assert negative[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 0]
    np.testing.assert_allclose(negative[1], np.where(quality[1] == 0, 3 / 7, 0))


@given(seed=st.integers(0, 10**6), k=st.integers(1, 7))
@settings(max_examples=40)
def test_shared_places_are_the_mean_over_orders_of_tied_arms(seed, k):
    rng = np.random.default_rng(seed)
    quality = rng.choice([0.0, 0.6, 0.7, 1.0], size=5)
    counts, runs = np.zeros(5), 2000
    for _ in range(runs):
        order = rng.permutation(5)
        best = order[np.argsort(-quality[order], kind="stable")][:k]
        counts[best] += quality[best] > 0
    positive, _ = contrast_weights(quality[None], n_positive=k)
    # Each mean of 2,000 coin tosses is further off than .08 with probability below 1e-11.
    np.testing.assert_allclose(positive[0], counts / runs, atol=0.08)
    assert positive.sum() == pytest.approx(min(k, (quality > 0).sum()))


def test_what_was_not_observed_is_neither_positive_nor_negative():
    positive, negative = contrast_weights([[np.nan, 1.0, np.nan, 0.0], [np.nan] * 4])
    assert positive.tolist() == [[0, 1, 0, 0], [0, 0, 0, 0]]
    assert negative.tolist() == [[0, 0, 0, 1], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: margin_contrastive([0.1, 0.2], [1.0]), r"same has shape \(1,\); it needs that of the first argument, \(2,\)"),
        (lambda: margin_contrastive([0.1], [2.0]), r"same has 1 of 1 values outside \[0, 1\], the first in row 0 \(2\)"),
        (lambda: margin_contrastive([0.1], [np.nan]), r"same has 1 of 1 values outside \[0, 1\]"),
        (lambda: margin_contrastive([0.1], [1.0], margin=0.0), "margin must be a finite number > 0, got 0.0"),
        (lambda: dual_contrastive([[0.1, 0.2]], [[1, -1]], [[0, 0]]), "positive has 1 of 2 values that are negative or not"),
        (lambda: dual_contrastive([[0.1, 0.2]], [[1, 0]], [[0]]), r"negative has shape \(1, 1\)"),
        (lambda: dual_contrastive([[0.1]], [[1]], [[0]], n_arms=2), "n_arms must be an integer from 1 to 1"),
        (lambda: dual_contrastive([[0.1]], [[1]], [[0]], balance=-1.0), "balance must be a finite number >= 0, got -1.0"),
        (lambda: contrast_weights([1.0]), r"quality must have shape \(n, m\) with m >= 1, got \(1,\)"),
        (lambda: contrast_weights([["a"]]), "quality must be real numbers"),
        (lambda: contrast_weights([[1.0]], n_positive=0), "n_positive must be an integer >= 1, got 0"),
        (lambda: contrast_weights([[1.0]], n_negative=1.5), r"n_negative must be an integer >= 1, got 1\.5"),
        (lambda: contrast_weights([[1.0]], wrong_below=2), r"wrong_below must lie in \[0, 1\], got 2"),
    ],
)  # fmt: skip
def test_wrong_input_is_named(call, message):
    with pytest.raises(LossInputError, match=message):
        call()
