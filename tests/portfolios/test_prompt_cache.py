"""Prompt caches: what arms hold, what turns cost, and plans against brute force over all arms of all turns."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from defer import Arm, Portfolio, Price
from defer.exceptions import PortfolioError
from defer.portfolios import prompt_cache
from defer.portfolios.prompt_cache import CacheTerms, SessionState, plan_turns, session_cost, turns_of

# Example prices in US dollars per million tokens, of the size that providers quote.
PORTFOLIO = Portfolio([
    Arm("small", price=Price.per_million(0.15, 0.6, cached_input_tokens=0.075)),
    Arm("large", price=Price.per_million(3.0, 15.0, cached_input_tokens=0.3)),
    Arm("plain", price=Price.per_million(1.0, 2.0)),
])  # fmt: skip
ONE = np.array([0])


def held(state: SessionState, tokens: float, time: float = 0.0, **terms: Any) -> list[float]:
    return state.cached(ONE, input_tokens=[tokens], time=[time], terms=CacheTerms(**terms))[0].tolist()


def test_an_arm_holds_what_it_was_sent_and_the_others_nothing() -> None:
    start = SessionState.start(["a"], 3)
    state = start.after(ONE, [1], input_tokens=[1000.0], time=[10.0])
    assert held(start, 500.0) == [0.0, 0.0, 0.0]
    assert held(state, 1500.0) == [0.0, 1000.0, 0.0]
    assert held(state, 600.0) == [0.0, 600.0, 0.0]
    later = state.after(ONE, [0], input_tokens=[1500.0], time=[20.0], answer_tokens=[100.0])
    assert held(later, 2000.0) == [1600.0, 1000.0, 0.0]
    assert (start.last_arm.tolist(), state.last_arm.tolist(), later.last_arm.tolist()) == ([-1], [1], [0])


def test_terms_of_a_cache() -> None:
    state = SessionState.start(["a"], 2).after(ONE, [0], input_tokens=[1300.0], time=[10.0])
    assert held(state, 2000.0, block=128) == [1280.0, 0.0]
    assert held(state, 2000.0, least=1301) == [0.0, 0.0]
    assert held(state, 2000.0, least=1300) == [1300.0, 0.0]
    assert held(state, 2000.0, time=310.0, lifetime_s=300) == [1300.0, 0.0]
    assert held(state, 2000.0, time=310.5, lifetime_s=300) == [0.0, 0.0]


def test_conversations_join_and_keep_what_they_had() -> None:
    state = SessionState.start(["a"], 2).after(ONE, [1], input_tokens=[7.0], time=[1.0]).joined_by(["b", "a", "b", "c"])
    assert state.session == ("a", "b", "c")
    assert state.last_arm.tolist() == [1, -1, -1]
    assert state.tokens.tolist() == [[0.0, 7.0], [0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lifetime_s": -1}, "prompt cache: lifetime_s must be None or a finite number >= 0, got -1"),
        ({"lifetime_s": np.nan}, "prompt cache: lifetime_s must be None or a finite number >= 0, got nan"),
        ({"least": 1.5}, "prompt cache: least must be an integer >= 0, got 1.5"),
        ({"block": 0}, "prompt cache: block must be an integer >= 1, got 0"),
        ({"block": True}, "prompt cache: block must be an integer >= 1, got True"),
    ],
)
def test_terms_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PortfolioError, match=message):
        CacheTerms(**options)


def test_turns_are_numbered_by_conversation() -> None:
    assert [rows.tolist() for rows in turns_of(["a", "b", "a", "a", "c"], [0, 5, 0, 7, 1])] == [[0, 1, 4], [2], [3]]
    assert turns_of([]) == []
    with pytest.raises(PortfolioError, match="session 'a': the turn in row 2 is earlier than the one before it"):
        turns_of(["a", "b", "a"], [3, 0, 2])


def test_turns_cost_what_an_ordinary_loop_says() -> None:
    rng = np.random.default_rng(0)
    n = 60
    session = rng.integers(5, size=n).tolist()
    arm = [PORTFOLIO.names[index] for index in rng.integers(3, size=n)]
    tokens, output, time = rng.integers(1, 3000, n), rng.integers(1, 500, n), np.sort(rng.uniform(0, 2000, n))
    sent: dict[tuple[int, str], tuple[int, float]] = {}
    expected = []
    for row in range(n):
        before, then = sent.get((session[row], arm[row]), (0, -np.inf))
        cached = min(before, tokens[row]) // 64 * 64
        cached = cached if cached >= 256 and time[row] - then <= 300.0 else 0
        price = PORTFOLIO[arm[row]].price
        expected.append(price.cost(input_tokens=tokens[row], output_tokens=output[row], cached_tokens=cached))
        sent[session[row], arm[row]] = tokens[row], time[row]
    cost = session_cost(
        PORTFOLIO, arm, session=session, input_tokens=tokens, output_tokens=output, time=time,
        terms=CacheTerms(lifetime_s=300.0, least=256, block=64),
    )  # fmt: skip
    np.testing.assert_allclose(cost, expected)
    assert cost.sum() < session_cost(PORTFOLIO, arm, session=range(n), input_tokens=tokens, output_tokens=output).sum()


def test_a_lifetime_needs_times_and_arms_must_be_there() -> None:
    given = {"session": [1], "input_tokens": [1], "output_tokens": [1]}
    with pytest.raises(PortfolioError, match="a lifetime needs the time= of every turn"):
        session_cost(PORTFOLIO, ["small"], terms=CacheTerms(lifetime_s=1.0), **given)
    with pytest.raises(PortfolioError, match="no arm 'tiny'"):
        session_cost(PORTFOLIO, ["tiny"], **given)


def total(path: Any, utility: np.ndarray, switch_cost: float, gain: np.ndarray | None) -> float:
    value, used = 0.0, {}
    for now, arm in enumerate(path):
        value += utility[now, arm] - (switch_cost if now and arm != path[now - 1] else 0.0)
        if gain is not None and arm in used:
            value += gain[now, used[arm], arm]
        used[arm] = now
    return value


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("caches", [False, True])
def test_a_plan_is_the_best_of_all_paths(seed: int, m: int, caches: bool) -> None:
    rng = np.random.default_rng(seed)
    utility, switch_cost = rng.normal(size=(5, m)), float(rng.uniform(0, 1))
    gain = np.tril(np.ones((5, 5)), -1)[:, :, None] * rng.uniform(-0.2, 1, size=(5, 5, m)) if caches else None
    if gain is not None:
        gain[:, :, 0] = 0.0  # an arm whose cache is worth nothing
    path = plan_turns(utility, switch_cost=switch_cost, gain=gain)
    best = max(total(path, utility, switch_cost, gain) for path in itertools.product(range(m), repeat=5))
    assert total(path.tolist(), utility, switch_cost, gain) == pytest.approx(best, abs=1e-12)


def test_a_plan_changes_arms_no_more_often_where_that_costs_more() -> None:
    rng = np.random.default_rng(3)
    for _ in range(30):
        utility = rng.normal(size=(12, 3))
        changes = [
            np.count_nonzero(np.diff(plan_turns(utility, switch_cost=cost))) for cost in (0.0, 0.3, 1.0, 3.0, 99.0)
        ]
        assert changes == sorted(changes, reverse=True)
        assert changes[-1] == 0
        assert plan_turns(utility).tolist() == utility.argmax(axis=1).tolist()


def test_a_plan_of_too_many_states_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_cache, "_MOST_STATES", 10)
    gain = np.ones((6, 6, 3))
    with pytest.raises(
        PortfolioError, match="a plan for 6 turns on 3 arms needs more than 10 states; plan fewer turns"
    ):
        plan_turns(np.zeros((6, 3)), gain=gain)
    assert len(plan_turns(np.zeros((6, 3)))) == 6


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"arm": ["small"]}, "session must have one entry for each of 1 turns, got 2"),
        ({"arm": "small"}, "arm must be one name for every turn, got one str, 'small'"),
        ({"session": [1]}, "session must have one entry for each of 2 turns, got 1"),
        ({"session": "ab"}, "session must have one entry for each of 2 turns, got one str"),
        ({"input_tokens": 5}, "input_tokens must have one entry for each of 2 turns, got one int"),
        ({"time": [1.0]}, "time must have one entry for each of 2 turns, got 1"),
    ],
)
def test_turns_are_as_many_everywhere(wrong: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {
        "arm": ["small", "small"],
        "session": [1, 1],
        "input_tokens": [5, 6],
        "output_tokens": [1, 1],
    }
    given |= wrong
    with pytest.raises(PortfolioError, match=f"prompt cache: {message}"):
        session_cost(PORTFOLIO, given.pop("arm"), **given)


@pytest.mark.parametrize(
    ("utility", "gain", "message"),
    [
        ([1.0, 2.0], None, r"utility must have shape \(t, m\), got \(2,\)"),
        ([[1.0, 2.0]], np.zeros((2, 2, 2)), r"gain must have shape \(1, 1, 2\), got \(2, 2, 2\)"),
        ([[1.0, 2.0], [np.nan, 1.0]], None, "utility has 1 values that are NaN, the first in turn 1"),
        ([[1.0, 2.0]], np.full((1, 1, 2), np.nan), "gain has 2 values that are NaN, the first in turn 0"),
    ],
)
def test_a_plan_needs_tables_that_fit(utility: Any, gain: Any, message: str) -> None:
    with pytest.raises(PortfolioError, match=f"plan_turns: {message}"):
        plan_turns(utility, gain=gain)
