"""One score vector over classes and experts, learned at once: what the single-stage estimators share.

From answers the actions are the K classes and the J experts; the own arm is the class of highest score.  From a table of
outcomes the actions are the arms themselves, and the surrogate is one of cost-sensitive classification over them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defer.estimators.base import check_cost_weight
from defer.estimators.deferral.answers import ExpertAnswers
from defer.estimators.deferral.cost_scale import CostScale, cost_scale, counted_cost
from defer.estimators.deferral.credit import Bound, credit_bound, credit_shares, fit_credit_totals
from defer.estimators.deferral.observed import filled_cost, row_or_cell_weights, warn_of_no_credit
from defer.estimators.deferral.parameter_checks import check_choices, check_flags
from defer.estimators.deferral.pricing import PricedDeferral
from defer.estimators.deferral.query_features import as_features
from defer.estimators.deferral.score_learner import (
    ClassifierForm,
    ScoreLearner,
    Scores,
    followed,
    n_iterations,
    takes_sparse,
)
from defer.estimators.deferral.score_problem import ScoreProblem
from defer.estimators.outcomes_input import Outcomes
from defer.exceptions import RouterInputError
from defer.losses import SURROGATES, asymmetric_softmax_readout, deferral_cost, ova_readout, softmax_readout

__all__ = ["JointDeferral"]

Floats = NDArray[np.float64]

# Surrogates that are a sum of terms per action, so that the term of an expert who was not asked can be left out or weighted.
_PER_ACTION = ("softmax", "ova", "asymmetric_softmax")
_ORDER_ONLY = ("realizable", "rl2d")
# Beyond this a read-out says "certainly"; products with it stay finite.
_LARGEST_READOUT = 1e100
# What rounding leaves of a derivative.
_FINEST_TOL = 1e-10


class JointDeferral(PricedDeferral):
    """Base of `SingleStageDeferral` and `MultiExpertDeferral`.

    Attributes
    ----------
    model_ : LinearScores, NetworkScores, ModuleScores, ActionClassifier or BinaryClassifiers
        Gives the scores of all actions.
    n_classes_ : int
        Number of classes among the actions; 0 without answers.
    n_iter_ : int
        Iterations of the linear model, or epochs of the network.
    scale_ : CostScale
        Of the costs that the surrogate saw.
    totals_ : CreditTotals or None
        What shares of credit are multiplied by; None where scores are read without.
    trained_cost_weight_ : float
        Cost weight that these held; 0 if costs are weighed at decision.
    fixed_cost_weight_ : float or None
        Cost weight that the fit holds for; None where one fit serves every cost weight.
    """

    # Surrogates that the class offers, by name.
    _surrogates: tuple[str, ...] = tuple(SURROGATES)

    surrogate: str
    estimator: Any
    C: float
    costs: str
    rescale: bool
    max_iter: int
    tol: float
    hidden: Any
    learning_rate: float
    max_epochs: int
    random_state: Any

    def _surrogate_options(self) -> dict[str, Any]:
        """Options of the surrogate beyond its name."""
        return {}

    def _expert_outcomes(self, X: Any, answers: ExpertAnswers, outcomes: Outcomes) -> Outcomes:
        """Outcomes with whether every expert is right, or with what probability; NaN where it is not known."""
        return outcomes

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = takes_sparse(self.estimator)
        return tags

    def scores(self, X: Any) -> Floats:
        """Score of every action, (n, K + J) classes then experts if fitted from answers, else (n, m) one per arm.

        Parameters
        ----------
        X : n queries
        """
        X = as_features(self._check_fitted_queries(X), owner=type(self).__name__)
        return self.model_.scores(X)

    @property
    def _order_only(self) -> tuple[str, str] | None:
        if self.surrogate not in _ORDER_ONLY:
            return None
        instead = _quoted(self._offered(name for name in SURROGATES if _reads_quality(name)))
        return f"surrogate={self.surrogate!r}", f"a surrogate with a read-out: {instead}"

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        X = as_features(X, owner=type(self).__name__)
        self._check_choices()
        self._check_pricing(outcomes)
        cost, weight = 1.0 - outcomes.quality, self._weights(X, outcomes, alone=("ova",))
        self._learn_cost(X, outcomes)
        if self._trains_on_costs(outcomes):
            cost = cost + self.cost_weight * filled_cost(outcomes, self._cost_at(X))
        if weight.ndim == 2 and self.surrogate not in _PER_ACTION:
            raise RouterInputError(
                f"{type(self).__name__}: surrogate={self.surrogate!r} needs every outcome observed, and "
                f"{np.isnan(outcomes.quality).sum()} of {outcomes.quality.size} are not; take {_quoted(self._offered(_PER_ACTION))}"
            )
        self.n_classes_ = 0
        cost = self._rescaled(cost, weight, outcomes.arms.tolist())
        self.model_ = self._learn(X, cost, weight, n_experts=0)
        self.totals_ = None
        if self.surrogate != "ova":
            self.totals_ = fit_credit_totals(X, cost, weight, bound=self._bound, C=self.C)

    def _fit_answers(self, X: Any, answers: ExpertAnswers, outcomes: Outcomes) -> None:
        check_cost_weight(self)
        self._check_choices()
        if len(answers.names) > 1 and not SURROGATES[self.surrogate].multi_expert:
            raise RouterInputError(
                f"{type(self).__name__}: surrogate={self.surrogate!r} takes one expert, got {len(answers.names)}; take "
                "MultiExpertDeferral, or a surrogate for several: "
                f"{_quoted([name for name, known in SURROGATES.items() if known.multi_expert])}"
            )
        X = as_features(X, owner=type(self).__name__)
        outcomes = self._expert_outcomes(X, answers, outcomes)
        self._fit_outcomes(X, outcomes, learn=partial(self._learn_answers, answers=answers))

    def _learn_answers(self, X: Any, outcomes: Outcomes, *, answers: ExpertAnswers) -> None:
        self._check_pricing(outcomes)
        k = len(answers.classes)
        cost = deferral_cost(answers.label, 1.0 - outcomes.quality[:, 1:], n_classes=k)
        self._learn_cost(X, outcomes)
        if self._trains_on_costs(outcomes):
            price = self.cost_weight * filled_cost(outcomes, self._cost_at(X))
            cost = cost + np.column_stack([np.repeat(price[:, :1], k, axis=1), price[:, 1:]])
        weight = self._weights(X, outcomes, alone=("ova", "asymmetric_softmax"))
        if weight.ndim == 2:
            weight, cost = self._action_weights(weight, cost, k)
        self.n_classes_ = k
        cost = self._rescaled(cost, weight, [*answers.classes.tolist(), *answers.names.tolist()])
        self.model_ = self._learn(X, cost, weight, n_experts=cost.shape[1] - k)
        self.totals_ = None
        if self.surrogate not in (*_ORDER_ONLY, "ova", "asymmetric_softmax"):
            row = weight if weight.ndim == 1 else weight[:, 0]
            self.totals_ = fit_credit_totals(X, cost, row, bound=self._bound, C=self.C, n_summed=k)

    def _weights(self, X: Any, outcomes: Outcomes, *, alone: tuple[str, ...]) -> Floats:
        """Weights of queries or outcomes; under the surrogates `alone` an arm shares nothing but a network with others."""
        linear = isinstance(self.estimator, str) and self.estimator == "linear"
        apart = self.surrogate in alone and (linear or hasattr(self.estimator, "predict_proba"))
        return row_or_cell_weights(outcomes, None if apart else X)

    def _action_weights(self, weight: Floats, cost: Floats, k: int) -> tuple[Floats, Floats]:
        """Weights of classes and experts where experts were asked on some queries only."""
        if self.surrogate in _PER_ACTION:
            return np.column_stack([np.repeat(weight[:, :1], k, axis=1), weight[:, 1:]]), cost
        if weight.shape[1] > 2:
            raise RouterInputError(
                f"{type(self).__name__}: surrogate={self.surrogate!r} needs the answers of all experts to every query, and "
                f"{np.isnan(cost).sum()} of {cost[:, k:].size} are missing; take {_quoted(['softmax', 'ova'])}, or "
                "MultiExpertDeferral(missing='impute')"
            )
        # Classes and expert share one term: the queries on which the expert was asked stand for all.
        return weight[:, 1], cost

    def _rescaled(self, cost: Floats, weight: Floats, names: list[Any]) -> Floats:
        cost = counted_cost(cost, weight)
        what = "1 - quality + cost_weight * cost" if self.trained_cost_weight_ else "1 - quality"
        if self.surrogate == "cost_sensitive" and not self.rescale and np.nanmin(cost) >= 0:
            self.scale_ = CostScale()
        else:
            self.scale_ = cost_scale(cost, owner=type(self).__name__, names=names, rescale=self.rescale, what=what)
        # What was not observed has weight 0; any number in range will do.
        return np.where(np.isfinite(cost), self.scale_.scaled(cost), self.scale_.scaled(np.array(self.scale_.high)))

    def _learn(self, X: Any, cost: Floats, weight: Floats, *, n_experts: int) -> Scores:
        # alpha weighs the label by whether the expert is right: without experts it has nothing to do.
        name = "softmax" if self.surrogate == "softmax_alpha" and not n_experts else self.surrogate
        options = self._surrogate_options() if name == self.surrogate else {}

        def problem(name: str, **options: Any) -> ScoreProblem:
            return ScoreProblem(cost, weight, partial(_surrogate_loss, SURROGATES[name].loss, n_experts, options))

        paths = [] if SURROGATES[name].convex else [[problem("softmax")]]
        if name == "rl2d":
            paths.append(followed(options["q"], lambda q: problem("rl2d", q=q)))
        cell = weight[:, None] if weight.ndim == 1 else weight
        form = None
        if name == "ova":
            form = ClassifierForm(cell * (1.0 - cost), cell * cost)
        elif name in ("softmax", "cost_sensitive"):
            form = ClassifierForm(cell * (credit_bound(cost, self._bound) - cost))
            warn_of_no_credit(form.credit, weight, owner=type(self).__name__)
        # The derivatives of an arm that was seldom observed are a small part of the whole, and as small must be what is left.
        share = 1.0 if weight.ndim == 1 else float(weight.sum(axis=0).min() / weight.sum(axis=0).max())
        learner = replace(self._learner, tol=max(self.tol * share, min(self.tol, _FINEST_TOL)))
        smooth = name != "asymmetric_softmax"  # whose largest class score has kinks
        model = learner.fit(X, problem(name, **options), form=form, paths=paths, smooth=smooth)
        self.n_iter_ = n_iterations(model)
        return model

    def _predict_quality(self, X: Any) -> Floats:
        X = as_features(X, owner=type(self).__name__)
        scores = self.model_.scores(X)
        k = self.n_classes_
        if k:
            action = self._answer_credit(scores, X)
            action = np.column_stack([action[:, :k].max(axis=1), action[:, k:]])
        elif self.totals_ is None:
            action = ova_readout(scores, n_experts=0).class_probability
        else:
            action = self.totals_.utility(credit_shares(scores), X)
        return self.scale_.utility(action) + self.trained_cost_weight_ * self._cost_at(X)

    def _answer_credit(self, scores: Floats, X: Any) -> Floats:
        """1 - E[scaled cost] of classes and experts; for surrogates without a read-out their softmax, which is an order."""
        j = scores.shape[1] - self.n_classes_
        if self.surrogate in _ORDER_ONLY:
            return credit_shares(scores)
        reads = {"ova": ova_readout, "asymmetric_softmax": asymmetric_softmax_readout}
        read = reads.get(self.surrogate, softmax_readout)(scores, n_experts=j)
        table = np.column_stack([read.class_probability, np.minimum(read.expert_probability, _LARGEST_READOUT)])
        return table if self.totals_ is None else self.totals_.utility(table, X)

    def _predict_own(self, X: Any) -> NDArray[np.intp]:
        scores = self.model_.scores(as_features(X, owner=type(self).__name__))
        return scores[:, : self.n_classes_].argmax(axis=1)

    @property
    def _bound(self) -> Bound:
        return "largest" if self.surrogate == "cost_sensitive" else "one"

    @property
    def _learner(self) -> ScoreLearner:
        return ScoreLearner(
            type(self).__name__, self.estimator, self.C, self.max_iter, self.tol, self.hidden, self.learning_rate,
            self.max_epochs, self.random_state,
        )  # fmt: skip

    def _trains_on_costs(self, outcomes: Outcomes) -> bool:
        trains = self.costs == "training" and outcomes.cost is not None
        self.trained_cost_weight_ = float(self.cost_weight) if trains else 0.0
        return self.trained_cost_weight_ > 0

    def _check_choices(self) -> None:
        """Refuse options that are not one of those there are."""
        check_choices(self, surrogate=self._surrogates, costs=("decision", "training"))
        check_flags(type(self).__name__, rescale=self.rescale)

    def _offered(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if name in self._surrogates]

    def _check_pricing(self, outcomes: Outcomes) -> None:
        self._fix_cost_weight(outcomes, learned=self.costs == "training" or not _reads_quality(self.surrogate))
        if outcomes.cost is None or self.cost_weight == 0:
            return
        owner, name = type(self).__name__, self.surrogate
        if self.costs == "decision" and not _reads_quality(name):
            raise RouterInputError(
                f"{owner}: surrogate={name!r} has no read-out of quality to weigh costs against; set costs='training'"
            )
        if self.costs == "training" and name == "asymmetric_softmax":
            raise RouterInputError(
                f"{owner}: surrogate={name!r} compares probabilities, which costs of classes are not; set costs='decision'"
            )


def _reads_quality(surrogate: str) -> bool:
    """Whether a read-out is on the scale of quality, so that costs can be weighed when a query is decided."""
    return SURROGATES[surrogate].readout is not None


def _surrogate_loss(loss: Any, n_experts: int, options: dict[str, Any], scores: Any, cost: Any, weight: Any) -> Any:
    return loss(scores, cost, n_experts=n_experts, weight=weight, **options)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
