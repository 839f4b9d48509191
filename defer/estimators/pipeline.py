"""A scikit-learn pipeline whose last step is a router, with the router's methods.

``fit`` hands cost and propensity to the router without prefixes; ``route`` and the predictions go through the transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn import get_config
from sklearn.pipeline import Pipeline
from sklearn.pipeline import make_pipeline as _sklearn_pipeline
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import has_fit_parameter

from defer.estimators.base import BaseRouter
from defer.estimators.inner_model import check_keywords, describe, last_step
from defer.estimators.pipeline_features import check_first_step, features_of
from defer.estimators.queries import text_groups
from defer.estimators.routing import Routing
from defer.exceptions import RouterInputError
from defer.portfolios.limits import Limit
from defer.portfolios.outcomes import OutcomeLog

__all__ = ["RouterPipeline", "describe", "make_pipeline"]

Floats = NDArray[np.float64]


def _last_has(name: str) -> Callable[[RouterPipeline], bool]:
    return lambda pipeline: hasattr(pipeline.steps[-1][1], name)


_defers = _last_has("predict_own")


class RouterPipeline(Pipeline):  # type: ignore[misc]
    """`sklearn.pipeline.Pipeline` with ``route`` and the predictions of its last step, a router.

    `make_pipeline` makes one, and names the steps.

    Parameters
    ----------
    steps : list of (name, estimator)
        Transformers, and a router as the last one.
    transform_input, memory, verbose
        As for `sklearn.pipeline.Pipeline`.

    Attributes
    ----------
    arms_, has_cost_, weighting_, expert_, label_classes_
        As of the last step; the last two if it defers.

    Examples
    --------
    >>> from sklearn.feature_extraction.text import TfidfVectorizer
    >>> from defer.estimators import QualityRouter
    >>> router = make_pipeline(TfidfVectorizer(), QualityRouter())
    >>> router.fit(["add two and two", "write a poem"], [[1.0, 0.0], [0.0, 1.0]]).route(["add one"]).arm.tolist()
    [0]
    """

    def fit(
        self,
        X: Any,
        y: ArrayLike,
        *,
        experts: Any = None,
        cost: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        tags: Any = None,
        latency: ArrayLike | None = None,
        **params: Any,
    ) -> Self:
        """Fit transformers and router; see `BaseRouter.fit`, and `BaseDeferral.fit` for the answers of `experts`.

        Parameters
        ----------
        X : n queries
            What the first step takes.
        y : array or frame of shape (n, m), or array of shape (n,)
            Goes to the router, as do the outcomes and `groups`.
        experts : array of shape (n,) or (n, J), or frame, optional
            Answers of the experts, for a router that defers.
        cost, propensity, sample_weight : optional
            As the router takes them.
        groups : array of shape (n,), optional
            A router that cross-validates, such as `TunedRouter`, gets equal texts as groups where none are given: behind
            the transformers it would not see them.
        tags, latency : optional
            For routers whose ``fit`` takes them: `RewardDistilledRouter` and `StackedRouter`, `SoftLabelRouter`.
        **params
            As for `sklearn.pipeline.Pipeline.fit`.

        Returns
        -------
        self

        Raises
        ------
        RouterInputError
            If `experts` is given and the router does not defer, or takes no `tags` or `latency`, or as it raises it.
        """
        self._check_experts(experts)
        check_first_step(self, X)
        given = {
            "experts": experts, "cost": cost, "propensity": propensity, "sample_weight": sample_weight, "groups": groups,
            "tags": tags, "latency": latency,
        }  # fmt: skip
        name, router = self.steps[-1]
        last = last_step(router)
        asked = f"{name}__groups" in params or groups is not None
        if not asked and isinstance(getattr(last, "cv", None), Integral) and has_fit_parameter(last, "groups"):
            given["groups"] = text_groups(X)
        given = {key: value for key, value in given.items() if value is not None}
        check_keywords(router.fit, [key for key in ("tags", "latency") if key in given], owner="RouterPipeline")
        if not get_config()["enable_metadata_routing"]:
            given = {f"{name}__{key}": value for key, value in given.items()}
        return super().fit(X, y, **params, **given)

    def predict(self, X: Any, experts: Any = None, *, routing: Routing | None = None) -> NDArray[np.generic]:
        """Names of the arms taken; the system's answers, if its last step defers and `experts` is given.

        Parameters
        ----------
        X : n queries
        experts : array of shape (n,) or (n, J), or frame, optional
            Answers of the experts, for a router that defers.
        routing : Routing, optional
            Of these queries, read with `experts`; see `BaseDeferral.predict`.

        Returns
        -------
        array of shape (n,)

        Raises
        ------
        RouterInputError
            If `experts` is given and the router does not defer, or as the router raises it.
        """
        self._check_experts(experts)
        if experts is None:
            return self._final_estimator.predict(self._transform(X))
        return self._final_estimator.predict(self._transform(X), experts, routing=routing)

    def decision_function(self, X: Any) -> Floats:
        """Predicted utility in scikit-learn's convention; see `BaseRouter.decision_function`.

        Parameters
        ----------
        X : n queries
        """
        return self._final_estimator.decision_function(self._transform(X))

    def predict_quality(self, X: Any) -> Floats:
        """Predicted quality of every arm, shape (n, m).

        Parameters
        ----------
        X : n queries
        """
        return self._final_estimator.predict_quality(self._transform(X))

    def predict_cost(self, X: Any) -> Floats:
        """Predicted cost of every arm in US dollars, shape (n, m).

        Parameters
        ----------
        X : n queries
        """
        return self._final_estimator.predict_cost(self._transform(X))

    def predict_utility(self, X: Any) -> Floats:
        """Predicted utility of every arm, shape (n, m).

        Parameters
        ----------
        X : n queries
        """
        return self._final_estimator.predict_utility(self._transform(X))

    @available_if(_last_has("predict_scores"))  # type: ignore[untyped-decorator]
    def predict_scores(self, X: Any) -> Floats:
        """Score of every arm as the router's source defines it, shape (n, m).

        Parameters
        ----------
        X : n queries
        """
        return self._final_estimator.predict_scores(self._transform(X))

    @available_if(_last_has("predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Floats:
        """The router's distribution over arms, shape (n, m)."""
        return self._final_estimator.predict_proba(self._transform(X))

    @available_if(_last_has("add_arm"))  # type: ignore[untyped-decorator]
    def add_arm(self, name: Any, log: OutcomeLog) -> Self:
        """Add an arm from the queries on which it was run; see `ArmAddition.add_arm`.

        Parameters
        ----------
        name : str
        log : OutcomeLog
            Of queries as for `fit`.

        Returns
        -------
        self
        """
        if isinstance(log, OutcomeLog) and log.X is not None:
            log = replace(log, X=self._transform(log.X))
        self._final_estimator.add_arm(name, log)
        return self

    def route(self, X: Any, *, limit: Limit | None = None, random_state: Any = None, **session: Any) -> Routing:
        """Route a batch of queries; see `BaseRouter.route`.

        Parameters
        ----------
        X : n queries
        limit : Limit, optional
        random_state : int, Generator, RandomState instance or None
        **session
            For a last step whose ``route`` takes more, as that of `SessionRouter` does.

        Returns
        -------
        Routing

        Raises
        ------
        RouterInputError
            If the last step does not take it, or as the router raises it.
        """
        route = self._final_estimator.route
        check_keywords(route, session, owner="RouterPipeline")
        return route(self._transform(X), limit=limit, random_state=random_state, **session)

    def score(
        self,
        X: Any,
        y: ArrayLike,
        *,
        experts: Any = None,
        cost: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Mean realised utility; see `BaseRouter.score`, and `BaseDeferral.score` for `experts`.

        Parameters
        ----------
        X : n queries
        y : array or frame of shape (n, m), or array of shape (n,)
        experts, cost, propensity, sample_weight : optional

        Returns
        -------
        float

        Raises
        ------
        RouterInputError
            If `experts` is given and the router does not defer, or as the router raises it.
        """
        self._check_experts(experts)
        answers = {} if experts is None else {"experts": experts}
        return self._final_estimator.score(
            self._transform(X), y, cost=cost, propensity=propensity, sample_weight=sample_weight, **answers
        )

    @available_if(_defers)  # type: ignore[untyped-decorator]
    def predict_own(self, X: Any) -> NDArray[np.generic]:
        """The own answer to every query, shape (n,); see `BaseDeferral.predict_own`.

        Parameters
        ----------
        X : n queries
        """
        return self._final_estimator.predict_own(self._transform(X))

    @available_if(_defers)  # type: ignore[untyped-decorator]
    def defer_mask(self, X: Any, *, limit: Limit | None = None, random_state: Any = None) -> NDArray[np.bool_]:
        """Which queries go to an expert, shape (n,); see `BaseDeferral.defer_mask`.

        Parameters
        ----------
        X : n queries
        limit : Limit, optional
        random_state : int, Generator, RandomState instance or None
        """
        return self._final_estimator.defer_mask(self._transform(X), limit=limit, random_state=random_state)

    @available_if(_defers)  # type: ignore[untyped-decorator]
    def outcome_log(
        self, X: Any, y: ArrayLike, experts: Any, *, cost: ArrayLike | None = None, **columns: Any
    ) -> OutcomeLog:
        """What own and the experts did on labelled queries, as a log; see `BaseDeferral.outcome_log`.

        Parameters
        ----------
        X : n queries
        y : array of shape (n,)
        experts : array of shape (n,) or (n, J), or frame
        cost : array or frame of shape (n, 1 + J) or (n, J), or (n,) for one expert, optional
        **columns
            ``propensity``, and what `OutcomeLog.from_arrays` takes.

        Returns
        -------
        OutcomeLog
            Of the queries as they came, before the transformers.
        """
        log = self._final_estimator.outcome_log(self._transform(X), y, experts, cost=cost, **columns)
        return replace(log, X=X)

    @property
    def arms_(self) -> NDArray[np.generic]:
        """Names of the arms, shape (m,)."""
        return self._final_estimator.arms_

    @property
    def expert_(self) -> NDArray[np.generic]:
        """Names of the experts, shape (J,), if the last step defers."""
        return self._final_estimator.expert_

    @property
    def label_classes_(self) -> NDArray[np.generic]:
        """Labels of the own answers, if the last step was fitted from the answers of experts."""
        return self._final_estimator.label_classes_

    @property
    def has_cost_(self) -> bool:
        """Whether costs were given to ``fit``."""
        return self._final_estimator.has_cost_

    @property
    def weighting_(self) -> str:
        """How partly observed outcomes were treated."""
        return self._final_estimator.weighting_

    @property
    def cost_weight(self) -> float:
        """Quality given up per US dollar."""
        return self._final_estimator.cost_weight

    def _check_experts(self, experts: Any) -> None:
        if experts is not None and not _defers(self):
            raise RouterInputError(
                f"experts= needs a router that defers as the last step, such as PostHocDeferral, got {describe(self)}"
            )

    def _transform(self, X: Any) -> Any:
        return features_of(self, X)


def make_pipeline(*steps: Any, memory: Any = None, verbose: bool = False) -> RouterPipeline:
    """Pipeline of transformers and a router.

    Parameters
    ----------
    *steps : estimators
        Transformers, and a router as the last one.
    memory, verbose
        As for `sklearn.pipeline.make_pipeline`.

    Returns
    -------
    RouterPipeline

    Raises
    ------
    TypeError
        If the last step is not a router.

    Examples
    --------
    >>> from sklearn.preprocessing import StandardScaler
    >>> from defer.estimators import QualityRouter
    >>> [name for name, _ in make_pipeline(StandardScaler(), QualityRouter()).steps]
    ['standardscaler', 'qualityrouter']
    """
    if not steps or not isinstance(steps[-1], (BaseRouter, RouterPipeline)):
        got = type(steps[-1]).__name__ if steps else "nothing"
        if steps and isinstance(steps[-1], type):
            got = f"the class {steps[-1].__name__}; write {steps[-1].__name__}()"
        raise TypeError(f"the last step must be a router (a BaseRouter), got {got}")
    return RouterPipeline(_sklearn_pipeline(*steps).steps, memory=memory, verbose=verbose)
