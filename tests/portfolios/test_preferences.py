"""Battles as a quality table and back: what is read, what is refused, and how single outcomes are matched."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest

from defer.exceptions import OutcomeLogError
from defer.portfolios.preferences import battles, preference_table, shares_beside


@pytest.mark.parametrize(
    "winner",
    [
        ["a", "b", "tie"],
        ["model_a", "model_b", "tie (bothbad)"],
        ["gpt", "llama", "tie"],
        [1, 0, 0.5],
        np.array([1.0, 0.0, 0.5]),
        pd.Series(["a", "b", "tie"]),
    ],
    ids=["words", "arena", "names", "numbers", "array", "series"],
)
def test_every_way_to_name_the_winner_gives_the_same_table(winner: Any) -> None:
    table = preference_table(["gpt", "mix", "gpt"], ["mix", "llama", "llama"], winner)
    assert table.arms == ("gpt", "llama", "mix")
    np.testing.assert_array_equal(table, [[1, np.nan, 0], [np.nan, 1, 0], [0.5, 0.5, np.nan]])


def test_arms_may_be_given_and_may_be_numbers() -> None:
    table = preference_table([3, 7], [7, 3], ["a", "a"], arms=[7, 3, 5])
    assert table.arms == (7, 3, 5)
    np.testing.assert_array_equal(table, [[0, 1, np.nan], [1, 0, np.nan]])


@pytest.mark.parametrize(
    ("model_a", "model_b", "winner", "options", "message"),
    [
        (["x", "x"], ["y"], ["a", "a"], {}, "equally long, got 2, 1 and 2 rows"),
        ([], [], [], {}, "have no row"),
        ("x", ["y"], ["a"], {}, "model_a must be a sequence with one value per battle, got 'x'"),
        (["x", "x"], ["y", "z"], ["a", "c"], {}, "winner in row 1 is 'c'; it must be 'a', 'b' or 'tie', or one of the two"),
        (["x"], ["y"], ["z"], {"arms": ["x", "y", "z"]}, "winner in row 0 is 'z'"),
        (["x"], ["y"], [0.7], {}, "winner in row 0 is 0.7"),
        (["x"], ["y"], [True], {}, "winner in row 0 is True"),
        (["x"], ["y"], [None], {}, "winner in row 0 is None"),
        (["x", "x"], ["y", "x"], ["a", "a"], {}, r"1 of 2 battles are of a model against itself, the first in row 1 \('x'\)"),
        (["x", None], ["y", "y"], ["a", "a"], {}, "model_a has 1 rows without a name, the first is row 1"),
        (["x"], ["q"], ["a"], {"arms": ["x", "y"]}, r"model_b has 1 names that are not in arms, the first in row 0 \('q'\)"),
        (["x"], ["y"], ["a"], {"arms": ["x", "y", "x"]}, "arms names 'x' 2 times"),
        (["b"], ["y"], ["b"], {}, "winner 'b' in row 0 may be the name of a model or say which one won"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(model_a: Any, model_b: Any, winner: Any, options: Any, message: str) -> None:
    with pytest.raises(OutcomeLogError, match=message):
        preference_table(model_a, model_b, winner, **options)


def test_battles_are_all_pairs_of_observed_outcomes() -> None:
    rng = np.random.default_rng(0)
    quality = rng.integers(3, size=(40, 4)) / 2.0
    quality[rng.random((40, 4)) < 0.3] = np.nan
    quality[np.isfinite(quality).sum(axis=1) == 1] = np.nan
    found = battles(quality)
    expected = {
        (row, a, b): 0.5 + 0.5 * np.sign(quality[row, a] - quality[row, b])
        for row in range(40)
        for a, b in itertools.combinations(range(4), 2)
        if np.isfinite(quality[row, [a, b]]).all()
    }
    triples = zip(found.row.tolist(), found.first.tolist(), found.second.tolist(), strict=True)
    assert dict(zip(triples, found.win.tolist(), strict=True)) == expected
    assert len(found) == len(expected)
    assert found.within_row.all()
    assert (np.diff(found.row) >= 0).all()


def test_a_table_of_preferences_gives_back_its_battles() -> None:
    found = battles(np.asarray(preference_table(["x", "z", "y"], ["y", "x", "z"], ["a", "tie", "b"])))
    assert found.row.tolist() == [0, 1, 2]
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 2)]
    assert found.win.tolist() == [1.0, 0.5, 0.0]


def test_single_outcomes_fight_all_outcomes_of_the_other_arms() -> None:
    rng = np.random.default_rng(1)
    n, weight = 60, rng.integers(3, size=60).astype(float)
    arm, value = rng.integers(3, size=n), rng.integers(3, size=n) / 2.0
    quality = np.full((n, 3), np.nan)
    quality[np.arange(n), arm] = value
    found = battles(quality, weight)
    assert not found.within_row.any()
    assert len(found) == 2 * int((weight > 0).sum())
    for row, first, second, win in zip(found.row, found.first, found.second, found.win, strict=True):
        assert first == arm[row]
        other = arm == second
        share = (other & (value < value[row])) + 0.5 * (other & (value == value[row]))
        assert win == pytest.approx(weight @ share / weight[other].sum())


def test_every_row_is_read_by_itself() -> None:
    # One row of two outcomes among single ones: its battle stands beside theirs, and its outcomes are among the others'.
    nan = np.nan
    quality = np.array([[1.0, nan, nan], [nan, 0.5, nan], [nan, nan, nan], [0.0, 1.0, nan], [nan, nan, 0.2]])
    found = battles(quality, np.array([1.0, 3.0, 1.0, 1.0, 2.0]))
    table = {
        (row, first, second): (win, within)
        for row, first, second, win, within in zip(
            found.row.tolist(), found.first.tolist(), found.second.tolist(), found.win.tolist(),
            found.within_row.tolist(), strict=True,
        )
    }  # fmt: skip
    assert table == {
        (0, 0, 1): (pytest.approx(0.75 + 0.25 / 2), False),
        (0, 0, 2): (1.0, False),
        (1, 1, 0): (0.5, False),
        (1, 1, 2): (1.0, False),
        (3, 0, 1): (0.0, True),
        (4, 2, 0): (0.5, False),
        (4, 2, 1): (0.0, False),
    }


def test_shares_below_and_above() -> None:
    below, above = shares_beside(np.array([0.5, 2.0, -1.0]), np.array([1.0, 0.5, 0.0]), np.array([2.0, 1.0, 1.0]))
    assert below.tolist() == [0.25, 1.0, 0.0]
    assert above.tolist() == [0.5, 0.0, 1.0]
    for share in shares_beside(np.array([0.5]), np.array([1.0]), np.zeros(1)):
        assert share.tolist() == [0.0]


def test_nothing_observed_and_one_arm_are_no_battles() -> None:
    assert len(battles(np.full((3, 2), np.nan))) == 0
    assert len(battles(np.ones((3, 1)))) == 0
    # An arm that nobody fought is no certain loser.
    assert battles(np.array([[1.0, np.nan], [0.0, np.nan]])).win.tolist() == [0.5, 0.5]
