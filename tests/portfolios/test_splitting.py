"""Splits: whole groups, honest sizes, no leakage unseen, the same for the same seed."""

from __future__ import annotations

import warnings
from datetime import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defer import OutcomeLog
from defer.exceptions import LeakageWarning, OutcomeLogError
from defer.portfolios.splitting import interval_groups, query_groups, shared_texts, split_rows


def log_of(n, X=None, **columns):
    return OutcomeLog.from_arrays(X, np.ones((n, 2)), query_id=np.arange(n), **columns)


def ids(part):
    return part.query_id.tolist()


@given(
    cluster=st.lists(st.integers(0, 6), min_size=2, max_size=40).filter(lambda values: len(set(values)) > 1),
    test_size=st.floats(0.01, 0.99),
    seed=st.integers(0, 1000),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_clusters_stay_whole_and_the_size_is_as_near_as_they_allow(cluster, test_size, seed):
    log = log_of(len(cluster), cluster=cluster)
    train, test = log.split(test_size, seed=seed)
    assert sorted(ids(train) + ids(test)) == list(range(len(cluster)))
    assert ids(train) == sorted(ids(train))
    assert not set(train.cluster.tolist()) & set(test.cluster.tolist())
    # No single cluster could be added to the test part to bring it nearer, unless training would be left empty.
    size = min(max(1, round(len(cluster) * test_size)), len(cluster) - 1)
    count = np.bincount(train.cluster)
    spare = count[count > 0]
    if len(spare) > 1:
        assert (np.abs(len(test) + spare - size) >= abs(len(test) - size)).all() or len(set(test.cluster)) == 1


@pytest.mark.parametrize("by", [None, "cluster", "random", "time"])
@pytest.mark.parametrize("test_size", [0.05, 0.3, 0.5, 0.9])
def test_size_of_the_test_part_is_exact_where_every_query_stands_alone(by, test_size):
    log = log_of(1000, time=np.random.default_rng(0).permutation(1000))
    train, test = log.split(test_size, by=by)
    assert len(test) == round(1000 * test_size)
    assert len(train) == 1000 - len(test)


@pytest.mark.parametrize("by", ["cluster", "random"])
def test_a_seed_repeats_its_split_and_another_gives_another(by):
    log = log_of(200, X=[f"text {row}" for row in range(200)])
    first, again, other = (log.split(0.3, seed=seed, by=by)[1] for seed in (1, 1, 2))
    assert ids(first) == ids(again)
    assert ids(first) != ids(other)


def test_every_query_is_tested_equally_often():
    log = log_of(20)
    tested = np.zeros(20)
    for seed in range(400):
        tested[ids(log.split(0.25, seed=seed)[1])] += 1
    # Binomial(400, 0.25), five standard deviations.
    assert np.abs(tested - 100).max() < 5 * np.sqrt(400 * 0.25 * 0.75)


def test_equal_texts_stay_together_where_there_is_no_cluster():
    texts = [f"text {row // 3}" for row in range(60)]
    log = log_of(60, X=texts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train, test = log.split(0.3, seed=4)
    assert not set(train.X) & set(test.X)
    assert len(test) == 18


@pytest.mark.parametrize("by", ["random", "time"])
def test_leakage_is_counted_and_its_first_row_named(by):
    log = log_of(6, X=["a", "b", "c", "a", "b", "d"], time=[1, 2, 3, 4, 5, 6])
    train_rows, test_rows = (np.array([0, 1, 2]), np.array([3, 4, 5]))
    if by == "random":
        seed = next(s for s in range(200) if set(np.random.default_rng(s).permutation(6)[:3]) == {3, 4, 5})
    else:
        seed = 0
    message = r"2 of 3 test queries have a text that is also in the training part, the first is row 3; split by cluster"
    with pytest.warns(LeakageWarning, match=message) as caught:
        train, test = log.split(0.5, seed=seed, by=by)
    assert caught[0].filename == __file__
    assert (ids(train), ids(test)) == (train_rows.tolist(), test_rows.tolist())


def test_leakage_between_clusters_is_seen():
    log = log_of(4, X=["a", "a", "b", "c"], cluster=["u", "v", "w", "x"])
    leaking = 0
    for seed in range(20):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train, test = log.split(0.5, seed=seed)
        assert bool(caught) == bool(set(train.X) & set(test.X))
        leaking += len(caught)
        assert all("give equal texts one cluster, and split by it" in str(warning.message) for warning in caught)
    assert leaking > 0


def test_shared_texts_of_two_logs_are_counted():
    train, test = log_of(2, X=["a", "b"]), log_of(3, X=["c", "b", "b"])
    assert shared_texts(train, None, test, None) == (2, 1)
    assert shared_texts(train, np.array([0]), test, None) == (0, -1)
    assert shared_texts(train, None, test, np.array([2, 0])) == (1, 2)


def test_queries_that_are_no_texts_cannot_be_compared():
    texts, numbers = log_of(2, X=["a", "b"]), log_of(2, X=np.zeros((2, 1)))
    for train, test in ((texts, numbers), (numbers, texts), (numbers, numbers), (log_of(2), texts)):
        assert shared_texts(train, None, test, None) is None


@pytest.mark.parametrize(
    "kind", [int, float, str, lambda day: np.datetime64("2024-01-01") + day, lambda day: datetime(2024, 1, day)]
)
def test_by_time_tests_on_the_latest(kind):
    order = [5, 1, 4, 2, 3]
    log = log_of(5, time=np.array([kind(day) for day in order]))
    train, test = log.split(0.4, by="time")
    assert [order[row] for row in ids(test)] == [5, 4]
    assert [order[row] for row in ids(train)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("times", "test_size", "tested"),
    [
        ([1, 1, 1, 2, 2, 3], 0.34, [3, 4, 5]),  # three rather than one
        ([1, 2, 2, 2, 2, 3], 0.34, [5]),
        ([1, 1, 1, 1, 1, 2], 0.9, [5]),
        ([1, 2, 2, 2, 2, 2], 0.1, [1, 2, 3, 4, 5]),
    ],
)
def test_equal_times_stay_on_one_side(times, test_size, tested):
    assert ids(log_of(6, time=times).split(test_size, by="time")[1]) == tested


@pytest.mark.parametrize("count", [(99, 1), (1, 99), (50, 50)])
@pytest.mark.parametrize("test_size", [0.01, 0.1, 0.5, 0.9, 0.99])
def test_no_part_is_empty_even_for_two_lopsided_clusters(count, test_size):
    log = log_of(100, cluster=np.repeat(["u", "v"], count))
    for seed in range(5):
        train, test = log.split(test_size, seed=seed)
        assert min(len(train), len(test)) == min(count)


@pytest.mark.parametrize("by", [None, "random", "time"])
@pytest.mark.parametrize("test_size", [0.001, 0.999])
def test_two_queries_can_always_be_split(by, test_size):
    train, test = log_of(2, time=[0, 1]).split(test_size, by=by)
    assert (len(train), len(test)) == (1, 1)


@pytest.mark.parametrize(
    ("log", "options", "message"),
    [
        (log_of(3), {"test_size": 0.0}, r"split: test_size must be in \(0, 1\), got 0.0"),
        (log_of(3), {"test_size": 1}, r"split: test_size must be in \(0, 1\), got 1"),
        (log_of(3), {"by": "user"}, "split: by must be 'cluster', 'time' or 'random', got 'user'"),
        (log_of(3), {"by": "time"}, "split: by='time' needs a log with a time column"),
        (log_of(1), {}, "split: a log of one query cannot be split: one part would be empty"),
        (log_of(3, cluster=[1, 1, 1]), {}, "split: all 3 queries are in one cluster: one part would be empty"),
        (log_of(3, X=["a"] * 3), {}, "split: all 3 queries are in one cluster"),
        (log_of(3, time=[7, 7, 7]), {"by": "time"}, "split: all 3 queries have the time 7: one part would be empty"),
        (
            log_of(3, time=[1.0, np.nan, 2.0]),
            {"by": "time"},
            r"column 'time' has 1 of 3 values that are missing; a split by time needs them, the first in row 1 \(nan\)",
        ),
    ],
)
def test_split_says_why_it_cannot(log, options, message):
    with pytest.raises(OutcomeLogError, match=message):
        log.split(**options)


def test_groups_are_clusters_else_texts_else_rows():
    assert query_groups(log_of(3, X=["a", "b", "a"], cluster=["v", "u", "u"])).tolist() == [0, 1, 1]
    assert query_groups(log_of(3, X=["a", "b", "a"])).tolist() == [0, 1, 0]
    assert query_groups(log_of(3, X=np.zeros((3, 1)))).tolist() == [0, 1, 2]


def test_intervals_group_clusters_else_repeated_texts_else_nothing():
    assert interval_groups(log_of(3, X=["a", "b", "a"], cluster=["v", "u", "u"])).tolist() == [0, 1, 1]
    assert interval_groups(log_of(3, cluster=["u", "v", "w"])).tolist() == [0, 1, 2]
    assert interval_groups(log_of(3, X=["a", "b", "a"])).tolist() == [0, 1, 0]
    assert interval_groups(log_of(3, X=["a", "b", "c"])) is None
    assert interval_groups(log_of(3, X=np.zeros((3, 1)))) is None
    assert interval_groups(log_of(3)) is None


def test_splits_of_a_sparse_bandit_log_need_not_observe_every_arm():
    rng = np.random.default_rng(0)
    log = OutcomeLog.from_arrays(None, np.ones((30, 20))).with_action(rng.dirichlet(np.ones(20), size=30))
    train, test = log.split(0.3)
    assert np.isnan(np.asarray(test.quality)).all(axis=0).any()
    assert train.arms == test.arms


def test_grouping_needs_no_memory_of_the_longest_text():
    # As a fixed-width array these texts would take 40 GB.
    texts = ["x" * 1_000_000, *(str(row) for row in range(10_000))]
    log = OutcomeLog.from_arrays(texts, np.ones((10_001, 1)))
    train_rows, test_rows = split_rows(log, 0.3)
    assert len(train_rows) + len(test_rows) == 10_001
