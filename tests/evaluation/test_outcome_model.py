"""Cross-fitted outcome models: against loops over folds, and never fitted on the row that they predict."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

import defer
from defer import OutcomeLog
from defer.estimators import QualityRouter
from defer.evaluation.outcome_model import cross_fitted, folds
from defer.exceptions import EvaluationError


@pytest.fixture
def log(bandit_log):
    return bandit_log


def without_queries(log, **changes):
    columns = {"action": log.action, "propensity": log.propensity, "cost": log.cost} | changes
    return OutcomeLog.from_arrays(None, np.asarray(log.quality), arms=log.arms, **columns)


def test_folds_are_balanced_and_keep_clusters_and_equal_texts_together(log):
    assert np.bincount(folds(log, 5)).tolist() == [40] * 5
    cluster = np.arange(200) // 3
    fold = folds(without_queries(log, cluster=cluster), 5)
    assert all(len(set(fold[cluster == name])) == 1 for name in range(67))
    texts = [f"query {row // 2}" for row in range(200)]
    fold = folds(OutcomeLog.from_arrays(texts, np.ones((200, 2))), 5)
    np.testing.assert_array_equal(fold[::2], fold[1::2])
    assert folds(without_queries(log, cluster=np.arange(200) % 2), 5).max() == 1


@pytest.mark.parametrize("name", ["quality", "cost"])
def test_means_are_weighted_means_of_the_other_folds(log, name):
    plain = without_queries(log)
    table, fold = cross_fitted(None, plain, name, n_splits=4), folds(plain, 4)
    values = np.asarray(getattr(plain, name))
    for row in range(0, 200, 7):
        for arm in range(3):
            used = (fold != fold[row]) & (plain.action == arm)
            expected = np.average(values[used, arm], weights=1 / plain.propensity[used])
            assert table[row, arm] == pytest.approx(expected)


def test_an_arm_that_the_other_folds_never_took_gets_the_mean_of_all_arms():
    quality = np.full((10, 2), np.nan)
    quality[:9, 0], quality[9, 1] = np.arange(9.0), 100.0
    log = OutcomeLog.from_arrays(None, quality, action=[0] * 9 + [1], propensity=[0.5] * 10)
    table, fold = cross_fitted(None, log, "quality", n_splits=5), folds(log, 5)
    others = fold[:9] != fold[9]
    assert table[9, 1] == pytest.approx(np.arange(9.0)[others].mean())
    assert table[9, 0] == pytest.approx(table[9, 1])
    assert table[np.flatnonzero(fold != fold[9]), 1] == pytest.approx(100.0)


def test_ridge_is_fitted_on_the_other_folds_with_inverse_propensities(log):
    table, fold = cross_fitted(None, log, "quality", n_splits=5), folds(log, 5)
    quality, X = np.asarray(log.quality), np.asarray(log.X)
    for part in range(5):
        train, test = fold != part, fold == part
        for arm in range(3):
            used = train & (log.action == arm)
            model = Ridge().fit(X[used], quality[used, arm], sample_weight=1 / log.propensity[used])
            np.testing.assert_allclose(table[test, arm], model.predict(X[test]).clip(0, 1), atol=1e-9)


def test_no_model_sees_the_rows_that_it_predicts(log):
    fold = folds(log, 5)
    own = np.flatnonzero(fold == 2)
    quality = np.asarray(log.quality).copy()
    quality[own, log.action[own]] = 1.0 - quality[own, log.action[own]]
    changed = OutcomeLog.from_arrays(log.X, quality, arms=log.arms, action=log.action, propensity=log.propensity)
    for model in (None, Ridge(alpha=3.0)):
        before, after = (cross_fitted(model, source, "quality", n_splits=5) for source in (log, changed))
        np.testing.assert_array_equal(before[own], after[own])
        assert (before[fold != 2] != after[fold != 2]).any(axis=0).all()


def test_regressors_routers_and_pipelines_serve_as_models(log):
    by_regressor = cross_fitted(Ridge(alpha=0.5), log, "quality", n_splits=3)
    by_router = cross_fitted(QualityRouter(Ridge(alpha=0.5)), log, "quality", n_splits=3)
    np.testing.assert_allclose(by_regressor, by_router)
    texts = OutcomeLog.from_arrays(
        [f"query {row % 7} of {row}" for row in range(200)],
        np.asarray(log.quality),
        action=log.action,
        propensity=log.propensity,
    )
    pipeline = defer.make_pipeline(TfidfVectorizer(), QualityRouter())
    table = cross_fitted(pipeline, texts, "quality", n_splits=3)
    assert table.shape == (200, 3)
    assert np.ptp(table, axis=0).min() > 0


class Steep(RegressorMixin, BaseEstimator):
    """A regressor that leaves every range."""

    def __init__(self, size=1e6):
        self.size = size

    def fit(self, X, y, sample_weight=None):
        self.fitted_ = True
        return self

    def predict(self, X):
        return self.size * np.sign(np.asarray(X)[:, 1])


def test_predictions_are_cut_to_the_range_of_the_outcomes_fitted_on(log):
    table = cross_fitted(Steep(), log, "quality", n_splits=4)
    assert set(np.unique(table)) == {0.0, 1.0}
    np.testing.assert_array_equal(table[:, 0] == 1.0, np.asarray(log.X)[:, 1] > 0)


def test_predictions_that_are_not_finite_are_refused(log):
    with pytest.raises(EvaluationError, match=r"quality_model predicts \d+ values that are not finite"):
        cross_fitted(Steep(np.inf), log, "quality", n_splits=4)


def test_arrays_are_taken_as_they_are(log):
    model = np.linspace(-3, 3, 600).reshape(200, 3)
    np.testing.assert_array_equal(cross_fitted(model, log, "quality", n_splits=5), model)


@pytest.mark.filterwarnings("ignore::defer.exceptions.MissingPropensityWarning")
def test_logs_without_propensities_are_weighted_equally(log):
    plain = without_queries(log, propensity=None)
    table, fold = cross_fitted(None, plain, "quality", n_splits=4), folds(plain, 4)
    used = (fold != fold[0]) & (plain.action == 1)
    assert table[0, 1] == pytest.approx(np.asarray(plain.quality)[used, 1].mean())


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (np.zeros((200, 2)), {}, r"must have shape \(200, 3\) or be an estimator, got shape \(200, 2\)"),
        (
            np.where(np.arange(600).reshape(200, 3) == 4, np.nan, 0.0),
            {},
            "quality_model has 1 values that are not finite, the first in row 1, arm 1",
        ),
        (Ridge(), {}, r"the log has no queries \(X is None\) to fit quality_model on"),
        (None, {"n_splits": 1}, "n_splits must be at least 2, got 1"),
        (None, {"cluster": np.zeros(200)}, "needs at least 2 groups of queries"),
    ],
)
def test_models_that_do_not_fit_the_log_are_refused(log, model, options, message):
    n_splits = options.pop("n_splits", 5)
    with pytest.raises(EvaluationError, match=message):
        cross_fitted(model, without_queries(log, **options), "quality", n_splits=n_splits)
