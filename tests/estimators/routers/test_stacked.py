"""The blend of routers: what it is made of, when it gives way to the zero router, and what it refuses."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold

import defer
from defer.estimators import KNNRouter, QualityRouter, StackedRouter, StackMember, TunedRouter
from defer.estimators.feature_blocks import FeatureBlocks
from defer.estimators.routers.blend import Blend
from defer.estimators.routers.query_folds import held_out_parts, query_codes
from defer.exceptions import FallbackWarning, RouterInputError
from defer.portfolios.arm_matrix import ArmMatrix
from defer.portfolios.limits import Budget

RNG = np.random.default_rng(0)
N = 400
X = RNG.normal(size=(N, 4)) * np.array([1.0, 10.0, 0.1, 1.0])
CHANCE = 1.0 / (1.0 + np.exp(-np.column_stack([X[:, 0], 0.5 + 0.2 * X[:, 1], np.full(N, 1.0)])))
QUALITY = ArmMatrix((RNG.random((N, 3)) < CHANCE).astype(float), ["small", "medium", "large"])
COST = ArmMatrix(np.array([1.0, 3.0, 9.0]) * RNG.uniform(0.5, 1.5, size=(N, 3)), ["small", "medium", "large"])
MEMBERS = [
    ("ridge", QualityRouter(Ridge(alpha=1.0))),
    ("neighbors", KNNRouter(15, metric="euclidean", cost="neighbors")),
]


def test_the_blend_is_what_the_parts_give_by_hand() -> None:
    router = StackedRouter(MEMBERS, cv=4, fallback=False).fit(X, QUALITY, cost=COST)
    table = X / X.std(axis=0)
    parts = held_out_parts(4, query_codes(X), owner="test")
    predicted = [np.empty((N, 3)) for _ in MEMBERS]
    for train, test in parts:
        for place, (_, member) in enumerate(MEMBERS):
            predicted[place][test] = member.fit(table[train], QUALITY[train], cost=COST[train]).predict_quality(
                table[test]
            )
    blend = Blend.fit(predicted, np.asarray(QUALITY), None)
    assert_allclose([router.member_weights_[name] for name, _ in MEMBERS], blend.between, rtol=1e-9)
    whole = [member.fit(table, QUALITY, cost=COST).predict_quality(table[:20]) for _, member in MEMBERS]
    assert_allclose(router.predict_quality(X[:20]), blend.apply(whole), rtol=1e-9)
    assert set(router.cost_weights_) == {"neighbors"}


def test_units_of_columns_do_not_matter() -> None:
    factor = np.array([1e-3, 1.0, 1e4, 7.0])
    # Folds go by the bits of queries, unless groups are given.
    one, other = (StackedRouter(fallback=False).fit(table, QUALITY, groups=np.arange(N)) for table in (X, X * factor))
    assert_allclose(one.predict_quality(X[:30]), other.predict_quality(X[:30] * factor), rtol=1e-6)


def test_sparse_queries_are_dense_queries() -> None:
    sparse = np.where(np.abs(X) > 0.5, X, 0.0)
    dense = StackedRouter(fallback=False).fit(sparse, QUALITY).predict_quality(sparse[:30])
    assert_allclose(
        StackedRouter(fallback=False).fit(csr_array(sparse), QUALITY).predict_quality(csr_array(sparse[:30])),
        dense,
        rtol=1e-5,
    )


@pytest.mark.parametrize("with_cost", [True, False])
def test_noise_gives_way_to_the_zero_router_and_says_so(with_cost: bool) -> None:
    rng = np.random.default_rng(0)
    quality = (rng.random((300, 2)) < [0.4, 0.7]).astype(float)
    cost = np.tile([1.0, 2.0], (300, 1)) if with_cost else None
    with pytest.warns(
        FallbackWarning, match=r"no blend of 4 members is shown to beat .* zero router out of fold is -?0\.\d+"
    ):
        router = StackedRouter().fit(rng.normal(size=(300, 3)), quality, cost=cost)
    assert router.is_zero_router_
    assert not router.advantage_.is_shown
    assert_allclose(router.predict_quality(rng.normal(size=(5, 3))), np.tile(quality.mean(axis=0), (5, 1)))
    if with_cost:
        routing = router.route(rng.normal(size=(100, 3)), limit=Budget(mean_cost=1.5), random_state=0)
        assert routing.expected_cost == pytest.approx(1.5)
        assert routing.expected_quality == pytest.approx(quality.mean())
    kept = StackedRouter(fallback=False).fit(rng.normal(size=(300, 3)), quality, cost=cost)
    assert not kept.is_zero_router_


@pytest.mark.parametrize(("grades", "has_logistic"), [((0.0, 1.0), True), ((2.0, 5.0), True), ((0.0, 0.5, 1.0), False)])
def test_outcomes_of_two_values_bring_a_logistic_regression(grades: tuple[float, ...], has_logistic: bool) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 2))
    rate = 1.0 / (1.0 + np.exp(-4.0 * X))
    quality = np.array(grades)[(rng.random((300, 2)) < rate).astype(int) * (len(grades) - 1)]
    quality[0, 0] = grades[len(grades) // 2]
    router = StackedRouter().fit(X, quality)
    assert ("logistic" in router.member_weights_) == has_logistic
    if has_logistic:
        assert router.member_weights_["logistic"] > 0.3


def test_rows_of_no_weight_choose_no_member_and_one_grade_brings_none() -> None:
    rng = np.random.default_rng(0)
    X, quality = rng.normal(size=(60, 2)), (rng.random((60, 2)) < 0.5).astype(float)
    quality[0, 0] = 0.3
    weight = np.ones(60)
    weight[0] = 0.0
    options = {"fallback": False}
    assert "logistic" in StackedRouter(**options).fit(X, quality, sample_weight=weight).member_weights_
    assert "logistic" not in StackedRouter(**options).fit(X, np.ones((60, 2))).member_weights_


def test_an_arm_of_one_grade_and_one_of_two() -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(80, 2))
    quality = np.column_stack([np.ones(80), X[:, 0] > 0]).astype(float)
    # The only wrong answers of the last arm are held out together: its training part has one grade.
    rare = np.column_stack([quality, np.arange(80) != 3]).astype(float)
    router = StackedRouter(fallback=False).fit(X, rare)
    assert "logistic" in router.member_weights_
    assert np.isfinite(router.predict_quality(X)).all()


def test_weights_are_not_judged_on_the_outcomes_that_they_were_fitted_to() -> None:
    # Without signal the area has a mean of 0 or less: of 60 logs it is beyond four standard errors in fewer than 1e-4.
    members = [(f"{k}", KNNRouter(k, metric="euclidean")) for k in (5, 8, 12, 18, 27, 40)]
    cost, values, used = np.tile([1.0, 2.0], (80, 1)), [], 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        features, quality = rng.normal(size=(80, 3)), (rng.random((80, 2)) < [0.4, 0.6]).astype(float)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)
            router = StackedRouter(members).fit(features, quality, cost=cost)
        values.append(router.advantage_.value)
        used += not router.is_zero_router_
    assert np.mean(values) < 4.0 * np.std(values, ddof=1) / np.sqrt(60)
    # At the 16 % of one standard error 60 logs have more than 23 but for 1e-5.
    assert used <= 23


def test_groups_and_equal_queries_are_held_out_together() -> None:
    rng = np.random.default_rng(0)
    once, outcome = rng.normal(size=(100, 20)), (rng.random((100, 2)) < 0.5).astype(float)
    queries, quality = np.vstack([once, once]), np.vstack([outcome, outcome])
    # Twins in groups of their own: a fit that saw the twin would know the outcome.
    neighbors = [("twin", KNNRouter(1, metric="euclidean"))]
    apart = StackedRouter(neighbors, fallback=False).fit(queries, quality, groups=np.arange(200))
    assert apart.member_weights_["twin"] < 0.5
    assert apart.advantage_.value < 0.1
    # Rows without weight join nothing.
    weight = np.repeat([1.0, 0.0], 100)
    assert (
        StackedRouter(neighbors, fallback=False).fit(queries, quality, sample_weight=weight).member_weights_
        == StackedRouter(neighbors, fallback=False).fit(once, outcome).member_weights_
    )


def test_a_splitter_is_given_the_groups() -> None:
    groups = np.repeat(np.arange(8), 50)
    by_splitter = StackedRouter(cv=GroupKFold(4), fallback=False).fit(X, QUALITY, groups=groups)
    by_list = StackedRouter(cv=list(GroupKFold(4).split(X, groups=groups)), fallback=False).fit(X, QUALITY)
    assert by_splitter.member_weights_ == by_list.member_weights_


@pytest.mark.parametrize("kind", ["one group", "equal queries", "joined groups"])
def test_where_no_query_can_be_held_out_it_falls_back(kind: str) -> None:
    # Noise, on which a fit in its own sample looks good.
    rng = np.random.default_rng(0)
    features, quality = rng.normal(size=(60, 30)), (rng.random((60, 2)) < 0.5).astype(float)
    groups = None
    if kind == "one group":
        groups = np.zeros(60, dtype=int)
    elif kind == "equal queries":
        features = np.tile(features[:1], (60, 1))
    else:
        # Each of two groups has a query of the other.
        features[59], groups = features[0], np.repeat(["a", "b"], 30)
    with pytest.warns(
        FallbackWarning, match=r"beat mixing single arms: no query is held out, as all are equal or of one"
    ):
        router = StackedRouter().fit(features, quality, cost=np.tile([1.0, 2.0], (60, 1)), groups=groups)
    assert router.is_zero_router_
    assert router.advantage_.error == np.inf
    if kind != "equal queries":
        assert router.advantage_.value > 0.05
    assert_allclose(router.predict_quality(features[:3]), np.tile(quality.mean(axis=0), (3, 1)))


def test_numbers_far_from_zero_are_not_one_query() -> None:
    rng = np.random.default_rng(0)
    features, quality = 1e9 + rng.uniform(0.0, 20.0, size=(200, 1)), (rng.random((200, 2)) < 0.5).astype(float)
    router = StackedRouter(fallback=False).fit(features, quality, cost=np.tile([1.0, 2.0], (200, 1)))
    assert 0.0 < router.advantage_.error < np.inf
    assert router.advantage_.value < 0.1


@pytest.mark.parametrize("signal", [0.0, 0.2, 2.0])
def test_it_is_never_worse_than_the_zero_router_by_more_than_its_error(signal: float) -> None:
    """Against the zero router of the same log, on the law itself; 60 logs of 200 queries gave no exception."""
    from defer.evaluation.frontier import sweep
    from defer.portfolios.zero_router import area_over_zero

    def law(features: Any) -> Any:
        return 1.0 / (1.0 + np.exp(-np.column_stack([signal * features[:, 0], np.full(len(features), 0.4)])))

    fresh = np.random.default_rng(99).normal(size=(2000, 3))
    truth, cost = law(fresh), np.tile([1.0, 2.0], (2000, 1))

    def area(predicted: Any) -> float:
        curve = sweep(np.broadcast_to(predicted, truth.shape), cost, truth, cost)
        return area_over_zero(curve.cost, curve.quality, cost.mean(axis=0), truth.mean(axis=0))

    used = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        train = rng.normal(size=(200, 3))
        quality = (rng.random((200, 2)) < law(train)).astype(float)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)
            router = StackedRouter().fit(train, quality, cost=cost[:200])
        used += not router.is_zero_router_
        lost = area(quality.mean(axis=0)) - area(router.predict_quality(fresh))
        assert lost <= router.advantage_.error + 1e-9
    assert used == 12 if signal == 2.0 else used < 8


def test_without_costs_the_order_of_queries_counts() -> None:
    rng = np.random.default_rng(2)
    features = rng.normal(size=(600, 2))
    # The second arm is better on every query, and much better on some: taking the best arm gains nothing.
    chance = np.column_stack([1.0 / (1.0 + np.exp(-2.0 * features[:, 0])) * 0.85, np.full(600, 0.9)])
    router = StackedRouter().fit(features, (rng.random((600, 2)) < chance).astype(float))
    assert not router.is_zero_router_
    assert np.corrcoef(np.diff(router.predict_quality(features)).ravel(), features[:, 0])[0, 1] < -0.8


def test_tags_clear_the_noise_of_labels_and_are_not_needed_later() -> None:
    rng = np.random.default_rng(4)
    kind = rng.integers(6, size=500)
    features = np.column_stack([np.eye(6)[kind] + 0.3 * rng.normal(size=(500, 6)), 0.5 * rng.normal(size=(500, 100))])
    chance = (0.35 + 0.3 * rng.random((6, 4)))[kind]
    quality = (rng.random((500, 4)) < chance).astype(float)
    plain = StackedRouter(fallback=False).fit(features, quality)
    tagged = StackedRouter(fallback=False).fit(features, quality, tags=kind.astype(str))
    assert "tags, ridge" not in plain.member_weights_
    assert tagged.member_weights_["tags, ridge"] > 0.3
    error = [((router.predict_quality(features) - chance) ** 2).mean() for router in (plain, tagged)]
    assert error[1] < error[0]


def test_blocks_are_made_once_and_seen_by_those_who_look() -> None:
    class Counting(CountVectorizer):
        calls = 0

        def transform(self, raw: Any) -> Any:
            type(self).calls += 1
            return super().transform(raw)

    texts = ["one cat", "two dogs", "one dog", "three cats"] * 20
    quality = np.tile([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]], (20, 1))
    members = [
        StackMember("words", QualityRouter(), ("words",)),
        StackMember("both", QualityRouter()),
        StackMember("letters", QualityRouter(), ("letters",)),
    ]
    features = [("words", Counting()), ("letters", CountVectorizer(analyzer="char"))]
    router = StackedRouter(members, features=features, fallback=False).fit(texts, quality)
    Counting.calls = 0
    router.predict(texts)
    router.route(texts)
    assert Counting.calls == 2
    assert router.features_.names == ("words", "letters")


def test_equal_texts_and_groups_are_held_out_together() -> None:
    quality = np.tile([[1.0, 0.0], [0.0, 1.0]], (30, 1))
    held: list[set[float]] = []

    class Spy(KNNRouter):
        def fit(self, X: Any, y: Any, **outcomes: Any) -> Any:
            held.append(set(np.asarray(X)[:, 0].tolist()))
            return super().fit(X, y, **outcomes)

    number = np.repeat(np.arange(30), 2)[:, None].astype(float)
    StackedRouter([("spy", Spy(3, metric="euclidean"))], cv=3, fallback=False).fit(number, quality)
    scale = number.std()
    assert [len(part) for part in held[:3]] == [20, 20, 20]
    held.clear()
    StackedRouter([("spy", Spy(3, metric="euclidean"))], cv=3, fallback=False).fit(
        number, quality, groups=np.repeat(["a", "b", "c"], 20)
    )
    seen = [sorted({round(value * scale) // 10 for value in part}) for part in held[:3]]
    assert all(len(groups) <= 2 for groups in seen)


def test_the_everyday_blend_learns_text() -> None:
    texts = [f"{number} + {number + 7} = ?" for number in range(60)] + [
        f"reverse the word tree{number}" for number in range(60)
    ]
    quality, cost = np.repeat([[1.0, 0.0], [0.0, 1.0]], 60, axis=0), np.tile([0.001, 0.01], (120, 1))
    router = defer.router("auto", embeddings=False).fit(texts, quality, cost=cost)
    assert router.predict(["81 + 4 = ?", "reverse the word house"]).tolist() == [0, 1]
    assert list(router[-1].member_weights_) == ["ridge", "words", "neighbors"]
    tagged = defer.router("auto", embeddings=False).fit(texts, quality, cost=cost, tags=["sum"] * 60 + ["words"] * 60)
    assert list(tagged[-1].member_weights_) == ["ridge", "words", "neighbors", "tags, ridge", "tags, neighbors"]
    tuned = TunedRouter(defer.router("auto", embeddings=False), limit=Budget(mean_cost=0.004), cv=3).fit(
        texts, quality, cost=cost
    )
    assert tuned.operating_point_.mean_cost <= 0.004 * (1 + 1e-9)


@pytest.mark.parametrize("text", ["", "x " * 50_000, "汉字？", "\x00\x1f\x7f", "\ud800"])
def test_any_text_is_routed(text: str) -> None:
    texts = ["one cat", "two dogs", "one dog", "three cats"] * 20
    router = defer.router("auto", embeddings=False)
    router[-1].set_params(fallback=False)
    router.fit([*texts, text], np.vstack([np.tile([[1.0, 0.0], [0.0, 1.0]], (40, 1)), [[0.5, 0.5]]]))
    assert np.isfinite(router.predict_quality([text])).all()


def test_an_arm_that_never_changes_and_one_arm_alone() -> None:
    quality = np.asarray(QUALITY).copy()
    quality[:, 1] = 0.5
    router = StackedRouter(fallback=False).fit(X, quality)
    assert_allclose(router.predict_quality(X[:10])[:, 1].mean(), 0.5, atol=0.2)
    alone = StackedRouter().fit(X, ArmMatrix(quality[:, :1], ["small"]))
    assert_array_equal(alone.predict(X[:3]), ["small"] * 3)


def test_queries_with_all_outcomes_missing_are_passed_over() -> None:
    quality = np.asarray(QUALITY).copy()
    quality[::7] = np.nan
    assert np.isfinite(StackedRouter(fallback=False).fit(X, quality).predict_quality(X)).all()


@pytest.mark.parametrize(
    ("options", "extra", "message"),
    [
        ({"members": []}, {}, "StackedRouter: members is empty; give at least one"),
        (
            {"members": [QualityRouter()]},
            {},
            r"StackedRouter: a member is a StackMember or \(name, router\), got QualityRouter",
        ),
        ({"members": [("a", Ridge())]}, {}, r"member 'a' must be a router, got Ridge\(\)"),
        (
            {"members": [("a", QualityRouter()), ("a", KNNRouter())]},
            {},
            "1 names of members stand twice, the first is 'a'",
        ),
        (
            {"members": [StackMember("a", QualityRouter(), ("words",))]},
            {},
            "member 'a' looks at block 'words'; the blocks are queries",
        ),
        (
            {"members": [StackMember("a", QualityRouter(), (), "tag")]},
            {},
            "labels of member 'a' must be 'outcomes' or 'tags', got 'tag'",
        ),
        (
            {"members": [StackMember("a", QualityRouter(), (), "tags")]},
            {},
            "all members are fitted on tags, and no tags= are given",
        ),
        ({"members": 3}, {}, r"StackedRouter: members must be None or a list of \(name, router\), got 3"),
        (
            {"features": 3},
            {},
            r"StackedRouter: features must be None or a list of at least one \(name, transformer\), got 3",
        ),
        ({"features": []}, {}, r"features must be None or a list of at least one .*, got \[\]"),
        (
            {"features": [("a", QualityRouter())]},
            {},
            r"features\[0\] must be \(name, transformer\) with a transformer that",
        ),
        ({"features": [CountVectorizer()]}, {}, r"features\[0\] must be \(name, transformer\)"),
        ({"features": [("a", CountVectorizer)]}, {}, r"features\[0\] must be \(name, transformer\)"),
        (
            {"features": [("a", CountVectorizer()), ("a", CountVectorizer())]},
            {},
            "1 names of features stand twice, the first is 'a'",
        ),
        ({"fallback": "x"}, {}, "StackedRouter: fallback must be True or False, got 'x'"),
        ({"cv": 1}, {}, "StackedRouter: cv must be an integer >= 2"),
        ({}, {"tags": ["a"]}, "StackedRouter: "),
        ({}, {"groups": ["a"]}, "groups"),
    ],
)
def test_what_does_not_fit_is_named(options: dict[str, Any], extra: dict[str, Any], message: str) -> None:
    with pytest.raises(RouterInputError, match=message):
        StackedRouter(**options).fit(X, QUALITY, **extra)


def test_text_without_features_names_the_way() -> None:
    with pytest.raises(RouterInputError, match=r"StackedRouter needs numbers, .*defer\.router\('auto'\) for text"):
        StackedRouter().fit(["a", "b"], [[1.0, 0.0], [0.0, 1.0]])


def test_an_arm_that_is_hardly_ever_seen_is_named() -> None:
    quality = np.asarray(QUALITY).copy()
    quality[1:, 2] = np.nan
    with pytest.raises(
        RouterInputError,
        match="arm 2 was observed so rarely that a training part of the cross-validation has no outcome",
    ):
        StackedRouter().fit(X, quality)


def test_a_step_that_loses_rows_is_named() -> None:
    class Half(CountVectorizer):
        def fit_transform(self, raw: Any, y: Any = None) -> Any:
            return super().fit_transform(raw)[: len(raw) // 2]

    with pytest.raises(RouterInputError, match="features: 'half' made 1 rows of 2 queries"):
        FeatureBlocks([("half", Half())]).fit(["a cat", "a dog"])


@pytest.mark.parametrize("kind", ["stack", None])
def test_an_unknown_kind_is_named(kind: Any) -> None:
    with pytest.raises(RouterInputError, match="router: kind must be 'ridge' or 'auto', got"):
        defer.router(kind)


NO_TEXTS = [
    (np.zeros((4, 2)), r"StackedRouter: X must be a list of texts, got ndarray of shape \(4, 2\)"),
    (["a", None, "b", np.nan], "StackedRouter: X must be a list of texts, 2 of 4 are none, the first is None in row 1"),
    ([None, "a", "b", "c"], "StackedRouter: X must be a list of texts, 1 of 4 are none, the first is None in row 0"),
    (
        pd.DataFrame({"prompt": list("abcd")}),
        r"got a frame with the columns \['prompt'\]; .* such as frame\['prompt'\]",
    ),
]


@pytest.mark.parametrize(("queries", "message"), NO_TEXTS)
def test_the_blend_for_texts_names_what_is_no_text(queries: Any, message: str) -> None:
    router = defer.router("auto", embeddings=False)
    with pytest.raises(RouterInputError, match=message):
        router.fit(queries, [[1.0, 0.0], [0.0, 1.0]] * 2)


@pytest.mark.parametrize("fallback", [True, False])
@pytest.mark.filterwarnings("ignore::defer.exceptions.FallbackWarning")
def test_a_fitted_blend_for_texts_names_what_is_no_text(fallback: bool) -> None:
    features = [("words", CountVectorizer()), ("characters", CountVectorizer(analyzer="char"))]
    members = [("ridge", QualityRouter())]
    router = StackedRouter(members, features=features, cv=2, fallback=fallback)
    router.fit([f"text {number}" for number in range(12)], [[1.0, 0.0], [0.0, 1.0]] * 6)
    for queries, message in NO_TEXTS:
        with pytest.raises(RouterInputError, match=message):
            router.predict(queries)
