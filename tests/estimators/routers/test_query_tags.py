"""Tags of queries: what is given, and clusters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

from defer.estimators.routers.query_tags import ClusterTagger, cluster_tags, read_query_tags
from defer.exceptions import RouterInputError


def test_passes_every_check_of_scikit_learn() -> None:
    check_estimator(ClusterTagger(3, random_state=0))


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array], ids=["dense", "csr"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_separate_clumps_are_found(layout: Any, dtype: type) -> None:
    rng = np.random.default_rng(0)
    kind = np.repeat(np.arange(4), 20)
    X = layout((10 * np.eye(4)[kind] + 0.1 * rng.normal(size=(80, 4))).astype(dtype))
    tagger = ClusterTagger(4, random_state=0).fit(X)
    assert len(np.unique(kind * 10 + tagger.labels_)) == 4
    np.testing.assert_array_equal(tagger.predict(X), tagger.labels_)
    assert tagger.centers_.dtype == dtype


def test_the_same_seed_gives_the_same_tags_and_weights_count() -> None:
    X = np.random.default_rng(0).normal(size=(60, 2))
    first, second = (clone(ClusterTagger(5, random_state=3)).fit(X).labels_ for _ in range(2))
    np.testing.assert_array_equal(first, second)
    member = cluster_tags(ClusterTagger(1), X, np.arange(60.0), owner="Router")
    assert member.shape == (60, 1)
    centre = ClusterTagger(1).fit(X, sample_weight=np.arange(60.0)).centers_
    np.testing.assert_allclose(centre[0], np.average(X, axis=0, weights=np.arange(60.0)))


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array], ids=["dense", "csr"])
def test_neither_order_nor_repeats_nor_weights_change_the_clusters(layout: Any) -> None:
    rng = np.random.default_rng(4)
    X = rng.normal(size=(50, 3)) * (rng.random((50, 3)) < 0.7)
    weight = rng.integers(3, size=50)
    rows = rng.permutation(np.repeat(np.arange(50), weight))
    weighted = ClusterTagger(6, random_state=0).fit(layout(X), sample_weight=weight)
    repeated = ClusterTagger(6, random_state=0).fit(layout(X[rows]))
    np.testing.assert_array_equal(weighted.labels_[rows], repeated.labels_)
    np.testing.assert_allclose(weighted.centers_, repeated.centers_)


def test_equal_queries_leave_fewer_tags() -> None:
    member = cluster_tags(ClusterTagger(5, random_state=0), np.zeros((9, 2)), None, owner="Router")
    assert member.shape == (9, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_tags": 0}, "ClusterTagger: n_tags must be an integer >= 1, got 0"),
        ({"n_init": 1.5}, r"ClusterTagger: n_init must be an integer >= 1, got 1\.5"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RouterInputError, match=message):
        ClusterTagger(**options).fit([[0.0], [1.0]])


def test_what_is_no_clusterer_or_no_tag_is_named() -> None:
    with pytest.raises(RouterInputError, match="Router: tags must be None, 'cluster', or a clusterer"):
        cluster_tags(7, np.zeros((2, 1)), None, owner="Router")
    with pytest.raises(RouterInputError, match=r"Router: tags of row 0 hold 0\.5, a float"):
        read_query_tags([0.5], n=1, owner="Router")
