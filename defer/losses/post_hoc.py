"""Post-hoc losses: the base model is trained and stays; a head of its own learns when to defer.

Costs (n, 2) hold the model's own loss on every sample, 1 - [h(x) = y] or any other, and what deferring costs, such as
c + 1 - [m = y].
"""

from __future__ import annotations

from typing import Any

from defer.exceptions import LossInputError
from defer.losses.inputs import as_scores, check_cost, check_weight
from defer.losses.margin import phi_named
from defer.losses.two_stage import two_sided_margin
from defer.losses.value import Formula, LossValue

__all__ = ["post_hoc_partial", "post_hoc_regression"]

Array = Any


def post_hoc_partial(scores: Array, cost: Array, *, weight: Array | None = None, margin: str = "logistic") -> LossValue:
    """Partial surrogate for a fixed predictor, c_0 Phi(s) + c_1 Phi(-s); **defer where s > 0**.

    Population minimiser (logistic): s = log(a / b) with a = E[c_0 | x] and b = E[c_1 | x], so that its sign is the Bayes rule for
    the fixed predictor.  Read-out: sigmoid(s) = a / (a + b).  Proved: Bayes-consistent; the excess deferral risk at x is at most
    sqrt(2 (a + b) excess).  Convex but for the sigmoid margin.  The costs are part of the loss: another cost of asking needs
    another fit (see `post_hoc_regression`).

    Parameters
    ----------
    scores : array of shape (n,)
        Deferral score s.
    cost : array of shape (n, 2)
        The model's own loss and the cost of deferring, any numbers >= 0.
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
        For costs below 0 or infinite.
    LossInputError
        For shapes that do not fit, NaN, and an unknown margin.

    References
    ----------
    Narasimhan et al. 2022.

    Examples
    --------
    >>> import numpy as np
    >>> post_hoc_partial(np.array([0.0, 2.0]), np.array([[1.0, 0.2], [0.0, 0.2]])).value
    array([0.83177662, 0.4253856 ])
    """
    name = "post_hoc_partial"
    _, scores = as_scores(name, scores, matrix=False)
    phi_named(name, margin)
    hint = "Add one constant to both costs of a sample: the rule stays the same."
    cost, _ = check_cost(name, cost, scores, shape=(scores.shape[0], 2), high=None, hint=hint)
    formula = two_sided_margin(name, margin, defers_where=1)
    return LossValue(formula, scores, (cost,), check_weight(name, weight, scores))


def post_hoc_regression(scores: Array, cost: Array, *, weight: Array | None = None) -> LossValue:
    """Regression variant, (s_0 - c_0)**2 + (s_1 - c_1)**2; **defer where s_0 > s_1**.

    Population minimiser: s = (E[c_0 | x], E[c_1 | x]), which is its own read-out.  Fitted on costs without the price of asking,
    one model serves every price: defer where s_0 > s_1 + price.  Proved: Bayes-consistent (plug-in rule).  Convex.

    Parameters
    ----------
    scores : array of shape (n, 2)
        Predicted own loss and predicted cost of deferring.
    cost : array of shape (n, 2)
        What they were, any finite numbers; NaN in the second column where the expert was not asked, whose term is left out.
    weight : array of shape (n,), optional
        Weight of every sample, >= 0.

    Returns
    -------
    LossValue
        With a cheap Hessian product.

    Raises
    ------
    CostRangeError
        For infinite costs.
    LossInputError
        For shapes that do not fit, and NaN in the first column.

    References
    ----------
    Narasimhan et al. 2022.

    Examples
    --------
    >>> import numpy as np
    >>> post_hoc_regression(np.array([[0.3, 0.1]]), np.array([[1.0, 0.2]])).gradient
    array([[-1.4, -0.2]])
    """
    name = "post_hoc_regression"
    _, scores = as_scores(name, scores)
    if scores.shape[1] != 2:
        raise LossInputError(
            f"{name}: scores must have shape (n, 2), the own loss and the cost of deferring, got {tuple(scores.shape)}"
        )
    cost, missing = check_cost(name, cost, scores, high=None, low=None, missing_from=1)
    return LossValue(_REGRESSION[missing], scores, (cost,), check_weight(name, weight, scores))


def _regression_formula(missing: bool) -> Formula:
    def error(xp: Any, scores: Array, cost: Array) -> Array:
        return xp.where(xp.isnan(cost), 0.0, scores - cost) if missing else scores - cost

    def value(xp: Any, scores: Array, cost: Array) -> Array:
        return xp.sum(error(xp, scores, cost) ** 2, axis=1)

    def gradient(xp: Any, scores: Array, cost: Array) -> Array:
        return 2.0 * error(xp, scores, cost)

    def hessian(xp: Any, scores: Array, vector: Array, cost: Array) -> Array:
        return xp.where(xp.isnan(cost), 0.0, 2.0 * vector) if missing else 2.0 * vector

    return Formula("post_hoc_regression", value, gradient, hessian)


_REGRESSION = {missing: _regression_formula(missing) for missing in (False, True)}
