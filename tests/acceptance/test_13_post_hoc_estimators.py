"""Post-hoc deferral on finite populations: the methods agree at the optimum, Chow's rule, and how the rate falls with the price.

Queries come in kinds, one indicator each, so that every function of the query can be learned; the rows are all outcomes with
their probabilities as weights, so that the fit is the population optimum up to a vanishing penalty.
"""

from __future__ import annotations

import warnings
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge

from defer.estimators import ConfidenceDeferral, PostHocDeferral
from defer.estimators.deferral.partial_scores import fit_partial_scores
from defer.exceptions import DegenerateExpertWarning

METHODS = ["plug_in", "regression", "partial"]
SHARE = np.array([0.3, 0.2, 0.2, 0.3])
CONFIDENCE = np.array([0.6, 0.95, 0.8, 0.55])  # calibrated: P(label 1 | kind)
SPECIALIST = np.array([0.9, 0.3, 0.97, 0.4])  # P(expert right | kind), in another order than the confidence


class Table(ClassifierMixin, BaseEstimator):
    """A finished classifier that looks the probability of label 1 up by the kind."""

    def __init__(self, confidence: Any) -> None:
        self.confidence = confidence
        self.classes_ = np.array([0, 1])

    def fit(self, X: Any, y: Any) -> Table:
        raise AssertionError("the base is finished")

    def predict_proba(self, X: Any) -> Any:
        chance = X @ np.asarray(self.confidence)
        return np.column_stack([1.0 - chance, chance])

    def __sklearn_is_fitted__(self) -> bool:
        return True


def population(expert: Any = SPECIALIST) -> dict[str, Any]:
    """Every outcome (kind, label, expert right) with its probability as a weight."""
    cells = list(product(range(4), (0, 1), (0, 1)))
    kind, label, right = (np.array(column) for column in zip(*cells, strict=True))
    chance = SHARE[kind] * np.where(label, CONFIDENCE[kind], 1 - CONFIDENCE[kind])
    chance = chance * np.where(right, np.asarray(expert)[kind], 1 - np.asarray(expert)[kind])
    keep = chance > 0
    return {
        "X": np.eye(4)[kind][keep], "y": label[keep], "experts": np.where(right, label, 1 - label)[keep],
        "sample_weight": 1e4 * chance[keep],
    }  # fmt: skip


def fit(
    method: str, price: float, *, expert: Any = SPECIALIST, features: str = "queries", cost_weight: float = 1.0
) -> Any:
    exact: dict[str, Any] = {"C": 1e9, "tol": 1e-10, "max_iter": 10_000}
    models = {"plug_in": LogisticRegression(**exact), "regression": Ridge(alpha=1e-9, tol=1e-12)}
    router = PostHocDeferral(
        method, FrozenEstimator(Table(CONFIDENCE)), features=features, expert_model=models.get(method),
        cost_weight=cost_weight, **exact,
    )  # fmt: skip
    data = population(expert)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateExpertWarning)
        return router.fit(**data, cost=np.full((len(data["y"]), 1), price))


def risk(defers: Any, price: float, expert: Any = SPECIALIST) -> float:
    return float(SHARE @ np.where(defers, 1 - np.asarray(expert) + price, 1 - CONFIDENCE))


def test_partial_scores_are_the_log_ratio_of_expected_costs() -> None:
    a, b = np.array([0.4, 0.1, 0.3]), np.array([0.3, 0.25, 0.3])
    partial = fit_partial_scores(
        np.eye(3), np.column_stack([a, b]), np.ones((3, 2)), margin="logistic", C=1e9, max_iter=5000, tol=1e-12
    )
    scores = partial.scores(np.eye(3))
    np.testing.assert_allclose(expit(scores[:, 1] - scores[:, 0]), [0.571429, 0.285714, 0.5], atol=1e-5)


@pytest.mark.parametrize("price", [0.0, 0.05, 0.12, 0.25, 0.35, 0.6])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_the_bayes_rule_of_the_fixed_classifier_at_its_optimum(method: str, price: float) -> None:
    bayes = SPECIALIST - price > CONFIDENCE
    router = fit(method, price)
    np.testing.assert_array_equal(router.defer_mask(np.eye(4)), bayes)
    np.testing.assert_allclose(router.predict_quality(np.eye(4)), np.column_stack([CONFIDENCE, SPECIALIST]), atol=2e-3)


@pytest.mark.parametrize("price", [0.0, 0.05, 0.12, 0.25, 0.35, 0.6, 1.0])
@pytest.mark.parametrize("method", METHODS)
def test_a_fitted_router_is_never_worse_than_its_base_or_the_expert(method: str, price: float) -> None:
    sides = [risk(np.full(4, asked), price) for asked in (False, True)]
    assert risk(fit(method, price).defer_mask(np.eye(4)), price) <= min(sides) + 1e-12


@pytest.mark.parametrize("method", ["plug_in", "regression"])
def test_one_model_serves_every_price(method: str) -> None:
    router = fit(method, 1.0, cost_weight=0.0)
    for price in (0.0, 0.05, 0.12, 0.25, 0.35, 0.6):
        router.set_params(cost_weight=price)
        np.testing.assert_array_equal(router.defer_mask(np.eye(4)), SPECIALIST - price > CONFIDENCE)


def test_with_the_confidence_alone_methods_differ_where_the_expert_is_a_specialist() -> None:
    price = 0.05
    full = risk(SPECIALIST - price > CONFIDENCE, price)
    masks = {method: fit(method, price, features="confidence").defer_mask(np.eye(4)) for method in METHODS}
    # A linear score of the confidence is a threshold rule, on which no specialist can be told from another.
    order = np.argsort(CONFIDENCE)
    partial = masks["partial"][order].astype(int)
    assert (np.diff(partial) <= 0).all() or (np.diff(partial) >= 0).all()
    assert len({tuple(mask) for mask in masks.values()}) > 1
    assert min(risk(mask, price) for mask in masks.values()) > full + 0.01


@pytest.mark.parametrize("price", [0.02, 0.1, 0.21, 0.3, 0.42, 0.5, 0.7])
def test_an_expert_of_constant_cost_and_a_calibrated_base_give_chows_rule(price: float) -> None:
    chow = 1.0 - price > CONFIDENCE
    data = population(np.ones(4))
    with pytest.warns(DegenerateExpertWarning):
        confidence = ConfidenceDeferral(FrozenEstimator(Table(CONFIDENCE)), cost_weight=1.0).fit(
            **data, cost=np.full((len(data["y"]), 1), price)
        )
    np.testing.assert_array_equal(confidence.defer_mask(np.eye(4)), chow)
    for method in ("plug_in", "regression"):
        router = fit(method, price, expert=np.ones(4), features="confidence")
        np.testing.assert_array_equal(router.defer_mask(np.eye(4)), chow)
    np.testing.assert_array_equal(fit("partial", price, expert=np.ones(4)).defer_mask(np.eye(4)), chow)


@pytest.mark.parametrize("features", ["queries", "confidence"])
@pytest.mark.parametrize("method", METHODS)
def test_the_rate_never_rises_with_the_price(method: str, features: str) -> None:
    rates = [
        float(SHARE @ fit(method, price, features=features).defer_mask(np.eye(4)))
        for price in (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 1.0, 1.5)
    ]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.0
    assert rates[-2:] == [0.0, 0.0]  # nothing is worth as much as one error


@pytest.mark.parametrize("method", METHODS)
def test_a_perfect_expert_for_nothing_gets_every_query_that_may_be_wrong(method: str) -> None:
    assert fit(method, 0.0, expert=np.ones(4)).defer_mask(np.eye(4)).all()
