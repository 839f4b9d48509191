"""Evaluation of routers: value with intervals, off-policy estimates, frontiers, calibration."""

from defer.evaluation.audit import Audit, Finding, audit
from defer.evaluation.calibration import Calibration, calibration
from defer.evaluation.deferral import (
    BayesRegret,
    CoverageAccuracy,
    DeferralCurve,
    ExcessBound,
    ReadoutCalibration,
    SystemAccuracy,
    WrongLabelMass,
    coverage_accuracy,
    deferral_curve,
    excess_bound,
    oracle_deferral_curve,
    readout_calibration,
    regret_to_bayes,
    smoothing_mass,
    system_accuracy,
    wrong_label_mass,
)
from defer.evaluation.estimate import Estimate
from defer.evaluation.estimators import DM, DR, DR_OS, DR_PS, IPS, SNDR, SNIPS, ClippedIPS, Replay, Switch
from defer.evaluation.evaluation import evaluate
from defer.evaluation.explanation_plot import plot_explanation
from defer.evaluation.frontier import Frontier, aiq, hull_quality, oracle, sweep
from defer.evaluation.goal_accuracy import goal_hits, joint_goal_accuracy
from defer.evaluation.intervals import Interval
from defer.evaluation.ope import estimate_value, uniform_policy
from defer.evaluation.realised import outcome_table
from defer.evaluation.resampling import bootstrap_interval
from defer.evaluation.result import Evaluation
from defer.evaluation.running import RunningValue
from defer.evaluation.share_threshold import ShareThreshold, calibrate_share
from defer.evaluation.task_rank import TaskRanks, task_ranks
from defer.evaluation.throughput import (
    MixtureCost,
    RouterOverhead,
    Throughput,
    mixture_cost,
    mixture_throughput,
    router_overhead,
)
from defer.evaluation.two_arm import apgr, apgr_ten_points, cpt, pgr, strong_share_curve, threshold_for_share
from defer.portfolios.zero_router import area_over_zero, upper_hull

__all__ = [
    "DM",
    "DR",
    "DR_OS",
    "DR_PS",
    "IPS",
    "SNDR",
    "SNIPS",
    "Audit",
    "BayesRegret",
    "Calibration",
    "ClippedIPS",
    "CoverageAccuracy",
    "DeferralCurve",
    "Estimate",
    "Evaluation",
    "ExcessBound",
    "Finding",
    "Frontier",
    "Interval",
    "MixtureCost",
    "ReadoutCalibration",
    "Replay",
    "RouterOverhead",
    "RunningValue",
    "ShareThreshold",
    "Switch",
    "SystemAccuracy",
    "TaskRanks",
    "Throughput",
    "WrongLabelMass",
    "aiq",
    "apgr",
    "apgr_ten_points",
    "area_over_zero",
    "audit",
    "bootstrap_interval",
    "calibrate_share",
    "calibration",
    "coverage_accuracy",
    "cpt",
    "deferral_curve",
    "estimate_value",
    "evaluate",
    "excess_bound",
    "goal_hits",
    "hull_quality",
    "joint_goal_accuracy",
    "mixture_cost",
    "mixture_throughput",
    "oracle",
    "oracle_deferral_curve",
    "outcome_table",
    "pgr",
    "plot_explanation",
    "readout_calibration",
    "regret_to_bayes",
    "router_overhead",
    "smoothing_mass",
    "strong_share_curve",
    "sweep",
    "system_accuracy",
    "task_ranks",
    "threshold_for_share",
    "uniform_policy",
    "upper_hull",
    "wrong_label_mass",
]
