"""Which experts to ask together: a panel that holds a right expert with a probability chosen beforehand.

Experts are sorted by falling confidence, and the score of a query is the confidence cumulated up to the first expert who
is right.  A quantile of the scores of n labelled queries then bounds the score of the next one, whatever the confidence
is worth (split conformal prediction).

Source: Verma, Barrejon and Nalisnick 2023, "Learning to Defer to Multiple Experts" (conformal panels); Angelopoulos et al.
2021, "Uncertainty Sets for Image Classifiers using Conformal Prediction" (RAPS: penalty and randomised last member).
"""

from __future__ import annotations

import warnings
from fractions import Fraction
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from defer.estimators.deferral.panel_coverage import (
    PanelCoverage,
    conformal_quantile,
    exact_share,
    panel_coverage,
    why_whole,
)
from defer.estimators.deferral.panel_tables import expert_label, read_confidence, read_groups, read_right
from defer.estimators.deferral.parameter_checks import check_choices, check_counts
from defer.exceptions import FallbackWarning, RouterInputError

__all__ = ["ConformalPanel"]

Floats = NDArray[np.float64]

_RULES = ("reach", "within", "randomized")
_MISSING = ("raise", "as_wrong", "drop")
# Draws of calibration and of prediction must not be the same numbers where both are given the same seed.
_CALIBRATION, _PREDICTION = 0, 1


class ConformalPanel(BaseEstimator):  # type: ignore[misc]
    """Panels of experts calibrated to hold a right expert with probability 1 - alpha.

    Parameters
    ----------
    alpha : float or Fraction in [0, 1], default=0.1
        Share of queries that may miss.  0 asks everybody; 1 asks one expert (rule "reach") or nobody.
    rule : {"reach", "within", "randomized"}, default="reach"
        Who is asked, given the calibrated quantile Q of the score.  "reach": the smallest set of most confident experts
        whose cumulative score is at least Q, everybody if it never is; at least one expert is asked, and more queries than
        promised are covered.  "within": the experts whose cumulative score is at most Q; covers as many queries as
        promised, and asks nobody where the first expert alone exceeds Q.  "randomized": as "within" for scores in which the
        part of the last expert is multiplied by a uniform draw, in calibration and prediction; covers as many queries as
        promised also where confidence takes few values, and may ask nobody.
    penalty : float >= 0, default=0.0
        Added to the cumulative score for every expert after the `k_reg` first: penalty * max(0, i - k_reg) at rank i, in
        calibration and prediction.  Keeps panels from becoming long where confidence is noisy.
    k_reg : int >= 0, default=1
        Number of experts without a penalty.
    missing : {"raise", "as_wrong", "drop"}, default="raise"
        What to do about experts who were not asked (NaN in `right`) and stand before the first one known to be right.
        "as_wrong" takes them as wrong: scores can only grow, so the guarantee holds whatever decided who was asked, with
        panels that may be longer than necessary.  "drop" leaves out all rows with a gap, which assumes that whether a
        row is complete has nothing to do with its score.  (To leave out only the rows that are ambiguous would assume more
        than that: early successes are rarely ambiguous, and the panels would be too small.)
    min_group_size : int >= 1, default=1
        Groups with fewer calibration rows ask the whole panel, as do those in which (1 - alpha) / alpha rows are not
        reached.  The guarantee needs no more; coverage given the calibration rows varies by about
        sqrt(alpha * (1 - alpha) / (rows + 2)).

    Attributes
    ----------
    quantile_ : float
        Q over all calibration rows; inf asks the whole panel.  Used where `fit` was given no groups.
    quantiles_ : dict of group to float
        Q of every group; empty without groups.
    n_experts_ : int
    expert_ : str array of shape (J,) or None
        Names of the experts, where a table given to `fit` names its columns.

    Notes
    -----
    With p_(1) >= ... >= p_(J) the confidence of a query in falling order, equal ones in the order of the columns,
    C_i = p_(1) + ... + p_(i) + penalty * max(0, i - k_reg), and R the rank of the first expert who is right, the score is
    S = C_R, for "randomized" S = C_(R-1) + U * (C_R - C_(R-1)); it is infinite where nobody is right.  Q is the
    ceil((n + 1) * (1 - alpha))-th smallest of n scores, infinite if there are fewer.

    What is promised, if calibration rows and the new query are exchangeable: P(S <= Q) >= 1 - alpha, that is, with
    probability at least 1 - alpha a right expert is asked *or* Q is infinite and everybody is.  For scores that are distinct
    where finite, "within" and "randomized" ask a right expert with probability at most 1 - alpha + 1 / (n + 1).  Queries
    on which nobody is right count as failures: if they are more than a share alpha, Q is infinite (with a
    `FallbackWarning`).  The promise is marginal, over calibration and query: it does not hold for each query, nor given
    the calibration rows; with groups it holds within every group.  The confidence may be anything >= 0; the better it
    sorts the experts, the smaller the panels.

    A panel is no router, which is what `defer.save` writes with its checks, and its groups may be labels of any type; keep it
    with ``joblib.dump(panel, path)``, and load such files from sources that you trust alone.

    Exchangeable means: calibrate on rows that neither the router nor the confidence was fitted on, and on those alone that
    would come to a panel.  With a router whose first arm is the own prediction::

        calibration = X[router.defer_mask(X)]                              # right: who answered these as labelled
        panel = ConformalPanel(0.1).fit(router.predict_quality(calibration)[:, 1:].clip(0, 1), right)
        deferred = X_new[router.defer_mask(X_new)]
        confidence = router.predict_quality(deferred)[:, 1:].clip(0, 1)
        asked = panel.predict_set(confidence)                              # answers: of those who are asked
        label = weighted_vote(answers, asked, confidence, classes=router.label_classes_)

    That the score counts up to the *first* right expert, that ties of confidence go by column, and that the penalty is
    RAPS's, is our reading; the argument for coverage does not depend on it.

    References
    ----------
    Verma, Barrejon and Nalisnick 2023; Angelopoulos, Bates, Malik and Jordan 2021; Vovk, Gammerman and Shafer 2005, chapter 4
    (Mondrian: one quantile per group).

    Examples
    --------
    >>> confidence = [[0.9, 0.5], [0.8, 0.3], [0.6, 0.7], [0.9, 0.2]]
    >>> right = [[1, 0], [1, 1], [0, 1], [0, 1]]
    >>> panel = ConformalPanel(0.5).fit(confidence, right)       # scores 0.9, 0.8, 0.7, 1.1: the third is Q
    >>> panel.quantile_
    0.9
    >>> panel.predict_set([[0.2, 0.95], [0.6, 0.5]]).tolist()
    [[False, True], [True, True]]
    """

    def __init__(
        self,
        alpha: Any = 0.1,
        *,
        rule: str = "reach",
        penalty: float = 0.0,
        k_reg: int = 1,
        missing: str = "raise",
        min_group_size: int = 1,
    ) -> None:
        self.alpha = alpha
        self.rule = rule
        self.penalty = penalty
        self.k_reg = k_reg
        self.missing = missing
        self.min_group_size = min_group_size

    def fit(self, confidence: ArrayLike, right: ArrayLike, *, groups: Any = None, random_state: Any = None) -> Self:
        """Calibrate the quantile of the score.

        Parameters
        ----------
        confidence : array or frame of shape (n, J)
            How likely each expert is right, any number >= 0; the columns of a frame name the experts.
        right : array or frame of shape (n, J)
            1 where the expert was right, 0 where not, NaN where it was not asked.
        groups : array of shape (n,), optional
            Group of every row; each gets its own quantile.
        random_state : int, Generator, RandomState instance or None
            Draws for the rule "randomized".

        Returns
        -------
        self

        Raises
        ------
        RouterInputError
            On shapes that do not match, values that are not allowed, or gaps before the first right expert.

        Warns
        -----
        FallbackWarning
            If the whole panel has to be asked, of all or of some groups: too few rows, or too many on which nobody is right.
        """
        level = self._check_parameters()
        names, table = read_confidence(confidence)
        names, outcome = read_right(right, experts=names, shape=table.shape)
        label = None if groups is None else read_groups(groups, n=len(table))
        kept, outcome = self._fill(outcome, table, names)
        draw = self._draw(random_state, len(table), stream=_CALIBRATION)
        score = self._score(table, outcome, draw)[kept]
        self.quantile_, self.quantiles_ = self._calibrate(score, kept, label, level)
        self.n_experts_, self.expert_ = table.shape[1], names
        self._calibrated_with = self._score_parameters()
        return self

    def predict_set(self, confidence: ArrayLike, *, groups: Any = None, random_state: Any = None) -> NDArray[np.bool_]:
        """Which experts to ask.

        Parameters
        ----------
        confidence : array or frame of shape (n, J)
            As for `fit`; the columns of a frame are sorted by name.
        groups : array of shape (n,)
            Needed exactly if `fit` was given groups.
        random_state : int, Generator, RandomState instance or None
            Draws for the rule "randomized".

        Returns
        -------
        bool array of shape (n, J)
            In the order of the columns.

        Raises
        ------
        RouterInputError
            On other experts than in `fit`, a group that it has not seen, or parameters set since.
        """
        check_is_fitted(self, "quantiles_")
        if self._calibrated_with != self._score_parameters():
            raise RouterInputError(
                "ConformalPanel: alpha, penalty, k_reg or the randomisation was changed after fit, and its quantile holds for "
                f"{self._calibrated_with} only, not for {self._score_parameters()}; fit again"
            )
        _, table = read_confidence(confidence, experts=self.expert_, n_experts=self.n_experts_)
        quantile = self._quantile_of(groups, len(table))[:, None]
        order, before, after = self._cumulate(table, self._draw(random_state, len(table), stream=_PREDICTION))
        if self.rule == "reach":
            asked = before < quantile
            asked[:, 0] = True
        else:
            asked = after <= quantile
        panel = np.empty_like(asked)
        np.put_along_axis(panel, order, asked, axis=1)
        return panel

    def coverage(
        self,
        confidence: ArrayLike,
        right: ArrayLike,
        *,
        groups: Any = None,
        level: float = 0.95,
        random_state: Any = None,
    ) -> PanelCoverage:
        """How often the panels hold a right expert, and how large they are, on other rows than those of `fit`.

        Parameters
        ----------
        confidence, right, groups
            As for `fit` and `predict_set`; gaps in `right` are treated as in `fit`, so that "as_wrong" gives a coverage
            that the true one is not below.
        level : float in (0, 1), default=0.95
            Of the intervals.
        random_state : int, Generator, RandomState instance or None
            As for `predict_set`.

        Returns
        -------
        PanelCoverage

        Examples
        --------
        >>> panel = ConformalPanel(0.5).fit([[0.9, 0.5], [0.8, 0.3], [0.6, 0.7]], [[1, 0], [1, 1], [0, 1]])
        >>> shown = panel.coverage([[0.9, 0.5], [0.2, 0.6]], [[1, 0], [0, 0]])
        >>> shown.coverage, shown.attainable, shown.missed, shown.size
        (0.5, 0.5, 0.0, 1.5)
        """
        if isinstance(level, bool) or not isinstance(level, Real) or not 0 < float(level) < 1:
            raise RouterInputError(f"coverage: level must be a number in (0, 1), got {level!r}")
        panel = self.predict_set(confidence, groups=groups, random_state=random_state)
        _, table = read_confidence(confidence, experts=self.expert_, n_experts=self.n_experts_)
        _, outcome = read_right(right, experts=self.expert_, shape=table.shape)
        kept, outcome = self._fill(outcome, table, self.expert_)
        return panel_coverage(panel[kept], outcome[kept] == 1, float(level))

    def _check_parameters(self) -> Fraction:
        check_choices(self, rule=_RULES, missing=_MISSING)
        penalty = self.penalty
        if isinstance(penalty, bool) or not isinstance(penalty, Real) or not 0 <= float(penalty) < np.inf:
            raise RouterInputError(f"ConformalPanel: penalty must be a finite number >= 0, got {penalty!r}")
        check_counts("ConformalPanel", least=0, k_reg=self.k_reg)
        check_counts("ConformalPanel", min_group_size=self.min_group_size)
        return exact_share(self.alpha)

    def _score_parameters(self) -> dict[str, Any]:
        """What a calibrated quantile depends on."""
        return {
            "alpha": self.alpha,
            "penalty": self.penalty,
            "k_reg": self.k_reg,
            "randomized": self.rule == "randomized",
        }

    def _fill(
        self, right: Floats, confidence: Floats, names: NDArray[np.str_] | None
    ) -> tuple[NDArray[np.bool_], Floats]:
        """Rows to use, and `right` with its gaps treated."""
        gap = np.isnan(right)
        if self.missing == "drop":
            complete = ~np.any(gap, axis=1)
            if not complete.any():
                raise RouterInputError(
                    f"right: every one of the {len(right)} rows has an expert who was not asked, and missing='drop' leaves "
                    "none; use missing='as_wrong'"
                )
            return complete, right
        if self.missing == "raise" and gap.any():
            order = _order(confidence)
            known = np.take_along_axis(right, order, axis=1)
            first = np.where((known == 1).any(axis=1), (known == 1).argmax(axis=1), right.shape[1])
            hidden = np.isnan(known) & (np.arange(right.shape[1]) < first[:, None])
            rows = np.flatnonzero(hidden.any(axis=1))
            if len(rows):
                expert = expert_label(names, int(order[rows[0], hidden[rows[0]].argmax()]))
                raise RouterInputError(
                    f"right: in {len(rows)} of {len(right)} rows an expert was not asked who stands before the first one known "
                    f"to be right, the first is row {rows[0]}, {expert}; use missing='as_wrong', which keeps the guarantee, or "
                    "missing='drop', which assumes that complete rows are like the others"
                )
        return np.ones(len(right), dtype=bool), np.where(gap, 0.0, right)

    def _score(self, confidence: Floats, right: Floats, draw: Floats) -> Floats:
        """Cumulative score of the first expert who is right, shape (n,), infinite where nobody is."""
        order, _, after = self._cumulate(confidence, draw)
        known = np.take_along_axis(right, order, axis=1) == 1
        score = np.take_along_axis(after, known.argmax(axis=1)[:, None], axis=1)[:, 0]
        return np.where(known.any(axis=1), score, np.inf)

    def _cumulate(self, confidence: Floats, draw: Floats) -> tuple[NDArray[np.intp], Floats, Floats]:
        """Columns by falling confidence, and the score before and up to each of them, all of shape (n, J)."""
        order = _order(confidence)
        after = np.cumsum(np.take_along_axis(confidence, order, axis=1), axis=1)
        after += float(self.penalty) * np.maximum(0, np.arange(1, after.shape[1] + 1) - int(self.k_reg))
        before = np.column_stack([np.zeros(len(after)), after[:, :-1]])
        if self.rule == "randomized":
            # Rounding must not lift a part above the whole: sets would no longer be prefixes.
            after = np.minimum(after, before + draw[:, None] * (after - before))
        return order, before, after

    def _draw(self, random_state: Any, n: int, *, stream: int) -> Floats:
        if self.rule != "randomized":
            return np.ones(n)
        if isinstance(random_state, np.random.Generator):
            return random_state.random(n)
        seed = int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
        return np.random.default_rng((stream, seed)).random(n)

    def _calibrate(
        self, score: Floats, kept: NDArray[np.bool_], label: list[Any] | None, level: Fraction
    ) -> tuple[float, dict[Any, float]]:
        pooled = conformal_quantile(score, level)
        if label is None:
            reason = why_whole(score, level, least=1)
            if reason:
                self._warn_of_whole(f"the whole panel is asked: {reason}")
            return pooled, {}
        index = {group: code for code, group in enumerate(dict.fromkeys(label))}
        code = np.fromiter((index[group] for group in label), np.intp, len(label))[kept]
        quantiles, reasons = {}, []
        for group, number in index.items():
            own = score[code == number]
            reason = why_whole(own, level, least=int(self.min_group_size))
            quantiles[group] = np.inf if len(own) < self.min_group_size else conformal_quantile(own, level)
            reasons += [f"{group!r}: {reason}"] if reason else []
        if reasons:
            self._warn_of_whole(
                f"the whole panel is asked in {len(reasons)} of {len(index)} groups; " + "; ".join(reasons)
            )
        return pooled, quantiles

    def _warn_of_whole(self, text: str) -> None:
        warnings.warn(f"ConformalPanel: {text}", FallbackWarning, stacklevel=4)

    def _quantile_of(self, groups: Any, n: int) -> Floats:
        if groups is None and not self.quantiles_:
            return np.full(n, self.quantile_)
        if groups is None or not self.quantiles_:
            given, then = ("none", "given") if groups is None else ("given", "none")
            raise RouterInputError(f"groups: {given} here, {then} in fit; give them to both or to neither")
        label = read_groups(groups, n=n)
        unknown = [row for row, group in enumerate(label) if group not in self.quantiles_]
        if unknown:
            raise RouterInputError(
                f"groups: {len(unknown)} of {n} rows are of a group that fit has not seen, the first is row {unknown[0]} "
                f"({label[unknown[0]]!r}); the groups are {list(self.quantiles_)}"
            )
        return np.fromiter((self.quantiles_[group] for group in label), float, n)


def _order(confidence: Floats) -> NDArray[np.intp]:
    return np.argsort(-confidence, axis=1, kind="stable")
