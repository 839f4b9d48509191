"""Reading wide and long frames of any dataframe library into the fields of an outcome log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from defer.exceptions import OutcomeLogError

__all__ = ["as_matrix", "read_long", "read_wide"]

_PER_QUERY = ("query_id", "domain", "cluster", "time")
_PREFIX = {"quality": "score:", "cost": "cost_usd:", "latency": "latency_s:"}
_LONG = {
    "query_id": "query_id",
    "arm": "arm",
    "quality": "score",
    "cost": "cost_usd",
    "latency": "latency_s",
    "propensity": "propensity",
}


def read_wide(
    frame: Any,
    *,
    text: str | None = None,
    features: Sequence[str] | None = None,
    arms: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Fields of an outcome log from a frame with one row a query.

    Parameters
    ----------
    frame : frame of any library that narwhals supports
    text : str, optional
        Column with the text of the query.
    features : sequence of str, optional
        Columns that describe the query, instead of a text.
    arms : sequence of str, optional
        Arms to read, in this order; default all that have a quality column.
    columns : mapping, optional
        Where other names are used: ``quality``, ``cost`` and ``latency`` to the prefix before the arm's name (default
        ``score:``, ``cost_usd:``, ``latency_s:``); ``query_id``, ``domain``, ``cluster``, ``time``, ``action`` (arm
        names) and ``propensity`` to a column.

    Returns
    -------
    dict
        Keyword arguments of `OutcomeLog`.

    Raises
    ------
    OutcomeLogError
        On missing or duplicate columns, an arm in cost but not in quality, or text where numbers belong.
    """
    table, names = _frame(frame), dict(columns or {})
    _known(names, (*_PREFIX, *_PER_QUERY, "action", "propensity"))
    prefix = {kind: names.get(kind, default) for kind, default in _PREFIX.items()}
    found = {kind: [c[len(p) :] for c in table.columns if c.startswith(p)] for kind, p in prefix.items()}
    if not found["quality"]:
        raise OutcomeLogError(
            f"no column starts with {prefix['quality']!r}; the columns are {list(table.columns)[:20]}"
        )
    wanted = list(arms) if arms is not None else found["quality"]
    for arm in wanted:
        if arm not in found["quality"]:
            raise OutcomeLogError(
                f"column {prefix['quality'] + arm!r} is missing; there are scores of {found['quality']}"
            )
    for kind in ("cost", "latency"):
        stray = [arm for arm in found[kind] if arm not in found["quality"]]
        if stray:
            raise OutcomeLogError(
                f"{len(stray)} arms have a {kind} but no quality, the first is {stray[0]!r} (column {prefix[kind] + stray[0]!r})"
            )
    fields: dict[str, Any] = {"X": _queries(table, text, features), "arms": tuple(wanted)}
    for kind in _PREFIX:
        if kind == "quality" or any(arm in found[kind] for arm in wanted):
            empty = np.full(len(table), np.nan)
            parts = [_number(table, prefix[kind] + arm) if arm in found[kind] else empty for arm in wanted]
            fields[kind] = np.column_stack(parts)
    fields |= _per_query(table, names)
    action = names.get("action", "action" if "action" in table.columns else None)
    if action is not None:
        fields["action"] = _action_index(_column(table, action), wanted, action)
        fields["propensity"] = _number(table, names.get("propensity", "propensity"), "propensity of the logged arm")
    return fields


def read_long(
    frame: Any,
    *,
    text: str | None = None,
    features: Sequence[str] | None = None,
    arms: Sequence[str] | None = None,
    columns: Mapping[str, str | None] | None = None,
    queries: Any = None,
) -> dict[str, Any]:
    """Fields of an outcome log from a frame with one row a (query, arm), or a decision.

    Parameters
    ----------
    frame : frame of any library that narwhals supports
    text, features, arms : as for `read_wide`; text and features may stand in `queries`
    columns : mapping, optional
        Other names for ``query_id``, ``arm``, ``quality`` (default ``score``), ``cost`` (``cost_usd``), ``latency``
        (``latency_s``), ``propensity``, ``domain``, ``cluster``, ``time``.  ``query_id`` mapped to None says that every row is
        a query of its own.
    queries : frame, optional
        One row a query with its id and whatever else is known of it.

    Returns
    -------
    dict
        Keyword arguments of `OutcomeLog`.  With a propensity column every query must have one row, its logged decision.

    Raises
    ------
    OutcomeLogError
        On missing columns, a (query, arm) pair that repeats, or a column that differs within a query.
    """
    table, given = _frame(frame), {**_LONG, **(columns or {})}
    _known(given, (*_LONG, *_PER_QUERY))
    names: dict[str, str] = {key: value for key, value in given.items() if value is not None}
    rows = len(table)
    if not rows:
        raise OutcomeLogError("the log is empty: the frame has no row")
    labels = _column(table, names["arm"]).astype(str)
    wanted = list(arms) if arms is not None else list(dict.fromkeys(labels.tolist()))
    kept = np.isin(labels, wanted)
    if not kept.any():
        raise OutcomeLogError(
            f"column {names['arm']!r} holds none of the arms {wanted}; it has {sorted(set(labels.tolist()))[:20]}"
        )
    ids = _column(table, names["query_id"]) if "query_id" in names else np.arange(rows)
    unique, first, query = np.unique(ids, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty(len(unique), dtype=np.intp)
    place[order] = np.arange(len(unique))
    query, first = place[query.ravel()], first[order]
    arm = _action_index(np.where(kept, labels, wanted[0]), wanted, names["arm"])
    pair = query[kept] * len(wanted) + arm[kept]
    values, count = np.unique(pair, return_counts=True)
    if (count > 1).any():
        again = int(np.flatnonzero(kept)[np.flatnonzero(pair == values[count > 1][0])[1]])
        raise OutcomeLogError(
            f"{int((count > 1).sum())} (query, arm) pairs repeat, the first is ({ids[again]!r}, {labels[again]!r}), again in row {again}"
        )
    fields: dict[str, Any] = {"arms": tuple(wanted)}
    for kind in _PREFIX:
        if kind == "quality" or names[kind] in table.columns:
            matrix = np.full((len(unique), len(wanted)), np.nan)
            matrix[query[kept], arm[kept]] = _number(table, names[kind])[kept]
            fields[kind] = matrix
    base = table[first.tolist()]
    if queries is not None:
        base = _joined(_frame(queries), names["query_id"], ids[first])
    fields["X"] = _queries(base, text, features)
    fields |= _per_query(base, {key: names[key] for key in _PER_QUERY if key in names}, own_ids="query_id" in names)
    if names.get("propensity") in table.columns:
        if len(unique) != rows:
            raise OutcomeLogError(
                f"{rows - len(unique)} queries have more than one row, but a log with propensities has one logged arm a query"
            )
        fields["action"], fields["propensity"] = np.empty(rows, dtype=np.intp), np.empty(rows)
        fields["action"][query] = np.where(kept, arm, -1)
        fields["propensity"][query] = _number(table, names["propensity"])
    return fields


def as_matrix(
    values: Any, name: str, arms: Sequence[str] | None = None
) -> tuple[tuple[str, ...] | None, NDArray[np.float64]]:
    """(n, m) float table and its column names, from a frame or an array; in the order of `arms` where both are known."""
    frame = nw.from_native(values, eager_only=True, pass_through=True)
    if isinstance(frame, nw.DataFrame):
        names: tuple[str, ...] | None = tuple(frame.columns)
        table = np.column_stack([_number(frame, column) for column in frame.columns])
    else:
        given = getattr(values, "arms", None)
        names = None if given is None else tuple(str(arm) for arm in given)
        try:
            table = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise OutcomeLogError(f"{name} must be numbers: {error}") from None
        if table.ndim != 2:
            raise OutcomeLogError(f"{name} must have shape (n, m), got {table.shape}")
    if names is not None and arms is not None and names != tuple(arms):
        if set(names) != set(arms):
            raise OutcomeLogError(f"{name} names the arms {sorted(names)}, and the log has {sorted(arms)}")
        table = table[:, [names.index(arm) for arm in arms]]
    return names, table


def _frame(frame: Any) -> nw.DataFrame[Any]:
    table = nw.from_native(frame, eager_only=True, pass_through=True)
    if not isinstance(table, nw.DataFrame):
        raise OutcomeLogError(
            f"expected a frame that narwhals knows (pandas, polars, pyarrow, …), got {type(frame).__name__}"
        )
    names = list(table.columns)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise OutcomeLogError(f"{len(twice)} columns stand twice, the first is {twice[0]!r}")
    return table


def _known(names: Mapping[str, Any], allowed: Sequence[str]) -> None:
    unknown = sorted(set(names) - set(allowed))
    if unknown:
        raise OutcomeLogError(f"columns= knows no {unknown[0]!r}; allowed are {sorted(set(allowed))}")


def _column(table: nw.DataFrame[Any], name: str) -> NDArray[Any]:
    if name not in table.columns:
        raise OutcomeLogError(f"column {name!r} is missing; the columns are {list(table.columns)[:20]}")
    return table[name].to_numpy()


def _number(table: nw.DataFrame[Any], name: str, what: str = "") -> NDArray[np.float64]:
    if name not in table.columns:
        raise OutcomeLogError(
            f"column {name!r} is missing{f' ({what})' if what else ''}; the columns are {list(table.columns)[:20]}"
        )
    dtype = table[name].dtype
    if not (dtype.is_numeric() or dtype == nw.Boolean or dtype == nw.Unknown or table[name].null_count() == len(table)):
        first = table[name].drop_nulls().head(1).to_list()
        raise OutcomeLogError(
            f"column {name!r} must be numeric, but is of type {dtype}; the first value is {first[0]!r}"
        )
    if table[name].null_count() == len(table):
        return np.full(len(table), np.nan)
    return np.asarray(table[name].cast(nw.Float64).fill_null(float("nan")).to_numpy(), dtype=np.float64)


def _queries(table: nw.DataFrame[Any], text: str | None, features: Sequence[str] | None) -> Any:
    if text is not None and features is not None:
        raise OutcomeLogError("give either text= or features=, not both")
    if text is not None:
        if text not in table.columns:
            raise OutcomeLogError(f"column {text!r} is missing (text=); the columns are {list(table.columns)[:20]}")
        texts = table[text].to_list()
        wrong = [row for row, value in enumerate(texts) if not isinstance(value, str)]
        if wrong:
            raise OutcomeLogError(
                f"column {text!r} has {len(wrong)} of {len(texts)} values that are no text, the first in row {wrong[0]} ({texts[wrong[0]]!r})"
            )
        return texts
    if features is not None:
        for name in features:
            if name not in table.columns:
                raise OutcomeLogError(
                    f"column {name!r} is missing (features=); the columns are {list(table.columns)[:20]}"
                )
        return table.select(list(features)).to_native()
    return None


def _per_query(table: nw.DataFrame[Any], names: Mapping[str, str], *, own_ids: bool = True) -> dict[str, Any]:
    fields = {}
    for field in _PER_QUERY:
        asked = field in names
        name = names.get(field, field)
        if (asked or name in table.columns) and (field != "query_id" or own_ids):
            fields[field] = _column(table, name)
    return fields


def _action_index(labels: NDArray[Any], arms: Sequence[str], column: str) -> NDArray[np.intp]:
    names = np.asarray(arms, dtype=str)
    order = np.argsort(names)
    texts = labels.astype(str)
    index = order[np.clip(np.searchsorted(names, texts, sorter=order), 0, len(names) - 1)]
    wrong = np.flatnonzero(names[index] != texts)
    if len(wrong):
        raise OutcomeLogError(
            f"column {column!r} has {len(wrong)} of {len(labels)} values that are no arm, the first in row {wrong[0]} ({labels[wrong[0]]!r})"
        )
    return index.astype(np.intp)


def _joined(queries: nw.DataFrame[Any], id_column: str, ids: NDArray[Any]) -> nw.DataFrame[Any]:
    known = _column(queries, id_column)
    order = np.argsort(known)
    if len(np.unique(known)) < len(known):
        raise OutcomeLogError(f"queries=: column {id_column!r} has ids that repeat")
    index = order[np.clip(np.searchsorted(known, ids, sorter=order), 0, len(known) - 1)]
    wrong = np.flatnonzero(known[index] != ids)
    if len(wrong):
        raise OutcomeLogError(f"queries= lacks {len(wrong)} of {len(ids)} ids, the first is {ids[wrong[0]]!r}")
    return queries[index.tolist()]
