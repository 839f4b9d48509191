"""The script that made the embedded log: its queries, its prices, and a quick run of all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from defer import OutcomeLog  # noqa: E402
from defer.portfolios.tiny import build as script  # noqa: E402
from defer.portfolios.tiny.build import ARMS, USD_PER_TOKEN_PARAMETER, ArmPlan, evaluation_queries, main, train  # noqa: E402
from defer.portfolios.tiny.model import CharModel  # noqa: E402
from defer.portfolios.tiny.tasks import TASKS  # noqa: E402


def test_the_script_still_draws_the_queries_of_the_embedded_log(tiny_columns: dict[str, list[Any]]) -> None:
    shipped = list(zip(*(tiny_columns[name] for name in ("domain", "prompt", "target")), strict=True))
    assert evaluation_queries(500, seed=100) == shipped


def test_queries_are_distinct_and_balanced() -> None:
    queries = evaluation_queries(20, seed=3)
    assert len({prompt for _, prompt, _ in queries}) == len(queries)
    tasks = [task for task, _, _ in queries]
    assert {task: tasks.count(task) for task in TASKS} == dict.fromkeys(TASKS, 20)
    assert tasks != sorted(tasks, key=list(TASKS).index)


def test_costs_of_the_embedded_log_are_tokens_times_parameters(tiny_columns: dict[str, list[Any]]) -> None:
    for plan in ARMS:
        price = CharModel(plan.width, plan.layers, plan.heads).n_parameters * USD_PER_TOKEN_PARAMETER
        tokens = [np.array(tiny_columns[f"{kind}_tokens:{plan.name}"]) for kind in ("input", "output")]
        np.testing.assert_allclose(tiny_columns[f"cost_usd:{plan.name}"], price * sum(tokens), rtol=1e-12)


def test_arms_are_trained_on_known_tasks_only() -> None:
    assert len(ARMS) >= 4
    assert len({plan.name for plan in ARMS}) == len(ARMS)
    assert all(set(plan.share) <= set(TASKS) for plan in ARMS)
    assert any(len(plan.share) < len(TASKS) for plan in ARMS)


def test_no_held_out_prompt_is_trained_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[str] = []
    original = script.encode_batch

    def spy(pairs: list[tuple[str, str]]) -> Any:
        seen.extend(prompt for prompt, _ in pairs)
        return original(pairs)

    monkeypatch.setattr(script, "encode_batch", spy)
    plan = ArmPlan("probe", 16, 1, 2, 5, {"units": 1.0, "dates": 2.0})
    train(plan, 5, set(), seed=0)
    held_out = set(sorted(set(seen))[::2])
    assert len(held_out) > 50
    seen.clear()
    train(plan, 5, held_out, seed=0)
    assert seen
    assert held_out.isdisjoint(seen)


def test_training_lowers_the_loss_and_repeats_bit_for_bit(capsys: pytest.CaptureFixture[str]) -> None:
    plan = ArmPlan("probe", 32, 1, 2, 40, {"brackets": 1.0})
    one, other = (train(plan, 40, set(), seed=1) for _ in range(2))
    losses = [float(line.rsplit(" ", 1)[1]) for line in capsys.readouterr().out.splitlines()]
    assert losses[1] < losses[0] / 2
    assert losses[:2] == losses[2:]
    for first, second in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(first, second)


def test_a_quick_run_writes_an_outcome_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "folder" / "tiny.parquet"
    main(["--out", str(path), "--quick"])
    log = OutcomeLog.read_parquet(path, text="prompt")
    assert log.arms == tuple(plan.name for plan in ARMS)
    assert log.is_full_information
    assert len(log) == 2 * len(TASKS)
    assert set(np.unique(np.asarray(log.quality))) <= {0.0, 1.0}
    assert (np.asarray(log.cost) > 0).all()
    assert (np.asarray(log.latency) > 0).all()
    assert list(log.X) == [prompt for _, prompt, _ in evaluation_queries(2, seed=100)]
    assert f"{len(log)} queries, {len(ARMS)} arms -> {path}" in capsys.readouterr().out
