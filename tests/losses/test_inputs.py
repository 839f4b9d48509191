"""Every message about wrong input, word by word."""

from __future__ import annotations

import re

import numpy as np
import pytest

from defer import losses
from defer.exceptions import CostRangeError, LossInputError

U, C, Y = np.zeros((3, 4)), np.full((3, 4), 0.5), np.array([0, 1, 2])
S = np.zeros(3)


def changed(array, *places):
    array = np.array(array, dtype=float)
    for *where, value in places:
        array[tuple(where)] = value
    return array


def raises(message, error=LossInputError):
    return pytest.raises(error, match=f"^{re.escape(message)}$")


def test_scores_that_are_not_finite():
    message = (
        "softmax_deferral: scores has 2 of 12 values that are not finite, the first in row 1, column 2 (nan). A model that diverged "
        "gives such scores."
    )
    with raises(message):
        losses.softmax_deferral(changed(U, (1, 2, np.nan), (2, 0, np.inf)), C)
    with raises(
        message.replace("2 of 12", "1 of 3")
        .replace("row 1, column 2 (nan)", "row 0 (-inf)")
        .replace("softmax_deferral", "hinge_margin")
    ):
        losses.hinge_margin(changed(S, (0, -np.inf)), np.ones(3))


def test_finite_scores_whose_sum_overflows_are_read():
    assert np.isfinite(losses.cross_entropy(np.full((3, 4), 1e308), Y).value).all()


def test_scores_of_another_kind_or_shape():
    with raises("cross_entropy: scores must have shape (n, m) with m >= 1, got (3,)"):
        losses.cross_entropy(S, Y)
    with raises("cross_entropy: scores must have shape (n, m) with m >= 1, got (3, 0)"):
        losses.cross_entropy(U[:, :0], Y)
    with raises("logistic_margin: scores must have shape (n,), got (3, 4)"):
        losses.logistic_margin(U, Y)
    with raises("cross_entropy: scores must be real numbers, got dtype <U1"):
        losses.cross_entropy(np.full((3, 4), "a"), Y)
    with raises("cross_entropy: scores must be real numbers, got dtype complex128"):
        losses.cross_entropy(U + 0j, Y)
    with raises(
        "post_hoc_regression: scores must have shape (n, 2), the own loss and the cost of deferring, got (3, 4)"
    ):
        losses.post_hoc_regression(U, C)


@pytest.mark.parametrize("kind", [str, object, "datetime64[s]"])
def test_text_and_dates_are_not_read_as_numbers(kind):
    numbers = np.full((3, 4), "0") if kind is object else np.zeros((3, 4), dtype=int)
    given = numbers.astype(kind)
    with raises(f"softmax_deferral: cost must be real numbers, got dtype {given.dtype}"):
        losses.softmax_deferral(U, given)
    with raises(f"softmax_deferral: scores must be real numbers, got dtype {given.dtype}"):
        losses.softmax_deferral(given, C)
    with raises(f"softmax_deferral: weight must be real numbers, got dtype {given.dtype}"):
        losses.softmax_deferral(U, C, weight=given[:, 0])


def test_a_sample_without_any_weight_costs_nothing_and_pulls_nowhere():
    given = {
        "softmax_deferral": np.ones((3, 4)), "two_stage": np.ones((3, 4)), "cost_sensitive_deferral": C,
        "realizable_deferral": np.ones((3, 4)), "rl2d_deferral": np.ones((3, 4)),
    }  # fmt: skip
    for name, cost in given.items():
        loss = getattr(losses, name)(U + 0.5, cost)
        assert [str(value) for value in loss.value] == ["0.0"] * 3, name  # and not -0.0
        assert not loss.gradient.any(), name
    for loss in losses.COMP_SUMS.values():
        assert [str(value) for value in loss(U + 0.5, np.zeros((3, 4))).value] == ["0.0"] * 3


def test_objects_that_are_numbers_are_read():
    assert losses.cross_entropy(U.astype(object), Y).value.dtype == np.float64


@pytest.mark.parametrize("loss", [losses.softmax_deferral, losses.ova_deferral, losses.rl2d_deferral])
def test_costs_outside_the_unit_interval_in_one_stage(loss):
    hint = (
        "Outside it a weight 1 - cost is negative and the surrogate is unbounded below; divide all costs by one constant, or use "
        "cost_sensitive_deferral, which takes any cost >= 0."
    )
    with raises(
        f"{loss.__name__}: cost has 2 of 12 values outside [0, 1], the first in row 0, column 3 (-0.1). {hint}",
        CostRangeError,
    ):
        loss(U, changed(C, (0, 3, -0.1), (2, 3, 1.5)))


def test_costs_outside_the_unit_interval_in_two_stages():
    cost = changed(C, (1, 2, 1.3))
    hint = (
        "Above 1 a weight 1 - cost is negative and the surrogate is unbounded below; rescale=True divides all costs by their "
        "maximum, which keeps every decision."
    )
    message = f"two_stage: cost has 1 of 12 values outside [0, 1], the first in row 1, column 2 (1.3). {hint}"
    for weighting in ("one_minus_cost", "cost_of_others"):
        with raises(message, CostRangeError):
            losses.two_stage(U, cost, weighting=weighting)
    with pytest.raises(
        CostRangeError, match=r"1 of 12 values below 0 or infinite, the first in row 0, column 0 \(-1\)"
    ):
        losses.two_stage(U, changed(cost, (0, 0, -1.0)), rescale=True)
    with pytest.raises(
        CostRangeError, match=r"1 of 12 values below 0 or infinite, the first in row 0, column 0 \(inf\)"
    ):
        losses.two_stage(U, changed(cost, (0, 0, np.inf)), rescale=True)
    message = (
        "predictor_rejector: cost has 1 of 6 values outside [0, 1], the first in row 1, column 0 (2). Divide all costs by one "
        "constant, which keeps every decision."
    )
    with raises(message, CostRangeError):
        losses.predictor_rejector(S, changed(C[:, :2], (1, 0, 2.0)))


def test_costs_below_zero_after_the_fact():
    message = (
        "post_hoc_partial: cost has 1 of 6 values below 0 or infinite, the first in row 2, column 1 (-0.5). Add one constant to both "
        "costs of a sample: the rule stays the same."
    )
    with raises(message, CostRangeError):
        losses.post_hoc_partial(S, changed(C[:, :2], (2, 1, -0.5)))
    message = (
        "cost_sensitive_deferral: cost has 1 of 12 values below 0 or infinite, the first in row 2, column 1 (-0.5). A cost is at least "
        "0; add a constant to all costs of a sample, which changes no decision."
    )
    with raises(message, CostRangeError):
        losses.cost_sensitive_deferral(U, changed(C, (2, 1, -0.5)))
    message = (
        "cost_sensitive_deferral: cost has 1 of 12 values outside [0, 2], the first in row 2, column 1 (3). c_max as a number must be "
        "an upper bound of all costs."
    )
    with raises(message, CostRangeError):
        losses.cost_sensitive_deferral(U, changed(C, (2, 1, 3)), c_max=2.0)
    with raises(
        "post_hoc_regression: cost has 1 of 6 values that are infinite, the first in row 0, column 1 (inf)",
        CostRangeError,
    ):
        losses.post_hoc_regression(U[:, :2], changed(C[:, :2], (0, 1, np.inf)))


def test_nan_where_none_may_stand():
    rule = "values that are NaN where none may stand, the first in row 1, column 2 (nan)."
    cost = changed(C, (1, 2, np.nan), (1, 3, np.nan))
    with raises(f"ova_deferral: cost has 1 of 12 {rule} NaN means that an expert was not asked."):
        losses.ova_deferral(U, cost)
    assert np.isfinite(losses.ova_deferral(U, cost, n_experts=2).value).all()
    for loss, options in (
        (losses.two_stage, {"weighting": "cost_of_others"}),
        (losses.cost_sensitive_deferral, {}),
        (losses.ova_deferral, {"n_experts": 0}),
    ):
        with raises(f"{loss.__name__}: cost has 2 of 12 {rule} Every action needs its cost here."):
            loss(U, cost, **options)
    with pytest.raises(LossInputError, match="Every action needs its cost here"):
        losses.post_hoc_partial(S, changed(C[:, :2], (0, 1, np.nan)))
    with pytest.raises(LossInputError, match="NaN means that an expert was not asked"):
        losses.post_hoc_regression(U[:, :2], changed(C[:, :2], (0, 0, np.nan)))


def test_a_range_is_checked_beside_missing_costs():
    with pytest.raises(
        CostRangeError, match=r"cost has 1 of 12 values outside \[0, 1\], the first in row 2, column 0 \(1.5\)"
    ):
        losses.two_stage(U, changed(C, (1, 2, np.nan), (2, 0, 1.5)))


def test_shapes_of_costs():
    rest = "one row per sample and one column per action"
    with raises(f"softmax_deferral: cost has shape (3, 5) and scores (3, 4); cost needs shape (3, 4), {rest}"):
        losses.softmax_deferral(U, np.zeros((3, 5)))
    with raises(f"post_hoc_partial: cost has shape (3, 4) and scores (3,); cost needs shape (3, 2), {rest}"):
        losses.post_hoc_partial(S, C)


def test_weights_of_samples():
    with raises("cross_entropy: weight has shape (2,); it needs (3,), one number per sample"):
        losses.cross_entropy(U, Y, weight=np.ones(2))
    message = (
        "cross_entropy: weight has 2 of 3 values that are negative or not finite, the first in row 1 (-0.5). A weight of 0 leaves a "
        "sample out."
    )
    with raises(message):
        losses.cross_entropy(U, Y, weight=[1, -0.5, np.nan])


def test_weights_of_terms():
    with raises(
        "ova_deferral: weight has shape (3, 3); it needs (3,), one number per sample, or (3, 4), one per sample and action"
    ):
        losses.ova_deferral(U, C, weight=np.ones((3, 3)))
    with raises(
        "two_stage: weight has 1 of 12 values that are negative or not finite, the first in row 2, column 1 (-1). A weight of 0 "
        "leaves a term out."
    ):
        losses.two_stage(U, C, weight=np.where(np.arange(12).reshape(3, 4) == 9, -1.0, 1.0))
    with raises(
        "two_stage: weight of shape (3, 4) needs weighting='one_minus_cost', because the weights of the other form are sums over "
        "several answers; give weights of shape (n,)"
    ):
        losses.two_stage(U, C, weight=np.ones((3, 4)), weighting="cost_of_others")


def test_targets_of_comp_sums():
    with raises(
        "cross_entropy: target has 1 of 3 values outside 0..3, the first in row 1 (4). A label is the index of a column of the scores."
    ):
        losses.cross_entropy(U, [0, 4, 2])
    with raises(
        "cross_entropy: target of shape (3,) must be integer labels, got dtype float64; weights per class have shape (3, 4)"
    ):
        losses.cross_entropy(U, Y + 0.0)
    with raises(
        "cross_entropy: target has shape (3, 3); it needs (3,) integer labels or (3, 4) weights per class, because scores have that "
        "shape"
    ):
        losses.cross_entropy(U, C[:, :3])
    with raises(
        "cross_entropy: target has 1 of 12 values that are negative or not finite, the first in row 0, column 1 (-1). A class that is "
        "not wanted has weight 0; a cost c in [0, 1] becomes the weight 1 - c."
    ):
        losses.cross_entropy(U, changed(C, (0, 1, -1)))
    with raises("cross_entropy: target must be real numbers, got dtype <U3"):
        losses.cross_entropy(U, ["cat", "dog", "cat"])


def test_targets_of_margins():
    with raises(
        "hinge_margin: target has 2 of 3 values other than -1 and +1, the first in row 0 (0). A target is the wanted sign of the score."
    ):
        losses.hinge_margin(S, [0, 1, 0])
    with raises("hinge_margin: target has shape (2,) and scores (3,)"):
        losses.hinge_margin(S, [1, 1])


def test_options():
    with raises("generalized_cross_entropy: q must lie in [0, 1], got 1.5"):
        losses.generalized_cross_entropy(U, Y, q=1.5)
    with raises("rl2d_deferral: q must lie in [0, 1], got -1"):
        losses.rl2d_deferral(U, C, -1)
    with raises("realizable_deferral: mix must lie in [0, 1], got nan"):
        losses.realizable_deferral(U, C, mix=np.nan)
    with raises("softmax_deferral: alpha must lie in [0, 1], got 2"):
        losses.softmax_deferral(U, C, alpha=2)
    with raises("softmax_deferral: alpha must lie in [0, 1], got 'x'"):
        losses.softmax_deferral(U, C, alpha="x")
    with raises("softmax_deferral: alpha other than 1 is defined for one expert, got alpha=0.5 with n_experts=2"):
        losses.softmax_deferral(U, C, alpha=0.5, n_experts=2)
    margins = "'logistic', 'exponential', 'hinge', 'squared_hinge', 'sigmoid'"
    for loss, scores, cost in (
        (losses.constrained, U, C), (losses.predictor_rejector, S, C[:, :2]), (losses.post_hoc_partial, S, C[:, :2]),
    ):  # fmt: skip
        with raises(f"{loss.__name__}: margin must be one of {margins}, got 'probit'"):
            loss(scores, cost, margin="probit")
    names = "'cross_entropy', 'generalized_cross_entropy', 'mean_absolute_error', 'sum_exponential', 'constrained'"
    for loss in (losses.two_stage, losses.cost_sensitive_deferral):
        with raises(f"{loss.__name__}: comp_sum must be one of {names}, got 'log'"):
            loss(U, C, comp_sum="log")
    with raises("two_stage: weighting must be one of 'one_minus_cost', 'cost_of_others', got 'S1'"):
        losses.two_stage(U, C, weighting="S1")
    with raises("cost_sensitive_deferral: c_max must be one of 'sample', 'bound', got 'largest'"):
        losses.cost_sensitive_deferral(U, C, c_max="largest")
    with raises("cost_sensitive_deferral: c_max must be 'sample', 'bound' or a number >= 0, got -1.0"):
        losses.cost_sensitive_deferral(U, C, c_max=-1.0)
    with raises("cost_sensitive_deferral: c_max must be 'sample', 'bound' or a number >= 0, got None"):
        losses.cost_sensitive_deferral(U, C, c_max=None)


def test_numbers_of_experts():
    for wrong in (-1, 4, 0.5, None, True):
        with raises(
            "ova_deferral: n_experts must be an integer from 0 to 3, because scores have 4 columns and at least one is a class, got "
            f"{wrong}"
        ):
            losses.ova_deferral(U, C, n_experts=wrong)
    for loss in (losses.asymmetric_softmax_deferral, losses.realizable_deferral, losses.rl2d_deferral):
        with raises(
            f"{loss.__name__}: takes at most 1 expert, got n_experts=2; softmax_deferral, ova_deferral and cost_sensitive_deferral take "
            "several"
        ):
            loss(U, C, n_experts=2)
    with raises("asymmetric_softmax_deferral: needs at least two classes, got 1: with one class psi is always 1"):
        losses.asymmetric_softmax_deferral(U[:, :2], C[:, :2])
    with raises("asymmetric_softmax_readout: needs at least two classes, got 1: with one class psi is always 1"):
        losses.asymmetric_softmax_readout(U[:, :2])


def test_hessian_products():
    with raises(
        "realizable_deferral: has no cheap Hessian product; take differences of `gradient`, or a method that needs gradients only, "
        "such as L-BFGS"
    ):
        losses.realizable_deferral(U, C).hessian_product(U)
    with raises("ova_deferral: vector has shape (3, 3); it needs that of the scores, (3, 4)"):
        losses.ova_deferral(U, C).hessian_product(U[:, :3])
    with raises("ova_deferral: vector must be real numbers, got dtype <U1"):
        losses.ova_deferral(U, C).hessian_product("a")
    listed = losses.ova_deferral(U, C).hessian_product((U + 1.0).tolist())
    np.testing.assert_array_equal(listed, losses.ova_deferral(U, C).hessian_product(U + 1.0))


def test_labels_and_costs_of_a_deferral_problem():
    with raises("deferral_cost: y must be integer codes of shape (n,), got dtype float64 and shape (3,)"):
        losses.deferral_cost(Y + 0.0, n_classes=3)
    with raises("deferral_cost: y must be integer codes of shape (n,), got dtype int64 and shape (1, 3)"):
        losses.deferral_cost(Y[None], n_classes=3)
    with raises("deferral_cost: y holds 0 to 2; codes of 2 classes go from 0 to 1"):
        losses.deferral_cost(Y, n_classes=2)
    with raises("deferral_cost: expert_cost has shape (2, 1); it needs (3, J), one row per label"):
        losses.deferral_cost(Y, [0.1, 0.2], n_classes=3)
    with raises("deferral_cost: expert_cost must be real numbers, got dtype <U3"):
        losses.deferral_cost(Y, ["0.1", "0.2", "0.3"], n_classes=3)
    for wrong in (0, 2.5, "3", True):
        with raises(f"deferral_cost: n_classes must be an integer >= 1, got {wrong!r}"):
            losses.deferral_cost(Y, n_classes=wrong)


def test_the_same_messages_for_tensors():
    torch = pytest.importorskip("torch")
    scores = torch.zeros((3, 4), requires_grad=True)
    with pytest.raises(
        CostRangeError, match=r"cost has 1 of 12 values outside \[0, 1\], the first in row 1, column 2 \(1.3\)"
    ):
        losses.two_stage(scores, torch.tensor(changed(C, (1, 2, 1.3))))
    with pytest.raises(
        LossInputError, match=r"scores has 1 of 12 values that are not finite, the first in row 1, column 2 \(nan\)"
    ):
        losses.two_stage(torch.tensor(changed(U, (1, 2, np.nan))), C)
    with pytest.raises(LossInputError, match=r"target has 1 of 3 values outside 0\.\.3"):
        losses.cross_entropy(scores, torch.tensor([0, 9, 1]))
    with raises("cross_entropy: scores must be real numbers, got dtype torch.complex64"):
        losses.cross_entropy(torch.zeros((3, 4), dtype=torch.complex64), Y)
