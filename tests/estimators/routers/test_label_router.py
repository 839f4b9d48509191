"""How labels are made where outcomes were not measured: the share of an arm must not say how often it was measured."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from defer.estimators.outcomes_input import read_outcomes
from defer.estimators.routers.label_router import label_rows
from defer.estimators.routers.reward_distilled import RewardDistilledRouter
from defer.estimators.routers.soft_label import SoftLabelRouter
from defer.losses.distillation import soft_labels

pytestmark = pytest.mark.filterwarnings("ignore::defer.exceptions.MissingPropensityWarning")

ROUTERS = [
    SoftLabelRouter(),
    SoftLabelRouter("linear"),
    SoftLabelRouter(LogisticRegression()),
    RewardDistilledRouter(temperature=0.1),
    RewardDistilledRouter(temperature=0.1, divergence="reverse"),
    RewardDistilledRouter(temperature=0.1, labels="hard"),
    RewardDistilledRouter(temperature=0.1, beta=0.0, tags="cluster", n_tags=4, random_state=0),
]
NAMES = ["neighbours", "soft", "classifier", "distilled", "reverse", "hard", "tags"]


def gaps_of_the_last(quality: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The last arm observed in so many of the rows."""
    table = np.array(quality, dtype=float)
    table[np.random.default_rng(seed).random(len(table)) >= share, -1] = np.nan
    return table


@pytest.mark.parametrize("router", ROUTERS, ids=NAMES)
def test_an_arm_that_is_best_everywhere_wins_though_it_was_observed_on_a_fifth_of_the_queries(router: Any) -> None:
    rng = np.random.default_rng(0)
    X, fresh = rng.normal(size=(1500, 4)), rng.normal(size=(300, 4))
    constant = np.tile([0.5, 0.5, 0.9], (1500, 1))
    drawn = (rng.random((1500, 3)) < constant).astype(float)
    for quality in (constant, drawn):
        assert (router.fit(X, gaps_of_the_last(quality, 0.2, 1)).predict(fresh) == 2).all()


@pytest.mark.parametrize("router", ROUTERS, ids=NAMES)
@pytest.mark.parametrize("weighted", [False, True], ids=["at random", "propensity"])
def test_the_better_arm_of_a_bandit_log_wins_though_it_was_taken_in_a_tenth_of_the_rows(
    router: Any, weighted: bool
) -> None:
    rng = np.random.default_rng(1)
    X, fresh = rng.normal(size=(2500, 3)), rng.normal(size=(300, 3))
    outcome = (rng.random((2500, 2)) < [0.5, 0.9]).astype(float)
    second = rng.random(2500) < 0.1
    seen = np.where(np.column_stack([~second, second]), outcome, np.nan)
    options = {"propensity": np.where(second, 0.1, 0.9)} if weighted else {}
    assert (router.fit(X, seen, **options).predict(fresh) == 1).all()


@pytest.mark.parametrize("router", ROUTERS[:4], ids=NAMES[:4])
def test_a_seldom_observed_arm_is_taken_where_it_is_good(router: Any) -> None:
    rng = np.random.default_rng(2)
    X, fresh = rng.normal(size=(2500, 2)), rng.normal(size=(2000, 2))
    chance = 0.5 + 0.4 * np.tanh(np.column_stack([X[:, 0], -X[:, 0]]))
    table = gaps_of_the_last(rng.random((2500, 2)) < chance, 0.2, 3)
    assert (router.fit(X, table).predict(fresh) == (fresh[:, 0] < 0)).mean() > 0.9


def test_a_gap_has_the_share_of_predicted_scores_and_the_others_divide_the_rest() -> None:
    rng = np.random.default_rng(4)
    X = rng.normal(size=(60, 3))
    score = X @ rng.normal(size=(3, 3)) + 0.1 * rng.normal(size=(60, 3))
    gaps, nan = score.copy(), np.nan
    gaps[:10, 1], gaps[10:14, 1:] = nan, nan
    outcomes = read_outcomes(gaps, n=60)
    rows = label_rows(X, outcomes, outcomes.quality, missing="impute", owner="Router")
    labels, make = rows.labels(partial(soft_labels, kappa=2.0)), partial(soft_labels, kappa=2.0)
    seen = [np.isfinite(gaps[:, arm]) for arm in range(3)]
    predicted = make(np.column_stack([Ridge().fit(X[s], gaps[s, a]).predict(X) for a, s in enumerate(seen)]))
    np.testing.assert_allclose(labels[14:], make(score[14:]), atol=1e-14)
    np.testing.assert_allclose(labels[10:14], predicted[10:14], atol=1e-9)
    np.testing.assert_allclose(labels[:10, 1], predicted[:10, 1], atol=1e-9)
    np.testing.assert_allclose(labels[:10, 0] / labels[:10, 2], np.exp(2 * (score[:10, 0] - score[:10, 2])), rtol=1e-9)
    np.testing.assert_allclose(labels.sum(axis=1), 1.0)


def test_masked_labels_are_kept_where_several_arms_were_measured() -> None:
    gaps = np.array([[0.2, 0.4, np.nan], [0.3, np.nan, np.nan], [0.1, 0.2, 0.3]])
    outcomes = read_outcomes(gaps, n=3)
    rows = label_rows(np.eye(3), outcomes, outcomes.quality, missing="mask", owner="Router")
    labels = rows.labels(soft_labels)
    np.testing.assert_allclose(labels[[0, 2]], soft_labels(gaps[[0, 2]]))
    assert (labels[1] > 0).all()


def test_partly_observed_queries_are_predicted_as_a_whole_where_propensities_are_given() -> None:
    rng = np.random.default_rng(5)
    X, quality = rng.normal(size=(50, 2)), rng.random((50, 3))
    gaps = gaps_of_the_last(quality, 0.5, 6)
    part = np.isnan(gaps[:, 2])
    chance = np.where(part, 0.5, 1.0)
    outcomes = read_outcomes(gaps, n=50, propensity=chance)
    rows = label_rows(X, outcomes, outcomes.quality, missing="impute", owner="Router")
    models = [
        Ridge().fit(X[seen], gaps[seen, arm], 1 / chance[seen])
        for arm, seen in enumerate([np.full(50, True), np.full(50, True), ~part])
    ]
    expected = np.where(part[:, None], np.column_stack([model.predict(X) for model in models]), gaps)
    np.testing.assert_allclose(rows.labels(soft_labels), soft_labels(expected), atol=1e-9)
    np.testing.assert_allclose(rows.outcomes.quality, expected, atol=1e-9)
    assert (rows.weight == 1.0).all()


@pytest.mark.parametrize("missing", ["impute", "mask"])
def test_a_log_without_gaps_is_read_alike(missing: str) -> None:
    rng = np.random.default_rng(7)
    X, quality = rng.normal(size=(80, 3)), rng.random((80, 3))
    router = SoftLabelRouter(n_neighbors=1, metric="euclidean", missing=missing).fit(X, quality)
    np.testing.assert_allclose(router.predict_proba(X), soft_labels(quality), atol=1e-11)
