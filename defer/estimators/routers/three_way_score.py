"""One score of quality, cost and latency, in the unit of quality; what labels of several aims are made of.

score = w_q quality - w_c cost / unit - w_t latency / unit.  Quality is taken as it is.  The unit of cost, and that of latency,
is the difference between the largest and the least mean of an arm over the training queries: a weight of 0.1 gives up 0.1 of
quality for the step from the cheapest to the dearest arm.  What is subtracted from all arms alike changes no label, so a unit
is all the normalisation there is to choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.estimators.base import column_means
from defer.estimators.outcomes_input import read_table
from defer.exceptions import RouterInputError

__all__ = ["ThreeWayScore", "check_score_weights", "read_latency"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ThreeWayScore:
    """Weights of quality, cost and latency, with the units that the training queries gave.

    Attributes
    ----------
    weights : tuple of three floats
        Of quality, cost, latency.
    cost_unit : float
        US dollars; 1 where cost is not weighed.
    latency_unit : float
        Seconds; 1 where latency is not weighed.

    Examples
    --------
    >>> cost = np.array([[1.0, 3.0], [1.0, 5.0]])
    >>> score = ThreeWayScore.fit((1.0, 0.3, 0.0), cost=cost, latency=None, weight=None)
    >>> score.cost_unit, score(np.array([[0.5, 0.9]]), np.array([[1.0, 4.0]]), None).round(6).tolist()
    (3.0, [[0.4, 0.5]])
    """

    weights: tuple[float, float, float]
    cost_unit: float = 1.0
    latency_unit: float = 1.0

    @classmethod
    def fit(
        cls, weights: Sequence[float], *, cost: Floats | None, latency: Floats | None, weight: Floats | None
    ) -> ThreeWayScore:
        """Units of what is weighed, from the training queries.

        Parameters
        ----------
        weights : sequence of three floats
            Checked.
        cost, latency : arrays of shape (n, m) or None
            NaN = not measured; needed where their weight is not 0.
        weight : array of shape (n,) or None
            Of the queries.
        """
        quality, of_cost, of_latency = (float(value) for value in weights)
        return cls((quality, of_cost, of_latency), _unit(cost, of_cost, weight), _unit(latency, of_latency, weight))

    def __call__(self, quality: Floats, cost: Floats | None, latency: Floats | None) -> Floats:
        """Score of every arm, shape (n, m); NaN where something that is weighed was not measured."""
        of_quality, of_cost, of_latency = self.weights
        score = of_quality * quality
        if of_cost and cost is not None:
            score = score - of_cost / self.cost_unit * cost
        if of_latency and latency is not None:
            score = score - of_latency / self.latency_unit * latency
        return score


def check_score_weights(weights: Any, *, owner: str) -> None:
    """Refuse weights that are not three finite numbers >= 0, the first of them > 0.

    Raises
    ------
    RouterInputError
    """
    try:
        values = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (3,) or not np.isfinite(values).all() or (values < 0).any() or values[0] == 0:
        raise RouterInputError(
            f"{owner}: weights must be three finite numbers, of quality (> 0), cost (>= 0) and latency (>= 0), got {weights!r}"
        )


def read_latency(latency: ArrayLike, *, arms: NDArray[np.generic], n: int) -> Floats:
    """Seconds of every arm on every query, shape (n, m), in the order of the arms; NaN = not measured.

    Parameters
    ----------
    latency : array or frame of shape (n, m)
        The columns of a frame are matched by name.
    arms : array of shape (m,)
    n : int

    Raises
    ------
    RouterInputError
        For another shape, other arms, values below 0, and an arm that was never measured.

    Examples
    --------
    >>> import pandas as pd
    >>> read_latency(pd.DataFrame({"b": [2.0], "a": [1.0]}), arms=np.array(["a", "b"]), n=1).tolist()
    [[1.0, 2.0]]
    """
    names, table = read_table(latency, name="latency")
    wanted = arms.tolist()
    if names is not None and sorted(map(str, names.tolist())) != sorted(map(str, wanted)):
        raise RouterInputError(f"latency and y must have the same arms: latency has {names.tolist()}, y has {wanted}")
    if names is not None:
        table = table[:, [names.tolist().index(arm) for arm in wanted]]
    if table.shape != (n, len(wanted)):
        raise RouterInputError(f"latency must have the shape of y, ({n}, {len(wanted)}), got {table.shape}")
    wrong = np.argwhere(table < 0)
    if len(wrong):
        row, column = wrong[0]
        raise RouterInputError(
            f"latency: {len(wrong)} values are below 0, the first in row {row}, arm {wanted[column]!r} ({table[row, column]:g})"
        )
    empty = np.flatnonzero(~np.isfinite(table).any(axis=0))
    if len(empty):
        raise RouterInputError(
            f"latency: {len(empty)} of {len(wanted)} arms were never measured, the first is {wanted[empty[0]]!r}"
        )
    return table


def _unit(table: Floats | None, share: float, weight: Floats | None) -> float:
    if table is None or not share:
        return 1.0
    mean = column_means(table, weight, table.shape[1])
    unit = float(mean.max() - mean.min())
    if unit <= 1e-12 * float(mean.max()):
        # All arms cost the same on average, and differ by query at most.
        counted = table if weight is None else table[weight > 0]
        unit = float(np.nanmax(counted) - np.nanmin(counted))
    return unit if unit > 0 else 1.0
