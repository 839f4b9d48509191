"""What a log says about one query: the logged queries nearest to it, and how far outcomes were from their predictions.

Search is exact, in the feature space of the router.  Source of the interval: split conformal prediction with absolute
residuals (Papadopoulos et al. 2002; Lei et al. 2018).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize
from sklearn.utils.extmath import safe_sparse_dot

from defer.exceptions import RouterInputError

__all__ = ["Comparison", "LocalOutcomes", "LoggedNeighbor", "local_outcomes", "similarities"]

Floats = NDArray[np.float64]

_TOKENS = r"(?u)\b\w+\b|[^\w\s]"
_MOST_LONELY = 100


@dataclass(frozen=True, eq=False)
class LoggedNeighbor:
    """One logged query near to the query that is explained.

    Attributes
    ----------
    row : int
        Row of the log.
    similarity : float
    query : object
        As logged.
    query_id : object
        None where the log has no ids.
    quality, cost : arrays of shape (m,)
        In the order of the router's arms; NaN = not observed.
    """

    row: int
    similarity: float
    query: Any
    query_id: Any
    quality: Floats
    cost: Floats


@dataclass(frozen=True, eq=False)
class LocalOutcomes:
    """Realised outcomes of every arm on the logged queries nearest to a query; arrays of shape (m,).

    Attributes
    ----------
    mean : array
        Over the nearest logged queries on which the arm was observed; NaN where there is none.
    error : array
        Standard error of that mean: how well the neighbourhood is known.  NaN below two observations, unless a range is given.
    spread : array
        Standard deviation of the outcomes: how much single queries differ.  NaN below two observations.
    count : int array
        Neighbours on which the arm was observed.
    low, high : arrays
        Split-conformal interval for the outcome on this one query: the prediction, and the quantile of the absolute
        residuals over the whole log.  Infinite where the log is too short for the level.
    """

    mean: Floats
    error: Floats
    spread: Floats
    count: NDArray[np.intp]
    low: Floats
    high: Floats


@dataclass(frozen=True, eq=False)
class Comparison:
    """How queries are compared: vectors of unit length by their product, others by their distance.

    Attributes
    ----------
    table : array or sparse matrix of shape (n, d)
        The logged queries, scaled.
    unit : array of shape (d,)
        By which distances are divided.
    vectoriser : TfidfVectorizer or None
        Of texts.
    by_distance : bool
    name : str
        What similarity means.
    """

    table: Any
    unit: Floats
    vectoriser: TfidfVectorizer | None
    by_distance: bool
    name: str

    @classmethod
    def of(cls, queries: Any, *, metric: str | None) -> Comparison:
        """Of n logged queries; parameters as for `similarities`."""
        vectoriser, name = None, ""
        if _is_text(queries):
            vectoriser, metric, name = TfidfVectorizer(token_pattern=_TOKENS, sublinear_tf=True), "cosine", " of TF-IDF"
            try:
                table = vectoriser.fit_transform(queries)
            except ValueError:  # nothing but blanks in the whole log
                vectoriser, table = None, np.zeros((len(queries), 1))
        else:
            table = _numbers(queries)
        if metric == "cosine" or (metric is None and issparse(table)):
            return cls(_of_unit_length(table), np.ones(1), vectoriser, False, f"cosine{name}")
        table = table.toarray() if issparse(table) else table
        unit = np.ones(table.shape[1])
        if metric is None:
            spread = np.nanstd(table, axis=0)
            unit = np.where(spread > 0, spread, 1.0)
        return cls(table / unit, unit, None, True, "distance" if metric else "distance in units of the spread")

    def similarities(self, query: Any) -> Floats:
        """Similarity of one query to every logged query, shape (n,)."""
        if self.by_distance:
            here = _numbers(query)
            here = (here.toarray() if issparse(here) else here) / self.unit
            with np.errstate(over="ignore"):  # infinitely far is far
                # A gap is no distance from anything.
                away = np.sqrt((np.nan_to_num(self.table - here) ** 2).sum(axis=1))
            return 1.0 / (1.0 + away)
        if self.name.endswith("TF-IDF"):
            here = np.zeros((1, self.table.shape[1])) if self.vectoriser is None else self.vectoriser.transform(query)
        else:
            here = _numbers(query)
        return self._products(_of_unit_length(here))[:, 0]

    def least_nearest(self) -> float:
        """Similarity to its nearest other query of that logged query which is the loneliest, of up to 100 of them.

        A query like the logged ones is as lonely with a probability of at most 1 / (k + 1), with k of them: 1 / 101 from 100 on.
        """
        n = self.table.shape[0]
        rows = np.unique(np.linspace(0, n - 1, min(n, _MOST_LONELY)).astype(np.intp))
        if self.by_distance:
            table = np.nan_to_num(self.table)
            square = (table**2).sum(axis=1)
            away = square[:, None] + square[rows] - 2.0 * table @ table[rows].T
            similar = 1.0 / (1.0 + np.sqrt(np.maximum(away, 0.0)))
        else:
            similar = self._products(self.table[rows])
        similar[rows, np.arange(len(rows))] = -np.inf
        return float(similar.max(axis=0).min())

    def _products(self, others: Any) -> Floats:
        return np.asarray(safe_sparse_dot(self.table, others.T, dense_output=True), dtype=np.float64)


def similarities(queries: Any, query: Any, *, metric: str | None) -> tuple[Floats, str]:
    """Similarity of one query to every logged query, and its name.

    Parameters
    ----------
    queries : features of n logged queries
        Array, sparse matrix, frame or list of str; of a frame only the numeric columns are read, text is compared by TF-IDF.
    query : features of one query, of the same kind
    metric : {"cosine", "euclidean"} or None
        None takes the cosine for text and sparse features, and else distances in which every feature is measured by its
        spread over the log.

    Returns
    -------
    array of shape (n,)
        The cosine, or 1 / (1 + distance).
    str
        "cosine", "cosine of TF-IDF", "distance" or "distance in units of the spread".

    Raises
    ------
    RouterInputError
        If the features can be compared in no way: a frame without a numeric column.

    Examples
    --------
    >>> similarities(np.array([[1.0, 0.0], [3.0, 4.0]]), np.array([[2.0, 0.0]]), metric="cosine")
    (array([1. , 0.6]), 'cosine')
    """
    compared = Comparison.of(queries, metric=metric)
    return compared.similarities(query), compared.name


def _of_unit_length(table: Any) -> Any:
    """Rows of length 1; rows of zeros stay."""
    if issparse(table):
        return normalize(table)
    largest = np.abs(table).max(axis=1, keepdims=True)
    # Squares of large numbers would overflow.
    return normalize(np.divide(table, largest, out=np.zeros(table.shape), where=largest > 0))


def _is_text(queries: Any) -> bool:
    return isinstance(queries, (list, tuple)) and isinstance(queries[0], str)


def _numbers(queries: Any) -> Any:
    if issparse(queries):
        return queries.tocsr().astype(np.float64)
    frame = nw.from_native(queries, eager_only=True, pass_through=True)
    if isinstance(frame, nw.DataFrame):
        kept = [name for name, kind in frame.schema.items() if kind.is_numeric() or kind == nw.Boolean]
        if not kept:
            raise RouterInputError(
                f"explain: none of the {len(frame.columns)} columns of the queries is numeric, so no logged query can be "
                "called near; leave log= out"
            )
        return np.column_stack([frame[name].cast(nw.Float64).to_numpy() for name in kept])
    return np.asarray(queries, dtype=np.float64)


def local_outcomes(
    realised: Floats, predicted: Floats, here: Floats, order: NDArray[np.intp], *, n_local: int, level: float,
    span: tuple[float, float] | None = None,
) -> LocalOutcomes:  # fmt: skip
    """Mean, error, spread and interval of every arm's outcome.

    Parameters
    ----------
    realised, predicted : arrays of shape (n, m)
        Of the logged queries; NaN = not observed.
    here : array of shape (m,)
        Prediction for the query.
    order : int array of shape (n,)
        Rows of the log by falling similarity.
    n_local : int
        Neighbours in the mean, for every arm among the queries on which it was observed.
    level : float
        Of the interval, in (0, 1).
    span : (float, float), optional
        Least and largest outcome.  Each then counts as one neighbour more in the error, and in nothing else: equal outcomes
        of a few neighbours would else pass for certainty (for shares the "plus two" rule of Agresti and Coull 1998).

    Examples
    --------
    >>> realised = np.array([[1.0], [0.0], [1.0], [1.0]])
    >>> found = local_outcomes(realised, np.full((4, 1), 0.6), np.array([0.6]), np.arange(4), n_local=2, level=0.8)
    >>> found.mean.tolist(), found.error.tolist(), found.high.tolist(), found.count.tolist()
    ([0.5], [0.5], [1.2], [2])
    """
    m = len(here)
    table = np.full((3, m), np.nan)
    count, reach = np.zeros(m, dtype=np.intp), np.full(m, np.inf)
    for arm in range(m):
        seen = np.isfinite(realised[:, arm])
        near = realised[order[seen[order]][:n_local], arm]
        count[arm] = len(near)
        if len(near):
            table[0, arm] = near.mean()
        if len(near) > 1:
            table[2, arm] = near.std(ddof=1) if np.ptp(near) > 0 else 0.0  # equal outcomes, whatever rounding says
        widened = near if span is None else np.append(near, span)
        if len(near) and len(widened) > 1:
            table[1, arm] = widened.std(ddof=1) / math.sqrt(len(widened)) if np.ptp(widened) > 0 else 0.0
        residual = np.sort(np.abs(realised[seen, arm] - predicted[seen, arm]))
        rank = math.ceil((len(residual) + 1) * level - 1e-9)  # 0.9 * 10 is above 9 in floats
        if rank <= len(residual):
            reach[arm] = residual[rank - 1]
    return LocalOutcomes(table[0], table[1], table[2], count, here - reach, here + reach)
