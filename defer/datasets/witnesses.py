"""Small problems with exact numbers, on which a method that looks right is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from defer.datasets.problem import DeferralProblem
from defer.exceptions import ProblemError

__all__ = ["confidence_trap", "realizable_witness", "routing_witness"]

Floats = NDArray[np.float64]


def realizable_witness() -> DeferralProblem:
    """Five points on which linear scores can defer without error, and the convex surrogates choose a rule with error 0.2.

    Two classes, one feature, everything deterministic: at x = 2, 0, 4, 3, -3 the labels are 0, 1, 0, 0, 0, and the expert is
    right at 4 and -3 only.  The decisions 0, 1, 0, 0, defer cost nothing and come from three lines.  Yet the optimum over linear
    scores of the softmax loss (value 1.306731) and that of the one-vs-all loss (value 1.591188) have error 0.2; the infimum of
    the realizable surrogate is 0, with error 0.

    The unrestricted Bayes rule never defers here, since eta is 0 or 1: the point is what a restricted class does.

    Examples
    --------
    >>> witness = realizable_witness()
    >>> witness.X[:, 0].tolist(), witness.y.tolist(), witness.right[:, 0].tolist()
    ([2.0, 0.0, 4.0, 3.0, -3.0], [0, 1, 0, 0, 0], [False, False, True, False, True])
    >>> float(witness.regret([0, 0, 0, 0, 1], own_label=[0, 1, 0, 0, 1]).sum())
    0.0
    """
    y, right = np.array([0, 1, 0, 0, 0]), np.array([0, 0, 1, 0, 1])
    experts = np.where(right == 1, y, 1 - y)
    X = np.array([[2.0], [0.0], [4.0], [3.0], [-3.0]])
    return DeferralProblem(X, y, experts[:, None], ("expert",), np.zeros(1), np.eye(2)[y], right[:, None])


def routing_witness() -> tuple[Floats, Floats]:
    """Four queries and three arms on which linear routing can cost nothing, and the convex two-stage optimum costs 0.25.

    Costs depend on the label, so that arms which are right together share weight and compete.  The routing 2, 1, 0, 1 costs 0
    and is that of linear scores; the optimum of the logistic two-stage surrogate with weights 1 - cost (mean value
    1.476061) routes 2, 1, 1, 1.

    Returns
    -------
    X : array of shape (4, 1)
    cost : array of shape (4, 3)
        Of the frozen predictor and of two experts; quality is 1 - cost.

    Examples
    --------
    >>> X, cost = routing_witness()
    >>> float(cost[range(4), [2, 1, 0, 1]].mean()), float(cost[range(4), [2, 1, 1, 1]].mean())
    (0.0, 0.25)
    """
    X = np.array([[3.0], [-3.0], [0.0], [-4.0]])
    return X, np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0]])


def confidence_trap(n_samples: int = 1000, *, random_state: Any = None) -> DeferralProblem:
    """Three kinds of queries on which deferring by confidence is worse than deferring at random.

    The kinds make up exactly 0.3, 0.3 and 0.4 of the sample, in this order, and are one-hot in X.  The own Bayes label
    is 0 of two classes, right with probability 0.6, 0.55, 0.9; the expert is right with probability 0.9, 0.5, 0.92, independently of
    the label.  The least confident kind is the second, on which the expert is worse.  Accuracies are 0.705 and 0.788; the areas
    under the deferral curve are 0.74335 by confidence, 0.7465 at random, and 0.78325 in the best order.

    Source: the specialist case of "When does confidence-based cascade deferral suffice?" (Jitkrittum et al., 2023).

    Parameters
    ----------
    n_samples : int, default=1000
        A multiple of 10.
    random_state : int, Generator or None
        Seed of labels and answers.

    Raises
    ------
    ProblemError
        If `n_samples` is no positive multiple of 10.

    Examples
    --------
    >>> trap = confidence_trap(10)
    >>> trap.bayes_action.tolist()
    [1, 1, 1, 0, 0, 0, 1, 1, 1, 1]
    >>> own, expert = 1 - trap.expected_cost.mean(axis=0)
    >>> round(float(own), 3), round(float(expert), 3), round(1 - trap.bayes_risk, 3)
    (0.705, 0.788, 0.803)
    """
    if not isinstance(n_samples, (int, np.integer)) or n_samples < 10 or n_samples % 10:
        raise ProblemError(f"n_samples must be a positive multiple of 10, so that shares are exact, got {n_samples!r}")
    kind = np.repeat([0, 1, 2], np.array([3, 3, 4]) * (n_samples // 10))
    own, expert = np.array([0.6, 0.55, 0.9])[kind], np.array([0.9, 0.5, 0.92])[kind]
    rng = np.random.default_rng(random_state)
    y = (rng.random(n_samples) >= own).astype(np.intp)
    answers = np.where(rng.random(n_samples) < expert, y, 1 - y)
    eta = np.column_stack((own, 1.0 - own))
    return DeferralProblem(np.eye(3)[kind], y, answers[:, None], ("expert",), np.zeros(1), eta, expert[:, None])
