"""Realised utility as a number and as a scikit-learn scorer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator

from defer.estimators.deferral.answers import OWN
from defer.estimators.outcomes_input import names_arms, read_outcomes, read_weight
from defer.exceptions import RouterInputError
from defer.portfolios.arm_matrix import ArmMatrix

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
        If quality or cost of an arm taken is missing, unless propensities tell what to make of that, an arm taken is not
        a column of `y`, or `y` holds labels none of which is an arm.

    Examples
    --------
    >>> realised_utility([[0.2, 1.0], [0.6, 0.0]], [1, 0])
    0.8
    """
    taken, table = np.asarray(taken), y
    named = names_arms(y)
    if not named:
        table = np.asarray(y)
        if table.size == len(taken) and table.ndim in (1, 2):
            labels = table.ravel()
            _check_some_label_is_an_arm(labels, taken, arms)
            if cost is None:
                return float(np.average(labels == taken, weights=read_weight(sample_weight, n=len(taken))))
            if arms is not None:
                # A part of the data need not hold every label.
                named, table = True, ArmMatrix(labels[:, None] == np.asarray(arms), arms=list(np.asarray(arms)))
    y = table
    outcomes = read_outcomes(
        y, n=len(taken), cost=cost, propensity=propensity, sample_weight=sample_weight, every_arm_seen=False
    )
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
    parts = {"quality": utility}
    if outcomes.cost is not None and cost_weight:
        parts["cost"] = outcomes.cost[rows, index]
        utility = utility - cost_weight * parts["cost"]
    seen = np.isfinite(utility)
    if outcomes.weighting != "inverse propensity":
        for what, values in parts.items():
            gaps = np.flatnonzero(~np.isfinite(values))
            if len(gaps):
                advice = "pass propensity=" if outcomes.weighting == "missing at random" else "leave such rows out"
                raise RouterInputError(
                    f"the {what} of the arm taken was not observed in {len(gaps)} of {len(values)} rows, the first is row "
                    f"{gaps[0]}: {advice}"
                )
    weight = np.ones(len(seen)) if outcomes.weight is None else outcomes.weight
    if not weight[seen].any():
        return float("nan")
    return float(np.average(utility[seen], weights=weight[seen]))


def _check_some_label_is_an_arm(labels: NDArray[Any], taken: NDArray[Any], arms: ArrayLike | None) -> None:
    """Refuse true labels where the arms that should be taken belong: they would score 0 in silence."""
    names, found = (taken if arms is None else np.asarray(arms)).tolist(), labels.tolist()
    # Without `arms` a label that nobody took may still name one: only the own arm of a system that defers gives it away.
    if not len(found) or (arms is None and OWN not in names) or not set(found).isdisjoint(names):
        return
    raise RouterInputError(
        f"y: none of the {len(found)} labels is an arm, the first is {found[0]!r}; the arms are {list(dict.fromkeys(names))}.  "
        "Where y holds true labels and a router defers, its score takes experts= with the answers of the experts"
    )


class RealisedUtility(BaseEstimator):  # type: ignore[misc]
    """Scorer for ``GridSearchCV`` and ``cross_val_score``: realised utility at one fixed cost weight.

    `BaseRouter.score` uses the router's own `cost_weight`; a search over that parameter needs a yardstick that stays.
    Under scikit-learn's metadata routing it asks for experts, cost, propensity and sample_weight; without, it sees `y` alone.
    Where `y` has gaps, give a splitter: for a number of folds scikit-learn looks at `y`, and refuses NaN.

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

    __metadata_request__score = {  # noqa: RUF012
        "experts": True, "cost": True, "propensity": True, "sample_weight": True,
    }  # fmt: skip

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
        experts: Any = None,
        cost: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Realised utility of what `estimator` predicts.

        Parameters
        ----------
        estimator : fitted router
        X : n queries
        y : array or frame of shape (n, m), or labels of shape (n,)
            As for `BaseRouter.score`; true labels, if `experts` is given.
        experts : array of shape (n,) or (n, J), or frame, optional
            Answers of the experts, for a router that defers.
        cost, propensity, sample_weight : optional
            As for `BaseRouter.fit`, or for `BaseDeferral.fit` with `experts`.

        Returns
        -------
        float

        Raises
        ------
        RouterInputError
            As for `realised_utility`; also if `experts` is given to a router that does not defer.
        """
        if experts is None:
            return realised_utility(
                y, estimator.predict(X), arms=estimator.arms_, cost=cost, propensity=propensity,
                sample_weight=sample_weight, cost_weight=self.cost_weight,
            )  # fmt: skip
        if not hasattr(estimator, "predict_own"):
            raise RouterInputError(
                f"RealisedUtility: experts= needs a router that defers, such as PostHocDeferral, got {estimator!r}"
            )
        from defer.estimators.deferral.system_answers import system_utility

        return system_utility(
            estimator, X, y, experts, cost=cost, propensity=propensity, sample_weight=sample_weight,
            cost_weight=self.cost_weight,
        )  # fmt: skip
