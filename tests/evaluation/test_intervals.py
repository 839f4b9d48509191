"""Intervals against their formulas and SciPy, and what each of them refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from defer.evaluation.estimators import DM, DR, IPS, SNDR, SNIPS, Rounds
from defer.evaluation.intervals import INTERVALS, bernstein_radius, hoeffding_radius, interval_of
from defer.evaluation.moments import Moments
from defer.exceptions import EvaluationError


def drawn(n=300, seed=0):
    rng = np.random.default_rng(seed)
    weight, outcome = rng.exponential(size=n), (rng.random(n) < 0.4).astype(float)
    return Rounds(weight, outcome, rng.random(n), rng.random(n))


def moments_of(estimator, rounds, *, cluster=None, n_bootstrap=0):
    moments = Moments(estimator.k, n_bootstrap)
    moments.update(estimator.terms(rounds), cluster)
    return moments


def test_normal_and_student_intervals_of_a_mean_are_those_of_scipy():
    rounds = drawn()
    terms = rounds.weight * rounds.outcome
    for interval, law in (("normal", stats.norm), ("student", stats.t(299))):
        found = interval_of(IPS(), moments_of(IPS(), rounds), interval=interval, level=0.9)
        expected = law.interval(0.9)
        error = stats.sem(terms)
        assert found == pytest.approx((terms.mean() + expected[0] * error, terms.mean() + expected[1] * error))


def test_student_interval_counts_clusters():
    cluster = np.arange(300) // 50
    moments = moments_of(IPS(), drawn(), cluster=cluster)
    normal, student = (interval_of(IPS(), moments, interval=kind, level=0.95) for kind in ("normal", "student"))
    assert np.ptp(student) / np.ptp(normal) == pytest.approx(stats.t.ppf(0.975, 5) / stats.norm.ppf(0.975))


def test_delta_method_interval_of_snips_is_its_formula():
    rounds = drawn()
    w, r = rounds.weight, rounds.outcome
    value = (w * r).sum() / w.sum()
    error = math.sqrt((w**2 * (r - value) ** 2).sum()) / w.sum()
    low, high = interval_of(SNIPS(), moments_of(SNIPS(), rounds), interval="normal", level=0.95)
    assert (low, high) == pytest.approx((value - 1.959964 * error, value + 1.959964 * error), rel=1e-6)


def test_clustered_interval_of_snips_is_its_formula():
    rounds, cluster = drawn(), np.arange(300) // 4
    w, r = rounds.weight, rounds.outcome
    value = (w * r).sum() / w.sum()
    error = np.linalg.norm(np.bincount(cluster, weights=w * (r - value))) / w.sum()
    moments = moments_of(SNIPS(), rounds, cluster=cluster)
    low, high = interval_of(SNIPS(), moments, interval="normal", level=0.95)
    assert (low, high) == pytest.approx((value - 1.959964 * error, value + 1.959964 * error), rel=1e-6)


def test_delta_method_interval_of_sndr_is_its_formula():
    rounds = drawn()
    w, residual = rounds.weight, rounds.outcome - rounds.predicted
    part = (w * residual).sum() / w.sum()
    influence = rounds.expected - rounds.expected.mean() + w * (residual - part) / w.mean()
    error = np.linalg.norm(influence) / 300
    low, high = interval_of(SNDR(), moments_of(SNDR(), rounds), interval="normal", level=0.95)
    assert (high - low) / 2 == pytest.approx(1.959964 * error, rel=1e-6)
    assert (high + low) / 2 == pytest.approx(rounds.expected.mean() + part)


@pytest.mark.parametrize("estimator", [IPS(), SNIPS(), DR(), SNDR()], ids=repr)
@pytest.mark.parametrize("clustered", [False, True])
def test_bootstrap_interval_agrees_with_the_normal_one_on_many_rounds(estimator, clustered):
    cluster = np.arange(2000) // 4 if clustered else None
    moments = moments_of(estimator, drawn(2000), cluster=cluster, n_bootstrap=3000)
    normal = interval_of(estimator, moments, interval="normal", level=0.9)
    bootstrap = interval_of(estimator, moments, interval="bootstrap", level=0.9)
    assert bootstrap == pytest.approx(normal, abs=0.12 * np.ptp(normal))


def test_bootstrap_resamples_the_ratio_and_not_the_terms():
    rounds = drawn(100)
    constant = Rounds(rounds.weight, np.full(100, 0.3), rounds.predicted, rounds.expected)
    low, high = interval_of(SNIPS(), moments_of(SNIPS(), constant, n_bootstrap=200), interval="bootstrap", level=0.95)
    assert (low, high) == pytest.approx((0.3, 0.3))
    low, high = interval_of(IPS(), moments_of(IPS(), constant, n_bootstrap=200), interval="bootstrap", level=0.95)
    assert high - low > 0.05


def test_bootstrap_is_refused_where_replicates_without_weight_could_reach_its_bounds():
    # One round in forty carries all the weight: every third replicate has none.
    weight = np.zeros(40)
    weight[7] = 40.0
    rounds = Rounds(weight, np.ones(40), np.zeros(40), np.zeros(40))
    found = interval_of(SNIPS(), moments_of(SNIPS(), rounds, n_bootstrap=500), interval="bootstrap", level=0.95)
    assert np.isnan(found).all()
    # With twelve such rounds a replicate without weight is rarer than the tail that is cut off.
    weight[:12] = 40.0
    rounds = Rounds(weight, np.ones(40), np.zeros(40), np.zeros(40))
    found = interval_of(SNIPS(), moments_of(SNIPS(), rounds, n_bootstrap=500), interval="bootstrap", level=0.95)
    assert found == (1.0, 1.0)


def test_one_row_gives_no_bootstrap_interval():
    moments = Moments(1, 400)
    moments.update(np.array([[0.7]]))
    assert np.isnan(interval_of(DM(), moments, interval="bootstrap", level=0.95)).all()


@pytest.mark.parametrize("interval", INTERVALS)
def test_a_higher_level_gives_a_wider_interval_around_the_value(interval):
    moments = moments_of(IPS(), drawn(), n_bootstrap=400)
    low, high = zip(
        *(interval_of(IPS(), moments, interval=interval, level=level, span=9.0) for level in (0.5, 0.8, 0.95)),
        strict=True,
    )
    assert list(low) == sorted(low, reverse=True)
    assert list(high) == sorted(high)
    assert len(set(low)) == 3
    assert low[0] < moments.mean[0] < high[0]


def test_bernstein_and_hoeffding_intervals_have_their_radii_on_both_sides():
    rounds = drawn()
    terms = rounds.weight * rounds.outcome
    for interval, radius in (
        ("empirical_bernstein", bernstein_radius(terms.var(ddof=1), 300, span=9.0, delta=0.025)),
        ("hoeffding", hoeffding_radius(300, span=9.0, delta=0.025)),
    ):
        found = interval_of(IPS(), moments_of(IPS(), rounds), interval=interval, level=0.95, span=9.0)
        assert found == pytest.approx((terms.mean() - radius, terms.mean() + radius))


@pytest.mark.parametrize("interval", [kind for kind in INTERVALS if kind != "bootstrap"])
def test_one_row_gives_no_interval(interval):
    moments = Moments(1)
    moments.update(np.array([[0.7]]))
    assert np.isnan(interval_of(DM(), moments, interval=interval, level=0.95, span=1.0)).all()
    assert bernstein_radius(0.0, 1, span=1.0, delta=0.05) == math.inf


@pytest.mark.parametrize("interval", ["empirical_bernstein", "hoeffding"])
def test_bounds_say_what_they_need(interval):
    rounds = drawn(12)
    with pytest.raises(EvaluationError, match=f"'{interval}' needs bounded independent terms, and snips is a ratio"):
        interval_of(SNIPS(), moments_of(SNIPS(), rounds), interval=interval, level=0.95, span=1.0)
    with pytest.raises(EvaluationError, match=f"'{interval}' needs span="):
        interval_of(IPS(), moments_of(IPS(), rounds), interval=interval, level=0.95)
    clustered = moments_of(IPS(), rounds, cluster=np.arange(12) // 3)
    with pytest.raises(EvaluationError, match="needs independent rows, and this log's 12 rows are in 4 clusters"):
        interval_of(IPS(), clustered, interval=interval, level=0.95, span=1.0)
    alone = moments_of(IPS(), rounds, cluster=np.arange(12))
    assert np.isfinite(interval_of(IPS(), alone, interval=interval, level=0.95, span=1.0)).all()


def test_unknown_intervals_and_missing_replicates_are_refused():
    moments = moments_of(IPS(), drawn(12))
    with pytest.raises(EvaluationError, match=r"interval must be 'auto' or one of \('normal', .*got 'wald'"):
        interval_of(IPS(), moments, interval="wald", level=0.95)
    with pytest.raises(EvaluationError, match="'bootstrap' needs replicates, and these moments have n_bootstrap=0"):
        interval_of(IPS(), moments, interval="bootstrap", level=0.95)


@pytest.mark.parametrize("interval", ["normal", "bootstrap"])
def test_clustered_intervals_cover_copied_rows_and_others_do_not(interval):
    repeats, copies, covered, covered_without = 300, 5, 0, 0
    rng = np.random.default_rng(0)
    cluster = np.repeat(np.arange(60), copies)
    for _ in range(repeats):
        terms = np.repeat(rng.random((60, 1)), copies, axis=0)
        for names in (cluster, None):
            moments = Moments(1, 200)
            moments.update(terms, names)
            low, high = interval_of(DM(), moments, interval=interval, level=0.9)
            if names is None:
                covered_without += low <= 0.5 <= high
            else:
                covered += low <= 0.5 <= high
    # Rows taken for independent make the interval sqrt(5) times too short: it covers about 54% of the time.
    assert stats.binom.ppf(1e-4, repeats, 0.88) <= covered <= stats.binom.ppf(1 - 1e-4, repeats, 0.92)
    assert covered_without < stats.binom.ppf(1e-4, repeats, 0.75)
