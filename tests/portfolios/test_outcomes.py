"""The outcome log: what it holds, that it cannot be changed, what it refuses, its parts, and simulated decisions."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import stats
from scipy.sparse import coo_array, csr_matrix, issparse

from defer import OutcomeLog
from defer.exceptions import MissingPropensityWarning, OutcomeLogError, SupportWarning
from defer.portfolios import ArmMatrix

NAN = float("nan")
MIXED = pd.DataFrame({"a": [1, 1], "b": pd.Series([2, "x"], dtype=object)})


def same(one: OutcomeLog, other: OutcomeLog) -> bool:
    """Whether all fields agree, in value and type."""
    for field in fields(OutcomeLog):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
            exact = left.dtype == right.dtype and left.shape == right.shape
            equal = (
                left.tolist() == right.tolist()
                if left.dtype.kind in "OUSb"
                else np.array_equal(left, right, equal_nan=left.dtype.kind in "fmM")
            )
            if not (exact and equal and getattr(left, "arms", None) == getattr(right, "arms", None)):
                return False
        elif left is not right and left != right:
            return False
    return True


def test_log_knows_its_size_arms_and_kind(full_log, bandit_log):
    assert (len(full_log), full_log.arms) == (200, ("small", "medium", "large"))
    assert (full_log.is_full_information, full_log.is_bandit, full_log.has_decisions) == (True, False, False)
    assert (bandit_log.is_full_information, bandit_log.is_bandit, bandit_log.has_decisions) == (False, True, True)
    assert repr(full_log) == "OutcomeLog(200 queries, 3 arms, full information; cost, latency, domain)"
    assert repr(bandit_log).startswith("OutcomeLog(200 queries, 3 arms, bandit;")
    partial = OutcomeLog.from_arrays(None, [[1.0, NAN], [0.0, 1.0]])
    assert repr(partial) == "OutcomeLog(2 queries, 2 arms, partial; quality only)"
    assert partial.arms == ("arm_0", "arm_1")
    assert partial.action.tolist() == [-1, -1]


def test_tables_remember_the_arms(full_log):
    for table in (full_log.quality, full_log.cost, full_log.latency):
        assert isinstance(table, ArmMatrix)
        assert table.arms == full_log.arms
        assert table.dtype == np.float64


def test_nothing_in_a_log_can_be_changed(bandit_log):
    log = bandit_log
    for field in fields(OutcomeLog):
        with pytest.raises(FrozenInstanceError):
            setattr(log, field.name, None)
        value = getattr(log, field.name)
        if isinstance(value, np.ndarray):
            with pytest.raises(ValueError, match="read-only"):
                value[0] = value[0]
    twin = pickle.loads(pickle.dumps(log))
    with pytest.raises(ValueError, match="read-only"):
        twin.quality[0, 0] = 1.0


def test_a_log_does_not_follow_later_changes_of_its_sources():
    texts, quality, domain = ["a", "b"], np.ones((2, 2)), np.array(["x", "y"], dtype=object)
    log = OutcomeLog.from_arrays(texts, quality, domain=domain)
    texts[0], quality[0, 0], domain[0] = "z", 0.0, "z"
    assert (log.X, log.quality[0, 0], log.domain[0]) == (["a", "b"], 1.0, "x")
    texts.append("c")
    assert len(log.X) == len(log) == 2
    dense = np.zeros((2, 1))
    log = OutcomeLog.from_arrays(dense, quality)
    dense[0] = 1.0
    assert log.X[0, 0] == 0.0


@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
def test_a_log_does_not_follow_later_changes_of_sparse_queries(form):
    X = coo_array(np.eye(2)).asformat(form)
    log = OutcomeLog.from_arrays(X, np.ones((2, 2)))
    X.data[:] = 7.0
    assert log.X.toarray().tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_a_log_does_not_follow_later_changes_of_a_frame():
    frame = pd.DataFrame({"f": [1.0, 2.0]})
    log = OutcomeLog.from_arrays(frame, np.ones((2, 2)))
    frame.loc[0, "f"] = 99.0
    frame["g"] = 0.0
    assert log.X.to_dict("list") == {"f": [1.0, 2.0]}
    polars = pl.DataFrame({"f": [1.0, 2.0]})
    log = OutcomeLog.from_arrays(polars, np.ones((2, 2)))
    polars[0, "f"] = 99.0
    assert log.X["f"].to_list() == [1.0, 2.0]


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda log: pickle.loads(pickle.dumps(log))])
def test_copies_and_pickles_are_the_same_log(bandit_log, twin):
    assert same(twin(bandit_log), bandit_log)


def test_tables_with_names_are_put_in_the_order_of_the_arms():
    quality = pd.DataFrame({"a": [1.0, 0.0], "b": [0.0, 1.0]})
    log = OutcomeLog.from_arrays(None, quality, cost=pl.DataFrame({"b": [2, 2], "a": [1, 1]}))
    assert log.arms == ("a", "b")
    assert log.cost.tolist() == [[1.0, 2.0], [1.0, 2.0]]
    turned = OutcomeLog.from_arrays(None, quality, arms=["b", "a"])
    assert turned.quality.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert OutcomeLog.from_arrays(None, log.quality).arms == ("a", "b")


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("names", [range, lambda m: [str(place) for place in range(m)]], ids=["int", "str"])
def test_numbered_columns_of_a_frame_are_places(m, names):
    values = np.arange(3.0 * m).reshape(3, m)
    frame = pd.DataFrame(values, columns=list(names(m)))
    log = OutcomeLog.from_arrays(None, frame)
    assert (log.quality.tolist(), log.arms) == (values.tolist(), tuple(f"arm_{place}" for place in range(m)))
    named = OutcomeLog.from_arrays(None, values, arms=list("abc")[:m], cost=frame)
    assert named.cost.tolist() == values.tolist()
    drawn = named.with_action(pd.DataFrame(np.full((3, m), 1 / m)))
    assert drawn.propensity == pytest.approx(np.full(3, 1 / m))


def test_numbered_columns_are_names_where_the_arms_have_them_or_they_are_others():
    values = np.array([[1.0, 2.0]])
    turned = OutcomeLog.from_arrays(None, values, arms=["1", "0"], cost=pd.DataFrame(values))
    assert turned.cost.tolist() == [[2.0, 1.0]]
    log = OutcomeLog.from_arrays(None, pd.DataFrame(values, columns=[10, 20]))
    assert (log.arms, log.quality.tolist()) == (("10", "20"), [[1.0, 2.0]])
    assert OutcomeLog.from_arrays(None, pd.DataFrame(values, columns=[1, 0])).arms == ("1", "0")
    with pytest.raises(OutcomeLogError, match="1 columns stand twice, the first is '1'"):
        OutcomeLog.from_arrays(None, pd.DataFrame(values, columns=[1, "1"]))


@pytest.mark.parametrize(
    ("X", "kind"),
    [
        (("a", "b"), list),
        (np.array(["a", "b"]), list),
        (np.array(["a", "b"], dtype=object), list),
        (pd.Series(["a", "b"]), list),
        (pl.Series(["a", "b"]), list),
        ([[1.0, 2.0], [3.0, 4.0]], np.ndarray),
        (np.zeros((2, 3)), np.ndarray),
        (pd.DataFrame({"f": [1, 2]}), pd.DataFrame),
        (csr_matrix(np.eye(2)), csr_matrix),
        ([{"role": "user"}, {"role": "user"}], list),
    ],
)
def test_queries_of_every_kind_are_held_and_parted(X, kind):
    log = OutcomeLog.from_arrays(X, [[1.0, 0.0], [0.0, 1.0]])
    assert type(log.X) is kind
    part = log.select([1])
    assert type(part.X) is kind
    assert (part.X.shape[0] if hasattr(part.X, "shape") else len(part.X)) == 1


def test_sparse_formats_that_cannot_take_rows_are_converted():
    log = OutcomeLog.from_arrays(coo_array(np.eye(3)), np.ones((3, 2)))
    assert issparse(log.X)
    assert log.select([2]).X.toarray().tolist() == [[0.0, 0.0, 1.0]]


def bad(message, **options):
    return pytest.param(options, message, id=message[:40].strip())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        bad(r"the log is empty: it has no query", quality=np.zeros((0, 2))),
        bad(r"quality must have shape \(n, m\), got \(2,\)", quality=[1.0, 0.0]),
        bad(r"quality must be numbers, but 2 of 2 values of arm 'b' are not, the first in row 0 \('1'\)", quality=np.array([[1, "1"], [0, "0"]], dtype=object)),
        bad(r"quality must be numbers, but 2 of 2 values of arm 'a' are not, the first in row 0 \('1'\)", quality=[["1", "0"], ["0", "1"]]),
        bad(r"cost must be numbers, but 1 of 2 values of arm 'b' are not, the first in row 1 \('free'\)", cost=np.array([[1, 2], [1, "free"]], dtype=object)),
        bad(r"quality must be numbers, but 2 of 2 values of arm 'a' are not", quality=np.array([["2024-01-01"] * 2] * 2, dtype="M8[ns]")),
        bad(r"quality must have shape \(n, m\), and its rows differ in length", quality=[[1.0], [1.0, 2.0]]),
        bad(r"arms must be a sequence of names, got the string 'ab'", arms="ab"),
        bad(r"1 arms are named twice, the first is 'a'", arms=["a", "a"]),
        bad(r"arm 1 has no name", arms=["a", ""]),
        bad(r"quality must have shape \(2, 3\), one column per arm, got \(2, 2\)", arms=["a", "b", "c"]),
        bad(r"column 'score:a' has 1 of 2 values that are not finite, the first in row 1 \(inf\)", quality=[[1, 1], [np.inf, 0]]),
        bad(r"column 'score:b' has no observed value in 2 rows: leave the arm out", quality=[[1, NAN], [1, NAN]]),
        bad(r"no quality is observed in 2 rows of 2 arms", quality=[[NAN, NAN], [NAN, NAN]]),
        bad(
            r"column 'cost_usd:b' has 2 of 2 values below 0, the first in row 0 \(-0.002\). A cost is in US dollars per query and "
            r"must be >= 0; if it is a rebate, add it to the quality of that arm instead",
            cost=[[0.1, -0.002], [0.1, -1]],
        ),
        bad(r"column 'latency_s:a' has 1 of 2 values below 0, the first in row 1 \(-1.0\). A latency", latency=[[0, 0], [-1, 0]]),
        bad(r"cost must have shape \(2, 2\), one column per arm, got \(2, 1\)", cost=[[0.1], [0.1]]),
        bad(r"column 'cost_usd:a' has 1 of 2 values that are not finite", cost=[[np.inf, 0], [0, 0]]),
        bad(
            r"cost and the log must have the same arms: only in cost \['c'\], only in the log \['b'\]",
            cost=pd.DataFrame({"a": [1, 1], "c": [1, 1]}),
        ),
        bad(r"column 'b' must be numeric, but 1 of 2 values are not, the first in row 1 \('x'\)", cost=MIXED),
        bad(r"X has 3 rows, and quality has 2", X=["a", "b", "c"]),
        bad(r"X must hold 2 queries: texts, an array, a sparse matrix or a frame, got str", X="ab"),
        bad(r"domain must have shape \(2,\), got \(3,\)", domain=["a", "b", "c"]),
        bad(r"column 'cluster' has 1 of 2 values that are missing, the first in row 1 \(None\)", cluster=["a", None]),
        bad(r"column 'query_id' has 1 of 2 values that are missing, the first in row 0", query_id=[NAN, 1.0]),
        bad(r"column 'query_id' has 1 ids that repeat, the first is 7 \(in rows 0 and 1\); a log has one row a query", query_id=np.array([7, 7], dtype=object)),
        bad(r"from_arrays knows no column 'price'; allowed are \['cost'", price=[1, 2]),
        bad(r"action must be integer indexes of arms, got dtype float64", action=[0.0, 1.0]),
        bad(r"column 'action' has 1 of 2 values outside -1 … 1, the first in row 1 \(2\)", action=[0, 2]),
        bad(r"propensity must have shape \(2,\), got \(1,\)", action=[0, 1], propensity=[0.5]),
        bad(r"column 'propensity' has 1 of 2 values outside \(0, 1\], the first in row 1 \(0.0\)", action=[0, 1], propensity=[0.5, 0]),
        bad(r"column 'propensity' has 1 of 2 values outside \(0, 1\], the first in row 0 \(1.5\)", action=[0, 1], propensity=[1.5, 1]),
        bad(r"column 'propensity' has 1 of 2 values missing where an arm was logged, the first in row 0 \(nan\)", action=[0, 1], propensity=[NAN, 1]),
        bad(r"column 'propensity' must be numeric, but 2 of 2 values are not, the first in row 0 \('0.5'\)", action=[0, 1], propensity=["0.5", "1"]),
        bad(r"X has 1 of 2 queries that are no text, the first in row 1 \(None\); queries are all texts, or none is", X=["a", None]),
        bad(r"X has 1 of 2 queries that are no text, the first in row 0 \(nan\)", X=pd.Series([NAN, "a"], dtype=object).tolist()),
        bad(r"there are propensities, but no action says which arm was logged", propensity=[0.5, 0.5]),
        bad(r"column 'score' has 1 of 2 values of logged arms without an observed quality, the first in row 1 \(b\)", quality=[[1, 1], [1, NAN]], action=[0, 1], propensity=[1, 1]),
        bad(r"column 'policy' has 1 of 2 values that are no distribution .*, the first in row 1 \(1.2\)", policy=[[0.5, 0.5], [0.5, 0.7]]),
        bad(r"column 'propensity' has 1 of 2 values that differ from the policy's probability of the logged arm", policy=[[0.5, 0.5]] * 2, action=[0, 1], propensity=[0.5, 0.4]),
    ],
)  # fmt: skip
def test_faults_name_the_column_the_count_and_the_first_row(options, message):
    given = {"X": None, "quality": [[1.0, 0.0], [0.0, 1.0]], "arms": ["a", "b"], **options}
    with pytest.raises(OutcomeLogError, match=message):
        OutcomeLog.from_arrays(given.pop("X"), given.pop("quality"), **given)


def test_a_log_of_one_arm_or_one_query_is_a_log():
    one_arm = OutcomeLog.from_arrays(["a", "b"], [[1.0], [0.0]])
    assert (len(one_arm.arms), one_arm.is_full_information, one_arm.is_bandit) == (1, True, False)
    one_query = OutcomeLog.from_arrays(["a"], [[1.0, 0.0]], cost=[[0.1, 0.2]])
    assert one_query.summary().best_arm == "arm_0"
    assert one_query.select([0]).X == ["a"]


def test_a_bandit_log_without_propensities_warns_and_is_read():
    with pytest.warns(
        MissingPropensityWarning, match="2 logged arms come without propensities.*missing at random"
    ) as caught:
        log = OutcomeLog.from_arrays(None, [[1.0, NAN], [NAN, 0.0]], action=[0, 1])
    assert caught[0].filename == __file__
    assert log.propensity is None
    assert log.select([0]).has_decisions  # parts do not warn again


def test_propensities_are_taken_from_the_logging_policy():
    log = OutcomeLog.from_arrays(None, [[1.0, NAN], [0.0, 0.0]], action=[0, -1], policy=[[0.25, 0.75]] * 2)
    assert np.array_equal(log.propensity, [0.25, NAN], equal_nan=True)


def test_an_arm_that_was_never_drawn_belongs_to_a_bandit_log():
    log = OutcomeLog.from_arrays(None, [[1.0, NAN], [0.0, NAN]], action=[0, 0], propensity=[0.5, 0.5])
    assert log.summary().taken.tolist() == [1.0, 0.0]


@pytest.fixture
def mixed_log() -> OutcomeLog:
    """Six queries, three arms; two rows recorded in full, four with a decision."""
    quality = np.array([[1, 0, 1], [0, 1, 1], [1, NAN, NAN], [NAN, 0.5, NAN], [NAN, NAN, 0.25], [0, NAN, NAN]])
    return OutcomeLog.from_arrays(
        list("abcdef"),
        quality,
        arms=["s", "m", "l"],
        cost=np.where(np.isnan(quality), NAN, [1.0, 2.0, 3.0]),
        action=[-1, -1, 0, 1, 2, 0],
        policy=np.tile([0.5, 0.3, 0.2], (6, 1)),
        time=np.arange(6),
        query_id=np.arange(6),
    )


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (None, [0, 1, 2, 3, 4, 5]),
        ([3, 1], [3, 1]),
        ([-1, 0], [5, 0]),
        (slice(4, None), [4, 5]),
        (slice(None, None, -2), [5, 3, 1]),
        (np.array([True, False, False, False, True, False]), [0, 4]),
        ([False, True, False, False, False, False], [1]),
        (2, [2]),
        (np.int64(-2), [4]),
        (range(2), [0, 1]),
        (pd.Series([5, 4]), [5, 4]),
    ],
)
def test_select_takes_rows_in_the_wanted_order(mixed_log, rows, expected):
    part = mixed_log.select(rows)
    assert part.query_id.tolist() == expected
    assert list(part.X) == [mixed_log.X[row] for row in expected]
    assert np.array_equal(part.quality, np.asarray(mixed_log.quality)[expected], equal_nan=True)
    assert part.action.tolist() == mixed_log.action[expected].tolist()
    assert part.arms == mixed_log.arms


def test_select_reorders_arms_with_decisions_and_policy(mixed_log):
    turned = mixed_log.select(arms=["l", "s", "m"])
    assert turned.arms == turned.quality.arms == ("l", "s", "m")
    assert turned.action.tolist() == [-1, -1, 1, 2, 0, 1]
    assert turned.policy[0].tolist() == [0.2, 0.5, 0.3]
    assert turned.cost[0].tolist() == [3.0, 1.0, 2.0]
    assert np.array_equal(turned.propensity, mixed_log.propensity, equal_nan=True)
    assert same(turned.select(arms=["s", "m", "l"]), mixed_log)


def test_select_leaves_out_decisions_for_other_arms_and_keeps_the_order_of_rows(mixed_log):
    with pytest.warns(
        SupportWarning, match=r"1 of 6 queries are left out, because another arm than \['m', 's'\]"
    ) as caught:
        part = mixed_log.select([5, 4, 3, 2, 1, 0], arms=["m", "s"])
    assert caught[0].filename == __file__
    assert part.query_id.tolist() == [5, 3, 2, 1, 0]
    assert part.action.tolist() == [1, 0, 1, -1, -1]
    np.testing.assert_allclose(part.propensity[:3], [0.625, 0.375, 0.625])
    np.testing.assert_allclose(part.policy, [[0.375, 0.625]] * 5)
    with pytest.warns(SupportWarning, match=r"2 of 4 queries are left out.*\(0\.2 in the mean\)"):
        masked = mixed_log.select(np.array([False, True, True, True, True, False]), arms=["l"])
    assert np.array_equal(masked.propensity, [NAN, 1.0], equal_nan=True)
    assert masked.query_id.tolist() == [1, 4]


def test_weights_of_a_part_of_the_arms_have_mean_one(full_log):
    policy = np.random.default_rng(3).dirichlet(np.ones(3), size=len(full_log))
    weights = []
    for seed in range(200):
        with pytest.warns(SupportWarning, match="the log stands only for queries on which one of them was drawn"):
            part = full_log.with_action(policy, seed=seed).select(arms=["small", "large"])
        np.testing.assert_allclose(np.sum(part.policy, axis=1), 1.0)
        target = np.array([0.3, 0.7])[part.action]
        weights.append((target / part.propensity).sum() - len(part))
    # Given the kept rows every weight has mean one; propensities as they were would give 1 / P(kept), 1.5 and more.
    error = np.mean(weights) / (np.std(weights, ddof=1) / np.sqrt(200))
    assert abs(error) < stats.t.ppf(1 - 1e-4 / 2, 199)


def test_arms_that_the_policy_never_draws_are_left_out_in_silence(full_log):
    log = full_log.with_action(np.tile([0.4, 0.6, 0.0], (len(full_log), 1)))
    part = log.select(arms=["medium", "small"])
    assert part.propensity.tolist() == log.propensity.tolist()
    assert part.policy[0].tolist() == [0.6, 0.4]


def test_without_a_policy_decisions_for_other_arms_take_the_propensities_with_them():
    quality = np.array([[1.0, NAN, NAN], [NAN, 0.5, NAN], [NAN, NAN, 0.25], [1.0, 0.0, 1.0]])
    log = OutcomeLog.from_arrays(
        None, quality, arms=["s", "m", "l"], action=[0, 1, 2, -1], propensity=[0.5, 0.3, 0.2, NAN]
    )
    with pytest.warns(
        MissingPropensityWarning, match=r"1 of 4 queries are left out, because another arm than \['m', 's'\]"
    ):
        part = log.select(arms=["m", "s"])
    assert (part.action.tolist(), part.propensity) == ([1, 0, -1], None)
    # Where no decision is left out, the rows and their propensities are what they were.
    kept = log.select([0, 1, 3], arms=["m", "s"])
    assert np.array_equal(kept.propensity, [0.5, 0.3, NAN], equal_nan=True)
    assert log.select([2, 3], arms=["s", "m"]).propensity is None  # no decision remains


def test_a_recorded_query_without_a_chance_for_the_selected_arms_has_no_policy_there():
    log = OutcomeLog.from_arrays(
        None, [[1.0, 0.0, 1.0], [1.0, NAN, NAN]], action=[-1, 0], policy=[[0.0, 0.0, 1.0], [0.5, 0.25, 0.25]]
    )
    with pytest.warns(SupportWarning, match="0 of 2 queries are left out"):
        part = log.select(arms=["arm_0", "arm_1"])
    assert part.policy is None
    assert part.propensity[1] == pytest.approx(2 / 3)


def test_a_part_without_decisions_has_no_propensities(mixed_log):
    part = mixed_log.select([0, 1])
    assert not part.has_decisions
    assert part.propensity is None


def test_a_part_may_lack_every_outcome_of_an_arm(mixed_log):
    assert np.isnan(mixed_log.select([2, 3]).quality[:, 2]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ["s", "x"]}, r"select: no arm 'x'; the log has \['s', 'm', 'l'\]"),
        ({"arms": "s"}, "select: arms must be a sequence of names, got the string 's'"),
        ({"arms": ["s", "s"]}, "1 arms are named twice"),
        ({"arms": []}, "the log has no arm"),
        ({"rows": []}, "select: the selection holds no query"),
        ({"rows": np.zeros(6, dtype=bool)}, "select: the selection holds no query"),
        ({"rows": [4], "arms": ["s"]}, "select: the selection holds no query"),
        ({"rows": [6]}, "select: rows do not fit a log of 6 queries: .*out of bounds"),
        ({"rows": [True, False]}, "select: rows do not fit a log of 6 queries: "),
        ({"rows": [0.5]}, "select: rows do not fit a log of 6 queries: "),
        ({"rows": [1, 1]}, "column 'query_id' has 1 ids that repeat"),
    ],
)
def test_select_says_what_does_not_fit(mixed_log, options, message):
    with pytest.raises(OutcomeLogError, match=message):
        mixed_log.select(**options)


def test_with_action_hides_all_but_the_drawn_arm_and_records_its_probability(full_log):
    policy = np.random.default_rng(2).dirichlet(np.ones(3), size=200)
    log = full_log.with_action(policy, seed=3)
    rows = np.arange(200)
    assert log.policy.tolist() == policy.tolist()
    assert log.propensity.tolist() == policy[rows, log.action].tolist()
    for name in ("quality", "cost", "latency"):
        table = np.asarray(getattr(log, name))
        assert (np.isfinite(table).sum(axis=1) == 1).all()
        assert table[rows, log.action].tolist() == np.asarray(getattr(full_log, name))[rows, log.action].tolist()
    assert same(full_log.with_action(policy, seed=3), log)
    assert full_log.with_action(policy, seed=4).action.tolist() != log.action.tolist()
    assert log.domain is not None


def test_with_action_draws_with_the_stated_probabilities():
    n = 30_000
    log = OutcomeLog.from_arrays(None, np.ones((n, 4)))
    action = log.with_action(np.tile([0.0, 0.6, 0.0, 0.4], (n, 1)), seed=5).action
    assert set(action.tolist()) == {1, 3}
    # Five standard deviations of a binomial share: a false alarm is below 1e-6.
    assert abs((action == 1).mean() - 0.6) < 5 * np.sqrt(0.24 / n)


def test_with_action_reads_the_columns_of_a_policy_by_name(full_log):
    policy = pd.DataFrame({"large": [1.0] * 200, "small": [0.0] * 200, "medium": [0.0] * 200})
    log = full_log.with_action(policy)
    assert (log.action == 2).all()
    assert (log.propensity == 1.0).all()


def test_with_action_rescales_rounded_probabilities(full_log):
    log = full_log.with_action(np.tile([1 + 5e-7, 0.0, 0.0], (200, 1)))
    assert (log.propensity == 1.0).all()


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ([[0.5, 0.5]], r"with_action: policy must have shape \(2, 2\), got \(1, 2\)"),
        (
            [[0.5, 0.5], [0.5, 0.6]],
            r"with_action: 1 rows of the policy are no distribution, the first is row 1 \(sum 1.1\)",
        ),
        (
            [[1.5, -0.5], [0.5, NAN]],
            r"with_action: 2 rows of the policy are no distribution, the first is row 0 \(sum 1\)",
        ),
        (
            [[1.0, 0.0], [0.0, 1.0]],
            r"1 rows draw an arm whose quality was not observed, the first is row 1 \(arm 'b'\)",
        ),
    ],
)
def test_with_action_says_what_is_wrong_with_the_policy(policy, message):
    log = OutcomeLog.from_arrays(None, [[1.0, 0.0], [1.0, NAN]], arms=["a", "b"])
    with pytest.raises(OutcomeLogError, match=message):
        log.with_action(policy)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quality": [1.0, 0.0]}, r"quality must have shape \(n, m\), got \(2,\)"),
        (
            {"quality": [["x", "y"]]},
            r"quality must be numbers, but 1 of 1 values of arm 'a' are not, the first in row 0 \('x'\)",
        ),
        ({"quality": [["1", "0"]]}, "quality must be numbers, but 1 of 1 values of arm 'a' are not"),
        ({"quality": [[1.0, 0.0]], "arms": "ab"}, "arms must be a sequence of names, got the string 'ab'"),
    ],
)
def test_a_log_made_without_a_reader_is_checked_too(fields, message):
    with pytest.raises(OutcomeLogError, match=message):
        OutcomeLog(**{"X": None, "arms": ("a", "b"), **fields})


def test_nested_lists_of_unequal_length_stay_lists_and_empty_propensities_are_none():
    assert OutcomeLog.from_arrays([[1], [1, 2]], np.eye(2)).X == [[1], [1, 2]]
    assert OutcomeLog.from_arrays(None, np.eye(2), action=[-1, -1], propensity=[NAN, NAN]).propensity is None
