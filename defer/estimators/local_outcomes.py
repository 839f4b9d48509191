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
from sklearn.utils.extmath import row_norms, safe_sparse_dot

from defer.exceptions import RouterInputError

__all__ = ["LocalOutcomes", "LoggedNeighbor", "local_outcomes", "similarities"]

Floats = NDArray[np.float64]


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
    name = ""
    if _is_text(queries):
        vectoriser = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b|[^\w\s]", sublinear_tf=True)
        try:
            queries = vectoriser.fit_transform(queries)
        except ValueError:  # nothing but blanks in the whole log
            return np.zeros(len(queries)), "cosine of TF-IDF"
        query = vectoriser.transform(query)
        metric, name = "cosine", " of TF-IDF"
    else:
        queries, query = _numbers(queries), _numbers(query)
    if metric == "cosine" or (metric is None and issparse(queries)):
        length = row_norms(queries) * row_norms(query)[0]
        dot = np.asarray(safe_sparse_dot(queries, query.T, dense_output=True), dtype=np.float64).ravel()
        return np.divide(dot, length, out=np.zeros(len(dot)), where=length > 0), f"cosine{name}"
    queries, query = (table.toarray() if issparse(table) else table for table in (queries, query))
    unit = np.ones(queries.shape[1])
    if metric is None:
        spread = np.nanstd(queries, axis=0)
        unit = np.where(spread > 0, spread, 1.0)
    # A gap is no distance from anything.
    away = np.sqrt((np.nan_to_num((queries - query) / unit) ** 2).sum(axis=1))
    return 1.0 / (1.0 + away), "distance" if metric else "distance in units of the spread"


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
