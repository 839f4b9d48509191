"""The value of a policy on a log: a plain mean where everything was observed, off-policy where one arm was.

Refuses an interval, with the reason, where the support of the log cannot carry one.  Sources: the references in
`defer.evaluation.estimators`.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defer.evaluation.estimate import Estimate
from defer.evaluation.estimators import DM, DR, DR_OS, Rounds, Switch, ValueEstimator, as_estimator
from defer.evaluation.intervals import FINITE_SAMPLE, INTERVALS, default_interval, independent_rows, interval_of
from defer.evaluation.moments import Moments, WeightMoments
from defer.evaluation.outcome_model import OutcomeModels
from defer.evaluation.policies import policy_matrix
from defer.evaluation.realised import check_decided, is_logged_in_part, logged_outcome
from defer.evaluation.running import BIAS_NOTE, LEAST_SAMPLE_SIZE, RunningValue, poor_support
from defer.exceptions import EvaluationError, SupportWarning
from defer.portfolios.outcomes import OutcomeLog

__all__ = [
    "check_options",
    "estimate_value",
    "largest_weight",
    "tune_parameter",
    "uniform_policy",
    "value_under",
    "warn_of_support",
]

Floats = NDArray[np.float64]

_GRID = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1e3, 1e4, np.inf)
_MODELLED = ("dm", "dr", "drps", "dros", "switch", "sndr")


def estimate_value(
    policy_or_routing: Any,
    log: OutcomeLog,
    *,
    estimator: str | ValueEstimator = "auto",
    interval: str = "auto",
    level: float = 0.95,
    quality_model: Any = None,
    quality_range: tuple[float, float] | None = None,
    max_weight: float | None = None,
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
        plain mean on full-information logs and DR on bandit logs.  Intervals of ``clipped, dm, drps, dros, switch`` do not
        hold their bias.  ``"switch"`` and ``"dros"`` by name have their parameter
        tuned by the estimated mean squared error; objects keep theirs.
    interval : {"auto", "normal", "student", "empirical_bernstein", "hoeffding", "bootstrap"}, default="auto"
        Clustered where the log has clusters or repeats texts.  "auto" is normal, Student with fewer than 100 independent
        rows, or a refusal where the support cannot carry it.
    level : float, default=0.95
    quality_model : array of shape (n, m), estimator or None
        Modelled quality for DM, DR and their kin, or a scikit-learn regressor or router to be cross-fitted (grouped by
        cluster).  None cross-fits a ridge regression on numeric queries, and each arm's mean otherwise.
    quality_range : (float, float), optional
        Range of possible quality for the Bernstein and Hoeffding bounds; default [0, 1].  Widened to what was observed
        and modelled.
    max_weight : float, optional
        Largest possible importance weight for the two bounds.  Default the largest ratio of the policy to the log's
        `policy`, where the log has that; else the largest observed weight, and a warning says that the bound rests on it.
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
    check_options(log, estimator, interval, level)
    estimate = value_under(
        policy_matrix(policy_or_routing, log), log, OutcomeModels(log, quality_model, n_splits=n_splits),
        estimator=estimator, interval=interval, level=level, quality_range=quality_range, max_weight=max_weight,
        n_bootstrap=n_bootstrap, random_state=random_state,
    )  # fmt: skip
    warn_of_support(estimate, stacklevel=3)
    return estimate


def check_options(log: OutcomeLog, estimator: str | ValueEstimator, interval: str, level: float) -> None:
    """Raise EvaluationError on what is no log, and on a level, interval or estimator that there is not."""
    if not isinstance(log, OutcomeLog):
        raise EvaluationError(
            f"log must be an OutcomeLog, got {type(log).__name__}; OutcomeLog.from_wide(frame) makes one of a frame"
        )
    if not 0.0 < level < 1.0:
        raise EvaluationError(f"level must be in (0, 1), got {level!r}")
    if interval not in ("auto", *INTERVALS):
        raise EvaluationError(f"interval must be 'auto' or one of {INTERVALS}, got {interval!r}")
    if isinstance(estimator, str) and estimator not in ("auto", "full"):
        as_estimator(estimator)


def warn_of_support(estimate: Estimate, *, stacklevel: int) -> None:
    """Warn of what an off-policy estimate notes about its support."""
    notes = [note for note in estimate.warnings if not note.startswith(BIAS_NOTE)]
    if notes and estimate.estimator != "full":
        warnings.warn("; ".join(notes), SupportWarning, stacklevel=stacklevel)


def value_under(
    policy: Floats,
    log: OutcomeLog,
    models: OutcomeModels,
    *,
    estimator: str | ValueEstimator = "auto",
    interval: str = "auto",
    level: float = 0.95,
    quality_range: tuple[float, float] | None = None,
    max_weight: float | None = None,
    n_bootstrap: int = 1000,
    random_state: int = 0,
) -> Estimate:
    """`estimate_value` of a checked policy (n, m), with outcome models that are at hand, and without warnings."""
    if not is_logged_in_part(log) and estimator in ("auto", "full"):
        return _full_information(policy, log, models.groups, quality_range, interval, level, n_bootstrap, random_state)
    if not log.has_decisions:
        raise EvaluationError("this log has full information: the value is a plain mean, leave estimator='auto'")
    used = _Logged(policy, log, estimator, max_weight)
    estimates = [
        used.estimate(name, models, interval, level, quality_range, n_bootstrap, random_state)
        for name in ("quality", "cost", "latency")
        if getattr(log, name) is not None
    ]
    return replace(estimates[0], others=tuple(estimates[1:]))


def _full_information(
    policy: Floats, log: OutcomeLog, groups: NDArray[np.intp] | None, quality_range: tuple[float, float] | None,
    interval: str, level: float, n_bootstrap: int, seed: int,
) -> Estimate:  # fmt: skip
    estimates = []
    for name in ("quality", "cost", "latency"):
        table = getattr(log, name)
        if table is None:
            continue
        values = np.asarray(table)
        needed = policy > 0
        gaps = np.flatnonzero((needed & np.isnan(values)).any(axis=1))
        if len(gaps):
            reason = (
                f"{name} of an arm that the policy takes was not observed in {len(gaps)} of {len(log)} rows, "
                f"the first is row {gaps[0]}"
            )
            estimates.append(_unobserved(name, reason, len(log), float(len(log)), 1.0, "full", level))
            continue
        realised = np.einsum("ij,ij->i", policy, np.where(needed, values, 0.0))
        moments = Moments(1, n_bootstrap if interval == "bootstrap" else 0, seed)
        moments.update(realised[:, None], groups)
        kind, independent = default_interval(moments) if interval == "auto" else interval, independent_rows(moments)
        possible = (quality_range or (0.0, 1.0)) if name == "quality" else (0.0, 0.0)
        span = float(max(np.nanmax(values), possible[1]) - min(np.nanmin(values), possible[0]))
        low, high = interval_of(DM(), moments, interval=kind, level=level, span=span)
        notes: tuple[str, ...] = ()
        if independent == 1:
            notes = ("one independent query gives no interval",)
        elif independent < LEAST_SAMPLE_SIZE and kind not in FINITE_SAMPLE:
            notes = (f"{independent} independent queries are too few for an interval to be relied on",)
        value, n = float(moments.mean[0]), len(log)
        estimates.append(Estimate(value, low, high, n, float(n), 1.0, "full", kind, level, notes, name))
    return replace(estimates[0], others=tuple(estimates[1:]))


class _Logged:
    """A policy on a bandit log: its weights, and what they can carry."""

    def __init__(
        self, policy: Floats, log: OutcomeLog, estimator: str | ValueEstimator, max_weight: float | None
    ) -> None:
        self.policy, self.log, self.action = policy, log, np.asarray(log.action)
        check_decided(log)
        self.kind: ValueEstimator = DR() if estimator == "auto" else as_estimator(estimator)
        self.is_tuned = isinstance(estimator, str) and estimator in ("switch", "dros")
        self.rows = np.arange(len(log))
        chosen = policy[self.rows, self.action]
        self.weight = chosen if log.propensity is None else chosen / log.propensity
        if log.propensity is None and self.kind.name not in ("dm", "rm"):
            raise EvaluationError(
                f"the log has no propensities ({len(log)} rows); only 'dm' can do without, and 'rm' under uniform logging"
            )
        self.refuse = _lacks_support(policy, chosen, log)
        if self.refuse.startswith("the log is deterministic"):
            if self.kind.uses_weights and estimator != "auto":
                raise EvaluationError(self.refuse)
            self.kind = DM()
        if self.kind.name == "rm":
            _check_replay(self.weight)
        self.weights = WeightMoments()
        self.weights.update(self.weight)
        self.max_weight = largest_weight(policy, log) if max_weight is None and not self.refuse else max_weight

    def estimate(
        self, name: str, models: OutcomeModels, interval: str, level: float,
        quality_range: tuple[float, float] | None, n_bootstrap: int, seed: int,
    ) -> Estimate:  # fmt: skip
        kind, (outcome, gap) = self.kind, logged_outcome(self.log, name)
        if gap:
            ess, largest = self.weights.effective_sample_size, self.weights.largest
            return _unobserved(name, gap, len(self.log), ess, largest, kind.name, level)
        predicted = expected = None
        if kind.name in _MODELLED:
            model = models[name]
            predicted, expected = model[self.rows, self.action], np.einsum("ij,ij->i", self.policy, model)
            if self.is_tuned:
                kind = tune_parameter(kind, Rounds(self.weight, outcome, predicted, expected))
        value = RunningValue(kind, n_bootstrap=n_bootstrap if interval == "bootstrap" else 0, seed=seed, outcome=name)
        value.update(self.weight, outcome, predicted=predicted, expected=expected, cluster=models.groups)
        return value.result(
            interval=interval, level=level, outcome_range=quality_range if name == "quality" else None,
            max_weight=self.max_weight, refuse=self.refuse, notes=self._notes(),
        )  # fmt: skip

    def _notes(self) -> tuple[str, ...]:
        if self.log.propensity is None:
            return ("the log has no propensities",)
        return () if self.kind.uses_weights else poor_support(self.weights)


def largest_weight(policy: Floats, log: OutcomeLog) -> float | None:
    """Largest importance weight that a draw of the logging policy could have had; None where that is not known."""
    if log.policy is None:
        return None
    logging = np.asarray(log.policy)
    return float(np.divide(policy, logging, out=np.zeros_like(policy), where=logging > 0).max())


def _check_replay(weight: Floats) -> None:
    used = weight[weight > 0]
    wrong = np.flatnonzero(~np.isclose(used, used[:1], rtol=1e-9)) if len(used) else used
    if len(wrong):
        raise EvaluationError(
            f"'rm' is the mean of the rows in which a deterministic policy agrees with a uniform log, and here {len(wrong)} "
            f"of {len(used)} such rows have another weight than the first ({used[wrong[0]]:.4g}, {used[0]:.4g}): use 'snips'"
        )


def _unobserved(name: str, reason: str, n: int, ess: float, largest: float, estimator: str, level: float) -> Estimate:
    """Estimate of an outcome that cannot be had; without quality there is no evaluation at all."""
    if name == "quality":
        raise EvaluationError(reason)
    nan = float("nan")
    return Estimate(nan, nan, nan, n, ess, largest, estimator, "refused", level, (reason,), name)


def _lacks_support(policy: Floats, chosen: Floats, log: OutcomeLog) -> str:
    """Why no interval can be had at any sample size, or an empty string."""
    if log.propensity is None:
        return ""
    if (log.propensity == 1.0).all():
        count = int((chosen < 1.0 - 1e-9).sum())
        if count:
            return (
                f"the log is deterministic and disagrees with the policy in {count} of {len(chosen)} rows: "
                "only 'dm' can be had"
            )
    elif log.policy is not None:
        lost = np.where(np.asarray(log.policy) == 0.0, policy, 0.0).sum(axis=1)
        if lost.mean() > 1e-9:
            return (
                f"{lost.mean():.2%} of the policy's mass is on arms that the log never takes, "
                f"in {int((lost > 0).sum())} rows"
            )
    return ""


def tune_parameter(kind: ValueEstimator, rounds: Rounds) -> ValueEstimator:
    """Threshold of SWITCH or shrinkage of DRos with the least estimated mean squared error.

    Variance / n + bias^2, the bias bounded by ``|mean((w - v(w)) (r - q))|``, over a grid of multiples of the median weight.

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


def uniform_policy(log: OutcomeLog) -> Floats:
    """Uniform policy over the arms of a log, shape (n, m).

    Examples
    --------
    >>> uniform_policy(OutcomeLog.from_arrays(None, [[1.0, 0.0]])).tolist()
    [[0.5, 0.5]]
    """
    return np.full(log.quality.shape, 1.0 / len(log.arms))
