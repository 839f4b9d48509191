"""The value of a policy on a log: a plain mean where everything was observed, off-policy where one arm was.

Refuses an interval, with the reason, where the support of the log cannot carry one.  Source: card x8 and the references in
`defer.evaluation.estimators`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.evaluation.estimators import DM, DR, DR_OS, Rounds, Switch, ValueEstimator, as_estimator
from defer.evaluation.intervals import INTERVALS, interval_of
from defer.evaluation.moments import Moments, WeightMoments
from defer.evaluation.outcome_model import cross_fitted
from defer.evaluation.policies import policy_matrix
from defer.exceptions import EvaluationError, SupportWarning
from defer.portfolios.outcomes import OutcomeLog

__all__ = ["Estimate", "estimate_value", "tune_parameter", "uniform_policy"]

Floats = NDArray[np.float64]

# Below the first an interval is refused, below the second support is called poor.
LEAST_SAMPLE_SIZE, POOR_SAMPLE_SIZE, POOR_SHARE = 30.0, 100.0, 0.05
_GRID = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1e3, 1e4, np.inf)


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
        return self._other("cost")

    @property
    def latency(self) -> Estimate:
        """Mean latency, seconds.  Raises EvaluationError where the log has no latency."""
        return self._other("latency")

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

    def _other(self, name: str) -> Estimate:
        for estimate in self.others:
            if estimate.outcome == name:
                return estimate
        raise EvaluationError(f"the log has no {name}")


def estimate_value(
    policy_or_routing: Any,
    log: OutcomeLog,
    *,
    estimator: str | ValueEstimator = "auto",
    interval: str = "auto",
    level: float = 0.95,
    quality_model: Any = None,
    quality_range: tuple[float, float] | None = None,
    n_splits: int = 5,
    n_bootstrap: int = 1000,
    random_state: int = 0,
) -> Estimate:
    """Mean quality, cost and latency that a policy would have had on the queries of a log.

    Parameters
    ----------
    policy_or_routing : array of shape (n, m), array of n arm names or indexes, Routing, or fitted router
        The target policy.  A router routes the log's queries without a limit.
    log : OutcomeLog
    estimator : str or ValueEstimator, default="auto"
        One of ``ips, clipped, snips, rm, dm, dr, drps, dros, switch, sndr``, or an object with parameters.  "auto" is the
        plain mean on full-information logs and DR on bandit logs.  ``"switch"`` and ``"dros"`` by name have their parameter
        tuned by the estimated mean squared error; objects keep theirs.
    interval : {"auto", "normal", "student", "empirical_bernstein", "hoeffding", "bootstrap"}, default="auto"
        Clustered where the log has clusters.  "auto" is normal, or a refusal where the support cannot carry it.
    level : float, default=0.95
    quality_model : array of shape (n, m), estimator or None
        Modelled quality for DM, DR and their kin, or a scikit-learn regressor or router to be cross-fitted (grouped by
        cluster).  None cross-fits a ridge regression on numeric queries, and each arm's mean otherwise.
    quality_range : (float, float), optional
        Range of possible quality for the Bernstein and Hoeffding bounds; default the observed one with [0, 1].
    n_splits : int, default=5
        Folds of the cross-fitting.
    n_bootstrap : int, default=1000
        Replicates of the Poisson bootstrap; nothing is fitted again in a replicate.
    random_state : int, default=0

    Returns
    -------
    Estimate
        Of quality; `cost` and `latency` ride along.

    Raises
    ------
    EvaluationError
        If arms or rows do not fit, the policy is no distribution, propensities are missing, or a weighted estimator is
        asked for although the log is deterministic and disagrees with the policy.

    Warns
    -----
    SupportWarning
        If the log hardly covers the policy.

    Examples
    --------
    >>> log = OutcomeLog.from_arrays(None, [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> estimate_value(np.full((3, 2), 0.5), log).value.__round__(4)
    0.6667
    """
    if not 0.0 < level < 1.0:
        raise EvaluationError(f"level must be in (0, 1), got {level!r}")
    if interval not in ("auto", *INTERVALS):
        raise EvaluationError(f"interval must be 'auto' or one of {INTERVALS}, got {interval!r}")
    if isinstance(estimator, str) and estimator != "auto":
        as_estimator(estimator)
    policy = policy_matrix(policy_or_routing, log)
    settings = (interval, level, n_bootstrap, random_state)
    if not log.has_decisions:
        return _full_information(policy, log, *settings, allowed=estimator in ("auto", "full"))
    return _off_policy(policy, log, estimator, quality_model, quality_range, n_splits, *settings)


def _full_information(
    policy: Floats, log: OutcomeLog, interval: str, level: float, n_bootstrap: int, seed: int, *, allowed: bool
) -> Estimate:
    if not allowed:
        raise EvaluationError("this log has full information: the value is a plain mean, leave estimator='auto'")
    kind = "normal" if interval == "auto" else interval
    estimates = []
    for name in ("quality", "cost", "latency"):
        table = getattr(log, name)
        if table is None:
            continue
        values = np.asarray(table)
        needed = policy > 0
        gaps = (needed & np.isnan(values)).any(axis=1)
        if gaps.any():
            message = f"{name} of an arm that the policy takes was not observed in {int(gaps.sum())} of {len(log)} rows, the first is row {int(np.flatnonzero(gaps)[0])}"
            if name == "quality":
                raise EvaluationError(message)
            estimates.append(_refused(float("nan"), len(log), float(len(log)), 1.0, "full", level, (message,), name))
            continue
        realised = np.einsum("ij,ij->i", policy, np.where(needed, values, 0.0))
        moments = Moments(1, n_bootstrap if kind == "bootstrap" else 0, seed)
        moments.update(realised[:, None], log.cluster)
        low, high = interval_of(
            DM(), moments, interval=kind, level=level, span=float(np.nanmax(values) - np.nanmin(values))
        )
        notes = () if len(log) > 1 else ("one row gives no interval",)
        estimates.append(
            Estimate(
                float(moments.mean[0]), low, high, len(log), float(len(log)), 1.0, "full", kind, level, notes, name
            )
        )
    return replace(estimates[0], others=tuple(estimates[1:]))


def _off_policy(
    policy: Floats, log: OutcomeLog, estimator: str | ValueEstimator, quality_model: Any,
    quality_range: tuple[float, float] | None, n_splits: int, interval: str, level: float, n_bootstrap: int, seed: int,
) -> Estimate:  # fmt: skip
    action = np.asarray(log.action)
    free = np.flatnonzero(action < 0)
    if len(free):
        raise EvaluationError(
            f"{len(free)} of {len(log)} rows have no logged arm, the first is row {free[0]}; select the others"
        )
    if log.propensity is None and not (
        isinstance(estimator, (str, ValueEstimator)) and as_name(estimator) in ("dm", "rm")
    ):
        raise EvaluationError(
            f"the log has no propensities ({len(log)} rows); only 'dm' can do without, and 'rm' under uniform logging"
        )
    rows = np.arange(len(log))
    chosen = policy[rows, action]
    propensity = np.ones(len(log)) if log.propensity is None else log.propensity
    weight = chosen / propensity
    notes, refuse = _support(policy, chosen, weight, log)
    kind, is_tuned = _pick(estimator, weight, log)
    if "deterministic" in refuse:
        if kind.uses_weights and estimator != "auto":
            raise EvaluationError(refuse)
        kind = DM()
    stats = WeightMoments()
    stats.update(weight)
    if kind.uses_weights and stats.effective_sample_size < LEAST_SAMPLE_SIZE and not refuse:
        refuse = f"effective sample size {stats.effective_sample_size:.3g} is below {LEAST_SAMPLE_SIZE:g}"
    estimates = []
    for name in ("quality", "cost", "latency"):
        table = getattr(log, name)
        if table is None:
            continue
        outcome = np.asarray(table)[rows, action]
        missing = np.flatnonzero(np.isnan(outcome))
        if len(missing):
            message = f"{name} of the logged arm is missing in {len(missing)} of {len(log)} rows, the first is row {missing[0]}"
            if name == "quality":
                raise EvaluationError(message)
            estimates.append(
                _refused(
                    float("nan"),
                    len(log),
                    stats.effective_sample_size,
                    stats.largest,
                    kind.name,
                    level,
                    (message,),
                    name,
                )
            )
            continue
        model = (
            cross_fitted(quality_model if name == "quality" else None, log, name, n_splits=n_splits)
            if _needs_model(kind)
            else None
        )
        if model is None:
            zero = np.zeros(1)
            rounds = Rounds(weight, outcome, zero, zero)
        else:
            rounds = Rounds(weight, outcome, model[rows, action], np.einsum("ij,ij->i", policy, model))
        used = tune_parameter(kind, rounds) if is_tuned else kind
        bounds = quality_range if name == "quality" and quality_range is not None else _range(outcome, name)
        estimates.append(
            _estimate(used, rounds, log.cluster, stats, interval, level, n_bootstrap, seed, notes, refuse, name, bounds)
        )
    first = replace(estimates[0], others=tuple(estimates[1:]))
    if first.warnings:
        warnings.warn("; ".join(first.warnings), SupportWarning, stacklevel=4)
    return first


def as_name(estimator: str | ValueEstimator) -> str:
    """Name of an estimator given by name or as an object."""
    return estimator if isinstance(estimator, str) else estimator.name


def _pick(estimator: str | ValueEstimator, weight: Floats, log: OutcomeLog) -> tuple[ValueEstimator, bool]:
    if estimator == "auto":
        return DR(), False
    return as_estimator(estimator), isinstance(estimator, str) and estimator in ("switch", "dros")


def _needs_model(kind: ValueEstimator) -> bool:
    return kind.name in ("dm", "dr", "drps", "dros", "switch", "sndr")


def _range(outcome: Floats, name: str) -> tuple[float, float]:
    if name == "quality":
        return min(0.0, float(outcome.min())), max(1.0, float(outcome.max()))
    return 0.0, float(outcome.max())


def _estimate(
    kind: ValueEstimator, rounds: Rounds, cluster: Any, stats: WeightMoments, interval: str, level: float,
    n_bootstrap: int, seed: int, notes: tuple[str, ...], refuse: str, name: str, bounds: tuple[float, float],
) -> Estimate:  # fmt: skip
    chosen = "normal" if interval == "auto" else interval
    moments = Moments(kind.k, n_bootstrap if chosen == "bootstrap" else 0, seed)
    moments.update(kind.terms(rounds), cluster)
    value = float(kind.value(moments.mean))
    ess, largest = stats.effective_sample_size, stats.largest
    # A bound that holds at every sample size needs no large effective sample; a lack of support refuses every interval.
    finite_sample = interval in ("empirical_bernstein", "hoeffding")
    is_small = refuse.startswith("effective")
    if refuse and not (is_small and (finite_sample or interval == "bootstrap")):
        return _refused(value, moments.n, ess, largest, kind.name, level, (*notes, f"no interval: {refuse}"), name)
    span = None if kind.is_ratio else kind.span(largest, *bounds)
    low, high = interval_of(kind, moments, interval=chosen, level=level, span=span)
    return Estimate(value, low, high, moments.n, ess, largest, kind.name, chosen, level, notes, name)


def _refused(
    value: float, n: int, ess: float, largest: float, estimator: str, level: float, notes: tuple[str, ...], name: str
) -> Estimate:
    nan = float("nan")
    return Estimate(value, nan, nan, n, ess, largest, estimator, "refused", level, notes, name)


def _support(policy: Floats, chosen: Floats, weight: Floats, log: OutcomeLog) -> tuple[tuple[str, ...], str]:
    """Notes on support, and the reason to refuse an interval, if there is one."""
    if log.propensity is None:
        return ("the log has no propensities",), ""
    if (log.propensity == 1.0).all():
        if (chosen < 1.0 - 1e-9).any():
            count = int((chosen < 1.0 - 1e-9).sum())
            return (
                (),
                f"the log is deterministic and disagrees with the policy in {count} of {len(chosen)} rows: only 'dm' can be had",
            )
        return (), ""
    if log.policy is not None:
        lost = np.where(np.asarray(log.policy) == 0.0, policy, 0.0).sum(axis=1)
        if lost.mean() > 1e-9:
            return (
                (),
                f"{lost.mean():.2%} of the policy's mass is on arms that the log never takes, in {int((lost > 0).sum())} rows",
            )
    square = float(weight @ weight)
    ess = float(weight.sum()) ** 2 / square if square > 0 else 0.0
    if ess < max(POOR_SAMPLE_SIZE, POOR_SHARE * len(weight)):
        return (
            f"support is poor: the log's {len(weight)} rows weigh as much as {ess:.0f} drawn by the policy itself "
            f"(largest weight {weight.max():.4g})",
        ), ""
    return (), ""


def tune_parameter(kind: ValueEstimator, rounds: Rounds) -> ValueEstimator:
    """Threshold of SWITCH or shrinkage of DRos with the least estimated mean squared error.

    Variance / n + bias^2, the bias bounded by |mean((w - v(w)) (r - q))|, over a grid of quantiles of the weights.

    Examples
    --------
    >>> ones = np.ones(50)
    >>> tune_parameter(Switch(), Rounds(ones, ones, ones, ones))
    Switch(threshold=1.0)
    """
    residual = rounds.outcome - rounds.predicted
    best, least = kind, np.inf
    scale = max(float(np.median(rounds.weight[rounds.weight > 0], axis=0)) if (rounds.weight > 0).any() else 1.0, 1e-12)
    for factor in _GRID:
        parameter = scale * factor
        trial: ValueEstimator = (
            Switch(parameter) if kind.name == "switch" else DR_OS(parameter**2 if np.isfinite(parameter) else 1e300)
        )
        terms = trial.terms(rounds)[:, 0]
        bias = float(np.mean((rounds.weight - trial.changed(rounds.weight)) * residual))  # type: ignore[attr-defined]
        error = float(terms.var()) / len(terms) + bias**2
        if error < least:
            best, least = trial, error
    return best


def uniform_policy(log: OutcomeLog) -> ArrayLike:
    """Uniform policy over the arms of a log, shape (n, m)."""
    return np.full(log.quality.shape, 1.0 / len(log.arms))
