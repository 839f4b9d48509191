"""Distilling rewards into a router: the softmax of a query's rewards, smoothed over its tags, is what the router learns to say.

Source: Lu et al. 2024, "Routing to the Expert" (ZOOTER), arXiv 2311.08692.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from defer.estimators.deferral.parameter_checks import check_choices, check_counts, check_positive, check_shares
from defer.estimators.deferral.query_features import as_features
from defer.estimators.deferral.score_learner import ScoreLearner, Scores, n_iterations, takes_sparse
from defer.estimators.queries import n_queries
from defer.estimators.routers.label_router import MISSING_LABELS, LabelRouter, LabelRows, fit_shares, shares_of
from defer.estimators.routers.query_tags import ClusterTagger, cluster_tags, read_query_tags
from defer.exceptions import RouterInputError
from defer.losses.distillation import DIVERGENCES, enhance_labels, silver_labels

__all__ = ["RewardDistilledRouter"]

Floats = NDArray[np.float64]


class RewardDistilledRouter(LabelRouter):
    """Learn each query's distribution of rewards over the arms, and take the arm with the largest share.

    Silver labels s = softmax(rewards / temperature) are mixed with the mean labels of the query's tags, and the softmax of the
    router's scores is fitted to them by a KL divergence.

    Parameters
    ----------
    estimator : {"linear", "mlp"}, torch module or scikit-learn classifier, default="linear"
        What gives the scores.  "linear": L-BFGS on the exact gradient.  "mlp" or a module: torch.  A classifier, with the forward
        divergence: one clone, fitted to queries that are repeated once per arm, with the arm as class and its share as weight.
    beta : float, default=0.3
        Share of a query's own label; the rest is the mean label of its tags.  Without tags it does nothing.
    temperature : float, default=1.0
        Rewards are divided by it before the softmax.  The source has none, so that the scale of its rewards decides; grades in
        [0, 1] ask for about 0.1.
    divergence : {"forward", "reverse"}, default="forward"
        KL(label || router), the soft cross-entropy, or KL(router || label), which is what the source writes.  One label alone is
        the minimiser of both; over several the forward one has their mean, the reverse one their normalised geometric mean.
    labels : {"soft", "hard"}, default="soft"
        "hard" is the source's baseline: cross-entropy on the arm of largest reward, the first of equals; tags are not used.
    tags : None, "cluster" or clusterer, default=None
        Where `fit` is given no tags: none, a `ClusterTagger` with `n_tags` clusters, or a clone of a clusterer with ``fit_predict``.
        They are fitted on the training queries alone.
    n_tags : int, default=32
        Of "cluster".
    missing : {"impute", "mask"}, default="impute"
        A reward that was not observed.  "impute": its arm gets the share that ridge regressions of all arms' rewards give it, and
        the others share the rest as they would without it; this takes gaps to be at random given the query, and rewards to be
        about linear in it.  "mask": its arm gets no share; this takes all arms to be observed equally often, and one that was
        observed on a fifth of the queries gets about a fifth of its share.  Where one arm alone was observed, as in a bandit log,
        all rewards of the query are predicted in any case.  A log without gaps is read alike.
    C : float, default=1.0
        Inverse strength of the penalty of the linear model, as in `LogisticRegression`.
    cost_weight : float, default=0.0
        Quality given up per US dollar.
    max_iter : int, default=1000
    tol : float, default=1e-4
        Of the linear model, as for `TwoStageDeferral`.
    hidden : int or sequence of int, default=(64,)
    learning_rate : float, default=3e-3
    max_epochs : int, default=200
        Of networks.
    random_state : int, Generator, RandomState instance or None, default=None
        Of networks and of "cluster".

    Attributes
    ----------
    arms_ : array of shape (m,)
    model_ : LinearScores, NetworkScores, ModuleScores or ActionClassifier
        Its softmax is `predict_proba`.
    n_iter_ : int
        Iterations of the linear model, or epochs of the network.
    n_tags_ : int
        Tags that training queries had.
    n_dropped_ : int
        Training queries without any observed reward, which were left out.
    quality_scale_ : QualityScale

    Notes
    -----
    A constant that is added to all rewards of a query changes no label.  Tags smooth labels of training queries; no tag is needed
    to route, so that a domain unseen in training is no special case.  Means over tags are weighted by ``sample_weight``.

    Ours, where the source is silent: the temperature, linear scores on any features (the source fine-tunes an encoder of 86
    million weights, as `EncoderRouter` can), clusters as tags, and what is done with rewards that were not observed.

    References
    ----------
    Lu et al. 2024, "Routing to the Expert: Efficient Reward-guided Ensemble of Large Language Models", arXiv 2311.08692.

    Examples
    --------
    >>> X = np.array([[-1.0], [-0.8], [0.9], [1.0]])
    >>> reward = [[2.0, 0.0], [1.0, -3.0], [-1.0, 1.0], [0.0, 2.0]]
    >>> router = RewardDistilledRouter().fit(X, reward, tags=[{"math"}, {"math"}, {"code", "sql"}, {"code"}])
    >>> router.predict(X).tolist(), router.n_tags_
    ([0, 0, 1, 1], 3)
    """

    __metadata_request__fit = {"tags": True}  # noqa: RUF012

    model_: Scores
    n_iter_: int
    n_tags_: int

    def __init__(
        self,
        estimator: Any = "linear",
        *,
        beta: float = 0.3,
        temperature: float = 1.0,
        divergence: str = "forward",
        labels: str = "soft",
        tags: Any = None,
        n_tags: int = 32,
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
        self.estimator = estimator
        self.beta = beta
        self.temperature = temperature
        self.divergence = divergence
        self.labels = labels
        self.tags = tags
        self.n_tags = n_tags
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
        tags.input_tags.sparse = takes_sparse(self.estimator)
        return tags

    def fit(
        self,
        X: Any,
        y: ArrayLike,
        *,
        tags: Any = None,
        cost: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Fit on the rewards of every arm.

        Parameters
        ----------
        X : array, sparse matrix or frame of numbers, n rows
            Queries.
        y : array or frame of shape (n, m), or array of shape (n,)
            Rewards of any scale, NaN where not observed; or labels of the arm that should be taken.
        tags : sequence of n sets of str, or array of shape (n,), or sparse matrix of shape (n, T), optional
            Tags of every query, possibly none of them, or one domain each; go before those of the parameter `tags`.
        cost, propensity, sample_weight : optional
            As for `BaseRouter.fit`.

        Returns
        -------
        self

        Raises
        ------
        RouterInputError
            Also if there are not n entries in `tags`, or one is no tag.
        """
        self._tags = None if tags is None else read_query_tags(tags, n=n_queries(X), owner="RewardDistilledRouter")
        try:
            return super().fit(X, y, cost=cost, propensity=propensity, sample_weight=sample_weight)
        finally:
            del self._tags

    def _fit_labels(self, rows: LabelRows, sample: NDArray[np.intp]) -> Floats:
        learner = self._learner()
        if self.labels == "hard":
            labels, self.n_tags_ = rows.labels(_hard_labels), 0
        else:
            labels = rows.labels(partial(silver_labels, temperature=self.temperature))
            member = self._members(rows)
            self.n_tags_ = int(np.count_nonzero(member.sum(axis=0)))
            # A tag may give a share to an arm that was not observed; the label then has it too.
            labels = enhance_labels(labels, member, beta=self.beta, weight=rows.weight)
        self.model_ = fit_shares(learner, rows, labels, divergence=self.divergence)
        self.n_iter_ = n_iterations(self.model_)
        return shares_of(self.model_, rows.X[sample])

    def _predict_scores(self, X: Any) -> Floats:
        return shares_of(self.model_, as_features(X, owner="RewardDistilledRouter"))

    def _members(self, rows: LabelRows) -> csr_array:
        """Which query has which tag."""
        if self._tags is not None:
            return self._tags[rows.kept]
        if self.tags is None:
            return csr_array((len(rows.kept), 0))
        tagger = self.tags
        if isinstance(tagger, str):
            tagger = ClusterTagger(self.n_tags, random_state=self.random_state)
        return cluster_tags(tagger, rows.X, rows.outcomes.sample_weight, owner="RewardDistilledRouter")

    def _check_parameters(self) -> None:
        owner = "RewardDistilledRouter"
        check_choices(self, divergence=DIVERGENCES, labels=("soft", "hard"), missing=MISSING_LABELS)
        if isinstance(self.tags, str):
            check_choices(self, tags=("cluster",))
        check_counts(owner, n_tags=self.n_tags)
        check_positive(owner, temperature=self.temperature)
        check_shares(owner, beta=self.beta)
        self._learner()
        if self.divergence == "reverse" and self.labels == "hard":
            raise RouterInputError(
                f"{owner}: labels='hard' is the cross-entropy on the best arm, which is divergence='forward'; the reverse one is "
                "infinite for every router that gives another arm a share"
            )
        if self.divergence == "reverse" and hasattr(self.estimator, "predict_proba"):
            raise RouterInputError(
                f"{owner}: the classifier {type(self.estimator).__name__} minimises the cross-entropy, which is divergence='forward'; "
                "the reverse one takes 'linear', 'mlp' or a torch module"
            )

    def _learner(self) -> ScoreLearner:
        return ScoreLearner(
            "RewardDistilledRouter", self.estimator, self.C, self.max_iter, self.tol, self.hidden, self.learning_rate,
            self.max_epochs, self.random_state,
        )  # fmt: skip


def _hard_labels(score: Floats) -> Floats:
    """1 for the arm of largest score, the first of equals; NaN = not observed."""
    return np.eye(score.shape[1])[np.where(np.isnan(score), -np.inf, score).argmax(axis=1)]
