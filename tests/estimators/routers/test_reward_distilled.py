"""The router that learns the distribution of rewards."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.cluster import DBSCAN, KMeans
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.tree import DecisionTreeClassifier

from defer.estimators import make_pipeline
from defer.estimators.routers.query_tags import ClusterTagger
from defer.estimators.routers.reward_distilled import RewardDistilledRouter
from defer.exceptions import MissingPropensityWarning, RouterInputError
from defer.losses.distillation import enhance_labels, silver_labels
from defer.model_file import model_bytes, model_from_bytes

TAGS = ["math", "code", "prose"]


def draw(seed: int = 0, n: int = 90) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, rewards (some negative) and the kind of every query, which decides the good arm."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(3, size=n)
    X = np.hstack([np.eye(3)[kind], 0.3 * rng.normal(size=(n, 2))])
    return X, 3.0 * np.eye(3)[kind] - 2.0 + 0.5 * rng.normal(size=(n, 3)), kind


def test_a_saturated_linear_model_gives_the_labels_by_both_divergences() -> None:
    X, reward = np.eye(4), np.random.default_rng(0).normal(size=(4, 3))
    tags = ["a", "a", "b", "b"]
    expected = enhance_labels(silver_labels(reward, temperature=0.5), tags, beta=0.6)
    for divergence in ("forward", "reverse"):
        router = RewardDistilledRouter(divergence=divergence, beta=0.6, temperature=0.5, C=1e8, tol=1e-10)
        np.testing.assert_allclose(router.fit(X, reward, tags=tags).predict_proba(X), expected, atol=1e-5)
        assert router.n_tags_ == 2


def test_over_several_labels_the_divergences_have_other_minimisers() -> None:
    label = np.array([[0.8, 0.15, 0.05], [0.1, 0.6, 0.3]])
    X, reward = np.ones((2, 1)), np.log(label)
    forward, reverse = (
        RewardDistilledRouter(divergence=name, tol=1e-10).fit(X, reward).predict_proba(X)[0]
        for name in ("forward", "reverse")
    )
    np.testing.assert_allclose(forward, label.mean(axis=0), atol=1e-7)
    middle = np.sqrt(label.prod(axis=0))
    np.testing.assert_allclose(reverse, middle / middle.sum(), atol=1e-7)


def test_scores_are_a_distribution_and_their_best_arm_is_taken() -> None:
    X, reward, kind = draw()
    router = RewardDistilledRouter().fit(X, reward, tags=kind)
    shares = router.predict_proba(X)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    np.testing.assert_array_equal(shares, router.predict_scores(X))
    np.testing.assert_array_equal(router.predict(X), shares.argmax(axis=1))
    assert np.mean(router.predict(X) == kind) > 0.95
    # Rewards of any scale: quality is predicted on theirs.
    assert router.predict_quality(X).mean() == pytest.approx(reward.mean(), abs=1e-9)


def test_hard_labels_are_logistic_regression_on_the_best_arm_lowest_index_first() -> None:
    X, reward, _ = draw()
    reward = np.rint(reward)
    router = RewardDistilledRouter(labels="hard", tol=1e-9).fit(X, reward)
    peer = LogisticRegression(tol=1e-9, max_iter=5000).fit(X, reward.argmax(axis=1))
    np.testing.assert_allclose(router.predict_proba(X), peer.predict_proba(X), atol=1e-6)
    assert router.n_tags_ == 0


def test_a_classifier_learns_the_same_as_the_linear_model() -> None:
    X, reward, kind = draw()
    linear = RewardDistilledRouter(tol=1e-9).fit(X, reward, tags=kind)
    peer = RewardDistilledRouter(LogisticRegression(tol=1e-10, max_iter=5000)).fit(X, reward, tags=kind)
    np.testing.assert_allclose(peer.predict_proba(X), linear.predict_proba(X), atol=1e-5)
    tree = RewardDistilledRouter(DecisionTreeClassifier(max_depth=2, random_state=0)).fit(X, reward, tags=kind)
    assert np.mean(tree.predict(X) == kind) > 0.9


@pytest.mark.parametrize("divergence", ["forward", "reverse"])
def test_networks_learn_it_too(divergence: str) -> None:
    torch = pytest.importorskip("torch")
    X, reward, kind = draw(n=300)
    for estimator in ("mlp", torch.nn.Linear):
        router = RewardDistilledRouter(
            estimator, divergence=divergence, max_epochs=30, learning_rate=0.02, random_state=0
        )
        router.fit(X, reward, tags=kind)
        assert np.mean(router.predict(X) == kind) > 0.9
        assert router.n_iter_ >= 1


@pytest.mark.parametrize("missing", ["impute", "mask"])
def test_a_network_with_gaps_and_tags(missing: str) -> None:
    pytest.importorskip("torch")
    X, reward, kind = draw(n=200)
    reward[np.random.default_rng(1).random(reward.shape) < 0.2] = np.nan
    router = RewardDistilledRouter("mlp", missing=missing, max_epochs=20, random_state=0).fit(X, reward, tags=kind)
    assert np.isfinite(router.predict_proba(X)).all()


def test_tags_of_the_parameter_are_clusters_of_the_training_queries() -> None:
    X, reward, kind = draw()
    given = RewardDistilledRouter(beta=0.0).fit(X, reward, tags=kind)
    for tags in ("cluster", ClusterTagger(3, random_state=0), KMeans(3, n_init=4, random_state=0)):
        router = RewardDistilledRouter(beta=0.0, tags=tags, n_tags=3, random_state=0).fit(X, reward)
        assert router.n_tags_ == 3
        np.testing.assert_allclose(router.predict_proba(X), given.predict_proba(X), atol=1e-6)
        clone(router).fit(X, reward)
    # Tags that are given go first.
    both = RewardDistilledRouter(beta=0.0, tags="cluster", n_tags=2).fit(X, reward, tags=kind)
    np.testing.assert_array_equal(both.predict_proba(X), given.predict_proba(X))


def test_noise_of_a_density_clusterer_is_no_tag() -> None:
    X = np.array([[0.0], [0.1], [5.0], [5.1], [99.0]])
    reward = np.random.default_rng(0).normal(size=(5, 2))
    router = RewardDistilledRouter(beta=0.0, tags=DBSCAN(eps=0.5, min_samples=2)).fit(X, reward)
    assert router.n_tags_ == 2
    by_hand = RewardDistilledRouter(beta=0.0).fit(X, reward, tags=[{0}, {0}, {1}, {1}, set()])
    np.testing.assert_allclose(router.predict_proba(X), by_hand.predict_proba(X))


def test_more_clusters_than_queries_and_sparse_queries() -> None:
    X, reward, _ = draw(n=7)
    router = RewardDistilledRouter(tags="cluster", n_tags=50, random_state=0).fit(sparse.csr_array(X), reward)
    assert router.n_tags_ <= 7
    one = RewardDistilledRouter(tags="cluster").fit([[1.0]], [[0.2, 0.4]])
    assert one.n_tags_ == 1


def test_no_tag_at_all_is_no_enhancement_and_no_tag_is_needed_to_route() -> None:
    X, reward, kind = draw()
    plain = RewardDistilledRouter().fit(X, reward)
    for tags in ([set()] * len(X), [None] * len(X)):
        empty = RewardDistilledRouter().fit(X, reward, tags=tags)
        assert empty.n_tags_ == 0
        np.testing.assert_array_equal(empty.predict_proba(X), plain.predict_proba(X))
    # A domain that was not there at fit: the router knows queries alone.
    part = RewardDistilledRouter().fit(X[kind < 2], reward[kind < 2], tags=np.array(TAGS)[kind[kind < 2]])
    assert np.isfinite(part.predict_proba(X[kind == 2])).all()


def test_a_weight_of_k_is_worth_k_equal_rows_with_tags_too() -> None:
    X, reward, kind = draw(n=40)
    weight = np.random.default_rng(0).integers(4, size=40)
    rows = np.repeat(np.arange(40), weight)
    weighted = RewardDistilledRouter(tol=1e-10).fit(X, reward, tags=kind, sample_weight=weight)
    repeated = RewardDistilledRouter(tol=1e-10).fit(X[rows], reward[rows], tags=kind[rows])
    np.testing.assert_allclose(weighted.predict_quality(X), repeated.predict_quality(X), atol=1e-7)


def test_rows_without_any_reward_are_dropped_with_their_tags() -> None:
    X, reward, kind = draw(n=40)
    reward[[3, 17]] = np.nan
    seen = np.isfinite(reward).all(axis=1)
    router = RewardDistilledRouter().fit(X, reward, tags=kind)
    assert router.n_dropped_ == 2
    np.testing.assert_array_equal(
        router.predict_proba(X), RewardDistilledRouter().fit(X[seen], reward[seen], tags=kind[seen]).predict_proba(X)
    )


def test_gaps_are_masked_where_that_is_asked_for() -> None:
    masked = RewardDistilledRouter(missing="mask", C=1e8, tol=1e-10)
    masked.fit(np.eye(3), [[0.0, np.nan, 0.0], [1, 2, 3], [1, 1, 1]])
    np.testing.assert_allclose(masked.predict_proba(np.eye(3))[0], [0.5, 0.0, 0.5], atol=1e-3)


def test_a_bandit_log_is_learned_from_although_every_masked_label_would_be_the_logged_arm() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1500, 2))
    quality = np.column_stack([X[:, 0] > 0, X[:, 0] <= 0]).astype(float)
    chance = np.where(X[:, 1] > 0, 0.9, 0.3)  # of logging the first arm, whatever it is worth
    first = rng.random(1500) < chance
    seen = np.where(np.column_stack([first, ~first]), quality, np.nan)
    router = RewardDistilledRouter().fit(X, seen, propensity=np.where(first, chance, 1 - chance))
    assert router.score(X, quality) > 0.95
    with pytest.warns(MissingPropensityWarning):
        RewardDistilledRouter().fit(X, seen)


def test_tags_go_through_a_pipeline_and_a_search() -> None:
    texts = [f"add {k} and {k}" for k in range(15)] + [f"write a poem of {k} lines" for k in range(15)]
    reward = np.repeat([[2.0, -1.0], [-3.0, 0.5]], 15, axis=0)
    tags = [{"math"}] * 15 + [{"poem", "prose"}] * 14 + [set()]
    router = make_pipeline(TfidfVectorizer(), RewardDistilledRouter()).fit(texts, reward, tags=tags)
    assert router.steps[-1][1].n_tags_ == 3
    assert router.predict(["add 3 and 4", "a poem"]).tolist() == [0, 1]
    assert router.predict_proba(["add 3 and 4"]).shape == (1, 2)
    X, reward, kind = draw()
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(RewardDistilledRouter(), {"beta": [0.0, 1.0]}, cv=KFold(3))
        search.fit(X, reward, tags=[{TAGS[number]} for number in kind])
        assert search.best_estimator_.n_tags_ == 3
        piped = make_pipeline(TfidfVectorizer(), RewardDistilledRouter()).fit(
            texts, [[1.0, 0.0], [0.0, 1.0]] * 15, tags=tags
        )
    assert piped.steps[-1][1].n_tags_ == 3


@pytest.mark.parametrize(
    "router",
    [
        RewardDistilledRouter(),
        RewardDistilledRouter(divergence="reverse", tags="cluster", n_tags=3),
        RewardDistilledRouter(labels="hard"),
        RewardDistilledRouter(LogisticRegression()),
    ],
    ids=["linear", "reverse", "hard", "classifier"],
)
def test_a_saved_router_predicts_alike(router: Any) -> None:
    X, reward, _ = draw()
    router.fit(X, reward, cost=np.abs(reward))
    twin = model_from_bytes(model_bytes(router))
    np.testing.assert_array_equal(twin.predict_quality(X), router.predict_quality(X))
    np.testing.assert_array_equal(twin.predict(X), router.predict(X))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 1.5}, r"beta must lie in \[0, 1\], got 1\.5"),
        ({"temperature": 0.0}, r"temperature must be a finite number > 0, got 0\.0"),
        ({"divergence": "both"}, "divergence must be one of 'forward', 'reverse', got 'both'"),
        ({"labels": "gold"}, "labels must be one of 'soft', 'hard', got 'gold'"),
        ({"tags": "domain"}, "tags must be one of 'cluster', got 'domain'"),
        ({"tags": ["a", "b"]}, r"tags must be None, 'cluster', or a clusterer with fit_predict, .* go to fit\(tags=\)"),
        ({"tags": KMeans}, "tags must be None, 'cluster', or a clusterer with fit_predict"),
        ({"n_tags": 0}, "n_tags must be an integer >= 1, got 0"),
        ({"missing": "drop"}, "missing must be one of 'impute', 'mask', got 'drop'"),
        ({"estimator": "forest"}, "estimator must be 'linear', 'mlp', a torch module or a scikit-learn classifier"),
        (
            {"estimator": LogisticRegression(), "divergence": "reverse"},
            "LogisticRegression minimises the cross-entropy",
        ),
        ({"labels": "hard", "divergence": "reverse"}, "labels='hard' is the cross-entropy on the best arm"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RouterInputError, match=f"RewardDistilledRouter: .*{message}"):
        RewardDistilledRouter(**options).fit([[0.0], [1.0]], [[1.0, 0.0], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (
            ["a"],
            "RewardDistilledRouter: tags have 1 entries, and there are 2 queries; a query without tags has an empty set",
        ),
        ("ab", "tags must be a sequence with one entry per query, got str"),
        (["a", 1.5], r"tags of row 1 hold 1\.5, a float"),
    ],
)
def test_wrong_tags_are_named(tags: Any, message: str) -> None:
    with pytest.raises(RouterInputError, match=message):
        RewardDistilledRouter().fit([[0.0], [1.0]], [[1.0, 0.0], [0.0, 1.0]], tags=tags)


def test_text_and_a_clusterer_without_integers_are_refused() -> None:
    class Odd(KMeans):
        def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
            return np.zeros(len(X))

    with pytest.raises(RouterInputError, match="the clusterer Odd must give one integer per query"):
        RewardDistilledRouter(tags=Odd()).fit([[0.0], [1.0]], [[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(RouterInputError, match="RewardDistilledRouter needs queries as a table of numbers"):
        RewardDistilledRouter().fit(["a", "b"], [[1.0, 0.0], [0.0, 1.0]])


def test_equal_outcomes_of_an_arm_and_of_all_arms() -> None:
    X, reward, _ = draw(n=30)
    reward[:, 0] = 0.7
    assert np.isfinite(RewardDistilledRouter().fit(X, reward).predict_quality(X)).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flat = RewardDistilledRouter().fit(X, np.full((30, 3), 0.4))
    np.testing.assert_allclose(flat.predict_proba(X), 1 / 3)
    np.testing.assert_allclose(flat.predict_quality(X), 0.4)
