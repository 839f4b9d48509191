"""Single-stage deferral: read-outs against known probabilities, decisions against the Bayes rule, costs, and bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Perceptron, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier

from defer import Budget
from defer.estimators import SingleStageDeferral
from defer.estimators.deferral.linear import fit_linear_scores
from defer.estimators.deferral.score_problem import ScoreProblem
from defer.exceptions import CostRangeError, DegenerateExpertWarning, RouterInputError
from defer.losses import SURROGATES, deferral_cost, rl2d_deferral, softmax_deferral

READ = ["softmax", "ova", "asymmetric_softmax", "cost_sensitive"]
CONVEX = ["softmax", "ova", "cost_sensitive"]
# Class probabilities, and P(expert right | y), of three kinds of queries; the expert is best on the second.
ETA = np.array([[0.6, 0.3, 0.1], [0.4, 0.35, 0.25], [0.1, 0.2, 0.7]])
SKILL = np.array([[0.5, 0.5, 0.5], [0.9, 0.6, 0.2], [0.1, 0.9, 0.3]])
P = (ETA * SKILL).sum(axis=1)
EXACT: dict[str, Any] = {"C": 1e9, "tol": 1e-9, "max_iter": 5000}


@pytest.fixture(scope="module")
def population() -> Any:
    """Every (query, label, right or not) once, with its probability as weight: what infinitely many queries would give."""
    X, y, expert, mass = [], [], [], []
    for kind in range(3):
        for label in range(3):
            for right in (0, 1):
                X.append(np.eye(3)[kind])
                y.append(label)
                expert.append(label if right else (label + 1) % 3)
                mass.append(ETA[kind, label] * (SKILL[kind, label] if right else 1 - SKILL[kind, label]) / 3)
    return np.array(X), np.array(y), np.array(expert), np.array(mass)


@pytest.fixture(scope="module")
def sample() -> Any:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(300, 3))
    y = np.where(X[:, 0] + 0.3 * rng.normal(size=300) > 0, "yes", "no")
    right = rng.random(300) < np.where(X[:, 1] > 0, 0.95, 0.3)
    return X, y, np.where(right, y, np.where(y == "yes", "no", "yes"))


@pytest.mark.parametrize("surrogate", READ)
def test_at_the_population_minimum_quality_is_the_probability_of_being_right(population: Any, surrogate: str) -> None:
    X, y, expert, mass = population
    fitted = SingleStageDeferral(surrogate, **EXACT).fit(X, y, experts=expert, sample_weight=mass)
    truth = np.column_stack([ETA.max(axis=1), P])
    np.testing.assert_allclose(fitted.predict_quality(np.eye(3)), truth, atol=1e-5)
    assert fitted.predict(np.eye(3)).tolist() == ["own", "expert", "own"]
    assert fitted.predict_own(np.eye(3)).tolist() == [0, 0, 2]
    assert fitted.score(X, y, experts=expert, sample_weight=mass) == pytest.approx(np.mean(truth.max(axis=1)))


def test_x1_item_3_an_alpha_below_one_defers_where_the_bayes_rule_predicts() -> None:
    eta, skill = np.array([0.5, 0.3, 0.2]), np.array([0.8, 0.05, 0.05])
    y, right = np.repeat([0, 1, 2], 2), np.tile([0, 1], 3)
    mass = np.repeat(eta, 2) * np.where(right, np.repeat(skill, 2), 1 - np.repeat(skill, 2))
    expert = np.where(right, y, (y + 1) % 3)
    for surrogate, deferred in (("softmax", False), ("softmax_alpha", True)):
        fitted = SingleStageDeferral(surrogate, **EXACT).fit(np.ones((6, 1)), y, experts=expert, sample_weight=mass)
        assert fitted.defer_mask([[1.0]]).tolist() == [deferred]
    share = np.exp(fitted.scores([[1.0]])[0])
    weights = np.array([0.3, 0.2925, 0.195, 0.425])
    np.testing.assert_allclose(share / share.sum(), weights / weights.sum(), atol=1e-5)


@pytest.mark.parametrize("surrogate", CONVEX)
def test_costs_in_training_are_the_costs_at_decision(population: Any, surrogate: str) -> None:
    X, y, expert, mass = population
    cost = np.tile([0.1, 0.3], (len(X), 1))
    fitted = SingleStageDeferral(surrogate, costs="training", cost_weight=0.4, rescale=True, **EXACT)
    fitted.fit(X, y, experts=expert, cost=cost, sample_weight=mass)
    truth = np.column_stack([ETA.max(axis=1), P])
    np.testing.assert_allclose(fitted.predict_quality(np.eye(3)), truth, atol=1e-4)
    np.testing.assert_allclose(fitted.predict_utility(np.eye(3)), truth - 0.4 * np.array([0.1, 0.3]), atol=1e-4)


def test_one_fit_serves_every_cost_weight_and_budget(sample: Any) -> None:
    X, y, expert = sample
    cost = np.tile([0.0, 1.0], (len(X), 1))
    fitted = SingleStageDeferral("ova").fit(X, y, experts=expert, cost=cost)
    before = fitted.predict_quality(X)
    shares = []
    for weight in (0.0, 0.1, 0.3, 2.0):
        again = SingleStageDeferral("ova", cost_weight=weight).fit(X, y, experts=expert, cost=cost)
        np.testing.assert_array_equal(again.predict_quality(X), before)
        fitted.set_params(cost_weight=weight)
        np.testing.assert_array_equal(fitted.predict(X), again.predict(X))
        shares.append(fitted.defer_mask(X).mean())
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == 0.0
    fitted.set_params(cost_weight=0.0)
    assert fitted.route(X, limit=Budget(mean_cost=0.1), random_state=0).expected_cost == pytest.approx(0.1)


@pytest.mark.parametrize(
    "surrogate", [name for name in SURROGATES if name not in ("softmax", "ova", "asymmetric_softmax")]
)
def test_a_surrogate_without_read_out_wants_its_costs_in_training(sample: Any, surrogate: str) -> None:
    X, y, expert = sample
    cost = np.tile([0.0, 0.2], (len(X), 1))
    with pytest.raises(
        RouterInputError, match=rf"surrogate='{surrogate}' has no read-out of quality.*costs='training'"
    ):
        SingleStageDeferral(surrogate, cost_weight=1.0).fit(X, y, experts=expert, cost=cost)
    fitted = SingleStageDeferral(surrogate, cost_weight=5.0, costs="training", rescale=True)
    fitted.fit(X, y, experts=expert, cost=cost)
    if surrogate != "softmax_alpha":  # which defers too much at any price
        assert not fitted.defer_mask(X).any()  # being right is worth 1, and this expert costs 1


def test_costs_outside_the_unit_interval_are_refused_or_rescaled(sample: Any) -> None:
    X, y, expert = sample
    cost = np.tile([0.0, 0.2], (len(X), 1))
    wrong = int((expert != y).sum())
    with pytest.raises(
        CostRangeError,
        match=rf"SingleStageDeferral: 1 - quality \+ cost_weight \* cost lies outside \[0, 1\] in {wrong} of 900 outcomes, the "
        rf"first in row {np.flatnonzero(expert != y)[0]}, arm 'expert' \(1\.2\).*rescale=True",
    ):
        SingleStageDeferral(costs="training", cost_weight=1.0).fit(X, y, experts=expert, cost=cost)
    SingleStageDeferral("cost_sensitive", costs="training", cost_weight=1.0).fit(X, y, experts=expert, cost=cost)
    with pytest.raises(CostRangeError, match=r"1 - quality lies outside \[0, 1\] in 1 of 4 outcomes.*arm 1 \(-0\.5\)"):
        SingleStageDeferral().fit([[0.0], [1.0]], [[0.0, 1.5], [1.0, 0.0]])


@pytest.mark.parametrize("surrogate", [name for name in SURROGATES if not SURROGATES[name].convex])
def test_surrogates_that_are_not_convex_are_fitted_twice_and_the_lower_is_kept(sample: Any, surrogate: str) -> None:
    X, y, expert = sample
    fitted = [SingleStageDeferral(surrogate).fit(X, y, experts=expert) for _ in range(2)]
    np.testing.assert_array_equal(fitted[0].model_.coef, fitted[1].model_.coef)
    assert fitted[0].score(X, y, experts=expert) > 0.85


def test_options_reach_their_surrogate(sample: Any) -> None:
    X, y, expert = sample

    def objective(surrogate: str, **options: Any) -> float:
        return SingleStageDeferral(surrogate, **options).fit(X, y, experts=expert).model_.objective

    assert objective("softmax_alpha", alpha=1.0) == pytest.approx(objective("softmax"), abs=1e-6)
    assert objective("softmax_alpha", alpha=0.0) < objective("softmax_alpha") < objective("softmax")
    assert objective("rl2d", q=0.0) == pytest.approx(objective("realizable"), abs=1e-4)
    assert objective("realizable", mix=0.5) != pytest.approx(objective("realizable"), abs=1e-3)
    for name, surrogate in (("alpha", "softmax_alpha"), ("q", "rl2d"), ("mix", "realizable")):
        for used in (surrogate, "softmax"):
            with pytest.raises(RouterInputError, match=rf"SingleStageDeferral: {name} must lie in \[0, 1\], got 2"):
                objective(used, **{name: 2.0})


@pytest.mark.parametrize("surrogate", ["softmax", "ova", "cost_sensitive"])
def test_logistic_regression_is_a_base_like_any_other(population: Any, surrogate: str) -> None:
    X, y, expert, mass = population
    base = LogisticRegression(C=1e9, tol=1e-10, max_iter=5000)
    by_base = SingleStageDeferral(surrogate, base).fit(X, y, experts=expert, sample_weight=mass)
    linear = SingleStageDeferral(surrogate, **EXACT).fit(X, y, experts=expert, sample_weight=mass)
    np.testing.assert_allclose(by_base.predict_quality(np.eye(3)), linear.predict_quality(np.eye(3)), atol=1e-4)
    assert by_base.estimator is base
    assert not hasattr(base, "coef_")


@pytest.mark.parametrize("surrogate", ["softmax", "ova"])
@pytest.mark.parametrize(
    "base",
    [HistGradientBoostingClassifier(max_iter=20), RandomForestClassifier(10, min_samples_leaf=10, random_state=0)],
)
def test_trees_learn_what_lines_cannot(surrogate: str, base: Any) -> None:
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(600, 2))
    y = (X[:, 0] * X[:, 1] > 0).astype(int)
    expert = np.where(np.abs(X[:, 0]) > 0.3, y, 1 - y)
    unknown = np.abs(X[:, 1]) < 0.3
    y = np.where(unknown, rng.integers(2, size=600), y)
    expert = np.where(unknown, y, expert)
    fitted = SingleStageDeferral(surrogate, clone(base)).fit(X, y, experts=expert)
    assert fitted.score(X, y, experts=expert) > 0.9
    assert fitted.defer_mask(np.array([[0.7, 0.0], [0.05, 0.8]])).tolist() == [True, False]


def test_a_classifier_without_data_of_one_kind_is_a_constant() -> None:
    X = np.arange(8.0).reshape(-1, 1)
    quality = np.column_stack([np.ones(8), np.zeros(8), X[:, 0] > 3])
    for surrogate in ("softmax", "ova"):
        fitted = SingleStageDeferral(surrogate, LogisticRegression()).fit(X, quality)
        assert set(fitted.predict(X)) <= {0, 2}
        assert (fitted.predict_quality(X)[:, 1] < 1e-6).all()
        assert np.isfinite(fitted.scores(X)).all()
    alone = SingleStageDeferral("softmax", LogisticRegression()).fit(X, np.column_stack([np.ones(8), np.zeros(8)]))
    assert alone.predict(X).tolist() == [0] * 8


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (Perceptron(), "the classifier Perceptron has no predict_proba"),
        (RidgeClassifier(), "the classifier RidgeClassifier has no predict_proba"),
        (KNeighborsClassifier(), "the classifier KNeighborsClassifier takes no sample_weight"),
        (LogisticRegression, r"must be an object, got the class LogisticRegression; write LogisticRegression\(\)"),
        ("line", "estimator must be 'linear', 'mlp', a torch module or a scikit-learn classifier, got 'line'"),
        (3, "estimator must be 'linear', 'mlp', a torch module or a scikit-learn classifier, got int"),
    ],
)
def test_what_cannot_learn_scores_is_named(sample: Any, base: Any, message: str) -> None:
    X, y, expert = sample
    with pytest.raises(RouterInputError, match=f"SingleStageDeferral: .*{message}"):
        SingleStageDeferral(estimator=base).fit(X, y, experts=expert)


def test_a_classifier_fits_weighted_classification_alone(sample: Any) -> None:
    X, y, expert = sample
    with pytest.raises(RouterInputError, match=r"can be fitted to the cross-entropy and one-vs-all surrogates alone"):
        SingleStageDeferral("realizable", LogisticRegression()).fit(X, y, experts=expert)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"surrogate": "hinge"}, "surrogate must be one of 'softmax', .*'cost_sensitive', got 'hinge'"),
        ({"costs": "later"}, "costs must be one of 'decision', 'training', got 'later'"),
        ({"surrogate": None}, "surrogate must be one of 'softmax', .*, got None"),
        ({"C": 0.0}, "C must be a finite number > 0, got 0.0"),
        ({"C": "1"}, "C must be a finite number > 0, got '1'"),
        ({"tol": np.inf}, "tol must be a finite number > 0, got inf"),
        ({"max_iter": 0}, "max_iter must be an integer >= 1, got 0"),
        ({"max_iter": 1.5}, "max_iter must be an integer >= 1, got 1.5"),
        ({"learning_rate": -1}, "learning_rate must be a finite number > 0, got -1"),
        ({"max_epochs": 0}, "max_epochs must be an integer >= 1, got 0"),
        ({"hidden": (8, 0)}, r"hidden must hold integers >= 1, got \(8, 0\)"),
        ({"hidden": "64"}, "hidden must be an integer >= 1 or a sequence of them, got '64'"),
        ({"rescale": "yes"}, "rescale must be True or False, got 'yes'"),
        ({"alpha": "half"}, r"alpha must lie in \[0, 1\], got 'half'"),
    ],
)
def test_wrong_options_are_named(sample: Any, options: Any, message: str) -> None:
    X, y, expert = sample
    with pytest.raises(RouterInputError, match=f"SingleStageDeferral: {message}"):
        SingleStageDeferral(**options).fit(X, y, experts=expert)
    with pytest.raises(RouterInputError, match=f"SingleStageDeferral: {message}"):
        SingleStageDeferral(**options).fit(X, y)


def test_asymmetric_softmax_prices_at_decision_alone(sample: Any) -> None:
    X, y, expert = sample
    cost = np.tile([0.0, 0.2], (len(X), 1))
    with pytest.raises(RouterInputError, match="compares probabilities, which costs of classes are not"):
        SingleStageDeferral("asymmetric_softmax", costs="training", cost_weight=1.0, rescale=True).fit(
            X, y, experts=expert, cost=cost
        )


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_several_experts_need_a_surrogate_for_several(sample: Any, surrogate: str) -> None:
    X, y, expert = sample
    both = pd.DataFrame({"ann": expert, "bob": y})
    router = SingleStageDeferral(surrogate)
    if SURROGATES[surrogate].multi_expert:
        with pytest.warns(DegenerateExpertWarning, match="'bob' is right in all of its 300 answers"):
            router.fit(X, y, experts=both)
        assert router.predict_quality(X).shape == (300, 3)
        assert (router.predict(X) == "bob").mean() > 4 * (router.predict(X) == "ann").mean()
        return
    with (
        pytest.warns(DegenerateExpertWarning),
        pytest.raises(
            RouterInputError,
            match=rf"surrogate='{surrogate}' takes one expert, got 2; take MultiExpertDeferral, or a surrogate for several: "
            "'softmax', 'ova', 'cost_sensitive'",
        ),
    ):
        router.fit(X, y, experts=both)
    with pytest.raises(ValueError, match="not fitted"):
        router.predict(X)


def test_experts_who_are_always_or_never_right_are_warned_of_and_used(sample: Any) -> None:
    X, y, _ = sample
    for answer, what in ((y, "all"), (np.where(y == "yes", "no", "yes"), "none")):
        for surrogate in SURROGATES:
            with pytest.warns(DegenerateExpertWarning, match=f"is right in {what} of its 300 answers"):
                fitted = SingleStageDeferral(surrogate).fit(X, y, experts=answer)
            assert np.isfinite(fitted.predict_quality(X)).all()
            deferred = fitted.defer_mask(X).mean()
            assert deferred > 0.5 if what == "all" else deferred < 0.05, surrogate


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_a_gap_is_neither_right_nor_wrong(sample: Any, surrogate: str) -> None:
    # The expert is asked on half of the queries, at random: leaving them out or reading them as wrong would halve its weight.
    X, y, expert = sample
    rng = np.random.default_rng(0)
    X, y, expert = np.tile(X, (4, 1)), np.tile(y, 4), np.tile(expert, 4)
    full = SingleStageDeferral(surrogate).fit(X, y, experts=expert)
    gaps = np.where(rng.random(len(y)) < 0.5, expert, None)
    half = SingleStageDeferral(surrogate).fit(X, y, experts=gaps)
    assert half.weighting_ == "missing at random"
    assert half.defer_mask(X).mean() == pytest.approx(full.defer_mask(X).mean(), abs=0.07)
    assert (half.defer_mask(X) == full.defer_mask(X)).mean() > 0.9


def test_gaps_in_a_table_need_a_surrogate_of_separate_terms() -> None:
    X, quality = np.arange(6.0).reshape(-1, 1), np.array([[1.0, 0.0], [np.nan, 1.0]] * 3)
    with pytest.raises(
        RouterInputError, match=r"surrogate='realizable' needs every outcome observed, and 3 of 12 are not"
    ):
        SingleStageDeferral("realizable").fit(X, quality)


def test_networks_and_modules_give_scores_too(sample: Any) -> None:
    torch = pytest.importorskip("torch")
    X, y, expert = sample
    for estimator in ("mlp", torch.nn.Linear):
        options = {"learning_rate": 0.02, "max_epochs": 25, "hidden": (16,), "random_state": 0}
        fitted = [SingleStageDeferral("ova", estimator, **options).fit(X, y, experts=expert) for _ in range(2)]
        assert fitted[0].score(X, y, experts=expert) > 0.85
        assert 1 <= fitted[0].n_iter_ <= 25
        np.testing.assert_array_equal(fitted[0].predict_quality(X), fitted[1].predict_quality(X))


def test_sparse_queries_are_taken_where_the_estimator_takes_them(sample: Any) -> None:
    X, y, expert = sample
    fitted = SingleStageDeferral(tol=1e-8).fit(csr_array(X), y, experts=expert)
    dense = SingleStageDeferral(tol=1e-8).fit(X, y, experts=expert)
    np.testing.assert_allclose(fitted.predict_quality(csr_array(X)), dense.predict_quality(X), atol=1e-6)
    with pytest.raises(TypeError, match="Sparse data was passed"):
        SingleStageDeferral(estimator=HistGradientBoostingClassifier()).fit(csr_array(X), y, experts=expert)


def test_text_wants_a_transformer(sample: Any) -> None:
    _, y, expert = sample
    with pytest.raises(RouterInputError, match=r"SingleStageDeferral needs queries as a table of numbers, got list"):
        SingleStageDeferral().fit(["a text"] * len(y), y, experts=expert)


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_a_table_of_outcomes_is_cost_sensitive_classification(surrogate: str) -> None:
    # Expected quality of three arms on two kinds of queries; the best arm is known.
    quality = np.array([[0.9, 0.5, 0.2], [0.3, 0.4, 0.8]])
    fitted = SingleStageDeferral(surrogate, **EXACT).fit(np.eye(2), quality)
    assert fitted.predict(np.eye(2)).tolist() == [0, 2]
    if surrogate not in ("realizable", "rl2d"):
        np.testing.assert_allclose(fitted.predict_quality(np.eye(2)), quality, atol=1e-4)
    with pytest.raises(RouterInputError, match="it has no answers of its own"):
        fitted.predict_own(np.eye(2))


def rough(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries on which linear scores leave much unexplained, where surrogates that are not convex have plateaus."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(150, 4))
    y = (X[:, :3] + rng.gumbel(size=(150, 3))).argmax(axis=1)
    return X, y, np.where(rng.random(150) < 0.6, y, (y + 1) % 3)


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_rl2d_is_followed_from_where_it_is_steep_past_the_plateaus(seed: int) -> None:
    X, y, expert = rough(seed)
    fitted = SingleStageDeferral("rl2d", q=1.0, C=1e3).fit(X, y, experts=expert)
    cost = deferral_cost(y, (expert != y).astype(float), n_classes=3)

    def problem(loss: Any, *options: float) -> ScoreProblem:
        return ScoreProblem(cost, np.ones(150), lambda s, c, w: loss(s, c, *options, n_experts=1, weight=w))

    options: dict[str, Any] = {"C": 1e3, "max_iter": 1000, "tol": 1e-4}
    softmax = fit_linear_scores(X, problem(softmax_deferral), **options)
    alone = [fit_linear_scores(X, problem(rl2d_deferral, 1.0), start=start, **options) for start in (None, softmax)]
    assert fitted.model_.objective < min(fit.objective for fit in alone) - 0.01


@pytest.mark.parametrize("q", [0.7, 1.0])
def test_a_weaker_penalty_never_raises_what_is_reached(q: float) -> None:
    X, y, expert = rough(4)
    reached = [
        SingleStageDeferral("rl2d", q=q, C=C, max_iter=3000).fit(X, y, experts=expert).model_.objective
        for C in (1.0, 10.0, 100.0, 1000.0)
    ]
    assert np.diff(reached).max() < 1e-4


def test_rl2d_at_q_1_reaches_the_risk_of_the_bayes_rule(population: Any) -> None:
    X, y, expert, mass = population
    fitted = SingleStageDeferral("rl2d", q=1.0, C=1e6).fit(X, y, experts=expert, sample_weight=1e3 * mass)
    bayes = 1.0 - np.maximum(ETA.max(axis=1), P).mean()
    # Over all scores the least mean loss is the Bayes risk; the penalty at C = 1e6 adds less than 1e-5.
    assert fitted.model_.objective == pytest.approx(bayes, abs=2e-4)
