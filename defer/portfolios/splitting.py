"""Splitting a log without leakage, and simulating the bandit log that a policy would have left."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.exceptions import LeakageWarning, OutcomeLogError

if TYPE_CHECKING:
    from defer.portfolios.outcomes import OutcomeLog

__all__ = ["query_groups", "shared_texts", "simulate_actions", "split_rows"]

Rows = NDArray[np.intp]


def query_groups(log: OutcomeLog) -> NDArray[Any]:
    """Group of every row for splitting and for intervals: its cluster, else rows of equal text, else the row itself."""
    if log.cluster is not None:
        return np.unique(log.cluster, return_inverse=True)[1].ravel()
    texts = _texts(log)
    return np.arange(len(log)) if texts is None else np.unique(texts, return_inverse=True)[1].ravel()


def split_rows(log: OutcomeLog, test_size: float, *, seed: int = 0, by: str | None = None) -> tuple[Rows, Rows]:
    """Rows of a training and a test part, each in the order of the log.

    Raises
    ------
    OutcomeLogError
        If `test_size` is not in (0, 1), `by` is unknown or names a column that the log lacks, or a part would be empty.

    Warns
    -----
    LeakageWarning
        If the same text stands on both sides.
    """
    if not 0.0 < test_size < 1.0:
        raise OutcomeLogError(f"split: test_size must be in (0, 1), got {test_size!r}")
    if by not in (None, "cluster", "time", "random"):
        raise OutcomeLogError(f"split: by must be 'cluster', 'time' or 'random', got {by!r}")
    n, rng = len(log), np.random.default_rng(seed)
    if by == "time":
        if log.time is None:
            raise OutcomeLogError("split: by='time' needs a log with a time column")
        order = np.argsort(log.time, kind="stable")
        test = np.zeros(n, dtype=bool)
        test[order[n - max(1, round(n * test_size)) :]] = True
    elif by == "random":
        test = np.zeros(n, dtype=bool)
        test[rng.permutation(n)[: max(1, round(n * test_size))]] = True
    else:
        groups = query_groups(log)
        count = np.bincount(groups)
        order = rng.permutation(len(count))
        filled = np.cumsum(count[order])
        chosen = order[: max(1, int(np.searchsorted(filled, round(n * test_size), side="right")))]
        test = np.isin(groups, chosen)
    if test.all() or not test.any():
        raise OutcomeLogError(
            f"split: {n} queries in these clusters cannot be cut at test_size={test_size:g}: one part would be empty"
        )
    train_rows, test_rows = np.flatnonzero(~test), np.flatnonzero(test)
    count_shared, first = shared_texts(log, train_rows, log, test_rows)
    if count_shared:
        warnings.warn(
            f"{count_shared} of {len(test_rows)} test queries have a text that is also in the training part, the first is "
            f"row {first}; split by cluster to keep equal texts together",
            LeakageWarning,
            stacklevel=4,
        )
    return train_rows, test_rows


def shared_texts(
    train: OutcomeLog, train_rows: Rows | None, test: OutcomeLog, test_rows: Rows | None
) -> tuple[int, int]:
    """How many test queries have a text that the training part has too, and the first such row (-1 if none)."""
    left, right = _texts(train), _texts(test)
    if left is None or right is None:
        return 0, -1
    rows = np.arange(len(right)) if test_rows is None else test_rows
    both = rows[np.isin(right[rows], left if train_rows is None else left[train_rows])]
    return len(both), int(both[0]) if len(both) else -1


def simulate_actions(log: OutcomeLog, policy: ArrayLike, *, seed: int = 0) -> dict[str, Any]:
    """Changed fields of the bandit log that `policy` would have left; see `OutcomeLog.with_action`."""
    table = np.asarray(policy, dtype=np.float64)
    n, m = log.quality.shape
    if table.shape != (n, m):
        raise OutcomeLogError(f"with_action: policy must have shape ({n}, {m}), got {table.shape}")
    total = table.sum(axis=1)
    wrong = np.flatnonzero(~((table >= 0).all(axis=1) & (np.abs(total - 1) < 1e-6)))
    if len(wrong):
        raise OutcomeLogError(
            f"with_action: {len(wrong)} rows of the policy are no distribution, the first is row {wrong[0]} (sum {total[wrong[0]]:g})"
        )
    draw = np.random.default_rng(seed).random(n) * total
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


def _texts(log: OutcomeLog) -> NDArray[Any] | None:
    if isinstance(log.X, (list, tuple)) or (isinstance(log.X, np.ndarray) and log.X.ndim == 1):
        return np.asarray(log.X, dtype=object).astype(str)
    return None
