"""Labels from sampled qualities: how likely a small model is to be as good as a large one, up to a margin.

The label of a query is Pr[q_small >= q_large - t], estimated over all pairs of a sampled answer of the one and of the other.
t is chosen where the labels differ most: J(t) = mean over all pairs of queries of |y - y'|.  Each label is a step
function of t that rises at the query's own gaps q_large - q_small, so the search over t is exact.
Source: Hybrid LLM (Ding et al., ICLR 2024, arXiv 2404.14618), routers r_det, r_prob and r_trans.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.exceptions import LossInputError
from defer.losses.inputs import as_array, detached, raise_first

__all__ = ["MarginChoice", "best_margin", "gap_probability", "label_spread"]

Floats = NDArray[np.float64]
Index = NDArray[np.intp]

# Qualities differ where they differ by more than this many units of the last place of the largest of them.
_ROUNDING_UNITS = 64
# Pairs of samples that are compared at a time.
_BLOCK = 2**20
# Spreads that were summed in floating point are equal up to this.
_SPREAD_ROUNDING = 1e-10


@dataclass(frozen=True, eq=False)
class MarginChoice:
    """The margin at which the labels of the queries differ most, and the search that found it.

    Attributes
    ----------
    margin : float
        t*, >= 0, in the unit of quality; the smallest of those that are equally good.
    spread : float
        J(t*), in [0, 1/2].
    labels : array of shape (n,)
        y(t*); NaN where a query has no pair of samples.
    candidates : array of shape (k,)
        0 and the distinct positive gaps, rising: between two of them no label changes.
    spreads : array of shape (k,)
        J at every candidate.
    is_flat : bool
        Whether the labels of all queries agree at every margin, so that nothing can be learned; the margin is then 0.

    Examples
    --------
    >>> choice = best_margin([0.0, 0.0, 0.0, 0.0], [-1.0, 0.25, 0.5, 0.5])
    >>> choice.margin, choice.candidates.tolist(), choice.spreads.tolist()
    (0.25, [0.0, 0.25, 0.5], [0.375, 0.5, 0.0])
    """

    margin: float
    spread: float
    labels: Floats
    candidates: Floats
    spreads: Floats
    is_flat: bool


def gap_probability(small: ArrayLike, large: ArrayLike, *, margin: float = 0.0) -> Floats:
    """Pr[q_small >= q_large - margin] of every query, over all pairs of its samples.

    With one sample each it is 0 or 1.  It does not fall as the margin grows, and reaches 1 at the largest gap.

    Parameters
    ----------
    small, large : arrays of shape (n, s) and (n, l), or (n,)
        Qualities of sampled answers; NaN where there are fewer.
    margin : float, default=0.0
        Loss of quality that does not count, in its unit.

    Returns
    -------
    array of shape (n,), in [0, 1]
        NaN where a query has no pair.

    Raises
    ------
    LossInputError
        For anything but numbers, infinite ones, shapes that do not fit, and a margin that is no finite number.

    Notes
    -----
    Both sides are compared up to rounding of the largest quality, in the precision that was given: -2.4 is as good as
    -2.3 - 0.1.  O(n s l) time, in blocks.

    References
    ----------
    Ding et al. 2024, labels of r_prob (margin 0) and r_trans.

    Examples
    --------
    >>> gap_probability([[-3.0, -3.2], [-2.0, -2.4]], [[-2.5, -2.7], [-2.1, -2.3]], margin=0.3).tolist()
    [0.25, 1.0]
    """
    samples = _Samples.of("gap_probability", small, large)
    if not isinstance(margin, Real) or isinstance(margin, bool) or not math.isfinite(margin):
        raise LossInputError(f"gap_probability: margin must be a finite number, got {margin!r}")
    return samples.labels(float(margin))


def label_spread(labels: ArrayLike, *, weight: ArrayLike | None = None) -> float:
    """J = mean of ``|y_i - y_j|`` over all pairs of queries, a query with itself included.

    Of labels that are 0 or 1 it is 2 p (1 - p), p their mean; of others it is not.

    Parameters
    ----------
    labels : array of shape (n,), in [0, 1]
        NaN where a query has none: it is left out.
    weight : array of shape (n,), optional
        >= 0; a weight of k is worth k equal rows.

    Returns
    -------
    float
        In [0, 1/2]; 0 where there is no label.

    Raises
    ------
    LossInputError
        For anything but numbers, other shapes, labels outside [0, 1], and weights that are negative or not finite.

    Notes
    -----
    From sorted labels in O(n log n): J = 2/n^2 sum_j (2j - n - 1) y_(j).

    References
    ----------
    Ding et al. 2024, the criterion of r_trans.

    Examples
    --------
    >>> label_spread([0.75, 1.0, 0.0, 0.25])
    0.4375
    """
    name = "label_spread"
    table = _floats(name, "labels", labels)
    if table.ndim != 1:
        raise LossInputError(f"{name}: labels must have shape (n,), got {table.shape}")
    raise_first(name, "labels", (table < 0) | (table > 1), table, "outside [0, 1]", "A label is a probability.")
    mass = _checked_weight(name, weight, len(table))
    kept = np.isfinite(table) & (mass > 0)
    y, w = table[kept], mass[kept]
    order = np.argsort(y, kind="stable")
    y, w = y[order], w[order]
    total = w.sum()
    if total == 0:
        return 0.0
    before = np.cumsum(w) - w
    return float(max(2.0 * np.sum(w * y * (2.0 * before + w - total)) / total**2, 0.0))


def best_margin(small: ArrayLike, large: ArrayLike, *, weight: ArrayLike | None = None) -> MarginChoice:
    """The margin t >= 0 at which the labels differ most, by exact search.

    Parameters
    ----------
    small, large : arrays of shape (n, s) and (n, l), or (n,)
        Qualities of sampled answers; NaN where there are fewer.
    weight : array of shape (n,), optional
        >= 0; a weight of k is worth k equal rows.

    Returns
    -------
    MarginChoice

    Raises
    ------
    LossInputError
        For anything but numbers, infinite ones, shapes that do not fit, and weights that are negative or not finite.

    Notes
    -----
    y_i(t) exceeds a level v once t reaches one fixed gap of query i, so J(t) = 2 * integral of G_v(t) (1 - G_v(t)) dv, where
    G_v is the distribution over queries of that gap.  One sort per level gives all jumps of J, and one more puts them in
    order.  Time O(L n log n) for L distinct levels, L = s l where no sample is missing; memory O(n s l).  Sums are taken in integers
    where the weights are, so that ties are ties; else spreads that differ by less than 1e-10 are.

    References
    ----------
    Ding et al. 2024, t* of r_trans.

    Examples
    --------
    >>> small = [[-3.0, -3.2], [-2.0, -2.4], [-4.0, -4.4], [-2.6, -2.8]]
    >>> large = [[-2.5, -2.7], [-2.1, -2.3], [-2.2, -2.4], [-2.0, -2.1]]
    >>> choice = best_margin(small, large)
    >>> round(choice.margin, 12), choice.spread, choice.labels.tolist()
    (0.5, 0.4375, [0.75, 1.0, 0.0, 0.25])
    """
    name = "best_margin"
    samples = _Samples.of(name, small, large)
    mass = _checked_weight(name, weight, len(samples.small))
    rows = np.flatnonzero((samples.count > 0) & (mass > 0))
    if not len(rows):
        zero = np.zeros(1)
        return MarginChoice(0.0, 0.0, samples.labels(0.0), zero, zero.copy(), True)
    candidates, spreads, exact = _search(samples.gaps(rows), samples.count[rows], mass[rows], samples.rounding)
    good = spreads >= spreads.max() - (0.0 if exact else _SPREAD_ROUNDING)
    best = int(np.argmax(good))
    margin = float(candidates[best])
    flat = bool(spreads.max() <= (0.0 if exact else _SPREAD_ROUNDING))
    return MarginChoice(margin, float(spreads[best]), samples.labels(margin), candidates, spreads, flat)


@dataclass(frozen=True, eq=False)
class _Samples:
    """Checked samples.

    Attributes
    ----------
    small, large : arrays of shape (n, s) and (n, l)
    count : int array of shape (n,)
        Number of pairs.
    rounding : float
        Differences up to this are none.
    """

    small: Floats
    large: Floats
    count: Index
    rounding: float

    @classmethod
    def of(cls, name: str, small: ArrayLike, large: ArrayLike) -> _Samples:
        unit, tables = float(np.finfo(np.float64).eps), []
        for side, values in (("small", small), ("large", large)):
            given = as_array(name, side, np.asarray(detached(values)))
            if given.dtype.kind == "f":
                unit = max(unit, float(np.finfo(given.dtype).eps))
            table = _floats(name, side, given)
            table = table[:, None] if table.ndim == 1 else table
            if table.ndim != 2:
                raise LossInputError(f"{name}: {side} must have shape (n, samples) or (n,), got {table.shape}")
            raise_first(name, side, np.isinf(table), table, "that are infinite", "NaN means that there is no sample.")
            tables.append(table)
        one, other = tables
        if len(one) != len(other):
            raise LossInputError(
                f"{name}: small has {len(one)} rows and large {len(other)}; both need one row per query, in the same order"
            )
        scale = max((float(np.nanmax(np.abs(t))) for t in tables if np.isfinite(t).any()), default=0.0)
        count = np.isfinite(one).sum(axis=1) * np.isfinite(other).sum(axis=1)
        return cls(one, other, count, _ROUNDING_UNITS * unit * scale)

    def labels(self, margin: float) -> Floats:
        """Share of a query's pairs with a gap of at most the margin, shape (n,); NaN without pairs."""
        hits = np.zeros(len(self.count), dtype=np.intp)
        step = max(1, _BLOCK // max(1, self.small.shape[1] * self.large.shape[1]))
        for low in range(0, len(hits), step):
            rows = slice(low, low + step)
            gap = self.large[rows, None, :] - self.small[rows, :, None]
            hits[rows] = (gap <= margin + self.rounding).sum(axis=(1, 2))
        return np.where(self.count > 0, hits / np.maximum(self.count, 1), np.nan)

    def gaps(self, rows: Index) -> Floats:
        """q_large - q_small over all pairs of these queries, each row rising, shape (rows, s l); NaN last."""
        gap = (self.large[rows, None, :] - self.small[rows, :, None]).reshape(len(rows), -1)
        gap.sort(axis=1)
        return gap


def _search(gaps: Floats, count: Index, mass: Floats, rounding: float) -> tuple[Floats, Floats, bool]:
    """Candidates, J at each, and whether J was summed in integers."""
    parts = np.unique(count)
    common = math.lcm(*parts.tolist())
    total = mass.sum()
    exact = bool((mass == np.floor(mass)).all()) and total < 2**31 and common * int(total) ** 2 < 2**62
    kind: Any = np.int64 if exact else np.float64
    mass = mass.astype(kind)
    if exact:
        levels = np.unique(np.concatenate([np.arange(m) * (common // m) for m in parts.tolist()]))
        rank, width = levels[:, None] * parts // common, np.diff(levels, append=common)
    else:
        levels, rank = _float_levels(parts)
        width, common = np.diff(levels, append=1.0), 1
    group = np.searchsorted(parts, count)
    by_rank = np.ascontiguousarray(gaps.T)
    jump = np.zeros(by_rank.shape, dtype=kind)
    at_zero, query = kind(0), np.arange(len(count))
    for level in range(len(levels)):
        # The gap at which the label of each query exceeds this level.
        slot = rank[level][group]
        reached = by_rank[slot, query]
        order = np.argsort(reached)
        below = np.cumsum(mass[order])
        product = below * (below[-1] - below) * width[level]
        jump[slot[order], order] += np.diff(product, prepend=kind(0))
        # All gaps up to 0 are reached from the start.
        start = int(np.searchsorted(reached[order], rounding, side="right"))
        at_zero += product[start - 1] if start else kind(0)
    positive = by_rank > rounding  # NaN is not
    times, jump = by_rank[positive], jump[positive]
    del by_rank, positive
    order = np.argsort(times)
    times = times[order]
    after = at_zero + np.cumsum(jump[order])
    last = np.flatnonzero(np.diff(times, append=np.inf) > rounding)
    sums = np.concatenate(([at_zero], after[last])).astype(np.float64)
    spreads = np.maximum(2.0 * sums / (float(common) * float(total) ** 2), 0.0)
    return np.concatenate(([0.0], times[last])), spreads, exact


def _float_levels(parts: Index) -> tuple[Floats, Index]:
    """Distinct fractions c / m below 1 for all m in `parts`, and floor(fraction * m) for each, shapes (L,) and (L, parts)."""
    levels = np.unique(np.concatenate([np.arange(m) / m for m in parts.tolist()]))
    # Equal fractions may differ in the last place, and so may their products with m; real distances are above 1 / m^2.
    levels = levels[np.diff(levels, prepend=-1.0) > 1e-12]
    return levels, np.floor(levels[:, None] * parts + 1e-9).astype(np.intp)


def _floats(name: str, side: str, values: Any) -> Floats:
    return as_array(name, side, np.asarray(detached(values))).astype(np.float64)


def _checked_weight(name: str, weight: ArrayLike | None, n: int) -> Floats:
    if weight is None:
        return np.ones(n)
    mass = _floats(name, "weight", weight)
    if mass.shape != (n,):
        raise LossInputError(f"{name}: weight has shape {mass.shape}; it needs ({n},), one number per query")
    wrong = ~(np.isfinite(mass) & (mass >= 0))
    raise_first(name, "weight", wrong, mass, "that are negative or not finite", "A weight of 0 leaves a query out.")
    return mass
