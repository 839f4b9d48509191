"""Contrastive losses: pairs of queries that belong together or apart, and queries against arms.

Sources: the margin loss by which OrchestraLLM's retriever is tuned (Lee, Cheng, Ostendorf 2024, arXiv 2311.09758), and the dual
contrastive loss of RouterDC (Chen et al. 2024, arXiv 2409.19886).
"""

from __future__ import annotations

from functools import cache
from numbers import Integral, Real
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import ArrayLike, NDArray

from defer.exceptions import LossInputError
from defer.losses.inputs import as_array, as_beside, as_scores, check_weight, raise_first
from defer.losses.value import Formula, LossValue

__all__ = ["contrast_weights", "dual_contrastive", "margin_contrastive"]

Array = Any
Floats = NDArray[np.float64]


def margin_contrastive(distance: Array, same: Array, *, margin: float = 1.0, weight: Array | None = None) -> LossValue:
    """Margin contrastive loss, y d**2 + (1 - y) max(0, margin - d)**2, of the distance d of a pair.

    Population minimiser over d >= 0: d = 0 where a pair always belongs together, d >= margin where it never does, and
    d = margin (1 - p) where it does with probability p.  Convex in d.  Nothing is proved about routing by it.  The form of
    the loss is our reading of the source.

    Parameters
    ----------
    distance : array of shape (n,)
        Of every pair, such as 1 - cosine.
    same : array of shape (n,)
        y: 1 for a pair that belongs together, 0 for one that does not; what lies between is a probability.
    margin : float, default=1.0
        Distance from which pairs that do not belong together cost nothing, > 0.
    weight : array of shape (n,), optional
        Weight of every pair, >= 0.

    Returns
    -------
    LossValue
        With a cheap Hessian product.

    Raises
    ------
    LossInputError
        For shapes that do not fit, `same` outside [0, 1], and a margin that is no finite number > 0.

    References
    ----------
    Lee, Cheng, Ostendorf 2024, OrchestraLLM.

    Examples
    --------
    >>> import numpy as np
    >>> margin_contrastive(np.array([0.5, 0.25, 1.5]), np.array([1, 0, 0])).value
    array([0.25  , 0.5625, 0.    ])
    """
    name = "margin_contrastive"
    _, distance = as_scores(name, distance, matrix=False)
    _check_positive(name, "margin", margin)
    same = _weights_beside(name, "same", same, distance, most=1.0)
    return LossValue(_margin_formula(float(margin)), distance, (same,), check_weight(name, weight, distance))


def dual_contrastive(
    scores: Array,
    positive: Array,
    negative: Array,
    *,
    n_arms: int | None = None,
    balance: float = 1.0,
    weight: Array | None = None,
) -> LossValue:
    """Dual contrastive loss: every positive of a query against all its negatives, among arms and among queries.

    With similarities s the loss of a query is the sum over arms j of P_j log(1 + sum_k N_k exp(s_k - s_j)), plus `balance` times
    the same over queries.  A term without negatives is 0.  Convex in the scores.  Minimised where each positive lies above each
    negative by as much as can be; what lies between is free, so scores are an order and no probabilities.  Nothing is proved
    about the routing rule.

    Parameters
    ----------
    scores : array of shape (n, m)
        Similarity of every query to every arm, and to queries in the columns after them, divided by the temperature.
    positive, negative : arrays of shape (n, m)
        P and N: weight with which each column is a positive or a negative of the query, >= 0; 0 leaves it out.
    n_arms : int, optional
        How many columns are arms; all by default.
    balance : float, default=1.0
        Weight of the contrast among queries, >= 0.
    weight : array of shape (n,), optional
        Weight of every query, >= 0.

    Returns
    -------
    LossValue

    Raises
    ------
    LossInputError
        For shapes that do not fit, weights that are negative or not finite, and options out of range.

    Notes
    -----
    The source takes the best and the worst few arms of a query with weight 1 (`contrast_weights`), and draws one query of the
    same cluster and some of other clusters.

    References
    ----------
    Chen et al. 2024, RouterDC, arXiv 2409.19886.

    Examples
    --------
    >>> import numpy as np
    >>> loss = dual_contrastive(np.array([[1.0, 0.0, 0.0]]), np.array([[1, 0, 0]]), np.array([[0, 1, 1]]))
    >>> loss.value, loss.gradient
    (array([0.55144471]), array([[-0.42388312,  0.21194156,  0.21194156]]))
    """
    name = "dual_contrastive"
    _, scores = as_scores(name, scores)
    m = scores.shape[1]
    n_arms = m if n_arms is None else n_arms
    if isinstance(n_arms, bool) or not isinstance(n_arms, Integral) or not 1 <= int(n_arms) <= m:
        raise LossInputError(f"{name}: n_arms must be an integer from 1 to {m}, the columns of scores, got {n_arms!r}")
    if isinstance(balance, bool) or not isinstance(balance, Real) or not 0 <= float(balance) < np.inf:
        raise LossInputError(f"{name}: balance must be a finite number >= 0, got {balance!r}")
    positive = _weights_beside(name, "positive", positive, scores)
    negative = _weights_beside(name, "negative", negative, scores)
    formula = _dual_formula(int(n_arms), float(balance))
    return LossValue(formula, scores, (positive, negative), check_weight(name, weight, scores))


def contrast_weights(
    quality: ArrayLike, *, n_positive: int = 3, n_negative: int = 3, wrong_below: float = 0.5
) -> tuple[Floats, Floats]:
    """Which arms of a query are its positives and its negatives.

    Positives are the `n_positive` best arms whose quality is above 0; negatives the `n_negative` worst whose quality is at most
    `wrong_below` and that are no positives.  Arms that tie for the last places share them.

    Parameters
    ----------
    quality : array of shape (n, m)
        In [0, 1]; NaN = not observed, and neither.
    n_positive, n_negative : int, default=3
    wrong_below : float, default=0.5

    Returns
    -------
    positive, negative : arrays of shape (n, m)

    Raises
    ------
    LossInputError
        If `quality` is no table of numbers, a count is no integer >= 1, or the threshold lies outside [0, 1].

    Notes
    -----
    Numbers and threshold are those of the source and of its code.  Sharing places among ties is ours, so that the order of the
    arms does not matter where many are right; it is the mean over orders for the positives.

    References
    ----------
    Chen et al. 2024, RouterDC, arXiv 2409.19886.

    Examples
    --------
    >>> positive, negative = contrast_weights([[1.0, 1.0, 0.9, 0.0]], n_positive=1, n_negative=1)
    >>> positive.tolist(), negative.tolist()
    ([[0.5, 0.5, 0.0, 0.0]], [[0.0, 0.0, 0.0, 1.0]])
    """
    name = "contrast_weights"
    table = np.asarray(as_array(name, "quality", quality), dtype=np.float64)
    if table.ndim != 2 or table.shape[1] == 0:
        raise LossInputError(f"{name}: quality must have shape (n, m) with m >= 1, got {table.shape}")
    for option, value in (("n_positive", n_positive), ("n_negative", n_negative)):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise LossInputError(f"{name}: {option} must be an integer >= 1, got {value!r}")
    if isinstance(wrong_below, bool) or not isinstance(wrong_below, Real) or not 0 <= float(wrong_below) <= 1:
        raise LossInputError(f"{name}: wrong_below must lie in [0, 1], got {wrong_below!r}")
    positive = _largest(np.where(table > 0, table, -np.inf), int(n_positive))
    negative = _largest(np.where(table <= wrong_below, -table, -np.inf), int(n_negative))
    return positive, np.where(positive > 0, 0.0, negative)


def _largest(table: Floats, k: int) -> Floats:
    """1 for the k largest finite numbers of every row; those that tie for the last places share them."""
    if k >= table.shape[1]:
        return np.isfinite(table).astype(np.float64)
    edge = -np.partition(-table, k - 1, axis=1)[:, k - 1 : k]
    above, tied = table > edge, (table == edge) & np.isfinite(table)
    places = k - above.sum(axis=1, keepdims=True)
    return above + tied * (places / np.maximum(tied.sum(axis=1, keepdims=True), 1))


@cache
def _margin_formula(margin: float) -> Formula:
    def gap(xp: Any, distance: Array) -> Array:
        return xp.where(distance < margin, margin - distance, xp.zeros_like(distance))

    def value(xp: Any, distance: Array, same: Array) -> Array:
        return same * distance**2 + (1.0 - same) * gap(xp, distance) ** 2

    def gradient(xp: Any, distance: Array, same: Array) -> Array:
        return 2.0 * (same * distance - (1.0 - same) * gap(xp, distance))

    def hessian(xp: Any, distance: Array, vector: Array, same: Array) -> Array:
        return 2.0 * vector * xp.where(distance < margin, xp.ones_like(distance), same)

    return Formula("margin_contrastive", value, gradient, hessian)


@cache
def _dual_formula(n_arms: int, balance: float) -> Formula:
    parts = (slice(None, n_arms), slice(n_arms, None))

    def value(xp: Any, scores: Array, positive: Array, negative: Array) -> Array:
        arms, queries = parts
        total = _contrast(xp, scores[:, arms], positive[:, arms], negative[:, arms])
        if n_arms < scores.shape[1]:
            total = total + balance * _contrast(xp, scores[:, queries], positive[:, queries], negative[:, queries])
        return total

    def gradient(xp: Any, scores: Array, positive: Array, negative: Array) -> Array:
        arms, queries = parts
        first = _contrast_slope(xp, scores[:, arms], positive[:, arms], negative[:, arms])
        if n_arms == scores.shape[1]:
            return first
        second = _contrast_slope(xp, scores[:, queries], positive[:, queries], negative[:, queries])
        return xp.concat([first, balance * second], axis=1)

    return Formula("dual_contrastive", value, gradient)


def _mass_of_negatives(xp: Any, scores: Array, negative: Array) -> tuple[Array, Array, Array]:
    """Logarithm of sum_k N_k exp(s_k), the share of every negative in it, and whether there is any."""
    there = negative > 0
    top = xp.max(xp.where(there, scores, xp.full_like(scores, -xp.inf)), axis=1, keepdims=True)
    has = xp.isfinite(top)
    top = xp.where(has, top, xp.zeros_like(top))
    part = xp.where(there, negative * xp.exp(xp.where(there, scores - top, xp.zeros_like(scores))), 0.0)
    total = xp.sum(part, axis=1, keepdims=True)
    total = xp.where(has, total, xp.ones_like(total))
    return top + xp.log(total), part / total, has


def _contrast(xp: Any, scores: Array, positive: Array, negative: Array) -> Array:
    log_mass, _, has = _mass_of_negatives(xp, scores, negative)
    gap = log_mass - scores
    # log(1 + exp(gap)) without overflow.
    soft = xp.where(gap > 0, gap, xp.zeros_like(gap)) + xp.log1p(xp.exp(-xp.abs(gap)))
    return xp.sum(xp.where(has, positive * soft, xp.zeros_like(soft)), axis=1)


def _contrast_slope(xp: Any, scores: Array, positive: Array, negative: Array) -> Array:
    log_mass, share, has = _mass_of_negatives(xp, scores, negative)
    gap = log_mass - scores
    small = xp.exp(-xp.abs(gap))
    chance = xp.where(gap > 0, xp.ones_like(gap), small) / (1.0 + small)
    push = xp.where(has, positive * chance, xp.zeros_like(chance))
    return xp.sum(push, axis=1, keepdims=True) * share - push


def _weights_beside(loss: str, name: str, values: Array, scores: Array, *, most: float = np.inf) -> Array:
    """Weights of the shape of the scores, in their namespace."""
    values = as_beside(loss, name, values, scores)
    xp = array_namespace(scores)
    if tuple(values.shape) != tuple(scores.shape):
        raise LossInputError(
            f"{loss}: {name} has shape {tuple(values.shape)}; it needs that of the first argument, {tuple(scores.shape)}"
        )
    values = xp.astype(values, scores.dtype)
    wrong = ~((values >= 0) & (values <= most) & xp.isfinite(values))
    rule = "that are negative or not finite" if np.isinf(most) else f"outside [0, {most:g}]"
    raise_first(loss, name, wrong, values, rule, "")
    return values


def _check_positive(loss: str, name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < np.inf:
        raise LossInputError(f"{loss}: {name} must be a finite number > 0, got {value!r}")
