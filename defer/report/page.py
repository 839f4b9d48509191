"""Rendering an evaluation as one HTML file: figures inline as SVG, no script, no network."""

from __future__ import annotations

import io
import math
import platform
import re
from importlib.metadata import version
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from defer._version import __version__
from defer.evaluation.audit import audit
from defer.persistence import log_hash
from defer.report.verdict import verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

    from defer.evaluation.result import Evaluation

__all__ = ["render_report", "write_report"]

# A page with more domains than this is no longer read; the frame has them all.
_MOST_DOMAINS = 40
_OPERATING_POINTS = 12


def write_report(evaluation: Evaluation, path: str | PathLike[str]) -> None:
    """Write the report to `path`.

    Parameters
    ----------
    evaluation : Evaluation
    path : path of the HTML file

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    Path(path).write_text(render_report(evaluation), encoding="utf-8")


def render_report(evaluation: Evaluation) -> str:
    """The report as a string of HTML.

    Parameters
    ----------
    evaluation : Evaluation

    Examples
    --------
    >>> import numpy as np
    >>> from defer import OutcomeLog, evaluate
    >>> from defer.estimators import RandomMixture
    >>> log = OutcomeLog.from_arrays(np.zeros((4, 1)), [[0.0, 1.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    >>> "<h1>" in render_report(evaluate(RandomMixture().fit(log.X, log.quality), log))
    True
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["infinity"] = math.inf
    environment.filters |= {"number": _number, "money": _money, "percent": _percent, "isfinite": math.isfinite}
    template = environment.from_string((files("defer.report") / "template.html.j2").read_text(encoding="utf-8"))
    found = audit(evaluation.log)
    summary = found.summary
    return template.render(
        verdict=verdict(evaluation),
        evaluation=evaluation,
        estimate=evaluation.estimate,
        warnings=evaluation.estimate.warnings,
        summary=summary,
        findings=found.findings,
        arms=list(summary.frame.iter_rows(named=True)),
        policies=list(evaluation.frame.iter_rows(named=True)),
        points=_operating_points(evaluation),
        domains=_domains(evaluation),
        more_domains=max(0, len(summary.domains) - _MOST_DOMAINS),
        area=evaluation.area_over_zero() if evaluation.has_frontier else None,
        metrics=_metrics(evaluation),
        figures=_figures(evaluation, len(summary.domains)),
        versions={
            "defer": __version__,
            **{name: version(name) for name in ("numpy", "scipy", "scikit-learn")},
            "Python": platform.python_version(),
        },
        level=f"{100 * evaluation.level:g}%",
        fingerprint=log_hash(evaluation.log),
        limit=repr(evaluation.limit) if evaluation.limit is not None else "none",
    )


def _operating_points(evaluation: Evaluation) -> list[dict[str, Any]]:
    if not evaluation.has_frontier:
        return []
    table, arms = evaluation.operating_points, evaluation.log.arms
    picked = np.unique(np.linspace(0, len(table) - 1, _OPERATING_POINTS).round().astype(int))
    points = []
    for row in table[picked.tolist()].iter_rows(named=True):
        shares = sorted(((row[f"share:{arm}"], arm) for arm in arms), reverse=True)[:3]
        points.append({**row, "main": ", ".join(f"{arm} {share:.0%}" for share, arm in shares if share >= 0.005)})
    return points


def _domains(evaluation: Evaluation) -> list[dict[str, Any]]:
    if evaluation.log.domain is None:
        return []
    return list(evaluation.domains.sort("n", descending=True).head(_MOST_DOMAINS).iter_rows(named=True))


def _metrics(evaluation: Evaluation) -> list[tuple[str, str]]:
    rows = [("load entropy, 0 … 1", f"{evaluation.load_entropy:.3f}")]
    if evaluation.has_calibration:
        table = evaluation.calibration
        rows += [
            ("expected calibration error", f"{table.ece:.4f}"),
            ("Brier score (of the overall mean)", f"{table.brier:.4f} ({table.base_brier:.4f})"),
        ]
    if evaluation.has_frontier:
        rows.append(("AIQ", f"{evaluation.aiq():.4f}"))
        if evaluation.outcomes("cost").mean(axis=0).max() > 0:
            rows.append(("AIQ divided by the largest cost", f"{evaluation.aiq(norm='max'):.4f}"))
    if evaluation.is_two_arm:
        thresholds = f"{evaluation.cpt(0.5):.4f}, {evaluation.cpt(0.8):.4f}"
        rows.append(("APGR, CPT(50%), CPT(80%)", f"{evaluation.apgr():.4f}, {thresholds}"))
    return rows


def _figures(evaluation: Evaluation, n_domains: int) -> list[dict[str, str]]:
    wanted: list[tuple[str, str, Callable[[], Axes]]] = []
    if evaluation.has_frontier:
        wanted.append(
            (
                "Frontier",
                "Quality against cost of every operating point, with the single arms.",
                evaluation.plot_frontier,
            )
        )
    wanted.append(("Load", "Share of the queries that each arm takes.", evaluation.plot_load))
    if evaluation.log.domain is not None and 1 < n_domains <= _MOST_DOMAINS:
        wanted.append(
            ("Domains", "Quality by domain with intervals, beside the best single arm.", evaluation.plot_domains)
        )
    if evaluation.has_calibration:
        wanted.append(
            ("Calibration", "Realised against predicted quality, in bins of equal count.", evaluation.plot_calibration)
        )
    return [
        {"title": title, "caption": caption, "svg": _svg(draw(), f"{title}: {caption}", title.lower())}
        for title, caption, draw in wanted
    ]


def _svg(ax: Axes, label: str, prefix: str) -> str:
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure: Any = ax.figure
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    # Identifiers must not clash between the figures of one page.
    svg = re.sub(r'id="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', rf'xlink:href="#{prefix}-\1"', svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _number(value: float, digits: int = 4) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _money(value: float) -> str:
    return "–" if value is None or not math.isfinite(value) else f"${value:.3g}"


def _percent(value: float) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.1%}"
