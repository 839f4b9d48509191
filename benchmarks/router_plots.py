"""Pictures of the page on routers: the frontier of every set, and areas over the zero router with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from router_candidates import AUTO, ZERO
from router_tables import SetResult

from defer.evaluation.plot_style import ARM, ORACLE, ROUTER, shortened
from defer.evaluation.plot_style import ZERO as GREY
from defer.portfolios.zero_router import upper_hull

__all__ = ["draw"]

DPI = 110
_OTHERS = ("#5f8f3e", "#8a5aa8", "#c28f1a")
_UNITS = {
    "share": "share of calls to the strong arm",
    "USD": "mean cost (US dollars per 1,000 queries)",
    "CNY": "mean cost (yuan per 1,000 queries)",
    "tokens": "mean cost (tokens per query)",
}
_SCALE = {"share": 1.0, "USD": 1000.0, "CNY": 1000.0, "tokens": 1.0}


def draw(found: SetResult, folder: Path, *, prefix: str = "router") -> list[str]:
    """Draw both pictures of a set, and give their file names."""
    names = [f"{prefix}_frontier_{found.name}.png", f"{prefix}_areas_{found.name}.png"]
    _frontier(found, folder / names[0])
    _forest(found, folder / names[1])
    return names


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _frontier(found: SetResult, path: Path) -> None:
    figure, axes = _figure(7.6, 4.4)
    scale = _SCALE[found.part.unit]
    quality, cost = (np.asarray(table).mean(axis=0) for table in (found.part.log.quality, found.part.log.cost))
    hull_cost, hull_quality = upper_hull(cost, quality)
    end = max(cost.max(), hull_cost[-1])
    axes.plot(
        scale * np.append(hull_cost, end), np.append(hull_quality, hull_quality[-1]), "--", color=GREY, lw=1.4,
        label="zero router, in hindsight",
    )  # fmt: skip
    axes.plot(*_sorted(found.oracle.curve, scale), ":", color=ORACLE, lw=1.2, label="oracle, in hindsight")
    shown = _shown(found)
    for name, colour in zip(shown, (ROUTER, *_OTHERS), strict=False):
        curve = _sorted(found.measures[name].curve, scale)
        axes.plot(*curve, color=colour, lw=2.2 if name == AUTO else 1.4, label=name, zorder=3 if name == AUTO else 2)
    axes.plot(scale * cost, quality, "o", color=ARM, ms=4.5, zorder=4)
    low = min(quality.max() - 1.25 * (quality.max() - np.median(quality)), hull_quality[0])
    top = max(quality.max(), *(found.measures[name].curve[1].max() for name in shown))
    axes.set_ylim(low - 0.02 * (top - low), top + 0.25 * (top - low) + 1e-3)
    # Arms far dearer than the best one would press everything else to the left.
    right = scale * min(end, 2.0 * cost[found.best])
    axes.set_xlim(scale * hull_cost[0] - 0.03 * right, 1.04 * right)
    _name_arms(axes, found, scale * cost, quality, scale * hull_cost)
    axes.set_xlabel(_UNITS[found.part.unit])
    axes.set_ylabel("mean quality")
    beyond = int((scale * cost > 1.04 * right).sum())
    axes.set_title(found.part.title + (f" ({beyond} dearer arms not shown)" if beyond else ""), fontsize=10, loc="left")
    figure.legend(loc="outside right upper", fontsize=7.5, frameon=False)
    figure.savefig(path, dpi=DPI)


def _shown(found: SetResult) -> list[str]:
    """The default stack, and the three best others."""
    others = sorted(
        (name for name in found.measures if name != AUTO and not name.startswith(f"{AUTO},")),
        key=lambda name: -found.measures[name].value("area"),
    )
    return ([AUTO] if AUTO in found.measures else []) + others[:3]


def _name_arms(axes: Any, found: SetResult, cost: Any, quality: Any, hull_cost: Any) -> None:
    """Names of the arms of the zero router, or of all where there are few."""
    for place, arm in enumerate(found.part.log.arms):
        if len(cost) <= 4 or np.isclose(cost[place], hull_cost).any():
            is_right = cost[place] > 0.6 * axes.get_xlim()[1]
            axes.annotate(
                shortened(str(arm), 26), (cost[place], quality[place]),
                xytext=(-3, -13) if is_right else (5, -10), textcoords="offset points",
                ha="right" if is_right else "left", fontsize=7, color=ARM, annotation_clip=True,
            )  # fmt: skip


def _sorted(curve: tuple[Any, Any], scale: float) -> tuple[Any, Any]:
    order = np.argsort(curve[0], kind="stable")
    return scale * curve[0][order], curve[1][order]


def _forest(found: SetResult, path: Path) -> None:
    names = sorted(found.measures, key=lambda name: found.measures[name].value("area"))
    figure, axes = _figure(7.6, 0.9 + 0.19 * len(names))
    zero = found.against_zero()
    for place, name in enumerate(names):
        one = found.measures[name]
        value, (low, high) = one.value("area"), one.interval("area")
        colour = ROUTER if name.startswith(AUTO) else GREY if name == ZERO else ARM
        axes.plot([low, high], [place, place], color=colour, lw=1.6)
        axes.plot(value, place, "o", color=colour, ms=5, mfc=colour if zero[name] < 0.05 else "white")
    axes.axvline(0.0, color=GREY, lw=1.0, ls="--")
    if AUTO in found.measures:
        axes.axvline(found.measures[AUTO].value("area"), color=ROUTER, lw=0.8, ls=":")
    axes.set_yticks(range(len(names)), names, fontsize=7.5)
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.set_xlabel("area over the zero router; filled: Holm-adjusted p against it below 0.05", fontsize=8)
    axes.set_title(found.part.title, fontsize=10, loc="left")
    figure.savefig(path, dpi=DPI)
