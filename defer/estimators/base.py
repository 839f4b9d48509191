"""The contract of every router: fit on logged outcomes, predict quality and cost of each arm, route under a limit.

A router is a scikit-learn classifier whose classes are the arms; labels as `y` are read as one-hot quality.
A subclass writes `_fit` and `_predict_quality`, and `_predict_cost` where it models cost.
"""

from __future__ import annotations

import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from defer.estimators.outcomes_input import Outcomes, read_outcomes
from defer.estimators.queries import NO_QUERIES, check_batch, is_numeric_input, is_plain_table, n_queries
from defer.estimators.routing import Routing
from defer.exceptions import MissingPropensityWarning, RouterInputError
from defer.portfolios.assignment import Choice, best_arm, choose
from defer.portfolios.limits import Budget, Limit, QualityTarget

__all__ = ["BaseRouter", "as_generator", "at_cost_weight", "check_cost_weight", "column_means"]

Floats = NDArray[np.float64]


class BaseRouter(ClassifierMixin, BaseEstimator, metaclass=ABCMeta):  # type: ignore[misc]
    """Base of all routers; validates, breaks ties and applies limits.

    Attributes
    ----------
    arms_ : array of shape (m,)
        Names of the arms, in the order of the columns of `y`.
    has_cost_ : bool
        Whether costs were given to `fit`.
    weighting_ : {"none", "inverse propensity", "missing at random"}
        How partly observed outcomes were treated.
    mean_cost_ : array of shape (m,)
        Mean cost of every arm over the training queries on which it was observed, weighted; zeros without costs.
    """

    # Logged outcomes travel with the queries: a router asks for them without being told to.
    __metadata_request__fit = {"cost": True, "propensity": True, "sample_weight": True}  # noqa: RUF012
    __metadata_request__score = {"cost": True, "propensity": True, "sample_weight": True}  # noqa: RUF012

    cost_weight: float = 0.0

    arms_: NDArray[np.generic]
    has_cost_: bool
    weighting_: str
    mean_cost_: Floats

    # True where inner estimators get the queries as they came (frames stay frames) and check their values themselves.
    _hands_queries_on = False
    # True where `fit` reads several answers per query and arm.
    _takes_samples = False

    @abstractmethod
    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        """Learn from checked input."""

    @abstractmethod
    def _predict_quality(self, X: Any) -> Floats:
        """Quality of every arm, shape (n, m)."""

    def _predict_cost(self, X: Any) -> Floats:
        """Cost of every arm, shape (n, m); here the mean over the training queries."""
        return np.broadcast_to(self.mean_cost_, (n_queries(X), len(self.arms_)))

    def fit(
        self,
        X: Any,
        y: ArrayLike,
        *,
        cost: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Fit on logged outcomes.

        Parameters
        ----------
        X : array, sparse matrix, frame or list of str, n rows
            Queries.
        y : array or frame of shape (n, m), or array of shape (n,)
            Quality of every arm, NaN where it was not observed; the columns of a frame name the arms.  Or labels of
            the arm that should be taken.
        cost : array or frame of shape (n, m), optional
            US dollars per query.
        propensity : array of shape (n,), optional
            Probability with which the logging policy took the logged arm.  Rows that were observed in part are
            weighted by its inverse; rows observed in full ignore it.
        sample_weight : array of shape (n,), optional
            A weight of k is worth k equal rows.

        Returns
        -------
        self

        Raises
        ------
        RouterInputError
            On shapes that do not match, an arm without any observed quality, negative costs, infinite values, text where
            numbers belong, or propensities outside (0, 1].

        Warns
        -----
        MissingPropensityWarning
            If `y` is a bandit log (one observed arm a row) and no propensity is given.
        """
        X = self._check_queries(X, reset=True)
        outcomes = read_outcomes(y, n=n_queries(X), cost=cost, propensity=propensity, sample_weight=sample_weight)
        return self._fit_outcomes(X, outcomes)

    def _fit_outcomes(
        self, X: Any, outcomes: Outcomes, *, learn: Callable[[Any, Outcomes], None] | None = None
    ) -> Self:
        """Learn from checked queries and outcomes, by `_fit` or as told, and leave no half-fitted router behind."""
        check_cost_weight(self)
        if outcomes.weighting == "missing at random" and (np.isfinite(outcomes.quality).sum(axis=1) <= 1).all():
            warnings.warn(
                "y is a bandit log (at most one observed arm in every row) without propensity: outcomes are read as "
                "missing at random; pass propensity= if the arm depended on the query",
                MissingPropensityWarning,
                stacklevel=3,
            )
        self.arms_ = outcomes.arms
        self.has_cost_ = outcomes.cost is not None
        self.weighting_ = outcomes.weighting
        self.mean_cost_ = column_means(outcomes.cost, outcomes.weight, len(self.arms_))
        try:
            (learn or self._fit)(X, outcomes)
        except BaseException:
            del self.arms_  # half of an old and half of a new fit must not pass for a fitted router
            raise
        return self

    @property
    def classes_(self) -> NDArray[np.generic]:
        """The arms, under scikit-learn's name for classes."""
        return self.arms_

    def predict_quality(self, X: Any) -> Floats:
        """Predicted quality of every arm, shape (n, m)."""
        return self._predict_quality(self._check_fitted_queries(X))

    def predict_cost(self, X: Any) -> Floats:
        """Predicted cost of every arm in US dollars, shape (n, m); zeros where `fit` was given no cost."""
        return np.array(self._predict_cost(self._check_fitted_queries(X)))

    def predict_utility(self, X: Any) -> Floats:
        """Predicted quality - cost_weight * cost, shape (n, m)."""
        return self._utility(*self._predict(X))

    def decision_function(self, X: Any) -> Floats:
        """Utility in scikit-learn's convention: (n, m), or the difference (n,) where there are two arms."""
        utility = self.predict_utility(X)
        if utility.shape[1] == 2:
            return utility[:, 1] - utility[:, 0]
        return utility[:, 0] if utility.shape[1] == 1 else utility

    def predict(self, X: Any) -> NDArray[np.generic]:
        """Name of the arm of highest utility, shape (n,); ties go to the cheaper arm, then to the lower index."""
        quality, cost = self._predict(X)
        return self.arms_[best_arm(self._utility(quality, cost), cost)]

    def route(self, X: Any, *, limit: Limit | None = None, random_state: Any = None) -> Routing:
        """Route a batch of queries.

        Parameters
        ----------
        X : n queries, as for `fit`
        limit : Limit, optional
            Holds for this batch: a budget and shares in expectation over the randomised group, capacities on every
            draw.  Without one every query takes its arm of highest utility.
        random_state : int, Generator, RandomState instance or None
            Draws the randomised group, if the limit needs one.

        Returns
        -------
        Routing

        Raises
        ------
        InfeasibleLimitError
            If no routing satisfies the limit; says what the nearest feasible one is.
        RouterInputError
            If a budget is asked of a router fitted without costs.
        """
        check_is_fitted(self, "arms_")
        if isinstance(limit, (Budget, QualityTarget)) and not self.has_cost_:
            raise RouterInputError(
                f"{type(limit).__name__} needs costs, and this {type(self).__name__} was fitted without cost="
            )
        quality, cost = self._predict(X)
        utility = self._utility(quality, cost) if limit is None else self._utility_under_limit(quality, cost)
        choice = self._choose(utility, quality, cost, limit)
        arm, propensity = choice.draw(as_generator(random_state))
        return Routing(self.arms_, arm, propensity, quality, cost, utility, choice, limit)

    def score(
        self,
        X: Any,
        y: ArrayLike,
        *,
        cost: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Mean realised utility of the arms that `predict` takes.

        On partly observed outcomes it is the self-normalised inverse-propensity estimate.  For labels as `y` and
        without cost it is the accuracy.
        """
        from defer.estimators.scoring import realised_utility

        return realised_utility(
            y, self.predict(X), arms=self.arms_, cost=cost, propensity=propensity,
            sample_weight=sample_weight, cost_weight=self._own_cost_weight,
        )  # fmt: skip

    def _choose(self, utility: Floats, quality: Floats, cost: Floats, limit: Limit | None) -> Choice:
        return choose(utility, quality, cost, limit, arms=self.arms_.tolist())

    def _utility(self, quality: Floats, cost: Floats) -> Floats:
        self._check_own_cost_weight()
        return at_cost_weight(quality, cost, self.cost_weight)

    def _utility_under_limit(self, quality: Floats, cost: Floats) -> Floats:
        """What is maximised where the caller sets the limit."""
        self._check_own_cost_weight()
        return at_cost_weight(quality, cost, self._own_cost_weight)

    def _check_own_cost_weight(self) -> None:
        """Refuse to decide at a cost weight that `fit` would refuse: it may have been set since."""
        check_cost_weight(self)

    @property
    def _own_cost_weight(self) -> float:
        """The cost weight that the user set; a fitted operating point may add to it."""
        return float(self.cost_weight)

    def _predict(self, X: Any) -> tuple[Floats, Floats]:
        X = self._check_fitted_queries(X)
        return self._predict_quality(X), self._predict_cost(X)

    def _check_fitted_queries(self, X: Any) -> Any:
        check_is_fitted(self, "arms_")
        return self._check_queries(X, reset=False)

    def _check_queries(self, X: Any, *, reset: bool) -> Any:
        check_batch(X)
        if self._hands_queries_on and is_plain_table(X):
            return validate_data(self, X, skip_check_array=True, reset=reset)
        if is_numeric_input(X):
            tags = self.__sklearn_tags__().input_tags
            finite: bool | str = "allow-nan" if tags.allow_nan else True
            return validate_data(
                self, X, accept_sparse="csr" if tags.sparse else False, ensure_all_finite=finite, reset=reset
            )
        if n_queries(X) == 0:
            raise RouterInputError(NO_QUERIES)
        if reset:
            for name in ("n_features_in_", "feature_names_in_"):
                if hasattr(self, name):
                    delattr(self, name)
        return X


def check_cost_weight(router: Any) -> None:
    """Refuse a router whose cost weight is no finite number >= 0."""
    weight = router.cost_weight
    if not isinstance(weight, Real) or not 0.0 <= float(weight) < np.inf:
        raise RouterInputError(f"{type(router).__name__}: cost_weight must be a finite number >= 0, got {weight!r}")


def at_cost_weight(quality: Floats, cost: Floats, weight: float) -> Floats:
    """quality - weight * cost; where the cost of an arm is the same for all queries it is scaled once."""
    if weight == 0.0:
        return quality
    return quality - weight * (cost[:1] if cost.ndim == 2 and cost.strides[0] == 0 else cost)


def column_means(table: Floats | None, weight: Floats | None, m: int) -> Floats:
    """Weighted mean of what was observed of every arm, shape (m,), within the range of what was observed.

    Parameters
    ----------
    table : array of shape (n, m) or None
        NaN = not observed; None gives zeros.
    weight : array of shape (n,) or None
    m : int
        Number of arms.

    Examples
    --------
    >>> column_means(np.array([[1.0, np.nan], [3.0, 0.1]]), None, 2).tolist()
    [2.0, 0.1]
    """
    if table is None:
        return np.zeros(m)
    seen = np.isfinite(table)
    mass = seen * (1.0 if weight is None else weight[:, None])
    mean = np.einsum("ij,ij->j", mass, np.where(seen, table, 0.0)) / mass.sum(axis=0)
    # Rounding must not put the mean of one constant price above it: a budget of that price would be refused.
    counted = mass > 0
    return np.clip(mean, np.where(counted, table, np.inf).min(axis=0), np.where(counted, table, -np.inf).max(axis=0))


def as_generator(random_state: Any) -> np.random.Generator:
    """A NumPy generator from what scikit-learn calls a random state; a Generator is taken as it is.

    Parameters
    ----------
    random_state : int, Generator, RandomState instance or None

    Examples
    --------
    >>> as_generator(3).random() == as_generator(3).random()
    True
    """
    if isinstance(random_state, np.random.Generator):
        return random_state
    return np.random.default_rng(int(check_random_state(random_state).randint(np.iinfo(np.int32).max)))
