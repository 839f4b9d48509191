"""Off-policy value estimators, each a smooth function of the mean of its per-round terms.

With w = pi(a|x)/mu(a|x), q the modelled and r the observed outcome of the logged arm, and q_pi = sum_a pi(a|x) q(x, a).
Sources: Horvitz and Thompson (IPS); Swaminathan and Joachims 2015 (SNIPS); Dudik et al. 2011 (DM, DR); Wang, Agarwal and
Dudik 2017 (SWITCH); Su et al. 2020 (DRos, DRps).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from defer.exceptions import EvaluationError

__all__ = ["DM", "DR", "DR_OS", "DR_PS", "ESTIMATORS", "IPS", "SNDR", "SNIPS", "ClippedIPS", "Replay", "Rounds", "Switch", "ValueEstimator", "as_estimator"]  # fmt: skip

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rounds:
    """Logged rounds as the estimators see them, all of shape (n,).

    Attributes
    ----------
    weight : pi(a|x) / mu(a|x) of the logged arm
    outcome : observed outcome of the logged arm
    predicted : modelled outcome of the logged arm
    expected : modelled outcome under the target policy
    """

    weight: Floats
    outcome: Floats
    predicted: Floats
    expected: Floats


@dataclass(frozen=True)
class ValueEstimator:
    """Base: terms (n, k), and the value as a function of their mean."""

    name: ClassVar[str] = ""
    uses_weights: ClassVar[bool] = True
    is_ratio: ClassVar[bool] = False
    is_biased: ClassVar[bool] = False
    k: ClassVar[int] = 1

    def terms(self, rounds: Rounds) -> Floats:
        """Per-round terms, shape (n, k)."""
        raise NotImplementedError

    def value(self, mean: Floats) -> Floats:
        """Value from the mean of the terms; works on (..., k)."""
        return mean[..., 0]

    def gradient(self, mean: Floats) -> Floats:
        """Gradient of `value`, shape (k,)."""
        return np.ones(1)

    def span(self, max_weight: float, low: float, high: float) -> float:
        """Length of an interval that holds every term.

        Parameters
        ----------
        max_weight : float
            No weight is larger.
        low, high : float
            Range of observed and of modelled outcomes.

        Raises
        ------
        EvaluationError
            If the estimator is a ratio, whose terms say nothing of its range.
        """
        raise EvaluationError(f"a Bernstein or Hoeffding interval needs bounded terms, and {self.name} is a ratio")


class _Weighted(ValueEstimator):
    """Terms that only reweight outcomes."""

    def span(self, max_weight: float, low: float, high: float) -> float:
        top = self.largest(max_weight)
        return max(high * top, 0.0) - min(low * top, 0.0)

    def largest(self, max_weight: float) -> float:
        """Largest weight after the change, for weights up to `max_weight`."""
        return max_weight


class _Corrected(ValueEstimator):
    """q_pi + v (r - q) with a changed weight v(w)."""

    def terms(self, rounds: Rounds) -> Floats:
        residual = rounds.outcome - rounds.predicted
        residual *= self.changed(rounds.weight)
        residual += rounds.expected
        return residual[:, None]

    def changed(self, weight: Floats) -> Floats:
        """v(w), shape (n,)."""
        return weight

    def largest(self, max_weight: float) -> float:
        """Largest weight after the change, for weights up to `max_weight`."""
        return max_weight

    def span(self, max_weight: float, low: float, high: float) -> float:
        return (high - low) * (1.0 + 2.0 * self.largest(max_weight))


@dataclass(frozen=True)
class IPS(_Weighted):
    """Inverse propensity score: mean of w r.  Unbiased where the logging policy covers the target."""

    name: ClassVar[str] = "ips"

    def terms(self, rounds: Rounds) -> Floats:
        return (rounds.weight * rounds.outcome)[:, None]


@dataclass(frozen=True)
class ClippedIPS(_Weighted):
    """Mean of min(w, M) r; biased towards 0.

    Parameters
    ----------
    max_weight : float, default=10.0
        M, >= 0.
    """

    max_weight: float = 10.0
    name: ClassVar[str] = "clipped"
    is_biased: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_parameter(self, "max_weight", self.max_weight)

    def terms(self, rounds: Rounds) -> Floats:
        return (np.minimum(rounds.weight, self.max_weight) * rounds.outcome)[:, None]

    def largest(self, max_weight: float) -> float:
        return min(max_weight, self.max_weight)


class _Ratio(ValueEstimator):
    """Sum of numerators over sum of denominators."""

    is_ratio: ClassVar[bool] = True
    k: ClassVar[int] = 2

    def value(self, mean: Floats) -> Floats:
        return np.divide(mean[..., 0], mean[..., 1], out=np.full(mean.shape[:-1], np.nan), where=mean[..., 1] > 0)

    def gradient(self, mean: Floats) -> Floats:
        return np.array([1.0, -mean[0] / mean[1]]) / mean[1] if mean[1] > 0 else np.full(2, np.nan)


@dataclass(frozen=True)
class SNIPS(_Ratio):
    """Self-normalised IPS: sum w r / sum w.  Lies between the least and the largest outcome."""

    name: ClassVar[str] = "snips"

    def terms(self, rounds: Rounds) -> Floats:
        return np.column_stack([rounds.weight * rounds.outcome, rounds.weight])


@dataclass(frozen=True)
class Replay(_Ratio):
    """Mean outcome of the rounds in which the target policy takes the logged arm ("rejection sampling").

    It is SNIPS where all weights that are not 0 are equal, as those of a deterministic policy on a uniform log are, and
    biased elsewhere: it counts every arm that the policy may take alike.
    """

    name: ClassVar[str] = "rm"

    def terms(self, rounds: Rounds) -> Floats:
        agrees = (rounds.weight > 0).astype(float)
        return np.column_stack([agrees * rounds.outcome, agrees])


@dataclass(frozen=True)
class DM(ValueEstimator):
    """Direct method: mean of q_pi.  As good as the outcome model, whose bias no interval shows; needs no propensities."""

    name: ClassVar[str] = "dm"
    is_biased: ClassVar[bool] = True
    uses_weights: ClassVar[bool] = False

    def terms(self, rounds: Rounds) -> Floats:
        return rounds.expected[:, None]

    def span(self, max_weight: float, low: float, high: float) -> float:
        return high - low


@dataclass(frozen=True)
class DR(_Corrected):
    """Doubly robust: mean of q_pi + w (r - q).  Unbiased if either the propensities or the model are right."""

    name: ClassVar[str] = "dr"


@dataclass(frozen=True)
class DR_PS(_Corrected):
    """DR with weights cut at `max_weight` (pessimistic shrinkage)."""

    max_weight: float = 10.0
    name: ClassVar[str] = "drps"
    is_biased: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_parameter(self, "max_weight", self.max_weight)

    def changed(self, weight: Floats) -> Floats:
        return np.minimum(weight, self.max_weight)

    def largest(self, max_weight: float) -> float:
        return min(max_weight, self.max_weight)


@dataclass(frozen=True)
class DR_OS(_Corrected):
    """DR with weights shrunk to lambda w / (w^2 + lambda) (optimistic shrinkage, "DRos")."""

    shrinkage: float = 10.0
    name: ClassVar[str] = "dros"
    is_biased: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_parameter(self, "shrinkage", self.shrinkage)

    def changed(self, weight: Floats) -> Floats:
        if self.shrinkage == 0.0:
            return np.zeros_like(weight)
        return weight / (weight**2 / self.shrinkage + 1.0)

    def largest(self, max_weight: float) -> float:
        # v rises up to w = sqrt(lambda) and falls after it.
        return float(self.changed(np.asarray(min(max_weight, self.shrinkage**0.5))))


@dataclass(frozen=True)
class Switch(_Corrected):
    """DR on rounds with w <= `threshold`, the model elsewhere."""

    threshold: float = 10.0
    name: ClassVar[str] = "switch"
    is_biased: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_parameter(self, "threshold", self.threshold)

    def changed(self, weight: Floats) -> Floats:
        # 0.8 / 0.25 must count as 3.2 whatever its last bit says.
        return weight * (weight <= self.threshold * (1.0 + 1e-12))

    def largest(self, max_weight: float) -> float:
        return min(max_weight, self.threshold)


@dataclass(frozen=True)
class SNDR(ValueEstimator):
    """Self-normalised DR: mean q_pi + sum w (r - q) / sum w."""

    name: ClassVar[str] = "sndr"
    is_ratio: ClassVar[bool] = True
    k: ClassVar[int] = 3

    def terms(self, rounds: Rounds) -> Floats:
        return np.column_stack([rounds.expected, rounds.weight * (rounds.outcome - rounds.predicted), rounds.weight])

    def value(self, mean: Floats) -> Floats:
        part = np.divide(mean[..., 1], mean[..., 2], out=np.full(mean.shape[:-1], np.nan), where=mean[..., 2] > 0)
        return mean[..., 0] + part

    def gradient(self, mean: Floats) -> Floats:
        return np.array([1.0, 1.0 / mean[2], -mean[1] / mean[2] ** 2]) if mean[2] > 0 else np.full(3, np.nan)


ESTIMATORS: dict[str, type[ValueEstimator]] = {
    kind.name: kind for kind in (IPS, ClippedIPS, SNIPS, Replay, DM, DR, DR_PS, DR_OS, Switch, SNDR)
}


def as_estimator(estimator: str | ValueEstimator) -> ValueEstimator:
    """Estimator object from an object or a name.

    Raises
    ------
    EvaluationError
        If the name is unknown; lists what is allowed.

    Examples
    --------
    >>> as_estimator("snips")
    SNIPS()
    """
    if isinstance(estimator, ValueEstimator):
        return estimator
    if estimator not in ESTIMATORS:
        raise EvaluationError(
            f"estimator must be 'auto', one of {sorted(ESTIMATORS)} or an estimator object, got {estimator!r}"
        )
    return ESTIMATORS[estimator]()


def _check_parameter(owner: ValueEstimator, name: str, value: float) -> None:
    if not value >= 0.0:
        raise EvaluationError(f"{type(owner).__name__} needs {name} >= 0, got {value!r}")
