"""Plug-in routing with a quality and a cost that are both predicted for every query.

Take the arm of largest predicted quality - cost_weight * predicted cost, where each prediction comes from its own regressor.
Source: CARROT (Somerstep et al. 2025, arXiv 2502.03261).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.preprocessing import normalize
from sklearn.utils.extmath import safe_sparse_dot

from defer.estimators.base import BaseRouter, column_means
from defer.estimators.deferral.parameter_checks import check_choices, check_counts, check_flags, check_positive, seed_of
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.quality import QualityRouter
from defer.estimators.routers.cluster_means import seen_means
from defer.estimators.routers.neighbors import KNNRouter
from defer.estimators.routers.query_rows import check_costs_given, check_numbers, equal_rows, weighted_rows
from defer.exceptions import RouterInputError

__all__ = ["CarrotRouter"]

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

_FOLDS = 5
# Bytes of the outcomes of neighbours that one block of held-out queries may take.
_BLOCK_BYTES = 64 * 2**20


class CarrotRouter(BaseRouter):
    """Separate regressors of quality and of cost, and the plug-in choice between arms.

    Parameters
    ----------
    head : {"neighbors", "linear"}, default="neighbors"
        "neighbors" is the mean over the nearest logged queries by the cosine; "linear" is ridge regression.
    n_neighbors : int or sequence of int, default=(2, 4, 8, 16, 32, 64, 128, 256, 512)
        Of a sequence the number that predicts held-out outcomes best is taken, one for quality and one for cost: largest R^2,
        averaged over arms, in five folds that keep equal queries together.
    alpha : float, default=1.0
        Ridge penalty of the linear head.
    log_cost : bool, default=False
        Fit the logarithm of the cost, which must be positive, and scale its exponential so that the predictions of every arm
        have the mean cost that was logged (Duan's smearing, in the form of a ratio of means); then `fit` needs costs.
    cost_weight : float, default=0.0
        Quality given up per US dollar.  The paper's trade-off (1 - mu) * quality - mu * cost decides as cost_weight =
        mu / (1 - mu).
    random_state : int, Generator, RandomState instance or None
        Of the folds that choose `n_neighbors`.

    Attributes
    ----------
    arms_ : array of shape (m,)
    n_neighbors_ : tuple of (int, int)
        Neighbours for quality and for cost; of the head "neighbors".
    centre_ : array of shape (m,)
        Mean cost of every arm, or mean of its logarithm, beyond which `cost_model_` predicts; where costs were given.
    quality_model_ : KNNRouter or QualityRouter
    cost_model_ : KNNRouter or QualityRouter, or None
        Fitted to what costs, or their logarithms, differ from the mean of the arm; None where `fit` was given no costs.
    smearing_ : array of shape (m,)
        What the exponential of a predicted logarithm is multiplied with.

    Notes
    -----
    With other regressors the rule is `QualityRouter(regressor, cost_regressor)`.  This class adds the kNN head with missing
    and weighted outcomes, its choice of the neighbourhood, cost prediction without being asked, and `log_cost`.

    From the authors' code: the neighbourhoods that are tried, the cosine, five folds, R^2, and costs that are standardised per
    arm before the fit, which changes neither head's prediction.  Their second head is a fine-tuned RoBERTa, with a sigmoid and
    cross-entropy for quality and least squares for the number of output tokens, priced afterwards; "linear" stands in its
    place on whatever features come in, and predicts the cost itself.  Folds by different queries, `alpha` and `log_cost` are
    ours.

    References
    ----------
    Somerstep et al. 2025, CARROT: a cost aware rate optimal router, arXiv 2502.03261; Duan 1983, Smearing estimate.

    Examples
    --------
    >>> X = np.array([[1.0, 0.0], [0.9, 0.1], [0.1, 0.9], [0.0, 1.0]])
    >>> quality, cost = [[1, 1], [1, 1], [0, 1], [0, 1]], [[0.1, 0.5], [0.1, 0.5], [0.1, 2.0], [0.1, 2.0]]
    >>> router = CarrotRouter(n_neighbors=2, cost_weight=0.2).fit(X, quality, cost=cost)
    >>> router.predict([[1.0, 0.2], [0.2, 1.0]]).tolist()
    [0, 1]
    >>> router.predict_cost([[1.0, 0.2], [0.2, 1.0]]).round(6).tolist()
    [[0.1, 0.5], [0.1, 2.0]]
    """

    n_neighbors_: tuple[int, int]
    quality_model_: BaseRouter
    cost_model_: BaseRouter | None
    centre_: Floats
    smearing_: Floats

    def __init__(
        self,
        head: Literal["neighbors", "linear"] = "neighbors",
        *,
        n_neighbors: int | Sequence[int] = (2, 4, 8, 16, 32, 64, 128, 256, 512),
        alpha: float = 1.0,
        log_cost: bool = False,
        cost_weight: float = 0.0,
        random_state: Any = None,
    ) -> None:
        self.head = head
        self.n_neighbors = n_neighbors
        self.alpha = alpha
        self.log_cost = log_cost
        self.cost_weight = cost_weight
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        candidates = self._check_parameters()
        check_numbers(self, X)
        tables = [outcomes.quality]
        check_costs_given(self, outcomes, log_cost=True)
        if outcomes.cost is not None:
            cost = self._checked_logs(outcomes) if self.log_cost else outcomes.cost
            # What differs from the mean, so that a constant price is predicted without any rounding.
            self.centre_ = column_means(cost, outcomes.weight, cost.shape[1])
            tables.append(cost - self.centre_)
        numbers = [candidates[0]] * len(tables)
        if self.head == "neighbors" and len(candidates) > 1:
            numbers = _best_neighborhoods(X, tables, outcomes, candidates, seed_of(self.random_state))
        self.n_neighbors_ = numbers[0], numbers[-1]
        models = [self._model(X, table, outcomes, k) for table, k in zip(tables, numbers, strict=True)]
        self.quality_model_, self.cost_model_ = models[0], models[1] if len(models) > 1 else None
        self.smearing_ = np.ones(len(outcomes.arms))
        if outcomes.cost is not None and self.log_cost:
            predicted = np.where(np.isfinite(outcomes.cost), np.exp(self._raw_cost(X)), np.nan)
            m = len(self.smearing_)
            self.smearing_ = self.mean_cost_ / column_means(predicted, outcomes.weight, m)

    def _check_parameters(self) -> list[int]:
        owner = type(self).__name__
        check_choices(self, head=("neighbors", "linear"))
        check_positive(owner, alpha=self.alpha)
        check_flags(owner, log_cost=self.log_cost)
        given: Any = [self.n_neighbors] if isinstance(self.n_neighbors, Integral) else self.n_neighbors
        if isinstance(given, str) or not hasattr(given, "__iter__") or not len(list(given)):
            raise RouterInputError(
                f"{owner}: n_neighbors must be an integer >= 1 or a sequence of them, got {self.n_neighbors!r}"
            )
        for number in given:
            check_counts(owner, n_neighbors=number)
        return sorted({int(number) for number in given})

    def _checked_logs(self, outcomes: Outcomes) -> Floats:
        cost = np.asarray(outcomes.cost)
        wrong = np.argwhere(cost <= 0)
        if len(wrong):
            row, column = wrong[0]
            raise RouterInputError(
                f"{type(self).__name__}: log_cost=True needs costs above 0; {len(wrong)} are not, the first in row {row}, arm "
                f"{outcomes.arms[column].item()!r}; leave the arm out or fit with log_cost=False"
            )
        return np.asarray(np.log(cost))

    def _model(self, X: Any, table: Floats, outcomes: Outcomes, k: int) -> BaseRouter:
        model: BaseRouter = KNNRouter(k) if self.head == "neighbors" else QualityRouter(Ridge(alpha=self.alpha))
        # Gaps were spoken of when this router was fitted.
        return model._fit_outcomes(X, replace(outcomes, quality=table, cost=None, weighting="none"))

    def _predict_quality(self, X: Any) -> Floats:
        check_numbers(self, X)
        return self.quality_model_._predict_quality(X)

    def _predict_cost(self, X: Any) -> Floats:
        if self.cost_model_ is None:
            return super()._predict_cost(X)
        raw = self._raw_cost(X)
        return np.maximum(np.exp(raw) * self.smearing_ if self.log_cost else raw, 0.0)

    def _raw_cost(self, X: Any) -> Floats:
        assert self.cost_model_ is not None
        return self.centre_ + self.cost_model_._predict_quality(X)


def _best_neighborhoods(
    X: Any, tables: list[Floats], outcomes: Outcomes, candidates: list[int], seed: int
) -> list[int]:
    """Number of neighbours of largest held-out R^2 for each table; the least of equals, and where nothing can be held out."""
    positive = np.ones(X.shape[0], dtype=bool) if outcomes.sample_weight is None else outcomes.sample_weight > 0
    tables = [table[positive] for table in tables]
    X, outcomes = weighted_rows(X, outcomes)
    group = equal_rows(X)[1]
    n_groups = int(group.max()) + 1
    sample = np.ones(len(group)) if outcomes.sample_weight is None else outcomes.sample_weight
    chance = np.ones(len(group)) if outcomes.propensity is None else outcomes.propensity
    if n_groups < 2:
        return [candidates[0]] * len(tables)
    unit = normalize(X if X.dtype.kind == "f" else X.astype(np.float64))
    errors = [np.zeros((len(candidates), table.shape[1])) for table in tables]
    for train, test in KFold(min(_FOLDS, n_groups), shuffle=True, random_state=seed).split(np.zeros(n_groups)):
        logged, held_out = (np.flatnonzero(np.isin(group, part)) for part in (train, test))
        _add_errors(errors, unit, tables, sample, chance, logged, held_out, candidates)
    weight = (sample / chance)[:, None]
    best = []
    for table, error in zip(tables, errors, strict=True):
        spread = np.where(np.isfinite(table), table - column_means(table, weight.ravel(), table.shape[1]), 0.0)
        total = (weight * spread**2).sum(axis=0)
        unexplained = (error / np.where(total > 0, total, np.inf)).mean(axis=1)
        best.append(candidates[int(unexplained.argmin())])
    return best


def _add_errors(
    errors: list[Floats], unit: Any, tables: list[Floats], sample: Floats, chance: Floats,
    train: Ints, test: Ints, candidates: list[int],
) -> None:  # fmt: skip
    """Add the squared errors on the rows of one fold, by number of neighbours and arm; the distances are sorted once."""
    reach = min(int(np.searchsorted(np.cumsum(np.sort(sample[train])), candidates[-1])) + 1, len(train))
    means = [seen_means(table[train], sample[train] / chance[train]) for table in tables]
    logged = unit[train]
    block = max(1, _BLOCK_BYTES // (8 * (2 * len(train) + 3 * reach * tables[0].shape[1])))
    for low in range(0, len(test), block):
        rows = test[low : low + block]
        distance = -safe_sparse_dot(unit[rows], logged.T, dense_output=True)
        near = np.argpartition(distance, reach - 1, axis=1)[:, :reach]
        order = np.argsort(np.take_along_axis(distance, near, axis=1), axis=1, kind="stable")
        near = train[np.take_along_axis(near, order, axis=1)]
        before = np.cumsum(sample[near], axis=1) - sample[near]
        for table, mean, error in zip(tables, means, errors, strict=True):
            seen = np.isfinite(table[near])
            values = np.where(seen, table[near], 0.0)
            for index, k in enumerate(candidates):
                mass = (np.clip(k - before, 0.0, sample[near]) / chance[near])[:, None, :]
                count = (mass @ seen)[:, 0]
                predicted = np.where(count > 0, (mass @ values)[:, 0] / np.where(count > 0, count, 1.0), mean)
                known = np.isfinite(table[rows])
                apart = np.where(known, table[rows] - predicted, 0.0)
                error[index] += (sample[rows] / chance[rows]) @ apart**2
