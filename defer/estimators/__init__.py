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
from defer.estimators.dialogue import DELETED, DialogueRouter, RoutedTurn, serialize_turn, slot_f1, update_state
from defer.estimators.embedding_cache import CacheInfo, EmbeddingCache
from defer.estimators.embeddings import SentenceEmbedder
from defer.estimators.explain import Explanation, explain
from defer.estimators.pipeline import RouterPipeline, make_pipeline
from defer.estimators.quality import QualityRouter
from defer.estimators.routers.advantage import Advantage
from defer.estimators.routers.bradley_terry import BradleyTerryRouter
from defer.estimators.routers.carrot import CarrotRouter
from defer.estimators.routers.causal_lm import CausalLMRouter
from defer.estimators.routers.clusters import ClusterRouter
from defer.estimators.routers.contrastive import ContrastiveProjection
from defer.estimators.routers.contrastive_encoder import ContrastiveEncoder
from defer.estimators.routers.contrastive_pairs import expert_pairs, task_pairs
from defer.estimators.routers.drop_threshold import ThresholdTable, threshold_for_drop, threshold_table
from defer.estimators.routers.dual_contrastive import DualContrastiveRouter
from defer.estimators.routers.encoder import EncoderRouter
from defer.estimators.routers.hybrid import HybridRouter
from defer.estimators.routers.latent_factor import LatentFactorRouter
from defer.estimators.routers.learned_map import LearnedMapRouter
from defer.estimators.routers.matrix_factorization import MatrixFactorizationRouter
from defer.estimators.routers.neighbors import KNNRouter
from defer.estimators.routers.pool_vote import PoolVoteRouter
from defer.estimators.routers.query_tags import ClusterTagger
from defer.estimators.routers.reward_distilled import RewardDistilledRouter
from defer.estimators.routers.soft_label import SoftLabelRouter
from defer.estimators.routers.stack_members import StackMember
from defer.estimators.routers.stacked import StackedRouter
from defer.estimators.routing import Routing
from defer.estimators.scoring import RealisedUtility, realised_utility
from defer.estimators.session import SessionRouter
from defer.estimators.session_turns import SessionRouting
from defer.estimators.text import router
from defer.estimators.text_shape import TextShape
from defer.estimators.tuning import OperatingPoint, TunedRouter

__all__ = [
    "DELETED",
    "Advantage",
    "BaseDeferral",
    "BaseRouter",
    "BradleyTerryRouter",
    "CacheInfo",
    "CarrotRouter",
    "CausalLMRouter",
    "ClusterRouter",
    "ClusterTagger",
    "ConfidenceDeferral",
    "ConformalPanel",
    "ContrastiveEncoder",
    "ContrastiveProjection",
    "DialogueRouter",
    "DualContrastiveRouter",
    "EmbeddingCache",
    "EncoderRouter",
    "Explanation",
    "HybridRouter",
    "KNNRouter",
    "LatentFactorRouter",
    "LearnedMapRouter",
    "LearnedTriage",
    "MatrixFactorizationRouter",
    "MultiExpertDeferral",
    "OperatingPoint",
    "PanelCoverage",
    "PoolVoteRouter",
    "PostHocDeferral",
    "QualityRouter",
    "RandomMixture",
    "RealisedUtility",
    "RewardDistilledRouter",
    "RoutedTurn",
    "RouterPipeline",
    "Routing",
    "SentenceEmbedder",
    "SessionRouter",
    "SessionRouting",
    "SingleArm",
    "SingleStageDeferral",
    "SoftLabelRouter",
    "StackMember",
    "StackedRouter",
    "TextShape",
    "ThresholdTable",
    "TunedRouter",
    "TwoStageDeferral",
    "conformal_quantile",
    "expert_pairs",
    "explain",
    "make_pipeline",
    "realised_utility",
    "router",
    "serialize_turn",
    "slot_f1",
    "task_pairs",
    "threshold_for_drop",
    "threshold_table",
    "triage_threshold",
    "update_state",
    "weighted_vote",
]
