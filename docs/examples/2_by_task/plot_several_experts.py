"""
Whom to ask, and for how much
=============================

A senior reader, a junior one and a model, at three prices.  One fit gives the accuracy for every sum that may be
spent, and says whom to ask for it.
"""

import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa

from defer import Budget
from defer.datasets import make_correlated_experts
from defer.estimators import MultiExpertDeferral

# %%
# Simulated queries.  The experts share some of their mistakes; prices are US dollars per question, and the own answer
# is free.

law = {"n_classes": 3, "n_features": 4, "accuracy": (0.85, 0.75, 0.7), "slope": 1.5, "strength": 4.0}
train = make_correlated_experts(n_samples=2000, random_state=0, **law)
test = make_correlated_experts(n_samples=4000, random_state=1, **law)
prices = {"senior": 2.0, "junior": 0.5, "model": 0.02}


def answers(problem):
    return pa.table(dict(zip(prices, problem.experts.T, strict=True)))


def cost(problem):
    return pa.table({name: np.full(len(problem), price) for name, price in prices.items()})


system = MultiExpertDeferral("ova").fit(train.X, train.y, experts=answers(train), cost=cost(train))
log = system.outcome_log(test.X, test.y, answers(test), cost=cost(test))

# %%
# Route the same queries under rising budgets.

budgets = np.concatenate([[0.0005], np.linspace(0.005, 0.9, 60)])
accuracy, load = [], []
for budget in budgets:
    routing = system.route(test.X, limit=Budget(budget), random_state=0)
    accuracy.append(float((routing.policy * np.asarray(log.quality)).sum(axis=1).mean()))
    load.append(routing.load)
single = np.asarray(log.quality).mean(axis=0)
for budget in (0.005, 0.1, 0.3, 0.9):
    place = int(np.abs(budgets - budget).argmin())
    shares = ", ".join(f"{arm} {share:.2f}" for arm, share in zip(system.arms_, load[place], strict=True))
    print(f"{budgets[place]:.3f} dollars a query: accuracy {accuracy[place]:.3f}; {shares}")

# %%
# The cheap model is asked first, wherever it helps at all; the senior reader comes in for what is worth two dollars,
# and at the end wherever she is best.

colours = ("#c9ced3", "#b3541e", "#c9a227", "#0b6e99")
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel("budget (US dollars per query)")
left.plot(budgets, accuracy, color="black", lw=2, label="system under the budget")
for name, mean, colour in zip(system.arms_, single, ("#8a8a8a", *colours[1:]), strict=True):
    left.axhline(mean, color=colour, ls="--", lw=1.2, label=f"always {name}")
left.set_ylabel("accuracy on held-out queries")
left.legend(loc="lower right", ncols=2, fontsize=8, bbox_to_anchor=(1.0, 0.52))
right.stackplot(budgets, np.transpose(load), labels=system.arms_, colors=colours)
right.set_ylabel("share of queries")
right.set_xlim(0, budgets[-1])
right.set_ylim(0, 1)
right.legend(loc="lower right", fontsize=8)
plt.show()
