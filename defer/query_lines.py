"""Queries as the command line takes them: texts or plain numbers, whether they stand in a log or in lines of JSON.

Lines are read and checked one by one, and given back with the arm that each takes.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np

from defer.estimators.routing import Routing
from defer.exceptions import DeferError

__all__ = ["answer_lines", "plain_queries", "queries_of", "read_lines", "read_query"]

_ANSWER = ("arm", "propensity", "quality", "cost_usd", "fallbacks")


def read_lines(path: Path, columns: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Objects of a file of JSON lines, or of standard input if `path` is ``-``; blank lines are passed over.

    Parameters
    ----------
    path : Path
    columns : mapping
        ``{"text": name}`` or ``{"features": [names]}``: what every object must have.

    Yields
    ------
    dict

    Raises
    ------
    DeferError
        Names the line that is no JSON object, lacks the text or a finite number, or has a key that the answer needs.
    """
    standard_input = str(path) == "-"
    if not standard_input and not path.is_file():
        raise DeferError(f"{path} is a folder, not a file" if path.is_dir() else f"{path}: there is no such file")
    with nullcontext(sys.stdin.buffer) if standard_input else path.open("rb") as source:
        for number, line in enumerate(source, start=1):
            if not line.strip():
                continue
            where = f"{'standard input' if standard_input else path}: line {number}"
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except json.JSONDecodeError as error:
                raise DeferError(f"{where} is no JSON: {error.msg} at character {error.pos + 1}") from None
            except UnicodeDecodeError as error:
                raise DeferError(f"{where} is no UTF-8: byte {error.start + 1} cannot be read") from None
            except (ValueError, RecursionError):  # more digits, or brackets in brackets, than Python reads
                raise DeferError(f"{where} cannot be read: a number is too long, or it is nested too deeply") from None
            if not isinstance(row, dict):
                raise DeferError(f"{where} is no JSON object but {type(row).__name__}")
            _check_row(row, columns, where)
            yield row


def _check_row(row: Mapping[str, Any], columns: Mapping[str, Any], where: str) -> None:
    text = columns.get("text")
    for name in columns.get("features") or [text]:
        if name not in row:
            raise DeferError(f"{where} has no {name!r}; it has {list(row)[:20]}")
        value = row[name]
        if text is not None and not isinstance(value, str):
            raise DeferError(f"{where}: {name!r} must be text, got {value!r}")
        if text is None:
            _check_number(value, f"{where}: {name!r}")
    own = [name for name in _ANSWER if name in row]
    if own:
        raise DeferError(f"{where} has a key {own[0]!r} of its own, which the answer would replace: rename it")


def _check_number(value: Any, where: str) -> None:
    if not isinstance(value, (int, float)):
        raise DeferError(f"{where} must be a number, got {value!r}")
    try:
        is_finite = math.isfinite(value)
    except OverflowError:
        raise DeferError(f"{where} must be a number below 1.8e308, got one of {len(str(abs(value)))} digits") from None
    if not is_finite:
        raise DeferError(f"{where} must be a finite number, got {value!r}")


def read_query(given: str, columns: Mapping[str, Any]) -> Any:
    """One query of the command line, as a batch: the text itself, or a JSON object of numbers.

    Parameters
    ----------
    given : str
        ``-`` reads all of standard input.
    columns : mapping
        As for `read_lines`.

    Returns
    -------
    list of one str, or array of shape (1, d)

    Raises
    ------
    DeferError
        If standard input is no UTF-8, the text is empty, or numbers are not given as an object that has each of them.

    Examples
    --------
    >>> read_query("sort 3 1 2", {"text": "prompt"}), read_query('{"length": 3}', {"features": ["length"]})
    (['sort 3 1 2'], array([[3.]]))
    """
    if given == "-":
        try:
            given = sys.stdin.buffer.read().decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise DeferError(f"standard input is no UTF-8: byte {error.start + 1} cannot be read") from None
    if "text" in columns:
        if not given.strip():
            raise DeferError("the query is empty")
        return [given]
    names = columns["features"]
    form = f"the policy takes numbers: the query must be a JSON object with {names}"
    try:
        row = json.loads(given)
    except (ValueError, RecursionError):
        raise DeferError(f"{form}, got {given[:80]!r}") from None
    if not isinstance(row, dict):
        raise DeferError(f"{form}, got {type(row).__name__}")
    for name in names:
        if name not in row:
            raise DeferError(f"the query has no {name!r}; it has {list(row)[:20]}")
        _check_number(row[name], f"the query: {name!r}")
    return queries_of([row], columns)


def queries_of(rows: list[dict[str, Any]], columns: Mapping[str, Any]) -> Any:
    """What a router takes: a list of n texts, or an array of shape (n, d).

    Parameters
    ----------
    rows : list of n dicts
        From `read_lines`.
    columns : mapping
        As given to `read_lines`.

    Examples
    --------
    >>> queries_of([{"length": 3, "digits": 1}], {"features": ["digits", "length"]})
    array([[1., 3.]])
    """
    if "text" in columns:
        return [row[columns["text"]] for row in rows]
    return np.array([[row[name] for name in columns["features"]] for row in rows], dtype=np.float64)


def plain_queries(X: Any, source: str) -> Any:
    """Queries of a log with a frame made an array, so that policy, log and lines of JSON agree.

    Parameters
    ----------
    X : n queries
    source : str
        File of the log, for the message.

    Raises
    ------
    DeferError
        If a column of a frame is not numeric.
    """
    frame = nw.from_native(X, eager_only=True, pass_through=True)
    if not isinstance(frame, nw.DataFrame):
        return X
    wrong = [name for name, kind in frame.schema.items() if not (kind.is_numeric() or kind == nw.Boolean)]
    if wrong:
        raise DeferError(f"{source}: --feature {wrong[0]} must be numeric, but is of type {frame.schema[wrong[0]]}")
    return np.column_stack([np.asarray(frame[name].cast(nw.Float64).to_numpy()) for name in frame.columns])


def answer_lines(rows: list[dict[str, Any]], routing: Routing, *, has_cost: bool) -> Iterator[str]:
    """Lines of JSON: every object with its arm, propensity, predicted quality and cost, and fallbacks.

    Parameters
    ----------
    rows : list of n dicts
    routing : Routing
        Of the same n queries.
    has_cost : bool
        Whether the router knows costs; without them ``cost_usd`` is null.
    """
    arms, others = routing.arms.tolist(), routing.fallbacks.tolist()
    numbers = zip(
        routing.arm.tolist(), routing.propensity.tolist(), routing.quality.tolist(), routing.cost.tolist(), strict=True
    )
    for row, (arm, propensity, quality, cost), rest in zip(rows, numbers, others, strict=True):
        fallbacks = [arms[other] for other in rest]
        values = (arms[arm], propensity, quality, cost if has_cost else None, fallbacks)
        yield json.dumps({**row, **dict(zip(_ANSWER, values, strict=True))}) + "\n"
