"""Embeddings that were computed before: in memory, or on disk for all processes, by text and by content of the model.

One SQLite file in a folder, through the standard library: a crash or a second writer leaves whole rows or none, and what
is read is numbers.  General caches of Python objects read pickles, which run code, and keep a file or a row per call.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defer.exceptions import PersistenceError, RouterInputError

__all__ = ["CacheInfo", "EmbeddingCache", "model_hash"]

Vector = NDArray[np.float32]
Key = tuple[bytes, bytes]

_FILE = "embeddings-1.sqlite"  # the number is that of the table's form
_TABLE = """
CREATE TABLE IF NOT EXISTS embedding (
    number INTEGER PRIMARY KEY AUTOINCREMENT, model BLOB NOT NULL, text BLOB NOT NULL, vector BLOB NOT NULL,
    UNIQUE (model, text)
)"""
_AT_ONCE = 500  # SQLite takes a bounded number of parameters
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class CacheInfo:
    """What a cache holds, and how often it helped this process.

    Attributes
    ----------
    hits, misses : int
        Texts that were asked for and found, or not found, through this object.
    texts : int
        Embeddings that it holds.
    max_texts : int
    """

    hits: int
    misses: int
    texts: int
    max_texts: int


class EmbeddingCache:
    """Embeddings by text and model, shared by all estimators that are given it.

    Clones and copies of an estimator share the one cache.  A pickled one takes the folder along and never what it holds;
    a saved policy takes neither.

    Parameters
    ----------
    folder : path, optional
        Made at the first use.  On a local disk: any number of processes may read and write it at once.  None keeps
        embeddings in the memory of this process.
    max_texts : int, default=100_000
        Bound on what is kept (1.5 kB each at 384 dimensions).  Beyond it go the least recently used in memory, and the
        first written on disk.

    Raises
    ------
    RouterInputError
        If `max_texts` is no integer >= 1.
    PersistenceError
        When it is used, if the folder cannot be written, or the file is damaged.

    Examples
    --------
    >>> cache = EmbeddingCache()
    >>> cache.put("model", ["a"], np.ones((1, 2), dtype=np.float32))
    >>> cache.get("model", ["a", "b"])
    [array([1., 1.], dtype=float32), None]
    >>> cache.info()
    CacheInfo(hits=1, misses=1, texts=1, max_texts=100000)
    """

    _hits: int
    _misses: int
    _store: _Memory | _Disk

    def __init__(self, folder: str | PathLike[str] | None = None, *, max_texts: int = 100_000) -> None:
        if isinstance(max_texts, bool) or not isinstance(max_texts, (int, np.integer)) or max_texts < 1:
            raise RouterInputError(f"EmbeddingCache: max_texts must be an integer >= 1, got {max_texts!r}")
        self.folder = None if folder is None else str(folder)
        self.max_texts = int(max_texts)
        self._start()

    def __repr__(self) -> str:
        return f"EmbeddingCache({'' if self.folder is None else repr(self.folder)})"

    # One cache is meant to be shared: a copy of its owner gets the same one.
    def __copy__(self) -> EmbeddingCache:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> EmbeddingCache:
        return self

    def __sklearn_clone__(self) -> EmbeddingCache:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.folder, self.max_texts)

    # Read by skops, not by pickle: a folder of this machine has no place in a policy.
    def __getstate__(self) -> dict[str, Any]:
        return {"max_texts": self.max_texts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.folder, self.max_texts = None, int(state["max_texts"])
        self._start()

    def __len__(self) -> int:
        return self._store.count()

    def get(self, model: str, texts: Sequence[str]) -> list[Vector | None]:
        """Embedding of every text, bit by bit as it was put in, or None.

        Parameters
        ----------
        model : str
            Identifies the model; see `model_hash`.
        texts : sequence of str
        """
        found = self._store.read([_key(model, text) for text in texts])
        hits = sum(vector is not None for vector in found)
        with self._lock:
            self._hits, self._misses = self._hits + hits, self._misses + len(found) - hits
        return found

    def put(self, model: str, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep embeddings; of what is there already the first one stays.

        Parameters
        ----------
        model : str
        texts : sequence of n str
        vectors : float32 array of shape (n, d)
        """
        vectors = np.asarray(vectors, dtype=np.float32)
        self._store.write([(_key(model, text), vector) for text, vector in zip(texts, vectors, strict=True)])

    def clear(self) -> None:
        """Forget all embeddings, on disk for all processes, and set the counts to 0."""
        self._store.clear()
        with self._lock:
            self._hits = self._misses = 0

    def info(self) -> CacheInfo:
        """Counts of hits, misses and texts."""
        return CacheInfo(self._hits, self._misses, len(self), self.max_texts)

    def _start(self) -> None:
        self._lock = RLock()
        self._hits = self._misses = 0
        self._store = _Memory(self.max_texts) if self.folder is None else _Disk(Path(self.folder), self.max_texts)


def model_hash(folder: str | PathLike[str]) -> str:
    """SHA-256 of the files of a model folder, but for hidden ones and documents.

    Reads all of them once; later calls do so again only if a size or a time of change differs.

    Parameters
    ----------
    folder : path

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "config.json").write_text("{}")
    ...     len(model_hash(folder))
    64
    """
    root = Path(folder).resolve()
    files = sorted(
        path for path in root.rglob("*")
        if path.is_file() and path.suffix != ".md" and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )  # fmt: skip
    state = tuple((str(path.relative_to(root)), path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    return _content_hash(root, state)


@lru_cache(maxsize=32)
def _content_hash(root: Path, state: tuple[tuple[str, int, int], ...]) -> str:
    total = hashlib.sha256()
    for name, _, _ in state:
        with open(root / name, "rb") as file:
            total.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\0".encode())
    return total.hexdigest()


def _reopened(folder: str | None, max_texts: int) -> EmbeddingCache:
    return EmbeddingCache(folder, max_texts=max_texts)


def _key(model: str, text: str) -> Key:
    return tuple(hashlib.sha256(part.encode("utf-8", "surrogatepass")).digest() for part in (model, text))  # type: ignore[return-value]


class _Memory:
    """The most recently used embeddings of this process."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[Key, bytes] = OrderedDict()
        self._lock = RLock()

    def count(self) -> int:
        return len(self._held)

    def read(self, keys: list[Key]) -> list[Vector | None]:
        with self._lock:
            for key in keys:
                if key in self._held:
                    self._held.move_to_end(key)
            return [_vector(self._held.get(key)) for key in keys]

    def write(self, rows: list[tuple[Key, Vector]]) -> None:
        with self._lock:
            for key, vector in rows:
                self._held.setdefault(key, _bytes(vector))
            while len(self._held) > self._limit:
                self._held.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._held.clear()


class _Disk:
    """Embeddings in an SQLite file; every operation opens it anew, so that forks, threads and pickles share no handle."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit

    def count(self) -> int:
        with self._open() as base:
            return int(base.execute("SELECT count(*) FROM embedding").fetchone()[0])

    def read(self, keys: list[Key]) -> list[Vector | None]:
        found: dict[Key, bytes] = {}
        with self._open() as base:
            for model in {model for model, _ in keys}:
                texts = [text for own, text in keys if own == model]
                for start in range(0, len(texts), _AT_ONCE):
                    part = texts[start : start + _AT_ONCE]
                    rows = base.execute(
                        f"SELECT text, vector FROM embedding WHERE model = ? AND text IN ({','.join('?' * len(part))})",
                        (model, *part),
                    )
                    found.update(((model, text), vector) for text, vector in rows)
        return [_vector(found.get(key)) for key in keys]

    def write(self, rows: list[tuple[Key, Vector]]) -> None:
        if not rows:
            return
        with self._open() as base, _transaction(base):
            base.executemany(
                "INSERT OR IGNORE INTO embedding (model, text, vector) VALUES (?, ?, ?)",
                [(model, text, _bytes(vector)) for (model, text), vector in rows],
            )
            base.execute(
                "DELETE FROM embedding WHERE number IN (SELECT number FROM embedding ORDER BY number LIMIT "
                "max(0, (SELECT count(*) FROM embedding) - ?))",
                (self._limit,),
            )

    def clear(self) -> None:
        with self._open() as base, _transaction(base):
            base.execute("DELETE FROM embedding")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        path = self._folder / _FILE
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(path, timeout=_PATIENCE_S, isolation_level=None)) as base:
                if base.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                    # Readers and a writer need not wait for each other then; where the file is busy it stays as it is,
                    # which is as safe.
                    with suppress(sqlite3.OperationalError):
                        base.execute("PRAGMA journal_mode = wal")
                base.execute(_TABLE)
                yield base
        except (OSError, sqlite3.Error) as error:
            raise PersistenceError(
                f"EmbeddingCache: {str(path)!r} cannot be used ({error}); give a folder on a local disk that can be "
                "written, and delete the file if it is damaged: all in it can be computed again"
            ) from error


@contextmanager
def _transaction(base: sqlite3.Connection) -> Iterator[None]:
    # IMMEDIATE waits for another writer at once; a lock that is asked for later is refused without waiting.
    base.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        base.execute("ROLLBACK")
        raise
    base.execute("COMMIT")


def _bytes(vector: Vector) -> bytes:
    return vector.astype("<f4").tobytes()


def _vector(data: bytes | None) -> Vector | None:
    return None if data is None else np.frombuffer(data, dtype="<f4").astype(np.float32)
