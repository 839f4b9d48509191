"""
Soft labels, and what they do to quality, cost and latency
==========================================================

TensorOpera Router (Stripelis et al., EMNLP 2024, arXiv 2408.12320) spreads the label of a query over the arms, in shares
proportional to exp(kappa · score), and looks at quality, cost and throughput together.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

import defer
from defer.datasets import load_tiny
from defer.estimators import SoftLabelRouter
from defer.evaluation import mixture_throughput, router_overhead
from defer.losses import soft_labels

# %%
# kappa sets how much the best arm gets: near 0 all arms are alike, at infinity the label is hard.

print("kappa 10: ", soft_labels([[0.8, 0.6, 0.5]], kappa=10.0).round(6).tolist())
print("kappa 0.1:", soft_labels([[0.8, 0.6, 0.5]], kappa=0.1).round(6).tolist())

# %%
# A mean of labels is no label of means.  Arm A scores 0.9 or 0.1 at even odds, arm B always 0.55.  B is better on average
# and has the larger mean label too, until kappa is so large that the sizes of wins and losses no longer count.

kappas = np.geomspace(0.1, 300, 120)
single = np.array([soft_labels([[0.8, 0.6, 0.5]], kappa=kappa)[0] for kappa in kappas])
noisy = np.array([soft_labels([[0.9, 0.55], [0.1, 0.55]], kappa=kappa).mean(axis=0) for kappa in kappas])

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xscale("log")
    ax.axvline(10, color="#8a8a8a", ls=":", lw=1.2)
    ax.text(11, 0.08, "default", transform=ax.get_xaxis_transform(), fontsize=9)
    ax.set_xlabel("kappa")
for score, share, colour in zip((0.8, 0.6, 0.5), single.T, ("#0b6e99", "#5a9e6f", "#c9a227"), strict=True):
    left.plot(kappas, share, color=colour, lw=2, label=f"score {score}")
left.set_ylabel("share of the label")
left.legend(loc="upper left")
for name, share, colour in zip(("A: 0.9 or 0.1", "B: always 0.55"), noisy.T, ("#b3541e", "#0b6e99"), strict=True):
    right.plot(kappas, share, color=colour, lw=2, label=name)
right.set_ylabel("mean share of the label")
right.legend(loc="upper right")
plt.show()

# %%
# On the log: weights on cost and on latency, which count in units of the difference between the extreme arms.  The speed of
# a mixture is all its queries over all their seconds, and the router's own time is on top of it.

train, test = load_tiny().split(test_size=0.3, seed=0)
outcome, cost, latency = (np.asarray(table) for table in (test.quality, test.cost, test.latency))
rows = np.arange(len(test))


def fitted(weights):
    features = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    router = defer.make_pipeline(features, SoftLabelRouter(weights=weights))
    return router.fit(train.X, train.quality, cost=train.cost, latency=train.latency)


strengths = np.array([0.0, 0.1, 0.25, 0.5, 1.0, 2.0])
found = {}
for name, place in (("weight on cost", 1), ("weight on latency", 2)):
    table = []
    for strength in strengths:
        weights = np.array([1.0, 0.0, 0.0])
        weights[place] = strength
        router = fitted(tuple(weights))
        arm = (router.predict(test.X)[:, None] == router.arms_).argmax(axis=1)
        speed = mixture_throughput(np.ones_like(latency), latency, arm)
        table.append((outcome[rows, arm].mean(), cost[rows, arm].mean() * 1e6, speed.queries_per_second))
    found[name] = np.array(table).T
overhead = router_overhead(router, test.X)
print(f"the router itself takes {overhead.total_seconds_per_query * 1e3:.2g} ms per query, most of it for its features; "
      f"an arm takes {latency.mean() * 1e3:.2g} ms on average")  # fmt: skip

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained", sharey=True)
speeds = 1 / latency.mean(axis=0)
for ax, place, singles in ((left, 1, cost.mean(axis=0) * 1e6), (right, 2, speeds)):
    ax.spines[["top", "right"]].set_visible(False)
    ax.plot(singles, outcome.mean(axis=0), "D", color="#8a8a8a", ms=6, label="single arms")
    for (name, table), colour in zip(found.items(), ("#b3541e", "#0b6e99"), strict=True):
        ax.plot(table[place], table[0], "o-", color=colour, label=name)
left.set_xlabel("mean cost per query (millionths of a US dollar)")
left.set_ylabel("mean quality on held-out queries")
right.set_xlabel("queries per second, one after the other")
left.legend(loc="lower right")
plt.show()

# %%
# The two curves nearly coincide: here an arm that is dear is slow, too.  The weights enter the labels, so every operating
# point is a fit of its own.  Where cost alone matters, fit once on quality, and set `cost_weight` or a `Budget` when routing.
