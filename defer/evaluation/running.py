"""Off-policy values from batches: sums that update, merge across processes, and give the same answer as all at once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.evaluation.estimate import Estimate
from defer.evaluation.estimators import Rounds, ValueEstimator, as_estimator
from defer.evaluation.intervals import FINITE_SAMPLE, default_interval, interval_of
from defer.evaluation.moments import Moments, WeightMoments
from defer.exceptions import EvaluationError

__all__ = ["BIAS_NOTE", "LEAST_SAMPLE_SIZE", "RunningValue", "poor_support"]

Floats = NDArray[np.float64]

LEAST_SAMPLE_SIZE = 30.0
"""Effective sample size below which an interval that needs a large sample is refused."""

BIAS_NOTE = "the interval does not hold the bias"
"""How a result says that its interval is one for the mean of the estimator, which is not the value itself."""

# Effective sample size, and its share of the rows, below which support is called poor.
_POOR_SAMPLE_SIZE, _POOR_SHARE = 100.0, 0.05


class RunningValue:
    """Value of a policy on logged rounds that come in batches.

    Holds sums only: batches of a Parquet file larger than memory, or parts of a log on several machines, give the value
    and interval of the whole.

    Parameters
    ----------
    estimator : str or ValueEstimator, default="dr"
    n_bootstrap : int, default=0
        Replicates of the Poisson bootstrap, for ``interval="bootstrap"``.
    seed : int or SeedSequence, default=0
        Of the bootstrap; parts without clusters that are to be merged need different ones.
    outcome : str, default="quality"
        Name in the result.

    Examples
    --------
    >>> left, right = RunningValue("ips"), RunningValue("ips")
    >>> left.update(weight=[0.2, 3.2, 0.8], outcome=[1, 0, 1])
    >>> right.update(weight=[3.2, 0.4, 4.0], outcome=[1, 0, 1])
    >>> left.merge(right)
    >>> round(left.result().value, 6)
    1.366667
    """

    def __init__(
        self,
        estimator: str | ValueEstimator = "dr",
        *,
        n_bootstrap: int = 0,
        seed: int | np.random.SeedSequence = 0,
        outcome: str = "quality",
    ) -> None:
        self.estimator, self.outcome = as_estimator(estimator), outcome
        self._terms = Moments(self.estimator.k, n_bootstrap, seed)
        self._weights = WeightMoments()
        self._least, self._largest = math.inf, -math.inf

    def update(
        self,
        weight: ArrayLike,
        outcome: ArrayLike,
        *,
        predicted: ArrayLike | None = None,
        expected: ArrayLike | None = None,
        cluster: NDArray[Any] | None = None,
    ) -> None:
        """Add a batch of b rounds.

        Parameters
        ----------
        weight : array of shape (b,)
            Probability of the logged arm under the target policy divided by its propensity.
        outcome : array of shape (b,)
            Observed outcome of the logged arm.
        predicted, expected : arrays of shape (b,), optional
            Modelled outcome of the logged arm, and its mean under the target policy; default 0.
        cluster : array of shape (b,), optional
            Rows of one cluster depend on each other; names count across batches.

        Raises
        ------
        EvaluationError
            If shapes differ, or a value is not finite, or a weight is negative.
        """
        zero = np.zeros(1)
        given = {"weight": weight, "outcome": outcome, "predicted": predicted, "expected": expected}
        arrays = {name: zero if values is None else np.asarray(values, np.float64) for name, values in given.items()}
        rows = len(arrays["weight"])
        for name, values in arrays.items():
            if given[name] is not None and values.shape != (rows,):
                raise EvaluationError(f"{name} must have shape ({rows},) like weight, got {values.shape}")
            if not math.isfinite(float(values.sum())):
                wrong = np.flatnonzero(~np.isfinite(values))
                raise EvaluationError(
                    f"{name} has {len(wrong)} values that are not finite, the first in row {wrong[0]}"
                )
        if not rows:
            return
        if arrays["weight"].min() < 0:
            wrong = np.flatnonzero(arrays["weight"] < 0)
            raise EvaluationError(f"weight has {len(wrong)} values below 0, the first in row {wrong[0]}")
        rounds = Rounds(**arrays)
        self._terms.update(self.estimator.terms(rounds), cluster)
        self._weights.update(rounds.weight)
        shown = (rounds.outcome, rounds.predicted, rounds.expected)
        self._least = min(self._least, *(float(values.min()) for values in shown))
        self._largest = max(self._largest, *(float(values.max()) for values in shown))

    def merge(self, other: RunningValue) -> None:
        """Add the rounds of another part.

        Raises
        ------
        EvaluationError
            If the other part uses another estimator.
        """
        if other.estimator != self.estimator:
            raise EvaluationError(
                f"parts of different estimators cannot be merged: {self.estimator}, {other.estimator}"
            )
        self._terms.merge(other._terms)
        self._weights.merge(other._weights)
        self._least, self._largest = min(self._least, other._least), max(self._largest, other._largest)

    def result(
        self, *, interval: str = "auto", level: float = 0.95, outcome_range: tuple[float, float] | None = None,
        max_weight: float | None = None, refuse: str = "", notes: tuple[str, ...] = (),
    ) -> Estimate:  # fmt: skip
        """Value and interval of all rounds so far.

        Parameters
        ----------
        interval : {"auto", "normal", "student", "empirical_bernstein", "hoeffding", "bootstrap"}, default="auto"
            "auto" is normal, or Student with fewer than 100 independent rows.
        level : float, default=0.95
        outcome_range : (float, float), optional
            Range of possible outcomes for the Bernstein and Hoeffding bounds; default [0, 1] for quality and from 0 for
            cost and latency.  Widened to what was observed and modelled.
        max_weight : float, optional
            Largest possible weight for the two bounds.  By default the largest observed one, and a note says that the
            bound rests on it.
        refuse : str, default=""
            Reason for which no interval may be given, if the caller knows one.
        notes : tuple of str
            Handed on to the result.

        Returns
        -------
        Estimate
            Without interval where `refuse` says so, or where the effective sample size cannot carry one.
        """
        terms, ess, largest = self._terms, self._weights.effective_sample_size, self._weights.largest
        if not terms.n:
            raise EvaluationError("there are no rounds yet")
        value = float(self.estimator.value(terms.mean))
        chosen = default_interval(terms) if interval == "auto" else interval
        if self.estimator.uses_weights:
            notes = (*notes, *poor_support(self._weights))
            # The two bounds hold at every sample size; the bootstrap is given where it was asked for.
            if not refuse and ess < LEAST_SAMPLE_SIZE and chosen in ("normal", "student"):
                refuse = f"effective sample size {ess:.3g} is below {LEAST_SAMPLE_SIZE:g}"
        low = high = math.nan
        if refuse:
            chosen, notes = "refused", (*notes, f"no interval: {refuse}")
        else:
            top = largest if max_weight is None else max(largest, max_weight)
            span = None if self.estimator.is_ratio else self.estimator.span(top, *self._range(outcome_range))
            if max_weight is None and self.estimator.uses_weights and chosen in FINITE_SAMPLE:
                notes = (*notes, f"the {chosen} bound rests on no weight being larger than the largest observed one")
            if self.estimator.is_biased:
                notes = (*notes, f"{BIAS_NOTE} of {self.estimator.name!r}")
            low, high = interval_of(self.estimator, terms, interval=chosen, level=level, span=span)
        return Estimate(
            value, low, high, terms.n, ess, largest, self.estimator.name, chosen, level, notes, self.outcome
        )

    def _range(self, possible: tuple[float, float] | None) -> tuple[float, float]:
        low, high = ((0.0, 1.0) if self.outcome == "quality" else (0.0, 0.0)) if possible is None else possible
        return min(low, self._least), max(high, self._largest)


def poor_support(weights: WeightMoments) -> tuple[str, ...]:
    """A note if the log hardly covers the policy, else nothing."""
    ess, n = weights.effective_sample_size, weights.n
    if ess >= max(_POOR_SAMPLE_SIZE, _POOR_SHARE * n):
        return ()
    return (
        f"support is poor: the log's {n} rows weigh as much as {ess:.0f} drawn by the policy itself "
        f"(largest weight {weights.largest:.4g})",
    )
