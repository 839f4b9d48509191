"""The embedded log keeps its promises, and its card tells the truth about it."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from defer import OutcomeLog
from defer.datasets import load_tiny

FOLDER = files("defer") / "data"


@pytest.fixture(scope="module")
def log() -> OutcomeLog:
    return load_tiny()


@pytest.fixture(scope="module")
def columns() -> dict[str, Any]:
    table = pq.read_table(str(FOLDER / "tiny.parquet"))
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}


@pytest.fixture(scope="module")
def card() -> str:
    return (FOLDER / "tiny.md").read_text(encoding="utf-8")


def test_it_is_small_and_has_enough_queries_and_arms(log: OutcomeLog) -> None:
    assert (FOLDER / "tiny.parquet").stat().st_size <= 2 * 2**20  # type: ignore[attr-defined]
    assert len(log) >= 4000
    assert len(log.arms) >= 4


def test_everything_was_observed(log: OutcomeLog) -> None:
    assert log.is_full_information
    assert not log.has_decisions
    for table in (log.cost, log.latency):
        assert np.isfinite(np.asarray(table)).all()
        assert (np.asarray(table) > 0).all()
    assert all(isinstance(text, str) and text for text in log.X)
    assert len(set(log.X)) == len(log)
    assert log.domain is not None
    assert len(set(log.domain)) == 10


def test_columns_are_complete(log: OutcomeLog, columns: dict[str, Any]) -> None:
    kinds = ("score", "cost_usd", "latency_s", "input_tokens", "output_tokens")
    expected = {"query_id", "prompt", "domain", "target", *(f"{kind}:{arm}" for kind in kinds for arm in log.arms)}
    assert set(columns) == expected
    assert sorted(columns["query_id"]) == list(range(len(log)))


def test_graded_answers_fit_their_tokens(log: OutcomeLog, columns: dict[str, Any]) -> None:
    length = np.array([len(target) for target in columns["target"]])
    prompt = np.array([len(text) for text in columns["prompt"]])
    for arm in log.arms:
        score, given = columns[f"score:{arm}"], columns[f"output_tokens:{arm}"]
        assert set(np.unique(score)) == {0.0, 1.0}
        assert (columns[f"input_tokens:{arm}"] == prompt + 1).all()
        # A right answer is the target and an end mark; white space around it would be right, too, but longer.
        assert (given[score == 1] >= length[score == 1] + 1).all()
        assert (given[score == 1] == length[score == 1] + 1).mean() > 0.99
        assert (given <= 13).all()


def test_no_arm_is_best_everywhere(log: OutcomeLog) -> None:
    quality, domain = np.asarray(log.quality), np.asarray(log.domain)
    best = {name: int(quality[domain == name].mean(axis=0).argmax()) for name in np.unique(domain)}
    assert len(set(best.values())) >= 3


def test_the_oracle_is_far_above_the_best_single_arm(log: OutcomeLog) -> None:
    quality = np.asarray(log.quality)
    assert quality.max(axis=1).mean() - quality.mean(axis=0).max() >= 0.08


def test_a_cheaper_arm_answers_half_of_the_queries(log: OutcomeLog) -> None:
    quality, cost = np.asarray(log.quality), np.asarray(log.cost).mean(axis=0)
    strongest = int(quality.mean(axis=0).argmax())
    cheaper = cost < cost[strongest]
    assert quality[:, cheaper].mean(axis=0).max() >= 0.5
    assert cost.argmax() == strongest


def test_every_call_reads_the_same_log() -> None:
    one, other = load_tiny(), load_tiny()
    assert one.X == other.X
    assert np.array_equal(np.asarray(one.quality), np.asarray(other.quality))


def test_the_card_states_the_numbers_of_the_file(log: OutcomeLog, card: str) -> None:
    rows = re.findall(r"^\| ([\w-]+) \| ([\d,]+) \| (.+?) \| ([\d.]+) \| (\S+) \|$", card, re.MULTILINE)
    assert [row[0] for row in rows] == list(log.arms)
    for index, (_, _, _, right, cost) in enumerate(rows):
        assert right == f"{np.asarray(log.quality)[:, index].mean():.3f}"
        assert cost == f"{np.asarray(log.cost)[:, index].mean():.2e}"
    assert f"{len(log):,} text queries of ten tasks, answered by five" in card
    oracle = np.asarray(log.quality).max(axis=1).mean()
    assert f"is right on {oracle:.3f} of them" in card
    assert "500 distinct prompts of each task" in card
    names, counts = np.unique(np.asarray(log.domain), return_counts=True)
    assert set(counts) == {500}
    assert all(name in card for name in names)


def test_the_card_states_the_models_of_the_script(card: str) -> None:
    pytest.importorskip("torch")
    from defer.portfolios.tiny.build import ARMS, USD_PER_TOKEN_PARAMETER
    from defer.portfolios.tiny.model import CharModel
    from defer.portfolios.tiny.tasks import TASKS

    for plan in ARMS:
        size = CharModel(plan.width, plan.layers, plan.heads).n_parameters
        (trained,) = re.findall(rf"^\| {plan.name} \| {size:,} \| (.+?) \|", card, re.MULTILINE)
        if len(plan.share) == len(TASKS):
            assert trained.startswith("all tasks")
            lesser = sorted(task for task, share in plan.share.items() if share < 1)
            assert sorted(re.findall(r"\w+", trained.partition("less of")[2].replace(" and ", " "))) == lesser
        else:
            assert trained.split(", ") == list(plan.share)
    assert f"{USD_PER_TOKEN_PARAMETER:.0e} US dollars times the number of parameters" in card
