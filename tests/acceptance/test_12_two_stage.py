"""Numbers of card [12]: two-stage deferral to several experts.  Minimisers are found by optimisation of the losses themselves."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from defer.losses import predictor_rejector, two_stage

EXPECTED_COST = np.array([[0.4, 0.2, 0.7], [0.1, 0.35, 0.3], [0.9, 0.6, 0.55]])
PROBABILITY = np.array([0.5, 0.3, 0.2])


def softmax(r):
    e = np.exp(r - r.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def minimise(cost, weight=None, seed=0, **options):
    """Scores of every row that minimise its loss; with `weight`, one row of scores for all rows of costs."""
    cost = np.atleast_2d(cost)
    shape = cost.shape if weight is None else (1, cost.shape[1])

    def function(theta):
        scores = np.broadcast_to(theta.reshape(shape), cost.shape)
        loss = two_stage(scores, cost, weight=weight, **options)
        gradient = loss.gradient if weight is None else loss.gradient.sum(axis=0)
        return loss.value.sum(), gradient.ravel()

    start = 0.1 * np.random.default_rng(seed).normal(size=shape[0] * shape[1])
    return minimize(function, start, jac=True, method="BFGS", options={"gtol": 1e-11, "maxiter": 5000}).x.reshape(shape)


# --- item 1


@pytest.mark.parametrize(
    ("weighting", "targets"),
    [
        (
            "one_minus_cost",
            [[0.352941, 0.470588, 0.176471], [0.4, 0.288889, 0.311111], [0.105263, 0.421053, 0.473684]],
        ),
        (
            "cost_of_others",
            [[0.346154, 0.423077, 0.230769], [0.433333, 0.266667, 0.3], [0.280488, 0.353659, 0.365854]],
        ),
    ],
)
def test_targets_decisions_and_risk(weighting, targets):
    scores = minimise(EXPECTED_COST, weighting=weighting)
    assert softmax(scores) == pytest.approx(np.array(targets), abs=1e-6)
    decision = scores.argmax(axis=1)
    assert decision.tolist() == [1, 0, 2]
    assert PROBABILITY @ EXPECTED_COST[range(3), decision] == pytest.approx(0.24, abs=1e-12)
    assert decision.tolist() == EXPECTED_COST.argmin(axis=1).tolist()


def test_targets_are_those_of_the_expected_weights_when_costs_are_random():
    rng = np.random.default_rng(0)
    cost, weight = rng.random((8, 4)), rng.dirichlet(np.ones(8))
    w = weight @ (1 - cost)
    assert softmax(minimise(cost, weight))[0] == pytest.approx(w / w.sum(), abs=1e-7)


# --- item 2


def worst_ratio(w, r):
    """Largest excess deferral loss over its bound sqrt(2 W excess), with the loss itself as the judge; w within [0, 1]."""
    excess = two_stage(r, 1 - w).value - two_stage(np.log(w), 1 - w).value
    regret = w.max(axis=1) - w[np.arange(len(w)), r.argmax(axis=1)]
    wrong = regret > 1e-3  # below, rounding of the excess would be measured
    return (regret[wrong] / np.sqrt(2 * w.sum(axis=1)[wrong] * excess[wrong])).max()


def test_no_violation_of_the_bound_in_200_000_random_pairs():
    rng = np.random.default_rng(0)
    ratios = []
    for m in (2, 3, 4, 5):
        w = rng.uniform(1e-6, 1, size=(50_000, m))
        # Half anywhere, half near the minimiser, where the bound is tightest.
        r = np.where(
            np.arange(50_000)[:, None] % 2, 3 * rng.normal(size=w.shape), np.log(w) + 0.5 * rng.normal(size=w.shape)
        )
        ratios.append(worst_ratio(w, r))
    assert max(ratios) <= 1.0
    assert max(ratios) > 0.99


def test_the_constant_of_the_bound_cannot_be_smaller():
    """Two agents that are almost equal, and a rejector that just decides for the worse."""
    gap = np.array([0.1, 0.03, 0.01])
    w = np.column_stack([0.5 + gap, 0.5 - gap])
    r = np.zeros((3, 2))
    r[:, 1] = 1e-12
    ratios = [worst_ratio(w[[i]], r[[i]]) for i in range(3)]
    assert ratios == sorted(ratios)
    assert ratios[-1] == pytest.approx(1.0, abs=1e-4)


# --- item 3


def test_the_mean_absolute_error_is_minimised_at_the_best_agent():
    scores = minimise(EXPECTED_COST, comp_sum="mean_absolute_error")
    assert softmax(scores).max(axis=1) == pytest.approx(np.ones(3), abs=1e-4)
    assert scores.argmax(axis=1).tolist() == [1, 0, 2]


def test_the_bound_of_the_mean_absolute_error_is_linear():
    rng = np.random.default_rng(0)
    w, r = rng.random((50_000, 4)), 3 * rng.normal(size=(50_000, 4))
    best = 1e4 * np.eye(4)[w.argmax(axis=1)]
    excess = (
        two_stage(r, 1 - w, comp_sum="mean_absolute_error").value
        - two_stage(best, 1 - w, comp_sum="mean_absolute_error").value
    )
    regret = w.max(axis=1) - w[np.arange(50_000), r.argmax(axis=1)]
    assert np.all(regret <= 4 * excess + 1e-12)


def test_the_constant_of_the_linear_bound_cannot_be_smaller():
    """Agents that are equally good but for one, and a rejector that just decides for that one."""
    w, r = np.array([[0.2, 0.7, 0.7, 0.7]]), np.array([[1e-9, 0.0, 0.0, 0.0]])
    value = two_stage(r, 1 - w, comp_sum="mean_absolute_error").value
    best = two_stage(np.array([[0.0, 1e4, 0.0, 0.0]]), 1 - w, comp_sum="mean_absolute_error").value
    assert (0.7 - 0.2) / (value - best)[0] == pytest.approx(4.0, abs=1e-6)


# --- item 4

X = np.array([3.0, -3.0, 0.0, -4.0])
DESIGN = np.column_stack([X, np.ones(4)])
ROUTED = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 1], [1, 0, 1]], dtype=float)


def route(theta):
    return (DESIGN @ theta.reshape(2, 3)).argmax(axis=1)


def fit_lines(cost, seed=0):
    def function(theta):
        loss = two_stage(DESIGN @ theta.reshape(2, 3), cost)
        return loss.value.mean(), (DESIGN.T @ loss.gradient / len(cost)).ravel()

    start = np.random.default_rng(seed).normal(size=6)
    return minimize(function, start, jac=True, method="BFGS", options={"gtol": 1e-10, "maxiter": 5000})


def test_label_dependent_costs_are_not_realizable_by_the_convex_loss():
    free = np.array([[0.0, -1.0, 1.0], [0.0, -1.5, -1.5]]).ravel()
    assert route(free).tolist() == [2, 1, 0, 1]
    assert ROUTED[range(4), route(free)].sum() == 0
    for seed in range(5):
        found = fit_lines(ROUTED, seed)
        assert found.fun == pytest.approx(1.476061, abs=5e-7)
        assert route(found.x).tolist() == [2, 1, 1, 1]
        assert ROUTED[range(4), route(found.x)].mean() == pytest.approx(0.25)


def test_constant_costs_of_the_experts_are():
    """The predictor is right on the left, and one expert costs nothing anywhere: near-minimisers route at zero cost."""
    cost = np.column_stack([(X > 0).astype(float), np.zeros(4), np.ones(4)])
    assert cost[range(4), route(fit_lines(cost).x)].sum() == 0


@pytest.mark.parametrize("seed", range(6))
def test_constant_costs_of_several_experts_are_in_the_plane_too(seed):
    """The predictor is right in a half-plane, one expert costs nothing, and three have prices of their own."""
    rng = np.random.default_rng(seed)
    design = np.column_stack([rng.normal(size=(60, 2)), np.ones(60)])
    wrong = (design @ rng.normal(size=3) > 0).astype(float)
    cost = np.column_stack([wrong, np.zeros(60), np.tile(rng.uniform(0.1, 0.9, size=3), (60, 1))])

    def function(theta):
        loss = two_stage(design @ theta.reshape(3, 5), cost)
        return loss.value.mean(), (design.T @ loss.gradient / 60).ravel()

    found = minimize(function, np.zeros(15), jac=True, method="BFGS", options={"gtol": 1e-8, "maxiter": 3000})
    taken = (design @ found.x.reshape(3, 5)).argmax(axis=1)
    assert cost[range(60), taken].sum() == 0
    assert set(taken.tolist()) == {0, 1} or not wrong.any() or wrong.all()


# --- item 5


@pytest.mark.parametrize("price", [0.15, 0.25])
def test_a_perfect_expert_with_a_price_is_abstention(price):
    for wrong in (0.1, 0.2, 0.3):
        cost = np.array([[1.0, price], [0.0, price]])
        scores = minimise(cost, np.array([wrong, 1 - wrong]))
        assert (scores.argmax() == 1) == (wrong > price)


# --- item 6


def test_free_experts_are_always_asked_and_unaffordable_ones_never():
    rng = np.random.default_rng(0)
    own = rng.uniform(0.05, 0.95, size=(10, 1))
    free = minimise(np.column_stack([own, np.full((10, 2), [0.01, 0.0])]))
    assert (free.argmax(axis=1) == 2).all()
    dear = minimise(np.column_stack([own, np.full((10, 2), 1.0)]))
    assert (dear.argmax(axis=1) == 0).all()


def test_a_common_factor_of_the_weights_keeps_the_minimiser():
    smaller = 1 - (1 - EXPECTED_COST) / 3
    assert softmax(minimise(smaller)) == pytest.approx(softmax(minimise(EXPECTED_COST)), abs=1e-6)


def test_rescaled_costs_keep_every_decision():
    scores = minimise(5 * EXPECTED_COST, rescale=True)
    assert scores.argmax(axis=1).tolist() == [1, 0, 2]
    largest = 5 * EXPECTED_COST / (5 * EXPECTED_COST).max()
    assert two_stage(scores, 5 * EXPECTED_COST, rescale=True).value == pytest.approx(two_stage(scores, largest).value)


# --- item 7


def test_permuting_the_agents_permutes_the_scores():
    order = [2, 0, 1]
    permuted, plain = minimise(EXPECTED_COST[:, order]), minimise(EXPECTED_COST)
    assert softmax(permuted) == pytest.approx(softmax(plain)[:, order], abs=1e-6)


def test_an_expert_that_is_never_best_changes_no_decision():
    more = np.column_stack([EXPECTED_COST, np.full(3, 0.95)])
    decision = minimise(more).argmax(axis=1)
    assert decision.tolist() == [1, 0, 2]
    assert PROBABILITY @ more[range(3), decision] == pytest.approx(0.24, abs=1e-12)


# --- item 8


def test_both_weightings_agree_exactly_where_the_costs_of_a_sample_sum_to_one():
    rng = np.random.default_rng(0)
    r, cost = rng.normal(size=(50, 3)), rng.dirichlet(np.ones(3), size=50)
    assert two_stage(r, cost, weighting="cost_of_others").value == pytest.approx(two_stage(r, cost).value, rel=1e-12)
    other = 0.9 * cost
    apart = two_stage(r, other, weighting="cost_of_others").value - two_stage(r, other).value
    every_term = two_stage(r, np.zeros((50, 3))).value
    assert apart == pytest.approx((other.sum(axis=1) - 1) * every_term, rel=1e-9)
    assert np.abs(apart).min() > 0.05


def test_the_deferral_loss_is_what_both_weightings_count():
    rng = np.random.default_rng(0)
    cost, decision = rng.random((50, 3)), rng.integers(3, size=50)
    # At scores that are this far apart the mean absolute error counts the agents that are not taken.
    scores = 1e4 * np.eye(3)[decision]
    loss, total = cost[np.arange(50), decision], cost.sum(axis=1)
    first = two_stage(scores, cost, comp_sum="mean_absolute_error").value
    second = two_stage(scores, cost, comp_sum="mean_absolute_error", weighting="cost_of_others").value
    assert loss == pytest.approx(first + total - 2)
    assert loss == pytest.approx(second - total)


# --- predictor-rejector


def test_predictor_rejector_is_the_second_weighting_for_two_agents():
    rng = np.random.default_rng(0)
    r, cost = rng.normal(size=(50, 2)), rng.random((50, 2))
    pair = two_stage(r, cost, weighting="cost_of_others")
    single = predictor_rejector(r[:, 0] - r[:, 1], cost)
    assert single.value == pytest.approx(pair.value, rel=1e-12)
    assert single.gradient == pytest.approx(pair.gradient[:, 0], rel=1e-9)


@pytest.mark.parametrize("margin", ["logistic", "exponential", "hinge", "squared_hinge"])
def test_predictor_rejector_defers_where_the_score_is_at_most_zero(margin):
    for own, expert in [(0.4, 0.3), (0.2, 0.3)]:
        cost = np.array([[own, expert]])
        found = minimize(
            lambda r, cost=cost: predictor_rejector(r, cost, margin=margin).value[0], [0.1], method="Nelder-Mead"
        )
        assert (found.x[0] <= 0) == (expert < own)
