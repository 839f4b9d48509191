"""
The value of a router from one arm per query
============================================

A running system has logged one arm per query, drawn at random with known probabilities.  What would the router have been
worth?  Because every outcome of this log is known, the answers can be compared with the truth.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np

import defer
from defer.datasets import load_tiny
from defer.evaluation import estimate_value
from defer.exceptions import SupportWarning

train, test = load_tiny().split(test_size=0.3, seed=0)
router = defer.router(embeddings=False).fit(train.X, train.quality, cost=train.cost)
target = router.route(test.X)
truth = estimate_value(target, test).value
print(f"truth {truth:.4f}")

# %%
# The logging policy favours the cheap arms.  One hundred logs that it might have left, and what four estimators make of
# each; the router's own predictions serve as the outcome model of the doubly robust ones.

logging = np.tile([0.3, 0.2, 0.2, 0.2, 0.1], (len(test), 1))
model = router.predict_quality(test.X)
names = ("ips", "snips", "dr", "sndr")
found = {name: [] for name in names}
with warnings.catch_warnings():
    warnings.simplefilter("ignore", SupportWarning)
    for seed in range(100):
        bandit = test.with_action(logging, seed=seed)
        for name in names:
            found[name].append(estimate_value(target, bandit, estimator=name, quality_model=model))

for name in names:
    value = np.array([estimate.value for estimate in found[name]])
    held = np.mean([estimate.low <= truth <= estimate.high for estimate in found[name]])
    print(f"{name:<6} mean {value.mean():.4f}  spread {value.std():.4f}  intervals that hold the truth {held:.0%}")

# %%
# Every line is the 95% interval from one log.  About one in twenty should miss the truth; those are drawn in red.  Without a model
# a few large weights decide, and the normal interval misses somewhat more often than it says.

fig, axes = plt.subplots(1, 2, figsize=(10, 5.5), sharex=True, sharey=True, layout="constrained")
for ax, name in zip(axes, ("ips", "dr"), strict=True):
    ax.spines[["top", "right"]].set_visible(False)
    for place, estimate in enumerate(sorted(found[name], key=lambda estimate: estimate.value)):
        missed = not estimate.low <= truth <= estimate.high
        ax.plot([estimate.low, estimate.high], [place, place], color="#c0392b" if missed else "#0b6e99", lw=1)
        ax.plot(estimate.value, place, ".", color="#c0392b" if missed else "#0b6e99", ms=3)
    ax.axvline(truth, color="black", lw=1)
    ax.set_title({"ips": "inverse propensity score", "dr": "doubly robust"}[name])
    ax.set_xlabel("estimated quality of the router")
axes[0].set_ylabel("logs, by estimate")
plt.show()
