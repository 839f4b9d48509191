"""Post-hoc deferral: what each method reads out, on unseen scores, with gaps, prices and limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Perceptron, Ridge
from sklearn.model_selection import GroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from defer import evaluate, load, save
from defer.estimators import PostHocDeferral
from defer.estimators.deferral.linear import fit_linear_scores
from defer.estimators.deferral.partial_scores import _two_sided, fit_partial_scores
from defer.estimators.deferral.score_features import score_features
from defer.estimators.deferral.score_problem import ScoreProblem
from defer.exceptions import CostRangeError, RouterInputError
from defer.portfolios.limits import Share

METHODS = ["plug_in", "regression", "partial"]


@pytest.fixture(scope="module")
def clinic() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three classes; the first expert is a specialist where the second feature is positive, the second is fair everywhere."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(900, 3))
    y = (X[:, [0, 0, 0]] * [-2.0, 0.0, 2.0] + rng.gumbel(size=(900, 3))).argmax(axis=1)
    chance = np.column_stack([np.where(X[:, 1] > 0, 0.95, 0.2), np.full(900, 0.6)])
    right = rng.random((900, 2)) < chance
    return X, y, np.where(right, y[:, None], (y[:, None] + 1) % 3)


def risk(router: Any, X: Any, y: Any, experts: Any) -> float:
    return float(np.mean(router.predict(X, experts=experts) != y))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("experts", [1, 2])
def test_hands_the_specialist_its_queries_and_beats_both_sides(method: str, experts: int, clinic: Any) -> None:
    X, y, answer = clinic[0], clinic[1], clinic[2][:, :experts]
    train, test = slice(0, 600), slice(600, 900)
    router = PostHocDeferral(method, features="both", random_state=0).fit(X[train], y[train], experts=answer[train])
    system = risk(router, X[test], y[test], answer[test])
    own = np.mean(router.predict_own(X[test]) != y[test])
    assert system < min(own, *np.mean(answer[test] != y[test, None], axis=0)) - 0.05
    taken = router.predict(X[test]) == router.expert_[0]
    assert taken[X[test][:, 1] > 0.3].mean() > 0.5
    assert taken[X[test][:, 1] < -0.3].mean() < 0.1
    assert router.predict_quality(X[test]).shape == (300, 1 + experts)


@pytest.mark.parametrize("method", METHODS)
def test_predictions_of_quality_are_on_the_scale_of_quality(method: str, clinic: Any) -> None:
    X, y, answer = clinic
    router = PostHocDeferral(method, features="both", random_state=0).fit(X[:600], y[:600], experts=answer[:600])
    quality = router.predict_quality(X[600:]).mean(axis=0)
    own = np.mean(router.predict_own(X[600:]) == y[600:])
    truth = [own, *np.mean(answer[600:] == y[600:, None], axis=0)]
    # Standard error of a share of 300: at most 0.029.
    np.testing.assert_allclose(quality, truth, atol=0.12)


def test_the_second_model_sees_scores_of_queries_that_the_base_has_not_seen(clinic: Any) -> None:
    X, y, answer = clinic
    forest = RandomForestClassifier(15, random_state=0)
    router = PostHocDeferral("regression", forest, features="confidence", random_state=0)
    router.fit(X[:600], y[:600], experts=answer[:600, 0])
    own = router.predict_quality(X[600:])[:, 0].mean()
    assert own == pytest.approx(np.mean(router.predict_own(X[600:]) == y[600:]), abs=0.12)
    reused = PostHocDeferral("regression", FrozenEstimator(forest.fit(X[:600], y[:600])), features="confidence")
    reused.fit(X[:600], y[:600], experts=answer[:600, 0])
    assert reused.predict_quality(X[:600])[:, 0].mean() > 0.95  # what the folds are there to prevent


def test_a_frozen_base_is_asked_and_not_fitted(clinic: Any) -> None:
    X, y, answer = clinic
    base = LogisticRegression().fit(X[:300], y[:300])
    router = PostHocDeferral("plug_in", FrozenEstimator(base)).fit(X[300:600], y[300:600], experts=answer[300:600])
    np.testing.assert_array_equal(router.predict_own(X[600:]), base.predict(X[600:]))
    np.testing.assert_array_equal(router.predict_quality(X[600:])[:, 0], base.predict_proba(X[600:]).max(axis=1))


def test_plug_in_is_a_classifier_of_right_answers_on_cross_fitted_scores(clinic: Any) -> None:
    X, y, answer = clinic
    folds = list(GroupKFold(4).split(X, y, groups=np.arange(900) // 3))
    router = PostHocDeferral(cv=folds).fit(X, y, experts=answer)
    seen = np.zeros((900, 3))
    for train, test in folds:
        seen[test] = LogisticRegression(tol=1e-8, max_iter=2000).fit(X[train], y[train]).predict_proba(X[test])
    whole = LogisticRegression(tol=1e-8, max_iter=2000).fit(X, y)
    features = score_features(whole.predict_proba(X))
    for column in range(2):
        peer = LogisticRegression(tol=1e-8, max_iter=2000).fit(score_features(seen), answer[:, column] == y)
        np.testing.assert_allclose(
            router.predict_quality(X)[:, 1 + column], peer.predict_proba(features)[:, 1], atol=1e-5
        )


@pytest.mark.parametrize("method", ["plug_in", "regression"])
def test_one_fit_serves_every_cost_weight(method: str, clinic: Any) -> None:
    X, y, answer = clinic
    cost = np.full((900, 2), 0.1)
    router, rates = PostHocDeferral(method, random_state=0).fit(X, y, experts=answer, cost=cost), []
    for weight in (0.0, 1.0, 3.0, 20.0):
        fitted = PostHocDeferral(method, cost_weight=weight, random_state=0).fit(X, y, experts=answer, cost=cost)
        router.set_params(cost_weight=weight)
        np.testing.assert_array_equal(router.predict(X), fitted.predict(X))
        rates.append(router.defer_mask(X).mean())
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == 0.0


@pytest.mark.parametrize(
    ("margin", "experts"),
    [("logistic", 1), ("exponential", 1), ("squared_hinge", 1), ("hinge", 1), ("sigmoid", 1), ("logistic", 2)],
)
def test_partial_takes_the_arm_of_highest_score_at_its_price(margin: str, experts: int, clinic: Any) -> None:
    X, y, answer = clinic[0], clinic[1], clinic[2][:, :experts]
    cost = np.tile([0.1, 0.02][:experts], (900, 1))
    rates = []
    for weight in (0.0, 1.0, 3.0, 30.0):
        router = PostHocDeferral(
            "partial", features="both", cost_weight=weight, margin=margin, tol=1e-4, random_state=0
        ).fit(X, y, experts=answer, cost=cost)
        features = np.hstack([X, score_features(router.base_.probability(X))])
        taken = router.arms_[router.partial_.scores(features).argmax(axis=1)]
        np.testing.assert_array_equal(router.predict(X), taken)
        rates.append((taken == router.expert_[0]).mean())
    assert rates[0] > 0.2
    assert rates[-1] == 0.0


@pytest.mark.parametrize("margin", ["logistic", "exponential", "squared_hinge"])
def test_partial_reads_expected_costs_out_of_its_scores(margin: str) -> None:
    # Three kinds of queries with expected costs a and b, as weighted cells of 0 and 1.
    a, b = np.array([0.4, 0.1, 0.3]), np.array([0.2, 0.25, 0.7])
    cells = [(kind, own, expert) for kind in range(3) for own in (0, 1) for expert in (0, 1)]
    X = np.eye(3)[[kind for kind, _, _ in cells]]
    cost = np.array([[own, expert] for _, own, expert in cells], dtype=float)
    chance = [(a[k] if own else 1 - a[k]) * (b[k] if expert else 1 - b[k]) for k, own, expert in cells]
    weight = np.tile(np.array(chance)[:, None], 2)
    partial = fit_partial_scores(X, cost, weight, margin=margin, C=1e9, max_iter=5000, tol=1e-11)
    np.testing.assert_allclose(partial.utility(np.eye(3)), 1.0 - np.column_stack([a, b]), atol=1e-4)
    if margin == "logistic":
        scores = partial.scores(np.eye(3))
        np.testing.assert_allclose(expit(scores[:, 1] - scores[:, 0]), a / (a + b), atol=1e-5)


def test_partial_for_two_is_a_weighted_logistic_regression_of_the_same_strength() -> None:
    rng = np.random.default_rng(0)
    X, cost, weight = rng.normal(size=(80, 3)), rng.random((80, 2)), rng.uniform(0.5, 2.0, size=(80, 2))
    partial = fit_partial_scores(X, cost, weight, margin="logistic", C=0.3, max_iter=5000, tol=1e-12)
    peer = LogisticRegression(C=0.3, tol=1e-12, max_iter=5000)
    peer.fit(np.vstack([X, X]), np.repeat([1, 0], 80), sample_weight=(weight * cost).T.ravel())
    scores = partial.scores(X)
    np.testing.assert_allclose(scores[:, 1] - scores[:, 0], peer.decision_function(X), atol=1e-6)


def test_partial_reads_several_expected_costs_out_of_its_scores_above_one_too() -> None:
    expected = np.array([[0.4, 0.2, 0.7], [0.1, 1.35, 0.3], [0.9, 0.6, 0.55]])
    partial = fit_partial_scores(
        np.eye(3), expected, np.ones((3, 3)), margin="logistic", C=1e9, max_iter=5000, tol=1e-12
    )
    np.testing.assert_allclose(partial.utility(np.eye(3)), 1.0 - expected, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_an_expert_who_is_seldom_asked_counts_as_much_as_the_others(method: str) -> None:
    # The second expert is the better one, and is asked on a tenth of the queries.
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(3000, 2)), rng.integers(2, size=3000)
    right = rng.random((3000, 2)) < [0.7, 0.85]
    answer = np.where(right, y[:, None], 1 - y[:, None]).astype(float)
    answer[rng.random(3000) > 0.1, 1] = np.nan
    router = PostHocDeferral(method, random_state=0).fit(X, y, experts=answer)
    assert router.weighting_ == "missing at random"
    assert (router.predict(X) == "expert 2").mean() > 0.95
    np.testing.assert_allclose(router.predict_quality(X).mean(axis=0)[1:], [0.7, 0.85], atol=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_known_propensities_undo_who_was_asked_what(method: str) -> None:
    rng = np.random.default_rng(4)
    X, y = rng.normal(size=(3000, 2)), rng.integers(2, size=3000)
    right = rng.random(3000) < 0.6
    chance = np.where(right, 0.8, 0.2)
    answer = np.where(rng.random(3000) < chance, np.where(right, y, 1 - y), np.nan)
    naive = PostHocDeferral(method, random_state=0).fit(X, y, experts=answer).predict_quality(X)[:, 1].mean()
    weighted = PostHocDeferral(method, random_state=0).fit(X, y, experts=answer, propensity=chance)
    assert naive > 0.8
    assert weighted.predict_quality(X)[:, 1].mean() == pytest.approx(0.6, abs=0.1)


def test_sparse_queries_are_features_as_dense_ones(clinic: Any) -> None:
    X, y, answer = clinic
    for features in ("queries", "both"):
        dense = PostHocDeferral("partial", features=features, random_state=0).fit(X, y, experts=answer)
        thin = PostHocDeferral("partial", features=features, random_state=0).fit(csr_array(X), y, experts=answer)
        np.testing.assert_allclose(thin.predict_quality(csr_array(X)), dense.predict_quality(X), atol=2e-3)


def test_text_is_left_to_a_base_that_reads_it() -> None:
    texts = [f"add {row} and {row}" for row in range(30)] + [f"write poem {row}" for row in range(30)]
    y = np.repeat(["sum", "poem"], 30)
    base = make_pipeline(TfidfVectorizer(), LogisticRegression())
    router = PostHocDeferral("regression", base, random_state=0).fit(texts, y, experts=np.repeat(["sum"], 60))
    assert router.predict(["write poem 99"], experts=["sum"]).tolist() == ["poem"]
    with pytest.raises(
        RouterInputError, match=r"PostHocDeferral\(features='both'\) needs queries as a table of numbers"
    ):
        PostHocDeferral("regression", base, features="both").fit(texts, y, experts=["sum"] * 60)
    weighted = PostHocDeferral(base=base, random_state=0)
    weighted.fit(texts, y, experts=["sum"] * 60, sample_weight=np.arange(1.0, 61.0))
    assert weighted.predict_own(["write poem 99"]).tolist() == ["poem"]


def test_the_same_seed_gives_the_same_bits(clinic: Any) -> None:
    X, y, answer = clinic
    first, again, other = (
        PostHocDeferral(random_state=seed).fit(X, y, experts=answer).predict_quality(X) for seed in (0, 0, 1)
    )
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


@pytest.mark.parametrize("method", METHODS)
def test_a_router_with_a_base_comes_back_the_same(method: str, clinic: Any, tmp_path: Path) -> None:
    X, y, answer = clinic
    base = FrozenEstimator(LogisticRegression().fit(X, y)) if method == "plug_in" else None
    router = PostHocDeferral(method, base, random_state=0).fit(X, y, experts=answer)
    save(router, tmp_path / "policy")
    loaded = load(tmp_path / "policy")
    np.testing.assert_array_equal(loaded.predict_quality(X), router.predict_quality(X))
    np.testing.assert_array_equal(loaded.predict(X, experts=answer), router.predict(X, experts=answer))


def test_rare_labels_and_few_queries_do_no_harm() -> None:
    X, y = np.arange(8.0)[:, None], [0, 0, 0, 0, 0, 0, 1, 2]
    router = PostHocDeferral(random_state=0).fit(X, y, experts=[0, 1, 0, 0, 0, 0, 1, 2])
    assert router.predict_quality(X).shape == (8, 2)
    assert PostHocDeferral(random_state=0).fit(X[:2], [0, 1], experts=[0, 0]).predict_own(X).shape == (8,)


def test_a_fit_without_experts_after_one_with_them_forgets_the_base(clinic: Any) -> None:
    X, y, answer = clinic
    router = PostHocDeferral(random_state=0).fit(X, y, experts=answer)
    router.fit(X, (answer == y[:, None]).astype(float))
    assert router.base_ is None
    assert not hasattr(router, "label_classes_")
    assert router.predict(X).shape == (900,)


def test_limits_and_evaluation_work_on_own_and_experts(clinic: Any) -> None:
    X, y, answer = clinic
    for method in METHODS:
        router = PostHocDeferral(method, features="both", random_state=0).fit(X[:600], y[:600], experts=answer[:600])
        routing = router.route(X[600:], limit=Share("own", at_least=0.9), random_state=0)
        assert routing.load[0] == pytest.approx(0.9)
        system = router.predict(X[600:], experts=answer[600:], routing=routing)
        assert np.mean(system == y[600:]) > np.mean(router.predict_own(X[600:]) == y[600:])
        log = router.outcome_log(X[600:], y[600:], answer[600:])
        assert evaluate(router, log).router == "PostHocDeferral"


class NoWeights(ClassifierMixin, BaseEstimator):
    """A classifier whose fit takes no weights."""

    def fit(self, X: Any, y: Any) -> NoWeights:
        return self

    def predict_proba(self, X: Any) -> Any:
        return np.full((len(X), 2), 0.5)


def test_wrong_parameters_are_refused(clinic: Any) -> None:
    X, y, answer = clinic
    wrong = {
        "method must be one of 'plug_in', 'partial', 'regression', got 'softmax'": PostHocDeferral("softmax"),
        "margin must be one of 'logistic', .*, got 'linear'": PostHocDeferral("partial", margin="linear"),
        "features must be one of 'scores', 'confidence', 'queries', 'both', got 'text'": PostHocDeferral(
            features="text"
        ),
        "C must be a finite number > 0, got 0": PostHocDeferral(C=0),
        "base Perceptron has no predict_proba": PostHocDeferral(base=Perceptron()),
        "expert_model Ridge has no predict_proba": PostHocDeferral(expert_model=Ridge()),
        "cv must be an integer >= 2": PostHocDeferral(cv=True),
    }
    for message, router in wrong.items():
        with pytest.raises(RouterInputError, match=message):
            router.fit(X, y, experts=answer)
    for router in (PostHocDeferral(base=Ridge), PostHocDeferral(expert_model=Ridge)):
        with pytest.raises(TypeError, match=r"must be an estimator, got the class Ridge; write Ridge\(\)"):
            router.fit(X, y, experts=answer)
    gaps = np.where(np.arange(900)[:, None] < 10, np.nan, answer)
    with pytest.raises(RouterInputError, match="the model NoWeights takes no sample_weight"):
        PostHocDeferral(expert_model=NoWeights()).fit(X, y, experts=gaps, sample_weight=np.arange(1.0, 901.0))
    for method in ("plug_in", "partial"):
        with pytest.raises(
            CostRangeError, match=rf"PostHocDeferral\(method='{method}'\): y has 1 values outside \[0, 1\]"
        ):
            PostHocDeferral(method).fit([[0.0], [1.0]], [[0.0, 1.0], [1.5, 0.0]])


def test_a_regressor_of_the_user_takes_the_place_of_ridge(clinic: Any) -> None:
    X, y, answer = clinic
    router = PostHocDeferral("regression", KNeighborsClassifier(5), expert_model=Ridge(alpha=1e8), random_state=0)
    quality = router.fit(X, y, experts=answer).predict_quality(X)
    assert np.ptp(quality, axis=0).max() < 1e-3


def test_partial_with_the_sigmoid_margin_starts_from_the_logistic_solution_too() -> None:
    # Costs of a few outliers draw the sigmoid loss from zero to a plateau.
    gap = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        X, cost, weight = rng.normal(size=(60, 3)), rng.random((60, 2)), np.ones((60, 2))
        options: dict[str, Any] = {"C": 1e4, "max_iter": 2000, "tol": 1e-6}
        found = fit_partial_scores(X, cost, weight, margin="sigmoid", **options).model.objective
        problems = {name: ScoreProblem(cost, weight, _two_sided(name)) for name in ("logistic", "sigmoid")}
        options["C"] /= 2
        logistic = fit_linear_scores(X, problems["logistic"], **options)
        alone = [
            fit_linear_scores(X, problems["sigmoid"], start=start, **options).objective for start in (None, logistic)
        ]
        assert found == pytest.approx(min(alone), abs=1e-6)
        gap.append(alone[0] - alone[1])
    assert max(gap) > 1e-3
