"""Diagnostics of learning to defer: arrays in, tables and pictures out."""

from defer.evaluation.deferral.bound import ExcessBound, excess_bound
from defer.evaluation.deferral.coverage import CoverageAccuracy, coverage_accuracy
from defer.evaluation.deferral.curve import DeferralCurve, deferral_curve, oracle_deferral_curve
from defer.evaluation.deferral.readout import ReadoutCalibration, readout_calibration
from defer.evaluation.deferral.regret import BayesRegret, regret_to_bayes
from defer.evaluation.deferral.system import SystemAccuracy, system_accuracy
from defer.evaluation.deferral.underfitting import WrongLabelMass, smoothing_mass, wrong_label_mass

__all__ = [
    "BayesRegret",
    "CoverageAccuracy",
    "DeferralCurve",
    "ExcessBound",
    "ReadoutCalibration",
    "SystemAccuracy",
    "WrongLabelMass",
    "coverage_accuracy",
    "deferral_curve",
    "excess_bound",
    "oracle_deferral_curve",
    "readout_calibration",
    "regret_to_bayes",
    "smoothing_mass",
    "system_accuracy",
    "wrong_label_mass",
]
