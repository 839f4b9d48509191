"""Routers with an operating point of their own: fitted for a limit, kept for queries that come one by one."""

from defer.estimators.tuning.operating_point import OperatingPoint
from defer.estimators.tuning.tuned_router import TunedRouter

__all__ = ["OperatingPoint", "TunedRouter"]
