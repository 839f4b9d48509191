"""Choosing the operating point of a router for a limit, on predictions for queries it was not fitted on.

The point is a price (and, where many queries tie, a probability) found on out-of-fold predictions and realised
outcomes; the router is then fitted again on everything.  The same price serves queries that come one by one.
Source: card x3 (plug-in with the price found on held-out queries); learn-then-test by a fixed sequence (Angelopoulos et
al. 2021) with the empirical Bernstein bound of Maurer and Pontil 2009 for a `RiskLevel`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, KFold
from sklearn.utils import _safe_indexing, get_tags

from defer.estimators.base import BaseRouter
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.quality import QualityRouter
from defer.exceptions import InfeasibleLimitError, RouterInputError
from defer.portfolios.assignment import Choice, choose, choose_at_price, hull_increments
from defer.portfolios.limits import Budget, Capacity, Limit, QualityTarget, RiskLevel, Share

__all__ = ["OperatingPoint", "TunedRouter"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class OperatingPoint:
    """Where on its frontier a router works.

    Attributes
    ----------
    price : float
        Utility given up per US dollar, on top of the router's `cost_weight`.
    fraction : float
        Probability of the dearest among equally good arms.
    mean_quality, mean_cost : float
        Realised out of fold at this point; `mean_cost` is 0 where no cost was given.
    """

    price: float
    fraction: float
    mean_quality: float
    mean_cost: float


class TunedRouter(BaseRouter):
    """Choose the operating point for a limit by cross-validation, then fit the router on all queries.

    Parameters
    ----------
    router : router, default=QualityRouter()
    limit : Budget, QualityTarget, Share, RiskLevel or None
        `Budget`, `QualityTarget`: the price at which the *realised* out-of-fold cost or quality meets the limit.
        `Share`: an addition to the named arm's utility that gives it its out-of-fold share.
        `RiskLevel`: the highest price whose out-of-fold loss of quality against the best single arm is shown, at the
        stated confidence, to be at most `risk`.
    cv : int or splitter, default=5

    Attributes
    ----------
    router_ : fitted router
    operating_point_ : OperatingPoint
    arm_bonus_ : array of shape (m,)
        Added to the utility of every arm; not 0 only under a `Share`.

    Notes
    -----
    For partly observed outcomes realised sums are inverse-propensity estimates.  The confidence of a `RiskLevel` is
    exact for a router fitted elsewhere; the refit on all folds is assumed to be no worse than the fits on parts.

    Examples
    --------
    >>> from defer.portfolios.limits import Budget
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(400, 1))
    >>> quality = np.column_stack([X[:, 0] < 0, np.ones(400)]).astype(float)
    >>> router = TunedRouter(limit=Budget(mean_cost=1.5)).fit(X, quality, cost=np.tile([1.0, 2.0], (400, 1)))
    >>> router.predict([[-1.0], [1.0]]).tolist(), round(router.operating_point_.mean_cost, 2)
    ([0, 1], 1.5)
    """

    def __init__(self, router: Any = None, limit: Limit | None = None, *, cv: Any = 5) -> None:
        self.router = router
        self.limit = limit
        self.cv = cv

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inputs = get_tags(self._base()).input_tags
        tags.input_tags.sparse, tags.input_tags.allow_nan = inputs.sparse, inputs.allow_nan
        return tags

    @property
    def cost_weight(self) -> float:  # type: ignore[override]
        """The inner router's cost weight plus the fitted price."""
        price = self.operating_point_.price if hasattr(self, "operating_point_") else 0.0
        return float(self._base().cost_weight) + price

    def fit(
        self,
        X: Any,
        y: ArrayLike,
        *,
        cost: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Fit; `groups` (n,) keeps rows of one group in one fold.  Otherwise as `BaseRouter.fit`."""
        if hasattr(self, "operating_point_"):
            del self.operating_point_
        self._groups = None if groups is None else np.asarray(groups)
        try:
            return super().fit(X, y, cost=cost, propensity=propensity, sample_weight=sample_weight)
        finally:
            del self._groups

    def _base(self) -> Any:
        return QualityRouter() if self.router is None else self.router

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        limit = self.limit
        if isinstance(limit, Capacity):
            raise RouterInputError(
                "a Capacity belongs to one batch: give it to route(X, limit=...), not to TunedRouter"
            )
        if limit is not None and not isinstance(limit, (Budget, QualityTarget, Share, RiskLevel)):
            raise RouterInputError(f"TunedRouter: limit must be a limit object or None, got {type(limit).__name__}")
        if isinstance(limit, (Budget, QualityTarget, RiskLevel)) and outcomes.cost is None:
            raise RouterInputError(f"{type(limit).__name__} needs costs: pass cost= to fit")
        weight, self.arm_bonus_ = float(self._base().cost_weight), np.zeros(len(self.arms_))
        if limit is not None:
            quality, cost = self._out_of_fold(X, outcomes)
            realised = _Realised(outcomes)
            if isinstance(limit, Share):
                point = self._share_point(quality - weight * cost, cost, limit, realised)
            else:
                point = _price_point(quality - weight * cost, cost, limit, realised)
        else:
            point = OperatingPoint(0.0, 0.0, float("nan"), float("nan"))
        self.router_ = self._fit_part(X, outcomes, None)
        self.operating_point_ = point

    def _predict_quality(self, X: Any) -> Floats:
        return self.router_.predict_quality(X)

    def _predict_cost(self, X: Any) -> Floats:
        return self.router_.predict_cost(X)

    def _utility(self, quality: Floats, cost: Floats) -> Floats:
        utility = super()._utility(quality, cost)
        return utility + self.arm_bonus_ if self.arm_bonus_.any() else utility

    def _choose(self, utility: Floats, quality: Floats, cost: Floats, limit: Limit | None) -> Choice:
        if limit is not None:
            own = quality - float(self._base().cost_weight) * cost
            return choose(own, quality, cost, limit, arms=self.arms_.tolist())
        point = self.operating_point_
        if isinstance(self.limit, Share):
            return _tie_choice(utility, cost, self.arms_.tolist().index(self.limit.arm), point.fraction)
        own = utility + point.price * cost
        return choose_at_price(own, cost, price=point.price, fraction=point.fraction)

    def _fit_part(self, X: Any, outcomes: Outcomes, rows: NDArray[np.intp] | None) -> Any:
        def part(table: Any) -> Any:
            return table if table is None or rows is None else table[rows]

        queries = X if rows is None else _safe_indexing(X, rows)
        quality = _named(part(outcomes.quality), self.arms_)
        cost = None if outcomes.cost is None else _named(part(outcomes.cost), self.arms_)
        options = {} if outcomes.sample_weight is None else {"sample_weight": part(outcomes.sample_weight)}
        if outcomes.propensity is not None:
            options["propensity"] = part(outcomes.propensity)
        return clone(self._base()).fit(queries, quality, cost=cost, **options)

    def _out_of_fold(self, X: Any, outcomes: Outcomes) -> tuple[Floats, Floats]:
        n, m = outcomes.quality.shape
        quality, cost = np.empty((n, m)), np.empty((n, m))
        for train, test in self._folds(n):
            fitted = self._fit_part(X, outcomes, train)
            held_out = _safe_indexing(X, test)
            quality[test], cost[test] = fitted.predict_quality(held_out), fitted.predict_cost(held_out)
        return quality, cost

    def _folds(self, n: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        splitter = self.cv
        if not hasattr(splitter, "split"):
            if n < 2:
                raise RouterInputError(f"cross-validation needs at least 2 queries, got {n}")
            distinct = n if self._groups is None else len(np.unique(self._groups))
            folds = min(int(splitter), distinct)
            splitter = KFold(folds, shuffle=True, random_state=0) if self._groups is None else GroupKFold(folds)
        return list(splitter.split(np.zeros((n, 1)), np.zeros(n), self._groups))

    def _share_point(self, utility: Floats, cost: Floats, limit: Share, realised: _Realised) -> OperatingPoint:
        names = self.arms_.tolist()
        choice = choose(utility, utility, cost, limit, arms=names)
        index = names.index(limit.arm)
        free = choose(utility, utility, cost, None, arms=names)
        same = (choice.low == free.low).all() and choice.fraction == 0.0
        fraction = choice.fraction
        if not same:
            others = np.delete(utility, index, axis=1).max(axis=1)
            gain = utility[:, index] - others
            taken = choice.low == index
            if fraction == 0.0:
                # Half-way between the last query that takes the arm and the first that does not.
                inner = gain[taken].min() if taken.any() else gain.max() + 1.0
                outer = gain[~taken].max() if (~taken).any() else gain.min() - 1.0
                self.arm_bonus_[index] = -(inner + outer) / 2
            else:
                self.arm_bonus_[index] = -choice.price
        return OperatingPoint(
            0.0, fraction, realised.mean(realised.quality, choice), realised.mean(realised.cost, choice)
        )


class _Realised:
    """Realised means of a policy on logged outcomes, self-normalised where they were observed in part."""

    def __init__(self, outcomes: Outcomes) -> None:
        self.quality = outcomes.quality
        self.cost = outcomes.cost if outcomes.cost is not None else np.where(np.isfinite(outcomes.quality), 0.0, np.nan)
        weight = np.ones(len(self.quality)) if outcomes.weight is None else outcomes.weight
        self.weight = weight / weight.sum()

    def weighted(self, table: Floats, arm: NDArray[np.intp]) -> tuple[Floats, Floats]:
        """Weight of every row in which `arm` was observed, and that weight times the value."""
        value = table[np.arange(len(arm)), arm]
        mass = np.where(np.isfinite(value), self.weight, 0.0)
        return mass, mass * np.where(np.isfinite(value), value, 0.0)

    def mean(self, table: Floats, choice: Choice) -> float:
        share = ((choice.low, 1.0 - choice.fraction), (choice.high, choice.fraction))
        parts = [(*self.weighted(table, arm), probability) for arm, probability in share]
        mass = sum(probability * weight.sum() for weight, _, probability in parts)
        return (
            float(sum(probability * value.sum() for _, value, probability in parts) / mass)
            if mass > 0
            else float("nan")
        )


def _price_point(utility: Floats, cost: Floats, limit: Limit, realised: _Realised) -> OperatingPoint:
    """Walk down the prices of the out-of-fold frontier to the one that the limit asks for."""
    steps = hull_increments(utility, cost)
    ends = np.flatnonzero(np.diff(steps.group, append=steps.group[-1] + 1 if len(steps.group) else 0))
    path = {name: _path(getattr(realised, name), realised, steps, ends) for name in ("quality", "cost")}
    prices = np.concatenate(([math.inf], steps.slope[ends]))
    if isinstance(limit, RiskLevel):
        return _risk_point(path, prices, steps, ends, limit, realised)
    if isinstance(limit, Budget):
        spend = path["cost"]
        if spend[0] > limit.mean_cost:
            raise InfeasibleLimitError(
                f"Budget(mean_cost={limit.mean_cost:g}) is below the least possible mean cost: the cheapest arms cost "
                f"{spend[0]:.6g} per query out of fold",
                float(spend[0]),
            )
        over = np.flatnonzero(spend > limit.mean_cost)
        return _between(path, prices, over, lambda i: (limit.mean_cost - spend[i]) / (spend[i + 1] - spend[i]))
    assert isinstance(limit, QualityTarget)
    reached = path["quality"]
    enough = np.flatnonzero(reached >= limit.mean_quality)
    if not len(enough):
        best = float(reached.max())
        raise InfeasibleLimitError(
            f"QualityTarget({limit.mean_quality:g}) is above the largest mean quality realised out of fold, {best:.6g}",
            best,
        )
    return _between(path, prices, enough, lambda i: (limit.mean_quality - reached[i]) / (reached[i + 1] - reached[i]))


def _path(table: Floats, realised: _Realised, steps: Any, ends: NDArray[np.intp]) -> Floats:
    """Realised mean at the start and after every group of steps."""
    mass, value = realised.weighted(table, steps.start)
    start_mass, start_value = mass.sum(), value.sum()

    def along(arm: NDArray[np.intp]) -> tuple[Floats, Floats]:
        chosen = table[steps.query, arm]
        weight = np.where(np.isfinite(chosen), realised.weight[steps.query], 0.0)
        return weight, weight * np.where(np.isfinite(chosen), chosen, 0.0)

    (mass_to, value_to), (mass_from, value_from) = along(steps.to_arm), along(steps.from_arm)
    masses = np.concatenate(([start_mass], start_mass + np.cumsum(mass_to - mass_from)[ends]))
    values = np.concatenate(([start_value], start_value + np.cumsum(value_to - value_from)[ends]))
    return np.divide(values, masses, out=np.full(len(values), np.nan), where=masses > 1e-12)


def _between(path: dict[str, Floats], prices: Floats, crossed: NDArray[np.intp], fraction_at: Any) -> OperatingPoint:
    """The point just before the first crossing, and the share of the next group that still fits."""
    quality, cost = path["quality"], path["cost"]
    if not len(crossed):
        return OperatingPoint(0.0, 0.0, float(quality[-1]), float(cost[-1]))
    index = int(crossed[0]) - 1
    if index < 0:
        return OperatingPoint(_above(prices, 0), 0.0, float(quality[0]), float(cost[0]))
    fraction = float(np.clip(fraction_at(index), 0.0, 1.0))
    blend = [float(line[index] + fraction * (line[index + 1] - line[index])) for line in (quality, cost)]
    return OperatingPoint(float(prices[index + 1]), fraction, *blend)


def _above(prices: Floats, index: int) -> float:
    """A finite price between point `index` and the dearer points before it."""
    if index + 1 >= len(prices):
        return 0.0
    upper = prices[index] if math.isfinite(prices[index]) else 2.0 * prices[index + 1] + 1.0
    return float((upper + prices[index + 1]) / 2)


def _risk_point(
    path: dict[str, Floats], prices: Floats, steps: Any, ends: NDArray[np.intp], limit: RiskLevel, realised: _Realised
) -> OperatingPoint:
    """Fixed-sequence test from the best end of the frontier towards the cheap end; stops at the first failure."""
    if np.isnan(realised.quality).any():
        raise RouterInputError("a RiskLevel needs outcomes that were observed in full; this log has gaps")
    reference = realised.quality[:, int((realised.weight[:, None] * realised.quality).sum(axis=0).argmax())]
    span = float(np.ptp(realised.quality)) or 1.0
    tests = np.unique(np.linspace(0, len(ends), min(len(ends) + 1, 101)).round().astype(int))[::-1]
    best: int | None = None
    bound = math.inf
    for index in tests:
        arm = steps.start.copy()
        taken = ends[index - 1] + 1 if index else 0
        arm[steps.query[:taken]] = steps.to_arm[:taken]
        loss = reference - realised.quality[np.arange(len(arm)), arm]
        bound = _bernstein_upper(loss, realised.weight, 2.0 * span, 1.0 - limit.level)
        if bound > limit.risk:
            break
        best = int(index)
    if best is None:
        raise InfeasibleLimitError(
            f"RiskLevel(risk={limit.risk:g}, level={limit.level:g}): even at price 0 the loss is only shown to be at most "
            f"{bound:.6g}; allow more risk or bring more queries",
            float(bound),
        )
    return OperatingPoint(_above(prices, best), 0.0, float(path["quality"][best]), float(path["cost"][best]))


def _bernstein_upper(loss: Floats, weight: Floats, span: float, delta: float) -> float:
    """Upper confidence bound of the mean by the empirical Bernstein inequality, for values in an interval of `span`."""
    n = 1.0 / float((weight**2).sum())
    mean = float((weight * loss).sum())
    variance = float((weight * (loss - mean) ** 2).sum()) * n / max(n - 1.0, 1e-12)
    log_term = math.log(2.0 / delta)
    return mean + math.sqrt(2.0 * variance * log_term / n) + 7.0 * span * log_term / (3.0 * max(n - 1.0, 1e-12))


def _tie_choice(utility: Floats, cost: Floats, index: int, fraction: float) -> Choice:
    """Best arm, but an arm that ties with the best takes the query with probability `fraction`."""
    free = choose(utility, utility, cost, None, arms=range(utility.shape[1]))
    if fraction == 0.0:
        return free
    others = utility.copy()
    others[:, index] = -np.inf
    other = choose(others, others, cost, None, arms=range(utility.shape[1])).low
    rows = np.arange(len(utility))
    gain = utility[:, index] - others[rows, other]
    tied = np.abs(gain) <= 1e-9 * np.abs(utility).max(initial=0.0)
    low = np.where(tied, other, free.low)
    return Choice(low, np.where(tied, index, low), fraction)


def _named(table: Floats, arms: NDArray[np.generic]) -> Any:
    from defer.portfolios.arm_matrix import ArmMatrix

    return ArmMatrix(table, arms=tuple(arms.tolist()))
