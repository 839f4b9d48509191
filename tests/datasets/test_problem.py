"""A deferral problem: its Bayes rule by hand, its regret, and what is refused."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from defer.datasets import DeferralProblem
from defer.exceptions import DeferError, ProblemError

FIELDS = {
    "X": np.zeros((3, 2)),
    "y": np.array([0, 1, 2]),
    "experts": np.array([[0, 1], [1, 1], [0, 2]]),
    "expert_names": ("reader", "surgeon"),
    "cost": np.array([0.0, 0.1]),
    "class_probability": np.array([[0.5, 0.3, 0.2], [0.8, 0.1, 0.1], [0.4, 0.4, 0.2]]),
    "expert_probability": np.array([[0.5, 0.7], [0.7, 0.9], [0.3, 0.2]]),
}


def problem(**changes) -> DeferralProblem:
    return DeferralProblem(**{**FIELDS, **changes})


def test_risks_and_bayes_rule_by_hand():
    found = problem()
    assert found.expected_cost == pytest.approx(
        np.array([[0.5, 0.5, 0.4], [0.2, 0.3, 0.2], [0.6, 0.7, 0.9]]), abs=1e-15
    )
    # Row 1: the own label and the surgeon cost 0.2 up to rounding (1 - 0.9 + 0.1 is above 0.2), and ties stay at home.
    assert found.bayes_action.tolist() == [2, 0, 0]
    assert found.own_bayes_label.tolist() == [0, 0, 0]
    assert found.bayes_risk == pytest.approx((0.4 + 0.2 + 0.6) / 3, abs=1e-15)
    assert found.action_cost[0] == pytest.approx([0.5, 0.7, 0.8, 0.5, 0.4], abs=1e-15)
    assert found.right.tolist() == [[True, False], [True, True], [False, True]]
    assert len(found) == 3
    assert repr(found) == "DeferralProblem(3 queries, 3 classes, experts reader, surgeon; Bayes risk 0.4)"
    unnamed = problem(expert_names=("expert 1", "expert 2"))
    assert repr(unnamed) == "DeferralProblem(3 queries, 3 classes, 2 experts; Bayes risk 0.4)"


def test_ties_go_to_the_own_prediction_then_to_the_lower_index():
    tie = problem(cost=np.zeros(2), expert_probability=np.array([[0.5, 0.5], [0.9, 0.9], [0.1, 0.4]]))
    assert tie.bayes_action.tolist() == [0, 1, 0]


def test_no_routing_and_no_labels_are_better_than_the_bayes_rule():
    found, least = problem(), []
    for arm, label in product(product(range(3), repeat=3), product(range(3), repeat=3)):
        risk = [
            1 - found.class_probability[row, label[row]]
            if arm[row] == 0
            else 1 - found.expert_probability[row, arm[row] - 1] + found.cost[arm[row] - 1]
            for row in range(3)
        ]
        regret = found.regret(arm, own_label=label)
        assert (regret >= 0).all()
        assert regret.mean() + found.bayes_risk == pytest.approx(np.mean(risk), abs=1e-12)
        least.append(np.mean(risk))
    assert min(least) == pytest.approx(found.bayes_risk, abs=1e-12)
    assert found.regret(found.bayes_action) == pytest.approx(np.zeros(3), abs=1e-12)


def test_rows_are_taken_with_everything_that_belongs_to_them():
    found = problem()
    for rows in ([2, 0], np.array([True, False, True])):
        part = found.take(rows)
        assert part.expected_cost.tolist() == found.expected_cost[rows].tolist()
        assert part.y.tolist() == found.y[rows].tolist()
        assert part.experts.tolist() == found.experts[rows].tolist()


@pytest.mark.parametrize("rows", [[], np.zeros(3, bool)], ids=["no index", "empty mask"])
def test_a_problem_without_queries_is_refused(rows):
    with pytest.raises(ProblemError, match=r"a deferral problem needs a query, .* got 0 labels"):
        problem().take(rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": np.array([0, 1])}, r"experts must have shape \(2, 2\) for 2 labels and 2 experts, got \(3, 2\)"),
        ({"experts": np.zeros((3, 1), int)}, r"experts must have shape \(3, 2\) .*, got \(3, 1\)"),
        ({"cost": [0.1]}, r"cost must have shape \(2,\)"),
        ({"X": np.zeros((2, 2))}, r"X must have shape \(3, d\), one row per label, got \(2, 2\)"),
        (
            {"X": np.full((3, 2), np.nan)},
            r"X has 6 of 6 values that are not allowed, the first in row 0, column 0 \(nan\)",
        ),
        (
            {"class_probability": np.ones((3, 1))},
            r"shape \(n, K\) with K >= 2, got 3 labels, 2 experts and shape \(3, 1\)",
        ),
        ({"expert_names": ()}, "got 3 labels, 0 experts"),
        (
            {"class_probability": np.full((3, 3), 0.3)},
            r"class_probability summed over the classes has 3 of 3 values .* in row 0 \(0.89+\d*\); each must be 1",
        ),
        (
            {"expert_probability": np.array([[0.5, 0.7], [0.7, 1.2], [0.3, 0.2]])},
            r"expert_probability has 1 of 6 values .*, the first in row 1, column 1 \(1.2\); each must be a probability in \[0, 1\]",
        ),
        ({"cost": [0.0, np.inf]}, r"cost has 1 of 2 values .* in row 1 \(inf\); each must be a finite price"),
        ({"y": np.array([0, 1, 3])}, r"y has 1 of 3 values .* in row 2 \(3\); each must be a label from 0 to 2"),
        ({"y": np.array(["a", "b", "c"])}, "y must hold whole numbers, the labels 0 to 2, got <U1"),
        ({"experts": np.full((3, 2), -1)}, r"experts has 6 of 6 values .* \(-1\)"),
    ],
)
def test_wrong_fields_are_refused(changes, message):
    with pytest.raises(ProblemError, match=message) as caught:
        problem(**changes)
    assert isinstance(caught.value, DeferError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1],), r"arm must be 3 whole numbers, one per query, got int64 of shape \(2,\)"),
        ((["own", "own", "own"],), r"arm must be 3 whole numbers, one per query, got <U3"),
        (([0, 3, -1],), r"arm has 2 of 3 values .* in row 1 \(3\); each must be an index from 0 to 2"),
        (([0, 0, 0], [0, 1, 5]), r"own_label has 1 of 3 values .* in row 2 \(5\); each must be an index from 0 to 2"),
    ],
)
def test_wrong_routings_are_refused(arguments, message):
    with pytest.raises(ProblemError, match=message):
        problem().regret(*arguments)
