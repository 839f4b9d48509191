"""Calibration against scikit-learn, and by hand where it has no peer."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from defer.evaluation import calibration
from defer.exceptions import EvaluationError


@pytest.fixture
def graded():
    rng = np.random.default_rng(0)
    predicted = rng.random((150, 2))
    return predicted, (rng.random((150, 2)) < predicted**2).astype(float)


@pytest.mark.parametrize("n_bins", [1, 7, 10])
@pytest.mark.parametrize("digits", [15, 1])
def test_bins_and_brier_are_those_of_scikit_learn(graded, n_bins, digits):
    # One digit makes equal predictions, which share a bin.
    predicted, quality = graded[0].round(digits), graded[1]
    found = calibration(predicted, quality, n_bins=n_bins)
    realised, mean = calibration_curve(quality.ravel(), predicted.ravel(), n_bins=n_bins, strategy="quantile")
    np.testing.assert_allclose(found.predicted, mean)
    np.testing.assert_allclose(found.realised, realised)
    assert found.brier == pytest.approx(brier_score_loss(quality.ravel(), predicted.ravel()))
    share = np.full(300, quality.mean())
    assert found.base_brier == pytest.approx(brier_score_loss(quality.ravel(), share))
    assert found.count.sum() == 300
    assert found.ece == pytest.approx((found.count * np.abs(mean - realised)).sum() / 300)


def test_bins_hold_equally_many_pairs(graded):
    assert calibration(*graded, n_bins=10).count.tolist() == [30] * 10


def test_worked_example():
    found = calibration([[0.2], [0.2], [0.8], [0.8]], [[0.0], [1.0], [1.0], [1.0]], arms=("only",), n_bins=2)
    assert found.predicted.tolist() == pytest.approx([0.2, 0.8])
    assert found.realised.tolist() == [0.5, 1.0]
    assert found.count.tolist() == [2, 2]
    assert found.ece == pytest.approx(0.25)
    assert found.brier == pytest.approx((0.04 + 0.64 + 0.04 + 0.04) / 4)
    assert found.base_brier == pytest.approx(0.1875)
    assert found.per_arm == {"only": pytest.approx((0.25, 0.19))}
    assert found.frame.columns == ["predicted", "realised", "count"]
    assert len(found.frame) == 2


def test_perfect_and_constant_predictions(graded):
    quality = graded[1]
    perfect = calibration(quality, quality)
    assert (perfect.ece, perfect.brier) == (0.0, 0.0)
    constant = calibration(np.full((150, 2), quality.mean()), quality)
    assert constant.count.tolist() == [300]
    assert constant.ece == pytest.approx(0.0, abs=1e-12)
    assert constant.brier == pytest.approx(constant.base_brier)


def test_each_arm_is_described_by_its_own_observed_pairs(graded):
    predicted, quality = graded[0].copy(), graded[1].copy()
    quality[::3, 0] = np.nan
    quality[:, 1] = np.nan
    predicted[:, 1] = np.nan
    found = calibration(predicted, quality, arms=("seen", "unseen"), n_bins=5)
    seen = np.isfinite(quality[:, 0])
    alone = calibration(predicted[seen, :1], quality[seen, :1], n_bins=5)
    assert set(found.per_arm) == {"seen"}
    assert found.per_arm["seen"] == pytest.approx((alone.ece, alone.brier))
    assert found.count.sum() == seen.sum()


@pytest.mark.parametrize(
    ("predicted", "quality", "options", "message"),
    [
        ([[0.5]], [[1.0, 0.0]], {}, r"must have one shape \(n, m\), got \(1, 1\) and \(1, 2\)"),
        ([0.5], [1.0], {}, r"must have one shape \(n, m\), got \(1,\) and \(1,\)"),
        ([[0.5]], [[np.nan]], {}, "no quality was observed"),
        (
            [[0.5, np.nan], [np.inf, 0.1]],
            [[1.0, np.nan], [1.0, 0.0]],
            {},
            "1 observed pairs, the first in row 1, arm 0",
        ),
        ([[0.5]], [[1.0]], {"n_bins": 0}, "n_bins must be at least 1, got 0"),
        ([[0.5]], [[1.0]], {"arms": ("a", "b")}, "2 names of arms for 1 columns"),
    ],
)
def test_wrong_input_is_refused(predicted, quality, options, message):
    with pytest.raises(EvaluationError, match=message):
        calibration(predicted, quality, **options)
