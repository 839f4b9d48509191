"""Pairs of queries: what belongs together, by experts and by annotations."""

from __future__ import annotations

import numpy as np
import pytest

from defer.estimators.dialogue import slot_f1
from defer.estimators.routers.contrastive_pairs import QueryPairs, expert_pairs, task_pairs, task_similarity
from defer.exceptions import RouterInputError


def listed(pairs):
    return dict(zip(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True), pairs.same.tolist(), strict=True))


def annotations(seed, n=30):
    rng = np.random.default_rng(seed)

    def state():
        return {f"slot {slot}": str(rng.integers(2)) for slot in range(4) if rng.random() < 0.4}

    return [(state(), state()) for _ in range(n)]


def test_pairs_have_one_form_and_sources_that_disagree_are_averaged():
    pairs = QueryPairs.of([3, 1, 0], [1, 3, 2], [1.0, 0.0, 1.0])
    assert listed(pairs) == {(0, 2): 1.0, (1, 3): 0.5}
    assert listed(pairs + QueryPairs.of([2], [0], [0.0])) == {(0, 2): 0.5, (1, 3): 0.5}
    assert len(QueryPairs.of([], [], []) + QueryPairs.of([], [], [])) == 0


def test_expert_pairs_are_near_neighbours_by_their_winners():
    rng = np.random.default_rng(0)
    X, winner = rng.normal(size=(40, 3)), rng.integers(-1, 2, size=40)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    expected = {}
    for row in np.flatnonzero(winner >= 0):
        others = [other for other in np.flatnonzero(winner >= 0) if other != row]
        for other in sorted(others, key=lambda one: -unit[row] @ unit[one])[:4]:
            expected[min(row, other), max(row, other)] = float(winner[row] == winner[other])
    assert listed(expert_pairs(X, winner, n_pairs=4)) == expected


@pytest.mark.parametrize("winner", [[-1, -1, -1], [0, -1, -1]])
def test_fewer_than_two_exemplars_make_no_pairs(winner):
    assert len(expert_pairs(np.eye(3), winner)) == 0


def test_task_similarity_is_the_sum_of_two_f1():
    turns = annotations(0)
    expected = [[slot_f1(a[0], b[0]) + slot_f1(a[1], b[1]) for b in turns] for a in turns]
    np.testing.assert_allclose(task_similarity(turns), expected, atol=1e-12)


def test_task_pairs_are_the_ends_of_the_similarity():
    turns = annotations(1)
    alike, pairs = task_similarity(turns), task_pairs(turns, n_pairs=3, random_state=0)
    off = np.where(np.eye(30, dtype=bool), np.nan, alike)
    third_best, third_worst = np.sort(off, axis=1)[:, -4], np.sort(off, axis=1)[:, 2]  # nan is sorted last
    for (one, other), same in listed(pairs).items():
        if same == 1.0:
            assert alike[one, other] >= min(third_best[one], third_best[other])
        if same == 0.0:
            assert alike[one, other] <= max(third_worst[one], third_worst[other])
    assert {0.0, 1.0} <= set(pairs.same.tolist())


def test_task_pairs_are_drawn_by_the_seed():
    turns = annotations(2)
    first, again, other = (task_pairs(turns, n_pairs=3, random_state=seed) for seed in (0, 0, 1))
    assert listed(first) == listed(again) != listed(other)


def test_turns_that_are_all_alike_make_no_pairs():
    assert len(task_pairs([({}, {"area": "north"})] * 6)) == 0
    assert len(task_pairs([({}, {})])) == 0
    assert len(task_pairs([])) == 0


@pytest.mark.parametrize("wrong", [{"area": "north"}, ({},), ({}, "north"), "ab"])
def test_what_is_no_annotation_is_named(wrong):
    with pytest.raises(RouterInputError, match=r"annotations: each must be a pair .* and row 1 is"):
        task_similarity([({}, {}), wrong])


def test_wrong_options_are_named():
    with pytest.raises(RouterInputError, match=r"expert_pairs: winner must have shape \(3,\), got \(2,\)"):
        expert_pairs(np.eye(3), [0, 1])
    with pytest.raises(RouterInputError, match="expert_pairs: n_pairs must be an integer >= 1, got 0"):
        expert_pairs(np.eye(3), [0, 1, 0], n_pairs=0)
    with pytest.raises(RouterInputError, match="task_pairs: n_pairs must be an integer >= 1, got 0"):
        task_pairs([({}, {})] * 3, n_pairs=0)
