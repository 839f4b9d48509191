"""
A frozen model and a queue of reviewers
=======================================

A model in production is not touched.  Two reviewers take some of its cases each day, and no more than they have time
for.  Which cases those are decides what their time is worth.
"""

import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from defer import Capacity
from defer.datasets import make_specialist_experts
from defer.estimators import ConfidenceDeferral, PostHocDeferral

# %%
# Simulated cases of four kinds; each reviewer knows two of them.  The model was trained on past cases, and the deferral
# is learned on others, which the reviewers have labelled too.

law = {"n_classes": 4, "n_features": 4, "known": [[0, 1], [2, 3]], "skill": 0.95, "strength": 8.0}
past, logged, later = (
    make_specialist_experts(n_samples=n, random_state=seed, **law) for seed, n in enumerate((1000, 1000, 3600))
)
model = LogisticRegression().fit(past.X, past.y)


def answers(problem):
    return pa.table(dict(zip(("reviewer 1", "reviewer 2"), problem.experts.T, strict=True)))


systems = {
    "what reviewers would gain": PostHocDeferral(base=FrozenEstimator(model)),
    "least confident first": ConfidenceDeferral(FrozenEstimator(model)),
}
for system in systems.values():
    system.fit(logged.X, logged.y, experts=answers(logged))

# %%
# Twelve days of 300 cases, with more and more seats a day, half of them for each reviewer.  A third rule gives the
# reviewers cases at random.

days = [later.take(np.arange(300 * day, 300 * (day + 1))) for day in range(12)]
seats = np.array([0, 10, 20, 40, 70, 120])
accuracy = {name: np.zeros((len(seats), len(days))) for name in (*systems, "at random")}
for column, cases in enumerate(days):
    rng = np.random.default_rng(column)
    right = np.column_stack([model.predict(cases.X) == cases.y, cases.right])
    for row, count in enumerate(seats):
        for name, system in systems.items():
            limit = Capacity({"reviewer 1": count // 2, "reviewer 2": count // 2})
            said = system.predict(cases.X, experts=answers(cases), routing=system.route(cases.X, limit=limit))
            accuracy[name][row, column] = (said == cases.y).mean()
        arm = rng.permutation(np.repeat([0, 1, 2], [300 - 2 * (count // 2), count // 2, count // 2]))
        accuracy["at random"][row, column] = right[np.arange(300), arm].mean()
for name, table in accuracy.items():
    print(f"{name:<28}accuracy with 40 seats {table[3].mean():.3f}, with 120 {table[-1].mean():.3f}")

# %%
# Bars are 95% intervals over the days.  By confidence, hard cases go to the reviewer who is better on average, whether
# she knows them or not, and more seats change little.

fig, ax = plt.subplots(figsize=(8, 4.6), layout="constrained")
ax.spines[["top", "right"]].set_visible(False)
for (name, table), colour in zip(accuracy.items(), ("#0b6e99", "#b3541e", "#8a8a8a"), strict=True):
    reach = 1.96 * table.std(axis=1, ddof=1) / np.sqrt(len(days))
    ax.errorbar(seats, table.mean(axis=1), yerr=reach, fmt="o-", color=colour, capsize=3, lw=1.8, label=name)
ax.set_xlabel("cases that the reviewers can take, of 300 a day")
ax.set_ylabel("accuracy of the system")
ax.legend(loc="upper left")
plt.show()
