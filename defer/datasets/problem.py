"""A deferral problem whose law is known, so that the best rule and its risk are known as well."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.array_checks import refuse_values
from defer.exceptions import ProblemError
from defer.portfolios.expert_names import expert_names

__all__ = ["DeferralProblem"]

Floats = NDArray[np.float64]

# Conditional risks that differ by less are equal: they are sums of a few rounded probabilities.
_TIE = 1e-12

_refuse = partial(refuse_values, error=ProblemError)


@dataclass(frozen=True, eq=False)
class DeferralProblem:
    """A sample of queries, labels and expert answers, with the probabilities they were drawn from.

    Arm 0 is the own prediction and arms 1 to J are the experts.  Risk is the probability of a wrong answer plus the price of
    the expert that was asked.

    Parameters
    ----------
    X : array of shape (n, d)
        Queries.
    y : int array of shape (n,)
        Labels 0 to K - 1.
    experts : int array of shape (n, J)
        Answers.
    expert_names : tuple of J names
    cost : array of shape (J,)
        Price of a question to each expert, in units of quality: 0.1 is worth one more wrong answer in ten.
    class_probability : array of shape (n, K)
        P(Y = k | x).
    expert_probability : array of shape (n, J)
        P(answer of expert j = Y | x).

    Raises
    ------
    ProblemError
        If shapes do not fit together, or probabilities, labels or prices are none.

    Examples
    --------
    >>> problem = DeferralProblem(
    ...     X=[[0.0], [1.0]], y=[0, 1], experts=[[0], [0]], expert_names=("reader",), cost=[0.1],
    ...     class_probability=[[0.9, 0.1], [0.4, 0.6]], expert_probability=[[0.8], [0.8]])
    >>> problem.expected_cost.round(3).tolist()
    [[0.1, 0.3], [0.4, 0.3]]
    >>> problem.bayes_action.tolist(), round(problem.bayes_risk, 3)
    ([0, 1], 0.2)
    >>> problem.regret([0, 0]).round(3).tolist()
    [0.0, 0.1]
    """

    X: Floats
    y: NDArray[np.intp]
    experts: NDArray[np.intp]
    expert_names: tuple[str, ...]
    cost: Floats
    class_probability: Floats
    expert_probability: Floats

    def __post_init__(self) -> None:
        for name in ("X", "cost", "class_probability", "expert_probability"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        for name in ("y", "experts"):
            object.__setattr__(self, name, np.asarray(getattr(self, name)))
        object.__setattr__(self, "expert_names", tuple(self.expert_names))
        self._check_shapes()
        self._check_values()

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        names = list(self.expert_names)
        count = f"{len(names)} expert{'s' if len(names) > 1 else ''}"
        experts = count if names == expert_names(len(names)) else f"experts {', '.join(names)}"
        return (
            f"DeferralProblem({len(self)} queries, {self.class_probability.shape[1]} classes, {experts}; "
            f"Bayes risk {self.bayes_risk:.4g})"
        )

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each expert's answer is the label, shape (n, J)."""
        return self.experts == self.y[:, None]

    @property
    def own_bayes_label(self) -> NDArray[np.intp]:
        """Most probable label of every query, shape (n,); ties go to the lower label."""
        return _first_least(-self.class_probability)

    @cached_property
    def action_cost(self) -> Floats:
        """Conditional risk of every single action, shape (n, K + J): to answer each label, then to ask each expert.

        This is the cost matrix of the single-stage losses, in expectation.
        """
        return np.column_stack((1.0 - self.class_probability, 1.0 - self.expert_probability + self.cost))

    @cached_property
    def expected_cost(self) -> Floats:
        """Conditional risk of every arm, shape (n, 1 + J): 1 - max eta for the own Bayes label, 1 - p_j + price of expert j."""
        n_classes = self.class_probability.shape[1]
        own = self.action_cost[:, :n_classes].min(axis=1)
        return np.column_stack((own, self.action_cost[:, n_classes:]))

    @property
    def bayes_action(self) -> NDArray[np.intp]:
        """Arm of least conditional risk, shape (n,); ties go to the own prediction, then to the lower index."""
        return _first_least(self.expected_cost)

    @property
    def bayes_risk(self) -> float:
        """Risk of the Bayes rule over the queries of the sample: mean of the least conditional risk."""
        return float(self.expected_cost.min(axis=1).mean())

    def regret(self, arm: ArrayLike, own_label: ArrayLike | None = None) -> Floats:
        """Conditional risk in excess of the Bayes rule's, query by query.

        Parameters
        ----------
        arm : int array of shape (n,)
            Where each query goes: 0 is the own prediction, j the expert j.
        own_label : int array of shape (n,), optional
            Label that the system itself predicts; the Bayes label by default.  It counts only where `arm` is 0.

        Returns
        -------
        array of shape (n,)
            At least 0; its mean is the regret of the system.

        Raises
        ------
        ProblemError
            If there is not one arm, or label, per query, or one is outside its range.
        """
        arms = self._indices("arm", arm, 1 + len(self.expert_names))
        rows, risk = np.arange(len(self)), self.expected_cost
        taken = risk[rows, arms]
        if own_label is not None:
            labels = self._indices("own_label", own_label, self.class_probability.shape[1])
            taken = np.where(arms == 0, 1.0 - self.class_probability[rows, labels], taken)
        return taken - risk.min(axis=1)

    def take(self, rows: ArrayLike) -> DeferralProblem:
        """The problem on some of its queries.

        Parameters
        ----------
        rows : int or bool array
            Indices, or a mask.

        Raises
        ------
        ProblemError
            If there are none.
        """
        index = np.asarray(rows)
        index = index if index.size else index.astype(np.intp)  # no rows have no type
        kept = ("X", "y", "experts", "class_probability", "expert_probability")
        return replace(self, **{name: getattr(self, name)[index] for name in kept})

    def _indices(self, name: str, values: ArrayLike, n_values: int) -> NDArray[np.intp]:
        array = np.asarray(values)
        if array.shape != (len(self),) or array.dtype.kind not in "iu":
            raise ProblemError(
                f"{name} must be {len(self)} whole numbers, one per query, got {array.dtype} of shape {array.shape}"
            )
        _refuse(name, array, (array < 0) | (array >= n_values), f"an index from 0 to {n_values - 1}")
        return array.astype(np.intp)

    def _check_shapes(self) -> None:
        n, n_experts = len(np.atleast_1d(self.y)), len(self.expert_names)
        if self.class_probability.ndim != 2 or self.class_probability.shape[1] < 2 or not n or not n_experts:
            raise ProblemError(
                "a deferral problem needs a query, an expert, and class_probability of shape (n, K) with K >= 2, "
                f"got {n} labels, {n_experts} experts and shape {self.class_probability.shape}"
            )
        wanted = {
            "y": (n,),
            "experts": (n, n_experts),
            "cost": (n_experts,),
            "class_probability": (n, self.class_probability.shape[1]),
            "expert_probability": (n, n_experts),
        }
        for name, shape in wanted.items():
            found = getattr(self, name).shape
            if found != shape:
                raise ProblemError(
                    f"{name} must have shape {shape} for {n} labels and {n_experts} experts, got {found}"
                )
        if self.X.ndim != 2 or len(self.X) != n:
            raise ProblemError(f"X must have shape ({n}, d), one row per label, got {self.X.shape}")

    def _check_values(self) -> None:
        for name in ("class_probability", "expert_probability"):
            values = getattr(self, name)
            _refuse(name, values, ~((values >= 0.0) & (values <= 1.0)), "a probability in [0, 1]")
        total = self.class_probability.sum(axis=1)
        _refuse("class_probability summed over the classes", total, np.abs(total - 1.0) > 1e-9, "1")
        _refuse("X", self.X, ~np.isfinite(self.X), "finite")
        _refuse("cost", self.cost, ~np.isfinite(self.cost), "a finite price in units of quality")
        n_classes = self.class_probability.shape[1]
        for name in ("y", "experts"):
            values = getattr(self, name)
            if values.dtype.kind not in "iu":
                raise ProblemError(
                    f"{name} must hold whole numbers, the labels 0 to {n_classes - 1}, got {values.dtype}"
                )
            _refuse(name, values, (values < 0) | (values >= n_classes), f"a label from 0 to {n_classes - 1}")


def _first_least(risk: Floats) -> NDArray[np.intp]:
    """First column whose value is the least of its row, up to rounding."""
    return np.argmax(risk <= risk.min(axis=1, keepdims=True) + _TIE, axis=1)
