"""Text features that cross-validation does not compute again in every fold.

`cached` takes a pipeline and puts in place of each `TfidfVectorizer` and `SentenceEmbedder` a transformer with the same
result: n-grams are counted once for all texts of a set, and vocabulary and weights learned from the training rows.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.pipeline import FeatureUnion, Pipeline

from defer.estimators.embeddings import SentenceEmbedder, local_model
from defer.estimators.routers.stacked import StackedRouter

__all__ = ["CachedEmbedder", "CachedTfidf", "TextSet", "cached", "register"]

_COUNTED = ("analyzer", "ngram_range", "lowercase", "strip_accents", "stop_words", "token_pattern", "binary")
_WEIGHED = ("norm", "use_idf", "smooth_idf", "sublinear_tf")
_SETS: dict[str, TextSet] = {}


class TextSet:
    """Distinct texts of a routing set with their n-gram counts and embeddings, which are kept for the `whole` set."""

    def __init__(self, texts: list[str], whole: list[str] | None = None) -> None:
        self.texts = sorted(set(texts))
        self._row = {text: row for row, text in enumerate(self.texts)}
        self._whole = self.texts if whole is None else sorted(set(whole))
        self._counts: dict[str, csr_matrix] = {}
        self._embeddings: np.ndarray | None = None

    def rows(self, texts: list[str]) -> np.ndarray:
        """Row of every text."""
        return np.array([self._row[text] for text in texts])

    def counts(self, vectorizer: TfidfVectorizer) -> csr_matrix:
        """Counts of the n-grams of all texts, columns in the order of the n-grams."""
        options = {name: getattr(vectorizer, name) for name in _COUNTED}
        key = repr(options)
        if key not in self._counts:
            self._counts[key] = CountVectorizer(**options, dtype=np.float64).fit_transform(self.texts).tocsr()
        return self._counts[key]

    def embeddings(self) -> np.ndarray:
        """Sentence embeddings of all texts, kept in the environment's folder from run to run."""
        if self._embeddings is None:
            key = hashlib.sha256(
                "\0".join([os.path.basename(os.path.dirname(local_model() or "")), *self._whole]).encode()
            )
            path = Path(sys.prefix) / "embeddings" / f"{key.hexdigest()[:32]}.npy"
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                # Two processes may get here together: what is renamed is whole.
                whole = path.with_suffix(f".{os.getpid()}.npy")
                np.save(whole, SentenceEmbedder().fit([]).transform(self._whole))
                os.replace(whole, path)
            place = {text: row for row, text in enumerate(self._whole)}
            self._embeddings = np.load(path)[[place[text] for text in self.texts]]
        return self._embeddings


def register(name: str, texts: list[str], whole: list[str] | None = None) -> None:
    """Make the texts of a set, or of a part of the `whole`, known under a name, which the transformers carry instead of them."""
    _SETS[name] = TextSet(texts, whole)


class CachedTfidf(TransformerMixin, BaseEstimator):
    """What `vectorizer` would give, from counts."""

    def __init__(self, vectorizer: TfidfVectorizer, name: str) -> None:
        self.vectorizer = vectorizer
        self.name = name

    def fit(self, X: list[str], y: Any = None) -> Self:
        """Learn vocabulary and weights from the rows of `X`."""
        texts = _SETS[self.name]
        counts = texts.counts(self.vectorizer)[texts.rows(X)]
        total = np.asarray(counts.sum(axis=0)).ravel()
        found = np.bincount(counts.indices, minlength=counts.shape[1])
        low, high = self.vectorizer.min_df, self.vectorizer.max_df
        if not isinstance(low, int) or high != 1.0:
            raise ValueError("CachedTfidf knows min_df as a count, and no max_df")
        columns = np.flatnonzero(found >= max(low, 1))
        limit = self.vectorizer.max_features
        if limit is not None and len(columns) > limit:
            columns = np.sort(columns[(-total[columns]).argsort()[:limit]])
        self.columns_ = columns
        self.weights_ = TfidfTransformer(**{option: getattr(self.vectorizer, option) for option in _WEIGHED})
        self.weights_.fit(counts[:, columns])
        return self

    def transform(self, X: list[str]) -> csr_matrix:
        """TF-IDF, shape (n, d)."""
        texts = _SETS[self.name]
        return self.weights_.transform(texts.counts(self.vectorizer)[texts.rows(X)][:, self.columns_])


class CachedEmbedder(TransformerMixin, BaseEstimator):
    """What `embedder` would give, computed once."""

    def __init__(self, embedder: SentenceEmbedder, name: str) -> None:
        self.embedder = embedder
        self.name = name

    def fit(self, X: list[str], y: Any = None) -> Self:
        """Nothing is learned."""
        self.fitted_ = True
        return self

    def transform(self, X: list[str]) -> np.ndarray:
        """Embeddings, shape (n, d)."""
        texts = _SETS[self.name]
        return texts.embeddings()[texts.rows(X)] * np.float32(self.embedder.scale)


def cached(step: Any, name: str) -> Any:
    """Copy of a pipeline, union, stack or transformer with cached text features of the set `name`."""
    if isinstance(step, TfidfVectorizer):
        return CachedTfidf(clone(step), name)
    if isinstance(step, SentenceEmbedder):
        return CachedEmbedder(clone(step), name)
    copy = clone(step)
    if isinstance(copy, Pipeline):
        copy.steps = [(label, cached(part, name)) for label, part in step.steps]
    elif isinstance(copy, FeatureUnion):
        copy.transformer_list = [(label, cached(part, name)) for label, part in step.transformer_list]
    elif isinstance(copy, StackedRouter) and step.features is not None:
        copy.features = [(label, cached(part, name)) for label, part in step.features]
    return copy
