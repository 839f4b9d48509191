from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfVectorizer

from defer import OutcomeLog
from defer.estimators import LearnedMapRouter, make_pipeline
from defer.estimators.routers import clusters
from defer.estimators.routers.cluster_means import ClusterMeans, seen_means
from defer.estimators.routers.clusters import ClusterRouter, QueryClusters
from defer.estimators.routers.query_rows import equal_rows
from defer.exceptions import RouterInputError
from defer.model_file import model_bytes, model_from_bytes


def draw(seed: int = 0, n: int = 80, m: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    quality = rng.integers(2, size=(n, m)).astype(float)
    quality[rng.random((n, m)) < 0.2] = np.nan
    return rng.normal(size=(n, 2)), quality, rng.uniform(0.1, 1.0, size=(n, m))


def brute(quality: np.ndarray, weight: np.ndarray, label: np.ndarray, prior: float) -> np.ndarray:
    """Means of the clusters, shrunk to the arm's mean, cell by cell."""
    psi = np.empty((quality.shape[1], label.max() + 1))
    for arm, column in enumerate(quality.T):
        seen = np.isfinite(column)
        mean = np.average(column[seen], weights=weight[seen])
        for cluster in range(psi.shape[1]):
            cell = seen & (label == cluster)
            psi[arm, cluster] = (weight[cell] @ column[cell] + prior * mean) / max(weight[cell].sum() + prior, 1e-300)
            if not cell.any():
                psi[arm, cluster] = mean
    return psi


@pytest.mark.parametrize("prior", [0.0, 3.5])
@pytest.mark.parametrize("weighted", [False, True])
def test_means_are_those_of_each_cell(prior: float, weighted: bool) -> None:
    X, quality, cost = draw()
    weight = np.random.default_rng(2).integers(1, 4, size=80).astype(float) if weighted else None
    router = ClusterRouter(5, prior=prior, back_off="arm", cost="cluster", random_state=0)
    router.fit(X, quality, cost=cost, sample_weight=weight)
    label = router.clusters_.assign(X)
    ones = np.ones(80) if weight is None else weight
    np.testing.assert_allclose(router.psi_, brute(quality, ones, label, prior))
    np.testing.assert_allclose(router.predict_cost(X), brute(cost, ones, label, prior)[:, label].T)
    np.testing.assert_allclose(router.counts_.sum(axis=1), np.isfinite(quality).T @ ones)


def test_difficulty_is_the_mean_gain_of_the_arms_in_a_cluster() -> None:
    quality = np.array([[0.9, 0.5, np.nan], [0.9, 0.5, np.nan], [0.5, 0.1, 0.3], [0.5, 0.1, 0.3]])
    means = ClusterMeans.fit(quality, np.array([0, 0, 1, 1]), n_clusters=2, prior=0.0, by_difficulty=True)
    np.testing.assert_allclose(means.value[:2], [[0.9, 0.5], [0.5, 0.1]])
    # Two arms differ by +0.2 and -0.2 from their means, the third not at all.
    np.testing.assert_allclose(means.difficulty, [0.2, -0.4 * 2 / 6])
    assert means.value[2, 1] == 0.3
    assert 0.3 < means.value[2, 0] <= 0.9


def test_an_added_arm_of_few_outcomes_is_drawn_to_the_level_of_the_others() -> None:
    table, label = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 1.0], [1.0, 1.0]]), np.zeros(4, dtype=int)
    means = ClusterMeans.fit(table, label, n_clusters=1, prior=20.0, by_difficulty=True)
    # Within arms the variance is 1/8, between the levels 0.5 and 1 it is 1/8: the others count for one outcome.
    assert (means.level, means.level_count) == (0.75, pytest.approx(1.0))
    late = means.with_arm(np.array([0.0]), np.array([0])).value[2, 0]
    assert late == pytest.approx(0.375 * 20 / 21)
    plain = ClusterMeans.fit(table, label, n_clusters=1, prior=20.0, by_difficulty=False)
    assert plain.with_arm(np.array([0.0]), np.array([0])).value[2, 0] == 0.0
    # No more than the prior, also where all arms have one level.
    alike = ClusterMeans.fit(table[:, :1].repeat(2, axis=1), label, n_clusters=1, prior=20.0, by_difficulty=True)
    assert alike.level_count == 20.0


def test_partly_observed_rows_count_by_inverse_propensity_and_by_their_effective_number() -> None:
    X, quality = np.zeros((4, 1)), np.array([[1.0, np.nan], [0.0, np.nan], [np.nan, 1.0], [0.5, 0.25]])
    router = ClusterRouter(1, prior=0.0).fit(X, quality, propensity=[0.5, 0.25, 0.1, 1.0])
    np.testing.assert_allclose(router.predict_quality([[0.0]]), [[(2 * 1 + 0.5) / 7, (10 + 0.25) / 11]])
    np.testing.assert_allclose(router.counts_[:, 0], [7**2 / (4 + 16 + 1), 11**2 / 101])


@pytest.mark.parametrize("n_clusters", [7, (1, 4, 9)])
@given(seed=st.integers(0, 1000))
@settings(max_examples=10)
def test_a_weight_is_a_repetition_and_rows_have_no_order(n_clusters: Any, seed: int) -> None:
    X, quality, cost = draw(seed, n=40)
    weight = np.random.default_rng(seed).integers(0, 3, size=40)
    if not np.isfinite(quality[weight > 0]).any(axis=0).all():
        return
    options: dict[str, Any] = {"cost": "cluster", "random_state": 0}
    weighted = ClusterRouter(n_clusters, **options).fit(X, quality, cost=cost, sample_weight=weight.astype(float))
    rows = np.random.default_rng(seed).permutation(np.repeat(np.arange(40), weight))
    repeated = ClusterRouter(n_clusters, **options).fit(X[rows], quality[rows], cost=cost[rows])
    assert weighted.n_clusters_ == repeated.n_clusters_
    np.testing.assert_allclose(weighted.predict_quality(X), repeated.predict_quality(X), atol=1e-9)
    np.testing.assert_allclose(weighted.predict_cost(X), repeated.predict_cost(X), atol=1e-9)


@given(order=st.permutations(range(4)), seed=st.integers(0, 1000))
@settings(max_examples=15)
def test_permuting_the_arms_permutes_the_predictions(order: list[int], seed: int) -> None:
    X, quality, _ = draw(seed, m=4)
    straight = ClusterRouter(5, random_state=0).fit(X, quality).predict_quality(X)
    permuted = ClusterRouter(5, random_state=0).fit(X, quality[:, order]).predict_quality(X)
    np.testing.assert_allclose(permuted, straight[:, order], atol=1e-12)


def test_the_number_of_clusters_of_least_held_out_error_is_taken() -> None:
    rng = np.random.default_rng(0)
    kind = rng.integers(3, size=600)
    X = 8.0 * np.eye(3)[kind] + rng.normal(size=(600, 3))
    quality = (rng.random((600, 2)) < np.array([[0.9, 0.1], [0.1, 0.9], [0.5, 0.5]])[kind]).astype(float)
    router = ClusterRouter((200, 1, 3), prior=0.0, random_state=0).fit(X, quality)
    assert router.n_clusters_ == 3
    assert router.squared_errors_.argmin() == 1
    assert router.squared_errors_[1] == pytest.approx((0.09 + 0.09 + 0.25) / 3, abs=0.02)
    assert ClusterRouter(3).fit(X, quality).squared_errors_.shape == (0,)


def test_equal_queries_do_not_stand_on_both_sides_of_a_fold() -> None:
    # Each query ten times with the same noise: a memory of queries would look perfect in folds that split them.
    rng = np.random.default_rng(1)
    X, quality = np.repeat(rng.normal(size=(60, 2)), 10, axis=0), np.repeat(rng.integers(2, size=(60, 2)), 10, axis=0)
    router = ClusterRouter((1, 60), prior=0.0, random_state=0).fit(X, quality.astype(float))
    assert router.n_clusters_ == 1


@pytest.mark.parametrize("layout", [sparse.csr_array, sparse.csc_matrix])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sparse_and_single_precision_queries_are_clustered_alike(layout: Any, dtype: type) -> None:
    X, quality, _ = draw()
    X[np.abs(X) < 0.4] = 0.0
    dense = ClusterRouter(6, random_state=0).fit(X, quality).predict_quality(X)
    thin = ClusterRouter(6, random_state=0).fit(layout(X.astype(dtype)), quality)
    np.testing.assert_allclose(thin.predict_quality(layout(X.astype(dtype))), dense, atol=1e-6)
    assert thin.clusters_.centres.dtype == dtype


def test_equal_rows_are_found_whatever_their_form() -> None:
    X = np.array([[0.0, 2.0], [1.0, 0.0], [-0.0, 2.0], [1.0, 0.0], [0.0, 0.0]])
    first, group = equal_rows(X)
    assert len(first) == 3
    assert group[0] == group[2] != group[1] == group[3]
    np.testing.assert_array_equal(X[first][group], X)
    stored = sparse.csr_array((np.array([0.0, 2.0, 1.0]), (np.array([0, 0, 1]), np.array([0, 1, 0]))), shape=(2, 2))
    np.testing.assert_array_equal(
        stored.toarray()[equal_rows(stored)[0]], X[first][1:] if not X[first][0].any() else X[:2]
    )
    order = np.random.default_rng(0).permutation(5)
    np.testing.assert_array_equal(X[order][equal_rows(X[order])[0]], X[first])


def test_small_differences_of_large_coordinates_are_not_lost() -> None:
    rng = np.random.default_rng(0)
    X = np.repeat([[0.0, 0.0], [1.0, 0.0]], 50, axis=0) + 0.1 * rng.normal(size=(100, 2)) + 1e7
    quality = np.repeat([[1.0, 0.0], [0.0, 1.0]], 50, axis=0)
    router = ClusterRouter(2, prior=0.0, random_state=0).fit(X, quality)
    np.testing.assert_array_equal(router.predict_quality(X), quality)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    X, quality, _ = draw()
    router = ClusterRouter(6, random_state=0).fit(X, quality)
    whole = router.predict_quality(X)
    monkeypatch.setattr(clusters, "_BLOCK_BYTES", 1)
    np.testing.assert_array_equal(router.predict_quality(X), whole)


def test_a_query_without_any_outcome_and_a_constant_arm() -> None:
    X, quality, _ = draw()
    quality[:5], quality[5:, 0] = np.nan, 1.0
    for options in ({"back_off": "arm"}, {"prior": 0.0}):
        router = ClusterRouter(6, random_state=0, **options).fit(X, quality)  # type: ignore[arg-type]
        assert (router.predict_quality(X)[:, 0] == 1.0).all()
        assert np.isfinite(router.predict_quality(X)).all()
    # Where the other arms fail, it is expected to fail some day.
    cautious = ClusterRouter(6, random_state=0).fit(X, quality).predict_quality(X)[:, 0]
    assert 0.9 < cautious.min() < cautious.max() <= 1.0


@pytest.mark.parametrize("cost", ["mean", "cluster"])
def test_an_added_arm_has_its_means_and_its_cost(cost: Any) -> None:
    X, quality, price = draw()
    router = ClusterRouter(4, prior=2.0, cost=cost, random_state=0).fit(X, quality, cost=price)
    before = router.predict_cost(X).tobytes()
    log = OutcomeLog.from_arrays(X[:30], quality[:30, :1], arms=["3"], cost=np.full((30, 1), 0.3))
    router.add_arm(3, log)
    assert router.arms_.tolist() == [0, 1, 2, 3]
    assert router.predict_cost(X)[:, :3].tobytes() == before
    np.testing.assert_allclose(router.predict_cost(X)[:, 3], 0.3, rtol=1e-15)
    seen = np.isfinite(quality[:30, 0])
    assert router.counts_[3].sum() == seen.sum()
    twin = model_from_bytes(model_bytes(router))
    np.testing.assert_array_equal(twin.predict_quality(X), router.predict_quality(X))
    np.testing.assert_array_equal(twin.predict_cost(X), router.predict_cost(X))


def test_an_arm_is_added_through_a_pipeline_of_text() -> None:
    texts = [f"add {number}" for number in range(20)] + [f"poem {number}" for number in range(20)]
    quality = np.repeat([[1.0, 0.0], [0.0, 1.0]], 20, axis=0)
    router = make_pipeline(TfidfVectorizer(), ClusterRouter(2, random_state=0)).fit(texts, quality)
    router.add_arm(2, OutcomeLog.from_arrays(["poem 3", "add 4"], [[1.0], [0.0]], arms=["2"]))
    assert router.predict_quality(["add 7", "poem 7"]).shape == (2, 3)


def test_what_no_row_shows_has_the_mean_of_the_others() -> None:
    table = np.array([[1.0, np.nan, 0.0], [0.5, np.nan, 0.0]])
    assert seen_means(table, np.ones(2)).tolist() == [0.75, 0.375, 0.0]
    assert seen_means(np.full((1, 2), np.nan), np.ones(1)).tolist() == [0.0, 0.0]


def test_weightless_queries_are_no_centres() -> None:
    X = np.array([[0.0], [1.0], [2.0]])
    assert len(QueryClusters.fit(X, 5, weight=np.array([1.0, 0.0, 2.0]), seed=0).centres) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_clusters": 0}, "ClusterRouter: n_clusters must be an integer >= 1, got 0"),
        ({"n_clusters": [4, 1.5]}, "ClusterRouter: n_clusters must be an integer >= 1, got 1.5"),
        ({"n_clusters": "many"}, "n_clusters must be an integer >= 1 or a sequence of them, got 'many'"),
        ({"n_clusters": ()}, r"n_clusters must be an integer >= 1 or a sequence of them, got \(\)"),
        ({"prior": -1.0}, "ClusterRouter: prior must be a finite number >= 0, got -1.0"),
        ({"prior": True}, "prior must be a finite number >= 0, got True"),
        ({"back_off": "none"}, "back_off must be one of 'difficulty', 'arm', got 'none'"),
        ({"cost": "each"}, "cost must be one of 'mean', 'cluster', got 'each'"),
    ],
)
def test_wrong_parameters_are_named(options: dict[str, Any], message: str) -> None:
    X, quality, _ = draw()
    with pytest.raises(RouterInputError, match=message):
        ClusterRouter(**options).fit(X, quality)


def test_text_needs_a_vectoriser() -> None:
    with pytest.raises(RouterInputError, match=r"ClusterRouter needs queries as a table of numbers, got list"):
        ClusterRouter().fit(["a", "b"], [[1.0, 0.0], [0.0, 1.0]])


def test_the_cost_of_a_cluster_needs_costs() -> None:
    X, quality, _ = draw()
    with pytest.raises(
        RouterInputError, match=r"ClusterRouter: cost='cluster' predicts .* no costs: pass cost= to fit"
    ):
        ClusterRouter(cost="cluster").fit(X, quality)
    with pytest.raises(RouterInputError, match="LearnedMapRouter: cost='cluster' predicts the cost"):
        LearnedMapRouter(cost="cluster").fit(X, quality)


@pytest.mark.parametrize("form", [csr_array, np.float32])
def test_the_cost_of_a_cluster_does_not_hang_on_the_form_of_queries(form: Any) -> None:
    X, quality, cost = draw()
    X = np.round(X, 1)
    given = form(X) if form is csr_array else X.astype(form)
    router = ClusterRouter(5, cost="cluster", random_state=0).fit(X, quality, cost=cost)
    twin = ClusterRouter(5, cost="cluster", random_state=0).fit(given, quality, cost=cost)
    for row in range(len(X)):
        np.testing.assert_allclose(twin.predict_cost(given[[row]]), router.predict_cost(X[[row]]), rtol=1e-5)
