"""Soft-label routing: every query's label is spread over the arms by their scores, and neighbours or a model predict it.

Source: Stripelis et al. 2024, "TensorOpera Router", arXiv 2408.12320, of which the full text was not available: what is marked as
ours in the notes of the class may differ from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.estimators.base import column_means
from defer.estimators.deferral.parameter_checks import check_choice, check_choices
from defer.estimators.deferral.query_features import as_features
from defer.estimators.deferral.score_learner import ScoreLearner, Scores, n_iterations, takes_sparse
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.routers.label_router import MISSING_LABELS, LabelRouter, LabelRows, fit_shares, shares_of
from defer.estimators.routers.neighbors import NeighborSearch, check_neighbors
from defer.estimators.routers.three_way_score import ThreeWayScore, check_score_weights, read_latency
from defer.exceptions import RouterInputError
from defer.losses.distillation import soft_labels

__all__ = ["NeighborShares", "SoftLabelRouter"]

Floats = NDArray[np.float64]

_DIGITS = 12
_SCALE_SAMPLE = 1000


class SoftLabelRouter(LabelRouter):
    """Learn soft labels, shares of the arms proportional to exp(kappa * score), and take the arm with the largest share.

    Parameters
    ----------
    head : {"neighbors", "linear", "mlp"}, torch module or scikit-learn classifier, default="neighbors"
        "neighbors": mean label of the nearest training queries.  The others fit the soft cross-entropy, as the same names do in
        `RewardDistilledRouter`.  `EncoderRouter` fits an encoder of text to such labels.
    kappa : float, default=10.0
        Sharpness of the labels: near 0 all arms are alike, ``np.inf`` is the hard label, which arms that tie share.
    weights : tuple of three floats, default=(1.0, 0.0, 0.0)
        Of quality, cost and latency in the score; (1, 0, 0) is the source's.  Cost and latency count in units of the difference
        between the dearest and the cheapest, or slowest and fastest, arm's mean over the training queries; quality is taken as it
        is.
    n_neighbors : int, default=40
    metric : {"cosine", "euclidean"}, default="cosine"
        Of "neighbors".
    missing : {"impute", "mask"}, default="impute"
        A score that was not measured.  "impute": its arm gets the share that ridge regressions of all arms' scores give it, and
        the others share the rest as they would without it; this takes gaps to be at random given the query, and scores to be
        about linear in it.  "mask": its arm gets no share; this takes all arms to be measured equally often, and one that was
        measured on a fifth of the queries gets about a fifth of its share.  Where one arm alone was measured, as in a bandit log,
        all scores of the query are predicted in any case.  A log without gaps is read alike.
    C : float, default=1.0
        Inverse strength of the penalty of the linear model.
    cost_weight : float, default=0.0
        Quality given up per US dollar, on top of what the labels know of cost.
    max_iter : int, default=1000
    tol : float, default=1e-4
        Of the linear model, as for `TwoStageDeferral`.
    hidden : int or sequence of int, default=(64,)
    learning_rate : float, default=3e-3
    max_epochs : int, default=200
        Of networks.
    random_state : int, Generator, RandomState instance or None, default=None
        Of networks.

    Attributes
    ----------
    arms_ : array of shape (m,)
    model_ : NeighborShares, LinearScores, NetworkScores, ModuleScores or ActionClassifier
    score_ : ThreeWayScore
        With the units of cost and latency.
    mean_latency_ : array of shape (m,) or None
        Mean seconds of every arm, where `fit` was given latencies.
    n_dropped_ : int
        Training queries on which nothing was measured, which were left out.
    n_iter_ : int
        Iterations of the linear model, or epochs of the network; 1 for neighbours.
    quality_scale_ : QualityScale
        Fitted on labels that the neighbours of a query predict without it, on 1000 queries evenly apart where there are more.

    Notes
    -----
    The population minimiser is the mean label E[y | x].  Its largest share need not be the arm of largest mean score: with
    kappa = 10 an arm that scores .9 or .1 at even odds has a mean label of .4908 against one that always scores .55, and loses, as it
    does by mean score; with kappa = 100 the two labels tie, while the means .5 and .55 do not.

    With a weight on cost or latency, `predict_quality` orders the arms by that score, on the scale of quality.

    Ours, where what is known of the source is silent: the direction of its temperature of 10 (`soft_labels`), the score of three
    aims, heads that are no encoder, and that scores that were not measured are imputed, not masked.

    References
    ----------
    Stripelis et al. 2024, "TensorOpera Router", arXiv 2408.12320.

    Examples
    --------
    >>> X = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.1], [1.0, 0.0]])
    >>> quality = [[0.8, 0.6, 0.5], [0.8, 0.6, 0.5], [0.2, 0.3, 0.9], [0.1, 0.3, 0.9]]
    >>> router = SoftLabelRouter(n_neighbors=2).fit(X, quality)
    >>> router.predict_proba([[0.0, 2.0]]).round(6).tolist()
    [[0.843795, 0.114195, 0.04201]]
    """

    __metadata_request__fit = {"latency": True}  # noqa: RUF012

    model_: Any
    score_: ThreeWayScore
    mean_latency_: Floats | None
    n_iter_: int

    def __init__(
        self,
        head: Any = "neighbors",
        *,
        kappa: float = 10.0,
        weights: Sequence[float] = (1.0, 0.0, 0.0),
        n_neighbors: int = 40,
        metric: str = "cosine",
        missing: str = "impute",
        C: float = 1.0,
        cost_weight: float = 0.0,
        max_iter: int = 1000,
        tol: float = 1e-4,
        hidden: int | Sequence[int] = (64,),
        learning_rate: float = 3e-3,
        max_epochs: int = 200,
        random_state: Any = None,
    ) -> None:
        self.head = head
        self.kappa = kappa
        self.weights = weights
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.missing = missing
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
        tags.input_tags.sparse = takes_sparse(self.head)
        return tags

    def fit(
        self,
        X: Any,
        y: ArrayLike,
        *,
        cost: ArrayLike | None = None,
        latency: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Fit on logged outcomes.

        Parameters
        ----------
        X : array, sparse matrix or frame of numbers, n rows
            Queries.
        y : array or frame of shape (n, m), or array of shape (n,)
            Quality of every arm, NaN where it was not measured; or labels of the arm that should be taken.
        cost : array or frame of shape (n, m), optional
            US dollars per query; needed if it has a weight.
        latency : array or frame of shape (n, m), optional
            Seconds, NaN where not measured; needed if it has a weight.
        propensity, sample_weight : optional
            As for `BaseRouter.fit`.

        Returns
        -------
        self

        Raises
        ------
        RouterInputError
            Also if a weight is on cost or latency and there is none.
        """
        self._latency = latency
        try:
            return super().fit(X, y, cost=cost, propensity=propensity, sample_weight=sample_weight)
        finally:
            del self._latency

    def _label_score(self, outcomes: Outcomes) -> Floats:
        n, m = outcomes.quality.shape
        latency = None if self._latency is None else read_latency(self._latency, arms=outcomes.arms, n=n)
        for name, share, table in (("cost", self.weights[1], outcomes.cost), ("latency", self.weights[2], latency)):
            if share and table is None:
                raise RouterInputError(
                    f"SoftLabelRouter: weights give {name} a weight of {share:g}, and fit was given no {name}="
                )
        weight = outcomes.sample_weight
        self.mean_latency_ = None if latency is None else column_means(latency, weight, m)
        self.score_ = ThreeWayScore.fit(self.weights, cost=outcomes.cost, latency=latency, weight=weight)
        return self.score_(outcomes.quality, outcomes.cost, latency)

    def _fit_labels(self, rows: LabelRows, sample: NDArray[np.intp]) -> Floats:
        labels = rows.labels(partial(soft_labels, kappa=self.kappa))
        if self._by_neighbors:
            self.model_, self.n_iter_ = NeighborShares.fit(rows, labels, self.n_neighbors, self.metric), 1
            return self.model_.shares(rows.X[sample], own=sample)
        learner = self._learner()
        model: Scores = fit_shares(learner, rows, labels, divergence="forward")
        self.model_, self.n_iter_ = model, n_iterations(model)
        return shares_of(model, rows.X[sample])

    def _scale_sample(self, n: int) -> NDArray[np.intp]:
        # Neighbourhoods of all training queries would take as long as routing them all.
        return (
            np.unique(np.linspace(0, n - 1, min(n, _SCALE_SAMPLE)).astype(np.intp))
            if self._by_neighbors
            else np.arange(n)
        )

    @property
    def _leaves_out_own(self) -> bool:
        return self._by_neighbors

    @property
    def _by_neighbors(self) -> bool:
        return isinstance(self.head, str) and self.head == "neighbors"

    def _predict_scores(self, X: Any) -> Floats:
        X = as_features(X, owner="SoftLabelRouter")
        if isinstance(self.model_, NeighborShares):
            return self.model_.shares(X)
        return shares_of(self.model_, X)

    def _check_parameters(self) -> None:
        owner = "SoftLabelRouter"
        check_choices(self, missing=MISSING_LABELS)
        kappa = self.kappa
        if not isinstance(kappa, Real) or isinstance(kappa, bool) or not float(kappa) >= 0:
            raise RouterInputError(f"{owner}: kappa must be a number >= 0, or np.inf, got {kappa!r}")
        check_score_weights(self.weights, owner=owner)
        check_neighbors(owner, self.n_neighbors, self.metric)
        if isinstance(self.head, str):
            check_choice(owner, "head", self.head, ("neighbors", "linear", "mlp"))
        elif not callable(self.head) and not hasattr(self.head, "predict_proba"):
            raise RouterInputError(
                f"{owner}: head must be 'neighbors', 'linear', 'mlp', a torch module or a classifier with predict_proba, got "
                f"{type(self.head).__name__}"
            )
        self._learner()

    def _learner(self) -> ScoreLearner:
        head = "linear" if self._by_neighbors else self.head
        return ScoreLearner(
            "SoftLabelRouter", head, self.C, self.max_iter, self.tol, self.hidden, self.learning_rate, self.max_epochs,
            self.random_state,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class NeighborShares:
    """Mean label of the nearest training queries.

    Attributes
    ----------
    search : NeighborSearch
    labels : array of shape (N, m)
    factor : array of shape (N,)
        Inverse propensity of the queries that were measured in part; 1 of the others.
    mean : array of shape (m,)
        Mean label, given where there is no neighbour, and under the cosine to a query of zeros.
    """

    search: NeighborSearch
    labels: Floats
    factor: Floats
    mean: Floats

    @classmethod
    def fit(cls, rows: LabelRows, labels: Floats, n_neighbors: int, metric: str) -> NeighborShares:
        """Prepare the training queries that have a label."""
        sample = rows.outcomes.sample_weight
        factor = rows.weight if sample is None else rows.weight / sample
        search = NeighborSearch.fit(rows.X, n_neighbors=n_neighbors, metric=metric, weight=sample)
        return cls(search, labels, factor, rows.weight @ labels / rows.weight.sum())

    def shares(self, X: Any, *, own: NDArray[np.intp] | None = None) -> Floats:
        """Mean label of the neighbours, shape (n, m).

        Parameters
        ----------
        X : array or csr matrix of shape (n, d)
        own : int array of shape (n,), optional
            Which training query each of `X` is; it is left out of its own neighbourhood.
        """
        shares = np.empty((X.shape[0], self.labels.shape[1]))
        weighted = self.factor[:, None] * self.labels
        for rows, near in self.search.neighborhoods(X, n_columns=shares.shape[1], own=own):
            mass = near @ self.factor
            found = mass > 0
            shares[rows] = np.where(found[:, None], (near @ weighted) / np.where(found, mass, 1.0)[:, None], self.mean)
        shares[self.search.blank(X)] = self.mean
        # Arms that tie must not be told apart by the order in which labels were added up.
        return np.asarray(np.round(shares, _DIGITS), dtype=np.float64)
