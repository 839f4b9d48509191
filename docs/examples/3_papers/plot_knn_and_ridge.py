"""
Nearest neighbours, ridge and the zero router
=============================================

RouterBench (Hu et al. 2024, arXiv 2403.12031) places routers in the plane of cost and quality and asks whether they rise above
the *zero router*, the hull of the single models.  AIQ is the mean quality along a router's hull.
"""

import matplotlib.pyplot as plt
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

import defer
from defer.datasets import load_tiny
from defer.estimators import KNNRouter, QualityRouter

train, test = load_tiny().split(test_size=0.3, seed=0)


def text(router):
    features = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    return defer.make_pipeline(features, router).fit(train.X, train.quality, cost=train.cost)


routers = {
    "1 neighbour": text(KNNRouter(1)),
    "10 neighbours": text(KNNRouter(10)),
    "40 neighbours": text(KNNRouter(40)),
    "ridge": text(QualityRouter(Ridge(alpha=1.0))),
}

# %%
# One neighbour knows little of the price of a mistake: its predictions are 0 or 1, and few operating points are left.  More
# neighbours smooth that out; at forty there is hardly anything between them and ridge.

fig, ax = plt.subplots(figsize=(8, 4.8), layout="constrained")
ax.spines[["top", "right"]].set_visible(False)
for (name, router), colour in zip(routers.items(), ("#c9a227", "#5a9e6f", "#7b4f9d", "#0b6e99"), strict=True):
    evaluation = defer.evaluate(router, test)
    area = evaluation.area_over_zero(n_bootstrap=100)
    print(f"{name:<16}AIQ {evaluation.aiq():.3f}  area over the zero router {area}")
    ax.plot(evaluation.frontier.cost * 1e6, evaluation.frontier.quality, color=colour, lw=1.8, label=name)
cost, quality = evaluation.zero_router
ax.plot(cost * 1e6, quality, color="#8a8a8a", ls="--", lw=1.2, label="zero router")
ax.set_xlabel("mean cost per query (millionths of a US dollar)")
ax.set_ylabel("mean quality on held-out queries")
ax.legend(loc="lower right")
plt.show()
