"""Mergeable sufficient statistics of vector-valued terms: the same numbers in memory, streamed, or in parallel.

Sums are kept about a centre near the mean, so that a large common offset costs no digits (Chan, Golub and LeVeque 1983).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from defer.exceptions import EvaluationError

__all__ = ["Moments", "WeightMoments", "effective_sample_size"]

Floats = NDArray[np.float64]

# Rows times replicates drawn at once: bounds the memory of the bootstrap.
_BLOCK = 4_000_000


@dataclass
class Moments:
    """Count, mean and centred scatter of k-vectors, with cluster sums and bootstrap replicates where asked for.

    O(k^2 + n_bootstrap k) memory, and O(k) per cluster where clusters are given.

    Parameters
    ----------
    k : int
        Length of a term.
    n_bootstrap : int, default=0
        Replicates of the Poisson bootstrap: every row, or every cluster, gets an independent Poisson(1) weight, so that
        replicates of disjoint rows add up.
    seed : int or SeedSequence, default=0
        Parts without clusters that are to be merged need different seeds.

    Attributes
    ----------
    n : int
        Rows.
    mean : array of shape (k,)
    scatter : array of shape (k, k)
        Sum of the outer products of the terms less their mean.

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
    n: int = field(init=False, default=0)
    mean: Floats = field(init=False)
    scatter: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.mean, self.scatter = np.zeros(self.k), np.zeros((self.k, self.k))
        sequence = self.seed if isinstance(self.seed, np.random.SeedSequence) else np.random.SeedSequence(self.seed)
        self._sequence, self._rng = sequence, np.random.default_rng(sequence)
        self._streams = {(str(sequence.entropy), sequence.spawn_key)}
        self._origin, self._replicates = np.zeros(self.k), np.zeros((self.n_bootstrap, self.k + 1))
        self._clusters: list[tuple[NDArray[np.generic], Floats, Floats, Floats]] = []

    def update(self, terms: Floats, cluster: NDArray[np.generic] | None = None) -> None:
        """Add a batch of terms, shape (b, k), and the clusters of its rows, shape (b,); a cluster may span batches.

        Raises
        ------
        EvaluationError
            If some batches have clusters and others not.
        """
        if not len(terms):
            return
        self._check_clusters(cluster is not None)
        # Column by column: NumPy sums pairwise along one axis only.
        mean = np.array([terms[:, j].mean() for j in range(self.k)])
        centred = terms - mean
        if self.n == 0:
            self._origin = mean
        self._absorb(len(terms), mean, centred.T @ centred)
        if cluster is not None:
            names, index = np.unique(cluster, return_inverse=True)
            self._clusters.append((names, *_grouped(index.ravel(), centred, np.ones(len(terms))), mean))
        elif self.n_bootstrap:
            shifted = np.column_stack([centred + (mean - self._origin), np.ones(len(terms))])
            self._replicates += _resampled(shifted, self.n_bootstrap, self._rng)

    def merge(self, other: Moments) -> None:
        """Add the statistics of other rows.

        Raises
        ------
        EvaluationError
            If `k`, `n_bootstrap` or the use of clusters differ, or rows of both were resampled with one seed.
        """
        if (self.k, self.n_bootstrap) != (other.k, other.n_bootstrap):
            raise EvaluationError(
                f"only moments of one k and n_bootstrap merge, got {(self.k, self.n_bootstrap)} and {(other.k, other.n_bootstrap)}"
            )
        if other.n == 0:
            return
        self._check_clusters(bool(other._clusters))
        if self.n == 0:
            self._origin, self._streams = other._origin, other._streams
        elif self.n_bootstrap and not self._clusters and self._streams & other._streams:
            raise EvaluationError(
                "both parts were resampled with one seed; give each part of its own: SeedSequence.spawn"
            )
        self._streams = self._streams | other._streams
        shift = other._replicates[:, -1:] * (other._origin - self._origin)
        self._replicates = self._replicates + other._replicates
        self._replicates[:, :-1] += shift
        self._absorb(other.n, other.mean, other.scatter)
        self._clusters = self._clusters + other._clusters

    def clusters(self) -> tuple[Floats, Floats] | None:
        """Per cluster the sum of the terms less their overall mean (g, k), and the count (g,); None without clusters."""
        if not self._clusters:
            return None
        sums = np.concatenate(
            [part + count[:, None] * (centre - self.mean) for _, part, count, centre in self._clusters]
        )
        counts = np.concatenate([count for _, _, count, _ in self._clusters])
        names = self._clusters[0][0]
        if len(self._clusters) > 1:
            names, index = np.unique(np.concatenate([part[0] for part in self._clusters]), return_inverse=True)
            sums, counts = _grouped(index.ravel(), sums, counts)
        self._clusters = [(names, sums, counts, self.mean)]
        return sums, counts

    def replicate_means(self) -> Floats:
        """Mean of every bootstrap replicate, shape (n_bootstrap, k); NaN where a replicate drew no row."""
        grouped, origin, totals = self.clusters(), self._origin, self._replicates
        if grouped is not None:
            origin = self.mean
            totals = _resampled(np.column_stack(grouped), self.n_bootstrap, np.random.default_rng(self._sequence))
        count = totals[:, -1:]
        shift = np.divide(totals[:, :-1], count, out=np.full((self.n_bootstrap, self.k), np.nan), where=count > 0)
        return origin + shift

    def variance_of_mean(self, gradient: Floats, *, corrected: bool) -> float:
        """Variance of ``gradient @ mean``, clustered where clusters were given; NaN for fewer than two of them.

        Parameters
        ----------
        gradient : array of shape (k,)
        corrected : bool
            Divide by n - 1 (or one less than the clusters) in place of n.
        """
        grouped = self.clusters()
        if grouped is None:
            spread, groups = float(gradient @ self.scatter @ gradient), self.n
        else:
            residual = grouped[0] @ gradient
            spread, groups = float(residual @ residual), len(residual)
        if groups < 2:
            return float("nan")
        return max(spread, 0.0) / self.n**2 * (groups / (groups - 1) if corrected else 1.0)

    def _check_clusters(self, given: bool) -> None:
        if self.n and given != bool(self._clusters):
            raise EvaluationError("some rows have clusters and others not: give the clusters of all rows or of none")

    def _absorb(self, n: int, mean: Floats, scatter: Floats) -> None:
        total, step = self.n + n, mean - self.mean
        self.scatter = self.scatter + scatter + np.outer(step, step) * (self.n * n / total)
        self.mean = self.mean + step * (n / total) if self.n else mean
        self.n = total


def _grouped(index: NDArray[np.intp], sums: Floats, counts: Floats) -> tuple[Floats, Floats]:
    columns = [np.bincount(index, weights=column) for column in (*sums.T, counts)]
    totals: Floats = np.column_stack(columns).astype(np.float64, copy=False)
    return totals[:, :-1], totals[:, -1]


def _resampled(rows: Floats, n_bootstrap: int, rng: np.random.Generator) -> Floats:
    """Sums of rows (b, c) under independent Poisson(1) weights, shape (n_bootstrap, c)."""
    # Sixteen random bits and a table of quantiles: an order of magnitude faster than Generator.poisson; mean and variance
    # of the weights are 1 to within 1e-4.
    below = np.cumsum(np.exp(-1.0) / np.cumprod([1.0, *range(1, 12)]))
    table = np.searchsorted(below, (np.arange(2**16) + 0.5) / 2**16).astype(np.float64)
    totals, size = np.zeros((n_bootstrap, rows.shape[1])), max(1, _BLOCK // max(n_bootstrap, 1))
    for low in range(0, len(rows), size):
        part = rows[low : low + size]
        bits = rng.integers(2**16, size=(n_bootstrap, len(part)), dtype=np.uint16)
        totals += table[bits] @ part
    return totals


@dataclass
class WeightMoments:
    """Sums from which the effective sample size follows.

    Examples
    --------
    >>> stats = WeightMoments(); stats.update(np.array([0.2, 3.2, 0.8, 3.2, 0.4, 4.0]))
    >>> round(stats.effective_sample_size, 6)
    3.730975
    """

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


def effective_sample_size(weight: Floats) -> float:
    """(sum w)^2 / sum w^2 of an array of importance weights; 0 where all are 0."""
    moments = WeightMoments()
    moments.update(weight)
    return moments.effective_sample_size
