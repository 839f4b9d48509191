"""The audit says what would spoil an estimate, the gravest first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from defer import OutcomeLog
from defer.evaluation import audit

QUALITY = np.tile([[1.0, 0.0], [0.0, 1.0]], (100, 1))


def texts_of(log: OutcomeLog) -> list[tuple[str, str]]:
    return [(finding.level, finding.text) for finding in audit(log).findings]


def full(**columns) -> OutcomeLog:
    return OutcomeLog.from_arrays([f"query {i}" for i in range(200)], QUALITY, arms=["small", "large"], **columns)


def test_a_full_log_with_costs_has_no_finding():
    report = audit(full(cost=np.ones((200, 2))))
    assert report.findings == ()
    assert report.is_sound
    assert str(report).endswith("\nsound")


@pytest.mark.parametrize(
    ("log", "level", "text"),
    [
        (full(), "note", "the log has no costs: budgets and frontiers need them"),
        (full().select(arms=["small"]), "problem", "there is only one arm: nothing to choose"),
        (
            full(cost=np.ones((200, 2))).select(rows=slice(0, 29)),
            "caution",
            "independent queries: 29, too few for an interval to be relied on",
        ),
        (
            replace(full(), X=["a", "b"] * 100),
            "caution",
            "198 of 200 texts repeat an earlier one; split by cluster or text, not at random",
        ),
        (
            OutcomeLog.from_arrays(None, np.where(np.arange(200)[:, None] < 50, [[1.0, np.nan]], QUALITY)),
            "caution",
            "outcomes are missing although no decision was logged, most for 'arm_1' (25.0%)",
        ),
        (
            OutcomeLog.from_arrays(None, np.tile([0.0, 1.0], (200, 1))),
            "note",
            "the best arm of every query is hardly better than the best single arm (by 0.0000): "
            "routing can save cost, not raise quality",
        ),
        (
            full().with_action(np.tile([0.999, 0.001], (200, 1)), seed=7),
            "caution",
            "1 arms were never taken, the first is 'large': nothing can be said of them",
        ),
        (
            full().with_action(np.tile([1.0, 0.0], (200, 1))),
            "problem",
            "the logging policy is deterministic: only the policy that made the log can be evaluated on it",
        ),
    ],
)
def test_findings(log, level, text):
    assert (level, text) in texts_of(log)


def test_decisions_without_propensities_are_a_problem():
    bandit = full().with_action(np.full((200, 2), 0.5))
    with pytest.warns(UserWarning, match="propensit"):
        blind = OutcomeLog.from_arrays(None, bandit.quality, action=bandit.action)
    assert texts_of(blind)[0] == (
        "problem", "200 logged decisions have no propensity: their value cannot be estimated without bias",
    )  # fmt: skip
    assert not audit(blind).is_sound


def test_poor_support_is_a_caution_with_the_effective_sample_size():
    policy = np.tile([0.98, 0.02], (200, 1))
    log = full().with_action(policy, seed=1)
    weight = 1 / log.propensity
    effective = weight.sum() ** 2 / (weight**2).sum()
    assert effective < 100
    found = [text for level, text in texts_of(log) if level == "caution"]
    assert f"weigh as much as {effective:.0f}; the smallest propensity is 0.02" in found[0]


def test_the_gravest_findings_come_first_and_json_has_them_all():
    log = full().select(arms=["small"])
    report = audit(log)
    assert [finding.level for finding in report.findings] == sorted(
        (finding.level for finding in report.findings), key=["problem", "caution", "note"].index
    )
    document = report.as_dict()
    assert not document["sound"]
    assert document["findings"][0] == {"level": "problem", "text": "there is only one arm: nothing to choose"}
    assert document["arms"]["small"] == {"observed": 1.0, "quality": 0.5}


def test_a_bandit_log_claims_no_oracle():
    bandit = full().with_action(np.full((200, 2), 0.5))
    assert audit(bandit).as_dict()["oracle_quality"] is None
    assert audit(full()).as_dict()["oracle_quality"] == 1.0
