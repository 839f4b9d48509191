"""Several experts at once: who is asked is learned together with the labels, from answers that may have gaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from defer.estimators.deferral.answers import ExpertAnswers
from defer.estimators.deferral.imputation import MISSING, imputed_outcomes
from defer.estimators.deferral.joint import JointDeferral
from defer.estimators.deferral.parameter_checks import check_choices
from defer.estimators.outcomes_input import Outcomes

__all__ = ["MultiExpertDeferral"]


class MultiExpertDeferral(JointDeferral):
    """Learn labels and which of several experts to ask together; the arm of highest score answers.

    Parameters
    ----------
    surrogate : {"ova", "softmax", "cost_sensitive"}, default="ova"
        One-vs-all reads each expert's probability from its own score, so a gap or an error in one leaves the others alone;
        the softmax couples them.  Both are Bayes-consistent for any number of experts.
    estimator : {"linear", "mlp"}, torch module or scikit-learn classifier, default="linear"
        As for `SingleStageDeferral`.
    missing : {"at_random", "impute"}, default="at_random"
        What is assumed of experts who were not asked.  "at_random": given the query, whether an expert was asked has nothing
        to do with what it would have answered; its term is left out.  Under "softmax", and in a network, where experts share
        what is learned, the observed terms are weighted by the inverse of P(asked | x), which is estimated by a logistic
        regression for every expert; one-vs-all scores of a linear model or of classifiers need no weight.  A ``propensity`` that
        is given to `fit` weighs in both cases.  "impute": who is asked may depend on query and label, and P(right | x, y)
        of an expert model stands where an answer is missing; that model has to be right, and propensities are not used.
        It concerns answers alone: gaps of a table of outcomes are always missing at random, or weighted.
    expert_model : classifier, optional
        Of "impute"; by default a `LogisticRegression` on query and label.
    C : float, default=1.0
        Inverse strength of the penalty of the linear model, as in `LogisticRegression`.
    costs : {"decision", "training"}, default="decision"
        As for `SingleStageDeferral`: one fit for every `cost_weight` ("ova", "softmax"), or a fit for each.
    cost_weight : float, default=0.0
        Quality given up per US dollar: utility = quality - cost_weight * cost.
    rescale : bool, default=False
        Map the least and the largest cost that the surrogate sees to 0 and 1, wherever they lie; else a cost outside [0, 1] is
        an error.
    max_iter : int, default=1000
    tol : float, default=1e-4
        Of the linear model: stop where no derivative of the objective exceeds it, by a coefficient in units of the spread of its
        feature; warns where it is not reached.
    hidden : int or sequence of int, default=(64,)
    learning_rate : float, default=3e-3
    max_epochs : int, default=200
        Of networks.
    random_state : int, Generator, RandomState instance or None, default=None
        Of networks and of the imputation.

    Attributes
    ----------
    arms_ : array of shape (1 + J,), or (m,)
    expert_ : array of shape (J,)
    label_classes_ : array of shape (K,)
        Only there if fitted from answers.
    model_ : fitted model of scores

    Notes
    -----
    A read-out is as calibrated as the scores are well specified: where no linear scores fit, as with six specialists of regions,
    own quality came out .10 ("ova") and .13 ("softmax") too low, and that of experts by "softmax" .06 to .09 too high.  Under a limit or
    a price that matters; compare with accuracies on fresh queries, or take another estimator.

    Dropping the terms of experts who were not asked is harmless for "ova", whose columns do not meet; under "softmax" the
    coupled read-outs are as good as the propensities, given or estimated.

    References
    ----------
    Verma, Barrejon, Nalisnick 2023; Mao, Mohri, Zhong 2023; Charusaie et al. 2022.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.linspace(-1, 1, 60).reshape(-1, 1)
    >>> y = np.arange(60) % 3                              # nothing in X tells the label
    >>> left = np.where(X[:, 0] < 0, y, 0)                 # one expert knows the left half, one the right
    >>> right = np.where(X[:, 0] >= 0, y, 1)
    >>> system = MultiExpertDeferral(C=100.0).fit(X, y, experts=np.column_stack([left, right]))
    >>> system.predict([[-0.9], [0.9]]).tolist()
    ['expert 1', 'expert 2']
    """

    _surrogates = ("ova", "softmax", "cost_sensitive")

    def __init__(
        self,
        surrogate: str = "ova",
        estimator: Any = "linear",
        *,
        missing: str = "at_random",
        expert_model: Any = None,
        C: float = 1.0,
        costs: str = "decision",
        cost_weight: float = 0.0,
        rescale: bool = False,
        max_iter: int = 1000,
        tol: float = 1e-4,
        hidden: int | Sequence[int] = (64,),
        learning_rate: float = 3e-3,
        max_epochs: int = 200,
        random_state: Any = None,
    ) -> None:
        self.surrogate = surrogate
        self.estimator = estimator
        self.missing = missing
        self.expert_model = expert_model
        self.C = C
        self.costs = costs
        self.cost_weight = cost_weight
        self.rescale = rescale
        self.max_iter = max_iter
        self.tol = tol
        self.hidden = hidden
        self.learning_rate = learning_rate
        self.max_epochs = max_epochs
        self.random_state = random_state

    def _expert_outcomes(self, X: Any, answers: ExpertAnswers, outcomes: Outcomes) -> Outcomes:
        return imputed_outcomes(
            X, answers, outcomes, owner="MultiExpertDeferral", missing=self.missing, model=self.expert_model,
            role="expert_model", random_state=self.random_state,
        )  # fmt: skip

    def _check_choices(self) -> None:
        check_choices(self, missing=MISSING)
        super()._check_choices()
