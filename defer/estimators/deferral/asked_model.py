"""Who is asked: the probability that an outcome was observed, estimated from the query, and what outcomes weigh by it.

Where arms share a term of a loss, an arm that was seldom observed on some queries would seem less good there.  Dividing by
P(observed | x) undoes that for outcomes that are missing at random given the query: whether they were observed depends on x
and on chance, and not on what they are.  Source: inverse probability weighting with an estimated propensity (textbook).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.preprocessing import StandardScaler

from defer.estimators.deferral.expert_outcomes import outcome_weights
from defer.estimators.deferral.right_model import fit_right, logistic
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.queries import is_numeric_input

__all__ = ["LEAST_CHANCE", "asked_probability", "population_weights"]

Floats = NDArray[np.float64]

LEAST_CHANCE = 0.02
"""Estimates below it are raised to it, so that no outcome counts for more than fifty."""


def population_weights(X: Any, outcomes: Outcomes) -> Floats:
    """Weights by which what was observed of every arm stands for all queries, shape (n, m): 0 where it was not observed.

    Parameters
    ----------
    X : n queries, or features of them
        What the models see.
    outcomes : Outcomes

    Returns
    -------
    array of shape (n, m)
        Sample weights, divided by the propensity of what was observed: the given one, or else `asked_probability`.  Scaled so
        that those of every arm sum to the weight of all queries.

    Examples
    --------
    >>> from defer.estimators.outcomes_input import read_outcomes
    >>> outcomes = read_outcomes([[1.0, np.nan], [0.0, 1.0]], n=2)
    >>> population_weights(["no", "table"], outcomes).tolist()
    [[1.0, 0.0], [1.0, 2.0]]
    """
    weight = outcome_weights(outcomes)
    row = np.ones(len(weight)) if outcomes.sample_weight is None else outcomes.sample_weight
    if outcomes.weighting == "missing at random":
        weight = weight / asked_probability(X, np.isfinite(outcomes.quality), weight=row)
    return weight * (row.sum() / weight.sum(axis=0))


def asked_probability(X: Any, seen: NDArray[np.bool_], *, weight: Floats) -> Floats:
    """Probability that each outcome was observed, by a logistic regression for every arm, shape (n, m).

    Parameters
    ----------
    X : n queries
        A dense or sparse table, or frame, of numbers, which is standardised; of anything else nothing is read.
    seen : bool array of shape (n, m)
        Every arm was observed in a row of positive weight.
    weight : array of shape (n,)
        Of the queries.

    Returns
    -------
    array of shape (n, m)
        At least `LEAST_CHANCE`; 1 for an arm that was observed on all queries, and the share of what was observed where the
        queries are no table of numbers.

    Examples
    --------
    >>> X, seen = np.repeat([[-1.0], [1.0]], 100, axis=0), np.ones((200, 2), dtype=bool)
    >>> seen[10:110, 1] = False
    >>> asked_probability(X, seen, weight=np.ones(200))[[0, -1]].round(1).tolist()
    [[1.0, 0.1], [1.0, 0.9]]
    """
    chance = np.ones(seen.shape)
    partly = np.flatnonzero(~seen[weight > 0].all(axis=0))
    features = _standardised(X, weight) if len(partly) else None
    for column in partly:
        asked = seen[:, column].astype(float)
        if features is None:
            chance[:, column] = weight @ asked / weight.sum()
        else:
            chance[:, column] = fit_right(logistic(), features, asked, weight).predict(features)
    return np.maximum(chance, LEAST_CHANCE)


def _standardised(X: Any, weight: Floats) -> Any:
    """Features of mean 0 and variance 1, of variance 1 alone if they are sparse; None if they are no numbers."""
    if not issparse(X):
        try:
            X = np.asarray(X, dtype=np.float64) if is_numeric_input(X) else None
        except (TypeError, ValueError):
            return None
        if X is None or X.ndim != 2:
            return None
    # One feature may be in thousands and another in thousandths: the penalty is to treat them alike.
    scaled = StandardScaler(with_mean=not issparse(X)).fit_transform(X, sample_weight=weight)
    return scaled if issparse(X) else np.nan_to_num(scaled)
