"""`evaluate`: everything that is known of a router on held-out queries, in one object.

Value with interval, paired difference to a baseline, frontier against single arms and the zero router, domains, load and
calibration.  Nothing in it was used to fit the router, if the log was held out.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defer.estimators.base import BaseRouter
from defer.estimators.pipeline import RouterPipeline
from defer.estimators.routing import Routing
from defer.evaluation.estimate import Estimate
from defer.evaluation.intervals import Interval, mean_interval
from defer.evaluation.ope import estimate_value
from defer.evaluation.policies import column_order, policy_matrix
from defer.evaluation.realised import outcome_table, policy_terms
from defer.evaluation.result import Evaluation
from defer.exceptions import EvaluationError, LeakageWarning, SupportWarning
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
        the single arm of highest mean quality on others.
    limit : Limit, optional
        Handed to ``route``.
    level : float, default=0.95
        Of all intervals.
    estimator, interval, quality_model
        As for `estimate_value`.
    train : OutcomeLog, optional
        What the router was fitted on, to check that no text stands on both sides.
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
        If queries of `log` have a text that is also in `train`.
    SupportWarning
        If a bandit log hardly covers the policy.

    Examples
    --------
    >>> from defer.estimators import RandomMixture
    >>> log = OutcomeLog.from_arrays([[0.0]] * 4, [[0.0, 1.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    >>> evaluate(RandomMixture().fit(log.X, log.quality), log).estimate.value
    0.75
    """
    n_leaked = None if train is None else _leaked(train, log)
    routing, facts = _read(router_or_routing, log, limit, random_state)
    policy = policy_matrix(routing, log)
    options: dict[str, Any] = {
        "estimator": estimator, "interval": interval, "level": level, "quality_model": quality_model,
        "random_state": random_state,
    }  # fmt: skip
    estimate = estimate_value(policy, log, **options)
    singles = _singles(log, level)
    reference, label = _baseline(baseline, log, singles)
    tables = _tables(log, estimate, quality_model)
    kind = interval if interval in ("student", "bootstrap") else "normal"
    difference, cost_difference = (
        _difference(policy, reference, log, tables, name, estimate.is_refused, level=level, interval=kind)
        for name in ("quality", "cost")
    )
    result = Evaluation(
        estimate, singles, difference or _UNKNOWN, cost_difference, label, policy, log, level=level,
        n_leaked=n_leaked, quality_model=quality_model, tables=tables, **facts,
    )  # fmt: skip
    for observe in tuple(OBSERVERS):
        observe(result)
    return result


_UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))


def _leaked(train: OutcomeLog, log: OutcomeLog) -> int:
    count, first = shared_texts(train, None, log, None)
    if count:
        warnings.warn(
            f"{count} of {len(log)} queries of the log have a text that is also in the training log, the first is row "
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
            f"the log has {len(lacking)} arms that the router does not know, the first is {lacking[0]!r}: "
            "evaluate on log.select(arms=[...])"
        )
    quality, cost = np.empty(log.quality.shape), np.empty(log.quality.shape)
    quality[:, order], cost[:, order] = routing.predicted_quality, routing.predicted_cost
    predicts_cost = facts.pop("has_cost", bool(routing.predicted_cost.any()))
    tables = {"predicted_quality": quality, "predicted_cost": cost if predicts_cost else None}
    return routing, {**facts, **tables, "limit": routing.limit}


def _facts(router: Any) -> dict[str, Any]:
    steps = [step for _, step in router.steps] if isinstance(router, RouterPipeline) else [router]
    last = steps[-1]
    point = getattr(last, "operating_point_", None)
    configuration = {"router": router.__repr__(N_CHAR_MAX=4000)}
    if point is not None:
        configuration["operating point"] = str(point)
    weighting = last.weighting_
    configuration["training outcomes"] = "observed in full" if weighting == "none" else f"observed in part, {weighting}"
    return {
        "router": " → ".join(type(step).__name__ for step in steps),
        "cost_weight": float(router.cost_weight),
        "has_cost": bool(router.has_cost_),
        "configuration": configuration,
    }


def _baseline(baseline: Any, log: OutcomeLog, singles: dict[str, Estimate]) -> tuple[Floats | None, str]:
    """Policy to compare with, None for the logging policy, and its name."""
    if baseline is None and log.is_bandit:
        return None, "the logging policy"
    if baseline is None:
        baseline = max(singles, key=lambda arm: singles[arm].value) if singles else log.summary().best_arm
    if isinstance(baseline, str):
        if baseline not in log.arms:
            raise EvaluationError(f"baseline: the log has no arm {baseline!r}; it has {list(log.arms)}")
        return policy_matrix(np.full(len(log), baseline), log), f"always {baseline}"
    return policy_matrix(baseline, log), type(baseline).__name__


def _tables(log: OutcomeLog, estimate: Estimate, quality_model: Any) -> dict[str, Floats]:
    """Outcomes of all arms, of quality and cost where they are known of every query."""
    if log.has_decisions and log.propensity is None:
        return {}
    known = [part.outcome for part in (estimate, *estimate.others) if np.isfinite(part.value)]
    return {
        name: outcome_table(log, name, quality_model=quality_model) for name in ("quality", "cost") if name in known
    }


def _difference(
    policy: Floats, reference: Floats | None, log: OutcomeLog, tables: dict[str, Floats], name: str, refused: bool,
    *, level: float, interval: str,
) -> Interval | None:  # fmt: skip
    """Paired difference of two policies in one outcome, on bandit logs of the DR terms; None where it is not known."""
    if name not in tables:
        return None
    if reference is None:
        observed = np.asarray(getattr(log, name))[np.arange(len(log)), log.action]
        terms = policy_terms(policy, tables[name]) - observed
    else:
        terms = policy_terms(policy - reference, tables[name])
    found = mean_interval(terms, log.cluster, level, interval=interval)
    return Interval(found.value, float("nan"), float("nan")) if refused else found


def _singles(log: OutcomeLog, level: float) -> dict[str, Estimate]:
    """Always one arm, for each arm; on bandit logs only arms with enough support."""
    found = {}
    for index, arm in enumerate(log.arms):
        always = np.zeros(log.quality.shape)
        always[:, index] = 1.0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SupportWarning)
                found[arm] = estimate_value(always, log, level=level)
        except EvaluationError:
            continue
    return found
