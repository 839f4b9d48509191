"""What all pictures share: colours, axes of their own, and names of a readable length."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ARM", "ORACLE", "ROUTER", "ZERO", "axes_of", "shortened"]

ROUTER, ARM, ZERO, ORACLE = "#0b6e99", "#5b5b5b", "#9a9a9a", "#b3541e"


def axes_of(ax: Axes | None, *, height: float = 4.0) -> Axes:
    """The axes given, or those of a figure of their own, `height` inches high."""
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    # A figure of its own, outside pyplot: drawing must not open windows or keep figures alive.
    figure = Figure(figsize=(6.4, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def shortened(name: str, most: int = 32) -> str:
    """The name with its middle left out if it is long, for versions stand at the end; no mathematics in it."""
    half = (most - 1) // 2
    shown = name if len(name) <= most else f"{name[:half]}…{name[-half:]}"
    return shown.replace("$", r"\$")
