"""Exact search by cosine: against brute force, and in the order of the exemplars where distances are equal."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics.pairwise import cosine_distances as peer

from defer.estimators.routers import exemplar_search
from defer.estimators.routers.exemplar_search import cosine_distances, nearest_exemplars, row_blocks, unit_rows


@given(seed=st.integers(0, 10**6), k=st.integers(1, 9))
@settings(max_examples=60)
def test_nearest_come_by_distance_and_then_by_index(seed, k):
    distance = np.random.default_rng(seed).integers(3, size=(4, 9)) / 2
    assert nearest_exemplars(distance, k).tolist() == np.argsort(distance, axis=1, kind="stable")[:, :k].tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array], ids=["dense", "sparse"])
def test_distances_are_those_of_scikit_learn(dtype, layout):
    rng = np.random.default_rng(0)
    X, Y = (np.where(abs(table) > 0.5, table, 0.0).astype(dtype) for table in rng.normal(size=(2, 30, 6)))
    found = cosine_distances(unit_rows(layout(X)), unit_rows(layout(Y)))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, peer(X, Y), atol=2e-6 if dtype == np.float32 else 2e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_exemplars_are_equally_far_wherever_they_stand(dtype):
    rng = np.random.default_rng(1)
    Y = unit_rows(np.tile(rng.normal(size=(1, 384)), (97, 1)).astype(dtype))
    X = unit_rows(rng.normal(size=(50, 384)).astype(dtype))
    distance = cosine_distances(X, Y)
    together = (distance == distance[:, :1]).all(axis=1)
    # A value on the edge of two steps of rounding can fall to either side.
    assert together.mean() >= (0.5 if dtype == np.float32 else 0.95)
    assert np.ptp(distance, axis=1).max() <= (3e-6 if dtype == np.float32 else 3e-12)


def test_blocks_cover_every_row_once(monkeypatch):
    monkeypatch.setattr(exemplar_search, "_BLOCK", 20)
    blocks = list(row_blocks(11, 7))
    assert [block.stop - block.start for block in blocks] == [2] * 5 + [1]
    assert list(row_blocks(2, 100)) == [slice(0, 1), slice(1, 2)]
    assert list(row_blocks(0, 3)) == []
