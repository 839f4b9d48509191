"""An estimated mean with its interval, and what it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np

from defer.exceptions import EvaluationError

__all__ = ["Estimate", "best_of"]


@dataclass(frozen=True)
class Estimate:
    """An estimated mean with its interval, and what it rests on.

    Attributes
    ----------
    value, low, high : float
        `low` and `high` are NaN where an interval was refused; `warnings` says why.
    n : int
        Rows.
    ess : float
        Effective sample size, (sum w)^2 / sum w^2; n on full-information logs.
    max_weight : float
        Largest importance weight; 1 on full-information logs.
    estimator, interval : str
        What was used.
    level : float
    warnings : tuple of str
    outcome : {"quality", "cost", "latency"}
    others : tuple of Estimate
        Of cost and latency, where the log has them; see `cost` and `latency`.

    Examples
    --------
    >>> print(Estimate(0.5, 0.4, 0.6, n=100, ess=80.0, max_weight=2.0, estimator="dr", interval="normal"))
    quality 0.5 (95% interval 0.4 … 0.6; dr, n = 100, effective 80)
    """

    value: float
    low: float
    high: float
    n: int
    ess: float
    max_weight: float
    estimator: str
    interval: str
    level: float = 0.95
    warnings: tuple[str, ...] = ()
    outcome: str = "quality"
    others: tuple[Estimate, ...] = ()

    @property
    def cost(self) -> Estimate:
        """Mean cost, US dollars per query.  Raises EvaluationError where the log has no cost."""
        return self.of("cost")

    @property
    def latency(self) -> Estimate:
        """Mean latency, seconds.  Raises EvaluationError where the log has no latency."""
        return self.of("latency")

    def of(self, outcome: str) -> Estimate:
        """Estimate of one outcome: quality, cost or latency.

        Raises
        ------
        EvaluationError
            If the log has no such outcome.
        """
        for estimate in (self, *self.others):
            if estimate.outcome == outcome:
                return estimate
        raise EvaluationError(f"the log has no {outcome}")

    @property
    def is_refused(self) -> bool:
        """Whether no interval could be given."""
        return not (np.isfinite(self.low) and np.isfinite(self.high))

    @property
    def frame(self) -> nw.DataFrame[Any]:
        """Row per outcome: quality, and cost and latency where known."""
        rows = (self, *self.others)
        names = ("outcome", "value", "low", "high", "n", "ess", "max_weight", "estimator", "interval", "level")
        return nw.from_dict({name: [getattr(row, name) for row in rows] for name in names}, backend="pyarrow")

    def __str__(self) -> str:
        bounds = "no interval" if self.is_refused else f"{self.level:.0%} interval {self.low:.6g} … {self.high:.6g}"
        return f"{self.outcome} {self.value:.6g} ({bounds}; {self.estimator}, n = {self.n}, effective {self.ess:.4g})"


def best_of(estimates: Mapping[str, Estimate]) -> str | None:
    """Name of the highest value among those with an interval; ties go to the lower cost, then to the first.

    Parameters
    ----------
    estimates : mapping of name to Estimate
        Where none has an interval, all are considered.

    Returns
    -------
    str or None
        None if there is no estimate.

    Examples
    --------
    >>> one, other = (Estimate(value, 0.0, 1.0, 9, 9.0, 1.0, "full", "normal") for value in (0.4, 0.6))
    >>> best_of({"small": one, "large": other})
    'large'
    """

    def rank(name: str) -> tuple[float, float]:
        costs = [
            other.value for other in estimates[name].others if other.outcome == "cost" and np.isfinite(other.value)
        ]
        return -estimates[name].value, costs[0] if costs else float("inf")

    carried = [name for name, estimate in estimates.items() if not estimate.is_refused] or list(estimates)
    return min(carried, key=rank, default=None)
