"""Numbers of card x2: single-stage losses for several experts.  Minimisers are found by optimisation of the losses themselves."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.optimize import minimize

from defer.losses import deferral_cost, ova_deferral, ova_readout, softmax_deferral, softmax_readout

ETA, P = np.array([0.5, 0.3, 0.2]), np.array([0.6, 0.4])


def softmax(u):
    return np.exp(u) / np.exp(u).sum()


def minimise(loss, eta, p, price=0.0):
    """Minimiser over the labels and over which experts are right (independently), at one x."""
    rows = list(product(range(len(eta)), *[(1, 0)] * len(p)))
    y, ok = np.array(rows)[:, 0], np.array(rows)[:, 1:]
    weight = eta[y] * np.where(ok, p, 1 - p).prod(axis=1)
    cost = deferral_cost(y, (1 - ok) * (1 - np.asarray(price)) + price, n_classes=len(eta))

    def function(u):
        result = loss(np.tile(u, (len(y), 1)), cost, n_experts=len(p), weight=weight)
        return result.value.sum(), result.gradient.sum(axis=0)

    start = np.zeros(len(eta) + len(p))
    return minimize(function, start, jac=True, method="BFGS", options={"gtol": 1e-11, "maxiter": 3000}).x


# --- item 1


def test_minimiser_and_readouts_of_the_softmax():
    u = minimise(softmax_deferral, ETA, P)
    assert softmax(u) == pytest.approx([0.25, 0.15, 0.10, 0.30, 0.20], abs=1e-7)
    assert softmax(u) == pytest.approx(np.append(ETA, P) / (1 + P.sum()), abs=1e-7)
    readout = softmax_readout(u[None], n_experts=2)
    assert readout.expert_probability[0] == pytest.approx(P, abs=1e-6)
    assert readout.class_probability[0] == pytest.approx(ETA, abs=1e-6)


# --- item 2


def test_a_duplicate_of_an_expert_takes_its_softmax_mass_and_no_decision():
    u = minimise(softmax_deferral, ETA, np.array([0.6, 0.4, 0.6]))
    assert softmax(u) == pytest.approx(np.array([0.5, 0.3, 0.2, 0.6, 0.4, 0.6]) / 2.6, abs=1e-7)
    assert softmax(u)[3] == pytest.approx(0.230769, abs=1e-6)
    assert softmax(minimise(softmax_deferral, ETA, P))[3] == pytest.approx(0.30, abs=1e-7)
    assert np.round(u, 6).argmax() == 3
    ova = minimise(ova_deferral, ETA, np.array([0.6, 0.4, 0.6]))
    assert ova_readout(ova[None], n_experts=3).expert_probability[0] == pytest.approx([0.6, 0.4, 0.6], abs=1e-6)


# --- item 3


def test_the_readout_of_the_softmax_is_unbounded_and_that_of_one_vs_all_is_not():
    s = np.log([[0.05, 0.03, 0.02, 0.6, 0.3]])
    assert softmax_readout(s, n_experts=2).expert_probability[0, 0] == pytest.approx(6.0)
    wild = 1e4 * np.random.default_rng(0).normal(size=(1000, 5))
    probability = ova_readout(wild, n_experts=2).expert_probability
    assert probability.min() >= 0
    assert probability.max() <= 1


# --- item 4


def test_one_vs_all_is_as_many_logistic_regressions():
    rng = np.random.default_rng(0)
    u, y, ok = rng.normal(size=(50, 5)), rng.integers(3, size=50), rng.random((50, 2)) < 0.5
    target = np.column_stack([np.eye(3)[y], ok])
    separate = np.logaddexp(0, -u) * target + np.logaddexp(0, u) * (1 - target)
    loss = ova_deferral(u, deferral_cost(y, 1.0 - ok, n_classes=3), n_experts=2)
    assert loss.value == pytest.approx(separate.sum(axis=1), rel=1e-12)
    moved = u.copy()
    moved[:, 3] += rng.normal(size=50)
    other = ova_deferral(moved, deferral_cost(y, 1.0 - ok, n_classes=3), n_experts=2)
    assert np.array_equal(np.delete(other.gradient, 3, axis=1), np.delete(loss.gradient, 3, axis=1))


# --- item 5


@pytest.mark.parametrize("loss", [softmax_deferral, ova_deferral])
@pytest.mark.parametrize("experts", [1, 2, 3])
@pytest.mark.parametrize("priced", [False, True])
def test_the_bayes_action_is_recovered(loss, experts, priced):
    rng = np.random.default_rng(experts)
    for _ in range(8):
        eta, p = rng.dirichlet(np.ones(3)), rng.random(experts)
        price = 0.3 * rng.random(experts) if priced else np.zeros(experts)
        # With c = price + (1 - price) [wrong] the expected 1 - c is (1 - price) p.
        value = np.append(eta, (1 - price) * p)
        if np.diff(np.sort(value))[-1] < 0.02:
            continue
        assert minimise(loss, eta, p, price).argmax() == value.argmax()


# --- item 6


def test_excess_deferral_risk_is_bounded():
    rng = np.random.default_rng(0)
    n, K, J = 50_000, 3, 2
    value = np.column_stack([rng.dirichlet(np.ones(K), size=n), rng.random((n, J))])
    best = np.log(value)
    u = best + rng.normal(size=value.shape) * rng.random((n, 1))
    excess = softmax_deferral(u, 1 - value, n_experts=J).value - softmax_deferral(best, 1 - value, n_experts=J).value
    regret = value.max(axis=1) - value[np.arange(n), u.argmax(axis=1)]
    wrong = regret > 1e-3
    ratio = regret[wrong] / np.sqrt(2 * value.sum(axis=1)[wrong] * excess[wrong])
    assert wrong.sum() > 1000
    assert ratio.max() <= 1.0
    assert ratio.max() > 0.85


# --- edge cases: experts that were not asked


def test_one_expert_is_card_x1():
    rng = np.random.default_rng(0)
    u, cost = rng.normal(size=(20, 4)), deferral_cost(rng.integers(3, size=20), rng.random(20), n_classes=3)
    for loss in (softmax_deferral, ova_deferral):
        assert np.array_equal(loss(u, cost).value, loss(u, cost, n_experts=1).value)


def test_an_expert_that_is_missing_at_random_keeps_its_readout_only_in_one_vs_all():
    """The second expert is asked on half of the samples, which shares of the weights stand for."""
    asked = 0.5
    y, ok = np.array(list(product(range(3), (1, 0)))).T
    weight = ETA[y] * np.where(ok, 0.4, 0.6)
    seen = deferral_cost(y, 1.0 - ok, n_classes=3)
    unseen = seen.copy()
    unseen[:, -1] = np.nan
    cost, weight = np.vstack([seen, unseen]), np.concatenate([asked * weight, (1 - asked) * weight])

    def found(loss):
        def function(u):
            result = loss(np.tile(u, (len(cost), 1)), cost, weight=weight)
            return result.value.sum(), result.gradient.sum(axis=0)

        return minimize(function, np.zeros(4), jac=True, method="BFGS", options={"gtol": 1e-11}).x[None]

    assert ova_readout(found(ova_deferral)).expert_probability[0, 0] == pytest.approx(0.4, abs=1e-6)
    assert softmax_readout(found(softmax_deferral)).expert_probability[0, 0] == pytest.approx(0.4 * asked, abs=1e-6)
