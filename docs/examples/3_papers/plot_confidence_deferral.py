"""
When deferring by confidence fails
==================================

Jitkrittum et al. 2023 ask when confidence suffices to decide which queries go to the second model: if it sorts
queries as the *gain* does.  Three kinds of queries on which it does not, and deferring by confidence is worse than
deferring at random.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import PercentFormatter
from sklearn.linear_model import LogisticRegression

from defer.datasets import confidence_trap
from defer.estimators import ConfidenceDeferral, PostHocDeferral
from defer.evaluation import deferral_curve, oracle_deferral_curve

# %%
# The first model is right with probability .6, .55 and .9, the second with .9, .5 and .92.  The first is least sure of
# the second kind, and there the second model is worse.

exact = confidence_trap(10)
own, expert = 1 - exact.expected_cost.T
curves = {
    "best order": oracle_deferral_curve(own, expert),
    "at random": deferral_curve(np.zeros(10), own, expert),
    "by confidence": deferral_curve(-own, own, expert),
}
for name, curve in curves.items():
    print(f"{name:<15}area {curve.area:.6f} ({curve.gain_over_random:+.2f}% on random)")

# %%
# The same from data: 2,000 labelled queries to fit, and a model that sees which kind a query is.  Post hoc it learns
# where the second model is right; confidence knows one number for all queries.

train = confidence_trap(2000, random_state=0)
fitted = {}
for name, system in {
    "post hoc, fitted": PostHocDeferral(features="queries", expert_model=LogisticRegression(C=100.0), random_state=0),
    "confidence, fitted": ConfidenceDeferral(),
}.items():
    quality = system.fit(train.X, train.y, experts=train.experts).predict_quality(exact.X)
    fitted[name] = deferral_curve(np.round(quality[:, 1] - quality[:, 0], 9), own, expert)
    print(f"{name:<20}area {fitted[name].area:.6f}")

# %%
fig, ax = plt.subplots(figsize=(8, 4.6), layout="constrained")
ax.spines[["top", "right"]].set_visible(False)
styles = {"best order": ("#0b6e99", "-"), "at random": ("#8a8a8a", "--"), "by confidence": ("#b3541e", "-")}
for name, curve in curves.items():
    colour, line = styles[name]
    mark = "o" if line == "-" else None
    ax.plot(curve.rate, curve.quality, color=colour, ls=line, marker=mark, lw=2, label=f"{name}, area {curve.area:.4f}")
for rate, quality, kind in ((0.07, 0.752, "first kind"), (0.5, 0.802, "third kind"), (0.88, 0.799, "second kind")):
    ax.annotate(kind, (rate, quality), ha="center", va="bottom", color="#0b6e99", fontsize=9)
ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
ax.set_xlabel("share of queries that go to the second model")
ax.set_ylabel("probability that the system is right")
ax.legend(loc="lower right")
plt.show()
