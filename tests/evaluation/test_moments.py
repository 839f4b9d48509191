"""Sufficient statistics: any partition gives the whole, large offsets cost nothing, clusters may span batches."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defer.evaluation.moments import Moments, WeightMoments
from defer.exceptions import EvaluationError


def parts_of(n, seed):
    rng = np.random.default_rng(seed)
    return np.split(np.arange(n), np.sort(rng.integers(0, n + 1, size=3)))


def drawn(seed, n=60, k=3, groups=9):
    rng = np.random.default_rng(seed)
    cluster = rng.integers(groups, size=n)
    return rng.normal(size=(n, k)) + rng.normal(size=(groups, k))[cluster], cluster


@given(seed=st.integers(0, 2**32 - 1), clustered=st.booleans())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_updates_and_merges_give_the_moments_of_the_whole(seed, clustered):
    terms, cluster = drawn(seed)
    streamed, merged = Moments(3), Moments(3)
    for rows in parts_of(len(terms), seed):
        names = cluster[rows] if clustered else None
        streamed.update(terms[rows], names)
        part = Moments(3)
        part.update(terms[rows], names)
        merged.merge(part)
    for moments in (streamed, merged):
        assert moments.n == 60
        np.testing.assert_allclose(moments.mean, terms.mean(axis=0))
        np.testing.assert_allclose(moments.scatter, 59 * np.cov(terms.T))
        gradient = np.array([1.0, -2.0, 0.5])
        residual = (terms - terms.mean(axis=0)) @ gradient
        sums = np.bincount(cluster, weights=residual) if clustered else residual
        groups = len(np.unique(cluster)) if clustered else 60
        plain, corrected = (moments.variance_of_mean(gradient, corrected=c) for c in (False, True))
        assert plain == pytest.approx(sums @ sums / 60**2)
        assert corrected == pytest.approx(plain * groups / (groups - 1))


def test_clusters_give_centred_sums_and_counts_of_whole_clusters():
    terms, cluster = drawn(1)
    moments = Moments(3)
    for rows in (np.arange(25), np.arange(25, 60)):
        moments.update(terms[rows], cluster[rows].astype(str))
    sums, counts = moments.clusters()
    np.testing.assert_array_equal(counts, np.bincount(cluster))
    centred = terms - terms.mean(axis=0)
    np.testing.assert_allclose(sums[:, 1], np.bincount(cluster, weights=centred[:, 1]), atol=1e-12)
    moments.update(terms[:5] + 10.0, cluster[:5].astype(str))
    assert moments.clusters()[1].sum() == 65
    np.testing.assert_allclose(moments.clusters()[0].sum(axis=0), 0.0, atol=1e-9)


def test_one_row_a_cluster_is_no_clustering():
    terms, _ = drawn(2)
    plain, own = Moments(3), Moments(3)
    plain.update(terms)
    own.update(terms, np.arange(60))
    gradient = np.array([1.0, 1.0, -1.0])
    assert own.variance_of_mean(gradient, corrected=True) == pytest.approx(
        plain.variance_of_mean(gradient, corrected=True)
    )


@pytest.mark.parametrize("offset", [1e6, -1e9])
def test_large_offsets_cost_no_digits(offset):
    terms, cluster = drawn(3, n=400, k=1)
    terms = np.round(terms, 3)
    shifted = offset + terms
    exact = shifted - offset
    near = {name: Moments(1, 300, 1) for name in ("plain", "clustered")}
    far = {name: Moments(1, 300, 1) for name in near}
    for moments, values in ((near, exact), (far, shifted)):
        for rows in (np.arange(150), np.arange(150, 400)):
            moments["plain"].update(values[rows])
            moments["clustered"].update(values[rows], cluster[rows])
    for name in near:
        assert far[name].mean[0] - offset == pytest.approx(near[name].mean[0], abs=1e-6)
        variance = near[name].variance_of_mean(np.ones(1), corrected=True)
        assert far[name].variance_of_mean(np.ones(1), corrected=True) == pytest.approx(variance, rel=1e-6)
        np.testing.assert_allclose(
            far[name].replicate_means() - offset, near[name].replicate_means(), atol=4e-16 * abs(offset) + 1e-9
        )


def test_fewer_than_two_rows_or_clusters_have_no_variance():
    moments = Moments(1)
    moments.update(np.array([[1.0]]))
    assert np.isnan(moments.variance_of_mean(np.ones(1), corrected=True))
    moments = Moments(1)
    moments.update(np.array([[1.0], [2.0]]), np.array(["same", "same"]))
    assert np.isnan(moments.variance_of_mean(np.ones(1), corrected=False))


@pytest.mark.parametrize("clustered", [False, True])
def test_bootstrap_replicates_spread_like_the_standard_error(clustered):
    terms, cluster = drawn(4, n=300, k=1, groups=60)
    moments = Moments(1, 8000)
    moments.update(terms, cluster if clustered else None)
    spread = moments.replicate_means().std()
    # 8000 replicates know their spread to 0.8%; a ratio to a random count adds about 1 / groups.
    assert spread == pytest.approx(np.sqrt(moments.variance_of_mean(np.ones(1), corrected=False)), rel=0.06)
    assert moments.replicate_means().mean() == pytest.approx(terms.mean(), abs=5 * spread / np.sqrt(8000) + 0.01)


def test_bootstrap_weights_have_mean_and_variance_one():
    # A row of its own: the replicate's count is its weight, and a NaN mean says that it was not drawn.
    moments = Moments(1, 40_000)
    moments.update(np.array([[1.0]]))
    counts = moments._replicates[:, -1]
    assert counts.mean() == pytest.approx(1.0, abs=4 / 200)
    assert counts.var() == pytest.approx(1.0, abs=4 * np.sqrt(3) / 200)
    assert (counts == 0).mean() == pytest.approx(np.exp(-1), abs=4 * 0.4823 / 200)
    means = moments.replicate_means()
    np.testing.assert_array_equal(np.isnan(means[:, 0]), counts == 0)
    assert (means[counts > 0] == 1.0).all()


def test_bootstrap_of_clusters_does_not_depend_on_the_batches():
    terms, cluster = drawn(5)
    whole, streamed = Moments(3, 50, seed=2), Moments(3, 50, seed=2)
    whole.update(terms, cluster)
    for rows in parts_of(60, 8):
        streamed.update(terms[rows], cluster[rows])
    np.testing.assert_allclose(streamed.replicate_means(), whole.replicate_means(), rtol=1e-9)
    np.testing.assert_array_equal(whole.replicate_means(), whole.replicate_means())


def test_bootstrap_of_rows_holds_over_batches_that_differ():
    # Fifty zeros, then fifty tens: a replicate's mean is ten times the share of its weight on the second batch.
    moments = Moments(1, 4000)
    for value in (0.0, 10.0):
        moments.update(np.full((50, 1), value))
    means = moments.replicate_means()
    assert means.mean() == pytest.approx(5.0, abs=0.05)
    assert means.std() == pytest.approx(0.5, rel=0.06)


def test_bootstrap_parts_with_spawned_seeds_merge():
    terms, _ = drawn(6, n=300)
    seeds = np.random.SeedSequence(0).spawn(3)
    merged, parts = Moments(3, 4000, seeds[0]), [Moments(3, 4000, seed) for seed in seeds[1:]]
    for moments, rows in zip([merged, *parts], np.split(np.arange(300), [50, 220]), strict=True):
        moments.update(terms[rows] + 100.0)
    for part in parts:
        merged.merge(part)
    expected = np.sqrt(merged.variance_of_mean(np.array([1.0, 0, 0]), corrected=False))
    assert merged.replicate_means()[:, 0].std() == pytest.approx(expected, rel=0.06)
    assert merged.replicate_means()[:, 0].mean() == pytest.approx(terms[:, 0].mean() + 100.0, abs=0.01)


def test_merging_into_empty_moments_is_a_copy():
    terms, _ = drawn(7)
    full, empty, nothing = Moments(3, 20, seed=1), Moments(3, 20, seed=1), Moments(3, 20, seed=1)
    full.update(terms)
    empty.merge(full)
    empty.merge(nothing)
    empty.update(terms[:0])
    np.testing.assert_array_equal(empty.replicate_means(), full.replicate_means())
    np.testing.assert_array_equal(empty.scatter, full.scatter)
    assert empty.n == 60


def test_parts_that_do_not_fit_are_refused():
    terms, cluster = drawn(8)
    plain, clustered = Moments(3), Moments(3)
    plain.update(terms)
    clustered.update(terms, cluster)
    with pytest.raises(EvaluationError, match="give the clusters of all rows or of none"):
        plain.update(terms, cluster)
    with pytest.raises(EvaluationError, match="give the clusters of all rows or of none"):
        clustered.merge(plain)
    with pytest.raises(
        EvaluationError, match=r"only moments of one k and n_bootstrap merge, got \(3, 0\) and \(2, 0\)"
    ):
        plain.merge(Moments(2))
    left, right = Moments(3, 10), Moments(3, 10)
    left.update(terms)
    right.update(terms)
    with pytest.raises(EvaluationError, match=r"both parts were resampled with one seed.*SeedSequence\.spawn"):
        left.merge(right)


def test_bootstrap_memory_does_not_grow_with_rows_times_replicates():
    terms = np.ones((40_000, 1))
    moments = Moments(1, 1000)
    tracemalloc.start()
    moments.update(terms)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80e6  # all weights at once would be 320 MB


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_weight_moments_of_parts_are_those_of_the_whole(seed):
    weight = np.random.default_rng(seed).exponential(size=50)
    merged = WeightMoments()
    for rows in parts_of(50, seed):
        part = WeightMoments()
        part.update(weight[rows])
        merged.merge(part)
    assert merged.n == 50
    assert merged.largest == weight.max()
    assert merged.effective_sample_size == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
    assert WeightMoments().effective_sample_size == 0.0
