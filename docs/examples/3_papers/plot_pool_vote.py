"""
What counts as a vote for the small model
=========================================

OrchestraLLM (Lee, Cheng, Ostendorf, NAACL 2024, arXiv 2311.09758) lets the nearest logged queries vote for the arm that
was right on them.  A query that both arms got right votes for the small one, which saves money, and is not the rule of
highest accuracy.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import PercentFormatter

from defer.estimators import PoolVoteRouter
from defer.evaluation import strong_share_curve

# %%
# Constructed: six equally frequent kinds of queries, and how likely each answer is to be right on them.

kinds = list("ABCDEF")
both = np.array([0.50, 0.80, 0.10, 0.30, 0.05, 0.60])
only_small = np.array([0.05, 0.15, 0.40, 0.25, 0.12, 0.03])
only_large = np.array([0.30, 0.02, 0.20, 0.28, 0.60, 0.12])

# %%
# What the votes tend to with many exemplars, as a share for the large arm.  Kind A is the example in which the paper's rule
# takes the small arm (0.55 against 0.30), though the large one is right more often (0.80 against 0.55).

limit = {
    "cheapest": only_large / (both + only_small + only_large),
    "each": (both + only_large) / (2 * both + only_small + only_large),
    "drop": only_large / (only_small + only_large),
}
gain = only_large - only_small
for rule, share in limit.items():
    taken = share > 0.5
    accuracy = np.mean(both + only_small + taken * gain)
    print(f"{rule:<9} large arm for {''.join(np.array(kinds)[taken])}: accuracy {accuracy:.3f}")

# %%
# From data: 4,000 logged queries, whose kind shows in the direction of their features, and 3,000 to judge by their true chances.


def draw(n, seed):
    rng = np.random.default_rng(seed)
    kind = rng.integers(6, size=n)
    X = np.eye(6)[kind] + rng.normal(0, 0.1, (n, 6))
    parts = np.cumsum([both[kind], only_small[kind], only_large[kind]], axis=0)
    u = rng.random(n)
    small, large = u < parts[1], (u < parts[0]) | ((u >= parts[1]) & (u < parts[2]))
    return kind, X, np.column_stack([small, large]).astype(float)


_, X, right = draw(4000, seed=0)
kind, X_test, _ = draw(3000, seed=1)
chance = np.column_stack([both + only_small, both + only_large])[kind]
cost = np.tile([1.0, 10.0], (len(X), 1))
votes, points = {}, {}
for rule in limit:
    router = PoolVoteRouter(100, both_right=rule).fit(X, right, cost=cost)
    votes[rule] = router.predict_proba(X_test)[:, 1]
    taken = router.predict(X_test)
    points[rule] = taken.mean(), chance[np.arange(len(taken)), taken].mean()
    print(f"{rule:<9} {points[rule][0]:.1%} to the large arm, accuracy {points[rule][1]:.3f}")

# %%
# On the right every threshold on the share of votes: dashed in the limit, solid from data, with a dot where the majority
# decides.  "cheapest" stops early and saves calls; "drop" and "each" go on to where the accuracy is highest.

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained", width_ratios=[1, 1.4])
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
bottom = np.zeros(6)
for name, part, colour in (
    ("both right", both, "#d9d9d9"),
    ("only small", only_small, "#c9a227"),
    ("only large", only_large, "#5b5b5b"),
):
    left.bar(kinds, part, bottom=bottom, color=colour, width=0.7, label=name)
    bottom += part
left.set_ylim(0, 1.3)
left.set_yticks(np.linspace(0, 1, 6))
left.set_xlabel("kind of query")
left.set_ylabel("probability")
left.legend(loc="upper left", ncols=2, frameon=False)
for rule, colour in zip(limit, ("#b3541e", "#0b6e99", "#5a9e6f"), strict=True):
    exact = strong_share_curve(np.round(limit[rule], 9), both + only_small, both + only_large)
    right.plot(*exact, color=colour, ls="--", lw=1.2)
    right.plot(*strong_share_curve(votes[rule], *chance.T), color=colour, lw=1.8, label=f'both_right="{rule}"')
    right.plot(*points[rule], "o", color=colour, ms=8)
right.plot([0, 1], chance.mean(axis=0), color="#8a8a8a", ls=":", lw=1.2, label="at random")
right.plot([], [], color="black", ls="--", lw=1.2, label="limit of many exemplars")
right.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
right.set_xlabel("share of queries that the large arm gets")
right.set_ylabel("answers that are right")
right.legend(loc="lower right")
plt.show()

# %%
# Take "cheapest" where the small arm's answer is worth nearly as much as the saving, and the others where accuracy counts
# alone.  With a price of a dollar at hand, `cost_weight` says the same in plain numbers.
