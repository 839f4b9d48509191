"""The estimator inside a router: what stands at the end of a pipeline, and fitting it with weights."""

from __future__ import annotations

import inspect
from typing import Any

from numpy.typing import ArrayLike
from sklearn import config_context
from sklearn.base import clone

__all__ = ["fit_clone", "last_step", "takes_weight"]


def last_step(model: Any) -> Any:
    """The estimator at the end of a pipeline, or the model itself.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.pipeline import make_pipeline
    >>> last_step(make_pipeline(make_pipeline(Ridge())))
    Ridge()
    """
    while getattr(model, "steps", None):
        model = model.steps[-1][1]
    return model


def takes_weight(model: Any) -> bool:
    """Whether a model, or the last step of a pipeline, takes `sample_weight`.

    Examples
    --------
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> takes_weight(KNeighborsClassifier())
    False
    """
    parameters = inspect.signature(last_step(model).fit).parameters.values()
    return any(given.name == "sample_weight" or given.kind is given.VAR_KEYWORD for given in parameters)


def fit_clone(model: Any, X: Any, y: ArrayLike, weight: ArrayLike | None) -> Any:
    """A clone of a model, fitted with weights if there are any; in a pipeline they go to its last step.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> fit_clone(LinearRegression(), [[0.0], [1.0], [2.0]], [0.0, 1.0, 5.0], [1.0, 1.0, 0.0]).coef_.round(6)
    array([1.])
    """
    if weight is None:
        return clone(model).fit(X, y)
    steps = getattr(model, "steps", None)
    # The weights are for the last step; under metadata routing a pipeline would refuse the prefix.
    if not steps:
        return clone(model).fit(X, y, sample_weight=weight)
    with config_context(enable_metadata_routing=False):
        return clone(model).fit(X, y, **{f"{steps[-1][0]}__sample_weight": weight})
