"""
A blend that knows when to give up
==================================

``defer.router("auto")`` fits several routers, blends them by what they predict out of fold, and measures the blend against
mixing single arms at random.  Where that is not beaten, it says so and predicts the arms' means.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np

import defer
from defer.datasets import load_tiny
from defer.exceptions import FallbackWarning

# %%
# The embedded log, 1,500 queries to fit.  Tasks are given as tags; they are known in training alone.

train, test = load_tiny().split(test_size=0.3, seed=0)
train = train.select(rows=slice(0, 1500))
auto = defer.router("auto", embeddings=False)
auto.fit(train.X, train.quality, cost=train.cost, tags=train.domain)
stack = auto.steps[-1][1]
shown = stack.advantage_
print("weights:", {name: round(weight, 2) for name, weight in stack.member_weights_.items()})
print(f"area over the zero router, out of fold: {shown.value:.3f} with a standard error of {shown.error:.3f}")

# %%
# On held-out queries, beside the plain ridge.

ridge = defer.router(embeddings=False).fit(train.X, train.quality, cost=train.cost)
evaluations = {"auto": defer.evaluate(auto, test), "ridge": defer.evaluate(ridge, test)}
for name, evaluation in evaluations.items():
    print(f"{name:<6}area over the zero router {evaluation.area_over_zero(n_bootstrap=100)}")

fig, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.4), layout="constrained", width_ratios=[1, 1.3])
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
names = list(stack.member_weights_)
left.barh(names[::-1], [stack.member_weights_[name] for name in names[::-1]], color="#0b6e99", height=0.6)
left.set_xlabel("weight of the member")
for (name, evaluation), colour in zip(evaluations.items(), ("#0b6e99", "#c9a227"), strict=True):
    frontier = evaluation.frontier
    right.plot(frontier.cost * 1e6, frontier.quality, color=colour, lw=2, label=name)
cost, quality = evaluation.zero_router
right.plot(cost * 1e6, quality, color="#8a8a8a", ls="--", lw=1.2, label="zero router")
right.set_xlabel("mean cost per query (millionths of a US dollar)")
right.set_ylabel("mean quality on held-out queries")
right.legend(loc="lower right")
plt.show()

# %%
# The same log with more and more of its outcomes dealt out to other queries, so that text says less and less of them.

shares = (0.0, 0.25, 0.5, 0.75, 1.0)
found = []
small = train.select(rows=slice(0, 1000))
for share in shares:
    rng = np.random.default_rng(1)
    moved = np.flatnonzero(rng.random(len(small)) < share)
    dealt = np.arange(len(small))
    dealt[moved] = rng.permutation(moved)
    router = defer.router("auto", embeddings=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FallbackWarning)
        router.fit(small.X, np.asarray(small.quality)[dealt], cost=np.asarray(small.cost)[dealt])
    stack = router.steps[-1][1]
    found.append((stack.advantage_.value, stack.advantage_.error, stack.is_zero_router_))
    print(f"{share:>4.0%} dealt out: advantage {found[-1][0]:+.4f}, error {found[-1][1]:.4f}, gives up: {found[-1][2]}")
print(next(str(warning.message) for warning in caught if issubclass(warning.category, FallbackWarning)))

fig, ax = plt.subplots(figsize=(8, 4), layout="constrained")
ax.spines[["top", "right"]].set_visible(False)
ax.axhline(0, color="#8a8a8a", ls="--", lw=1.2, label="zero router")
value, error, gave_up = np.array(found).T
for rows, colour, label in (
    (gave_up == 0, "#0b6e99", "blend is used"),
    (gave_up == 1, "#b3541e", "gives up: arms' means"),
):
    x = np.array(shares)[rows]
    ax.errorbar(x, value[rows], yerr=error[rows], fmt="o", color=colour, capsize=4, ms=7, label=label)
ax.set_xticks(shares, [f"{share:.0%}" for share in shares])
ax.set_xlabel("outcomes dealt out to other queries")
ax.set_ylabel("area over the zero router, ± standard error")
ax.legend(loc="upper right")
plt.show()

# %%
# It takes about ten times as long to fit as the ridge, and is not worth that where queries are very few or routing must be
# exported as plain arrays.  Whether a gain is worth its price is for `defer.evaluate` to say, on held-out queries.
