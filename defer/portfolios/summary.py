"""What is in an outcome log, in a few numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from defer.portfolios.splitting import query_groups, query_texts

if TYPE_CHECKING:
    from defer.portfolios.outcomes import OutcomeLog

__all__ = ["LogSummary", "summarise"]


@dataclass(frozen=True)
class LogSummary:
    """Counts and means of a log; `frame` has a row per arm.

    Attributes
    ----------
    n_queries, n_clusters, n_repeated_texts : int
    arms : tuple of m names
    observed : array of shape (m,)
        Share of the queries on which the arm was observed.
    quality, cost, latency : arrays of shape (m,)
        Means over the observed queries; NaN where there are none.
    taken : array of shape (m,)
        Share of the logged decisions, NaN where none were logged.
    best_arm : str
        Ties go to the cheaper arm, then to the lower index.
    best_quality, oracle_quality : float
        Of the best single arm, and of the best observed arm of every query.
    smallest_propensity, effective_sample_size : float
        The latter for estimating the uniform policy; NaN where nothing was drawn.
    domains : dict of name to number of queries
    """

    n_queries: int
    n_clusters: int
    n_repeated_texts: int
    arms: tuple[str, ...]
    observed: NDArray[np.float64]
    quality: NDArray[np.float64]
    cost: NDArray[np.float64]
    latency: NDArray[np.float64]
    taken: NDArray[np.float64]
    best_arm: str
    best_quality: float
    oracle_quality: float
    smallest_propensity: float
    effective_sample_size: float
    domains: dict[str, int]

    @property
    def frame(self) -> nw.DataFrame[Any]:
        """Row per arm."""
        columns = {
            "arm": list(self.arms),
            "observed": self.observed,
            "quality": self.quality,
            "cost_usd": self.cost,
            "latency_s": self.latency,
            "taken": self.taken,
        }
        return nw.from_dict(columns, backend="pyarrow")

    def __str__(self) -> str:
        lines = [f"{self.n_queries} queries, {len(self.arms)} arms, {len(self.domains) or 'no'} domains"]
        lines += [
            f"  {arm:<28} observed {seen:6.1%}  quality {quality:.4f}  cost {cost:.3g}"
            for arm, seen, quality, cost in zip(self.arms, self.observed, self.quality, self.cost, strict=True)
        ]
        best = f"best single arm {self.best_arm}: {self.best_quality:.4f}"
        # Where one arm was drawn, the best observed arm of a query is that arm.
        drawn = np.isfinite(self.taken).any()
        lines.append(best if drawn else f"{best}; best arm of every query: {self.oracle_quality:.4f}")
        return "\n".join(lines)


def summarise(log: OutcomeLog) -> LogSummary:
    """Summary of a log."""
    quality = np.asarray(log.quality)
    means = _means(quality)
    cost = _means(log.cost, len(log.arms))
    best = int(np.lexsort((np.nan_to_num(cost, nan=np.inf), -np.nan_to_num(means, nan=-np.inf)))[0])
    taken, smallest, effective = np.full(len(log.arms), np.nan), float("nan"), float("nan")
    drawn = log.action >= 0
    if drawn.any():
        taken = np.bincount(log.action[drawn], minlength=len(log.arms)) / drawn.sum()
        if log.propensity is not None:
            chance = log.propensity[drawn]
            smallest = float(chance.min())
            effective = float((1 / chance).sum() ** 2 / (1 / chance**2).sum())
    domains: dict[str, int] = {}
    if log.domain is not None:
        names, counts = np.unique(log.domain.astype(str), return_counts=True)
        domains = dict(zip(names.tolist(), counts.tolist(), strict=True))
    texts = query_texts(log)
    seen = np.where(np.isfinite(quality), quality, -np.inf).max(axis=1)
    return LogSummary(
        n_queries=len(log),
        n_clusters=len(np.unique(query_groups(log))),
        n_repeated_texts=0 if texts is None else len(texts) - len(set(texts)),
        arms=log.arms,
        observed=np.isfinite(quality).mean(axis=0),
        quality=means,
        cost=cost,
        latency=_means(log.latency, len(log.arms)),
        taken=taken,
        best_arm=log.arms[best],
        best_quality=float(means[best]),
        oracle_quality=float(seen[np.isfinite(seen)].mean()),
        smallest_propensity=smallest,
        effective_sample_size=effective,
        domains=domains,
    )


def _means(table: Any, m: int = 0) -> NDArray[np.float64]:
    if table is None:
        return np.full(m, np.nan)
    values = np.asarray(table)
    seen = np.isfinite(values)
    count = seen.sum(axis=0)
    total = np.where(seen, values, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(values.shape[1], np.nan), where=count > 0)
