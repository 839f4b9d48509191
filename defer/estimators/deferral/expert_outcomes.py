"""Outcomes of own and experts, from their answers: quality, costs, propensities, and what each outcome weighs."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.estimators.deferral.answers import OWN, ExpertAnswers
from defer.estimators.outcomes_input import Outcomes, read_outcomes, read_table, read_weight
from defer.exceptions import DegenerateExpertWarning, RouterInputError, SupportWarning
from defer.portfolios.arm_matrix import ArmMatrix

__all__ = ["cost_table", "expert_outcomes", "outcome_weights", "propensity_table"]

Floats = NDArray[np.float64]

# An effective number of answers below which their weighted mean says next to nothing.
_LEAST_WORTH = 10.0


def outcome_weights(outcomes: Outcomes) -> Floats:
    """Weight of every outcome for models that take one arm at a time, shape (n, m): 0 where it was not observed.

    Parameters
    ----------
    outcomes : Outcomes

    Returns
    -------
    array of shape (n, m)
        Sample weights.  Where propensities are given they are divided by them, and scaled so that those of every arm sum to
        the weight of the queries on which it was observed: an answer counts as one, and the penalty of an arm that is seldom
        seen is as strong as if nothing else had been.

    Examples
    --------
    >>> from defer.estimators.outcomes_input import read_outcomes
    >>> outcome_weights(read_outcomes([[1.0, np.nan], [0.0, 1.0], [1.0, 1.0]], n=3, propensity=[0.25, 1.0, 1.0])).tolist()
    [[2.0, 0.0], [0.5, 1.0], [0.5, 1.0]]
    """
    seen = np.isfinite(outcomes.quality)
    row = np.ones(len(seen)) if outcomes.sample_weight is None else outcomes.sample_weight
    weight = np.where(seen, row[:, None], 0.0)
    if outcomes.weighting != "inverse propensity":
        return weight
    if outcomes.cell_propensity is not None:
        odds = weight / outcomes.cell_propensity
    else:
        odds = np.where(seen, (row if outcomes.weight is None else outcomes.weight)[:, None], 0.0)
    return odds * (weight.sum(axis=0) / odds.sum(axis=0))


def _warn_of_degenerate_experts(answers: ExpertAnswers, weight: Floats | None) -> None:
    counted = np.isfinite(answers.right)
    if weight is not None:
        counted &= (weight > 0)[:, None]
    for column, name in enumerate(answers.names):
        right = answers.right[counted[:, column], column]
        if len(right) > 1 and right.min() == right.max():
            what = "is right in all" if right[0] else "is right in none"
            warnings.warn(
                f"expert {str(name)!r} {what} of its {len(right)} answers: there is nothing to learn about when to ask it",
                DegenerateExpertWarning,
                stacklevel=4,
            )


def _warn_of_little_support(answers: ExpertAnswers, chance: Floats, weight: Floats | None) -> None:
    asked, row = np.isfinite(answers.right), np.ones(len(chance)) if weight is None else weight
    odds = np.where(asked, row[:, None] / chance, 0.0)
    worth = odds.sum(axis=0) ** 2 / (odds**2).sum(axis=0)
    for column in np.flatnonzero(worth < _LEAST_WORTH):
        count, largest = int((odds[:, column] > 0).sum()), odds[:, column].max() / odds[:, column].sum()
        warnings.warn(
            f"propensity: the {count} answers of expert {str(answers.names[column])!r} are worth {worth[column]:.1f} (effective "
            f"sample size of their inverse propensities), and one of them has {largest:.0%} of the weight; raise the smallest "
            "propensities, as in np.clip(propensity, 0.05, 1), or have more answers",
            SupportWarning,
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
        If an expert is right in all, or in none, of its answers that have a positive weight.
    SupportWarning
        If the answers of an expert, weighted by propensity, are worth fewer than ten: (sum w)^2 / sum w^2 < 10.

    Examples
    --------
    >>> from defer.estimators.deferral.answers import read_answers
    >>> answers = read_answers([0, 1, 1], [[0, 1], [0, 1], [1, None]], n=3)
    >>> expert_outcomes(answers, cost=None, propensity=None, sample_weight=None).quality.tolist()
    [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, nan]]
    """
    n = len(answers.label)
    _warn_of_degenerate_experts(answers, read_weight(sample_weight, n=n))
    arms = [OWN, *answers.names.tolist()]
    quality = ArmMatrix(np.column_stack([np.zeros(n), answers.right]), arms)
    price = None if cost is None else ArmMatrix(cost_table(cost, answers.names, n=n), arms)
    outcomes = read_outcomes(quality, n=n, cost=price, sample_weight=sample_weight)
    if propensity is None:
        return outcomes
    chance = propensity_table(propensity, answers.right, names=answers.names)
    if np.isfinite(answers.right).all():
        return outcomes
    cells = np.column_stack([np.ones(n), chance])
    _warn_of_little_support(answers, cells[:, 1:], outcomes.sample_weight)
    return replace(outcomes, weight=outcomes.sample_weight, weighting="inverse propensity", cell_propensity=cells)


def cost_table(cost: ArrayLike, names: NDArray[np.generic], *, n: int) -> Floats:
    """Costs of own and the experts, shape (n, 1 + J); the own answer is free where `cost` has no column for it.

    Parameters
    ----------
    cost : array or frame of shape (n, 1 + J) or (n, J), or (n,) for one expert
    names : array of shape (J,)
        Experts.
    n : int
        Number of queries.

    Raises
    ------
    RouterInputError
        On another number of rows or columns, or other names.

    Examples
    --------
    >>> cost_table([[0.1, 0.2]], np.array(["ann", "bob"]), n=1).tolist()
    [[0.0, 0.1, 0.2]]
    """
    found, table = read_table(_as_columns(cost), name="cost")
    experts = [str(name) for name in names.tolist()]
    if len(table) != n:
        raise RouterInputError(f"cost must have one row per query: X has {n} rows, cost has {len(table)}")
    if found is not None:
        priced = _in_order(found, table, experts, name="cost", also=(OWN,))
        own = table[:, found.tolist().index(OWN)] if OWN in found.tolist() else np.zeros(n)
        return np.column_stack([own, priced])
    if table.shape[1] == len(experts):
        return np.column_stack([np.zeros(n), table])
    if table.shape[1] != len(experts) + 1:
        raise RouterInputError(
            f"cost must have a column for each of the {len(experts)} experts, or one more for the own answer before them, "
            f"got {table.shape[1]}"
        )
    return table


def propensity_table(propensity: ArrayLike, right: Floats, *, names: NDArray[np.generic]) -> Floats:
    """Probability with which each expert was asked, shape (n, J); 1 where it was not.

    Parameters
    ----------
    propensity : array of shape (n,) or (n, J), or frame
        The columns of a frame are put into the order of the experts.
    right : array of shape (n, J), NaN where not asked
    names : array of shape (J,)
        Experts.

    Raises
    ------
    RouterInputError
        On another shape or other names, or where a value that is needed lies outside (0, 1].

    Examples
    --------
    >>> propensity_table([0.5, 0.2], np.array([[1.0, np.nan], [0.0, 1.0]]), names=np.array(["ann", "bob"])).tolist()
    [[0.5, 1.0], [0.2, 0.2]]
    """
    one_column = _is_list(propensity)
    found, values = read_table(_as_columns(propensity), name="propensity")
    experts = [str(name) for name in names.tolist()]
    if one_column and len(values) == len(right):
        values = np.broadcast_to(values, right.shape)
    elif found is not None:
        values = _in_order(found, values, experts, name="propensity")
    if values.shape != right.shape:
        given = (len(values),) if one_column else values.shape
        raise RouterInputError(
            f"propensity must have shape ({len(right)},) or {right.shape}, one column per expert, got {given}"
        )
    asked = np.isfinite(right)
    wrong = np.argwhere(asked & ~((values > 0) & (values <= 1)))
    if len(wrong):
        row, column = wrong[0]
        raise RouterInputError(
            f"propensity: {len(wrong)} of {asked.sum()} given answers have a value outside (0, 1], the first is row {row}, "
            f"expert {experts[column]!r} ({values[row, column]:g})"
        )
    return np.where(asked, values, 1.0)


def _as_columns(values: ArrayLike) -> ArrayLike:
    """A list, array or series of one value per query as a table of one column."""
    return np.asarray(values)[:, None] if _is_list(values) else values


def _is_list(values: ArrayLike) -> bool:
    try:
        return np.ndim(values) == 1
    except ValueError:  # rows of several lengths: whoever reads the table says so
        return False


def _in_order(
    found: NDArray[np.generic], table: Floats, experts: list[str], *, name: str, also: tuple[str, ...] = ()
) -> Floats:
    """The columns of a table with names, in the order of the experts."""
    given = [str(column) for column in found.tolist()]
    lacking = [expert for expert in experts if expert not in given]
    extra = [column for column in given if column not in (*also, *experts)]
    if lacking or extra:
        raise RouterInputError(f"{name} must name {[*also, *experts]}: lacking {lacking}, not known {extra}")
    return table[:, [given.index(expert) for expert in experts]]
