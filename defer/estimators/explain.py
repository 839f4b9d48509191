"""Why a query goes to an arm: predictions with their uncertainty, the price at which the decision flips, similar logged queries.

Prices are exact for the predictions (`price_intervals`).  Uncertainty comes from a log, where one is given, and from the
router itself, where it knows any.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from defer.estimators.explanation_text import as_document, as_text
from defer.estimators.inner_model import last_step
from defer.estimators.local_outcomes import Comparison, LocalOutcomes, LoggedNeighbor, local_outcomes
from defer.estimators.pipeline import RouterPipeline, describe
from defer.estimators.price_intervals import PriceInterval, price_intervals
from defer.estimators.single_query import batch_of_one, shown_query
from defer.estimators.tuning.tunable import check_router
from defer.estimators.tuning.wrapping_router import WrappingRouter
from defer.exceptions import RouterInputError
from defer.portfolios.limits import Limit
from defer.portfolios.outcomes import OutcomeLog

__all__ = ["Explanation", "explain"]

Floats = NDArray[np.float64]

# Utilities this close, relative to their size, differ by rounding.
_ROUNDING = 1e-9

_FEWEST_TO_BE_FAR = 20


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a router decides for one query, and why.  `str` gives it as text, `defer.evaluation.plot_explanation` draws it.

    Attributes
    ----------
    query : object
        As it was asked: a text, or a tuple of numbers.
    router : str
        Names of its classes.
    arms : tuple of m names
    arm : int
        Index of the arm taken; of the likeliest, where a limit or an operating point leaves it to chance.
    probability : array of shape (m,)
        With which the policy takes every arm.
    fallbacks : tuple of m - 1 indexes
        The other arms by falling utility.
    quality, cost, utility : arrays of shape (m,)
        Predicted; cost in US dollars.
    quality_std : array of shape (m,) or None
        Standard deviation of the quality, as the router's own model has it (`predict_quality_std`), if it has one.
    has_cost : bool
        Whether the router was fitted with costs.
    price : float
        Quality given up per US dollar in this decision.
    intervals : tuple of PriceInterval
        The arm at every other price.
    follows_price : bool
        Whether the arm taken is the one that `intervals` gives at `price`; not where a router has a rule of its own.
    local_quality, local_cost : LocalOutcomes or None
        What the log says of outcomes near the query; None without a log, or without costs in it.
    level : float
        Of their intervals.
    neighbors : tuple of LoggedNeighbor
        By falling similarity.
    similarity : str
        What similarity means; empty without a log.
    is_far : bool
        Whether the query is less similar to every logged query than any of up to 100 of them is to its nearest other one,
        which holds of a query like them with a probability of at most 1 / (k + 1), with k of them: 1 / 101 from 100 logged
        queries on, 1 / 21 with 20.  Not said of fewer.
    notes : tuple of str
        What must be known to read the rest.
    limit : Limit or None
    """

    query: Any
    router: str
    arms: tuple[Any, ...]
    arm: int
    probability: Floats
    fallbacks: tuple[int, ...]
    quality: Floats
    cost: Floats
    utility: Floats
    quality_std: Floats | None
    has_cost: bool
    price: float
    intervals: tuple[PriceInterval, ...]
    follows_price: bool
    local_quality: LocalOutcomes | None = None
    local_cost: LocalOutcomes | None = None
    level: float = 0.9
    neighbors: tuple[LoggedNeighbor, ...] = ()
    similarity: str = ""
    is_far: bool = False
    notes: tuple[str, ...] = ()
    limit: Limit | None = None

    @property
    def label(self) -> Any:
        """Name of the arm taken."""
        return self.arms[self.arm]

    @property
    def interval(self) -> PriceInterval:
        """The prices around this one at which the decision does not change."""
        return next(part for part in self.intervals if part.low <= self.price < part.high)

    @property
    def flip_below(self) -> PriceInterval | None:
        """The neighbouring interval of lower prices: below its `high` its dearer arm is taken.  None where there is none."""
        index = self.intervals.index(self.interval)
        return self.intervals[index - 1] if index else None

    @property
    def flip_above(self) -> PriceInterval | None:
        """The neighbouring interval of higher prices: from its `low` on its cheaper arm is taken.  None where there is none."""
        index = self.intervals.index(self.interval) + 1
        return self.intervals[index] if index < len(self.intervals) else None

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values that JSON holds; what is not known or not finite is None."""
        return as_document(self)

    def __str__(self) -> str:
        return as_text(self)


def explain(
    router: Any,
    query: Any,
    *,
    log: OutcomeLog | None = None,
    limit: Limit | None = None,
    n_neighbors: int = 5,
    n_local: int = 50,
    level: float = 0.9,
) -> Explanation:
    """Explain the decision of a fitted router for one query.

    Parameters
    ----------
    router : fitted router, pipeline, tuned router or deferral estimator
    query : str, sequence or series of d numbers, row of a pandas frame, or a batch of one
    log : OutcomeLog, optional
        Logged queries of the kind of `query`, best held out from the fit: of queries that the router has seen, residuals
        are too small, and so are the intervals.
    limit : Limit, optional
        As for `BaseRouter.route`, for this query as a batch of one.
    n_neighbors : int, default=5
        Logged queries to show.
    n_local : int, default=50
        Logged queries, for every arm the nearest on which it was observed, in the local mean and its error.
    level : float, default=0.9
        Of the intervals, in (0, 1).

    Returns
    -------
    Explanation

    Raises
    ------
    RouterInputError
        If `router` is no router, there is not one query or not one that the router takes (a text in place of numbers, more or
        fewer of them, or none), an option is out of range, or the log has no queries, none of the router's arms, or queries
        that cannot be compared with this one.
    NotFittedError
        If the router is not fitted.
    InfeasibleLimitError
        If one query cannot meet the limit.

    Notes
    -----
    The interval is that of split conformal prediction: where log and query are exchangeable and the router was not fitted on
    the log, it holds the outcome of an arm on such a query with probability `level`, on average over queries and not for
    each.  It is an interval for the outcome of this one query; how well its expected quality is known, the error of the local
    mean says, in which the least and the largest logged quality count as one neighbour each.
    Where outcomes were observed in part, both are of the queries on which the arm was run.  Qualities within
    [0, 1] in the log are taken to lie there for this query too, and costs to be at least 0.

    The features compared are those that reach the last step of a pipeline; under `KNNRouter` by its own metric.

    Examples
    --------
    >>> from defer.estimators import QualityRouter
    >>> X, quality = np.array([[0.0], [1.0]]), [[1.0, 1.0], [0.0, 1.0]]
    >>> router = QualityRouter(cost_weight=0.25).fit(X, quality, cost=[[1.0, 2.0], [1.0, 2.0]])
    >>> explanation = explain(router, [0.5])
    >>> explanation.label, round(explanation.flip_above.low, 6), explanation.arms[explanation.flip_above.arm]
    (1, 0.5, 0)
    """
    _check_options(n_neighbors, n_local, level)
    _check_router(router)
    X = batch_of_one(router, query)
    _check_log(log, X)
    routing = router.route(X, limit=limit, random_state=0)
    leaf = last_step(router)
    quality, cost, utility = (
        np.asarray(table[0], dtype=np.float64)
        for table in (routing.predicted_quality, routing.predicted_cost, routing.utility)
    )
    price = float(router.cost_weight) if limit is None else float(leaf._own_cost_weight)
    offset = _offset(utility, quality, cost, price)
    if limit is not None:
        price += _dollar_price(routing)
    probability = np.asarray(routing.policy[0], dtype=np.float64)
    arm = int(probability.argmax())
    order = np.lexsort((cost, -utility))
    intervals = price_intervals(quality, cost, offset)
    features, decider = _features(router, X)
    evidence = _evidence(router, log, features, decider, (quality, cost), n_neighbors, n_local, level)
    explanation = Explanation(
        query=shown_query(X), router=describe(router), arms=tuple(router.arms_.tolist()), arm=arm, probability=probability,
        fallbacks=tuple(int(other) for other in order if other != arm), quality=quality, cost=cost, utility=utility,
        quality_std=_own_std(decider, features), has_cost=bool(router.has_cost_), price=price, intervals=intervals,
        follows_price=_follows(arm, price, intervals), level=level, limit=limit, **evidence,
    )  # fmt: skip
    object.__setattr__(explanation, "notes", _notes(explanation, leaf, log))
    return explanation


def _check_options(n_neighbors: Any, n_local: Any, level: Any) -> None:
    for name, value in (("n_neighbors", n_neighbors), ("n_local", n_local)):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise RouterInputError(f"explain: {name} must be an integer >= 1, got {value!r}")
    if isinstance(level, bool) or not isinstance(level, Real) or not 0.0 < float(level) < 1.0:
        raise RouterInputError(f"explain: level must be in (0, 1), got {level!r}")


def _check_router(router: Any) -> None:
    check_router(router, owner="explain")
    if not hasattr(router, "route"):
        raise RouterInputError(f"explain: router must be a router, got {router!r}")
    check_is_fitted(router)


def _check_log(log: Any, X: Any) -> None:
    if log is None:
        return
    if not isinstance(log, OutcomeLog):
        raise RouterInputError(f"explain: log= must be an OutcomeLog, got {type(log).__name__}")
    if log.X is None:
        raise RouterInputError("explain: log= has no queries, so none can be near to this one")
    texts, text = (isinstance(queries, (list, tuple)) and isinstance(queries[0], str) for queries in (log.X, X))
    if texts != text:
        kinds = ["texts" if is_text else "rows of numbers" for is_text in (texts, text)]
        raise RouterInputError(f"explain: log= has {kinds[0]} as queries, and the router takes {kinds[1]}")
    widths = [queries.shape[1] for queries in (log.X, X) if len(getattr(queries, "shape", ())) == 2]
    if len(set(widths)) > 1:
        raise RouterInputError(
            f"explain: log= has queries of {widths[0]} columns, and the router takes rows of {widths[1]}"
        )


def _offset(utility: Floats, quality: Floats, cost: Floats, price: float) -> Floats:
    """What a router adds to quality - price * cost of every arm; rounding is nothing."""
    plain = quality - price * cost
    added = utility - plain
    size = np.abs(quality) + price * np.abs(cost) + np.where(np.isfinite(utility), np.abs(utility), 0.0)
    return np.where(np.abs(added) > _ROUNDING * size, added, 0.0)


def _dollar_price(routing: Any) -> float:
    """Price of a dollar that a limit sets; limits on other resources have none."""
    from defer.portfolios.limits import Budget

    return max(float(routing.price), 0.0) if isinstance(routing.limit, Budget) else 0.0


def _follows(arm: int, price: float, intervals: tuple[PriceInterval, ...]) -> bool:
    """Whether the arm is that of the price, or of the other side of a flip exactly there."""
    near = _ROUNDING * max(price, 1e-300)
    return any(part.arm == arm and part.low - near <= price <= part.high + near for part in intervals)


def _features(router: Any, X: Any) -> tuple[Any, Any]:
    """Queries as the estimator that decides gets them, and that estimator."""
    while True:
        if isinstance(router, RouterPipeline):
            X, router = router._transform(X), router.steps[-1][1]
        elif isinstance(router, WrappingRouter):
            router = router.router_
        else:
            return X, router


def _own_std(decider: Any, features: Any) -> Floats | None:
    if not hasattr(decider, "predict_quality_std"):
        return None
    return np.asarray(decider.predict_quality_std(features), dtype=np.float64)[0]


def _evidence(
    router: Any, log: OutcomeLog | None, features: Any, decider: Any, here: tuple[Floats, Floats], n_neighbors: int,
    n_local: int, level: float,
) -> dict[str, Any]:  # fmt: skip
    """Fields of an explanation that come from a log."""
    if log is None:
        return {}
    tables = _tables(router, log)
    logged, _ = _features(router, log.X)
    compared = Comparison.of(logged, metric=getattr(decider, "metric", None))
    similar, name = compared.similarities(features), compared.name
    order = np.argsort(-similar, kind="stable")
    quality, cost = tables
    local = {}
    for field, table, predict, own in (
        ("local_quality", quality, decider.predict_quality, here[0]),
        ("local_cost", cost, decider.predict_cost, here[1]),
    ):
        if np.isfinite(table).any():
            span = (float(np.nanmin(table)), float(np.nanmax(table))) if field == "local_quality" else None
            local[field] = local_outcomes(table, predict(logged), own, order, n_local=n_local, level=level, span=span)
            _bound(local[field], table, is_cost=field == "local_cost")
    neighbors = tuple(
        LoggedNeighbor(
            int(row), float(similar[row]), _row(log.X, row), None if log.query_id is None else log.query_id[row],
            quality[row], cost[row],
        )
        for row in order[:n_neighbors]
    )  # fmt: skip
    is_far = len(log) >= _FEWEST_TO_BE_FAR and similar[order[0]] < compared.least_nearest() * (1 - _ROUNDING)
    return {"neighbors": neighbors, "similarity": name, "is_far": bool(is_far), **local}


def _bound(found: LocalOutcomes, table: Floats, *, is_cost: bool) -> None:
    seen = table[np.isfinite(table)]
    if is_cost:
        np.maximum(found.low, 0.0, out=found.low)
    elif seen.min() >= 0.0 and seen.max() <= 1.0:
        np.clip(found.low, 0.0, 1.0, out=found.low)
        np.clip(found.high, 0.0, 1.0, out=found.high)


def _tables(router: Any, log: OutcomeLog) -> tuple[Floats, Floats]:
    """Quality and cost of the log in the order of the router's arms; NaN where the log does not have an arm."""
    names = [str(arm) for arm in router.arms_.tolist()]
    place = [log.arms.index(name) if name in log.arms else -1 for name in names]
    if max(place) < 0:
        raise RouterInputError(
            f"explain: log= has none of the router's arms; the router has {names}, the log {list(log.arms)}"
        )
    tables = []
    for table in (log.quality, log.cost):
        wide = np.full((len(log), len(log.arms) + 1), np.nan)
        if table is not None:
            wide[:, :-1] = table
        tables.append(wide[:, place])
    return tables[0], tables[1]


def _row(X: Any, row: int) -> Any:
    if isinstance(X, (list, tuple)):
        return X[row]
    if isinstance(X, np.ndarray):
        return tuple(np.atleast_1d(X[row]).tolist())
    return None


def _notes(explanation: Explanation, leaf: Any, log: OutcomeLog | None) -> tuple[str, ...]:
    found, m = [], len(explanation.arms)
    if not explanation.follows_price:
        found.append(
            "the router has a rule of its own: prices are those of its predictions, not of its decisions"
            if explanation.limit is None
            else "the limit decides: prices are those of the predictions without it"
        )
    fixed = getattr(leaf, "fixed_cost_weight_", None)
    if fixed is not None and m > 1:
        found.append(f"what was learned holds at a cost weight of {fixed:g} alone; at other prices, fit again")
    if explanation.probability.max() < 1.0 - 1e-12:
        found.append(f"the arm is drawn: {explanation.label!r} with probability {explanation.probability.max():.3g}")
    if not explanation.has_cost:
        found.append("the router was fitted without costs: no price changes the decision")
    local = explanation.local_quality
    if log is None:
        found.append("no log was given: nothing is known of outcomes on similar queries")
    elif local is not None and (local.count == 0).any():
        missing = [explanation.arms[arm] for arm in np.flatnonzero(local.count == 0)]
        found.append(f"the log has no outcome of {len(missing)} of {m} arms, the first is {missing[0]!r}")
    if explanation.neighbors and math.isclose(explanation.neighbors[0].similarity, 0.0, abs_tol=1e-12):
        found.append("no logged query is similar at all: the local mean is that of arbitrary queries")
    elif explanation.is_far:
        found.append(
            "the query is farther from the log than the logged queries are from each other: predictions extrapolate"
        )
    return tuple(found)
