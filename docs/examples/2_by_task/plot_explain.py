"""
Why this query went there
=========================

For one query: what every arm is predicted to do and how far that can be trusted, the price at which the decision flips, and
what became of similar queries in the log.
"""

import matplotlib.pyplot as plt

import defer
from defer.datasets import load_tiny
from defer.estimators import explain
from defer.evaluation import plot_explanation

# %%
# Utility is quality less 4,000 times the cost in US dollars: an answer of the large model has to be better by about a sixth.

train, test = load_tiny().split(test_size=0.5, seed=0)
router = defer.router(embeddings=False, cost_weight=4000.0).fit(train.X, train.quality, cost=train.cost)

# %%
# Explained with a log that the router was not fitted on; on queries it has seen, errors would look too small.

explanation = explain(router, "39-17=", log=test, n_neighbors=4)
print(explanation)

# %%
# On the left, the prediction (diamond), the mean of the fifty nearest logged queries with its error (dot), and the range
# that holds nine of ten single outcomes, which of right or wrong answers is wide.  Where dot and diamond are far apart, as
# for ``small-numbers``, the router may be wrong.  On the right, the utility of every arm against the price: the thick line
# is the arm taken, circles are the prices at which it changes.

fig, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
plot_explanation(explanation, tuple(axes))
plt.show()

# %%
# The same as plain values for a log or a ticket.

document = explanation.as_dict()
print(list(document))

# %%
# It explains the router, not the world: the predictions are the router's, and where the log has nothing near the query,
# the neighbours show that and no more.  On the command line it is ``defer explain policy/ "query"``.
