"""Mean outcomes of arms in clusters of queries, shrunk where few were seen, and extended by one arm at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from defer.estimators.base import column_means

__all__ = ["ClusterMeans", "members", "seen_means"]

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class ClusterMeans:
    """Mean outcome of every arm in every cluster, shrunk towards a starting point.

    Attributes
    ----------
    value : array of shape (m, M)
    count : array of shape (m, M)
        Number of outcomes, by weight.
    difficulty : array of shape (M,)
        What an arm gains in a cluster over its level, on average over the arms of the fit; zeros where arms start from their
        own mean.
    prior : float
        Outcomes that the starting point counts for.
    level, level_count : float
        Level of the arms of the fit, and how many outcomes of an added arm it counts for.
    low, high : float
        Range of the outcomes of the fit, which a starting point does not leave.

    Examples
    --------
    >>> means = ClusterMeans.fit(
    ...     np.array([[1.0], [0.0], [0.0]]), np.array([0, 1, 1]), n_clusters=3, prior=0.0, by_difficulty=False
    ... )
    >>> means.value.round(6).tolist()
    [[1.0, 0.0, 0.333333]]
    >>> means.with_arm(np.array([0.5]), np.array([1])).value[1].tolist()
    [0.5, 0.5, 0.5]
    """

    value: Floats
    count: Floats
    difficulty: Floats
    prior: float
    level: float
    level_count: float
    low: float
    high: float

    @classmethod
    def fit(
        cls,
        table: Floats,
        label: Ints,
        *,
        n_clusters: int,
        prior: float,
        by_difficulty: bool,
        sample_weight: Floats | None = None,
        propensity: Floats | None = None,
    ) -> ClusterMeans:
        """Means of outcomes.

        Parameters
        ----------
        table : array of shape (n, m), NaN = not observed
        label : array of shape (n,)
            Cluster of every query.
        n_clusters : int
        prior : float, >= 0
        by_difficulty : bool
            Whether arms start from their mean and the difficulty of the cluster, or from their mean alone.
        sample_weight, propensity : array of shape (n,), optional
        """
        sample = np.ones(len(table)) if sample_weight is None else sample_weight
        inverse = np.ones(len(table)) if propensity is None else 1.0 / propensity
        seen = np.isfinite(table) & (sample > 0)[:, None]
        mean = seen_means(table, sample * inverse)
        deviation = np.where(seen, table - mean, 0.0)
        belonging = members(label, n_clusters, sample * inverse)
        mass, total = belonging @ seen.astype(np.float64), belonging @ deviation
        square = members(label, n_clusters, sample * inverse**2) @ seen.astype(np.float64)
        # Weights of k count as k outcomes, and unequal propensities as the effective number behind their mean.
        count = _ratio(mass**2, square)
        difficulty = np.zeros(n_clusters)
        if by_difficulty:
            shared = count.sum(axis=1)
            difficulty = _ratio((count * _ratio(total, mass)).sum(axis=1), shared + prior * (shared > 0))
        # An arm that was seen on easy queries alone is not as good as its mean.
        beyond = np.where(seen, deviation - difficulty[label][:, None], 0.0)
        level = mean + _ratio((sample * inverse) @ beyond, (sample * inverse) @ seen)
        level_count = 0.0
        if by_difficulty:
            residual = np.where(seen, beyond + mean - level, np.nan)
            level_count = min(prior, _worth(residual, level, sample * inverse))
        observed = table[seen]
        low, high = (float(observed.min()), float(observed.max())) if observed.size else (0.0, 0.0)
        start = np.clip(level + difficulty[:, None], low, high)
        value = _shrunk(mean + _ratio(total, mass), start, count, prior)
        return cls(value.T.copy(), count.T.copy(), difficulty, prior, float(level.mean()), level_count, low, high)

    def with_arm(self, outcome: Floats, label: Ints, propensity: Floats | None = None) -> ClusterMeans:
        """The same means, and those of one more arm in the last place.

        Parameters
        ----------
        outcome : array of shape (k,)
        label : array of shape (k,)
            Cluster of every query.
        propensity : array of shape (k,), optional
        """
        weight = np.ones(len(outcome)) if propensity is None else 1.0 / propensity
        n_clusters = len(self.difficulty)
        # Differences from one outcome, so that a constant price stays what it is.
        level = float(outcome[0] + np.average(outcome - outcome[0] - self.difficulty[label], weights=weight))
        # The effective number of outcomes behind a mean, as at fit.
        worth = weight.sum() ** 2 / (weight**2).sum()
        level += self.level_count / (worth + self.level_count) * (self.level - level)
        low, high = min(self.low, float(outcome.min())), max(self.high, float(outcome.max()))
        start = np.clip(level + self.difficulty, low, high)
        mass = np.bincount(label, weights=weight, minlength=n_clusters)
        count = _ratio(mass**2, np.bincount(label, weights=weight**2, minlength=n_clusters))
        total = np.bincount(label, weights=weight * (outcome - outcome[0]), minlength=n_clusters)
        value = _shrunk(outcome[0] + _ratio(total, mass), start, count, self.prior)
        return replace(self, value=np.vstack([self.value, value]), count=np.vstack([self.count, count]))


def seen_means(table: Floats, weight: Floats) -> Floats:
    """Weighted mean of every arm, shape (m,); for an arm that no row of positive weight shows, the mean of the others.

    Examples
    --------
    >>> seen_means(np.array([[1.0, np.nan], [0.0, np.nan]]), np.ones(2)).tolist()
    [0.5, 0.5]
    """
    mean = np.zeros(table.shape[1])
    shown = (np.isfinite(table) & (weight > 0)[:, None]).any(axis=0)
    if shown.any():
        mean[shown] = column_means(table[:, shown], weight, int(shown.sum()))
        mean[~shown] = mean[shown].mean()
    return mean


def members(label: Ints, n_clusters: int, weight: Floats) -> csr_array:
    """Weight of every query in its cluster, shape (M, n)."""
    return csr_array((weight, (label, np.arange(len(label)))), shape=(n_clusters, len(label)))


def _worth(residual: Floats, level: Floats, weight: Floats) -> float:
    """Outcomes that the level of the other arms is worth for one arm: variance within arms over that between their levels."""
    if len(level) < 2:
        return 0.0
    between = float(np.var(level, ddof=1))
    square = np.where(np.isfinite(residual), residual, 0.0) ** 2
    within = float((weight @ square).sum() / (weight @ np.isfinite(residual)).sum())
    return within / between if between > 0 else np.inf


def _shrunk(mean: Floats, start: Floats, count: Floats, prior: float) -> Floats:
    """Means between what was seen and where they start; what was seen at prior = 0, the start where nothing was."""
    mean = np.where(count > 0, mean, start)
    return np.asarray(mean + _ratio(prior, count + prior) * (start - mean))


def _ratio(above: Any, below: Any) -> Any:
    """Quotient, and 0 where there is nothing to divide by."""
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), 0.0)
