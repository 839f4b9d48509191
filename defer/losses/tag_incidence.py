"""Tags of queries, however they are given, as a sparse table of which query has which tag."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from defer.exceptions import LossInputError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["tag_incidence"]


def tag_incidence(tags: Any, *, n: int, owner: str = "tags", error: type[ValueError] = LossInputError) -> csr_array:
    """Which query has which tag: 1 or 0, shape (n, T), in the order in which tags first appear.

    Parameters
    ----------
    tags : sequence of n sets of str, or array of shape (n,), or sparse matrix of shape (n, T)
        An entry is a collection of tags, possibly empty, or a single tag, such as a domain; None is none.  A tag is a text or an
        integer; one that a query has twice counts once.
    n : int
        Number of queries.
    owner : str
        Who asks, for messages.
    error : type of ValueError
        What is raised.

    Raises
    ------
    LossInputError
        Or `error`, if there are not n entries, or one is no tag; names the first.

    Examples
    --------
    >>> tag_incidence([{"a"}, ["a", "b", "b"], None], n=3).toarray().astype(int).tolist()
    [[1, 0], [1, 1], [0, 0]]
    >>> tag_incidence(["math", "code", "math"], n=3).toarray().astype(int).tolist()
    [[1, 0], [0, 1], [1, 0]]
    """
    # The formulas load without SciPy; who has tags has it.
    from scipy.sparse import csr_array

    if hasattr(tags, "tocsr"):
        table = csr_array(tags != 0, dtype=np.float64)
        _check_length(table.shape[0], n, owner, error)
        return table
    entries = _entries(tags, owner, error)
    _check_length(len(entries), n, owner, error)
    column: dict[Hashable, int] = {}
    rows: list[int] = []
    columns: list[int] = []
    for row, entry in enumerate(entries):
        for tag in _tags_of(entry, row, owner, error):
            rows.append(row)
            columns.append(column.setdefault(tag, len(column)))
    ones = np.ones(len(rows))
    return csr_array(
        (ones, (np.asarray(rows, dtype=np.intp), np.asarray(columns, dtype=np.intp))), shape=(n, len(column))
    )


def _entries(tags: Any, owner: str, error: type[ValueError]) -> Sequence[Any]:
    if isinstance(tags, (str, bytes, dict)) or not hasattr(tags, "__len__") or not hasattr(tags, "__iter__"):
        raise error(f"{owner}: tags must be a sequence with one entry per query, got {type(tags).__name__}")
    if isinstance(tags, (set, frozenset)):
        raise error(f"{owner}: tags are one set, which has no order; give a sequence with one set per query")
    shape = np.shape(tags) if hasattr(tags, "shape") else (len(tags),)
    if len(shape) != 1:
        raise error(
            f"{owner}: tags must be a sequence of sets or an array of shape (n,), got shape {shape}; a table of 0 and 1 goes in as "
            "a sparse matrix"
        )
    return tags.tolist() if isinstance(tags, np.ndarray) else list(tags)


def _tags_of(entry: Any, row: int, owner: str, error: type[ValueError]) -> dict[Hashable, None]:
    """Tags of one query, without repeats, in a fixed order."""
    if entry is None or (isinstance(entry, float) and np.isnan(entry)):
        return {}
    several = [entry] if isinstance(entry, (str, Integral)) or not hasattr(entry, "__iter__") else list(entry)
    for tag in several:
        if not isinstance(tag, (str, Integral)):
            raise error(
                f"{owner}: tags of row {row} hold {tag!r}, a {type(tag).__name__}; a tag is a text or an integer"
            )
    if isinstance(entry, (set, frozenset)):
        several.sort(key=lambda tag: (isinstance(tag, str), tag))  # the order of a set is not the same in every process
    return dict.fromkeys(several)


def _check_length(given: int, n: int, owner: str, error: type[ValueError]) -> None:
    if given != n:
        raise error(
            f"{owner}: tags have {given} entries, and there are {n} queries; a query without tags has an empty set"
        )
