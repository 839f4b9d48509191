"""What steps that learn from pairs of logged queries share: which arm won a query, and the pairs that follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin

from defer.estimators.base import column_means
from defer.estimators.deferral.parameter_checks import check_choices, check_counts, check_positive
from defer.estimators.outcomes_input import read_outcomes
from defer.estimators.routers.contrastive_pairs import Annotation, QueryPairs, expert_pairs, task_pairs
from defer.estimators.routers.pools import pool_votes, right_answers, right_grade
from defer.exceptions import RouterInputError

__all__ = ["ContrastiveStep"]

_PAIRS = ("expert", "task", "task+expert")


class ContrastiveStep(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Base of transformers that are trained on pairs of queries."""

    pairs: str
    n_pairs: int
    margin: float
    right_above: float | None
    arm_order: Sequence[Any] | None
    random_state: Any

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.pairs != "task"
        return tags

    def _check_pair_options(self) -> None:
        check_choices(self, pairs=_PAIRS)
        check_counts(type(self).__name__, n_pairs=self.n_pairs)
        check_positive(type(self).__name__, margin=self.margin)

    def _find_pairs(
        self, X: Any, y: ArrayLike | None, cost: ArrayLike | None, annotations: Sequence[Annotation] | None
    ) -> QueryPairs:
        """Pairs of the kinds that are asked for, by embeddings X of shape (n, d)."""
        pairs = QueryPairs.of([], [], [])
        if "task" in self.pairs:
            if annotations is None or len(annotations) != X.shape[0]:
                found = "none" if annotations is None else str(len(annotations))
                raise RouterInputError(
                    f"{type(self).__name__}: pairs={self.pairs!r} needs annotations, one per query of the {X.shape[0]}, got {found}"
                )
            pairs = pairs + task_pairs(annotations, n_pairs=self.n_pairs, random_state=self.random_state)
        if "expert" in self.pairs:
            pairs = pairs + expert_pairs(X, self._winners(X, y, cost), n_pairs=self.n_pairs)
        return pairs

    def _winners(self, X: Any, y: Any, cost: ArrayLike | None) -> NDArray[np.intp]:
        outcomes = read_outcomes(y, n=X.shape[0], cost=cost)
        grade = right_grade(type(self).__name__, outcomes.quality, self.right_above)
        mean_cost = column_means(outcomes.cost, None, len(outcomes.arms))
        order = np.argsort(mean_cost, kind="stable")
        if self.arm_order is not None:
            arms, given = outcomes.arms.tolist(), list(self.arm_order)
            if len(given) != len(arms) or any(arm not in given for arm in arms):
                raise RouterInputError(
                    f"{type(self).__name__}: arm_order must name each of the arms {arms} once, from the cheapest, got {given}"
                )
            order = np.array([arms.index(arm) for arm in given])
        votes = pool_votes(right_answers(outcomes.quality, grade), order)
        return np.where(votes.any(axis=1), votes.argmax(axis=1), -1)
