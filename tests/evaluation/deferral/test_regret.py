"""Regret to the Bayes rule: zero for it, by hand otherwise, and additive over arms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from defer.datasets import make_linear_deferral, make_noisy_experts
from defer.evaluation import regret_to_bayes
from defer.exceptions import EvaluationError

COST = [[0.1, 0.3], [0.5, 0.2], [0.2, 0.1]]


def test_the_bayes_rule_has_none():
    problem = make_linear_deferral(n_samples=200, n_experts=2, cost=0.05, random_state=0)
    found = regret_to_bayes(problem.bayes_action, problem)
    assert found.mean.value == pytest.approx(0.0, abs=1e-12)
    assert found.agreement == 1.0
    assert found.risk == pytest.approx(problem.bayes_risk, abs=1e-12)
    assert found.names == ("own", "expert 1", "expert 2")


def test_a_problem_and_its_matrix_give_the_same():
    problem = make_noisy_experts(n_samples=100, accuracy=(0.5, 0.7), random_state=0)
    arm = np.random.default_rng(0).integers(3, size=100)
    one, other = regret_to_bayes(arm, problem), regret_to_bayes(arm, problem.expected_cost)
    assert one.regret.tolist() == other.regret.tolist() == problem.regret(arm).tolist()
    # The mean regret is what realised costs exceed the least by, in expectation.
    assert one.mean.value == pytest.approx(problem.expected_cost[np.arange(100), arm].mean() - problem.bayes_risk)
    assert one.mean.low < one.mean.value < one.mean.high


def test_wrong_own_labels_cost_what_they_lose_and_only_where_they_are_used():
    problem = make_linear_deferral(n_samples=100, random_state=0)
    wrong = problem.class_probability.argmin(axis=1)
    arm = np.arange(100) % 2
    found = regret_to_bayes(arm, problem, own_label=wrong)
    own = arm == 0
    extra = problem.class_probability.max(axis=1) - problem.class_probability.min(axis=1)
    assert found.regret - problem.regret(arm) == pytest.approx(np.where(own, extra, 0.0), abs=1e-12)


def test_the_table_adds_up_and_an_idle_arm_has_no_mean():
    found = regret_to_bayes([0, 0, 1], np.column_stack((COST, np.ones(3))), names=["own", "reader", "idle"])
    table = found.frame.to_native().to_pydict()
    assert table["arm"] == ["own", "reader", "idle"]
    assert table["share"] == pytest.approx([2 / 3, 1 / 3, 0])
    assert table["regret"][:2] == pytest.approx([0.15, 0.0])
    assert math.isnan(table["regret"][2])
    assert sum(table["part"]) == pytest.approx(found.mean.value)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([0, 1], COST), {}, r"arm must be 3 whole numbers, one per query, got int64 of shape \(2,\)"),
        (([0, 1, 2], COST), {}, r"arm has 1 of 3 values .* in row 2 \(2\); each must be an index from 0 to 1"),
        (([0.0, 1.0, 1.0], COST), {}, "arm must be 3 whole numbers, one per query, got float64"),
        (
            ([0], [[np.inf, 0.0]]),
            {},
            r"expected_cost has 1 of 2 values .* in row 0, column 0 \(inf\); each must be finite",
        ),
        (([0], [0.1]), {}, r"expected_cost must have shape \(n, m\) with n >= 1 and m >= 1, got \(1,\)"),
        (([0, 0, 1], COST), {"own_label": [0, 0, 0]}, "own_label needs the DeferralProblem"),
        (([0, 0, 1], COST), {"names": ["own"]}, "1 names for 2 arms: own"),
        (([0, 0, 1], COST), {"names": ["own", "own"]}, "names must differ, got own, own"),
    ],
)
def test_wrong_input_is_refused(arguments, options, message):
    with pytest.raises(EvaluationError, match=message):
        regret_to_bayes(*arguments, **options)


def test_labels_outside_the_classes_are_refused():
    problem = make_linear_deferral(n_samples=3, random_state=0)
    with pytest.raises(EvaluationError, match=r"own_label has 1 of 3 values .* each must be an index from 0 to 2"):
        regret_to_bayes([0, 0, 0], problem, own_label=[0, 1, 3])
