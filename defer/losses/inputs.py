"""Checks of what a loss is given: done once, in a pass or two over the numbers, with a message that names the first fault."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_array_api_obj, is_numpy_array, to_device

from defer.exceptions import CostRangeError, LossInputError

__all__ = [
    "as_array",
    "as_beside",
    "as_scores",
    "check_action_weight",
    "check_choice",
    "check_cost",
    "check_experts",
    "check_share",
    "check_single_stage",
    "check_weight",
    "columns",
    "detached",
    "raise_first",
]

Array = Any

_RANGE_HINT = (
    "Outside it a weight 1 - cost is negative and the surrogate is unbounded below; divide all costs by one constant, or use "
    "cost_sensitive_deferral, which takes any cost >= 0."
)


def as_scores(loss: str, scores: Array, *, matrix: bool = True) -> tuple[Any, Array]:
    """Namespace and scores as float32 or float64; a torch tensor keeps its graph.

    Raises
    ------
    LossInputError
        If they are no numbers, not finite, or have another number of dimensions.
    """
    scores = as_array(loss, "scores", scores)
    xp = array_namespace(scores)
    if not xp.isdtype(scores.dtype, "real floating"):
        if not xp.isdtype(scores.dtype, ("bool", "integral")):
            raise LossInputError(f"{loss}: scores must be real numbers, got dtype {scores.dtype}")
        scores = xp.astype(scores, xp.float64)
    elif xp.finfo(scores.dtype).bits < 32:
        scores = xp.astype(scores, xp.float32)  # half precision holds neither the sums nor the exponents
    wanted = "(n, m) with m >= 1" if matrix else "(n,)"
    if scores.ndim != 1 + matrix or (matrix and scores.shape[1] == 0):
        raise LossInputError(f"{loss}: scores must have shape {wanted}, got {tuple(scores.shape)}")
    plain = detached(scores)
    with np.errstate(
        all="ignore"
    ):  # the sum is a quick look: it overflows, or is NaN, where the numbers must be looked at
        suspicious = not np.isfinite(float(xp.sum(plain)))
    if suspicious:
        raise_first(
            loss,
            "scores",
            ~xp.isfinite(plain),
            plain,
            "that are not finite",
            "A model that diverged gives such scores.",
        )
    return xp, scores


def as_beside(loss: str, name: str, values: Array, scores: Array) -> Array:
    """`values` in the namespace and on the device of `scores`; floats in its dtype, but for NumPy, where blocks are cast."""
    xp = array_namespace(scores)
    if is_numpy_array(scores):
        values = np.asarray(detached(values))
        if values.dtype.kind not in "biuf":
            values = as_array(loss, name, values)
        return values
    if not is_array_api_obj(values) or is_numpy_array(values):
        values = xp.asarray(as_array(loss, name, values))
    values = to_device(detached(values), device(scores))
    return values if xp.isdtype(values.dtype, "integral") else xp.astype(values, scores.dtype)


def check_cost(
    loss: str,
    cost: Array,
    scores: Array,
    *,
    shape: tuple[int, ...] | None = None,
    high: float | None = 1.0,
    low: float | None = 0.0,
    missing_from: int | None = None,
    hint: str = "",
) -> tuple[Array, bool]:
    """Costs beside the scores, and whether any of them is missing.

    Parameters
    ----------
    loss : str
        Name of the loss, for messages.
    cost : array of shape `shape`
        What every action costs on every sample.
    scores : array
        Checked scores.
    shape : tuple of int, optional
        Shape that the costs need; the shape of `scores` by default.
    high, low : float or None
        Range that is allowed; None is no limit but for infinity.
    missing_from : int, optional
        First column in which NaN may stand; None allows it nowhere.
    hint : str
        What to do about a cost that is out of range.

    Raises
    ------
    LossInputError
        For another shape, and for NaN where none may stand.
    CostRangeError
        For costs out of range.
    """
    xp = array_namespace(scores)
    cost = as_beside(loss, "cost", cost, scores)
    shape = tuple(scores.shape) if shape is None else shape
    if tuple(cost.shape) != shape:
        raise LossInputError(
            f"{loss}: cost has shape {tuple(cost.shape)} and scores {tuple(scores.shape)}; cost needs shape {shape}, "
            "one row per sample and one column per action"
        )
    if 0 in shape:
        return cost, False
    least, largest = float(xp.min(cost)), float(xp.max(cost))
    floor, ceiling = -np.inf if low is None else low, np.inf if high is None else high
    if floor <= least and largest <= ceiling and np.isfinite(least) and np.isfinite(largest):
        return cost, False
    missing = xp.isnan(cost)
    allowed = shape[1] if missing_from is None else missing_from
    raise_first(
        loss, "cost", missing[:, :allowed], cost, "that are NaN where none may stand",
        "NaN means that an expert was not asked." if allowed < shape[1] else "Every action needs its cost here.",
    )  # fmt: skip
    outside = (cost < floor) | (cost > ceiling) | xp.isinf(cost)
    rule = f"outside [{floor:g}, {ceiling:g}]" if np.isfinite(ceiling) else "below 0 or infinite"
    rule = rule if np.isfinite(floor) else "that are infinite"
    raise_first(loss, "cost", outside, cost, rule, hint, CostRangeError)
    return cost, bool(xp.any(missing))


def check_single_stage(
    name: str, scores: Array, cost: Array, n_experts: int, *, most: int | None = None
) -> tuple[Array, Array, int, bool]:
    """Scores, costs, number of classes, and whether any expert's cost is missing."""
    _, scores = as_scores(name, scores)
    classes = check_experts(name, scores, n_experts, most=most)
    cost, missing = check_cost(name, cost, scores, missing_from=classes, hint=_RANGE_HINT)
    return scores, cost, classes, missing


def check_weight(loss: str, weight: Array | None, scores: Array) -> Array | None:
    """Weights of the samples beside the scores.

    Raises
    ------
    LossInputError
        For another shape than (n,), and for weights that are negative or not finite.
    """
    if weight is None:
        return None
    xp = array_namespace(scores)
    weight = as_beside(loss, "weight", weight, scores)
    if tuple(weight.shape) != (scores.shape[0],):
        raise LossInputError(
            f"{loss}: weight has shape {tuple(weight.shape)}; it needs ({scores.shape[0]},), one number per sample"
        )
    weight = xp.astype(weight, scores.dtype)
    if scores.shape[0] and not (float(xp.min(weight)) >= 0 and float(xp.max(weight)) < np.inf):
        wrong = (weight < 0) | ~xp.isfinite(weight)
        raise_first(
            loss, "weight", wrong, weight, "that are negative or not finite", "A weight of 0 leaves a sample out."
        )
    return weight


def check_action_weight(loss: str, weight: Array | None, scores: Array) -> tuple[Array | None, tuple[Array, ...]]:
    """Weights of the samples, and weights of every action on every sample: of the two, what was given.

    Returns
    -------
    weight : array of shape (n,) or None
    tables : tuple
        Of one (n, m) array, or empty.

    Raises
    ------
    LossInputError
        For another shape than (n,) or that of the scores, and for weights that are negative or not finite.
    """
    if weight is None or np.ndim(weight) < 2:
        return check_weight(loss, weight, scores), ()
    xp = array_namespace(scores)
    weight = as_beside(loss, "weight", weight, scores)
    if tuple(weight.shape) != tuple(scores.shape):
        raise LossInputError(
            f"{loss}: weight has shape {tuple(weight.shape)}; it needs ({scores.shape[0]},), one number per sample, or "
            f"{tuple(scores.shape)}, one per sample and action"
        )
    if 0 not in weight.shape and not (float(xp.min(weight)) >= 0 and float(xp.max(weight)) < np.inf):
        wrong = (weight < 0) | ~xp.isfinite(weight)
        raise_first(
            loss, "weight", wrong, weight, "that are negative or not finite", "A weight of 0 leaves a term out."
        )
    return None, (weight,)


def check_experts(loss: str, scores: Array, n_experts: int, *, most: int | None = None) -> int:
    """Number of classes, given the number of experts.

    Raises
    ------
    LossInputError
        If no class is left, or the loss does not take so many experts.
    """
    m = scores.shape[1]
    if not isinstance(n_experts, Integral) or isinstance(n_experts, bool) or not 0 <= int(n_experts) < m:
        raise LossInputError(
            f"{loss}: n_experts must be an integer from 0 to {m - 1}, because scores have {m} columns and at least one is a "
            f"class, got {n_experts!r}"
        )
    if most is not None and n_experts > most:
        raise LossInputError(
            f"{loss}: takes at most {most} expert, got n_experts={n_experts}; softmax_deferral, ova_deferral and "
            "cost_sensitive_deferral take several"
        )
    return m - int(n_experts)


def check_choice(loss: str, option: str, value: Any, allowed: Any) -> None:
    """Raise LossInputError, with what is allowed, unless the option has one of these names."""
    if not isinstance(value, str) or value not in allowed:
        raise LossInputError(f"{loss}: {option} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def check_share(loss: str, option: str, value: float) -> float:
    """The option as a float; raises LossInputError unless it lies in [0, 1]."""
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= float(value) <= 1:
        raise LossInputError(f"{loss}: {option} must lie in [0, 1], got {value!r}")
    return float(value)


def columns(xp: Any, like: Array, labels: Array, m: int) -> Array:
    """Labels as an (n, m) table of 0 and 1 in the dtype of `like`, laid out by column."""
    return xp.astype(xp.arange(m, device=device(like))[:, None] == labels[None, :], like.dtype).T


def as_array(loss: str, name: str, values: Any) -> Array:
    """Values as an array of numbers; one of the array API stays as it is.

    Raises
    ------
    LossInputError
        For anything but numbers.
    """
    if is_array_api_obj(values) and not is_numpy_array(values):
        return values
    array = np.asarray(values)
    if array.dtype.kind in "biuf":
        return array
    # Text that looks like numbers is not read as such, and neither are dates.
    if array.dtype.kind == "O" and not any(isinstance(value, (str, bytes)) for value in array.flat):
        try:
            return array.astype(np.float64)
        except (TypeError, ValueError):
            pass
    raise LossInputError(f"{loss}: {name} must be real numbers, got dtype {array.dtype}")


def detached(array: Array) -> Array:
    """The array without its graph of torch."""
    return array.detach() if hasattr(array, "detach") else array


def raise_first(
    loss: str,
    name: str,
    wrong: Array,
    values: Array,
    rule: str,
    hint: str,
    error: type[LossInputError] = LossInputError,
) -> None:
    """Raise with count, row, column and value of the first fault, if there is any."""
    if not bool(wrong.any()):
        return
    places = np.argwhere(np.asarray(wrong.cpu() if hasattr(wrong, "cpu") else wrong))
    first = tuple(int(index) for index in places[0])
    total = int(np.prod(tuple(values.shape)))
    where = f"row {first[0]}" + (f", column {first[1]}" if len(first) > 1 else "")
    raise error(
        f"{loss}: {name} has {len(places)} of {total} values {rule}, the first in {where} ({float(values[first]):g})"
        f"{'. ' + hint if hint else ''}"
    )
