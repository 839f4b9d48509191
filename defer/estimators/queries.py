"""What queries may look like: a table of numbers, which is checked, or text and mixed frames, which are passed on."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from defer.exceptions import RouterInputError

__all__ = ["NO_QUERIES", "check_batch", "is_numeric_input", "is_plain_table", "n_queries", "text_groups"]

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
