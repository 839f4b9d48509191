"""Outcomes as surrogates want them: weights of what was observed, costs without gaps, and whether any credit is left."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defer.estimators.deferral.asked_model import population_weights
from defer.estimators.deferral.expert_outcomes import outcome_weights
from defer.estimators.outcomes_input import Outcomes
from defer.exceptions import DeferWarning

__all__ = ["as_sure_outcomes", "filled_cost", "row_or_cell_weights", "warn_of_no_credit"]

Floats = NDArray[np.float64]


def row_or_cell_weights(outcomes: Outcomes, X: Any = None) -> Floats:
    """Weights of queries, shape (n,), where every outcome was observed; else of every outcome, (n, m).

    Parameters
    ----------
    outcomes : Outcomes
    X : n queries, optional
        Given where arms share a term of the loss, or a network: the weights are then those of `population_weights`, else those
        of `outcome_weights`.

    Examples
    --------
    >>> from defer.estimators.outcomes_input import read_outcomes
    >>> row_or_cell_weights(read_outcomes([[1.0, 0.5]], n=1)).tolist()
    [1.0]
    """
    if np.isfinite(outcomes.quality).all():
        weight = outcomes.sample_weight
        return np.ones(len(outcomes.quality)) if weight is None else weight
    return outcome_weights(outcomes) if X is None else population_weights(X, outcomes)


def filled_cost(outcomes: Outcomes, mean_cost: Floats) -> Floats:
    """Costs, with the mean of its arm where one was not observed, shape (n, m).

    Examples
    --------
    >>> from defer.estimators.outcomes_input import read_outcomes
    >>> outcomes = read_outcomes([[1.0, 0.5]] * 2, n=2, cost=[[1.0, 2.0], [np.nan, 2.0]])
    >>> filled_cost(outcomes, np.array([1.0, 2.0])).tolist()
    [[1.0, 2.0], [1.0, 2.0]]
    """
    assert outcomes.cost is not None
    return np.where(np.isfinite(outcomes.cost), outcomes.cost, mean_cost)


def as_sure_outcomes(outcomes: Outcomes, right: Floats) -> Outcomes:
    """Outcomes in which what every expert would have answered is filled in, so that nothing is missing.

    Examples
    --------
    >>> from defer.estimators.outcomes_input import read_outcomes
    >>> sure = as_sure_outcomes(read_outcomes([[1.0, 0.0], [0.0, np.nan]], n=2), np.array([[0.0], [0.7]]))
    >>> sure.quality.tolist(), sure.weighting
    ([[1.0, 0.0], [0.0, 0.7]], 'none')
    """
    quality = np.column_stack([outcomes.quality[:, 0], right])
    return replace(
        outcomes,
        quality=quality,
        weight=outcomes.sample_weight,
        weighting="none",
        propensity=None,
        cell_propensity=None,
    )


def warn_of_no_credit(credit: Floats, weight: Floats, *, owner: str) -> None:
    """Warn where most queries leave every term of a weighted surrogate without weight.

    A few such queries, such as those that no arm gets right, are in every log and do no harm; and where a query was observed
    in part, what was not observed may be where the credit is.

    Parameters
    ----------
    credit : array of shape (n, m), >= 0
        Weight of every term.
    weight : array of shape (n,) or (n, m)
        Of the queries or outcomes; what has none is not counted.
    owner : str
        Class that asks, for the message.

    Warns
    -----
    DeferWarning
    """
    table = weight[:, None] if weight.ndim == 1 else weight
    n = int((table > 0).any(axis=1).sum())
    idle = np.flatnonzero((table > 0).all(axis=1) & ~(credit > 0).any(axis=1))
    if 2 * len(idle) > n:
        warnings.warn(
            f"{owner}: {len(idle)} of {n} queries have no credit in any action, the first in row {idle[0]}: their loss is the "
            f"same whatever the scores; they teach nothing about this choice, which is learned from the other {n - len(idle)}",
            DeferWarning,
            stacklevel=6,
        )
