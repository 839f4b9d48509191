"""What every deferral estimator has beside the router contract: expert answers in `fit`, and the face of a classifier.

A deferral system answers a query itself or hands it to an expert.  As a router its first arm is its own prediction and
its other arms are the experts; as a classifier it gives the answer of whichever of them is taken.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from defer.estimators.base import BaseRouter
from defer.estimators.deferral.answers import ExpertAnswers, read_answers
from defer.estimators.deferral.expert_outcomes import expert_outcomes
from defer.estimators.deferral.panel_tables import group_codes
from defer.estimators.deferral.system_answers import refuse_labels, system_answer, system_log, system_utility
from defer.estimators.outcomes_input import Outcomes, read_weight
from defer.estimators.queries import n_queries
from defer.estimators.routing import Routing
from defer.exceptions import RouterInputError
from defer.portfolios.limits import Limit
from defer.portfolios.outcomes import OutcomeLog

__all__ = ["BaseDeferral"]


class BaseDeferral(BaseRouter):
    """Base of the deferral estimators: `fit` takes the answers of experts, and there is a system's answer.

    Attributes
    ----------
    arms_ : array of shape (1 + J,)
        ``"own"`` and the names of the experts; without `experts` in `fit`, the arms of the table of quality, the first of
        which counts as own.
    expert_ : array of shape (J,)
        Names of the experts.
    label_classes_ : array of shape (K,)
        Labels of `y`; only there if `fit` was given `experts`.
    """

    __metadata_request__fit = {  # noqa: RUF012
        "experts": True, "cost": True, "propensity": True, "sample_weight": True, "groups": True,
    }  # fmt: skip

    __metadata_request__score = {  # noqa: RUF012
        "experts": True, "cost": True, "propensity": True, "sample_weight": True,
    }  # fmt: skip

    __metadata_request__predict = {"experts": True, "routing": True}  # noqa: RUF012

    label_classes_: NDArray[np.generic]
    # Of the queries of a table of outcomes, while they are fitted; answers carry theirs.
    _groups: NDArray[np.intp] | None = None

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
    ) -> Self:
        """Fit on true labels and the answers of experts, or on a table of outcomes.

        Parameters
        ----------
        X : array, sparse matrix, frame or list of str, n rows
            Queries.
        y : array of shape (n,), or table of shape (n, m)
            True labels, if `experts` is given.  Without it as for `BaseRouter.fit`: quality of every arm, NaN where it was
            not observed, or labels of the arm that should be taken: true labels with `experts` forgotten become the names
            of arms, as `arms_` shows.
        experts : array of shape (n,) or (n, J), or frame with one column per expert, optional
            Answers of the experts, of the kind of `y`; NaN or None where an expert was not asked.
        cost : array or frame of shape (n, 1 + J) or (n, J), or (n,) for one expert, optional
            US dollars per query for the own answer and the experts, or for the experts alone: then the own answer is free.
        propensity : array of shape (n,) or (n, J), or frame, optional
            Probability with which an expert was asked; read where it was.  Its answers are weighted by the inverse, unless
            every expert was asked on every query: complete answers are not weighted.
            Without it, gaps are read as missing at random given the query: who was asked may depend on what the model sees of
            the query, and not on what the expert would have answered.  Where arms share a term of the loss or a network
            (softmax, two-stage, "partial"), P(asked | x) is then estimated, by a logistic regression for every expert on the
            same features, and takes the place of the propensity; experts that are modelled by themselves (one-vs-all,
            "plug_in", "regression") need no weight.  Without `experts` as for `BaseRouter.fit`, and gaps are read in the same
            way.
        sample_weight : array of shape (n,), optional
            A weight of k is worth k equal rows.
        groups : array of shape (n,), optional
            Queries that belong together, such as those of one patient: an estimator that cross-fits its base (`PostHocDeferral`,
            `LearnedTriage`, `ConfidenceDeferral`) keeps them in one fold; the others do not need them.  Where none are given,
            and folds are a number, equal texts are kept together.

        Returns
        -------
        self

        Raises
        ------
        RouterInputError
            On shapes that do not match, one class in `y`, an expert without any answer, answers of another kind than `y`,
            gaps written as text, negative costs, propensities outside (0, 1], or a row without a group.

        Warns
        -----
        DeferWarning
            If an answer is no class of `y`: it counts as wrong.
        DegenerateExpertWarning
            If an expert is right in all, or in none, of its answers.
        SupportWarning
            If the answers of an expert, weighted by propensity, are worth fewer than ten.
        """
        for name in ("label_classes_", "arms_"):
            if hasattr(self, name):
                delattr(self, name)
        if experts is None:
            self._groups = None if groups is None else group_codes(groups, n=n_queries(X))
            try:
                return super().fit(X, y, cost=cost, propensity=propensity, sample_weight=sample_weight)
            finally:
                del self._groups
        X = self._check_queries(X, reset=True)
        n = n_queries(X)
        answers = read_answers(y, experts, n=n, weight=read_weight(sample_weight, n=n))
        outcomes = expert_outcomes(answers, cost=cost, propensity=propensity, sample_weight=sample_weight)
        if groups is not None:
            answers = replace(answers, group=group_codes(groups, n=n))
        self._fit_answers(X, answers, outcomes)
        if not hasattr(self, "label_classes_"):  # a predictor of its own may know labels that y does not hold
            self.label_classes_ = answers.classes
        return self

    @abstractmethod
    def _fit_answers(self, X: Any, answers: ExpertAnswers, outcomes: Outcomes) -> None:
        """Learn from answers; the first column of `outcomes.quality`, the own one, is 0 and for the method to fill in.

        Ends in ``self._fit_outcomes(X, outcomes, learn=...)``.
        """

    @abstractmethod
    def _predict_own(self, X: Any) -> NDArray[np.intp]:
        """Index into `label_classes_` of the own answer, shape (n,)."""

    @property
    def expert_(self) -> NDArray[np.generic]:
        """Names of the experts, shape (J,)."""
        return self.arms_[1:]

    def predict(self, X: Any, experts: Any = None, *, routing: Routing | None = None) -> NDArray[np.generic]:
        """The arm that each query takes, or the answer of the system if the experts' answers are given.

        Parameters
        ----------
        X : n queries
        experts : array of shape (n,) or (n, J), or frame, optional
            Answers of the experts; those of an expert who is not taken may be missing.
        routing : Routing, optional
            Of these queries by this router, if they were routed under a limit; else each takes its arm of highest utility.
            Read with `experts`.

        Returns
        -------
        array of shape (n,)
            Names of the arms without `experts`; labels with it.  An answer that is no label is handed on.

        Raises
        ------
        RouterInputError
            If the answer of an expert who is taken is missing, answers are of another kind than the labels, the routing is
            of other queries or arms, or the router was fitted without experts.
        """
        if experts is None:
            return super().predict(X)
        return system_answer(self, X, experts, routing)

    def predict_own(self, X: Any) -> NDArray[np.generic]:
        """The own answer to every query, shape (n,), whoever takes it.

        Parameters
        ----------
        X : n queries

        Returns
        -------
        array of shape (n,)
            Labels.

        Raises
        ------
        RouterInputError
            If the router was fitted without experts: it knows how good its arms are, not what they say.
        """
        check_is_fitted(self, "arms_")
        if not hasattr(self, "label_classes_"):
            raise RouterInputError(
                f"this {type(self).__name__} was fitted without experts=, on a table of outcomes: it has no answers of its own"
            )
        return self.label_classes_[self._predict_own(self._check_fitted_queries(X))]

    def defer_mask(self, X: Any, *, limit: Limit | None = None, random_state: Any = None) -> NDArray[np.bool_]:
        """Which queries go to an expert, shape (n,).

        Parameters
        ----------
        X : n queries
        limit : Limit, optional
            As for `BaseRouter.route`.
        random_state : int, Generator, RandomState instance or None
            Draws the randomised group, if the limit needs one.
        """
        if limit is None:
            return super().predict(X) != self.arms_[0]
        return self.route(X, limit=limit, random_state=random_state).arm != 0

    def outcome_log(
        self,
        X: Any,
        y: ArrayLike,
        experts: Any,
        *,
        cost: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        **columns: Any,
    ) -> OutcomeLog:
        """What own and the experts did on labelled queries, as a log to evaluate this router on.

        Parameters
        ----------
        X : n queries
        y : array of shape (n,)
            True labels.
        experts : array of shape (n,) or (n, J), or frame
            Answers.  Without `propensity` gaps stay gaps of the log, and a policy that takes one cannot be evaluated.
        cost : array or frame of shape (n, 1 + J) or (n, J), or (n,) for one expert, optional
            As for `fit`.
        propensity : array of shape (n,) or (n, J), or frame, optional
            Probability with which an expert was asked; where nothing but chance decided, the share of its answers that are
            there.  It fills the column of an expert with gaps: with the weighted mean of the expert, to which is added,
            where it was asked, (right - mean) / propensity.  Single values may then lie outside [0, 1]; the mean of any
            policy that does not depend on who was asked is unbiased, up to the order 1 / n, where propensities are right.
        **columns
            ``domain``, ``cluster``, ``query_id`` and what else `OutcomeLog.from_arrays` takes.

        Returns
        -------
        OutcomeLog
            Quality 1 where the answer is the true label; the arms are those of the router.

        Raises
        ------
        RouterInputError
            As for `fit`; also if `y` holds labels of another kind than those of `fit`, or none that anybody gives.

        Warns
        -----
        DeferWarning
            If an answer is no label: it counts as wrong.
        """
        return system_log(self, X, y, experts, cost=cost, propensity=propensity, **columns)

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
        """Mean realised utility of the arms that `predict` takes: without cost, the accuracy of the system.

        Parameters
        ----------
        X : n queries
        y : array of shape (n,), or table of shape (n, m)
            True labels, if `experts` is given; else as for `BaseRouter.score`.
        experts, cost, propensity, sample_weight
            As for `fit`.  Where the answer of the expert taken is missing, the propensity of the answers makes the
            value the self-normalised inverse-propensity estimate; a score does not take it for granted, as `fit` does, that
            gaps are at random.  Where they are, the propensity is the share of an expert's answers that are there.

        Returns
        -------
        float

        Raises
        ------
        RouterInputError
            As for `outcome_log`; also if the answer of the expert taken is missing, and no propensity is given.
        """
        if experts is None:
            refuse_labels(self, y)
            return super().score(X, y, cost=cost, propensity=propensity, sample_weight=sample_weight)
        return system_utility(
            self, X, y, experts, cost=cost, propensity=propensity, sample_weight=sample_weight,
            cost_weight=self._own_cost_weight,
        )  # fmt: skip
