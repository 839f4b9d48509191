"""What has `fit` and `route`: the router contract and the routers."""

if __name__ != "defer.estimators":
    raise ImportError("this folder is a door to defer.estimators: write 'import defer.estimators'")

from defer.estimators.base import BaseRouter
from defer.estimators.baselines import RandomMixture, SingleArm
from defer.estimators.pipeline import RouterPipeline, make_pipeline
from defer.estimators.quality import QualityRouter
from defer.estimators.routers.neighbors import KNNRouter
from defer.estimators.routing import Routing
from defer.estimators.scoring import RealisedUtility, realised_utility
from defer.estimators.text import router
from defer.estimators.tuning import OperatingPoint, TunedRouter

__all__ = [
    "BaseRouter",
    "KNNRouter",
    "OperatingPoint",
    "QualityRouter",
    "RandomMixture",
    "RealisedUtility",
    "RouterPipeline",
    "Routing",
    "SingleArm",
    "TunedRouter",
    "make_pipeline",
    "realised_utility",
    "router",
]
