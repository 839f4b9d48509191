"""Labels made of rewards, and the two divergences from them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse
from scipy.special import softmax as scipy_softmax

from defer.exceptions import LossInputError
from defer.losses.comp_sum import cross_entropy
from defer.losses.distillation import (
    DIVERGENCES,
    LEAST_SHARE,
    enhance_labels,
    forward_kl,
    reverse_kl,
    silver_labels,
    soft_labels,
)
from defer.losses.tag_incidence import tag_incidence

STEP = 1e-5
reward = hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 4)), elements=st.floats(-20, 20))
tag_set = st.sets(st.sampled_from("abcd"))
both = pytest.mark.parametrize("loss", DIVERGENCES.values(), ids=DIVERGENCES.keys())


def problem(seed: int, n: int = 6, m: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return 2 * rng.normal(size=(n, m)), rng.dirichlet(np.ones(m), size=n)


@given(table=reward, shift=st.floats(-1e4, 1e4), temperature=st.sampled_from([0.3, 1.0, 5.0]))
def test_silver_labels_are_the_softmax_whatever_is_added(table, shift, temperature):
    label = silver_labels(table, temperature=temperature)
    np.testing.assert_allclose(label, scipy_softmax(table / temperature, axis=1), atol=1e-13)
    np.testing.assert_allclose(label.sum(axis=1), 1.0)
    np.testing.assert_allclose(silver_labels(table + shift, temperature=temperature), label, atol=1e-9)
    np.testing.assert_allclose(soft_labels(table, kappa=1 / temperature), label, atol=1e-15)


def test_a_factor_on_rewards_is_a_temperature_and_does_change_labels():
    table = [[2.0, 1.0, 0.0]]
    np.testing.assert_allclose(silver_labels(3 * np.array(table)), silver_labels(table, temperature=1 / 3))
    assert np.abs(silver_labels(3 * np.array(table)) - silver_labels(table)).max() > 0.1


def test_rewards_of_any_size_are_no_overflow():
    with np.errstate(all="raise", under="ignore"):
        label = silver_labels([[1e300, -1e300, 1e300], [-1e4, 1e4, 0.0], [-1e308, 1e308, 0.0]])
        np.testing.assert_array_equal(soft_labels([[0.0, 1e-200]], kappa=1e300), [[0.0, 1.0]])
    np.testing.assert_array_equal(label, [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])


def test_what_was_not_observed_has_no_share_and_the_rest_is_renormalised():
    label = soft_labels([[0.8, np.nan, 0.5], [np.nan] * 3, [np.nan, 0.1, np.nan]])
    np.testing.assert_allclose(label[0], [1 / (1 + np.exp(-3)), 0.0, 1 / (1 + np.exp(3))])
    assert np.isnan(label[1]).all()
    assert label[2].tolist() == [0.0, 1.0, 0.0]


def test_kappa_from_uniform_to_hard():
    score = [[0.8, 0.6, 0.8], [0.1, 0.2, np.nan]]
    np.testing.assert_allclose(soft_labels(score, kappa=0), [[1 / 3] * 3, [0.5, 0.5, 0.0]])
    np.testing.assert_array_equal(soft_labels(score, kappa=np.inf), [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]])
    np.testing.assert_allclose(soft_labels(score, kappa=1e6), soft_labels(score, kappa=np.inf), atol=1e-12)


@settings(max_examples=60)
@given(table=reward, data=st.data(), beta=st.floats(0, 1))
def test_enhancement_agrees_with_a_loop(table, data, beta):
    n = len(table)
    tags = data.draw(st.lists(tag_set, min_size=n, max_size=n))
    silver = silver_labels(table)
    expected = silver.copy()
    for row in range(n):
        if tags[row]:
            means = [silver[[tag in other for other in tags]].mean(axis=0) for tag in tags[row]]
            expected[row] = beta * silver[row] + (1 - beta) * np.mean(means, axis=0)
    label = enhance_labels(silver, tags, beta=beta)
    np.testing.assert_allclose(label, expected, atol=1e-13)
    np.testing.assert_allclose(label.sum(axis=1), 1.0)
    np.testing.assert_allclose(label, enhance_labels(silver, [[*tag, *tag] for tag in tags], beta=beta))
    one, none = enhance_labels(silver, tags, beta=1.0), enhance_labels(silver, tags, beta=0.0)
    np.testing.assert_allclose(one, silver, atol=1e-15)
    np.testing.assert_allclose(label, beta * one + (1 - beta) * none, atol=1e-13)


def test_a_weight_counts_equal_rows_in_the_means_of_tags():
    rng = np.random.default_rng(0)
    silver, weight = rng.dirichlet(np.ones(3), size=6), np.array([2, 1, 3, 0, 1, 2])
    tags = [{"a"}, {"a", "b"}, {"b"}, {"a"}, set(), {"c"}]
    rows = np.repeat(np.arange(6), weight)
    weighted = enhance_labels(silver, tags, weight=weight)
    np.testing.assert_allclose(weighted[rows], enhance_labels(silver[rows], [tags[row] for row in rows]))


def test_rows_without_a_label_take_part_in_no_mean():
    silver = np.array([[0.2, 0.8], [np.nan, np.nan], [0.6, 0.4]])
    label = enhance_labels(silver, [{"a"}, {"a", "b"}, {"a", "b"}], beta=0.0)
    np.testing.assert_allclose(label[[0, 2]], [[0.4, 0.6], [0.5, 0.5]])
    assert np.isnan(label[1]).all()


def test_a_query_whose_tags_have_no_weight_keeps_its_label():
    silver = np.array([[0.2, 0.8], [0.6, 0.4]])
    np.testing.assert_allclose(enhance_labels(silver, ["a", "b"], weight=[0.0, 1.0]), silver)


@pytest.mark.parametrize(
    "tags",
    [
        ["x", "y", "x"],
        np.array(["x", "y", "x"]),
        np.array(["x", "y", "x"], dtype=object),
        np.array([4, 1, 4]),
        pd.Series(["x", "y", "x"], index=[7, 8, 9]),
        pd.Categorical(["x", "y", "x"]),
        [{"x"}, ("y",), frozenset({"x"})],
        sparse.csr_array(np.array([[5, 0], [0, 1], [1, 0]])),
        sparse.csc_matrix(np.array([[1, 0], [0, 1], [1, 0]])),
    ],
    ids=["list", "text", "objects", "integers", "series", "categories", "sets", "csr", "csc"],
)
def test_tags_in_every_form(tags):
    assert tag_incidence(tags, n=3).toarray().tolist() == [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]


def test_missing_tags_are_none():
    assert tag_incidence([None, set(), np.nan, "a"], n=4).toarray().tolist() == [[0.0]] * 3 + [[1.0]]
    assert tag_incidence([set(), set()], n=2).shape == (2, 0)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (["a", "b"], r"tags have 2 entries, and there are 3 queries"),
        (sparse.csr_array((2, 1)), r"tags have 2 entries, and there are 3 queries"),
        ("abc", r"must be a sequence with one entry per query, got str"),
        ({"a": 1}, r"must be a sequence with one entry per query, got dict"),
        (7, r"must be a sequence with one entry per query, got int"),
        ({"a", "b", "c"}, r"tags are one set, which has no order"),
        (np.zeros((3, 2)), r"an array of shape \(n,\), got shape \(3, 2\)"),
        (["a", {"b", 1.5}, "c"], r"tags of row 1 hold 1\.5, a float; a tag is a text or an integer"),
        (["a", "b", [["c"]]], r"tags of row 2 hold \['c'\], a list"),
    ],
)
def test_wrong_tags_are_named(tags, message):
    with pytest.raises(LossInputError, match=message):
        enhance_labels(np.full((3, 2), 0.5), tags)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: silver_labels([[0.0, np.inf]]), "silver_labels: reward has 1 of 2 values that are infinite, the first in row 0, column 1"),
        (lambda: silver_labels([0.0, 1.0]), r"silver_labels: reward must have shape \(n, m\) with m >= 1, got \(2,\)"),
        (lambda: silver_labels([["a"]]), "silver_labels: reward must be real numbers"),
        (lambda: silver_labels([[1.0]], temperature=0), r"temperature must be a finite number > 0, got 0"),
        (lambda: silver_labels([[1.0]], temperature=True), r"temperature must be a finite number > 0, got True"),
        (lambda: soft_labels([[1.0]], kappa=-1), r"kappa must be a number >= 0, or np\.inf, got -1"),
        (lambda: soft_labels([[1.0]], kappa=np.nan), r"kappa must be a number >= 0, or np\.inf, got nan"),
        (lambda: soft_labels([[1.0]], kappa="10"), r"kappa must be a number >= 0, or np\.inf, got '10'"),
        (lambda: enhance_labels([[1.0]], ["a"], beta=1.5), r"enhance_labels: beta must lie in \[0, 1\], got 1\.5"),
        (lambda: enhance_labels([[1.0]], ["a"], weight=[-1.0]), "weight has 1 of 1 values that are negative"),
    ],
)  # fmt: skip
def test_wrong_input_of_labels_is_named(call, message):
    with pytest.raises(LossInputError, match=message):
        call()


@both
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([[0.5, 0.5, 0.0]], r"target has shape \(1, 3\); it needs that of the scores, \(1, 2\)"),
        ([[1.5, -0.5]], r"target has 1 of 2 values that are negative or NaN, the first in row 0, column 1 \(-0\.5\)"),
        ([[np.nan, 0.5]], r"target has 1 of 2 values that are negative or NaN, the first in row 0, column 0"),
        ([[0.5, 0.4]], r"the sum of target has 1 of 1 values that are not 1, the first in row 0 \(0\.9\)"),
    ],
)
def test_targets_must_be_distributions(loss, target, message):
    with pytest.raises(LossInputError, match=message):
        loss(np.zeros((1, 2)), np.array(target))


@both
@pytest.mark.parametrize("seed", range(5))
def test_gradient_and_hessian_are_those_of_the_value(loss, seed):
    scores, target = problem(seed)
    if seed == 0:
        target[:2] = np.eye(4)[[0, 2]]
    found, vector = loss(scores, target), np.cos(np.arange(24.0)).reshape(6, 4)
    steps = STEP * np.eye(4)
    slope = [(loss(scores + s, target).value - loss(scores - s, target).value) / (2 * STEP) for s in steps]
    np.testing.assert_allclose(found.gradient, np.column_stack(slope), atol=1e-6)
    change = loss(scores + STEP * vector, target).gradient - loss(scores - STEP * vector, target).gradient
    np.testing.assert_allclose(found.hessian_product(vector), change / (2 * STEP), atol=1e-6)
    np.testing.assert_allclose(found.gradient.sum(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(loss(scores + 7.0, target).value, found.value, rtol=1e-12)


def test_values_are_the_divergences():
    scores, target = problem(1)
    p = scipy_softmax(scores, axis=1)
    np.testing.assert_allclose(forward_kl(scores, target).value, (target * np.log(target / p)).sum(axis=1))
    np.testing.assert_allclose(reverse_kl(scores, target).value, (p * np.log(p / target)).sum(axis=1))
    entropy = -(target * np.log(target)).sum(axis=1)
    np.testing.assert_allclose(forward_kl(scores, target).value + entropy, cross_entropy(scores, target).value)
    np.testing.assert_allclose(forward_kl(scores, target).gradient, p - target)


@both
def test_weights_count_equal_rows(loss):
    scores, target = problem(2)
    times = np.array([0, 1, 2, 3, 1, 0])
    rows = np.repeat(np.arange(6), times)
    weighted, repeated = loss(scores, target, weight=times), loss(scores[rows], target[rows])
    assert weighted.value.sum() == pytest.approx(repeated.value.sum())
    np.testing.assert_allclose(weighted.gradient.sum(axis=0), repeated.gradient.sum(axis=0))


@both
def test_numpy_and_torch_agree(loss):
    torch = pytest.importorskip("torch")
    scores, target = problem(3)
    target[0] = [0.0, 1.0, 0.0, 0.0]
    weight = np.linspace(0.5, 2.0, 6)
    ours, tensor = loss(scores, target, weight=weight), torch.tensor(scores, requires_grad=True)
    theirs = loss(tensor, torch.tensor(target), weight=torch.tensor(weight))
    (automatic,) = torch.autograd.grad(theirs.value.sum(), tensor)
    np.testing.assert_allclose(theirs.value.detach().numpy(), ours.value, rtol=1e-12)
    np.testing.assert_allclose(automatic.numpy(), ours.gradient, atol=1e-12)
    np.testing.assert_allclose(theirs.gradient.numpy(), ours.gradient, atol=1e-12)
    vector = np.ones_like(scores) * np.arange(4.0)
    product = loss(torch.tensor(scores), torch.tensor(target)).hessian_product(torch.tensor(vector))
    np.testing.assert_allclose(product.numpy(), loss(scores, target).hessian_product(vector), atol=1e-12)


@both
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_finite_at_wild_scores(loss, dtype):
    torch = pytest.importorskip("torch")
    signs = np.array(np.meshgrid(*[[-1e4, 0.0, 1e4]] * 3)).reshape(3, -1).T
    labels = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1 / 3] * 3, [1 - 1e-35, 1e-35, 0.0]])
    scores, target = np.repeat(signs, 4, axis=0).astype(dtype), np.tile(labels, (len(signs), 1))
    with np.errstate(all="raise", under="ignore"):
        found = loss(scores, target)
        parts = found.value, found.gradient, found.hessian_product(np.ones_like(scores))
    assert all(np.isfinite(part).all() for part in parts)
    assert found.value.min() >= -1e-6
    assert found.value.dtype == found.gradient.dtype == dtype
    exact = loss(scores.astype(float), target)
    np.testing.assert_allclose(found.value, exact.value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.gradient, exact.gradient, rtol=1e-4, atol=1e-6)
    tensor = torch.tensor(scores, requires_grad=True)
    (automatic,) = torch.autograd.grad(loss(tensor, torch.tensor(target)).value.sum(), tensor)
    assert torch.isfinite(automatic).all()


def test_a_share_of_zero_counts_as_the_least_one_in_the_reverse_divergence():
    found = reverse_kl(np.zeros((1, 2)), np.array([[1.0, 0.0]]))
    assert found.value[0] == pytest.approx(0.5 * np.log(0.5) + 0.5 * np.log(0.5 / LEAST_SHARE))
