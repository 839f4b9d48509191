"""Files of the command line: logs read with the names that its options give, and targets checked before the work is done."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from defer.exceptions import DeferError

if TYPE_CHECKING:
    from defer.portfolios.outcomes import OutcomeLog

__all__ = ["DEFAULT_QUERIES", "check_file", "check_folder", "policy_columns", "query_columns", "read_log"]

DEFAULT_QUERIES = {"text": "prompt"}
"""Where a log keeps its queries unless an option says otherwise."""


def query_columns(
    text: str | None, feature: list[str] | None, saved: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Where a table keeps its queries: what was asked for, else what the policy was fitted on.

    Parameters
    ----------
    text : str or None
    feature : list of str or None
    saved : mapping, optional
        Of the policy's manifest.

    Raises
    ------
    typer.BadParameter
        If both were asked for.

    Examples
    --------
    >>> query_columns(None, None, {"text": "question"}), query_columns(None, ["length"])
    ({'text': 'question'}, {'features': ['length']})
    """
    if text is not None and feature:
        raise typer.BadParameter("give either --text or --feature, not both")
    if feature:
        return {"features": list(feature)}
    if text is not None:
        return {"text": text}
    return dict(saved or {})


def policy_columns(text: str | None, feature: list[str] | None, document: Mapping[str, Any]) -> dict[str, Any]:
    """What the queries of a saved policy are called.

    Parameters
    ----------
    text : str or None
    feature : list of str or None
    document : mapping
        Manifest of the policy.

    Raises
    ------
    DeferError
        If neither the options nor the policy say it.

    Examples
    --------
    >>> policy_columns(None, None, {"queries": {"text": "prompt"}})
    {'text': 'prompt'}
    """
    columns = query_columns(text, feature, document["queries"])
    if not columns:
        raise DeferError(
            "the policy does not say what its queries are called: give --text, or --feature for each number"
        )
    return columns


def read_log(
    path: Path,
    queries: Mapping[str, Any],
    column: list[str] | None,
    *,
    needs_queries: bool = False,
    as_stored: bool = False,
) -> OutcomeLog:
    """Outcome log of a Parquet file.

    Parameters
    ----------
    path : Path
    queries : mapping
        From `query_columns`; if it is empty, the text in the column ``prompt``, if there is one.
    column : list of str or None
        Other names of columns, each as ``FIELD=NAME``.
    needs_queries : bool, default=False
        Refuse a log without queries.
    as_stored : bool, default=False
        Keep a frame of numbers with its names, and do not make it an array.

    Raises
    ------
    typer.BadParameter
        If a name is not given as ``FIELD=NAME``.
    DeferError
        If the file cannot be read as a log; names the file, and the options in place of the library's arguments.
    """
    import pyarrow.parquet as pq

    from defer.portfolios.outcomes import OutcomeLog
    from defer.query_lines import plain_queries

    wrong = [item for item in column or [] if "=" not in item]
    if wrong:
        raise typer.BadParameter(f"--column takes FIELD=NAME, got {wrong[0]!r}")
    if not path.is_file():
        raise DeferError(f"{path} is a folder, not a file" if path.is_dir() else f"{path}: there is no such file")
    mapping = dict(item.split("=", 1) for item in column or [])
    try:
        names = pq.read_schema(path).names
    except (OSError, ValueError) as error:
        raise DeferError(f"{path} cannot be read as Parquet: {error}") from None
    if not queries and DEFAULT_QUERIES["text"] in names:
        queries = DEFAULT_QUERIES
    try:
        log = OutcomeLog.read_parquet(path, columns=mapping or None, **queries)
    except DeferError as error:
        message = str(error)
        for argument, option in (("text=", "--text"), ("features=", "--feature"), ("columns=", "--column")):
            message = message.replace(argument, option)
        raise DeferError(f"{path}: {message}") from error
    if log.X is None and needs_queries:
        raise DeferError(
            f"{path} has no column {DEFAULT_QUERIES['text']!r}: name the queries with --text or --feature; the columns are "
            f"{names[:20]}"
        )
    return log if as_stored else replace(log, X=plain_queries(log.X, str(path)))


def check_file(path: Path, *, overwrite: bool = True) -> None:
    """Find now what would keep a file from being written after the work.

    Parameters
    ----------
    path : Path
    overwrite : bool, default=True
        Whether a file that is there may be replaced.

    Raises
    ------
    DeferError
        If it is a folder, a file that is there and may not be replaced, or its folder is missing or not writable.
    """
    if path.is_dir():
        raise DeferError(f"{path} is a folder, not a file")
    if path.exists() and not overwrite:
        raise DeferError(f"{path} is there already: give --overwrite to replace it")
    if not path.parent.is_dir():
        raise DeferError(f"{path}: there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise DeferError(f"{path} cannot be written: permission denied")


def check_folder(path: Path) -> None:
    """Find now what would keep a folder from being made, or from being written into, after the work.

    Parameters
    ----------
    path : Path

    Raises
    ------
    DeferError
        If it or a folder above it is a file, or is not writable.
    """
    nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not nearest.is_dir():
        above = "" if nearest == path else f"{path}: "
        raise DeferError(f"{above}{nearest} is a file, not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise DeferError(f"{path} cannot be written: permission denied")
