"""Can a log answer the question?  Support, gaps, repeated texts, and what would make an estimate worthless."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from defer.evaluation.running import LEAST_SAMPLE_SIZE
from defer.portfolios.outcomes import OutcomeLog
from defer.portfolios.summary import LogSummary

__all__ = ["Audit", "Finding", "audit"]


@dataclass(frozen=True)
class Finding:
    """One thing found: how grave it is, and what it means.

    Parameters
    ----------
    level : {"problem", "caution", "note"}
        A problem spoils every estimate, a caution some; a note is for information.
    text : str
    """

    level: str
    text: str


@dataclass(frozen=True)
class Audit:
    """Findings about a log.

    Attributes
    ----------
    summary : LogSummary
    findings : tuple of Finding
        The gravest first.
    """

    summary: LogSummary
    findings: tuple[Finding, ...]

    @property
    def is_sound(self) -> bool:
        """Whether no problem was found."""
        return all(finding.level != "problem" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        summary = self.summary
        return {
            "sound": self.is_sound,
            "findings": [asdict(finding) for finding in self.findings],
            "n_queries": summary.n_queries,
            "arms": {
                arm: {"observed": float(seen), "quality": float(quality)}
                for arm, seen, quality in zip(summary.arms, summary.observed, summary.quality, strict=True)
            },
            "best_arm": summary.best_arm,
            "best_quality": summary.best_quality,
            "oracle_quality": None if np.isfinite(summary.taken).any() else summary.oracle_quality,
        }

    def __str__(self) -> str:
        lines = [str(self.summary), *(f"{finding.level}: {finding.text}" for finding in self.findings)]
        return "\n".join([*lines, "sound" if self.is_sound else "not sound: see the problems above"])


def audit(log: OutcomeLog) -> Audit:
    """Look a log over before anything is fitted on it.

    Parameters
    ----------
    log : OutcomeLog

    Returns
    -------
    Audit

    Examples
    --------
    >>> audit(OutcomeLog.from_arrays(["a", "a"], [[1.0, 0.0], [0.0, 1.0]])).findings[0].text
    'independent queries: 1, too few for an interval to be relied on'
    """
    summary, found = log.summary(), []
    drawn = np.asarray(log.action) >= 0
    if len(log.arms) == 1:
        found.append(Finding("problem", "there is only one arm: nothing to choose"))
    if summary.n_clusters < LEAST_SAMPLE_SIZE:
        found.append(
            Finding(
                "caution",
                f"independent queries: {summary.n_clusters}, too few for an interval to be relied on",
            )
        )
    if summary.n_repeated_texts:
        found.append(
            Finding(
                "caution",
                f"{summary.n_repeated_texts} of {len(log)} texts repeat an earlier one; split by cluster or text, not at random",
            )
        )
    if drawn.any() and log.propensity is None:
        found.append(
            Finding(
                "problem",
                f"{int(drawn.sum())} logged decisions have no propensity: their value cannot be estimated without bias",
            )
        )
    if drawn.any() and log.propensity is not None:
        found += _support(log, summary, drawn)
    gaps = 1 - summary.observed
    if not drawn.any() and (gaps > 0).any():
        worst = int(gaps.argmax())
        found.append(
            Finding(
                "caution",
                f"outcomes are missing although no decision was logged, most for {log.arms[worst]!r} ({gaps[worst]:.1%})",
            )
        )
    if log.cost is None:
        found.append(Finding("note", "the log has no costs: budgets and frontiers need them"))
    if summary.oracle_quality - summary.best_quality < 0.01 and not drawn.any():
        found.append(
            Finding(
                "note",
                "the best arm of every query is hardly better than the best single arm "
                f"(by {summary.oracle_quality - summary.best_quality:.4f}): routing can save cost, not raise quality",
            )
        )
    order = {"problem": 0, "caution": 1, "note": 2}
    return Audit(summary, tuple(sorted(found, key=lambda finding: order[finding.level])))


def _support(log: OutcomeLog, summary: LogSummary, drawn: Any) -> list[Finding]:
    chance = log.propensity[drawn]  # type: ignore[index]
    if (chance == 1.0).all():
        return [
            Finding(
                "problem",
                "the logging policy is deterministic: only the policy that made the log can be evaluated on it",
            )
        ]
    found = []
    share = summary.effective_sample_size / drawn.sum()
    if share < 0.05 or summary.effective_sample_size < 100:
        found.append(
            Finding(
                "caution",
                f"support is poor: for the uniform policy {int(drawn.sum())} decisions weigh as much as "
                f"{summary.effective_sample_size:.0f}; the smallest propensity is {summary.smallest_propensity:.2g}",
            )
        )
    never = [arm for arm, taken in zip(log.arms, summary.taken, strict=True) if taken == 0]
    if never:
        found.append(
            Finding(
                "caution", f"{len(never)} arms were never taken, the first is {never[0]!r}: nothing can be said of them"
            )
        )
    return found
