"""Margin losses: what a wrong or unsure sign of one real score costs.

Every function takes scores (n,) and targets (n,) in {-1, +1} and evaluates Phi(z) at the margin z = target * score.  Source:
textbook; the deferral forms that use them are `defer.losses.two_stage.predictor_rejector` and
`defer.losses.post_hoc.post_hoc_partial`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from defer.exceptions import LossInputError
from defer.losses.inputs import as_beside, as_scores, check_choice, check_weight, raise_first
from defer.losses.value import Formula, LossValue

__all__ = [
    "MARGINS",
    "PHIS",
    "Phi",
    "at_most",
    "bell",
    "exponential_margin",
    "hinge_margin",
    "logistic_margin",
    "phi_named",
    "positive",
    "sigmoid",
    "sigmoid_margin",
    "softplus",
    "squared_hinge_margin",
]

Array = Any

# e**50 times a score of 1e4 is far below the largest float32.
LARGEST_EXPONENT = 50.0


@dataclass(frozen=True, slots=True)
class Phi:
    """A margin function with its first two derivatives, each called as ``f(xp, z)``.

    Parameters
    ----------
    value, slope, curvature : callable
        Phi, Phi' and Phi'' on an array of margins.
    """

    value: Callable[[Any, Array], Array]
    slope: Callable[[Any, Array], Array]
    curvature: Callable[[Any, Array], Array]


def logistic_margin(scores: Array, target: Array, *, weight: Array | None = None) -> LossValue:
    """Logistic loss, Phi(z) = log(1 + exp(-z)).

    Population minimiser: s = log(P(+1) / P(-1)).  Read-out: P(+1) = sigmoid(s).  Bayes-consistent, convex.  Source: textbook.

    Parameters
    ----------
    scores : array of shape (n,)
        Real scores.
    target : array of shape (n,)
        -1 or +1.
    weight : array of shape (n,), optional
        Weight of every sample, >= 0.

    Returns
    -------
    LossValue

    Raises
    ------
    LossInputError
        For shapes that do not fit, other targets, and numbers that are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> logistic_margin(np.array([0.0, 2.0]), np.array([1, -1])).value
    array([0.69314718, 2.12692801])
    """
    return _margin("logistic", scores, target, weight)


def exponential_margin(scores: Array, target: Array, *, weight: Array | None = None) -> LossValue:
    """Exponential loss, Phi(z) = exp(-z), continued linearly where -z exceeds 50, so that it stays finite and convex.

    Population minimiser: s = log(P(+1) / P(-1)) / 2 (within 50).  Read-out: P(+1) = sigmoid(2 s).  Bayes-consistent, convex.
    Source: textbook.

    Parameters
    ----------
    scores : array of shape (n,)
        Real scores.
    target : array of shape (n,)
        -1 or +1.
    weight : array of shape (n,), optional
        Weight of every sample, >= 0.

    Returns
    -------
    LossValue

    Raises
    ------
    LossInputError
        For shapes that do not fit, other targets, and numbers that are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> exponential_margin(np.array([0.0, 2.0]), np.array([1, -1])).value
    array([1.       , 7.3890561])
    """
    return _margin("exponential", scores, target, weight)


def hinge_margin(scores: Array, target: Array, *, weight: Array | None = None) -> LossValue:
    """Hinge loss, Phi(z) = max(0, 1 - z); at the kink z = 1 the gradient is 0.

    Population minimiser: s = sign(2 P(+1) - 1).  No read-out of probabilities.  Bayes-consistent, convex.  Source: textbook.

    Parameters
    ----------
    scores : array of shape (n,)
        Real scores.
    target : array of shape (n,)
        -1 or +1.
    weight : array of shape (n,), optional
        Weight of every sample, >= 0.

    Returns
    -------
    LossValue

    Raises
    ------
    LossInputError
        For shapes that do not fit, other targets, and numbers that are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> hinge_margin(np.array([0.0, 2.0]), np.array([1, -1])).value
    array([1., 3.])
    """
    return _margin("hinge", scores, target, weight)


def squared_hinge_margin(scores: Array, target: Array, *, weight: Array | None = None) -> LossValue:
    """Squared hinge loss, Phi(z) = max(0, 1 - z)**2.

    Population minimiser: s = 2 P(+1) - 1.  Read-out: P(+1) = (1 + s) / 2 for s in [-1, 1].  Bayes-consistent, convex.
    Source: textbook.

    Parameters
    ----------
    scores : array of shape (n,)
        Real scores.
    target : array of shape (n,)
        -1 or +1.
    weight : array of shape (n,), optional
        Weight of every sample, >= 0.

    Returns
    -------
    LossValue

    Raises
    ------
    LossInputError
        For shapes that do not fit, other targets, and numbers that are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> squared_hinge_margin(np.array([0.0, 2.0]), np.array([1, -1])).value
    array([1., 9.])
    """
    return _margin("squared_hinge", scores, target, weight)


def sigmoid_margin(scores: Array, target: Array, *, weight: Array | None = None) -> LossValue:
    """Sigmoid loss, Phi(z) = 1 / (1 + exp(z)): bounded, so that wild samples pull little, and not convex.

    Population minimiser: s -> +inf or -inf, the likelier sign.  No read-out of probabilities.  Bayes-consistent.  Source:
    textbook.

    Parameters
    ----------
    scores : array of shape (n,)
        Real scores.
    target : array of shape (n,)
        -1 or +1.
    weight : array of shape (n,), optional
        Weight of every sample, >= 0.

    Returns
    -------
    LossValue

    Raises
    ------
    LossInputError
        For shapes that do not fit, other targets, and numbers that are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> sigmoid_margin(np.array([0.0, 2.0]), np.array([1, -1])).value
    array([0.5       , 0.88079708])
    """
    return _margin("sigmoid", scores, target, weight)


def positive(xp: Any, z: Array) -> Array:
    """max(z, 0), with the derivative 1/2 at 0; `maximum` takes plain numbers only in some versions of the array API."""
    return 0.5 * (z + xp.abs(z))


def at_most(xp: Any, z: Array, bound: float) -> Array:
    """min(z, bound)."""
    return xp.where(z < bound, z, bound)


def softplus(xp: Any, z: Array) -> Array:
    """log(1 + exp(z)) without overflow."""
    return positive(xp, z) + xp.log1p(xp.exp(-xp.abs(z)))


def sigmoid(xp: Any, z: Array) -> Array:
    """1 / (1 + exp(-z)) without overflow, and exact for very negative z."""
    # The minimum rather than a choice by sign: with it torch's derivative is right at 0 too, where training starts.
    return xp.exp(-positive(xp, -z)) / (1.0 + xp.exp(-xp.abs(z)))


def phi_named(loss: str, margin: str) -> Phi:
    """The margin function of this name, for the losses that are built on one.

    Raises
    ------
    LossInputError
        For an unknown name.
    """
    check_choice(loss, "margin", margin, PHIS)
    return PHIS[margin]


def _bounded_exp(xp: Any, z: Array) -> Array:
    return xp.exp(at_most(xp, -z, LARGEST_EXPONENT))


def _exponential(xp: Any, z: Array) -> Array:
    inside = at_most(xp, -z, LARGEST_EXPONENT)
    return xp.exp(inside) * (1.0 + (-z - inside))


def _zero_or(xp: Any, z: Array, condition: Array, value: float) -> Array:
    return value * xp.astype(condition, z.dtype)


def bell(xp: Any, z: Array) -> Array:
    """sigmoid(z) * sigmoid(-z)."""
    tail = xp.exp(-xp.abs(z))
    return tail / (1.0 + tail) ** 2


PHIS: dict[str, Phi] = {
    "logistic": Phi(lambda xp, z: softplus(xp, -z), lambda xp, z: -sigmoid(xp, -z), bell),
    "exponential": Phi(
        _exponential,
        lambda xp, z: -_bounded_exp(xp, z),
        lambda xp, z: _bounded_exp(xp, z) * _zero_or(xp, z, -z < LARGEST_EXPONENT, 1.0),
    ),
    "hinge": Phi(
        lambda xp, z: positive(xp, 1.0 - z),
        lambda xp, z: _zero_or(xp, z, z < 1, -1.0),
        lambda xp, z: xp.zeros_like(z),
    ),
    "squared_hinge": Phi(
        lambda xp, z: positive(xp, 1.0 - z) ** 2,
        lambda xp, z: -2.0 * positive(xp, 1.0 - z),
        lambda xp, z: _zero_or(xp, z, z < 1, 2.0),
    ),
    "sigmoid": Phi(
        lambda xp, z: sigmoid(xp, -z),
        lambda xp, z: -bell(xp, z),
        lambda xp, z: bell(xp, z) * (sigmoid(xp, z) - sigmoid(xp, -z)),
    ),
}

MARGINS: dict[str, Callable[..., LossValue]] = {
    "logistic": logistic_margin,
    "exponential": exponential_margin,
    "hinge": hinge_margin,
    "squared_hinge": squared_hinge_margin,
    "sigmoid": sigmoid_margin,
}


def _margin_formula(name: str) -> Formula:
    phi = PHIS[name]

    def value(xp: Any, scores: Array, target: Array) -> Array:
        return phi.value(xp, target * scores)

    def gradient(xp: Any, scores: Array, target: Array) -> Array:
        return target * phi.slope(xp, target * scores)

    def hessian(xp: Any, scores: Array, vector: Array, target: Array) -> Array:
        return vector * phi.curvature(xp, target * scores)

    return Formula(f"{name}_margin", value, gradient, hessian)


_FORMULAS = {name: _margin_formula(name) for name in PHIS}


def _margin(name: str, scores: Array, target: Array, weight: Array | None) -> LossValue:
    formula = _FORMULAS[name]
    xp, scores = as_scores(formula.name, scores, matrix=False)
    target = as_beside(formula.name, "target", target, scores)
    if tuple(target.shape) != tuple(scores.shape):
        raise LossInputError(f"{formula.name}: target has shape {tuple(target.shape)} and scores {tuple(scores.shape)}")
    target = xp.astype(target, scores.dtype)
    raise_first(
        formula.name,
        "target",
        xp.abs(target) != 1,
        target,
        "other than -1 and +1",
        "A target is the wanted sign of the score.",
    )
    return LossValue(formula, scores, (target,), check_weight(formula.name, weight, scores))
