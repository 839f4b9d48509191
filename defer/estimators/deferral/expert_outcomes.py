"""Outcomes of own and experts, from their answers: quality, costs, propensities, and what each outcome weighs."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.estimators.deferral.answers import OWN, ExpertAnswers
from defer.estimators.outcomes_input import Outcomes, read_outcomes, read_table
from defer.exceptions import DegenerateExpertWarning, RouterInputError
from defer.portfolios.arm_matrix import ArmMatrix

__all__ = ["cost_table", "expert_outcomes", "outcome_weights", "propensity_table"]

Floats = NDArray[np.float64]


def outcome_weights(outcomes: Outcomes) -> Floats:
    """Weight of every outcome, shape (n, m): 0 where it was not observed.

    Parameters
    ----------
    outcomes : Outcomes

    Returns
    -------
    array of shape (n, m)
        Sample weights, divided by the propensity of what was observed; where gaps are missing at random, by the share of
        its column that was observed, so that an arm that is seldom seen counts as much as the others.

    Examples
    --------
    >>> from defer.estimators.outcomes_input import read_outcomes
    >>> outcome_weights(read_outcomes([[1.0, np.nan], [0.0, 1.0]], n=2)).tolist()
    [[1.0, 0.0], [1.0, 2.0]]
    """
    seen = np.isfinite(outcomes.quality)
    n = len(seen)
    if outcomes.cell_propensity is not None:
        row = np.ones(n) if outcomes.sample_weight is None else outcomes.sample_weight
        return np.where(seen, row[:, None] / outcomes.cell_propensity, 0.0)
    row = np.ones(n) if outcomes.weight is None else outcomes.weight
    weight = np.where(seen, row[:, None], 0.0)
    if outcomes.weighting == "missing at random":
        weight /= weight.sum(axis=0) / row.sum()
    return weight


def _warn_of_degenerate_experts(answers: ExpertAnswers) -> None:
    for column, name in enumerate(answers.names):
        right = answers.right[:, column]
        right = right[np.isfinite(right)]
        if len(right) > 1 and right.min() == right.max():
            what = "is right in all" if right[0] else "is right in none"
            warnings.warn(
                f"expert {str(name)!r} {what} of its {len(right)} answers: there is nothing to learn about when to ask it",
                DegenerateExpertWarning,
                stacklevel=4,
            )


def expert_outcomes(
    answers: ExpertAnswers, *, cost: ArrayLike | None, propensity: ArrayLike | None, sample_weight: ArrayLike | None
) -> Outcomes:
    """Outcomes of own and the experts; the own quality is 0, for the estimator to fill in.

    Parameters
    ----------
    answers : ExpertAnswers
    cost, propensity, sample_weight : optional
        As for `BaseDeferral.fit`.

    Raises
    ------
    RouterInputError
        If a cost is negative, a propensity outside (0, 1], or a shape does not match.

    Warns
    -----
    DegenerateExpertWarning
        If an expert is right in all, or in none, of its answers.

    Examples
    --------
    >>> from defer.estimators.deferral.answers import read_answers
    >>> answers = read_answers([0, 1, 1], [[0, 1], [0, 1], [1, None]], n=3)
    >>> expert_outcomes(answers, cost=None, propensity=None, sample_weight=None).quality.tolist()
    [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, nan]]
    """
    _warn_of_degenerate_experts(answers)
    n = len(answers.label)
    arms = [OWN, *answers.names.tolist()]
    quality = ArmMatrix(np.column_stack([np.zeros(n), answers.right]), arms)
    price = None if cost is None else ArmMatrix(cost_table(cost, answers.names), arms)
    outcomes = read_outcomes(quality, n=n, cost=price, sample_weight=sample_weight)
    if propensity is None or np.isfinite(answers.right).all():
        return outcomes
    cells = np.column_stack([np.ones(n), propensity_table(propensity, answers.right)])
    return replace(outcomes, weight=outcomes.sample_weight, weighting="inverse propensity", cell_propensity=cells)


def cost_table(cost: ArrayLike, names: NDArray[np.generic]) -> Floats:
    """Costs of own and the experts, shape (n, 1 + J); the own answer is free where `cost` has no column for it.

    Parameters
    ----------
    cost : array or frame of shape (n, 1 + J) or (n, J)
    names : array of shape (J,)
        Experts.

    Raises
    ------
    RouterInputError
        On another number of columns, or other names.

    Examples
    --------
    >>> cost_table([[0.1, 0.2]], np.array(["ann", "bob"])).tolist()
    [[0.0, 0.1, 0.2]]
    """
    found, table = read_table(cost, name="cost")
    experts = [str(name) for name in names.tolist()]
    if found is not None:
        given = [str(name) for name in found.tolist()]
        lacking = [name for name in experts if name not in given]
        extra = [name for name in given if name not in (OWN, *experts)]
        if lacking or extra:
            raise RouterInputError(f"cost must name {[OWN, *experts]}: lacking {lacking}, not known {extra}")
        own = table[:, given.index(OWN)] if OWN in given else np.zeros(len(table))
        return np.column_stack([own, table[:, [given.index(name) for name in experts]]])
    if table.shape[1] == len(experts):
        return np.column_stack([np.zeros(len(table)), table])
    if table.shape[1] != len(experts) + 1:
        raise RouterInputError(
            f"cost must have a column for each of the {len(experts)} experts, or one more for the own answer before them, "
            f"got {table.shape[1]} columns"
        )
    return table


def propensity_table(propensity: ArrayLike, right: Floats) -> Floats:
    """Probability with which each expert was asked, shape (n, J); 1 where it was not.

    Parameters
    ----------
    propensity : array of shape (n,) or (n, J)
    right : array of shape (n, J), NaN where not asked

    Raises
    ------
    RouterInputError
        On another shape, or where a value that is needed lies outside (0, 1].

    Examples
    --------
    >>> propensity_table([0.5, 0.2], np.array([[1.0, np.nan], [0.0, 1.0]])).tolist()
    [[0.5, 1.0], [0.2, 0.2]]
    """
    values = np.asarray(propensity, dtype=np.float64)
    if values.ndim == 1 and len(values) == len(right):
        values = np.broadcast_to(values[:, None], right.shape)
    if values.shape != right.shape:
        raise RouterInputError(
            f"propensity must have shape ({len(right)},) or {right.shape}, one column per expert, got {values.shape}"
        )
    asked = np.isfinite(right)
    wrong = np.argwhere(asked & ~((values > 0) & (values <= 1)))
    if len(wrong):
        row, column = wrong[0]
        raise RouterInputError(
            f"propensity: {len(wrong)} of {asked.sum()} given answers have a value outside (0, 1], the first is row {row}, "
            f"expert {column} ({values[row, column]:g})"
        )
    return np.where(asked, values, 1.0)
