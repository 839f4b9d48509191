"""An evaluation by domain: domains are small, and often all right or all wrong, which their intervals must bear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from defer.evaluation.estimate import best_of
from defer.evaluation.intervals import Interval, mean_interval, wilson_interval
from defer.evaluation.moments import effective_sample_size
from defer.evaluation.realised import policy_terms
from defer.evaluation.running import LEAST_SAMPLE_SIZE
from defer.exceptions import EvaluationError

if TYPE_CHECKING:
    from defer.evaluation.result import Evaluation

__all__ = ["domain_table"]

Floats = NDArray[np.float64]

_COLUMNS = ("domain", "n", "quality", "quality_low", "quality_high", "best_single", "cost", "main_arm", "main_share")


def domain_table(evaluation: Evaluation) -> nw.DataFrame[Any]:
    """Row per domain; see `Evaluation.domains`.

    Parameters
    ----------
    evaluation : Evaluation

    Raises
    ------
    EvaluationError
        If the log has no domain column.
    """
    log, policy = evaluation.log, evaluation.policy
    if log.domain is None:
        raise EvaluationError("the log has no domain column")
    names, index = np.unique(np.asarray(log.domain).astype(str), return_inverse=True)
    quality = evaluation.outcomes("quality")
    terms = policy_terms(policy, quality)
    best = quality[:, log.arms.index(best_of(evaluation.singles) or log.summary().best_arm)]
    cost = np.full(len(log), np.nan)
    if evaluation.cost_difference is not None:
        cost = policy_terms(policy, evaluation.outcomes("cost"))
    order, count = np.argsort(index.ravel(), kind="stable"), np.bincount(index.ravel())
    rows = []
    for name, part in zip(names, np.split(order, np.cumsum(count)[:-1]), strict=True):
        found, share = _interval(evaluation, terms[part], part), policy[part].mean(axis=0)
        main = int(share.argmax())
        numbers = (found.value, found.low, found.high, float(best[part].mean()), float(cost[part].mean()))
        rows.append((name, len(part), *numbers, log.arms[main], float(share[main])))
    return nw.from_dict(dict(zip(_COLUMNS, map(list, zip(*rows, strict=True)), strict=True)), backend="pyarrow")


def _interval(evaluation: Evaluation, terms: Floats, rows: NDArray[np.intp]) -> Interval:
    log, groups = evaluation.log, evaluation.groups
    is_share = not evaluation.is_off_policy and terms.min() >= 0.0 and terms.max() <= 1.0
    if is_share and groups is None:
        # A normal interval of outcomes that are all alike would have no width.
        return Interval(float(terms.mean()), *wilson_interval(float(terms.mean()), len(terms), z=evaluation.z))
    found = mean_interval(terms, None if groups is None else groups[rows], evaluation.level)
    if evaluation.is_off_policy:
        weight = np.zeros(1)
        if log.propensity is not None:
            weight = evaluation.policy[rows, log.action[rows]] / log.propensity[rows]
        if effective_sample_size(weight) < LEAST_SAMPLE_SIZE:
            return Interval(found.value, float("nan"), float("nan"))
    return found
