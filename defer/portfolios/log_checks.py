"""The rules that every outcome log satisfies, checked once when it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from defer.exceptions import OutcomeLogError
from defer.portfolios.arm_matrix import ArmMatrix

if TYPE_CHECKING:
    from defer.portfolios.outcomes import OutcomeLog

__all__ = ["check_log", "fail"]

_TABLES = {"quality": "score", "cost": "cost_usd", "latency": "latency_s", "policy": "policy"}


def fail(column: str, wrong: NDArray[np.bool_], values: NDArray[Any], rule: str) -> None:
    """Raise, naming column, count, first row and its value, if anything is wrong."""
    rows = np.flatnonzero(wrong)
    if len(rows):
        raise OutcomeLogError(
            f"column {column!r} has {len(rows)} of {len(values)} values {rule}, the first in row {rows[0]} ({values[rows[0]]})"
        )


def check_log(log: OutcomeLog) -> dict[str, Any]:
    """Checked values of all fields: read-only tables that carry the names of the arms, and columns of equal length."""
    arms = _check_arms(log.arms)
    checked: dict[str, Any] = {"arms": arms}
    n = len(np.asarray(log.quality))
    if n == 0:
        raise OutcomeLogError("the log is empty: it has no query")
    for name, label in _TABLES.items():
        table = getattr(log, name)
        checked[name] = None if table is None else _check_table(np.asarray(table), name, label, arms, n)
    if log.X is not None:
        rows = log.X.shape[0] if hasattr(log.X, "shape") else len(log.X)
        if rows != n:
            raise OutcomeLogError(f"X has {rows} rows, and quality has {n}")
    for name in ("domain", "cluster", "time", "query_id"):
        column = getattr(log, name)
        checked[name] = None if column is None else _check_column(np.asarray(column), name, n)
    if checked["query_id"] is not None:
        _check_unique(checked["query_id"])
    checked["action"], checked["propensity"] = _check_decisions(log, checked, n)
    seen = np.isfinite(checked["quality"])
    for arm in np.flatnonzero(~seen.any(axis=0)):
        raise OutcomeLogError(
            f"column 'score:{arms[arm]}' has no observed value in {n} rows: leave the arm out, or select rows in which it was run"
        )
    return checked


def _check_arms(names: Any) -> tuple[str, ...]:
    arms = tuple(str(name) for name in names)
    if not arms:
        raise OutcomeLogError("the log has no arm")
    twice = sorted({arm for arm in arms if arms.count(arm) > 1})
    if twice:
        raise OutcomeLogError(f"{len(twice)} arms are named twice, the first is {twice[0]!r}")
    return arms


def _check_table(table: NDArray[Any], name: str, label: str, arms: tuple[str, ...], n: int) -> ArmMatrix:
    if table.shape != (n, len(arms)):
        raise OutcomeLogError(f"{name} must have shape ({n}, {len(arms)}), one column per arm, got {table.shape}")
    try:
        values = np.array(table, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise OutcomeLogError(f"{name} must be numbers: {error}") from None
    for index, arm in enumerate(arms):
        column = f"{label}:{arm}"
        fail(column, np.isinf(values[:, index]), values[:, index], "that are not finite")
        if name in ("cost", "latency") and (values[:, index] < 0).any():
            unit = "A cost is in US dollars per query" if name == "cost" else "A latency is in seconds"
            hint = "; if it is a rebate, add it to the quality of that arm instead" if name == "cost" else ""
            try:
                fail(column, values[:, index] < 0, values[:, index], "below 0")
            except OutcomeLogError as error:
                raise OutcomeLogError(f"{error}. {unit} and must be >= 0{hint}.") from None
    if name == "policy":
        _check_distribution(values)
    values.setflags(write=False)
    return ArmMatrix(values, arms)


def _check_distribution(policy: NDArray[np.float64]) -> None:
    wrong = ~(np.isfinite(policy).all(axis=1) & (policy >= 0).all(axis=1) & (np.abs(policy.sum(axis=1) - 1) < 1e-6))
    fail("policy", wrong, policy.sum(axis=1), "that are no distribution (rows must be >= 0 and sum to 1)")


def _check_column(values: NDArray[Any], name: str, n: int) -> NDArray[Any]:
    if values.shape != (n,):
        raise OutcomeLogError(f"{name} must have shape ({n},), got {values.shape}")
    column = values.copy()
    column.setflags(write=False)
    return column


def _check_unique(ids: NDArray[Any]) -> None:
    _, first, count = np.unique(ids, return_index=True, return_counts=True)
    if (count > 1).any():
        again = int(first[count > 1].min())
        raise OutcomeLogError(
            f"column 'query_id' has {int((count > 1).sum())} ids that repeat, the first is {ids[again]!r} (first in row {again})"
        )


def _check_decisions(
    log: OutcomeLog, checked: dict[str, Any], n: int
) -> tuple[NDArray[np.intp], NDArray[np.float64] | None]:
    m = len(checked["arms"])
    action = np.full(n, -1, dtype=np.intp)
    if log.action is not None:
        given = _check_column(np.asarray(log.action), "action", n)
        if given.dtype.kind not in "iu":
            raise OutcomeLogError(f"action must be integer indexes of arms, got dtype {given.dtype}")
        fail("action", (given < -1) | (given >= m), given, f"outside -1 … {m - 1}")
        action = given.astype(np.intp)
    taken = action >= 0
    propensity = None
    if log.propensity is not None:
        try:
            propensity = np.array(log.propensity, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise OutcomeLogError(f"column 'propensity' must be numbers: {error}") from None
        if propensity.shape != (n,):
            raise OutcomeLogError(f"propensity must have shape ({n},), got {propensity.shape}")
        fail("propensity", taken & np.isnan(propensity), propensity, "missing where an arm was logged")
        fail("propensity", taken & ~((propensity > 0) & (propensity <= 1)), propensity, "outside (0, 1]")
        propensity[~taken] = np.nan
        propensity.setflags(write=False)
    if taken.any():
        outcome = np.asarray(checked["quality"])[np.arange(n), action]
        fail("score", taken & np.isnan(outcome), action, "of logged arms without an observed quality")
    action.setflags(write=False)
    return action, propensity
