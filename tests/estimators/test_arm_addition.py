from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from defer import OutcomeLog
from defer.estimators import ClusterRouter, LatentFactorRouter, LearnedMapRouter
from defer.exceptions import RouterInputError
from defer.portfolios.arm_matrix import ArmMatrix


def draw(seed: int = 0, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)), (rng.random((n, 3)) < 0.5).astype(float)


def one(name: str, X: Any, quality: Any, **columns: Any) -> OutcomeLog:
    return OutcomeLog.from_arrays(X, np.asarray(quality, dtype=float)[:, None], arms=[name], **columns)


@pytest.mark.parametrize(
    ("arms", "name", "wanted"),
    [
        (["a", "b"], "a longer name", ["a", "b", "a longer name"]),
        ([0, 1], 7, [0, 1, 7]),
        ([0, 1], np.int32(7), [0, 1, 7]),
        ([0.5, 1.5], 2.5, [0.5, 1.5, 2.5]),
        ([0.5, 1.5], 2, [0.5, 1.5, 2.0]),
    ],
)
def test_the_names_keep_their_kind(arms: list[Any], name: Any, wanted: list[Any]) -> None:
    X, quality = draw()
    router = ClusterRouter(2, random_state=0).fit(X, ArmMatrix(quality[:, :2], arms))
    router.arms_ = np.asarray(arms)
    kind = router.arms_.dtype.kind
    router.add_arm(name, one(str(name), X[:9], np.full(9, 5.0)))
    assert router.arms_.tolist() == wanted
    assert router.arms_.dtype.kind == kind
    assert router.predict(X).dtype == router.arms_.dtype


def test_arms_that_are_objects_stay_objects() -> None:
    X, quality = draw()
    labels = np.array(["a", "b"], dtype=object)[quality[:, 0].astype(int)]
    router = ClusterRouter(2, random_state=0).fit(X, labels)
    assert router.arms_.dtype == object
    router.add_arm("c", one("c", X[:9], np.ones(9)))
    assert router.arms_.dtype == object
    assert router.arms_.tolist() == ["a", "b", "c"]
    with pytest.raises(RouterInputError, match="the name 3 is int, and the router's 3 arms are named by str, as 'a'"):
        router.add_arm(3, one("3", X[:9], np.ones(9)))


@pytest.mark.parametrize(
    ("arms", "name", "message"),
    [
        (
            None,
            "1",
            r"ClusterRouter\.add_arm: the name '1' is str, and the router's 2 arms are named by int, as 0: give a name of that kind; "
            r"the log may name the arm by its text, str\(name\)",
        ),
        (None, True, "the name True is bool, and the router's 2 arms are named by int, as 0"),
        (None, 1.5, "the name 1.5 is float, and the router's 2 arms are named by int, as 0"),
        (None, 1, "the router has an arm 1 already"),
        (None, 2, "the log has no arm 2; its 1 arms are 1"),
        (["a", "b"], 1, "the name 1 is int, and the router's 2 arms are named by str, as 'a'"),
    ],
)
def test_a_name_of_another_kind_is_refused(arms: Any, name: Any, message: str) -> None:
    X, quality = draw()
    table = quality[:, :2] if arms is None else ArmMatrix(quality[:, :2], arms)
    router = ClusterRouter(2, random_state=0).fit(X, table)
    before = router.arms_.tolist()
    with pytest.raises(RouterInputError, match=message):
        router.add_arm(name, one("1", X[:9], np.ones(9)))
    assert router.arms_.tolist() == before


def biased_trial(seed: int = 0, n: int = 20_000, *, given: bool = True) -> tuple[np.ndarray, np.ndarray, OutcomeLog]:
    """A log that takes the arm "late" with .9 where it is good and cheap (X > 0), else with .1."""
    rng = np.random.default_rng(seed)
    X = rng.choice([-1.0, 1.0], size=(n, 1)) + 0.01 * rng.normal(size=(n, 1))
    good = X[:, 0] > 0
    late = (rng.random(n) < np.where(good, 0.8, 0.2)).astype(float)
    price = np.where(good, 1.0, 3.0)
    chance = np.where(good, 0.9, 0.1)
    taken = rng.random(n) < chance
    quality = np.where(np.column_stack([~taken, taken]), np.column_stack([np.full(n, 0.5), late]), np.nan)
    cost = np.where(np.isfinite(quality), np.column_stack([np.full(n, 1.0), price]), np.nan)
    columns = {"propensity": np.where(taken, chance, 1.0 - chance)} if given else {}
    log = OutcomeLog.from_arrays(X, quality, arms=["old", "late"], cost=cost, action=taken.astype(int), **columns)
    return X, np.column_stack([np.full(n, 0.5), late]), log


@pytest.mark.parametrize(
    "router",
    [ClusterRouter(1, prior=0.0), LearnedMapRouter(1, prior=0.0), LatentFactorRouter(0)],
    ids=lambda router: type(router).__name__,
)
def test_propensities_of_the_trial_undo_what_the_policy_preferred(router: Any) -> None:
    X, quality, log = biased_trial()
    known = ArmMatrix(np.column_stack([quality[:, 0], quality[:, 0]]), ["old", "other"])
    router.fit(X, known, cost=np.ones((len(X), 2))).add_arm("late", log)
    # One number for all queries: .74 as logged, .5 in truth; the standard deviation is below 0.01.
    assert router.predict_quality(X)[:, -1].mean() == pytest.approx(0.5, abs=0.06)
    assert router.mean_cost_[-1] == pytest.approx(2.0, abs=0.1)


def test_a_trial_counts_as_the_log_does_at_fit() -> None:
    X, quality, log = biased_trial(1, n=400)
    logged = np.asarray(log.quality)
    fitted = ClusterRouter(2, prior=3.0, back_off="arm", cost="cluster", random_state=0)
    fitted.fit(X, log.quality, cost=log.cost, propensity=log.propensity)
    added = ClusterRouter(2, prior=3.0, back_off="arm", cost="cluster", random_state=0)
    added.fit(X, ArmMatrix(quality[:, :1], ["old"]), cost=np.ones((400, 1))).add_arm("late", log)
    assert np.isfinite(logged[:, 1]).sum() < 400
    np.testing.assert_allclose(added.psi_[1], fitted.psi_[1])
    np.testing.assert_allclose(added.counts_[1], fitted.counts_[1])
    assert added.cost_means_ is not None
    assert fitted.cost_means_ is not None
    np.testing.assert_allclose(added.cost_means_.value[1], fitted.cost_means_.value[1])
    np.testing.assert_allclose(added.mean_cost_[1], fitted.mean_cost_[1])


def test_rows_observed_in_full_ignore_their_propensity() -> None:
    X, quality = draw()
    log = OutcomeLog.from_arrays(
        X, quality[:, :2], arms=["old", "late"], action=np.zeros(60, dtype=int), propensity=np.linspace(0.1, 1.0, 60)
    )
    router, twin = (ClusterRouter(3, random_state=0).fit(X, ArmMatrix(quality[:, 1:], ["b", "c"])) for _ in range(2))
    plain = OutcomeLog.from_arrays(X, quality[:, :2], arms=["old", "late"])
    np.testing.assert_array_equal(router.add_arm("late", log).psi_, twin.add_arm("late", plain).psi_)


def test_values_that_no_sum_of_squares_bears_are_named() -> None:
    X, quality = draw()
    router = ClusterRouter(2, random_state=0).fit(X, ArmMatrix(quality[:, :2], ["a", "b"]))
    message = (
        r"ClusterRouter\.add_arm: log\.quality: 1 values are beyond 1e\+100, the first in row 2, arm 'c' \(-1e\+160\)"
    )
    with pytest.raises(RouterInputError, match=message):
        router.add_arm("c", one("c", X[:3], [0.0, 1.0, -1e160]))
