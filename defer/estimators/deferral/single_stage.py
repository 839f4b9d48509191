"""Single-stage deferral: a classifier and the decision when to ask an expert, learned at once from one surrogate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from defer.estimators.deferral.joint import JointDeferral
from defer.estimators.deferral.parameter_checks import check_shares

__all__ = ["SingleStageDeferral"]


class SingleStageDeferral(JointDeferral):
    """Learn labels and deferral together; defer where the expert's score is above every class score.

    Parameters
    ----------
    surrogate : str, default="softmax"
        A key of `defer.losses.SURROGATES`: "softmax", "softmax_alpha", "ova", "asymmetric_softmax", "realizable", "rl2d",
        "cost_sensitive".  "softmax", "ova" and "cost_sensitive" take several experts, the others one.
    estimator : {"linear", "mlp"}, torch module or scikit-learn classifier, default="linear"
        What gives the scores.  "linear": L-BFGS on the exact gradient, for the convex surrogates ("softmax",
        "softmax_alpha", "ova", "cost_sensitive") the unique optimum; the others are fitted from zero, from
        the softmax solution and, "rl2d", from solutions followed from q = 0 up to its q, and the lowest is kept.  "mlp" or a
        module: torch, stopped early on the true deferral loss.  A classifier: for "ova" one clone per action, for "softmax"
        and "cost_sensitive" one clone on queries that are repeated once per action, because these surrogates are weighted
        classification (see `defer.estimators.deferral.classifier_scores`); it must take ``sample_weight`` and have ``predict_proba``.
    alpha : float, default=0.5
        Of "softmax_alpha": weight of the label where the expert is right.
    q : float, default=0.7
        Of "rl2d"; 0 is "realizable", 1 of the type of the mean absolute error.
    mix : float, default=1.0
        Of "realizable": share of it, the rest being the classes' cross-entropy.
    C : float, default=1.0
        Inverse strength of the penalty of the linear model, as in `LogisticRegression`.
    costs : {"decision", "training"}, default="decision"
        Where ``cost_weight * cost`` enters.  "decision": fitted without costs, which are weighed against the read-outs when
        a query is decided; one fit serves every `cost_weight` and limit ("softmax", "ova", "asymmetric_softmax").
        "training": costs are part of the surrogate, and another `cost_weight` needs another fit (all but
        "asymmetric_softmax").  To decide at a `cost_weight` that the fit does not hold for is an error.
    cost_weight : float, default=0.0
        Quality given up per US dollar: utility = quality - cost_weight * cost.
    rescale : bool, default=False
        Map the least and the largest cost that the surrogate sees to 0 and 1, wherever they lie; else a cost outside [0, 1] is
        an error.  It is needed for ``costs="training"``, since a wrong answer that was paid for costs more than 1.
    max_iter : int, default=1000
    tol : float, default=1e-4
        Of the linear model: stop where no derivative of the objective exceeds it, by a coefficient in units of the spread of its
        feature; warns where it is not reached.
    hidden : int or sequence of int, default=(64,)
    learning_rate : float, default=3e-3
    max_epochs : int, default=200
        Of networks.
    random_state : int, Generator, RandomState instance or None, default=None
        Of networks; everything else is deterministic.

    Attributes
    ----------
    arms_ : array of shape (1 + J,), or (m,)
    label_classes_ : array of shape (K,)
        Only there if fitted from answers.
    model_ : fitted model of scores

    Notes
    -----
    A read-out is as calibrated as the scores are well specified: where no linear scores fit, as with six specialists of regions,
    own quality came out .10 (one-vs-all) and .13 (softmax) too low, and that of experts by the softmax .06 to .09 too high.  Under a
    limit or a price that matters; compare with accuracies on fresh queries, or take another estimator.

    `predict_quality` gives P(own answer right) and P(expert right) for "softmax", "ova" and "asymmetric_softmax", by a
    read-out of the scores; that of "softmax" can exceed 1 for an expert.  "cost_sensitive" tells shares alone, which are
    multiplied by a ridge estimate of their total: that is the same quality where the total is linear in the query, good enough
    to report and to order by, and no read-out to weigh costs against; hence its costs belong into training.  For
    "softmax_alpha" below 1 quality is biased towards the expert, as its decisions are, and for "realizable" and "rl2d" it is the
    softmax of the scores, which is an order and no probability: under these two a `Share` can be asked for, and no `Budget` or
    `QualityTarget`.

    Where the expert was not asked on every query, "softmax", "ova" and "asymmetric_softmax" leave its term out; the other
    surrogates tie classes and expert together, and learn from the queries on which it was asked.  Answers are taken to be
    missing at random given the query: P(asked | x) is estimated by a logistic regression where arms share a term or a network,
    and what was observed is weighted by its inverse; "ova" and "asymmetric_softmax" with a linear model need no weight.  Given
    propensities take the place of that estimate and weigh under every surrogate.

    References
    ----------
    Mozannar and Sontag 2020; Verma and Nalisnick 2022; Charusaie et al. 2022; Mozannar et al. 2023; Cao et al. 2023; Mao,
    Mohri, Zhong 2024.  What is proved about each is in `defer.losses.SURROGATES`.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.arange(40.0).reshape(-1, 1) / 10 - 2
    >>> y = (np.abs(X[:, 0]) > 1).astype(int)              # no line tells these labels apart
    >>> expert = np.where(X[:, 0] < 0, y, 1 - y)           # the expert knows the left half
    >>> system = SingleStageDeferral(C=100.0).fit(X, y, experts=expert)
    >>> system.predict([[-1.5], [1.5]]).tolist()
    ['expert', 'own']
    """

    def __init__(
        self,
        surrogate: str = "softmax",
        estimator: Any = "linear",
        *,
        alpha: float = 0.5,
        q: float = 0.7,
        mix: float = 1.0,
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
        self.alpha = alpha
        self.q = q
        self.mix = mix
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

    def _check_choices(self) -> None:
        super()._check_choices()
        check_shares("SingleStageDeferral", alpha=self.alpha, q=self.q, mix=self.mix)

    def _surrogate_options(self) -> dict[str, Any]:
        option = {"softmax_alpha": "alpha", "rl2d": "q", "realizable": "mix"}.get(self.surrogate)
        return {} if option is None else {option: getattr(self, option)}
