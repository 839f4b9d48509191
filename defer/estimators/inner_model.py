"""The estimator inside a router: what stands at the end of a pipeline, what it takes, and fitting it with weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from numpy.typing import ArrayLike
from sklearn import config_context
from sklearn.base import clone

from defer.exceptions import RouterInputError

__all__ = ["check_keywords", "describe", "fit_clone", "last_step", "takes_weight"]


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


def describe(router: Any) -> str:
    """Names of a router's classes: of the steps, if it is a pipeline.

    Parameters
    ----------
    router : router or pipeline

    Examples
    --------
    >>> from sklearn.preprocessing import StandardScaler
    >>> from defer.estimators import QualityRouter, make_pipeline
    >>> describe(make_pipeline(StandardScaler(), QualityRouter()))
    'StandardScaler → QualityRouter'
    """
    steps = [step for _, step in router.steps] if hasattr(router, "steps") else [router]
    return " → ".join(type(step).__name__ for step in steps)


def check_keywords(method: Callable[..., Any], keywords: Iterable[str], *, owner: str) -> None:
    """Raise RouterInputError unless a method of a router takes all of these keywords.

    Parameters
    ----------
    method : bound method of a router or pipeline
    keywords : iterable of str
    owner : str
        Who hands them on, for messages.

    Examples
    --------
    >>> from defer.estimators import SoftLabelRouter
    >>> check_keywords(SoftLabelRouter().fit, ["latency"], owner="TunedRouter")
    """
    parameters = inspect.signature(method).parameters.values()
    if any(given.kind is given.VAR_KEYWORD for given in parameters):
        return
    taken = {given.name for given in parameters}
    strange = [name for name in keywords if name not in taken]
    if strange:
        router = type(getattr(method, "__self__", method)).__name__
        raise RouterInputError(
            f"{owner}: {strange[0]}= needs a router whose {method.__name__} takes it, and that of {router} does not"
        )


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
