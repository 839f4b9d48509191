"""Pictures of an evaluation; matplotlib is loaded when the first is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from defer.evaluation.plot_style import ARM, ORACLE, ROUTER, ZERO, axes_of, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from defer.evaluation.result import Evaluation

__all__ = ["plot_calibration", "plot_domains", "plot_frontier", "plot_load"]

_FRONTIER_COLUMNS = ("cost_usd", "quality", "quality_low", "quality_high")


def plot_frontier(evaluation: Evaluation, ax: Axes | None = None) -> Axes:
    """Quality against cost: operating points with their interval, the routing, single arms, zero router, oracle."""
    ax = axes_of(ax)
    points = {name: evaluation.operating_points[name].to_numpy() for name in _FRONTIER_COLUMNS}
    cost, quality, low, high = points.values()
    ax.fill_between(cost, low, high, color=ROUTER, alpha=0.15, lw=0)
    ax.plot(cost, quality, color=ROUTER, lw=2, label="router, all operating points")
    zero_cost, zero_quality = evaluation.zero_router
    ax.plot(zero_cost, zero_quality, color=ZERO, lw=1.2, ls="--", label="zero router (random mixtures)")
    rows = list(evaluation.frame.iter_rows(named=True))
    for row in rows[1:]:
        place = row["cost"], row["quality"]
        if row["policy"] == "oracle":
            ax.plot(*place, "*", color=ORACLE, ms=11, label="oracle")
        else:
            marker = "s" if row["policy"] == "logging policy" and evaluation.is_off_policy else "o"
            ax.plot(*place, marker, color=ARM, ms=5)
            ax.annotate(
                shortened(row["policy"]), place, xytext=(5, -9), textcoords="offset points", fontsize=8.5, color=ARM
            )
    routing = rows[0]
    reach = [[routing["quality"] - routing["quality_low"]], [routing["quality_high"] - routing["quality"]]]
    ax.errorbar(
        routing["cost"], routing["quality"], yerr=reach, fmt="D", color=ROUTER, ms=7, capsize=3, label="routing evaluated"
    )  # fmt: skip
    # Costs of one query are too small to read.
    ax.set_xlabel("mean cost (US dollars per 1,000 queries)")
    ax.xaxis.set_major_formatter(lambda dollars, _: f"{1000 * dollars:.6g}")
    ax.set_ylabel("mean quality")
    ax.legend(fontsize=9, loc="lower right")
    return ax


def plot_calibration(evaluation: Evaluation, ax: Axes | None = None) -> Axes:
    """Realised against predicted quality in bins of equal count."""
    ax = axes_of(ax)
    table = evaluation.calibration
    ends = [min(table.predicted.min(), table.realised.min()), max(table.predicted.max(), table.realised.max())]
    ax.plot(ends, ends, color=ZERO, ls="--", lw=1.2, label="perfect")
    ax.plot(table.predicted, table.realised, "o-", color=ROUTER, lw=1.5, label=f"router (ECE {table.ece:.3f})")
    ax.set_xlabel("predicted quality")
    ax.set_ylabel("realised quality")
    ax.legend(fontsize=9, loc="upper left")
    return ax


def plot_load(evaluation: Evaluation, ax: Axes | None = None) -> Axes:
    """Share of the queries that each arm takes."""
    load = {arm: share for arm, share in evaluation.load.items() if share > 0}
    ax = axes_of(ax, height=max(1.6, 0.32 * len(load) + 0.9))
    names = sorted(load, key=load.__getitem__)
    place = np.arange(len(names))
    ax.barh(place, [load[name] for name in names], color=ROUTER)
    ax.set_yticks(place, [shortened(name) for name in names])
    for row, name in enumerate(names):
        ax.text(load[name] + 0.01, row, f"{load[name]:.1%}", va="center", fontsize=9)
    ax.set_xlim(0, 1.12)
    ax.set_xlabel("share of queries")
    return ax


def plot_domains(evaluation: Evaluation, ax: Axes | None = None) -> Axes:
    """Quality by domain with intervals, beside the best single arm."""
    table = evaluation.domains.sort("quality")
    rows: dict[str, Any] = {
        name: table[name].to_numpy() for name in ("domain", "quality", "quality_low", "quality_high", "best_single")
    }
    ax = axes_of(ax, height=max(1.8, 0.3 * len(table) + 1.0))
    place = np.arange(len(table))
    reach = np.abs(np.vstack([rows["quality"] - rows["quality_low"], rows["quality_high"] - rows["quality"]]))
    ax.errorbar(rows["quality"], place, xerr=np.nan_to_num(reach), fmt="o", color=ROUTER, capsize=2, label="routing")
    ax.plot(rows["best_single"], place, "|", color=ORACLE, ms=12, mew=2, label="best single arm")
    ax.set_yticks(place, [shortened(str(name)) for name in rows["domain"]])
    ax.set_xlabel("mean quality")
    ax.legend(fontsize=9, loc="best")
    return ax
