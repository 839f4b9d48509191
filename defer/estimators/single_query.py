"""One query as a router takes it, a batch of one: a text, a row of numbers or a row of a frame, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.utils import get_tags

from defer.estimators.pipeline_features import check_first_step
from defer.estimators.queries import n_queries
from defer.exceptions import RouterInputError

__all__ = ["batch_of_one", "shown_query"]

_ALLOWED = "a text, a row of numbers or a batch of one"


def batch_of_one(router: Any, query: Any) -> Any:
    """A query as a batch.

    Parameters
    ----------
    router : fitted router or pipeline
    query : str, sequence or series of d numbers, row of a pandas frame, or batch of one

    Returns
    -------
    list of one str, array of shape (1, d), or the batch as it came

    Raises
    ------
    RouterInputError
        If it is none of these, has no value, or is not what `router` was fitted on: a text in place of numbers, more or fewer
        numbers, or numbers that are not finite where the router does not take gaps.

    Examples
    --------
    >>> from defer.estimators import QualityRouter
    >>> router = QualityRouter().fit([[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]])
    >>> batch_of_one(router, (0.5, 2.0)), batch_of_one(router, [[0.5, 2.0]])
    (array([[0.5, 2. ]]), [[0.5, 2.0]])
    """
    batch = _as_batch(query, router)
    if n_queries(batch) != 1:
        raise RouterInputError(f"explain: query must be one query, got a batch of {n_queries(batch)}")
    width = getattr(router, "n_features_in_", None)
    if _is_text(batch):
        if width is not None:
            raise RouterInputError(
                f"explain: query is a text, {_short(batch[0])}, and the router was fitted on rows of {width} numbers"
            )
        return batch
    _check_step(router, batch)
    if isinstance(batch, (list, tuple, np.ndarray)):
        _check_numbers(router, np.asarray(batch), width)
    return batch


def shown_query(batch: Any) -> Any:
    """The query of a batch of one, to be shown: a text, a tuple of values, or the name of its type.

    Examples
    --------
    >>> shown_query(["a text"]), shown_query(np.array([[1.0, 2.0]]))
    ('a text', (1.0, 2.0))
    """
    if _is_text(batch):
        return str(batch[0])
    if isinstance(batch, (list, tuple, np.ndarray)):
        return tuple(np.asarray(batch).ravel().tolist())
    frame = nw.from_native(batch, eager_only=True, pass_through=True)
    if isinstance(frame, nw.DataFrame):
        return tuple(value.item() if isinstance(value, np.generic) else value for value in frame.row(0))
    return type(batch).__name__


def _as_batch(query: Any, router: Any) -> Any:
    if isinstance(query, str):
        return [str(query)]
    series = nw.from_native(query, allow_series=True, pass_through=True)
    if isinstance(series, nw.Series):
        values = series.to_list()
        if values and all(isinstance(value, str) for value in values):
            return values
        # A row of a pandas frame carries the names of its columns.
        if hasattr(router, "feature_names_in_") and all(isinstance(name, str) for name in getattr(query, "index", [0])):
            return query.to_frame().T.infer_objects()
        return _row(values)
    if isinstance(series, nw.DataFrame) or issparse(query):
        return query
    if isinstance(query, Mapping):
        raise RouterInputError(
            f"explain: query must be {_ALLOWED}, got a {type(query).__name__} with the keys {_short(list(query))}; give its "
            "values in the order of the columns, or a frame of one row"
        )
    if not isinstance(query, (list, tuple)) and (not hasattr(query, "shape") or np.ndim(query) == 0):
        raise RouterInputError(f"explain: query must be {_ALLOWED}, got {_short(query)}")
    return _nested(query)


def _nested(query: Any) -> Any:
    try:
        table = np.asarray(query)
    except ValueError:
        raise RouterInputError(
            f"explain: query must be {_ALLOWED}, got rows of different lengths: {_short(query)}"
        ) from None
    if table.size == 0:
        raise RouterInputError(f"explain: query must be {_ALLOWED}, got one without values, of shape {table.shape}")
    if table.ndim == 1:
        values = list(query)
        return [str(value) for value in values] if all(isinstance(value, str) for value in values) else _row(values)
    if table.ndim > 2:
        raise RouterInputError(f"explain: query must be {_ALLOWED}, got an array of shape {table.shape}")
    return query


def _row(values: list[Any]) -> NDArray[Any]:
    if not values:
        raise RouterInputError(f"explain: query must be {_ALLOWED}, got one without values, of shape (0,)")
    wrong = [place for place, value in enumerate(values) if not _is_number(value)]
    if wrong:
        raise RouterInputError(
            f"explain: query must be {_ALLOWED}, got a row with {len(wrong)} of {len(values)} values that are no numbers, the "
            f"first is {_short(values[wrong[0]])} in place {wrong[0]}"
        )
    return np.asarray(values).reshape(1, -1)


def _check_step(router: Any, batch: Any) -> None:
    """Refuse what is no text where the first step of a pipeline reads texts."""
    if getattr(router, "steps", None):
        try:
            check_first_step(router, batch)
        except RouterInputError:
            raise RouterInputError(
                f"explain: query must be a text, which this router takes, got {_short(shown_query(batch))}"
            ) from None


def _check_numbers(router: Any, table: NDArray[Any], width: int | None) -> None:
    if table.dtype.kind not in "biuf":
        if width is not None and table.dtype.kind in "US":
            raise RouterInputError(
                f"explain: query holds texts, {_short(table[0].tolist())}, and the router was fitted on rows of {width} numbers"
            )
        return
    if width is not None and table.shape[1] != width:
        raise RouterInputError(
            f"explain: query has {table.shape[1]} numbers, and the router was fitted on rows of {width}"
        )
    gaps = bool(get_tags(router).input_tags.allow_nan)
    row = np.asarray(table[0], dtype=np.float64)
    wrong = np.flatnonzero(np.isinf(row) if gaps else ~np.isfinite(row))
    if len(wrong):
        raise RouterInputError(
            f"explain: query has {len(wrong)} of {len(row)} numbers that are not finite, the first is {row[wrong[0]]:g} in place "
            f"{wrong[0]}"
        )


def _is_text(batch: Any) -> bool:
    return isinstance(batch, list) and len(batch) == 1 and isinstance(batch[0], str)


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float, np.number, np.bool_))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
