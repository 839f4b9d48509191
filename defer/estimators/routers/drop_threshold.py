"""Thresholds of a router between a small and a large arm, and what each saves and loses.

A query goes to the small arm where its score reaches the threshold.  Cost advantage is the share of queries that do;
quality drop is the loss of mean quality against sending all of them to the large arm, in per cent of the latter.
Source: Hybrid LLM (Ding et al., ICLR 2024, arXiv 2404.14618).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.exceptions import RouterInputError

__all__ = ["ThresholdPoint", "ThresholdTable", "check_drop", "threshold_for_drop", "threshold_table"]

Floats = NDArray[np.float64]

# Means are exact to about this much, relative to the qualities; a smaller loss is none.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class ThresholdPoint:
    """One row of a `ThresholdTable`.

    Attributes
    ----------
    threshold : float
        -inf sends every query to the small arm, inf none.
    cost_advantage : float
        Share of the queries that the small arm takes.
    quality : float
        Mean quality of the mixture.
    drop : float
        In per cent of the large arm's mean quality; below 0 where the mixture is better.
    """

    threshold: float
    cost_advantage: float
    quality: float
    drop: float


@dataclass(frozen=True, eq=False)
class ThresholdTable:
    """Every way to split queries by their score, from all at the small arm to all at the large one.

    Attributes
    ----------
    threshold : array of shape (k,)
        Rising: -inf ("always"), every distinct score, of which the least takes all these queries too, and inf ("never").
    cost_advantage, quality, drop : arrays of shape (k,)
        See `ThresholdPoint`.

    Examples
    --------
    >>> table = threshold_table([0.9, 0.9, 0.2], [1.0, 0.5, 0.0], [1.0, 1.0, 1.0])
    >>> [point.threshold for point in table], table.cost_advantage.round(3).tolist()
    ([-inf, 0.2, 0.9, inf], [1.0, 1.0, 0.667, 0.0])
    >>> round(table.at(0.5).drop, 3)
    16.667
    """

    threshold: Floats
    cost_advantage: Floats
    quality: Floats
    drop: Floats

    def __len__(self) -> int:
        return len(self.threshold)

    def __iter__(self) -> Iterator[ThresholdPoint]:
        return (self._point(row) for row in range(len(self)))

    def at(self, threshold: float) -> ThresholdPoint:
        """What a threshold does, whether it is one of the table's or lies between two."""
        row = int(np.searchsorted(self.threshold, threshold))
        point = self._point(min(row, len(self) - 1))
        return ThresholdPoint(float(threshold), point.cost_advantage, point.quality, point.drop)

    def for_drop(self, drop: float) -> ThresholdPoint:
        """Smallest threshold, hence largest cost advantage, whose drop is at most `drop` per cent.

        Parameters
        ----------
        drop : float, >= 0

        Raises
        ------
        RouterInputError
            If `drop` is no number >= 0.
        """
        check_drop("for_drop", drop)
        # Sending nothing to the small arm drops nothing, so there is always one.
        return self._point(int(np.argmax(self.drop <= drop * (1.0 + _ROUNDING) + _ROUNDING)))

    def _point(self, row: int) -> ThresholdPoint:
        return ThresholdPoint(
            float(self.threshold[row]), float(self.cost_advantage[row]), float(self.quality[row]), float(self.drop[row])
        )


def threshold_table(
    score: ArrayLike, small: ArrayLike, large: ArrayLike, *, weight: ArrayLike | None = None
) -> ThresholdTable:
    """Cost advantage, quality and drop at every threshold, on queries whose outcomes are known.

    Parameters
    ----------
    score : array of shape (n,)
        High where the small arm is to take the query; of queries that the router was not fitted on.
    small, large : arrays of shape (n,)
        Quality of both arms.
    weight : array of shape (n,), optional
        >= 0, not all 0.

    Returns
    -------
    ThresholdTable
        Queries of equal score move together.

    Raises
    ------
    RouterInputError
        If shapes differ, nothing is given, a value is not finite, or a weight is negative.

    Notes
    -----
    The drop is relative to the absolute mean quality of the large arm, so that qualities below 0, such as log-likelihoods,
    have a drop of the right sign.  Where that mean is 0 any loss is an infinite drop.  Only an empirical statement: for one with a
    confidence see `defer.portfolios.RiskLevel`.

    Examples
    --------
    >>> threshold_table([0.7, 0.4], [-2.0, -4.0], [-2.0, -2.0]).drop.tolist()
    [50.0, 50.0, 0.0, 0.0]
    """
    names = ("score", "small", "large", "weight")
    given = (score, small, large, np.ones(np.shape(score)) if weight is None else weight)
    values, low, high, mass = (_finite(name, table) for name, table in zip(names, given, strict=True))
    if not (values.shape == low.shape == high.shape == mass.shape):
        raise RouterInputError(
            f"threshold_table: score, small, large and weight need one shape (n,), got {values.shape}, {low.shape}, "
            f"{high.shape} and {mass.shape}"
        )
    if (mass < 0).any() or not mass.any():
        raise RouterInputError("threshold_table: weight must be >= 0, and above 0 somewhere")
    counted = mass > 0
    values, low, high, mass = values[counted], low[counted], high[counted], mass[counted] / mass.sum()
    order = np.argsort(values, kind="stable")
    ranked, mass, gap = values[order], mass[order], (low - high)[order]
    first = np.flatnonzero(np.diff(ranked, prepend=-np.inf) > 0)
    # Sums from above, so that the end where all is left to the large arm is exact.
    rows = np.concatenate(([0], first))
    share = np.append(np.cumsum(mass[::-1])[::-1][rows], 0.0)
    gain = np.append(np.cumsum((mass * gap)[::-1])[::-1][rows], 0.0)
    share[:2] = 1.0
    at_large = float(mass @ high[order])
    scale = max(float(np.abs(low).max()), float(np.abs(high).max()))
    gain = np.where(np.abs(gain) <= _ROUNDING * scale, 0.0, gain)
    threshold = np.concatenate(([-np.inf], ranked[first], [np.inf]))
    return ThresholdTable(threshold, share, at_large + gain, _per_cent(-gain, abs(at_large), scale))


def threshold_for_drop(
    score: ArrayLike, small: ArrayLike, large: ArrayLike, *, drop: float, weight: ArrayLike | None = None
) -> float:
    """Smallest threshold whose quality drop is at most `drop` per cent.

    Parameters
    ----------
    score, small, large, weight
        As for `threshold_table`.
    drop : float, >= 0
        In per cent; 1 is what the source asks for.

    Returns
    -------
    float
        -inf where all queries may go to the small arm, inf where none.

    Raises
    ------
    RouterInputError
        If `drop` is no number >= 0, or as for `threshold_table`.

    Examples
    --------
    >>> threshold_for_drop([0.9, 0.6, 0.2], [1.0, 0.9, 0.0], [1.0, 1.0, 1.0], drop=5.0)
    0.6
    """
    check_drop("threshold_for_drop", drop)
    return threshold_table(score, small, large, weight=weight).for_drop(drop).threshold


def check_drop(owner: str, drop: Any) -> None:
    """Raise RouterInputError unless a drop is a finite number >= 0."""
    if not isinstance(drop, Real) or isinstance(drop, bool) or not 0.0 <= float(drop) < math.inf:
        raise RouterInputError(f"{owner}: a quality drop must be a finite number of per cent >= 0, got {drop!r}")


def _per_cent(loss: Floats, whole: float, scale: float) -> Floats:
    if whole > _ROUNDING * scale:
        return 100.0 * loss / whole + 0.0
    return np.where(loss == 0.0, 0.0, np.copysign(np.inf, loss))


def _finite(name: str, values: ArrayLike) -> Floats:
    try:
        table = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise RouterInputError(f"threshold_table: {name} must be numbers") from None
    if table.ndim != 1 or not len(table):
        raise RouterInputError(f"threshold_table: {name} must have shape (n,) with n >= 1, got {table.shape}")
    wrong = np.flatnonzero(~np.isfinite(table))
    if len(wrong):
        raise RouterInputError(
            f"threshold_table: {name} has {len(wrong)} values that are not finite, the first in row {wrong[0]} ({table[wrong[0]]}); "
            "give the queries on which both arms were observed"
        )
    return table
