"""Evaluation of routers: value with intervals, off-policy estimates, frontiers, calibration."""

from defer.evaluation.audit import Audit, Finding, audit
from defer.evaluation.calibration import Calibration, calibration
from defer.evaluation.estimate import Estimate
from defer.evaluation.estimators import DM, DR, DR_OS, DR_PS, IPS, SNDR, SNIPS, ClippedIPS, Replay, Switch
from defer.evaluation.evaluation import evaluate
from defer.evaluation.frontier import Frontier, aiq, area_over_zero, hull_quality, oracle, sweep, upper_hull
from defer.evaluation.intervals import Interval
from defer.evaluation.ope import estimate_value, uniform_policy
from defer.evaluation.realised import outcome_table
from defer.evaluation.resampling import bootstrap_interval
from defer.evaluation.result import Evaluation
from defer.evaluation.running import RunningValue
from defer.evaluation.two_arm import apgr, apgr_ten_points, cpt, pgr, strong_share_curve, threshold_for_share

__all__ = [
    "DM",
    "DR",
    "DR_OS",
    "DR_PS",
    "IPS",
    "SNDR",
    "SNIPS",
    "Audit",
    "Calibration",
    "ClippedIPS",
    "Estimate",
    "Evaluation",
    "Finding",
    "Frontier",
    "Interval",
    "Replay",
    "RunningValue",
    "Switch",
    "aiq",
    "apgr",
    "apgr_ten_points",
    "area_over_zero",
    "audit",
    "bootstrap_interval",
    "calibration",
    "cpt",
    "estimate_value",
    "evaluate",
    "hull_quality",
    "oracle",
    "outcome_table",
    "pgr",
    "strong_share_curve",
    "sweep",
    "threshold_for_share",
    "uniform_policy",
    "upper_hull",
]
