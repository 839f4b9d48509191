"""What every arm would have brought on every query: observed, or, on bandit logs, its doubly robust pseudo-outcome.

The pseudo-outcome of arm k on a query is q(x, k) + 1[a = k] (r - q(x, a)) / mu(a|x): averaged under any policy it is the DR
estimate of that policy, so that whatever is computed from a full table (means, differences, frontiers) carries over.
Source: Dudik et al. 2011.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from defer.evaluation.outcome_model import OutcomeModels
from defer.exceptions import EvaluationError
from defer.portfolios.outcomes import OutcomeLog

__all__ = ["check_decided", "is_logged_in_part", "logged_outcome", "outcome_table", "policy_terms", "pseudo_outcomes"]

Floats = NDArray[np.float64]


def outcome_table(log: OutcomeLog, name: str, *, quality_model: Any = None) -> Floats:
    """Outcome of every arm on every query, shape (n, m).

    Parameters
    ----------
    log : OutcomeLog
    name : {"quality", "cost", "latency"}
    quality_model : array of shape (n, m), estimator or None
        As for `estimate_value`; used for quality on bandit logs.

    Returns
    -------
    array of shape (n, m)
        As observed, NaN where not, where no arm was drawn; pseudo-outcomes without NaN on bandit logs.

    Raises
    ------
    EvaluationError
        If the log lacks the outcome, or propensities, or the outcome of a logged arm.

    Examples
    --------
    >>> log = OutcomeLog.from_arrays(None, [[1.0, 0.0], [0.0, 1.0]])
    >>> bandit = log.with_action([[0.5, 0.5], [0.5, 0.5]], seed=1)
    >>> bandit.action.tolist(), outcome_table(bandit, "quality", quality_model=np.zeros((2, 2))).tolist()
    ([1, 1], [[0.0, 0.0], [0.0, 2.0]])
    """
    return pseudo_outcomes(log, name, OutcomeModels(log, quality_model))


def is_logged_in_part(log: OutcomeLog) -> bool:
    """Whether a logging policy chose what was observed, so that values are estimated and not averaged."""
    return log.has_decisions and not log.is_full_information


def pseudo_outcomes(log: OutcomeLog, name: str, models: OutcomeModels) -> Floats:
    """`outcome_table` with outcome models that are at hand."""
    values = getattr(log, name)
    if values is None:
        raise EvaluationError(f"the log has no {name}")
    if not is_logged_in_part(log):
        return np.asarray(values)
    if log.propensity is None:
        raise EvaluationError(f"the log has no propensities ({len(log)} rows)")
    check_decided(log)
    outcome, gap = logged_outcome(log, name)
    if gap:
        raise EvaluationError(gap)
    rows, action = np.arange(len(log)), log.action
    table = np.array(models[name])
    table[rows, action] += (outcome - table[rows, action]) / log.propensity
    return table


def check_decided(log: OutcomeLog) -> None:
    """Raise EvaluationError if a row has no logged arm."""
    free = np.flatnonzero(np.asarray(log.action) < 0)
    if len(free):
        raise EvaluationError(
            f"{len(free)} of {len(log)} rows have no logged arm, the first is row {free[0]}; select the others"
        )


def logged_outcome(log: OutcomeLog, name: str) -> tuple[Floats, str]:
    """Outcome of the logged arm of every row, and what is missing of it, or an empty string."""
    outcome = np.asarray(getattr(log, name))[np.arange(len(log)), log.action]
    missing = np.flatnonzero(np.isnan(outcome))
    if not len(missing):
        return outcome, ""
    return (
        outcome,
        f"{name} of the logged arm is missing in {len(missing)} of {len(log)} rows, the first is row {missing[0]}",
    )


def policy_terms(policy: Floats, table: Floats) -> Floats:
    """Outcome of every row under a policy, or a difference of two; shape (n,).

    Raises
    ------
    EvaluationError
        If the policy takes an arm whose outcome is not known.
    """
    terms = np.einsum("ij,ij->i", policy, np.where(policy != 0, table, 0.0))
    unknown = np.flatnonzero(np.isnan(terms))
    if len(unknown):
        raise EvaluationError(
            f"the policy takes arms that were not observed in {len(unknown)} of {len(terms)} rows, "
            f"the first is row {unknown[0]}"
        )
    return terms
