"""Ranks of models, and of a routed system, by subset: in which place each comes, on average, and how often it is first.

Source: Lu et al. 2024, arXiv 2311.08692 (mean task rank and uplift over 26 subsets).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.evaluation.intervals import percentile_interval
from defer.evaluation.policies import policy_matrix
from defer.evaluation.realised import policy_terms
from defer.exceptions import EvaluationError
from defer.portfolios.outcomes import OutcomeLog

__all__ = ["TaskRanks", "task_ranks"]

Floats = NDArray[np.float64]

_TIES = ("min", "average", "max")
# Means that differ by less are rounding.
_EQUAL = 1e-12


@dataclass(frozen=True, eq=False)
class TaskRanks:
    """Ranks of r arms and systems in d subsets.

    Attributes
    ----------
    names : tuple of r names
        The arms, then the routed systems.
    domains : tuple of d names
    value : array of shape (d, r)
        Mean quality.
    rank : array of shape (d, r)
        1 is first.
    mean_rank, mean_rank_low, mean_rank_high : arrays of shape (r,)
        Mean over the subsets, each counted once, with its bootstrap interval; NaN where none was asked for.
    uplift, uplift_low, uplift_high : arrays of shape (r,)
        Share of the subsets in which the rank is 1.
    """

    names: tuple[str, ...]
    domains: tuple[str, ...]
    value: Floats = field(repr=False)
    rank: Floats = field(repr=False)
    mean_rank: Floats
    mean_rank_low: Floats = field(repr=False)
    mean_rank_high: Floats = field(repr=False)
    uplift: Floats
    uplift_low: Floats = field(repr=False)
    uplift_high: Floats = field(repr=False)

    @property
    def frame(self) -> nw.DataFrame[Any]:
        """Row per arm or system."""
        columns = ("mean_rank", "mean_rank_low", "mean_rank_high", "uplift", "uplift_low", "uplift_high")
        return nw.from_dict(
            {"name": list(self.names), **{name: getattr(self, name) for name in columns}}, backend="pyarrow"
        )

    @property
    def by_domain(self) -> nw.DataFrame[Any]:
        """Row per subset and arm or system."""
        d, r = self.rank.shape
        return nw.from_dict(
            {
                "domain": np.repeat(self.domains, r).tolist(),
                "name": list(self.names) * d,
                "quality": self.value.ravel(),
                "rank": self.rank.ravel(),
            },
            backend="pyarrow",
        )


def task_ranks(
    quality: ArrayLike,
    domain: ArrayLike,
    *,
    arms: Sequence[str] | None = None,
    routed: Any = None,
    ties: str = "min",
    level: float = 0.95,
    n_bootstrap: int = 0,
    random_state: int = 0,
) -> TaskRanks:
    """Rank every arm, and systems that route among them, in every subset of the queries.

    The rank in a subset is 1 + the number of arms, other than itself, whose mean quality there is higher.  Systems are compared
    with the arms alone: they move no arm's rank, and no rank of each other.

    Parameters
    ----------
    quality : array or frame of shape (n, m)
        Every outcome observed.
    domain : array of shape (n,)
        Subset of every query.
    arms : sequence of m names, optional
        Default those that `quality` carries, else ``arm_0``, ``arm_1``, ...
    routed : policy, or mapping of name to policy, optional
        A `Routing`, an array of n arm names or indices, or probabilities of shape (n, m), which count by expected quality.  One
        without a name is called "routed".
    ties : {"min", "average", "max"}, default="min"
        Rank among arms of equal mean (to 1e-12): "min" counts those that are strictly better, so that all who share the top are
        first; "average" adds half of the equal ones, "max" all of them, so that only a sole winner is first.
    level : float, default=0.95
    n_bootstrap : int, default=0
        Resamples of the queries, drawn within every subset; 0 gives no intervals.  The number of first places jumps where two
        means are close, so its interval is a description more than a guarantee.
    random_state : int, default=0

    Returns
    -------
    TaskRanks

    Raises
    ------
    EvaluationError
        For shapes that do not fit, outcomes that were not observed, a policy that does not fit, or an option that is not allowed.

    References
    ----------
    Lu et al. 2024; the tie rule is ours.

    Examples
    --------
    >>> quality = [[1.0, 0.0], [0.8, 0.2], [0.1, 0.6], [0.0, 0.9]]
    >>> ranks = task_ranks(quality, ["math", "math", "code", "code"], arms=["a", "b"], routed=["a", "a", "b", "b"])
    >>> ranks.names, ranks.mean_rank.tolist(), ranks.uplift.tolist()
    (('a', 'b', 'routed'), [1.5, 1.5, 1.0], [0.5, 0.5, 1.0])
    """
    _check_options(ties, level, n_bootstrap)
    log = OutcomeLog.from_arrays(None, quality, arms=arms)
    table = np.asarray(log.quality)
    n, m = table.shape
    gaps = np.argwhere(~np.isfinite(table))
    if len(gaps):
        row, column = gaps[0]
        raise EvaluationError(
            f"task ranks compare all arms on the same queries, and {len(gaps)} of {table.size} outcomes were not observed, the first in "
            f"row {row}, arm {log.arms[column]!r}; leave out these queries or arms"
        )
    subset = np.asarray(domain)
    if subset.shape != (n,):
        raise EvaluationError(f"domain must have shape ({n},), one subset per query, got {subset.shape}")
    names, index = np.unique(subset.astype(str), return_inverse=True)
    systems = _systems(routed)
    taken = [policy_terms(policy_matrix(policy, log), table)[:, None] for policy in systems.values()]
    order = np.argsort(index.ravel(), kind="stable")
    values = np.hstack([table, *taken])[order]
    start = np.concatenate(([0], np.cumsum(np.bincount(index.ravel()))))
    value = _means(values, start)
    rank = _ranks(value, m, ties)
    r, draws = values.shape[1], np.empty((n_bootstrap, 2, values.shape[1]))
    rng, size = np.random.default_rng(random_state), np.repeat(np.diff(start), np.diff(start))
    first = np.repeat(start[:-1], np.diff(start))
    for draw in draws:
        drawn = _ranks(_means(values[first + (rng.random(n) * size).astype(np.intp)], start), m, ties)
        draw[:] = drawn.mean(axis=0), (drawn == 1).mean(axis=0)
    bounds = np.full((2, r, 2), np.nan)
    if n_bootstrap:
        bounds = np.array(
            [[percentile_interval(draws[:, k, column], (1 - level) / 2) for column in range(r)] for k in (0, 1)]
        )
    return TaskRanks(
        (*log.arms, *systems), tuple(names.tolist()), value, rank,
        rank.mean(axis=0), bounds[0, :, 0], bounds[0, :, 1], (rank == 1).mean(axis=0), bounds[1, :, 0], bounds[1, :, 1],
    )  # fmt: skip


def _means(values: Floats, start: NDArray[np.intp]) -> Floats:
    """Mean of every subset of sorted rows, shape (d, r)."""
    return np.asarray(np.add.reduceat(values, start[:-1], axis=0) / np.diff(start)[:, None])


def _ranks(value: Floats, m: int, ties: str) -> Floats:
    lead = value[:, None, :m] - value[:, :, None]
    slack = _EQUAL * max(1.0, float(np.abs(value).max()))
    better = (lead > slack).sum(axis=2)
    equal = (np.abs(lead) <= slack).sum(axis=2)
    equal[:, :m] -= 1  # itself
    return 1.0 + better + {"min": 0.0, "average": 0.5, "max": 1.0}[ties] * equal


def _systems(routed: Any) -> dict[str, Any]:
    if routed is None:
        return {}
    return {str(name): policy for name, policy in routed.items()} if isinstance(routed, Mapping) else {"routed": routed}


def _check_options(ties: str, level: float, n_bootstrap: int) -> None:
    if ties not in _TIES:
        raise EvaluationError(f"ties must be one of {_TIES}, got {ties!r}")
    if not 0 < level < 1:
        raise EvaluationError(f"level must lie in (0, 1), got {level!r}")
    if not isinstance(n_bootstrap, Integral) or n_bootstrap < 0:
        raise EvaluationError(f"n_bootstrap must be an integer >= 0, got {n_bootstrap!r}")
