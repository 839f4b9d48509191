"""OrchestraLLM [10]: what must hold of pools, vote, prior, oracle and states, by the card's numbers and statements."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defer.estimators.dialogue import DialogueRouter, serialize_turn, slot_f1
from defer.estimators.pipeline import make_pipeline
from defer.estimators.routers.contrastive import ContrastiveProjection
from defer.estimators.routers.pool_vote import PoolVoteRouter
from defer.estimators.routers.pools import pool_votes
from defer.evaluation.goal_accuracy import goal_hits, joint_goal_accuracy

SLM, LLM = 0, 1
CHEAP_FIRST = np.array([1.0, 20.0])


def circle(degrees):
    angle = np.deg2rad(degrees)
    return np.column_stack([np.cos(angle), np.sin(angle)])


def pools(small, large, n_neighbors=10):
    """A router with so many exemplars of either arm in one place."""
    right = np.repeat(np.eye(2), [small, large], axis=0)
    return PoolVoteRouter(n_neighbors).fit(
        np.ones((small + large, 1)), right, cost=np.tile(CHEAP_FIRST, (len(right), 1))
    )


def test_label_of_every_correctness_pair():
    pairs = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert pool_votes(pairs, np.array([SLM, LLM])).tolist() == [[1, 0], [1, 0], [0, 1], [0, 0]]
    # "Right" is exact: what is nearly right is wrong, and both wrong is in no pool.
    router = PoolVoteRouter().fit(circle([0, 90, 180]), [[1.0, 1.0], [0.99, 1.0], [0.99, 0.5]])
    assert router.votes_.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(("small", "large", "arm"), [(5, 5, SLM), (4, 6, LLM), (6, 4, SLM), (10, 0, SLM), (0, 10, LLM)])
def test_ten_votes(small, large, arm):
    router = pools(small, large)
    assert router.predict([[1.0]]).tolist() == [arm]
    np.testing.assert_allclose(router.predict_proba([[1.0]]), [[small / 10, large / 10]])


def test_plurality_of_more_than_two_experts_with_ties_to_the_cheapest_tied():
    def decide(counts, cost):
        right = np.repeat(np.eye(3), counts, axis=0)
        return PoolVoteRouter().fit(np.ones((10, 1)), right, cost=np.tile(cost, (10, 1))).predict([[1.0]])[0]

    assert decide([3, 3, 4], [1.0, 2.0, 3.0]) == 2
    assert decide([2, 4, 4], [1.0, 2.0, 3.0]) == 1
    assert decide([2, 4, 4], [1.0, 3.0, 2.0]) == 2


def test_one_neighbour_is_the_nearest_and_all_neighbours_are_the_larger_pool():
    rng = np.random.default_rng(0)
    X, winner, fresh = rng.normal(size=(50, 5)), rng.integers(2, size=50), rng.normal(size=(200, 5))
    cosine = fresh @ X.T / np.linalg.norm(fresh, axis=1)[:, None] / np.linalg.norm(X, axis=1)
    nearest = PoolVoteRouter(1).fit(X, winner)
    np.testing.assert_array_equal(nearest.predict(fresh), winner[cosine.argmax(axis=1)])
    for k in (50, 51, 1000):
        everybody = PoolVoteRouter(k).fit(X, winner)
        assert set(everybody.predict(fresh).tolist()) == {np.bincount(winner).argmax()}
        np.testing.assert_allclose(everybody.predict_proba(fresh), np.tile(np.bincount(winner) / 50, (200, 1)))


def test_exemplars_of_equal_distance_come_in_the_order_of_the_pool():
    X, fresh = np.ones((6, 2)), np.array([[1.0, 1.0]])
    for winner in itertools.product([0, 1], repeat=6):
        if 0 < sum(winner) < 6:
            assert PoolVoteRouter(1).fit(X, winner).predict(fresh).tolist() == [winner[0]]
            assert PoolVoteRouter(3).fit(X, winner).predict(fresh).tolist() == [int(sum(winner[:3]) >= 2)]


@given(seed=st.integers(0, 10**6), k=st.integers(1, 12), copies=st.integers(2, 4))
@settings(max_examples=50)
def test_duplicating_every_exemplar_of_the_llm_only_moves_decisions_to_it(seed, k, copies):
    rng = np.random.default_rng(seed)
    X, winner, fresh = rng.normal(size=(30, 3)), rng.integers(2, size=30), rng.normal(size=(40, 3))
    winner[:2] = [0, 1]
    repeats = np.where(winner == LLM, copies, 1)
    before = PoolVoteRouter(k).fit(X, winner).predict(fresh)
    after = PoolVoteRouter(k).fit(np.repeat(X, repeats, axis=0), np.repeat(winner, repeats)).predict(fresh)
    assert (after >= before).all()


def test_oracle_accuracy_and_share():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(2000, 3))
    right = (rng.random((2000, 2)) < np.column_stack([0.3 + 0.4 * (X[:, 0] > 0), np.full(2000, 0.7)])).astype(float)
    # The oracle prefers the SLM, also where both are wrong.
    oracle = np.where((right[:, SLM] == 0) & (right[:, LLM] == 1), LLM, SLM)
    accuracy = right[np.arange(2000), oracle].mean()
    assert accuracy == right.any(axis=1).mean()
    assert (oracle == LLM).mean() == ((1 - right[:, SLM]) * right[:, LLM]).mean()
    router = PoolVoteRouter().fit(X[:1000], right[:1000], cost=np.tile(CHEAP_FIRST, (1000, 1)))
    assert router.score(X[1000:], right[1000:]) <= right[1000:].any(axis=1).mean()
    # Every exemplar votes as the oracle chooses, where it votes at all.
    voting = right[:1000].any(axis=1)
    np.testing.assert_array_equal(router.votes_.argmax(axis=1), oracle[:1000][voting])


@pytest.mark.parametrize(("rule", "arm", "accuracy"), [("cheapest", SLM, 0.55), ("drop", LLM, 0.8), ("each", LLM, 0.8)])
def test_both_right_example(rule, arm, accuracy):
    # P(both) = .5, P(SLM only) = .05, P(LLM only) = .3, P(neither) = .15, at one place.
    rng = np.random.default_rng(2)
    outcomes = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])

    def draw(n):
        return outcomes[rng.choice(4, size=n, p=[0.5, 0.05, 0.3, 0.15])]

    n = 3000
    router = PoolVoteRouter(301, both_right=rule).fit(np.ones((n, 1)), draw(n), cost=np.tile(CHEAP_FIRST, (n, 1)))
    share = {"cheapest": 0.3 / 0.85, "drop": 0.3 / 0.35, "each": 0.8 / 1.35}[rule]
    # The standard error of a share of 301 votes is below .029.
    assert router.predict_proba([[1.0]])[0, LLM] == pytest.approx(share, abs=0.14)
    assert router.predict([[1.0]]).tolist() == [arm]
    fresh = draw(20_000)
    assert fresh[:, router.predict([[1.0]])[0]].mean() == pytest.approx(accuracy, abs=0.02)


def test_a_new_expert_needs_no_training():
    rng = np.random.default_rng(3)
    X, fresh = rng.normal(size=(300, 3)), rng.normal(size=(100, 3))
    right = (rng.random((300, 3)) < [0.5, 0.7, 0.6]).astype(float)
    from defer import OutcomeLog

    log = OutcomeLog.from_arrays(X, right, arms=["slm", "llm", "mid"], cost=np.tile([1.0, 20.0, 5.0], (300, 1)))
    pair = log.select(arms=["slm", "llm"])
    extended = PoolVoteRouter().fit(pair.X, pair.quality, cost=pair.cost).add_arm("mid", log)
    anew = PoolVoteRouter().fit(log.X, log.quality, cost=log.cost)
    assert extended.predict(fresh).tolist() == anew.predict(fresh).tolist()


def test_expert_aware_tuning_of_the_retriever_raises_routed_accuracy():
    pytest.importorskip("skorch")

    def turns(seed, n):
        """Near each other by topic; whether the SLM is right shows along a weaker direction."""
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(n, 12)) * np.repeat([3.0, 1.0], [3, 9])
        easy = X[:, 3] > 0
        return X, np.column_stack([easy, ~easy]).astype(float)

    X, right = turns(0, 600)
    fresh, truth = turns(1, 1000)
    plain = PoolVoteRouter().fit(X, right)
    tuned = make_pipeline(ContrastiveProjection(random_state=0), PoolVoteRouter()).fit(X, right)
    assert tuned.score(fresh, truth) > plain.score(fresh, truth) + 0.1


def test_slot_f1():
    assert slot_f1({}, {}) == 1.0
    assert slot_f1({"a": "1", "b": "2"}, {"a": "1", "c": "3", "d": "4"}) == pytest.approx(2 * 1 / 5)


def simulated_dialogues(n_dialogues=200, n_turns=6, accuracy=(0.75, 0.8)):
    """Logged turn beliefs of two experts that err independently; every turn names a slot of its own."""
    rng = np.random.default_rng(4)
    gold, logged, dialogue = [], [], []
    for name, turn in itertools.product(range(n_dialogues), range(n_turns)):
        belief = {f"slot {turn}": "right"}
        gold.append(belief)
        logged.append(
            {arm: belief if rng.random() < accuracy[arm] else {f"slot {turn}": "wrong"} for arm in (SLM, LLM)}
        )
        dialogue.append(name)
    return gold, logged, dialogue


def test_goal_accuracy_of_states_is_that_of_error_free_prefixes():
    gold, logged, dialogue = simulated_dialogues()
    predicted = [answers[LLM] for answers in logged]
    per_turn, per_state = (
        joint_goal_accuracy(predicted, gold, dialogue, propagate=propagate) for propagate in (False, True)
    )
    hits = goal_hits(predicted, gold, dialogue, propagate=False).reshape(200, 6)
    assert per_state == pytest.approx(np.logical_and.accumulate(hits, axis=1).mean())
    # In expectation .8 per turn, and the mean of .8, .8**2, ..., .8**6 per state.
    assert per_turn == pytest.approx(0.8, abs=0.06)
    assert per_state == pytest.approx(np.mean(0.8 ** np.arange(1, 7)), abs=0.1)
    assert per_state < per_turn - 0.2


def test_routed_dialogues_replay_the_log_and_stay_below_the_oracle():
    gold, logged, dialogue = simulated_dialogues(40)
    right = np.array(
        [[answers[arm] == truth for arm in (SLM, LLM)] for answers, truth in zip(logged, gold, strict=True)]
    )
    from sklearn.feature_extraction.text import HashingVectorizer

    texts = [serialize_turn({}, "", f"tell slot {row % 6}") for row in range(len(gold))]
    router = make_pipeline(HashingVectorizer(n_features=64), PoolVoteRouter()).fit(texts, right.astype(float))
    predicted = []
    for name in range(40):
        rows = slice(6 * name, 6 * name + 6)
        run = DialogueRouter(router).run([("", f"tell slot {turn}") for turn in range(6)], logged=logged[rows])
        predicted += [turn.belief for turn in run]
        assert [turn.state for turn in run] == [
            {slot: value for belief in predicted[6 * name : 6 * name + turn + 1] for slot, value in belief.items()}
            for turn in range(6)
        ]
    accuracy = joint_goal_accuracy(predicted, gold, dialogue[: len(gold)], propagate=False)
    assert accuracy <= right.any(axis=1).mean()
    assert joint_goal_accuracy(predicted, gold, dialogue, propagate=True) <= accuracy
