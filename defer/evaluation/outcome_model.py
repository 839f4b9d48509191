"""Modelled outcomes of all arms on all queries, never predicted by a model that saw the row."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.linear_model import Ridge

from defer.estimators.base import BaseRouter
from defer.estimators.pipeline import RouterPipeline
from defer.estimators.quality import QualityRouter
from defer.estimators.queries import is_numeric_input
from defer.exceptions import EvaluationError
from defer.portfolios.arm_matrix import ArmMatrix
from defer.portfolios.outcomes import OutcomeLog, take_rows
from defer.portfolios.splitting import interval_groups, query_groups

__all__ = ["OutcomeModels", "cross_fitted", "folds"]

Floats = NDArray[np.float64]


class OutcomeModels:
    """Cross-fitted tables (n, m) of the outcomes of a log, and its groups, each worked out when it is first asked for.

    They do not depend on the policy, so that one object serves all policies that are valued on the log.

    Parameters
    ----------
    log : OutcomeLog
    quality_model : array of shape (n, m), regressor, router or None
        See `cross_fitted`; cost and latency are modelled by each arm's mean.
    n_splits : int, default=5

    Examples
    --------
    >>> log = OutcomeLog.from_arrays(None, [[1.0, np.nan], [np.nan, 0.0]] * 10, action=[0, 1] * 10, propensity=[0.5] * 20)
    >>> OutcomeModels(log)["quality"].shape
    (20, 2)
    """

    def __init__(self, log: OutcomeLog, quality_model: Any = None, *, n_splits: int = 5) -> None:
        self.log, self.quality_model, self.n_splits = log, quality_model, n_splits
        self._tables: dict[str, Floats] = {}

    @cached_property
    def groups(self) -> NDArray[np.intp] | None:
        """Groups of rows that are not independent, for intervals; None where all are."""
        return interval_groups(self.log)

    def __getitem__(self, name: str) -> Floats:
        if name not in self._tables:
            model = self.quality_model if name == "quality" else None
            self._tables[name] = cross_fitted(model, self.log, name, n_splits=self.n_splits)
        return self._tables[name]


def folds(log: OutcomeLog, n_splits: int) -> NDArray[np.intp]:
    """Fold of every row, shape (n,); rows of one cluster, or of equal text where there are no clusters, share a fold.

    Raises
    ------
    EvaluationError
        If `n_splits` is below 2.
    """
    if n_splits < 2:
        raise EvaluationError(f"n_splits must be at least 2, got {n_splits!r}")
    groups = query_groups(log)
    count = int(groups.max()) + 1
    order = np.random.default_rng(0).permutation(count)
    return (order % min(n_splits, count))[groups]


def cross_fitted(model: Any, log: OutcomeLog, name: str, *, n_splits: int) -> Floats:
    """Cross-fitted table (n, m) of an outcome.

    Fits and means weigh every logged outcome by one over its propensity.  Predictions are cut to the range of the outcomes
    that the model was fitted on: an outcome model may not leave the range of what it models, on which bounds rely.

    Parameters
    ----------
    model : array of shape (n, m), regressor, router or None
        An array is taken as it is.  None: for quality, ridge regression where the queries are numbers; each arm's mean
        otherwise.
    log : OutcomeLog
    name : {"quality", "cost", "latency"}
    n_splits : int
        Folds, at least 2.

    Raises
    ------
    EvaluationError
        If an array has the wrong shape or holds NaN, there is no query to fit a model on, or nothing to cross-fit with.

    Examples
    --------
    >>> log = OutcomeLog.from_arrays(None, [[1.0, np.nan], [np.nan, 0.0]] * 10, action=[0, 1] * 10, propensity=[0.5] * 20)
    >>> cross_fitted(None, log, "quality", n_splits=5)[0].tolist()
    [1.0, 0.0]
    """
    n, m = log.quality.shape
    if model is not None and not hasattr(model, "fit"):
        table = np.asarray(model, dtype=np.float64)
        if table.shape != (n, m):
            raise EvaluationError(
                f"quality_model must have shape ({n}, {m}) or be an estimator, got shape {table.shape}"
            )
        if not np.isfinite(table).all():
            wrong = np.argwhere(~np.isfinite(table))
            raise EvaluationError(
                f"quality_model has {len(wrong)} values that are not finite, the first in row {wrong[0, 0]}, arm {wrong[0, 1]}"
            )
        return table
    if model is not None and log.X is None:
        raise EvaluationError(
            "the log has no queries (X is None) to fit quality_model on; give an array of shape (n, m)"
        )
    fold = folds(log, n_splits)
    if fold.max() == 0:
        raise EvaluationError(
            "cross-fitting the outcome model needs at least 2 groups of queries; give quality_model= an array"
        )
    values = np.asarray(getattr(log, name))
    # Rows without a decision recorded all that is there.
    propensity = np.ones(n) if log.propensity is None else np.nan_to_num(log.propensity, nan=1.0)
    table = _fold_means(values, 1.0 / propensity, fold)
    if model is None and (name != "quality" or log.X is None or not is_numeric_input(log.X)):
        return table
    router = (
        model if isinstance(model, (BaseRouter, RouterPipeline)) else QualityRouter(Ridge() if model is None else model)
    )
    for part in range(int(fold.max()) + 1):
        train, test = np.flatnonzero(fold != part), np.flatnonzero(fold == part)
        known = values[train]
        seen = np.flatnonzero(np.isfinite(known).any(axis=0))
        fitted = clone(router).fit(
            take_rows(log.X, train), ArmMatrix(known[:, seen], arms=seen.tolist()), propensity=propensity[train]
        )
        predicted = np.asarray(fitted.predict_quality(take_rows(log.X, test)))
        if not np.isfinite(predicted).all():
            raise EvaluationError(
                f"quality_model predicts {int((~np.isfinite(predicted)).sum())} values that are not finite"
            )
        table[np.ix_(test, seen)] = predicted.clip(np.nanmin(known), np.nanmax(known))
    return table


def _fold_means(values: Floats, weight: Floats, fold: NDArray[np.intp]) -> Floats:
    """Weighted mean of each arm outside the row's own fold; the mean of all arms where an arm was not seen there."""
    parts, m = int(fold.max()) + 1, values.shape[1]
    rows, arms = np.nonzero(np.isfinite(values))
    cell = fold[rows] * m + arms
    count = np.bincount(cell, weights=weight[rows], minlength=parts * m).reshape(parts, m)
    total = np.bincount(cell, weights=weight[rows] * values[rows, arms], minlength=parts * m).reshape(parts, m)
    others = 1.0 - np.eye(parts)
    count_elsewhere, total_elsewhere = others @ count, others @ total
    overall = total_elsewhere.sum(axis=1, keepdims=True) / count_elsewhere.sum(axis=1, keepdims=True)
    return np.divide(total_elsewhere, count_elsewhere, out=np.tile(overall, (1, m)), where=count_elsewhere > 0)[fold]
