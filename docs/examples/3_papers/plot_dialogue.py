"""
Errors that stay in a dialogue
==============================

OrchestraLLM (Lee, Cheng, Ostendorf, NAACL 2024, arXiv 2311.09758) routes the turns of a dialogue whose state is kept as
slots and values.  A turn that is misread stays in the state, so accuracy per turn says little of accuracy per state.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import PercentFormatter
from sklearn.feature_extraction.text import TfidfVectorizer

import defer
from defer.estimators import DialogueRouter, PoolVoteRouter, serialize_turn, update_state
from defer.evaluation import goal_hits, joint_goal_accuracy

# %%
# Simulated dialogues of five turns about a place to stay.  Some turns say what they mean, and the small expert gets nine of
# ten right; others take something back or point to something said before, and it gets three of ten.  The large expert gets
# nine of ten of all.

values = {
    "area": ["north", "south", "centre"],
    "food": ["thai", "greek", "indian"],
    "price": ["cheap", "moderate", "expensive"],
    "day": ["monday", "friday", "sunday"],
    "people": ["two", "three", "six"],
}
plain = ["{slot} {value} please", "the {slot} should be {value}", "{value} for the {slot}"]
indirect = ["no wait, not that {slot}, rather {value}", "same {slot} as my friend's, which was {value}"]


def dialogue(rng):
    """Turns as (system, user), what each says in truth, and what each expert makes of it."""
    turns, gold, logged = [], [], []
    for slot in rng.permutation(list(values)):
        value = str(rng.choice(values[slot]))
        is_indirect = rng.random() < 0.4
        words = str(rng.choice(indirect if is_indirect else plain)).format(slot=slot, value=value)
        turns.append(("anything else?", words))
        gold.append({slot: value})
        wrong = {slot: str(rng.choice([other for other in values[slot] if other != value]))}
        chance = {"small": 0.3 if is_indirect else 0.9, "large": 0.9}
        logged.append({arm: gold[-1] if rng.random() < p else wrong for arm, p in chance.items()})
    return turns, gold, logged


rng = np.random.default_rng(0)
pool, held_out = ([dialogue(rng) for _ in range(n)] for n in (150, 400))

# %%
# Exemplars for the pools are turns with the state that truly stood before them.

texts, correct = [], []
for turns, gold, logged in pool:
    state = {}
    for (system, user), truth, said in zip(turns, gold, logged, strict=True):
        texts.append(serialize_turn(state, system, user))
        correct.append([float(said[arm] == truth) for arm in ("small", "large")])
        state = update_state(state, truth)
cost = np.tile([1.0, 10.0], (len(texts), 1))
correct = defer.portfolios.ArmMatrix(correct, ["small", "large"])
router = defer.make_pipeline(TfidfVectorizer(), PoolVoteRouter(both_right="each")).fit(texts, correct, cost=cost)

# %%
# Held-out dialogues.  The router sees the state that its own choices have left, errors included.


def answers(name):
    """What is said of every turn, and the share of turns that the large expert gets."""
    said, arms = [], []
    driver = DialogueRouter(router)
    for turns, gold, logged in held_out:
        if name == "routed":
            taken = [turn.arm for turn in driver.run(turns, logged=logged)]
        elif name == "oracle":
            pairs = zip(logged, gold, strict=True)
            taken = ["large" if one["small"] != truth == one["large"] else "small" for one, truth in pairs]
        else:
            taken = [name] * len(turns)
        arms += taken
        said += [one[arm] for one, arm in zip(logged, taken, strict=True)]
    return said, np.mean(np.array(arms) == "large")


truths = [truth for _, gold, _ in held_out for truth in gold]
which = np.repeat(np.arange(len(held_out)), len(values))
systems = ("small", "large", "routed", "oracle")
per_turn, per_state, by_turn = [], [], {}
for name in systems:
    said, share = answers(name)
    per_turn.append(joint_goal_accuracy(said, truths, which, propagate=False))
    per_state.append(joint_goal_accuracy(said, truths, which))
    by_turn[name] = goal_hits(said, truths, which).reshape(-1, len(values)).mean(axis=0)
    print(f"{name:<7}{share:>4.0%} to the large expert; right per turn {per_turn[-1]:.3f}, state {per_state[-1]:.3f}")

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_ylim(0, 1.02)
place = np.arange(len(systems))
left.bar(place - 0.19, per_turn, 0.36, color="#9a9a9a", label="turns by themselves")
left.bar(place + 0.19, per_state, 0.36, color="#0b6e99", label="states, with errors that stay")
left.set_xticks(place, ["always small", "always large", "routed", "oracle"])
left.set_ylabel("joint goal accuracy")
left.set_ylim(0, 1.2)
left.set_yticks(np.linspace(0, 1, 6))
left.legend(loc="upper left", ncols=1, frameon=False)
for (name, hits), colour in zip(by_turn.items(), ("#c9a227", "#5a9e6f", "#0b6e99", "#b3541e"), strict=True):
    right.plot(np.arange(1, len(values) + 1), hits, "o-", color=colour, label=name)
right.set_xticks(range(1, len(values) + 1))
right.set_xlabel("turn of the dialogue")
right.set_ylabel("dialogues whose state is right so far")
right.legend(loc="lower left")
plt.show()

# %%
# Replayed answers do not know what an expert would have said in another state; to see that, give `DialogueRouter` the
# experts themselves.  Where every turn matters by itself, such as single questions, route without a state.
