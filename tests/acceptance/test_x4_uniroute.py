"""UniRoute: the three-model example, one cluster, a cluster for every prompt, empty clusters, the excess risk, added models."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defer import OutcomeLog
from defer.estimators import KNNRouter, SingleArm
from defer.estimators.routers.clusters import ClusterRouter
from defer.estimators.routers.learned_map import LearnedMapRouter
from defer.portfolios.arm_matrix import ArmMatrix

ERRORS = np.array([[0.1, 0.5], [0.3, 0.2], [0.05, 0.4]])
COST = np.array([1.0, 0.2, 2.0])
MODELS = ["one", "two", "three"]
PLACES = np.array([[0.0], [10.0]])


def example(models: list[int], lam: float = 0.0, **options: object) -> ClusterRouter:
    """The router of the card: two clusters, quality one minus the error."""
    names = [MODELS[index] for index in models]
    X = np.repeat(PLACES, 20, axis=0) + np.tile(np.linspace(-1, 1, 20), 2)[:, None]
    quality = np.repeat(1.0 - ERRORS[models].T, 20, axis=0)
    router = ClusterRouter(2, prior=0.0, back_off="arm", cost_weight=lam, random_state=0, **options)
    return router.fit(X, ArmMatrix(quality, names), cost=ArmMatrix(np.tile(COST[models], (40, 1)), names))


@pytest.mark.parametrize(("lam", "chosen"), [(0.0, (3, 2)), (0.1, (1, 2)), (1.0, (2, 2))])
def test_decisions_of_the_example(lam: float, chosen: tuple[int, int]) -> None:
    router = example([0, 1, 2], lam)
    assert router.predict(PLACES).tolist() == [MODELS[number - 1] for number in chosen]
    np.testing.assert_allclose(router.predict_quality(PLACES), 1.0 - ERRORS.T, rtol=0, atol=1e-15)


@pytest.mark.parametrize("late", [0, 1, 2])
@pytest.mark.parametrize("lam", [0.0, 0.1, 1.0])
def test_a_model_that_is_added_needs_only_its_row(late: int, lam: float) -> None:
    rest = [index for index in range(3) if index != late]
    router = example(rest, lam)
    before = router.psi_.tobytes(), router.predict_quality(PLACES).tobytes()
    centres = router.clusters_.centres.tobytes()
    trial = OutcomeLog.from_arrays(
        PLACES, 1.0 - ERRORS[[late]].T, arms=[MODELS[late]], cost=np.full((2, 1), COST[late])
    )
    router.add_arm(MODELS[late], trial)
    assert (router.psi_[:-1].tobytes(), router.predict_quality(PLACES)[:, :-1].tobytes()) == before
    assert router.clusters_.centres.tobytes() == centres
    assert router.predict(PLACES).tolist() == example([0, 1, 2], lam).predict(PLACES).tolist()
    np.testing.assert_allclose(router.psi_[-1, router.clusters_.assign(PLACES)], 1.0 - ERRORS[late], atol=1e-15)


def draw(seed: int, n: int = 60, m: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)), rng.integers(2, size=(n, m)).astype(float), rng.uniform(0.1, 1.0, size=(n, m))


@given(st.integers(0, 10**6), st.floats(0, 3), st.floats(0, 50))
@settings(max_examples=30)
def test_one_cluster_is_the_best_static_model_at_every_price(seed: int, lam: float, prior: float) -> None:
    X, quality, cost = draw(seed)
    router = ClusterRouter(1, prior=prior, cost_weight=lam, random_state=0).fit(X, quality, cost=cost)
    static = SingleArm(cost_weight=lam).fit(X, quality, cost=cost)
    np.testing.assert_allclose(router.predict_quality(X), np.tile(quality.mean(axis=0), (60, 1)), atol=1e-12)
    assert set(router.predict(X).tolist()) <= set(np.flatnonzero(
        np.isclose(static.predict_utility(X)[0], static.predict_utility(X)[0].max(), atol=1e-12)
    ).tolist())  # fmt: skip


@pytest.mark.parametrize("n_clusters", [60, 1000])
def test_a_cluster_for_every_prompt_looks_up_the_nearest(n_clusters: int) -> None:
    X, quality, cost = draw(1)
    fresh = np.random.default_rng(9).normal(size=(500, 2))
    router = ClusterRouter(n_clusters, prior=0.0, random_state=0).fit(X, quality, cost=cost)
    nearest = ((fresh[:, None] - X[None]) ** 2).sum(axis=2).argmin(axis=1)
    assert router.n_clusters_ == 60
    np.testing.assert_array_equal(router.predict_quality(fresh), quality[nearest])
    peer = KNNRouter(1, metric="euclidean").fit(X, quality, cost=cost)
    np.testing.assert_array_equal(router.predict(fresh), peer.predict(fresh))


@pytest.mark.parametrize("prior", [0.0, 7.0])
def test_an_empty_cluster_backs_off_to_the_models_mean(prior: float) -> None:
    X = np.repeat([[0.0], [10.0], [20.0]], 4, axis=0)
    quality = np.array([[0.25], [1.0], [0.5]]).repeat(4, axis=0) * [1.0, 0.5]
    quality[4:8, 1] = np.nan
    router = ClusterRouter(3, prior=prior, back_off="arm", random_state=0).fit(X, quality)
    np.testing.assert_allclose(router.predict_quality([[10.0]])[0, 1], (0.125 + 0.25) / 2)
    router.add_arm(99, OutcomeLog.from_arrays([[0.0], [0.0], [20.0]], [[1.0], [0.0], [1.0]], arms=["99"]))
    np.testing.assert_allclose(router.predict_quality([[10.0]])[0, -1], 2 / 3)


def test_difficulty_keeps_an_easy_trial_from_flattering_a_model() -> None:
    X = np.repeat([[0.0], [10.0]], 10, axis=0)
    quality = np.repeat([[0.9, 0.7], [0.5, 0.3]], 10, axis=0)
    router = ClusterRouter(2, prior=0.0, random_state=0).fit(X, quality)
    trial = OutcomeLog.from_arrays(np.zeros((5, 1)), np.full((5, 1), 0.8), arms=["99"])
    late = router.add_arm(99, trial).predict_quality([[0.0], [10.0]])[:, -1]
    # The trial saw easy prompts alone, which are 0.4 easier.
    np.testing.assert_allclose(late, [0.8, 0.4])


@given(st.integers(0, 10**6), st.integers(1, 6), st.floats(0, 0.5))
@settings(max_examples=60)
def test_excess_risk_is_bounded_by_the_deviation_within_clusters(seed: int, n_clusters: int, lam: float) -> None:
    # A population of 40 prompts of unequal mass, whose expected errors are known: risks are sums, not estimates.
    rng = np.random.default_rng(seed)
    X, mass = rng.normal(size=(40, 2)), rng.dirichlet(np.ones(40))
    error, cost = rng.random((40, 4)), rng.uniform(0, 1, size=4)
    router = ClusterRouter(n_clusters, prior=0.0, back_off="arm", cost_weight=lam, random_state=0)
    router.fit(X, 1.0 - error, cost=np.tile(cost, (40, 1)), sample_weight=mass)
    paid = error + lam * cost
    risk = mass @ paid[np.arange(40), router.predict(X)]
    best = mass @ paid.min(axis=1)
    deviation = np.abs(error - (1.0 - router.predict_quality(X)))
    assert best - 1e-12 <= risk <= best + 2.0 * mass @ deviation.max(axis=1) + 1e-12
    # Without deviation nothing is lost.
    flat = router.predict_quality(X)
    again = ClusterRouter(n_clusters, prior=0.0, back_off="arm", cost_weight=lam, random_state=0)
    again.fit(X, flat, cost=np.tile(cost, (40, 1)), sample_weight=mass)
    exact = (1.0 - flat) + lam * cost
    assert mass @ exact[np.arange(40), again.predict(X)] == pytest.approx(mass @ exact.min(axis=1), abs=1e-12)


def test_an_added_model_on_held_out_prompts_comes_near_its_refitted_row() -> None:
    # Both rows estimate the same chances from disjoint prompts; 4 clusters of 500 prompts each on either side.
    rng = np.random.default_rng(5)
    kind = rng.permutation(np.repeat(np.arange(4), 1000))
    X = 10.0 * np.eye(4)[kind] + rng.normal(size=(4000, 4))
    chance = rng.uniform(0.1, 0.9, size=(4, 3))
    quality = (rng.random((4000, 3)) < chance[kind]).astype(float)
    train, held_out = np.arange(0, 2000), np.arange(2000, 4000)
    names = ["a", "b", "late"]
    router = ClusterRouter(4, prior=0.0, random_state=0).fit(X[train], ArmMatrix(quality[train, :2], names[:2]))
    router.add_arm("late", OutcomeLog.from_arrays(X[held_out], quality[held_out, 2:], arms=["late"]))
    refitted = ClusterRouter(4, prior=0.0, random_state=0).fit(X[train], ArmMatrix(quality[train], names))
    places = 10.0 * np.eye(4)
    added, again = router.predict_quality(places), refitted.predict_quality(places)
    np.testing.assert_array_equal(added[:, :2], again[:, :2])
    count = np.array([[np.sum(kind[part] == k) for part in (train, held_out)] for k in range(4)])
    deviation = np.sqrt(chance[:, 2] * (1 - chance[:, 2]) * (1 / count).sum(axis=1))
    # Four normal comparisons at 4.5 standard deviations: a false alarm in 3 of 100,000.
    assert (np.abs(added[:, 2] - again[:, 2]) <= 4.5 * deviation).all()
    assert (np.abs(added[:, 2] - chance[:, 2]) <= 4.5 * np.sqrt(chance[:, 2] * (1 - chance[:, 2]) / count[:, 1])).all()


def test_the_learned_map_does_not_depend_on_the_model_that_is_added() -> None:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(400, 2))
    quality = (rng.random((400, 3)) < 1 / (1 + np.exp(-2 * X @ rng.normal(size=(2, 3))))).astype(float)
    router = LearnedMapRouter(6, random_state=0).fit(X, quality[:, :2])
    gate, before = router.gate(X), router.predict_quality(X)
    router.add_arm(99, OutcomeLog.from_arrays(X[:100], quality[:100, 2:], arms=["99"]))
    np.testing.assert_array_equal(router.gate(X), gate)
    np.testing.assert_array_equal(router.predict_quality(X)[:, :2], before)
    np.testing.assert_allclose(router.predict_quality(X)[:, 2], gate @ router.psi_[2], atol=1e-12)
    twin = ClusterRouter(6, random_state=0).fit(X, quality[:, :2])
    twin.add_arm(99, OutcomeLog.from_arrays(X[:100], quality[:100, 2:], arms=["99"]))
    np.testing.assert_array_equal(twin.psi_, router.psi_)
