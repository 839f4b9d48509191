"""
A model that was not there at fit
=================================

UniRoute (Jitkrittum et al. 2025, arXiv 2502.08773) describes a model by how good it is in each cluster of queries, so that
another one joins after running on a few of them, and nothing is fitted again.  How many does it take?
"""

from copy import deepcopy
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

from defer.datasets import load_tiny
from defer.estimators import ClusterRouter, LatentFactorRouter, LearnedMapRouter

# %%
# Four models are known on 3,500 queries; the fifth, ``small-numbers``, comes later.  Queries are numbers here, made
# once for all routers.

train, test = load_tiny().split(test_size=0.3, seed=0)
words = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
features = make_pipeline(words, TruncatedSVD(40, random_state=0)).fit(train.X)
train, test = (replace(log, X=features.transform(log.X)) for log in (train, test))
name = "small-numbers"
known = train.select(arms=[arm for arm in train.arms if arm != name])
truth = np.asarray(test.quality)[:, test.arms.index(name)]

price = 3000.0
routers = {
    "clusters": ClusterRouter(cost_weight=price, random_state=0),
    "learned map": LearnedMapRouter(cost_weight=price, random_state=0),
    "latent factor": LatentFactorRouter(cost_weight=price),
}
for router in routers.values():
    router.fit(known.X, known.quality, cost=known.cost)

# %%
# From k queries on, drawn five times over: the squared error of the predicted quality of the added model on held-out
# queries, and the utility when all five models are routed at 3,000 per US dollar, at which the large one is dear.

sizes = (5, 10, 30, 100, 300, 1000)
rows = np.arange(len(test))
utility = np.asarray(test.quality) - price * np.asarray(test.cost)
error = {label: np.empty((5, len(sizes))) for label in (*routers, "mean of the k")}
routed = {label: np.empty((5, len(sizes))) for label in routers}
for draw in range(5):
    order = np.random.default_rng(draw).permutation(len(train))
    for column, k in enumerate(sizes):
        trial = train.select(rows=order[:k])
        mean = np.asarray(trial.quality)[:, train.arms.index(name)].mean()
        error["mean of the k"][draw, column] = ((truth - mean) ** 2).mean()
        for label, router in routers.items():
            wider = deepcopy(router).add_arm(name, trial)
            quality = wider.predict_quality(test.X)
            error[label][draw, column] = ((truth - quality[:, -1]) ** 2).mean()
            arm = [test.arms.index(taken) for taken in wider.predict(test.X)]
            routed[label][draw, column] = utility[rows, arm].mean()
full = {label: deepcopy(router).fit(train.X, train.quality, cost=train.cost) for label, router in routers.items()}
place = full["clusters"].arms_.tolist().index(name)
refitted = {label: ((truth - router.predict_quality(test.X)[:, place]) ** 2).mean() for label, router in full.items()}
for label in routers:
    print(f"{label:<14}squared error from 10, 100 and 1,000 queries: "
          f"{'  '.join(f'{error[label][:, sizes.index(k)].mean():.3f}' for k in (10, 100, 1000))}, "
          f"refitted on all {refitted[label]:.3f}")  # fmt: skip

# %%
# A specialist is the hard case, because nothing known of the others foretells it.  Clusters start at what the others find
# difficult and need outcomes in each of them; the latent factor knows where queries differ, is quick, and ends at what its
# two kinds of ability can express.  Dotted: all fitted again on 3,500 queries.  The learned map begins at the clusters, and
# stays near them here.

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xscale("log")
    ax.set_xticks(sizes, [f"{k:,}" for k in sizes])
    ax.minorticks_off()
    ax.set_xlabel("k: queries on which the added model was run")
colours = {"clusters": "#0b6e99", "learned map": "#5a9e6f", "latent factor": "#b3541e", "mean of the k": "#8a8a8a"}
styles = {"clusters": "o-", "learned map": "s--", "latent factor": "o-", "mean of the k": "o-"}
for label, values in error.items():
    left.plot(sizes, values.mean(axis=0), styles[label], color=colours[label], label=label)
    if label in refitted:
        left.axhline(refitted[label], color=colours[label], ls=":", lw=1.2)
left.set_ylabel("squared error of the added model's quality")
left.legend(loc="upper right")
for label, values in routed.items():
    before = routers[label].predict(test.X)
    four = utility[rows, [test.arms.index(taken) for taken in before]].mean()
    right.plot([3, *sizes], [four, *values.mean(axis=0)], styles[label], color=colours[label], label=label)
right.set_xticks([3, *sizes], ["none", *(f"{k:,}" for k in sizes)])
right.set_ylabel("mean utility (quality − 3,000 · cost)")
plt.show()

# %%
# Draw the k queries at random from the traffic, and for models unlike the known ones take a smaller ``prior`` or
# ``back_off="arm"``, which start the clusters at the mean of the added model.  With thousands of outcomes at hand, fit again.
