"""What a calibrated panel promises and what it does: the conformal quantile, and coverage with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from numbers import Rational, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from defer.exceptions import RouterInputError

__all__ = ["PanelCoverage", "conformal_quantile", "exact_share", "panel_coverage", "why_whole"]

Floats = NDArray[np.float64]

# A few units in the last place of numbers below 1: what is left of a fraction after a subtraction or two.
_ROUNDING = Fraction(1, 2**51)
_LARGEST_DENOMINATOR = 10**6


@dataclass(frozen=True)
class PanelCoverage:
    """How often panels hold a right expert, and how large they are.

    Attributes
    ----------
    n : int
        Rows counted.
    coverage, coverage_low, coverage_high : float
        Share of rows in whose panel an expert is right, and its exact binomial interval (Clopper and Pearson) for
        independent rows.  The interval is about this panel as calibrated, whose coverage itself varies about the promised
        one from calibration to calibration.
    attainable : float
        Share of rows on which any expert at all is right: no panel covers more.
    size, size_low, size_high : float
        Mean number of experts asked, and its Student interval; without two rows it is the whole range.
    empty, whole : float
        Shares of rows on which nobody and on which everybody is asked.
    level : float
        Of both intervals.

    Examples
    --------
    >>> asked, right = np.array([[True, False], [True, False]]), np.array([[True, False], [False, True]])
    >>> shown = panel_coverage(asked, right, 0.95)
    >>> shown.coverage, shown.attainable, shown.missed, shown.size
    (0.5, 1.0, 0.5, 1.0)
    """

    n: int
    coverage: float
    coverage_low: float
    coverage_high: float
    attainable: float
    size: float
    size_low: float
    size_high: float
    empty: float
    whole: float
    level: float

    @property
    def missed(self) -> float:
        """Share of rows on which an expert is right, but none of the panel: what a larger panel would win."""
        return self.attainable - self.coverage


def conformal_quantile(score: ArrayLike, alpha: Any) -> float:
    """The ceil((n + 1) * (1 - alpha))-th smallest of n scores.

    The (n + 1)-th of exchangeable scores is at most this with probability at least 1 - alpha.  The index is computed
    in whole numbers, with the fraction that `alpha` stands for: 1 - 0.9, which is a little less than 0.1, gives the 9th of
    9 scores as 0.1 does, and not a 10th that is not there.

    Parameters
    ----------
    score : array of shape (n,)
        May hold inf.
    alpha : float or Fraction in [0, 1]

    Returns
    -------
    float
        inf if the index exceeds n, -inf if it is 0.

    Raises
    ------
    RouterInputError
        If alpha is no number in [0, 1], or a score is NaN.

    Examples
    --------
    >>> conformal_quantile(range(1, 100), 0.1), conformal_quantile(range(1, 9), 0.1)
    (90.0, inf)
    """
    values = np.asarray(score, dtype=np.float64)
    if values.ndim != 1 or np.isnan(values).any():
        raise RouterInputError(f"score must be numbers of shape (n,) without NaN, got shape {values.shape}")
    index = _index(len(values), exact_share(alpha))
    if index > len(values):
        return math.inf
    return float(np.partition(values, index - 1)[index - 1]) if index else -math.inf


def exact_share(alpha: Any) -> Fraction:
    """The simple fraction that a share stands for, and the share itself if there is none nearer than rounding.

    Raises
    ------
    RouterInputError
        If it is no number in [0, 1].

    Examples
    --------
    >>> exact_share(0.1), exact_share(1 - 0.9), exact_share(1 / 3)
    (Fraction(1, 10), Fraction(1, 10), Fraction(1, 3))
    """
    proper = isinstance(alpha, Real) and not isinstance(alpha, bool) and 0 <= float(alpha) <= 1
    if not proper:
        raise RouterInputError(f"alpha must be a number in [0, 1], the share of queries that may miss; got {alpha!r}")
    if isinstance(alpha, Rational):
        return Fraction(alpha)
    given = Fraction(float(str(alpha)))  # by its digits, so that 0.1 in single precision is 0.1
    simple = given.limit_denominator(_LARGEST_DENOMINATOR)
    return simple if abs(simple - given) <= _ROUNDING else given


def _index(n: int, alpha: Fraction) -> int:
    return math.ceil((n + 1) * (1 - alpha))


def why_whole(score: Floats, alpha: Fraction, *, least: int) -> str:
    """Why the quantile of these scores is infinite; empty where it is not, or where alpha = 0 asks for that.

    Parameters
    ----------
    score : array of shape (n,)
    alpha : Fraction
    least : int
        Smallest n that is wanted.

    Examples
    --------
    >>> why_whole(np.ones(8), Fraction(1, 10), least=1)
    '8 calibration rows, and at least 9 are needed for alpha=0.1'
    """
    n = len(score)
    if alpha == 0:
        return ""
    needed = max(least, math.ceil((1 - alpha) / alpha))
    if n < needed:
        return f"{n} calibration rows, and at least {needed} are needed for alpha={float(alpha):g}"
    if np.isinf(conformal_quantile(score, alpha)) and alpha < 1:
        return f"no expert is right in {np.isinf(score).sum()} of {n} rows, more than alpha={float(alpha):g} lets pass"
    return ""


def panel_coverage(panel: NDArray[np.bool_], right: NDArray[np.bool_], level: float) -> PanelCoverage:
    """Coverage and size of given panels.

    Parameters
    ----------
    panel, right : bool arrays of shape (n, J)
        Who is asked, and who is right.
    level : float in (0, 1)
        Of the intervals.

    Examples
    --------
    >>> panel_coverage(np.array([[True, False]]), np.array([[False, True]]), 0.95).missed
    1.0
    """
    n, n_experts = panel.shape
    covered, size = (panel & right).any(axis=1), panel.sum(axis=1)
    low, high = stats.binomtest(int(covered.sum()), n).proportion_ci(level, method="exact")
    spread = n_experts if n == 1 else stats.t.ppf((1 + level) / 2, n - 1) * size.std(ddof=1) / math.sqrt(n)
    return PanelCoverage(
        n=n, coverage=float(covered.mean()), coverage_low=float(low), coverage_high=float(high),
        attainable=float(right.any(axis=1).mean()), size=float(size.mean()),
        size_low=max(0.0, float(size.mean() - spread)), size_high=min(float(n_experts), float(size.mean() + spread)),
        empty=float((size == 0).mean()), whole=float((size == n_experts).mean()), level=level,
    )  # fmt: skip
