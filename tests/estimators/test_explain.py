"""Explanations say what the router does, at every price, with uncertainty that holds what it says."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.sparse import csr_array
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from defer import Budget, OutcomeLog, Share, make_pipeline
from defer.estimators import (
    KNNRouter,
    PostHocDeferral,
    QualityRouter,
    RandomMixture,
    SessionRouter,
    SingleArm,
    TunedRouter,
)
from defer.estimators.explain import Explanation, explain
from defer.estimators.local_outcomes import Comparison, local_outcomes, similarities
from defer.exceptions import InfeasibleLimitError, RouterInputError

WORDS = ("tree", "river", "stone", "house")


@pytest.fixture
def parts(full_log: OutcomeLog) -> tuple[OutcomeLog, OutcomeLog]:
    return full_log.select(slice(0, 120)), full_log.select(slice(120, None))


def fitted(kind: str, log: OutcomeLog) -> Any:
    routers = {
        "linear": QualityRouter(Ridge(), Ridge(), cost_weight=8.0),
        "pipeline": make_pipeline(StandardScaler(), QualityRouter(cost_weight=8.0)),
        "neighbors": make_pipeline(StandardScaler(), KNNRouter(15, metric="euclidean", cost_weight=3.0)),
        "tuned": TunedRouter(make_pipeline(StandardScaler(), QualityRouter()), limit=Budget(mean_cost=0.006)),
        "share": TunedRouter(QualityRouter(), limit=Share("large", at_most=0.2)),
        "piped tuned": make_pipeline(StandardScaler(), TunedRouter(QualityRouter(), limit=Budget(mean_cost=0.006))),
        "deferral": PostHocDeferral(cost_weight=2.0),
    }
    return routers[kind].fit(log.X, log.quality, cost=log.cost)


KINDS = ("linear", "pipeline", "neighbors", "tuned", "share", "piped tuned", "deferral")


@pytest.mark.parametrize("kind", KINDS)
def test_an_explanation_is_what_the_router_does(kind: str, parts: tuple[OutcomeLog, OutcomeLog]) -> None:
    train, test = parts
    router = fitted(kind, train)
    for row in range(12):
        query = test.X[row]
        found = explain(router, query)
        routing = router.route([query])
        assert found.label == router.predict([query])[0]
        assert found.quality.tolist() == routing.predicted_quality[0].tolist()
        assert found.cost.tolist() == routing.predicted_cost[0].tolist()
        assert found.price == router.cost_weight
        assert {found.arm, *found.fallbacks} == set(range(3))
        assert found.follows_price
        assert found.interval.low <= found.price < found.interval.high


@pytest.mark.parametrize("kind", ["linear", "pipeline", "neighbors"])
def test_the_decision_flips_exactly_where_it_is_said(kind: str, parts: tuple[OutcomeLog, OutcomeLog]) -> None:
    train, test = parts
    router, flips = fitted(kind, train), 0
    for query in test.X[:20]:
        found = explain(router, query)
        for part in found.intervals:
            for price in (part.low * (1 + 1e-9), part.high * (1 - 1e-9)):
                if math.isfinite(price):
                    last = router.steps[-1][1] if hasattr(router, "steps") else router
                    old, last.cost_weight = last.cost_weight, price
                    assert router.predict([query])[0] == found.arms[part.arm]
                    last.cost_weight = old
                    flips += 1
        if found.flip_above is not None:
            assert found.flip_above.low == found.interval.high
            assert found.cost[found.flip_above.arm] < found.cost[found.interval.arm]
        if found.flip_below is not None:
            assert found.flip_below.high == found.interval.low
    assert flips > 40


def test_a_share_is_explained_with_its_bonus(parts: tuple[OutcomeLog, OutcomeLog]) -> None:
    train, test = parts
    router = fitted("share", train)
    found = [explain(router, query) for query in test.X[:40]]
    plain = QualityRouter().fit(train.X, train.quality, cost=train.cost).predict(test.X[:40])
    assert any(one.label != other for one, other in zip(found, plain, strict=True))
    assert all(one.intervals[0].arm == one.arm for one in found)


def test_a_limit_decides_a_batch_of_one(parts: tuple[OutcomeLog, OutcomeLog]) -> None:
    train, test = parts
    router = RandomMixture().fit(train.X, train.quality, cost=train.cost)
    middle = float(router.mean_cost_[[0, 2]].mean())
    found = explain(router, test.X[0], limit=Budget(mean_cost=middle))
    assert found.probability.max() < 1.0
    assert any("the arm is drawn" in note for note in found.notes)
    assert found.probability @ found.cost == pytest.approx(middle)
    assert found.price > 0
    with pytest.raises(InfeasibleLimitError):
        explain(router, test.X[0], limit=Budget(mean_cost=0.0))


def test_a_rule_of_its_own_is_said(parts: tuple[OutcomeLog, OutcomeLog]) -> None:
    train, _ = parts
    found = explain(SingleArm("small").fit(train.X, train.quality, cost=train.cost), train.X[0])
    assert (found.label, found.follows_price) == ("small", False)
    assert "a rule of its own" in found.notes[0]


def test_local_outcomes_are_those_of_the_nearest(parts: tuple[OutcomeLog, OutcomeLog]) -> None:
    train, test = parts
    found = explain(fitted("neighbors", train), test.X[0], log=test, n_neighbors=3, n_local=10)
    assert found.similarity == "distance"
    assert found.neighbors[0].row == 0
    assert found.neighbors[0].similarity == 1.0
    scaled = StandardScaler().fit(train.X).transform(test.X)
    order = np.argsort(np.linalg.norm(scaled - scaled[0], axis=1), kind="stable")
    assert [near.row for near in found.neighbors] == order[:3].tolist()
    near = np.asarray(test.quality)[order[:10]]
    assert found.local_quality is not None
    assert found.local_quality.mean.tolist() == pytest.approx(near.mean(axis=0).tolist())
    assert found.local_quality.spread.tolist() == pytest.approx(near.std(axis=0, ddof=1).tolist())
    widened = np.vstack([near, np.zeros(3), np.ones(3)])
    assert found.local_quality.error.tolist() == pytest.approx((widened.std(axis=0, ddof=1) / math.sqrt(12)).tolist())
    assert found.local_cost is not None
    assert found.local_cost.mean.tolist() == pytest.approx(np.asarray(test.cost)[order[:10]].mean(axis=0).tolist())


def test_the_interval_covers_at_its_level() -> None:
    """Split conformal over 1,500 queries at 80%: more than six standard errors (of log and query draws) off is below 1e-8."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3600, 2))
    quality = 5 + X[:, :1] + rng.normal(size=(3600, 2))
    router = QualityRouter().fit(X[:100], quality[:100])
    logged = router.predict_quality(X[100:2100])
    found = [
        local_outcomes(quality[100:2100], logged, here, np.arange(2000), n_local=5, level=0.8)
        for here in router.predict_quality(X[2100:2102])
    ]
    reach = (found[0].high - found[0].low) / 2
    inside = np.abs(quality[2100:] - router.predict_quality(X[2100:])) <= reach
    error = math.sqrt(0.16 / 1500 + 0.16 / 2000)
    assert np.abs(inside.mean(axis=0) - 0.8).max() < 6 * error
    residual = np.sort(np.abs(quality[100:2100] - logged), axis=0)
    assert reach.tolist() == pytest.approx(residual[1600].tolist())  # ceil(2001 * 0.8) = 1601st


def test_a_short_log_has_no_finite_interval_and_one_outcome_no_spread() -> None:
    found = local_outcomes(np.array([[0.5]]), np.array([[0.4]]), np.array([0.4]), np.arange(1), n_local=5, level=0.9)
    assert (found.low[0], found.high[0]) == (-np.inf, np.inf)
    assert np.isnan([found.error[0], found.spread[0]]).all()


def test_similarity_by_kind_of_features() -> None:
    X = np.array([[1.0, 100.0], [2.0, 300.0], [np.nan, 300.0]])
    close, name = similarities(X, X[1:2], metric=None)
    assert name == "distance in units of the spread"
    assert close[0] == pytest.approx(1 / (1 + math.hypot(2.0, 200 / np.std([100, 300, 300]))))
    assert close.argmax() == 1
    assert similarities(csr_array(X[:2]), csr_array(X[:1]), metric=None)[1] == "cosine"
    close, name = similarities(["a tree", "river", "漢字"], ["tree"], metric=None)
    assert name == "cosine of TF-IDF"
    assert close.argmax() == 0
    assert similarities([" ", ""], ["tree"], metric=None)[0].tolist() == [0.0, 0.0]


def test_frames_compare_their_numbers() -> None:
    frame = pd.DataFrame({"size": [1.0, 5.0, 6.0], "kind": ["a", "b", "a"]})
    assert similarities(frame, frame.iloc[[2]], metric=None)[0].argmax() == 2
    with pytest.raises(RouterInputError, match="none of the 1 columns of the queries is numeric"):
        similarities(frame[["kind"]], frame[["kind"]].iloc[[0]], metric=None)


@pytest.fixture
def text_router() -> tuple[Any, OutcomeLog]:
    texts = [f"{WORDS[row % 4]} {row}" for row in range(40)]
    quality = np.array([[row % 2, 1.0] for row in range(40)], dtype=float)
    log = OutcomeLog.from_arrays(texts, quality, arms=["small", "large"], cost=np.tile([0.25, 1.0], (40, 1)))
    return make_pipeline(TfidfVectorizer(), QualityRouter(cost_weight=0.5)).fit(log.X, log.quality, cost=log.cost), log


@pytest.mark.parametrize("query", ["river 7", ["river 7"], "", "x" * 100_000, "漢字 テスト", "a\x00b\x1b[31m"])
def test_any_text_can_be_explained(query: Any, text_router: tuple[Any, OutcomeLog]) -> None:
    router, log = text_router
    found = explain(router, query, log=log)
    text = str(found)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) < 200
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["arm"] == found.label
    assert found.similarity == "cosine"


def test_the_text_says_it_all(text_router: tuple[Any, OutcomeLog]) -> None:
    router, log = text_router
    found = explain(router, "river 7", log=log, n_neighbors=2)
    lines = str(found).splitlines()
    assert lines[0] == f"TfidfVectorizer → QualityRouter takes {found.label} for 'river 7'"
    assert any("<- taken" in line and line.startswith(found.label) for line in lines)
    assert "price 0.5 (quality given up per US dollar)" in lines
    flip = found.flip_below or found.flip_above
    assert flip is not None
    assert any("it would be" in line for line in lines)
    assert sum("river" in line for line in lines[1:]) == 2
    document = found.as_dict()
    assert document["neighbors"][0]["quality"] == {"small": 1.0, "large": 1.0}
    assert document["intervals"][-1]["high"] is None
    assert [row["arm"] for row in document["arms"]] == ["small", "large"]
    assert set(document["arms"][0]["local_quality"]) == {"mean", "error", "spread", "count", "low", "high"}


def test_partly_observed_logs_are_read_arm_by_arm(parts: tuple[OutcomeLog, OutcomeLog]) -> None:
    train, test = parts
    quality = np.asarray(test.quality).copy()
    quality[:-1, 0] = np.nan
    log = OutcomeLog.from_arrays(test.X, quality[:, :2], arms=["small", "medium"])
    found = explain(fitted("linear", train), test.X[0], log=log, n_local=7)
    assert found.local_quality is not None
    assert found.local_quality.count.tolist() == [1, 7, 0]
    assert found.local_cost is None
    assert np.isnan(found.local_quality.mean[2])
    assert "the log has no outcome of 1 of 3 arms, the first is 'large'" in found.notes
    text = str(found)
    assert "none" in text
    assert json.dumps(found.as_dict(), allow_nan=False)


def test_arms_are_matched_by_name(parts: tuple[OutcomeLog, OutcomeLog]) -> None:
    train, test = parts
    turned = test.select(arms=["large", "small"])
    found = explain(fitted("linear", train), test.X[0], log=turned, n_neighbors=1)
    expected = np.asarray(test.quality)[0].copy()
    expected[1] = np.nan
    np.testing.assert_array_equal(found.neighbors[0].quality, expected)


def test_the_model_s_own_uncertainty_is_kept_apart(parts: tuple[OutcomeLog, OutcomeLog]) -> None:
    class Knows(QualityRouter):
        def predict_quality_std(self, X: Any) -> Any:
            return np.tile([0.1, 0.2, 0.3], (len(X), 1))

    train, _ = parts
    router = make_pipeline(StandardScaler(), Knows()).fit(train.X, train.quality, cost=train.cost)
    found = explain(router, train.X[0])
    assert found.quality_std is not None
    assert found.quality_std.tolist() == [0.1, 0.2, 0.3]
    assert "model sd" in str(found)
    assert found.as_dict()["arms"][1]["quality_std"] == 0.2


def test_one_arm_and_no_costs(full_log: OutcomeLog) -> None:
    found = explain(QualityRouter().fit(full_log.X, full_log.select(arms=["small"]).quality), full_log.X[0])
    assert (found.fallbacks, found.flip_above, found.flip_below) == ((), None, None)
    assert "the router was fitted without costs: no price changes the decision" in found.notes
    assert found.as_dict()["arms"][0]["cost_usd"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_neighbors": 0}, r"n_neighbors must be an integer >= 1, got 0"),
        ({"n_local": 2.5}, r"n_local must be an integer >= 1, got 2.5"),
        ({"n_local": True}, r"n_local must be an integer >= 1, got True"),
        ({"level": "a"}, r"level must be in \(0, 1\), got 'a'"),
        ({"level": None}, r"level must be in \(0, 1\), got None"),
        ({"limit": 0.5}, "limit must be a Budget, QualityTarget, Share, Capacity or RiskLevel, or None, got float"),
        ({"level": 1.0}, r"level must be in \(0, 1\), got 1.0"),
        ({"query": 3.0}, r"query must be a text, a row of numbers or a batch of one, got 3.0"),
        ({"query": np.zeros((2, 2))}, r"query must be one query, got a batch of 2"),
        ({"query": ["a", "b"]}, r"query must be one query, got a batch of 2"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str, parts: tuple[OutcomeLog, OutcomeLog]) -> None:
    train, _ = parts
    with pytest.raises(RouterInputError, match=message):
        explain(fitted("linear", train), **{"query": train.X[0], **options})


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ([], r"query must be a text, a row of numbers or a batch of one, got one without values, of shape \(0,\)"),
        (np.zeros((0, 2)), r"got one without values, of shape \(0, 2\)"),
        (pd.Series([], dtype=float), r"got one without values, of shape \(0,\)"),
        (np.zeros((1, 1, 2)), r"a row of numbers or a batch of one, got an array of shape \(1, 1, 2\)"),
        ([[1.0, 2.0], [3.0]], r"got rows of different lengths: \[\[1.0, 2.0\], \[3.0\]\]"),
        (
            {"a": 1.0, "b": 2.0},
            r"got a dict with the keys \['a', 'b'\]; give its values in the order of the columns, or a frame",
        ),
        (None, "a row of numbers or a batch of one, got None"),
        (b"ab", "a row of numbers or a batch of one, got b'ab'"),
        ({1.0, 2.0}, "a row of numbers or a batch of one, got {1.0, 2.0}"),
        ([1.0, "a"], "got a row with 1 of 2 values that are no numbers, the first is 'a' in place 1"),
        ([1.0, 2.0, 3.0], "query has 3 numbers, and the router was fitted on rows of 2"),
        ([[1.0]], "query has 1 numbers, and the router was fitted on rows of 2"),
        ([1.0, np.nan], "query has 1 of 2 numbers that are not finite, the first is nan in place 1"),
        ([[-np.inf, np.nan]], "query has 2 of 2 numbers that are not finite, the first is -inf in place 0"),
        ("a text", "query is a text, 'a text', and the router was fitted on rows of 2 numbers"),
        ([["a", "b"]], r"query holds texts, \['a', 'b'\], and the router was fitted on rows of 2 numbers"),
        (pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, 2.0]}), "query must be one query, got a batch of 2"),
        (pl.Series(["a", "b"]), "query must be one query, got a batch of 2"),
    ],
)
@pytest.mark.parametrize("kind", ["linear", "pipeline", "piped tuned"])
def test_what_is_no_query_is_said(kind: str, query: Any, message: str, parts: tuple[OutcomeLog, OutcomeLog]) -> None:
    router = fitted(kind, parts[0])
    for log in (None, parts[1]):
        with pytest.raises(RouterInputError, match=f"^explain: .*{message}"):
            explain(router, query, log=log)


@pytest.mark.parametrize(
    "query",
    [
        ["a tree", "a river"], [1.0, 2.0], np.zeros((1, 3)), [["tree"]], pd.DataFrame({"prompt": ["tree"]}), [None], b"tree",
        {"prompt": "tree"}, np.array("tree"),
    ],
)  # fmt: skip
def test_what_is_no_text_is_said(query: Any, text_router: tuple[Any, OutcomeLog]) -> None:
    router, log = text_router
    for given in (None, log):
        with pytest.raises(RouterInputError, match=r"^explain: query must be "):
            explain(router, query, log=given)


def test_a_row_or_a_series_is_a_query(
    parts: tuple[OutcomeLog, OutcomeLog], text_router: tuple[Any, OutcomeLog]
) -> None:
    train, _ = parts
    router, row = fitted("linear", train), np.array([0.25, -1.0])
    expected = explain(router, row).as_dict()
    for query in (
        row.tolist(),
        tuple(row),
        row[None],
        pd.Series(row),
        pl.Series(row),
        pd.Series(row, index=["a", "b"]),
    ):
        assert explain(router, query).as_dict() == expected
    texts, log = text_router
    shown = explain(texts, "river 7", log=log).as_dict()
    assert shown["query"] == "river 7"
    for given in (
        ["river 7"],
        np.array(["river 7"]),
        pd.Series(["river 7"]),
        pl.Series(["river 7"]),
        np.str_("river 7"),
    ):
        assert explain(texts, given, log=log).as_dict() == shown


def test_a_row_of_a_frame_keeps_its_names(parts: tuple[OutcomeLog, OutcomeLog]) -> None:
    train, _ = parts
    frame = pd.DataFrame(train.X, columns=["size", "kind"])
    router = QualityRouter().fit(frame, train.quality, cost=train.cost)
    found = explain(router, frame.iloc[3])
    assert found.query == tuple(frame.iloc[3])
    assert found.as_dict() == explain(router, frame.iloc[[3]]).as_dict()


@pytest.mark.parametrize(
    ("router", "message"),
    [
        (QualityRouter, r"explain: router must be a router, got the class QualityRouter; write QualityRouter\(\)"),
        (None, "explain: router must be a router, or a pipeline of defer.make_pipeline, got None"),
        ("policy", "explain: router must be a router, or a pipeline of defer.make_pipeline, got 'policy'"),
        (
            StandardScaler(),
            "explain: router must be a router, or a pipeline of defer.make_pipeline, got StandardScaler",
        ),
    ],
)
def test_what_is_no_router_is_said(router: Any, message: str) -> None:
    with pytest.raises(RouterInputError, match=message):
        explain(router, [0.0, 1.0])


@pytest.mark.parametrize("router", [QualityRouter(), make_pipeline(TfidfVectorizer(), QualityRouter())])
def test_an_unfitted_router_explains_nothing(router: Any) -> None:
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        explain(router, "a text")


@pytest.mark.parametrize("wrap", [SessionRouter.around, SessionRouter])
def test_a_router_of_sessions_is_explained_by_what_is_inside(wrap: Any, text_router: tuple[Any, OutcomeLog]) -> None:
    router, log = text_router
    wrapped = wrap(router)
    if wrap is SessionRouter:
        wrapped.fit(log.X, log.quality, cost=log.cost)
    expected, found = (explain(which, "river 7", log=log).as_dict() for which in (router, wrapped))
    assert (found.pop("router"), expected.pop("router")) == ("SessionRouter", "TfidfVectorizer → QualityRouter")
    assert found == expected


def test_a_query_far_from_the_log_is_told(
    parts: tuple[OutcomeLog, OutcomeLog], text_router: tuple[Any, OutcomeLog]
) -> None:
    train, test = parts
    for kind in ("linear", "neighbors"):
        router = fitted(kind, train)
        for query in ([50.0, 50.0], [1e300, -1e300]):
            found = explain(router, query, log=test)
            assert found.is_far
            assert found.as_dict()["is_far"]
            assert any("predictions extrapolate" in note or "similar at all" in note for note in found.notes)
        assert not any(explain(router, row, log=test).is_far for row in test.X[:20])
        assert not explain(router, [50.0, 50.0], log=test.select(rows=np.arange(19))).is_far
        assert not explain(router, [50.0, 50.0]).is_far
    router, log = text_router
    assert explain(router, "漢字", log=log).is_far
    assert not explain(router, "river 7", log=log).is_far


@pytest.mark.parametrize("metric", [None, "cosine", "euclidean"])
@pytest.mark.parametrize("form", [np.asarray, csr_array])
def test_the_loneliest_logged_query_is_found(metric: Any, form: Any) -> None:
    rng = np.random.default_rng(4)
    X = form(rng.normal(size=(60, 3)) * [1.0, 10.0, 0.1])
    compared = Comparison.of(X, metric=metric)
    nearest = [np.delete(similarities(X, X[[row]], metric=metric)[0], row).max() for row in range(60)]
    assert compared.least_nearest() == pytest.approx(min(nearest))


def test_a_query_like_the_logged_ones_is_seldom_far() -> None:
    """At most 1 in 101 where all are exchangeable; 60 of 2,000 is beyond that by more than six standard errors."""
    rng = np.random.default_rng(8)
    far = 0
    for _ in range(200):
        X = rng.normal(size=(110, 2))
        compared = Comparison.of(X[:100], metric="euclidean")
        least = compared.least_nearest()
        far += sum(compared.similarities(row[None]).max() < least for row in X[100:])
    assert 0 < far < 60


def test_large_numbers_do_not_overflow() -> None:
    X = np.array([[1.0, 2.0], [2.0, 1.0], [-1.0, 0.5]])
    for metric in (None, "cosine", "euclidean"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            close = similarities(X, np.array([[1e300, 2e300]]), metric=metric)[0]
        assert np.isfinite(close).all()
    assert similarities(X, np.array([[1e300, 2e300]]), metric="cosine")[0][0] == pytest.approx(1.0)


def test_a_log_that_does_not_fit_is_refused(parts: tuple[OutcomeLog, OutcomeLog]) -> None:
    train, test = parts
    router = fitted("linear", train)
    with pytest.raises(RouterInputError, match="log= has no queries"):
        explain(router, test.X[0], log=replace(test, X=None))
    with pytest.raises(RouterInputError, match="log= must be an OutcomeLog, got str"):
        explain(router, test.X[0], log="test.parquet")  # type: ignore[arg-type]
    with pytest.raises(RouterInputError, match="log= has texts as queries, and the router takes rows of numbers"):
        explain(router, test.X[0], log=replace(test, X=["a"] * len(test)))
    with pytest.raises(RouterInputError, match="log= has queries of 3 columns, and the router takes rows of 2"):
        explain(router, test.X[0], log=replace(test, X=np.zeros((len(test), 3))))
    other = OutcomeLog.from_arrays(test.X, test.quality.view(np.ndarray), arms=["x", "y", "z"])
    with pytest.raises(
        RouterInputError, match=r"none of the router's arms; the router has \['small', 'medium', 'large'\]"
    ):
        explain(router, test.X[0], log=other)


def test_an_explanation_is_frozen(parts: tuple[OutcomeLog, OutcomeLog]) -> None:
    found = explain(fitted("linear", parts[0]), parts[0].X[0])
    assert isinstance(found, Explanation)
    with pytest.raises(AttributeError):
        found.price = 3.0  # type: ignore[misc]
