"""What holds for every loss: gradients, NumPy and torch alike, finiteness, weights, symmetries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from defer import losses
from defer.exceptions import LossInputError
from defer.losses import COMP_SUMS, MARGINS

torch = pytest.importorskip("torch")

STEP = 1e-5
AWAY = 1e-3  # distance from a kink at which the differences of `STEP` are safe


@dataclass(frozen=True)
class Case:
    """A loss with what a test needs to know to call it on any scores and any costs in [0, 1] of the same shape."""

    name: str
    loss: Callable[..., Any]
    shape: str = "matrix"
    target: str = "cost"
    n_experts: int = 0
    kinks: Callable[[Any], Any] | None = None
    shift: bool = False
    hessian: bool = False
    columns: int | None = None
    convex: bool = True

    def data(self, cost: Any) -> Any:
        if self.target == "sign":
            return np.where(cost > 0.5, 1.0, -1.0)
        return 1.0 - cost if self.target == "weights" else cost

    def __call__(self, scores: Any, cost: Any, weight: Any = None) -> Any:
        data = self.data(cost)
        if isinstance(scores, torch.Tensor):
            data, weight = torch.asarray(data), None if weight is None else torch.asarray(weight)
        return self.loss(scores, data, weight=weight)


def largest_two(u: Any) -> Any:
    top = np.sort(u, axis=1)
    return top[:, -1] - top[:, -2]


def centred(u: Any) -> Any:
    return u - u.mean(axis=1, keepdims=True)


HINGED = ("hinge", "squared_hinge")


def single_stage() -> list[Case]:
    both: dict[str, dict[str, Any]] = {
        "softmax_deferral": {"shift": True, "hessian": True},
        "ova_deferral": {"hessian": True},
        "cost_sensitive_deferral": {"shift": True, "hessian": True},
    }
    cases = [
        Case(f"{name} J={J}", partial(getattr(losses, name), n_experts=J), n_experts=J, **facts)
        for name, facts in both.items()
        for J in (0, 1, 2)
    ]
    cases += [
        Case("cost_sensitive MAE bound", partial(losses.cost_sensitive_deferral, comp_sum="mean_absolute_error", c_max=1.5),
             n_experts=1, shift=True, convex=False),
        Case("softmax alpha", partial(losses.softmax_deferral, alpha=0.5), n_experts=1, shift=True, hessian=True),
        Case("asymmetric J=1", losses.asymmetric_softmax_deferral, n_experts=1, shift=True, convex=False,
             kinks=lambda s: largest_two(s[:, :-1])),
        Case("asymmetric J=0", partial(losses.asymmetric_softmax_deferral, n_experts=0), shift=True, hessian=True),
    ]  # fmt: skip
    for J in (0, 1):
        for mix in (0.3, 1.0):
            loss = partial(losses.realizable_deferral, n_experts=J, mix=mix)
            cases.append(Case(f"realizable J={J} mix={mix}", loss, n_experts=J, shift=True, convex=False))
        for q in (0.0, 0.7, 1.0):
            loss = partial(losses.rl2d_deferral, q=q, n_experts=J)
            cases.append(Case(f"rl2d J={J} q={q}", loss, n_experts=J, shift=True, convex=False))
    return cases


def two_sided() -> list[Case]:
    cases = []
    for margin in MARGINS:
        for loss in (losses.predictor_rejector, losses.post_hoc_partial):
            kinks = (lambda s: abs(abs(s) - 1)) if margin in HINGED else None
            name = f"{loss.__name__} {margin}"
            cases.append(
                Case(name, partial(loss, margin=margin), "pair", kinks=kinks, hessian=True, convex=margin != "sigmoid")
            )
    return cases


CASES = [
    *(
        Case(name, loss, "vector", "sign", hessian=True, convex=name != "sigmoid",
             kinks=(lambda s: abs(abs(s) - 1)) if name in HINGED else None)
        for name, loss in MARGINS.items()
    ),
    *(
        Case(name, loss, target="weights", shift=True, hessian=name in ("cross_entropy", "constrained"),
             convex=name not in ("generalized_cross_entropy", "mean_absolute_error"))
        for name, loss in COMP_SUMS.items()
    ),
    *(
        Case(f"constrained {margin}", partial(losses.constrained, margin=margin), target="weights", shift=True, hessian=True,
             convex=margin != "sigmoid", kinks=(lambda s: abs(centred(s) + 1)) if margin in HINGED else None)
        for margin in MARGINS
    ),
    *single_stage(),
    *(
        Case(f"two_stage {name} {weighting}", partial(losses.two_stage, comp_sum=name, weighting=weighting), shift=True,
             hessian=name in ("cross_entropy", "constrained"),
             convex=name not in ("generalized_cross_entropy", "mean_absolute_error"))
        for name in COMP_SUMS
        for weighting in ("one_minus_cost", "cost_of_others")
    ),
    *two_sided(),
    Case("post_hoc_regression", losses.post_hoc_regression, hessian=True, columns=2),
]  # fmt: skip
NAMES = [case.name for case in CASES]
every = pytest.mark.parametrize("case", CASES, ids=NAMES)
MATRICES = [case for case in CASES if case.shape == "matrix"]

cell = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))
score = st.floats(-6, 6, allow_subnormal=False)


@st.composite
def problems(draw: Any) -> tuple[Any, Any]:
    """Scores (n, m) and costs (n, m), from which every case takes what it needs."""
    n, m = draw(st.integers(1, 3)), draw(st.integers(3, 5))
    scores = draw(hnp.arrays(np.float64, (n, m), elements=score))
    return scores, draw(hnp.arrays(np.float64, (n, m), elements=cell))


def fit_to(case: Case, scores: Any, cost: Any) -> tuple[Any, Any]:
    if case.shape == "vector":
        return scores[:, 0], cost[:, 0]
    if case.shape == "pair":
        return scores[:, 0], cost[:, :2]
    return scores[:, : case.columns], cost[:, : case.columns]


def sampled(case: Case, n: int, m: int = 4, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    cost = rng.choice([0.0, 1.0, 0.25, 0.6], size=(n, m))
    return fit_to(case, 2 * rng.normal(size=(n, m)), cost)


def differences(function: Callable[[Any], Any], scores: Any) -> Any:
    """Central differences of per-sample values by that sample's scores; a new axis at the end where scores have columns."""
    if scores.ndim == 1:
        return (function(scores + STEP) - function(scores - STEP)) / (2 * STEP)
    steps = STEP * np.eye(scores.shape[1])
    return np.stack([(function(scores + step) - function(scores - step)) / (2 * STEP) for step in steps], axis=-1)


def smooth(case: Case, scores: Any) -> bool:
    return case.kinks is None or bool(np.all(case.kinks(scores) > AWAY))


def row_scale(value: Any, like: Any) -> Any:
    return (1 + abs(value)).reshape((-1,) + (1,) * (like.ndim - 1))


@every
@settings(max_examples=20)
@given(problem=problems())
def test_gradient_is_that_of_the_value(case, problem):
    scores, cost = fit_to(case, *problem)
    assume(smooth(case, scores))
    loss = case(scores, cost)
    expected = differences(lambda s: case(s, cost).value, scores)
    assert np.all(abs(loss.gradient - expected) <= 1e-6 * row_scale(loss.value, expected))


@every
@settings(max_examples=20)
@given(problem=problems())
def test_numpy_and_torch_agree(case, problem):
    scores, cost = fit_to(case, *problem)
    assume(smooth(case, scores))
    weight = np.linspace(0.5, 2.0, len(scores))
    ours = case(scores, cost, weight)
    tensor = torch.tensor(scores, requires_grad=True)
    theirs = case(tensor, cost, weight)
    np.testing.assert_allclose(theirs.value.detach().numpy(), ours.value, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(theirs.gradient.numpy(), ours.gradient, rtol=1e-10, atol=1e-12)
    (automatic,) = torch.autograd.grad(theirs.value.sum(), tensor)
    assert np.all(abs(automatic.numpy() - ours.gradient) <= 1e-6 * row_scale(ours.value, ours.gradient))
    assert not theirs.gradient.requires_grad


@every
@settings(max_examples=15)
@given(problem=problems())
def test_hessian_product_is_that_of_the_gradient(case, problem):
    scores, cost = fit_to(case, *problem)
    weight = np.linspace(0.5, 2.0, len(scores))
    vector = np.cos(np.arange(scores.size, dtype=float)).reshape(scores.shape)
    loss = case(scores, cost, weight)
    if not case.hessian:
        with pytest.raises(LossInputError, match="has no cheap Hessian product"):
            loss.hessian_product(vector)
        return
    assume(smooth(case, scores))
    change = case(scores + STEP * vector, cost, weight).gradient - case(scores - STEP * vector, cost, weight).gradient
    product = loss.hessian_product(vector)
    assert np.all(abs(product - change / (2 * STEP)) <= 2e-6 * row_scale(loss.value, product))
    tensor = case(torch.tensor(scores), cost, weight).hessian_product(torch.tensor(vector))
    np.testing.assert_allclose(tensor.numpy(), product, rtol=1e-10, atol=1e-10)


@every
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_finite_at_wild_scores(case, dtype):
    signs = np.array(np.meshgrid(*[[-1e4, 0.0, 1e4]] * 4)).reshape(4, -1).T
    scores = np.concatenate([signs, signs * np.array([1.0, 0.5, 1.0, 0.001])])
    costs = np.array(np.meshgrid(*[[0.0, 1.0]] * 4)).reshape(4, -1).T
    scores, costs = np.repeat(scores, len(costs), axis=0), np.tile(costs, (len(scores), 1))
    scores, costs = fit_to(case, scores, costs)
    scores = np.ascontiguousarray(scores, dtype=dtype)
    with np.errstate(all="raise", under="ignore"):
        loss = case(scores, costs)
        gradient = loss.gradient
        assert np.isfinite(loss.value).all()
        assert np.isfinite(gradient).all()
        if case.hessian:
            assert np.isfinite(loss.hessian_product(np.ones_like(scores))).all()
    assert loss.value.min() >= -1e-6
    exact = case(scores.astype(float), costs)
    np.testing.assert_allclose(loss.value, exact.value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, exact.gradient, rtol=1e-4, atol=1e-6)
    tensor = torch.tensor(scores, requires_grad=True)
    value = case(tensor, costs).value
    (automatic,) = torch.autograd.grad(value.sum(), tensor)
    assert torch.isfinite(value).all()
    assert torch.isfinite(automatic).all()


@every
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_and_shape_are_kept(case, dtype):
    scores, cost = sampled(case, 7)
    weight = np.arange(7.0)
    loss = case(scores.astype(dtype), cost, weight)
    assert loss.value.dtype == loss.gradient.dtype == dtype
    assert loss.value.shape == (7,)
    assert loss.gradient.shape == scores.shape
    exact = case(scores, cost, weight)
    np.testing.assert_allclose(loss.value, exact.value, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(loss.gradient, exact.gradient, rtol=2e-4, atol=2e-5)
    tensor = case(torch.tensor(scores.astype(dtype)), cost, weight)
    assert str(tensor.value.dtype) == str(tensor.gradient.dtype) == f"torch.{dtype}"


@every
def test_a_row_does_not_depend_on_the_rows_beside_it(case):
    """More rows than one block holds, the last block short."""
    scores, cost = sampled(case, 20_001)
    loss = case(scores, cost)
    rows = np.array([0, 1, 4095, 4096, 16_383, 16_384, 20_000])
    alone = [case(scores[row : row + 1], cost[row : row + 1]) for row in rows]
    assert np.array_equal(loss.value[rows], np.concatenate([one.value for one in alone]))
    assert np.array_equal(loss.gradient[rows], np.concatenate([one.gradient for one in alone]))
    strided = case(np.repeat(scores, 2, axis=0)[::2], np.asfortranarray(cost))
    assert np.array_equal(strided.value, loss.value)


@every
def test_a_weight_counts_equal_rows(case):
    scores, cost = sampled(case, 5)
    times = np.array([0, 1, 2, 3, 1])
    weighted = case(scores, cost, times)
    repeated = case(np.repeat(scores, times, axis=0), np.repeat(cost, times, axis=0))
    assert weighted.value.sum() == pytest.approx(repeated.value.sum(), rel=1e-12)
    np.testing.assert_allclose(weighted.gradient.sum(axis=0), repeated.gradient.sum(axis=0), rtol=1e-12, atol=1e-13)
    assert weighted.value[0] == 0
    assert not weighted.gradient[0].any()


TERMS = {
    "softmax_deferral": partial(losses.softmax_deferral, n_experts=2),
    "ova_deferral": partial(losses.ova_deferral, n_experts=2),
    "asymmetric_softmax_deferral": losses.asymmetric_softmax_deferral,
    "asymmetric_softmax_deferral, no expert": partial(losses.asymmetric_softmax_deferral, n_experts=0),
    "two_stage": losses.two_stage,
    "two_stage, mean_absolute_error": partial(losses.two_stage, comp_sum="mean_absolute_error"),
}


@pytest.mark.parametrize("name", TERMS)
def test_weights_of_terms(name):
    loss, rng = TERMS[name], np.random.default_rng(3)
    scores, cost, weight = rng.normal(size=(6, 5)), rng.random((6, 5)), rng.random((6, 5))
    row = weight[:, 0]
    # One weight in all columns is the weight of the sample, and 0 is an answer that is missing.
    alike = loss(scores, cost, weight=np.repeat(row[:, None], 5, axis=1))
    np.testing.assert_allclose(alike.value, loss(scores, cost, weight=row).value, rtol=1e-12)
    np.testing.assert_allclose(alike.gradient, loss(scores, cost, weight=row).gradient, rtol=1e-12, atol=1e-15)
    without, gap = np.ones((6, 5)), cost.copy()
    without[::2, 4], gap[::2, 4] = 0.0, np.nan
    if "no expert" not in name:
        np.testing.assert_allclose(loss(scores, cost, weight=without).value, loss(scores, gap).value, rtol=1e-12)
    for costs in (cost,) if "no expert" in name else (cost, gap):
        ours = loss(scores, costs, weight=weight)
        tensor = torch.tensor(scores, requires_grad=True)
        theirs = loss(tensor, torch.tensor(costs), weight=torch.tensor(weight))
        theirs.value.sum().backward()
        np.testing.assert_allclose(ours.value, theirs.value.detach().numpy(), rtol=1e-12)
        np.testing.assert_allclose(ours.gradient, tensor.grad.numpy(), atol=1e-12)
        steps = np.eye(5)[:, None, :] * STEP
        change = [
            (loss(scores + s, costs, weight=weight).value - loss(scores - s, costs, weight=weight).value) for s in steps
        ]
        np.testing.assert_allclose(ours.gradient, np.column_stack(change) / (2 * STEP), atol=1e-6)
    if "absolute" not in name and "asymmetric" not in name:
        vector = rng.normal(size=(6, 5))
        plus, minus = (loss(scores + sign * STEP * vector, cost, weight=weight).gradient for sign in (1, -1))
        product = loss(scores, cost, weight=weight).hessian_product(vector)
        np.testing.assert_allclose(product, (plus - minus) / (2 * STEP), atol=1e-6)


@pytest.mark.parametrize("case", [case for case in MATRICES if case.columns is None], ids=lambda case: case.name)
def test_permuted_classes_and_experts_permute_the_gradient(case):
    scores, cost = sampled(case, 50, m=5)
    classes = 5 - case.n_experts
    rng = np.random.default_rng(1)
    order = np.concatenate([rng.permutation(classes), classes + rng.permutation(case.n_experts)])
    plain, permuted = case(scores, cost), case(scores[:, order], cost[:, order])
    np.testing.assert_allclose(permuted.value, plain.value, rtol=1e-12)
    np.testing.assert_allclose(permuted.gradient, plain.gradient[:, order], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", [case for case in MATRICES if case.shift], ids=lambda case: case.name)
def test_a_constant_added_to_all_scores_changes_nothing(case):
    scores, cost = sampled(case, 50)
    plain, shifted = case(scores, cost), case(scores + np.linspace(-40, 40, 50)[:, None], cost)
    np.testing.assert_allclose(shifted.value, plain.value, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(plain.gradient.sum(axis=1), 0, atol=1e-11 * (1 + plain.value.max()))


@every
def test_convex_on_every_segment_or_not_on_some(case):
    rng = np.random.default_rng(2)
    _, cost = sampled(case, 4_000)
    left, right = (fit_to(case, 4 * rng.normal(size=(4_000, 4)), np.zeros((4_000, 4)))[0] for _ in range(2))
    middle = case((left + right) / 2, cost).value
    ends = (case(left, cost).value + case(right, cost).value) / 2
    above = middle - ends > 1e-9 * (1 + ends)
    assert above.any() != case.convex


@every
def test_lists_and_integers_are_read_as_float64(case):
    scores, cost = sampled(case, 3)
    whole = np.rint(scores).astype(int)
    loss = case.loss(whole.tolist(), case.data(cost).tolist())
    assert loss.value.dtype == np.float64
    assert np.array_equal(loss.value, case(whole.astype(float), cost).value)


@every
def test_no_rows_are_no_error(case):
    scores, cost = sampled(case, 3)
    loss = case(scores[:0], cost[:0])
    assert loss.value.shape == (0,)
    assert loss.gradient.shape == scores[:0].shape


@pytest.mark.parametrize("case", MATRICES, ids=lambda case: case.name)
def test_half_precision_tensors_are_raised_to_float32(case):
    scores, cost = sampled(case, 3)
    tensor = torch.tensor(scores, dtype=torch.bfloat16, requires_grad=True)
    loss = case(tensor, cost)
    assert loss.value.dtype == torch.float32
    (gradient,) = torch.autograd.grad(loss.value.sum(), tensor)
    assert gradient.dtype == torch.bfloat16
