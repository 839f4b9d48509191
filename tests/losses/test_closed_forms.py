"""Values against formulas written out plainly, and what belongs to one loss alone."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from defer import losses
from defer.exceptions import LossInputError
from defer.losses import COMP_SUMS, MARGINS, SURROGATES, deferral_cost

RNG = np.random.default_rng(0)
U = 2 * RNG.normal(size=(60, 5))
Y = RNG.integers(3, size=60)
OK = (RNG.random((60, 2)) < 0.5).astype(float)
COST = deferral_cost(Y, 1 - OK, n_classes=3)
PAIR = RNG.random((60, 2))
ONE = np.arange(60), Y


# --- margins


@pytest.mark.parametrize(
    ("name", "phi"),
    [
        ("logistic", lambda z: np.log1p(np.exp(-z))),
        ("exponential", lambda z: np.exp(-z)),
        ("hinge", lambda z: np.maximum(0, 1 - z)),
        ("squared_hinge", lambda z: np.maximum(0, 1 - z) ** 2),
        ("sigmoid", lambda z: 1 / (1 + np.exp(z))),
    ],
)
def test_margins(name, phi):
    target = np.where(OK[:, 0] > 0, 1, -1)
    assert MARGINS[name](U[:, 0], target).value == pytest.approx(phi(target * U[:, 0]), rel=1e-12)


def test_the_exponential_margin_is_continued_linearly():
    ends = losses.exponential_margin(np.array([-50.0, -51.0, -60.0]), np.ones(3))
    assert ends.value == pytest.approx(np.exp(50) * np.array([1.0, 2.0, 11.0]), rel=1e-12)
    assert ends.gradient == pytest.approx(-np.exp(50) * np.ones(3), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("logistic", lambda s: 1 / (1 + np.exp(-s))),
        ("exponential", lambda s: 1 / (1 + np.exp(-2 * s))),
        ("squared_hinge", lambda s: (1 + s) / 2),
    ],
)
def test_population_minimisers_of_margins(name, read):
    def function(s, share):
        loss = MARGINS[name](np.tile(s, 2), np.array([1, -1]), weight=np.array([share, 1 - share]))
        return loss.value.sum(), loss.gradient.sum(keepdims=True)

    for share in (0.1, 0.5, 0.8):
        found = minimize(function, [0.1], args=(share,), jac=True, method="BFGS", options={"gtol": 1e-10}).x[0]
        assert read(found) == pytest.approx(share, abs=1e-7)


# --- comp-sums


@pytest.mark.parametrize(
    ("loss", "psi"),
    [
        (losses.cross_entropy, lambda p: -np.log(p)),
        (partial(losses.generalized_cross_entropy, q=0.3), lambda p: (1 - p**0.3) / 0.3),
        (partial(losses.generalized_cross_entropy, q=0.0), lambda p: -np.log(p)),
        (losses.generalized_cross_entropy, lambda p: (1 - p**0.7) / 0.7),
        (losses.mean_absolute_error, lambda p: 1 - p),
        (losses.sum_exponential, lambda p: 1 / p - 1),
    ],
)
def test_comp_sums(loss, psi):
    p = softmax(U, axis=1)
    assert loss(U, Y).value == pytest.approx(psi(p[ONE]), rel=1e-10)
    weights = np.random.default_rng(1).random(U.shape)
    assert loss(U, weights).value == pytest.approx((weights * psi(p)).sum(axis=1), rel=1e-10)


@pytest.mark.parametrize("margin", ["exponential", "hinge", "squared_hinge", "logistic"])
def test_constrained(margin):
    u = U - U.mean(axis=1, keepdims=True)
    phi = MARGINS[margin](-u.ravel(), np.ones(u.size)).value.reshape(u.shape)
    assert losses.constrained(U, Y, margin=margin).value == pytest.approx(phi.sum(axis=1) - phi[ONE], rel=1e-12)


@pytest.mark.parametrize("name", COMP_SUMS)
def test_labels_are_one_hot_weights(name):
    hot = np.eye(5)[Y]
    assert np.array_equal(COMP_SUMS[name](U, Y).value, COMP_SUMS[name](U, hot).value)
    assert np.array_equal(COMP_SUMS[name](U, Y.astype(np.int16)).gradient, COMP_SUMS[name](U, hot).gradient)


@pytest.mark.parametrize(
    ("loss", "read"),
    [
        (losses.cross_entropy, lambda s: softmax(s)),
        (partial(losses.generalized_cross_entropy, q=0.5), lambda s: softmax(0.5 * np.log(softmax(s)))),
        (losses.sum_exponential, lambda s: softmax(2 * s)),
        (losses.constrained, lambda s: 1 - np.exp(-s) / np.exp(-s).sum() * 2),
    ],
    ids=["cross-entropy", "generalised", "sum-exponential", "constrained"],
)
def test_population_minimisers_of_comp_sums(loss, read):
    """Read-outs of the docstrings give the probabilities back (for the constrained loss: W - w, normalised)."""
    weights = np.array([[0.5, 0.3, 0.2]])

    def function(s):
        value = loss(s[None], weights)
        return value.value[0], value.gradient[0]

    found = minimize(function, np.array([0.1, 0.0, -0.1]), jac=True, method="BFGS", options={"gtol": 1e-10}).x
    assert read(found) == pytest.approx(weights[0], abs=1e-6)
    assert found.argmax() == 0


# --- single stage


def test_softmax_with_several_experts():
    logs = log_softmax(U, axis=1)
    expected = -logs[ONE] - (OK * logs[:, 3:]).sum(axis=1)
    assert losses.softmax_deferral(U, COST, n_experts=2).value == pytest.approx(expected, rel=1e-12)


def test_alpha():
    logs, ok = log_softmax(U[:, :4], axis=1), OK[:, 0]
    expected = -(0.25 * ok + 1 - ok) * logs[ONE] - ok * logs[:, 3]
    assert losses.softmax_deferral(U[:, :4], COST[:, :4], alpha=0.25).value == pytest.approx(expected, rel=1e-12)


def test_asymmetric_softmax():
    e, ok = np.exp(U[:, :4]), OK[:, 0]
    pi = e[:, :3] / e[:, :3].sum(axis=1, keepdims=True)
    psi = e[:, 3] / (e.sum(axis=1) - e[:, :3].max(axis=1))
    expected = -np.log(pi[ONE]) - ok * np.log(psi) - (1 - ok) * np.log(1 - psi)
    assert losses.asymmetric_softmax_deferral(U[:, :4], COST[:, :4]).value == pytest.approx(expected, rel=1e-10)
    readout = losses.asymmetric_softmax_readout(U[:, :4])
    assert readout.class_probability == pytest.approx(pi, rel=1e-12)
    assert readout.expert_probability[:, 0] == pytest.approx(psi, rel=1e-12)


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
def test_realizable(mix):
    s, ok = softmax(U[:, :4], axis=1), OK[:, 0]
    expected = -mix * np.log(s[ONE] + ok * s[:, 3]) - (1 - mix) * log_softmax(U[:, :3], axis=1)[ONE]
    assert losses.realizable_deferral(U[:, :4], COST[:, :4], mix=mix).value == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("q", [0.2, 0.7, 1.0])
def test_rl2d_with_any_cost_of_the_expert(q):
    s, c = softmax(U[:, :4], axis=1), PAIR[:, 0]
    expected = c * (1 - s[ONE] ** q) / q + (1 - c) * (1 - (s[ONE] + s[:, 3]) ** q) / q
    cost = deferral_cost(Y, c, n_classes=3)
    assert losses.rl2d_deferral(U[:, :4], cost, q).value == pytest.approx(expected, rel=1e-10)


def test_without_experts_the_mass_of_all_right_actions_counts():
    cost = np.random.default_rng(2).integers(2, size=(60, 5)).astype(float)
    mass = ((1 - cost) * softmax(U, axis=1)).sum(axis=1)
    some = mass > 0
    assert not some.all()
    value = losses.realizable_deferral(U, cost, n_experts=0).value
    assert value[some] == pytest.approx(-np.log(mass[some]), rel=1e-9, abs=1e-12)
    assert not value[~some].any()


@pytest.mark.parametrize("name", SURROGATES)
def test_rows_without_any_right_action_have_value_and_gradient_zero_or_are_learned_from(name):
    """All costs 1: no weight anywhere.  One-vs-all and the asymmetric softmax learn from it that every action is wrong."""
    loss = SURROGATES[name].loss(U[:2, :4], np.ones((2, 4)), n_experts=1)
    if name in ("ova", "asymmetric_softmax"):
        assert loss.value.min() > 0
    else:
        assert loss.value.tolist() == [0.0, 0.0]
        assert not loss.gradient.any()


def test_a_row_of_weight_zero_keeps_its_place():
    cost = np.array([[0.0, 1.0], [1.0, 1.0]])
    assert losses.two_stage(np.zeros((2, 2)), cost).value == pytest.approx([np.log(2), 0.0])


def test_experts_that_were_not_asked():
    missing = COST.copy()
    missing[::2, 4] = np.nan
    without = np.delete(missing, 4, axis=1)[::2], np.delete(U, 4, axis=1)[::2]
    ova = losses.ova_deferral(U, missing, n_experts=2)
    assert ova.value[::2] == pytest.approx(losses.ova_deferral(without[1], without[0]).value, rel=1e-12)
    assert not ova.gradient[::2, 4].any()
    as_wrong = np.where(np.isnan(missing), 1.0, missing)
    for loss in (losses.softmax_deferral, losses.realizable_deferral, losses.rl2d_deferral):
        n_experts = 2 if loss is losses.softmax_deferral else 1
        scores, given, same = (
            (U, missing, as_wrong)
            if n_experts == 2
            else (U[:, [0, 1, 2, 4]], missing[:, [0, 1, 2, 4]], as_wrong[:, [0, 1, 2, 4]])
        )
        assert np.array_equal(
            loss(scores, given, n_experts=n_experts).value, loss(scores, same, n_experts=n_experts).value
        )
        assert np.array_equal(
            loss(scores, given, n_experts=n_experts).gradient, loss(scores, same, n_experts=n_experts).gradient
        )
    asm = losses.asymmetric_softmax_deferral(U[:, [0, 1, 2, 4]], missing[:, [0, 1, 2, 4]])
    assert asm.value[::2] == pytest.approx(losses.cross_entropy(U[::2, :3], Y[::2]).value, rel=1e-12)
    assert not asm.gradient[::2, 3].any()
    every = losses.softmax_deferral(U[:, [0, 1, 2, 4]], missing[:, [0, 1, 2, 4]], alpha=0.5)
    assert every.value[::2] == pytest.approx(losses.cross_entropy(U[::2][:, [0, 1, 2, 4]], Y[::2]).value, rel=1e-12)


def test_agents_that_were_not_asked_are_left_out_of_the_first_weighting():
    cost = np.where(np.random.default_rng(3).random(U.shape) < 0.3, np.nan, 0.25)
    weights = np.where(np.isnan(cost), 0.0, 0.75)
    assert np.array_equal(losses.two_stage(U, cost).value, losses.cross_entropy(U, weights).value)
    hessian = losses.two_stage(U, cost).hessian_product(np.ones_like(U))
    assert np.abs(hessian).max() < 1e-12
    rescaled = losses.two_stage(U, 8 * cost, rescale=True)
    assert not rescaled.value.any()  # the largest cost becomes 1


def test_regression_without_the_expert():
    cost = np.array([[1.0, np.nan], [0.0, 0.5]])
    loss = losses.post_hoc_regression(np.array([[0.5, 9.0], [0.5, 1.0]]), cost)
    assert loss.value.tolist() == [0.25, 0.5]
    assert loss.gradient.tolist() == [[-1.0, 0.0], [1.0, 1.0]]
    assert loss.hessian_product(np.ones((2, 2))).tolist() == [[2.0, 0.0], [2.0, 2.0]]


def test_ties_of_classes_are_averaged_over_in_numpy_and_torch():
    torch = pytest.importorskip("torch")
    scores, cost = np.array([[1.0, 1.0, 0.0, 0.5]] * 2), deferral_cost([0, 2], [0.0, 1.0], n_classes=3)
    ours = losses.asymmetric_softmax_deferral(scores, cost)
    sides = [losses.asymmetric_softmax_deferral(scores + 1e-9 * np.eye(4)[k], cost).gradient for k in (0, 1)]
    assert ours.gradient == pytest.approx((sides[0] + sides[1]) / 2, abs=1e-8)
    tensor = torch.tensor(scores, requires_grad=True)
    (automatic,) = torch.autograd.grad(losses.asymmetric_softmax_deferral(tensor, cost).value.sum(), tensor)
    assert automatic.numpy() == pytest.approx(ours.gradient, abs=1e-12)


def test_cost_sensitive_weights():
    cost = 3 * np.random.default_rng(4).random(U.shape)
    logs = log_softmax(U, axis=1)
    for c_max, top in (("sample", cost.max(axis=1, keepdims=True)), ("bound", cost.max()), (5.0, 5.0)):
        expected = -((top - cost) * logs).sum(axis=1)
        assert losses.cost_sensitive_deferral(U, cost, c_max=c_max).value == pytest.approx(expected, rel=1e-12)


def test_on_zero_one_costs_the_cost_sensitive_form_is_the_softmax_surrogate():
    assert np.array_equal(
        losses.cost_sensitive_deferral(U, COST, n_experts=2).value, losses.softmax_deferral(U, COST, n_experts=2).value
    )


# --- costs of a problem


def test_deferral_cost():
    assert np.array_equal(COST[:, :3], 1 - np.eye(3)[Y])
    assert np.array_equal(COST[:, 3:], 1 - OK)
    assert np.array_equal(deferral_cost(Y, n_classes=4), 1 - np.eye(4)[Y])
    assert deferral_cost(Y, n_classes=3).dtype == np.float64
    assert deferral_cost(np.array([], dtype=int), np.empty((0, 2)), n_classes=3).shape == (0, 5)
    torch = pytest.importorskip("torch")
    assert np.array_equal(deferral_cost(torch.tensor(Y), torch.tensor(1 - OK), n_classes=3).numpy(), COST)


# --- read-outs and the table of surrogates


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_readouts_are_finite_at_wild_scores_and_keep_the_dtype(dtype):
    scores = (1e4 * np.random.default_rng(5).choice([-1.0, 0.0, 1.0], size=(200, 4))).astype(dtype)
    with np.errstate(all="raise", under="ignore"):
        for surrogate in SURROGATES.values():
            if surrogate.readout is not None:
                readout = surrogate.readout(scores, n_experts=1)
                assert np.isfinite(readout.class_probability).all()
                assert np.isfinite(readout.expert_probability).all()
                assert readout.class_probability.dtype == readout.expert_probability.dtype == dtype
                assert readout.class_probability.shape == (200, 3)
                assert readout.expert_probability.shape == (200, 1)


def test_readouts_of_tensors():
    torch = pytest.importorskip("torch")
    for surrogate in SURROGATES.values():
        if surrogate.readout is not None:
            ours, theirs = (surrogate.readout(one, n_experts=1) for one in (U, torch.tensor(U)))
            assert theirs.class_probability.numpy() == pytest.approx(ours.class_probability, rel=1e-12)
            assert theirs.expert_probability.numpy() == pytest.approx(ours.expert_probability, rel=1e-12)


@pytest.mark.parametrize("name", SURROGATES)
def test_surrogates_are_what_they_say(name):
    surrogate = SURROGATES[name]
    assert surrogate.name == name
    assert surrogate.source
    assert surrogate.note.endswith(".")
    several = partial(surrogate.loss, U, COST, n_experts=2, weight=np.ones(60))
    if surrogate.multi_expert:
        assert several().value.shape == (60,)
    else:
        with pytest.raises(LossInputError, match=r"one expert|at most 1 expert"):
            several()
    left, right = 4 * np.random.default_rng(6).normal(size=(2, 4000, 4))
    cost = deferral_cost(np.resize(Y, 4000), np.resize(1 - OK[:, 0], 4000), n_classes=3)
    value = partial(surrogate.loss, cost=cost, n_experts=1)
    above = value((left + right) / 2).value - (value(left).value + value(right).value) / 2 > 1e-9
    assert above.any() != surrogate.convex


# --- the package


def test_importing_the_losses_is_light():
    code = "import sys, defer.losses; print(sorted({'torch', 'sklearn', 'scipy', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_loss_value_says_what_it_is():
    assert repr(losses.ova_deferral(U, COST, n_experts=2)) == "LossValue(ova_deferral, n=60)"
    value = losses.ova_deferral(U, COST, n_experts=2)
    assert value.gradient is value.gradient
