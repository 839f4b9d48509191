"""Sentence embeddings: silent loading, odd texts, batches, the cache, other model folders, and policies that hold one."""

from __future__ import annotations

import importlib.util
import itertools
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import FeatureUnion

from defer.estimators import QualityRouter, make_pipeline
from defer.estimators.embedding_cache import EmbeddingCache
from defer.estimators.embeddings import SentenceEmbedder, _beginning, local_model
from defer.exceptions import FallbackWarning, PersistenceError, RouterInputError
from defer.model_file import model_bytes, model_from_bytes

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None or local_model() is None,
    reason="no sentence-embedding model is installed",
)


@pytest.mark.parametrize(("shown", "hub_shown"), list(itertools.product([True, False], repeat=2)))
def test_loading_is_silent_and_leaves_progress_bars_as_they_were(
    shown: bool, hub_shown: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub = importlib.import_module("huggingface_hub.utils")
    bars = importlib.import_module("transformers.utils.logging")
    try:
        (bars.enable_progress_bar if shown else bars.disable_progress_bar)()
        (hub.enable_progress_bars if hub_shown else hub.disable_progress_bars)()
        capfd.readouterr()
        SentenceEmbedder().fit(["a"])
        assert capfd.readouterr() == ("", "")
        assert (bars.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()) == (shown, hub_shown)
    finally:
        bars.enable_progress_bar()


TEXTS = [
    "a cat",
    "",
    "what is 12 + 7?",
    "a cat",
    "Wie spät ist es?",
    "one two three four five six seven",
    "猫",
    "A cat",
]


@pytest.fixture(scope="module")
def embedder() -> SentenceEmbedder:
    """With its model loaded."""
    return SentenceEmbedder().fit(["a"])


def sharing_model(embedder: SentenceEmbedder, **options: Any) -> SentenceEmbedder:
    """Another embedder that need not load the model again."""
    other = SentenceEmbedder(**options)
    other._encoder = embedder._load()
    return other


def directly(embedder: SentenceEmbedder, texts: list[str], **options: Any) -> np.ndarray:
    """By sentence-transformers alone, one text at a time."""
    encode = embedder._load().encode
    return np.array([encode([text], normalize_embeddings=True, show_progress_bar=False)[0] for text in texts])


def test_embeddings_are_the_models_own_in_the_order_of_the_texts(embedder: SentenceEmbedder) -> None:
    vectors = embedder.transform(TEXTS)
    assert vectors.shape == (8, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, directly(embedder, TEXTS), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(
        np.linalg.norm(sharing_model(embedder, scale=3.0).transform(TEXTS[:2]), axis=1), 3.0, atol=1e-5
    )
    assert embedder.transform([]).shape == (0, 384)
    assert len(embedder.get_feature_names_out()) == 384


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_neighbours_in_a_batch_change_nothing_beyond_rounding(embedder: SentenceEmbedder, batch_size: int) -> None:
    other = sharing_model(embedder, batch_size=batch_size)
    alone = np.vstack([other.transform([text]) for text in TEXTS])
    order = np.random.default_rng(0).permutation(len(TEXTS))
    mixed = other.transform([TEXTS[row] for row in order] + ["long " * 200])
    np.testing.assert_allclose(mixed[:-1], alone[order], atol=2e-6)
    np.testing.assert_allclose(other.transform(TEXTS), alone, atol=2e-6)


def counted(embedder: SentenceEmbedder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collects the texts that the model is given."""
    seen: list[str] = []
    encode = type(embedder._load()).encode

    def counting(self: Any, texts: list[str], **options: Any) -> Any:
        seen.extend(texts)
        return encode(self, texts, **options)

    monkeypatch.setattr(type(embedder._load()), "encode", counting)
    return seen


def test_equal_texts_are_read_once_and_by_growing_length(
    embedder: SentenceEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = counted(embedder, monkeypatch)
    vectors = embedder.transform(["a b c d", "b", "a b c d", "b c", "b"])
    assert seen == ["b", "b c", "a b c d"]
    assert (vectors[0] == vectors[2]).all()
    assert (vectors[1] == vectors[4]).all()
    assert (vectors[0] != vectors[1]).any()


@pytest.mark.parametrize("kind", ["memory", "object", "folder"])
def test_a_cache_changes_no_bit_and_saves_the_second_pass(
    embedder: SentenceEmbedder, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"memory": EmbeddingCache(), "object": EmbeddingCache(tmp_path / "c"), "folder": tmp_path / "c"}
    cached = sharing_model(embedder, cache=places[kind], scale=0.5)
    plain = sharing_model(embedder, scale=0.5).transform(TEXTS)
    seen = counted(embedder, monkeypatch)
    assert cached.transform(TEXTS).tobytes() == plain.tobytes()
    assert sorted(seen) == sorted(set(TEXTS))
    seen.clear()
    assert cached.transform(TEXTS[::-1]).tobytes() == plain[::-1].tobytes()
    assert seen == []
    # The weight of embeddings is no part of what is kept, and only what is not there is read.
    assert (
        sharing_model(embedder, cache=cached.cache).transform(["a cat", "dog"])[0].tobytes() == (2 * plain[0]).tobytes()
    )
    assert seen == ["dog"]


def test_members_that_share_a_cache_embed_a_text_once(
    embedder: SentenceEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = EmbeddingCache()
    union = FeatureUnion([(name, SentenceEmbedder(cache=cache)) for name in ("one", "two")])
    members = [make_pipeline(clone(union), QualityRouter()) for _ in range(2)]
    monkeypatch.setattr(SentenceEmbedder, "_load", lambda self: embedder._encoder)
    seen = counted(embedder, monkeypatch)
    quality = np.eye(2)[[0, 1, 0, 0, 1, 1, 0, 1]]
    routed = [clone(member).fit(TEXTS, quality).predict_quality(TEXTS) for member in members]
    assert len(seen) == len(set(TEXTS))
    np.testing.assert_array_equal(routed[0], routed[1])
    assert (cache.info().hits, cache.info().misses) == (7 * 7, 7)


ODD = {
    "words": " ".join(f"word{number}" for number in range(12_000)),
    "one word": "a" * 100_000,
    "only spaces": " " * 100_000,
    "spaces first": " " * 99_990 + "a cat",
    "control": "\x00\x01\x7f" * 33_000,
    "no spaces": "汉字" * 50_000,
    "combining": "e \u0301" * 30_000,
    "lines": "if (x) { y = 1; }\n" * 5_000,
}


@pytest.mark.parametrize("name", ODD)
def test_the_beginning_of_a_long_text_is_embedded_as_the_whole(embedder: SentenceEmbedder, name: str) -> None:
    text = ODD[name]
    assert embedder.transform([text]).tobytes() == directly(embedder, [text]).astype(np.float32).tobytes()


def test_only_the_beginning_of_a_long_text_is_tokenised(embedder: SentenceEmbedder) -> None:
    tokenizer = embedder._load().tokenizer
    assert len(_beginning(ODD["words"], tokenizer, 256)) <= 8 * 256
    assert _beginning(ODD["spaces first"], tokenizer, 256) == ODD["spaces first"]
    # Words of which each is one unknown token reach the wanted number of tokens only further on.
    unknown = " ".join(["y" * 150] * 1000)
    assert 256 * 151 < len(_beginning(unknown, tokenizer, 256)) < len(unknown)


def test_halves_of_surrogate_pairs_are_read_as_the_replacement_character(embedder: SentenceEmbedder) -> None:
    vectors = embedder.transform(["a \ud800", "a \ufffd", "\ud83d\ude00", "\U0001f600"])
    assert (vectors[0] == vectors[1]).all()
    assert (vectors[2] == vectors[3]).all()


def test_texts_of_nothing_have_the_embedding_of_no_words(embedder: SentenceEmbedder) -> None:
    vectors = embedder.transform(["", " ", "\n\t", "\x00", "a"])
    assert (vectors[:4] == vectors[0]).all()
    assert (vectors[4] != vectors[0]).any()


@pytest.mark.parametrize(
    ("options", "X", "message"),
    [
        ({}, "text", "SentenceEmbedder: X must be a list of texts, got one str"),
        ({}, ["a", None], "SentenceEmbedder: X must be a list of texts, 1 of 2 are none, the first is None in row 1"),
        ({"batch_size": 0}, ["a"], "SentenceEmbedder: batch_size must be an integer >= 1, got 0"),
        ({"batch_size": True}, ["a"], "SentenceEmbedder: batch_size must be an integer >= 1, got True"),
        ({"cache": 3}, ["a"], "SentenceEmbedder: cache must be None, a folder or an EmbeddingCache, got 3"),
        ({"model": "/no/model"}, ["a"], "SentenceEmbedder: no model folder at '/no/model'; give model="),
    ],
)
def test_wrong_input_is_refused(options: dict[str, Any], X: Any, message: str) -> None:
    with pytest.raises(RouterInputError, match=message):
        SentenceEmbedder(**options).transform(X)


def test_a_damaged_cache_says_so(embedder: SentenceEmbedder, tmp_path: Path) -> None:
    (tmp_path / "embeddings-1.sqlite").write_bytes(b"x" * 5000)
    with pytest.raises(PersistenceError, match="cannot be used"):
        sharing_model(embedder, cache=tmp_path).transform(["a"])


def test_progress_is_shown_only_if_asked_for(embedder: SentenceEmbedder, capfd: pytest.CaptureFixture[str]) -> None:
    embedder.transform(["a"])
    assert capfd.readouterr() == ("", "")
    sharing_model(embedder, progress=True).transform(["a"])
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "embedding texts" in shown.err
    assert "100%" in shown.err


def test_a_plain_transformers_folder_is_averaged_and_says_so(embedder: SentenceEmbedder, tmp_path: Path) -> None:
    folder = local_model()
    assert folder is not None
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(Path(folder) / name, tmp_path)
    (tmp_path / "model.safetensors").symlink_to(Path(folder) / "model.safetensors")
    plain = SentenceEmbedder(str(tmp_path))
    with pytest.warns(FallbackWarning, match=r"without modules\.json: its last layer is averaged over the tokens"):
        plain.fit(["a"])
    np.testing.assert_allclose(plain.transform(["a cat"]), embedder.transform(["a cat"]), atol=2e-6)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RouterInputError, match="cannot be loaded as a model"):
        SentenceEmbedder(str(tmp_path)).fit(["a"])


def test_a_pickle_keeps_the_folder_of_the_cache_and_drops_the_model(embedder: SentenceEmbedder, tmp_path: Path) -> None:
    data = pickle.dumps(sharing_model(embedder, cache=tmp_path, batch_size=7))
    assert len(data) < 1000
    twin = pickle.loads(data)
    assert (twin.cache, twin.batch_size) == (tmp_path, 7)


@pytest.mark.parametrize("kind", ["memory", "object", "folder"])
def test_a_saved_policy_has_no_cache(
    embedder: SentenceEmbedder, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SentenceEmbedder, "_load", lambda self: embedder._encoder)
    places = {"memory": EmbeddingCache(), "object": EmbeddingCache(tmp_path), "folder": str(tmp_path)}
    router = make_pipeline(SentenceEmbedder(cache=places[kind]), QualityRouter())
    router.fit(TEXTS, np.eye(2)[[0, 1, 0, 0, 1, 1, 0, 1]])
    data = model_bytes(router)
    twin = model_from_bytes(data)
    assert twin[0].cache is None
    assert str(tmp_path).encode() not in data
    assert router[0].cache is not None
    np.testing.assert_array_equal(twin.predict_quality(TEXTS), router.predict_quality(TEXTS))


def test_a_state_of_an_earlier_version_is_read() -> None:
    old = SentenceEmbedder.__new__(SentenceEmbedder)
    old.__setstate__({"model": None, "batch_size": 8, "scale": 2.0})
    assert old.get_params() == {"model": None, "batch_size": 8, "scale": 2.0, "cache": None, "progress": False}
