"""Numbers of card [13]: post-hoc deferral.  Minimisers are found by optimisation of the losses themselves."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from defer.estimators import SingleStageDeferral
from defer.losses import cost_sensitive_deferral, deferral_cost, post_hoc_partial, post_hoc_regression, softmax_readout

OWN, EXPERT = np.array([0.4, 0.1, 0.3]), np.array([0.3, 0.25, 0.3])


def minimise_score(own, expert, margin="logistic"):
    """Population minimiser at every x, given the expected costs, by the loss's own gradient."""
    cost = np.column_stack([own, expert])

    def function(s):
        loss = post_hoc_partial(s, cost, margin=margin)
        return loss.value.sum(), loss.gradient

    return minimize(function, np.full(len(cost), 0.1), jac=True, method="BFGS", options={"gtol": 1e-11}).x


# --- item 1


def test_minimiser_of_the_partial_surrogate():
    s = minimise_score(OWN, EXPERT)
    assert 1 / (1 + np.exp(-s)) == pytest.approx([0.571429, 0.285714, 0.5], abs=1e-6)
    assert s == pytest.approx(np.log(OWN / EXPERT), abs=1e-7)
    assert (s > 1e-6).tolist() == [True, False, False]


@pytest.mark.parametrize("margin", ["logistic", "exponential", "squared_hinge"])
def test_sign_of_the_minimiser_is_the_bayes_rule(margin):
    rng = np.random.default_rng(0)
    own, expert = rng.uniform(0.01, 1.2, size=(2, 50))
    assert np.array_equal(minimise_score(own, expert, margin) > 0, own > expert)


def test_minimiser_is_that_of_the_expected_costs_when_they_are_random():
    rng = np.random.default_rng(0)
    cost, weight = rng.random((20, 2)) * [1.0, 1.3], rng.dirichlet(np.ones(20))

    def function(s):
        loss = post_hoc_partial(np.full(20, s[0]), cost, weight=weight)
        return loss.value.sum(), loss.gradient.sum(keepdims=True)

    found = minimize(function, [0.0], jac=True, method="BFGS", options={"gtol": 1e-11}).x[0]
    a, b = weight @ cost
    assert found == pytest.approx(np.log(a / b), abs=1e-7)


# --- item 2


def test_excess_deferral_risk_is_bounded():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.001, 1.2, size=(2, 100_000))
    s = np.log(a / b) + rng.normal(size=100_000) * rng.random(100_000)
    cost = np.column_stack([a, b])
    excess = post_hoc_partial(s, cost).value - post_hoc_partial(np.log(a / b), cost).value
    regret = np.where(s > 0, b, a) - np.minimum(a, b)
    wrong = regret > 1e-3
    ratio = regret[wrong] / np.sqrt(2 * (a + b)[wrong] * excess[wrong])
    assert wrong.sum() > 1000
    assert ratio.max() <= 1.0
    assert ratio.max() > 0.99


# --- item 3

ETA, RIGHT, PRICE = np.array([0.5, 0.3, 0.2]), np.array([0.9, 0.2, 0.1]), 0.2


def one_shot(eta, right, price):
    """Population weights of the one-shot loss at one x, found by optimisation, and its scores."""
    K = len(eta)
    y, ok = np.repeat(np.arange(K), 2), np.tile([1.0, 0.0], K)
    weight = np.column_stack([eta * right, eta * (1 - right)]).ravel()
    cost = deferral_cost(y, price + 1 - ok, n_classes=K)

    def function(u):
        loss = cost_sensitive_deferral(np.tile(u, (2 * K, 1)), cost, weight=weight)
        return loss.value.sum(), loss.gradient.sum(axis=0)

    return minimize(function, np.zeros(K + 1), jac=True, method="BFGS", options={"gtol": 1e-11}).x


def test_the_one_shot_loss_with_a_price_flattens_the_classes():
    u = one_shot(ETA, RIGHT, PRICE)
    weights = np.array([0.594, 0.394, 0.294, 0.424])
    assert np.exp(u) / np.exp(u).sum() == pytest.approx(weights / weights.sum(), abs=1e-7)
    assert softmax_readout(u[None]).class_probability[0] == pytest.approx([0.463339, 0.307332, 0.229329], abs=1e-6)
    assert u.argmax() == 0  # still the Bayes decision: .53 - .2 < .5


def test_without_a_price_the_one_shot_loss_reads_out_the_truth():
    assert softmax_readout(one_shot(ETA, RIGHT, 0.0)[None]).class_probability[0] == pytest.approx(ETA, abs=1e-6)


@pytest.mark.parametrize(("classes", "price", "share"), [(10, 0.2, 0.60), (10, 0.05, 0.30), (100, 0.2, 0.942857)])
def test_share_of_the_target_mass_on_wrong_labels(classes, price, share):
    """From the gradient at equal scores, which is W / m - w for weights w of sum W."""
    cost = deferral_cost([0], [1.0 + price], n_classes=classes)
    gradient = cost_sensitive_deferral(np.zeros((1, classes + 1)), cost).gradient[0]
    weights = gradient.max() - gradient  # the expert is wrong: its weight is 0
    assert weights[1:].sum() / weights.sum() == pytest.approx(share, abs=5e-7)


def test_the_partial_surrogate_smooths_nothing():
    """A model that is right gives its own term no weight, whatever the price and the number of classes."""
    loss = post_hoc_partial(np.array([0.0]), np.array([[0.0, 1.2]]))
    assert loss.value[0] == pytest.approx(1.2 * np.log(2))
    assert loss.gradient[0] == pytest.approx(0.6)


# --- item 5


def test_with_an_expert_of_constant_cost_it_is_chow_rule():
    """Calibrated confidence as the only feature: one score per level of confidence."""
    confidence, cost = np.linspace(0.41, 0.99, 30), 0.3
    s = minimise_score(1 - confidence, np.full(30, cost))
    assert np.array_equal(s > 0, confidence < 1 - cost)
    assert np.all(np.diff(s) < 0)


# --- the regression variant


def test_one_regression_serves_every_price():
    rng = np.random.default_rng(0)
    cost, weight = (rng.random((20, 2)) < [0.4, 0.2]).astype(float), rng.dirichlet(np.ones(20))

    def function(s):
        loss = post_hoc_regression(np.tile(s, (20, 1)), cost, weight=weight)
        return loss.value.sum(), loss.gradient.sum(axis=0)

    s = minimize(function, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-11}).x
    assert s == pytest.approx(weight @ cost, abs=1e-8)
    for price in (0.0, 0.1, 0.5):
        a, b = weight @ (cost + np.array([0.0, price]))
        assert (s[0] > s[1] + price) == (a > b)


# --- item 3, on a fitted estimator


def test_a_price_in_training_flattens_the_classes_of_a_fitted_router_and_not_its_decision():
    label, right = np.repeat([0, 1, 2], 2), np.tile([0, 1], 3)
    mass = np.repeat(ETA, 2) * np.where(right, np.repeat(RIGHT, 2), 1 - np.repeat(RIGHT, 2))
    expert = np.where(right, label, (label + 1) % 3)
    router = SingleStageDeferral(
        "cost_sensitive", costs="training", cost_weight=2.0, C=1e9, tol=1e-10, max_iter=5000
    ).fit(np.ones((6, 1)), label, experts=expert, cost=np.full(6, 0.1), sample_weight=mass)
    scores = router.scores([[1.0]])
    assert softmax_readout(scores, n_experts=1).class_probability[0] == pytest.approx(
        [0.463339, 0.307332, 0.229329], abs=1e-5
    )
    assert np.exp(scores[0, 3] - scores[0, 0]) == pytest.approx(0.424 / 0.594, abs=1e-5)
    assert router.predict([[1.0]]).tolist() == ["own"]
    free = SingleStageDeferral("cost_sensitive", C=1e9, tol=1e-10, max_iter=5000)
    free.fit(np.ones((6, 1)), label, experts=expert, sample_weight=mass)
    assert free.predict([[1.0]]).tolist() == ["expert"]  # .53 > .5
