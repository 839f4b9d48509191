"""Pictures of the diagnostics of deferral; matplotlib is loaded when the first is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from defer.evaluation.plot_style import ARM, ORACLE, ROUTER, ZERO, axes_of, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from defer.evaluation.deferral.bound import ExcessBound
    from defer.evaluation.deferral.coverage import CoverageAccuracy
    from defer.evaluation.deferral.curve import DeferralCurve
    from defer.evaluation.deferral.readout import ReadoutCalibration
    from defer.evaluation.deferral.regret import BayesRegret
    from defer.evaluation.deferral.system import SystemAccuracy
    from defer.evaluation.deferral.underfitting import WrongLabelMass

__all__ = [
    "plot_coverage", "plot_deferral_curve", "plot_excess_bound", "plot_readout", "plot_regret", "plot_system",
    "plot_wrong_label_mass",
]  # fmt: skip

_SERIES = (ROUTER, ORACLE, "#4f8a3c", "#8457a8", "#b08900", ARM)
_RANDOM = "random"


def plot_deferral_curve(curve: DeferralCurve, ax: Axes | None = None, *, label: str = "score") -> Axes:
    """Quality against deferral rate, beside the line of random deferral, which is drawn once."""
    ax = axes_of(ax)
    drawn = [line.get_label() for line in ax.get_lines()]
    if _RANDOM not in [str(name).split(" (")[0] for name in drawn]:
        ends = curve.quality[[0, -1]]
        ax.plot([0, 1], ends, color=ZERO, ls="--", lw=1.2, label=f"{_RANDOM} (area {curve.random_area:.4f})")
        drawn = [_RANDOM]
    colour = _SERIES[(len(drawn) - 1) % len(_SERIES)]
    marker = "o" if len(curve.rate) <= 25 else ""
    ax.plot(curve.rate, curve.quality, marker=marker, color=colour, lw=1.8, label=f"{label} (area {curve.area:.4f})")
    ax.set_xlabel("share of queries deferred")
    ax.set_ylabel("mean quality")
    ax.legend(fontsize=9, loc="best")
    return ax


def plot_regret(found: BayesRegret, ax: Axes | None = None) -> Axes:
    """Part of the mean regret that comes from the queries that each arm took."""
    ax = axes_of(ax, height=max(1.6, 0.32 * len(found.names) + 0.9))
    table, place = found.frame, np.arange(len(found.names))[::-1]
    part, share = table["part"].to_numpy(), table["share"].to_numpy()
    ax.barh(place, part, color=ROUTER)
    ax.set_yticks(place, [shortened(name) for name in found.names])
    room = max(float(part.max()), 1e-6)
    for row in range(len(part)):
        ax.text(
            part[row] + 0.01 * room,
            place[row],
            f"{part[row]:.4f} on {share[row]:.0%} of queries",
            va="center",
            fontsize=9,
        )
    ax.set_xlim(0, 1.45 * room)
    ax.set_xlabel(f"part of the mean regret ({found.mean.value:.4f}; Bayes risk {found.bayes_risk:.4f})")
    return ax


def plot_excess_bound(found: ExcessBound, ax: Axes | None = None) -> Axes:
    """Excess cost of every query against its bound; none lies above the line."""
    ax = axes_of(ax)
    most = max(float(found.bound.max()), float(found.excess.max()), 1e-6)
    ax.plot([0, most], [0, most], color=ZERO, ls="--", lw=1.2, label="excess = bound")
    ax.plot(found.bound, found.excess, ".", color=ROUTER, ms=4, alpha=0.5, label="one query")
    ax.plot(found.mean_bound, found.mean_excess, "D", color=ORACLE, ms=7, label="mean")
    ax.set_xlabel("bound from the surrogate excess")
    ax.set_ylabel("excess cost")
    ax.legend(fontsize=9, loc="upper left")
    return ax


def plot_readout(found: ReadoutCalibration, ax: Axes | None = None) -> Axes:
    """How often each expert was right against the probability read out for it, in bins of equal count."""
    ax = axes_of(ax)
    most = max(1.0, *(float(table.predicted.max()) for table in found.per_expert.values()))
    ax.plot([0, 1], [0, 1], color=ZERO, ls="--", lw=1.2, label="perfect")
    for index, (name, table) in enumerate(found.per_expert.items()):
        colour = _SERIES[index % len(_SERIES)]
        label = f"{shortened(name)} (ECE {table.ece:.3f})"
        ax.plot(table.predicted, table.realised, "o-", color=colour, lw=1.5, ms=4, label=label)
    ax.set_xlim(-0.02, 1.02 * most)
    ax.set_ylim(-0.02, 1.02)
    ax.set_xlabel("probability read out")
    ax.set_ylabel("share of right answers")
    ax.legend(fontsize=9, loc="upper left")
    return ax


def plot_wrong_label_mass(found: WrongLabelMass, ax: Axes | None = None) -> Axes:
    """Histogram of the mass on wrong labels, its mean, and the mean if the model were calibrated."""
    ax = axes_of(ax)
    ax.hist(
        found.mass,
        bins=40,
        range=(0, 1),
        weights=np.full(len(found.mass), 1 / len(found.mass)),
        color=ROUTER,
        alpha=0.6,
    )
    calibrated = float(found.if_calibrated.mean())
    ax.axvline(found.mean.value, color=ROUTER, lw=2, label=f"mean {found.mean.value:.3f}")
    ax.axvline(calibrated, color=ORACLE, lw=2, ls="--", label=f"if calibrated {calibrated:.3f}")
    ax.set_xlabel("probability on wrong labels")
    ax.set_ylabel("share of queries")
    ax.legend(fontsize=9, loc="best")
    return ax


def plot_coverage(found: CoverageAccuracy, ax: Axes | None = None) -> Axes:
    """Accuracy on the queries that are kept against their share."""
    ax = axes_of(ax)
    ax.fill_between(found.coverage, found.low, found.high, color=ROUTER, alpha=0.15, lw=0)
    ax.plot(found.coverage, found.accuracy, color=ROUTER, lw=2, label="most confident queries")
    ax.axhline(found.accuracy[-1], color=ZERO, ls="--", lw=1.2, label=f"all queries ({found.accuracy[-1]:.3f})")
    ax.set_xlabel("coverage (share of queries kept)")
    ax.set_ylabel("accuracy on them")
    ax.legend(fontsize=9, loc="best")
    return ax


def plot_system(found: SystemAccuracy, ax: Axes | None = None) -> Axes:
    """Accuracy of each arm on what it took, with intervals, beside that of the own prediction on the same queries."""
    rows = [row for row in found.frame.iter_rows(named=True) if row["queries"]]
    ax = axes_of(ax, height=max(1.8, 0.35 * len(rows) + 1.0))
    place = np.arange(len(rows))[::-1]
    accuracy, low, high, own = (
        np.array([row[name] for row in rows]) for name in ("accuracy", "low", "high", "own_accuracy")
    )
    # Rounding may leave an end of the interval beyond the mean by a digit.
    reach = np.maximum(np.vstack((accuracy - low, high - accuracy)), 0.0)
    ax.errorbar(accuracy, place, xerr=reach, fmt="o", color=ROUTER, capsize=2, label="answer given")
    ax.plot(own, place, "|", color=ORACLE, ms=12, mew=2, label="own prediction")
    ax.set_yticks(place, [f"{shortened(row['arm'])} ({row['share']:.0%})" for row in rows])
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.set_xlabel("accuracy")
    ax.legend(fontsize=9, loc="best")
    return ax
