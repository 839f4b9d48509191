"""What a deferral model looks at: the scores of the base classifier, the query, or both."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from defer.estimators.deferral.parameter_checks import check_choice
from defer.estimators.deferral.query_features import as_features

__all__ = ["FEATURES", "Features", "check_features", "deferral_features", "score_features"]

Floats = NDArray[np.float64]
Features = Literal["scores", "confidence", "queries", "both"]
FEATURES = ("scores", "confidence", "queries", "both")

_TOP = 10


def score_features(probability: Floats) -> Floats:
    """Features of the probabilities of a classifier.

    Parameters
    ----------
    probability : array of shape (n, K)

    Returns
    -------
    array of shape (n, min(K, 10) + 2 + K)
        The ten largest probabilities by falling size, the margin between the first two, the entropy in nats, and the
        prediction as one-hot.  Source: card defaults of Narasimhan et al. 2022.

    Examples
    --------
    >>> score_features(np.array([[0.25, 0.75]])).round(3).tolist()
    [[0.75, 0.25, 0.5, 0.562, 0.0, 1.0]]
    """
    ordered = -np.sort(-probability, axis=1)
    margin = ordered[:, 0] - (ordered[:, 1] if probability.shape[1] > 1 else 0.0)
    entropy = -np.sum(probability * np.log(np.where(probability > 0, probability, 1.0)), axis=1)
    prediction = np.eye(probability.shape[1])[probability.argmax(axis=1)]
    return np.column_stack([ordered[:, :_TOP], margin, entropy, prediction])


def check_features(owner: str, features: str) -> None:
    """Refuse a choice of features that is not known.

    Raises
    ------
    RouterInputError
    """
    check_choice(owner, "features", features, FEATURES)


def deferral_features(X: Any, probability: Floats, *, features: str, owner: str) -> Any:
    """Features of queries and of what a classifier says about them.

    Parameters
    ----------
    X : n queries
        Only read if they are asked for; then a table of numbers.
    probability : array of shape (n, K)
    features : {"scores", "confidence", "queries", "both"}
        "confidence" is the largest probability alone.
    owner : str
        Class that asks, for messages.

    Returns
    -------
    array or csr matrix of shape (n, f)

    Examples
    --------
    >>> X, probability = np.array([[7.0]]), np.array([[0.25, 0.75]])
    >>> deferral_features(X, probability, features="confidence", owner="Router").tolist()
    [[0.75]]
    """
    if features == "confidence":
        return probability.max(axis=1, keepdims=True)
    if features == "scores":
        return score_features(probability)
    hint = ", or take features='scores', for which the base alone reads the queries"
    X = as_features(X, owner=f"{owner}(features={features!r})", hint=hint)
    if features == "queries":
        return X
    scores = score_features(probability)
    return sparse.hstack([X, sparse.csr_array(scores)], format="csr") if sparse.issparse(X) else np.hstack([X, scores])
