"""Routing by the cosine between a projected query and an embedding of every arm, learned by contrast.

Source: RouterDC (Chen, Jiang, Lin, Kwok, Zhang, NeurIPS 2024, arXiv 2409.19886); here a linear head on frozen embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import issparse
from sklearn.cluster import KMeans
from sklearn.utils.extmath import randomized_svd, row_norms

from defer.estimators.deferral.parameter_checks import check_counts, check_positive
from defer.estimators.deferral.query_features import check_number_table
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.routers.exemplar_search import unit_rows
from defer.estimators.score_router import ScoreRouter
from defer.exceptions import RouterInputError
from defer.losses.contrastive import contrast_weights, dual_contrastive
from defer.portfolios.preferences import shares_beside

__all__ = ["DualContrastiveRouter"]

Floats = NDArray[np.float64]

# Squared distance below which queries count as equal.
_APART = 1e-6
# Quality, on the scale from 0 to 1, up to which an arm may be a negative: that of `contrast_weights`.
_WRONG_BELOW = 0.5


class DualContrastiveRouter(ScoreRouter):
    """Take the arm whose embedding is most similar to the projected query.

    Two contrasts are minimised together: of the best arms of a query with the worst ones, and of the query's own cluster with
    the other clusters, which keeps similar queries together.

    Parameters
    ----------
    n_components : int, default=64
        Width of the projection, at most that of the queries.
    n_positive, n_negative : int, default=3
        Best and worst arms of a query; see `contrast_weights`.
    temperature : float, default=0.1
        What cosines are divided by; 1 in the source's code, which trains the whole encoder.
    n_clusters : int, default=5
        Clusters of training queries by k-means; fewer where there are fewer different queries.
    balance : float, default=1.0
        Weight of the contrast of clusters.
    C : float, default=0.1
        Inverse strength of the pull of the projection to where it starts.
    max_iter : int, default=100
    tol : float, default=1e-4
        Gradient at which L-BFGS stops, per unit of weight.
    cost_weight : float, default=0.0
        Quality given up per US dollar.

    Attributes
    ----------
    arms_ : array of shape (m,)
    projection_ : array of shape (d, k)
    offset_ : array of shape (k,)
    arm_embeddings_ : array of shape (m, k)
        Of length 1, or of zeros where an arm has neither a positive nor a negative query.
    n_iter_ : int
    quality_scale_ : QualityScale

    Notes
    -----
    From the source: the two contrasts, their sum, the numbers of positives and negatives, the thresholds, the number of
    clusters and the balance.  Ours: the temperature; a linear head in place of the whole encoder; the head starts as the
    identity, or as the projection on the leading singular vectors, and the embedding of an arm at the mean of its positives
    less that of its negatives, so that nothing is drawn at random; all queries are one batch, whose minimum L-BFGS looks for; a
    query is contrasted with the means of clusters in place of single queries drawn from them; clusters are of the embedding
    itself, not of its t-SNE; outcomes are put on the scale from 0 to 1 by the least and greatest that were observed before
    positives and negatives are told apart; arms that tie share places.

    An outcome that is the only one of its query, as all of a bandit log are, is contrasted with what is known of the other arms:
    its arm is a positive against each of them by the share of their outcomes that lie below it and are negatives, and a negative,
    where it is bad enough, by the share of those that lie above it.  Rows of both kinds may stand in one log.  This way of reading
    single outcomes is ours.

    The contrast says which arms are better on a query, not by how much: scores are put on the scale of quality by
    `QualityScale` on the training queries.

    References
    ----------
    Chen et al. 2024, RouterDC, arXiv 2409.19886.

    Examples
    --------
    >>> X = np.array([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    >>> router = DualContrastiveRouter().fit(X, [[1, 0], [1, 0], [0, 1], [0, 1]])
    >>> router.predict([[2.0, 0.5], [0.5, 2.0]]).tolist()
    [0, 1]
    """

    projection_: Floats
    offset_: Floats
    arm_embeddings_: Floats
    n_iter_: int

    def __init__(
        self,
        n_components: int = 64,
        *,
        n_positive: int = 3,
        n_negative: int = 3,
        temperature: float = 0.1,
        n_clusters: int = 5,
        balance: float = 1.0,
        C: float = 0.1,
        max_iter: int = 100,
        tol: float = 1e-4,
        cost_weight: float = 0.0,
    ) -> None:
        self.n_components = n_components
        self.n_positive = n_positive
        self.n_negative = n_negative
        self.temperature = temperature
        self.n_clusters = n_clusters
        self.balance = balance
        self.C = C
        self.max_iter = max_iter
        self.tol = tol
        self.cost_weight = cost_weight

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _fit_scores(self, X: Any, outcomes: Outcomes) -> Floats:
        self._check_options()
        check_number_table(X, owner="DualContrastiveRouter")
        units, weight = unit_rows(X), outcomes.weight
        weight = np.ones(len(outcomes.quality)) if weight is None else weight
        rows = np.flatnonzero(weight > 0)
        positive, negative = self._contrast_of_arms(outcomes.quality[rows], weight[rows])
        cluster = _clusters(units[rows], outcomes.sample_weight, rows, self.n_clusters)
        training = _Contrast(
            units[rows], positive, negative, cluster, weight[rows], float(self.temperature), float(self.balance), self.C
        )
        start = _start(units[rows], min(self.n_components, units.shape[1]), weight[rows])
        self.projection_, self.offset_, arms, self.n_iter_ = training.minimise(start, self.max_iter, self.tol)
        self.arm_embeddings_ = unit_rows(arms)
        return self._scores_of(units)

    def _predict_scores(self, X: Any) -> Floats:
        check_number_table(X, owner="DualContrastiveRouter")
        return self._scores_of(unit_rows(X))

    def _scores_of(self, units: Any) -> Floats:
        hidden = np.asarray(units @ self.projection_) + self.offset_
        return np.asarray(unit_rows(hidden) @ self.arm_embeddings_.T) / float(self.temperature)

    def _contrast_of_arms(self, quality: Floats, weight: Floats) -> tuple[Floats, Floats]:
        low, high = np.nanmin(quality), np.nanmax(quality)
        if low == high:
            return np.zeros_like(quality), np.zeros_like(quality)
        scaled = (quality - low) / (high - low)
        positive, negative = contrast_weights(scaled, n_positive=self.n_positive, n_negative=self.n_negative)
        alone = np.flatnonzero((np.isfinite(scaled).sum(axis=1) == 1) & (scaled.shape[1] > 1))
        if len(alone):
            positive[alone], negative[alone] = self._contrast_of_single(scaled, weight, alone)
        return positive, negative

    def _contrast_of_single(self, scaled: Floats, weight: Floats, rows: NDArray[np.intp]) -> tuple[Floats, Floats]:
        """Contrast of outcomes that are the only ones of their queries with the outcomes of the other arms."""
        m, seen = scaled.shape[1], np.isfinite(scaled)
        arm = seen[rows].argmax(axis=1)
        value = scaled[rows, arm]
        positive, negative = np.zeros((len(rows), m)), np.zeros((len(rows), m))
        for other in range(m):
            outcomes, mass = scaled[seen[:, other], other], weight[seen[:, other]]
            worse, better = shares_beside(value, outcomes, mass)
            wrong = shares_beside(np.array([np.nextafter(_WRONG_BELOW, 1.0)]), outcomes, mass)[0]
            # Only what is wrong is a negative, be it the other outcome or this one.
            negative[:, other] = np.where(arm == other, 0.0, np.minimum(worse, wrong))
            positive[:, other] = np.where((arm == other) | (value > _WRONG_BELOW), 0.0, better)
        above, below = positive.sum(axis=1), negative.sum(axis=1)
        contrast = above + below
        good = np.where(contrast > 0, below / np.where(contrast > 0, contrast, 1.0), 0.0)
        positive *= min(1.0, self.n_positive / (m - 1))
        negative *= min(1.0, self.n_negative / (m - 1))
        positive[np.arange(len(rows)), arm] = good
        negative[np.arange(len(rows)), arm] = np.where(contrast > 0, 1.0 - good, 0.0)
        return positive, negative

    def _check_options(self) -> None:
        owner = "DualContrastiveRouter"
        counts = ("n_components", "n_positive", "n_negative", "n_clusters", "max_iter")
        check_counts(owner, **{name: getattr(self, name) for name in counts})
        check_positive(owner, temperature=self.temperature, C=self.C, tol=self.tol)
        if self.balance != 0 or isinstance(self.balance, bool):
            try:
                check_positive(owner, balance=self.balance)
            except RouterInputError:
                raise RouterInputError(f"{owner}: balance must be a finite number >= 0, got {self.balance!r}") from None


@dataclass(frozen=True, eq=False)
class _Contrast:
    """The loss of projection, offset and embeddings of the arms, with its gradient.

    Attributes
    ----------
    units : array or csr matrix of shape (n, d)
    positive, negative : arrays of shape (n, m)
    cluster : array of shape (n, g)
        1 in the column of the query's cluster.
    weight : array of shape (n,)
    """

    units: Any
    positive: Floats
    negative: Floats
    cluster: Floats
    weight: Floats
    temperature: float
    balance: float
    C: float

    def minimise(self, start: Floats, max_iter: int, tol: float) -> tuple[Floats, Floats, Floats, int]:
        """Projection, offset, embeddings of the arms, and the number of iterations."""
        hidden = _units(np.asarray(self.units @ start))[0]
        arms = (self.weight[:, None] * (self.positive - self.negative)).T @ hidden
        arms /= self.weight.sum()
        shapes = [start.shape, (start.shape[1],), arms.shape]
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]

        def split(flat: Floats) -> list[Floats]:
            return [part.reshape(shape) for part, shape in zip(np.split(flat, ends), shapes, strict=True)]

        def objective(flat: Floats) -> tuple[float, Floats]:
            projection, offset, embeddings = split(flat)
            value, slopes = self._loss(projection, offset, embeddings)
            pull = 1.0 / (self.C * self.weight.sum())
            away = projection - start
            value += 0.5 * pull * float((away**2).sum() + (offset**2).sum())
            slopes[0] += pull * away
            slopes[1] += pull * offset
            return value, np.concatenate([slope.ravel() for slope in slopes])

        first = np.concatenate([start.ravel(), np.zeros(start.shape[1]), arms.ravel()])
        # The gradient alone says when to stop.
        options = {"maxiter": max_iter, "maxfun": 10 * max_iter, "gtol": tol, "ftol": 0.0}
        found = minimize(objective, first, jac=True, method="L-BFGS-B", options=options)
        projection, offset, embeddings = split(found.x)
        return projection, offset, embeddings, int(found.nit)

    def _loss(self, projection: Floats, offset: Floats, embeddings: Floats) -> tuple[float, list[Floats]]:
        """Mean loss by weight, and its derivatives by the three parameters."""
        query, query_length = _units(np.asarray(self.units @ projection) + offset)
        arm, arm_length = _units(embeddings)
        share = self.cluster * self.weight[:, None]
        share /= share.sum(axis=0)
        centre, centre_length = _units(share.T @ query)
        scores = np.hstack([query @ arm.T, query @ centre.T]) / self.temperature
        loss = dual_contrastive(
            scores, np.hstack([self.positive, self.cluster]), np.hstack([self.negative, 1.0 - self.cluster]),
            n_arms=len(arm), balance=self.balance, weight=self.weight,
        )  # fmt: skip
        total = self.weight.sum()
        slope = loss.gradient / (total * self.temperature)
        by_arm, by_centre = slope[:, : len(arm)], slope[:, len(arm) :]
        centre_slope = _through_units(by_centre.T @ query, centre, centre_length)
        query_slope = by_arm @ arm + by_centre @ centre + share @ centre_slope
        hidden_slope = _through_units(query_slope, query, query_length)
        return float(loss.value.sum() / total), [
            np.asarray(self.units.T @ hidden_slope),
            hidden_slope.sum(axis=0),
            _through_units(by_arm.T @ query, arm, arm_length),
        ]


def _units(rows: Floats) -> tuple[Floats, Floats]:
    """Rows of length 1 and their lengths; a row of zeros stays one."""
    length = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    return rows / np.where(length > 0, length, 1.0), length


def _through_units(slope: Floats, units: Floats, length: Floats) -> Floats:
    """Derivative by rows, of what is known of the derivative by the rows of length 1; zero for a row of zeros."""
    tangent = slope - units * np.einsum("ij,ij->i", slope, units)[:, None]
    return np.where(length > 0, tangent / np.where(length > 0, length, 1.0), 0.0)


def _start(units: Any, width: int, weight: Floats) -> Floats:
    d = units.shape[1]
    if width == d:
        return np.eye(d)
    scale = np.sqrt(weight)[:, None]
    scaled = units.multiply(scale).tocsr() if issparse(units) else units * scale
    vectors = randomized_svd(scaled, min(width, units.shape[0]), n_iter=7, random_state=0)[2].T
    start = np.zeros((d, width))
    start[:, : vectors.shape[1]] = vectors
    return start


def _clusters(units: Any, sample_weight: Floats | None, rows: NDArray[np.intp], n_clusters: int) -> Floats:
    """1 in the column of every query's cluster, shape (n, g)."""
    weight = np.ones(len(rows)) if sample_weight is None else sample_weight[rows]
    centres = _far_apart(units, weight, n_clusters)
    if len(centres) == 1:
        return np.ones((units.shape[0], 1))
    means = KMeans(len(centres), init=centres, n_init=1).fit(units, sample_weight=weight)
    labels = np.unique(means.labels_, return_inverse=True)[1]
    return np.eye(labels.max() + 1)[labels]


def _far_apart(units: Any, weight: Floats, n_clusters: int) -> Floats:
    """Queries to start k-means from: each the one farthest from the mean and those before it, so that nothing is drawn."""
    squared = row_norms(units, squared=True)
    point = np.asarray(weight @ units / weight.sum()).ravel()
    chosen = [int((squared - 2.0 * np.asarray(units @ point).ravel()).argmax())]
    nearest = np.full(units.shape[0], np.inf)
    while len(chosen) < n_clusters:
        point = _dense(units[[chosen[-1]]]).ravel()
        nearest = np.minimum(nearest, squared + point @ point - 2.0 * np.asarray(units @ point).ravel())
        if nearest.max() <= _APART:
            break
        chosen.append(int(nearest.argmax()))
    return _dense(units[chosen])


def _dense(table: Any) -> Floats:
    return np.asarray(table.toarray() if issparse(table) else table, dtype=np.float64)
