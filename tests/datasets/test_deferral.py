"""The samples follow the law that each generator states, written out here a second time as a table of joint probabilities.

Sums are compared where their variance is that of 100 of their largest terms, so that they are all but normal; beyond 6 standard
deviations the Poisson tail, which is the heavier one, has 1e-8, and fewer than 2,000 sums are compared: a false alarm is below 1e-4.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from defer.datasets import (
    DeferralProblem,
    make_adversarial_experts,
    make_correlated_experts,
    make_linear_deferral,
    make_noisy_experts,
    make_specialist_experts,
)
from defer.exceptions import ProblemError

LIMIT = 6.0
KNOWN = ((0, 2), (1,))
MAKERS = {
    "linear": partial(make_linear_deferral, n_experts=2),
    "linear, log": partial(make_linear_deferral, n_experts=2, link="log"),
    "linear, priced": partial(make_linear_deferral, n_experts=2, cost=(0.05, 0.2)),
    "specialist": partial(make_specialist_experts, n_classes=3, known=KNOWN, skill=1.0),
    "specialist, less skilled": partial(make_specialist_experts, n_classes=3, known=KNOWN, skill=0.8, cost=0.1),
    "correlated": partial(make_correlated_experts, accuracy=(0.75, 0.6), correlation=0.6),
    "correlated, the same": partial(make_correlated_experts, accuracy=(0.7, 0.7), correlation=1.0, slope=0.0),
    "noisy": partial(make_noisy_experts, accuracy=(0.6, 0.8), label_noise=0.3),
    "adversarial": partial(make_adversarial_experts, "worst_where_uncertain"),
    "right with own": partial(make_adversarial_experts, "right_only_where_own_is_right", most=0.9),
}


def right_given_label(name: str, problem: DeferralProblem) -> np.ndarray:
    """P(expert j right | x, Y = k), shape (n, K, J)."""
    n, k = problem.class_probability.shape
    if name.startswith("specialist"):
        skill = 0.8 if "less" in name else 1.0
        return np.tile([[skill if label in known else 1 / 3 for known in KNOWN] for label in range(k)], (n, 1, 1))
    if name == "right with own":
        return 0.9 * (problem.own_bayes_label[:, None] == np.arange(k))[:, :, None]
    return np.repeat(problem.expert_probability[:, None, :], k, axis=1)


def joint(name: str, problem: DeferralProblem) -> np.ndarray:
    """P(Y = k, answers = m | x), shape (n, K, K) for one expert and (n, K, K, K) for two."""
    eta, q = problem.class_probability, right_given_label(name, problem)
    n, k = eta.shape
    same = np.eye(k)
    confusion = [q[:, :, j, None] * same + (1 - q[:, :, j, None]) * (1 - same) / (k - 1) for j in range(q.shape[2])]
    if len(confusion) == 1:
        return eta[:, :, None] * confusion[0]
    apart = np.einsum("nab,nac->nabc", *confusion)
    if not name.startswith("correlated"):
        return eta[:, :, None, None] * apart
    shared = np.zeros((n, k, k, k))
    p = problem.expert_probability
    for y in range(k):
        others = [label for label in range(k) if label != y]
        shared[:, y, y, y] = p.min(axis=1)
        for wrong in others:
            shared[:, y, y, wrong] = np.maximum(p[:, 0] - p[:, 1], 0) / (k - 1)
            shared[:, y, wrong, y] = np.maximum(p[:, 1] - p[:, 0], 0) / (k - 1)
            shared[:, y, wrong, wrong] = (1 - p.max(axis=1)) / (k - 1)
    part = 1.0 if name.endswith("the same") else 0.6
    return eta[:, :, None, None] * (part * shared + (1 - part) * apart)


def standardised(seen: np.ndarray, chance: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Sums of factor (seen - chance) over rows, in standard deviations; what has no chance must not be seen."""
    spread = np.sqrt((factor**2 * chance * (1 - chance)).sum(axis=0))
    gap = (factor * (seen - chance)).sum(axis=0)
    assert np.abs(gap[spread == 0]).max(initial=0.0) < 1e-6
    many = spread > 10 * np.abs(factor).max()
    assert many.sum() >= 6
    return np.abs(gap[many]) / spread[many]


def worst_gap(problem: DeferralProblem, cells: np.ndarray) -> float:
    """Largest standardised gap of any cell of (label, answers), alone and in parts of the space of queries."""
    n, k = problem.class_probability.shape
    code = problem.y.copy()
    for answers in problem.experts.T:
        code = code * k + answers
    seen, sure = np.eye(k ** (1 + problem.experts.shape[1]))[code], problem.class_probability.max(axis=1)
    parts = (np.ones(n), problem.X[:, 0] > 0, problem.X[:, 1] > 0, sure > np.median(sure))
    return max(standardised(seen, cells.reshape(n, -1), part[:, None]).max() for part in parts)


@pytest.mark.parametrize("name", MAKERS)
def test_the_sample_follows_the_stated_law(name):
    problem = MAKERS[name](n_samples=40_000, random_state=1)
    cells = joint(name, problem)
    assert cells.reshape(len(problem), -1).sum(axis=1) == pytest.approx(np.ones(len(problem)), abs=1e-9)
    assert worst_gap(problem, cells) < LIMIT


@pytest.mark.parametrize("name", ["linear", "specialist", "correlated", "right with own"])
def test_another_law_is_noticed(name):
    problem = MAKERS[name](n_samples=40_000, random_state=1)
    moved = np.roll(joint(name, problem), 1, axis=0)
    assert worst_gap(problem, moved) > 2 * LIMIT
    if name == "correlated":  # the right marginals, without the dependence
        assert worst_gap(problem, joint("linear", problem)) > 2 * LIMIT


@pytest.mark.parametrize("name", MAKERS)
def test_the_bayes_rule_is_that_of_the_enumerated_law(name):
    problem = MAKERS[name](n_samples=300, random_state=2)
    cells = joint(name, problem)
    k, n_experts = problem.class_probability.shape[1], problem.experts.shape[1]
    actions = np.zeros((300, k + n_experts))
    for outcome in np.ndindex(cells.shape[1:]):
        label, answers = outcome[0], outcome[1:]
        wrong = [label != action for action in range(k)] + [label != answer for answer in answers]
        actions += cells[(slice(None), *outcome)][:, None] * np.array(wrong, dtype=float)
    actions[:, k:] += problem.cost
    assert problem.action_cost == pytest.approx(actions, abs=1e-12)
    assert problem.bayes_risk == pytest.approx(actions.min(axis=1).mean(), abs=1e-12)
    chosen = np.where(problem.bayes_action == 0, problem.own_bayes_label, k + problem.bayes_action - 1)
    assert actions[np.arange(300), chosen] == pytest.approx(actions.min(axis=1), abs=1e-12)


@pytest.mark.parametrize("name", MAKERS)
def test_seeds_repeat_a_sample_and_keep_its_law_apart(name):
    one, again, fresh = (MAKERS[name](n_samples=50, random_state=seed) for seed in (3, 3, np.random.default_rng(4)))
    for field in ("X", "y", "experts", "cost", "class_probability", "expert_probability"):
        assert np.array_equal(getattr(one, field), getattr(again, field))
    assert not np.array_equal(one.X, fresh.X)
    other = MAKERS[name](n_samples=50, random_state=3, law=1)
    assert np.array_equal(one.X, other.X)
    assert not np.allclose(one.class_probability, other.class_probability)


def left_over(values: np.ndarray, columns: np.ndarray) -> float:
    """Largest residual of a least-squares fit of `values` on `columns`."""
    return float(np.abs(values - columns @ np.linalg.lstsq(columns, values, rcond=None)[0]).max())


@pytest.mark.parametrize("name", MAKERS)
def test_classes_are_logistic_in_the_query_and_one_law_serves_every_sample(name):
    samples = [MAKERS[name](n_samples=100, random_state=seed) for seed in (0, 1)]
    noise = 0.3 if name == "noisy" else 0.0
    X = np.vstack([sample.X for sample in samples])
    clean = (np.vstack([sample.class_probability for sample in samples]) - noise / 3) / (1 - noise)
    assert left_over(np.log(clean) - np.log(clean).mean(axis=1, keepdims=True), X) < 1e-9


def test_each_link_is_linear_where_it_says_so():
    columns = np.column_stack((np.ones(200), make_linear_deferral(n_samples=200, random_state=0).X))
    logit = make_linear_deferral(n_samples=200, n_experts=2, random_state=0)
    p = logit.expert_probability
    assert left_over(np.log(p / (1 - p)) - 1.0, columns[:, 1:]) < 1e-9
    assert left_over(np.log(p) - np.log(logit.class_probability[:, :1]), columns) > 0.1
    log = make_linear_deferral(n_samples=200, n_experts=2, link="log", random_state=0)
    p, eta = log.expert_probability, log.class_probability
    # The optimum of the softmax loss is proportional to (eta, p): its scores are linear up to a term that all share.
    assert left_over(np.log(np.hstack((eta, p))) - np.log(eta[:, :1]), columns) < 1e-9
    assert left_over(np.log(p / (1 - p)), columns) > 0.1
    expected = 0.95 * 3 * eta.prod(axis=1) ** (1 / 3)
    assert p[:, 0] == pytest.approx(expected, abs=1e-12)


def test_two_classes_make_all_scores_of_the_one_vs_all_loss_linear():
    problem = make_linear_deferral(n_samples=200, n_classes=2, random_state=0)
    sigmoids = np.hstack((problem.class_probability, problem.expert_probability))
    columns = np.column_stack((np.ones(200), problem.X))
    assert left_over(np.log(sigmoids / (1 - sigmoids)), columns) < 1e-9


def test_experts_err_together_as_much_as_stated_and_are_as_good_as_without():
    make = partial(make_correlated_experts, n_samples=40_000, accuracy=(0.8, 0.7, 0.7), random_state=0)
    for correlation in (0.0, 0.3, 1.0):
        problem = make(correlation=correlation)
        p, gap = problem.expert_probability, problem.right - problem.expert_probability
        for i, j in ((0, 1), (0, 2), (1, 2)):
            stated = correlation * (np.minimum(p[:, i], p[:, j]) - p[:, i] * p[:, j])
            excess = gap[:, i] * gap[:, j] - stated
            assert abs(excess.sum()) < LIMIT * np.sqrt((excess**2).sum())
        assert problem.bayes_risk == make(correlation=0.5).bayes_risk


def test_equal_experts_are_correlated_by_the_number_given():
    problem = make_correlated_experts(n_samples=40_000, accuracy=(0.7, 0.7), correlation=0.4, slope=0.0, random_state=0)
    assert np.corrcoef(problem.right.T)[0, 1] == pytest.approx(0.4, abs=LIMIT / np.sqrt(40_000))


def test_specialists_share_out_the_classes_by_themselves():
    problem = make_specialist_experts(n_samples=2000, n_classes=5, n_experts=2, skill=1.0, random_state=0)
    assert problem.right[problem.y <= 2, 0].all()
    assert problem.right[problem.y >= 3, 1].all()
    assert not problem.right[problem.y >= 3, 0].all()


def test_a_specialist_who_never_errs_is_never_worse_than_the_own_label():
    problem = make_specialist_experts(n_samples=500, skill=1.0, random_state=0)
    assert (problem.expected_cost[:, 1:].min(axis=1) <= problem.expected_cost[:, 0]).all()


def test_both_the_own_label_and_the_experts_are_worth_something_by_default():
    for make in (make_linear_deferral, make_specialist_experts, make_correlated_experts, make_noisy_experts):
        assert 0.2 < (make(random_state=0).bayes_action > 0).mean() < 0.9


def test_adversaries_are_never_worth_asking():
    for kind in ("worst_where_uncertain", "right_only_where_own_is_right"):
        problem = make_adversarial_experts(kind, n_samples=500, random_state=0)
        assert set(problem.bayes_action.tolist()) == {0}
    sure = problem.class_probability.max(axis=1)
    worst = make_adversarial_experts(n_samples=500, random_state=0).expert_probability[:, 0]
    assert (np.diff(worst[np.argsort(sure)]) >= 0).all()


def test_strong_classes_stay_finite():
    problem = make_linear_deferral(n_samples=50, strength=1e4, link="log", random_state=0)
    assert np.isfinite(problem.expected_cost).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(make_linear_deferral, n_samples=0), "n_samples must be a whole number of at least 1, got 0"),
        (partial(make_linear_deferral, n_features=2.0), r"n_features must be a whole number of at least 1, got 2\.0"),
        (partial(make_noisy_experts, n_classes=1), "n_classes must be a whole number of at least 2, got 1"),
        (partial(make_specialist_experts, n_experts=0), "n_experts must be a whole number of at least 1, got 0"),
        (partial(make_linear_deferral, law=-1), "law must be a whole number of at least 0, got -1"),
        (partial(make_linear_deferral, link="probit"), r"link must be one of \('logit', 'log'\), got 'probit'"),
        (partial(make_adversarial_experts, "evil"), r"kind must be one of \('worst_where_uncertain', .*\), got 'evil'"),
        (
            partial(make_linear_deferral, n_experts=2, cost=[0.1]),
            r"cost must be one price or one per expert \(2\), got shape \(1,\)",
        ),
        (partial(make_linear_deferral, cost=np.nan), r"cost has 1 of 1 values that are not allowed"),
        (
            partial(make_specialist_experts, known=[[0], [6]]),
            r"known must name classes from 0 to 5, got \[6\] for expert 2",
        ),
        (
            partial(make_specialist_experts, n_experts=2, known=[[0]]),
            "known is of 1 experts, and n_experts is 2: give one of the two",
        ),
        (partial(make_linear_deferral, strength=-1), "strength must be a finite number of at least 0, got -1"),
        (partial(make_noisy_experts, strength="high"), "strength must be a finite number of at least 0, got 'high'"),
        (partial(make_correlated_experts, slope=np.inf), "slope must be a finite number, got inf"),
        (partial(make_noisy_experts, accuracy=["high"]), r"accuracy must be numbers, got \['high'\]"),
        (partial(make_specialist_experts, skill=1.5), r"skill must lie in \[0, 1\], got \[1.5\]"),
        (partial(make_correlated_experts, accuracy=(0.5, 1.0)), r"accuracy must lie in \(0, 1\), got \[0.5, 1.0\]"),
        (partial(make_correlated_experts, correlation=-0.1), r"correlation must lie in \[0, 1\], got \[-0.1\]"),
        (partial(make_noisy_experts, accuracy=()), r"accuracy must lie in \[0, 1\], got \[\]"),
        (partial(make_noisy_experts, label_noise=2), r"label_noise must lie in \[0, 1\], got \[2.0\]"),
        (partial(make_adversarial_experts, least=-1), r"least and most must lie in \[0, 1\], got \[-1.0, 0.95\]"),
    ],
)
def test_wrong_parameters_are_refused(call, message):
    with pytest.raises(ProblemError, match=message):
        call()


@pytest.mark.parametrize(
    "make",
    [make_linear_deferral, make_specialist_experts, make_correlated_experts, make_noisy_experts,
     partial(make_adversarial_experts, "worst_where_uncertain")],
)  # fmt: skip
def test_queries_of_a_few_types_repeat_the_same_points_with_the_same_law(make):
    left, right = make(n_samples=400, n_types=5, random_state=0), make(n_samples=400, n_types=5, random_state=1)
    types, first, kind = np.unique(left.X, axis=0, return_index=True, return_inverse=True)
    assert len(types) == 5
    np.testing.assert_array_equal(types, np.unique(right.X, axis=0))
    np.testing.assert_allclose(left.class_probability, left.class_probability[first][kind.ravel()], rtol=1e-12)
    np.testing.assert_allclose(left.expert_probability, left.expert_probability[first][kind.ravel()], rtol=1e-12)
    with pytest.raises(ProblemError, match="n_types must be a whole number of at least 1, got 0"):
        make(n_types=0)


def test_experts_are_called_as_the_estimators_call_them():
    assert make_linear_deferral(n_samples=5, random_state=0).expert_names == ("expert",)
    assert make_specialist_experts(n_samples=5, random_state=0).expert_names == ("expert 1", "expert 2")
    assert (
        len(make_specialist_experts(n_samples=5, known=[[0], [1], [2]], n_experts=3, random_state=0).expert_names) == 3
    )
