"""
Noisy rewards and tags
======================

ZOOTER (Lu et al., NAACL 2024, arXiv 2311.08692) distils the scores of a reward model into a router.  Rewards of single
queries are noisy; mixing each query's label with the mean label of its tags averages the noise out, and takes away what
is special about the query.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from defer.datasets import load_tiny
from defer.estimators import RewardDistilledRouter
from defer.evaluation import task_ranks
from defer.losses import enhance_labels, silver_labels

# %%
# By hand: three queries, tags {a}, {a, b} and {b}, and the labels that are learned with beta = 0.3.

silver = silver_labels([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
print(enhance_labels(silver, [{"a"}, {"a", "b"}, {"b"}], beta=0.3).round(6))

# %%
# The log has grades, 1 = right; with noise on them they stand in for a reward model.  Tags are the ten tasks, known in
# training alone.  Routers of little penalty learn from 400 queries, three times over, and are judged by the grades of the
# same 1,400 others.

train, test = load_tiny().split(test_size=0.3, seed=0)
grades, outcome = np.asarray(train.quality), np.asarray(test.quality)
features = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 3), max_features=2000)
X, X_test = features.fit_transform(train.X), features.transform(test.X)
best_arm = outcome.mean(axis=0).max()


def distil(seed, noise=0.6, **options):
    """Arms of the test queries, by a router that learned from 400 others."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(grades))[:400]
    reward = grades[rows] + noise * rng.normal(size=(400, grades.shape[1]))
    router = RewardDistilledRouter(temperature=0.3, C=30.0, **options).fit(X[rows], reward, tags=train.domain[rows])
    return router.predict(X_test)


def qualities(**options):
    arms = [distil(seed, **options) for seed in range(3)]
    return [outcome[np.arange(len(arm)), arm].mean() for arm in arms]


betas = (0.0, 0.1, 0.3, 0.6, 1.0)
curves = {
    "rewards with noise": np.array([qualities(beta=beta) for beta in betas]),
    "exact grades": np.array([qualities(beta=beta, noise=0.0) for beta in betas]),
}
hard = np.array(qualities(labels="hard"))
for name, values in curves.items():
    print(f"{name:<19}", "  ".join(f"beta {beta}: {v:.3f}" for beta, v in zip(betas, values.mean(axis=1), strict=True)))
print(f"hard labels, noise: {hard.mean():.3f};  best single arm {best_arm:.3f}")

# %%
# Ranks by task, in which every task counts once.  Bars on the left are two standard errors over the draws, on the right
# 95% intervals over queries.

systems = {"routed, beta = 0.3": distil(0, beta=0.3), "routed, hard labels": distil(0, labels="hard")}
ranks = task_ranks(test.quality, test.domain, routed=systems, n_bootstrap=200)

fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
for (name, values), colour in zip(curves.items(), ("#0b6e99", "#5a9e6f"), strict=True):
    error = values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])
    left.errorbar(betas, values.mean(axis=1), yerr=2 * error, fmt="o-", color=colour, capsize=3, label=f"soft, {name}")
left.axhline(hard.mean(), color="#b3541e", lw=1.5, label="hard, rewards with noise")
left.axhline(best_arm, color="#8a8a8a", ls="--", lw=1.2, label="best single arm")
left.set_xlabel("beta: weight of the query's own label")
left.set_ylabel("mean quality on held-out queries")
left.set_ylim(0.66, 0.83)
left.legend(loc="upper right", ncols=2, fontsize=8.5)
order = np.argsort(-ranks.mean_rank)
names = np.array(ranks.names)[order]
palette = dict(zip(systems, ("#0b6e99", "#b3541e"), strict=True))
colours = [palette.get(name, "#9a9a9a") for name in names]
reach = np.abs(np.array([ranks.mean_rank_low, ranks.mean_rank_high]) - ranks.mean_rank)[:, order]
right.barh(names, ranks.mean_rank[order], xerr=reach, color=colours, height=0.6, ecolor="#333333", capsize=2)
right.set_xlabel("mean rank over the ten tasks (1 is best)")
plt.show()

# %%
# Exact grades of 400 queries gain less.  Do not smooth where a tag covers queries that need different arms: then it takes
# away more than noise.  `temperature` is ours to set; the source has none, so that the scale of its rewards decides how soft
# its labels are.  Without tags, ``tags="cluster"`` finds some among the training queries.
