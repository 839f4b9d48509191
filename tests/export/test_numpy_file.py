"""The NumPy export decides as the router does, where neither scikit-learn nor defer can be imported."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import FeatureUnion
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeRegressor

import defer.export
from defer import Budget, OutcomeLog, Share, make_pipeline
from defer.datasets import load_tiny
from defer.estimators import KNNRouter, QualityRouter, RandomMixture, SentenceEmbedder, SessionRouter, TunedRouter
from defer.estimators.text import router as text_router
from defer.exceptions import RouterInputError
from defer.export import NumpyPolicy, semantic_router_config, to_numpy, to_onnx

RUNTIME = Path(defer.export.__file__).parent / "runtime.py"


def graded(log: OutcomeLog) -> Any:
    """Three grades of the first arm, one of the last."""
    quality = np.array(log.quality)
    quality[::3, 0] = 0.5
    quality[:, 2] = 0.25
    return quality


def fitted(kind: str, log: OutcomeLog) -> Any:
    costs, weight = {"cost": log.cost}, np.arange(len(log)) % 3.0
    # Without the jitter many logged queries point the same way, and any of them may complete a neighbourhood.
    log = replace(log, X=np.asarray(log.X) + 0.1 * np.random.default_rng(6).normal(size=np.shape(log.X)))
    match kind:
        case "ridge":
            return make_pipeline(StandardScaler(), QualityRouter(Ridge(), Ridge(), cost_weight=9.0)).fit(
                log.X, log.quality, **costs
            )
        case "least squares":
            return QualityRouter(LinearRegression(), multi_output=True).fit(log.X, log.quality)
        case "logistic":
            return QualityRouter(LogisticRegression(), cost_weight=3.0).fit(log.X, log.quality, **costs)
        case "grades":
            return QualityRouter(LogisticRegression()).fit(log.X, graded(log))
        case "cosine":
            return KNNRouter(9, cost_weight=4.0).fit(log.X, log.quality, **costs)
        case "euclidean":
            router = KNNRouter(9, metric="euclidean", cost="neighbors", cost_weight=4.0)
            return make_pipeline(StandardScaler(with_mean=False), router).fit(log.X, log.quality, **costs)
        case "weighted":
            return KNNRouter(9, cost="neighbors").fit(log.X, log.quality, sample_weight=weight, **costs)
        case "budget":
            inner = make_pipeline(StandardScaler(), QualityRouter(cost_weight=1.0))
            return TunedRouter(inner, limit=Budget(mean_cost=0.006)).fit(log.X, log.quality, **costs)
        case "tie":
            return TunedRouter(RandomLike(), limit=Budget(mean_cost=0.006)).fit(
                np.zeros((len(log), 2)), log.quality, **costs
            )
        case _:
            return TunedRouter(QualityRouter(), limit=Share("large", at_most=0.2)).fit(log.X, log.quality, **costs)


class RandomLike(QualityRouter):
    """Predicts the same for all queries, so that a budget splits a tie."""


KINDS = ("ridge", "least squares", "logistic", "grades", "cosine", "euclidean", "weighted", "budget", "tie", "share")


def exported(router: Any) -> NumpyPolicy:
    file = io.BytesIO()
    to_numpy(router, file)
    file.seek(0)
    return NumpyPolicy(file)


def assert_same(router: Any, queries: Any) -> None:
    policy = exported(router)
    arm, quality, cost = policy.decide(queries)
    assert router.arms_[arm].tolist() == router.predict(queries).tolist() == policy.predict(queries)
    np.testing.assert_allclose(quality, router.predict_quality(queries), rtol=0, atol=1e-9)
    np.testing.assert_allclose(cost, router.predict_cost(queries), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_decided_as_the_router_does(kind: str, full_log: OutcomeLog) -> None:
    router = fitted(kind, full_log)
    queries = np.vstack([np.zeros((1, 2)), np.random.default_rng(5).normal(size=(150, 2)), full_log.X[:50]])
    assert_same(router, queries)


ODD = ["", "ab a", "ÜBER  naïve   x\x00y", "漢字 テスト", "a" * 5000, "one"]


@pytest.mark.parametrize(
    "features",
    [
        {},
        {"analyzer": "char_wb", "ngram_range": (1, 4), "sublinear_tf": True},
        {"ngram_range": (2, 2), "norm": "l1", "binary": True, "use_idf": False, "lowercase": False},
        {"norm": None, "token_pattern": r"\S+"},
    ],
)
def test_texts_are_decided_as_the_router_does(features: dict[str, Any]) -> None:
    log = load_tiny().select(slice(0, 300))
    for router in (QualityRouter(Ridge(alpha=3.0), Ridge()), KNNRouter(7)):
        pipeline = make_pipeline(TfidfVectorizer(**features), router).fit(log.X, log.quality, cost=log.cost)
        assert_same(pipeline, [*load_tiny().X[300:360], *ODD])


def test_the_everyday_text_router_is_exported() -> None:
    log = load_tiny().select(slice(0, 300))
    router = TunedRouter(text_router(embeddings=False), limit=Budget(mean_cost=float(np.mean(log.cost)) / 2))
    assert_same(router.fit(log.X, log.quality, cost=log.cost), [*load_tiny().X[300:400], *ODD])


def test_it_runs_on_numpy_alone(full_log: OutcomeLog, tmp_path: Path) -> None:
    """The runtime is copied away, and importing defer, scikit-learn or SciPy is an error there."""
    router = fitted("euclidean", full_log)
    to_numpy(router, tmp_path / "policy.npz")
    (tmp_path / "policy_runtime.py").write_bytes(RUNTIME.read_bytes())
    np.save(tmp_path / "queries.npy", full_log.X[:40])
    code = """
import sys
for name in ("sklearn", "scipy", "defer", "pandas", "joblib"):
    sys.modules[name] = None
import numpy as np
from policy_runtime import NumpyPolicy
print(*NumpyPolicy("policy.npz").predict(np.load("queries.npy")))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == router.predict(full_log.X[:40]).tolist()


def test_the_runtime_is_short_and_imports_numpy_only() -> None:
    lines = RUNTIME.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 125
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    assert imports == ["import json", "import re", "from typing import Any", "import numpy as np"]


def test_arms_keep_their_names_and_the_file_needs_no_pickle(full_log: OutcomeLog, tmp_path: Path) -> None:
    to_numpy(KNNRouter(3).fit(full_log.X, np.array(full_log.quality)), tmp_path / "p.npz")
    with np.load(tmp_path / "p.npz", allow_pickle=False) as archive:
        assert all(archive[name].dtype != object for name in archive.files)
    assert NumpyPolicy(tmp_path / "p.npz").arms == [0, 1, 2]


@pytest.mark.parametrize(
    ("router", "message"),
    [
        (RandomMixture(), "RandomMixture cannot be exported as arrays; what can is QualityRouter on Ridge"),
        (make_pipeline(MinMaxScaler(), QualityRouter()), "the step MinMaxScaler cannot"),
        (QualityRouter(DecisionTreeRegressor()), "the regressor DecisionTreeRegressor cannot"),
        (make_pipeline(StandardScaler(), StandardScaler(), KNNRouter(3)), None),
    ],
)
def test_what_cannot_be_written_is_named(router: Any, message: str | None, full_log: OutcomeLog) -> None:
    router.fit(full_log.X, full_log.quality, cost=full_log.cost)
    if message is None:
        assert_same(router, full_log.X[:20])
        return
    with pytest.raises(RouterInputError, match=message):
        to_numpy(router, io.BytesIO())


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (HashingVectorizer(n_features=64), "the step HashingVectorizer cannot"),
        (
            FeatureUnion([("a", TfidfVectorizer()), ("b", HashingVectorizer(n_features=64))]),
            "the step HashingVectorizer",
        ),
        (TfidfVectorizer(stop_words=["the"]), r"a TfidfVectorizer with stop_words=\['the'\]"),
        (TfidfVectorizer(strip_accents="unicode"), "a TfidfVectorizer with strip_accents='unicode'"),
        (TfidfVectorizer(analyzer="char"), "a TfidfVectorizer with analyzer='char'"),
    ],
)
def test_text_features_that_cannot_be_written_are_named(step: Any, message: str) -> None:
    router = make_pipeline(step, QualityRouter()).fit(["a tree", "the river"], [[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(RouterInputError, match=message):
        to_numpy(router, io.BytesIO())


def test_an_unfitted_router_and_classified_costs_are_refused(full_log: OutcomeLog) -> None:
    with pytest.raises(RouterInputError, match="only a fitted router can be exported, and this QualityRouter is not"):
        to_numpy(QualityRouter(), io.BytesIO())
    router = QualityRouter(Ridge(), LogisticRegression())
    router.fit(full_log.X, full_log.quality, cost=np.round(np.asarray(full_log.quality)))
    with pytest.raises(RouterInputError, match="a classifier as cost_regressor cannot"):
        to_numpy(router, io.BytesIO())


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ([[0.0, np.nan], [1.0, 1.0]], r"2 finite numbers each: 1 of 2 are not, the first is \[0.0, nan\] in row 0"),
        ([[0.0, 1.0], [1.0, np.inf], [np.nan, 1.0]], r"2 of 3 are not, the first is \[1.0, inf\] in row 1"),
        (np.zeros((2, 3)), r"2 finite numbers each: 2 of 2 are not, the first is array\(\[0., 0., 0.\]\) in row 0"),
        ([[0.0, 1.0], [0.0]], r"1 of 2 are not, the first is \[0.0\] in row 1"),
        (np.zeros(2), r"2 finite numbers each: got array\(\[0., 0.\]\)"),
        ([0.0, 1.0], "2 of 2 are not, the first is 0.0 in row 0"),
        (["a text"], "1 of 1 are not, the first is 'a text' in row 0"),
        ([["1", "2"]], r"1 of 1 are not, the first is \['1', '2'\] in row 0"),
        ([None], "1 of 1 are not, the first is None in row 0"),
        ("a text", "2 finite numbers each: got 'a text'"),
        (3.0, "2 finite numbers each: got 3.0"),
        ([], r"got \[\]"),
        (np.zeros((0, 2)), "got array"),
    ],
)
def test_a_policy_on_numbers_names_other_queries(queries: Any, message: str, full_log: OutcomeLog) -> None:
    for kind in ("ridge", "cosine"):
        policy = exported(fitted(kind, full_log))
        with pytest.raises(ValueError, match=f"this policy takes a batch of queries, .*{message}"):
            policy.predict(queries)


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ("a tree", "one text each: got 'a tree'"),
        (["a tree", None], "one text each: 1 of 2 are not, the first is None in row 1"),
        ([1.0], "1 of 1 are not, the first is 1.0 in row 0"),
        (np.zeros((1, 2)), "one text each: got array"),
        (pd.DataFrame({"prompt": ["a tree"]}), "one text each: got array"),
        ([], r"got \[\]"),
    ],
)
def test_a_policy_on_texts_names_other_queries(queries: Any, message: str) -> None:
    router = make_pipeline(TfidfVectorizer(), QualityRouter()).fit(["a tree", "river"], [[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match=f"this policy takes a batch of queries, .*{message}"):
        exported(router).predict(queries)


def test_columns_and_tables_of_other_libraries_are_read(full_log: OutcomeLog) -> None:
    policy, queries = exported(fitted("ridge", full_log)), np.asarray(full_log.X)[:5]
    for given in (queries.tolist(), pd.DataFrame(queries), pl.DataFrame(queries)):
        assert policy.predict(given) == policy.predict(queries)
    texts = ["a tree", "river"]
    policy = exported(make_pipeline(TfidfVectorizer(), QualityRouter()).fit(texts, [[1.0, 0.0], [0.0, 1.0]]))
    for given in (texts, tuple(texts), np.array(texts), pd.Series(texts), pl.Series(texts)):
        assert policy.predict(given) == [0, 1]


def test_another_file_is_no_policy(full_log: OutcomeLog, tmp_path: Path) -> None:
    file = tmp_path / "policy.npz"
    to_numpy(fitted("ridge", full_log), file)
    whole = file.read_bytes()
    for content in (b"", b"text", b"PK\x03\x04 no archive", whole[: len(whole) // 2], whole[:-4]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"policy.npz.* is no policy as defer.export.to_numpy writes it"):
            NumpyPolicy(file)
    np.savez(file, spec=np.zeros(3))
    with pytest.raises(ValueError, match="is no policy as defer"):
        NumpyPolicy(file)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(ValueError, match="is no policy as defer"):
        NumpyPolicy(tmp_path / "array.npy")
    with pytest.raises(FileNotFoundError):
        NumpyPolicy(tmp_path / "nowhere.npz")


@pytest.mark.filterwarnings("ignore::defer.exceptions.FallbackWarning")
@pytest.mark.parametrize("export", [to_numpy, to_onnx])
def test_routers_for_text_that_cannot_be_written_name_one_that_can(export: Any, tmp_path: Path) -> None:
    texts, quality = [f"text {number}" for number in range(12)], [[1.0, 0.0], [0.0, 1.0]] * 6
    embedder = SentenceEmbedder()
    embedder._encoder = None
    alone, beside = (make_pipeline(TfidfVectorizer(), QualityRouter()).fit(texts, quality) for _ in range(2))
    beside.steps[0] = ("union", FeatureUnion([("words", beside.steps[0][1]), ("meaning", embedder)]))
    alone.steps[0] = ("embedder", embedder)
    cost = [[1.0, 2.0]] * 12
    blend = defer.router("auto", embeddings=False).fit(texts, quality, cost=cost)
    tuned = TunedRouter(defer.router("auto", embeddings=False), defer.Budget(mean_cost=1.5), cv=2)
    tuned.fit(texts, quality, cost=cost)
    for router, name in (
        (beside, "the step SentenceEmbedder"), (alone, "the step SentenceEmbedder"), (blend, "StackedRouter"),
        (tuned, "StackedRouter"),
    ):  # fmt: skip
        with pytest.raises(
            RouterInputError,
            match=rf"{name} cannot be exported as arrays; what can is QualityRouter on .* or KNNRouter; .*; for texts fit "
            r"defer\.router\(embeddings=False\), of kind 'ridge', in its place, or use defer\.save or "
            r"defer\.export\.litellm_router where this library runs",
        ):
            export(router, tmp_path / "policy")
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("export", [to_numpy, to_onnx])
def test_a_router_of_sessions_is_exported_by_what_is_inside(export: Any, full_log: OutcomeLog, tmp_path: Path) -> None:
    router = SessionRouter(QualityRouter()).fit(full_log.X, full_log.quality, cost=full_log.cost)
    with pytest.raises(
        RouterInputError, match=r"SessionRouter cannot be exported .*; export its router_, which decides"
    ):
        export(router, tmp_path / "policy")
    export(router.router_, tmp_path / "policy")
    assert len(list(tmp_path.glob("policy*"))) == 1


@pytest.mark.parametrize(
    "export", [to_numpy, to_onnx, lambda router, file: semantic_router_config(router, 3, endpoints={})]
)
@pytest.mark.parametrize(
    ("router", "message"),
    [
        (
            QualityRouter,
            r"only a fitted router can be exported, got the class QualityRouter; fit QualityRouter\(\) first",
        ),
        (QualityRouter(), "only a fitted router can be exported, and this QualityRouter is not fitted"),
        (make_pipeline(TfidfVectorizer(), QualityRouter()), "and this RouterPipeline is not fitted"),
        (None, "only a fitted router can be exported, got None"),
        (StandardScaler(), r"only a fitted router can be exported, got StandardScaler\(\)"),
    ],
)
def test_what_is_no_fitted_router_is_said(export: Any, router: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(RouterInputError, match=message):
        export(router, tmp_path / "policy")
