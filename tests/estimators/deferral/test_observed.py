"""What is observed of outcomes, and queries on which a weighted surrogate has nothing to weigh."""

from __future__ import annotations

import numpy as np
import pytest

from defer.estimators import SingleStageDeferral, TwoStageDeferral
from defer.estimators.deferral.observed import row_or_cell_weights, warn_of_no_credit
from defer.estimators.outcomes_input import read_outcomes
from defer.exceptions import DeferWarning


def test_weights_are_of_rows_or_where_something_is_missing_of_cells() -> None:
    whole, weight = read_outcomes([[1.0, 0.0]] * 2, n=2, sample_weight=[1.0, 3.0]), np.array([1.0, 3.0])
    np.testing.assert_array_equal(row_or_cell_weights(whole), weight)
    partly = read_outcomes([[1.0, 0.0], [1.0, np.nan]], n=2, sample_weight=weight)
    np.testing.assert_array_equal(row_or_cell_weights(partly), [[1.0, 1.0], [3.0, 0.0]])
    # Where arms share a term the second, which was seen on a quarter of the weight, stands for all of it.
    np.testing.assert_array_equal(row_or_cell_weights(partly, ["no", "table"]), [[1.0, 4.0], [3.0, 0.0]])


@pytest.mark.parametrize(
    "estimator", [TwoStageDeferral(), SingleStageDeferral(), SingleStageDeferral("cost_sensitive")]
)
def test_most_queries_without_credit_are_worth_a_warning_and_a_few_are_not(estimator: object) -> None:
    X = np.arange(20.0)[:, None]
    quality = np.tile([[1.0, 0.0], [0.0, 1.0]], (10, 1))
    quality[:10] = 0.0
    estimator.fit(X, quality)  # a half is not most
    quality[12] = 0.0
    with pytest.warns(
        DeferWarning,
        match=rf"{type(estimator).__name__}: 11 of 20 queries have no credit in any action, the first in row 0: .* they teach nothing "
        "about this choice, which is learned from the other 9",
    ):
        estimator.fit(X, quality)


def test_queries_without_weight_are_not_counted() -> None:
    credit = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    warn_of_no_credit(credit, np.array([0.0, 1.0, 1.0]), owner="Router")
    partly = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # what was not observed may be where the credit is
    warn_of_no_credit(credit, partly, owner="Router")
    with pytest.warns(DeferWarning, match="Router: 2 of 3 queries have no credit in any action, the first in row 0"):
        warn_of_no_credit(credit, np.ones(3), owner="Router")
