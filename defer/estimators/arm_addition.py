"""Adding an arm to a fitted router from a log of a few queries, without fitting the router again."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted

from defer.estimators.base import BaseRouter, column_means
from defer.exceptions import RouterInputError
from defer.portfolios.outcomes import OutcomeLog

__all__ = ["ArmAddition", "ArmTrial"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ArmTrial:
    """What an arm did on the queries on which it was run.

    Attributes
    ----------
    X : k queries, checked
    quality : array of shape (k,)
    cost : array of shape (k,) or None
        NaN = not known.
    mean_cost : float
        Of the known costs; 0 for a router without costs.
    """

    X: Any
    quality: Floats
    cost: Floats | None
    mean_cost: float


class ArmAddition(BaseRouter):
    """A router to which arms can be added after `fit`; a subclass writes `_add_arm`."""

    @abstractmethod
    def _add_arm(self, trial: ArmTrial) -> None:
        """Extend what was learned by one arm, in the last place."""

    def add_arm(self, name: Any, log: OutcomeLog) -> Self:
        """Add an arm from the queries on which it was run; what was learned of the others stays as it is.

        Parameters
        ----------
        name : str
            One of the arms of `log`, and none of the router's.
        log : OutcomeLog
            Queries as for `fit`, with the outcomes of the arm; rows without one are left out.

        Returns
        -------
        self

        Raises
        ------
        RouterInputError
            If the router has the arm already, the log does not know it or has no outcome of it, or the router was fitted
            with costs and the log has none of the arm.
        """
        check_is_fitted(self, "arms_")
        trial = self._read_trial(name, log)
        self._add_arm(trial)
        self.arms_ = np.append(self.arms_.astype(object), name)
        if all(isinstance(arm, str) for arm in self.arms_):
            self.arms_ = self.arms_.astype(str)
        self.mean_cost_ = np.append(self.mean_cost_, trial.mean_cost)
        return self

    def _read_trial(self, name: Any, log: OutcomeLog) -> ArmTrial:
        owner = type(self).__name__
        if not isinstance(log, OutcomeLog):
            raise RouterInputError(f"{owner}.add_arm: log must be an OutcomeLog, got {type(log).__name__}")
        if name in self.arms_.tolist():
            raise RouterInputError(f"{owner}.add_arm: the router has an arm {name!r} already")
        if name not in log.arms:
            raise RouterInputError(
                f"{owner}.add_arm: the log has no arm {name!r}; its {len(log.arms)} arms are {', '.join(map(str, log.arms))}"
            )
        if log.X is None:
            raise RouterInputError(f"{owner}.add_arm: the log has no queries (its X is None)")
        column = log.arms.index(name)
        quality = np.asarray(log.quality)[:, column]
        seen = np.flatnonzero(np.isfinite(quality))
        if len(seen) == 0:
            raise RouterInputError(f"{owner}.add_arm: arm {name!r} has no outcome in the {len(log)} rows of the log")
        cost, mean_cost = None, 0.0
        if self.has_cost_:
            known = None if log.cost is None else np.asarray(log.cost)[seen, column]
            if known is None or not np.isfinite(known).any():
                raise RouterInputError(
                    f"{owner}.add_arm: the router was fitted with costs, and the log has no cost of arm {name!r}"
                )
            cost, mean_cost = known, float(column_means(known[:, None], None, 1)[0])
        return ArmTrial(self._check_queries(_safe_indexing(log.X, seen), reset=False), quality[seen], cost, mean_cost)
