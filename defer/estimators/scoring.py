"""Realised utility as a number and as a scikit-learn scorer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator

from defer.estimators.outcomes_input import read_outcomes, read_weight
from defer.exceptions import RouterInputError

__all__ = ["RealisedUtility", "realised_utility"]


def realised_utility(
    y: ArrayLike,
    taken: ArrayLike,
    *,
    arms: ArrayLike | None = None,
    cost: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    cost_weight: float = 0.0,
) -> float:
    """Mean of quality - cost_weight * cost of the arms taken.

    Parameters
    ----------
    y : array or frame of shape (n, m), or labels of shape (n,)
        Quality, NaN where not observed, or the arm that should be taken.
    taken : array of shape (n,)
        Names of the arms taken.
    arms : array of shape (m,), optional
        Names of the columns of `y`, where `y` does not name them itself.
    cost, propensity, sample_weight : optional
        As for `BaseRouter.fit`.
    cost_weight : float, default=0.0
        Quality given up per US dollar.

    Returns
    -------
    float
        On partly observed outcomes the self-normalised inverse-propensity estimate over the rows in which the taken
        arm was observed; NaN if there is none.

    Raises
    ------
    RouterInputError
        If partly observed outcomes come without propensities, or an arm taken is not a column of `y`.

    Examples
    --------
    >>> realised_utility([[0.2, 1.0], [0.6, 0.0]], [1, 0])
    0.8
    """
    taken = np.asarray(taken)
    named = hasattr(y, "columns") or getattr(y, "arms", None) is not None
    if not named:
        y = np.asarray(y)
        if cost is None and y.size == len(taken):
            return float(np.average(y.ravel() == taken, weights=read_weight(sample_weight, n=len(taken))))
    outcomes = read_outcomes(y, n=len(taken), cost=cost, propensity=propensity, sample_weight=sample_weight)
    names = outcomes.arms if arms is None or named or np.ndim(y) == 1 else np.asarray(arms)
    if len(names) != outcomes.quality.shape[1]:
        raise RouterInputError(f"y has {outcomes.quality.shape[1]} columns for {len(names)} arms")
    order = np.argsort(names)
    index = order[np.clip(np.searchsorted(names, taken, sorter=order), 0, len(names) - 1)]
    unknown = np.flatnonzero(names[index] != taken)
    if len(unknown):
        raise RouterInputError(
            f"{len(unknown)} rows take an arm that y does not have, the first is {taken[unknown[0]].item()!r} in row {unknown[0]}"
        )
    rows = np.arange(len(taken))
    utility = outcomes.quality[rows, index]
    if outcomes.cost is not None and cost_weight:
        utility = utility - cost_weight * outcomes.cost[rows, index]
    seen = np.isfinite(utility)
    if not seen.all() and outcomes.weighting == "missing at random":
        row = int(np.flatnonzero(~seen)[0])
        raise RouterInputError(
            f"the arm taken was not observed in {int((~seen).sum())} rows, the first is row {row}: pass propensity="
        )
    if not seen.any():
        return float("nan")
    weight = outcomes.weight if outcomes.weighting == "inverse propensity" else outcomes.sample_weight
    return float(np.average(utility[seen], weights=_rows(weight, seen)))


def _rows(weight: NDArray[np.float64] | None, seen: NDArray[np.bool_]) -> NDArray[np.float64] | None:
    return None if weight is None else weight[seen]


class RealisedUtility(BaseEstimator):  # type: ignore[misc]
    """Scorer for ``GridSearchCV`` and ``cross_val_score``: realised utility at one fixed cost weight.

    `BaseRouter.score` uses the router's own `cost_weight`; a search over that parameter needs a yardstick that stays.

    Parameters
    ----------
    cost_weight : float, default=0.0
        Quality given up per US dollar.

    Examples
    --------
    >>> from sklearn.model_selection import GridSearchCV, KFold
    >>> from defer.estimators import KNNRouter
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 2))
    >>> quality = np.column_stack([X[:, 0] > 0, X[:, 0] <= 0]).astype(float)
    >>> search = GridSearchCV(KNNRouter(), {"n_neighbors": [1, 50]}, scoring=RealisedUtility(), cv=KFold(3))
    >>> search.fit(X, quality).best_params_
    {'n_neighbors': 1}
    """

    __metadata_request__score = {"cost": True, "propensity": True}  # noqa: RUF012

    def __init__(self, cost_weight: float = 0.0) -> None:
        self.cost_weight = cost_weight

    def __call__(self, estimator: Any, X: Any, y: ArrayLike, **outcomes: Any) -> float:
        return self.score(estimator, X, y, **outcomes)

    def score(
        self,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        cost: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Realised utility of what `estimator` predicts."""
        return realised_utility(
            y, estimator.predict(X), arms=estimator.arms_, cost=cost, propensity=propensity,
            sample_weight=sample_weight, cost_weight=self.cost_weight,
        )  # fmt: skip
