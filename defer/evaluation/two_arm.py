"""Two arms, weak and strong: quality against the share of strong calls, PGR, APGR and CPT.

Source: RouteLLM (Ong et al., ICLR 2025, arXiv 2406.18665).  Equal scores move together, both ends are
points of the curve, nothing is clipped, and CPT is the first crossing of the piecewise linear curve.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import trapezoid

from defer.exceptions import EvaluationError

__all__ = ["apgr", "apgr_ten_points", "cpt", "pgr", "strong_share_curve", "threshold_for_share"]

Floats = NDArray[np.float64]


def strong_share_curve(score: ArrayLike, weak: ArrayLike, strong: ArrayLike) -> tuple[Floats, Floats]:
    """Mean quality when the queries of highest score go to the strong arm.

    Parameters
    ----------
    score, weak, strong : arrays of shape (n,)
        Score of the router, and quality of both arms.

    Returns
    -------
    share, quality : arrays of shape (p,)
        From (0, weak) to (1, strong); one point per distinct score.

    Raises
    ------
    EvaluationError
        If shapes differ, nothing is given, or a value is not finite.

    Examples
    --------
    >>> share, quality = strong_share_curve([0.9, 0.1], [0.0, 1.0], [1.0, 1.0])
    >>> share.tolist(), quality.tolist()
    ([0.0, 0.5, 1.0], [0.5, 1.0, 1.0])
    """
    score, weak, strong = (
        _finite(name, values) for name, values in (("score", score), ("weak", weak), ("strong", strong))
    )
    if not (score.shape == weak.shape == strong.shape):
        raise EvaluationError(
            f"score, weak and strong must have one shape (n,), got {score.shape}, {weak.shape}, {strong.shape}"
        )
    order = np.argsort(-score, kind="stable")
    ranked, gain = score[order], (strong - weak)[order]
    last = np.concatenate((ranked[1:] != ranked[:-1], [True]))
    n = len(score)
    share = np.concatenate(([0.0], (np.flatnonzero(last) + 1) / n))
    quality = weak.mean() + np.concatenate(([0.0], np.cumsum(gain)[last])) / n
    return share, quality


def pgr(quality: ArrayLike, weak: float, strong: float) -> Floats:
    """Performance gap recovered, (r - r_weak) / (r_strong - r_weak); below 0 or above 1 where the quality is.

    Parameters
    ----------
    quality : array of shape (p,)
    weak, strong : float
        Mean quality of the two arms.

    Returns
    -------
    array of shape (p,)
        NaN where both arms are equally good: to 12 digits, since rounding of a mean is no gap.

    Raises
    ------
    EvaluationError
        If the strong arm is the worse one.

    Examples
    --------
    >>> pgr([0.6, 0.66, 0.8], 0.6, 0.8).round(3).tolist()
    [0.0, 0.3, 1.0]
    """
    values = np.asarray(quality, dtype=np.float64) - weak
    if abs(strong - weak) <= 1e-12 * max(abs(strong), abs(weak)):
        return np.full_like(values, np.nan)
    if strong < weak:
        raise EvaluationError(f"the strong arm ({strong:g}) is worse than the weak one ({weak:g}); exchange them")
    return values / (strong - weak)


def apgr(share: ArrayLike, quality: ArrayLike) -> float:
    """Average PGR: exact area under the piecewise linear curve over the share of strong calls.

    Parameters
    ----------
    share, quality : arrays of shape (p,)
        Curve from share 0 (weak) to share 1 (strong).

    Raises
    ------
    EvaluationError
        If the curve does not run from 0 to 1, or the strong arm is the worse one.

    Examples
    --------
    >>> round(apgr([0, 0.25, 0.5, 0.75, 1], [0.6, 0.66, 0.75, 0.78, 0.8]), 6)
    0.6125
    """
    x, recovered = _curve(share, quality)
    return float(trapezoid(recovered, x))


def apgr_ten_points(share: ArrayLike, quality: ArrayLike) -> float:
    """RouteLLM's discrete form: mean PGR at the ten shares 0.1, 0.2, …, 1.0.

    A router that ignores the query has .55 here, and .5 by `apgr`.

    Parameters
    ----------
    share, quality : arrays of shape (p,)
        Curve from share 0 (weak) to share 1 (strong).

    Examples
    --------
    >>> round(apgr_ten_points([0, 1], [0.6, 0.8]), 6)
    0.55
    """
    x, recovered = _curve(share, quality)
    return float(np.interp(np.arange(1, 11) / 10, x, recovered).mean())


def cpt(level: float, share: ArrayLike, quality: ArrayLike) -> float:
    """Call-performance threshold: the least share of strong calls with PGR >= `level`; NaN if it is never reached.

    Parameters
    ----------
    level : float
        Part of the performance gap, usually in (0, 1].
    share, quality : arrays of shape (p,)
        As for `apgr`.

    Examples
    --------
    >>> round(cpt(0.8, [0, 0.25, 0.5, 0.75, 1], [0.6, 0.66, 0.75, 0.78, 0.8]), 6)
    0.583333
    """
    x, recovered = _curve(share, quality)
    reached = np.flatnonzero(recovered >= level - 1e-12)
    if not len(reached):
        return float("nan")
    index = int(reached[0])
    if index == 0:
        return float(x[0])
    rise = recovered[index] - recovered[index - 1]
    return float(x[index - 1] + (x[index] - x[index - 1]) * min(1.0, (level - recovered[index - 1]) / rise))


def threshold_for_share(score: ArrayLike, share: float) -> tuple[float, float]:
    """Score from which queries go to the strong arm, and the share that this realises; equal scores cannot be split.

    The realised share is the largest reachable one that does not exceed `share`.

    Parameters
    ----------
    score : array of shape (n,)
        Scores of reference queries.
    share : float in [0, 1]

    Returns
    -------
    threshold, realised : float
        The threshold is infinite where no query may go.

    Raises
    ------
    EvaluationError
        If there is no score, one is not finite, or `share` is outside [0, 1].

    Examples
    --------
    >>> threshold_for_share([0.1, 0.5, 0.5, 0.9], 0.5)
    (0.9, 0.25)
    """
    values = np.sort(_finite("score", score))[::-1]
    if not 0.0 <= share <= 1.0:
        raise EvaluationError(f"share must be in [0, 1], got {share!r}")
    last = np.flatnonzero(np.concatenate((values[1:] != values[:-1], [True])))
    fits = last[(last + 1) / len(values) <= share + 1e-12]
    return (float(values[fits[-1]]), float((fits[-1] + 1) / len(values))) if len(fits) else (float("inf"), 0.0)


def _finite(name: str, values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise EvaluationError(f"{name} must have shape (n,) and not be empty, got {array.shape}")
    wrong = np.flatnonzero(~np.isfinite(array))
    if len(wrong):
        raise EvaluationError(
            f"{name} has {len(wrong)} of {len(array)} values that are not finite, the first in row {wrong[0]} ({array[wrong[0]]})"
        )
    return array


def _curve(share: ArrayLike, quality: ArrayLike) -> tuple[Floats, Floats]:
    x, values = _finite("share", share), _finite("quality", quality)
    if x.shape != values.shape:
        raise EvaluationError(f"share and quality must be equally long, got {len(x)} and {len(values)}")
    if len(x) < 2 or (np.diff(x) < 0).any() or x[0] != 0.0 or x[-1] != 1.0:
        raise EvaluationError(
            f"the curve must run from share 0 to share 1 in increasing order, got {len(x)} points from {x[0]:g} to {x[-1]:g}"
        )
    return x, pgr(values, float(values[0]), float(values[-1]))
