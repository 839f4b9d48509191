"""Every diagnostic draws what it holds, on axes of its own or on those given."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from defer.datasets import make_linear_deferral
from defer.evaluation import (
    coverage_accuracy,
    deferral_curve,
    excess_bound,
    oracle_deferral_curve,
    readout_calibration,
    regret_to_bayes,
    system_accuracy,
    wrong_label_mass,
)


def results() -> dict[str, object]:
    problem = make_linear_deferral(n_samples=300, n_experts=2, random_state=0)
    eta, p = problem.class_probability, problem.expert_probability
    own_right = problem.own_bayes_label == problem.y
    arm = np.where(eta.max(axis=1) < 0.7, 1 + p.argmax(axis=1), 0)
    return {
        "curve": deferral_curve(-eta.max(axis=1), own_right, problem.right[:, 0]),
        "regret": regret_to_bayes(arm, problem),
        "bound": excess_bound(np.log(np.hstack((eta**2, p))), problem.action_cost),
        "readout": readout_calibration(p, problem.right),
        "underfitting": wrong_label_mass(eta, problem.y),
        "coverage": coverage_accuracy(eta.max(axis=1), own_right),
        "system": system_accuracy(arm, own_right, problem.right),
    }


RESULTS = results()


@pytest.mark.parametrize("name", RESULTS)
def test_a_picture_has_named_axes_and_can_be_drawn(name, tmp_path):
    ax = RESULTS[name].plot()
    assert ax.get_xlabel()
    ax.figure.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000
    given = Figure().subplots()
    assert RESULTS[name].plot(given) is given


def test_drawing_leaves_no_figure_open():
    for found in RESULTS.values():
        found.plot()
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_what_is_drawn_is_what_is_held():
    curve = RESULTS["curve"]
    ax = curve.plot(label="confidence")
    oracle_deferral_curve(curve.quality, curve.quality).plot(ax, label="another")
    random, first, second = ax.get_lines()
    assert random.get_ydata().tolist() == curve.quality[[0, -1]].tolist()
    assert first.get_ydata().tolist() == curve.quality.tolist()
    assert first.get_color() != second.get_color()
    assert [str(line.get_label()).split(" (")[0] for line in ax.get_lines()] == ["random", "confidence", "another"]
    coverage = RESULTS["coverage"]
    assert coverage.plot().get_lines()[0].get_ydata().tolist() == coverage.accuracy.tolist()
    bound = RESULTS["bound"]
    assert bound.plot().get_lines()[1].get_xdata().tolist() == bound.bound.tolist()
