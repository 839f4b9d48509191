"""System accuracy against counting, the paired gain, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from defer.evaluation import system_accuracy
from defer.evaluation.intervals import wilson_interval
from defer.exceptions import EvaluationError


def test_counts():
    rng = np.random.default_rng(0)
    arm, own, experts = rng.integers(3, size=80), rng.integers(2, size=80), rng.integers(2, size=(80, 2)).astype(float)
    answered = np.where(arm == 0, own, experts[np.arange(80), np.maximum(arm - 1, 0)])
    experts[arm != 1, 0] = np.nan  # not asked there
    found = system_accuracy(arm, own, experts, names=["own", "reader", "surgeon"])
    rows = list(found.frame.iter_rows(named=True))
    assert [row["arm"] for row in rows] == ["own", "reader", "surgeon", "system"]
    for index, row in enumerate(rows):
        taken = arm == index if index < 3 else np.ones(80, dtype=bool)
        assert row["queries"] == taken.sum()
        assert row["share"] == pytest.approx(taken.mean())
        assert row["accuracy"] == pytest.approx(answered[taken].mean())
        assert row["own_accuracy"] == pytest.approx(own[taken].mean())
        bounds = wilson_interval(answered[taken].mean(), int(taken.sum()), z=1.959963984540054)
        assert (row["low"], row["high"]) == pytest.approx(bounds)
    assert (found.accuracy.value, found.accuracy.low) == (rows[3]["accuracy"], rows[3]["low"])
    assert found.gain.value == pytest.approx(answered.mean() - own.mean())
    assert sum(row["share"] * row["accuracy"] for row in rows[:3]) == pytest.approx(rows[3]["accuracy"])


def test_the_gain_is_paired():
    arm = np.repeat([0, 1], [900, 100])
    own = np.concatenate((np.tile([1, 0], 450), np.zeros(100)))
    found = system_accuracy(arm, own, np.ones(1000))
    assert found.gain.value == pytest.approx(0.1)
    assert found.gain.high - found.gain.low < found.accuracy.high - found.accuracy.low


def test_an_arm_that_took_nothing_has_no_accuracy():
    row = list(system_accuracy([0, 0], [1, 0], [1, 1]).frame.iter_rows(named=True))[1]
    assert (row["queries"], row["share"]) == (0, 0.0)
    assert all(math.isnan(row[name]) for name in ("accuracy", "low", "high", "own_accuracy"))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([0], [1], [[1], [0]]), {}, r"expert_right must have shape \(1,\) or \(1, J\), got \(2, 1\)"),
        (([0, 2], [1, 1], [1, 0]), {}, r"arm has 1 of 2 values .* in row 1 \(2\); each must be an index from 0 to 1"),
        (([0, 1], [1, 2], [1, 0]), {}, r"own_right has 1 of 2 values .* each must be in \[0, 1\]"),
        (([0, 1], [1, np.nan], [1, 0]), {}, r"own_right has 1 of 2 values .* each must be finite"),
        (([0, 1], [1, 1], [1, 3]), {}, r"answers of the arms taken has 1 of 2 values .* in row 1 \(3\.0\)"),
        (
            ([0, 1, 1], [1, 1, 1], [1, np.nan, 1]),
            {},
            r"1 of 3 queries go to an expert whose answer is missing, the first is row 1 \(expert\); leave them out",
        ),
        (([0, 1], [1, 1], [1, 0]), {"names": ["own"]}, "1 names for 2 arms"),
    ],
)
def test_wrong_input_is_refused(arguments, options, message):
    with pytest.raises(EvaluationError, match=message):
        system_accuracy(*arguments, **options)
