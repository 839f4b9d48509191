"""Base of routers that read text by a transformer that they fine-tune, and measure other arms against the strong one."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defer.estimators.base import column_means
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.routers.preference_router import arm_index
from defer.estimators.routers.text_network import KeepsNetwork, clean_texts
from defer.estimators.routers.text_training import FineTuning
from defer.estimators.score_router import QualityScale, ScoreRouter

__all__ = ["TextRouter"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


class TextRouter(KeepsNetwork, ScoreRouter):
    """A router whose queries are texts; a subclass writes `_learn`, `_build` and `_text_scores`.

    Attributes
    ----------
    weights_ : dict of str to array
        Parameters that were trained, float32.  The others are read from the model folder on first use.
    model_hash_ : str
        SHA-256 of the model folder at the time of the fit; "" where there is none.
    strong_ : name of the arm that others are measured against
    """

    strong_: Any

    @abstractmethod
    def _learn(self, texts: list[str], outcomes: Outcomes) -> Rows:
        """Fit, and give the rows whose scores may tell the scale of quality."""

    @abstractmethod
    def _text_scores(self, texts: list[str]) -> Floats:
        """Score of every arm, shape (n, m)."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags

    def _check_queries(self, X: Any, *, reset: bool) -> Any:
        # Before the base class: a table of numbers would be checked as one, and then refused all the same.
        if isinstance(X, (list, tuple, np.ndarray)) and len(X) == 0:
            return super()._check_queries(X, reset=reset)
        return super()._check_queries(clean_texts(type(self).__name__, X), reset=reset)

    def _fit(self, X: Any, outcomes: Outcomes) -> None:
        rows = self._learn(X, outcomes)
        weight = np.ones(len(X)) if outcomes.weight is None else outcomes.weight
        counted = np.isfinite(outcomes.quality).any(axis=1) & (weight > 0)
        rows = rows[counted[rows]]
        rows = rows if len(rows) else np.flatnonzero(counted)
        scores = self._text_scores([X[row] for row in rows])
        self.quality_scale_ = QualityScale.fit(scores, outcomes.quality[rows], weight[rows])

    def _fit_scores(self, X: Any, outcomes: Outcomes) -> Floats:
        self._learn(X, outcomes)
        return self._text_scores(X)

    def _predict_scores(self, X: Any) -> Floats:
        return self._text_scores(X)

    def _find_strong(self, outcomes: Outcomes) -> int:
        """Place of the arm that others are measured against: the one that was named, or of highest mean quality."""
        named = getattr(self, "strong", None)
        place = int(np.argmax(column_means(outcomes.quality, outcomes.weight, len(outcomes.arms))))
        place = place if named is None else arm_index(self, named)
        self.strong_ = outcomes.arms[place].item()
        return place

    def _others(self) -> Rows:
        """Places of all arms but the strong one."""
        return np.flatnonzero(self.arms_ != self.strong_)

    def _against_strong(self, chance: Floats) -> Floats:
        """Scores of all arms where `chance`, of shape (n, m - 1), is that of taking the others in its place; its own is 1/2."""
        scores = np.full((len(chance), len(self.arms_)), 0.5)
        scores[:, self._others()] = chance
        return scores

    def predict_strong(self, X: Any) -> Floats:
        """P(strong) as the source has it, against every arm: the strong arm is called where it reaches a threshold.

        Parameters
        ----------
        X : list of n texts

        Returns
        -------
        array of shape (n, m)
            1/2 against itself.
        """
        return 1.0 - self.predict_scores(X)

    def _training(self) -> FineTuning:
        names = ("epochs", "batch_size", "max_norm", "weight_decay", "validation_fraction", "device")
        given = {name: getattr(self, name) for name in names}
        rate, head = self._rate(), getattr(self, "head_learning_rate", None)
        return FineTuning(type(self).__name__, **given, learning_rate=rate, head_learning_rate=head)

    def _rate(self) -> Any:
        """Learning rate, which may depend on the model."""
        return getattr(self, "learning_rate", None)
