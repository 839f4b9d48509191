"""How well predicted quality matches realised quality: reliability curve, expected calibration error, Brier score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.exceptions import EvaluationError

__all__ = ["Calibration", "calibration"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """Calibration of predicted quality over all observed (query, arm) pairs.

    Attributes
    ----------
    predicted, realised : arrays of shape (b,)
        Means in bins of equal count.
    count : int array of shape (b,)
    ece : float
        Expected calibration error: mean absolute difference of the two, weighted by count.
    brier : float
        Mean squared error of the prediction.
    base_brier : float
        That of predicting the overall mean: a router that knows nothing of the query.
    per_arm : dict of arm name to (ece, brier)
    """

    predicted: Floats
    realised: Floats
    count: NDArray[np.intp]
    ece: float
    brier: float
    base_brier: float
    per_arm: dict[str, tuple[float, float]]

    @property
    def frame(self) -> nw.DataFrame[Any]:
        """Row per bin."""
        return nw.from_dict(
            {"predicted": self.predicted, "realised": self.realised, "count": self.count}, backend="pyarrow"
        )


def calibration(
    predicted: ArrayLike,
    quality: ArrayLike,
    *,
    arms: tuple[str, ...] = (),
    n_bins: int = 10,
    weight: ArrayLike | None = None,
) -> Calibration:
    """Compare predicted with realised quality.

    Parameters
    ----------
    predicted, quality : arrays of shape (n, m)
        Pairs with NaN quality are left out.
    arms : tuple of m names, optional
        Given, every arm is described by itself too.
    n_bins : int, default=10
        Bins of equal count; equal predictions share a bin.
    weight : array of shape (n,), optional
        Of the rows: one over the propensity where a logging policy chose which pairs were observed.

    Raises
    ------
    EvaluationError
        If shapes differ, nothing was observed, or the prediction of an observed pair is not finite.

    Examples
    --------
    >>> round(calibration([[0.5, 1.0]], [[0.0, 1.0]]).brier, 3)
    0.125
    """
    table, values = np.asarray(predicted, dtype=np.float64), np.asarray(quality, dtype=np.float64)
    if table.shape != values.shape or table.ndim != 2:
        raise EvaluationError(f"predicted and quality must have one shape (n, m), got {table.shape} and {values.shape}")
    if arms and len(arms) != table.shape[1]:
        raise EvaluationError(f"{len(arms)} names of arms for {table.shape[1]} columns")
    if n_bins < 1:
        raise EvaluationError(f"n_bins must be at least 1, got {n_bins!r}")
    seen = np.isfinite(values)
    if not seen.any():
        raise EvaluationError("no quality was observed")
    wrong = np.argwhere(seen & ~np.isfinite(table))
    if len(wrong):
        raise EvaluationError(
            f"predicted is not finite for {len(wrong)} observed pairs, the first in row {wrong[0, 0]}, arm {wrong[0, 1]}"
        )
    mass = np.ones(len(table)) if weight is None else np.asarray(weight, dtype=np.float64)
    if mass.shape != (len(table),) or not (np.isfinite(mass).all() and (mass >= 0).all() and mass.any()):
        raise EvaluationError(
            f"weight must be {len(table)} finite numbers >= 0 that are not all 0, got shape {mass.shape}"
        )
    p, q, w = table[seen], values[seen], np.broadcast_to(mass[:, None], table.shape)[seen]
    bins, ece = _bins(p, q, w, n_bins)
    per_arm = {}
    for index, arm in enumerate(arms):
        rows = seen[:, index] & (mass > 0)
        if rows.any():
            x, y, v = table[rows, index], values[rows, index], mass[rows]
            per_arm[arm] = (_bins(x, y, v, n_bins)[1], float(np.average((x - y) ** 2, weights=v)))
    base = float(np.average((np.average(q, weights=w) - q) ** 2, weights=w))
    return Calibration(*bins, ece, float(np.average((p - q) ** 2, weights=w)), base, per_arm)


def _bins(p: Floats, q: Floats, w: Floats, n_bins: int) -> tuple[tuple[Floats, Floats, NDArray[np.intp]], float]:
    edges = np.unique(np.quantile(p, np.linspace(0, 1, n_bins + 1)[1:-1]))
    index = np.searchsorted(edges, p)
    count = np.bincount(index, minlength=len(edges) + 1)
    mass = np.bincount(index, weights=w, minlength=len(count))
    kept = mass > 0
    mean_p = np.bincount(index, weights=p * w, minlength=len(count))[kept] / mass[kept]
    mean_q = np.bincount(index, weights=q * w, minlength=len(count))[kept] / mass[kept]
    ece = float((np.abs(mean_p - mean_q) * mass[kept]).sum() / mass.sum())
    return (mean_p, mean_q, count[kept]), ece
