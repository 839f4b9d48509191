"""
Conversations that stay where they are
======================================

An arm that has seen a conversation holds its prompt in a cache, and is cheaper to ask again; changing it may also cost
something by itself.  `SessionRouter` adds both to the utility of any router.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from sklearn.linear_model import LinearRegression

from defer import Arm, Portfolio, Price
from defer.estimators import QualityRouter, SessionRouter
from defer.portfolios import ArmMatrix, session_cost

# %%
# Simulated conversations of eight turns, whose subject drifts between prose and code.  Prompts grow by 600 tokens a turn;
# tokens that a cache holds cost a tenth.

arms = ["writer", "coder", "large"]
portfolio = Portfolio([
    Arm(arm, price=Price.per_million(price, 4 * price, cached_input_tokens=price / 10))
    for arm, price in zip(arms, (1.0, 1.0, 4.0), strict=True)
])  # fmt: skip


def conversations(n, seed):
    """Name, subject from -1 to 1, tokens of prompt and of answer, and true quality of every turn."""
    rng = np.random.default_rng(seed)
    subject = np.zeros((n, 8))
    subject[:, 0] = rng.uniform(-1, 1, n)
    for turn in range(1, 8):
        subject[:, turn] = np.clip(0.6 * subject[:, turn - 1] + rng.normal(0, 0.45, n), -1, 1)
    z = subject.ravel()
    session, tokens = np.repeat(np.arange(n), 8), np.tile(600.0 * np.arange(1, 9), n)
    quality = np.column_stack([0.6 - 0.3 * z, 0.6 + 0.3 * z, np.full(len(z), 0.78)])
    return session, np.column_stack([z, tokens]), tokens, np.full(len(z), 100.0), quality


# %%
# A plain router of quality and cost, fitted to graded turns; it knows nothing of conversations.

_, X, tokens, answers, quality = conversations(500, seed=0)
graded = ArmMatrix(np.random.default_rng(0).binomial(10, quality) / 10, arms)
cost = portfolio.cost(input_tokens=tokens, output_tokens=answers)
price = 40.0
router = QualityRouter(LinearRegression(), LinearRegression(), cost_weight=price).fit(X, graded, cost=cost)

# %%
# Other conversations, routed in three ways: each query by itself; turn by turn with `SessionRouter`, which knows the last
# arm and the caches; and the best plan in hindsight, which knows the turns to come.  All pay for their changes of arm, and
# for tokens what the caches that they filled leave to pay.

session, X, tokens, answers, quality = conversations(200, seed=1)
discount = dict(zip(arms, portfolio.cache_discount, strict=True))
switch_costs = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2)
ways = ("each query by itself", "turn by turn", "plan in hindsight")
taken, found = {}, {way: [] for way in ways}
for switch_cost in switch_costs:
    wrapped = SessionRouter.around(router, switch_cost=switch_cost, token_discount=discount)
    told = {"session": session, "input_tokens": tokens}
    routed, planned = (wrapped.arms_[way(X, **told).arm] for way in (wrapped.route, wrapped.plan))
    chosen = (router.predict(X), routed, planned)
    for way, arm in zip(ways, chosen, strict=True):
        taken[way, switch_cost] = arm
        hop = (arm[1:] != arm[:-1]) & (session[1:] == session[:-1])
        paid = session_cost(portfolio, arm, session=session, input_tokens=tokens, output_tokens=answers)
        index = np.array([arms.index(name) for name in arm])
        gained = quality[np.arange(len(arm)), index].mean() - price * paid.mean() - switch_cost * hop.sum() / len(arm)
        found[way].append((hop.sum() / 200, gained))
for way, rows in found.items():
    print(
        f"{way:<21}changes {rows[2][0]:.2f} per conversation, utility {rows[2][1]:.3f} per turn, at a switch cost of 0.05"
    )

fig, axes = plt.subplots(1, 3, figsize=(10.5, 4), layout="constrained", sharey=True)
colours = ("#c9a227", "#5a9e6f", "#0b6e99")
for ax, way in zip(axes, ways, strict=True):
    grid = np.array([arms.index(name) for name in taken[way, 0.05]]).reshape(-1, 8)[:16]
    ax.pcolormesh(grid, cmap=ListedColormap(colours), vmin=0, vmax=2, edgecolors="white", linewidth=2)
    ax.set_title(way, fontsize=11)
    ax.set_xticks(np.arange(8) + 0.5, range(1, 9))
    ax.set_yticks([])
    ax.set_xlabel("turn")
axes[0].set_ylabel("sixteen conversations")
fig.legend([Patch(color=colour) for colour in colours], arms, loc="outside upper center", ncols=3, frameon=False)
plt.show()

# %%
# With a higher switch cost there are fewer changes.  What lies between the plan and the choice turn by turn is the value of
# knowing the turns to come, which no rule to serve by does.

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
for column, ax in enumerate((left, right)):
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel("switch cost (quality that a change must gain)")
    for (way, rows), colour in zip(found.items(), ("#8a8a8a", "#0b6e99", "#b3541e"), strict=True):
        ax.plot(switch_costs, [row[column] for row in rows], "o-", color=colour, label=way)
left.set_ylabel("changes of arm per conversation")
left.set_ylim(bottom=0)
right.set_ylabel("utility per turn, caches and changes counted")
right.legend(loc="lower left")
plt.show()

# %%
# Leave it out where turns do not share a prompt, or where the provider keeps no cache: `lifetime_s` and `least_prefix` say
# what is kept.  Myopic choices can pay for a change that the next turn undoes; a switch cost above the true one damps that.
