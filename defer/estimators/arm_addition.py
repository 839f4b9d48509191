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
from defer.estimators.outcomes_input import read_table
from defer.exceptions import RouterInputError
from defer.portfolios.outcomes import OutcomeLog

__all__ = ["ArmAddition", "ArmTrial"]

Floats = NDArray[np.float64]

# Kinds of NumPy's types that a name may have beside arms of a kind.
_KINDS = {"U": "U", "i": "iu", "u": "iu", "f": "fiu"}


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
        Of the known costs, by inverse propensity; 0 for a router without costs.
    propensity : array of shape (k,)
        Probability with which the outcome was observed; 1 where none is known, or all arms of the log were observed.
    """

    X: Any
    quality: Floats
    cost: Floats | None
    mean_cost: float
    propensity: Floats


class ArmAddition(BaseRouter):
    """A router to which arms can be added after `fit`; a subclass writes `_add_arm`."""

    @abstractmethod
    def _add_arm(self, trial: ArmTrial) -> None:
        """Extend what was learned by one arm, in the last place."""

    def add_arm(self, name: Any, log: OutcomeLog) -> Self:
        """Add an arm from the queries on which it was run; what was learned of the others stays as it is.

        Parameters
        ----------
        name : str, or number for a router whose arms are numbers
            One of the arms of `log`, where 2 is found as "2", and none of the router's.  `arms_` keeps its kind.
        log : OutcomeLog
            Queries as for `fit`, with the outcomes of the arm; rows without one are left out.  Outcomes of rows that were
            observed in part count by the inverse of their propensity, where the log has it.

        Returns
        -------
        self

        Raises
        ------
        RouterInputError
            If the name is of another kind than the router's, or is one of them already, the log does not know it or has no
            outcome of it, or the router was fitted with costs and the log has none of the arm.
        """
        check_is_fitted(self, "arms_")
        trial = self._read_trial(name, log)
        self._add_arm(trial)
        self.arms_ = _appended(self.arms_, name)
        self.mean_cost_ = np.append(self.mean_cost_, trial.mean_cost)
        return self

    def _read_trial(self, name: Any, log: OutcomeLog) -> ArmTrial:
        owner = type(self).__name__
        if not isinstance(log, OutcomeLog):
            raise RouterInputError(f"{owner}.add_arm: log must be an OutcomeLog, got {type(log).__name__}")
        _check_kind(self.arms_, name, owner)
        if name in self.arms_.tolist():
            raise RouterInputError(f"{owner}.add_arm: the router has an arm {name!r} already")
        if str(name) not in log.arms:
            raise RouterInputError(
                f"{owner}.add_arm: the log has no arm {name!r}; its {len(log.arms)} arms are {', '.join(map(str, log.arms))}"
            )
        if log.X is None:
            raise RouterInputError(f"{owner}.add_arm: the log has no queries (its X is None)")
        column = log.arms.index(str(name))
        table = read_table(log.quality, name=f"{owner}.add_arm: log.quality")[1]
        seen = np.flatnonzero(np.isfinite(table[:, column]))
        if len(seen) == 0:
            raise RouterInputError(f"{owner}.add_arm: arm {name!r} has no outcome in the {len(log)} rows of the log")
        propensity = _propensity(log, table)[seen]
        cost, mean_cost = None, 0.0
        if self.has_cost_:
            known = (
                None if log.cost is None else read_table(log.cost, name=f"{owner}.add_arm: log.cost")[1][seen, column]
            )
            if known is None or not np.isfinite(known).any():
                raise RouterInputError(
                    f"{owner}.add_arm: the router was fitted with costs, and the log has no cost of arm {name!r}"
                )
            cost, mean_cost = known, float(column_means(known[:, None], 1.0 / propensity, 1)[0])
        X = self._check_queries(_safe_indexing(log.X, seen), reset=False)
        return ArmTrial(X, table[seen, column], cost, mean_cost, propensity)


def _propensity(log: OutcomeLog, table: Floats) -> Floats:
    """Probability with which the outcomes of every row were observed, shape (n,); of a single arm, as it is given."""
    if log.propensity is None:
        return np.ones(len(log))
    whole = np.isfinite(table).all(axis=1) if table.shape[1] > 1 else np.zeros(len(log), dtype=bool)
    return np.where(whole | ~np.isfinite(log.propensity), 1.0, log.propensity)


def _appended(arms: NDArray[np.generic], name: Any) -> NDArray[np.generic]:
    """The names of all arms, of the kind that they have: longer text, or larger numbers, widen it."""
    if arms.dtype != object:
        return np.append(arms, [name])
    longer = np.empty(len(arms) + 1, dtype=object)
    longer[:-1], longer[-1] = arms, name
    return longer


def _check_kind(arms: NDArray[np.generic], name: Any, owner: str) -> None:
    """Refuse a name beside which the others would change: "2" beside 0 and 1 would make text, or objects, of them."""
    if arms.dtype == object:
        kinds = {type(arm) for arm in arms.tolist()}
        if len(kinds) == 1 and not isinstance(name, kinds.pop()):
            raise RouterInputError(_other_kind(arms, name, owner))
    elif np.array([name]).dtype.kind not in _KINDS.get(arms.dtype.kind, arms.dtype.kind):
        raise RouterInputError(_other_kind(arms, name, owner))


def _other_kind(arms: NDArray[np.generic], name: Any, owner: str) -> str:
    first = arms.tolist()[0]
    return (
        f"{owner}.add_arm: the name {name!r} is {type(name).__name__}, and the router's {len(arms)} arms are named by "
        f"{type(first).__name__}, as {first!r}: give a name of that kind; the log may name the arm by its text, str(name)"
    )
