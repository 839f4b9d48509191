"""Queries as the table of numbers that scores are learned from."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import issparse

from defer.exceptions import RouterInputError

__all__ = ["as_features", "check_number_table", "is_number_table"]


def is_number_table(X: Any) -> bool:
    """Whether queries are a dense or sparse table of numbers, and not text or a mixed frame."""
    return issparse(X) or (isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype.kind in "fiub")


def check_number_table(X: Any, *, owner: str, hint: str = "") -> None:
    """Refuse queries that are text or a mixed frame.

    Raises
    ------
    RouterInputError
        Says what to put before `owner`, and what else `hint` knows.
    """
    if not is_number_table(X):
        raise RouterInputError(
            f"{owner} needs queries as a table of numbers, got {type(X).__name__}; put a transformer before it, as in "
            f"make_pipeline(TfidfVectorizer(), ...){hint}"
        )


def as_features(X: Any, *, owner: str, hint: str = "") -> Any:
    """Checked queries as a table of floats; integers are converted once.

    Raises
    ------
    RouterInputError
        If queries are text or a mixed frame.

    Examples
    --------
    >>> as_features(np.array([[1, 2]]), owner="Router").tolist()
    [[1.0, 2.0]]
    """
    check_number_table(X, owner=owner, hint=hint)
    return X if X.dtype in (np.float32, np.float64) else X.astype(np.float64)
