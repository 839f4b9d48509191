"""Reading wide and long frames of every library that narwhals takes."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from defer import OutcomeLog
from defer.exceptions import MissingPropensityWarning, OutcomeLogError

NAN = float("nan")
LIBRARIES = {
    "pandas": pd.DataFrame,
    "pandas-nullable": lambda columns: pd.DataFrame(columns).convert_dtypes(),
    "pandas-pyarrow": lambda columns: pa.table(columns).to_pandas(types_mapper=pd.ArrowDtype),
    "polars": pl.DataFrame,
    "pyarrow": pa.table,
}


@pytest.fixture(params=LIBRARIES)
def library(request):
    """Makes a frame of one library from columns."""
    return LIBRARIES[request.param]


WIDE = {
    "query_id": [11, 12, 13],
    "prompt": ["a", "b", "c"],
    "domain": ["x", None, "y"],
    "time": [datetime(2024, 1, day) for day in (1, 2, 3)],
    "length": [1.5, 2.5, 3.5],
    "score:s": [1, 0, 1],
    "score:l": [True, True, False],
    "score:m": [0.5, None, 0.25],
    "cost_usd:s": [0.1, 0.2, None],
    "cost_usd:l": [1, 2, 3],
    "latency_s:m": [0.5, 1.5, 2.5],
}


def test_wide_frames_of_every_library_give_the_same_log(library):
    log = OutcomeLog.from_wide(library(WIDE), text="prompt")
    assert log.arms == ("s", "l", "m")
    assert log.X == ["a", "b", "c"]
    assert np.array_equal(log.quality, [[1, 1, 0.5], [0, 1, NAN], [1, 0, 0.25]], equal_nan=True)
    assert np.array_equal(log.cost, [[0.1, 1, NAN], [0.2, 2, NAN], [NAN, 3, NAN]], equal_nan=True)
    assert np.array_equal(log.latency, [[NAN, NAN, 0.5], [NAN, NAN, 1.5], [NAN, NAN, 2.5]], equal_nan=True)
    assert log.domain.tolist() == ["x", None, "y"]
    assert log.domain.dtype == object
    assert log.query_id.tolist() == [11, 12, 13]
    assert log.time.astype("M8[us]").tolist() == WIDE["time"]
    assert log.summary().domains == {"None": 1, "x": 1, "y": 1}
    assert log.action.tolist() == [-1, -1, -1]


def test_wide_arms_are_read_in_the_wanted_order(library):
    log = OutcomeLog.from_wide(library(WIDE), arms=["m", "s"])
    assert log.arms == ("m", "s")
    assert log.quality[0].tolist() == [0.5, 1.0]
    assert log.X is None


def test_features_stay_a_frame_of_their_library(library):
    frame = library(WIDE)
    log = OutcomeLog.from_wide(frame, features=["length", "query_id"])
    assert type(log.X) is type(frame)
    assert log.select([2]).X.shape == (1, 2)


def test_wide_names_can_be_mapped_and_columns_left_out(library):
    columns = {name.replace("score:", "turn1/").replace("domain", "subject"): values for name, values in WIDE.items()}
    mapping = {"quality": "turn1/", "domain": "subject", "time": None, "cost": None, "latency": "none:"}
    log = OutcomeLog.from_wide(library(columns), columns=mapping)
    assert log.arms == ("s", "l", "m")
    assert log.domain.tolist() == ["x", None, "y"]
    assert log.time is log.cost is log.latency is None


def test_wide_decisions_are_arm_names_and_null_where_there_were_none(library):
    columns = {
        "score:s": [1.0, None, 0.0],
        "score:l": [None, 1.0, 1.0],
        "action": ["s", "l", None],
        "p": [0.5, 0.25, None],
    }
    log = OutcomeLog.from_wide(library(columns), columns={"propensity": "p"})
    assert log.action.tolist() == [0, 1, -1]
    assert np.array_equal(log.propensity, [0.5, 0.25, NAN], equal_nan=True)


LONG = {
    "query_id": ["q2", "q2", "q1", "q3", "q1"],
    "arm": ["s", "l", "l", "s", "s"],
    "score": [1, 0, 1, None, 0],
    "cost_usd": [0.1, 0.2, 0.4, 0.3, None],
    "prompt": ["two", "two", "one", "three", "one"],
    "domain": ["x", "x", None, "y", None],
}


def test_long_frames_of_every_library_give_the_same_log(library):
    log = OutcomeLog.from_long(library(LONG), text="prompt")
    assert log.query_id.tolist() == ["q2", "q1", "q3"]
    assert log.arms == ("s", "l")
    assert log.X == ["two", "one", "three"]
    assert np.array_equal(log.quality, [[1, 0], [0, 1], [NAN, NAN]], equal_nan=True)
    assert np.array_equal(log.cost, [[0.1, 0.2], [NAN, 0.4], [0.3, NAN]], equal_nan=True)
    assert log.domain.tolist() == ["x", None, "y"]
    assert log.latency is None


def test_long_arms_are_read_in_the_wanted_order_and_queries_without_them_left_out(library):
    log = OutcomeLog.from_long(library(LONG), arms=["l", "s"], text="prompt")
    assert log.quality[0].tolist() == [0.0, 1.0]
    only = OutcomeLog.from_long(library(LONG), arms=["l"], text="prompt")
    assert only.X == ["two", "one"]
    assert only.quality.tolist() == [[0.0], [1.0]]


def test_long_texts_and_domains_may_stand_in_a_frame_of_queries(library):
    queries = library(
        {"id": ["q1", "q2", "q3", "q4"], "question": ["one", "two", "three", "four"], "topic": list("abcd")}
    )
    table = library({"id": LONG["query_id"], "model": LONG["arm"], "valid": LONG["score"]})
    log = OutcomeLog.from_long(
        table,
        text="question",
        queries=queries,
        columns={"query_id": "id", "arm": "model", "quality": "valid", "domain": "topic"},
    )
    assert log.X == ["two", "one", "three"]
    assert log.domain.tolist() == ["b", "a", "c"]
    assert log.query_id.tolist() == ["q2", "q1", "q3"]


def test_long_decisions_with_integer_arms_and_rows_that_are_queries(library):
    columns = {"item": [7, 3, 7], "click": [0, 1, 1], "p": [0.5, 0.25, 0.5], "f": [1, 2, 3]}
    log = OutcomeLog.from_long(
        library(columns),
        features=["f"],
        columns={"query_id": None, "arm": "item", "quality": "click", "propensity": "p"},
    )
    assert log.arms == ("7", "3")
    assert log.action.tolist() == [0, 1, 0]
    assert log.propensity.tolist() == [0.5, 0.25, 0.5]
    assert np.array_equal(log.quality, [[0, NAN], [NAN, 1], [1, NAN]], equal_nan=True)
    assert log.query_id is None


def test_long_decisions_for_other_arms_are_left_out_and_propensities_with_them(library):
    # Among the wanted arms the drawn one was likelier than the propensity says, by a factor that the table does not tell.
    columns = library({"arm": ["a", "b", "c"], "score": [0, 1, 1], "propensity": [0.5, 0.25, 0.25]})
    with pytest.warns(MissingPropensityWarning) as caught:
        part = OutcomeLog.from_long(columns, arms=["c", "b"], columns={"query_id": None})
    assert (part.arms, part.action.tolist(), part.propensity) == (("c", "b"), [1, 0], None)
    assert [str(warning.message)[:40] for warning in caught] == [
        "1 of 3 queries are left out, because ano",
        "2 logged arms come without propensities:",
    ]
    assert {warning.filename for warning in caught} == {__file__}
    whole = OutcomeLog.from_long(columns, arms=["c", "b", "a"], columns={"query_id": None})
    assert whole.propensity.tolist() == [0.5, 0.25, 0.25]


def test_columns_may_be_numbered():
    frame = pd.DataFrame([["q", "a", 1.0, "x"], ["q", "b", 0.0, "x"], ["p", "a", 0.5, "y"]])
    names = {"query_id": 0, "arm": 1, "quality": "2"}
    log = OutcomeLog.from_long(frame, text=3, columns=names)
    assert (log.arms, log.X) == (("a", "b"), ["x", "y"])
    assert np.array_equal(log.quality, [[1.0, 0.0], [0.5, NAN]], equal_nan=True)
    assert OutcomeLog.from_long(frame, features=[3], columns=names).X.to_dict("list") == {3: ["x", "y"]}
    wide = pd.DataFrame([[1.0, 7, 5], [0.0, 8, 6]], columns=["score:a", 3, 1])
    log = OutcomeLog.from_wide(wide, features=[1, "3"])
    assert log.X.to_dict("list") == {1: [5, 6], 3: [7, 8]}
    assert OutcomeLog.from_wide(wide, columns={"domain": 3}).domain.tolist() == [7, 8]
    with pytest.raises(OutcomeLogError, match=r"column '4' is missing \(features=\)"):
        OutcomeLog.from_wide(wide, features=[4])


@pytest.mark.parametrize(
    "values",
    [
        [Decimal("0.5"), Decimal(1)],
        np.array([0.5, 1.0], dtype=np.float32),
        pd.Series([0.5, 1], dtype=object),
        pd.Series([Decimal("0.5"), True], dtype=object),
    ],
)
def test_scores_of_every_numeric_kind_are_read(values):
    assert OutcomeLog.from_wide(pd.DataFrame({"score:a": values})).quality.ravel().tolist() == [0.5, 1.0]


def bad(message, columns, /, **options):
    return pytest.param(columns, options, message, id=message[:50])


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        bad(r"no column starts with 'score:'; the columns are \['x'\]", {"x": [1]}),
        bad(
            r"no column starts with 'score:'; the first of 30 columns are \['x0', 'x1'",
            {f"x{index}": [1] for index in range(30)},
        ),
        bad(r"column 'score:z' is missing; there are scores of \['a'\]", {"score:a": [1]}, arms=["z"]),
        bad(r"arms must be a sequence of names, got the string 'a'", {"score:a": [1]}, arms="a"),
        bad(
            r"2 arms have a cost but no quality, the first is 'b' \(column 'cost_usd:b'\)",
            {"score:a": [1], "cost_usd:b": [1.0], "cost_usd:c": [1.0]},
        ),
        bad(
            r"1 arms have a latency but no quality, the first is 'b' \(column 'latency_s:b'\)",
            {"score:a": [1], "latency_s:b": [1.0]},
        ),
        bad(
            r"column 'score:a' must be numeric, but 2 of 3 values are not, the first in row 1 \('good'\)",
            {"score:a": [None, "good", "bad"]},
        ),
        bad(
            r"column 'q/a' has 1 of 2 values that are not finite, the first in row 1 \(inf\)",
            {"q/a": [1.0, np.inf]},
            columns={"quality": "q/"},
        ),
        bad(
            r"column 'usd:a' has 1 of 2 values below 0, the first in row 0 \(-0.5\). A cost is in US dollars",
            {"score:a": [1, 1], "usd:a": [-0.5, 1]},
            columns={"cost": "usd:"},
        ),
        bad(r"column 'score:a' has no observed value in 2 rows", {"score:a": [None, None], "score:b": [1, 0]}),
        bad(r"column 'prompt' is missing \(text=\); the columns are \['score:a'\]", {"score:a": [1]}, text="prompt"),
        bad(
            r"column 'prompt' has 2 of 3 values that are no text, the first in row 1 \(None\)",
            {"score:a": [1, 1, 1], "prompt": ["a", None, None]},
            text="prompt",
        ),
        bad(r"column 'n' has 1 of 1 values that are no text", {"score:a": [1], "n": [1]}, text="n"),
        bad(r"column 'n' is missing \(features=\)", {"score:a": [1]}, features=["n"]),
        bad(r"features must be a sequence of names, got the string 'n'", {"score:a": [1], "n": [1]}, features="n"),
        bad(r"give either text= or features=, not both", {"score:a": [1]}, text="n", features=["n"]),
        bad(r"columns= knows no 'score'; allowed are \['action', 'cluster'", {"score:a": [1]}, columns={"score": "x"}),
        bad(r"column 'subject' is missing \(domain\)", {"score:a": [1]}, columns={"domain": "subject"}),
        bad(
            r"column 'query_id' has 1 ids that repeat, the first is 7 \(in rows 0 and 2\)",
            {"score:a": [1, 1, 1], "query_id": [7, 8, 7]},
        ),
        bad(r"the log is empty: it has no query", {"score:a": []}),
        bad(
            r"column 'action' has 1 of 2 values that are no arm of \['a'\], the first in row 1 \(z\)",
            {"score:a": [1, 1], "action": ["a", "z"], "propensity": [1.0, 1.0]},
        ),
        bad(
            r"column 'propensity' is there, but no column says which arm was logged",
            {"score:a": [1], "propensity": [0.5]},
        ),
        bad(
            r"column 'p' has 1 of 2 values outside \(0, 1\], the first in row 1 \(0.0\)",
            {"score:a": [1, 1], "action": ["a", "a"], "p": [0.5, 0]},
            columns={"propensity": "p"},
        ),
        bad(
            r"column 'p' must be numeric, but 1 of 1 values are not, the first in row 0 \('x'\)",
            {"score:a": [1], "action": ["a"], "p": ["x"]},
            columns={"propensity": "p"},
        ),
    ],
)
def test_wide_faults_name_the_column_the_count_and_the_first_row(columns, options, message):
    for frame in (pl.DataFrame(columns), pa.table(columns), pd.DataFrame(columns)):
        with pytest.raises(OutcomeLogError, match=message):
            OutcomeLog.from_wide(frame, **options)


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        bad(r"the log is empty: the frame has no row", {"query_id": [], "arm": [], "score": []}),
        bad(r"column 'arm' is missing; the columns are \['query_id', 'score'\]", {"query_id": [1], "score": [1]}),
        bad(r"column 'query_id' is missing; the columns are \['arm', 'score'\]", {"arm": ["a"], "score": [1]}),
        bad(r"column 'score' is missing \(quality\)", {"query_id": [1], "arm": ["a"]}),
        bad(
            r"column 'usd' is missing \(cost\)",
            {"query_id": [1], "arm": ["a"], "score": [1]},
            columns={"cost": "usd"},
        ),
        bad(r"columns= cannot map 'arm' to None: a long table needs it", {"score": [1]}, columns={"arm": None}),
        bad(r"columns= knows no 'model'", {"query_id": [1], "arm": ["a"], "score": [1]}, columns={"model": "arm"}),
        bad(
            r"column 'arm' has 1 of 2 values that are missing, the first in row 1 \(None\)",
            {"query_id": [1, 2], "arm": ["a", None], "score": [1, 1]},
        ),
        bad(
            r"column 'query_id' has 1 of 2 values that are missing, the first in row 0 \(None\)",
            {"query_id": [None, "q"], "arm": ["a", "a"], "score": [1, 1]},
        ),
        bad(
            r"1 \(query, arm\) pairs repeat, the first is \('q', 'b'\) in rows 1 and 3",
            {"query_id": ["q", "q", "p", "q"], "arm": ["a", "b", "b", "b"], "score": [1, 1, 1, 0]},
        ),
        bad(
            r"column 'arm' holds none of the arms \['z'\]; it has \['a', 'b'\]",
            {"query_id": [1, 2], "arm": ["b", "a"], "score": [1, 1]},
            arms=["z"],
        ),
        bad(
            r"column 'score' has 1 of 3 values that are not finite, the first in row 2 \(-inf\)",
            {"query_id": [1, 1, 2], "arm": ["a", "b", "a"], "score": [1.0, 1.0, -np.inf]},
        ),
        bad(
            r"column 'score' must be numeric, but 3 of 3 values are not, the first in row 0 \('ok'\)",
            {"query_id": [1, 1, 2], "arm": ["a", "b", "a"], "score": ["ok", "ok", "no"]},
        ),
        bad(
            r"column 'cost_usd' has 1 of 3 values below 0, the first in row 2 \(-1.0\). A cost is in US dollars",
            {"query_id": [1, 1, 2], "arm": ["a", "b", "a"], "score": [1, 1, 1], "cost_usd": [0, 0, -1]},
        ),
        bad(
            r"column 'prompt' differs within 1 queries, the first is 'q' \(row 2\): 'other' and 'same'",
            {"query_id": ["p", "q", "q"], "arm": list("aab"), "score": [1, 1, 1], "prompt": ["x", "same", "other"]},
            text="prompt",
        ),
        bad(
            r"column 'domain' differs within 1 queries, the first is 'q' \(row 1\): 'y' and None",
            {"query_id": ["q", "q"], "arm": ["a", "b"], "score": [1, 1], "domain": [None, "y"]},
        ),
        bad(
            r"column 'length' differs within 1 queries",
            {"query_id": ["q", "q"], "arm": ["a", "b"], "score": [1, 1], "length": [1, 2]},
            features=["length"],
        ),
        bad(
            r"1 queries have more than one row, the first is 'q' \(again in row 2\), but a log with propensities has one",
            {"query_id": ["q", "p", "q"], "arm": ["a", "a", "b"], "score": [1, 1, 1], "propensity": [0.5, 0.5, 0.5]},
        ),
        bad(
            r"column 'p' has 1 of 2 values missing where an arm was logged, the first in row 1 \(nan\)",
            {"query_id": [1, 2], "arm": ["a", "a"], "score": [1, 1], "p": [0.5, None]},
            columns={"propensity": "p"},
        ),
        bad(
            r"column 'propensity' has 1 of 2 values outside \(0, 1\], the first in row 0 \(1.5\)",
            {"query_id": [1, 2], "arm": ["a", "a"], "score": [1, 1], "propensity": [1.5, 1]},
        ),
        bad(
            r"column 'score' has 1 of 2 values of logged arms without an observed quality, the first in row 1 \(b\)",
            {"query_id": [1, 2], "arm": ["a", "b"], "score": [1, None], "propensity": [1, 1]},
        ),
        bad(
            r"queries= needs query ids, and columns= maps 'query_id' to None",
            {"arm": ["a"], "score": [1]},
            columns={"query_id": None},
            queries=pl.DataFrame({"query_id": [1]}),
        ),
        bad(
            r"queries= lacks 2 of 3 ids, the first is 2",
            {"query_id": [1, 2, 3], "arm": ["a", "a", "a"], "score": [1, 1, 1]},
            queries=pl.DataFrame({"query_id": [1]}),
        ),
        bad(
            r"column 'query_id' has 1 ids that repeat, the first is 1 \(in rows 0 and 1\)",
            {"query_id": [1], "arm": ["a"], "score": [1]},
            queries=pl.DataFrame({"query_id": [1, 1]}),
        ),
    ],
)
def test_long_faults_name_the_column_the_count_and_the_first_row(columns, options, message):
    for frame in (pl.DataFrame(columns), pa.table(columns), pd.DataFrame(columns)):
        with pytest.raises(OutcomeLogError, match=message):
            OutcomeLog.from_long(frame, **options)


def test_a_column_that_differs_within_a_query_can_be_left_out():
    columns = {"query_id": ["q", "q"], "arm": ["a", "b"], "score": [1, 1], "time": [1, 2], "domain": ["x", "x"]}
    with pytest.raises(
        OutcomeLogError, match=r"column 'time' differs within 1 queries.*leave it out by mapping it to None"
    ):
        OutcomeLog.from_long(pl.DataFrame(columns))
    log = OutcomeLog.from_long(pl.DataFrame(columns), columns={"time": None})
    assert log.time is None
    assert log.domain.tolist() == ["x"]


@pytest.mark.parametrize("read", [OutcomeLog.from_wide, OutcomeLog.from_long])
def test_only_frames_with_distinct_columns_are_read(read):
    with pytest.raises(OutcomeLogError, match=r"expected a frame that narwhals knows .*, got dict"):
        read({"score:a": [1]})
    twice = pd.DataFrame([[1, 2, "a"]], columns=["score:a", "score:a", "arm"])
    with pytest.raises(OutcomeLogError, match="1 columns stand twice, the first is 'score:a'"):
        read(twice)
    with pytest.raises(OutcomeLogError, match="1 columns stand twice, the first is 'score:a'"):
        read(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["score:a", "score:a"]))


def test_decisions_without_propensities_are_read_with_a_warning():
    frame = pl.DataFrame({"score:a": [1.0, None], "score:b": [None, 1.0], "action": ["a", "b"]})
    with pytest.warns(MissingPropensityWarning, match="2 logged arms come without propensities"):
        log = OutcomeLog.from_wide(frame)
    assert (log.action.tolist(), log.propensity) == ([0, 1], None)


@pytest.mark.filterwarnings("error")
def test_a_lazy_frame_is_to_be_collected():
    lazy = pl.LazyFrame({"score:a": [1.0, 0.0], "score:b": [0.0, 1.0]})
    for read in (OutcomeLog.from_wide, OutcomeLog.from_long):
        with pytest.raises(OutcomeLogError, match=r"a lazy LazyFrame has no values yet: collect it first"):
            read(lazy)
    assert len(OutcomeLog.from_wide(lazy.collect())) == 2
