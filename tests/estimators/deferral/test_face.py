"""The classifier's face of a deferral system: answers in, answers out, limits, logs, scores and metadata routing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn import config_context
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils import get_tags

import defer
from defer import Budget, Share
from defer.estimators import MultiExpertDeferral, SingleStageDeferral, TwoStageDeferral, make_pipeline
from defer.exceptions import RouterInputError


@pytest.fixture(scope="module")
def task() -> Any:
    """300 queries; own answers are good on one side of the first feature, the experts on either side of the second."""
    rng = np.random.default_rng(5)
    X = rng.normal(size=(300, 3))
    y = np.where(X[:, 0] + 0.5 * rng.normal(size=300) > 0, "yes", "no")
    other = np.where(y == "yes", "no", "yes")
    ann = np.where(rng.random(300) < np.where(X[:, 1] > 0, 0.97, 0.4), y, other)
    bob = np.where(rng.random(300) < np.where(X[:, 1] > 0, 0.4, 0.97), y, other)
    return X, y, pd.DataFrame({"ann": ann, "bob": bob})


@pytest.fixture(scope="module")
def system(task: Any) -> Any:
    X, y, experts = task
    return MultiExpertDeferral(tol=1e-8).fit(X, y, experts=experts)


def test_the_system_answers_with_whoever_is_taken(task: Any, system: Any) -> None:
    X, y, experts = task
    arms, own, answers = system.predict(X), system.predict_own(X), system.predict(X, experts)
    assert system.arms_.tolist() == system.classes_.tolist() == ["own", "ann", "bob"]
    assert system.expert_.tolist() == ["ann", "bob"]
    assert system.label_classes_.tolist() == ["no", "yes"]
    expected = [own[row] if arm == "own" else experts[arm][row] for row, arm in enumerate(arms)]
    assert answers.tolist() == expected
    assert (answers == y).mean() == system.score(X, y, experts=experts) > max((own == y).mean(), 0.85)
    np.testing.assert_array_equal(system.defer_mask(X), arms != "own")


def test_answers_of_experts_who_are_not_taken_may_be_missing(task: Any, system: Any) -> None:
    X, _, experts = task
    arms = system.predict(X)
    needed = experts.where(np.column_stack([arms == "ann", arms == "bob"]))
    np.testing.assert_array_equal(system.predict(X, needed), system.predict(X, experts))
    np.testing.assert_array_equal(system.predict(X, pl.from_pandas(needed)), system.predict(X, experts))
    row = int(np.flatnonzero(arms == "ann")[0])
    needed.loc[row, "ann"] = None
    with pytest.raises(
        RouterInputError,
        match=rf"1 of 300 queries go to an expert whose answer is missing, the first is row {row} \(expert 'ann'\)",
    ):
        system.predict(X, needed)


def test_columns_follow_by_name_and_others_are_refused(task: Any, system: Any) -> None:
    X, _, experts = task
    np.testing.assert_array_equal(system.predict(X, experts[["bob", "ann"]]), system.predict(X, experts))
    np.testing.assert_array_equal(system.predict(X, experts.to_numpy()), system.predict(X, experts))
    with pytest.raises(RouterInputError, match=r"lacking \['bob'\], not known \[\]"):
        system.predict(X, experts[["ann"]])
    with pytest.raises(RouterInputError, match=r"X has 299 rows, experts has shape \(300, 2\)"):
        system.predict(X[1:], experts)


@pytest.mark.parametrize(
    ("labels", "gap"),
    [
        (np.array([0, 1]), np.nan), (np.array([10, 20], dtype=np.int16), None), (np.array([False, True]), None),
        (np.array([0.0, 1.0]), np.nan), (np.array(["b", "alpha"]), None),
    ],
)  # fmt: skip
def test_answers_are_of_the_kind_of_the_labels(task: Any, labels: Any, gap: Any) -> None:
    X, y, experts = task
    target, answers = labels[(y == "yes").astype(int)], labels[(experts["ann"] == "yes").to_numpy().astype(int)]
    fitted = SingleStageDeferral().fit(X, target, experts=answers)
    table = answers.astype(object)
    table[~fitted.defer_mask(X)] = gap
    given = table.astype(float) if gap is np.nan else table
    predicted = fitted.predict(X, given)
    assert predicted.dtype == fitted.label_classes_.dtype == fitted.predict_own(X).dtype
    assert (predicted == target).mean() == fitted.score(X, target, experts=answers)


def test_an_answer_that_is_no_label_is_handed_on(task: Any, system: Any) -> None:
    X, _, experts = task
    odd = experts.replace("no", "unsure")
    assert set(system.predict(X, odd).tolist()) == {"yes", "no", "unsure"}


def test_a_routing_under_a_limit_can_be_answered(task: Any, system: Any) -> None:
    X, _, experts = task
    routing = system.route(X, limit=Share("ann", at_most=0.1), random_state=0)
    answers = system.predict(X, experts, routing=routing)
    own = system.predict_own(X)
    table = np.column_stack([own, experts])
    assert answers.tolist() == table[np.arange(300), routing.arm].tolist()
    with pytest.raises(RouterInputError, match="routing has 300 queries, and X 299"):
        system.predict(X[1:], experts[1:], routing=routing)


@pytest.mark.parametrize("rate", [0.0, 0.123, 0.25, 0.4])
def test_deferral_at_a_wanted_rate_is_exact(task: Any, rate: float) -> None:
    X, y, experts = task
    fitted = SingleStageDeferral("ova").fit(X, y, experts=experts["ann"])
    limit = Share("own", at_least=1 - rate)
    routing = fitted.route(X, limit=limit, random_state=1)
    assert routing.load[1] == pytest.approx(min(rate, fitted.defer_mask(X).mean()), abs=1e-12)
    drawn = [fitted.defer_mask(X, limit=limit, random_state=seed).mean() for seed in range(5)]
    assert max(drawn) - min(drawn) <= 1 / 300 + 1e-12
    gain = np.diff(fitted.predict_quality(X), axis=1)[:, 0]
    mask = fitted.defer_mask(X, limit=limit, random_state=1)
    assert mask.sum() == 0 or gain[mask].min() >= np.sort(gain)[::-1][mask.sum()] - 1e-12


def test_its_log_is_evaluated_like_any_other(task: Any, system: Any) -> None:
    X, y, experts = task
    log = system.outcome_log(X, y, experts, cost=np.tile([0.0, 0.2, 0.1], (300, 1)))
    assert log.arms == ("own", "ann", "bob")
    assert log.is_full_information
    np.testing.assert_array_equal(np.asarray(log.quality)[:, 1], (experts["ann"] == y).to_numpy())
    evaluation = defer.evaluate(system, log)
    assert evaluation.estimate.value == pytest.approx(system.score(X, y, experts=experts))
    assert evaluation.load["ann"] == pytest.approx((system.predict(X) == "ann").mean())
    two = system.outcome_log(
        X, y, experts, cost=np.tile([0.2, 0.1], (300, 1)), domain=np.where(X[:, 1] > 0, "up", "down")
    )
    np.testing.assert_array_equal(np.asarray(two.cost), np.asarray(log.cost))


def test_gaps_stay_gaps_of_the_log(task: Any, system: Any) -> None:
    X, y, experts = task
    gapped = experts.mask(np.random.default_rng(0).random((300, 2)) < 0.3)
    log = system.outcome_log(X, y, gapped)
    np.testing.assert_array_equal(np.isnan(np.asarray(log.quality)[:, 1:]), gapped.isna().to_numpy())


def test_scores_weigh_answers_prices_and_gaps(task: Any) -> None:
    X, y, experts = task
    cost = np.tile([0.0, 0.3, 0.3], (300, 1))
    fitted = MultiExpertDeferral(cost_weight=0.5).fit(X, y, experts=experts, cost=cost)
    taken = fitted.predict(X)
    right = (fitted.predict(X, experts) == y).astype(float)
    utility = right - 0.5 * 0.3 * (taken != "own")
    assert fitted.score(X, y, experts=experts, cost=cost) == pytest.approx(utility.mean())
    assert fitted.score(X, y, experts=experts, cost=cost[:, 1:]) == pytest.approx(utility.mean())
    weight = np.random.default_rng(1).random(300)
    assert fitted.score(X, y, experts=experts, cost=cost, sample_weight=weight) == pytest.approx(
        np.average(utility, weights=weight)
    )
    asked = np.random.default_rng(2).random((300, 2)) < 0.5
    seen = np.where(taken == "own", True, np.where(taken == "ann", asked[:, 0], asked[:, 1]))
    odds = np.where(taken == "own", 1.0, 2.0)
    value = fitted.score(X, y, experts=experts.where(asked), cost=cost, propensity=np.full((300, 2), 0.5))
    assert value == pytest.approx(np.average(utility[seen], weights=odds[seen]))


def test_labels_without_answers_cannot_be_scored(task: Any, system: Any) -> None:
    X, y, experts = task
    with pytest.raises(RouterInputError, match="score: y holds labels, and this router defers: pass experts="):
        system.score(X, y)
    with pytest.raises(RouterInputError, match=r"y must have shape \(300,\), got \(299,\)"):
        system.score(X, y[1:], experts=experts)
    quality = np.column_stack([system.predict_own(X) == y, (experts == y[:, None]).to_numpy()])
    assert system.score(X, quality) == pytest.approx(system.score(X, y, experts=experts))


def test_without_answers_it_is_a_router_and_forgets_that_it_was_more(task: Any) -> None:
    X, y, experts = task
    fitted = SingleStageDeferral().fit(X, y, experts=experts)
    fitted.fit(X, np.column_stack([(experts == y[:, None]).to_numpy(), np.ones(300)]).astype(float))
    assert fitted.arms_.tolist() == [0, 1, 2]
    assert not hasattr(fitted, "label_classes_")
    for call in (
        lambda: fitted.predict_own(X),
        lambda: fitted.predict(X, experts),
        lambda: fitted.outcome_log(X, y, experts),
    ):
        with pytest.raises(RouterInputError, match="was fitted without experts=, on a table of outcomes"):
            call()


@pytest.mark.parametrize(
    "call",
    [
        lambda router, X, experts: router.predict(X, experts), lambda router, X, _: router.predict_own(X),
        lambda router, X, _: router.defer_mask(X), lambda router, X, _: router.defer_mask(X, limit=Budget(1.0)),
    ],
)  # fmt: skip
def test_an_unfitted_system_says_so_and_so_does_one_whose_fit_failed(task: Any, call: Any) -> None:
    X, y, experts = task
    router = SingleStageDeferral()
    with pytest.raises(NotFittedError):
        call(router, X, experts)
    router.fit(X, y, experts=experts)
    with pytest.raises(RouterInputError, match="y holds one class"):
        router.fit(X, np.repeat("yes", 300), experts=experts)
    with pytest.raises(NotFittedError):
        call(router, X, experts)


@pytest.mark.parametrize(
    "router",
    [SingleStageDeferral("ova"), MultiExpertDeferral("softmax"), SingleStageDeferral("softmax", LogisticRegression())],
    ids=["single stage", "several experts", "classifier"],
)
def test_answers_travel_with_the_queries_through_cross_validation(task: Any, router: Any) -> None:
    X, y, experts = task
    with config_context(enable_metadata_routing=True):
        scores = cross_val_score(router, X, y, cv=3, params={"experts": experts}, error_score="raise")
        with_cost = cross_val_score(
            router,
            X,
            y,
            cv=3,
            params={"experts": experts.to_numpy(), "cost": np.full((300, 2), 0.1)},
            error_score="raise",
        )
        search = GridSearchCV(router, {"cost_weight": [0.0, 100.0]}, cv=3).fit(
            X, y, experts=experts, cost=np.full((300, 2), 0.1)
        )
    assert scores.min() > 0.8
    np.testing.assert_allclose(with_cost, scores)  # at cost_weight 0
    assert search.best_params_ == {"cost_weight": 0.0}
    assert search.best_estimator_.expert_.tolist() == ["ann", "bob"]


def test_texts_and_their_answers_go_through_make_pipeline() -> None:
    texts = [f"add {number} and {number}" for number in range(30)] + [f"write poem {number}" for number in range(30)]
    y = np.array(["sum", "verse"])[np.repeat([0, 1], 30)]
    y[::7] = "other"
    expert = pd.Series(np.where(y == "other", "other", "verse"), name="poet")
    system = make_pipeline(TfidfVectorizer(), SingleStageDeferral(C=10.0)).fit(texts, y, experts=expert)
    assert system.arms_.tolist() == ["own", "poet"]
    assert system.predict(["write poem 4", "add 1 and 1"]).tolist() == ["poet", "own"]
    assert system.predict(["write poem 4", "add 1 and 1"], ["verse", None]).tolist() == ["verse", "sum"]
    routing = system.route(texts, limit=Share("poet", at_most=0.2), random_state=0)
    assert routing.load[1] == pytest.approx(0.2)
    assert (system.predict(texts, expert, routing=routing) == y).mean() > 0.5


@pytest.mark.parametrize("kind", ["single stage", "two stages", "network"])
def test_a_saved_system_answers_as_before(task: Any, kind: str, tmp_path: Path) -> None:
    X, y, experts = task
    routers = {
        "single stage": SingleStageDeferral("softmax"),
        "two stages": TwoStageDeferral(FrozenEstimator(LogisticRegression().fit(X, y))),
        "network": MultiExpertDeferral(estimator="mlp", max_epochs=3, random_state=0),
    }
    system = routers[kind].fit(X, y, experts=experts)
    defer.save(system, tmp_path / "policy")
    loaded = defer.load(tmp_path / "policy")
    np.testing.assert_array_equal(loaded.predict(X, experts), system.predict(X, experts))
    np.testing.assert_array_equal(loaded.predict_quality(X), system.predict_quality(X))


def test_tags_and_repr_are_those_of_an_ordinary_estimator() -> None:
    assert get_tags(TwoStageDeferral()).input_tags.sparse
    assert get_tags(SingleStageDeferral(estimator="mlp")).input_tags.sparse
    assert repr(SingleStageDeferral("ova", C=3.0)) == "SingleStageDeferral(C=3.0, surrogate='ova')"
