"""The cache of embeddings: exact bits, bounds, several processes, crashes, copies, and what a saved policy takes along."""

from __future__ import annotations

import copy
import os
import pickle
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from skops.io import dumps, loads

from defer.estimators.embedding_cache import EmbeddingCache, model_hash
from defer.exceptions import PersistenceError, RouterInputError


@pytest.fixture(params=["memory", "disk"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache(max_texts=4) if request.param == "memory" else EmbeddingCache(tmp_path / "cache", max_texts=4)


def vectors_of(*numbers: float) -> np.ndarray:
    return np.array([[number, -number] for number in numbers], dtype=np.float32)


def test_gives_back_the_bits_that_were_put_in(cache: EmbeddingCache) -> None:
    odd = np.array([[0.1, -0.0, 1e-45], [np.inf, np.nan, 3.4e38]], dtype=np.float32)
    cache.put("model", ["a", "\ud800 é\0"], odd)
    found = cache.get("model", ["\ud800 é\0", "b", "a"])
    assert found[1] is None
    assert np.array([found[2], found[0]]).tobytes() == odd.tobytes()
    assert found[0] is not None
    assert found[0].dtype == np.float32
    assert found[0].flags.writeable


def test_texts_of_every_kind_are_told_apart(tmp_path: Path) -> None:
    texts = ["", " ", "\0", "\0\0", "a", "a\0", "x" * 100_000, "x" * 100_001, "日本語", "日本", "\x07\x1b[0m", "\x07"]
    texts += ["\ud800", "\udfff", "?", "\ufffd", "e\u0301", "\u00e9"]
    values = vectors_of(*range(len(texts)))
    for cache in (EmbeddingCache(), EmbeddingCache(tmp_path)):
        cache.put("m", texts, values)
        assert np.array(cache.get("m", texts)).tolist() == values.tolist()
        assert len(cache) == len(texts)
    assert np.array(EmbeddingCache(tmp_path).get("m", texts)).tolist() == values.tolist()


def test_another_model_or_another_text_never_hits(cache: EmbeddingCache) -> None:
    cache.put("model", ["text"], vectors_of(1.0))
    assert cache.get("model2", ["text"]) == cache.get("model", ["text "]) == cache.get("modelt", ["ext"]) == [None]


def test_the_first_embedding_of_a_text_stays(cache: EmbeddingCache) -> None:
    cache.put("m", ["a"], vectors_of(1.0))
    cache.put("m", ["a", "b"], vectors_of(2.0, 3.0))
    assert np.array(cache.get("m", ["a", "b", "a"])).tolist() == [[1.0, -1.0], [3.0, -3.0], [1.0, -1.0]]


def test_counts_and_clear(cache: EmbeddingCache) -> None:
    cache.put("m", ["a", "b"], vectors_of(1.0, 2.0))
    cache.get("m", ["a", "c", "a"])
    info = cache.info()
    assert (info.hits, info.misses, info.texts, info.max_texts) == (2, 1, 2, 4)
    cache.clear()
    assert (len(cache), cache.info().hits, cache.get("m", ["a"])) == (0, 0, [None])


def test_nothing_is_kept_beyond_the_bound(cache: EmbeddingCache) -> None:
    cache.put("m", list("abcd"), vectors_of(1.0, 2.0, 3.0, 4.0))
    cache.get("m", ["a"])
    cache.put("m", list("ef"), vectors_of(5.0, 6.0))
    kept = [text for text, vector in zip("abcdef", cache.get("m", list("abcdef")), strict=True) if vector is not None]
    # In memory the one used last stays; on disk reading leaves no trace, and the first written go.
    assert "".join(kept) == ("adef" if cache.folder is None else "cdef")


def test_many_texts_at_once_and_none(tmp_path: Path) -> None:
    cache, texts = EmbeddingCache(tmp_path), [str(number) for number in range(1234)]
    cache.put("m", [], np.zeros((0, 2), dtype=np.float32))
    assert cache.get("m", []) == []
    cache.put("m", texts, vectors_of(*range(1234)))
    assert np.array(cache.get("m", texts[::-1]))[:, 0].tolist() == list(range(1233, -1, -1))


class Owner(BaseEstimator):  # type: ignore[misc]
    def __init__(self, cache: EmbeddingCache | None = None) -> None:
        self.cache = cache


def test_clones_and_copies_share_the_cache(cache: EmbeddingCache) -> None:
    owner = Owner(cache)
    assert clone(owner).cache is copy.deepcopy(owner).cache is copy.copy(cache) is clone(cache) is cache


def test_a_pickle_takes_the_folder_along_and_nothing_else(cache: EmbeddingCache) -> None:
    cache.put("m", ["a"], vectors_of(1.0))
    twin = pickle.loads(pickle.dumps(cache))
    assert (twin.folder, twin.max_texts, twin.info().hits) == (cache.folder, 4, 0)
    assert len(twin) == (0 if cache.folder is None else 1)


def test_a_policy_file_takes_neither_the_folder_nor_embeddings_along(cache: EmbeddingCache) -> None:
    cache.put("m", ["a"], vectors_of(1.0))
    data = dumps(cache)
    twin = loads(data, trusted=["defer.estimators.embedding_cache.EmbeddingCache"])
    assert (twin.folder, twin.max_texts, len(twin)) == (None, 4, 0)
    assert b"cache" not in data.replace(b"embedding_cache", b"").replace(b"EmbeddingCache", b"")


WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from defer.estimators.embedding_cache import EmbeddingCache
folder, own, other = sys.argv[1:]
cache = EmbeddingCache(Path(folder) / "cache")
(Path(folder) / own).touch()
while not (Path(folder) / other).exists():
    time.sleep(0.005)
for low in range(40):
    texts = [str(number) for number in range(low, low + 10)]
    for text, vector in zip(texts, cache.get("m", texts)):
        assert vector is None or (vector == int(text)).all()
    cache.put("m", texts, np.array([[int(text)] * 8 for text in texts], dtype=np.float32))
"""


def run_writer(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WRITER, *arguments], stderr=subprocess.PIPE, text=True)


def test_two_processes_write_and_read_at_once(tmp_path: Path) -> None:
    both = [run_writer(str(tmp_path), "one", "two"), run_writer(str(tmp_path), "two", "one")]
    assert [(process.communicate(timeout=120)[1], process.returncode) for process in both] == [("", 0), ("", 0)]
    cache = EmbeddingCache(tmp_path / "cache")
    found = cache.get("m", [str(number) for number in range(49)])
    assert len(cache) == 49
    assert np.array(found).tolist() == [[float(number)] * 8 for number in range(49)]


def test_a_crash_in_the_middle_of_writing_leaves_whole_rows_only(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    cache.put("m", ["a"], vectors_of(1.0))
    crash = (
        "import os, sys, numpy as np\n"
        "import defer.estimators.embedding_cache as module\n"
        "writes = module._bytes\n"
        "def dies(vector):\n"
        "    return os._exit(9) if vector[0] == 3 else writes(vector)\n"
        "module._bytes = dies\n"
        "rows = iter(np.arange(1, 5, dtype=np.float32)[:, None] * [[1, -1]])\n"
        "with module._Disk(module.Path(sys.argv[1]), 9)._open() as base, module._transaction(base):\n"
        "    for number, row in enumerate(rows):\n"
        "        base.execute('INSERT INTO embedding (model, text, vector) VALUES (?, ?, ?)', (b'm', bytes([number]), dies(row)))\n"
    )
    assert subprocess.run([sys.executable, "-c", crash, str(tmp_path)], check=False).returncode == 9
    assert len(cache) == 1
    cache.put("m", ["b"], vectors_of(2.0))
    assert np.array(cache.get("m", ["a", "b"])).tolist() == vectors_of(1.0, 2.0).tolist()


def test_an_interrupted_put_keeps_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = EmbeddingCache(tmp_path)

    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("defer.estimators.embedding_cache._bytes", stop)
        with pytest.raises(KeyboardInterrupt):
            cache.put("m", ["a"], vectors_of(1.0))
    cache.put("m", ["b"], vectors_of(2.0))
    assert len(cache) == 1


def test_a_damaged_file_and_a_folder_that_is_none_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "embeddings-1.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(
        PersistenceError, match=r"embeddings-1\.sqlite' cannot be used \(file is not a database\); give a"
    ):
        len(EmbeddingCache(tmp_path))
    with pytest.raises(PersistenceError, match="delete the file if it is damaged"):
        EmbeddingCache(tmp_path / "embeddings-1.sqlite").put("m", ["a"], vectors_of(1.0))


def test_a_cut_off_file_is_refused_and_not_read_wrongly(tmp_path: Path) -> None:
    cache, texts = EmbeddingCache(tmp_path), [str(number) for number in range(300)]
    cache.put("m", texts, np.ones((300, 64), dtype=np.float32))
    path = tmp_path / "embeddings-1.sqlite"
    with sqlite3.connect(path) as base:
        base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    base.close()
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(PersistenceError, match="malformed"):
        cache.get("m", texts)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, None, "9"])
def test_the_bound_must_be_a_positive_integer(value: Any) -> None:
    with pytest.raises(RouterInputError, match=rf"EmbeddingCache: max_texts must be an integer >= 1, got {value!r}"):
        EmbeddingCache(max_texts=value)


def test_nothing_is_made_before_the_first_use(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path / "deep" / "folder")
    assert repr(cache) == f"EmbeddingCache({str(tmp_path / 'deep' / 'folder')!r})"
    assert repr(EmbeddingCache()) == "EmbeddingCache()"
    assert list(tmp_path.iterdir()) == []
    assert len(cache) == 0


def test_the_hash_of_a_model_is_that_of_its_content(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        (folder / "pooling").mkdir(parents=True)
        (folder / "weights.bin").write_bytes(b"12")
        (folder / "pooling" / "config.json").write_text("{}")
    assert model_hash(one) == model_hash(str(other))
    (other / "README.md").write_text("words")
    (other / ".hidden").write_text("words")
    assert model_hash(one) == model_hash(other)
    (other / "weights.bin").write_bytes(b"13")
    os.utime(other / "weights.bin", ns=(1, 1))
    assert model_hash(one) != model_hash(other)
    before = model_hash(one)
    (one / "pooling" / "config.json").rename(one / "config.json")
    assert model_hash(one) != before
