"""The rules that every outcome log satisfies, checked once when it is made."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from defer.exceptions import MissingPropensityWarning, OutcomeLogError
from defer.portfolios.arm_matrix import ArmMatrix
from defer.portfolios.columns import as_column, in_words, is_missing, number_groups

if TYPE_CHECKING:
    from defer.portfolios.outcomes import OutcomeLog

__all__ = [
    "as_numbers",
    "check_log",
    "check_numbers",
    "check_source",
    "check_unique",
    "fail",
    "number_table",
    "propensities_left_out",
]

_TABLES = {"quality": "score", "cost": "cost_usd", "latency": "latency_s", "policy": "policy"}
_HINTS = {
    "cost": "A cost is in US dollars per query and must be >= 0; if it is a rebate, add it to the quality of that arm instead.",
    "latency": "A latency is in seconds and must be >= 0.",
}


def fail(column: str, wrong: NDArray[np.bool_], values: NDArray[Any], rule: str, hint: str = "") -> None:
    """Raise, naming column, count, first row and its value, if anything is wrong."""
    rows = np.flatnonzero(wrong)
    if len(rows):
        raise OutcomeLogError(
            f"column {column!r} has {len(rows)} of {len(values)} values {rule}, the first in row {rows[0]} "
            f"({values[rows[0]]}){f'. {hint}' if hint else ''}"
        )


def check_numbers(values: NDArray[np.float64], column: str, kind: str) -> None:
    """Raise unless the values can be a column of this kind: quality, cost, latency, policy or propensity; NaN is missing."""
    fail(column, np.isinf(values), values, "that are not finite")
    if kind in _HINTS:
        fail(column, values < 0, values, "below 0", _HINTS[kind])
    if kind == "propensity":
        fail(column, (values <= 0) | (values > 1), values, "outside (0, 1]")


def as_numbers(column: NDArray[Any], what: str, of: str = "") -> NDArray[np.float64]:
    """Column of numbers as floats, NaN where it is missing; raises if a value is no number, and never reads text as one."""
    if column.dtype.kind not in "biuf":
        cells = column.astype(object)
        gaps = is_missing(cells)
        plain = column.dtype.kind == "O"
        wrong = [
            row for row in np.flatnonzero(~gaps) if not (plain and isinstance(cells[row], (Real, Decimal, np.bool_)))
        ]
        if wrong:
            raise OutcomeLogError(
                f"{what}, but {len(wrong)} of {len(column)} values {of}are not, the first in row {wrong[0]} "
                f"({in_words(cells[wrong[0]])})"
            )
        column = np.where(gaps, np.nan, cells)
    return column.astype(np.float64)


def number_table(values: Any, name: str, arms: Sequence[str] | None) -> NDArray[np.float64]:
    """(n, m) table of numbers as floats, a copy; raises, naming the arm, if a value is no number."""
    try:
        table = np.asarray(values)
    except ValueError:
        raise OutcomeLogError(f"{name} must have shape (n, m), and its rows differ in length") from None
    if table.ndim != 2:
        raise OutcomeLogError(f"{name} must have shape (n, m), got {table.shape}")
    if table.dtype.kind in "biuf":
        return table.astype(np.float64)
    m = table.shape[1]
    names = arms if arms is not None and len(arms) == m else [f"arm_{index}" for index in range(m)]
    columns = [
        as_numbers(table[:, index], f"{name} must be numbers", f"of arm {names[index]!r} ") for index in range(m)
    ]
    return np.column_stack(columns) if m else np.zeros(table.shape)


def check_unique(ids: NDArray[Any], column: str) -> None:
    """Raise if an id stands in two rows."""
    group, first = number_groups(ids)
    if len(first) < len(group):
        again = int(np.flatnonzero(first[group] < np.arange(len(group)))[0])
        repeats = int((np.bincount(group) > 1).sum())
        raise OutcomeLogError(
            f"column {column!r} has {repeats} ids that repeat, the first is {in_words(ids[again])} (in rows {first[group[again]]} "
            f"and {again}); a log has one row a query"
        )


def propensities_left_out(lost: int, n: int, arms: Sequence[str]) -> str:
    """Why a log that loses decisions for other arms than `arms` loses its propensities, too."""
    return (
        f"{lost} of {n} queries are left out, because another arm than {list(arms)} was drawn; how likely the drawn arm was "
        "among these is not known without the logging policy, so that the propensities are left out, too"
    )


def check_source(log: OutcomeLog) -> OutcomeLog:
    """What must hold of a log that was read, but need not hold of its parts.

    Raises
    ------
    OutcomeLogError
        If an arm has no observed quality, in a log without decisions.

    Warns
    -----
    MissingPropensityWarning
        If arms were chosen with unknown probabilities.
    """
    seen = np.isfinite(np.asarray(log.quality)).any(axis=0)
    if not seen.all() and not log.has_decisions:
        raise OutcomeLogError(
            f"column 'score:{log.arms[int(np.argmin(seen))]}' has no observed value in {len(log)} rows: leave the arm out, "
            "or select rows in which it was run"
        )
    if log.has_decisions and log.propensity is None:
        warnings.warn(
            f"{int((log.action >= 0).sum())} logged arms come without propensities: the log is read as missing at random, and "
            "no off-policy estimate can be made from it",
            MissingPropensityWarning,
            stacklevel=3,
        )
    return log


def check_log(log: OutcomeLog) -> dict[str, Any]:
    """Checked values of all fields: read-only tables that carry the names of the arms, and columns of equal length."""
    arms = _check_arms(log.arms)
    checked: dict[str, Any] = {"arms": arms}
    shape = np.shape(log.quality)
    if len(shape) != 2:
        raise OutcomeLogError(f"quality must have shape (n, m), got {shape}")
    n = shape[0]
    if n == 0:
        raise OutcomeLogError("the log is empty: it has no query")
    for name, label in _TABLES.items():
        table = getattr(log, name)
        checked[name] = None if table is None else _check_table(np.asarray(table), name, label, arms, n)
    if np.isnan(np.asarray(checked["quality"])).all():
        raise OutcomeLogError(f"no quality is observed in {n} rows of {len(arms)} arms")
    checked["X"] = _check_queries(log.X, n)
    for name in ("domain", "cluster", "time", "query_id"):
        column = getattr(log, name)
        checked[name] = None if column is None else _check_column(as_column(column), name, n)
    for name in ("query_id", "cluster"):
        if checked[name] is not None:
            fail(name, is_missing(checked[name]), checked[name], "that are missing")
    if checked["query_id"] is not None:
        check_unique(checked["query_id"], "query_id")
    checked["action"], checked["propensity"] = _check_decisions(log, checked, n)
    return checked


def _check_arms(names: Sequence[Any]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise OutcomeLogError(f"arms must be a sequence of names, got the string {names!r}")
    arms = tuple(str(name) for name in names)
    if not arms:
        raise OutcomeLogError("the log has no arm")
    if "" in arms:
        raise OutcomeLogError(f"arm {arms.index('')} has no name")
    twice = sorted({arm for arm in arms if arms.count(arm) > 1})
    if twice:
        raise OutcomeLogError(f"{len(twice)} arms are named twice, the first is {twice[0]!r}")
    return arms


def _check_table(table: NDArray[Any], name: str, label: str, arms: tuple[str, ...], n: int) -> ArmMatrix:
    if table.shape != (n, len(arms)):
        raise OutcomeLogError(f"{name} must have shape ({n}, {len(arms)}), one column per arm, got {table.shape}")
    values = number_table(table, name, arms)
    for index, arm in enumerate(arms):
        check_numbers(values[:, index], f"{label}:{arm}", name)
    if name == "policy":
        total = values.sum(axis=1)
        wrong = ~((values >= 0).all(axis=1) & (np.abs(total - 1) < 1e-6))
        fail("policy", wrong, total, "that are no distribution (rows must be >= 0 and sum to 1)")
    values.setflags(write=False)
    return ArmMatrix(values, arms)


def _check_queries(X: Any, n: int) -> Any:
    if X is None:
        return None
    if isinstance(X, (str, bytes, dict, set)):
        raise OutcomeLogError(
            f"X must hold {n} queries: texts, an array, a sparse matrix or a frame, got {type(X).__name__}"
        )
    if isinstance(nw.from_native(X, series_only=True, pass_through=True), nw.Series):
        X = as_column(X)
    if isinstance(X, (list, tuple)) or (isinstance(X, np.ndarray) and X.ndim == 1):
        X = _texts_or_table(X)
    elif isinstance(X, np.ndarray):
        X = X.copy()
        X.setflags(write=False)
    elif issparse(X):
        # The other formats cannot take rows.
        X = X.copy() if X.format in ("csr", "csc") else X.tocsr(copy=True)
    else:
        frame = nw.from_native(X, eager_only=True, pass_through=True)
        X = frame.clone().to_native() if isinstance(frame, nw.DataFrame) else X
    rows = X.shape[0] if hasattr(X, "shape") else len(X)
    if rows != n:
        raise OutcomeLogError(f"X has {rows} rows, and quality has {n}")
    return X


def _texts_or_table(X: Any) -> Any:
    items = list(X) if not isinstance(X, np.ndarray) or X.dtype.kind in "OT" else X.tolist()
    other = [row for row, item in enumerate(items) if not isinstance(item, str)]
    if 0 < len(other) < len(items):
        raise OutcomeLogError(
            f"X has {len(other)} of {len(items)} queries that are no text, the first in row {other[0]} "
            f"({in_words(items[other[0]])}); queries are all texts, or none is"
        )
    if items and isinstance(items[0], (list, tuple, np.ndarray)):
        try:
            table = np.array(items)
        except ValueError:
            return items
        return table if table.ndim == 2 and table.dtype.kind in "biuf" else items
    return items


def _check_column(values: NDArray[Any], name: str, n: int) -> NDArray[Any]:
    if values.shape != (n,):
        raise OutcomeLogError(f"{name} must have shape ({n},), got {values.shape}")
    column = values.copy()
    column.setflags(write=False)
    return column


def _check_decisions(
    log: OutcomeLog, checked: dict[str, Any], n: int
) -> tuple[NDArray[np.intp], NDArray[np.float64] | None]:
    m, rows = len(checked["arms"]), np.arange(n)
    action = np.full(n, -1, dtype=np.intp)
    if log.action is not None:
        given = _check_column(as_column(log.action), "action", n)
        if given.dtype.kind not in "iu":
            raise OutcomeLogError(f"action must be integer indexes of arms, got dtype {given.dtype}")
        fail("action", (given < -1) | (given >= m), given, f"outside -1 … {m - 1}")
        action = given.astype(np.intp)
    taken = action >= 0
    policy = None if checked["policy"] is None else np.asarray(checked["policy"])[rows, action]
    propensity = None
    if log.propensity is not None:
        propensity = as_numbers(
            _check_column(as_column(log.propensity), "propensity", n), "column 'propensity' must be numeric"
        )
        if not taken.any() and not np.isnan(propensity).all():
            raise OutcomeLogError("there are propensities, but no action says which arm was logged")
        fail("propensity", taken & np.isnan(propensity), propensity, "missing where an arm was logged")
    elif policy is not None and taken.any():
        propensity = policy.copy()
    if propensity is not None and not taken.any():
        propensity = None
    if propensity is not None:
        propensity[~taken] = np.nan
        check_numbers(propensity, "propensity", "propensity")
        if policy is not None:
            apart = taken & (np.abs(propensity - policy) > 1e-6)
            fail("propensity", apart, propensity, "that differ from the policy's probability of the logged arm")
        propensity.setflags(write=False)
    if taken.any():
        outcome = np.asarray(checked["quality"])[rows, action]
        names = np.array([*checked["arms"], ""], dtype=object)[action]
        fail("score", taken & np.isnan(outcome), names, "of logged arms without an observed quality")
    action.setflags(write=False)
    return action, propensity
