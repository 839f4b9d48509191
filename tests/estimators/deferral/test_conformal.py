"""Conformal panels and their vote: rules by hand, the promise by leaving one out and by simulation, every message."""

from __future__ import annotations

import io
from collections import Counter
from fractions import Fraction
from itertools import product
from typing import Any

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from defer.estimators.deferral.conformal import ConformalPanel
from defer.estimators.deferral.panel_coverage import conformal_quantile, exact_share, panel_coverage
from defer.estimators.deferral.panel_tables import read_groups, read_panel
from defer.estimators.deferral.panel_vote import weighted_vote
from defer.exceptions import FallbackWarning, RouterInputError

RULES = ["reach", "within", "randomized"]
CONFIDENCE = np.array([[0.9, 0.5, 0.2], [0.3, 0.8, 0.4], [0.6, 0.6, 0.7], [0.5, 0.4, 0.45]])
RIGHT = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
SCORE = [0.9, 0.8 + 0.4, 0.7 + 0.6 + 0.6, 0.5]


def draw(rng: np.random.Generator, n: int, n_experts: int = 3, low: float = 0.3) -> tuple[Any, Any]:
    """Experts who are right as often as one is confident, independently of each other."""
    confidence = rng.uniform(low, 0.95, size=(n, n_experts))
    return confidence, (rng.random(confidence.shape) < confidence).astype(float)


def quiet(panel: ConformalPanel, *data: Any, **options: Any) -> ConformalPanel:
    """Fit, where the whole panel may have to be asked."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        return panel.fit(*data, **options)


# ---- quantile ----


@pytest.mark.parametrize("n", range(1, 120))
def test_the_index_is_the_one_of_whole_numbers(n: int) -> None:
    for percent in range(101):
        index = -(-(n + 1) * (100 - percent) // 100)
        wanted = np.inf if index > n else index if index else -np.inf
        for alpha in (percent / 100, 1 - (100 - percent) / 100, Fraction(percent, 100), np.float32(percent / 100)):
            assert conformal_quantile(np.arange(n, 0, -1), alpha) == wanted


def test_a_share_is_read_as_the_fraction_it_stands_for() -> None:
    for whole in range(1, 100):
        for part in range(whole + 1):
            assert exact_share(part / whole) == Fraction(part, whole)
            assert abs(exact_share(1 - part / whole) - Fraction(whole - part, whole)) == 0
    assert exact_share(0.123456789012345) == Fraction(0.123456789012345)
    assert exact_share(1e-9) == Fraction(1e-9)


@given(score=st.lists(st.floats(0, 5) | st.just(np.inf), max_size=30), alpha=st.floats(0, 1))
def test_the_quantile_is_the_least_score_that_enough_scores_do_not_exceed(score: list[float], alpha: float) -> None:
    quantile, needed = conformal_quantile(score, alpha), (len(score) + 1) * (1 - exact_share(alpha))
    if needed > len(score):
        assert quantile == np.inf
    else:
        assert sum(value <= quantile for value in score) >= needed
        assert sum(value < quantile for value in score) < needed or quantile == -np.inf


# ---- rules by hand ----


def test_the_score_counts_up_to_the_first_right_expert() -> None:
    panel = ConformalPanel(Fraction(1, 5)).fit(CONFIDENCE, RIGHT)
    assert panel.quantile_ == sorted(SCORE)[3]
    panel = ConformalPanel(Fraction(2, 5)).fit(CONFIDENCE, RIGHT)
    assert panel.quantile_ == sorted(SCORE)[2] == 0.8 + 0.4


@pytest.mark.parametrize(
    ("rule", "row", "asked"),
    [
        ("reach", [0.9, 0.5, 0.2], [1, 1, 0]),  # 0.9, 1.4
        ("within", [0.9, 0.5, 0.2], [1, 0, 0]),
        ("reach", [0.4, 0.8, 0.1], [1, 1, 0]),  # 0.8, 1.2: met exactly, both rules stop there
        ("within", [0.4, 0.8, 0.1], [1, 1, 0]),
        ("reach", [0.1, 0.2, 0.3], [1, 1, 1]),  # never reached
        ("within", [0.1, 0.2, 0.3], [1, 1, 1]),
        ("reach", [0.2, 0.1, 1.3], [0, 0, 1]),  # the first alone exceeds it
        ("within", [0.2, 0.1, 1.3], [0, 0, 0]),
        ("reach", [0.7, 0.7, 0.7], [1, 1, 0]),  # equal ones in the order of the columns
        ("within", [0.7, 0.7, 0.7], [1, 0, 0]),
        ("reach", [0.0, 0.0, 0.0], [1, 1, 1]),
    ],
)
def test_rules_by_hand(rule: str, row: list[float], asked: list[int]) -> None:
    panel = ConformalPanel(0.4, rule=rule).fit(CONFIDENCE, RIGHT)  # Q = 1.2
    assert panel.predict_set([row]).astype(int).tolist() == [asked]


def test_the_penalty_is_added_at_every_rank_past_the_free_ones() -> None:
    confidence, right = [[0.5, 0.25, 0.125]] * 3, [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    scores = {k_reg: [0.5 + 2.0 * max(0, 1 - k_reg), 0.75 + 2.0 * max(0, 2 - k_reg), 0.875 + 2.0 * max(0, 3 - k_reg)]
              for k_reg in range(4)}  # fmt: skip
    for k_reg, score in scores.items():
        for index, alpha in enumerate((Fraction(3, 4), Fraction(1, 2), Fraction(1, 4))):
            panel = ConformalPanel(alpha, penalty=2, k_reg=k_reg).fit(confidence, right)
            assert panel.quantile_ == score[index]
            assert panel.predict_set(confidence[:1]).sum() == index + 1


def test_a_large_penalty_bounds_the_size_of_panels() -> None:
    rng = np.random.default_rng(0)
    confidence, right = draw(rng, 2000, n_experts=6, low=0.1)
    plain = ConformalPanel(0.1, rule="within").fit(confidence, right).predict_set(confidence).sum(axis=1)
    regular = ConformalPanel(0.1, rule="within", penalty=100.0, k_reg=2).fit(confidence, right)
    size = regular.predict_set(confidence).sum(axis=1)
    assert np.ptp(size) <= 1 < np.ptp(plain)  # with a penalty beyond all confidence only the rank counts


def test_the_randomised_score_lies_between_the_ranks_and_panels_between_the_rules() -> None:
    rng = np.random.default_rng(1)
    confidence, right = draw(rng, 500)
    panels = {rule: ConformalPanel(0.1, rule=rule).fit(confidence, right, random_state=0) for rule in RULES}
    assert panels["randomized"].quantile_ <= panels["within"].quantile_
    drawn = panels["randomized"].predict_set(confidence, random_state=1)
    quantile = panels["randomized"].quantile_
    fixed = {rule: ConformalPanel(0.1, rule=rule).fit(confidence, right) for rule in ("reach", "within")}
    for panel in fixed.values():
        panel.quantile_ = quantile
    assert (fixed["within"].predict_set(confidence) <= drawn).all()
    assert (drawn <= fixed["reach"].predict_set(confidence)).all()
    assert (drawn != fixed["within"].predict_set(confidence)).any()
    assert (drawn != fixed["reach"].predict_set(confidence)).any()


@given(
    confidence=arrays(float, (6, 4), elements=st.floats(0, 2)),
    right=arrays(bool, (6, 4)),
    alpha=st.floats(0, 1),
    rule=st.sampled_from(RULES),
    penalty=st.floats(0, 3),
    k_reg=st.integers(0, 5),
)
def test_panels_are_prefixes_and_within_holds_the_first_right_expert_exactly_below_the_quantile(
    confidence: Any, right: Any, alpha: float, rule: str, penalty: float, k_reg: int
) -> None:
    panel = ConformalPanel(alpha, rule=rule, penalty=penalty, k_reg=k_reg)
    quiet(panel, confidence, right, random_state=0)
    asked = panel.predict_set(confidence, random_state=1)
    order = np.argsort(-confidence, axis=1, kind="stable")
    ranked = np.take_along_axis(asked, order, axis=1)
    assert (np.diff(ranked.astype(int), axis=1) <= 0).all()
    if rule == "reach":
        assert ranked[:, 0].all()
    if rule == "within":
        for row in range(6):
            total, score = 0.0, np.inf
            for rank, column in enumerate(order[row], start=1):
                total += confidence[row, column]
                if right[row, column]:
                    score = total + penalty * max(0, rank - k_reg)
                    break
            covered = bool((asked[row] & right[row]).any())
            assert covered == (score <= panel.quantile_ and score < np.inf)


# ---- limits, order, invariances ----


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), low=st.floats(0, 1), high=st.floats(0, 1), rule=st.sampled_from(RULES))
def test_a_larger_alpha_never_asks_more(seed: int, low: float, high: float, rule: str) -> None:
    low, high = sorted((low, high))
    confidence, right = draw(np.random.default_rng(seed), 30)
    asked = [
        quiet(ConformalPanel(alpha, rule=rule, penalty=0.1), confidence, right, random_state=seed).predict_set(
            confidence, random_state=seed
        )
        for alpha in (low, high)
    ]
    assert (asked[1] <= asked[0]).all()


@pytest.mark.parametrize("rule", RULES)
def test_the_ends_of_alpha(rule: str) -> None:
    confidence, right = draw(np.random.default_rng(3), 200)
    assert ConformalPanel(0, rule=rule).fit(confidence, right).predict_set(confidence).all()
    size = ConformalPanel(1, rule=rule).fit(confidence, right).predict_set(confidence).sum(axis=1)
    assert (size == (1 if rule == "reach" else 0)).all()


@pytest.mark.parametrize("rule", RULES)
def test_experts_may_stand_in_any_order(rule: str) -> None:
    confidence, right = draw(np.random.default_rng(4), 300, n_experts=4)
    panel = ConformalPanel(0.1, rule=rule).fit(confidence, right, random_state=0)
    for order in ([3, 1, 0, 2], [1, 0, 3, 2]):
        twin = ConformalPanel(0.1, rule=rule).fit(confidence[:, order], right[:, order], random_state=0)
        assert twin.quantile_ == panel.quantile_
        assert np.array_equal(
            twin.predict_set(confidence[:, order], random_state=1),
            panel.predict_set(confidence, random_state=1)[:, order],
        )


@pytest.mark.parametrize("rule", ["reach", "within"])
def test_one_expert_is_split_conformal_prediction_of_its_confidence(rule: str) -> None:
    rng = np.random.default_rng(5)
    confidence = rng.uniform(0.8, 1, size=(400, 1))
    right = (rng.random((400, 1)) < 0.97).astype(float)
    panel = ConformalPanel(0.1, rule=rule).fit(confidence, right)
    wanted = np.sort(np.where(right[:, 0] == 1, confidence[:, 0], np.inf))[int(np.ceil(401 * 0.9)) - 1]
    assert panel.quantile_ == wanted
    asked = panel.predict_set(confidence)[:, 0]
    assert asked.all() if rule == "reach" else np.array_equal(asked, confidence[:, 0] <= wanted)


def test_many_equally_confident_experts_are_asked_in_the_order_of_the_columns() -> None:
    levels = np.random.default_rng(14).choice([0.25, 0.5], size=60)
    order = sorted(range(60), key=lambda column: (-levels[column], column))
    confidence, right = np.tile(levels, (9, 1)), np.zeros((9, 60))
    for rank in range(60):
        right[:], right[:, order[rank]] = 0, 1
        asked = ConformalPanel(0.1).fit(confidence, right).predict_set(confidence[:1])[0]
        assert np.flatnonzero(asked).tolist() == sorted(order[: rank + 1])


def test_one_seed_one_panel_and_draws_that_calibration_does_not_share() -> None:
    confidence, right = np.full((300, 2), 0.5), np.tile([1.0, 0.0], (300, 1))
    panel = ConformalPanel(0.5, rule="randomized")
    asked = panel.fit(confidence, right, random_state=0).predict_set(confidence, random_state=0)
    again = panel.fit(confidence, right, random_state=0).predict_set(confidence, random_state=0)
    assert np.array_equal(asked, again)
    assert not np.array_equal(asked, panel.predict_set(confidence, random_state=1))
    # Draws shared with calibration would let exactly the 151 rows up to the quantile through, for every seed.
    counts = [
        panel.fit(confidence, right, random_state=seed).predict_set(confidence, random_state=seed)[:, 0].sum()
        for seed in range(8)
    ]
    assert len(set(counts)) > 1
    generator = np.random.default_rng(7)
    first = panel.predict_set(confidence, random_state=generator)
    assert np.array_equal(first, panel.predict_set(confidence, random_state=np.random.default_rng(7)))
    assert not np.array_equal(first, panel.predict_set(confidence, random_state=generator))


# ---- the promise ----


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 25),
    alpha=st.sampled_from([0.1, 0.2, 0.25, 0.5, 0.9]),
    rule=st.sampled_from(["reach", "within"]),
    penalty=st.sampled_from([0.0, 0.2]),
)
def test_leaving_one_out_covers_the_promised_count_exactly(
    seed: int, n: int, alpha: float, rule: str, penalty: float
) -> None:
    """Of any n + 1 rows with distinct scores, ceil((n + 1)(1 - alpha)) are covered by a panel calibrated on the others."""
    confidence, right = draw(np.random.default_rng(seed), n + 1)
    right[np.arange(n + 1), confidence.argmin(axis=1)] = 1.0  # somebody is right
    covered = 0
    for row in range(n + 1):
        others = np.arange(n + 1) != row
        panel = quiet(ConformalPanel(alpha, rule=rule, penalty=penalty), confidence[others], right[others])
        covered += bool((panel.predict_set(confidence[[row]])[0] & (right[row] == 1)).any())
    promised = int(np.ceil(Fraction(str(alpha)).__rsub__(1) * (n + 1)))
    assert covered == promised if rule == "within" else covered >= promised


@pytest.mark.parametrize(("rule", "grid"), [("within", False), ("randomized", False), ("randomized", True)])
def test_mean_coverage_is_the_promised_one(rule: str, grid: bool) -> None:
    """Over calibrations: exactly 18 / 20, also where confidence takes a single value and "within" would cover more."""
    rng, n, reps, fresh = np.random.default_rng(6), 19, 1500, 20
    covered = np.empty(reps)
    for rep in range(reps):
        confidence, right = draw(rng, n + fresh, low=0.5)
        confidence = np.full_like(confidence, 0.7) if grid else confidence
        right[:, 2] = np.maximum(right[:, 2], 1 - right[:, :2].max(axis=1))  # somebody is right
        panel = ConformalPanel(Fraction(1, 10), rule=rule).fit(confidence[:n], right[:n], random_state=rng)
        asked = panel.predict_set(confidence[n:], random_state=rng)
        covered[rep] = (asked & (right[n:] == 1)).any(axis=1).mean()
    error = covered.std(ddof=1) / np.sqrt(reps)
    assert error < 0.004
    assert abs(covered.mean() - 0.9) < 4.5 * error


def test_every_group_keeps_its_own_promise() -> None:
    rng, reps = np.random.default_rng(8), 600
    sizes = {"clinic": 39, "ward": 99}
    label = np.repeat(list(sizes), list(sizes.values()))
    covered: dict[str, list[float]] = {group: [] for group in sizes}
    pooled: list[float] = []
    for _ in range(reps):
        parts = []
        for group in sizes:
            confidence, right = draw(rng, sizes[group] + 40, low=0.6)
            if group == "clinic":  # the confidence means less here
                right = (rng.random(right.shape) < 0.62).astype(float)
            right[:, 2] = np.maximum(right[:, 2], 1 - right[:, :2].max(axis=1))
            parts.append((confidence, right))
        fit = [np.concatenate([part[side][:-40] for part in parts]) for side in (0, 1)]
        panel = ConformalPanel(0.1, rule="within").fit(*fit, groups=label)
        alike = ConformalPanel(0.1, rule="within").fit(*fit)
        assert alike.quantile_ == panel.quantile_
        for group, (confidence, right) in zip(sizes, parts, strict=True):
            asked = panel.predict_set(confidence[-40:], groups=[group] * 40)
            covered[group].append((asked & (right[-40:] == 1)).any(axis=1).mean())
        asked = alike.predict_set(parts[0][0][-40:])
        pooled.append((asked & (parts[0][1][-40:] == 1)).any(axis=1).mean())
    for group, n in sizes.items():
        promised = np.ceil(0.9 * (n + 1) - 1e-9) / (n + 1)
        error = np.std(covered[group], ddof=1) / np.sqrt(reps)
        assert abs(np.mean(covered[group]) - promised) < 4.5 * error
    assert np.mean(pooled) < 0.9 - 4.5 * np.std(pooled) / np.sqrt(reps)  # one quantile for all would not keep it


def test_groups_are_calibrated_each_by_itself() -> None:
    confidence, right = draw(np.random.default_rng(9), 120)
    label = np.tile([3, 7, 11], 40)
    panel = quiet(ConformalPanel(0.1), confidence, right, groups=label)
    for group in (3, 7, 11):
        own = quiet(ConformalPanel(0.1), confidence[label == group], right[label == group])
        assert panel.quantiles_[group] == own.quantile_
        assert np.array_equal(panel.predict_set(confidence, groups=np.full(120, group)), own.predict_set(confidence))
    assert list(panel.quantiles_) == [3, 7, 11]


# ---- gaps ----


def test_a_gap_behind_the_first_right_expert_is_harmless() -> None:
    right = RIGHT.copy()
    right[0, 1:] = right[3, 1:] = np.nan
    right[1, 0] = np.nan
    for missing in ("raise", "as_wrong"):
        panel = ConformalPanel(0.4, missing=missing).fit(CONFIDENCE, right)
        assert panel.quantile_ == ConformalPanel(0.4).fit(CONFIDENCE, RIGHT).quantile_


def test_a_gap_before_the_first_right_expert_is_refused() -> None:
    right = RIGHT.copy()
    right[1, 1] = right[2, 2] = np.nan
    message = (
        r"right: in 2 of 4 rows an expert was not asked who stands before the first one known to be right, the first is row "
        r"1, expert 2; use missing='as_wrong', which keeps the guarantee, or missing='drop'"
    )
    with pytest.raises(RouterInputError, match=message):
        ConformalPanel(0.4).fit(CONFIDENCE, right)
    nobody = np.array([[0.0, np.nan, 0.0]])
    with pytest.raises(RouterInputError, match=r"in 1 of 1 rows .* row 0, expert 'bob'"):
        ConformalPanel(0.4).fit(pd.DataFrame([[0.5, 0.4, 0.3]], columns=["ann", "bob", "cy"]), nobody)


def test_dropped_rows_are_those_with_any_gap() -> None:
    right = RIGHT.copy()
    right[0, 2] = np.nan
    panel = ConformalPanel(0.5, missing="drop").fit(CONFIDENCE, right)
    assert panel.quantile_ == ConformalPanel(0.5).fit(CONFIDENCE[1:], RIGHT[1:]).quantile_
    with pytest.raises(RouterInputError, match="every one of the 4 rows has an expert who was not asked"):
        ConformalPanel(0.5, missing="drop").fit(CONFIDENCE, np.where(np.eye(4, 3) + np.eye(4, 3, -1), np.nan, RIGHT))
    with pytest.warns(FallbackWarning, match=r"in 1 of 2 groups; 'a': 0 calibration rows, and at least 1 are needed"):
        panel = ConformalPanel(0.5, missing="drop").fit(CONFIDENCE, right, groups=["a", "b", "b", "b"])
    assert panel.quantiles_["a"] == np.inf


def test_what_is_assumed_about_gaps_by_simulation() -> None:
    """Experts missing at random: "drop" stays exact, "as_wrong" covers more, leaving out ambiguous rows covers less."""
    rng, n, reps = np.random.default_rng(10), 99, 500
    covered = np.zeros((reps, 3))
    for rep in range(reps):
        confidence, right = draw(rng, n + 50, low=0.6)
        right[:, 2] = np.maximum(right[:, 2], 1 - right[:, :2].max(axis=1))
        seen = np.where(rng.random((n, 3)) < 0.3, np.nan, right[:n])
        ranked = np.take_along_axis(seen, np.argsort(-confidence[:n], axis=1), axis=1)
        lone = np.array([not np.isnan(row[: np.argmax(row == 1) if (row == 1).any() else 3]).any() for row in ranked])
        panels = (
            ConformalPanel(0.1, rule="within", missing="drop").fit(confidence[:n], seen),
            quiet(ConformalPanel(0.1, rule="within", missing="as_wrong"), confidence[:n], seen),
            ConformalPanel(0.1, rule="within").fit(confidence[:n][lone], seen[lone]),
        )
        for number, panel in enumerate(panels):
            covered[rep, number] = (panel.predict_set(confidence[n:]) & (right[n:] == 1)).any(axis=1).mean()
    mean, error = covered.mean(axis=0), covered.std(axis=0, ddof=1) / np.sqrt(reps)
    # The number of complete rows varies, and with it the excess, which is below 1 / (n' + 1).
    assert 0.9 - 4.5 * error[0] < mean[0] < 0.9 + 1 / 20 + 4.5 * error[0]
    assert mean[1] > 0.9 + 4.5 * error[1]
    assert mean[2] < 0.9 - 4.5 * error[2]


# ---- when everybody is asked ----


def test_a_fallback_to_the_whole_panel_says_why() -> None:
    confidence, right = draw(np.random.default_rng(11), 100)
    with pytest.warns(
        FallbackWarning, match=r"the whole panel is asked: 8 calibration rows, and at least 9 are needed for alpha=0\.1"
    ):
        panel = ConformalPanel(0.1).fit(confidence[:8], right[:8])
    assert panel.predict_set(confidence).all()
    right[:11], right[11:, 0] = 0, 1
    with pytest.warns(FallbackWarning, match=r"no expert is right in 11 of 100 rows, more than alpha=0\.1 lets pass"):
        assert ConformalPanel(0.1).fit(confidence, right).quantile_ == np.inf
    label = ["a"] * 60 + ["b"] * 40
    with pytest.warns(FallbackWarning, match=r"in 2 of 2 groups; 'a': no expert is right .*; 'b': 40 calibration rows, and at "
                      r"least 50 are needed"):  # fmt: skip
        panel = ConformalPanel(0.1, min_group_size=50).fit(confidence, right, groups=label)
    assert panel.quantiles_ == {"a": np.inf, "b": np.inf}


def test_the_warning_points_at_the_call() -> None:
    with pytest.warns(FallbackWarning) as caught:
        ConformalPanel(0.1).fit(CONFIDENCE, RIGHT)
    assert caught[0].filename == __file__
    with pytest.warns(FallbackWarning) as caught:
        ConformalPanel(0.1).fit(CONFIDENCE, RIGHT, groups=[0, 0, 1, 1])
    assert caught[0].filename == __file__


def test_nobody_warns_of_a_panel_that_was_asked_for() -> None:
    ConformalPanel(0.0).fit(CONFIDENCE, RIGHT)
    ConformalPanel(1.0).fit(CONFIDENCE, np.zeros_like(RIGHT))


# ---- reports ----


def test_coverage_and_size_are_counted() -> None:
    panel = ConformalPanel(0.4, rule="within").fit(CONFIDENCE, RIGHT)  # Q = 1.2
    confidence = [[0.9, 0.5, 0.2], [0.9, 0.5, 0.2], [0.1, 0.2, 0.3], [1.3, 0.1, 0.1], [0.9, 0.5, 0.2]]
    right = [[1, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]]
    shown = panel.coverage(confidence, right, level=0.9)
    assert (shown.n, shown.coverage, shown.attainable) == (5, 0.4, 0.8)
    assert shown.missed == pytest.approx(0.4)
    assert (shown.size, shown.empty, shown.whole, shown.level) == (1.2, 0.2, 0.2, 0.9)
    assert shown.coverage_low == pytest.approx(stats.beta.ppf(0.05, 2, 4))
    assert shown.coverage_high == pytest.approx(stats.beta.ppf(0.95, 3, 3))
    low, high = stats.t.interval(0.9, 4, loc=1.2, scale=np.std([1, 1, 3, 0, 1], ddof=1) / np.sqrt(5))
    assert (shown.size_low, shown.size_high) == (pytest.approx(low), pytest.approx(min(high, 3)))


def test_one_row_says_nothing_about_the_mean_size() -> None:
    shown = panel_coverage(np.array([[True, False]]), np.array([[True, False]]), 0.95)
    assert (shown.size_low, shown.size_high) == (0.0, 2.0)
    with pytest.raises(AttributeError):
        shown.size = 3.0  # type: ignore[misc]


def test_coverage_with_gaps_follows_the_panel() -> None:
    right = RIGHT.copy()
    right[1, 1] = np.nan
    panel = ConformalPanel(0.4).fit(CONFIDENCE, RIGHT)
    with pytest.raises(RouterInputError, match="in 1 of 4 rows an expert was not asked"):
        panel.coverage(CONFIDENCE, right)
    right[1] = [0, np.nan, 0]
    assert panel.set_params(missing="as_wrong").coverage(CONFIDENCE, right).attainable == 0.75
    assert panel.set_params(missing="drop").coverage(CONFIDENCE, right).n == 3


def test_the_exact_interval_covers_the_coverage_of_a_panel() -> None:
    rng = np.random.default_rng(12)
    panel = ConformalPanel(0.1, rule="within").fit(*draw(rng, 500, low=0.5))
    truth = panel.coverage(*draw(rng, 200_000, low=0.5)).coverage
    hits = 0
    for _ in range(400):
        shown = panel.coverage(*draw(rng, 100, low=0.5), level=0.9)
        hits += shown.coverage_low <= truth <= shown.coverage_high
    assert stats.binom.cdf(hits, 400, 0.9) > 1e-4


# ---- an estimator like others ----


def test_frames_name_the_experts_and_are_sorted_by_name() -> None:
    columns = ["ann", "bob", "cy"]
    confidence, right = pd.DataFrame(CONFIDENCE, columns=columns), pl.DataFrame(RIGHT, schema=columns)
    panel = ConformalPanel(0.4).fit(confidence, right.select("cy", "ann", "bob"))
    plain = ConformalPanel(0.4).fit(CONFIDENCE, RIGHT)
    assert panel.expert_.tolist() == columns
    assert (plain.expert_, plain.n_experts_, plain.quantile_) == (None, 3, panel.quantile_)
    asked = plain.predict_set(CONFIDENCE)
    for given_as in (CONFIDENCE, confidence, confidence[["bob", "cy", "ann"]]):
        assert np.array_equal(panel.predict_set(given_as), asked)
    assert np.array_equal(plain.predict_set(confidence), asked)
    named = ConformalPanel(0.4).fit(CONFIDENCE, right.to_pandas().astype(bool))
    assert named.expert_.tolist() == columns


def test_it_clones_pickles_and_is_fitted_again() -> None:
    panel = ConformalPanel(0.4, rule="within", penalty=0.1, k_reg=2, missing="drop", min_group_size=2)
    twin = clone(panel.fit(CONFIDENCE, RIGHT))
    assert twin.get_params() == panel.get_params()
    assert not hasattr(twin, "quantile_")
    buffer = io.BytesIO()
    joblib.dump(panel, buffer)
    buffer.seek(0)
    assert np.array_equal(joblib.load(buffer).predict_set(CONFIDENCE), panel.predict_set(CONFIDENCE))
    with pytest.raises(NotFittedError):
        twin.predict_set(CONFIDENCE)
    panel.fit(CONFIDENCE, RIGHT, groups=[0, 0, 0, 0])
    assert panel.fit(CONFIDENCE, RIGHT).quantiles_ == {}


def test_parameters_of_the_score_need_a_fit_and_the_others_do_not() -> None:
    panel = ConformalPanel(0.4).fit(CONFIDENCE, RIGHT)
    panel.set_params(rule="within").predict_set(CONFIDENCE)
    for change in ({"alpha": 0.2}, {"penalty": 1.0}, {"k_reg": 2}, {"rule": "randomized"}):
        moved = ConformalPanel(0.4).fit(CONFIDENCE, RIGHT).set_params(**change)
        with pytest.raises(RouterInputError, match=r"was changed after fit, and its quantile holds for .*; fit again"):
            moved.predict_set(CONFIDENCE)


# ---- messages ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, r"alpha must be a number in \[0, 1\], the share of queries that may miss; got 1\.5"),
        ({"alpha": "0.1"}, r"alpha must be a number in \[0, 1\].*got '0\.1'"),
        ({"alpha": True}, r"alpha must be a number in \[0, 1\].*got True"),
        ({"alpha": float("nan")}, r"alpha must be a number in \[0, 1\].*got nan"),
        ({"rule": "prefix"}, r"rule must be one of 'reach', 'within', 'randomized', got 'prefix'"),
        ({"missing": "skip"}, r"missing must be one of 'raise', 'as_wrong', 'drop', got 'skip'"),
        ({"penalty": -0.1}, r"penalty must be a finite number >= 0, got -0\.1"),
        ({"penalty": np.inf}, r"penalty must be a finite number >= 0, got inf"),
        ({"k_reg": 1.5}, r"k_reg must be an integer >= 0, got 1\.5"),
        ({"k_reg": -1}, r"k_reg must be an integer >= 0, got -1"),
        ({"min_group_size": 0}, r"min_group_size must be an integer >= 1, got 0"),
        ({"min_group_size": True}, r"min_group_size must be an integer >= 1, got True"),
    ],
)
def test_wrong_parameters(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RouterInputError, match=message):
        ConformalPanel(**options).fit(CONFIDENCE, RIGHT)


WRONG = RIGHT.copy()
WRONG[2, 1] = 0.5
NEGATIVE = CONFIDENCE.copy()
NEGATIVE[1, 2] = -0.25
GAP = CONFIDENCE.copy()
GAP[3, 0] = np.nan


@pytest.mark.parametrize(
    ("confidence", "right", "message"),
    [
        (CONFIDENCE[:, 0], RIGHT, r"confidence must be a table of shape"),
        (CONFIDENCE[:0], RIGHT[:0], r"confidence must hold at least one row and one expert, got shape \(0, 3\)"),
        (CONFIDENCE[:, :0], RIGHT[:, :0], r"confidence must hold at least one row and one expert, got shape \(4, 0\)"),
        (NEGATIVE, RIGHT, r"confidence: 1 of 12 values are not allowed, the first in row 1, expert 3 \(-0\.25\); it must be a "
                          r"finite number >= 0"),
        (GAP, RIGHT, r"confidence: 1 of 12 values are not allowed, the first in row 3, expert 1 \(nan\)"),
        (np.where(GAP > 0.8, np.inf, 0.5), RIGHT, r"confidence: 1 values are infinite, the first in row 0"),
        ([["a", "b", "c"]] * 4, RIGHT, r"confidence must be numbers, and it holds text, first 'a'"),
        (CONFIDENCE, RIGHT[:3], r"right must have the 4 rows of confidence, got 3"),
        (CONFIDENCE, RIGHT[:, :2], r"right must have one column for each of the 3 experts, got 2"),
        (CONFIDENCE, WRONG, r"right: 1 of 12 values are neither 0, 1 nor NaN, the first in row 2, expert 2 \(0\.5\); say from "
                            r"which grade on"),
        (pd.DataFrame(CONFIDENCE, columns=list("abc")), pd.DataFrame(RIGHT, columns=list("abd")),
         r"right must name the experts \['a', 'b', 'c'\]: lacking \['c'\], not known \['d'\]"),
    ],
)  # fmt: skip
def test_wrong_tables(confidence: Any, right: Any, message: str) -> None:
    with pytest.raises(RouterInputError, match=message):
        ConformalPanel(0.4).fit(confidence, right)


def test_wrong_tables_at_prediction() -> None:
    panel = ConformalPanel(0.4).fit(CONFIDENCE, RIGHT)
    with pytest.raises(RouterInputError, match="confidence must have one column for each of the 3 experts, got 2"):
        panel.predict_set(CONFIDENCE[:, :2])
    with pytest.raises(RouterInputError, match=r"level must be a number in \(0, 1\), got 95"):
        panel.coverage(CONFIDENCE, RIGHT, level=95)
    with pytest.raises(RouterInputError, match=r"score must be numbers of shape \(n,\) without NaN"):
        conformal_quantile([0.1, np.nan], 0.1)


def test_wrong_groups() -> None:
    panel = ConformalPanel(0.5)
    with pytest.raises(RouterInputError, match=r"groups must hold one group for each of the 4 rows, got shape \(3,\)"):
        panel.fit(CONFIDENCE, RIGHT, groups=["a", "a", "b"])
    for gap in (None, np.nan, pd.NA, pd.NaT):
        with pytest.raises(RouterInputError, match="groups: 1 of 4 rows have no group, the first is row 2"):
            panel.fit(CONFIDENCE, RIGHT, groups=np.array(["a", "a", gap, "b"], dtype=object))
    panel.fit(CONFIDENCE, RIGHT, groups=pd.Series(["a", "a", "b", "b"], dtype="category"))
    with pytest.raises(RouterInputError, match=r"groups: 2 of 3 rows are of a group that fit has not seen, the first is row 1 "
                       r"\('c'\); the groups are \['a', 'b'\]"):  # fmt: skip
        panel.predict_set(CONFIDENCE[:3], groups=["a", "c", "d"])
    with pytest.raises(RouterInputError, match="groups: none here, given in fit; give them to both or to neither"):
        panel.predict_set(CONFIDENCE)
    with pytest.raises(RouterInputError, match="groups: given here, none in fit; give them to both or to neither"):
        panel.fit(CONFIDENCE, RIGHT).predict_set(CONFIDENCE, groups=["a"] * 4)
    assert read_groups(np.array([np.float64(1.5), np.int64(2)], dtype=object), n=2) == [1.5, 2]


# ---- votes ----

ALL3 = np.ones((1, 3), dtype=bool)


def test_most_votes_win_and_ties_go_to_the_most_confident_expert() -> None:
    classes = ["a", "b", "c"]
    rng = np.random.default_rng(13)
    answers = np.array(list(product(classes, repeat=4)), dtype=object)
    confidence = rng.random((len(answers), 4))
    panel = rng.random(confidence.shape) < 0.8
    panel[~panel.any(axis=1), 0] = True
    voted = weighted_vote(answers, panel, confidence, classes=classes, weighting="majority")
    for row, label in enumerate(voted):
        count = Counter(answers[row][panel[row]])
        best = {name for name, votes in count.items() if votes == max(count.values())}
        leaders = [
            column for column in np.argsort(-confidence[row]) if panel[row, column] and answers[row, column] in best
        ]
        assert label == answers[row, leaders[0]]


def test_equal_confidence_goes_to_the_lower_column_and_equal_weights_tie_exactly() -> None:
    assert weighted_vote([["b", "a"]], [[True, True]], [[0.7, 0.7]], classes=["a", "b"]).tolist() == ["b"]
    # Six experts, the same three weights on both sides in another order: a tie, won by the first most confident.
    answers, share = [["b", "a", "a", "b", "b", "a"]], [[0.8, 0.7, 0.8, 0.61, 0.7, 0.61]]
    assert weighted_vote(answers, [[True] * 6], share, classes=["a", "b"]).tolist() == ["b"]
    # One expert's vote for an answer cancels another's vote against it: the class stands level with that of nobody.
    for chance in np.linspace(0.51, 0.99, 49):
        voted = weighted_vote([["b", "b"]], [[True, True]], [[1 - chance, chance]], classes=["a", "b"])
        assert voted.tolist() == ["b"]
    # Nobody named any of the classes that stand highest: the first of them.
    assert weighted_vote([["c"]], [[True]], [[0.1]], classes=["b", "a", "c"]).tolist() == ["b"]


def test_an_expert_worse_than_guessing_votes_against_its_answer() -> None:
    assert weighted_vote([["a"]], [[True]], [[0.3]], classes=["a", "b"]).tolist() == ["b"]
    assert weighted_vote([["a"]], [[True]], [[0.34]], classes=["a", "b", "c"]).tolist() == ["a"]


def test_only_the_panel_and_only_given_answers_count() -> None:
    classes, chance = [0, 1], [[0.99, 0.6, 0.55]]
    assert weighted_vote([[1, 0, 0]], ALL3, chance, classes=classes).tolist() == [1]
    assert weighted_vote([[1, 0, 0]], [[False, True, True]], chance, classes=classes).tolist() == [0]
    for gap in (None, np.nan):
        assert weighted_vote(np.array([[gap, 0, 0]], dtype=object), ALL3, chance, classes=classes).tolist() == [0]
    frame = pd.DataFrame([[0, 0, 1]], columns=["bob", "cy", "ann"])
    named = pd.DataFrame(chance, columns=["ann", "bob", "cy"])
    assert weighted_vote(frame, ALL3, named, classes=classes).tolist() == [1]


def test_certain_experts_are_clipped() -> None:
    chance = [[1.0, 0.99, 0.99]]
    assert weighted_vote([[1, 0, 0]], ALL3, chance, classes=[0, 1]).tolist() == [1]  # log 1e6 > 2 log 99
    assert weighted_vote([[1, 0, 0]], ALL3, chance, classes=[0, 1], eps=1e-3).tolist() == [0]  # log 999 < 2 log 99
    assert weighted_vote([[1, 1, 0]], ALL3, [[0.0, 1.0, 1.0]], classes=[0, 1]).tolist() == [0]


def test_without_an_answer_the_fallback_speaks() -> None:
    answers, nobody = [["a", "b"], ["a", "b"]], [[False, False], [True, True]]
    chance = [[0.9, 0.6]] * 2
    assert weighted_vote(answers, nobody, chance, classes=["a", "b"], fallback="b").tolist() == ["b", "a"]
    own = pd.Series(["b", None], name="own")
    assert weighted_vote(answers, nobody, chance, classes=["a", "b"], fallback=own).tolist() == ["b", "a"]
    with pytest.raises(RouterInputError, match="1 of 2 queries are answered by nobody in the panel, the first is row 0; give "
                       "fallback="):  # fmt: skip
        weighted_vote(answers, nobody, chance, classes=["a", "b"])
    with pytest.raises(
        RouterInputError, match="1 of 1 queries that nobody answers have no fallback, the first is row 0"
    ):
        weighted_vote(answers, nobody, chance, classes=["a", "b"], fallback=[None, "a"])
    with pytest.raises(RouterInputError, match=r"fallback must be one label, or 2 of them, got shape \(3,\)"):
        weighted_vote(answers, nobody, chance, classes=["a", "b"], fallback=["a"] * 3)
    with pytest.raises(RouterInputError, match="fallback: the answer says 'z' in row 0, the first of 2 of 2 answers"):
        weighted_vote(answers, nobody, chance, classes=["a", "b"], fallback="z")


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), weighting=st.sampled_from(["log_odds", "majority"]))
def test_a_query_is_answered_alike_alone_and_with_experts_in_any_order(seed: int, weighting: str) -> None:
    rng = np.random.default_rng(seed)
    answers, chance = rng.integers(0, 3, size=(12, 5)), rng.uniform(0.1, 0.99, size=(12, 5))
    panel, order = rng.random((12, 5)) < 0.7, rng.permutation(5)
    options: dict[str, Any] = {"classes": [0, 1, 2], "weighting": weighting, "fallback": 0}
    voted = weighted_vote(answers, panel, chance, **options)
    assert voted.dtype.kind == "i"
    assert np.array_equal(voted, weighted_vote(answers[:, order], panel[:, order], chance[:, order], **options))
    for row in range(12):
        assert weighted_vote(answers[[row]], panel[[row]], chance[[row]], **options)[0] == voted[row]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weighting": "mean"}, r"weighting must be one of 'log_odds', 'majority', got 'mean'"),
        ({"eps": 0.5}, r"eps must be a number in \(0, 0\.5\), got 0\.5"),
        ({"eps": True}, r"eps must be a number in \(0, 0\.5\), got True"),
        ({"classes": ["a"]}, r"classes must be at least two different labels, shape \(K,\), got \['a'\]"),
        ({"classes": "ab"}, r"classes must be at least two different labels, shape \(K,\), got 'ab'"),
        ({"classes": ["a", "a"]}, r"classes must be at least two different labels"),
        ({"classes": ["b", "c"]}, r"answers: expert 'expert 1' says 'a' in row 0, the first of 1 of 3 answers that are not among "
                                  r"the 2 classes \['b', 'c'\]; name it in classes="),
        ({"classes": list(range(20))}, r"not among the 20 classes \[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\.\]"),
        ({"confidence": [[0.9, 6.0, 0.5]]}, r"confidence: 1 of 3 values are not allowed, the first in row 0, expert 2 \(6\); it "
                                            r"must be a probability, in \[0, 1\]"),
        ({"confidence": [[0.9, 0.5]]}, r"answers must have the shape of confidence, \(1, 2\), got \(1, 3\)"),
        ({"confidence": [[0.9, 0.5, 0.5]] * 2}, r"one row per query"),
        ({"panel": [[1, 1, 1]]}, r"panel must hold truth values, .* shape \(1, 3\); got shape \(1, 3\) of type int64"),
        ({"panel": [[True, True]]}, r"panel must hold truth values, .* shape \(1, 3\); got shape \(1, 2\) of type bool"),
    ],
)  # fmt: skip
def test_wrong_votes(change: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {"answers": [["a", "b", "b"]], "panel": ALL3, "confidence": [[0.9, 0.6, 0.6]]}
    options |= {"classes": ["a", "b"]} | change
    with pytest.raises(RouterInputError, match=message):
        weighted_vote(options.pop("answers"), options.pop("panel"), options.pop("confidence"), **options)


def test_a_panel_is_read_as_it_is() -> None:
    assert read_panel(pd.DataFrame({"a": [True], "b": [False]}), shape=(1, 2)).tolist() == [[True, False]]
