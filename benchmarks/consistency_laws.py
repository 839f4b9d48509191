"""Deferral problems on a finite set of queries: their exact law, and samples of it as counts.

With one indicator per query type a linear score is any function of the type, so that what is tested is consistency with
respect to all measurable functions.  A sample then says no more than how often every combination of type, label and right
experts occurred: fitting to these rows with their counts as weights is fitting to the sample, whatever its size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from defer.datasets import (
    DeferralProblem,
    make_adversarial_experts,
    make_correlated_experts,
    make_linear_deferral,
    make_noisy_experts,
    make_specialist_experts,
)

__all__ = ["LAWS", "Counts", "Law"]

N_TYPES, N_CLASSES, STRENGTH = 48, 3, 2.5
SKILL, NOISY_ACCURACY, PRICES = 0.9, 0.54, (0.10, 0.05, 0.0)
# Rows of a sample from which the types are read: no type is missed.
_ALL_TYPES = 200 * N_TYPES


@dataclass(frozen=True)
class Counts:
    """How often every combination of type, label and right experts occurred."""

    type: np.ndarray  # (r,)
    y: np.ndarray  # (r,)
    right: np.ndarray  # (r, J), bool
    count: np.ndarray  # (r,)
    n_classes: int

    @property
    def answers(self) -> np.ndarray:
        """Answers of the experts: which wrong label a wrong one gives matters to no method."""
        return np.where(self.right, self.y[:, None], (self.y[:, None] + 1) % self.n_classes)

    def repeated(self) -> Counts:
        """The same sample query by query."""
        rows = np.repeat(np.arange(len(self.y)), self.count)
        return Counts(self.type[rows], self.y[rows], self.right[rows], np.ones(len(rows)), self.n_classes)


@dataclass(frozen=True)
class Law:
    """A generator with its coefficients fixed, on `N_TYPES` equally likely queries.

    `right_given_label` is P(expert right | type, label), shape (T, K, J).  Given type and label the experts of "correlated" are not
    independent, as `population` takes them to be; only the largest cost of the cost-sensitive loss is a function of several of
    them, and no decision in the limit depends on it.
    """

    name: str
    about: str
    make: Callable[..., DeferralProblem]
    right_given_label: Callable[[DeferralProblem], np.ndarray]

    @cached_property
    def types(self) -> DeferralProblem:
        """Every type once, in the order of its first coordinate."""
        sample = self.make(n_samples=_ALL_TYPES, random_state=0)
        _, first = np.unique(sample.X[:, 0], return_index=True)
        if len(first) != N_TYPES:
            raise RuntimeError(f"{self.name}: {len(first)} of {N_TYPES} types in {_ALL_TYPES} queries")
        return sample.take(first)

    @property
    def n_classes(self) -> int:
        """Number of labels."""
        return self.types.class_probability.shape[1]

    @property
    def n_experts(self) -> int:
        """Number of experts."""
        return len(self.types.expert_names)

    @cached_property
    def joint(self) -> np.ndarray:
        """P(right | type, label), shape (T, K, J), checked against P(right | type)."""
        q = self.right_given_label(self.types)
        implied = np.einsum("tk,tkj->tj", self.types.class_probability, q)
        np.testing.assert_allclose(implied, self.types.expert_probability, atol=1e-12)
        return q

    def sample(self, n: int, seed: int) -> Counts:
        """`n` queries of the generator, as counts."""
        drawn = self.make(n_samples=n, random_state=[seed, n])
        kind = np.searchsorted(self.types.X[:, 0], drawn.X[:, 0])
        sizes = N_TYPES, self.n_classes, *[2] * self.n_experts
        number = np.ravel_multi_index((kind, drawn.y, *drawn.right.T.astype(int)), sizes)
        count = np.bincount(number)
        kind, y, *right = np.unravel_index(np.flatnonzero(count), sizes)
        return Counts(kind, y, np.column_stack(right).astype(bool), count[count > 0], self.n_classes)

    def population(self, mass: float) -> Counts:
        """The law itself, as if in a sample of `mass` queries in which every frequency is its probability."""
        eta = self.types.class_probability
        rows = np.array(list(product(range(N_TYPES), range(self.n_classes), *[(0, 1)] * self.n_experts)))
        kind, y, right = rows[:, 0], rows[:, 1], rows[:, 2:].astype(bool)
        q = self.joint[kind, y]
        chance = eta[kind, y] * np.where(right, q, 1.0 - q).prod(axis=1) / N_TYPES
        kept = chance > 0
        return Counts(kind[kept], y[kept], right[kept], mass * chance[kept], self.n_classes)


def _whatever_the_label(problem: DeferralProblem) -> np.ndarray:
    return np.repeat(problem.expert_probability[:, None, :], problem.class_probability.shape[1], axis=1)


def _first_class_known(problem: DeferralProblem) -> np.ndarray:
    by_class = np.full((N_CLASSES, 1), 1.0 / N_CLASSES)
    by_class[0] = SKILL
    return np.tile(by_class, (len(problem), 1, 1))


def _law(name: str, about: str, generator: Callable[..., DeferralProblem], q: Any, **options: Any) -> Law:
    fixed = {"n_types": N_TYPES, "strength": STRENGTH, "law": 0, **options}
    return Law(name, about, lambda **drawn: generator(**fixed, **drawn), q)


LAWS = [
    _law("linear", "three labels; one expert whose log-odds are linear in the query", make_linear_deferral, _whatever_the_label,
         n_classes=N_CLASSES),
    _law("specialist", f"three labels; one expert who is right at {SKILL} on one of them and guesses on the others",
         make_specialist_experts, _first_class_known, n_classes=N_CLASSES, known=[[0]], skill=SKILL),
    _law("noisy", f"two labels; one expert who is right at {NOISY_ACCURACY} on every query", make_noisy_experts,
         _whatever_the_label, n_classes=2, accuracy=(NOISY_ACCURACY,), strength=0.6),
    _law("adversarial", "three labels; one expert who is the worse the less certain the label is: nothing is worth deferring",
         make_adversarial_experts, _whatever_the_label, n_classes=N_CLASSES),
    _law("correlated", f"three labels; three experts who share mistakes, at prices of {', '.join(map(str, PRICES))}",
         make_correlated_experts, _whatever_the_label, n_classes=N_CLASSES, accuracy=(0.8, 0.7, 0.65), slope=1.5, cost=PRICES),
]  # fmt: skip
