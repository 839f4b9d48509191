"""`evaluate`: everything that is known of a router on held-out queries, in one object.

Value with interval, paired difference to a baseline, frontier against single arms and the zero router, domains, load and
calibration.  Nothing in it was used to fit the router, if the log was held out.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from defer.estimators.base import BaseRouter
from defer.estimators.pipeline import RouterPipeline, describe
from defer.estimators.routing import Routing
from defer.evaluation.estimate import Estimate, best_of
from defer.evaluation.estimators import DR
from defer.evaluation.intervals import FINITE_SAMPLE, Interval, mean_interval
from defer.evaluation.ope import check_options, largest_weight, value_under, warn_of_support
from defer.evaluation.outcome_model import OutcomeModels
from defer.evaluation.policies import column_order, policy_matrix
from defer.evaluation.realised import is_logged_in_part, logged_outcome, policy_terms, pseudo_outcomes
from defer.evaluation.result import Evaluation
from defer.exceptions import EvaluationError, LeakageWarning
from defer.fingerprint import log_hash
from defer.portfolios.limits import Limit
from defer.portfolios.outcomes import OutcomeLog
from defer.portfolios.splitting import shared_texts

__all__ = ["OBSERVERS", "evaluate"]

Floats = NDArray[np.float64]

OBSERVERS: list[Callable[[Evaluation], Any]] = []
"""Called with every finished evaluation, in order; `defer.tracking.autolog` puts itself here."""


def evaluate(
    router_or_routing: BaseRouter | RouterPipeline | Routing | Any,
    log: OutcomeLog,
    *,
    baseline: Any = None,
    limit: Limit | None = None,
    level: float = 0.95,
    estimator: Any = "auto",
    interval: str = "auto",
    quality_model: Any = None,
    train: OutcomeLog | None = None,
    random_state: int = 0,
) -> Evaluation:
    """Evaluate a router, a routing or a bare policy on held-out queries.

    Parameters
    ----------
    router_or_routing : fitted router, Routing, array of shape (n, m) or array of n arm names
        Probabilities or names say what another system did or would do; such a policy has neither frontier nor
        calibration.
    log : OutcomeLog
        Queries that the router was not fitted on.  Full information is averaged, bandit logs are evaluated off-policy.
    baseline : arm name, router, Routing or policy array, optional
        Compared with pairwise on the same queries.  Default the logging policy on bandit logs (what was observed), and
        on others the single arm of highest mean quality: in `train` if that is given and complete, else in hindsight on
        this log, which favours the baseline.  A router is routed under the same `limit`.
    limit : Limit, optional
        Handed to ``route``.
    level : float, default=0.95
        Of all intervals.
    estimator, interval, quality_model
        As for `estimate_value`.
    train : OutcomeLog, optional
        What the router was fitted on, to check that no text stands on both sides, and to choose the baseline.
    random_state : int, default=0

    Returns
    -------
    Evaluation

    Raises
    ------
    EvaluationError
        If arms or rows do not fit together.

    Warns
    -----
    LeakageWarning
        If queries of `log` are also in `train`: equal texts, or, where queries are not texts, the very same log.
    SupportWarning
        If a bandit log hardly covers the policy.

    Examples
    --------
    >>> from defer.estimators import RandomMixture
    >>> log = OutcomeLog.from_arrays([[0.0]] * 4, [[0.0, 1.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    >>> evaluate(RandomMixture().fit(log.X, log.quality), log).estimate.value
    0.75
    """
    check_options(log, estimator, interval, level)
    n_leaked = None if train is None else _leaked(train, log)
    routing, facts = _read(router_or_routing, log, limit, random_state)
    policy, models = policy_matrix(routing, log), OutcomeModels(log, quality_model)
    options: dict[str, Any] = {
        "estimator": estimator, "interval": interval, "level": level, "random_state": random_state
    }  # fmt: skip
    estimate = value_under(policy, log, models, **options)
    warn_of_support(estimate, stacklevel=3)
    singles = _singles(log, models, options)
    reference, label, is_hindsight = _baseline(baseline, log, singles, limit=limit, train=train)
    tables = _tables(log, estimate, models)
    refused = estimate.is_refused or (reference is not None and _is_refused(reference, log, models, options))
    difference, cost_difference = (
        _difference(policy, reference, log, models, tables[name], name, refused, options) if name in tables else None
        for name in ("quality", "cost")
    )
    asked = {
        "limit": limit, "baseline": baseline, "estimator": estimator, "interval": interval, "level": level,
        "quality_model": quality_model, "train": train, "random_state": random_state,
    }  # fmt: skip
    result = Evaluation(
        estimate, singles, difference or _UNKNOWN, cost_difference, label, policy, log, is_hindsight=is_hindsight,
        level=level, call=_call(asked), n_leaked=n_leaked, quality_model=quality_model, tables=tables, **facts,
    )  # fmt: skip
    for observe in tuple(OBSERVERS):
        observe(result)
    return result


def _call(asked: dict[str, Any]) -> str:
    """The call that was made, without what it left at the default; arrays and objects by the name of their argument."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(evaluate).parameters.items()}
    parts = []
    for name, value in asked.items():
        is_plain = isinstance(value, (str, int, float)) or name == "limit"
        if not is_plain and value is not None:
            parts.append(f"{name}={name}")
        elif value is not None and value != defaults[name]:
            parts.append(f"{name}={value!r}")
    return ", ".join(["evaluate(router, log", *parts]) + ")"


_UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))


def _leaked(train: OutcomeLog, log: OutcomeLog) -> int | None:
    shared = shared_texts(train, None, log, None)
    if shared is None and log_hash(train) == log_hash(log):
        shared = len(log), 0
    if shared is None:
        return None
    count, first = shared
    if count:
        warnings.warn(
            f"{count} of {len(log)} queries of the log are also in the training log, the first is row "
            f"{first}: their outcomes were seen in training, and the evaluation flatters the router",
            LeakageWarning,
            stacklevel=3,
        )
    return count


def _read(router_or_routing: Any, log: OutcomeLog, limit: Limit | None, seed: int) -> tuple[Any, dict[str, Any]]:
    """The routing or policy to evaluate, and what is known of where it came from, as fields of an `Evaluation`."""
    routing, facts = router_or_routing, {"router": type(router_or_routing).__name__}
    if isinstance(routing, type):
        raise EvaluationError(f"expected a fitted router, a Routing or a policy, got the class {routing.__name__}")
    if not hasattr(routing, "route") and not isinstance(routing, Routing):
        if limit is not None:
            raise EvaluationError("limit= needs a router: a policy or Routing is evaluated as it is")
        return routing, {"router": "a policy given as probabilities or arms"}
    if not isinstance(routing, Routing):
        if log.X is None:
            raise EvaluationError(
                "the log has no queries (X is None): evaluate a Routing, or read the log with text= or features="
            )
        facts = _facts(routing)
        routing = routing.route(log.X, limit=limit, random_state=seed)
    elif limit is not None:
        raise EvaluationError("limit= needs a router: a policy or Routing is evaluated as it is")
    order = column_order(routing.arms, log)
    if len(order) < len(log.arms):
        lacking = [arm for index, arm in enumerate(log.arms) if index not in set(order.tolist())]
        raise EvaluationError(
            f"the log has {len(lacking)} arms that the router does not know, the first is {lacking[0]!r}"
            + ("" if log.has_decisions else ": evaluate on log.select(arms=[...])")
        )
    quality, cost = np.empty(log.quality.shape), np.empty(log.quality.shape)
    quality[:, order], cost[:, order] = routing.predicted_quality, routing.predicted_cost
    predicts_cost = facts.pop("has_cost", bool(routing.predicted_cost.any()))
    tables = {"predicted_quality": quality, "predicted_cost": cost if predicts_cost else None}
    return routing, {**facts, **tables, "limit": routing.limit}


def _facts(router: Any) -> dict[str, Any]:
    last = router.steps[-1][1] if isinstance(router, RouterPipeline) else router
    check_is_fitted(last)
    point = getattr(last, "operating_point_", None)
    configuration = {"router": router.__repr__(N_CHAR_MAX=4000)}
    if point is not None:
        configuration["operating point"] = str(point)
    weighting = last.weighting_
    configuration["training outcomes"] = "observed in full" if weighting == "none" else f"observed in part, {weighting}"
    return {
        "router": describe(router),
        "has_cost": bool(router.has_cost_),
        "configuration": configuration,
    }


def _baseline(
    baseline: Any, log: OutcomeLog, singles: dict[str, Estimate], *, limit: Limit | None, train: OutcomeLog | None
) -> tuple[Floats | None, str, bool]:
    """Policy to compare with, None for the logging policy; its name; and whether it was chosen on this log."""
    is_hindsight = False
    if baseline is None and log.is_bandit and is_logged_in_part(log):
        return None, "the logging policy", False
    if baseline is None and train is not None and not is_logged_in_part(train):
        best = train.summary().best_arm
        baseline = best if best in log.arms else None
    if baseline is None:
        baseline, is_hindsight = best_of(singles) or log.summary().best_arm, len(log.arms) > 1
    if isinstance(baseline, str):
        if baseline not in log.arms:
            raise EvaluationError(f"baseline: the log has no arm {baseline!r}; it has {list(log.arms)}")
        return policy_matrix(np.full(len(log), baseline), log), f"always {baseline}", is_hindsight
    name = type(baseline).__name__
    if hasattr(baseline, "route") and log.X is not None:
        baseline = baseline.route(log.X, limit=limit, random_state=0)
    return policy_matrix(baseline, log), name, False


def _tables(log: OutcomeLog, estimate: Estimate, models: OutcomeModels) -> dict[str, Floats]:
    """Outcomes of all arms, of quality and cost where they are known of every query."""
    if is_logged_in_part(log) and log.propensity is None:
        return {}
    known = [part.outcome for part in (estimate, *estimate.others) if np.isfinite(part.value)]
    return {name: pseudo_outcomes(log, name, models) for name in ("quality", "cost") if name in known}


def _is_refused(policy: Floats, log: OutcomeLog, models: OutcomeModels, options: dict[str, Any]) -> bool:
    try:
        return value_under(policy, log, models, **options).is_refused
    except EvaluationError:
        return True


def _difference(
    policy: Floats, reference: Floats | None, log: OutcomeLog, models: OutcomeModels, table: Floats, name: str,
    refused: bool, options: dict[str, Any],
) -> Interval:  # fmt: skip
    """Paired difference of two policies in one outcome, on bandit logs of their DR terms."""
    if reference is None:
        terms = policy_terms(policy, table) - logged_outcome(log, name)[0]
    else:
        terms = policy_terms(policy - reference, table)
    if refused:
        return Interval(float(terms.mean()), float("nan"), float("nan"))
    interval, span = options["interval"], None
    if interval in FINITE_SAMPLE:
        span = _difference_span([policy] if reference is None else [policy, reference], log, models, name)
    return mean_interval(
        terms, models.groups, options["level"], interval=interval, span=span, random_state=options["random_state"]
    )  # fmt: skip


def _difference_span(policies: list[Floats], log: OutcomeLog, models: OutcomeModels, name: str) -> float:
    """Length of an interval that holds the difference of two policies' terms, for the bounds that need one."""
    values = np.asarray(getattr(log, name))
    low, high = min(0.0, float(np.nanmin(values))), float(np.nanmax(values))
    high = max(high, 1.0) if name == "quality" else high
    if not is_logged_in_part(log):
        return 2 * (high - low)
    low, high = min(low, float(models[name].min())), max(high, float(models[name].max()))
    rows, chance = np.arange(len(log)), np.asarray(log.propensity)
    weights = [largest_weight(each, log) or float((each[rows, log.action] / chance).max()) for each in policies]
    return 2 * DR().span(max(1.0, *weights), low, high)


def _singles(log: OutcomeLog, models: OutcomeModels, options: dict[str, Any]) -> dict[str, Estimate]:
    """Always one arm, for each arm; without those that cannot be valued on this log."""
    found = {}
    for index, arm in enumerate(log.arms):
        always = np.zeros(log.quality.shape)
        always[:, index] = 1.0
        try:
            found[arm] = value_under(always, log, models, **options)
        except EvaluationError:
            continue
    return found
