"""The registry of routers: who joins it is held to the whole contract."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils.estimator_checks import parametrize_with_checks

from defer.estimators import (
    BradleyTerryRouter,
    CarrotRouter,
    ClusterRouter,
    ConfidenceDeferral,
    DualContrastiveRouter,
    HybridRouter,
    KNNRouter,
    LatentFactorRouter,
    LearnedMapRouter,
    LearnedTriage,
    MatrixFactorizationRouter,
    MultiExpertDeferral,
    PoolVoteRouter,
    PostHocDeferral,
    QualityRouter,
    RandomMixture,
    RewardDistilledRouter,
    SessionRouter,
    SingleArm,
    SingleStageDeferral,
    SoftLabelRouter,
    StackedRouter,
    TunedRouter,
    TwoStageDeferral,
)
from defer.portfolios.arm_matrix import ArmMatrix


@dataclass(frozen=True)
class RouterCase:
    """A router, and what its contract tests need to know of it.

    Attributes
    ----------
    router : unfitted router; `make` clones it
    grid : dict
        A grid to search, for GridSearchCV.
    follows_limits : bool
        Whether a batch limit is met by mixing arms; a single arm cannot.
    own_first : bool
        Whether the first arm is treated apart, as the system's own prediction; else arms may be permuted.
    unit_quality : bool
        Whether quality must lie in [0, 1].
    rounding : float
        How far an iterative solver may end from the exact solution.
    naive_bias : float or None
        By how much, at least, a bandit log without propensities misleads it where it should: where a source gives scores,
        their unit of quality is learned and may be short.  None: it learns no means of arms, and where queries tell nothing
        all arms are alike to it.
    """

    router: Any
    grid: dict[str, list[Any]] = field(default_factory=dict)
    follows_limits: bool = True
    own_first: bool = False
    unit_quality: bool = False
    rounding: float = 1e-9
    naive_bias: float | None = 0.08

    def make(self) -> Any:
        return clone(self.router)


ROUTERS = {
    "single arm": RouterCase(SingleArm(), {"cost_weight": [0.0, 1000.0]}, follows_limits=False),
    "random mixture": RouterCase(RandomMixture(), {"cost_weight": [0.0, 1000.0]}),
    "quality": RouterCase(QualityRouter(), {"cost_weight": [0.0, 1000.0]}),
    "quality and cost": RouterCase(QualityRouter(Ridge(alpha=0.1), Ridge(alpha=0.1)), {"regressor__alpha": [0.1, 1e6]}),
    "graded quality": RouterCase(QualityRouter(LogisticRegression()), {"regressor__C": [1e-6, 1.0]}),
    "neighbours, cosine": RouterCase(KNNRouter(n_neighbors=5), {"n_neighbors": [1, 15]}),
    "neighbours, euclidean": RouterCase(
        KNNRouter(n_neighbors=5, metric="euclidean", cost="neighbors"), {"n_neighbors": [1, 15]}
    ),
    "single stage, softmax": RouterCase(
        SingleStageDeferral(tol=1e-11), {"C": [1e-6, 1.0]}, unit_quality=True, rounding=1e-6
    ),
    "single stage, classifiers": RouterCase(
        SingleStageDeferral("ova", LogisticRegression(tol=1e-10, max_iter=1000)),
        {"estimator__C": [1e-6, 1.0]},
        unit_quality=True,
        rounding=1e-5,
    ),
    "several experts": RouterCase(
        MultiExpertDeferral(tol=1e-11), {"cost_weight": [0.0, 1000.0]}, unit_quality=True, rounding=1e-6
    ),
    "two stages": RouterCase(TwoStageDeferral(rescale=True, tol=1e-11), {"C": [1e-6, 1.0]}, rounding=1e-6),
    "post hoc, plug-in": RouterCase(PostHocDeferral(), {"C": [1e-6, 1.0]}, unit_quality=True),
    "post hoc, regression": RouterCase(PostHocDeferral("regression"), {"C": [1e-6, 1.0]}),
    "post hoc, partial": RouterCase(
        PostHocDeferral("partial", tol=1e-11), {"cost_weight": [0.0, 1000.0]}, unit_quality=True, rounding=1e-6
    ),
    "confidence": RouterCase(ConfidenceDeferral(), {"cost_weight": [0.0, 1000.0]}, own_first=True, unit_quality=True),
    "triage": RouterCase(LearnedTriage(), {"rate": [0.1, 0.5]}, own_first=True, unit_quality=True),
    "hybrid": RouterCase(HybridRouter(tol=1e-11), {"C": [1e-6, 1.0]}, rounding=1e-6),
    "hybrid, classifier": RouterCase(
        HybridRouter("probabilistic", LogisticRegression(tol=1e-10, max_iter=1000)),
        {"estimator__C": [1e-6, 1.0]},
        rounding=1e-5,
    ),
    "hybrid, drop": RouterCase(
        HybridRouter("deterministic", tol=1e-11, quality_drop=1.0), {"C": [1e-6, 1.0]}, rounding=1e-6
    ),
    "distilled rewards": RouterCase(RewardDistilledRouter(tol=1e-11), {"C": [1e-6, 1.0]}, rounding=1e-6),
    "distilled rewards, reverse": RouterCase(
        RewardDistilledRouter(divergence="reverse", temperature=0.3, tol=1e-11),
        {"temperature": [0.1, 1.0]},
        rounding=1e-6,
    ),
    "distilled rewards, clusters": RouterCase(
        RewardDistilledRouter(tags="cluster", n_tags=4, tol=1e-11, random_state=0), {"beta": [0.1, 1.0]}, rounding=1e-6
    ),
    "soft labels, neighbours": RouterCase(SoftLabelRouter(n_neighbors=5), {"n_neighbors": [1, 15]}),
    "soft labels, linear": RouterCase(SoftLabelRouter("linear", tol=1e-11), {"kappa": [0.1, 10.0]}, rounding=1e-6),
    "pool vote": RouterCase(PoolVoteRouter(5), {"n_neighbors": [1, 15]}),
    "pool vote, each": RouterCase(
        PoolVoteRouter(5, both_right="each", ties="nearest", vote="distance"), {"n_neighbors": [1, 15]}, naive_bias=0.02
    ),
    "pool vote, drop": RouterCase(PoolVoteRouter(7, both_right="drop"), {"n_neighbors": [1, 15]}),
    "dual contrastive": RouterCase(DualContrastiveRouter(), {"C": [1e-3, 1.0]}, rounding=1e-5, naive_bias=None),
    "Bradley-Terry": RouterCase(BradleyTerryRouter(), {"gamma": [1.0, 10.0]}),
    "Bradley-Terry, no tiers": RouterCase(BradleyTerryRouter(n_tiers=None, prior=0.1), {"gamma": [1.0, 10.0]}),
    "matrix factorisation": RouterCase(MatrixFactorizationRouter(tol=1e-11), {"C": [1e-6, 10.0]}, rounding=1e-6),
    "clusters": RouterCase(ClusterRouter(4, random_state=0), {"n_clusters": [1, 4]}),
    "clusters, cross-validated": RouterCase(
        ClusterRouter((1, 2, 4, 8), prior=0.0, back_off="arm", random_state=0), {"prior": [0.0, 1e6]}
    ),
    "learned map": RouterCase(LearnedMapRouter(4, tol=1e-7, random_state=0), {"C": [1e-6, 1.0]}, rounding=1e-5),
    "latent factors": RouterCase(LatentFactorRouter(2, tol=1e-8), {"C": [1e-6, 1.0]}, rounding=1e-5),
    "carrot, neighbours": RouterCase(CarrotRouter(random_state=0), {"n_neighbors": [1, 15]}),
    "carrot, linear": RouterCase(CarrotRouter("linear"), {"alpha": [0.1, 1e6]}),
    "stack": RouterCase(StackedRouter(fallback=False), {"cost_weight": [0.0, 1000.0]}),
    "sessions": RouterCase(SessionRouter(KNNRouter(n_neighbors=5), switch_cost=0.1), {"router__n_neighbors": [1, 15]}),
    "sessions, linear": RouterCase(SessionRouter(QualityRouter()), {"router__cost_weight": [0.0, 1000.0]}),
    "tuned": RouterCase(TunedRouter(QualityRouter()), {"router__cost_weight": [0.0, 1000.0]}),
    "tuned neighbours": RouterCase(TunedRouter(KNNRouter(n_neighbors=3)), {"router__n_neighbors": [1, 15]}),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every test that asks for `case` all routers, and `estimator, check` all checks of scikit-learn."""
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", ROUTERS.values(), ids=ROUTERS.keys())
    if {"estimator", "check"} <= set(metafunc.fixturenames):
        checks = parametrize_with_checks([case.make() for case in ROUTERS.values()])
        metafunc.parametrize(*checks.args, **checks.kwargs)


@dataclass(frozen=True)
class Table:
    """Full-information outcomes of 150 queries on three named arms; the dear arm is the best, but not everywhere."""

    X: np.ndarray
    quality: ArmMatrix
    cost: ArmMatrix
    fresh: np.ndarray


@pytest.fixture(scope="session")
def table() -> Table:
    """Queries in two kinds; quality is 0 or 1, cost in US dollars."""
    rng = np.random.default_rng(7)
    n, arms = 150, ["small", "medium", "large"]
    kind = rng.integers(2, size=n)
    chance = np.array([[0.2, 0.9, 0.8], [0.7, 0.3, 0.85]])[kind]
    X = np.column_stack([2.0 * kind - 1.0, rng.normal(size=(n, 2))])
    cost = np.array([0.001, 0.004, 0.02]) * rng.uniform(0.5, 1.5, size=(n, 3))
    fresh = np.column_stack([2.0 * rng.integers(2, size=60) - 1.0, rng.normal(size=(60, 2))])
    return Table(X, ArmMatrix((rng.random((n, 3)) < chance).astype(float), arms), ArmMatrix(cost, arms), fresh)
