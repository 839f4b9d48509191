"""Splitting a log without leakage, and simulating the bandit log that a policy would have left."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.exceptions import LeakageWarning, OutcomeLogError
from defer.portfolios.columns import is_missing, number_groups
from defer.portfolios.log_checks import fail

if TYPE_CHECKING:
    from defer.portfolios.outcomes import OutcomeLog

__all__ = ["interval_groups", "query_groups", "query_texts", "shared_texts", "simulate_actions", "split_rows"]

Rows = NDArray[np.intp]


def query_groups(log: OutcomeLog) -> NDArray[np.intp]:
    """Group of every row, shape (n,), for splitting: its cluster, else rows of equal text, else the row itself.

    Rows of equal numbers stay apart: two queries may well have equal features.  Where they are one query, give the log
    a cluster.
    """
    if log.cluster is not None:
        return number_groups(log.cluster)[0]
    texts = query_texts(log)
    return np.arange(len(log)) if texts is None else number_groups(texts)[0]


def interval_groups(log: OutcomeLog) -> NDArray[np.intp] | None:
    """Group of every row, shape (n,), whose outcomes are not independent; None where every row counts for itself.

    Clusters where the log has them, else rows of equal text where a text repeats.

    Examples
    --------
    >>> from defer import OutcomeLog
    >>> interval_groups(OutcomeLog.from_arrays(["a", "b", "a"], [[1.0, 0.0]] * 3)).tolist()
    [0, 1, 0]
    >>> interval_groups(OutcomeLog.from_arrays(["a", "b", "c"], [[1.0, 0.0]] * 3)) is None
    True
    """
    groups = query_groups(log)
    return groups if log.cluster is not None or groups.max() < len(groups) - 1 else None


def query_texts(log: OutcomeLog) -> list[str] | None:
    """Texts of the queries, None where they are no texts."""
    return log.X if isinstance(log.X, list) and all(isinstance(text, str) for text in log.X) else None


def split_rows(log: OutcomeLog, test_size: float, *, seed: int = 0, by: str | None = None) -> tuple[Rows, Rows]:
    """Rows of a training and a test part, each in the order of the log.

    By cluster, clusters are drawn in random order, and each is tested on if that brings the test part nearer to its size;
    one of more than twice that size is therefore always trained on.  By time, equal times stay on one side.

    Raises
    ------
    OutcomeLogError
        If `test_size` is not in (0, 1), `by` is unknown or names a column that the log lacks, or a part would be empty.

    Warns
    -----
    LeakageWarning
        If the same text stands on both sides.

    Examples
    --------
    >>> from defer import OutcomeLog
    >>> log = OutcomeLog.from_arrays(["a", "a", "b", "c"], [[1.0, 0.0]] * 4)
    >>> [rows.tolist() for rows in split_rows(log, 0.5)]
    [[0, 1], [2, 3]]
    """
    if not 0.0 < test_size < 1.0:
        raise OutcomeLogError(f"split: test_size must be in (0, 1), got {test_size!r}")
    if by not in (None, "cluster", "time", "random"):
        raise OutcomeLogError(f"split: by must be 'cluster', 'time' or 'random', got {by!r}")
    n, rng = len(log), np.random.default_rng(seed)
    if n < 2:
        raise OutcomeLogError("split: a log of one query cannot be split: one part would be empty")
    size = min(max(1, round(n * test_size)), n - 1)
    if by == "time":
        test = _latest(log, size)
    elif by == "random":
        test = np.zeros(n, dtype=bool)
        test[rng.permutation(n)[:size]] = True
    else:
        test = _whole_groups(query_groups(log), size, rng)
    train_rows, test_rows = np.flatnonzero(~test), np.flatnonzero(test)
    count_shared, first = shared_texts(log, train_rows, log, test_rows) or (0, -1)
    if count_shared:
        advice = (
            "split by cluster to keep equal texts together"
            if log.cluster is None
            else "give equal texts one cluster, and split by it"
        )
        warnings.warn(
            f"{count_shared} of {len(test_rows)} test queries have a text that is also in the training part, the first is "
            f"row {first}; {advice}",
            LeakageWarning,
            stacklevel=3,
        )
    return train_rows, test_rows


def _latest(log: OutcomeLog, size: int) -> NDArray[np.bool_]:
    if log.time is None:
        raise OutcomeLogError("split: by='time' needs a log with a time column")
    fail("time", is_missing(log.time), log.time, "that are missing; a split by time needs them")
    ordered = log.time[np.argsort(log.time, kind="stable")]
    cuts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    if not len(cuts):
        raise OutcomeLogError(f"split: all {len(ordered)} queries have the time {ordered[0]}: one part would be empty")
    cut = int(cuts[np.argmin(np.abs(len(ordered) - cuts - size))])
    return np.asarray(log.time >= ordered[cut], dtype=bool)


def _whole_groups(groups: NDArray[np.intp], size: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    count = np.bincount(groups)
    if len(count) < 2:
        raise OutcomeLogError(f"split: all {len(groups)} queries are in one cluster: one part would be empty")
    order = rng.permutation(len(count))
    chosen, filled = np.zeros(len(count), dtype=bool), 0
    for group, members in zip(order.tolist(), count[order].tolist(), strict=True):
        if abs(filled + members - size) < abs(filled - size):
            chosen[group], filled = True, filled + members
    if chosen.all() or not chosen.any():
        chosen[order[np.argmin(count[order])]] ^= True
    return chosen[groups]


def shared_texts(
    train: OutcomeLog, train_rows: Rows | None, test: OutcomeLog, test_rows: Rows | None
) -> tuple[int, int] | None:
    """How many test queries have a text that the training part has too, and the first such row (-1 if none).

    None where queries cannot be compared, because one of the logs holds no texts.
    """
    left, right = query_texts(train), query_texts(test)
    if left is None or right is None:
        return None
    known = set(left if train_rows is None else [left[row] for row in train_rows])
    rows = range(len(right)) if test_rows is None else test_rows.tolist()
    both = [row for row in rows if right[row] in known]
    return len(both), both[0] if both else -1


def simulate_actions(log: OutcomeLog, policy: ArrayLike, *, seed: int = 0) -> dict[str, Any]:
    """Changed fields of the bandit log that `policy` would have left; see `OutcomeLog.with_action`."""
    from defer.portfolios.tables import as_matrix

    table = as_matrix(policy, "policy", log.arms)[1]
    n, m = log.quality.shape
    if table.shape != (n, m):
        raise OutcomeLogError(f"with_action: policy must have shape ({n}, {m}), got {table.shape}")
    total: NDArray[np.float64] = table.sum(axis=1)
    wrong = np.flatnonzero(~((table >= 0).all(axis=1) & (np.abs(total - 1) < 1e-6)))
    if len(wrong):
        raise OutcomeLogError(
            f"with_action: {len(wrong)} rows of the policy are no distribution, the first is row {wrong[0]} (sum {total[wrong[0]]:g})"
        )
    uneven = np.abs(total - 1) > 1e-12
    table = np.where(uneven[:, None], table / total[:, None], table)
    draw = np.random.default_rng(seed).random(len(log))
    action = (np.cumsum(table, axis=1) <= draw[:, None]).sum(axis=1)
    last = m - 1 - (table[:, ::-1] > 0).argmax(axis=1)
    action = np.minimum(action, last)  # rounding must not draw an arm of probability 0
    rows = np.arange(n)
    hidden = np.flatnonzero(np.isnan(np.asarray(log.quality)[rows, action]))
    if len(hidden):
        raise OutcomeLogError(
            f"with_action: {len(hidden)} rows draw an arm whose quality was not observed, the first is row {hidden[0]} "
            f"(arm {log.arms[action[hidden[0]]]!r}); select full-information rows first"
        )
    changed: dict[str, Any] = {"action": action, "propensity": table[rows, action], "policy": table}
    for name in ("quality", "cost", "latency"):
        values = getattr(log, name)
        if values is not None:
            kept = np.full((n, m), np.nan)
            kept[rows, action] = np.asarray(values)[rows, action]
            changed[name] = kept
    return changed
