"""
Can the predictions be believed?
================================

A quality target and a batch budget go by *predicted* quality.  The reliability curve says how far that may be trusted.
"""

import matplotlib.pyplot as plt
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

import defer
from defer.datasets import load_tiny
from defer.estimators import KNNRouter, QualityRouter

train, test = load_tiny().split(test_size=0.3, seed=0)


def text(router):
    features = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    return defer.make_pipeline(features, router)


# %%
# The same features under three predictors.  A classifier of right and wrong serves as well as a regressor: its expected class
# is the predicted quality.

routers = {
    "ridge, strong penalty": text(QualityRouter(Ridge(alpha=30.0))),
    "logistic regression": text(QualityRouter(LogisticRegression(C=3.0))),
    "40 nearest neighbours": text(KNNRouter(40)),
}
fig, axes = plt.subplots(1, 3, figsize=(11, 4), sharex=True, sharey=True, layout="constrained")
for ax, (name, router) in zip(axes, routers.items(), strict=True):
    evaluation = defer.evaluate(router.fit(train.X, train.quality, cost=train.cost), test)
    table = evaluation.calibration
    print(f"{name:<24}ECE {table.ece:.3f}  Brier {table.brier:.3f}  quality routed {evaluation.estimate.value:.3f}")
    evaluation.plot_calibration(ax)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(name)
plt.show()

# %%
# A strong penalty shrinks predictions towards the mean: the curve is steeper than the diagonal, and the router is modest.
# That hurts a quality target but hardly the routing, which needs only the right order of the arms.
