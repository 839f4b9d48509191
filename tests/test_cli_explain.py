"""`defer explain` as its user meets it, and the table of routers that `defer fit` knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from defer import OutcomeLog
from defer.cli import app
from defer.command_options import DEFAULT_ROUTER, RouterName
from defer.command_routers import ROUTERS, build_router, describe_routers
from defer.estimators.explain import explain
from defer.exceptions import DeferError
from defer.persistence import load, save

Run = Callable[..., Result]
WORDS = ("tree", "river", "stone", "house", "cloud")


@pytest.fixture
def run() -> Run:
    def invoke(*arguments: Any, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)

    return invoke


def wide(log: OutcomeLog, **columns: Any) -> pa.Table:
    for index, arm in enumerate(log.arms):
        columns[f"score:{arm}"] = np.asarray(log.quality)[:, index]
        columns[f"cost_usd:{arm}"] = np.asarray(log.cost)[:, index]
    return pa.table(columns)


@pytest.fixture
def texts(tmp_path: Path, full_log: OutcomeLog, run: Run) -> Path:
    """A folder with a policy for texts, the log it was fitted on, and a held-out log."""
    prompts = [f"{WORDS[row % 5]} {WORDS[row % 3]} {row}" for row in range(200)]
    for name, rows in (("train", slice(None, 140)), ("test", slice(140, None))):
        pq.write_table(wide(full_log.select(rows), prompt=prompts[rows]), tmp_path / f"{name}.parquet")
    fitted = run("fit", tmp_path / "train.parquet", "--out", tmp_path / "policy", "--no-embeddings", "--budget", 0.008)
    assert fitted.exit_code == 0, fitted.output
    return tmp_path


@pytest.fixture
def numbers(tmp_path: Path, full_log: OutcomeLog, run: Run) -> Path:
    columns = {"kind": full_log.X[:, 0], "size": full_log.X[:, 1]}
    pq.write_table(wide(full_log, **columns), tmp_path / "log.parquet")
    features = ("--feature", "size", "--feature", "kind")
    assert run("fit", tmp_path / "log.parquet", "--out", tmp_path / "policy", *features).exit_code == 0
    return tmp_path


def one_error(result: Result) -> str:
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line.removeprefix("error: ")


def test_one_text_is_explained(texts: Path, run: Run) -> None:
    result = run("explain", texts / "policy", "tree river 3", "--log", texts / "test.parquet", "--neighbors", 2)
    assert result.exit_code == 0, result.output
    log = OutcomeLog.read_parquet(texts / "test.parquet", text="prompt")
    assert result.stdout == f"{explain(load(texts / 'policy'), 'tree river 3', log=log, n_neighbors=2)}\n"
    assert result.stderr == ""


def test_standard_input_and_json(texts: Path, run: Run) -> None:
    result = run("explain", texts / "policy", "-", "--json", stdin="tree river 3\n")
    document = json.loads(result.stdout)
    assert document == explain(load(texts / "policy"), "tree river 3").as_dict()
    assert document["query"] == "tree river 3"
    assert document["arm"] == load(texts / "policy").predict(["tree river 3"])[0]


def test_the_training_log_is_told(texts: Path, run: Run) -> None:
    result = run("explain", texts / "policy", "tree", "--log", texts / "train.parquet")
    assert result.exit_code == 0
    assert "is what the policy was fitted on: its ranges are too narrow" in result.stderr


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_a_picture_is_written(ending: str, texts: Path, run: Run) -> None:
    result = run("explain", texts / "policy", "tree", "--plot", texts / f"why.{ending}")
    assert result.exit_code == 0, result.output
    assert (texts / f"why.{ending}").stat().st_size > 1000


def test_numbers_are_a_json_object(numbers: Path, run: Run) -> None:
    for given, stdin in (('{"kind": 1, "size": 0.5}', None), ("-", '{"size": 0.5, "kind": 1}\n')):
        result = run("explain", numbers / "policy", given, "--json", "--log", numbers / "log.parquet", stdin=stdin)
        document = json.loads(result.stdout)
        assert document["query"] == [0.5, 1.0]
        assert document["arm"] == load(numbers / "policy").predict([[0.5, 1.0]])[0]
        assert len(document["neighbors"]) == 5


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("tree", r"the policy takes numbers: the query must be a JSON object with ['size', 'kind'], got 'tree'"),
        ("[1, 2]", r"the query must be a JSON object with ['size', 'kind'], got list"),
        ('{"size": 1}', r"the query has no 'kind'; it has ['size']"),
        ('{"size": 1, "kind": "x"}', r"the query: 'kind' must be a number, got 'x'"),
        ('{"size": 1, "kind": NaN}', r"the query: 'kind' must be a finite number, got nan"),
    ],
)
def test_wrong_numbers_are_one_line(query: str, message: str, numbers: Path, run: Run) -> None:
    assert message in one_error(run("explain", numbers / "policy", query))


@pytest.mark.parametrize("query", ["x" * 100_000, "漢字 テスト", "a\x00b\x1b[31m", "\t\n."])
def test_any_text_is_explained(query: str, texts: Path, run: Run) -> None:
    result = run("explain", texts / "policy", "-", "--log", texts / "test.parquet", stdin=query)
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.stdout
    assert "takes" in result.stdout.splitlines()[0]
    assert max(map(len, result.stdout.splitlines())) < 200


def test_a_query_far_from_the_log_is_told(numbers: Path, run: Run) -> None:
    for number, is_far in ((1e6, True), (1e300, True), (0.5, False)):
        query = json.dumps({"kind": 1, "size": number})
        document = json.loads(
            run("explain", numbers / "policy", query, "--json", "--log", numbers / "log.parquet").stdout
        )
        assert document["is_far"] == is_far
        assert any("extrapolate" in note or "similar at all" in note for note in document["notes"]) == is_far


def test_wrong_use_is_one_line(texts: Path, run: Run, full_log: OutcomeLog) -> None:
    policy = texts / "policy"
    assert one_error(run("explain", policy, " ")) == "the query is empty"
    assert "standard input is no UTF-8: byte 1 cannot be read" in one_error(run("explain", policy, "-", stdin=b"\xff"))
    assert "--plot writes .pdf, .png, .svg" in one_error(run("explain", policy, "a", "--plot", texts / "why.doc"))
    assert "there is no folder" in one_error(run("explain", policy, "a", "--plot", texts / "no" / "why.png"))
    assert "there is no such file" in one_error(run("explain", policy, "a", "--log", texts / "no.parquet"))
    assert run("explain", policy, "a", "--neighbors", 0).exit_code == 2
    save(build_router("single", full_log.X).fit(full_log.X, full_log.quality), texts / "bare")
    assert "the policy does not say what its queries are called" in one_error(run("explain", texts / "bare", "a"))


def test_the_command_explains_itself(run: Run) -> None:
    text = " ".join(run("explain", "--help").stdout.split())
    assert "price at which it flips" in text
    assert all(option in text for option in ("--log", "--neighbors", "--plot", "--json"))


def test_the_table_names_what_is_there() -> None:
    assert [member.value for member in RouterName] == list(ROUTERS)
    assert DEFAULT_ROUTER == "quality"
    assert describe_routers().count(": ") == len(ROUTERS)
    for entry in ROUTERS.values():
        assert callable(getattr(import_module(entry.module), entry.name))


@pytest.mark.parametrize("name", list(ROUTERS))
def test_every_name_is_built_for_texts_and_for_numbers(name: str) -> None:
    for queries in (["a text", "another"], np.zeros((2, 3))):
        router = build_router(name, queries, embeddings=False)
        assert hasattr(router, "route")
        assert not hasattr(router, "arms_")


@pytest.mark.filterwarnings("ignore::defer.exceptions.FallbackWarning")
@pytest.mark.parametrize("name", list(ROUTERS))
def test_the_same_log_makes_the_same_policy(name: str, full_log: OutcomeLog) -> None:
    models = []
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002 - what an unseeded router of scikit-learn draws from
        router = build_router(name, np.asarray(full_log.X)).fit(full_log.X, full_log.quality, cost=full_log.cost)
        models.append((router.predict_quality(full_log.X), router.predict_cost(full_log.X)))
    np.testing.assert_array_equal(models[0], models[1])


def test_every_router_that_takes_a_seed_is_given_one() -> None:
    for name in ROUTERS:
        for queries in (["a text"], np.zeros((2, 3))):
            seeds = build_router(name, queries, embeddings=False).get_params()
            assert all(
                value == 0
                for key, value in seeds.items()
                if key.endswith("router__random_state") and key.count("__") == 1
            )


def test_a_name_that_is_not_there_is_refused() -> None:
    with pytest.raises(DeferError, match=r"there is no router 'best'; there are \['quality', 'knn', "):
        build_router("best", ["a"])


def test_the_blend_is_fitted_by_name_and_takes_the_domains_as_tags(tmp_path: Path) -> None:
    texts = [f"{number} + {number + 7} = ?" for number in range(40)] + [
        f"reverse the word tree{number}" for number in range(40)
    ]
    log = OutcomeLog.from_arrays(
        texts,
        np.repeat([[1.0, 0.0], [0.0, 1.0]], 40, axis=0),
        arms=["sums", "words"],
        cost=np.tile([1.0, 2.0], (80, 1)),
        domain=["sum"] * 40 + ["word"] * 40,
    )
    log.to_parquet(tmp_path / "log.parquet")
    done = CliRunner().invoke(
        app,
        [
            "fit",
            str(tmp_path / "log.parquet"),
            "--out",
            str(tmp_path / "policy"),
            "--router",
            "auto",
            "--no-embeddings",
        ],
    )
    assert done.exit_code == 0, done.output
    router = load(tmp_path / "policy")
    assert "tags, ridge" in router[-1].member_weights_
    assert router.predict(["3 + 10 = ?"]).tolist() == ["sums"]
