"""`evaluate`: everything that is known of a router on held-out queries, in one object.

Value with interval, paired difference to a baseline, frontier against single arms and the zero router, domains, load and
calibration.  Nothing in it was used to fit the router, if the log was held out.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from defer.estimators.base import BaseRouter
from defer.estimators.pipeline import RouterPipeline
from defer.estimators.routing import Routing
from defer.evaluation.calibration import Calibration, calibration
from defer.evaluation.estimators import DM
from defer.evaluation.frontier import Frontier, aiq, area_over_zero, oracle, sweep, upper_hull
from defer.evaluation.intervals import interval_of
from defer.evaluation.moments import Moments
from defer.evaluation.ope import Estimate, estimate_value
from defer.evaluation.outcome_model import cross_fitted
from defer.evaluation.policies import column_order, policy_matrix
from defer.evaluation.two_arm import apgr, apgr_ten_points, cpt, strong_share_curve
from defer.exceptions import EvaluationError, SupportWarning
from defer.portfolios.limits import Limit
from defer.portfolios.outcomes import OutcomeLog
from defer.portfolios.splitting import query_groups

if TYPE_CHECKING:
    from os import PathLike

    from matplotlib.axes import Axes

__all__ = ["Evaluation", "Interval", "evaluate"]

Floats = NDArray[np.float64]

_DOMAIN_COLUMNS = (
    "domain",
    "n",
    "quality",
    "quality_low",
    "quality_high",
    "best_single",
    "cost",
    "main_arm",
    "main_share",
)


@dataclass(frozen=True)
class Interval:
    """A number with its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ({self.low:.4f} … {self.high:.4f})"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` returns.

    Attributes
    ----------
    estimate : Estimate
        Value of the routing in quality, cost and latency.
    singles : dict of arm name to Estimate
        The same for always taking one arm; arms whose value cannot be estimated are left out.
    difference : Interval
        Paired difference in quality to the baseline.
    baseline : str
        What the baseline is.
    predicted_quality, predicted_cost : arrays of shape (n, m) or None
        In the order of the log's arms.
    policy : array of shape (n, m)
    log : OutcomeLog
    limit : Limit or None
    level : float
    router : str
        Short description for the report.
    """

    estimate: Estimate
    singles: dict[str, Estimate]
    difference: Interval
    baseline: str
    policy: Floats = field(repr=False)
    log: OutcomeLog = field(repr=False)
    predicted_quality: Floats = field(repr=False)
    predicted_cost: Floats = field(repr=False)
    cost_weight: float = 0.0
    limit: Limit | None = None
    level: float = 0.95
    router: str = ""

    def __repr__(self) -> str:
        return f"Evaluation({self.estimate}; {self.difference} against {self.baseline})"

    @property
    def frame(self) -> nw.DataFrame[Any]:
        """Row per policy: the routing, every single arm, and, on full-information logs, the oracle."""
        rows = [("routing", self.estimate), *self.singles.items()]
        columns: dict[str, list[Any]] = {"policy": [], "quality": [], "quality_low": [], "quality_high": []}
        extra = [other.outcome for other in self.estimate.others]
        for name in extra:
            columns |= {name: [], f"{name}_low": [], f"{name}_high": []}
        for label, estimate in rows:
            columns["policy"].append(label)
            for name in ("quality", *extra):
                part = estimate if name == "quality" else estimate._other(name)
                for suffix, value in (("", part.value), ("_low", part.low), ("_high", part.high)):
                    columns[name + suffix].append(value)
        if self.log.is_full_information:
            columns["policy"].append("oracle")
            for name in ("quality", *extra):
                value = self._mean_at(name, self._oracle)
                for suffix, number in (("", value), ("_low", float("nan")), ("_high", float("nan"))):
                    columns[name + suffix].append(number)
        return nw.from_dict(columns, backend="pyarrow")

    @property
    def load(self) -> dict[str, float]:
        """Share of the queries that each arm takes."""
        return dict(zip(self.log.arms, self.policy.mean(axis=0).tolist(), strict=True))

    @property
    def load_entropy(self) -> float:
        """Entropy of the load divided by its maximum: 0 where one arm takes all, 1 where all take the same."""
        share = self.policy.mean(axis=0)
        kept = share[share > 0]
        return float(-(kept * np.log(kept)).sum() / np.log(len(share))) if len(share) > 1 else 0.0

    @cached_property
    def calibration(self) -> Calibration:
        """Predicted against realised quality, over all observed pairs."""
        return calibration(self.predicted_quality, np.asarray(self.log.quality), arms=self.log.arms)

    @cached_property
    def frontier(self) -> Frontier:
        """The router's operating points on this log.  Raises EvaluationError without costs or full information."""
        self._needs_frontier()
        utility = self.predicted_quality - self.cost_weight * self.predicted_cost
        return sweep(
            utility,
            self.predicted_cost,
            np.asarray(self.log.quality),
            np.asarray(self.log.cost),
            cluster=self.log.cluster,
        )

    @property
    def has_frontier(self) -> bool:
        """Whether the log knows every outcome and cost, which the frontier needs."""
        return self.log.cost is not None and self.log.is_full_information and bool(np.isfinite(self.log.cost).all())

    @cached_property
    def zero_router(self) -> tuple[Floats, Floats]:
        """Vertices (cost, quality) of the hull of the single arms on this log."""
        self._needs_frontier()
        return upper_hull(np.asarray(self.log.cost).mean(axis=0), np.asarray(self.log.quality).mean(axis=0))

    def aiq(self, *, norm: Any = "range") -> float:
        """Average quality of the hull of the router's points over the arms' range of costs that it covers."""
        cost = np.asarray(self.log.cost).mean(axis=0)
        start = max(float(cost.min()), float(self.frontier.cost.min()))
        return aiq(self.frontier.cost, self.frontier.quality, norm=norm, low=start, high=max(float(cost.max()), start))

    def area_over_zero(self, *, n_bootstrap: int = 200, random_state: int = 0) -> Interval:
        """Mean height of the router's curve over the zero router, over the arms' range of costs.

        The interval is a bootstrap over clusters of queries; curve and hull are computed anew in each resample.
        """
        self._needs_frontier()
        quality, cost = np.asarray(self.log.quality), np.asarray(self.log.cost)
        utility = self.predicted_quality - self.cost_weight * self.predicted_cost
        groups = query_groups(self.log)

        def height(rows: NDArray[np.intp]) -> float:
            curve = sweep(utility[rows], self.predicted_cost[rows], quality[rows], cost[rows], n_points=60)
            return area_over_zero(curve.cost, curve.quality, cost[rows].mean(axis=0), quality[rows].mean(axis=0))

        value = area_over_zero(self.frontier.cost, self.frontier.quality, cost.mean(axis=0), quality.mean(axis=0))
        rng, members = np.random.default_rng(random_state), np.argsort(groups, kind="stable")
        start = np.concatenate(([0], np.cumsum(np.bincount(groups))))
        draws = []
        for _ in range(n_bootstrap):
            picked = rng.integers(len(start) - 1, size=len(start) - 1)
            size = start[picked + 1] - start[picked]
            offset = np.repeat(start[picked] - np.concatenate(([0], np.cumsum(size)[:-1])), size) + np.arange(
                size.sum()
            )
            draws.append(height(members[offset]))
        low, high = np.quantile(draws, [(1 - self.level) / 2, (1 + self.level) / 2])
        return Interval(value, float(low), float(high))

    @property
    def is_two_arm(self) -> bool:
        """Whether RouteLLM's metrics apply: two arms, everything observed."""
        return len(self.log.arms) == 2 and self.log.is_full_information

    def strong_share_curve(self) -> tuple[Floats, Floats]:
        """Share of calls to the arm that is better on average, and quality; by predicted gain."""
        if not self.is_two_arm:
            raise EvaluationError(f"this needs two arms with full information; the log has {len(self.log.arms)}")
        quality = np.asarray(self.log.quality)
        strong = int(quality.mean(axis=0).argmax())
        score = self.predicted_quality[:, strong] - self.predicted_quality[:, 1 - strong]
        return strong_share_curve(score, quality[:, 1 - strong], quality[:, strong])

    def apgr(self) -> float:
        """Area under PGR over the share of strong calls (RouteLLM); two arms only."""
        return apgr(*self.strong_share_curve())

    def apgr_ten_points(self) -> float:
        """RouteLLM's mean over ten shares; two arms only."""
        return apgr_ten_points(*self.strong_share_curve())

    def cpt(self, level: float) -> float:
        """Least share of strong calls that recovers `level` of the performance gap; two arms only."""
        return cpt(level, *self.strong_share_curve())

    @cached_property
    def domains(self) -> nw.DataFrame[Any]:
        """Row per domain: queries, quality of the routing with interval, of the best single arm overall, cost, main arm."""
        if self.log.domain is None:
            raise EvaluationError("the log has no domain column")
        names, index = np.unique(np.asarray(self.log.domain).astype(str), return_inverse=True)
        terms, reference = (
            policy_terms(self.policy, self.log),
            policy_terms(self._always(self._best_single()), self.log),
        )
        columns: dict[str, list[Any]] = {key: [] for key in _DOMAIN_COLUMNS}
        for number, name in enumerate(names):
            rows = np.flatnonzero(index.ravel() == number)
            value = _mean_interval(
                terms[rows], None if self.log.cluster is None else self.log.cluster[rows], self.level
            )
            share = self.policy[rows].mean(axis=0)
            main = int(share.argmax())
            numbers = (value.value, value.low, value.high, float(reference[rows].mean()), self._cost_in(rows))
            row = (name, len(rows), *numbers, self.log.arms[main], float(share[main]))
            for key, item in zip(columns, row, strict=True):
                columns[key].append(item)
        return nw.from_dict(columns, backend="pyarrow")

    def plot_frontier(self, ax: Axes | None = None) -> Axes:
        """Draw the frontier with its intervals, the single arms, the zero router and the oracle."""
        from defer.evaluation.plots import plot_frontier

        return plot_frontier(self, ax)

    def plot_calibration(self, ax: Axes | None = None) -> Axes:
        """Draw predicted against realised quality."""
        from defer.evaluation.plots import plot_calibration

        return plot_calibration(self, ax)

    def plot_load(self, ax: Axes | None = None) -> Axes:
        """Draw the share of every arm."""
        from defer.evaluation.plots import plot_load

        return plot_load(self, ax)

    def plot_domains(self, ax: Axes | None = None) -> Axes:
        """Draw quality by domain with intervals."""
        from defer.evaluation.plots import plot_domains

        return plot_domains(self, ax)

    def to_html(self, path: str | PathLike[str]) -> None:
        """Write the report: one file, no network needed to read it."""
        from defer.report import write_report

        write_report(self, path)

    def log_to_mlflow(self, **options: Any) -> None:
        """Log parameters, metrics with bounds and the report to MLflow; see `defer.tracking.log_evaluation`."""
        from defer.tracking import log_evaluation

        log_evaluation(self, **options)

    @cached_property
    def _oracle(self) -> NDArray[np.intp]:
        return oracle(np.asarray(self.log.quality), None if self.log.cost is None else np.asarray(self.log.cost))

    def _mean_at(self, name: str, arm: NDArray[np.intp]) -> float:
        return float(np.asarray(getattr(self.log, name))[np.arange(len(arm)), arm].mean())

    def _best_single(self) -> int:
        return self.log.arms.index(self.log.summary().best_arm)

    def _always(self, arm: int) -> Floats:
        return np.tile(np.eye(len(self.log.arms))[arm], (len(self.log), 1))

    def _cost_in(self, rows: NDArray[np.intp]) -> float:
        if not self.has_frontier:
            return float("nan")
        return float((self.policy[rows] * np.asarray(self.log.cost)[rows]).sum(axis=1).mean())

    def _needs_frontier(self) -> None:
        if not self.has_frontier:
            raise EvaluationError("a frontier needs a log with every outcome and cost observed")


def evaluate(
    router_or_routing: BaseRouter | RouterPipeline | Routing,
    log: OutcomeLog,
    *,
    baseline: Any = None,
    limit: Limit | None = None,
    level: float = 0.95,
    estimator: Any = "auto",
    interval: str = "auto",
    quality_model: Any = None,
    random_state: int = 0,
) -> Evaluation:
    """Evaluate a router or a routing on held-out queries.

    Parameters
    ----------
    router_or_routing : fitted router or Routing
    log : OutcomeLog
        Queries that the router was not fitted on.  Full information is averaged, bandit logs are evaluated off-policy.
    baseline : arm name, router, Routing or policy array, optional
        Compared with pairwise on the same queries.  Default the single arm of highest mean quality on this log.
    limit : Limit, optional
        Handed to ``route``.
    level : float, default=0.95
        Of all intervals.
    estimator, interval, quality_model
        As for `estimate_value`.
    random_state : int, default=0

    Returns
    -------
    Evaluation

    Raises
    ------
    EvaluationError
        If arms or rows do not fit together.

    Examples
    --------
    >>> from defer.estimators import RandomMixture
    >>> log = OutcomeLog.from_arrays([[0.0]] * 4, [[0.0, 1.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    >>> evaluate(RandomMixture().fit(log.X, log.quality), log).estimate.value
    0.75
    """
    routing, name = router_or_routing, type(router_or_routing).__name__
    cost_weight = 0.0
    if not isinstance(routing, Routing):
        if not hasattr(routing, "route"):
            raise EvaluationError(f"expected a fitted router or a Routing, got {name}")
        if log.X is None:
            raise EvaluationError(
                "the log has no queries (X is None): evaluate a Routing, or read the log with text= or features="
            )
        cost_weight = float(routing.cost_weight)
        if isinstance(routing, RouterPipeline):
            name = " → ".join(type(step).__name__ for _, step in routing.steps)
        routing = routing.route(log.X, limit=limit, random_state=random_state)
    policy = policy_matrix(routing, log)
    order = column_order(routing.arms, log)
    quality, cost = np.full(log.quality.shape, np.nan), np.zeros(log.quality.shape)
    quality[:, order], cost[:, order] = routing.predicted_quality, routing.predicted_cost
    if len(order) < len(log.arms):
        lacking = [arm for index, arm in enumerate(log.arms) if index not in set(order.tolist())]
        raise EvaluationError(
            f"the log has {len(lacking)} arms that the router does not know, the first is {lacking[0]!r}: "
            "evaluate on log.select(arms=[...])"
        )
    options: dict[str, Any] = {"estimator": estimator, "interval": interval, "level": level, "quality_model": quality_model, "random_state": random_state}  # fmt: skip
    estimate = estimate_value(policy, log, **options)
    singles = _singles(log, level)
    if baseline is None:
        baseline = max(singles, key=lambda arm: singles[arm].value) if singles else log.summary().best_arm
    label = f"always {baseline}" if isinstance(baseline, str) else type(baseline).__name__
    reference = policy_matrix(np.full(len(log), baseline) if isinstance(baseline, str) else baseline, log)
    difference = paired_difference(policy, reference, log, level=level, quality_model=quality_model)
    return Evaluation(
        estimate, singles, difference, label, policy, log, quality, cost, cost_weight, routing.limit, level, name
    )


def paired_difference(
    policy: Floats, reference: Floats, log: OutcomeLog, *, level: float, quality_model: Any = None
) -> Interval:
    """Difference in mean quality of two policies on the same queries, with a clustered normal interval.

    On bandit logs the difference of the two DR terms of every round.
    """
    terms = policy_terms(policy - reference, log, quality_model=quality_model)
    return _mean_interval(terms, log.cluster, level)


def policy_terms(policy: Floats, log: OutcomeLog, *, quality_model: Any = None) -> Floats:
    """Quality of every row under a policy, or a difference of two: realised where all was observed, else its DR term."""
    if not log.has_decisions:
        terms = np.einsum("ij,ij->i", policy, np.where(policy != 0, np.asarray(log.quality), 0.0))
        if np.isnan(terms).any():
            raise EvaluationError("the policy takes arms that were not observed")
        return terms
    if log.propensity is None:
        raise EvaluationError(f"the log has no propensities ({len(log)} rows)")
    rows, action = np.arange(len(log)), np.asarray(log.action)
    model = cross_fitted(quality_model, log, "quality", n_splits=5)
    residual = np.asarray(log.quality)[rows, action] - model[rows, action]
    return np.einsum("ij,ij->i", policy, model) + policy[rows, action] / log.propensity * residual


def _mean_interval(terms: Floats, cluster: NDArray[Any] | None, level: float) -> Interval:
    moments = Moments(1)
    moments.update(terms[:, None], cluster)
    low, high = interval_of(DM(), moments, interval="normal", level=level)
    return Interval(float(moments.mean[0]), low, high)


def _singles(log: OutcomeLog, level: float) -> dict[str, Estimate]:
    """Always one arm, for each arm; on bandit logs only arms with enough support."""
    found = {}
    for arm in log.arms:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SupportWarning)
                found[arm] = estimate_value(np.full(len(log), arm), log, level=level)
        except EvaluationError:
            continue
    return found
