"""Interleaved timings, and the reStructuredText pages that show them."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import version
from time import perf_counter

import numpy as np

__all__ = ["interleaved", "machine", "median", "page", "table"]


def interleaved(
    runs: Mapping[str, Callable[[], object]], *, repeats: int, once: Collection[str] = ()
) -> dict[str, list[float]]:
    """Seconds of every run, taken in turns so that a busy machine slows all of them alike; the first turn warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            if name in once and turn != 1:
                continue
            start = perf_counter()
            run()
            if turn:
                seconds[name].append(perf_counter() - start)
    return seconds


def median(seconds: Sequence[float]) -> str:
    """Median as text."""
    value = float(np.median(seconds))
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def machine() -> str:
    """What the numbers depend on."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "scikit-learn"))
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {packages}."


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A list-table."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (header, *rows):
        for index, cell in enumerate(row):
            lines.append(f"   {'* -' if index == 0 else '  -'} {cell}".rstrip())
    return "\n".join(lines)


def page(title: str, command: str, about: str, *parts: tuple[str, str]) -> str:
    """A page of headed parts; an empty heading continues the part before."""
    lines = [title, "=" * len(title), "", f"Written by {command}; do not edit.", "", about, ""]
    for heading, text in parts:
        if heading:
            lines += [heading, "-" * len(heading), ""]
        lines += [text, ""]
    return "\n".join(lines)
