"""Labels on the simplex made of rewards, and the divergences that a router's distribution is fitted to them by.

Silver labels are the softmax of a query's rewards, soft labels the same of kappa times its scores; enhancement mixes a query's
own label with the mean labels of its tags.  Sources: Lu et al. 2024 (ZOOTER, steps 2 to 4); Stripelis et al. 2024 (soft labels,
whose direction is ours).
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.exceptions import LossInputError
from defer.losses.inputs import as_array, as_beside, as_scores, check_share, check_weight, detached, raise_first
from defer.losses.multiclass import CROSS_ENTROPY, log_softmax, softmax
from defer.losses.tag_incidence import tag_incidence
from defer.losses.value import Formula, LossValue

__all__ = [
    "DIVERGENCES",
    "LEAST_SHARE",
    "enhance_labels",
    "forward_kl",
    "reverse_kl",
    "silver_labels",
    "soft_labels",
]

Array = Any
Floats = NDArray[np.float64]

LEAST_SHARE = 1e-30
"""What a share of 0 counts as in the reverse divergence, which would be infinite; float32 can hold it too."""

_SUM_SLACK = 1e-4
_LARGEST = float(np.finfo(np.float64).max)


def silver_labels(reward: ArrayLike, *, temperature: float = 1.0) -> Floats:
    """Softmax of every query's rewards, over the arms that were observed.

    A constant added to all rewards of a query changes nothing; a factor does, as a temperature.

    Parameters
    ----------
    reward : array of shape (n, m)
        Of any scale; NaN = not observed.
    temperature : float, default=1.0
        Rewards are divided by it; 1 is the source's.

    Returns
    -------
    array of shape (n, m)
        Rows on the simplex, 0 where not observed; NaN in the rows of which nothing was.

    Raises
    ------
    LossInputError
        For another shape, infinite rewards, and a temperature that is no finite number > 0.

    References
    ----------
    Lu et al. 2024, step 2.

    Examples
    --------
    >>> silver_labels([[2.0, 1.0, 0.0], [1.0, np.nan, 1.0]]).round(6).tolist()
    [[0.665241, 0.244728, 0.090031], [0.5, 0.0, 0.5]]
    """
    if not _is_number(temperature) or not 0 < float(temperature) < np.inf:
        raise LossInputError(f"silver_labels: temperature must be a finite number > 0, got {temperature!r}")
    return _shares("silver_labels", "reward", reward, scale=1.0 / float(temperature))


def soft_labels(score: ArrayLike, *, kappa: float = 10.0) -> Floats:
    """Shares proportional to exp(kappa * score), over the arms that were observed.

    Parameters
    ----------
    score : array of shape (n, m)
        NaN = not observed.
    kappa : float, default=10.0
        0 gives every observed arm the same share; ``np.inf`` is the hard label, which arms that tie share equally.

    Returns
    -------
    array of shape (n, m)
        Rows on the simplex, 0 where not observed; NaN in the rows of which nothing was.

    Raises
    ------
    LossInputError
        For another shape, infinite scores, and a kappa that is no number >= 0.

    Notes
    -----
    The source gives a "temperature 10" without saying which way it acts.  Ours multiplies: dividing scores in [0, 1] by 10 makes
    the labels almost uniform (``kappa=0.1``).

    References
    ----------
    Stripelis et al. 2024.

    Examples
    --------
    >>> soft_labels([[0.8, 0.6, 0.5]]).round(6).tolist()
    [[0.843795, 0.114195, 0.04201]]
    """
    if not _is_number(kappa) or not float(kappa) >= 0:
        raise LossInputError(f"soft_labels: kappa must be a number >= 0, or np.inf, got {kappa!r}")
    return _shares("soft_labels", "score", score, scale=float(kappa))


def enhance_labels(silver: ArrayLike, tags: Any, *, beta: float = 0.3, weight: ArrayLike | None = None) -> Floats:
    """Mix every query's label with the mean labels of its tags: beta s + (1 - beta) mean over its tags of s_t.

    s_t is the mean label of all queries with the tag, the query itself among them.  A query without tags keeps its label.

    Parameters
    ----------
    silver : array of shape (n, m)
        Labels; rows of NaN have none, take part in no mean and stay NaN.
    tags : sequence of n sets of str, or array of shape (n,), or sparse matrix of shape (n, T)
        Tags of every query, as `tag_incidence` reads them.
    beta : float, default=0.3
        Share of the own label, in [0, 1].
    weight : array of shape (n,), optional
        Of the queries in the means of tags; all alike by default.

    Returns
    -------
    array of shape (n, m)
        Rows on the simplex.

    Raises
    ------
    LossInputError
        For shapes that do not fit, `beta` outside [0, 1], and tags that are none.

    Notes
    -----
    With one tag a query the mean over all queries stays what it was, for every beta; with several it does not.  Where a label is
    the tag's own plus independent noise of variance v, the mean over a tag of k queries has variance v / k.

    References
    ----------
    Lu et al. 2024, step 3; beta = 0.3 in its main results.

    Examples
    --------
    >>> silver = silver_labels([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
    >>> enhance_labels(silver, [{"a"}, {"a", "b"}, {"b"}]).round(6)[0].tolist()
    [0.463917, 0.244728, 0.291354]
    """
    name = "enhance_labels"
    share = check_share(name, "beta", beta)
    label = _table(name, "silver", silver)
    member = tag_incidence(tags, n=len(label), owner=name)
    given = check_weight(name, None if weight is None else np.asarray(weight), label)
    labelled: NDArray[np.bool_] = np.all(np.isfinite(label), axis=1)
    mass: Floats = labelled * (np.ones(len(label)) if given is None else given)
    size = member.T @ mass
    known = (size > 0).astype(np.float64)
    of_tag = (member.T @ np.where(labelled[:, None], mass[:, None] * label, 0.0)) / np.where(size > 0, size, 1.0)[
        :, None
    ]
    n_tags = member @ known
    mean = (member @ of_tag) / np.maximum(n_tags, 1.0)[:, None]
    # Weight 0 may leave a tag without a mean; a query of such tags alone keeps its label, as one without tags does.
    return np.where((labelled & (n_tags > 0))[:, None], share * label + (1.0 - share) * mean, label)


def forward_kl(scores: Array, target: Array, *, weight: Array | None = None) -> LossValue:
    """KL(target || p), p = softmax(scores): the soft cross-entropy less the entropy of the target.

    Population minimiser: p = E[target | x].  Read-out: the softmax.  Convex; gradient p - target.  It is what most toolkits
    compute for the source's "KLD", and the default here.

    Parameters
    ----------
    scores : array of shape (n, m)
        One real score per arm.
    target : array of shape (n, m)
        Labels, rows on the simplex.
    weight : array of shape (n,), optional
        Weight of every sample, >= 0.

    Returns
    -------
    LossValue
        With a cheap Hessian product.

    Raises
    ------
    LossInputError
        For shapes that do not fit, rows that are no distribution, and numbers that are not finite.

    References
    ----------
    Lu et al. 2024, step 4; Stripelis et al. 2024, the soft cross-entropy.

    Examples
    --------
    >>> loss = forward_kl(np.zeros((1, 2)), np.array([[0.8, 0.2]]))
    >>> loss.value.round(6).tolist(), loss.gradient.round(6).tolist()
    ([0.192745], [[-0.3, 0.3]])
    """
    return _divergence(_FORWARD, scores, target, weight)


def reverse_kl(scores: Array, target: Array, *, weight: Array | None = None) -> LossValue:
    """KL(p || target), p = softmax(scores): the source's "KLD(router, label)" read literally.

    Minimiser for one label: p = target, as of `forward_kl`.  Population minimiser: p proportional to exp(E[log target | x]), a
    geometric mean, and no E[target | x].  Read-out: the softmax.  Not convex in the scores.

    Parameters
    ----------
    scores : array of shape (n, m)
        One real score per arm.
    target : array of shape (n, m)
        Labels, rows on the simplex; a share below `LEAST_SHARE`, at which the divergence would be infinite, counts as that.
    weight : array of shape (n,), optional
        Weight of every sample, >= 0.

    Returns
    -------
    LossValue
        With a cheap Hessian product.

    Raises
    ------
    LossInputError
        For shapes that do not fit, rows that are no distribution, and numbers that are not finite.

    References
    ----------
    Lu et al. 2024, step 4.

    Examples
    --------
    >>> loss = reverse_kl(np.zeros((1, 2)), np.array([[0.8, 0.2]]))
    >>> loss.value.round(6).tolist(), loss.gradient.round(6).tolist()
    ([0.223144], [[-0.346574, 0.346574]])
    """
    return _divergence(_REVERSE, scores, target, weight)


DIVERGENCES = {"forward": forward_kl, "reverse": reverse_kl}
"""The two by name."""


def _divergence(formula: Formula, scores: Array, target: Array, weight: Array | None) -> LossValue:
    xp, scores = as_scores(formula.name, scores)
    target = as_beside(formula.name, "target", target, scores)
    if tuple(target.shape) != tuple(scores.shape):
        raise LossInputError(
            f"{formula.name}: target has shape {tuple(target.shape)}; it needs that of the scores, {tuple(scores.shape)}, one "
            "share per arm"
        )
    if scores.shape[0]:
        plain = detached(target)
        raise_first(formula.name, "target", ~(plain >= 0), plain, "that are negative or NaN", "A share is at least 0.")
        total = xp.sum(plain, axis=1)
        wrong = ~(xp.abs(total - 1.0) <= _SUM_SLACK)
        raise_first(
            formula.name, "the sum of target", wrong, total, "that are not 1", "A label is a distribution over arms."
        )
    return LossValue(formula, scores, (target,), check_weight(formula.name, weight, scores))


def _forward_value(xp: Any, scores: Array, target: Array) -> Array:
    own = xp.where(target > 0, target, 1.0)
    return xp.sum(target * (xp.log(own) - log_softmax(xp, scores)), axis=1)


def _forward_hessian(xp: Any, scores: Array, vector: Array, target: Array) -> Array:
    p = softmax(xp, scores)
    mean = xp.sum(p * vector, axis=1, keepdims=True)
    return xp.sum(target, axis=1, keepdims=True) * p * (vector - mean)


def _reverse_parts(xp: Any, scores: Array, target: Array) -> tuple[Array, Array, Array]:
    """p, log(p / target), and their product summed over arms."""
    logs = log_softmax(xp, scores)
    p = xp.exp(logs)
    excess = logs - xp.log(xp.where(target > LEAST_SHARE, target, LEAST_SHARE))
    return p, excess, xp.sum(p * excess, axis=1, keepdims=True)


def _reverse_value(xp: Any, scores: Array, target: Array) -> Array:
    return _reverse_parts(xp, scores, target)[2][:, 0]


def _reverse_gradient(xp: Any, scores: Array, target: Array) -> Array:
    p, excess, mean = _reverse_parts(xp, scores, target)
    return p * (excess - mean)


def _reverse_hessian(xp: Any, scores: Array, vector: Array, target: Array) -> Array:
    p, excess, mean = _reverse_parts(xp, scores, target)
    along = vector - xp.sum(p * vector, axis=1, keepdims=True)
    slope = xp.sum(p * (excess - mean) * vector, axis=1, keepdims=True)
    return p * (along * (excess - mean + 1.0) - slope)


_FORWARD = Formula("forward_kl", _forward_value, CROSS_ENTROPY.gradient, _forward_hessian)
_REVERSE = Formula("reverse_kl", _reverse_value, _reverse_gradient, _reverse_hessian)


def _shares(loss: str, name: str, values: ArrayLike, *, scale: float) -> Floats:
    """Softmax of the rows times a scale, over what is not NaN; an infinite scale shares among the largest."""
    table = _table(loss, name, values)
    raise_first(loss, name, np.isinf(table), table, "that are infinite", "NaN means not observed.")
    seen = np.isfinite(table)
    empty = ~seen.any(axis=1)
    top = np.where(seen, table, -np.inf).max(axis=1, initial=-np.inf)
    # Every gap is at most 0; a large multiple of it may be minus infinity, whose exponential is the 0 that is meant.
    with np.errstate(over="ignore", under="ignore"):
        gap = np.where(seen, np.maximum(table - np.where(empty, 0.0, top)[:, None], -_LARGEST), 0.0)
        part = (gap == 0).astype(np.float64) if np.isinf(scale) else np.exp(scale * gap)
        part = np.where(seen, part, 0.0)
        return part / np.where(empty, np.nan, part.sum(axis=1))[:, None]


def _table(loss: str, name: str, values: ArrayLike) -> Floats:
    table: Floats = np.asarray(as_array(loss, name, np.asarray(detached(values))), dtype=np.float64)
    if table.ndim != 2 or table.shape[1] == 0:
        raise LossInputError(f"{loss}: {name} must have shape (n, m) with m >= 1, got {table.shape}")
    return table


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
