"""The asymmetric softmax surrogate, in log space.

With M the largest class score and B = log(sum_k e^(u_k) - e^M), the log-sum-exp of the other classes, psi = sigmoid(d - B) and
1 - psi = sigmoid(B - d), and the log-sum-exp of all classes is that of M and B.  Source: Cao et al. 2023; the form is ours.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from defer.exceptions import LossInputError
from defer.losses.inputs import check_action_weight, check_single_stage
from defer.losses.margin import positive, sigmoid, softplus
from defer.losses.multiclass import CROSS_ENTROPY, weighted_formula
from defer.losses.value import Formula, LossValue

__all__ = ["asymmetric_softmax_deferral", "other_classes"]

Array = Any


def asymmetric_softmax_deferral(
    scores: Array, cost: Array, *, n_experts: int = 1, weight: Array | None = None
) -> LossValue:
    """Asymmetric softmax surrogate: class probabilities that know nothing of the expert, and a bounded one for the expert.

    With pi = softmax(u_1 .. u_K) and psi = e^d / (sum_k e^(u_k) + e^d - max_k e^(u_k)) the loss is
    -sum_k t_k log pi_k - (1 - c) log psi - c log(1 - psi); for 0/1 costs -log pi_y - ok log psi - (1 - ok) log(1 - psi).
    psi > max pi exactly where d > max u.

    Population minimiser: pi = eta, psi = E[1 - c | x].  Read-out: `asymmetric_softmax_readout`.  Proved: Bayes-consistent
    where the class columns are 1 - one-hot, with any cost of the expert: pi sums to 1, so that other class costs are
    known up to a factor only, which the expert's psi does not share.
    Not convex; not smooth where two classes tie for the maximum (the gradient there is the mean over the tied classes).

    Parameters
    ----------
    scores : array of shape (n, K + J)
        At least two classes, then at most one expert.
    cost : array of shape (n, K + J)
        In [0, 1]; NaN in the expert's column where it was not asked.
    n_experts : int, default=1
        0 or 1; with 0 the loss is -sum_k t_k log pi_k.
    weight : array of shape (n,) or (n, K + J), optional
        Weight >= 0 of every sample, or of every term: 1 / propensity of an answer, 0 to leave it out.

    Returns
    -------
    LossValue

    Raises
    ------
    CostRangeError
        For costs outside [0, 1].
    LossInputError
        For shapes that do not fit, NaN in a class column, one class, and more than one expert.

    References
    ----------
    Cao et al. 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from defer.losses import deferral_cost
    >>> scores = np.array([[1.0, 0.0, -1.0, 2.0]] * 2)
    >>> asymmetric_softmax_deferral(scores, deferral_cost([0, 0], [0.0, 1.0], n_classes=3)).value
    array([0.57745198, 2.2641903 ])
    """
    name = "asymmetric_softmax_deferral"
    scores, cost, classes, missing = check_single_stage(name, scores, cost, n_experts, most=1)
    if n_experts and classes < 2:
        raise LossInputError(f"{name}: needs at least two classes, got 1: with one class psi is always 1")
    formula = _asymmetric_formula(name, missing) if n_experts else _CLASSES_ONLY
    row, action = check_action_weight(name, weight, scores)
    return LossValue(formula, scores, (cost, *action), row)


@cache
def _asymmetric_formula(name: str, missing: bool) -> Formula:
    """Formula for scores (n, K + 1), K >= 2, and costs of the same shape."""

    def split(
        xp: Any, scores: Array, cost: Array, action: tuple[Array, ...]
    ) -> tuple[Array, Array, Array, Array, Array]:
        u, d, t, ok = scores[:, :-1], scores[:, -1], 1.0 - cost[:, :-1], 1.0 - cost[:, -1]
        seen = xp.ones_like(ok)
        if missing:
            seen = xp.astype(~xp.isnan(ok), ok.dtype)
            ok = xp.where(xp.isnan(ok), 0.0, ok)
        if action:
            t, seen = t * action[0][:, :-1], seen * action[0][:, -1]
        return u, d, t, ok, seen

    def value(xp: Any, scores: Array, cost: Array, *action: Array) -> Array:
        u, d, t, ok, seen = split(xp, scores, cost, action)
        peak, second, rest, _ = other_classes(xp, u)
        total = softplus(xp, second + rest)  # log-sum-exp of all classes less the largest score
        classes = xp.sum(t * (total[:, None] + (peak[:, None] - u)), axis=1)
        z = ((d - peak) - second) - rest
        return classes + seen * (positive(xp, z) - ok * z + xp.log1p(xp.exp(-xp.abs(z))))

    def gradient(xp: Any, scores: Array, cost: Array, *action: Array) -> Array:
        u, d, t, ok, seen = split(xp, scores, cost, action)
        peak, second, rest, share = other_classes(xp, u)
        defer = seen * (sigmoid(xp, ((d - peak) - second) - rest) - ok)
        # pi is the softmax of the other classes times their mass, and what is left at the peak.
        mass = sigmoid(xp, second + rest)
        at_peak = xp.astype(u == peak[:, None], u.dtype)
        ties = xp.sum(at_peak, axis=1)
        pi = share * mass[:, None] + at_peak * ((1.0 - mass) / ties)[:, None]
        classes = pi * xp.sum(t, axis=1, keepdims=True) - t - defer[:, None] * share
        return xp.concat([classes, defer[:, None]], axis=1)

    return Formula(name, value, gradient)


def other_classes(xp: Any, u: Array) -> tuple[Array, Array, Array, Array]:
    """Largest score (n,), log-sum-exp of all others less that score as a sum of two terms (n,), and the softmax among the others.

    The two terms are the second largest score and what the rest adds: apart they keep the digits that a deferral score of like
    size needs.  Where r classes tie for the maximum, one of them is left out; which one is averaged over in the softmax.
    """
    peak = xp.max(u, axis=1)
    u = u - peak[:, None]
    at_peak = u == 0
    inside = xp.astype(at_peak, u.dtype)
    more = xp.sum(inside, axis=1) - 1.0
    next_best = xp.max(xp.where(at_peak, -xp.inf, u), axis=1)
    reference = xp.where(more > 0, 0.0, next_best)
    # The argument is made harmless at the peak before exp, lest a gradient of torch be infinity times zero.
    e = (1.0 - inside) * xp.exp(xp.where(at_peak, 0.0, u - reference[:, None]))
    total = xp.sum(e, axis=1) + more
    share = (e + inside * (more / (more + 1.0))[:, None]) / total[:, None]
    return peak, reference, xp.log(total), share


def _class_weights(xp: Any, scores: Array, cost: Array, *action: Array) -> Array:
    return (1.0 - cost) * action[0] if action else 1.0 - cost


_CLASSES_ONLY = weighted_formula("asymmetric_softmax_deferral", CROSS_ENTROPY, _class_weights)
