"""The dual contrastive router: its gradient, what it learns, and what leaves it unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse

from defer.estimators.routers.dual_contrastive import DualContrastiveRouter, _clusters, _Contrast
from defer.exceptions import RouterInputError
from defer.losses.contrastive import contrast_weights
from defer.model_file import model_bytes, model_from_bytes


def skills(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Queries of four kinds in noisy directions, and five arms that are good at some kinds."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(4, size=n)
    X = 2.0 * np.eye(12)[kind] + rng.normal(size=(n, 12))
    chance = np.array(
        [[0.9, 0.2, 0.2, 0.2], [0.2, 0.9, 0.2, 0.2], [0.1, 0.1, 0.9, 0.2], [0.2, 0.2, 0.2, 0.9], [0.5] * 4]
    )
    return X, (rng.random((n, 5)) < chance[:, kind].T).astype(float)


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array], ids=["dense", "sparse"])
def test_the_gradient_is_that_of_the_loss(layout: Any) -> None:
    rng = np.random.default_rng(0)
    units = rng.normal(size=(12, 4))
    positive, negative = contrast_weights(rng.choice([0.0, 0.4, 1.0], size=(12, 3)), n_positive=2, n_negative=1)
    cluster, weight = np.eye(3)[rng.integers(3, size=12)], rng.random(12)
    training = _Contrast(layout(units), positive, negative, cluster, weight, 0.5, 0.7, 1.0)
    shapes = [(4, 3), (3,), (3, 3)]
    parts = [rng.normal(size=shape) for shape in shapes]
    slopes = training._loss(*parts)[1]
    for number, shape in enumerate(shapes):
        for place in np.ndindex(shape):
            moved = []
            for step in (1e-6, -1e-6):
                shifted = [part.copy() for part in parts]
                shifted[number][place] += step
                moved.append(training._loss(*shifted)[0])
            assert slopes[number][place] == pytest.approx((moved[0] - moved[1]) / 2e-6, abs=1e-7)


def test_it_learns_who_is_good_at_what() -> None:
    X, quality = skills(0, 500)
    fresh, truth = skills(1, 1500)
    router = DualContrastiveRouter().fit(X, quality)
    # The best arm of a known kind is right at .9, the best single arm at .5; the kind shows through noise.
    assert router.score(fresh, truth) > 0.68
    assert router.score(fresh, truth) > max(truth.mean(axis=0)) + 0.15


def singles(quality: np.ndarray, seed: int) -> np.ndarray:
    """One outcome of every row."""
    arm = np.random.default_rng(seed).integers(quality.shape[1], size=len(quality))
    return np.where(np.arange(quality.shape[1]) == arm[:, None], quality, np.nan)


def test_single_outcomes_are_contrasted_with_those_of_other_arms() -> None:
    nan = np.nan
    quality = np.array(
        [[1.0, nan, nan], [0.0, nan, nan], [nan, 1.0, nan], [nan, 0.0, nan], [nan, 0.4, nan], [nan, nan, 0.3]]
    )
    weight = np.array([1.0, 1.0, 1.0, 2.0, 1.0, 1.0])
    positive, negative = DualContrastiveRouter()._contrast_of_arms(quality, weight)
    # Of the second arm's outcomes half are 0, a quarter .4 and a quarter 1; those up to .5 are wrong.
    np.testing.assert_allclose(positive[:2], [[1.0, 0.0, 0.0], [0.0, 0.5, 1.0]])
    np.testing.assert_allclose(negative[:2], [[0.0, 0.75, 1.0], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(positive[4], [0.5, (0.5 + 1.0) / 2.0, 0.0])
    np.testing.assert_allclose(negative[4], [0.5, 0.5 / 2.0, 1.0])
    limited = DualContrastiveRouter(n_positive=1, n_negative=1)._contrast_of_arms(quality, weight)
    np.testing.assert_allclose(limited[1][0], [0.0, 0.375, 0.5])
    full = skills(0, 5)[1]
    whole = DualContrastiveRouter()._contrast_of_arms(full, np.ones(5))
    np.testing.assert_array_equal(whole, contrast_weights(full))


@pytest.mark.filterwarnings("ignore::defer.exceptions.MissingPropensityWarning")
@pytest.mark.parametrize("weighted", [False, True])
def test_one_row_observed_in_full_does_not_decide_for_a_bandit_log(weighted: bool) -> None:
    X, quality = skills(0, 900)
    fresh, truth = skills(1, 1500)
    bandit, options = singles(quality, 77), {"propensity": np.full(900, 1 / quality.shape[1])} if weighted else {}
    scores = []
    for n_full in (0, 1, 300):
        table = np.vstack([quality[:n_full], bandit[n_full:]])
        router = DualContrastiveRouter().fit(X, table, **options)
        assert router.score(fresh, truth) > 0.66
        scores.append(router.predict_scores(fresh))
    assert np.abs(scores[1] - scores[0]).max() < 0.2 * np.ptp(scores[0])
    assert (scores[1].argmax(axis=1) == scores[0].argmax(axis=1)).mean() > 0.97


@pytest.mark.parametrize("full", [[1.0, 0.0], [0.0, 1.0]])
def test_one_row_of_two_arms_does_not_turn_a_bandit_log_round(full: list[float]) -> None:
    rng = np.random.default_rng(0)
    X, fresh = rng.normal(size=(1000, 3)), rng.normal(size=(1000, 3))
    chance = 1 / (1 + np.exp(-3 * X[:, 0]))
    outcome = (rng.random((1000, 2)) < np.column_stack([chance, 1 - chance])).astype(float)
    table = singles(outcome, 77)
    table[0] = full
    router = DualContrastiveRouter().fit(X, table, propensity=np.full(1000, 0.5))
    assert np.mean(router.predict(fresh) == (fresh[:, 0] < 0)) > 0.9


def test_scores_are_cosines_over_the_temperature() -> None:
    X, quality = skills(2, 60)
    router = DualContrastiveRouter(n_components=3, temperature=0.25).fit(X, quality)
    units = X / np.linalg.norm(X, axis=1, keepdims=True)
    hidden = units @ router.projection_ + router.offset_
    cosine = hidden / np.linalg.norm(hidden, axis=1, keepdims=True) @ router.arm_embeddings_.T
    np.testing.assert_allclose(router.predict_scores(X), cosine / 0.25, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(np.linalg.norm(router.arm_embeddings_, axis=1), 1.0)
    assert not hasattr(router, "predict_proba")


def test_a_strong_pull_leaves_the_projection_where_it_starts() -> None:
    X, quality = skills(3, 60)
    np.testing.assert_allclose(DualContrastiveRouter(C=1e-9).fit(X, quality).projection_, np.eye(12), atol=1e-6)
    narrow = DualContrastiveRouter(3, C=1e-9).fit(X, quality).projection_
    units = X / np.linalg.norm(X, axis=1, keepdims=True)
    leading = np.linalg.svd(units, full_matrices=False)[2][:3]
    np.testing.assert_allclose(narrow @ narrow.T, leading.T @ leading, atol=1e-5)


def test_clusters_do_not_follow_the_order_of_the_queries() -> None:
    X, _ = skills(4, 200)
    order = np.random.default_rng(0).permutation(200)
    straight, shuffled = (_clusters(one, None, np.arange(200), 4) for one in (X, X[order]))
    np.testing.assert_array_equal((straight @ straight.T)[order][:, order], shuffled @ shuffled.T)
    assert _clusters(np.ones((5, 2)), None, np.arange(5), 4).tolist() == [[1.0]] * 5


def test_the_contrast_of_clusters_keeps_their_queries_together() -> None:
    X, quality = skills(5, 300)

    def spread(balance: float) -> float:
        router = DualContrastiveRouter(balance=balance, C=10.0).fit(X, quality)
        units = X / np.linalg.norm(X, axis=1, keepdims=True)
        hidden = units @ router.projection_ + router.offset_
        hidden /= np.linalg.norm(hidden, axis=1, keepdims=True)
        cluster = _clusters(units, None, np.arange(300), 5)
        centres = (cluster / cluster.sum(axis=0)).T @ hidden
        return float(((hidden - cluster @ centres) ** 2).sum(axis=1).mean())

    assert spread(5.0) < spread(0.0)


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array], ids=["dense", "sparse"])
def test_a_saved_router_scores_alike(layout: Any) -> None:
    X, quality = skills(6, 60)
    router = DualContrastiveRouter(4).fit(layout(X), quality)
    loaded = model_from_bytes(model_bytes(router))
    np.testing.assert_array_equal(loaded.predict_quality(layout(X)), router.predict_quality(layout(X)))


def test_outcomes_without_contrast_leave_ties_to_the_cheaper_arm() -> None:
    X, _ = skills(7, 30)
    router = DualContrastiveRouter().fit(X, np.full((30, 3), 0.5), cost=np.tile([3.0, 1.0, 2.0], (30, 1)))
    assert set(router.predict(X).tolist()) == {1}


def test_an_arm_that_is_always_wrong_is_avoided_and_unseen_queries_are_left_out() -> None:
    X, quality = skills(8, 100)
    quality[:, 0] = 0.0
    quality[::5] = np.nan
    router = DualContrastiveRouter().fit(X, quality)
    assert (router.predict(X) == 0).mean() < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": 0}, "n_components must be an integer >= 1, got 0"),
        ({"n_positive": 0}, "n_positive must be an integer >= 1, got 0"),
        ({"n_negative": 1.5}, r"n_negative must be an integer >= 1, got 1\.5"),
        ({"n_clusters": 0}, "n_clusters must be an integer >= 1, got 0"),
        ({"max_iter": 0}, "max_iter must be an integer >= 1, got 0"),
        ({"temperature": 0.0}, r"temperature must be a finite number > 0, got 0\.0"),
        ({"C": -1.0}, r"C must be a finite number > 0, got -1\.0"),
        ({"tol": "small"}, "tol must be a finite number > 0, got 'small'"),
        ({"balance": -1.0}, r"balance must be a finite number >= 0, got -1\.0"),
        ({"balance": False}, "balance must be a finite number >= 0, got False"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RouterInputError, match=f"DualContrastiveRouter: {message}"):
        DualContrastiveRouter(**options).fit([[0.0, 1.0], [1.0, 0.0]], [0, 1])


def test_text_is_sent_to_a_transformer() -> None:
    with pytest.raises(RouterInputError, match="DualContrastiveRouter needs queries as a table of numbers, got list"):
        DualContrastiveRouter().fit(["a", "b"], [0, 1])
