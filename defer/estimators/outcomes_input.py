"""What `fit` and `score` are given about outcomes, checked once: quality, cost, propensity, weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from defer.exceptions import RouterInputError

__all__ = ["LARGEST_OUTCOME", "Outcomes", "names_arms", "read_outcomes", "read_table", "read_weight"]

# Sums of squares of outcomes up to it, and products of three of them, are finite in double precision.
LARGEST_OUTCOME = 1e100


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
        1 in the rows observed in full or not at all; None where no row is weighted by it.
    cell_propensity : array of shape (n, m) or None
        Probability with which each outcome by itself was observed, where the outcomes of a row come one by one, as the
        answers of experts do.  Then `weight` holds sample weights alone.
    """

    arms: NDArray[np.generic]
    quality: NDArray[np.float64]
    cost: NDArray[np.float64] | None
    weight: NDArray[np.float64] | None
    weighting: str
    sample_weight: NDArray[np.float64] | None
    propensity: NDArray[np.float64] | None = None
    cell_propensity: NDArray[np.float64] | None = None

    def of_rows(self, rows: NDArray[np.intp]) -> Outcomes:
        """The outcomes of some of the queries.

        Examples
        --------
        >>> read_outcomes(["b", "a"], n=2).of_rows(np.array([1])).quality
        array([[1., 0.]])
        """
        tables = ("quality", "cost", "weight", "sample_weight", "propensity", "cell_propensity")
        given: dict[str, Any] = {name: getattr(self, name) for name in tables}
        kept: dict[str, Any] = {name: None if table is None else table[rows] for name, table in given.items()}
        return replace(self, **kept)


def read_outcomes(
    y: ArrayLike,
    *,
    n: int,
    cost: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    every_arm_seen: bool = True,
) -> Outcomes:
    """Read and check the outcome arguments of a router.

    Fitting needs an observed outcome of every arm; scoring (``every_arm_seen=False``) those of the arms taken.

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
    weights = read_weight(sample_weight, n=n)
    if every_arm_seen:
        _check_every_arm_seen(quality, arms, weights, name="y", what="quality")
    costs = None if cost is None else _read_cost(cost, arms, quality)
    if costs is not None and every_arm_seen:
        _check_every_arm_seen(costs, arms, weights, name="cost", what="cost")
    seen = np.isfinite(quality)
    partial: NDArray[np.bool_] = np.any(seen, axis=1) & ~np.all(seen, axis=1)
    chance = None if propensity is None else _read_propensity(propensity, partial)
    if seen.all():
        return Outcomes(arms, quality, costs, weights, "none", weights)
    if chance is None:
        return Outcomes(arms, quality, costs, weights, "missing at random", weights)
    weight = 1.0 / chance if weights is None else weights / chance
    return Outcomes(arms, quality, costs, weight, "inverse propensity", weights, chance)


def read_table(values: ArrayLike, *, name: str) -> tuple[NDArray[np.generic] | None, NDArray[np.float64]]:
    """Read an (n, m) table of numbers; returns its column names, where it has any, and a float array.

    Raises
    ------
    RouterInputError
        If it does not have two dimensions, a column is not numeric, two columns have the same name, or it holds values that
        are infinite or beyond 1e100.
    """
    _check_distinct_columns(values, name)
    frame = nw.from_native(values, eager_only=True, pass_through=True)
    if isinstance(frame, nw.DataFrame):
        columns = [frame.get_column(column) for column in frame.columns]
        for series in columns:
            if not (series.dtype.is_numeric() or series.dtype == nw.Boolean):
                raise RouterInputError(f"{name}: column {series.name!r} is of type {series.dtype}, but must be numeric")
        arms: NDArray[np.generic] | None = np.asarray(frame.columns)
        table = np.column_stack([series.cast(nw.Float64()).to_numpy() for series in columns])
    else:
        given = getattr(values, "arms", None)
        arms = None if given is None else np.asarray(given)
        table = _numbers(values, name)
        if table.ndim != 2:
            raise RouterInputError(
                f"{name} must be a table of shape (n, m), one column per arm, got shape {table.shape}"
            )
    _check_size(table, arms, name)
    return arms, table


def names_arms(y: Any) -> bool:
    """Whether a table of outcomes names its arms: a frame by its columns, an `ArmMatrix` by its ``arms``."""
    return (hasattr(y, "columns") and hasattr(y, "shape")) or getattr(y, "arms", None) is not None


def read_weight(sample_weight: ArrayLike | None, *, n: int) -> NDArray[np.float64] | None:
    """Check sample weights: shape (n,), finite, not negative, not all zero."""
    if sample_weight is None:
        return None
    weight = _numbers(sample_weight, "sample_weight")
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


def _check_size(table: NDArray[np.float64], arms: NDArray[np.generic] | None, name: str) -> None:
    for wrong, what, advice in (
        (np.isinf(table), "infinite", "NaN means not observed"),
        (np.abs(table) > LARGEST_OUTCOME, f"beyond {LARGEST_OUTCOME:g}", "divide the whole table by one number"),
    ):
        places = np.argwhere(wrong)
        if len(places):
            row, column = places[0]
            label = int(column) if arms is None else arms[column].item()
            value = "" if np.isinf(table[row, column]) else f" ({table[row, column]:g})"
            raise RouterInputError(
                f"{name}: {len(places)} values are {what}, the first in row {row}, arm {label!r}{value}; {advice}"
            )


def _check_distinct_columns(values: Any, name: str) -> None:
    names = getattr(values, "columns", getattr(values, "arms", None))
    if names is None or not hasattr(names, "__iter__"):
        return
    names = list(getattr(values, "column_names", names))  # pyarrow's `columns` are the data
    twice = [arm for arm in names if names.count(arm) > 1]
    if twice:
        raise RouterInputError(f"{name} names the arm {twice[0]!r} {names.count(twice[0])} times: {names}")


def _numbers(values: Any, name: str) -> NDArray[np.float64]:
    try:
        given = np.asarray(values)
        # NumPy would read "0.5" as a number: a column of text is a mistake in the log.
        if given.dtype.kind in "USTO" and (
            given.dtype.kind != "O" or any(isinstance(cell, str) for cell in given.flat)
        ):
            first = next(cell for cell in given.flat if isinstance(cell, str))
            raise RouterInputError(f"{name} must be numbers, and it holds text, first {str(first)!r}")
        return given.astype(np.float64)
    except (TypeError, ValueError) as error:
        if isinstance(error, RouterInputError):
            raise
        raise RouterInputError(f"{name} must be numbers: {error}") from None


def _check_every_arm_seen(
    table: NDArray[np.float64], arms: NDArray[np.generic], weight: NDArray[np.float64] | None, *, name: str, what: str
) -> None:
    seen = np.isfinite(table) if weight is None else np.isfinite(table) & (weight > 0)[:, None]
    empty = np.flatnonzero(~seen.any(axis=0))
    if len(empty):
        counted = "" if weight is None else " in a row of positive weight"
        raise RouterInputError(
            f"{name}: {len(empty)} of {len(arms)} arms have no observed {what}{counted}, the first is "
            f"{arms[empty[0]].item()!r}; leave them out"
        )


def _read_quality(y: ArrayLike) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    if y is None:
        raise RouterInputError("a router requires y to be passed, but the target y is None")
    named = names_arms(y)
    y = y if named else np.asarray(y)
    if named or (np.ndim(y) == 2 and np.shape(y)[1] > 1):
        arms, quality = read_table(y, name="y")
        return np.arange(quality.shape[1]) if arms is None else arms, quality
    labels = column_or_1d(y, warn=True)
    if labels.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(labels))
        if len(bad):
            raise RouterInputError(f"Input y contains NaN or infinity in {len(bad)} rows, the first is row {bad[0]}")
    if np.ndim(y) == 2 and type_of_target(labels).startswith("continuous"):
        raise RouterInputError(
            "Unknown label type: y has one column without a name, which is read as labels, and holds real numbers; quality of "
            "a single arm must name it: a frame with one column, or OutcomeLog.quality"
        )
    check_classification_targets(labels)
    arms, index = np.unique(labels, return_inverse=True)
    return arms, np.eye(len(arms))[index.ravel()]


def _read_cost(cost: ArrayLike, arms: NDArray[np.generic], quality: NDArray[np.float64]) -> NDArray[np.float64]:
    names, table = read_table(cost, name="cost")
    if names is not None and names.tolist() != arms.tolist():
        given, wanted = names.tolist(), arms.tolist()
        extra = [name for name in given if name not in wanted]
        lacking = [arm for arm in wanted if arm not in given]
        if extra or lacking:
            raise RouterInputError(f"cost and y must have the same arms: only in cost {extra}, only in y {lacking}")
        table = table[:, [given.index(arm) for arm in wanted]]
    if table.shape != quality.shape:
        raise RouterInputError(f"cost must have the shape of y, {quality.shape}, got {table.shape}")
    wrong = np.argwhere(table < 0)
    if len(wrong):
        row, column = wrong[0]
        raise RouterInputError(
            f"cost: {len(wrong)} values are below 0, the first in row {row}, arm {arms[column].item()!r} ({table[row, column]:g}); "
            "a rebate belongs into the quality of that arm"
        )
    return table


def _read_propensity(propensity: ArrayLike, partial: NDArray[np.bool_]) -> NDArray[np.float64]:
    values = _numbers(propensity, "propensity")
    if values.shape != partial.shape:
        raise RouterInputError(f"propensity must have shape {partial.shape}, got {values.shape}")
    wrong = np.flatnonzero(partial & ~((values > 0) & (values <= 1)))
    if len(wrong):
        raise RouterInputError(
            f"propensity: {len(wrong)} partly observed rows have a value outside (0, 1], the first is row {wrong[0]} "
            f"({values[wrong[0]]:g})"
        )
    return np.where(partial, values, 1.0)
