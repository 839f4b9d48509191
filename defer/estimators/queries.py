"""What queries may look like: a table of numbers, which is checked, or text and mixed frames, which are passed on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from defer.exceptions import RouterInputError

__all__ = [
    "NO_QUERIES",
    "check_batch",
    "check_texts",
    "is_numeric_input",
    "is_plain_table",
    "n_queries",
    "read_texts",
    "text_groups",
]

NO_QUERIES = "Found array with 0 sample(s): X has no queries, and at least one is required"
"""Begins as scikit-learn's own message does, which its checks look for."""


def check_batch(X: Any) -> None:
    """Raise RouterInputError for a text in place of a batch, and for an empty list."""
    if isinstance(X, str):
        raise RouterInputError("X is one str; a router takes a batch: pass a list of texts")
    if isinstance(X, (list, tuple)) and len(X) == 0:
        raise RouterInputError(NO_QUERIES)


def is_numeric_input(X: Any) -> bool:
    """Whether queries are a table of numbers, which is checked here, and not text or a mixed frame, which is passed on."""
    if isinstance(X, np.ndarray):
        return X.dtype.kind not in "UT" and not (
            X.dtype.kind == "O" and X.ndim == 1 and len(X) and isinstance(X[0], str)
        )
    if isinstance(X, (list, tuple)):
        return not (len(X) and isinstance(X[0], (str, dict)))
    frame = nw.from_native(X, eager_only=True, allow_series=True, pass_through=True)
    if isinstance(frame, nw.DataFrame):
        return all(dtype.is_numeric() or dtype == nw.Boolean for dtype in frame.schema.values())
    if isinstance(frame, nw.Series):
        return frame.dtype.is_numeric() or frame.dtype == nw.Boolean
    return not isinstance(X, str)


def is_plain_table(X: Any) -> bool:
    """A frame, or a table of floats that needs no conversion; checking its values is left to whoever reads them."""
    if isinstance(X, np.ndarray) or (issparse(X) and X.format == "csr"):
        return X.ndim == 2 and X.dtype.kind == "f" and X.shape[0] > 0
    return isinstance(nw.from_native(X, eager_only=True, pass_through=True), nw.DataFrame) and len(X) > 0


def n_queries(X: Any) -> int:
    """Number of rows of any kind of input."""
    if issparse(X) or hasattr(X, "shape"):
        return int(X.shape[0])
    return len(X)


def read_texts(X: Any, *, owner: str) -> list[str]:
    """Texts of a list, tuple, one-dimensional array or series; a frame is no column of texts, even if it has one alone.

    Parameters
    ----------
    X : list, tuple, array of shape (n,) or series of str
    owner : str
        Class that asks, for messages.

    Raises
    ------
    RouterInputError
        If X is one text or no column, or an element is no text.

    Examples
    --------
    >>> read_texts(("a", "b"), owner="TextShape")
    ['a', 'b']
    """
    texts = _column(X, owner)
    wrong = [row for row, text in enumerate(texts) if not isinstance(text, str)]
    if wrong:
        raise RouterInputError(
            f"{owner}: X must be a list of texts, {len(wrong)} of {len(texts)} are none, the first is "
            f"{_short(texts[wrong[0]])} in row {wrong[0]}; drop these rows or make texts of them"
        )
    return texts


def check_texts(step: Any, X: Any, *, owner: str) -> None:
    """Raise RouterInputError for queries of which a transformer reads no texts, if it is one that reads texts.

    Parameters
    ----------
    step : transformer, pipeline or union of them
        Anything but a vectoriser of plain texts, `TextShape` or `SentenceEmbedder` may take what it likes.
    X : n queries
    owner : str
        Class that asks, for messages.

    Examples
    --------
    >>> from sklearn.feature_extraction.text import TfidfVectorizer
    >>> check_texts(TfidfVectorizer(), ["a", "b"], owner="RouterPipeline")
    """
    if not _takes_texts(step):
        return
    check_batch(X)
    if not isinstance(X, (list, tuple)) or not all(isinstance(text, (str, bytes)) for text in X):
        read_texts(X, owner=owner)


def text_groups(X: Any) -> NDArray[np.intp] | None:
    """Number of the text of every query, shape (n,), equal for equal texts; None where queries are not text.

    Examples
    --------
    >>> text_groups(["b", "a", "b"]).tolist()
    [1, 0, 1]
    """
    if isinstance(X, str) or not hasattr(X, "__len__") or issparse(X) or len(X) == 0 or is_numeric_input(X):
        return None
    texts = np.fromiter(X, dtype=object, count=len(X)) if np.ndim(X[:1]) == 1 else None
    if texts is None or not all(isinstance(text, str) for text in texts):
        return None
    return np.unique(texts, return_inverse=True)[1].ravel()


def _column(X: Any, owner: str) -> list[Any]:
    if isinstance(X, str):
        raise RouterInputError(f"{owner}: X must be a list of texts, got one str; write [text]")
    given = nw.from_native(X, allow_series=True, pass_through=True)
    if isinstance(given, (nw.DataFrame, nw.LazyFrame)):
        names = given.collect_schema().names()
        column = f"frame[{names[0]!r}]" if len(names) == 1 else "frame['prompt']"
        raise RouterInputError(
            f"{owner}: X must be a list of texts, got a frame with the columns {_short(names)}; pass the one column that "
            f"holds the texts, such as {column}"
        )
    if isinstance(given, nw.Series):
        return given.to_list()
    is_column = X.ndim == 1 and not issparse(X) if hasattr(X, "ndim") else hasattr(X, "__iter__")
    if not is_column or isinstance(X, Mapping):
        shape = f" of shape {X.shape}" if hasattr(X, "shape") else ""
        raise RouterInputError(f"{owner}: X must be a list of texts, got {type(X).__name__}{shape}")
    return list(X)


def _takes_texts(step: Any) -> bool:
    """Whether a transformer reads plain texts; one that prepares or cuts them by itself may be given anything."""
    if getattr(step, "steps", None):
        return _takes_texts(step.steps[0][1])
    if getattr(step, "transformer_list", None):
        return any(_takes_texts(member) for _, member in step.transformer_list)
    own = any(callable(getattr(step, name, None)) for name in ("preprocessor", "tokenizer", "analyzer"))
    if own or getattr(step, "input", "content") != "content" or not hasattr(step, "__sklearn_tags__"):
        return False
    tags = step.__sklearn_tags__().input_tags
    return bool(tags.string and not tags.two_d_array)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
