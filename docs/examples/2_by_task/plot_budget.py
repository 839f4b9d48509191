"""
Spending a budget
=================

How good can it be for this much money?  A budget is met exactly on the routed batch, and beats mixing models at random.
"""

import matplotlib.pyplot as plt
import numpy as np

import defer
from defer import Budget
from defer.datasets import load_tiny
from defer.estimators import RandomMixture

train, test = load_tiny().split(test_size=0.3, seed=0)
router = defer.router(embeddings=False).fit(train.X, train.quality, cost=train.cost)
zero = RandomMixture().fit(train.X, train.quality, cost=train.cost)

# %%
# Route the held-out queries under seven budgets with the router, and with the best mixture that ignores the query.

budgets = np.array([2, 4, 6, 8, 12, 16, 24]) * 1e-6
rows = []
for budget in budgets:
    routed, mixed = (defer.evaluate(way, test, limit=Budget(budget)) for way in (router, zero))
    rows.append((routed.estimate, mixed.estimate))
    print(f"budget {budget:.0e}: router {routed.estimate.value:.3f} at {routed.estimate.cost.value:.2e}, "
          f"mixture {mixed.estimate.value:.3f} at {mixed.estimate.cost.value:.2e}")  # fmt: skip

# %%
# The budget binds *predicted* cost; what is realised lies close to it, since cost is easy to predict here.

fig, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
ax.spines[["top", "right"]].set_visible(False)
names = ("router", "random mixture (zero router)")
for estimates, name, colour in zip(zip(*rows, strict=True), names, ("#0b6e99", "#8a8a8a"), strict=True):
    value = np.array([estimate.value for estimate in estimates])
    reach = [value - [e.low for e in estimates], [e.high for e in estimates] - value]
    cost = np.array([estimate.cost.value for estimate in estimates]) * 1e6
    ax.errorbar(cost, value, yerr=reach, fmt="o-", color=colour, capsize=3, label=name)
ax.set_xlabel("realised cost per query (millionths of a US dollar)")
ax.set_ylabel("mean quality, with 95% interval")
ax.legend(loc="lower right")
plt.show()
