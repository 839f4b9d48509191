"""Probability that is left on wrong labels: what the one-shot loss asks for, and what a fitted model has.

Source: "Post-hoc estimators for learning to defer to an expert" (Narasimhan et al., 2022): with a price of deferral, cost-sensitive
softmax smooths the labels wherever the expert is wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.evaluation.deferral.arrays import arm_index, check_level, finite_table
from defer.evaluation.intervals import Interval, mean_interval
from defer.exceptions import EvaluationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["WrongLabelMass", "smoothing_mass", "wrong_label_mass"]

Floats = NDArray[np.float64]


def smoothing_mass(n_classes: int, cost: float) -> float:
    """Share of the training weight that cost-sensitive softmax puts on wrong labels where the expert is wrong.

    There the largest cost is 1 + c, so that the label weighs 1 + c, each wrong label c, and deferral nothing:
    (K - 1) c / (1 + c + (K - 1) c).

    Parameters
    ----------
    n_classes : int
        K.
    cost : float
        c >= 0, the price of deferral in units of errors.

    Raises
    ------
    EvaluationError
        If there is no class, or the price is negative or not finite.

    Examples
    --------
    >>> round(smoothing_mass(10, 0.2), 6), round(smoothing_mass(10, 0.05), 6), round(smoothing_mass(100, 0.2), 6)
    (0.6, 0.3, 0.942857)
    """
    if n_classes < 1:
        raise EvaluationError(f"n_classes must be at least 1, got {n_classes!r}")
    if not (math.isfinite(cost) and cost >= 0):
        raise EvaluationError(f"cost must be a finite price >= 0 in units of errors, got {cost!r}")
    wrong = (n_classes - 1) * cost
    return wrong / (1.0 + cost + wrong)


@dataclass(frozen=True, eq=False)
class WrongLabelMass:
    """Probability of a fitted model on labels other than the true one.

    Parameters
    ----------
    mass : array of shape (n,)
        1 less the probability of the true label.
    if_calibrated : array of shape (n,)
        What it would be on average if the probabilities were true: 1 less the sum of their squares.
    y : int array of shape (n,)
        Labels.
    mean : Interval
        Of `mass`.
    excess : Interval
        Of ``if_calibrated - mass``: above 0 the model is less sure than it is right, which is how underfitting and label smoothing
        look; below 0 it is overconfident.

    Examples
    --------
    >>> found = wrong_label_mass([[0.6, 0.4], [0.6, 0.4]], [0, 0])
    >>> isinstance(found, WrongLabelMass), round(found.excess.value, 3)
    (True, 0.08)
    """

    mass: Floats = field(repr=False)
    if_calibrated: Floats = field(repr=False)
    y: NDArray[np.intp] = field(repr=False)
    mean: Interval
    excess: Interval

    @property
    def frame(self) -> nw.DataFrame[Any]:
        """Row per true label: number of queries, mean mass on other labels, and the same if the model were calibrated."""
        labels, index, count = np.unique(self.y, return_inverse=True, return_counts=True)
        means = {name: np.bincount(index, weights=getattr(self, name)) / count for name in ("mass", "if_calibrated")}
        return nw.from_dict({"label": labels, "queries": count, **means}, backend="pyarrow")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw how the mass on wrong labels is distributed over the queries."""
        from defer.evaluation.deferral.plots import plot_wrong_label_mass

        return plot_wrong_label_mass(self, ax)


def wrong_label_mass(class_probability: ArrayLike, y: ArrayLike, *, level: float = 0.95) -> WrongLabelMass:
    """Underfitting of a fitted model: mean probability on labels other than the true one.

    Example of the source: eta = (.5, .3, .2), an expert right with probability .9, .2, .1 given the label, and price .2.  The
    population optimum of cost-sensitive softmax has class read-outs (.463339, .307332, .229329): flattened, so that the mass
    on wrong labels rises from 1 - sum of eta squared = .62 to .630265, though the decision is still the best one.  The defect is that of
    finite samples: much of the gradient goes into wrong labels, see `smoothing_mass`.

    Parameters
    ----------
    class_probability : array of shape (n, K)
        Of a fitted model; rows sum to 1.
    y : int array of shape (n,)
        True labels 0 to K - 1, on queries that the model was not fitted on.
    level : float in (0, 1), default=0.95

    Raises
    ------
    EvaluationError
        If rows are no probabilities, or `y` does not fit.

    Examples
    --------
    >>> found = wrong_label_mass([[0.9, 0.1], [0.4, 0.6]], [0, 1])
    >>> found.mass.round(3).tolist(), round(found.mean.value, 3)
    ([0.1, 0.4], 0.25)
    """
    check_level(level)
    p = finite_table("class_probability", class_probability)
    total = p.sum(axis=1)
    wrong = np.flatnonzero((p < 0).any(axis=1) | (np.abs(total - 1.0) > 1e-6))
    if len(wrong):
        raise EvaluationError(
            f"class_probability has {len(wrong)} of {len(p)} rows that are no probabilities, the first is row {wrong[0]} "
            f"(least {p[wrong[0]].min():g}, sum {total[wrong[0]]:g}); divide rows by their sum"
        )
    labels = arm_index("y", y, *p.shape)
    mass, calibrated = 1.0 - p[np.arange(len(p)), labels], 1.0 - (p**2).sum(axis=1)
    means = mean_interval(mass, None, level), mean_interval(calibrated - mass, None, level)
    return WrongLabelMass(mass, calibrated, labels, *means)
