"""Single-stage surrogates: one score vector over the classes and the experts, learned at once.

Scores (n, K + J) hold K classes, then J experts; the decision is the argmax, ties to the first column: an expert is asked only
where its score is the strict maximum.  Costs (n, K + J) in [0, 1] say what every action costs, usually 1 - [y = k] for a class
and 1 - [expert right] for an expert; `deferral_cost` builds them.  NaN in the column of an expert means that it was not asked:
its terms are left out.  Where experts are missing at random that is right in `ova_deferral` and `asymmetric_softmax_deferral`,
whose term of an expert stands alone; the others think the less of an expert the less it was asked.  With ``n_experts=0`` every
loss is one of cost-sensitive classification over m actions.  Notation: s = softmax of all scores, c the costs, t = 1 - c.
"""

from __future__ import annotations

from functools import cache
from numbers import Integral, Real
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_array_api_obj

from defer.exceptions import LossInputError
from defer.losses.asymmetric import asymmetric_softmax_deferral
from defer.losses.inputs import (
    as_array,
    as_scores,
    check_action_weight,
    check_choice,
    check_cost,
    check_experts,
    check_share,
    check_single_stage,
    check_weight,
    columns,
)
from defer.losses.margin import bell, positive, sigmoid
from defer.losses.multiclass import CROSS_ENTROPY, comp_sum_named, weighted_formula
from defer.losses.right_mass import realizable_deferral, rl2d_deferral
from defer.losses.value import Formula, LossValue

__all__ = [
    "asymmetric_softmax_deferral",
    "cost_sensitive_deferral",
    "deferral_cost",
    "ova_deferral",
    "realizable_deferral",
    "rl2d_deferral",
    "softmax_deferral",
]

Array = Any


def deferral_cost(y: Array, expert_cost: Array | None = None, *, n_classes: int) -> Array:
    """Costs of all actions: 1 - [y = k] for every class, and the given costs of the experts.

    Parameters
    ----------
    y : array of shape (n,)
        True classes as integers from 0 to ``n_classes - 1``.
    expert_cost : array of shape (n,) or (n, J), optional
        What asking every expert costs, usually 1 where it is wrong and 0 where it is right; NaN where it was not asked.
    n_classes : int
        Number of classes K.

    Returns
    -------
    array of shape (n, K + J)
        float64, in the namespace of `y`.

    Raises
    ------
    LossInputError
        For labels that are no integers in range, and for costs that are no numbers or of another number of rows.

    Examples
    --------
    >>> deferral_cost([0, 2], [0.1, 1.0], n_classes=3)
    array([[0. , 1. , 1. , 0.1],
           [1. , 1. , 0. , 1. ]])
    """
    if not isinstance(n_classes, Integral) or isinstance(n_classes, bool) or n_classes < 1:
        raise LossInputError(f"deferral_cost: n_classes must be an integer >= 1, got {n_classes!r}")
    y = y if is_array_api_obj(y) else np.asarray(y)
    xp = array_namespace(y)
    if y.ndim != 1 or not xp.isdtype(y.dtype, "integral"):
        raise LossInputError(
            f"deferral_cost: y must be integer codes of shape (n,), got dtype {y.dtype} and shape {tuple(y.shape)}"
        )
    if y.shape[0] and not (int(xp.min(y)) >= 0 and int(xp.max(y)) < n_classes):
        least, largest = int(xp.min(y)), int(xp.max(y))
        raise LossInputError(
            f"deferral_cost: y holds {least} to {largest}; codes of {n_classes} classes go from 0 to {n_classes - 1}"
        )
    like = xp.astype(y, xp.float64)
    classes = 1.0 - columns(xp, like, y, n_classes)
    if expert_cost is None:
        return classes
    experts = xp.astype(xp.asarray(as_array("deferral_cost", "expert_cost", expert_cost)), xp.float64)
    experts = experts[:, None] if experts.ndim == 1 else experts
    if experts.ndim != 2 or experts.shape[0] != y.shape[0]:
        raise LossInputError(
            f"deferral_cost: expert_cost has shape {tuple(experts.shape)}; it needs ({y.shape[0]}, J), one row per label"
        )
    return xp.concat([classes, experts], axis=1)


def softmax_deferral(
    scores: Array, cost: Array, *, n_experts: int = 1, weight: Array | None = None, alpha: float = 1.0
) -> LossValue:
    """Softmax (cross-entropy) surrogate, -sum_k t_k log s_k - sum_j (1 - c_j) log s_(K+j).

    For 0/1 costs this is -log s_y - sum_j [expert j right] log s_(K+j).  With ``alpha`` < 1 and one expert the class term is
    weighted by alpha where the expert is right: -(alpha ok + 1 - ok) log s_y - ok log s_d.

    Population minimiser (alpha = 1): s = (eta, p) / (1 + sum_j p_j), with eta the class probabilities and p_j = E[1 - c_j | x].
    Read-out: `softmax_readout`; the experts' probabilities are coupled and can exceed 1.  Proved: Bayes-consistent for
    alpha = 1, any number of experts and any costs in [0, 1]; the excess deferral risk at x is at most sqrt(2 W excess),
    W = 1 + sum_j p_j.  H-consistency was not derived again here.  Not realizable-consistent: in a restricted class
    its optimum can err where zero loss is possible.  With alpha < 1 not consistent: it defers too much.  Convex.

    Leaving out the term of an expert that was not asked multiplies its share of the softmax, and so its read-out, by the rate at
    which it is asked.  That is inconsistent even where it is missing at random: use `ova_deferral`, or weigh the terms that are
    left by 1 / propensity, which `weight` of shape (n, K + J) does.

    Parameters
    ----------
    scores : array of shape (n, K + J)
        Classes, then experts.
    cost : array of shape (n, K + J)
        In [0, 1]; NaN in an expert's column where it was not asked.
    n_experts : int, default=1
        Number of experts J.
    weight : array of shape (n,) or (n, K + J), optional
        Weight >= 0 of every sample, or of every term: 1 / propensity of an answer, 0 to leave it out.
    alpha : float, default=1.0
        In [0, 1]; other than 1 only for one expert.

    Returns
    -------
    LossValue
        With a cheap Hessian product.

    Raises
    ------
    CostRangeError
        For costs outside [0, 1].
    LossInputError
        For shapes that do not fit, NaN in a class column, and options that are not allowed.

    References
    ----------
    Mozannar and Sontag 2020 (one expert, alpha); Verma, Barrejon, Nalisnick 2023, Mao, Mohri, Zhong 2023 (several experts).

    Examples
    --------
    >>> import numpy as np
    >>> scores = np.array([[1.0, 0.0, -1.0, 2.0]] * 2)
    >>> softmax_deferral(scores, deferral_cost([0, 0], [0.0, 1.0], n_classes=3)).value
    array([1.8803794, 1.4401897])
    """
    name = "softmax_deferral"
    scores, cost, classes, missing = check_single_stage(name, scores, cost, n_experts)
    alpha = check_share(name, "alpha", alpha)
    if alpha != 1 and n_experts != 1:
        raise LossInputError(
            f"{name}: alpha other than 1 is defined for one expert, got alpha={alpha:g} with n_experts={n_experts}"
        )
    row, action = check_action_weight(name, weight, scores)
    return LossValue(_softmax_formula(classes, alpha, missing), scores, (cost, *action), row)


def ova_deferral(scores: Array, cost: Array, *, n_experts: int = 1, weight: Array | None = None) -> LossValue:
    """One-vs-all surrogate: a logistic loss per column, sum_j t_j phi(u_j) + (1 - t_j) phi(-u_j), phi(z) = log(1 + exp(-z)).

    For 0/1 costs this is phi(u_y) + sum_{k != y} phi(-u_k) + sum_j [right] phi(u_(K+j)) + [wrong] phi(-u_(K+j)).

    Population minimiser: sigmoid(u) = (eta, p), p_j = E[1 - c_j | x].  Read-out: `ova_readout`; each column depends on itself
    alone, so a missing expert (at random) leaves the others as they are.  Proved: Bayes-consistent, for any number of experts.
    Not realizable-consistent.  Convex.

    Parameters
    ----------
    scores : array of shape (n, K + J)
        Classes, then experts.
    cost : array of shape (n, K + J)
        In [0, 1]; NaN in an expert's column where it was not asked.
    n_experts : int, default=1
        Number of experts J.
    weight : array of shape (n,) or (n, K + J), optional
        Weight >= 0 of every sample, or of every term: 1 / propensity of an answer, 0 to leave it out.

    Returns
    -------
    LossValue
        With a cheap Hessian product.

    Raises
    ------
    CostRangeError
        For costs outside [0, 1].
    LossInputError
        For shapes that do not fit, and NaN in a class column.

    References
    ----------
    Verma and Nalisnick 2022 (one expert); Verma, Barrejon, Nalisnick 2023 (several).

    Examples
    --------
    >>> import numpy as np
    >>> scores = np.array([[1.0, 0.0, -1.0, 2.0]] * 2)
    >>> ova_deferral(scores, deferral_cost([0, 0], [0.0, 1.0], n_classes=3)).value
    array([1.44659857, 3.44659857])
    """
    scores, cost, _, missing = check_single_stage("ova_deferral", scores, cost, n_experts)
    row, action = check_action_weight("ova_deferral", weight, scores)
    return LossValue(_OVA[missing], scores, (cost, *action), row)


def cost_sensitive_deferral(
    scores: Array,
    cost: Array,
    *,
    n_experts: int = 1,
    weight: Array | None = None,
    comp_sum: str = "cross_entropy",
    c_max: str | float = "sample",
) -> LossValue:
    """Cost-sensitive surrogate for any costs >= 0, sum_j (c_max - c_j) ell(u, j) with ell a calibrated multiclass loss.

    Population minimiser for the cross-entropy: s proportional to E[c_max - c | x]; the decision is the action of least expected
    cost.  Proved: Bayes-consistent for every calibrated ell, whichever c_max.  With cross-entropy not realizable-consistent (on
    0/1 costs it is the softmax surrogate).  A constant cost of asking gives every wrong class weight where the expert is wrong
    too, which smooths the labels: of K classes a share (K-1) c / (1 + c + (K-1) c) of the target mass lies on wrong labels.
    That is no inconsistency but makes finite samples underfit.

    Parameters
    ----------
    scores : array of shape (n, K + J)
        One score per action.
    cost : array of shape (n, K + J)
        Any costs >= 0; NaN is refused, because c_max needs them all.
    n_experts : int, default=1
        Number of experts; the formula treats all actions alike.
    weight : array of shape (n,), optional
        Weight of every sample, >= 0.
    comp_sum : str, default="cross_entropy"
        ell, a key of `COMP_SUMS`.
    c_max : {"sample", "bound"} or float, default="sample"
        "sample" is the largest cost of each sample, "bound" the largest cost of this call, a number any upper bound, which
        batches need.  All give the same Bayes rule; the constant ones smooth labels more.

    Returns
    -------
    LossValue
        With a cheap Hessian product for the cross-entropy and the constrained loss.

    Raises
    ------
    CostRangeError
        For costs below 0, infinite, or above a `c_max` that is given as a number.
    LossInputError
        For shapes that do not fit, NaN, and options that are not allowed.

    References
    ----------
    Charusaie et al. 2022.

    Examples
    --------
    >>> import numpy as np
    >>> scores = np.array([[1.0, 0.0, -1.0, 2.0]] * 2)
    >>> cost_sensitive_deferral(scores, deferral_cost([0, 0], [0.2, 1.2], n_classes=3)).value
    array([1.79234146, 2.90430352])
    """
    name = "cost_sensitive_deferral"
    _, scores = as_scores(name, scores)
    check_experts(name, scores, n_experts)
    ell = comp_sum_named(name, comp_sum)
    bound = None
    if isinstance(c_max, str):
        check_choice(name, "c_max", c_max, ("sample", "bound"))
    elif not isinstance(c_max, Real) or isinstance(c_max, bool) or not 0 <= float(c_max) < np.inf:
        raise LossInputError(f"{name}: c_max must be 'sample', 'bound' or a number >= 0, got {c_max!r}")
    else:
        bound = float(c_max)
    hint = (
        "A cost is at least 0; add a constant to all costs of a sample, which changes no decision."
        if bound is None
        else ("c_max as a number must be an upper bound of all costs.")
    )
    cost, _ = check_cost(name, cost, scores, high=bound, hint=hint)
    if c_max == "bound":
        bound = float(array_namespace(cost).max(cost)) if 0 not in cost.shape else 0.0
    formula = weighted_formula(name, ell, _distance_to_bound(bound))
    return LossValue(formula, scores, (cost,), check_weight(name, weight, scores))


def _distance_to_bound(bound: float | None) -> Any:
    def weights(xp: Any, scores: Array, cost: Array) -> Array:
        return (xp.max(cost, axis=1, keepdims=True) if bound is None else bound) - cost

    return weights


@cache
def _softmax_formula(classes: int, alpha: float, missing: bool) -> Formula:
    def weights(xp: Any, scores: Array, cost: Array, *action: Array) -> Array:
        w = 1.0 - cost
        if missing:
            w = xp.where(xp.isnan(w), 0.0, w)
        if alpha != 1:
            ok = w[:, classes:]
            w = xp.concat([w[:, :classes] * (1.0 - (1.0 - alpha) * ok), ok], axis=1)
        return w * action[0] if action else w

    return weighted_formula("softmax_deferral", CROSS_ENTROPY, weights)


def _ova_formula(missing: bool) -> Formula:
    def weighted(xp: Any, rows: Array, cost: Array, action: tuple[Array, ...]) -> Array:
        rows = xp.where(xp.isnan(cost), 0.0, rows) if missing else rows
        return rows * action[0] if action else rows

    def value(xp: Any, scores: Array, cost: Array, *action: Array) -> Array:
        # t phi(u) + c phi(-u) with the linear part taken out: c u for u > 0, -t u for u < 0.  NaN goes before it meets a
        # score: the backward pass of torch would take it along.
        t = xp.where(xp.isnan(cost), 0.0, 1.0 - cost) if missing else 1.0 - cost
        linear = positive(xp, scores) - t * scores
        return xp.sum(weighted(xp, linear + xp.log1p(xp.exp(-xp.abs(scores))), cost, action), axis=1)

    def gradient(xp: Any, scores: Array, cost: Array, *action: Array) -> Array:
        return weighted(xp, sigmoid(xp, scores) - (1.0 - cost), cost, action)

    def hessian(xp: Any, scores: Array, vector: Array, cost: Array, *action: Array) -> Array:
        return weighted(xp, bell(xp, scores) * vector, cost, action)

    return Formula("ova_deferral", value, gradient, hessian)


_OVA = {missing: _ova_formula(missing) for missing in (False, True)}
