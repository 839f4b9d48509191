"""
Labels that allow for a margin
==============================

Hybrid LLM (Ding et al., ICLR 2024, arXiv 2404.14618) asks how likely a small model is to be as good as a large one.
Where it hardly ever is, almost all labels are 0 and nothing is learned from them; labels that forgive a loss of t tell
queries apart again.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import PercentFormatter

from defer.estimators import HybridRouter, threshold_table
from defer.losses import best_margin, gap_probability, label_spread

# %%
# By hand first: four queries with two sampled answers of each model.  A label is the share of the pairs of answers in
# which the small model is at most t worse, and J(t) is the mean difference between the labels of two queries.

small = [[-3.0, -3.2], [-2.0, -2.4], [-4.0, -4.4], [-2.6, -2.8]]
large = [[-2.5, -2.7], [-2.1, -2.3], [-2.2, -2.4], [-2.0, -2.1]]
for margin in (0.0, 0.3, 0.5, 0.7, 2.2):
    label = gap_probability(small, large, margin=margin)
    print(f"t = {margin:<4} labels {label.tolist()}  J = {label_spread(label):.5f}")
choice = best_margin(small, large)
print(f"best: t* = {choice.margin:.1f} with J = {choice.spread:.4f}")

# %%
# Now 300 queries to fit and 4,000 to judge, with ten answers of each model.  The large model is better almost
# everywhere, on some queries by little and on others by much; how much depends on two of twenty features.


def draw(n, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 20))
    deficit = 0.15 + 0.25 / (1 + np.exp(-1.5 * (X[:, 0] + X[:, 1])))
    quality = {"small": 0.85 - deficit, "large": np.full(n, 0.85)}
    return X, {arm: mean[:, None] + rng.normal(0, 0.06, (n, 10)) for arm, mean in quality.items()}


X, answers = draw(300, seed=0)
choice = best_margin(answers["small"], answers["large"])
plain = gap_probability(answers["small"], answers["large"])
print(f"t* = {choice.margin:.3f}; mean label {plain.mean():.3f} at t = 0 and {choice.labels.mean():.3f} at t*")

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
bins = np.linspace(0, 1, 21)
left.hist([plain, choice.labels], bins=bins, color=["#b3541e", "#0b6e99"], label=["t = 0", f"t* = {choice.margin:.2f}"])
left.set_xlabel("label: chance that the small model is good enough")
left.set_ylabel("queries")
left.legend(loc="upper center")
right.plot(choice.candidates, choice.spreads, color="#0b6e99", lw=2)
right.plot(choice.margin, choice.spread, "o", color="#b3541e", ms=8)
right.annotate("t*", (choice.margin, choice.spread), xytext=(0, 8), textcoords="offset points", ha="center")
right.set_xlabel("margin t (in units of quality)")
right.set_ylabel("J(t), spread of the labels")
right.set_ylim(0, 0.57)
plt.show()

# %%
# Three routers of one kind, which differ in their labels alone.  A threshold on the predicted chance sets how many
# queries the small model gets; what that costs in quality is a matter of the order of the queries.

X_test, answers_test = draw(3000, seed=1)
mean = {arm: table.mean(axis=1) for arm, table in answers_test.items()}
gap = mean["small"] - mean["large"]
scores = {}
for label in ("deterministic", "probabilistic", "transformed"):
    router = HybridRouter(label).fit(X, answers)
    scores[label] = router.predict_sufficient(X_test)[:, router.arms_.tolist().index("small")]
curves = {name: threshold_table(score, mean["small"], mean["large"]) for name, score in scores.items()}
curves["best order"] = threshold_table(gap, mean["small"], mean["large"])
for name, curve in curves.items():
    drops = [curve.drop[np.abs(curve.cost_advantage - share).argmin()] for share in (0.2, 0.4)]
    print(f"{name:<15}drop at 20% and 40% to the small model: {drops[0]:.1f}% and {drops[1]:.1f}%")

# %%
# The picture shows how much of that drop the order saves, against drawing the small model's queries at random.

fig, ax = plt.subplots(figsize=(8, 4.6), layout="constrained")
ax.spines[["top", "right"]].set_visible(False)
colours = ("#c9a227", "#5a9e6f", "#0b6e99", "#b3541e")
for (name, curve), colour in zip(curves.items(), colours, strict=True):
    saved = curve.drop[0] * curve.cost_advantage - curve.drop
    ax.plot(curve.cost_advantage, saved, color=colour, lw=2, ls="--" if name == "best order" else "-", label=name)
ax.axhline(0, color="#8a8a8a", ls=":", lw=1.2, label="at random")
ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
ax.set_xlabel("queries that the small model gets (cost advantage)")
ax.set_ylabel("drop in quality saved (percentage points)")
ax.legend(loc="upper right")
plt.show()

# %%
# Where the two models are about equally good, t* is near 0 and the labels are the same.  With one answer each,
# "probabilistic" is "deterministic", and only the margin is left to choose.  `quality_drop=1.0` finds the threshold for a
# loss of at most 1 per cent, out of fold; that promises nothing of other queries, which a `RiskLevel` in its place does.
