"""The ONNX export decides as the router does, in float64 and float32."""

from __future__ import annotations

import builtins
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from defer import Budget, OutcomeLog, Share, make_pipeline
from defer.estimators import KNNRouter, QualityRouter, TunedRouter
from defer.exceptions import MissingExtraError, RouterInputError
from defer.export import to_onnx


def fitted(kind: str, log: OutcomeLog) -> Any:
    quality = np.array(log.quality)
    quality[::3, 0], quality[:, 2] = 0.5, 0.25
    scaled = QualityRouter(Ridge(), Ridge(), cost_weight=9.0)
    routers = {
        "ridge": make_pipeline(StandardScaler(), scaled),
        "grades": QualityRouter(LogisticRegression(), cost_weight=2.0),
        "cosine": KNNRouter(9, cost_weight=4.0),
        "euclidean": KNNRouter(9, metric="euclidean", cost="neighbors", cost_weight=4.0),
        "budget": TunedRouter(scaled, limit=Budget(mean_cost=0.006)),
        "share": TunedRouter(QualityRouter(), limit=Share(2, at_most=0.2)),
    }
    # Without the jitter many logged queries point the same way, and any of them may complete a neighbourhood.
    X = np.asarray(log.X) + 0.1 * np.random.default_rng(6).normal(size=np.shape(log.X))
    return routers[kind].fit(X, quality if kind == "grades" else np.array(log.quality), cost=np.array(log.cost))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", ["ridge", "grades", "cosine", "euclidean", "budget", "share"])
def test_the_graph_decides_as_the_router_does(kind: str, dtype: Any, full_log: OutcomeLog, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    router = fitted(kind, full_log)
    to_onnx(router, tmp_path / "policy.onnx", dtype=dtype)
    session = runtime.InferenceSession(tmp_path / "policy.onnx", providers=["CPUExecutionProvider"])
    queries = np.vstack([np.zeros((1, 2)), np.random.default_rng(5).normal(size=(200, 2))]).astype(dtype)
    arm, quality, cost, utility = session.run(None, {"queries": queries})
    close = 1e-9 if dtype == "float64" else 1e-5
    names = [router.arms_.tolist(), json.loads(session.get_modelmeta().custom_metadata_map["arms"])]
    assert names[0] == names[1]
    np.testing.assert_allclose(quality, router.predict_quality(queries), rtol=0, atol=close)
    np.testing.assert_allclose(cost, router.predict_cost(queries), rtol=0, atol=close)
    expected = router.predict_utility(queries)
    np.testing.assert_allclose(utility, expected, rtol=0, atol=close)
    best = np.sort(expected, axis=1)
    clear = (best[:, -1] - best[:, -2] > close) | (dtype == "float64")
    assert clear.mean() > 0.9
    assert router.arms_[arm][clear].tolist() == router.predict(queries)[clear].tolist()


def test_what_the_graph_cannot_do_is_named(full_log: OutcomeLog, tmp_path: Path) -> None:
    file = tmp_path / "policy.onnx"
    text = make_pipeline(TfidfVectorizer(), QualityRouter()).fit(["a tree", "river"], [[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(RouterInputError, match="this router takes texts, and the graph takes numbers; use to_numpy"):
        to_onnx(text, file)
    weighted = KNNRouter(3).fit(full_log.X, full_log.quality, sample_weight=np.full(200, 2.0))
    with pytest.raises(RouterInputError, match="a KNNRouter with sample weights cannot be written as a graph"):
        to_onnx(weighted, file)
    with pytest.raises(RouterInputError, match="dtype must be 'float64' or 'float32', got 'float16'"):
        to_onnx(weighted, file, dtype="float16")  # type: ignore[arg-type]
    assert not file.exists()


def test_without_onnx_the_extra_is_named(full_log: OutcomeLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def blocked(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "onnx":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", blocked)
    with pytest.raises(MissingExtraError, match=r"pip install 'defer-learn\[onnx\]'"):
        to_onnx(fitted("ridge", full_log), tmp_path / "policy.onnx")


def test_a_file_is_written_only_where_the_graph_is_sound(full_log: OutcomeLog, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    to_onnx(fitted("euclidean", full_log), tmp_path / "policy.onnx")
    model = onnx.load(io.BytesIO((tmp_path / "policy.onnx").read_bytes()))
    onnx.checker.check_model(model, full_check=True)
    assert {opset.domain for opset in model.opset_import} == {""}
