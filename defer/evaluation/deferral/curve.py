"""Deferral curve: quality of the system against the share of queries that are deferred.

Source: the curve and its area AUC-DF are those of "Language model cascades: token-level uncertainty and beyond" (Gupta et al.,
2024), with trapezoids between the points and the all-own and all-expert systems at the ends.  Equal scores are deferred
together, so that the area does not depend on the order of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import trapezoid

from defer.evaluation.deferral.arrays import finite_column
from defer.evaluation.two_arm import strong_share_curve
from defer.exceptions import EvaluationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["DeferralCurve", "deferral_curve", "oracle_deferral_curve"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DeferralCurve:
    """Mean quality at every deferral rate that a score can realise.

    Parameters
    ----------
    rate : array of shape (p,)
        Share of the queries that are deferred, from 0 to 1.
    quality : array of shape (p,)
        Mean quality of the system; rates in between are reached by drawing lots among queries of equal score.

    Examples
    --------
    >>> curve = DeferralCurve(np.array([0.0, 0.5, 1.0]), np.array([0.6, 0.9, 0.8]))
    >>> round(curve.area, 6), round(curve.random_area, 6), round(curve.gain_over_random, 2)
    (0.8, 0.7, 14.29)
    >>> round(curve.quality_at(0.25), 6)
    0.75
    """

    rate: Floats = field(repr=False)
    quality: Floats = field(repr=False)

    def __repr__(self) -> str:
        return (
            f"DeferralCurve({len(self.rate)} points, quality {self.quality[0]:.4g} to {self.quality[-1]:.4g}; "
            f"area {self.area:.4g}, {self.gain_over_random:+.2f}% on random)"
        )

    @property
    def area(self) -> float:
        """AUC-DF: mean quality over all deferral rates."""
        return float(trapezoid(self.quality, self.rate))

    @property
    def random_area(self) -> float:
        """Area of deferring at random: mean of the qualities of own and expert."""
        return float(self.quality[0] + self.quality[-1]) / 2.0

    @property
    def gain_over_random(self) -> float:
        """What the area is above the random one, in percent of it; NaN where that is 0."""
        return 100.0 * (self.area / self.random_area - 1.0) if self.random_area else float("nan")

    def quality_at(self, rate: float) -> float:
        """Quality at a deferral rate in [0, 1].

        Raises
        ------
        EvaluationError
            If `rate` is outside [0, 1].
        """
        if not 0.0 <= rate <= 1.0:
            raise EvaluationError(f"rate must be in [0, 1], got {rate!r}")
        return float(np.interp(rate, self.rate, self.quality))

    @property
    def frame(self) -> nw.DataFrame[Any]:
        """Row per point."""
        return nw.from_dict({"rate": self.rate, "quality": self.quality}, backend="pyarrow")

    def plot(self, ax: Axes | None = None, *, label: str = "score") -> Axes:
        """Draw the curve and the line of random deferral; called again with the same `ax`, it adds another score."""
        from defer.evaluation.deferral.plots import plot_deferral_curve

        return plot_deferral_curve(self, ax, label=label)


def deferral_curve(score: ArrayLike, own: ArrayLike, expert: ArrayLike) -> DeferralCurve:
    """Quality of the system when the queries of highest score are deferred.

    Any increasing transform of the score gives the same curve.

    Parameters
    ----------
    score : array of shape (n,)
        Queries with a high score are deferred first.  To defer by confidence, pass minus the confidence.
    own, expert : arrays of shape (n,)
        Quality of the own prediction and of the expert's answer: 1 where right, or its probability where that is known.

    Raises
    ------
    EvaluationError
        If the arrays are not of one length, are empty, or hold a value that is not finite.

    Examples
    --------
    >>> confidence = [0.9, 0.6, 0.55, 0.8]
    >>> curve = deferral_curve(np.negative(confidence), own=[1, 0, 1, 1], expert=[1, 1, 0, 1])
    >>> curve.rate.tolist(), curve.quality.tolist()
    ([0.0, 0.25, 0.5, 0.75, 1.0], [0.75, 0.5, 0.75, 0.75, 0.75])
    """
    scores = finite_column("score", score)
    weak, strong = (finite_column(name, values, len(scores)) for name, values in (("own", own), ("expert", expert)))
    return DeferralCurve(*strong_share_curve(scores, weak, strong))


def oracle_deferral_curve(own: ArrayLike, expert: ArrayLike) -> DeferralCurve:
    """Best curve that any score can have: queries are deferred in order of what the expert gains on them.

    With probabilities of being right this is the optimal rule, with realised answers the oracle, which no score can know.

    Parameters
    ----------
    own, expert : arrays of shape (n,)
        As for `deferral_curve`.

    Raises
    ------
    EvaluationError
        As for `deferral_curve`.

    Examples
    --------
    >>> oracle_deferral_curve(own=[1, 0, 1, 1], expert=[1, 1, 0, 1]).quality.tolist()
    [0.75, 1.0, 1.0, 0.75]
    """
    weak = finite_column("own", own)
    return deferral_curve(finite_column("expert", expert, len(weak)) - weak, weak, expert)
