"""
Why the one-shot loss underfits
===============================

With a price of asking, the cost-sensitive loss that learns labels and deferral at once smooths the labels.  Post hoc,
the classifier never hears of the price.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from defer.estimators import PostHocDeferral, SingleStageDeferral
from defer.evaluation import wrong_label_mass
from defer.losses import softmax_readout

# %%
# Handwritten digits from scikit-learn, and a simulated expert who is right on seven of ten.

images, digit = load_digits(return_X_y=True)
rng = np.random.default_rng(0)
said = np.where(rng.random(len(digit)) < 0.7, digit, (digit + rng.integers(1, 10, len(digit))) % 10)
X, X_test, y, y_test, expert, expert_test = train_test_split(
    images / 16, digit, said, test_size=0.5, random_state=0, stratify=digit
)

# %%
# Mass on wrong labels: probability that the fitted classifier leaves on labels other than the true one, on images that
# it has not seen.

prices = np.array([0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3])
found = {"one-shot loss": [], "post hoc": []}
for price in prices:
    cost = np.full((len(X), 1), price)
    joint = SingleStageDeferral("cost_sensitive", costs="training", cost_weight=1.0, rescale=True)
    joint.fit(X, y, experts=expert, cost=cost)
    later = PostHocDeferral(cost_weight=1.0, random_state=0).fit(X, y, experts=expert, cost=cost)
    probabilities = (
        softmax_readout(joint.scores(X_test), n_experts=1).class_probability,
        later.base_.probability(X_test),
    )
    for name, system, probability in zip(found, (joint, later), probabilities, strict=True):
        mass = wrong_label_mass(probability, y_test)
        paid = np.full((len(X_test), 1), price)
        utility = system.score(X_test, y_test, experts=expert_test, cost=paid)
        found[name].append((mass.mean.value, mass.mean.low, mass.mean.high, utility))
        print(f"price {price:<6}{name:<14} mass on wrong labels {mass.mean}, utility {utility:.3f}")

# %%
# The dashed line is what the optimum of the one-shot loss itself leaves on wrong labels, without any error of the fit;
# the rest of the distance is the penalty and the noise.  On the right, what the system is worth: accuracy less what it
# paid.

smoothed = 9 * prices
optimum = 0.3 * smoothed / (0.7 + 0.3 * (1 + prices + smoothed))
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel("price of a question (in errors)")
for (name, rows), colour in zip(found.items(), ("#b3541e", "#0b6e99"), strict=True):
    mean, low, high, utility = np.transpose(rows)
    left.errorbar(prices, mean, yerr=[mean - low, high - mean], fmt="o-", color=colour, capsize=3, label=name)
    right.plot(prices, utility, "o-", color=colour, label=name)
left.plot(prices, optimum, color="#b3541e", ls="--", lw=1.2, label="optimum of the one-shot loss")
left.set_ylabel("mass on wrong labels")
left.set_ylim(bottom=0)
left.legend(loc="upper left")
right.set_ylabel("accuracy − price · share asked")
right.set_ylim(0.85, 1.0)
plt.show()
