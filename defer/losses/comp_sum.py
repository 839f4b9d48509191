"""Multiclass losses that are a sum over classes of a function of the softmax, and the constrained losses.

Every function takes scores (n, m) and a target that is either integer labels (n,) or weights >= 0 per class (n, m); the loss is
sum_j w_j ell(scores, j), with one-hot weights for labels.  With p = softmax(scores) a comp-sum loss is
ell(scores, j) = psi(p_j).  Sources: Mao, Mohri, Zhong 2023 (comp-sum family); Lee, Lin, Wahba 2004 (constrained losses).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from array_api_compat import array_namespace

from defer.exceptions import LossInputError
from defer.losses.inputs import as_beside, as_scores, check_share, check_weight, columns, raise_first
from defer.losses.margin import phi_named
from defer.losses.multiclass import (
    CROSS_ENTROPY,
    SUM_EXPONENTIAL,
    CompSum,
    constrained_parts,
    power_parts,
    weighted_formula,
)
from defer.losses.value import LossValue

__all__ = [
    "COMP_SUMS",
    "constrained",
    "cross_entropy",
    "generalized_cross_entropy",
    "mean_absolute_error",
    "sum_exponential",
]

Array = Any


def cross_entropy(scores: Array, target: Array, *, weight: Array | None = None) -> LossValue:
    """Cross-entropy (multinomial logistic loss), psi(p) = -log p.

    Population minimiser: softmax(s) = E[w] / sum E[w].  Read-out: the softmax.  Bayes-consistent, convex.
    Source: textbook; Mao, Mohri, Zhong 2023, on H-consistency too, which was not derived again here.

    Parameters
    ----------
    scores : array of shape (n, m)
        One real score per class.
    target : array of shape (n,) or (n, m)
        Integer labels, or weights >= 0 per class.
    weight : array of shape (n,), optional
        Weight of every sample, >= 0.

    Returns
    -------
    LossValue
        With a cheap Hessian product.

    Raises
    ------
    LossInputError
        For shapes that do not fit, labels out of range, negative weights, and numbers that are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> cross_entropy(np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([0, 1])).value
    array([0.69314718, 1.31326169])
    """
    return _with_target("cross_entropy", CROSS_ENTROPY, scores, target, weight)


def generalized_cross_entropy(
    scores: Array, target: Array, *, weight: Array | None = None, q: float = 0.7
) -> LossValue:
    """Generalised cross-entropy, psi(p) = (1 - p**q) / q: between cross-entropy (q -> 0) and mean absolute error (q = 1).

    Population minimiser: softmax(s)_j proportional to E[w_j]**(1 / (1 - q)) for q < 1, so it ranks the classes as E[w] does.
    Read-out: softmax(s)_j**(1 - q), normalised.  Bayes-consistent, not convex.  Source: Zhang and Sabuncu 2018; Mao,
    Mohri, Zhong 2023, on H-consistency too, which was not derived again here.

    Parameters
    ----------
    scores : array of shape (n, m)
        One real score per class.
    target : array of shape (n,) or (n, m)
        Integer labels, or weights >= 0 per class.
    weight : array of shape (n,), optional
        Weight of every sample, >= 0.
    q : float, default=0.7
        In [0, 1]; 0 is cross-entropy.

    Returns
    -------
    LossValue

    Raises
    ------
    LossInputError
        For shapes that do not fit, labels or `q` out of range, negative weights, and numbers that are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> generalized_cross_entropy(np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([0, 1]), q=0.5).value
    array([0.58578644, 0.96280875])
    """
    name = "generalized_cross_entropy"
    return _with_target(name, power_parts(check_share(name, "q", q)), scores, target, weight)


def mean_absolute_error(scores: Array, target: Array, *, weight: Array | None = None) -> LossValue:
    """Mean absolute error, psi(p) = 1 - p.

    Population minimiser: softmax(s) -> the vertex of the largest E[w].  No read-out of probabilities.
    Bayes-consistent, with a linear bound; not convex.  Source: Ghosh et al. 2017; Mao, Mohri, Zhong 2023, on H-consistency
    too, which was not derived again here.

    Parameters
    ----------
    scores : array of shape (n, m)
        One real score per class.
    target : array of shape (n,) or (n, m)
        Integer labels, or weights >= 0 per class.
    weight : array of shape (n,), optional
        Weight of every sample, >= 0.

    Returns
    -------
    LossValue

    Raises
    ------
    LossInputError
        For shapes that do not fit, labels out of range, negative weights, and numbers that are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> mean_absolute_error(np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([0, 1])).value
    array([0.5       , 0.73105858])
    """
    return _with_target("mean_absolute_error", power_parts(1.0), scores, target, weight)


def sum_exponential(scores: Array, target: Array, *, weight: Array | None = None) -> LossValue:
    """Sum-exponential loss, psi(p) = 1 / p - 1 = sum_{k != j} exp(s_k - s_j).

    Where -log p exceeds 50 it is continued linearly in -log p, so that it stays finite and convex.  Population minimiser:
    softmax(s)_j proportional to sqrt(E[w_j]).  Read-out: softmax(s)_j**2, normalised.  Bayes-consistent.  Source: Weston
    and Watkins 1998; Mao, Mohri, Zhong 2023, on H-consistency too, which was not derived again here.

    Parameters
    ----------
    scores : array of shape (n, m)
        One real score per class.
    target : array of shape (n,) or (n, m)
        Integer labels, or weights >= 0 per class.
    weight : array of shape (n,), optional
        Weight of every sample, >= 0.

    Returns
    -------
    LossValue

    Raises
    ------
    LossInputError
        For shapes that do not fit, labels out of range, negative weights, and numbers that are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> sum_exponential(np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([0, 1])).value
    array([1.        , 2.71828183])
    """
    return _with_target("sum_exponential", SUM_EXPONENTIAL, scores, target, weight)


def constrained(scores: Array, target: Array, *, weight: Array | None = None, margin: str = "exponential") -> LossValue:
    """Constrained loss, ell(s, j) = sum_{k != j} Phi(-u_k) with u the scores centred to sum 0.

    Population minimiser: argmax u is the class of the largest E[w]; with the exponential margin
    u_k = -log(W - E[w_k]) + const, W = sum E[w], whence the read-out up to scale.  Bayes-consistent; convex but for
    the sigmoid margin.  Source: Lee, Lin, Wahba 2004; Mao, Mohri, Zhong 2023, on H-consistency too, which was not derived
    again here.

    Parameters
    ----------
    scores : array of shape (n, m)
        One real score per class; a constant added to a row changes nothing.
    target : array of shape (n,) or (n, m)
        Integer labels, or weights >= 0 per class.
    weight : array of shape (n,), optional
        Weight of every sample, >= 0.
    margin : {"exponential", "hinge", "squared_hinge", "logistic", "sigmoid"}, default="exponential"
        Phi, see `defer.losses.margin`.

    Returns
    -------
    LossValue
        With a cheap Hessian product.

    Raises
    ------
    LossInputError
        For shapes that do not fit, labels out of range, an unknown margin, negative weights, and numbers that are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> constrained(np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([0, 1]), margin="hinge").value
    array([1. , 1.5])
    """
    phi_named("constrained", margin)
    return _with_target("constrained", constrained_parts(margin), scores, target, weight)


COMP_SUMS: dict[str, Callable[..., LossValue]] = {
    "cross_entropy": cross_entropy,
    "generalized_cross_entropy": generalized_cross_entropy,
    "mean_absolute_error": mean_absolute_error,
    "sum_exponential": sum_exponential,
    "constrained": constrained,
}


def _label_weights(xp: Any, scores: Array, labels: Array) -> Array:
    return columns(xp, scores, labels, scores.shape[1])


def _given_weights(xp: Any, scores: Array, w: Array) -> Array:
    return w


def _with_target(name: str, loss: CompSum, scores: Array, target: Array, weight: Array | None) -> LossValue:
    _, scores = as_scores(name, scores)
    target = as_beside(name, "target", target, scores)
    n, m = scores.shape
    if tuple(target.shape) == (n,):
        _check_labels(name, target, m)
        weights: Callable[..., Array] = _label_weights
    elif tuple(target.shape) == (n, m):
        _check_weights(name, target)
        weights = _given_weights
    else:
        raise LossInputError(
            f"{name}: target has shape {tuple(target.shape)}; it needs ({n},) integer labels or ({n}, {m}) weights per class, "
            "because scores have that shape"
        )
    return LossValue(weighted_formula(name, loss, weights), scores, (target,), check_weight(name, weight, scores))


def _check_labels(name: str, labels: Array, m: int) -> None:
    xp = array_namespace(labels)
    if not xp.isdtype(labels.dtype, "integral"):
        raise LossInputError(
            f"{name}: target of shape ({labels.shape[0]},) must be integer labels, got dtype {labels.dtype}; weights per class "
            f"have shape ({labels.shape[0]}, {m})"
        )
    wrong = (labels < 0) | (labels >= m)
    raise_first(name, "target", wrong, labels, f"outside 0..{m - 1}", "A label is the index of a column of the scores.")


def _check_weights(name: str, w: Array) -> None:
    xp = array_namespace(w)
    if 0 in w.shape or (float(xp.min(w)) >= 0 and float(xp.max(w)) < float("inf")):
        return
    wrong = (w < 0) | ~xp.isfinite(w)
    hint = "A class that is not wanted has weight 0; a cost c in [0, 1] becomes the weight 1 - c."
    raise_first(name, "target", wrong, w, "that are negative or not finite", hint)
