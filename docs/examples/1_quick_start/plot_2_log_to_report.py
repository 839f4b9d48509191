"""
Your own log
============

Outcomes come from wherever they were recorded.  Here a table with one row per query and model becomes a log, a router and a
comparison of both; nothing is needed but the columns.
"""

import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa

import defer
from defer.datasets import load_tiny

# %%
# Stand-in for your table: query, model, score, price.

tiny = load_tiny().select(rows=slice(0, 2000), arms=["nano-generalist", "small-strings", "medium-generalist"])
n, m = tiny.quality.shape
table = pa.table(
    {
        "query_id": np.repeat(np.arange(n), m),
        "arm": np.tile(tiny.arms, n),
        "score": np.asarray(tiny.quality).ravel(),
        "cost_usd": np.asarray(tiny.cost).ravel(),
        "prompt": np.repeat(tiny.X, m),
    }
)
print(table.slice(0, 6).to_pydict())

# %%
# Read it.  Everything is checked here, once: a negative cost or a pair that stands twice would be named with its row.

log = defer.OutcomeLog.from_long(table, text="prompt")
print(log)

# %%
# Is it good for anything?

print(defer.evaluation.audit(log))

# %%
# Fit, evaluate, and look at who does the work.

train, test = log.split(seed=0)
router = defer.router(embeddings=False).fit(train.X, train.quality, cost=train.cost)
evaluation = defer.evaluate(router, test, train=train)
print(evaluation.estimate)
print("difference:", evaluation.difference, "against", evaluation.baseline)

fig, ax = plt.subplots(figsize=(8, 2.6), layout="constrained")
evaluation.plot_load(ax)
ax.spines[["top", "right"]].set_visible(False)
