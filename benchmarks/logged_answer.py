"""The answer of a service, as logged, in the place of a classifier."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.linear_model import LogisticRegression

__all__ = ["LoggedAnswer", "LoggedFeatures"]


class LoggedFeatures(TransformerMixin, BaseEstimator):
    """Indicators of a logged label, and the confidence in a column for each label: (n, 2 × labels)."""

    def __init__(self, labels: list[str]) -> None:
        self.labels = labels

    def fit(self, X: pd.DataFrame, y: Any = None) -> Self:
        """Learn nothing."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def transform(self, X: pd.DataFrame) -> NDArray[np.float64]:
        """Of ``answer`` and ``confidence``; a confidence means something else for each label, hence its columns."""
        hot = (np.array(X["answer"].tolist())[:, None] == np.array(self.labels)).astype(float)
        return np.hstack([hot, hot * X["confidence"].to_numpy()[:, None]])


class LoggedAnswer(ClassifierMixin, BaseEstimator):
    """The label that `LoggedFeatures` was given, whatever `y` says; only how far to trust it is learned.

    The probability of the logged label is that it is right, by logistic regression, but always the largest; the others share
    the rest.  A label that is no class of `y` is answered all the same, and every class then has the same probability.
    """

    def __init__(self, labels: list[str]) -> None:
        self.labels = labels

    def fit(self, X: NDArray[np.float64], y: Any) -> Self:
        """Learn how often the logged label is right."""
        self.classes_ = np.unique(y)
        right = self.predict(X) == np.asarray(y)
        self.reliability_ = LogisticRegression(max_iter=1000).fit(X, right)
        return self

    def predict(self, X: NDArray[np.float64]) -> NDArray[np.str_]:
        """The logged label, shape (n,)."""
        return np.array(self.labels)[np.asarray(X)[:, : len(self.labels)].argmax(axis=1)]

    def predict_proba(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of each of `classes_`, shape (n, K)."""
        k = len(self.classes_)
        stated = self.predict(X)[:, None] == self.classes_
        right = np.maximum(self.reliability_.predict_proba(X)[:, [1]], 1.0 / k + 1e-6)
        return np.where(stated.any(axis=1, keepdims=True), np.where(stated, right, (1.0 - right) / (k - 1)), 1.0 / k)
