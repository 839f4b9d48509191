"""Imputation of answers that were not given: exact where it can be, unbiased where it is modelled."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Perceptron
from sklearn.tree import DecisionTreeClassifier

from defer.estimators import MultiExpertDeferral, PostHocDeferral, TwoStageDeferral
from defer.estimators.deferral.answers import read_answers
from defer.estimators.deferral.imputation import impute_right
from defer.exceptions import RouterInputError


def specialists(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two experts, the first good where x is positive and the second good at label 1; who is asked depends on x and y."""
    rng = np.random.default_rng(seed)
    X, y = np.column_stack([rng.choice([-1.0, 1.0], n), rng.normal(size=n)]), rng.integers(2, size=n)
    chance = np.column_stack([np.where(X[:, 0] > 0, 0.9, 0.3), np.where(y == 1, 0.95, 0.4)])
    answer = np.where(rng.random((n, 2)) < chance, y[:, None], 1 - y[:, None]).astype(float)
    asked = rng.random((n, 2)) < np.column_stack([np.where(X[:, 0] > 0, 0.8, 0.2), np.where(y == 1, 0.7, 0.15)])
    return X, y, chance, np.where(asked, answer, np.nan)


def test_given_answers_stay_and_gaps_become_probabilities() -> None:
    X, y, _, experts = specialists(400, seed=0)
    answers = read_answers(y, experts, n=400)
    right = impute_right(X, answers)
    asked = np.isfinite(answers.right)
    np.testing.assert_array_equal(right[asked], answers.right[asked])
    assert ((right[~asked] > 0) & (right[~asked] < 1)).all()
    assert np.isnan(answers.right).any()  # what was read is not written to
    np.testing.assert_array_equal(impute_right(X, answers), right)


def test_a_gap_is_filled_with_what_a_logistic_regression_on_query_and_label_says() -> None:
    X, y, _, experts = specialists(400, seed=1)
    answers = read_answers(y, experts, n=400)
    table = np.column_stack([X, y == 0, y == 1]).astype(float)
    for column, asked in enumerate(np.isfinite(answers.right).T):
        peer = LogisticRegression(tol=1e-8, max_iter=2000).fit(table[asked], answers.right[asked, column])
        np.testing.assert_allclose(
            impute_right(X, answers)[~asked, column], peer.predict_proba(table[~asked])[:, 1], atol=1e-6
        )


@pytest.mark.parametrize("few", [False, True])
def test_answers_without_weight_are_as_none(few: bool) -> None:
    X, y, _, experts = specialists(24 if few else 400, seed=4)
    weight = np.random.default_rng(0).integers(0, 3, size=len(y)).astype(float)
    kept = weight > 0
    whole = impute_right(X, read_answers(y, experts, n=len(y)), sample_weight=weight)
    left = impute_right(X[kept], read_answers(y[kept], experts[kept], n=kept.sum()), sample_weight=weight[kept])
    np.testing.assert_allclose(whole[kept], left, atol=1e-6)
    assert not np.allclose(whole, impute_right(X, read_answers(y, experts, n=len(y))), atol=1e-3)
    one, other = (
        MultiExpertDeferral(missing="impute", tol=1e-8)
        .fit(X[rows], y[rows], experts=experts[rows], sample_weight=weight[rows])
        .predict_quality(X)
        for rows in (np.ones(len(y), dtype=bool), kept)
    )
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_few_answers_count_by_their_weight() -> None:
    answers = read_answers([0, 1, 1, 0], [[0], [1], [None], [1]], n=4)  # right, right, not asked, wrong
    right = impute_right(np.zeros((4, 1)), answers, sample_weight=np.array([1.0, 1.0, 5.0, 2.0]))
    assert right[2, 0] == pytest.approx((3 * 0.5 + 1) / (3 + 2))


def test_it_undoes_that_experts_were_asked_where_they_are_good() -> None:
    # 20,000 queries: where an expert is seldom asked, its accuracy has a standard error of 0.012, and the mean one of 0.008.
    X, y, chance, experts = specialists(20_000, seed=2)
    answers = read_answers(y, experts, n=len(y))
    naive, imputed = np.nanmean(answers.right, axis=0), impute_right(X, answers).mean(axis=0)
    assert (naive - chance.mean(axis=0) > 0.08).all()
    np.testing.assert_allclose(imputed, chance.mean(axis=0), atol=0.035)
    sure = impute_right(X, answers, expert_model=RandomForestClassifier(20, max_depth=3), random_state=0)
    np.testing.assert_allclose(sure.mean(axis=0), chance.mean(axis=0), atol=0.05)


def test_few_answers_or_one_outcome_give_a_shrunk_mean() -> None:
    y = np.array([0, 1] * 50)
    experts = np.full((100, 3), np.nan)
    experts[:4, 0] = [0, 1, 0, 0]  # three right of four
    experts[:60, 1] = y[:60]  # always right
    experts[:60, 2] = 1 - y[:60]  # never right
    right = impute_right(np.zeros((100, 1)), read_answers(y, experts, n=100))
    assert right[50:, 0].tolist() == [4 / 6] * 50
    assert right[60:, 1].tolist() == [61 / 62] * 40
    assert right[60:, 2].tolist() == [1 / 62] * 40


def test_sparse_queries_and_text() -> None:
    X, y, _, experts = specialists(200, seed=3)
    answers = read_answers(y, experts, n=200)
    np.testing.assert_allclose(impute_right(csr_array(X), answers), impute_right(X, answers), atol=1e-5)
    by_label = impute_right([f"text {row}" for row in range(200)], answers)
    gap = np.isnan(answers.right[:, 1])
    assert len(np.unique(by_label[gap, 1].round(9))) == 2


def test_a_seed_makes_a_random_model_repeatable() -> None:
    X, y, _, experts = specialists(200, seed=4)
    answers = read_answers(y, experts, n=200)
    model = RandomForestClassifier(5)
    first, again = (impute_right(X, answers, expert_model=model, random_state=3) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert model.random_state is None


def test_wrong_models_and_queries_are_refused() -> None:
    answers = read_answers([0, 1], [[0], [None]], n=2)
    with pytest.raises(RouterInputError, match="impute_right: expert_model Perceptron has no predict_proba"):
        impute_right(np.zeros((2, 1)), answers, expert_model=Perceptron())
    with pytest.raises(
        TypeError, match=r"expert_model must be an estimator, got the class .*; write LogisticRegression\(\)"
    ):
        impute_right(np.zeros((2, 1)), answers, expert_model=LogisticRegression)
    with pytest.raises(RouterInputError, match=r"impute_right: X must have shape \(2, d\), got \(3, 1\)"):
        impute_right(np.zeros((3, 1)), answers)


@pytest.fixture(scope="module")
def asked_where_weak() -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Queries, labels, the answers of an expert on one class who is mostly asked about the other, and its true accuracy."""
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(3000, 2)), rng.integers(2, size=3000)
    answers = np.where(rng.random(3000) < np.where(y == 1, 0.95, 0.35), y, 1 - y)
    asked = rng.random(3000) < np.where(y == 1, 0.1, 0.7)
    return X, y, np.where(asked, answers, None), float(np.mean(answers == y))


ESTIMATORS = {
    "several": lambda **options: MultiExpertDeferral("softmax", **options),
    "two stages": lambda **options: TwoStageDeferral(FrozenEstimator(GUESS), **options),
    "plug-in": lambda **options: PostHocDeferral(random_state=0, **options),
    "regression": lambda **options: PostHocDeferral("regression", random_state=0, **options),
    "partial": lambda **options: PostHocDeferral("partial", random_state=0, **options),
}
GUESS = LogisticRegression().fit([[-1.0, 0.0], [1.0, 0.0]], [0, 1])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_with_imputation_undoes_that_an_expert_was_asked_where_it_is_weak(
    name, asked_where_weak
) -> None:
    X, y, gaps, truth = asked_where_weak
    naive, filled = (ESTIMATORS[name](missing=missing).fit(X, y, experts=gaps) for missing in ("at_random", "impute"))
    assert (naive.weighting_, filled.weighting_) == ("missing at random", "none")
    # 800 answers, 150 of them to the class that counts most: the imputed mean has a standard error of 0.013.
    assert naive.predict_quality(X)[:, 1].mean() < truth - 0.1
    assert filled.predict_quality(X)[:, 1].mean() == pytest.approx(truth, abs=0.06)
    role = "imputation_model" if isinstance(naive, PostHocDeferral) else "expert_model"
    by_tree = ESTIMATORS[name](missing="impute", **{role: DecisionTreeClassifier(max_depth=2, random_state=0)})
    assert by_tree.fit(X, y, experts=gaps).predict_quality(X)[:, 1].mean() == pytest.approx(truth, abs=0.06)
    wrong = ESTIMATORS[name](**{role: Perceptron()})
    with pytest.raises(RouterInputError, match=f"{type(naive).__name__}: {role} Perceptron has no predict_proba"):
        wrong.fit(X, y, experts=gaps)


def test_two_stages_with_imputation_learn_from_the_filled_table(asked_where_weak) -> None:
    X, y, gaps, _ = asked_where_weak
    table = np.column_stack([GUESS.predict(X) == y, impute_right(X, read_answers(y, gaps, n=3000))[:, 0]])
    for weighting in ("one_minus_cost", "cost_of_others"):
        router = TwoStageDeferral(GUESS, weighting=weighting, missing="impute").fit(X, y, experts=gaps)
        peer = TwoStageDeferral(weighting=weighting).fit(X, table)
        np.testing.assert_array_equal(router.predict_quality(X), peer.predict_quality(X))
