"""The Parquet round trip is exact, and other tools see ordinary columns."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import date

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal
from scipy.sparse import csc_array, csr_array, csr_matrix, issparse

from defer import OutcomeLog
from defer.exceptions import OutcomeLogError, SupportWarning
from defer.portfolios import ArmMatrix

NAN = float("nan")


def assert_same(one: OutcomeLog, other: OutcomeLog) -> None:
    for field in fields(OutcomeLog):
        left, right = getattr(one, field.name), getattr(other, field.name)
        assert type(left) is type(right), field.name
        if isinstance(left, pd.DataFrame):
            pd.testing.assert_frame_equal(left, right)
        elif isinstance(left, pl.DataFrame):
            assert_frame_equal(left, right)
        elif isinstance(left, pa.Table):
            assert left.equals(right)
        elif issparse(left):
            assert (left.dtype, left.shape, left.format) == (right.dtype, right.shape, right.format)
            for part in ("data", "indices", "indptr"):
                assert getattr(left, part).tolist() == getattr(right, part).tolist()
        elif isinstance(left, np.ndarray):
            assert left.dtype == right.dtype, field.name
            assert left.shape == right.shape
            # Bit for bit, so that -0.0 and NaN count too.
            assert left.tolist() == right.tolist() if left.dtype.kind == "O" else left.tobytes() == right.tobytes()
            assert getattr(left, "arms", None) == getattr(right, "arms", None)
        else:
            assert left == right, field.name


def written(log: OutcomeLog, folder) -> OutcomeLog:
    log.to_parquet(folder / "log.parquet")
    return OutcomeLog.read_parquet(folder / "log.parquet")


@pytest.fixture
def mixed_log() -> OutcomeLog:
    """Every field set; recorded and decided rows side by side; arms neither sorted nor plain."""
    quality = np.array([[1, 0.1 + 0.2, -0.0], [1 / 3, NAN, NAN], [NAN, NAN, 1e-300]])
    return OutcomeLog.from_arrays(
        ["ä\n\"'", "", "x" * 1000],
        quality,
        arms=["z/large v1.2", "a:small", "é"],
        cost=np.where(np.isnan(quality), NAN, 0.1),
        latency=np.where(np.isnan(quality), NAN, 1e9),
        action=[-1, 0, 2],
        policy=[[0.2, 0.3, 0.5]] * 3,
        domain=["x", None, "y"],
        cluster=np.array([3, 3, 5], dtype=np.int16),
        time=np.array(["2024-01-01T10:00:00.000001", "NaT", "1969-01-01"], dtype="M8[us]"),
        query_id=np.array(["q1", "q2", "longer"]),
    )


def test_round_trip_of_every_field_is_exact(mixed_log, full_log, bandit_log, tmp_path):
    for log in (mixed_log, full_log, bandit_log, full_log.select([3])):
        assert_same(written(log, tmp_path), log)


@pytest.mark.parametrize(
    "column",
    [
        np.array(["a", "bcd"]),
        np.array(["a", None], dtype=object),
        np.array([b"a", b"b"]),
        np.array([True, False]),
        np.array([1, 2], dtype=np.uint64),
        np.array([1, -2], dtype=np.int8),
        np.array([1, 2], dtype=object),
        np.array([0.5, NAN]),
        np.array([0.5, -0.0], dtype=np.float32),
        np.array(["2024-01-01", "NaT"], dtype="M8[D]"),
        np.array(["2024-01-01T01", "1900-01-01T02"], dtype="M8[h]"),
        np.array(["2024-01-01T01:02", "NaT"], dtype="M8[m]"),
        np.array(["2024-01-01", "2024-01-02"], dtype="M8[ns]"),
        np.array([1, 2], dtype="m8[ms]"),
        np.array([date(2024, 1, 1), None], dtype=object),
    ],
    ids=lambda column: f"{column.dtype}-{column[1]}",
)
@pytest.mark.parametrize("field", ["domain", "time"])
def test_columns_of_every_type_come_back_as_they_were(column, field, tmp_path):
    log = OutcomeLog.from_arrays(None, [[1.0], [0.0]], **{field: column})
    assert_same(written(log, tmp_path), log)


@pytest.mark.parametrize(
    "X",
    [
        None,
        ["a", "b"],
        np.array([[0.1, NAN], [2.0, -0.0]], dtype=np.float32),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([[True], [False]]),
        np.array([[1, 2], [3, 4]], dtype=np.int8),
        np.array([["a", "bc"], ["d", ""]]),
        csr_array(np.array([[0, 1.5], [0, 0]], dtype=np.float32)),
        csr_matrix((2, 5)),
        csc_array(np.array([[1, 0], [2, 3]])),
        csr_array((np.array([0.0, 1.0]), np.array([2, 0]), np.array([0, 2, 2])), shape=(2, 3)),
        pd.DataFrame({"f": [1, None], "g": pd.Series(["u", "v"], dtype="category"), "h": pd.array([1, None], dtype="Int64")}),
        pd.DataFrame([[1.0, 2.0], [3.0, 4.0]]),
        pd.DataFrame({"t": pd.to_datetime(["2024-01-01", None]).tz_localize("UTC"), "s": ["x", None]}),
        pl.DataFrame({"f": [1, None], "g": pl.Series(["u", "v"], dtype=pl.Categorical), "h": [[1], [2, 3]]}),
        pa.table({"f": pa.array([1, 2], pa.int8()), "score:a": pa.array(["x", None])}),
    ],
    ids=lambda X: type(X).__name__,
)  # fmt: skip
def test_queries_of_every_kind_come_back_as_they_were(X, tmp_path):
    log = OutcomeLog.from_arrays(X, [[1.0, 0.0], [0.0, 1.0]])
    assert_same(written(log, tmp_path), log)


def test_a_part_in_which_an_arm_was_never_observed_is_read_back(full_log, tmp_path):
    log = full_log.with_action(np.tile([0.5, 0.5, 0.0], (200, 1))).select(range(10))
    assert_same(written(log, tmp_path), log)


def test_other_tools_see_ordinary_columns_with_nulls(mixed_log, tmp_path):
    path = tmp_path / "log.parquet"
    mixed_log.to_parquet(path)
    expected = [
        "prompt", "query_id", "domain", "cluster", "time", "action", "propensity",
        *(f"{kind}:{arm}" for kind in ("score", "cost_usd", "latency_s", "policy") for arm in mixed_log.arms),
    ]  # fmt: skip
    frame = pl.read_parquet(path)
    assert frame.columns == expected
    assert frame["action"].to_list() == [None, "z/large v1.2", "é"]
    assert frame["score:a:small"].to_list() == [0.1 + 0.2, None, None]
    assert frame["propensity"].null_count() == 1
    rows = duckdb.sql(
        f"""SELECT prompt, avg("cost_usd:é") OVER (), "action" FROM '{path}' ORDER BY query_id"""
    ).fetchall()
    assert [row[1] for row in rows] == [0.1] * 3  # what was not observed is not averaged
    assert [row[2] for row in rows] == ["é", None, "z/large v1.2"]


@pytest.mark.parametrize(
    "X",
    [csr_array(np.eye(3)), np.arange(6.0).reshape(3, 2), pd.DataFrame({"f": [1, 2, 3]})],
    ids=["sparse", "dense", "frame"],
)
def test_other_tools_read_queries_that_are_no_texts(X, tmp_path):
    path = tmp_path / "log.parquet"
    OutcomeLog.from_arrays(X, np.eye(3)).to_parquet(path)
    assert duckdb.sql(f"""SELECT sum("score:arm_0") FROM '{path}'""").fetchall() == [(1.0,)]
    assert pl.read_parquet(path)["score:arm_1"].to_list() == [0.0, 1.0, 0.0]


def test_metadata_hold_the_arms_and_the_version(mixed_log, tmp_path):
    mixed_log.to_parquet(tmp_path / "log.parquet")
    meta = json.loads(pq.read_schema(tmp_path / "log.parquet").metadata[b"defer.outcome_log"])
    assert meta["version"] == 1
    assert tuple(meta["arms"]) == mixed_log.arms


def test_a_file_that_another_tool_rewrote_is_read_as_a_wide_table(mixed_log, tmp_path):
    mixed_log.to_parquet(tmp_path / "log.parquet")
    pl.read_parquet(tmp_path / "log.parquet").write_parquet(tmp_path / "other.parquet")
    log = OutcomeLog.read_parquet(tmp_path / "other.parquet", text="prompt")
    assert log.arms == mixed_log.arms
    assert log.X == mixed_log.X
    assert log.action.tolist() == mixed_log.action.tolist()
    assert np.array_equal(log.quality, mixed_log.quality, equal_nan=True)
    assert np.array_equal(log.propensity, mixed_log.propensity, equal_nan=True)


def test_arms_of_an_own_file_are_selected(mixed_log, tmp_path):
    mixed_log.to_parquet(tmp_path / "log.parquet")
    with pytest.warns(SupportWarning, match="0 of 3 queries are left out") as caught:
        part = OutcomeLog.read_parquet(tmp_path / "log.parquet", arms=["é", "z/large v1.2"])
    assert caught[0].filename == __file__
    with pytest.warns(SupportWarning):
        assert_same(part, mixed_log.select(arms=["é", "z/large v1.2"]))
    with pytest.raises(OutcomeLogError, match="no arm 'x'"):
        OutcomeLog.read_parquet(tmp_path / "log.parquet", arms=["x"])


def test_text_and_features_of_an_own_file_replace_the_queries(tmp_path):
    path = tmp_path / "log.parquet"
    frame = pd.DataFrame({"length": [1, 2], "note": ["u", "v"]})
    OutcomeLog.from_arrays(frame, np.eye(2), domain=["x", "y"]).to_parquet(path)
    assert OutcomeLog.read_parquet(path, text="domain").X == ["x", "y"]
    assert OutcomeLog.read_parquet(path, text="x:note").X == ["u", "v"]
    assert OutcomeLog.read_parquet(path, features=["length", "domain"]).X.shape == (2, 2)
    with pytest.raises(OutcomeLogError, match=r"column 'prompt' is missing \(text=\)"):
        OutcomeLog.read_parquet(path, text="prompt")
    with pytest.raises(OutcomeLogError, match=r"column 'width' is missing \(features=\)"):
        OutcomeLog.read_parquet(path, features=["width"])
    with pytest.raises(OutcomeLogError, match="features must be a sequence of names"):
        OutcomeLog.read_parquet(path, features="length")
    with pytest.raises(OutcomeLogError, match="give either text= or features=, not both"):
        OutcomeLog.read_parquet(path, text="domain", features=["length"])


def test_columns_read_an_own_file_as_any_other_table(mixed_log, tmp_path):
    mixed_log.to_parquet(tmp_path / "log.parquet")
    log = OutcomeLog.read_parquet(tmp_path / "log.parquet", text="prompt", columns={"cost": None, "domain": "query_id"})
    assert log.cost is None
    assert log.domain.tolist() == ["q1", "q2", "longer"]
    assert log.X == mixed_log.X


def test_queries_belong_to_a_long_table(mixed_log, tmp_path):
    mixed_log.to_parquet(tmp_path / "log.parquet")
    pl.DataFrame({"score:a": [1.0]}).write_parquet(tmp_path / "wide.parquet")
    for name in ("log.parquet", "wide.parquet"):
        with pytest.raises(OutcomeLogError, match="queries= belongs to a long table"):
            OutcomeLog.read_parquet(tmp_path / name, queries=tmp_path / name)


def test_long_files_are_recognised_and_queries_may_be_a_path(tmp_path):
    pl.DataFrame({"query_id": [1, 1, 2], "arm": ["s", "l", "s"], "score": [0, 1, 1]}).write_parquet(
        tmp_path / "o.parquet"
    )
    pl.DataFrame({"query_id": [2, 1], "prompt": ["two", "one"]}).write_parquet(tmp_path / "q.parquet")
    log = OutcomeLog.read_parquet(tmp_path / "o.parquet", text="prompt", queries=tmp_path / "q.parquet")
    assert log.X == ["one", "two"]
    assert np.array_equal(log.quality, [[0, 1], [1, NAN]], equal_nan=True)


def test_files_that_are_no_logs_say_why(mixed_log, tmp_path):
    with pytest.raises(OutcomeLogError, match=r"there is no file '.*none.parquet'"):
        OutcomeLog.read_parquet(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(OutcomeLogError, match=r"text.parquet' cannot be read as Parquet"):
        OutcomeLog.read_parquet(tmp_path / "text.parquet")
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(OutcomeLogError, match="no column starts with 'score:'"):
        OutcomeLog.read_parquet(tmp_path / "x.parquet")


def test_files_of_a_later_version_or_with_lost_columns_are_refused(mixed_log, tmp_path):
    path = tmp_path / "log.parquet"
    mixed_log.to_parquet(path)
    table = pq.read_table(path)
    key = b"defer.outcome_log"
    later = json.loads(table.schema.metadata[key]) | {"version": 2}
    pq.write_table(table.replace_schema_metadata({key: json.dumps(later)}), tmp_path / "later.parquet")
    with pytest.raises(OutcomeLogError, match="has the log format 2, and this version of defer reads up to 1: upgrade"):
        OutcomeLog.read_parquet(tmp_path / "later.parquet")
    pq.write_table(table.drop_columns(["cost_usd:é"]), tmp_path / "lost.parquet")
    with pytest.raises(OutcomeLogError, match=r"has lost a part of it: .*cost_usd:é"):
        OutcomeLog.read_parquet(tmp_path / "lost.parquet")
    assert OutcomeLog.read_parquet(tmp_path / "lost.parquet", columns={}).arms == mixed_log.arms


@pytest.mark.parametrize(
    ("X", "columns", "message"),
    [
        ([{"role": "user"}], {}, "X cannot be written to Parquet: it must hold texts, or be a table with columns, got list of dict"),
        (np.zeros((1, 0)), {}, "X cannot be written to Parquet"),
        (pd.DataFrame([[1.0, 2.0]], columns=[1, "1"]), {}, "X cannot be written to Parquet: 2 of its columns have the name '1', as text"),
        (None, {"domain": np.array([1 + 2j])}, "column 'domain' of dtype complex128 cannot be written to Parquet"),
        (None, {"domain": np.array([object()])}, "column 'domain' of dtype object cannot be written to Parquet"),
    ],
)  # fmt: skip
def test_what_a_parquet_column_cannot_hold_is_refused(X, columns, message, tmp_path):
    log = OutcomeLog.from_arrays(X, [[1.0]], **columns)
    with pytest.raises(OutcomeLogError, match=message):
        log.to_parquet(tmp_path / "log.parquet")


def test_the_embedded_log_is_read(tmp_path):
    import defer.datasets

    log = defer.datasets.load_tiny()
    assert isinstance(log.quality, ArmMatrix)
    assert_same(written(log, tmp_path), log)
