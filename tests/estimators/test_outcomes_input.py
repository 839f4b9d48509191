from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from defer.estimators import QualityRouter
from defer.estimators.outcomes_input import names_arms, read_outcomes, read_table, read_weight
from defer.exceptions import MissingPropensityWarning, RouterInputError
from defer.portfolios.arm_matrix import ArmMatrix

NAN = np.nan


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"a": [0.5, None], "b": [1, 0]}),
        pd.DataFrame({"a": [0.5, None], "b": [1, 0]}).convert_dtypes(),
        pl.DataFrame({"a": [0.5, None], "b": [1, 0]}),
        pa.table({"a": [0.5, None], "b": [1, 0]}),
        pl.DataFrame({"a": [0.5, None], "b": [True, False]}),
        ArmMatrix([[0.5, 1.0], [NAN, 0.0]], ["a", "b"]),
    ],
    ids=["pandas", "pandas nullable", "polars", "pyarrow", "booleans", "arm matrix"],
)
def test_tables_with_names_name_the_arms_and_null_is_not_observed(frame: Any) -> None:
    assert names_arms(frame)
    arms, table = read_table(frame, name="y")
    assert arms is not None
    assert arms.tolist() == ["a", "b"]
    assert table.dtype == np.float64
    np.testing.assert_array_equal(table, [[0.5, 1.0], [NAN, 0.0]])


def test_numbers_may_be_names() -> None:
    outcomes = read_outcomes(pd.DataFrame([[0.5, 1.0]], columns=[7, 3]), n=1)
    assert outcomes.arms.tolist() == [7, 3]
    np.testing.assert_array_equal(outcomes.quality, [[0.5, 1.0]])


@pytest.mark.parametrize(
    "labels",
    [["b", "a", "b"], np.array(["b", "a", "b"], dtype=object), pd.Series(["b", "a", "b"]), pl.Series(["b", "a", "b"])],
)
def test_labels_become_one_hot_quality(labels: Any) -> None:
    outcomes = read_outcomes(labels, n=3)
    assert outcomes.arms.tolist() == ["a", "b"]
    np.testing.assert_array_equal(outcomes.quality, [[0, 1], [1, 0], [0, 1]])
    assert outcomes.weighting == "none"


def test_costs_follow_their_names() -> None:
    quality = ArmMatrix([[0.5, 1.0]], ["a", "b"])
    outcomes = read_outcomes(quality, n=1, cost=pd.DataFrame({"b": [2.0], "a": [1.0]}))
    np.testing.assert_array_equal(outcomes.cost, [[1.0, 2.0]])
    np.testing.assert_array_equal(read_outcomes(quality, n=1, cost=[[3.0, 4.0]]).cost, [[3.0, 4.0]])


def test_weights_of_full_partial_and_empty_rows() -> None:
    quality = [[1.0, 0.0], [0.5, NAN], [NAN, NAN], [NAN, 1.0]]
    outcomes = read_outcomes(quality, n=4, propensity=[NAN, 0.25, NAN, 0.5], sample_weight=[1, 2, 3, 4])
    assert outcomes.weighting == "inverse propensity"
    np.testing.assert_array_equal(outcomes.weight, [1.0, 8.0, 3.0, 8.0])
    np.testing.assert_array_equal(outcomes.propensity, [1.0, 0.25, 1.0, 0.5])
    np.testing.assert_array_equal(outcomes.sample_weight, [1.0, 2.0, 3.0, 4.0])
    unweighted = read_outcomes(quality, n=4)
    assert unweighted.weighting == "missing at random"
    assert unweighted.weight is None


def test_a_bandit_log_without_propensities_warns_and_a_log_with_gaps_does_not() -> None:
    X, quality = [[0.0], [1.0], [2.0]], np.array([[1.0, NAN, NAN], [NAN, 0.0, NAN], [NAN, NAN, 0.5]])
    with pytest.warns(MissingPropensityWarning, match=r"at most one observed arm in every row.*pass propensity="):
        router = QualityRouter().fit(X, quality)
    assert router.weighting_ == "missing at random"
    quality[0] = [1.0, 0.5, NAN]
    assert QualityRouter().fit(X, quality).weighting_ == "missing at random"


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        (None, {}, "a router requires y to be passed"),
        ([[1.0, 0.0]], {}, r"inconsistent numbers of samples: X has 3 rows, y has 1"),
        ([[1, NAN], [0, NAN], [1, NAN]], {}, "y: 1 of 2 arms have no observed quality, the first is 1; leave them out"),
        ([[1, np.inf], [0, 1], [1, 0]], {}, "y: 1 values are infinite, the first in row 0, arm 1; NaN means not observed"),
        (
            [[1, 0], [-1e160, 1], [1, 2e100]],
            {},
            r"y: 2 values are beyond 1e\+100, the first in row 1, arm 0 \(-1e\+160\); divide the whole table by one number",
        ),
        ("full", {"cost": [[1, 1], [1, 1e101], [1, 1]]}, r"cost: 1 values are beyond 1e\+100, the first in row 1, arm 1 \(1e\+101\)"),
        ([["0.5", "1"]] * 3, {}, "y must be numbers, and it holds text, first '0.5'"),
        (np.array([[0.5, "good"]] * 3, dtype=object), {}, "y must be numbers, and it holds text, first 'good'"),
        (pd.DataFrame({"a": [1.0] * 3, "b": ["x"] * 3}), {}, "y: column 'b' is of type String, but must be numeric"),
        (pd.DataFrame(np.ones((3, 2)), columns=["a", "a"]), {}, "y names the arm 'a' 2 times"),
        (ArmMatrix(np.ones((3, 2)), ["a", "a"]), {}, "y names the arm 'a' 2 times"),
        ([[0.5], [0.25], [1.0]], {}, "Unknown label type: y has one column without a name, .* must name it"),
        ([0.5, NAN, 1.0], {}, "y contains NaN or infinity in 1 rows, the first is row 1"),
        ("full", {"cost": [1.0, 2.0, 3.0]}, r"cost must be a table of shape \(n, m\), one column per arm, got shape \(3,\)"),
        ("full", {"cost": np.ones((3, 3))}, r"cost must have the shape of y, \(3, 2\), got \(3, 3\)"),
        ("full", {"cost": [[1, 1], [-2.5, 1], [-1, 1]]}, r"cost: 2 values are below 0, the first in row 1, arm 'a' \(-2\.5\); a rebate"),
        ("full", {"cost": [[1, 1], [1, np.inf], [1, 1]]}, "cost: 1 values are infinite, the first in row 1, arm 1"),
        ("full", {"cost": [[1, NAN]] * 3}, "cost: 1 of 2 arms have no observed cost, the first is 'b'"),
        ("full", {"cost": [["1", "2"]] * 3}, "cost must be numbers, and it holds text, first '1'"),
        ("full", {"cost": pd.DataFrame(np.ones((3, 2)), columns=["a", "c"])}, r"cost and y must have the same arms: only in cost \['c'\], only in y \['b'\]"),
        ("full", {"cost": pd.DataFrame(np.ones((3, 3)), columns=["a", "b", "c"])}, r"only in cost \['c'\], only in y \[\]"),
        ("full", {"cost": ArmMatrix(np.ones((3, 3)), ["a", "b", "b"])}, "cost names the arm 'b' 2 times"),
        ("full", {"propensity": [0.5, 0.5]}, r"propensity must have shape \(3,\), got \(2,\)"),
        ("partial", {"propensity": [0.0, 1.5, 0.5]}, r"propensity: 2 partly observed rows have a value outside \(0, 1\], the first is row 0 \(0\)"),
        ("partial", {"propensity": [0.5, NAN, 0.5]}, r"1 partly observed rows have a value outside \(0, 1\], the first is row 1 \(nan\)"),
        ("partial", {"propensity": ["0.5"] * 3}, "propensity must be numbers, and it holds text"),
        ("full", {"sample_weight": [1, 1]}, r"sample_weight must have shape \(3,\), got \(2,\)"),
        ("full", {"sample_weight": [1, -1, NAN]}, r"sample_weight has 2 values that are negative or not finite, the first in row 1 \(-1\.0\)"),
        ("full", {"sample_weight": [0, 0, 0]}, "sample_weight is zero in every row"),
        ("partial", {"sample_weight": [1, 0, 0]}, "arms have no observed quality in a row of positive weight, the first is 'b'"),
    ],
)  # fmt: skip
def test_wrong_outcomes_say_what_where_and_how_many(y: Any, options: dict[str, Any], message: str) -> None:
    named = {
        "full": ArmMatrix([[1.0, 0.0], [0.5, 0.25], [0.0, 1.0]], ["a", "b"]),
        "partial": ArmMatrix([[1.0, NAN], [NAN, 0.25], [0.0, NAN]], ["a", "b"]),
    }
    y = named.get(y, y) if isinstance(y, str) else y
    with pytest.raises(RouterInputError, match=message):
        read_outcomes(y, n=3, **options)
    # The same message reaches who fits a router.
    with pytest.raises(RouterInputError, match=message):
        QualityRouter().fit([[0.0], [1.0], [2.0]], y, **options)


def test_weights_are_read_as_numbers() -> None:
    assert read_weight(None, n=3) is None
    np.testing.assert_array_equal(read_weight([True, False, True], n=3), [1.0, 0.0, 1.0])
    with pytest.raises(RouterInputError, match="sample_weight must be numbers"):
        read_weight([1.0, {}, 2.0], n=3)


def test_what_is_given_is_not_changed() -> None:
    quality, cost = np.array([[1.0, NAN], [0.0, 1.0]]), np.array([[1.0, NAN], [2.0, 3.0]])
    before = quality.copy(), cost.copy()
    read_outcomes(quality, n=2, cost=cost, propensity=[0.5, 1.0])
    np.testing.assert_array_equal(quality, before[0])
    np.testing.assert_array_equal(cost, before[1])


def test_rows_are_taken_from_every_table() -> None:
    y = [[1.0, NAN], [NAN, 0.0], [0.5, 0.25]]
    outcomes = read_outcomes(
        y, n=3, cost=[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], propensity=[0.5, 0.25, 0.1], sample_weight=[1.0, 2.0, 3.0]
    )
    part = outcomes.of_rows(np.array([2, 1]))
    np.testing.assert_array_equal(part.quality, [[0.5, 0.25], [NAN, 0.0]])
    np.testing.assert_array_equal(part.cost, [[5.0, 6.0], [3.0, 4.0]])
    np.testing.assert_array_equal(part.weight, [3.0, 8.0])
    np.testing.assert_array_equal(part.sample_weight, [3.0, 2.0])
    np.testing.assert_array_equal(part.propensity, [1.0, 0.25])
    assert part.cell_propensity is None
    assert (part.weighting, part.arms.tolist()) == (outcomes.weighting, outcomes.arms.tolist())
