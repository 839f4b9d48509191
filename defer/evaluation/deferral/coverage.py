"""Coverage and accuracy of the own prediction: how right it is on the queries that it is most confident of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from defer.evaluation.deferral.arrays import check_level, finite_column, unit_column
from defer.evaluation.intervals import wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["CoverageAccuracy", "coverage_accuracy"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CoverageAccuracy:
    """Accuracy on the queries that the system keeps, for every confidence threshold.

    Parameters
    ----------
    threshold : array of shape (p,)
        Confidence from which queries are kept, falling.
    coverage : array of shape (p,)
        Share of the queries that are kept, rising to 1.
    accuracy, low, high : arrays of shape (p,)
        Accuracy on them, with Wilson's interval for each threshold by itself: a threshold that was chosen from this table needs
        other data for its accuracy.

    Examples
    --------
    >>> found = coverage_accuracy([0.9, 0.8, 0.8, 0.6], [1, 1, 0, 0])
    >>> isinstance(found, CoverageAccuracy), found.coverage.tolist(), found.accuracy.round(3).tolist()
    (True, [0.25, 0.75, 1.0], [1.0, 0.667, 0.5])
    """

    threshold: Floats = field(repr=False)
    coverage: Floats = field(repr=False)
    accuracy: Floats = field(repr=False)
    low: Floats = field(repr=False)
    high: Floats = field(repr=False)

    def __repr__(self) -> str:
        return f"CoverageAccuracy({len(self.threshold)} thresholds, accuracy {self.accuracy[-1]:.4g} at full coverage)"

    @property
    def frame(self) -> nw.DataFrame[Any]:
        """Row per threshold."""
        names = ("threshold", "coverage", "accuracy", "low", "high")
        return nw.from_dict({name: getattr(self, name) for name in names}, backend="pyarrow")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw accuracy against coverage with its intervals."""
        from defer.evaluation.deferral.plots import plot_coverage

        return plot_coverage(self, ax)


def coverage_accuracy(confidence: ArrayLike, right: ArrayLike, *, level: float = 0.95) -> CoverageAccuracy:
    """Accuracy of the own prediction on the most confident queries; equal confidences are kept together.

    Parameters
    ----------
    confidence : array of shape (n,)
    right : array of shape (n,), in [0, 1]
        Whether the own prediction is right, or how good it is.
    level : float in (0, 1), default=0.95

    Raises
    ------
    EvaluationError
        If the arrays are not of one length or are empty, a confidence is not finite, or `right` is outside [0, 1], or
        `level` outside (0, 1).

    Examples
    --------
    >>> found = coverage_accuracy([0.9, 0.8, 0.8, 0.6], [1, 1, 0, 0])
    >>> found.threshold.tolist()
    [0.9, 0.8, 0.6]
    """
    scores = finite_column("confidence", confidence)
    order = np.argsort(-scores, kind="stable")
    ranked, graded = scores[order], unit_column("right", right, len(scores))[order]
    last = np.flatnonzero(np.concatenate((ranked[1:] != ranked[:-1], [True])))
    count = last + 1
    # Sums of values in [0, 1] may round to a mean above 1.
    accuracy = np.minimum(np.cumsum(graded)[last] / count, 1.0)
    z = float(norm.ppf((1.0 + check_level(level)) / 2.0))
    ends = np.array([wilson_interval(float(mean), int(n), z=z) for mean, n in zip(accuracy, count, strict=True)])
    return CoverageAccuracy(ranked[last], count / len(scores), accuracy, ends[:, 0], ends[:, 1])
