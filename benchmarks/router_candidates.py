"""Every router of the library with the features that it takes: defaults throughout, exceptions named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from routing_sets import RoutingSet
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import OneHotEncoder

import defer
from defer import make_pipeline
from defer.estimators import (
    BradleyTerryRouter,
    CarrotRouter,
    CausalLMRouter,
    ClusterRouter,
    ClusterTagger,
    DualContrastiveRouter,
    EncoderRouter,
    HybridRouter,
    KNNRouter,
    LatentFactorRouter,
    LearnedMapRouter,
    MatrixFactorizationRouter,
    PoolVoteRouter,
    QualityRouter,
    RandomMixture,
    RewardDistilledRouter,
    SingleArm,
    SoftLabelRouter,
    StackedRouter,
)

__all__ = ["AUTO", "ZERO", "Candidate", "candidates", "why_skipped"]

AUTO, ZERO = "defer.router('auto')", "RandomMixture, fitted"
_MOST_GRADES = 12

Features = Literal["words", "meaning", "text", "domain"]


@dataclass(frozen=True)
class Candidate:
    """A router by name.

    Attributes
    ----------
    name : str
    make : callable
        Builds the router for a set.
    features : {"words", "meaning", "text", "domain"}
        TF-IDF of words and word pairs, sentence embeddings (on sets of numbers, the numbers), the text itself, or the name of
        the domain and nothing else.
    needs_grades : bool
        Whether quality must have few grades.
    takes_tags : bool
        Whether the domains of training queries are given to ``fit``.
    is_neural : bool
        Whether it is left out unless asked for.
    """

    name: str
    make: Callable[[RoutingSet], Any]
    features: Features = "meaning"
    needs_grades: bool = False
    takes_tags: bool = False
    is_neural: bool = False


def _trees(part: RoutingSet) -> Any:
    # Shallow, slow boosting: outcomes of single queries are noisy.
    trees = HistGradientBoostingRegressor(max_iter=80, learning_rate=0.06, max_leaf_nodes=8, random_state=0)
    return make_pipeline(PCA(40, random_state=0), QualityRouter(trees)) if part.is_text else QualityRouter(trees)


def _logistic() -> QualityRouter:
    return QualityRouter(LogisticRegression(max_iter=1000))


def _auto(part: RoutingSet) -> Any:
    return defer.router("auto") if part.is_text else StackedRouter()


def _domain_means(part: RoutingSet) -> Any:
    # Shrunken by three queries' worth: a domain of few queries says little.
    return make_pipeline(OneHotEncoder(handle_unknown="ignore"), QualityRouter(Ridge(3.0), Ridge(3.0)))


def _pools(both_right: str) -> Callable[[RoutingSet], Any]:
    return lambda part: PoolVoteRouter(both_right=both_right, right_above=part.right_above)


def _as(router: Callable[..., Any], *arguments: Any, **options: Any) -> Callable[[RoutingSet], Any]:
    return lambda part: router(*arguments, **options)


_ALL = (
    Candidate(AUTO, _auto, "text"),
    Candidate("defer.router('auto'), tags=domain", _auto, "text", takes_tags=True),
    Candidate("defer.router()", _as(defer.router, embeddings=True), "text"),
    Candidate("defer.router(embeddings=False)", _as(defer.router, embeddings=False), "text"),
    Candidate("QualityRouter, ridge", _as(QualityRouter)),
    Candidate("QualityRouter, ridge, TF-IDF", _as(QualityRouter), "words"),
    Candidate("QualityRouter, logistic", _as(_logistic), needs_grades=True),
    Candidate("QualityRouter, logistic, TF-IDF", _as(_logistic), "words", needs_grades=True),
    Candidate("QualityRouter, boosted trees", _trees),
    Candidate("KNNRouter", _as(KNNRouter)),
    Candidate("KNNRouter, TF-IDF", _as(KNNRouter), "words"),
    Candidate("CarrotRouter, kNN", _as(CarrotRouter, "neighbors", random_state=0)),
    Candidate("CarrotRouter, linear", _as(CarrotRouter, "linear", random_state=0)),
    Candidate("ClusterRouter", _as(ClusterRouter, random_state=0)),
    Candidate("LearnedMapRouter", _as(LearnedMapRouter, random_state=0)),
    Candidate("LatentFactorRouter", _as(LatentFactorRouter)),
    Candidate("MatrixFactorizationRouter", _as(MatrixFactorizationRouter)),
    Candidate("BradleyTerryRouter", _as(BradleyTerryRouter)),
    Candidate("HybridRouter, transformed", _as(HybridRouter, "transformed")),
    Candidate("HybridRouter, probabilistic", _as(HybridRouter, "probabilistic")),
    Candidate("HybridRouter, deterministic", _as(HybridRouter, "deterministic")),
    Candidate("RewardDistilledRouter, no tags", _as(RewardDistilledRouter)),
    Candidate("RewardDistilledRouter, temperature 0.1", _as(RewardDistilledRouter, temperature=0.1)),
    Candidate("RewardDistilledRouter, hard labels", _as(RewardDistilledRouter, labels="hard")),
    Candidate("RewardDistilledRouter, tags=domain", _as(RewardDistilledRouter), takes_tags=True),
    Candidate("RewardDistilledRouter, tags by cluster", _as(RewardDistilledRouter, tags=ClusterTagger(random_state=0))),
    Candidate("SoftLabelRouter, neighbors", _as(SoftLabelRouter)),
    Candidate("SoftLabelRouter, linear", _as(SoftLabelRouter, "linear")),
    Candidate("PoolVoteRouter, as published", _pools("cheapest")),
    Candidate("PoolVoteRouter, each", _pools("each")),
    Candidate("PoolVoteRouter, drop", _pools("drop")),
    Candidate("DualContrastiveRouter", _as(DualContrastiveRouter)),
    Candidate("DualContrastiveRouter, temperature 1", _as(DualContrastiveRouter, temperature=1.0)),
    Candidate("EncoderRouter", _as(EncoderRouter, random_state=0), "text", is_neural=True),
    Candidate("CausalLMRouter", _as(CausalLMRouter, random_state=0), "text", is_neural=True),
    Candidate("means of a known domain", _domain_means, "domain"),
    Candidate("SingleArm, fitted", _as(SingleArm)),
    Candidate(ZERO, _as(RandomMixture)),
)


def candidates(part: RoutingSet, *, neural: bool = False) -> list[Candidate]:
    """Those that make sense on a set: on numbers nothing that reads text; tags and known domains only where there are any."""
    return [
        each
        for each in _ALL
        if (part.log.domain is not None or not (each.takes_tags or each.features == "domain"))
        and (not each.is_neural or neural)
        and (part.is_text or each.features in ("meaning", "domain") or each.name.startswith(AUTO))
    ]


def why_skipped(candidate: Candidate, part: RoutingSet) -> str | None:
    """Why a router is not fitted on a set."""
    if candidate.needs_grades and len(np.unique(part.log.quality)) > _MOST_GRADES:
        return f"quality has more than {_MOST_GRADES} grades"
    return None
