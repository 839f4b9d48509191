"""
When a log cannot answer
========================

The same question asked of logs with less and less exploration.  The interval widens, and then there is none.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import PercentFormatter

from defer.datasets import load_tiny
from defer.evaluation import estimate_value

log = load_tiny().select(arms=["medium-generalist", "large-generalist"])
always_medium = np.full(len(log), "medium-generalist")
truth = float(log.quality[:, 0].mean())

# %%
# The log takes the large model, except for a share of queries drawn at random.  What would the medium one be worth?

explored = np.array([0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001])
estimates = []
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for share in explored:
        bandit = log.with_action(np.tile([share, 1 - share], (len(log), 1)), seed=3)
        estimates.append(estimate_value(always_medium, bandit))
for share, estimate in zip(explored, estimates, strict=True):
    print(f"explored {share:>6.1%}: {estimate}")

# %%
# Crosses are bare numbers without an interval: the effective sample size is below 30.

fig, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
ax.spines[["top", "right"]].set_visible(False)
ax.axhline(truth, color="black", lw=1, label="truth")
for share, estimate in zip(explored, estimates, strict=True):
    if estimate.is_refused:
        ax.plot(share, estimate.value, "x", color="#c0392b", ms=9, mew=2)
    else:
        ax.plot([share, share], [estimate.low, estimate.high], color="#0b6e99", lw=2)
        ax.plot(share, estimate.value, "o", color="#0b6e99")
    ax.annotate(f"{estimate.ess:.0f}", (share, 1.07), ha="center", fontsize=8, color="#5b5b5b")
ax.text(0.01, 0.96, "effective sample size:", transform=ax.transAxes, fontsize=8, color="#5b5b5b")
ax.plot([], [], "o-", color="#0b6e99", label="estimate with 95% interval")
ax.plot([], [], "x", color="#c0392b", ms=8, mew=2, ls="none", label="interval refused")
ax.set_xscale("log")
ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
ax.invert_xaxis()
ax.set_ylim(0.3, 1.17)
ax.set_xlabel("share of queries explored at random")
ax.set_ylabel("estimated quality of the medium model")
ax.legend(loc="lower left")
plt.show()
