"""The consistency bound: never violated, tight in its constant, zero at the optimum, and the example by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax

from defer.datasets import make_linear_deferral
from defer.evaluation import excess_bound
from defer.exceptions import EvaluationError

COST = np.array([[0.4, 0.2, 0.7], [0.1, 0.35, 0.3], [0.9, 0.6, 0.55]])


def surrogate_risk(scores: np.ndarray, cost: np.ndarray) -> np.ndarray:
    return -((1 - cost) * log_softmax(scores, axis=1)).sum(axis=1)


def test_surrogate_excess_is_that_over_the_population_optimum():
    target = (1 - COST) / (1 - COST).sum(axis=1, keepdims=True)
    assert target[0] == pytest.approx([0.352941, 0.470588, 0.176471], abs=1e-6)
    scores = np.random.default_rng(0).normal(size=(3, 3))
    found = excess_bound(scores, COST)
    least = surrogate_risk(np.log(target), COST)
    assert found.surrogate_excess == pytest.approx(surrogate_risk(scores, COST) - least, abs=1e-12)
    assert found.total_weight == pytest.approx([1.7, 2.25, 0.95], abs=1e-12)
    nothing = excess_bound(np.log(target), COST)
    assert nothing.surrogate_excess == pytest.approx(np.zeros(3), abs=1e-15)
    assert nothing.excess.tolist() == [0.0, 0.0, 0.0]


def test_no_scores_violate_the_bound_and_its_constant_is_tight():
    rng = np.random.default_rng(0)
    for m in (2, 3, 6):
        cost = 1 - rng.random((60_000, m)) ** rng.choice([0.1, 1, 4], size=(60_000, 1))
        scores = rng.normal(size=(60_000, m)) * rng.choice([0.1, 1, 5], size=(60_000, 1))
        # Half of them near the optimum, where the bound has least room.
        scores[:30_000] = np.log(np.maximum(1 - cost[:30_000], 1e-9)) + 0.1 * scores[:30_000]
        found = excess_bound(scores, cost)
        assert (found.excess <= found.bound + 1e-12).all()
        assert found.mean_excess <= found.bound.mean() <= found.mean_bound
        assert found.mean_bound == pytest.approx(np.sqrt(2 * found.total_weight.mean() * found.surrogate_excess.mean()))
    # Two nearly equal weights that carry everything, and scores just on the wrong side.
    close = excess_bound([[0.0, 1e-9]], [[0.0, 0.001]])
    assert 0.99 < float(close.excess[0] / close.bound[0]) <= 1.0


def test_single_stage_scores_have_weight_one_for_the_classes():
    problem = make_linear_deferral(n_samples=200, n_experts=2, random_state=0)
    scores = np.random.default_rng(1).normal(size=(200, 5))
    found = excess_bound(scores, problem.action_cost)
    assert found.total_weight == pytest.approx(1 + problem.expert_probability.sum(axis=1), abs=1e-12)
    action = scores.argmax(axis=1)
    label = np.minimum(action, 2)
    arm = np.maximum(action - 2, 0)
    assert found.excess == pytest.approx(problem.regret(arm, own_label=label), abs=1e-12)
    optimum = np.log(np.hstack((problem.class_probability, problem.expert_probability)))
    assert excess_bound(optimum, problem.action_cost).mean_bound < 1e-6


def test_extremes_stay_finite():
    found = excess_bound([[1e4, -1e4], [0.0, 0.0], [-1e4, 1e4]], [[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    assert found.excess.tolist() == [1.0, 0.0, 0.0]
    assert found.surrogate_excess.tolist() == pytest.approx([2e4, 0.0, 0.0])
    assert found.total_weight.tolist() == [1.0, 0.0, 1.0]
    assert list(found.frame.columns) == ["excess", "bound", "surrogate_excess", "total_weight"]
    assert repr(found).startswith("ExcessBound(excess 0.3333 <= ")


@pytest.mark.parametrize(
    ("scores", "cost", "message"),
    [
        ([[0.0, 1.0]], [[0.1, 0.2, 0.3]], r"expected_cost must have shape \(1, 2\), got \(1, 3\)"),
        ([[0.0]], [[0.1]], r"scores must have shape \(n, m\) with n >= 1 and m >= 2, got \(1, 1\)"),
        ([[0.0, np.nan]], [[0.1, 0.2]], r"scores has 1 of 2 values .* in row 0, column 1 \(nan\)"),
        (
            [[0.0, 1.0]],
            [[0.1, 1.2]],
            r"expected_cost has 1 of 2 values outside \[0, 1\], the first in row 0, column 1 \(1\.2\): .* divide all costs",
        ),
    ],
)
def test_wrong_input_is_refused(scores, cost, message):
    with pytest.raises(EvaluationError, match=message):
        excess_bound(scores, cost)
