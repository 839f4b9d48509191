"""Routers that the command line can fit, by name: one table, and what is put before each of them.

A text becomes numbers by n-grams, and by sentence embeddings where a model is installed; a table of numbers is scaled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from defer.exceptions import DeferError

__all__ = ["ROUTERS", "NamedRouter", "build_router", "describe_routers"]


@dataclass(frozen=True)
class NamedRouter:
    """A router that has a name on the command line.

    Attributes
    ----------
    says : str
        What it does, in a few words.
    module, name : str
        Where its class or function stands; imported when it is fitted.
    on_numbers : mapping of str to object
        Arguments for a table of numbers.
    is_seeded : bool
        Whether it draws at random; it is given the seed 0, so that the same log makes the same policy.
    takes_anything : bool
        Whether queries of any kind go to it as they are, with nothing put before it.
    """

    says: str
    module: str
    name: str
    on_numbers: dict[str, Any] | None = None
    takes_anything: bool = False
    is_seeded: bool = False


ROUTERS: dict[str, NamedRouter] = {
    "quality": NamedRouter("predict every arm's quality and cost", "defer.estimators.quality", "QualityRouter"),
    "knn": NamedRouter(
        "by the most similar logged queries", "defer.estimators.routers.neighbors", "KNNRouter",
        on_numbers={"metric": "euclidean"},
    ),
    "single": NamedRouter("the best single arm", "defer.estimators.baselines", "SingleArm", takes_anything=True),
    "mixture": NamedRouter(
        "the best random mixture of arms", "defer.estimators.baselines", "RandomMixture", takes_anything=True
    ),
    "auto": NamedRouter(
        "a blend of several, or the zero router where none is shown to beat it", "defer.estimators.routers.stacked", "StackedRouter"
    ),
    "hybrid": NamedRouter(
        "by the gap of quality to the strongest arm", "defer.estimators.routers.hybrid", "HybridRouter",
        is_seeded=True,
    ),
    "reward-distilled": NamedRouter(
        "by a distribution over arms distilled from rewards", "defer.estimators.routers.reward_distilled",
        "RewardDistilledRouter", is_seeded=True,
    ),
    "soft-label": NamedRouter(
        "by soft labels of the arms", "defer.estimators.routers.soft_label", "SoftLabelRouter",
        is_seeded=True,
    ),
    "pool-vote": NamedRouter(
        "by a vote of similar queries in a pool for every arm", "defer.estimators.routers.pool_vote", "PoolVoteRouter"
    ),
    "matrix-factorization": NamedRouter(
        "by factors of arms and queries, from wins", "defer.estimators.routers.matrix_factorization",
        "MatrixFactorizationRouter",
    ),
    "bradley-terry": NamedRouter(
        "by strengths weighted by similarity, from wins", "defer.estimators.routers.bradley_terry", "BradleyTerryRouter"
    ),
    "clusters": NamedRouter(
        "by the mean quality of the query's cluster", "defer.estimators.routers.clusters", "ClusterRouter",
        is_seeded=True,
    ),
    "learned-map": NamedRouter(
        "by a learned share of every cluster", "defer.estimators.routers.learned_map", "LearnedMapRouter",
        is_seeded=True,
    ),
    "latent-factor": NamedRouter(
        "by ability of arms and difficulty of queries", "defer.estimators.routers.latent_factor", "LatentFactorRouter"
    ),
    "carrot": NamedRouter(
        "by separate predictors of quality and cost", "defer.estimators.routers.carrot", "CarrotRouter",
        is_seeded=True,
    ),
    "dual-contrastive": NamedRouter(
        "by a contrastive projection of queries and arms", "defer.estimators.routers.dual_contrastive",
        "DualContrastiveRouter",
    ),
}  # fmt: skip
"""Names in the order in which the command line lists them."""


def describe_routers() -> str:
    """All names with what they do, for the help.

    Examples
    --------
    >>> describe_routers()[:45]
    "quality: predict every arm's quality and cost"
    """
    return "; ".join(f"{name}: {entry.says}" for name, entry in ROUTERS.items()) + "."


def build_router(name: str, X: Any, *, embeddings: bool = True) -> Any:
    """Unfitted router of a name, for queries of the kind of `X`.

    Parameters
    ----------
    name : str
        In `ROUTERS`.
    X : list of n texts, or array of shape (n, d)
    embeddings : bool, default=True
        Sentence embeddings beside n-grams (quality and auto, text), where a model is installed.

    Raises
    ------
    DeferError
        If no router has that name.

    Examples
    --------
    >>> build_router("knn", [[0.0, 1.0]])[-1]
    KNNRouter(metric='euclidean')
    """
    if name not in ROUTERS:
        raise DeferError(f"there is no router {name!r}; there are {list(ROUTERS)}")
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    from defer.estimators.pipeline import make_pipeline
    from defer.estimators.text import router as text_router

    entry, is_text = ROUTERS[name], isinstance(X, list) and isinstance(X[0], str)
    if is_text and name in ("quality", "auto"):
        return text_router("auto" if name == "auto" else "ridge", embeddings="auto" if embeddings else False)
    build: Callable[..., Any] = getattr(import_module(entry.module), entry.name)
    options = {} if is_text else dict(entry.on_numbers or {})
    if entry.is_seeded:
        options["random_state"] = 0
    router = build(Ridge(), Ridge()) if name == "quality" else build(**options)
    if entry.takes_anything:
        return router
    if not is_text:
        return make_pipeline(StandardScaler(), router)
    parts = [part for _, part in text_router(embeddings=False)[:-1].steps]
    return make_pipeline(*parts, router)
