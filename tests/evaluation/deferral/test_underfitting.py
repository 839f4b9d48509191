"""Mass on wrong labels: the closed form from the cost vectors, and the indicator on read-outs that are known to be flattened."""

from __future__ import annotations

import numpy as np
import pytest

from defer.datasets import make_linear_deferral
from defer.evaluation import smoothing_mass, wrong_label_mass
from defer.exceptions import EvaluationError


@pytest.mark.parametrize(("n_classes", "cost", "mass"), [(10, 0.2, 0.6), (10, 0.05, 0.3), (100, 0.2, 0.942857)])
def test_smoothing_of_the_source(n_classes, cost, mass):
    assert smoothing_mass(n_classes, cost) == pytest.approx(mass, abs=1e-6)
    # From the costs themselves: label 0 is right, the expert is not.
    costs = np.array([0.0, *[1.0] * (n_classes - 1), 1.0 + cost])
    weight = costs.max() - costs
    assert smoothing_mass(n_classes, cost) == pytest.approx(weight[1:-1].sum() / weight.sum(), abs=1e-12)


def test_nothing_is_smoothed_without_a_price_or_a_wrong_label():
    assert smoothing_mass(10, 0.0) == 0.0
    assert smoothing_mass(1, 0.2) == 0.0


def test_the_population_optimum_of_the_source_is_flattened():
    eta, q, c = np.array([0.5, 0.3, 0.2]), np.array([0.9, 0.2, 0.1]), 0.2
    weight = np.zeros(4)
    for label in range(3):
        for is_right, chance in ((True, q[label]), (False, 1 - q[label])):
            costs = np.array([*(np.arange(3) != label), c + (not is_right)])
            weight += eta[label] * chance * (costs.max() - costs)
    assert weight == pytest.approx([0.594, 0.394, 0.294, 0.424], abs=1e-12)
    readout = weight[:3] / weight[:3].sum()
    assert readout == pytest.approx([0.463339, 0.307332, 0.229329], abs=1e-6)
    # A sample in which labels have exactly the shares of eta.
    y = np.repeat([0, 1, 2], [5, 3, 2])
    flat, true = (wrong_label_mass(np.tile(p, (10, 1)), y) for p in (readout, eta))
    assert true.mean.value == pytest.approx(0.62, abs=1e-12)
    assert true.excess.value == pytest.approx(0.0, abs=1e-12)
    assert flat.mean.value == pytest.approx(0.630265, abs=1e-6)
    assert flat.excess.value > 0.0


def test_true_probabilities_are_calibrated_and_flat_ones_have_too_much_mass():
    problem = make_linear_deferral(n_samples=5000, random_state=0)
    eta = problem.class_probability
    true, flat = wrong_label_mass(eta, problem.y, level=0.9999), wrong_label_mass(0.5 * eta + 0.5 / 3, problem.y)
    sharp = eta**3 / (eta**3).sum(axis=1, keepdims=True)
    assert true.excess.low < 0 < true.excess.high
    assert flat.excess.low > 0
    assert wrong_label_mass(sharp, problem.y).excess.high < 0
    assert true.mean.low < true.mean.value < true.mean.high
    table = true.frame.to_native().to_pydict()
    assert table["label"] == [0, 1, 2]
    assert np.dot(table["queries"], table["mass"]) / 5000 == pytest.approx(true.mean.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: smoothing_mass(0, 0.1), "n_classes must be at least 1, got 0"),
        (lambda: smoothing_mass(3, -0.1), r"cost must be a finite price >= 0 in units of errors, got -0\.1"),
        (lambda: smoothing_mass(3, np.nan), "cost must be a finite price"),
        (
            lambda: wrong_label_mass([[0.5, 0.5], [0.7, 0.7]], [0, 1]),
            r"class_probability has 1 of 2 rows that are no probabilities, the first is row 1 \(least 0\.7, sum 1\.4\)",
        ),
        (lambda: wrong_label_mass([[1.2, -0.2]], [0]), r"the first is row 0 \(least -0\.2, sum 1\)"),
        (
            lambda: wrong_label_mass([[0.5, 0.5]], [2]),
            r"y has 1 of 1 values .* \(2\); each must be an index from 0 to 1",
        ),
        (lambda: wrong_label_mass([[0.5, 0.5]], ["cat"]), "y must be 1 whole numbers, one per query, got <U3"),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises(EvaluationError, match=message):
        call()
