"""
Asking a panel
==============

As few experts as possible, and yet a right one among them with a probability that is chosen beforehand.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import PercentFormatter

from defer.datasets import make_correlated_experts
from defer.estimators import ConformalPanel, MultiExpertDeferral, weighted_vote
from defer.exceptions import FallbackWarning

# %%
# Simulated: five experts of middling accuracy.  The router says how likely each is right; panels are calibrated on
# deferred queries that it was not fitted on.

law = {"n_classes": 3, "n_features": 4, "accuracy": (0.7, 0.65, 0.6, 0.6, 0.55), "slope": 0.8, "strength": 4.0}
train, calibration, test = (
    make_correlated_experts(n_samples=n, correlation=0.1, random_state=seed, **law)
    for seed, n in enumerate((2000, 2000, 4000))
)
router = MultiExpertDeferral().fit(train.X, train.y, experts=train.experts)
calibration, test = (problem.take(router.defer_mask(problem.X)) for problem in (calibration, test))
seen, confidence = (router.predict_quality(problem.X)[:, 1:].clip(0, 1) for problem in (calibration, test))
own = router.predict_own(test.X)

# %%
# Three rules at many levels.

promised = np.array([0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97])
found = {}
for rule in ("reach", "within", "randomized"):
    rows = []
    for share in promised:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)
            panel = ConformalPanel(round(1 - share, 3), rule=rule)
            panel.fit(seen, calibration.right.astype(float), random_state=0)
        table = panel.coverage(confidence, test.right.astype(float), random_state=0)
        asked = panel.predict_set(confidence, random_state=0)
        said = weighted_vote(test.experts, asked, confidence, classes=router.label_classes_, fallback=own)
        rows.append((table.coverage, table.size, (said == test.y).mean()))
    found[rule] = np.array(rows)
    print(f"{rule:<12}promised 90%: covered {rows[4][0]:.3f}, asked {rows[4][1]:.2f}, vote right {rows[4][2]:.3f}")

# %%
# "within" and "randomized" cover what is promised; "reach" asks at least one expert, and covers more.  On the right,
# what more experts buy: a panel that holds a right expert can still be outvoted.

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
left.plot([0.7, 0.97], [0.7, 0.97], color="black", lw=1, label="as promised")
for (rule, rows), colour in zip(found.items(), ("#b3541e", "#0b6e99", "#5a9e6f"), strict=True):
    left.plot(promised, rows[:, 0], "o-", color=colour, label=rule)
    right.plot(rows[:, 1], rows[:, 2], "o-", color=colour, label=rule)
best = (test.experts[np.arange(len(test)), confidence.argmax(axis=1)] == test.y).mean()
right.axhline(best, color="#8a8a8a", ls="--", lw=1.2, label="most confident expert alone")
left.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
left.set_xlabel("coverage promised (1 − alpha)")
left.set_ylabel("deferred queries with a right expert in the panel")
left.legend(loc="lower right")
right.set_xlabel("experts asked per query")
right.set_ylabel("deferred queries that the vote answers rightly")
right.legend(loc="lower right")
plt.show()
