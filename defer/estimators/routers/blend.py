"""Blending the predictions of several routers: few weights, none below zero, learned on queries that the routers did not see.

What decides between arms is how far an arm lies from the mean arm of a query, and what a quality target needs is how good
that mean arm is: each has weights of its own.  Source: stacked regressions (Breiman 1996), whose weights are not negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

__all__ = ["Blend"]

Floats = NDArray[np.float64]
Index = NDArray[np.intp]

# Relative to the squares of the outcomes: members whose predictions differ from the arms' means by rounding alone get no weight.
_ROUNDING = 1e-24

# Penalty in units of the mean square of the outcomes, spread over the queries: it settles ties between like members.
_PENALTY = 1e-3


@dataclass(frozen=True, eq=False)
class Blend:
    """arm mean + weighted sum of what members predict beyond the arm means.

    Attributes
    ----------
    arm_mean : array of shape (m,)
    between : array of shape (K,)
        Weight of every member in the differences between arms.
    level : array of shape (K,)
        Weight of every member in the mean over the arms of a query.

    Examples
    --------
    >>> truth = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    >>> blend = Blend.fit([0.5 * truth + 0.25, np.full((4, 2), 0.5)], truth, None)
    >>> blend.between.round(1).tolist()
    [2.0, 0.0]
    """

    arm_mean: Floats
    between: Floats
    level: Floats

    @classmethod
    def fit(
        cls, predicted: Sequence[Floats], observed: Floats, weight: Floats | None, *, unit: Floats | None = None
    ) -> Blend:
        """Least squares with weights >= 0.

        Parameters
        ----------
        predicted : K arrays of shape (n, m)
            Out of fold.
        observed : array of shape (n, m), NaN = not observed
            Where gaps are left in most rows, by weight, differences between arms cannot be seen, and both kinds of weights are the same.
        weight : array of shape (n,) or None
        unit : array of shape (m,), optional
            Errors of every arm count in its unit.  The mean over arms of different units says nothing of the cheap ones, so
            both kinds of weights are the same.
        """
        seen = np.isfinite(observed)
        mass = np.ones(len(observed)) if weight is None else weight
        count = mass @ seen
        arm_mean = (mass @ np.where(seen, observed, 0.0)) / np.where(count > 0, count, 1.0)
        scale = np.ones(observed.shape[1]) if unit is None else 1.0 / unit
        target = np.where(seen, observed - arm_mean, 0.0) * scale
        least = _ROUNDING * float(np.sum(mass[:, None] * np.where(seen, observed * scale, 0.0) ** 2))
        beyond = [np.where(seen, table - arm_mean, 0.0) * scale for table in predicted]
        whole = seen.all(axis=1)
        if unit is not None or observed.shape[1] == 1 or mass @ whole < 0.5 * mass.sum():
            both = _weights(
                [table.ravel() for table in beyond], target.ravel(), np.repeat(mass, observed.shape[1]), least
            )
            return cls(arm_mean, both, both)
        rows = mass[whole]
        targets = _split(target[whole])
        parts = [_split(table[whole]) for table in beyond]
        between = _weights(
            [part[0].ravel() for part in parts], targets[0].ravel(), np.repeat(rows, observed.shape[1]), least
        )
        level = _weights([part[1] for part in parts], targets[1], rows, least)
        return cls(arm_mean, between, level)

    def apply(self, predicted: Sequence[Floats | None]) -> Floats:
        """Blended predictions, shape (n, m); members without weight may be None.

        Parameters
        ----------
        predicted : K arrays of shape (n, m) or None
        """
        first = next(table for table in predicted if table is not None)
        total = np.broadcast_to(self.arm_mean, first.shape).copy()
        for table, between, level in zip(predicted, self.between, self.level, strict=True):
            if table is not None and (between or level):
                apart, mean = _split(table - self.arm_mean)
                total += between * apart + level * mean[:, None]
        return total

    def cross_fitted(
        self,
        predicted: Sequence[Floats],
        observed: Floats,
        weight: Floats | None,
        parts: Sequence[tuple[Index, Index]],
        *,
        unit: Floats | None = None,
    ) -> Floats:
        """Blended predictions of every query by weights that its own outcome had no part in, shape (n, m).

        Judged on the outcomes that they were fitted to, weights look better than they are.  The arms' means stay those of this
        blend: a constant orders no queries, while the means of the other folds would order folds against their outcomes.

        Parameters
        ----------
        predicted, observed, weight, unit
            What this blend was fitted to.
        parts : list of (train, test)
            Those by which `predicted` was made; every query is in one test part.

        Examples
        --------
        >>> truth = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> predicted = [0.5 * truth + 0.25]
        >>> parts = [(np.array([0, 1]), np.array([2, 3])), (np.array([2, 3]), np.array([0, 1]))]
        >>> Blend.fit(predicted, truth, None).cross_fitted(predicted, truth, None, parts).round(1).tolist()
        [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
        """
        table = np.empty(observed.shape)
        for train, test in parts:
            mass = None if weight is None else weight[train]
            other = Blend.fit([part[train] for part in predicted], observed[train], mass, unit=unit)
            table[test] = replace(other, arm_mean=self.arm_mean).apply([part[test] for part in predicted])
        return table

    @property
    def used(self) -> NDArray[np.bool_]:
        """Which members have weight, shape (K,)."""
        return (self.between > 0) | (self.level > 0)


def _split(table: Floats) -> tuple[Floats, Floats]:
    mean = table.mean(axis=1)
    return table - mean[:, None], mean


def _weights(columns: list[Floats], target: Floats, mass: Floats, least: float) -> Floats:
    """Weights >= 0 of least squared error, from the normal equations: memory does not grow with the outcomes."""
    K = len(columns)
    gram, moment = np.empty((K, K)), np.empty(K)
    for i, column in enumerate(columns):
        weighed = mass * column
        moment[i] = weighed @ target
        for j in range(i + 1):
            gram[i, j] = gram[j, i] = weighed @ columns[j]
    size = float(np.trace(gram)) / K
    if size <= least:
        return np.zeros(K)
    gram[np.diag_indices(K)] += _PENALTY * size
    root = np.linalg.cholesky(gram).T
    return nnls(root, np.linalg.solve(root.T, moment))[0]
