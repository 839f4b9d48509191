"""Bootstrap of whole groups of queries, for statistics that are no smooth function of a mean."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from defer.evaluation.intervals import percentile_interval

__all__ = ["bootstrap_interval"]


def bootstrap_interval(
    statistic: Callable[[NDArray[np.intp]], float],
    groups: NDArray[np.intp],
    *,
    level: float = 0.95,
    n_bootstrap: int = 200,
    random_state: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a statistic over resampled groups.

    Parameters
    ----------
    statistic : callable
        Takes row numbers, with repeats, and gives a number, NaN where it is not defined.
    groups : int array of shape (n,)
        Number of the group of every row, from 0 without gaps; rows of one group are drawn together.
    level : float, default=0.95
    n_bootstrap : int, default=200
    random_state : int, default=0

    Returns
    -------
    low, high : float
        NaN where so many resamples are undefined that they could reach the ends.

    Examples
    --------
    >>> values = np.arange(100.0)
    >>> low, high = bootstrap_interval(lambda rows: values[rows].mean(), np.arange(100))
    >>> bool(low < 49.5 < high)
    True
    """
    rng, members = np.random.default_rng(random_state), np.argsort(groups, kind="stable")
    start = np.concatenate(([0], np.cumsum(np.bincount(groups))))
    draws = []
    for _ in range(n_bootstrap):
        picked = rng.integers(len(start) - 1, size=len(start) - 1)
        size = start[picked + 1] - start[picked]
        first = np.repeat(start[picked] - np.concatenate(([0], np.cumsum(size)[:-1])), size)
        draws.append(statistic(members[first + np.arange(size.sum())]))
    return percentile_interval(np.asarray(draws), (1 - level) / 2)
