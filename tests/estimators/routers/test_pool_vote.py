"""The vote of exemplars: against loops, on edges, with weights, and with an arm that is added."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from defer import OutcomeLog
from defer.estimators import make_pipeline
from defer.estimators.routers import exemplar_search
from defer.estimators.routers.pool_vote import PoolVoteRouter
from defer.exceptions import MissingPropensityWarning, RouterInputError
from defer.model_file import model_bytes, model_from_bytes


def circle(*degrees):
    angle = np.deg2rad(degrees)
    return np.column_stack([np.cos(angle), np.sin(angle)])


def by_loops(X, right, order, query, k, rule="cheapest", vote="uniform"):
    """Shares of one query, exemplar by exemplar."""
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    m, exemplars = right.shape[1], []
    for row in range(len(X)):
        won = [arm for arm in order if right[row, arm] == 1]
        won = won[:1] if rule == "cheapest" else [] if rule == "drop" and len(won) == m else won
        if won:
            exemplars.append((round(1.0 - unit[row] @ query / np.linalg.norm(query), 10), row, won))
    counts = np.zeros(m)
    for distance, _, won in sorted(exemplars)[:k]:
        for arm in won:
            counts[arm] += 1.0 if vote == "uniform" else 1.0 / max(distance, 1e-6)
    return counts / counts.sum() if counts.sum() else np.full(m, 1 / m)


@given(seed=st.integers(0, 10**6), k=st.integers(1, 30), rule=st.sampled_from(["cheapest", "drop", "each"]),
       vote=st.sampled_from(["uniform", "distance"]))  # fmt: skip
@settings(max_examples=60)
def test_shares_are_those_of_loops(seed, k, rule, vote):
    rng = np.random.default_rng(seed)
    X, right = rng.integers(1, 4, size=(20, 3)).astype(float), rng.integers(2, size=(20, 3)).astype(float)
    right[0] = [1, 0, 0]
    cost, fresh = rng.permutation(3) + 1.0, rng.integers(1, 4, size=(6, 3)).astype(float)
    router = PoolVoteRouter(k, both_right=rule, vote=vote).fit(X, right, cost=np.tile(cost, (20, 1)))
    expected = [by_loops(X, right, np.argsort(cost), query, k, rule, vote) for query in fresh]
    np.testing.assert_allclose(router.predict_proba(fresh), expected, rtol=1e-4 if vote == "distance" else 1e-9)


@given(seed=st.integers(0, 10**6), weighted=st.booleans())
@settings(max_examples=20)
def test_training_shares_leave_the_own_vote_out(seed, weighted):
    rng = np.random.default_rng(seed)
    X, right = rng.normal(size=(15, 3)), rng.integers(2, size=(15, 2)).astype(float)
    right[0], right[1] = [1, 0], [0, 1]
    seen = []

    class Watched(PoolVoteRouter):
        def _fit_scores(self, X, outcomes):
            seen.append(super()._fit_scores(X, outcomes))
            return seen[0]

    weight = np.ones(15) if weighted else None
    Watched(4).fit(X, right, sample_weight=weight)
    for row in range(15):
        rest = np.arange(15) != row
        np.testing.assert_allclose(seen[0][row], by_loops(X[rest], right[rest], [0, 1], X[row], 4))


def test_a_weight_fills_the_neighbourhood_from_the_nearest():
    router = PoolVoteRouter(4).fit(circle(0, 10, 20, 30), [0, 1, 0, 1], sample_weight=[1.5, 1.0, 1.0, 9.0])
    np.testing.assert_allclose(router.predict_proba(circle(-5)), [[2.5 / 4, 1.5 / 4]])
    np.testing.assert_allclose(router.pool_size_, [2.5, 10.0])


def test_partly_observed_exemplars_vote_with_their_inverse_propensity():
    quality = np.array([[1.0, np.nan], [np.nan, 1.0], [np.nan, 0.0]])
    router = PoolVoteRouter(3).fit(circle(0, 1, 2), quality, propensity=[0.8, 0.2, 0.2])
    np.testing.assert_allclose(router.predict_proba(circle(0)), [[1.25 / 6.25, 5 / 6.25]])


def test_votes_of_an_arm_are_divided_by_the_share_of_queries_it_was_observed_on():
    quality = np.array([[1.0, np.nan], [1.0, np.nan], [0.0, np.nan], [0.0, 1.0], [np.nan, np.nan]])
    router = PoolVoteRouter(3).fit(circle(0, 1, 2, 3, 4), quality)
    assert router.seen_weight_.tolist() == [4.0, 1.0]
    np.testing.assert_allclose(router.predict_proba(circle(0)), [[2 / 6, 4 / 6]])
    weighted = PoolVoteRouter(9).fit(circle(0, 1, 2, 3, 4), quality, sample_weight=[1.0, 1.0, 0.0, 2.0, 5.0])
    assert weighted.seen_weight_.tolist() == [4.0, 2.0]
    np.testing.assert_allclose(weighted.predict_proba(circle(0)), [[2 / 6, 4 / 6]])


@pytest.mark.parametrize("rule", ["cheapest", "drop", "each"])
def test_the_better_arm_of_a_bandit_log_wins_however_seldom_it_was_taken(rule):
    rng = np.random.default_rng(0)
    n, chance = 4000, [0.5, 0.9]
    outcome = (rng.random((n, 2)) < chance).astype(float)
    second = rng.random(n) < 0.1
    seen = np.where(np.column_stack([~second, second]), outcome, np.nan)
    router = PoolVoteRouter(both_right=rule)
    with pytest.warns(MissingPropensityWarning):
        router.fit(rng.normal(size=(n, 3)), seen)
    # On a query of zeros all exemplars vote: about 1800 for the first arm and 360 for the second, whose votes count nine times.
    share = router.predict_proba(np.zeros((1, 3)))[0, 1]
    expected = {"cheapest": 0.9 / 1.4, "each": 0.9 / 1.4, "drop": 0.45 / 0.5}[rule]
    # Standard errors are below .009, of the shares of right answers of 400 rows that "drop" weighs by too.
    assert share == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("rule", ["drop", "each"])
@pytest.mark.parametrize("third", [0.4, 0.8])
def test_gaps_at_random_leave_the_order_of_the_arms_as_it_is(rule, third):
    rng = np.random.default_rng(1)
    n, all_vote = 5000, np.zeros((1, 3))
    X, right = rng.normal(size=(n, 3)), (rng.random((n, 3)) < [0.5, 0.65, third]).astype(float)
    gaps = right.copy()
    gaps[rng.random(n) < 0.8, 2] = np.nan
    full, partly = (PoolVoteRouter(both_right=rule).fit(X, table).predict_proba(all_vote)[0] for table in (right, gaps))
    np.testing.assert_allclose(partly, full, atol=0.04)
    assert np.argsort(partly).tolist() == np.argsort([0.5, 0.65, third]).tolist()


def test_what_both_got_right_stays_dropped_by_the_chance_that_a_third_arm_is_right_too():
    # Of 30 queries that the first arm got right the second got 27; a third is tried elsewhere and right three times in four.
    right = np.ones((30, 2))
    right[27:, 1] = 0.0
    X = np.random.default_rng(0).normal(size=(30, 3))
    router = PoolVoteRouter(30, both_right="drop").fit(X, pd.DataFrame(right, columns=["a", "b"]))
    assert router.votes_.sum(axis=0).tolist() == [3.0, 0.0]
    router.add_arm("third", OutcomeLog.from_arrays(-X[:4], np.array([[1.0], [1.0], [1.0], [0.0]]), arms=["third"]))
    np.testing.assert_allclose(router.votes_[:30].sum(axis=0), [3.0 + 27 / 4, 27 / 4, 0.0])
    # An arm that is always right makes no difference between the two.
    router = PoolVoteRouter(30, both_right="drop").fit(X, pd.DataFrame(right, columns=["a", "b"]))
    router.add_arm("sure", OutcomeLog.from_arrays(-X[:4], np.ones((4, 1)), arms=["sure"]))
    np.testing.assert_allclose(router.votes_[:30].sum(axis=0), [3.0, 0.0, 0.0])


def test_an_arm_tried_on_a_part_of_the_queries_has_the_votes_of_all():
    rng = np.random.default_rng(5)
    X, right = rng.normal(size=(2000, 4)), (rng.random((2000, 3)) < [0.5, 0.6, 0.9]).astype(float)
    log = OutcomeLog.from_arrays(X, right, arms=["a", "b", "c"])
    pair, part = log.select(arms=["a", "b"]), np.flatnonzero(rng.random(2000) < 0.2)
    router = PoolVoteRouter(both_right="each").fit(pair.X, pair.quality)
    router.add_arm("c", OutcomeLog.from_arrays(X[part], right[part, 2:], arms=["c"]))
    whole, all_vote = PoolVoteRouter(both_right="each").fit(X, right), np.zeros((1, 4))
    np.testing.assert_allclose(router.predict_proba(all_vote), whole.predict_proba(all_vote), atol=0.04)


def test_the_propensity_of_the_log_is_no_business_of_an_added_arm():
    rng = np.random.default_rng(6)
    n, all_vote = 4000, np.zeros((1, 4))
    X, right = rng.normal(size=(n, 4)), (rng.random((n, 3)) < [0.6, 0.6, 0.8]).astype(float)
    first = rng.random(n) < 0.5
    bandit = pd.DataFrame(np.where(np.column_stack([first, ~first]), right[:, :2], np.nan), columns=["a", "b"])
    router = PoolVoteRouter(both_right="each").fit(X, bandit, propensity=np.full(n, 0.5))
    router.add_arm("c", OutcomeLog.from_arrays(X, right[:, 2:], arms=["c"]))
    # Of the votes of the first two arms the standard errors are below .011.
    np.testing.assert_allclose(router.predict_proba(all_vote), [[0.3, 0.3, 0.4]], atol=0.05)


def test_equal_votes_go_to_the_cheapest_or_to_the_nearest():
    X, labels, cost = circle(0, 10, 20, 30), np.array([[0, 1], [1, 0], [1, 0], [0, 1]]), np.tile([1.0, 2.0], (4, 1))
    cheap = PoolVoteRouter(4).fit(X, labels, cost=cost)
    near = PoolVoteRouter(4, ties="nearest").fit(X, labels, cost=cost)
    queries = circle(-5, 14)
    assert cheap.predict(queries).tolist() == [0, 0]
    assert near.predict(queries).tolist() == [1, 0]
    np.testing.assert_allclose(near.predict_proba(queries), 0.5, atol=1e-5)
    np.testing.assert_allclose(near.predict_proba(queries).sum(axis=1), 1.0, rtol=1e-15)
    # Without a tie nothing is moved.
    assert PoolVoteRouter(3, ties="nearest").fit(X, labels).predict_proba(circle(-5)).tolist() == [[2 / 3, 1 / 3]]


def test_order_of_arms_is_that_of_mean_cost_or_of_columns():
    X, both = circle(0, 90), np.ones((2, 2))
    assert PoolVoteRouter().fit(X, both).predict(X).tolist() == [0, 0]
    assert PoolVoteRouter().fit(X, both, cost=[[2.0, 1.0]] * 2).predict(X).tolist() == [1, 1]


def test_an_empty_pool_leaves_the_other_arm_and_no_exemplar_the_cheapest():
    X = circle(0, 45, 90)
    always = PoolVoteRouter().fit(X, [[0, 1]] * 3, cost=[[1, 2]] * 3)
    assert always.predict_proba(circle(10, 200)).tolist() == [[0, 1]] * 2
    nobody = PoolVoteRouter(right_above=1.0).fit(X, [[0, 1]] * 3, cost=[[2, 1]] * 3)
    assert nobody.predict_proba(circle(10)).tolist() == [[0.5, 0.5]]
    assert nobody.predict(circle(10)).tolist() == [1]
    dropped = PoolVoteRouter(both_right="drop").fit(X, np.ones((3, 2)))
    assert dropped.predict_proba(circle(10)).tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array], ids=["dense", "sparse"])
def test_on_a_query_of_zeros_all_exemplars_vote(layout):
    router = PoolVoteRouter(1).fit(layout(circle(0, 10, 90)), [0, 0, 1])
    np.testing.assert_allclose(router.predict_proba(layout(np.zeros((1, 2)))), [[2 / 3, 1 / 3]])


def test_a_query_that_no_arm_saw_changes_nothing():
    X, quality = circle(0, 10, 90, 40), np.array([[1, 0], [1, 0], [0, 1], [np.nan, np.nan]])
    with_gap = PoolVoteRouter(2).fit(X, quality)
    without = PoolVoteRouter(2).fit(X[:3], quality[:3])
    np.testing.assert_allclose(with_gap.predict_quality(circle(5, 80)), without.predict_quality(circle(5, 80)))


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    X, right, fresh = rng.normal(size=(60, 4)), rng.integers(2, size=(60, 3)), rng.normal(size=(25, 4))
    whole = PoolVoteRouter(5, both_right="each").fit(X, right).predict_proba(fresh)
    monkeypatch.setattr(exemplar_search, "_BLOCK", 130)
    np.testing.assert_array_equal(PoolVoteRouter(5, both_right="each").fit(X, right).predict_proba(fresh), whole)


def trial(X, name, quality, cost):
    return OutcomeLog.from_arrays(X, np.asarray(quality)[:, None], arms=[name], cost=np.asarray(cost)[:, None])


@pytest.mark.parametrize("rule", ["cheapest", "drop", "each"])
@pytest.mark.parametrize("price", [0.5, 1.5, 9.0])
@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array], ids=["dense", "sparse"])
def test_an_arm_tried_on_the_queries_of_fit_is_as_if_it_had_been_there(rule, price, layout):
    rng = np.random.default_rng(4)
    X, fresh = layout(rng.normal(size=(80, 4))), layout(rng.normal(size=(40, 4)))
    right = rng.integers(2, size=(80, 3)).astype(float)
    cost = np.tile([1.0, 2.0, price], (80, 1))
    names = ["small", "large", "third"]
    log = OutcomeLog.from_arrays(X, right, arms=names, cost=cost)
    pair = log.select(arms=names[:2])
    router = PoolVoteRouter(7, both_right=rule).fit(pair.X, pair.quality, cost=pair.cost).add_arm("third", log)
    whole = PoolVoteRouter(7, both_right=rule).fit(log.X, log.quality, cost=log.cost)
    assert router.arms_.tolist() == names
    np.testing.assert_allclose(router.predict_proba(fresh), whole.predict_proba(fresh), atol=1e-12)
    np.testing.assert_allclose(router.pool_size_, whole.pool_size_)


def test_an_arm_tried_on_other_queries_gets_exemplars_where_it_was_right():
    router = PoolVoteRouter(1).fit(circle(0, 90), ["small", "large"], cost=[[2.0, 1.0]] * 2)  # columns: large, small
    router.add_arm("third", trial(circle(45, 0, 135, 0, 0), "third", [1, 0, 0, 1, 0], [0.1] * 5))
    # At 45 degrees it alone is known; at 0 it was right in one of three tries, which is no majority; 135 teaches nothing.
    assert len(router.exemplars_) == 3
    assert router.predict(circle(2, 44, 88, 130)).tolist() == ["small", "third", "large", "large"]
    # A second arm that was always right at 0 and is cheaper takes that exemplar over.
    router.add_arm("fourth", trial(circle(0, 0), "fourth", [1, 1], [0.01] * 2))
    assert router.predict(circle(2, 44)).tolist() == ["fourth", "third"]


def test_an_arm_is_added_to_a_router_without_exemplars_and_with_weights():
    router = PoolVoteRouter(right_above=1.0).fit(circle(0, 90), [[0, 1]] * 2, sample_weight=[1.0, 2.0])
    log = OutcomeLog.from_arrays(circle(10), np.array([[2.0]]), arms=["2"])
    assert router.add_arm(2, log).predict(circle(50)).tolist() == [2]


def test_an_arm_is_added_through_a_pipeline_of_texts():
    texts = ["add two", "add four", "a poem", "a song"]
    router = make_pipeline(TfidfVectorizer(), PoolVoteRouter(2)).fit(texts, ["sum", "sum", "art", "art"])
    router.add_arm("art2", OutcomeLog.from_arrays(["a dance", "a poem"], np.array([[1.0], [0.0]]), arms=["art2"]))
    assert router.arms_.tolist() == ["art", "sum", "art2"]
    assert router.predict(["add five", "a poem"]).tolist() == ["sum", "art"]


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array], ids=["dense", "sparse"])
def test_a_saved_router_votes_alike_and_takes_arms(layout):
    rng = np.random.default_rng(2)
    X, right = layout(rng.normal(size=(30, 3)).astype(np.float32)), rng.integers(2, size=(30, 2)).astype(float)
    router = PoolVoteRouter(4).fit(X, right, sample_weight=rng.random(30))
    loaded = model_from_bytes(model_bytes(router))
    np.testing.assert_array_equal(loaded.predict_quality(X), router.predict_quality(X))
    log = OutcomeLog.from_arrays(X, right[:, :1], arms=["2"])
    for one in (router, loaded):
        one.add_arm(2, log)
    np.testing.assert_array_equal(loaded.predict_proba(X), router.predict_proba(X))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_neighbors": 0}, "n_neighbors must be an integer >= 1, got 0"),
        ({"n_neighbors": 2.5}, r"n_neighbors must be an integer >= 1, got 2\.5"),
        ({"both_right": "all"}, "both_right must be one of 'cheapest', 'drop', 'each', got 'all'"),
        ({"ties": "dearest"}, "ties must be one of 'cheapest', 'nearest', got 'dearest'"),
        ({"vote": "loud"}, "vote must be one of 'uniform', 'distance', got 'loud'"),
        ({"right_above": "much"}, "right_above must be a finite number or None, got 'much'"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(RouterInputError, match=f"PoolVoteRouter: {message}"):
        PoolVoteRouter(**options).fit(circle(0, 90), [0, 1])


def test_text_is_sent_to_a_transformer():
    with pytest.raises(RouterInputError, match="PoolVoteRouter needs queries as a table of numbers, got list"):
        PoolVoteRouter().fit(["a", "b"], [0, 1])
    with pytest.raises(RouterInputError, match="PoolVoteRouter needs queries as a table of numbers, got list"):
        PoolVoteRouter().fit(circle(0, 90), [0, 1]).predict(["a"])
