"""Outcome logs in Parquet: ordinary columns that any tool reads, with their meaning in the file's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np
from scipy.sparse import csr_array, issparse

from defer.exceptions import OutcomeLogError
from defer.portfolios.tables import read_long, read_wide

if TYPE_CHECKING:
    from defer.portfolios.outcomes import OutcomeLog

__all__ = ["read_log", "write_log"]

_KEY, _VERSION = b"defer.outcome_log", 1
_TABLES = {"quality": "score:", "cost": "cost_usd:", "latency": "latency_s:", "policy": "policy:"}
_COLUMNS = ("query_id", "domain", "cluster", "time", "action", "propensity")


def write_log(log: OutcomeLog, path: str | PathLike[str]) -> None:
    """Write `log` as one Parquet file (zstd)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {}
    kind, names = _write_queries(log.X, columns)
    for name in _COLUMNS:
        values = getattr(log, name)
        if values is not None:
            label = name
            columns[label] = (
                pa.array(np.asarray(log.arms, dtype=object)[values], mask=values < 0)
                if name == "action"
                else pa.array(values)
            )
    for name, prefix in _TABLES.items():
        table = getattr(log, name)
        if table is not None:
            for index, arm in enumerate(log.arms):
                columns[f"{prefix}{arm}"] = pa.array(np.asarray(table[:, index]))
    meta = {
        "version": _VERSION,
        "arms": list(log.arms),
        "X": {"kind": kind, "columns": names},
        "tables": [name for name in _TABLES if getattr(log, name) is not None],
        "columns": {name: str(getattr(log, name).dtype) for name in _COLUMNS if getattr(log, name) is not None},
    }
    if issparse(log.X):
        meta["X"]["width"] = int(log.X.shape[1])  # type: ignore[index]
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata({_KEY: json.dumps(meta).encode()}), path, compression="zstd")


def read_log(
    path: str | PathLike[str],
    *,
    text: str | None = None,
    features: Any = None,
    arms: Any = None,
    columns: Mapping[str, Any] | None = None,
    queries: Any = None,
) -> dict[str, Any]:
    """Fields of an outcome log from a Parquet file of any of the three forms.

    Raises
    ------
    OutcomeLogError
        If the file was written by a later version, or holds no outcome log.
    """
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise OutcomeLogError(f"there is no file {str(path)!r}") from None
    except Exception as error:  # pyarrow has no common error for "not a Parquet file"
        raise OutcomeLogError(f"{str(path)!r} cannot be read as Parquet: {error}") from None
    meta = (table.schema.metadata or {}).get(_KEY)
    if meta is not None and columns is None:
        fields = _read_own(table, json.loads(meta), path)
        if text is not None and fields["X"] is None:
            fields["X"] = table[text].to_pylist() if text in table.column_names else None
        return fields
    mapping = dict(columns or {})
    if mapping.get("arm", "arm") in table.column_names:
        frame = pq.read_table(queries) if isinstance(queries, (str, PathLike)) else queries
        return read_long(table, text=text, features=features, arms=arms, columns=columns, queries=frame)
    return read_wide(table, text=text, features=features, arms=arms, columns=columns)


def _write_queries(X: Any, columns: dict[str, Any]) -> tuple[str, list[str]]:
    import pyarrow as pa

    if X is None:
        return "none", []
    if issparse(X):
        rows = csr_array(X)
        columns["x_index"] = pa.ListArray.from_arrays(pa.array(rows.indptr, pa.int32()), pa.array(rows.indices))
        columns["x_value"] = pa.ListArray.from_arrays(pa.array(rows.indptr, pa.int32()), pa.array(rows.data))
        return "sparse", ["x_index", "x_value"]
    frame = nw.from_native(X, eager_only=True, pass_through=True)
    if isinstance(frame, nw.DataFrame):
        for name in frame.columns:
            columns[f"x:{name}"] = frame[name].to_arrow()
        return "frame", list(frame.columns)
    if isinstance(X, np.ndarray) and X.ndim == 2:
        width = X.shape[1]
        columns["x"] = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(X).ravel()), width)
        return "array", ["x"]
    columns["prompt"] = pa.array(list(X), pa.string())
    return "text", ["prompt"]


def _read_own(table: Any, meta: dict[str, Any], path: Any) -> dict[str, Any]:
    if meta["version"] > _VERSION:
        raise OutcomeLogError(
            f"{str(path)!r} has the log format {meta['version']}, and this version of defer reads up to {_VERSION}: upgrade defer-learn"
        )
    arms = tuple(meta["arms"])
    fields: dict[str, Any] = {"X": _read_queries(table, meta["X"]), "arms": arms}
    for name in meta["tables"]:
        fields[name] = np.column_stack([table[f"{_TABLES[name]}{arm}"].to_numpy() for arm in arms])
    for name, dtype in meta["columns"].items():
        if name == "action":
            place = {arm: index for index, arm in enumerate(arms)} | {None: -1}
            fields[name] = np.array([place[arm] for arm in table[name].to_pylist()], dtype=np.intp)
        else:
            values = table[name].to_numpy(zero_copy_only=False)
            fields[name] = values.astype(dtype) if np.dtype(dtype).kind != "O" else values
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
            return flat.reshape(len(column), -1)
        case "sparse":
            index, value = table["x_index"].combine_chunks(), table["x_value"].combine_chunks()
            parts = (value.flatten().to_numpy(), index.flatten().to_numpy(), index.offsets.to_numpy())
            return csr_array(parts, shape=(len(index), how["width"]))
        case _:
            return table.select([f"x:{name}" for name in how["columns"]]).rename_columns(how["columns"])
