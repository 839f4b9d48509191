"""
Which queries to hand to one expert
===================================

The curve of a deferral rule: accuracy of the system against the share of queries that it hands over.  An expert with
strengths of its own is worth more to a rule that knows them.
"""

import matplotlib.pyplot as plt
from matplotlib.ticker import PercentFormatter

from defer.datasets import make_linear_deferral
from defer.estimators import ConfidenceDeferral, PostHocDeferral, SingleStageDeferral
from defer.evaluation import deferral_curve, oracle_deferral_curve

# %%
# Simulated queries with three labels.  How likely the expert is right depends on the query, in a way that has nothing
# to do with how hard it is for a classifier.  The law is known, and with it the best rule.

law = {"n_classes": 3, "n_features": 4, "strength": 4.0}
train = make_linear_deferral(n_samples=1000, random_state=0, **law)
test = make_linear_deferral(n_samples=4000, random_state=1, **law)

# %%
# A rule defers in order of what it expects the expert to gain.  Own answers and the expert's are graded by their
# probability of being right, which takes the noise of the labels out of the picture.

systems = {
    "scores and query, post hoc": PostHocDeferral(features="both", random_state=0),
    "one-vs-all loss": SingleStageDeferral("ova"),
    "scores alone, post hoc": PostHocDeferral(random_state=0),
    "confidence": ConfidenceDeferral(),
}
rows = range(len(test))
curves = {}
for name, system in systems.items():
    quality = system.fit(train.X, train.y, experts=train.experts).predict_quality(test.X)
    own = test.class_probability[rows, system.predict_own(test.X)]
    curves[name] = deferral_curve(quality[:, 1] - quality[:, 0], own, test.expert_probability[:, 0])
    print(f"{name:<28}{curves[name]}")
best = oracle_deferral_curve(test.class_probability.max(axis=1), test.expert_probability[:, 0])
print(f"{'best possible':<28}{best}")

# %%
# Each curve starts at the classifier's accuracy and ends at the expert's.  The dots are where each system stops
# deferring by itself.

fig, ax = plt.subplots(figsize=(8, 4.8), layout="constrained")
ax.spines[["top", "right"]].set_visible(False)
ax.plot(best.rate, best.quality, color="black", lw=1, label="best possible")
for (name, curve), colour in zip(curves.items(), ("#0b6e99", "#5a9e6f", "#7b4f9d", "#b3541e"), strict=True):
    rate = systems[name].defer_mask(test.X).mean()
    line = "--" if name == "confidence" else "-"
    ax.plot(curve.rate, curve.quality, color=colour, ls=line, lw=2, label=name)
    ax.plot(rate, curve.quality_at(rate), "o", color=colour, ms=7, mec="white")
ax.plot([0, 1], best.quality[[0, -1]], color="#8a8a8a", ls=":", lw=1.5, label="at random")
ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
ax.set_xlabel("share of queries that go to the expert")
ax.set_ylabel("probability that the system is right")
ax.legend(loc="lower left")
plt.show()
