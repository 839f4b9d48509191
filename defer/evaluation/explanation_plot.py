"""Picture of the decision for one query; matplotlib is loaded when the first is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from defer.evaluation.plot_style import ARM, ORACLE, ROUTER, ZERO, axes_of, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from defer.estimators.explain import Explanation

__all__ = ["plot_arm_forecasts", "plot_explanation", "plot_price_lines"]

_ENVELOPE = (ROUTER, ORACLE, "#4f8a3c", "#8457a8", "#b08900", "#a03060")


def plot_explanation(explanation: Explanation, ax: tuple[Axes, Axes] | None = None) -> tuple[Axes, Axes]:
    """Quality of every arm with its uncertainty, and utility against price with the prices at which the decision flips.

    Parameters
    ----------
    explanation : Explanation
    ax : two Axes, optional
        Default those of a figure of their own, side by side.

    Returns
    -------
    two Axes

    Examples
    --------
    >>> from defer.estimators import QualityRouter
    >>> from defer.estimators.explain import explain
    >>> router = QualityRouter().fit([[0.0], [1.0]], [[1.0, 1.0], [0.0, 1.0]], cost=[[1.0, 2.0], [1.0, 2.0]])
    >>> arms, prices = plot_explanation(explain(router, [0.5]))
    >>> prices.get_xlabel()
    'price (quality given up per US dollar)'
    """
    if ax is None:
        from matplotlib.figure import Figure

        height = max(3.6, 0.34 * len(explanation.arms) + 1.6)
        pair = Figure(figsize=(11.0, height), layout="constrained").subplots(1, 2)
        for axes in pair:
            axes.spines[["top", "right"]].set_visible(False)
        ax = pair[0], pair[1]
    return plot_arm_forecasts(explanation, ax[0]), plot_price_lines(explanation, ax[1])


def plot_arm_forecasts(explanation: Explanation, ax: Axes | None = None) -> Axes:
    """Predicted quality of every arm, beside the mean of the nearest logged queries and the range of single outcomes.

    Parameters
    ----------
    explanation : Explanation
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    order = [explanation.arm, *explanation.fallbacks]
    ax = axes_of(ax, height=max(1.8, 0.34 * len(order) + 1.2))
    place = np.arange(len(order))[::-1]
    local = explanation.local_quality
    if local is not None:
        low, high = local.low[order], local.high[order]
        finite = np.isfinite(low) & np.isfinite(high)
        ax.hlines(
            place[finite], low[finite], high[finite], color=ZERO, lw=5, alpha=0.35,
            label=f"{explanation.level:.0%} range of one outcome",
        )  # fmt: skip
        mean, error = local.mean[order], np.nan_to_num(local.error[order])
        ax.errorbar(
            mean, place - 0.14, xerr=error, fmt="o", color=ARM, ms=4, capsize=2, label="nearest logged, ± error"
        )
    sd = explanation.quality_std
    if sd is not None:
        ax.errorbar(explanation.quality[order], place + 0.14, xerr=sd[order], fmt="none", ecolor=ROUTER, capsize=2)
    ax.plot(
        explanation.quality[order], place + 0.14, "D", color=ROUTER, ms=6, ls="none",
        label="predicted" if sd is None else "predicted, ± the model's sd",
    )  # fmt: skip
    names = [shortened(str(explanation.arms[index])) for index in order]
    ax.set_yticks(place, [f"{names[0]} (taken)", *names[1:]])
    ax.set_ylim(-0.6, len(order) - 0.4)
    ax.set_xlabel("quality")
    _legend_above(ax)
    return ax


def plot_price_lines(explanation: Explanation, ax: Axes | None = None) -> Axes:
    """Utility of every arm against the price; the arms that some price takes are coloured, flips are marked.

    Parameters
    ----------
    explanation : Explanation
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = axes_of(ax)
    right = _reach(explanation)
    ends = np.array([0.0, right])
    # What a router adds to the utility of an arm whatever the price; of an infinite bonus there is no line.
    value = explanation.utility + explanation.price * explanation.cost
    taken = [part.arm for part in explanation.intervals]
    lines = value[:, None] - explanation.cost[:, None] * ends
    for arm in range(len(explanation.arms)):
        if arm not in taken and np.isfinite(value[arm]):
            ax.plot(ends, lines[arm], color=ZERO, lw=0.9, alpha=0.7)
    for number, part in enumerate(explanation.intervals):
        colour = _ENVELOPE[number % len(_ENVELOPE)]
        if not np.isfinite(value[part.arm]) or part.low > right:
            continue
        ax.plot(ends, lines[part.arm], color=colour, lw=1.1, label=shortened(str(explanation.arms[part.arm])))
        here = np.array([part.low, min(part.high, right)])
        ax.plot(here, value[part.arm] - explanation.cost[part.arm] * here, color=colour, lw=3, solid_capstyle="butt")
        if part.low > 0:
            height = value[part.arm] - explanation.cost[part.arm] * part.low
            ax.plot(part.low, height, "o", color="white", mec=colour, mew=1.5, ms=6, zorder=3)
            ax.annotate(f"{part.low:.5g}", (part.low, height), xytext=(4, 6), textcoords="offset points", fontsize=8.5)
    ax.axvline(explanation.price, color=ARM, ls=":", lw=1.2, label=f"price {explanation.price:.5g}")
    shown = lines[sorted(set(taken))]
    if np.isfinite(shown).all():
        low, high = float(shown.max(axis=0).min()), float(shown.max())
        room = max(high - low, 1e-9)
        ax.set_ylim(low - 0.6 * room, high + 0.15 * room)
    ax.set_xlim(0.0, right)
    ax.set_xlabel("price (quality given up per US dollar)")
    ax.set_ylabel("utility")
    _legend_above(ax)
    return ax


def _reach(explanation: Explanation) -> float:
    """The price up to which lines are drawn: beyond the next flip, if there is one."""
    above = explanation.flip_above
    flips = [explanation.price, above.low if above is not None else explanation.interval.low]
    return 1.4 * max(flips) or 1.0


def _legend_above(ax: Axes) -> None:
    """Above the axes, where it covers nothing."""
    ax.legend(fontsize=8.5, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, frameon=False, borderaxespad=0.2)
