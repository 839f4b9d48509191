"""Chow's rule, exactly, and what it does with several experts, limits and calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Perceptron
from sklearn.neighbors import KNeighborsClassifier

from defer import evaluate
from defer.estimators import ConfidenceDeferral
from defer.exceptions import CostRangeError, DegenerateExpertWarning, FallbackWarning, RouterInputError
from defer.portfolios.limits import Share


class Told(ClassifierMixin, BaseEstimator):
    """A finished classifier of 0 and 1 whose probability of 1 is the first feature."""

    def __init__(self, classes: tuple[Any, ...] = (0, 1)) -> None:
        self.classes = classes
        self.classes_ = np.asarray(classes)

    def fit(self, X: Any, y: Any) -> Told:
        raise AssertionError("a frozen classifier is not fitted")

    def predict_proba(self, X: Any) -> Any:
        rest = np.zeros((len(X), len(self.classes) - 2))
        return np.column_stack([1.0 - X[:, 0], X[:, 0], rest])

    def __sklearn_is_fitted__(self) -> bool:
        return True


def frozen(*classes: Any) -> Any:
    return FrozenEstimator(Told(classes or (0, 1)))


@pytest.fixture
def blobs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two classes, an expert who is right nine times in ten, everywhere."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 2))
    y = (X[:, 0] + rng.logistic(size=600) > 0).astype(int)
    return X, y, np.where(rng.random(600) < 0.9, y, 1 - y)


@pytest.mark.parametrize("price", [0.0, 0.1, 0.25, 0.3, 0.5])
def test_a_perfect_expert_at_a_constant_price_gives_chows_rule_exactly(price: float) -> None:
    grid = np.linspace(0.0, 1.0, 101)[:, None]
    y = np.array([0, 1] * 50 + [1])
    with pytest.warns(DegenerateExpertWarning):
        router = ConfidenceDeferral(frozen(), cost_weight=1.0).fit(grid, y, experts=y, cost=np.full((101, 1), price))
    confidence = np.maximum(grid[:, 0], 1.0 - grid[:, 0])
    np.testing.assert_array_equal(router.defer_mask(grid), confidence < 1.0 - price)


def test_one_fit_serves_every_cost_weight(blobs: Any) -> None:
    X, y, expert = blobs
    cost = np.full((600, 1), 0.1)
    router = ConfidenceDeferral().fit(X, y, experts=expert, cost=cost)
    rates = []
    for weight in (0.0, 1.0, 2.0, 4.0, 50.0):
        fitted = ConfidenceDeferral(cost_weight=weight).fit(X, y, experts=expert, cost=cost)
        router.set_params(cost_weight=weight)
        np.testing.assert_array_equal(router.predict(X), fitted.predict(X))
        rates.append(router.defer_mask(X).mean())
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.2
    assert rates[-1] == 0.0


def test_own_quality_is_the_largest_probability_and_experts_are_constant(blobs: Any) -> None:
    X, y, expert = blobs
    router = ConfidenceDeferral(LogisticRegression()).fit(X, y, experts=np.column_stack([expert, 1 - expert]))
    peer = LogisticRegression().fit(X, y)
    quality = router.predict_quality(X)
    np.testing.assert_allclose(quality[:, 0], peer.predict_proba(X).max(axis=1), atol=1e-12)
    share = np.mean(expert == y)
    np.testing.assert_allclose(quality[:, 1:], np.tile([share, 1 - share], (600, 1)), atol=1e-12)
    np.testing.assert_array_equal(router.predict_own(X), peer.predict(X))
    assert set(router.predict(X).tolist()) == {"own", "expert 1"}


def test_the_curve_repairs_an_overconfident_base_and_changes_no_answer() -> None:
    # The one-nearest neighbour is always sure of itself; on queries that it has not seen it is right as often as is true.
    rng = np.random.default_rng(1)
    X = rng.normal(size=(1500, 1))
    y = (X[:, 0] + rng.logistic(size=1500) > 0).astype(int)
    expert = np.where(rng.random(1500) < 0.8, y, 1 - y)
    options: dict[str, Any] = {"experts": expert}
    plain = ConfidenceDeferral(KNeighborsClassifier(1)).fit(X, y, **options)
    curved = ConfidenceDeferral(KNeighborsClassifier(1), calibrated=True, random_state=0).fit(X, y, **options)
    fresh = rng.normal(size=(2000, 1))
    truth = (fresh[:, 0] + rng.logistic(size=2000) > 0).astype(int)
    right = np.mean(curved.predict_own(fresh) == truth)
    np.testing.assert_array_equal(plain.predict_own(fresh), curved.predict_own(fresh))
    assert (plain.predict_quality(fresh)[:, 0] == 1.0).all()
    assert not plain.defer_mask(fresh).any()
    # Both shares have a standard error of at most 0.013.
    assert curved.predict_quality(fresh)[:, 0].mean() == pytest.approx(right, abs=0.07)
    assert curved.defer_mask(fresh).all()


def test_the_curve_keeps_the_order_of_confidence(blobs: Any) -> None:
    X, y, expert = blobs
    router = ConfidenceDeferral(calibrated=True, random_state=0).fit(X, y, experts=expert)
    raw = router.base_.probability(X).max(axis=1)
    order = np.argsort(raw)
    assert (np.diff(router.predict_quality(X)[order, 0]) >= 0).all()
    assert router.calibration_ is not None


def test_a_frozen_base_answers_in_the_labels_it_knows() -> None:
    X, y = np.linspace(0.1, 0.9, 20)[:, None], ["no", "yes"] * 10
    router = ConfidenceDeferral(frozen("no", "yes")).fit(X, y, experts=["no"] * 20)
    assert router.predict_own([[0.2], [0.8]]).tolist() == ["no", "yes"]
    with pytest.warns(FallbackWarning, match="base knows 1 labels that y does not hold, the first is 'maybe'"):
        router = ConfidenceDeferral(frozen("no", "yes", "maybe")).fit(X, y, experts=["no"] * 20)
    assert router.predict_own([[0.2], [0.8]]).tolist() == ["no", "yes"]
    with pytest.raises(RouterInputError, match="base: none of its 2 labels is in y, the first is 0"):
        ConfidenceDeferral(frozen()).fit(X, y, experts=["no"] * 20)


def test_gaps_and_propensities_of_the_experts_answers(blobs: Any) -> None:
    X, y, _ = blobs
    rng = np.random.default_rng(5)
    right = rng.random(600) < 0.6
    asked = rng.random(600) < np.where(right, 0.8, 0.2)  # asked where it is right, which only the propensity undoes
    expert = np.where(asked, np.where(right, y, 1 - y), np.nan)
    naive = ConfidenceDeferral().fit(X, y, experts=expert)
    weighted = ConfidenceDeferral().fit(X, y, experts=expert, propensity=np.where(right, 0.8, 0.2))
    # The weighted mean has a standard error of 0.04 at most.
    assert naive.mean_quality_[1] > 0.8
    assert weighted.mean_quality_[1] == pytest.approx(0.6, abs=0.16)
    assert weighted.weighting_ == "inverse propensity"


def test_limits_and_evaluation_work_on_own_and_experts(blobs: Any) -> None:
    X, y, expert = blobs
    router = ConfidenceDeferral().fit(X[:300], y[:300], experts=expert[:300])
    routing = router.route(X[300:], limit=Share("expert", at_most=0.1), random_state=0)
    assert routing.load[1] == pytest.approx(0.1)
    system = router.predict(X[300:], experts=expert[300:], routing=routing)
    assert np.mean(system == y[300:]) > np.mean(router.predict_own(X[300:]) == y[300:])
    log = router.outcome_log(X[300:], y[300:], expert[300:])
    assert evaluate(router, log).router == "ConfidenceDeferral"


def test_without_experts_the_first_arm_alone_has_a_model() -> None:
    X = np.repeat([[0.0], [1.0]], 200, axis=0)
    quality = np.column_stack([np.repeat([0.9, 0.2], 200), np.full(400, 0.5), np.repeat([0.0, 0.8], 200)])
    router = ConfidenceDeferral().fit(X, quality)
    np.testing.assert_allclose(router.predict_quality([[0.0], [1.0]])[:, 0], [0.9, 0.2], atol=0.03)
    np.testing.assert_allclose(router.predict_quality([[0.0], [1.0]])[:, 1:], [[0.5, 0.4]] * 2, atol=1e-12)
    with pytest.raises(RouterInputError, match="fitted without experts="):
        router.predict_own([[0.0]])
    with pytest.raises(
        CostRangeError, match=r"ConfidenceDeferral: y has 2 values outside \[0, 1\], the first in row 1, arm 0"
    ):
        ConfidenceDeferral().fit([[0.0], [1.0]], [[0.0, 1.0], [2.0, -1.0]])


def test_wrong_parameters_are_refused(blobs: Any) -> None:
    X, y, expert = blobs
    with pytest.raises(
        RouterInputError, match="base Perceptron has no predict_proba; CalibratedClassifierCV gives it one"
    ):
        ConfidenceDeferral(Perceptron()).fit(X, y, experts=expert)
    with pytest.raises(TypeError, match=r"base must be an estimator, got the class LogisticRegression; write"):
        ConfidenceDeferral(LogisticRegression).fit(X, y, experts=expert)
    with pytest.raises(RouterInputError, match="calibrated must be True or False, got 'sigmoid'"):
        ConfidenceDeferral(calibrated="sigmoid").fit(X, y, experts=expert)
    with pytest.raises(RouterInputError, match="cv must be an integer >= 2, a splitter or a list of splits, got 1"):
        ConfidenceDeferral(calibrated=True, cv=1).fit(X, y, experts=expert)
    with pytest.raises(RouterInputError, match=r"held out otherwise, the first is row 0 \(0 times\)"):
        ConfidenceDeferral(calibrated=True, cv=[(np.arange(300), np.arange(300, 600))]).fit(X, y, experts=expert)
    with pytest.raises(RouterInputError, match="the model KNeighborsClassifier takes no sample_weight"):
        ConfidenceDeferral(KNeighborsClassifier()).fit(X, y, experts=expert, sample_weight=np.arange(1.0, 601.0))
