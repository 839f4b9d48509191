"""What `fit` and `score` are given about outcomes, checked once: quality, cost, propensity, weights."""

from __future__ import annotations

from dataclasses import dataclass

import narwhals as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from defer.exceptions import RouterInputError

__all__ = ["Outcomes", "read_outcomes", "read_table", "read_weight"]


@dataclass(frozen=True)
class Outcomes:
    """Checked outcomes of n queries on m arms.

    Attributes
    ----------
    arms : array of shape (m,)
    quality : array of shape (n, m), NaN = not observed
    cost : array of shape (n, m) or None
    weight : array of shape (n,) or None
        Sample weights times inverse propensities of the partly observed rows; None = all equal.
    weighting : {"none", "inverse propensity", "missing at random"}
    sample_weight : array of shape (n,) or None
        Sample weights alone.
    propensity : array of shape (n,) or None
        1 in the rows observed in full; None where no row is weighted by it.
    """

    arms: NDArray[np.generic]
    quality: NDArray[np.float64]
    cost: NDArray[np.float64] | None
    weight: NDArray[np.float64] | None
    weighting: str
    sample_weight: NDArray[np.float64] | None
    propensity: NDArray[np.float64] | None = None


def read_outcomes(
    y: ArrayLike,
    *,
    n: int,
    cost: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> Outcomes:
    """Read and check the outcome arguments of a router.

    Raises
    ------
    RouterInputError
        Names the argument, the column, the count and the first offender.

    Examples
    --------
    >>> read_outcomes(["b", "a"], n=2).quality
    array([[0., 1.],
           [1., 0.]])
    """
    arms, quality = _read_quality(y)
    if len(quality) != n:
        raise RouterInputError(
            f"Found input variables with inconsistent numbers of samples: X has {n} rows, y has {len(quality)}"
        )
    empty = np.flatnonzero(~np.isfinite(quality).any(axis=0))
    if len(empty):
        raise RouterInputError(
            f"y: {len(empty)} of {len(arms)} arms have no observed quality, the first is {arms[empty[0]]!r}; leave them out"
        )
    costs = None if cost is None else _read_cost(cost, arms, quality)
    weights = read_weight(sample_weight, n=n)
    partial: NDArray[np.bool_] = np.any(np.isnan(quality), axis=1)
    if not partial.any():
        return Outcomes(arms, quality, costs, weights, "none", weights)
    if propensity is None:
        return Outcomes(arms, quality, costs, weights, "missing at random", weights)
    chance = _read_propensity(propensity, partial)
    weight = 1.0 / chance if weights is None else weights / chance
    return Outcomes(arms, quality, costs, weight, "inverse propensity", weights, chance)


def read_table(values: ArrayLike, *, name: str) -> tuple[NDArray[np.generic] | None, NDArray[np.float64]]:
    """Read an (n, m) table of numbers; returns its column names, where it has any, and a float array.

    Raises
    ------
    RouterInputError
        If a column is not numeric, or the table holds infinite values.
    """
    frame = nw.from_native(values, eager_only=True, pass_through=True)
    if isinstance(frame, nw.DataFrame):
        for column, dtype in frame.schema.items():
            if not (dtype.is_numeric() or dtype == nw.Boolean):
                raise RouterInputError(f"{name}: column {column!r} is of type {dtype}, but must be numeric")
        arms: NDArray[np.generic] | None = np.asarray(frame.columns)
        table = np.column_stack([frame[column].cast(nw.Float64).to_numpy() for column in frame.columns])
    else:
        given = getattr(values, "arms", None)
        arms = None if given is None else np.asarray(given)
        try:
            table = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise RouterInputError(f"{name} must be a table of numbers: {error}") from None
    wrong = np.argwhere(np.isinf(table))
    if len(wrong):
        row, column = wrong[0]
        label = column if arms is None else arms[column]
        raise RouterInputError(
            f"{name}: {len(wrong)} values are infinite, the first in row {row}, arm {label!r}; NaN means not observed"
        )
    return arms, table


def read_weight(sample_weight: ArrayLike | None, *, n: int) -> NDArray[np.float64] | None:
    """Check sample weights: shape (n,), finite, not negative, not all zero."""
    if sample_weight is None:
        return None
    weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != (n,):
        raise RouterInputError(f"sample_weight must have shape ({n},), got {weight.shape}")
    wrong = np.flatnonzero(~(np.isfinite(weight) & (weight >= 0)))
    if len(wrong):
        raise RouterInputError(
            f"sample_weight has {len(wrong)} values that are negative or not finite, the first in row {wrong[0]} ({weight[wrong[0]]})"
        )
    if not weight.any():
        raise RouterInputError("sample_weight is zero in every row")
    return weight


def _read_quality(y: ArrayLike) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    if y is None:
        raise RouterInputError("a router requires y to be passed, but the target y is None")
    frame = nw.from_native(y, eager_only=True, pass_through=True)
    named = isinstance(frame, nw.DataFrame) or getattr(y, "arms", None) is not None
    if isinstance(frame, nw.Series):
        y = frame.to_numpy()
    elif not named:
        y = np.asarray(y)
    if named or (np.ndim(y) == 2 and np.shape(y)[1] > 1):
        arms, quality = read_table(y, name="y")
        if arms is None:
            arms = np.arange(quality.shape[1])
        if len(np.unique(arms)) < len(arms):
            raise RouterInputError(f"y names the same arm twice: {list(arms)}")
        return arms, quality
    labels = column_or_1d(y, warn=True)
    if labels.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(labels))
        if len(bad):
            raise RouterInputError(f"Input y contains NaN or infinity in {len(bad)} rows, the first is row {bad[0]}")
    check_classification_targets(labels)
    arms, index = np.unique(labels, return_inverse=True)
    return arms, np.eye(len(arms))[index.ravel()]


def _read_cost(cost: ArrayLike, arms: NDArray[np.generic], quality: NDArray[np.float64]) -> NDArray[np.float64]:
    names, table = read_table(cost, name="cost")
    if names is not None and list(names) != list(arms):
        extra = [name for name in names if name not in list(arms)]
        lacking = [arm for arm in arms if arm not in list(names)]
        if extra or lacking:
            raise RouterInputError(f"cost and y must have the same arms: only in cost {extra}, only in y {lacking}")
        table = table[:, [list(names).index(arm) for arm in arms]]
    if table.shape != quality.shape:
        raise RouterInputError(f"cost must have the shape of y, {quality.shape}, got {table.shape}")
    wrong = np.argwhere(table < 0)
    if len(wrong):
        row, column = wrong[0]
        raise RouterInputError(
            f"cost: {len(wrong)} values are below 0, the first in row {row}, arm {arms[column]!r} ({table[row, column]:g})"
        )
    empty = np.flatnonzero(~np.isfinite(table).any(axis=0))
    if len(empty):
        raise RouterInputError(
            f"cost: {len(empty)} of {len(arms)} arms have no observed cost, the first is {arms[empty[0]]!r}"
        )
    return table


def _read_propensity(propensity: ArrayLike, partial: NDArray[np.bool_]) -> NDArray[np.float64]:
    values = np.asarray(propensity, dtype=np.float64)
    if values.shape != partial.shape:
        raise RouterInputError(f"propensity must have shape {partial.shape}, got {values.shape}")
    wrong = np.flatnonzero(partial & ~((values > 0) & (values <= 1)))
    if len(wrong):
        raise RouterInputError(
            f"propensity: {len(wrong)} partly observed rows have a value outside (0, 1], the first is row {wrong[0]} "
            f"({values[wrong[0]]:g})"
        )
    return np.where(partial, values, 1.0)
