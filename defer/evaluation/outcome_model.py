"""Modelled outcomes of all arms on all queries, never predicted by a model that saw the row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.linear_model import Ridge

from defer.estimators.base import BaseRouter, is_numeric_input, n_queries
from defer.estimators.pipeline import RouterPipeline
from defer.estimators.quality import QualityRouter
from defer.exceptions import EvaluationError
from defer.portfolios.outcomes import OutcomeLog, take_rows
from defer.portfolios.splitting import query_groups

__all__ = ["cross_fitted", "folds"]

Floats = NDArray[np.float64]


def folds(log: OutcomeLog, n_splits: int) -> NDArray[np.intp]:
    """Fold of every row, shape (n,); rows of one group share a fold."""
    groups = query_groups(log)
    count = int(groups.max()) + 1
    order = np.random.default_rng(0).permutation(count)
    return (order % min(n_splits, count))[groups]


def cross_fitted(model: Any, log: OutcomeLog, name: str, *, n_splits: int) -> Floats:
    """Cross-fitted table (n, m) of an outcome.

    Parameters
    ----------
    model : array of shape (n, m), regressor, router or None
        An array is taken as it is.  None: ridge regression where the queries are numbers, each arm's mean otherwise.
    log : OutcomeLog
    name : {"quality", "cost", "latency"}
    n_splits : int

    Raises
    ------
    EvaluationError
        If an array has the wrong shape or holds NaN.
    """
    n, m = log.quality.shape
    if model is not None and not hasattr(model, "fit"):
        table = np.asarray(model, dtype=np.float64)
        if table.shape != (n, m):
            raise EvaluationError(
                f"quality_model must have shape ({n}, {m}) or be an estimator, got shape {table.shape}"
            )
        if not np.isfinite(table).all():
            raise EvaluationError(f"quality_model has {int((~np.isfinite(table)).sum())} values that are not finite")
        return table
    fold = folds(log, n_splits)
    if fold.max() == 0:
        raise EvaluationError(
            "cross-fitting the outcome model needs at least 2 groups of queries; give quality_model= an array"
        )
    values = np.asarray(getattr(log, name))
    propensity = np.ones(n) if log.propensity is None else log.propensity
    table = _fold_means(values, 1.0 / propensity, fold)
    if model is None and (name != "quality" or log.X is None or not is_numeric_input(log.X)):
        return table
    router = (
        model if isinstance(model, (BaseRouter, RouterPipeline)) else QualityRouter(Ridge() if model is None else model)
    )
    for part in range(int(fold.max()) + 1):
        train, test = np.flatnonzero(fold != part), np.flatnonzero(fold == part)
        seen = np.flatnonzero(np.isfinite(values[train]).any(axis=0))
        if n_queries(log.X) and len(seen):
            fitted = clone(router).fit(
                take_rows(log.X, train), _named(values[train][:, seen], seen), propensity=propensity[train]
            )
            table[np.ix_(test, seen)] = fitted.predict_quality(take_rows(log.X, test))
    return table


def _fold_means(values: Floats, weight: Floats, fold: NDArray[np.intp]) -> Floats:
    """Weighted mean of each arm outside the row's own fold; the mean of all arms where an arm was not seen there."""
    seen = np.isfinite(values)
    mass = seen * weight[:, None]
    parts = int(fold.max()) + 1
    total = np.stack([(mass * np.where(seen, values, 0.0))[fold == part].sum(axis=0) for part in range(parts)])
    count = np.stack([mass[fold == part].sum(axis=0) for part in range(parts)])
    total, count = total.sum(axis=0) - total, count.sum(axis=0) - count
    overall = total.sum(axis=1, keepdims=True) / count.sum(axis=1, keepdims=True)
    means = np.where(count > 1e-12, total / np.where(count > 1e-12, count, 1.0), overall)
    return means[fold]


def _named(table: Floats, arms: NDArray[np.intp]) -> Any:
    from defer.portfolios.arm_matrix import ArmMatrix

    return ArmMatrix(table, arms=tuple(arms.tolist()))
