"""RouterBench's cost-quality plane: the numbers and properties that follow from their definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defer import OutcomeLog
from defer.evaluation import aiq, hull_quality, oracle, sweep, upper_hull

POINTS = ([1, 2, 3, 5, 10], [0.4, 0.7, 0.6, 0.8, 0.9])

integer_points = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=12)
real_points = st.lists(st.tuples(st.floats(0.01, 10), st.floats(0, 1)), min_size=1, max_size=12)


def best_by_pairs(at, cost, quality):
    """Quality that mixing any two points reaches at a mean cost of at most `at`: the hull, by definition."""
    best = max(q for c, q in zip(cost, quality, strict=True) if c <= at)
    for (c1, q1), (c2, q2) in itertools.permutations(zip(cost, quality, strict=True), 2):
        if c1 <= at < c2:
            best = max(best, q1 + (q2 - q1) * (at - c1) / (c2 - c1))
    return best


def test_hull_of_the_first_example():
    cost, quality = upper_hull(*POINTS)
    assert cost.tolist() == [1, 2, 5, 10]
    assert quality.tolist() == [0.4, 0.7, 0.8, 0.9]


@pytest.mark.parametrize(
    ("cost", "quality", "norm", "value"),
    [
        (*POINTS, "range", 0.783333),
        (*POINTS, "max", 0.705),
        ([1, 2, 10], [0.4, 0.7, 0.6], "range", 0.683333),
        ([1, 3, 10], [0.5, 0.8, 0.85], "range", 0.786111),
    ],
)
def test_aiq_of_the_examples(cost, quality, norm, value):
    assert aiq(cost, quality, norm=norm) == pytest.approx(value, abs=5e-7)


def test_hull_is_flat_beyond_the_best_point():
    cost, quality = upper_hull([1, 2, 10], [0.4, 0.7, 0.6])
    assert cost.tolist() == [1, 2]
    assert hull_quality([2, 6, 10, 99], [1, 2, 10], [0.4, 0.7, 0.6]).tolist() == [0.7] * 4
    assert quality[-1] == 0.7


@given(points=integer_points)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_hull_vertices_are_those_of_brute_force_with_ties_duplicates_and_lines(points):
    cost, quality = np.array(points, dtype=float).T
    found = list(zip(*(part.tolist() for part in upper_hull(cost, quality)), strict=True))
    kept = []
    for c, q in sorted(set(zip(cost.tolist(), quality.tolist(), strict=True))):
        others = [point for point in zip(cost, quality, strict=True) if tuple(point) != (c, q)]
        reachable = [point for point in others if point[0] <= c]
        if not reachable or best_by_pairs(c, *zip(*others, strict=True)) < q - 1e-9:
            kept.append((c, q))
    assert found == kept


@given(points=real_points)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_hull_is_what_mixing_two_points_reaches(points):
    cost, quality = np.array(points).T
    at = np.concatenate((cost, [cost.max() + 1], (cost + cost.max()) / 2))
    expected = [best_by_pairs(c, cost, quality) for c in at]
    np.testing.assert_allclose(hull_quality(at, cost, quality), expected, atol=1e-9)


@given(points=real_points, extra=st.tuples(st.floats(0.01, 10), st.floats(0, 1)))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_hull_is_concave_idempotent_and_grows_with_points(points, extra):
    cost, quality = np.array(points).T
    vertex_cost, vertex_quality = upper_hull(cost, quality)
    slope = np.diff(vertex_quality) / np.diff(vertex_cost)
    assert (slope > 0).all()
    assert (np.diff(slope) <= 1e-9 * np.abs(slope[:-1])).all()
    assert (hull_quality(cost, cost, quality) >= quality - 1e-12).all()
    again = upper_hull(vertex_cost, vertex_quality)
    assert [part.tolist() for part in again] == [vertex_cost.tolist(), vertex_quality.tolist()]
    more = hull_quality(cost, np.append(cost, extra[0]), np.append(quality, extra[1]))
    assert (more >= hull_quality(cost, cost, quality) - 1e-12).all()


@given(points=real_points, dearer=st.floats(0, 5), worse=st.floats(0, 1))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_dominated_point_changes_nothing(points, dearer, worse):
    cost, quality = np.array(points).T
    more = upper_hull(np.append(cost, cost[0] + dearer), np.append(quality, quality[0] - worse))
    assert [part.tolist() for part in more] == [part.tolist() for part in upper_hull(cost, quality)]


@pytest.mark.parametrize("n", [1000, 30_000])
def test_hull_of_long_curves_is_exact(n):
    # Whole numbers, so that every product is exact.
    cost = np.arange(n, dtype=float)
    concave, rng = cost * (2 * n - cost), np.random.default_rng(0)
    assert len(upper_hull(cost, concave)[0]) == n
    assert upper_hull(cost, cost**2)[0].tolist() == [0, n - 1]
    assert upper_hull(cost, 3 * cost)[0].tolist() == [0, n - 1]
    assert [part.tolist() for part in upper_hull(np.full(n, 2.0), concave)] == [[2.0], [concave.max()]]
    # A few points pushed under a concave curve, alone and in runs, take the last stretch through the monotone chain.
    low = np.zeros(n, dtype=bool)
    low[rng.choice(np.arange(1, n - 1), size=n // 50, replace=False)] = True
    low[n // 2 : n // 2 + 10] = True
    assert upper_hull(cost, concave - 5.0 * n * low)[0].tolist() == cost[~low].tolist()
    order = rng.permutation(n)
    assert upper_hull(cost[order], concave[order])[0].tolist() == cost.tolist()
    # Three points on a line with lower ones between: the middle one is no vertex, which only the chain can see.
    line = concave.copy()
    line[502], line[501], line[503] = (line[500] + line[504]) / 2, 0.0, 0.0
    assert upper_hull(cost, line)[0].tolist() == np.delete(cost, [501, 502, 503]).tolist()


@given(points=real_points, scale=st.floats(0.1, 10), shift=st.floats(-3, 3))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_aiq_follows_affine_maps(points, scale, shift):
    cost, quality = np.array(points).T
    # Steps of cost below the rounding of shifted costs would make another set of points.
    cost = cost.round(3)
    value = aiq(cost, quality)
    assert aiq(scale * cost + shift, quality) == pytest.approx(value, abs=1e-8)
    assert aiq(cost, scale * quality + shift) == pytest.approx(scale * value + shift, abs=1e-8)


def test_aiq_by_the_largest_cost_is_not_shift_invariant():
    cost, quality = np.array(POINTS)
    assert aiq(cost + 10, quality, norm="max") < aiq(cost, quality, norm="max") - 0.1


@given(q=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_zero_router_of_two_arms_has_their_mean_quality(q):
    weak, strong = sorted(q)
    assert aiq([1.0, 4.0], [weak, strong]) == pytest.approx((weak + strong) / 2)
    assert aiq([1.0, 4.0], [strong, weak]) == pytest.approx(strong)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_router_that_ignores_the_query_is_never_above_the_zero_router(seed):
    rng = np.random.default_rng(seed)
    cost, quality, share = rng.random(5), rng.random(5), rng.dirichlet(np.ones(5), size=8)
    assert (share @ quality <= hull_quality(share @ cost, cost, quality) + 1e-12).all()


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_oracle_has_the_best_quality_at_the_least_cost(seed):
    rng = np.random.default_rng(seed)
    quality, cost, rows = rng.integers(3, size=(4, 3)), rng.integers(1, 4, size=(4, 3)), np.arange(4)
    arm = oracle(quality, cost)
    found = (quality[rows, arm].sum(), -cost[rows, arm].sum())
    every = itertools.product(range(3), repeat=4)
    assert found == max((quality[rows, arms].sum(), -cost[rows, arms].sum()) for arms in map(list, every))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_the_price_sweep_is_monotone_in_what_the_router_predicts(seed):
    rng = np.random.default_rng(seed)
    predicted, cost = rng.random((9, 4)), rng.random((9, 4))
    curve = sweep(predicted, cost, predicted, cost)
    assert (np.diff(curve.price) < 0).all()
    assert (np.diff(curve.cost) > 0).all()
    assert (np.diff(curve.quality) > 0).all()
    # Equal prices for all: the curve is its own concave hull.
    slope = np.diff(curve.quality) / np.diff(curve.cost)
    np.testing.assert_allclose(slope, curve.price[1:], rtol=1e-6)


def test_routerbench_subset_has_the_singles_and_the_oracle_of_its_card(shared_data):
    log = OutcomeLog.read_parquet(
        shared_data / "routerbench_subset" / "routerbench_subset.parquet", text="prompt", columns={"domain": "task"}
    )
    quality, cost = np.asarray(log.quality), np.asarray(log.cost)
    means = dict(zip(log.arms, quality.mean(axis=0), strict=True))
    assert means["gpt-4-1106-preview"] == pytest.approx(0.886, abs=5e-4)
    arm = oracle(quality, cost)
    assert quality[np.arange(len(log)), arm].mean() == pytest.approx(0.979, abs=5e-4)
    assert cost[np.arange(len(log)), arm].mean() < cost.mean(axis=0)[log.arms.index("gpt-4-1106-preview")]
    vertex_cost, _ = upper_hull(cost.mean(axis=0), quality.mean(axis=0))
    names = [log.arms[int(np.flatnonzero(cost.mean(axis=0) == c)[0])] for c in vertex_cost]
    assert names[0].startswith("mistral")
    assert names[-1] == "gpt-4-1106-preview"
