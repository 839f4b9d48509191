"""What a probability to suffice is worth in quality: the gap to the strong arm as a line in the probability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defer.estimators.base import column_means

__all__ = ["GapScale"]

Floats = NDArray[np.float64]

# Where probabilities say nothing of quality, or the reverse, they still order queries, at next to no price.
_LEAST_SLOPE = 1e-9


@dataclass(frozen=True, eq=False)
class GapScale:
    """quality = mean_quality + slope * (probability - mean_probability) for every arm.

    Attributes
    ----------
    strong : int
        The arm that the others are measured against; its quality is its mean.
    mean_quality, mean_probability : arrays of shape (m,)
        Over the training queries.
    slope : array of shape (m,)
        > 0; quality per unit of probability, and 0 for the strong arm.

    Examples
    --------
    >>> probability, quality = np.array([[0.2, 1.0], [0.8, 1.0]]), np.array([[0.0, 0.9], [0.9, 0.9]])
    >>> scale = GapScale.fit(probability, quality, quality.mean(axis=0), np.ones(2), np.ones(2), strong=1)
    >>> scale.quality(probability).round(6).tolist(), scale.crossing(0.0).round(3).tolist()
    ([[0.0, 0.9], [0.9, 0.9]], [0.8, nan])
    """

    strong: int
    mean_quality: Floats
    mean_probability: Floats
    slope: Floats

    @classmethod
    def fit(
        cls, probability: Floats, quality: Floats, mean_quality: Floats, weight: Floats, sample: Floats, *, strong: int
    ) -> GapScale:
        """Least squares of the gap to the strong arm on the probability, over the queries on which both arms were observed.

        Parameters
        ----------
        probability : array of shape (n, m)
            Of queries that it was not fitted on: what remembers its queries makes the slope too steep.
        quality : array of shape (n, m), NaN = not observed
        mean_quality : array of shape (m,)
        weight : array of shape (n,)
            Of what was observed of a query.
        sample : array of shape (n,)
            Of the query itself.
        strong : int
        """
        gap = quality - quality[:, [strong]]
        both = np.where(np.isfinite(gap), weight[:, None], 0.0)
        gap = np.where(both > 0, gap, 0.0)
        total = np.maximum(both.sum(axis=0), np.finfo(float).tiny)
        away = probability - (both * probability).sum(axis=0) / total
        beyond = gap - (both * gap).sum(axis=0) / total
        variance, covariance = (both * away**2).sum(axis=0), (both * away * beyond).sum(axis=0)
        # Probabilities that differ by rounding alone are one.
        slope = covariance / np.where(variance > 1e-18 * total, variance, np.inf)
        slope = np.maximum(slope, _LEAST_SLOPE * (float(np.nanmax(np.abs(quality))) or 1.0))
        slope[strong] = 0.0
        return cls(strong, mean_quality, column_means(probability, sample, probability.shape[1]), slope)

    def quality(self, probability: Floats | float) -> Floats:
        """Quality of every arm at probabilities that broadcast to (n, m)."""
        return self.mean_quality + self.slope * (probability - self.mean_probability)

    def crossing(self, allowed: Floats | float) -> Floats:
        """Probability at which each arm is worse than the strong one by what is allowed, shape (m,); NaN for that itself."""
        lead = self.mean_quality - self.mean_quality[self.strong] + allowed
        slope = np.where(self.slope > 0, self.slope, np.nan)
        return self.mean_probability - lead / slope
