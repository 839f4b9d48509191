"""Numbers of card x1: single-stage surrogates, one expert.  Minimisers are found by optimisation of the losses themselves."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from defer.datasets import DeferralProblem
from defer.losses import (
    SURROGATES,
    asymmetric_softmax_deferral,
    asymmetric_softmax_readout,
    cost_sensitive_deferral,
    cross_entropy,
    deferral_cost,
    ova_deferral,
    ova_readout,
    realizable_deferral,
    rl2d_deferral,
    softmax_deferral,
    softmax_readout,
)

ETA, RIGHT = np.array([0.5, 0.3, 0.2]), np.array([0.9, 0.2, 0.1])


def softmax(u):
    e = np.exp(u - u.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def population(eta, right):
    """Costs and probabilities of the 2 K outcomes at one x: the class, and whether the expert is right."""
    eta, right = np.asarray(eta), np.asarray(right)
    y = np.repeat(np.arange(len(eta)), 2)
    ok = np.tile([1.0, 0.0], len(eta))
    weight = np.column_stack([eta * right, eta * (1 - right)]).ravel()
    return deferral_cost(y, 1 - ok, n_classes=len(eta)), weight


def risk(loss, eta, right, **options):
    """The expected loss at one x and its gradient, as functions of the scores."""
    cost, weight = population(eta, right)

    def function(u):
        result = loss(np.tile(u, (len(cost), 1)), cost, weight=weight, **options)
        return result.value.sum(), result.gradient.sum(axis=0)

    return function


def minimise(function, m, seed=0, scale=1.0):
    start = scale * np.random.default_rng(seed).normal(size=m)
    return minimize(function, start, jac=True, method="BFGS", options={"gtol": 1e-11, "maxiter": 3000})


def defers(u):
    """Defer where the last score is the strict maximum."""
    return u[..., -1] > u[..., :-1].max(axis=-1)


# --- item 1


@pytest.mark.parametrize(
    ("loss", "options", "right", "wrong"),
    [
        (softmax_deferral, {}, 1.880379, 1.440190),
        (softmax_deferral, {"alpha": 0.5}, 1.160285, 1.440190),
        (ova_deferral, {}, 1.446599, 3.446599),
        (asymmetric_softmax_deferral, {}, 0.577452, 2.264190),
        (realizable_deferral, {}, 0.126928, 1.440190),
        (rl2d_deferral, {"q": 0.0}, 0.126928, 1.440190),
        (rl2d_deferral, {"q": 1.0}, 0.119203, 0.763117),
    ],
)
def test_values_of_one_sample(loss, options, right, wrong):
    scores = np.array([[1.0, 0.0, -1.0, 2.0]] * 2)
    values = loss(scores, deferral_cost([0, 0], [0.0, 1.0], n_classes=3), **options).value
    assert values == pytest.approx([right, wrong], abs=5e-7)


def test_readouts_of_one_sample():
    scores = np.array([[1.0, 0.0, -1.0, 2.0]])
    assert asymmetric_softmax_readout(scores).expert_probability[0, 0] == pytest.approx(0.843795, abs=5e-7)
    assert softmax_readout(scores).expert_probability[0, 0] == pytest.approx(1.808312, abs=5e-7)
    assert SURROGATES["realizable"].readout is None
    assert SURROGATES["rl2d"].readout is None


# --- item 2


def test_population_minimiser_of_the_softmax():
    found = minimise(risk(softmax_deferral, ETA, RIGHT), 4)
    assert found.fun == pytest.approx(2.016798, abs=5e-7)
    assert softmax(found.x) == pytest.approx([0.326797, 0.196078, 0.130719, 0.346405], abs=1e-6)
    assert softmax(found.x) == pytest.approx(np.append(ETA, 0.53) / 1.53, abs=1e-7)
    readout = softmax_readout(found.x[None])
    assert readout.expert_probability[0, 0] == pytest.approx(0.53, abs=1e-6)
    assert readout.class_probability[0] == pytest.approx(ETA, abs=1e-6)
    assert defers(found.x)


def test_population_minimiser_of_one_vs_all():
    found = minimise(risk(ova_deferral, ETA, RIGHT), 4)
    assert found.fun == pytest.approx(2.495760, abs=5e-7)
    readout = ova_readout(found.x[None])
    assert readout.class_probability[0] == pytest.approx(ETA, abs=1e-6)
    assert readout.expert_probability[0, 0] == pytest.approx(0.53, abs=1e-6)


def test_population_minimiser_of_the_asymmetric_softmax():
    found = minimise(risk(asymmetric_softmax_deferral, ETA, RIGHT), 4)
    assert found.fun == pytest.approx(1.720999, abs=5e-7)
    readout = asymmetric_softmax_readout(found.x[None])
    assert readout.class_probability[0] == pytest.approx(ETA, abs=1e-6)
    assert readout.expert_probability[0, 0] == pytest.approx(0.53, abs=1e-6)


@pytest.mark.parametrize("name", [name for name, one in SURROGATES.items() if one.bayes_consistent])
def test_consistent_surrogates_decide_as_the_bayes_rule_everywhere(name):
    rng = np.random.default_rng(0)
    for _ in range(25):
        eta, right = rng.dirichlet(np.ones(3)), rng.random(3)
        p = eta @ right
        if abs(p - eta.max()) < 0.02:
            continue
        found = minimise(risk(SURROGATES[name].loss, eta, right), 4)
        assert defers(found.x) == (p > eta.max())
        assert found.x[:3].argmax() == eta.argmax()


# --- item 3


def test_alpha_below_one_defers_too_much():
    eta, right = ETA, np.array([0.8, 0.05, 0.05])
    p = eta @ right
    assert p == pytest.approx(0.425)
    assert p < eta.max()
    weights = np.array([0.3, 0.2925, 0.195, 0.425])
    found = minimise(risk(softmax_deferral, eta, right, alpha=0.5), 4)
    assert softmax(found.x) * weights.sum() == pytest.approx(weights, abs=1e-6)
    assert defers(found.x)
    assert not defers(minimise(risk(softmax_deferral, eta, right), 4).x)


# --- item 4: five equally likely points, scores linear in x with bias

X = np.array([2.0, 0.0, 4.0, 3.0, -3.0])
POINTS = deferral_cost([0, 1, 0, 0, 0], 1.0 - np.array([0.0, 0.0, 1.0, 0.0, 1.0]), n_classes=2)
DESIGN = np.column_stack([X, np.ones(5)])


def linear(loss):
    def function(theta):
        result = loss(DESIGN @ theta.reshape(2, 3), POINTS)
        return result.value.mean(), (DESIGN.T @ result.gradient / 5).ravel()

    return function


def error(theta):
    """Mean deferral loss of the argmax rule, ties to the first column."""
    return POINTS[np.arange(5), (DESIGN @ theta.reshape(2, 3)).argmax(axis=1)].mean()


def linear_hessian(loss, theta):
    result = loss(DESIGN @ theta.reshape(2, 3), POINTS)
    products = [result.hessian_product(DESIGN @ step.reshape(2, 3)) for step in np.eye(6)]
    return np.array([(DESIGN.T @ product / 5).ravel() for product in products])


def test_zero_loss_is_reached_by_lines():
    # Points 2 and 3 and 4 to class 0 (slope 1), the point 0 to class 1, the point -3 to the expert (slope -1).
    lines = np.array([[1.0, 0.0, -1.0], [-1.0, 0.0, -1.0]]).ravel()
    assert (DESIGN @ lines.reshape(2, 3)).argmax(axis=1).tolist() == [0, 1, 0, 0, 2]
    assert error(lines) == 0.0


@pytest.mark.parametrize(
    ("loss", "optimum", "flat"), [(softmax_deferral, 1.306731, 2), (ova_deferral, 1.591188, 0)], ids=["softmax", "ova"]
)
def test_convex_surrogates_miss_what_is_realizable(loss, optimum, flat):
    found = [minimise(linear(loss), 6, seed, scale=2.0) for seed in range(5)]
    for one in found:
        assert one.fun == pytest.approx(optimum, abs=5e-7)
        assert error(one.x) == pytest.approx(0.2)
        assert np.abs(linear(loss)(one.x)[1]).max() < 1e-8
    # Unique but for a line added to all scores of the softmax: the Hessian has no other flat direction.
    eigenvalues = np.linalg.eigvalsh(linear_hessian(loss, found[0].x))
    assert np.abs(eigenvalues[:flat]).max(initial=0.0) < 1e-10
    assert eigenvalues[flat] > 1e-4


def test_the_softmax_decides_class_0_everywhere():
    theta = minimise(linear(softmax_deferral), 6).x
    assert (DESIGN @ theta.reshape(2, 3)).argmax(axis=1).tolist() == [0] * 5


def test_the_realizable_surrogate_reaches_zero_from_zero_and_from_random_starts():
    rng = np.random.default_rng(0)
    for start in [np.zeros(6), *rng.normal(size=(30, 6))]:
        found = minimize(
            linear(realizable_deferral), start, jac=True, method="BFGS", options={"gtol": 1e-10, "maxiter": 5000}
        )
        assert found.fun < 2e-9
        assert error(found.x) == 0.0


# --- item 5


def test_the_realizable_surrogate_predicts_where_bayes_defers():
    found = minimise(risk(realizable_deferral, [0.5, 0.5], [0.6, 0.6]), 3)
    assert softmax(found.x) == pytest.approx([0.4, 0.4, 0.2], abs=1e-5)
    assert not defers(found.x)
    found = minimise(risk(realizable_deferral, ETA, RIGHT), 4)
    assert softmax(found.x) == pytest.approx([0.3028, 0.2721, 0.1889, 0.2361], abs=1e-4)
    assert not defers(found.x)
    assert np.dot(ETA, RIGHT) > ETA.max()


def test_with_a_deterministic_expert_the_minimiser_is_a_set():
    function = risk(realizable_deferral, ETA, [1.0, 0.0, 0.0])
    best = minimise(function, 4).fun
    for share in (0.0001, 0.25, 0.4999):
        value, gradient = function(np.log([share, 0.3, 0.2, 0.5 - share]))
        assert value == pytest.approx(best, abs=1e-9)
        assert np.abs(gradient).max() < 1e-9
    symmetric = np.log([0.25, 0.3, 0.2, 0.25])
    assert function(symmetric)[0] == pytest.approx(best, abs=1e-9)
    one_query = DeferralProblem(
        X=[[0.0]], y=[0], experts=[[0]], expert_names=("first",), cost=[0.0], class_probability=[ETA],
        expert_probability=[[ETA[0]]],
    )  # fmt: skip
    assert not defers(symmetric)
    regret = one_query.regret([0], own_label=[int(symmetric[:3].argmax())])
    assert regret + one_query.bayes_risk == pytest.approx([0.7])
    assert one_query.bayes_risk == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("eta", "right"),
    [([0.5, 0.5], [0.6, 0.6]), (ETA, RIGHT), (ETA, [1.0, 0.0, 0.0])],
    ids=["two classes", "item 2", "deterministic"],
)
def test_the_mean_absolute_type_picks_a_bayes_action(eta, right):
    values = np.append(eta, np.dot(eta, right))
    for seed in range(5):
        found = minimise(risk(rl2d_deferral, eta, right, q=1.0), len(values), seed)
        assert found.fun == pytest.approx(1 - values.max(), abs=1e-5)
        assert values[found.x.argmax()] == pytest.approx(values.max())


def test_q_between_defers_in_two_cases():
    assert defers(minimise(risk(rl2d_deferral, [0.5, 0.5], [0.6, 0.6], q=0.7), 3).x)
    for q in (0.3, 0.7, 0.9):
        least = 2 ** (1 - q) / (1 + 2 ** (1 - q))
        for p, expected in ((least - 0.005, False), (least + 0.005, True)):
            assert defers(minimise(risk(rl2d_deferral, [0.5, 0.5], [p, p], q=q), 3).x) == expected
    assert defers(minimise(risk(rl2d_deferral, ETA, RIGHT, q=0.7), 4).x)


# --- item 6


def test_the_asymmetric_softmax_preserves_the_order():
    scores = 2 * np.random.default_rng(0).normal(size=(100_000, 5))
    readout = asymmetric_softmax_readout(scores)
    above = readout.expert_probability[:, 0] > readout.class_probability.max(axis=1)
    assert np.array_equal(above, defers(scores))
    assert readout.expert_probability.max() < 1


# --- item 7


def test_one_vs_all_separates_and_the_softmax_couples():
    rng = np.random.default_rng(0)
    scores, cost = rng.normal(size=(50, 4)), deferral_cost(rng.integers(3, size=50), rng.random(50), n_classes=3)
    moved = scores + np.array([1.0, -2.0, 0.5, 0.0])
    apart = ova_deferral(scores, cost).gradient[:, -1] - ova_deferral(moved, cost).gradient[:, -1]
    assert not apart.any()
    coupled = softmax_deferral(scores, cost).gradient[:, -1] - softmax_deferral(moved, cost).gradient[:, -1]
    assert np.abs(coupled).min() > 1e-3
    alone = ova_deferral(scores[:, -1:], cost[:, -1:], n_experts=0).value
    assert ova_deferral(scores[:, :-1], cost[:, :-1], n_experts=0).value + alone == pytest.approx(
        ova_deferral(scores, cost).value, rel=1e-12
    )


# --- item 8


def test_with_an_expert_that_is_never_right_the_class_parts_remain():
    rng = np.random.default_rng(0)
    u, y = rng.normal(size=(50, 3)), rng.integers(3, size=50)
    scores, cost = np.column_stack([u, np.full(50, -1e4)]), deferral_cost(y, np.ones(50), n_classes=3)
    plain = cross_entropy(u, y).value
    assert softmax_deferral(scores, cost).value == pytest.approx(plain, rel=1e-12)
    assert asymmetric_softmax_deferral(scores, cost).value == pytest.approx(plain, rel=1e-12)
    one_vs_all = ova_deferral(u, deferral_cost(y, n_classes=3), n_experts=0).value
    assert ova_deferral(scores, cost).value == pytest.approx(one_vs_all, rel=1e-12)
    for loss in (softmax_deferral, ova_deferral, asymmetric_softmax_deferral):
        assert (
            loss(scores + np.array([0, 0, 0, 1e4]), cost).gradient[:, -1].min() > 0
        )  # the deferral score falls for ever


def test_with_an_expert_that_is_always_right_half_the_softmax_defers():
    found = minimise(risk(softmax_deferral, ETA, np.ones(3)), 4)
    assert softmax(found.x) == pytest.approx(np.append(ETA / 2, 0.5), abs=1e-7)
    assert defers(found.x)


def test_gradient_of_the_softmax_at_the_optimum():
    function = risk(softmax_deferral, ETA, RIGHT)
    u = np.array([0.3, -0.2, 0.5, 0.1])
    assert function(u)[1] == pytest.approx(1.53 * softmax(u) - np.append(ETA, 0.53), abs=1e-14)
    assert function(np.log(np.append(ETA, 0.53)))[1] == pytest.approx(np.zeros(4), abs=1e-14)


# --- item 9


def test_excess_deferral_risk_is_bounded_by_the_excess_of_the_softmax():
    rng = np.random.default_rng(0)
    n, K = 20_000, 3
    eta, right = rng.dirichlet(np.ones(K), size=n), rng.random((n, K))
    p = (eta * right).sum(axis=1)
    values = np.column_stack([eta, p])
    best = np.log(values)
    scores = best + rng.normal(size=(n, K + 1)) * rng.random((n, 1))
    # In expectation over the label and the expert the costs become 1 - (eta, p).
    excess = softmax_deferral(scores, 1 - values).value - softmax_deferral(best, 1 - values).value
    action = np.where(defers(scores), K, scores[:, :K].argmax(axis=1))
    regret = values.max(axis=1) - values[np.arange(n), action]
    assert (regret > 0).sum() > 1000
    assert np.all(regret <= np.sqrt(2 * (1 + p) * np.maximum(excess, 0)) + 1e-12)


def test_the_constant_of_that_bound_cannot_be_smaller():
    """Two classes that are almost equal, and scores that just decide for the worse."""
    gap, p = np.array([0.1, 0.03, 0.01]), 1e-4
    values = np.column_stack([0.5 + gap, 0.5 - gap, np.full(3, p)])
    scores = np.log(np.tile([0.5, 0.5, p], (3, 1)))
    scores[:, 1] += 1e-12
    excess = softmax_deferral(scores, 1 - values).value - softmax_deferral(np.log(values), 1 - values).value
    ratio = 2 * gap / np.sqrt(2 * (1 + p) * excess)
    # The excess is near 2 gap^2: the ratio tends to (1 + p)^(-1/2).
    assert ratio[-1] == pytest.approx(1.0, abs=2e-4)


# --- item 10


def test_one_vs_all_pushes_the_deferral_score_down_where_the_expert_is_wrong():
    scores, cost = np.zeros((1, 4)), deferral_cost([0], [1.0], n_classes=3)
    assert ova_deferral(scores, cost).gradient[0, -1] == pytest.approx(0.5)
    dropped = cost.copy()
    dropped[0, -1] = np.nan
    assert ova_deferral(scores, dropped).gradient[0, -1] == 0  # what the wrong sign would leave: every x is deferred


# --- card x3, cost-sensitive form


@pytest.mark.parametrize("bound", ["sample", "bound", 3.0])
def test_every_bound_of_the_costs_gives_the_bayes_rule(bound):
    rng = np.random.default_rng(0)
    for _ in range(20):
        cost, weight = 2 * rng.random((6, 4)), rng.dirichlet(np.ones(6))

        def function(u, cost=cost, weight=weight):
            loss = cost_sensitive_deferral(np.tile(u, (6, 1)), cost, weight=weight, c_max=bound)
            return loss.value.sum(), loss.gradient.sum(axis=0)

        found = minimise(function, 4)
        expected = weight @ cost
        gap = {"sample": weight @ cost.max(axis=1), "bound": cost.max(), 3.0: 3.0}[bound] - expected
        assert softmax(found.x) == pytest.approx(gap / gap.sum(), abs=1e-6)
        assert found.x.argmax() == expected.argmin()
