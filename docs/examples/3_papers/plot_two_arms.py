"""
A weak and a strong model: APGR and CPT
=======================================

RouteLLM (Ong et al., ICLR 2025, arXiv 2406.18665) measures a router over two models by the share of their quality gap that it
recovers for a share of calls to the strong one.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

import defer
from defer.datasets import load_tiny
from defer.estimators import KNNRouter, QualityRouter
from defer.evaluation import apgr, pgr, strong_share_curve

log = load_tiny().select(arms=["small-numbers", "large-generalist"])
train, test = log.split(test_size=0.3, seed=0)


def text(router):
    features = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    return defer.make_pipeline(features, router).fit(train.X, train.quality, cost=train.cost)


# %%
# Two routers, the oracle (queries by true gain), and the diagonal that drawing at random gives.

routers = {"ridge": text(QualityRouter(Ridge(alpha=1.0))), "20 nearest neighbours": text(KNNRouter(20))}
weak, strong = test.quality[:, 0], test.quality[:, 1]
fig, ax = plt.subplots(figsize=(8, 5), layout="constrained")
ax.spines[["top", "right"]].set_visible(False)

share, quality = strong_share_curve(strong - weak, weak, strong)
ax.plot(share, pgr(quality, quality[0], quality[-1]), color="#b3541e", label=f"oracle, APGR {apgr(share, quality):.3f}")
for (name, router), colour in zip(routers.items(), ("#0b6e99", "#5a9e6f"), strict=True):
    evaluation = defer.evaluate(router, test)
    share, quality = evaluation.strong_share_curve()
    ax.plot(
        share, pgr(quality, quality[0], quality[-1]), color=colour, lw=2, label=f"{name}, APGR {evaluation.apgr():.3f}"
    )
    print(f"{name:<24}APGR {evaluation.apgr():.3f} (ten points {evaluation.apgr_ten_points():.3f})  "
          f"CPT(50%) {evaluation.cpt(0.5):.3f}  CPT(80%) {evaluation.cpt(0.8):.3f}")  # fmt: skip
ax.plot([0, 1], [0, 1], color="#8a8a8a", ls="--", lw=1, label="at random, APGR 0.5")
ax.set_xlabel("share of calls to the strong model")
ax.set_ylabel("performance gap recovered (PGR)")
ax.set_xticks(np.linspace(0, 1, 6))
ax.legend(loc="lower right")
plt.show()

# %%
# PGR above 1 means: better than always taking the strong model.  Queries with equal scores move together, both ends belong to
# the curve, and nothing is clipped.
