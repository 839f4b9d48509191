"""Quality of several sampled answers per query and arm, as `fit` of a router may be given it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defer.exceptions import RouterInputError
from defer.portfolios.arm_matrix import ArmMatrix

__all__ = ["SampledAnswers", "first_observed", "holds_samples", "mean_quality", "read_samples"]


@dataclass(frozen=True, eq=False)
class SampledAnswers:
    """Checked qualities of sampled answers.

    Attributes
    ----------
    samples : tuple of m arrays of shape (n, s_j)
        Of every arm, in the precision that was given; NaN = no such sample.
    mean : array of shape (n, m)
        Mean quality of what was sampled, NaN where nothing was; an `ArmMatrix` where the arms have names.
    """

    samples: tuple[NDArray[Any], ...]
    mean: Any


def holds_samples(y: Any) -> bool:
    """Whether `y` has several answers per query and arm: a mapping of arms, or a table of three dimensions.

    Examples
    --------
    >>> holds_samples(np.zeros((5, 2, 3))), holds_samples({"small": [0.5]}), holds_samples([[0.5, 1.0]])
    (True, True, False)
    """
    if isinstance(y, Mapping):
        return True
    if isinstance(y, (list, tuple)):
        try:
            return np.ndim(y) == 3
        except ValueError:  # ragged
            return False
    return isinstance(y, np.ndarray) and y.ndim == 3


def read_samples(y: Any) -> SampledAnswers:
    """Read and check sampled qualities.

    Parameters
    ----------
    y : array of shape (n, m, s), or mapping of arm name to array of shape (n,) or (n, s_j)
        NaN where there are fewer samples.

    Raises
    ------
    RouterInputError
        For anything but numbers, infinite ones, no arm, no sample, and arms with different numbers of queries.

    Examples
    --------
    >>> answers = read_samples({"small": [[0.5, 0.7]], "large": [1.0]})
    >>> answers.mean.arms, answers.mean.tolist()
    (('small', 'large'), [[0.6, 1.0]])
    """
    if isinstance(y, Mapping):
        names: list[Any] | None = list(y)
        tables = [_table(values, f"y[{name!r}]") for name, values in y.items()]
        if not tables:
            raise RouterInputError("y is a mapping without arms; it needs one entry per arm, arm name to qualities")
    else:
        names, cube = None, _numbers(y, "y")
        if 0 in cube.shape[1:]:
            raise RouterInputError(f"y of shape {cube.shape} has no arm or no sample; it needs shape (n, m, samples)")
        tables = [_table(cube[:, arm], f"y[:, {arm}]") for arm in range(cube.shape[1])]
    rows = [len(table) for table in tables]
    if len(set(rows)) > 1:
        odd = next(arm for arm, count in enumerate(rows) if count != rows[0])
        raise RouterInputError(
            f"y: every arm needs the qualities of the same queries, and arm {(names or range(odd + 1))[odd]!r} has {rows[odd]} "
            f"rows where the first has {rows[0]}"
        )
    mean = np.column_stack([_row_means(table) for table in tables])
    return SampledAnswers(tuple(tables), mean if names is None else ArmMatrix(mean, names))


def mean_quality(y: Any) -> Any:
    """`y` as a table of one quality per query and arm: the mean over the answers, where there are several.

    Examples
    --------
    >>> mean_quality(np.array([[[0.5, 1.0], [0.0, np.nan]]])).tolist()
    [[0.75, 0.0]]
    """
    return read_samples(y).mean if holds_samples(y) else y


def first_observed(table: NDArray[Any]) -> NDArray[Any]:
    """First sample of every row that is there, shape (n, 1); NaN where there is none.

    Examples
    --------
    >>> first_observed(np.array([[np.nan, 0.5], [1.0, 0.0]])).tolist()
    [[0.5], [1.0]]
    """
    return np.take_along_axis(table, np.isfinite(table).argmax(axis=1)[:, None], axis=1)


def _table(values: Any, name: str) -> NDArray[Any]:
    table = _numbers(values, name)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or table.shape[1] == 0:
        raise RouterInputError(f"{name} must have shape (n,) or (n, samples), got {table.shape}")
    wrong = np.argwhere(np.isinf(table))
    if len(wrong):
        raise RouterInputError(
            f"{name}: {len(wrong)} values are infinite, the first in row {wrong[0][0]}, sample {wrong[0][1]}; NaN means that "
            "there is no sample"
        )
    return table


def _numbers(values: Any, name: str) -> NDArray[Any]:
    try:
        table = np.asarray(values)
    except ValueError:
        raise RouterInputError(f"{name} must be a table with as many samples in every row; fill it with NaN") from None
    if table.dtype.kind not in "biuf":
        raise RouterInputError(f"{name} must be numbers, got dtype {table.dtype}")
    return table if table.dtype == np.float32 else table.astype(np.float64)


def _row_means(table: NDArray[Any]) -> NDArray[np.float64]:
    seen = np.isfinite(table)
    count = seen.sum(axis=1)
    total = np.where(seen, table, 0.0).sum(axis=1, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
