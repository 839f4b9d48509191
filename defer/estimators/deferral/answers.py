"""What experts answered, read once: labels of the classes of `y`, with gaps where an expert was not asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from defer.exceptions import RouterInputError

__all__ = ["OWN", "ExpertAnswers", "is_asked", "read_answers", "read_expert_table"]

OWN = "own"
"""Name of the arm that is the system's own prediction."""


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
    """

    classes: NDArray[np.generic]
    label: NDArray[np.intp]
    names: NDArray[np.generic]
    answer: NDArray[np.object_]
    right: NDArray[np.float64]

    def take(self, rows: NDArray[np.intp]) -> ExpertAnswers:
        """The same of some of the queries."""
        return replace(self, label=self.label[rows], answer=self.answer[rows], right=self.right[rows])


def read_answers(y: ArrayLike, experts: Any, *, n: int) -> ExpertAnswers:
    """Read and check labels and the answers of experts.

    Parameters
    ----------
    y : array of shape (n,)
        True labels.
    experts : array of shape (n,) or (n, J), or frame with one column per expert
        Answers, of the kind of `y`; NaN, None or a masked value where the expert was not asked.
    n : int
        Number of queries.

    Raises
    ------
    RouterInputError
        If shapes do not match, a label is missing, `y` holds one class, an expert was never asked or answers with labels
        of another type than those of `y`, or two experts have one name.

    Examples
    --------
    >>> answers = read_answers(["cat", "dog", "cat"], [["cat", None], ["cat", "dog"], [None, "dog"]], n=3)
    >>> answers.names.tolist(), answers.right.tolist()
    (['expert 0', 'expert 1'], [[1.0, nan], [0.0, 1.0], [nan, 0.0]])
    """
    classes, label = _read_labels(y, n)
    names, answer = read_expert_table(experts, n=n)
    asked = is_asked(answer)
    never = np.flatnonzero(~asked.any(axis=0))
    if len(never):
        raise RouterInputError(
            f"experts: {len(never)} of {len(names)} experts have no answer, the first is {str(names[never[0]])!r}; leave them out"
        )
    for column, name in enumerate(names):
        _check_kind(str(name), answer[asked[:, column], column], classes)
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
        found = ["expert"] if table.shape[1] == 1 else [f"expert {column}" for column in range(table.shape[1])]
        if names is not None and len(names) == len(found):
            found = names.tolist()
    twice = [name for name in found if found.count(name) > 1]
    if twice:
        raise RouterInputError(f"experts names {twice[0]!r} {found.count(twice[0])} times: {found}")
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


def _read_labels(y: ArrayLike, n: int) -> tuple[NDArray[np.generic], NDArray[np.intp]]:
    if y is None:
        raise RouterInputError("y is None, and experts= needs the true labels, shape (n,)")
    if np.ndim(y) == 2 and np.shape(y)[1] > 1:
        raise RouterInputError(
            f"y must be the true labels, shape (n,), where experts= is given, got shape {np.shape(y)}; a table of quality "
            "is fitted without experts="
        )
    labels = column_or_1d(y, warn=True)
    if len(labels) != n:
        raise RouterInputError(
            f"Found input variables with inconsistent numbers of samples: X has {n} rows, y has {len(labels)}"
        )
    missing = np.flatnonzero([_is_missing(value) for value in labels.tolist()])
    if len(missing):
        raise RouterInputError(
            f"y has {len(missing)} of {n} labels missing, the first in row {missing[0]}; leave such rows out"
        )
    check_classification_targets(labels)
    classes, label = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise RouterInputError(
            f"y holds one class, {classes[0].item() if hasattr(classes[0], 'item') else classes[0]!r}: there is nothing "
            "to classify and nothing to defer"
        )
    return classes, label.ravel()


def _columns(experts: Any) -> tuple[list[str] | None, NDArray[np.object_]]:
    if isinstance(experts, ExpertAnswers):
        return experts.names.tolist(), experts.answer
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


def _plain(values: list[Any]) -> NDArray[np.object_]:
    """Python values, None for every kind of missing one."""
    column = np.empty(len(values), dtype=object)
    column[:] = [
        None if _is_missing(value) else getattr(value, "item", lambda value=value: value)() for value in values
    ]
    return column


def _is_missing(value: Any) -> bool:
    if value is None:
        return True
    if isinstance(value, (float, np.floating)):
        return bool(np.isnan(value))
    return type(value).__name__ in ("NAType", "NaTType")


def _check_kind(name: str, answers: NDArray[np.object_], classes: NDArray[np.generic]) -> None:
    text = classes.dtype.kind in "UTSO" and isinstance(classes.tolist()[0], str)
    wrong = [value for value in answers.tolist() if isinstance(value, str) != text]
    if wrong:
        raise RouterInputError(
            f"experts: {len(wrong)} of {len(answers)} answers of {name!r} are of type {type(wrong[0]).__name__}, the first is "
            f"{wrong[0]!r}, and y holds {'text' if text else 'numbers'} such as {classes.tolist()[0]!r}"
        )
    known = set(classes.tolist())
    if not known & set(answers.tolist()):
        raise RouterInputError(
            f"experts: none of the {len(answers)} answers of {name!r} is a class of y, the first is {answers[0]!r}; the classes "
            f"are {classes.tolist()}"
        )
