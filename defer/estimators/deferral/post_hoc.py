"""Post-hoc deferral: the classifier is trained for its own sake, and a second model learns when to hand over.

One-shot losses flatten the classifier as soon as asking costs something; here it is never touched.  The second model looks
at the classifier's scores on queries that it has not seen.  Source: Narasimhan et al. 2022, "Post-hoc estimators for
learning to defer to an expert".
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from defer.estimators.deferral.answers import ExpertAnswers
from defer.estimators.deferral.asked_model import population_weights
from defer.estimators.deferral.expert_outcomes import outcome_weights
from defer.estimators.deferral.imputation import MISSING, imputed_outcomes
from defer.estimators.deferral.observed import filled_cost
from defer.estimators.deferral.own_model import (
    OwnModel,
    check_cv,
    check_model,
    cross_fitted_probability,
    fit_model,
    fit_own,
    take_sparse,
)
from defer.estimators.deferral.parameter_checks import check_choices, check_counts, check_positive
from defer.estimators.deferral.partial_scores import ORDER_MARGINS, PartialScores, fit_partial_scores
from defer.estimators.deferral.pricing import PricedDeferral
from defer.estimators.deferral.query_features import as_features
from defer.estimators.deferral.right_model import check_unit_quality, fit_right, logistic
from defer.estimators.deferral.score_features import Features, check_features, deferral_features
from defer.estimators.outcomes_input import Outcomes
from defer.exceptions import RouterInputError
from defer.losses import MARGINS

__all__ = ["PostHocDeferral"]

Floats = NDArray[np.float64]

_METHODS = ("plug_in", "partial", "regression")


class PostHocDeferral(PricedDeferral):
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
          the price of asking included.  Another ``cost_weight`` **needs another fit**, and to decide at one is an error; a
          limit can still be set, on qualities that are read out of the scores with an estimate of their total.
    base : classifier, optional
        Gives the own answer; default `LogisticRegression`.  It is fitted on all queries, and for the second model in folds.
        A `FrozenEstimator` is used as it is, without folds: then the queries of `fit` must be others than those it was
        trained on, or it looks better than it is.
    expert_model : estimator, optional
        Classifier for "plug_in" (default `LogisticRegression`), cloned for every expert; regressor for "regression" (default
        `Ridge`), cloned for the own answer too.  "partial" has linear scores of its own and refuses one.
    missing : {"at_random", "impute"}, default="at_random"
        What is assumed of experts who were not asked.  "at_random": given the features that the second model sees, whether an
        expert was asked has nothing to do with what it would have answered.  "plug_in" and "regression" model every arm by
        itself and need no weight for that; for "partial", where arms share a term, P(asked | features) is estimated by a
        logistic regression, unless ``propensity`` is given to `fit`.  "impute" is that of `MultiExpertDeferral`, and concerns
        answers alone: gaps of a table of outcomes are always missing at random, or weighted.
    imputation_model : classifier, optional
        Of "impute": P(expert right | query and label), which the second model cannot know; by default a
        `LogisticRegression`.
    features : {"scores", "queries", "both", "confidence"}, default="scores"
        What the second model sees: the ten largest probabilities, their margin, entropy and the prediction; the query
        itself; both; or the largest probability alone.  An expert who is a specialist may need the query.
    cv : int, splitter or list of (train, test), default=5
        Folds for the base.  A number keeps the ``groups`` that are given to `fit`, or else equal texts, in one fold; a splitter
        is given the groups.
    C : float, default=1.0
        Inverse strength of the penalty of the default second model; an `expert_model` has its own.
    cost_weight : float, default=0.0
        Quality given up per US dollar.
    margin : str, default="logistic"
        Loss for "partial" with two arms, a key of `defer.losses.MARGINS`.  More arms are told apart by a softmax, and another
        margin is refused.  "hinge" and "sigmoid" tell a sign alone: a `Share` can be asked for, and no `Budget` or
        `QualityTarget`.  "sigmoid" is not convex, and is fitted from zero and from the logistic solution; with "hinge" the solver
        may stop above the optimum.
    max_iter : int, default=1000
    tol : float, default=1e-6
        Of the solver for "partial"; the other methods have models with solvers of their own.  The tolerance is finer than that
        of the estimators that learn from queries: scores are few features within [0, 1], where derivatives are small.
    random_state : int, Generator, RandomState instance or None
        Shuffles the folds; of the imputation.

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
    trained_cost_weight_ : float
        Cost weight at the time of the fit, for "partial", which learns utility as a whole.

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
        missing: str = "at_random",
        imputation_model: Any = None,
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
        self.missing = missing
        self.imputation_model = imputation_model
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
        tags.input_tags.sparse = take_sparse(self.base, self.expert_model)
        return tags

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        self._check_parameters()
        if self.method != "regression":
            check_unit_quality(f"PostHocDeferral(method={self.method!r})", outcomes)
        self._learn(None, as_features(X, owner="PostHocDeferral"), outcomes)

    def _fit_answers(self, X: Any, answers: ExpertAnswers, outcomes: Outcomes) -> None:
        self._check_parameters()
        base, weight = logistic() if self.base is None else self.base, outcomes.sample_weight
        outcomes = imputed_outcomes(
            X, answers, outcomes, owner="PostHocDeferral", missing=self.missing, model=self.imputation_model,
            role="imputation_model", random_state=self.random_state,
        )  # fmt: skip
        seen = cross_fitted_probability(base, X, answers, cv=self.cv, weight=weight, random_state=self.random_state)
        own = fit_own(base, X, answers, weight=weight)
        right = (seen.argmax(axis=1) == answers.label).astype(float)
        outcomes = replace(outcomes, quality=np.column_stack([right, outcomes.quality[:, 1:]]))
        features = self._features(X, seen)
        self._fit_outcomes(X, outcomes, learn=lambda _, outcomes: self._learn(own, features, outcomes))

    def _learn(self, own: OwnModel | None, features: Any, outcomes: Outcomes) -> None:
        self._fix_cost_weight(outcomes, learned=self.method == "partial")
        self._learn_cost(features, outcomes)
        weight = population_weights(features, outcomes) if self.method == "partial" else outcome_weights(outcomes)
        models: list[Any] = []
        partial: PartialScores | None = None
        if self.method == "partial":
            if self.margin != "logistic" and weight.shape[1] > 2:
                raise RouterInputError(
                    f"PostHocDeferral: margin={self.margin!r} tells two arms apart, and there are {weight.shape[1]}, which the softmax "
                    "does; leave margin='logistic'"
                )
            partial = fit_partial_scores(
                features, self._costs(features, outcomes), weight, margin=self.margin, C=self.C, max_iter=self.max_iter, tol=self.tol
            )  # fmt: skip
            self.trained_cost_weight_ = self._own_cost_weight
        elif self.method == "plug_in":
            model = logistic(self.C) if self.expert_model is None else self.expert_model
            arms = range(0 if own is None else 1, weight.shape[1])
            models = [fit_right(model, features, outcomes.quality[:, arm], weight[:, arm]) for arm in arms]
            models = models if own is None else [None, *models]
        else:
            model = Ridge(alpha=1.0 / self.C, tol=1e-10) if self.expert_model is None else self.expert_model
            models = [
                _fit_where_seen(model, features, quality, w)
                for quality, w in zip(outcomes.quality.T, weight.T, strict=True)
            ]
        self.base_, self.models_, self.partial_ = own, models, partial
        self.n_iter_ = 1 if partial is None else max(1, partial.model.n_iter)

    def _costs(self, features: Any, outcomes: Outcomes) -> Floats:
        """What every action costs, with the price of asking: the loss of quality, in its unit."""
        if outcomes.cost is None or self._own_cost_weight == 0.0:
            return 1.0 - outcomes.quality
        return 1.0 - outcomes.quality + self._own_cost_weight * filled_cost(outcomes, self._cost_at(features))

    def _features(self, X: Any, probability: Floats) -> Any:
        return deferral_features(X, probability, features=self.features, owner="PostHocDeferral")

    def _cost_features(self, X: Any) -> Any:
        if self.base_ is None:
            return as_features(X, owner="PostHocDeferral")
        return self._features(X, self.base_.probability(X))

    @property
    def _order_only(self) -> tuple[str, str] | None:
        if self.partial_ is None or self.partial_.margin not in ORDER_MARGINS:
            return None
        return f"margin={self.partial_.margin!r}", "another margin such as 'logistic'"

    def _predict_quality(self, X: Any) -> Floats:
        if self.base_ is None:
            features = as_features(X, owner="PostHocDeferral")
            probability = np.empty((0, 0))
        else:
            probability = self.base_.probability(X)
            features = self._features(X, probability)
        if self.partial_ is not None:
            return self.partial_.utility(features) + self.trained_cost_weight_ * self._cost_at(features)
        columns = [probability.max(axis=1) if model is None else model.predict(features) for model in self.models_]
        return np.column_stack(columns).astype(np.float64)

    def _predict_own(self, X: Any) -> NDArray[np.intp]:
        return self.base_.probability(X).argmax(axis=1)

    def _check_parameters(self) -> None:
        check_choices(self, method=_METHODS, margin=MARGINS, missing=MISSING)
        check_features("PostHocDeferral", self.features)
        check_cv("PostHocDeferral", self.cv)
        check_positive("PostHocDeferral", C=self.C, tol=self.tol)
        check_counts("PostHocDeferral", max_iter=self.max_iter)
        check_model("PostHocDeferral", "base", logistic() if self.base is None else self.base)
        if self.expert_model is None:
            return
        if self.method == "partial":
            raise RouterInputError(
                f"PostHocDeferral: method='partial' has linear scores of its own, and expert_model={self.expert_model!r} would not be "
                "used; leave it out, or take method='plug_in' or 'regression'"
            )
        needs = "predict" if self.method == "regression" else "predict_proba"
        check_model("PostHocDeferral", "expert_model", self.expert_model, needs=needs)


def _fit_where_seen(model: Any, X: Any, quality: Floats, weight: Floats) -> Any:
    rows = np.flatnonzero(weight > 0)
    if len(rows) < len(weight):
        X = (X if isinstance(X, np.ndarray) else X.tocsr())[rows]
    return fit_model(model, X, quality[rows], weight[rows])
