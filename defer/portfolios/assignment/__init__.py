"""Assignment of queries to arms under limits."""

from defer.portfolios.assignment.choice import Choice, best_arm, choose, choose_at_price
from defer.portfolios.assignment.hull import Increments, hull_increments

__all__ = ["Choice", "Increments", "best_arm", "choose", "choose_at_price", "hull_increments"]
