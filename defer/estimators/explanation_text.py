"""An explanation of one decision as text and as plain values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from defer.estimators.explain import Explanation

__all__ = ["as_document", "as_text"]

# Longer texts are shown by their beginning.
_MOST = 72


def as_document(found: Explanation) -> dict[str, Any]:
    """Plain values of an explanation, for JSON.

    Parameters
    ----------
    found : Explanation

    Examples
    --------
    >>> from defer.estimators.explain import explain
    >>> from defer.estimators import SingleArm
    >>> as_document(explain(SingleArm().fit([[0.0]], [[0.5, 1.0]]), [0.0]))["arm"]
    1
    """
    arms = found.arms
    rows = []
    for index, arm in enumerate(arms):
        row = {
            "arm": arm, "quality": found.quality[index], "cost_usd": found.cost[index] if found.has_cost else None,
            "utility": found.utility[index], "probability": found.probability[index],
            "quality_std": None if found.quality_std is None else found.quality_std[index],
        }  # fmt: skip
        for name, local in (("quality", found.local_quality), ("cost_usd", found.local_cost)):
            if local is not None:
                parts = ("mean", "error", "spread", "count", "low", "high")
                row[f"local_{name}"] = {part: getattr(local, part)[index] for part in parts}
        rows.append(row)
    below, above = found.flip_below, found.flip_above
    document = {
        "query": found.query, "router": found.router, "arm": found.label,
        "fallbacks": [arms[index] for index in found.fallbacks], "price": found.price,
        "follows_price": found.follows_price, "limit": None if found.limit is None else repr(found.limit), "arms": rows,
        "flip_below": None if below is None else {"price": below.high, "arm": arms[below.arm]},
        "flip_above": None if above is None else {"price": above.low, "arm": arms[above.arm]},
        "intervals": [{"low": part.low, "high": part.high, "arm": arms[part.arm]} for part in found.intervals],
        "level": found.level, "similarity": found.similarity or None, "is_far": found.is_far,
        "neighbors": [
            {
                "row": near.row, "similarity": near.similarity, "query": near.query, "query_id": near.query_id,
                "quality": dict(zip(map(str, arms), near.quality, strict=True)),
                "cost_usd": dict(zip(map(str, arms), near.cost, strict=True)),
            }
            for near in found.neighbors
        ],
        "notes": list(found.notes),
    }  # fmt: skip
    return {name: _plain(value) for name, value in document.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)


def as_text(found: Explanation) -> str:
    """Tables of an explanation: arms, prices, similar logged queries.

    Parameters
    ----------
    found : Explanation

    Examples
    --------
    >>> from defer.estimators.explain import explain
    >>> from defer.estimators import SingleArm
    >>> print(as_text(explain(SingleArm().fit([[0.0]], [[0.5, 1.0]]), [0.0])))
    SingleArm takes 1 for (0)
    fallbacks: 0
    <BLANKLINE>
    arm  quality
    1      1.000  <- taken
    0      0.500
    <BLANKLINE>
    note: the router was fitted without costs: no price changes the decision
    note: no log was given: nothing is known of outcomes on similar queries
    """
    arms = [_printable(arm) for arm in found.arms]
    lines = [f"{found.router} takes {arms[found.arm]} for {_query(found.query)}"]
    if found.fallbacks:
        lines.append(f"fallbacks: {', '.join(arms[index] for index in found.fallbacks)}")
    lines += ["", *_arm_table(found, arms)]
    if found.local_quality is not None:
        share = f"{found.level:.0%}"
        lines += [
            "local: mean outcome of the nearest logged queries ± its standard error, and their number;",
            f"{share} range: where the outcome on one query lies, by the residuals over the log",
        ]
    if found.has_cost and len(found.arms) > 1:
        lines += ["", *_price_lines(found, arms)]
    if found.neighbors:
        lines += ["", f"nearest logged queries (similarity: {found.similarity})", *_neighbor_lines(found, arms)]
    if found.notes:
        lines += ["", *(f"note: {note}" for note in found.notes)]
    return "\n".join(lines)


def _arm_table(found: Explanation, arms: list[str]) -> list[str]:
    header, local, costs = ["arm", "quality"], found.local_quality, found.local_cost
    if found.quality_std is not None:
        header.append("model sd")
    if local is not None:
        header += ["local quality", f"{found.level:.0%} range"]
    if found.has_cost:
        header += ["cost ($)", *(["local cost ($)"] if costs is not None else []), "utility"]
    rows = [header]
    for index in (found.arm, *found.fallbacks):
        row = [arms[index], f"{found.quality[index]:.3f}"]
        if found.quality_std is not None:
            row.append(f"{found.quality_std[index]:.3f}")
        if local is not None:
            row += [_local(local, index, ".3f"), f"{local.low[index]:.3f} … {local.high[index]:.3f}"]
        if found.has_cost:
            row.append(f"{found.cost[index]:.3g}")
            row += [_local(costs, index, ".3g")] if costs is not None else []
            row.append(f"{found.utility[index]:.4g}")
        rows.append(row)
    lines = _aligned(rows)
    return [lines[0], f"{lines[1]}  <- taken", *lines[2:]]


def _local(local: Any, index: int, form: str) -> str:
    if not local.count[index]:
        return "none"
    error = "" if math.isnan(local.error[index]) else f" ± {local.error[index]:{form}}"
    return f"{local.mean[index]:{form}}{error} ({local.count[index]})"


def _price_lines(found: Explanation, arms: list[str]) -> list[str]:
    below, above = found.flip_below, found.flip_above
    lines = [f"price {found.price:.6g} (quality given up per US dollar)"]
    if below is not None:
        lines.append(f"below {below.high:.6g} it would be {arms[below.arm]}")
    if above is not None:
        lines.append(f"from {above.low:.6g} on it would be {arms[above.arm]}")
    if below is None and above is None:
        lines.append("no price changes the decision")
    rows = [["price from", "arm"], *([f"{part.low:.6g}", arms[part.arm]] for part in found.intervals)]
    return [*lines, *(_aligned(rows, left=1) if len(rows) > 2 else [])]


def _neighbor_lines(found: Explanation, arms: list[str]) -> list[str]:
    rows = [["similarity", *arms, "query"]]
    for near in found.neighbors:
        outcomes = ["-" if math.isnan(value) else f"{value:.3g}" for value in near.quality]
        shown = f"row {near.row}" if near.query is None else _query(near.query)
        rows.append([f"{near.similarity:.3f}", *outcomes, shown])
    return _aligned(rows, left=len(arms) + 1)


def _aligned(rows: list[list[str]], *, left: int = 0) -> list[str]:
    """Columns of one width, ragged right; column `left` is aligned left, the others right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _query(query: Any) -> str:
    if isinstance(query, tuple):
        shown = ", ".join(f"{value:.4g}" if isinstance(value, float) else _printable(value) for value in query[:8])
        return f"({shown}{', …' if len(query) > 8 else ''})"
    if not isinstance(query, str):
        return _printable(query)
    text = "".join(letter if letter.isprintable() else " " for letter in query[: 2 * _MOST])
    text = " ".join(text.split())
    return repr(text if len(text) <= _MOST and len(query) <= 2 * _MOST else f"{text[: _MOST - 1]}…")


def _printable(name: Any) -> str:
    """A name on one line, without characters that steer a terminal."""
    return "".join(letter if letter.isprintable() else "�" for letter in str(name))
