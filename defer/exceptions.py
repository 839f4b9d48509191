"""Errors and warnings of the library, in one tree; the only module that every floor may import.

::

    DeferError
    ├── OutcomeLogError (ValueError)       a log that cannot be read as stated
    ├── PortfolioError (ValueError)        arms or prices that do not fit together
    ├── LossInputError (ValueError)        wrong input to a loss: shapes, labels, weights
    │   └── CostRangeError                 costs outside the range in which a surrogate is a loss
    ├── RouterInputError (ValueError)      wrong input to a router: shapes, arms, costs, propensities
    ├── InfeasibleLimitError (ValueError)  no routing satisfies the limit; says what the nearest feasible one is
    ├── EvaluationError (ValueError)       a policy and a log that cannot be evaluated together
    ├── ProblemError (ValueError)          a synthetic problem that is stated wrongly
    ├── PersistenceError (ValueError)      a saved policy that is damaged, tampered with or of another version
    └── MissingExtraError (ImportError)    an optional part is not installed; names the extra

    DeferWarning (UserWarning)
    ├── SupportWarning      hardly any logged outcome tells of what is to be judged
    ├── LeakageWarning      what is judged was, or may have been, trained on the same data
    ├── DegenerateExpertWarning  an expert that is always or never right leaves nothing to learn
    ├── MissingPropensityWarning  a bandit log without propensities is read as missing at random
    └── FallbackWarning     a default could not do what was asked and says what it did instead
"""

from __future__ import annotations

__all__ = [
    "CostRangeError",
    "DeferError",
    "DeferWarning",
    "DegenerateExpertWarning",
    "EvaluationError",
    "FallbackWarning",
    "InfeasibleLimitError",
    "LeakageWarning",
    "LossInputError",
    "MissingExtraError",
    "MissingPropensityWarning",
    "OutcomeLogError",
    "PersistenceError",
    "PortfolioError",
    "ProblemError",
    "RouterInputError",
    "SupportWarning",
]


class DeferError(Exception):
    """Base of all errors raised by the library."""


class OutcomeLogError(DeferError, ValueError):
    """A table or array that cannot be read as an outcome log."""


class PortfolioError(DeferError, ValueError):
    """Arms or prices that do not fit together."""


class LossInputError(DeferError, ValueError):
    """Wrong input to a loss."""


class CostRangeError(LossInputError):
    """Costs outside the range in which a surrogate is a loss: a negative weight makes it unbounded below."""


class RouterInputError(DeferError, ValueError):
    """Wrong input to a router."""


class InfeasibleLimitError(DeferError, ValueError):
    """No routing satisfies the limit.

    Parameters
    ----------
    message : str
        Says which limit, and what the least or largest feasible value would be.
    nearest : float
        The least (for a budget) or largest (for a target) value that is feasible, in the unit of the limit.
    """

    def __init__(self, message: str, nearest: float = float("nan")) -> None:
        super().__init__(message)
        self.nearest = nearest


class EvaluationError(DeferError, ValueError):
    """A policy and a log that cannot be evaluated together."""


class ProblemError(DeferError, ValueError):
    """A synthetic problem that is stated wrongly."""


class PersistenceError(DeferError, ValueError):
    """A saved policy that is damaged, tampered with, or of another version."""


class MissingExtraError(DeferError, ImportError):
    """An optional part is not installed.

    Parameters
    ----------
    package : str
        The package that is missing.
    extra : str
        The extra of ``defer-learn`` that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {package!r}, which is not installed; get it with: pip install 'defer-learn[{extra}]'"
        )
        self.package = package
        self.extra = extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        # An ImportError is pickled with its message alone, from which it could not be made again.
        return type(self), (self.package, self.extra)


class DeferWarning(UserWarning):
    """Base of all warnings issued by the library."""


class SupportWarning(DeferWarning):
    """Hardly any logged outcome tells of what is to be judged: few queries carry all the weight."""


class LeakageWarning(DeferWarning):
    """What is judged was, or may have been, trained on the same data: equal texts, or a predictor that is never wrong."""


class DegenerateExpertWarning(DeferWarning):
    """An expert that is always or never right leaves nothing to learn about when to ask it."""


class MissingPropensityWarning(DeferWarning):
    """A bandit log without propensities is read as missing at random."""


class FallbackWarning(DeferWarning):
    """A default could not do what was asked; the message says what was done instead."""
