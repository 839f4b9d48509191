"""Tables of the page on routers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from router_candidates import AUTO
from router_judge import Measures, holm, p_value
from router_published import PUBLISHED
from routing_sets import RoutingSet
from side_by_side import table

__all__ = ["SetResult", "matrix", "named_anchor", "set_part", "timing"]

_LEVEL = 0.05
_UNITS = {
    "share": ("share of strong calls", 1.0),
    "USD": ("USD per 1,000", 1000.0),
    "CNY": ("CNY per 1,000", 1000.0),
    "tokens": ("tokens", 1.0),
}


@dataclass
class SetResult:
    """What was measured on one set.

    Attributes
    ----------
    name : str
    part : RoutingSet
    measures : dict of str to Measures
        Of every router.
    why : dict of str to str
        Routers without measures, and the reason.
    oracle : Measures
    chosen : dict of str to dict
        What published routers chose.
    seconds, sizes : dict of str to (fit, route, route with features) and int
    fallback : dict of str to float
        Share of the fits in which a stack gave way to the zero router.
    """

    name: str
    part: RoutingSet
    measures: dict[str, Measures]
    why: dict[str, str]
    oracle: Measures
    best: int
    zero_aiq: float
    chosen: dict[str, Any]
    seconds: dict[str, tuple[float, float, float]]
    sizes: dict[str, int]
    fallback: dict[str, float]

    def against_zero(self) -> dict[str, float]:
        """Adjusted p-value of every router's area, which is 0 for the zero router."""
        return self._adjusted(lambda one: p_value(one.values["area"], 0.0), ())

    def against_auto(self) -> dict[str, float]:
        """Adjusted p-value of the difference of every router's area from that of the default stack."""
        if AUTO not in self.measures:
            return {}
        auto = self.measures[AUTO].values["area"]
        return self._adjusted(lambda one: p_value(one.values["area"], auto), (AUTO,))

    def _adjusted(self, test: Callable[[Measures], float], without: tuple[str, ...]) -> dict[str, float]:
        names = [name for name in self.measures if name not in without]
        return dict(zip(names, holm([test(self.measures[name]) for name in names]), strict=True))


def set_part(found: SetResult, pictures: list[str]) -> list[tuple[str, str]]:
    """Headed parts of one set: what it is, the verdict, pictures, the table, what was published."""
    about = f"{len(found.part.log):,} queries, {len(found.part.log.arms)} arms.  {found.part.about}"
    shown = "\n\n".join(f".. image:: {name}\n   :alt: {alt}" for name, alt in zip(pictures, _alts(found), strict=False))
    parts = [(found.part.title, f"{about}\n\n{_verdict(found)}"), ("", shown), ("", table(*_set_table(found)))]
    if found.chosen:
        parts.append(("", _chosen_table(found)))
    if found.name in PUBLISHED:
        source, rows = PUBLISHED[found.name]
        parts.append(("", f"Published: {source}\n\n{table(rows[0], rows[1:])}"))
    return parts


def _alts(found: SetResult) -> list[str]:
    return [
        f"Quality against cost on {found.part.title}: routers, single arms and the zero router.",
        f"Area over the zero router of every router on {found.part.title}, with 95% intervals.",
    ]


def _verdict(found: SetResult) -> str:
    zero, auto = found.against_zero(), found.against_auto()
    area = {name: one.value("area") for name, one in found.measures.items()}
    over = [name for name in area if zero[name] < _LEVEL and area[name] > 0]
    under = [name for name in area if zero[name] < _LEVEL and area[name] < 0]
    best = max(area, key=lambda name: area[name])
    text = [
        f"After Holm's adjustment {len(over)} of {len(area)} routers are above the zero router and {len(under)} below it; the "
        f"largest area is that of {best} ({area[best]:+.4f})."
    ]
    if not over:
        text.append("**Nothing learned is shown to beat random choices between single arms here.**")
    if auto:
        better = [name for name in auto if auto[name] < _LEVEL and area[name] > area[AUTO]]
        worse = [name for name in auto if auto[name] < _LEVEL and area[name] < area[AUTO]]
        text.append(
            f"{AUTO} has {area[AUTO]:+.4f}: {len(worse)} of {len(auto)} others are shown to be worse and "
            f"{_listed(better) if better else 'none'} better."
        )
    if found.fallback.get(AUTO, 0.0) > 0:
        text.append(f"It fell back to the zero router in {found.fallback[AUTO]:.0%} of its fits.")
    return "  ".join(text)


def _listed(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names)})"


def _set_table(found: SetResult) -> tuple[list[str], list[list[str]]]:
    part, is_share = found.part, found.part.is_share
    unit, scale = _UNITS[part.unit]
    header = ["router", "quality, no limit", unit, "AIQ", "area over zero router"]
    header += ["APGR", "CPT 50%", "CPT 80%"] if is_share else []
    header += [
        "gain at the best arm's cost",
        "cost for its quality",
        "for half a point less",
        "p, zero router",
        "p, auto",
    ]
    zero, auto = found.against_zero(), found.against_auto()
    rows = _references(found, scale, len(header))
    order = sorted(found.measures, key=lambda name: -found.measures[name].value("area"))
    for name in order:
        one = found.measures[name]
        cells = [name, f"{one.value('quality'):.4f}", _number(scale * one.value("cost"))]
        cells += [_with_interval(one, "aiq", ""), _with_interval(one, "area", "+", spread=True)]
        if is_share:
            cells += [_with_interval(one, key, "") for key in ("apgr", "cpt50", "cpt80")]
        cells += [_with_interval(one, "gain", "+"), _with_interval(one, "reach", "%"), _with_interval(one, "near", "%")]
        rows.append([*cells, _p(zero.get(name)), _p(auto.get(name))])
    rows += [[name, reason, *["–"] * (len(header) - 2)] for name, reason in found.why.items()]
    return header, rows


def _references(found: SetResult, scale: float, width: int) -> list[list[str]]:
    quality, cost = np.asarray(found.part.log.quality), np.asarray(found.part.log.cost)
    single = [f"{quality[:, found.best].mean():.4f}", _number(scale * cost[:, found.best].mean())]
    blank = ["–"] * 3 if found.part.is_share else []
    two_arm = [_value(found.oracle, key) for key in ("apgr", "cpt50", "cpt80")] if found.part.is_share else []
    rows = [
        [f"*best single arm, in hindsight* ({found.part.log.arms[found.best]})", *single, "–", "–", *blank, "0", "100%", "–"],
        ["*zero router, in hindsight*", *single, f"{found.zero_aiq:.4f}", "0", *blank, "0", "100%", "–"],
        [
            "*oracle, in hindsight*", f"{found.oracle.value('quality'):.4f}", _number(scale * found.oracle.value("cost")),
            f"{found.oracle.value('aiq'):.4f}", f"{found.oracle.value('area'):+.4f}", *two_arm,
            f"{found.oracle.value('gain'):+.4f}", f"{found.oracle.value('reach'):.0%}", f"{found.oracle.value('near'):.0%}",
        ],
    ]  # fmt: skip
    return [[*row, *["–"] * (width - len(row))] for row in rows]


def _value(one: Measures, name: str) -> str:
    value = one.value(name)
    return f"{value:.4f}" if np.isfinite(value) else "–"


def _with_interval(one: Measures, name: str, form: str, *, spread: bool = False) -> str:
    value, (low, high) = one.value(name), one.interval(name)
    show: Callable[[float], str] = (lambda x: f"{x:.0%}") if form == "%" else (lambda x: f"{x:{form}.4f}")
    if not np.isfinite(value):
        return "not reached" if form == "%" else "–"
    ends = [show(end) if np.isfinite(end) else "not reached" for end in (low, high)]
    text = f"{show(value)} ({ends[0]} … {ends[1]})"
    return f"{text}, ± {one.spread(name):.4f}" if spread and np.isfinite(one.spread(name)) else text


def _chosen_table(found: SetResult) -> str:
    _, scale = _UNITS[found.part.unit]
    header = [
        "published choices",
        "quality",
        _UNITS[found.part.unit][0],
        "over random at the same rate",
        "over zero router",
    ]
    rows, above = [], []
    for name, values in found.chosen.items():
        cells = [name, f"{values['quality'][0]:.4f}", _number(scale * values["cost"][0])]
        for key in ("over_random", "over_zero"):
            low, high = np.quantile(values[key][1:], [0.025, 0.975])
            cells.append(f"{values[key][0]:+.4f} ({low:+.4f} … {high:+.4f})")
            above += [name] if key == "over_random" and low > 0 else []
        rows.append(cells)
    learned = [name for name in above if name.startswith("learned")]
    text = (
        "No learned router of that study is above random choices at its own rate: no interval lies above 0."
        if not learned
        else f"Above random choices at their own rate: {', '.join(learned)}."
    )
    return f"{text}\n\n{table(header, rows)}"


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _number(value: float) -> str:
    return f"{value:.4g}" if value < 100 else f"{value:,.0f}"


def matrix(results: list[SetResult], *, intervals: bool) -> str:
    """Area over the zero router of every router on every set, with marks for what Holm's adjustment leaves standing."""
    names = list(dict.fromkeys(name for found in results for name in found.measures))
    zero = [found.against_zero() for found in results]
    auto = [found.against_auto() for found in results]
    rows = []
    for name in names:
        cells, over, under = [name], 0, 0
        for found, against_zero, against_auto in zip(results, zero, auto, strict=True):
            if name not in found.measures:
                cells.append("–")
                continue
            one = found.measures[name]
            area, mark = one.value("area"), ""
            if against_zero[name] < _LEVEL:
                mark += "↑" if area > 0 else "↓"
                over, under = over + (area > 0), under + (area < 0)
            if against_auto.get(name, 1.0) < _LEVEL:
                mark += "▲" if area > found.measures[AUTO].value("area") else "▽"
            low, high = one.interval("area")
            shown = f"{100 * area:+.2f}" + (f" ({100 * low:+.2f} … {100 * high:+.2f})" if intervals else "")
            cells.append(f"{shown} {mark}".strip())
        rows.append([*cells, str(over), str(under), _mean_rank(name, results)])
    header = ["router", *(named_anchor(found) for found in results), "sets above", "sets below", "mean rank"]
    return table(header, rows)


def _mean_rank(name: str, results: list[SetResult]) -> str:
    ranks = []
    for found in results:
        if name in found.measures:
            area = np.array([one.value("area") for one in found.measures.values()])
            mine = found.measures[name].value("area")
            ranks.append((1 + (area > mine).sum() + ((area == mine).sum() - 1) / 2 - 1) / max(len(area) - 1, 1))
    return f"{np.mean(ranks):.2f}"


def named_anchor(found: SetResult) -> str:
    """Name of a set in a head of a table."""
    return found.name.replace("_", " ")


def timing(results: list[SetResult]) -> str:
    """Fit time, route time without and with features, and size of every router."""
    names = list(dict.fromkeys(name for found in results for name in found.seconds))
    rows = []
    for name in names:
        cells = [name]
        for found in results:
            if name not in found.seconds:
                cells.append("–")
                continue
            fit, route, whole = found.seconds[name]
            size = found.sizes.get(name, 0)
            shown = f"{size / 1e6:.2f} MB" if size else "not measured"
            cells.append(f"{fit:.3g} s; {1e6 * route:.3g} µs; {1e3 * whole:.3g} ms; {shown}")
        rows.append(cells)
    heads = [f"{named_anchor(found)}, {len(found.part.log):,} × {len(found.part.log.arms)}" for found in results]
    return table(["router", *heads], rows)
