"""Queries that belong together: no model judges an answer to a query whose twin it has seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, KFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline as sklearn_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from defer.estimators import (
    ConfidenceDeferral,
    LearnedTriage,
    PostHocDeferral,
    SingleStageDeferral,
    TunedRouter,
    TwoStageDeferral,
    make_pipeline,
)
from defer.estimators.deferral.panel_tables import group_codes
from defer.exceptions import RouterInputError
from defer.portfolios.limits import Share


@pytest.fixture(scope="module")
def twins() -> Any:
    """250 queries, four times each, whose labels are coins: the nearest neighbour knows those that it has seen."""
    rng = np.random.default_rng(0)
    X, y = np.repeat(rng.normal(size=(250, 3)), 4, axis=0), np.repeat(rng.integers(2, size=250), 4)
    return X, y, np.where(rng.random(1000) < 0.7, y, 1 - y), np.repeat(np.arange(250), 4)


NEAREST = KNeighborsClassifier(1)
CROSS_FITTING = {
    "regression": PostHocDeferral("regression", NEAREST, features="queries", random_state=0),
    "partial": PostHocDeferral("partial", NEAREST, features="queries", random_state=0),
    "confidence": ConfidenceDeferral(NEAREST, calibrated=True, random_state=0),
    "triage": LearnedTriage(0.5, NEAREST, features="queries", n_rounds=1, random_state=0),
    "splitter": PostHocDeferral("regression", NEAREST, features="queries", cv=GroupKFold(4)),
    "pipeline": make_pipeline(
        StandardScaler(), PostHocDeferral("regression", NEAREST, features="queries", random_state=0)
    ),
    "tuned": TunedRouter(PostHocDeferral("regression", NEAREST, features="queries", random_state=0)),
    "tuned for a share": TunedRouter(
        make_pipeline(StandardScaler(), PostHocDeferral("regression", NEAREST, features="queries", random_state=0)),
        Share("own", at_least=0.1),
    ),
}


@pytest.mark.parametrize("name", CROSS_FITTING)
def test_own_quality_is_that_of_groups_that_were_not_seen(name: str, twins: Any) -> None:
    X, y, experts, groups = twins
    # A coin on 250 queries: five standard errors are .16.  With a twin in another fold own is always right.
    quality = clone(CROSS_FITTING[name]).fit(X, y, experts=experts, groups=groups).predict_quality(X)[:, 0]
    assert quality.mean() == pytest.approx(0.5, abs=0.16)
    if name not in ("splitter", "tuned for a share"):
        assert clone(CROSS_FITTING[name]).fit(X, y, experts=experts).predict_quality(X)[:, 0].mean() > 0.8


SEEN: list[np.ndarray] = []


class Witness(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Remembers the first column of the queries that it is fitted on."""

    def fit(self, X: Any, y: Any) -> Witness:
        SEEN.append(np.asarray(X)[:, 0].astype(int))
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        return np.full((len(X), len(self.classes_)), 1.0 / len(self.classes_))


@pytest.mark.parametrize(
    "router",
    [
        PostHocDeferral("regression", Witness()), LearnedTriage(0.5, Witness(), n_rounds=1),
        TunedRouter(PostHocDeferral("regression", Witness(), cv=3), Share("own", at_least=0.1), cv=4),
        TunedRouter(
            make_pipeline(FunctionTransformer(), PostHocDeferral("regression", Witness(), cv=3)), Share("own", at_least=0.1)
        ),
    ],
    ids=["post hoc", "triage", "tuned", "tuned pipeline"],
)  # fmt: skip
@pytest.mark.parametrize("names", [np.arange(60) // 5, np.array([f"ward {row // 5}" for row in range(60)])])
def test_no_group_is_cut(router: Any, names: Any) -> None:
    rng = np.random.default_rng(1)
    X, y = np.column_stack([np.arange(60), rng.normal(size=60)]), rng.integers(2, size=60)
    SEEN.clear()
    router.fit(X, y, experts=rng.integers(2, size=60), groups=names)
    assert len(SEEN) >= 6
    assert min(map(len, SEEN)) < 60
    for rows in SEEN:
        assert len(rows) == 5 * len(np.unique(rows // 5))


def test_groups_of_one_are_no_groups_and_do_not_depend_on_their_names(twins: Any) -> None:
    X, y, experts, groups = (part[:200] for part in twins)
    router = PostHocDeferral("regression", random_state=0)
    plain = clone(router).fit(X, y, experts=experts).predict_quality(X)
    np.testing.assert_array_equal(
        clone(router).fit(X, y, experts=experts, groups=np.arange(200)).predict_quality(X), plain
    )
    named = [f"{code:03d}" for code in groups]
    by_code, by_name = (clone(router).fit(X, y, experts=experts, groups=given) for given in (groups, named))
    np.testing.assert_array_equal(by_code.predict_quality(X), by_name.predict_quality(X))
    assert (by_code.predict_quality(X) != plain).any()


def test_estimators_that_do_not_cross_fit_take_groups_and_do_not_need_them(twins: Any) -> None:
    X, y, experts, groups = twins
    predictor = FrozenEstimator(LogisticRegression().fit(X, y))
    for router in (SingleStageDeferral(), TwoStageDeferral(predictor), ConfidenceDeferral()):
        with_groups, without = (clone(router).fit(X, y, experts=experts, **given) for given in ({"groups": groups}, {}))
        np.testing.assert_array_equal(with_groups.predict_quality(X), without.predict_quality(X))
    PostHocDeferral().fit(X, np.column_stack([y, experts == y]).astype(float), groups=groups)


def test_equal_texts_are_kept_together_where_no_groups_are_given() -> None:
    rng = np.random.default_rng(2)
    texts = [f"query {row}" for row in np.repeat(np.arange(150), 4)]
    y = np.repeat(rng.integers(2, size=150), 4)
    experts = np.where(rng.random(600) < 0.7, y, 1 - y)
    words = CountVectorizer(token_pattern=r"\S+")
    inside = PostHocDeferral("regression", sklearn_pipeline(words, NEAREST), random_state=0)
    outside = make_pipeline(words, PostHocDeferral("regression", NEAREST, random_state=0))
    for router in (inside, outside, TunedRouter(outside, Share("own", at_least=0.1))):
        quality = router.fit(texts, y, experts=experts).predict_quality(texts)[:, 0]
        # Six standard errors of a coin on 150 queries are .24.
        assert quality.mean() == pytest.approx(0.5, abs=0.24)


def test_a_search_hands_groups_on(twins: Any) -> None:
    X, y, experts, groups = twins
    router = PostHocDeferral("regression", NEAREST, features="queries", random_state=0)
    with config_context(enable_metadata_routing=True):
        scores = cross_val_score(
            make_pipeline(StandardScaler(), router), X, y, cv=GroupKFold(3), error_score="raise",
            params={"experts": experts, "groups": groups},
        )  # fmt: skip
    # Own is a coin and the expert right at .7; who takes own for perfect never asks.
    assert scores.mean() > 0.62


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (np.zeros(999), r"groups must hold one group for each of the 1000 rows, got shape \(999,\)"),
        (np.where(np.arange(1000) < 2, np.nan, 1.0), "groups: 2 of 1000 rows have no group, the first is row 0"),
        (np.zeros(1000), "cross-fitting in cv=5 folds needs 2 groups of queries, and all 1000 are in one"),
    ],
)
def test_groups_that_cannot_be_used(groups: Any, message: str, twins: Any) -> None:
    X, y, experts, _ = twins
    with pytest.raises(RouterInputError, match=message):
        PostHocDeferral().fit(X, y, experts=experts, groups=groups)
    if "folds" not in message:
        with pytest.raises(RouterInputError, match=message):
            SingleStageDeferral().fit(X, np.column_stack([y, 1 - y]), groups=groups)
        with pytest.raises(RouterInputError, match=message):
            TunedRouter(SingleStageDeferral()).fit(X, y, experts=experts, groups=groups)


def test_a_list_of_splits_cannot_follow_into_the_parts_of_a_fold(twins: Any) -> None:
    X, y, experts, groups = twins
    splits = list(GroupKFold(5).split(X, y, groups))
    router = PostHocDeferral(cv=splits)
    router.fit(X, y, experts=experts)
    tuned = TunedRouter(router, Share("own", at_least=0.8))
    with pytest.raises(
        RouterInputError,
        match=r"cv is a list of splits of other queries than the 800 of this fit, as within TunedRouter or a search, .* give cv= a "
        "number or a splitter, and groups= to fit",
    ):
        tuned.fit(X, y, experts=experts, cost=np.ones((1000, 1)))
    tuned.set_params(router__cv=KFold(5)).fit(X, y, experts=experts)


def test_without_answers_the_folds_of_a_triage_model_keep_groups() -> None:
    rng = np.random.default_rng(3)
    X, quality = np.column_stack([np.arange(60), rng.normal(size=60)]), rng.integers(2, size=(60, 2)).astype(float)
    cut = []
    for given in ({}, {"groups": np.arange(60) // 5}):
        SEEN.clear()
        LearnedTriage(0.5, triage_model=Witness(), random_state=0).fit(X, quality, **given)
        assert min(map(len, SEEN)) < 60
        cut.append(sum(len(rows) < 5 * len(np.unique(rows // 5)) for rows in SEEN))
    assert cut[0] > 0
    assert cut[1] == 0


def test_groups_of_several_kinds_have_no_order_and_need_none() -> None:
    assert group_codes(np.array(["b", 1, "b", 2], dtype=object), n=4).tolist() == [0, 1, 0, 2]
    assert group_codes(["b", "a", "b"], n=3).tolist() == [1, 0, 1]
