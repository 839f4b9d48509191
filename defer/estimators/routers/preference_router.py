"""What routers that learn from battles share: the chance that one arm beats another, read off scores by a logistic curve."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from defer.estimators.score_router import ScoreRouter
from defer.exceptions import RouterInputError

__all__ = ["PreferenceRouter", "arm_index"]

Floats = NDArray[np.float64]


class PreferenceRouter(ScoreRouter):
    """A router whose scores are strengths: P(a beats b) = sigmoid(score of a - score of b)."""

    def predict_win(self, X: Any, a: Any, b: Any) -> Floats:
        """Chance that the answer of arm `a` beats that of arm `b`, a tie being half a win.

        Parameters
        ----------
        X : n queries, as for `fit`
        a, b : names of arms

        Returns
        -------
        array of shape (n,)

        Raises
        ------
        RouterInputError
            If the router has no such arm.
        """
        scores = self.predict_scores(X)
        return np.asarray(expit(scores[:, arm_index(self, a)] - scores[:, arm_index(self, b)]))


def arm_index(router: Any, name: Any) -> int:
    """Place of an arm of a fitted router.

    Raises
    ------
    RouterInputError
        If it has no arm of this name.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> arm_index(SimpleNamespace(arms_=np.array(["small", "large"])), "large")
    1
    """
    arms = router.arms_.tolist()
    if name not in arms:
        raise RouterInputError(f"{type(router).__name__}: there is no arm {name!r}; the arms are {arms}")
    return int(arms.index(name))
