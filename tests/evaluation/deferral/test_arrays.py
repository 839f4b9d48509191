"""What all diagnostics of deferral refuse: levels that are none, and tables that hold no numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest

from defer.evaluation import (
    coverage_accuracy,
    deferral_curve,
    excess_bound,
    readout_calibration,
    regret_to_bayes,
    system_accuracy,
    wrong_label_mass,
)
from defer.evaluation.deferral.arrays import arm_names
from defer.exceptions import EvaluationError

WITH_LEVEL = {
    "coverage": lambda level: coverage_accuracy([0.9, 0.8], [1, 0], level=level),
    "readout": lambda level: readout_calibration([[0.9], [0.8]], [[1], [0]], level=level),
    "regret": lambda level: regret_to_bayes([0, 1], [[0.1, 0.2], [0.3, 0.1]], level=level),
    "system": lambda level: system_accuracy([0, 1], [1, 0], [0, 1], level=level),
    "wrong labels": lambda level: wrong_label_mass([[0.9, 0.1]], [0], level=level),
}


@pytest.mark.parametrize("level", [0.0, 1.0, 3, -0.5, float("nan"), "0.95", True])
@pytest.mark.parametrize("name", WITH_LEVEL)
def test_a_level_is_a_probability(name, level):
    with pytest.raises(EvaluationError, match=re.escape(f"level must be a number in (0, 1), got {level!r}")):
        WITH_LEVEL[name](level)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: coverage_accuracy(["0.9"], [1]), "confidence must be numbers, and it holds text, first '0.9'"),
        (lambda: coverage_accuracy([0.9], ["right"]), "right must be numbers, and it holds text, first 'right'"),
        (lambda: readout_calibration([["a"]], [[1]]), "probability must be numbers, and it holds text, first 'a'"),
        (lambda: readout_calibration([[0.5]], [["yes"]]), "right must be numbers, and it holds text, first 'yes'"),
        (lambda: system_accuracy([0], [1], ["a"]), "expert_right must be numbers, and it holds text, first 'a'"),
        (lambda: system_accuracy([0], ["a"], [1]), "own_right must be numbers, and it holds text, first 'a'"),
        (lambda: deferral_curve(["a"], [0], [1]), "score must be numbers, and it holds text, first 'a'"),
        (lambda: excess_bound([["a", "b"]], [[0.0, 1.0]]), "scores must be numbers, and it holds text, first 'a'"),
        (lambda: wrong_label_mass([[1.0], [1.0, 2.0]], [0, 0]), "class_probability must be numbers: "),
    ],
)
def test_text_is_no_number(call, message):
    with pytest.raises(EvaluationError, match=re.escape(message)):
        call()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["own", "ann"], "2 names for 3 arms: own, ann"),
        (["own", "ann", "ann"], "names must differ, got own, ann, ann"),
    ],
)
def test_names_that_cannot_be_are_refused(names, message):
    with pytest.raises(EvaluationError, match=message):
        arm_names(names, 2)
    with pytest.raises(EvaluationError, match="1 names for 2 experts: ann"):
        arm_names(["ann"], 2, own=False)


def test_experts_are_called_as_the_estimators_call_them():
    assert arm_names(None, 1) == ("own", "expert")
    assert arm_names(None, 2, own=False) == ("expert 1", "expert 2")
    assert np.array(arm_names(None, 11))[-1] == "expert 11"
