"""Speed and cost of a mixture of arms, and of the router itself beside them.

The throughput of a mixture is all its tokens over all its seconds, a harmonic mean that is weighted by tokens; the mean of the
arms' rates is another, larger number.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.estimators.queries import n_queries
from defer.evaluation.policies import policy_matrix
from defer.evaluation.realised import policy_terms
from defer.exceptions import EvaluationError, OutcomeLogError
from defer.portfolios.arms import Arm, Price
from defer.portfolios.outcomes import OutcomeLog
from defer.portfolios.tables import as_matrix

__all__ = ["MixtureCost", "RouterOverhead", "Throughput", "mixture_cost", "mixture_throughput", "router_overhead"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Throughput:
    """Tokens and seconds of a mixture.

    Attributes
    ----------
    tokens_per_second, queries_per_second : float
    tokens, seconds : float
        Totals; expected ones where the mixture is random.
    arms : tuple of m names
    by_arm : array of shape (m,)
        Tokens per second of every arm on the queries that it takes; NaN where it takes none.
    share : array of shape (m,)
        Of the queries that each arm takes.
    """

    tokens_per_second: float
    queries_per_second: float
    tokens: float
    seconds: float
    arms: tuple[str, ...]
    by_arm: Floats = field(repr=False)
    share: Floats = field(repr=False)


def mixture_throughput(
    tokens: ArrayLike, seconds: ArrayLike, arm: Any, *, arms: Sequence[str] | None = None, overhead: float = 0.0
) -> Throughput:
    """Total tokens over total time of the arms that are taken.

    Parameters
    ----------
    tokens : array or frame of shape (n, m)
        Tokens that each arm generates on each query; only those of arms that are taken are looked at.
    seconds : array or frame of shape (n, m)
        How long it takes, served one after the other.
    arm : policy
        A `Routing`, an array of n arm names or indices, or probabilities of shape (n, m), which give expected totals.
    arms : sequence of m names, optional
    overhead : float, default=0.0
        Seconds per query of the router itself, as `router_overhead` measures them.

    Returns
    -------
    Throughput

    Raises
    ------
    EvaluationError
        For shapes or arms that do not fit, values below 0, what is not known of an arm that is taken, and no time at all.

    References
    ----------
    Stripelis et al. 2024, arXiv 2408.12320 (the quantity).

    Examples
    --------
    Half of the queries go to an arm of 10 tokens per second, half to one of 40:

    >>> found = mixture_throughput([[100, 100], [100, 100]], [[10.0, 2.5], [10.0, 2.5]], [0, 1])
    >>> found.tokens_per_second, found.by_arm.tolist()
    (16.0, [10.0, 40.0])
    """
    if not np.isfinite(overhead) or overhead < 0:
        raise EvaluationError(f"overhead must be a finite number of seconds >= 0, got {overhead!r}")
    table = _read("tokens", tokens, arms)
    counted, spent, policy = table.values, _beside("seconds", seconds, table), table.policy(arm)
    n = len(policy)
    total = float(policy_terms(policy, counted).sum())
    time_spent = float(policy_terms(policy, spent).sum()) + n * overhead
    if not time_spent > 0:
        raise EvaluationError(f"the {n} queries take no time at all: seconds are 0 wherever an arm is taken")
    with np.errstate(divide="ignore", invalid="ignore"):
        by_arm = np.where(policy != 0, policy * counted, 0.0).sum(axis=0) / np.where(
            policy != 0, policy * spent, 0.0
        ).sum(axis=0)
    return Throughput(total / time_spent, n / time_spent, total, time_spent, table.arms, by_arm, policy.mean(axis=0))


@dataclass(frozen=True, eq=False)
class MixtureCost:
    """Cost of routed queries, with that of the router in a column of its own.

    Attributes
    ----------
    arm : array of shape (n,)
        US dollars per query for the arms that are taken; expected ones where the policy is random.
    router : array of shape (n,)
        US dollars per query for the router.
    """

    arm: Floats
    router: Floats

    @property
    def total(self) -> Floats:
        """Both, shape (n,)."""
        return self.arm + self.router

    @property
    def frame(self) -> nw.DataFrame[Any]:
        """Row per query: arm, router, total."""
        return nw.from_dict({"arm": self.arm, "router": self.router, "total": self.total}, backend="pyarrow")


def mixture_cost(
    input_tokens: ArrayLike,
    output_tokens: ArrayLike,
    prices: Iterable[Price | Arm],
    arm: Any,
    *,
    router_cost: ArrayLike = 0.0,
) -> MixtureCost:
    """Cost of the arms that are taken, from tokens and prices.

    Parameters
    ----------
    input_tokens : array of shape (n,) or (n, m)
        Of every query, or of every query on every arm.
    output_tokens : array of shape (n, m)
    prices : m prices, or arms with prices such as a `Portfolio`
        In the order of the columns; arms give their names too.
    arm : policy
        As for `mixture_throughput`.
    router_cost : float or array of shape (n,), default=0.0
        US dollars per query, such as `RouterOverhead.cost_per_query`.

    Returns
    -------
    MixtureCost

    Raises
    ------
    EvaluationError
        For shapes, arms or prices that do not fit, prices in several currencies, and tokens that are below 0 or not known of an arm
        that is taken.

    Examples
    --------
    >>> prices = [Price.per_million(1.0, 2.0), Price.per_million(10.0, 20.0)]
    >>> cost = mixture_cost([1000, 1000], [[500, 400], [500, 400]], prices, [0, 1], router_cost=1e-6)
    >>> cost.arm.round(6).tolist(), cost.total.round(6).tolist()
    ([0.002, 0.018], [0.002001, 0.018001])
    """
    given = list(prices)
    odd = [place for place, entry in enumerate(given) if not isinstance(entry, (Price, Arm))]
    if odd:
        raise EvaluationError(
            f"prices must be Price or Arm objects, and entry {odd[0]} is a {type(given[odd[0]]).__name__}"
        )
    names = [entry.name for entry in given if isinstance(entry, Arm)]
    tariff = [entry.price if isinstance(entry, Arm) else entry for entry in given]
    table = _read("output_tokens", output_tokens, names if len(names) == len(given) else None)
    produced = table.values
    n, m = produced.shape
    if len(tariff) != m:
        raise EvaluationError(
            f"there are {len(tariff)} prices and {m} columns of output_tokens; every arm needs its price"
        )
    currencies = sorted({price.currency for price in tariff})
    if len(currencies) > 1:
        raise EvaluationError(
            f"the prices are in {len(currencies)} currencies, {', '.join(currencies)}; convert them to one"
        )
    read = np.asarray(input_tokens, dtype=np.float64)
    if read.shape == (n,):
        read = np.repeat(read[:, None], m, axis=1)
    read = _beside("input_tokens", read, table)
    spent = np.column_stack(
        [price.cost(input_tokens=read[:, k], output_tokens=produced[:, k]) for k, price in enumerate(tariff)]
    )
    own = np.asarray(router_cost, dtype=np.float64)
    if own.shape not in ((), (n,)) or not np.isfinite(own).all() or (own < 0).any():
        raise EvaluationError(f"router_cost must be one finite number >= 0, or {n} of them, got shape {own.shape}")
    return MixtureCost(policy_terms(table.policy(arm), spent), np.broadcast_to(own, (n,)).copy())


@dataclass(frozen=True)
class RouterOverhead:
    """What routing itself takes.

    Attributes
    ----------
    seconds_per_query : float
        From features to the decision, in batches of `n`.
    feature_seconds_per_query : float
        What the transformers before the router take on top; 0 without any.
    cost_per_query : float
        US dollars for the tokens that an encoder reads.
    n : int
        Queries in the batch that was timed.
    """

    seconds_per_query: float
    feature_seconds_per_query: float
    cost_per_query: float
    n: int

    @property
    def total_seconds_per_query(self) -> float:
        """Features and decision."""
        return self.seconds_per_query + self.feature_seconds_per_query


def router_overhead(
    router: Any,
    X: Any,
    *,
    n_repeats: int = 5,
    tokens: ArrayLike | None = None,
    price_per_token: float = 0.0,
) -> RouterOverhead:
    """Measure how long a fitted router takes, with and without its features, and what its encoder costs.

    Parameters
    ----------
    router : fitted router, or pipeline of `make_pipeline`
    X : n queries
        Routed as one batch; give one query for the latency of a single call.
    n_repeats : int, default=5
        The median of so many runs is given, after one that is not counted.
    tokens : array of shape (n,), optional
        Tokens of every query that the encoder reads.
    price_per_token : float, default=0.0
        US dollars.

    Returns
    -------
    RouterOverhead

    Raises
    ------
    EvaluationError
        If `router` cannot route, or an option is out of its range.

    Examples
    --------
    >>> from defer.estimators import KNNRouter
    >>> router = KNNRouter().fit([[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]])
    >>> found = router_overhead(router, [[0.0, 1.0]] * 100, tokens=[20] * 100, price_per_token=1e-8)
    >>> found.seconds_per_query > 0, found.feature_seconds_per_query, round(found.cost_per_query, 12)
    (True, 0.0, 2e-07)
    """
    if not hasattr(router, "route"):
        raise EvaluationError(
            f"router_overhead needs a router or a pipeline of defer.make_pipeline, got {type(router).__name__}"
        )
    if not isinstance(n_repeats, Integral) or isinstance(n_repeats, bool) or n_repeats < 1:
        raise EvaluationError(f"n_repeats must be an integer >= 1, got {n_repeats!r}")
    if not np.isfinite(price_per_token) or price_per_token < 0:
        raise EvaluationError(f"price_per_token must be a finite number >= 0, got {price_per_token!r}")
    n = n_queries(X)
    read = np.zeros(n) if tokens is None else np.asarray(tokens, dtype=np.float64)
    if read.shape != (n,) or not (np.isfinite(read) & (read >= 0)).all():
        raise EvaluationError(f"tokens must be {n} finite numbers >= 0, one per query, got shape {read.shape}")
    last, features = router, X
    of_features = 0.0
    if len(getattr(router, "steps", ())) > 1:
        last, before = router.steps[-1][1], router[:-1]
        features = before.transform(X)
        of_features = _median_seconds(lambda: before.transform(X), n_repeats)
    decided = _median_seconds(lambda: last.route(features, random_state=0), n_repeats)
    return RouterOverhead(decided / n, of_features / n, float(price_per_token) * float(read.mean()), n)


def _median_seconds(call: Any, n_repeats: int) -> float:
    call()
    taken = np.empty(n_repeats)
    for repeat in range(n_repeats):
        begin = time.perf_counter()
        call()
        taken[repeat] = time.perf_counter() - begin
    return float(np.median(taken))


@dataclass(frozen=True, eq=False)
class _Table:
    """Numbers >= 0 of every arm on every query, NaN = not known."""

    values: Floats
    arms: tuple[str, ...]

    def policy(self, arm: Any) -> Floats:
        """Probabilities of shape (n, m), read against the names of the arms."""
        return policy_matrix(arm, OutcomeLog.from_arrays(None, np.zeros(self.values.shape), arms=self.arms))


def _read(name: str, values: ArrayLike, arms: Sequence[str] | None) -> _Table:
    wanted = None if arms is None else tuple(str(arm) for arm in arms)
    try:
        names, table = as_matrix(values, name, wanted)
    except OutcomeLogError as error:
        raise EvaluationError(f"{name}: {error}") from None
    names = wanted or names or tuple(f"arm_{index}" for index in range(table.shape[1]))
    if len(names) != table.shape[1]:
        raise EvaluationError(f"{name} has {table.shape[1]} columns, and there are {len(names)} arms")
    wrong = np.argwhere(table < 0)
    if len(wrong):
        row, column = wrong[0]
        raise EvaluationError(
            f"{name} has {len(wrong)} of {table.size} values below 0, the first in row {row}, arm {names[column]!r} "
            f"({table[row, column]:g})"
        )
    return _Table(table, names)


def _beside(name: str, values: ArrayLike, table: _Table) -> Floats:
    """A second table with the arms and the queries of a first."""
    other = _read(name, values, table.arms).values
    if len(other) != len(table.values):
        raise EvaluationError(f"{name} must have shape {table.values.shape}, got {other.shape}")
    return other
