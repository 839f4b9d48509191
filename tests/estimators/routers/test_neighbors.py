from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import KNeighborsRegressor, NearestNeighbors

from defer.estimators import KNNRouter
from defer.estimators.routers import leading_columns, neighbors
from defer.estimators.routers.leading_columns import LeadingColumns
from defer.exceptions import RouterInputError
from defer.model_file import model_bytes, model_from_bytes


def draw(seed: int, n: int = 120, fresh: int = 70, d: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.random((n, 3)), rng.normal(size=(fresh, d))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array, sparse.csc_matrix], ids=["dense", "csr", "csc"])
@pytest.mark.parametrize("k", [1, 7, 120, 500])
def test_agrees_with_brute_force_of_scikit_learn(metric: str, dtype: type, layout: type, k: int) -> None:
    X, quality, fresh = draw(k)
    X[np.abs(X) < 0.4] = fresh[np.abs(fresh) < 0.4] = 0.0
    X, fresh = X.astype(dtype), fresh.astype(dtype)
    peer = KNeighborsRegressor(min(k, 120), metric=metric, algorithm="brute").fit(X, quality)
    router = KNNRouter(k, metric=metric).fit(layout(X), quality)
    np.testing.assert_allclose(router.predict_quality(layout(fresh)), peer.predict(fresh), rtol=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("size", [1, 2_000, 20_000])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, metric: str, size: int) -> None:
    X, quality, fresh = draw(0)
    router = KNNRouter(5, metric=metric, cost="neighbors").fit(X, quality, cost=quality + 1.0)
    whole = router.predict_quality(fresh), router.predict_cost(fresh)
    monkeypatch.setattr(neighbors, "_BLOCK_BYTES", size)
    np.testing.assert_array_equal(router.predict_quality(fresh), whole[0])
    np.testing.assert_allclose(router.predict_cost(fresh), whole[0] + 1.0)
    np.testing.assert_array_equal(router.predict_cost(fresh), whole[1])


def test_memory_is_bounded_by_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    X, quality, fresh = draw(0, n=500, fresh=4000, d=4)
    router = KNNRouter(40).fit(X, quality)
    monkeypatch.setattr(neighbors, "_BLOCK_BYTES", 2**20)
    tracemalloc.start()
    router.predict(fresh)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # One full table of distances would take 16 MB; the block takes 1, and the results a few floats a query.
    assert peak < 3 * 2**20


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_ties_at_the_edge_are_filled_with_queries_of_the_same_distance(metric: str) -> None:
    rng = np.random.default_rng(0)
    X = rng.integers(1, 3, size=(60, 3)).astype(float)
    fresh = rng.integers(1, 3, size=(20, 3)).astype(float)
    # The quality of a query is its number, so a mean over one arm per query tells who was chosen.
    router = KNNRouter(10, metric=metric).fit(X, np.eye(60))
    chosen = router.predict_quality(fresh) > 0
    distance = pairwise_distances(fresh, X, metric=metric)
    expected = NearestNeighbors(n_neighbors=10, metric=metric, algorithm="brute").fit(X).kneighbors(fresh)[0]
    assert (chosen.sum(axis=1) == 10).all()
    for row in range(20):
        np.testing.assert_allclose(np.sort(distance[row, chosen[row]]), expected[row], atol=1e-12)


def test_small_differences_of_large_coordinates_are_not_lost() -> None:
    rng = np.random.default_rng(0)
    X, fresh, quality = rng.normal(size=(200, 3)) + 1e7, rng.normal(size=(50, 3)) + 1e7, rng.random((200, 2))
    distance = ((fresh[:, None] - X[None]) ** 2).sum(axis=2)
    nearest = np.argsort(distance, axis=1)[:, :3]
    router = KNNRouter(3, metric="euclidean").fit(X, quality)
    np.testing.assert_allclose(router.predict_quality(fresh), quality[nearest].mean(axis=1))


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array], ids=["dense", "csr"])
def test_a_query_of_zeros_has_the_mean_under_the_cosine(layout: type) -> None:
    X, quality, _ = draw(1)
    router = KNNRouter(3, cost="neighbors").fit(layout(X), quality, cost=2 * quality)
    blank = layout(np.zeros((2, 8)))
    np.testing.assert_allclose(router.predict_quality(blank), np.tile(quality.mean(axis=0), (2, 1)))
    np.testing.assert_allclose(router.predict_cost(blank), np.tile(2 * quality.mean(axis=0), (2, 1)))


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array], ids=["dense", "csr"])
def test_logged_queries_of_zeros_are_as_far_as_orthogonal_ones(layout: type) -> None:
    X = np.array([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]])
    router = KNNRouter(2).fit(layout(X), np.array([[1.0, 0.0], [0.4, 1.0], [0.0, 0.0]]))
    np.testing.assert_allclose(router.predict_quality(layout(np.array([[2.0, 0.0]]))), [[0.7, 0.5]])


def test_integer_queries_are_accepted() -> None:
    router = KNNRouter(1, metric="euclidean").fit([[0], [10]], [[1.0, 0.0], [0.0, 1.0]])
    assert router.predict([[2], [9]]).tolist() == [0, 1]


def test_an_arm_that_no_neighbour_observed_has_its_mean() -> None:
    X = np.array([[0.0], [1.0], [10.0], [11.0]])
    quality = np.array([[0.2, np.nan], [0.4, np.nan], [np.nan, 0.9], [np.nan, 0.5]])
    router = KNNRouter(2, metric="euclidean").fit(X, quality, propensity=np.full(4, 0.5))
    np.testing.assert_allclose(router.predict_quality([[0.5], [10.5]]), [[0.3, 0.7], [0.3, 0.7]])


def test_partly_observed_neighbours_count_by_inverse_propensity() -> None:
    quality = np.array([[1.0, np.nan], [0.0, np.nan], [np.nan, 1.0], [0.5, 0.25]])
    router = KNNRouter(4).fit(np.ones((4, 1)), quality, propensity=[0.5, 0.25, 0.1, 1.0])
    np.testing.assert_allclose(router.predict_quality([[1.0]]), [[(2 * 1 + 0.5) / 7, (10 + 0.25) / 11]])


def test_fractional_weights_fill_the_neighbourhood_from_the_nearest() -> None:
    X, quality = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([[1.0], [2.0], [4.0], [8.0]])
    both = np.hstack([quality, -quality])
    router = KNNRouter(2, metric="euclidean").fit(X, both, sample_weight=[0.5, 1.0, 0.75, 5.0])
    # 0.5 of the first, 1.0 of the second and 0.5 of the third make a weight of 2.
    np.testing.assert_allclose(router.predict_quality([[-1.0]])[:, 0], (0.5 * 1 + 1.0 * 2 + 0.5 * 4) / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_neighbors": 0}, "n_neighbors must be an integer >= 1, got 0"),
        ({"n_neighbors": 2.0}, r"n_neighbors must be an integer >= 1, got 2\.0"),
        ({"n_neighbors": "many"}, "n_neighbors must be an integer >= 1, got 'many'"),
        ({"n_neighbors": True}, "n_neighbors must be an integer >= 1, got True"),
        ({"metric": "manhattan"}, r"metric must be one of \('cosine', 'euclidean'\), got 'manhattan'"),
        ({"cost": "median"}, r"cost must be one of \('mean', 'neighbors'\), got 'median'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(RouterInputError, match=message):
        KNNRouter(**options).fit([[0.0], [1.0]], [[1.0, 0.0], [0.0, 1.0]])  # type: ignore[arg-type]


def test_text_is_sent_to_a_vectoriser() -> None:
    with pytest.raises(
        RouterInputError, match="KNNRouter needs queries as a table of numbers, got list; put a transformer before it"
    ):
        KNNRouter().fit(["a", "b"], [[1.0, 0.0], [0.0, 1.0]])
    router = KNNRouter().fit([[0.0], [1.0]], [[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(RouterInputError, match="KNNRouter needs queries as a table of numbers"):
        router.predict(["a"])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("size", [1, 2_000, 10**9])
def test_a_logged_query_is_left_out_of_its_own_neighbourhood(
    monkeypatch: pytest.MonkeyPatch, metric: str, size: int
) -> None:
    monkeypatch.setattr(neighbors, "_BLOCK_BYTES", size)
    X, _, _ = draw(2, n=30)
    search = neighbors.NeighborSearch.fit(X, n_neighbors=4, metric=metric, weight=None)
    near = sparse.vstack([block for _, block in search.neighborhoods(X, own=np.arange(len(X)))]).toarray()
    assert not near.diagonal().any()
    for row in range(30):
        others = np.delete(np.arange(30), row)
        peer = NearestNeighbors(n_neighbors=4, metric=metric, algorithm="brute").fit(X[others])
        expected = others[peer.kneighbors(X[[row]], return_distance=False)[0]]
        assert np.flatnonzero(near[row]).tolist() == sorted(expected.tolist())


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_one_rows_weight_is_left_out_so_that_a_weight_is_worth_equal_rows(metric: str) -> None:
    X, quality, _ = draw(3, n=40)
    weight = np.random.default_rng(3).integers(1, 4, size=40)
    rows = np.repeat(np.arange(40), weight)

    def means(X: np.ndarray, values: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        search = neighbors.NeighborSearch.fit(X, n_neighbors=6, metric=metric, weight=weight)
        near = sparse.vstack([block for _, block in search.neighborhoods(X, own=np.arange(len(X)))])
        np.testing.assert_allclose(near.sum(axis=1), 6.0)
        return near @ values / 6.0

    weighted = means(X, quality, weight.astype(float))
    np.testing.assert_allclose(weighted[rows], means(X[rows], quality[rows], None), atol=1e-12)


def test_a_lone_query_has_no_neighbourhood_without_itself() -> None:
    search = neighbors.NeighborSearch.fit(np.ones((1, 2)), n_neighbors=3, metric="cosine", weight=None)
    (near,) = (block for _, block in search.neighborhoods(np.ones((1, 2)), own=np.array([0])))
    assert near.toarray().tolist() == [[0.0]]


def search_by_leading_columns(patch: pytest.MonkeyPatch) -> None:
    for name, value in {"_SMALLEST": 0, "_NARROWEST": 1, "_ENERGY": 0.0}.items():
        patch.setattr(leading_columns, name, value)


def log_with_decaying_axes(seed: int, n: int, d: int, decay: float, dtype: type) -> np.ndarray:
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return ((rng.normal(size=(n, d)) * np.arange(1, d + 1) ** -decay) @ axes).astype(dtype)


@given(
    seed=st.integers(0, 2**32 - 1),
    k=st.integers(1, 5),
    decay=st.sampled_from([0.0, 0.5, 1.5, 6.0]),
    dtype=st.sampled_from([np.float32, np.float64]),
    metric=st.sampled_from(["cosine", "euclidean"]),
    copies=st.integers(0, 40),
    grid=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_one_query_finds_what_brute_force_finds(
    seed: int, k: int, decay: float, dtype: type, metric: str, copies: int, grid: bool
) -> None:
    X = log_with_decaying_axes(seed, 480, 24, decay, dtype)
    if grid:
        X = np.round(2 * X)
    X[480 - copies :] = X[:copies]
    queries = np.vstack([X[:3], log_with_decaying_axes(seed + 1, 5, 24, decay, dtype), np.zeros((1, 24), dtype)])
    with pytest.MonkeyPatch.context() as patch:
        search_by_leading_columns(patch)
        search = neighbors.NeighborSearch.fit(X, n_neighbors=k, metric=metric, weight=None)
        lead = LeadingColumns.fit(search.queries)
    if lead is None:
        assert not X.any()
        return
    fast = neighbors.NeighborSearch(**{**vars(search), "lead": lead})
    for query in queries:
        ((_, near),) = fast.neighborhoods(query[None])
        ((_, plain),) = search.neighborhoods(query[None])
        chosen = near.toarray()[0]
        assert near.shape == plain.shape
        assert set(chosen[chosen > 0]) == {1.0}
        assert chosen.sum() == k
        row = (query if search.centre is None else query - search.centre).astype(float)
        logged = search.queries.astype(float)
        distance = -logged @ row if metric == "cosine" else ((logged - row) ** 2).sum(axis=1)
        slack = 200 * np.finfo(dtype).eps * (np.abs(distance).max() + row @ row + (logged**2).sum(axis=1).max())
        assert np.sort(distance[chosen > 0])[-1] <= np.sort(distance)[k - 1] + slack
        direct = lead.nearest(row.astype(dtype), search.queries, k, None if metric == "cosine" else search.norms)
        if direct is not None:  # rounding does not decide: the same rows as without
            assert set(direct.tolist()) == set(plain.indices.tolist())


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_query_is_mostly_answered_from_leading_columns(
    monkeypatch: pytest.MonkeyPatch, metric: str, dtype: type
) -> None:
    search_by_leading_columns(monkeypatch)
    X = log_with_decaying_axes(0, 3000, 48, 1.0, dtype)
    fresh, quality = log_with_decaying_axes(0, 3100, 48, 1.0, dtype)[3000:], np.random.default_rng(0).random((3000, 3))
    router = KNNRouter(10, metric=metric, cost="neighbors").fit(X, quality, cost=1.0 + quality)
    answered: list[bool] = []
    nearest = LeadingColumns.nearest

    def counted(self: LeadingColumns, *given: object) -> object:
        found = nearest(self, *given)  # type: ignore[arg-type]
        answered.append(found is not None)
        return found

    monkeypatch.setattr(LeadingColumns, "nearest", counted)
    whole = router.predict_quality(fresh), router.predict_cost(fresh)
    assert not answered
    for loaded in (router, model_from_bytes(model_bytes(router))):
        one = [loaded.predict_quality(row[None]) for row in fresh], [loaded.predict_cost(row[None]) for row in fresh]
        np.testing.assert_allclose(np.vstack(one[0]), whole[0], rtol=1e-12)
        np.testing.assert_allclose(np.vstack(one[1]), whole[1], rtol=1e-12)
    assert len(answered) == 400
    assert np.mean(answered) > 0.9


def test_equal_rows_at_the_edge_are_taken_as_from_the_whole_product(monkeypatch: pytest.MonkeyPatch) -> None:
    search_by_leading_columns(monkeypatch)
    X = np.repeat(log_with_decaying_axes(1, 300, 24, 1.0, np.float64), 4, axis=0)
    search = neighbors.NeighborSearch.fit(X, n_neighbors=6, metric="cosine", weight=None)
    lead = LeadingColumns.fit(search.queries)
    assert lead is not None
    assert lead.nearest(X[0], search.queries, 6, None) is None
    found = lead.nearest(X[0], search.queries, 8, None)
    assert found is not None
    assert set(range(4)) < set(found.tolist())
    near = neighbors.NeighborSearch(**{**vars(search), "lead": lead}).neighborhoods(X[:1])
    plain = search.neighborhoods(X[:1])
    assert next(near)[1].indices.tolist() == next(plain)[1].indices.tolist()


def test_leading_columns_are_left_out_where_they_do_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LeadingColumns.fit(log_with_decaying_axes(0, 1000, 96, 1.0, np.float64)) is None
    monkeypatch.setattr(leading_columns, "_SMALLEST", 0)
    decaying = log_with_decaying_axes(0, 1000, 96, 1.0, np.float64)
    assert LeadingColumns.fit(decaying) is not None
    assert LeadingColumns.fit(decaying[:, :95]) is None
    assert LeadingColumns.fit(log_with_decaying_axes(0, 1000, 96, 0.0, np.float64)) is None
    assert LeadingColumns.fit(np.zeros((1000, 96))) is None
    assert LeadingColumns.fit(np.full((1000, 96), 1e30, dtype=np.float32)) is None
    quality = np.random.default_rng(0).random((1000, 2))
    assert KNNRouter(5).fit(decaying, quality).lead_ is not None
    assert KNNRouter(5).fit(decaying, quality, sample_weight=np.full(1000, 2.0)).lead_ is None
    assert KNNRouter(5).fit(sparse.csr_array(decaying), quality).lead_ is None
