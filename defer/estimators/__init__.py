"""What has `fit` and `route`: the router contract and the routers."""

if __name__ != "defer.estimators":
    raise ImportError("this folder is a door to defer.estimators: write 'import defer.estimators'")

from defer.estimators.base import BaseRouter
from defer.estimators.baselines import RandomMixture, SingleArm
from defer.estimators.deferral.confidence import ConfidenceDeferral
from defer.estimators.deferral.conformal import ConformalPanel
from defer.estimators.deferral.face import BaseDeferral
from defer.estimators.deferral.multi_expert import MultiExpertDeferral
from defer.estimators.deferral.panel_coverage import PanelCoverage, conformal_quantile
from defer.estimators.deferral.panel_vote import weighted_vote
from defer.estimators.deferral.post_hoc import PostHocDeferral
from defer.estimators.deferral.single_stage import SingleStageDeferral
from defer.estimators.deferral.triage import LearnedTriage, triage_threshold
from defer.estimators.deferral.two_stage import TwoStageDeferral
from defer.estimators.pipeline import RouterPipeline, make_pipeline
from defer.estimators.quality import QualityRouter
from defer.estimators.routers.neighbors import KNNRouter
from defer.estimators.routing import Routing
from defer.estimators.scoring import RealisedUtility, realised_utility
from defer.estimators.text import router
from defer.estimators.tuning import OperatingPoint, TunedRouter

__all__ = [
    "BaseDeferral",
    "BaseRouter",
    "ConfidenceDeferral",
    "ConformalPanel",
    "KNNRouter",
    "LearnedTriage",
    "MultiExpertDeferral",
    "OperatingPoint",
    "PanelCoverage",
    "PostHocDeferral",
    "QualityRouter",
    "RandomMixture",
    "RealisedUtility",
    "RouterPipeline",
    "Routing",
    "SingleArm",
    "SingleStageDeferral",
    "TunedRouter",
    "TwoStageDeferral",
    "conformal_quantile",
    "make_pipeline",
    "realised_utility",
    "router",
    "triage_threshold",
    "weighted_vote",
]
