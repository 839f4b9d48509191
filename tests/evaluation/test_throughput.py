"""Throughput and cost of a mixture, and what the router itself takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from defer import Arm, Portfolio, Price
from defer.estimators import KNNRouter, make_pipeline
from defer.evaluation import throughput
from defer.evaluation.throughput import mixture_cost, mixture_throughput, router_overhead
from defer.exceptions import EvaluationError


@given(seed=st.integers(0, 200))
def test_a_mixture_is_all_tokens_over_all_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens, seconds = rng.integers(1, 200, size=(20, 3)).astype(float), rng.uniform(0.1, 9, size=(20, 3))
    arm = rng.integers(3, size=20)
    found, rows = mixture_throughput(tokens, seconds, arm, overhead=0.5), np.arange(20)
    assert found.tokens == tokens[rows, arm].sum()
    assert found.seconds == pytest.approx(seconds[rows, arm].sum() + 10.0)
    assert found.tokens_per_second == pytest.approx(found.tokens / found.seconds)
    assert found.queries_per_second == pytest.approx(20 / found.seconds)
    # Without overhead it lies between the slowest and the fastest arm: a weighted harmonic mean of their rates.
    free = mixture_throughput(tokens, seconds, arm)
    taken = free.share > 0
    assert free.by_arm[taken].min() - 1e-9 <= free.tokens_per_second <= free.by_arm[taken].max() + 1e-9
    harmonic = np.bincount(arm, weights=tokens[rows, arm], minlength=3)[taken]
    assert free.tokens_per_second == pytest.approx(harmonic.sum() / (harmonic / free.by_arm[taken]).sum())


def test_a_random_mixture_has_its_expected_totals_and_an_arm_that_is_not_taken_has_no_rate() -> None:
    found = mixture_throughput([[100, 60, np.nan]], [[10, 2, np.nan]], [[0.25, 0.75, 0.0]], arms=["a", "b", "c"])
    assert (found.tokens, found.seconds) == (70.0, 4.0)
    assert found.by_arm[:2].tolist() == [10.0, 30.0]
    assert np.isnan(found.by_arm[2])
    assert found.share.tolist() == [0.25, 0.75, 0.0]
    assert found.arms == ("a", "b", "c")


def test_cost_by_a_portfolio_with_names_and_tokens_of_every_arm() -> None:
    portfolio = Portfolio([Arm("small", price=Price(0.0, 1.0, 1.0)), Arm("large", price=Price(5.0, 2.0, 3.0))])
    cost = mixture_cost([[1, 2], [3, 4]], [[5, 6], [7, 8]], portfolio, ["large", "small"])
    assert cost.arm.tolist() == [5 + 2 * 2 + 3 * 6, 3 + 7]
    assert cost.router.tolist() == [0.0, 0.0]
    assert cost.frame.columns == ["arm", "router", "total"]
    mixed = mixture_cost([1.0], [[5.0, 6.0]], portfolio, [[0.5, 0.5]])
    assert mixed.arm.tolist() == [0.5 * 6 + 0.5 * 25]


def test_tokens_that_are_not_known_matter_only_where_the_arm_is_taken() -> None:
    prices = [Price(), Price(0.0, 1.0, 1.0)]
    assert mixture_cost([1.0], [[np.nan, 2.0]], prices, [1]).arm.tolist() == [3.0]
    with pytest.raises(EvaluationError, match="arms that were not observed in 1 of 1 rows, the first is row 0"):
        mixture_cost([1.0], [[2.0, np.nan]], prices, [1])


def test_the_overhead_of_a_pipeline_is_split_into_features_and_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["add one", "write a poem"] * 10
    router = make_pipeline(TfidfVectorizer(), KNNRouter(3)).fit(texts, np.tile(np.eye(2), (10, 1)))

    class Clock:
        """Every interval that is measured is a second longer than the one before."""

        reads, now = 0, 0.0

        def perf_counter(self) -> float:
            Clock.reads += 1
            Clock.now += Clock.reads // 2
            return Clock.now

    monkeypatch.setattr(throughput, "time", Clock())
    found = router_overhead(router, texts, n_repeats=3, tokens=np.arange(20.0), price_per_token=2.0)
    # The features take 1, 2 and 3 seconds, the decisions 4, 5 and 6: medians over 20 queries.
    assert found.feature_seconds_per_query == pytest.approx(2.0 / 20)
    assert found.seconds_per_query == pytest.approx(5.0 / 20)
    assert found.total_seconds_per_query == pytest.approx(7.0 / 20)
    assert found.cost_per_query == 19.0
    assert found.n == 20


def test_a_router_without_transformers_has_no_features_to_wait_for() -> None:
    router = KNNRouter(1).fit(np.eye(2), np.eye(2))
    found = router_overhead(router, np.eye(2), n_repeats=1)
    assert found.seconds_per_query > 0
    assert found.feature_seconds_per_query == found.cost_per_query == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mixture_throughput([[1.0]], [[0.0]], [0]), "the 1 queries take no time at all"),
        (lambda: mixture_throughput([[1.0]], [[1.0]], [0], overhead=-1), "overhead must be a finite number of seconds >= 0, got -1"),
        (lambda: mixture_throughput([[-1.0]], [[1.0]], [0]), "tokens has 1 of 1 values below 0, the first in row 0, arm 'arm_0'"),
        (lambda: mixture_throughput([[1.0]], [[1.0], [1.0]], [0]), r"seconds must have shape \(1, 1\), got \(2, 1\)"),
        (lambda: mixture_throughput([[1.0, 2.0]], [[1.0]], [0]), "seconds has 1 columns, and there are 2 arms"),
        (lambda: mixture_throughput([[1.0, 2.0]], [[1.0, 1.0]], [0], arms=["a"]), "tokens has 2 columns, and there are 1 arms"),
        (lambda: mixture_throughput([["a"]], [[1.0]], [0]), "tokens: "),
        (lambda: mixture_throughput([[np.nan, 1.0]], [[1.0, 1.0]], [0]), "arms that were not observed in 1 of 1 rows"),
        (lambda: mixture_throughput([[1.0]], [[1.0]], [3]), "1 of 1 rows take an arm that is not in the log"),
        (lambda: mixture_cost([1.0], [[1.0]], [Price(), Price()], [0]), "there are 2 prices and 1 columns of output_tokens"),
        (lambda: mixture_cost([1.0], [[1.0, 1.0]], [Price(), Price(currency="EUR")], [0]), "in 2 currencies, EUR, USD"),
        (lambda: mixture_cost([1.0], [[1.0]], [Price()], [0], router_cost=-1.0), "router_cost must be one finite number >= 0"),
        (lambda: mixture_cost([-1.0], [[1.0]], [Price()], [0]), "input_tokens has 1 of 1 values below 0"),
        (lambda: mixture_cost([1.0], [[1.0]], [0.5], [0]), "prices must be Price or Arm objects, and entry 0 is a float"),
        (lambda: router_overhead(object(), [[0.0]]), "router_overhead needs a router or a pipeline"),
        (lambda: router_overhead(KNNRouter(), [[0.0]], n_repeats=0), "n_repeats must be an integer >= 1, got 0"),
        (lambda: router_overhead(KNNRouter(), [[0.0]], price_per_token=-1.0), "price_per_token must be a finite number >= 0"),
        (lambda: router_overhead(KNNRouter(), [[0.0]], tokens=[1, 2]), "tokens must be 1 finite numbers >= 0, one per query"),
    ],
)  # fmt: skip
def test_wrong_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        call()
