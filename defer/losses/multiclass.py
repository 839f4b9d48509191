"""What a multiclass loss with weights per class computes: sum_j w_j ell(scores, j), its gradient, and its Hessian.

The public functions are in `defer.losses.comp_sum`; the deferral surrogates are built on the same parts with weights that they
make from costs.  With p = softmax(scores) a comp-sum loss is ell(scores, j) = psi(p_j).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from defer.losses.inputs import check_choice
from defer.losses.margin import LARGEST_EXPONENT, at_most, phi_named
from defer.losses.value import Formula

__all__ = [
    "CROSS_ENTROPY",
    "SUM_EXPONENTIAL",
    "CompSum",
    "comp_sum_named",
    "constrained_parts",
    "log_softmax",
    "power_parts",
    "softmax",
    "weighted_formula",
]

Array = Any
Weights = Callable[..., Array]


@dataclass(frozen=True, slots=True)
class CompSum:
    """The parts of a loss sum_j w_j ell(scores, j), each called as ``f(xp, scores, w[, vector])``.

    Parameters
    ----------
    value, gradient, hessian : callable
        Loss, derivative by the scores, and product of the Hessian with a vector (None where it is not cheap).
    """

    value: Callable[..., Array]
    gradient: Callable[..., Array]
    hessian: Callable[..., Array] | None = None


def log_softmax(xp: Any, scores: Array) -> Array:
    """Logarithm of the softmax of every row; finite, and without loss of digits at large scores."""
    shifted = scores - xp.max(scores, axis=1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=1, keepdims=True))


def softmax(xp: Any, scores: Array) -> Array:
    """Softmax of every row."""
    e = xp.exp(scores - xp.max(scores, axis=1, keepdims=True))
    return e / xp.sum(e, axis=1, keepdims=True)


def comp_sum_named(loss: str, name: str) -> CompSum:
    """The loss of this name with its default options, for the losses that are built on one.

    Raises
    ------
    LossInputError
        For an unknown name.
    """
    choices: dict[str, Callable[[], CompSum]] = {
        "cross_entropy": lambda: CROSS_ENTROPY,
        "generalized_cross_entropy": lambda: power_parts(0.7),
        "mean_absolute_error": lambda: power_parts(1.0),
        "sum_exponential": lambda: SUM_EXPONENTIAL,
        "constrained": lambda: constrained_parts("exponential"),
    }
    check_choice(loss, "comp_sum", name, choices)
    return choices[name]()


def weighted_formula(name: str, loss: CompSum, weights: Weights) -> Formula:
    """Formula of sum_j w_j ell(scores, j) in which ``weights(xp, scores, *tables)`` makes the weights of every block."""

    def value(xp: Any, scores: Array, *tables: Array) -> Array:
        return loss.value(xp, scores, weights(xp, scores, *tables))

    def gradient(xp: Any, scores: Array, *tables: Array) -> Array:
        return loss.gradient(xp, scores, weights(xp, scores, *tables))

    def hessian(xp: Any, scores: Array, vector: Array, *tables: Array) -> Array:
        assert loss.hessian is not None
        return loss.hessian(xp, scores, weights(xp, scores, *tables), vector)

    return Formula(name, value, gradient, None if loss.hessian is None else hessian)


def _cross_entropy_value(xp: Any, scores: Array, w: Array) -> Array:
    return -xp.sum(w * log_softmax(xp, scores), axis=1)


def _cross_entropy_gradient(xp: Any, scores: Array, w: Array) -> Array:
    e = xp.exp(scores - xp.max(scores, axis=1, keepdims=True))
    return e * (xp.sum(w, axis=1, keepdims=True) / xp.sum(e, axis=1, keepdims=True)) - w


def _cross_entropy_hessian(xp: Any, scores: Array, w: Array, vector: Array) -> Array:
    p = softmax(xp, scores)
    mean = xp.sum(p * vector, axis=1, keepdims=True)
    return xp.sum(w, axis=1, keepdims=True) * p * (vector - mean)


CROSS_ENTROPY = CompSum(_cross_entropy_value, _cross_entropy_gradient, _cross_entropy_hessian)


@cache
def power_parts(q: float) -> CompSum:
    """Generalised cross-entropy, psi(p) = (1 - p**q) / q through log p."""
    if q == 0:
        return CROSS_ENTROPY

    def value(xp: Any, scores: Array, w: Array) -> Array:
        return xp.sum(w * xp.expm1(q * log_softmax(xp, scores)), axis=1) * (-1.0 / q)

    def gradient(xp: Any, scores: Array, w: Array) -> Array:
        logs = log_softmax(xp, scores)
        p = xp.exp(logs)
        part = w * (p if q == 1 else xp.exp(q * logs))
        return p * xp.sum(part, axis=1, keepdims=True) - part

    return CompSum(value, gradient)


def _sum_exponential_value(xp: Any, scores: Array, w: Array) -> Array:
    x = -log_softmax(xp, scores)
    inside = at_most(xp, x, LARGEST_EXPONENT)
    return xp.sum(w * (xp.exp(inside) * (1.0 + (x - inside)) - 1.0), axis=1)


def _sum_exponential_gradient(xp: Any, scores: Array, w: Array) -> Array:
    logs = log_softmax(xp, scores)
    part = w * xp.exp(at_most(xp, -logs, LARGEST_EXPONENT))
    return xp.exp(logs) * xp.sum(part, axis=1, keepdims=True) - part


SUM_EXPONENTIAL = CompSum(_sum_exponential_value, _sum_exponential_gradient)


@cache
def constrained_parts(margin: str) -> CompSum:
    """Constrained loss: a margin function of the centred scores of all other classes."""
    phi = phi_named("constrained", margin)

    def parts(xp: Any, scores: Array, w: Array) -> tuple[Array, Array]:
        return xp.sum(w, axis=1, keepdims=True) - w, _centred(xp, scores)

    def value(xp: Any, scores: Array, w: Array) -> Array:
        others, u = parts(xp, scores, w)
        return xp.sum(others * phi.value(xp, -u), axis=1)

    def gradient(xp: Any, scores: Array, w: Array) -> Array:
        others, u = parts(xp, scores, w)
        return _centred(xp, -others * phi.slope(xp, -u))

    def hessian(xp: Any, scores: Array, w: Array, vector: Array) -> Array:
        others, u = parts(xp, scores, w)
        return _centred(xp, others * phi.curvature(xp, -u) * _centred(xp, vector))

    return CompSum(value, gradient, hessian)


def _centred(xp: Any, rows: Array) -> Array:
    return rows - xp.mean(rows, axis=1, keepdims=True)
