from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy import sparse
from sklearn import config_context
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression, MultiTaskLasso, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputRegressor
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from defer.estimators import QualityRouter
from defer.exceptions import RouterInputError


class Plain(RegressorMixin, BaseEstimator):
    """A regressor without sample_weight."""

    def fit(self, X: Any, y: Any) -> Plain:
        self.mean_ = float(np.mean(y))
        return self

    def predict(self, X: Any) -> np.ndarray:
        return np.full(len(X), self.mean_)


def draw(seed: int = 0, n: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)), rng.random((n, 3)), rng.uniform(0.1, 1.0, size=(n, 3))


@pytest.mark.parametrize("base", [Ridge(alpha=2.0), LinearRegression()], ids=["ridge", "least squares"])
def test_least_squares_is_fitted_once_and_equals_one_fit_per_arm(base: Any) -> None:
    X, quality, cost = draw()
    router = QualityRouter(base, base).fit(X, quality, cost=cost)
    assert len(router.regressors_) == len(router.cost_regressors_) == 1
    for arm in range(3):
        np.testing.assert_allclose(router.predict_quality(X)[:, arm], clone(base).fit(X, quality[:, arm]).predict(X))
        raw = clone(base).fit(X, cost[:, arm]).predict(X)
        np.testing.assert_allclose(router.predict_cost(X)[:, arm], np.maximum(raw, 0.0), atol=1e-12)


def test_gaps_are_left_out_arm_by_arm() -> None:
    X, quality, _ = draw()
    quality[:20, 0] = quality[15:30, 1] = np.nan
    router = QualityRouter(Ridge()).fit(X, quality, propensity=np.full(60, 0.5))
    weight = np.where(np.isnan(quality).any(axis=1), 2.0, 1.0)
    for arm in range(3):
        seen = np.isfinite(quality[:, arm])
        peer = Ridge().fit(X[seen], quality[seen, arm], sample_weight=weight[seen])
        np.testing.assert_allclose(router.predict_quality(X)[:, arm], peer.predict(X))


def test_a_classifier_predicts_the_expected_grade_with_other_grades_in_each_arm() -> None:
    X, _, _ = draw()
    rng = np.random.default_rng(1)
    quality = np.column_stack([
        rng.integers(2, size=60), rng.choice([0.0, 0.5, 1.0], size=60), np.full(60, 0.25)
    ]).astype(float)  # fmt: skip
    router = QualityRouter(LogisticRegression()).fit(X, quality)
    predicted = router.predict_quality(X)
    binary = LogisticRegression().fit(X, quality[:, 0].astype(int))
    graded = LogisticRegression().fit(X, (2 * quality[:, 1]).astype(int))
    np.testing.assert_allclose(predicted[:, 0], binary.predict_proba(X)[:, 1])
    np.testing.assert_allclose(predicted[:, 1], graded.predict_proba(X) @ [0.0, 0.5, 1.0])
    assert (predicted[:, 2] == 0.25).all()
    assert [estimator.grades.tolist() for estimator in router.regressors_] == [[0, 1], [0, 0.5, 1], [0.25]]


def test_a_classifier_on_a_partial_log_knows_the_grades_that_were_seen() -> None:
    X, _, _ = draw()
    quality = np.tile([[0.0, 1.0], [1.0, 1.0], [np.nan, 0.5]], (20, 1))
    router = QualityRouter(RandomForestClassifier(5, random_state=0)).fit(X, quality, propensity=np.full(60, 0.5))
    assert [estimator.grades.tolist() for estimator in router.regressors_] == [[0, 1], [0.5, 1]]
    unweighted = QualityRouter(LogisticRegression()).fit(X, quality, sample_weight=np.arange(60) % 3 != 2)
    assert unweighted.regressors_[1].grades.tolist() == [1.0]


@pytest.mark.parametrize(
    "base",
    [
        make_pipeline(StandardScaler(), Ridge()),
        GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=2),
        RandomForestRegressor(3, random_state=0),
        make_pipeline(StandardScaler(), LogisticRegression()),
    ],
    ids=lambda base: type(base).__name__,
)
@pytest.mark.parametrize("routed", [False, True], ids=["plain", "metadata routing"])
def test_weights_reach_the_last_step(base: Any, routed: bool) -> None:
    X, quality, _ = draw()
    quality = (quality > 0.5).astype(float)
    weight = np.repeat([1.0, 30.0], 30)
    if routed and isinstance(base, GridSearchCV):
        with config_context(enable_metadata_routing=True):
            base = GridSearchCV(
                Ridge().set_fit_request(sample_weight=True).set_score_request(sample_weight=True), base.param_grid, cv=2
            )
    with config_context(enable_metadata_routing=routed):
        weighted = QualityRouter(base).fit(X, quality, sample_weight=weight).predict_quality(X)
    plain = QualityRouter(base).fit(X, quality).predict_quality(X)
    heavy = QualityRouter(base).fit(X[30:], quality[30:]).predict_quality(X)
    assert np.abs(weighted - heavy).mean() < np.abs(weighted - plain).mean()


@pytest.mark.parametrize(
    "base", [MultiOutputRegressor(Ridge()), MultiTaskLasso(alpha=0.01)], ids=["wrapped", "joint only"]
)
def test_regressors_that_only_fit_jointly_are_fitted_so(base: Any) -> None:
    X, quality, _ = draw()
    router = QualityRouter(base).fit(X, quality)
    np.testing.assert_allclose(router.predict_quality(X), clone(base).fit(X, quality).predict(X))
    quality[4, 2] = np.nan
    with pytest.raises(
        RouterInputError, match=r"is fitted to all arms at once, which needs .* 1 are not, the first in row 4, arm 2"
    ):
        QualityRouter(base).fit(X, quality, propensity=np.full(60, 0.5))


def test_one_regressor_for_all_arms_on_request() -> None:
    X, quality, cost = draw()
    base = KNeighborsRegressor(3)
    router = QualityRouter(base, base, multi_output=True).fit(X, quality, cost=cost)
    assert len(router.regressors_) == 1
    np.testing.assert_allclose(router.predict_quality(X), KNeighborsRegressor(3).fit(X, quality).predict(X))
    np.testing.assert_allclose(router.predict_cost(X), KNeighborsRegressor(3).fit(X, cost).predict(X))
    only = QualityRouter(base, multi_output=True).fit(X, pd.DataFrame({"only": quality[:, 0]}))
    assert only.predict_quality(X).shape == (60, 1)
    with pytest.raises(RouterInputError, match="LogisticRegression cannot be fitted to all arms at once"):
        QualityRouter(LogisticRegression(), multi_output=True).fit(X, quality)


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow"])
@pytest.mark.parametrize("gaps", [False, True], ids=["full", "partial"])
def test_frames_reach_a_column_transformer_by_name(kind: str, gaps: bool) -> None:
    X, quality, _ = draw()
    frame = pd.DataFrame(X, columns=["u", "v", "w"])
    mixed = frame.assign(domain=np.where(np.arange(60) % 2, "code", "prose"))

    def convert(table: pd.DataFrame) -> Any:
        return {
            "pandas": lambda: table,
            "polars": lambda: pl.from_pandas(table),
            "pyarrow": lambda: pa.Table.from_pandas(table),
        }[kind]()

    if gaps:
        quality[::3, 1] = np.nan
    propensity = np.full(60, 0.5)
    numbers = make_pipeline(ColumnTransformer([("scale", StandardScaler(), ["w", "u"])]), Ridge())
    plain, part = QualityRouter(make_pipeline(StandardScaler(), Ridge())), X[:, [2, 0]]
    expected = plain.fit(part, quality, propensity=propensity).predict_quality(part)
    router = QualityRouter(numbers).fit(convert(frame), quality, propensity=propensity)
    np.testing.assert_allclose(router.predict_quality(convert(frame)), expected)
    words = make_pipeline(
        ColumnTransformer(
            [("scale", StandardScaler(with_mean=False, with_std=False), ["u"]), ("code", OneHotEncoder(), ["domain"])]
        ),
        Ridge(),
    )
    router = QualityRouter(words).fit(convert(mixed), quality, propensity=propensity)
    coded = np.column_stack([X[:, 0], np.arange(60) % 2 == 1, np.arange(60) % 2 == 0])
    expected = QualityRouter(Ridge()).fit(coded, quality, propensity=propensity).predict_quality(coded)
    np.testing.assert_allclose(router.predict_quality(convert(mixed)), expected)


@pytest.mark.parametrize("build", [list, pd.Series, pl.Series, np.array, lambda texts: np.array(texts, dtype=object)])
def test_text_may_be_left_to_the_regressor(build: Any) -> None:
    texts = ["add one", "add two", "a poem", "one poem"] * 3
    quality = np.tile([[1.0, 0.0], [1.0, np.nan], [0.0, 1.0], [np.nan, 1.0]], (3, 1))
    router = QualityRouter(make_pipeline(TfidfVectorizer(), Ridge())).fit(
        build(texts), quality, propensity=np.full(12, 0.5)
    )
    assert router.predict(build(["add two", "a poem"])).tolist() == [0, 1]


def test_sparse_queries_stay_sparse_for_the_regressor() -> None:
    class Checks(Ridge):
        def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Checks:
            assert sparse.issparse(X)
            return super().fit(X, y, sample_weight)

    X, quality, _ = draw()
    quality[3, 0] = np.nan
    QualityRouter(Checks()).fit(sparse.coo_array(X), quality, propensity=np.full(60, 0.5)).predict(sparse.csc_array(X))


def test_costs_are_means_without_a_regressor_and_never_negative_with_one() -> None:
    X, quality, cost = draw()
    mean = QualityRouter().fit(X, quality, cost=cost).predict_cost(X)
    np.testing.assert_allclose(mean, np.tile(cost.mean(axis=0), (60, 1)))
    steep = QualityRouter(Ridge(), LinearRegression()).fit(
        [[0.0], [1.0]], [[0.0, 1.0]] * 2, cost=[[0.0, 1.0], [1.0, 1.0]]
    )
    np.testing.assert_allclose(steep.predict_cost([[-5.0]]), [[0.0, 1.0]], atol=1e-12)
    without = QualityRouter(Ridge(), Ridge()).fit(X, quality)
    assert without.cost_regressors_ == []


def test_utility_is_quality_less_weighted_cost() -> None:
    X, quality, cost = draw()
    for base in (None, Ridge()):
        router = QualityRouter(None, base, cost_weight=0.7).fit(X, quality, cost=cost)
        np.testing.assert_allclose(router.predict_utility(X), router.predict_quality(X) - 0.7 * router.predict_cost(X))


@pytest.mark.parametrize(
    ("router", "error", "message"),
    [
        (QualityRouter(Ridge), TypeError, r"regressor must be an estimator, got the class Ridge; write Ridge\(\)"),
        (QualityRouter(Ridge(), Ridge), TypeError, r"cost_regressor must be an estimator, got the class Ridge"),
        (QualityRouter(LinearSVC()), RouterInputError, "the classifier LinearSVC has no predict_proba"),
        (
            QualityRouter(Plain()),
            RouterInputError,
            "regressor Plain takes no sample_weight, which weighted or partly observed",
        ),
        (QualityRouter(Ridge(), Plain()), RouterInputError, "cost_regressor Plain takes no sample_weight"),
        (QualityRouter(make_pipeline(StandardScaler(), Plain())), RouterInputError, "takes no sample_weight"),
        (QualityRouter(LogisticRegression()), RouterInputError, "arm 0 has 60 different values; at most 32 grades"),
    ],
)
def test_regressors_that_cannot_serve_are_named(router: Any, error: type[Exception], message: str) -> None:
    X, quality, cost = draw()
    with pytest.raises(error, match=message):
        router.fit(X, quality, cost=cost, sample_weight=np.arange(60) + 1.0)


def test_a_regressor_without_weights_serves_where_none_are_needed() -> None:
    X, quality, _ = draw()
    np.testing.assert_allclose(QualityRouter(Plain()).fit(X, quality).predict_quality(X)[0], quality.mean(axis=0))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_queries_that_are_not_finite_are_refused_by_the_regressor(value: float) -> None:
    X, quality, _ = draw()
    router = QualityRouter().fit(X, quality)
    X[2, 1] = value
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        router.predict(X)
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        QualityRouter().fit(X, quality)
