"""The threshold of a score at which a wanted share of queries goes to the strong arm, and which shares can be reached at all.

Source: RouteLLM (Ong et al., ICLR 2025, arXiv 2406.18665), calibration on reference queries: the (1 - share) quantile of P.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.evaluation.two_arm import threshold_for_share
from defer.exceptions import EvaluationError

__all__ = ["ShareThreshold", "calibrate_share"]


@dataclass(frozen=True)
class ShareThreshold:
    """A threshold, the share that it realises on the reference queries, and the shares next to the wanted one.

    Equal scores cannot be split, so not every share can be had.

    Attributes
    ----------
    threshold : float
        Queries of at least this score go to the strong arm; infinite where none does.
    share : float
        Realised on the reference queries.
    wanted : float
    below, above : float
        The largest reachable share <= `wanted`, and the least one >= it.

    Examples
    --------
    >>> ShareThreshold(0.5, share=0.75, wanted=0.7, below=0.25, above=0.75).is_strong([0.4, 0.5]).tolist()
    [False, True]
    """

    threshold: float
    share: float
    wanted: float
    below: float
    above: float

    def is_strong(self, score: ArrayLike) -> NDArray[np.bool_]:
        """Which queries go to the strong arm, shape (n,): those of a score >= threshold.

        A threshold of 0 on probabilities sends all of them, and one above 1 none.
        """
        return np.asarray(np.asarray(score, dtype=np.float64) >= self.threshold)


def calibrate_share(
    score: ArrayLike, share: float, *, rounding: Literal["down", "up", "nearest"] = "down"
) -> ShareThreshold:
    """Calibrate a router's threshold to a share of strong calls, on the user's own queries.

    Parameters
    ----------
    score : array of shape (n,)
        P(strong), or any score that rises with it, of reference queries.
    share : float in [0, 1]
    rounding : {"down", "up", "nearest"}, default="down"
        Which of the two reachable shares is taken where `share` itself is not; "nearest" takes the lower of two that are
        equally near.

    Returns
    -------
    ShareThreshold

    Raises
    ------
    EvaluationError
        If there is no score, one is not finite, `share` is outside [0, 1], or `rounding` is unknown.

    Examples
    --------
    >>> calibrate_share([0.1, 0.5, 0.5, 0.9], 0.5)
    ShareThreshold(threshold=0.9, share=0.25, wanted=0.5, below=0.25, above=0.75)
    >>> calibrate_share([0.1, 0.5, 0.5, 0.9], 0.5, rounding="up").threshold
    0.5
    """
    if rounding not in ("down", "up", "nearest"):
        raise EvaluationError(f"rounding must be 'down', 'up' or 'nearest', got {rounding!r}")
    low, below = threshold_for_share(score, share)
    values = np.sort(np.asarray(score, dtype=np.float64))[::-1]
    high, above = low, below
    if below < share - 1e-12:
        high = float(values[round(below * len(values))])
        above = float((values >= high).mean())
    up = rounding == "up" or (rounding == "nearest" and above - share < share - below - 1e-12)
    return ShareThreshold(high if up else low, above if up else below, float(share), below, above)
