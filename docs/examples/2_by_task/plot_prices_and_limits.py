"""
What a limit costs
==================

Every limit has a price: the utility given up per unit of the limited resource.  Where the price is 0, the limit does not
bind, and more money buys nothing.
"""

import matplotlib.pyplot as plt
import numpy as np

import defer
from defer import Budget, Share
from defer.datasets import load_tiny

train, test = load_tiny().split(test_size=0.3, seed=0)
router = defer.router(embeddings=False).fit(train.X, train.quality, cost=train.cost)

# %%
# Expected quality rises with the budget, ever more slowly; the price is its slope.

budgets = np.linspace(1.7e-6, 3.0e-5, 40)
routings = [router.route(test.X, limit=Budget(budget), random_state=0) for budget in budgets]
quality = np.array([routing.expected_quality for routing in routings])
price = np.array([routing.price for routing in routings])

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel("budget (millionths of a US dollar per query)")
left.plot(budgets * 1e6, quality, color="#0b6e99", lw=2)
left.set_ylabel("expected quality")
right.plot(budgets * 1e6, price / 1e6, color="#b3541e", lw=2, drawstyle="steps-post")
right.set_yscale("symlog", linthresh=1e-4)
right.set_ylabel("price (quality per millionth of a dollar)")
plt.show()

# %%
# A share limits one arm whatever it costs.  Giving the large model at most so many of the queries:

shares = np.linspace(0.0, 1.0, 21)
value = []
for share in shares:
    routing = router.route(test.X, limit=Share("large-generalist", at_most=share), random_state=0)
    value.append((routing.load[-1], defer.evaluate(routing, test).estimate.value))
load, realised = np.array(value).T
print(f"without a limit the large model takes {load[-1]:.1%} of the queries")

fig, ax = plt.subplots(figsize=(8, 4), layout="constrained")
ax.spines[["top", "right"]].set_visible(False)
ax.plot(shares, realised, "o-", color="#0b6e99", label="router under the limit")
ax.axvline(load[-1], color="#8a8a8a", ls="--", lw=1, label="share taken without a limit")
ax.set_xlabel("largest share of the large model")
ax.set_ylabel("realised quality")
ax.set_ylim(0.7, 0.8)
ax.legend(loc="lower right")
plt.show()
