"""Ranks of arms and of routed systems by subset."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defer.estimators import KNNRouter
from defer.evaluation.task_rank import task_ranks
from defer.exceptions import EvaluationError


def draw(seed: int, n: int = 60, m: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(3, size=(n, m)) / 2.0, rng.choice(["x", "y", "z"], size=n), rng.integers(m, size=n)


@settings(max_examples=40)
@given(seed=st.integers(0, 500), ties=st.sampled_from(["min", "average", "max"]))
def test_agrees_with_a_loop(seed: int, ties: str) -> None:
    quality, domain, taken = draw(seed, n=12)
    ranks = task_ranks(quality, domain, routed=taken, ties=ties)
    columns = np.column_stack([quality, quality[np.arange(12), taken]])
    for d, name in enumerate(ranks.domains):
        means = [columns[domain == name, c].sum() / (domain == name).sum() for c in range(5)]
        for c in range(5):
            others = [means[k] for k in range(4) if k != c]
            better, equal = sum(o > means[c] + 1e-9 for o in others), sum(abs(o - means[c]) < 1e-9 for o in others)
            assert ranks.rank[d, c] == 1 + better + {"min": 0, "average": 0.5, "max": 1}[ties] * equal
    np.testing.assert_allclose(ranks.mean_rank, ranks.rank.mean(axis=0))
    np.testing.assert_allclose(ranks.uplift, (ranks.rank == 1).mean(axis=0))
    assert np.isnan(ranks.mean_rank_low).all()


def test_a_system_moves_no_arms_rank_and_the_oracle_is_first_everywhere() -> None:
    quality, domain, _ = draw(1)
    alone = task_ranks(quality, domain, arms=list("abcd"))
    systems: dict[str, Any] = {
        "oracle": quality.argmax(axis=1),
        "best": np.full(60, "c"),
        "even": np.full((60, 4), 0.25),
    }
    ranks = task_ranks(quality, domain, arms=list("abcd"), routed=systems)
    assert ranks.names == ("a", "b", "c", "d", "oracle", "best", "even")
    np.testing.assert_array_equal(ranks.rank[:, :4], alone.rank)
    assert ranks.mean_rank[4] == ranks.uplift[4] == 1.0
    # One that always takes an arm is its equal: it is compared with that arm, which does not beat it.
    np.testing.assert_array_equal(ranks.value[:, 5], ranks.value[:, 2])
    np.testing.assert_array_equal(ranks.rank[:, 5], ranks.rank[:, 2])
    np.testing.assert_allclose(ranks.value[:, 6], ranks.value[:, :4].mean(axis=1))


def test_a_routing_goes_in_as_it_is() -> None:
    rng = np.random.default_rng(0)
    X, quality = rng.normal(size=(40, 2)), rng.random((40, 3))
    routing = KNNRouter(5).fit(X, quality).route(X)
    ranks = task_ranks(quality, rng.choice(["x", "y"], size=40), arms=["0", "1", "2"], routed=routing)
    by_index = task_ranks(quality, np.zeros(40), routed=routing.arm)
    assert by_index.value[0, 3] == pytest.approx(quality[np.arange(40), routing.arm].mean())
    assert ranks.names[-1] == "routed"


def test_intervals_hold_the_means_and_come_from_resamples_within_subsets() -> None:
    rng = np.random.default_rng(2)
    quality = rng.random((300, 3)) + np.array([0.0, 0.02, 0.5])
    domain = np.repeat(["x", "y", "z"], [50, 100, 150])
    ranks = task_ranks(quality, domain, n_bootstrap=200)
    assert (ranks.mean_rank_low <= ranks.mean_rank).all()
    assert (ranks.mean_rank <= ranks.mean_rank_high).all()
    assert ranks.mean_rank_low[2] == ranks.mean_rank_high[2] == ranks.uplift_low[2] == 1.0
    assert ranks.mean_rank_low[0] < ranks.mean_rank_high[0]
    again = task_ranks(quality, domain, n_bootstrap=200)
    np.testing.assert_array_equal(again.mean_rank_low, ranks.mean_rank_low)
    # With one query in every subset there is nothing to draw.
    still = task_ranks(quality[:3], ["x", "y", "z"], n_bootstrap=20)
    np.testing.assert_array_equal(still.mean_rank_low, still.mean_rank)


def test_frames() -> None:
    ranks = task_ranks([[1.0, 0.0], [0.0, 1.0]], ["x", "y"], arms=["a", "b"])
    assert ranks.frame["name"].to_list() == ["a", "b"]
    assert ranks.frame["mean_rank"].to_list() == [1.5, 1.5]
    assert ranks.by_domain["domain"].to_list() == ["x", "x", "y", "y"]
    assert ranks.by_domain["rank"].to_list() == [1.0, 2.0, 2.0, 1.0]


def test_one_arm_is_first_everywhere() -> None:
    ranks = task_ranks([[0.1], [0.2]], ["x", "y"], ties="max")
    assert ranks.rank.tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize(
    ("quality", "domain", "options", "message"),
    [
        (
            [[1.0, np.nan], [0.0, 1.0]],
            ["x", "x"],
            {},
            "1 of 4 outcomes were not observed, the first in row 0, arm 'arm_1'",
        ),
        ([[1.0, 0.0]], ["x", "y"], {}, r"domain must have shape \(1,\), one subset per query, got \(2,\)"),
        ([[1.0, 0.0]], ["x"], {"ties": "first"}, r"ties must be one of \('min', 'average', 'max'\), got 'first'"),
        ([[1.0, 0.0]], ["x"], {"level": 1.0}, r"level must lie in \(0, 1\), got 1\.0"),
        ([[1.0, 0.0]], ["x"], {"n_bootstrap": -1}, "n_bootstrap must be an integer >= 0, got -1"),
        ([[1.0, 0.0]], ["x"], {"routed": [2]}, "1 of 1 rows take an arm that is not in the log"),
    ],
)
def test_wrong_input_is_named(quality: Any, domain: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        task_ranks(quality, domain, **options)
