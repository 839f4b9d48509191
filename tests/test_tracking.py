"""MLflow: a real store, a real server, and models that MLflow itself loads and serves."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from defer import Budget, OutcomeLog, evaluate, make_pipeline, save, tracking
from defer.estimators import QualityRouter, SingleArm, TunedRouter
from defer.evaluation.evaluation import OBSERVERS
from defer.evaluation.result import Evaluation
from defer.exceptions import DeferWarning, MissingExtraError, PersistenceError, RouterInputError
from defer.persistence import log_hash, manifest
from defer.tracking import RouterModel, autolog, load_model, log_evaluation, log_model, metrics_of, save_model

mlflow = pytest.importorskip("mlflow")

TEXT = {"text": "prompt"}


@pytest.fixture(scope="module")
def local_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A local store; setting one up takes seconds, so these tests share it."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def store(local_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An experiment of this test alone; no run is left open, and nothing is sent anywhere."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(local_store)
    mlflow.create_experiment(tmp_path.name, artifact_location=(tmp_path / "artifacts").as_uri())
    mlflow.set_experiment(tmp_path.name)
    yield local_store
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(before)


@pytest.fixture
def evaluation(full_log: OutcomeLog) -> Evaluation:
    train, test = full_log.split(test_size=0.5, seed=0, by="random")
    router = TunedRouter(QualityRouter(Ridge(), Ridge()), limit=Budget(mean_cost=0.01))
    return evaluate(router.fit(train.X, train.quality, cost=train.cost), test)


@pytest.fixture
def text_router() -> Any:
    texts = [f"add {number}" if number % 2 else f"spell word {number}" for number in range(60)]
    quality = np.tile([[0.0, 1.0], [1.0, 0.0]], (30, 1))
    router = make_pipeline(TfidfVectorizer(), QualityRouter(Ridge(0.1)))
    return router.fit(texts, pd.DataFrame(quality, columns=["numbers", "words"]), cost=np.tile([0.1, 0.3], (60, 1)))


def numbers_of(evaluation: Evaluation) -> dict[str, float]:
    estimate = evaluation.estimate
    found = {}
    for name in ("quality", "cost", "latency"):
        part = estimate.of(name)
        found |= {name: part.value, f"{name}_low": part.low, f"{name}_high": part.high}
    return found


def test_metrics_hold_every_value_with_its_bounds(evaluation: Evaluation) -> None:
    metrics = metrics_of(evaluation)
    expected = numbers_of(evaluation) | {
        "difference": evaluation.difference.value,
        "difference_low": evaluation.difference.low,
        "difference_high": evaluation.difference.high,
        "ess": evaluation.estimate.ess,
        "ece": evaluation.calibration.ece,
        "aiq": evaluation.aiq(),
        "load/large": evaluation.load["large"],
    }
    assert {name: metrics[name] for name in expected} == expected
    assert all(np.isfinite(value) for value in metrics.values())
    assert sum(value for name, value in metrics.items() if name.startswith("load/")) == pytest.approx(1.0)


def test_metrics_of_two_arms_have_the_apgr(full_log: OutcomeLog) -> None:
    two = full_log.select(arms=["small", "large"])
    found = evaluate(QualityRouter().fit(two.X, two.quality, cost=two.cost), two)
    assert metrics_of(found)["apgr"] == found.apgr()
    assert "apgr" not in metrics_of(evaluate(QualityRouter().fit(full_log.X, full_log.quality), full_log))


def test_a_bare_policy_has_no_calibration_but_the_rest(full_log: OutcomeLog) -> None:
    metrics = metrics_of(evaluate(np.full((len(full_log), 3), 1 / 3), full_log))
    assert metrics["quality"] == pytest.approx(np.asarray(full_log.quality).mean())
    assert "ece" not in metrics
    assert "aiq" not in metrics


def test_an_evaluation_becomes_a_run(store: str, evaluation: Evaluation) -> None:
    run_id = log_evaluation(evaluation, run_name="first")
    assert mlflow.active_run() is None
    run = mlflow.get_run(run_id)
    assert run.info.run_name == "first"
    assert run.info.status == "FINISHED"
    assert run.data.metrics == metrics_of(evaluation)
    params = run.data.params
    assert params["limit"] == repr(evaluation.limit)
    assert params["baseline"] == evaluation.baseline
    assert params["arms"] == "small, medium, large"
    assert params["n_queries"] == "100"
    assert params["log"] == log_hash(evaluation.log)
    names = {Path(item.path).name for item in mlflow.MlflowClient().list_artifacts(run_id, "defer")}
    assert names == {"report.html", "load.png", "calibration.png", "frontier.png", "domains.png"}
    page = Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="defer/report.html"))
    assert page.read_text().lstrip().lower().startswith("<!doctype html>")
    picture = Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="defer/frontier.png"))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_an_open_run_is_used_and_left_open(store: str, evaluation: Evaluation) -> None:
    with mlflow.start_run() as run:
        evaluation.log_to_mlflow()
        assert mlflow.active_run().info.run_id == run.info.run_id
    assert mlflow.get_run(run.info.run_id).data.metrics["quality"] == evaluation.estimate.value
    assert len(mlflow.search_runs()) == 1


def run_of(run_id: str) -> Any:
    return mlflow.get_run(run_id)


def test_another_evaluation_in_an_open_run_gets_a_nested_run(store: str, full_log: OutcomeLog) -> None:
    first, second = (evaluate(SingleArm(arm).fit(full_log.X, full_log.quality), full_log) for arm in ("small", "large"))
    with mlflow.start_run() as run:
        assert log_evaluation(first) == run.info.run_id
        assert log_evaluation(first) == run.info.run_id
        nested = log_evaluation(second, run_name="large")
        assert mlflow.active_run().info.run_id == run.info.run_id
    assert run_of(run.info.run_id).data.metrics == metrics_of(first)
    assert run_of(nested).data.metrics == metrics_of(second)
    assert run_of(nested).info.run_name == "large"
    assert run_of(nested).info.status == "FINISHED"
    assert run_of(nested).data.tags["mlflow.parentRunId"] == run.info.run_id
    assert len(mlflow.search_runs()) == 2


def test_equal_parameters_with_other_metrics_do_not_overwrite_them(store: str, full_log: OutcomeLog) -> None:
    first, second = (evaluate(np.full(len(full_log), arm), full_log, baseline="small") for arm in ("small", "large"))
    with mlflow.start_run() as run:
        log_evaluation(first)
        nested = log_evaluation(second)
    assert run_of(nested).data.params == run_of(run.info.run_id).data.params
    assert run_of(run.info.run_id).data.metrics == metrics_of(first)
    assert run_of(nested).data.metrics == metrics_of(second)


def test_a_parameter_of_the_users_own_is_left_alone(store: str, evaluation: Evaluation) -> None:
    with mlflow.start_run() as run:
        mlflow.log_param("limit", "mine")
        nested = log_evaluation(evaluation)
    assert run_of(run.info.run_id).data.params == {"limit": "mine"}
    assert run_of(nested).data.params["limit"] == repr(evaluation.limit)


def test_autolog_loses_no_evaluation_of_an_open_run(store: str, full_log: OutcomeLog) -> None:
    autolog()
    try:
        with mlflow.start_run():
            found = [evaluate(SingleArm(arm).fit(full_log.X, full_log.quality), full_log) for arm in full_log.arms]
    finally:
        autolog(disable=True)
    logged = [run.data.metrics["quality"] for run in mlflow.search_runs(output_format="list")]
    assert sorted(logged) == sorted(one.estimate.value for one in found)


def test_names_that_mlflow_refuses_are_changed(store: str, full_log: OutcomeLog) -> None:
    odd = replace(
        full_log,
        arms=("gpt@4#turbo", "模型", "a" * 7000),
        quality=np.asarray(full_log.quality),
        cost=None,
        latency=None,
    )
    router = SingleArm().fit(odd.X, odd.quality)
    run = mlflow.get_run(log_evaluation(evaluate(router, odd)))
    assert run.data.metrics["load/gpt_4_turbo"] in (0.0, 1.0)
    assert len(run.data.params["arms"]) <= 6000


def test_autolog_logs_every_evaluation_once_until_it_is_switched_off(store: str, full_log: OutcomeLog) -> None:
    router = SingleArm().fit(full_log.X, full_log.quality)
    observers = list(OBSERVERS)
    autolog()
    autolog()
    try:
        found = evaluate(router, full_log)
        runs = mlflow.search_runs(output_format="list")
        assert [run.data.metrics["quality"] for run in runs] == [found.estimate.value]
    finally:
        autolog(disable=True)
    evaluate(router, full_log)
    assert len(mlflow.search_runs()) == 1
    assert observers == OBSERVERS
    autolog(disable=True)


def test_autolog_does_not_lose_an_evaluation_that_mlflow_refuses(
    store: str, full_log: OutcomeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise mlflow.exceptions.MlflowException("the disk is full")

    monkeypatch.setattr(mlflow, "log_metrics", refuse)
    autolog()
    try:
        with pytest.warns(DeferWarning, match="autolog: MLflow did not take the evaluation: the disk is full"):
            found = evaluate(SingleArm().fit(full_log.X, full_log.quality), full_log)
    finally:
        autolog(disable=True)
    assert found.estimate.n == 200


def test_without_mlflow_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, evaluation: Evaluation, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    router = SingleArm().fit([[0.0]], [[1.0, 0.0]])
    for call in (
        lambda: log_evaluation(evaluation),
        autolog,
        lambda: save_model(router, tmp_path / "model"),
        lambda: log_model(router),
        lambda: load_model(tmp_path),
    ):
        with pytest.raises(MissingExtraError, match=r"'mlflow', which is not installed.*defer-learn\[mlflow\]"):
            call()


def test_a_saved_model_is_a_policy_with_two_flavours_and_no_pickle(tmp_path: Path, text_router: Any) -> None:
    save_model(text_router, tmp_path / "model", queries=TEXT, metrics={"quality": 0.5})
    flavors = mlflow.models.Model.load(str(tmp_path / "model")).flavors
    assert flavors["python_function"]["loader_module"] == "defer.tracking"
    assert flavors["defer"]["data"] == "policy"
    assert manifest(tmp_path / "model" / "policy")["metrics"] == {"quality": 0.5}
    names = {path.name for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert {"MLmodel", "requirements.txt", "python_env.yaml", "manifest.json"} < names
    assert not [name for name in names if name.endswith(("pkl", "pickle", "cloudpickle"))]
    assert "defer-learn==" in (tmp_path / "model" / "requirements.txt").read_text()
    loaded = load_model(tmp_path / "model")
    assert_allclose(loaded.predict_quality(["add 1", "else"]), text_router.predict_quality(["add 1", "else"]))


def test_mlflow_loads_a_text_model_and_checks_its_signature(tmp_path: Path, text_router: Any) -> None:
    save_model(text_router, tmp_path / "model", queries=TEXT)
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    texts = ["add 7", "spell word 8", "nothing known"]
    answer = model.predict(pd.DataFrame({"prompt": texts}))
    expected = text_router.route(texts)
    assert answer["arm"].tolist() == expected.label.tolist() == ["numbers", "words", expected.label[2]]
    assert_allclose(
        answer[["propensity", "quality", "cost"]],
        np.column_stack([expected.propensity, expected.quality, expected.cost]),
    )
    assert model.metadata.get_output_schema().input_names() == ["arm", "propensity", "quality", "cost"]
    with pytest.raises(mlflow.exceptions.MlflowException, match="prompt"):
        model.predict(pd.DataFrame({"question": texts}))


def test_mlflow_takes_columns_of_numbers_in_any_order(tmp_path: Path, full_log: OutcomeLog) -> None:
    router = QualityRouter().fit(full_log.X, full_log.quality, cost=full_log.cost)
    save_model(router, tmp_path / "model", queries={"features": ["kind", "size"]})
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    frame = pd.DataFrame({"size": full_log.X[:, 1], "kind": full_log.X[:, 0]})
    assert model.predict(frame)["arm"].tolist() == router.predict(full_log.X).tolist()


def test_foreign_types_are_trusted_by_name(tmp_path: Path, full_log: OutcomeLog) -> None:
    from sklearn.tree import DecisionTreeRegressor

    router = QualityRouter(DecisionTreeRegressor(max_depth=2)).fit(full_log.X, full_log.quality)
    names = ["sklearn.tree._tree.Tree"]
    save_model(router, tmp_path / "model", trusted=names)
    with pytest.raises(PersistenceError, match="types that are not trusted"):
        load_model(tmp_path / "model")
    assert_allclose(
        load_model(tmp_path / "model", trusted=names).predict_quality(full_log.X), router.predict_quality(full_log.X)
    )
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    assert model.predict(full_log.X)["arm"].tolist() == router.predict(full_log.X).tolist()


def test_a_logged_model_is_registered_and_comes_back(store: str, text_router: Any) -> None:
    with mlflow.start_run():
        info = log_model(text_router, "by_text", queries=TEXT, registered_model_name="router")
    texts = ["add 5", "spell word 9"]
    for uri in (info.model_uri, "models:/router/1"):
        assert load_model(uri).predict(texts).tolist() == text_router.predict(texts).tolist()
    assert mlflow.pyfunc.load_model(info.model_uri).predict(pd.DataFrame({"prompt": texts}))["arm"].tolist() == [
        "numbers",
        "words",
    ]


def test_mlflow_models_predict_answers_json_and_csv(tmp_path: Path, text_router: Any) -> None:
    save_model(text_router, tmp_path / "model", queries=TEXT)
    (tmp_path / "in.json").write_text(
        json.dumps({"dataframe_split": {"columns": ["prompt"], "data": [["add 3"], ["spell word 4"]]}})
    )
    command = [
        sys.executable, "-m", "mlflow", "models", "predict", "--env-manager", "local", "-m", str(tmp_path / "model"),
        "-i", str(tmp_path / "in.json"), "-t", "json", "-o", str(tmp_path / "out.json"),
    ]  # fmt: skip
    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'db'}",
    }
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out.json").read_text())["predictions"]
    assert [row["arm"] for row in rows] == ["numbers", "words"]
    quality = text_router.route(["add 3", "spell word 4"]).quality
    assert_allclose([row["quality"] for row in rows], quality)
    (tmp_path / "in.csv").write_text("prompt\nadd 3\nspell word 4\n")
    files = {"input_path": str(tmp_path / "in.csv"), "output_path": str(tmp_path / "again.json")}
    mlflow.models.predict(str(tmp_path / "model"), content_type="csv", env_manager="local", **files)
    again = json.loads((tmp_path / "again.json").read_text())["predictions"]
    assert again == rows


@pytest.mark.parametrize("name", ["full", "file"])
def test_a_model_needs_a_folder_of_its_own(name: str, tmp_path: Path, text_router: Any) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(PersistenceError, match="exists already; an MLflow model needs a folder of its own"):
        save_model(text_router, tmp_path / name)
    (tmp_path / "empty").mkdir()
    save_model(text_router, tmp_path / "empty")


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path, text_router: Any) -> None:
    save(text_router, tmp_path / "policy")
    with pytest.raises(PersistenceError, match="is no MLflow model: it has no file MLmodel"):
        load_model(tmp_path / "policy")
    mlflow.models.Model(flavors={"sklearn": {}}).save(str(tmp_path / "policy" / "MLmodel"))
    with pytest.raises(PersistenceError, match=r"has no flavour 'defer'; it has \['sklearn'\]"):
        load_model(tmp_path / "policy")


@pytest.mark.parametrize("queries", [{"prompt": "text"}, {"text": 3}, {"features": "size"}])
def test_names_of_queries_are_checked(queries: dict[str, Any], tmp_path: Path, text_router: Any) -> None:
    form = r"queries= must be \{'text': column\} or \{'features': \[columns\]\}"
    with pytest.raises(PersistenceError, match=form):
        save_model(text_router, tmp_path / "model", queries=queries)
    with pytest.raises(PersistenceError, match=form):
        log_model(text_router, queries=queries)
    assert not (tmp_path / "model").exists()


def test_a_router_without_costs_predicts_none(full_log: OutcomeLog) -> None:
    router = SingleArm("small").fit(full_log.X, full_log.quality)
    answer = RouterModel(router).predict(full_log.X[:2])
    assert answer["cost"].isna().all()
    assert answer["propensity"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "given",
    [
        ["add 1", "spell"],
        np.array(["add 1", "spell"]),
        pd.DataFrame({"any": ["add 1", "spell"]}),
        pd.Series(["add 1", "spell"]),
    ],
    ids=["list", "array", "frame", "series"],
)
def test_text_in_any_form_is_routed(given: Any, text_router: Any) -> None:
    assert RouterModel(text_router).predict(given)["arm"].tolist() == text_router.predict(["add 1", "spell"]).tolist()


def test_a_missing_column_or_text_is_named(text_router: Any) -> None:
    model = RouterModel(text_router, TEXT)
    with pytest.raises(RouterInputError, match=r"column 'prompt' is missing; the columns are \['question'\]"):
        model.predict(pd.DataFrame({"question": ["a"]}))
    with pytest.raises(
        RouterInputError, match="column 'prompt' has 2 of 3 values that are no text, the first in row 1"
    ):
        model.predict(pd.DataFrame({"prompt": ["a", None, 3]}))


def test_queries_that_come_alone_are_drawn_afresh() -> None:
    """A randomised group must be randomised however small the batches are; 400 draws at 1/2 leave 200 +- 60."""
    from defer.estimators import RandomMixture

    class Half(RandomMixture):
        def route(self, X: Any, **options: Any) -> Any:
            return super().route(X, limit=Budget(mean_cost=1.5), random_state=options["random_state"])

    router = Half().fit([[0.0]] * 2, [[0.0, 1.0]] * 2, cost=[[1.0, 2.0]] * 2)
    model = RouterModel(router, random_state=0)
    drawn = [model.predict(np.array([[0.0]]))["arm"][0] for _ in range(400)]
    assert 140 < sum(drawn) < 260


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return bytes(answer.read())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A real tracking server with its user interface, on loopback."""
    port = free_port()
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}", "--artifacts-destination", str(tmp_path / "served"),
    ]  # fmt: skip
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = (tmp_path / "server.log").open("wb")
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            if process.poll() is not None:
                pytest.fail((tmp_path / "server.log").read_text())
            try:
                ask(f"{url}/health")
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.5)
        yield url
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)
        log.close()


def test_a_server_shows_what_was_logged(
    server: str, evaluation: Evaluation, text_router: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(server)
    try:
        mlflow.set_experiment("served")
        with mlflow.start_run(run_name="over HTTP") as run:
            evaluation.log_to_mlflow()
            info = log_model(text_router, queries=TEXT)
        assert load_model(info.model_uri).predict(["add 1"]).tolist() == ["numbers"]
    finally:
        mlflow.set_tracking_uri(before)
    document = json.loads(ask(f"{server}/api/2.0/mlflow/runs/get?run_id={run.info.run_id}"))["run"]
    assert document["info"]["run_name"] == "over HTTP"
    metrics = {entry["key"]: entry["value"] for entry in document["data"]["metrics"]}
    assert metrics == pytest.approx(metrics_of(evaluation))
    found = json.loads(ask(f"{server}/api/2.0/mlflow/artifacts/list?run_id={run.info.run_id}&path=defer"))
    assert "defer/report.html" in {entry["path"] for entry in found["files"]}
    page = ask(f"{server}/get-artifact?path=defer/report.html&run_uuid={run.info.run_id}")
    assert page.lstrip().lower().startswith(b"<!doctype html>")
    assert b"<title>MLflow</title>" in ask(f"{server}/")
    assert tracking.FLAVOR_NAME == "defer"
