"""Panels of experts: the quantile, the coverage of the rules, the ends of alpha and the vote, with the card's numbers."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from scipy import stats

from defer.estimators.deferral.conformal import ConformalPanel
from defer.estimators.deferral.panel_coverage import conformal_quantile
from defer.estimators.deferral.panel_vote import weighted_vote
from defer.exceptions import FallbackWarning

pytestmark = pytest.mark.filterwarnings("ignore::defer.exceptions.FallbackWarning")


def three_experts(rng: np.random.Generator, n: int) -> tuple[Any, Any]:
    """Three independent experts, each right as often as one is confident; all are wrong on .375 ** 3 = .0527 of the queries."""
    confidence = rng.uniform(0.3, 0.95, size=(n, 3))
    return confidence, (rng.random((n, 3)) < confidence).astype(float)


def test_index_of_the_quantile() -> None:
    rng = np.random.default_rng(0)
    assert conformal_quantile(rng.permutation(np.arange(1.0, 100.0)), 0.1) == 90.0
    confidence, right = three_experts(rng, 8)
    with pytest.warns(FallbackWarning, match="8 calibration rows, and at least 9 are needed"):
        panel = ConformalPanel(0.1).fit(confidence, right)
    assert panel.predict_set(confidence).all()


@pytest.mark.parametrize("rule", ["reach", "within", "randomized"])
def test_coverage_of_the_rules(rule: str) -> None:
    """n = 99, alpha = .1: P(S <= Q) is .9 for the exact rules; "reach" has .996 first right experts asked or none right.

    The card does not say how confidence was drawn; with the draw above a run of 800 calibrations gave .9955.
    """
    rng, n, reps, fresh = np.random.default_rng(1), 99, 1500, 60
    kept, held = np.empty(reps), np.empty(reps)
    for rep in range(reps):
        confidence, right = three_experts(rng, n + fresh)
        panel = ConformalPanel(0.1, rule=rule).fit(confidence[:n], right[:n], random_state=rng)
        asked = panel.predict_set(confidence[n:], random_state=rng)
        covered, none = (asked & (right[n:] == 1)).any(axis=1), ~right[n:].any(axis=1)
        kept[rep] = (covered | (none & np.isinf(panel.quantile_))).mean()  # the event S <= Q
        held[rep] = (covered | none).mean()
    error = kept.std(ddof=1) / np.sqrt(reps)
    if rule == "reach":
        assert held.mean() == pytest.approx(0.996, abs=0.0015)
        assert kept.mean() > 0.9 + 4.5 * error
    else:
        # Infinite scores tie: if more than 10 of 100 are, the quantile is one of them and none exceeds it; else 90 do not.
        promised = 0.9 + 0.1 * stats.binom.sf(10, 100, 0.375**3)
        assert abs(kept.mean() - promised) < 4.5 * error
        assert error < 0.0015


def test_no_right_expert_too_often_asks_everybody() -> None:
    rng = np.random.default_rng(2)
    confidence, right = three_experts(rng, 999)
    right[rng.random(999) < 0.1] = 0.0
    assert (~right.any(axis=1)).mean() > 0.1
    with pytest.warns(FallbackWarning, match="no expert is right in"):
        panel = ConformalPanel(0.1).fit(confidence, right)
    assert panel.quantile_ == np.inf
    assert panel.predict_set(confidence).all()


@pytest.mark.parametrize("rule", ["reach", "within", "randomized"])
def test_size_falls_with_alpha_from_everybody_to_one_or_nobody(rule: str) -> None:
    rng = np.random.default_rng(3)
    confidence, right = three_experts(rng, 200)
    fresh, _ = three_experts(rng, 300)
    sizes = [
        ConformalPanel(alpha, rule=rule).fit(confidence, right, random_state=0).predict_set(fresh, random_state=0)
        for alpha in np.linspace(0, 1, 41)
    ]
    assert all((later <= earlier).all() for earlier, later in pairwise(sizes))
    assert sizes[0].all()
    assert (sizes[-1].sum(axis=1) == (1 if rule == "reach" else 0)).all()


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_the_weighted_vote_is_the_bayes_answer(n_classes: int, seed: int) -> None:
    """Over all answers of independent experts: never a less probable class, and the accuracy of the Bayes rule."""
    chance = np.random.default_rng(seed).uniform(0.15, 0.95, size=4)
    answers = np.array(list(product(range(n_classes), repeat=4)))
    likelihood = np.stack(
        [np.where(answers == k, chance, (1 - chance) / (n_classes - 1)).prod(axis=1) for k in range(n_classes)], axis=1
    )
    assert likelihood.sum() == pytest.approx(n_classes)
    everybody = np.ones(answers.shape, dtype=bool)
    voted = weighted_vote(answers, everybody, np.tile(chance, (len(answers), 1)), classes=range(n_classes))
    chosen = likelihood[np.arange(len(answers)), voted]
    assert chosen == pytest.approx(likelihood.max(axis=1), rel=1e-12)
    accuracy = chosen.sum() / n_classes
    assert accuracy >= max(chance) - 1e-12
    majority = weighted_vote(
        answers, everybody, np.tile(chance, (len(answers), 1)), classes=range(n_classes), weighting="majority"
    )
    assert likelihood[np.arange(len(answers)), majority].sum() / n_classes <= accuracy + 1e-12
