"""Several experts: read-outs against known probabilities, gaps under each assumption, prices, and options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.tree import DecisionTreeClassifier

from defer import Capacity, Share
from defer.estimators import MultiExpertDeferral
from defer.exceptions import RouterInputError

EXACT: dict[str, Any] = {"C": 1e9, "tol": 1e-9, "max_iter": 5000}
ETA, P = np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]]), np.array([[0.6, 0.4], [0.3, 0.5]])


@pytest.fixture(scope="module")
def population() -> Any:
    """Every (query, label, who is right) once, with its probability; experts are right independently of the label."""
    rows = [
        (kind, label, first, second)
        for kind in range(2) for label in range(3) for first in (0, 1) for second in (0, 1)
    ]  # fmt: skip
    kind, label, first, second = np.array(rows).T
    right = np.column_stack([first, second])
    mass = ETA[kind, label] * np.where(right, P[kind], 1 - P[kind]).prod(axis=1)
    return np.eye(2)[kind], label, np.where(right, label[:, None], (label[:, None] + 1) % 3), mass


@pytest.mark.parametrize("surrogate", ["ova", "softmax", "cost_sensitive"])
def test_x2_items_1_and_5_read_outs_and_the_bayes_decision(population: Any, surrogate: str) -> None:
    X, y, experts, mass = population
    fitted = MultiExpertDeferral(surrogate, **EXACT).fit(X, y, experts=experts, sample_weight=mass)
    np.testing.assert_allclose(fitted.predict_quality(np.eye(2)), np.column_stack([ETA.max(axis=1), P]), atol=1e-5)
    assert fitted.predict(np.eye(2)).tolist() == ["expert 1", "own"]
    if surrogate == "softmax":
        share = np.exp(fitted.scores(np.eye(2))[0])
        np.testing.assert_allclose(share / share.sum(), [0.25, 0.15, 0.1, 0.3, 0.2], atol=1e-5)


def test_x2_item_2_a_duplicate_shares_the_softmax_and_changes_no_decision(population: Any) -> None:
    X, y, experts, mass = population
    twins = experts[:, [0, 1, 0]]
    fitted = MultiExpertDeferral("softmax", **EXACT).fit(X, y, experts=twins, sample_weight=mass)
    share = np.exp(fitted.scores(np.eye(2))[0])
    np.testing.assert_allclose(share / share.sum(), np.array([0.5, 0.3, 0.2, 0.6, 0.4, 0.6]) / 2.6, atol=1e-5)
    assert fitted.predict(np.eye(2))[1] == "own"
    assert fitted.predict(np.eye(2))[0] in ("expert 1", "expert 3")


def test_prices_move_the_choice_between_experts(population: Any) -> None:
    X, y, experts, mass = population
    cost = np.tile([0.5, 0.1], (len(X), 1))
    for surrogate in ("ova", "softmax"):
        for costs in ("decision", "training"):
            fitted = MultiExpertDeferral(surrogate, costs=costs, rescale=costs == "training", cost_weight=0.0, **EXACT)
            taken = []
            for weight in (0.0, 0.3, 1.5):
                fitted.set_params(cost_weight=weight).fit(X, y, experts=experts, cost=cost, sample_weight=mass)
                taken.append(fitted.predict(np.eye(2)).tolist())
            # Utilities of the first kind: .5 | .6 - .5 w | .4 - .1 w.
            assert taken == [["expert 1", "own"], ["own", "own"], ["own", "own"]], (surrogate, costs)
    cheap = np.tile([0.5, 0.0], (len(X), 1))
    priced = MultiExpertDeferral(cost_weight=0.5, **EXACT).fit(X[:, :1] * 0 + 1, y, experts=experts, cost=cheap)
    assert priced.predict_utility([[1.0]])[0, 1] < priced.predict_quality([[1.0]])[0, 1]


@pytest.fixture(scope="module")
def readers() -> Any:
    """4,000 queries of three readers, one of whom is asked more often where it is weak."""
    rng = np.random.default_rng(1)
    n = 4000
    X = rng.normal(size=(n, 2))
    y = (X[:, 0] + rng.normal(size=n) > 0).astype(int)
    hidden = rng.integers(2, size=n)
    chance = np.column_stack([np.full(n, 0.75), np.where(X[:, 1] > 0, 0.95, 0.55), np.where(hidden, 0.9, 0.5)])
    right = rng.random((n, 3)) < chance
    answers = np.where(right, y[:, None], 1 - y[:, None])
    asked = np.column_stack([np.full(n, 0.6), np.full(n, 0.15), np.where(hidden, 0.2, 0.8)])
    seen = rng.random((n, 3)) < asked
    return X, y, answers, np.where(seen, answers, None), asked, chance


@pytest.mark.parametrize("surrogate", ["ova", "softmax"])
def test_a_reader_who_is_seldom_asked_counts_as_much_as_the_others(readers: Any, surrogate: str) -> None:
    X, y, answers, gaps, _, _ = readers
    full = MultiExpertDeferral(surrogate).fit(X, y, experts=answers[:, :2])
    some = MultiExpertDeferral(surrogate).fit(X, y, experts=gaps[:, :2])
    assert some.weighting_ == "missing at random"
    np.testing.assert_allclose(some.predict_quality(X).mean(axis=0), full.predict_quality(X).mean(axis=0), atol=0.05)
    assert (some.predict(X) == full.predict(X)).mean() > 0.85


@pytest.mark.parametrize("surrogate", ["ova", "softmax"])
def test_propensities_undo_that_a_reader_was_asked_where_it_is_weak(readers: Any, surrogate: str) -> None:
    X, y, _, gaps, asked, chance = readers
    naive = MultiExpertDeferral(surrogate).fit(X, y, experts=gaps).predict_quality(X).mean(axis=0)
    weighted = MultiExpertDeferral(surrogate).fit(X, y, experts=gaps, propensity=asked)
    assert weighted.weighting_ == "inverse propensity"
    fair = weighted.predict_quality(X).mean(axis=0)
    # Asked at .2 where right at .9 and at .8 where right at .5: what was seen averages .58, and the truth is .7.
    assert naive[3] < 0.63
    assert fair[3] == pytest.approx(0.7, abs=0.06)
    assert fair[1:3] == pytest.approx(chance[:, :2].mean(axis=0), abs=0.06)


def test_imputation_fills_in_what_query_and_label_tell() -> None:
    # The reader knows one class and is mostly asked about the other: not missing at random, but at random given the label.
    rng = np.random.default_rng(2)
    n = 4000
    X = rng.normal(size=(n, 2))
    y = rng.integers(2, size=n)
    answers = np.where(rng.random(n) < np.where(y == 1, 0.95, 0.35), y, 1 - y)
    gaps = np.where(rng.random(n) < np.where(y == 1, 0.1, 0.7), answers, None)
    truth = np.mean(answers == y)
    for surrogate in ("ova", "softmax", "cost_sensitive"):
        filled = MultiExpertDeferral(surrogate, missing="impute").fit(X, y, experts=gaps)
        assert filled.weighting_ == "none"
        assert filled.predict_quality(X)[:, 1].mean() == pytest.approx(truth, abs=0.03)
    naive = MultiExpertDeferral().fit(X, y, experts=gaps).predict_quality(X)[:, 1].mean()
    assert naive < truth - 0.1
    by_tree = MultiExpertDeferral(missing="impute", expert_model=DecisionTreeClassifier(max_depth=2), random_state=0)
    assert by_tree.fit(X, y, experts=gaps).predict_quality(X)[:, 1].mean() == pytest.approx(truth, abs=0.03)


def test_without_gaps_imputation_changes_nothing(population: Any) -> None:
    X, y, experts, mass = population
    one, other = (
        MultiExpertDeferral(missing=missing).fit(X, y, experts=experts, sample_weight=mass)
        for missing in ("at_random", "impute")
    )
    np.testing.assert_array_equal(one.predict_quality(X), other.predict_quality(X))


def test_the_gradient_of_one_expert_does_not_involve_another(readers: Any) -> None:
    X, y, answers, gaps, _, _ = readers
    alone = MultiExpertDeferral(tol=1e-8).fit(X, y, experts=answers[:, :1])
    beside = MultiExpertDeferral(tol=1e-8).fit(X, y, experts=np.column_stack([answers[:, :1], gaps[:, 1:]]))
    np.testing.assert_allclose(beside.scores(X)[:, :3], alone.scores(X), atol=1e-4)


def test_cost_sensitive_needs_every_answer_of_several(readers: Any) -> None:
    X, y, _, gaps, _, _ = readers
    missing = int((gaps == None).sum())  # noqa: E711
    with pytest.raises(
        RouterInputError,
        match=rf"surrogate='cost_sensitive' needs the answers of all experts to every query, and {missing} of 12000 are "
        r"missing; take 'softmax', 'ova', or MultiExpertDeferral\(missing='impute'\)",
    ):
        MultiExpertDeferral("cost_sensitive").fit(X, y, experts=gaps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"surrogate": "realizable"}, "surrogate must be one of 'ova', 'softmax', 'cost_sensitive', got 'realizable'"),
        ({"missing": "drop"}, "missing must be one of 'at_random', 'impute', got 'drop'"),
    ],
)
def test_wrong_options_are_named(population: Any, options: Any, message: str) -> None:
    X, y, experts, _ = population
    with pytest.raises(RouterInputError, match=f"MultiExpertDeferral: {message}"):
        MultiExpertDeferral(**options).fit(X, y, experts=experts)


def test_readers_keep_to_their_hours(readers: Any) -> None:
    X, y, answers, _, _, _ = readers
    experts = pd.DataFrame(answers, columns=["ann", "bob", "cem"])
    fitted = MultiExpertDeferral("ova", LogisticRegression()).fit(X, y, experts=experts)
    assert fitted.expert_.tolist() == ["ann", "bob", "cem"]
    routing = fitted.route(X[:200], limit=Capacity({"ann": 10, "bob": 40, "cem": 5}), random_state=0)
    counts = np.bincount(routing.arm, minlength=4)
    assert counts[1] <= 10
    assert counts[2] == 40
    assert counts[3] <= 5
    free = (fitted.predict(X) == "bob").mean()
    few = fitted.route(X, limit=Share("bob", at_most=0.1), random_state=0)
    assert free > 0.2
    assert few.load[2] == pytest.approx(0.1)
    # A cell of the randomised group may round either way.
    assert abs((few.arm == 2).sum() - 0.1 * len(X)) < 1.0
    kept = fitted.defer_mask(X, limit=Share("bob", at_most=0.1), random_state=0)
    np.testing.assert_array_equal(kept, few.arm != 0)


def test_gaps_in_a_table_are_sent_to_surrogates_that_there_are() -> None:
    quality = np.array([[1.0, 0.0], [np.nan, 1.0]] * 3)
    with pytest.raises(
        RouterInputError, match=r"needs every outcome observed, and 3 of 12 are not; take 'softmax', 'ova'$"
    ):
        MultiExpertDeferral("cost_sensitive").fit(np.arange(6.0)[:, None], quality)


def test_an_expert_model_is_checked_whether_it_is_needed_or_not(population: Any) -> None:
    X, y, experts, _ = population
    for missing in ("at_random", "impute"):
        with pytest.raises(RouterInputError, match="MultiExpertDeferral: expert_model Ridge has no predict_proba"):
            MultiExpertDeferral(missing=missing, expert_model=Ridge()).fit(X, y, experts=experts)
