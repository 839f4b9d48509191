"""Reading answers of experts: every kind of table and of gap, every message, and what each outcome weighs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from defer.estimators.deferral.answers import read_answers, read_expert_table
from defer.estimators.deferral.expert_outcomes import cost_table, expert_outcomes, outcome_weights, propensity_table
from defer.exceptions import DeferWarning, DegenerateExpertWarning, RouterInputError, SupportWarning

GAPS = ["a", None, "b"]
ONE_EXPERT: dict[str, Any] = {
    "list": GAPS,
    "tuple of rows": (["a"], [None], ["b"]),
    "object array": np.array(GAPS, dtype=object),
    "float gap": np.array(["a", np.nan, "b"], dtype=object),
    "masked array": np.ma.masked_array(["a", "z", "b"], [0, 1, 0]),
    "pandas series": pd.Series(GAPS),
    "pandas strings": pd.Series(GAPS, dtype="string"),
    "pandas NA": pd.Series(["a", pd.NA, "b"], dtype=object),
    "categorical": pd.Categorical(GAPS),
    "series of categories": pd.Series(pd.Categorical(GAPS)),
    "polars series": pl.Series(GAPS),
}
FRAMES: dict[str, Any] = {
    "pandas": pd.DataFrame({"ann": GAPS, "bob": ["b", "b", pd.NA]}),
    "polars": pl.DataFrame({"ann": GAPS, "bob": ["b", "b", None]}),
    "pyarrow": pa.table({"ann": GAPS, "bob": ["b", "b", None]}),
}


@pytest.mark.parametrize("kind", ONE_EXPERT)
def test_one_expert_in_any_form(kind: str) -> None:
    answers = read_answers(["a", "b", "a"], ONE_EXPERT[kind], n=3)
    assert answers.names.tolist() == ["expert"]
    assert answers.answer.ravel().tolist() == GAPS
    np.testing.assert_array_equal(answers.right.ravel(), [1.0, np.nan, 0.0])
    assert answers.classes.tolist() == ["a", "b"]
    assert answers.label.tolist() == [0, 1, 0]


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_name_the_experts(kind: str) -> None:
    answers = read_answers(["a", "b", "a"], FRAMES[kind], n=3)
    assert answers.names.tolist() == ["ann", "bob"]
    np.testing.assert_array_equal(answers.right, [[1.0, 0.0], [np.nan, 1.0], [0.0, np.nan]])


def test_a_series_with_a_name_names_its_expert() -> None:
    assert read_answers(["a", "b"], pd.Series(["a", "b"], name="ann"), n=2).names.tolist() == ["ann"]
    assert read_answers(["a", "b"], pl.Series("ann", ["a", "b"]), n=2).names.tolist() == ["ann"]


@pytest.mark.parametrize(
    ("y", "experts"),
    [
        ([1, 0, 1], np.array([1.0, np.nan, 0.0])),
        (np.array([1.0, 0.0, 1.0]), [1, None, 0]),
        (pd.Series([1, 0, 1], dtype="Int64"), pd.Series([1, None, 0], dtype="Int64")),
        (pl.Series([1, 0, 1]), pl.Series([1, None, 0])),
        ([True, False, True], [True, None, False]),
        (pd.Series([True, False, True]), pd.Series([True, None, False], dtype="boolean")),
        (np.array([1, 0, 1], dtype=np.int8), np.ma.masked_array([1, 7, 0], [0, 1, 0])),
        (np.array([1, 0, 1]), pd.Series([1.0, np.nan, 0.0])),
    ],
)
def test_numbers_and_truth_values_are_compared_by_value(y: Any, experts: Any) -> None:
    answers = read_answers(y, experts, n=3)
    np.testing.assert_array_equal(answers.right.ravel(), [1.0, np.nan, 0.0])
    assert len(answers.classes) == 2


def test_an_answer_that_is_no_class_of_y_is_wrong() -> None:
    with pytest.warns(
        DeferWarning,
        match=r"1 of 2 answers of 'expert' are no class of y, the first is 'maybe' in row 2; they count as wrong: an expert who "
        r"was not asked has None or NaN",
    ):
        answers = read_answers(["a", "b", "b"], [["a"], [None], ["maybe"]], n=3)
    np.testing.assert_array_equal(answers.right.ravel(), [1.0, np.nan, 0.0])
    with pytest.warns(DeferWarning, match=r"2 of 3 answers of 'bob' are no class of y, the first is -1 in row 0"):
        read_answers([0, 1, 1], pd.DataFrame({"ann": [0, 1, 0], "bob": [-1, 1, -1]}), n=3)
    with pytest.warns(DeferWarning, match=r"1 of 2 answers of 'expert' are no class of y, the first is inf in row 1"):
        read_answers([0, 1], np.array([0.0, np.inf]), n=2)


@pytest.mark.parametrize(
    "experts",
    [
        np.array([["a", np.nan]] * 3).T.ravel()[[0, 3, 1]],
        np.array(["a", None, "b"], dtype=object).astype(str),
        pd.Series(["a", None, "b"]).fillna(""),
        pd.Series(["a", pd.NA, "b"], dtype="string").astype(object).map(str),
        ["a", "NaN ", "b"],
    ],
    ids=["array of nan and text", "as text", "filled", "pandas NA", "by hand"],
)
def test_a_gap_that_is_written_as_text_is_no_wrong_answer(experts: Any) -> None:
    with pytest.raises(
        RouterInputError,
        match=r"1 of 3 answers of 'expert' are gaps written as text, the first is .* in row 1; where an expert",
    ):
        read_answers(["a", "b", "a"], experts, n=3)


def test_a_class_may_be_called_none() -> None:
    answers = read_answers(["None", "b", "None"], ["None", "b", "b"], n=3)
    assert answers.right.ravel().tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("y", "experts"),
    [
        ([1, 0, 1], [True, False, None]), ([True, False, True], [1, None, 0]),
        ([True, False, True], np.array([1.0, np.nan, 0.0])), (["a", "b", "a"], [True, False, True]),
    ],
)  # fmt: skip
def test_whether_an_expert_was_right_is_no_answer(y: Any, experts: Any) -> None:
    with pytest.raises(RouterInputError, match="; give what the expert answered, not whether it was right"):
        read_answers(y, experts, n=3)


def test_a_masked_label_is_missing() -> None:
    with pytest.raises(RouterInputError, match="y has 1 of 3 labels missing, the first in row 1; leave such rows out"):
        read_answers(np.ma.masked_array([0, 1, 1], [0, 1, 0]), [0, 1, 1], n=3)


def test_rows_without_weight_are_not_there() -> None:
    weight = np.array([1.0, 0.0, 2.0])
    with pytest.raises(RouterInputError, match=r"y holds one class in rows of positive weight, 'a': there is nothing"):
        read_answers(["a", "b", "a"], ["a", "b", "b"], n=3, weight=weight)
    with pytest.raises(
        RouterInputError,
        match=r"1 of 2 experts have no answer in rows of positive weight, the first is 'expert 2'; leave",
    ):
        read_answers(["a", "b", "b"], [["a", None], ["a", "b"], ["a", None]], n=3, weight=weight)


def test_two_columns_of_one_name_are_named() -> None:
    for columns in (["x", "x"], ["1", 1]):
        with pytest.raises(RouterInputError, match=r"experts names '(x|1)' 2 times: \['(x|1)', '(x|1)'\]"):
            read_answers(["a", "b"], pd.DataFrame([["a", "b"]] * 2, columns=columns), n=2)
    with pytest.raises(RouterInputError, match=r"experts names 'x' 2 times"):
        read_expert_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["x", "x"]), n=1)


def test_answers_that_were_checked_are_not_judged_again() -> None:
    with pytest.warns(DeferWarning, match="are no class of y"):
        first = read_answers(["a", "b", "c"], ["c", "z", "c"], n=3)
    again = read_answers(np.array(["a", "b"]), first.take(np.array([0, 1])), n=2)  # a fold without the class c
    assert again.right.ravel().tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("y", "experts", "message"),
    [
        (None, ["a"], r"y is None, and experts= needs the true labels"),
        ([[1.0, 0.0], [0.0, 1.0]], [0, 1], r"y must be the true labels, shape \(n,\), where experts= is given, got shape \(2, 2\)"),
        (["a"], ["a", "b"], r"inconsistent numbers of samples: X has 2 rows, y has 1"),
        (["a", None], ["a", "b"], r"y has 1 of 2 labels missing, the first in row 1; leave such rows out"),
        ([1.0, np.nan], [1, 0], r"y has 1 of 2 labels missing, the first in row 1"),
        (["a", "a"], ["a", "b"], r"y holds one class, 'a': there is nothing to classify and nothing to defer"),
        ([3, 3], [3, 3], r"y holds one class, 3: "),
        (["a", "b"], ["a"], r"one column per expert: X has 2 rows, experts has shape \(1, 1\)"),
        (["a", "b"], np.zeros((2, 1, 1)), r"one column per expert: X has 2 rows, experts has shape \(2, 1, 1\)"),
        (["a", "b"], np.zeros((2, 0)), r"one column per expert: X has 2 rows, experts has shape \(2, 0\)"),
        (["a", "b"], "ab", r"one column per expert: X has 2 rows, experts has shape \(\)"),
        (["a", "b"], [["a", None], ["b", None]], r"1 of 2 experts have no answer, the first is 'expert 2'; leave them out"),
        (["a", "b"], [1, 0], r"2 of 2 answers of 'expert' are of type int, the first is 1, and y holds text such as 'a'"),
        ([0, 1], ["0", "1"], r"2 of 2 answers of 'expert' are of type str, the first is '0', and y holds numbers such as 0"),
        ([0, 1], [[0, "1"], [1, 1]], r"1 of 2 answers of 'expert 2' are of type str, the first is '1', and y holds numbers"),
        (["a", "b"], ["A", "B"], r"none of the 2 answers of 'expert' is a class of y, the first is 'A'; the classes are \['a', 'b'\]"),
        (["a", "b"], pd.DataFrame({"own": ["a", "b"]}), r"experts names an expert 'own', which is the name of the system's own arm"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(y: Any, experts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_answers(y, experts, n=2)


def test_a_table_of_known_experts_is_put_into_their_order() -> None:
    names = np.array(["ann", "bob"])
    _, table = read_expert_table(pd.DataFrame({"bob": ["b"], "ann": ["a"]}), n=1, names=names)
    assert table.tolist() == [["a", "b"]]
    assert read_expert_table([["a", "b"]], n=1, names=names)[1].tolist() == [["a", "b"]]
    with pytest.raises(
        RouterInputError, match=r"must be the 2 of fit, \['ann', 'bob'\], got 2: lacking \['bob'\], not known \['c'\]"
    ):
        read_expert_table(pd.DataFrame({"ann": ["a"], "c": ["a"]}), n=1, names=names)
    with pytest.raises(RouterInputError, match=r"must be the 2 of fit, .*got 3: lacking \['ann', 'bob'\]"):
        read_expert_table([["a", "b", "c"]], n=1, names=names)


# ---- outcomes of own and experts


def outcomes_of(experts: Any, y: Any = (0, 1, 1, 0), **options: Any) -> Any:
    given = {"cost": None, "propensity": None, "sample_weight": None, **options}
    return expert_outcomes(read_answers(list(y), experts, n=len(y)), **given)


FULL = np.array([[0, 1], [0, 1], [1, 1], [0, 0]])
GAPPED = np.array([[0, 1], [0, None], [1, None], [None, 0]], dtype=object)


def test_experts_who_are_always_or_never_right_are_warned_of() -> None:
    with pytest.warns(DegenerateExpertWarning, match=r"expert 'expert 1' is right in all of its 4 answers"):
        outcomes_of([[0, 1], [1, 1], [1, 0], [0, 0]])
    with pytest.warns(DegenerateExpertWarning, match=r"expert 'expert' is right in none of its 3 answers"):
        outcomes_of([1, 0, 0, None])
    outcomes_of([[0, 1], [0, None], [None, 0], [0, 0]], y=(0, 1, 1, 0))  # one answer alone proves nothing of the kind
    with pytest.warns(DegenerateExpertWarning, match=r"expert 'expert' is right in all of its 3 answers"):
        outcomes_of([0, 1, 1, 1], sample_weight=[1.0, 1.0, 1.0, 0.0])  # the wrong one has no weight


def test_outcomes_without_gaps_weigh_what_their_rows_do() -> None:
    outcomes = outcomes_of(FULL, sample_weight=[1.0, 2.0, 0.0, 1.0])
    assert outcomes.arms.tolist() == ["own", "expert 1", "expert 2"]
    assert outcomes.weighting == "none"
    np.testing.assert_array_equal(outcome_weights(outcomes), np.tile([[1.0], [2.0], [0.0], [1.0]], 3))
    complete = outcomes_of(FULL, propensity=np.full((4, 2), 0.5))
    assert complete.weighting == "none"
    with pytest.raises(RouterInputError, match=r"8 of 8 given answers have a value outside \(0, 1\]"):
        outcomes_of(FULL, propensity=np.full((4, 2), 7.0))
    with pytest.raises(RouterInputError, match=r"propensity must have shape \(4,\) or \(4, 2\), .*, got \(3,\)"):
        outcomes_of(FULL, propensity=np.ones(3))


def test_an_answer_counts_once_where_gaps_are_at_random() -> None:
    outcomes = outcomes_of(GAPPED)
    assert outcomes.weighting == "missing at random"
    np.testing.assert_array_equal(outcome_weights(outcomes), [[1, 1, 1], [1, 1, 0], [1, 1, 0], [1, 0, 1]])
    heavy = outcome_weights(outcomes_of(GAPPED, sample_weight=[1.0, 1.0, 5.0, 1.0]))
    np.testing.assert_array_equal(heavy, [[1, 1, 1], [1, 1, 0], [5, 5, 0], [1, 0, 1]])


@pytest.mark.filterwarnings("ignore::defer.exceptions.SupportWarning")
def test_propensities_weigh_what_was_seen_up_to_a_factor() -> None:
    outcomes = outcomes_of(GAPPED, propensity=[[0.5, 0.25], [0.5, np.nan], [1.0, 7.0], [np.nan, 0.5]])
    assert outcomes.weighting == "inverse propensity"
    # In proportion 2 : 2 : 1 and 4 : 2, and as much in sum as there are answers.
    np.testing.assert_allclose(
        outcome_weights(outcomes), [[1, 6 / 5, 4 / 3], [1, 6 / 5, 0], [1, 3 / 5, 0], [1, 0, 2 / 3]]
    )
    weighted = outcomes_of(GAPPED, propensity=[0.5, 0.5, 1.0, 0.25], sample_weight=[2.0, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(
        outcome_weights(weighted), [[2, 16 / 7, 3 / 2], [1, 8 / 7, 0], [1, 4 / 7, 0], [1, 0, 3 / 2]]
    )


def test_answers_that_are_worth_few_by_their_propensities_are_told_of() -> None:
    y, answers = np.tile([0, 1], 50), np.column_stack([np.tile([0, 1, 1, 0], 25)] * 2).astype(object)
    answers[40:, 1] = None
    chance = np.full((100, 2), 0.4)
    chance[0, 1] = 0.001
    # One answer weighs 1000 and 39 weigh 2.5: (1097.5)^2 / (1000^2 + 39 * 2.5^2) = 1.2.
    with pytest.warns(
        SupportWarning,
        match=r"propensity: the 40 answers of expert 'expert 2' are worth 1\.2 \(effective sample size of their inverse propensities\), "
        r"and one of them has 91% of the weight; raise the smallest propensities, as in np\.clip\(propensity, 0\.05, 1\)",
    ) as told:
        outcomes_of(answers, y=y, propensity=chance)
    assert len(told) == 1
    outcomes_of(answers, y=y, propensity=np.clip(chance, 0.2, 1.0))
    outcomes_of(answers, y=y)  # without propensities nothing is weighted
    light = np.where(np.arange(100) == 0, 0.0, 1.0)
    outcomes_of(answers, y=y, propensity=chance, sample_weight=light)  # the answer that weighs most has no weight


@pytest.mark.parametrize(
    ("propensity", "message"),
    [
        (np.ones((4, 3)), r"propensity must have shape \(4,\) or \(4, 2\), one column per expert, got \(4, 3\)"),
        (np.ones(3), r"propensity must have shape \(4,\) or \(4, 2\), one column per expert, got \(3,\)"),
        ([1.0, 0.0, 1.0, 1.0], r"1 of 5 given answers have a value outside \(0, 1\], the first is row 1, expert 'expert 1' \(0\)"),
        ([1.0, 1.5, np.nan, 1.0], r"2 of 5 given answers have a value outside \(0, 1\], the first is row 1, expert 'expert 1' \(1.5\)"),
    ],
)  # fmt: skip
def test_propensities_that_cannot_be_are_named(propensity: Any, message: str) -> None:
    with pytest.raises(RouterInputError, match=message):
        outcomes_of(GAPPED, propensity=propensity)
    answers = read_answers([0, 1, 1, 0], GAPPED, n=4)
    with pytest.raises(RouterInputError, match=message):
        propensity_table(propensity, answers.right, names=answers.names)


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_propensities_follow_the_names_of_the_experts(library: str) -> None:
    make: Any = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}[library]
    right, names = np.array([[1.0, np.nan], [0.0, 1.0]]), np.array(["ann", "bob"])
    table = propensity_table(make({"bob": [0.1, 0.2], "ann": [0.3, 0.4]}), right, names=names)
    assert table.tolist() == [[0.3, 1.0], [0.4, 0.2]]
    with pytest.raises(
        RouterInputError, match=r"propensity must name \['ann', 'bob'\]: lacking \['bob'\], not known \['eve'\]"
    ):
        propensity_table(make({"eve": [0.1, 0.2], "ann": [0.3, 0.4]}), right, names=names)
    assert propensity_table(pd.Series([0.5, 0.25]), right, names=names).tolist() == [[0.5, 1.0], [0.25, 0.25]]
    with pytest.raises(RouterInputError, match=r"propensity must be numbers, and it holds text, first '0\.5'"):
        propensity_table(["0.5", "0.5"], right, names=names)


def test_costs_are_of_the_experts_or_of_all_arms() -> None:
    names = np.array(["ann", "bob"])
    assert cost_table([[0.1, 0.2]], names, n=1).tolist() == [[0.0, 0.1, 0.2]]
    assert cost_table([[0.3, 0.1, 0.2]], names, n=1).tolist() == [[0.3, 0.1, 0.2]]
    assert cost_table(pd.DataFrame({"bob": [0.2], "ann": [0.1]}), names, n=1).tolist() == [[0.0, 0.1, 0.2]]
    assert cost_table(pl.DataFrame({"bob": [0.2], "own": [0.3], "ann": [0.1]}), names, n=1).tolist() == [
        [0.3, 0.1, 0.2]
    ]
    with pytest.raises(
        RouterInputError, match=r"cost must name \['own', 'ann', 'bob'\]: lacking \['ann'\], not known \['eve'\]"
    ):
        cost_table(pd.DataFrame({"bob": [0.2], "eve": [0.1]}), names, n=1)
    with pytest.raises(RouterInputError, match=r"a column for each of the 2 experts, or one more .* got 4"):
        cost_table([[0.1, 0.2, 0.3, 0.4]], names, n=1)
    with pytest.raises(
        RouterInputError, match=r"cost: 1 values are below 0, the first in row 1, arm 'expert 2' \(-1\)"
    ):
        outcomes_of(FULL, cost=[[0.1, 0.1], [0.1, -1.0], [0.1, 0.1], [0.1, 0.1]])
    for one in ([0.1, 0.2], np.array([0.1, 0.2]), pd.Series([0.1, 0.2]), pl.Series([0.1, 0.2])):
        assert cost_table(one, names[:1], n=2).tolist() == [[0.0, 0.1], [0.0, 0.2]]
    with pytest.raises(RouterInputError, match=r"a column for each of the 2 experts, or one more .* got 1$"):
        cost_table([0.1, 0.2], names, n=2)
    with pytest.raises(RouterInputError, match=r"cost must be numbers: .* inhomogeneous"):
        cost_table([[0.1], [0.1, 0.2]], names, n=2)
    with pytest.raises(RouterInputError, match="cost must have one row per query: X has 4 rows, cost has 3"):
        outcomes_of(FULL, cost=np.ones((3, 3)))
