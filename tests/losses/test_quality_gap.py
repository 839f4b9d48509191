"""Labels from sampled qualities: closed forms, exact fractions over every margin, and what may not be given."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from defer.exceptions import LossInputError
from defer.losses.quality_gap import best_margin, gap_probability, label_spread

# Tenths of a quality, or no sample: what they are as floats is rounded, what they are as integers is not.
tenths = st.one_of(st.integers(-30, 30), st.none())


def tables(rows, size):
    return st.lists(st.lists(tenths, min_size=size, max_size=size), min_size=rows, max_size=rows)


problems = st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)).flatmap(
    lambda shape: st.tuples(
        tables(shape[0], shape[1]),
        tables(shape[0], shape[2]),
        st.lists(st.integers(0, 3), min_size=shape[0], max_size=shape[0]),
    )
)


def floats(table):
    return np.array([[np.nan if cell is None else cell / 10 for cell in row] for row in table])


def exact_labels(small, large, margin):
    """Labels as fractions, None where there is no pair; the margin in tenths."""
    labels = []
    for one, other in zip(small, large, strict=True):
        pairs = [(a, b) for a, b in product(one, other) if a is not None and b is not None]
        labels.append(Fraction(sum(a >= b - margin for a, b in pairs), len(pairs)) if pairs else None)
    return labels


def exact_spread(labels, weight):
    kept = [(label, mass) for label, mass in zip(labels, weight, strict=True) if label is not None and mass]
    total = sum(mass for _, mass in kept)
    if not total:
        return Fraction(0)
    return sum((m * k * abs(y - z) for (y, m), (z, k) in product(kept, kept)), Fraction(0)) / total**2


def exact_search(small, large, weight):
    """Every candidate in tenths with its spread."""
    gaps = {0}
    for one, other, mass in zip(small, large, weight, strict=True):
        if mass:
            gaps |= {b - a for a, b in product(one, other) if a is not None and b is not None and b > a}
    return {gap: exact_spread(exact_labels(small, large, gap), weight) for gap in sorted(gaps)}


@given(problems, st.integers(0, 70))
def test_labels_are_those_of_exact_arithmetic(problem, margin):
    small, large, _ = problem
    wanted = [np.nan if y is None else float(y) for y in exact_labels(small, large, margin)]
    np.testing.assert_array_equal(gap_probability(floats(small), floats(large), margin=margin / 10), wanted)


@given(problems, st.booleans(), st.sampled_from([None, 1.0, 0.37]))
def test_the_search_is_that_over_every_margin(problem, permuted, unit):
    small, large, weight = problem
    # A unit that is no integer is summed in floating point; the search must not notice.
    given_weight = None if unit is None else unit * np.array(weight)
    weight = [1] * len(weight) if unit is None else weight
    wanted = exact_search(small, large, weight)
    rows = np.arange(len(weight))[:: -1 if permuted else 1]
    found = best_margin(
        floats(small)[rows], floats(large)[rows], weight=None if given_weight is None else given_weight[rows]
    )
    np.testing.assert_allclose(found.candidates, [gap / 10 for gap in wanted], atol=1e-12)
    np.testing.assert_allclose(found.spreads, [float(spread) for spread in wanted.values()], atol=1e-12)
    best = max(wanted.values())
    first = next(gap for gap, spread in wanted.items() if spread == best)
    assert found.margin == pytest.approx(first / 10, abs=1e-12)
    assert found.spread == pytest.approx(float(best), abs=1e-12)
    assert found.is_flat == (best == 0)
    labels = [np.nan if y is None else float(y) for y in exact_labels(small, large, first)]
    np.testing.assert_array_equal(found.labels, np.array(labels)[rows])


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), min_size=1, max_size=8))
def test_the_spread_is_the_mean_over_all_pairs(rows):
    labels, weight = [Fraction(y, 12) for y, _ in rows], [mass for _, mass in rows]
    plain = np.array([float(y) for y in labels])
    assert label_spread(plain) == pytest.approx(float(exact_spread(labels, [1] * len(rows))), abs=1e-14)
    if sum(weight):
        assert label_spread(plain, weight=weight) == pytest.approx(float(exact_spread(labels, weight)), abs=1e-14)
        assert label_spread(np.repeat(plain, weight)) == pytest.approx(label_spread(plain, weight=weight), abs=1e-14)


@given(problems)
def test_labels_rise_with_the_margin_and_end_at_one(problem):
    small, large = floats(problem[0]), floats(problem[1])
    path = np.array([gap_probability(small, large, margin=margin) for margin in np.arange(0, 7, 0.5)])
    seen = np.isfinite(path[0])
    assert (np.diff(path[:, seen], axis=0) >= 0).all()
    if seen.any():
        last = float(np.nanmax(large) - np.nanmin(small))
        assert (gap_probability(small, large, margin=max(last, 0.0))[seen] == 1.0).all()


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_of_hard_labels_the_spread_is_that_of_a_coin(share):
    labels = (np.arange(100) < 100 * share).astype(float)
    assert label_spread(labels) == pytest.approx(2 * share * (1 - share), abs=1e-14)


def test_one_sample_gives_hard_labels_and_the_margin_balances_them():
    gap = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    choice = best_margin(np.zeros(6), gap)
    assert choice.labels.tolist() == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert (choice.margin, choice.spread) == (pytest.approx(0.3), 0.5)


def test_of_equally_good_margins_the_smallest_is_taken():
    # One query becomes easy at .2, then the other two hard ones at .5: 1 of 3, then 3 of 3; or 2 of 4 on a plateau.
    choice = best_margin([[0.0], [0.0], [0.0], [0.0]], [[-1.0], [0.2], [0.5], [0.5]])
    assert choice.candidates.tolist() == [0.0, 0.2, 0.5]
    assert choice.spreads.tolist() == [0.375, 0.5, 0.0]
    assert choice.margin == 0.2
    even = best_margin([[0.0]] * 3, [[-1.0], [0.2], [0.5]])
    assert even.spreads.tolist() == pytest.approx([4 / 9, 4 / 9, 0.0])
    assert even.margin == 0.0


def test_many_samples_agree_with_the_labels_of_every_candidate():
    rng = np.random.default_rng(0)
    small, large = rng.normal(size=(60, 5)), rng.normal(0.5, 1.0, size=(60, 4))
    small[rng.random(small.shape) < 0.2] = np.nan
    large[rng.random(large.shape) < 0.2] = np.nan
    weight = rng.random(60)
    choice = best_margin(small, large, weight=weight)
    for index in range(0, len(choice.candidates), 17):
        labels = gap_probability(small, large, margin=choice.candidates[index])
        assert label_spread(labels, weight=weight) == pytest.approx(choice.spreads[index], abs=1e-12)
    assert label_spread(choice.labels, weight=weight) == pytest.approx(choice.spread, abs=1e-12)


def test_counts_without_a_small_common_multiple_are_summed_in_floating_point():
    # The least common multiple of these numbers of samples does not fit beside the square of the weight.
    rng, counts = np.random.default_rng(1), [47, 43, 41, 37, 31, 29, 23, 19, 17, 13, 11, 7]
    small = np.full((len(counts), max(counts)), np.nan)
    for row, count in enumerate(counts):
        small[row, :count] = rng.normal(size=count)
    large = rng.normal(0.5, 1.0, size=(len(counts), 1))
    choice = best_margin(small, large)
    wanted = [label_spread(gap_probability(small, large, margin=margin)) for margin in choice.candidates]
    np.testing.assert_allclose(choice.spreads, wanted, atol=1e-12)
    assert choice.margin == choice.candidates[int(np.argmax(wanted))]


def test_rounding_is_no_difference_in_the_precision_that_was_given():
    assert gap_probability([-2.4], [-2.3], margin=0.1).tolist() == [1.0]
    assert -2.4 < -2.3 - 0.1 or -2.3 - -2.4 > 0.1  # as the floats are, it would not count
    single = gap_probability(np.float32([2.3]), np.float32([2.4]), margin=0.1)
    assert single.tolist() == [1.0]
    assert gap_probability([2.3], [2.4 + 1e-7], margin=0.1).tolist() == [0.0]
    # Equal gaps, each rounded in its own way, are one candidate.
    assert len(best_margin([0.1, 0.2, 0.3, 2.4], [0.2, 0.3, 0.4, 2.5]).candidates) == 2


def test_without_any_difference_it_says_so():
    flat = best_margin([[0.1], [0.3]], [[0.6], [0.8]])
    assert (flat.margin, flat.spread, flat.is_flat, flat.labels.tolist()) == (0.0, 0.0, True, [0.0, 0.0])
    better = best_margin([[0.9], [0.8]], [[0.1], [0.2]])
    assert (better.margin, better.is_flat, better.labels.tolist()) == (0.0, True, [1.0, 1.0])
    unseen = best_margin([[np.nan], [0.3]], [[0.6], [np.nan]])
    assert (unseen.margin, unseen.is_flat, np.isnan(unseen.labels).all()) == (0.0, True, True)
    assert best_margin(np.zeros((0, 1)), np.zeros((0, 2))).labels.shape == (0,)
    assert label_spread([np.nan]) == 0.0


def test_missing_samples_leave_the_pairs_that_there_are():
    small, large = [[0.1, np.nan], [0.5, 0.7]], [[0.2, 0.05], [0.6, np.nan]]
    assert gap_probability(small, large).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gap_probability([[0.1]], [[0.1], [0.2]]), "gap_probability: small has 1 rows and large 2"),
        (
            lambda: gap_probability([[0.1, np.inf]], [[0.2]]),
            r"small has 1 of 2 values that are infinite, the first in row 0, column 1 \(inf\).*NaN means",
        ),
        (lambda: gap_probability(["a"], [0.2]), "small must be real numbers, got dtype"),
        (lambda: gap_probability(np.zeros((1, 1, 1)), [0.2]), r"small must have shape \(n, samples\) or \(n,\)"),
        (lambda: gap_probability([0.1], [0.2], margin=np.nan), "margin must be a finite number, got nan"),
        (lambda: label_spread([0.5, 1.5]), r"labels has 1 of 2 values outside \[0, 1\], the first in row 1 \(1.5\)"),
        (lambda: label_spread([[0.5]]), r"labels must have shape \(n,\), got \(1, 1\)"),
        (lambda: label_spread([0.5], weight=[-1.0]), "weight has 1 of 1 values that are negative or not finite"),
        (lambda: best_margin([0.5], [0.5], weight=[1.0, 2.0]), r"weight has shape \(2,\); it needs \(1,\)"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(LossInputError, match=message):
        call()
