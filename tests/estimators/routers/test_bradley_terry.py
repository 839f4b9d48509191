"""Similarity-weighted Bradley-Terry ranking: optimum, tiers, weights by brute force, and what is at the edges."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import minimize

from defer.estimators.outcomes_input import read_outcomes
from defer.estimators.routers.bradley_terry import BradleyTerryRouter, bradley_terry, variance_tiers
from defer.exceptions import RouterInputError
from defer.losses.preference import bradley_terry_loss
from defer.model_file import model_bytes, model_from_bytes
from defer.portfolios.preferences import preference_table

WORDS = ["gpt", "llama", "mix", "yi"]


def log(n: int = 80, seed: int = 0) -> tuple[np.ndarray, Any]:
    """Battles of four models in two kinds of prompts, in which the order of the models is not the same."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(2, size=n)
    X = np.column_stack([1.0 - kind, kind, np.full(n, 0.1)]) + 0.1 * rng.normal(size=(n, 3))
    pair = np.array([rng.choice(4, 2, replace=False) for _ in range(n)])
    strength = np.where(kind[:, None] == 0, [1.5, 0.5, 0.0, -1.0], [-1.0, 0.0, 0.5, 1.5])
    gap = np.take_along_axis(strength, pair, axis=1)
    chance = 1 / (1 + np.exp(gap[:, 1] - gap[:, 0]))
    winner = np.where(rng.random(n) < 0.15, "tie", np.where(rng.random(n) < chance, "a", "b"))
    return X, preference_table(np.array(WORDS)[pair[:, 0]], np.array(WORDS)[pair[:, 1]], winner, arms=WORDS)


def test_the_newton_search_ends_at_the_optimum() -> None:
    rng = np.random.default_rng(0)
    wins = rng.gamma(0.3, 10.0 ** rng.integers(-3, 3, size=(12, 1, 1)), size=(12, 5, 5))
    wins[3, 1, :] = 0.0  # never wins
    wins[4] = 0.0
    prior = 0.2
    found = bradley_terry(wins, prior=prior)
    np.testing.assert_allclose(found.sum(axis=1), 0.0, atol=1e-10)
    slope = bradley_terry_loss(found, wins + prior / 2).gradient
    assert (np.abs(slope).max(axis=1) <= 1e-8 * (1.0 + wins.sum(axis=(1, 2)))).all()
    np.testing.assert_array_equal(found[4], 0.0)
    # One query alone is solved as in the batch.
    np.testing.assert_allclose(
        np.concatenate([bradley_terry(part[None], prior=prior) for part in wins]), found, atol=1e-12
    )


def test_data_that_separate_the_arms_have_finite_strengths() -> None:
    wins = np.triu(np.full((6, 6), 50.0), 1)[None]
    for prior in (1e-9, 1e-3, 1.0):
        found = bradley_terry(wins, prior=prior)[0]
        assert np.isfinite(found).all()
        assert (np.diff(found) < 0).all()


def test_tiers_have_the_least_variance_of_all_segmentations() -> None:
    rng = np.random.default_rng(1)

    def spread(ratings: np.ndarray, tier: np.ndarray) -> float:
        return sum(((ratings[tier == t] - ratings[tier == t].mean()) ** 2).sum() for t in np.unique(tier))

    for m, k in [(6, 3), (8, 2), (9, 4), (5, 1)]:
        ratings = rng.normal(size=m) ** 3
        tier = variance_tiers(ratings, k)
        assert sorted(set(tier.tolist())) == list(range(k))
        assert (np.diff(tier[np.argsort(ratings)]) >= 0).all()
        order, best = np.argsort(ratings), np.inf
        for cuts in itertools.combinations(range(1, m), k - 1):
            other = np.empty(m, dtype=int)
            other[order] = np.searchsorted(cuts, np.arange(m), side="right")
            best = min(best, spread(ratings, other))
        assert spread(ratings, tier) == pytest.approx(best)
    assert variance_tiers(np.array([2.0, 2.0, 2.0, 1.0]), 3).tolist() == [1, 1, 1, 0]
    assert variance_tiers(np.array([2.0, 2.0, 1.0]), 3).tolist() == [1, 2, 0]


@pytest.mark.parametrize("gamma", [0.5, 1.0, 10.0])
def test_strengths_are_those_of_the_weighted_likelihood(gamma: float) -> None:
    X, table = log()
    router = BradleyTerryRouter(gamma, n_tiers=None, prior=0.5).fit(X, table)
    fresh = np.abs(np.random.default_rng(5).normal(size=(4, 3)))
    scores = router.predict_scores(fresh)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    for query, found in zip(fresh, scores, strict=True):
        cosine = unit @ query / np.linalg.norm(query)
        weight = gamma ** (cosine / cosine.max() - 1.0)

        def objective(s: np.ndarray, weight: np.ndarray = weight) -> float:
            total = 0.0
            for row, w in enumerate(weight):
                a, b = np.flatnonzero(np.isfinite(table[row]))
                win = float(table[row, a])
                total += w * (win * np.logaddexp(0, s[b] - s[a]) + (1 - win) * np.logaddexp(0, s[a] - s[b]))
            pairs = itertools.combinations(range(4), 2)
            return total + 0.25 * sum(np.logaddexp(0, s[a] - s[b]) + np.logaddexp(0, s[b] - s[a]) for a, b in pairs)

        best = minimize(objective, np.zeros(4), method="BFGS", options={"gtol": 1e-7}).x
        np.testing.assert_allclose(found, best - best.mean(), atol=1e-5)


def test_arms_of_a_tier_share_their_strength_and_their_battles() -> None:
    X, table = log(200)
    router = BradleyTerryRouter(n_tiers=2).fit(X, table)
    scores = router.predict_scores(X)
    assert sorted(set(router.tier_.tolist())) == [0, 1]
    for tier in (0, 1):
        assert (np.ptp(scores[:, router.tier_ == tier], axis=1) == 0).all()
    # Two tiers are two models: battles between them decide.
    plain = BradleyTerryRouter(1.0, n_tiers=2, prior=1e-9).fit(X, table)
    share = [0.0, 0.0]
    for row in np.asarray(table):
        a, b = np.flatnonzero(np.isfinite(row))
        if plain.tier_[a] != plain.tier_[b]:
            upper, lower = (a, b) if plain.tier_[a] else (b, a)
            share[0], share[1] = share[0] + row[upper], share[1] + row[lower]
    gap = plain.predict_scores(X[:1])[0]
    assert gap[plain.tier_ == 1][0] - gap[plain.tier_ == 0][0] == pytest.approx(np.log(share[0] / share[1]))


def test_training_scores_do_not_know_their_own_query() -> None:
    X, table = log(60)
    router = BradleyTerryRouter(n_tiers=None)
    outcomes = read_outcomes(table, n=60)
    router.arms_ = outcomes.arms
    scores = router._fit_scores(X, outcomes)
    for row in (0, 17):
        kept = np.arange(60) != row
        left_out = BradleyTerryRouter(n_tiers=None).fit(X[kept], table[kept])
        np.testing.assert_allclose(left_out.predict_scores(X[[row]])[0], scores[row], atol=1e-8)


def test_a_query_similar_to_nothing_gets_the_ordinary_model() -> None:
    X, table = log()
    X = np.abs(X)
    router, plain = BradleyTerryRouter(n_tiers=None).fit(X, table), BradleyTerryRouter(1.0, n_tiers=None).fit(X, table)
    odd = np.array([[0.0, 0.0, 0.0], [-1.0, -2.0, -1.0]])
    np.testing.assert_allclose(router.predict_scores(odd), plain.predict_scores(odd), atol=1e-9)
    # Of two arms, won 8 to 2 with half a battle more on either side.
    two = np.repeat([[1.0, 0.0], [0.0, 1.0]], [8, 2], axis=0)
    for gamma in (0.5, 10.0, 100.0):
        pair = BradleyTerryRouter(gamma, n_tiers=None).fit(np.eye(10), two).predict_scores(np.zeros((1, 10)))[0]
        assert pair[0] - pair[1] == pytest.approx(np.log(8.5 / 2.5))
    assert not np.allclose(router.predict_scores(X), plain.predict_scores(X), atol=0.1)


def test_sparse_float32_and_saved_routers_agree() -> None:
    X, table = log()
    router = BradleyTerryRouter().fit(X, table)
    thin = BradleyTerryRouter().fit(sparse.csr_array(X), table)
    short = BradleyTerryRouter().fit(X.astype(np.float32), table)
    assert short.queries_.dtype == np.float32
    np.testing.assert_allclose(thin.predict_scores(sparse.csr_array(X)), router.predict_scores(X), atol=1e-9)
    np.testing.assert_allclose(short.predict_scores(X.astype(np.float32)), router.predict_scores(X), atol=1e-4)
    loaded = model_from_bytes(model_bytes(thin))
    np.testing.assert_array_equal(loaded.predict_scores(sparse.csr_array(X)), thin.predict_scores(sparse.csr_array(X)))


def test_edges() -> None:
    X = np.eye(3)
    nothing = np.full((3, 2), np.nan)
    nothing[0], nothing[1, 0] = [1.0, 0.0], 0.5
    router = BradleyTerryRouter().fit(X, nothing)
    assert np.isfinite(router.predict_quality(X)).all()
    equal = BradleyTerryRouter().fit(X, np.full((3, 2), 0.7))
    assert (equal.predict_scores(X) == 0).all()
    assert equal.ratings_.tolist() == [1000.0, 1000.0]
    with pytest.raises(RouterInputError, match="BradleyTerryRouter needs queries as a table of numbers, got list"):
        BradleyTerryRouter().fit(["a", "b", "c"], nothing)
    with pytest.raises(RouterInputError, match="there is no arm 9; the arms are"):
        router.predict_win(X, 0, 9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 0.0}, "gamma must be a finite number > 0"),
        ({"prior": 0.0}, "prior must be a finite number > 0"),
        ({"n_tiers": 0}, "n_tiers must be an integer >= 1"),
    ],
)
def test_wrong_parameters_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RouterInputError, match=f"BradleyTerryRouter: {message}"):
        BradleyTerryRouter(**options).fit(np.eye(2), np.eye(2))
