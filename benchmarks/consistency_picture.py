"""The picture of the consistency study: one row per problem, one-shot methods left, methods in two steps right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

__all__ = ["draw"]

WIDTH_INCHES, ROW_INCHES, DPI = 10.0, 2.6, 130
# Colours of Okabe and Ito, told apart by the colour-blind too; methods known to be inconsistent are dashed.
_STYLES = {
    "softmax": ("#0072B2", "o"),
    "one-vs-all": ("#56B4E9", "s"),
    "asymmetric softmax": ("#009E73", "^"),
    "RL2D, q = 1": ("#CC79A7", "v"),
    "RL2D, q = 0.7": ("#E69F00", "D"),
    "realizable (RS)": ("#D55E00", "X"),
    "softmax, alpha = 0.5": ("#000000", "*"),
    "softmax, priced in training": ("#009E73", "^"),
    "cost-sensitive, priced in training": ("#E69F00", "D"),
    "two-stage S1": ("#0072B2", "o"),
    "two-stage S2": ("#56B4E9", "s"),
    "post-hoc plug-in": ("#009E73", "^"),
    "post-hoc regression": ("#CC79A7", "v"),
    "post-hoc partial": ("#E69F00", "D"),
    "post-hoc plug-in, scores only": ("#D55E00", "X"),
    "Chow": ("#000000", "*"),
}
_LINES = {True: "-", None: "-.", False: "--"}
# Told apart from another method of the same colour and marker.
_HOLLOW = ("softmax, priced in training", "cost-sensitive, priced in training")
# Below one part in ten thousand a curve is as good as at zero.
_FLOOR = 3e-5


def draw(curves: Sequence[Any], path: Path) -> None:
    """Mean excess risk against sample size with a band of two standard errors; dotted lines are limits above zero."""
    mpl.rcParams.update({"font.size": 9})
    laws = list({curve.law.name: curve.law for curve in curves}.values())
    figure = Figure(figsize=(WIDTH_INCHES, ROW_INCHES * len(laws) + 1.8), layout="constrained")
    grid = figure.subplots(len(laws), 2, sharex=True, sharey="row")
    handles: list[dict[str, Any]] = [{}, {}]
    for row, law in enumerate(laws):
        for column, axes in enumerate(grid[row]):
            own = [curve for curve in curves if curve.law is law and curve.method.joint == (column == 0)]
            for curve in own:
                handles[column].setdefault(curve.method.name, _draw_curve(axes, curve))
            axes.set(xscale="log", yscale="log", ylim=(_FLOOR, 0.4))
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.25, linewidth=0.5)
            if row == 0:
                axes.set_title(("learned at once, one sample", "predictor first, then deferral")[column], fontsize=10)
        grid[row, 0].set_ylabel(f"{law.name}\nexcess risk")
    for axes in grid[-1]:
        axes.set_xlabel("training queries")
        axes.set_xticks(curves[0].sizes, [f"{n:,}" for n in curves[0].sizes])
        axes.minorticks_off()
    figure.suptitle(
        "Solid: proved consistent; dashed: known not to be; dash-dotted: nothing claimed; dotted line: limit of the curve of "
        "its colour",
        fontsize=9,
    )
    for column, place in enumerate(("outside lower left", "outside lower right")):
        figure.legend(
            list(handles[column].values()), list(handles[column]), loc=place, ncols=2, frameon=False, fontsize=8
        )
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=DPI)


def _draw_curve(axes: Any, curve: Any) -> Any:
    colour, marker = _STYLES[curve.method.name]
    mean, error = curve.mean, curve.error
    low, high = (np.maximum(mean + side * 2 * error, _FLOOR / 2) for side in (-1, 1))
    axes.fill_between(curve.sizes, low, high, color=colour, alpha=0.12, linewidth=0)
    (line,) = axes.plot(
        curve.sizes, np.maximum(mean, _FLOOR / 2), _LINES[curve.proved], color=colour, marker=marker, markersize=5,
        linewidth=1.4, markerfacecolor="white" if curve.method.name in _HOLLOW else colour,
    )  # fmt: skip
    if curve.limit > 0:
        axes.axhline(curve.limit, color=colour, linestyle=":", linewidth=1.0)
    return line
