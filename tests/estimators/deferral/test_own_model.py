"""The base classifier: what may be one, what it reads, its folds and seeds, and weights for models that take none."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold, KFold
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from defer.estimators import (
    ConfidenceDeferral,
    LearnedTriage,
    MultiExpertDeferral,
    PostHocDeferral,
    SingleStageDeferral,
    TwoStageDeferral,
)
from defer.estimators.deferral.own_model import fit_model, take_sparse
from defer.estimators.deferral.parameter_checks import seed_of
from defer.estimators.inner_model import last_step, takes_weight
from defer.exceptions import FallbackWarning, RouterInputError


@pytest.fixture(scope="module")
def problem() -> Any:
    """Queries of two kinds of scale, labels, one expert, and the same expert with gaps."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(160, 3)) * [1.0, 50.0, 0.1]
    y = np.where(X[:, 0] + rng.normal(size=160) > 0, "yes", "no")
    expert = np.where(rng.random(160) < 0.8, y, np.where(y == "yes", "no", "yes"))
    return X, y, expert, np.where(rng.random(160) < 0.7, expert, None)


TEXTS = [f"{'good' if row % 2 else 'bad'} word {row % 7}" for row in range(160)]
LABELS = np.where(np.arange(160) % 2, "yes", "no")
HALF_RIGHT = np.where(np.arange(160) % 4 < 2, "yes", "no")


@pytest.mark.parametrize(
    ("router", "message"),
    [
        (PostHocDeferral(base="lr"), r"PostHocDeferral: base must be a classifier such as LogisticRegression\(\), got 'lr'"),
        (PostHocDeferral(expert_model="svm"), r"expert_model must be a classifier such as LogisticRegression\(\), got 'svm'"),
        (PostHocDeferral("regression", expert_model="svm"), r"expert_model must be a regressor such as Ridge\(\), got 'svm'"),
        (PostHocDeferral("regression", expert_model=TfidfVectorizer()), "expert_model TfidfVectorizer has no predict"),
        (ConfidenceDeferral(3), r"ConfidenceDeferral: base must be a classifier such as LogisticRegression\(\), got 3"),
        (LearnedTriage(base="lr"), "LearnedTriage: base must be a classifier such as"),
        (LearnedTriage(triage_model="lr"), "LearnedTriage: triage_model must be a classifier such as"),
        (PostHocDeferral(base=FrozenEstimator(LogisticRegression())), "base: the frozen LogisticRegression is not fitted"),
        (PostHocDeferral("partial", expert_model=Ridge()), r"method='partial' has .* expert_model=Ridge\(\) would not be used"),
        (PostHocDeferral(missing="drop"), "PostHocDeferral: missing must be one of 'at_random', 'impute', got 'drop'"),
        (PostHocDeferral(imputation_model=Ridge()), "imputation_model Ridge has no predict_proba"),
        (PostHocDeferral(tol=-1.0), r"PostHocDeferral: tol must be a finite number > 0, got -1\.0"),
        (PostHocDeferral(max_iter=0), "PostHocDeferral: max_iter must be an integer >= 1, got 0"),
        (ConfidenceDeferral(cv=1), "ConfidenceDeferral: cv must be an integer >= 2, .* got 1"),
        (LearnedTriage(cv="3"), "LearnedTriage: cv must be an integer >= 2, .* got '3'"),
    ],
)  # fmt: skip
def test_parameters_are_checked_whether_they_are_used_or_not(router: Any, message: str, problem: Any) -> None:
    X, y, expert, _ = problem
    with pytest.raises(RouterInputError, match=message):
        router.fit(X, y, experts=expert)


def test_a_margin_for_two_arms_is_refused_for_more(problem: Any) -> None:
    X, y, expert, _ = problem
    with pytest.raises(
        RouterInputError, match="margin='hinge' tells two arms apart, and there are 3, which the softmax"
    ):
        PostHocDeferral("partial", margin="hinge").fit(X, y, experts=np.column_stack([expert, expert[::-1]]))


@pytest.mark.parametrize("router", [PostHocDeferral(), ConfidenceDeferral(), LearnedTriage()])
def test_queries_that_a_base_cannot_read_are_explained(router: Any, problem: Any) -> None:
    X, _, _, _ = problem
    message = (
        r"the model LogisticRegression cannot read these queries, which are no table of numbers \(could not convert string.*make "
        r"it a pipeline that begins with a transformer, as in make_pipeline\(TfidfVectorizer\(\), LogisticRegression\(\)\)"
    )
    for queries in (TEXTS, pd.DataFrame({"text": TEXTS, "number": X[:, 0]})):
        with pytest.raises(RouterInputError, match=message):
            router.fit(queries, LABELS, experts=HALF_RIGHT)
    base = FrozenEstimator(LogisticRegression().fit(X, LABELS))
    with pytest.raises(RouterInputError, match=r"the model LogisticRegression cannot read these queries") as caught:
        PostHocDeferral(base=base).fit(TEXTS, LABELS, experts=HALF_RIGHT)
    assert len(str(caught.value)) < 400  # without the texts themselves
    with pytest.raises(ValueError, match=r"3 features, but LogisticRegression is expecting|expecting 3 features"):
        PostHocDeferral(base=base).fit(X[:, :2], LABELS, experts=HALF_RIGHT)


def test_two_stages_and_features_of_text_say_what_to_do(problem: Any) -> None:
    X, _, _, _ = problem
    predictor = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, LABELS)
    for given in (predictor, LogisticRegression().fit(X, LABELS)):
        with pytest.raises(
            RouterInputError,
            match=r"TwoStageDeferral needs queries as a table .*; the predictor is asked for the same table",
        ):
            TwoStageDeferral(given).fit(TEXTS, LABELS, experts=HALF_RIGHT)
    base = make_pipeline(TfidfVectorizer(), LogisticRegression())
    with pytest.raises(
        RouterInputError, match=r"LearnedTriage\(features='both'\) .*, or take features='scores', for which"
    ):
        LearnedTriage(base=base).fit(TEXTS, LABELS, experts=HALF_RIGHT)
    scored = LearnedTriage(base=base, features="scores", random_state=0).fit(TEXTS, LABELS, experts=HALF_RIGHT)
    assert scored.predict_own(TEXTS[:2]).tolist() == ["no", "yes"]


def test_labels_that_a_frozen_base_has_too_many_are_told_once_and_where_fit_was_called(problem: Any) -> None:
    X, y, expert, _ = problem
    base = FrozenEstimator(LogisticRegression(max_iter=1000).fit(X, np.where(X[:, 2] > 0.1, "maybe", y)))
    for router in (PostHocDeferral(base=base), LearnedTriage(base=base), ConfidenceDeferral(base, calibrated=True)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            router.fit(X, y, experts=expert)
        assert [warning.category for warning in caught] == [FallbackWarning]
        assert caught[0].filename == __file__


def test_folds_by_a_splitter_are_those_of_its_list(problem: Any) -> None:
    X, y, expert, _ = problem
    folds = KFold(4, shuffle=True, random_state=3)
    for make in (PostHocDeferral, LearnedTriage):
        one, other = (
            make(cv=cv, random_state=0).fit(X, y, experts=expert).predict_quality(X)
            for cv in (folds, list(folds.split(X)))
        )
        assert one.tobytes() == other.tobytes()
    text = PostHocDeferral(base=make_pipeline(TfidfVectorizer(), LogisticRegression()), cv=folds)
    assert text.fit(TEXTS, LABELS, experts=HALF_RIGHT).predict_own(TEXTS[:2]).tolist() == ["no", "yes"]


def test_folds_that_can_be_read_once_are_refused(problem: Any) -> None:
    X, y, expert, _ = problem
    for make in (PostHocDeferral, LearnedTriage, ConfidenceDeferral):
        splits = GroupKFold(4).split(X, y, np.arange(160) // 2)
        with pytest.raises(
            RouterInputError,
            match=rf"{make.__name__}: cv is a generator, which can be read once, .* pass list\(\.\.\.\) of it",
        ):
            make(cv=splits).fit(X, y, experts=expert)


@pytest.mark.parametrize(
    "make",
    [
        PostHocDeferral,
        LearnedTriage,
        lambda **o: ConfidenceDeferral(calibrated=True, **o),
        lambda **o: MultiExpertDeferral(missing="impute", **o),
        lambda **o: PostHocDeferral(missing="impute", **o),
    ],
)
def test_every_kind_of_random_state_is_taken_and_repeats(make: Any, problem: Any) -> None:
    X, y, _, gaps = problem
    for seeded in (lambda: 3, lambda: np.random.RandomState(3), lambda: np.random.default_rng(3)):
        one, other = (make(random_state=seeded()).fit(X, y, experts=gaps).predict_quality(X) for _ in range(2))
        assert one.tobytes() == other.tobytes()


def test_seeds() -> None:
    rng = np.random.default_rng(0)
    assert seed_of(np.int64(7)) == 7
    assert seed_of(rng) != seed_of(rng)  # it moves on
    assert isinstance(seed_of(None), int)


@pytest.mark.parametrize("surrogate", ["softmax", "ova"])
def test_a_pipeline_learns_scores_with_the_weights_at_its_last_step(surrogate: str, problem: Any) -> None:
    X, y, _, gaps = problem
    options: dict[str, Any] = {"C": 1e6, "tol": 1e-10, "max_iter": 5000}
    base = make_pipeline(StandardScaler(), LogisticRegression(**options))
    weight = np.random.default_rng(1).uniform(0.5, 2.0, size=160)
    pipeline, linear = (
        SingleStageDeferral(surrogate, estimator, **given).fit(X, y, experts=gaps, sample_weight=weight)
        for estimator, given in ((base, {}), ("linear", options))
    )
    # Almost without a penalty the scale of the features does not matter.
    np.testing.assert_allclose(pipeline.predict_quality(X), linear.predict_quality(X), atol=5e-3)
    with pytest.raises(RouterInputError, match="the classifier KNeighborsClassifier takes no sample_weight"):
        SingleStageDeferral(surrogate, make_pipeline(StandardScaler(), KNeighborsClassifier())).fit(X, y, experts=gaps)


def test_one_weight_for_all_is_no_weight_for_a_model_that_takes_none(problem: Any) -> None:
    X, y, expert, gaps = problem
    asked = np.array([answer is not None for answer in gaps])
    for method, model in (("plug_in", KNeighborsClassifier(7)), ("regression", KNeighborsRegressor(7))):
        router = PostHocDeferral(method, expert_model=model, features="queries", random_state=0).fit(X, y, experts=gaps)
        peer = type(model)(7).fit(X[asked], (expert == y)[asked].astype(int))
        expected = peer.predict(X) if method == "regression" else peer.predict_proba(X)[:, 1]
        np.testing.assert_allclose(router.predict_quality(X)[:, 1], expected)
    with pytest.raises(RouterInputError, match="the model KNeighborsClassifier takes no sample_weight"):
        fit_model(KNeighborsClassifier(), X, y, np.arange(160.0))
    halved = fit_model(
        Ridge(), X, expert == y, np.full(160, 0.5)
    )  # where a weight can be told it is: the penalty weighs more
    np.testing.assert_allclose(halved.coef_, Ridge(alpha=2.0).fit(X, expert == y).coef_)


def test_what_a_model_takes_is_asked_of_its_last_step() -> None:
    pipeline = make_pipeline(StandardScaler(), KNeighborsClassifier())
    assert isinstance(last_step(pipeline), KNeighborsClassifier)
    assert not takes_weight(pipeline)
    assert takes_weight(make_pipeline(StandardScaler(), Ridge()))
    assert take_sparse(None, "lr", LogisticRegression, LogisticRegression())


class Fixed(ClassifierMixin, BaseEstimator):
    """A finished model behind the face of one that is fitted: it answers in labels of its own, in an order of its own."""

    classes_ = np.array(["yes", "maybe", "no"])

    def fit(self, X: Any, y: Any) -> Fixed:
        assert set(np.unique(y)) <= {"no", "yes"}  # it is told labels, and no codes
        return self

    def predict_proba(self, X: Any) -> Any:
        return np.column_stack([X[:, 0] > 0, np.zeros(len(X)), X[:, 0] <= 0]).astype(float)


@pytest.mark.parametrize("make", [PostHocDeferral, LearnedTriage, ConfidenceDeferral])
def test_a_base_that_answers_in_labels_of_its_own_is_read_by_name(make: Any) -> None:
    X = np.linspace(-1.0, 1.0, 40)[:, None]
    y = np.where(X[:, 0] > 0, "yes", "no")
    expert = np.where(np.arange(40) % 3 == 0, "yes", "no")
    router = make(base=Fixed(), random_state=0).fit(X, y, experts=expert)
    assert router.predict_own(X).tolist() == y.tolist()
