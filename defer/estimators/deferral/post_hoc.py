"""Post-hoc deferral: the classifier is trained for its own sake, and a second model learns when to hand over.

One-shot losses flatten the classifier as soon as asking costs something; here it is never touched.  The second model looks
at the classifier's scores on queries that it has not seen.  Source: Narasimhan et al. 2022, "Post-hoc estimators for
learning to defer to an expert".
"""

from __future__ import annotations

from dataclasses import replace
from numbers import Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.utils import get_tags

from defer.estimators.base import column_means
from defer.estimators.deferral.answers import ExpertAnswers
from defer.estimators.deferral.expert_outcomes import outcome_weights
from defer.estimators.deferral.face import BaseDeferral
from defer.estimators.deferral.own_model import OwnModel, check_model, cross_fitted_probability, fit_model, fit_own
from defer.estimators.deferral.partial_scores import PartialScores, fit_partial_scores
from defer.estimators.deferral.right_model import check_unit_quality, fit_right, logistic
from defer.estimators.deferral.score_features import Features, check_features, deferral_features
from defer.estimators.deferral.score_learner import as_features
from defer.estimators.outcomes_input import Outcomes
from defer.exceptions import RouterInputError
from defer.losses import MARGINS

__all__ = ["PostHocDeferral"]

Floats = NDArray[np.float64]

_METHODS = ("plug_in", "partial", "regression")


class PostHocDeferral(BaseDeferral):
    """Defer by a second model that is fitted to what a finished classifier gets wrong.

    Parameters
    ----------
    method : {"plug_in", "partial", "regression"}, default="plug_in"
        How the second model decides.

        * "plug_in": own quality is the largest probability of the base, that of an expert is P(expert right | features) by a
          classifier.  Quality is priced when a query is routed: **one fit for every** ``cost_weight``, and for every limit.
          As good as the base is calibrated.
        * "regression": P(own right) and P(expert right) by squared loss on the same features.  One fit for every
          ``cost_weight``; own quality does not rely on the probabilities of the base.
        * "partial": linear scores by a margin loss (one expert) or a softmax (several), weighted by what every action costs,
          the price of asking included.  Another ``cost_weight`` **needs another fit**; a limit can still be set, on
          qualities that are read out of the scores with an estimate of their total.
    base : classifier, optional
        Gives the own answer; default `LogisticRegression`.  It is fitted on all queries, and for the second model in folds.
        A `FrozenEstimator` is used as it is, without folds: then the queries of `fit` must be others than those it was
        trained on, or it looks better than it is.
    expert_model : estimator, optional
        Classifier for "plug_in" (default `LogisticRegression`), regressor for "regression" (default `Ridge`).
    features : {"scores", "queries", "both", "confidence"}, default="scores"
        What the second model sees: the ten largest probabilities, their margin, entropy and the prediction; the query
        itself; both; or the largest probability alone.  An expert who is a specialist may need the query.
    cv : int, splitter or iterable of (train, test), default=5
        Folds for the base.  Splits by group are handed over as a list, ``list(GroupKFold().split(X, y, groups))``.
    C : float, default=1.0
        Inverse strength of the penalty of the default second model.
    cost_weight : float, default=0.0
        Quality given up per US dollar.
    margin : str, default="logistic"
        Loss for "partial" with two arms, a key of `defer.losses.MARGINS`.
    max_iter : int, default=1000
    tol : float, default=1e-6
        Of the solver for "partial".
    random_state : int, RandomState instance or None
        Shuffles the folds.

    Attributes
    ----------
    arms_, expert_, label_classes_
        As for `BaseDeferral`.
    base_ : OwnModel or None
        None if it was fitted without `experts`.  Then the features are the queries, and the arms are treated alike.
    models_ : list of fitted models
        Of the arms ("plug_in", "regression"); None stands for the probabilities of the base.
    partial_ : PartialScores or None
    n_iter_ : int
        Iterations of the solver for "partial"; else 1.

    Notes
    -----
    Without `experts`, "plug_in" and "partial" read quality as a probability and need it in [0, 1].  Where the own answer and
    the expert are equally good the query is not deferred, unless the expert is cheaper.

    References
    ----------
    Narasimhan, Jitkrittum, Menon, Rawat, Kumar 2022, NeurIPS.

    Examples
    --------
    >>> X = np.array([[-2.0], [-1.0], [1.0], [2.0]] * 10)
    >>> y, expert = np.array([0, 0, 1, 0] * 10), np.array([0, 0, 0, 0] * 10)
    >>> router = PostHocDeferral("regression", features="queries", random_state=0).fit(X, y, experts=expert)
    >>> router.predict_quality(X).shape, router.predict(X[:1], experts=[0]).tolist()
    ((40, 2), [0])
    """

    base_: Any

    def __init__(
        self,
        method: Literal["plug_in", "partial", "regression"] = "plug_in",
        base: Any = None,
        *,
        expert_model: Any = None,
        features: Features = "scores",
        cv: Any = 5,
        C: float = 1.0,
        cost_weight: float = 0.0,
        margin: str = "logistic",
        max_iter: int = 1000,
        tol: float = 1e-6,
        random_state: Any = None,
    ) -> None:
        self.method = method
        self.base = base
        self.expert_model = expert_model
        self.features = features
        self.cv = cv
        self.C = C
        self.cost_weight = cost_weight
        self.margin = margin
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        models = [
            model for model in (self.base, self.expert_model) if model is not None and not isinstance(model, type)
        ]
        tags.input_tags.sparse = all(get_tags(model).input_tags.sparse for model in models)
        return tags

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        self._check_parameters()
        if self.method != "regression":
            check_unit_quality(f"PostHocDeferral(method={self.method!r})", outcomes)
        self._learn(None, as_features(X, owner="PostHocDeferral"), outcomes)

    def _fit_answers(self, X: Any, answers: ExpertAnswers, outcomes: Outcomes) -> None:
        self._check_parameters()
        base, weight = logistic() if self.base is None else self.base, outcomes.sample_weight
        check_model("PostHocDeferral", "base", base)
        seen = cross_fitted_probability(base, X, answers, cv=self.cv, weight=weight, random_state=self.random_state)
        own = fit_own(base, X, answers, weight=weight)
        right = (seen.argmax(axis=1) == answers.label).astype(float)
        outcomes = replace(outcomes, quality=np.column_stack([right, answers.right]))
        features = self._features(X, seen)
        self._fit_outcomes(X, outcomes, learn=lambda _, outcomes: self._learn(own, features, outcomes))

    def _learn(self, own: OwnModel | None, features: Any, outcomes: Outcomes) -> None:
        weight = outcome_weights(outcomes)
        models: list[Any] = []
        partial: PartialScores | None = None
        if self.method == "partial":
            partial = fit_partial_scores(
                features, self._costs(outcomes), weight, margin=self.margin, C=self.C, max_iter=self.max_iter, tol=self.tol
            )  # fmt: skip
            self.fitted_cost_weight_ = self._own_cost_weight
        elif self.method == "plug_in":
            model = logistic(self.C) if self.expert_model is None else self.expert_model
            check_model("PostHocDeferral", "expert_model", model)
            arms = range(0 if own is None else 1, weight.shape[1])
            models = [fit_right(model, features, outcomes.quality[:, arm], weight[:, arm]) for arm in arms]
            models = models if own is None else [None, *models]
        else:
            model = Ridge(alpha=1.0 / self.C, tol=1e-10) if self.expert_model is None else self.expert_model
            models = [
                _regress(model, features, quality, w) for quality, w in zip(outcomes.quality.T, weight.T, strict=True)
            ]
        self.base_, self.models_, self.partial_ = own, models, partial
        self.n_iter_ = 1 if partial is None else max(1, partial.model.n_iter)

    def _costs(self, outcomes: Outcomes) -> Floats:
        """What every action costs, with the price of asking: the loss of quality, in its unit."""
        if outcomes.cost is None or self._own_cost_weight == 0.0:
            return 1.0 - outcomes.quality
        mean = column_means(outcomes.cost, outcomes.weight, outcomes.cost.shape[1])
        price = np.where(np.isfinite(outcomes.cost), outcomes.cost, mean)
        return 1.0 - outcomes.quality + self._own_cost_weight * price

    def _features(self, X: Any, probability: Floats) -> Any:
        return deferral_features(X, probability, features=self.features, owner="PostHocDeferral")

    def _predict_quality(self, X: Any) -> Floats:
        if self.base_ is None:
            features = as_features(X, owner="PostHocDeferral")
            probability = np.empty((0, 0))
        else:
            probability = self.base_.probability(X)
            features = self._features(X, probability)
        if self.partial_ is not None:
            return self.partial_.utility(features) + self.fitted_cost_weight_ * self.mean_cost_
        columns = [probability.max(axis=1) if model is None else model.predict(features) for model in self.models_]
        return np.column_stack(columns).astype(np.float64)

    def _predict_own(self, X: Any) -> NDArray[np.intp]:
        return self.base_.probability(X).argmax(axis=1)

    def _check_parameters(self) -> None:
        if self.method not in _METHODS:
            raise RouterInputError(
                f"PostHocDeferral: method must be one of {', '.join(map(repr, _METHODS))}, got {self.method!r}"
            )
        if self.margin not in MARGINS:
            raise RouterInputError(
                f"PostHocDeferral: margin must be one of {', '.join(map(repr, MARGINS))}, got {self.margin!r}"
            )
        check_features("PostHocDeferral", self.features)
        if not isinstance(self.C, Real) or isinstance(self.C, bool) or not 0.0 < float(self.C) < np.inf:
            raise RouterInputError(f"PostHocDeferral: C must be a finite number > 0, got {self.C!r}")
        if isinstance(self.expert_model, type):
            raise TypeError(
                f"PostHocDeferral: expert_model must be an estimator, got the class {self.expert_model.__name__}; write "
                f"{self.expert_model.__name__}()"
            )


def _regress(model: Any, X: Any, quality: Floats, weight: Floats) -> Any:
    rows = np.flatnonzero(weight > 0)
    if len(rows) < len(weight):
        X = (X if isinstance(X, np.ndarray) else X.tocsr())[rows]
    return fit_model(model, X, quality[rows], weight[rows])
