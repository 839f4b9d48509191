"""Mergeable sufficient statistics of vector-valued terms: the same numbers in memory, streamed, or in parallel."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Moments", "WeightMoments"]

Floats = NDArray[np.float64]

# Rows times replicates drawn at once: bounds the memory of the bootstrap.
_BLOCK = 4_000_000


@dataclass
class Moments:
    """Count, mean and centred scatter of k-vectors, with cluster sums and bootstrap replicates where asked for.

    Parameters
    ----------
    k : int
        Length of a term.
    n_bootstrap : int, default=0
        Replicates of the Poisson bootstrap: every cluster (or row) of a batch gets an independent Poisson(1) weight,
        so replicates of disjoint batches add up.  A cluster must lie within one batch.
    seed : int or SeedSequence, default=0
        Parts that are to be merged need different seeds.

    Examples
    --------
    >>> whole = Moments(1); whole.update(np.array([[1.0], [2.0], [6.0]]))
    >>> left, right = Moments(1), Moments(1)
    >>> left.update(np.array([[1.0]])); right.update(np.array([[2.0], [6.0]])); left.merge(right)
    >>> float(left.mean[0]), float(left.scatter[0, 0]) == float(whole.scatter[0, 0])
    (3.0, True)
    """

    k: int
    n_bootstrap: int = 0
    seed: int | np.random.SeedSequence = 0
    n: int = 0
    mean: Floats = field(init=False)
    scatter: Floats = field(init=False)
    replicates: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.mean, self.scatter = np.zeros(self.k), np.zeros((self.k, self.k))
        self.replicates = np.zeros((self.n_bootstrap, self.k + 1))
        self._rng = np.random.default_rng(self.seed)
        self._clusters: list[tuple[NDArray[np.generic], Floats, Floats]] = []

    def update(self, terms: Floats, cluster: NDArray[np.generic] | None = None) -> None:
        """Add a batch of terms, shape (b, k), and the clusters of its rows, shape (b,)."""
        if not len(terms):
            return
        mean = terms.mean(axis=0)
        centred = terms - mean
        self._absorb(len(terms), mean, centred.T @ centred)
        sums, counts = terms, np.ones(len(terms))
        if cluster is not None:
            names, index = np.unique(cluster, return_inverse=True)
            sums = np.column_stack([np.bincount(index.ravel(), weights=terms[:, j]) for j in range(self.k)])
            counts = np.bincount(index.ravel()).astype(float)
            self._clusters.append((names, sums, counts))
        if self.n_bootstrap:
            self._resample(np.column_stack([sums, counts]))

    def merge(self, other: Moments) -> None:
        """Add the statistics of other rows."""
        self._absorb(other.n, other.mean, other.scatter)
        self._clusters += other._clusters
        self.replicates += other.replicates

    def clusters(self) -> tuple[Floats, Floats] | None:
        """Sums (g, k) and counts (g,) per cluster, or None where no clusters were given."""
        if not self._clusters:
            return None
        names = np.concatenate([part[0] for part in self._clusters])
        _, index = np.unique(names, return_inverse=True)
        sums, counts = np.concatenate([p[1] for p in self._clusters]), np.concatenate([p[2] for p in self._clusters])
        total = np.column_stack([np.bincount(index, weights=sums[:, j]) for j in range(self.k)])
        return total.astype(np.float64), np.bincount(index, weights=counts).astype(np.float64)

    def variance_of_mean(self, gradient: Floats, *, corrected: bool) -> float:
        """Variance of ``gradient @ mean``, clustered where clusters were given; `corrected` divides by n - 1."""
        grouped = self.clusters()
        if grouped is None:
            spread, groups = float(gradient @ self.scatter @ gradient), self.n
        else:
            sums, counts = grouped
            residual = (sums - counts[:, None] * self.mean) @ gradient
            spread, groups = float(residual @ residual), len(counts)
        if groups < 2:
            return float("nan")
        return max(spread, 0.0) / self.n**2 * (groups / (groups - 1) if corrected else 1.0)

    def _absorb(self, n: int, mean: Floats, scatter: Floats) -> None:
        if n == 0:
            return
        total, step = self.n + n, mean - self.mean
        self.scatter = self.scatter + scatter + np.outer(step, step) * (self.n * n / total)
        self.mean = self.mean + step * (n / total)
        self.n = total

    def _resample(self, sums: Floats) -> None:
        size = max(1, _BLOCK // self.n_bootstrap)
        for low in range(0, len(sums), size):
            part = sums[low : low + size]
            self.replicates += self._rng.poisson(1.0, size=(self.n_bootstrap, len(part))) @ part


@dataclass
class WeightMoments:
    """Sums from which the effective sample size follows."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0
    largest: float = 0.0

    def update(self, weight: Floats) -> None:
        """Add a batch of importance weights."""
        self.n += len(weight)
        self.total += float(weight.sum())
        self.squares += float(weight @ weight)
        self.largest = max(self.largest, float(weight.max(initial=0.0)))

    def merge(self, other: WeightMoments) -> None:
        """Add the sums of other rows."""
        self.n, self.total, self.squares = self.n + other.n, self.total + other.total, self.squares + other.squares
        self.largest = max(self.largest, other.largest)

    @property
    def effective_sample_size(self) -> float:
        """(sum w)^2 / sum w^2; 0 where all weights are 0."""
        return self.total**2 / self.squares if self.squares > 0 else 0.0
