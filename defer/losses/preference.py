"""Losses of preferences: Bradley-Terry strengths from wins, the logistic loss of one battle, and weights by similarity.

Source: RouteLLM (Ong et al., ICLR 2025, arXiv 2406.18665), similarity-weighted ranking and matrix factorisation; the model is
Bradley and Terry's.  A tie is half a win of either side.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from array_api_compat import device
from numpy.typing import ArrayLike, NDArray

from defer.exceptions import LossInputError
from defer.losses.inputs import as_beside, as_scores, check_weight, raise_first
from defer.losses.margin import bell, sigmoid, softplus
from defer.losses.value import Formula, LossValue

__all__ = ["bradley_terry_loss", "preference_loss", "similarity_weights"]

Array = Any
Floats = NDArray[np.float64]

# Cosines closer to 0 than this are rounding, for unit vectors in single precision too.
_NO_COSINE = 1e-6


def bradley_terry_loss(strength: Array, wins: Array, *, weight: Array | None = None) -> LossValue:
    """Negative log-likelihood of battles, sum_ij wins_ij log(1 + exp(strength_j - strength_i)).

    Population minimiser: strength_i - strength_j = log(P(i beats j) / P(j beats i)), where the model holds; only differences
    are identified, and they are infinite for an arm that never loses.  Read-out: P(i beats j) = sigmoid of the difference.
    Convex.  For two arms the minimiser is log(wins_01 / wins_10) exactly.  Source: RouteLLM, similarity-weighted ranking.

    Parameters
    ----------
    strength : array of shape (n, m)
        Strength of every arm on every query.
    wins : array of shape (n, m, m)
        Weight of the battles that the arm of the row won against the arm of the column, >= 0; a tie counts half for each.
        The diagonal does not matter.
    weight : array of shape (n,), optional
        Weight of every sample, >= 0.

    Returns
    -------
    LossValue

    Raises
    ------
    LossInputError
        For shapes that do not fit, negative wins, and numbers that are not finite.

    Examples
    --------
    >>> loss = bradley_terry_loss(np.array([[np.log(3.0), 0.0]]), np.array([[[0.0, 3.0], [1.0, 0.0]]]))
    >>> loss.value.round(6).tolist(), loss.gradient.round(6).tolist()
    ([2.249341], [[0.0, 0.0]])
    """
    xp, strength = as_scores("bradley_terry_loss", strength)
    wins = xp.astype(as_beside("bradley_terry_loss", "wins", wins, strength), strength.dtype)
    n, m = strength.shape
    if tuple(wins.shape) != (n, m, m):
        raise LossInputError(
            f"bradley_terry_loss: wins has shape {tuple(wins.shape)}; it needs ({n}, {m}, {m}), one square table per sample"
        )
    wrong = (wins < 0) | ~xp.isfinite(wins)
    raise_first(
        "bradley_terry_loss", "wins", wrong, wins, "that are negative or not finite", "A battle not fought is 0."
    )
    return LossValue(_BRADLEY_TERRY, strength, (wins,), check_weight("bradley_terry_loss", weight, strength))


def preference_loss(difference: Array, win: Array, *, weight: Array | None = None) -> LossValue:
    """Cross-entropy of one battle per sample, log(1 + exp(difference)) - win * difference.

    Population minimiser: the log-odds of the first side's win.  Read-out: P(first wins) = sigmoid(difference).
    Bayes-consistent, convex.  Source: RouteLLM, matrix factorisation; for win 0 or 1 it is the logistic margin loss.

    Parameters
    ----------
    difference : array of shape (n,)
        Score of the first side minus that of the second.
    win : array of shape (n,)
        Share of the win that the first side gets, in [0, 1]; 0.5 is a tie.
    weight : array of shape (n,), optional
        Weight of every sample, >= 0.

    Returns
    -------
    LossValue

    Raises
    ------
    LossInputError
        For shapes that do not fit, a win outside [0, 1], and numbers that are not finite.

    Examples
    --------
    >>> preference_loss(np.array([0.0, 2.0]), np.array([0.5, 1.0])).value.round(6).tolist()
    [0.693147, 0.126928]
    """
    xp, difference = as_scores("preference_loss", difference, matrix=False)
    win = xp.astype(as_beside("preference_loss", "win", win, difference), difference.dtype)
    if tuple(win.shape) != tuple(difference.shape):
        raise LossInputError(
            f"preference_loss: win has shape {tuple(win.shape)} and difference {tuple(difference.shape)}; they must be equal"
        )
    wrong = ~((win >= 0) & (win <= 1))
    raise_first("preference_loss", "win", wrong, win, "outside [0, 1]", "It is the first side's share of the win.")
    return LossValue(_PREFERENCE, difference, (win,), check_weight("preference_loss", weight, difference))


def similarity_weights(cosine: ArrayLike, *, gamma: float = 10.0) -> Floats:
    """Weight of every logged battle for a query, gamma ** (1 + S) with S = cosine / largest cosine of the query.

    The most similar battle has the weight gamma**2; gamma = 1 weighs all alike.  The division needs a cosine above 0:
    a query without one (above 1e-6, which is rounding) is similar to nothing, and all battles weigh gamma.  That rule is
    ours.  Source: RouteLLM, similarity-weighted ranking.

    Parameters
    ----------
    cosine : array of shape (N,) or (n, N)
        Cosines of each query to the N logged ones; -inf leaves a battle out (weight 0).
    gamma : float, default=10.0
        > 0.

    Returns
    -------
    array of the shape of `cosine`
        float32 for float32.

    Raises
    ------
    LossInputError
        If `gamma` is no finite number > 0, or a cosine is above 1 (by more than rounding) or NaN.

    Examples
    --------
    >>> similarity_weights([0.9, 0.45, -0.9]).round(4).tolist()
    [100.0, 31.6228, 1.0]
    """
    if not isinstance(gamma, Real) or isinstance(gamma, bool) or not 0 < float(gamma) < np.inf:
        raise LossInputError(f"similarity_weights: gamma must be a finite number > 0, got {gamma!r}")
    values = np.asarray(cosine)
    values = values if values.dtype == np.float32 else values.astype(np.float64)
    if values.ndim not in (1, 2):
        raise LossInputError(f"similarity_weights: cosine must have shape (N,) or (n, N), got {values.shape}")
    raise_first("similarity_weights", "cosine", ~(values <= 1.001), values, "above 1 or NaN", "")
    largest = values.max(axis=-1, keepdims=True, initial=-np.inf)
    scale = np.where(largest > _NO_COSINE, np.log(gamma) / np.where(largest > _NO_COSINE, largest, 1.0), 0.0)
    left_out = np.isneginf(values)
    exponent = np.where(left_out, 0.0, values) * scale.astype(values.dtype) + values.dtype.type(np.log(gamma))
    return np.asarray(np.where(left_out, values.dtype.type(0), np.exp(exponent)))


def _differences(xp: Any, strength: Array) -> Array:
    return strength[:, :, None] - strength[:, None, :]


def _bt_value(xp: Any, strength: Array, wins: Array) -> Array:
    return xp.sum(xp.sum(_off_diagonal(xp, wins) * softplus(xp, -_differences(xp, strength)), axis=2), axis=1)


def _bt_gradient(xp: Any, strength: Array, wins: Array) -> Array:
    lost = _off_diagonal(xp, wins) * sigmoid(xp, -_differences(xp, strength))
    return xp.sum(lost, axis=1) - xp.sum(lost, axis=2)


def _bt_hessian(xp: Any, strength: Array, vector: Array, wins: Array) -> Array:
    bent = _off_diagonal(xp, wins) * bell(xp, _differences(xp, strength)) * _differences(xp, vector)
    return xp.sum(bent, axis=2) - xp.sum(bent, axis=1)


def _off_diagonal(xp: Any, wins: Array) -> Array:
    m = wins.shape[1]
    arm = xp.arange(m, device=device(wins))
    off = arm[:, None] != arm[None, :]
    return xp.where(off, wins, xp.zeros_like(wins))


def _preference_gradient(xp: Any, difference: Array, win: Array) -> Array:
    return sigmoid(xp, difference) - win


_BRADLEY_TERRY = Formula("bradley_terry_loss", _bt_value, _bt_gradient, _bt_hessian)
_PREFERENCE = Formula(
    "preference_loss",
    lambda xp, difference, win: softplus(xp, difference) - win * difference,
    _preference_gradient,
    lambda xp, difference, vector, win: bell(xp, difference) * vector,
)
