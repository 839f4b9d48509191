"""One answer from a panel of experts: everybody's vote counts by the log-odds of being right.

If experts err independently of each other given the true class, all wrong answers of an expert are equally likely, and no
class is likelier beforehand, the class of most votes so weighted is the most probable one (Bayes' rule).  For two classes
the second condition always holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defer.estimators.deferral.answers import is_asked, read_expert_table
from defer.estimators.deferral.panel_tables import read_confidence, read_panel
from defer.estimators.deferral.parameter_checks import check_choice
from defer.exceptions import RouterInputError

__all__ = ["weighted_vote"]

Floats = NDArray[np.float64]

_WEIGHTINGS = ("log_odds", "majority")
# Weights that would cancel exactly do so up to rounding; such votes are ties.
_ROUNDING = 1e-12


def weighted_vote(
    answers: Any,
    panel: ArrayLike,
    confidence: ArrayLike,
    *,
    classes: Sequence[Any] | NDArray[Any],
    weighting: str = "log_odds",
    fallback: Any = None,
    eps: float = 1e-6,
) -> NDArray[Any]:
    """Answer of the panel to every query.

    Parameters
    ----------
    answers : array or frame of shape (n, J)
        NaN, None or a masked value where an expert has not answered: its vote is left out.
    panel : bool array of shape (n, J)
        Who was asked, as from `ConformalPanel.predict_set`.
    confidence : array or frame of shape (n, J), in [0, 1]
        Probability p that an expert is right; of one who guesses among K classes it is 1 / K.
    classes : sequence of K >= 2 different labels
        What can be answered, such as ``router.label_classes_``.  K enters the weights.
    weighting : {"log_odds", "majority"}, default="log_odds"
        log(p * (K - 1) / (1 - p)), which is log(p / (1 - p)) for two classes, negative for an expert worse than guessing;
        or one vote each.
    fallback : label or array of shape (n,), optional
        Answer where nobody in the panel has one, such as the own prediction.
    eps : float in (0, 0.5), default=1e-6
        p is kept within [eps, 1 - eps], so that nobody's vote is infinite.

    Returns
    -------
    array of shape (n,)
        Labels.  Of classes with equal votes, up to rounding, the one named by the most confident expert, of equally
        confident ones by the lower column; where nobody named any of them, the first of `classes`.

    Raises
    ------
    RouterInputError
        On shapes that do not match, answers outside `classes`, or a query that nobody answers without a fallback.

    Notes
    -----
    Experts who tend to err together are counted as if they did not: their common vote is worth too much.

    References
    ----------
    Nitzan and Paroush 1982 (log-odds weights are optimal for two options).

    Examples
    --------
    One expert of 0.9 outweighs two of 0.7, but not two of 0.8; the last query comes to nobody.

    >>> answers = [["cat", "dog", "dog"]] * 3
    >>> panel = [[True, True, True]] * 2 + [[False, False, False]]
    >>> confidence = [[0.9, 0.7, 0.7], [0.9, 0.8, 0.8], [0.9, 0.9, 0.9]]
    >>> weighted_vote(answers, panel, confidence, classes=["cat", "dog"], fallback="cat").tolist()
    ['cat', 'dog', 'cat']
    """
    check_choice("weighted_vote", "weighting", weighting, _WEIGHTINGS)
    if isinstance(eps, bool) or not isinstance(eps, Real) or not 0 < float(eps) < 0.5:
        raise RouterInputError(f"weighted_vote: eps must be a number in (0, 0.5), got {eps!r}")
    option = _read_classes(classes)
    names, chance = read_confidence(confidence, upper=1.0)
    found, answer = read_expert_table(answers, n=len(chance), names=names)
    if answer.shape != chance.shape:
        raise RouterInputError(f"answers must have the shape of confidence, {chance.shape}, got {answer.shape}")
    asked = read_panel(panel, shape=(chance.shape[0], chance.shape[1]))
    code = _encode(answer, option, who=[f"answers: expert {str(name)!r}" for name in found])
    voter = asked & (code >= 0)
    silent = ~np.any(voter, axis=1)
    own = _read_fallback(fallback, option, silent=silent)
    share = np.clip(chance, eps, 1 - eps)
    weight = np.log(share * (len(option) - 1) / (1 - share)) if weighting == "log_odds" else np.ones_like(share)
    return option[np.where(silent, own, _winner(code, weight, voter, chance, len(option)))]


def _winner(
    code: NDArray[np.intp], weight: Floats, voter: NDArray[np.bool_], confidence: Floats, n_classes: int
) -> NDArray[np.intp]:
    """Index of the class of most votes, shape (n,)."""
    # Votes are added from the most confident on: equal sets of weights then give equal sums to the last bit.
    order = np.argsort(-confidence, axis=1, kind="stable")
    code, voter = np.take_along_axis(code, order, axis=1), np.take_along_axis(voter, order, axis=1)
    weight = np.where(voter, np.take_along_axis(weight, order, axis=1), 0.0)
    code = np.where(voter, code, 0)
    n = len(code)
    cell = np.arange(n)[:, None] * n_classes + code
    votes = np.bincount(cell.ravel(), weights=weight.ravel(), minlength=n * n_classes).reshape(n, n_classes)
    slack = _ROUNDING * (1 + np.abs(weight).sum(axis=1, keepdims=True))
    best = votes >= votes.max(axis=1, keepdims=True) - slack
    names_best = voter & np.take_along_axis(best, code, axis=1)
    first = np.take_along_axis(code, names_best.argmax(axis=1)[:, None], axis=1)[:, 0]
    return np.where(names_best.any(axis=1), first, best.argmax(axis=1))


def _read_fallback(fallback: Any, option: NDArray[Any], *, silent: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Class of the answer without a panel, shape (n,); -1 where it is not needed and not given."""
    n, rows = len(silent), np.flatnonzero(silent)
    if fallback is None:
        if len(rows):
            raise RouterInputError(
                f"weighted_vote: {len(rows)} of {n} queries are answered by nobody in the panel, the first is row {rows[0]}; "
                "give fallback=, such as the own prediction, or ask panels of rule 'reach', which are never empty"
            )
        return np.full(n, -1, dtype=np.intp)
    given = [fallback] * n if isinstance(fallback, str) or np.ndim(fallback) == 0 else fallback
    if np.shape(given) not in ((n,), (n, 1)):
        raise RouterInputError(f"fallback must be one label, or {n} of them, got shape {np.shape(given)}")
    table = np.asarray(given, dtype=object).reshape(n, 1)
    own = _encode(read_expert_table(table, n=n)[1], option, who=["fallback: the answer"])[:, 0]
    gaps = np.flatnonzero(silent & (own < 0))
    if len(gaps):
        raise RouterInputError(
            f"fallback: {len(gaps)} of {len(rows)} queries that nobody answers have no fallback, the first is row {gaps[0]}"
        )
    return own


def _encode(answer: NDArray[np.object_], option: NDArray[Any], *, who: list[str]) -> NDArray[np.intp]:
    """Index of every answer among the classes, in the shape of the table; -1 at gaps."""
    code = np.full(answer.shape, -1, dtype=np.intp)
    given = is_asked(answer)
    index = {label: number for number, label in enumerate(option.tolist())}
    code[given] = [index.get(value, -1) for value in answer[given].tolist()]
    wrong = np.argwhere(given & (code < 0))
    if len(wrong):
        row, column = wrong[0]
        raise RouterInputError(
            f"{who[column]} says {answer[row, column]!r} in row {row}, the first of {len(wrong)} of {given.sum()} answers that "
            f"are not among the {len(option)} classes {_some(option.tolist())}; name it in classes=, or leave it out as None"
        )
    return code


def _read_classes(classes: Any) -> NDArray[Any]:
    option = np.asarray(classes)
    if option.ndim != 1 or option.size < 2 or len(set(option.tolist())) != option.size:
        raise RouterInputError(
            f"classes must be at least two different labels, shape (K,), got {_some(option.tolist())}"
        )
    return option


def _some(labels: Any) -> str:
    return repr(labels) if np.ndim(labels) != 1 or len(labels) <= 10 else f"{repr(labels[:10])[:-1]}, ...]"
