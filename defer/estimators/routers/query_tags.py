"""Tags of training queries: given, one domain each, or clusters of their features."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, issparse
from sklearn.base import BaseEstimator, ClusterMixin, clone
from sklearn.cluster import KMeans
from sklearn.utils.validation import check_is_fitted, validate_data

from defer.estimators.deferral.parameter_checks import check_counts, seed_of
from defer.estimators.inner_model import takes_weight
from defer.estimators.outcomes_input import read_weight
from defer.exceptions import RouterInputError
from defer.losses.tag_incidence import tag_incidence

__all__ = ["ClusterTagger", "cluster_tags", "read_query_tags"]


class ClusterTagger(ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """One tag per query: the number of its k-means cluster.

    Parameters
    ----------
    n_tags : int, default=32
        Number of clusters, and of queries at most.
    n_init : int, default=1
        Starts, of which the best is kept.
    random_state : int, Generator, RandomState instance or None, default=None

    Attributes
    ----------
    centers_ : array of shape (T, d)
    kmeans_ : KMeans
    labels_ : int array of shape (n,)
        Tag of every query of `fit`.

    Notes
    -----
    Equal queries are put together, and distinct ones into an order of their own, before the starts are drawn: neither the order
    of the queries nor whether one is repeated or weighted changes the clusters.

    Examples
    --------
    >>> ClusterTagger(n_tags=2, random_state=0).fit_predict([[0.0], [0.1], [9.0]]).tolist() in ([0, 0, 1], [1, 1, 0])
    True
    """

    centers_: NDArray[Any]
    kmeans_: KMeans
    labels_: NDArray[np.intp]

    def __init__(self, n_tags: int = 32, *, n_init: int = 1, random_state: Any = None) -> None:
        self.n_tags = n_tags
        self.n_init = n_init
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def fit(self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None) -> Self:
        """Find the clusters.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, d)
        y : ignored
        sample_weight : array of shape (n,), optional
            A weight of k is worth k equal rows.

        Returns
        -------
        self

        Raises
        ------
        RouterInputError
            If a parameter is no integer >= 1.
        """
        check_counts("ClusterTagger", n_tags=self.n_tags, n_init=self.n_init)
        X = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32])
        weight = read_weight(sample_weight, n=X.shape[0])
        mass = np.ones(X.shape[0]) if weight is None else weight
        first, place = _distinct(X)
        together = np.bincount(place, weights=mass, minlength=len(first))
        counted = np.flatnonzero(together > 0)
        k = min(int(self.n_tags), len(counted))
        means = KMeans(k, n_init=self.n_init, random_state=seed_of(self.random_state))
        self.kmeans_ = means.fit(X[first[counted]], sample_weight=together[counted])
        self.centers_ = self.kmeans_.cluster_centers_
        self.labels_ = self.kmeans_.predict(X).astype(np.intp)
        return self

    def predict(self, X: Any) -> NDArray[np.intp]:
        """Nearest cluster of every query, shape (n,)."""
        check_is_fitted(self, "centers_")
        X = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)
        return self.kmeans_.predict(X).astype(np.intp)


def read_query_tags(tags: Any, *, n: int, owner: str) -> csr_array:
    """Which query has which tag, shape (n, T), from what `fit` is given.

    Parameters
    ----------
    tags : sequence of n sets of str, or array of shape (n,), or sparse matrix of shape (n, T)
        By domain: one text or number per query.  None, NaN and an empty set are no tag.
    n : int
    owner : str
        Class that asks, for messages.

    Raises
    ------
    RouterInputError
        If there are not n entries, or one is no tag.

    Examples
    --------
    >>> read_query_tags(np.array(["math", "code", "math"]), n=3, owner="Router").sum(axis=0).tolist()
    [2.0, 1.0]
    """
    return tag_incidence(tags, n=n, owner=owner, error=RouterInputError)


def cluster_tags(tagger: Any, X: Any, weight: NDArray[np.float64] | None, *, owner: str) -> csr_array:
    """Which query falls into which cluster, shape (n, T), by a clone of a clusterer that is fitted on these queries.

    Parameters
    ----------
    tagger : clusterer with `fit_predict`
        A label below 0, which density-based clusterers give to noise, is no tag.
    X : array or sparse matrix of shape (n, d)
    weight : array of shape (n,) or None
        Handed to a clusterer that takes it.
    owner : str
        Class that asks, for messages.

    Raises
    ------
    RouterInputError
        If it cannot cluster, or does not give one integer per query.

    Examples
    --------
    >>> cluster_tags(ClusterTagger(2, random_state=0), np.array([[0.0], [9.0]]), None, owner="Router").sum(axis=1).tolist()
    [1.0, 1.0]
    """
    if isinstance(tagger, type) or not hasattr(tagger, "fit_predict"):
        raise RouterInputError(
            f"{owner}: tags must be None, 'cluster', or a clusterer with fit_predict, such as ClusterTagger(), got {tagger!r}; tags "
            "of the queries themselves go to fit(tags=)"
        )
    options = {} if weight is None or not takes_weight(tagger) else {"sample_weight": weight}
    label = np.asarray(clone(tagger).fit_predict(X, **options))
    if label.shape != (X.shape[0],) or label.dtype.kind not in "iu":
        raise RouterInputError(
            f"{owner}: the clusterer {type(tagger).__name__} must give one integer per query, shape ({X.shape[0]},), and gave "
            f"{label.dtype} of shape {label.shape}"
        )
    return tag_incidence([None if tag < 0 else tag for tag in label.tolist()], n=len(label), owner=owner)


def _distinct(X: Any) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """One row of every group of equal rows, in an order that the values alone decide, and the group of every row."""
    direction = np.random.default_rng(0).normal(size=X.shape[1])
    if issparse(X):
        # Equal rows have equal products with any vector, and unequal ones hardly ever do with a random one.
        keys = np.asarray(X.sorted_indices().astype(np.float64) @ direction)
        _, first, place = np.unique(keys, return_index=True, return_inverse=True)
        return first, place
    _, first, place = np.unique(X, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(X[first] @ direction, kind="stable")
    rank = np.empty(len(order), dtype=np.intp)
    rank[order] = np.arange(len(order))
    return first[order], rank[place.ravel()]
