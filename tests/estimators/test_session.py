"""Routing conversations: the router inside where nothing is known, closed cases, an ordinary loop, plans, and refusals."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer

from defer import Arm, OutcomeLog, Portfolio, Price
from defer.estimators import (
    ClusterRouter,
    HybridRouter,
    KNNRouter,
    QualityRouter,
    SingleArm,
    SoftLabelRouter,
    TunedRouter,
    make_pipeline,
)
from defer.estimators.base import BaseRouter
from defer.estimators.session import SessionRouter
from defer.exceptions import InfeasibleLimitError, PortfolioError, RouterInputError
from defer.model_file import model_bytes, model_from_bytes
from defer.portfolios.arm_matrix import ArmMatrix
from defer.portfolios.limits import Budget, Share
from defer.portfolios.prompt_cache import CacheTerms, SessionState

# Example prices in US dollars per million tokens, of the size that providers quote.
PORTFOLIO = Portfolio([
    Arm("small", price=Price.per_million(0.15, 0.6, cached_input_tokens=0.075)),
    Arm("large", price=Price.per_million(3.0, 15.0, cached_input_tokens=0.3)),
])  # fmt: skip


class Told(BaseRouter):
    """Predicts the first columns of X as qualities, and the others as costs."""

    def __init__(self, *, cost_weight: float = 0.0) -> None:
        self.cost_weight = cost_weight

    def _fit(self, X: Any, outcomes: Any) -> None:
        self.m_ = len(self.arms_)

    def _predict_quality(self, X: Any) -> np.ndarray:
        return np.array(X[:, : self.m_])

    def _predict_cost(self, X: Any) -> np.ndarray:
        return np.array(X[:, self.m_ :])


def told(
    quality: Any, cost: Any = None, *, cost_weight: float = 0.0, arms: Any = None, **options: Any
) -> tuple[Any, Any]:
    """A session router whose predictions are those given, and queries for which it makes them."""
    quality = np.asarray(quality, dtype=float)
    X = np.hstack([quality, np.zeros_like(quality) if cost is None else np.broadcast_to(cost, quality.shape)])
    names = arms or list("abcde"[: quality.shape[1]])
    table = ArmMatrix(np.ones((len(X), quality.shape[1])), arms=names)
    return SessionRouter(Told(cost_weight=cost_weight), **options).fit(X, table, cost=table), X


INSIDE = {
    "quality": lambda: QualityRouter(cost_weight=3.0),
    "neighbours": lambda: KNNRouter(5, cost="neighbors"),
    "single": SingleArm,
    "tuned": lambda: TunedRouter(QualityRouter(), limit=Budget(mean_cost=0.008), cv=3),
    "share": lambda: TunedRouter(QualityRouter(), limit=Share("large", at_most=0.3), cv=3),
}


@pytest.mark.parametrize("name", INSIDE)
def test_without_costs_of_change_it_is_the_router_inside(name: str, full_log: Any) -> None:
    quality, cost = (ArmMatrix(table, arms=full_log.arms) for table in (full_log.quality, full_log.cost))
    inside = INSIDE[name]().fit(full_log.X, quality, cost=cost)
    for router in (SessionRouter(INSIDE[name]()).fit(full_log.X, quality, cost=cost), SessionRouter.around(inside)):
        ids = (np.arange(200) // 7).tolist()
        assert router.cost_weight == inside.cost_weight
        np.testing.assert_array_equal(router.predict(full_log.X), inside.predict(full_log.X))
        np.testing.assert_array_equal(router.predict_utility(full_log.X), inside.predict_utility(full_log.X))
        np.testing.assert_array_equal(router.route(full_log.X, session=ids).label, inside.predict(full_log.X))
        np.testing.assert_array_equal(
            router.route(full_log.X, last_arm=["small"] * 200).label, inside.predict(full_log.X)
        )
        drawn = [which.route(full_log.X, random_state=3) for which in (router, inside)]
        np.testing.assert_array_equal(drawn[0].arm, drawn[1].arm)
        assert router.score(full_log.X, quality, cost=cost) == inside.score(full_log.X, quality, cost=cost)


def by_hand(
    quality: Any, cost: Any, names: list[Any], tokens: Any, weight: float, switch: float, discount: Any, price: Any
) -> list[int]:
    """One turn after the other, as a reader of the docstring would write it."""
    last: dict[Any, int] = {}
    sent: dict[tuple[Any, int], float] = {}
    arms = []
    for row, name in enumerate(names):
        utility = []
        for arm in range(quality.shape[1]):
            saved = discount[arm] * min(sent.get((name, arm), 0.0), tokens[row])
            hop = name in last and last[name] != arm
            fresh = max(cost[row, arm], price[arm] * tokens[row])  # what the prompt itself costs, at least
            utility.append(quality[row, arm] - weight * (fresh - saved) - switch * hop)
        taken = int(np.argmax(utility))
        if name in last and utility[last[name]] >= max(utility):
            taken = last[name]
        arms.append(taken)
        last[name], sent[name, taken] = taken, tokens[row]
    return arms


@pytest.mark.parametrize("seed", range(6))
def test_turns_are_routed_as_one_after_the_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    quality, cost = rng.uniform(size=(80, 3)), rng.uniform(0.001, 0.02, size=(80, 3))
    names, tokens = rng.integers(9, size=80).tolist(), rng.uniform(0, 5000, size=80)
    discount, price = [1e-6, 2.7e-6, 0.0], [1e-6, 2.7e-6, 0.0]
    options: dict[str, Any] = {"cost_weight": 30.0, "switch_cost": 0.05, "token_discount": discount}
    if seed % 2:
        options["token_price"] = price = [2e-6, 3e-6, 1e-6]
    router, X = told(quality, cost, **options)
    routing = router.route(X, session=names, input_tokens=tokens)
    assert routing.arm.tolist() == by_hand(quality, cost, names, tokens, 30.0, 0.05, discount, price)
    # Query by query, with the state handed on, it comes to the same.
    state, arms = None, []
    for row in range(80):
        one = router.route(X[[row]], session=[names[row]], input_tokens=tokens[[row]], state=state)
        state = one.state
        arms.append(int(one.arm[0]))
        np.testing.assert_allclose(one.utility[0], routing.utility[row])
        np.testing.assert_allclose(one.predicted_cost[0], routing.predicted_cost[row])
        assert one.hop[0] == routing.hop[row]
    assert arms == routing.arm.tolist()
    assert (routing.predicted_cost >= 0).all()
    assert (routing.cached_tokens > 0).any()


def test_a_conversation_changes_arms_only_for_a_gain_above_the_cost() -> None:
    quality = [[0.9, 0.5], [0.5, 0.7], [0.5, 0.75], [0.5, 0.76]]
    for switch_cost, arms in ((0.0, [0, 1, 1, 1]), (0.2, [0, 1, 1, 1]), (0.25, [0, 0, 0, 1]), (9.0, [0, 0, 0, 0])):
        router, X = told(quality, switch_cost=switch_cost + 1e-12)
        if switch_cost == 0.2:
            arms = [0, 0, 1, 1]  # a gain of .2 is none beyond the cost
        routing = router.route(X, session=["s"] * 4)
        assert routing.arm.tolist() == arms
        assert routing.hop.tolist() == [False, *(np.diff(arms) != 0).tolist()]


def test_ties_stay_where_they_are() -> None:
    router, X = told([[0.5, 0.9], [0.75, 0.5], [0.75, 0.5]], [[1.0, 2.0]] * 3, switch_cost=0.25)
    assert router.route(X, session=[1, 1, 1]).arm.tolist() == [1, 1, 1]
    assert router.route(X[1:], last_arm=["b", None]).arm.tolist() == [1, 0]


@pytest.mark.parametrize("seed", range(5))
def test_at_an_enormous_cost_no_conversation_ever_changes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    router, X = told(rng.uniform(size=(60, 4)), switch_cost=1e9)
    names = rng.integers(6, size=60)
    routing = router.route(X, session=names)
    assert not routing.hop.any()
    for name in range(6):
        assert set(routing.label[names == name]) == {router.predict(X[names == name])[0]}


def test_changes_with_two_arms_fall_with_their_cost_and_with_three_they_may_not() -> None:
    rng = np.random.default_rng(5)
    quality, names = rng.normal(size=(120, 2)), (np.arange(120) // 12).tolist()
    counts = []
    for cost in (0.0, 0.2, 0.5, 1.0, 2.0, 5.0):
        router, X = told(quality, switch_cost=cost)
        counts.append(int(router.route(X, session=names).hop.sum()))
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[2] > counts[-1]
    three = [[1.0, 0.0, 2.0], [2.0, 3.0, 2.0], [3.0, 3.0, 0.0], [0.0, 3.0, 3.0]]
    changes = []
    for cost in (0.5, 1.5):
        router, X = told(three, switch_cost=cost)
        changes.append(int(router.route(X, session=[0] * 4).hop.sum()))
    assert changes == [1, 2]


def test_a_plan_is_never_worse_than_turn_by_turn_and_sometimes_better() -> None:
    rng = np.random.default_rng(11)
    better = 0
    for _ in range(25):
        quality, cost = rng.uniform(size=(16, 3)), rng.uniform(0.001, 0.02, size=(16, 3))
        names, tokens = (np.arange(16) % 2).tolist(), np.repeat(np.cumsum(rng.uniform(100, 900, size=8)), 2)
        router, X = told(quality, cost, cost_weight=20.0, switch_cost=0.3, token_discount={"b": 2.7e-6, "c": 1e-6})
        known = {"session": names, "input_tokens": tokens}
        greedy, plan = router.route(X, **known), router.plan(X, **known)
        totals = [routing.utility[np.arange(16), routing.arm].sum() for routing in (greedy, plan)]
        assert totals[1] >= totals[0] - 1e-12
        better += totals[1] > totals[0] + 1e-9
        assert plan.cached_tokens.shape == (16, 3)
    assert better > 5


def test_the_prefix_that_an_arm_holds_keeps_a_conversation_there() -> None:
    quality = [[0.0, 0.9], [0.8, 0.84], [0.8, 0.84]]
    tokens = np.array([10_000.0, 11_000.0, 12_000.0])
    cost = PORTFOLIO.cost(input_tokens=tokens, output_tokens=200)
    options = {"cost_weight": 2.0, "arms": list(PORTFOLIO.names), "token_discount": PORTFOLIO.cache_discount}
    router, X = told(quality, cost, **options)
    assert router.route(X).label.tolist() == ["large", "small", "small"]
    routing = router.route(X, session=["s"] * 3, input_tokens=tokens)
    assert routing.label.tolist() == ["large", "large", "large"]
    assert routing.cached_tokens.tolist() == [[0, 0], [0, 10_000], [0, 11_000]]
    held = PORTFOLIO.cost(input_tokens=tokens, output_tokens=200, cached_tokens=routing.cached_tokens)
    np.testing.assert_allclose(routing.predicted_cost, held)
    # Half an hour later nothing is left, and what is told of the caches goes before what would follow.
    late = SessionRouter.around(router.router_, token_discount=PORTFOLIO.cache_discount, lifetime_s=300.0)
    assert late.route(X, session=["s"] * 3, input_tokens=tokens, time=[0, 1800, 3600]).label[1] == "small"
    assert late.route(X, session=["s"] * 3, input_tokens=tokens, time=[0, 200, 500]).label.tolist() == ["large"] * 3
    assert router.route(X, session=["s"] * 3, cached_tokens=np.zeros((3, 2))).label[1] == "small"
    assert router.route(X[[1]], cached_tokens=[[0, 10_000]]).label.tolist() == ["large"]
    terms = SessionRouter.around(
        router.router_, token_discount=PORTFOLIO.cache_discount, least_prefix=10_001, block=128
    )
    assert terms.route(X, session=["s"] * 3, input_tokens=tokens).cached_tokens.tolist() == [
        [0, 0],
        [0, 0],
        [10_880, 0],
    ]
    assert terms._terms() == CacheTerms(None, 10_001, 128)


def logged_means(**options: Any) -> SessionRouter:
    """Two arms of one price, which predict the mean of a log of short prompts; what they answer costs a tenth of a cent."""
    cost = 3e-6 * 1000 + np.array([0.001, 0.001])
    router = SessionRouter(QualityRouter(cost_weight=1.0), token_discount=[2.7e-6, 2.7e-6], **options)
    return router.fit(np.zeros((50, 1)), np.tile([0.80, 0.81], (50, 1)), cost=np.tile(cost, (50, 1)))


@pytest.mark.parametrize("options", [{}, {"token_price": [3e-6, 3e-6]}])
def test_a_prompt_far_longer_than_those_of_the_log_stays_where_it_is_cached(options: dict[str, Any]) -> None:
    """The mean of the log is 0.4 cents, and of 100,000 tokens 90,000 are cached: to hop pays 24 cents for a gain of .01."""
    state = SessionState.start(["s"], 2).after(np.array([0]), [0], input_tokens=[90_000.0], time=[0.0])
    true_utility = np.array([0.80 - 0.057 - 0.001, 0.81 - 0.300 - 0.001])
    for router in (logged_means(**options), SessionRouter.around(logged_means().router_, token_discount=[2.7e-6] * 2)):
        routed = router.route([[0.0]], session=["s"], input_tokens=[100_000.0], state=state)
        told_tokens = router.route([[0.0]], input_tokens=[100_000.0], cached_tokens=[[90_000.0, 0.0]])
        for routing in (routed, told_tokens):
            assert routing.arm[0] == true_utility.argmax() == 0
            assert np.ptp(routing.predicted_cost) == pytest.approx(0.243)
        # A prompt is at least as long as what is cached of it.
        assert router.route([[0.0]], cached_tokens=[[90_000.0, 0.0]]).arm[0] == 0
    if options:
        assert routed.predicted_cost[0] == pytest.approx([0.027, 0.27])
        assert logged_means(**options).route(
            [[0.0]], session=["s"], input_tokens=[100_000.0], state=state
        ).predicted_cost[0] == pytest.approx([0.057, 0.300])


def test_known_prices_and_tokens_of_the_log_give_the_cost_by_prices() -> None:
    """Mean costs: what is left of a mean after its input tokens is the mean of the output, and the prompt has its own price."""
    rng = np.random.default_rng(3)
    n, names = 400, list(PORTFOLIO.names)
    tokens, answers = rng.uniform(100, 4000, size=n), rng.uniform(10, 900, size=(n, 2))
    weight, seen = rng.integers(1, 4, size=n).astype(float), rng.random((n, 2)) < 0.7
    seen[0] = True
    cost = np.where(seen, PORTFOLIO.cost(input_tokens=tokens, output_tokens=answers), np.nan)
    quality = np.where(seen, rng.random((n, 2)), np.nan)
    prices = {arm.name: arm.price.per_input_token for arm in PORTFOLIO}
    discount = dict(zip(names, PORTFOLIO.cache_discount, strict=True))
    router = SessionRouter(QualityRouter(cost_weight=2.0), token_price=prices, token_discount=discount)
    X, table = np.zeros((n, 1)), ArmMatrix(quality, arms=names)
    router.fit(X, table, cost=ArmMatrix(cost, arms=names), sample_weight=weight, input_tokens=tokens)
    means = [np.average(tokens[one], weights=weight[one]) for one in seen.T]
    np.testing.assert_allclose(router.mean_input_tokens_, means)
    out = [np.average(part[one], weights=weight[one]) for part, one in zip(answers.T, seen.T, strict=True)]
    asked = np.array([50.0, 2000.0, 60_000.0])
    routing = router.route(np.zeros((3, 1)), session=["s"] * 3, input_tokens=asked)
    held = routing.cached_tokens
    assert held.any()
    np.testing.assert_allclose(
        routing.predicted_cost,
        PORTFOLIO.cost(input_tokens=asked, output_tokens=np.tile(out, (3, 1)), cached_tokens=held),
    )
    np.testing.assert_allclose(
        routing.utility, routing.predicted_quality - 2.0 * routing.predicted_cost, rtol=0, atol=1e-12
    )
    around = SessionRouter.around(router.router_, mean_input_tokens=means, token_price=prices, token_discount=discount)
    again = around.route(np.zeros((3, 1)), session=["s"] * 3, input_tokens=asked)
    np.testing.assert_allclose(again.predicted_cost, routing.predicted_cost)
    # A prompt of the mean length costs the mean, and less than its input tokens no prediction counts for.
    mean = router.route(np.zeros((1, 1)), last_arm=[None], input_tokens=[router.mean_input_tokens_[0]])
    assert mean.predicted_cost[0, 0] == router.mean_cost_[0]


def test_predictions_of_the_query_are_taken_for_this_prompt() -> None:
    tokens = np.array([1000.0, 9000.0])
    cost = PORTFOLIO.cost(input_tokens=tokens, output_tokens=100)
    router, X = told(
        [[0.5, 0.6]] * 2, cost, arms=list(PORTFOLIO.names), token_price=[0.15e-6, 3e-6],
        token_discount=PORTFOLIO.cache_discount,
    )  # fmt: skip
    router.mean_input_tokens_ = np.array([10.0, 10.0])
    held = np.array([[0.0, 0.0], [0.0, 8000.0]])
    routing = router.route(X, input_tokens=tokens, cached_tokens=held)
    expected = PORTFOLIO.cost(input_tokens=tokens, output_tokens=100, cached_tokens=held)
    np.testing.assert_allclose(routing.predicted_cost, expected)


def test_a_budget_counts_the_prompts_that_are_sent() -> None:
    router = logged_means(token_price=[3e-6, 3e-6])
    told_tokens = {"last_arm": [0, 0], "input_tokens": [100_000.0] * 2, "cached_tokens": [[90_000.0, 0.0]] * 2}
    routing = router.route([[0.0]] * 2, limit=Budget(mean_cost=0.1), random_state=0, **told_tokens)
    assert routing.expected_cost <= 0.1 + 1e-12
    with pytest.raises(InfeasibleLimitError):
        router.route([[0.0]] * 2, limit=Budget(mean_cost=0.02), **told_tokens)


def test_a_plan_knows_what_prompts_cost() -> None:
    rng = np.random.default_rng(2)
    router, X = told(
        rng.uniform(size=(5, 2)), np.full((5, 2), 0.001), cost_weight=20.0, token_discount=[2e-6, 1e-6],
        token_price=[3e-6, 2e-6], switch_cost=0.02,
    )  # fmt: skip
    known = {"session": ["s"] * 5, "input_tokens": 2000.0 * np.arange(1, 6)}
    plan = router.plan(X, **known)
    best = -np.inf
    for arms in itertools.product(range(2), repeat=5):
        total, sent = 0.0, [0.0, 0.0]
        for turn, arm in enumerate(arms):
            tokens = known["input_tokens"][turn]
            cost = max(0.001, [3e-6, 2e-6][arm] * tokens) - [2e-6, 1e-6][arm] * min(sent[arm], tokens)
            total += X[turn, arm] - 20.0 * cost - 0.02 * (turn > 0 and arms[turn - 1] != arm)
            sent[arm] = tokens
        best = max(best, total)
    assert plan.utility[np.arange(5), plan.arm].sum() == pytest.approx(best)


def test_an_arm_is_added_to_the_router_inside() -> None:
    rng = np.random.default_rng(0)
    X, quality = rng.normal(size=(60, 2)), rng.random((60, 3))
    cost = np.tile([0.001, 0.002, 0.004], (60, 1))
    inside = KNNRouter(5)
    router = SessionRouter(ClusterRouter(2, random_state=0), switch_cost=0.1, token_discount={"a": 1e-6, "c": 2e-6})
    names = ["a", "b", "c"]
    with pytest.raises(RouterInputError, match="token_discount names 'c', which is no arm of"):
        router.fit(X, ArmMatrix(quality[:, :2], names[:2]), cost=cost[:, :2])
    router.set_params(token_discount={"a": 1e-6}).fit(X, ArmMatrix(quality[:, :2], names[:2]), cost=cost[:, :2])
    router.token_discount = {"a": 1e-6, "c": 2e-6}
    state = router.route(X[:2], session=["s", "t"], input_tokens=[100.0, 100.0]).state
    log = OutcomeLog.from_arrays(X, ArmMatrix(quality, names), arms=names, cost=cost)
    assert router.add_arm("c", log) is router
    assert router.arms_.tolist() == router.router_.arms_.tolist() == names
    assert router.discount_.tolist() == [1e-6, 0.0, 2e-6]
    assert router.mean_cost_.tolist() == pytest.approx([0.001, 0.002, 0.004])
    routing = router.route(X, session=["s"] * 60, input_tokens=np.arange(60) * 100.0)
    assert routing.utility.shape == (60, 3)
    np.testing.assert_array_equal(router.route(X).arm, router.router_.route(X).arm)
    with pytest.raises(RouterInputError, match="state= is of 2 arms, and the router has 3"):
        router.route(X[:1], session=["s"], state=state)
    twin = model_from_bytes(model_bytes(router))
    np.testing.assert_array_equal(twin.route(X, session=["s"] * 60).arm, router.route(X, session=["s"] * 60).arm)
    assert not hasattr(SessionRouter(inside), "add_arm")


def test_several_answers_are_taken_where_the_router_inside_takes_them() -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(80, 2))
    answers = (
        rng.random((80, 2, 4)) < np.column_stack([0.5 + 0.4 * np.sign(X[:, 0]), np.full(80, 0.7)])[:, :, None]
    ).astype(float)
    router = SessionRouter(HybridRouter(strong=1), switch_cost=0.1).fit(X, answers)
    inside = HybridRouter(strong=1).fit(X, answers)
    np.testing.assert_array_equal(router.predict_quality(X), inside.predict_quality(X))
    assert router.score(X, answers) == inside.score(X, answers)
    plain = HybridRouter(strong=1).fit(X, answers.mean(axis=2))
    assert not np.allclose(router.predict_quality(X), plain.predict_quality(X))
    with pytest.raises(
        RouterInputError, match=r"SessionRouter: y has several answers .* \(shape \(80, 2, 4\)\), and Quality"
    ):
        SessionRouter().fit(X, answers)


def test_what_a_router_takes_beside_outcomes_is_handed_on() -> None:
    rng = np.random.default_rng(6)
    X, quality = rng.normal(size=(60, 2)), rng.random((60, 2))
    latency = rng.uniform(0.5, 2.0, size=(60, 2))
    inside = SoftLabelRouter("linear", weights=(1.0, 0.0, 0.5))
    plain = clone(inside).fit(X, quality, latency=latency)
    router = SessionRouter(inside).fit(X, quality, latency=latency, groups=np.arange(60) // 2)
    np.testing.assert_array_equal(router.predict_quality(X), plain.predict_quality(X))
    with pytest.raises(
        RouterInputError, match="SessionRouter: latency= needs a router whose fit takes it, and that of Qual"
    ):
        SessionRouter(QualityRouter()).fit(X, quality, latency=latency)
    # Folds of two kinds of groups give two operating points.
    cost, groups = np.tile([1.0, 2.0], (60, 1)), np.arange(60) // 20
    tuned = TunedRouter(KNNRouter(3), Budget(mean_cost=1.5), cv=3)
    expected = clone(tuned).fit(X, quality, cost=cost, groups=groups).operating_point_
    assert SessionRouter(tuned).fit(X, quality, cost=cost, groups=groups).router_.operating_point_ == expected
    assert clone(tuned).fit(X, quality, cost=cost).operating_point_ != expected
    around = TunedRouter(SessionRouter(KNNRouter(3)), Budget(mean_cost=1.5), cv=3)
    assert around.fit(X, quality, cost=cost, groups=groups).operating_point_ == expected


def test_a_pipeline_hands_turns_to_its_last_step() -> None:
    texts, quality = ["add 1 2", "write a poem", "add 3 4"], np.eye(2)[[0, 1, 0]]
    router = make_pipeline(TfidfVectorizer(), SessionRouter(switch_cost=9.0)).fit(texts, quality)
    assert router.route(texts, session=["s"] * 3).arm.tolist() == [0, 0, 0]
    with pytest.raises(RouterInputError, match="input_tokens= needs session="):
        router.route(texts, input_tokens=[1, 2, 3])
    router.fit(texts, quality, sessionrouter__input_tokens=[10, 20, 30])
    assert router[-1].mean_input_tokens_.tolist() == [20.0, 20.0]


def test_a_limit_holds_for_one_turn_of_every_conversation(full_log: Any) -> None:
    quality, cost = (ArmMatrix(table, arms=full_log.arms) for table in (full_log.quality, full_log.cost))
    router = SessionRouter(QualityRouter(), switch_cost=0.05, token_discount={"large": 1e-6}).fit(
        full_log.X, quality, cost=cost
    )
    last, limit = ["large", "small"] * 100, Budget(mean_cost=0.01)
    routing = router.route(full_log.X, limit=limit, last_arm=last, random_state=0)
    assert routing.expected_cost <= 0.01 + 1e-12
    assert routing.limit is limit
    np.testing.assert_array_equal(routing.hop, routing.label != np.array(last))
    first = router.route(full_log.X, limit=limit, session=range(200), random_state=0)
    np.testing.assert_array_equal(first.arm, router.route(full_log.X, limit=limit, random_state=0).arm)
    assert first.state.last_arm.tolist() == first.arm.tolist()
    with pytest.raises(RouterInputError, match="one turn of every conversation, and session 0 has several"):
        router.route(full_log.X, limit=limit, session=[0] * 200)


def test_conversations_of_texts_and_a_saved_policy() -> None:
    texts = ["add 1 2", "write a poem", "add 3 4", "write a song", "add 5 5", "poem of rain"]
    quality = np.eye(2)[[0, 1, 0, 1, 0, 1]]
    router = SessionRouter(make_pipeline(TfidfVectorizer(), QualityRouter()), switch_cost=0.1, token_discount={1: 1e-6})
    router.fit(texts, quality)
    twin = model_from_bytes(model_bytes(router))
    known = {"session": [1, 1, 1, 2, 2, 2], "input_tokens": [10, 20, 30, 10, 20, 30]}
    one, other = (which.route(texts, **known) for which in (router, twin))
    np.testing.assert_array_equal(one.utility, other.utility)
    np.testing.assert_array_equal(one.arm, other.arm)
    assert clone(router).get_params()["switch_cost"] == 0.1
    wrapped = make_pipeline(TfidfVectorizer(), SessionRouter(switch_cost=9.0)).fit(texts, quality)
    assert wrapped.predict(texts).tolist() == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"switch_cost": -1.0}, RouterInputError, "switch_cost must be a finite number >= 0, got -1.0"),
        ({"switch_cost": np.inf}, RouterInputError, "switch_cost must be a finite number >= 0, got inf"),
        ({"switch_cost": True}, RouterInputError, "switch_cost must be a finite number >= 0, got True"),
        (
            {"token_discount": [1.0]},
            RouterInputError,
            r"token_discount must be 2 finite numbers, one an arm, got \[1.0\]",
        ),
        ({"token_discount": [1.0, np.nan]}, RouterInputError, "token_discount must be 2 finite numbers"),
        (
            {"token_discount": {"z": 1.0}},
            RouterInputError,
            r"token_discount names 'z', which is no arm of \['a', 'b'\]",
        ),
        ({"token_price": "x"}, RouterInputError, "token_price must be 2 finite numbers, one an arm, got 'x'"),
        (
            {"token_price": [1e-6, 1e-6], "token_discount": [0.0, 2e-6]},
            RouterInputError,
            "token_price must be at least token_discount .* for 'b' it is 1e-06 with a discount of 2e-06",
        ),
        ({"token_price": [-1e-6, 0.0]}, RouterInputError, "at least 0 for every arm, and for 'a' it is -1e-06"),
        ({"least_prefix": -1}, RouterInputError, "SessionRouter: least_prefix must be an integer >= 0, got -1"),
        ({"least_prefix": 1.5}, RouterInputError, "SessionRouter: least_prefix must be an integer >= 0, got 1.5"),
        ({"lifetime_s": -1}, PortfolioError, "lifetime_s must be None or a finite number >= 0, got -1"),
        ({"block": 0}, PortfolioError, "block must be an integer >= 1, got 0"),
    ],
)
def test_parameters_are_checked(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        told([[0.5, 0.6]], **options)


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"session": ["s"]}, "session must have one name for each of 2 queries, got 1"),
        ({"session": "st"}, "session must have one name for each of 2 queries, got one str"),
        (
            {"last_arm": ["a", "z"]},
            r"last_arm has 1 of 2 names that are no arm, the first is 'z' in row 1; the arms are",
        ),
        ({"session": [1, 1], "last_arm": ["a", "b"]}, "give session= or last_arm=, not both"),
        ({"state": "x"}, "state= needs session=, the conversation of every query"),
        ({"time": [1.0, 2.0]}, "time= needs session=, the conversation of every query"),
        ({"answer_tokens": [1, 2]}, "answer_tokens= needs session=, the conversation of every query"),
        ({"input_tokens": ["a"]}, r"input_tokens= needs session=.*, or last_arm= or cached_tokens=.*last_arm=\[None"),
        ({"last_arm": ["a", None], "time": [1, 2]}, "time= needs session="),
        ({"session": [1, 1], "state": "x"}, "state= must be the state of an earlier routing, got str"),
        (
            {"session": [1, 1], "input_tokens": ["a", 1]},
            r"input_tokens must be numbers of shape \(2,\), got \['a', 1\]",
        ),
        ({"session": 3}, "session must have one name for each of 2 queries, got one int"),
        ({"session": [[1], 1]}, r"session must be names, .* 1 of 2 are none, the first is \[1\] in row 0"),
        (
            {"last_arm": ["a", "b"], "input_tokens": [5, 5], "cached_tokens": [[1, 2], [3, 9]]},
            r"cached_tokens has 1 of 4 values above input_tokens, .* the first in row 1 \(9 of 5\)",
        ),
        ({"session": [1, 1], "input_tokens": [1]}, r"input_tokens must have shape \(2,\), got \(1,\)"),
        ({"session": [1, 1], "input_tokens": [1, -2]}, r"input_tokens has 1 of 2 values .* the first in row 1 \(-2\)"),
        ({"session": [1, 1], "input_tokens": [1, 2]}, "lifetime_s is set, so time= must say when every turn comes"),
        ({"last_arm": ["a", "b"], "cached_tokens": [[1, 2]]}, r"cached_tokens must have shape \(2, 2\), got \(1, 2\)"),
        ({"session": [1, 1], "time": [2, 1]}, "session 1: the turn in row 1 is earlier than the one before it"),
    ],
)
def test_what_is_told_of_conversations_is_checked(known: dict[str, Any], message: str) -> None:
    router, X = told([[0.5, 0.6]] * 2, lifetime_s=10.0)
    with pytest.raises(RouterInputError, match=message):
        router.route(X, **known)


@pytest.mark.parametrize(
    ("router", "message"),
    [
        ("x", "SessionRouter: router must be a router, or a pipeline of defer.make_pipeline, got 'x'"),
        (
            QualityRouter,
            r"SessionRouter: router must be a router, got the class QualityRouter; write QualityRouter\(\)",
        ),
        (TfidfVectorizer(), "SessionRouter: router must be a router, or a pipeline of defer.make_pipeline, got Tfidf"),
    ],
)
def test_what_is_no_router_is_said(router: Any, message: str) -> None:
    with pytest.raises(RouterInputError, match=message):
        SessionRouter(router).fit([[0.0], [1.0]], [[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(RouterInputError, match=message):
        SessionRouter.around(router)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([1.0], r"input_tokens must have shape \(2,\), got \(1,\)"),
        ([1.0, np.nan], r"input_tokens has 1 of 2 values .* the first in row 1 \(nan\)"),
    ],
)
def test_logged_tokens_are_checked(tokens: list[float], message: str) -> None:
    with pytest.raises(RouterInputError, match=message):
        SessionRouter().fit([[0.0], [1.0]], [[1.0, 0.0], [0.0, 1.0]], input_tokens=tokens)
    fitted = QualityRouter().fit([[0.0], [1.0]], [[1.0, 0.0], [0.0, 1.0]])
    assert SessionRouter.around(fitted, mean_input_tokens=7).mean_input_tokens_.tolist() == [7.0, 7.0]
    with pytest.raises(RouterInputError, match=r"mean_input_tokens has 1 of 2 values .* the first in arm 1 \(-1\)"):
        SessionRouter.around(fitted, mean_input_tokens=[1.0, -1.0])


def test_a_state_belongs_to_as_many_arms() -> None:
    router, X = told([[0.5, 0.6]])
    other, Z = told([[0.5, 0.6, 0.7]])
    state = other.route(Z, session=["s"]).state
    with pytest.raises(RouterInputError, match="state= is of 3 arms, and the router has 2"):
        router.route(X, session=["s"], state=state)


def test_a_budget_needs_costs() -> None:
    router = SessionRouter().fit([[0.0], [1.0]], [[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(RouterInputError, match="Budget needs costs, and this SessionRouter was fitted without cost="):
        router.route([[0.0]], last_arm=[None], limit=Budget(mean_cost=1.0))
