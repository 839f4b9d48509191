"""What experts answered, read once: labels of the classes of `y`, with gaps where an expert was not asked."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from defer.exceptions import DeferWarning, RouterInputError
from defer.portfolios.expert_names import expert_names

__all__ = [
    "OWN", "ExpertAnswers", "check_answers", "is_asked", "is_missing", "kind_of_labels", "read_answers",
    "read_expert_table", "read_labels",
]  # fmt: skip

OWN = "own"
"""Name of the arm that is the system's own prediction."""

# What a gap becomes where a table of answers is turned into text.
_GAPS_AS_TEXT = ("", "nan", "NaN", "None", "<NA>", "NaT")


@dataclass(frozen=True)
class ExpertAnswers:
    """Checked labels of n queries and the answers of J experts to them.

    Attributes
    ----------
    classes : array of shape (K,)
        Labels, sorted.
    label : int array of shape (n,)
        Index of the true label.
    names : str array of shape (J,)
    answer : object array of shape (n, J)
        As given; None where the expert was not asked.
    right : array of shape (n, J)
        1 where the answer is the true label, 0 where it is not, NaN where the expert was not asked.
    group : int array of shape (n,) or None
        Queries that belong together: cross-fitting keeps them in one fold.
    """

    classes: NDArray[np.generic]
    label: NDArray[np.intp]
    names: NDArray[np.generic]
    answer: NDArray[np.object_]
    right: NDArray[np.float64]
    group: NDArray[np.intp] | None = None

    def take(self, rows: NDArray[np.intp]) -> ExpertAnswers:
        """The same of some of the queries."""
        group = None if self.group is None else self.group[rows]
        return replace(self, label=self.label[rows], answer=self.answer[rows], right=self.right[rows], group=group)


def read_answers(y: ArrayLike, experts: Any, *, n: int, weight: NDArray[np.float64] | None = None) -> ExpertAnswers:
    """Read and check labels and the answers of experts.

    Parameters
    ----------
    y : array of shape (n,)
        True labels.
    experts : array of shape (n,) or (n, J), or frame with one column per expert, or ExpertAnswers
        Answers, of the kind of `y`; NaN, None or a masked value where the expert was not asked.  An `ExpertAnswers` was
        checked before, and is not again.
    n : int
        Number of queries.
    weight : array of shape (n,), optional
        Sample weights, checked; what stands in rows of weight 0 alone is not there.

    Raises
    ------
    RouterInputError
        If shapes do not match, a label is missing, `y` holds one class, an expert was never asked or answers with labels
        of another kind than those of `y`, a gap is written as text, or two experts have one name.

    Warns
    -----
    DeferWarning
        If an answer is no class of `y`.

    Examples
    --------
    >>> answers = read_answers(["cat", "dog", "cat"], [["cat", None], ["cat", "dog"], [None, "dog"]], n=3)
    >>> answers.names.tolist(), answers.right.tolist()
    (['expert 1', 'expert 2'], [[1.0, nan], [0.0, 1.0], [nan, 0.0]])
    """
    classes, label = read_labels(y, n)
    counted = "" if weight is None else " in rows of positive weight"
    present = np.flatnonzero(np.bincount(label, weights=weight, minlength=len(classes)))
    if len(present) < 2:
        only = classes.tolist()[present[0]]
        raise RouterInputError(
            f"y holds one class{counted}, {only!r}: there is nothing to classify and nothing to defer"
        )
    names, answer = read_expert_table(experts, n=n)
    asked = is_asked(answer)
    never = np.flatnonzero(~(asked if weight is None else asked & (weight > 0)[:, None]).any(axis=0))
    if len(never):
        raise RouterInputError(
            f"experts: {len(never)} of {len(names)} experts have no answer{counted}, the first is "
            f"{str(names[never[0]])!r}; leave them out"
        )
    if not isinstance(experts, ExpertAnswers):
        check_answers(names, answer, classes, some_known=True)
    right = np.full(answer.shape, np.nan)
    right[asked] = (answer == classes[label].astype(object)[:, None])[asked]
    return ExpertAnswers(classes, label, names, answer, right)


def read_expert_table(
    experts: Any, *, n: int, names: NDArray[np.generic] | None = None
) -> tuple[NDArray[np.generic], NDArray[np.object_]]:
    """Names of the experts and their answers as objects, None where there is none.

    Parameters
    ----------
    experts : array of shape (n,) or (n, J), or frame, or ExpertAnswers
    n : int
        Number of queries.
    names : str array of shape (J,), optional
        Experts that are expected; the columns of a frame are put into this order.

    Raises
    ------
    RouterInputError
        On other shapes or other names than expected.

    Examples
    --------
    >>> read_expert_table(np.array([1.0, np.nan]), n=2)[1].tolist()
    [[1.0], [None]]
    """
    found, table = _columns(experts)
    if table.ndim != 2 or len(table) != n or table.shape[1] == 0:
        raise RouterInputError(
            f"experts must hold one row per query and one column per expert: X has {n} rows, experts has shape {table.shape}"
        )
    if found is None:
        given = names is not None and len(names) == table.shape[1]
        found = names.tolist() if given else expert_names(table.shape[1])  # type: ignore[union-attr]
    if OWN in found:
        raise RouterInputError(f"experts names an expert {OWN!r}, which is the name of the system's own arm; rename it")
    if names is not None:
        lacking = [name for name in names.tolist() if name not in found]
        extra = [name for name in found if name not in names.tolist()]
        if lacking or extra:
            raise RouterInputError(
                f"experts must be the {len(names)} of fit, {names.tolist()}, got {len(found)}: lacking {lacking}, not known {extra}"
            )
        table = table[:, [found.index(name) for name in names.tolist()]]
        return names, table
    return np.asarray(found, dtype=str), table


def is_asked(answer: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Where there is an answer, in the shape of a table of `read_expert_table`.

    Examples
    --------
    >>> is_asked(np.array([["cat", None]], dtype=object)).tolist()
    [[True, False]]
    """
    return np.fromiter((value is not None for value in answer.flat), bool, answer.size).reshape(answer.shape)


def check_answers(
    names: NDArray[np.generic],
    answer: NDArray[np.object_],
    classes: NDArray[np.generic],
    *,
    some_known: bool = False,
    warn: bool = True,
    stacklevel: int = 4,
) -> None:
    """Refuse answers that are not of the kind of the labels and gaps that are written as text; warn of what is no label.

    Parameters
    ----------
    names : array of shape (J,)
    answer : object array of shape (n, J), None where not asked
    classes : array
        Labels that are known.
    some_known : bool, default=False
        Whether every expert has to have given one of them.
    warn : bool, default=True
        Whether to warn.
    stacklevel : int, default=4
        Of the warning; so that it names the line of the user.

    Raises
    ------
    RouterInputError
        Names the expert, the number of its answers, the first one and its row.

    Warns
    -----
    DeferWarning
        If an answer is no label: it counts as wrong.

    Examples
    --------
    >>> check_answers(np.array(["ann"]), np.array([["cat"], [None]], dtype=object), np.array(["cat", "dog"]))
    """
    for column, name in enumerate(names.tolist()):
        rows = np.flatnonzero(is_asked(answer[:, column]))
        if len(rows):
            strange = _check_expert(str(name), answer[rows, column].tolist(), rows, classes, some_known)
            if strange and warn:
                warnings.warn(strange, DeferWarning, stacklevel=stacklevel)


def _check_expert(
    name: str, given: list[Any], rows: NDArray[np.intp], classes: NDArray[np.generic], some_known: bool
) -> str:
    """What there is to warn of, or an empty text."""
    known, kind, first = set(classes.tolist()), kind_of_labels(classes), classes.tolist()[0]
    wrong = [value for value in given if _kind(value) != kind]
    if wrong:
        flags = "; give what the expert answered, not whether it was right"
        raise RouterInputError(
            f"experts: {len(wrong)} of {len(given)} answers of {name!r} are of type {type(wrong[0]).__name__}, the first is "
            f"{wrong[0]!r}, and y holds {kind} such as {first!r}"
            f"{flags if 'truth values' in (kind, _kind(wrong[0])) else ''}"
        )
    strange = [place for place, value in enumerate(given) if value not in known]
    gaps = [place for place in strange if isinstance(given[place], str) and given[place].strip() in _GAPS_AS_TEXT]
    if gaps:
        raise RouterInputError(
            f"experts: {len(gaps)} of {len(given)} answers of {name!r} are gaps written as text, the first is "
            f"{given[gaps[0]]!r} in row {rows[gaps[0]]}; where an expert was not asked there must be None or NaN"
        )
    if some_known and len(strange) == len(given):
        raise RouterInputError(
            f"experts: none of the {len(given)} answers of {name!r} is a class of y, the first is {given[0]!r}; the classes "
            f"are {classes.tolist()}"
        )
    if not strange:
        return ""
    return (
        f"experts: {len(strange)} of {len(given)} answers of {name!r} are no class of y, the first is {given[strange[0]]!r} in "
        f"row {rows[strange[0]]}; they count as wrong: an expert who was not asked has None or NaN"
    )


def kind_of_labels(classes: NDArray[np.generic]) -> str:
    """What labels are: "text", "truth values" or "numbers".

    Examples
    --------
    >>> kind_of_labels(np.array(["a"])), kind_of_labels(np.array([True])), kind_of_labels(np.array([0]))
    ('text', 'truth values', 'numbers')
    """
    return _kind(classes.tolist()[0])


def _kind(value: Any) -> str:
    return "text" if isinstance(value, str) else "truth values" if isinstance(value, bool) else "numbers"


def read_labels(y: ArrayLike, n: int) -> tuple[NDArray[np.generic], NDArray[np.intp]]:
    """Classes, sorted, and the index of the class of every query.

    Parameters
    ----------
    y : array of shape (n,)
        True labels.
    n : int
        Number of queries.

    Raises
    ------
    RouterInputError
        On another shape, or where a label is missing.

    Examples
    --------
    >>> classes, label = read_labels(["dog", "cat"], 2)
    >>> classes.tolist(), label.tolist()
    (['cat', 'dog'], [1, 0])
    """
    if y is None:
        raise RouterInputError("y is None, and experts= needs the true labels, shape (n,)")
    if np.ndim(y) == 2 and np.shape(y)[1] > 1:
        raise RouterInputError(
            f"y must be the true labels, shape (n,), where experts= is given, got shape {np.shape(y)}; a table of quality "
            "is read without experts="
        )
    hidden = np.ma.getmaskarray(y).ravel() if isinstance(y, np.ma.MaskedArray) else False
    labels = column_or_1d(y, warn=True)
    if len(labels) != n:
        raise RouterInputError(
            f"Found input variables with inconsistent numbers of samples: X has {n} rows, y has {len(labels)}"
        )
    missing = np.flatnonzero(hidden | np.array([is_missing(value) for value in labels.tolist()], dtype=bool))
    if len(missing):
        raise RouterInputError(
            f"y has {len(missing)} of {n} labels missing, the first in row {missing[0]}; leave such rows out"
        )
    check_classification_targets(labels)
    classes, label = np.unique(labels, return_inverse=True)
    return classes, label.ravel()


def _columns(experts: Any) -> tuple[list[str] | None, NDArray[np.object_]]:
    if isinstance(experts, ExpertAnswers):
        return experts.names.tolist(), experts.answer
    _check_distinct(experts)
    frame = nw.from_native(experts, eager_only=True, allow_series=True, pass_through=True)
    if isinstance(frame, nw.Series):
        if not frame.name:
            return None, _plain(frame.to_list())[:, None]
        frame = frame.to_frame()
    if isinstance(frame, nw.DataFrame):
        names = [str(name) for name in frame.columns]
        columns = [_plain(frame.get_column(name).to_list()) for name in frame.columns]
        return names, np.column_stack(columns) if columns else np.empty((len(frame), 0), dtype=object)
    if isinstance(experts, np.ma.MaskedArray):
        absent, experts = np.ma.getmaskarray(experts), np.asarray(experts, dtype=object).copy()
        experts[absent] = None
    given = np.asarray(experts, dtype=object)
    if given.ndim == 1:
        given = given[:, None]
    if given.ndim != 2:
        return None, given
    return None, _plain(given.ravel().tolist()).reshape(given.shape)


def _check_distinct(experts: Any) -> None:
    """Refuse a frame in which two experts have one name, which narwhals would not read."""
    names = getattr(experts, "column_names", getattr(experts, "columns", ()))  # pyarrow's `columns` are the data
    found = [str(name) for name in names]
    twice = [name for name in found if found.count(name) > 1]
    if twice:
        raise RouterInputError(f"experts names {twice[0]!r} {found.count(twice[0])} times: {found}")


def _plain(values: list[Any]) -> NDArray[np.object_]:
    """Python values, None for every kind of missing one."""
    column = np.empty(len(values), dtype=object)
    column[:] = [None if is_missing(value) else getattr(value, "item", lambda value=value: value)() for value in values]
    return column


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, or the missing value of a frame.

    Examples
    --------
    >>> is_missing(None), is_missing(float("nan")), is_missing("nan")
    (True, True, False)
    """
    if value is None:
        return True
    if isinstance(value, (float, np.floating)):
        return bool(np.isnan(value))
    return type(value).__name__ in ("NAType", "NaTType")
