"""Outcome logs in Parquet: ordinary columns that any tool reads, with their meaning in the file's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, csr_matrix, issparse, isspmatrix

from defer.exceptions import OutcomeLogError
from defer.portfolios.tables import read_long, read_queries, read_wide

if TYPE_CHECKING:
    from defer.portfolios.outcomes import OutcomeLog

__all__ = ["read_log", "write_log"]

_KEY, _VERSION = b"defer.outcome_log", 1
_TABLES = {"quality": "score:", "cost": "cost_usd:", "latency": "latency_s:", "policy": "policy:"}
_COLUMNS = ("query_id", "domain", "cluster", "time", "action", "propensity")


def write_log(log: OutcomeLog, path: str | PathLike[str]) -> None:
    """Write `log` as one Parquet file (zstd); what was not observed is null.

    Raises
    ------
    OutcomeLogError
        If queries or a column are of a kind that a Parquet column cannot hold.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {}
    queries = _write_queries(log.X, columns)
    for name in _COLUMNS:
        values = getattr(log, name)
        if values is None:
            continue
        if name == "action":
            columns[name] = pa.array(np.array([*log.arms, None], dtype=object)[values], pa.string())
        else:
            columns[name] = _arrow(values, name, gaps=name == "propensity")
    for name, prefix in _TABLES.items():
        table = getattr(log, name)
        if table is not None:
            for index, arm in enumerate(log.arms):
                columns[f"{prefix}{arm}"] = _arrow(np.asarray(table[:, index]), f"{prefix}{arm}", gaps=True)
    meta = {
        "version": _VERSION,
        "arms": list(log.arms),
        "X": queries,
        "tables": [name for name in _TABLES if getattr(log, name) is not None],
        "columns": {name: getattr(log, name).dtype.str for name in _COLUMNS if getattr(log, name) is not None},
    }
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata({_KEY: json.dumps(meta).encode()}), path, compression="zstd")


def read_log(
    path: str | PathLike[str],
    *,
    text: str | None = None,
    features: Sequence[str] | None = None,
    arms: Sequence[str] | None = None,
    columns: Mapping[str, str | None] | None = None,
    queries: Any = None,
) -> tuple[dict[str, Any], Sequence[str] | None]:
    """Fields of an outcome log from a Parquet file of any of the three forms, and the arms that are still to be selected.

    Raises
    ------
    OutcomeLogError
        If the file was written by a later version, holds no outcome log, or an option does not fit its form.
    """
    table = _read_table(path)
    meta = (table.schema.metadata or {}).get(_KEY)
    long = meta is None and ((columns or {}).get("arm") or "arm") in table.column_names
    if queries is not None and not long:
        raise OutcomeLogError("queries= belongs to a long table, with a row a (query, arm); this file is none")
    if meta is not None and columns is None:
        fields = _read_own(table, json.loads(meta), path)
        if text is not None or features is not None:
            fields["X"] = read_queries(table, text, _own_features(features, table.column_names))
        return fields, arms
    if long:
        frame = _read_table(queries) if isinstance(queries, (str, PathLike)) else queries
        return read_long(table, text=text, features=features, arms=arms, columns=columns, queries=frame), None
    return read_wide(table, text=text, features=features, arms=arms, columns=columns), None


def _read_table(path: str | PathLike[str]) -> Any:
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise OutcomeLogError(f"there is no file {str(path)!r}") from None
    except Exception as error:  # pyarrow has no common error for "not a Parquet file"
        raise OutcomeLogError(f"{str(path)!r} cannot be read as Parquet: {error}") from None


def _arrow(values: NDArray[Any], name: str, *, gaps: bool = False) -> Any:
    import pyarrow as pa

    if values.dtype.kind == "M" and np.datetime_data(values.dtype)[0] in ("h", "m"):
        values = values.astype("datetime64[s]")
    try:
        return pa.array(values, from_pandas=gaps)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise OutcomeLogError(
            f"column {name!r} of dtype {values.dtype} cannot be written to Parquet: {error}"
        ) from None


def _write_queries(X: Any, columns: dict[str, Any]) -> dict[str, Any]:
    """Add the columns of the queries, and say what they were."""
    import pyarrow as pa

    if X is None:
        return {"kind": "none"}
    if issparse(X):
        rows = csr_array(X)
        ends = pa.array(rows.indptr, pa.int64())
        columns["x_index"] = pa.LargeListArray.from_arrays(ends, pa.array(rows.indices))
        columns["x_value"] = pa.LargeListArray.from_arrays(ends, pa.array(rows.data))
        return {"kind": "sparse", "width": int(X.shape[1]), "format": X.format, "matrix": isspmatrix(X)}
    frame = nw.from_native(X, eager_only=True, pass_through=True)
    if isinstance(frame, nw.DataFrame):
        table = pa.Table.from_pandas(X, preserve_index=False) if frame.implementation.is_pandas() else frame.to_arrow()
        names = [str(name) for name in table.column_names]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise OutcomeLogError(
                f"X cannot be written to Parquet: {names.count(twice[0])} of its columns have the name {twice[0]!r}, as text; "
                "rename them"
            )
        columns |= {f"x:{name}": table[index] for index, name in enumerate(names)}
        kind = str(frame.implementation)
        numbered = all(isinstance(name, int) for name in frame.columns)
        types = _pandas_types(table)
        return {"kind": "frame", "columns": names, "library": kind, "pandas": types, "numbered": numbered}
    if isinstance(X, np.ndarray) and X.ndim == 2 and X.shape[1]:
        flat = _arrow(np.ascontiguousarray(X).ravel(), "x")
        columns["x"] = pa.FixedSizeListArray.from_arrays(flat, X.shape[1])
        return {"kind": "array", "dtype": X.dtype.str}
    try:
        columns["prompt"] = pa.array(list(X), pa.string())
    except (pa.ArrowException, TypeError):
        raise OutcomeLogError(
            f"X cannot be written to Parquet: it must hold texts, or be a table with columns, got {type(X).__name__} of "
            f"{type(X[0]).__name__}"
        ) from None
    return {"kind": "text"}


def _pandas_types(table: Any) -> str | None:
    described = (table.schema.metadata or {}).get(b"pandas")
    return None if described is None else described.decode()


def _own_features(features: Sequence[str] | None, names: list[str]) -> list[str] | None:
    """Columns of the file, which may be named as they were in the frame of queries."""
    if features is None or isinstance(features, str):
        return features  # type: ignore[return-value]  # a string is refused where features are read
    return [f"x:{name}" if f"x:{name}" in names and name not in names else name for name in features]


def _read_own(table: Any, meta: dict[str, Any], path: Any) -> dict[str, Any]:
    if meta["version"] > _VERSION:
        raise OutcomeLogError(
            f"{str(path)!r} has the log format {meta['version']}, and this version of defer reads up to {_VERSION}: upgrade defer-learn"
        )
    try:
        return _own_fields(table, meta)
    except KeyError as error:
        raise OutcomeLogError(
            f"{str(path)!r} was written as an outcome log, but has lost a part of it: {error.args[0]}; read it as a wide table "
            "with columns={}"
        ) from None


def _own_fields(table: Any, meta: dict[str, Any]) -> dict[str, Any]:
    arms = tuple(meta["arms"])
    fields: dict[str, Any] = {"X": _read_queries(table, meta["X"]), "arms": arms}
    for name in meta["tables"]:
        fields[name] = np.column_stack([table[f"{_TABLES[name]}{arm}"].to_numpy() for arm in arms])
    for name, dtype in meta["columns"].items():
        column = table[name]
        if name == "action":
            place = {arm: index for index, arm in enumerate(arms)} | {None: -1}
            fields[name] = np.array([place[arm] for arm in column.to_pylist()], dtype=np.intp)
        elif np.dtype(dtype).kind == "O":
            fields[name] = np.empty(len(column), dtype=object)
            fields[name][:] = column.to_pylist()
        else:
            fields[name] = column.to_numpy().astype(dtype)
    return fields


def _read_queries(table: Any, how: dict[str, Any]) -> Any:
    match how["kind"]:
        case "none":
            return None
        case "text":
            return table["prompt"].to_pylist()
        case "array":
            column = table["x"].combine_chunks()
            flat = column.flatten().to_numpy(zero_copy_only=False)
            return flat.reshape(len(column), -1).astype(how["dtype"])
        case "sparse":
            index, value = table["x_index"].combine_chunks(), table["x_value"].combine_chunks()
            parts = tuple(
                part.to_numpy(zero_copy_only=False) for part in (value.flatten(), index.flatten(), index.offsets)
            )
            rows = (csr_matrix if how["matrix"] else csr_array)(parts, shape=(len(index), how["width"]))
            return rows.asformat(how["format"])
        case _:
            return _read_frame(table, how)


def _read_frame(table: Any, how: dict[str, Any]) -> Any:
    """Frame of the library that it came from; a pyarrow table where that is not installed."""
    frame = table.select([f"x:{name}" for name in how["columns"]]).rename_columns(how["columns"])
    try:
        if how["library"] == "pandas":
            pandas = frame.replace_schema_metadata({b"pandas": how["pandas"].encode()}).to_pandas()
            return pandas.set_axis([int(name) for name in how["columns"]], axis=1) if how.get("numbered") else pandas
        if how["library"] == "polars":
            return nw.from_native(frame, eager_only=True).to_polars()
    except ModuleNotFoundError:
        pass
    return frame.replace_schema_metadata(None)
