"""Reading a target policy: probabilities, names, a routing or a router, in the arm order of a log."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from defer.estimators.routing import Routing
from defer.exceptions import EvaluationError, OutcomeLogError
from defer.portfolios.outcomes import OutcomeLog
from defer.portfolios.tables import as_matrix

__all__ = ["column_order", "policy_matrix"]


def policy_matrix(policy: Any, log: OutcomeLog) -> NDArray[np.float64]:
    """Probabilities of shape (n, m) in the order of the log's arms.

    Parameters
    ----------
    policy : array or frame of shape (n, m), array of n arm names or indexes, Routing, or fitted router
        Named columns are matched with the log's arms by name, unnamed ones by position.
    log : OutcomeLog

    Raises
    ------
    EvaluationError
        If arms or rows do not fit, or a row is no distribution.

    Examples
    --------
    >>> log = OutcomeLog.from_arrays(None, [[1.0, 0.0]], arms=["small", "large"])
    >>> policy_matrix(["large"], log).tolist()
    [[0.0, 1.0]]
    """
    if hasattr(policy, "route"):
        if log.X is None:
            raise EvaluationError(
                "the log has no queries (X is None) that the router could route: give a Routing or an array of probabilities"
            )
        policy = policy.route(log.X, random_state=0)
    n, m = log.quality.shape
    if isinstance(policy, Routing):
        if len(policy) != n:
            raise EvaluationError(f"the routing has {len(policy)} queries, and the log {n}")
        table = np.zeros((n, m))
        table[:, column_order(policy.arms, log)] = policy.policy
        return table
    table = np.asarray(policy)
    if table.ndim == 1:
        return _from_arms(table, log)
    if table.shape != (n, m):
        raise EvaluationError(f"the policy must have shape ({n}, {m}) like the log, got {table.shape}")
    # A frame, or an array with the names of its arms, need not have them in the order of the log.
    try:
        table = as_matrix(policy, "the policy", log.arms)[1]
    except OutcomeLogError as error:
        raise EvaluationError(str(error)) from None
    total = table @ np.ones(m)
    # Row by row only where something is wrong: the passes along short rows would cost as much as the estimate.
    if not (table.min(initial=0.0) >= 0 and np.abs(total - 1.0).max(initial=0.0) < 1e-6):
        wrong = np.flatnonzero(~((table >= 0).all(axis=1) & (np.abs(total - 1.0) < 1e-6)))
        row = wrong[0]
        raise EvaluationError(
            f"{len(wrong)} of {n} rows of the policy are no distribution, the first is row {row} "
            f"(sum {total[row]:g}, least value {table[row].min():g}); rows must be >= 0 and sum to 1"
        )
    return table


def column_order(arms: Any, log: OutcomeLog) -> NDArray[np.intp]:
    """Column of the log for each arm of a router, by name; arms 0, 1, … that the log does not name are matched by position.

    Raises
    ------
    EvaluationError
        If the router has an arm that the log lacks, or, unnamed, another number of arms.

    Examples
    --------
    >>> log = OutcomeLog.from_arrays(None, [[1.0, 0.0]], arms=["1", "0"])
    >>> column_order([0, 1], log).tolist()
    [1, 0]
    """
    names = np.asarray(arms)
    texts = [str(name) for name in names.tolist()]
    lacking = [name for name in texts if name not in log.arms]
    if lacking and names.dtype.kind in "iu":
        if names.tolist() != list(range(len(log.arms))):
            raise EvaluationError(
                f"the router's arms {names.tolist()} are neither names of the log, which has {list(log.arms)}, nor the places "
                f"0 to {len(log.arms) - 1}"
            )
        return np.arange(len(names))
    if lacking:
        raise EvaluationError(
            f"{len(lacking)} of the router's arms are not in the log, the first is {lacking[0]!r}; the log has {list(log.arms)}"
        )
    return np.array([log.arms.index(name) for name in texts], dtype=np.intp)


def _from_arms(taken: NDArray[Any], log: OutcomeLog) -> NDArray[np.float64]:
    n, m = log.quality.shape
    if len(taken) != n:
        raise EvaluationError(f"the policy names {len(taken)} arms for the log's {n} queries")
    if taken.dtype.kind in "iu":
        index = taken.astype(np.intp)
        wrong = np.flatnonzero((index < 0) | (index >= m))
    else:
        names = np.asarray(log.arms)
        order = np.argsort(names)
        index = order[np.clip(np.searchsorted(names, taken.astype(str), sorter=order), 0, m - 1)]
        wrong = np.flatnonzero(names[index] != taken.astype(str))
    if len(wrong):
        raise EvaluationError(
            f"{len(wrong)} of {n} rows take an arm that is not in the log, the first is row {wrong[0]} ({taken.tolist()[wrong[0]]!r}); "
            f"the log has {list(log.arms)}"
        )
    table = np.zeros((n, m))
    table[np.arange(n), index] = 1.0
    return table
