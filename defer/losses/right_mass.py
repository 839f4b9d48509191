"""The surrogates that look at the total softmax mass of the right actions (RS, RL2D), in log space.

Sources: Mozannar et al. 2023 (Psi = -log); Mao, Mohri, Zhong 2024 (the family).
"""

from __future__ import annotations

from functools import cache
from typing import Any

from defer.losses.inputs import check_share, check_single_stage, check_weight
from defer.losses.margin import sigmoid, softplus
from defer.losses.value import Formula, LossValue

__all__ = ["realizable_deferral", "rl2d_deferral"]

Array = Any


def realizable_deferral(
    scores: Array, cost: Array, *, n_experts: int = 1, weight: Array | None = None, mix: float = 1.0
) -> LossValue:
    """Realizable surrogate RS, -log(s_y + ok s_d), mixed with the classes' cross-entropy.

    In general form mix * RS + (1 - mix) * CE, with RS = -c log(P) - (1 - c) log(P + s_d), P = sum_k t_k s_k the softmax mass of
    the right classes, and CE = -sum_k t_k log softmax(u_1 .. u_K)_k.  Without experts RS = -log(sum_k t_k s_k), the mass of all
    right actions.  A term whose mass no score can change (no right action) is left out.

    Proved for mix = 1: realizable-consistent, that is, where some scores of a class that is closed under scaling reach zero deferral loss,
    near-minimisers do too.  **Not Bayes-consistent for a random expert**: with eta = (.5, .5) and an expert that is right with
    probability .6 on both classes the minimiser s = (.4, .4, .2) predicts, while the Bayes rule defers.  Even for a
    deterministic expert the minimiser is a set (only s_1 + s_d is determined where the expert always says class 1), in which
    some members decide wrongly.  With mix < 1 neither holds: on the five points of
    `defer.datasets.realizable_witness` the best minimisers found with mix .1 to .7 err on one.  No read-out of probabilities.  Not convex.

    Parameters
    ----------
    scores : array of shape (n, K + J)
        Classes, then at most one expert.
    cost : array of shape (n, K + J)
        In [0, 1]; NaN in the expert's column where it was not asked, which counts as not right.
    n_experts : int, default=1
        0 or 1.
    weight : array of shape (n,), optional
        Weight of every sample, >= 0.
    mix : float, default=1.0
        Share of RS, in [0, 1].

    Returns
    -------
    LossValue

    Raises
    ------
    CostRangeError
        For costs outside [0, 1].
    LossInputError
        For shapes that do not fit, NaN in a class column, more than one expert, and `mix` out of range.

    References
    ----------
    Mozannar et al. 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from defer.losses import deferral_cost
    >>> scores = np.array([[1.0, 0.0, -1.0, 2.0]] * 2)
    >>> realizable_deferral(scores, deferral_cost([0, 0], [0.0, 1.0], n_classes=3)).value
    array([0.12692801, 1.4401897 ])
    """
    name = "realizable_deferral"
    scores, cost, _, missing = check_single_stage(name, scores, cost, n_experts, most=1)
    formula = _right_mass_formula(name, n_experts=n_experts, q=0.0, mix=check_share(name, "mix", mix), missing=missing)
    return LossValue(formula, scores, (cost,), check_weight(name, weight, scores))


def rl2d_deferral(
    scores: Array, cost: Array, q: float = 0.7, *, n_experts: int = 1, weight: Array | None = None
) -> LossValue:
    """RL2D surrogate, c Psi(P) + (1 - c) Psi(P + s_d), with Psi_q(t) = (1 - t**q) / q.

    P = sum_k t_k s_k is the softmax mass of the right classes (s_y for one-hot costs); q = 0 is Psi = -log, the realizable
    surrogate; q = 1 is Psi(t) = 1 - t, of the type of the mean absolute error.  Without experts it is Psi(sum_k t_k s_k).  A
    term whose mass no score can change (no right action) is left out.

    Proved: realizable-consistent under conditions on Psi.  Bayes-consistent for q = 1, where the loss is linear in the softmax:
    1 - P - (1 - c) s_d, least at a Bayes action.  **Not for q < 1 with a random expert**: with eta = (.5, .5) and an expert
    that is right with probability p on both classes the minimiser predicts for p < 2**(1 - q) / (1 + 2**(1 - q)), which is
    .5518 at q = .7, while the Bayes rule defers for every p > .5.  Not convex; towards q = 1 plateaus without a slope make it
    hard to minimise from afar, and a minimum for a smaller q is the better start.  No read-out of probabilities.

    Parameters
    ----------
    scores : array of shape (n, K + J)
        Classes, then at most one expert.
    cost : array of shape (n, K + J)
        In [0, 1]; NaN in the expert's column where it was not asked, which counts as not right.
    q : float, default=0.7
        In [0, 1].
    n_experts : int, default=1
        0 or 1.
    weight : array of shape (n,), optional
        Weight of every sample, >= 0.

    Returns
    -------
    LossValue

    Raises
    ------
    CostRangeError
        For costs outside [0, 1].
    LossInputError
        For shapes that do not fit, NaN in a class column, more than one expert, and `q` out of range.

    References
    ----------
    Mao, Mohri, Zhong 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from defer.losses import deferral_cost
    >>> scores = np.array([[1.0, 0.0, -1.0, 2.0]] * 2)
    >>> rl2d_deferral(scores, deferral_cost([0, 0], [0.0, 1.0], n_classes=3), q=1.0).value
    array([0.11920292, 0.76311718])
    """
    name = "rl2d_deferral"
    scores, cost, _, missing = check_single_stage(name, scores, cost, n_experts, most=1)
    formula = _right_mass_formula(name, n_experts=n_experts, q=check_share(name, "q", q), mix=1.0, missing=missing)
    return LossValue(formula, scores, (cost,), check_weight(name, weight, scores))


@cache
def _right_mass_formula(name: str, *, n_experts: int, q: float, mix: float, missing: bool) -> Formula:
    """mix * (c Psi_q(P) + (1 - c) Psi_q(P + s_d)) + (1 - mix) * cross-entropy of the classes, for at most one expert."""

    def psi(xp: Any, logs: Array) -> Array:
        return -logs if q == 0 else xp.expm1(q * logs) * (-1.0 / q)

    def steepness(xp: Any, logs: Array) -> Array | float:
        """-d Psi(e**L) / dL."""
        return 1.0 if q == 0 else xp.exp(q * logs)

    def parts(xp: Any, scores: Array, cost: Array) -> tuple[Array, ...]:
        """Largest class score, class scores less that, their weights, log of the sum of their exponentials, and `_right`."""
        u, t = scores[:, : scores.shape[1] - n_experts], 1.0 - cost[:, : scores.shape[1] - n_experts]
        peak = xp.max(u, axis=1)
        u = u - peak[:, None]
        return peak, u, t, xp.log(xp.sum(xp.exp(u), axis=1)), *_right(xp, u, t)

    def expert(xp: Any, scores: Array, cost: Array, peak: Array) -> tuple[Array, Array]:
        """Score of the expert less the largest class score, and whether it is right."""
        ok = 1.0 - cost[:, -1]
        return scores[:, -1] - peak, xp.where(xp.isnan(ok), 0.0, ok) if missing else ok

    def value(xp: Any, scores: Array, cost: Array) -> Array:
        peak, u, t, norm, top, total, found, _ = parts(xp, scores, cost)
        right = (top - norm) + xp.log(total)
        if n_experts:
            d, ok = expert(xp, scores, cost, peak)
            gap = softplus(xp, d - norm)
            right = right - gap
            lead = (top - d) + xp.log(total)
            both = _larger(xp, right, (d - norm) - gap, lead)
            loss = (1.0 - ok) * found * psi(xp, right) + ok * psi(xp, both)
        else:
            loss = found * psi(xp, right)
        if mix == 1:
            return loss
        return mix * loss - (1.0 - mix) * xp.sum(t * (u - norm[:, None]), axis=1)

    def gradient(xp: Any, scores: Array, cost: Array) -> Array:
        peak, u, t, norm, top, total, found, share = parts(xp, scores, cost)
        right = (top - norm) + xp.log(total)
        pi = xp.exp(u - norm[:, None])
        columns = []
        if n_experts:
            d, ok = expert(xp, scores, cost, peak)
            odds = d - norm
            gap = softplus(xp, odds)
            right = right - gap
            lead = (top - d) + xp.log(total)
            both = _larger(xp, right, odds - gap, lead)
            alone, helped = mix * (1.0 - ok) * found * steepness(xp, right), mix * ok * steepness(xp, both)
            towards = alone + helped * sigmoid(xp, lead)
            columns = [((alone + helped) * sigmoid(xp, odds) - helped * sigmoid(xp, -lead))[:, None]]
            away = (alone + helped) * sigmoid(xp, -odds)
        else:
            away = towards = mix * found * steepness(xp, right)
        classes = pi * away[:, None] - share * towards[:, None]
        if mix != 1:
            classes = classes + (1.0 - mix) * (pi * xp.sum(t, axis=1, keepdims=True) - t)
        return xp.concat([classes, *columns], axis=1) if columns else classes

    return Formula(name, value, gradient)


def _right(xp: Any, u: Array, t: Array) -> tuple[Array, Array, Array, Array]:
    """sum_k t_k e^(u_k) as e^top times total, 1 where any t_k > 0 (else 0), and the derivative of its logarithm by u.

    Where none is, top is finite but far below every score, lest infinities meet zeros.
    """
    counted = t > 0
    top = xp.max(xp.where(counted, u, xp.finfo(u.dtype).min / 4), axis=1)
    e = t * xp.exp(xp.where(counted, u - top[:, None], 0.0))
    total = xp.sum(e, axis=1)
    found = total > 0
    total = xp.where(found, total, 1.0)
    return top, total, xp.astype(found, u.dtype), e / total[:, None]


def _larger(xp: Any, first: Array, second: Array, lead: Array) -> Array:
    """log(e**first + e**second), given the lead of the first with more digits than the difference of the two has."""
    # One choice for both terms: at a tie torch's derivative would otherwise count the larger one and half of each.
    ahead = lead >= 0
    return xp.where(ahead, first, second) + softplus(xp, xp.where(ahead, -lead, lead))
