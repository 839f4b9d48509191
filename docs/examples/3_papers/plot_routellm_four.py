"""
RouteLLM's routers from who won
===============================

RouteLLM (Ong et al., ICLR 2025, arXiv 2406.18665) learns from battles: which of two answers was better.  Here battles come
from logged outcomes; three of its four routers are fitted to the same ones, and calibrated to a share of strong calls.
"""

from importlib.util import find_spec

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import PercentFormatter
from sklearn.feature_extraction.text import TfidfVectorizer

import defer
from defer.datasets import load_tiny
from defer.estimators import BradleyTerryRouter, CausalLMRouter, MatrixFactorizationRouter
from defer.evaluation import apgr, calibrate_share, pgr, strong_share_curve
from defer.portfolios import preference_table

# %%
# One battle a query, between two models drawn at random from five; equal grades are a tie.  Battles make a table like any
# other, with 1 for the winner, 0 for the loser, 0.5 for both after a tie, and nothing for the rest.

train, test = load_tiny().split(test_size=0.3, seed=0)
reference, held_out = test.split(test_size=0.5, seed=1)
rng = np.random.default_rng(0)
pair = np.array([rng.permutation(5)[:2] for _ in range(len(train))])
grade = np.take_along_axis(np.asarray(train.quality), pair, axis=1)
winner = np.where(grade[:, 0] == grade[:, 1], "tie", np.where(grade[:, 0] > grade[:, 1], "a", "b"))
names = np.array(train.arms)
battles = preference_table(names[pair[:, 0]], names[pair[:, 1]], winner, arms=train.arms)
print(f"{len(battles)} battles, {np.mean(winner == 'tie'):.0%} of them ties")

# %%
# Bradley-Terry weighs battles by similarity, query by query; matrix factorisation is one linear map.  Both know all five
# models, and any two of them can be compared.


def on_text(router):
    features = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    return defer.make_pipeline(features, router).fit(train.X, battles)


weak, strong = "small-numbers", "large-generalist"
place = [train.arms.index(weak), train.arms.index(strong)]
scores = {}
for name, router in {
    "Bradley-Terry": on_text(BradleyTerryRouter(n_tiers=None)),
    "matrix factorisation": on_text(MatrixFactorizationRouter()),
}.items():
    scores[name] = [router.predict_scores(log.X)[:, place] @ [-1, 1] for log in (reference, held_out)]

# %%
# The causal language model is a tiny one over bytes, which the library trains itself, here on the outcomes of the two
# models on 700 queries.  It needs the ``text`` extra.  A checkpoint in a local folder takes its place by
# ``CausalLMRouter(folder)``.  The fourth, `EncoderRouter`, is used in the same way, and is left out for its time: about
# ten seconds with the small sentence encoder of that extra, all layers frozen.

if find_spec("transformers") and find_spec("torch"):
    some = train.select(rows=slice(0, 700), arms=[weak, strong])
    language_model = CausalLMRouter(strong=strong, epochs=2, random_state=0).fit(some.X, some.quality)
    scores["causal language model"] = [language_model.predict_strong(log.X)[:, 0] for log in (reference, held_out)]

# %%
# A threshold for a wanted share of strong calls is found on 750 queries and used on 750 others.

quality = np.asarray(held_out.quality)[:, place].T
wanted = np.linspace(0.1, 0.9, 9)
realised = {
    name: [calibrate_share(known, share).is_strong(score).mean() for share in wanted]
    for name, (known, score) in scores.items()
}
fig, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.6), layout="constrained", width_ratios=[1.35, 1])
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
for (name, (_, score)), colour in zip(scores.items(), ("#5a9e6f", "#0b6e99", "#c9a227"), strict=False):
    share, value = strong_share_curve(score, *quality)
    area = apgr(share, value)
    print(f"{name:<22}APGR {area:.3f}, 30% wanted, {realised[name][2]:.1%} realised")
    left.plot(share, pgr(value, value[0], value[-1]), color=colour, lw=2, label=f"{name}, APGR {area:.2f}")
    right.plot(wanted, realised[name], "o-", color=colour, label=name)
share, value = strong_share_curve(quality[1] - quality[0], *quality)
left.plot(share, pgr(value, value[0], value[-1]), color="#b3541e", lw=1.5, ls="--", label="oracle")
left.plot([0, 1], [0, 1], color="#8a8a8a", ls=":", lw=1.2, label="at random, APGR 0.5")
left.set_xlabel("share of calls to the strong model")
left.set_ylabel("performance gap recovered (PGR)")
left.legend(loc="lower right")
right.plot([0, 1], [0, 1], color="black", lw=1, label="as wanted")
right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
right.set_xlabel("share of strong calls wanted")
right.set_ylabel("share on other queries")
right.legend(loc="upper left")
plt.show()

# %%
# A tie says nothing of how good both answers were: where outcomes are graded, a router that is fitted on the grades
# knows more, and a price of cost has a meaning.  A share is kept on queries like those of the calibration, and on no others.
