"""The everyday router: predict every arm's quality, take the arm of highest predicted utility.

Any scikit-learn regressor or classifier serves as the predictor; cost is predicted by its own regressor, or by the mean
of each arm.  Source: plug-in rule for a linear utility (CARROT, Somerstep et al. 2025).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, is_classifier
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.utils import _safe_indexing, get_tags

from defer.estimators.base import BaseRouter
from defer.estimators.inner_model import fit_clone, takes_weight
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.queries import n_queries
from defer.estimators.wide_ridge import WideRidge
from defer.exceptions import RouterInputError

__all__ = ["ExpectedGrade", "QualityRouter"]

Floats = NDArray[np.float64]

# More grades than this are a measurement, for which a classifier would need a class per value.
_MOST_GRADES = 32


class QualityRouter(BaseRouter):
    """Predict every arm's quality and take the arm of highest predicted utility.

    Parameters
    ----------
    regressor : estimator, default=Ridge()
        Any scikit-learn regressor, or a classifier of graded quality (such as 0, 0.5, 1), whose expected grade is the
        prediction.  Cloned once per arm and fitted where that arm was observed.  `Ridge` and `LinearRegression` are
        fitted to all arms at once where every outcome was observed: the solution is the same.
    cost_regressor : estimator, optional
        A regressor of the logged cost, in the same way; predictions below 0 are raised to 0.  None predicts each arm's
        mean cost; so does a fit without costs.
    cost_weight : float, default=0.0
        Quality given up per US dollar: utility = quality - cost_weight * cost.
    multi_output : bool, default=False
        Fit one regressor to all arms at once, which needs every outcome observed.  Regressors that only do that, such as
        `MultiOutputRegressor`, are always fitted so.

    Attributes
    ----------
    arms_ : array of shape (m,)
        Names of the arms, in the order of the columns of `y`.
    regressors_ : list of m fitted estimators, or of one for all arms
        A classifier stands in an `ExpectedGrade`.
    cost_regressors_ : list of m fitted estimators, or of one for all arms, or empty

    Notes
    -----
    Rows that were observed in part are weighted by inverse propensity, so the fit needs a regressor that takes
    ``sample_weight``.

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

    _hands_queries_on = True

    def __init__(
        self,
        regressor: Any = None,
        cost_regressor: Any = None,
        *,
        cost_weight: float = 0.0,
        multi_output: bool = False,
    ) -> None:
        self.regressor = regressor
        self.cost_regressor = cost_regressor
        self.cost_weight = cost_weight
        self.multi_output = multi_output

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        bases = [self._base(), *([] if self.cost_regressor is None else [self.cost_regressor])]
        inputs = [get_tags(base).input_tags for base in bases if not isinstance(base, type)]
        tags.input_tags.sparse = all(given.sparse for given in inputs)
        tags.input_tags.allow_nan = all(given.allow_nan for given in inputs)
        return tags

    def _base(self) -> Any:
        return Ridge() if self.regressor is None else self.regressor

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        arms, weight = outcomes.arms, outcomes.weight
        quality = _Columns("regressor", self._base(), outcomes.quality, arms, joint=self.multi_output)
        self.regressors_ = quality.fit(X, weight)
        self.cost_regressors_ = []
        if self.cost_regressor is not None and outcomes.cost is not None:
            cost = _Columns("cost_regressor", self.cost_regressor, outcomes.cost, arms, joint=self.multi_output)
            self.cost_regressors_ = cost.fit(X, weight)

    def _predict_quality(self, X: Any) -> Floats:
        return _predict_columns(self.regressors_, X, len(self.arms_))

    def _predict_cost(self, X: Any) -> Floats:
        if not self.cost_regressors_:
            return super()._predict_cost(X)
        return np.maximum(_predict_columns(self.cost_regressors_, X, len(self.arms_)), 0.0)


class ExpectedGrade(BaseEstimator):  # type: ignore[misc]
    """A fitted classifier of graded quality that predicts the expected grade.

    Parameters
    ----------
    classifier : fitted classifier or None
        Its classes are indices into `grades`.  None where only one grade was observed.
    grades : array of shape (g,)
        The grades that were observed, rising.

    Examples
    --------
    >>> ExpectedGrade(None, np.array([0.5])).predict([[1.0], [2.0]]).tolist()
    [0.5, 0.5]
    """

    def __init__(self, classifier: Any, grades: Floats) -> None:
        self.classifier = classifier
        self.grades = grades

    def predict(self, X: Any) -> Floats:
        """Expected grade, shape (n,)."""
        if self.classifier is None:
            return np.full(n_queries(X), self.grades[0])
        return np.asarray(self.classifier.predict_proba(X) @ self.grades[self.classifier.classes_])


class _Columns:
    """One estimator per column of a table, or one for all columns."""

    def __init__(self, role: str, base: Any, table: Floats, arms: NDArray[np.generic], *, joint: bool) -> None:
        if isinstance(base, type):
            raise TypeError(
                f"QualityRouter: {role} must be an estimator, got the class {base.__name__}; write {base.__name__}()"
            )
        if is_classifier(base) and not hasattr(base, "predict_proba"):
            raise RouterInputError(f"QualityRouter: the classifier {type(base).__name__} has no predict_proba")
        self.role, self.base, self.table, self.arms = role, base, table, arms
        only_joint = not get_tags(base).target_tags.single_output
        self.joint = only_joint or (joint and table.shape[1] > 1)
        gaps = np.argwhere(np.isnan(table))
        if self.joint and is_classifier(base):
            raise RouterInputError(
                f"QualityRouter: the classifier {type(base).__name__} cannot be fitted to all arms at once"
            )
        if self.joint and len(gaps):
            row, column = gaps[0]
            raise RouterInputError(
                f"QualityRouter: {role} {type(base).__name__} is fitted to all arms at once, which needs every outcome "
                f"observed; {len(gaps)} are not, the first in row {row}, arm {arms[column].item()!r}"
            )
        # For least squares with a common penalty the joint solution is the one of each column.
        if not self.joint and not len(gaps):
            self.joint = type(base) in (Ridge, WideRidge, LinearRegression)

    def fit(self, X: Any, weight: Floats | None) -> list[Any]:
        if weight is not None and not takes_weight(self.base):
            raise RouterInputError(
                f"QualityRouter: {self.role} {type(self.base).__name__} takes no sample_weight, which weighted or partly "
                "observed outcomes need"
            )
        if self.joint:
            rows = None if weight is None or (weight > 0).all() else np.flatnonzero(weight > 0)
            return [self._fit_rows(X, self.table, weight, rows)]
        return [self._fit_column(X, column, weight) for column in range(self.table.shape[1])]

    def _fit_column(self, X: Any, column: int, weight: Floats | None) -> Any:
        values = self.table[:, column]
        seen = np.isfinite(values) if weight is None else np.isfinite(values) & (weight > 0)
        rows = None if seen.all() else np.flatnonzero(seen)
        if not is_classifier(self.base):
            return self._fit_rows(X, values, weight, rows)
        grades = np.unique(values[seen])
        if len(grades) == 1:
            return ExpectedGrade(None, grades)
        if len(grades) > _MOST_GRADES:
            raise RouterInputError(
                f"QualityRouter: {self.role} {type(self.base).__name__} is a classifier, and arm "
                f"{self.arms[column].item()!r} has {len(grades)} different values; at most {_MOST_GRADES} grades are "
                "classified, so use a regressor"
            )
        return ExpectedGrade(self._fit_rows(X, np.searchsorted(grades, values), weight, rows), grades)

    def _fit_rows(self, X: Any, values: Any, weight: Floats | None, rows: NDArray[np.intp] | None) -> Any:
        if rows is not None:
            X, values, weight = _safe_indexing(X, rows), values[rows], None if weight is None else weight[rows]
        return fit_clone(self.base, X, values, weight)


def _predict_columns(fitted: list[Any], X: Any, m: int) -> Floats:
    columns = [np.asarray(estimator.predict(X), dtype=np.float64) for estimator in fitted]
    return columns[0].reshape(-1, m) if len(columns) == 1 else np.column_stack(columns)
