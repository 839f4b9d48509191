"""
The best policy under a budget
==============================

For known qualities and costs the best policy within a mean cost B is a linear program.  Its value V*(B) is concave and piecewise
linear; the slope is the price of money, and at most one group of equal queries is randomised.
"""

import matplotlib.pyplot as plt
import numpy as np

from defer import Budget
from defer.portfolios.assignment import choose

# %%
# Ten queries of four types, three arms that cost 0, 1 and 4.

kind = np.repeat([0, 1, 2, 3], [4, 3, 2, 1])
quality = np.array([[0.5, 0.6, 0.9], [0.7, 0.75, 0.8], [0.2, 0.7, 0.75], [0.9, 0.85, 0.95]])[kind]
cost = np.tile([0.0, 1.0, 4.0], (10, 1))


def best(budget):
    return choose(quality, quality, cost, Budget(budget), arms=["own", "colleague", "expert"])


for budget in (0.0, 0.3, 0.5, 1.0, 2.0, 4.0):
    choice = best(budget)
    randomised = np.unique(kind[choice.low != choice.high]).tolist()
    print(f"B = {budget:<4}V* = {choice.mean(quality):.3f}  price {choice.price:.3f}  types randomised {randomised}")

# %%
# The rule "take the best arm that the budget can pay" buys the middle arm for everyone at B = 1, and is worse.

budgets = np.linspace(0.0, 4.5, 91)
value = [best(budget).mean(quality) for budget in budgets]
naive = [np.where(cost <= budget, quality, 0.0).max(axis=1).mean() for budget in budgets]

fig, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
ax.spines[["top", "right"]].set_visible(False)
ax.plot(budgets, value, color="#0b6e99", lw=2, label="best policy, V*(B)")
ax.plot(budgets, naive, color="#b3541e", lw=1.5, ls="--", drawstyle="steps-post", label="best arm that costs at most B")
ax.set_xlabel("budget B: mean cost per query")
ax.set_ylabel("mean quality")
ax.legend(loc="lower right")
plt.show()
