"""Read-out calibration: per expert that of the house, on the queries on which the expert was asked."""

from __future__ import annotations

import numpy as np
import pytest

from defer.datasets import make_linear_deferral
from defer.evaluation import calibration, readout_calibration
from defer.evaluation.intervals import wilson_interval
from defer.exceptions import EvaluationError


@pytest.fixture
def asked():
    problem = make_linear_deferral(n_samples=4000, n_experts=2, random_state=0)
    right = problem.right.astype(float)
    right[::3, 1] = np.nan
    return problem.expert_probability, right


def test_it_is_the_calibration_of_each_column(asked):
    probability, right = asked
    found = readout_calibration(probability, right, names=["reader", "surgeon"])
    for index, (name, row) in enumerate(zip(("reader", "surgeon"), found.frame.iter_rows(named=True), strict=True)):
        single = calibration(probability[:, [index]], right[:, [index]])
        seen = np.isfinite(right[:, index])
        assert row["expert"] == name
        assert row["answers"] == seen.sum()
        assert (row["ece"], row["brier"], row["base_brier"]) == (single.ece, single.brier, single.base_brier)
        assert row["accuracy"] == pytest.approx(right[seen, index].mean())
        assert row["mean_probability"] == pytest.approx(probability[seen, index].mean())
        bounds = wilson_interval(row["accuracy"], row["answers"], z=1.959963984540054)
        assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx(bounds)
        assert found.per_expert[name].predicted.tolist() == single.predicted.tolist()


def test_the_truth_is_calibrated_and_a_distortion_is_not(asked):
    probability, right = asked
    truth, flat = readout_calibration(probability, right), readout_calibration(probability**3, right)
    # Bins hold at least 266 answers: errors of at most .031, whose mean size over ten bins is .025 with a deviation of .006.
    assert max(row["ece"] for row in truth.frame.iter_rows(named=True)) < 0.06
    assert min(row["ece"] for row in flat.frame.iter_rows(named=True)) > 0.1


def test_probabilities_above_one_are_counted_and_an_expert_never_asked_is_left_out():
    found = readout_calibration([[1.8, 0.5], [0.5, 0.5]], [[1, np.nan], [0, np.nan]])
    assert list(found.per_expert) == ["expert 1"]
    assert found.frame["above_one"].to_list() == [0.5]
    assert found.frame["brier"].to_list() == pytest.approx([(0.8**2 + 0.5**2) / 2])
    assert repr(found).startswith("expert 1: ECE 0.65, Brier 0.445")


@pytest.mark.parametrize(
    ("probability", "right", "options", "message"),
    [
        ([[0.5]], [[1, 0]], {}, r"right must have the shape of probability, \(1, 1\), got \(1, 2\)"),
        ([0.5], [1], {}, r"probability must have shape \(n, m\) with n >= 1 and m >= 1, got \(1,\)"),
        ([[np.inf]], [[1]], {}, "probability has 1 of 1 values that are not allowed"),
        (
            [[0.5], [0.5]],
            [[1], [2]],
            {},
            r"right has 1 of 2 values that are neither 0, 1 nor NaN, the first in row 1, column 0 \(2\)",
        ),
        ([[0.5, 0.5]], [[np.nan, np.nan]], {}, "no answer of any of the 2 experts was observed"),
        ([[0.5]], [[1]], {"names": ["a", "b"]}, "2 names for 1 experts: a, b"),
        ([[0.5]], [[1]], {"n_bins": 0}, "n_bins must be at least 1"),
    ],
)
def test_wrong_input_is_refused(probability, right, options, message):
    with pytest.raises(EvaluationError, match=message):
        readout_calibration(probability, right, **options)
