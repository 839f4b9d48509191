"""Pools of exemplars by the arm that was right: which answers count as right, and whose pool a query joins.

Source: OrchestraLLM (Lee, Cheng, Ostendorf, NAACL 2024, arXiv 2311.09758), for two arms; the rules for more are ours.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defer.estimators.deferral.parameter_checks import check_choice
from defer.exceptions import RouterInputError

__all__ = ["BOTH_RIGHT", "pool_votes", "right_answers", "right_grade"]

Floats = NDArray[np.float64]

BOTH_RIGHT = ("cheapest", "drop", "each")

# More grades than this are a measurement, whose highest value only one query reaches.
_MOST_GRADES = 32


def right_grade(owner: str, quality: Floats, right_above: float | None) -> float:
    """Least quality that counts as right.

    Parameters
    ----------
    owner : str
        Class that asks, for messages.
    quality : array of shape (n, m), NaN = not observed
    right_above : float or None
        Right is what lies above it; None makes it the highest grade that was observed.

    Returns
    -------
    float

    Raises
    ------
    RouterInputError
        If `right_above` is no finite number, or is None and quality is a measurement with more than 32 values.

    Examples
    --------
    >>> right_grade("Router", np.array([[0.0, 0.5], [1.0, np.nan]]), None)
    1.0
    """
    if right_above is not None:
        if isinstance(right_above, bool) or not isinstance(right_above, Real) or not np.isfinite(float(right_above)):
            raise RouterInputError(f"{owner}: right_above must be a finite number or None, got {right_above!r}")
        return float(np.nextafter(float(right_above), np.inf))
    grades = np.unique(quality[np.isfinite(quality)])
    if len(grades) > _MOST_GRADES:
        raise RouterInputError(
            f"{owner}: y has {len(grades)} different values from {grades[0]:g} to {grades[-1]:g}, so hardly any answer has the "
            f"highest; at most {_MOST_GRADES} grades are told apart without it: say above which quality an answer is right, as "
            f"in right_above={np.median(quality[np.isfinite(quality)]):.3g}"
        )
    return float(grades[-1])


def right_answers(quality: Floats, grade: float) -> Floats:
    """1 where an arm was right, 0 where it was not, NaN where it was not observed; of the shape of `quality`.

    Examples
    --------
    >>> right_answers(np.array([0.5, 1.0, np.nan]), 1.0).tolist()
    [0.0, 1.0, nan]
    """
    return np.where(np.isnan(quality), np.nan, (quality >= grade).astype(np.float64))


def pool_votes(
    right: Floats, order: NDArray[Any], both_right: str = "cheapest", *, right_share: Floats | None = None
) -> Floats:
    """Pools that every query belongs to.

    Parameters
    ----------
    right : array of shape (n, m)
        1 = right, 0 = wrong, NaN = not observed, which is in no pool.
    order : int array of shape (m,)
        Arms from the cheapest to the dearest.
    both_right : {"cheapest", "drop", "each"}
        Where several arms were right: the pool of the cheapest of them; no pool where all arms were right, else that of
        each of them; or that of each of them.
    right_share : array of shape (m,), optional
        Chance that every arm was right where it was not observed, by which "drop" weighs queries that all other arms got right;
        the mean of its column by default.

    Returns
    -------
    array of shape (n, m)
        1 in the pools of a query, of which a query that no arm got right has none; less, under "drop", by the chance that all
        arms got it right.

    Raises
    ------
    RouterInputError
        For an unknown rule.

    Examples
    --------
    >>> right = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> pool_votes(right, np.array([0, 1])).tolist()
    [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    >>> pool_votes(right, np.array([0, 1]), "drop").tolist()
    [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    >>> gaps = np.array([[1.0, 1.0, np.nan], [0.0, 1.0, np.nan]])
    >>> pool_votes(gaps, np.arange(3), "drop", right_share=np.array([0.9, 0.9, 0.75])).tolist()
    [[0.25, 0.25, 0.0], [0.0, 1.0, 0.0]]
    """
    check_choice("pool_votes", "both_right", both_right, BOTH_RIGHT)
    won = right == 1.0
    if both_right == "cheapest":
        ranked = won[:, order]
        first = ranked & (np.cumsum(ranked, axis=1) == 1)
        won = np.empty_like(won)
        won[:, order] = first
    elif both_right == "drop":
        seen = np.isfinite(right)
        if right_share is None:
            right_share = won.sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
        all_right = np.where(seen, won, right_share).prod(axis=1)
        return np.asarray(won * (1.0 - all_right)[:, None])
    return won.astype(np.float64)
