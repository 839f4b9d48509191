"""Reading wide and long frames of any dataframe library into the fields of an outcome log."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from defer.exceptions import MissingPropensityWarning, OutcomeLogError
from defer.portfolios.columns import as_column, in_words, is_missing, number_groups
from defer.portfolios.log_checks import (
    as_numbers,
    check_numbers,
    check_unique,
    fail,
    number_table,
    propensities_left_out,
)

__all__ = ["as_matrix", "read_long", "read_queries", "read_wide"]

_PER_QUERY = ("query_id", "domain", "cluster", "time")
_DECISION = ("action", "propensity")
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
    columns: Mapping[str, str | None] | None = None,
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
        names, null where none was logged) and ``propensity`` to a column.  None says not to read a column that is there.

    Returns
    -------
    dict
        Keyword arguments of `OutcomeLog`.

    Raises
    ------
    OutcomeLogError
        On missing or duplicate columns, an arm in cost but not in quality, or text where numbers belong.
    """
    table, given = _frame(frame), _mapping(columns)
    _known(given, (*_PREFIX, *_PER_QUERY, *_DECISION))
    prefix = {kind: given.get(kind, default) for kind, default in _PREFIX.items()}
    found = {
        kind: []
        if start is None
        else [str(name)[len(start) :] for name in table.columns if str(name).startswith(start)]
        for kind, start in prefix.items()
    }
    if not found["quality"]:
        raise OutcomeLogError(f"no column starts with {prefix['quality']!r}; {_there(table)}")
    wanted = _names(arms, "arms") or found["quality"]
    for arm in wanted:
        if arm not in found["quality"]:
            raise OutcomeLogError(
                f"column '{prefix['quality']}{arm}' is missing; there are scores of {found['quality']}"
            )
    for kind in ("cost", "latency"):
        stray = [arm for arm in found[kind] if arm not in found["quality"]]
        if stray:
            raise OutcomeLogError(
                f"{len(stray)} arms have a {kind} but no quality, the first is {stray[0]!r} (column '{prefix[kind]}{stray[0]}')"
            )
    fields: dict[str, Any] = {"X": read_queries(table, text, features), "arms": tuple(wanted)}
    for kind in _PREFIX:
        if kind == "quality" or any(arm in found[kind] for arm in wanted):
            empty = np.full(len(table), np.nan)
            parts = [_number(table, f"{prefix[kind]}{arm}", kind) if arm in found[kind] else empty for arm in wanted]
            fields[kind] = np.column_stack(parts)
    fields |= _per_query(table, given, (*_PER_QUERY, *_DECISION))
    if "action" in fields:
        names = fields["action"].astype(object)
        names[is_missing(names)] = None
        fields["action"] = _arm_index(names, wanted, given.get("action") or "action")
    elif "propensity" in fields:
        raise OutcomeLogError(
            f"column {given.get('propensity') or 'propensity'!r} is there, but no column says which arm was logged: name it with "
            "columns={'action': ...}, or leave the propensities out with columns={'propensity': None}"
        )
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
        (``latency_s``), ``propensity``, ``domain``, ``cluster``, ``time``.  None says not to read a column that is there;
        ``query_id`` mapped to None says that every row is a query of its own.
    queries : frame, optional
        One row a query with its id and whatever else is known of it.

    Returns
    -------
    dict
        Keyword arguments of `OutcomeLog`.  With a propensity column every query must have one row, its logged decision.
        Queries and arms stand in order of appearance; queries without a row of the wanted arms are left out, and with
        them all propensities: how likely an arm was, given that one of the wanted arms was drawn, is not known.

    Raises
    ------
    OutcomeLogError
        On missing columns, a (query, arm) pair that repeats, or a text, domain, cluster or time that differs within a query.

    Warns
    -----
    MissingPropensityWarning
        If propensities are left out because decisions for other arms are.
    """
    table, given = _frame(frame), {**_LONG, **_mapping(columns)}
    _known(given, (*_LONG, *_PER_QUERY))
    if not len(table):
        raise OutcomeLogError("the log is empty: the frame has no row")
    for key in ("arm", "quality"):
        if given[key] is None:
            raise OutcomeLogError(f"columns= cannot map {key!r} to None: a long table needs it")
    names: dict[str, str] = {key: value for key, value in given.items() if value is not None}
    for key in columns or {}:
        if key in names and names[key] not in _columns(table) and key not in _PER_QUERY:
            raise OutcomeLogError(f"column {names[key]!r} is missing ({key}); {_there(table)}")
    labels = _column(table, names["arm"])
    fail(names["arm"], is_missing(labels), labels, "that are missing")
    labels = np.array([str(label) for label in labels.tolist()], dtype=object)
    values = {
        kind: _number(table, names[kind], kind)
        for kind in (*_PREFIX, "propensity")
        if kind == "quality" or names.get(kind) in _columns(table)
    }
    ids = np.arange(len(table))
    if "query_id" in names:
        ids = _column(table, names["query_id"])
        fail(names["query_id"], is_missing(ids), ids, "that are missing")
    wanted = _names(arms, "arms") or list(dict.fromkeys(labels.tolist()))
    source = np.flatnonzero([label in set(wanted) for label in labels.tolist()] if arms is not None else labels != "")
    if not len(source):
        raise OutcomeLogError(
            f"column {names['arm']!r} holds none of the arms {wanted}; it has {sorted(set(labels))[:20]}"
        )
    arm = _arm_index(labels[source], wanted, names["arm"])
    query, first = number_groups(ids[source])
    pair, first_pair = number_groups(query * len(wanted) + arm)
    if len(first_pair) < len(pair):
        place = int(np.flatnonzero(first_pair[pair] < np.arange(len(pair)))[0])
        again, once = source[place], source[first_pair[pair[place]]]
        raise OutcomeLogError(
            f"{len(pair) - len(first_pair)} (query, arm) pairs repeat, the first is ({in_words(ids[again])}, {in_words(labels[again])}) in rows "
            f"{once} and {again}"
        )
    fields: dict[str, Any] = {"arms": tuple(wanted)}
    for kind in _PREFIX:
        if kind in values:
            fields[kind] = np.full((len(first), len(wanted)), np.nan)
            fields[kind][query, arm] = values[kind][source]
    if "propensity" in values:
        if len(first) < len(source):
            twice = source[np.flatnonzero(first[query] < np.arange(len(source)))[0]]
            raise OutcomeLogError(
                f"{int((np.bincount(query) > 1).sum())} queries have more than one row, the first is {in_words(ids[twice])} (again in row "
                f"{twice}), but a log with propensities has one logged arm a query"
            )
        unknown = np.isnan(values["propensity"])
        fail(names["propensity"], unknown, values["propensity"], "missing where an arm was logged")
        fields["action"] = arm
        lost = len(table) - len(source)
        if lost:
            warnings.warn(propensities_left_out(lost, len(table), wanted), MissingPropensityWarning, stacklevel=3)
        else:
            fields["propensity"] = values["propensity"][source]
    own = [key for key in _PER_QUERY if key != "query_id" or "query_id" in names]
    if queries is not None:
        base = _joined(_frame(queries), names.get("query_id"), ids[source[first]])
        return fields | {"X": read_queries(base, text, features)} | _per_query(base, given, own)
    base = table[source[first].tolist()]
    if len(first) < len(source):
        told = [
            name
            for name in (text, *(given.get(key, key) for key in own if key != "query_id"))
            if name in _columns(table)
        ]
        for name in (*told, *(_names(features, "features") or [])):
            _same_within(_column(table, name)[source], query, first, name, ids[source], source)
    return fields | {"X": read_queries(base, text, features)} | _per_query(base, given, own)


def as_matrix(
    values: Any, name: str, arms: Sequence[str] | None = None
) -> tuple[tuple[str, ...] | None, NDArray[np.float64]]:
    """(n, m) float table and its column names, from a frame or an array; in the order of `arms` where both are known.

    The columns 0, 1, … of a frame are no names but places, as its library numbers them, unless `arms` has the same names.
    """
    frame = nw.from_native(values, eager_only=True, pass_through=True)
    names: tuple[str, ...] | None
    if isinstance(frame, nw.DataFrame):
        frame = _frame(values)
        names = tuple(str(column) for column in frame.columns)
        table = np.column_stack([_number(frame, column, name) for column in names])
        if names == tuple(str(place) for place in range(len(names))) and (arms is None or set(arms) != set(names)):
            names = None
    else:
        given = getattr(values, "arms", None)
        names = None if given is None else tuple(str(arm) for arm in given)
        table = number_table(values, name, names or arms)
    if names is not None and arms is not None and names != tuple(arms):
        extra, lacking = [arm for arm in names if arm not in arms], [arm for arm in arms if arm not in names]
        if extra or lacking:
            raise OutcomeLogError(
                f"{name} and the log must have the same arms: only in {name} {extra}, only in the log {lacking}"
            )
        table = table[:, [names.index(arm) for arm in arms]]
    return names, table


def _frame(frame: Any) -> nw.DataFrame[Any]:
    if hasattr(frame, "collect") and hasattr(frame, "collect_schema"):
        raise OutcomeLogError(
            f"a lazy {type(frame).__name__} has no values yet: collect it first, as in frame.collect()"
        )
    columns = [str(name) for name in getattr(frame, "columns", ())]
    if isinstance(getattr(frame, "column_names", None), list):
        columns = frame.column_names
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise OutcomeLogError(f"{len(twice)} columns stand twice, the first is {twice[0]!r}")
    table = nw.from_native(frame, eager_only=True, pass_through=True)
    if not isinstance(table, nw.DataFrame):
        raise OutcomeLogError(
            f"expected a frame that narwhals knows (pandas, polars, pyarrow, …), got {type(frame).__name__}"
        )
    return table


def _known(names: Mapping[str, Any], allowed: Sequence[str]) -> None:
    unknown = sorted(set(names) - set(allowed))
    if unknown:
        raise OutcomeLogError(f"columns= knows no {unknown[0]!r}; allowed are {sorted(set(allowed))}")


def _mapping(columns: Mapping[str, Any] | None) -> dict[str, str | None]:
    return {key: None if name is None else str(name) for key, name in (columns or {}).items()}


def _columns(table: nw.DataFrame[Any]) -> list[str]:
    """Names of the columns as text: a frame may number them."""
    return [str(name) for name in table.columns]


def _names(names: Sequence[str] | None, option: str) -> list[str] | None:
    if isinstance(names, str):
        raise OutcomeLogError(f"{option} must be a sequence of names, got the string {names!r}")
    return None if names is None else [str(name) for name in names]


def _there(table: nw.DataFrame[Any]) -> str:
    names = list(table.columns)
    return f"the columns are {names}" if len(names) <= 20 else f"the first of {len(names)} columns are {names[:20]}"


def _series(table: nw.DataFrame[Any], name: str, what: str = "") -> nw.Series[Any]:
    for column in table.columns:
        if str(column) == str(name):
            return table.get_column(column)
    raise OutcomeLogError(f"column {name!r} is missing{f' ({what})' if what else ''}; {_there(table)}")


def _column(table: nw.DataFrame[Any], name: str, what: str = "") -> NDArray[Any]:
    return as_column(_series(table, name, what).to_native())


def _number(table: nw.DataFrame[Any], name: str, kind: str) -> NDArray[np.float64]:
    """Column of numbers, NaN where it is null, that can be of this kind."""
    values = as_numbers(_column(table, name, kind), f"column {name!r} must be numeric")
    check_numbers(values, name, kind)
    return values


def read_queries(frame: Any, text: str | None, features: Sequence[str] | None) -> Any:
    """Queries of a table: the texts of a column, or the columns that describe them; None where neither is named."""
    table = nw.from_native(frame, eager_only=True)
    if text is not None and features is not None:
        raise OutcomeLogError("give either text= or features=, not both")
    if text is not None:
        texts = _column(table, text, "text=").tolist()
        wrong = [row for row, value in enumerate(texts) if not isinstance(value, str)]
        if wrong:
            raise OutcomeLogError(
                f"column {text!r} has {len(wrong)} of {len(texts)} values that are no text, the first in row {wrong[0]} ({texts[wrong[0]]!r})"
            )
        return texts
    wanted = _names(features, "features")
    if wanted is None:
        return None
    return table.select(*[_series(table, name, "features=") for name in wanted]).to_native()


def _per_query(table: nw.DataFrame[Any], names: Mapping[str, str | None], wanted: Sequence[str]) -> dict[str, Any]:
    """The wanted columns that are there; one that was asked for by name must be."""
    fields: dict[str, Any] = {}
    for field in wanted:
        name = names.get(field, field)
        if name is None or (name not in _columns(table) and (field not in names or name == field)):
            continue
        fields[field] = _number(table, name, field) if field == "propensity" else _column(table, name, field)
    return fields


def _arm_index(labels: NDArray[Any], arms: Sequence[str], column: str) -> NDArray[np.intp]:
    """Index of the arm of every label, -1 where it is None."""
    place: dict[Any, int] = {arm: index for index, arm in enumerate(arms)} | {None: -1}
    texts = [None if label is None else str(label) for label in labels.tolist()]
    wrong = np.array([text not in place for text in texts])
    fail(column, wrong, labels, f"that are no arm of {list(arms)[:20]}")
    return np.array([place[text] for text in texts], dtype=np.intp)


def _same_within(
    column: NDArray[Any],
    query: NDArray[np.intp],
    first: NDArray[np.intp],
    name: str,
    ids: NDArray[Any],
    rows: NDArray[np.intp],
) -> None:
    """Raise if a column that tells something of the query differs between its rows."""
    reference = column[first][query]
    apart = np.flatnonzero((column != reference) & ~(is_missing(column) & is_missing(reference)))
    if len(apart):
        raise OutcomeLogError(
            f"column {name!r} differs within {len(np.unique(query[apart]))} queries, the first is {in_words(ids[apart[0]])} (row "
            f"{rows[apart[0]]}): {in_words(column[apart[0]])} and {in_words(reference[apart[0]])}; leave it out by mapping it to None"
        )


def _joined(queries: nw.DataFrame[Any], id_column: str | None, ids: NDArray[Any]) -> nw.DataFrame[Any]:
    if id_column is None:
        raise OutcomeLogError("queries= needs query ids, and columns= maps 'query_id' to None")
    known = _column(queries, id_column, "of queries=")
    check_unique(known, id_column)
    place = {value: row for row, value in enumerate(known.tolist())}
    lost = [value for value in ids.tolist() if value not in place]
    if lost:
        raise OutcomeLogError(f"queries= lacks {len(lost)} of {len(ids)} ids, the first is {lost[0]!r}")
    return queries[[place[value] for value in ids.tolist()]]
