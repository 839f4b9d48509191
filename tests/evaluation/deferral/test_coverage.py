"""Coverage and accuracy against a loop over thresholds; the intervals cover."""

from __future__ import annotations

import numpy as np
import pytest

from defer.evaluation import coverage_accuracy
from defer.evaluation.intervals import wilson_interval
from defer.exceptions import EvaluationError


def test_every_threshold_by_itself():
    rng = np.random.default_rng(0)
    confidence, right = rng.integers(6, size=50) / 5, rng.integers(2, size=50)
    found = coverage_accuracy(confidence, right)
    assert found.threshold.tolist() == sorted(set(confidence.tolist()), reverse=True)
    for row in found.frame.iter_rows(named=True):
        kept = confidence >= row["threshold"]
        assert row["coverage"] == pytest.approx(kept.mean())
        assert row["accuracy"] == pytest.approx(right[kept].mean())
        bounds = wilson_interval(right[kept].mean(), int(kept.sum()), z=1.959963984540054)
        assert (row["low"], row["high"]) == pytest.approx(bounds)
    assert found.coverage[-1] == 1.0
    assert repr(found) == f"CoverageAccuracy(6 thresholds, accuracy {right.mean():.4g} at full coverage)"


def test_order_of_rows_does_not_matter():
    confidence, right = np.array([0.5, 0.5, 0.9, 0.5]), np.array([1, 0, 1, 0])
    one, other = coverage_accuracy(confidence, right), coverage_accuracy(confidence[::-1], right[::-1])
    assert one.accuracy.tolist() == other.accuracy.tolist() == [1.0, 0.5]


def test_a_wider_level_has_wider_intervals():
    narrow, wide = (coverage_accuracy([0.9, 0.8, 0.7], [1, 0, 1], level=level) for level in (0.5, 0.99))
    assert (wide.low < narrow.low).all()
    assert (wide.high >= narrow.high).all()


@pytest.mark.parametrize(
    ("confidence", "right", "message"),
    [
        ([], [], r"confidence must have shape \(n,\) and not be empty"),
        ([0.5], [1, 0], r"right must have shape \(1,\), got \(2,\)"),
        ([np.nan], [1], "confidence has 1 of 1 values that are not allowed"),
        ([0.5, 0.6], [1, 2], r"right has 1 of 2 values .* in row 1 \(2\.0\); each must be in \[0, 1\]"),
    ],
)
def test_wrong_input_is_refused(confidence, right, message):
    with pytest.raises(EvaluationError, match=message):
        coverage_accuracy(confidence, right)
