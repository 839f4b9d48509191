"""The witnesses show what they are for, by optimisation that knows nothing of the library's losses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp

from defer.datasets import confidence_trap, realizable_witness, routing_witness
from defer.exceptions import ProblemError


def best_lines(loss, X: np.ndarray, m: int) -> tuple[float, np.ndarray]:
    """Least mean loss over m scores that are linear in one feature, and the scores that have it."""
    columns = np.column_stack((X, np.ones(len(X))))
    found = minimize(lambda w: loss(columns @ w.reshape(2, m)).mean(), np.zeros(2 * m), method="BFGS", tol=1e-10)
    return found.fun, columns @ found.x.reshape(2, m)


def softplus(z: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, z)


def test_convex_surrogates_miss_the_realizable_rule():
    witness = realizable_witness()
    y, ok, rows = witness.y, witness.right[:, 0], np.arange(5)

    def softmax_loss(u):
        log_share = log_softmax(u, axis=1)
        return -log_share[rows, y] - ok * log_share[:, 2]

    def one_vs_all(u):
        sign = np.column_stack((np.where(y[:, None] == [0, 1], 1, -1), np.where(ok, 1, -1)))
        return softplus(-sign * u).sum(axis=1)

    for loss, value in ((softmax_loss, 1.306731), (one_vs_all, 1.591188)):
        least, scores = best_lines(loss, witness.X, 3)
        assert least == pytest.approx(value, abs=1e-6)
        decision = np.where(scores[:, 2] > scores[:, :2].max(axis=1), 2, scores[:, :2].argmax(axis=1))
        wrong = np.where(decision == 2, ~ok, decision != y)
        assert wrong.mean() == pytest.approx(0.2)


def test_the_realizable_surrogate_vanishes_along_its_rule():
    witness = realizable_witness()
    x, y, ok, rows = witness.X[:, 0], witness.y, witness.right[:, 0], np.arange(5)
    u = np.column_stack((x, np.ones(5), -x))
    assert u.argmax(axis=1).tolist() == [0, 1, 0, 0, 2]
    right = np.column_stack((100 * u[rows, y], np.where(ok, 100 * u[:, 2], -np.inf)))
    assert (logsumexp(100 * u, axis=1) - logsumexp(right, axis=1)).mean() < 1e-30
    assert witness.bayes_risk == 0.0


def test_the_convex_two_stage_optimum_misses_the_free_routing():
    X, cost = routing_witness()
    least, scores = best_lines(lambda u: -((1 - cost) * log_softmax(u, axis=1)).sum(axis=1), X, 3)
    assert least == pytest.approx(1.476061, abs=1e-6)
    assert scores.argmax(axis=1).tolist() == [2, 1, 1, 1]
    assert cost[range(4), scores.argmax(axis=1)].mean() == 0.25
    lines = np.column_stack((np.full(4, 1.0), -X[:, 0], X[:, 0]))
    assert lines.argmax(axis=1).tolist() == [2, 1, 0, 1]
    assert cost[range(4), lines.argmax(axis=1)].mean() == 0.0


def test_the_trap_has_exact_shares_and_its_answers_follow_its_law():
    trap = confidence_trap(20_000, random_state=0)
    assert trap.X.mean(axis=0).tolist() == [0.3, 0.3, 0.4]
    for kind in range(3):
        rows = trap.X[:, kind] == 1
        for seen, chance in (
            (trap.y == 0, trap.class_probability[:, 0]),
            (trap.right[:, 0], trap.expert_probability[:, 0]),
        ):
            p = chance[rows][0]
            assert abs(seen[rows].mean() - p) < 5 * np.sqrt(p * (1 - p) / rows.sum())
    assert np.array_equal(confidence_trap(50, random_state=1).experts, confidence_trap(50, random_state=1).experts)


@pytest.mark.parametrize("n_samples", [0, 5, -10, 10.0])
def test_a_trap_needs_whole_tenths(n_samples):
    with pytest.raises(ProblemError, match="n_samples must be a positive multiple of 10"):
        confidence_trap(n_samples)
