"""Small or large model by how likely the small one suffices; the labels allow for the margin at which they tell most.

A query may have several sampled answers of every arm.  Which queries are easy is learned from Pr[q_small >= q_large - t].
Source: Hybrid LLM (Ding et al., ICLR 2024, arXiv 2404.14618).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.estimators.base import BaseRouter, column_means
from defer.estimators.deferral.panel_tables import group_codes
from defer.estimators.deferral.parameter_checks import check_choice
from defer.estimators.deferral.query_features import as_features
from defer.estimators.deferral.score_learner import ScoreLearner, n_iterations, takes_sparse
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.queries import n_queries
from defer.estimators.routers.drop_threshold import ThresholdTable, check_drop
from defer.estimators.routers.gap_scale import GapScale
from defer.estimators.routers.query_folds import held_out_parts, joined_groups, query_codes
from defer.estimators.routers.sampled_answers import first_observed, holds_samples, mean_quality, read_samples
from defer.estimators.routers.sufficiency import SufficiencyModel, cross_fitted_sufficiency, fit_sufficiency
from defer.estimators.routers.threshold_rule import ThresholdRule, ThresholdSearch
from defer.estimators.tuning.operating_point import doubly_robust
from defer.exceptions import RouterInputError
from defer.losses.quality_gap import best_margin, gap_probability, label_spread
from defer.portfolios.limits import RiskLevel

__all__ = ["HybridRouter"]

Floats = NDArray[np.float64]
Index = NDArray[np.intp]

_LABELS = ("transformed", "probabilistic", "deterministic")


class HybridRouter(BaseRouter):
    """Send a query to a weaker arm where it is likely to be as good as the strongest, up to a margin.

    Parameters
    ----------
    label : {"transformed", "probabilistic", "deterministic"}, default="transformed"
        What is learned of every query and weak arm.  "deterministic": whether the first answer of the weak arm is at least as
        good as the first of the strong one.  "probabilistic": how likely that is, over all pairs of their answers.
        "transformed": how likely it is up to the margin t* at which the labels of the training queries differ most, found exactly.
        With one answer each, "probabilistic" is "deterministic"; where t* is 0, "transformed" is "probabilistic".
    estimator : {"linear", "mlp"}, torch module or scikit-learn classifier, default="linear"
        Trained on binary cross-entropy with these labels.  "linear" is a logistic regression.  A classifier must take
        ``sample_weight`` and have ``predict_proba``; it gets every query as a positive and as a negative.
    strong : arm name, optional
        The large model; by default the arm of highest mean quality, of equals the dearest.
    margin : float, optional
        Use this t >= 0 for "transformed" and search for none.
    threshold : float, optional
        Take a weak arm where its probability reaches this; at 0 always, above 1 never.
    quality_drop : float or RiskLevel, optional
        Find the threshold instead: out of fold, the one of largest cost advantage whose mean quality is at most so many *per
        cent* below that of the strong arm.  The source asks for 1.  A `RiskLevel`, whose risk is in the unit of quality: the
        largest cost advantage at which the loss against every single arm is shown at its confidence, by `TunedRouter`'s test.
    cv : int, splitter or list of (train, test), default=5
        Folds for the threshold and for what a probability is worth in quality.  A number holds equal queries, and those of one
        group, out together; a splitter is given `groups`, joined where they share a query.
    C : float, default=1.0
        Inverse strength of the penalty of the linear model, as in `LogisticRegression`.
    cost_weight : float, default=0.0
        Quality given up per US dollar: utility = quality - cost_weight * cost.  It comes on top of `threshold`.  With a
        `quality_drop` it decides between weak arms alone, and is part of the rule that is judged.
    max_iter : int, default=1000
    tol : float, default=1e-4
        Of the linear model.
    hidden, learning_rate, max_epochs, random_state
        Of networks, as for `SingleStageDeferral`; folds and linear models are deterministic.

    Attributes
    ----------
    arms_ : array of shape (m,)
    strong_ : name of the large model
    margin_ : array of shape (m,)
        t of every arm against the strong one; 0 for that itself.
    spread_ : array of shape (m,)
        J of the labels; 0 where they agree on all queries, so that nothing can be learned.
    n_labelled_ : int array of shape (m,)
        Queries on which both the arm and the strong one were observed.
    model_ : SufficiencyModel
    n_iter_ : int
        Iterations of its solver.
    gap_scale_ : GapScale
        Puts probabilities on the scale of quality.
    threshold_ : array of shape (m,)
        Probability from which on the arm is taken rather than the strong one, NaN for that itself.  Without `threshold` and
        `quality_drop` it is the probability at which both are predicted to be equally good, and may lie outside [0, 1].
        With one of them a query at its threshold goes to the weak arm, where no `cost_weight` comes on top.
    threshold_table_ : ThresholdTable or None
        Every threshold out of fold; of the probability where there are two arms, else of the predicted utility of the best
        weak arm less that of the strong one.  None with one arm.
    arm_bonus_ : array of shape (m,)
        Added to the utility of every arm, up to rounding, so that it exceeds that of the strong one from the threshold on.
    fixed_cost_weight_ : float or None
        Cost weight at which a `quality_drop` is kept, and at which alone the router decides; None without one, or without costs.

    Notes
    -----
    The minimiser of the cross-entropy is Pr[q_weak >= q_strong - t | x]; every threshold on it is optimal for one bound on
    the risk of what is routed to the weak arm, so that a threshold sets the operating point and no more.  Choices of ours,
    where the source has two arms and a score: every further arm has its own labels and t* against the strongest; each
    probability is put on the scale of quality by least squares of the quality gap on out-of-fold probabilities; without a
    threshold the arm of highest predicted quality is taken.  The label of "deterministic" is that of the first observed answers.
    Under a limit given to `route`, and in `TunedRouter`, quality and cost alone decide, and thresholds do not.

    A `quality_drop` in per cent is met on the training queries, out of fold, and nothing is claimed of others.  A `RiskLevel` is met
    with its confidence, here without any costs, or in dollars by ``TunedRouter(HybridRouter(), limit=RiskLevel(...))``, which
    takes the mean over the answers; for what its confidence assumes see there.

    Only queries on which an arm and the strong one were both observed have a label.  Where there are none, as in a bandit log,
    the probability is 1/2, and the arm's mean quality is what is predicted.

    References
    ----------
    Ding et al. 2024, Hybrid LLM, arXiv 2404.14618.

    Examples
    --------
    >>> X = np.array([[-1.0], [-0.5], [0.5], [1.0]] * 10)
    >>> hard = (X[:, :1] > 0).astype(float)
    >>> answers = {"small": 0.8 - 0.6 * hard + np.array([0.0, 0.1]), "large": 0.9 - 0.1 * hard + np.array([0.0, 0.05])}
    >>> router = HybridRouter(quality_drop=5.0).fit(X, answers)
    >>> router.predict([[-0.8], [0.8]]).tolist(), router.margin_.round(2).tolist()
    (['small', 'large'], [0.15, 0.0])
    """

    __metadata_request__fit = {"groups": True}  # noqa: RUF012
    _takes_samples = True

    strong_: Any
    margin_: Floats
    spread_: Floats
    n_labelled_: Index
    model_: SufficiencyModel
    gap_scale_: GapScale
    threshold_: Floats
    threshold_table_: ThresholdTable | None
    arm_bonus_: Floats
    fixed_cost_weight_: float | None
    _rule: ThresholdRule | None

    def __init__(
        self,
        label: str = "transformed",
        estimator: Any = "linear",
        *,
        strong: Any = None,
        margin: float | None = None,
        threshold: float | None = None,
        quality_drop: float | RiskLevel | None = None,
        cv: Any = 5,
        C: float = 1.0,
        cost_weight: float = 0.0,
        max_iter: int = 1000,
        tol: float = 1e-4,
        hidden: int | Sequence[int] = (64,),
        learning_rate: float = 3e-3,
        max_epochs: int = 200,
        random_state: Any = None,
    ) -> None:
        self.label = label
        self.estimator = estimator
        self.strong = strong
        self.margin = margin
        self.threshold = threshold
        self.quality_drop = quality_drop
        self.cv = cv
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
        tags.classifier_tags.poor_score = True  # of three classes as arms, those that are not the strong one look alike
        return tags

    def fit(
        self,
        X: Any,
        y: ArrayLike | Mapping[Any, ArrayLike],
        *,
        cost: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Fit on one or several answers of every arm.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, d)
        y : array or frame of shape (n, m), array of shape (n, m, s), or mapping of arm name to array of shape (n,) or (n, s)
            Quality of one answer, or of several sampled ones; NaN where there is none.  Beyond labels the mean over the answers
            counts.  Or labels of the arm that should be taken, as for `BaseRouter.fit`.
        cost, propensity, sample_weight : optional
            As for `BaseRouter.fit`.
        groups : array of shape (n,), optional
            Queries of one group are held out together, and one observation of a `RiskLevel`.

        Returns
        -------
        self

        Raises
        ------
        RouterInputError
            As for `BaseRouter.fit`; also for parameters out of their range, an unknown `strong` arm, queries that are no table of
            numbers, and arms with the answers of different queries.
        InfeasibleLimitError
            If a `RiskLevel` cannot be shown at any threshold.
        """
        self._answers = read_samples(y) if holds_samples(y) else None
        self._groups = None if groups is None else group_codes(groups, n=n_queries(X))
        try:
            table: Any = y if self._answers is None else self._answers.mean
            return super().fit(X, table, cost=cost, propensity=propensity, sample_weight=sample_weight)
        finally:
            del self._answers, self._groups

    def score(
        self,
        X: Any,
        y: ArrayLike | Mapping[Any, ArrayLike],
        *,
        cost: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Mean realised utility of the arms that `predict` takes; of several answers the mean counts.

        Parameters
        ----------
        X, y, cost, propensity, sample_weight
            As for `fit`.

        Returns
        -------
        float

        Raises
        ------
        RouterInputError
            As for `BaseRouter.score`.
        """
        return super().score(X, mean_quality(y), cost=cost, propensity=propensity, sample_weight=sample_weight)

    def predict_sufficient(self, X: Any) -> Floats:
        """Probability that each arm is as good as the strong one, up to its margin, shape (n, m); 1 for the strong arm.

        Parameters
        ----------
        X : n queries
        """
        return self._sufficient(self._check_fitted_queries(X))

    @property
    def _strong(self) -> int:
        return self.arms_.tolist().index(self.strong_)

    @property
    def _weak(self) -> Index:
        return np.delete(np.arange(len(self.arms_)), self._strong)

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        X = as_features(X, owner="HybridRouter")
        quality, weight = outcomes.quality, outcomes.weight
        mass = np.ones(len(quality)) if weight is None else weight
        learner = self._checked_learner(quality[mass > 0])
        means = column_means(quality, weight, len(self.arms_))
        self.strong_ = self.arms_.tolist()[self._strongest(means)]
        labels = self._labels(quality, mass)
        codes, counted = query_codes(X), mass > 0
        groups = None if self._groups is None else joined_groups(codes, self._groups, counted=counted)
        codes = codes if groups is None else groups
        parts = held_out_parts(self.cv, codes, owner="HybridRouter", counted=counted, groups=groups)
        held_out = np.ones(quality.shape)
        held_out[:, self._weak] = cross_fitted_sufficiency(X, labels, mass, learner, parts)
        self.model_ = fit_sufficiency(X, labels, mass, learner)
        self.n_iter_ = n_iterations(self.model_.model)
        sample = (mass > 0).astype(np.float64) if outcomes.sample_weight is None else outcomes.sample_weight
        self.gap_scale_ = GapScale.fit(held_out, quality, means, mass, sample, strong=self._strong)
        self._set_threshold(held_out, outcomes, sample)

    def _strongest(self, means: Floats) -> int:
        names = self.arms_.tolist()
        if self.strong is not None:
            if self.strong not in names:
                raise RouterInputError(
                    f"HybridRouter: strong names the arm {self.strong!r}, which y does not have; it has {names}"
                )
            return names.index(self.strong)
        return int(np.lexsort((np.arange(len(names)), -self.mean_cost_, -means))[0])

    def _labels(self, quality: Floats, mass: Floats) -> Floats:
        """y of every query and weak arm, shape (n, m - 1); learns margins and spreads."""
        answers, m = self._answers, quality.shape[1]
        samples = tuple(quality[:, [arm]] for arm in range(m)) if answers is None else answers.samples
        if self.label == "deterministic":
            samples = tuple(first_observed(table) for table in samples)
        strong = samples[self._strong]
        self.margin_, self.spread_ = np.zeros(m), np.zeros(m)
        table = np.ones(quality.shape)
        for arm in self._weak:
            if self.label == "transformed" and self.margin is None:
                choice = best_margin(samples[arm], strong, weight=mass)
                self.margin_[arm], table[:, arm] = choice.margin, choice.labels
            else:
                self.margin_[arm] = self.margin or 0.0
                table[:, arm] = gap_probability(samples[arm], strong, margin=self.margin_[arm])
            self.spread_[arm] = label_spread(table[:, arm], weight=mass)
        self.n_labelled_ = np.isfinite(table).sum(axis=0)
        self.n_labelled_[self._strong] = np.isfinite(quality[:, self._strong]).sum()
        return table[:, self._weak]

    def _set_threshold(self, probability: Floats, outcomes: Outcomes, sample: Floats) -> None:
        self.threshold_, self.arm_bonus_ = self.gap_scale_.crossing(0.0), np.zeros(len(self.arms_))
        self.threshold_table_ = self._rule = None
        found = self.quality_drop is not None and self.has_cost_ and len(self.arms_) > 1
        self.fixed_cost_weight_ = float(self.cost_weight) if found else None
        if len(self.arms_) == 1:
            return
        realised = doubly_robust(outcomes.quality, self.gap_scale_.quality(probability), outcomes.propensity, sample)
        search = ThresholdSearch(
            self.gap_scale_, probability, realised, sample, self.mean_cost_, float(self.cost_weight), self._groups
        )
        self.threshold_table_ = search.table
        if self.threshold is not None:
            self._rule = search.at(self.threshold)
        elif isinstance(self.quality_drop, RiskLevel):
            self._rule = search.for_risk(self.quality_drop, self.arms_.tolist())
        elif self.quality_drop is not None:
            self._rule = search.for_drop(self.quality_drop)
        if self._rule is not None:
            self.threshold_ = self._rule.threshold
            self.arm_bonus_ = self._rule.bonus(self.mean_cost_, float(self.cost_weight))

    def _predict_quality(self, X: Any) -> Floats:
        probability = self._sufficient(X)
        quality = self.gap_scale_.quality(probability)
        return quality if self._rule is None else self._rule.quality(quality, probability)

    def _sufficient(self, X: Any) -> Floats:
        table = np.ones((n_queries(X), len(self.arms_)))
        table[:, self._weak] = self.model_.probability(as_features(X, owner="HybridRouter"))
        return table

    def _utility(self, quality: Floats, cost: Floats) -> Floats:
        utility, fixed = super()._utility(quality, cost), self.fixed_cost_weight_
        if fixed is not None and float(self.cost_weight) != fixed:
            raise RouterInputError(
                f"HybridRouter: cost_weight was {fixed:g} in fit and is {float(self.cost_weight):g}; quality_drop is kept at the "
                "first alone, and another cost_weight needs another fit"
            )
        return utility if self._rule is None else self._rule.utility(quality, cost, float(self.cost_weight))

    def _checked_learner(self, quality: Floats) -> ScoreLearner:
        owner = "HybridRouter"
        check_choice(owner, "label", self.label, _LABELS)
        for name in ("margin", "threshold"):
            value = getattr(self, name)
            if value is not None and (not _is_finite(value) or (name == "margin" and value < 0)):
                raise RouterInputError(
                    f"{owner}: {name} must be a finite number{' >= 0' if name == 'margin' else ''} or None, got {value!r}"
                )
        if self.margin is not None and self.label != "transformed":
            raise RouterInputError(f"{owner}: margin belongs to label='transformed', got it with label={self.label!r}")
        if self.quality_drop is not None:
            if not isinstance(self.quality_drop, RiskLevel):
                check_drop(owner, self.quality_drop)
            elif np.isnan(quality).any():
                raise RouterInputError(
                    f"{owner}: a RiskLevel needs outcomes that were observed in full; {np.isnan(quality).sum()} are not"
                )
            if self.threshold is not None:
                raise RouterInputError(f"{owner}: threshold and quality_drop both set the threshold; give one of them")
        return ScoreLearner(
            owner, self.estimator, self.C, self.max_iter, self.tol, self.hidden, self.learning_rate, self.max_epochs,
            self.random_state,
        )  # fmt: skip


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
