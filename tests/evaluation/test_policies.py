"""Reading target policies in the arm order of a log."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest

from defer import OutcomeLog
from defer.estimators import RandomMixture, SingleArm
from defer.evaluation.policies import column_order, policy_matrix
from defer.exceptions import EvaluationError
from defer.portfolios import ArmMatrix


@pytest.fixture
def log():
    return OutcomeLog.from_arrays([[0.0], [1.0], [2.0]], np.eye(3), arms=["small", "medium", "large"])


EXPECTED = [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    "policy",
    [
        EXPECTED,
        np.array(EXPECTED, dtype=int),
        ["large", "small", "medium"],
        np.array(["large", "small", "medium"], dtype=object),
        pd.Series(["large", "small", "medium"]),
        [2, 0, 1],
        np.array([2, 0, 1], dtype=np.uint8),
        ArmMatrix(np.array(EXPECTED)[:, [1, 2, 0]], arms=["medium", "large", "small"]),
        pd.DataFrame(EXPECTED, columns=["small", "medium", "large"])[["large", "small", "medium"]],
        pl.DataFrame(EXPECTED, schema=["small", "medium", "large"], orient="row").select("medium", "small", "large"),
    ],
    ids=["list", "int", "names", "objects", "series", "indexes", "uint8", "arm matrix", "pandas", "polars"],
)
def test_every_form_of_a_policy_is_read_in_the_order_of_the_log(policy, log):
    table = policy_matrix(policy, log)
    assert table.dtype == np.float64
    assert type(table) is np.ndarray
    np.testing.assert_array_equal(table, EXPECTED)


def test_routings_and_routers_of_some_of_the_arms_are_placed_by_name(log):
    part = log.select(arms=["large", "small"])
    router = SingleArm("small").fit(part.X, part.quality)
    for policy in (router, router.route(log.X)):
        np.testing.assert_array_equal(policy_matrix(policy, log), [[1.0, 0.0, 0.0]] * 3)
    assert column_order(router.arms_, log).tolist() == [2, 0]


def test_unnamed_arms_are_placed_by_position(log):
    router = RandomMixture().fit(log.X, np.array([[0.0, 1.0, 0.0]] * 3))
    np.testing.assert_array_equal(policy_matrix(router, log), [[0.0, 1.0, 0.0]] * 3)
    two = RandomMixture().fit(log.X, np.array([[0.0, 1.0]] * 3))
    with pytest.raises(
        EvaluationError,
        match=r"arms \[0, 1\] are neither names of the log, which has \['small', 'medium', 'large'\], nor the places 0 to 2",
    ):
        policy_matrix(two, log)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (np.full((3, 2), 0.5), r"the policy must have shape \(3, 3\) like the log, got \(3, 2\)"),
        (np.full((2, 3), 1 / 3), r"the policy must have shape \(3, 3\) like the log, got \(2, 3\)"),
        ("large", r"the policy must have shape \(3, 3\) like the log, got \(\)"),
        (
            [[1, 0, 0], [0.5, 0.4, 0], [0, 0, 0]],
            r"2 of 3 rows of the policy are no distribution, the first is row 1 \(sum 0.9, least value 0\)",
        ),
        ([[1, 0, 0], [1, 0, 0], [1.5, -0.5, 0]], r"the first is row 2 \(sum 1, least value -0.5\)"),
        ([[np.nan, 0, 1], [1, 0, 0], [1, 0, 0]], "1 of 3 rows of the policy are no distribution, the first is row 0"),
        (["small", "huge", "tiny"], r"2 of 3 rows take an arm that is not in the log, the first is row 1 \('huge'\)"),
        ([0, 3, -1], r"2 of 3 rows take an arm that is not in the log, the first is row 1 \(3\)"),
        (["small"], "the policy names 1 arms for the log's 3 queries"),
        (
            [["a"] * 3] * 3,
            r"the policy must be numbers, but 3 of 3 values of arm 'small' are not, the first in row 0 \('a'\)",
        ),
        ([["1", "0", "0"]] * 3, "the policy must be numbers, but 3 of 3 values of arm 'small' are not"),
        (
            pd.DataFrame(EXPECTED, columns=["small", "medium", "huge"]),
            r"the policy .* \['huge'",
        ),
    ],
)
def test_what_is_no_policy_for_the_log_is_refused(policy, message, log):
    with pytest.raises(EvaluationError, match=message):
        policy_matrix(policy, log)


def test_routings_that_do_not_fit_the_log_are_refused(log):
    routing = SingleArm("small").fit(log.X, log.quality).route(log.X[:2])
    with pytest.raises(EvaluationError, match="the routing has 2 queries, and the log 3"):
        policy_matrix(routing, log)
    other = OutcomeLog.from_arrays(log.X, np.eye(3), arms=["small", "medium", "huge"])
    foreign = SingleArm("huge").fit(other.X, other.quality)
    with pytest.raises(EvaluationError, match="1 of the router's arms are not in the log, the first is 'huge'"):
        policy_matrix(foreign, log)


def test_a_router_needs_queries():
    log = OutcomeLog.from_arrays(None, np.eye(3), arms=["small", "medium", "large"])
    router = SingleArm("small").fit([[0.0]] * 3, log.quality)
    with pytest.raises(EvaluationError, match=r"the log has no queries \(X is None\) that the router could route"):
        policy_matrix(router, log)


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        (["1", "0", "2"], [1, 0, 2]),  # the log names them, in another order
        (["a", "b", "c"], [0, 1, 2]),
        (["0", "1", "c"], [0, 1, 2]),
        (["2", "x", "1", "0"], [3, 2, 0]),
    ],
)
def test_integer_arms_are_names_where_the_log_has_them_all_and_else_places(arms, expected):
    log = OutcomeLog.from_arrays(None, np.eye(len(arms)), arms=arms)
    assert column_order(np.arange(3), log).tolist() == expected


def test_a_router_of_a_numbered_frame_is_worth_what_its_arm_is():
    X, right = np.zeros((4, 1)), pd.DataFrame({0: np.ones(4), 1: np.zeros(4)})
    log = OutcomeLog.from_arrays(X, right[[1, 0]])
    assert log.arms == ("1", "0")
    router = SingleArm().fit(X, right)
    np.testing.assert_array_equal(policy_matrix(router, log), [[0.0, 1.0]] * 4)
    np.testing.assert_array_equal(policy_matrix(router.route(X), OutcomeLog.from_arrays(X, right)), [[1.0, 0.0]] * 4)


def test_integer_arms_that_are_neither_names_nor_places_are_shown_plainly():
    log = OutcomeLog.from_arrays(None, np.eye(2), arms=["10", "30"])
    with pytest.raises(
        EvaluationError, match=r"arms \[10, 20\] are neither names of the log, which has \['10', '30'\]"
    ):
        column_order(np.array([10, 20]), log)


def test_numbered_columns_of_a_policy_are_places():
    log = OutcomeLog.from_arrays(None, np.eye(3), arms=["small", "medium", "large"])
    np.testing.assert_array_equal(policy_matrix(pd.DataFrame(EXPECTED), log), EXPECTED)
