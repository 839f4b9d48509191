"""
A first router
==============

From a log of what five models made of 5,000 queries to a router, a budget, and a statement of what it is worth.
"""

import matplotlib.pyplot as plt

import defer
from defer.datasets import load_tiny

# %%
# The log that ships with the library: five small language models that the project trained and ran on ten tasks with
# verifiable answers.  No model is best everywhere.

log = load_tiny()
print(log)
print(log.summary())

# %%
# Fit on 70 per cent of the queries.  ``defer.router`` is an ordinary pipeline of text features and ridge regressions.

train, test = log.split(test_size=0.3, seed=0)
router = defer.router(embeddings=False)
router.fit(train.X, train.quality, cost=train.cost)

for query, arm in zip(test.X[:6], router.predict(test.X[:6]), strict=True):
    print(f"{arm:<20}{query}")

# %%
# Route the held-out queries for at most 10 millionths of a US dollar each, a fifth of what the best single model costs.

evaluation = defer.evaluate(router, test, limit=defer.Budget(mean_cost=1e-5), train=train)
print(evaluation.estimate)
print("difference:", evaluation.difference, "against", evaluation.baseline)

# %%
# The frontier shows all operating points of the router.  The dashed line is what mixing models at random can do.

fig, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
evaluation.plot_frontier(ax)
ax.spines[["top", "right"]].set_visible(False)

# %%
# Where the gain comes from: task by task, beside the model that is best overall.

fig, ax = plt.subplots(figsize=(8, 4), layout="constrained")
evaluation.plot_domains(ax)
ax.spines[["top", "right"]].set_visible(False)

# %%
# ``evaluation.to_html("report.html")`` writes all of this, and more, into one file.
