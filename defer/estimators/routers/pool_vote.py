"""Routing by a vote of exemplars: the nearest logged queries vote for the arm whose pool they are in.

Source: OrchestraLLM (Lee, Cheng, Ostendorf, NAACL 2024, arXiv 2311.09758).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from scipy.sparse import vstack as sparse_vstack
from sklearn.utils.extmath import row_norms

from defer.estimators.arm_addition import ArmAddition, ArmTrial
from defer.estimators.base import column_means
from defer.estimators.deferral.parameter_checks import check_choices, check_counts
from defer.estimators.deferral.query_features import check_number_table
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.routers.exemplar_search import (
    cosine_distances,
    nearest_exemplars,
    row_blocks,
    same_direction,
    unit_rows,
)
from defer.estimators.routers.pools import BOTH_RIGHT, pool_votes, right_answers, right_grade
from defer.estimators.score_router import ScoreRouter

__all__ = ["PoolVoteRouter"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

# What a tie moves in shares of the vote: enough to decide on the scale of quality too, and next to no price.
_NUDGE = 1e-5
_EQUAL = 1e-12
# Cosine distances below it weigh alike in a weighted vote.
_LEAST_DISTANCE = 1e-6


class PoolVoteRouter(ArmAddition, ScoreRouter):
    """Majority of the nearest exemplars, each of which votes for the arm that was right on it.

    A logged query that one arm got right is an exemplar in that arm's pool; one that several got right is in the pool of the
    cheapest, and one that none got right in no pool.  A query goes to the arm with the most votes among its nearest exemplars
    over all pools.

    Parameters
    ----------
    n_neighbors : int, default=10
        Exemplars that vote, of which all do where there are fewer; with sample weights, their total weight.
    right_above : float, optional
        An answer is right where its quality lies above it.  None takes the highest grade that was observed, such as 1, which
        needs quality of at most 32 grades.
    both_right : {"cheapest", "drop", "each"}, default="cheapest"
        Pool of an exemplar that several arms got right: that of the cheapest, as in the paper; of none where all arms got it
        right, else of each that did; or of each that did.
    ties : {"cheapest", "nearest"}, default="cheapest"
        Of arms with equally many votes, the cheapest, as in the paper, or that of the nearest exemplar.
    vote : {"uniform", "distance"}, default="uniform"
        Whether exemplars count alike, as in the paper, or by the inverse of their cosine distance.
    cost_weight : float, default=0.0
        Quality given up per US dollar.

    Attributes
    ----------
    arms_ : array of shape (m,)
    right_from_ : float
        Least quality that counts as right.
    exemplars_ : array or csr matrix of shape (N, d)
        Queries that some arm got right, of length 1.
    right_ : array of shape (N, m)
        1 = right, 0 = wrong, NaN = not observed.  Of an exemplar that an added arm alone is known on, the others are 0.
    votes_ : array of shape (N, m)
        Votes of every exemplar, by inverse propensity where outcomes were observed in part, or without propensities by the
        inverse share of the queries on which the arm was observed.
    pool_size_ : array of shape (m,)
        Weight of the exemplars in every pool.
    seen_weight_ : array of shape (m,)
        Weight of the logged queries on which every arm was observed, or for which those stand by their inverse propensity.
    right_share_ : array of shape (m,)
        Share of every arm's observed outcomes that were right.
    chance_ : array of shape (N, m)
        Propensity of every exemplar; 1 where none was given, and for arms that were added.
    sample_weight_ : array of shape (N,) or None
        Weight of every exemplar.
    quality_scale_ : QualityScale

    Notes
    -----
    The paper's rule is not the one of highest accuracy: what both arms get right counts for the cheap one.  In the limit of many
    exemplars it takes the dear one of two where P(only dear right) > P(cheap right).  With ``both_right="each"`` or ``"drop"`` the
    votes tend to be proportional to P(arm right), less what all get right, so that the limit takes the arm that is most often
    right, for any number of arms.

    Ours, where the source is silent: arms are ordered by their mean cost at fit, and by column where no cost was given; "drop" and
    "each" for more than two arms; under "each" the number of neighbours counts queries, not votes; exemplars of equal distance come
    in the order of the log (distances that differ by less than 1e-12, or 1e-6 in float32, may count as equal); a query of zeros
    has no direction, and all exemplars vote on it; without any exemplar all shares are equal, and the cheapest arm is taken.
    Qualities are scaled on votes from which each query's own was left out.

    Gaps: an outcome that was not observed is in no pool.  Where cheaper arms were not observed, an exemplar counts as if they had
    been wrong; "drop" weighs one that all observed arms got right by the chance that some other did not, were each right at
    `right_share_` by itself.  Partly observed queries vote with their inverse propensity.  Without propensities the votes for an arm
    are divided by the share of the queries on which it was observed, relative to that of the arm observed most often: gaps are
    then taken to have nothing to do with the query.  A seldom observed arm has few exemplars among the neighbours, each with
    many votes, and wants more neighbours.  A log without gaps is read as in the paper.

    `add_arm` needs no training.  Where a query of the log lies in the direction of a known exemplar, that exemplar is relabelled
    with the outcome of the arm (of several such queries, by their majority).  On all other queries the arm alone is known: those
    that it got right become exemplars of its pool.  An arm that is tried on the queries of `fit` thus gets the pool that it
    would have had from the start.  Its votes too are divided by the share of the queries that it was tried on: of the exemplars, or
    the number of tries over the weight of the logged queries, whichever is larger.

    Time is that of one (n, N) matrix product and a partial sort; memory is bounded by blocks.

    References
    ----------
    Lee, Cheng, Ostendorf 2024, OrchestraLLM, arXiv 2311.09758.

    Examples
    --------
    >>> X = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> router = PoolVoteRouter(n_neighbors=2).fit(X, [[1, 1], [1, 0], [0, 1], [0, 1]], cost=[[1, 5]] * 4)
    >>> router.predict_proba([[1.0, 0.2], [0.2, 1.0]]).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    _simplex = True

    right_from_: float
    exemplars_: Any
    right_: Floats
    votes_: Floats
    pool_size_: Floats
    seen_weight_: Floats
    right_share_: Floats
    chance_: Floats
    sample_weight_: Floats | None

    def __init__(
        self,
        n_neighbors: int = 10,
        *,
        right_above: float | None = None,
        both_right: Literal["cheapest", "drop", "each"] = "cheapest",
        ties: Literal["cheapest", "nearest"] = "cheapest",
        vote: Literal["uniform", "distance"] = "uniform",
        cost_weight: float = 0.0,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.right_above = right_above
        self.both_right = both_right
        self.ties = ties
        self.vote = vote
        self.cost_weight = cost_weight

    @property
    def _leaves_out_own(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _fit_scores(self, X: Any, outcomes: Outcomes) -> Floats:
        check_counts("PoolVoteRouter", n_neighbors=self.n_neighbors)
        check_choices(self, both_right=BOTH_RIGHT, ties=("cheapest", "nearest"), vote=("uniform", "distance"))
        check_number_table(X, owner="PoolVoteRouter")
        counted = np.ones(len(outcomes.quality), bool) if outcomes.sample_weight is None else outcomes.sample_weight > 0
        self.right_from_ = right_grade("PoolVoteRouter", outcomes.quality[counted], self.right_above)
        right = right_answers(outcomes.quality, self.right_from_)
        kept = np.flatnonzero(counted & (right == 1.0).any(axis=1))
        units = unit_rows(X)
        self.exemplars_, self.right_ = units[kept], right[kept]
        chance = np.ones(len(right)) if outcomes.propensity is None else outcomes.propensity
        self.chance_ = np.tile(chance[kept, None], (1, right.shape[1]))
        self.sample_weight_ = None if outcomes.sample_weight is None else outcomes.sample_weight[kept]
        self.seen_weight_ = _seen_weight(outcomes)
        self.right_share_ = column_means(right, outcomes.weight, right.shape[1])
        self._form_pools(self.mean_cost_)
        own = np.full(len(right), -1)
        own[kept] = np.arange(len(kept))
        return self._shares(units, own)

    def _predict_scores(self, X: Any) -> Floats:
        check_number_table(X, owner="PoolVoteRouter")
        return self._shares(unit_rows(X.astype(self.exemplars_.dtype, copy=False)))

    def _add_arm(self, trial: ArmTrial) -> None:
        check_number_table(trial.X, owner="PoolVoteRouter")
        units = unit_rows(trial.X.astype(self.exemplars_.dtype, copy=False))
        right = right_answers(trial.quality, self.right_from_)
        self.right_share_ = np.append(self.right_share_, right.mean())
        tried, hits, known = np.zeros(len(self.right_)), np.zeros(len(self.right_)), np.zeros(len(right), bool)
        for rows in row_blocks(len(right), len(self.right_)):
            if not len(self.right_):
                break
            same = cosine_distances(units[rows], self.exemplars_) <= same_direction(units.dtype)
            tried += same.sum(axis=0)
            hits += right[rows] @ same
            known[rows] = same.any(axis=1)
        self._count_tries(tried > 0, int(np.count_nonzero(~known)))
        column = np.where(tried > 0, (hits > tried / 2).astype(np.float64), np.nan)
        fresh = np.flatnonzero(~known & (right == 1.0) & (row_norms(units) > 0))
        # As on the queries that `fit` left out, on which no known arm was right.
        alone = np.zeros((len(fresh), self.right_.shape[1] + 1))
        alone[:, -1] = 1.0
        self.right_ = np.vstack([np.column_stack([self.right_, column]), alone])
        stack = sparse_vstack if issparse(units) else np.vstack
        self.exemplars_ = stack([self.exemplars_, units[fresh]])
        if issparse(units):
            self.exemplars_ = self.exemplars_.tocsr()
        chance = np.column_stack([self.chance_, np.ones(len(self.chance_))])
        self.chance_ = np.vstack([chance, np.ones(alone.shape)])
        if self.sample_weight_ is not None:
            self.sample_weight_ = np.append(self.sample_weight_, np.ones(len(fresh)))
        self._form_pools(np.append(self.mean_cost_, trial.mean_cost))

    def _count_tries(self, tried: NDArray[np.bool_], elsewhere: int) -> None:
        """Weight of the logged queries that an arm was as good as tried on, by exemplars and by tries on other queries."""
        weight, logged = self._weights, float(self.seen_weight_.max())
        covered = float(weight @ tried) + elsewhere
        if len(tried):
            covered = max(covered, logged * float(weight @ tried) / float(weight.sum()))
        self.seen_weight_ = np.append(self.seen_weight_, covered)

    def _form_pools(self, mean_cost: Floats) -> None:
        order = np.argsort(mean_cost, kind="stable")
        votes = pool_votes(self.right_, order, self.both_right, right_share=self.right_share_)
        self.votes_ = votes / self.chance_ * (self.seen_weight_.max() / self.seen_weight_)
        self.pool_size_ = self._weights @ votes

    @property
    def _weights(self) -> Floats:
        return np.ones(len(self.chance_)) if self.sample_weight_ is None else self.sample_weight_

    def _shares(self, units: Any, own: Rows | None = None) -> Floats:
        """Share of every arm in the vote on every query, without the vote of its own exemplar where there is one."""
        m = self.votes_.shape[1]
        shares = np.full((units.shape[0], m), 1.0 / m)
        voters = self.votes_.any(axis=1)
        if not voters.any():
            return shares
        reach = self._reach(self.n_neighbors + (own is not None))
        for rows in row_blocks(len(shares), len(self.votes_)):
            distance = cosine_distances(units[rows], self.exemplars_)
            distance[:, ~voters] = np.inf
            near = nearest_exemplars(distance, reach)
            mass = self._mass(near, None if own is None else own[rows])
            if self.vote == "distance":
                mass = mass / np.maximum(np.take_along_axis(distance, near, axis=1), _LEAST_DISTANCE)
            shares[rows] = self._counted(near, mass)
        blank = np.flatnonzero(row_norms(units) == 0)
        shares[blank] = _normalised((self._weights @ self.votes_)[None])
        return shares

    def _reach(self, weight: float) -> int:
        """Exemplars among which there is so much weight, whichever they are."""
        lightest = np.cumsum(np.sort(self._weights))
        return min(int(np.searchsorted(lightest, weight)) + 1, len(lightest))

    def _mass(self, near: Rows, own: Rows | None) -> Floats:
        """Weight of every neighbour, nearest first, up to a total of `n_neighbors`."""
        weight = self._weights[near]
        if own is not None:
            # Of a query that stands for several equal ones, only one is left out.
            weight = np.maximum(weight - (near == own[:, None]), 0.0)
        before = np.cumsum(weight, axis=1) - weight
        return np.clip(self.n_neighbors - before, 0.0, weight)

    def _counted(self, near: Rows, mass: Floats) -> Floats:
        ends = np.arange(0, near.size + 1, near.shape[1])
        ballots = csr_array((mass.ravel(), near.ravel(), ends), shape=(len(near), len(self.votes_)))
        shares = _normalised(np.asarray(ballots @ self.votes_))
        if self.ties == "nearest":
            self._favour_the_nearest(shares, near, mass)
        return shares

    def _favour_the_nearest(self, shares: Floats, near: Rows, mass: Floats) -> None:
        """Give a trifle to the arm, of those that tie for the most votes, that the nearest exemplar votes for."""
        tied = shares >= shares.max(axis=1, keepdims=True) - _EQUAL
        rows = np.flatnonzero((tied.sum(axis=1) > 1) & (mass > 0).any(axis=1))
        if not len(rows):
            return
        ballots = (self.votes_[near[rows]] > 0) & tied[rows, None, :] & (mass[rows] > 0)[:, :, None]
        first = ballots.any(axis=2).argmax(axis=1)
        favoured = ballots[np.arange(len(rows)), first]
        shares[rows] += _NUDGE * favoured
        shares[rows] = _normalised(shares[rows])


def _seen_weight(outcomes: Outcomes) -> Floats:
    """Weight of the queries on which every arm was observed; that of all, where propensities make up for the gaps."""
    seen = np.isfinite(outcomes.quality)
    weight = np.ones(len(seen)) if outcomes.sample_weight is None else outcomes.sample_weight
    if outcomes.propensity is not None:
        seen = np.broadcast_to(seen.any(axis=1, keepdims=True), seen.shape)
    return np.asarray(weight @ seen)


def _normalised(counts: Floats) -> Floats:
    """Counts of every row divided by their sum; equal shares where there are none."""
    total = counts.sum(axis=1, keepdims=True)
    return np.where(total > 0, counts / np.where(total > 0, total, 1.0), 1.0 / counts.shape[1])
