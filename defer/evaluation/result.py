"""What an evaluation found: values with intervals, frontier, domains, load, calibration, as frames, pictures and a page."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm as normal_distribution

from defer.evaluation.calibration import Calibration, calibration
from defer.evaluation.domains import domain_table
from defer.evaluation.estimate import Estimate
from defer.evaluation.frontier import Frontier, Resweep, aiq, oracle, sweep
from defer.evaluation.intervals import Interval, mean_interval
from defer.evaluation.realised import is_logged_in_part, logged_outcome, outcome_table
from defer.evaluation.resampling import bootstrap_interval
from defer.evaluation.running import LEAST_SAMPLE_SIZE
from defer.evaluation.two_arm import apgr, apgr_ten_points, cpt, strong_share_curve
from defer.exceptions import EvaluationError
from defer.portfolios.limits import Limit
from defer.portfolios.outcomes import OutcomeLog
from defer.portfolios.splitting import interval_groups, query_groups
from defer.portfolios.zero_router import area_over_zero, upper_hull

if TYPE_CHECKING:
    from os import PathLike

    from matplotlib.axes import Axes

__all__ = ["Evaluation"]

Floats = NDArray[np.float64]

# Operating points of a curve.
_POINTS = 100


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
    cost_difference : Interval or None
        Paired difference in cost, US dollars per query; None where costs are not known.
    baseline : str
        What the baseline is.
    is_hindsight : bool
        Whether the baseline was chosen as the best arm on these very queries, which favours it.
    policy : array of shape (n, m)
    log : OutcomeLog
    predicted_quality : array of shape (n, m) or None
        In the order of the log's arms; None where a bare policy was evaluated.
    predicted_cost : array of shape (n, m) or None
        US dollars; None where the router predicts no costs.
    limit : Limit or None
    level : float
    router : str
        Short description for the report.
    configuration : dict of str to str
        Parameters and operating point of the router, as text.
    call : str
        The call of `evaluate` that gives this, for the report.
    n_leaked : int or None
        Queries that are also in the training log; None where that is not known: no training log was given, or queries are
        not texts and it is another log.
    quality_model : object
        What `evaluate` was given.
    tables : dict of str to array of shape (n, m)
        What `outcomes` has worked out so far.
    """

    estimate: Estimate
    singles: dict[str, Estimate]
    difference: Interval
    cost_difference: Interval | None
    baseline: str
    policy: Floats = field(repr=False)
    log: OutcomeLog = field(repr=False)
    predicted_quality: Floats | None = field(default=None, repr=False)
    predicted_cost: Floats | None = field(default=None, repr=False)
    is_hindsight: bool = False
    limit: Limit | None = None
    level: float = 0.95
    router: str = ""
    configuration: dict[str, str] = field(default_factory=dict, repr=False)
    call: str = ""
    n_leaked: int | None = None
    quality_model: Any = field(default=None, repr=False)
    tables: dict[str, Floats] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        return f"Evaluation({self.estimate}; {self.difference} against {self.baseline})"

    @property
    def frame(self) -> nw.DataFrame[Any]:
        """Row per policy: the routing, every single arm, and the logging policy (bandit logs) or the oracle (full ones)."""
        outcomes = ["quality", *(other.outcome for other in self.estimate.others)]
        rows = []
        for label, estimate in (("routing", self.estimate), *self.singles.items()):
            rows.append([label, *(getattr(estimate.of(name), end) for name in outcomes for end in _ENDS)])
        if self.is_off_policy and self.log.is_bandit:
            logged = [self.logged(name) for name in outcomes]
            rows.append(["logging policy", *(getattr(mean, end) for mean in logged for end in _ENDS)])
        if self.log.is_full_information:
            nan = float("nan")
            means = [(self._oracle_mean(name), nan, nan) for name in outcomes]
            rows.append(["oracle", *(number for mean in means for number in mean)])
        names = ["policy", *(name + suffix for name in outcomes for suffix in ("", "_low", "_high"))]
        return nw.from_dict(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)), backend="pyarrow")

    def logged(self, name: str) -> Interval:
        """Mean of what was observed under the logging policy of a bandit log."""
        return mean_interval(logged_outcome(self.log, name)[0], self.groups, self.level)

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
        """Predicted against realised quality, over all observed pairs; on bandit logs weighted by inverse propensities.

        Raises
        ------
        EvaluationError
            If a bare policy was evaluated, which predicts nothing, or a bandit log has no propensities.
        """
        if self.predicted_quality is None:
            raise EvaluationError("a policy without predictions has no calibration: evaluate the router or its Routing")
        if not self.has_calibration:
            raise EvaluationError(f"the log has no propensities ({len(self.log)} rows): what was observed was selected")
        weight = None if self.log.propensity is None or not self.is_off_policy else 1.0 / self.log.propensity
        return calibration(self.predicted_quality, np.asarray(self.log.quality), arms=self.log.arms, weight=weight)

    @property
    def has_calibration(self) -> bool:
        """Whether predictions can be compared with what was realised."""
        return self.predicted_quality is not None and not (self.is_off_policy and self.log.propensity is None)

    @property
    def is_off_policy(self) -> bool:
        """Whether a logging policy chose what was observed, so that values are estimated and not averaged."""
        return is_logged_in_part(self.log)

    @property
    def has_frontier(self) -> bool:
        """Whether a frontier can be drawn: the router predicts costs, and every outcome is known or can be estimated."""
        if self.predicted_quality is None or self.predicted_cost is None or self.log.cost is None:
            return False
        if self.is_off_policy:
            return self.log.is_bandit and not (self.estimate.is_refused or self.estimate.cost.is_refused)
        return self.log.is_full_information and bool(np.isfinite(self.log.cost).all())

    @cached_property
    def frontier(self) -> Frontier:
        """The router's operating points on this log, at every price of cost.

        On bandit logs these are doubly robust estimates; where the effective sample size of a point cannot carry an
        interval, its standard errors are NaN.

        Raises
        ------
        EvaluationError
            If `has_frontier` is False.
        """
        self._needs_frontier()
        if not self.is_off_policy:
            return sweep(*self._swept(), n_points=_POINTS, cluster=self.groups)
        importance = np.zeros(self.log.quality.shape)
        importance[np.arange(len(self.log)), self.log.action] = 1.0 / np.asarray(self.log.propensity)
        curve = sweep(*self._swept(), n_points=_POINTS, cluster=self.groups, importance=importance)
        carried = curve.ess >= LEAST_SAMPLE_SIZE
        errors = {name: np.where(carried, getattr(curve, name), np.nan) for name in ("quality_se", "cost_se")}
        return replace(curve, **errors)

    @property
    def operating_points(self) -> nw.DataFrame[Any]:
        """Row per operating point of the frontier, with intervals and the share of every arm."""
        return self.frontier.frame(self.log.arms, z=self.z)

    @cached_property
    def zero_router(self) -> tuple[Floats, Floats]:
        """Vertices (cost, quality) of the hull of the single arms on this log."""
        self._needs_frontier()
        return upper_hull(self.outcomes("cost").mean(axis=0), self.outcomes("quality").mean(axis=0))

    def aiq(self, *, norm: Any = "range") -> float:
        """Average quality of the hull of the router's points over the arms' range of costs that it covers."""
        return self._aiq(self.frontier.cost, self.frontier.quality, self.outcomes("cost").mean(axis=0), norm)

    def aiq_interval(self, *, norm: Any = "range", n_bootstrap: int = 200, random_state: int = 0) -> Interval:
        """`aiq` with an interval, as for `area_over_zero`."""
        cost, value, resweep = self.outcomes("cost"), self.aiq(norm=norm), self._resweep()

        def statistic(rows: NDArray[np.intp]) -> float:
            weight = np.bincount(rows, minlength=len(cost)).astype(np.float64)
            return self._aiq(*resweep.points(weight, n_points=_POINTS), weight @ cost / len(rows), norm)

        return self._curve_interval(value, statistic, n_bootstrap, random_state)

    def area_over_zero(self, *, n_bootstrap: int = 200, random_state: int = 0) -> Interval:
        """Mean height of the router's curve over the zero router, over the arms' range of costs.

        The interval is a basic bootstrap over clusters of queries; curve and hull are computed anew in each resample.  None
        is given where the log cannot carry an interval for an arm of the hull.
        """
        self._needs_frontier()
        quality, cost = self.outcomes("quality"), self.outcomes("cost")
        value = area_over_zero(self.frontier.cost, self.frontier.quality, cost.mean(axis=0), quality.mean(axis=0))

        resweep = self._resweep()

        def statistic(rows: NDArray[np.intp]) -> float:
            weight = np.bincount(rows, minlength=len(cost)).astype(np.float64)
            points = resweep.points(weight, n_points=_POINTS)
            return area_over_zero(*points, weight @ cost / len(rows), weight @ quality / len(rows))

        return self._curve_interval(value, statistic, n_bootstrap, random_state)

    @property
    def is_two_arm(self) -> bool:
        """Whether RouteLLM's metrics apply: a router over two arms, everything observed, one arm better on average."""
        if len(self.log.arms) != 2 or not self.log.is_full_information or self.predicted_quality is None:
            return False
        means = np.asarray(self.log.quality).mean(axis=0)
        return bool(means[0] != means[1])

    def strong_share_curve(self) -> tuple[Floats, Floats]:
        """Share of calls to the arm that is better on average, and quality; by predicted gain."""
        return strong_share_curve(*self._two_arm_scores())

    def apgr(self) -> float:
        """Area under PGR over the share of strong calls (RouteLLM); two arms only."""
        return apgr(*self.strong_share_curve())

    def apgr_interval(self, *, n_bootstrap: int = 200, random_state: int = 0) -> Interval:
        """`apgr` with a bootstrap interval over clusters of queries."""
        scores = self._two_arm_scores()

        def statistic(rows: NDArray[np.intp]) -> float:
            try:
                return apgr(*strong_share_curve(*(values[rows] for values in scores)))
            except EvaluationError:  # in this resample the weak arm was the better one
                return float("nan")

        return self._bootstrap(self.apgr(), statistic, n_bootstrap, random_state)

    def apgr_ten_points(self) -> float:
        """RouteLLM's mean over ten shares; two arms only."""
        return apgr_ten_points(*self.strong_share_curve())

    def cpt(self, level: float) -> float:
        """Least share of strong calls that recovers `level` of the performance gap; two arms only."""
        return cpt(level, *self.strong_share_curve())

    @cached_property
    def domains(self) -> nw.DataFrame[Any]:
        """Row per domain: queries, quality of the routing with interval, of the best single arm overall, cost, main arm.

        Raises
        ------
        EvaluationError
            If the log has no domain column.
        """
        return domain_table(self)

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

    def log_to_mlflow(self, **options: Any) -> str:
        """Log to MLflow and return the run's identifier; see `defer.tracking.log_evaluation`."""
        from defer.tracking import log_evaluation

        return log_evaluation(self, **options)

    def outcomes(self, name: str) -> Floats:
        """Quality, cost or latency of every arm on every query, shape (n, m); see `outcome_table`."""
        if name not in self.tables:
            self.tables[name] = outcome_table(self.log, name, quality_model=self.quality_model)
        return self.tables[name]

    @cached_property
    def groups(self) -> NDArray[Any] | None:
        """Groups of rows that are not independent, for intervals; None where all are."""
        return interval_groups(self.log)

    @property
    def z(self) -> float:
        """Standard errors to each side of an interval at `level`."""
        return float(normal_distribution.ppf((1 + self.level) / 2))

    def _swept(self) -> tuple[Floats, Floats, Floats, Floats]:
        assert self.predicted_quality is not None
        assert self.predicted_cost is not None
        # At every price of cost, the router's own among them.
        return self.predicted_quality, self.predicted_cost, self.outcomes("quality"), self.outcomes("cost")

    def _resweep(self) -> Resweep:
        self._needs_frontier()
        return Resweep(*self._swept())

    def _aiq(self, cost: Floats, quality: Floats, arm_cost: Floats, norm: Any) -> float:
        start = max(float(arm_cost.min()), float(cost.min()))
        return aiq(cost, quality, norm=norm, low=start, high=max(float(arm_cost.max()), start))

    def _bootstrap(self, value: float, statistic: Any, n_bootstrap: int, seed: int) -> Interval:
        groups = query_groups(self.log)
        low, high = bootstrap_interval(statistic, groups, level=self.level, n_bootstrap=n_bootstrap, random_state=seed)
        # Basic, not percentile: hulls of noisy points are biased upward, and resampling doubles that bias.
        return Interval(value, 2 * value - high, 2 * value - low)

    def _curve_interval(self, value: float, statistic: Any, n_bootstrap: int, seed: int) -> Interval:
        quality, cost = self.outcomes("quality").mean(axis=0), self.outcomes("cost").mean(axis=0)
        corners = np.isin(cost, self.zero_router[0]) & np.isin(quality, self.zero_router[1])
        arms = [arm for arm, is_corner in zip(self.log.arms, corners, strict=True) if is_corner]
        if any(arm not in self.singles or self.singles[arm].is_refused for arm in arms):
            return Interval(value, float("nan"), float("nan"))
        return self._bootstrap(value, statistic, n_bootstrap, seed)

    def _two_arm_scores(self) -> tuple[Floats, Floats, Floats]:
        if not self.is_two_arm:
            raise EvaluationError(
                "this needs a router over two arms of different mean quality and full information; "
                f"the log has {len(self.log.arms)} arms"
            )
        quality, predicted = np.asarray(self.log.quality), np.asarray(self.predicted_quality)
        strong = int(quality.mean(axis=0).argmax())
        return predicted[:, strong] - predicted[:, 1 - strong], quality[:, 1 - strong], quality[:, strong]

    def _oracle_mean(self, name: str) -> float:
        arm = oracle(np.asarray(self.log.quality), None if self.log.cost is None else np.asarray(self.log.cost))
        return float(np.asarray(getattr(self.log, name))[np.arange(len(arm)), arm].mean())

    def _needs_frontier(self) -> None:
        if not self.has_frontier:
            raise EvaluationError(
                "a frontier needs a router with predicted costs, and a log in which every quality and cost was observed "
                "or can be estimated from propensities"
            )


_ENDS = ("value", "low", "high")
