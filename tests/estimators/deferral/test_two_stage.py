"""Two-stage deferral: shares and quality of every loss, the frozen predictor, prices, and bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.tree import DecisionTreeClassifier

from defer import Budget, Share
from defer.estimators import SingleStageDeferral, TwoStageDeferral
from defer.estimators.deferral.linear import fit_linear_scores
from defer.estimators.deferral.score_problem import ScoreProblem
from defer.exceptions import CostRangeError, DeferWarning, LeakageWarning, RouterInputError
from defer.losses import COMP_SUMS, two_stage

EXACT: dict[str, Any] = {"C": 1e9, "tol": 1e-10, "max_iter": 5000}
QUALITY = np.array([[0.6, 0.8, 0.3], [0.9, 0.65, 0.7], [0.1, 0.4, 0.45]])


@pytest.fixture(scope="module")
def staged() -> Any:
    """Queries, labels, a predictor that knows the left half, and an expert who knows the right half."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(400, 2))
    y = np.where(X[:, 1] > 0, "up", "down")
    other = np.where(y == "up", "down", "up")
    left = X[:, 0] < 0
    expert = np.where(left & (rng.random(400) < 0.7), other, y)
    predictor = DecisionTreeClassifier(random_state=0).fit(X, np.where(left, y, other))
    trees = HistGradientBoostingClassifier(max_iter=30).fit(X, np.where(left | (rng.random(400) < 0.2), y, other))
    return X, y, expert, predictor, trees


@pytest.mark.parametrize("comp_sum", [name for name in COMP_SUMS if name != "mean_absolute_error"])
@pytest.mark.parametrize("weighting", ["one_minus_cost", "cost_of_others"])
def test_every_loss_reads_out_the_quality_of_every_arm(comp_sum: str, weighting: str) -> None:
    fitted = TwoStageDeferral(comp_sum=comp_sum, weighting=weighting, **EXACT).fit(np.eye(3), QUALITY)
    np.testing.assert_allclose(fitted.predict_quality(np.eye(3)), QUALITY, atol=2e-4)
    np.testing.assert_array_equal(fitted.scores(np.eye(3)).argmax(axis=1), QUALITY.argmax(axis=1))


def test_the_mean_absolute_error_tells_the_best_arm() -> None:
    fitted = TwoStageDeferral(comp_sum="mean_absolute_error", C=1e4).fit(np.eye(3), QUALITY)
    assert fitted.predict(np.eye(3)).tolist() == QUALITY.argmax(axis=1).tolist()


@pytest.mark.parametrize("comp_sum", COMP_SUMS)
@pytest.mark.parametrize("weighting", ["one_minus_cost", "cost_of_others"])
def test_what_is_minimised_is_the_two_stage_loss(comp_sum: str, weighting: str) -> None:
    rng = np.random.default_rng(5)
    X, quality, weight = rng.normal(size=(50, 2)), rng.random((50, 3)), rng.random(50)
    fitted = TwoStageDeferral(comp_sum=comp_sum, weighting=weighting, C=2.0).fit(X, quality, sample_weight=weight)
    loss = two_stage(fitted.scores(X), 1 - quality, weight=weight, comp_sum=comp_sum, weighting=weighting).value.sum()
    penalty = (fitted.model_.coef**2).sum() / (2 * 2.0)
    assert fitted.model_.objective == pytest.approx((loss + penalty) / weight.sum(), rel=1e-9)


def test_generalised_cross_entropy_follows_q() -> None:
    one, other = (
        TwoStageDeferral(comp_sum="generalized_cross_entropy", q=q, **EXACT).fit(np.eye(3), QUALITY) for q in (0.0, 0.3)
    )
    plain = TwoStageDeferral(**EXACT).fit(np.eye(3), QUALITY)
    assert one.model_.objective == pytest.approx(plain.model_.objective)
    assert other.model_.objective != pytest.approx(plain.model_.objective, abs=1e-3)
    np.testing.assert_allclose(other.predict_quality(np.eye(3)), QUALITY, atol=2e-4)


def test_labels_of_the_arm_to_take_make_it_logistic_regression() -> None:
    rng = np.random.default_rng(2)
    X, label = rng.normal(size=(90, 3)), rng.integers(3, size=90)
    ours = TwoStageDeferral(C=0.5, tol=1e-10).fit(X, label)
    peer = LogisticRegression(C=0.5, tol=1e-10, max_iter=1000).fit(X, label)
    np.testing.assert_allclose(ours.model_.coef, peer.coef_, atol=1e-6)
    np.testing.assert_allclose(ours.predict_quality(X), peer.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize("base", [LogisticRegression(C=1e9, tol=1e-10, max_iter=5000), "linear"])
@pytest.mark.parametrize("weighting", ["one_minus_cost", "cost_of_others"])
def test_a_classifier_on_repeated_queries_minimises_the_same_loss(base: Any, weighting: str) -> None:
    fitted = TwoStageDeferral(estimator=base, weighting=weighting, **EXACT).fit(np.eye(3), QUALITY)
    np.testing.assert_allclose(fitted.predict_quality(np.eye(3)), QUALITY, atol=1e-4)
    if base != "linear":
        with pytest.raises(
            RouterInputError, match="can be fitted to the cross-entropy and one-vs-all surrogates alone"
        ):
            TwoStageDeferral(estimator=base, comp_sum="sum_exponential").fit(np.eye(3), QUALITY)


def test_the_predictor_answers_and_stays_as_it_is(staged: Any) -> None:
    X, y, expert, predictor, _ = staged
    before = predictor.tree_
    fitted = TwoStageDeferral(predictor, C=100.0).fit(X, y, experts=expert)
    assert fitted.predictor is predictor
    assert predictor.tree_ is before
    np.testing.assert_array_equal(fitted.predict_own(X), predictor.predict(X))
    assert fitted.arms_.tolist() == ["own", "expert"]
    own = (predictor.predict(X) == y).mean()
    assert fitted.score(X, y, experts=expert) > max(own, (expert == y).mean()) + 0.2
    quality = np.column_stack([predictor.predict(X) == y, expert == y]).astype(float)
    by_table = TwoStageDeferral(C=100.0).fit(X, quality)
    np.testing.assert_array_equal(fitted.predict_quality(X), by_table.predict_quality(X))


def test_a_frozen_predictor_survives_cross_validation_and_a_bare_one_says_why_not(staged: Any) -> None:
    X, y, expert, _, trees = staged
    with config_context(enable_metadata_routing=True):
        scores = cross_val_score(
            TwoStageDeferral(FrozenEstimator(trees)), X, y, cv=3, params={"experts": expert}, error_score="raise"
        )
    assert scores.min() > 0.8
    with pytest.raises(
        RouterInputError,
        match=r"HistGradientBoostingClassifier is not fitted.*PostHocDeferral.*FrozenEstimator\(predictor\)",
    ):
        clone(TwoStageDeferral(trees)).fit(X, y, experts=expert)


def test_without_a_predictor_there_is_no_own_answer(staged: Any) -> None:
    X, y, expert, _, _ = staged
    with pytest.raises(
        RouterInputError, match=r"own answers come from predictor=, which is None.*SingleStageDeferral.*PostHoc"
    ):
        TwoStageDeferral().fit(X, y, experts=expert)
    with pytest.raises(
        RouterInputError, match=r"predictor must be a fitted classifier, got 'linear', which cannot predict"
    ):
        TwoStageDeferral("linear").fit(X, y, experts=expert)
    with pytest.raises(RouterInputError, match=r"predictor must be a fitted classifier, got <class"):
        TwoStageDeferral(LogisticRegression).fit(X, y, experts=expert)


def test_a_predictor_may_know_more_labels_than_y_but_not_others(staged: Any) -> None:
    X, y, expert, _, _ = staged
    wide = LogisticRegression().fit(X, np.where(X[:, 0] > 0.5, "aside", y))
    fitted = TwoStageDeferral(wide).fit(X, y, experts=expert)
    assert fitted.label_classes_.tolist() == ["aside", "down", "up"]
    np.testing.assert_array_equal(fitted.predict_own(X), wide.predict(X))
    numbers = LogisticRegression().fit(X, (y == "up").astype(int))
    with pytest.raises(
        RouterInputError, match=r"answers none of the labels of y: it knows \[0, 1\], and y holds \['down', 'up'\]"
    ):
        TwoStageDeferral(numbers).fit(X, y, experts=expert)


class Rule:
    """A predictor that is no estimator of scikit-learn."""

    def __init__(self, far: str = "up") -> None:
        self.far = far

    def predict(self, X: Any) -> Any:
        return np.where(X[:, 1] > 5, self.far, np.where(X[:, 1] > 0, "up", "down"))


def test_any_object_that_predicts_is_a_predictor(staged: Any) -> None:
    X, y, expert, _, _ = staged
    with pytest.warns(LeakageWarning, match="the predictor Rule is right on all 400 queries of fit"):
        fitted = TwoStageDeferral(Rule("sky")).fit(X, y, experts=expert)
    assert fitted.predict_own(X[:5]).tolist() == y[:5].tolist()
    with pytest.raises(
        RouterInputError,
        match=r"gives 1 of 2 queries a label that it did not know at fit, the first in row 1 \('sky'\)",
    ):
        fitted.predict_own([[0.0, 1.0], [0.0, 9.0]])


def test_columns_of_the_predictor_are_our_columns(staged: Any) -> None:
    X, y, expert, _, _ = staged
    frame = pd.DataFrame(X, columns=["a", "b"])
    predictor = LogisticRegression().fit(frame, y)
    fitted = TwoStageDeferral(predictor).fit(frame, y, experts=expert)
    assert fitted.predict_own(frame).tolist() == predictor.predict(frame).tolist()
    with pytest.raises(RouterInputError, match=r"fitted on the columns \['a', 'b'\], and X has \['b', 'a'\]"):
        TwoStageDeferral(predictor).fit(frame[["b", "a"]], y, experts=expert)


def test_a_price_is_learned_and_another_needs_another_fit(staged: Any) -> None:
    X, y, expert, predictor, _ = staged
    cost = np.tile([0.0, 1.0], (len(X), 1))
    shares = []
    for weight in (0.0, 0.2, 0.6, 1.5):
        fitted = TwoStageDeferral(predictor, cost_weight=weight, rescale=True).fit(X, y, experts=expert, cost=cost)
        shares.append(fitted.defer_mask(X).mean())
        np.testing.assert_array_equal(fitted.predict_utility(X).argmax(axis=1), fitted.scores(X).argmax(axis=1))
        np.testing.assert_allclose(fitted.predict_quality(X).mean(axis=0), [(predictor.predict(X) == y).mean(), (expert == y).mean()], atol=0.05)  # fmt: skip
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.3
    assert shares[-1] < 0.01
    with pytest.raises(
        CostRangeError, match=r"TwoStageDeferral: 1 - quality \+ cost_weight \* cost lies outside \[0, 1\].*'expert'"
    ):
        TwoStageDeferral(predictor, cost_weight=0.2).fit(X, y, experts=expert, cost=cost)


def test_limits_follow_the_scores(staged: Any) -> None:
    X, y, expert, predictor, _ = staged
    cost = np.tile([0.0, 1.0], (len(X), 1))
    fitted = TwoStageDeferral(predictor).fit(X, y, experts=expert, cost=cost)
    assert fitted.route(X, limit=Budget(mean_cost=0.2), random_state=0).expected_cost == pytest.approx(0.2)
    few = fitted.route(X, limit=Share("expert", at_most=0.1), random_state=0)
    gain = np.diff(fitted.predict_quality(X), axis=1)[:, 0]
    assert gain[few.arm == 1].min() >= np.sort(gain)[-41]
    assert few.load[1] == pytest.approx(0.1)


@pytest.mark.parametrize("seen", ["at random", "by propensity"])
def test_gaps_are_weighted(staged: Any, seen: str) -> None:
    X, y, expert, predictor, _ = staged
    X, y, expert = np.tile(X, (5, 1)), np.tile(y, 5), np.tile(expert, 5)
    chance = np.full(len(y), 0.3) if seen == "at random" else np.where(expert == y, 0.2, 0.8)
    gaps = np.where(np.random.default_rng(0).random(len(y)) < chance, expert, None)
    full = TwoStageDeferral(predictor).fit(X, y, experts=expert)
    options = {} if seen == "at random" else {"propensity": chance}
    some = TwoStageDeferral(predictor).fit(X, y, experts=gaps, **options)
    np.testing.assert_allclose(some.predict_quality(X).mean(axis=0), full.predict_quality(X).mean(axis=0), atol=0.05)
    assert (some.predict(X) == full.predict(X)).mean() > 0.85
    if seen == "by propensity":
        naive = TwoStageDeferral(predictor).fit(X, y, experts=gaps)
        assert naive.predict_quality(X)[:, 1].mean() < full.predict_quality(X)[:, 1].mean() - 0.1
    with pytest.raises(RouterInputError, match="weighting='cost_of_others' needs every outcome observed"):
        TwoStageDeferral(predictor, weighting="cost_of_others").fit(X, y, experts=gaps)


def test_a_query_on_which_nobody_is_right_keeps_its_place_and_teaches_nothing() -> None:
    rng = np.random.default_rng(3)
    X, quality = rng.normal(size=(60, 2)), (rng.random((60, 3)) < 0.6).astype(float)
    quality[0] = 1.0
    one = TwoStageDeferral(tol=1e-10).fit(X, quality)
    more = TwoStageDeferral(tol=1e-10).fit(np.vstack([X, 2 * X[:15]]), np.vstack([quality, np.zeros((15, 3))]))
    np.testing.assert_allclose(more.scores(X), one.scores(X), atol=1e-6)
    with pytest.warns(DeferWarning, match=r"60 of 60 queries have no credit in any action, the first in row 0"):
        nobody = TwoStageDeferral().fit(X, np.zeros((60, 3)))
    assert set(nobody.predict(X).tolist()) == {0}
    assert np.abs(nobody.predict_quality(X)).max() < 1e-9


def test_rescaled_costs_give_back_the_scale_of_quality() -> None:
    fitted = TwoStageDeferral(rescale=True, **EXACT).fit(np.eye(3), 10 * QUALITY - 40)
    np.testing.assert_allclose(fitted.predict_quality(np.eye(3)), 10 * QUALITY - 40, atol=1e-3)
    constant = TwoStageDeferral(rescale=True).fit(np.eye(3), np.full((3, 2), 7.0))
    assert constant.predict_quality(np.eye(3)).tolist() == [[7.0, 7.0]] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"comp_sum": "hinge"}, "comp_sum must be one of 'cross_entropy', .*'constrained', got 'hinge'"),
        ({"weighting": "S1"}, "weighting must be one of 'one_minus_cost', 'cost_of_others', got 'S1'"),
        ({"estimator": "tree"}, "estimator must be 'linear', 'mlp', a torch module or a scikit-learn classifier, got 'tree'"),
        ({"C": -1.0}, "C must be a finite number > 0, got -1.0"),
        ({"q": 5}, r"q must lie in \[0, 1\], got 5"),
        ({"rescale": 1}, "rescale must be True or False, got 1"),
        ({"missing": "drop"}, "missing must be one of 'at_random', 'impute', got 'drop'"),
    ],
)  # fmt: skip
def test_wrong_options_are_named(options: Any, message: str) -> None:
    with pytest.raises(RouterInputError, match=f"TwoStageDeferral: {message}"):
        TwoStageDeferral(**options).fit(np.eye(3), QUALITY)


def test_a_network_learns_what_lines_cannot() -> None:
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(500, 2))
    quality = np.column_stack([X[:, 0] * X[:, 1] > 0, X[:, 0] * X[:, 1] <= 0]).astype(float)
    options: dict[str, Any] = {"hidden": (32,), "learning_rate": 0.03, "max_epochs": 40, "random_state": 0}
    network = TwoStageDeferral(estimator="mlp", **options).fit(X, quality)
    assert network.score(X, quality) > 0.9
    assert TwoStageDeferral().fit(X, quality).score(X, quality) < 0.65
    np.testing.assert_array_equal(
        network.predict_quality(X), TwoStageDeferral(estimator="mlp", **options).fit(X, quality).predict_quality(X)
    )


class Shaped:
    """A predictor whose answers have a given shape beside their first row."""

    def __init__(self, *rest: int) -> None:
        self.rest = rest

    def predict(self, X: Any) -> Any:
        return np.full((len(X), *self.rest) if self.rest != (0,) else (3,), "up")


def test_a_predictor_gives_one_label_per_query(staged: Any) -> None:
    X, y, expert, _, _ = staged
    column, flat = (TwoStageDeferral(Shaped(*rest)).fit(X, y, experts=expert) for rest in ((1,), ()))
    np.testing.assert_array_equal(column.predict_quality(X), flat.predict_quality(X))
    for rest, shape in (((2,), r"\(400, 2\)"), ((0,), r"\(3,\)")):
        with pytest.raises(
            RouterInputError,
            match=rf"the predictor Shaped must give one label per query, shape \(400,\), and predict\(X\) gives shape {shape}",
        ):
            TwoStageDeferral(Shaped(*rest)).fit(X, y, experts=expert)


def test_there_are_no_scores_before_fit() -> None:
    for router in (TwoStageDeferral(), SingleStageDeferral()):
        with pytest.raises(NotFittedError, match=f"This {type(router).__name__} instance is not fitted yet"):
            router.scores(np.eye(3))


def test_a_predictor_that_is_right_everywhere_was_trained_there() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 3)), rng.integers(2, size=200)
    experts = np.where(rng.random(200) < 0.8, y, 1 - y)
    memory = DecisionTreeClassifier(random_state=0).fit(X, y)
    with pytest.warns(
        LeakageWarning,
        match=r"TwoStageDeferral: the predictor DecisionTreeClassifier is right on all 200 queries of fit, as a model is on its own "
        r"training data: .* or take PostHocDeferral, which cross-fits",
    ):
        TwoStageDeferral(memory).fit(X, y, experts=experts)
    TwoStageDeferral(memory).fit(X[:29], y[:29], experts=experts[:29])  # so few may be luck
    other = np.where(np.arange(200) == 0, 1 - y, y)
    TwoStageDeferral(memory).fit(X, other, experts=experts)  # one is wrong
    with pytest.warns(LeakageWarning, match="is right on all 199 queries of fit"):
        TwoStageDeferral(memory).fit(X, other, experts=experts, sample_weight=np.arange(200) > 0)


@pytest.mark.parametrize("seed", [3, 4, 37])  # the lowest is reached from zero, from the path, from the cross-entropy
def test_the_mean_absolute_error_is_fitted_from_every_start(seed: int) -> None:
    rng = np.random.default_rng(seed)
    X, quality = rng.normal(size=(150, 4)), rng.random((150, 4))
    fitted = TwoStageDeferral(comp_sum="mean_absolute_error", C=1e3, max_iter=3000, tol=1e-6).fit(X, quality)

    def problem(comp_sum: str, **given: float) -> ScoreProblem:
        return ScoreProblem(
            1.0 - quality, np.ones(150), lambda s, c, w: COMP_SUMS[comp_sum](s, (1.0 - c) * w[:, None], **given)
        )

    options: dict[str, Any] = {"C": 1e3, "max_iter": 3000, "tol": 1e-6}
    ends = [None, fit_linear_scores(X, problem("cross_entropy"), **options)]
    for q in (0.2, 0.4, 0.6, 0.8):
        ends[2:] = [fit_linear_scores(X, problem("generalized_cross_entropy", q=q), start=ends[-1], **options)]
    reached = [fit_linear_scores(X, problem("mean_absolute_error"), start=end, **options).objective for end in ends]
    assert np.argmin(reached) == {3: 0, 4: 2, 37: 1}[seed]
    assert fitted.model_.objective == pytest.approx(min(reached), abs=1e-6)
