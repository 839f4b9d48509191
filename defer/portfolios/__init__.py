"""What can be chosen and what was seen: arms, prices, limits, outcome logs, assignment."""

if __name__ != "defer.portfolios":
    raise ImportError("this folder is a door to defer.portfolios: write 'import defer.portfolios'")

from defer.portfolios.arm_matrix import ArmMatrix
from defer.portfolios.arms import Arm, Portfolio, Price
from defer.portfolios.limits import Budget, Capacity, Limit, QualityTarget, RiskLevel, Share
from defer.portfolios.outcomes import OutcomeLog
from defer.portfolios.preferences import preference_table
from defer.portfolios.prompt_cache import CacheTerms, SessionState, plan_turns, session_cost
from defer.portfolios.summary import LogSummary

__all__ = [
    "Arm",
    "ArmMatrix",
    "Budget",
    "CacheTerms",
    "Capacity",
    "Limit",
    "LogSummary",
    "OutcomeLog",
    "Portfolio",
    "Price",
    "QualityTarget",
    "RiskLevel",
    "SessionState",
    "Share",
    "plan_turns",
    "preference_table",
    "session_cost",
]
