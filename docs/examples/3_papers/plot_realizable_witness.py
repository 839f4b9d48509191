"""
A rule without error that convex losses miss
============================================

Mozannar et al. 2023 ask for surrogates that find a perfect rule wherever the set of models holds one.  The softmax
and one-vs-all losses are convex and consistent, and yet they do not: on five points, lines exist that never err, and
the optimum of both losses errs on one.
"""

import matplotlib.pyplot as plt
import numpy as np

from defer.datasets import realizable_witness
from defer.estimators import SingleStageDeferral

# %%
# One feature, two classes, an expert who is right at 4 and −3 only.  The rule to be found: class 0 on the right, class
# 1 at 0, and the expert at −3.

witness = realizable_witness()
x, order = witness.X[:, 0], np.argsort(witness.X[:, 0])
for point in order:
    print(f"x = {x[point]:>4}  label {witness.y[point]}  expert {'right' if witness.right[point, 0] else 'wrong'}")

# %%
# Three fits of the same three lines, almost without a penalty.

systems = {}
for surrogate in ("softmax", "ova", "realizable"):
    system = SingleStageDeferral(surrogate, C=1e8, tol=1e-8, max_iter=5000)
    systems[surrogate] = system.fit(witness.X, witness.y, experts=witness.experts)
    error = 1 - system.score(witness.X, witness.y, experts=witness.experts)
    print(f"{surrogate:<12}surrogate {system.model_.objective:.6f}  error of the system {error:.1f}")

# %%
# The highest line decides.  A filled point is a right answer of the system, a crossed one an error.

grid = np.linspace(-4, 5, 200)[:, None]
names, colours = ("class 0", "class 1", "expert"), ("#0b6e99", "#c9a227", "#b3541e")
titles = {"softmax": "softmax: error .2", "ova": "one-vs-all: error .2", "realizable": "realizable: no error"}
fig, axes = plt.subplots(1, 3, figsize=(11, 4), layout="constrained")
for ax, (surrogate, system) in zip(axes, systems.items(), strict=True):
    ax.spines[["top", "right"]].set_visible(False)
    scores, at = system.scores(grid), system.scores(witness.X)
    for index, (name, colour) in enumerate(zip(names, colours, strict=True)):
        ax.plot(grid[:, 0], scores[:, index], color=colour, lw=1.8, label=name)
    said = np.where(at.argmax(axis=1) == 2, witness.experts[:, 0], at[:, :2].argmax(axis=1))
    right = said == witness.y
    top = at.max(axis=1)
    ax.plot(x[right], top[right], "o", color="black", ms=7)
    ax.plot(x[~right], top[~right], "X", color="#c0392b", ms=11)
    ax.set_title(titles[surrogate])
    ax.set_xlabel("x")
axes[0].set_ylabel("score")
axes[0].legend(loc="best", fontsize=8)
plt.show()

# %%
# Scores of the realizable surrogate grow without end, since its infimum is 0.  It is not convex, and for an expert who
# errs at random it is not consistent: see ``defer.losses.SURROGATES["realizable"].note``.
