"""Two-stage surrogates: the predictor is fixed, and only who answers is learned.

Agents 0..J are the predictor and J experts; costs c (n, J + 1) in [0, 1] say what each answer costs.  The decision is the argmax
of the scores, ties to the first agent (do not defer).
"""

from __future__ import annotations

from functools import cache
from typing import Any

from defer.exceptions import LossInputError
from defer.losses.inputs import as_scores, check_action_weight, check_choice, check_cost, check_weight
from defer.losses.margin import phi_named
from defer.losses.multiclass import comp_sum_named, weighted_formula
from defer.losses.value import Formula, LossValue

__all__ = ["predictor_rejector", "two_sided_margin", "two_stage"]

Array = Any

_RANGE_HINT = (
    "Above 1 a weight 1 - cost is negative and the surrogate is unbounded below; rescale=True divides all costs by their maximum, "
    "which keeps every decision."
)


def two_stage(
    scores: Array,
    cost: Array,
    *,
    weight: Array | None = None,
    comp_sum: str = "cross_entropy",
    weighting: str = "one_minus_cost",
    rescale: bool = False,
) -> LossValue:
    """Two-stage surrogate sum_j w_j ell(r, j), with w_j = 1 - c_j (S1) or w_j = sum_{i != j} c_i (S2).

    Both are the same loss where the costs of a sample sum to 1, since sum_{i != j} c_i = (sum_i c_i - 1) + (1 - c_j).

    Population minimiser for the cross-entropy: softmax(r)_j = E[w_j | x] / sum_j E[w_j | x], so the argmax is the agent of least
    expected cost.  Read-out (S1, cross-entropy): the softmax is proportional to 1 - E[c | x].  Proved: Bayes-consistent; the
    paper's abstract states H-consistency, which was not derived again here.  For the cross-entropy the excess deferral risk
    is at most sqrt(2 E[W] excess), W = sum_j E[w_j | x], for the mean absolute error at most (J + 1) times the excess.
    Realizable-consistent only where the cost of every agent is constant:
    agents that are right together share weight and compete, and a linear rejector that routes at zero cost can be missed.
    Convex with the cross-entropy, the sum-exponential and the constrained loss.

    Parameters
    ----------
    scores : array of shape (n, J + 1)
        One score per agent, the predictor's first.
    cost : array of shape (n, J + 1)
        In [0, 1].  NaN where an agent was not asked: its term is left out (S1), S2 refuses it.  The targets are then those of
        E[w_j | x] times the rate at which agent j is asked, so the rule is right only where all are asked at one rate, at random;
        otherwise weigh the terms that are left by 1 / propensity.
    weight : array of shape (n,) or (n, J + 1), optional
        Weight >= 0 of every sample, or under S1 of every term: 1 / propensity of an answer, 0 to leave it out.
    comp_sum : str, default="cross_entropy"
        ell, a key of `COMP_SUMS`.
    weighting : {"one_minus_cost", "cost_of_others"}, default="one_minus_cost"
        S1 or S2.
    rescale : bool, default=False
        Divide all costs by their maximum in this call if it exceeds 1.  For batches divide by one constant beforehand.

    Returns
    -------
    LossValue
        With a cheap Hessian product for the cross-entropy and the constrained loss.

    Raises
    ------
    CostRangeError
        For costs below 0, infinite, or above 1 without `rescale`.
    LossInputError
        For shapes that do not fit, NaN under S2, and options that are not allowed.

    References
    ----------
    Mao, Mohri, Mohri, Zhong 2023.

    Examples
    --------
    >>> import numpy as np
    >>> two_stage(np.zeros((1, 3)), np.array([[0.4, 0.2, 0.7]])).gradient
    array([[-0.03333333, -0.23333333,  0.26666667]])
    """
    name = "two_stage"
    xp, scores = as_scores(name, scores)
    ell = comp_sum_named(name, comp_sum)
    check_choice(name, "weighting", weighting, ("one_minus_cost", "cost_of_others"))
    own = weighting == "one_minus_cost"
    cost, missing = check_cost(
        name, cost, scores, high=None if rescale else 1.0, missing_from=0 if own else None, hint=_RANGE_HINT
    )
    if rescale and 0 not in cost.shape:
        largest = float(xp.max(xp.where(xp.isnan(cost), 0.0, cost) if missing else cost))
        cost = cost / largest if largest > 1 else cost
    formula = weighted_formula(name, ell, _one_minus_cost(missing) if own else _cost_of_others)
    row, action = check_action_weight(name, weight, scores)
    if action and not own:
        raise LossInputError(
            f"{name}: weight of shape {tuple(scores.shape)} needs weighting='one_minus_cost', because the weights of the other form "
            "are sums over several answers; give weights of shape (n,)"
        )
    return LossValue(formula, scores, (cost, *action), row)


def predictor_rejector(
    scores: Array, cost: Array, *, weight: Array | None = None, margin: str = "logistic"
) -> LossValue:
    """Predictor-rejector form for one expert, c_0 Phi(-r) + c_1 Phi(r); **defer where r <= 0**.

    With the logistic margin it is the S2 form of `two_stage` for two agents with r = r_0 - r_1.

    Population minimiser (logistic): r = log(E[c_1 | x] / E[c_0 | x]).  Read-out: sigmoid(r) = E[c_1] / (E[c_0] + E[c_1]).
    Proved: Bayes-consistent; the paper's abstract states H-consistency, which was not derived again here.  Convex but for the sigmoid margin.

    Parameters
    ----------
    scores : array of shape (n,)
        Rejector r; the predictor answers where it is positive.
    cost : array of shape (n, 2)
        In [0, 1]: of the predictor, of the expert.
    weight : array of shape (n,), optional
        Weight of every sample, >= 0.
    margin : str, default="logistic"
        Phi, a key of `MARGINS`.

    Returns
    -------
    LossValue
        With a cheap Hessian product.

    Raises
    ------
    CostRangeError
        For costs outside [0, 1].
    LossInputError
        For shapes that do not fit, NaN, and an unknown margin.

    References
    ----------
    Mao, Mohri, Mohri, Zhong 2023.

    Examples
    --------
    >>> import numpy as np
    >>> predictor_rejector(np.array([0.0, 2.0]), np.array([[1.0, 0.2], [0.0, 0.2]])).value
    array([0.83177662, 0.0253856 ])
    """
    name = "predictor_rejector"
    _, scores = as_scores(name, scores, matrix=False)
    phi_named(name, margin)
    hint = "Divide all costs by one constant, which keeps every decision."
    cost, _ = check_cost(name, cost, scores, shape=(scores.shape[0], 2), hint=hint)
    return LossValue(
        two_sided_margin(name, margin, defers_where=-1), scores, (cost,), check_weight(name, weight, scores)
    )


@cache
def two_sided_margin(name: str, margin: str, *, defers_where: int) -> Formula:
    """Formula of a score that weighs two costs: of not deferring, Phi(-z), and of deferring, Phi(z).

    Parameters
    ----------
    name, margin : str
        Public function, for messages, and the margin function.
    defers_where : {-1, 1}
        Sign of the scores that defer.
    """
    phi = phi_named(name, margin)
    sign = -float(defers_where)

    def value(xp: Any, scores: Array, cost: Array) -> Array:
        z = sign * scores
        return cost[:, 0] * phi.value(xp, -z) + cost[:, 1] * phi.value(xp, z)

    def gradient(xp: Any, scores: Array, cost: Array) -> Array:
        z = sign * scores
        return sign * (cost[:, 1] * phi.slope(xp, z) - cost[:, 0] * phi.slope(xp, -z))

    def hessian(xp: Any, scores: Array, vector: Array, cost: Array) -> Array:
        z = sign * scores
        return vector * (cost[:, 0] * phi.curvature(xp, -z) + cost[:, 1] * phi.curvature(xp, z))

    return Formula(name, value, gradient, hessian)


@cache
def _one_minus_cost(missing: bool) -> Any:
    def weights(xp: Any, scores: Array, cost: Array, *action: Array) -> Array:
        w = 1.0 - cost
        if missing:
            w = xp.where(xp.isnan(w), 0.0, w)
        return w * action[0] if action else w

    return weights


def _cost_of_others(xp: Any, scores: Array, cost: Array) -> Array:
    return xp.sum(cost, axis=1, keepdims=True) - cost
