"""Two-stage deferral: the predictor is fixed, and only who answers is learned."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from defer.estimators.base import check_cost_weight
from defer.estimators.deferral.answers import ExpertAnswers
from defer.estimators.deferral.cost_scale import cost_scale, counted_cost
from defer.estimators.deferral.credit import credit_bound, credit_shares, fit_credit_totals
from defer.estimators.deferral.imputation import MISSING, imputed_outcomes
from defer.estimators.deferral.observed import filled_cost, row_or_cell_weights, warn_of_no_credit
from defer.estimators.deferral.parameter_checks import check_choices, check_flags, check_shares
from defer.estimators.deferral.pricing import PricedDeferral
from defer.estimators.deferral.query_features import as_features
from defer.estimators.deferral.score_learner import (
    ClassifierForm,
    ScoreLearner,
    followed,
    n_iterations,
    takes_sparse,
)
from defer.estimators.deferral.score_problem import ScoreProblem
from defer.estimators.outcomes_input import Outcomes
from defer.exceptions import LeakageWarning, RouterInputError
from defer.losses import COMP_SUMS

__all__ = ["TwoStageDeferral"]

Floats = NDArray[np.float64]

# A predictor that is right on fewer queries than this may be so by chance.
_ENOUGH = 30
_WEIGHTING = {"one_minus_cost": "one", "cost_of_others": "sum"}


class TwoStageDeferral(PricedDeferral):
    """Learn which arm answers, with the predictor left as it is; the arm of highest score is the one of least expected cost.

    The cost of an arm is 1 - quality + cost_weight * cost, and the surrogate is sum_j (1 - c_j) ell(scores, j).

    Parameters
    ----------
    predictor : fitted classifier, optional
        Gives the own answers: ``predictor.predict(X)`` on the same queries.  It is never fitted here.  `clone`, and with it
        cross-validation and every search, forgets the fit of what is not wrapped: pass
        ``sklearn.frozen.FrozenEstimator(classifier)`` there.  Needed with ``experts=`` only; a table of outcomes says by
        itself how good the own answers are.  The queries of `fit` must be others than those it was trained on, where it looks
        better than it is and too few queries are deferred; if there are no others, `PostHocDeferral` cross-fits.
    estimator : {"linear", "mlp"}, torch module or scikit-learn classifier, default="linear"
        What gives the scores.  "linear": L-BFGS on the exact gradient.  "mlp" or a module: torch, stopped early on the true
        deferral loss.  A classifier, with the cross-entropy: one clone, fitted to queries that are repeated once per arm,
        with the arm as class and 1 - c_j as weight, because that is the same loss; it must take ``sample_weight`` and have
        ``predict_proba``.
    comp_sum : str, default="cross_entropy"
        ell, a key of `defer.losses.COMP_SUMS`.  "cross_entropy", "sum_exponential" and "constrained" are convex; the linear
        model of the others is fitted from zero, from the cross-entropy solution and from solutions followed on from there (q = 0, 0.2, ... of the
        generalised cross-entropy, whose q = 1 is the mean absolute error), and the lowest is kept.  At q = 1 scores are an order
        and no quality: a `Share` can be asked for, and no `Budget` or `QualityTarget`.
    q : float, default=0.7
        Of "generalized_cross_entropy".
    weighting : {"one_minus_cost", "cost_of_others"}, default="one_minus_cost"
        Weight of arm j: 1 - c_j, or the sum of the costs of the other arms, which needs every outcome observed.  The
        population minimisers decide alike.
    missing : {"at_random", "impute"}, default="at_random"
        What is assumed of experts who were not asked.  "at_random": given the query, whether an expert was asked has nothing to
        do with what it would have answered.  Arms share one term, so what was observed is weighted by the inverse of
        P(asked | x), estimated by a logistic regression for every expert, or of the ``propensity`` that is given to `fit`.
        "impute" is that of `MultiExpertDeferral`, and concerns answers alone: gaps of a table of outcomes are always missing at
        random, or weighted.
    expert_model : classifier, optional
        Of "impute": P(expert right | query and label); by default a `LogisticRegression`.
    rescale : bool, default=False
        Map the least and the largest of all costs to 0 and 1, wherever they lie; else costs outside [0, 1] are an error.  It is needed for a
        `cost_weight`, since a wrong answer that was paid for costs more than 1.
    C : float, default=1.0
        Inverse strength of the penalty of the linear model, as in `LogisticRegression`: with labels of the arm to take as
        `y`, it is the same problem.
    cost_weight : float, default=0.0
        Quality given up per US dollar.  It is part of what is learned: another operating point needs another fit, and to
        decide at another one is an error.  Limits are followed by the fitted scores.
    max_iter : int, default=1000
    tol : float, default=1e-4
        Of the linear model: stop where no derivative of the objective exceeds it, by a coefficient in units of the spread of its
        feature; warns where it is not reached.
    hidden : int or sequence of int, default=(64,)
    learning_rate : float, default=3e-3
    max_epochs : int, default=200
        Of networks.
    random_state : int, Generator, RandomState instance or None, default=None
        Of networks and of the imputation; everything else is deterministic.

    Attributes
    ----------
    arms_ : array of shape (1 + J,), or (m,)
    label_classes_ : array
        Labels that `y` or the predictor knows; only there if fitted from answers.
    model_ : LinearScores, NetworkScores, ModuleScores or ActionClassifier
    n_iter_ : int
        Iterations of the linear model, or epochs of the network.
    scale_ : CostScale
        Of the costs that the surrogate saw.
    trained_cost_weight_ : float
        Cost weight that these held.
    fixed_cost_weight_ : float or None
        The same, None where `fit` was given no cost.
    totals_ : CreditTotals
        What the shares of credit are multiplied by in `predict_quality`.

    Notes
    -----
    With the cross-entropy the shares softmax(scores) are proportional to 1 - E[c_j | x]; their sum over the arms is estimated
    by ridge regression, so that `predict_quality` is on the scale of quality, in the order of the scores.

    The surrogate is Bayes-consistent; it is realizable-consistent only where the cost of every arm is constant: arms
    that are right together compete, and a linear rejector that routes without an error can be missed.

    References
    ----------
    Mao, Mohri, Mohri, Zhong 2023, "Two-Stage Learning to Defer with Multiple Experts".

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> X = np.arange(40.0).reshape(-1, 1) / 10 - 2
    >>> y = (np.abs(X[:, 0]) > 1).astype(int)
    >>> predictor = LogisticRegression().fit(X[X[:, 0] > 0], y[X[:, 0] > 0])      # knows the right half
    >>> expert = np.where(X[:, 0] < 0, y, 1 - y)                                 # knows the left half
    >>> system = TwoStageDeferral(predictor).fit(X, y, experts=expert)
    >>> system.predict([[-1.5], [1.5]]).tolist()
    ['expert', 'own']
    """

    def __init__(
        self,
        predictor: Any = None,
        estimator: Any = "linear",
        *,
        comp_sum: str = "cross_entropy",
        q: float = 0.7,
        weighting: str = "one_minus_cost",
        missing: str = "at_random",
        expert_model: Any = None,
        rescale: bool = False,
        C: float = 1.0,
        cost_weight: float = 0.0,
        max_iter: int = 1000,
        tol: float = 1e-4,
        hidden: int | Sequence[int] = (64,),
        learning_rate: float = 3e-3,
        max_epochs: int = 200,
        random_state: Any = None,
    ) -> None:
        self.predictor = predictor
        self.estimator = estimator
        self.comp_sum = comp_sum
        self.q = q
        self.weighting = weighting
        self.missing = missing
        self.expert_model = expert_model
        self.rescale = rescale
        self.C = C
        self.cost_weight = cost_weight
        self.max_iter = max_iter
        self.tol = tol
        self.hidden = hidden
        self.learning_rate = learning_rate
        self.max_epochs = max_epochs
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = takes_sparse(self.estimator)
        return tags

    def scores(self, X: Any) -> Floats:
        """Score of every arm, shape (n, m).

        Parameters
        ----------
        X : n queries
        """
        X = as_features(self._check_fitted_queries(X), owner="TwoStageDeferral")
        return self.model_.scores(X)

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        X = as_features(X, owner="TwoStageDeferral")
        weight = row_or_cell_weights(outcomes, X)
        learner = self._checked_learner(weight)
        cost = 1.0 - outcomes.quality
        self._fix_cost_weight(outcomes, learned=True)
        self.trained_cost_weight_ = 0.0 if outcomes.cost is None else float(self.cost_weight)
        self._learn_cost(X, outcomes)
        if self.trained_cost_weight_:
            cost = cost + self.cost_weight * filled_cost(outcomes, self._cost_at(X))
        cost = counted_cost(cost, weight)
        what = "1 - quality + cost_weight * cost" if self.trained_cost_weight_ else "1 - quality"
        self.scale_ = cost_scale(
            cost, owner="TwoStageDeferral", names=outcomes.arms.tolist(), rescale=self.rescale, what=what
        )
        # What was not observed has weight 0; any number in range will do.
        cost = np.where(np.isfinite(cost), self.scale_.scaled(cost), 1.0)
        bound: Any = _WEIGHTING[self.weighting]

        def problem(name: str, **options: Any) -> ScoreProblem:
            return ScoreProblem(cost, weight, partial(_credit_loss, name, self.weighting, options))

        q = self._followed_q
        paths = (
            []
            if q is None
            else [[problem("cross_entropy")], followed(q, lambda q: problem("generalized_cross_entropy", q=q))]
        )
        options = {"q": self.q} if self.comp_sum == "generalized_cross_entropy" else {}
        form = None
        if self.comp_sum == "cross_entropy":
            cell = weight[:, None] if weight.ndim == 1 else weight
            form = ClassifierForm(cell * (credit_bound(cost, bound) - cost))
            warn_of_no_credit(form.credit, weight, owner="TwoStageDeferral")
        self.model_ = learner.fit(X, problem(self.comp_sum, **options), form=form, paths=paths)
        self.n_iter_ = n_iterations(self.model_)
        self.totals_ = fit_credit_totals(X, cost, weight, bound=bound, C=self.C)

    def _fit_answers(self, X: Any, answers: ExpertAnswers, outcomes: Outcomes) -> None:
        check_cost_weight(self)
        self._check_parameters()
        self._check_predictor()
        X = as_features(X, owner="TwoStageDeferral", hint="; the predictor is asked for the same table")
        own = self._own_answers(X)
        labels = np.asarray(getattr(self.predictor, "classes_", np.unique(own)))
        if not set(labels.tolist()) & set(answers.classes.tolist()):
            raise RouterInputError(
                f"TwoStageDeferral: the predictor {type(self.predictor).__name__} answers none of the labels of y: it knows "
                f"{labels.tolist()[:5]}, and y holds {answers.classes.tolist()[:5]}"
            )
        outcomes = imputed_outcomes(
            X, answers, outcomes, owner="TwoStageDeferral", missing=self.missing, model=self.expert_model,
            role="expert_model", random_state=self.random_state,
        )  # fmt: skip
        quality = outcomes.quality.copy()
        quality[:, 0] = own == answers.classes[answers.label]
        _warn_of_leakage(self.predictor, quality[:, 0], outcomes.sample_weight)

        def learn(X: Any, outcomes: Outcomes) -> None:
            self._fit(X, outcomes)
            self.label_classes_ = np.union1d(answers.classes, labels)

        self._fit_outcomes(X, replace(outcomes, quality=quality), learn=learn)

    def _predict_quality(self, X: Any) -> Floats:
        X = as_features(X, owner="TwoStageDeferral")
        share = credit_shares(self.model_.scores(X), comp_sum=self.comp_sum, q=self.q)
        return self.scale_.utility(self.totals_.utility(share, X)) + self.trained_cost_weight_ * self._cost_at(X)

    @property
    def _order_only(self) -> tuple[str, str] | None:
        if self._followed_q != 1.0:
            return None
        q = "" if self.comp_sum == "mean_absolute_error" else " with q=1"
        return f"comp_sum={self.comp_sum!r}{q}", "another comp_sum such as 'cross_entropy'"

    def _predict_own(self, X: Any) -> NDArray[np.intp]:
        own = self._own_answers(X)
        index = np.searchsorted(self.label_classes_, own)
        known = self.label_classes_[np.minimum(index, len(self.label_classes_) - 1)] == own
        if not known.all():
            row = np.flatnonzero(~known)[0]
            raise RouterInputError(
                f"TwoStageDeferral: the predictor gives {np.count_nonzero(~known)} of {len(own)} queries a label that it did not "
                f"know at fit, the first in row {row} ({own[row].item()!r})"
            )
        return index

    def _own_answers(self, X: Any) -> NDArray[np.generic]:
        """What the predictor says; its columns are ours, in the same order."""
        names = getattr(self.predictor, "feature_names_in_", None)
        ours = getattr(self, "feature_names_in_", None)
        if names is not None and ours is not None and names.tolist() != ours.tolist():
            raise RouterInputError(
                f"TwoStageDeferral: the predictor was fitted on the columns {names.tolist()}, and X has {ours.tolist()}; both "
                "see the same queries, so give them the same columns in the same order"
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="X does not have valid feature names")
            own = np.asarray(self.predictor.predict(X))
        n = X.shape[0]
        if own.shape not in ((n,), (n, 1)):
            raise RouterInputError(
                f"TwoStageDeferral: the predictor {type(self.predictor).__name__} must give one label per query, shape ({n},), and "
                f"predict(X) gives shape {own.shape}"
            )
        return own.ravel()

    def _check_predictor(self) -> None:
        if self.predictor is None:
            raise RouterInputError(
                "TwoStageDeferral: with experts= the own answers come from predictor=, which is None; pass a fitted classifier, or "
                "take SingleStageDeferral, which learns the labels too, or PostHocDeferral, which fits its own base model"
            )
        if isinstance(self.predictor, type) or not hasattr(self.predictor, "predict"):
            raise RouterInputError(
                f"TwoStageDeferral: predictor must be a fitted classifier, got {self.predictor!r}, which cannot predict"
            )
        try:
            check_is_fitted(self.predictor)
        except NotFittedError:
            raise RouterInputError(
                f"TwoStageDeferral: the predictor {type(self.predictor).__name__} is not fitted, and the first stage is not "
                "trained here: fit it before, or take PostHocDeferral, which fits its own.  If it was fitted, it was cloned since, "
                "as cross-validation does: pass FrozenEstimator(predictor) of sklearn.frozen"
            ) from None
        except TypeError:
            return  # no estimator of scikit-learn: what predicts is taken at its word

    @property
    def _followed_q(self) -> float | None:
        """The loss as a generalised cross-entropy, where it is one that is not convex; 1 is the mean absolute error."""
        return {"generalized_cross_entropy": self.q, "mean_absolute_error": 1.0}.get(self.comp_sum)

    def _check_parameters(self) -> None:
        check_choices(self, comp_sum=COMP_SUMS, weighting=_WEIGHTING, missing=MISSING)
        check_shares("TwoStageDeferral", q=self.q)
        check_flags("TwoStageDeferral", rescale=self.rescale)

    def _checked_learner(self, weight: Floats) -> ScoreLearner:
        self._check_parameters()
        if weight.ndim == 2 and self.weighting == "cost_of_others":
            raise RouterInputError(
                "TwoStageDeferral: weighting='cost_of_others' needs every outcome observed, since each weight is a sum of the costs "
                "of all other arms; take weighting='one_minus_cost'"
            )
        return ScoreLearner(
            "TwoStageDeferral", self.estimator, self.C, self.max_iter, self.tol, self.hidden, self.learning_rate,
            self.max_epochs, self.random_state,
        )  # fmt: skip


def _warn_of_leakage(predictor: Any, right: Floats, weight: Floats | None) -> None:
    counted = right if weight is None else right[weight > 0]
    if len(counted) >= _ENOUGH and counted.all():
        warnings.warn(
            f"TwoStageDeferral: the predictor {type(predictor).__name__} is right on all {len(counted)} queries of fit, as a model is "
            "on its own training data: it looks better than it is, and nothing is deferred to experts who cost or err; fit on "
            "queries that it has not seen, or take PostHocDeferral, which cross-fits",
            LeakageWarning,
            stacklevel=4,
        )


def _credit_loss(name: str, weighting: str, options: dict[str, Any], scores: Any, cost: Any, weight: Any) -> Any:
    """The comp-sum loss with the credit of every arm as weight; `weight` of rows or of cells."""
    xp = array_namespace(scores)
    credit = 1.0 - cost if weighting == "one_minus_cost" else xp.sum(cost, axis=1, keepdims=True) - cost
    credit = credit * (weight[:, None] if weight.ndim == 1 else weight)
    return COMP_SUMS[name](scores, xp.clip(credit, 0.0, None), **options)
