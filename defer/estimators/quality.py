"""The everyday router: predict every arm's quality, take the arm of highest predicted utility.

Any scikit-learn regressor or classifier serves as the predictor; cost is predicted by its own regressor, or by the mean
of each arm.  Source: plug-in rule for a linear utility (CARROT, Somerstep et al. 2025; card x3).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone, is_classifier
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.utils import get_tags
from sklearn.utils.validation import has_fit_parameter

from defer.estimators.base import BaseRouter, n_queries
from defer.estimators.outcomes_input import Outcomes
from defer.exceptions import RouterInputError

__all__ = ["QualityRouter"]

Floats = NDArray[np.float64]


class QualityRouter(BaseRouter):
    """Predict every arm's quality and take the arm of highest predicted utility.

    Parameters
    ----------
    regressor : estimator, default=Ridge()
        Cloned once per arm; any scikit-learn regressor, or a classifier of quality with numeric classes, whose
        expected class is the prediction.  `Ridge` and `LinearRegression` are fitted to all arms at once where every
        outcome was observed: the solution is the same.
    cost_regressor : estimator, optional
        Cloned once per arm and fitted to the logged cost; predictions below 0 are raised to 0.  None predicts each
        arm's mean cost.
    cost_weight : float, default=0.0
        Quality given up per US dollar: utility = quality - cost_weight * cost.

    Attributes
    ----------
    arms_ : array of shape (m,)
        Names of the arms, in the order of the columns of `y`.
    regressors_ : list of m fitted estimators, or of one for all arms
    cost_regressors_ : list of m fitted estimators, or of one for all arms, or empty

    References
    ----------
    Somerstep et al. 2025, CARROT (plug-in with separate quality and cost regressors).

    Examples
    --------
    >>> X = np.arange(6.0).reshape(-1, 1)
    >>> quality = np.column_stack([X[:, 0] < 3, X[:, 0] >= 3]).astype(float)
    >>> QualityRouter().fit(X, quality).predict([[0.0], [5.0]]).tolist()
    [0, 1]
    """

    def __init__(self, regressor: Any = None, cost_regressor: Any = None, *, cost_weight: float = 0.0) -> None:
        self.regressor = regressor
        self.cost_regressor = cost_regressor
        self.cost_weight = cost_weight

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        bases = [self._base(), *([] if self.cost_regressor is None else [self.cost_regressor])]
        inputs = [get_tags(base).input_tags for base in bases]
        tags.input_tags.sparse = all(given.sparse for given in inputs)
        tags.input_tags.allow_nan = all(given.allow_nan for given in inputs)
        return tags

    def _base(self) -> Any:
        return Ridge() if self.regressor is None else self.regressor

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        base = self._base()
        if isinstance(base, type):
            raise TypeError(
                f"QualityRouter: regressor must be an estimator, got the class {base.__name__}; write {base.__name__}()"
            )
        if is_classifier(base) and not hasattr(base, "predict_proba"):
            raise RouterInputError(f"QualityRouter: the classifier {type(base).__name__} has no predict_proba")
        self.regressors_ = _fit_columns(base, X, outcomes.quality, outcomes.weight)
        self.cost_regressors_ = []
        if self.cost_regressor is not None and outcomes.cost is not None:
            self.cost_regressors_ = _fit_columns(self.cost_regressor, X, outcomes.cost, outcomes.weight)

    def _predict_quality(self, X: Any) -> Floats:
        return _predict_columns(self.regressors_, X, len(self.arms_))

    def _predict_cost(self, X: Any) -> Floats:
        if not self.cost_regressors_:
            return super()._predict_cost(X)
        return np.maximum(_predict_columns(self.cost_regressors_, X, len(self.arms_)), 0.0)


def _fit_columns(base: Any, X: Any, table: Floats, weight: Floats | None) -> list[Any]:
    if weight is not None and not has_fit_parameter(_last_step(base), "sample_weight"):
        raise RouterInputError(
            f"{type(base).__name__} takes no sample_weight, which weighted or partly observed outcomes need"
        )
    if isinstance(base, (Ridge, LinearRegression)) and np.isfinite(table).all():
        return [_fit_one(base, X, table, weight)]
    return [_fit_seen(base, X, table[:, arm], weight) for arm in range(table.shape[1])]


def _fit_seen(base: Any, X: Any, values: Floats, weight: Floats | None) -> Any:
    seen = np.isfinite(values)
    values, mass = values[seen], None if weight is None else weight[seen]
    if is_classifier(base) and len(np.unique(values if mass is None else values[mass > 0])) == 1:
        return _Constant(float(values[0] if mass is None else values[mass > 0][0]))
    if seen.all():
        return _fit_one(base, X, values, mass)
    return _fit_one(base, _take(X, seen), values, mass)


def _fit_one(base: Any, X: Any, values: Floats, weight: Floats | None) -> Any:
    if weight is None:
        return clone(base).fit(X, values)
    steps = getattr(base, "steps", None)
    name = f"{steps[-1][0]}__sample_weight" if steps else "sample_weight"
    return clone(base).fit(X, values, **{name: weight})


def _last_step(base: Any) -> Any:
    steps = getattr(base, "steps", None)
    return steps[-1][1] if steps else base


def _take(X: Any, rows: NDArray[np.bool_]) -> Any:
    if hasattr(X, "iloc"):
        return X.iloc[rows]
    if hasattr(X, "filter") and not isinstance(X, np.ndarray):
        return X.filter(rows)
    return X[rows] if hasattr(X, "shape") else [X[row] for row in np.flatnonzero(rows)]


def _predict_columns(fitted: list[Any], X: Any, m: int) -> Floats:
    columns = [_expected(estimator, X) for estimator in fitted]
    return columns[0].reshape(-1, m) if len(columns) == 1 else np.column_stack(columns)


def _expected(estimator: Any, X: Any) -> Floats:
    if is_classifier(estimator):
        return np.asarray(estimator.predict_proba(X) @ np.asarray(estimator.classes_, dtype=np.float64))
    return np.asarray(estimator.predict(X), dtype=np.float64)


class _Constant:
    """Stands in for a classifier of an arm whose observed quality never varied."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __sklearn_tags__(self) -> Any:
        return get_tags(Ridge())

    def predict(self, X: Any) -> Floats:
        return np.full(n_queries(X), self.value)
