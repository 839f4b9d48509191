"""Probabilities that can be read out of the scores of a single-stage surrogate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from defer.exceptions import LossInputError
from defer.losses.asymmetric import other_classes
from defer.losses.inputs import as_scores, check_experts
from defer.losses.margin import at_most, sigmoid
from defer.losses.multiclass import log_softmax, softmax

__all__ = ["Readout", "asymmetric_softmax_readout", "ova_readout", "softmax_readout"]

Array = Any


@dataclass(frozen=True, slots=True)
class Readout:
    """Estimated probabilities, at the population minimiser the true ones.

    Parameters
    ----------
    class_probability : array of shape (n, K)
        P(y = k | x).
    expert_probability : array of shape (n, J)
        P(expert j is right | x), or E[1 - c_j | x] for costs.

    Examples
    --------
    >>> import numpy as np
    >>> softmax_readout(np.log(np.array([[0.5, 0.3, 0.2, 0.53]])), n_experts=1).expert_probability
    array([[0.53]])
    """

    class_probability: Array
    expert_probability: Array


def softmax_readout(scores: Array, *, n_experts: int = 1) -> Readout:
    """Read-out of `softmax_deferral`: s_k / (1 - sum_j s_(K+j)) for classes and experts alike.

    This is e^(u_(K+j)) over the sum of the classes' exponentials, so it is not bounded by 1 and every expert's depends on all class
    scores, though on no other expert's score.  Beyond the largest float it is about that float.

    Parameters
    ----------
    scores : array of shape (n, K + J)
        Classes, then experts.
    n_experts : int, default=1
        Number of experts J.

    Returns
    -------
    Readout

    Raises
    ------
    LossInputError
        For scores that are not finite or of another shape.

    References
    ----------
    Mozannar and Sontag 2020; Verma, Barrejon, Nalisnick 2023.

    Examples
    --------
    >>> import numpy as np
    >>> softmax_readout(np.array([[1.0, 0.0, -1.0, 2.0]])).expert_probability.round(6)
    array([[1.808312]])
    """
    xp, scores = as_scores("softmax_readout", scores)
    classes = check_experts("softmax_readout", scores, n_experts)
    logs = log_softmax(xp, scores[:, :classes])
    # The log-sum-exp of the classes, from any of their columns.
    relative = scores[:, classes:] - (scores[:, :1] - logs[:, :1])
    largest = 0.999 * float(xp.log(xp.asarray(xp.finfo(scores.dtype).max, dtype=scores.dtype)))
    return Readout(xp.exp(logs), xp.exp(at_most(xp, relative, largest)))


def ova_readout(scores: Array, *, n_experts: int = 1) -> Readout:
    """Read-out of `ova_deferral`: the sigmoid of every score; class probabilities need not sum to 1.

    Parameters
    ----------
    scores : array of shape (n, K + J)
        Classes, then experts.
    n_experts : int, default=1
        Number of experts J.

    Returns
    -------
    Readout

    Raises
    ------
    LossInputError
        For scores that are not finite or of another shape.

    References
    ----------
    Verma and Nalisnick 2022.

    Examples
    --------
    >>> import numpy as np
    >>> ova_readout(np.array([[1.0, 0.0, -1.0, 2.0]])).expert_probability
    array([[0.88079708]])
    """
    xp, scores = as_scores("ova_readout", scores)
    classes = check_experts("ova_readout", scores, n_experts)
    probability = sigmoid(xp, scores)
    return Readout(probability[:, :classes], probability[:, classes:])


def asymmetric_softmax_readout(scores: Array, *, n_experts: int = 1) -> Readout:
    """Read-out of `asymmetric_softmax_deferral`: pi, the softmax of the classes, and psi, always within [0, 1].

    Parameters
    ----------
    scores : array of shape (n, K + J)
        At least two classes, then at most one expert.
    n_experts : int, default=1
        0 or 1.

    Returns
    -------
    Readout

    Raises
    ------
    LossInputError
        For scores that are not finite or of another shape, and for one class.

    References
    ----------
    Cao et al. 2023.

    Examples
    --------
    >>> import numpy as np
    >>> asymmetric_softmax_readout(np.array([[1.0, 0.0, -1.0, 2.0]])).expert_probability.round(6)
    array([[0.843795]])
    """
    name = "asymmetric_softmax_readout"
    xp, scores = as_scores(name, scores)
    classes = check_experts(name, scores, n_experts, most=1)
    if classes < 2:
        raise LossInputError(f"{name}: needs at least two classes, got 1: with one class psi is always 1")
    u = scores[:, :classes]
    peak, second, rest, _ = other_classes(xp, u)
    return Readout(
        softmax(xp, u), sigmoid(xp, ((scores[:, classes:] - peak[:, None]) - second[:, None]) - rest[:, None])
    )
