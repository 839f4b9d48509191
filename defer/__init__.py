"""Learning to defer and routing policies, with honest values from logs.

Everything loads on first use: ``import defer`` itself brings in neither scikit-learn nor any optional part.
"""

from typing import TYPE_CHECKING

import lazy_loader as _lazy

from defer._version import __version__

if TYPE_CHECKING:
    from defer import (
        datasets,
        estimators,
        evaluation,
        exceptions,
        export,
        losses,
        persistence,
        portfolios,
        report,
        tracking,
    )
    from defer.estimators.pipeline import make_pipeline
    from defer.estimators.text import router
    from defer.evaluation.evaluation import evaluate
    from defer.evaluation.result import Evaluation
    from defer.persistence import load, save
    from defer.portfolios.arms import Arm, Portfolio, Price
    from defer.portfolios.limits import Budget, Capacity, QualityTarget, RiskLevel, Share
    from defer.portfolios.outcomes import OutcomeLog

__all__ = [
    "Arm",
    "Budget",
    "Capacity",
    "Evaluation",
    "OutcomeLog",
    "Portfolio",
    "Price",
    "QualityTarget",
    "RiskLevel",
    "Share",
    "__version__",
    "datasets",
    "estimators",
    "evaluate",
    "evaluation",
    "exceptions",
    "export",
    "load",
    "losses",
    "make_pipeline",
    "persistence",
    "portfolios",
    "report",
    "router",
    "save",
    "tracking",
]

__getattr__, _, _ = _lazy.attach(
    __name__,
    submodules=[
        "datasets",
        "estimators",
        "evaluation",
        "exceptions",
        "export",
        "losses",
        "persistence",
        "portfolios",
        "report",
        "tracking",
    ],
    submod_attrs={
        "estimators.pipeline": ["make_pipeline"],
        "estimators.text": ["router"],
        "evaluation.evaluation": ["evaluate"],
        "evaluation.result": ["Evaluation"],
        "persistence": ["load", "save"],
        "portfolios.arms": ["Arm", "Portfolio", "Price"],
        "portfolios.limits": ["Budget", "Capacity", "QualityTarget", "RiskLevel", "Share"],
        "portfolios.outcomes": ["OutcomeLog"],
    },
)


def __dir__() -> list[str]:
    return list(__all__)
