"""Named blocks of features, each made once for all the models that look at it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, hstack, issparse
from sklearn.base import clone

from defer.estimators.queries import n_queries
from defer.exceptions import RouterInputError

__all__ = ["FeatureBlocks", "check_transformers"]


class FeatureBlocks:
    """Fitted transformers by name, and the tables that they make of queries.

    Parameters
    ----------
    transformers : sequence of (name, transformer)
        None, or an empty sequence: queries are a table of numbers already, the one block ``"queries"``, in which every
        column is divided by its standard deviation.

    Examples
    --------
    >>> from sklearn.feature_extraction.text import CountVectorizer
    >>> blocks = FeatureBlocks([("words", CountVectorizer())])
    >>> tables = blocks.fit(["a cat", "the cat"])
    >>> FeatureBlocks.joined(tables, ("words",)).shape
    (2, 2)
    """

    def __init__(self, transformers: Sequence[tuple[str, Any]] | None) -> None:
        self.transformers = [] if transformers is None else [(name, clone(step)) for name, step in transformers]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the blocks."""
        return tuple(name for name, _ in self.transformers) or ("queries",)

    def fit(self, X: Any, weight: NDArray[np.float64] | None = None) -> dict[str, Any]:
        """Fit every transformer, and give the tables of the queries that it was fitted on.

        Parameters
        ----------
        X : n queries
        weight : array of shape (n,), optional
            Of every query in the standard deviations.
        """
        if not self.transformers:
            self.factor = 1.0 / _deviation(X, weight)
            return self.tables(X)
        return {name: _table(step.fit_transform(X), X, name) for name, step in self.transformers}

    def tables(self, X: Any) -> dict[str, Any]:
        """Table of every block, each of shape (n, d)."""
        if not self.transformers:
            factor = self.factor.astype(np.float32 if X.dtype == np.float32 else np.float64)
            return {"queries": csr_array(X.multiply(factor)) if issparse(X) else X * factor}
        return {name: _table(step.transform(X), X, name) for name, step in self.transformers}

    @staticmethod
    def joined(tables: dict[str, Any], names: Sequence[str]) -> Any:
        """Blocks side by side, shape (n, d): an array if all are arrays, else a csr array."""
        parts = [tables[name] for name in names]
        if len(parts) == 1:
            return parts[0]
        if any(issparse(part) for part in parts):
            return csr_array(hstack(parts, format="csr"))
        return np.hstack(parts)


def check_transformers(given: Any, *, owner: str) -> None:
    """Raise RouterInputError unless features are None or a sequence of (name, transformer) of different names.

    Parameters
    ----------
    given : None or sequence of (name, transformer)
    owner : str
        Class that asks, for messages.

    Examples
    --------
    >>> from sklearn.feature_extraction.text import CountVectorizer
    >>> check_transformers([("words", CountVectorizer())], owner="StackedRouter")
    """
    if given is None:
        return
    if not isinstance(given, (list, tuple)) or not given:
        raise RouterInputError(
            f"{owner}: features must be None or a list of at least one (name, transformer), got {given!r}"
        )
    for index, pair in enumerate(given):
        is_pair = isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str)
        if not is_pair or isinstance(pair[1], type) or not all(hasattr(pair[1], name) for name in ("fit", "transform")):
            raise RouterInputError(
                f"{owner}: features[{index}] must be (name, transformer) with a transformer that has fit and transform, got {pair!r}"
            )
    names = [name for name, _ in given]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RouterInputError(f"{owner}: {len(twice)} names of features stand twice, the first is {twice[0]!r}")


def _deviation(X: Any, weight: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Standard deviation of every column, 1 where it is constant."""
    mass = np.full(X.shape[0], 1.0 / X.shape[0]) if weight is None else weight / weight.sum()
    mean = np.asarray(mass @ X, dtype=np.float64).ravel()
    if issparse(X):
        variance = np.asarray(mass @ X.multiply(X)).ravel() - mean**2
    else:
        variance = np.einsum("i,ij,ij->j", mass, X - mean, X - mean)
    size = np.abs(mean) + 1.0
    return np.where(variance > (1e-9 * size) ** 2, np.sqrt(np.maximum(variance, 0.0)), 1.0)


def _table(table: Any, X: Any, name: str) -> Any:
    if n_queries(table) != n_queries(X):
        raise RouterInputError(
            f"features: {name!r} made {n_queries(table)} rows of {n_queries(X)} queries: a step for texts takes a list or one "
            "column, and no frame"
        )
    return csr_array(table) if issparse(table) else np.asarray(table)
