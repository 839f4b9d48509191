"""Joint goal accuracy, per turn and per state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defer.estimators.dialogue import DELETED
from defer.evaluation.goal_accuracy import goal_hits, joint_goal_accuracy
from defer.exceptions import EvaluationError


def test_an_error_stays_until_a_turn_overwrites_it() -> None:
    gold = [{"area": "north"}, {"food": "thai"}, {"area": "west"}, {}]
    predicted = [{"area": "south"}, {"food": "thai"}, {"area": "west"}, {}]
    assert goal_hits(predicted, gold, [0] * 4, propagate=False).tolist() == [False, True, True, True]
    assert goal_hits(predicted, gold, [0] * 4).tolist() == [False, False, True, True]
    assert joint_goal_accuracy(predicted, gold, [0] * 4) == 0.5


def test_an_error_that_is_mended_can_lift_states_above_turns() -> None:
    # Said twice in truth and caught twice too late: the turns are wrong, the states after them are not.
    gold = [{"area": "north"}, {"area": "north"}, {"food": DELETED}]
    predicted = [{"area": "north"}, {}, {}]
    assert joint_goal_accuracy(predicted, gold, [0] * 3, propagate=False) == pytest.approx(1 / 3)
    assert joint_goal_accuracy(predicted, gold, [0] * 3) == 1.0


def test_dialogues_do_not_touch_each_other_however_they_are_interleaved() -> None:
    rng = np.random.default_rng(0)
    dialogue = rng.integers(4, size=40)
    gold = [{"slot": int(value)} for value in rng.integers(3, size=40)]
    predicted = [{"slot": int(value)} for value in rng.integers(3, size=40)]
    hits = goal_hits(predicted, gold, dialogue.tolist())
    for name in range(4):
        rows = np.flatnonzero(dialogue == name)
        alone = goal_hits([predicted[row] for row in rows], [gold[row] for row in rows], [0] * len(rows))
        np.testing.assert_array_equal(hits[rows], alone)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=40)
def test_where_every_slot_is_said_once_no_error_is_mended(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gold = [{f"slot {turn}": "yes"} for turn in range(12)]
    predicted = [belief if rng.random() < 0.8 else {} for belief in gold]
    dialogue = np.repeat([0, 1, 2], 4).tolist()
    per_turn, per_state = (goal_hits(predicted, gold, dialogue, propagate=propagate) for propagate in (False, True))
    for prefix in range(1, 13):
        assert per_state[:prefix].mean() <= per_turn[:prefix].mean()
    expected = np.concatenate([np.logical_and.accumulate(part) for part in np.split(per_turn, 3)])
    np.testing.assert_array_equal(per_state, expected)


def test_another_deletion_value() -> None:
    gold, predicted = [{"area": "north"}, {"area": None}], [{"area": "south"}, {"area": None}]
    assert goal_hits(predicted, gold, [0, 0], deleted=None).tolist() == [False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], []), "at least one turn, got 0, 0 and 0"),
        (([{}], [{}, {}], [1, 1]), "one entry per turn and at least one turn, got 1, 2 and 2"),
        (([{}], [{}], [1, 1]), "got 1, 1 and 2"),
        (([{}, "x"], [{}, {}], [1, 1]), r"predicted must hold mappings .* 1 of 2 entries are none, the first in row 1 \('x'\)"),
        (([{}], [None], [1]), r"gold must hold mappings .*, the first in row 0 \(None\)"),
    ],
)  # fmt: skip
def test_wrong_input_is_named(arguments: Any, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        joint_goal_accuracy(*arguments)
