"""Limits: what a routing may spend, how often it may use an arm, and how good it must be.

Each is a small frozen object with one meaning, handed to ``route(X, limit=...)`` or to ``TunedRouter``; the solvers that
enforce them live in `defer.portfolios.assignment`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from types import MappingProxyType

import numpy as np

from defer.exceptions import RouterInputError

__all__ = ["Budget", "Capacity", "Limit", "QualityTarget", "RiskLevel", "Share"]


def _check_number(owner: str, name: str, value: object, low: float, high: float, *, open_low: bool = False) -> float:
    number = float("nan")
    if isinstance(value, Real) and not isinstance(value, (bool, np.bool_)):
        number = float(value)
    if not (low <= number <= high) or (open_low and number == low) or not math.isfinite(number):
        bracket = "(" if open_low else "["
        closing = "inf)" if high == math.inf else f"{high:g}]"
        raise RouterInputError(f"{owner}: {name} must be a finite number in {bracket}{low:g}, {closing}, got {value!r}")
    return number


@dataclass(frozen=True)
class Budget:
    """Mean cost per query that a routed batch may have in expectation.

    Parameters
    ----------
    mean_cost : float
        US dollars per query (or whatever unit the log's costs have), >= 0.

    Raises
    ------
    RouterInputError
        If `mean_cost` is negative or not finite.

    Examples
    --------
    >>> Budget(mean_cost=0.0004)
    Budget(mean_cost=0.0004)
    """

    mean_cost: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean_cost", _check_number("Budget", "mean_cost", self.mean_cost, 0.0, math.inf))


@dataclass(frozen=True)
class QualityTarget:
    """Mean predicted quality that a routed batch must reach, at least cost.

    Parameters
    ----------
    mean_quality : float
        In the unit of the log's quality.

    Examples
    --------
    >>> QualityTarget(0.95).mean_quality
    0.95
    """

    mean_quality: float

    def __post_init__(self) -> None:
        value = _check_number("QualityTarget", "mean_quality", self.mean_quality, -math.inf, math.inf)
        object.__setattr__(self, "mean_quality", value)


@dataclass(frozen=True)
class Share:
    """Share of the queries that one arm may take, must take, or both.

    Parameters
    ----------
    arm : object
        Name of the arm.
    at_most : float, default=1.0
        Largest share, in [0, 1].
    at_least : float, default=0.0
        Smallest share, in [0, 1], not above `at_most`.

    Examples
    --------
    >>> Share("large", at_most=0.2)
    Share(arm='large', at_most=0.2, at_least=0.0)
    """

    arm: object
    at_most: float = 1.0
    at_least: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "at_most", _check_number("Share", "at_most", self.at_most, 0.0, 1.0))
        object.__setattr__(self, "at_least", _check_number("Share", "at_least", self.at_least, 0.0, 1.0))
        if self.at_least > self.at_most:
            raise RouterInputError(f"Share: at_least ({self.at_least:g}) must not exceed at_most ({self.at_most:g})")


@dataclass(frozen=True)
class Capacity:
    """Number of queries of one batch that each named arm takes at most; arms not named are unlimited.

    Parameters
    ----------
    count : mapping of arm name to int
        Integers >= 0.

    Examples
    --------
    >>> Capacity({"reviewer": 40}).count["reviewer"]
    40
    """

    count: Mapping[object, int]

    def __post_init__(self) -> None:
        if not isinstance(self.count, Mapping):
            raise RouterInputError(f"Capacity: count must map arms to integers, got {self.count!r}")
        for arm, value in self.count.items():
            if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral) or value < 0:
                raise RouterInputError(f"Capacity: the count of arm {arm!r} must be an integer >= 0, got {value!r}")
        object.__setattr__(self, "count", MappingProxyType({arm: int(value) for arm, value in self.count.items()}))

    def __hash__(self) -> int:
        return hash(frozenset(self.count.items()))

    def __repr__(self) -> str:
        return f"Capacity({dict(self.count)!r})"

    def __reduce__(self) -> tuple[type[Capacity], tuple[dict[object, int]]]:
        return Capacity, (dict(self.count),)


@dataclass(frozen=True)
class RiskLevel:
    """Largest mean loss of quality against the best single arm, kept with a stated confidence.

    It needs outcomes, so it is enforced by ``TunedRouter(limit=RiskLevel(...))`` and not by ``route``.

    Parameters
    ----------
    risk : float
        Mean quality that may be lost, in the unit of quality, >= 0.
    level : float, default=0.95
        Confidence, in (0, 1).

    Examples
    --------
    >>> RiskLevel(risk=0.02)
    RiskLevel(risk=0.02, level=0.95)
    """

    risk: float
    level: float = 0.95

    def __post_init__(self) -> None:
        object.__setattr__(self, "risk", _check_number("RiskLevel", "risk", self.risk, 0.0, math.inf))
        level = _check_number("RiskLevel", "level", self.level, 0.0, 1.0, open_low=True)
        if level == 1.0:
            raise RouterInputError("RiskLevel: level must be below 1: no finite sample gives certainty")
        object.__setattr__(self, "level", level)


Limit = Budget | QualityTarget | Share | Capacity | RiskLevel
