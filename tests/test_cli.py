"""The command line as its user meets it: results, exit codes, and one clear line for whatever goes wrong."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner, Result

import defer
from defer import Budget, OutcomeLog, make_pipeline
from defer.cli import app
from defer.command_options import RouterName
from defer.estimators import KNNRouter, TunedRouter
from defer.evaluation.audit import Audit, Finding
from defer.persistence import load, log_hash, manifest

COMMANDS = ("demo", "audit", "split", "fit", "route", "explain", "evaluate", "report")
Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    def invoke(*arguments: Any, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)

    return invoke


@pytest.fixture
def text_log(full_log: OutcomeLog) -> OutcomeLog:
    words = np.array(["tree", "river", "stone", "house", "cloud"])
    picked = words[np.random.default_rng(1).integers(5, size=(len(full_log), 4))]
    kind = np.asarray(full_log.domain)
    texts = [f"{name} {' '.join(row)} {number}" for number, (name, row) in enumerate(zip(kind, picked, strict=True))]
    return replace(full_log, X=texts)


def wide(log: OutcomeLog, **columns: Any) -> pa.Table:
    """A table as users have it, without the metadata of `to_parquet`."""
    for index, arm in enumerate(log.arms):
        columns[f"score:{arm}"] = np.asarray(log.quality)[:, index]
        columns[f"cost_usd:{arm}"] = np.asarray(log.cost)[:, index]
    return pa.table(columns)


@pytest.fixture
def files(tmp_path: Path, text_log: OutcomeLog, full_log: OutcomeLog) -> dict[str, Path]:
    """train.parquet, test.parquet with texts; numbers.parquet with two features; queries.jsonl."""
    numbers = {"kind": full_log.X[:, 0], "size": full_log.X[:, 1]}
    for name, rows in (("train", slice(None, 140)), ("test", slice(140, None))):
        part = text_log.select(rows=rows)
        pq.write_table(wide(part, prompt=part.X, domain=part.domain), tmp_path / f"{name}.parquet")
    pq.write_table(wide(full_log, **numbers, label=full_log.domain), tmp_path / "numbers.parquet")
    lines = [json.dumps({"id": row, "prompt": text}) for row, text in enumerate(text_log.X)]
    (tmp_path / "queries.jsonl").write_text("\n".join(lines) + "\n")
    return {path.stem: path for path in tmp_path.iterdir()}


@pytest.fixture
def policy(files: dict[str, Path], run: Run) -> Path:
    folder = files["train"].parent / "policy"
    assert run("fit", files["train"], "--out", folder, "--no-embeddings").exit_code == 0
    return folder


def rows_of(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def one_error(result: Result, code: int = 1) -> str:
    """The one line on standard error."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line.removeprefix("error: ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_its_options(command: str, run: Run) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"defer {command}" in " ".join(result.stdout.split()) or f"{command} [OPTIONS]" in result.stdout
    assert len(result.stdout.splitlines()) > 8


def test_the_overview_names_all_commands_and_exit_codes(run: Run) -> None:
    text = " ".join(run("--help").stdout.split())
    assert all(command in text for command in COMMANDS)
    assert "0 fine, 1 error, 2 wrong usage, 3 a log that is not sound" in text
    assert "--debug may stand anywhere on the line" in text


def test_the_version_needs_no_command(run: Run) -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"{defer.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["juggle"], "No such command"),
        (["fit"], "Missing argument"),
        (["fit", "log.parquet"], "Missing option"),
        (["fit", "log.parquet", "--out", "p", "--router", "best"], "'quality', 'knn', 'single', 'mixture'"),
        (["fit", "log.parquet", "--out", "p", "--budget", "-1"], "--budget"),
        (["fit", "log.parquet", "--out", "p", "--budget", "cheap"], "--budget"),
        (["audit", "log.parquet", "--text", "a", "--feature", "b"], "either --text or --feature, not both"),
        (["split", "log.parquet", "--train", "a", "--test", "b", "--by", "luck"], "'cluster', 'time', 'random'"),
        (["audit", "log.parquet", "--column", "score"], "--column takes FIELD=NAME, got 'score'"),
        (["route", "policy", "queries.jsonl", "--seed", "-1"], "--seed"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], message: str, run: Run) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert result.stdout == ""


def test_no_command_shows_the_overview(run: Run) -> None:
    result = run()
    assert result.exit_code == 2
    assert "evaluate" in result.output


@pytest.mark.parametrize("kind", list(RouterName))
def test_fit_and_route_with_every_router(kind: str, files: dict[str, Path], run: Run) -> None:
    folder = files["train"].parent / "policy"
    result = run("fit", files["train"], "--out", folder, "--router", kind, "--no-embeddings", "--json")
    (document,) = rows_of(result)
    assert document["arms"] == ["small", "medium", "large"]
    assert document["queries"] == {"text": "prompt"}
    rows = rows_of(run("route", folder, files["queries"]))
    assert [row["id"] for row in rows] == list(range(200))
    expected = load(folder).route([row["prompt"] for row in rows], random_state=0)
    assert [row["arm"] for row in rows] == expected.label.tolist()
    assert [row["cost_usd"] for row in rows] == pytest.approx(expected.cost)
    assert [row["quality"] for row in rows] == pytest.approx(expected.quality)
    assert {len(row["fallbacks"]) for row in rows} == {2}
    assert all(row["arm"] not in row["fallbacks"] for row in rows)


@pytest.mark.parametrize("kind", list(RouterName))
def test_fit_route_and_evaluate_on_numbers(kind: str, files: dict[str, Path], run: Run) -> None:
    folder = files["train"].parent / "policy"
    features = ["--feature", "size", "--feature", "kind"]
    assert run("fit", files["numbers"], "--out", folder, "--router", kind, *features).exit_code == 0
    assert manifest(folder)["queries"] == {"features": ["size", "kind"]}
    (row,) = rows_of(run("route", folder, "-", stdin='{"kind": 1, "size": 0.5, "id": "a"}'))
    assert row["id"] == "a"
    assert row["arm"] == load(folder).route([[0.5, 1.0]]).label[0]
    (document,) = rows_of(run("evaluate", folder, files["numbers"], "--json"))
    assert [line["policy"] for line in document["policies"]] == ["routing", "small", "medium", "large", "oracle"]


def test_a_policy_without_costs_answers_no_cost(files: dict[str, Path], run: Run) -> None:
    table, folder = pq.read_table(files["train"]), files["train"].parent / "policy"
    pq.write_table(table.select([name for name in table.column_names if "cost" not in name]), files["train"])
    assert run("fit", files["train"], "--out", folder, "--router", "single").exit_code == 0
    (row,) = rows_of(run("route", folder, "-", stdin='{"prompt": "a"}'))
    assert row["cost_usd"] is None
    assert row["propensity"] == 1.0


def test_the_seed_draws_the_randomised_group(files: dict[str, Path], run: Run) -> None:
    folder = files["train"].parent / "policy"
    assert run("fit", files["train"], "--out", folder, "--router", "mixture").exit_code == 0
    texts, drawn = [json.loads(line)["prompt"] for line in files["queries"].read_text().splitlines()], []
    for seed in (0, 1):
        rows = rows_of(run("route", folder, files["queries"], "--budget", 0.01, "--seed", seed))
        drawn.append([row["arm"] for row in rows])
        expected = load(folder).route(texts, limit=Budget(mean_cost=0.01), random_state=seed)
        assert drawn[-1] == expected.label.tolist()
    assert len(set(drawn[0])) == 2
    assert drawn[0] != drawn[1]


def test_a_budget_is_tuned_without_splitting_clusters(full_log: OutcomeLog, tmp_path: Path, run: Run) -> None:
    """Four copies of every query: where copies stand on both sides of a fold, near neighbours know the answer."""
    log = full_log.select(rows=slice(0, 50))
    many = replace(full_log, **{name: np.tile(np.asarray(getattr(log, name)), (4, 1)) for name in ("X", "quality", "cost")},
                   domain=None, latency=None, cluster=np.tile(np.arange(50), 4))  # fmt: skip
    many.to_parquet(tmp_path / "log.parquet")
    fitted = run("fit", tmp_path / "log.parquet", "--out", tmp_path / "p", "--router", "knn", "--budget", 0.008)
    assert fitted.exit_code == 0, fitted.output
    points = []
    for groups in (many.cluster, None):
        tuned = TunedRouter(
            make_pipeline(StandardScaler(), KNNRouter(metric="euclidean")), limit=Budget(mean_cost=0.008)
        )
        points.append(tuned.fit(many.X, many.quality, cost=many.cost, groups=groups).operating_point_.mean_quality)
    assert manifest(tmp_path / "p")["operating_point"]["mean_quality"] == pytest.approx(points[0], rel=1e-12)
    assert abs(points[0] - points[1]) > 1e-3


def test_the_steps_of_a_pipeline_are_named(policy: Path, files: dict[str, Path], run: Run) -> None:
    assert manifest(policy)["router"] == "FeatureUnion → QualityRouter"
    result = run("fit", files["train"], "--out", policy, "--no-embeddings", "--overwrite")
    assert result.stdout == f"FeatureUnion → QualityRouter on 140 queries and 3 arms -> {policy}\n"


@pytest.mark.parametrize(
    ("rows", "arms", "size", "warning"),
    [
        (1, ["small", "large"], "1 query and 2 arms", "the log has one query: nothing can be learned from it"),
        (9, ["small"], "9 queries and 1 arm", "the log has one arm: there is nothing to choose"),
    ],
)
def test_a_log_that_teaches_nothing_is_pointed_out(
    rows: int, arms: list[str], size: str, warning: str, text_log: OutcomeLog, tmp_path: Path, run: Run
) -> None:
    text_log.select(rows=slice(0, rows), arms=arms).to_parquet(tmp_path / "log.parquet")
    result = run("fit", tmp_path / "log.parquet", "--out", tmp_path / "policy", "--router", "single")
    assert result.exit_code == 0
    assert f"warning: {warning}\n" in result.stderr
    assert result.stdout == f"SingleArm on {size} -> {tmp_path / 'policy'}\n"


def test_a_budget_for_a_single_arm_takes_the_best_that_it_pays_for(files: dict[str, Path], run: Run) -> None:
    folder = files["train"].parent / "policy"
    assert run("fit", files["train"], "--out", folder, "--router", "single", "--budget", 0.01).exit_code == 0
    router = load(folder)
    affordable = router.mean_cost_ <= 0.01
    assert not affordable.all()
    best = router.arms_[affordable][router.mean_quality_[affordable].argmax()]
    assert router.predict(["a query"]).tolist() == [best]


def test_a_budget_when_fitting_becomes_the_operating_point(files: dict[str, Path], run: Run) -> None:
    folder = files["train"].parent / "policy"
    result = run("fit", files["train"], "--out", folder, "--router", "knn", "--budget", 0.01)
    assert result.stdout == f"TunedRouter on 140 queries and 3 arms -> {folder}\n"
    point = manifest(folder)["operating_point"]
    assert point["limit"] == "Budget(mean_cost=0.01)"
    assert point["mean_cost"] == pytest.approx(0.01)


def test_a_budget_when_routing_holds_for_the_whole_input(
    policy: Path, files: dict[str, Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("defer.cli._CHUNK", 7)
    rows = rows_of(run("route", policy, files["queries"], "--budget", 0.01))
    spent = np.mean([row["cost_usd"] for row in rows])
    assert 0.008 < spent < 0.0102
    assert sum(row["propensity"] < 1 for row in rows) <= 1


def test_lines_are_routed_in_parts_as_they_would_be_at_once(
    policy: Path, files: dict[str, Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run("route", policy, files["queries"]).stdout
    monkeypatch.setattr("defer.cli._CHUNK", 7)
    assert run("route", policy, files["queries"]).stdout == whole
    assert run("route", policy, "-", stdin=files["queries"].read_text()).stdout == whole


def test_lines_before_a_faulty_one_are_answered(policy: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("defer.cli._CHUNK", 2)
    result = run("route", policy, "-", stdin='{"prompt": "a"}\n{"prompt": "b"}\n{"prompt": "c"}\n{"prompt": 4}\n')
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr == "error: standard input: line 4: 'prompt' must be text, got 4\n"


def test_blank_lines_a_byte_order_mark_and_unicode_are_fine(policy: Path, run: Run) -> None:
    rows = rows_of(run("route", policy, "-", stdin=b'\xef\xbb\xbf{"prompt": "\xc3\xa9"}\n\n  \n{"prompt": "b"}'))
    assert [row["prompt"] for row in rows] == ["é", "b"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"", "standard input holds no query"),
        (b"\n \n", "standard input holds no query"),
        (b'{"prompt": "a"}\n{"prompt": \n', "standard input: line 2 is no JSON: Expecting value at character 13"),
        (b'["a"]', "standard input: line 1 is no JSON object but list"),
        (b'\n{"text": "a", "id": 3}', "standard input: line 2 has no 'prompt'; it has ['text', 'id']"),
        (b'{"prompt": null}', "standard input: line 1: 'prompt' must be text, got None"),
        (b'{"prompt": "\xff"}', "standard input: line 1 is no UTF-8: byte 13 cannot be read"),
        (
            b'{"prompt": "a"}\n{"prompt": "b", "quality": 3}',
            "standard input: line 2 has a key 'quality' of its own, which the answer would replace: rename it",
        ),
        (
            b'{"prompt": "a", "id": 1' + b"0" * 5000 + b"}",
            "standard input: line 1 cannot be read: a number is too long, or it is nested too deeply",
        ),
        (
            b'{"prompt": "a", "id": ' + b"[" * 200_000,
            "standard input: line 1 cannot be read: a number is too long, or it is nested too deeply",
        ),
    ],
)
def test_a_faulty_line_is_named(lines: bytes, message: str, policy: Path, run: Run) -> None:
    assert one_error(run("route", policy, "-", stdin=lines)) == message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('"x"', "must be a number, got 'x'"),
        ("null", "must be a number, got None"),
        ("NaN", "must be a finite number, got nan"),
        ("-Infinity", "must be a finite number, got -inf"),
        ("1e999", "must be a finite number, got inf"),
        ("-1" + "0" * 400, "must be a number below 1.8e308, got one of 401 digits"),
    ],
)
def test_a_feature_that_is_no_number_is_named(value: str, message: str, files: dict[str, Path], run: Run) -> None:
    folder = files["train"].parent / "policy"
    run("fit", files["numbers"], "--out", folder, "--router", "single", "--feature", "size")
    lines = f'{{"size": 1}}\n{{"size": {value}}}'
    assert one_error(run("route", folder, "-", stdin=lines)) == f"standard input: line 2: 'size' {message}"


@pytest.mark.parametrize("key", ["arm", "propensity", "quality", "cost_usd", "fallbacks"])
def test_a_line_that_was_answered_already_is_refused(key: str, policy: Path, run: Run) -> None:
    answered = rows_of(run("route", policy, "-", stdin='{"prompt": "a"}'))[0]
    assert key in answered
    line = json.dumps({"prompt": "a", key: answered[key]})
    assert f"line 1 has a key {key!r} of its own" in one_error(run("route", policy, "-", stdin=line))


def test_another_name_for_the_text_is_kept_with_the_policy(files: dict[str, Path], run: Run) -> None:
    folder, log = files["train"].parent / "policy", files["train"].parent / "renamed.parquet"
    table = pq.read_table(files["train"])
    names = ["question" if name == "prompt" else name.replace("score:", "acc/") for name in table.column_names]
    pq.write_table(table.rename_columns(names), log)
    fitted = run("fit", log, "--out", folder, "--router", "knn", "--text", "question", "--column", "quality=acc/")
    assert fitted.exit_code == 0, fitted.output
    assert rows_of(run("route", folder, "-", stdin='{"question": "code"}'))[0]["question"] == "code"
    assert run("evaluate", folder, log, "--column", "quality=acc/").exit_code == 0


def test_a_log_that_the_library_wrote_may_hold_numbers_without_names(
    full_log: OutcomeLog, tmp_path: Path, run: Run
) -> None:
    full_log.to_parquet(tmp_path / "log.parquet")
    assert run("fit", tmp_path / "log.parquet", "--out", tmp_path / "policy").exit_code == 0
    assert manifest(tmp_path / "policy")["queries"] is None
    assert run("evaluate", tmp_path / "policy", tmp_path / "log.parquet").exit_code == 0
    assert "give --text, or --feature" in one_error(run("route", tmp_path / "policy", "-", stdin='{"a": 1, "b": 2}'))
    lines = '{"a": 1, "b": 2}'
    (row,) = rows_of(run("route", tmp_path / "policy", "-", "--feature", "a", "--feature", "b", stdin=lines))
    assert row["arm"] == load(tmp_path / "policy").predict([[1.0, 2.0]])[0]


def test_a_log_without_queries_says_so(full_log: OutcomeLog, tmp_path: Path, run: Run) -> None:
    replace(full_log, X=None).to_parquet(tmp_path / "log.parquet")
    assert run("audit", tmp_path / "log.parquet").exit_code == 0
    message = one_error(run("fit", tmp_path / "log.parquet", "--out", tmp_path / "policy"))
    assert "has no column 'prompt': name the queries with --text or --feature; the columns are ['query_id'" in message


def test_a_bandit_log_is_fitted_with_its_propensities(bandit_log: OutcomeLog, tmp_path: Path, run: Run) -> None:
    bandit_log.to_parquet(tmp_path / "log.parquet")
    assert run("fit", tmp_path / "log.parquet", "--out", tmp_path / "policy").exit_code == 0
    assert load(tmp_path / "policy").weighting_ == "inverse propensity"


def test_audit_of_a_sound_log(files: dict[str, Path], run: Run) -> None:
    result = run("audit", files["train"])
    assert result.exit_code == 0
    assert result.stdout.rstrip().endswith("sound")
    (document,) = rows_of(run("audit", files["train"], "--json"))
    assert document["sound"] is True
    assert document["n_queries"] == 140


def test_audit_of_an_unsound_log_is_exit_code_3(bandit_log: OutcomeLog, tmp_path: Path, run: Run) -> None:
    replace(bandit_log, propensity=None, policy=None).to_parquet(tmp_path / "log.parquet")
    result = run("audit", tmp_path / "log.parquet")
    assert result.exit_code == 3
    assert "problem: 200 logged decisions have no propensity" in result.stdout
    result = run("audit", tmp_path / "log.parquet", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["sound"] is False


def test_evaluate_prints_a_table_a_verdict_and_writes_the_report(
    policy: Path, files: dict[str, Path], run: Run
) -> None:
    page = policy.parent / "report.html"
    result = run("evaluate", policy, files["test"], "--html", page)
    assert result.exit_code == 0
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[:6]] == ["policy", "routing", "small", "medium", "large", "oracle"]
    assert "…" in lines[1]
    assert len(lines[5].split()) == 3  # oracle, quality, cost: no interval, and no nan in its place
    assert "nan" not in result.stdout
    assert lines[-1] == f"report: {page}"
    assert page.read_text().lstrip().lower().startswith("<!doctype html>")


def test_evaluate_as_json_is_one_strict_object(policy: Path, files: dict[str, Path], run: Run) -> None:
    result = run("evaluate", policy, files["test"], "--json")
    document = json.loads(result.stdout, parse_constant=pytest.fail)
    rows = {row["policy"]: row for row in document["policies"]}
    assert rows["oracle"]["quality_low"] is None
    assert rows["routing"]["quality_low"] < rows["routing"]["quality"] < rows["routing"]["quality_high"]
    assert document["difference"]["baseline"].startswith("always ")
    assert sum(document["load"].values()) == pytest.approx(1.0)
    assert "report" not in document


def test_evaluate_under_a_budget_spends_less(policy: Path, files: dict[str, Path], run: Run) -> None:
    cost = []
    for extra in ([], ["--budget", 0.004]):
        (document,) = rows_of(run("evaluate", policy, files["test"], "--json", *extra))
        cost.append(document["policies"][0]["cost"])
    assert cost[1] < cost[0]
    assert cost[1] == pytest.approx(0.004, rel=0.3)


def test_evaluating_on_the_training_log_warns_and_the_report_says_so(
    policy: Path, files: dict[str, Path], run: Run
) -> None:
    page = policy.parent / "page.html"
    for command in (
        ["evaluate", policy, files["train"], "--html", page],
        ["evaluate", policy, files["train"], "--train", files["test"]],
        ["report", policy, files["train"], "--out", page],
    ):
        result = run(*command)
        assert result.exit_code == 0
        assert "warning: 140 of 140 queries of the log are also in the training log" in result.stderr
        assert "warning" not in result.stdout
    assert "Caution: 140 of these queries" in page.read_text()
    (document,) = rows_of(run("evaluate", policy, files["train"], "--json"))
    assert document["n_leaked"] == 140
    assert any("the numbers flatter the router" in sentence for sentence in document["verdict"])
    result = run("evaluate", policy, files["test"], "--json")
    assert result.stderr == ""
    assert json.loads(result.stdout)["n_leaked"] is None


def test_evaluating_on_a_training_log_of_numbers_warns_and_the_report_says_so(files: dict[str, Path], run: Run) -> None:
    folder, page = files["train"].parent / "policy", files["train"].parent / "page.html"
    run("fit", files["numbers"], "--out", folder, "--router", "single", "--feature", "size")
    result = run("report", folder, files["numbers"], "--out", page)
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith("warning: 200 of 200 queries of the log are also in the training log, the first is row 0: ")
    assert "Caution: 200 of these queries" in page.read_text()


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_the_training_log_shows_shared_texts_and_gives_the_baseline(
    command: str, policy: Path, files: dict[str, Path], run: Run
) -> None:
    page = policy.parent / "page.html"
    option = "--html" if command == "evaluate" else "--out"
    held_out = run(command, policy, files["test"], "--train", files["train"], option, page)
    assert held_out.stderr == ""
    assert "On 60 held-out queries" in page.read_text()
    assert "chosen as the best arm on these very queries" not in page.read_text()
    leaked = pq.read_table(files["train"]).slice(3, 5)
    pq.write_table(pa.concat_tables([pq.read_table(files["test"]), leaked]), files["test"])
    mixed = run(command, policy, files["test"], "--train", files["train"], option, page)
    assert mixed.exit_code == 0
    assert "warning: 5 of 65 queries of the log are also in the training log" in mixed.stderr
    assert "Caution: 5 of these queries" in page.read_text()


def test_the_baseline_is_the_best_arm_of_the_training_log(policy: Path, files: dict[str, Path], run: Run) -> None:
    table = pq.read_table(files["test"])
    for arm, score in (("small", 1.0), ("medium", 0.0), ("large", 0.0)):
        place = table.column_names.index(f"score:{arm}")
        table = table.set_column(place, f"score:{arm}", pa.array([score] * len(table)))
    pq.write_table(table, files["test"])
    baselines = []
    for extra in ([], ["--train", files["train"]]):
        (document,) = rows_of(run("evaluate", policy, files["test"], "--json", *extra))
        baselines.append(document["difference"]["baseline"])
    assert baselines == ["always small", "always large"]


def test_another_training_log_than_the_policys_is_pointed_out(policy: Path, files: dict[str, Path], run: Run) -> None:
    part = files["train"].parent / "part.parquet"
    pq.write_table(pq.read_table(files["train"]).slice(0, 100), part)
    result = run("evaluate", policy, files["test"], "--train", part)
    assert result.exit_code == 0
    assert result.stderr == (
        f"warning: --train: {part} is not the log that the policy was fitted on, its manifest says\n"
    )


@pytest.mark.parametrize(
    ("options", "by"),
    [([], None), (["--by", "cluster"], "cluster"), (["--by", "random"], "random"), (["--by", "time"], "time")],
)
def test_split_writes_the_parts_of_the_library(
    options: list[str], by: str | None, text_log: OutcomeLog, tmp_path: Path, run: Run
) -> None:
    log = replace(text_log, time=np.random.default_rng(2).permutation(200))
    log.to_parquet(tmp_path / "log.parquet")
    files = ["--train", tmp_path / "train.parquet", "--test", tmp_path / "test.parquet"]
    result = run("split", tmp_path / "log.parquet", *files, "--test-size", 0.25, "--seed", 3, *options)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"150 queries -> {files[1]}\n50 queries -> {files[3]}\n"
    parts = [OutcomeLog.read_parquet(path) for path in (files[1], files[3])]
    expected = log.split(0.25, seed=3, by=by)
    assert [part.X for part in parts] == [part.X for part in expected]
    assert [log_hash(part) for part in parts] == [log_hash(part) for part in expected]


def test_the_seed_of_split_draws_other_parts_and_json_names_them(files: dict[str, Path], run: Run) -> None:
    folder, drawn = files["train"].parent, []
    for seed in (0, 1, 1):
        result = run("split", files["train"], "--train", folder / "a", "--test", folder / "b", "--seed", seed,
                     "--overwrite", "--json")  # fmt: skip
        assert rows_of(result) == [{"train": {"path": str(folder / "a"), "n_queries": 98},
                                    "test": {"path": str(folder / "b"), "n_queries": 42}}]  # fmt: skip
        drawn.append(OutcomeLog.read_parquet(folder / "b").X)
    assert drawn[0] != drawn[1]
    assert drawn[1] == drawn[2]


def test_parts_of_a_log_of_numbers_keep_their_names(files: dict[str, Path], run: Run) -> None:
    folder, features = files["train"].parent, ["--feature", "size", "--feature", "kind"]
    (folder / "policy").mkdir()
    paths = ["--train", folder / "a.parquet", "--test", folder / "b.parquet"]
    assert run("split", files["numbers"], *paths, *features).exit_code == 0
    assert run("fit", paths[1], "--out", folder / "policy", "--router", "knn", *features).exit_code == 0
    (document,) = rows_of(run("evaluate", folder / "policy", paths[3], "--json"))
    assert document["policies"][0]["policy"] == "routing"
    (row,) = rows_of(run("route", folder / "policy", "-", stdin='{"kind": 1, "size": 0.5}'))
    assert row["arm"] == load(folder / "policy").route([[0.5, 1.0]]).label[0]


def test_equal_texts_that_split_puts_on_both_sides_are_warned_of(
    text_log: OutcomeLog, tmp_path: Path, run: Run
) -> None:
    replace(text_log, X=["a", "b"] * 100).to_parquet(tmp_path / "log.parquet")
    result = run(
        "split", tmp_path / "log.parquet", "--train", tmp_path / "a", "--test", tmp_path / "b", "--by", "random"
    )
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: 60 of 60 test queries have a text that is also in the training part")


def test_split_replaces_nothing_unasked(files: dict[str, Path], run: Run) -> None:
    folder, before = files["train"].parent, files["test"].read_bytes()
    again = ["split", files["train"], "--train", folder / "part.parquet", "--test", files["test"]]
    assert one_error(run(*again)) == f"{files['test']} is there already: give --overwrite to replace it"
    assert files["test"].read_bytes() == before
    assert not (folder / "part.parquet").exists()
    assert run(*again, "--overwrite").exit_code == 0
    assert len(OutcomeLog.read_parquet(files["test"])) == 42


@pytest.mark.parametrize("test", ["train.parquet", "part.parquet"])
def test_split_needs_three_files(test: str, files: dict[str, Path], run: Run) -> None:
    folder, before = files["train"].parent, files["train"].read_bytes()
    result = run("split", files["train"], "--train", folder / "part.parquet", "--test", folder / test, "--overwrite")
    assert result.exit_code == 2
    assert "LOG, --train and --test must be three different files" in " ".join(result.stderr.replace("│", " ").split())
    assert files["train"].read_bytes() == before


def test_split_needs_a_share_and_queries(full_log: OutcomeLog, files: dict[str, Path], run: Run) -> None:
    parts = ["--train", files["train"].parent / "a", "--test", files["train"].parent / "b"]
    message = one_error(run("split", files["train"], *parts, "--test-size", 1))
    assert message == "split: test_size must be in (0, 1), got 1.0"
    assert "has no column 'prompt': name the queries" in one_error(run("split", files["numbers"], *parts))


def test_warnings_of_the_library_are_one_line_each(bandit_log: OutcomeLog, tmp_path: Path, run: Run) -> None:
    replace(bandit_log, action=None, propensity=None, policy=None).to_parquet(tmp_path / "log.parquet")
    result = run("fit", tmp_path / "log.parquet", "--out", tmp_path / "policy")
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith("warning: y is a bandit log")


def test_report_writes_the_page_and_prints_its_path(policy: Path, files: dict[str, Path], run: Run) -> None:
    page = policy.parent / "page.html"
    assert run("report", policy, files["test"], "--out", page).stdout == f"{page}\n"
    assert page.stat().st_size > 10_000
    assert rows_of(run("report", policy, files["test"], "--out", page, "--json")) == [{"report": str(page)}]


def test_demo_runs_the_main_job(tmp_path: Path, run: Run) -> None:
    result = run("demo", "--out", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert result.stdout.startswith("embedded log: 5,000 queries, 5 arms, sound\n")
    assert result.stdout.splitlines()[-1] == f"report: {tmp_path / 'demo' / 'report.html'}"
    assert "On 1,500 held-out queries" in result.stdout
    assert "better than the baseline" in result.stdout
    assert (tmp_path / "demo" / "report.html").stat().st_size > 10_000
    policy, document = load(tmp_path / "demo" / "policy"), manifest(tmp_path / "demo" / "policy")
    assert policy.predict(["3+4="]).shape == (1,)
    train, test = defer.datasets.load_tiny().split(test_size=0.3, seed=0)
    assert document["training_log"] == log_hash(train)
    quarter = Budget(
        mean_cost=float(np.asarray(train.cost).mean(axis=0)[np.asarray(train.quality).mean(axis=0).argmax()]) / 4
    )
    tuned = TunedRouter(defer.router(embeddings=False), limit=quarter).fit(train.X, train.quality, cost=train.cost)
    assert tuned.operating_point_.price > 0  # the budget binds
    assert document["operating_point"]["mean_quality"] == pytest.approx(tuned.operating_point_.mean_quality, rel=1e-9)
    expected = defer.evaluate(policy, test).estimate
    assert document["metrics"] == pytest.approx(
        {
            "quality": expected.value,
            "quality_low": expected.low,
            "quality_high": expected.high,
            "cost": expected.cost.value,
        }
    )


def test_demo_says_what_its_audit_says(
    text_log: OutcomeLog, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = Finding("problem", "none in truth")
    monkeypatch.setattr("defer.datasets.load_tiny", lambda: text_log)
    monkeypatch.setattr(sys.modules["defer.evaluation.audit"], "audit", lambda log: Audit(log.summary(), (finding,)))
    result = run("demo", "--out", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("embedded log: 200 queries, 3 arms, not sound\n")


@pytest.mark.parametrize("option", [["--text", "question"], ["--feature", "question"]])
def test_a_column_that_is_not_there_lists_those_that_are(option: list[str], files: dict[str, Path], run: Run) -> None:
    message = one_error(run("audit", files["train"], *option))
    assert f"column 'question' is missing ({option[0]}); the columns are ['prompt', 'domain', 'score:small'" in message


def test_a_feature_that_is_text_is_refused(files: dict[str, Path], run: Run) -> None:
    message = one_error(run("audit", files["numbers"], "--feature", "label"))
    assert "--feature label must be numeric, but is of type String" in message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing", None, "there is no such file"),
        ("text", b"no parquet", "cannot be read as Parquet"),
        ("empty", b"", "cannot be read as Parquet"),
    ],
)
def test_a_log_that_cannot_be_read_is_named(
    name: str, content: bytes | None, message: str, tmp_path: Path, run: Run
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    line = one_error(run("audit", path))
    assert line.startswith(str(path))
    assert message in line


def test_an_empty_log_says_so(files: dict[str, Path], run: Run) -> None:
    pq.write_table(pq.read_table(files["train"]).slice(0, 0), files["train"])
    assert one_error(run("audit", files["train"])).endswith("the log is empty: it has no query")


def test_a_table_without_scores_says_what_was_sought(tmp_path: Path, run: Run) -> None:
    pq.write_table(pa.table({"prompt": ["a"], "accuracy": [1.0]}), tmp_path / "log.parquet")
    message = one_error(run("audit", tmp_path / "log.parquet"))
    assert "no column starts with 'score:'; the columns are ['prompt', 'accuracy']" in message


@pytest.mark.parametrize("command", ["fit", "route", "evaluate"])
def test_a_budget_below_the_cheapest_arm_says_what_is_possible(
    command: str, policy: Path, files: dict[str, Path], run: Run
) -> None:
    arguments = {
        "fit": ["fit", files["train"], "--out", policy, "--router", "knn", "--overwrite"],
        "route": ["route", policy, files["queries"]],
        "evaluate": ["evaluate", policy, files["test"]],
    }[command]
    message = one_error(run(*arguments, "--budget", 1e-6))
    assert "Budget(mean_cost=1e-06) is below the least possible mean cost" in message


def test_a_policy_is_replaced_only_when_asked(policy: Path, files: dict[str, Path], run: Run) -> None:
    again = ["fit", files["train"], "--out", policy, "--router", "single"]
    assert "holds a policy already: give --overwrite to replace it" in one_error(run(*again))
    assert run(*again, "--overwrite").exit_code == 0
    assert manifest(policy)["router"] == "SingleArm"


@pytest.mark.parametrize("command", ["route", "evaluate", "report"])
def test_a_folder_without_a_policy_says_so(command: str, files: dict[str, Path], run: Run) -> None:
    other = files["queries"] if command == "route" else files["test"]
    assert "holds no policy: there is no manifest.json" in one_error(run(command, files["test"].parent / "none", other))


def test_missing_queries_are_named(policy: Path, run: Run) -> None:
    assert one_error(run("route", policy, policy / "none.jsonl")) == f"{policy / 'none.jsonl'}: there is no such file"


# Where a result cannot go: command, its option, path under the folder of the files, and what is said of it.
TARGETS = [
    *((command, option, path, message) for command, option in (("evaluate", "--html"), ("report", "--out"))
      for path, message in (
          ("none/report.html", "{path}: there is no folder {path.parent}"),
          ("train.parquet/report.html", "{path}: there is no folder {path.parent}"),
          ("policy", "{path} is a folder, not a file"),
      )),
    *((command, "--out", path, message) for command in ("fit", "demo")
      for path, message in (
          ("train.parquet", "{path} is a file, not a folder"),
          ("train.parquet/deep/p", "{path}: {path.parent.parent} is a file, not a folder"),
      )),
    ("split", "--test", "none/test.parquet", "{path}: there is no folder {path.parent}"),
    ("split", "--test", "policy", "{path} is a folder, not a file"),
]  # fmt: skip


def command_line(command: str, policy: Path, files: dict[str, Path]) -> list[Any]:
    missing = files["test"].parent / "missing.parquet"
    return {
        "evaluate": ["evaluate", policy, missing],
        "report": ["report", policy, missing],
        "fit": ["fit", missing],
        "demo": ["demo"],
        "split": ["split", missing, "--train", files["test"].parent / "a.parquet"],
    }[command]


@pytest.mark.parametrize(("command", "option", "target", "message"), TARGETS)
def test_a_target_that_cannot_be_is_found_before_the_work(
    command: str, option: str, target: str, message: str, policy: Path, files: dict[str, Path], run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The log is missing, so that the other error comes as soon as work begins."""
    monkeypatch.setattr("defer.datasets.load_tiny", pytest.fail)
    path = files["test"].parent / target
    expected = message.format(path=path)
    assert one_error(run(*command_line(command, policy, files), option, path)) == expected


@pytest.mark.parametrize("command", ["evaluate", "report", "fit", "demo", "split"])
def test_a_target_without_permission_is_found_before_the_work(
    command: str, policy: Path, files: dict[str, Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed, asked = os.access, []

    def refuse(path: Any, mode: int, **options: Any) -> bool:
        if not mode & os.W_OK:
            return allowed(path, mode, **options)
        asked.append(path)
        return False

    monkeypatch.setattr("defer.datasets.load_tiny", pytest.fail)
    monkeypatch.setattr("defer.command_files.os.access", refuse)
    option = {"evaluate": "--html", "split": "--test"}.get(command, "--out")
    target = files["test"].parent / "target"
    line = command_line(command, policy, files)
    refused = line[-1] if command == "split" else target
    assert one_error(run(*line, option, target)) == f"{refused} cannot be written: permission denied"
    assert asked == [files["test"].parent]


@pytest.mark.parametrize("inside", ["policy", "report.html"])
def test_what_is_in_the_way_in_the_folder_of_the_demo_is_found_before_the_work(
    inside: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("defer.datasets.load_tiny", pytest.fail)
    if inside == "policy":
        (tmp_path / inside).write_text("a file")
    else:
        (tmp_path / inside).mkdir()
    kinds = "is a file, not a folder" if inside == "policy" else "is a folder, not a file"
    assert one_error(run("demo", "--out", tmp_path)) == f"{tmp_path / inside} {kinds}"


def test_a_folder_in_place_of_a_file_is_called_one(policy: Path, run: Run) -> None:
    for command in (["audit", policy], ["route", policy, policy]):
        assert one_error(run(*command)) == f"{policy} is a folder, not a file"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_default_of_text_is_the_one_that_holds(command: str, run: Run) -> None:
    text = " ".join(run(command, "--help").stdout.replace("│", " ").split())
    from_log, from_policy = "Default: 'prompt', if there is one", "Default: what the policy was fitted on"
    expected = {"demo": (False, False), "audit": (True, False), "split": (True, False), "fit": (True, False)}
    assert (from_log in text, from_policy in text) == expected.get(command, (False, True))


def test_a_log_with_other_arms_is_refused(policy: Path, files: dict[str, Path], run: Run) -> None:
    table = pq.read_table(files["test"])
    pq.write_table(table.append_column("score:huge", pa.array([1.0] * len(table))), files["test"])
    assert "huge" in one_error(run("evaluate", policy, files["test"]))


def test_an_error_of_another_library_is_one_line_that_names_its_type(files: dict[str, Path], run: Run) -> None:
    table = pq.read_table(files["numbers"])
    holes = pa.array([None, *[1.0] * (len(table) - 1)])
    pq.write_table(table.set_column(table.column_names.index("size"), "size", holes), files["numbers"])
    message = one_error(run("fit", files["numbers"], "--out", files["numbers"].parent / "p", "--feature", "size"))
    assert message.startswith("ValueError: Input X contains NaN.")
    assert message.endswith("(--debug shows where)")


@pytest.mark.parametrize("place", ["first", "last"])
def test_debug_shows_where_an_error_came_from(place: str, tmp_path: Path, run: Run) -> None:
    command = ["audit", tmp_path / "none.parquet"]
    result = run(*(["--debug", *command] if place == "first" else [*command, "--debug"]))
    assert result.exit_code == 1
    assert isinstance(result.exception, defer.exceptions.DeferError)
    assert "error:" not in result.output


def test_an_interruption_is_exit_code_130(files: dict[str, Path], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(path: Path, **options: Any) -> OutcomeLog:
        raise KeyboardInterrupt

    monkeypatch.setattr(OutcomeLog, "read_parquet", interrupt)
    assert one_error(run("audit", files["train"]), code=130) == "interrupted"


def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "defer", *[str(argument) for argument in arguments]]
    return subprocess.Popen(command, stdout=subprocess.PIPE, **options)


def test_a_closed_pipe_ends_quietly(policy: Path, files: dict[str, Path]) -> None:
    many = files["queries"].read_text() * 20
    (policy.parent / "many.jsonl").write_text(many)
    process = start("route", policy, policy.parent / "many.jsonl", stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["id"] == 0
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 1
    process.stderr.close()


def test_progress_on_a_terminal_leaves_standard_output_clean(policy: Path, files: dict[str, Path]) -> None:
    ours, theirs = pty.openpty()
    try:
        with start("route", policy, files["queries"], stderr=theirs, env={**os.environ, "TERM": "xterm"}) as process:
            output, _ = process.communicate(timeout=120)
        os.close(theirs)
        progress = os.read(ours, 100_000).decode()
    finally:
        os.close(ours)
    assert process.returncode == 0
    assert [json.loads(line)["id"] for line in output.splitlines()] == list(range(200))
    assert "routed 200 queries" in progress
    assert "prompt" not in progress


def test_the_console_script_and_the_module_are_the_same_program(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("defer")
    for program in ([str(script)], [sys.executable, "-m", "defer"]):
        result = subprocess.run([*program, "juggle"], capture_output=True, text=True, cwd=tmp_path, check=False)
        assert (result.returncode, result.stdout) == (2, "")
        assert "Usage: defer [OPTIONS] COMMAND" in result.stderr
