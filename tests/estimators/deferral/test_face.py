"""The classifier's face of a deferral system: answers in, answers out, limits, logs, scores and metadata routing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn import config_context
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline as sklearn_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags

import defer
from defer import Budget, Share
from defer.estimators import MultiExpertDeferral, SingleStageDeferral, TwoStageDeferral, make_pipeline
from defer.exceptions import DeferWarning, RouterInputError


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


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((300, 2), int), r"300 of 300 answers of 'ann' are of type int, the first is 0, and y holds text such as 'no'"),
        (np.ones((300, 2), bool), r"300 of 300 answers of 'ann' are of type bool, .* answered, not whether it was right"),
        (np.full((300, 2), "nan"), r"300 of 300 answers of 'ann' are gaps written as text, the first is 'nan' in row 0"),
    ],
    ids=["codes", "right or wrong", "gaps as text"],
)  # fmt: skip
def test_answers_are_checked_after_the_fit_too(task: Any, system: Any, given: Any, message: str) -> None:
    X, y, _ = task
    for call in (
        lambda: system.predict(X, given),
        lambda: system.score(X, y, experts=given),
        lambda: system.outcome_log(X, y, given),
    ):
        with pytest.raises(RouterInputError, match=message):
            call()


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (lambda y: (y == "yes").astype(int), r"y holds numbers such as 0, and this system was fitted on text such as 'no'"),
        (lambda y: y == "yes", r"y holds truth values such as False, and this system was fitted on text such as 'no'"),
        (lambda y: np.where(np.arange(300) == 7, None, y), r"y has 1 of 300 labels missing, the first in row 7"),
        (lambda y: ["maybe"] * 300, r"y: none of the 300 labels is one that this system was fitted on or an expert gives, the "
         r"first is 'maybe'; the system knows \['no', 'yes'\]"),
        (lambda y: np.zeros((300, 3)), r"y must be the true labels, shape \(n,\), where experts= is given"),
    ],
    ids=["codes", "truth", "gap", "unknown", "table"],
)  # fmt: skip
def test_labels_are_checked_after_the_fit_too(task: Any, system: Any, label: Any, message: str) -> None:
    X, y, experts = task
    for call in (system.score, system.outcome_log):
        with pytest.raises(RouterInputError, match=message):
            call(X, label(y), experts=experts)


def test_labels_are_taken_in_the_forms_of_fit_and_one_that_is_unseen_counts(task: Any, system: Any) -> None:
    X, y, experts = task
    value = system.score(X, y, experts=experts)
    with pytest.warns(DataConversionWarning):
        assert system.score(X, y[:, None], experts=experts) == value
    assert system.score(X, pd.Series(y, dtype="category"), experts=experts) == value
    odd = experts.replace({"ann": {"no": "unsure"}})
    for call in (system.score, system.outcome_log, MultiExpertDeferral().fit):
        with pytest.warns(DeferWarning, match="answers of 'ann' are no class of y, the first is 'unsure'") as told:
            call(X, y, experts=odd)
        assert [warning.filename for warning in told] == [__file__]
    taken = np.asarray(system.predict(X)) != "own"
    # A label that fit never saw, and that the experts know.
    assert system.score(X, np.full(300, "unsure"), experts=np.full((300, 2), "unsure")) == taken.mean()


def test_a_routing_of_another_system_is_refused(task: Any, system: Any) -> None:
    X, y, experts = task
    other = MultiExpertDeferral().fit(X, y, experts=experts[["bob", "ann"]])
    with pytest.raises(
        RouterInputError,
        match=r"routing is over the arms \['own', 'bob', 'ann'\], and this system has \['own', 'ann', 'bob'\]",
    ):
        system.predict(X, experts, routing=other.route(X))


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


def test_propensities_fill_the_gaps_of_the_log(task: Any, system: Any) -> None:
    X, y, experts = task
    right = (experts.to_numpy() == y[:, None]).astype(float)
    # Whom to ask depended on what is right: asked shares alone would mislead.
    chance = np.where(right == 1, 0.8, 0.3)
    truth = defer.evaluate(system, system.outcome_log(X, y, experts)).estimate.value
    values, naive = [], []
    for seed in range(60):
        asked = np.random.default_rng(seed).random((300, 2)) < chance
        gapped = experts.where(asked)
        log = system.outcome_log(X, y, gapped, propensity=chance)
        values.append(defer.evaluate(system, log).estimate.value)
        shares = np.tile(asked.mean(axis=0), (300, 1))
        naive.append(defer.evaluate(system, system.outcome_log(X, y, gapped, propensity=shares)).estimate.value)
    spread = np.std(values, ddof=1) / np.sqrt(60)
    assert abs(np.mean(values) - truth) < 4.5 * spread + 1 / 300
    assert np.mean(naive) - truth > 4.5 * spread + 1 / 300
    table = np.asarray(log.quality)
    assert np.isfinite(table).all()
    odds = np.where(asked, 1 / chance, 0.0)
    # The mean over all queries is the weighted accuracy of the expert.
    np.testing.assert_allclose(table[:, 1:].mean(axis=0), (odds * right).sum(axis=0) / odds.sum(axis=0))
    np.testing.assert_array_equal(table[:, 0], system.predict_own(X) == y)


def test_propensities_of_a_log_are_checked_and_change_nothing_where_answers_are_complete(
    task: Any, system: Any
) -> None:
    X, y, experts = task
    np.testing.assert_array_equal(
        system.outcome_log(X, y, experts, propensity=np.full(300, 0.5)).quality,
        system.outcome_log(X, y, experts).quality,
    )
    for call in (system.outcome_log, system.score):
        with pytest.raises(RouterInputError, match=r"600 of 600 given answers have a value outside \(0, 1\]"):
            call(X, y, experts=experts, propensity=np.full(300, 2.0))
        with pytest.raises(RouterInputError, match="cost must have one row per query: X has 300 rows, cost has 299"):
            call(X, y, experts=experts, cost=np.ones((299, 2)))
    gone = experts.assign(bob=None)
    with pytest.raises(
        RouterInputError, match=r"1 of 2 experts have no answer, the first is 'bob': there is nothing to weight"
    ):
        system.outcome_log(X, y, gone, propensity=np.full(300, 0.5))


def test_a_score_takes_gaps_for_random_only_where_it_is_told(task: Any, system: Any) -> None:
    X, y, experts = task
    taken = system.predict(X)
    asked = np.random.default_rng(3).random((300, 2)) < 0.7
    asked[np.flatnonzero(taken == "bob")[0], 1] = False
    with pytest.raises(
        RouterInputError,
        match=r"queries go to an expert whose answer is missing, the first is row \d+ \(expert '(ann|bob)'\); pass propensity=, "
        r".* it is the share of its answers that are there",
    ):
        system.score(X, y, experts=experts.where(asked))
    shares = np.tile(asked.mean(axis=0), (300, 1))
    value = system.score(X, y, experts=experts.where(asked), propensity=shares)
    right = {"own": system.predict_own(X) == y, **{name: (experts[name] == y).to_numpy() for name in ("ann", "bob")}}
    odds = {"own": np.ones(300), "ann": asked[:, 0] / shares[0, 0], "bob": asked[:, 1] / shares[0, 1]}
    weight = np.array([odds[arm][row] for row, arm in enumerate(taken)])
    assert value == pytest.approx(np.average([right[arm][row] for row, arm in enumerate(taken)], weights=weight))


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
    with pytest.raises(RouterInputError, match="X has 300 rows, y has 299"):
        system.score(X, y[1:], experts=experts)
    with pytest.raises(RouterInputError, match="score: y holds labels, and this router defers"):
        system.score(X, y[:, None])
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


def test_a_pipeline_of_scikit_learn_hands_answers_to_predict(task: Any) -> None:
    X, y, experts = task
    with config_context(enable_metadata_routing=True):
        pipeline = sklearn_pipeline(StandardScaler(), SingleStageDeferral("ova")).fit(X, y, experts=experts)
        answers = pipeline.predict(X, experts=experts)
        routing = pipeline[-1].route(StandardScaler().fit_transform(X), limit=Share("ann", at_most=0.1), random_state=0)
        limited = pipeline.predict(X, experts=experts, routing=routing)
    assert (answers == y).mean() > 0.85
    assert (answers != limited).any()


def test_one_price_per_query_is_enough_for_one_expert(task: Any) -> None:
    X, y, experts = task
    price = np.linspace(0.0, 1.0, 300)
    table = np.column_stack([np.zeros(300), price])
    fitted = [
        SingleStageDeferral(cost_weight=0.1).fit(X, y, experts=experts["ann"], cost=cost) for cost in (price, table)
    ]
    np.testing.assert_array_equal(fitted[0].predict_utility(X), fitted[1].predict_utility(X))
    scores = [fitted[0].score(X, y, experts=experts["ann"], cost=cost) for cost in (price, table)]
    assert scores[0] == scores[1]


def test_what_has_no_weight_is_missing_in_the_words_of_answers(task: Any) -> None:
    X, y, experts = task
    partly = experts.copy()
    partly.loc[10:, "bob"] = None
    with pytest.raises(
        RouterInputError, match="1 of 2 experts have no answer in rows of positive weight, the first is 'bob'"
    ):
        SingleStageDeferral("ova").fit(X, y, experts=partly, sample_weight=np.arange(300) >= 10)
    with pytest.raises(RouterInputError, match=r"sample_weight must have shape \(300,\), got \(299,\)"):
        SingleStageDeferral("ova").fit(X, y, experts=experts, sample_weight=np.ones(299))


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
