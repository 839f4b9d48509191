"""Who answers what, and how well: accuracy of the system and of its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from defer.evaluation.deferral.arrays import arm_index, arm_names, check_level, numbers_of, unit_column
from defer.evaluation.intervals import Interval, mean_interval, wilson_interval
from defer.exceptions import EvaluationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SystemAccuracy", "system_accuracy"]


@dataclass(frozen=True, eq=False)
class SystemAccuracy:
    """Accuracy of a system that answers some queries itself and defers the others.

    Parameters
    ----------
    accuracy : Interval
        Of the system, by Wilson.
    gain : Interval
        Accuracy of the system less that of the own prediction on all queries: paired, so narrower than either.
    frame : narwhals frame
        Row per arm and one for the system: number of `queries`, `share`, `accuracy` on them with interval `low`, `high`, and
        `own_accuracy`, that of the own prediction on the same queries.  NaN where an arm took none.

    Examples
    --------
    >>> found = system_accuracy([0, 1], [1, 0], [0, 1])
    >>> isinstance(found, SystemAccuracy), found.accuracy.value, found.gain.value
    (True, 1.0, 0.5)
    """

    accuracy: Interval
    gain: Interval
    frame: nw.DataFrame[Any] = field(repr=False)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the accuracy of each arm on what it took, beside that of the own prediction there."""
        from defer.evaluation.deferral.plots import plot_system

        return plot_system(self, ax)


def system_accuracy(
    arm: ArrayLike,
    own_right: ArrayLike,
    expert_right: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    level: float = 0.95,
) -> SystemAccuracy:
    """Accuracy of every arm on the queries it took, and of the system.

    Parameters
    ----------
    arm : int array of shape (n,)
        0 where the system answers itself, j where it defers to expert j.
    own_right : array of shape (n,), in [0, 1]
        Whether the own prediction is right, on all queries.
    expert_right : array of shape (n,) or (n, J), in [0, 1]
        The same for the experts; it may be NaN where the query does not go to that expert.
    names : sequence of 1 + J names, optional
    level : float in (0, 1), default=0.95

    Raises
    ------
    EvaluationError
        If the arrays do not fit together, a value is outside [0, 1], the answer of an expert to whom a query goes is missing, or
        `level` is outside (0, 1).

    Examples
    --------
    >>> found = system_accuracy([0, 0, 1, 1], own_right=[1, 0, 0, 1], expert_right=[0, np.nan, 1, 1])
    >>> for row in found.frame.iter_rows(named=True):
    ...     print(f"{row['arm']:<9} {row['share']:.2f} {row['accuracy']:.2f} {row['own_accuracy']:.2f}")
    own       0.50 0.50 0.50
    expert    0.50 1.00 0.50
    system    1.00 0.75 0.50
    """
    own = unit_column("own_right", own_right)
    experts = numbers_of("expert_right", expert_right)
    experts = experts[:, None] if experts.ndim == 1 else experts
    if experts.ndim != 2 or len(experts) != len(own) or not experts.shape[1]:
        raise EvaluationError(f"expert_right must have shape ({len(own)},) or ({len(own)}, J), got {experts.shape}")
    labels = arm_names(names, experts.shape[1])
    arms = arm_index("arm", arm, len(own), len(labels))
    answered = np.column_stack((own, experts))[np.arange(len(own)), arms]
    missing = np.flatnonzero(np.isnan(answered))
    if len(missing):
        raise EvaluationError(
            f"{len(missing)} of {len(own)} queries go to an expert whose answer is missing, the first is row {missing[0]} "
            f"({labels[arms[missing[0]]]}); leave them out, or estimate the value with defer.evaluate on an OutcomeLog"
        )
    right = unit_column("answers of the arms taken", answered)
    z, rows = float(norm.ppf((1.0 + check_level(level)) / 2.0)), []
    for index, name in enumerate((*labels, "system")):
        taken = arms == index if index < len(labels) else np.ones(len(own), dtype=bool)
        n = int(taken.sum())
        mean = float(right[taken].mean()) if n else float("nan")
        low, high = wilson_interval(mean, n, z=z) if n else (float("nan"), float("nan"))
        rows.append((name, n, n / len(own), mean, low, high, float(own[taken].mean()) if n else float("nan")))
    columns = ("arm", "queries", "share", "accuracy", "low", "high", "own_accuracy")
    frame = nw.from_dict(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True)), backend="pyarrow")
    return SystemAccuracy(Interval(*rows[-1][3:6]), mean_interval(right - own, None, level), frame)
