"""The hybrid router: what it learns from one or several answers, and where its threshold and its limits put queries."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Perceptron
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from defer import Budget, Capacity, QualityTarget, RiskLevel, Share, evaluate
from defer.estimators import SingleArm, TunedRouter, make_pipeline
from defer.estimators.routers.drop_threshold import threshold_table
from defer.estimators.routers.gap_scale import GapScale
from defer.estimators.routers.hybrid import HybridRouter
from defer.estimators.routers.query_folds import held_out_parts, query_codes, query_folds
from defer.estimators.routers.threshold_rule import ThresholdRule, ThresholdSearch
from defer.estimators.tuning.operating_point import bernstein_upper
from defer.exceptions import InfeasibleLimitError, MissingPropensityWarning, RouterInputError
from defer.losses.quality_gap import best_margin, gap_probability
from defer.model_file import model_bytes, model_from_bytes
from defer.portfolios.arm_matrix import ArmMatrix
from defer.portfolios.assignment import best_arm
from defer.portfolios.outcomes import OutcomeLog


def sampled(n=400, samples=(6, 4), seed=0):
    """Queries of rising difficulty; the small arm loses quality with it, the large one hardly."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    small = 0.8 - 0.15 * X[:, :1] + rng.normal(0, 0.1, size=(n, samples[0]))
    large = 0.9 - 0.02 * X[:, :1] + rng.normal(0, 0.1, size=(n, samples[1]))
    return X, {"small": small, "large": large}


def priced(n, small=0.1, large=1.0):
    return np.tile([small, large], (n, 1))


# What is learned


def test_linear_sufficiency_is_logistic_regression_on_soft_labels():
    X, answers = sampled()
    router = HybridRouter(tol=1e-10, C=0.7).fit(X, answers)
    choice = best_margin(answers["small"], answers["large"])
    assert router.strong_ == "large"
    assert router.margin_.tolist() == [choice.margin, 0.0]
    assert router.spread_.tolist() == pytest.approx([choice.spread, 0.0], abs=1e-12)
    twice = np.vstack([X, X]), np.repeat([1, 0], len(X)), np.concatenate([choice.labels, 1 - choice.labels])
    plain = LogisticRegression(C=0.7, tol=1e-10).fit(*twice)
    sufficient = router.predict_sufficient(X)
    np.testing.assert_allclose(sufficient[:, 0], plain.predict_proba(X)[:, 1], atol=1e-6)
    assert (sufficient[:, 1] == 1.0).all()


def test_a_classifier_learns_the_same_by_weights():
    X, answers = sampled()
    linear = HybridRouter("probabilistic", tol=1e-10).fit(X, answers)
    classifier = HybridRouter("probabilistic", LogisticRegression(tol=1e-10, max_iter=1000)).fit(X, answers)
    np.testing.assert_allclose(classifier.predict_sufficient(X), linear.predict_sufficient(X), atol=1e-6)


@pytest.mark.parametrize(
    "estimator",
    [RandomForestClassifier(20, random_state=0), CalibratedClassifierCV(LogisticRegression(), cv=2), "mlp"],
    ids=["forest", "calibrated", "network"],
)
def test_other_estimators_find_the_easy_queries(estimator):
    X, answers = sampled()
    router = HybridRouter(estimator=estimator, max_epochs=15, cv=2, random_state=0).fit(X, answers)
    probe = np.array([[-2.5, 0.0, 0.0], [2.5, 0.0, 0.0]])
    easy, hard = router.predict_sufficient(probe)[:, 0]
    assert easy > 0.7 > 0.3 > hard
    assert router.predict(probe).tolist() == ["small", "large"]


def test_a_torch_module_is_trained_on_the_labels():
    torch = pytest.importorskip("torch")
    X, answers = sampled(200)
    router = HybridRouter(estimator=torch.nn.Linear, learning_rate=0.1, max_epochs=15, cv=2, random_state=0)
    easy, hard = router.fit(X, answers).predict_sufficient(np.array([[-2.0, 0, 0], [2.0, 0, 0]], dtype=np.float32))[
        :, 0
    ]
    assert easy > hard


def test_labels_of_one_answer_are_the_same_by_all_pairs_or_by_the_first():
    X, answers = sampled(samples=(1, 1))
    by_first, by_pairs = (HybridRouter(label).fit(X, answers) for label in ("deterministic", "probabilistic"))
    np.testing.assert_array_equal(by_first.predict_sufficient(X), by_pairs.predict_sufficient(X))
    np.testing.assert_array_equal(
        by_pairs.predict_sufficient(X), HybridRouter(margin=0.0).fit(X, answers).predict_sufficient(X)
    )


def test_deterministic_labels_are_those_of_the_first_answer_that_is_there():
    X, answers = sampled(samples=(3, 2))
    answers["small"][::2, 0] = np.nan
    first = {"small": np.where(np.arange(400) % 2, answers["small"][:, 0], answers["small"][:, 1])}
    first["large"] = answers["large"][:, 0]
    router, plain = HybridRouter("deterministic").fit(X, answers), HybridRouter("deterministic").fit(X, first)
    np.testing.assert_allclose(router.predict_sufficient(X), plain.predict_sufficient(X), atol=1e-12)


def test_answers_come_as_a_mapping_a_cube_or_a_table():
    X, answers = sampled(60, samples=(3, 3))
    by_name = HybridRouter().fit(X, answers, cost=priced(60))
    cube = np.stack([answers["small"], answers["large"]], axis=1)
    by_index = HybridRouter().fit(X, cube, cost=priced(60))
    assert by_name.arms_.tolist() == ["small", "large"]
    assert by_index.arms_.tolist() == [0, 1]
    np.testing.assert_array_equal(by_name.predict_quality(X), by_index.predict_quality(X))
    assert by_index.fit(X, cube.tolist(), cost=priced(60)).margin_.tolist() == by_name.margin_.tolist()
    one = HybridRouter().fit(X, cube[:, :, :1])
    np.testing.assert_array_equal(HybridRouter().fit(X, cube[:, :, 0]).predict_quality(X), one.predict_quality(X))
    frame = pd.DataFrame({name: values.mean(axis=1) for name, values in answers.items()})
    assert by_name.score(X, answers, cost=priced(60)) == by_name.score(X, frame, cost=priced(60))


def test_the_wrong_estimator_of_the_label_would_be_noticed():
    # The k-th answer beside the k-th: other labels, although without bias.
    small, large = [[-3.0, -3.2], [-2.6, -2.8]], [[-2.5, -2.7], [-2.0, -2.1]]
    paired = (np.array(small) >= np.array(large) - 0.5 - 1e-12).mean(axis=1)
    assert paired.tolist() != gap_probability(small, large, margin=0.5).tolist()


def test_missing_answers_count_by_what_is_there():
    X, answers = sampled(300)
    holes = np.random.default_rng(3).random(answers["small"].shape) < 0.4
    answers["small"][holes] = np.nan
    answers["small"][:5], answers["large"][5:8] = np.nan, np.nan
    router = HybridRouter(tol=1e-10).fit(X, answers)
    choice = best_margin(answers["small"], answers["large"])
    assert np.isnan(choice.labels[:8]).all()
    assert router.n_labelled_.tolist() == [292, 297]
    kept = slice(8, None)
    plain = HybridRouter(tol=1e-10, margin=choice.margin).fit(X[kept], {k: v[kept] for k, v in answers.items()})
    np.testing.assert_allclose(router.predict_sufficient(X), plain.predict_sufficient(X), atol=1e-7)


def test_single_precision_answers_are_compared_in_it():
    X = np.arange(4.0)[:, None]
    small, large = np.float32([2.3, 2.3, 2.3, 0.0]), np.float32([2.4, 2.4, 2.4, 2.4])
    router = HybridRouter(margin=0.1).fit(X, {"small": small, "large": large})
    assert router.spread_[0] == pytest.approx(2 * 0.75 * 0.25)


# Quality, thresholds and drops


def test_predicted_quality_has_the_mean_of_what_was_observed_and_tells_the_gap():
    X, answers = sampled(2000)
    router = HybridRouter().fit(X, answers)
    fresh, outcomes = sampled(2000, seed=1)
    predicted = router.predict_quality(fresh)
    realised = np.column_stack([values.mean(axis=1) for values in outcomes.values()])
    assert predicted.mean(axis=0) == pytest.approx(realised.mean(axis=0), abs=0.02)
    # Slope of the realised on the predicted gap: a standard error of .02.
    gap, found = (table[:, 0] - table[:, 1] for table in (predicted, realised))
    assert np.polyfit(gap, found, 1)[0] == pytest.approx(1.0, abs=0.1)


def test_without_a_threshold_both_arms_are_equally_good_at_it():
    X, answers = sampled()
    router = HybridRouter().fit(X, answers, cost=priced(400))
    sufficient, small = router.predict_sufficient(X)[:, 0], router.predict(X) == "small"
    assert 0 < small.sum() < 400
    np.testing.assert_array_equal(small, sufficient >= router.threshold_[0])
    assert np.isnan(router.threshold_[1])
    assert router.arm_bonus_.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_a_threshold_decides_as_the_source_does(threshold):
    X, answers = sampled()
    router = HybridRouter(threshold=threshold).fit(X, answers, cost=priced(400))
    np.testing.assert_array_equal(router.predict(X) == "small", router.predict_sufficient(X)[:, 0] >= threshold)
    assert router.threshold_[0] == threshold
    # Quality stays what is predicted: a limit of a batch is met by it and by no threshold.
    plain = HybridRouter().fit(X, answers, cost=priced(400))
    np.testing.assert_array_equal(plain.predict_quality(X), router.predict_quality(X))
    limit = Budget(mean_cost=0.3)
    assert (
        plain.route(X, limit=limit, random_state=0).arm.tolist()
        == router.route(X, limit=limit, random_state=0).arm.tolist()
    )


@pytest.mark.parametrize(("threshold", "arm"), [(0.0, "small"), (-5.0, "small"), (1.001, "large"), (40.0, "large")])
def test_both_ends_of_the_threshold(threshold, arm):
    X, answers = sampled(100)
    router = HybridRouter(threshold=threshold).fit(X, answers, cost=priced(100))
    assert set(router.predict(50 * X)) == {arm}
    three = {**answers, "medium": answers["small"] + 0.01}
    taken = set(HybridRouter(threshold=threshold).fit(X, three).predict(X))
    assert taken == {"large"} if arm == "large" else "large" not in taken


@pytest.mark.parametrize("order", [["weak", "strong"], ["strong", "weak"]])
@pytest.mark.parametrize("cost", [None, {"weak": 1.0, "strong": 1.0}, {"weak": 9.0, "strong": 1.0}])
@pytest.mark.parametrize(
    ("weak", "sufficient", "threshold", "taken"),
    [
        (0.9, 1.0, 1.0, True),
        (0.9, 1.0, np.nextafter(1.0, 2.0), False),
        (0.2, 0.0, 0.0, True),
        (0.2, 0.0, np.nextafter(0.0, 1.0), False),
    ],
)
def test_at_the_threshold_the_weak_arm_goes_first(order, cost, weak, sufficient, threshold, taken):
    X = np.zeros((40, 1))
    quality = np.column_stack([np.full(40, weak if arm == "weak" else 0.9) for arm in order])
    price = None if cost is None else np.tile([cost[arm] for arm in order], (40, 1))
    router = HybridRouter("deterministic", strong="strong", threshold=threshold)
    router.fit(X, ArmMatrix(quality, order), cost=price)
    assert (router.predict_sufficient(X)[:, order.index("weak")] == sufficient).all()
    assert set(router.predict(X)) == {"weak" if taken else "strong"}
    routed = router.route(X)
    assert routed.label.tolist() == router.predict(X).tolist()
    assert (routed.utility.argmax(axis=1) == routed.arm).all()


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_at_the_threshold_any_weak_arm_goes_before_the_strong_one(threshold, place):
    X, answers = sampled(200, samples=(1, 1))
    weak = {"small": answers["small"], "medium": answers["small"] + 0.02 * X[:, 1:2]}
    names = list(weak)
    names.insert(place, "large")
    router = HybridRouter("deterministic", threshold=threshold).fit(X, {n: {**answers, **weak}[n] for n in names})
    sufficient = router.predict_sufficient(X)
    reached = (np.delete(sufficient, place, axis=1) >= threshold).any(axis=1)
    np.testing.assert_array_equal(router.predict(X) != "large", reached)
    # Of weak arms that did not reach it none is taken.
    arm = [names.index(name) for name in router.predict(X)]
    assert (sufficient[np.arange(200), arm] >= threshold).all()


@settings(max_examples=200, deadline=None)
@given(
    slope=st.sampled_from([1e-12, 1e-9, 1e-3, 0.4, 1e6]),
    mean=st.floats(-1e3, 1e3),
    centre=st.floats(0.0, 1.0),
    threshold=st.floats(-1.0, 2.0),
    strong=st.sampled_from([0, 1]),
    steps=st.lists(st.integers(-3, 3), min_size=1, max_size=5),
)
def test_a_threshold_decides_exactly_however_little_a_probability_is_worth(
    slope, mean, centre, threshold, strong, steps
):
    each = np.array([slope, slope])
    each[strong] = 0.0
    scale = GapScale(strong, np.array([mean, 0.3]), np.array([centre, centre]), each)
    rule = ThresholdRule.at(scale, threshold)
    near = threshold + np.array(steps) * np.spacing(threshold)
    probability = np.column_stack([near, near])
    quality = rule.quality(scale.quality(probability), probability)
    np.testing.assert_allclose(quality, scale.quality(probability), rtol=1e-15, atol=1e-300)
    utility = rule.utility(quality, np.zeros((len(near), 2)), 0.0)
    np.testing.assert_array_equal(utility.argmax(axis=1) != strong, near >= threshold)
    assert (utility[:, 0] != utility[:, 1]).all()


@pytest.mark.parametrize("drop", [0.0, 1.0, 5.0, 50.0])
def test_the_threshold_for_a_drop_is_the_smallest_that_keeps_it_out_of_fold(drop):
    X, answers = sampled()
    router = HybridRouter(quality_drop=drop, cv=4).fit(X, answers, cost=priced(400))
    means = [values.mean(axis=1) for values in answers.values()]
    score = np.empty(400)
    for train, test in held_out_parts(4, query_codes(X), owner="test"):
        part = HybridRouter(margin=router.margin_[0]).fit(X[train], {k: v[train] for k, v in answers.items()})
        score[test] = part.predict_sufficient(X[test])[:, 0]
    wanted = threshold_table(score, *means).for_drop(drop)
    np.testing.assert_allclose(router.threshold_table_.threshold[1:-1], np.sort(score), atol=1e-5)
    assert router.threshold_table_.for_drop(drop).cost_advantage == pytest.approx(wanted.cost_advantage, abs=0.006)
    at = router.threshold_table_.at(router.threshold_[0])
    assert at.cost_advantage == router.threshold_table_.for_drop(drop).cost_advantage
    assert at.drop <= drop
    np.testing.assert_array_equal(
        router.predict(X) == "small", router.predict_sufficient(X)[:, 0] >= router.threshold_[0]
    )
    if drop == 50.0:
        assert set(router.predict(50 * X)) == {"small"}


def test_a_larger_drop_saves_more_and_loses_about_what_was_allowed():
    X, answers = sampled(1500)
    fresh, outcomes = sampled(4000, seed=5)
    realised = np.column_stack([values.mean(axis=1) for values in outcomes.values()])
    saved = []
    for drop in (0.0, 2.0, 5.0):
        router = HybridRouter(quality_drop=drop).fit(X, answers)
        small = router.predict(fresh) == "small"
        quality = np.where(small, realised[:, 0], realised[:, 1]).mean()
        # Standard errors of both samples together are below .4 per cent.
        assert 100 * (1 - quality / realised[:, 1].mean()) == pytest.approx(drop, abs=2.0)
        saved.append(small.mean())
    assert saved == sorted(saved)
    assert saved[2] > saved[0] + 0.1


def test_the_drop_of_several_arms_is_that_of_the_whole_policy():
    X, answers = sampled(600)
    answers["medium"] = answers["small"] + 0.3 * (X[:, 1:2] > 0) - 0.2
    router = HybridRouter(quality_drop=3.0).fit(X, answers)
    means = {name: values.mean(axis=1) for name, values in answers.items()}
    realised = np.column_stack(list(means.values()))
    taken = router.predict(X)
    assert set(taken) == {"small", "medium", "large"}
    quality = realised[np.arange(600), [list(means).index(arm) for arm in taken]].mean()
    best = means["large"].mean()
    assert router.strong_ == "large"
    assert 100 * (1 - quality / best) == pytest.approx(3.0, abs=1.0)
    point = router.threshold_table_.for_drop(3.0)
    assert point.drop <= 3.0
    assert (taken != "large").mean() == pytest.approx(point.cost_advantage, abs=0.03)
    sufficient = router.predict_sufficient(X)
    np.testing.assert_array_equal((sufficient >= router.threshold_)[:, [0, 2]].any(axis=1), taken != "large")


def test_cost_weight_comes_on_top():
    X, answers = sampled()
    free = HybridRouter(threshold=0.7).fit(X, answers, cost=priced(400))
    dear = HybridRouter(threshold=0.7, cost_weight=0.1).fit(X, answers, cost=priced(400))
    assert ((dear.predict(X) == "small") >= (free.predict(X) == "small")).all()
    assert (dear.predict(X) == "small").sum() > (free.predict(X) == "small").sum()


def easy_and_hard(n, seed=0):
    """Two outcomes, of which the first is seldom right where x > 0; the second costs ten times as much."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    quality = np.column_stack([rng.random(n) < np.where(X[:, 0] > 0, 0.2, 0.85), rng.random(n) < 0.9]).astype(float)
    return X, quality, np.tile([1.0, 10.0], (n, 1))


@pytest.mark.parametrize("drop", [RiskLevel(risk=0.1, level=1 - 1e-5), 10.0], ids=["risk", "per cent"])
@pytest.mark.parametrize("cost_weight", [0.02, 0.1, 10.0])
def test_a_drop_is_kept_whatever_the_cost_weight(drop, cost_weight):
    X, quality, cost = easy_and_hard(3000)
    free = HybridRouter(quality_drop=drop).fit(X, quality, cost=cost)
    dear = HybridRouter(quality_drop=drop, cost_weight=cost_weight).fit(X, quality, cost=cost)
    fresh, outcomes, _ = easy_and_hard(40_000, seed=1)
    # Of two arms there is one order of queries: the drop sets how many go to the weak one, and the cost weight nothing.
    assert (dear.predict(fresh) == free.predict(fresh)).mean() > 0.99
    weak = dear.predict(fresh) == 0
    lost = outcomes[:, 1].mean() - np.where(weak, outcomes[:, 0], outcomes[:, 1]).mean()
    # The drop per cent is one of training queries: beyond .03 its error on 3,000 is six standard errors.
    assert lost <= (0.1 if isinstance(drop, RiskLevel) else 0.09 + 0.03)
    assert weak.mean() > 0.3


@pytest.mark.parametrize("cost_weight", [0.0, 0.3])
@pytest.mark.parametrize("names", [["small", "medium", "large"], ["large", "medium", "small"]])
@pytest.mark.parametrize("limit", [2.0, 60.0, RiskLevel(risk=0.06, level=0.9)], ids=["2%", "60%", "risk"])
def test_what_is_judged_out_of_fold_is_what_decides(cost_weight, names, limit):
    X, answers = sampled(900, samples=(1, 1))
    answers["medium"] = answers["small"] + 0.1 * (X[:, 1:2] > 0) - 0.05
    realised = np.column_stack([answers[name][:, 0] for name in names])
    cost, strong = np.array([{"small": 0.1, "medium": 0.4, "large": 1.0}[name] for name in names]), names.index("large")
    rng = np.random.default_rng(0)
    probability = 1.0 / (1.0 + np.exp(2.0 * X[:, [0]] + 0.5 * rng.normal(size=(900, 3))))
    probability[:, strong] = 1.0
    scale = GapScale.fit(probability, realised, realised.mean(axis=0), np.ones(900), np.ones(900), strong=strong)
    search = ThresholdSearch(scale, probability, realised, np.ones(900), cost, cost_weight, None)
    rule = search.for_drop(limit) if isinstance(limit, float) else search.for_risk(limit, names)
    quality = rule.quality(scale.quality(probability), probability)
    taken = best_arm(rule.utility(quality, np.tile(cost, (900, 1)), cost_weight), np.tile(cost, (900, 1)))
    # The rule by hand: of weak arms the one of highest utility, and it where its lead over the strong one is enough.
    utility = scale.quality(probability) - cost_weight * cost
    weak = np.delete(np.arange(3), strong)
    best = weak[utility[:, weak].argmax(axis=1)]
    lead = utility[np.arange(900), best] - utility[:, strong]
    assert set(taken[taken != strong]) <= set(best)
    np.testing.assert_array_equal(taken[taken != strong], best[taken != strong])
    assert lead[taken != strong].min() > lead[taken == strong].max(initial=-np.inf)
    loss = (realised[:, strong] - realised[np.arange(900), taken]).mean()
    if isinstance(limit, RiskLevel):
        gap = realised - realised[np.arange(900), taken][:, None]
        assert bernstein_upper(gap, 2.0 * np.ptp(realised), 0.1).max() <= 0.06
        assert 0.0 < (taken == strong).mean() < 1.0
        return
    point = search.table.for_drop(limit)
    assert (taken != strong).mean() == pytest.approx(point.cost_advantage, abs=1e-12)
    assert 100.0 * loss / abs(realised[:, strong].mean()) == pytest.approx(point.drop, abs=1e-9)
    if limit == 60.0:
        assert point.cost_advantage == 1.0
    plain = quality - cost_weight * cost + rule.bonus(cost, cost_weight)
    np.testing.assert_allclose(rule.utility(quality, np.tile(cost, (900, 1)), cost_weight), plain, atol=1e-12)


@pytest.mark.parametrize("drop", [2.0, RiskLevel(risk=0.2)], ids=["per cent", "risk"])
def test_a_cost_weight_that_is_set_after_the_fit_is_refused_where_a_drop_is_kept(drop):
    X, quality, cost = easy_and_hard(600)
    router = HybridRouter(quality_drop=drop, cost_weight=0.01).fit(X, quality, cost=cost)
    assert router.fixed_cost_weight_ == 0.01
    router.predict(X)
    router.set_params(cost_weight=0.05)
    for call in (router.predict, router.predict_utility, router.route, router.decision_function):
        with pytest.raises(
            RouterInputError,
            match=r"HybridRouter: cost_weight was 0\.01 in fit and is 0\.05; quality_drop is kept at the first alone, and another",
        ):
            call(X)
    # Thresholds have no say under a limit.
    assert router.route(X, limit=Budget(mean_cost=4.0)).expected_cost <= 4.0 + 1e-9
    assert router.fit(X, quality, cost=cost).fixed_cost_weight_ == 0.05
    without = HybridRouter(quality_drop=drop).fit(X, quality).set_params(cost_weight=0.05)
    assert without.fixed_cost_weight_ is None
    assert set(without.predict(X)) == {0, 1}
    assert HybridRouter(threshold=0.5).fit(X, quality, cost=cost).fixed_cost_weight_ is None
    one, price = ArmMatrix(quality[:, :1], ["only"]), ArmMatrix(cost[:, :1], ["only"])
    alone = HybridRouter(quality_drop=drop).fit(X, one, cost=price).set_params(cost_weight=0.05)
    assert set(alone.predict(X)) == {"only"}


# Several arms, and arms without anything to learn


def test_every_weak_arm_has_its_own_margin_against_the_strongest():
    X, answers = sampled()
    answers = {"large": answers["large"], "small": answers["small"], "tiny": answers["small"] - 0.2}
    router = HybridRouter().fit(X, answers)
    assert router.strong_ == "large"
    wanted = [0.0, *(best_margin(answers[name], answers["large"]).margin for name in ("small", "tiny"))]
    assert router.margin_.tolist() == wanted
    assert wanted[2] == pytest.approx(wanted[1] + 0.2)
    assert router.threshold_table_.threshold[-1] == np.inf


def test_the_strong_arm_can_be_named():
    X, answers = sampled()
    router = HybridRouter(strong="small").fit(X, answers)
    assert router.strong_ == "small"
    assert router.predict_sufficient(X)[:, 0].tolist() == [1.0] * 400
    with pytest.raises(RouterInputError, match="strong names the arm 'huge', which y does not have; it has"):
        HybridRouter(strong="huge").fit(X, answers)


def test_of_equally_good_arms_the_dearest_is_the_strong_one():
    X = np.zeros((4, 1))
    router = HybridRouter().fit(X, np.full((4, 3), 0.5), cost=np.tile([1.0, 3.0, 2.0], (4, 1)))
    assert router.strong_ == 1
    assert router.spread_.tolist() == [0.0] * 3
    assert router.predict(X).tolist() == [0] * 4


def test_where_the_small_arm_is_always_better_it_takes_all():
    X, answers = sampled(50)
    router = HybridRouter(strong="large").fit(X, {"small": answers["small"] + 2.0, "large": answers["large"]})
    assert (router.predict_sufficient(X) == 1.0).all()
    assert set(router.predict(X)) == {"small"}
    never = HybridRouter().fit(X, {"small": answers["small"] - 9.0, "large": answers["large"] * 0.0})
    assert set(never.predict(X)) == {"large"}


def test_an_arm_with_one_and_the_same_outcome_and_queries_without_any():
    X, answers = sampled(200)
    table = np.column_stack([values.mean(axis=1) for values in answers.values()])
    table[:, 0] = 0.8
    table[::10] = np.nan
    router = HybridRouter().fit(X, table)
    assert np.isfinite(router.predict_quality(X)).all()
    assert router.n_labelled_.tolist() == [180, 180]
    assert router.predict_quality(X)[:, 0].mean() == pytest.approx(0.8, abs=0.01)


def test_a_bandit_log_has_no_pair_and_predicts_means():
    X, answers = sampled(100)
    table = np.column_stack([values.mean(axis=1) for values in answers.values()])
    table[np.arange(100), np.arange(100) % 2] = np.nan
    router = HybridRouter().fit(X, table, propensity=np.full(100, 0.5))
    assert router.n_labelled_.tolist() == [0, 50]
    assert (router.predict_sufficient(X)[:, 0] == 0.5).all()
    np.testing.assert_allclose(router.predict_quality(X), np.tile(np.nanmean(table, axis=0), (100, 1)))
    with pytest.warns(MissingPropensityWarning):
        HybridRouter().fit(X, table)


def test_partly_observed_pairs_count_by_their_inverse_propensity():
    X, answers = sampled(200, samples=(1, 1))
    table = ArmMatrix(np.column_stack([values.mean(axis=1) for values in answers.values()] * 2)[:, :3], ["a", "b", "c"])
    table[::2, 2] = np.nan
    chance = np.where(np.arange(200) % 2, 1.0, 0.5)
    weighted = HybridRouter(tol=1e-10).fit(X, table, propensity=chance)
    repeated = HybridRouter(tol=1e-10).fit(X, table, sample_weight=1 / chance)
    np.testing.assert_allclose(weighted.predict_sufficient(X), repeated.predict_sufficient(X), atol=1e-8)
    assert weighted.margin_.tolist() == repeated.margin_.tolist()


# Limits


def test_a_budget_and_a_share_are_met_by_the_tuned_router():
    X, answers = sampled(600)
    quality = ArmMatrix(np.column_stack([values.mean(axis=1) for values in answers.values()]), ["small", "large"])
    cost = ArmMatrix(priced(600), ["small", "large"])
    fresh, _ = sampled(3000, seed=2)
    tuned = TunedRouter(HybridRouter(), limit=Budget(mean_cost=0.4)).fit(X, quality, cost=cost)
    assert tuned.operating_point_.mean_cost <= 0.4 + 1e-12
    # One standard deviation of the share: at most .022.
    assert tuned.route(fresh, random_state=0).cost.mean() == pytest.approx(0.4, abs=0.09)
    shared = TunedRouter(HybridRouter(), limit=Share("large", at_most=0.25)).fit(X, quality, cost=cost)
    assert (shared.predict(fresh) == "large").mean() == pytest.approx(0.25, abs=0.1)
    target = TunedRouter(HybridRouter(), limit=QualityTarget(0.88)).fit(X, quality, cost=cost)
    assert target.operating_point_.mean_quality >= 0.88 - 1e-9
    easy = fresh[:, 0] < 0
    assert (tuned.predict(fresh)[easy] == "small").mean() > (tuned.predict(fresh)[~easy] == "small").mean() + 0.3


def test_with_a_risk_level_the_loss_is_kept_at_its_confidence():
    # At this confidence a single run fails with probability below 1e-5.
    rng = np.random.default_rng(4)

    def draw(n):
        X = rng.normal(size=(n, 2))
        small = rng.random(n) < 1 / (1 + np.exp(X[:, 0] * 2 - 1))
        large = rng.random(n) < 0.9
        return X, np.column_stack([small, large]).astype(float)

    X, quality = draw(6000)
    tuned = TunedRouter(HybridRouter(), limit=RiskLevel(risk=0.08, level=1 - 1e-5)).fit(X, quality, cost=priced(6000))
    fresh, outcomes = draw(40_000)
    small = tuned.predict(fresh) == 0
    lost = outcomes[:, 1].mean() - np.where(small, outcomes[:, 0], outcomes[:, 1]).mean()
    assert lost <= 0.08
    assert small.mean() > 0.3  # and the guarantee is not bought by calling the large arm everywhere
    assert tuned.operating_point_.price > 0.0


def test_a_risk_level_is_kept_with_several_answers_and_without_costs():
    X, answers = sampled(3000)
    level = RiskLevel(risk=0.05, level=1 - 1e-5)
    router = HybridRouter(quality_drop=level).fit(X, answers)
    fresh, outcomes = sampled(40_000, seed=8)
    realised = np.column_stack([values.mean(axis=1) for values in outcomes.values()])
    small = router.predict(fresh) == "small"
    assert realised[:, 1].mean() - np.where(small, realised[:, 0], realised[:, 1]).mean() <= 0.05
    assert small.mean() > 0.5
    np.testing.assert_array_equal(small, router.predict_sufficient(fresh)[:, 0] >= router.threshold_[0])
    # The same test of the same frontier as the tuned router's, where a call of the strong arm costs one dollar.
    means = np.column_stack([values.mean(axis=1) for values in answers.values()])
    one = HybridRouter("probabilistic", quality_drop=level).fit(X, means)
    tuned = TunedRouter(HybridRouter("probabilistic"), limit=level).fit(X, means, cost=np.tile([0.0, 1.0], (3000, 1)))
    assert (one.predict(fresh) == tuned.predict(fresh)).mean() > 0.97
    with pytest.raises(InfeasibleLimitError, match=r"RiskLevel\(risk=0, level=0.95\): even at price 0"):
        HybridRouter(quality_drop=RiskLevel(risk=0.0)).fit(X[:20], {k: v[:20] for k, v in answers.items()})
    means[0, 0] = np.nan
    with pytest.raises(RouterInputError, match="a RiskLevel needs outcomes that were observed in full; 1 are not"):
        HybridRouter(quality_drop=RiskLevel(risk=0.1)).fit(X, means)


def test_a_batch_keeps_capacities_and_shares():
    X, answers = sampled(200)
    router = HybridRouter(quality_drop=1.0).fit(X, answers, cost=priced(200))
    assert (router.route(X, limit=Capacity({"large": 20})).arm == 1).sum() <= 20
    assert router.route(X, limit=Share("small", at_least=0.9)).load[0] >= 0.9 - 1e-12
    assert router.route(X, limit=Budget(mean_cost=0.2)).expected_cost <= 0.2 + 1e-12


def test_it_is_evaluated_like_every_router():
    X, answers = sampled(300)
    quality = np.column_stack([values.mean(axis=1) for values in answers.values()])
    log = OutcomeLog.from_arrays(X, quality, arms=["small", "large"], cost=priced(300))
    router = HybridRouter(quality_drop=2.0).fit(log.X[:200], log.quality[:200], cost=log.cost[:200])
    assert evaluate(router, log).policy.sum(axis=0).tolist() == [
        (router.predict(X) == arm).sum() for arm in ("small", "large")
    ]


# Around it


def test_equal_queries_are_held_out_together_however_they_are_stored():
    rng = np.random.default_rng(0)
    X = np.round(rng.normal(size=(60, 5)), 1) * (rng.random((60, 5)) < 0.5)
    X = np.vstack([X, X[:20], -0.0 * X[:1]])
    codes = query_codes(X)
    np.testing.assert_array_equal(codes[:20], codes[60:80])
    assert len(np.unique(codes)) == len(np.unique(X + 0.0, axis=0))
    for other in (sparse.csr_matrix(X), sparse.csr_array(X), X.astype(np.float32), np.asfortranarray(X)):
        np.testing.assert_array_equal(query_codes(other), codes)
    folds = query_folds(codes, 5)
    np.testing.assert_array_equal(folds[:20], folds[60:80])
    counts = np.bincount(folds[np.unique(codes, return_index=True)[1]])
    assert len(counts) == 5
    assert np.ptp(counts) <= 1


def test_folds_may_be_given():
    X, answers = sampled(100)
    by_splitter = HybridRouter(cv=KFold(3)).fit(X, answers)
    by_list = HybridRouter(cv=list(KFold(3).split(X))).fit(X, answers)
    np.testing.assert_array_equal(by_splitter.threshold_table_.threshold, by_list.threshold_table_.threshold)
    groups = np.repeat(np.arange(20), 5)
    by_group = HybridRouter(cv=4).fit(X, answers, groups=groups)
    parts = [
        (np.flatnonzero(folds != k), np.flatnonzero(folds == k)) for folds in [query_folds(groups, 4)] for k in range(4)
    ]
    np.testing.assert_array_equal(
        by_group.threshold_table_.threshold, HybridRouter(cv=parts).fit(X, answers).threshold_table_.threshold
    )


def test_equal_queries_of_several_groups_are_held_out_together():
    X, answers = sampled(100, samples=(1, 1))
    X[50:] = X[:50]
    apart = HybridRouter(cv=4).fit(X, answers, groups=np.arange(100))
    together = HybridRouter(cv=4).fit(X, answers, groups=np.tile(np.arange(50), 2))
    np.testing.assert_array_equal(apart.threshold_table_.threshold, together.threshold_table_.threshold)


def test_texts_sparse_tables_and_searches():
    texts = [f"add {k} and {k}" for k in range(30)] + [f"prove theorem {k}" for k in range(30)]
    hard = np.repeat([0.0, 1.0], 30)[:, None]
    rng = np.random.default_rng(0)
    answers = {"small": 0.9 - 0.7 * hard + rng.normal(0, 0.05, (60, 4)), "large": 0.9 + rng.normal(0, 0.05, (60, 4))}
    router = make_pipeline(TfidfVectorizer(), HybridRouter()).fit(texts, answers, cost=priced(60))
    assert router.predict(["add 99 and 1", "prove theorem 99"]).tolist() == ["small", "large"]
    cube = np.stack(list(answers.values()), axis=1)
    X = TfidfVectorizer().fit_transform(texts)
    search = GridSearchCV(HybridRouter(), {"label": ["transformed", "deterministic"]}, cv=3).fit(X, cube)
    assert search.best_score_ > 0.8
    assert np.isfinite(cross_val_score(HybridRouter(), X, cube, cv=3)).all()
    with pytest.raises(RouterInputError, match="HybridRouter needs queries as a table of numbers, got list"):
        HybridRouter().fit(texts, answers)


@pytest.mark.parametrize("estimator", ["linear", "mlp", LogisticRegression()], ids=["linear", "mlp", "classifier"])
def test_it_comes_back_the_same_from_a_file(estimator):
    X, answers = sampled(80)
    router = HybridRouter(estimator=estimator, quality_drop=1.0, max_epochs=2, cv=2, random_state=0)
    router.fit(X, answers, cost=priced(80))
    loaded = model_from_bytes(model_bytes(router))
    np.testing.assert_array_equal(loaded.predict_utility(X), router.predict_utility(X))
    np.testing.assert_array_equal(loaded.predict_sufficient(X), router.predict_sufficient(X))
    assert loaded.threshold_table_.for_drop(1.0) == router.threshold_table_.for_drop(1.0)
    assert loaded.predict(X).tolist() == router.predict(X).tolist()


def test_what_was_sampled_is_not_kept():
    X, answers = sampled(40)
    assert not any(hasattr(HybridRouter().fit(X, answers), name) for name in ("_answers", "_groups"))


def test_it_is_never_worse_than_the_strong_arm_where_nothing_can_be_learned():
    rng = np.random.default_rng(9)
    X, quality = rng.normal(size=(500, 5)), (rng.random((500, 2)) < [0.5, 0.8]).astype(float)
    router, single = HybridRouter().fit(X, quality), SingleArm().fit(X, quality)
    assert (router.predict(X) == single.predict(X)).mean() > 0.95


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "sigmoid"}, "label must be one of 'transformed', 'probabilistic', 'deterministic', got 'sigmoid'"),
        ({"margin": -0.1}, "margin must be a finite number >= 0 or None, got -0.1"),
        ({"margin": 0.1, "label": "probabilistic"}, "margin belongs to label='transformed', got it with label='prob"),
        ({"threshold": np.inf}, "threshold must be a finite number or None, got inf"),
        ({"threshold": "half"}, "threshold must be a finite number or None, got 'half'"),
        ({"quality_drop": -1.0}, "HybridRouter: a quality drop must be a finite number of per cent >= 0, got -1.0"),
        ({"quality_drop": 1.0, "threshold": 0.5}, "threshold and quality_drop both set the threshold; give one"),
        ({"cv": 1}, "cv must be an integer >= 2, a splitter or a list of splits, got 1"),
        ({"cv": True}, "cv must be an integer >= 2, a splitter or a list of splits, got True"),
        (
            {"cv": [([0], [1])]},
            "must hold every query out exactly once; 39 are in no test part or in several, .* row 0",
        ),
        ({"cv": [([0], [99])]}, "cv is a list of splits of other queries than the 40 of this fit"),
        ({"estimator": "forest"}, "estimator must be 'linear', 'mlp', a torch module or a scikit-learn classifier"),
        ({"estimator": Perceptron()}, "the classifier Perceptron has no predict_proba"),
        ({"estimator": KNeighborsClassifier()}, "the classifier KNeighborsClassifier takes no sample_weight"),
        ({"C": 0.0}, "C must be a finite number > 0, got 0.0"),
    ],
)
def test_wrong_options_are_named(options, message):
    X, answers = sampled(40)
    with pytest.raises(RouterInputError, match=message):
        HybridRouter(**options).fit(X, answers)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ({}, "y is a mapping without arms"),
        ({"a": [0.5, 0.5], "b": [0.5]}, "arm 'b' has 1 rows where the first has 2"),
        ({"a": [0.5, np.inf], "b": [0.5, 0.5]}, r"y\['a'\]: 1 values are infinite, the first in row 1, sample 0"),
        ({"a": ["x", "y"], "b": [0.5, 0.5]}, r"y\['a'\] must be numbers, got dtype"),
        ({"a": [[0.5, 0.1], [0.5]], "b": [0.5, 0.5]}, r"y\['a'\] must be a table with as many samples in every row"),
        (
            {"a": np.zeros((2, 1, 1)), "b": [0.5, 0.5]},
            r"y\['a'\] must have shape \(n,\) or \(n, samples\), got \(2, 1, 1\)",
        ),
        (np.zeros((2, 2, 0)), r"y of shape \(2, 2, 0\) has no arm or no sample"),
        (np.zeros((3, 2, 2)), "X has 2 rows, y has 3"),
        ({"a": [np.nan, np.nan], "b": [0.5, 0.5]}, "1 of 2 arms have no observed quality, the first is 'a'"),
    ],
)
def test_wrong_answers_are_named(y, message):
    with pytest.raises(RouterInputError, match=message):
        HybridRouter().fit(np.zeros((2, 1)), y)


def test_embeddings_of_another_width_are_refused():
    X, answers = sampled(40)
    router = HybridRouter().fit(X, answers)
    with pytest.raises(ValueError, match="X has 2 features, but HybridRouter is expecting 3 features"):
        router.predict_sufficient(X[:, :2])
