"""Which answers count as right, and whose pool a query joins."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from defer.estimators.routers.pools import BOTH_RIGHT, pool_votes, right_answers, right_grade
from defer.exceptions import RouterInputError

PATTERNS = np.array(list(itertools.product([0.0, 1.0, np.nan], repeat=3)))


RIGHT_SHARE = np.array([0.5, 0.2, 0.75])


def by_loops(right, order, rule):
    won = [arm for arm in range(len(right)) if right[arm] == 1.0]
    votes = [float(arm in won) for arm in range(len(right))]
    if rule == "cheapest" and won:
        votes = [float(arm == next(arm for arm in order if arm in won)) for arm in range(len(right))]
    if rule == "drop":
        # The mean over what the outcomes that were not observed may be.
        gaps = [arm for arm in range(len(right)) if np.isnan(right[arm])]
        total = 0.0
        for filled in itertools.product([0.0, 1.0], repeat=len(gaps)):
            chance = np.prod(
                [RIGHT_SHARE[arm] if one else 1 - RIGHT_SHARE[arm] for arm, one in zip(gaps, filled, strict=True)]
            )
            total += chance * (len(won) + sum(filled) < len(right))
        votes = [total * vote for vote in votes]
    return votes


@pytest.mark.parametrize("rule", BOTH_RIGHT)
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_every_pattern_of_three_arms(rule, order):
    expected = [by_loops(right, order, rule) for right in PATTERNS]
    found = pool_votes(PATTERNS, np.array(order), rule, right_share=RIGHT_SHARE)
    np.testing.assert_allclose(found, expected, atol=1e-15)


def test_the_chance_of_what_was_not_observed_is_the_mean_of_its_arm_by_default():
    right = np.array([[1.0, 1.0, np.nan], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    found = pool_votes(right, np.arange(3), "drop")
    np.testing.assert_allclose(found, pool_votes(right, np.arange(3), "drop", right_share=np.array([0.5, 0.5, 0.5])))
    assert found[0].tolist() == [0.5, 0.5, 0.0]


def test_right_is_the_highest_grade_or_what_lies_above_a_threshold():
    quality = np.array([[0.0, 0.5], [1.0, np.nan]])
    assert right_answers(quality, right_grade("Router", quality, None))[:, 0].tolist() == [0, 1]
    assert right_answers(quality, right_grade("Router", quality, 0.5)).tolist()[0] == [0, 0]
    above = right_answers(quality, right_grade("Router", quality, 0.4999))
    np.testing.assert_array_equal(above, [[0, 1], [1, np.nan]])
    # Grades need not lie in [0, 1].
    assert right_grade("Router", quality + 3.0, None) == 4.0


def test_a_measurement_needs_a_threshold():
    with pytest.raises(
        RouterInputError, match=r"Router: y has 33 different values from 0 to 1, .* as in right_above=0\.5"
    ):
        right_grade("Router", np.linspace(0, 1, 33)[:, None], None)
    assert right_grade("Router", np.linspace(0, 1, 32)[:, None], None) == 1.0


@pytest.mark.parametrize("value", ["high", np.nan, np.inf, True])
def test_a_wrong_threshold_is_refused(value):
    with pytest.raises(RouterInputError, match="Router: right_above must be a finite number or None, got"):
        right_grade("Router", np.eye(2), value)


def test_an_unknown_rule_is_refused():
    with pytest.raises(RouterInputError, match="both_right must be one of 'cheapest', 'drop', 'each', got 'all'"):
        pool_votes(np.eye(2), np.arange(2), "all")
