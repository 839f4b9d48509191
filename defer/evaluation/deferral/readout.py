"""Calibration of what a fitted model says about each expert: probability of being right, against how often it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from defer.evaluation.calibration import Calibration, calibration
from defer.evaluation.deferral.arrays import arm_names, check_level, finite_table, numbers_of
from defer.evaluation.intervals import wilson_interval
from defer.exceptions import EvaluationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ReadoutCalibration", "readout_calibration"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ReadoutCalibration:
    """Calibration of the read-out of each expert.

    Parameters
    ----------
    per_expert : dict of expert name to Calibration
        Experts who were never asked are left out.
    frame : narwhals frame
        Row per expert: number of `answers`, `mean_probability`, `accuracy` with Wilson interval, expected calibration error
        `ece`, `brier`, `base_brier` (of the overall accuracy), and `above_one`, the share of read-outs above 1, which the
        softmax losses can give.

    Examples
    --------
    >>> found = readout_calibration([[0.9], [0.8], [0.3]], [[1], [1], [0]])
    >>> isinstance(found, ReadoutCalibration), list(found.per_expert)
    (True, ['expert'])
    """

    per_expert: dict[str, Calibration] = field(repr=False)
    frame: nw.DataFrame[Any] = field(repr=False)

    def __repr__(self) -> str:
        return "; ".join(
            f"{name}: ECE {found.ece:.4g}, Brier {found.brier:.4g}" for name, found in self.per_expert.items()
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the reliability curve of every expert."""
        from defer.evaluation.deferral.plots import plot_readout

        return plot_readout(self, ax)


def readout_calibration(
    probability: ArrayLike,
    right: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    n_bins: int = 10,
    level: float = 0.95,
) -> ReadoutCalibration:
    """Compare the predicted probability that each expert is right with how often it was.

    Read-outs are compared as they are, above 1 too.  What is seen are the queries on which an expert was asked: where that
    depended on more than the query, calibration on them says nothing about the others.

    Parameters
    ----------
    probability : array of shape (n, J)
        Read-outs of a fitted model on queries that it was not fitted on.
    right : array of shape (n, J)
        1 where the expert was right, 0 where wrong, NaN where not asked.
    names : sequence of J names, optional
    n_bins : int, default=10
        Bins of equal count.
    level : float in (0, 1), default=0.95
        Of the intervals of the accuracies.

    Raises
    ------
    EvaluationError
        If shapes differ, a read-out is not finite, `right` holds anything but 0, 1 and NaN, or nobody was asked.

    Examples
    --------
    >>> found = readout_calibration([[0.9, 0.5], [0.7, 1.2], [0.5, 0.7]], [[1, np.nan], [1, 1], [0, 1]])
    >>> for row in found.frame.iter_rows(named=True):
    ...     print(row["expert"], row["answers"], round(row["accuracy"], 3), round(row["above_one"], 3))
    expert 1 3 0.667 0.0
    expert 2 2 1.0 0.5
    """
    table = finite_table("probability", probability)
    graded = numbers_of("right", right)
    if graded.shape != table.shape:
        raise EvaluationError(f"right must have the shape of probability, {table.shape}, got {graded.shape}")
    strange = np.argwhere(~(np.isnan(graded) | np.isin(graded, (0.0, 1.0))))
    if len(strange):
        row, column = strange[0]
        raise EvaluationError(
            f"right has {len(strange)} of {graded.size} values that are neither 0, 1 nor NaN, the first in row {row}, "
            f"column {column} ({graded[row, column]:g})"
        )
    z, per_expert, rows = float(norm.ppf((1.0 + check_level(level)) / 2.0)), {}, []
    for index, name in enumerate(arm_names(names, table.shape[1], own=False)):
        seen = np.isfinite(graded[:, index])
        if not seen.any():
            continue
        p, answers = table[seen, index], graded[seen, index]
        found = calibration(p[:, None], answers[:, None], n_bins=n_bins)
        per_expert[name] = found
        accuracy, count = float(answers.mean()), len(answers)
        low, high = wilson_interval(accuracy, count, z=z)
        rows.append(
            (name, count, p.mean(), accuracy, low, high, found.ece, found.brier, found.base_brier, (p > 1.0).mean())
        )
    if not rows:
        raise EvaluationError(f"no answer of any of the {table.shape[1]} experts was observed")
    columns = dict(zip(_COLUMNS, map(list, zip(*rows, strict=True)), strict=True))
    return ReadoutCalibration(per_expert, nw.from_dict(columns, backend="pyarrow"))


_COLUMNS = (
    "expert", "answers", "mean_probability", "accuracy", "accuracy_low", "accuracy_high", "ece", "brier", "base_brier",
    "above_one",
)  # fmt: skip
